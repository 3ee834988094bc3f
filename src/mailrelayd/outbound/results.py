"""What became of a file, for the program that dropped it: SPOOL/results/NAME.json, or results/PRODUCER/NAME.json.

Whoever may drop files into a folder may read its results, whose names they know, and list nothing. A result is
written just before its message leaves the queue, and again when `queue retry` brings it to another end.
"""

from __future__ import annotations

import json
import stat
import threading
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from mailrelayd import durable
from mailrelayd.outbound.record import Record
from mailrelayd.outbound.values import RecipientRecord

KEPT = 7 * 86400.0  # seconds
FOLDER_MODE, FILE_MODE = 0o2710, 0o640  # setgid: files get the folder's group


def status_of(reason: str) -> str:
    """What a producer is told of a message that was given up for this reason."""
    return reason if reason in ("expired", "suppressed") else "failed"


class Results:
    """The folder of results. Raises OSError wherever the disk does."""

    def __init__(self, directory: Path) -> None:
        """`directory` is the spool's: a results folder has the group of the pickup folder that it answers for."""
        self._directory = directory
        self._folders: dict[str, durable.Folder] = {}
        self._one = threading.Lock()  # the pickup's thread refuses while the spool's settles

    def close(self) -> None:
        """Give the descriptors back."""
        with self._one:
            for folder in self._folders.values():
                folder.close()
            self._folders.clear()

    def write(self, record: Record, status: str, at: float) -> None:
        """Say what became of the file behind this record; nothing where it was no file of a producer's."""
        if not record.file or record.rule in ("submit", "dsn"):
            return
        name = record.file[:-4] if record.file.lower().endswith(".eml") else record.file
        recipients = record.envelope.recipients if record.envelope else ()
        document = {
            "file": record.file,
            "queue_id": record.queue_id,
            "status": status,
            "at": datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "recipients": list(_recipients(recipients, record.progress.recipients)),
            **({"detail": record.detail} if record.detail else {}),
        }
        data = json.dumps(document, indent=1).encode() + b"\n"
        with self._one:
            folder = self._folder(record.producer)
            if status != "duplicate" or not _tells_of(folder, f"{name}.json", record.queue_id):
                folder.write(f"{name}.json", data, mode=FILE_MODE)

    def _folder(self, producer: str) -> durable.Folder:
        folder = self._folders.get(producer)
        if folder is None:
            if producer:
                self._folder("")  # the one above it has a group of its own
            path = self._directory / "results" / producer
            durable.make_folder(path, 0o700)
            folder = durable.Folder(path)
            try:
                folder.give_to((self._directory / "pickup" / producer).stat().st_gid, FOLDER_MODE)
            except OSError:
                folder.close()
                raise
            self._folders[producer] = folder
        return folder

    def sweep(self, now: float) -> None:
        """Remove what is older than a week, also of producers that are no longer configured."""
        try:
            top = durable.Folder(self._directory / "results")
        except FileNotFoundError:
            return
        try:
            for name in list(top.names()):
                figures = top.stat(name)
                if figures is not None and stat.S_ISDIR(figures.st_mode):
                    below = durable.Folder(top.path / name)
                    try:
                        _sweep(below, list(below.names()), now)
                    finally:
                        below.close()
                else:
                    _sweep(top, [name], now)
        finally:
            top.close()


def _tells_of(folder: durable.Folder, name: str, queue_id: str) -> bool:
    """Whether a result says already what became of this message: to be a duplicate of it is less than that."""
    try:
        return f'\n "queue_id": "{queue_id}",\n'.encode() in folder.read(name, limit=4096)  # it is the second line
    except OSError:
        return False


def _recipients(recipients: Iterable[str], known: Mapping[str, RecipientRecord]) -> Iterable[dict[str, object]]:
    for address in recipients:
        one = known.get(address)
        yield {
            "address": address,
            "status": one.status.value if one else "queued",
            "response": str(one.response) if one else "",
            "attempts": one.attempts if one else 0,
            "reason": one.reason if one else "",
        }


def _sweep(folder: durable.Folder, names: Iterable[str], now: float) -> None:
    for name in names:
        figures = folder.stat(name)
        if name.endswith(".json") and figures is not None and figures.st_ctime < now - KEPT:
            folder.remove(name, sync=False)
