"""What somebody might try, or a crash might do, to make the approval loop say what nobody said."""

from __future__ import annotations

import asyncio
import grp
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from mailrelayd import durable
from mailrelayd.approvals.dkim import Signed
from mailrelayd.approvals.outbox import Outbox, park, stored_waiting
from mailrelayd.approvals.request import Copy, Request, RequestError, State, decode, encode
from mailrelayd.approvals.sender import SenderCheck
from mailrelayd.approvals.sinks import Answer, DirectorySink, Taken
from mailrelayd.login import trace
from mailrelayd.outbound.headers import Header, edit, split_header
from mailrelayd.outbound.values import (
    ApprovalCopy,
    Envelope,
    Progress,
    QueuedMessage,
    RecipientRecord,
    Response,
    Stage,
    Status,
)
from tests.manual_clock import START, ManualClock
from tests.test_desk import BOSS, CFO, REQUEST, SENT, World, issued, reply
from tests.test_reminders import Bytes

DAY = 86_400.0


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    world.registry.open(REQUEST, [SENT])
    yield world
    world.close()


def told(world: World, sink: str = "erp") -> list[tuple[str, str | None]]:
    """The outcomes that a sink heard of, each once, and whose they are."""
    seen = {event["id"]: event for event in world.sinks[sink].got}
    return [(event["data"]["decision"], event["data"]["decided_by"]["address"]) for event in seen.values()]


# -- crashes between two steps -----------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ["expired", "cancelled"])
@pytest.mark.parametrize("step", range(1, 10))
async def test_an_end_that_a_crash_interrupts_is_told_to_everybody(
    world: World, monkeypatch: pytest.MonkeyPatch, outcome: str, step: int
) -> None:
    """Every sink hears of it for everybody, at least once and with one id, wherever the daemon died."""
    if outcome == "expired":
        world.clock.advance(DAY + 60.0)
        world.desk.polled("answers", world.clock.now())
    writes = 0
    real = durable.Folder.write

    def write(self: durable.Folder, name: str, data: bytes, *, mode: int = 0o600) -> None:
        nonlocal writes
        writes += 1
        if writes == step:
            raise OSError(28, os.strerror(28))
        real(self, name, data, mode=mode)

    monkeypatch.setattr(durable.Folder, "write", write)
    with suppress(OSError):
        if outcome == "expired":
            await world.desk.keep_house(["answers"])
        else:
            await world.desk.cancel(REQUEST, "uid 0")
    monkeypatch.setattr(durable.Folder, "write", real)
    await world.restart()
    world.desk.polled("answers", world.clock.now())
    await world.desk.keep_house(["answers"])
    await world.deliver()
    if outcome == "cancelled" and step == 1:  # nothing was written: the operator heard of the error
        return
    assert sorted(told(world)) == [(outcome, BOSS), (outcome, CFO)] == sorted(told(world, "audit"))
    request = world.registry.get(REQUEST.queue_id)
    assert request is not None
    assert request.state(world.clock.now()) is (State.EXPIRED if outcome == "expired" else State.CANCELLED)


async def test_a_decision_whose_mail_somebody_else_removed_is_told_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon died behind the commit point, and the mail does not come again."""

    def full(self: Outbox, decision_id: str, document: bytes) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Outbox, "put", full)
    with suppress(OSError):
        await world.read(reply())
    monkeypatch.undo()
    await world.restart()
    await world.deliver()
    assert told(world) == [("approved", BOSS)]
    assert told(world, "audit") == [("approved", BOSS)]


async def test_no_approval_follows_after_it_was_told_that_time_is_up(world: World) -> None:
    """An answer that somebody moves into the folder later keeps its old INTERNALDATE."""
    world.clock.advance(DAY + 60.0)
    world.desk.polled("answers", world.clock.now())
    await world.desk.keep_house(["answers"])
    await world.read(reply(), at=REQUEST.opened_at + 60.0)
    await world.deliver()
    assert told(world) == [("expired", BOSS), ("expired", CFO), ("expired", BOSS)]


@pytest.mark.parametrize("when", ["decide", "sent"])
async def test_a_newer_request_stays_the_only_open_one(
    world: World, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The pickup opens it at the very moment at which something is written down about the older one."""
    newer = replace(REQUEST, queue_id="2gk4zzzzzzbbbbbb", copies=(Copy(BOSS, 3),))
    real = world.registry.get
    calls = 0

    def get(queue_id: str) -> Request | None:
        nonlocal calls
        found = real(queue_id)
        if queue_id == REQUEST.queue_id and (calls := calls + 1) == 1:
            world.registry.open(newer, [SENT])
        return found

    monkeypatch.setattr(world.registry, "get", get)
    if when == "decide":
        await world.read(reply())
    else:
        copy = ApprovalCopy(BOSS, issued(), REQUEST.expires_at)
        message = QueuedMessage(
            REQUEST.queue_id, Envelope("", (BOSS,)), Progress(REQUEST.opened_at), 1, "headers", copies=(copy,)
        )
        sent = RecipientRecord(Status.SENT, Response(Stage.BODY, 250, "2.0.0", "ok"), 1, REQUEST.opened_at)
        await world.desk.settled(message, replace(message.progress, recipients={BOSS: sent}))
    older = real(REQUEST.queue_id)
    assert older is not None
    assert older.superseded_by == newer.queue_id


