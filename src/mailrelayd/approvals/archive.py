"""Every mail that was read, and what was made of it: on disk before anything else happens to the mail.

    STATE/archive/in/YYYYMMDD/ID/message.eml     first, as it came
    STATE/archive/in/YYYYMMDD/ID/decision.json   then: the one commit point of a decision
    STATE/quarantine/ID.eml                      mail that belongs to nobody here

ID is the decision's, the same whenever that mail is read again; so what is in the archive is never judged twice.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from mailrelayd import durable

LARGEST_DOCUMENT = 1 << 20  # bytes
_DOCUMENT, _MESSAGE = "decision.json", "message.eml"


class Draft:
    """A mail on its way into the archive. Nobody sees it before it is kept; the next start sweeps what was not."""

    def __init__(self, folder: durable.Folder, name: str) -> None:
        """Nothing is on disk before the first `write`."""
        self._folder = folder
        self._name = durable.TEMPORARY + name
        self._fd = -1
        self._digest = hashlib.sha256()
        self.size = 0  # bytes
        self.exists = False  # its file has yet to be kept, or discarded

    def write(self, data: bytes) -> None:
        """Append. Raises OSError."""
        if not self.exists:
            self._fd = self._folder.create(self._name)
            self.exists = True
        durable.write_all(self._fd, data)
        self._digest.update(data)
        self.size += len(data)

    @property
    def sha256(self) -> str:
        """Of what was written so far, hexadecimal."""
        return self._digest.hexdigest()

    def keep(self, folder: durable.Folder, name: str, *, sync: bool = True) -> None:
        """Give it its place. On disk then but for its name, which is there with `sync`. Raises OSError."""
        if not self.exists:
            self.write(b"")
        if self._fd >= 0:
            durable.sync_file(self._fd)
            os.close(self._fd)
            self._fd = -1
        self._folder.move(self._name, folder, name, sync=sync)
        self.exists = False

    def discard(self) -> None:
        """Let it go, unless it was kept."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self.exists:
            with suppress(OSError):
                self._folder.remove(self._name, sync=False)
            self.exists = False


