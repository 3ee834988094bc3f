"""The files of waiting messages, on their way to the smarthost: each is opened once, and read once.

What the pickup has read of a file a moment ago is kept, in bounded memory, for those that are next in line.
"""

from __future__ import annotations

import asyncio
from functools import partial

from mailrelayd.outbound.headers import Unreadable
from mailrelayd.outbound.record import Record
from mailrelayd.outbound.stored import FileSource, Head, Reader
from mailrelayd.outbound.values import QueuedMessage

LIMIT = 2 << 20  # bytes
QUICK = 1 << 16  # bytes; what is not larger is read without asking a thread
FIELD, MESSAGE = 200, 1500  # bytes; about what a parsed header field, and all else about a message, takes


class Arrivals:
    """Messages that came just now, with what was read of them: at most LIMIT bytes, and those that came first."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[QueuedMessage, Head]] = {}
        self._taken = 0

    def keep(self, message: QueuedMessage, head: Head) -> None:
        """Remember a message whose header tells everything, if there is room."""
        if head.whole and self._taken + _size(head) <= LIMIT:
            self._taken += _size(head)
            self._kept[message.queue_id] = (message, head)

    def take(self, queue_id: str) -> tuple[QueuedMessage, Head] | None:
        """What is known of a message; it is forgotten."""
        found = self._kept.pop(queue_id, None)
        if found is not None:
            self._taken -= _size(found[1])
        return found

    def clear(self) -> None:
        """Another configuration may read the headers otherwise."""
        self._kept.clear()
        self._taken = 0


def _size(head: Head) -> int:
    return MESSAGE + len(head.data) + FIELD * len(head.header.fields)


class Files:
    """Between the claim of a message and its end."""

    def __init__(self, reader: Reader) -> None:
        self.arrivals = Arrivals()
        self._reader = reader
        self._stamps: dict[str, tuple[int, int, int]] = {}  # of files whose producer may still hold them open
        self._sources: dict[str, FileSource] = {}  # of what is in flight and was not asked for yet

    def close(self) -> None:
        """Give all descriptors back."""
        while self._sources:
            self._sources.popitem()[1].close()

    def may_be_written_to(self, queue_id: str, stamp: tuple[int, int, int]) -> None:
        """What a file must look like until the end, as its producer may still hold it open."""
        self._stamps[queue_id] = stamp

    def just_arrived(self, queue_id: str) -> tuple[FileSource, QueuedMessage] | None:
        """What the pickup has read a moment ago, unless its producer has changed it since. Raises OSError."""
        kept = self.arrivals.take(queue_id)
        if kept is None:
            return None
        message, head = kept
        source = self._open(queue_id)
        if source.is_known(head):
            return source, message
        source.close()
        return None

    async def read(self, queue_id: str, known: Record | None) -> tuple[FileSource, QueuedMessage | Unreadable]:
        """A message as its record, or else its header, tells it. Raises OSError.

        A header full of hostile addresses takes up to a second to read: a large one is read in the background.
        """
        source = self._open(queue_id)
        read = partial(self._reader.told, queue_id, known, source)
        begun: asyncio.Future[QueuedMessage | Unreadable] | None = None
        try:
            if source.size <= QUICK or (known is not None and known.envelope is not None):
                return source, read()
            begun = asyncio.get_running_loop().run_in_executor(None, read)
            return source, await asyncio.shield(begun)
        except BaseException:
            if begun is None or begun.done():
                source.close()
            else:  # cancelled, and still being read
                begun.add_done_callback(partial(_close_after, source))
            raise

    def keep(self, queue_id: str, source: FileSource) -> None:
        """Until somebody takes it, or the message is let go."""
        self._sources[queue_id] = source

    def take(self, queue_id: str) -> FileSource:
        """The bytes of a message in flight. Raises OSError."""
        return self._sources.pop(queue_id, None) or self._open(queue_id)

    def let_go(self, queue_id: str, *, forget: bool = True) -> None:
        """Nobody wants a message's bytes any more; `forget`: nor will its producer's changes be looked for."""
        source = self._sources.pop(queue_id, None)
        if source is not None:
            source.close()
        if forget:
            self._stamps.pop(queue_id, None)

    def _open(self, queue_id: str) -> FileSource:
        return FileSource.of(self._reader.queue, f"{queue_id}.eml", self._stamps.get(queue_id))


def _close_after(source: FileSource, read: asyncio.Future[QueuedMessage | Unreadable]) -> None:
    if not read.cancelled():
        read.exception()  # nobody wants to know any more
    source.close()
