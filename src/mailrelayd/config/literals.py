"""Values as TOML writes them. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import date, time

_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


def literal(value: object) -> str:
    """A value on one line, such as `"text"`, `587`, `["a", "b"]` or `{a = 1}`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key(part)} = {literal(inner)}' for part, inner in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, (date, time)):
        return value.isoformat()
    return json.dumps(value)


def quoted(text: str) -> str:
    """A text between quotes, with everything escaped that must be (TOML 1.0.0, basic strings)."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def key(part: str) -> str:
    """One part of a key, between quotes where it must be."""
    return part if _BARE.fullmatch(part) else quoted(part)
