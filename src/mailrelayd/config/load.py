"""The configuration: read, spread and judged as a whole.

Every fault of every source is found in one go and told as `FILE:LINE: key: what is wrong, how to fix`, or
`environment: VARIABLE: ...`. No such line repeats a value: the wrong one may be a secret under the wrong key.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mailrelayd.config import light, wording
from mailrelayd.config.changes import changes
from mailrelayd.config.relaying import OutboundAccount
from mailrelayd.config.section import RulesError
from mailrelayd.config.settings import (
    Settings,
    flatten,
    listed_section_of,
    named_sections_of,
    root_rules,
    section_of,
)
from mailrelayd.config.sources import Sources, read
from mailrelayd.config.spreading import expand_properties, inherit
from mailrelayd.config.wording import Key, name

FIXED_AT_START = ("node.name", "spool.backend", "spool.directory", "state.directory")
MANY = 100  # unknown keys; each further one is told without a guess at what was meant


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

    @classmethod
    def of(cls, sources: Sources) -> ConfigError:
        """What is wrong, in the order of the sources."""
        return cls([text for _, text in sorted(sources.problems)])


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
    sources = read(path, environ, instead or {})
    # A source that could not be read would make what it says look missing: its own fault comes first.
    judgement = None if sources.unread else _Judgement(sources)
    settings = None if judgement is None else judgement.validated()
    if judgement is None or settings is None:
        raise ConfigError.of(sources)
    if check_files:
        judgement.certificates(settings)
    if sources.problems:
        raise ConfigError.of(sources)
    origins = dict.fromkeys(flatten(settings), "default")
    origins |= {name(key): str(origin) for key, origin in sources.origins.items() if name(key) in origins}
    for key, source in judgement.inherited.items():
        if name(key) in origins:
            origins[name(key)] += f" ({name(source)})"
    return Loaded(settings, origins, sources.digest.hexdigest(), tuple(sources.files))


def state_directory(path: Path, environ: Mapping[str, str] = os.environ) -> Path:
    """[state] directory, as far as it can be told: also of a configuration that does not hold.

    A running daemon must be found although somebody has just broken its configuration.
    """
    return light.read(path, environ).state


def written(path: Path, instead: Mapping[Path, bytes] | None = None) -> tuple[dict[str, Any], dict[Path, bytes]]:
    """What the files that begin at `path` say, merged and not judged, and their contents in the order of reading.

    ConfigError where one cannot be read or is not TOML.
    """
    sources = read(path, {}, instead or {})
    if sources.problems:
        raise ConfigError.of(sources)
    return sources.data, sources.files


def diff(old: Settings, new: Settings) -> list[str]:
    """The names of the keys whose values differ, sorted, and of sections that come or go; never a value."""
    return [change.key for change in changes(old, new)]


def needs_restart(old: Settings, new: Settings) -> list[str]:
    """Those of the changed keys that a reload cannot apply: ids, locks and open folders hang on them."""
    return [key for key in diff(old, new) if key in FIXED_AT_START]


@dataclass(slots=True)
class _Judgement:
    """What is wrong with what was read."""

    sources: Sources
    inherited: dict[Key, Key] = field(default_factory=dict)  # key -> the key that says it for this one
    broken: dict[Key, str] = field(default_factory=dict)  # what rules say, told once all are known
    elsewhere: dict[Key, str] = field(default_factory=dict)  # of inherited keys, told where they are written

    def validated(self) -> Settings | None:
        """The settings; or None, and what is wrong is told: each fault is set aside and the rest judged again."""
        expand_properties(self.sources)
        self._unknown(self.sources.data, Settings, ())
        self._one_enabled()
        self.inherited = inherit(self.sources)
        wrong: set[Key] = set()
        settings: Settings | None = None
        while settings is None:
            before = len(wrong)
            try:
                settings = Settings(**self.sources.data)
            except ValidationError as error:
                for detail in error.errors(include_url=False, include_input=False):
                    self._judge(detail, wrong)
                if len(wrong) == before:
                    break
        self._tell_rules()
        if wrong and not self.sources.problems:  # something was set aside: what is left must not pass for the whole
            for key, text in self.elsewhere.items():
                self.sources.tell(key, text)
        return None if wrong or self.sources.problems else settings

    def _judge(self, detail: ErrorDetails, wrong: set[Key]) -> None:
        if detail["type"] == "default_factory_not_called":  # a default that depends on a wrong key
            return
        key = tuple(part for part in detail["loc"] if part != "[key]")
        cause = detail.get("ctx", {}).get("error")
        if isinstance(cause, RulesError):
            for rule in cause.rules:
                told = not key and rule.key == "outbound"  # with both places, by `_one_enabled`
                reads = {(*key, read) for read in rule.reads}
                if not told and not any(one[: len(key) + 1] in reads for one in wrong):
                    (self.elsewhere if key in self.inherited else self.broken)[(*key, rule.key)] = rule.text
        elif self._is_inherited(key):
            self.elsewhere[key] = wording.finding(detail, key, self.sources.value(key))
        elif not any(key[:length] in wrong for length in range(1, len(key) + 1)):
            self.sources.tell(key, wording.finding(detail, key, self.sources.value(key)))
        self._set_aside(key, wrong)

    def _set_aside(self, key: Key, wrong: set[Key]) -> None:
        while key and isinstance(key[-1], int):
            key = key[:-1]
        if not key:
            return
        wrong.add(key)
        table: Any = self.sources.data
        for part in key[:-1]:
            if isinstance(table, list):
                table = table[part] if isinstance(part, int) and part < len(table) else None
            else:
                table = table.get(part) if isinstance(table, dict) else None
        if isinstance(table, dict):
            table.pop(key[-1], None)

    def _tell_rules(self) -> None:
        """Tell which rules are broken: by a mailbox that logs in as the outbound account only if it alone does."""
        senders = {key[1] for key in self.broken if key[0] == "outbound" and len(key) > 2}
        for key, text in self.broken.items():
            same = any(("outbound", sender, *key[2:]) in self.broken for sender in senders)
            written = key in self.sources.origins and key not in self.inherited and not text.startswith("is missing")
            if key[0] != "inbound" or written or not same:
                self.sources.tell(key, text)

    def _unknown(self, table: dict[str, Any], model: type[BaseModel], at: Key) -> None:
        """Tell every key the model does not know, and take it out."""
        for part in list(table):
            key = (*at, part)
            if part not in model.model_fields:
                guess = len(self.sources.problems) < MANY
                self.sources.tell(key, wording.unknown_key(part, at, model) if guess else "unknown key")
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
        accounts = self.sources.data.get("outbound")
        if not isinstance(accounts, dict):
            return
        enabled = [
            account
            for account, section in accounts.items()
            if isinstance(section, dict) and section.get("enabled", True) is True
        ]
        for rule in root_rules(enabled):
            places = ", ".join(f'"{each}" at {self.sources.origin(("outbound", each))}' for each in enabled)
            self.sources.tell(("outbound", enabled[-1], "enabled"), f"{rule.text} ({places})")

    def _is_inherited(self, key: Key) -> bool:
        """Whether another key says this one, and is the one to correct."""
        return any(key[:length] in self.inherited for length in range(1, len(key) + 1))

    def certificates(self, settings: Settings) -> None:
        """Tell which files the enabled accounts name cannot be read, or can be read by everybody and hold a secret."""
        for one in settings.accounts:
            at = ("outbound" if isinstance(one, OutboundAccount) else "inbound", one.name)
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
            self.sources.tell(key, "names a file that does not exist; correct the path")
        except OSError as error:
            cure = "correct the path, its owner or its mode"
            self.sources.tell(key, f"names a file that cannot be read ({error.strerror}); {cure}")
        else:
            if private and mode & 0o007:
                text = "names a file with a private key that every user of this machine has access to; chmod 640 it"
                self.sources.tell(key, text)
