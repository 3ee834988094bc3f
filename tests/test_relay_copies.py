"""Requests for approval on the wire: each approver alone, with their own token; nobody after the request is over."""

from __future__ import annotations

import asyncio
import email
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from mailrelayd.outbound import delivery
from mailrelayd.outbound.asking import Asking
from mailrelayd.outbound.copies import EXPIRED
from mailrelayd.outbound.guard import Guard
from mailrelayd.outbound.queue import Source, Verb
from mailrelayd.outbound.relay import Relay, Terms
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
from tests.asking import copies, token
from tests.relay_bench import CHUNKED, LOCK_STEP, OWN, PIPELINED, Bench, count, relaying, said, until
from tests.scripted_smtp import Fault, Script, Server

ASKING = Asking("relay.test", "approvals@example.com", subject_tag=True)
TERMS = Terms("relay.test", OWN, asking=ASKING)
DATA = f"From: {OWN}\r\nTo: a@x\r\nSubject: Order 42\r\nX-Approval-Request: PO-42\r\n\r\nPlease.\r\n".encode()
TO = ("a@x", "one@x", "two@x", "b@x", "c@x")


@dataclass
class Desk:
    """`outbound.queue.Copies`: what it was told, and where the message stood then."""

    bench: Bench
    errors: list[OSError] = field(default_factory=list)
    told: list[dict[str, str]] = field(default_factory=list)
    copies: list[tuple[str, ...]] = field(default_factory=list)  # that it was told of
    closed: set[str] = field(default_factory=set)  # whose requests are over

    def is_as_asked(self, message: QueuedMessage, source: Source) -> bool:
        return b"edited" not in source.read(0, 1000)

    def is_closed(self, copy: ApprovalCopy) -> bool:
        return copy.recipient in self.closed

    async def settled(self, message: QueuedMessage, progress: Progress) -> None:
        if self.errors:
            raise self.errors.pop()
        assert message.queue_id in self.bench.queue.flying, "the queue does not know it yet"
        self.copies.append(tuple(copy.recipient for copy in message.copies))
        self.told.append({who: record.reason or record.status.value for who, record in progress.recipients.items()})


@asynccontextmanager
async def asking(
    script: Script, terms: Terms = TERMS, *, dsn: bool = False, connections: int = 1
) -> AsyncIterator[tuple[Bench, Server, Desk]]:
    """A bench whose relay knows approvals, and a desk."""
    async with relaying(script, terms=terms, dsn=dsn, connections=connections) as (bench, server):
        desk = Desk(bench)
        bench.relay = Relay(bench.queue, bench.route, terms, bench.clock, postmaster=bench.postmaster, desk=desk)
        yield bench, server, desk


def ask(bench: Bench, *approvers: str, to: tuple[str, ...] = TO, lasting: float = 86_400.0) -> str:
    return bench.queue.put(DATA, to, OWN, copies(*approvers, expires_at=bench.clock.now() + lasting))


def transactions(server: Server) -> list[tuple[list[str], bytes]]:
    """Whom each was for that got as far as its last byte, and what they got."""
    found: list[tuple[list[str], bytes]] = []
    asked: list[list[str]] = []
    for line in server.lines:
        if line.upper().startswith("MAIL"):
            asked.append([])
        elif match := re.match(r"RCPT TO:<([^>]*)>", line, re.I):
            asked[-1].append(match[1])
    found += zip(filter(None, asked), server.bodies, strict=True)  # the canary's is for nobody
    return found


def tokens(body: bytes) -> set[str]:
    return set(re.findall(r"(?<![a-z0-9])[a-z2-7]{44}(?![a-z0-9])", body.decode()))


