"""The only module that tells time. Tests pass a clock of their own, so nothing of them waits."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Wall time for records, boot time for intervals, and the one way to wait."""

    def now(self) -> float:
        """Seconds since the epoch: for what is written down or compared with what was."""

    def monotonic(self) -> float:
        """Seconds that pass even while the machine sleeps and that nobody can set (CLOCK_BOOTTIME)."""

    async def wait(self, stop: asyncio.Event, seconds: float) -> bool:
        """Wait until `stop` is set (True) or the time has passed (False)."""


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    async def wait(self, stop: asyncio.Event, seconds: float) -> bool:
        if stop.is_set():
            return True
        try:
            async with asyncio.timeout(max(seconds, 0.0)):
                await stop.wait()
        except TimeoutError:
            return False
        return True
