"""Whoever calls submit.sock: what he says, and how long he may take to say it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from mailrelayd.clock import Clock
from mailrelayd.outbound import submission

BLOCK = 1 << 18  # bytes handed to the disk at a time


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client can cost; times in seconds."""

    connections: int = 256  # of everybody: descriptors are what the daemon delivers with
    each: int = 64  # connections of one user
    served: int = 32  # messages taken at the same time
    served_each: int = 8  # of one user
    patience: float = 30.0  # to wait for one's turn
    options_within: float = 5.0
    chunk_within: float = 10.0
    message_within: float = 60.0  # of reading, all in all: clients have the whole message before they connect
    answer_within: float = 10.0


class RefusedError(Exception):
    """Nothing was taken: sysexits status, reason, hint. `again`: for want of time, not because of what it is."""

    def __init__(self, status: int, reason: str, hint: str = "", *, again: bool = False) -> None:
        super().__init__(reason)
        self.status, self.reason, self.hint, self.again = status, reason, hint, again


@dataclass(slots=True)
class Caller:
    """One connection and what is left of its time."""

    reader: asyncio.StreamReader
    clock: Clock
    limits: Limits
    left: float = field(init=False)

    def __post_init__(self) -> None:
        self.left = self.limits.message_within

    async def options(self) -> submission.Options:
        """The first line. Raises RefusedError, TimeoutError, IncompleteReadError."""
        line = b""
        async with asyncio.timeout(self.limits.options_within):
            while not line.endswith(b"\n"):
                try:
                    line += await self.reader.readuntil(b"\n")
                except asyncio.LimitOverrunError as error:
                    line += await self.reader.readexactly(error.consumed)
                if len(line) > submission.LINE:
                    raise RefusedError(os.EX_DATAERR, "the options are longer than 1 MiB", "name fewer recipients")
        try:
            return submission.decode(line)
        except submission.OptionsError as error:
            raise RefusedError(os.EX_PROTOCOL, str(error)) from None

    async def blocks(self, most: int) -> AsyncGenerator[tuple[bytes, bool], None]:
        """The message in pieces for the disk, and whether a piece is the last. Raises as `options` does."""
        pieces: list[bytes] = []
        gathered = total = chunks = 0
        while size := int.from_bytes(await self._read(submission.LENGTH), "big"):
            if size > submission.CHUNK:
                raise RefusedError(os.EX_PROTOCOL, f"a chunk has at most {submission.CHUNK} bytes")
            total += size
            chunks += 1
            # Each costs time that everybody's mail waits for: byte by byte, one user would stop it all.
            if chunks > submission.SMALL_CHUNKS + total // submission.SMALL:
                raise RefusedError(os.EX_PROTOCOL, f"its chunks are too small: {submission.SMALL} bytes at least")
            if total > most:
                reason = f"the message is larger than {most} bytes"
                raise RefusedError(os.EX_DATAERR, reason, "send less, or raise [spool] max_message_size and reload")
            pieces.append(await self._read(size))
            gathered += size
            if gathered >= BLOCK:
                yield b"".join(pieces), False
                pieces, gathered = [], 0
        yield b"".join(pieces), True

    async def _read(self, size: int) -> bytes:
        began = self.clock.monotonic()
        async with asyncio.timeout(min(self.limits.chunk_within, self.left)):
            data = await self.reader.readexactly(size)
        self.left -= self.clock.monotonic() - began
        return data
