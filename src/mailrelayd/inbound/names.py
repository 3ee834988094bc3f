"""How names, numbers and dates are written in IMAP commands. Pure.

Nothing else goes into a command, and nothing here lets a line end or a quote through.
"""

from __future__ import annotations

import binascii
import datetime
import re
from collections.abc import Collection, Iterable
from typing import Final

MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
"""In English in every locale."""
LAST_UID: Final = 2**32 - 1  # RFC 3501 section 9: nz-number

_FIELD_NAME: Final = re.compile(r"[A-Za-z0-9-]{1,76}")
_ENCODE: Final = re.compile(r"[^\x20-\x7e]+|&")
_DECODE: Final = re.compile(r"&([A-Za-z0-9+,]*)-|[\x20-\x25\x27-\x7e]+")


def encoded(name: str) -> str:
    """A folder's name in modified UTF-7 (RFC 3501 section 5.1.3). Raises ValueError for what is no Unicode text."""

    def shifted(found: re.Match[str]) -> str:
        if found[0] == "&":
            return "&-"
        packed = binascii.b2a_base64(found[0].encode("utf-16-be"), newline=False).decode()
        return f"&{packed.rstrip('=').replace('/', ',')}-"

    return _ENCODE.sub(shifted, name)


def decoded(name: bytes) -> str:
    """The folder's name behind modified UTF-7; what is not modified UTF-7 is shown as it came."""
    text = name.decode("utf-8", "backslashreplace")
    result, at = [], 0
    while at < len(text):
        found = _DECODE.match(text, at)
        if found is None:
            return text
        try:
            result.append(found[0] if found[1] is None else _unshifted(found[1]))
        except ValueError:  # UnicodeDecodeError and binascii.Error are
            return text
        at = found.end()
    return "".join(result)


def _unshifted(packed: str) -> str:
    if not packed:
        return "&"
    octets = binascii.a2b_base64(packed.replace(",", "/") + "=" * (-len(packed) % 4))
    return octets.decode("utf-16-be")


def quoted(text: str) -> str:
    """A quoted string (RFC 3501 section 9). Raises ValueError where only a literal would do."""
    if not text.isascii() or any(c in text for c in "\0\r\n"):
        raise ValueError(f"{text!r} cannot stand in quotes")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def folder(name: str) -> str:
    """A folder's name as an argument. Raises ValueError."""
    if not name:
        raise ValueError("a folder has a name")
    return quoted(encoded(name))


def uid_set(uids: Collection[int]) -> str:
    """UIDs as an argument: each by itself, so that no mail comes in between. Raises ValueError."""
    if not uids or not all(0 < uid <= LAST_UID for uid in uids):
        raise ValueError("UIDs are numbers from 1 to 4294967295, at least one of them")
    return ",".join(str(uid) for uid in uids)


def date(day: datetime.date) -> str:
    """A day for SEARCH."""
    return f"{day.day}-{MONTHS[day.month - 1]}-{day.year:04}"


def field_names(wanted: Iterable[str]) -> str:
    """Header field names as a list for BODY[HEADER.FIELDS ...]. Raises ValueError."""
    names = [name.upper() for name in wanted]
    wrong = [name for name in names if not _FIELD_NAME.fullmatch(name)]
    if wrong or not names:
        raise ValueError(f"no header field names: {wrong}")
    return f"({' '.join(names)})"
