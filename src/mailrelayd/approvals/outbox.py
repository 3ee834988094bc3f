"""Documents on their way to a sink, on disk until it has taken them: STATE/outbox/SINK/ID.json.

One loop per sink, so that none holds up another. What a sink can never take is parked in STATE/outbox/SINK/parked/:
on disk, listed, said as an error; `mailrelayd decisions replay` offers it again.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import os
import random
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mailrelayd import durable
from mailrelayd.approvals.archive import LARGEST_DOCUMENT
from mailrelayd.approvals.sinks import Again, Hopeless, Sink, Taken
from mailrelayd.clock import Clock
from mailrelayd.operate import approval_events as events
from mailrelayd.operate.events import daemon_bug

# Seconds before each further try, as Standard Webhooks proposes; after the last one the document is parked.
SCHEDULE = (0.0, 5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
JITTER = 0.1  # part of a wait, so that not all come back at once
PATIENCE = 30.0  # seconds between two signs of life
SLOWEST = 120.0  # seconds that one offer may take
DROPPED = 50  # documents that were taken, and may be offered again after a power cut
LINGER = 2.0  # seconds without work after which the sink may rest


@dataclass(slots=True)
class _Waiting:
    about: str  # its request: what is told of one is told in order
    attempt: int = 0  # how many were made
    due: float = 0.0  # on clock.monotonic()


class Outbox:
    """The documents of one sink, and the loop that offers them.

    As many at once as the sink likes, but of the documents about one request never two: they arrive in the order in
    which they were written, as far as the sink takes them.
    """

    def __init__(self, state: Path, name: str, sink: Sink, clock: Clock, *, required: bool) -> None:
        """Learn what a restart left. Raises OSError."""
        self.name = name
        self.required = required
        directory = state / "outbox" / name
        durable.make_folder(state / "outbox", 0o700)
        for path in (directory, directory / "parked"):
            durable.make_folder(path, 0o700)
        self._folder = durable.Folder(directory)
        self._parked = durable.Folder(directory / "parked")
        self._folder.sweep()
        self._sink = sink
        self._clock = clock
        self._news = asyncio.Event()
        self.on_taken: Callable[[str], None] = lambda decision_id: None
        self._waiting = {one: _Waiting(_request_of(self._folder, one)) for one in _by_age(self._folder)}
        self._under_way: dict[str, _Waiting] = {}
        self._dropped = 0  # removals of which the folder's fsync has yet to come
        # Hints, looked up in `_waiting` before they are used: what is due, what will be (a heap, by time), and
        # request -> what waits for the offer about it that is under way.
        self._ready = deque(self._waiting)
        self._later: list[tuple[float, str]] = []
        self._behind: dict[str, deque[str]] = {}

    def close(self) -> None:
        """Give the descriptors back."""
        self._folder.close()
        self._parked.close()

    def waiting(self) -> list[str]:
        """The ids of documents that the sink has not taken."""
        return list(self._waiting)

    def parked(self) -> list[str]:
        """The ids of documents that it will not be offered any more. Reads the folder."""
        return sorted(_ids(self._parked))

    def settled(self, decision_id: str) -> bool:
        """Whether nothing is owed: taken, or parked."""
        return decision_id not in self._waiting

    def put(self, decision_id: str, document: bytes) -> None:
        """Owe the sink this document: on disk when it returns. Runs in a thread; then `offer`. Raises OSError."""
        self._folder.write(f"{decision_id}.json", document)
        now = int(self._clock.now() * 1e9)  # a restart goes by it; what the kernel stamps is some milliseconds rough
        with suppress(FileNotFoundError):  # taken just now, by an offer that was under way
            os.utime(f"{decision_id}.json", ns=(now, now), dir_fd=self._folder.fd, follow_symlinks=False)
        if self._parked.remove(f"{decision_id}.json", sync=False):
            self._parked.sync()

    def offer(self, decision_id: str, about: str = "") -> None:
        """Begin with a document that was put there; `about`: its request's id."""
        self._waiting[decision_id] = _Waiting(about)
        self._ready.append(decision_id)
        self._news.set()

    def wake(self) -> None:
        """Look again: a stop event was set."""
        self._news.set()

    async def run(self, stop: asyncio.Event, beat: Callable[[float], None]) -> None:
        """Offer what is due until `stop`. `beat` is told within how many seconds it will be called again."""
        rested = True
        try:
            async with asyncio.TaskGroup() as group:
                while not stop.is_set():
                    beat(SLOWEST)
                    self._news.clear()
                    until = self._due()
                    while len(self._under_way) < self._sink.at_once and (decision_id := self._next()):
                        group.create_task(self._serve(decision_id, self._waiting[decision_id]))
                    rested &= not self._under_way
                    lingers = not self._under_way and not rested and until >= LINGER
                    if not await self._clock.wait(self._news, LINGER if lingers else until) and lingers:
                        await self._sink.rest()
                        rested = True
        finally:
            await self._sink.rest()

    def _due(self) -> float:
        """Let what is due be ready; seconds until the next one will be, at most PATIENCE."""
        now = self._clock.monotonic()
        while self._later and self._later[0][0] <= now:
            due, decision_id = heapq.heappop(self._later)
            waiting = self._waiting.get(decision_id)
            if waiting is not None and waiting.due == due:
                self._ready.append(decision_id)
        return min(self._later[0][0] - now, PATIENCE) if self._later else PATIENCE

    def _next(self) -> str:
        """A document to be offered now; "" if there is none."""
        now = self._clock.monotonic()
        while self._ready:
            decision_id = self._ready.popleft()
            waiting = self._waiting.get(decision_id)
            if waiting is None or waiting.due > now or decision_id in self._under_way:
                continue
            if waiting.about in self._behind:
                self._behind[waiting.about].append(decision_id)
                continue
            self._under_way[decision_id] = waiting
            if waiting.about:
                self._behind[waiting.about] = deque()
            return decision_id
        return ""

    async def _serve(self, decision_id: str, waiting: _Waiting) -> None:
        """Offer one; what stood behind it is ready then."""
        try:
            await self._offer(decision_id, waiting)
        finally:
            del self._under_way[decision_id]
            self._ready.extendleft(reversed(self._behind.pop(waiting.about, ())))
            if self._waiting.get(decision_id) not in (None, waiting):  # put there anew meanwhile
                self._ready.append(decision_id)
            self._news.set()

    async def _offer(self, decision_id: str, waiting: _Waiting) -> None:
        name = f"{decision_id}.json"
        try:
            document = await asyncio.to_thread(self._folder.read, name, limit=LARGEST_DOCUMENT)
        except FileNotFoundError:  # removed by hand
            self._settle(decision_id)
            return
        except OSError as error:
            self._put_off(decision_id, waiting, Again(f"{name}: {error.strerror}", PATIENCE))
            return
        try:
            answer = await self._sink.offer(decision_id, document)
        except Exception as error:  # noqa: BLE001 - what a receiver answers must not stop all the others
            daemon_bug(where=f"sink {self.name}", error=error)
            answer = Again(f"unexpected {type(error).__name__}")
        waiting.attempt += 1
        if isinstance(answer, Again) and waiting.attempt >= len(SCHEDULE):
            answer = Hopeless(f"given up after {waiting.attempt} tries: {answer.reason}")
        try:
            match answer:
                case Taken():
                    await asyncio.to_thread(self._drop, name)
                    events.decision_delivered(decision_id=decision_id, sink=self.name, attempt=waiting.attempt)
                    self._settle(decision_id)
                case Hopeless(reason):
                    await asyncio.to_thread(self._folder.move, name, self._parked, name)
                    events.decision_parked(
                        decision_id=decision_id, sink=self.name, attempt=waiting.attempt, reason=reason
                    )
                    self._settle(decision_id)
                case Again():
                    self._put_off(decision_id, waiting, answer)
        except OSError as error:  # it may be offered once more, with the same id
            self._put_off(decision_id, waiting, Again(f"{name}: {error.strerror}", PATIENCE))

    def _drop(self, name: str) -> None:
        """Owe it no more. Runs in a thread; raises OSError.

        That is on disk with the last ones, or with that many: a power cut before may have some offered once more.
        """
        self._folder.remove(name, sync=False)
        self._dropped += 1
        if self._dropped >= DROPPED or len(self._waiting) <= len(self._under_way):
            self._dropped = 0
            self._folder.sync()

    def _put_off(self, decision_id: str, waiting: _Waiting, answer: Again) -> None:
        wait = SCHEDULE[min(waiting.attempt, len(SCHEDULE) - 1)]
        wait += random.uniform(0.0, JITTER * wait)  # noqa: S311 - spreads load, guards nothing
        wait = max(wait, answer.after or 0.0)
        waiting.due = self._clock.monotonic() + wait
        heapq.heappush(self._later, (waiting.due, decision_id))
        events.decision_waiting(
            decision_id=decision_id,
            sink=self.name,
            attempt=waiting.attempt,
            next_attempt=self._clock.now() + wait,
            reason=answer.reason,
        )

    def _settle(self, decision_id: str) -> None:
        self._waiting.pop(decision_id, None)
        self.on_taken(decision_id)


