"""A clock that only moves when it is told to: what takes hours in life takes no time in a test."""

from __future__ import annotations

import asyncio
from typing import Any

START = 1_800_000_000.0  # seconds since the epoch


class ManualClock:
    """`mailrelayd.clock.Clock` by hand. `wall` may be set back; `boot` only ever goes on."""

    def __init__(self, wall: float = START) -> None:
        self.wall = wall
        self.boot = 1000.0
        self.pauses: list[float] = []  # what was asked for in `wait`, in order
        self._waiting: dict[asyncio.Future[None], float] = {}

    def now(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.boot

    @property
    def waiting(self) -> int:
        """How many are in `wait` right now."""
        return len(self._waiting)

    def advance(self, seconds: float) -> int:
        """Let time pass, for both clocks, and wake whoever has waited long enough; how many they are."""
        self.wall += seconds
        self.boot += seconds
        over = [future for future, until in self._waiting.items() if until <= self.boot and not future.done()]
        for future in over:
            future.set_result(None)
        return len(over)

    async def wait(self, stop: asyncio.Event, seconds: float) -> bool:
        """Until `stop` is set (True) or somebody let the time pass (False)."""
        self.pauses.append(seconds)
        if stop.is_set():
            return True
        if seconds <= 0:
            await asyncio.sleep(0)
            return stop.is_set()
        passed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[passed] = self.boot + seconds
        stopped = asyncio.ensure_future(stop.wait())
        try:
            either: list[asyncio.Future[Any]] = [passed, stopped]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return stop.is_set()
        finally:
            del self._waiting[passed]
            stopped.cancel()
            await asyncio.wait([stopped])
