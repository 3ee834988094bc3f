"""A request goes out through Postfix, people answer from real mailboxes, and decisions come back."""

from __future__ import annotations

import json
import os
import pwd
import re
import smtplib
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.steps import PASSWORD, USER, Site, site_for
from tests.servers.certificates import Certificates
from tests.servers.daemon import Daemon, StartDaemon, account
from tests.servers.mailbox import MailboxServer
from tests.servers.mailbox import User as MailUser
from tests.servers.postfix import Postfix
from tests.servers.process import wait_until

pytestmark = pytest.mark.real

SECRET = "a secret of the tests, more than thirty-two bytes long"
BOSS, CFO = "boss@dest.test", "cfo@dest.test"
REQUEST = f"""From: ERP <erp@example.com>
To: {BOSS}, {CFO}
Subject: Order PO-42: one boat
Message-ID: <po42@erp.example.com>
Date: Sat, 21 Nov 2026 08:00:00 +0000
X-Approval-Request: PO-42
Content-Type: text/plain; charset=utf-8

Please answer with Approved or Rejected.

One boat, three oars: 4,200 EUR.

Kind regards
The ERP
"""


@dataclass
class Loop:
    """Everything between the producer and the system that waits for the decision."""

    site: Site
    postfix: Postfix
    mailbox: MailboxServer
    user: MailUser
    certificates: Certificates
    daemon: Daemon

    def copy_for(self, recipient: str) -> Message:
        """What arrived for somebody, as Postfix delivered it."""
        (stored,) = self.postfix.wait_for_messages(recipient)
        return message_from_bytes(stored)

    def answer(self, text: str, copy: Message, *, sender: str, authentic: bool = True, number: int = 1) -> bytes:
        """Answer as Thunderbird does, by Postfix to the reply address; then into the mailbox as our MX files it."""
        to = copy["Reply-To"]
        count = len(self.postfix.messages(to)) + 1
        text_sent = copy.get_payload()
        assert isinstance(text_sent, str)
        quoted = "".join(f"> {line}\n" for line in text_sent.splitlines())
        mail = (
            f"From: Somebody <{sender}>\nTo: {to}\nSubject: Re: {copy['Subject']}\n"
            f"Message-ID: <answer{number}@dest.test>\nDate: Sat, 21 Nov 2026 09:00:00 +0000\n"
            f"In-Reply-To: {copy['Message-ID']}\nReferences: {copy['References']} {copy['Message-ID']}\n"
            "Content-Type: text/plain; charset=utf-8\nUser-Agent: Mozilla Thunderbird\n\n"
            f"{text}\nOn 21.11.2026 09:00, ERP wrote:\n{quoted}"
        )
        with smtplib.SMTP("localhost", self.postfix.port, timeout=20) as client:
            client.starttls(context=ssl.create_default_context(cafile=str(self.certificates.ca)))
            client.login(USER, PASSWORD)
            client.sendmail("noreply@example.com", [to], mail.encode())
        stored = self.postfix.wait_for_messages(to, count)[-1]
        said = f"dmarc={'pass' if authentic else 'fail'} header.from={sender.rpartition('@')[2]}"
        # Whose hostname Postfix gives itself in its Received line.
        found = re.search(rb"\n\tby (\S+) \(Postfix\)", stored)
        assert found is not None, stored[:500]
        filed = b"Authentication-Results: %s; %s\r\n" % (found[1], said.encode()) + stored.replace(b"\n", b"\r\n")
        self.mailbox.append(self.user, filed)
        return filed

    def left(self) -> int:
        """How many mails are in the mailbox."""
        with self.mailbox.client(self.user) as client:
            _, (count,) = client.select("INBOX", readonly=True)
            return int(count or b"0")

    def decisions(self, count: int) -> list[dict[str, Any]]:
        """The documents in the sink's folder, once there are so many; by time of arrival."""
        folder = self.site.state / "decisions" / "erp" / "new"
        wait_until(lambda: len(list(folder.glob("*.json"))) >= count, 20, self.daemon.log)
        files = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        return [json.loads(path.read_bytes()) for path in files]


