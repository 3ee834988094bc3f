"""What the scenarios of `mailrelayd test` share: a configuration for one mailbox, and a way to press the button."""

from __future__ import annotations

import json
import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.scenarios.delivering import Delivering, Mailboxes
from tests.servers.certificates import Certificates
from tests.servers.daemon import Daemon, StartDaemon
from tests.servers.mailbox import User

CONFIG = """\
[node]
name = "relay1"
[spool]
directory = "{spool}"
settle = "100ms"
[state]
directory = "{state}"
[outbound.smarthost]
host = "localhost"
port = {smtp}
user = "relay"
password = "text:{password}"
from_address = "{sender}"
test_to = "ops@dest.test"
[outbound.smarthost.tls]
ca_file = "{ca}"
[inbound.approvals]
host = "{host}"
port = {imap}
user = "{user}"
password = "text:correct horse"
folder = "{folder}"
adopt = "all"
unmatched = "delete"
poll_interval = "1s"
[inbound.approvals.tls]
ca_file = "{ca}"
server_name = "localhost"
[approvals]
reply_address = "{reply_to}@dest.test"
secret = "text:a secret of the tests, more than thirty-two bytes long"
receipts = "all"
{approvals}
[[decisions]]
name = "erp"
match = "PO-*"
producers = ["{producer}"]
approvers = ["*@example.com"]
"""
UNSET = "enabled = false"
RESULTS = 'sender_check = "authentication-results"\nauthserv_id = ["{}"]'

Step = dict[str, Any]


@dataclass
class Button:
    """A smarthost, a mailbox server, and the way to try them."""

    smtp: Delivering
    imap: Mailboxes
    certificates: Certificates
    start: StartDaemon
    directory: Path

    def configuration(self, user: User, approvals: str = UNSET, **values: str) -> str:
        """For the mailbox of this user; `values` as the placeholders of CONFIG."""
        given = {
            "spool": f"{self.directory}/spool",
            "state": f"{self.directory}/state",
            "smtp": self.smtp.port,
            "imap": self.imap.tls_port,
            "ca": self.certificates.ca,
            "user": user.name,
            "reply_to": user.name.partition("@")[0],
            "host": "localhost",
            "folder": "INBOX",
            "sender": "noreply@example.com",
            "password": "correct horse",
            "producer": pwd.getpwuid(os.getuid()).pw_name,
            "approvals": approvals,
        }
        return CONFIG.format(**{**given, **values})

    def run(self, configuration: str, *arguments: str) -> tuple[int, list[Step]]:
        """`mailrelayd test --json` with a configuration that no daemon runs with: exit status and steps."""
        return tried(self.start(configuration, start=False), *arguments)


def tried(daemon: Daemon, *arguments: str) -> tuple[int, list[Step]]:
    """The same with the configuration of this daemon, which may run."""
    result = daemon.command("test", "--json", *arguments, seconds=30)
    assert result.stdout, result.stderr.decode()
    document = json.loads(result.stdout)
    assert document["status"] == result.returncode
    return result.returncode, document["steps"]


def step(steps: list[Step], name: str, account: str = "") -> Step:
    """The one step of this name."""
    (found,) = [one for one in steps if one["name"] == name and (not account or one["account"] == account)]
    return found
