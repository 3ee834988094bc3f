"""One look at a folder: what is new is told apart by its header, then read, answers first.

A mail's faults are its own. What the server cannot give, or gives at the price of the connection, is asked for alone,
after all others, a few times, and then left.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from mailrelayd.clock import Clock
from mailrelayd.inbound.backlog import Backlog, Waiting
from mailrelayd.inbound.imap import AT_A_TIME, Session
from mailrelayd.inbound.protocols import Action, Arrived, Desk, Terms, Whose
from mailrelayd.inbound.seen import Owed, Seen
from mailrelayd.inbound.values import ImapError, Refused, Summary
from mailrelayd.operate import approval_events as events
from mailrelayd.operate.events import daemon_bug

FIELDS: Final = (  # what a summary holds: everything in which a token of ours may stand
    "To",
    "Cc",
    "Delivered-To",
    "X-Original-To",
    "Envelope-To",
    "In-Reply-To",
    "References",
    "Subject",
)
SLOWEST: Final = 900.0  # seconds that one step may take
CLOCKS_DIFFER: Final = 3600.0  # seconds by which the limit of age may go back before it counts as another one
_NOT_NOW = ("UNAVAILABLE", "INUSE", "LIMIT", "SERVERBUG")  # RFC 5530: the server's trouble, not the mail's
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)  # no mail fares better than the one before

IGNORED = "ignored: it is older than process_after or ignore_older_than allow"
OVERSIZE = "oversize: it is larger than max_message_size"
FOREIGN = "foreign: it carries a token that was not issued here"
OLD = "ignored: it was there before us, and carries no token of ours"


class _OversizeError(Exception):
    """The mail is larger than the server said, and than it may be."""


@dataclass(frozen=True, slots=True)
class Look:
    """What came of one look."""

    found: int  # mails that were not known
    read: int  # newly
    left: int  # for good
    more: bool  # answers wait: look again at once
    trouble: str  # why some have to be read again; "": none have


class Reader:
    """Reads one folder, over any number of connections."""

    def __init__(self, terms: Terms, desk: Desk, clock: Clock, seen: Seen) -> None:
        """`seen` is changed in place."""
        self._terms = terms
        self._desk = desk
        self._clock = clock
        self._seen = seen
        self._backlog = Backlog()
        self._room = 0  # mails without a token that may still be read in this interval
        self._again_at = 0.0  # the next interval, on clock.monotonic()
        self._first = self._next = 1  # smaller UIDs are of no interest to this connection; nor are there larger ones
        self._left: dict[str, list[int]] = {}  # why -> which, to be told
        self._trouble = ""
        self._halted = False  # our disk fails: no mail would fare better
        self.changed = False  # whether `seen` has to be saved
        self.read = 0  # mails, since the start

    def connected(self) -> None:
        """On a new connection everything is listed once."""
        self._first = 1

    async def look(
        self, session: Session, stop: Callable[[], bool], beat: Callable[[float], None], *, regular: bool
    ) -> Look:
        """Look once. `regular`: an interval begins, so that there is room for another batch_size. Raises ImapError.

        Raises OSError where nobody can tell now which mail is ours.
        """
        begun_at, now = self._clock.now(), self._clock.monotonic()
        if regular:
            self._room = self._terms.batch_size
            self._again_at = now + self._terms.poll_interval
            self._trouble = ""
        self._halted = False
        try:
            found = await self._list(session, stop, beat)
            read = await self._read_some(session, stop, beat)
        finally:
            left = sum(len(uids) for uids in self._left.values())
            self._tell_what_was_left()
        more = not self._halted and any(mail.ours for mail in self._backlog.ready(self._clock.monotonic()))
        if not more and not stop() and (until := self._backlog.read_until(begun_at)) is not None:
            self._desk.polled(self._terms.name, until)
        self._first = min(self._next, self._backlog.first(), *self._seen.owed)
        return Look(found, read, left, more, self._trouble)

    # -- telling apart -----------------------------------------------------------------------------------------

    async def _list(self, session: Session, stop: Callable[[], bool], beat: Callable[[float], None]) -> int:
        """Put what is new into the backlog; how many mails were new."""
        limit = self._limit()
        uids = await session.search(first=self._first)
        self._next = uids[-1] + 1 if uids else self._first
        self._forget_gone(set(uids))
        known, now = self._seen, self._clock.monotonic()
        new = [uid for uid in uids if not (uid in known.handled or uid in known.passed or uid in self._backlog)]
        found = new = [uid for uid in new if self._backlog.may_try(uid, now)]
        if limit is not None and new:
            recent = set(await session.search(first=self._first, since=limit.date() - timedelta(days=1)))
            for uid in new:
                if uid not in recent:
                    self._pass_by(uid, IGNORED)
            new = [uid for uid in new if uid in recent]
        suspects = sorted((uid for uid in new if self._backlog.suspected(uid)), key=self._backlog.tries)
        calm = [uid for uid in new if not self._backlog.suspected(uid)]
        for some in (*_portions(calm), *([uid] for uid in suspects)):
            if stop():
                break
            beat(SLOWEST)
            await self._describe(session, some, limit, stop)
        return len(found)

    def _limit(self) -> datetime | None:
        """Mail from before is passed by. Where limits have been widened, what they kept out is looked at again."""
        terms, seen = self._terms, self._seen
        limits = [terms.process_after] if terms.process_after else []
        if terms.ignore_older_than:
            age = min(terms.ignore_older_than, self._clock.now())
            limits.append(datetime.fromtimestamp(self._clock.now() - age, UTC))
        limit = max(limits, default=None)
        since = limit.timestamp() if limit is not None else 0.0
        if seen.passed and (since + CLOCKS_DIFFER < seen.since or terms.max_message_size > seen.most):
            seen.passed.clear()
            seen.since, self.changed, self._first = since, True, 1
        seen.since, seen.most = max(since, seen.since) if seen.passed else since, terms.max_message_size
        return limit

    def _forget_gone(self, there: set[int]) -> None:
        """What is not there any more was removed by others."""
        seen, first = self._seen, self._first
        self._backlog.forget_all_but(there, first)
        for uid in [uid for uid in seen.owed if uid not in there]:
            del seen.owed[uid]
            self.changed = True
        if first == 1:
            seen.handled &= there
            seen.passed &= there

    async def _describe(
        self, session: Session, uids: list[int], limit: datetime | None, stop: Callable[[], bool]
    ) -> None:
        """Sort mails by what the server tells of them."""
        described: set[int] = set()
        reason = "the server does not describe it"
        try:
            async with aclosing(session.summaries(uids, FIELDS)) as summaries:  # type: ignore[type-var]
                async for one in summaries:
                    described.add(one.uid)
                    self._sort(one, limit)
        except Refused as error:  # each of them was asked for alone
            if error.code in _NOT_NOW:
                raise
            reason = str(error)
        except ImapError as error:
            if not stop():
                self._blame([uid for uid in uids if uid not in described], error)
            raise
        for uid in uids:
            if uid not in described:
                self._stumble(uid, reason, self._again_at)

    def _blame(self, uids: list[int], error: ImapError) -> None:
        """The connection was lost over one of these."""
        if len(uids) == 1:
            now = self._clock.monotonic()
            self._stumble(uids[0], str(error), self._again_at if self._backlog.tries(uids[0]) else now)
        for uid in uids:
            self._backlog.suspect(uid)

    def _sort(self, mail: Summary, limit: datetime | None) -> None:
        if limit is not None and mail.internal_date < limit:
            self._pass_by(mail.uid, IGNORED)
        elif mail.size > self._terms.max_message_size:
            self._pass_by(mail.uid, OVERSIZE)
        elif (whose := self._whose(mail)) is Whose.FOREIGN:
            self._leave(mail.uid, FOREIGN)
        elif whose is Whose.NOBODY and mail.uid < self._seen.boundary:
            self._leave(mail.uid, OLD)
        else:
            received_at = mail.internal_date.timestamp()
            self._backlog.add(Waiting(mail.uid, mail.size, received_at, ours=whose is Whose.OURS))

    def _whose(self, mail: Summary) -> Whose:
        try:
            return self._desk.whose(mail.header)
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - one mail that meets a bug must not stop all the others
            daemon_bug(where="inbound", error=error)
            return Whose.NOBODY

    # -- reading -----------------------------------------------------------------------------------------------

    async def _read_some(self, session: Session, stop: Callable[[], bool], beat: Callable[[float], None]) -> int:
        """Read a batch; how many were new."""
        read = 0
        for mail in self._backlog.ready(self._clock.monotonic()):
            if stop() or read >= self._terms.batch_size or not (mail.ours or self._room > 0):
                break
            new = await self._read(session, mail, stop, beat)
            read += new
            self._room -= new
            if self._halted:
                break
        return read

    async def _read(
        self, session: Session, mail: Waiting, stop: Callable[[], bool], beat: Callable[[float], None]
    ) -> bool:
        """Have one mail read; whether it was new. Raises ImapError where the connection ends."""
        seen, uid = self._seen, mail.uid
        arrived = Arrived(self._terms.name, seen.folder, seen.uidvalidity, uid, mail.received_at, mail.size)
        try:
            async with aclosing(self._content(session, mail, beat)) as content:  # type: ignore[type-var]
                disposition = await self._desk.receive(arrived, content)
        except _OversizeError:
            self._pass_by(uid, OVERSIZE)
            return False
        except Refused as error:
            if error.code in _NOT_NOW:
                raise
            self._stumble(uid, str(error), self._again_at)
            return False
        except ImapError as error:
            if not stop():
                self._blame([uid], error)
            raise
        except OSError as error:  # ours, and nothing has happened to the mail
            self._trouble = f"mail {uid} cannot be judged now: {error.strerror or error}"
            self._halted = error.errno in _DISK
            self._backlog.put_off(uid, self._again_at)
            return False
        except Exception as error:  # noqa: BLE001 - one mail that meets a bug must not stop all the others
            daemon_bug(where="inbound", error=error)
            self._stumble(uid, f"unexpected {type(error).__name__}", self._again_at)
            return False
        self._backlog.finish(uid)
        seen.handled.add(uid)
        if disposition.action is Action.REMOVE and self._terms.after != "keep":
            seen.owed[uid] = Owed(disposition.decision_id, disposition.at)
        self.changed = True
        self.read += disposition.new
        return disposition.new

    async def _content(self, session: Session, mail: Waiting, beat: Callable[[float], None]) -> AsyncIterator[bytes]:
        """The mail in pieces: all of it or an error, whatever the server said of its size."""
        most, taken = self._terms.max_message_size, 0
        async with aclosing(session.message(mail.uid, size=mail.size, limit=most + 1)) as pieces:  # type: ignore[type-var]
            beat(SLOWEST)
            async for piece in pieces:
                beat(SLOWEST)
                taken += len(piece)
                if taken > most:
                    raise _OversizeError
                yield piece

    # -- leaving -----------------------------------------------------------------------------------------------

    def _stumble(self, uid: int, reason: str, again_at: float) -> None:
        if self._backlog.stumble(uid, self._clock.monotonic(), again_at):
            self._left.setdefault(f"unreadable: {reason}", []).append(uid)

    def _pass_by(self, uid: int, why: str) -> None:
        self._backlog.finish(uid)
        self._seen.passed.add(uid)
        self._left.setdefault(why, []).append(uid)
        self.changed = True

    def _leave(self, uid: int, why: str) -> None:
        self._backlog.finish(uid)
        self._seen.handled.add(uid)
        self._left.setdefault(why, []).append(uid)
        self.changed = True

    def _tell_what_was_left(self) -> None:
        for why, uids in self._left.items():
            many = len(uids) if len(uids) > 1 else None
            events.mail_left(account=self._terms.name, uid=None if many else uids[0], mails=many, reason=why)
        self._left.clear()


def _portions(uids: Iterable[int]) -> Iterator[list[int]]:
    ordered = list(uids)
    for begin in range(0, len(ordered), AT_A_TIME):
        yield ordered[begin : begin + AT_A_TIME]
