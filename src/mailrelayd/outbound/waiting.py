"""Which message is due when: the order of the queue, in memory. Pure; times are those of a clock nobody can set."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Iterable, Iterator, Mapping

from mailrelayd.outbound.idset import NODE, Ids, holds, of
from mailrelayd.outbound.queueid import microseconds
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


class _Line:
    """Messages of one node that are due since they came, in the order of their ids: eight bytes each."""

    __slots__ = ("_first", "_gone", "_numbers")

    def __init__(self, numbers: array[int]) -> None:
        self._numbers = numbers  # microseconds, sorted
        self._first = 0  # those before it are no longer here
        self._gone: set[int] = set()  # nor are these

    def __len__(self) -> int:
        return len(self._numbers) - self._first - len(self._gone)

    def __contains__(self, number: int) -> bool:
        return holds(self._numbers, number, self._first) and number not in self._gone

    def first(self) -> int:
        """The lowest; -1: there is none."""
        while self._first < len(self._numbers):
            number = self._numbers[self._first]
            if number not in self._gone:
                return number
            self._gone.discard(number)
            self._first += 1
        return -1

    def append(self, number: int) -> bool:
        """Add one behind all others; False where it belongs before one of them."""
        if self._numbers and number <= self._numbers[-1]:
            return False
        if self._first > SLACK and 2 * self._first > len(self._numbers):
            del self._numbers[: self._first]
            self._first = 0
        self._numbers.append(number)
        return True

    def remove(self, number: int) -> bool:
        """Take one out; False where it is not here."""
        if number not in self:
            return False
        if number == self._numbers[self._first]:
            self._first += 1
            return True
        self._gone.add(number)
        if len(self._gone) > SLACK + len(self) // 8:  # an operator holds nearly all of them
            self._numbers = array("q", (n for n in self._numbers[self._first :] if n not in self._gone))
            self._first, self._gone = 0, set()
        return True


class Waiting:
    """Every message that waits: due (0.0), due later, or on hold (HELD). What is in flight is not here.

    Nearly all that wait are due since they came, in lines. The others take some two hundred bytes each.
    """

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}  # by the part of the id that names the node
        self._due: dict[str, float] = {}  # all others
        self._ready: list[str] = []  # heap; an entry counts while _due says 0
        self._later: list[tuple[float, str]] = []  # heap; an entry counts while _due agrees
        self._oldest: list[str] = []  # heap; an entry counts while it is in _due
        self._ready_now = self._held = 0  # of those in _due
        self._wishes: set[str] = set()  # waiting because their producer asked for it, not because they were refused

    def __contains__(self, queue_id: str) -> bool:
        line = self._lines.get(queue_id[-NODE:])
        return queue_id in self._due or (line is not None and microseconds(queue_id) in line)

    def learn(self, ready: Ids, due: Mapping[str, float], wishes: Iterable[str]) -> None:
        """Everything at once, at the start: `ready` is due."""
        self._lines = {node: _Line(numbers) for node, numbers in ready.by_node.items()}
        for queue_id, when in due.items():
            self._set(queue_id, when)
        self._wishes = set(wishes)
        self._order()

    def _order(self) -> None:
        """Make the heaps of what counts."""
        self._ready = sorted(queue_id for queue_id, when in self._due.items() if when == 0.0)
        self._later = [(when, queue_id) for queue_id, when in self._due.items() if 0.0 < when < HELD]
        self._oldest = sorted(self._due)
        heapq.heapify(self._later)

    def _set(self, queue_id: str, due: float) -> None:
        before = self._due.get(queue_id)
        self._due[queue_id] = due
        self._ready_now += (due == 0.0) - (before == 0.0)
        self._held += (due == HELD) - (before == HELD)

    def put(self, queue_id: str, due: float, *, wish: bool = False) -> None:
        """Make a message wait until `due`. `wish`: its producer wants it so; it holds up nobody else."""
        if due == 0.0 and queue_id not in self._due:
            line = self._lines.get(queue_id[-NODE:])
            if line is None:
                line = self._lines[queue_id[-NODE:]] = _Line(array("q"))
            if line.append(microseconds(queue_id)):
                return
        if queue_id not in self._due:
            heapq.heappush(self._oldest, queue_id)
        self._set(queue_id, due)
        if wish:
            self._wishes.add(queue_id)
        if due == 0.0:
            heapq.heappush(self._ready, queue_id)
        elif due < HELD:
            heapq.heappush(self._later, (due, queue_id))
        # Whoever changes what waits, time after time, leaves an entry behind each time.
        if len(self._ready) + len(self._later) + len(self._oldest) > 3 * len(self._due) + SLACK:
            self._order()

    def pop(self, queue_id: str) -> float:
        """Take a message out; when it was due. It may be put back."""
        line = self._lines.get(queue_id[-NODE:])
        if line is not None and line.remove(microseconds(queue_id)):
            return 0.0
        due = self._due.pop(queue_id)
        self._ready_now -= due == 0.0
        self._held -= due == HELD
        return due

    def claim(self, mono: float) -> str:
        """Take out the first of those that are due; "": nothing is."""
        queue_id = self.first(mono)
        if queue_id:
            self.pop(queue_id)
            if self._ready[:1] == [queue_id]:
                heapq.heappop(self._ready)
        return queue_id

    def forget(self, queue_id: str) -> None:
        """A message that was taken out will not come back."""
        self._wishes.discard(queue_id)

    def first(self, mono: float) -> str:
        """The lowest id of what is due; "": nothing is."""
        self._promote(mono)
        return self._first()

    def _first(self) -> str:
        while self._ready and self._due.get(self._ready[0]) != 0.0:
            heapq.heappop(self._ready)
        return min(filter(None, (*self._first_of_lines(), *self._ready[:1])), default="")

    def _first_of_lines(self) -> Iterator[str]:
        for node, line in self._lines.items():
            number = line.first()
            if number >= 0:
                yield of(number, node)

    def _promote(self, mono: float) -> None:
        """Make ready whose time has come, and drop entries that no longer count."""
        while self._later and (self._later[0][0] <= mono or self._due.get(self._later[0][1]) != self._later[0][0]):
            due, queue_id = heapq.heappop(self._later)
            if self._due.get(queue_id) == due:
                self.put(queue_id, 0.0)

    def are_due(self, at_least: int, mono: float) -> bool:
        """Whether so many are due."""
        self._promote(mono)
        return self._count_due() >= at_least

    def _count_due(self) -> int:
        return self._ready_now + sum(map(len, self._lines.values()))

    def deferred_before(self, queue_id: str) -> bool:
        """Whether an older message was refused and waits for its next try."""
        return any(one < queue_id and one not in self._wishes for due, one in self._later if self._due.get(one) == due)

    def next_time(self) -> float | None:
        """When to look again."""
        return self._later[0][0] if self._later else None

    def is_due(self, queue_id: str, mono: float) -> bool:
        """Whether this one waits, and its time has come."""
        due = self._due.get(queue_id)
        return due <= mono if due is not None else queue_id in self

    def counted(self, mono: float, others: Iterable[float] = ()) -> tuple[int, int, int]:
        """How many are due, deferred, on hold; `others` count as if they waited here."""
        self._promote(mono)
        due, held = self._count_due(), self._held
        deferred = len(self._due) - self._ready_now - held
        for when in others:
            if when <= mono:
                due += 1
            elif when == HELD:
                held += 1
            else:
                deferred += 1
        return due, deferred, held

    def oldest(self) -> str:
        """The lowest id; "": there is none."""
        while self._oldest and self._oldest[0] not in self._due:
            heapq.heappop(self._oldest)
        return min((*self._first_of_lines(), *self._oldest[:1]), default="")
