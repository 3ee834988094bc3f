"""Message bytes as they go on the wire: CRLF line ends, and dots stuffed where a lone dot is the end. Pure.

The classes take a message in chunks of any size and give the same result however it was cut.
"""

from __future__ import annotations

from mailrelayd.value import value


def line_ends(whole: bytes) -> bytes:
    """A whole message with CRLF for every bare CR and bare LF, and at its end (RFC 5321 section 2.3.8).

    A server that takes a bare LF for a line end would otherwise see the end of a message where there is none
    (SMTP smuggling).
    """
    lines = _crlf(whole)
    return lines if not lines or lines.endswith(b"\n") else lines + b"\r\n"


def stuffed(lines: bytes) -> bytes:
    """A whole message with CRLF line ends as DATA wants it, its end included (RFC 5321 section 4.5.2)."""
    first = b"." if lines.startswith(b".") else b""
    return first + lines.replace(b"\n.", b"\n..") + b".\r\n"


def _crlf(chunk: bytes) -> bytes:
    if b"\r" not in chunk:
        return chunk.replace(b"\n", b"\r\n")
    if _bare(chunk, chunk.count(b"\r\n")) == 0:
        return chunk
    return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")


def _bare(chunk: bytes, pairs: int) -> int:
    """How many CR and LF stand alone. (Removing all is faster than counting one of them.)"""
    return len(chunk) - len(chunk.translate(None, b"\r\n")) - 2 * pairs


class LineEnds:
    """`line_ends`, chunk by chunk. With `pure`, the message was scanned and holds nothing bare: it is not looked at.

    `octets` counts what has come out: after `finish` it is the size that RFC 1870 means.
    """

    def __init__(self, *, pure: bool = False) -> None:
        self.octets = 0
        self._pure = pure
        self._carriage_return = False  # the chunk before ended in CR: whether it is bare is decided by what follows
        self._line_begins = True

    def feed(self, chunk: bytes) -> bytes:
        """The next bytes for the wire; may be empty."""
        if self._carriage_return:
            chunk = b"\r" + chunk
        self._carriage_return = chunk.endswith(b"\r")
        if self._carriage_return:
            chunk = chunk[:-1]
        return self._counted(chunk if self._pure else _crlf(chunk))

    def finish(self) -> bytes:
        """The rest: what a CR held back becomes, and the last line's end where it is missing."""
        missing = self._carriage_return or not self._line_begins
        return self._counted(b"\r\n") if missing else b""

    def _counted(self, lines: bytes) -> bytes:
        if lines:
            self.octets += len(lines)
            self._line_begins = lines.endswith(b"\n")
        return lines


class Encoder:
    """Chunks of a message in, bytes for DATA out (RFC 5321 section 4.5.2). `octets` counts before dot stuffing."""

    def __init__(self, *, pure: bool = False) -> None:
        self._line_ends = LineEnds(pure=pure)
        self._line_begins = True

    @property
    def octets(self) -> int:
        """What has come out so far, without dot stuffing."""
        return self._line_ends.octets

    def feed(self, chunk: bytes) -> bytes:
        """The next bytes for the wire; may be empty."""
        return self._stuffed(self._line_ends.feed(chunk))

    def finish(self) -> bytes:
        """The rest, and the line with the single dot."""
        return self._stuffed(self._line_ends.finish()) + b".\r\n"

    def _stuffed(self, lines: bytes) -> bytes:
        if not lines:
            return b""
        if b"\r." in lines:  # only in what was scanned as pure and has been changed since: no dot may end it
            lines = lines.replace(b"\r.", b"\r\n.")
        first = b"." if self._line_begins and lines.startswith(b".") else b""
        self._line_begins = lines.endswith((b"\n", b"\r"))
        return first + lines.replace(b"\n.", b"\n..")


@value(frozen=True, slots=True)
class WireFacts:
    """What MAIL and the checks before it need to know of a message."""

    size: int  # octets on the wire, without dot stuffing and the last dot (RFC 1870 section 5)
    eight_bit: bool
    has_nul: bool
    pure: bool = False  # its line ends are CRLF already, the last one included


class Scanner:
    """Chunks of a message in, `WireFacts` out."""

    def __init__(self) -> None:
        self._size = 0  # as if every bare CR and LF were CRLF
        self._bare = 0
        self._eight_bit = False
        self._has_nul = False
        self._end = b"\n"  # the last octet so far; an empty message needs no line end

    def feed(self, chunk: bytes) -> None:
        """The next bytes."""
        if not chunk:
            return
        self._eight_bit = self._eight_bit or not chunk.isascii()
        self._has_nul = self._has_nul or b"\0" in chunk
        bare = _bare(chunk, chunk.count(b"\r\n"))
        if self._end == b"\r" and chunk.startswith(b"\n"):  # the pair was cut in two, and counted as two
            bare -= 2
        self._bare += bare
        self._size += len(chunk) + bare
        self._end = chunk[-1:]

    def finish(self) -> WireFacts:
        """The facts of the whole message; feed nothing afterwards."""
        complete = self._end in b"\r\n"
        size = self._size if complete else self._size + 2
        return WireFacts(size, self._eight_bit, self._has_nul, pure=complete and self._bare == 0)
