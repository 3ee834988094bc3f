"""Mail transactions on an open connection: `pipeline.Pipeline` on an asyncio transport, with deadlines.

There is no task inside. Who iterates over `attempts()` drives everything: writes commands, streams bodies, watches the
deadlines. Only reading goes on by itself, so no answer is missed while its predecessor is being written to disk.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass

from mailrelayd.outbound.pipeline import Pipeline
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


def _nobody(_direction: str, _said: bytes) -> None:
    """Nobody listens."""


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
    ) -> None:
        self.extensions = extensions
        self.relay = relay  # host[ip]:port, for log lines
        self.setup = 0.0  # seconds from DNS to AUTH; told by whoever opened it
        self.tls = tls  # protocol version and cipher; "" without TLS
        self.alive: Callable[[], None] = lambda: None  # called with every answer
        self.trace: Callable[[str, bytes], None] = _nobody  # told what is said (">") and heard ("<"); never a body
        self._transport = transport
        self._deadlines = deadlines
        self._loop = asyncio.get_running_loop()
        self._pipeline = Pipeline(extensions)
        self._bodies: deque[Body] = deque()  # of the transactions not yet handed out as Answers
        self._finishing = False
        self._dropped = False
        self._waiting_since = self._loop.time()  # the due answer's clock
        self._changed = asyncio.Event()  # something happened that the driver should look at
        self._room = asyncio.Event()  # something happened that send() should look at
        self._wire = _Wire(self)
        transport.set_protocol(self._wire)
        if transport.is_closing():
            self._pipeline.lost("the server closed the connection")

    # For the owner

    @property
    def settled(self) -> int:
        return self._pipeline.settled

    @property
    def trouble(self) -> Response | None:
        return self._pipeline.trouble

    async def send(self, transaction: Transaction, body: Body) -> bool:
        """Hand in a transaction; waits for room. False: it was not taken, the connection is gone or finishing.

        Raises ValueError where an address cannot be said to this server; nothing is taken then.
        """
        while not self._pipeline.room and not self._over:
            self._room.clear()
            await self._room.wait()
        if self._over:
            return False
        self._pipeline.offer(transaction, size=body.size, eight_bit=body.eight_bit)
        self._bodies.append(body)
        self._changed.set()
        return True

    def finish(self, *, stopping: bool = False) -> None:
        """Nothing more comes: `attempts()` ends when everything taken is answered.

        With `stopping` no further body begins: the one under way is finished, what is ahead of it is given back
        untried.
        """
        self._finishing = True
        if stopping:
            self._pipeline.stop()
        self._notify()

    def attempts(self) -> AsyncIterator[Answers]:
        """One `Answers` for each `send` that returned True, in the same order, also after the connection is lost.

        Asking for the next one says that the one before is settled on disk. Ends after `finish`, or when the
        connection has gone, also while nothing is in flight.
        """
        return _Attempts(self)

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

    async def next_answers(self) -> Answers | None:
        """Drive the connection until a transaction is answered; None at the end."""
        self._pipeline.settle()
        try:
            while (answers := self._pipeline.take()) is None:
                if self._pipeline.ended or (self._finishing and self._pipeline.idle):
                    break
                await self._step()
        except BaseException:
            self.abort()  # half a command or half a body may be out: never reused
            raise
        if self._pipeline.ended:
            self._drop()
        self._notify()
        if answers is not None:
            self._bodies.popleft()
        return answers

    async def _step(self) -> None:
        """Do what can be done now, or wait until something happens."""
        self._changed.clear()
        if self._pipeline.body_wanted is not None:
            await self._send_body(self._bodies[0])
            return
        # A write to a connection that has failed makes the transport drop what it has not read yet: first read.
        await _let_the_loop_read()
        if self._pipeline.due is None:
            self._waiting_since = self._loop.time()
        if commands := self._pipeline.commands():
            self._write(commands)
            self.trace(">", commands)
        elif self._pipeline.body_wanted is None:
            await self._wait_for_answer()

    async def _wait_for_answer(self) -> None:
        """Until something happens; with an answer due, at most until its deadline."""
        stage = self._pipeline.due
        deadline = None if stage is None else self._waiting_since + self._deadlines.of(stage)
        try:
            async with asyncio.timeout_at(deadline):
                await self._changed.wait()
        except TimeoutError:
            stage = self._pipeline.due
            if stage is not None and self._loop.time() >= self._waiting_since + self._deadlines.of(stage):
                asked = "the message" if stage is Stage.BODY else stage.upper()
                self._pipeline.lost(f"no answer to {asked} within {self._deadlines.of(stage):g} s")

    async def _send_body(self, body: Body) -> None:
        """Stream a body; its last chunk, the dot and the next group leave in one write.

        In two writes, Nagle's algorithm and a delayed ACK would cost some 40 ms a message.
        """
        self._pipeline.begin_body()
        encoder = Encoder()
        held = b""
        chunks = body.chunks()
        try:
            async for chunk in chunks:
                if held:
                    await self._write_chunk(held)
                if self._pipeline.ended:
                    return
                held = encoder.feed(chunk)
        except OSError as error:
            self._pipeline.abandon(f"the message cannot be read: {error.strerror or error}")
            return
        finally:
            await _aclose(chunks)
        held += encoder.finish()
        # An answer that came before the last byte answers something else: seen now, it is not taken for a success.
        await _let_the_loop_read()
        self._notice_a_dead_transport()
        if self._pipeline.ended:
            return
        if not body.unchanged() or encoder.octets != body.size:
            self._pipeline.abandon("the message was changed while it was being sent", changed=True)
            return
        self._waiting_since = self._loop.time()
        following = self._pipeline.end_body()
        self._write(held + following)
        self.trace(">", b".\r\n" + following)

    async def _write_chunk(self, data: bytes) -> None:
        """Write and wait until it is (nearly) out, so that a large message is never in memory as a whole."""
        self._write(data)
        try:
            async with asyncio.timeout(self._deadlines.stall):
                await self._wire.writable.wait()
        except TimeoutError:
            self._pipeline.lost(f"the server took nothing of the body for {self._deadlines.stall:g} s")
        await asyncio.sleep(0)  # a fast connection never makes us wait: others want to run, too

    def _write(self, data: bytes) -> None:
        self._notice_a_dead_transport()
        if not self._pipeline.ended:
            self._transport.write(data)

    def _notice_a_dead_transport(self) -> None:
        """A failed write closes the transport at once, but `connection_lost` comes a pass later."""
        if self._transport.is_closing():
            self._pipeline.lost("the connection was lost")

    def _drop(self) -> None:
        """Abort the transport, once: a TLS transport of CPython 3.11 may raise when it is told again."""
        if not self._dropped:
            self._dropped = True
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

    # What the connection reports

    def received(self, data: bytes) -> None:
        """Bytes from the server."""
        self.trace("<", data)
        before = self._pipeline.answers_read
        self._pipeline.receive(data)
        if self._pipeline.answers_read != before:
            self._waiting_since = self._loop.time()
            self.alive()
        self._notify()

    def disconnected(self, why: str) -> None:
        """The connection is gone."""
        self._pipeline.lost(why)
        self._notify()


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


class _Attempts:
    """`Session.attempts()`. No generator: one that is left half-way would have to be closed by the loop."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __aiter__(self) -> _Attempts:
        return self

    async def __anext__(self) -> Answers:
        answers = await self._session.next_answers()
        if answers is None:
            raise StopAsyncIteration
        return answers


async def _let_the_loop_read() -> None:
    """Two passes: one to poll the sockets, one in which what arrived is handed to us."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def _aclose(chunks: AsyncIterator[bytes]) -> None:
    """Close a generator now, and with it the file it reads."""
    if isinstance(chunks, AsyncGenerator):
        await chunks.aclose()
