"""The loop over all pickup folders: events and sweeps in, claimed messages out.

inotify only says where to look first; the sweep is the truth. One bad entry never stops the others, and nothing that
is not taken is ever changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

from asyncinotify import Inotify, Mask

from mailrelayd import durable
from mailrelayd.clock import Clock
from mailrelayd.config.units import write_rate
from mailrelayd.operate import events
from mailrelayd.outbound.examine import Later, Refused, Rules, owner_name
from mailrelayd.outbound.inlets import Contents, Inlet, contents, open_inlets, unread_folders
from mailrelayd.outbound.leftovers import LOOK, Leftovers, leftovers
from mailrelayd.outbound.pace import Paces
from mailrelayd.outbound.spool import Spool
from mailrelayd.outbound.taking import Duplicate, Failed, Result, Slowed, Taken, Taker, Trouble

SWEEP = 30.0  # seconds between two looks at everything (network file systems give no events)
BLIND_SWEEP = 2.0  # the same where the kernel gives no events at all
PIECE = 50  # files taken in one go, so that a burst does not make the first of it wait
WATCHED = Mask.MOVED_TO | Mask.CLOSE_WRITE | Mask.CREATE

_Key = tuple[int, str]  # an inlet's descriptor and a name in it
_STRAYS = ""  # stands for an inlet's files of names that are never taken
_UNFINISHED = "tmp/"  # and this for those in its tmp/ that nobody finishes


def _refused(trouble: Trouble) -> Refused:
    reason = f"cannot be taken: {trouble.error.strerror}"
    return Refused(reason, "look at the file system; it is tried again", "")


class Pickup:
    """The loop: events and sweeps in, claimed messages out, in order of (mtime, name)."""

    def __init__(self, directory: Path, spool: Spool, rules: Rules, clock: Clock, paces: Paces | None = None) -> None:
        """Raises OSError where pickup/ or a producer's folder, its tmp or new is not there.

        `paces`: what each user has handed in lately, with [guard] producer_rate.
        """
        self._directory = directory
        self._inlets = open_inlets(directory, rules.reading.producers)
        self._by_path = {inlet.folder.path: inlet for inlet in self._inlets.values()}
        self._spool = spool
        self._clock = clock
        self._rules = rules
        self._paces = paces or Paces(None)
        self._taker = Taker(spool, rules, clock, self._paces)
        self._hints: dict[_Key, bool] = {}  # it came by rename
        self._again: dict[_Key, float] = {}  # when to look again, on clock.monotonic()
        self._told: dict[_Key, str] = {}  # what was said about a file that stays
        self._slowed: dict[_Key, int] = {}  # files that wait for [guard] producer_rate, and whose they are
        self._told_slow: set[int] = set()  # whose waiting was spoken of
        self._leftovers: dict[int, Leftovers] = {}  # by inlet
        self._leftovers_at = 0.0  # when they are looked for again, on clock.monotonic()
        self._unread_named = False
        self._overflowed = False
        self._full = False
        self._news = asyncio.Event()

    @property
    def refused(self) -> int:
        """How many files stay until somebody changes them."""
        return len(self._told)

    def close(self) -> None:
        """Give the descriptors back."""
        for inlet in self._inlets.values():
            inlet.folder.close()

    def wake(self) -> None:
        """Look again: `stop` was set."""
        self._news.set()

    async def run(self, stop: asyncio.Event, beat: Callable[[float], None]) -> None:
        """Take what is ready until `stop`. `beat` is told within how many seconds it will be called again."""
        inotify = self._watch()
        reader = asyncio.create_task(self._hear(inotify), name="inotify") if inotify else None
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
            if inotify is not None:
                inotify.close()

    def _watch(self) -> Inotify | None:
        """Listen to the kernel's events. Where it has no more to give (fs.inotify limits), sweeps have to do."""
        inotify: Inotify | None = None
        try:
            inotify = Inotify()
            for path in self._by_path:  # before the first sweep: what comes while it looks is told by an event
                inotify.add_watch(path, WATCHED)
        except OSError as error:
            events.queue_trouble(doing="watch the pickup folder", reason=error.strerror or str(error))
            if inotify is not None:
                inotify.close()
            return None
        return inotify

    async def _hear(self, inotify: Inotify) -> None:
        async for event in inotify:
            inlet = self._by_path.get(event.watch.path) if event.watch is not None else None
            if event.name is None or inlet is None:  # the kernel's queue overflowed: the sweep finds the rest
                self._overflowed = True
            else:
                name = str(event.name)
                if inlet.is_candidate(name):
                    renamed = bool(event.mask & Mask.MOVED_TO)
                    key = (inlet.folder.fd, name)
                    self._hints[key] = renamed or self._hints.get(key, False)
            self._news.set()

    def _ripen(self) -> None:
        """Turn waits that are over into hints."""
        mono = self._clock.monotonic()
        for key in [key for key, at in self._again.items() if at <= mono]:
            del self._again[key]
            self._hints.setdefault(key, False)

    async def _sweep(self) -> None:
        """Everything that stands there, sidecars that lost their message, and names that nobody will ever take."""
        found, aside = await asyncio.to_thread(self._scan)
        for key, result in aside.items():
            if isinstance(result, Trouble):
                self._say(key, _refused(result))  # the next sweep tries again
            else:
                self._tell(key, result)
        present = set[_Key](aside)
        for fd, there in found.items():
            for name in there.candidates:
                present.add((fd, name))
                self._hints.setdefault((fd, name), self._inlets[fd].maildir)
            if there.strays:
                present.add((fd, _STRAYS))
                self._name_strays(self._inlets[fd], there.strays)
        for fd, left in self._leftovers.items():
            present.add((fd, _UNFINISHED))
            self._say((fd, _UNFINISHED), left.refused(), f"tmp/{left.name}")
        self._told = {key: told for key, told in self._told.items() if key in present}
        self._taker.forget_all_but(present)
        if not self._unread_named:
            await self._name_unread()

    def _name_strays(self, inlet: Inlet, strays: tuple[str, ...]) -> None:
        key = (inlet.folder.fd, _STRAYS)
        if key not in self._told:  # once, however many follow, until they are gone
            self._told[key] = ""
            others = len(strays) - 1
            events.pickup_refused(
                file=inlet.shown(min(strays)),
                owner="",
                reason="is never taken under this name" + (f", like {others} more here" if others else ""),
                hint="only *.eml is read there: rename what is a message, remove the rest",
            )

    async def _name_unread(self) -> None:
        """Speak once of files in folders of producers that are not configured any more: they stay."""
        unread = await asyncio.to_thread(unread_folders, self._directory, self._rules.reading.producers)
        self._unread_named = True
        for name, count in unread.items():
            events.pickup_refused(
                file=f"{name}/",
                owner="",
                reason=f"is not read, as the configuration has no [pickup.{name}]; files that wait there: {count}",
                hint=f"add [pickup.{name}] and reload, or move the files into pickup/new",
            )

    def _scan(self) -> tuple[dict[int, Contents], dict[_Key, Failed | Trouble]]:
        found: dict[int, Contents] = {}
        aside: dict[_Key, Failed | Trouble] = {}
        for fd, inlet in self._inlets.items():
            found[fd] = contents(inlet, self._clock.now())
            for name in found[fd].orphans:
                aside[fd, name] = self._taker.put_aside(inlet, name)
        if self._clock.monotonic() >= self._leftovers_at:
            self._leftovers_at = self._clock.monotonic() + LOOK
            tops = {fd: inlet for fd, inlet in self._inlets.items() if not inlet.maildir}
            self._leftovers = {fd: left for fd, inlet in tops.items() if (left := leftovers(inlet, self._clock.now()))}
        return found, aside

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
        self._told_slow &= set(self._slowed.values())

    def _has_room(self, hints: dict[_Key, bool]) -> bool:
        """Whether [spool] min_free is still there; else nothing is taken, and that is said once."""
        free = durable.free_space(next(iter(self._inlets.values())).folder)
        full = free < self._rules.min_free
        if full != self._full:
            self._full = full
            events.spool_full(free=free, min_free=self._rules.min_free, full=full)
        if full:
            self._again.update(dict.fromkeys(hints, self._clock.monotonic() + SWEEP))
        return not full

    def _in_order(self, hints: dict[_Key, bool]) -> list[tuple[_Key, int, bool]]:
        """By (mtime, name): the order in which they were written, as far as anybody can tell; each with its owner."""
        decorated = []
        for (fd, name), renamed in hints.items():
            inlet = self._inlets[fd]
            figures = inlet.folder.stat(name)
            self._slowed.pop((fd, name), None)  # waits again, or not
            if figures is None:
                self._taker.forget(inlet, name)
            else:
                decorated.append((figures.st_mtime_ns, name, (fd, name), figures.st_uid, renamed))
        decorated.sort()
        return [(key, owner, renamed) for _, _, key, owner, renamed in decorated]

    def _take_all(self, piece: Iterable[tuple[_Key, int, bool]]) -> list[tuple[_Key, Result]]:
        results = []
        for (fd, name), owner, renamed in piece:
            result = self._taker.take(self._inlets[fd], name, owner, renamed=renamed)
            if result is not None:
                results.append(((fd, name), result))
        return results

    def _tell(self, key: _Key, result: Result) -> None:
        """Log what happened, and let the queue know."""
        inlet, name = self._inlets[key[0]], key[1]
        producer = inlet.producer.name or None
        match result:
            case Taken():
                self._told.pop(key, None)
                message = result.message
                events.message_queued(
                    queue_id=message.queue_id,
                    sender=message.envelope.sender,
                    nrcpt=len(message.envelope.recipients),
                    size=message.size,
                    file=name,
                    uid=result.uid,
                    rule=message.rule,
                    producer=producer,
                )
                self._spool.arrived(message, result.stamp)
            case Duplicate():
                self._told.pop(key, None)
                events.message_duplicate(queue_id=result.queue_id, file=name, uid=result.uid, producer=producer)
            case Failed():
                self._told.pop(key, None)
                events.message_unreadable(queue_id=result.queue_id, detail=result.detail, file=inlet.shown(name))
            case Slowed():
                self._again[key] = self._clock.monotonic() + result.seconds
                self._slowed[key] = result.uid
                self._say_slow(inlet.shown(name), result)
            case Later():
                self._again[key] = self._clock.monotonic() + result.seconds
            case Refused():
                self._say(key, result)
            case Trouble():
                self._again[key] = self._clock.monotonic() + SWEEP
                self._say(key, _refused(result))

    def _say_slow(self, file: str, slowed: Slowed) -> None:
        """Once per user, until nothing of theirs waits any more."""
        if slowed.uid not in self._told_slow:
            self._told_slow.add(slowed.uid)
            events.pickup_refused(
                file=file,
                owner=owner_name(slowed.uid),
                reason=f"waits: its owner hands in more than {write_rate(self._paces.rate)}, [guard] producer_rate",
                hint="nothing is lost, files are taken at this rate; raise it if this is meant, or stop the producer",
            )

    def _say(self, key: _Key, refused: Refused, name: str = "") -> None:
        """Once per file and reason: the sweep meets it again every 30 s. `name`: where the key is none."""
        if self._told.get(key) != refused.reason:
            self._told[key] = refused.reason
            file = self._inlets[key[0]].shown(name or key[1])
            events.pickup_refused(file=file, owner=refused.owner, reason=refused.reason, hint=refused.hint)
