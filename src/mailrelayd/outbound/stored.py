"""What stands in the spool's folders, read without changing it: for the queue, and for commands without a daemon."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Container
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from mailrelayd import durable
from mailrelayd.outbound import journal, queueid, record
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
from mailrelayd.outbound.idset import Ids
from mailrelayd.outbound.queue import Entry, Place
from mailrelayd.outbound.record import Record, RecordError
from mailrelayd.outbound.values import Envelope, Progress, QueuedMessage

HEADER_LIMIT = 1 << 20  # bytes; the pickup refuses a longer header
FIRST_READ = 1 << 14  # bytes; nearly every header ends within them
SMALL = 1 << 18  # bytes; up to here a message is read once, with its header
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
    figures: os.stat_result  # taken when it was opened
    stamp: tuple[int, int, int]
    _header: tuple[Header | Unreadable, bytes] | None = None

    @classmethod
    def of(cls, folder: durable.Folder, name: str, stamp: tuple[int, int, int] | None = None) -> FileSource:
        """Open a file. `stamp`: what it looked like, if its producer may have written to it since. Raises OSError."""
        descriptor, figures = folder.look_into(name)
        return cls(descriptor, figures, stamp or stamp_of(figures))

    @property
    def uid(self) -> int:
        """Whose file it is."""
        return self.figures.st_uid

    @property
    def inode(self) -> int:
        """Its number in the file system."""
        return self.figures.st_ino

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

    def fileno(self) -> int:
        """The descriptor: the kernel copies a large message from it."""
        return self.fd

    def header(self) -> tuple[Header | Unreadable, bytes]:
        """The header, and the bytes it was found in: all of them, if the message is SMALL. Raises OSError."""
        if self._header is None:
            data = self.read(0, min(self.size, SMALL))
            header = split_header(data, HEADER_LIMIT, complete=len(data) == self.size)
            if isinstance(header, Unreadable) and len(data) < self.size:
                data = self.read(0, HEADER_LIMIT + 1)
                header = split_header(data, HEADER_LIMIT, complete=True)
            self._header = header, data
        return self._header

    def is_known(self, head: Head) -> bool:
        """Whether it still is the file that was read before, all of it: then it need not be read again."""
        now = self.figures
        if not head.whole or (now.st_ino, now.st_size, now.st_mtime_ns) != (head.inode, head.size, head.modified_ns):
            return False
        self._header = head.header, head.data
        return True

    def unchanged(self) -> bool:
        """False as soon as somebody, who kept the file open, wrote to it."""
        return stamp_of(os.fstat(self.fd)) == self.stamp

    def close(self) -> None:
        """Give the descriptor back."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@dataclass(frozen=True, slots=True)