# -- mails -------------------------------------------------------------------------------------------------------


async def test_a_copy_of_the_answer_by_an_untrusted_way_does_not_silence_the_answer(world: World) -> None:
    """The same mail twice, forged or by a forwarder first, then as its author sent it."""
    await world.read(reply(results="dmarc=fail header.from=example.com"))
    await world.read(reply(), uid=8)
    await world.read(reply(), uid=8)
    await world.read(reply(results="dmarc=fail header.from=example.com"), uid=7)
    await world.deliver()
    assert told(world) == [("untrusted", BOSS), ("approved", BOSS)]


async def test_every_byte_that_is_removed_is_in_the_archive(world: World) -> None:
    """Two mails with one Message-ID and one text are two mails."""
    first, second = reply(), reply(more="X-Attached: evidence\r\n")
    for uid, mail in enumerate((first, second, second), 7):
        await world.read(mail, uid=uid)
    kept = sorted(path.read_bytes() for path in world.state.glob("archive/in/*/*/message*.eml"))
    assert kept == sorted([first, second])


# -- what lies on disk -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        b"", b"[]", b"{", b"null", b'{"data": 7}', b'{"data": {"decision": "approved"}}', b"[" * 100_000,
        b'{"id": 7, "data": {"decision": "approved", "original": "x", "decided_by": []}}',
        b'{"id": "7", "data": {"decision": "approved", "original": {"queue_id": []}, "decided_by": {}}}',
        b'{"id": "7", "data": {"decision": "approved", "original": {"queue_id": "2gk4zzzzzzaaaaaa"}, '
        b'"decided_by": {"on_behalf_of": null, "address": 7}}}',
    ],
)  # fmt: skip
async def test_a_damaged_archive_does_not_keep_the_daemon_from_starting(world: World, text: bytes) -> None:
    """And decides nothing."""
    folder = world.state / "archive" / "in" / "20261121" / "00000000-0000-0000-0000-000000000000"
    folder.mkdir(parents=True)
    (folder / "decision.json").write_bytes(text)
    (folder.parent.parent / "20261122").write_bytes(b"no folder")
    await world.restart()
    request = world.registry.get(REQUEST.queue_id)
    assert request is not None
    assert not request.decided


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_an_entry_without_an_end_opens_nothing(world: World, number: str) -> None:
    """No number compares with what is none: such a request would never expire."""
    entry = json.loads(encode(REQUEST))
    text = json.dumps(entry | {"expires_at": 4242}).replace("4242", number)
    with pytest.raises(RequestError):
        decode(text.encode())


# -- sinks, clocks and the queue ----------------------------------------------------------------------------------


async def test_a_decision_for_a_sink_that_was_taken_out_of_the_configuration_is_kept(world: World) -> None:
    """On disk where `decisions list` shows it, and told once the sink is there again."""
    world.desk.ledger._outboxes.pop("erp")
    world.desk.ledger._park = lambda name, decision_id, stored: park(world.state, name, decision_id, stored)
    done = await world.read(reply())
    await world.read(reply())
    assert stored_waiting(world.state)[done.decision_id] == ["audit", "erp (parked)"]
    await world.restart()
    assert await world.desk.ledger.replay(done.decision_id) == ["erp", "audit"]
    await world.deliver()
    assert told(world) == [("approved", BOSS)]


async def test_a_wrong_date_for_a_moment_closes_no_request(world: World) -> None:
    """As long as the clock cannot be trusted nobody is told that time is up."""
    world.desk._may_expire = lambda: False
    world.clock.wall += 30 * DAY
    world.desk.polled("answers", world.clock.now())
    await world.desk.keep_house(["answers"])
    world.clock.wall -= 30 * DAY
    await world.read(reply())
    await world.deliver()
    assert told(world) == [("approved", BOSS)]


