"""The header of a queued file: where its fields are, and how it goes on the wire.

Bytes in, bytes out. A message is never parsed and written again: what is not removed stays as it was, so that DKIM
signatures hold. CRLF, LF and a lone CR all end a line, as they do on the wire, where each becomes CRLF: a field that
the receiver would see is a field here. Total: any bytes give a Header or an Unreadable, in linear time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

from mailrelayd.outbound.addresses import AddressError, read_list, shown
from mailrelayd.value import value

MAX_HEADER = 1024 * 1024  # bytes
MAX_FIELDS = 10_000
MAX_REDIRECTED = 100  # recipients named in X-Original-Recipients; header lines have limits on the way

RewriteFrom = Literal["envelope", "always", "if-missing", "never"]

APPROVAL_FIELDS = frozenset({"x-approval-request", "x-approval-approvers", "x-approval-expires"})
BLOCK_FIELDS = frozenset(
    {
        "x-sender",
        "x-receiver",
        "x-createdby",
        "x-endofinjectedxheaders",
        "x-helodomain",
        "x-source",
        "x-sourceipaddress",
        "x-extendedmessageprops",
    }
)
_REMOVED = frozenset({"bcc", "resent-bcc", "return-path", "content-length"}) | APPROVAL_FIELDS

_LINE_END = re.compile(rb"\r\n|\r|\n")
_EMPTY_LINE = re.compile(rb"\n[\r\n]")  # a line end and the first octet of another one; the third way is two CR
# RFC 5322 sections 2.2 and 4.5.8 (blanks before the colon). Only at the start of a line: to look for one everywhere in
# a line that has none would take quadratic time.
_FIELD = re.compile(rb"(?<![^\r\n])(([!-9;-~]++)[ \t]*+:[^\r\n]*+(?:(?:\r\n|\r|\n)[ \t][^\r\n]*+)*+(?:\r\n|\r|\n)?+)")
_FIRST_LINE = re.compile(rb"[^\r\n]*+(?:\r\n|\r|\n)?+")
_MBOX = re.compile(rb"From (?![ \t]*+:)")

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Why nothing can be made of a file: a sentence for people, without control characters."""

    reason: str


@dataclass(slots=True, init=False, unsafe_hash=True)
class Field:
    """One header field. `raw` is all of it, with its line end (the file's last field may have none).

    It never changes; but each message has many, and `frozen` would make every one three times as expensive.
    """

    name: str  # as written
    key: str  # in lower case: field names are case-insensitive (RFC 5322 section 1.2.2)
    raw: bytes
    offset: int  # of its first byte in the file

    def __init__(self, name: str, raw: bytes, offset: int) -> None:
        self.name = name
        self.key = name.lower()
        self.raw = raw
        self.offset = offset

    @property
    def content(self) -> bytes:
        """The bytes behind the colon, line end included."""
        return self.raw[self.raw.index(b":") + 1 :]

    @property
    def text(self) -> str:
        """The content, still folded, for reading addresses: bytes that are not UTF-8 become lone surrogates."""
        raw = self.raw
        return raw[raw.index(b":") + 1 :].decode("utf-8", "surrogateescape").strip(" \t\r\n")


@value(frozen=True, slots=True)
class Header:
    """The fields in order. `body` is the offset of the first byte behind the empty line, or the file's size."""

    fields: tuple[Field, ...]
    body: int
    mbox_line: bytes = b""  # the `From ` line at the very top, line end included
    empty_line: bool = True  # False: the file ends with its last field
    keys: frozenset[str] = field(init=False, compare=False, repr=False)  # most names that are looked for are not there

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", frozenset([one.key for one in self.fields]))

    def named(self, *keys: str) -> list[Field]:
        """The fields of these names (in lower case), in the order of the file."""
        return [] if self.keys.isdisjoint(keys) else [one for one in self.fields if one.key in keys]


