"""What stands in the spool's folders, read without changing it: for the queue, and for commands without a daemon."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from mailrelayd import durable
from mailrelayd.outbound import queueid, record
from mailrelayd.outbound.envelope import (
    MAX_SIDECAR,
    Derived,
    EnvelopeRule,
    Producer,
    Sidecar,
    parse_sidecar,
    read_envelope,
)
from mailrelayd.outbound.headers import APPROVAL_FIELDS, Header, RewriteFrom, Unreadable, split_header
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
    named: tuple[Producer, ...] = ()  # one per [pickup.NAME]

    @property
    def producers(self) -> tuple[Producer, ...]:
        """All of them, first the one without a name: whoever writes into pickup/ itself."""
        return (Producer("", self.rule), *self.named)

    def producer(self, name: str) -> Producer | None:
        """The one of this name; None: the configuration does not know it (any more)."""
        return next((one for one in self.producers if one.name == name), None)


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
        self.sent = durable.Folder(directory / "sent")
        self.reading = reading

    def close(self) -> None:
        """Give the descriptors back."""
        for folder in (self.queue, self.failed, self.sent):
            folder.close()

    def ids(self, *, failed: bool = False) -> list[str]:
        """The ids of every waiting message, or of every failed one, in queue order."""
        folder = self.failed if failed else self.queue
        return sorted(name[:-4] for name in folder.names() if name.endswith(".eml") and queueid.valid(name[:-4]))

    def record(self, queue_id: str, *, failed: bool = False) -> Record | None:
        """What is written down beside a message; None: nothing. Raises RecordError, OSError."""
        return _record_in(self.failed if failed else self.queue, queue_id)

    def message(self, queue_id: str, known: Record | None, *, failed: bool = False) -> QueuedMessage | Unreadable:
        """The message as its record, or else its header, tells it. Raises OSError."""
        folder = self.failed if failed else self.queue
        return self._message(folder, queue_id, known)

    def content(self, queue_id: str) -> FileSource | None:
        """The stored bytes of a message, waiting, failed or kept after it was sent; None: it is not here."""
        for folder in (self.queue, self.failed, self.sent):
            with suppress(FileNotFoundError):
                descriptor = folder.open(f"{queue_id}.eml")
                figures = os.fstat(descriptor)
                return FileSource(descriptor, stamp_of(figures), figures.st_uid)
        return None

    def _message(self, folder: durable.Folder, queue_id: str, known: Record | None) -> QueuedMessage | Unreadable:
        descriptor = folder.open(f"{queue_id}.eml")
        try:
            figures = os.fstat(descriptor)
            if known is not None and known.envelope is not None:
                return _told(queue_id, known, known.envelope, figures)
            sidecar = self._sidecar(queue_id, known) if folder is self.failed else None
            if isinstance(sidecar, Unreadable):
                return sidecar
            derived = envelope_of(descriptor, self.reading, sidecar, known.producer if known else "")
            if isinstance(derived, Unreadable):
                return derived
            # Ids never go back, so after a wrong date they may be ahead of the time; the rename that claimed it is not.
            arrived_at = min(queueid.arrived_at(queue_id), figures.st_ctime_ns // 1000 / 1_000_000)
            known = known or Record(queue_id, 0, derived.rule, None, Progress(arrived_at))
            if sidecar is not None:
                known = replace(known, progress=replace(known.progress, not_before=sidecar.not_before))
            return _told(queue_id, replace(known, rule=derived.rule), derived.envelope, figures)
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
        return self._entry(self.failed if failed else self.queue, queue_id)

    def find(self, queue_id: str) -> Entry | None:
        """One message for people, wherever it stands: waiting, failed, or kept after it was sent."""
        return self.entry(queue_id) or self.entry(queue_id, failed=True) or self._entry(self.sent, queue_id)

    def _entry(self, folder: durable.Folder, queue_id: str) -> Entry | None:
        reason = ""
        hold, after = False, 0.0
        try:
            known = self.record(queue_id) if folder is self.queue else _record_in(folder, queue_id)
        except (RecordError, OSError) as error:
            known, reason, hold = None, str(error), True
        figures = folder.stat(f"{queue_id}.eml")
        if figures is None:
            return None
        message: QueuedMessage | Unreadable = Unreadable("refused at the pickup: who should receive it is not known")
        try:
            if folder is not self.failed or known is None or known.envelope is not None:
                message = self._message(folder, queue_id, known)
        except FileNotFoundError:
            return None
        except OSError as error:  # one that cannot be read must not hide the others
            reason, hold = str(error), True
        if isinstance(message, Unreadable):
            known = known or Record(queue_id, 0, "unreadable", None, Progress(queueid.arrived_at(queue_id)))
            message = _told(queue_id, replace(known, revision=0, rule="unreadable"), Envelope("", ()), figures)
        elif known is not None:
            waits = [r.next_attempt for r in known.progress.recipients.values() if r.next_attempt]
            after = max(min(waits, default=0.0), known.progress.not_before)
        if known is not None and not reason:
            hold = known.hold
            reason = known.detail or known.reason
        if folder is self.failed:
            place = Place.FAILED
        elif folder is self.sent:
            place = Place.SENT
        elif hold:
            place = Place.HOLD
        else:
            place = Place.DEFERRED if after else Place.ACTIVE
        message = replace(message, progress=record.begun(message, message.progress))
        return Entry(place, message, after, reason)


def _record_in(folder: durable.Folder, queue_id: str) -> Record | None:
    try:
        return record.decode(folder.read(f"{queue_id}.json", limit=RECORD_LIMIT))
    except FileNotFoundError:
        return None


def _told(queue_id: str, known: Record, envelope: Envelope, figures: os.stat_result) -> QueuedMessage:
    """The message that a record, and the file beside it, tell of."""
    return QueuedMessage(
        queue_id,
        envelope,
        known.progress,
        figures.st_size,
        known.rule,
        known.revision,
        known.file,
        known.producer,
        figures.st_uid if known.uid is None else known.uid,
        known.key,
        known.copies,
    )


def header_of(descriptor: int) -> Header | Unreadable:
    """The header of a file. Nearly always within the first read, so the rest is read only where it is not."""
    data = durable.read_at(descriptor, 0, FIRST_READ)
    header = split_header(data, HEADER_LIMIT, complete=len(data) < FIRST_READ)
    if isinstance(header, Unreadable) and len(data) == FIRST_READ:
        data += durable.read_at(descriptor, FIRST_READ, HEADER_LIMIT + 1 - FIRST_READ)
        header = split_header(data, HEADER_LIMIT, complete=True)
    return header


def envelope_of(
    descriptor: int, reading: Reading, sidecar: Sidecar | None = None, producer: str = ""
) -> Derived | Unreadable:
    """The envelope that a file tells, by its sidecar if there is one, under the rules of its producer's folder."""
    header = header_of(descriptor)
    if isinstance(header, Unreadable):
        return header
    if request := header.named(*APPROVAL_FIELDS):  # whom it may ask is decided once, and stands in the record then
        return Unreadable(f"the header has {request[0].name}: hand the file in again to ask for approval")
    whose = reading.producer(producer)
    if whose is None:
        return Unreadable(f"the configuration has no [pickup.{producer}] any more: who may be its sender is not known")
    return read_envelope(
        header,
        whose.envelope,
        sidecar=sidecar,
        from_address=reading.from_address,
        rewrite_from=reading.rewrite_from,
        producer=whose,
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
