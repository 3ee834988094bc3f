"""Taking over another instance's settings: what would change, whether that would hold, and writing it.

The accounts here become those of the other instance: added, changed key by key where they are written, removed.
Accounts that are protected here stay as they are. What belongs to one machine alone is never taken over. Nothing is
written unless the outcome, as it would stand in the files, has been read back and holds.
"""

from __future__ import annotations

import codecs
import copy
import errno
import os
import stat
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from mailrelayd import durable
from mailrelayd.config import editing, secrets
from mailrelayd.config.editing import Edit, EditError, Put, Take
from mailrelayd.config.literals import literal
from mailrelayd.config.load import ConfigError, load, written
from mailrelayd.config.secrets import MASK, Secret
from mailrelayd.config.settings import Settings, listed_section_of, named_sections_of, section_of
from mailrelayd.config.wording import name

ACCOUNTS = ("outbound", "inbound")
PRIVATE = ("protected",)  # keys of an account that each instance decides for itself
COMMANDS = frozenset(("command", "token_command"))
PUBLIC = frozenset(("user", "client_id"))  # references to what is no secret
OURS = (("node",), ("state",), ("spool", "directory"), ("spool", "backend"))  # of this machine, whatever is asked for
BACKUP = ".bak"
ACL = "system.posix_acl_access"

Key = tuple[str, ...]


class OutcomeError(ConfigError):
    """The outcome would not hold; `problems` says why, with the lines as they would stand."""


class SourceError(ConfigError):
    """The other instance's files cannot be read; `problems` says why."""


class ChangedError(Exception):
    """Somebody else has written a file in between."""


@dataclass(frozen=True, slots=True)
class Change:
    """A key, or a whole section, that would not be the same; values as they are written, None for none."""

    key: Key
    old: object
    new: object
    files: tuple[Path, ...]  # where it is written, or will be


@dataclass(frozen=True, slots=True)
class Plan:
    """What an import would do. `before` and `after` hold the files that would change."""

    changes: tuple[Change, ...]
    kept: tuple[Key, ...]  # sections that are protected here, and other ones there
    before: dict[Path, bytes]
    after: dict[Path, bytes]

    @property
    def literal_secrets(self) -> list[str]:
        """The keys that would hold a secret itself rather than a reference to it."""
        return [name(key) for key, kinds in self._kinds() if key[-1] in SECRETS and "text" in kinds]

    @property
    def programs(self) -> list[str]:
        """The keys that would name a program for the daemon to run."""
        return [name(key) for key, kinds in self._kinds() if key[-1] in COMMANDS or "command" in kinds]

    def _kinds(self) -> Iterator[tuple[Key, set[str]]]:
        """Every new value's key, and the kinds of references in it, where it may be one."""
        for change in self.changes:
            for key, value in leaves(change.key, change.new):
                texts = _texts(value) if key[-1] in SECRETS or _is_public(key) else []
                yield key, {secrets.split(one)[0] for one in texts if one}


def plan(target: Path, source: Path, environ: Mapping[str, str], *, everything: bool, keep: bool) -> Plan:
    """What has to change at `target` for it to have the accounts of `source`; nothing is written.

    `everything`: the other sections too, but for OURS. `keep`: remove no section. Raises SourceError, ConfigError where
    `target` does not hold, OutcomeError, EditError.
    """
    settings = load(target, environ, check_files=False).settings
    mine, files = written(target)
    try:
        theirs, _ = written(source / "mailrelayd.toml" if source.is_dir() else source)
    except ConfigError as error:
        raise SourceError(error.problems) from error
    if odd := [group for group in (*ACCOUNTS, "pickup") if not isinstance(theirs.get(group, {}), dict)]:
        raise SourceError([f"{source}: {group}: must be a section" for group in odd])
    if not any(_table(theirs, group) for group in ACCOUNTS) and not (everything and keep):
        raise SourceError([f"{source}: has no [outbound.NAME] and no [inbound.NAME], and all that are here would go"])
    protected: set[Key] = {
        (group, one) for group in ACCOUNTS for one, each in getattr(settings, group).items() if each.protected
    }
    wanted, kept = _wanted(mine, theirs, protected, everything=everything, keep=keep)
    trees = {path: tomllib.loads(_text(content)[0]) for path, content in files.items()}
    changes = tuple(_changes(mine, wanted, (), trees))
    before, after = {}, {}
    for path, content in files.items():
        if edits := [edit for change in changes if path in change.files for edit in _edits(change, path)]:
            text, mark = _text(content)
            before[path], after[path] = content, mark + editing.edited(text, edits).encode()
    try:
        new = load(target, environ, check_files=False, instead=after).settings
    except ConfigError as error:
        raise OutcomeError(error.problems) from error
    if touched := [key for key in sorted(protected) if _account(settings, key) != _account(new, key)]:
        raise OutcomeError([_taken_along(key, settings, new) for key in touched])
    outcome = written(target, after)[0]
    if (
        wrong := next(_changes(editing.without_empty(outcome), editing.without_empty(wanted), (), trees), None)
    ) is not None:
        raise EditError(wrong.key)
    return Plan(changes, kept, before, after)


