"""[approvals] remind: who has not answered is asked again, with the same token, once for each configured time."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from mailrelayd.approvals import opening, reminders, token
from mailrelayd.approvals.opening import Opening
from mailrelayd.approvals.opening import Terms as OpeningTerms
from mailrelayd.approvals.registry import Registry
from mailrelayd.approvals.request import Copy, decode, encode
from mailrelayd.outbound.headers import Header, Unreadable, split_header
from mailrelayd.outbound.spool import Spool
from mailrelayd.outbound.values import Admitted, ApprovalCopy, Envelope, Progress, QueuedMessage
from tests.manual_clock import START, ManualClock
from tests.test_desk import BOSS, CFO, REQUEST, SECRET, SENT, Quiet, issued, reply
from tests.test_receipts import Talking
from tests.test_spool import Reports

DAY = 86_400.0
LONG = replace(REQUEST, expires_at=START + 14 * DAY, sender="erp@example.com", sent={BOSS: START, CFO: START + 60.0})
ORIGINAL = (
    b"X-Approval-Request: PO-42\r\nReceived: by a\r\nFrom: erp@example.com\r\nTo: boss@example.com\r\n"
    b"Bcc: cfo@example.com\r\nSubject: =?utf-8?q?B=C3=BCy?=\r\n a boat?\r\nDate: Sat, 21 Nov 2026 08:00:00 +0000\r\n"
    b"Message-ID: <po42@example.com>\r\nDKIM-Signature: v=1; b=AAAA\r\n\r\nPlease approve.\r\n"
)


class Reminding(Talking):
    """A world whose desk asks again after two days and after five."""

    mode = "none"

    def open(self) -> None:
        super().open()
        self.desk.terms = replace(self.desk.terms, receipts="none", remind=(2 * DAY, 5 * DAY))

    async def house(self) -> None:
        await self.desk.keep_house([])

    async def at(self, days: float) -> int:
        """How many mails have been sent by then."""
        self.clock.advance(START + days * DAY - self.clock.now())
        await self.house()
        return len(self.sent)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Reminding]:
    world = Reminding(tmp_path)
    world.registry.open(LONG, [SENT], ORIGINAL)
    yield world
    world.close()


def test_a_reminder_is_the_request_again() -> None:
    """Its subject says so; what only the first one could say of itself is gone; the rest is as it was."""
    assert reminders.reminder(ORIGINAL) == (
        b"From: erp@example.com\r\nTo: boss@example.com\r\nSubject: Reminder: =?utf-8?q?B=C3=BCy?=\r\n a boat?\r\n"
        b"\r\nPlease approve.\r\n"
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"Subject: Buy?\n\nx", b"Subject: Reminder: Buy?\n\r\nx"),
        (b"subject:Buy?\n\nx", b"subject: Reminder: Buy?\n\r\nx"),
        (b"Subject:\r\n Buy?\r\n\r\nx", b"Subject: Reminder: Buy?\r\n\r\nx"),
        (b"Subject:\r\n\r\nx", b"Subject: Reminder:\r\n\r\nx"),
        (b"From: a@b\r\n\r\nx", b"From: a@b\r\nSubject: Reminder:\r\n\r\nx"),
        (
            b"X-Sender: a@b\r\nX-Receiver: secret@b\r\nFrom: a@b\r\nSubject: s\r\n\r\n",
            b"From: a@b\r\nSubject: Reminder: s\r\n\r\n",
        ),
        (b"Subject: Buy?", b"Subject: Reminder: Buy?\r\n"),
        (b"", None),
        (b"no header at all", None),
    ],
)
def test_every_header_is_taken_as_it_comes(before: bytes, after: bytes | None) -> None:
    """Bare line ends, empty and absent subjects, no body, hidden recipients above."""
    assert reminders.reminder(before) == after


def test_a_token_is_made_again() -> None:
    """The same number, person and end give the same token: an answer to either mail counts."""
    copy = reminders.again(LONG, LONG.copies[0], SECRET)
    assert copy == ApprovalCopy(BOSS, issued(1, BOSS, LONG), LONG.expires_at)
    changed = reminders.again(LONG, LONG.copies[0], bytes(32))
    assert changed.token != copy.token


async def test_only_who_has_not_answered_is_reminded(world: Reminding) -> None:
    """Not before its time, in one message with a copy for each of them."""
    assert await world.at(1.9) == 0
    await world.read(reply(to=f"a+{issued(1, BOSS, LONG)}@example.com"), at=world.clock.now())
    assert await world.at(2.1) == 1
    ((data, envelope, rule, copies),) = world.sent
    assert data == reminders.reminder(ORIGINAL)
    assert (envelope, rule) == (Envelope("erp@example.com", (CFO,)), "reminder")
    assert copies == (ApprovalCopy(CFO, issued(2, CFO, LONG), LONG.expires_at),)


async def test_each_time_counts_once(world: Reminding) -> None:
    """Also after a restart; and when nobody was here for long, one reminder makes up for all that were missed."""
    assert await world.at(2.1) == 1
    await world.house()
    await world.restart()
    world.desk.terms = replace(world.desk.terms, remind=(2 * DAY, 5 * DAY))
    assert await world.at(2.2) == 1
    assert await world.at(5.1) == 2
    assert await world.at(9.0) == 2


async def test_missed_reminders_are_made_up_for_by_one(world: Reminding) -> None:
    """The machine was off for a week."""
    assert await world.at(9.0) == 1
    assert await world.at(9.1) == 1
    request = world.registry.get(LONG.queue_id)
    assert request is not None
    assert request.reminded == 2
    assert decode(encode(request)) == request


async def test_time_runs_from_when_the_copy_was_sent(world: Reminding) -> None:
    """Who got theirs a day later is reminded a day later; who got none is not."""
    late = {CFO: START + DAY}
    world.registry.change(LONG.queue_id, lambda one: replace(one, sent=late))
    assert await world.at(2.5) == 0
    assert await world.at(3.1) == 1
    assert world.sent[0][1].recipients == (CFO,)


async def test_nobody_is_reminded_of_what_is_over(world: Reminding) -> None:
    """Expired, cancelled, superseded or decided; and the message is not kept any longer."""
    assert world.registry.original(LONG.queue_id) == ORIGINAL
    await world.desk.cancel(LONG, by="root")
    assert await world.at(3.0) == 0
    assert world.registry.original(LONG.queue_id) is None
    assert not list(world.state.rglob("*.eml"))
    expired = replace(
        LONG, queue_id="2gk4zzzzzzbbbbbb", request_id="PO-43", expires_at=START + DAY, copies=(Copy(BOSS, 9),)
    )
    world.registry.open(expired, [], ORIGINAL)
    assert await world.at(4.0) == 0
    assert world.registry.originals() == []


async def test_the_message_is_kept_until_its_last_reminder(world: Reminding) -> None:
    """And over restarts."""
    await world.at(2.1)
    await world.restart()
    world.desk.terms = replace(world.desk.terms, remind=(2 * DAY, 5 * DAY))
    assert world.registry.original(LONG.queue_id) == ORIGINAL
    await world.at(5.1)
    assert world.registry.originals() == []


async def test_a_crash_may_repeat_a_reminder_and_never_loses_one(
    world: Reminding, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue has no room, then the registry has none."""
    world.full = True
    world.clock.advance(2.1 * DAY)
    with pytest.raises(OSError, match="No space"):
        await world.house()
    world.full = False
    real = world.registry.change

    def full(queue_id: str, edit: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(world.registry, "change", full)
    with pytest.raises(OSError, match="No space"):
        await world.house()
    monkeypatch.setattr(world.registry, "change", real)
    await world.house()
    await world.house()
    assert len(world.sent) == 2


async def test_a_message_that_was_not_kept_is_not_sent_again(world: Reminding) -> None:
    """Reminders were switched on later, or it was too long: that is said once, not every half minute."""
    world.registry.drop_original(LONG.queue_id)
    assert await world.at(2.1) == 0
    request = world.registry.get(LONG.queue_id)
    assert request is not None
    assert request.reminded == 1


async def test_without_reminders_nothing_is_sent(world: Reminding) -> None:
    """The default; a message that was kept for it goes."""
    world.desk.terms = replace(world.desk.terms, remind=())
    assert await world.at(9.0) == 0
    assert world.registry.originals() == []


# -- kept when it is opened, sent by the queue -----------------------------------------------------------------------


@dataclass
class Bytes:
    """A message's bytes, as the queue gives them."""

    data: bytes
    uid: int = os.getuid()
    changed_at: float = START

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, size: int) -> bytes:
        return self.data[offset : offset + size]

    def header(self) -> tuple[Header | Unreadable, bytes]:
        return split_header(self.data, complete=True), self.data

    def unchanged(self) -> bool:
        return True

    def close(self) -> None:
        """There is nothing to give back."""


