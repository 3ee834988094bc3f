"""Each campaign sees the bug it is there for: the daemon itself, with one of `tests/faults/seeded.py`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.faults.driver import World
from tests.faults.runs import run, seeded
from tests.faults.script import Rule
from tests.faults.server import Terms


@pytest.mark.timeout(120)
async def test_removing_before_sending_is_seen_as_a_loss(tmp_path: Path) -> None:
    """Row 1: a connection that breaks at the dot takes the message with it."""
    rules = [Rule("dot", "close", times=3)]
    verdict = await run(tmp_path, command=seeded("remove-first"), messages=20, rules=rules, deadline=3)
    assert verdict.lost > 0, verdict


@pytest.mark.timeout(120)
@pytest.mark.parametrize("bug", ["late-record", "told-early"])
async def test_recording_late_is_seen_as_a_repeat(tmp_path: Path, bug: str) -> None:
    """Row 1: whoever reads a 250, goes on and is killed a second later sends again what nobody had written down."""

    async def kill(world: World) -> None:
        (daemon,) = world.daemons
        for _ in range(3):
            before = world.recorder.accepted
            while world.recorder.accepted == before:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await asyncio.sleep(1.0)
            await daemon.kill()
            await daemon.start()

    verdict = await run(tmp_path, command=seeded(bug), nemesis=kill, messages=60, pace=0.15, deadline=20)
    assert verdict.dup_calm > 0, verdict


@pytest.mark.timeout(120)
async def test_working_without_a_lock_is_seen_as_a_repeat(tmp_path: Path) -> None:
    """Row 6: two daemons that find the same mail in the queue both send it, and nobody was killed."""

    async def fill_the_queue(world: World) -> None:
        await world.recorder.pause()
        await world.dropping
        for daemon in world.daemons:
            before = daemon.times_ready()
            await daemon.stop()
            await daemon.start()
            await daemon.ready(before + 1)
        await world.recorder.resume()
        while world.recorder.open_connections < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        terms.delay = 0.02

    terms = Terms(delay=0.5)
    verdict = await run(
        tmp_path,
        command=seeded("no-lock"),
        daemons=2,
        messages=30,
        pace=0.02,
        nemesis=fill_the_queue,
        terms=terms,
        deadline=5,
    )
    assert verdict.dup_calm > 0, verdict


@pytest.mark.timeout(120)
async def test_reading_what_is_still_written_is_seen_as_damage(tmp_path: Path) -> None:
    """Row 1: the half of a message that stands in the folder when the daemon starts is sent as a whole."""
    size = {"messages": 15, "kills": 6, "pace": 0.0, "pause": 0.2, "size": 4000}
    verdict = await run(tmp_path, command=seeded("in-place"), way="slow", between=(0.6, 1.0), deadline=5, **size)
    assert verdict.corrupt + verdict.foreign + verdict.lost > 0, verdict
