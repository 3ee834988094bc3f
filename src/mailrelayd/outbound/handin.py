"""What a message handed in by a program on this machine needs before it is one: addresses, a From, an envelope. Pure.

`sendmail` callers write `To: root`, leave out From, or hand in a text without any header. What is missing is added and
names without domain get one, as Postfix does for mail of local users; every other byte stays as it was, so that
signatures hold. Date and Message-ID come on the way out, as for a dropped file.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from mailrelayd.outbound.addresses import AddressError, canonical, read_list, shown, unique
from mailrelayd.outbound.barenames import qualified
from mailrelayd.outbound.envelope import read_envelope, topmost_resent
from mailrelayd.outbound.headers import APPROVAL_FIELDS, MAX_HEADER, Field, Header, Unreadable, split_header
from mailrelayd.outbound.submission import MAX_RECIPIENTS, Options
from mailrelayd.outbound.values import Envelope

LOCALHOST = "localhost"
LONGEST_NAME = 200  # characters
ENCODED = 45  # octets of text in one encoded word, which is 75 characters long at most (RFC 2047 section 2)

_ORDINARY = ("from", "sender", "reply-to", "to", "cc", "bcc")
_MAILBOXES = frozenset({*_ORDINARY, *(f"resent-{key}" for key in _ORDINARY)})
_RECIPIENTS = ("to", "cc", "bcc")
_RESENT_RECIPIENTS = ("resent-to", "resent-cc", "resent-bcc")

_FIELD = re.compile(rb"[!-9;-~]++[ \t]*+:[^\r\n]*+(?:(?:\r\n|\r|\n)[ \t][^\r\n]*+)*+(?:\r\n|\r|\n)?+")
_MBOX = re.compile(rb"From (?![ \t]*+:)[^\r\n]*+(?:\r\n|\r|\n)")
_LINE_END = re.compile(rb"\r\n|\r|\n")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+")
_PHRASE = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]+")  # atoms and blanks, RFC 5322 section 3.2.5


@dataclass(frozen=True, slots=True)
class Person:
    """Who hands a message in: the login name, and the full name of the user database ("" where there is none)."""

    login: str
    full_name: str = ""


@dataclass(frozen=True, slots=True)
class Site:
    """What names without a domain mean here."""

    domain: str  # behind a bare name
    hosts: frozenset[str] = field(default_factory=frozenset)  # this machine's own names, in lower case
    local_recipient: str = ""  # [submit] local_recipient: who reads the mail of this machine's users


@dataclass(frozen=True, slots=True)
class Edited:
    """A message that may be queued: `header`, with its empty line, then what it had from `body` on."""

    header: bytes
    body: int  # offset in the bytes that were given
    envelope: Envelope
    parsed: Header  # as it was given; `submit` may ask for approval in it


class Split(NamedTuple):
    """Where a message, or a text without any header, is divided."""

    header: Header
    fields: bytes  # all of them, each with its line end
    body: int  # offset of the first byte of the body


class _RefusedError(Exception):
    """Carries a reason from where it is found to the function that returns it as Unreadable."""


def split(data: bytes, *, complete: bool) -> Split | Unreadable | None:
    """Header and body of what a local program wrote; None: not `complete`, and more is needed to tell.

    The first line that can be no header field begins the body, also without an empty line before it.
    """
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        return Unreadable("the message begins with a byte order mark: write it as UTF-8 without one")
    mbox = _MBOX.match(data)
    # Only in front of a header: a text may begin with the word From.
    start = position = mbox.end() if mbox and _FIELD.match(data, mbox.end()) else 0
    while match := _FIELD.match(data, position):
        position = match.end()
    if position > MAX_HEADER:
        return Unreadable(f"the header is longer than {MAX_HEADER} bytes: an empty line must end it before")
    if not complete and _goes_on(data, position or (mbox.end() if mbox else 0)):
        return None if len(data) <= MAX_HEADER else Unreadable(f"no line ends within {MAX_HEADER} bytes")
    empty = _LINE_END.match(data, position)
    body = empty.end() if empty else position
    fields = data[start:position]
    if not fields:
        return Split(Header((), 0), b"", body)
    if not fields.endswith((b"\r", b"\n")):
        fields += _line_end(fields)
    header = split_header(fields + b"\n")
    return header if isinstance(header, Unreadable) else Split(header, fields, body)


def edit(options: Options, data: bytes, person: Person, site: Site, *, complete: bool) -> Edited | Unreadable | None:
    """What to queue of a message that begins with `data`; None: not `complete`, and its header has not ended."""
    parts = split(data, complete=complete)
    if parts is None or isinstance(parts, Unreadable):
        return parts
    if complete and not data:
        return Unreadable("the message is empty")
    try:
        return _edited(options, parts, person, site)
    except (_RefusedError, AddressError) as error:
        return Unreadable(str(error))


def written_addresses(text: str) -> list[str]:
    """The addresses in an argument, bare names as NAME@localhost. Raises AddressError."""
    content = qualified(text.encode("utf-8", "surrogateescape"), LOCALHOST)
    return read_list(content.decode("utf-8", "surrogateescape"))


# -- the message ---------------------------------------------------------------------------------------------------


def _goes_on(data: bytes, position: int) -> bool:
    """Whether more bytes could change what begins at `position`: a field, an empty line or the body."""
    end = _LINE_END.search(data, position)
    # A CR that is the last byte seen may be half of a CRLF.
    return end is None or (end.end() == len(data) and end[0] == b"\r")


def _edited(options: Options, parts: Split, person: Person, site: Site) -> Edited:
    header, end = parts.header, _line_end(parts.fields)
    if options.program == "sendmail" and (request := header.named(*APPROVAL_FIELDS)):
        raise _RefusedError(f"sendmail opens no approval request, and the header has {request[0].name}")
    sender = _sender(options, person, site)
    lines = [_with_domain(one, site.domain).raw for one in header.fields if one.key != "from" or one.text]
    if not any(one.text for one in header.named("from")):
        # The name in the user database is that of the user's own address, not of another that -f names.
        name = options.full_name or (person.full_name if options.sender is None else "")
        lines.append(b"From: " + _mailbox(name, sender or _own(person, site), end) + end)
    here = Header(tuple(_with_domain(one, LOCALHOST) for one in header.fields), header.body)
    if options.program == "submit":
        envelope = _as_dropped(here, sender, site)
    else:
        envelope = Envelope(sender, _recipients(options, here, site))
    return Edited(b"".join(lines) + end, parts.body, envelope, header)


def _line_end(fields: bytes) -> bytes:
    """The line end that is used already."""
    found = _LINE_END.search(fields)
    return found[0] if found else b"\n"


def _with_domain(one: Field, domain: str) -> Field:
    if one.key not in _MAILBOXES:
        return one
    return Field(one.name, one.raw[: -len(one.content)] + qualified(one.content, domain), one.offset)


def _mailbox(name: str, address: str, end: bytes) -> bytes:
    """The content of a From field."""
    name = "".join(c for c in name if c.isprintable()).strip()[:LONGEST_NAME]
    if not name:
        return address.encode()
    if not name.isascii():
        phrase = (end + b" ").join(_encoded_words(name))
    elif _PHRASE.fullmatch(name) and not name.startswith("=?"):
        phrase = name.encode()
    else:
        phrase = b'"' + name.replace("\\", "\\\\").replace('"', '\\"').encode() + b'"'
    return phrase + b" <" + address.encode() + b">"


def _encoded_words(text: str) -> list[bytes]:
    """RFC 2047 section 4.1, each with whole characters (section 5)."""
    words, word = [], ""
    for character in text:
        if len((word + character).encode()) > ENCODED:
            words.append(word)
            word = ""
        word += character
    return [b"=?utf-8?B?" + binascii.b2a_base64(one.encode(), newline=False) + b"?=" for one in (*words, word)]


# -- the envelope: a bare name is read as one at localhost, and both mean this site ----------------------------------


def _own(person: Person, site: Site) -> str:
    local = person.login
    if not _ATOMS.fullmatch(local):
        local = '"' + local.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return canonical(f"{local}@{site.domain}")


def _sender(options: Options, person: Person, site: Site) -> str:
    if options.sender is None:
        return _own(person, site)
    if options.sender.strip() in ("", "<>"):
        return ""
    found = written_addresses(options.sender)
    if len(found) != 1:
        raise _RefusedError(f"the sender {shown(options.sender)} is not one address")
    return _at_site(found[0], site)


def _recipients(options: Options, here: Header, site: Site) -> tuple[str, ...]:
    found = [address for written in options.recipients for address in written_addresses(written)]
    if options.read_header:
        resent = topmost_resent(here)
        fields = [one for one in resent or here.fields if one.key in (_RESENT_RECIPIENTS if resent else _RECIPIENTS)]
        found += [address for one in fields for address in _listed(one)]
    if not found:
        raise _RefusedError(
            "no recipient: " + ("neither To, Cc nor Bcc holds an address" if options.read_header else "none was named")
        )
    return _delivered(found, site)


def _as_dropped(here: Header, sender: str, site: Site) -> Envelope:
    """The envelope of a file with this header in the pickup folder; `sender` stands in where it names none."""
    derived = read_envelope(here, "headers", from_address=sender, may_ask=True)
    if isinstance(derived, Unreadable):
        raise _RefusedError(derived.reason.replace(", and there is no sidecar (.env.json)", ""))
    found = derived.envelope
    return Envelope(_at_site(found.sender, site) if found.sender else "", _delivered(found.recipients, site))


def _listed(one: Field) -> list[str]:
    try:
        return read_list(one.text)
    except AddressError as error:
        raise _RefusedError(f"{one.name}: {error}") from None


def _delivered(addresses: Iterable[str], site: Site) -> tuple[str, ...]:
    """Each once, those of this machine's users at whoever reads their mail."""
    found = unique(_to(address, site) for address in addresses)
    if len(found) > MAX_RECIPIENTS:
        raise _RefusedError(f"more than {MAX_RECIPIENTS} recipients: hand in several messages")
    return found


def _to(address: str, site: Site) -> str:
    domain = address.rpartition("@")[2].lower()
    if site.local_recipient and (domain == LOCALHOST or domain in site.hosts):
        return site.local_recipient
    return _at_site(address, site)


def _at_site(address: str, site: Site) -> str:
    local, _, domain = address.rpartition("@")
    return canonical(f"{local}@{site.domain}") if domain.lower() == LOCALHOST else address
