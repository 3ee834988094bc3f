"""The texts of a mail that a person reads: one rendition as plain text, one as HTML, each as lines.

Attachments, attached mails and what is encrypted are never text. Only the first text of a mail may begin a
rendition: where it is empty, a later one does not stand in for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from mailrelayd.approvals.charsets import decode_text, decode_transfer
from mailrelayd.approvals.cms import signed_content
from mailrelayd.approvals.htmltext import MAX_SOURCE, MAX_TAGS, render
from mailrelayd.approvals.mime import Mail, Part, parse

_SMIME = ("application/pkcs7-mime", "application/x-pkcs7-mime")
MAX_TEXT = 96 * 1024  # bytes of plain text that are read, of all parts together; of HTML: MAX_SOURCE, MAX_TAGS
_TOO_MANY = "its texts together are longer than what is read"  # what is not read may say the opposite


@dataclass(frozen=True, slots=True)
class Body:
    """One rendition. `cut`: there is more of it than was read."""

    lines: tuple[str, ...]
    cut: bool


@dataclass(frozen=True, slots=True)
class Bodies:
    """The renditions, plain text first; `uncertain` says what had to be guessed to read them."""

    renditions: tuple[Body, ...]
    uncertain: tuple[str, ...]
    encrypted: bool
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Piece:
    """A text as the mail offers it: one or both of its renditions."""

    plain: list[Part] = field(default_factory=list)
    html: list[Part] = field(default_factory=list)


@dataclass(slots=True)
class _Reader:
    mail: Mail
    uncertain: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    encrypted: bool = False
    read: dict[int, Body] = field(default_factory=dict)
    # What may still be read: many small parts must not cost more than one that is as large as can be.
    plain_left: int = MAX_TEXT
    html_left: int = MAX_SOURCE
    tags_left: int = MAX_TAGS

    def pieces(self, part: Part) -> list[_Piece]:
        """The texts below a part, in order; the depth of the tree is bounded."""
        media = part.media
        if media == "multipart/encrypted" or media in _SMIME:
            self.encrypted = True
            self.notes.append("a part is encrypted, or signed in a way that hides its text")
            return []
        if part.attached and not media.startswith("multipart/") and (part is not self.mail.root or part.disposition):
            return []  # a mail that is nothing but one text may carry a name without being a file
        if media == "text/plain":
            return [_Piece(plain=[part])]
        if media == "text/html":
            return [_Piece(html=[part])]
        if media == "multipart/alternative":
            return [self._alternative(part)]
        if media == "multipart/related" and part.parameters.get("start") and _texts(part.children[1:]):
            self.uncertain.append("a multipart/related may begin with another part than its first (RFC 2387)")
        if media in ("multipart/related", "multipart/signed"):
            return [piece for child in part.children[:1] for piece in self.pieces(child)]
        if media.startswith("multipart/"):
            return [piece for child in part.children for piece in self.pieces(child)]
        return []

    def _alternative(self, part: Part) -> _Piece:
        whole = _Piece()
        for child in part.children:
            inner = self.pieces(child)
            plain = [one for piece in inner for one in piece.plain]
            html = [one for piece in inner for one in piece.html]
            if plain and whole.plain and not html:
                self.uncertain.append("two plain texts are offered for the same content")
            whole.plain.extend(plain)
            whole.html.extend(html)
        return whole

    def text(self, part: Part) -> tuple[str, bool]:
        """A part's text, and whether there is more of it."""
        raw, plain = decode_transfer(self.mail.data[part.start : part.end], part.encoding)
        if not plain:
            self.uncertain.append("a text's transfer encoding is unknown or damaged")
        more = False
        if part.media != "text/html":
            more = len(raw) > self.plain_left
            if more and self.plain_left < MAX_TEXT:
                self.uncertain.append(_TOO_MANY)
            raw = raw[: self.plain_left]
            self.plain_left -= len(raw)
        text, certain = decode_text(raw, part.parameters.get("charset", ""))
        if not certain:
            label = part.parameters.get("charset", "")[:40]
            self.uncertain.append(f"a text's charset had to be guessed (it says {label!r})")
        return text, more or (self.mail.cut and not part.closed)

    def lines(self, part: Part) -> Body:
        """A part's lines; each part is decoded once."""
        if part.start not in self.read:
            self.read[part.start] = self._lines(part)
        return self.read[part.start]

    def _lines(self, part: Part) -> Body:
        text, more = self.text(part)
        if part.media == "text/html":
            rendered = render(text, self.html_left, self.tags_left)
            if rendered.cut and (self.html_left < MAX_SOURCE or self.tags_left < MAX_TAGS):
                self.uncertain.append(_TOO_MANY)
            self.html_left -= min(len(text), self.html_left)
            self.tags_left -= min(rendered.tags, self.tags_left)
            if "\0" in text:
                self.uncertain.append("the HTML holds NUL, which is nothing to some and ends a name to others")
            if rendered.veiled:
                self.uncertain.append("a style sheet hides text in a way that is not followed")
            return Body(rendered.lines, more or rendered.cut)
        lines = text.replace("\0", "").splitlines()
        if part.parameters.get("format", "").lower() == "flowed":
            lines = list(_flowed(lines, delsp=part.parameters.get("delsp", "").lower() == "yes"))
        return Body(tuple(lines), more)


