"""What a variable MAILRELAYD__SECTION__KEY means: which key, and its text as that key's type. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, BeforeValidator

from mailrelayd.config.settings import Settings, named_sections_of, section_of
from mailrelayd.config.wording import Key, name

PREFIX = "MAILRELAYD__"

_YES = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


def key_of(variable: str, data: Mapping[str, Any]) -> Key:
    """The key a variable sets, where `data` is what the files say; ValueError where there is no such key."""
    parts = [part.lower() for part in variable[len(PREFIX) :].split("__")]
    model: type[BaseModel] = Settings
    key: list[str] = []
    named: type[BaseModel] | None = None
    for position, part in enumerate(parts):
        last = position == len(parts) - 1
        if named is not None:
            key.append(_account_name(data, key, part))
            model, named = named, None
            if last or not part:
                raise ValueError("names a section: set one of its keys, such as " + f"{variable}__HOST")
            continue
        if part not in model.model_fields:
            raise ValueError(_unknown_variable(variable, [*key, part], model))
        key.append(part)
        annotation = model.model_fields[part].annotation
        inner, named = section_of(annotation), named_sections_of(annotation)
        if (inner or named) and last:
            example = "SMARTHOST__HOST" if named else next(iter(inner.model_fields)).upper() if inner else ""
            raise ValueError(f"names a section: set one of its keys, such as {variable}__{example}")
        if not inner and not named and not last:
            raise ValueError(f"has too many parts: {name(tuple(key))} is a key, not a section")
        model = inner or model
    return tuple(key)


def typed(key: Key, text: str) -> object:
    """A variable's text as the type its key has; ValueError says the accepted forms."""
    model: type[BaseModel] = Settings
    named: type[BaseModel] | None = None
    for part in key[:-1]:
        annotation = None if named else model.model_fields[str(part)].annotation
        model, named = named or section_of(annotation) or model, named_sections_of(annotation)
    found = model.model_fields[str(key[-1])]
    if found.annotation is bool:
        if text.strip().lower() not in _YES:
            raise ValueError("must be true or false")
        return _YES[text.strip().lower()]
    if get_origin(found.annotation) is tuple:  # as in the file, or without brackets and quotes
        parts = (part.strip(" \t\"'") for part in text.strip(" []").split(","))
        return [part for part in parts if part]
    has_text_form = any(isinstance(extra, BeforeValidator) for extra in found.metadata)  # sizes
    choices = (found.annotation, *get_args(found.annotation))  # a number, or a number or nothing
    if not has_text_form and any(each is int or get_args(each)[:1] == (int,) for each in choices):
        if not re.fullmatch(r"\d{1,18}", text.strip(), re.ASCII):
            raise ValueError("must be a whole number")
        return int(text)
    return text


def _account_name(data: Mapping[str, Any], key: list[str], part: str) -> str:
    """The account a variable means: names of variables know neither case nor dashes."""
    table: Any = data
    for outer in key:
        table = table.get(outer, {}) if isinstance(table, dict) else {}
    known = table if isinstance(table, dict) else {}
    return next((written for written in known if written.lower().replace("-", "_") == part.replace("-", "_")), part)


def _unknown_variable(variable: str, key: list[str], model: type[BaseModel]) -> str:
    near = difflib.get_close_matches(key[-1], model.model_fields, n=1, cutoff=0.6)
    if near:
        return f"unknown variable; did you mean {PREFIX}{'__'.join([*key[:-1], near[0]]).upper()}?"
    known = ", ".join(part.upper() for part in model.model_fields)
    return f"unknown variable; {variable[: -len(key[-1])] if key[-1] else variable} may go on with: {known}"
