"""Mail transactions on an open connection: `pipeline.Pipeline` on an asyncio transport, with deadlines.

There is no task inside. What can be said is said as soon as nothing that arrived is left to be read; whoever iterates
over `attempts()` streams large bodies and takes what was answered. One timer watches over the answers.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

from mailrelayd.outbound.pipeline import WRITE, Pipeline
from mailrelayd.outbound.streaming import Outlet, let_the_loop_read
from mailrelayd.outbound.values import Answers, Body, Extensions, Response, Stage, Transaction
from mailrelayd.outbound.wire import Encoder

QUIT_DEADLINE = 5.0
CLOSE_DEADLINE = 1.0
"""Seconds for the polite end; nothing depends on it."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds. Each covers one thing from its begin to its end, however slowly the bytes drip."""

    command: float  # one answer, from the moment the answer before it was complete
    data: float  # the answer to the last byte (RFC 5321 section 4.5.3.2.6: 10 minutes)
    stall: float  # until one chunk of a body is taken (section 4.5.3.2.5: 3 minutes)

    def of(self, stage: Stage) -> float:
        return self.data if stage is Stage.BODY else self.command


class Session:
    """One connection after AUTH. One owner: one task calls `send`, one iterates over `attempts`.

    `settled` counts the transactions that were answered to their end; `trouble` says, once `attempts()` has ended, why
    the connection did (None: it did not, or we wanted it).
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        extensions: Extensions,
        deadlines: Deadlines,
        *,
        relay: str = "",
        tls: str = "",
        window: int = 1,
    ) -> None:
        """`window` above 1 only where chunks are known to be swallowed: see `Opened.open_window`."""
        self.relay = relay  # host[ip]:port, for log lines
        self.setup = 0.0  # seconds from DNS to AUTH; told by whoever opened it
        self.tls = tls  # protocol version and cipher; "" without TLS
        self.narrowed = ""  # why the window is 1 although a larger one was asked for
        self.alive: Callable[[], None] = lambda: None  # called with every answer
        self.trace: Callable[[str, bytes], None] | None = None  # told what is said (">") and heard ("<"); never a body
        self._transport = transport
        self._deadlines = deadlines
        self._loop = asyncio.get_running_loop()
        self._pipeline = Pipeline(extensions, window)
        self._finishing = False
        self._dropped = False
        self._streaming = False
        self._saying = False  # `_say` will be called
        self._timer: asyncio.TimerHandle | None = None
        self._waiting_since = self._loop.time()  # the due answer's clock
        self._changed = asyncio.Event()  # something happened that the driver should look at
        self._room = asyncio.Event()  # something happened that send() should look at
        self._wire = _Wire(self)
        self._outlet = Outlet(transport, self._pipeline, self._wire.writable, deadlines.stall, lambda: self.alive())
        self._unread = select.poll()
        transport.set_protocol(self._wire)
        if transport.is_closing():
            self._pipeline.lost("the server closed the connection")
        else:
            self._unread.register(transport.get_extra_info("socket"), select.POLLIN)

    # For the owner

    @property
    def extensions(self) -> Extensions:
        """What the server offers, and is believed to have."""
        return self._pipeline.extensions

    @property
    def window(self) -> int:
        """How many bodies may be on their way or not settled."""
        return self._pipeline.window

    @property
    def settled(self) -> int:
        """Transactions that were answered to their end."""
        return self._pipeline.settled

    @property
    def trouble(self) -> Response | None:
        """Why the connection ended."""
        return self._pipeline.trouble

    @property
    def saying(self) -> bool:
        """Whether something will leave in a moment: what else there is to do can wait that long."""
        return self._saying

    @property
    def distrust(self) -> str:
        """Why this server should be sent no chunks any more; "" while there is no reason."""
        return self._pipeline.distrust

    def narrow(self, *, chunks: bool) -> None:
        """One body at a time, and without `chunks` by DATA only; before anything was sent."""
        self._pipeline.window = 1
        if not chunks:
            self._pipeline.extensions = replace(self._pipeline.extensions, chunking=False)

    async def send(self, transaction: Transaction, body: Body) -> bool:
        """Hand in a transaction; waits for room. False: it was not taken, the connection is gone or finishing.

        Raises ValueError where an address cannot be said to this server; nothing is taken then.
        """
        while not self._pipeline.room and not self._over:
            self._room.clear()
            await self._room.wait()
        if self._over:
            return False
        self._pipeline.offer(transaction, body)
        if self._pipeline.unwritten == 1:  # else it follows what is before it
            self._say_next()
        return True

    def finish(self, *, stopping: bool = False) -> None:
        """Nothing more comes: `attempts()` ends when everything taken is answered.

        With `stopping` no further body begins: those under way are finished, what is ahead of them is given back
        untried.
        """
        self._finishing = True
        if stopping:
            self._pipeline.stop()
        self._notify()

    def attempts(self) -> AsyncIterator[tuple[Answers, ...]]:
        """One `Answers` for each `send` that returned True, in the same order, also after the connection is lost.

        Those that are there together come together. Asking for the next ones says that they are settled on disk, if
        `on_disk` did not. Ends after `finish`, or when the connection has gone, also while nothing is in flight.
        """
        return _Attempts(self)

    def on_disk(self) -> None:
        """What `attempts()` gave out last is settled: others may take its place in the window."""
        if self._pipeline.settle():
            self._say_next()

    def abort(self) -> None:
        """Drop the connection at once. What is in flight comes out of `attempts()` as cut or untried."""
        self._pipeline.give_up()
        self._drop()
        self._notify()

    async def close(self) -> None:
        """QUIT if the state allows it, then close. Short, never raises; harmless if repeated."""
        self._finishing = True
        try:
            if self._pipeline.idle and not self._transport.is_closing():
                async with asyncio.timeout(QUIT_DEADLINE):
                    self._transport.write(self._pipeline.quit())
                    await self._wait_until_over()
                if not self._transport.is_closing():  # CPython 3.11: TLS that was closed twice cannot be aborted
                    self._transport.close()  # with TLS this says close_notify, which may never be answered
                async with asyncio.timeout(CLOSE_DEADLINE):
                    await self._wire.gone.wait()
        except TimeoutError:
            pass
        finally:
            self.abort()

    # The driver

    async def next_answers(self) -> tuple[Answers, ...]:
        """Drive the connection until something is answered; () at the end."""
        self.on_disk()
        try:
            while not (answers := self._pipeline.take()):
                if self._pipeline.ended or (self._finishing and self._pipeline.idle):
                    break
                self._changed.clear()
                if self._pipeline.body_wanted is not None:
                    await self._send_body()
                else:
                    await self._changed.wait()
        except BaseException:
            self.abort()  # half a command or half a body may be out: never reused
            raise
        if self._pipeline.ended:
            self._drop()
        self._room.set()
        return answers

    # What is said

    def _say_next(self) -> None:
        """At once, unless something has arrived that is not read yet, or a window is to be filled.

        What arrived is read first: a write to a connection that has failed makes the transport drop it, and an answer
        that came before the question must not be taken for its answer.
        """
        if self._saying or self._pipeline.window > 1 or self._unread.poll(0):
            self._say_soon()
        else:
            self._say()

    def _say_soon(self) -> None:
        """In two passes of the loop: one polls the sockets, in the other what arrived is handed to us.

        What others hand in meanwhile leaves in the same write.
        """
        if not self._saying and not self._pipeline.ended:
            self._saying = True
            self._loop.call_soon(self._loop.call_soon, self._say)

    def _say(self) -> None:
        self._saying = False
        pipeline = self._pipeline
        if self._streaming or not self._wire.writable.is_set():
            return  # `_send_body` or `writable_again` goes on
        self._outlet.notice_a_dead_transport()
        if pipeline.due is None:
            self._waiting_since = self._loop.time()
        said: list[bytes] | None = None if self.trace is None else []
        if output := pipeline.output(said):
            self._transport.write(output)
            if len(output) >= WRITE:
                self._say_soon()  # there may be more than goes into one write
            self._watch()
        if self.trace is not None and said:
            self.trace(">", b"".join(said))
        self._look()

    def _look(self) -> None:
        """Wake whoever has something to do."""
        pipeline = self._pipeline
        if pipeline.ended:
            self._notify()
            return
        if pipeline.news or pipeline.body_wanted is not None or (self._finishing and pipeline.idle):
            self._changed.set()
        if pipeline.room:
            self._room.set()

    async def _send_body(self) -> None:
        """Stream a body. By DATA its last chunk, the dot and the next group leave in one write."""
        body, command = self._pipeline.begin_body()
        self._streaming = True
        try:
            if command:
                if self.trace is not None:
                    self.trace(">", command)
                last = b""
                complete = await self._outlet.send_chunk(body, command)
            else:
                encoder = Encoder(pure=body.pure)
                held = await self._outlet.send_lines(body, encoder)
                last = held + encoder.finish()
                complete = encoder.octets == body.size
            # An answer that came before the last byte answers something else: seen now, it is not taken for a success.
            await let_the_loop_read()
            self._outlet.notice_a_dead_transport()
            if self._pipeline.ended:
                return
            if not complete or not body.unchanged():
                self._pipeline.abandon("the message was changed while it was being sent", changed=True)
                return
            self._waiting_since = self._loop.time()
            following = self._pipeline.end_body()
            self._outlet.write(last + following)
            self._watch()
            if self.trace is not None:
                self.trace(">", (b"" if command else b".\r\n") + following)
        except OSError as error:
            self._pipeline.abandon(f"the message cannot be read: {error.strerror or error}")
        finally:
            self._streaming = False
            self._say_soon()

    def _drop(self) -> None:
        """Abort the transport, once: a TLS transport of CPython 3.11 may raise when it is told again."""
        if not self._dropped:
            self._dropped = True
            if self._timer is not None:
                self._timer.cancel()
            self._transport.abort()

    async def _wait_until_over(self) -> None:
        while not self._pipeline.ended:
            self._changed.clear()
            await self._changed.wait()

    @property
    def _over(self) -> bool:
        return self._finishing or self._pipeline.ended

    def _notify(self) -> None:
        self._changed.set()
        self._room.set()
        if self._pipeline.ended:
            self._wire.writable.set()  # nobody needs to wait for a server that takes no more

    # What is waited for

    def _watch(self) -> None:
        """Look at the due answer's deadline in time, whichever stage it is of by then: one timer, seldom set."""
        if self._timer is None and self._pipeline.due is not None and not self._dropped:
            soonest = min(self._deadlines.command, self._deadlines.data)
            self._timer = self._loop.call_later(soonest, self._look_at_the_clock)

    def _look_at_the_clock(self) -> None:
        self._timer = None
        stage = self._pipeline.due
        if stage is None or self._pipeline.ended:
            return
        now = self._loop.time()
        deadline = self._waiting_since + self._deadlines.of(stage)
        if self._streaming:  # the answer to a chunk that has not left yet
            self._watch()
        elif now >= deadline:
            asked = "the message" if stage is Stage.BODY else stage.upper()
            self._pipeline.lost(f"no answer to {asked} within {self._deadlines.of(stage):g} s")
            self._notify()
        else:
            soonest = min(self._deadlines.command, self._deadlines.data)
            self._timer = self._loop.call_at(min(deadline, now + soonest), self._look_at_the_clock)

    # What the connection reports

    def received(self, data: bytes) -> None:
        """Bytes from the server."""
        if self.trace is not None:
            self.trace("<", data)
        pipeline = self._pipeline
        before = pipeline.answers_read
        pipeline.receive(data)
        if pipeline.answers_read != before:
            self._waiting_since = self._loop.time()
            self.alive()
        if not pipeline.news or not pipeline.extensions.pipelining:  # else nothing may be said before that is settled
            self._say_next()
        self._look()

    def disconnected(self, why: str) -> None:
        """The connection is gone."""
        self._pipeline.lost(why)
        self._notify()

    def writable_again(self) -> None:
        """The transport has sent nearly everything."""
        self._say_soon()


class _Wire(asyncio.Protocol):
    """What the transport tells, passed on."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.writable = asyncio.Event()
        self.writable.set()
        self.gone = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self._session.received(data)

    def eof_received(self) -> None:
        self._session.disconnected("the server closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        why = (
            f"the connection was lost: {getattr(exc, 'strerror', None) or exc}" if exc else "the connection was closed"
        )
        self._session.disconnected(why)
        self.writable.set()
        self.gone.set()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()
        self._session.writable_again()


class _Attempts:
    """`Session.attempts()`. No generator: one that is left half-way would have to be closed by the loop."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __aiter__(self) -> _Attempts:
        return self

    async def __anext__(self) -> tuple[Answers, ...]:
        answers = await self._session.next_answers()
        if not answers:
            raise StopAsyncIteration
        return answers
