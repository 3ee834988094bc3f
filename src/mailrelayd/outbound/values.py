"""The values that flow from a queued file to its outcome.

None of them ever changes: a loop receives one, asks a pure function what it means, and carries out the answer.
**Response** is the server's line (RFC 5321 calls it "reply"; here a reply is only ever a person's mail).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import field, replace
from enum import StrEnum
from typing import Protocol, runtime_checkable

from mailrelayd.value import value


class Stage(StrEnum):
    """Where in the conversation with the smarthost something was said or happened."""

    CONNECT = "connect"  # DNS and TCP
    TLS = "tls"  # handshake and certificate, implicit or after STARTTLS
    GREETING = "greeting"
    EHLO = "ehlo"
    STARTTLS = "starttls"
    AUTH = "auth"
    RSET = "rset"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    BODY = "body"  # the answer to the last byte (RFC 5321 section 4.1.1.4)
    QUIT = "quit"
    IDLE = "idle"  # between two transactions
    LOCAL = "local"  # never left this machine: expired, too large for the server, ...


class Status(StrEnum):
    """What became of one recipient."""

    SENT = "sent"  # the smarthost answered 2xx to the body
    DEFERRED = "deferred"  # will be tried again
    FAILED = "failed"  # given up


@value(frozen=True, slots=True)
class Envelope:
    """Who sends and who receives, as said to the server: never the headers' view again."""

    sender: str  # "" is the null sender <>
    recipients: tuple[str, ...]


@value(frozen=True, slots=True)
class ApprovalCopy:
    """A recipient who is asked to approve gets a copy of their own: the only place where their token stands."""

    recipient: str  # as in the envelope
    token: str
    expires_at: float  # seconds since the epoch; not sent from then on


@value(frozen=True, slots=True)
class Admitted:
    """A request for approval that may be opened: everybody who receives the message, and who of them is asked."""

    recipients: tuple[str, ...]
    copies: tuple[ApprovalCopy, ...]


@value(frozen=True, slots=True)
class Response:
    """One answer of the server, or what stood in its place.

    `code` is the three-digit reply code; 0 where no answer came (timeout, lost connection, nonsense), and
    then `text` says what happened. `enhanced` is the RFC 3463 code ("5.1.1") or "". `text` holds no control
    characters: it goes into log lines and records.
    """

    stage: Stage
    code: int
    enhanced: str = ""
    text: str = ""

    def __str__(self) -> str:
        return " ".join(part for part in (str(self.code) if self.code else "", self.enhanced, self.text) if part)


@value(frozen=True, slots=True)
class Extensions:
    """What the server offers on this connection (EHLO after TLS), as far as transactions care."""

    pipelining: bool = False  # RFC 2920
    size: int | None = None  # RFC 1870; None: not offered, 0: offered without a limit; octets
    eight_bit_mime: bool = False  # RFC 6152
    smtputf8: bool = False  # RFC 6531
    chunking: bool = False  # RFC 3030


@runtime_checkable
class Descriptor(Protocol):
    """What a file can be copied from."""

    def fileno(self) -> int:
        """The descriptor; read at offsets only."""


@value(frozen=True, slots=True)
class Copyable:
    """A message that stands in a file as it goes on the wire, but for its `header`."""

    header: bytes
    file: Descriptor
    offset: int
    size: int  # bytes from `offset`


class Body(Protocol):
    """The bytes of one message as they go on the wire, before dot stuffing: header edits applied.

    `size` and `eight_bit` are known before the first chunk is read (MAIL needs them).
    """

    @property
    def whole(self) -> bytes | None:
        """All of a small message, with CRLF line ends; None: it is read in chunks."""

    @property
    def pure(self) -> bool:
        """Whether the chunks hold no bare CR or LF and end with CRLF."""

    @property
    def copyable(self) -> Copyable | None:
        """Where the kernel can take it from; None: only the chunks are what should be sent."""

    @property
    def size(self) -> int:
        """Octets on the wire, without dot stuffing (what RFC 1870 counts)."""

    @property
    def eight_bit(self) -> bool:
        """Whether any octet is above 127."""

    def chunks(self) -> AsyncIterator[bytes]:
        """The bytes, in pieces of at most some 256 KiB; line ends may be bare unless `pure`."""

    def unchanged(self) -> bool:
        """False as soon as the file behind it is no longer what it was when `size` was taken."""


@value(frozen=True, slots=True)
class Transaction:
    """One MAIL .. last byte: a message and those of its recipients that are asked for this time."""

    queue_id: str
    sender: str
    recipients: tuple[str, ...]
    size: int = 0
    eight_bit: bool = False
    redirected: tuple[str, ...] = ()  # [guard] redirect_to: whom `recipients` stands for; empty: for themselves

    @property
    def smtputf8(self) -> bool:
        """Whether an address needs SMTPUTF8 (RFC 6531)."""
        return not (self.sender.isascii() and all(r.isascii() for r in self.recipients))


