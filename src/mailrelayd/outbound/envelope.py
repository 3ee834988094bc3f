"""Who sends a queued file and who receives it: the first rule that applies decides.

1. the sidecar NAME.env.json; 2. the X-Sender/X-Receiver block, in folders with `envelope = "pickup"`; 3. the header
(RFC 5322 section 3.6): recipients from the topmost Resent block, else To, Cc and Bcc; sender from Return-Path, else
the Resent block, Sender, From. Pure and total: any bytes give a value or an Unreadable with the reason.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from mailrelayd.outbound.addresses import AddressError, canonical, matches, read_list, read_path, shown, unique
from mailrelayd.outbound.headers import (
    APPROVAL_FIELDS,
    Field,
    Header,
    RewriteFrom,
    Unreadable,
    pickup_block,
    removed,
)
from mailrelayd.outbound.values import Envelope
from mailrelayd.value import value

EnvelopeRule = Literal["headers", "pickup"]

MAX_SIDECAR = 1024 * 1024  # bytes
MAX_KEY = 200  # characters of an idempotency key

_KEYS = ("mail_from", "rcpt_to", "not_before", "idempotency_key")

_RFC3339 = re.compile(
    r"(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}:\d{2})(\.\d+)?([Zz]|[+-]\d{2}:\d{2})", re.ASCII
)  # RFC 3339 section 5.6


@dataclass(frozen=True, slots=True)
class Producer:
    """Who writes into a folder: [pickup.NAME], or everybody, with the name "", for pickup/ itself."""

    name: str = ""
    envelope: EnvelopeRule = "headers"
    allowed_senders: tuple[str, ...] = ()  # patterns as in addresses.matches; none: anybody


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What NAME.env.json says. `not_before`: seconds since the epoch, 0.0 where nothing is said; `key` likewise ""."""

    envelope: Envelope
    not_before: float = 0.0
    key: str = ""  # the idempotency key, as its producer wrote it


@value(frozen=True, slots=True)
class Derived:
    """The envelope of a file and how it was found, for `mailrelayd spool explain`."""

    envelope: Envelope
    rule: str  # "sidecar", "pickup", "resent" or "headers"
    sender_from: str  # "sidecar", "from_address" or the name of the field
    stripped: tuple[str, ...]  # what will not go on the wire, as in headers.removed


class _RefusedError(Exception):
    """Carries a reason from where it is found to the function that returns it as Unreadable."""


def parse_sidecar(data: bytes) -> Sidecar | Unreadable:
    """Read the bytes of NAME.env.json: the keys of `_KEYS` and no others, the first two of them required."""
    try:
        return _sidecar(data)
    except _RefusedError as error:
        return Unreadable(f"the sidecar (.env.json) is refused: {error}")


def read_envelope(
    header: Header,
    rule: EnvelopeRule,
    *,
    sidecar: Sidecar | None = None,
    from_address: str = "",
    rewrite_from: RewriteFrom = "envelope",
    producer: Producer | None = None,
    may_ask: bool = False,
) -> Derived | Unreadable:
    """The envelope of a file in a folder whose `envelope` setting is `rule`; `producer`: whose folder, if anybody's.

    In a "pickup" folder a file without block is read by its header, as any other. The sender is the file's own:
    `from_address` stands in only where the file names none (see `rewrite` for the rest). `may_ask`: whoever calls
    sees to requests for approval; else they are refused.
    """
    try:
        # Sent as plain mail, such a request would ask for an answer that nobody reads.
        if not may_ask and (request := header.named(*APPROVAL_FIELDS)):
            raise _RefusedError(not_enabled(request[0]))
        derived = _derive(header, rule, sidecar, from_address if rewrite_from != "never" else "")
        if producer is not None and producer.allowed_senders:
            _check_senders(header, derived, producer)
    except _RefusedError as error:
        return Unreadable(str(error))
    return derived


def forbidden(header: Header, producer: Producer) -> Unreadable | None:
    """Why a queued file must not go out: its producer kept it open, and wrote a sender that is not allowed into it."""
    if producer.allowed_senders:
        try:
            _check_named(_named_to_people(header), producer)
        except _RefusedError as error:
            return Unreadable(str(error))
    return None


def not_enabled(field: Field) -> str:
    """Why a message with this field is refused where nobody can open requests for approval."""
    return f"approvals are not enabled, and the header has {field.name}: remove it to send"


