"""With `[retry] dsn = true` a refused recipient's sender finds a report in the mailbox, through a real smarthost."""

from __future__ import annotations

import email
import email.policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from tests.scenarios.steps import SENDER, Site, message, site_for, wait_until_drained
from tests.servers.certificates import Certificates
from tests.servers.daemon import Daemon, StartDaemon
from tests.servers.postfix import Postfix, as_sent
from tests.servers.process import wait_until

PRODUCER = "producer@example.com"


def begin(
    postfix: Postfix, certificates: Certificates, spool: Path, state: Path, daemon: StartDaemon, dsn: bool
) -> Any:
    site = site_for(postfix, certificates, spool, state)
    site.more["retry"] = [f"dsn = {str(dsn).lower()}"]
    return site, daemon(site.text).wait_ready()


def report_in(postfix: Postfix) -> EmailMessage:
    """The one report that arrived at the producer, from the null sender."""
    (stored,) = postfix.wait_for_messages(PRODUCER)
    assert b"Return-Path: <>" in stored.splitlines()
    parsed = email.message_from_bytes(as_sent(stored), policy=email.policy.default)
    assert isinstance(parsed, EmailMessage)
    assert parsed.defects == []
    return parsed


def finish(site: Site, running: Daemon) -> None:
    wait_until_drained(site, running)
    assert running.stop() == 0, running.log()[-5000:]


def test_a_refused_recipient_is_reported_and_the_others_get_their_mail(
    postfix: Postfix, certificates: Certificates, spool_dir: Path, state_dir: Path, daemon: StartDaemon
) -> None:
    """The report goes to the author, though the envelope said from_address; it names who, why, and which message."""
    site, running = begin(postfix, certificates, spool_dir, state_dir, daemon, dsn=True)
    site.drop("order.eml", message(1, to="refused@dest.test, good@dest.test"))
    report = report_in(postfix)
    assert len(postfix.wait_for_messages("good@dest.test")) == 1
    people, programs, original = report.iter_parts()
    failed = running.wait_for_event("message.failed")
    assert report["From"] == f"Mail Delivery System <{SENDER}>"
    assert report["Auto-Submitted"] == "auto-replied"
    assert report["In-Reply-To"] == "<1@producer.test>"
    assert "No such mailbox" in people.get_content()
    assert failed["queue_id"] in people.get_content()
    fields: Any = programs.get_payload()
    about, recipient = fields
    assert about["Reporting-MTA"] == "dns; scenario"
    assert recipient["Final-Recipient"] == "rfc822; refused@dest.test"
    assert recipient["Status"] == "5.1.1"
    assert recipient["Remote-MTA"] == "dns; localhost"
    assert b"Subject: a subject" in original.get_payload(decode=True)
    (queued,) = running.events("message.queued", rule="dsn")
    assert queued["about"] == failed["queue_id"]
    finish(site, running)
    assert f"{failed['queue_id']}.eml" in site.failed()


def test_a_report_that_is_refused_itself_makes_no_other(
    postfix: Postfix, certificates: Certificates, spool_dir: Path, state_dir: Path, daemon: StartDaemon
) -> None:
    """It is kept in failed/ like any other message, and that is the end of it."""
    site, running = begin(postfix, certificates, spool_dir, state_dir, daemon, dsn=True)
    lost = message(1, to="refused@dest.test").replace(b"producer@example.com", b"refused-too@example.com")
    site.drop("order.eml", lost)
    running.wait_for_events("message.failed", 2)
    finish(site, running)
    assert len([name for name in site.failed() if name.endswith(".eml")]) == 2
    assert len(running.events("message.queued", rule="dsn")) == 1


def test_by_default_nobody_is_told(
    postfix: Postfix, certificates: Certificates, spool_dir: Path, state_dir: Path, daemon: StartDaemon
) -> None:
    """[retry] dsn is false: the message is kept and logged, and no mail is made of it."""
    site, running = begin(postfix, certificates, spool_dir, state_dir, daemon, dsn=False)
    site.drop("order.eml", message(1, to="refused@dest.test"))
    running.wait_for_event("message.failed")
    finish(site, running)
    assert postfix.messages(PRODUCER) == []
    assert running.events("message.queued", rule="dsn") == []


def test_what_an_operator_gives_up_is_reported_with_its_header(
    postfix: Postfix, certificates: Certificates, spool_dir: Path, state_dir: Path, daemon: StartDaemon
) -> None:
    """`queue fail` ends the waiting; the sender learns who decided, and what the server had said before."""
    site, running = begin(postfix, certificates, spool_dir, state_dir, daemon, dsn=True)
    site.drop("order.eml", message(1, to="deferred@dest.test"))
    queue_id = running.wait_for_event("message.deferred")["queue_id"]
    # It is tried again and again meanwhile, and nobody can give up what is being sent right now.
    wait_until(lambda: running.command("queue", "fail", queue_id).returncode == 0, 20, running.log)
    people, programs, original = report_in(postfix).iter_parts()
    assert "given up by an operator" in people.get_content()
    assert "450 4.2.1" in people.get_content()
    fields: Any = programs.get_payload()
    assert fields[1]["Final-Recipient"] == "rfc822; deferred@dest.test"
    assert b"Message-ID: <1@producer.test>" in original.get_payload(decode=True)
    finish(site, running)
    assert f"{queue_id}.eml" in site.failed()


def test_what_turns_out_to_be_the_smarthosts_fault_is_reported_to_nobody(
    postfix: Postfix, certificates: Certificates, spool_dir: Path, state_dir: Path, daemon: StartDaemon
) -> None:
    """A smarthost that refuses everybody by policy: two are failed, then all wait, and no wrong report goes out."""
    with postfix.configured(smtpd_recipient_restrictions="reject"):
        site, running = begin(postfix, certificates, spool_dir, state_dir, daemon, dsn=True)
        for number in range(3):
            site.drop(f"{number}.eml", message(number))
        running.wait_for_events("message.failed", 2)
        running.wait_for_event("route.down")
        running.wait_for_events("queue.changed", 2, verb="retry", by="route")
        wait_until(lambda: not site.failed(), 20, running.log)
        reports = [event["queue_id"] for event in running.events("message.queued", rule="dsn")]
        assert len(reports) == 2
        for queue_id in reports:
            running.wait_for_event("queue.changed", queue_id=queue_id, verb="delete", by="route")
    for number in range(3):
        assert len(postfix.wait_for_messages(f"to-{number}@dest.test")) == 1
    finish(site, running)
    assert postfix.messages(PRODUCER) == []
