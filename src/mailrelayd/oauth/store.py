"""STATE/oauth/ACCOUNT.json: the last token of an account, and the last reason why there was none.

Two processes use it, the daemon and whoever runs `authorize` or `doctor`. Who asks a provider holds the file's lock
and has read it under the lock, so a refresh token that was exchanged is never written over by the one before it.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mailrelayd import durable
from mailrelayd.oauth.values import Token

FORMAT: Final = 1
LIMIT: Final = 1 << 20  # bytes
LOCK: Final = ".lock-"  # prefix of the file that is locked; it stays, since removing it would let two holders exist
LATEST: Final = 253_402_300_800.0  # seconds since the epoch: the year 10000, for which there are no words
PATIENCE: Final = 60.0  # seconds that another process may take with the provider
_LOOK_AGAIN: Final = 0.05  # seconds


class NewerFormatError(ValueError):
    """The file was written by a later version: nothing in it is guessed, and nothing is written over it."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """The last time that no token could be had."""

    at: float  # seconds since the epoch
    kind: str
    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Record:
    """What the file holds. `fingerprint` names the terms that the token belongs to."""

    fingerprint: str = ""
    token: Token | None = None
    trouble: Trouble | None = None


class Store:
    """The file of one account, such as "outbound.smarthost"."""

    def __init__(self, state: Path, account: str) -> None:
        """Nothing is touched yet."""
        self._folder = state / "oauth"
        self._name = f"{account}.json"
        self._lock = f"{LOCK}{account}"

    @property
    def path(self) -> Path:
        """The file."""
        return self._folder / self._name

    def read(self) -> Record:
        """What the file says; an empty record where there is none. Raises OSError, ValueError in words."""
        try:
            folder = durable.Folder(self._folder)
        except FileNotFoundError:
            return Record()
        try:
            content = self._content(folder)
        except FileNotFoundError:
            return Record()
        finally:
            folder.close()
        try:
            return _record(content)
        except NewerFormatError:
            raise
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"{self.path} is damaged") from error

    def _content(self, folder: durable.Folder) -> bytes:
        """Raises OSError; ValueError where somebody else may have written it."""
        descriptor = folder.open(self._name)
        try:
            figures = os.fstat(descriptor)
            if figures.st_uid not in (os.geteuid(), 0, os.fstat(folder.fd).st_uid):
                raise ValueError(f"{self.path} belongs to another user: remove it")
            if figures.st_mode & 0o077:
                with suppress(OSError):  # whoever may only read it may not mend that either
                    os.fchmod(descriptor, 0o600)
            return durable.read_at(descriptor, 0, LIMIT + 1)
        finally:
            os.close(descriptor)

    def write(self, record: Record) -> None:
        """Replace the file, all or nothing, on disk when this returns. Raises OSError."""
        with self.draft() as draft:
            draft.keep(record)

    @contextmanager
    def draft(self, room: int = 0) -> Iterator[Draft]:
        """What may become the file, with so many bytes of the disk set aside for it. Raises OSError."""
        with self._open() as folder:
            made = Draft(folder, self._name)
            try:
                if room:
                    os.posix_fallocate(made.descriptor, 0, room)
                yield made
            finally:
                made.close()

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """No other process is in here with the same account meanwhile. Raises OSError, TimeoutError."""
        descriptor = self._open_lock()
        try:
            async with asyncio.timeout(PATIENCE):
                while not _locked(descriptor):  # noqa: ASYNC110 - no event comes from another process
                    await asyncio.sleep(_LOOK_AGAIN)
            yield
        finally:
            os.close(descriptor)  # which unlocks it

    def _open_lock(self) -> int:
        with self._open() as folder:
            return folder.create(self._lock)

    def _open(self) -> _Owned:
        return _Owned(self._folder)


class Draft:
    """A file that has no name of its own yet."""

    def __init__(self, folder: _Owned, name: str) -> None:
        """Raises OSError."""
        self._folder = folder
        self._name = name
        self._temporary = durable.TEMPORARY + name
        # What a crash has left may belong to another user.
        folder.folder.remove(self._temporary, sync=False)
        self.descriptor = folder.create(self._temporary)

    def keep(self, record: Record) -> None:
        """Put it in place of the file, on disk when this returns. Raises OSError."""
        data = json.dumps(_document(record), indent=1).encode() + b"\n"
        durable.write_all(self.descriptor, data)
        os.ftruncate(self.descriptor, len(data))
        durable.sync_file(self.descriptor)
        self._folder.folder.move(self._temporary, self._folder.folder, self._name)

    def close(self) -> None:
        """Throw it away, unless it was kept."""
        os.close(self.descriptor)
        with suppress(OSError):
            self._folder.folder.remove(self._temporary, sync=False)


class _Owned:
    """The folder, made where it is missing; what root puts into it belongs to whom the state folder belongs to."""

    def __init__(self, path: Path) -> None:
        try:
            self.folder = durable.Folder(path)
        except FileNotFoundError:
            durable.make_folder(path, 0o700)
            self.folder = durable.Folder(path)
            owner = path.parent.stat()
            if os.geteuid() == 0 != owner.st_uid:
                os.fchown(self.folder.fd, owner.st_uid, owner.st_gid)

    def __enter__(self) -> _Owned:
        return self

    def __exit__(self, *_: object) -> None:
        self.folder.close()

    def create(self, name: str) -> int:
        """A descriptor for writing a file of the folder's owner: the daemon, an ordinary user, has to read it.

        What is no file, or stands elsewhere too, is left alone: opening it might wait for ever, and root would give
        away what it has not made.
        """
        figures = self.folder.stat(name)
        if figures is not None and not (stat.S_ISREG(figures.st_mode) and figures.st_nlink == 1):
            raise durable.NotRegularError(errno.EINVAL, f"{name} is no file of its own", name)
        descriptor = self.folder.create(name)
        try:
            owner = os.fstat(self.folder.fd)
            if os.geteuid() == 0 != owner.st_uid:
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def _document(record: Record) -> dict[str, Any]:
    token, trouble = record.token, record.trouble
    return {
        "format": FORMAT,
        "fingerprint": record.fingerprint,
        "token": token
        and {
            "access_token": token.access_token,
            "obtained_at": token.obtained_at,
            "expires_at": token.expires_at,
            "refresh_token": token.refresh_token,
            "scope": token.scope,
            "asked": list(token.asked),
        },
        "trouble": trouble and {"at": trouble.at, "kind": trouble.kind, "code": trouble.code, "text": trouble.text},
    }


def _record(content: bytes) -> Record:
    """Raises ValueError, TypeError, KeyError, RecursionError for what `_document` would not have written."""
    document = json.loads(content)
    if type(document["format"]) is not int or document["format"] < 1:
        raise ValueError("no format")
    if document["format"] > FORMAT:
        text = f"format {document['format']} was written by a later version of mailrelayd: use that one"
        raise NewerFormatError(text)
    token, trouble = document["token"], document["trouble"]
    return Record(
        fingerprint=_text(document["fingerprint"]),
        token=None
        if token is None
        else Token(
            access_token=_text(token["access_token"]),
            obtained_at=_number(token["obtained_at"]),
            expires_at=_number(token["expires_at"]),
            refresh_token=_text(token["refresh_token"]),
            scope=_text(token["scope"]),
            asked=tuple(_text(one) for one in token["asked"]),
        ),
        trouble=None
        if trouble is None
        else Trouble(_number(trouble["at"]), _text(trouble["kind"]), _text(trouble["code"]), _text(trouble["text"])),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < LATEST:
        raise TypeError("no time")
    return float(value)