@dataclass
class Table:
    """A [[decisions]] table."""

    name: str = "erp"
    match: str = "*"
    producers: tuple[str, ...] = (getpass.getuser(),)
    approvers: tuple[str, ...] = ("*@example.com",)


@pytest.mark.parametrize("remind", [True, False])
def test_what_may_be_sent_again_is_kept_when_it_is_opened(tmp_path: Path, remind: bool) -> None:
    """Byte for byte, before the request is known; only where reminders are configured, and not without bound."""
    registry = Registry(tmp_path, Quiet())
    desk = Opening(OpeningTerms("relay1", lambda: SECRET, [Table()], 14 * DAY, remind), registry, ManualClock())
    header = split_header(ORIGINAL)
    assert isinstance(header, Header)
    admitted = desk.admit(header, Envelope("erp@example.com", (BOSS,)), os.getuid(), lambda: "2gk4zzzzzzaaaaaa")
    assert isinstance(admitted, Admitted), admitted
    message = QueuedMessage(
        "2gk4zzzzzzdddddd", Envelope("erp@example.com", admitted.recipients), Progress(START), copies=admitted.copies
    )
    desk.opened(message, Bytes(ORIGINAL))
    assert registry.original(message.queue_id) == (ORIGINAL if remind else None)
    request = registry.get(message.queue_id)
    assert request is not None
    assert request.sender == "erp@example.com"
    again = reminders.again(request, request.copies[0], SECRET)
    assert (again.token, again.recipient) == (admitted.copies[0].token, BOSS)
    assert token.parse(again.token) is not None
    registry.close()


