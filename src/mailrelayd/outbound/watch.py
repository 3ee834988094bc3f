"""The kernel's events about folders, inotify(7), a buffer at a time: which names have come, and by what way.

They only say where to look first: what they miss (a network file system, an overflow) a look at everything finds.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache

from mailrelayd import durable

BUFFER = 1 << 14  # bytes read in one go: some hundred events, which are looked at before the next

_CREATE, _CLOSE_WRITE, _MOVED_TO = 0x100, 0x8, 0x80
_OVERFLOW, _IGNORED = 0x4000, 0x8000
_ONLY_FOLDERS = 0x01000000
_EVENT = struct.Struct("iIII")  # watch, mask, cookie, bytes of the name that follows


@dataclass(slots=True)
class News:
    """What one buffer told."""

    names: list[tuple[int, str, bool]] = field(default_factory=list)  # folder's descriptor, name, it came by rename
    poked: bool = False  # somebody wants whoever waits to return
    lost: bool = False  # more than the kernel could keep has happened, or a file system has gone


class Watch:
    """Listens to what is created, finished or renamed in some folders, until it is closed.

    It is waited for in a thread of its own: whoever takes the files then is awake as soon as the first has come.
    """

    def __init__(self, folders: Iterable[durable.Folder]) -> None:
        """Raises OSError where the kernel has no more of these to give (fs.inotify in sysctl)."""
        self._fd = _asked("inotify_init1", os.O_NONBLOCK | os.O_CLOEXEC)
        self._poke = -1
        self._folders: dict[int, durable.Folder] = {}
        try:
            self._poke = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            for folder in folders:
                mask = _CREATE | _CLOSE_WRITE | _MOVED_TO | _ONLY_FOLDERS
                self._folders[_asked("inotify_add_watch", self._fd, os.fsencode(folder.path), mask)] = folder
        except OSError:
            self.close()
            raise
        self._poll = select.poll()
        for descriptor in (self._fd, self._poke):
            self._poll.register(descriptor, select.POLLIN)

    def close(self) -> None:
        """Give the descriptors back, once nobody waits any more."""
        for descriptor in (self._fd, self._poke):
            if descriptor >= 0:
                os.close(descriptor)

    def poke(self) -> None:
        """Let `wait` return, the one under way or the next, from any thread."""
        os.eventfd_write(self._poke, 1)

    def wait(self) -> News:
        """What has happened, at most a buffer of it, once something has or somebody poked. Raises OSError."""
        self._poll.poll()
        news = News()
        with suppress(BlockingIOError):
            os.eventfd_read(self._poke)
            news.poked = True
        try:
            buffer = os.read(self._fd, BUFFER)
        except BlockingIOError:
            return news
        at = 0
        while at < len(buffer):
            number, mask, _, length = _EVENT.unpack_from(buffer, at)
            at += _EVENT.size + length
            folder = self._folders.get(number)
            if mask & (_OVERFLOW | _IGNORED):
                news.lost = True
            elif folder is not None and length:
                name = os.fsdecode(buffer[at - length : at].rstrip(b"\0"))
                news.names.append((folder.fd, name, bool(mask & _MOVED_TO)))
        return news


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _asked(call: str, *given: int | bytes) -> int:
    """What the C library's `call` answers. Raises OSError."""
    answer = int(_libc()[call](*given))
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return answer
