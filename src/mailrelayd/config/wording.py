"""What is wrong with a configuration, in words that say how to fix it and repeat no value."""

from __future__ import annotations

import difflib
import json
import re

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from mailrelayd.config.settings import known_keys

Key = tuple[str | int, ...]
"""The path of a key; below lists, positions."""

_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)

# tomllib's message begins with the left text; its own words may quote the line, so they are not repeated.
_SYNTAX = (
    ("Illegal character", "a text is not closed on its line, or holds a control character: close it with a quote"),
    ("Unterminated string", 'a text is not closed: three quotes open it, three must close it (""")'),
    ('Expected \'"""\'', 'a text is not closed: three quotes open it, three must close it (""")'),
    ("Expected \"'''\"", "a text is not closed: three quotes open it, three must close it (''')"),
    ("Expected ", "something is missing or too much here: one KEY = VALUE or one [SECTION] per line, texts in quotes"),
    ("Invalid value", "the value is missing or not closed, or is a text without quotes around it"),
    (
        "Invalid initial character",
        "a key is missing: write KEY = VALUE; names hold letters, digits, dashes, underscores",
    ),
    ("Invalid statement", "a line must be KEY = VALUE or [SECTION]"),
    ("Unescaped", "a backslash in a text is written twice, or the text stands in single quotes"),
    ("Invalid hex", "a backslash in a text is written twice, or the text stands in single quotes"),
    ("Escaped character", "a backslash in a text is written twice, or the text stands in single quotes"),
    ("Unclosed array", "a list is not closed: add the missing ]"),
    ("Unclosed inline table", "an inline table is not closed: add the missing }"),
    ("Duplicate", "a key is written twice: keep one"),
    ("Cannot", "a key or a section is written twice: keep one"),
    ("Invalid date", "there is no such date or time"),
)


def name(key: Key) -> str:
    """A key as it is written: `outbound.smarthost.port`; quoted where it must be, list positions counted from 1."""
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part + 1}]"
        else:
            text += ("." if text else "") + (part if _BARE.fullmatch(part) else json.dumps(part))
    return text


def syntax(message: str) -> str:
    """What tomllib's message means to somebody who writes a configuration."""
    return next((meaning for start, meaning in _SYNTAX if message.startswith(start)), "this is not TOML")


def unknown_key(part: str, at: Key, model: type[BaseModel]) -> str:
    """For a key `part` that the section `at` does not have."""
    elsewhere = [".".join(key[:-1]) for key in known_keys() if key[-1] == part]
    if elsewhere:
        return f"unknown key here; it belongs in [{elsewhere[0]}]"
    near = difflib.get_close_matches(part.lower(), model.model_fields, n=1, cutoff=0.6)
    if near:
        return f'unknown key; did you mean "{near[0]}"?'
    where = f"[{name(at)}]" if at else "the file"
    return f"unknown key; {where} may hold: {', '.join(model.model_fields)}"


def finding(detail: ErrorDetails, key: Key, value: object) -> str:
    """Pydantic's finding in this program's words, without the value it was found on."""
    context = detail.get("ctx", {})
    cause = context.get("error")
    if cause is not None:
        return str(cause)
    match detail["type"]:
        case "bool_type":
            return "must be true or false, without quotes"
        case "int_type":
            return "must be a whole number, without quotes"
        case "string_type":
            return "must be text in quotes"
        case "literal_error":
            choices = re.findall(r"'([^']*)'", str(context.get("expected", "")))
            near = difflib.get_close_matches(str(value).lower(), choices, n=1, cutoff=0.6)
            hint = f'; did you mean "{near[0]}"?' if near and isinstance(value, str) else ""
            return f"must be one of {', '.join(json.dumps(choice) for choice in choices)}{hint}"
        case "greater_than_equal":
            return f"must be at least {context['ge']}"
        case "less_than_equal":
            return f"must be at most {context['le']}"
        case "greater_than":
            return f"must be more than {context['gt']}"
        case "tuple_type":
            return 'must be a list in brackets, such as ["30s", "1m"]'
        case "too_short":
            return "must hold at least one value"
        case "too_long":
            return f"must hold at most {context['max_length']} values"
        case "model_type" | "dict_type":
            section = name(key)
            if len(key) == 2 or detail["type"] == "dict_type":
                return f"must be a section: write [{key[0]}.NAME] on a line of its own and its keys below it"
            return f"must be a section: write [{section}] on a line of its own and its keys below it"
        case _:
            return "is not of the type this key takes; see the commented sample"
