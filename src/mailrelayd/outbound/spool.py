"""The directory behind the queue. Which files exist *is* the state; memory holds hints only.

    queue/ID.eml                    due now
    queue/ID.eml + queue/ID.json    deferred, held, partly sent, or an envelope that the headers do not tell
    failed/ID.eml + failed/ID.json  given up: a person looks

The full table stands in `mailrelayd/__init__.py`; `tests/test_spool.py` has a test per row. What happens on disk is
in `incoming.py` (how messages get in), `moves.py` (and out), `verbs.py` (operators) and `repair.py` (after a crash).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

from mailrelayd import durable
from mailrelayd.clock import Clock
from mailrelayd.outbound import queueid, record
from mailrelayd.outbound.arrivals import Files
from mailrelayd.outbound.completions import Completions, Sent
from mailrelayd.outbound.headers import Unreadable
from mailrelayd.outbound.idset import Ids
from mailrelayd.outbound.incoming import Entrance, Incoming
from mailrelayd.outbound.keys import Keys
from mailrelayd.outbound.moves import Moves, Report
from mailrelayd.outbound.openings import Openings
from mailrelayd.outbound.queue import Entry, Figures, Place, Requests, Verb
from mailrelayd.outbound.record import Record, RecordError
from mailrelayd.outbound.repair import repair
from mailrelayd.outbound.results import Results
from mailrelayd.outbound.stored import FileSource, Head, Reader, Reading
from mailrelayd.outbound.values import ApprovalCopy, Envelope, Progress, QueuedMessage
from mailrelayd.outbound.verbs import Done, Verbs
from mailrelayd.outbound.waiting import HELD, LONGEST_WAIT, Waiting, when_due

T = TypeVar("T")

LONGEST_PAUSE = 30.0  # seconds between two tries to write what must be written
BATCH = 100  # messages changed in one go, so that whoever settles waits no longer than for these


class SpoolError(Exception):
    """The folders cannot be used; the text says which and what to do."""


class Spool:
    """The Queue of one machine: `outbound.queue.Queue` says what each call promises."""

    def __init__(self, directory: Path, *, node: str, clock: Clock, report: Report) -> None:
        """Open the folders and take the lock. Raises SpoolError, durable.LockedError."""
        self.directory = directory
        self.strict_order = False  # nothing overtakes a deferred message
        self._clock = clock
        self._report = report
        try:
            for name in ("queue", "failed", "sent", "keys"):
                durable.make_folder(directory / name, 0o700)
            root = durable.Folder(directory)
            try:
                self._lock = durable.Lock(root, "lock")
            except BaseException:
                root.close()
                raise
            self._reader = Reader(directory, Reading())
            self._keys = Keys(durable.Folder(directory / "keys"))
        except OSError as error:
            raise SpoolError(f"{error.filename or directory}: {error.strerror}; see [spool] directory") from error
        self._queue = self._reader.queue
        # One thread: what is settled first is on disk first, and the event loop never waits for the disk.
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="disk")
        self._moves = Moves(self._reader, clock, report)
        self._completions = Completions(root, self._queue, self._moves.claims, report)
        self._verbs = Verbs(self._reader, self._moves, clock)
        self._openings = Openings(self._queue, report)
        self._entrance = Entrance(self._moves, self._keys, self._openings, self._lock, node, clock)
        # What they promise is said there; `arrived` and `hand_in` let the queue know.
        self.new_id = self._entrance.new_id
        self.take = self._entrance.take
        self.refuse = self._entrance.refuse
        self.drop = self._entrance.drop
        self.begin = self._entrance.begin
        self.seen = self._entrance.seen
        self._waiting = Waiting()
        self._files = Files(self._reader)
        self._in_flight: dict[str, int] = {}  # and the inodes of what is sent
        self._being_changed: dict[str, float] = {}  # by an operator right now -> when it was due
        self._news = asyncio.Event()

    def close(self) -> None:
        """Let go of the spool, and of every claim."""
        self._disk.shutdown(wait=True)
        self._completions.close()
        self._files.close()
        self._reader.close()
        self._keys.close()
        if self.results is not None:
            self.results.close()
        self._lock.close()

    def set_reading(self, reading: Reading) -> None:
        """How the envelope is read of files whose record does not say it."""
        self._reader.reading = reading
        self._files.arrivals.clear()

    @property
    def keep_sent(self) -> float:
        """[spool] keep_sent, in seconds."""
        return self._moves.keep_sent

    @keep_sent.setter
    def keep_sent(self, seconds: float) -> None:
        self._moves.keep_sent = seconds

    @property
    def results(self) -> Results | None:
        """[spool] results: where producers are told what became of their files; None: nowhere."""
        return self._moves.results

    @results.setter
    def results(self, results: Results | None) -> None:
        before, self._moves.results = self._moves.results, results
        if before is not None and before is not results:
            self._disk.submit(before.close)

    @property
    def requests(self) -> Requests | None:
        """Who knows of requests for approval; None: they are not enabled, and those that are here wait."""
        return self._openings.requests

    @requests.setter
    def requests(self, requests: Requests | None) -> None:
        self._openings.requests = requests

    # -- start ---------------------------------------------------------------------------------------------------

    async def open_up(self) -> None:
        """Finish what a crash left undone, then learn what is there. Raises OSError."""
        await self._in_thread(self._learn)

    def _learn(self) -> None:
        now, mono = self._clock.now(), self._clock.monotonic()
        ready = Ids()
        due: dict[str, float] = {}  # of all others
        wishes: list[str] = []
        asking: list[str] = []

        def tell(queue_id: str, entry: Record | str) -> None:
            if isinstance(entry, str):  # a newer or a damaged record is not guessed: the message is kept, not tried
                self._report.trouble(f"read {queue_id}", OSError(0, entry))
                due[queue_id] = HELD
                return
            when = HELD if entry.hold else when_due(entry.progress, now, mono)
            if when == 0.0:
                ready.add(queue_id)
            else:
                due[queue_id] = when
            if when and not entry.progress.recipients:
                wishes.append(queue_id)
            if entry.copies:
                asking.append(queue_id)

        found = repair(self._reader, self._keys, self.directory, now, tell)
        self._completions.begin(found.sent)
        self._reader.completed = self._completions
        for queue_id in asking:
            self._open_again(queue_id)
        ready.sort()
        ready.join(found.plain)
        self._waiting.learn(ready, due, wishes)
        self._entrance.ids.last = max(self._entrance.ids.last, found.newest)

    def _open_again(self, queue_id: str) -> None:
        """A crash may have come between the claim and the opening of the request."""
        with suppress(OSError, RecordError):  # what cannot be read is told when it is due
            message = self._reader.message(queue_id, self._reader.record(queue_id))
            if isinstance(message, QueuedMessage):
                self._openings.open(message)

    # -- what comes in -------------------------------------------------------------------------------------------

    def arrived(
        self, message: QueuedMessage, stamp: tuple[int, int, int] | None = None, head: Head | None = None
    ) -> None:
        """A claimed file is now in the queue. `stamp`: what it looked like, if its producer may still write.

        `head`: what was read of it, for a message that is sent at once.
        """
        if stamp is not None:
            self._files.may_be_written_to(message.queue_id, stamp)
        if message.queue_id in self._moves.bare:
            self._moves.bare.discard(message.queue_id)
            if head is not None:
                self._files.arrivals.keep(message, head)
        self._put_by(message.queue_id, message.progress)

    async def hand_in(
        self, incoming: Incoming, message: QueuedMessage, taken: Callable[[], None] = lambda: None
    ) -> str:
        """Take a message whose bytes are complete: durable, and due, when this returns. `taken` is called in between.

        Its queue id; or that of an earlier message with the same idempotency key, and then this one is thrown away.
        Raises OSError; then nothing was taken. Cancelled, it is taken or not: only its key can tell.
        """
        try:
            await asyncio.shield(asyncio.to_thread(incoming.sync))  # large ones: the disk's thread has others to serve
        except BaseException:
            incoming.discard()
            raise

        def placed(queue_id: str) -> None:
            if queue_id == message.queue_id:
                taken()
                self.arrived(message)

        return await self._in_thread(partial(self._entrance.place, self._entrance.line_up(incoming, message)), placed)

    async def add(self, data: bytes, envelope: Envelope, *, rule: str, copies: tuple[ApprovalCopy, ...] = ()) -> str:
        """Queue a message of the daemon's own (a rule of OWN_RULES), on disk when this returns; its queue id."""

        def place() -> QueuedMessage:
            progress = Progress(self._clock.now())
            message = QueuedMessage(self.new_id(), envelope, progress, len(data), rule, copies=copies)
            incoming = self.begin()
            try:
                incoming.write(data)
                incoming.sync()
                self._entrance.place(self._entrance.line_up(incoming, message))
            except OSError:
                incoming.discard()
                raise
            return message

        placed = partial(self._in_thread, place, self.arrived)
        return (await self._settle("queue a message of our own", placed)).queue_id

    async def sync_claims(self) -> None:
        """Make every claim durable: the pickup folders are about to be closed. Raises OSError."""
        await self._in_thread(self._moves.sync_claims)

    # -- claims ------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Let everyone who waits look again: a stop event was set."""
        self._news.set()

    async def wait_due(self, stop: asyncio.Event, *, at_least: int = 1, patience: float = 30.0) -> bool:
        """Wait until so many messages are due (True), `stop` is set, or so many seconds passed (False)."""
        until = self._clock.monotonic() + patience
        while not stop.is_set():
            if self._waiting.are_due(at_least, self._clock.monotonic()) and not self._must_wait():
                return True
            left = until - self._clock.monotonic()
            if left <= 0 or not await self._wait(left):
                return False
        return False

    async def due(self, stop: asyncio.Event, *, idle: float = 0.0) -> AsyncGenerator[QueuedMessage, None]:
        """Claim what is due, lowest queue id first; ends when for `idle` seconds nothing was, or at `stop`."""
        until = self._clock.monotonic() + idle
        while not stop.is_set():
            if queue_id := "" if self._must_wait() else self._waiting.claim(self._clock.monotonic()):
                try:
                    loaded = await self._load(queue_id)
                except BaseException:
                    self._put(queue_id, 0.0)  # cancelled while the disk was full: somebody else looks at it again
                    raise
                if loaded is not None:
                    source, message = loaded
                    self._files.keep(queue_id, source)
                    self._in_flight[queue_id] = source.inode
                    yield message
                    until = self._clock.monotonic() + idle
                continue
            left = until - self._clock.monotonic()
            if left <= 0:
                return
            await self._wait(left)

    def _must_wait(self) -> bool:
        """With strict order, whether an older message is deferred or being changed; not_before holds up nobody else."""
        if not self.strict_order:
            return False
        first = self._waiting.first(self._clock.monotonic())
        return self._waiting.deferred_before(first) or any(queue_id < first for queue_id in self._being_changed)

    async def _wait(self, seconds: float) -> bool:
        """Wait for news, the next message's time, or so many seconds; False when it was only the seconds."""
        next_time = self._waiting.next_time()
        wait = seconds if next_time is None else min(seconds, max(next_time - self._clock.monotonic(), 0.0))
        self._news.clear()
        return await self._clock.wait(self._news, wait) or wait < seconds

    async def _load(self, queue_id: str) -> tuple[FileSource, QueuedMessage] | None:
        """The message with its bytes, or None: it is gone, held, not due after all, or could not be understood."""
        known: Record | None = None
        try:
            if (fresh := self._files.just_arrived(queue_id)) is not None:
                return fresh
            known = self._reader.record(queue_id)
            if known is not None and known.hold:
                self._put(queue_id, HELD)
                return None
            if known is not None and when_due(known.progress, self._clock.now(), self._clock.monotonic()):
                self._put_by(queue_id, known.progress)
                return None
            source, message = await self._files.read(queue_id, known)
        except FileNotFoundError:
            self._leave(queue_id)  # removed by hand
            return None
        except (RecordError, durable.NotRegularError, PermissionError) as error:
            trouble = error if isinstance(error, OSError) else OSError(0, str(error))
            self._report.trouble(f"read {queue_id}", trouble)
            self._put(queue_id, HELD)  # kept, not guessed; an operator's `queue retry` reads it again
            return None
        except OSError as error:  # too many open files, a disk that hiccups: over some time later
            self._report.trouble(f"read {queue_id}", error)
            self._put(queue_id, self._clock.monotonic() + LONGEST_PAUSE)
            return None
        loaded = None
        try:
            if isinstance(message, Unreadable):
                await self._fail_unreadable(queue_id, known, message.reason)
            elif self._openings.is_open(message) or await self._in_thread(partial(self._openings.open, message)):
                loaded = source, message
            else:
                self._put(queue_id, self._clock.monotonic() + LONGEST_PAUSE)
        finally:
            if loaded is None:
                source.close()
        return loaded

    async def _fail_unreadable(self, queue_id: str, known: Record | None, detail: str) -> None:
        entry = known or Record(queue_id, 0, "unreadable", None, Progress(queueid.arrived_at(queue_id)))
        entry = replace(entry, revision=entry.revision + 1, rule="unreadable", reason="unreadable", detail=detail)
        await self._give_up(entry)
        self._leave(queue_id)
        self._report.unreadable(queue_id, detail)

    def open(self, message: QueuedMessage) -> FileSource:
        """The message's bytes. Raises OSError."""
        return self._files.take(message.queue_id)

    def _put_by(self, queue_id: str, progress: Progress) -> None:
        """Make an id wait as its progress says."""
        due = when_due(progress, self._clock.now(), self._clock.monotonic())
        self._put(queue_id, due, wish=due > 0.0 and not progress.recipients)

    def _put(self, queue_id: str, due: float, *, wish: bool = False) -> None:
        """Make an id wait until `due` (0: it is ready)."""
        self._waiting.put(queue_id, due, wish=wish)
        if due < HELD:
            self._news.set()

    # -- settling ----------------------------------------------------------------------------------------------

    async def complete(self, completions: Sequence[tuple[QueuedMessage, Progress]]) -> None:
        """Every recipient of these was sent to: they leave the queue, on disk together."""

        def gone(_: None = None) -> None:
            for message, _progress in completions:
                self._leave(message.queue_id)

        if not completions:
            return
        if self.keep_sent > 0:
            entries = [record.of(message, progress) for message, progress in completions]
            await self._settle("remove", partial(self._in_thread, partial(self._moves.keep, entries), gone))
            return
        if self.results is not None:
            await self._in_thread(partial(self._tell, completions))
        done = [Sent(one.queue_id, self._in_flight[one.queue_id], one.revision > 0) for one, _ in completions]
        await self._settle("remove", partial(self._completions.record, done, gone))

    def _tell(self, completions: Sequence[tuple[QueuedMessage, Progress]]) -> None:
        for message, progress in completions:
            self._moves.tell(record.of(message, progress), "sent")

    async def defer(self, message: QueuedMessage, progress: Progress, at: float) -> None:
        """Remember what happened; due again at `at` (seconds since the epoch)."""
        entry = record.of(message, progress)
        # Before the disk is waited for: meanwhile the wall clock may be set.
        due = self._clock.monotonic() + min(at - self._clock.now(), LONGEST_WAIT)

        def write() -> None:
            self._moves.sync_claims()
            _raise(self._moves.write_down([entry]))

        await self._settle("defer", partial(self._in_thread, write))
        self._leave(message.queue_id, gone=False)
        self._put(message.queue_id, due if due > self._clock.monotonic() else 0.0)

    async def fail(self, message: QueuedMessage, progress: Progress, reason: str) -> None:
        """Keep the message under failed/, with every recipient's reason."""
        await self._give_up(record.of(message, progress, reason=reason))
        self._leave(message.queue_id)

    async def _give_up(self, entry: Record) -> None:
        await self._settle("fail", partial(self._in_thread, lambda: _raise(self._moves.give_up([entry]))))

    def release(self, message: QueuedMessage) -> None:
        """Give a claim back untouched: due again at once."""
        if self._in_flight.pop(message.queue_id, None) is not None:
            self._files.let_go(message.queue_id, forget=False)
            self._put(message.queue_id, 0.0)

    async def bring_back(self, queue_id: str, progress: Progress) -> bool:
        """Undo `fail`: queued again with this progress. False where it is not there any more."""
        entry: Record | None = None

        def back() -> Record | None:
            nonlocal entry
            if entry is None:  # else an earlier try got further
                try:
                    known = self._reader.record(queue_id, failed=True)
                    message = self._reader.message(queue_id, known, failed=True)
                except (RecordError, FileNotFoundError):
                    return None
                if isinstance(message, Unreadable):
                    return None
                entry = record.of(message, replace(progress, not_before=message.progress.not_before))
            _raise(self._moves.bring_back([entry]))
            return entry

        def brought(entry: Record | None) -> None:
            if entry is not None:
                self._put_by(queue_id, entry.progress)

        return await self._settle("retry", partial(self._in_thread, back, brought)) is not None

    def _leave(self, queue_id: str, *, gone: bool = True) -> None:
        self._in_flight.pop(queue_id, None)
        self._files.let_go(queue_id)
        self._waiting.forget(queue_id)
        if gone:
            self._openings.forget(queue_id)

    async def _settle(self, doing: str, operation: Callable[[], Awaitable[T]]) -> T:
        """Carry out what must not be left undone: a full or failing disk is waited for, loudly.

        Giving up here would mean sending again what was sent. Nothing else enters the window meanwhile.
        """
        pause = 1.0
        while True:
            try:
                return await operation()
            except OSError as error:
                self._report.trouble(doing, error)
                await self._clock.wait(asyncio.Event(), pause)
                pause = min(pause * 2, LONGEST_PAUSE)

    async def _in_thread(self, operation: Callable[[], T], then: Callable[[T], None] | None = None) -> T:
        """What the disk's thread answers; `then` is told in the event loop, even where the caller was cancelled."""
        begun = asyncio.get_running_loop().run_in_executor(self._disk, operation)
        if then is not None:
            begun.add_done_callback(lambda done: None if done.cancelled() or done.exception() else then(done.result()))
        # Shielded: a cancelled caller does not stop a write half-way, it only stops waiting for it.
        return await asyncio.shield(begun)

    # -- operators ---------------------------------------------------------------------------------------------

    async def change(self, verb: Verb, queue_ids: Iterable[str], by: str = "") -> dict[str, str]:
        """Carry out an operator's wish; for each id "" or why not. `by`: whose, for the history."""
        answers: dict[str, str] = {}
        ids = iter(dict.fromkeys(queue_ids))
        while batch := list(islice(ids, BATCH)):
            answers |= await self._change(verb, batch, by)
        return answers

    async def _change(self, verb: Verb, batch: list[str], by: str) -> dict[str, str]:
        answers: dict[str, str] = {}
        waiting: dict[str, float] = {}
        others: list[str] = []
        for queue_id in batch:
            if queue_id in self._in_flight:
                answers[queue_id] = "is being sent right now; try again in a moment"
            elif queue_id in self._being_changed:
                answers[queue_id] = "is being changed right now; try again in a moment"
            elif queue_id in self._waiting:
                waiting[queue_id] = self._waiting.pop(queue_id)
                self._files.arrivals.take(queue_id)  # a record may be written beside it
            elif queueid.valid(queue_id):
                others.append(queue_id)
            else:
                answers[queue_id] = "no such message"
        self._being_changed |= waiting

        def changed(done: dict[str, Done]) -> None:
            for queue_id in waiting:
                del self._being_changed[queue_id]
            for queue_id, one in done.items():
                if one.due is not None:
                    self._put(queue_id, one.due, wish=one.wish)
                elif queue_id in waiting:
                    self._leave(queue_id)

        done = await self._in_thread(partial(self._verbs.change, verb, by, waiting, others), changed)
        return answers | {queue_id: one.answer for queue_id, one in done.items()}

    async def find(self, queue_id: str) -> Entry | None:
        """One message: waiting, failed, or kept after it was sent."""
        entry = self._reader.find(queue_id) if queueid.valid(queue_id) else None
        return self._seen(entry) if entry else None

    def is_queued(self, queue_id: str) -> bool:
        """Whether a message waits to be sent, or for somebody to release it. From any thread. Raises OSError."""
        return self._reader.is_queued(queue_id)

    def content(self, queue_id: str) -> FileSource | None:
        """The stored bytes of a message, wherever it stands. Raises OSError."""
        return self._reader.content(queue_id) if queueid.valid(queue_id) else None

    def _seen(self, entry: Entry) -> Entry:
        """The entry with what memory knows: whether its time has come, whether it is being sent."""
        queue_id = entry.message.queue_id
        if queue_id in self._in_flight:
            return replace(entry, place=Place.ACTIVE, next_attempt=0.0, in_flight=True)
        if entry.place is Place.DEFERRED and self._waiting.is_due(queue_id, self._clock.monotonic()):
            return replace(entry, place=Place.ACTIVE, next_attempt=0.0)
        return entry

    async def entries(self, *, failed: bool = False) -> AsyncIterator[Entry]:
        """Every waiting message in queue order, or every failed one; read in the background, piece by piece."""
        ids = iter(await asyncio.to_thread(self._reader.ids, failed=failed))
        while piece := list(islice(ids, BATCH)):
            for entry in await asyncio.to_thread(self._read_piece, piece, failed=failed):
                yield self._seen(entry)

    def _read_piece(self, ids: list[str], *, failed: bool) -> list[Entry]:
        return [entry for queue_id in ids if (entry := self._reader.entry(queue_id, failed=failed)) is not None]

    def figures(self) -> Figures:
        """The queue in numbers; no disk is touched."""
        due, deferred, held = self._waiting.counted(self._clock.monotonic(), self._being_changed.values())
        candidates = (self._waiting.oldest(), min(self._in_flight, default=""), min(self._being_changed, default=""))
        oldest = min((queue_id for queue_id in candidates if queue_id), default="")
        arrived_at = min(queueid.arrived_at(oldest), self._clock.now()) if oldest else 0.0
        return Figures(due, deferred, held, len(self._in_flight), arrived_at)

    async def sweep(self, keep_failed: float) -> int:
        """Remove what is old enough: keys, results, and by [spool] keep_sent and keep_failed; how many messages."""
        return await self._in_thread(partial(self._sweep_all, keep_failed))

    def _sweep_all(self, keep_failed: float) -> int:
        with self._moves.said("sweep the idempotency keys"):
            self._keys.sweep(self._clock.now())
        with self._moves.said("sweep the results"):
            if self.results is not None:
                self.results.sweep(self._clock.now())
        limits = ((self._reader.sent, self.keep_sent), (self._reader.failed, keep_failed))
        return sum(self._sweep(folder, keep) for folder, keep in limits)

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


def _raise(troubles: dict[str, OSError]) -> None:
    for error in troubles.values():
        raise error
