"""The loop of a mailbox: what it reads, in which order, what it leaves alone, and that nothing stops it."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mailrelayd.clock import Clock, SystemClock
from mailrelayd.inbound.backlog import LATER
from mailrelayd.inbound.connect import connect
from mailrelayd.inbound.imap import Session
from mailrelayd.inbound.poller import LONGEST_PAUSE, Poller
from mailrelayd.inbound.protocols import Action, Arrived, Disposition, Whose
from mailrelayd.inbound.seen import Owed, Seen, SeenStore
from mailrelayd.inbound.values import ImapError, Stage
from tests.accounts import Account, Tls
from tests.manual_clock import START, ManualClock
from tests.scripted_imap import Conversation, Fault, Gone, Script, Server, serving, silence
from tests.servers.certificates import Certificates
from tests.servers.mailbox import MailboxServer, User
from tests.test_imap import until

DAY = 86_400.0
SENT_AT = 837_596_665.0  # when scripted_imap's mails arrived: 17-Jul-1996 02:44:25 -0700


@dataclass(frozen=True)
class Terms:
    """[inbound.answers], with a folder that may be read from the beginning."""

    name: str = "answers"
    folder: str = "INBOX"
    create_folder: bool = False
    poll_interval: float = 300.0
    batch_size: int = 30
    idle: bool = False
    process_after: datetime | None = None
    ignore_older_than: float = 0.0
    after: str = "delete"
    delete_after: float = 0.0
    adopt: str = "all"
    max_message_size: int = 1 << 20


def mail(text: str, subject: str = "ours") -> bytes:
    return f"From: a@dest.test\r\nTo: b@dest.test\r\nSubject: {subject}\r\n\r\n{text}\r\n".encode()


class Desk:
    """Keeps every mail in memory; whose it is, its subject says. `faults` are raised for a mail, in turn."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.archive: dict[str, tuple[bytes, float]] = {}  # id -> mail, when
        self.read: list[int] = []  # UIDs, in order, of all that were read to the end
        self.tried: list[int] = []
        self.faults: dict[int, list[Exception]] = {}
        self.every: Exception | None = None  # raised for all of them
        self.blind: Exception | None = None  # raised where it is asked whose a mail is
        self.held: set[str] = set()  # ids that a sink has yet to take
        self.action = Action.REMOVE
        self.polls: list[float] = []
        self.before: Callable[[Arrived], Awaitable[None]] | None = None

    def whose(self, header: bytes) -> Whose:
        if self.blind is not None:
            raise self.blind
        subject = header.partition(b"Subject: ")[2].split(b"\r\n")[0]
        return Whose.OURS if b"ours" in subject else Whose.FOREIGN if b"foreign" in subject else Whose.NOBODY

    async def receive(self, arrived: Arrived, pieces: AsyncIterator[bytes]) -> Disposition:
        self.tried.append(arrived.uid)
        if self.before is not None:
            await self.before(arrived)
        content = b"".join([piece async for piece in pieces])
        if faults := self.faults.get(arrived.uid):
            raise faults.pop(0)
        if self.every is not None:
            raise self.every
        decision_id = hashlib.sha256(content).hexdigest()
        new = decision_id not in self.archive
        _, at = self.archive.setdefault(decision_id, (content, self.clock.now()))
        self.read.append(arrived.uid)
        action = self.action if b"leave" not in content else Action.LEAVE
        return Disposition(action, decision_id, at, new)

    def may_remove(self, decision_id: str) -> bool:
        return decision_id not in self.held

    def polled(self, account: str, begun_at: float) -> None:
        self.polls.append(begun_at)

    @property
    def mails(self) -> list[bytes]:
        return [content for content, _ in self.archive.values()]


class Log:
    """What was said."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    def said(self, event: str) -> list[dict[str, Any]]:
        messages = [record.msg for record in self._caplog.records]
        return [one for one in messages if isinstance(one, dict) and one["event"] == event]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Log:
    caplog.set_level(logging.DEBUG)
    return Log(caplog)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SeenStore]:
    opened = SeenStore(tmp_path, "answers")
    yield opened
    opened.close()


@dataclass
class Loop:
    """A poller at work."""

    poller: Poller
    desk: Desk
    clock: ManualClock
    stop: asyncio.Event
    task: asyncio.Task[None]
    beats: list[float]

    async def rest(self) -> None:
        """Wait until it waits for time to pass."""
        await until(lambda: self.clock.waiting > 0 or self.task.done())

    async def after(self, seconds: float) -> None:
        """Let time pass, and it do what it has to do then."""
        await self.rest()
        count = len(self.clock.pauses)
        self.clock.advance(seconds)
        await until(lambda: (len(self.clock.pauses) > count and self.clock.waiting > 0) or self.task.done())


@asynccontextmanager
async def polling(
    connecting: Callable[[], Awaitable[Session]], store: SeenStore, terms: Terms, clock: Any = None, desk: Any = None
) -> AsyncIterator[Loop]:
    clock = clock or ManualClock()
    desk = desk or Desk(clock)
    poller = Poller(terms, connecting, desk, store, clock)
    stop = asyncio.Event()
    beats: list[float] = []
    task = asyncio.create_task(poller.run(stop, beats.append))
    try:
        yield Loop(poller, desk, clock, stop, task, beats)
        if task.done():
            task.result()
    finally:
        stop.set()
        poller.wake()
        async with asyncio.timeout(10):
            await task


@asynccontextmanager
async def scripted(script: Script, store: SeenStore, terms: Terms | None = None, **more: Any) -> AsyncIterator[Any]:
    """(loop, server)."""
    script.preauth = True
    async with (
        serving(script) as server,
        polling(
            lambda: connect(Account(server.port, connect_timeout=60, command_timeout=60)),
            store,
            terms or Terms(),
            **more,
        ) as loop,
    ):
        yield loop, server


def box(*subjects: str) -> dict[int, bytes]:
    """Mails 1, 2, ... with these subjects."""
    return {uid: mail(f"text {uid}", subject) for uid, subject in enumerate(subjects, 1)}


def fetch_unless(uid: int, part: str, fault: Callable[[Conversation], Awaitable[None]] | str) -> Fault:
    """UID FETCH as usual, but not where this mail's header ("HEADER") or text ("[]") is asked for."""

    async def act(conversation: Conversation) -> None:
        words = conversation.lines[-1].split(" ")
        uids = [int(one) for one in words[2].split(",")]
        if uid in uids and part in conversation.lines[-1]:
            await (conversation.say(fault) if isinstance(fault, str) else fault(conversation))
        else:
            await conversation.fetch(uids, " ".join(words[3:]))

    return act


