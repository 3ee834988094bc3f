"""What the loop of a mailbox needs of others: who reads the mail, and how the account is set. Pure."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol


class Whose(StrEnum):
    """What the header of a mail says, before it is read."""

    OURS = "ours"  # a token that leads to a request here
    FOREIGN = "foreign"  # a token of another machine, or of another secret: always left
    NOBODY = "nobody"


class Action(StrEnum):
    """What may become of a mail that was read."""

    REMOVE = "remove"  # as [inbound.NAME] after says
    LEAVE = "leave"


@dataclass(frozen=True, slots=True)
class Arrived:
    """A mail in its folder. `received_at` is INTERNALDATE, in seconds since the epoch."""

    account: str
    folder: str
    uidvalidity: int
    uid: int
    received_at: float
    size: int


@dataclass(frozen=True, slots=True)
class Disposition:
    """What became of a mail that was read; on disk. `at`: when that was recorded, seconds since the epoch."""

    action: Action
    decision_id: str
    at: float
    new: bool = True  # False: the archive knew it already


class Desk(Protocol):
    """Who reads the mail."""

    def whose(self, header: bytes) -> Whose:
        """By its header lines alone. Raises OSError where that cannot be told now."""

    async def receive(self, arrived: Arrived, pieces: AsyncIterator[bytes]) -> Disposition:
        """Read and archive. Raises OSError; then nothing has happened to it, and it may come again."""

    def may_remove(self, decision_id: str) -> bool:
        """Whether every required sink has it."""

    def polled(self, account: str, begun_at: float) -> None:
        """Everything that had arrived by then (seconds since the epoch) was read."""


class Terms(Protocol):
    """[inbound.NAME], as far as the loop needs it."""

    @property
    def name(self) -> str: ...
    @property
    def folder(self) -> str: ...
    @property
    def create_folder(self) -> bool: ...
    @property
    def poll_interval(self) -> float: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def idle(self) -> bool: ...
    @property
    def process_after(self) -> datetime | None: ...
    @property
    def ignore_older_than(self) -> float: ...
    @property
    def after(self) -> str: ...
    @property
    def delete_after(self) -> float: ...
    @property
    def adopt(self) -> str: ...
    @property
    def max_message_size(self) -> int: ...