def park(state: Path, name: str, decision_id: str, document: bytes) -> None:
    """Keep a document for a sink that is not configured (any more): it would be told to nobody. Raises OSError.

    With a table of that name again, `decisions replay` offers it.
    """
    there = state / "outbox" / name / "parked"
    for path in (state / "outbox", there.parent, there):
        durable.make_folder(path, 0o700)
    folder = durable.Folder(there)
    try:
        if folder.stat(f"{decision_id}.json") is None:
            folder.write(f"{decision_id}.json", document)
            reason = "no [[decisions]] has this name any more"
            events.decision_parked(decision_id=decision_id, sink=name, attempt=0, reason=reason)
    finally:
        folder.close()


def _ids(folder: durable.Folder) -> list[str]:
    return [name.removesuffix(".json") for name in folder.names() if name.endswith(".json") and name[0] != "."]


def _by_age(folder: durable.Folder) -> list[str]:
    """The ids of the documents there, the oldest first."""
    ages = {one: figures.st_mtime_ns for one in _ids(folder) if (figures := folder.stat(f"{one}.json"))}
    return sorted(ages, key=lambda one: (ages[one], one))


def _request_of(folder: durable.Folder, decision_id: str) -> str:
    """The id of the request that a document is about; "" where that cannot be told."""
    try:
        return str(json.loads(folder.read(f"{decision_id}.json", limit=LARGEST_DOCUMENT)).get("subject", ""))
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""


def stored_waiting(state: Path) -> dict[str, list[str]]:
    """Decision id -> the sinks that have not taken it, without changing anything. Raises OSError."""
    waiting: dict[str, list[str]] = {}
    there = state / "outbox"
    for path in sorted(there.iterdir()) if there.is_dir() else ():
        for below, mark in ((path, ""), (path / "parked", " (parked)")):
            if below.is_dir():
                folder = durable.Folder(below)
                try:
                    for decision_id in _ids(folder):
                        waiting.setdefault(decision_id, []).append(path.name + mark)
                finally:
                    folder.close()
    return waiting