async def drop(conversation: Conversation) -> None:
    raise Gone


def bodies(server: Server) -> list[int]:
    """The UIDs whose text was asked for."""
    return [int(line.split(" ")[2]) for line in server.lines if line.startswith("UID FETCH") and "PEEK[]" in line]


# One mail's faults are its own


@pytest.mark.parametrize("part", ["HEADER", "PEEK[]"])
async def test_a_mail_that_costs_the_connection_is_singled_out(part: str, store: SeenStore, log: Log) -> None:
    """All others are read; after three tries it is left, told once, and tried again much later."""
    script = Script({"UID FETCH": [fetch_unless(30, part, drop)]}, box(*["ours"] * 60))
    async with scripted(script, store, Terms(batch_size=100)) as (loop, server):
        await until(lambda: server.open == 0 and loop.clock.waiting)
        for _ in range(12):
            await loop.after(300)
        assert sorted(loop.desk.read) == [uid for uid in range(1, 61) if uid != 30]
        (left,) = [event for event in log.said("mail.left") if "unreadable" in event["reason"]]
        assert left["uid"] == 30
        tries = len(server.conversations)
        assert tries == 4 + (part == "HEADER")  # the first loss in a group shows only that one of them is bad
        assert loop.poller.trouble == ""
        script.answers = {}
        await loop.after(LATER)
        assert 30 in loop.desk.read


@pytest.mark.parametrize(
    ("part", "answer"),
    [
        ("HEADER", "<tag> NO cannot"),
        ("PEEK[]", "<tag> NO cannot"),
        ("PEEK[]", "* 2 FETCH (UID 2 BODY[]<0> NIL)\r\n<tag> OK fetched"),
        ("HEADER", "<tag> OK and nothing else"),
    ],
)
async def test_a_mail_that_the_server_refuses_does_not_stop_the_others(
    part: str, answer: str, store: SeenStore, log: Log
) -> None:
    """Neither NO, nor NIL, nor silence about it; the connection lives on, and it is never removed."""
    script = Script({"UID FETCH": [fetch_unless(2, part, answer)]}, box("ours", "ours", "ours"))
    async with scripted(script, store) as (loop, server):
        for _ in range(4):
            await loop.after(300)
        assert sorted(loop.desk.read) == [1, 3]
        assert len(server.conversations) == 1
        assert [event["uid"] for event in log.said("mail.left") if "unreadable" in event["reason"]] == [2]
        assert not any("2" in line.split(" ")[2].split(",") for line in server.lines if "STORE" in line)


@pytest.mark.parametrize("part", ["HEADER", "PEEK[]"])
async def test_a_server_that_is_busy_blames_no_mail(part: str, store: SeenStore, log: Log) -> None:
    """NO [UNAVAILABLE] ends the connection; the mail is read when the server can."""
    script = Script({"UID FETCH": [fetch_unless(1, part, "<tag> NO [UNAVAILABLE] busy")]}, box("ours"))
    async with scripted(script, store) as (loop, _):
        for _ in range(5):
            await loop.after(400)
        assert loop.desk.polls == []
        script.answers = {}
        await loop.after(400)
        assert loop.desk.read == [1]
        assert not [event for event in log.said("mail.left") if "unreadable" in event["reason"]]
        (up,) = log.said("mailbox.up")
        assert up["outage"] >= 2000


async def test_a_bug_in_reading_one_mail_does_not_stop_the_others(store: SeenStore, log: Log) -> None:
    """It is said, and after three tries the mail is left."""
    clock = ManualClock()
    desk = Desk(clock)
    desk.faults[1] = [RuntimeError("boom") for _ in range(3)]
    async with scripted(Script(mails=box("ours", "ours")), store, clock=clock, desk=desk) as (loop, _):
        for _ in range(3):
            await loop.after(300)
        assert desk.read == [2]
        assert len(log.said("daemon.bug")) == 3
        await loop.after(LATER)
        assert desk.read == [2, 1]


