"""Documents on their way to a sink, on disk until it has taken them: STATE/outbox/SINK/ID.json.

One loop per sink, so that none holds up another. What a sink can never take is parked in STATE/outbox/SINK/parked/:
on disk, listed, said as an error; `mailrelayd decisions replay` offers it again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
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


@dataclass(slots=True)
class _Waiting:
    attempt: int  # how many were made
    due: float  # on clock.monotonic()


class Outbox:
    """The documents of one sink, and the loop that offers them."""

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
        self._waiting = {name: _Waiting(0, 0.0) for name in sorted(_ids(self._folder))}

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
        if self._parked.remove(f"{decision_id}.json", sync=False):
            self._parked.sync()

    def offer(self, decision_id: str) -> None:
        """Begin with a document that was put there."""
        self._waiting[decision_id] = _Waiting(0, self._clock.monotonic())
        self._news.set()

    def wake(self) -> None:
        """Look again: a stop event was set."""
        self._news.set()

    async def run(self, stop: asyncio.Event, beat: Callable[[float], None]) -> None:
        """Offer what is due until `stop`. `beat` is told within how many seconds it will be called again."""
        while not stop.is_set():
            beat(PATIENCE * 2)
            now = self._clock.monotonic()
            for decision_id, waiting in list(self._waiting.items()):
                if waiting.due <= now and not stop.is_set():
                    beat(SLOWEST)
                    await self._offer(decision_id, waiting)
            self._news.clear()
            due = min((waiting.due for waiting in self._waiting.values()), default=now + PATIENCE)
            if not stop.is_set():
                await self._clock.wait(self._news, min(max(due - self._clock.monotonic(), 0.0), PATIENCE))

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
                    await asyncio.to_thread(self._folder.remove, name)
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

    def _put_off(self, decision_id: str, waiting: _Waiting, answer: Again) -> None:
        wait = SCHEDULE[min(waiting.attempt, len(SCHEDULE) - 1)]
        wait += random.uniform(0.0, JITTER * wait)  # noqa: S311 - spreads load, guards nothing
        wait = max(wait, answer.after or 0.0)
        waiting.due = self._clock.monotonic() + wait
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
