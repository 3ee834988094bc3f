"""The loop from due messages to their outcome: real connections to servers that behave as each test says."""

from __future__ import annotations

import asyncio
import email
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from mailrelayd.clock import SystemClock
from mailrelayd.config.units import Rate
from mailrelayd.operate import log
from mailrelayd.outbound import queueid, smtp
from mailrelayd.outbound.delivery import Policy
from mailrelayd.outbound.guard import Guard
from mailrelayd.outbound.queue import Queue, Verb
from mailrelayd.outbound.relay import Relay, Terms
from mailrelayd.outbound.route import Route
from mailrelayd.outbound.session import Session
from mailrelayd.outbound.smtp import RouteTrouble
from mailrelayd.outbound.spool import Spool
from mailrelayd.outbound.values import Progress, QueuedMessage, RecipientRecord, Response, Stage, Status
from tests.accounts import Account, Tls
from tests.faults.driver import compose
from tests.faults.journal import Death, append_line, read_evidence
from tests.faults.server import Recorder, context
from tests.faults.server import Terms as ServerTerms
from tests.faults.verdict import Verdict, judge
from tests.manual_clock import ManualClock
from tests.memory_queue import Bytes, MemoryQueue
from tests.queue_contract import QueueContract, QueueMachine
from tests.relay_bench import (
    CHUNKED,
    LOCK_STEP,
    NAMES,
    OWN,
    PIPELINED,
    Bench,
    Shelf,
    count,
    relaying,
    said,
    subjects,
    text,
    until,
    until_equal,
)
from tests.scripted_smtp import Conversation, Fault, Gone, Script, Server, hang_up, junk, last_words, reset
from tests.servers.certificates import Certificates

# -- order, and the normal life of a connection ----------------------------------------------------------------------


@pytest.mark.parametrize("extensions", [PIPELINED, LOCK_STEP, CHUNKED], ids=["pipelined", "lock-step", "window"])
async def test_messages_are_sent_and_settled_in_queue_order(extensions: tuple[str, ...]) -> None:
    """One connection takes everything in the order of the queue ids, each settled before the next body."""
    async with relaying(Script(extensions=extensions)) as (bench, server):
        ids = bench.put(*NAMES)
        bench.begin()
        await until(lambda: len(bench.queue.sent) == 20)
        assert subjects(server) == NAMES
        assert bench.queue.sent == ids
        assert len(server.conversations) == 1


async def test_there_is_no_connection_without_work_and_an_idle_one_says_goodbye() -> None:
    """The first message opens one; five seconds without another close it with QUIT; the next opens another."""
    async with relaying(Script()) as (bench, server):
        bench.begin()
        await bench.pass_time(120)
        assert bench.attempts == 0
        for turn in (1, 2):
            bench.put("x")
            await until_equal(lambda: len(bench.queue.sent), turn)
            await bench.quiet()
            assert count(server, "QUIT") == turn - 1
            await bench.pass_time(5)
            await until_equal(lambda: count(server, "QUIT"), turn)
        assert bench.attempts == 2


async def test_every_recipient_has_the_outcome_it_was_given() -> None:
    """250, 450 and 550 in one transaction: sent, due again in 30 s, failed; the failed is never asked again."""
    rcpt: list[str | Fault] = ["250 ok", "450 4.2.1 later", "550 5.1.1 unknown", "250 ok"]
    async with relaying(Script({"RCPT": rcpt})) as (bench, server):
        (queue_id,) = bench.put("x", to=("a@x", "b@x", "c@x"))
        bench.begin()
        await bench.quiet()
        assert bench.status(queue_id) == {"a@x": "sent", "b@x": "deferred", "c@x": "failed"}
        await bench.over()
        assert bench.status(queue_id) == {"a@x": "sent", "b@x": "sent", "c@x": "failed"}
        assert bench.queue.failed[queue_id].reason == "rejected"
        assert [line for line in server.lines if line.startswith("RCPT")][3:] == ["RCPT TO:<b@x>"]


async def test_further_connections_are_for_a_backlog_only() -> None:
    """Four connections share fifty messages; five messages get one connection."""
    gate = asyncio.Event()

    async def slow(conversation: Conversation) -> None:
        await gate.wait()
        await conversation.say("250 ok")

    async with relaying(Script({"BODY": [slow]}), connections=4) as (bench, server):
        bench.put(*NAMES[:5])
        bench.begin()
        await bench.quiet()
        assert len(server.conversations) == 1
        bench.put(*(f"n{number}" for number in range(60)))
        await until(lambda: len(server.conversations) == 4)
        gate.set()
        await bench.over()
        assert sorted(subjects(server)) == sorted([*NAMES[:5], *(f"n{number}" for number in range(60))])


async def test_a_server_that_allows_one_connection_is_no_trouble() -> None:
    """A further connection that is refused holds nothing, and is tried again only after the probe interval."""
    gate = asyncio.Event()

    async def slow(conversation: Conversation) -> None:
        await gate.wait()
        await conversation.say("250 ok")

    greetings: list[str | Fault] = ["220 hello", "421 4.7.0 too many connections"]
    async with relaying(Script({"GREETING": greetings, "BODY": [slow]}), connections=4) as (bench, _):
        bench.put(*(f"n{number}" for number in range(60)))
        bench.begin()
        await bench.quiet()
        assert (bench.attempts, bench.route.held) == (2, None)
        await bench.pass_time(90, 10)
        assert bench.attempts == 5
        gate.set()
        await until(lambda: len(bench.queue.sent) == 60)
        assert bench.route.held is None


async def test_many_recipients_become_several_transactions() -> None:
    """5,000 recipients in hundreds: each asked for once, what was sent is written down between."""
    everyone = tuple(f"r{number}@example.org" for number in range(5000))
    async with relaying(Script()) as (bench, server):
        bench.put("x", to=everyone)
        bench.begin()
        await until(lambda: bench.queue.sent)
        asked = [line[9:-1] for line in server.lines if line.startswith("RCPT")]
        assert asked == list(everyone)
        assert count(server, "MAIL") == 50
        assert [verb for verb, _ in bench.queue.history if verb != "claim"] == ["defer"] * 49 + ["complete"]
        assert len(server.conversations) == 1


async def test_recipients_that_were_too_many_go_into_the_next_transaction() -> None:
    """452 4.5.3 after an acceptance costs neither a try nor a wait."""
    rcpt: list[str | Fault] = ["250 ok", "452 4.5.3 too many", "452 4.5.3 too many", "250 ok", "452 4.5.3", "250 ok"]
    async with relaying(Script({"RCPT": rcpt})) as (bench, server):
        bench.put("x", to=("a@x", "b@x", "c@x"))
        bench.begin()
        await until(lambda: bench.queue.sent)
        assert len(server.bodies) == 3


# -- connections that end --------------------------------------------------------------------------------------------

FAULTS: list[tuple[str, str, Fault]] = [
    (f"{verb}-{name}", verb, fault)
    for verb in ("GREETING", "EHLO", "RSET", "MAIL", "RCPT", "DATA", "BODY", "QUIT")
    for name, fault in [("eof", hang_up), ("rst", reset), ("421", last_words(b"421 4.3.2 bye\r\n"))]
]


@pytest.mark.parametrize("extensions", [PIPELINED, LOCK_STEP, CHUNKED], ids=["pipelined", "lock-step", "window"])
@pytest.mark.parametrize(("verb", "fault"), [pytest.param(v, f, id=name) for name, v, f in FAULTS])
async def test_a_lost_connection_at_any_stage_loses_and_fails_nothing(
    verb: str, fault: Fault, extensions: tuple[str, ...]
) -> None:
    """Whenever the server goes, everything is sent in the end, and twice at most what it never answered."""
    async with relaying(Script({verb: [fault, _default(verb)]}, extensions=extensions)) as (bench, server):
        ids = bench.put("a", "b", "c")
        bench.begin()
        await bench.over()
        assert sorted(bench.queue.sent) == ids
        assert not bench.queue.failed
        repeated = 1 if verb == "BODY" else 0
        assert len(server.bodies) == 3 + repeated