# Who goes first, and how many


async def test_answers_are_read_before_all_else_and_without_waiting(store: SeenStore) -> None:
    """Junk never starves them: the batch limits junk only, of which so much is read in each interval."""
    subjects = [*["lunch"] * 10, *["ours"] * 7]
    async with scripted(Script(mails=box(*subjects)), store, Terms(batch_size=3)) as (loop, _):
        await loop.rest()
        assert loop.desk.read == list(range(11, 18))
        await loop.after(300)
        assert loop.desk.read[7:] == [1, 2, 3]
        await loop.after(300)
        assert loop.desk.read[7:] == [1, 2, 3, 4, 5, 6]


async def test_what_is_archived_already_does_not_count(store: SeenStore) -> None:
    """After lost state a whole mailbox is recognized at once, not thirty mails every five minutes."""
    clock = ManualClock()
    desk = Desk(clock)
    mails = box(*["lunch"] * 20)
    for uid in range(1, 19):
        desk.archive[hashlib.sha256(mails[uid]).hexdigest()] = (mails[uid], START)
    async with scripted(Script(mails=mails), store, Terms(batch_size=2), clock=clock, desk=desk) as (loop, _):
        await loop.rest()
        assert desk.read == list(range(1, 21))


async def test_a_poll_counts_only_up_to_what_was_not_read_yet(store: SeenStore) -> None:
    """A request expires only when everything that came before was read, also mail that showed no token."""
    async with scripted(Script(mails=box("lunch", "lunch")), store, Terms(batch_size=1)) as (loop, _):
        await loop.rest()
        assert loop.desk.polls == [SENT_AT]
        await loop.after(300)
        assert loop.desk.polls == [SENT_AT, START + 300]


# What is left alone


async def test_mail_of_other_machines_is_left(store: SeenStore, log: Log) -> None:
    """Also where everything that is there is read."""
    async with scripted(Script(mails=box("foreign", "ours", "foreign")), store) as (loop, server):
        await loop.after(300)
        assert bodies(server) == [2]
        (left,) = [event for event in log.said("mail.left") if "foreign" in event["reason"]]
        assert left["mails"] == 2


async def test_old_mail_is_ignored_and_said_once(tmp_path: Path, store: SeenStore, log: Log) -> None:
    """In one line however much it is, not again after a restart; a wider limit brings it back."""
    terms = Terms(process_after=datetime(2000, 1, 1, tzinfo=UTC))
    script = Script(mails=box(*["ours"] * 200))
    for _ in range(2):
        async with scripted(script, store, terms) as (loop, server):
            await loop.after(300)
            assert bodies(server) == []
    (left,) = log.said("mail.left")
    assert (left["mails"], left["reason"].partition(":")[0]) == (200, "ignored")
    earlier = replace(terms, process_after=datetime(1990, 1, 1, tzinfo=UTC))
    async with scripted(script, store, earlier) as (loop, _):
        await loop.rest()
        assert len(loop.desk.read) == 200


async def test_a_clock_that_was_wrong_for_a_while_loses_no_mail(store: SeenStore) -> None:
    """Mail that seemed too old is looked at again when the clock is right."""
    script = Script(mails=box("ours"))
    terms = Terms(ignore_older_than=DAY)
    async with scripted(script, store, terms, clock=ManualClock(SENT_AT + 50 * DAY)) as (loop, _):
        await loop.rest()
        assert loop.desk.read == []
    async with scripted(script, store, terms, clock=ManualClock(SENT_AT + 60.0)) as (loop, _):
        await loop.rest()
        assert loop.desk.read == [1]


async def test_oversize_mail_stays_whatever_the_server_says_of_its_size(store: SeenStore, log: Log) -> None:
    """Both what is announced as too large, and what turns out to be; nothing of it counts as read."""
    mails = {1: mail("x" * 5000), 2: mail("x" * 3000), 3: mail("small")}

    async def small(conversation: Conversation) -> None:
        words = conversation.lines[-1].split(" ")
        uids, items = [int(one) for one in words[2].split(",")], " ".join(words[3:])
        say = conversation.say

        async def lie(text: str | bytes) -> None:
            size = str(len(mails[2])).encode()
            await say(text.replace(b"SIZE " + size, b"SIZE 900") if isinstance(text, bytes) else text)

        conversation.say = lie  # type: ignore[method-assign]
        await conversation.fetch(uids, items)
        conversation.say = say  # type: ignore[method-assign]

    async with scripted(Script({"UID FETCH": [small]}, mails), store, Terms(max_message_size=2000)) as (loop, server):
        await loop.after(300)
        assert bodies(server) == [2, 3]
        assert loop.desk.read == [3]
        assert [event["mails"] for event in log.said("mail.left") if "oversize" in event["reason"]] == [2]
    async with scripted(Script(mails=mails), store) as (loop, _):
        await loop.rest()
        assert sorted(loop.desk.read) == [1, 2]


