"""Each campaign sees the bug it is there for: the daemon itself, with one of `tests/faults/seeded.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.runs import run, seeded
from tests.faults.script import Rule


@pytest.mark.timeout(120)
async def test_removing_before_sending_is_seen_as_a_loss(tmp_path: Path) -> None:
    """Row 1: a connection that breaks at the dot takes the message with it."""
    rules = [Rule("dot", "close", times=3)]
    verdict = await run(tmp_path, command=seeded("remove-first"), messages=20, rules=rules, deadline=3)
    assert verdict.lost > 0, verdict


@pytest.mark.timeout(120)
async def test_recording_late_is_seen_as_a_repeat(tmp_path: Path) -> None:
    """Row 1: whoever reads a 250, goes on and is killed sends again what nobody had written down."""
    size = {"messages": 60, "kills": 4, "pace": 0.15}
    verdict = await run(tmp_path, command=seeded("late-record"), between=(1.5, 2.0), deadline=20, **size)
    assert verdict.dup_calm + max(0, verdict.dup_window - verdict.window_allowed) > 0, verdict
    assert not verdict.ok


@pytest.mark.timeout(120)
async def test_working_without_a_lock_is_seen_as_a_repeat(tmp_path: Path) -> None:
    """Row 6: two daemons send the same message, and nobody was killed."""
    verdict = await run(tmp_path, command=seeded("no-lock"), daemons=2, messages=60, pace=0.02, deadline=5)
    assert verdict.dup_calm > 0, verdict


@pytest.mark.timeout(120)
async def test_reading_what_is_still_written_is_seen_as_damage(tmp_path: Path) -> None:
    """Row 1: the half of a message that stands in the folder when the daemon starts is sent as a whole."""
    size = {"messages": 15, "kills": 6, "pace": 0.0, "pause": 0.2, "size": 4000}
    verdict = await run(tmp_path, command=seeded("in-place"), way="slow", between=(0.6, 1.0), deadline=5, **size)
    assert verdict.corrupt + verdict.foreign + verdict.lost > 0, verdict