class Archive:
    """The folders behind it. All calls block for the disk: they belong into a thread."""

    def __init__(self, state: Path) -> None:
        """Make what is missing, drop unfinished mails, learn what is there. Raises OSError."""
        self._path = state / "archive" / "in"
        for path in (state / "archive", self._path, state / "quarantine"):
            durable.make_folder(path, 0o750)
        self._in = durable.Folder(self._path)
        self._quarantine = durable.Folder(state / "quarantine")
        self._in.sweep()
        self._quarantine.sweep()
        self._days: dict[str, str] = {}  # ID -> YYYYMMDD
        self._lasting: set[str] = set()  # days whose folders are known to be on disk
        for day in sorted(name for name in self._in.names() if len(name) == 8 and name.isdigit()):
            with suppress(NotADirectoryError):  # somebody's file
                for path in (self._path / day).iterdir():
                    self._days[path.name] = day

    def close(self) -> None:
        """Give the descriptors back."""
        self._in.close()
        self._quarantine.close()

    def place(self, decision_id: str, now: float) -> str:
        """Where a decision is, or will be, kept, below the archive: in/YYYYMMDD/ID."""
        day = self._days.get(decision_id) or datetime.fromtimestamp(now, UTC).strftime("%Y%m%d")
        return f"in/{day}/{decision_id}"

    def draft(self, name: str) -> Draft:
        """Begin to take a mail. `name` must be unique among those under way."""
        return Draft(self._in, name)

    def __contains__(self, decision_id: str) -> bool:
        """Whether something is kept under this id. Does not touch the disk."""
        return decision_id in self._days

    def find(self, decision_id: str) -> bytes | None:
        """The stored document of this id, byte for byte. Raises OSError."""
        day = self._days.get(decision_id)
        if day is None:
            return None
        return _document_in(self._path / day / decision_id)

    def keep(self, place: str, document: bytes, draft: Draft | None) -> None:
        """Commit: mail and document are on disk when it returns. `draft` None: no mail carried this. Raises OSError."""
        _, day, decision_id = place.split("/")
        if day not in self._lasting:
            durable.make_folder(self._path / day, 0o750)
            self._in.sync()  # also where a crash came between these two
            self._lasting.add(day)
        new = self._path / day / decision_id
        durable.make_folder(new, 0o750)
        folder = durable.Folder(new)
        try:
            if draft is not None:  # content first, then its name; the document's fsync of the folder is for both
                draft.keep(folder, _MESSAGE, sync=False)
            folder.write(_DOCUMENT, document, mode=0o640)
        finally:
            folder.close()
        durable.sync_folder(self._path / day)  # a crash may have left the folder there, and its name not on disk
        self._days[decision_id] = day

    def keep_also(self, decision_id: str, draft: Draft) -> None:
        """Another mail under a decision that is kept: the same words, but not byte for byte. Raises OSError.

        Beside the first, as message-SHA256.eml: no mail is removed that is not here.
        """
        folder = durable.Folder(self._path / self._days[decision_id] / decision_id)
        try:
            name = f"message-{draft.sha256}.eml"
            if folder.stat(name) is None and _sha256_in(folder, _MESSAGE) != draft.sha256:
                draft.keep(folder, name)
        finally:
            folder.close()

    def set_aside(self, name: str, draft: Draft) -> None:
        """Keep a mail in quarantine/NAME.eml; on disk when it returns. Raises OSError.

        Another one of this name stays: they are told apart by their SHA-256.
        """
        there = _sha256_in(self._quarantine, f"{name}.eml")
        name = name if there in ("", draft.sha256) else f"{name}-{draft.sha256}"
        draft.keep(self._quarantine, f"{name}.eml")

    def documents(self, *, days: int | None = None) -> Iterator[bytes]:
        """Every stored document, oldest day first; of the last `days` days there are, if that is given."""
        known = sorted(set(self._days.values()))
        wanted = set(known if days is None else known[-days:])
        for decision_id, day in sorted(self._days.items(), key=lambda item: (item[1], item[0])):
            if day in wanted and (document := self.find(decision_id)) is not None:
                yield document

    def sweep(self, now: float, keep_archive: float, keep_quarantine: float) -> int:
        """Remove what is older (seconds); how many mails. Raises OSError."""
        last = datetime.fromtimestamp(now - keep_archive, UTC).strftime("%Y%m%d")
        swept = 0
        for decision_id, day in [item for item in self._days.items() if item[1] < last]:
            folder = durable.Folder(self._path / day / decision_id)
            try:
                # The document last: without it the mail would be read again, if it were still in its mailbox.
                for name in [name for name in folder.names() if name.startswith("message")]:
                    folder.remove(name, sync=False)
                folder.remove(_DOCUMENT)
            finally:
                folder.close()
            with suppress(OSError):
                (self._path / day / decision_id).rmdir()
            del self._days[decision_id]
            swept += 1
        for day in {name for name in self._in.names() if name.isdigit() and name < last}:
            with suppress(OSError):  # not empty: somebody keeps something of their own there
                (self._path / day).rmdir()
                self._lasting.discard(day)
        for name in list(self._quarantine.names()):
            figures = self._quarantine.stat(name)
            if name.endswith(".eml") and figures is not None and figures.st_ctime < now - keep_quarantine:
                self._quarantine.remove(name, sync=False)
                swept += 1
        return swept


def _sha256_in(folder: durable.Folder, name: str) -> str:
    """Of a file there, hexadecimal; "" where there is none. Raises OSError."""
    with suppress(FileNotFoundError):
        descriptor = folder.open(name)
        with os.fdopen(descriptor, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return ""


def stored_documents(state: Path) -> Iterator[bytes]:
    """Every document on disk, oldest day first, without changing anything. Raises OSError."""
    there = state / "archive" / "in"
    if there.is_dir():
        for day in sorted(path for path in there.iterdir() if path.name.isdigit()):
            for one in sorted(day.iterdir()):
                if (stored := _document_in(one)) is not None:
                    yield stored


def stored_document(state: Path, decision_id: str) -> bytes | None:
    """The document of this id. Raises OSError."""
    if not re.fullmatch(r"[0-9a-f-]{36}", decision_id):  # it becomes part of a path
        return None
    there = state / "archive" / "in"
    days = sorted(there.iterdir()) if there.is_dir() else []
    return next((stored for day in days if (stored := _document_in(day / decision_id)) is not None), None)


def _document_in(path: Path) -> bytes | None:
    with suppress(FileNotFoundError, NotADirectoryError):
        folder = durable.Folder(path)
        try:
            return folder.read(_DOCUMENT, limit=LARGEST_DOCUMENT)
        finally:
            folder.close()
    return None
