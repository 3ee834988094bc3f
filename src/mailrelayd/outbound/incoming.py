"""How messages get into the queue: claimed from a pickup folder, or handed in piece by piece.

`take`, `refuse` and `drop` run in the pickup's thread, one at a time; `begin` in any; `place` in the spool's.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from mailrelayd import durable
from mailrelayd.clock import Clock
from mailrelayd.outbound import queueid, record
from mailrelayd.outbound.keys import Keys
from mailrelayd.outbound.moves import Moves
from mailrelayd.outbound.openings import Openings
from mailrelayd.outbound.record import Claim, Record
from mailrelayd.outbound.repair import keep_sidecar, remove_sidecar
from mailrelayd.outbound.stored import ORPHAN, stamp_of
from mailrelayd.outbound.values import Envelope, Progress, QueuedMessage

PLAIN_RULES = frozenset({"headers", "resent"})  # the header tells the same envelope again
GROUP = 64  # messages that are placed in one go, if so many have lined up


class DuplicateError(Exception):
    """Another message with the same idempotency key came in between; nothing has happened."""

    def __init__(self, queue_id: str) -> None:
        super().__init__(f"the same message came as {queue_id}")
        self.queue_id = queue_id


class Incoming:
    """The bytes of a message that is being handed in. Nobody's, and swept at the next start, until it is taken."""

    def __init__(self, folder: durable.Folder) -> None:
        """Raises OSError."""
        self._folder = folder
        self.name = f"{durable.TEMPORARY}{secrets.token_hex(8)}"
        self.fd = folder.create(self.name)

    def write(self, data: bytes) -> None:
        """Add to it. Raises OSError."""
        durable.write_all(self.fd, data)

    def sync(self) -> None:
        """Make the bytes durable. Raises OSError."""
        durable.sync_file(self.fd)

    def discard(self) -> None:
        """Throw it away; nothing happens where that was done or it was taken."""
        if self.close():
            with suppress(OSError):
                self._folder.remove(self.name, sync=False)

    def close(self) -> bool:
        """Nothing more comes; False where that was known."""
        descriptor, self.fd = self.fd, -1  # at once: two threads must not close one number twice
        if descriptor >= 0:
            os.close(descriptor)
        return descriptor >= 0


@dataclass(slots=True, eq=False)
class HandedIn:
    """A message that waits to be placed, and what became of it."""

    incoming: Incoming
    message: QueuedMessage
    queue_id: str = ""  # under which it, or an earlier one with its key, was taken
    error: BaseException | None = None  # why it was not