@pytest.fixture
def loop(
    postfix: Postfix,
    mailbox: MailboxServer,
    certificates: Certificates,
    spool_dir: Path,
    state_dir: Path,
    daemon: StartDaemon,
) -> Iterator[Loop]:
    """A daemon with approvals, its smarthost, its mailbox."""
    postfix.clear()
    site = site_for(postfix, certificates, spool_dir, state_dir)
    user = mailbox.add_user()
    owner = pwd.getpwuid(os.getuid()).pw_name
    site.more = {
        "inbound.answers": [
            'host = "localhost"',
            f"port = {mailbox.tls_port}",
            f'user = "{user.name}"',
            f'password = "text:{user.password}"',
            'poll_interval = "2s"',
        ],
        "inbound.answers.tls": [f'ca_file = "{certificates.ca}"'],
        "approvals": [
            'reply_address = "approvals@dest.test"',
            f'secret = "text:{SECRET}"',
            'sender_check = "authentication-results"',
            'authserv_id = ["smarthost.test"]',
        ],
        "[decisions]": [
            'name = "erp"',
            'match = "PO-*"',
            f'producers = ["{owner}"]',
            'approvers = ["*@dest.test"]',
        ],
    }
    account()
    running = daemon(site.text).wait_ready()
    try:
        yield Loop(site, postfix, mailbox, user, certificates, running)
    finally:
        running.stop()


@pytest.mark.timeout(120)
def test_an_answer_becomes_a_decision_and_the_mail_is_gone(loop: Loop) -> None:
    """Each approver gets a copy of their own; one approves, one rejects; archived, told, removed."""
    loop.site.drop("po42.eml", REQUEST.encode())
    copies = {who: loop.copy_for(who) for who in (BOSS, CFO)}
    assert copies[BOSS]["Reply-To"] != copies[CFO]["Reply-To"]
    for who, copy in copies.items():
        assert re.fullmatch(r"approvals\+[a-z2-7]{44}@dest\.test", copy["Reply-To"]), copy["Reply-To"]
        assert copy["Auto-Submitted"] == "auto-generated"
        assert copy["X-Approval-Request"] is None
        other = copies[CFO if who == BOSS else BOSS]["Reply-To"].partition("+")[2].partition("@")[0]
        assert other not in copy.as_string()
    filed = loop.answer("Approved\n\nlooks good to me\n", copies[BOSS], sender=BOSS)
    (approved,) = loop.decisions(1)
    assert (approved["type"], approved["subject"]) == ("org.mailrelayd.decision.approved", "PO-42")
    assert approved["data"]["comment"] == "looks good to me"
    assert approved["data"]["decided_by"]["address"] == BOSS
    assert approved["data"]["authentication"]["dmarc"] == "pass"
    loop.answer("Rejected\n\ntoo many oars\n", copies[CFO], sender=CFO, number=2)
    assert [one["data"]["decision"] for one in loop.decisions(2)] == ["approved", "rejected"]
    wait_until(lambda: loop.left() == 0, 20, loop.daemon.log)
    archived = loop.site.state / "archive" / approved["data"]["message"]["archive"]
    assert (archived / "message.eml").read_bytes() == filed
    assert json.loads((archived / "decision.json").read_bytes()) == approved


@pytest.mark.timeout(120)
def test_what_is_no_decision_of_an_entitled_person_becomes_none(loop: Loop) -> None:
    """The wrong sender, a forged one, an out-of-office note; people's own mail in the folder is not touched."""
    loop.site.drop("po42.eml", REQUEST.encode())
    copy = loop.copy_for(BOSS)
    loop.mailbox.append(
        loop.user, b"From: a@dest.test\r\nTo: approvals@dest.test\r\nSubject: lunch?\r\n\r\nApproved\r\n"
    )
    loop.answer("Approved\n", copy, sender=BOSS, authentic=False)
    loop.answer("Approved\n", copy, sender=CFO, number=2)
    told = [(one["data"]["decision"], one["data"]["reason"]) for one in loop.decisions(2)]
    assert sorted(told) == [("untrusted", "sender-not-authenticated"), ("untrusted", "wrong-person")]
    wait_until(lambda: loop.left() == 1, 20, loop.daemon.log)


