"""What was sent: recorded at once, many messages in one go, and removed behind that.

A completion is on disk once a slot of SPOOL/journal names the message and its inode. The file itself goes a moment
later, with others, and only then is the slot free again; in between the message is gone for everybody (`in`). Whoever
starts next removes what the slots name, where the inode still is that one, before anything else (`repair`). So nothing
that was recorded is sent again, and nothing else is removed. Where a full disk has no room for a record, the removal
itself comes first, and makes room.

Inodes are those of this file system: a spool that is copied elsewhere *after a crash* may send again what was recorded
in its last fraction of a second. After an orderly end the journal is empty.
"""

from __future__ import annotations

import asyncio
import errno
import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

from mailrelayd import durable
from mailrelayd.outbound import journal
from mailrelayd.outbound.moves import Claims, Report

BATCH = 64  # messages removed in one go, if so many come
LINGER = 0.05  # seconds for which the first of them waits for others
PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds between two tries to remove what cannot be removed
FULL = (errno.ENOSPC, errno.EDQUOT)
GONE = -1  # in place of a slot: it was removed without one


@dataclass(slots=True, eq=False)
class Sent:
    """One message that was sent to everybody."""

    queue_id: str
    inode: int
    beside: bool  # whether a record stands beside it
    slot: int = 0  # 0: it is not recorded yet


@dataclass(frozen=True, slots=True)
class _Wish:
    done: Sequence[Sent]
    then: Callable[[], None]
    answer: asyncio.Future[None]

    def tell(self, error: BaseException | None) -> None:
        if error is None:
            self.then()
        if self.answer.done():
            return
        if error is None:
            self.answer.set_result(None)
        else:
            self.answer.set_exception(error)