async def test_a_folder_with_mail_in_it_holds_only_its_own_account(tmp_path: Path, log: Log) -> None:
    """`refuse`: said once however long it lasts; no mail is asked for; other accounts go on."""
    stores = [SeenStore(tmp_path, name) for name in ("answers", "others")]
    script = Script(mails=box("ours", "lunch"))
    async with (
        scripted(script, stores[0], Terms(adopt="refuse")) as (held, server),
        scripted(Script(mails=box("ours")), stores[1], Terms(name="others")) as (free, _),
    ):
        for _ in range(3):
            await held.after(300)
        await until(lambda: free.desk.read == [1])
        assert held.desk.tried == []
        assert not [line for line in server.lines if line.startswith("UID")]
        assert 'adopt = "new-only"' in held.poller.trouble
    for store in stores:
        store.close()
    assert [event["account"] for event in log.said("mailbox.refused")] == ["answers"]


async def test_a_folder_that_was_empty_is_known_from_then_on(store: SeenStore) -> None:
    """Mail that comes while nobody runs is not taken for mail that was there before."""
    async with scripted(Script(), store, Terms(adopt="refuse")) as (loop, _):
        await loop.rest()
    async with scripted(Script(mails=box("lunch", "ours")), store, Terms(adopt="refuse")) as (loop, _):
        await loop.rest()
        assert loop.desk.read == [2, 1]


async def test_new_only_reads_no_more_than_answers_of_what_was_there(store: SeenStore, log: Log) -> None:
    """Mail below UIDNEXT is left but for a token of ours; that lasts over restarts, and new mail is read."""
    script = Script(mails=box(*["lunch"] * 120, "ours"))
    async with scripted(script, store, Terms(adopt="new-only")) as (loop, server):
        await loop.rest()
        assert loop.desk.read == [121]
        assert bodies(server) == [121]
        (left,) = [event for event in log.said("mail.left") if "token" in event["reason"]]
        assert left["mails"] == 120
        assert loop.desk.polls == [START]
    script.mails[1000] = mail("new", "lunch")
    async with scripted(script, store, Terms(adopt="new-only")) as (loop, server):
        await loop.rest()
        assert 1000 in loop.desk.read
        assert not set(bodies(server)) & set(range(1, 121))


@pytest.mark.parametrize("adopt", ["new-only", "refuse", "all"])
async def test_another_uidvalidity_is_first_contact_again(adopt: str, store: SeenStore, log: Log) -> None:
    """Nothing known of the old UIDs is applied to the new ones: above all nothing is removed by them."""
    store.save(Seen("INBOX", 6, owed={1: Owed("old", 0.0), 2: Owed("old", 0.0)}, handled={1, 2}))
    script = Script(mails=box("lunch", "ours"))
    async with scripted(script, store, Terms(adopt=adopt)) as (loop, server):
        await loop.rest()
        expected = {"new-only": [2], "refuse": [], "all": [2, 1]}[adopt]
        assert loop.desk.read == expected
        removed = {line.split(" ")[2] for line in server.lines if "STORE" in line}
        assert removed == ({",".join(map(str, sorted(expected)))} if expected else set())
    if adopt == "refuse":
        (refused,) = log.said("mailbox.refused")
        assert "UIDVALIDITY 7, not 6" in refused["reason"]


# Our own disk and our own state


async def test_a_full_disk_is_said_once_and_nothing_is_lost(store: SeenStore, log: Log) -> None:
    """Mail stays, one mail is tried in each interval and not all of them, and reading goes on when there is room."""
    clock = ManualClock()
    desk = Desk(clock)
    desk.every = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    async with scripted(Script(mails=box(*["ours"] * 40)), store, clock=clock, desk=desk) as (loop, server):
        for _ in range(3):
            await loop.after(300)
        assert len(desk.tried) == 4
        assert "No space left" in loop.poller.trouble
        assert (set(desk.polls), loop.poller.last_poll) == ({SENT_AT}, 0.0)
        assert not [line for line in server.lines if "STORE" in line]
        warnings = [event for event in log.said("mailbox.down") if event["reason"] == "archive"]
        assert len(warnings) == 1
        desk.every = None
        await loop.after(300)
        assert len(desk.read) == 40
        assert loop.poller.trouble == ""
        assert len(log.said("mailbox.up")) == 1


async def test_mail_that_is_pushed_while_the_disk_is_full_is_not_reported_one_by_one(
    store: SeenStore, log: Log
) -> None:
    """Whatever wakes it between two polls."""
    clock = ManualClock()
    desk = Desk(clock)
    desk.every = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    script = Script(mails=box("ours"))
    async with scripted(script, store, Terms(idle=True), clock=clock, desk=desk) as (_, server):
        for uid in (2, 3, 4):
            await until(lambda: server.lines.count("IDLE") == uid - 1 and clock.waiting > 0)  # noqa: B023
            script.mails[uid] = mail(f"text {uid}")
            await server.conversations[0].say(f"* {uid} EXISTS")
        await until(lambda: desk.tried == [1, 2, 3, 4] and server.lines.count("IDLE") == 4)
        assert len(log.said("mailbox.down")) == 1


