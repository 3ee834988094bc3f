"""How messages get from one folder to the next: each order of steps here is a few rows of the state table.

The record goes first and decides, so that a crash anywhere can be finished by `repair`. Nothing here is undone
lightly: an error after a rename leaves what the next start understands.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from mailrelayd import durable
from mailrelayd.clock import Clock
from mailrelayd.outbound import record
from mailrelayd.outbound.record import Record
from mailrelayd.outbound.results import Results, status_of
from mailrelayd.outbound.stored import ORPHAN, Reader


class Report(Protocol):
    """Who is told about what nobody asked for."""

    def trouble(self, doing: str, error: OSError) -> None:
        """A write failed and is being repeated."""

    def unreadable(self, queue_id: str, reason: str) -> None:
        """A queued file could no longer be understood and was failed."""


class Claims:
    """Which files were renamed out of the pickup folders, and which of these renames are on disk. For any thread."""

    def __init__(self) -> None:
        self._one = threading.Lock()  # for what is below
        self._folders: set[Path] = set()  # out of which files were renamed since they were synced
        self._last = self._synced = ""  # queue ids: the highest claimed; up to which claims are on disk
        self._late: set[str] = set()  # claimed after a higher one, and not on disk
        self._syncing = threading.Lock()  # who comes second finds nothing to do only when the first is through

    def made(self, queue_id: str, folder: Path) -> None:
        """A file was renamed out of this folder, which must be on disk before anything that depends on it."""
        with self._one:
            self._folders.add(folder)
            if queue_id < self._last:
                self._late.add(queue_id)
            self._last = max(self._last, queue_id)

    def sync(self, needed: Iterable[str] | None = None) -> None:
        """Make every claim durable; nothing happens where those that are `needed` are. Raises OSError."""
        if needed is not None and not any(queue_id > self._synced or queue_id in self._late for queue_id in needed):
            return
        with self._syncing:
            with self._one:
                folders, self._folders = self._folders, set()
                last, late = self._last, frozenset(self._late)
            try:
                while folders:
                    path = folders.pop()
                    try:
                        # By path: a reload may have closed the pickup's own descriptors. What was removed by hand
                        # can bring nothing back.
                        with suppress(FileNotFoundError):
                            durable.sync_folder(path)
                    except BaseException:
                        folders.add(path)
                        raise
            finally:
                with self._one:
                    self._folders |= folders
                    if not folders:
                        self._synced, self._late = last, self._late - late


class Moves:
    """The steps, on disk when they return; all but `into` run in the spool's one disk thread. They raise OSError."""

    def __init__(self, reader: Reader, clock: Clock, report: Report) -> None:
        self.queue, self.failed, self.sent = reader.queue, reader.failed, reader.sent
        self.keep_sent = 0.0  # seconds
        self.results: Results | None = None
        self._clock = clock
        self._report = report
        self.claims = Claims()
        self.bare: set[str] = set()  # ids of files that were just claimed, with nothing beside them

    @contextmanager
    def said(self, doing: str) -> Iterator[None]:
        """Trouble with what must not stop the mail, or cannot be taken back, is said and not raised."""
        try:
            yield
        except OSError as error:
            self._report.trouble(doing, error)

    # -- from the pickup folder ------------------------------------------------------------------------------

    def into(
        self, target: durable.Folder, new_name: str, folder: durable.Folder, name: str, beside: Record | None
    ) -> None:
        """Take a file over: the record beside it first, then the file. Where it fails, nothing has happened."""
        try:
            if beside is not None:
                target.write(f"{beside.queue_id}.json", record.encode(beside))
            folder.move(name, target, new_name, sync=False)
        except OSError:
            if beside is not None:
                _take_back(target, beside)
            raise
        if target is self.queue:
            queue_id = new_name.removesuffix(".eml")
            self.claims.made(queue_id, folder.path)
            if beside is None:
                self.bare.add(queue_id)

    def sync_claims(self) -> None:
        """Make every claim durable."""
        self.claims.sync()

    # -- out of the queue ------------------------------------------------------------------------------------

    def keep(self, entries: Sequence[Record]) -> None:
        """Everybody was sent to, and [spool] keep_sent wants them kept: ID.eml first, so that no state says "send it".

        What happened to them, in the records, is a kindness.
        """
        self.sync_claims()
        for entry in entries:
            self.tell(entry, "sent")
            with suppress(FileNotFoundError):
                self.queue.move(f"{entry.queue_id}.eml", self.sent, f"{entry.queue_id}.eml", sync=False)
        self.sent.sync()
        # Also where an earlier try got as far as the removal: until it is durable, a power cut sends again.
        self.queue.sync()
        for entry in entries:
            self.queue.remove(f"{entry.queue_id}.json", sync=False)  # alone it means nothing: swept at the next start
        with self.said("keep what happened to a sent message"):
            for error in self._write(self.sent, entries).values():
                raise error

    def write_down(self, entries: Sequence[Record]) -> dict[str, OSError]:
        """Records beside messages that stay where they are; which could not be written, and why."""
        return self._write(self.queue, entries)

    def give_up(self, entries: Sequence[Record]) -> dict[str, OSError]:
        """From queue/ to failed/; which could not be, and why.

        The record is the commit point: once it is in failed/, the next start finishes the rest.
        """
        self.sync_claims()
        for entry in entries:
            self.tell(entry, status_of(entry.reason))
        return self._carry(self.queue, self.failed, entries)

    def bring_back(self, entries: Sequence[Record]) -> dict[str, OSError]:
        """From failed/ to queue/; which could not be, and why. The records' revisions are above those in failed/."""
        return self._carry(self.failed, self.queue, entries)

    def delete(self, folder: durable.Folder, queue_ids: Iterable[str]) -> dict[str, OSError]:
        """Messages first, then their records; which could not be removed, and why."""
        failed: dict[str, OSError] = {}
        removed = []
        for queue_id in queue_ids:
            try:
                self.bare.discard(queue_id)
                folder.remove(f"{queue_id}.eml", sync=False)
                folder.remove(f"{queue_id}{ORPHAN}", sync=False)
                removed.append(queue_id)
            except OSError as error:
                failed[queue_id] = error
        folder.sync()
        for queue_id in removed:
            try:
                folder.remove(f"{queue_id}.json", sync=False)
            except OSError as error:
                failed[queue_id] = error
        return failed

    def tell(self, entry: Record, status: str) -> None:
        """Let the file's producer know; trouble with that is no reason to stop the mail."""
        results = self.results  # a reload may take it away at any moment
        if results is not None:
            with self.said("write a result"):
                results.write(entry, status, self._clock.now())

    def _carry(self, source: durable.Folder, target: durable.Folder, entries: Sequence[Record]) -> dict[str, OSError]:
        try:
            failed = self._write(target, entries)
        except OSError:
            for entry in entries:
                _take_back(target, entry)
            raise
        carried = []
        for entry in entries:
            queue_id = entry.queue_id
            if queue_id in failed:
                continue
            try:
                with suppress(FileNotFoundError):  # an earlier try got that far, or it was removed by hand
                    source.move(f"{queue_id}.eml", target, f"{queue_id}.eml", sync=False)
                carried.append(queue_id)
            except OSError as error:
                failed[queue_id] = error
                _take_back(target, entry)
        if carried:
            target.sync()
            source.sync()
        for queue_id in carried:
            try:
                source.remove(f"{queue_id}{ORPHAN}", sync=False)
                source.remove(f"{queue_id}.json", sync=False)  # the older one: it says nothing any more
            except OSError as error:
                failed[queue_id] = error
        return failed

    @staticmethod
    def _write(folder: durable.Folder, entries: Sequence[Record]) -> dict[str, OSError]:
        files = {f"{entry.queue_id}.json": record.encode(entry) for entry in entries}
        return {name.removesuffix(".json"): error for name, error in folder.write_many(files).items()}


def _take_back(folder: durable.Folder, entry: Record) -> None:
    """Remove a record whose message did not come: it says where the message belongs."""
    with suppress(OSError):  # at the latest the next start does it
        if folder.stat(f"{entry.queue_id}.eml") is None:
            folder.remove(f"{entry.queue_id}.json", sync=False)
