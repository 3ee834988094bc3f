"""Which message is due when: the order of the queue, in memory. Pure; times are those of a clock nobody can set."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from mailrelayd.outbound.values import Progress

HELD = float("inf")
LONGEST_WAIT = 86400.0  # seconds; a wall clock that was set back must not park mail for longer
FOREVER = 366 * 86400.0
SLACK = 1000  # entries that do not count any more and may stay until their turn comes
BACKWARDS = 60.0  # seconds; what was planned further ahead than this was planned by a clock that was wrong


def when_due(progress: Progress, now: float, mono: float) -> float:
    """When a message is due by its progress; 0: now.

    A refusal from the future: the clock was ahead and has been set back. The next attempt, planned by the same
    clock, would be as far away, so it is made now and plans anew.
    """
    tried = [r for r in progress.recipients.values() if r.next_attempt]
    waits = [0.0 if r.at > now + BACKWARDS else r.next_attempt - now for r in tried]
    wait = min(*waits, LONGEST_WAIT) if waits else 0.0
    wait = max(wait, min(progress.not_before - now, FOREVER))
    return mono + wait if wait > 0 else 0.0


class Waiting:
    """Every message that waits: due (0.0), due later, or on hold (HELD). What is in flight is not here."""

    def __init__(self) -> None:
        self._due: dict[str, float] = {}
        self._ready: list[str] = []  # heap; an entry counts while _due says 0
        self._later: list[tuple[float, str]] = []  # heap; an entry counts while _due agrees
        self._wishes: set[str] = set()  # waiting because their producer asked for it, not because they were refused

    def __contains__(self, queue_id: str) -> bool:
        return queue_id in self._due

    def learn(self, due: dict[str, float], wishes: Iterable[str]) -> None:
        """Everything at once, at the start."""
        self._due = due
        self._wishes = set(wishes)
        self._order()

    def _order(self) -> None:
        """Make the heaps of what counts."""
        self._ready = sorted(queue_id for queue_id, when in self._due.items() if when == 0.0)
        self._later = [(when, queue_id) for queue_id, when in self._due.items() if 0.0 < when < HELD]
        heapq.heapify(self._later)

    def put(self, queue_id: str, due: float, *, wish: bool = False) -> None:
        """Make a message wait until `due`. `wish`: its producer wants it so; it holds up nobody else."""
        self._due[queue_id] = due
        if wish:
            self._wishes.add(queue_id)
        if due == 0.0:
            heapq.heappush(self._ready, queue_id)
        elif due < HELD:
            heapq.heappush(self._later, (due, queue_id))
        # Whoever changes what waits, time after time, leaves an entry behind each time.
        if len(self._ready) + len(self._later) > 2 * len(self._due) + SLACK:
            self._order()

    def pop(self, queue_id: str) -> float:
        """Take a message out; when it was due. It may be put back."""
        return self._due.pop(queue_id)

    def claim(self) -> str:
        """Take out the first of those that are due; `first` says which."""
        queue_id = heapq.heappop(self._ready)
        del self._due[queue_id]
        return queue_id

    def forget(self, queue_id: str) -> None:
        """A message that was taken out will not come back."""
        self._wishes.discard(queue_id)

    def first(self, mono: float) -> str:
        """The lowest id of what is due; "": nothing is."""
        self._promote(mono)
        return self._ready[0] if self._ready else ""

    def _promote(self, mono: float) -> None:
        """Make ready whose time has come, and drop entries that no longer count."""
        while self._later and (self._later[0][0] <= mono or self._due.get(self._later[0][1]) != self._later[0][0]):
            due, queue_id = heapq.heappop(self._later)
            if self._due.get(queue_id) == due:
                self.put(queue_id, 0.0)
        while self._ready and self._due.get(self._ready[0]) != 0.0:
            heapq.heappop(self._ready)

    def are_due(self, at_least: int, mono: float) -> bool:
        """Whether so many are due."""
        self._promote(mono)
        # Now the first of the heap counts; behind it may be some that no longer do.
        if at_least == 1 or len(self._ready) < at_least:
            return len(self._ready) >= at_least
        return sum(1 for due in self._due.values() if due == 0.0) >= at_least

    def deferred_before(self, queue_id: str) -> bool:
        """Whether an older message was refused and waits for its next try."""
        return any(one < queue_id and one not in self._wishes for due, one in self._later if self._due.get(one) == due)

    def next_time(self) -> float | None:
        """When to look again."""
        return self._later[0][0] if self._later else None

    def is_due(self, queue_id: str, mono: float) -> bool:
        """Whether this one waits, and its time has come."""
        return self._due.get(queue_id, HELD) <= mono

    def counted(self, mono: float, others: Iterable[float] = ()) -> tuple[int, int, int]:
        """How many are due, deferred, on hold; `others` count as if they waited here."""
        whens = [*self._due.values(), *others]
        due = sum(1 for when in whens if when <= mono)
        held = sum(1 for when in whens if when == HELD)
        return due, len(whens) - due - held, held

    def oldest(self) -> str:
        """The lowest id; "": there is none."""
        return min(self._due, default="")
