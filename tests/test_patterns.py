"""Every regular expression means the same on each Python we support.

Before 3.11.5, Python goes on behind what the last, failed round of a possessive group had consumed (gh-106052): only
plain characters, and a choice with which the round begins, are taken back. Such a group is allowed here where it cannot
fail later; any other group repeats without the +.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

import mailrelayd

PARSER: Any = importlib.import_module("re._parser")
PLAIN = ("LITERAL", "NOT_LITERAL", "IN", "ANY", "CATEGORY", "AT")
REPEATS = ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")


def names() -> list[str]:
    """All our modules."""
    found = [one.name for one in pkgutil.walk_packages(mailrelayd.__path__, "mailrelayd.")]
    return [name for name in found if not name.endswith("__main__")]


def patterns() -> Iterator[tuple[str, re.Pattern[Any]]]:
    """Every compiled pattern that a module keeps, and its name."""
    for name in names():
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        for key, kept in vars(module).items():
            if isinstance(kept, re.Pattern):
                yield f"{name}.{key}", kept


def may_fail_late(round_: Sequence[Any]) -> bool:
    """Whether one round of a group may fail once something in it has moved the place from which matching goes on."""
    moved = False
    for index, (op, given) in enumerate(round_):
        kind = str(op)
        if kind in PLAIN:
            if moved:
                return True
            continue
        if kind in REPEATS:
            least, _, inner = given
            single = len(inner) == 1 and str(inner[0][0]) in PLAIN
            if not single and may_fail_late(inner):
                return True
            if moved or (index and least) or (not single and least):
                return True
            moved = True
        elif kind == "BRANCH":
            if index or any(may_fail_late(one) for one in given[1]):
                return True
            moved = any(str(part[0]) not in PLAIN for one in given[1] for part in one)
        elif kind == "SUBPATTERN":
            if index or may_fail_late(given[-1]):
                return True
            moved = any(str(part[0]) not in PLAIN for part in given[-1])
        else:
            return True
    return False


def unsound(parsed: Sequence[Any]) -> bool:
    """Whether a possessive or atomic group stands in it that a later failure can spoil."""
    for op, given in parsed:
        kind = str(op)
        if kind == "ATOMIC_GROUP":
            return True
        if kind == "POSSESSIVE_REPEAT":
            inner = given[2]
            if not (len(inner) == 1 and str(inner[0][0]) in PLAIN) and may_fail_late(inner):
                return True
        if any(unsound(inner) for inner in inside(given)):
            return True
    return False


def inside(given: Any) -> Iterator[Sequence[Any]]:
    """The patterns within an operation."""
    if isinstance(given, PARSER.SubPattern):
        yield given
    elif isinstance(given, tuple | list):
        for one in given:
            yield from inside(one)


def parsed(pattern: re.Pattern[Any]) -> Any:
    return PARSER.parse(pattern.pattern, pattern.flags & ~re.DEBUG)


def test_no_possessive_group_can_fail_late() -> None:
    """None of ours can give another answer on an older Python."""
    found = dict(patterns())
    assert len(found) > 100
    assert [name for name, pattern in found.items() if unsound(parsed(pattern))] == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (r"(?:ab?c)++", True),
        (r"(?>ab?c)", True),
        (r"a++(?:\.a++)*+", True),
        (r"(?:[^>\"]|\"[^\"]*+\")*+>", True),
        (r"x(?:(?:a|b)c?d)*+", True),
        (r"x(?:a(?:bb|cc))*+", True),
        (r"(?:[^\"\\]++|\\.)*+", False),
        (r"(?:(?:\r\n|\r|\n)[ \t][^\r\n]*+)*+", False),
        (r"[ab]*+a++", False),
        (r"(?:ab?c)*", False),
    ],
)
def test_what_can_fail_late_is_seen(text: str, wrong: bool) -> None:
    """The bug's own example and the like are found, and what is sound is not."""
    assert unsound(parsed(re.compile(text))) is wrong
