"""The directory behind the queue. Which files exist *is* the state; memory holds hints only.

    queue/ID.eml                    due now
    queue/ID.eml + queue/ID.json    deferred, held, partly sent, or an envelope that the headers do not tell
    failed/ID.eml + failed/ID.json  given up: a person looks

A record's higher `revision` says where its message belongs, so every crash between two steps is finished at
the next start. The full table stands in `mailrelayd/__init__.py`; `tests/test_spool.py` has a test per row.
"""

from __future__ import annotations

import asyncio
import heapq
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

from mailrelayd import durable
from mailrelayd.clock import Clock
from mailrelayd.outbound import delivery, queueid, record
from mailrelayd.outbound.headers import Unreadable
from mailrelayd.outbound.queue import Entry, Figures, Place, Verb
from mailrelayd.outbound.record import Claim, Record, RecordError
from mailrelayd.outbound.repair import keep_sidecar, remove_sidecar, repair
from mailrelayd.outbound.stored import ORPHAN, FileSource, Reader, Reading, stamp_of
from mailrelayd.outbound.values import Progress, QueuedMessage

T = TypeVar("T")

LONGEST_PAUSE = 30.0  # seconds between two tries to write what must be written
QUICK = 1 << 16  # bytes; what is not larger is read without asking a thread
HELD = float("inf")
LONGEST_WAIT = 86400.0  # seconds; a wall clock that was set back must not park mail for longer
FOREVER = 366 * 86400.0
PLAIN_RULES = frozenset({"headers", "resent"})  # the header tells the same envelope again


class _StaysError(Exception):
    """An operator's wish does not apply; nothing has changed."""


class SpoolError(Exception):
    """The folders cannot be used; the text says which and what to do."""


class Report(Protocol):
    """Who is told about what nobody asked for."""

    def trouble(self, doing: str, error: OSError) -> None:
        """A write failed and is being repeated."""

    def unreadable(self, queue_id: str, reason: str) -> None:
        """A queued file could no longer be understood and was failed."""


