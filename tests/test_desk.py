"""The desk: mails in, decisions out, and nothing lost or doubled in between."""

from __future__ import annotations

import asyncio
import errno
import grp
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mailrelayd import durable
from mailrelayd.approvals import token
from mailrelayd.approvals.archive import Archive
from mailrelayd.approvals.desk import Desk, Terms
from mailrelayd.approvals.judge import Outcome
from mailrelayd.approvals.outbox import Outbox
from mailrelayd.approvals.registry import Registry
from mailrelayd.approvals.request import Copy, Request, State
from mailrelayd.approvals.sender import SenderCheck
from mailrelayd.approvals.sinks import Answer, Taken
from mailrelayd.config.answering import Decisions
from mailrelayd.inbound.protocols import Action, Arrived, Disposition, Whose
from mailrelayd.office import sink_of
from tests.manual_clock import START, ManualClock

SECRET = bytes(range(32))
BOSS, CFO = "boss@example.com", "cfo@example.com"
REQUEST = Request(
    queue_id="2gk4zzzzzzaaaaaa",
    request_id="PO-42",
    requested_by="erp",
    sinks=("erp", "audit"),
    node="relay1",
    opened_at=START,
    expires_at=START + 86_400.0,
    subject="Buy a boat?",
    message_id="<po42@example.com>",
    sha256="0" * 64,
    copies=(Copy(BOSS, 1), Copy(CFO, 2)),
)
SENT = ["Please approve or reject this order.", "One boat, 3 oars", "Kind regards", "The ERP"]


class Sink:
    """Remembers what it was offered; takes it, or answers what it is told."""

    at_once = 1

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []

    async def offer(self, decision_id: str, document: bytes) -> Answer:
        self.got.append(json.loads(document))
        return Taken()

    async def rest(self) -> None:
        """Nothing to let go of."""


class Quiet:
    def trouble(self, doing: str, error: OSError) -> None:
        raise AssertionError(doing) from error


