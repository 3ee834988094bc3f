"""The bytes of a mail -> its header fields and its tree of parts, in one pass.

Bounds are checked while the structure is found, before anything is decoded: any bytes give a Mail or an Unreadable.
What two programs could read differently (two boundaries, a part without end, junk in a header) is noted in
`Mail.doubts`, and a mail with doubts approves nothing. The standard library's parser is not used: its time is
quadratic in nested parts, and its recursion ends in an exception.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from mailrelayd.approvals.charsets import decode_words

JUDGED = 1024 * 1024  # bytes of a mail that are looked at
MAX_HEADER = 256 * 1024  # bytes
MAX_FIELDS = 2_000
MAX_PARTS = 200
MAX_DEPTH = 20
MAX_DASHED_LINES = 20_000  # lines that begin with "--", each a possible boundary
MAX_FIELD = 64 * 1024  # bytes of one field that are decoded
MAX_PARAMETERS = 100

_NAME = re.compile(rb"([!-9;-~]+)[ \t]*:")  # RFC 5322 sections 2.2 and 4.5.8
_DASHED = re.compile(rb"^--([^\n]*)\n?", re.MULTILINE)
_TOKEN = re.compile(r"[^\s;=\"(]+")
_BARE = re.compile(r"[^\s;]*")
_SPACE = re.compile(r"[\s;]*")
_COMMENT = re.compile(r"\([^()]*\)")
_ESCAPED = re.compile(r"\\(.)")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Why nothing can be made of a mail. `reason` is a stable code, `detail` a sentence for people."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Field:
    """One header field, unfolded and decoded; `name` in lower case."""

    name: str
    value: str


@dataclass(slots=True)
class Part:
    """One node of the tree. `start` and `end` delimit its content in `Mail.data`."""

    media: str  # "text/plain", in lower case
    parameters: dict[str, str]
    disposition: str  # "attachment", "inline" or "", in lower case
    named: bool  # carries a file name
    encoding: str
    start: int
    end: int
    children: list[Part] = field(default_factory=list)
    closed: bool = True  # False: the mail ends before the part does

    @property
    def attached(self) -> bool:
        """Whether it is a file beside the text, not text to be read."""
        return self.disposition == "attachment" or self.named


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail's fields in order, its parts, and what stands against reading it one way only."""

    data: bytes  # line ends are "\n"
    fields: tuple[Field, ...]
    root: Part
    doubts: tuple[str, ...] = ()
    cut: bool = False  # longer than what is looked at

    def values(self, *names: str) -> list[str]:
        """The contents of the fields of these names (in lower case), in order."""
        return [one.value for one in self.fields if one.name in names]

    def first(self, name: str) -> str:
        """The content of the first field of this name, or ""."""
        return next((one.value for one in self.fields if one.name == name), "")

    def parts(self) -> list[Part]:
        """Every part, the root first, in the order of the mail."""
        found, waiting = [], [self.root]
        while waiting:
            part = waiting.pop()
            found.append(part)
            waiting.extend(reversed(part.children))
        return found