def split_header(data: bytes, limit: int = MAX_HEADER, *, complete: bool = True) -> Header | Unreadable:
    """The header at the start of `data`, the first bytes of a file.

    `limit` is the largest header taken, in bytes, with its empty line. `complete`: `data` is the whole file, so its
    end may end the header; otherwise it holds at least the first `limit` bytes.
    """
    if not data:
        return Unreadable("the file is empty")
    if data.startswith(b"\xef\xbb\xbf"):
        return Unreadable("the file begins with a byte order mark: write it as UTF-8 without one")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return Unreadable("the file is UTF-16: write it as UTF-8 without a byte order mark")
    whole = complete and len(data) <= limit
    data = data[:limit]
    mbox_line = b""
    if _MBOX.match(data) and (first := _FIRST_LINE.match(data)):
        mbox_line = first[0]
    start = position = len(mbox_line)
    end = start  # of the fields
    if data[start : start + 1] not in (b"\r", b"\n", b""):
        empty = _EMPTY_LINE.search(data, start)
        end = empty.start() + 1 if empty else len(data)
        two = data.find(b"\r\r", start, end)
        end = two + 1 if two >= 0 else end
    found = _FIELD.findall(data[start:end])
    fields: list[Field] = []
    for raw, name in found[: MAX_FIELDS + 1]:
        fields.append(Field(name.decode("ascii"), raw, position))
        position += len(raw)
    if position != end or len(fields) > MAX_FIELDS or data.find(b"\0", start, end) >= 0:
        return _not_fields(data, start, end)
    empty_line = _LINE_END.match(data, end)
    # A CR that is the last byte seen may be half of a CRLF.
    if not whole and (empty_line is None or (empty_line[0] == b"\r" and empty_line.end() == len(data))):
        return Unreadable(f"the header is longer than {limit} bytes: an empty line must end it before")
    if not fields:
        return Unreadable("the file has no header: it must begin with fields such as From: and To:, without empty line")
    if empty_line is None:
        return Header(tuple(fields), len(data), mbox_line, empty_line=False)
    return Header(tuple(fields), empty_line.end(), mbox_line)


def _not_fields(data: bytes, start: int, end: int) -> Unreadable:
    """What is wrong first between these two: there is something."""
    position, number = start, 0
    while match := _FIELD.match(data, position, end):
        if b"\0" in match[0]:
            return Unreadable(f"line {_line(data, position)} of the header holds a NUL byte: this is not a mail")
        if number == MAX_FIELDS:
            return Unreadable(f"the header has more than {MAX_FIELDS} fields")
        position, number = match.end(), number + 1
    return _not_a_field(data, position, first=position == start)


def _not_a_field(data: bytes, position: int, *, first: bool) -> Unreadable:
    match = _FIRST_LINE.match(data, position)
    line = match[0] if match else b""
    excerpt = shown(line[:60].decode("utf-8", "backslashreplace").rstrip("\r\n"))
    where = f"line {_line(data, position)} ({excerpt})"
    if b"\0" in line:
        return Unreadable(f"{where} holds a NUL byte: this is not a mail")
    if first:
        return Unreadable(f"{where} is no header field: a mail begins with fields such as From: and To:")
    return Unreadable(f"{where} is no header field: an empty line must separate header and body")


def _line(data: bytes, position: int) -> int:
    return 1 + sum(1 for _ in _LINE_END.finditer(data, 0, position))


def pickup_block(header: Header) -> tuple[Field, ...]:
    """The X-Sender/X-Receiver block: the very first fields, and only if one of these two is among them."""
    if "x-sender" not in header.keys and "x-receiver" not in header.keys:
        return ()
    block: list[Field] = []
    for one in header.fields:
        if one.key not in BLOCK_FIELDS:
            break
        block.append(one)
    return tuple(block) if any(one.key in ("x-sender", "x-receiver") for one in block) else ()


def removed(header: Header, *, pickup: bool) -> tuple[str, ...]:
    """What `edit` takes away: the names as written, in order; "From " is the mbox line."""
    block = pickup_block(header) if pickup else ()
    names = [one.name for one in block]
    if not header.keys.isdisjoint(_REMOVED):
        names += [one.name for one in header.fields[len(block) :] if one.key in _REMOVED]
    return ("From ", *names) if header.mbox_line else tuple(names)


def kept(header: Header, *, pickup: bool) -> list[Field]:
    """What `edit` leaves in place, and what may be shown of a message to others than its producer."""
    block = pickup_block(header) if pickup else ()
    if header.keys.isdisjoint(_REMOVED):
        return list(header.fields[len(block) :])
    return [one for one in header.fields[len(block) :] if one.key not in _REMOVED]


