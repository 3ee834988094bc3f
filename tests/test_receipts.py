"""[approvals] receipts: who is told about their answer, how often, and that nothing can come of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import pytest

from mailrelayd.approvals import receipts
from mailrelayd.approvals.desk import Desk
from mailrelayd.approvals.judge import Judgement, Outcome, Sender
from mailrelayd.approvals.reading import read
from mailrelayd.approvals.request import decode, encode
from mailrelayd.approvals.token import find
from mailrelayd.approvals.values import Decision, Kind, Reading
from mailrelayd.outbound.asking import Asking
from mailrelayd.outbound.values import ApprovalCopy, Envelope
from tests.manual_clock import START
from tests.test_desk import BOSS, CFO, REQUEST, SENT, World, issued, reply

DAY = 86_400.0
WHO = Sender(BOSS, True, "dmarc=pass")
UNCLEAR = Judgement(Outcome.UNCLEAR, "no-keyword", REQUEST, REQUEST.copies[0], find(issued())[0], BOSS)
ASKING = Asking("relay1", "approvals@example.com")


def written(judgement: Judgement = UNCLEAR, asking: Asking = ASKING, answered: str = "<r1@example.com>") -> bytes:
    return receipts.receipt(judgement, WHO, asking, id="5d1f", answered=answered, now=START)


class Talking(World):
    """A world whose desk writes to people."""

    mode = "all"

    def __init__(self, state: Path, mode: str = "all") -> None:
        self.mode = mode
        self.sent: list[tuple[bytes, Envelope, str, tuple[ApprovalCopy, ...]]] = []
        self.full = False
        super().__init__(state)

    def open(self) -> None:
        super().open()
        terms = replace(self.desk.terms, receipts=self.mode, reply_address="approvals@example.com")
        self.desk = Desk(terms, self.registry, self.archive, self.boxes, self.clock, self.send)

    async def send(self, data: bytes, envelope: Envelope, *, rule: str, copies: tuple[ApprovalCopy, ...] = ()) -> str:
        if self.full:
            raise OSError(28, "No space left on device")
        self.sent.append((data, envelope, rule, copies))
        return f"2gk4zzzzzzcccc{len(self.sent):02}"

    async def answered(self, mail: bytes, uid: int) -> None:
        await self.read(mail, uid=uid)
        await self.desk.keep_house([])

    def mails(self) -> list[EmailMessage]:
        return [parsed(data) for data, _, _, _ in self.sent]


def parsed(data: bytes) -> EmailMessage:
    mail = message_from_bytes(data, policy=policy.SMTP)
    assert isinstance(mail, EmailMessage)
    assert mail.defects == []
    return mail


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Talking]:
    world = Talking(tmp_path)
    world.registry.open(REQUEST, [SENT])
    yield world
    world.close()


def test_it_says_why_and_how_to_answer() -> None:
    """In plain ASCII, to the person's own thread, with the token's address to answer to."""
    mail = parsed(written())
    assert mail["To"] == BOSS
    assert mail["From"] == "approvals@example.com"
    assert mail["Reply-To"] == f"approvals+{issued()}@example.com"
    assert mail["In-Reply-To"] == "<r1@example.com>"
    assert mail["References"].split() == ["<r1@example.com>", f"<{issued()}@relay1>"]
    assert mail["Subject"] == "Re: Buy a boat?"
    text = mail.get_content()
    assert "the first line is not a decision." in text
    assert 'only the word "Approved"' in text
    assert all(len(line) <= 78 for line in text.splitlines())
    assert written().isascii()
    assert written() == written()


def test_programs_know_that_a_program_wrote_it() -> None:
    """RFC 3834, and what Exchange heeds; our own reading takes it for no reply."""
    mail = parsed(written())
    assert mail["Auto-Submitted"] == "auto-replied"
    assert mail["X-Auto-Response-Suppress"] == "All"
    assert read(written()).kind is Kind.AUTO_REPLY


@pytest.mark.parametrize("outcome", sorted([Outcome.UNCLEAR, *receipts._TOLD]))
def test_nothing_in_it_decides_when_it_comes_back(outcome: Outcome) -> None:
    """Sent back by a client that marks nothing as quoted, below an empty line or a greeting, it is no decision."""
    _, _, text = written(replace(UNCLEAR, outcome=outcome)).partition(b"\r\n\r\n")
    for begin in (b"", b"Hello,\r\n"):
        lines = text.split(b"\r\n")
        for first in range(len(lines)):
            body = begin + b"\r\n".join(lines[first:])
            mail = b"From: boss@example.com\r\nSubject: Re: x\r\nContent-Type: text/plain\r\n\r\n" + body
            assert read(mail).decision is Decision.UNCLEAR, lines[first]


def test_what_others_wrote_stands_in_no_header_as_it_is() -> None:
    """The subject is the producer's, the Message-ID the approver's client's."""
    evil = replace(REQUEST, subject="a\r\nBcc: x@example.com\x00 ü" + "y" * 500)
    mail = written(replace(UNCLEAR, request=evil), answered="<a@b>\r\nBcc: c@d")
    head = mail.partition(b"\r\n\r\n")[0]
    assert b"\nBcc:" not in mail
    assert b"In-Reply-To" not in head
    assert head.isascii()
    assert max(map(len, head.split(b"\r\n"))) < 400
    empty = parsed(written(replace(UNCLEAR, request=replace(REQUEST, subject=""))))
    assert empty["Subject"] == "Re: PO-42"


