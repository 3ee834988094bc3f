"""The loop of one mailbox: new mail -> read and archived -> removed. One per account.

Nothing leaves the folder before its decision is on disk and every required sink has it. Nothing is touched that is not
ours: mail with other machines' tokens, mail that was there before us, mail that is too old or too large stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Protocol

from tenacity import RetryCallState, wait_exponential_jitter
from tenacity.wait import wait_base

from mailrelayd.clock import Clock
from mailrelayd.inbound.imap import Session
from mailrelayd.inbound.seen import Owed, Seen, SeenStore
from mailrelayd.inbound.values import ImapError, Mailbox, MailMissing, NoSuchFolder, Refused, Summary
from mailrelayd.operate import approval_events as events
from mailrelayd.operate.events import daemon_bug

FIELDS = (  # what a summary holds: everything in which a token of ours may stand, and who it is from
    "To",
    "Cc",
    "Delivered-To",
    "X-Original-To",
    "Envelope-To",
    "In-Reply-To",
    "References",
    "Subject",
    "From",
)
LOOKED_AT = 500  # mails whose summaries are held at a time
TRIES = 3  # of a mail that cannot be read, before it is left for good
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0  # seconds between two connections that fail
REMOVE_AGAIN = 5.0  # seconds until it is looked again whether the sinks have taken what is to be removed
SLOWEST = 900.0  # seconds that one step may take: a mail that comes slowly


class Whose(StrEnum):
    """What the header of a mail says, before it is read."""

    OURS = "ours"  # a token that leads to a request here
    FOREIGN = "foreign"  # a token of another machine, or of another secret: always left
    NOBODY = "nobody"


class Action(StrEnum):
    """What may become of a mail that was read."""

    REMOVE = "remove"  # as [inbound.NAME] after says
    LEAVE = "leave"


@dataclass(frozen=True, slots=True)
class Arrived:
    """A mail in its folder. `received_at` is INTERNALDATE, in seconds since the epoch."""

    account: str
    folder: str
    uidvalidity: int
    uid: int
    received_at: float
    size: int


@dataclass(frozen=True, slots=True)
class Disposition:
    """What became of a mail that was read; on disk. `at`: when that was recorded, seconds since the epoch."""

    action: Action
    decision_id: str
    at: float


class Desk(Protocol):
    """Who reads the mail."""

    def whose(self, header: bytes) -> Whose:
        """By its header lines alone."""

    async def receive(self, arrived: Arrived, pieces: AsyncIterator[bytes]) -> Disposition:
        """Read and archive. Raises OSError; then nothing has happened to it."""

    def may_remove(self, decision_id: str) -> bool:
        """Whether every required sink has it."""

    def polled(self, account: str, begun_at: float) -> None:
        """A poll that began then has looked at everything there was."""


class Terms(Protocol):
    """[inbound.NAME], as far as the loop needs it."""

    @property
    def name(self) -> str: ...
    @property
    def folder(self) -> str: ...
    @property
    def create_folder(self) -> bool: ...
    @property
    def poll_interval(self) -> float: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def idle(self) -> bool: ...
    @property
    def process_after(self) -> datetime | None: ...
    @property
    def ignore_older_than(self) -> float: ...
    @property
    def after(self) -> str: ...
    @property
    def delete_after(self) -> float: ...
    @property
    def adopt(self) -> str: ...
    @property
    def max_message_size(self) -> int: ...


class _HeldError(Exception):
    """Nothing is done in this folder until the configuration changes."""


class Poller:
    """The loop of one account."""

    def __init__(
        self, terms: Terms, connect: Callable[[], Awaitable[Session]], desk: Desk, store: SeenStore, clock: Clock
    ) -> None:
        """`connect` raises ImapError."""
        self._terms = terms
        self._connect = connect
        self._desk = desk
        self._store = store
        self._clock = clock
        self._news = asyncio.Event()
        self._tries: dict[int, int] = {}
        self._seen = Seen(terms.folder, 0)
        self._backoff: wait_base = wait_exponential_jitter(FIRST_PAUSE, LONGEST_PAUSE)
        self.last_poll = 0.0  # when one was last completed, seconds since the epoch; 0: never
        self.trouble = ""  # why there is none now
        self.removed = self.read = 0  # since the start

    @property
    def account(self) -> str:
        """The NAME of [inbound.NAME]."""
        return self._terms.name

    def wake(self) -> None:
        """Look again: `stop` was set, or a sink has taken something."""
        self._news.set()

    async def run(self, stop: asyncio.Event, beat: Callable[[float], None]) -> None:
        """Until `stop`. `beat` is told within how many seconds it will be called again."""
        failures, down_since = 0, 0.0
        while not stop.is_set():
            beat(SLOWEST)
            try:
                session = await self._connect()
                async with session:
                    mailbox = await self._open(session)
                    outage = self._clock.now() - down_since if failures else None
                    events.mailbox_up(account=self.account, folder=mailbox.name, outage=outage)
                    self.trouble, failures = "", 0
                    await self._serve(session, mailbox, stop, beat)
            except _HeldError as error:
                self.trouble = str(error)
                await self._pause(stop, beat, self._terms.poll_interval)
            except ImapError as error:
                down_since = down_since if failures else self._clock.now()
                failures += 1
                self.trouble = str(error)
                pause = self._backoff(_state(failures))
                events.mailbox_down(
                    account=self.account,
                    stage=str(error.stage),
                    response=str(error),
                    attempt=failures,
                    next_attempt=self._clock.now() + pause,
                )
                await self._pause(stop, beat, pause)

    async def _pause(self, stop: asyncio.Event, beat: Callable[[float], None], seconds: float) -> None:
        until = self._clock.monotonic() + seconds
        while not stop.is_set() and (left := until - self._clock.monotonic()) > 0:
            beat(left + 60.0)
            self._news.clear()
            await self._clock.wait(self._news, left)

    async def _open(self, session: Session) -> Mailbox:
        """Open the folder, and make sure that what is in it may be read. Raises _HeldError, ImapError."""
        try:
            mailbox = await session.select(self._terms.folder)
        except NoSuchFolder:
            if not self._terms.create_folder:
                raise
            await session.create(self._terms.folder)
            mailbox = await session.select(self._terms.folder)
        seen = await asyncio.to_thread(self._load)
        if seen is not None and (seen.folder, seen.uidvalidity) == (mailbox.name, mailbox.uidvalidity):
            self._seen = seen
        else:
            await self._adopt(session, mailbox)
        return mailbox

    def _load(self) -> Seen | None:
        try:
            return self._store.load()
        except OSError:
            return None

    async def _adopt(self, session: Session, mailbox: Mailbox) -> None:
        """First contact: nothing that is there already is touched unless the configuration says so."""
        seen = Seen(mailbox.name, mailbox.uidvalidity)
        if mailbox.exists and self._terms.adopt == "refuse":
            hint = 'set adopt = "new-only" to leave what is there, or "all" to read it'
            reason = "the folder held mail before anything here knew it"
            events.mailbox_refused(
                account=self.account, folder=mailbox.name, mails=mailbox.exists, reason=reason, hint=hint
            )
            raise _HeldError(f"{mailbox.name} holds {mailbox.exists} mails: {hint}")
        if mailbox.exists and self._terms.adopt == "new-only":
            # After a changed UIDVALIDITY, or lost state, answers may be among it: only those are read.
            there = await session.search()
            seen.first = mailbox.uidnext or (there[-1] + 1 if there else 1)
            old = [uid for uid in there if uid < seen.first]
            ours = {one.uid async for one in self._looked_at(session, old) if self._whose(one) is Whose.OURS}
            if ours:
                seen.handled = set(old) - ours
                seen.first = min(ours)
        self._seen = seen
        await self._save()

    async def _serve(
        self, session: Session, mailbox: Mailbox, stop: asyncio.Event, beat: Callable[[float], None]
    ) -> None:
        """Poll, and wait in between, until `stop` or the end of the connection."""
        poll_at = self._clock.monotonic()
        while not stop.is_set():
            beat(SLOWEST)
            if self._clock.monotonic() >= poll_at:
                poll_at = self._clock.monotonic() + self._terms.poll_interval
                if await self._poll(session, mailbox, stop, beat):
                    poll_at = self._clock.monotonic()
            await self._remove(session)
            if await self._wait(session, stop, beat, min(poll_at, self._next_removal())):
                poll_at = self._clock.monotonic()

    async def _wait(self, session: Session, stop: asyncio.Event, beat: Callable[[float], None], until: float) -> bool:
        """Wait until so late, `stop`, or a call of `wake`; True: the server says that there is new mail."""
        left = until - self._clock.monotonic()
        self._news.clear()
        if stop.is_set() or left <= 0:
            return False
        beat(left + SLOWEST)
        if self._terms.idle:
            return await session.idle(self._clock, self._news, left)
        await self._clock.wait(self._news, left)
        return False

    # -- reading -----------------------------------------------------------------------------------------------

    async def _poll(
        self, session: Session, mailbox: Mailbox, stop: asyncio.Event, beat: Callable[[float], None]
    ) -> bool:
        """One look at everything; whether mail with a token of ours is left for another one at once."""
        begun_at = self._clock.now()
        since = self._earliest()
        uids = await session.search(first=self._seen.first, since=since.date() - timedelta(days=1) if since else None)
        if since is None:
            self._seen.handled.intersection_update(uids)
            for uid in self._seen.owed.keys() - set(uids):  # somebody else removed it
                del self._seen.owed[uid]
        new = [uid for uid in uids if uid not in self._seen.handled]
        ours: list[Summary] = []
        others: list[Summary] = []
        for some in _pieces(new):
            beat(SLOWEST)
            async for one in self._looked_at(session, some):
                if (why := self._left(one, since)) is not None:
                    self._leave(one.uid, why)
                elif (whose := self._whose(one)) is Whose.FOREIGN:
                    self._leave(one.uid, "foreign: it carries a token that was not issued here")
                else:
                    (ours if whose is Whose.OURS else others).append(one)
        read = 0
        batch = [*ours, *others][: self._terms.batch_size]
        for one in batch:
            if stop.is_set():
                break
            beat(SLOWEST)
            read += await self._read(session, mailbox, one)
        await self._save()
        events.mailbox_polled(
            account=self.account, folder=mailbox.name, found=len(new), read=read, left=len(new) - read, removed=0
        )
        more = len(ours) > self._terms.batch_size
        if not more and not stop.is_set():
            self.last_poll = self._clock.now()
            self._desk.polled(self.account, begun_at)
        return more

    async def _looked_at(self, session: Session, uids: list[int]) -> AsyncIterator[Summary]:
        for some in _pieces(uids):
            async with aclosing(session.summaries(some, FIELDS)) as summaries:  # type: ignore[type-var]
                async for one in summaries:
                    yield one

    def _whose(self, summary: Summary) -> Whose:
        try:
            return self._desk.whose(summary.header)
        except Exception as error:  # noqa: BLE001 - one mail that meets a bug must not stop all the others
            daemon_bug(where="inbound", error=error)
            return Whose.NOBODY

    def _earliest(self) -> datetime | None:
        """Mail from before is left alone."""
        limits = [self._terms.process_after] if self._terms.process_after else []
        if self._terms.ignore_older_than:
            limits.append(datetime.fromtimestamp(self._clock.now() - self._terms.ignore_older_than, UTC))
        return max(limits) if limits else None

    def _left(self, summary: Summary, since: datetime | None) -> str | None:
        """Why this mail is not read; None: it is."""
        if since is not None and summary.internal_date < since:
            return "ignored: it is older than process_after or ignore_older_than"
        if summary.size > self._terms.max_message_size:
            return f"oversize: it has {summary.size} bytes, more than max_message_size"
        return None

    def _leave(self, uid: int, why: str) -> None:
        self._seen.handled.add(uid)
        events.mail_left(account=self.account, uid=uid, reason=why)

    async def _read(self, session: Session, mailbox: Mailbox, summary: Summary) -> int:
        """Have one mail read; how many were. Its faults are its own; raises ImapError where the connection ends."""
        arrived = Arrived(
            self.account,
            mailbox.name,
            mailbox.uidvalidity,
            summary.uid,
            summary.internal_date.timestamp(),
            summary.size,
        )
        try:
            pieces = session.message(summary.uid, size=summary.size, limit=self._terms.max_message_size)
            async with aclosing(pieces) as content:  # type: ignore[type-var]
                disposition = await self._desk.receive(arrived, content)
        except MailMissing:
            return 0  # removed by somebody else; or it comes again with the next poll
        except Refused as error:
            self._stumble(summary.uid, str(error))
            return 0
        except OSError as error:  # our own disk: nothing has happened to the mail
            self.trouble = f"a mail cannot be archived: {error.strerror or error}"
            events.mail_left(account=self.account, uid=summary.uid, reason=self.trouble)
            return 0
        except ImapError:
            raise
        except Exception as error:  # noqa: BLE001 - one mail that meets a bug must not stop all the others
            daemon_bug(where="inbound", error=error)
            self._stumble(summary.uid, f"unexpected {type(error).__name__}")
            return 0
        self._seen.handled.add(summary.uid)
        self.read += 1
        if disposition.action is Action.REMOVE and self._terms.after != "keep":
            wait = self._terms.delete_after if self._terms.after == "delete" else 0.0
            self._seen.owed[summary.uid] = Owed(disposition.decision_id, disposition.at + wait)
        return 1

    def _stumble(self, uid: int, reason: str) -> None:
        self._tries[uid] = self._tries.get(uid, 0) + 1
        if self._tries[uid] >= TRIES:
            del self._tries[uid]
            self._leave(uid, f"unreadable: {reason}")

    # -- removing ----------------------------------------------------------------------------------------------

    def _next_removal(self) -> float:
        """When it is worth to look for something to remove, on clock.monotonic()."""
        now = self._clock.now()
        waits = [max(owed.due - now, 0.0) for owed in self._seen.owed.values()]
        return self._clock.monotonic() + (max(min(waits), REMOVE_AGAIN) if waits else float("inf"))

    async def _remove(self, session: Session) -> None:
        """Remove what is due and served. The connection has had this folder open, with this UIDVALIDITY, all along."""
        now = self._clock.now()
        due = [uid for uid, one in self._seen.owed.items() if one.due <= now and self._desk.may_remove(one.decision_id)]
        if not due:
            return
        folder = self._terms.after.removeprefix("move:")
        moving = folder != self._terms.after
        try:
            left = [] if moving else await session.delete(due)
            if moving:
                await self._move(session, due, folder)
        except Refused as error:
            self.trouble = f"mail cannot be removed: {error}"
            for uid in due:
                events.mail_left(account=self.account, uid=uid, reason=self.trouble)
                self._seen.owed[uid].due = now + self._terms.poll_interval
            return
        how = f"moved to {folder}" if moving else "deleted"
        for uid in due:
            owed = self._seen.owed.pop(uid)
            if uid in left:
                reason = r"only marked \\Deleted: the server cannot remove single mails (UIDPLUS), or does not"
                events.mail_left(account=self.account, uid=uid, reason=reason)
            else:
                self.removed += 1
                events.mail_removed(account=self.account, uid=uid, decision_id=owed.decision_id, how=how)
        await self._save()

    async def _move(self, session: Session, uids: list[int], folder: str) -> None:
        try:
            await session.move(uids, folder)
        except Refused as error:
            if error.code != "TRYCREATE" or not self._terms.create_folder:
                raise
            await session.create(folder)
            await session.move(uids, folder)

    async def _save(self) -> None:
        try:
            await asyncio.to_thread(self._store.save, self._seen)
        except OSError as error:  # only a hint: what was read is read again, and found in the archive
            self.trouble = f"inbound/{self.account}.json: {error.strerror}"


def _pieces(uids: list[int]) -> list[list[int]]:
    return [uids[at : at + LOOKED_AT] for at in range(0, len(uids), LOOKED_AT)]


def _state(attempt: int) -> RetryCallState:
    """What tenacity's waits are computed from."""
    state = RetryCallState(None, None, (), {})  # type: ignore[arg-type]
    state.attempt_number = attempt
    return state
