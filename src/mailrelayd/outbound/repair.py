"""At start: finish what a crash left undone. Every row of the state table that is not at rest is dealt with here."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from mailrelayd import durable
from mailrelayd.outbound import queueid
from mailrelayd.outbound.idset import Ids
from mailrelayd.outbound.keys import KEPT, Keys
from mailrelayd.outbound.record import Claim, Record, RecordError
from mailrelayd.outbound.stored import ORPHAN, Reader, ids_in, recorded_in, still_there


@dataclass(frozen=True, slots=True)
class Found:
    """What stands in the queue once it has been repaired, beside what was `told` on the way."""

    plain: Ids  # without a record
    newest: int  # microseconds of the youngest id anywhere
    sent: dict[str, int]  # and could not be removed: the inodes of messages that are recorded as sent


def repair(reader: Reader, keys: Keys, directory: Path, now: float, tell: Callable[[str, Record | str], None]) -> Found:
    """Bring every message to rest in one place. Raises OSError.

    `tell` is told of each message with a record, and the record; a text: why it cannot be used (newer, damaged, not
    readable). A million messages are not held in memory.
    """
    queue, failed = reader.queue, reader.failed
    sent = _finish_completions(queue, directory)
    for folder in (queue, failed, reader.sent, keys.folder):
        folder.sweep()
    queued, queue_records = ids_in(queue)
    given_up, failed_records = ids_in(failed)
    newest = max(queued.newest, given_up.newest)
    unclear: set[str] = set()
    arrived: set[str] = set()  # in queue/, from failed/
    left: set[str] = set()  # the other way
    dropped: set[str] = set()  # whose record in queue/ says nothing any more
    for queue_id in failed_records:
        recorded = queue_id in queue_records
        if recorded:
            try:
                back = _revision(reader, queue_id) > _revision(reader, queue_id, failed=True)
            except (RecordError, OSError):  # which of the two is the true one would be a guess
                unclear.add(queue_id)
                continue
            if back:  # `retry` was cut short: its new record is on disk, so it goes on
                if queue_id in given_up:
                    failed.move(f"{queue_id}.eml", queue, f"{queue_id}.eml")
                    arrived.add(queue_id)
                failed.remove(f"{queue_id}{ORPHAN}", sync=False)
                failed.remove(f"{queue_id}.json", sync=False)
                continue
        # `fail` was cut short: its record in failed/ is the commit point
        if queue_id in queued:
            queue.move(f"{queue_id}.eml", failed, f"{queue_id}.eml")
            left.add(queue_id)
        if recorded:
            queue.remove(f"{queue_id}.json", sync=False)
            dropped.add(queue_id)
        if queue_id not in given_up and queue_id not in left and failed.stat(f"{queue_id}{ORPHAN}") is None:
            failed.remove(f"{queue_id}.json", sync=False)  # a pickup file was being refused: it is still there
    _finish_refusals(reader, directory / "pickup", (one for one in failed_records if one in given_up or one in left))
    keyed: list[tuple[str, str]] = []
    for queue_id in queue_records:
        if queue_id in dropped or queue_id in sent:
            continue
        if queue_id not in queued and queue_id not in arrived:
            if queue_id not in unclear:
                # Either a claim that did not get to its rename (the file still stands in the pickup folder, with its
                # sidecar) or a message whose removal was cut short. Both times the record means nothing.
                queue.remove(f"{queue_id}.json", sync=False)
            continue
        try:
            entry = reader.record(queue_id)
        except (RecordError, OSError) as error:
            tell(queue_id, str(error))
            continue
        if queue_id in unclear:
            tell(queue_id, "it has a record in failed/ too, and that one cannot be used")
        elif entry is not None:
            if entry.claim is not None:
                _finish_claim(directory / "pickup", entry.claim)
            if entry.key:
                keyed.append((entry.key, queue_id))
            tell(queue_id, entry)
    queue.sync()
    failed.sync()
    for key, queue_id in keyed:  # last: a key stands for a message that is here for good
        _finish_key(keys, key, queue_id, now)
    return Found(queued.without(queue_records, left | sent.keys()), newest, sent)


def _finish_completions(queue: durable.Folder, directory: Path) -> dict[str, int]:
    """What was sent and recorded goes, before anything else is made of it; the inodes of those that could not.

    The journal stays, and says it again.
    """
    stuck: dict[str, int] = {}
    for queue_id, inode in recorded_in(directory).items():
        if still_there(queue, queue_id, inode):
            try:
                queue.remove(f"{queue_id}.eml", sync=False)
            except OSError:  # whoever goes on removing says so
                stuck[queue_id] = inode
    queue.sync()  # only then may its record go: the message alone would be due
    return stuck


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


def _finish_refusals(reader: Reader, pickup: Path, refused: Iterable[str]) -> None:
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
