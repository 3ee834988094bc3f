"""Reads the configuration: FILE, `conf.d/*.toml` beside it, then the environment; later ones win.

Every fault of every source is found in one go and told as `FILE:LINE: key: what is wrong, how to fix`, or
`environment: VARIABLE: ...`. No such line repeats a value: the wrong one may be a secret under the wrong key.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mailrelayd.config import light, lines, properties, wording
from mailrelayd.config.answering import InboundAccount
from mailrelayd.config.changes import changes
from mailrelayd.config.claims import PROTOCOLS
from mailrelayd.config.environment import PREFIX, key_of, typed
from mailrelayd.config.relaying import OutboundAccount, usual_auth
from mailrelayd.config.section import RulesError
from mailrelayd.config.settings import (
    Settings,
    flatten,
    listed_section_of,
    named_sections_of,
    root_rules,
    section_of,
)
from mailrelayd.config.wording import Key, name

PROOFS = {  # keys of an `oauth` table that prove who asks -> what else is said of them
    "client_secret": "client_secret_expires",
    "client_certificate": "",
    "service_account_file": "",
    "token_command": "",
}
FIXED_AT_START = ("node.name", "spool.backend", "spool.directory", "state.directory")
LIMIT = 1024 * 1024  # bytes of one file; the commented sample has some ten thousand

_POSITION = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


@dataclass(frozen=True, slots=True, order=True)
class Origin:
    """Where a value was written: a line of a file, or a variable. `rank` orders the sources as they were read."""

    rank: int
    line: int
    source: str  # the file, or the variable's name
    variable: bool = False

    def __str__(self) -> str:
        return f"environment {self.source}" if self.variable else f"{self.source}:{self.line}"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that holds. `origins` has one entry per key of `flatten(settings)`."""

    settings: Settings
    origins: dict[str, str]  # key -> "FILE:LINE", "environment VARIABLE" or "default"
    sha256: str  # hexadecimal, over the bytes of all files in the order they were read
    files: tuple[Path, ...]  # in that order


