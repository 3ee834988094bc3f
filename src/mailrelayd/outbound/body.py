"""The bytes of a queued message as they go on the wire: its header edited, the rest untouched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass

from mailrelayd.outbound import headers
from mailrelayd.outbound.headers import Header, Unreadable
from mailrelayd.outbound.queue import Source
from mailrelayd.outbound.stored import HEADER_LIMIT, Reading
from mailrelayd.outbound.values import QueuedMessage
from mailrelayd.outbound.wire import Scanner, WireFacts

CHUNK = 1 << 16  # bytes
SMALL = 1 << 18  # bytes; up to here a message is read once and sent in one piece


@dataclass(slots=True)
class MessageBody:
    """`values.Body` over a queue's Source. `progress` is called with every chunk that leaves."""

    source: Source
    header: bytes
    offset: int  # where the file's own body begins
    facts: WireFacts
    progress: Callable[[], None]
    whole: bytes | None = None  # a small message's body, already read

    @property
    def size(self) -> int:
        """Octets on the wire, without dot stuffing."""
        return self.facts.size

    @property
    def eight_bit(self) -> bool:
        """Whether any octet is above 127."""
        return self.facts.eight_bit

    @property
    def has_nul(self) -> bool:
        """Whether it holds what SMTP cannot carry."""
        return self.facts.has_nul

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Header and body; line ends as they are in the file."""
        if self.whole is not None:
            yield self.header + self.whole
            return
        yield self.header
        for chunk in _pieces(self.source, self.offset):
            self.progress()
            yield chunk

    def unchanged(self) -> bool:
        """False as soon as the file is no longer what it was when its size was taken."""
        return self.source.unchanged()


def _pieces(source: Source, offset: int) -> Iterator[bytes]:
    # Up to the size that was announced: a file that grows for ever must end, and is noticed afterwards.
    while offset < source.size and (piece := source.read(offset, min(CHUNK, source.size - offset))):
        offset += len(piece)
        yield piece


async def prepare(
    source: Source, message: QueuedMessage, *, node: str, reading: Reading, progress: Callable[[], None]
) -> MessageBody | Unreadable:
    """Read what MAIL needs to know. A large message is read in the background. Raises OSError."""
    data = source.read(0, min(source.size, SMALL))
    header = headers.split_header(data, HEADER_LIMIT, complete=len(data) == source.size)
    if isinstance(header, Unreadable) and len(data) < source.size:
        data = source.read(0, HEADER_LIMIT + 1)
        header = headers.split_header(data, HEADER_LIMIT, complete=True)
    if isinstance(header, Unreadable):
        return header
    edited = _edited(header, message, source.uid, node, reading)
    if source.size <= SMALL:
        whole = data[header.body :]
        return MessageBody(source, edited, header.body, _facts(edited, iter((whole,))), progress, whole)
    facts = await asyncio.to_thread(_facts, edited, _pieces(source, header.body))
    return MessageBody(source, edited, header.body, facts, progress)


def _facts(header: bytes, pieces: Iterator[bytes]) -> WireFacts:
    scanner = Scanner()
    scanner.feed(header)
    for piece in pieces:
        scanner.feed(piece)
    return scanner.finish()


def _edited(header: Header, message: QueuedMessage, uid: int, node: str, reading: Reading) -> bytes:
    return headers.edit(
        header,
        queue_id=message.queue_id,
        node=node,
        arrived_at=message.progress.arrived_at,
        uid=uid,
        pickup=message.rule == "pickup" or (message.rule == "sidecar" and reading.rule == "pickup"),
        from_address=reading.from_address,
        rewrite_from=reading.rewrite_from,
        sender=message.envelope.sender,
    )
