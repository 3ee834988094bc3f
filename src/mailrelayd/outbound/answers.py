"""Reading what a server says: bytes in, answers out, and texts that are safe to show. Pure.

The limits are there so that no server can fill the memory or a log line.
"""

from __future__ import annotations

import re

from mailrelayd.outbound.values import Response, Stage

MAX_LINE = 4096
"""Octets in one line of an answer; RFC 5321 section 4.5.3.1.5 asks for 512, some servers explain at length."""
MAX_LINES = 100
MAX_ANSWER = 32 * 1024
"""Lines and octets in one answer."""
MAX_TEXT = 500
"""Characters of an answer that are kept."""

_ANSWER_LINE = re.compile(rb"([2-5][0-9]{2})(?:([ -])(.*))?", re.DOTALL)  # RFC 5321 section 4.2: text may be missing
_ENHANCED = re.compile(r"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?: |$)")  # RFC 3463 section 2


class Desync(Exception):  # noqa: N818 - the established word for it
    """What the server sent cannot be an answer to what was asked."""


def printable(text: str) -> str:
    """`text` with whatever could forge or garble a log line escaped, and cut to `MAX_TEXT` characters."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def response(stage: Stage, code: int, lines: list[str]) -> Response:
    """A `Response` from the lines of an answer, each without its code.

    The enhanced code counts only where its class is the code's (RFC 2034 section 4); it is taken off every line.
    """
    found = _ENHANCED.match(lines[0]) if lines else None
    enhanced = found[1] if found is not None and int(found[1][0]) == code // 100 else ""
    words = " ".join([line.removeprefix(enhanced).strip() for line in lines])
    return Response(stage, code, enhanced, printable(words.strip()))


def shown(data: bytes) -> str:
    """The beginning of some bytes, for a sentence."""
    return printable(repr(data[:80])[1:])


class AnswerReader:
    """Cuts the server's bytes into answers (RFC 5321 section 4.2.1), with limits on everything."""

    def __init__(self) -> None:
        self._bytes = b""
        self._at = 0  # what is before it has been read
        self._lines: list[str] = []
        self._code = 0
        self._size = 0

    def feed(self, data: bytes) -> None:
        """The next bytes, as they came."""
        self._bytes = self.rest + data if self._at < len(self._bytes) else data
        self._at = 0

    @property
    def rest(self) -> bytes:
        """The bytes not yet made into an answer."""
        return self._bytes[self._at :]

    def next(self) -> tuple[int, list[str]] | None:
        """The next complete answer, code and lines; None while there is none.

        Raises Desync where the bytes cannot become one.
        """
        while (end := self._bytes.find(b"\n", self._at, self._at + MAX_LINE)) >= 0:
            line = self._bytes[self._at : end].removesuffix(b"\r")
            self._at = end + 1
            if not self._line(line):
                continue
            answer = self._code, self._lines
            self._code, self._lines, self._size = 0, [], 0
            return answer
        if len(self._bytes) - self._at >= MAX_LINE:
            raise Desync(f"the server sent a line of more than {MAX_LINE} octets")
        return None

    def _line(self, line: bytes) -> bool:
        """Take one line; True where it is the last of an answer."""
        found = _ANSWER_LINE.fullmatch(line)
        if found is None:
            raise Desync(f"the server sent what is no answer: {shown(line)}")
        digits, more, text = found.groups()
        code = int(digits)
        if self._lines and code != self._code:
            raise Desync(f"the server gave two codes in one answer: {self._code} and {code}")
        self._code = code
        self._lines.append(text.decode("utf-8", "backslashreplace") if text else "")
        self._size += len(line) + 2
        if len(self._lines) > MAX_LINES or self._size > MAX_ANSWER:
            raise Desync(f"the server sent an answer of more than {MAX_LINES} lines or {MAX_ANSWER} octets")
        return bool(more != b"-")
