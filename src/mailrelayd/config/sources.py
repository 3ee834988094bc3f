"""Everything that is written anywhere: FILE, `conf.d/*.toml` beside it, then the environment, merged key by key.

A later source wins. What is merged knows where it was written, so that whoever judges it can say so.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mailrelayd.config import lines, wording
from mailrelayd.config.environment import PREFIX, key_of, typed
from mailrelayd.config.wording import Key, name

LIMIT = 1024 * 1024  # bytes of one file; the commented sample has some ten thousand
MOST_KEYS = 10_000  # of one file: each is looked at more than once
DEEPEST = 20  # tables and lists inside each other; a configuration has five

_POSITION = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


@dataclass(frozen=True, slots=True, order=True)
class Origin:
    """Where a value was written: a line of a file, or a variable. `rank` orders the sources as they were read."""

    rank: int
    line: int
    source: str  # the file, or the variable's name
    variable: bool = False

    def __str__(self) -> str:
        return f"environment {self.source}" if self.variable else f"{self.source}:{self.line}"


def read(path: Path, environ: Mapping[str, str], instead: Mapping[Path, bytes]) -> Sources:
    """Everything that is written anywhere, merged and not yet judged; `problems` says what could not be read.

    `instead`: what files would hold, to judge a change before it is written.
    """
    sources = Sources(environ, instead)
    sources.read_file(Path(path))
    for more in sources.listing(Path(path).parent / "conf.d"):
        sources.read_file(more)
    sources.read_environment()
    return sources


@dataclass(slots=True)
class Sources:
    """What has been read so far: one merged tree, where each of its keys came from, and what was wrong."""

    environ: Mapping[str, str]
    instead: Mapping[Path, bytes]
    data: dict[str, Any] = field(default_factory=dict)
    origins: dict[Key, Origin] = field(default_factory=dict)
    problems: set[tuple[Origin, str]] = field(default_factory=set)
    files: dict[Path, bytes] = field(default_factory=dict)
    digest: Any = field(default_factory=hashlib.sha256)
    rank: int = 0
    unread: bool = False

    # -- reading

    def listing(self, folder: Path) -> list[Path]:
        """The files of conf.d, sorted by name; without hidden ones, which are editors' and packagers' leftovers."""
        try:
            return sorted(entry for entry in folder.iterdir() if entry.suffix == ".toml" and entry.name[0] != ".")
        except FileNotFoundError:
            return []
        except OSError as error:
            self._file_problem(folder, f"cannot be listed: {error.strerror}; correct its owner or mode")
            return []

    def read_file(self, path: Path) -> None:
        """Take over what a file says."""
        self.rank += 1
        content = self._content(path)
        if content is None:
            return
        self.files[path] = content
        self.digest.update(content)
        try:
            text = content.decode("utf-8-sig")  # Windows editors begin a file with a byte order mark
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            self.unread = True
            self._problem(Origin(self.rank, line, str(path)), "syntax", "this is not UTF-8: save the file as UTF-8")
            return
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            self._syntax(path, text, str(error))
            return
        except (ValueError, RecursionError):  # a number of 5000 digits; a thousand brackets
            self.unread = True
            text = "a number is too long or lists are too deep to be read"
            self._problem(Origin(self.rank, 1, str(path)), "syntax", text)
            return
        if wrong := _measured(data):
            self.unread = True
            self._problem(Origin(self.rank, 1, str(path)), "syntax", wrong)
            return
        self._merge(self.data, data, (), lines.Lines(text), path)

    def _content(self, path: Path) -> bytes | None:
        if path in self.instead:
            return self.instead[path]
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        except FileNotFoundError:
            self._file_problem(path, "there is no such file; create it, or name another one by --config FILE")
            return None
        except PermissionError:
            self._file_problem(path, "may not be read by this user; correct its owner, group or mode")
            return None
        except OSError as error:
            self._file_problem(path, f"cannot be opened: {error.strerror}; name another one by --config FILE")
            return None
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            os.close(descriptor)
            self._file_problem(path, f"is {'a directory' if stat.S_ISDIR(mode) else 'not a regular file'}; name a file")
            return None
        with os.fdopen(descriptor, "rb") as stream:
            try:
                content = stream.read(LIMIT + 1)
            except OSError as error:
                self._file_problem(path, f"cannot be read: {error.strerror}")
                return None
        if len(content) > LIMIT:
            self._file_problem(path, "has more than 1 MiB; that is no configuration")
            return None
        return content

    def _syntax(self, path: Path, text: str, message: str) -> None:
        self.unread = True
        found = _POSITION.search(message)
        last = text.rstrip().count("\n") + 1
        line = int(found[1]) if found and found[1] else last
        scanned = lines.Lines("".join(text.splitlines(keepends=True)[:line]) if line < last else text)
        doubled = [(key, at, first) for key, at, first in scanned.twice if at <= line]
        if message.startswith(("Cannot", "Duplicate")) and doubled:
            key, at, first = doubled[0]
            self._problem(Origin(self.rank, at, str(path)), key, f"is written twice, first on line {first}: keep one")
            return
        column = f" (column {found[2]})" if found and found[2] else ""
        self._problem(Origin(self.rank, line, str(path)), "syntax", f"{wording.syntax(message)}{column}")

    def _merge(self, into: dict[str, Any], data: dict[str, Any], at: Key, scanned: lines.Lines, path: Path) -> None:
        """Tables are merged key by key; anything else replaces what an earlier source said."""
        for part, value in data.items():
            key = (*at, part)
            origin = Origin(self.rank, scanned.nearest(key) or 1, str(path))
            if isinstance(value, dict) and isinstance(into.get(part, {}), dict):
                self.origins.setdefault(key, origin)
                self._merge(into.setdefault(part, {}), value, key, scanned, path)
                continue
            if part in into:
                self._forget(key)
            into[part] = value
            self.origins[key] = origin
            for below in _paths(value, key):
                self.origins[below] = Origin(self.rank, scanned.nearest(below) or 1, str(path))

    def read_environment(self) -> None:
        """Take over what MAILRELAYD__SECTION__KEY variables say; names in any case."""
        self.rank += 1
        seen: dict[Key, str] = {}
        for variable in sorted(variable for variable in self.environ if variable.upper().startswith(PREFIX)):
            origin = Origin(self.rank, 0, variable, variable=True)
            try:
                key = key_of(variable, self.data)
                if seen.setdefault(key, variable) != variable:
                    raise ValueError(f"means the same as {seen[key]}: keep one")
                value = typed(key, self.environ[variable])
            except ValueError as error:
                self._problem(origin, "", str(error))
                continue
            self.put(key, value, origin)

    def put(self, key: Key, value: object, origin: Origin) -> None:
        """Let `key` be `value`, and all that was inside it be gone."""
        table = self.data
        for depth, part in enumerate(key[:-1], 1):
            inner = table.setdefault(str(part), {})
            if not isinstance(inner, dict):  # already a fault of the file: it is told there
                return
            self.origins.setdefault(key[:depth], origin)
            table = inner
        self._forget(key)
        table[str(key[-1])] = value
        self.origins[key] = origin

    def _forget(self, key: Key) -> None:
        """A later source replaces a key and all that was inside it."""
        for old in [known for known in self.origins if known[: len(key)] == key]:
            del self.origins[old]

    # -- what stands there

    def tables(self, group: str) -> list[tuple[str, dict[str, Any]]]:
        """The sections [`group`.NAME], as far as they are sections."""
        tables = self.data.get(group)
        return [(n, t) for n, t in tables.items() if isinstance(t, dict)] if isinstance(tables, dict) else []

    def value(self, key: Key) -> object:
        """What stands at `key`; None for nothing."""
        value: Any = self.data
        for part in key:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def origin(self, key: Key) -> Origin | None:
        """Where `key` was written, or the innermost table around it that was."""
        while key:
            if key in self.origins:
                return self.origins[key]
            key = key[:-1]
        return None

    # -- problems

    def tell(self, key: Key, text: str) -> None:
        """Say what is wrong with `key`, and how to fix it; without its value."""
        origin = self.origin(key) or Origin(1, 1, str(next(iter(self.files))))
        if origin.variable:  # the variable itself, or the one that is missing beside it
            named = tuple(part for part in key if isinstance(part, str))
            variable = origin.source if named in self.origins else PREFIX + "__".join(named).upper()
            self._problem(Origin(origin.rank, 0, variable, variable=True), "", text)
        else:
            self._problem(origin, key, text)

    def _file_problem(self, path: Path, text: str) -> None:
        self.unread = True
        self.problems.add((Origin(self.rank, 0, str(path)), f"{_printable(str(path))}: {text}"))

    def _problem(self, origin: Origin, key: Key | str, text: str) -> None:
        where = f"environment: {origin.source}" if origin.variable else f"{origin.source}:{origin.line}"
        what = key if isinstance(key, str) else name(key)
        self.problems.add((origin, f"{_printable(where)}: {what + ': ' if what else ''}{text}"))


def _measured(data: dict[str, Any]) -> str:
    """What is wrong with the size of a tree, "" for nothing: what walks it must come to an end."""
    level: list[Any] = [data]
    keys = 0
    for _ in range(DEEPEST):
        keys += sum(len(one) for one in level if isinstance(one, dict))
        inside = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
        level = [one for one in inside if isinstance(one, (dict, list))]
    if keys > MOST_KEYS:
        return f"has more than {MOST_KEYS} keys; that is no configuration"
    return "sections or lists are too deep to be read" if level else ""


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _paths(value: object, key: Key) -> Iterator[Key]:
    """The paths of everything inside a value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for part, inner in inside:
        yield (*key, part)
        yield from _paths(inner, (*key, part))
