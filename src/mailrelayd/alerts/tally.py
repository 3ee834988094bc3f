"""What happened that needs a person, counted until it is told. Pure: times are handed in.

Two kinds: *incidents* (a message failed) count at once; *outages* (the route is down) count once they have lasted, and
once more when they are over, because half a minute without a server is everyday life.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

GATHERING: Final = 60.0  # seconds from the first incident to the digest: a burst is one mail
EVERY: Final = 3600.0  # seconds between two digests
LASTING: Final = 600.0  # seconds after which an outage is worth a mail
EXAMPLES: Final = 5  # lines shown of each kind
KINDS: Final = 50
OVER: Final = 50  # outages that have ended; where nobody is told of them, the latest
LONGEST: Final = 2000  # characters of a line

ENDS: Final = {
    "route.up": "route.down",
    "mailbox.up": "mailbox.down",
    "spool.room": "spool.full",
    "syslog.up": "syslog.down",
}
OUTAGES: Final = frozenset(ENDS.values())
GRAVE: Final = frozenset({"warning", "error"})


@dataclass(slots=True)
class Kind:
    """Incidents under one event name. `first` and `last` in seconds since the epoch."""

    event: str
    first: float
    last: float = 0.0
    count: int = 0
    lines: list[str] = field(default_factory=list)  # examples, one line each
    messages: list[str] = field(default_factory=list)  # queue ids they are about, beside `lines`


@dataclass(slots=True)
class Outage:
    """Something that is, or was, not there. `ended` is 0 as long as it lasts."""

    event: str
    name: str  # the account's, or ""
    line: str
    since: float
    began: float  # of the clock that nobody sets
    told: bool = False
    ended: float = 0.0


@dataclass(frozen=True, slots=True)
class Digest:
    """What is to be told."""

    kinds: tuple[Kind, ...]
    outages: tuple[Outage, ...]

    def __bool__(self) -> bool:
        return bool(self.kinds or self.outages)


class Tally:
    """Everything since the last digest."""

    def __init__(self) -> None:
        self._kinds: dict[str, Kind] = {}
        self._outages: dict[tuple[str, str], Outage] = {}
        self._over: list[Outage] = []
        self._since = 0.0  # of the first incident that has not been told
        self._told_at: float | None = None

    def note(
        self, severity: str, event: str, pairs: Mapping[str, object], line: str, *, now: float, ticks: float
    ) -> None:
        """An event was logged. `now`: wall clock; `ticks`: seconds of a clock that nobody sets."""
        name = str(pairs.get("account") or pairs.get("path") or "")
        line = line[:LONGEST]
        if event in ENDS:
            self._end((ENDS[event], name), now, ticks)
        elif severity in GRAVE and event in OUTAGES:
            known = self._outages.setdefault((event, name), Outage(event, name, line, now, ticks))
            known.line = line
        elif severity in GRAVE:
            self._count(event, str(pairs.get("queue_id") or ""), line, now, ticks)

    def _count(self, event: str, queue_id: str, line: str, now: float, ticks: float) -> None:
        if not self._kinds:
            self._since = ticks
        if event not in self._kinds and len(self._kinds) >= KINDS:
            return
        kind = self._kinds.setdefault(event, Kind(event, now))
        kind.count, kind.last = kind.count + 1, now
        if len(kind.lines) < EXAMPLES:
            kind.lines.append(line)
            kind.messages.append(queue_id)

    def _end(self, key: tuple[str, str], now: float, ticks: float) -> None:
        outage = self._outages.pop(key, None)
        if outage is not None and (outage.told or ticks - outage.began >= LASTING):
            outage.ended = now
            self._over = [*self._over[1 - OVER :], outage]

    def keep(self, names: Collection[str]) -> None:
        """Forget the outages of accounts that are no longer configured: nobody will say that they are over."""
        self._outages = {key: one for key, one in self._outages.items() if not one.name or one.name in names}

    @property
    def down(self) -> tuple[Outage, ...]:
        """What is not there right now, from its first second on."""
        return tuple(self._outages.values())

    def due(self, ticks: float) -> bool:
        """Whether there is something to tell, and it is time."""
        if self._told_at is not None and ticks - self._told_at < EVERY:
            return False
        gathered = bool(self._kinds) and ticks - self._since >= GATHERING
        return gathered or bool(self._over) or any(self._lasts(outage, ticks) for outage in self.down)

    def _lasts(self, outage: Outage, ticks: float) -> bool:
        return not outage.told and ticks - outage.began >= LASTING

    def take(self, ticks: float) -> Digest:
        """All that is to be told; what is taken is not told again, but that an outage is over."""
        lasting = [outage for outage in self.down if self._lasts(outage, ticks)]
        for outage in lasting:
            outage.told = True
        digest = Digest(tuple(self._kinds.values()), (*self._over, *lasting))
        self._kinds, self._over = {}, []
        return digest

    def told(self, ticks: float) -> None:
        """A digest went out."""
        self._told_at = ticks
