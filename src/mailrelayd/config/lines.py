"""On which line each key of a TOML text stands. Pure.

tomllib gives values without positions, so the text is walked a second time, for positions only: values are
skipped, never read. The text must be one that tomllib has taken, or at least its part up to a fault.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from dataclasses import dataclass

Path = tuple[str | int, ...]
"""Keys and, below arrays, positions: `("retry", "message", 2)`."""

# Possessive only around single characters: groups of alternatives mismatch before Python 3.11.5 (gh-106052).
_BLANK = re.compile(r"(?:[ \t\r\n]++|#[^\n]*+)*")
_BLANK_ON_LINE = re.compile(r"[ \t]*+")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_TEXT = re.compile(
    r'"""(?:[^"\\]++|\\.|"{1,2}(?!"))*"{3,5}'  # up to two quotes may stand in front of the closing three
    r"|'{3}(?:[^']++|'{1,2}(?!'))*'{3,5}"
    r'|"(?:[^"\\\n]++|\\.)*"'
    r"|'[^'\n]*+'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\n]+")  # numbers, booleans and dates


class ScanError(ValueError):
    """The text is not TOML from here on."""


@dataclass(slots=True)
class Table:
    """A [header] and the keys below it, up to `last`, the line on which the last of their values ends."""

    path: Path
    line: int
    last: int


class Lines:
    """Where things stand in one TOML text: `of[path]` is a line, counted from 1.

    `twice` lists keys and tables that are written a second time: path, line, first line. `tables` lists the headers.
    """

    def __init__(self, text: str) -> None:
        self.of: dict[Path, int] = {}
        self.twice: list[tuple[Path, int, int]] = []
        self.tables: list[Table] = []
        self._text = text.replace("\r\n", "\n")  # as tomllib does
        self._at = 0
        self._starts = [0, *(found.end() for found in re.finditer("\n", self._text))]
        self._written: dict[Path, int] = {}  # keys with a value, and [tables]
        self._arrays: dict[Path, int] = {}  # [[arrays of tables]] and how many elements they have so far
        try:
            self._document()
            self.complete = True
        except (ScanError, RecursionError):
            self.complete = False

    def nearest(self, path: Path) -> int | None:
        """The line of `path`, or of the innermost table around it that is written; None: nowhere."""
        while path:
            if path in self.of:
                return self.of[path]
            path = path[:-1]
        return None

    def _document(self) -> None:
        table: Path = ()
        while self._skip(_BLANK) or self._at < len(self._text):
            if self._at >= len(self._text):
                return
            if self._take("[["):
                table = self._header("]]", array=True)
            elif self._take("["):
                table = self._header("]", array=False)
            else:
                self._pair(table)
                if self.tables:
                    self.tables[-1].last = self._line()

    def _header(self, end: str, *, array: bool) -> Path:
        line = self._line()
        self._skip(_BLANK_ON_LINE)
        *outer, last = self._key()
        if not self._take(end):
            raise ScanError
        path: Path = ()
        for part in outer:
            path = self._into((*path, part), line)
        path = (*path, last)
        if array:
            self.of.setdefault(path, line)
            self._arrays[path] = self._arrays.get(path, 0) + 1
            path = (*path, self._arrays[path] - 1)
            self.of[path] = line
        else:
            self._once(path, line)
            if self.of.setdefault(path, line) != line and path not in self._arrays:
                self.of[path] = line  # its own header rather than that of a table inside it
        self.tables.append(Table(path, line, line))
        return path

    def _into(self, path: Path, line: int) -> Path:
        """The path of a table on the way to another one; in an array of tables, the last element."""
        self.of.setdefault(path, line)
        return (*path, self._arrays[path] - 1) if path in self._arrays else path

    def _pair(self, table: Path) -> None:
        line = self._line()
        *outer, last = self._key()
        if not self._take("="):
            raise ScanError
        path = table
        for part in outer:
            path = (*path, part)
            self.of.setdefault(path, line)
        path = (*path, last)
        self._once(path, line)
        self.of.setdefault(path, line)
        self._skip(_BLANK_ON_LINE)
        self._value(path)

    def _once(self, path: Path, line: int) -> None:
        if path in self._written:
            self.twice.append((path, line, self._written[path]))
        else:
            self._written[path] = line

    def _key(self) -> list[str]:
        parts = []
        while True:
            if found := _BARE_KEY.match(self._text, self._at):
                parts.append(found[0])
            elif found := _TEXT.match(self._text, self._at):
                try:
                    parts.append(str(tomllib.loads(f"key = {found[0]}")["key"]))
                except tomllib.TOMLDecodeError:
                    raise ScanError from None
            else:
                raise ScanError
            self._at = found.end()
            self._skip(_BLANK_ON_LINE)
            if not self._take("."):
                return parts
            self._skip(_BLANK_ON_LINE)

    def _value(self, path: Path) -> None:
        if self._take("["):
            for position in range(len(self._text)):
                self._skip(_BLANK)
                if self._take("]"):
                    return
                self.of[(*path, position)] = self._line()
                self._value((*path, position))
                self._skip(_BLANK)
                self._take(",")
        elif self._take("{"):
            while True:
                self._skip(_BLANK)
                if self._take("}"):
                    return
                self._pair(path)
                self._skip(_BLANK)
                self._take(",")
        elif found := _TEXT.match(self._text, self._at) or _SCALAR.match(self._text, self._at):
            self._at = found.end()
        else:
            raise ScanError

    def _skip(self, pattern: re.Pattern[str]) -> bool:
        found = pattern.match(self._text, self._at)
        assert found is not None  # both patterns match the empty text
        self._at = found.end()
        return bool(found[0])

    def _take(self, text: str) -> bool:
        if not self._text.startswith(text, self._at):
            return False
        self._at += len(text)
        return True

    def _line(self) -> int:
        return bisect_right(self._starts, self._at)