def _default(verb: str) -> str | Fault:
    """The server's ordinary answer, for scripts that name a verb."""

    async def ehlo(conversation: Conversation) -> None:
        lines = ["scripted", *conversation.script.extensions]
        for line in lines[:-1]:
            await conversation.say(f"250-{line}")
        await conversation.say(f"250 {lines[-1]}")

    answers = {"GREETING": "220 hi", "DATA": "354 go", "QUIT": "221 bye"}
    return ehlo if verb == "EHLO" else answers.get(verb, "250 2.0.0 ok")


async def test_a_server_that_takes_a_few_messages_per_connection_is_normal_life() -> None:
    """Sent away after two messages: reconnected at once, nothing deferred, the route never held."""
    taken = 0

    async def two_each(conversation: Conversation) -> None:
        nonlocal taken
        taken += 1
        await conversation.say("250 2.0.0 taken")
        if taken % 2 == 0:
            await conversation.say("421 4.7.0 enough")
            await conversation.close()

    async with relaying(Script({"BODY": [two_each]})) as (bench, server):
        bench.put(*NAMES[:6])
        bench.begin()
        await until(lambda: len(bench.queue.sent) == 6)
        assert subjects(server) == NAMES[:6]
        assert bench.route.held is None


@pytest.mark.parametrize("answer", [hang_up, junk, last_words(b"421 4.3.2 not you\r\n")], ids=["eof", "junk", "421"])
@pytest.mark.parametrize("verb", ["RCPT", "BODY"])
async def test_a_message_that_is_cut_every_time_steps_aside(verb: str, answer: Fault) -> None:
    """It waits on its own schedule; the others go through at once, and the route is not held for it."""

    async def choosy(conversation: Conversation) -> None:
        said = conversation.lines[-2:] if verb == "RCPT" else [conversation.bodies[-1].decode()]
        if any("poison" in part for part in said if not part.startswith("MAIL")):
            await answer(conversation)
        await conversation.say("250 ok")

    async with relaying(Script({verb: [choosy]}, extensions=LOCK_STEP)) as (bench, _):
        (bad,) = bench.put("poison", to=("poison@example.org",))
        bench.put(*NAMES[:4])
        bench.begin()
        await until(lambda: len(bench.queue.sent) == 4)
        assert bench.route.held is None
        assert list(bench.status(bad).values()) == ["deferred"]
        await bench.pass_time(600, 10)
        record = bench.queue.waiting[bad].message.progress.recipients["poison@example.org"]
        assert record.attempts == 5, "30 s, 1, 2, 5 minutes"
        assert bench.route.held is None


@pytest.mark.parametrize("answer", [hang_up, junk], ids=["eof", "junk"])
@pytest.mark.parametrize("extensions", [PIPELINED, LOCK_STEP, CHUNKED], ids=["pipelined", "lock-step", "window"])
async def test_a_message_whose_sender_makes_the_server_hang_up_does_not_stop_the_others(
    extensions: tuple[str, ...], answer: Fault
) -> None:
    """Twice it is the route's trouble; the third new connection that breaks on it makes it step aside."""

    async def choosy(conversation: Conversation) -> None:
        if any("poison" in line for line in conversation.lines[-5:] if line.startswith("MAIL")):
            await answer(conversation)
        await conversation.say("250 ok")

    async with relaying(Script({"MAIL": [choosy]}, extensions=extensions)) as (bench, _):
        (bad,) = bench.put("poison", sender="poison@example.org")
        bench.put(*NAMES[:4])
        bench.begin()
        await bench.quiet()
        assert bench.route.held is not None
        assert bench.queue.sent == []
        await bench.pass_time(60)
        assert len(bench.queue.sent) == 4
        assert bench.route.held is None
        assert list(bench.status(bad).values()) == ["deferred"]


async def test_a_message_that_breaks_the_connection_before_any_answer_does_not_stop_the_others() -> None:
    """With its whole group in one packet, something on the way may drop it before the RSET is answered."""
    async with relaying(Script({"RSET": [hang_up, hang_up, hang_up, "250 ok"]}, extensions=PIPELINED)) as (bench, _):
        ids = bench.put(*NAMES[:3])
        bench.begin()
        await bench.quiet()
        assert bench.route.held is not None
        await bench.pass_time(60)
        assert bench.queue.sent == ids[1:]
        assert list(bench.status(ids[0]).values()) == ["deferred"]


async def test_three_messages_cut_in_a_row_hold_the_route() -> None:
    """Then it is the smarthost: one message per probe finds out when it is over, and everything drains."""
    answers: list[str | Fault] = [*[hang_up] * 5, "354 go"]
    async with relaying(Script({"DATA": answers})) as (bench, server):
        ids = bench.put(*NAMES)
        bench.begin()
        await bench.quiet()
        held = bench.route.held
        assert held is not None
        assert held.stage is Stage.DATA
        assert bench.attempts == 3
        await bench.pass_time(60)
        assert bench.attempts == 5
        await bench.over()
        assert sorted(bench.queue.sent) == ids
        assert bench.route.held is None
        assert len(server.conversations) <= 7


async def test_only_who_was_sent_the_body_is_called_ambiguous(caplog: pytest.LogCaptureFixture) -> None:
    """The answer to the last byte never came: it may arrive twice for those accepted, not for those refused."""
    caplog.set_level(logging.INFO, "mailrelayd")
    rcpt: list[str | Fault] = ["250 ok", "450 later", "250 ok"]
    async with relaying(Script({"RCPT": rcpt, "BODY": [hang_up, "250 ok"]})) as (bench, _):
        bench.put("x", to=("a@x", "b@x"))
        bench.begin()
        await until(lambda: said(caplog, "message.deferred"))
        lines = {line["to"]: line.get("ambiguous") for line in said(caplog, "message.deferred")}
        assert lines == {"<a@x>": True, "<b@x>": None}


# -- route trouble ---------------------------------------------------------------------------------------------------


@dataclass
class Outage:
    """What is wrong with the account or the server, and how it is put right again."""

    account: Account
    script: Script
    repair: Callable[[Bench], None]
    stage: Stage


def outage(kind: str, certificates: Certificates) -> Outage:
    good = context(certificates.good.certificate, certificates.good.key)
    secure = Account(None, "localhost", "tls", auth="password", tls=Tls(ca_file=str(certificates.ca)))

    async def login(conversation: Conversation, line: str) -> bool:
        del conversation
        return line == "AUTH PLAIN AHJlbGF5AHJpZ2h0"  # relay, right

    script = Script(implicit=good, after_tls=("AUTH PLAIN",), login=login)
    if kind == "password":

        def right(bench: Bench) -> None:
            bench.password = "right"

        return Outage(secure, script, right, Stage.AUTH)
    if kind == "dns":

        def name(bench: Bench) -> None:
            bench.account = replace(bench.account, host="localhost")

        return Outage(replace(secure, host="no-such-host.invalid"), script, name, Stage.CONNECT)
    old = context(certificates.expired.certificate, certificates.expired.key)

    def verify(bench: Bench) -> None:
        bench.account = replace(bench.account, tls=Tls(verify=False))

    return Outage(secure, replace(script, implicit=old), verify, Stage.TLS)