def rewrite(envelope_sender: str, from_address: str, rewrite_from: RewriteFrom) -> str:
    """The sender as said to the server; the null sender "" stays, or a bounce could be answered by a bounce."""
    if envelope_sender and from_address and rewrite_from in ("envelope", "always"):
        return from_address
    return envelope_sender


def _derive(header: Header, rule: EnvelopeRule, sidecar: Sidecar | None, stand_in: str) -> Derived:
    stripped = removed(header, pickup=rule == "pickup")
    if sidecar is not None:
        return Derived(sidecar.envelope, "sidecar", "sidecar", stripped)
    if rule == "pickup" and (block := pickup_block(header)):
        return Derived(_from_block(block), "pickup", "X-Sender", stripped)
    return _from_header(header, stripped, stand_in)


def _check_senders(header: Header, derived: Derived, producer: Producer) -> None:
    """Whoever is named as sender anywhere, to the server or to people, must be allowed; somebody must be named."""
    named = [(derived.sender_from, derived.envelope.sender)] if derived.envelope.sender else []
    if derived.sender_from == "from_address":
        named = []  # the configuration's own, where the file names nobody
    named += _named_to_people(header)
    _check_named(named, producer)
    if not named and derived.sender_from != "from_address":
        key = _setting(producer)
        raise _RefusedError(f"the null sender, and no From: {key} cannot tell whether it is allowed in this folder")


def _named_to_people(header: Header) -> list[tuple[str, str]]:
    """The senders that its readers see, each with the name of its field."""
    fields = header.named("from", "sender", "resent-from", "resent-sender")
    return [(field.name, address) for field in fields for address in _list(field)]


def _check_named(named: list[tuple[str, str]], producer: Producer) -> None:
    for where, address in named:
        if not matches(address, producer.allowed_senders):
            whose = "the sidecar" if where == "sidecar" else where
            reason = f"names {shown(address)} as sender, which {_setting(producer)} does not allow in this folder"
            raise _RefusedError(f"{whose} {reason}")


def _setting(producer: Producer) -> str:
    return f"[pickup.{producer.name}] allowed_senders"


def _from_block(block: tuple[Field, ...]) -> Envelope:
    senders = [field for field in block if field.key == "x-sender"]
    receivers = [field for field in block if field.key == "x-receiver"]
    if len(senders) != 1:
        raise _RefusedError(f"the block at the top has {len(senders) or 'no'} X-Sender lines: exactly one is needed")
    if not receivers:
        raise _RefusedError("the block at the top has no X-Receiver line: one per recipient is needed, at the very top")
    return Envelope(_path(senders[0], null=True), unique(_path(field) for field in receivers))


def _from_header(header: Header, stripped: tuple[str, ...], stand_in: str) -> Derived:
    resent = topmost_resent(header)
    if resent:
        rule, kinds = "resent", ("resent-to", "resent-cc", "resent-bcc")
        fields = [field for field in resent if field.key in kinds]
    else:
        rule, kinds = "headers", ("to", "cc", "bcc")
        fields = header.named(*kinds)
    recipients = unique([address for field in fields for address in _list(field)])
    if not recipients:
        names = ", ".join("-".join(part.title() for part in kind.split("-")) for kind in kinds)
        raise _RefusedError(f"no recipient: none of {names} holds an address, and there is no sidecar (.env.json)")
    sender, sender_from = _sender(header, resent, stand_in)
    return Derived(Envelope(sender, recipients), rule, sender_from, stripped)


def topmost_resent(header: Header) -> tuple[Field, ...]:
    """The latest resending (RFC 5322 section 3.6.6): each prepends its block, each name stands once in a block.

    Fields of other names may stand in between, since not every producer keeps a block together, but not a Received:
    the relay that took the earlier resending put it above that block.
    """
    block: dict[str, Field] = {}
    for field in header.fields:
        if field.key.startswith("resent-"):
            if field.key in block:
                break
            block[field.key] = field
        elif field.key == "received" and block:
            break
    return tuple(block.values())


