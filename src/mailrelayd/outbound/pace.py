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
        # The newest `count` at most: the others can hold up nobody.
        self._taken: deque[float] = deque(maxlen=rate.count if rate else 0)

    @property
    def rate(self) -> Rate | None:
        """The rate in force."""
        return self._rate

    @rate.setter
    def rate(self, rate: Rate | None) -> None:
        self._rate = rate
        self._taken = deque(self._taken, maxlen=rate.count if rate else 0)

    def wait(self, now: float) -> float:
        """Seconds until the next one may pass; 0.0: it may now."""
        rate, taken = self._rate, self._taken
        if rate is None or len(taken) < rate.count:
            return 0.0
        return max(taken[0] + rate.seconds - now, 0.0)

    def take(self, now: float) -> None:
        """One has passed."""
        self._taken.append(now)

    def idle(self, now: float) -> bool:
        """Whether nothing that was let through matters any more."""
        rate, taken = self._rate, self._taken
        return rate is None or not taken or taken[-1] + rate.seconds <= now


class Paces:
    """The same rate for each of many, who do not hold up each other. Those that are idle are forgotten.

    The folders' thread and the socket's loop share one: each step holds whatever the other does in between.
    """

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
        for pace in list(self._each.values()):
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
            for other, pace in list(self._each.items()):
                if pace.idle(now):
                    self._each.pop(other, None)
        self._each.setdefault(who, Pace(self._rate)).take(now)
