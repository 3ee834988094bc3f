"""Reports to senders, from a refusal to the mail that leaves: real connections to servers that behave as each test
says."""

from __future__ import annotations

import email
import email.policy
import logging
from dataclasses import replace
from email.message import EmailMessage
from typing import Any

import pytest

from mailrelayd.outbound.delivery import Policy
from mailrelayd.outbound.guard import Guard
from mailrelayd.outbound.queue import Entry, Place
from mailrelayd.outbound.relay import Terms
from mailrelayd.outbound.values import Progress, QueuedMessage, RecipientRecord, Response, Stage, Status
from tests.relay_bench import LOCK_STEP, PIPELINED, Bench, Shelf, relaying, said, text, until
from tests.scripted_smtp import Conversation, Fault, Script, Server

ERP = "erp@example.com"
KEEP = Terms("relay.test")  # no from_address: what a sender says about itself blames nobody else


def reports(server: Server) -> list[EmailMessage]:
    """What came to the last byte and is a report."""
    parsed = [email.message_from_bytes(body, policy=email.policy.default) for body in server.bodies]
    return [one for one in parsed if isinstance(one, EmailMessage) and one.get_content_type() == "multipart/report"]


def groups(report: EmailMessage) -> list[Any]:
    """The fields about each recipient."""
    payload = list(report.iter_parts())[1].get_payload()
    assert isinstance(payload, list)
    return payload[1:]


def named(report: EmailMessage) -> list[str]:
    """The recipients that it is about."""
    return [group["Final-Recipient"].removeprefix("rfc822; ") for group in groups(report)]


def refusing(**by_name: str) -> Script:
    """A server that answers RCPT for NAME@... with these words, and takes all others."""

    async def rcpt(conversation: Conversation) -> None:
        line = conversation.lines[-1] if conversation.lines[-1].startswith("RCPT") else conversation.lines[-2]
        name = line.partition("<")[2].partition("@")[0]
        await conversation.say(by_name.get(name, "250 ok"))

    return Script({"RCPT": [rcpt]}, extensions=LOCK_STEP)


