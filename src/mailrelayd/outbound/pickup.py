"""The pickup folder's loop: events and sweeps in, claimed messages out.

inotify only says where to look first; the sweep is the truth. One bad entry never stops the others, and nothing that
is not taken is ever changed.
"""

from __future__ import annotations

import asyncio
import errno
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from asyncinotify import Inotify, Mask

from mailrelayd import durable
from mailrelayd.clock import Clock
from mailrelayd.operate import events
from mailrelayd.outbound import queueid
from mailrelayd.outbound.examine import Examiner, Later, Refused, Rules, Unusable, is_candidate
from mailrelayd.outbound.spool import Spool
from mailrelayd.outbound.stored import ORPHAN
from mailrelayd.outbound.values import Progress, QueuedMessage

SWEEP = 30.0  # seconds between two looks at everything (network file systems give no events)
ORPHANED = 36 * 3600.0  # seconds after which a sidecar without message is put aside
BLIND_SWEEP = 2.0  # the same where the kernel gives no events at all
PIECE = 50  # files taken in one go, so that a burst does not make the first of it wait
WATCHED = Mask.MOVED_TO | Mask.CLOSE_WRITE | Mask.CREATE


@dataclass(frozen=True, slots=True)
class _Taken:
    name: str
    message: QueuedMessage
    uid: int
    stamp: tuple[int, int, int] | None


@dataclass(frozen=True, slots=True)
class _Failed:
    name: str
    queue_id: str
    detail: str


@dataclass(frozen=True, slots=True)
class _Trouble:
    name: str
    error: OSError


_ALONE = "a sidecar whose message never came"


def _refused(trouble: _Trouble) -> Refused:
    reason = f"cannot be taken: {trouble.error.strerror}"
    return Refused(reason, "look at the file system; it is tried again", "")


_Result = _Taken | _Failed | _Trouble | Later | Refused


