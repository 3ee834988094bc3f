"""Gives the names in an address list that have no domain one, and changes nothing else of it. Pure.

As Postfix does with the header of mail handed in on the machine itself. The list is not read and written again, and
what is unclear stays as it is: reading it for an envelope (`addresses.read_list`) says what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_TOKEN = re.compile(
    rb"""  (?P<space>[ \t\r\n]++)
         | (?P<quoted>"(?:[^"\\]++|\\.)*+")
         | (?P<literal>\[[^\[\]\\]*+\])
         | (?P<word>[^\x00-\x20\x7f()<>\[\]:;@\\,."]++)
         | (?P<special>[(<>:;@,.])
     """,
    re.DOTALL | re.VERBOSE,
)
_COMMENT_PART = re.compile(rb"(?:[^()\\]++|\\.)*+([()])", re.DOTALL)


class _Token(NamedTuple):
    kind: str  # word, quoted, literal, special; broken: what follows cannot be read
    text: bytes
    end: int


def qualified(content: bytes, domain: str) -> bytes:
    """An address list in which every name without a domain has got this one; what cannot be read stays as it is."""
    ends: list[int] = []  # where the domain belongs
    element: list[_Token] = []  # outside of angle brackets
    angle: list[_Token] | None = None
    complete = False  # the element has an address in angle brackets, so what stands before it is its name
    for token in _tokens(content):
        kind, text, _ = token
        if kind == "broken" or (text == b"<" and (angle is not None or complete)) or (text == b">" and angle is None):
            return content
        if text == b"<":
            angle, complete = [], True
        elif text == b">" and angle is not None:
            ends += _end_of_bare(angle)
            angle = None
        elif angle is not None:
            angle.append(token)
        elif text in (b",", b";", b":"):
            ends += [] if complete or text == b":" else _end_of_bare(element)  # before the : stands a group's name
            element, complete = [], False
        else:
            element.append(token)
    if angle is not None:
        return content
    ends += [] if complete else _end_of_bare(element)
    pieces = [content[begin:end] for begin, end in zip([0, *ends], [*ends, len(content)], strict=True)]
    return b"@".join([pieces[0], *(domain.encode() + piece for piece in pieces[1:])])


def _tokens(content: bytes) -> Iterator[_Token]:
    """What is neither white space nor comment."""
    position = 0
    while position < len(content):
        match = _TOKEN.match(content, position)
        if match is None:
            yield _Token("broken", b"", position)
            return
        position = match.end()
        if match[0] == b"(":
            depth = 1
            while depth and (part := _COMMENT_PART.match(content, position)):
                position = part.end()
                depth += 1 if part[1] == b"(" else -1
            if depth:
                yield _Token("broken", b"", position)
                return
        elif match.lastgroup != "space":
            yield _Token(match.lastgroup or "", match[0], position)


def _end_of_bare(tokens: list[_Token]) -> list[int]:
    """Where the one name that these are ends; nothing if they are anything else than a name without a domain."""
    words, dots = tokens[::2], tokens[1::2]
    if not words or len(words) == len(dots) or words[0].text.startswith(b"=?"):
        return []
    is_name = all(one.kind in ("word", "quoted") and one.text.isascii() for one in words)
    return [words[-1].end] if is_name and all(one.text == b"." for one in dots) else []
