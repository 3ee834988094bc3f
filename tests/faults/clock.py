"""The wall clock of the daemon jumps: a file says by how much (`loops.py`). The clock that nobody can set goes on."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

from tests.faults.driver import World, waiting
from tests.faults.script import Rule

DAY = 86400
EXPIRE = 3600  # seconds, [retry] expire: what a day's jump exceeds
_PATIENCE = 20.0  # seconds for the tries at one time
DELAY = 1.0  # seconds between two tries of one message
CONFIG = f'[retry]\nexpire = "{EXPIRE}s"\nmessage = ["{DELAY:.0f}s"]\n'


def environment(directory: Path) -> dict[str, str]:
    """For a daemon whose clock `turn` sets."""
    turn(directory, 0)
    return {"MAILRELAYD_TEST_CLOCK": str(directory / "clock")}


def turn(directory: Path, seconds: int) -> None:
    """The wall clock is so far ahead of the right time (or behind it) from now on."""
    temporary = directory / "clock.new"
    temporary.write_text(str(seconds))
    temporary.rename(directory / "clock")


async def jumps(world: World, *, tries: int, restart: bool) -> None:
    """A day forward, back, a day backward, back: each lasts until so many tries were refused, as every one is."""
    (daemon,) = world.daemons
    refusing = Rule("rcpt", "450", to="ok")
    world.recorder.script.rules[:] = [refusing]
    for seconds in (0, DAY, 0, -DAY, 0):
        turn(world.directory, seconds)
        if restart:
            await daemon.stop()
            await daemon.start()
        wanted, deadline = refusing.fired + tries, time.monotonic() + _PATIENCE
        while refusing.fired < wanted and time.monotonic() < deadline:
            if world.dropping.done() and not waiting(world.spool):  # given up: nobody will be refused any more
                return
            await asyncio.sleep(0.02)
    world.recorder.script.rules.clear()


def most_tries(directory: Path, seconds: float) -> int:
    """The most often that RCPT was refused within so many seconds: a storm would show here."""
    with (directory / "journal.jsonl").open(encoding="ascii") as file:
        times = sorted(
            record["at"]
            for line in file
            if (record := json.loads(line))["event"] == "fault" and record["stage"] == "rcpt"
        )
    most = first = 0
    for last, at in enumerate(times):
        while at - times[first] > seconds:
            first += 1
        most = max(most, last - first + 1)
    return most