def test_a_message_that_is_too_long_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is opened all the same."""
    monkeypatch.setattr(opening, "LARGEST_ORIGINAL", len(ORIGINAL) - 1)
    registry = Registry(tmp_path, Quiet())
    desk = Opening(OpeningTerms("relay1", lambda: SECRET, [Table()], 14 * DAY, remind=True), registry, ManualClock())
    copies = (reminders.again(LONG, LONG.copies[0], SECRET),)
    message = QueuedMessage("2gk4zzzzzzdddddd", Envelope("erp@example.com", (BOSS,)), Progress(START), copies=copies)
    desk.opened(message, Bytes(ORIGINAL))
    assert registry.get(message.queue_id) is not None
    assert registry.originals() == []
    registry.close()


async def test_the_queue_takes_a_reminder_with_its_copies(tmp_path: Path) -> None:
    """It survives a restart there, opens no request of its own, and is due at once."""
    clock = ManualClock()
    (tmp_path / "pickup" / "new").mkdir(parents=True)
    spool = Spool(tmp_path, node="relay1", clock=clock, report=Reports())
    await spool.open_up()
    copies = (reminders.again(LONG, LONG.copies[0], SECRET),)
    data = reminders.reminder(ORIGINAL)
    assert data is not None
    queue_id = await spool.add(data, Envelope(LONG.sender, (BOSS,)), rule=reminders.RULE, copies=copies)
    spool.close()
    spool = Spool(tmp_path, node="relay1", clock=clock, report=Reports())
    await spool.open_up()
    try:
        entry = await spool.find(queue_id)
        assert entry is not None
        assert entry.message.copies == copies
        assert not entry.message.opens_request
        with closing(spool.open(entry.message)) as source:
            assert source.read(0, 10_000) == data
    finally:
        spool.close()
