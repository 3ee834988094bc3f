"""The bytes of a queued message as they go on the wire: its header edited, the rest untouched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial

from mailrelayd.outbound import headers, marking
from mailrelayd.outbound.asking import Asking, revise
from mailrelayd.outbound.envelope import forbidden
from mailrelayd.outbound.headers import Header, Unreadable
from mailrelayd.outbound.queue import Source
from mailrelayd.outbound.stored import SMALL, Reading
from mailrelayd.outbound.values import ApprovalCopy, Copyable, Descriptor, QueuedMessage
from mailrelayd.outbound.wire import Scanner, WireFacts, line_ends

CHUNK = 1 << 17  # bytes


@dataclass(slots=True)
class MessageBody:
    """`values.Body` over a queue's Source. `progress` is called with every chunk that leaves."""

    source: Source
    header: bytes
    offset: int  # where the file's own body begins
    facts: WireFacts
    progress: Callable[[], None]
    whole: bytes | None = None  # all of a small message as it goes on the wire

    @classmethod
    def small(cls, source: Source, header: bytes, body: bytes, progress: Callable[[], None]) -> MessageBody:
        """A message that has been read already."""
        whole = line_ends(header + body)
        facts = WireFacts(len(whole), not whole.isascii(), b"\0" in whole, pure=True)
        return cls(source, b"", 0, facts, progress, whole)

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

    @property
    def pure(self) -> bool:
        """Whether header and file hold no bare CR or LF and end with CRLF."""
        return self.facts.pure

    @property
    def copyable(self) -> Copyable | None:
        """Where the kernel can take all but the header from; None: not as it is, or not from a file."""
        if self.whole is not None or not self.pure or not isinstance(self.source, Descriptor):
            return None
        return Copyable(self.header, self.source, self.offset, self.source.size - self.offset)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Header and body; line ends of a large one as they are in the file."""
        if self.whole is not None:
            yield self.whole
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


def has_block(message: QueuedMessage, reading: Reading, blocks: Collection[str]) -> bool:
    """Whether an X-Sender/X-Receiver block at the top is for us, and not for who receives the message.

    `blocks`: the producers whose own folder has `envelope = "pickup"`. A sidecar speaks in the place of the block.
    """
    expected = message.producer in blocks if message.producer else reading.rule == "pickup"
    return message.rule == "pickup" or (message.rule == "sidecar" and expected)


async def prepare(
    source: Source,
    message: QueuedMessage,
    *,
    node: str,
    reading: Reading,
    progress: Callable[[], None],
    blocks: Collection[str] = (),
    redirected: tuple[str, ...] = (),
    asking: Asking | None = None,
    copy: ApprovalCopy | None = None,
) -> MessageBody | Unreadable:
    """Read what MAIL needs to know. A large message is read in the background. Raises OSError.

    `blocks` as in `has_block`; `redirected`: the recipients in whose place somebody else gets this one; `copy`: the one
    that is sent of a request for approval, as `asking` says.
    """
    header, data = source.header()
    if isinstance(header, Unreadable):
        return header
    whose = reading.producer(message.producer) if message.producer else None
    if whose is not None and (refused := forbidden(header, whose)):
        return refused
    if copy is not None and asking is None:
        raise ValueError("nobody may answer a copy")
    pickup = has_block(message, reading, blocks)
    edited = headers.edit(
        header,
        queue_id=message.queue_id,
        node=node,
        arrived_at=message.progress.arrived_at,
        uid=source.uid if message.uid is None else message.uid,
        pickup=pickup,
        from_address=reading.from_address,
        rewrite_from=reading.rewrite_from,
        sender=message.envelope.sender,
        redirected=redirected,
        revise=partial(revise, asking=asking, token=copy.token, queue_id=message.queue_id) if asking and copy else list,
    )
    if asking and copy and asking.mark_body and header.empty_line and source.size <= marking.MAX_MARKED:
        added = marking.block(asking, copy.token, header.fields)
        kept = headers.kept(header, pickup=pickup)
        body = await asyncio.to_thread(_marked, source, header, kept, added)
        return MessageBody.small(source, edited, body, progress)
    if source.size <= SMALL:
        return MessageBody.small(source, edited, data[header.body :], progress)
    facts = await asyncio.to_thread(_facts, edited, _pieces(source, header.body))
    return MessageBody(source, edited, header.body, facts, progress)


def _marked(source: Source, header: Header, kept: list[headers.Field], added: marking.Block) -> bytes:
    body = b"".join(_pieces(source, header.body))
    return marking.mark(kept, body, added) or body


def _facts(header: bytes, pieces: Iterator[bytes]) -> WireFacts:
    scanner = Scanner()
    scanner.feed(header)
    for piece in pieces:
        scanner.feed(piece)
    return scanner.finish()
