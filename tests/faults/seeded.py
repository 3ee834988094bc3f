"""The daemon with a known bug: what the outbound campaigns are calibrated on. Arguments: BUG, then the daemon's own.

`remove-first` removes a message before it is sent; `late-record` writes down what was accepted only a while later, and
goes on meanwhile; `no-lock` lets several work on one spool; `no-fsync` leaves it to chance when anything reaches the
disk; `in-place` takes files at once that somebody still writes, and does not look whether they have changed;
`told-early` says that a completion is recorded before it is; `no-journal-sync` records without syncing; `removes-first`
leaves the record out, and the removal to chance; `no-claim-sync` records what may come back into the pickup folder;
`frees-early` gives a slot away before the removal is on disk;
`hasty-stop` ends at SIGTERM without waiting for the answer that is due; `believes-the-clock` expires mail by whatever
time it is told.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from mailrelayd import daemon, durable
from mailrelayd.__main__ import main
from mailrelayd.outbound import completions
from mailrelayd.outbound.completions import Completions, Sent
from mailrelayd.outbound.delivery import ClockTrust
from mailrelayd.outbound.examine import Examiner
from mailrelayd.outbound.moves import Claims
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

    async def later(spool: Spool, completions: Sequence[tuple[QueuedMessage, Progress]]) -> None:
        async def record() -> None:
            await asyncio.sleep(2.0)
            await completed(spool, completions)

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


def told_early() -> None:
    """Two seconds."""
    written = Completions._record

    def record(there: Completions, done: Sequence[Sent]) -> None:
        def later() -> None:
            time.sleep(2.0)
            written(there, done)

        threading.Thread(target=later, daemon=True).start()

    setattr(Completions, "_record", record)  # noqa: B010


def no_journal_sync() -> None:
    """The journal, and nothing else; what it names stays where it is for a while, so that it matters."""
    setattr(durable.FixedFile, "sync", lambda _: None)  # noqa: B010
    setattr(completions, "LINGER", 3600.0)  # noqa: B010
    setattr(completions, "BATCH", 10_000)  # noqa: B010


def removes_first() -> None:
    """Nothing is written down, and the removal is left to chance."""

    def record(there: Completions, done: Sequence[Sent]) -> None:
        for one in done:
            there._waiting.remove(f"{one.queue_id}.eml", sync=False)

    setattr(Completions, "_record", record)  # noqa: B010


def no_claim_sync() -> None:
    """Not before the record; nor is anything removed, which would do it, too."""
    setattr(Claims, "sync", lambda *_: None)  # noqa: B010
    setattr(completions, "LINGER", 3600.0)  # noqa: B010
    setattr(completions, "BATCH", 10_000)  # noqa: B010


def frees_early() -> None:
    """There is one slot, and no removal is ever synced."""
    started, remove = Completions.begin, Completions._remove

    def begin(there: Completions, left: Mapping[str, int]) -> None:
        started(there, left)
        there._free = deque([1])

    def removed(there: Completions, batch: list[Sent]) -> OSError | None:
        setattr(there._waiting, "sync", lambda: None)  # noqa: B010
        try:
            return remove(there, batch)
        finally:
            del there._waiting.sync

    setattr(Completions, "begin", begin)  # noqa: B010
    setattr(Completions, "_remove", removed)  # noqa: B010


BUGS = {
    "remove-first": remove_first,
    "late-record": late_record,
    "told-early": told_early,
    "no-journal-sync": no_journal_sync,
    "removes-first": removes_first,
    "no-claim-sync": no_claim_sync,
    "frees-early": frees_early,
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
