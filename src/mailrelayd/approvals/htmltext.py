"""HTML -> lines of text, as a person would see them: in one pass, whatever the markup.

What is not displayed is dropped (hidden elements, styles, comments), what is quoted begins with "> ", and where a
client says that the older mail begins, a line CUT stands. Struck-out text is put between "~~", so that it cannot pass
for text that counts. html.parser is not used: unterminated comments make its time quadratic.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mailrelayd.approvals.htmlmarks import BLOCK, UNCLEAR_SELECTOR, VOID, Element, element, hidden_names, unescape

CUT = "\x1e"  # a line of its own; control characters never come from the mail
MAX_SOURCE = 256 * 1024  # characters
MAX_TAGS = 10_000
MAX_TEXT = 96 * 1024
MAX_LINES = 5_000

_TAG_NAME = re.compile(r"</?([a-zA-Z][^\s/>]{0,40})")
_TAG_STOP = re.compile(r"[>\"']")
_SPACES = re.compile(r"[ \t\n\r\f]+")

_RAW = ("style", "script", "title", "textarea", "xmp", "noscript")


@dataclass(frozen=True, slots=True)
class Rendered:
    """The lines of an HTML text. `cut`: it is longer than what is looked at, or a comment in it has no end.

    `veiled`: a style sheet may hide some of them, or did so only after they stood there. `tags`: how many there were.
    """

    lines: tuple[str, ...]
    cut: bool
    veiled: bool = False
    tags: int = 0


def render(source: str, most: int = MAX_SOURCE, tags: int = MAX_TAGS) -> Rendered:
    """The lines that a person sees in the first `most` characters, as far as so many tags go."""
    renderer = _Renderer(source[:most].replace("\0", ""), tags)
    renderer.run()
    return Rendered(tuple(renderer.lines), renderer.cut or len(source) > most, renderer.veiled, renderer.tags)


class _Renderer:
    """The state of one pass: the open elements, and the line that is being filled."""

    def __init__(self, source: str, most: int) -> None:
        self.source = source
        self.tags, self._most = 0, most
        self.lines: list[str] = []
        self.cut = self.veiled = False
        self._open: list[Element] = []
        self._dropped = self._quoted = self._struck = self._preformatted = 0
        self._text: list[str] = []
        self._container = -1  # the line where a container of a quotation begins
        self._pending = False  # a space is due before the next word
        self._size = 0
        self._hidden: set[str] = set()
        self._seen: set[str] = set()  # the names of the elements so far
        self._quotes = True  # whether quotation marks in tags are believed
        self._last = {mark: source.rfind(mark) for mark in ">\"'"}

    def run(self) -> None:
        source, position, size = self.source, 0, len(self.source)
        while position < size and not self.cut:
            start = source.find("<", position)
            if start < 0:
                self._characters(source[position:])
                break
            if start > position:
                self._characters(source[position:start])
            position = self._markup(start)
        self._end_line()
        self._quote_container()

    def _markup(self, start: int) -> int:
        """Deal with what begins at "<"; where to go on."""
        source = self.source
        self.tags += 1
        self.cut |= self.tags > self._most
        if source.startswith("<!--", start):
            end = source.find("-->", start + 2)  # "<!-->" is a whole comment
            if end < 0:
                # Browsers drop the rest, some clients show it: nobody agrees what is seen.
                self.cut = True
                return len(source)
            return end + 3
        name = _TAG_NAME.match(source, start)
        if name is None:
            if source.startswith(("<!", "<?", "</"), start):
                end = source.find(">", start)
                return len(source) if end < 0 else end + 1
            self._characters("<")
            return start + 1
        end = self._tag_end(name.end())
        if end < 0:
            self._characters(source[start:])
            return len(source)
        word = name[1].lower()
        if source.startswith("</", start):
            self._close(word)
            return end + 1
        self._start(word, source[name.end() : end])
        if word in _RAW:
            closing = re.compile(f"</{word}[\\s/>]", re.IGNORECASE).search(source, end + 1)
            stop = closing.start() if closing else len(source)
            if word == "style":
                self._style(set(hidden_names(source[end + 1 : stop])))
            return stop
        return end + 1

    def _style(self, hidden: set[str]) -> None:
        """Take over what a style sheet hides. One in a quoted mail is not asked what it means beyond names."""
        early = not any(line.strip() for line in self.lines)
        self.veiled |= (early and UNCLEAR_SELECTOR in hidden) or not self._seen.isdisjoint(hidden)
        self._hidden |= hidden

    def _tag_end(self, position: int) -> int:
        """Where the ">" of a tag stands; -1: nowhere. Quotation marks hide a ">" until they turn out unbalanced."""
        source = self.source
        if position > self._last[">"]:
            return -1
        here = position
        while self._quotes and (stop := _TAG_STOP.search(source, here)):
            mark = stop[0]
            if mark == ">":
                return stop.start()
            if stop.start() >= self._last[mark]:
                here = stop.end()
                continue
            here = source.find(mark, stop.end()) + 1
        self._quotes = False
        return source.find(">", position)

    def _start(self, name: str, rest: str) -> None:
        if name == "br":
            self._end_line(always=True)
            return
        if name == "hr":
            self._end_line()
            self._emit("_" * 40)
            return
        if name == "body" and any(one.name == "head" for one in self._open):
            self._close("head")
        if name in ("p", "li", "tr", "td", "th", "option") and self._open and self._open[-1].name == name:
            self._close(name)
        if name in BLOCK:
            self._end_line()
        elif name in ("td", "th"):
            self._pending = True
        if name in VOID:
            return
        opened = element(name, rest, self._hidden, background=bool(self._open) and self._open[-1].background)
        self._seen |= opened.names
        if opened.older:
            self._end_line()
            self._emit(CUT)
        # Only in foreign markup does the slash of <x/> close it; <span/> stays open, and what it hides hidden.
        if not (rest.endswith("/") and (":" in name or name in ("svg", "math", "xml"))):
            self._push(opened)

    def _push(self, opened: Element) -> None:
        if len(self._open) > 5_000:
            self.cut = True
            return
        if opened.quoted or opened.container:
            self._end_line()
            self._quote_container()
        if opened.container:
            self._container = len(self.lines)
        self._open.append(opened)
        self._count(opened, 1)
        if opened.struck and self._struck == 1:
            self._characters("~~")

    def _count(self, opened: Element, step: int) -> None:
        self._dropped += step * opened.dropped
        self._quoted += step * opened.quoted
        self._struck += step * opened.struck
        self._preformatted += step * opened.preformatted

    def _quote_container(self) -> None:
        """Mark the lines above the quotation in a container as quoted; a forwarded mail keeps its separator."""
        for index in range(self._container, len(self.lines)) if self._container >= 0 else ():
            line = self.lines[index]
            if line.strip() and line != CUT and not line.startswith(("> ", "-" * 8)):
                self.lines[index] = f"> {line}"
        self._container = -1

    def _close(self, name: str) -> None:
        if name in ("br", "p") and not any(one.name == name for one in self._open[-100:]):
            self._end_line(always=True)  # browsers take </p> and </br> for the start tag
            return
        for index in range(len(self._open) - 1, max(-1, len(self._open) - 200), -1):
            if self._open[index].name == name:
                break
        else:
            return
        if name in BLOCK or any(one.quoted for one in self._open[index:]):
            self._end_line()
        while len(self._open) > index:
            closed = self._open.pop()
            if closed.struck and self._struck == 1:
                self._characters("~~")
            self._count(closed, -1)
            if closed.container:
                self._quote_container()
        if name in ("td", "th"):
            self._pending = True

    def _characters(self, raw: str) -> None:
        if self._dropped:
            return
        text = unescape(raw) if "&" in raw else raw
        if self._preformatted:
            for number, line in enumerate(text.replace("\r\n", "\n").split("\n")):
                if number:
                    self._end_line(always=True)
                self._text.append(line)
            return
        words = _SPACES.sub(" ", text)
        if words.startswith(" "):
            self._pending = True
            words = words[1:]
        if not words:
            return
        if self._pending and self._text:
            self._text.append(" ")
        self._pending = words.endswith(" ")
        self._text.append(words.rstrip(" ") if self._pending else words)

    def _end_line(self, *, always: bool = False) -> None:
        self._pending = False
        if not self._text and not always:
            return
        line = "".join(self._text).replace("\xa0", " ").replace(CUT, "")
        self._text.clear()
        for piece in line.splitlines() or [""]:
            self._emit(f"> {piece}" if self._quoted else piece)

    def _emit(self, line: str) -> None:
        if self._dropped and line in (CUT, "_" * 40):
            return
        if self._quoted and line == CUT:
            return
        self._size += len(line) + 1
        if self._size > MAX_TEXT or len(self.lines) >= MAX_LINES:
            self.cut = True
            return
        self.lines.append(line)
