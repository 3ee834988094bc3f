"""The report to a sender whose message was given up for somebody: RFC 3464 in a multipart/report (RFC 6522). Pure.

A person reads the first part, programs the second; the third is the header of the message, by which both recognise
it. All of it is 7-bit, whatever the addresses hold, so that no server has to be able to do more for the report than
for any other mail. The one exception is the To field of a sender whose own address is not ASCII: it cannot be reached
without SMTPUTF8 anyway.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping

from mailrelayd.outbound import delivery, headers
from mailrelayd.outbound.headers import Field, Header
from mailrelayd.outbound.values import QueuedMessage, RecipientRecord, Response, Stage

MAX_HEADER = 1 << 14  # bytes of the original header that come along, in whole fields
MAX_NAMED = 50  # recipients that the text for people names
MAX_REPORTED = 1000  # recipients in the part for programs
MAX_DIAGNOSTIC = 800  # characters of a server's answer
LINE = 76  # characters; RFC 2045 section 6.7 and good manners

EXPIRED = "4.4.7"  # RFC 3463 section 3.5: delivery time expired

_ADVICE = {
    "unknown_user": "Check the spelling of the address: the server does not know it.",
    "mailbox_full": "The mailbox is full: send the message again later, or reach its owner by other means.",
    "size": "Send a smaller message.",
    "policy": "The server refuses this by its rules: its operators, or ours, can tell why.",
}
_MESSAGE_ID = re.compile(r"<[^<>\s\x00-\x20\x7f-\U0010ffff]{1,250}>")
_FOLDS = re.compile(rb"(?:(?:\r\n|\r|\n)[ \t]+)+")
_LINE_END = re.compile(rb"\r\n|\r|\n")
_NOT_PLAIN = re.compile(r"[^!-*,-<>-\[\]-~]")  # RFC 6533 section 3: what is no QCHAR


def report(
    message: QueuedMessage,
    failed: Mapping[str, RecipientRecord],
    header: Header | None,
    *,
    node: str,
    from_address: str,
    now: float,
    relay: str = "",
    pickup: bool = False,
) -> bytes:
    """The whole mail that tells `message`'s sender of these recipients, CRLF throughout.

    `header` is the original's, if it can still be read; `pickup` as in `headers.kept`; `relay` is whom the recipients
    were asked of, "host[ip]:port". The same failure of the same message gives the same Message-ID, so that a report
    repeated after a crash can be recognised.
    """
    original = headers.kept(header, pickup=pickup) if header else []
    about = _message_id(original, headers.message_id(message.queue_id, node))
    own_id = headers.message_id(f"{message.queue_id}.{message.revision}.dsn", node)
    sender = from_address if from_address.isascii() and from_address else f"MAILER-DAEMON@{node}"
    parts = [
        _text(_for_people(message, failed, node, relay)),
        _part("message/delivery-status", _for_programs(message, failed, node, relay)),
    ]
    if original:
        parts.append(_text(_returned(original), "text/rfc822-headers"))
    boundary = _boundary(message.queue_id, parts)
    top = [
        f"From: Mail Delivery System <{sender}>",
        f"To: <{message.envelope.sender}>",
        f"Date: {headers.date(now)}",
        f"Message-ID: {own_id}",
        *([f"In-Reply-To: {about}", f"References: {about}"] if about else []),
        "Auto-Submitted: auto-replied",  # RFC 3834 section 5: nobody's programs answer it
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary="{boundary}"',
    ]
    head = "\r\n".join(top).encode() + b"\r\nSubject: Undelivered mail" + _subject(original) + b"\r\n\r\n"
    divider = b"--" + boundary.encode()
    return head + b"".join(divider + b"\r\n" + part + b"\r\n" for part in parts) + divider + b"--\r\n"


# -- for people ------------------------------------------------------------------------------------------------


def _for_people(message: QueuedMessage, failed: Mapping[str, RecipientRecord], node: str, relay: str) -> bytes:
    named = list(failed.items())[:MAX_NAMED]
    lines = [
        f"This is mailrelayd, the mail system of {node}.",
        "",
        f"Your message could not be delivered to {_who(len(failed))}, and is not",
        "tried again by itself:",
        "",
    ]
    for recipient, record in named:
        lines += [f"  {recipient}", f"    {_what_happened(record, relay)}"]
    if len(failed) > len(named):
        lines += [f"  and {len(failed) - len(named)} more."]
    advice = list(dict.fromkeys(_advice(record) for record in failed.values()))
    lines += ["", *advice[:MAX_NAMED], ""]
    lines += [
        f"Your message was taken over on {headers.date(message.progress.arrived_at)}"
        + (f" as the file {message.file!a}." if message.file else "."),
        f"It is not lost: it is kept on {node} under the queue id {message.queue_id}, where",
        f"its operators can look at it (mailrelayd queue show {message.queue_id}) and try",
        f"again (mailrelayd queue retry {message.queue_id}).",
        "",
    ]
    return "\r\n".join(lines).encode("utf-8", "backslashreplace")


def _who(count: int) -> str:
    return "this recipient" if count == 1 else f"these {count} recipients"


def _what_happened(record: RecipientRecord, relay: str) -> str:
    response = record.response
    host = _host(relay)
    said = f"{host or 'the server'} said: {response}" if _answered(response) else response.text
    if record.reason == "expired" and record.attempts:
        return f"given up after {record.attempts} tries. {said}".rstrip()
    if record.reason == "by-hand":
        return "given up by an operator" + (f". Before, {said}" if record.attempts else "")
    return said or record.reason


def _advice(record: RecipientRecord) -> str:
    if record.reason in ("expired", "by-hand"):
        return "Send the message again if it still matters, or reach the recipient by other means."
    return _ADVICE.get(delivery.reason_of(record.response), "If this says nothing to you, ask the operators.")


# -- for programs ----------------------------------------------------------------------------------------------


def _for_programs(message: QueuedMessage, failed: Mapping[str, RecipientRecord], node: str, relay: str) -> bytes:
    """RFC 3464 section 2: fields about the message, then a block for each recipient."""
    blocks = [
        [
            f"Reporting-MTA: dns; {node}",
            f"X-Mailrelayd-Queue-ID: {message.queue_id}",
            f"Arrival-Date: {headers.date(message.progress.arrived_at)}",
        ]
    ]
    for recipient, record in list(failed.items())[:MAX_REPORTED]:
        response = record.response
        block = [f"Final-Recipient: {typed(recipient)}", "Action: failed", f"Status: {_status(record)}"]
        if _answered(response):
            if host := _host(relay):
                block.append(f"Remote-MTA: dns; {host}")
            block.append(_folded("Diagnostic-Code: smtp;", str(response)))
        elif response.text:
            block.append(_folded("Diagnostic-Code: X-mailrelayd;", response.text))
        if record.attempts and record.reason != "by-hand":
            block.append(f"Last-Attempt-Date: {headers.date(record.at)}")
        blocks.append(block)
    return "\r\n".join("\r\n".join(block) + "\r\n" for block in blocks).encode("ascii")


def typed(address: str) -> str:
    """An address with its type, in ASCII: RFC 6533 section 3 (utf-8-addr-xtext) for those that are not."""
    if address.isascii():
        return f"rfc822; {address}"
    return "utf-8; " + _NOT_PLAIN.sub(lambda found: f"\\x{{{ord(found[0]):02X}}}", address)


def _status(record: RecipientRecord) -> str:
    """RFC 3463; the server's own word where it is one for a failure."""
    if record.reason == "expired":
        return EXPIRED
    enhanced = record.response.enhanced
    return enhanced if enhanced.startswith("5.") else "5.0.0"