class Head:
    """What was read of a file in a pickup folder, and what the file looked like just before."""

    header: Header
    data: bytes  # its first bytes, which hold the header; of a small file all
    inode: int
    size: int
    modified_ns: int

    @property
    def whole(self) -> bool:
        """Whether nothing of the file is left to be read."""
        return len(self.data) == self.size


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
        # What was sent and is only not removed yet is gone for everybody. While a daemon works it says what that is.
        self.completed: Container[str] = self._completed(directory)

    def _completed(self, directory: Path) -> frozenset[str]:
        recorded = recorded_in(directory).items()
        return frozenset(queue_id for queue_id, inode in recorded if still_there(self.queue, queue_id, inode))

    def close(self) -> None:
        """Give the descriptors back."""
        for folder in (self.queue, self.failed, self.sent):
            folder.close()

    def ids(self, *, failed: bool = False) -> list[str]:
        """The ids of every waiting message, or of every failed one, in queue order."""
        folder, gone = (self.failed, ()) if failed else (self.queue, self.completed)
        names = (name[:-4] for name in folder.names() if name.endswith(".eml") and queueid.valid(name[:-4]))
        return sorted(queue_id for queue_id in names if queue_id not in gone)

    def is_queued(self, queue_id: str) -> bool:
        """Whether a message waits, or is being sent. Raises OSError."""
        return queue_id not in self.completed and self.queue.stat(f"{queue_id}.eml") is not None

    def record(self, queue_id: str, *, failed: bool = False) -> Record | None:
        """What is written down beside a message; None: nothing. Raises RecordError, OSError."""
        return _record_in(self.failed if failed else self.queue, queue_id)

    def message(self, queue_id: str, known: Record | None, *, failed: bool = False) -> QueuedMessage | Unreadable:
        """The message as its record, or else its header, tells it. Raises OSError."""
        return self._message(self.failed if failed else self.queue, queue_id, known)

    def told(self, queue_id: str, known: Record | None, source: FileSource) -> QueuedMessage | Unreadable:
        """The same of a waiting message that is open, whose header stays there. Raises OSError."""
        return self._told(self.queue, queue_id, known, source.figures, lambda: source.header()[0])

    def content(self, queue_id: str) -> FileSource | None:
        """The stored bytes of a message, waiting, failed or kept after it was sent; None: it is not here."""
        for folder in (self.queue, self.failed, self.sent):
            if folder is self.queue and queue_id in self.completed:
                continue
            with suppress(FileNotFoundError):
                return FileSource.of(folder, f"{queue_id}.eml")
        return None

    def _message(self, folder: durable.Folder, queue_id: str, known: Record | None) -> QueuedMessage | Unreadable:
        descriptor, figures = folder.look_into(f"{queue_id}.eml")
        try:
            return self._told(folder, queue_id, known, figures, lambda: header_of(descriptor))
        finally:
            os.close(descriptor)

    def _told(
        self,
        folder: durable.Folder,
        queue_id: str,
        known: Record | None,
        figures: os.stat_result,
        read: Callable[[], Header | Unreadable],
    ) -> QueuedMessage | Unreadable:
        if known is not None and known.envelope is not None:
            return _told(queue_id, known, known.envelope, figures)
        sidecar = self._sidecar(queue_id, known) if folder is self.failed else None
        if isinstance(sidecar, Unreadable):
            return sidecar
        header = read()
        if isinstance(header, Unreadable):
            return header
        derived = envelope_of(header, self.reading, sidecar, known.producer if known else "")
        if isinstance(derived, Unreadable):
            return derived
        # Ids never go back, so after a wrong date they may be ahead of the time; the rename that claimed it is not.
        arrived_at = min(queueid.arrived_at(queue_id), figures.st_ctime_ns // 1000 / 1_000_000)
        if known is None:
            fresh = Progress(arrived_at)
            return QueuedMessage(queue_id, derived.envelope, fresh, figures.st_size, derived.rule, uid=figures.st_uid)
        if sidecar is not None:
            known = replace(known, progress=replace(known.progress, not_before=sidecar.not_before))
        return _told(queue_id, replace(known, rule=derived.rule), derived.envelope, figures)

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
        if figures is None or (folder is self.queue and queue_id in self.completed):
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


def recorded_in(directory: Path) -> dict[str, int]:
    """The inodes of messages, by id, that were sent and perhaps not removed before a crash. Raises OSError.

    Also where the journal cannot be read, or is a newer program's: what it says would be sent again.
    """
    path = directory / journal.NAME
    with closing(durable.Folder(directory)) as folder:
        try:
            return journal.decode(folder.read(journal.NAME, limit=journal.SIZE))
        except FileNotFoundError:
            return {}
        except durable.NotRegularError as error:
            raise OSError(error.errno, "not a regular file: remove it", str(path)) from error
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        except ValueError as error:
            raise OSError(errno.EINVAL, str(error), str(path)) from error


def still_there(queue: durable.Folder, queue_id: str, inode: int) -> bool:
    """Whether the file of a message is the one that was sent, and not another that somebody put there since."""
    there = queue.stat(f"{queue_id}.eml")
    return there is not None and there.st_ino == inode


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


def head_of(descriptor: int, figures: os.stat_result) -> Head | Unreadable:
    """The header of a file with what was read of it; `figures` were taken of the descriptor before. Raises OSError."""
    header, data = _first_of(descriptor)
    if isinstance(header, Unreadable):
        return header
    return Head(header, data, figures.st_ino, figures.st_size, figures.st_mtime_ns)


def header_of(descriptor: int) -> Header | Unreadable:
    """The header of a file. Raises OSError."""
    return _first_of(descriptor)[0]


def _first_of(descriptor: int) -> tuple[Header | Unreadable, bytes]:
    """Nearly always the header is within the first read, so the rest is read only where it is not."""
    data = durable.read_at(descriptor, 0, FIRST_READ)
    header = split_header(data, HEADER_LIMIT, complete=len(data) < FIRST_READ)
    if isinstance(header, Unreadable) and len(data) == FIRST_READ:
        data += durable.read_at(descriptor, FIRST_READ, HEADER_LIMIT + 1 - FIRST_READ)
        header = split_header(data, HEADER_LIMIT, complete=True)
    return header, data


def envelope_of(
    header: Header, reading: Reading, sidecar: Sidecar | None = None, producer: str = ""
) -> Derived | Unreadable:
    """The envelope that a header, or its sidecar if there is one, tells under the rules of its producer's folder."""
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


def ids_in(folder: durable.Folder) -> tuple[Ids, Ids]:
    """The ids that have a message in this folder, and those that have a record."""
    messages, records = Ids(), Ids()
    for name in folder.names():
        stem, _, ending = name.partition(".")
        if ending in ("eml", "json") and queueid.valid(stem):
            (messages if ending == "eml" else records).add(stem)
    messages.sort()
    records.sort()
    return messages, records
