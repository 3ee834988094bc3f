"""What the scenarios with tokens share: a configuration that logs in by OAuth, both ways, and what is seen of it."""

from __future__ import annotations

import email
import json
import os
import pwd
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any

from tests.scenarios.steps import message, message_ids
from tests.servers.certificates import Certificates
from tests.servers.daemon import Daemon, account
from tests.servers.mailbox import MailboxServer, User
from tests.servers.postfix import Postfix
from tests.servers.process import wait_until
from tests.servers.tokenserver import TokenServer

SECRET = "a-client-secret-of-the-tests"
BOSS = "boss@dest.test"
PEOPLE = """\
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
REQUEST = f"""\
From: ERP <erp@example.com>
To: {BOSS}
Subject: Order PO-42
Message-ID: <po42@erp.example.com>
X-Approval-Request: PO-42

A boat?
"""


@dataclass
class TokenSite:
    """One daemon's folders and accounts. The mailbox inherits how to log in, but for what `inbound` says."""

    spool: Path
    state: Path
    certificates: Certificates
    postfix: Postfix
    mailbox: MailboxServer
    server: TokenServer
    user: User
    start: Callable[[str], Daemon]
    oauth: dict[str, Any] = field(default_factory=dict)  # [outbound.smarthost.oauth]
    inbound: dict[str, Any] = field(default_factory=dict)  # further keys of [inbound.answers]
    inbound_oauth: dict[str, Any] = field(default_factory=dict)
    reads: bool = True  # whether there is a mailbox at all

    @property
    def text(self) -> str:
        """The configuration."""
        smarthost = {
            "host": "localhost",
            "port": self.postfix.port,
            "user": self.user.name,
            "from_address": "noreply@example.com",
            "connect_timeout": "5s",
        }
        tables: dict[str, dict[str, Any]] = {
            "node": {"name": "scenario"},
            "spool": {"directory": str(self.spool), "settle": "100ms"},
            "state": {"directory": str(self.state)},
            "retry": {"probe": "500ms", "message": ["300ms"]},
            "outbound.smarthost": smarthost,
            "outbound.smarthost.tls": {"ca_file": str(self.certificates.ca)},
            "outbound.smarthost.oauth": self.oauth,
        }
        if self.reads:
            tables |= {
                "inbound.answers": {
                    "host": "localhost",
                    "port": self.mailbox.tls_port,
                    "poll_interval": "1s",
                    **self.inbound,
                },
                "inbound.answers.tls": {"ca_file": str(self.certificates.ca)},
            }
            if self.inbound_oauth:
                tables["inbound.answers.oauth"] = self.inbound_oauth
        written = "".join(f"[{name}]\n{_lines(keys)}\n" for name, keys in tables.items())
        producer = pwd.getpwuid(os.getuid()).pw_name
        return written + (PEOPLE.format(producer=producer) if self.reads else "")

    def run(self) -> Daemon:
        """The daemon, ready."""
        return self.start(self.text).wait_ready()

    def microsoft(self, **more: Any) -> None:
        """Log in as an application of the local Entra, by its secret; the application may use the user's mailbox."""
        self.server.entra.register("app", secret=SECRET, mailbox=self.user.name)
        self.oauth = {
            "provider": "microsoft",
            "authority": self.server.url,
            "tenant_id": self.server.entra.tenant,
            "client_id": "app",
            "client_secret": f"text:{SECRET}",
            **more,
        }

    def drop(self, *numbers: int) -> None:
        """Hand messages in."""
        for number in numbers:
            self.hand_in(f"{number}.eml", message(number))

    def hand_in(self, name: str, data: bytes) -> None:
        """One file, by rename."""
        (self.spool / "pickup" / f".{name}").write_bytes(data)
        (self.spool / "pickup" / f".{name}").rename(self.spool / "pickup" / name)

    def arrived(self, daemon: Daemon, *numbers: int) -> None:
        """Return once these messages, and nothing else, have arrived, each once and in order."""
        wait_until(lambda: len(self.postfix.accepted()) >= len(numbers), 30, daemon.log)
        assert self.postfix.accepted() == message_ids(numbers)
        wait_until(lambda: not self.waiting(), 10, daemon.log)
        assert list((self.spool / "failed").iterdir()) == []

    def waiting(self) -> list[str]:
        """The names in queue/."""
        return sorted(entry.name for entry in (self.spool / "queue").iterdir())

    def held(self, daemon: Daemon, *said: str, count: int) -> str:
        """Return the reason once the route is held for it; `count` messages wait, none failed, and status says it."""
        down = daemon.wait_for_event("route.down")
        for words in said:
            assert words.casefold() in down["response"].casefold(), down
        assert down["level"] == "warning"
        wait_until(lambda: len(self.waiting()) >= count, 10, daemon.log)
        assert [name for name in self.waiting() if not name.endswith(".eml")] == []
        assert list((self.spool / "failed").iterdir()) == []
        assert daemon.events("message.failed") == []
        status = daemon.command("status").stdout.decode()
        assert "held" in status
        self.says_no_secret(daemon, status)
        return str(down["response"])

    def says_no_secret(self, daemon: Daemon, *texts: str) -> None:
        """No token and no secret stands in the log, or in these texts."""
        issued = self.server.issued
        hidden = {SECRET, *issued.access, *issued.refresh}
        for text in (daemon.log(), *texts):
            assert [one for one in hidden if one in text] == []

    def token_file(self) -> Path:
        """Where the token stands that both accounts share."""
        return self.state / "oauth" / "outbound.smarthost.json"

    def refresh_token(self) -> str:
        """The refresh token on disk."""
        return str(json.loads(self.token_file().read_text())["token"]["refresh_token"])

    def secret_file(self, name: str, secret: str) -> Path:
        """A secret for the daemon's user and nobody else."""
        path = self.state / name
        path.touch(mode=0o600)
        path.write_text(secret)
        return account().own(path)

    # -- the whole loop --

    def ask(self) -> Message:
        """A request for the boss; the copy that arrived."""
        self.hand_in("po.eml", REQUEST.encode())
        return email.message_from_bytes(self.postfix.wait_for_messages(BOSS)[0])

    def answer(self, copy: Message, word: str) -> None:
        """The boss's answer is filed in the mailbox."""
        data = (
            "Authentication-Results: mx.dest.test; dmarc=pass header.from=dest.test\r\n"
            "Received: from client by mx.dest.test with ESMTPS; Sat, 21 Nov 2026 09:00:00 +0000\r\n"
            f"From: {BOSS}\r\nTo: {copy['Reply-To']}\r\nSubject: Re: order\r\n"
            f"Message-ID: <boss@dest.test>\r\n\r\n{word}\r\n"
        )
        self.mailbox.append(self.user, data.encode())

    def decision(self, daemon: Daemon) -> str:
        """What was decided, once it was; the mail is gone from the mailbox then."""
        new = self.state / "decisions" / "erp" / "new"
        wait_until(lambda: len(list(new.glob("*.json"))) == 1, 30, daemon.log)
        (path,) = new.glob("*.json")
        return str(json.loads(path.read_bytes())["data"]["decision"])


def _lines(keys: dict[str, Any]) -> str:
    """Keys as TOML, whose strings, numbers and lists are JSON's."""
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in keys.items())


def url_in(text: str) -> str:
    """The first address in a text."""
    match = re.search(r"https?://\S+", text)
    assert match, text
    return match[0]
