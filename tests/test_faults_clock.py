"""The campaign of wrong clocks: a day forward and back, while the smarthost puts everybody off."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.faults import clock
from tests.faults.runs import FULL, Record, clean, run, seeded, tell
from tests.faults.stopping import LOOPS
from tests.faults.verdict import Verdict

MESSAGES = 20
TRIES = MESSAGES * (6 if FULL else 2)  # at each time


async def jump(directory: Path, *, restart: bool, **options: Any) -> Verdict:
    return await run(
        directory,
        messages=MESSAGES,
        pace=0.02,
        nemesis=partial(clock.jumps, tries=TRIES, restart=restart),
        environment=clock.environment(directory),
        over=clock.CONFIG,
        **{"command": LOOPS, **options},
    )


@pytest.mark.timeout(300)
@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
async def test_a_wrong_clock_expires_parks_and_storms_nothing(
    tmp_path: Path, restart: bool, record_property: Record
) -> None:
    """What expires after an hour survives a day's jump, nobody is tried more often than planned, and all is sent."""
    verdict = clean(await jump(tmp_path, restart=restart))
    tell(record_property, verdict, jumps=4)
    assert verdict.sent == MESSAGES, verdict
    # Once per delay, and once more for the restart or the jump within the time looked at.
    assert clock.most_tries(tmp_path, clock.DELAY * 0.9) <= 2 * MESSAGES
    assert verdict.faults >= 5 * TRIES


@pytest.mark.timeout(300)
async def test_a_daemon_that_believes_every_clock_is_seen(tmp_path: Path) -> None:
    """The same with the bug `believes-the-clock` gives mail up."""
    verdict = await jump(tmp_path, restart=False, command=seeded("believes-the-clock"), deadline=10)
    assert verdict.failed > 0, verdict