class Spool:
    """The Queue of one machine: `outbound.queue.Queue` says what each call promises."""

    def __init__(self, directory: Path, *, node: str, clock: Clock, report: Report) -> None:
        """Open the folders and take the lock. Raises SpoolError, durable.LockedError."""
        self.directory = directory
        self.keep_sent = 0.0  # seconds; [spool] keep_sent
        self.strict_order = False  # nothing overtakes a deferred message
        self._clock = clock
        self._report = report
        try:
            for name in ("queue", "failed", "sent"):
                durable.make_folder(directory / name, 0o700)
            root = durable.Folder(directory)
            try:
                self._lock = durable.Lock(root, "lock")
            finally:
                root.close()
            self._reader = Reader(directory, Reading())
            self._sent = durable.Folder(directory / "sent")
        except OSError as error:
            raise SpoolError(f"{error.filename or directory}: {error.strerror}; see [spool] directory") from error
        self._queue, self._failed = self._reader.queue, self._reader.failed
        # One thread: what is settled first is on disk first, and the event loop never waits for the disk.
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="disk")
        reserved = self._lock.read()
        self._ids = queueid.Sequence(node, last=reserved, reserved=reserved)
        self._known: dict[str, float] = {}  # waiting, not in flight -> due on clock.monotonic(); 0: now; HELD
        self._ready: list[str] = []  # heap; an entry counts while _known says 0
        self._later: list[tuple[float, str]] = []  # heap; an entry counts while _known agrees
        self._wishes: set[str] = set()  # waiting because their producer asked for it, not because they were refused
        self._in_flight: dict[str, QueuedMessage] = {}
        self._stamps: dict[str, tuple[int, int, int]] = {}  # of files whose producer may still hold them open
        self._unsynced: set[Path] = set()  # pickup folders out of which files were renamed
        self._news = asyncio.Event()

    def close(self) -> None:
        """Let go of the spool, and of every claim."""
        self._disk.shutdown(wait=True)
        self._reader.close()
        self._sent.close()
        self._lock.close()

    def set_reading(self, reading: Reading) -> None:
        """How the envelope is read of files whose record does not say it."""
        self._reader.reading = reading

    # -- start ---------------------------------------------------------------------------------------------------

    async def open_up(self) -> None:
        """Finish what a crash left undone, then learn what is there. Raises OSError."""
        await self._in_thread(self._learn)

    def _learn(self) -> None:
        found = repair(self._reader, self._sent, self.directory)
        now, mono = self._clock.now(), self._clock.monotonic()
        for queue_id, entry in found.records.items():
            if isinstance(entry, str):  # a newer or a damaged record is not guessed: the message is kept, not tried
                self._report.trouble(f"read {queue_id}", OSError(0, entry))
                self._known[queue_id] = HELD
            else:
                self._known[queue_id] = HELD if entry.hold else self._when_due(entry.progress, now, mono)
                if not entry.progress.recipients:
                    self._wishes.add(queue_id)
        self._known.update(dict.fromkeys(found.plain, 0.0))
        self._ready = sorted(i for i, due in self._known.items() if due == 0.0)
        self._later = [(due, i) for i, due in self._known.items() if 0.0 < due < HELD]
        heapq.heapify(self._later)
        self._ids.last = max(self._ids.last, found.newest)

    def _when_due(self, progress: Progress, now: float, mono: float) -> float:
        """When a message is due, on the clock that nobody can set; 0: now."""
        waits = [r.next_attempt for r in progress.recipients.values() if r.next_attempt]
        wait = min(min(waits) - now, LONGEST_WAIT) if waits else 0.0
        wait = max(wait, min(progress.not_before - now, FOREVER))
        return mono + wait if wait > 0 else 0.0

    # -- what comes from the pickup folder -------------------------------------------------------------------
    # `take` and `refuse` run in the pickup's thread, one at a time; `arrived` runs in the event loop.

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
        """Claim a file. Raises OSError; then it stands where it stood.

        `write_down`: the envelope must not be read from the header again, whatever its rule.
        `stamp` is what it looked like when it was read, where its producer may still hold it open; the answer
        is what it must look like from now on.

        Nothing is written beside a message whose envelope its headers tell: one rename, made durable before
        anything that depends on it (`_sync_claims`). Until then a power cut leaves it in one of the folders.
        """
        queue_id = message.queue_id
        entry: Record | None = None
        if write_down or message.rule not in PLAIN_RULES or message.progress.not_before:
            entry = replace(_record(message, message.progress), claim=sidecar)
        self._move_in(folder, name, self._queue, f"{queue_id}.eml", entry)
        # From here on it is ours, whatever the disk says.
        self._unsynced.add(folder.path)
        there = None
        with self._said("claim"):
            if sidecar is not None:
                # Gone from the pickup folder for good first: without its sidecar it would be another message.
                self._queue.sync()
                folder.sync()
                remove_sidecar(folder, sidecar)
            there = self._queue.stat(f"{queue_id}.eml") if stamp else None
        if stamp is None or there is None:
            return None
        # The rename itself sets the ctime; anything else that differs was the producer.
        return stamp_of(there) if stamp_of(there)[:2] == stamp[:2] else stamp

    @staticmethod
    def _move_in(folder: durable.Folder, name: str, target: durable.Folder, new: str, entry: Record | None) -> None:
        """Record first, then the file. Raises OSError; then nothing has happened."""
        beside = f"{entry.queue_id}.json" if entry else ""
        try:
            if entry is not None:
                target.write(beside, record.encode(entry))
            folder.move(name, target, new, sync=False)
        except OSError:
            if entry is not None:
                with suppress(OSError):  # without its message it means nothing: swept at the next start
                    target.remove(beside, sync=False)
            raise

    @contextmanager
    def _said(self, doing: str) -> Iterator[None]:
        """Trouble after the rename, which cannot be taken back, is said and not raised."""
        try:
            yield
        except OSError as error:
            self._report.trouble(doing, error)

    def refuse(
        self, folder: durable.Folder, name: str, *, detail: str, sidecar: Claim | None = None, orphan: bool = False
    ) -> str:
        """Put a pickup file that can never be sent into failed/, with the reason beside it; its queue id.

        Its sidecar comes with it; `orphan`: the file itself is one. Raises OSError; then it stands where it stood.
        """
        queue_id = self.new_id()
        progress = Progress(min(queueid.arrived_at(queue_id), self._clock.now()))
        entry = Record(
            queue_id, 1, "unreadable", None, progress, reason="unreadable", detail=detail, file=name, claim=sidecar
        )
        self._move_in(folder, name, self._failed, queue_id + (ORPHAN if orphan else ".eml"), entry)
        with self._said("refuse"):
            self._failed.sync()
            folder.sync()
            if sidecar is not None:
                keep_sidecar(folder, sidecar, self._failed, queue_id)
        return queue_id

    def new_id(self) -> str:
        """A queue id that was never given out before. Raises OSError where that cannot be made sure."""
        queue_id, reserve = self._ids.take(self._clock.now())
        if reserve is not None:
            self._lock.write(reserve)
            self._ids.reserved = reserve
        return queue_id

    def arrived(self, message: QueuedMessage, stamp: tuple[int, int, int] | None = None) -> None:
        """A claimed file is now in the queue. `stamp`: what it looked like, if its producer may still write."""
        if stamp is not None:
            self._stamps[message.queue_id] = stamp
        self._put_by(message.queue_id, message.progress)

    async def sync_claims(self) -> None:
        """Make every claim durable: the pickup folders are about to be closed. Raises OSError."""
        await self._in_thread(self._sync_claims)

    def _sync_claims(self) -> None:
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

    # -- claims ------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Let everyone who waits look again: a stop event was set."""
        self._news.set()

    async def wait_due(self, stop: asyncio.Event, *, at_least: int = 1, patience: float = 30.0) -> bool:
        """Wait until so many messages are due (True), `stop` is set, or so many seconds passed (False)."""
        until = self._clock.monotonic() + patience
        while not stop.is_set():
            self._promote()
            if self._are_due(at_least) and not self._must_wait():
                return True
            left = until - self._clock.monotonic()
            if left <= 0 or not await self._wait(left):
                return False
        return False

    async def due(self, stop: asyncio.Event, *, idle: float = 0.0) -> AsyncGenerator[QueuedMessage, None]:
        """Claim what is due, lowest queue id first; ends when for `idle` seconds nothing was, or at `stop`."""
        until = self._clock.monotonic() + idle
        while not stop.is_set():
            self._promote()
            if self._ready and not self._must_wait():
                queue_id = heapq.heappop(self._ready)
                del self._known[queue_id]
                try:
                    message = await self._load(queue_id)
                except BaseException:
                    self._put(queue_id, 0.0)  # cancelled while the disk was full: somebody else looks at it again
                    raise
                if message is not None:
                    self._in_flight[queue_id] = message
                    yield message
                    until = self._clock.monotonic() + idle
                continue
            left = until - self._clock.monotonic()
            if left <= 0:
                return
            await self._wait(left)

    def _promote(self) -> None:
        """Make ready whose time has come, and drop entries that no longer count."""
        mono = self._clock.monotonic()
        while self._later and (self._later[0][0] <= mono or self._known.get(self._later[0][1]) != self._later[0][0]):
            due, queue_id = heapq.heappop(self._later)
            if self._known.get(queue_id) == due:
                self._put(queue_id, 0.0)
        while self._ready and self._known.get(self._ready[0]) != 0.0:
            heapq.heappop(self._ready)

    def _are_due(self, at_least: int) -> bool:
        # After `_promote` the first of the heap counts; behind it may be some that no longer do.
        if at_least == 1 or len(self._ready) < at_least:
            return len(self._ready) >= at_least
        return sum(1 for due in self._known.values() if due == 0.0) >= at_least

    def _must_wait(self) -> bool:
        """With strict order, whether an older message is deferred; not_before holds up nobody else."""
        return self.strict_order and any(
            i < self._ready[0] and i not in self._wishes for due, i in self._later if self._known.get(i) == due
        )

    async def _wait(self, seconds: float) -> bool:
        """Wait for news, the next message's time, or so many seconds; False when it was only the seconds."""
        next_due = max(self._later[0][0] - self._clock.monotonic(), 0.0) if self._later else seconds
        wait = min(seconds, next_due)
        self._news.clear()
        return await self._clock.wait(self._news, wait) or wait < seconds

    async def _load(self, queue_id: str) -> QueuedMessage | None:
        """The message, or None where it is gone, held, not due after all, or could not be understood."""
        try:
            known = self._reader.record(queue_id)
            if known is not None and known.hold:
                self._known[queue_id] = HELD
                return None
            if known is not None:
                due = self._when_due(known.progress, self._clock.now(), self._clock.monotonic())
                if due:
                    self._put_by(queue_id, known.progress)
                    return None
            message = await self._read(queue_id, known)
        except FileNotFoundError:
            return None
        except (RecordError, durable.NotRegularError, PermissionError) as error:
            trouble = error if isinstance(error, OSError) else OSError(0, str(error))
            self._report.trouble(f"read {queue_id}", trouble)
            # Kept, not guessed; an operator's `queue retry` reads it again.
            self._known[queue_id] = HELD
            return None
        except OSError as error:  # too many open files, a disk that hiccups: over some time later
            self._report.trouble(f"read {queue_id}", error)
            self._put(queue_id, self._clock.monotonic() + LONGEST_PAUSE)
            return None
        if isinstance(message, Unreadable):
            progress = Progress(queueid.arrived_at(queue_id))
            entry = Record(queue_id, 1, "unreadable", None, progress, reason="unreadable", detail=message.reason)
            await self._settle("fail", lambda: self._to_failed(entry))
            self._report.unreadable(queue_id, message.reason)
            return None
        return message

    async def _read(self, queue_id: str, known: Record | None) -> QueuedMessage | Unreadable:
        """A header full of hostile addresses takes up to a second to read: a large one is read in the background."""
        figures = self._queue.stat(f"{queue_id}.eml")
        if figures is None or figures.st_size <= QUICK or (known is not None and known.envelope is not None):
            return self._reader.message(queue_id, known)
        return await asyncio.to_thread(self._reader.message, queue_id, known)

    def open(self, message: QueuedMessage) -> FileSource:
        """The message's bytes. Raises OSError."""
        descriptor = self._queue.open(f"{message.queue_id}.eml")
        figures = os.fstat(descriptor)
        return FileSource(descriptor, self._stamps.get(message.queue_id) or stamp_of(figures), figures.st_uid)

    def _put_by(self, queue_id: str, progress: Progress) -> None:
        """Make an id wait as its progress says."""
        due = self._when_due(progress, self._clock.now(), self._clock.monotonic())
        if due and not progress.recipients:
            self._wishes.add(queue_id)
        self._put(queue_id, due)

    def _put(self, queue_id: str, due: float) -> None:
        """Make an id wait until `due` (0: it is ready)."""
        self._known[queue_id] = due
        if due == 0.0:
            heapq.heappush(self._ready, queue_id)
            self._news.set()
        elif due < HELD:
            heapq.heappush(self._later, (due, queue_id))
            self._news.set()

    # -- settling ----------------------------------------------------------------------------------------------

    async def complete(self, message: QueuedMessage, progress: Progress) -> None:
        """Every recipient was sent to: ID.eml first, then ID.json, so that no state says "send it again"."""
        eml, beside = f"{message.queue_id}.eml", f"{message.queue_id}.json"

        def remove() -> None:
            self._sync_claims()
            if self.keep_sent > 0:
                with suppress(FileNotFoundError):
                    self._queue.move(eml, self._sent, eml, sync=False)
                self._sent.sync()
            else:
                self._queue.remove(eml, sync=False)
            # Also where an earlier try got as far as the removal: until it is durable, a power cut sends again.
            self._queue.sync()
            if message.revision:
                self._queue.remove(beside, sync=False)  # alone it means nothing: swept at the next start

        await self._settle("remove", remove)
        self._leave(message.queue_id)

    async def defer(self, message: QueuedMessage, progress: Progress, at: float) -> None:
        """Remember what happened; due again at `at` (seconds since the epoch)."""
        entry = _record(message, progress)

        def write() -> None:
            self._sync_claims()
            self._queue.write(f"{message.queue_id}.json", record.encode(entry))

        await self._settle("defer", write)
        self._leave(message.queue_id)
        wait = min(at - self._clock.now(), LONGEST_WAIT)
        self._put(message.queue_id, self._clock.monotonic() + wait if wait > 0 else 0.0)

    async def fail(self, message: QueuedMessage, progress: Progress, reason: str) -> None:
        """Keep the message under failed/, with every recipient's reason."""
        entry = replace(_record(message, progress), reason=reason)
        await self._settle("fail", lambda: self._to_failed(entry))
        self._leave(message.queue_id)

    def _to_failed(self, entry: Record) -> None:
        """The record is the commit point: once it is in failed/, the next start finishes the rest."""
        self._sync_claims()
        self._failed.write(f"{entry.queue_id}.json", record.encode(entry))
        with suppress(FileNotFoundError):
            self._queue.move(f"{entry.queue_id}.eml", self._failed, f"{entry.queue_id}.eml", sync=False)
        self._failed.sync()
        self._queue.sync()
        self._queue.remove(f"{entry.queue_id}.json", sync=False)

    def release(self, message: QueuedMessage) -> None:
        """Give a claim back untouched: due again at once."""
        if self._in_flight.pop(message.queue_id, None) is not None:
            self._put(message.queue_id, 0.0)

    def _leave(self, queue_id: str) -> None:
        self._in_flight.pop(queue_id, None)
        self._wishes.discard(queue_id)
        self._stamps.pop(queue_id, None)

    async def _settle(self, doing: str, operation: Callable[[], T]) -> T:
        """Carry out what must not be left undone: a full or failing disk is waited for, loudly.

        Giving up here would mean sending again what was sent. Nothing else enters the window meanwhile.
        """
        pause = 1.0
        while True:
            try:
                return await self._in_thread(operation)
            except OSError as error:
                self._report.trouble(doing, error)
                await self._clock.wait(asyncio.Event(), pause)
                pause = min(pause * 2, LONGEST_PAUSE)

    async def _in_thread(self, operation: Callable[[], T]) -> T:
        # Shielded: a cancelled caller does not stop a write half-way, it only stops waiting for it.
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._disk, operation))

    # -- operators ---------------------------------------------------------------------------------------------

    async def change(self, verb: Verb, queue_ids: Iterable[str]) -> dict[str, str]:
        """Carry out an operator's wish; for each id "" or why not."""
        return {queue_id: await self._change(verb, queue_id) for queue_id in queue_ids}

    async def _change(self, verb: Verb, queue_id: str) -> str:
        if queue_id in self._in_flight:
            return "is being sent right now; try again in a moment"
        if queue_id in self._known:
            due = self._known.pop(queue_id)
            new_due: float | None = due
            try:
                new_due = await self._in_thread(lambda: self._change_waiting(verb, queue_id, due))
            except (OSError, RecordError, _StaysError) as error:
                return str(error)
            finally:
                if new_due is not None:
                    self._put(queue_id, new_due)
            return ""
        if not queueid.valid(queue_id) or not any(self._failed.stat(queue_id + end) for end in (".json", ".eml")):
            return "no such message"
        try:
            if verb is Verb.DELETE:
                await self._in_thread(lambda: self._delete(self._failed, queue_id))
                return ""
            if verb is Verb.RETRY:
                return await self._retry_failed(queue_id)
        except OSError as error:
            return str(error)
        return "has failed: only retry and delete apply"

    def _change_waiting(self, verb: Verb, queue_id: str, due: float) -> float | None:
        """Change the record of a waiting message; when it is due then, None: it is gone."""
        if verb is Verb.DELETE:
            self._delete(self._queue, queue_id)
            return None
        known = self._reader.record(queue_id)
        message = self._reader.message(queue_id, known)
        if isinstance(message, Unreadable):
            return 0.0  # the next look at it fails it, with the reason
        held = known is not None and known.hold
        if verb is Verb.HOLD:
            held, due = True, HELD
        elif verb is Verb.RELEASE:
            held = False
            due = self._when_due(message.progress, self._clock.now(), self._clock.monotonic())
        progress = message.progress
        if verb is Verb.RETRY and held:
            raise _StaysError("is on hold: release it first")
        if verb is Verb.RETRY:
            now = self._clock.now()
            records = {r: replace(o, next_attempt=now) if o.next_attempt else o for r, o in progress.recipients.items()}
            progress, due = replace(progress, recipients=records, not_before=0.0), 0.0
        if known is not None or held:
            entry = replace(_record(message, progress), hold=held)
            self._queue.write(f"{queue_id}.json", record.encode(entry))
        return due

    async def _retry_failed(self, queue_id: str) -> str:
        try:
            known = self._reader.record(queue_id, failed=True)
            message = self._reader.message(queue_id, known, failed=True)
        except FileNotFoundError:
            return "its file is missing"
        except RecordError as error:
            return str(error)
        if isinstance(message, Unreadable):
            return f"still cannot be sent: {message.reason}"
        # An operator is told at once that the disk is full, instead of waiting for it.
        await self._bring_back(queue_id, delivery.try_again(message.progress, self._clock.now()), self._in_thread)
        return ""

    async def bring_back(self, queue_id: str, progress: Progress) -> bool:
        """Undo `fail`: the new record first, then the file, then the old record."""
        return await self._bring_back(queue_id, progress, partial(self._settle, "retry"))

    async def _bring_back(
        self, queue_id: str, progress: Progress, carry_out: Callable[[Callable[[], bool]], Awaitable[bool]]
    ) -> bool:
        moved = False

        def back() -> bool:
            nonlocal moved
            if not moved:  # else an earlier try got that far
                try:
                    known = self._reader.record(queue_id, failed=True)
                    message = self._reader.message(queue_id, known, failed=True)
                except (RecordError, FileNotFoundError):
                    return False
                if isinstance(message, Unreadable):
                    return False
                entry = _record(message, replace(progress, not_before=message.progress.not_before))
                self._move_in(self._failed, f"{queue_id}.eml", self._queue, f"{queue_id}.eml", entry)
                moved = True
            self._queue.sync()
            self._failed.sync()
            self._failed.remove(f"{queue_id}.json")
            self._failed.remove(f"{queue_id}{ORPHAN}")
            return True

        try:
            return await carry_out(back)
        finally:
            if moved:
                self._put_by(queue_id, progress)

    @staticmethod
    def _delete(folder: durable.Folder, queue_id: str) -> None:
        folder.remove(f"{queue_id}.eml")
        folder.remove(f"{queue_id}{ORPHAN}")
        folder.remove(f"{queue_id}.json")

    async def find(self, queue_id: str) -> Entry | None:
        """One message, waiting or failed."""
        if not queueid.valid(queue_id):
            return None
        entry = self._reader.entry(queue_id) or self._reader.entry(queue_id, failed=True)
        return self._seen(entry) if entry else None

    def _seen(self, entry: Entry) -> Entry:
        """The entry with what memory knows: whether its time has come, whether it is being sent."""
        queue_id = entry.message.queue_id
        if queue_id in self._in_flight:
            return replace(entry, place=Place.ACTIVE, next_attempt=0.0, in_flight=True)
        due = self._known.get(queue_id, HELD)
        if entry.place is Place.DEFERRED and due <= self._clock.monotonic():
            return replace(entry, place=Place.ACTIVE, next_attempt=0.0)
        return entry

    async def entries(self, *, failed: bool = False) -> AsyncIterator[Entry]:
        """Every waiting message in queue order, or every failed one; read in the background, piece by piece."""
        ids = iter(await asyncio.to_thread(self._reader.ids, failed=failed))
        while piece := list(islice(ids, 100)):
            for entry in await asyncio.to_thread(self._read_piece, piece, failed=failed):
                yield self._seen(entry)

    def _read_piece(self, ids: list[str], *, failed: bool) -> list[Entry]:
        return [entry for queue_id in ids if (entry := self._reader.entry(queue_id, failed=failed)) is not None]

    def figures(self) -> Figures:
        """The queue in numbers; no disk is touched."""
        mono = self._clock.monotonic()
        due = sum(1 for when in self._known.values() if when <= mono)
        held = sum(1 for when in self._known.values() if when == HELD)
        oldest = min((min(ids) for ids in (self._known, self._in_flight) if ids), default="")
        return Figures(
            due=due,
            deferred=len(self._known) - due - held,
            held=held,
            in_flight=len(self._in_flight),
            oldest=min(queueid.arrived_at(oldest), self._clock.now()) if oldest else 0.0,
        )

    async def sweep(self, keep_failed: float) -> int:
        """Remove what [spool] keep_sent and keep_failed (seconds) say is old enough; how many messages."""
        limits = ((self._sent, self.keep_sent), (self._failed, keep_failed))
        return await self._in_thread(lambda: sum(self._sweep(folder, keep) for folder, keep in limits))

    def _sweep(self, folder: durable.Folder, keep: float) -> int:
        before, swept = self._clock.now() - keep, 0
        for name in list(folder.names()):
            queue_id = name.split(".", 1)[0]
            figures = folder.stat(name)
            # ctime is when it was moved here; the mtime is the producer's and may be anything.
            if queueid.valid(queue_id) and figures is not None and figures.st_ctime < before:
                folder.remove(name, sync=False)
                swept += name.endswith(".eml")
        return swept


def _record(message: QueuedMessage, progress: Progress) -> Record:
    """What is written down next about a message."""
    return Record(message.queue_id, message.revision + 1, message.rule, message.envelope, progress, file=message.file)