@pytest.mark.parametrize("extensions", [PIPELINED, LOCK_STEP, CHUNKED], ids=["pipelined", "lock-step", "window"])
async def test_each_approver_gets_their_own_copy_and_all_others_one_without_token(extensions: tuple[str, ...]) -> None:
    """In the order of the envelope, each transaction settled before the next."""
    async with asking(Script(extensions=extensions)) as (bench, server, desk):
        queue_id = ask(bench, "one@x", "two@x")
        bench.begin()
        await until(lambda: bench.queue.sent)
        (first, plain), (second, one), (third, two) = transactions(server)
        assert (first, second, third) == (["a@x", "b@x", "c@x"], ["one@x"], ["two@x"])
        assert (tokens(plain), tokens(one), tokens(two)) == (set(), {token(1)}, {token(2)})
        message = email.message_from_bytes(one)
        assert message["Reply-To"] == f"approvals+{token(1)}@example.com"
        assert message["Message-ID"] == f"<{token(1)}.{queue_id}@relay.test>"
        assert message["Subject"].split() == ["Order", "42", f"[#{token(1)}]"]
        plainly = email.message_from_bytes(plain)
        assert plainly["Reply-To"] is None
        assert plainly["Message-ID"] == f"<{queue_id}@relay.test>"
        assert all(b"X-Approval" not in body for body in (plain, one, two))
        assert desk.told[0] == {"a@x": "sent", "b@x": "sent", "c@x": "sent", "one@x": "sent"}
        assert desk.copies == [("one@x",), ("two@x",)], "only of copies, and each time one has gone"


async def test_what_was_sent_is_not_sent_again_after_a_restart() -> None:
    """One approver deferred, the process gone: the others are done, and the copy is the same."""
    rcpt: list[str | Fault] = ["250 ok", "450 4.2.1 later", "250 ok"]
    async with asking(Script({"RCPT": rcpt})) as (bench, server, desk):
        queue_id = ask(bench, "one@x", "two@x", to=("one@x", "two@x"))
        bench.begin()
        await bench.quiet()
        assert bench.status(queue_id) == {"one@x": "sent", "two@x": "deferred"}
        bench.queue.reopen()
        await bench.pass_time(60)
        await until(lambda: bench.queue.sent)
        # Nobody left in a pipelined transaction: an empty body ends it.
        assert [tokens(body) for body in server.bodies if body] == [{token(1)}, {token(2)}]
        assert [len(one) for one in desk.told] == [1, 2]


async def test_refused_copies_are_told_as_failed_and_others_go_on() -> None:
    """With the server's reason in the progress; the message ends in failed/."""
    rcpt: list[str | Fault] = ["550 5.1.1 unknown", "250 ok"]
    async with asking(Script({"RCPT": rcpt})) as (bench, _, desk):
        queue_id = ask(bench, "one@x", "two@x", to=("one@x", "two@x"))
        bench.begin()
        await bench.over()
        assert bench.queue.failed[queue_id].reason == "rejected"
        assert desk.told == [{"one@x": "rejected"}, {"one@x": "rejected", "two@x": "sent"}]
        await bench.queue.change(Verb.RETRY, [queue_id])
        await until(lambda: bench.queue.sent)
        assert desk.told[-1] == {"one@x": "sent", "two@x": "sent"}


async def test_a_copy_is_not_sent_once_its_request_is_over(caplog: pytest.LogCaptureFixture) -> None:
    """The approvers fail as expired, their sender is told, and the others get the message."""
    async with asking(Script(), dsn=True) as (bench, server, desk):
        queue_id = ask(bench, "one@x", "two@x", lasting=0.0)
        bench.begin()
        await bench.over()
        assert bench.status(queue_id) == {
            "a@x": "sent",
            "b@x": "sent",
            "c@x": "sent",
            "one@x": "failed",
            "two@x": "failed",
        }
        assert bench.queue.failed[queue_id].reason == "expired"
        assert desk.told == [{"one@x": "expired", "two@x": "expired"}]
        assert desk.copies == [("one@x", "two@x")]
        assert count(server, "RCPT") == 3 + 1
        report = next(body for body in server.bodies if b"multipart/report" in body)
        assert report.count(EXPIRED.text.encode()) >= 2
        assert tokens(report) == set()
        assert {one["reason"] for one in said(caplog, "message.expired")} == {"local"}


async def test_a_deferred_copy_expires_with_its_request() -> None:
    """The smarthost's 4xx does not outlive what is asked."""
    async with asking(Script({"RCPT": ["450 4.2.1 later"]})) as (bench, server, desk):
        queue_id = ask(bench, "one@x", to=("one@x",), lasting=100)
        bench.begin()
        await bench.over()
        assert desk.told == [{"one@x": "expired"}]
        record = bench.queue.failed[queue_id].message.progress.recipients["one@x"]
        assert (record.response, record.attempts) == (EXPIRED, count(server, "RCPT"))


