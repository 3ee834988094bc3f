"""A Queue without a disk: the protocol of `outbound/queue.py` in memory, and a record of what was done to it.

What is settled takes effect at once, as it would on disk if its writer were cancelled right afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field, replace

from mailrelayd.clock import Clock
from mailrelayd.outbound import delivery, queueid
from mailrelayd.outbound.headers import Header, Unreadable, split_header
from mailrelayd.outbound.queue import Entry, Figures, Place, Verb
from mailrelayd.outbound.stored import HEADER_LIMIT
from mailrelayd.outbound.values import (
    ApprovalCopy,
    Envelope,
    Past,
    Progress,
    QueuedMessage,
    Response,
    Stage,
    Status,
    remembered,
)

HELD = float("inf")
_BY_HAND = Response(Stage.LOCAL, 0, "", "given up by hand")


@dataclass
class Bytes:
    """A stored message. `unchanged` and `read` do what a test wants of them."""

    data: bytes
    uid: int = 1000
    same: bool = True
    error: OSError | None = None
    closed: int = 0
    changed_at: float = 0.0

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, size: int) -> bytes:
        if self.error is not None:
            raise self.error
        return self.data[offset : offset + size]

    def header(self) -> tuple[Header | Unreadable, bytes]:
        data = self.read(0, HEADER_LIMIT + 1)
        return split_header(data, HEADER_LIMIT, complete=len(data) == self.size), data

    def unchanged(self) -> bool:
        return self.same

    def close(self) -> None:
        self.closed += 1


@dataclass
class Item:
    """One message with the bytes behind it; `error` is what opening it raises."""

    message: QueuedMessage
    source: Bytes
    due: float = 0.0  # clock.monotonic(); HELD: on hold
    error: OSError | None = None
    reason: str = ""


@dataclass
class MemoryQueue:
    """`waiting`, `flying` and `failed` by queue id; `sent` in order; `history` has (verb, queue id)."""

    clock: Clock
    strict_order: bool = False
    waiting: dict[str, Item] = field(default_factory=dict)
    flying: dict[str, Item] = field(default_factory=dict)
    failed: dict[str, Item] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    history: list[tuple[str, str]] = field(default_factory=list)
    ready: asyncio.Event = field(default_factory=asyncio.Event)  # may be cleared: then settling takes as long

    def __post_init__(self) -> None:
        self._ids = queueid.Sequence("test", last=0)
        self._news = asyncio.Event()
        self.ready.set()

    def put(
        self,
        data: bytes,
        recipients: Iterable[str],
        sender: str = "erp@example.com",
        copies: tuple[ApprovalCopy, ...] = (),
    ) -> str:
        """Queue a message; its id."""
        queue_id, _ = self._ids.take(self.clock.now())
        envelope = Envelope(sender, tuple(recipients))
        there = QueuedMessage(queue_id, envelope, Progress(self.clock.now()), len(data), copies=copies)
        self.waiting[queue_id] = Item(there, Bytes(data))
        self._news.set()
        return queue_id

    def wake(self) -> None:
        """Let everyone who waits look again: a stop event was set."""
        self._news.set()

    def reopen(self) -> None:
        """Die, and start again: every claim is free, all else is as it was."""
        self.waiting |= self.flying
        self.flying.clear()

    # The protocol

    async def wait_due(self, stop: asyncio.Event, *, at_least: int = 1, patience: float = 30.0) -> bool:
        until = self.clock.monotonic() + patience
        while not stop.is_set():
            if len(self._due()) >= at_least:
                return True
            left = until - self.clock.monotonic()
            if left <= 0:
                return False
            await self._wait(left)
        return False

    async def due(self, stop: asyncio.Event, *, idle: float = 0.0) -> AsyncGenerator[QueuedMessage, None]:
        until = self.clock.monotonic() + idle
        while not stop.is_set():
            if ids := self._due():
                item = self.flying[ids[0]] = self.waiting.pop(ids[0])
                self.history.append(("claim", ids[0]))
                yield item.message
                until = self.clock.monotonic() + idle
                continue
            left = until - self.clock.monotonic()
            if left <= 0:
                return
            await self._wait(left)

    def open(self, message: QueuedMessage) -> Bytes:
        item = self.flying[message.queue_id]
        if item.error is not None:
            raise item.error
        return item.source

    async def complete(self, completions: Sequence[tuple[QueuedMessage, Progress]]) -> None:
        await self._disk()
        for message, _ in completions:
            self._land("complete", message)
            self.sent.append(message.queue_id)

    async def defer(self, message: QueuedMessage, progress: Progress, at: float) -> None:
        await self._disk()
        item = self._land("defer", message)
        wait = max(at - self.clock.now(), 0.0)
        item.message = replace(message, progress=progress, revision=message.revision + 1)
        item.due = self.clock.monotonic() + wait if wait else 0.0
        self.waiting[message.queue_id] = item
        self._news.set()

    async def fail(self, message: QueuedMessage, progress: Progress, reason: str) -> None:
        await self._disk()
        item = self._land("fail", message)
        item.message, item.reason = replace(message, progress=progress, revision=message.revision + 1), reason
        self.failed[message.queue_id] = item

    def release(self, message: QueuedMessage) -> None:
        if message.queue_id in self.flying:
            self.waiting[message.queue_id] = self._land("release", message)
            self._news.set()

    async def add(self, data: bytes, envelope: Envelope, *, rule: str, copies: tuple[ApprovalCopy, ...] = ()) -> str:
        await self._disk()
        queue_id, _ = self._ids.take(self.clock.now())
        message = QueuedMessage(
            queue_id, envelope, Progress(self.clock.now()), len(data), rule, revision=1, copies=copies
        )
        self.waiting[queue_id] = Item(message, Bytes(data))
        self.history.append(("add", queue_id))
        self._news.set()
        return queue_id

    async def change(self, verb: Verb, queue_ids: Iterable[str], by: str = "") -> dict[str, str]:
        return {queue_id: self._change(verb, queue_id, by) for queue_id in queue_ids}

    async def bring_back(self, queue_id: str, progress: Progress) -> bool:
        item = self.failed.pop(queue_id, None)
        if item is None:
            return False
        item.message, item.reason = replace(item.message, progress=progress, revision=item.message.revision + 1), ""
        self._requeue(item)
        return True

    async def find(self, queue_id: str) -> Entry | None:
        for item in (self.waiting.get(queue_id), self.flying.get(queue_id), self.failed.get(queue_id)):
            if item is not None:
                return self._entry(item)
        return None

    def content(self, queue_id: str) -> Bytes | None:
        for item in (self.waiting.get(queue_id), self.flying.get(queue_id), self.failed.get(queue_id)):
            if item is not None:
                if item.error is not None:
                    raise item.error
                return item.source
        return None

    async def entries(self, *, failed: bool = False) -> AsyncIterator[Entry]:
        for _, item in sorted((self.failed if failed else {**self.waiting, **self.flying}).items()):
            yield self._entry(item)

    def figures(self) -> Figures:
        mono = self.clock.monotonic()
        held = sum(item.due == HELD for item in self.waiting.values())
        due = sum(item.due <= mono for item in self.waiting.values())
        oldest = min([*self.waiting, *self.flying], default="")
        return Figures(
            due=due,
            deferred=len(self.waiting) - due - held,
            held=held,
            in_flight=len(self.flying),
            oldest=queueid.arrived_at(oldest) if oldest else 0.0,
        )

    # Behind it

    def _due(self) -> list[str]:
        mono = self.clock.monotonic()
        ids = sorted(queue_id for queue_id, item in self.waiting.items() if item.due <= mono)
        refused = [i for i, w in self.waiting.items() if mono < w.due < HELD and w.message.progress.recipients]
        if self.strict_order and ids and any(i < ids[0] for i in refused):
            return []
        return ids

    async def _wait(self, seconds: float) -> None:
        mono = self.clock.monotonic()
        turns = [item.due - mono for item in self.waiting.values() if mono < item.due < HELD]
        self._news.clear()
        await self.clock.wait(self._news, min([seconds, *turns]))

    async def _disk(self) -> None:
        if not self.ready.is_set():
            await self.ready.wait()

    def _land(self, verb: str, message: QueuedMessage) -> Item:
        self.history.append((verb, message.queue_id))
        return self.flying.pop(message.queue_id)

    @staticmethod
    def _turn(item: Item) -> float:
        """When it may be tried, seconds since the epoch."""
        records = item.message.progress.recipients.values()
        turns = [record.next_attempt for record in records if record.status is Status.DEFERRED and record.next_attempt]
        return max(min(turns, default=0.0), item.message.progress.not_before)

    def _requeue(self, item: Item) -> None:
        wait = self._turn(item) - self.clock.now()
        item.due = self.clock.monotonic() + wait if wait > 0 else 0.0
        self.waiting[item.message.queue_id] = item
        self._news.set()

    def _change(self, verb: Verb, queue_id: str, by: str) -> str:
        if queue_id in self.flying:
            return "is being sent right now; try again in a moment"
        waits = queue_id in self.waiting
        item = self.waiting.get(queue_id) or self.failed.get(queue_id)
        if item is None:
            return "no such message"
        if verb is Verb.DELETE:
            (self.waiting if waits else self.failed).pop(queue_id)
        elif waits and verb is Verb.RELEASE:
            if item.due == HELD:
                self._remember(item, verb, by)
            self._requeue(item)
        elif waits and verb is Verb.HOLD:
            if item.due != HELD:
                self._remember(item, verb, by)
            item.due = HELD
        elif waits and verb is Verb.FAIL:
            progress = delivery.give_up(item.message, "by-hand", _BY_HAND, self.clock.now())
            item.message, item.reason, item.due = replace(item.message, progress=progress), "by-hand", 0.0
            self._remember(item, verb, by)
            self.failed[queue_id] = self.waiting.pop(queue_id)
        elif waits and item.due == HELD:
            return "is on hold: release it first"
        elif waits:
            item.due = 0.0
            item.message = replace(item.message, progress=replace(item.message.progress, not_before=0.0))
        elif verb is Verb.RETRY:
            before = item.message.progress
            progress = replace(
                delivery.try_again(before, self.clock.now()), not_before=before.not_before, history=before.history
            )
            item.message, item.reason = replace(item.message, progress=progress, revision=1), ""
            self._remember(item, verb, by)
            self._requeue(self.failed.pop(queue_id))
        else:
            return "has failed already" if verb is Verb.FAIL else "has failed: only retry and delete apply"
        self._news.set()
        return ""

    def _remember(self, item: Item, verb: Verb, by: str) -> None:
        progress = remembered(item.message.progress, Past(self.clock.now(), verb.value, by))
        item.message = replace(item.message, progress=progress, revision=item.message.revision + 1)

    def _entry(self, item: Item) -> Entry:
        queue_id = item.message.queue_id
        place = Place.DEFERRED if item.due > self.clock.monotonic() else Place.ACTIVE
        if queue_id in self.failed:
            place = Place.FAILED
        elif item.due == HELD:
            place = Place.HOLD
        turn = self._turn(item) if place is Place.DEFERRED else 0.0
        return Entry(place, item.message, turn, item.reason, in_flight=queue_id in self.flying)