async def test_a_request_that_is_taken_out_of_the_queue_can_be_answered_by_nobody_else(world: World) -> None:
    """`queue delete` and `queue fail`, with the daemon running or not: who was not asked is told as undeliverable."""
    world.registry.change(REQUEST.queue_id, lambda one: replace(one, sent={BOSS: REQUEST.opened_at}))
    waits = True

    world.desk._is_queued = lambda queue_id: waits
    await world.desk.keep_house(["answers"])
    assert world.archived() == []
    waits = False
    await world.desk.keep_house(["answers"])
    await world.desk.keep_house(["answers"])
    await world.deliver()
    assert told(world) == [("undeliverable", CFO)]
    assert world.sinks["erp"].got[0]["data"]["reason"] == "withdrawn"


async def test_copies_of_a_closed_request_are_not_to_be_sent(world: World) -> None:
    """Cancelled or superseded; the newer one's are."""
    newer = replace(REQUEST, queue_id="2gk4zzzzzzbbbbbb", copies=(Copy(BOSS, 3),))
    old, new = (ApprovalCopy(BOSS, issued(number), REQUEST.expires_at) for number in (1, 3))
    assert not world.desk.is_closed(old)
    world.registry.open(newer, [SENT])
    assert (world.desk.is_closed(old), world.desk.is_closed(new)) == (True, False)
    await world.desk.cancel(newer)
    assert world.desk.is_closed(new)


class Failing:
    """A receiver whose answer nobody foresaw."""

    at_once = 1

    def __init__(self) -> None:
        self.calls = 0

    async def offer(self, decision_id: str, document: bytes) -> Answer:
        self.calls += 1
        if self.calls == 1:
            raise LookupError("unheard-of")
        return Taken()

    async def rest(self) -> None:
        """Nothing to let go of."""


async def test_no_answer_of_a_receiver_stops_the_loop(tmp_path: Path) -> None:
    """It is offered again later, and the next document is offered at once."""
    clock = ManualClock()
    box = Outbox(tmp_path, "erp", Failing(), clock, required=True)
    stop = asyncio.Event()
    for decision_id in ("a", "b"):
        box.put(decision_id, b"{}")
        box.offer(decision_id)
    task = asyncio.create_task(box.run(stop, lambda within: None))
    async with asyncio.timeout(5):
        while box.waiting() != ["a"]:  # noqa: ASYNC110 - its threads are not ours
            await asyncio.sleep(0.001)
    stop.set()
    box.wake()
    await task
    box.close()


def test_documents_belong_to_the_consumers_group(tmp_path: Path) -> None:
    """Not only the folder: a file that its reader cannot open is no decision."""
    groups = [number for number in os.getgroups() if number != os.getegid()]
    if os.geteuid() == 0:
        groups = [grp.getgrnam("mail").gr_gid]
    if not groups:
        pytest.skip("this user has one group only")
    sink = DirectorySink(tmp_path / "erp", grp.getgrgid(groups[0]).gr_name)
    assert asyncio.run(sink.offer("a", b"{}")) == Taken()
    figures = (tmp_path / "erp" / "new" / "a.json").stat()
    assert (figures.st_gid, figures.st_mode & 0o777) == (groups[0], 0o640)


# -- who wrote it ------------------------------------------------------------------------------------------------

SIGNED = "DKIM-Signature: v=1; a=rsa-sha256; d=example.com; s=s; h={}; bh=AAAA; b=AAAA\r\n"
DIRECT = "dkim=pass header.d=example.com; spf=pass smtp.mailfrom=boss@example.com; dmarc=pass header.from=example.com"
AGAIN = (
    "dkim=pass header.d=example.com; spf=pass smtp.mailfrom=mallory@evil.example; dmarc=pass header.from=example.com"
)


@pytest.mark.parametrize(
    "place", ["Delivered-To: {}", "Cc: {}", "To: {}", "In-Reply-To: <{}>", "Resent-To: x\r\nTo: {}"]
)
async def test_another_mail_of_the_approver_is_not_sent_again_as_an_answer(world: World, place: str) -> None:
    """It was signed for something else; who has seen the copy only adds its token where nothing is signed."""
    added = place.format(f"approvals+{issued()}@example.com") + "\r\n"
    mail = reply("Approved\n", to="assistant@example.com", results=AGAIN)
    signature = SIGNED.format("from:to:subject:message-id")
    await world.read(mail.replace(b"From: ", (added + signature).encode() + b"From: ", 1))
    (event,) = world.archived()
    assert (event["data"]["decision"], event["data"]["reason"]) == ("untrusted", "token-not-signed")