@pytest.mark.timeout(120)
def test_only_entitled_producers_may_ask_and_only_about_known_people(loop: Loop) -> None:
    """Otherwise any program here could have its own request approved."""
    loop.site.drop("stranger.eml", REQUEST.replace(CFO, "mallory@elsewhere.test").encode())
    loop.site.drop("other.eml", REQUEST.replace("PO-42", "QU-42").encode())
    for sentence in ("'mallory@elsewhere.test' may not be asked", "no [[decisions]] matches the request 'QU-42'"):
        wait_until(lambda wanted=sentence: wanted in loop.daemon.log(), 20, loop.daemon.log)  # type: ignore[misc]
    assert len([name for name in loop.site.failed() if name.endswith(".eml")]) == 2
    assert loop.postfix.messages(BOSS) == []


def lines(daemon: Daemon, *arguments: str) -> list[dict[str, Any]]:
    """What a command prints with --json."""
    done = daemon.command(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.timeout(120)
def test_operators_see_requests_and_decisions_and_can_cancel(loop: Loop) -> None:
    """With the daemon running, and stopped where nothing has to be told to a sink."""
    loop.site.drop("po42.eml", REQUEST.encode())
    copy = loop.copy_for(BOSS)
    loop.copy_for(CFO)
    loop.answer("Approved\n", copy, sender=BOSS)
    loop.decisions(1)
    running = loop.daemon
    (request,) = lines(running, "approvals")
    assert (request["request_id"], request["state"], request["sinks"]) == ("PO-42", "open", ["erp"])
    assert [(one["address"], one["outcome"]) for one in request["approvers"]] == [(BOSS, "approved"), (CFO, None)]
    assert all(one["sent_at"] for one in request["approvers"])
    (decision,) = lines(running, "decisions")
    assert (decision["decision"], decision["by"], decision["waiting_for"]) == ("approved", BOSS, [])
    shown = running.command("decisions", "show", decision["id"])
    assert json.loads(shown.stdout) == loop.decisions(1)[0]
    assert running.command("decisions", "replay", decision["id"]).returncode == 0
    (mailbox,) = lines(running, "status")[0]["inbound"]
    assert (mailbox["account"], mailbox["state"], mailbox["read"]) == ("answers", "up", 1)
    assert running.command("approvals", "cancel", "PO-42").stdout == b"PO-42 is cancelled\n"
    assert running.command("approvals", "cancel", "PO-42").returncode == os.EX_DATAERR
    assert running.command("approvals", "cancel", "PO-43").returncode == os.EX_DATAERR
    told = sorted((one["data"]["decision"], one["data"]["decided_by"]["address"]) for one in loop.decisions(2))
    assert told == [("approved", BOSS), ("cancelled", CFO)]
    assert running.stop() == 0
    assert lines(running, "approvals") == []
    (request,) = lines(running, "approvals", "list", "--all")
    assert request["state"] == "cancelled"
    assert {one["decision"] for one in lines(running, "decisions")} == {"approved", "cancelled"}
    assert running.command("decisions", "show", decision["id"]).stdout == shown.stdout
    assert running.command("decisions", "show", "../../etc/passwd").returncode == os.EX_DATAERR
    assert running.command("approvals", "cancel", "PO-42").returncode == os.EX_UNAVAILABLE


@pytest.mark.timeout(120)
def test_a_request_that_cannot_be_sent_is_undeliverable(loop: Loop) -> None:
    """So that nobody waits for an answer that cannot come."""
    loop.site.drop("po42.eml", REQUEST.replace(CFO, "refused@dest.test").encode())
    (told,) = loop.decisions(1)
    assert (told["data"]["decision"], told["data"]["decided_by"]["address"]) == ("undeliverable", "refused@dest.test")
    assert told["data"]["message"] is None
    loop.answer("Approved\n", loop.copy_for(BOSS), sender=BOSS)
    assert {one["data"]["decision"] for one in loop.decisions(2)} == {"undeliverable", "approved"}
