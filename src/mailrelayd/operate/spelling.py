r"""How values are spelled in a line of the log, whatever strangers put into them. Pure.

What is not printable is escaped (`\n`, `\x1b`, `\u2028`; a byte that is no UTF-8 is `\xff`), each character by itself:
a part of a value is the same part of its spelling.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii as _json_text
from typing import Any

LISTS = (list, tuple, set, frozenset)

# C0, DEL, C1, line and paragraph separators, everything that turns the direction of text, and surrogates
# (what is left of a byte that was no UTF-8, PEP 383).
_UNSAFE = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_UNSAFE_CHARACTER = re.compile(f"[{_UNSAFE}]")
_QUOTED_CHARACTER = re.compile(f'[{_UNSAFE}"\\\\]')
_SURROGATE = re.compile("[\ud800-\udfff]")
_NAMED = {"\n": r"\n", "\r": r"\r", "\t": r"\t", '"': r"\"", "\\": r"\\"}


def escape(text: str) -> str:
    r"""`text` on one line: what is not printable as `\n`, `\x1b`, `\u2028`; a stray byte 0xff as `\xff`."""
    return text if text.isprintable() else _UNSAFE_CHARACTER.sub(_escaped, text)


def escaped_forms(text: str) -> set[str]:
    """What becomes of `text`, as a part of a value, in any of the formats."""
    return {text, in_json(text)[1:-1], _QUOTED_CHARACTER.sub(_escaped, text)}


def spelled(pairs: Mapping[str, Any]) -> str:
    """The pairs of text and logfmt, a blank before each."""
    line = ""
    for key, value in pairs.items():
        if value is not None:
            line += f" {key}={quoted(value)}"
    return line


def members(pairs: Mapping[str, Any]) -> str:
    """The pairs of a JSON object that has some already."""
    text = ""
    for key, value in pairs.items():
        if type(value) is str and value.isascii():
            text += f', "{key}": {_json_text(value)}'
        elif type(value) is int:
            text += f', "{key}": {value}'
        elif value is not None:
            text += f', "{key}": {in_json(value)}'
    return text


def quoted(value: Any) -> str:
    """A value of text and logfmt: bare where nothing can be misread, else in quotes with backslash escapes."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, bool):
        return "true" if value else "false"
    elif isinstance(value, float):
        return str(round(value, 3))
    else:
        text = ",".join(map(str, value)) if isinstance(value, LISTS) else str(value)
    if not text.isprintable() or '"' in text or "\\" in text:
        return f'"{_QUOTED_CHARACTER.sub(_escaped, text)}"'
    # The blank is the only space that is printable.
    return text if text and " " not in text and "=" not in text else f'"{text}"'


def in_json(value: Any) -> str:
    """A value as JSON."""
    if isinstance(value, str):  # lone surrogates are no Unicode: strict readers refuse the whole line
        return _json_text(_SURROGATE.sub(_escaped, value))
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):  # JSON knows no infinity
        return float.__repr__(round(value, 3)) if math.isfinite(value) else f'"{value}"'
    if isinstance(value, LISTS):
        return f"[{', '.join([in_json(str(item)) for item in value])}]"
    return in_json(str(value))


def _escaped(match: re.Match[str]) -> str:
    character = match.group()
    code = ord(character)
    if character in _NAMED:
        return _NAMED[character]
    if 0xDC80 <= code <= 0xDCFF:  # PEP 383: the byte code - 0xDC00
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}"