class World:
    """A desk over a folder, and what happens to it."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.clock = ManualClock()
        self.sinks = {"erp": Sink(), "audit": Sink()}
        self.open()

    def open(self) -> None:
        terms = Terms(
            node="relay1",
            secrets=lambda: (SECRET,),
            check=SenderCheck("authentication-results", ("mx.example.com",)),
            delegates={BOSS: ("deputy@example.com",)},
            headers={"erp": ("X-Ticket",)},
            unmatched={"strict": "quarantine", "tidy": "delete"},
        )
        self.registry = Registry(self.state, Quiet())
        self.archive = Archive(self.state)
        self.boxes = [
            Outbox(self.state, name, sink, self.clock, required=name == "erp") for name, sink in self.sinks.items()
        ]
        self.desk = Desk(terms, self.registry, self.archive, self.boxes, self.clock)

    def close(self) -> None:
        self.registry.close()
        self.archive.close()
        for box in self.boxes:
            box.close()

    async def restart(self) -> None:
        self.close()
        self.open()
        await self.desk.open_up()

    async def deliver(self) -> None:
        """Let every outbox run until it has nothing left."""
        stop = asyncio.Event()
        tasks = [asyncio.create_task(box.run(stop, lambda within: None)) for box in self.boxes]
        async with asyncio.timeout(10):
            while any(box.waiting() for box in self.boxes):  # noqa: ASYNC110 - their threads are not ours
                await asyncio.sleep(0.001)
        stop.set()
        for box in self.boxes:
            box.wake()
        await asyncio.gather(*tasks)

    async def read(self, mail: bytes, *, account: str = "answers", uid: int = 7, at: float = START) -> Disposition:
        async def pieces() -> AsyncIterator[bytes]:
            for begin in range(0, len(mail), 1000):
                yield mail[begin : begin + 1000]

        return await self.desk.receive(Arrived(account, "INBOX", 1, uid, at, len(mail)), pieces())

    def archived(self) -> list[dict[str, Any]]:
        return [json.loads(text) for text in self.archive.documents()]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    world.registry.open(REQUEST, [SENT])
    yield world
    world.close()


def issued(number: int = 1, approver: str = BOSS, request: Request = REQUEST, secret: bytes = SECRET) -> str:
    return str(token.issue(secret, node="relay1", copy=number, approver=approver, expires_at=request.expires_at))


def reply(
    text: str = "Approved\n\nfine with me\n",
    *,
    sender: str = BOSS,
    to: str | None = None,
    more: str = "",
    results: str = "dmarc=pass header.from=example.com",
    message_id: str = "<r1@example.com>",
) -> bytes:
    to = f"approvals+{issued()}@example.com" if to is None else to
    return (
        f"Authentication-Results: mx.example.com; {results}\r\n"
        "Received: from mail.example.com by mx.example.com with ESMTPS; Sat, 21 Nov 2026 08:00:00 +0000\r\n"
        f"From: The Boss <{sender}>\r\nTo: {to}\r\nSubject: Re: Buy a boat?\r\nMessage-ID: {message_id}\r\n"
        f"X-Ticket: T-7\r\nX-Other: no\r\n{more}"
        f"Content-Type: text/plain; charset=utf-8\r\n\r\n{text}"
    ).encode()


async def test_an_answer_becomes_one_decision_at_every_sink(world: World) -> None:
    """Archived with its mail, told to both sinks in the same words, and only then the mail may go."""
    done = await world.read(reply())
    assert done.action is Action.REMOVE
    assert not world.desk.may_remove(done.decision_id)
    await world.deliver()
    assert world.desk.may_remove(done.decision_id)
    (event,) = world.sinks["erp"].got
    assert world.sinks["audit"].got == [event] == world.archived()
    assert (event["id"], event["type"]) == (done.decision_id, "org.mailrelayd.decision.approved")
    assert (event["subject"], event["data"]["comment"]) == ("PO-42", "fine with me")
    assert event["data"]["headers"] == {"X-Ticket": "T-7"}
    folder = world.state / "archive" / event["data"]["message"]["archive"]
    assert (folder / "message.eml").read_bytes() == reply()
    request = world.registry.get(REQUEST.queue_id)
    assert request is not None
    assert request.decided[BOSS].outcome == "approved"
    assert request.state(START) is State.OPEN  # the other approver has not answered


async def test_the_same_mail_read_again_is_offered_again_and_not_judged_again(world: World) -> None:
    """After a restart, from another folder, on another day: byte for byte the same document."""
    first = await world.read(reply())
    await world.deliver()
    await world.restart()
    world.clock.advance(3 * 86_400.0)
    again = await world.read(reply(), uid=99, at=world.clock.now())
    assert again.decision_id == first.decision_id
    await world.deliver()
    assert world.sinks["erp"].got[0] == world.sinks["erp"].got[1]
    assert len(world.archived()) == 1


async def test_the_first_decision_of_an_approver_counts(world: World) -> None:
    """The same again is a duplicate, the opposite conflicting; each is a document of its own."""
    await world.read(reply())
    await world.read(reply("Rejected\n", message_id="<r2@example.com>"), uid=8)
    await world.read(reply("Approved\n", message_id="<r3@example.com>"), uid=9)
    await world.deliver()
    assert [event["data"]["decision"] for event in world.sinks["erp"].got] == ["approved", "conflicting", "duplicate"]


async def test_when_everybody_has_answered_the_request_is_over(world: World) -> None:
    """Decided, whatever they said."""
    await world.read(reply())
    other = f"approvals+{issued(2, CFO)}@example.com"
    await world.read(reply("Rejected\n", sender=CFO, to=other, message_id="<r2@example.com>"), uid=8)
    request = world.registry.get(REQUEST.queue_id)
    assert request is not None
    assert request.state(START) is State.DECIDED


@pytest.mark.parametrize(
    ("mail", "outcome"),
    [
        (reply("Looks good?\n"), "unclear"),
        (reply(results="dmarc=fail header.from=example.com"), "untrusted"),
        (reply(sender="mallory@example.com"), "untrusted"),
        (reply(sender=CFO), "untrusted"),
        (reply(sender="deputy@example.com"), "approved"),
        (reply("> Approved\n"), "unclear"),
        (reply("\n".join(SENT[:2]) + "\n"), "unclear"),
        (reply(more="Auto-Submitted: auto-replied\r\n"), "auto-reply"),
    ],
)
async def test_what_is_not_clearly_a_decision_is_none(world: World, mail: bytes, outcome: str) -> None:
    """It is archived all the same, and its token is not used up."""
    done = await world.read(mail)
    assert done.action is Action.REMOVE
    (event,) = world.archived()
    assert event["data"]["decision"] == outcome
    request = world.registry.get(REQUEST.queue_id)
    assert request is not None
    assert (BOSS in request.decided) is (outcome == "approved")


async def test_a_token_is_found_wherever_a_client_puts_it(world: World) -> None:
    """Plus-address, references, the Reference block, the subject; in capitals, too."""
    one = issued()
    mails = [
        reply(to="approvals@example.com", more=f"In-Reply-To: <{one}@relay1>\r\n"),
        reply(to="approvals@example.com", more=f"References: <x@y> <{one.upper()}@relay1>\r\n", message_id="<2@e>"),
        reply(f"Approved\n\n> Reference: {one[:30]}\n> {one[30:]}\n", to="approvals@example.com", message_id="<3@e>"),
        reply(to="approvals@example.com", message_id="<4@e>").replace(b"Re: Buy", f"Re: [#{one}] Buy".encode()),
    ]
    for uid, mail in enumerate(mails, 1):
        await world.read(mail, uid=uid)
    assert sorted(event["data"]["decision"] for event in world.archived()) == ["approved", *["duplicate"] * 3]


async def test_mail_of_others_is_left_alone(world: World) -> None:
    """Another node's token, a forged one, and people's mail, whatever it says."""
    foreign = f"approvals+{issued(secret=bytes(32))}@example.com"
    for mail in (reply(to=foreign), reply(to="approvals@example.com")):
        assert (await world.read(mail)).action is Action.LEAVE
    assert (await world.read(reply(to=foreign), account="tidy")).action is Action.LEAVE
    assert world.archived() == []
    assert not list(world.state.rglob("*.eml"))


async def test_unmatched_mail_goes_where_the_configuration_says(world: World) -> None:
    """Quarantine keeps it whole; delete keeps it in the archive."""
    stray = reply(to="approvals@example.com")
    assert (await world.read(stray, account="strict")).action is Action.REMOVE
    assert [path.read_bytes() for path in (world.state / "quarantine").iterdir()] == [stray]
    assert (await world.read(stray, account="tidy")).action is Action.REMOVE
    (event,) = world.archived()
    assert event["type"] == "org.mailrelayd.mail.unmatched"
    assert world.sinks["erp"].got == []


async def test_an_answer_after_the_end_is_expired(world: World) -> None:
    """By the mailbox's clock, not by when it was read."""
    late = await world.read(reply(), at=REQUEST.expires_at)
    assert late.action is Action.REMOVE
    assert [event["data"]["reason"] for event in world.archived()] == ["too-late"]
    early = reply(message_id="<r2@example.com>")
    world.clock.advance(10 * 86_400.0)
    await world.read(early, at=REQUEST.expires_at - 1.0, uid=8)
    assert {event["data"]["decision"] for event in world.archived()} == {"expired", "approved"}