async def test_a_mail_that_cannot_be_judged_yet_waits_alone(store: SeenStore) -> None:
    """As long as it does, no poll counts that begun after it came; it is tried as often as it takes."""
    clock = ManualClock()
    desk = Desk(clock)
    desk.faults[1] = [OSError(0, "no answer from the name server") for _ in range(5)]
    terms = Terms(batch_size=2)
    async with scripted(Script(mails=box(*["ours"] * 6)), store, terms, clock=clock, desk=desk) as (loop, _):
        await loop.rest()
        assert desk.read == [2, 3, 4, 5, 6]
        assert "no answer" in loop.poller.trouble
        for _ in range(5):
            await loop.after(300)
        assert desk.read[-1] == 1
        assert set(desk.polls[:-1]) <= {SENT_AT}
        assert desk.polls[-1] > START


async def test_without_the_secret_nothing_is_taken_for_strange(store: SeenStore) -> None:
    """Nobody can tell then whose a mail is: all of it waits."""
    clock = ManualClock()
    desk = Desk(clock)
    desk.blind = OSError(0, "approvals.secret: no such file")
    terms = Terms(adopt="new-only")
    async with scripted(Script(mails=box("ours")), store, terms, clock=clock, desk=desk) as (loop, _):
        await loop.after(400)
        assert "approvals.secret" in loop.poller.trouble
        desk.blind = None
        await loop.after(400)
        assert desk.read == [1]


async def test_state_of_a_newer_version_is_not_guessed_at(tmp_path: Path, store: SeenStore) -> None:
    """Nothing is read, and the file stays as it is; damage is like a first contact."""
    file = tmp_path / "inbound" / "answers.json"
    file.write_text('{"format": 2}')
    async with scripted(Script(mails=box("ours")), store) as (loop, _):
        await loop.rest()
        assert "later version" in loop.poller.trouble
        assert loop.desk.read == []
        assert file.read_text() == '{"format": 2}'
        file.write_text('{"format": 1, "folder"')
        await loop.after(400)
        assert loop.desk.read == [1]


# Removing


async def test_nothing_is_removed_before_every_required_sink_has_it(store: SeenStore) -> None:
    """However often it is asked; then at once."""
    clock = ManualClock()
    desk = Desk(clock)
    mails = box("ours", "ours")
    held = hashlib.sha256(mails[1]).hexdigest()
    desk.held.add(held)
    async with scripted(Script(mails=mails), store, clock=clock, desk=desk) as (loop, server):
        for _ in range(3):
            await loop.after(300)
        assert [line for line in server.lines if "STORE" in line] == [r"UID STORE 2 +FLAGS.SILENT (\Deleted)"]
        desk.held.clear()
        count = len(server.lines)
        loop.poller.served(held)
        await until(lambda: any("STORE 1 " in line for line in server.lines[count:]))


async def test_what_sinks_take_of_other_mailboxes_ends_no_idle(store: SeenStore) -> None:
    """Only a decision whose mail is in this folder does."""
    clock = ManualClock()
    desk = Desk(clock)
    mails = box("ours")
    held = hashlib.sha256(mails[1]).hexdigest()
    desk.held.add(held)
    async with scripted(Script(mails=mails), store, Terms(idle=True), clock=clock, desk=desk) as (loop, server):
        await until(lambda: desk.read == [1] and "IDLE" in server.lines and clock.waiting > 0)
        desk.held.clear()
        for number in range(100):
            loop.poller.served(f"another {number}")
            await asyncio.sleep(0)
        assert server.lines[-1] == "IDLE"
        loop.poller.served(held)
        await until(lambda: any("STORE 1 " in line for line in server.lines))


async def test_a_great_many_mails_are_removed_with_signs_of_life_in_between(store: SeenStore) -> None:
    """All at once would look like a hang."""
    store.save(Seen("INBOX", 7, handled=set(range(1, 1201)), owed={uid: Owed("id", 0.0) for uid in range(1, 1201)}))
    script = Script(mails=dict.fromkeys(range(1, 1201), mail("text")), after_login="IMAP4rev1")
    async with scripted(script, store) as (loop, server):
        await loop.rest()
        assert len([line for line in server.lines if "STORE" in line]) == 24
        assert len(loop.beats) >= 7


async def test_mail_is_kept_where_the_configuration_says_so_now(store: SeenStore) -> None:
    """Also what was to be removed when it was read."""
    store.save(Seen("INBOX", 7, owed={1: Owed("known", 0.0)}, handled={1}))
    async with scripted(Script(mails=box("ours", "ours")), store, Terms(after="keep")) as (loop, server):
        await loop.after(300)
        assert loop.desk.read == [2]
        assert not [line for line in server.lines if "STORE" in line]
    async with scripted(Script(mails=box("ours", "ours")), store) as (_, server):  # what was read to be kept is kept
        await until(lambda: any("STORE" in line for line in server.lines))
        assert [line.split(" ")[2] for line in server.lines if "STORE" in line] == ["1"]


async def test_what_has_left_the_folder_is_forgotten(tmp_path: Path, store: SeenStore) -> None:
    """Else the file would grow for ever."""
    store.save(Seen("INBOX", 7, handled=set(range(1, 5000)), owed={4: Owed("gone", 0.0)}, passed={5000}))
    async with scripted(Script(mails={4999: mail("old"), 5001: mail("new")}), store) as (loop, _):
        await loop.rest()
    seen = store.load()
    assert seen is not None
    assert (seen.handled, seen.owed, seen.passed) == ({4999, 5001}, {}, set())


