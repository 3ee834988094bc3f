"""Properties as text, read as java.util.Properties.load(Reader) reads them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


@dataclass(frozen=True, slots=True)
class Property:
    """One property, and the line it begins on, counted from 1."""

    key: str
    value: str
    line: int


class TextError(ValueError):
    """What is wrong with a text, as (line, what and how to fix it)."""

    def __init__(self, problems: list[tuple[int, str]]) -> None:
        super().__init__("; ".join(f"line {line}: {text}" for line, text in problems))
        self.problems = problems


def parse(text: str) -> list[Property]:
    """The properties of a text; of one that is written twice, the later. Raises TextError.

    As java.util.Properties.load(Reader): "#" and "!" begin comments, a backslash at the end continues a line, "=", ":"
    or white space ends a key, and a backslash escapes the character behind it.
    """
    found: dict[str, Property] = {}
    problems: list[tuple[int, str]] = []
    for line, logical in _logical_lines(text):
        at = re.match(r"(?:[^\\=: \t\f]|\\.)*", logical, re.DOTALL)
        assert at is not None  # the pattern matches any text
        rest = re.sub(r"\A[ \t\f]*(?:[=:][ \t\f]*)?", "", logical[at.end() :])
        try:
            key, value = _unescaped(at[0]), _unescaped(rest)
        except ValueError as error:
            problems.append((line, str(error)))
            continue
        if not key:
            problems.append((line, "has no name in front of its value: write NAME=VALUE"))
            continue
        found.pop(key, None)
        found[key] = Property(key, value, line)
    if problems:
        raise TextError(problems)
    return list(found.values())


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines without comments and empty ones, each with those that continue it."""
    begun, so_far = 0, ""
    for number, natural in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        line = natural.lstrip(" \t\f")
        if not so_far and (not line or line[0] in "#!"):  # also behind a backslash that stands alone, as in Java
            begun = 0
            continue
        begun = begun or number
        if (len(line) - len(line.rstrip("\\"))) % 2:
            so_far += line[:-1]
            continue
        if so_far + line:
            yield begun, so_far + line
        begun, so_far = 0, ""
    if so_far:
        yield begun, so_far


def _unescaped(text: str) -> str:
    def value(found: re.Match[str]) -> str:
        escaped = found[1]
        if escaped[0] != "u":
            return _ESCAPES.get(escaped, escaped)
        if len(escaped) < 5:
            raise ValueError("has \\u without four hexadecimal digits behind it: write two backslashes for one")
        return chr(int(escaped[1:], 16))

    plain = re.sub(r"\\(u[0-9A-Fa-f]{4}|.)", value, text, flags=re.DOTALL)
    try:  # Java writes characters beyond 16 bits as two
        return plain.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        raise ValueError("has half of a character: \\uD800 to \\uDFFF come in pairs") from None
