"""The stored bytes of one message, for a person who wants to see them."""

from __future__ import annotations

from collections.abc import Iterator

from mailrelayd.outbound.headers import Header
from mailrelayd.outbound.stored import HEADER_LIMIT, FileSource, header_of

PIECE = 1 << 16  # bytes


def contents(source: FileSource, *, header: bool = False) -> Iterator[bytes]:
    """The message as it was handed in, in pieces; `header`: only up to its empty line. Closes it. Raises OSError."""
    try:
        end = source.size
        if header:
            found = header_of(source.fd)
            end = min(end, found.body if isinstance(found, Header) else HEADER_LIMIT)
        offset = 0
        while piece := source.read(offset, min(PIECE, end - offset)):
            offset += len(piece)
            yield piece
    finally:
        source.close()