async def test_a_wrong_date_for_a_moment_expires_no_copy() -> None:
    """It is not sent either while the clock cannot be trusted."""
    trusted = [False]
    async with asking(Script()) as (bench, server, desk):
        bench.relay = Relay(bench.queue, bench.route, TERMS, bench.clock, lambda: trusted[0], desk=desk)
        ask(bench, "one@x", to=("one@x",), lasting=86_400)
        bench.clock.wall += 2 * 86_400
        bench.begin()
        await bench.pass_time(120)
        assert (desk.told, server.bodies) == ([], [])
        bench.clock.wall -= 2 * 86_400
        trusted[0] = True
        await bench.pass_time(120)
        assert desk.told == [{"one@x": "sent"}]


async def test_redirected_copies_stay_apart() -> None:
    """[guard] redirect_to: each token in a message of its own, for the one address that gets all of them."""
    terms = replace(TERMS, guard=Guard("staging@y"))
    async with asking(Script(), terms) as (bench, server, desk):
        ask(bench, "one@x", "two@x")
        bench.begin()
        await until(lambda: bench.queue.sent)
        found = transactions(server)
        assert [to for to, _ in found] == [["staging@y"]] * 3
        assert [tokens(body) for _, body in found] == [set(), {token(1)}, {token(2)}]
        real = [email.message_from_bytes(body)["X-Original-Recipients"].split(",") for _, body in found]
        assert [len(one) for one in real] == [3, 1, 1]
        assert len(desk.told) == 2


