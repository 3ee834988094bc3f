"""What a producer asks for, and what is remembered of it until everybody has answered. Pure.

A request is an ordinary message whose header says X-Approval-Request. Who may ask whom stands in the configuration's
[[decisions]]: the producer (by user or group) and every approver, for every sink that the request's id matches.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any, Protocol

from mailrelayd.config import units
from mailrelayd.outbound.addresses import AddressError, matches, person, read_list, shown, unique
from mailrelayd.outbound.headers import APPROVAL_FIELDS, Header, Unreadable

FORMAT = 1
LONGEST_ID = 200  # characters
MOST_APPROVERS = 1000


class State(StrEnum):
    """Where a request stands."""

    OPEN = "open"
    DECIDED = "decided"  # everybody who was asked has answered
    SUPERSEDED = "superseded"  # a newer one asks under the same id
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class Sink(Protocol):
    """A [[decisions]] table, as far as it says who may open and answer requests."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def match(self) -> str:
        """Which request ids it is about; * stands for anything."""

    @property
    def producers(self) -> Sequence[str]:
        """Users and groups."""

    @property
    def approvers(self) -> Sequence[str]:
        """Address patterns."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the header of a message asks for."""

    request_id: str
    approvers: tuple[str, ...] = ()  # none: the recipients
    lasting: float | None = None  # seconds from the claim
    until: float | None = None  # seconds since the epoch


@dataclass(frozen=True, slots=True)
class Copy:
    """What one approver got. `number` is never given out again, and leads from a token to the request.

    The token itself is not remembered: whoever has the secret can make it again, and nobody else should.
    """

    approver: str
    number: int


@dataclass(frozen=True, slots=True)
class Decided:
    """What one approver decided, or what became of it: approved, rejected, undeliverable, expired, cancelled."""

    outcome: str
    decision_id: str
    at: float  # seconds since the epoch


@dataclass(frozen=True, slots=True)
class Request:
    """One request; times in seconds since the epoch."""

    queue_id: str  # of the message that asked
    request_id: str  # the producer's own
    requested_by: str  # the user who owned the file
    sinks: tuple[str, ...]
    node: str
    opened_at: float
    expires_at: float
    subject: str
    message_id: str  # of the message as its producer wrote it, or as it was given one
    sha256: str  # of the file
    copies: tuple[Copy, ...]
    sent: Mapping[str, float] = field(default_factory=dict)  # approver -> when their copy was taken by the smarthost
    decided: Mapping[str, Decided] = field(default_factory=dict)  # approver -> the decision that counts
    superseded_by: str = ""  # the queue id of the newer one
    cancelled_at: float = 0.0
    expired_at: float = 0.0  # from when on `expired` is told, after a poll that could have brought an answer
    reminded: int = 0  # how many times
    sender: str = ""  # of the envelope of the message that asked; "": the null sender
    receipts: Mapping[str, float] = field(default_factory=dict)  # address -> when they were last told of their answer

    def state(self, now: float) -> State:
        """Where it stands. What was decided before it was over stays decided."""
        if self.copies and all(copy.approver in self.decided for copy in self.copies) and not self.cancelled_at:
            return State.EXPIRED if self.expired_at else State.DECIDED
        if self.cancelled_at:
            return State.CANCELLED
        if self.superseded_by:
            return State.SUPERSEDED
        return State.EXPIRED if self.expired_at or now >= self.expires_at else State.OPEN

    def owed(self) -> tuple[Copy, ...]:
        """The copies whose approvers have not answered."""
        return tuple(copy for copy in self.copies if copy.approver not in self.decided)

    def copy(self, number: int) -> Copy | None:
        """The copy with this number."""
        return next((copy for copy in self.copies if copy.number == number), None)


def asked(header: Header) -> Asked | Unreadable | None:
    """What the three X-Approval fields ask for; None: nothing."""
    fields = header.named(*APPROVAL_FIELDS)
    if not fields:
        return None
    said: dict[str, str] = {}
    for one in fields:
        if one.key in said:
            return Unreadable(f"{one.name} stands in the header twice")
        said[one.key] = re.sub(r"[ \t]*(?:\r\n|\r|\n)[ \t]+", " ", one.text).strip()
    request_id = said.get("x-approval-request", "")
    if not request_id:
        return Unreadable("X-Approval-Request is missing or empty: write an id of your own, such as PO-42")
    if len(request_id) > LONGEST_ID or not request_id.isprintable():
        return Unreadable(f"X-Approval-Request must be at most {LONGEST_ID} printable characters")
    try:
        approvers = unique(read_list(said["x-approval-approvers"])) if "x-approval-approvers" in said else ()
    except AddressError as error:
        return Unreadable(f"X-Approval-Approvers: {error}")
    if "x-approval-approvers" in said and not approvers:
        return Unreadable("X-Approval-Approvers names nobody: leave it out, or write an address")
    if len(approvers) > MOST_APPROVERS:
        return Unreadable(f"X-Approval-Approvers names more than {MOST_APPROVERS} people")
    lasting, until = None, None
    if (text := said.get("x-approval-expires")) is not None:
        try:
            lasting = units.duration(text)
        except ValueError:
            until = _moment(text)
        if lasting is None and until is None:
            return Unreadable(f'X-Approval-Expires: {shown(text)} is neither "3d" nor like 2026-12-01T08:00:00Z')
    return Asked(request_id, approvers, lasting, until)