async def test_delete_after_counts_from_the_recorded_decision(store: SeenStore) -> None:
    """Over restarts, and over lost state; then not a moment too early."""
    clock = ManualClock()
    desk = Desk(clock)
    terms = Terms(delete_after=10 * DAY, poll_interval=DAY)
    script = Script(mails=box("ours"))
    more = {"clock": clock, "desk": desk}
    async with scripted(script, store, terms, **more) as (loop, _):
        await loop.after(4 * DAY)
    store.save(Seen("INBOX", 6))  # as good as lost
    async with scripted(script, store, terms, **more) as (loop, server):
        await loop.rest()
        await loop.after(5.9 * DAY)
        assert not [line for line in server.lines if "STORE" in line]
    async with scripted(script, store, terms, **more) as (loop, server):
        await loop.rest()
        assert not [line for line in server.lines if "STORE" in line]
        await loop.after(0.11 * DAY)
        assert [line for line in server.lines if "STORE" in line]


async def test_without_uidplus_mail_is_flagged_and_that_is_said_once(store: SeenStore, log: Log) -> None:
    """Never a plain EXPUNGE."""
    script = Script(mails=box("ours", "ours"), after_login="IMAP4rev1")
    async with scripted(script, store) as (loop, server):
        await loop.rest()
        script.mails[3] = mail("more")
        await loop.after(300)
        await loop.after(300)
        stored = [line for line in server.lines if "STORE" in line]
        assert stored == [rf"UID STORE {uids} +FLAGS.SILENT (\Deleted)" for uids in ("1,2", "3")]
        assert not [line for line in server.lines if "EXPUNGE" in line]
        (left,) = log.said("mail.left")
        assert "UIDPLUS" in left["reason"]


async def test_a_refused_removal_is_said_once_and_tried_again(store: SeenStore, log: Log) -> None:
    """As where a folder to move to is missing; the error names those there are."""
    script = Script({"UID MOVE": ["<tag> NO [TRYCREATE] no such folder"]}, box("ours"))
    async with scripted(script, store, Terms(after="move:Done")) as (loop, server):
        for _ in range(3):
            await loop.after(300)
        assert "no folder 'Done', but INBOX" in loop.poller.trouble
        assert len(log.said("mail.left")) == 1
        script.answers = {}
        await loop.after(300)
        assert loop.poller.trouble == ""
        assert len(log.said("mail.removed")) == 1
    script = Script({"UID MOVE": ["<tag> NO [TRYCREATE] no such folder", "<tag> OK moved"]}, box("ours"))
    store.save(Seen("INBOX", 7))
    async with scripted(script, store, Terms(after="move:Done", create_folder=True)) as (loop, server):
        await loop.rest()
        assert [line for line in server.lines if "MOVE" in line or "CREATE" in line] == [
            'UID MOVE 1 "Done"',
            'CREATE "Done"',
            'UID MOVE 1 "Done"',
        ]


# The connection


async def test_a_lost_connection_is_made_again_with_growing_pauses(store: SeenStore, log: Log) -> None:
    """With jitter, five minutes at most; the way back up is told with the outage."""
    attempts = []

    async def refused() -> Session:
        attempts.append(1)
        raise ImapError(Stage.CONNECT, "connection refused")

    async with polling(refused, store, Terms()) as loop:
        for _ in range(12):
            await loop.after(LONGEST_PAUSE + 10)
        pauses = loop.clock.pauses
        assert pauses[0] < pauses[3] < pauses[6]
        assert max(pauses) <= LONGEST_PAUSE + 5
        assert len(set(pauses[:6])) == 6
        assert len(attempts) == 13
        assert [event["reason"] for event in log.said("mailbox.down")][:2] == ["connect", "same as last"]


async def test_a_server_that_breaks_every_poll_is_not_asked_in_a_rush(store: SeenStore) -> None:
    """A login that works is no success yet: the pauses grow."""
    script = Script({"UID SEARCH": [drop]}, box("ours"))
    async with scripted(script, store) as (loop, _):
        for _ in range(6):
            await loop.after(LONGEST_PAUSE + 10)
        assert loop.clock.pauses[5] > 60


async def test_a_missing_folder_is_an_error_that_names_those_there_are(store: SeenStore) -> None:
    """Or it is made, where the configuration says so."""
    missing = "<tag> NO [NONEXISTENT] no such folder"
    async with scripted(Script({"SELECT": [missing]}), store, Terms(folder="Answers")) as (loop, _):
        await loop.rest()
        assert "there is no folder 'Answers', but INBOX" in loop.poller.trouble
    opened = "* 0 EXISTS\r\n* OK [UIDVALIDITY 7] valid\r\n<tag> OK [READ-WRITE] open"
    terms = Terms(folder="Answers", create_folder=True)
    async with scripted(Script({"SELECT": [missing, opened]}), store, terms) as (loop, server):
        await loop.rest()
        assert 'CREATE "Answers"' in server.lines
        assert loop.desk.polls