def _account(settings: Settings, key: Key) -> dict[str, Any]:
    """What an account comes to, with all that it takes over from others."""
    account: BaseModel = getattr(settings, key[0])[key[1]]
    return account.model_dump()


def _taken_along(key: Key, old: Settings, new: Settings) -> str:
    """Why a protected account would not be what it was, although nothing in it changes."""
    before, after = _account(old, key), _account(new, key)
    parts = ", ".join(part for part in before if before[part] != after[part])
    return f"{name(key)}: is protected, and takes what would change from elsewhere: write its own {parts}"


def _wanted(
    mine: dict[str, Any], theirs: dict[str, Any], protected: set[Key], *, everything: bool, keep: bool
) -> tuple[dict[str, Any], tuple[Key, ...]]:
    """What the files here should say together, and which protected sections are not what they are there."""
    wanted = copy.deepcopy(mine)
    kept: list[Key] = []
    groups = [*ACCOUNTS, "pickup"] if everything else [*ACCOUNTS]
    for group in groups:
        here, there = _table(mine, group), _table(theirs, group)
        sections = wanted[group] = {}
        for one in {**here, **there}:
            if (group, one) in protected:
                if one in here:
                    sections[one] = here[one]
                if _apart(here.get(one)) != _apart(there.get(one)):
                    kept.append((group, one))
            elif one in there:
                sections[one] = _apart(there[one]) | {
                    key: here[one][key] for key in PRIVATE if key in here.get(one, {})
                }
            elif keep:
                sections[one] = here[one]
    for group in {**mine, **theirs} if everything else ():
        if group in groups or (group not in theirs and keep):
            continue
        wanted.pop(group, None)
        if theirs.get(group):
            wanted[group] = copy.deepcopy(theirs[group])
        elif group in mine and isinstance(Settings.model_fields[group].annotation, type):
            wanted[group] = {}  # its header means nothing, and may stand over a page of remarks
    for key in OURS:
        if (value := _at(mine, key)) is not None:
            wanted = editing.applied(wanted, Put(key, value))
        elif _at(wanted, key) is not None:
            wanted = editing.applied(wanted, Take(key))
    return wanted, tuple(kept)


def _changes(
    have: Mapping[str, Any], want: Mapping[str, Any], at: Key, trees: Mapping[Path, Mapping[str, Any]]
) -> Iterator[Change]:
    for part in {**have, **want}:
        key = (*at, part)
        old, new = have.get(part), want.get(part)
        if (isinstance(old, Mapping) and isinstance(new, Mapping)) or (not at and part in (*ACCOUNTS, "pickup")):
            yield from _changes(old or {}, new or {}, key, trees)
        elif old is None or new is None or literal(old) != literal(new):
            holding = [path for path, tree in trees.items() if _at(tree, key) is not None]
            if new is None or isinstance(old, Mapping) or isinstance(new, Mapping):
                yield Change(key, old, new, tuple(holding) or (_home(key, trees),))
            else:
                yield Change(key, old, new, (holding[-1] if holding else _home(key, trees),))


def _home(key: Key, trees: Mapping[Path, Mapping[str, Any]]) -> Path:
    """The first of the files that hold the most of what is around a new key: where a person would write it."""
    return max(
        trees, key=lambda path: next((n for n in range(len(key), 0, -1) if _at(trees[path], key[:n]) is not None), 0)
    )


def _edits(change: Change, path: Path) -> Iterator[Edit]:
    """What to do about a change in one of its files: a value is replaced where it stands, a table anew."""
    if change.old is not None and (
        change.new is None or isinstance(change.old, Mapping) or isinstance(change.new, Mapping)
    ):
        yield Take(change.key)
    if change.new is not None and path == change.files[-1]:
        yield Put(change.key, change.new)


