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
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mailrelayd import durable
from mailrelayd.oauth.values import Token

FORMAT: Final = 1
LIMIT: Final = 1 << 20  # bytes
LOCK: Final = ".lock-"  # prefix of the file that is locked; it stays, since removing it would let two holders exist
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
            content = folder.read(self._name, limit=LIMIT + 1)
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

    def write(self, record: Record) -> None:
        """Replace the file, all or nothing, on disk when this returns. Raises OSError."""
        data = json.dumps(_document(record), indent=1).encode() + b"\n"
        with self._open() as folder:
            temporary = durable.TEMPORARY + self._name
            descriptor = folder.folder.create(temporary)
            try:
                folder.give(descriptor)
                durable.write_all(descriptor, data)
                durable.sync_file(descriptor)
            finally:
                os.close(descriptor)
            folder.folder.move(temporary, folder.folder, self._name)

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
            descriptor = folder.folder.create(self._lock)
            try:
                folder.give(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            return descriptor

    def _open(self) -> _Owned:
        return _Owned(self._folder)


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

    def give(self, descriptor: int) -> None:
        """Let a new file belong to the folder's owner: the daemon, which is an ordinary user, has to read it."""
        owner = os.fstat(self.folder.fd)
        if os.geteuid() == 0 != owner.st_uid:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)


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
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e12:
        raise TypeError("no time")
    return float(value)