@value(frozen=True, slots=True)
class Answers:
    """What the server said to one transaction, as far as it went.

    `recipients` has one entry per recipient of the transaction, None where no answer came. `cut` says why the
    connection ended *during* this transaction (code 0 or 421); None: it did not. `untried` marks a transaction
    of which the server has not answered a single command: nobody can blame it for anything. (In a window its last byte
    may have been sent all the same.)
    `changed`: we ended the connection ourselves, because the file was written to after it was claimed.
    """

    transaction: Transaction
    mail: Response | None = None
    recipients: tuple[Response | None, ...] = ()
    data: Response | None = None
    body: Response | None = None
    last_byte_sent: bool = False
    cut: Response | None = None
    changed: bool = False

    @property
    def untried(self) -> bool:
        """True where MAIL was never answered: such a message is released as if it had not been touched."""
        return self.mail is None


@value(frozen=True, slots=True)
class Outcome:
    """What one try meant for one recipient."""

    recipient: str
    status: Status
    response: Response


@value(frozen=True, slots=True)
class Attempt:
    """What one transaction meant, once the stage of every answer has been taken into account.

    `outcomes` holds the recipients for whom the answer counts; the others are owed as before. `route` is the
    answer that blames the way to the smarthost rather than the message; `cut` the loss of the connection
    after MAIL; `ambiguous` says that the last byte was sent and its answer never came (RFC 1047).
    """

    transaction: Transaction
    outcomes: tuple[Outcome, ...] = ()
    route: Response | None = None
    cut: Response | None = None
    ambiguous: bool = False
    changed: bool = False


@value(frozen=True, slots=True)
class RecipientRecord:
    """What is remembered of one recipient between tries; times in seconds since the epoch."""

    status: Status
    response: Response
    attempts: int
    at: float
    next_attempt: float = 0.0  # only while deferred
    reason: str = ""  # of a failure: rejected, expired, changed, suppressed, by-hand


FIRST_KEPT, LAST_KEPT = 10, 30  # lines of a message's history: how it began, and what happened lately


@value(frozen=True, slots=True)
class Past:
    """One line of a message's life, for people. `text` holds no control characters.

    The same thing happening again is counted: `times` it happened, first at `since` (0: only once), last at `at`.
    """

    at: float  # seconds since the epoch
    event: str  # queued, deferred, sent, failed, hold, release, retry, ...
    text: str = ""
    times: int = 1
    since: float = 0.0


@value(frozen=True, slots=True)
class Progress:
    """Everything that happened to a message so far: cumulative, never the last try only.

    `recipients` holds those that were tried; a recipient without a record is owed a first try.
    """

    arrived_at: float  # seconds since the epoch
    recipients: Mapping[str, RecipientRecord] = field(default_factory=dict)
    not_before: float = 0.0  # the producer's wish: no try earlier than this
    changed: int = 0  # how often the file was found changed after the claim
    excused_at: float = 0.0  # a refusal taken back because it looked like the route's fault
    history: tuple[Past, ...] = ()  # oldest first, bounded: see `remembered`


def remembered(progress: Progress, past: Past) -> Progress:
    """The progress with one more line of history.

    A line equal to the last is counted with it; of a long life the middle is forgotten.
    """
    history = progress.history
    last = history[-1] if history else None
    if last is not None and (last.event, last.text) == (past.event, past.text):
        again = replace(past, times=last.times + past.times, since=last.since or last.at)
        return replace(progress, history=(*history[:-1], again))
    if len(history) == FIRST_KEPT + LAST_KEPT:
        history = history[:FIRST_KEPT] + history[FIRST_KEPT + 1 :]
    return replace(progress, history=(*history, past))


OWN_RULES = frozenset({"alert", "dsn", "receipt", "reminder"})  # of messages that the daemon writes itself


@value(frozen=True, slots=True)
class QueuedMessage:
    """A message in the queue. `size` is the file's, in bytes; `rule` says how its envelope was found.

    Rules are those of `envelope.EnvelopeRule` and of the sidecar, "submit" (said when it was handed in), and
    OWN_RULES. `copies`: what is sent of it to each of these recipients is for them alone; none: to everybody alike.
    """

    queue_id: str
    envelope: Envelope
    progress: Progress
    size: int = 0
    rule: str = "headers"
    revision: int = 0  # of the record on disk; 0: there is none
    file: str = ""  # what its producer called it, as long as that is known
    producer: str = ""  # NAME of [pickup.NAME]; "submit": the socket; "": pickup/ itself, or us
    uid: int | None = None  # who handed it in; None: whoever owns the file
    key: str = ""  # digest of its idempotency key (`keys.digest`)
    copies: tuple[ApprovalCopy, ...] = ()

    @property
    def opens_request(self) -> bool:
        """Whether a producer asks for approval with it: our own reminders only ask again."""
        return bool(self.copies) and self.rule not in OWN_RULES