@pytest.mark.parametrize("answer", ["250 2.6.0 <{}.x@y> queued", "451 4.3.0 <{}@y>", "554 5.6.0 {}"])
async def test_a_server_that_repeats_the_token_tells_it_to_nobody(
    answer: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Exchange answers with the Message-ID, and the producer is told what was answered."""
    caplog.set_level("DEBUG")
    script = Script({"BODY": [answer.format(token(1).upper()), "250 ok"]})
    async with asking(script, dsn=True) as (bench, server, desk):
        queue_id = ask(bench, "one@x", to=("one@x",))
        bench.begin()
        await bench.quiet()
        found = await bench.queue.find(queue_id)
        kept = str(found) if found is not None and answer[0] != "2" else ""
        assert token(1).upper() not in kept + caplog.text
        assert "[token]" in caplog.text
        assert all(token(1).upper().encode() not in body for body in server.bodies)
        assert (len(desk.told) == 1) == (answer[0] != "4")


@pytest.mark.parametrize("guard", [Guard(dry_run=True), Guard(deny=("*@x",))])
async def test_suppressed_copies_are_told_and_never_sent(guard: Guard) -> None:
    """Whatever the guard leaves out."""
    async with asking(Script(), replace(TERMS, guard=guard)) as (bench, server, desk):
        ask(bench, "one@x", "two@x")
        bench.begin()
        await bench.over()
        assert server.bodies == []
        assert desk.told[-1] == dict.fromkeys(TO, "suppressed")


async def test_copies_wait_where_approvals_were_turned_off(caplog: pytest.LogCaptureFixture) -> None:
    """And the message's other recipients do not."""
    async with asking(Script(), Terms("relay.test", OWN)) as (bench, server, _):
        queue_id = ask(bench, "one@x", to=("a@x", "one@x"))
        bench.begin()
        await bench.pass_time(300)
        assert [to for to, _ in transactions(server)] == [["a@x"]]
        assert bench.status(queue_id) == {"a@x": "sent"}
        assert "approvals are not enabled" in said(caplog, "queue.trouble")[0]["reason"]
        assert bench.queue.waiting[queue_id].due > 0, "later"


async def test_what_cannot_be_noted_is_tried_again_before_the_queue_forgets_it() -> None:
    """A full disk on the other side: the message stays claimed until it is known what became of it."""
    async with asking(Script()) as (bench, _, desk):
        excused: list[float] = []
        bench.relay = Relay(bench.queue, bench.route, TERMS, bench.clock, desk=desk, excuse=excused.append)
        ask(bench, "one@x", to=("one@x",))
        desk.errors = [OSError(28, "No space left on device")] * 3
        bench.begin()
        await bench.quiet()
        assert (bench.queue.sent, len(bench.queue.flying), len(desk.errors)) == ([], 1, 2)
        await bench.pass_time(10, 1)
        await until(lambda: bench.queue.sent)
        assert desk.told == [{"one@x": "sent"}]
        assert excused == [30.0] * 3, "whoever watches the loops knows why"


async def test_a_lost_connection_repeats_a_copy_to_its_own_approver_only() -> None:
    """RFC 1047: the same bytes to the same person."""
    gone = asyncio.Event()

    async def hang_up(conversation: Any) -> None:
        gone.set()
        conversation.writer.transport.abort()

    async with asking(Script({"BODY": [hang_up, "250 ok"]})) as (bench, server, _):
        ask(bench, "one@x", "two@x", to=("one@x", "two@x"))
        bench.begin()
        await bench.over()
        assert gone.is_set()
        found = transactions(server)
        assert [to for to, _ in found] == [["one@x"], ["two@x"], ["one@x"]]
        for to, body in found:
            assert tokens(body) == {token(1 if to == ["one@x"] else 2)}


async def test_many_approvers_and_four_connections() -> None:
    """Nobody gets another's token, nobody gets two."""
    everybody = tuple(f"r{number}@x" for number in range(100))
    async with asking(Script(), connections=4) as (bench, server, _):
        for _ in range(4):
            bench.queue.put(DATA, everybody, OWN, copies(*everybody[:99]))
        bench.begin()
        await until(lambda: len(bench.queue.sent) == 4)
        for body in server.bodies:
            assert len(tokens(body)) <= 1
        assert len(server.bodies) == 4 * 100


# -- pure --------------------------------------------------------------------------------------------------------


def test_owed_is_one_approver_or_everybody_else() -> None:
    """By the order of the envelope; who is over is nobody's turn."""
    message = QueuedMessage("a" * 16, Envelope("s@x", TO), Progress(0.0), copies=copies("one@x", "two@x"))
    assert delivery.owed(message, 10.0, 99) == ("a@x", "b@x", "c@x")
    assert delivery.owed(message, 10.0, 2) == ("a@x", "b@x")
    done = RecipientRecord(Status.SENT, Response(Stage.BODY, 250), 1, 5.0)
    later = replace(message, progress=Progress(0.0, dict.fromkeys(("a@x", "b@x", "c@x"), done)))
    assert delivery.owed(later, 10.0, 99) == ("one@x",)
    over = replace(later, copies=(replace(later.copies[0], expires_at=10.0), later.copies[1]))
    assert delivery.owed(over, 10.0, 99) == ("two@x",)
    assert delivery.owed(over, 9.0, 99) == ("one@x",)
    progress = delivery.expire(over, ("one@x",), 10.0)
    assert delivery.rest(over, progress, 10.0) == delivery.Retry(10.0)
    assert delivery.failed_since(over.progress, progress) == {"one@x": progress.recipients["one@x"]}
    assert progress.history[-1].text == f"one@x: {EXPIRED}"
    nobody = replace(message, copies=(ApprovalCopy("stranger@x", "t", 0.0),))
    assert delivery.owed(nobody, 10.0, 99) == TO


async def test_a_copy_is_not_sent_once_its_request_was_cancelled_or_superseded() -> None:
    """It waits for the smarthost, and meanwhile nobody may answer it any more; the others get theirs."""
    rcpt: list[str | Fault] = ["450 4.2.1 later", "250 ok"]
    async with asking(Script({"RCPT": rcpt})) as (bench, server, desk):
        queue_id = ask(bench, "one@x", "two@x", to=("one@x", "two@x"))
        bench.begin()
        await bench.quiet()
        assert bench.status(queue_id) == {"one@x": "deferred", "two@x": "sent"}
        desk.closed = {"one@x", "two@x"}
        await bench.pass_time(60)
        await bench.over()
        assert bench.status(queue_id) == {"one@x": "failed", "two@x": "sent"}
        assert [tokens(body) for body in server.bodies if body] == [{token(2)}]
        assert desk.told[-1] == {"one@x": "expired", "two@x": "sent"}


async def test_what_was_edited_after_it_was_asked_is_not_sent() -> None:
    """Its producer kept the file open: the decision would be about other bytes than its digest says."""
    async with asking(Script()) as (bench, server, desk):
        queue_id = bench.queue.put(DATA + b"edited\r\n", ("one@x",), OWN, copies("one@x", expires_at=2e9))
        bench.begin()
        for _ in range(3):
            await bench.pass_time(60)
        await bench.over()
        assert bench.queue.failed[queue_id].reason == "changed"
        assert desk.told[-1] == {"one@x": "changed"}
        assert not any(server.bodies)