@pytest.mark.parametrize(
    ("results", "signatures", "decision"),
    [
        (AGAIN, ["from:to"], "approved"),  # a forwarder: what its author signed still says whom it answers
        (AGAIN, ["from", "from:to"], "untrusted"),  # one of them is not the one that was verified
        (AGAIN, ["from:to"] * 21, "untrusted"),
        (AGAIN, [], "approved"),
        (DIRECT, ["from:subject"], "approved"),
        ("dkim=pass header.d=example.com", ["from:subject"], "approved"),  # nothing is said of its way
        ("spf=pass smtp.mailfrom=bounce.example.com; dkim=pass header.d=example.com", ["from"], "approved"),
        ("spf=pass smtp.mailfrom=example.com.evil.example; dkim=pass header.d=example.com", ["from"], "untrusted"),
        ("spf=softfail smtp.mailfrom=example.com; dkim=pass header.d=example.com", ["from"], "untrusted"),
    ],
)
async def test_honest_answers_are_signed_or_come_from_their_own_server(
    world: World, results: str, signatures: list[str], decision: str
) -> None:
    """Only where nothing but a signature speaks for the sender must it cover the token."""
    lines = "".join(SIGNED.format(names) for names in signatures)
    await world.read(reply("Approved\n", results=results).replace(b"From: ", lines.encode() + b"From: ", 1))
    (event,) = world.archived()
    assert event["data"]["decision"] == decision


@pytest.mark.parametrize("method", ["authentication-results", "microsoft-365", "dkim"])
def test_no_program_here_answers_in_a_persons_name(method: str) -> None:
    """Who may hand in mail writes any From, and our smarthost signs it for the domain; but our Received line tells."""
    message = f"From: {BOSS}\r\nTo: approvals+{issued()}@example.com\r\n\r\nApproved\r\n".encode()
    header = split_header(message)
    assert isinstance(header, Header)
    sent = edit(
        header,
        queue_id="2gk4zzzzzzaaaaaa",
        node="relay1",
        arrived_at=START,
        uid=1001,
        pickup=False,
        from_address="relay@example.com",
        rewrite_from="envelope",
        sender=BOSS,
    )
    sent += b"Approved\r\n"
    said = (
        "Authentication-Results: {}dmarc=pass header.from=example.com\r\n"
        "X-MS-Exchange-Organization-AuthAs: Internal\r\n"
    )
    top = said.format("" if method == "microsoft-365" else "mx.example.com; ").encode()
    top += b"Received: from smtp.example.com by mx.example.com with ESMTPS; Sat, 21 Nov 2026 08:00:00 +0000\r\n"
    check = SenderCheck(method, ("mx.example.com",), lambda data, domain, at: Signed(True, "a valid signature", data))
    assert check(top + message, START).authentic
    verdict = check(top + sent, START)
    assert not verdict.authentic
    assert "handed it in" in verdict.reason


async def test_a_bounce_names_the_approver_whose_copy_it_was(world: World) -> None:
    """Among several who were asked, a consumer must know who cannot answer; also after a crash behind the archive."""
    mail = (
        f"From: MAILER-DAEMON@mx.example.com\r\nTo: approvals+{issued()}@example.com\r\nSubject: Undelivered\r\n"
        'Message-ID: <b1@mx>\r\nContent-Type: multipart/report; report-type=delivery-status; boundary="b"\r\n\r\n'
        "--b\r\n\r\nIt did not work.\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\n"
        f"Reporting-MTA: dns; mx\r\n\r\nFinal-Recipient: rfc822; {BOSS}\r\nAction: failed\r\nStatus: 5.1.1\r\n"
        "\r\n--b--\r\n"
    ).encode()
    await world.read(mail)
    await world.deliver()
    assert told(world) == [("undeliverable", BOSS)]
    world.registry.open(REQUEST)  # what was written about it is lost
    await world.restart()
    request = world.registry.get(REQUEST.queue_id)
    assert request is not None
    assert request.decided[BOSS].outcome == "undeliverable"


def test_a_server_that_quotes_headers_puts_no_token_into_the_protocol_log(caplog: pytest.LogCaptureFixture) -> None:
    """RFC 3501 lets it send them as a quoted string instead of a literal."""
    with caplog.at_level("DEBUG"):
        trace("imap.example.com", "<", f'* 1 FETCH (BODY[HEADER] "To: approvals+{issued()}@example.com")\r\n'.encode())
    assert "[token]@example.com" in caplog.text
    assert issued() not in caplog.text


async def test_the_bytes_that_are_sent_are_those_that_were_asked_about(world: World) -> None:
    """A producer may keep its file open after it was claimed; `original.sha256` would tell of another text."""
    world.registry.change(REQUEST.queue_id, lambda one: replace(one, sha256=hashlib.sha256(b"a boat").hexdigest()))
    message = QueuedMessage(REQUEST.queue_id, Envelope("", (BOSS,)), Progress(REQUEST.opened_at), 1, "headers")
    assert world.desk.is_as_asked(message, Bytes(b"a boat"))
    assert not world.desk.is_as_asked(message, Bytes(b"a yacht"))
    assert world.desk.is_as_asked(replace(message, queue_id="2gk4zzzzzzcccccc"), Bytes(b"a reminder"))
