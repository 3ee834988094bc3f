"""The loop of one mailbox: new mail -> read and archived -> removed. One per account.

Nothing leaves the folder before its decision is on disk and every required sink has it. Nothing is touched that is not
ours: mail with other machines' tokens, mail that was there before us, mail that is too old or too large stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from tenacity import RetryCallState, wait_exponential, wait_random
from tenacity.wait import wait_base

from mailrelayd import causes
from mailrelayd.clock import Clock
from mailrelayd.inbound.imap import Session
from mailrelayd.inbound.protocols import Desk, Terms
from mailrelayd.inbound.reader import SLOWEST, Reader
from mailrelayd.inbound.remover import Remover
from mailrelayd.inbound.seen import Seen, SeenStore
from mailrelayd.inbound.values import ImapError, Mailbox, NoSuchFolder, Refused
from mailrelayd.operate import approval_events as events
from mailrelayd.operate.events import daemon_bug

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0  # seconds between two connections that fail
JITTER: Final = 5.0  # seconds more, at most, so that not all come back at once
KEEP_ALIVE: Final = 540.0  # seconds of silence, at most
FINISH: Final = 5.0  # seconds after `stop` in which what is under way may end

Beat = Callable[[float], None]


class _HeldError(Exception):
    """Nothing is done in this folder until somebody says what is to become of the mail in it."""


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
        self._backoff: wait_base = wait_exponential(FIRST_PAUSE, LONGEST_PAUSE) + wait_random(0.0, JITTER)
        self._seen: Seen | None = None
        self._reader = Reader(terms, desk, clock, Seen("", 0))
        self._remover = Remover(terms, desk, clock, Seen("", 0))
        self._up = False
        self._down_since = 0.0
        self._failures = 0
        self._held = ""
        self._told_removed = 0  # mails, by the last mailbox.polled
        self._trouble = ""
        self.last_poll = 0.0  # when one was last completed, seconds since the epoch; 0: never

    @property
    def account(self) -> str:
        """The NAME of [inbound.NAME]."""
        return self._terms.name

    @property
    def trouble(self) -> str:
        """Why mail is not read, or not removed, now; "" where all is well."""
        return self._trouble or self._remover.trouble

    @property
    def read(self) -> int:
        """How many mails were read since the start."""
        return self._reader.read

    @property
    def removed(self) -> int:
        """How many were removed since the start."""
        return self._remover.removed

    def wake(self) -> None:
        """Look again: `stop` was set, or mail may be removed."""
        self._news.set()

    def served(self, decision_id: str) -> None:
        """A sink has taken this decision, or will never: look again if its mail may go from here now.

        Others are left alone: each look ends an IDLE and begins another one.
        """
        if self._seen is not None and any(owed.decision_id == decision_id for owed in self._seen.owed.values()):
            self.wake()

    async def run(self, stop: asyncio.Event, beat: Beat) -> None:
        """Until `stop`. `beat` is told within how many seconds it will be called again."""
        while not stop.is_set():
            beat(SLOWEST)
            try:
                session = await _unless(stop, self._connect())
                if session is None:
                    return
                async with session, self._dropped_after(stop, session):
                    mailbox = await self._open(session)
                    await self._serve(session, mailbox, stop, beat)
                continue
            except _HeldError as held:
                self._trouble = str(held)
                pause = self._terms.poll_interval
            except ImapError as error:
                pause = self._down(str(error.stage), str(error), stop)
            except OSError as error:
                pause = self._down("state", error.strerror or str(error), stop)
            except Exception as error:  # noqa: BLE001 - one mailbox must not stop the daemon
                daemon_bug(where="inbound", error=error)
                pause = self._down("bug", f"unexpected {type(error).__name__}", stop)
            await self._pause(stop, beat, pause)

    def _explained(self, error: ImapError) -> ImapError:
        """The error, with what is behind it in the same sentence."""
        cause = causes.explain("imap", error.stage, error.code, error.text, account=f"inbound.{self.account}")
        error.text = causes.behind(error.text, cause)
        return error

    def _down(self, stage: str, text: str, stop: asyncio.Event) -> float:
        """Say that the mailbox is not read; the seconds until the next try."""
        pause = self._backoff(_state(self._failures + 1))
        if not stop.is_set():
            self._failed(stage, text, pause)
        return pause

    def _failed(self, stage: str, text: str, pause: float) -> None:
        now = self._clock.now()
        self._down_since = self._down_since if self._failures else now
        self._failures += 1
        self._trouble = text
        events.mailbox_down(
            account=self.account, stage=stage, response=text, attempt=self._failures, next_attempt=now + pause
        )

    def _well(self, mailbox: Mailbox) -> None:
        """A look at everything has succeeded."""
        if not self._up or self._failures:
            outage = self._clock.now() - self._down_since if self._failures else None
            events.mailbox_up(account=self.account, folder=mailbox.name, outage=outage)
        self._up, self._failures, self._trouble, self._held = True, 0, "", ""

    async def _pause(self, stop: asyncio.Event, beat: Beat, seconds: float) -> None:
        until = self._clock.monotonic() + seconds
        while not stop.is_set() and (left := until - self._clock.monotonic()) > 0:
            beat(left + SLOWEST)
            self._news.clear()
            await self._clock.wait(self._news, left)

    @asynccontextmanager
    async def _dropped_after(self, stop: asyncio.Event, session: Session) -> AsyncIterator[None]:
        """A server that keeps silent must not keep us from ending; what is being archived is finished in any case."""

        async def drop() -> None:
            await stop.wait()
            await self._clock.wait(asyncio.Event(), FINISH)
            session.abort()

        dropping = asyncio.create_task(drop())
        try:
            yield
        finally:
            dropping.cancel()
            await asyncio.wait([dropping])

    # -- the folder --------------------------------------------------------------------------------------------

    async def _open(self, session: Session) -> Mailbox:
        """Open the folder, and make sure that what is in it may be read. Raises _HeldError, ImapError, OSError."""
        try:
            mailbox = await session.select(self._terms.folder)
        except NoSuchFolder as error:
            if not self._terms.create_folder:
                raise self._explained(error) from error.__cause__
            await session.create(self._terms.folder)
            mailbox = await session.select(self._terms.folder)
        except Refused as error:  # such as: may not open it
            raise self._explained(error) from error.__cause__
        known = self._seen if self._seen is not None else await asyncio.to_thread(self._store.load)
        if known is None or (known.folder, known.uidvalidity) != (mailbox.name, mailbox.uidvalidity):
            known = await self._meet(session, mailbox, known)
        if known is not self._seen:
            self._seen = known
            reader, remover = self._reader, self._remover
            self._reader = Reader(self._terms, self._desk, self._clock, known)
            self._remover = Remover(self._terms, self._desk, self._clock, known)
            self._reader.read, self._remover.removed = reader.read, remover.removed
        self._reader.connected()
        return mailbox

    async def _meet(self, session: Session, mailbox: Mailbox, before: Seen | None) -> Seen:
        """First contact: nothing that is there already is touched unless the configuration says so.

        So it is after a changed UIDVALIDITY, or when our own state was lost.
        """
        if mailbox.exists and self._terms.adopt == "refuse":
            hint = 'set adopt = "new-only" to leave what is there, or "all" to read it'
            reason = "the folder held mail before anything here knew it"
            if before is not None and before.folder == mailbox.name:
                reason = (
                    f"all its mails have other names now: UIDVALIDITY {mailbox.uidvalidity}, not {before.uidvalidity}"
                )
                hint = 'set adopt = "new-only" to read only answers to our requests among them, or "all"'
            if self._held != reason:
                self._held = reason
                events.mailbox_refused(
                    account=self.account, folder=mailbox.name, mails=mailbox.exists, reason=reason, hint=hint
                )
            raise _HeldError(f"{mailbox.name} holds {mailbox.exists} mails, and {reason}: {hint}")
        seen = Seen(mailbox.name, mailbox.uidvalidity)
        if mailbox.exists and self._terms.adopt == "new-only":
            # Answers may be among what is there, after a changed UIDVALIDITY or where our state was lost.
            seen.boundary = mailbox.uidnext or max(await session.search(), default=0) + 1
        await asyncio.to_thread(self._store.save, seen)
        return seen

    async def _serve(self, session: Session, mailbox: Mailbox, stop: asyncio.Event, beat: Beat) -> None:
        """Look, remove, and wait in between, until `stop` or the end of the connection."""
        poll_at = self._clock.monotonic()
        more = False
        while not stop.is_set():
            beat(SLOWEST)
            self._news.clear()
            now = self._clock.monotonic()
            if now >= poll_at or more:
                regular = now >= poll_at
                poll_at = now + self._terms.poll_interval if regular else poll_at
                more = await self._look(session, mailbox, stop, beat, regular=regular)
            beat(SLOWEST)
            if await self._remover.remove(session) or self._reader.changed:
                await self._save()
            if not more:
                more = await self._wait(session, stop, beat, min(poll_at, self._remover.next_at()))

    async def _look(
        self, session: Session, mailbox: Mailbox, stop: asyncio.Event, beat: Beat, *, regular: bool
    ) -> bool:
        """Look once; whether to look again at once."""
        removed = self._remover.removed
        look = await self._reader.look(session, stop.is_set, beat, regular=regular)
        if stop.is_set():
            return False
        if look.trouble:
            if regular or not self._failures:
                self._failed("archive", look.trouble, self._terms.poll_interval)
            return look.more
        events.mailbox_polled(
            account=self.account,
            folder=mailbox.name,
            found=look.found,
            read=look.read,
            left=look.left,
            removed=removed - self._told_removed,
        )
        self._told_removed = removed
        self._well(mailbox)
        if not look.more:
            self.last_poll = self._clock.now()
        return look.more

    async def _wait(self, session: Session, stop: asyncio.Event, beat: Beat, until: float) -> bool:
        """Wait until so late, `stop`, or a call of `wake`; True: the server says that there is new mail."""
        while not self._news.is_set() and not stop.is_set() and (left := until - self._clock.monotonic()) > 0:
            slice_ = min(left, KEEP_ALIVE)
            beat(slice_ + SLOWEST)
            if self._terms.idle:
                if await session.idle(self._clock, self._news, slice_):
                    return True
            else:
                await self._clock.wait(self._news, slice_)
            if slice_ == KEEP_ALIVE and not stop.is_set():
                await session.noop()
        return False

    async def _save(self) -> None:
        assert self._seen is not None
        try:
            await asyncio.to_thread(self._store.save, self._seen)
        except OSError as error:  # only a hint: what was read is read again, and found in the archive
            if not self._failures:
                self._failed("state", f"inbound/{self.account}.json: {error.strerror}", self._terms.poll_interval)
        else:
            self._reader.changed = False


async def _unless(stop: asyncio.Event, connecting: Awaitable[Session]) -> Session | None:
    """The session; None where `stop` comes first."""
    task, stopped = asyncio.ensure_future(connecting), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and task.exception() is None:  # it was just done
            await task.result().close()
        return None
    finally:
        for one in (task, stopped):
            one.cancel()
        await asyncio.wait([task, stopped])


def _state(attempt: int) -> RetryCallState:
    """What tenacity's waits are computed from."""
    state = RetryCallState(None, None, (), {})  # type: ignore[arg-type]
    state.attempt_number = attempt
    return state
