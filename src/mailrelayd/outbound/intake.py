"""submit.sock: takes messages from every user of this machine. What is said there: `submission`.

Whoever connects may be hostile, so nobody is trusted with memory, time, descriptors or the disk: a message is streamed
to disk, everything has a deadline, and who asks for too much waits, behind his own messages only, before he is told to
come back. What was taken is on disk before the answer is given; what ends too early is forgotten.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from mailrelayd.clock import Clock
from mailrelayd.config.units import Rate
from mailrelayd.operate import events, sockets
from mailrelayd.outbound import copies, handin, keys, local, queueid, submission
from mailrelayd.outbound.caller import Caller, Limits, RefusedError
from mailrelayd.outbound.handin import Edited, Site
from mailrelayd.outbound.headers import Unreadable
from mailrelayd.outbound.incoming import Incoming
from mailrelayd.outbound.openings import admit
from mailrelayd.outbound.pace import Paces
from mailrelayd.outbound.spool import Spool
from mailrelayd.outbound.values import Admitted, Envelope, Progress, QueuedMessage

T = TypeVar("T")

THREADS = 4
BACKLOG = 1024  # connections that the kernel keeps until they are accepted
CLOSING = 5.0  # seconds for connections to end: a message that is being synced is waited for
TOLD = Rate(30, 60.0)  # refusals of one user that are worth a line in the log


@dataclass(frozen=True, slots=True)
class Terms:
    """What the configuration decides."""

    site: Site
    max_message_size: int = 50 << 20  # bytes
    min_free: int = 0  # bytes
    producer_rate: Rate | None = None


@dataclass(slots=True)
class _User:
    """Whoever is connected."""

    turns: asyncio.Semaphore
    connections: int = 0
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)  # of headers: a hostile one costs seconds


@dataclass(slots=True)
class _Received:
    """A message that is being handed in, as far as it has come."""

    options: submission.Options
    uid: int
    key: str
    incoming: Incoming
    terms: Terms
    head: bytes = b""  # until its header is complete
    edited: Edited | None = None  # from then on
    admitted: Admitted | None = None  # whom it may ask for approval
    size: int = 0  # bytes written


class Intake:
    """Listens while the daemon runs; a reload changes its terms."""

    def __init__(
        self,
        path: Path,
        spool: Spool,
        clock: Clock,
        terms: Terms,
        limits: Limits | None = None,
        paces: Paces | None = None,
    ) -> None:
        """`paces`: what each user has handed in lately, by whatever way."""
        self._path = path
        self._spool = spool
        self._clock = clock
        self._terms = terms
        self._limits = limits or Limits()
        self._paces = paces or Paces(terms.producer_rate)
        self._told = Paces(TOLD)
        # Not the loop's own threads: in those the relay asks for addresses of servers.
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="intake")
        self._turns = asyncio.Semaphore(self._limits.served)
        self._users: dict[int, _User] = {}
        self._closing = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    def set_terms(self, terms: Terms) -> None:
        """What holds from the next message on."""
        self._terms = terms
        self._paces.rate = terms.producer_rate

    async def run(self, stop: asyncio.Event) -> None:
        """Listen until `stop`. Raises OSError where the socket cannot be made."""
        await self.start()
        try:
            await stop.wait()
        finally:
            await self.close()

    async def start(self) -> None:
        """Raises OSError. Whoever holds the spool's lock owns the socket, so an old one is replaced."""
        self._path.unlink(missing_ok=True)
        name, folder = sockets.reachable(self._path)
        try:
            self._server = await asyncio.start_unix_server(
                self._connected, name, limit=submission.CHUNK, backlog=BACKLOG
            )
        finally:
            os.close(folder)
        self._path.chmod(0o666)

    async def close(self) -> None:
        """Stop listening. What is being made durable is finished; everybody else has not handed in anything."""
        self._closing.set()
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections, timeout=CLOSING)
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._path.unlink(missing_ok=True)

    # -- one connection ------------------------------------------------------------------------------------------

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        uid = _peer(writer)
        answered = False
        try:
            try:
                queue_id, duplicate = await self._serve(reader, uid)
                answer: dict[str, object] = {"status": os.EX_OK, "queue_id": queue_id, "duplicate": duplicate}
            except RefusedError as refused:
                self._say_refused(uid, refused)
                answer = {"status": refused.status, "reason": refused.reason, "hint": refused.hint}
                answer["again"] = refused.again
            writer.write(json.dumps(answer).encode("ascii") + b"\n")
            async with asyncio.timeout(self._limits.answer_within):
                await writer.drain()
            answered = True
        except asyncio.IncompleteReadError:
            self._say_refused(uid, RefusedError(os.EX_DATAERR, "its sender ended before the message did"))
        except (OSError, TimeoutError, asyncio.CancelledError):
            pass  # the client went away, or we are stopping: without an answer it tries elsewhere, under the same key
        except Exception as error:  # noqa: BLE001 - one odd message must not end the daemon
            events.daemon_bug(where="submit", error=error)
        finally:
            if answered:
                writer.close()
            else:
                writer.transport.abort()
            try:
                async with asyncio.timeout(1.0):
                    await writer.wait_closed()
            except (OSError, TimeoutError, asyncio.CancelledError):
                writer.transport.abort()
            self._connections.discard(task)

    def _say_refused(self, uid: int, refused: RefusedError) -> None:
        now = self._clock.monotonic()
        if not refused.again and not self._told.wait(uid, now):  # whoever asks all the time must not fill the log
            self._told.take(uid, now)
            events.submit_refused(uid=uid, reason=refused.reason, hint=refused.hint)

    async def _serve(self, reader: asyncio.StreamReader, uid: int) -> tuple[str, bool]:
        """Take one message: its queue id, and whether it was here already. Raises RefusedError and what ends it."""
        caller = Caller(reader, self._clock, self._limits)
        async with self._turn(uid):
            options = await _in_time(caller.options(), "the options did not arrive in time")
            key = keys.digest(uid, keys.SUBMIT, options.key) if options.key else ""
            return await self._take(caller, options, uid, key)

    @asynccontextmanager
    async def _turn(self, uid: int) -> AsyncIterator[None]:
        """Wait until this user, and anybody at all, may hand in another message. Raises RefusedError."""
        limits = self._limits
        user = self._users.get(uid) or _User(asyncio.Semaphore(limits.served_each))
        if self._closing.is_set() or len(self._connections) > limits.connections or user.connections >= limits.each:
            raise _busy("too many messages are being handed in right now")
        self._users[uid] = user
        user.connections += 1
        try:
            async with _waiting(user.turns, limits.patience):
                await self._pace(uid)
                async with _waiting(self._turns, limits.patience):
                    yield
        finally:
            user.connections -= 1
            if not user.connections:
                self._users.pop(uid, None)

    async def _pace(self, uid: int) -> None:
        """Hold to [guard] producer_rate: by waiting, if that is not for too long."""
        while (wait := self._paces.wait(uid, self._clock.monotonic())) > 0:
            if wait > self._limits.patience:
                reason = f"uid {uid} has handed in as many messages as [guard] producer_rate allows"
                raise RefusedError(os.EX_TEMPFAIL, reason, f"try again in {wait:.0f} s")
            if await self._clock.wait(self._closing, wait):
                raise _busy("the daemon is stopping")
        self._paces.take(uid, self._clock.monotonic())

    async def _take(self, caller: Caller, options: submission.Options, uid: int, key: str) -> tuple[str, bool]:
        terms = self._terms
        with _stored():
            incoming = self._spool.begin()
        try:
            self._check_room(incoming, terms)
            received = _Received(options, uid, key, incoming, terms)
            message = await _in_time(self._receive(caller, received), "the message did not arrive in time")
            with _stored():
                said = partial(_said, message, uid)
                queue_id = await _to_its_end(self._spool.hand_in(incoming, message, said))
        except BaseException:
            incoming.discard()
            raise
        if queue_id != message.queue_id:
            events.message_duplicate(queue_id=queue_id, file="", uid=uid, producer=keys.SUBMIT)
            return queue_id, True
        return queue_id, False

    async def _receive(self, caller: Caller, received: _Received) -> QueuedMessage:
        """Put the message into a file, its header edited: what is queued then. Raises RefusedError."""
        message: QueuedMessage | None = None
        async with aclosing(caller.blocks(received.terms.max_message_size)) as blocks:
            async for block, last in blocks:
                # A hostile header takes a second: those of one user are read one after the other.
                turn = self._users[received.uid].reading if received.edited is None else nullcontext()
                async with turn:
                    with _stored():
                        message = await self._in_thread(self._add, received, block, last)
        assert message is not None  # the last block makes it
        return message

    def _add(self, received: _Received, block: bytes, last: bool) -> QueuedMessage | None:
        """In a thread, in one go: judge the header, write the bytes; the message, once it is complete.

        A hostile header takes a second, and the user database may be on another machine. Raises RefusedError, OSError.
        """
        options, uid, terms = received.options, received.uid, received.terms
        data = block
        if received.edited is None:
            received.head += block
            judged = _judge(options, received.head, uid, terms.site, last)
            if isinstance(judged, Unreadable):
                raise RefusedError(os.EX_DATAERR, judged.reason)
            if judged is None:
                return None
            admitted = admit(self._spool, judged.parsed, judged.envelope, uid)
            if isinstance(admitted, Unreadable):
                raise RefusedError(os.EX_DATAERR, admitted.reason)
            received.edited, received.admitted = judged, admitted
            data = judged.header + received.head[judged.body :]
            received.head = b""
        self._check_room(received.incoming, terms)
        received.incoming.write(data)
        received.size += len(data)
        return self._message(received, received.edited.envelope) if last else None

    def _check_room(self, incoming: Incoming, terms: Terms) -> None:
        figures = os.statvfs(incoming.fd)
        free = figures.f_bavail * figures.f_frsize
        if free < terms.min_free:
            reason = f"the spool's file system has {free} bytes left, less than min_free ({terms.min_free})"
            raise RefusedError(os.EX_TEMPFAIL, reason, "make room, or lower [spool] min_free and reload")

    async def _in_thread(self, work: Callable[..., T], *given: Any) -> T:
        """To its end, also where we are stopped: until then its descriptor must not become another file's."""
        future = asyncio.get_running_loop().run_in_executor(self._threads, work, *given)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise

    def _message(self, received: _Received, envelope: Envelope) -> QueuedMessage:
        queue_id = self._spool.new_id()
        arrived_at = min(queueid.arrived_at(queue_id), self._clock.now())  # ids may be ahead after a wrong date
        message = QueuedMessage(
            queue_id,
            envelope,
            Progress(arrived_at),
            received.size,
            "submit",
            producer=keys.SUBMIT,
            uid=received.uid,
            key=received.key,
        )
        return message if received.admitted is None else copies.asking(message, received.admitted)