@pytest.mark.parametrize("connections", [1, 4])
@pytest.mark.parametrize("kind", ["password", "certificate", "dns"])
async def test_what_is_wrong_with_the_way_fails_no_message(
    kind: str, connections: int, certificates: Certificates
) -> None:
    """A wrong password, an expired certificate, an unknown name: one attempt per probe interval however many
    messages and connections, no message touched, every loop alive; afterwards everything drains at once."""
    wrong = outage(kind, certificates)
    async with relaying(wrong.script, account=wrong.account, connections=connections) as (bench, server):
        bench.password = "wrong" if kind == "password" else "right"
        ids = bench.put(*(f"n{number:02}" for number in range(50)))
        bench.begin()
        await until(lambda: bench.route.held)
        await bench.quiet()
        assert bench.route.held is not None
        assert bench.route.held.stage is wrong.stage
        assert bench.attempts == 1
        for number in range(1, 7):
            await bench.pass_time(25)
            assert bench.attempts == number
            await bench.pass_time(5)
            await until_equal(lambda: bench.attempts, number + 1)
            await bench.quiet()
        assert bench.queue.history == [], "no message was even looked at"
        wrong.repair(bench)
        before = bench.clock.boot
        bench.clock.advance(30)
        await until(lambda: len(bench.queue.sent) == 50)
        assert bench.clock.boot == before + 30
        assert bench.route.held is None
        assert sorted(bench.queue.sent) == ids
        if connections == 1:
            assert bench.queue.sent == ids
        assert len(server.bodies) == 50


@pytest.mark.parametrize("connections", [1, 4])
@pytest.mark.parametrize(
    ("verb", "answer"),
    [
        ("MAIL", "553 5.1.8 sender not allowed"),
        ("MAIL", "530 5.7.0 log in"),
        ("RCPT", f"553 5.7.1 <{OWN}>: Sender address rejected: not owned by user relay"),
        ("BODY", f"554 5.2.252 SendAsDenied; relay@x.com not allowed to send as {OWN}; STOREDRV"),
        ("MAIL", "421 4.3.2 not now"),
    ],
)
async def test_a_refused_sender_holds_the_route(verb: str, answer: str, connections: int) -> None:
    """Our own address, refused at any stage: held, one transaction per probe on one connection, nothing failed."""
    broken = True

    async def refuse(conversation: Conversation) -> None:
        await conversation.say(answer if broken else str(_default(verb)))
        if broken and answer.startswith("421"):
            await conversation.close()

    async with relaying(Script({verb: [refuse]}), connections=connections) as (bench, server):
        ids = bench.put(*(f"n{number:02}" for number in range(50)))
        bench.begin()
        await until(lambda: bench.route.held)
        await bench.quiet()
        first = bench.attempts
        assert first <= connections
        for number in range(4):
            await bench.pass_time(25)
            assert bench.attempts == first + number
            bodies = len(server.bodies)
            bench.clock.advance(5)
            await until_equal(lambda: bench.attempts, first + number + 1)
            await bench.quiet()
            assert bench.route.held is not None
            assert bench.attempts == first + number + 1, "one connection per probe"
            assert len(server.bodies) - bodies <= 1, "one transaction per probe"
        broken = False
        bench.clock.advance(30)
        await until(lambda: len(bench.queue.sent) == 50, f"{bench.route.held}")
        assert sorted(bench.queue.sent) == ids
        assert {verb for verb, _ in bench.queue.history} == {"claim", "release", "complete"}


async def test_a_server_that_lets_us_in_and_hangs_up_is_down_all_the_time(caplog: pytest.LogCaptureFixture) -> None:
    """A login that leads to nothing is no recovery: the log says "down" once, and "up" when mail went through."""
    caplog.set_level(logging.INFO, "mailrelayd")
    broken = True

    async def ehlo(conversation: Conversation) -> None:
        await conversation.say("250 scripted")
        if broken:
            await conversation.close()

    async with relaying(Script({"EHLO": [ehlo]})) as (bench, _):
        bench.put(*NAMES[:3])
        bench.begin()
        await until(lambda: bench.route.held)
        before = len(said(caplog, "route.up"))
        await bench.pass_time(120)
        assert bench.attempts == 5
        assert len(said(caplog, "route.up")) == before
        broken = False
        bench.clock.advance(30)
        await until(lambda: len(bench.queue.sent) == 3)
        assert said(caplog, "route.up")[-1]["outage"] == 150


async def test_three_refusals_alike_are_taken_back() -> None:
    """The same 5.7.1 for three messages: the first two come back out of failed/, the route is held, and even a
    message past its lifetime is not given up for it."""
    refusals: list[str | Fault] = ["550 5.7.1 relaying denied"] * 6
    async with relaying(Script({"RCPT": [*refusals, "250 ok"]}, extensions=LOCK_STEP)) as (bench, _):
        ids = bench.put(*NAMES[:5], sender="erp@example.com")
        old = bench.queue.waiting[ids[2]]
        late = RecipientRecord(Status.DEFERRED, Response(Stage.RCPT, 450), 7, bench.clock.now() - 60)
        progress = Progress(bench.clock.now() - 9 * 86400, {"boss@example.org": late})
        old.message = replace(old.message, progress=progress)
        bench.begin()
        await bench.quiet()
        assert [entry for entry in bench.queue.history if entry[0] == "fail"] == [("fail", ids[0]), ("fail", ids[1])]
        assert not bench.queue.failed
        assert bench.route.held is not None
        await bench.over()
        assert sorted(bench.queue.sent) == ids
        assert not bench.queue.failed


async def test_an_excused_message_fails_for_good_once_another_was_accepted() -> None:
    """Three refused, the route held, one accepted: those that are refused again then are refused themselves."""

    async def choosy(conversation: Conversation) -> None:
        good = "good" in conversation.lines[-2 if conversation.lines[-1] == "DATA" else -1]
        await conversation.say("250 ok" if good else "550 5.7.1 denied")

    async with relaying(Script({"RCPT": [choosy]}, extensions=LOCK_STEP)) as (bench, _):
        bad = bench.put(*NAMES[:3], to=("bad@x",))
        bench.begin()
        await bench.quiet()
        assert bench.route.held is not None
        assert not bench.queue.failed
        bench.put("x", to=("good@x",))
        await bench.over()
        assert len(bench.queue.sent) == 1
        assert sorted(bench.queue.failed) == bad
        assert bench.route.held is None


async def test_a_wrong_date_gives_nobody_up() -> None:
    """The wall clock jumps by ten days: a message that is deferred meanwhile expires only if the new date lasts."""
    async with relaying(Script({"RCPT": ["450 4.2.0 later"]})) as (bench, _):
        (queue_id,) = bench.put("x")
        bench.begin()
        await bench.quiet()
        await bench.pass_time(600, 30)
        bench.clock.wall += 10 * 86400
        await bench.pass_time(600, 30)
        assert bench.status(queue_id) == {"boss@example.org": "deferred"}
        await bench.pass_time(2400, 60)
        assert bench.queue.failed[queue_id].reason == "expired"


# -- a window of bodies ---------------------------------------------------------------------------------------------