async def test_new_mail_wakes_it_at_once_and_a_deaf_server_does_not_stop_it(store: SeenStore) -> None:
    """IDLE only adds to the poll."""
    script = Script()
    async with scripted(script, store, Terms(idle=True)) as (loop, server):
        await until(lambda: "IDLE" in server.lines)
        await loop.rest()
        script.mails[1] = mail("pushed")
        await server.conversations[0].say("* 1 EXISTS")
        await until(lambda: loop.desk.read == [1])
        await until(lambda: server.lines.count("IDLE") == 2)
        script.mails[2] = mail("not pushed")
        await loop.after(300)
        await until(lambda: loop.desk.read == [1, 2])


async def test_a_long_interval_does_not_let_the_connection_die(store: SeenStore, log: Log) -> None:
    """Firewalls forget a silent connection, and so do servers."""
    async with scripted(Script(mails=box("ours")), store, Terms(poll_interval=2000)) as (loop, server):
        for _ in range(4):
            await loop.after(541)
        assert server.lines.count("NOOP") == 3
        assert server.lines.count("UID SEARCH UID 1:*") + server.lines.count("UID SEARCH UID 2:*") == 2
        assert len(server.conversations) == 1


@pytest.mark.parametrize("verb", ["GREETING", "UID SEARCH", "UID FETCH"])
async def test_stopping_does_not_wait_for_a_silent_server(verb: str, store: SeenStore, log: Log) -> None:
    """Neither while it connects, nor in the middle of a poll; and that is no trouble to report."""
    async with scripted(Script({verb: [silence]}, box("ours")), store) as (loop, server):
        if verb == "GREETING":
            await until(lambda: server.open == 1)
        else:
            await until(lambda: any(line.startswith(verb) for line in server.lines))
        loop.stop.set()
        await until(lambda: loop.task.done() or loop.clock.waiting > 0)
        loop.clock.advance(10)
        await until(loop.task.done)
    assert log.said("mailbox.down") == []


async def test_a_large_mail_that_comes_slowly_is_a_sign_of_life(store: SeenStore) -> None:
    """The watchdog hears of each piece."""
    async with scripted(Script(mails={1: mail("x" * 900_000)}), store) as (loop, _):
        await loop.rest()
        assert len([within for within in loop.beats if within == 900.0]) >= 5


# Against a real server


@asynccontextmanager
async def real(
    mailbox: MailboxServer, certificates: Certificates, user: User, store: SeenStore, terms: Terms, desk: Desk
) -> AsyncIterator[tuple[Loop, list[bytes]]]:
    """(loop, what was said to the server)."""
    lines: list[bytes] = []
    account = Account(mailbox.tls_port, security="tls", auth="password", tls=Tls(ca_file=str(certificates.ca)))

    async def connecting() -> Session:
        session = await connect(account, user=user.name, secret=user.password)
        session.traced(lambda direction, said: lines.append(said) if direction == ">" else None)
        return session

    async with polling(connecting, store, replace(terms, poll_interval=0.3), SystemClock(), desk) as loop:
        yield loop, lines


@dataclass
class Box:
    """Somebody's mailbox, seen by somebody else."""

    server: MailboxServer
    certificates: Certificates
    user: User
    desk: Desk = field(default_factory=lambda: Desk(SystemClock()))

    def put(self, *subjects: str, folder: str = "INBOX", flags: str = "", date: str | None = None) -> None:
        mails = [mail(f"{subject} {number}", subject) for number, subject in enumerate(subjects)]
        self.server.append(self.user, *mails, folder=folder, flags=flags, date=date)

    def uids(self, criterion: str = "ALL", folder: str = "INBOX") -> list[int]:
        with self.server.client(self.user) as client:
            client.select(f'"{folder}"', readonly=True)
            found = client.uid("SEARCH", criterion)[1][0]
            return [int(uid) for uid in found.split()]

    def polling(self, store: SeenStore, terms: Terms) -> Any:
        return real(self.server, self.certificates, self.user, store, terms, self.desk)

    async def polls(self, more: int = 2) -> None:
        wanted = len(self.desk.polls) + more
        async with asyncio.timeout(20):
            while len(self.desk.polls) < wanted:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@pytest.fixture
def inbox(mailbox: MailboxServer, certificates: Certificates) -> Box:
    return Box(mailbox, certificates, mailbox.add_user())


@pytest.mark.timeout(180)
@pytest.mark.parametrize("adopt", ["refuse", "new-only"])
async def test_twenty_thousand_mails_are_not_touched(adopt: str, inbox: Box, store: SeenStore, log: Log) -> None:
    """A mailbox that somebody has used for years, named by mistake: no text is fetched, no flag set, nothing moved."""
    inbox.put("lunch")
    folder = next((inbox.server._directory / "mail").glob(inbox.user.name))
    figures = (folder / "cur").stat()
    for number in range(20_000):
        file = folder / "cur" / f"{int(time.time())}.M{number}.witness:2,{'S' if number % 2 else ''}"
        file.write_bytes(mail(f"{number}", "lunch"))
        os.chown(file, figures.st_uid, figures.st_gid)
    unseen, seen = len(inbox.uids("UNSEEN")), len(inbox.uids("SEEN"))
    assert (unseen, seen) == (10_001, 10_000)
    async with inbox.polling(store, Terms(adopt=adopt)) as (loop, lines):
        if adopt == "refuse":
            async with asyncio.timeout(30):
                while "20001 mails" not in loop.poller.trouble:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        else:
            async with asyncio.timeout(120):
                while len(inbox.desk.polls) < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            inbox.put("ours")
            async with asyncio.timeout(30):
                while not loop.poller.removed:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            (left,) = log.said("mail.left")
            assert left["mails"] == 20_001
    assert len(inbox.desk.tried) == (0 if adopt == "refuse" else 1)
    assert len([line for line in lines if b"PEEK[]" in line]) == len(inbox.desk.tried)
    assert (len(inbox.uids("UNSEEN")), len(inbox.uids("SEEN"))) == (unseen, seen)
    assert inbox.uids("DELETED") == []


