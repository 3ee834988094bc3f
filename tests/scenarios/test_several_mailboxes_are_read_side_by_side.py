"""Answers come to several mailboxes: one that is held, or whose server is away, does not stop the others."""

from __future__ import annotations

import email
import json
import os
import pwd
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from tests.servers.certificates import Certificates
from tests.servers.daemon import Daemon, StartDaemon
from tests.servers.mailbox import IMAP_PROGRAM, MailboxServer, User
from tests.servers.process import short_directory, wait_until
from tests.servers.recording import Recording

pytestmark = pytest.mark.real

CONFIG = """\
[spool]
directory = "{spool}"
settle = "100ms"
[state]
directory = "{state}"
[outbound.test]
host = "127.0.0.1"
port = {smtp}
security = "none"
from_address = "relay@dest.test"
[inbound_defaults]
poll_interval = "1s"
[inbound.first]
host = "localhost"
port = {ports[0]}
user = "{users[0].name}"
password = "text:{users[0].password}"
[inbound.first.tls]
ca_file = "{ca}"
[inbound.second]
host = "localhost"
port = {ports[1]}
user = "{users[1].name}"
password = "text:{users[1].password}"
adopt = "refuse"
[inbound.second.tls]
ca_file = "{ca}"
[approvals]
reply_address = "approvals@dest.test"
secret = "text:a secret of the tests, more than thirty-two bytes long"
sender_check = "authentication-results"
authserv_id = ["mx.dest.test"]
[[decisions]]
name = "erp"
match = "PO-*"
producers = ["{producer}"]
approvers = ["*@dest.test"]
"""


@dataclass
class Site:
    """A daemon with two mailboxes on two servers, and the copies of one request for two people."""

    daemon: Daemon
    config: str
    state: Path
    servers: list[MailboxServer]
    users: list[User]
    copies: list[Message]

    def answer(self, person: int, mailbox: int, word: str = "Approved") -> None:
        """Have somebody's answer arrive in one of the mailboxes."""
        copy = self.copies[person]
        data = (
            "Authentication-Results: mx.dest.test; dmarc=pass header.from=dest.test\r\n"
            "Received: from client by mx.dest.test with ESMTPS; Sat, 21 Nov 2026 09:00:00 +0000\r\n"
            f"From: p{person}@dest.test\r\nTo: {copy['Reply-To']}\r\nSubject: Re: order\r\n"
            f"Message-ID: <{person}@dest.test>\r\n\r\n{word}\r\n"
        )
        self.servers[mailbox].append(self.users[mailbox], data.encode())

    def decided(self, count: int) -> list[dict[str, Any]]:
        """The decisions, once there are so many."""
        new = self.state / "decisions" / "erp" / "new"
        wait_until(lambda: len(list(new.glob("*.json"))) >= count, 30, self.daemon.log)
        return sorted((json.loads(path.read_bytes()) for path in new.glob("*.json")), key=lambda one: str(one["data"]))

    def left(self, mailbox: int, criterion: str = "ALL") -> int:
        """How many mails are in a mailbox."""
        with self.servers[mailbox].client(self.users[mailbox]) as client:
            client.select("INBOX", readonly=True)
            return len(client.search(None, criterion)[1][0].split())