def _answered(response: Response) -> bool:
    """Whether a server said it."""
    return response.stage is not Stage.LOCAL and response.code > 0


def _host(relay: str) -> str:
    return relay.partition("[")[0]


def _folded(name: str, text: str) -> str:
    """A field of several lines, ASCII only, cut where it is too long; the text holds no line ends."""
    text = text.encode("ascii", "backslashreplace").decode()
    words = (text[:MAX_DIAGNOSTIC] + " (cut)" if len(text) > MAX_DIAGNOSTIC else text).split()
    lines, line = [], name
    for word in words:
        if len(line) + 1 + len(word) > LINE and line.strip():
            lines.append(line)
            line = ""
        line += f" {word}"
    return "\r\n".join([*lines, line])


# -- the original ----------------------------------------------------------------------------------------------


def _returned(fields: list[Field]) -> bytes:
    """The fields that fit, with our line ends."""
    kept, size = [], 0
    for field in fields:
        if size + len(field.raw) > MAX_HEADER:
            continue  # a To of a thousand addresses must not cost the Subject
        size += len(field.raw)
        kept.append(_LINE_END.sub(b"\r\n", field.raw.rstrip(b"\r\n")) + b"\r\n")
    return b"".join(kept)


def _message_id(fields: list[Field], added: str) -> str:
    """The original's, or the one that it got on its way; "" where that is not known, or could not stand in a header."""
    found = [_MESSAGE_ID.fullmatch(field.text) for field in fields if field.key == "message-id"]
    if fields and not found:
        return added
    return found[0][0] if len(found) == 1 and found[0] else ""


def _subject(fields: list[Field]) -> bytes:
    """The original's as it was written: words encoded by RFC 2047 stay encoded."""
    for field in fields:
        if field.key == "subject":
            text = _FOLDS.sub(b"\r\n ", field.content.strip(b" \t\r\n"))
            plain = text.isascii() and text.replace(b"\r\n ", b"").replace(b"\t", b"").decode("ascii").isprintable()
            if text and plain and len(text) <= 500:
                return b": " + text
    return b""


# -- MIME ------------------------------------------------------------------------------------------------------


def _text(data: bytes, kind: str = "text/plain") -> bytes:
    """A part of text, as it is where that is 7-bit with short lines (RFC 2045 section 2.7), else quoted-printable."""
    charset = "us-ascii" if data.isascii() else "utf-8"
    content = f"{kind}; charset={charset}" if kind == "text/plain" or charset != "us-ascii" else kind
    plain = data.isascii() and b"\0" not in data and all(len(line) <= 998 for line in data.split(b"\r\n"))
    return _part(content, data) if plain else _part(content, _quoted(data), "quoted-printable")


def _quoted(data: bytes) -> bytes:
    """RFC 2045 section 6.7."""
    lines = (binascii.b2a_qp(line, istext=False) for line in data.split(b"\r\n"))
    return b"\r\n".join(line.replace(b"=\n", b"=\r\n") for line in lines)


def _part(content: str, data: bytes, encoding: str = "7bit") -> bytes:
    return f"Content-Type: {content}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n".encode() + data


def _boundary(queue_id: str, parts: list[bytes]) -> str:
    """A line that stands in none of the parts, whatever their authors wished for."""
    number = 0
    while any(f"--{queue_id}.{number}".encode() in part for part in parts):
        number += 1
    return f"{queue_id}.{number}"
