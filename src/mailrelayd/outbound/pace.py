"""At most so many in any stretch of so many seconds: for [guard] rate and producer_rate. Pure.

A sliding window, not a bucket: "30/min" never lets 31 through within any 60 seconds, wherever the minute is begun.
Times are seconds on a clock that nobody can set.
"""

from __future__ import annotations

from collections import deque

from mailrelayd.config.units import Rate


class Pace:
    """What one rate has let through. `rate` may be changed at any time; None lets everything through."""

    def __init__(self, rate: Rate | None) -> None:
        self._rate = rate
        self._taken: deque[float] = deque()  # the newest `count` at most: the others can hold up nobody

    @property
    def rate(self) -> Rate | None:
        """The rate in force."""
        return self._rate

    @rate.setter
    def rate(self, rate: Rate | None) -> None:
        self._rate = rate
        self._shorten()

    def wait(self, now: float) -> float:
        """Seconds until the next one may pass; 0.0: it may now."""
        if self._rate is None or len(self._taken) < self._rate.count:
            return 0.0
        return max(self._taken[0] + self._rate.seconds - now, 0.0)

    def take(self, now: float) -> None:
        """One has passed."""
        if self._rate is not None:
            self._taken.append(now)
            self._shorten()

    def idle(self, now: float) -> bool:
        """Whether nothing that was let through matters any more."""
        return self._rate is None or not self._taken or self._taken[-1] + self._rate.seconds <= now

    def _shorten(self) -> None:
        count = self._rate.count if self._rate else 0
        while len(self._taken) > count:
            self._taken.popleft()


class Paces:
    """The same rate for each of many, who do not hold up each other. Those that are idle are forgotten."""

    def __init__(self, rate: Rate | None) -> None:
        self._rate = rate
        self._each: dict[int, Pace] = {}

    @property
    def rate(self) -> Rate | None:
        """The rate in force for everybody."""
        return self._rate

    @rate.setter
    def rate(self, rate: Rate | None) -> None:
        self._rate = rate
        for pace in self._each.values():
            pace.rate = rate

    def wait(self, who: int, now: float) -> float:
        """Seconds until the next one of `who` may pass; 0.0: it may now."""
        pace = self._each.get(who)
        return pace.wait(now) if pace else 0.0

    def take(self, who: int, now: float) -> None:
        """One of `who` has passed."""
        if self._rate is None:
            return
        if who not in self._each:
            for other in [other for other, pace in self._each.items() if pace.idle(now)]:
                del self._each[other]
            self._each[who] = Pace(self._rate)
        self._each[who].take(now)
