"""Reading what an IMAP server says: bytes in, responses and the values in them out. Pure.

Everything is bounded and nothing is recursive: no server can fill the memory, the stack or the processor's time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from mailrelayd.outbound.answers import shown

MAX_DEPTH: Final = 16  # parentheses within parentheses; what we ask for needs 3

_LITERAL: Final = re.compile(rb"~?\{([0-9]{1,20})\+?\}\Z")
# Their text is free (RFC 3501 section 7.1): one that ends in {5} announces nothing.
_FREE_TEXT: Final = re.compile(rb"\+|[^ ]+ (?:OK|NO|BAD|BYE|PREAUTH)(?: |\Z)", re.IGNORECASE)
_STATUS: Final = re.compile(
    rb"(OK|NO|BAD|BYE|PREAUTH)(?: \[([^\] ]+)(?: ([^\]]*))?\])?(?: (.*))?", re.IGNORECASE | re.DOTALL
)
_TOKEN: Final = re.compile(
    rb'(?P<space> +)|(?P<open>\()|(?P<close>\))|"(?P<quoted>(?:[^"\\\r\n]|\\.)*+)"'
    rb'|(?P<atom>BODY\[[^\]\x00-\x1f]*\](?:<[0-9]+>)?|[^ ()"\x00-\x1f\x7f]+)',
    re.IGNORECASE,
)

Value = bytes | None | list["Value"]
"""A string or an atom, NIL, or a list in parentheses."""


class Nonsense(Exception):  # noqa: N818 - what the server sent, more than an error
    """What the server sent cannot be an answer to what was asked. `data` is what it sent, if that tells anything."""

    def __init__(self, text: str, data: bytes = b"") -> None:
        super().__init__(f"{text}: {shown(data)}" if data else text)
        self.text = text
        self.data = data


@dataclass(frozen=True, slots=True)
class Limits:
    """What one command's answer may come to, in octets; `responses` counts lines that begin with a tag, * or +."""

    line: int = 64 * 1024
    literal: int = 16 * 1024
    total: int = 1024 * 1024
    responses: int = 20_000


@dataclass(frozen=True, slots=True)
class Response:
    """One response: `tag` is "*", "+" or a command's. In `pieces` text and literals alternate, text first and last."""

    tag: str
    pieces: tuple[bytes, ...]

    @property
    def text(self) -> bytes:
        """What stands before the first literal."""
        return self.pieces[0]


@dataclass(frozen=True, slots=True)
class Status:
    """OK, NO, BAD, BYE or PREAUTH, with the response code in brackets, if there is one, and the text for people."""

    kind: str
    code: str = ""
    arguments: str = ""
    text: str = ""


class ResponseReader:
    """Cuts the server's bytes into responses (RFC 3501 sections 4.3 and 7)."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._bytes = bytearray()
        self._searched = 0  # no line ends before this
        self._pieces: list[bytes] = []
        self._literal: int | None = None  # octets of the literal that comes next
        self._total = 0
        self._responses = 0

    def allow(self, limits: Limits) -> None:
        """From here on these limits hold, counted anew."""
        self._limits, self._total, self._responses = limits, 0, 0

    def feed(self, data: bytes) -> None:
        self._bytes += data

    @property
    def rest(self) -> int:
        """Octets not yet made into a response."""
        return len(self._bytes) + sum(map(len, self._pieces))

    def next(self) -> Response | None:
        """The next complete response; None while there is none. Raises Nonsense where a limit is passed."""
        while True:
            if self._literal is not None:
                if len(self._bytes) < self._literal:
                    return None
                self._pieces.append(self._taken(self._literal))
                self._literal = None
            end = self._bytes.find(b"\r\n", self._searched)
            if max(end, len(self._bytes) if end < 0 else 0) > self._limits.line:
                raise Nonsense(f"the server sent a line of more than {self._limits.line} octets")
            if end < 0:
                self._searched = max(len(self._bytes) - 1, 0)  # a CR may be its last byte
                return None
            line = self._taken(end + 2)[:-2]
            found = (
                None if not self._pieces and _FREE_TEXT.match(line) else _LITERAL.search(line, max(len(line) - 24, 0))
            )
            if found is None:
                return self._complete(line)
            self._literal = int(found[1])
            if self._literal > self._limits.literal:
                asked = f"more than the {self._limits.literal} there can be"
                raise Nonsense(f"the server announced {self._literal} octets, {asked}")
            self._pieces.append(line[: found.start()])

    def _taken(self, count: int) -> bytes:
        self._total += count
        if self._total > self._limits.total:
            raise Nonsense(f"the server answered with more than {self._limits.total} octets")
        taken = bytes(self._bytes[:count])
        del self._bytes[:count]
        self._searched = 0
        return taken

    def _complete(self, line: bytes) -> Response:
        self._responses += 1
        if self._responses > self._limits.responses:
            raise Nonsense(f"the server answered with more than {self._limits.responses} lines")
        first, *others = [*self._pieces, line]
        self._pieces = []
        tag, space, text = first.partition(b" ")
        if not (tag == b"+" or (space and (tag == b"*" or tag.isalnum()))):
            raise Nonsense("the server sent what is no answer", first)
        return Response(tag.decode("ascii", "backslashreplace"), (text, *others))


def status(response: Response) -> Status | None:
    """The response as a status; None where it is data."""
    found = _STATUS.fullmatch(response.text) if len(response.pieces) == 1 else None
    if found is None:
        return None
    kind, code, arguments, text = ((group or b"").decode("utf-8", "backslashreplace") for group in found.groups())
    return Status(kind.upper(), code.upper(), arguments, text)


def values(pieces: Iterable[bytes]) -> list[Value]:
    """Strings, atoms, NIL and lists in the order in which they came (RFC 3501 section 4). Raises Nonsense."""
    outermost: list[Value] = []
    open_lists = [outermost]
    for index, piece in enumerate(pieces):
        if index % 2:
            open_lists[-1].append(piece)
        else:
            _parse(piece, open_lists)
    if len(open_lists) != 1:
        raise Nonsense("the server left a parenthesis open")
    return outermost


def _parse(text: bytes, open_lists: list[list[Value]]) -> None:
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise Nonsense("the server sent what cannot be understood", text[at:])
        at = found.end()
        match found.lastgroup:
            case "open":
                inner: list[Value] = []
                open_lists[-1].append(inner)
                open_lists.append(inner)
                if len(open_lists) > MAX_DEPTH:
                    raise Nonsense(f"the server nested more than {MAX_DEPTH} parentheses")
            case "close":
                open_lists.pop()
                if not open_lists:
                    raise Nonsense("the server closed a parenthesis that was not open")
            case "quoted":
                open_lists[-1].append(re.sub(rb"\\(.)", rb"\1", found["quoted"]))
            case "atom":
                atom = found["atom"]
                open_lists[-1].append(None if atom.upper() == b"NIL" else atom)