def edit(
    header: Header,
    *,
    queue_id: str,
    node: str,
    arrived_at: float,
    uid: int | None,
    pickup: bool,
    from_address: str,
    rewrite_from: RewriteFrom,
    sender: str,
    redirected: tuple[str, ...] = (),
    revise: Callable[[list[Field]], list[Field]] = list,
) -> bytes:
    """The header as it goes on the wire: CRLF only, with the empty line if the file has one; the body follows.

    The same arguments give the same bytes, so every try of a message sends the same. `arrived_at` is in seconds
    since the epoch, `uid` the owner of the file, `sender` the envelope's before `from_address` was applied: with the
    null sender no From is touched. `pickup`: the folder's envelope rule is "pickup", so an X-Sender/X-Receiver block
    at the top goes. `queue_id` and `node` must be atoms (RFC 5322 section 3.2.3); the Message-ID is made of them
    alone, as nothing else is sure to be the same after a reload. `redirected`: who should have received it, where
    somebody else does in their place. `revise`: what else becomes of the fields that stay.
    """
    fields = revise(kept(header, pickup=pickup))
    when = date(arrived_at)
    owner = "" if uid is None else f" (uid {uid})"
    # RFC 5321 section 4.4; without "from", since no host handed this mail in.
    lines = [f"Received: by {node} (mailrelayd) with local id {queue_id}{owner};\r\n\t{when}\r\n".encode()]
    if redirected:
        lines.append(_original_recipients(redirected))
    if from_address and sender and rewrite_from in ("always", "if-missing"):
        lines += _with_from(fields, from_address, replace=rewrite_from == "always")
    else:
        lines += [one.raw for one in fields]
    if not header.empty_line:  # the last field of such a file may have no line end
        lines = [_with_crlf(line) for line in lines]
    present = {one.key for one in fields}
    # At the end, so that our Received stays next to older ones (RFC 5322 section 3.6.7).
    if "message-id" not in present:
        lines.append(f"Message-ID: {message_id(queue_id, node)}\r\n".encode())
    if "date" not in present:
        lines.append(f"Date: {when}\r\n".encode())
    edited = _with_crlf(b"".join(lines))
    return edited + b"\r\n" if header.empty_line else edited


def message_id(queue_id: str, node: str) -> str:
    """The Message-ID of a message that has none of its own; the same over every try."""
    return f"<{queue_id}@{node}>"


def _original_recipients(recipients: tuple[str, ...]) -> bytes:
    """X-Original-Recipients, an address per line. In ASCII: the address that stands in may be reached without
    SMTPUTF8."""
    named = [recipient.encode("ascii", "backslashreplace") for recipient in recipients[:MAX_REDIRECTED]]
    more = len(recipients) - len(named)
    rest = b"\r\n (and %d more)" % more if more else b""
    return b"X-Original-Recipients: " + b",\r\n ".join(named) + rest + b"\r\n"


def _with_from(fields: list[Field], from_address: str, *, replace: bool) -> list[bytes]:
    """The raw fields with `from_address` as From; the author's own From becomes Reply-To unless there is one."""
    authors = [one for one in fields if one.key == "from"]
    ours = f"From: {from_address}\r\n".encode()
    if not authors:
        return [*(one.raw for one in fields), ours]
    if not replace or _addresses(authors) == [from_address]:
        return [one.raw for one in fields]
    lines: list[bytes] = []
    for one in fields:
        if one is authors[0]:
            lines.append(ours)
            if not any(other.key == "reply-to" for other in fields):
                lines.append(
                    b"Reply-To:" + b",".join(author.content.rstrip(b" \t\r\n") for author in authors) + b"\r\n"
                )
        elif one.key != "from":
            lines.append(one.raw)
    return lines


def _addresses(fields: list[Field]) -> list[str] | None:
    try:
        return [address for one in fields for address in read_list(one.text)]
    except AddressError:
        return None


def _with_crlf(lines: bytes) -> bytes:
    """Each line with CRLF, the last one as well. What ends a line in bytes for Python ends one here."""
    return b"\r\n".join(lines.splitlines()) + b"\r\n"


def date(seconds: float) -> str:
    """RFC 5322 section 3.3, in UTC and in English whatever the locale."""
    days, second = divmod(int(seconds), 86400)
    minute, second = divmod(second, 60)
    hour, minute = divmod(minute, 60)
    return f"{_day(days)} {hour:02}:{minute:02}:{second:02} +0000"


@lru_cache(maxsize=8)
def _day(days: int) -> str:
    at = datetime.fromtimestamp(days * 86400, UTC)
    return f"{_DAYS[at.weekday()]}, {at.day:02} {_MONTHS[at.month - 1]} {at.year:04}"