@pytest.mark.parametrize("extensions", [PIPELINED, LOCK_STEP], ids=["pipelined", "lock-step"])
async def test_a_rejected_recipient_is_reported_to_the_sender(
    extensions: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """From <> to who sent it, before the message itself is settled; and in the log as a message about another."""
    caplog.set_level(logging.INFO, "mailrelayd")
    rcpt: list[str | Fault] = ["250 ok", "550 5.1.1 no such user", "250 ok"]
    async with relaying(Script({"RCPT": rcpt}, extensions=extensions), dsn=True) as (bench, server):
        queue_id = bench.queue.put(text("x"), ("a@x.test", "b@x.test"), ERP)
        bench.begin()
        await bench.over()
        (report,) = reports(server)
        assert named(report) == ["b@x.test"]
        assert report["To"] == ERP
        assert report["In-Reply-To"] == f"<{queue_id}@relay.test>"
        assert "MAIL FROM:<>" in " ".join(server.lines)
        assert f"RCPT TO:<{ERP}>" in server.lines
        verbs = [verb for verb, _ in bench.queue.history]
        assert verbs.index("add") < verbs.index("fail")
        (line,) = [line for line in said(caplog, "message.queued") if line.get("about")]
        assert (line["about"], line["rule"], line["from"]) == (queue_id, "dsn", "<>")


async def test_nobody_is_told_unless_the_setting_says_so() -> None:
    """[retry] dsn is off by default: the message is kept, and that is all."""
    async with relaying(refusing(bad="550 5.1.1 no")) as (bench, server):
        bench.put("x", to=("bad@x.test",))
        bench.begin()
        await bench.over()
        assert server.bodies == []
        assert len(bench.queue.failed) == 1


async def test_each_failing_attempt_has_one_report_about_those_who_failed_in_it() -> None:
    """Two at once, one an attempt later: two reports, nobody named twice, nobody who is still owed."""
    rcpt: list[str | Fault] = [
        "550 5.1.1 no",
        "450 4.2.0 later",
        "550 5.1.1 no",
        "250 ok",  # the report
        "550 5.1.1 no after all",
        "250 ok",
    ]
    async with relaying(Script({"RCPT": rcpt}, extensions=LOCK_STEP), dsn=True) as (bench, server):
        bench.put("x", to=("a@x.test", "b@x.test", "c@x.test"), sender=ERP)
        bench.begin()
        await bench.over()
        first, second = reports(server)
        assert (named(first), named(second)) == (["a@x.test", "c@x.test"], ["b@x.test"])
        assert first["Message-ID"] != second["Message-ID"]


async def test_what_expired_is_reported_with_the_last_answer() -> None:
    """Status 4.4.7, and what kept it waiting."""
    terms = replace(KEEP, policy=Policy(expire=60.0))
    async with relaying(refusing(bad="450 4.2.2 mailbox full"), terms=terms, dsn=True) as (bench, server):
        bench.put("x", to=("bad@x.test",), sender=ERP)
        bench.begin()
        await bench.over()
        (report,) = reports(server)
        (group,) = groups(report)
        assert group["Status"] == "4.4.7"
        assert "450 4.2.2 mailbox full" in group["Diagnostic-Code"]


async def test_what_could_not_be_sent_from_here_is_reported_too() -> None:
    """A message that is no mail, and one that the server does not take."""
    async with relaying(Script(extensions=("SIZE 10000",)), terms=KEEP, dsn=True) as (bench, server):
        ids = [bench.queue.put(data, ("a@x.test",), ERP) for data in (b"\xff\xfe nonsense", text("x", "grüße"))]
        bench.begin()
        await bench.over()
        assert [bench.queue.failed[queue_id].reason for queue_id in ids] == ["unreadable", "unsupported"]
        assert [groups(report)[0]["Status"] for report in reports(server)] == ["5.6.0", "5.6.3"]


async def test_a_file_that_kept_changing_is_reported() -> None:
    """Its producer should know who it was."""
    async with relaying(Script(), terms=KEEP, dsn=True) as (bench, server):
        queue_id = bench.queue.put(text("x"), ("a@x.test",), ERP)
        bench.queue.waiting[queue_id].source.same = False
        bench.begin()
        await bench.over()
        (report,) = reports(server)
        assert named(report) == ["a@x.test"]


async def test_no_report_goes_to_the_null_sender_or_about_a_report() -> None:
    """RFC 3464 section 2: a refused report is kept, and that is the end of it."""
    async with relaying(refusing(bad="550 5.1.1 no", erp="550 5.1.1 gone"), terms=KEEP, dsn=True) as (bench, server):
        bench.put("x", to=("bad@x.test",), sender="")
        bench.put("y", to=("bad@x.test",), sender=ERP)
        bench.begin()
        await bench.over()
        assert server.bodies == []
        assert len(bench.queue.failed) == 3
        assert [verb for verb, _ in bench.queue.history].count("add") == 1


async def test_the_suppressed_are_not_reported_and_a_report_passes_the_guard_as_well() -> None:
    """On a staging machine no customer hears of it: neither as recipient nor as sender."""
    terms = replace(KEEP, guard=Guard(allow=("@x.test",)))
    async with relaying(refusing(bad="550 5.1.1 no"), terms=terms, dsn=True) as (bench, server):
        bench.put("x", to=("bad@x.test", "boss@customer.test"), sender=ERP)
        bench.begin()
        await bench.over()
        assert server.bodies == []
        (report,) = [item for item in bench.queue.failed.values() if item.message.rule == "dsn"]
        assert report.reason == "suppressed"
        assert b"customer.test" not in report.source.data.partition(b"message/delivery-status")[2].partition(b"--")[0]


async def test_with_a_redirection_the_report_goes_where_everything_goes() -> None:
    """And says who was really meant."""
    terms = replace(KEEP, guard=Guard(redirect_to="test@x.test"))
    rcpt: list[str | Fault] = ["550 5.2.2 full", "250 ok"]
    async with relaying(Script({"RCPT": rcpt}, extensions=LOCK_STEP), terms=terms, dsn=True) as (bench, server):
        bench.put("x", to=("boss@customer.test",), sender=ERP)
        bench.begin()
        await bench.over()
        (report,) = reports(server)
        assert named(report) == ["boss@customer.test"]
        assert report["X-Original-Recipients"] == ERP
        assert "redirected to <test@x.test>" in " ".join(groups(report)[0]["Diagnostic-Code"].split())
        assert not any("customer" in line or ERP in line for line in server.lines if line.startswith("RCPT"))


async def test_reports_on_refusals_that_are_taken_back_do_not_go_out() -> None:
    """The same 5.7.1 for three messages is the route's fault: the first two, failed and reported, are queued again,
    and their reports are gone before the route is up."""
    refused: list[str | Fault] = ["550 5.7.1 relaying denied"] * 4
    script = Script({"RCPT": [*refused, "250 ok"]}, extensions=LOCK_STEP)
    async with relaying(script, terms=KEEP, dsn=True) as (bench, server):
        ids = [bench.queue.put(text(name), ("a@x.test",), ERP) for name in ("a", "b", "c")]
        bench.begin()
        await bench.quiet()
        assert bench.route.held is not None
        assert [verb for verb, _ in bench.queue.history].count("add") == 2
        assert sorted(bench.queue.waiting) == ids
        await bench.over()
        assert sorted(bench.queue.sent) == ids
        assert reports(server) == []


async def test_a_true_report_on_a_message_whose_other_refusals_are_taken_back_goes_out() -> None:
    """One recipient is unknown for good; the others' refusals were the route's fault, and only theirs are withdrawn."""
    denied = "550 5.7.1 relaying denied"
    rcpt: list[str | Fault] = ["550 5.1.1 unknown", "450 4.2.0 later", denied, denied, denied, "250 ok"]
    terms = replace(KEEP, policy=Policy(schedule=(30.0,)))
    async with relaying(Script({"RCPT": rcpt}, extensions=LOCK_STEP), terms=terms, dsn=True) as (bench, server):
        first = bench.queue.put(text("a"), ("gone@x.test", "a@x.test"), ERP)
        bench.begin()
        await until(lambda: bench.queue.waiting and bench.status(first))
        await bench.quiet()
        bench.put("b", "c", to=("a@x.test",), sender=ERP)
        await bench.over()
        (report,) = reports(server)
        assert named(report) == ["gone@x.test"]
        assert bench.status(first) == {"gone@x.test": "failed", "a@x.test": "sent"}


async def test_a_report_that_was_refused_alike_counts_and_is_not_queued_again() -> None:
    """A relay that no longer knows us refuses one message, its report and the next message: the report is dropped."""
    refused: list[str | Fault] = ["550 5.7.1 relaying denied"] * 3
    async with relaying(Script({"RCPT": [*refused, "250 ok"]}, extensions=LOCK_STEP), terms=KEEP, dsn=True) as (
        bench,
        server,
    ):
        first = bench.queue.put(text("a"), ("a@x.test",), ERP)
        bench.begin()
        await until(lambda: len(bench.queue.failed) == 2)
        second = bench.queue.put(text("b"), ("a@x.test",), ERP)
        await bench.quiet()
        assert bench.route.held is not None
        await bench.over()
        assert sorted(bench.queue.sent) == [first, second]
        assert not bench.queue.failed
        assert reports(server) == []


async def test_a_server_that_refuses_the_null_sender_does_not_hold_the_route() -> None:
    """Many do, with 5.7.1: three reports refused in a row are three reports lost, and nobody else waits for them."""

    async def no_null(conversation: Conversation) -> None:
        line = next(line for line in reversed(conversation.lines) if line.startswith("MAIL"))
        await conversation.say("550 5.7.1 null sender refused" if "<>" in line else "250 ok")

    script = refusing(bad="550 5.1.1 no")
    script = replace(script, answers={**script.answers, "MAIL": [no_null]})
    async with relaying(script, terms=KEEP, dsn=True) as (bench, server):
        for _ in range(4):
            bench.put("x", to=("bad@x.test",), sender=ERP)
        bench.begin()
        await until(lambda: len(bench.queue.failed) == 8)
        assert bench.route.held is None
        bench.put("good")
        await until(lambda: bench.queue.sent)
        assert reports(server) == []


class Dying(Shelf):
    """The process ends where a failure should be settled."""

    dies = True

    async def fail(self, message: QueuedMessage, progress: Progress, reason: str) -> None:
        if self.dies:
            raise ZeroDivisionError("the daemon dies here")
        await super().fail(message, progress, reason)


async def test_a_crash_between_report_and_failure_repeats_the_report_under_the_same_name() -> None:
    """The report is queued first: what is repeated can be recognised, what is lost could not."""
    async with relaying(refusing(bad="550 5.1.1 no"), terms=KEEP, dsn=True) as (bench, server):
        bench.queue = dying = Dying(bench.clock)
        bench.employ()
        queue_id = dying.put(text("x"), ("bad@x.test",), ERP)
        bench.begin()
        with pytest.raises(ZeroDivisionError):
            await bench.tasks.pop()
        bench.queue.reopen()
        dying.dies = False
        bench.begin()
        await bench.over()
        assert sorted(bench.queue.failed) == [queue_id]
        assert len({report["Message-ID"] for report in reports(server)}) == 1
        assert len(reports(server)) == 2


# -- by hand ---------------------------------------------------------------------------------------------------------


def entry_of(bench: Bench, queue_id: str, **reasons: str) -> Entry:
    """A message in failed/ whose recipients failed for these reasons, by name."""
    item = bench.queue.waiting.pop(queue_id)
    answer = Response(Stage.RCPT, 450, "4.2.0", "later")
    records = {
        f"{name}@x.test": RecipientRecord(Status.FAILED, answer, 1, 1.0, reason=reason.replace("_", "-"))
        for name, reason in reasons.items()
    }
    item.message = replace(item.message, progress=Progress(1.0, records), revision=2)
    bench.queue.failed[queue_id] = item
    return Entry(Place.FAILED, item.message, reason="by-hand")


async def test_what_an_operator_gave_up_is_reported_on_request() -> None:
    """Only those whom the operator gave up: the others were told of in their time."""
    async with relaying(Script(), terms=KEEP, dsn=True) as (bench, server):
        queue_id = bench.queue.put(text("x"), ("a@x.test", "b@x.test"), ERP)
        await bench.postmaster.report_failure(entry_of(bench, queue_id, a="rejected", b="by_hand"))
        bench.begin()
        await bench.over()
        (report,) = reports(server)
        assert named(report) == ["b@x.test"]
        assert report["Subject"] == "Undelivered mail: x"


async def test_by_hand_the_same_exceptions_hold() -> None:
    """Not to the null sender, and not where the setting is off."""
    for dsn, sender in ((True, ""), (False, ERP)):
        async with relaying(Script(), terms=KEEP, dsn=dsn) as (bench, _):
            queue_id = bench.queue.put(text("x"), ("b@x.test",), sender)
            await bench.postmaster.report_failure(entry_of(bench, queue_id, b="by_hand"))
            assert not bench.queue.waiting


async def test_a_message_whose_file_is_gone_is_reported_all_the_same() -> None:
    """Without its header: the sender knows the queue id, the recipient and the reason."""
    async with relaying(Script(), terms=KEEP, dsn=True) as (bench, server):
        queue_id = bench.queue.put(text("x"), ("b@x.test",), ERP)
        entry = entry_of(bench, queue_id, b="by_hand")
        bench.queue.failed[queue_id].error = FileNotFoundError(2, "gone")
        await bench.postmaster.report_failure(entry)
        bench.begin()
        await bench.over()
        (report,) = reports(server)
        assert len(list(report.iter_parts())) == 2