async def test_a_connection_lost_with_a_window_on_its_way_repeats_no_more_than_that(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Only the message whose answers had begun is put off; the others are sent again at once, one by one for a while,
    and each of them is named."""
    caplog.set_level(logging.INFO, "mailrelayd")
    async with relaying(Script({"BODY": ["250 ok", hang_up, "250 ok"]}, extensions=CHUNKED)) as (bench, server):
        ids = bench.put(*NAMES)
        bench.begin()
        await until(lambda: len(bench.queue.sent) == 19)
        (late,) = bench.queue.waiting
        assert late == ids[1]
        named = [line["queue_id"] for line in said(caplog, "queue.trouble")]
        assert named == ids[2 : 2 + len(named)]
        assert 1 <= len(named) < bench.window
        assert [line["seconds"] for line in said(caplog, "route.narrow")] == [300.0]
        assert all(subjects(server).count(name) <= 2 for name in NAMES)
        again = server.conversations[1]
        assert all(not line.startswith("BDAT") for line in again.lines[5:])  # behind the canary
        await bench.pass_time(305)
        assert sorted(bench.queue.sent) == ids
        bench.put("x", "y", "z")
        await until(lambda: len(bench.queue.sent) == 23)
        assert "BDAT" in " ".join(server.conversations[-1].lines[5:])


async def test_a_message_that_breaks_every_connection_is_found_in_a_window() -> None:
    """The server dies of one message before it answers any of it: all others arrive all the same."""

    class Fragile(Conversation):
        async def line(self) -> str:
            if b"Subject: m005" in self._buffer:
                raise Gone
            return await super().line()

        async def body(self) -> bytes:
            found = await super().body()
            if b"Subject: m005" in found:
                raise Gone
            return found

    async with relaying(Script(extensions=CHUNKED), kind=Fragile) as (bench, server):
        ids = bench.put(*NAMES)
        bench.begin()
        for _ in range(40):
            await bench.pass_time(30, 30)
        assert sorted(bench.queue.sent) == sorted({*ids} - {ids[5]})
        assert all(subjects(server).count(name) <= 2 for name in NAMES)
        assert ids[5] in {**bench.queue.waiting, **bench.queue.failed}


async def test_a_server_found_out_of_step_gets_one_body_at_a_time_for_good(caplog: pytest.LogCaptureFixture) -> None:
    """What it is said to have taken on that connection is doubted, and it is trusted with no window any more."""
    caplog.set_level(logging.INFO, "mailrelayd")
    twice = "250 2.1.5 one\r\n250 2.1.5 two"
    async with relaying(Script({"RCPT": ["250 ok", twice, "250 ok"]}, extensions=CHUNKED)) as (bench, server):
        ids = bench.put(*NAMES)
        bench.begin()
        await bench.quiet()
        for _ in range(30):
            await bench.pass_time(30, 30)
        assert sorted(bench.queue.sent) == ids
        (line,) = said(caplog, "route.narrow")
        assert line["seconds"] is None
        assert all(not text.startswith("BDAT") for text in server.conversations[1].lines[5:])


async def test_a_server_that_has_had_enough_commands_took_no_more_than_it_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Exim ends a connection like this behind ten refused messages: the next one goes on, as wide as before."""
    caplog.set_level(logging.INFO, "mailrelayd")
    enough = last_words(b"554 Too many nonmail commands\r\n")
    script = Script({"RSET": ["250 ok", "250 ok", "250 ok", enough, "250 ok"]}, extensions=CHUNKED)
    async with relaying(script) as (bench, server):
        ids = bench.put(*NAMES)
        bench.begin()
        await until(lambda: len(bench.queue.sent) == 20)
        assert bench.queue.sent == ids
        assert subjects(server) == NAMES
        assert len(server.conversations) == 2
        assert not said(caplog, "queue.trouble")
        assert not said(caplog, "route.narrow")


async def test_a_server_that_passes_the_canary_and_obeys_the_text_of_mail_is_found_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At the first refused message: then it gets no chunks any more, and what it may have taken besides is named."""
    caplog.set_level(logging.INFO, "mailrelayd")

    class Treacherous(Conversation):
        async def _bdat(self) -> None:
            tried = len([line for line in self.lines if line.startswith("BDAT")])
            if tried > 2 and not self.accepted:
                await self.say("503 5.5.1 no recipients")
            else:
                await super()._bdat()

    script = Script({"RCPT": ["250 ok", "550 5.1.1 no", "250 ok"]}, extensions=CHUNKED)
    async with relaying(script, kind=Treacherous) as (bench, server):
        ids = bench.put(*NAMES)
        bench.begin()
        await until(lambda: len(bench.queue.sent) == 19)
        assert list(bench.queue.failed) == [ids[1]]
        twice = [ids[NAMES.index(name)] for name, times in Counter(subjects(server)).items() if times > 1]
        assert set(twice) <= {line["queue_id"] for line in said(caplog, "queue.trouble")}
        assert twice
        assert [line["seconds"] for line in said(caplog, "route.narrow")] == [None]
        assert all(not text.startswith("BDAT") for text in server.conversations[1].lines[5:])


# -- strict order ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extensions", [PIPELINED, LOCK_STEP], ids=["pipelined", "lock-step"])
@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA", "BODY"])
async def test_with_strict_order_nothing_overtakes_a_deferred_message(verb: str, extensions: tuple[str, ...]) -> None:
    """A deferral ends the connection before another body; all wait until the first one's turn, then go in order."""
    answers: list[str | Fault] = [_default(verb), "451 4.3.0 later", _default(verb)]
    terms = Terms("relay.test", OWN, strict_order=True)
    async with relaying(Script({verb: answers}, extensions=extensions), terms=terms) as (bench, server):
        ids = bench.put(*NAMES[:5])
        bench.begin()
        await bench.quiet()
        assert bench.queue.sent == ids[:1]
        await bench.pass_time(25)
        assert bench.queue.sent == ids[:1]
        bench.clock.advance(5)
        await until(lambda: len(bench.queue.sent) == 5)
        assert bench.queue.sent == ids
        finished = subjects(server)
        assert finished == ([NAMES[0], NAMES[1], *NAMES[1:5]] if verb == "BODY" else NAMES[:5])


async def test_with_strict_order_a_message_of_many_transactions_is_finished_first() -> None:
    """The next message waits until the last of the recipients was asked for."""
    terms = Terms("relay.test", OWN, strict_order=True, max_recipients=2)
    async with relaying(Script(), terms=terms) as (bench, server):
        bench.put("first", to=("a@x", "b@x", "c@x", "d@x", "e@x"))
        bench.put("second")
        bench.begin()
        await until(lambda: len(bench.queue.sent) == 2)
        assert subjects(server) == ["first", "first", "first", "second"]


# -- stop, cancel, bugs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extensions", [PIPELINED, LOCK_STEP, CHUNKED], ids=["pipelined", "lock-step", "window"])
@pytest.mark.parametrize("backlog", [1, 2, 8])
async def test_stop_during_a_transaction_waits_for_its_answer_and_begins_no_other(
    backlog: int, extensions: tuple[str, ...]
) -> None:
    """The 250 that was waited for is written down, the rest is as if it had not been touched."""
    answer = asyncio.Event()

    async def slow(conversation: Conversation) -> None:
        await answer.wait()
        await conversation.say("250 ok")

    async with relaying(Script({"BODY": [slow]}, extensions=extensions)) as (bench, server):
        ids = bench.put(*NAMES[:backlog])
        bench.begin()
        await until(lambda: server.bodies)
        await bench.quiet()
        bench.stop.set()
        bench.queue.wake()
        await bench.quiet()
        assert not bench.tasks[0].done()
        answer.set()
        await bench.end()
        begun = bench.window  # they were on their way together
        assert bench.queue.sent == ids[:begun]
        assert len(server.bodies) == len(ids[:begun])
        assert sorted(bench.queue.waiting) == ids[begun:]
        assert all(item.message.progress.recipients == {} for item in bench.queue.waiting.values())


async def test_stop_between_two_messages_ends_at_once() -> None:
    """An idle connection, or a wait for work, does not keep the daemon from ending."""
    async with relaying(Script()) as (bench, _):
        bench.put("x")
        bench.begin()
        await until(lambda: bench.queue.sent)
        await bench.end()


class BrokenQueue(Shelf):
    """Has a bug in one of its calls."""

    async def complete(self, completions: Sequence[tuple[QueuedMessage, Progress]]) -> None:
        raise ZeroDivisionError("a bug")


async def test_a_bug_in_settling_ends_the_loop_with_its_exception() -> None:
    """Nothing is swallowed: the daemon ends with the traceback, and what was claimed ahead is given back."""
    async with relaying(Script()) as (bench, _):
        bench.queue = BrokenQueue(bench.clock)
        bench.employ()
        bench.put("a", "b", "c")
        bench.begin()
        with pytest.raises(ZeroDivisionError):
            await bench.tasks[0]
        assert len(bench.queue.flying) == 1, "only the one whose fate on disk nobody knows"
        assert len(bench.queue.waiting) == 2


async def test_a_bug_in_handing_over_ends_the_loop_with_its_exception() -> None:
    """The same on the other side of the connection, and the answers that were due are still settled."""
    async with relaying(Script()) as (bench, _):
        ids = bench.put("a", "b", "c")
        bench.queue.waiting[ids[1]].source.error = ZeroDivisionError("a bug")  # type: ignore[assignment]
        bench.begin()
        with pytest.raises(ZeroDivisionError):
            await bench.tasks[0]
        assert bench.queue.sent == ids[:1]
        assert sorted(bench.queue.waiting) == ids[1:]
        assert not bench.queue.flying


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [FileNotFoundError(2, "No such file or directory"), PermissionError(13, "denied"), OSError("odd")]
)
@pytest.mark.parametrize("where", ["open", "read"])
async def test_a_file_that_cannot_be_read_steps_aside(where: str, error: OSError) -> None:
    """It is tried again in a minute and counts no attempt; the others are sent at once on the same connection."""
    async with relaying(Script()) as (bench, server):
        ids = bench.put(*NAMES[:3])
        item = bench.queue.waiting[ids[1]]
        if where == "open":
            item.error = error
        else:
            item.source.error = error
        bench.begin()
        await until(lambda: len(bench.queue.sent) == 2)
        await until(lambda: ids[1] in bench.queue.waiting)
        assert bench.status(ids[1]) == {}
        item.error = item.source.error = None
        await bench.over()
        assert bench.queue.sent == [ids[0], ids[2], ids[1]]
        assert bench.attempts <= 2
        assert bench.route.held is None
        assert server.bodies


