"""Large bodies on their way into a transport, never in memory as a whole, and never a byte more than was announced."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass

from mailrelayd.outbound.pipeline import Pipeline
from mailrelayd.outbound.values import Body, Copyable
from mailrelayd.outbound.wire import Encoder, LineEnds

COPY = 1 << 18
"""Octets that the kernel is asked to copy at a time: each within `Outlet.stall`, and in between the server is heard."""


@dataclass(frozen=True, slots=True)
class Outlet:
    """Where a connection's bytes leave. That it is lost is told to the pipeline, whose state says so then."""

    transport: asyncio.Transport
    pipeline: Pipeline
    writable: asyncio.Event  # the transport holds little
    stall: float  # seconds until one chunk must be taken
    alive: Callable[[], None]  # called with every part that leaves by itself

    async def send_chunk(self, body: Body, command: bytes) -> bool:
        """BDAT and its octets, never one too many; whether all of them came together. Raises OSError."""
        copyable = body.copyable
        if copyable is not None and self.transport.get_extra_info("sslcontext") is None:
            self.write(command + copyable.header)
            if (copied := await self._copied(copyable)) is not None:
                return copied
            command, skip = b"", len(copyable.header)
        else:
            skip = 0
        line_ends = LineEnds(pure=body.pure)
        chunks = body.chunks()
        try:
            async for chunk in chunks:
                lines = line_ends.feed(chunk)
                if line_ends.octets > body.size:
                    return False
                if skip:  # the header has left already, and is a chunk of its own
                    lines, skip = lines[skip:], 0
                await self._write_chunk(command + lines)
                command = b""
                if self.pipeline.ended:
                    return False
        finally:
            await _aclose(chunks)
        lines = line_ends.finish()
        if line_ends.octets != body.size:
            return False
        self.write(lines)
        return True

    async def _copied(self, copyable: Copyable) -> bool | None:
        """Let the kernel copy; None: it cannot, on this loop, and nothing was copied. Raises OSError."""
        offset, end = copyable.offset, copyable.offset + copyable.size
        while offset < end and not self.pipeline.ended:
            try:
                async with asyncio.timeout(self.stall):
                    copied = await asyncio.get_running_loop().sendfile(
                        self.transport,
                        copyable.file,  # type: ignore[arg-type]
                        offset,
                        min(COPY, end - offset),
                        fallback=False,
                    )
            except (NotImplementedError, asyncio.SendfileNotAvailableError) as error:
                if offset == copyable.offset:
                    return None
                await let_the_loop_read()  # it says the same of a connection that was reset
                self.notice_a_dead_transport()
                if not self.pipeline.ended:
                    raise OSError(errno.EIO, "the kernel copies it no further") from error
                return False
            except TimeoutError:
                self.pipeline.lost(f"the server took nothing of the body for {self.stall:g} s")
                return False
            except (ConnectionError, RuntimeError) as error:  # RuntimeError: it is closing already
                await let_the_loop_read()
                self.pipeline.lost(f"the connection was lost: {error}")
                return False
            if not copied:
                return False  # the file has become shorter
            offset += copied
            self.alive()
            await let_the_loop_read()
            self.notice_a_dead_transport()
        return offset == end

    async def send_lines(self, body: Body, encoder: Encoder) -> bytes:
        """All of a body but its end, which is returned. Raises OSError."""
        held = b""
        chunks = body.chunks()
        try:
            async for chunk in chunks:
                if held:
                    await self._write_chunk(held)
                if self.pipeline.ended:
                    return b""
                held = encoder.feed(chunk)
        finally:
            await _aclose(chunks)
        return held

    async def _write_chunk(self, data: bytes) -> None:
        """Write and wait until it is (nearly) out, so that a large message is never in memory as a whole."""
        self.write(data)
        if not self.writable.is_set():
            try:
                async with asyncio.timeout(self.stall):
                    await self.writable.wait()
            except TimeoutError:
                self.pipeline.lost(f"the server took nothing of the body for {self.stall:g} s")
        await asyncio.sleep(0)  # a fast connection never makes us wait: others want to run, too

    def write(self, data: bytes) -> None:
        self.notice_a_dead_transport()
        if data and not self.pipeline.ended:
            self.transport.write(data)

    def notice_a_dead_transport(self) -> None:
        """A failed write closes the transport at once, but `connection_lost` comes a pass later."""
        if self.transport.is_closing():
            self.pipeline.lost("the connection was lost")


async def let_the_loop_read() -> None:
    """Two passes: one to poll the sockets, one in which what arrived is handed to us."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def _aclose(chunks: AsyncIterator[bytes]) -> None:
    """Close a generator now, and with it the file it reads."""
    if isinstance(chunks, AsyncGenerator):
        await chunks.aclose()
