"""Free properties in the manner of JavaMail: what an account's `properties` table means. Pure.

    [inbound.answers.properties]
    "mail.${{PROTOCOL}}.ssl.enable" = "true"      means      security = "tls"

Each property makes claims on keys of its account. A claim becomes the key's value where the account does not write
the key itself; where it does, both must say the same, or the one of the later source counts. No property can make a
connection plain, or trust a server that shows no proof: those are written as keys, where everybody sees them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mailrelayd.config import units
from mailrelayd.config.claims import PROTOCOLS, Claim, Path, claims

SECURITY = {"outbound": "starttls", "inbound": "tls"}  # where an account does not write it
_VARIABLE = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Meaning:
    """A key of the account that a property sets; `source` is the property's path below the account."""

    key: Path
    value: object
    source: Path


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with the property at `source`, and how to fix it; never with its value."""

    source: Path
    text: str


class UnresolvedError(ValueError):
    """A variable that is known and has no value here; `variable` is its name."""

    def __init__(self, variable: str, text: str) -> None:
        super().__init__(text)
        self.variable = variable


def expand(
    account: Mapping[str, Any],
    direction: str,
    environ: Mapping[str, str],
    host_name: str,
    rank: Callable[[Path], int],
) -> tuple[list[Meaning], list[Fault]]:
    """What the `properties` of an account mean for its other keys, and what is wrong with them.

    `direction`: "outbound" or "inbound". `rank` orders the sources that wrote the keys: the later has the higher one.
    """
    found: list[tuple[Claim, Path]] = []
    faults: list[Fault] = []
    properties = account.get("properties")
    if not isinstance(properties, Mapping):
        text = "must be a section; `mailrelayd config import-properties` makes one of a text"
        return [], [Fault(("properties",), text)]
    written = list(_flat(properties, ("properties",)))
    variables = variables_of(account, direction, host_name)
    for _, name, value in written:
        if name == "PROTOCOL" and isinstance(value, str):
            with suppress(ValueError):  # told below
                variables["PROTOCOL"] = substitute(value, variables, environ)
    for path, name, value in written:
        try:
            if not isinstance(value, str):
                raise ValueError("must be text in quotes, true, false or a whole number")  # noqa: TRY004 - as all here
            told = substitute(name, variables, environ)
            meant = substitute(value, variables, environ)
            if told == "user" or told.endswith(".user"):
                meant = _literal(value, meant)
            found += [(claim, path) for claim in claims(direction, told, meant)]
        except ValueError as error:
            faults.append(Fault(path, str(error)))
    meanings: list[Meaning] = []
    for key in dict.fromkeys(claim.key for claim, _ in found):
        about = [(claim.values, source) for claim, source in found if claim.key == key]
        result = settle(key, about, account, direction, rank)
        if isinstance(result, Fault):
            faults.append(result)
        elif result is not None:
            meanings.append(result)
    return meanings, faults


def settle(
    key: Path,
    about: list[tuple[tuple[object, ...], Path]],
    account: Mapping[str, Any],
    direction: str,
    rank: Callable[[Path], int],
) -> Meaning | Fault | None:
    """What all claims on one key, each with its source, come to: a value, nothing to do, or a contradiction."""
    written = _comparable(_at(account, key))
    if written is not None:
        about = [one for one in about if rank(one[1]) >= rank(key)]  # a later file, or a variable, wins
    allowed: tuple[object, ...] | None = None
    first: Path = ()
    for values, source in about:
        if written is not None and rank(source) == rank(key) and written not in map(_comparable, values):
            return Fault(source, f"contradicts {'.'.join(key)}, which the account writes itself: keep one of them")
        rest = values if allowed is None else tuple(value for value in allowed if value in values)
        if not rest:
            return Fault(source, f"contradicts {'.'.join(first[1:])} about {'.'.join(key)}: keep one of them")
        if allowed is None or rest != allowed:
            allowed, first = rest, source
    if allowed is None or written in map(_comparable, allowed):
        return None
    if len(allowed) == 1:
        return Meaning(key, allowed[0], first)
    if key == ("security",):
        if written is None and SECURITY[direction] in allowed:
            return None
        return Fault(first, 'does not say how the connection is protected: write security = "tls" or "starttls" above')
    if key == ("auth",) and (written is not None or (direction == "outbound" and not account.get("user"))):
        return Meaning(key, allowed[0], first)  # without a user it says that one is missing
    return None


def _at(account: Mapping[str, Any], key: Path) -> object:
    value: object = account
    for part in key:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _comparable(value: object) -> object:
    """A value, or the seconds it means: "5s" and "5000ms" are the same."""
    try:
        return units.duration(value)
    except ValueError:
        return value


def _flat(table: Mapping[str, Any], at: Path) -> Iterator[tuple[Path, str, object]]:
    """Every property with its path and its dotted name; numbers and truth values as the text they mean."""
    for part, value in table.items():
        path = (*at, part)
        if isinstance(value, Mapping):
            yield from _flat(value, path)
        elif isinstance(value, bool):
            yield path, ".".join(path[1:]), str(value).lower()
        else:
            yield path, ".".join(path[1:]), str(value) if isinstance(value, int) else value


# -- variables


def variables_of(account: Mapping[str, Any], direction: str, host_name: str) -> dict[str, str | None]:
    """What ${{NAME}} stands for in this account; None where the key behind it is not written."""
    host, port = account.get("host"), account.get("port")
    starttls = account.get("security", SECURITY[direction]) == "starttls"
    variables: dict[str, str | None] = {
        "PROTOCOL": PROTOCOLS[direction],
        "HOST": host if isinstance(host, str) and host else None,
        "PORT": str(port) if isinstance(port, int) else None,
        "STARTTLS": str(starttls).lower(),
        "HOSTNAME": host_name,
    }
    if direction == "inbound":
        variables["IMAP_HOST_NAME"] = variables["HOST"]
        variables["IMAP_HOST_PORT"] = variables["PORT"]
        variables["IMAP_ENABLE_STARTTLS"] = variables["STARTTLS"]
    return variables


def substitute(text: str, variables: Mapping[str, str | None], environ: Mapping[str, str]) -> str:
    """The text with every ${{NAME}} replaced, once: what comes out of a variable is not looked at again.

    Raises ValueError for a name that is unknown, UnresolvedError for one that has no value.
    """

    def value(found: re.Match[str]) -> str:
        name = found[1].strip()
        if name.startswith("ENV:"):
            if name[4:] not in environ:
                raise UnresolvedError(name, "an environment variable is not set: set it, or write the value here")
            return environ[name[4:]]
        if name not in variables:
            near = difflib.get_close_matches(name.upper(), variables, n=1, cutoff=0.6)
            known = ", ".join([*variables, "ENV:NAME"])
            hint = f"did you mean ${{{{{near[0]}}}}}?" if near else f"there are: {known}"
            raise ValueError(f"unknown variable; {hint}")
        known_as = variables[name]
        if known_as is None:
            key = "port" if name.endswith("PORT") else "host"
            raise UnresolvedError(name, f"${{{{{name}}}}} has no value: write {key} = above")
        return known_as

    if "${{" in _VARIABLE.sub("", text):
        raise ValueError("has a variable that is not closed: write ${{NAME}}")
    return _VARIABLE.sub(value, text)


def _literal(written: str, meant: str) -> str:
    """A user's name out of a variable is that name, even where it looks like a reference such as command:ARGV."""
    return f"text:{meant}" if written != meant and ":" in meant else meant
