"""Idempotency keys: who hands the same message in twice within a day has it sent once.

One file per key, SPOOL/keys/DIGEST, holds the queue id that took it and when. It is written when the message is
ours for good and before it may be sent; the message's record names it, so that the next start writes what a crash
left out.
"""

from __future__ import annotations

import hashlib
import re

from mailrelayd import durable
from mailrelayd.outbound import queueid

KEPT = 86400.0  # seconds
SUBMIT = "submit"  # the producer's name of what came through the socket
_DIGEST = re.compile(r"[0-9a-f]{64}")


def digest(uid: int, producer: str, key: str) -> str:
    """What stands for a key: nobody can use up, or ask for, another user's or another producer's.

    The socket and pickup/ itself are two doors of one house: `sendmail` may try the second after the first.
    """
    door = "" if producer == SUBMIT else producer
    text = "\0".join((str(uid), door, key))  # neither a number nor a configured name holds a NUL
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Keys:
    """The folder of keys. Raises OSError wherever the disk does."""

    def __init__(self, folder: durable.Folder) -> None:
        self.folder = folder
        self._unwritten: dict[str, tuple[str, float]] = {}  # not on disk yet, or the disk was full

    def close(self) -> None:
        """Give the descriptor back."""
        self.folder.close()

    def seen(self, key: str, now: float) -> str | None:
        """The queue id that took this key within the last 24 hours."""
        queue_id, taken_at = self._unwritten.get(key) or self._read(key)
        # One from the day after tomorrow was written under a wrong date; it must not swallow mail until then.
        return queue_id if queue_id and abs(now - taken_at) < KEPT else None

    def _read(self, key: str) -> tuple[str, float]:
        if not _DIGEST.fullmatch(key):
            return "", 0.0
        try:
            words = self.folder.read(key, limit=64).decode("ascii", "replace").split()
        except FileNotFoundError:
            return "", 0.0
        if len(words) != 2 or not queueid.valid(words[0]) or not words[1].isdecimal():
            return "", 0.0
        return words[0], float(words[1])

    def remember(self, key: str, queue_id: str, now: float) -> None:
        """The key is this message's, for as long as this process lives."""
        self._unwritten[key] = queue_id, now

    def write(self, key: str) -> None:
        """And from now on it is on disk."""
        queue_id, taken_at = self._unwritten[key]
        self.folder.write(key, f"{queue_id} {int(taken_at)}\n".encode())
        del self._unwritten[key]

    def give_back(self, key: str) -> None:
        """The message was not taken after all."""
        self._unwritten.pop(key, None)
        self.folder.remove(key)

    def sweep(self, now: float) -> None:
        """Forget what is older than a day."""
        for key in [key for key in self._unwritten if self.seen(key, now) is None]:
            del self._unwritten[key]
        for key in [name for name in self.folder.names() if _DIGEST.fullmatch(name)]:
            if self.seen(key, now) is None:
                self.folder.remove(key, sync=False)
