"""What stands in the spool's folders, read without changing it: for the queue, and for commands without a daemon."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from mailrelayd import durable
from mailrelayd.outbound import queueid, record
from mailrelayd.outbound.envelope import (
    MAX_SIDECAR,
    Derived,
    EnvelopeRule,
    Sidecar,
    parse_sidecar,
    read_envelope,
)
from mailrelayd.outbound.headers import Header, RewriteFrom, Unreadable, split_header
from mailrelayd.outbound.queue import Entry, Place
from mailrelayd.outbound.record import Record, RecordError
from mailrelayd.outbound.values import Envelope, Progress, QueuedMessage

HEADER_LIMIT = 1 << 20  # bytes; the pickup refuses a longer header
FIRST_READ = 1 << 14  # bytes; nearly every header ends within them
RECORD_LIMIT = 64 << 20  # bytes of ID.json: some 100,000 recipients
ORPHAN = ".env.json"  # a sidecar that lost its message


@dataclass(frozen=True, slots=True)
class Reading:
    """How a header tells its envelope: [spool] envelope, and the account's from_address and rewrite_from."""

    rule: EnvelopeRule = "headers"
    from_address: str = ""
    rewrite_from: RewriteFrom = "envelope"


@dataclass(slots=True)
class FileSource:
    """The stored bytes of one message, through one descriptor."""

    fd: int
    stamp: tuple[int, int, int]
    uid: int  # whose file it is

    @property
    def size(self) -> int:
        """Bytes, as they were when it was claimed."""
        return self.stamp[0]

    @property
    def changed_at(self) -> float:
        """When it was last written to, seconds since the epoch: by the later of its times, as one can be set."""
        return max(self.stamp[1:]) / 1e9

    def read(self, offset: int, size: int) -> bytes:
        """Bytes from `offset`, fewer only at the end."""
        return durable.read_at(self.fd, offset, size)

    def unchanged(self) -> bool:
        """False as soon as somebody, who kept the file open, wrote to it."""
        return stamp_of(os.fstat(self.fd)) == self.stamp

    def close(self) -> None:
        """Give the descriptor back."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def stamp_of(figures: os.stat_result) -> tuple[int, int, int]:
    """What changes when somebody writes to a file, even if they set its times back (ctime cannot be set)."""
    return figures.st_size, figures.st_mtime_ns, figures.st_ctime_ns


class Reader:
    """Reads the spool's folders without changing them: for commands while no daemon runs, and for the daemon."""

    def __init__(self, directory: Path, reading: Reading) -> None:
        """Raises OSError where the folders are not there or closed to us."""
        self.queue = durable.Folder(directory / "queue")
        self.failed = durable.Folder(directory / "failed")
        self.reading = reading

    def close(self) -> None:
        """Give the descriptors back."""
        self.queue.close()
        self.failed.close()

    def ids(self, *, failed: bool = False) -> list[str]:
        """The ids of every waiting message, or of every failed one, in queue order."""
        folder = self.failed if failed else self.queue
        return sorted(name[:-4] for name in folder.names() if name.endswith(".eml") and queueid.valid(name[:-4]))

    def record(self, queue_id: str, *, failed: bool = False) -> Record | None:
        """What is written down beside a message; None: nothing. Raises RecordError, OSError."""
        folder = self.failed if failed else self.queue
        try:
            return record.decode(folder.read(f"{queue_id}.json", limit=RECORD_LIMIT))
        except FileNotFoundError:
            return None

    def message(self, queue_id: str, known: Record | None, *, failed: bool = False) -> QueuedMessage | Unreadable:
        """The message as its record, or else its header, tells it. Raises OSError."""
        folder = self.failed if failed else self.queue
        descriptor = folder.open(f"{queue_id}.eml")
        try:
            figures = os.fstat(descriptor)
            size = figures.st_size
            # Ids never go back, so after a wrong date they may be ahead of the time; the rename that claimed it is not.
            arrived_at = min(queueid.arrived_at(queue_id), figures.st_ctime_ns // 1000 / 1_000_000)
            progress = known.progress if known else Progress(arrived_at)
            revision, file = (known.revision, known.file) if known else (0, "")
            if known is not None and known.envelope is not None:
                return QueuedMessage(queue_id, known.envelope, progress, size, known.rule, revision, file)
            sidecar = self._sidecar(queue_id, known) if failed else None
            if isinstance(sidecar, Unreadable):
                return sidecar
            derived = envelope_of(descriptor, self.reading, sidecar)
            if isinstance(derived, Unreadable):
                return derived
            if sidecar is not None:
                progress = replace(progress, not_before=sidecar.not_before)
            return QueuedMessage(queue_id, derived.envelope, progress, size, derived.rule, revision, file)
        finally:
            os.close(descriptor)

    def _sidecar(self, queue_id: str, known: Record | None) -> Sidecar | Unreadable | None:
        """What the sidecar of a refused message says by now. Without it the header must not speak in its place."""
        if known is None or known.claim is None:
            return None
        try:
            return parse_sidecar(self.failed.read(f"{queue_id}{ORPHAN}", limit=MAX_SIDECAR + 1))
        except FileNotFoundError:
            return Unreadable(f"its sidecar {known.claim.name} is gone: hand in both again")

    def entry(self, queue_id: str, *, failed: bool = False) -> Entry | None:
        """One message for people; None where it is not there."""
        reason = ""
        hold, after = False, 0.0
        try:
            known = self.record(queue_id, failed=failed)
        except (RecordError, OSError) as error:
            known, reason, hold = None, str(error), True
        figures = (self.failed if failed else self.queue).stat(f"{queue_id}.eml")
        if figures is None:
            return None
        message: QueuedMessage | Unreadable = Unreadable("refused at the pickup: who should receive it is not known")
        try:
            if not failed or known is None or known.envelope is not None:
                message = self.message(queue_id, known, failed=failed)
        except FileNotFoundError:
            return None
        except OSError as error:  # one that cannot be read must not hide the others
            reason, hold = str(error), True
        if isinstance(message, Unreadable):
            empty, file = Progress(queueid.arrived_at(queue_id)), known.file if known else ""
            message = QueuedMessage(queue_id, Envelope("", ()), empty, figures.st_size, "unreadable", 0, file)
        if known is not None:
            hold = known.hold
            reason = known.detail or known.reason
            waits = [r.next_attempt for r in known.progress.recipients.values() if r.next_attempt]
            after = max(min(waits, default=0.0), known.progress.not_before)
        if failed:
            place = Place.FAILED
        elif hold:
            place = Place.HOLD
        else:
            place = Place.DEFERRED if after else Place.ACTIVE
        return Entry(place, message, after, reason)


def header_of(descriptor: int) -> Header | Unreadable:
    """The header of a file. Nearly always within the first read, so the rest is read only where it is not."""
    data = durable.read_at(descriptor, 0, FIRST_READ)
    header = split_header(data, HEADER_LIMIT, complete=len(data) < FIRST_READ)
    if isinstance(header, Unreadable) and len(data) == FIRST_READ:
        data += durable.read_at(descriptor, FIRST_READ, HEADER_LIMIT + 1 - FIRST_READ)
        header = split_header(data, HEADER_LIMIT, complete=True)
    return header


def envelope_of(descriptor: int, reading: Reading, sidecar: Sidecar | None = None) -> Derived | Unreadable:
    """The envelope that a file tells, by its sidecar if there is one."""
    header = header_of(descriptor)
    if isinstance(header, Unreadable):
        return header
    return read_envelope(
        header,
        reading.rule,
        sidecar=sidecar,
        from_address=reading.from_address,
        rewrite_from=reading.rewrite_from,
    )


def ids_in(folder: durable.Folder) -> tuple[set[str], set[str]]:
    """The ids that have a message in this folder, and those that have a record."""
    messages, records = set(), set()
    for name in folder.names():
        stem, _, ending = name.partition(".")
        if queueid.valid(stem) and ending == "eml":
            messages.add(stem)
        elif queueid.valid(stem) and ending == "json":
            records.add(stem)
    return messages, records