class _BoundError(Exception):
    """Carries the broken bound to `parse`, which returns it."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.value = Unreadable(reason, detail)


def parse(data: bytes) -> Mail | Unreadable:
    """Read a mail: its first JUDGED bytes. Linear, total."""
    cut = len(data) > JUDGED
    data = data[:JUDGED].replace(b"\r\n", b"\n").replace(b"\r", b"\n").removeprefix(b"\xef\xbb\xbf")
    if data.startswith(b"From "):  # mbox
        data = data.partition(b"\n")[2]
    doubts: list[str] = []
    if data.startswith(b"\n"):
        data = data.lstrip(b"\n")
        doubts.append("empty lines stand above its header")
    try:
        fields, body = _fields(data, 0, doubts)
        if not fields:
            raise _BoundError("no-header", "it does not begin with header fields, as every mail does")
        root = _part(fields, body, len(data), "text/plain", doubts)
        if root.media.startswith("multipart/"):
            _divide(data, root, doubts)
    except _BoundError as error:
        return error.value
    decoded = tuple(Field(name, _text(content)) for name, content in fields)
    return Mail(data, decoded, root, tuple(dict.fromkeys(doubts)), cut)


def _fields(data: bytes, start: int, doubts: list[str]) -> tuple[list[tuple[str, bytes]], int]:
    """The header at `start` as (name, raw content), and where the body begins."""
    if data.startswith(b"\n", start):
        return [], start + 1
    end = data.find(b"\n\n", start, start + MAX_HEADER)
    if end < 0:
        if len(data) - start > MAX_HEADER:
            raise _BoundError("header-too-long", f"a header is longer than {MAX_HEADER} bytes")
        end = len(data)
    block = data[start:end]
    if block.count(b"\n") > 4 * MAX_FIELDS:
        raise _BoundError("too-many-fields", f"a header has more than {MAX_FIELDS} fields")
    fields: list[tuple[str, list[bytes]]] = []
    for line in block.split(b"\n"):
        if line[:1] in (b" ", b"\t"):
            if not fields:
                return [], start
            fields[-1][1].append(line)
        elif name := _NAME.match(line):
            fields.append((name[1].decode("ascii").lower(), [line[name.end() :]]))
        elif line.startswith(b">From "):
            continue
        elif not fields:
            doubts.append("a part begins neither with a header nor with an empty line")
            return [], start
        else:
            doubts.append("a header holds a line that is no field")
    if len(fields) > MAX_FIELDS:
        raise _BoundError("too-many-fields", f"a header has more than {MAX_FIELDS} fields")
    return [(name, b"\n".join(lines)) for name, lines in fields], min(end + 2, len(data))


def _text(content: bytes) -> str:
    raw = content[:MAX_FIELD].replace(b"\n", b"")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return decode_words(text).strip().replace("\0", "")


def _part(fields: list[tuple[str, bytes]], start: int, end: int, default: str, doubts: list[str]) -> Part:
    wanted: dict[str, str] = {}
    for name, content in fields:
        if name in ("content-type", "content-disposition", "content-transfer-encoding"):
            if name in wanted:
                doubts.append(f"a part has two {name} fields")
                continue
            wanted[name] = content[:MAX_FIELD].replace(b"\n", b" ").decode("latin-1")
            if _CONTROL.search(wanted[name]):  # to some it is white space, to others a letter, or the end
                doubts.append(f"a {name} field holds a control character")
    media, parameters = _parameters(wanted.get("content-type", ""), doubts)
    if media.count("/") != 1 or media.startswith("/") or media.endswith("/"):
        # RFC 2045 section 5.2; a type that cannot be read is not shown as text by everybody.
        if media not in ("", "text"):
            doubts.append("a content type cannot be read")
        media = default
    disposition, placed = _parameters(wanted.get("content-disposition", ""), doubts)
    encoding = wanted.get("content-transfer-encoding", "").partition(";")[0].strip().lower()
    named = bool(placed.get("filename") or parameters.get("name"))
    return Part(media, parameters, disposition, named, encoding, start, end)


def _parameters(text: str, doubts: list[str]) -> tuple[str, dict[str, str]]:
    """Value and parameters of a Content-Type or Content-Disposition (RFC 2045 section 5.1, RFC 2231), in lower case."""
    text = _COMMENT.sub(" ", text) if "(" in text else text
    head, _, rest = text.partition(";")
    if len(words := head.split(None, 1)) == 2:  # "text/plain charset=utf-8"
        head, rest = words[0], f"{words[1]};{rest}"
    found: dict[str, str] = {}
    position = 0
    for _ in range(MAX_PARAMETERS):
        space = _SPACE.match(rest, position)
        assert space is not None  # it matches nothing, too
        name = _TOKEN.match(rest, space.end())
        if name is None:
            break
        position = name.end()
        value = ""
        equals = position
        while equals < len(rest) and rest[equals] in " \t":
            equals += 1
        if rest.startswith("=", equals):
            value, position = _value(rest, equals + 1)
        else:  # "x boundary=y": to some that is one name
            doubts.append("a part has a parameter without a value")
        key = name[0].lower()
        base, star, _ = key.partition("*")
        if star and "'" in value and not key.startswith(f"{base}*1"):
            value = value.rpartition("'")[2]  # charset'language'text
        if base in found and not star and found[base] != value:
            doubts.append(f"a part has two {base} parameters")
        elif base not in found or star:
            found[base] = found.get(base, "") + value
    else:
        doubts.append("a part has too many parameters")
    return head.strip().lower(), found


def _value(text: str, position: int) -> tuple[str, int]:
    while position < len(text) and text[position] in " \t":
        position += 1
    if not text.startswith('"', position):
        token = _BARE.match(text, position)
        assert token is not None  # it matches nothing, too
        return token[0], token.end()
    end = position + 1
    while (end := text.find('"', end)) >= 0 and _backslashes(text, position, end) % 2:
        end += 1
    if end < 0:
        return text[position + 1 :].strip(), len(text)
    return _ESCAPED.sub(r"\1", text[position + 1 : end]), end + 1


def _backslashes(text: str, start: int, end: int) -> int:
    count = 0
    while end - count - 1 > start and text[end - count - 1] == "\\":
        count += 1
    return count


def _divide(data: bytes, root: Part, doubts: list[str]) -> None:
    """Find the parts of a multipart (RFC 2046 section 5.1.1): one pass over the lines that begin with "--"."""
    open_parts: list[tuple[bytes, Part]] = []
    leaf: Part | None = None  # the part that the next boundary ends
    parts = 1

    def enter(part: Part) -> None:
        boundary = part.parameters.get("boundary", "").rstrip().encode("latin-1", "replace")
        if not boundary:
            doubts.append("a multipart names no boundary")
        elif any(boundary == other for other, _ in open_parts):
            doubts.append("two multiparts share a boundary")
        elif len(open_parts) >= MAX_DEPTH:
            raise _BoundError("too-deep", f"its parts are nested more than {MAX_DEPTH} deep")
        else:
            open_parts.append((boundary, part))

    enter(root)
    dashed = 0
    position = root.start
    while open_parts and (line := _DASHED.search(data, position)):
        dashed += 1
        if dashed > MAX_DASHED_LINES:
            raise _BoundError("too-many-lines", f"more than {MAX_DASHED_LINES} of its lines could be boundaries")
        position = max(line.end(), line.start() + 1)
        level, closing = _level(line[1].rstrip(), open_parts)
        if level < 0:
            continue
        end = max(line.start() - 1, 0)
        if leaf is not None:
            leaf.end = max(end, leaf.start)
            leaf.closed = True
            leaf = None
        for _, part in open_parts[level + 1 :]:
            part.end = max(end, part.start)
            doubts.append("a multipart has no end")
        del open_parts[level + 1 :]
        parent = open_parts[-1][1]
        if closing:
            parent.end = max(end, parent.start)
            parent.closed = True
            open_parts.pop()
            continue
        parts += 1
        if parts > MAX_PARTS:
            raise _BoundError("too-many-parts", f"it has more than {MAX_PARTS} parts")
        fields, start = _fields(data, line.end(), doubts)
        default = "message/rfc822" if parent.media == "multipart/digest" else "text/plain"
        part = _part(fields, start, len(data), default, doubts)
        part.closed = False
        parent.children.append(part)
        leaf = part
        position = start
        if part.media.startswith("multipart/"):
            before = len(open_parts)
            enter(part)
            if len(open_parts) > before:
                leaf = None
    if open_parts and open_parts[0][1] is root and not root.children:
        doubts.append("a multipart's boundary stands nowhere in it")


def _level(text: bytes, open_parts: list[tuple[bytes, Part]]) -> tuple[int, bool]:
    """Which open multipart a boundary line belongs to (-1: none), and whether it closes that."""
    for level in range(len(open_parts) - 1, -1, -1):
        boundary = open_parts[level][0]
        if text == boundary:
            return level, False
        if text == boundary + b"--":
            return level, True
    return -1, False
