"""How messages get from one folder to the next: each order of steps here is a few rows of the state table.

The record goes first and decides, so that a crash anywhere can be finished by `repair`. Nothing here is undone
lightly: an error after a rename leaves what the next start understands.
"""

from __future__ import annotations

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
from mailrelayd.outbound.values import Progress, QueuedMessage


class Report(Protocol):
    """Who is told about what nobody asked for."""

    def trouble(self, doing: str, error: OSError) -> None:
        """A write failed and is being repeated."""

    def unreadable(self, queue_id: str, reason: str) -> None:
        """A queued file could no longer be understood and was failed."""


class Moves:
    """The steps, on disk when they return; all but `into` run in the spool's one disk thread. They raise OSError."""

    def __init__(self, reader: Reader, clock: Clock, report: Report) -> None:
        self.queue, self.failed, self.sent = reader.queue, reader.failed, reader.sent
        self.keep_sent = 0.0  # seconds
        self.results: Results | None = None
        self._clock = clock
        self._report = report
        self._unsynced: set[Path] = set()  # pickup folders out of which files were renamed

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

    def claimed_from(self, folder: durable.Folder) -> None:
        """A file was renamed out of this folder, which must be on disk before anything that depends on it."""
        self._unsynced.add(folder.path)

    def sync_claims(self) -> None:
        """Make every claim durable."""
        # By path: a reload may have closed the pickup's own descriptors. Taken out before it is synced, because
        # the pickup's thread may rename another file meanwhile, and put back where that failed.
        while self._unsynced:
            path = self._unsynced.pop()
            try:
                with suppress(FileNotFoundError):  # removed by hand: nothing can come back from it
                    durable.sync_folder(path)
            except OSError:
                self._unsynced.add(path)
                raise

    # -- out of the queue ------------------------------------------------------------------------------------

    def finish(self, message: QueuedMessage, progress: Progress) -> None:
        """Everybody was sent to: ID.eml first, then ID.json, so that no state says "send it again"."""
        eml, beside = f"{message.queue_id}.eml", f"{message.queue_id}.json"
        self.sync_claims()
        if self.results is not None:
            self.tell(record.of(message, progress), "sent")
        if self.keep_sent > 0:
            with suppress(FileNotFoundError):
                self.queue.move(eml, self.sent, eml, sync=False)
            self.sent.sync()
        else:
            self.queue.remove(eml, sync=False)
        # Also where an earlier try got as far as the removal: until it is durable, a power cut sends again.
        self.queue.sync()
        if message.revision:
            self.queue.remove(beside, sync=False)  # alone it means nothing: swept at the next start
        if self.keep_sent > 0:
            with self.said("keep what happened to a sent message"):
                self.sent.write(beside, record.encode(record.of(message, progress)))

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
