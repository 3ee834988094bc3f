"""One connection as the server sees it: bytes with their place in the stream, answers with their moment."""

from __future__ import annotations

import array
import asyncio
import fcntl
import socket
import ssl
import struct
import termios
import time
from collections import deque
from collections.abc import Callable
from typing import cast


class Ended(Exception):  # noqa: N818 - an event, not an error
    """The connection is over; `how` is what the journal says of it."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


class Mark:
    """The moment an answer left us.

    `offset` is a place in the client's stream: what stands before it was, or may have been, on its way before
    the answer. None as long as the answer has not left, or while that place is not yet known.
    """

    __slots__ = ("at", "heard", "offset")

    def __init__(self) -> None:
        self.offset: int | None = None
        self.heard: int | None = None  # how far the client had been read when it left
        self.at = 0.0

    def before(self, offset: int) -> bool:
        """Whether the byte at `offset` certainly came to this machine after the answer had left."""
        return self.offset is not None and self.offset <= offset

    def behind(self, offset: int) -> bool:
        """Whether the byte at `offset` certainly came before the answer left."""
        return self.heard is None or offset < self.heard


class Wire(asyncio.Protocol):
    """Reads lines and bodies, writes answers after an optional delay (a round trip to simulate)."""

    def __init__(self, opened: Callable[[Wire], None], delay: Callable[[], float]) -> None:
        self._opened = opened
        self._delay = delay
        self.transport: asyncio.Transport
        self.buffer = bytearray()
        self.received = 0  # bytes that came, over the whole connection (inside TLS: of plain text)
        self.arrived = 0.0  # when the last of them came
        self.lost: str | None = None  # "eof" or "reset", once the client is gone
        self.closed_by_us = ""
        self._waiter: asyncio.Future[None] | None = None
        self._late: deque[tuple[bytes, Mark]] = deque()
        self._unplaced: list[Mark] = []
        self._pieces: deque[tuple[int, float]] = deque()  # where each piece ends, and when it came

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._opened(self)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self.received += len(data)
        self.arrived = time.time()
        self._pieces.append((self.received, self.arrived))
        if self._unplaced:
            for mark in self._unplaced:
                mark.offset = self.received
            self._unplaced.clear()
        self._wake()

    def eof_received(self) -> bool:
        self.lost = self.lost or "eof"
        self._wake()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = self.lost or ("reset" if exc else "eof")
        self.transport.close()  # inside TLS asyncio takes it for left open otherwise
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What the session calls

    @property
    def position(self) -> int:
        """Where in the client's stream the next unread byte stands."""
        return self.received - len(self.buffer)

    def came(self) -> float:
        """When the last byte that was taken had come."""
        while self._pieces and self._pieces[0][0] < self.position:
            self._pieces.popleft()
        return self._pieces[0][1] if self._pieces else self.arrived

    async def more(self) -> None:
        """Wait for bytes beyond those in the buffer."""
        if self.closed_by_us or self.lost:
            raise Ended(self.closed_by_us or self.lost or "")
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    async def line(self, limit: int = 65536) -> bytes:
        """The next line with its line end, at most `limit` bytes."""
        start = 0
        while (end := self.buffer.find(b"\n", start)) < 0 and len(self.buffer) < limit:
            start = len(self.buffer)
            await self.more()
        return self.take(end + 1 if end >= 0 else limit)

    async def exactly(self, count: int) -> bytes:
        """The next `count` bytes."""
        while len(self.buffer) < count:
            await self.more()
        return self.take(count)

    def take(self, count: int) -> bytes:
        """Bytes off the front of the buffer."""
        data = bytes(self.buffer[:count])
        del self.buffer[:count]
        return data

    def write(self, data: bytes) -> Mark:
        """Answer, now or after the delay, in order; the mark is set when the bytes go."""
        mark = Mark()
        delay = self._delay()
        if delay > 0 or self._late:
            self._late.append((data, mark))
            asyncio.get_running_loop().call_later(delay, self._write_late)
        else:
            self._write(data, mark)
        return mark

    def _write_late(self) -> None:
        self._write(*self._late.popleft())

    def _write(self, data: bytes, mark: Mark) -> None:
        if self.transport.is_closing():
            return
        mark.at = time.time()
        mark.heard = self.received
        if self._unread_in_kernel():  # it came before the answer, but where it ends we learn with the next chunk
            self._unplaced.append(mark)
        else:
            mark.offset = self.received
        self.transport.write(data)  # last: a quick client answers before this returns

    def _unread_in_kernel(self) -> int:
        count = array.array("i", [0])
        sock: socket.socket = self.transport.get_extra_info("socket")
        if sock.fileno() >= 0:
            fcntl.ioctl(sock.fileno(), termios.FIONREAD, count)
        return count[0]

    async def sent(self) -> None:
        """Wait until delayed answers have gone."""
        if self._late:
            await asyncio.sleep(self._delay() + 0.001)

    def close(self, how: str) -> None:
        """End the connection in order."""
        self.closed_by_us = self.closed_by_us or how
        if not self.transport.is_closing():
            self.transport.resume_reading()  # inside TLS the other side has a part in the end
        self.transport.close()

    def reset(self, how: str) -> None:
        """End the connection by RST."""
        self.closed_by_us = self.closed_by_us or how
        sock: socket.socket = self.transport.get_extra_info("socket")
        if sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Become the server side of TLS. Nothing may be read between the caller's last write and this."""
        loop = asyncio.get_running_loop()
        upgraded = await loop.start_tls(self.transport, self, context, server_side=True, ssl_handshake_timeout=20)
        if upgraded is None:
            raise Ended("reset")
        self.transport = upgraded