async def test_an_unreadable_file_fails_alone() -> None:
    """What is no message ends under failed/ with the reason; it does not cost the connection."""
    async with relaying(Script()) as (bench, _):
        ids = bench.put(*NAMES[:3])
        bench.queue.waiting[ids[1]].source.data = b"\xff\xfe nonsense"
        bench.begin()
        await until(lambda: len(bench.queue.sent) == 2)
        assert bench.queue.failed[ids[1]].reason == "unreadable"
        assert bench.attempts == 1


@pytest.mark.parametrize("data", [text("x"), b""], ids=["appended", "truncated"])
async def test_a_file_that_changes_while_it_is_sent_is_never_sent_torn(data: bytes) -> None:
    """Noticed before the last byte, three times: failed. No one else is held up, the route least of all."""
    async with relaying(Script()) as (bench, server):
        ids = bench.put(*NAMES[:3])
        bench.queue.waiting[ids[0]].source.same = False
        bench.queue.waiting[ids[0]].source.data = data
        bench.begin()
        await until(lambda: len(bench.queue.sent) == 2)
        assert bench.route.held is None
        assert bench.queue.waiting[ids[0]].message.progress.changed == 1
        await bench.over()
        assert bench.queue.failed[ids[0]].reason == "changed"
        assert subjects(server) == NAMES[1:3]


async def test_a_file_written_to_now_and_then_is_never_sent_between_two_writes() -> None:
    """Found changed once, it has to be still for `settle`; its producer keeps on writing, so it fails in the end."""
    async with relaying(Script()) as (bench, server):
        ids = bench.put(*NAMES[:2])
        restless = bench.queue.waiting[ids[0]].source
        restless.same = False
        bench.begin()
        await until(lambda: bench.queue.sent == ids[1:])
        restless.same, restless.changed_at = True, float("inf")
        await bench.over()
        assert bench.queue.failed[ids[0]].reason == "changed"
        assert subjects(server) == NAMES[1:2]


async def test_a_file_that_came_to_rest_is_sent() -> None:
    """It was changed after the claim, and then no more: what stands there now is the message."""
    async with relaying(Script()) as (bench, _):
        ids = bench.put(*NAMES[:2])
        slow = bench.queue.waiting[ids[0]].source
        slow.same = False
        bench.begin()
        await until(lambda: bench.queue.sent == ids[1:])
        slow.same = True
        await bench.over()
        assert bench.queue.sent == [ids[1], ids[0]]


async def test_what_the_server_does_not_take_fails_alone_and_costs_no_connection() -> None:
    """8-bit text without 8BITMIME and a message over SIZE fail at once; the ones around them are sent."""
    async with relaying(Script(extensions=("PIPELINING", "SIZE 1000"))) as (bench, server):
        ids = bench.put(*NAMES[:4])
        bench.queue.waiting[ids[1]].source.data = text("x", "grüße\r\n")
        bench.queue.waiting[ids[2]].source.data = text("x", "long\r\n" * 1000)
        bench.begin()
        await until(lambda: len(bench.queue.sent) == 2 and len(bench.queue.failed) == 2)
        assert [bench.queue.failed[i].reason for i in ids[1:3]] == ["unsupported"] * 2
        assert subjects(server) == [NAMES[0], NAMES[3]]
        assert bench.attempts == 1


async def test_a_connection_lost_while_a_message_is_settled_aside_leaves_it_settled() -> None:
    """A slow disk and a lost connection at the same moment: the message that never left ends where it belongs."""
    lose = asyncio.Event()

    async def vanish(conversation: Conversation) -> None:
        await lose.wait()
        await conversation.close()

    script = Script({"BODY": [vanish, "250 ok"]}, extensions=("PIPELINING",))
    async with relaying(script) as (bench, server):
        ids = bench.put(*NAMES[:2])
        bench.queue.waiting[ids[1]].source.data = text("x", "grüße\r\n")
        bench.queue.ready.clear()
        bench.begin()
        await until(lambda: server.bodies)
        await bench.quiet()
        lose.set()
        await bench.quiet()
        bench.queue.ready.set()
        await until(lambda: ids[1] in bench.queue.failed and ids[0] in bench.queue.waiting)
        await bench.over()
        assert bench.queue.sent == ids[:1]