class Completions:
    """Two threads: one records, the other removes. Both sleep while there is nothing to do."""

    def __init__(self, folder: durable.Folder, waiting: durable.Folder, claims: Claims, report: Report) -> None:
        """`folder` is the spool's, and `waiting` that of the messages. The journal before is left for `repair`."""
        self._folder = folder
        self._waiting = waiting
        self._claims = claims
        self._report = report
        self._wishes: queue.SimpleQueue[_Wish | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._writing = threading.Lock()  # held by whoever writes to the file
        self._file: durable.FixedFile | None = None  # None: the next record makes another one
        self._highest = 0  # slot that is not empty
        self._said_full = False  # that there is no room for a record
        self._changed = threading.Condition()  # guards all below
        self._recorded: dict[str, Sent] = {}  # and not removed
        self._next: list[Sent] = []  # to be removed
        self._stuck: list[Sent] = []  # could not be removed, and are tried again
        self._free = deque(range(1, journal.SLOTS))
        self._closing = False  # nobody waits for room any more
        self._ending = False  # nothing more comes
        self._broken: BaseException | None = None  # a bug: nothing is touched any more

    def __contains__(self, queue_id: object) -> bool:
        """Whether a message was sent, although its file may still be there. From any thread."""
        return queue_id in self._recorded

    def begin(self, left: Mapping[str, int]) -> None:
        """Let the journal name what `repair` has `left` (inodes by id), nearly always nothing.

        Trouble with that is said, and met by the first record. The file of before is used again, as a full disk may not
        have room for another one; but what is left must never be missing in between.
        """
        for queue_id, inode in left.items():
            self._stuck.append(Sent(queue_id, inode, beside=True, slot=self._free.popleft()))
        self._recorded = {one.queue_id: one for one in self._stuck}
        self._highest = len(left)
        try:
            self._folder.sweep()
            with suppress(FileNotFoundError):
                self._file = durable.FixedFile(self._folder, journal.NAME)
            if left or self._file is None or self._file.size != journal.SIZE:
                self._renew([])
            else:
                self._file.write(0, journal.whole([]))
                self._file.sync()
        except OSError as error:
            self._drop_file()
            self._report.trouble("begin the journal", error)
        if left:
            self._start()

    async def record(self, done: Sequence[Sent], then: Callable[[], None]) -> None:
        """On disk when this returns. `then` is called in the event loop, even where the caller was cancelled.

        Raises OSError: then it is not known what is on disk. Asked again with the same values, it goes on from there.
        """
        if not self._threads:
            self._start()
        answer = asyncio.get_running_loop().create_future()
        self._wishes.put(_Wish(done, then, answer))
        await answer

    def _start(self) -> None:
        for name, work in (("record", self._record_all), ("remove", self._remove_all)):
            self._threads.append(threading.Thread(target=work, name=name, daemon=True))
            self._threads[-1].start()

    def close(self) -> None:
        """Finish what there is to do, and leave an empty journal. It blocks for the disk."""
        if self._threads:
            with self._changed:
                self._closing = True
                self._changed.notify_all()
            self._wishes.put(None)
            self._threads[0].join()
            with self._changed:
                self._ending = True
                self._changed.notify_all()
            self._threads[1].join()
            self._threads.clear()
        if self._file is not None and not self._recorded and self._broken is None:
            with suppress(OSError):
                self._file.write(0, journal.whole([]))
                self._file.sync()
        self._drop_file()
        self._folder.close()

    # -- recording ---------------------------------------------------------------------------------------------

    def _record_all(self) -> None:
        ending = False
        while not ending:
            wishes: list[_Wish] = []
            one = self._wishes.get()
            while one is not None:
                wishes.append(one)
                try:
                    one = self._wishes.get_nowait()
                except queue.Empty:
                    break
            ending = one is None
            error: BaseException | None = None
            try:
                if self._broken is not None:
                    raise self._broken
                self._record([done for wish in wishes for done in wish.done if not done.slot])
            except OSError as trouble:
                error = trouble
            except BaseException as bug:  # noqa: BLE001 - the event loop is told, and ends the process
                error = self._broken = bug
            if wishes:
                with suppress(RuntimeError):  # the loop has ended
                    wishes[0].answer.get_loop().call_soon_threadsafe(_tell, wishes, error)

    def _record(self, done: Sequence[Sent]) -> None:
        """Nothing is recorded before its claim is on disk: else a power cut could bring it back under another name."""
        self._claims.sync(one.queue_id for one in done)
        while done:
            slots = self._room(len(done))
            some, done = done[: len(slots)], done[len(slots) :]
            try:
                with self._writing:
                    self._write(list(zip(slots, some, strict=True)))
            except BaseException as error:
                with self._changed:
                    self._free.extendleft(reversed(slots))
                if not isinstance(error, OSError) or error.errno not in FULL:
                    raise
                if not self._said_full:
                    self._said_full = True
                    self._report.trouble("record", error)
                self._remove_at_once(some)
                continue
            self._said_full = False
            with self._changed:
                for slot, one in zip(slots, some, strict=True):
                    one.slot = slot
                    self._recorded[one.queue_id] = one
                before = len(self._next)
                self._next += some
                if not before or before < BATCH <= len(self._next):  # else the other thread knows
                    self._changed.notify_all()

    def _remove_at_once(self, done: Sequence[Sent]) -> None:
        """Without a record: the queue may be what fills the disk, and must not wait for room."""
        for one in done:
            self._waiting.remove(f"{one.queue_id}.eml", sync=False)
        self._waiting.sync()
        for one in done:
            if one.beside:
                self._waiting.remove(f"{one.queue_id}.json", sync=False)
            one.slot = GONE

    def _room(self, wanted: int) -> list[int]:
        """Free slots, at most so many and at least one: while there is none, what is removed lags too far behind."""
        with self._changed:
            while not self._free:
                if self._broken is not None:
                    raise self._broken
                if self._closing:
                    raise OSError(errno.EBUSY, "nothing can be removed, and the journal is full")
                self._changed.notify_all()
                self._changed.wait()
            return [self._free.popleft() for _ in range(min(wanted, len(self._free)))]

    def _write(self, filled: list[tuple[int, Sent]]) -> None:
        slots = [(number, journal.encode(one.queue_id, one.inode)) for number, one in filled]
        self._highest = max(self._highest, *(number for number, _ in slots))
        if self._file is None:
            self._renew(slots)
            return
        try:
            start = 0
            for at, (one, other) in enumerate(pairwise([*slots, (0, b"")]), 1):
                if other[0] != one[0] + 1:  # the end of a run
                    self._file.write(slots[start][0] * journal.SLOT, b"".join(slot for _, slot in slots[start:at]))
                    start = at
            self._file.sync()
        except BaseException:
            # The kernel may call these pages clean although they are not on disk: no later sync of them is believed.
            self._drop_file()
            raise

    def _renew(self, slots: list[tuple[int, bytes]]) -> None:
        """Another file, with all that is recorded and these."""
        self._drop_file()
        with self._changed:
            recorded = list(self._recorded.values())
        slots += [(one.slot, journal.encode(one.queue_id, one.inode)) for one in recorded]
        self._folder.write(journal.NAME, journal.whole(slots))
        self._file = durable.FixedFile(self._folder, journal.NAME)

    def _drop_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    # -- removing ----------------------------------------------------------------------------------------------

    def _remove_all(self) -> None:
        pause, ending = PAUSE, False
        try:
            while not ending:
                batch, ending = self._batch(pause)
                trouble = self._remove(batch) if batch else None
                if trouble is None:
                    pause = PAUSE
                    self._wipe()
                else:
                    self._report.trouble(f"remove {trouble.filename}" if trouble.filename else "remove", trouble)
                    pause = min(pause * 2, LONGEST_PAUSE)
        except BaseException as bug:  # noqa: BLE001 - the next record tells the event loop, which ends the process
            with self._changed:
                self._broken = bug
                self._changed.notify_all()

    def _batch(self, pause: float) -> tuple[list[Sent], bool]:
        """What to remove next, and whether that was all. What is stuck comes again when nothing did for `pause`."""
        with self._changed:
            self._changed.wait_for(lambda: self._next or self._ending, pause if self._stuck else None)
            if self._next:
                self._changed.wait_for(lambda: len(self._next) >= BATCH or not self._free or self._ending, LINGER)
            if self._broken is not None:
                raise self._broken
            batch, self._next = self._next, []
            if not batch or self._ending:
                batch, self._stuck = batch + self._stuck, []
            return batch, self._ending

    def _remove(self, batch: list[Sent]) -> OSError | None:
        """ID.eml first, then ID.json, so that no state says "send it again"; the trouble with those that are left."""
        trouble: OSError | None = None
        removed: list[Sent] = []
        for one in batch:
            try:
                self._waiting.remove(f"{one.queue_id}.eml", sync=False)
                removed.append(one)
            except OSError as error:
                trouble = error
        try:
            self._waiting.sync()
        except OSError as error:
            trouble, removed = error, []
        gone: list[Sent] = []
        for one in removed:
            try:
                if one.beside:
                    self._waiting.remove(f"{one.queue_id}.json", sync=False)
                gone.append(one)
            except OSError as error:
                trouble = error
        with self._changed:
            for one in gone:
                del self._recorded[one.queue_id]
                self._free.append(one.slot)
            self._stuck += (one for one in batch if one.queue_id in self._recorded)
            self._changed.notify_all()
        return trouble

    def _wipe(self) -> None:
        """Where nothing is recorded any more the journal says so, and begins again at the front.

        Without a sync: a slot whose message is gone does no harm, unless somebody puts back a file of the same name.
        """
        if not self._writing.acquire(blocking=False):
            return
        try:
            with self._changed:
                if self._file is None or len(self._free) < journal.SLOTS - 1:
                    return
                self._free = deque(range(1, journal.SLOTS))
            self._file.write(journal.SLOT, journal.EMPTY * self._highest)
            self._highest = 0
        except OSError as error:
            self._report.trouble("empty the journal", error)
        finally:
            self._writing.release()


def _tell(wishes: list[_Wish], error: BaseException | None) -> None:
    for wish in wishes:
        wish.tell(error)