def _judge(
    options: submission.Options, head: bytes, uid: int, site: Site, complete: bool
) -> Edited | Unreadable | None:
    return handin.edit(options, head, local.person(uid), site, complete=complete)


def _busy(reason: str) -> RefusedError:
    return RefusedError(os.EX_TEMPFAIL, reason, "try again", again=True)


@asynccontextmanager
async def _waiting(turns: asyncio.Semaphore, patience: float) -> AsyncIterator[None]:
    """A turn, once somebody else's is over. Raises RefusedError where that takes too long."""
    try:
        async with asyncio.timeout(patience):
            await turns.acquire()
    except TimeoutError:
        raise _busy("too many messages are being handed in right now") from None
    try:
        yield
    finally:
        turns.release()


@contextmanager
def _stored() -> Iterator[None]:
    """A disk that does not take the message is told to its sender, who keeps it."""
    try:
        yield
    except OSError as error:
        reason, hint = f"the message cannot be stored: {error.strerror or error}", "mend that, then hand it in again"
        raise RefusedError(os.EX_TEMPFAIL, reason, hint) from error


async def _in_time(work: Awaitable[T], reason: str) -> T:
    try:
        return await work
    except TimeoutError:
        raise RefusedError(os.EX_TEMPFAIL, reason) from None


def _said(message: QueuedMessage, uid: int) -> None:
    """In the log before it is due: its delivery may be the next line."""
    events.message_queued(
        queue_id=message.queue_id,
        sender=message.envelope.sender,
        nrcpt=len(message.envelope.recipients),
        size=message.size,
        file="",
        uid=uid,
        rule=message.rule,
        producer=message.producer,
    )


async def _to_its_end(work: Awaitable[T]) -> T:
    """Not to be stopped half-way: what is on disk is logged, and its sender told."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    return task.result()


def _peer(writer: asyncio.StreamWriter) -> int:
    """Who asks: the kernel's word for it."""
    connection = writer.get_extra_info("socket")
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)
