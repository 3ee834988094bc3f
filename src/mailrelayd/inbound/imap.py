"""A mailbox's session: what a reader of mail asks of an IMAP server, and nothing more.

Mails are named by UID only, read without setting \\Seen, and removed by UID only: never by an EXPUNGE that would take
along what others have marked.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Final, Self

from mailrelayd.clock import Clock
from mailrelayd.inbound import answers, names
from mailrelayd.inbound.connection import Connection
from mailrelayd.inbound.idle import Waiting
from mailrelayd.inbound.values import ImapError, Mailbox, MailMissing, NoSuchFolder, Refused, Stage, Summary
from mailrelayd.inbound.wire import Limits, Nonsense, Value

CHUNK: Final = 256 * 1024
"""Octets of a mail that are asked for, and held in memory, at a time."""
HEADER: Final = 16 * 1024
"""Octets of a mail's header that a summary holds, where nobody asks for another number."""
AT_A_TIME: Final = 50
"""Mails in one command, where nobody asks for fewer."""
LOGOUT_DEADLINE: Final = 5.0  # seconds for the polite end; nothing depends on it

_SLACK: Final = 256 * 1024  # octets in an answer besides what was asked for: news of other mails
_NAMES_SHOWN: Final = 20  # folders in an error
_FOUND: Final = Limits(line=8 * 1024 * 1024, total=9 * 1024 * 1024)  # some 700,000 UIDs
_FOLDERS: Final = Limits(total=4 * 1024 * 1024)


