"""At start: finish what a crash left undone. Every row of the state table that is not at rest is dealt with here."""

from __future__ import annotations

import stat
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from mailrelayd import durable
from mailrelayd.outbound import queueid
from mailrelayd.outbound.keys import KEPT, Keys
from mailrelayd.outbound.record import Claim, Record, RecordError
from mailrelayd.outbound.stored import ORPHAN, Reader, ids_in


@dataclass(frozen=True, slots=True)
class Found:
    """What stands in the queue once it has been repaired."""

    plain: set[str]  # without a record
    records: dict[str, Record | str]  # a text: why it cannot be used (newer, damaged, not readable)
    newest: int  # microseconds of the youngest id anywhere


def repair(reader: Reader, keys: Keys, directory: Path, now: float) -> Found:
    """Bring every message to rest in one place. Raises OSError."""
    queue, failed = reader.queue, reader.failed
    for folder in (queue, failed, reader.sent, keys.folder):
        folder.sweep()
    queued, queue_records = ids_in(queue)
    given_up, failed_records = ids_in(failed)
    unclear: set[str] = set()
    for queue_id in sorted(failed_records):
        back = False
        if queue_id in queue_records:
            try:
                back = _revision(reader, queue_id) > _revision(reader, queue_id, failed=True)
            except (RecordError, OSError):  # which of the two is the true one would be a guess
                unclear.add(queue_id)
                continue
        if back:  # `retry` was cut short: its new record is on disk, so it goes on
            _move(queue_id, failed, queue, given_up, queued)
            failed.remove(f"{queue_id}{ORPHAN}", sync=False)
            failed.remove(f"{queue_id}.json", sync=False)
            continue
        # `fail` was cut short: its record in failed/ is the commit point
        _move(queue_id, queue, failed, queued, given_up)
        if queue_id in queue_records:
            queue.remove(f"{queue_id}.json", sync=False)
            queue_records.discard(queue_id)
        if queue_id not in given_up and failed.stat(f"{queue_id}{ORPHAN}") is None:
            failed.remove(f"{queue_id}.json", sync=False)  # a pickup file was being refused: it is still there
    _finish_refusals(reader, directory / "pickup", given_up & failed_records)
    for queue_id in queue_records - queued - unclear:
        # Either a claim that did not get to its rename (the file still stands in the pickup folder, with its
        # sidecar) or a message whose removal was cut short. Both times the record means nothing.
        queue.remove(f"{queue_id}.json", sync=False)
    records: dict[str, Record | str] = {}
    for queue_id in sorted(queue_records & queued):
        try:
            entry = reader.record(queue_id)
        except (RecordError, OSError) as error:
            records[queue_id] = str(error)
            continue
        if queue_id in unclear:
            records[queue_id] = "it has a record in failed/ too, and that one cannot be used"
        elif entry is not None:
            if entry.claim is not None:
                _finish_claim(directory / "pickup", entry.claim)
            records[queue_id] = entry
    queue.sync()
    failed.sync()
    for queue_id, known in records.items():
        if isinstance(known, Record) and known.key:  # last: a key stands for a message that is here for good
            _finish_key(keys, known.key, queue_id, now)
    newest = max((queueid.microseconds(queue_id) for queue_id in queued | given_up), default=0)
    return Found(queued - queue_records, records, newest)


def _move(queue_id: str, source: durable.Folder, target: durable.Folder, there: set[str], here: set[str]) -> None:
    if queue_id in there:
        source.move(f"{queue_id}.eml", target, f"{queue_id}.eml")
        there.discard(queue_id)
        here.add(queue_id)


def _revision(reader: Reader, queue_id: str, *, failed: bool = False) -> int:
    found = reader.record(queue_id, failed=failed)
    return found.revision if found else 0


def _finish_claim(pickup: Path, claim: Claim) -> None:
    with suppress(OSError, ValueError), closing(durable.Folder(pickup / claim.folder)) as folder:
        remove_sidecar(folder, claim)  # ValueError: a damaged record's name with NUL


def _finish_key(keys: Keys, key: str, queue_id: str, now: float) -> None:
    arrived_at = min(queueid.arrived_at(queue_id), now)  # ids may be ahead after a wrong date
    if now - arrived_at < KEPT and keys.seen(key, now) is None:
        keys.remember(key, queue_id, arrived_at)
        with suppress(OSError):  # a full disk: it is remembered at least
            keys.write(key)


def _finish_refusals(reader: Reader, pickup: Path, refused: set[str]) -> None:
    """Sidecars whose message was refused and is in failed/ already: left behind, they would speak for another."""
    left: set[tuple[int, int]] = set()
    for path in _pickup_folders(pickup):
        with suppress(OSError), closing(durable.Folder(path)) as folder:
            found = (folder.stat(name) for name in folder.names() if name.endswith(ORPHAN))
            left.update((there.st_ino, there.st_ctime_ns) for there in found if there is not None)
    for queue_id in refused if left else ():
        with suppress(RecordError, OSError, ValueError):
            known = reader.record(queue_id, failed=True)
            if known and known.claim and (known.claim.inode, known.claim.changed_ns) in left:
                with closing(durable.Folder(pickup / known.claim.folder)) as folder:
                    keep_sidecar(folder, known.claim, reader.failed, queue_id)


def _pickup_folders(pickup: Path) -> list[Path]:
    """pickup/ and each producer's folder, each with its new/; not what others made there."""
    with suppress(OSError), closing(durable.Folder(pickup)) as top:
        owner = top.stat(".")
        found = ((name, top.stat(name)) for name in top.names() if name not in ("new", "tmp"))
        producers = [
            pickup / name
            for name, there in found
            if owner and there and stat.S_ISDIR(there.st_mode) and there.st_uid == owner.st_uid
        ]
        return [path for folder in (pickup, *producers) for path in (folder, folder / "new")]
    return []


def remove_sidecar(folder: durable.Folder, claim: Claim) -> None:
    """Remove the sidecar of a message that was claimed, unless another file took its name since. Raises OSError."""
    if _is_still(folder, claim):
        folder.remove(claim.name)


def keep_sidecar(folder: durable.Folder, claim: Claim, failed: durable.Folder, queue_id: str) -> None:
    """Put the sidecar of a refused message beside it, where `queue retry` reads it again. Raises OSError."""
    if _is_still(folder, claim):
        folder.move(claim.name, failed, f"{queue_id}{ORPHAN}")


def _is_still(folder: durable.Folder, claim: Claim) -> bool:
    there = folder.stat(claim.name)
    return there is not None and (there.st_ino, there.st_ctime_ns) == (claim.inode, claim.changed_ns)
