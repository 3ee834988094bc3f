"""Changes in a TOML text that leave all the rest as it is: comments, order, line ends.

Tables and new keys are put in and taken out as lines, because only lines show which comment belongs to what; values
are changed by tomlkit, and so is whatever is written in one line. Whichever way, the text must afterwards say exactly
what was meant, or EditError says that a person must do it.
"""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from mailrelayd.config import literals
from mailrelayd.config.lines import Lines, Table

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Put:
    """The value, or the table, that stands at `path` from now on."""

    path: Path
    value: object


@dataclass(frozen=True, slots=True)
class Take:
    """Nothing stands at `path` from now on."""

    path: Path


Edit = Put | Take


class EditError(Exception):
    """The way a file is written does not allow this edit; carries its path."""

    def __init__(self, path: Path) -> None:
        super().__init__(".".join(map(literals.key, path)))
        self.path = path


def edited(text: str, edits: list[Edit]) -> str:
    """The text after all edits, in their order. Raises EditError; the text must be TOML."""
    windows = "\r\n" in text and not re.search(r"(?<!\r)\n", text)
    if windows:
        text = text.replace("\r\n", "\n")
    for edit in edits:
        text = _once(text, edit)
    return text.replace("\n", "\r\n") if windows else text


def applied(tree: Mapping[str, Any], edit: Edit) -> dict[str, Any]:
    """What a tree is after an edit. Raises EditError where a value stands in the way of a table."""
    result: dict[str, Any] = copy.deepcopy(dict(tree))
    table: Any = result
    for part in edit.path[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise EditError(edit.path)
    if isinstance(edit, Put):
        table[edit.path[-1]] = edit.value
    else:
        table.pop(edit.path[-1], None)
    return result


def _once(text: str, edit: Edit) -> str:
    meant = applied(tomllib.loads(text), edit)
    ways: tuple[Callable[[str, Edit], str], ...] = (_by_lines, _by_tree)
    for way in ways:
        try:
            result = way(text, edit)
            if without_empty(tomllib.loads(result)) == without_empty(meant):
                return result
        except (TOMLKitError, ValueError, LookupError, TypeError, AttributeError):
            continue
    raise EditError(edit.path)


def without_empty(tree: dict[str, Any]) -> dict[str, Any]:
    """Without tables that hold nothing at all below the sections: a header may go with its last key, or stay."""

    def rest(table: dict[str, Any], depth: int) -> dict[str, Any]:
        found = {part: rest(value, depth + 1) if isinstance(value, dict) else value for part, value in table.items()}
        return {part: value for part, value in found.items() if value != {} or depth == 1}

    return rest(tree, 0)


# -- as lines


def _by_lines(text: str, edit: Edit) -> str:
    scanned = Lines(text)
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    if isinstance(edit, Take):
        tables = [table for table in scanned.tables if table.path[: len(edit.path)] == edit.path]
        if not tables:
            return _by_tree(text, edit)
        for table in reversed(tables):
            _take_table(lines, table)
        return "".join(lines)
    if edit.path in scanned.of:
        return _by_tree(text, edit)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    home = next((table for table in scanned.tables if table.path == edit.path[:-1]), None)
    if home is not None and not isinstance(edit.value, Mapping):
        indent = re.match(r"[ \t]*", lines[home.line - 1])
        assert indent is not None  # the pattern matches any text
        key = literals.key(edit.path[-1])
        lines.insert(home.last, f"{indent[0]}{key} = {literals.literal(edit.value)}\n")
        return "".join(lines)
    return _with_table(lines, scanned.tables, edit)


def _with_table(lines: list[str], tables: list[Table], edit: Put) -> str:
    """Put a new section behind those it has most in common with."""
    path, value = (edit.path, edit.value) if isinstance(edit.value, Mapping) else (edit.path[:-1], None)
    inner: dict[str, Any] = dict(value) if isinstance(value, Mapping) else {edit.path[-1]: edit.value}
    for part in reversed(path):
        inner = {part: inner}
    block = [line + "\n" for line in tomlkit.dumps(inner).strip("\n").split("\n")]
    at = len(lines)
    common = 0
    for position, table in enumerate(tables):
        same = next((n for n in range(len(path), 0, -1) if table.path[:n] == path[:n]), 0)
        if same and same >= common:
            common = same
            following = tables[position + 1].line - 1 if position + 1 < len(tables) else len(lines)
            at = _end_of(lines, table.last, following)
    before = ["\n"] if at and lines[at - 1].strip() else []
    after = ["\n"] if at < len(lines) and lines[at].strip() else []
    return "".join([*lines[:at], *before, *block, *after, *lines[at:]])


def _end_of(lines: list[str], last: int, following: int) -> int:
    """How many lines a table takes with the comments that follow its last key, but not those of the next header."""
    at = last
    while at < following and lines[at].lstrip().startswith("#"):
        at += 1
    return last if at == following < len(lines) else at


def _take_table(lines: list[str], table: Table) -> None:
    """Remove a header, its keys, and the remarks that stand right above it or right below its last key."""
    following = next((at for at in range(table.last, len(lines)) if lines[at].lstrip().startswith("[")), len(lines))
    begin, stop = table.line - 1, _end_of(lines, table.last, following)
    while begin and re.match(r"[ \t]*#(?:[ \t]|\r?\n)", lines[begin - 1]):  # "#key = value" is a setting, no remark
        begin -= 1
    if begin == 0:  # at the top it is about the whole file
        begin = table.line - 1
    if begin == 0 or not lines[begin - 1].strip():
        while stop < len(lines) and not lines[stop].strip():
            stop += 1
    if stop == len(lines):
        while begin and not lines[begin - 1].strip():
            begin -= 1
    del lines[begin:stop]


# -- as a tree


def _by_tree(text: str, edit: Edit) -> str:
    document = tomlkit.parse(text)
    table: Any = document
    for part in edit.path[:-1]:
        if part not in table:
            table[part] = tomlkit.table() if table is document else tomlkit.inline_table()
        table = table[part]
    if isinstance(edit, Put):
        table[edit.path[-1]] = edit.value
    else:
        del table[edit.path[-1]]
    return tomlkit.dumps(document)