def bodies(mail: Mail) -> Bodies:
    """Everything in a mail that is text to be read."""
    if mail.root.media in _SMIME and (inner := _signed(mail)) is not None:
        found = bodies(inner)
        note = "read the text inside the S/MIME signature"
        return replace(found, uncertain=(*inner.doubts, *found.uncertain), notes=(note, *found.notes))
    reader = _Reader(mail)
    pieces = [piece for piece in reader.pieces(mail.root) if piece.plain or piece.html]
    renditions = []
    if any(piece.plain for piece in pieces):
        plain = [reader.lines(part) for piece in pieces for part in piece.plain or piece.html]
        # Some clients offer an empty plain text beside the HTML that they mean.
        if any(line.strip() for line in plain[0].lines) or not pieces[0].html:
            renditions.append(_joined(plain))
    if any(piece.html for piece in pieces):
        renditions.append(_joined([reader.lines(part) for piece in pieces for part in piece.html or piece.plain]))
    if len(pieces) > 1 and not any(line.strip() for line in _first_lines(reader, pieces)):
        reader.uncertain.append("the first text is empty, and another part begins the text")
    uncertain = tuple(dict.fromkeys(reader.uncertain))
    return Bodies(tuple(renditions), uncertain, reader.encrypted, tuple(dict.fromkeys(reader.notes)))


def _signed(mail: Mail) -> Mail | None:
    """The mail inside of an S/MIME one that is signed and not encrypted; never another such one inside of that."""
    raw, certain = decode_transfer(mail.data[mail.root.start : mail.root.end], mail.root.encoding)
    content = signed_content(raw) if certain and not mail.cut else None
    inner = parse(content) if content is not None else None
    return inner if isinstance(inner, Mail) and inner.root.media not in _SMIME else None


def _first_lines(reader: _Reader, pieces: list[_Piece]) -> tuple[str, ...]:
    first = [*pieces[0].plain, *pieces[0].html]
    return tuple(line for part in first for line in reader.lines(part).lines)


def _texts(parts: list[Part]) -> bool:
    return any(part.media.startswith(("text/", "multipart/")) for part in parts)


def _joined(parts: list[Body]) -> Body:
    lines = [line for number, part in enumerate(parts) for line in ((("",) if number else ()) + part.lines)]
    return Body(tuple(lines), any(part.cut for part in parts))


def _flowed(lines: Iterable[str], *, delsp: bool) -> Iterable[str]:
    """RFC 3676: a line that ends with a space goes on in the next one of the same quote depth."""
    held = ""
    held_depth = -1
    for raw in lines:
        stripped = raw.lstrip(">")
        depth = len(raw) - len(stripped)
        text = stripped.removeprefix(" ")
        if held_depth >= 0 and depth != held_depth:
            yield _quoted(held, held_depth)
            held, held_depth = "", -1
        if text == "-- ":
            if held_depth >= 0:
                yield _quoted(held, held_depth)
            held, held_depth = "", -1
            yield _quoted(text, depth)
        elif text.endswith(" "):
            held, held_depth = held + (text[:-1] if delsp else text), depth
            if len(held) > 20_000:
                yield _quoted(held, held_depth)
                held, held_depth = "", -1
        else:
            yield _quoted(held + text, depth)
            held, held_depth = "", -1
    if held_depth >= 0:
        yield _quoted(held, held_depth)


def _quoted(text: str, depth: int) -> str:
    return f"{'>' * depth} {text}" if depth else text