def test_without_subaddresses_the_subject_carries_the_token() -> None:
    """And the answer goes to the plain address."""
    mail = parsed(written(asking=replace(ASKING, subaddressing=False)))
    assert mail["Reply-To"] == "approvals@example.com"
    assert mail["Subject"] == f"Re: Buy a boat? [#{issued()}]"


async def test_each_answer_gets_one_receipt(world: Talking) -> None:
    """From the null sender, to the author alone, and it is remembered on disk."""
    await world.answered(reply(), 1)
    ((data, envelope, rule, copies),) = world.sent
    assert (envelope, rule, copies) == (Envelope("", (BOSS,)), "receipt", ())
    assert "approved by you" in parsed(data).get_content()
    request = world.registry.get(REQUEST.queue_id)
    assert request is not None
    assert request.receipts == {BOSS: START}
    assert decode(encode(request)) == request


async def test_nobody_is_told_twice_a_day(world: Talking) -> None:
    """Whatever they write, in whatever spelling, and also after a restart; the day after, again."""
    for uid in range(1, 4):
        await world.answered(reply("Hm.\n", message_id=f"<{uid}@e>"), uid)
    await world.answered(reply("Hm.\n", sender="BOSS@Example.COM", message_id="<9@e>"), 9)
    await world.restart()
    await world.answered(reply("Hm.\n", message_id="<10@e>"), 10)
    assert len(world.sent) == 1
    world.clock.advance(DAY)
    await world.answered(reply("Hm.\n", message_id="<11@e>"), 11)
    assert len(world.sent) == 2
    await world.answered(reply("Hm.\n", sender=CFO, to=f"a+{issued(2, CFO)}@e", message_id="<12@e>"), 12)
    assert [envelope.recipients for _, envelope, _, _ in world.sent] == [(BOSS,), (BOSS,), (CFO,)]


async def test_the_same_mail_read_again_gets_no_second_one(world: Talking) -> None:
    """Even after more than a day: it was judged before."""
    await world.answered(reply("Hm.\n"), 1)
    world.clock.advance(2 * DAY)
    await world.answered(reply("Hm.\n"), 2)
    assert len(world.sent) == 1


def test_only_a_proven_author_of_a_reply_is_told() -> None:
    """Whatever led to the outcome: an answer to several requests is unclear before anybody is authenticated."""
    reading = Reading(Kind.REPLY, Decision.UNCLEAR, "no-keyword")
    several = replace(UNCLEAR, reason="several-requests")
    assert receipts.wanted("all", several, reading, WHO)
    assert not receipts.wanted("all", several, reading, replace(WHO, authentic=False))
    assert not receipts.wanted("all", several, reading, replace(WHO, address=CFO))
    assert not receipts.wanted("all", several, replace(reading, kind=Kind.LIST), WHO)
    assert not receipts.wanted("all", replace(several, request=None), reading, WHO)


@pytest.mark.parametrize(
    "mail",
    [
        reply("Hm.\n", results="dmarc=fail header.from=example.com"),
        reply("Hm.\n", sender="mallory@example.com"),
        reply("Hm.\n", more="Auto-Submitted: auto-replied\r\n"),
        reply("Hm.\n", more="List-Id: <everybody.example.com>\r\n"),
        reply("Hm.\n", more="Return-Path: <>\r\n"),
        reply("Hm.\n", to="approvals@example.com"),
        reply("Hm.\n", to=f"approvals+{issued(secret=bytes(32))}@example.com"),
    ],
)
async def test_strangers_and_programs_are_told_nothing(world: Talking, mail: bytes) -> None:
    """Not authenticated, not asked, automatic, a list, a bounce, without a token or with another's."""
    await world.answered(mail, 1)
    assert world.sent == []


async def test_a_delegate_is_told_as_well(world: Talking) -> None:
    """They wrote it, and they are proven to have."""
    await world.answered(reply("Hm.\n", sender="deputy@example.com"), 1)
    assert [envelope.recipients for _, envelope, _, _ in world.sent] == [("deputy@example.com",)]


@pytest.mark.parametrize(
    ("mode", "expected"), [("none", []), ("unclear", ["unclear"]), ("all", ["unclear", "approved"])]
)
async def test_the_configuration_says_what_is_told(tmp_path: Path, mode: str, expected: list[str]) -> None:
    """Nothing, what was not understood, or everything."""
    world = Talking(tmp_path, mode)
    world.registry.open(REQUEST, [SENT])
    await world.answered(reply("Hm.\n"), 1)
    world.clock.advance(DAY / 2)
    await world.answered(reply(sender="deputy@example.com", message_id="<2@e>"), 2)
    texts = [mail.get_content() for mail in world.mails()]
    assert ["approved" if "approved by you" in text else "unclear" for text in texts] == expected
    world.close()


async def test_a_full_spool_stops_no_answer(world: Talking) -> None:
    """The decision is recorded; what is owed is not written about twice."""
    world.full = True
    await world.read(reply())
    with pytest.raises(OSError, match="No space"):
        await world.desk.keep_house([])
    assert [event["data"]["decision"] for event in world.archived()] == ["approved"]
    world.full = False
    await asyncio.gather(*(world.desk.keep_house([]) for _ in range(2)))
    assert len(world.sent) <= 1


def test_the_memory_of_receipts_is_bounded() -> None:
    """Of one request only so many people are told in a day."""
    many = replace(REQUEST, receipts={f"{n}@example.com": START for n in range(receipts.REMEMBERED)})
    assert receipts.noted(many, BOSS, START) is None
    assert receipts.noted(many, BOSS, START + DAY) == {BOSS: START + DAY}
