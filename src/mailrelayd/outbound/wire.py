"""Message bytes as they go between DATA and its last dot: CRLF line ends, dots stuffed. Pure.

Both classes take a message in chunks of any size and give the same result however it was cut.
"""

from __future__ import annotations

from dataclasses import dataclass


class _LineEnds:
    """Turns bare CR and bare LF into CRLF, chunk by chunk (RFC 5321 section 2.3.8: neither may be sent alone).

    A server that takes a bare LF for a line end would otherwise see the end of a message where there is none
    (SMTP smuggling).
    """

    def __init__(self) -> None:
        self._carriage_return = False  # the chunk before ended in CR: whether it is bare is decided by what follows

    def feed(self, chunk: bytes) -> bytes:
        if not chunk:
            return b""
        if self._carriage_return:
            chunk = b"\r" + chunk
        self._carriage_return = chunk.endswith(b"\r")
        if self._carriage_return:
            chunk = chunk[:-1]
        bare = chunk.replace(b"\r\n", b"")  # three times as fast as counting all three
        if b"\r" not in bare and b"\n" not in bare:
            return chunk
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")

    def finish(self) -> bytes:
        """What the CR held back at the very end becomes."""
        return b"\r\n" if self._carriage_return else b""


class Encoder:
    """Chunks of a message in, bytes for the wire out (RFC 5321 section 4.5.2).

    `octets` counts what has come out so far before dot stuffing: after `finish` it is the size that RFC 1870 means.
    """

    def __init__(self) -> None:
        self.octets = 0
        self._line_ends = _LineEnds()
        self._line_begins = True

    def feed(self, chunk: bytes) -> bytes:
        """The next bytes for the wire; may be empty."""
        return self._stuffed(self._line_ends.feed(chunk))

    def finish(self) -> bytes:
        """The rest: the last line's end where it is missing, then the line with the single dot."""
        rest = self._stuffed(self._line_ends.finish())
        if not self._line_begins:
            rest += self._stuffed(b"\r\n")
        return rest + b".\r\n"

    def _stuffed(self, lines: bytes) -> bytes:
        if not lines:
            return b""
        self.octets += len(lines)
        first = b"." if self._line_begins and lines.startswith(b".") else b""
        self._line_begins = lines.endswith(b"\n")
        return first + lines.replace(b"\n.", b"\n..")


@dataclass(frozen=True, slots=True)
class WireFacts:
    """What MAIL and the checks before it need to know of a message."""

    size: int  # octets on the wire, without dot stuffing and the last dot (RFC 1870 section 5)
    eight_bit: bool
    has_nul: bool


class Scanner:
    """Chunks of a message in, `WireFacts` out."""

    def __init__(self) -> None:
        self._line_ends = _LineEnds()
        self._size = 0
        self._eight_bit = False
        self._has_nul = False
        self._line_begins = True

    def feed(self, chunk: bytes) -> None:
        self._eight_bit = self._eight_bit or not chunk.isascii()
        self._has_nul = self._has_nul or b"\0" in chunk
        self._measure(self._line_ends.feed(chunk))

    def finish(self) -> WireFacts:
        """The facts of the whole message; feed nothing afterwards."""
        self._measure(self._line_ends.finish())
        if not self._line_begins:
            self._measure(b"\r\n")
        return WireFacts(self._size, self._eight_bit, self._has_nul)

    def _measure(self, lines: bytes) -> None:
        if lines:
            self._size += len(lines)
            self._line_begins = lines.endswith(b"\n")
