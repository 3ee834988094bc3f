"""A mail in the mailbox of the demonstration, and how IMAP asks and tells about it (RFC 3501 section 9). No IO."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_ASTRING = re.compile(r'"((?:[^"\\]|\\["\\])*)"|([^\s(){%*"\\]+)')
_ITEM = re.compile(
    r"(?P<body>BODY(?P<peek>\.PEEK)?\[(?P<section>HEADER(?:\.FIELDS \((?P<fields>[A-Z0-9 -]+)\))?|)\]"
    r"(?:<(?P<first>\d+)\.(?P<count>\d+)>)?)|(?P<word>UID|RFC822\.SIZE|INTERNALDATE|FLAGS)",
    re.IGNORECASE,
)


@dataclass(slots=True)
class Filed:
    """One mail in the folder."""

    uid: int
    content: bytes
    arrived: datetime
    flags: set[str] = field(default_factory=set)


class BadError(Exception):
    """The client said what this server does not understand."""


def strings(text: str, count: int) -> list[str]:
    """Atoms and quoted strings, as many as that."""
    found = list(_ASTRING.finditer(text))
    if " ".join(one[0] for one in found) != text or len(found) != count:
        raise BadError(f"{count} atom or quoted string expected")
    return [re.sub(r"\\(.)", r"\1", one[1]) if one[1] is not None else one[2] for one in found]


def split(text: str) -> tuple[str, str]:
    """A set of UIDs, and what is wanted of them."""
    chosen, _, rest = text.partition(" ")
    return chosen, rest


def items(text: str) -> Iterator[re.Match[str]]:
    """What UID FETCH asks for."""
    if text.startswith("("):
        text = text.removeprefix("(").removesuffix(")")
    at = 0
    while at < len(text):
        found = _ITEM.match(text, at)
        if found is None or text[found.end() : found.end() + 1] not in ("", " "):
            raise BadError("this server tells UID, RFC822.SIZE, INTERNALDATE, FLAGS and BODY[...]")
        yield found
        at = found.end() + 1


def about(mail: Filed, word: str) -> str:
    """The value of RFC822.SIZE, INTERNALDATE or FLAGS."""
    match word:
        case "RFC822.SIZE":
            return str(len(mail.content))
        case "INTERNALDATE":
            at = mail.arrived
            return f'"{at.day:2}-{MONTHS[at.month - 1]}-{at:%Y %H:%M:%S} +0000"'
        case _:
            return f"({' '.join(sorted(flag[:2].upper() + flag[2:] for flag in mail.flags))})"


def body(mail: Filed, item: re.Match[str]) -> bytes:
    """BODY[...] with its literal."""
    text = mail.content
    if item["section"]:
        header, _, _ = text.partition(b"\r\n\r\n")
        fields = re.findall(rb"[^\r\n:]+:[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*", header + b"\r\n")
        if item["fields"]:
            names = item["fields"].lower().encode().split()
            fields = [one for one in fields if one.partition(b":")[0].strip().lower() in names]
        text = b"".join(fields) + b"\r\n"
    name = f"BODY[{item['section'].upper()}]"
    if item["first"] is not None:
        first = int(item["first"])
        text = text[first : first + int(item["count"])]
        name += f"<{first}>"
    return f"{name} {{{len(text)}}}\r\n".encode() + text


def day_of(text: str) -> date:
    """A day as SEARCH writes it."""
    found = re.fullmatch(r'"?(\d{1,2})-([A-Za-z]{3})-(\d{4})"?', text)
    try:
        if found is not None:
            return date(int(found[3]), MONTHS.index(found[2].title()) + 1, int(found[1]))
    except ValueError:
        pass
    raise BadError("a day is written like 1-Feb-2026")