async def test_nobody_is_told_that_time_is_up_before_the_mailbox_was_looked_into(world: World) -> None:
    """The answer may lie there since before; one outcome for each who did not answer, told once."""
    await world.read(reply())
    world.clock.advance(86_400.0 + 60.0)
    await world.desk.keep_house(["answers"])
    assert len(world.archived()) == 1
    world.desk.polled("answers", START + 86_000.0)
    await world.desk.keep_house(["answers"])
    assert len(world.archived()) == 1
    world.desk.polled("answers", world.clock.now())
    await world.desk.keep_house(["answers"])
    await world.desk.keep_house(["answers"])
    await world.restart()
    await world.desk.keep_house(["answers"])
    await world.deliver()
    told = [(event["data"]["decision"], event["data"]["decided_by"]["address"]) for event in world.sinks["erp"].got]
    assert told == [("approved", BOSS), ("expired", CFO)]


async def test_a_cancelled_request_says_so_to_whoever_answers(world: World) -> None:
    """And to the sinks, at once."""
    await world.desk.cancel(REQUEST, "uid 0")
    await world.read(reply())
    await world.deliver()
    told = [(event["data"]["decision"], event["data"]["reason"]) for event in world.sinks["erp"].got]
    assert told == [("cancelled", "cancelled-by-operator")] * 2 + [("cancelled", "request-cancelled")]


async def test_a_newer_request_under_the_same_id_takes_over(world: World) -> None:
    """Answers to the older one are expired; the newer one is answered."""
    newer = replace(REQUEST, queue_id="2gk4zzzzzzbbbbbb", copies=(Copy(BOSS, 3),))
    world.registry.open(newer, [SENT])
    await world.read(reply())
    await world.read(reply(to=f"approvals+{issued(3)}@example.com", message_id="<r2@e>"), uid=8)
    reasons = [event["data"]["reason"] for event in world.archived()]
    assert "superseded" in reasons
    assert {event["data"]["decision"] for event in world.archived()} == {"expired", "approved"}


