"""Puts files into a message without writing any of its own parts anew. Pure: bytes in, bytes out.

A multipart/mixed message gets further parts before its closing boundary. Anything else, signed mail above all, becomes
the first part of a new multipart/mixed: its Content fields move there as they are, and so does its body.
"""

from __future__ import annotations

import binascii
import hashlib
import io
import re
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from mailrelayd.outbound.handin import Split, split
from mailrelayd.outbound.headers import Field, Unreadable

LONGEST_NAME = 200  # bytes in UTF-8: encoded (RFC 2231) it still fits into a line of 998 (RFC 5322 section 2.1.1)
BASE64_LINE = 57  # bytes that become a line of 76 characters (RFC 2045 section 6.8)

_LINE_END = re.compile(rb"\r\n|\r|\n")
_MIXED = re.compile(r"[ \t\r\n]*multipart/mixed[ \t\r\n]*(?:;|$)", re.IGNORECASE)
_BOUNDARY = re.compile(
    r';[ \t\r\n]*boundary[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)+)"|([^\s;"()<>@,:\\/\[\]?=]+))', re.IGNORECASE
)
_UNSAFE = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]')


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file as its receiver sees it; `name` is `safe`."""

    name: str
    content: bytes
    type: str = "application/octet-stream"


def safe(name: str) -> str:
    """A name that every receiver can save: no path, no control characters, no device of the shell's, not too long."""
    name = _UNSAFE.sub("_", name).strip(" .") or "log"
    while len(name.encode()) > LONGEST_NAME:
        stem, dot, ending = name.rpartition(".")
        name = stem[:-1] + dot + ending if dot and len(ending) < 20 and stem else name[:-1]
    return name


def logs(instance: str, files: Sequence[tuple[str, bytes]]) -> list[Attachment]:
    """Logs as FlexDeploy sends them: one as INSTANCE_NAME, several as INSTANCE_logs.zip with their own names inside."""
    before = f"{instance}_" if instance else ""
    if len(files) > 1:
        return [Attachment(safe(f"{before}logs.zip"), _zipped(files), "application/zip")]
    return [Attachment(safe(before + name), content, _text_type(content)) for name, content in files]


def attached(message: bytes, attachments: Sequence[Attachment]) -> bytes | Unreadable:
    """The message with these attachments."""
    parts = split(message, complete=True)
    if not attachments or not isinstance(parts, Split):
        return parts if isinstance(parts, Unreadable) else message
    found = _LINE_END.search(message)
    end = found[0] if found else b"\n"
    fields = parts.header.named("content-type")
    # With an encoding of its own (which RFC 2045 section 6.4 forbids) the boundary would not be where it seems to be.
    plain = all(
        one.text.lower() in ("7bit", "8bit", "binary") for one in parts.header.named("content-transfer-encoding")
    )
    if len(fields) == 1 and plain and (boundary := _mixed_boundary(fields[0])):
        closing = re.compile(rb"^--" + re.escape(boundary) + rb"--[ \t]*\r?$", re.MULTILINE).search(message, parts.body)
        if closing is not None:
            more = b"".join(b"--" + boundary + end + _part(one, end) for one in attachments)
            return message[: closing.start()] + more + message[closing.start() :]
    return _wrapped(message, parts, attachments, end)


def _mixed_boundary(field: Field) -> bytes:
    """The boundary of a multipart/mixed; b"" where it is none, or has one that cannot be told for sure."""
    found = _BOUNDARY.findall(field.text)
    if not _MIXED.match(field.text) or len(found) != 1:
        return b""
    quoted, token = found[0]
    boundary: str = re.sub(r"\\(.)", r"\1", quoted) or token
    return boundary.encode() if boundary.isascii() and boundary.isprintable() else b""


def _wrapped(message: bytes, parts: Split, attachments: Iterable[Attachment], end: bytes) -> bytes:
    body = message[parts.body :]
    boundary = _boundary(message)
    # Content-Length is no MIME field; it would be wrong, and never goes on the wire.
    kept = [one for one in parts.header.fields if not one.key.startswith("content-")]
    moved = [one for one in parts.header.fields if one.key.startswith("content-") and one.key != "content-length"]
    lines = [one.raw if one.raw.endswith((b"\r", b"\n")) else one.raw + end for one in kept]
    if not any(one.key == "mime-version" for one in kept):
        lines.append(b"MIME-Version: 1.0" + end)
    lines.append(b'Content-Type: multipart/mixed; boundary="' + boundary + b'"' + end)
    if not body.isascii():
        lines.append(b"Content-Transfer-Encoding: 8bit" + end)  # RFC 2045 section 6.4: as its parts
    lines.append(end + b"--" + boundary + end)
    lines += [one.raw if one.raw.endswith((b"\r", b"\n")) else one.raw + end for one in moved]
    if not moved and not body.isascii() and _text_type(body).startswith("text/"):
        lines += [b"Content-Type: text/plain; charset=utf-8" + end, b"Content-Transfer-Encoding: 8bit" + end]
    lines += [end, body, end]  # this line end belongs to the boundary (RFC 2046 section 5.1.1)
    lines += [b"--" + boundary + end + _part(one, end) for one in attachments]
    return b"".join([*lines, b"--" + boundary + b"--" + end])


def _boundary(message: bytes) -> bytes:
    """One that stands nowhere in the message, and is the same for the same message."""
    digest = hashlib.sha256(message)
    while (boundary := b"=_" + digest.hexdigest()[:32].encode()) in message:
        digest.update(b"again")
    return boundary


def _part(attachment: Attachment, end: bytes) -> bytes:
    disposition = f"attachment; filename={_parameter(attachment.name)}"
    if not attachment.name.isascii():
        disposition = f"attachment;{end.decode()} filename*=utf-8''{quote(attachment.name, safe='')}"  # RFC 2231
    header = (
        f"Content-Type: {attachment.type}",
        "Content-Transfer-Encoding: base64",
        f"Content-Disposition: {disposition}",
    )
    content = attachment.content
    lines = [
        binascii.b2a_base64(content[start : start + BASE64_LINE], newline=False)
        for start in range(0, len(content), BASE64_LINE)
    ]
    return end.join([*(line.encode() for line in header), b"", *lines, b""])


def _parameter(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _text_type(content: bytes) -> str:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return "application/octet-stream"
    return "application/octet-stream" if b"\0" in content else "text/plain; charset=utf-8"


def _zipped(files: Iterable[tuple[str, bytes]]) -> bytes:
    """The same bytes for the same files, whenever they are written."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in zip(_distinct(safe(name) for name, _ in files), (one for _, one in files), strict=True):
            member = zipfile.ZipInfo(name)  # dated 1980, the first day that the format knows
            member.compress_type = zipfile.ZIP_DEFLATED
            member.create_system = 3
            member.external_attr = 0o100644 << 16
            archive.writestr(member, content)
    return target.getvalue()


def _distinct(names: Iterable[str]) -> list[str]:
    """Each name once, whatever the case: a.log, a_2.log, a_3.log."""
    taken: set[str] = set()
    result = []
    for name in names:
        stem, dot, ending = name.rpartition(".")
        one, number = name, 1
        while one.casefold() in taken:
            number += 1
            one = f"{stem}_{number}.{ending}" if dot else f"{name}_{number}"
        taken.add(one.casefold())
        result.append(one)
    return result