# -- writing


def carry_out(planned: Plan) -> None:
    """Write the files, each all or nothing and as the owner and mode it had; the ones before stay beside them.

    Raises ChangedError where one is no longer what was planned for, OSError; then none is written, or, where
    the disk fails in the middle of renaming, each stands whole, old or new.
    """
    with ExitStack() as stack:
        staged: list[tuple[durable.Folder, str]] = []
        for path, content in planned.after.items():
            real = path.resolve(strict=True)  # a link stays one
            folder = durable.Folder(real.parent)
            stack.callback(folder.close)
            if folder.read(real.name, limit=len(planned.before[path]) + 1) != planned.before[path]:
                raise ChangedError(str(path))
            figures = folder.stat(real.name)
            assert figures is not None  # it has just been read
            acl = _access_list(real)
            for one, data in ((real.name + BACKUP, planned.before[path]), (real.name, content)):
                stack.callback(folder.remove, durable.TEMPORARY + one, sync=False)
                _stage(folder, durable.TEMPORARY + one, data, figures, acl)
                staged.append((folder, one))
        for folder, one in staged:
            folder.move(durable.TEMPORARY + one, folder, one)


def _access_list(path: Path) -> bytes | None:
    """Who else may read a file or change it, as the kernel writes that; None: only its mode says so. Raises OSError."""
    try:
        return os.getxattr(path, ACL)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return None
        raise


def _stage(folder: durable.Folder, temporary: str, data: bytes, like: os.stat_result, acl: bytes | None) -> None:
    """Put a file on disk that nobody sees yet, with the owner, the mode and the access list of another one."""
    descriptor = folder.create(temporary)
    try:
        own = os.fstat(descriptor)
        if (like.st_uid, like.st_gid) != (own.st_uid, own.st_gid):
            os.fchown(descriptor, like.st_uid, like.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(like.st_mode))
        if acl is not None:  # without it, what the mode calls the group's would be the mask: more than the group had
            os.setxattr(descriptor, ACL, acl)
        durable.write_all(descriptor, data)
        durable.sync_file(descriptor)
    finally:
        os.close(descriptor)


# -- showing


def leaves(key: Key, value: object) -> Iterator[tuple[Key, object]]:
    """Every key at or below `key` and its value."""
    if isinstance(value, Mapping):
        for part, inner in value.items():
            yield from leaves((*key, part), inner)
    elif value is not None:
        yield key, value


def shown(key: Key, value: object) -> str:
    """A value as the file writes it; of a secret, and of a command that fetches one, no more than where it is."""
    if key[-1] in COMMANDS and isinstance(value, list):
        value = [*value[:1], *([MASK] if value[1:] else [])]
    elif key[-1] in SECRETS:
        texts = [secrets.describe(one) for one in _texts(value)]
        value = texts if isinstance(value, list) else "".join(texts)
    elif _is_public(key) and isinstance(value, str):
        value = secrets.describe_public(value)
    return literal(value)


def _is_public(key: Key) -> bool:
    """Whether a key takes references to what is no secret: of properties the user does, however its name is put."""
    return key[-1] in PUBLIC or "properties" in key


def _secret_names(model: type[BaseModel] = Settings) -> Iterator[str]:
    """The names of the keys that are secrets, wherever they stand."""
    for part, one in model.model_fields.items():
        inner = section_of(one.annotation) or named_sections_of(one.annotation) or listed_section_of(one.annotation)
        if inner is not None:
            yield from _secret_names(inner)
        elif Secret in (one.annotation, *get_args(one.annotation)):
            yield part


SECRETS = frozenset(_secret_names())


def _texts(value: object) -> list[str]:
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]


def _text(content: bytes) -> tuple[str, bytes]:
    """A file's text, and the byte order mark in front of it."""
    mark = codecs.BOM_UTF8 if content.startswith(codecs.BOM_UTF8) else b""
    return content[len(mark) :].decode(), mark


def _table(tree: Mapping[str, Any], part: str) -> dict[str, Any]:
    found = tree.get(part, {})
    return found if isinstance(found, dict) else {}


def _apart(section: object) -> dict[str, Any]:
    """A section without what each instance decides for itself."""
    return {key: value for key, value in section.items() if key not in PRIVATE} if isinstance(section, dict) else {}


def _at(tree: Mapping[str, Any], key: Key) -> object:
    value: object = tree
    for part in key:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