async def test_mail_of_others_in_the_same_folder_stays(inbox: Box, store: SeenStore) -> None:
    """Foreign tokens, people's mail, and what people have marked as deleted themselves; only answers go."""
    inbox.put("foreign", "leave it")
    inbox.put("leave", flags=r"(\Deleted)")
    inbox.put("ours", "ours", flags=r"(\Flagged)")
    async with inbox.polling(store, Terms()) as (loop, _):
        async with asyncio.timeout(20):
            while loop.poller.removed < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await inbox.polls()
    assert inbox.uids() == [1, 2, 3]
    assert inbox.uids("DELETED") == [3]
    assert inbox.uids("SEEN") == []
    seen = store.load()
    assert seen is not None
    assert (seen.handled, seen.owed) == ({1, 2, 3}, {})


async def test_a_folder_made_anew_is_met_anew(inbox: Box, store: SeenStore) -> None:
    """Its UIDs begin again, under another UIDVALIDITY: known mail is finished, answers are read, the rest is left."""
    inbox.desk.held = {hashlib.sha256(mail("ours 0", "ours")).hexdigest()}
    terms = Terms(folder="Answers", create_folder=True, adopt="new-only")
    async with inbox.polling(store, terms) as (loop, _):
        await inbox.polls()
        inbox.put("ours", "leave it", folder="Answers")
        async with asyncio.timeout(20):
            while len(inbox.desk.read) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    with inbox.server.client(inbox.user) as client:
        assert client.delete("Answers")[0] == "OK"
        assert client.create("Answers")[0] == "OK"
    inbox.put("leave it", "ours", folder="Answers")  # the UIDs are exchanged
    inbox.server.append(inbox.user, mail("ours 0", "ours"), folder="Answers")
    inbox.desk.held.clear()
    async with inbox.polling(store, terms) as (loop, _):
        async with asyncio.timeout(20):
            while loop.poller.removed < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await inbox.polls()
    assert inbox.uids(folder="Answers") == [1]
    assert len(inbox.desk.archive) == 3


async def test_answers_are_moved_to_another_folder(inbox: Box, store: SeenStore) -> None:
    """Which is made when it is needed; others' \\Deleted mail stays."""
    inbox.put("leave", flags=r"(\Deleted)")
    inbox.put("ours", "ours")
    async with inbox.polling(store, Terms(after="move:Done/Approvals", create_folder=True)) as (loop, _):
        async with asyncio.timeout(20):
            while loop.poller.removed < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert inbox.uids() == [1]
    assert len(inbox.uids(folder="Done/Approvals")) == 2


async def test_somebody_else_may_remove_mail_at_any_time(inbox: Box, store: SeenStore, log: Log) -> None:
    """Between the list and the reading: it is no trouble, and the others are read."""
    inbox.put("ours", "ours", "ours")

    async def expunge(arrived: Arrived) -> None:
        def remove() -> None:
            with inbox.server.client(inbox.user) as client:
                client.select("INBOX")
                client.uid("STORE", "2", "+FLAGS.SILENT", r"(\Deleted)")
                client.uid("EXPUNGE", "2")

        if arrived.uid == 1:
            await asyncio.to_thread(remove)

    inbox.desk.before = expunge
    async with inbox.polling(store, Terms()) as (loop, _):
        async with asyncio.timeout(20):
            while loop.poller.removed < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await inbox.polls()
        assert loop.poller.trouble == ""
    assert inbox.desk.read == [1, 3]
    assert [event for event in log.said("mail.left") if "unreadable" in event["reason"]] == []


async def test_only_mail_that_is_young_enough_is_asked_for(inbox: Box, store: SeenStore, log: Log) -> None:
    """By the day it arrived, exactly; the server is spared the rest."""
    inbox.put("ours", "ours", date='"01-Jan-2020 10:00:00 +0000"')
    inbox.put("ours", date='"21-Nov-2026 07:59:59 +0000"')
    inbox.put("ours", date='"21-Nov-2026 08:00:00 +0000"')
    async with inbox.polling(store, Terms(process_after=datetime(2026, 11, 21, 8, tzinfo=UTC))) as (loop, lines):
        await inbox.polls()
        async with asyncio.timeout(20):
            while not loop.poller.removed:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert inbox.desk.read == [4]
    assert inbox.uids() == [1, 2, 3]
    (left,) = log.said("mail.left")
    assert left["mails"] == 3
    assert not [line for line in lines if b"FETCH 1," in line]
