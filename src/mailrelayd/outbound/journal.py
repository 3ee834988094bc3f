"""SPOOL/journal: which messages were sent and still wait to be removed, in slots of a fixed size. Pure.

The first slot says which format this is; each other one is empty or names a message and the inode of its file. A slot
lies in one sector, so it is written or not; its checksum tells, and what has none that fits is skipped.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable

from mailrelayd.outbound import queueid

NAME = "journal"
FORMAT = 1
SLOT = 64  # bytes; SLOT divides every sector size there is
SLOTS = 1024  # with the first
SIZE = SLOT * SLOTS
EMPTY = b"%-63s\n" % b""
_FIRST = re.compile(rb"mailrelayd journal ([0-9]{1,9}) *\n")
_DONE = re.compile(rb"(done (%s) ([0-9]{1,20})) ([0-9a-f]{8}) *\n" % queueid.PATTERN.pattern.encode())


def encode(queue_id: str, inode: int) -> bytes:
    """The slot of one message."""
    text = b"done %s %d" % (queue_id.encode(), inode)
    return b"%-63s\n" % (b"%s %08x" % (text, zlib.crc32(text)))


def whole(filled: Iterable[tuple[int, bytes]]) -> bytes:
    """A journal: nothing but these slots, by number (1 to SLOTS - 1)."""
    slots = [EMPTY] * SLOTS
    slots[0] = b"%-63s\n" % (b"mailrelayd journal %d" % FORMAT)
    for number, slot in filled:
        slots[number] = slot
    return b"".join(slots)


def decode(data: bytes) -> dict[str, int]:
    """The inode of each message that a slot names; what is damaged or foreign is skipped. Raises ValueError: newer."""
    first = _FIRST.fullmatch(data[:SLOT])
    if first is not None and int(first[1]) > FORMAT:
        raise ValueError(f"is of format {int(first[1])}, and this program knows {FORMAT}: start the newer one once")
    found: dict[str, int] = {}
    for offset in range(SLOT, len(data) - SLOT + 1, SLOT):
        slot = _DONE.fullmatch(data, offset, offset + SLOT)
        if slot is not None and int(slot[4], 16) == zlib.crc32(slot[1]):
            found[slot[2].decode()] = int(slot[3])
    return found
