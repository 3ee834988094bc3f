"""The pickup's hands: listen, look, put in order, take. All of it in one thread, as all of it waits for the disk.

The loop asks for one thing after the other, and hears of each file as soon as it is taken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TypeAlias

from mailrelayd import durable
from mailrelayd.outbound.inlets import Inlet, Survey
from mailrelayd.outbound.leftovers import LOOK, Leftovers, leftovers
from mailrelayd.outbound.oldest import Entry, oldest_first
from mailrelayd.outbound.taking import Failed, Result, Taker, Trouble
from mailrelayd.outbound.watch import News, Watch

PIECE = 50  # files taken in one go, before anybody asks whether to stop
LASTING = 600.0  # seconds that a sidecar must be too old for: after a jump of the wall clock its message may yet come

Key: TypeAlias = tuple[int, str]  # an inlet's descriptor and a name in it


@dataclass(frozen=True, slots=True)
class Found:
    """What a look at everything met."""

    entries: Iterator[Entry]  # what may be a message, in order
    surveys: dict[int, Survey]  # by inlet, and so is `unfinished`
    unfinished: dict[int, Leftovers]
    aside: dict[Key, Failed | Trouble]  # sidecars that lost their message
    there: set[Key]  # of the files that something was remembered of, those that still stand there


@dataclass(frozen=True, slots=True)
class Piece:
    """What became of some files is told one by one; this is how it goes on."""

    free: int  # bytes on the file system, before
    more: bool  # whether there may be more to take now


@dataclass(frozen=True, slots=True)
class Heard:
    """Why the listening has ended: a poke, something that only a sweep finds, or more files than one piece."""

    news: News
    entries: Iterator[Entry]  # what is left of these files
    piece: Piece | None  # the first of them, taken


class Gatherer:
    """Works in the folders, one call at a time."""

    def __init__(
        self,
        inlets: Mapping[int, Inlet],
        taker: Taker,
        min_free: int,
        directory: Path,
        results: deque[tuple[Key, Result]],
        wake: Callable[[], None],
    ) -> None:
        """`directory`: where very many names are sorted. `results`: what became of each file; `wake`: it has grown."""
        self._inlets = inlets
        self._taker = taker
        self._min_free = min_free
        self._directory = directory
        self._results = results
        self._wake = wake
        self._orphans: dict[Key, float] = {}  # sidecars without message, and since when, on clock.monotonic()
        self._unfinished: dict[int, Leftovers] = {}
        self._unfinished_at = 0.0  # when they are looked for again, on clock.monotonic()

    def listen(self, watch: Watch) -> Heard:
        """Take what events tell of, until something needs the loop. Raises OSError."""
        while True:
            news = watch.wait()
            hints: dict[Key, bool] = {}
            for fd, name, renamed in news.names:
                if self._inlets[fd].is_candidate(name):
                    hints[fd, name] = renamed or hints.get((fd, name), False)
            entries = self.in_order(hints)
            piece = self.take(entries) if hints else None
            ended = piece is not None and (piece.more or piece.free < self._min_free)
            if ended or news.poked or news.lost or len(self._results) > PIECE:
                return Heard(news, entries, piece)

    def in_order(self, hints: Mapping[Key, bool]) -> Iterator[Entry]:
        """These names, and whether they came by rename. They are looked at once the first is asked for."""
        if len(hints) > 1:
            yield from sorted(self._entries(hints.items()))
        else:  # one alone is in order without a question
            yield from ((0, name, fd, renamed) for (fd, name), renamed in hints.items())

    def scan(self, remembered: Collection[Key], now: float, mono: float) -> Found:
        """Look at everything. All that may be a message is sorted when this returns. Raises OSError."""
        surveys = {fd: Survey(inlet, now) for fd, inlet in self._inlets.items()}
        there = set[Key]()

        def names() -> Iterator[tuple[Key, bool]]:
            for fd, survey in surveys.items():
                for name in survey:
                    if (fd, name) in remembered:
                        there.add((fd, name))
                    yield (fd, name), False

        if self._free() < self._min_free:  # nor is anything written to sort what is not taken
            deque(names(), maxlen=0)
            entries: Iterator[Entry] = iter(())
        else:
            entries = oldest_first(self._entries(names()), self._directory)
        first = list(islice(entries, 1))
        orphans = [(fd, name) for fd, survey in surveys.items() for name in survey.orphans]
        self._orphans = {key: self._orphans.get(key, mono) for key in orphans}
        lasting = [(fd, name) for (fd, name), since in self._orphans.items() if mono - since >= LASTING]
        aside = {(fd, name): self._taker.put_aside(self._inlets[fd], name) for fd, name in lasting}
        if mono >= self._unfinished_at:
            self._unfinished_at = mono + LOOK
            tops = {fd: inlet for fd, inlet in self._inlets.items() if not inlet.maildir}
            self._unfinished = {fd: left for fd, inlet in tops.items() if (left := leftovers(inlet, now))}
        return Found(chain(first, entries), surveys, self._unfinished, aside, there)

    def _entries(self, names: Iterable[tuple[Key, bool]]) -> Iterator[Entry]:
        for (fd, name), renamed in names:
            figures = self._inlets[fd].folder.stat(name)
            if figures is not None:
                yield figures.st_mtime_ns, name, fd, renamed

    def _free(self) -> int:
        return durable.free_space(next(iter(self._inlets.values())).folder)

    def take(self, entries: Iterator[Entry]) -> Piece:
        """Take the next of these, as long as [spool] min_free is there. Raises OSError."""
        free = self._free()
        if free < self._min_free:
            return Piece(free, more=False)  # all of it stays, for the next sweep
        count = 0
        try:
            for _, name, fd, renamed in islice(entries, PIECE):
                count += 1
                result = self._taker.take(self._inlets[fd], name, renamed=renamed)
                if result is not None:
                    self._results.append(((fd, name), result))
                if count.bit_count() == 1:  # at once, then for ever more at a time: a waking costs as much as a file
                    self._wake()
        finally:
            if count.bit_count() > 1:
                self._wake()
        return Piece(free, more=count == PIECE)