def expiry(asking: Asked, now: float, default: float) -> float | Unreadable:
    """When the answer stops to count; `default` is [approvals] expire, in seconds."""
    at = asking.until if asking.until is not None else now + (default if asking.lasting is None else asking.lasting)
    if at <= now:
        return Unreadable("X-Approval-Expires has passed already")
    if at > now + units.LONGEST / 10:
        return Unreadable("X-Approval-Expires is more than ten years ahead")
    return at


def entitled(
    request_id: str, approvers: Sequence[str], asking: Collection[str], sinks: Sequence[Sink]
) -> tuple[str, ...] | Unreadable:
    """The names of the sinks that hear of this request; or why it must not be asked.

    `asking`: the names of the user who owns the file and of that user's groups. Every sink that matches must let
    them ask, and must know every approver: otherwise any program here could have its own request approved.
    """
    matching = [sink for sink in sinks if fnmatchcase(request_id, sink.match)]
    if not matching:
        return Unreadable(f"no [[decisions]] matches the request {shown(request_id)}")
    for sink in matching:
        if not set(asking).intersection(sink.producers):
            who = ", ".join(sorted(asking)) or "nobody"
            text = f'the file belongs to {who}: no name of that is in producers of [[decisions]] "{sink.name}"'
            return Unreadable(text)
        for approver in approvers:
            if not matches(approver, sink.approvers):
                text = f'{shown(approver)} may not be asked: not in approvers of [[decisions]] "{sink.name}"'
                return Unreadable(text)
    return tuple(sink.name for sink in matching)


def same(first: str, second: str) -> bool:
    """Whether two addresses are one person: compared whole, ASCII letters without case."""
    return person(first) == person(second)


def everybody(recipients: Sequence[str], approvers: Sequence[str]) -> tuple[str, ...]:
    """The recipients, and those of the approvers who are none."""
    known = {person(one) for one in recipients}
    return (*recipients, *(one for one in approvers if person(one) not in known))


class RequestError(Exception):
    """An entry of the registry cannot be used: newer than this program, or damaged."""


def encode(request: Request) -> bytes:
    """The entry as JSON, one key per line."""
    document: dict[str, Any] = {
        "format": FORMAT,
        "queue_id": request.queue_id,
        "request_id": request.request_id,
        "requested_by": request.requested_by,
        "sinks": list(request.sinks),
        "node": request.node,
        "opened_at": request.opened_at,
        "expires_at": request.expires_at,
        "subject": request.subject,
        "message_id": request.message_id,
        "sha256": request.sha256,
        "copies": [{"approver": copy.approver, "number": copy.number} for copy in request.copies],
        "sent": dict(request.sent),
        "decided": {
            approver: {"outcome": one.outcome, "decision_id": one.decision_id, "at": one.at}
            for approver, one in request.decided.items()
        },
        "superseded_by": request.superseded_by,
        "cancelled_at": request.cancelled_at,
        "expired_at": request.expired_at,
        "reminded": request.reminded,
        "sender": request.sender,
        "receipts": dict(request.receipts),
    }
    return json.dumps(document, indent=1).encode() + b"\n"


def decode(data: bytes) -> Request:
    """Read an entry. Raises RequestError; never guesses."""
    try:
        document = json.loads(data)
        if document["format"] > FORMAT:
            raise RequestError(f"written by a newer version (format {document['format']})")
        return Request(
            queue_id=_string(document["queue_id"]),
            request_id=_string(document["request_id"]),
            requested_by=_string(document["requested_by"]),
            sinks=tuple(_string(one) for one in document["sinks"]),
            node=_string(document["node"]),
            opened_at=_moment_of(document["opened_at"]),
            expires_at=_moment_of(document["expires_at"]),
            subject=_string(document["subject"]),
            message_id=_string(document["message_id"]),
            sha256=_string(document["sha256"]),
            copies=tuple(Copy(_string(one["approver"]), int(one["number"])) for one in document["copies"]),
            sent={_string(who): _moment_of(at) for who, at in document["sent"].items()},
            decided={
                who: Decided(_string(one["outcome"]), _string(one["decision_id"]), _moment_of(one["at"]))
                for who, one in document["decided"].items()
            },
            superseded_by=_string(document["superseded_by"]),
            cancelled_at=_moment_of(document["cancelled_at"]),
            expired_at=_moment_of(document["expired_at"]),
            reminded=int(document["reminded"]),
            sender=_string(document["sender"]),
            receipts={_string(who): _moment_of(at) for who, at in document["receipts"].items()},
        )
    except RequestError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise RequestError(f"damaged entry: {type(error).__name__}") from error


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _moment_of(value: object) -> float:
    """Seconds since the epoch. What is no number is neither before nor after anything: it would never be over."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError
    return float(value)


def _moment(text: str) -> float | None:
    """RFC 3339 with an offset; None where it is none."""
    if not re.fullmatch(
        r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(?:\.\d{1,6})?(?:[Zz]|[+-]\d{2}:\d{2})", text, re.ASCII
    ):
        return None
    try:
        return datetime.fromisoformat(text.upper().replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError):
        return None
