"""What the relay needs of a queue. `tests/queue_contract.py` is the same in executable form.

A message is *claimed* when `due` gives it out: nobody else gets it until it has been settled (`complete`,
`defer`, `fail`) or `release`d. Every settling call returns when its effect is on disk, so that the caller may
let the next body onto the wire. A process that dies lets go of all its claims, and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from mailrelayd.outbound.headers import Header, Unreadable
from mailrelayd.outbound.values import Admitted, ApprovalCopy, Envelope, Progress, QueuedMessage


class Place(StrEnum):
    """Where a message stands: Postfix's queue names, and `failed` for what was given up."""

    ACTIVE = "active"  # due, or being sent right now
    DEFERRED = "deferred"
    HOLD = "hold"
    FAILED = "failed"
    SENT = "sent"  # only while [spool] keep_sent keeps it


class Verb(StrEnum):
    """What an operator may do to messages."""

    RETRY = "retry"  # due now; brings a failed one back
    HOLD = "hold"  # keep, do not try
    RELEASE = "release"  # undo hold
    FAIL = "fail"  # give up now: kept where a person will look, reason "by-hand"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Entry:
    """One message as an operator sees it."""

    place: Place
    message: QueuedMessage
    next_attempt: float = 0.0  # seconds since the epoch; 0: now, or never by itself
    reason: str = ""  # why it failed
    in_flight: bool = False


@dataclass(frozen=True, slots=True)
class Figures:
    """The queue in numbers."""

    due: int = 0
    deferred: int = 0
    held: int = 0
    in_flight: int = 0
    oldest: float = 0.0  # arrival of the oldest waiting message, seconds since the epoch; 0: none

    @property
    def waiting(self) -> int:
        """Everything that is still owed a try."""
        return self.due + self.deferred + self.held + self.in_flight


class Source(Protocol):
    """The stored bytes of one message."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def uid(self) -> int:
        """The user who handed the message in."""

    @property
    def changed_at(self) -> float:
        """When it was last written to, seconds since the epoch."""

    def read(self, offset: int, size: int) -> bytes:
        """Bytes from `offset`, fewer only at the end."""

    def header(self) -> tuple[Header | Unreadable, bytes]:
        """The header, and the first bytes of the message, which hold it: all of them, if it is small. Raises OSError.

        Read and parsed once, and kept until `close`.
        """

    def unchanged(self) -> bool:
        """False as soon as it is not what it was when it was claimed."""

    def close(self) -> None:
        """Give it back."""


class Queue(Protocol):
    """Messages in the order in which they arrived, each with what is still to be done for it."""

    async def wait_due(self, stop: asyncio.Event, *, at_least: int = 1, patience: float = 30.0) -> bool:
        """Wait until so many messages are due (True), `stop` is set, or so many seconds passed (False)."""

    def due(self, stop: asyncio.Event, *, idle: float = 0.0) -> AsyncGenerator[QueuedMessage, None]:
        """Claim what is due, lowest queue id first; ends when for `idle` seconds nothing was, or at `stop`."""

    def open(self, message: QueuedMessage) -> Source:
        """The message's bytes. Raises OSError."""

    async def complete(self, completions: Sequence[tuple[QueuedMessage, Progress]]) -> None:
        """Every recipient of these was sent to: they leave the queue, on disk together."""

    async def defer(self, message: QueuedMessage, progress: Progress, at: float) -> None:
        """Remember what happened; due again at `at` (seconds since the epoch)."""

    async def fail(self, message: QueuedMessage, progress: Progress, reason: str) -> None:
        """Keep the message where a person will look, with every recipient's reason."""

    def release(self, message: QueuedMessage) -> None:
        """Give a claim back untouched: due again at once."""

    async def add(self, data: bytes, envelope: Envelope, *, rule: str, copies: tuple[ApprovalCopy, ...] = ()) -> str:
        """Queue a message of the daemon's own (a rule of OWN_RULES), on disk when this returns; its queue id."""

    async def change(self, verb: Verb, queue_ids: Iterable[str], by: str = "") -> dict[str, str]:
        """Carry out an operator's wish; for each id "" or why not. `by`: whose, for the history."""

    async def bring_back(self, queue_id: str, progress: Progress) -> bool:
        """Undo `fail`: queued again with this progress. False where it is not there any more."""

    async def find(self, queue_id: str) -> Entry | None:
        """One message: waiting, failed, or kept after it was sent."""

    def content(self, queue_id: str) -> Source | None:
        """The stored bytes of a message, wherever it stands; None: it is not here. Raises OSError."""

    def entries(self, *, failed: bool = False) -> AsyncIterator[Entry]:
        """Every waiting message in queue order, or every failed one."""

    def figures(self) -> Figures:
        """The queue in numbers; cheap."""


class Requests(Protocol):
    """Who knows of requests for approval: what may be asked, and what was. The calls block for the disk."""

    def admit(
        self, header: Header, envelope: Envelope, uid: int, new_id: Callable[[], str]
    ) -> Admitted | Unreadable | None:
        """Who gets a copy of a message with this header; why it must not be sent; None: it asks for nothing.

        `uid` is whose message it is, `new_id` gives numbers that were never given before. Raises OSError.
        """

    def opened(self, message: QueuedMessage, source: Source) -> None:
        """The message is in the queue: from now on its answers must be known. Harmless if repeated. Raises OSError."""


class Copies(Protocol):
    """Who has to know what became of the copies of a request."""

    def is_closed(self, copy: ApprovalCopy) -> bool:
        """Whether its request was cancelled, or superseded: it must not be sent any more."""

    def is_as_asked(self, message: QueuedMessage, source: Source) -> bool:
        """Whether these are the bytes that were asked about: their digest is told with the decision. It blocks.

        Raises OSError.
        """

    async def settled(self, message: QueuedMessage, progress: Progress) -> None:
        """`message.copies`, of those it has, were sent or given up as `progress` says; the queue does not know it yet.

        Harmless if repeated. Raises OSError where it cannot be written down; then it is asked again.
        """
