"""The loop over all pickup folders: events and sweeps in, claimed messages out.

inotify only says where to look first; the sweep is the truth. One bad entry never stops the others, and nothing that
is not taken is ever changed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from mailrelayd.clock import Clock
from mailrelayd.config.units import write_rate
from mailrelayd.operate import events
from mailrelayd.outbound.examine import Later, Refused, Rules, owner_name
from mailrelayd.outbound.gather import Gatherer, Key, Piece
from mailrelayd.outbound.inlets import Inlet, Survey, open_inlets, unread_folders
from mailrelayd.outbound.oldest import Entry
from mailrelayd.outbound.pace import Paces
from mailrelayd.outbound.spool import Spool
from mailrelayd.outbound.taking import Duplicate, Failed, Result, Slowed, Taken, Taker, Trouble
from mailrelayd.outbound.watch import Watch

T = TypeVar("T")

SWEEP = 30.0  # seconds between two looks at everything (network file systems give no events)
BLIND_SWEEP = 2.0  # the same where the kernel gives no events at all
MANY = 16_384  # files whose next look is planned one by one; a sweep finds the others

_STRAYS = ""  # stands for an inlet's files of names that are never taken
_UNFINISHED = "tmp/"  # and this for those in its tmp/ that nobody finishes
_REMOVED = "./"  # and this for the folder itself


def _refused(trouble: Trouble) -> Refused:
    reason = f"cannot be taken: {trouble.error.strerror}"
    return Refused(reason, "look at the file system; it is tried again", "")


def _gone(inlet: Inlet) -> Refused:
    reason = f"was removed or replaced ({inlet.folder.path}): nothing is taken that comes under its name"
    return Refused(reason, "make the folder anew where there is none, and reload", "")


class Pickup:
    """The loop: events and sweeps in, claimed messages out, in order of (mtime, name).

    What waits for the disk, and for the kernel's events, does so in one thread: between a producer's rename and the
    queue stands one waking of that thread and one of the loop. Of a burst the first is under way while the others are
    looked at; the thread goes on piece by piece, once the loop has heard of the last, and so memory stays bounded.
    """

    def __init__(self, directory: Path, spool: Spool, rules: Rules, clock: Clock, paces: Paces | None = None) -> None:
        """Raises OSError where pickup/ or a producer's folder, its tmp or new is not there.

        `paces`: what each user has handed in lately, with [guard] producer_rate.
        """
        self._directory = directory
        self._inlets = open_inlets(directory, rules.reading.producers)
        self._spool = spool
        self._clock = clock
        self._rules = rules
        self._paces = paces or Paces(None)
        self._taker = Taker(spool, rules, clock, self._paces)
        self._results: deque[tuple[Key, Result]] = deque()  # from the thread, not told yet
        self._gatherer = Gatherer(
            self._inlets, self._taker, rules.min_free, spool.directory / "queue", self._results, self._wake_loop
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pickup")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._again: dict[Key, float] = {}  # when to look again, on clock.monotonic()
        self._ripe_at = float("inf")  # when the first of these is due
        self._told: dict[Key, str] = {}  # what was said about a file that stays
        self._slowed: dict[Key, int] = {}  # files that wait for [guard] producer_rate, and whose they are
        self._told_slow: set[int] = set()  # whose waiting was spoken of
        self._unread_named = False
        self._sweep_at = 0.0  # on clock.monotonic()
        self._full = False
        self._bug: Exception | None = None  # met outside of `run`, which ends with it
        self._news = asyncio.Event()

    @property
    def refused(self) -> int:
        """How many files stay until somebody changes them."""
        return len(self._told)

    def close(self) -> None:
        """Give the descriptors back, once nobody works with them any more."""
        self._thread.shutdown(wait=True)
        for inlet in self._inlets.values():
            inlet.folder.close()

    def wake(self) -> None:
        """Look again: `stop` was set."""
        self._news.set()

    async def run(self, stop: asyncio.Event, beat: Callable[[float], None]) -> None:
        """Take what is ready until `stop`. `beat` is told within how many seconds it will be called again."""
        self._loop = asyncio.get_running_loop()
        watch = self._watch()
        try:
            self._sweep_at = self._clock.monotonic()
            while not stop.is_set():
                beat(SWEEP * 2)
                if self._bug is not None:
                    raise self._bug
                try:
                    if self._clock.monotonic() >= self._sweep_at:
                        self._sweep_at = self._clock.monotonic() + (SWEEP if watch else BLIND_SWEEP)
                        await self._sweep(stop, beat)
                    elif hints := self._ripe():
                        await self._take(self._gatherer.in_order(hints), stop, beat)
                    else:
                        await self._rest(watch, stop, beat)
                except OSError as error:  # too many open files, a file system that is away: the next sweep sees
                    events.queue_trouble(doing="look into the pickup folder", reason=error.strerror or str(error))
        finally:
            if watch is not None:
                watch.poke()
                await self._in_thread(watch.close)  # behind whatever it still does

    def _watch(self) -> Watch | None:
        """Listen to the kernel's events. Where it has no more to give (fs.inotify limits), sweeps have to do."""
        try:
            # Before the first sweep: what comes while it looks is told by an event.
            return Watch(inlet.folder for inlet in self._inlets.values())
        except OSError as error:
            events.queue_trouble(doing="watch the pickup folder", reason=error.strerror or str(error))
            return None

    async def _rest(self, watch: Watch | None, stop: asyncio.Event, beat: Callable[[float], None]) -> None:
        """Until it is time to look again; what comes meanwhile is taken."""
        self._news.clear()
        if stop.is_set():
            return
        seconds = max(min(self._sweep_at, self._ripe_at) - self._clock.monotonic(), 0.0)
        if watch is None:
            await self._clock.wait(self._news, seconds)
            return
        timer = asyncio.create_task(self._clock.wait(self._news, seconds), name="pickup-timer")
        timer.add_done_callback(lambda over: None if over.cancelled() else watch.poke())
        try:
            heard = await self._in_thread(self._gatherer.listen, watch)
        finally:
            timer.cancel()
            await asyncio.wait([timer])
        self._tell_results()
        if heard.news.lost:
            self._sweep_at = self._clock.monotonic()
        if heard.piece is not None:
            await self._take(heard.entries, stop, beat, heard.piece)

    def _look_again(self, key: Key, seconds: float) -> None:
        """A file that stays for now; beyond MANY of them the next sweep has to do."""
        if key in self._again or len(self._again) < MANY:
            self._again[key] = self._clock.monotonic() + seconds
            if self._again[key] < self._ripe_at:
                self._ripe_at = self._again[key]
                self._news.set()

    def _ripe(self) -> dict[Key, bool]:
        """Files whose wait is over. How they came is not known any more."""
        mono = self._clock.monotonic()
        if mono < self._ripe_at:
            return {}
        hints = dict.fromkeys([key for key, at in self._again.items() if at <= mono], False)
        for key in hints:
            del self._again[key]
            self._slowed.pop(key, None)  # waits again, or not
        self._ripe_at = min(self._again.values(), default=float("inf"))
        return hints

    async def _in_thread(self, work: Callable[..., T], *given: object) -> T:
        """What the pickup's thread answers."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *given)

    async def _sweep(self, stop: asyncio.Event, beat: Callable[[float], None]) -> None:
        """Everything that stands there, sidecars that lost their message, and names that nobody will ever take."""
        now, mono = self._clock.now(), self._clock.monotonic()
        remembered = {*self._told, *self._taker.remembered}
        found = await self._in_thread(self._gatherer.scan, remembered, now, mono)
        there = found.there | found.aside.keys()
        there |= {(fd, _STRAYS) for fd, survey in found.surveys.items() if survey.strays}
        there |= {(fd, _REMOVED) for fd, survey in found.surveys.items() if survey.removed}
        there |= {(fd, _UNFINISHED) for fd in found.unfinished}
        self._told = {key: told for key, told in self._told.items() if key in there}
        self._taker.forget_all_but(there)
        for key, result in found.aside.items():
            if isinstance(result, Trouble):
                self._say(key, _refused(result))  # the next sweep tries again
            else:
                self._tell(key, result)
        for fd, survey in found.surveys.items():
            if survey.strays:
                self._name_strays(self._inlets[fd], survey)
            if survey.removed:
                self._say((fd, _REMOVED), _gone(self._inlets[fd]))
        for fd, left in found.unfinished.items():
            self._say((fd, _UNFINISHED), left.refused(), f"tmp/{left.name}")
        if not self._unread_named:
            await self._name_unread()
        self._slowed.clear()
        await self._take(found.entries, stop, beat)

    def _name_strays(self, inlet: Inlet, survey: Survey) -> None:
        key = (inlet.folder.fd, _STRAYS)
        if key not in self._told:  # once, however many follow, until they are gone
            self._told[key] = ""
            others = survey.strays - 1
            events.pickup_refused(
                file=inlet.shown(survey.stray),
                owner="",
                reason="is never taken under this name" + (f", like {others} more here" if others else ""),
                hint="only *.eml is read there: rename what is a message, remove the rest",
            )

    async def _name_unread(self) -> None:
        """Speak once of files in folders of producers that are not configured any more: they stay."""
        unread = await self._in_thread(unread_folders, self._directory, self._rules.reading.producers)
        self._unread_named = True
        for name, count in unread.items():
            events.pickup_refused(
                file=f"{name}/",
                owner="",
                reason=f"is not read, as the configuration has no [pickup.{name}]; files that wait there: {count}",
                hint=f"add [pickup.{name}] and reload, or move the files into pickup/new",
            )

    async def _take(
        self, entries: Iterator[Entry], stop: asyncio.Event, beat: Callable[[float], None], piece: Piece | None = None
    ) -> None:
        """Piece by piece, until there are no more, there is no room, or `stop`. `piece`: the first one, taken."""
        more = True
        while more and not stop.is_set():
            beat(SWEEP * 2)
            taken = piece if piece is not None else await self._in_thread(self._gatherer.take, entries)
            self._tell_results()
            self._say_room(taken.free)
            piece, more = None, taken.more
        self._told_slow &= set(self._slowed.values())

    def _wake_loop(self) -> None:
        """In the thread: there are results."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._tell_results)

    def _tell_results(self) -> None:
        try:
            with events.together():
                while self._results:
                    self._tell(*self._results.popleft())
        except Exception as error:  # noqa: BLE001 - `run` raises it: the loop would log it and go on
            self._bug = error
            self.wake()

    def _say_room(self, free: int) -> None:
        """Whether [spool] min_free is still there; else nothing is taken, and that is said once."""
        full = free < self._rules.min_free
        if full != self._full:
            self._full = full
            events.spool_full(free=free, min_free=self._rules.min_free, full=full)

    def _tell(self, key: Key, result: Result) -> None:
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
                self._spool.arrived(message, result.stamp, result.head)
            case Duplicate():
                self._told.pop(key, None)
                events.message_duplicate(queue_id=result.queue_id, file=name, uid=result.uid, producer=producer)
            case Failed():
                self._told.pop(key, None)
                events.message_unreadable(queue_id=result.queue_id, detail=result.detail, file=inlet.shown(name))
            case Slowed():
                self._look_again(key, result.seconds)
                if key in self._again:
                    self._slowed[key] = result.uid
                self._say_slow(inlet.shown(name), result)
            case Later():
                self._look_again(key, result.seconds)
            case Refused():
                self._say(key, result)
            case Trouble():
                self._look_again(key, SWEEP)
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

    def _say(self, key: Key, refused: Refused, name: str = "") -> None:
        """Once per file and reason: the sweep meets it again every 30 s. `name`: where the key is none."""
        if self._told.get(key) != refused.reason:
            self._told[key] = refused.reason
            file = self._inlets[key[0]].shown(name or key[1])
            events.pickup_refused(file=file, owner=refused.owner, reason=refused.reason, hint=refused.hint)