class Pickup:
    """The loop: events and sweeps in, claimed messages out, in order of (mtime, name)."""

    def __init__(self, directory: Path, spool: Spool, rules: Rules, clock: Clock) -> None:
        """Raises OSError where pickup/, pickup/tmp or pickup/new is not there."""
        self._top = durable.Folder(directory)
        self._new = durable.Folder(directory / "new")
        self._spool = spool
        self._clock = clock
        self._examiner = Examiner(rules, clock)
        self._rules = rules
        self._hints: dict[tuple[int, str], bool] = {}  # (folder, name) -> it came by rename
        self._again: dict[tuple[int, str], float] = {}  # when to look again, on clock.monotonic()
        self._told: dict[tuple[int, str], str] = {}  # what was said about a file that stays
        self._overflowed = False
        self._full = False
        self._news = asyncio.Event()

    @property
    def refused(self) -> int:
        """How many files stay until somebody changes them."""
        return len(self._told)

    def close(self) -> None:
        """Give the descriptors back."""
        self._top.close()
        self._new.close()

    def wake(self) -> None:
        """Look again: `stop` was set."""
        self._news.set()

    async def run(self, stop: asyncio.Event, beat: Callable[[float], None]) -> None:
        """Take what is ready until `stop`. `beat` is told within how many seconds it will be called again."""
        reader = self._watch()
        try:
            sweep_at = self._clock.monotonic()
            while not stop.is_set():
                beat(SWEEP * 2)
                if reader is not None and reader.done():
                    events.queue_trouble(doing="watch the pickup folder", reason=str(reader.exception()))
                    reader = None
                try:
                    if self._clock.monotonic() >= sweep_at or self._overflowed:
                        self._overflowed = False
                        sweep_at = self._clock.monotonic() + (SWEEP if reader else BLIND_SWEEP)
                        await self._sweep()
                    await self._take_hinted(stop, beat)
                except OSError as error:  # too many open files, a file system that is away: the next sweep sees
                    events.queue_trouble(doing="look into the pickup folder", reason=error.strerror or str(error))
                until = min([sweep_at, *self._again.values()])
                if not self._hints and not self._overflowed:
                    self._news.clear()
                    if not stop.is_set():
                        await self._clock.wait(self._news, max(until - self._clock.monotonic(), 0.0))
                self._ripen()
        finally:
            if reader is not None:
                reader.cancel()
                await asyncio.wait([reader])

    def _watch(self) -> asyncio.Task[None] | None:
        """Listen to the kernel's events. Where it has no more to give (fs.inotify limits), sweeps have to do."""
        try:
            inotify = Inotify()
        except OSError as error:
            events.queue_trouble(doing="watch the pickup folder", reason=error.strerror or str(error))
            return None
        return asyncio.create_task(self._listen(inotify), name="inotify")

    async def _listen(self, inotify: Inotify) -> None:
        with inotify:
            for folder in (self._top, self._new):
                inotify.add_watch(folder.path, WATCHED)
            await self._hear(inotify)

    async def _hear(self, inotify: Inotify) -> None:
        async for event in inotify:
            if event.name is None or event.watch is None:  # the kernel's queue overflowed: the sweep finds the rest
                self._overflowed = True
            else:
                folder = self._new if event.watch.path == self._new.path else self._top
                name = str(event.name)
                if is_candidate(name, maildir=folder is self._new):
                    renamed = bool(event.mask & Mask.MOVED_TO)
                    key = (folder.fd, name)
                    self._hints[key] = renamed or self._hints.get(key, False)
            self._news.set()

    def _ripen(self) -> None:
        """Turn waits that are over into hints."""
        mono = self._clock.monotonic()
        for key in [key for key, at in self._again.items() if at <= mono]:
            del self._again[key]
            self._hints.setdefault(key, False)

    async def _sweep(self) -> None:
        """Everything that stands there, and sidecars that lost their message."""
        found, aside = await asyncio.to_thread(self._scan)
        for key, result in aside.items():
            if isinstance(result, _Trouble):
                self._say(key, _refused(result))  # the next sweep tries again
            else:
                self._tell(key, result)
        self._told = {key: told for key, told in self._told.items() if key in found or key in aside}
        for key in found:
            self._hints.setdefault(key, key[0] == self._new.fd)

    def _scan(self) -> tuple[set[tuple[int, str]], dict[tuple[int, str], _Failed | _Trouble]]:
        found: set[tuple[int, str]] = set()
        aside: dict[tuple[int, str], _Failed | _Trouble] = {}
        for folder in (self._top, self._new):
            names = list(folder.names())
            found.update((folder.fd, n) for n in names if is_candidate(n, maildir=folder is self._new))
            for name in self._orphans(folder, names):
                try:
                    queue_id = self._spool.refuse(folder, name, detail=_ALONE, orphan=True)
                except OSError as error:
                    aside[folder.fd, name] = _Trouble(name, error)
                else:
                    aside[folder.fd, name] = _Failed(name, queue_id, _ALONE)
        return found, aside

    def _orphans(self, folder: durable.Folder, names: list[str]) -> list[str]:
        sidecars = [name for name in names if name.endswith(ORPHAN)]
        if not sidecars:
            return []
        messages = {*names, *(name[:-4] for name in names if name.lower().endswith(".eml"))}
        return [
            name
            for name in sidecars
            if name[: -len(ORPHAN)] not in messages
            and (figures := folder.stat(name)) is not None
            and stat.S_ISREG(figures.st_mode)
            and self._clock.now() - figures.st_ctime >= ORPHANED
        ]

    async def _take_hinted(self, stop: asyncio.Event, beat: Callable[[float], None]) -> None:
        hints, self._hints = self._hints, {}
        if not hints or not self._has_room(hints):
            return
        ordered = await asyncio.to_thread(self._in_order, hints)
        for start in range(0, len(ordered), PIECE):
            if stop.is_set():
                return
            beat(SWEEP * 2)
            piece = ordered[start : start + PIECE]
            for key, result in await asyncio.to_thread(self._take_all, piece):
                self._tell(key, result)

    def _has_room(self, hints: dict[tuple[int, str], bool]) -> bool:
        """Whether [spool] min_free is still there; else nothing is taken, and that is said once."""
        free = durable.free_space(self._top)
        full = free < self._rules.min_free
        if full != self._full:
            self._full = full
            events.spool_full(free=free, min_free=self._rules.min_free, full=full)
        if full:
            self._again.update(dict.fromkeys(hints, self._clock.monotonic() + SWEEP))
        return not full

    def _folder(self, fd: int) -> durable.Folder:
        return self._new if fd == self._new.fd else self._top

    def _in_order(self, hints: dict[tuple[int, str], bool]) -> list[tuple[tuple[int, str], bool]]:
        """By (mtime, name): the order in which they were written, as far as anybody can tell."""
        decorated = []
        for key, renamed in hints.items():
            figures = self._folder(key[0]).stat(key[1])
            if figures is None:
                self._examiner.forget(self._folder(key[0]), key[1])
            else:
                decorated.append((figures.st_mtime_ns, key[1], key, renamed))
        decorated.sort()
        return [(key, renamed) for _, _, key, renamed in decorated]

    def _take_all(self, piece: Iterable[tuple[tuple[int, str], bool]]) -> list[tuple[tuple[int, str], _Result]]:
        results: list[tuple[tuple[int, str], _Result]] = []
        for key, renamed in piece:
            folder = self._folder(key[0])
            try:
                result = self._take(folder, key[1], renamed=renamed or folder is self._new)
            except OSError as error:
                # Its producer may have taken it away in between.
                result = _Trouble(key[1], error) if folder.stat(key[1]) else None
            except Exception as error:  # noqa: BLE001 - one file that meets a bug must not stop all the others
                events.daemon_bug(where="pickup", error=error, file=key[1])
                result = _Trouble(key[1], OSError(errno.EINVAL, f"unexpected {type(error).__name__}"))
            if result is not None:
                results.append((key, result))
        return results

    def _take(self, folder: durable.Folder, name: str, *, renamed: bool) -> _Result | None:
        found = self._examiner.look(folder, name, renamed=renamed)
        if found is None or isinstance(found, Later | Refused):
            return found
        if isinstance(found, Unusable):
            queue_id = self._spool.refuse(folder, name, detail=found.detail, sidecar=found.claim)
            self._examiner.forget(folder, name)
            return _Failed(name, queue_id, found.detail)
        queue_id = self._spool.new_id()
        arrived_at = min(queueid.arrived_at(queue_id), self._clock.now())  # ids may be ahead after a wrong date
        progress = Progress(arrived_at, not_before=found.sidecar.not_before if found.sidecar else 0.0)
        size, rule = found.figures.st_size, found.derived.rule
        message = QueuedMessage(queue_id, found.derived.envelope, progress, size, rule, file=name)
        stamp = self._spool.take(
            folder,
            name,
            message,
            sidecar=found.claim,
            # A block that does not count here must not start to count when [spool] envelope changes.
            write_down=found.has_block,
            stamp=found.stamp,
        )
        self._examiner.forget(folder, name)
        return _Taken(name, message, found.figures.st_uid, stamp)

    def _tell(self, key: tuple[int, str], result: _Result) -> None:
        """Log what happened, and let the queue know."""
        match result:
            case _Taken():
                self._told.pop(key, None)
                message = result.message
                events.message_queued(
                    queue_id=message.queue_id,
                    sender=message.envelope.sender,
                    nrcpt=len(message.envelope.recipients),
                    size=message.size,
                    file=result.name,
                    uid=result.uid,
                    rule=message.rule,
                )
                self._spool.arrived(message, result.stamp)
            case _Failed():
                self._told.pop(key, None)
                events.message_unreadable(queue_id=result.queue_id, detail=result.detail, file=result.name)
            case Later():
                self._again[key] = self._clock.monotonic() + result.seconds
            case Refused():
                self._say(key, result)
            case _Trouble():
                self._again[key] = self._clock.monotonic() + SWEEP
                self._say(key, _refused(result))

    def _say(self, key: tuple[int, str], refused: Refused) -> None:
        """Once per file and reason: the sweep meets it again every 30 s."""
        if self._told.get(key) != refused.reason:
            self._told[key] = refused.reason
            events.pickup_refused(file=key[1], owner=refused.owner, reason=refused.reason, hint=refused.hint)