class Entrance:
    """Gives out queue ids, and puts what comes in where it belongs."""

    def __init__(
        self, moves: Moves, keys: Keys, openings: Openings, lock: durable.Lock, node: str, clock: Clock
    ) -> None:
        reserved = lock.read()
        self.ids = queueid.Sequence(node, last=reserved, reserved=reserved)
        self._moves = moves
        self._queue, self._failed = moves.queue, moves.failed
        self._keys = keys
        self._openings = openings
        self._lock = lock
        self._clock = clock
        self._one_id = threading.Lock()
        self._one_key = threading.Lock()  # between the question whether a key was seen and its taking
        self._line: deque[HandedIn] = deque()

    def new_id(self) -> str:
        """A queue id that was never given out before. Raises OSError where that cannot be made sure."""
        with self._one_id:
            queue_id, reserve = self.ids.take(self._clock.now())
            if reserve is not None:
                self._lock.write(reserve)
                self.ids.reserved = reserve
            return queue_id

    def seen(self, key: str) -> str | None:
        """The queue id that took this idempotency key (`keys.digest`) within 24 hours. Raises OSError."""
        return self._keys.seen(key, self._clock.now())

    # -- from a pickup folder --------------------------------------------------------------------------------

    def take(
        self,
        folder: durable.Folder,
        name: str,
        message: QueuedMessage,
        *,
        sidecar: Claim | None = None,
        write_down: bool = False,
        stamp: tuple[int, int, int] | None = None,
    ) -> tuple[int, int, int] | None:
        """Claim a file. Raises OSError, DuplicateError; then it stands where it stood.

        `write_down`: the envelope must not be read from the header again, whatever its rule.
        `stamp` is what it looked like when it was read, where its producer may still hold it open; the answer
        is what it must look like from now on.

        Nothing is written beside a message whose envelope its headers tell: one rename, made durable before
        anything that depends on it (`Moves.sync_claims`). Until then a power cut leaves it in one of the folders.
        """
        queue_id = message.queue_id
        entry: Record | None = None
        if (
            write_down
            or message.rule not in PLAIN_RULES
            or message.progress.not_before
            or message.key
            or message.copies
        ):
            entry = replace(record.of(message, message.progress), claim=sidecar)
        with self._one_key:
            if message.key and (earlier := self.seen(message.key)):
                raise DuplicateError(earlier)
            self._moves.into(self._queue, f"{queue_id}.eml", folder, name, entry)
            self._check_regular(queue_id, name)
            # From here on it is ours, whatever the disk says.
            if message.key:
                self._keys.remember(message.key, queue_id, self._clock.now())
        there = None
        with self._moves.said("claim"):
            if sidecar is not None or message.key or message.copies:
                # Gone from the pickup folder for good first: without its sidecar it would be another message, with
                # its key written down it would be a duplicate of itself, and its request must not be opened twice.
                self._queue.sync()
                folder.sync()
            if message.key:
                self._keys.write(message.key)
            if sidecar is not None:
                remove_sidecar(folder, sidecar)
            self._openings.open(message)
            there = self._queue.stat(f"{queue_id}.eml") if stamp else None
        if stamp is None or there is None:
            return None
        # The rename itself sets the ctime; anything else that differs was the producer.
        return stamp_of(there) if stamp_of(there)[:2] == stamp[:2] else stamp

    def _check_regular(self, queue_id: str, name: str) -> None:
        """Raises NotRegularError where the name was given to something else after it was looked at.

        That is removed: a link, a FIFO or a socket holds nothing that could be lost, and here it would stay for ever.
        A folder cannot be renamed by anybody but its owner.
        """
        figures = None
        with self._moves.said("look at a claimed file"):  # whoever opens it looks again
            figures = self._queue.stat(f"{queue_id}.eml")
        if figures is not None and not stat.S_ISREG(figures.st_mode):
            self._moves.delete(self._queue, [queue_id])
            raise durable.NotRegularError(errno.EINVAL, "was replaced by what is no regular file", name)

    def refuse(
        self,
        folder: durable.Folder,
        name: str,
        *,
        detail: str,
        sidecar: Claim | None = None,
        orphan: bool = False,
        producer: str = "",
        uid: int | None = None,
    ) -> str:
        """Put a pickup file that can never be sent into failed/, with the reason beside it; its queue id.

        Its sidecar comes with it; `orphan`: the file itself is one. Raises OSError; then it stands where it stood.
        """
        queue_id = self.new_id()
        progress = Progress(min(queueid.arrived_at(queue_id), self._clock.now()))
        message = QueuedMessage(
            queue_id, Envelope("", ()), progress, rule="unreadable", file=name, producer=producer, uid=uid
        )
        entry = replace(record.of(message, progress, reason="unreadable"), envelope=None, detail=detail, claim=sidecar)
        self._into_failed(folder, name, entry, orphan=orphan)
        if not orphan:
            self._moves.tell(entry, "refused")
        return queue_id

    def drop(
        self,
        folder: durable.Folder,
        name: str,
        sidecar: Claim | None,
        *,
        inode: int | None = None,
        queue_id: str = "",
        producer: str = "",
        uid: int | None = None,
    ) -> None:
        """Remove a duplicate of `queue_id` from a pickup folder; a file that took its name since stays.

        By way of failed/: cut short, message and sidecar are found there together, and neither speaks for another.
        Raises OSError; then it stands where it stood.
        """
        there = folder.stat(name)
        if there is None or there.st_ino != (inode or there.st_ino):
            return
        own_id = self.new_id()
        progress = Progress(min(queueid.arrived_at(own_id), self._clock.now()))
        message = QueuedMessage(
            own_id, Envelope("", ()), progress, rule="unreadable", file=name, producer=producer, uid=uid
        )
        entry = replace(
            record.of(message, progress, reason="duplicate"),
            envelope=None,
            detail=f"the same message came as {queue_id}",
            claim=sidecar,
        )
        if not self._into_failed(folder, name, entry):
            return
        with self._moves.said("remove a duplicate"):
            moved = self._failed.stat(f"{own_id}.eml")
            if moved is not None and moved.st_ino == there.st_ino:  # else somebody was quicker: a person looks
                self._moves.tell(replace(entry, queue_id=queue_id), "duplicate")
                self._moves.delete(self._failed, [own_id])

    def _into_failed(self, folder: durable.Folder, name: str, entry: Record, *, orphan: bool = False) -> bool:
        """With its sidecar: whether all of it is there. Raises OSError; then it stands where it stood."""
        queue_id = entry.queue_id
        self._moves.into(self._failed, queue_id + (ORPHAN if orphan else ".eml"), folder, name, entry)
        with self._moves.said("refuse"):
            self._failed.sync()
            folder.sync()
            if entry.claim is not None:
                keep_sidecar(folder, entry.claim, self._failed, queue_id)
            return True
        return False

    # -- piece by piece --------------------------------------------------------------------------------------

    def begin(self) -> Incoming:
        """Begin to hand a message in. Raises OSError."""
        return Incoming(self._queue)

    def line_up(self, incoming: Incoming, message: QueuedMessage) -> HandedIn:
        """A message whose bytes are on disk (`Incoming.sync`) waits to be placed. From any thread."""
        one = HandedIn(incoming, message)
        self._line.append(one)
        return one

    def place(self, one: HandedIn) -> str:
        """Take it, durably; the queue id, or that of an earlier message with the same key.

        All that have lined up by now are taken with it and share the syncs. Raises OSError; then nothing was taken.
        """
        while not one.queue_id and one.error is None:
            group = self._group()
            try:
                self._place(group)
            except BaseException as bug:
                for other in group:
                    other.error = bug
                raise
        if one.error is not None:
            raise one.error
        return one.queue_id

    def _group(self) -> list[HandedIn]:
        """The first in line, as many as have different keys: who comes second has to know what became of the first."""
        group: list[HandedIn] = []
        taken: set[str] = set()
        while self._line and len(group) < GROUP and self._line[0].message.key not in taken:
            one = self._line.popleft()
            group.append(one)
            if one.message.key:
                taken.add(one.message.key)
        return group

    def _place(self, group: Sequence[HandedIn]) -> None:
        """Record, then message, then key: each for all of them before the next."""
        with self._one_key:
            fresh = [one for one in group if not self._is_known(one)]
            if fresh:
                self._into_queue(fresh)
            for one in fresh:
                try:
                    if one.error is None and one.message.key:
                        self._keys.remember(one.message.key, one.message.queue_id, self._clock.now())
                        self._keys.write(one.message.key)
                except OSError as error:
                    one.error = error
                if one.error is not None:
                    self._undo(one)
        for one in fresh:
            if one.error is None:
                one.incoming.close()
                self._openings.open(one.message)
                one.queue_id = one.message.queue_id

    def _is_known(self, one: HandedIn) -> bool:
        """Whether it is done with: its key was seen before, or nobody can tell."""
        try:
            one.queue_id = (one.message.key and self.seen(one.message.key)) or ""
        except OSError as error:
            one.error = error
        known = bool(one.queue_id) or one.error is not None
        if known:
            one.incoming.discard()
        return known

    def _into_queue(self, group: Sequence[HandedIn]) -> None:
        ids = {f"{one.message.queue_id}.json": one for one in group}
        try:
            files = {name: record.encode(record.of(one.message, one.message.progress)) for name, one in ids.items()}
            for name, error in self._queue.write_many(files).items():
                ids.pop(name).error = error
            for one in ids.values():
                try:
                    self._queue.move(one.incoming.name, self._queue, f"{one.message.queue_id}.eml", sync=False)
                except OSError as error:
                    one.error = error
            self._queue.sync()
        except OSError as error:
            for one in ids.values():
                one.error = error

    def _undo(self, one: HandedIn) -> None:
        one.incoming.discard()
        with suppress(OSError):
            self._keys.give_back(one.message.key)
        for ending in (".eml", ".json"):
            with suppress(OSError):
                self._queue.remove(one.message.queue_id + ending)