@pytest.fixture
def site(
    certificates: Certificates,
    spool_dir: Path,
    state_dir: Path,
    daemon: StartDaemon,
    required: Callable[[str], None],
) -> Iterator[Site]:
    """The second mailbox holds five mails before anything here knows it."""
    required(IMAP_PROGRAM)
    with short_directory("mr-smtp") as smtp, short_directory("mr-a") as first, short_directory("mr-b") as second:
        servers = [MailboxServer(path, certificates) for path in (first, second)]
        recording = Recording(smtp)
        try:
            for server in servers:
                server.start()
            users = [server.add_user() for server in servers]
            servers[1].append(users[1], *[f"Subject: lunch {n}\r\n\r\nApproved\r\n".encode() for n in range(5)])
            config = CONFIG.format(
                spool=spool_dir,
                state=state_dir,
                smtp=recording.port,
                ports=[server.tls_port for server in servers],
                users=users,
                ca=certificates.ca,
                producer=pwd.getpwuid(os.getuid()).pw_name,
            )
            running = daemon(config).wait_ready()
            running.wait_for_event("mailbox.up", account="first")
            request = "From: erp@dest.test\nTo: p0@dest.test, p1@dest.test\nX-Approval-Request: PO-1\n\nBoats?\n"
            (spool_dir / "pickup" / ".po").write_text(request)
            (spool_dir / "pickup" / ".po").rename(spool_dir / "pickup" / "po.eml")
            wait_until(lambda: len(recording.arrivals()) == 2, 20, running.log)
            copies = [email.message_from_bytes(recording.arrivals(f"p{n}@dest.test")[0].data) for n in (0, 1)]
            yield Site(running, config, state_dir, servers, users, copies)
            running.stop()
        finally:
            recording.stop()
            for server in servers:
                server.stop()


@pytest.mark.timeout(120)
def test_a_mailbox_that_is_held_is_released_by_a_reload(site: Site) -> None:
    """It says what to do, the other one works; then its answers are read, and what was there before stays."""
    refused = site.daemon.wait_for_event("mailbox.refused", account="second")
    assert (refused["mails"], "new-only" in refused["hint"]) == (5, True)
    site.answer(1, mailbox=1)
    site.answer(0, mailbox=0)
    (decision,) = site.decided(1)
    assert decision["data"]["message"]["mailbox"] == "first/INBOX"
    wait_until(lambda: site.left(0) == 0, 20, site.daemon.log)
    assert site.left(1) == 6
    site.daemon.configure(site.config.replace('adopt = "refuse"', 'adopt = "new-only"'))
    reloaded = site.daemon.command("reload")
    assert reloaded.returncode == 0, reloaded.stderr
    second = site.decided(2)[1]
    assert (second["data"]["message"]["mailbox"], second["data"]["decision"]) == ("second/INBOX", "approved")
    wait_until(lambda: site.left(1) == 5, 20, site.daemon.log)
    assert (site.left(1, "UNSEEN"), site.left(1, "DELETED")) == (5, 0)
    assert len(site.daemon.events("mailbox.refused")) == 1


@pytest.mark.timeout(120)
def test_a_server_that_is_away_is_found_again(site: Site) -> None:
    """Its mailbox is down, said once; the answer that came meanwhile is read when it is back."""
    site.servers[0].stop()
    site.daemon.wait_for_event("mailbox.down", account="first")
    status = site.daemon.command("status", "--json")
    assert b"first" in status.stdout
    site.servers[0].start()
    site.answer(0, mailbox=0, word="Rejected")
    (decision,) = site.decided(1)
    assert decision["data"]["decision"] == "rejected"
    up = site.daemon.wait_for_events("mailbox.up", 2, account="first")[-1]
    assert up["outage"] > 0
    wait_until(lambda: site.left(0) == 0, 20, site.daemon.log)


@pytest.mark.timeout(120)
def test_how_often_and_how_much_is_read_changes_without_a_restart(site: Site) -> None:
    """poll_interval and batch_size count from the reload on; the process stays, and the log says what changed."""
    pid = site.daemon.pid
    seldom = site.config.replace('poll_interval = "1s"', 'poll_interval = "1h"\nidle = false')
    site.daemon.configure(seldom)
    assert site.daemon.command("reload").returncode == 0
    site.daemon.wait_for_events("mailbox.up", 2, account="first")
    site.daemon.configure(seldom.replace('"1h"', '"1s"\nbatch_size = 1'))
    reloaded = site.daemon.command("reload")
    assert reloaded.returncode == 0
    assert b"poll_interval" in reloaded.stdout
    changed = site.daemon.events("config.loaded")[-1]["changed"]
    assert {"inbound.first.batch_size", "inbound.first.poll_interval"} <= set(changed)
    for person in (0, 1):
        site.answer(person, mailbox=0)
        site.decided(person + 1)  # the second one is no poll of a start any more
    assert site.daemon.pid == pid
