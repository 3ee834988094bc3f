"""[approvals] mark_body: a block at the top of a request's text, for answers that keep nothing else. Pure.

Below the marker line whatever an answer repeats is quotation; the reference carries the token; two links open an answer
that is already written. Only the parts that people read are touched, byte by byte, and only where that is safe: nothing
signed or encrypted, no attachment, no charset in which ASCII means something else. Else the text stays as it was.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.header import decode_header
from itertools import pairwise
from urllib.parse import quote

from mailrelayd.outbound.asking import Asking
from mailrelayd.outbound.headers import Field, Unreadable, split_header

MAX_MARKED = 1 << 20  # bytes of a message; a larger one is left alone
MARKER = "-- Please do not modify below this line --"
DEEPEST = 10  # parts within parts
MOST_PARTS = 100  # in one multipart
LONGEST_SUBJECT = 400  # octets in a link: its line must not exceed 998 (RFC 5322 section 2.1.1)
LINE = 76  # octets of an encoded line (RFC 2045 section 6.7 and 6.8)

_LINE_END = re.compile(rb"\r\n|\r|\n")
_PARAMETER = re.compile(
    rb";[ \t\r\n]*([!#$&+.^_`|~0-9A-Za-z*%'{}-]++)[ \t]*=[ \t]*"
    rb'(?:"((?:[^"\\\r\n]|\\[^\r\n]|\r\n[ \t]|\r[ \t]|\n[ \t])*+)"|([^\s;"()<>@,:\\]++))[ \t\r\n]*'
)
_KIND = re.compile(rb"[ \t\r\n]*([a-z0-9!#$&^_.+-]++/[a-z0-9!#$&^_.+-]++)[ \t\r\n]*", re.I)
_TAG_BODY = re.compile(rb"<body(?=[\s/>])[^>\"']*+(?:(?:\"[^\"]*+\"|'[^']*+')[^>\"']*+)*>", re.I)
_HIDING = re.compile(rb"<!--|<(script|style|title|textarea|noscript|template|xml)(?=[\s/>])|<body(?=[\s/>])", re.I)
_OPENING = re.compile(rb"\s*+(?:<!doctype[^>]*+>\s*+)?(?:<html(?=[\s/>])[^>]*+>\s*+)?(?=(<head[\s/>])?)", re.I)
_SECURED = re.compile(r"multipart/(signed|encrypted|report)|application/(x-)?(pkcs7-mime|pgp-encrypted)", re.I)


@dataclass(frozen=True, slots=True)
class Block:
    """What is put on top, as text and as HTML; ASCII, without line ends."""

    plain: tuple[str, ...]
    html: tuple[str, ...]


class _LeftAloneError(Exception):
    """Something about the message makes it unsafe to touch it."""


def block(asking: Asking, token: str, fields: Sequence[Field]) -> Block:
    """The block for one approver's copy; `fields` are the message's: its Subject stands in the links."""
    reply_to = asking.reply_to(token)
    subject = f"Re: {_subject(fields)}".rstrip()
    while len(quote(subject)) > LONGEST_SUBJECT:
        subject = subject[:-1]
    if not asking.subaddressing:
        subject = f"{subject} [#{token}]"  # the block below may be cut off by the answer's author

    def link(word: str) -> str:
        body = f"{word}\r\n\r\n{MARKER}\r\nReference: {token}\r\n"
        return f"mailto:{quote(reply_to, safe='@')}?subject={quote(subject, safe='')}&body={quote(body, safe='')}"

    approve, reject = link("Approve"), link("Reject")
    plain = (MARKER, f"Reference: {token}", f"Approve: <{approve}>", f"Reject: <{reject}>", "")
    # Both words on one line: taken for an answer, it would be no clear one.
    links = [f'<a href="{html.escape(link)}">{word}</a>' for link, word in ((approve, "Approve"), (reject, "Reject"))]
    shown = (f"<div>{MARKER}<br>", f"Reference: {token}<br>", f"{links[0]} |", f"{links[1]}</div>", "<hr>")
    return Block(plain, shown)


def mark(fields: Sequence[Field], body: bytes, added: Block) -> bytes | None:
    """The body with the block in its first text and HTML parts; None: it is left alone. `fields` stay as they are."""
    if len(body) > MAX_MARKED:
        return None
    try:
        marked = _entity(fields, body, added, 0)
    except (_LeftAloneError, ValueError):
        return None
    return marked if marked != body else None


# -- MIME ------------------------------------------------------------------------------------------------------


def _entity(fields: Sequence[Field], body: bytes, added: Block, depth: int) -> bytes:
    """A message or a part of one (RFC 2046), marked."""
    kind, parameters = _content(fields, "content-type")
    if _SECURED.fullmatch(kind) or b"-----BEGIN PGP " in body or "smime-type" in parameters:
        raise _LeftAloneError
    if kind.startswith("multipart/"):
        if _encoding(fields) not in ("7bit", "8bit", "binary"):
            raise _LeftAloneError
        return _multipart(kind, parameters, body, added, depth)
    if kind not in ("text/plain", "text/html") or _is_attached(fields, parameters):
        return body
    encoding = _encoding(fields)
    if not _is_ascii_compatible(parameters.get("charset", "us-ascii")):
        raise _LeftAloneError
    text = _decoded(body, encoding)
    if b"-----BEGIN PGP " in text:
        raise _LeftAloneError
    end = found[0] if (found := _LINE_END.search(text)) else b"\r\n"
    lines = b"".join(line.encode("ascii") + end for line in (added.plain if kind == "text/plain" else added.html))
    at = 0 if kind == "text/plain" else _top_of_html(text)
    if at == 0 and encoding == "quoted-printable":
        return _encoded(lines, encoding) + body  # what was written stays as it was
    return _encoded(text[:at] + lines + text[at:], encoding)


def _multipart(kind: str, parameters: dict[str, str], body: bytes, added: Block, depth: int) -> bytes:
    boundary = parameters.get("boundary", "").rstrip(" ")
    if not 1 <= len(boundary) <= 70 or not boundary.isascii() or depth == DEEPEST:
        raise _LeftAloneError
    # A delimiter begins with the line end before it, and a line that only begins like it is none.
    delimiter = re.compile(rb"(?:\A|\r\n|\r|\n)--" + re.escape(boundary.encode()) + rb"(--)?[ \t]*+(?=\r\n|\r|\n|\Z)")
    found = []
    for match in delimiter.finditer(body):
        found.append(match)
        if match[1] or len(found) > MOST_PARTS:
            break
    if len(found) < 2 or not found[-1][1]:
        raise _LeftAloneError
    everyone = kind == "multipart/alternative"  # each says the same; of others the first is what people read
    pieces: list[bytes] = []
    at, readable = 0, True
    for opening, closing in pairwise(found):
        start = opening.end()
        if line_end := _LINE_END.match(body, start):
            start = line_end.end()
        # Without an empty line between, the line end belongs to both delimiters.
        part = body[start : closing.start()] if start < closing.start() else b""
        marked = _part(part, added, depth + 1, touch=readable)
        readable = everyone
        pieces += [body[at:start], marked]
        at = start + len(part)
    return b"".join([*pieces, body[at:]])


def _part(part: bytes, added: Block, depth: int, *, touch: bool) -> bytes:
    """One part with its own header; looked through even where it must not be touched: it may be a signature."""
    empty = _LINE_END.match(part)
    if empty is not None:
        fields: Sequence[Field] = ()
        start = empty.end()
    else:
        header = split_header(part)
        if isinstance(header, Unreadable):
            raise _LeftAloneError
        fields, start = header.fields, header.body
    marked = _entity(fields, part[start:], added, depth)
    return part[:start] + marked if touch else part


def _content(fields: Sequence[Field], name: str) -> tuple[str, dict[str, str]]:
    """The value of Content-Type in lower case, and its parameters (RFC 2045 section 5.1)."""
    found = [field.content for field in fields if field.key == name]
    if not found:
        return "text/plain", {}
    kind = _KIND.match(found[0])
    if len(found) > 1 or kind is None:
        raise _LeftAloneError
    parameters, position = {}, kind.end()
    while match := _PARAMETER.match(found[0], position):
        key = match[1].decode("ascii").lower()
        if key in parameters:
            raise _LeftAloneError
        value = re.sub(rb"\\(.)|[\r\n]", rb"\1", match[2]) if match[2] is not None else match[3]
        parameters[key] = value.decode("ascii", "replace")
        position = match.end()
    if found[0][position:].strip(b" \t\r\n;"):
        raise _LeftAloneError
    return kind[1].decode("ascii").lower(), parameters


def _encoding(fields: Sequence[Field]) -> str:
    found = [field.text for field in fields if field.key == "content-transfer-encoding"]
    if len(found) > 1:
        raise _LeftAloneError
    return found[0].lower() if found else "7bit"


def _is_attached(fields: Sequence[Field], parameters: dict[str, str]) -> bool:
    said = b"".join(field.content for field in fields if field.key == "content-disposition").lower()
    return b"attachment" in said or b"filename" in said or any(key.startswith("name") for key in parameters)


def _is_ascii_compatible(charset: str) -> bool:
    """Whether ASCII bytes mean themselves in it: not so in UTF-16, UTF-7, EBCDIC."""
    sample = "".join(map(chr, range(32, 127)))
    try:
        return sample.encode(charset) == sample.encode("ascii")
    except (LookupError, ValueError):
        return False


def _decoded(body: bytes, encoding: str) -> bytes:
    match encoding:
        case "7bit" | "8bit" | "binary":
            return body
        case "quoted-printable":
            return binascii.a2b_qp(body)
        case "base64":
            return base64.b64decode(re.sub(rb"[ \t\r\n]", b"", body), validate=True)
    raise _LeftAloneError


def _encoded(text: bytes, encoding: str) -> bytes:
    match encoding:
        case "quoted-printable":
            lines = (binascii.b2a_qp(line, istext=False) for line in _LINE_END.split(text))
            return b"\r\n".join(line.replace(b"=\n", b"=\r\n") for line in lines)
        case "base64":
            data = base64.b64encode(text)
            return b"\r\n".join(data[at : at + LINE] for at in range(0, len(data), LINE)) + b"\r\n"
    return text


# -- HTML and the subject --------------------------------------------------------------------------------------


def _top_of_html(text: bytes) -> int:
    """Where the text begins that is shown: behind <body>, wherever nothing hides that; else before everything."""
    position, lowered = 0, text.lower()
    while match := _HIDING.search(text, position):
        if match[0] == b"<!--":
            end = text.find(b"-->", match.end())
            position = end + 3
        elif match[1]:
            end = lowered.find(b"</" + match[1].lower(), match.end())
            position = end + 1
        else:
            body = _TAG_BODY.match(text, match.start())
            end = body.end() if body else -1
            if body:
                return end
        if end < 0:
            raise _LeftAloneError
    opening = _OPENING.match(text)
    if opening is None or opening[1]:  # a head without a body: where it ends only a browser knows
        raise _LeftAloneError
    return opening.end()


def _subject(fields: Sequence[Field]) -> str:
    """The message's subject as people read it; "" where it cannot be read."""
    found = next((field.content for field in fields if field.key == "subject"), b"").strip(b" \t\r\n")[:1000]
    text = " ".join(found.decode("utf-8", "replace").split())
    try:
        words = decode_header(text)
        text = "".join(
            word if isinstance(word, str) else word.decode(charset or "ascii", "replace") for word, charset in words
        )
    except (HeaderParseError, LookupError, ValueError):
        return ""
    return "".join(c if c.isprintable() else " " for c in text)[:LONGEST_SUBJECT].strip()