class Session:
    """A connection that is logged in. One owner; every method raises ImapError, after which nothing else can be done.

    Where the server only says no, the error is Refused and the session goes on. As a context manager it ends with
    LOGOUT, or at once where the block was left by an exception.
    """

    def __init__(self, connection: Connection, *, peer: str, tls: str) -> None:
        self.peer = peer  # host[ip]:port
        self.tls = tls  # protocol version and cipher; "" without TLS
        self._connection = connection
        self._waiting = Waiting(connection)
        self._read_only = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abort()
        await self.close()

    @property
    def trouble(self) -> str:
        """Why the connection has ended; "" as long as it has not."""
        return self._connection.failure

    @property
    def capabilities(self) -> frozenset[str]:
        """What the server can do for whoever is logged in (RFC 3501 section 7.2.1)."""
        return frozenset(self._connection.capabilities)

    @property
    def can_expunge(self) -> bool:
        """Whether single mails can be removed (UIDPLUS, RFC 4315)."""
        return "UIDPLUS" in self._connection.capabilities

    @property
    def can_move(self) -> bool:
        """Whether mails can be moved: by MOVE (RFC 6851), or by its three parts."""
        return "MOVE" in self._connection.capabilities or self.can_expunge

    def traced(self, listener: Callable[[str, bytes], None]) -> None:
        """Have `listener` told what is said (">") and heard ("<"): never a password, never a mail."""
        self._connection.trace = listener

    # Folders

    async def select(self, name: str, *, read_only: bool = False) -> Mailbox:
        """Open a folder. Raises NoSuchFolder, which knows the folders there are."""
        command, folder = "EXAMINE" if read_only else "SELECT", _folder(Stage.SELECT, name)
        try:
            answer = await self._connection.call(Stage.SELECT, command, folder)
        except Refused as refused:
            self._connection.selected(None, 0)  # RFC 3501 section 6.3.1: no folder is open then
            there = await self.folders()
            if any(_same(name, other) for other in there):
                raise
            shown = ", ".join(there[:_NAMES_SHOWN]) + (", ..." if len(there) > _NAMES_SHOWN else "")
            text = self._connection.shown(f"there is no folder {name!r}, but {shown or 'none at all'}")
            raise NoSuchFolder(Stage.SELECT, text, refused.code, there) from refused
        with self._understood(Stage.SELECT):
            mailbox = answers.opened(name, answer.untagged, answer.status, read_only=read_only)
        self._connection.selected(mailbox.uidvalidity, mailbox.exists)
        self._read_only = mailbox.read_only
        return mailbox

    async def folders(self) -> tuple[str, ...]:
        """The names of all folders that can hold mail."""
        answer = await self._connection.call(Stage.LIST, "LIST", '""', '"*"', limits=_FOLDERS)
        with self._understood(Stage.LIST):
            found = list(answers.listed(answer.untagged))
        return tuple(sorted(found))

    async def create(self, name: str) -> None:
        """Make a new folder."""
        await self._connection.call(Stage.CREATE, "CREATE", _folder(Stage.CREATE, name))

    # Reading

    async def search(
        self, *, first: int = 1, since: datetime.date | None = None, before: datetime.date | None = None
    ) -> list[int]:
        """The UIDs from `first` on, in order, of mails that arrived on `since` or later, and before the day `before`.

        The server takes days in its own time zone and may know no hours: ask for a day more and look at
        Summary.internal_date.
        """
        if first > names.LAST_UID:
            return []
        criteria = [f"UID {max(first, 1)}:*"]
        criteria += [f"SINCE {names.date(since)}"] if since is not None else []
        criteria += [f"BEFORE {names.date(before)}"] if before is not None else []
        self._connection.more_mail = False
        # RFC 3501 section 6.4.8: n:* always holds the last mail, also where its UID is smaller.
        return [uid for uid in await self._search(*criteria) if uid >= first]

    async def _search(self, *criteria: str) -> list[int]:
        answer = await self._connection.call(Stage.SEARCH, "SEARCH", *criteria, prefix="UID", limits=_FOUND)
        with self._understood(Stage.SEARCH):
            found = set(answers.searched(answer.untagged))
        return sorted(found)

    async def summaries(
        self, uids: Collection[int], fields: Sequence[str], *, header: int = HEADER, at_a_time: int = AT_A_TIME
    ) -> AsyncIterator[Summary]:
        """A summary of each mail with these header fields, in order of UID, `header` octets of them at most.

        A mail without one has been removed meanwhile, or the server did not describe it completely. Where describing
        one mail makes the server fail, `at_a_time=1` shows which: the first without a summary.
        """
        section = f"HEADER.FIELDS {names.field_names(fields)}"
        items = f"(UID RFC822.SIZE INTERNALDATE FLAGS BODY.PEEK[{section}]<0.{header}>)"
        for some in _portions(uids, at_a_time):
            described = await self._described(some, items, header)
            for uid in some:
                summary = answers.summary(uid, described.get(uid, {}), header)
                if summary is not None:
                    yield summary

    async def _described(self, uids: Sequence[int], items: str, octets: int) -> dict[int, dict[str, Value]]:
        """As `_fetch`, but a mail that the server refuses to describe does not hide the others."""
        try:
            return await self._fetch(uids, items, octets=octets)
        except Refused:  # RFC 2180 section 4.1: also where one of them has just been removed
            if len(uids) == 1:
                raise
        found: dict[int, dict[str, Value]] = {}
        refusals = []
        for uid in uids:
            try:
                found |= await self._fetch([uid], items, octets=octets)
            except Refused as refused:
                refusals.append(refused)
        if not found:
            raise refusals[0]
        return found

    async def message(self, uid: int, *, size: int, limit: int) -> AsyncIterator[bytes]:
        """A mail in pieces of at most CHUNK octets, `limit` octets of it at most; `size` is its Summary's.

        Raises MailMissing where there is no text.
        """
        offset = 0
        while offset < limit:
            wanted = min(CHUNK, limit - offset)
            piece = await self._piece(uid, offset, wanted)
            if not piece and offset == 0 and size > 0:
                raise self._missing(uid)
            if piece:
                yield piece
            offset += len(piece)
            if not piece or (len(piece) < wanted and offset >= size):  # the size may be wrong, an end is not
                return

    async def _piece(self, uid: int, offset: int, count: int) -> bytes:
        items = f"(UID BODY.PEEK[]<{offset}.{count}>)"
        found = (await self._fetch([uid], items, octets=count)).get(uid, {})
        value = found.get(f"BODY[]<{offset}>", found.get("BODY[]") if offset == 0 else None)
        if not isinstance(value, bytes):  # also NIL: a server that could not read it must not make us remove it
            raise self._missing(uid)
        if len(value) > count:
            self._connection.fail(f"the server sent {len(value)} octets of a mail, asked for {count}")
            raise self._connection.error(Stage.FETCH)
        return value

    async def _fetch(self, uids: Sequence[int], items: str, *, octets: int) -> dict[int, dict[str, Value]]:
        """What the server tells of these mails, by UID; whatever else it tells is passed over."""
        limits = Limits(literal=max(octets, 1024), total=len(uids) * (octets + 1024) + _SLACK)
        answer = await self._connection.call(
            Stage.FETCH, "FETCH", names.uid_set(uids), items, prefix="UID", limits=limits
        )
        found: dict[int, dict[str, Value]] = {uid: {} for uid in uids}
        with self._understood(Stage.FETCH):
            for response in answer.untagged:
                told = answers.fetched(response) or {}
                uid = answers.number(told.get("UID"))
                if uid in found:
                    found[uid].update(told)
        return found

    # Removing

    async def delete(self, uids: Collection[int]) -> list[int]:
        """Remove mails; those that are still there afterwards.

        These are all of them where the server cannot remove single mails: they are only marked \\Deleted then. Others
        are left where the server keeps mails in spite of its OK.
        """
        self._check_writable(Stage.STORE)
        left = []
        for some in _portions(uids):
            chosen = names.uid_set(some)
            await self._connection.call(Stage.STORE, "STORE", chosen, "+FLAGS.SILENT", r"(\Deleted)", prefix="UID")
            if self.can_expunge:
                await self._connection.call(Stage.EXPUNGE, "EXPUNGE", chosen, prefix="UID")
                left += await self._search(f"UID {chosen}")
            else:
                left += some
        return left

    async def move(self, uids: Collection[int], name: str) -> None:
        """Move mails into another folder. Raises Refused with the code TRYCREATE where there is none of that name."""
        folder = _folder(Stage.MOVE, name)
        self._check_writable(Stage.MOVE)
        if not self.can_move:
            raise Refused(Stage.MOVE, "the server can neither move mails (MOVE) nor remove single ones (UIDPLUS)")
        whole = "MOVE" in self._connection.capabilities
        for some in _portions(uids):
            chosen = names.uid_set(some)
            await self._connection.call(Stage.MOVE, "MOVE" if whole else "COPY", chosen, folder, prefix="UID")
            if not whole:
                await self.delete(some)

    # Waiting

    async def idle(self, clock: Clock, stop: asyncio.Event, seconds: float) -> bool:
        """Wait for new mail. True: the server says there is some, since the last `search`. False: time is up, or stop.

        Only a hint: a silent server may be dead, or never tell. Whoever waits looks again by `search` in any case.
        """
        return await self._waiting.wait(clock, stop, seconds)

    async def noop(self) -> bool:
        """Ask whether the server is there. True: it says that there is new mail, since the last `search`."""
        await self._connection.call(Stage.NOOP, "NOOP")
        return self._connection.more_mail

    # The end

    def abort(self) -> None:
        """Drop the connection at once."""
        self._connection.fail("given up")

    async def close(self) -> None:
        """LOGOUT if the connection lives, then close. Short, raises nothing of its own; harmless if repeated."""
        try:
            if not self._connection.failure:
                with suppress(ImapError, TimeoutError):
                    async with asyncio.timeout(LOGOUT_DEADLINE):
                        await self._connection.call(Stage.LOGOUT, "LOGOUT")
        finally:
            self._connection.fail("closed")
        await self._connection.close()

    # In between

    def _check_writable(self, stage: Stage) -> None:
        if self._read_only:  # some servers say OK then, and do nothing
            raise Refused(stage, "the folder is open for reading only")

    def _missing(self, uid: int) -> MailMissing:
        return MailMissing(Stage.FETCH, f"the server has no text for the mail with UID {uid}")

    @contextmanager
    def _understood(self, stage: Stage) -> Iterator[None]:
        """Nonsense inside ends the connection."""
        try:
            yield
        except Nonsense as nonsense:
            self._connection.misunderstood(nonsense)
            raise self._connection.error(stage) from nonsense


def _folder(stage: Stage, name: str) -> str:
    try:
        return names.folder(name)
    except ValueError as error:
        raise Refused(stage, f"{name!r} cannot be the name of a folder") from error


def _portions(uids: Iterable[int], at_a_time: int = AT_A_TIME) -> Iterator[list[int]]:
    """All of them in order, a few at a time: a line of a command must not be too long."""
    ordered = sorted(set(uids))
    for begin in range(0, len(ordered), at_a_time):
        yield ordered[begin : begin + at_a_time]


def _same(name: str, other: str) -> bool:
    return name == other or name.upper() == other.upper() == "INBOX"  # RFC 3501 section 5.1