async def test_the_next_one_in_line_to_be_settled_aside_is_not_kept_by_a_connection_that_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The end of a connection takes its turn between two of many that never leave: the second is claimed just then."""
    lose = asyncio.Event()

    async def vanish(conversation: Conversation) -> None:
        await lose.wait()
        await conversation.close()

    async def takes_a_while(queue: MemoryQueue) -> None:
        await queue.ready.wait()
        await asyncio.sleep(0.001)

    monkeypatch.setattr(MemoryQueue, "_disk", takes_a_while)
    script = Script({"BODY": [vanish, "250 ok"]}, extensions=("PIPELINING",))
    async with relaying(script) as (bench, server):
        ids = bench.put(*(f"n{number:02}" for number in range(50)))
        for queue_id in ids[1:]:
            bench.queue.waiting[queue_id].source.data = text("x", "grüße\r\n")
        bench.queue.ready.clear()
        bench.begin()
        await until(lambda: server.bodies)
        await bench.quiet()
        lose.set()
        await bench.quiet()
        bench.queue.ready.set()
        await until(lambda: len(bench.queue.failed) == len(ids) - 1)
        await bench.over()
        assert bench.queue.sent == ids[:1]


@dataclass
class Failing(Bytes):
    """Can be read so many times, then the disk is broken."""

    reads: int = 1_000_000

    def read(self, offset: int, size: int) -> bytes:
        self.reads -= 1
        if self.reads < 0:
            raise OSError(5, "Input/output error")
        return super().read(offset, size)


LARGE = text("large", "".join(f".line {number} {'x' * 60}\r\n" for number in range(9000)))


async def test_a_large_message_arrives_as_it_was() -> None:
    """What is streamed in pieces is the same as what is sent in one, dots and all."""
    async with relaying(Script()) as (bench, server):
        queue_id = bench.queue.put(LARGE, ("boss@example.org",), OWN)
        bench.begin()
        await until(lambda: bench.queue.sent == [queue_id])
        assert server.bodies[0].replace(b"\r\n..", b"\r\n.").endswith(LARGE.partition(b"\r\n\r\n")[2])


async def test_a_disk_that_breaks_in_the_middle_of_a_body_is_not_the_routes_fault() -> None:
    """The message is deferred, the connection dropped before the last byte, and the next ones go out at once."""
    async with relaying(Script()) as (bench, server):
        ids = bench.put(*NAMES[:4])
        for queue_id in ids[:3]:
            bench.queue.waiting[queue_id].source = Failing(LARGE, reads=12)
        bench.begin()
        await until(lambda: bench.queue.sent == ids[3:])
        await bench.quiet()
        assert bench.route.held is None
        assert bench.status(ids[0]) == {"boss@example.org": "deferred"}
        assert sorted(bench.queue.waiting) == ids[:3]
        assert subjects(server) == [NAMES[3]]


# -- the guard -------------------------------------------------------------------------------------------------------


def guarded(**settings: Any) -> Terms:
    """Terms with this [guard]."""
    return Terms("relay.test", OWN, guard=Guard(**settings))


def arrived(server: Server) -> list[Message]:
    """What came to the last byte, as its receivers read it."""
    return [email.message_from_bytes(body) for body in server.bodies]


async def test_a_dry_run_asks_no_smarthost_and_keeps_everything(caplog: pytest.LogCaptureFixture) -> None:
    """Every message ends as suppressed, one line per recipient; an operator's retry is judged anew."""
    caplog.set_level(logging.INFO, "mailrelayd")
    async with relaying(Script(), terms=guarded(dry_run=True), connections=2) as (bench, _):
        ids = bench.put(*NAMES, to=("a@x.test", "b@x.test"))
        bench.begin()
        await bench.over()
        assert sorted(bench.queue.failed) == ids
        assert {item.reason for item in bench.queue.failed.values()} == {"suppressed"}
        lines = said(caplog, "message.suppressed")
        assert [(line["queue_id"], line["to"], line["reason"]) for line in lines[:2]] == [
            (ids[0], "<a@x.test>", "dry-run"),
            (ids[0], "<b@x.test>", "dry-run"),
        ]
        assert len(lines) == 40
        await bench.queue.change(Verb.RETRY, ids[:1])
        await bench.over()
        assert bench.queue.failed[ids[0]].reason == "suppressed"
        assert bench.attempts == 0
        assert said(caplog, "message.failed") == []


async def test_turning_a_dry_run_off_releases_nothing() -> None:
    """What was suppressed stays in failed/ until a person retries it."""
    async with relaying(Script(), terms=guarded(dry_run=True)) as (bench, _):
        ids = bench.put(*NAMES[:3])
        bench.begin()
        await bench.over()
        await bench.end()
        bench.tasks.clear()
        bench.stop = asyncio.Event()
        bench.terms = Terms("relay.test", OWN)
        bench.employ()
        bench.begin()
        new = bench.put("new")
        await bench.over()
        assert bench.queue.sent == new
        await bench.queue.change(Verb.RETRY, ids)
        await bench.over()
        assert sorted(bench.queue.sent) == sorted(ids + new)


async def test_who_is_left_out_is_on_disk_before_anybody_is_sent_to() -> None:
    """The others are sent to at once on the same connection; the message is kept, as not everybody got it."""
    async with relaying(Script(), terms=guarded(allow=("@ok.test",), deny=("b@ok.test",))) as (bench, server):
        (queue_id,) = bench.put("x", to=("a@ok.test", "b@ok.test", "c@customer.test"))
        (other,) = bench.put("y", to=("a@ok.test",))
        bench.begin()
        await bench.over()
        assert [line for line in server.lines if line.startswith("RCPT")] == ["RCPT TO:<a@ok.test>"] * 2
        assert bench.status(queue_id) == {"a@ok.test": "sent", "b@ok.test": "failed", "c@customer.test": "failed"}
        verbs = [verb for verb, name in bench.queue.history if name == queue_id and verb != "claim"]
        assert verbs == ["defer", "fail"]
        assert bench.queue.failed[queue_id].reason == "suppressed"
        assert bench.queue.sent == [other]
        assert bench.attempts == 1
        past = [(line.event, line.text) for line in bench.queue.failed[queue_id].message.progress.history]
        assert [event for event, _ in past] == ["suppressed", "suppressed", "sent"]
        assert past[0][1].startswith("b@ok.test: ")


async def test_mail_queued_before_the_setting_is_judged_as_well() -> None:
    """A deferred recipient is left out at its next turn, whatever it waited for."""
    async with relaying(Script({"RCPT": ["450 later", "250 ok"]})) as (bench, server):
        (queue_id,) = bench.put("x", to=("boss@customer.test",))
        bench.begin()
        await bench.quiet()
        await bench.end()
        bench.tasks.clear()
        bench.stop = asyncio.Event()
        bench.terms = guarded(deny=("@customer.test",))
        bench.employ()
        bench.begin()
        await bench.over()
        assert bench.queue.failed[queue_id].reason == "suppressed"
        record = bench.queue.failed[queue_id].message.progress.recipients["boss@customer.test"]
        assert (record.attempts, record.response.stage) == (1, Stage.LOCAL)
        assert subjects(server) == []


async def test_with_strict_order_the_suppressed_hold_up_nobody() -> None:
    """To be left out is no deferral: the message is finished at once, and the next one follows in order."""
    terms = Terms("relay.test", OWN, strict_order=True, guard=Guard(deny=("bad@x.test",)))
    async with relaying(Script(), terms=terms) as (bench, server):
        bench.put("first", to=("bad@x.test", "good@x.test"))
        bench.put("second")
        bench.begin()
        await until(lambda: len(server.bodies) == 2)
        assert subjects(server) == ["first", "second"]
        assert bench.clock.boot == 1000.0