class ConfigError(Exception):
    """A configuration that does not hold; `problems` says everything that is wrong, one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load(
    path: Path,
    environ: Mapping[str, str] = os.environ,
    *,
    check_files: bool = True,
    instead: Mapping[Path, bytes] | None = None,
) -> Loaded:
    """Read, merge and validate the configuration that begins at `path`; ConfigError says all that is wrong.

    `check_files`: also that the certificates of the enabled account exist and can be read. Secrets are not fetched.
    `instead`: what files would hold, to judge a change before it is written.
    """
    reading = _read(path, environ, instead or {})
    # A source that could not be read would make what it says look missing: its own fault comes first.
    settings = None if reading.unread else reading.validated()
    if settings is not None and check_files:
        reading.certificates(settings)
    if settings is None or reading.problems:
        raise ConfigError([text for _, text in sorted(reading.problems)])
    origins = dict.fromkeys(flatten(settings), "default")
    origins |= {name(key): str(origin) for key, origin in reading.origins.items() if name(key) in origins}
    for key, source in reading.inherited.items():
        if name(key) in origins:
            origins[name(key)] += f" ({name(source)})"
    return Loaded(settings, origins, reading.digest.hexdigest(), tuple(reading.files))


def state_directory(path: Path, environ: Mapping[str, str] = os.environ) -> Path:
    """[state] directory, as far as it can be told: also of a configuration that does not hold.

    A running daemon must be found although somebody has just broken its configuration.
    """
    return light.read(path, environ).state


def written(path: Path, instead: Mapping[Path, bytes] | None = None) -> tuple[dict[str, Any], dict[Path, bytes]]:
    """What the files that begin at `path` say, merged and not judged, and their contents in the order of reading.

    ConfigError where one cannot be read or is not TOML.
    """
    reading = _read(path, {}, instead or {})
    if reading.problems:
        raise ConfigError([text for _, text in sorted(reading.problems)])
    return reading.data, reading.files


def _read(path: Path, environ: Mapping[str, str], instead: Mapping[Path, bytes]) -> _Reading:
    """Everything that is written anywhere, merged and not yet judged."""
    reading = _Reading(environ, instead)
    reading.file(Path(path))
    for more in reading.listing(Path(path).parent / "conf.d"):
        reading.file(more)
    reading.environment()
    return reading


def diff(old: Settings, new: Settings) -> list[str]:
    """The names of the keys whose values differ, sorted, and of sections that come or go; never a value."""
    return [change.key for change in changes(old, new)]


def needs_restart(old: Settings, new: Settings) -> list[str]:
    """Those of the changed keys that a reload cannot apply: ids, locks and open folders hang on them."""
    return [key for key in diff(old, new) if key in FIXED_AT_START]


@dataclass(slots=True)
class _Reading:
    """What has been read so far: one merged tree, where each of its keys came from, and what was wrong."""

    environ: Mapping[str, str]
    instead: Mapping[Path, bytes]
    data: dict[str, Any] = field(default_factory=dict)
    origins: dict[Key, Origin] = field(default_factory=dict)
    inherited: dict[Key, Key] = field(default_factory=dict)  # key -> the key that says it for this one
    problems: set[tuple[Origin, str]] = field(default_factory=set)
    files: dict[Path, bytes] = field(default_factory=dict)
    digest: Any = field(default_factory=hashlib.sha256)
    rank: int = 0
    unread: bool = False

    # -- sources

    def listing(self, folder: Path) -> list[Path]:
        """The files of conf.d, sorted by name; without hidden ones, which are editors' and packagers' leftovers."""
        try:
            return sorted(entry for entry in folder.iterdir() if entry.suffix == ".toml" and entry.name[0] != ".")
        except FileNotFoundError:
            return []
        except OSError as error:
            self._file_problem(folder, f"cannot be listed: {error.strerror}; correct its owner or mode")
            return []

    def file(self, path: Path) -> None:
        """Take over what a file says."""
        self.rank += 1
        content = self._content(path)
        if content is None:
            return
        self.files[path] = content
        self.digest.update(content)
        try:
            text = content.decode("utf-8-sig")  # Windows editors begin a file with a byte order mark
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            self.unread = True
            self._problem(Origin(self.rank, line, str(path)), "syntax", "this is not UTF-8: save the file as UTF-8")
            return
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            self._syntax(path, text, str(error))
            return
        except (ValueError, RecursionError):  # a number of 5000 digits; a thousand brackets
            self.unread = True
            text = "a number is too long or lists are too deep to be read"
            self._problem(Origin(self.rank, 1, str(path)), "syntax", text)
            return
        scanned = lines.Lines(text)
        self._merge(self.data, data, (), scanned, path)

    def _content(self, path: Path) -> bytes | None:
        if path in self.instead:
            return self.instead[path]
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        except FileNotFoundError:
            self._file_problem(path, "there is no such file; create it, or name another one by --config FILE")
            return None
        except PermissionError:
            self._file_problem(path, "may not be read by this user; correct its owner, group or mode")
            return None
        except OSError as error:
            self._file_problem(path, f"cannot be opened: {error.strerror}; name another one by --config FILE")
            return None
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            os.close(descriptor)
            self._file_problem(path, f"is {'a directory' if stat.S_ISDIR(mode) else 'not a regular file'}; name a file")
            return None
        with os.fdopen(descriptor, "rb") as stream:
            try:
                content = stream.read(LIMIT + 1)
            except OSError as error:
                self._file_problem(path, f"cannot be read: {error.strerror}")
                return None
        if len(content) > LIMIT:
            self._file_problem(path, "has more than 1 MiB; that is no configuration")
            return None
        return content

    def _syntax(self, path: Path, text: str, message: str) -> None:
        self.unread = True
        found = _POSITION.search(message)
        last = text.rstrip().count("\n") + 1
        line = int(found[1]) if found and found[1] else last
        scanned = lines.Lines("".join(text.splitlines(keepends=True)[:line]) if line < last else text)
        doubled = [(key, at, first) for key, at, first in scanned.twice if at <= line]
        if message.startswith(("Cannot", "Duplicate")) and doubled:
            key, at, first = doubled[0]
            self._problem(Origin(self.rank, at, str(path)), key, f"is written twice, first on line {first}: keep one")
            return
        column = f" (column {found[2]})" if found and found[2] else ""
        self._problem(Origin(self.rank, line, str(path)), "syntax", f"{wording.syntax(message)}{column}")

    def _merge(self, into: dict[str, Any], data: dict[str, Any], at: Key, scanned: lines.Lines, path: Path) -> None:
        """Tables are merged key by key; anything else replaces what an earlier source said."""
        for part, value in data.items():
            key = (*at, part)
            origin = Origin(self.rank, scanned.nearest(key) or 1, str(path))
            if isinstance(value, dict) and isinstance(into.get(part, {}), dict):
                self.origins.setdefault(key, origin)
                self._merge(into.setdefault(part, {}), value, key, scanned, path)
                continue
            if part in into:
                self._forget(key)
            into[part] = value
            self.origins[key] = origin
            for below in _paths(value, key):
                self.origins[below] = Origin(self.rank, scanned.nearest(below) or 1, str(path))

    def environment(self) -> None:
        """Take over what MAILRELAYD__SECTION__KEY variables say; names in any case."""
        self.rank += 1
        seen: dict[Key, str] = {}
        for variable in sorted(variable for variable in self.environ if variable.upper().startswith(PREFIX)):
            origin = Origin(self.rank, 0, variable, variable=True)
            try:
                key = key_of(variable, self.data)
                if seen.setdefault(key, variable) != variable:
                    raise ValueError(f"means the same as {seen[key]}: keep one")
                value = typed(key, self.environ[variable])
            except ValueError as error:
                self._problem(origin, "", str(error))
                continue
            self._set(key, value, origin)

    def _set(self, key: Key, value: object, origin: Origin) -> None:
        table = self.data
        for depth, part in enumerate(key[:-1], 1):
            inner = table.setdefault(str(part), {})
            if not isinstance(inner, dict):  # already a fault of the file: it is told there
                return
            self.origins.setdefault(key[:depth], origin)
            table = inner
        self._forget(key)
        table[str(key[-1])] = value
        self.origins[key] = origin

    def _forget(self, key: Key) -> None:
        """A later source replaces a key and all that was inside it."""
        for old in [known for known in self.origins if known[: len(key)] == key]:
            del self.origins[old]

    # -- verdict

    def validated(self) -> Settings | None:
        """The settings; or None, and `problems`: what is wrong is set aside and the rest judged again."""
        self._expand_properties()
        self._unknown(self.data, Settings, ())
        self._one_enabled()
        self._spread_defaults()
        self._spread_login()
        wrong: set[Key] = set()
        while True:
            try:
                settings = Settings(**self.data)
            except ValidationError as error:
                before = len(wrong)
                for detail in error.errors(include_url=False, include_input=False):
                    self._judge(detail, wrong)
                if len(wrong) == before:
                    return None
            else:
                return None if self.problems else settings

    def _judge(self, detail: ErrorDetails, wrong: set[Key]) -> None:
        if detail["type"] == "default_factory_not_called":  # a default that depends on a wrong key
            return
        key = tuple(part for part in detail["loc"] if part != "[key]")
        cause = detail.get("ctx", {}).get("error")
        if isinstance(cause, RulesError):
            for rule in cause.rules if key not in self.inherited else ():  # told where it is written
                told = not key and rule.key == "outbound"  # with both places, by `_one_enabled`
                reads = {(*key, read) for read in rule.reads}
                if not told and not any(one[: len(key) + 1] in reads for one in wrong):
                    self._key_problem((*key, rule.key), rule.text)
        elif self._is_inherited(key):
            pass  # told where it is written
        elif not any(key[:length] in wrong for length in range(1, len(key) + 1)):
            self._key_problem(key, wording.finding(detail, key, self._value(key)))
        self._set_aside(key, wrong)

    def _set_aside(self, key: Key, wrong: set[Key]) -> None:
        while key and isinstance(key[-1], int):
            key = key[:-1]
        if not key:
            return
        wrong.add(key)
        table: Any = self.data
        for part in key[:-1]:
            if isinstance(table, list):
                table = table[part] if isinstance(part, int) and part < len(table) else None
            else:
                table = table.get(part) if isinstance(table, dict) else None
        if isinstance(table, dict):
            table.pop(key[-1], None)

    def _value(self, key: Key) -> object:
        value: Any = self.data
        for part in key:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def _expand_properties(self) -> None:
        """Put what the accounts' `properties` mean in their place, with the property's line as its origin."""
        for group in PROTOCOLS:
            for account, section in self._tables(group):
                if "properties" not in section:
                    continue
                at = (group, account)
                host_name = os.uname().nodename
                meanings, faults = properties.expand(section, group, self.environ, host_name, partial(self._rank, at))
                for fault in faults:
                    self._key_problem((*at, *fault.source), fault.text)
                for meaning in meanings:
                    self._set((*at, *meaning.key), meaning.value, self.origins[*at, *meaning.source])
                del section["properties"]

    def _rank(self, at: Key, path: tuple[str, ...]) -> int:
        """Which source says what stands at `path` below `at`: the later one has the higher rank."""
        origin = self._origin((*at, *path))
        return origin.rank if origin else 0

    def _unknown(self, table: dict[str, Any], model: type[BaseModel], at: Key) -> None:
        """Tell every key the model does not know, and take it out."""
        for part in list(table):
            key = (*at, part)
            if part not in model.model_fields:
                self._key_problem(key, wording.unknown_key(part, at, model))
                del table[part]
                continue
            value = table[part]
            annotation = model.model_fields[part].annotation
            inner, named = section_of(annotation), named_sections_of(annotation)
            if inner and isinstance(value, dict):
                self._unknown(value, inner, key)
            elif named and isinstance(value, dict):
                for account, section in value.items():
                    if isinstance(section, dict):
                        self._unknown(section, named, (*key, account))
            elif (listed := listed_section_of(annotation)) and isinstance(value, list):
                for position, section in enumerate(value):
                    if isinstance(section, dict):
                        self._unknown(section, listed, (*key, position))

    def _one_enabled(self) -> None:
        accounts = self.data.get("outbound")
        if not isinstance(accounts, dict):
            return
        enabled = [
            account
            for account, section in accounts.items()
            if isinstance(section, dict) and section.get("enabled", True) is True
        ]
        for rule in root_rules(enabled):
            places = ", ".join(f'"{each}" at {self._origin(("outbound", each))}' for each in enabled)
            self._key_problem(("outbound", enabled[-1], "enabled"), f"{rule.text} ({places})")

    def _spread_defaults(self) -> None:
        """What [inbound_defaults] says counts for every [inbound.NAME] that does not say it itself."""
        defaults = self.data.get("inbound_defaults", {})
        for account, section in self._tables("inbound") if isinstance(defaults, dict) else ():
            for part in defaults:
                self._inherit(section, ("inbound", account, part), defaults, ("inbound_defaults", part))

    def _spread_login(self) -> None:
        """How the outbound account logs in counts for every [inbound.NAME] that does not say it itself."""
        enabled = [(name, table) for name, table in self._tables("outbound") if table.get("enabled", True) is True]
        if len(enabled) != 1:
            return
        (sender, outbound), theirs = enabled[0], enabled[0][1].get("oauth")
        for account, section in self._tables("inbound"):
            at, source = ("inbound", account), ("outbound", sender)
            self._inherit(section, (*at, "user"), outbound, (*source, "user"))
            if "auth" not in section and "password" not in section:
                if outbound.get("auth") == "oauth2":
                    self._inherit(section, (*at, "auth"), outbound, (*source, "auth"))
                elif "oauth" in section or ("auth" not in outbound and usual_auth(outbound) == "oauth2"):
                    section["auth"] = "oauth2"
                    told = at if "oauth" in section else source
                    self.origins[(*at, "auth")] = self.origins[(*told, "oauth")]
            if section.get("auth") != "oauth2":
                self._inherit(section, (*at, "password"), outbound, (*source, "password"))
            elif isinstance(theirs, dict):
                self._inherit_token(section, (*at, "oauth"), theirs, (*source, "oauth"))

    def _inherit_token(self, section: dict[str, Any], at: Key, theirs: dict[str, Any], source: Key) -> None:
        """An `oauth` table key by key: but of another provider nothing, and of ways to prove oneself one."""
        if "oauth" not in section:
            self.inherited[at] = source
            self.origins[at] = self.origins[source]
        mine = section.setdefault("oauth", {})
        if not isinstance(mine, dict) or mine.get("provider", theirs.get("provider")) != theirs.get("provider"):
            return
        another = any(mine.get(proof) for proof in PROOFS)
        for part in theirs:
            if not (another and part in {*PROOFS, *PROOFS.values()}):
                self._inherit(mine, (*at, part), theirs, (*source, part))

    def _inherit(self, mine: dict[str, Any], key: Key, theirs: dict[str, Any], source: Key) -> None:
        """Let `source`, if it is written, say what `key` does not; an empty text says nothing about a login."""
        part = str(key[-1])
        unsaid = part not in mine or (mine[part] == "" and source[0] == "outbound")
        if unsaid and part in theirs:
            mine[part] = theirs[part]
            self.origins[key] = self.origins[source]
            self.inherited[key] = source

    def _tables(self, group: str) -> list[tuple[str, dict[str, Any]]]:
        """The sections [`group`.NAME], as far as they are sections."""
        tables = self.data.get(group)
        return [(n, t) for n, t in tables.items() if isinstance(t, dict)] if isinstance(tables, dict) else []

    def _is_inherited(self, key: Key) -> bool:
        """Whether another key says this one, and is the one to correct."""
        return any(key[:length] in self.inherited for length in range(1, len(key) + 1))

    def certificates(self, settings: Settings) -> None:
        """Tell which files the enabled accounts name cannot be read, or can be read by everybody and hold a secret."""
        account = settings.account
        accounts: list[tuple[Key, OutboundAccount | InboundAccount]] = []
        if account is not None:
            accounts.append((("outbound", account.name), account))
        accounts += [(("inbound", mailbox.name), mailbox) for mailbox in settings.mailboxes]
        for at, one in accounts:
            for part in ("ca_file", "certificate", "key"):
                self._named_file((*at, "tls", part), getattr(one.tls, part))
            for part in ("client_certificate", "service_account_file") if one.auth == "oauth2" and one.oauth else ():
                if (*at, "oauth", part) not in self.inherited:
                    self._named_file((*at, "oauth", part), getattr(one.oauth, part), private=True)

    def _named_file(self, key: Key, path: str, *, private: bool = False) -> None:
        """Tell what is wrong with a file that a key names."""
        if not path:
            return
        try:
            with Path(path).open("rb") as stream:
                stream.read(1)
                mode = os.fstat(stream.fileno()).st_mode
        except FileNotFoundError:
            self._key_problem(key, "names a file that does not exist; correct the path")
        except OSError as error:
            cure = "correct the path, its owner or its mode"
            self._key_problem(key, f"names a file that cannot be read ({error.strerror}); {cure}")
        else:
            if private and mode & 0o007:
                text = "names a file with a private key that every user of this machine has access to; chmod 640 it"
                self._key_problem(key, text)

    # -- problems

    def _origin(self, key: Key) -> Origin | None:
        while key:
            if key in self.origins:
                return self.origins[key]
            key = key[:-1]
        return None

    def _key_problem(self, key: Key, text: str) -> None:
        origin = self._origin(key) or Origin(1, 1, str(next(iter(self.files))))
        if origin.variable:  # the variable itself, or the one that is missing beside it
            named = tuple(part for part in key if isinstance(part, str))
            variable = origin.source if named in self.origins else PREFIX + "__".join(named).upper()
            self._problem(Origin(origin.rank, 0, variable, variable=True), "", text)
        else:
            self._problem(origin, key, text)

    def _file_problem(self, path: Path, text: str) -> None:
        self.unread = True
        self.problems.add((Origin(self.rank, 0, str(path)), f"{_printable(str(path))}: {text}"))

    def _problem(self, origin: Origin, key: Key | str, text: str) -> None:
        where = f"environment: {origin.source}" if origin.variable else f"{origin.source}:{origin.line}"
        what = key if isinstance(key, str) else name(key)
        self.problems.add((origin, f"{_printable(where)}: {what + ': ' if what else ''}{text}"))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _paths(value: object, key: Key) -> Iterator[Key]:
    """The paths of everything inside a value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for part, inner in inside:
        yield (*key, part)
        yield from _paths(inner, (*key, part))