async def test_a_bounce_of_a_copy_tells_that_nobody_will_answer(world: World) -> None:
    """RFC 3464, sent to the token's address."""
    mail = (
        f"From: MAILER-DAEMON@mx.example.com\r\nTo: approvals+{issued()}@example.com\r\nSubject: Undelivered\r\n"
        'Message-ID: <b1@mx>\r\nContent-Type: multipart/report; report-type=delivery-status; boundary="b"\r\n\r\n'
        "--b\r\n\r\nIt did not work.\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\n"
        f"Reporting-MTA: dns; mx\r\n\r\nFinal-Recipient: rfc822; {BOSS}\r\nAction: failed\r\nStatus: 5.1.1\r\n"
        "\r\n--b--\r\n"
    ).encode()
    await world.read(mail)
    (event,) = world.archived()
    assert (event["data"]["decision"], event["data"]["reason"]) == ("undeliverable", "bounced")
    await world.read(reply(), uid=8)
    assert {event["data"]["decision"] for event in world.archived()} == {"undeliverable", "approved"}


def test_a_header_tells_whose_mail_it_is(world: World) -> None:
    """Before it is read: ours, another machine's, or nobody's."""
    assert world.desk.whose(f"To: a+{issued()}@example.com".encode()) is Whose.OURS
    assert world.desk.whose(f"To: a+{issued(secret=bytes(32))}@example.com".encode()) is Whose.FOREIGN
    assert world.desk.whose(b"To: a@example.com") is Whose.NOBODY
    assert world.desk.whose(bytes(range(256))) is Whose.NOBODY


async def test_a_crash_between_two_steps_is_made_good(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever write fails, the mail stays, and reading it again gives one decision, told with one id."""
    ids = set()
    real = durable.Folder.write
    for failing in range(6):
        writes = 0

        def write(self: durable.Folder, name: str, data: bytes, *, mode: int = 0o600, failing: int = failing) -> None:
            nonlocal writes
            writes += 1
            if writes > failing:
                raise OSError(28, os.strerror(28))
            real(self, name, data, mode=mode)

        monkeypatch.setattr(durable.Folder, "write", write)
        with suppress(OSError):
            ids.add((await world.read(reply())).decision_id)
        monkeypatch.setattr(durable.Folder, "write", real)
        await world.restart()
        ids.add((await world.read(reply())).decision_id)
        await world.deliver()
    assert len(ids) == 1
    assert {event["data"]["decision"] for event in world.archived()} == {"approved"}
    assert len(world.archived()) == 1
    assert {event["id"] for sink in world.sinks.values() for event in sink.got} == ids
    request = world.registry.get(REQUEST.queue_id)
    assert request is not None
    assert request.decided[BOSS].outcome == Outcome.APPROVED


async def test_two_answers_at_the_same_moment_are_judged_one_after_the_other(world: World) -> None:
    """From two mailboxes: one of them counts."""
    await asyncio.gather(
        world.read(reply(), account="one"), world.read(reply("Rejected\n", message_id="<r2@e>"), account="two")
    )
    decisions = sorted(event["data"]["decision"] for event in world.archived())
    assert decisions in (["approved", "conflicting"], ["conflicting", "rejected"])


async def test_a_decision_can_be_told_again(world: World) -> None:
    """The same bytes, to every sink of its request."""
    done = await world.read(reply())
    await world.deliver()
    assert await world.desk.ledger.replay(done.decision_id) == ["erp", "audit"]
    await world.deliver()
    assert world.sinks["erp"].got[0] == world.sinks["erp"].got[1]
    assert not await world.desk.ledger.replay("no-such-id")


def test_the_daemon_must_be_a_member_of_a_sinks_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that is not there, and one that the kernel refuses, are named with their cure."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refuse)
    other = next(group.gr_name for group in grp.getgrall() if group.gr_gid != tmp_path.stat().st_gid)
    for group, cure in (
        ("no-such-group", "groupadd --system no-such-group"),
        (other, f"usermod --append --groups {other} "),
    ):
        sink = Decisions(name="erp", match="*", producers=("erp",), approvers=("*",), group=group)
        with pytest.raises(OSError, match=rf"decisions\.erp\.group: .*{group}: {cure}"):
            sink_of(sink, tmp_path, ManualClock())


def test_consumers_reach_their_folder_whatever_the_umask(tmp_path: Path) -> None:
    """STATE/decisions lets everybody through and shows nothing; the sink's own folder is for its group."""
    sink = Decisions(name="erp", match="*", producers=("erp",), approvers=("*",))
    before = os.umask(0o027)
    try:
        sink_of(sink, tmp_path, ManualClock())
    finally:
        os.umask(before)
    modes = {name: (tmp_path / "decisions" / name).stat().st_mode & 0o7777 for name in ("", "erp", "erp/new")}
    assert modes == {"": 0o711, "erp": 0o750, "erp/new": 0o2770}
