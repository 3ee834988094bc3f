"""The daemon with a known bug: what the outbound campaigns are calibrated on. Arguments: BUG, then the daemon's own.

`remove-first` removes a message before it is sent; `late-record` writes down what was accepted only a while later, and
goes on meanwhile; `no-lock` lets several work on one spool; `no-fsync` leaves it to chance when anything reaches the
disk; `in-place` takes files at once that somebody still writes, and does not look whether they have changed;
`hasty-stop` ends at SIGTERM without waiting for the answer that is due; `believes-the-clock` expires mail by whatever
time it is told.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sys
from typing import Any

from mailrelayd import daemon
from mailrelayd.__main__ import main
from mailrelayd.outbound.delivery import ClockTrust
from mailrelayd.outbound.examine import Examiner
from mailrelayd.outbound.spool import Spool
from mailrelayd.outbound.stored import FileSource
from mailrelayd.outbound.values import Progress, QueuedMessage
from tests.faults.loops import choose


def remove_first() -> None:
    """The message is gone as soon as its file is open."""
    opened = Spool.open

    def open_and_remove(spool: Spool, message: QueuedMessage) -> FileSource:
        source = opened(spool, message)
        spool._queue.remove(f"{message.queue_id}.eml")
        return source

    setattr(Spool, "open", open_and_remove)  # noqa: B010
    setattr(FileSource, "unchanged", lambda _: True)  # noqa: B010 - a file without a name looks changed


def late_record() -> None:
    """Two seconds."""
    completed = Spool.complete
    background: set[asyncio.Task[None]] = set()

    async def later(spool: Spool, message: QueuedMessage, progress: Progress) -> None:
        async def record() -> None:
            await asyncio.sleep(2.0)
            await completed(spool, message, progress)

        task = asyncio.create_task(record())
        background.add(task)
        task.add_done_callback(background.discard)

    setattr(Spool, "complete", later)  # noqa: B010


def no_lock() -> None:
    """Whoever asks gets it."""
    setattr(fcntl, "flock", lambda *_: None)  # noqa: B010
    setattr(FileSource, "unchanged", lambda _: True)  # noqa: B010 - what the other one removes looks changed


def no_fsync() -> None:
    """Nothing is synced by intention."""
    setattr(os, "fsync", lambda _: None)  # noqa: B010
    setattr(os, "fdatasync", lambda _: None)  # noqa: B010


def in_place() -> None:
    """Settled is what is there."""
    setattr(Examiner, "_is_old", lambda *_: True)  # noqa: B010
    setattr(FileSource, "unchanged", lambda _: True)  # noqa: B010


def hasty_stop() -> None:
    """Without a look back."""

    def end(_: Any, reason: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL) if reason == "SIGTERM" else None

    setattr(daemon.Daemon, "_end", end)  # noqa: B010


def believes_the_clock() -> None:
    """It cannot be wrong."""
    setattr(ClockTrust, "given", lambda _: True)  # noqa: B010


BUGS = {
    "remove-first": remove_first,
    "late-record": late_record,
    "no-lock": no_lock,
    "no-fsync": no_fsync,
    "in-place": in_place,
    "hasty-stop": hasty_stop,
    "believes-the-clock": believes_the_clock,
}

if __name__ == "__main__":
    BUGS[sys.argv.pop(1)]()
    choose()
    sys.exit(main())