def _sender(header: Header, resent: tuple[Field, ...], stand_in: str) -> tuple[str, str]:
    """The sender and where it was found. Fields without any content count as absent."""
    paths = _filled(header.named("return-path"))
    if len(paths) == 1:
        return _path(paths[0], null=True), paths[0].name
    if resent:
        for key in ("resent-sender", "resent-from"):
            if found := _filled([field for field in resent if field.key == key]):
                return _only(found, f"{found[0].name} without Resent-Sender" if key == "resent-from" else found[0].name)
    if found := _filled(header.named("sender")):
        return _only(found, found[0].name)
    if found := _filled(header.named("from")):
        # RFC 5322 section 3.6.2: several authors need a Sender. Several fields hide one of them from filters.
        return _only(found, "From without Sender")
    if stand_in:
        return stand_in, "from_address"
    raise _RefusedError("no sender: neither Return-Path, Sender nor From holds an address, and no from_address is set")


def _filled(fields: list[Field]) -> list[Field]:
    return [field for field in fields if field.text] if fields else fields


def _only(fields: list[Field], what: str) -> tuple[str, str]:
    addresses = [address for field in fields for address in _list(field)]
    if len(fields) != 1 or len(addresses) != 1:
        raise _RefusedError(f"{what}: {len(addresses) or 'no'} addresses in {len(fields)} field(s), one is needed")
    return addresses[0], fields[0].name


def _list(field: Field) -> list[str]:
    try:
        return read_list(field.text)
    except AddressError as error:
        raise _RefusedError(f"{field.name}: {error}") from None


def _path(field: Field, *, null: bool = False) -> str:
    try:
        return read_path(field.text, null=null)
    except AddressError as error:
        raise _RefusedError(f"{field.name}: {error}") from None


def _sidecar(data: bytes) -> Sidecar:
    if len(data) > MAX_SIDECAR:
        raise _RefusedError(f"it is larger than {MAX_SIDECAR} bytes")
    try:
        document = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_once)
    except UnicodeDecodeError:
        raise _RefusedError("it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise _RefusedError(f"it is not JSON: line {error.lineno}: {error.msg}") from None
    except (ValueError, RecursionError):  # numbers of thousands of digits, thousands of brackets
        raise _RefusedError("it is not JSON of a sane size") from None
    if not isinstance(document, dict):
        raise _RefusedError('it must be an object: {"mail_from": "...", "rcpt_to": ["..."]}')
    if unknown := sorted(set(document) - set(_KEYS)):
        names = ", ".join(shown(key) for key in unknown[:10])
        raise _RefusedError(f"unknown key {names}: known are {', '.join(_KEYS)}")
    for key in _KEYS[:2]:
        if key not in document:
            raise _RefusedError(f"{key} is missing")
    sender, recipients = document["mail_from"], document["rcpt_to"]
    if not isinstance(sender, str):
        raise _RefusedError('mail_from must be a text: an address, or "" for the null sender')
    if not isinstance(recipients, list) or not recipients or not all(isinstance(one, str) for one in recipients):
        raise _RefusedError("rcpt_to must be a list of at least one address")
    envelope = Envelope(
        "" if sender in ("", "<>") else _address("mail_from", sender),
        unique(_address("rcpt_to", recipient) for recipient in recipients),
    )
    return Sidecar(
        envelope,
        _instant(document["not_before"]) if "not_before" in document else 0.0,
        _key(document["idempotency_key"]) if "idempotency_key" in document else "",
    )


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object in which no key stands twice: which of the two counts would be a guess (RFC 8259 section 4)."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise _RefusedError("a key stands in it twice")
    return result


def _address(key: str, address: str) -> str:
    try:
        return canonical(address[1:-1] if address.startswith("<") and address.endswith(">") else address)
    except AddressError as error:
        raise _RefusedError(f"{key}: {error}") from None


def _key(text: object) -> str:
    if not isinstance(text, str) or not 1 <= len(text) <= MAX_KEY or not text.isprintable():
        raise _RefusedError(f"idempotency_key must be a text of 1 to {MAX_KEY} printable characters")
    return text


def _instant(text: object) -> float:
    match = _RFC3339.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise _RefusedError("not_before must be an RFC 3339 time such as 2026-01-31T08:00:00Z")
    day, clock, fraction, zone = match.groups()
    try:
        at = datetime.fromisoformat(f"{day}T{clock}{'+00:00' if zone in 'Zz' else zone}")
        return at.timestamp() + float(fraction or 0)
    except (ValueError, OverflowError):
        raise _RefusedError(f"not_before: {shown(match[0])} is no point in time") from None
