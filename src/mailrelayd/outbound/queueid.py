"""Queue ids: time-ordered, never reused, never backwards. Pure: the time is an argument.

Sixteen characters: eleven of microseconds since the epoch, five of the node's name. The alphabet is that of
RFC 4648 base32 in lower case, but in ASCII order, so that sorting names sorts by time (FIFO = order of ids).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache

ALPHABET = "234567abcdefghijklmnopqrstuvwxyz"
_VALUE = {character: value for value, character in enumerate(ALPHABET)}
_TIME, _NODE = 11, 5
PATTERN = re.compile(rf"[2-7a-z]{{{_TIME + _NODE}}}")
RESERVE = 10_000_000  # microseconds written ahead: the disk is asked at most every ten seconds


def encode(number: int, length: int) -> str:
    """`number` as `length` characters, most significant first."""
    characters = ""
    for shift in range(5 * (length - 1), -1, -5):
        characters += ALPHABET[number >> shift & 31]
    return characters


@lru_cache(maxsize=8)
def node_part(node: str) -> str:
    """Five characters that tell the ids of one node from those of another."""
    return encode(int.from_bytes(hashlib.sha256(node.encode()).digest()[:4], "big") >> 7, _NODE)


def valid(text: str) -> bool:
    """Whether this could be a queue id. Nothing else may become part of a path."""
    return PATTERN.fullmatch(text) is not None


def arrived_at(queue_id: str) -> float:
    """Seconds since the epoch at which the id was given: the message's arrival."""
    return microseconds(queue_id) / 1_000_000


def microseconds(queue_id: str) -> int:
    """The id's time, exactly."""
    number = 0
    for character in queue_id[:_TIME]:
        number = number * 32 + _VALUE[character]
    return number


@dataclass(slots=True)
class Sequence:
    """Gives out ids. `reserved` is the first microsecond that is not yet written down as used.

    Whoever has written the number that `take` asks for says so by setting `reserved` to it.
    """

    node: str
    last: int
    reserved: int = 0

    def take(self, now: float) -> tuple[str, int | None]:
        """The next id and, where more must be reserved on disk *before the id is used*, the number to write."""
        self.last = max(int(now * 1_000_000), self.last + 1)
        write = self.last + RESERVE if self.last >= self.reserved else None
        return encode(self.last, _TIME) + node_part(self.node), write