async def test_a_redirection_sends_one_copy_that_names_the_real_recipients(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody but the one address is asked for; what is remembered and logged is about the real ones, and honest."""
    caplog.set_level(logging.INFO, "mailrelayd")
    async with relaying(Script(), terms=guarded(redirect_to="test@x.test")) as (bench, server):
        (queue_id,) = bench.put("x", to=("boss@customer.test", "grüße@customer.test"))
        bench.begin()
        await bench.over()
        assert [line for line in server.lines if line.startswith("RCPT")] == ["RCPT TO:<test@x.test>"]
        (message,) = arrived(server)
        assert message["X-Original-Recipients"].split() == ["boss@customer.test,", r"gr\xfc\xdfe@customer.test"]
        assert message["Message-ID"] == f"<{queue_id}@relay.test>"
        assert server.bodies[0].startswith(b"Received: ")
        lines = said(caplog, "message.sent")
        assert [line["to"] for line in lines] == ["<boss@customer.test>", "<grüße@customer.test>"]
        assert all(line["response"].endswith("(redirected to <test@x.test>)") for line in lines)


async def test_a_redirected_message_of_thousands_is_one_copy_with_a_bounded_header() -> None:
    """[spool] max_recipients counts who is asked for, which is one."""
    async with relaying(Script(), terms=guarded(redirect_to="test@x.test")) as (bench, server):
        bench.put("x", to=tuple(f"r{number}@customer.test" for number in range(5000)))
        bench.begin()
        await bench.over()
        (message,) = arrived(server)
        assert message["X-Original-Recipients"].endswith("(and 4900 more)")
        assert max(len(line) for line in server.bodies[0].splitlines()) < 200


@pytest.mark.parametrize(
    ("answer", "status"), [("450 4.2.0 later", "deferred"), ("550 5.1.1 no such user", "failed"), (hang_up, "deferred")]
)
async def test_what_is_said_of_the_stand_in_is_meant_for_all(answer: str | Fault, status: str) -> None:
    """One answer decides for everybody, and a retry redirects again."""
    script = Script({"RCPT": [answer, "250 ok"]}, extensions=LOCK_STEP)
    async with relaying(script, terms=guarded(redirect_to="test@x.test")) as (bench, server):
        (queue_id,) = bench.put("x", to=("a@customer.test", "b@customer.test"))
        bench.begin()
        await bench.quiet()
        assert set(bench.status(queue_id).values()) == {status}
        if status == "deferred":
            await bench.over()
            assert bench.queue.sent == [queue_id]
            assert len(arrived(server)) == 1
        assert all("customer" not in line for line in server.lines)


async def test_a_stand_in_that_the_server_cannot_be_asked_for_fails_the_real_recipients() -> None:
    """redirect_to is not ASCII, and the server has no SMTPUTF8: said once for all, by its key."""
    terms = guarded(redirect_to="grüße@x.test")
    async with relaying(Script(extensions=("8BITMIME",)), terms=terms) as (bench, _):
        (queue_id,) = bench.put("x", to=("a@customer.test", "b@customer.test"))
        bench.begin()
        await until(lambda: bench.queue.failed)
        records = bench.queue.failed[queue_id].message.progress.recipients
        assert {record.reason for record in records.values()} == {"unsupported"}
        assert all("[guard] redirect_to" in record.response.text for record in records.values())


# -- the brake -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("connections", [1, 4])
@pytest.mark.parametrize("extensions", [PIPELINED, LOCK_STEP, CHUNKED], ids=["pipelined", "lock-step", "window"])
async def test_no_stretch_of_time_sees_more_than_the_rate(
    extensions: tuple[str, ...], connections: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Three a minute, however many connections: waited for without a claim and without a connection; said once."""
    caplog.set_level(logging.INFO, "mailrelayd")
    terms = Terms("relay.test", OWN, rate=Rate(3, 60.0))
    async with relaying(Script(extensions=extensions), terms=terms, connections=connections) as (bench, server):
        seen: list[float] = []
        bench.put(*(f"n{number:02}" for number in range(60)))
        bench.begin()
        for _ in range(40):
            await bench.quiet()
            seen += [bench.clock.boot] * (len(server.bodies) - len(seen))
            assert not bench.queue.flying, "nothing is claimed while the rate is used up"
            await bench.pass_time(7.5, 7.5)
            await bench.quiet()
            seen += [bench.clock.boot] * (len(server.bodies) - len(seen))
        assert all(later - first >= 60.0 for first, later in zip(seen, seen[3:], strict=False))
        assert len(seen) == 18, "and no fewer: three at once, and three more in each of five minutes"
        assert len(said(caplog, "guard.waiting")) == 1
        assert said(caplog, "guard.waiting")[0]["rate"] == "3/min"
        assert count(server, "QUIT") >= 4, "an idle connection is not kept for a minute"


async def test_a_short_wait_for_the_rate_keeps_the_connection() -> None:
    """One a second: the next message goes out on the connection that is there."""
    terms = Terms("relay.test", OWN, rate=Rate(1, 1.0))
    async with relaying(Script(), terms=terms) as (bench, server):
        bench.put(*NAMES[:5])
        bench.begin()
        await bench.over()
        for number in range(1, 5):
            assert len(bench.queue.sent) >= number
            await bench.pass_time(1, 1)
        await until(lambda: len(bench.queue.sent) == 5)
        assert len(server.conversations) == 1


async def test_stop_ends_a_wait_for_the_rate_at_once() -> None:
    """Both with and without a connection."""
    for seconds in (1.0, 3600.0):
        terms = Terms("relay.test", OWN, rate=Rate(1, seconds))
        async with relaying(Script(), terms=terms) as (bench, _):
            ids = bench.put("a", "b")
            bench.begin()
            await until(lambda: bench.queue.sent)
            await bench.quiet()
            await bench.end()
            assert sorted(bench.queue.waiting) == ids[1:]


async def test_a_second_time_of_waiting_is_said_again(caplog: pytest.LogCaptureFixture) -> None:
    """Once everything that waited is out, the next flood is news."""
    caplog.set_level(logging.INFO, "mailrelayd")
    terms = Terms("relay.test", OWN, rate=Rate(2, 60.0))
    async with relaying(Script(), terms=terms) as (bench, _):
        bench.begin()
        for turn in (1, 2):
            bench.put(*NAMES[:6])
            await bench.over()
            await bench.pass_time(60)
            assert len(said(caplog, "guard.waiting")) == turn


async def test_a_reload_does_not_let_more_through() -> None:
    """The relay of the new configuration goes on counting where the one before stood."""
    terms = Terms("relay.test", OWN, rate=Rate(1, 3600.0))
    async with relaying(Script(), terms=terms) as (bench, server):
        bench.put("a", "b")
        bench.begin()
        await until(lambda: bench.queue.sent)
        await bench.end()
        before = bench.relay
        bench.tasks.clear()
        bench.stop = asyncio.Event()
        bench.employ()
        bench.relay.inherit(before)
        bench.begin()
        await bench.pass_time(3540, 60)
        assert len(server.bodies) == 1
        await bench.pass_time(120, 60)
        assert len(server.bodies) == 2


async def test_a_connection_that_was_lost_before_any_answer_costs_no_slot() -> None:
    """What the smarthost never saw was not handed over."""
    terms = Terms("relay.test", OWN, rate=Rate(1, 3600.0))
    async with relaying(Script({"RSET": [hang_up, "250 ok"]}), terms=terms) as (bench, _):
        ids = bench.put("a")
        bench.begin()
        await bench.pass_time(60)
        assert bench.queue.sent == ids


# -- what is remembered ----------------------------------------------------------------------------------------------


async def test_a_messages_life_is_remembered_and_repetitions_are_counted() -> None:
    """What was said to whom, once however often; trouble of the route is not part of it."""
    rcpt: list[str | Fault] = ["450 4.2.0 later", "550 5.1.1 no", *["450 4.2.0 later"] * 3, "550 5.1.1 no"]
    greeting: list[str | Fault] = ["220 hi", "421 4.3.2 not now", "220 hi"]
    async with relaying(Script({"RCPT": rcpt, "GREETING": greeting}, extensions=LOCK_STEP)) as (bench, _):
        (queue_id,) = bench.put("x", to=("a@x.test", "b@x.test"))
        bench.begin()
        await bench.over()
        history = bench.queue.failed[queue_id].message.progress.history
        assert [(past.event, past.text, past.times) for past in history] == [
            ("deferred", "a@x.test: 450 4.2.0 later", 1),
            ("failed", "b@x.test: 550 5.1.1 no", 1),
            ("deferred", "a@x.test: 450 4.2.0 later", 3),
            ("failed", "a@x.test: 550 5.1.1 no", 1),
        ]


async def test_taking_a_message_up_and_its_end_are_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Active at its first try only, removed when it leaves the queue: what Postfix's log readers count."""
    caplog.set_level(logging.DEBUG, "mailrelayd")
    monkeypatch.setattr(log, "_logger", log._filtering_logger(logging.DEBUG))
    async with relaying(Script({"RCPT": ["450 later", "250 ok"]}, extensions=LOCK_STEP)) as (bench, _):
        (queue_id,) = bench.put("x")
        bench.begin()
        await bench.over()
        (active,) = said(caplog, "message.active")
        (removed,) = said(caplog, "message.removed")
        assert (active["queue_id"], active["nrcpt"], active["size"]) == (queue_id, 1, len(text("x")))
        assert removed["queue_id"] == queue_id
        events = [r.msg["event"] for r in caplog.records if isinstance(r.msg, dict)]
        assert events.index("message.sent") < events.index("message.removed")


# -- the whole, with a real spool and a witness ----------------------------------------------------------------------


class Silent:
    """A spool's report that nobody reads."""

    def trouble(self, doing: str, error: OSError) -> None:
        raise AssertionError(f"{doing}: {error}")

    def unreadable(self, queue_id: str, reason: str) -> None:
        raise AssertionError(f"{queue_id}: {reason}")


def fill(directory: Path, messages: int, seed: int) -> Path:
    """A spool with so many messages for one to three recipients; its directory."""
    chance = random.Random(seed)
    ids = queueid.Sequence("relay.test", last=0)
    spool = directory / "spool"
    (spool / "queue").mkdir(parents=True)
    for number in range(messages):
        recipients = [f"r{number}-{n}@example.org" for n in range(chance.randrange(1, 4))]
        message = compose(f"t{number}", recipients, chance, size=chance.choice([50, 400, 3000]))
        append_line(directory / "dropped.jsonl", message.as_dropped())
        (spool / "queue" / f"{ids.take(1_795_000_000.0)[0]}.eml").write_bytes(message.data)
    return spool


EAGER = Terms("relay.test", policy=Policy(schedule=(0.02,), expire=1e9, settle=0.02))


@asynccontextmanager
async def spooling(
    spool: Path, port: int, connections: int = 1
) -> AsyncIterator[tuple[Spool, Callable[[asyncio.Event], Awaitable[None]]]]:
    """A real spool, and its relay's loops as one call that ends with `stop`. Nobody waits for real."""
    clock = SystemClock()
    account = Account(port, command_timeout=0.25, data_timeout=0.25)

    async def connect() -> Session:
        return await smtp.connect(account, hello="relay.test")

    there = Spool(spool, node="relay.test", clock=clock, report=Silent())
    try:
        await there.open_up()
        queue: Queue = there
        relay = Relay(queue, Route("spooling", connect, probe=0.02, clock=clock), EAGER, clock)

        async def run(stop: asyncio.Event) -> None:
            async with asyncio.TaskGroup() as tasks:
                for number in range(connections):
                    tasks.create_task(relay.run(number, stop, lambda within: None))

        yield there, run
    finally:
        there.close()


async def emptied(spool: Spool, run: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run until nothing waits."""
    stop = asyncio.Event()
    running = asyncio.ensure_future(run(stop))
    end = time.monotonic() + 40
    while spool.figures().waiting and not running.done():
        assert time.monotonic() < end, spool.figures()
        await asyncio.sleep(0.01)
    stop.set()
    spool.wake()
    await running


def clean(directory: Path, spool: Path, connections: int = 1) -> Verdict:
    verdict = judge(directory, spool, connections=connections)
    assert verdict.ok, str(verdict)
    assert verdict.drained, str(verdict)
    return verdict


@pytest.mark.parametrize("connections", [1, 4])
@pytest.mark.parametrize("extensions", [PIPELINED, LOCK_STEP, CHUNKED], ids=["pipelined", "lock-step", "window"])
async def test_after_any_chaos_with_an_honest_end_the_verdict_is_clean(
    tmp_path: Path, connections: int, extensions: tuple[str, ...]
) -> None:
    """Two hundred messages, faults at every stage, then an honest server: nobody lost, nothing doubled or torn."""
    spool = fill(tmp_path, 200, seed=connections)
    terms = ServerTerms(extensions=[name for name in extensions if name[:4] != "SIZE"], patience=0.4, drip=0.001)
    async with (
        Recorder(tmp_path, chaos=0.06, seed=7, terms=terms, sync=False) as server,
        spooling(spool, server.port, connections) as (there, run),
    ):
        stop = asyncio.Event()
        running = asyncio.ensure_future(run(stop))
        journal = tmp_path / "journal.jsonl"
        end = time.monotonic() + 40
        while read_evidence(journal).faults.total() <= 20:
            assert time.monotonic() < end, "too few faults to speak of"
            await asyncio.sleep(0.1)
        server.script.chaos = 0
        stop.set()
        there.wake()
        await running
        await emptied(there, run)
    verdict = clean(tmp_path, spool, connections)
    assert verdict.faults > 20
    assert verdict.sent + verdict.failed == verdict.dropped


async def test_cancelled_anywhere_nothing_is_lost_or_doubled_without_cause(tmp_path: Path) -> None:
    """The whole task group dies at random moments, as by a bug elsewhere: what was being written is written, what
    was claimed is free again, and only a body whose answer was under way may be repeated."""
    spool = fill(tmp_path, 150, seed=3)
    chance = random.Random(5)
    async with Recorder(tmp_path, sync=False) as server:
        for _ in range(25):
            async with spooling(spool, server.port, 4) as (_, run):
                running = asyncio.ensure_future(run(asyncio.Event()))
                for _ in range(chance.randrange(5, 120)):
                    await asyncio.sleep(0)
                running.cancel()
                with suppress(asyncio.CancelledError):
                    await running
            append_line(tmp_path / "deaths.jsonl", Death(time.time(), -9, meant=True))
        async with spooling(spool, server.port) as (there, run):
            await emptied(there, run)
    verdict = clean(tmp_path, spool, connections=4)
    assert verdict.sent == verdict.dropped


async def test_an_outage_in_the_middle_is_only_a_pause(tmp_path: Path) -> None:
    """The server is gone and comes back: order is kept, everything arrives once."""
    spool = fill(tmp_path, 40, seed=9)
    async with Recorder(tmp_path, sync=False) as server, spooling(spool, server.port) as (there, run):
        stop = asyncio.Event()
        running = asyncio.ensure_future(run(stop))
        await until(lambda: server.accepted > 10)
        await server.pause()
        await asyncio.sleep(0.1)
        await server.resume()
        await until(lambda: not there.figures().waiting)
        stop.set()
        there.wake()
        await running
    assert clean(tmp_path, spool).sent > 40


def test_route_trouble_has_words_for_people() -> None:
    """The exception that holds a route reads as stage and answer."""
    assert str(RouteTrouble(Response(Stage.AUTH, 535, "5.7.8", "no"))) == "auth: 535 5.7.8 no"


# -- the queue behind these tests ---------------------------------------------------------------------------------


class MemoryBench:
    """What the contract asks of a back end's tests, for the queue in memory."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.queue = MemoryQueue(self.clock)

    async def put(self, name: str = "a", *, not_before: float = 0.0) -> str:
        data = f"From: {OWN}\r\nTo: {name}@example.org\r\n\r\nHello.\r\n".encode()
        queue_id = self.queue.put(data, (f"{name}@example.org",))
        item = self.queue.waiting[queue_id]
        item.message = replace(item.message, progress=replace(item.message.progress, not_before=not_before))
        item.due = self.clock.boot + max(not_before - self.clock.wall, 0.0) if not_before else 0.0
        return queue_id

    def wake(self) -> None:
        self.queue.wake()

    def strict_order(self) -> None:
        self.queue.strict_order = True

    async def reopen(self) -> None:
        """All that is remembered is what stands on the disk that is not there."""
        self.queue.reopen()

    async def close(self) -> None:
        pass


class TestMemoryQueue(QueueContract):
    """The contract, in memory: what holds on this page holds for any queue."""

    @pytest.fixture
    def bench(self) -> MemoryBench:
        return MemoryBench()


class MemoryMachine(QueueMachine):
    """Random histories, in memory."""

    def make(self) -> MemoryBench:
        return MemoryBench()


TestMemoryHistories = MemoryMachine.TestCase
TestMemoryHistories.settings = settings(max_examples=15, stateful_step_count=30, deadline=None)
