"""cron, git, mail, PHP and many others call sendmail their own way: each mail arrives, for whom and as it was meant."""

from __future__ import annotations

import email.message
import email.policy
import fcntl
import os
import pwd
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest

from tests.scenarios.steps import with_crlf
from tests.servers.daemon import Account, Daemon, account
from tests.servers.process import short_directory
from tests.servers.recording import Arrival, Recording

DOMAIN = "site.test"  # [submit] default_domain
OPS = "ops@site.test"  # [submit] local_recipient
CALLER = "daemon"  # an ordinary user who is in none of the daemon's groups

RECEIVED = re.compile(rb"Received: by scenario \(mailrelayd\) with local id [a-z2-7]+ \(uid (\d+)\);\r\n\t[^\r\n]+\r\n")
CRON = b"""\
From: root (Cron Daemon)
To: root
Subject: Cron <root@relay1> run-parts --report /etc/cron.daily
MIME-Version: 1.0
Content-Type: text/plain; charset=UTF-8
Content-Transfer-Encoding: 8bit
X-Cron-Env: <SHELL=/bin/sh>
X-Cron-Env: <HOME=/root>
X-Cron-Env: <LOGNAME=root>

"""
OUTPUT = "eins: Grüße\n.\n..\nFrom here on\n\n".encode()


@dataclass(frozen=True)
class Relay:
    """A running daemon, the smarthost behind it, and the program that other programs call."""

    daemon: Daemon
    smarthost: Recording
    home: Path  # of the caller
    sendmail: Path
    pickup: Path
    caller: Account

    def call(self, *command: str | Path, given: bytes = b"", environment: Mapping[str, str] | None = None) -> bytes:
        """Run a program as the caller; it must succeed without a word of complaint. What it printed."""
        done: subprocess.CompletedProcess[bytes] = subprocess.run(
            command,
            input=given,
            capture_output=True,
            cwd=self.home,
            env={**self.environment, **(environment or {})},
            timeout=60,
            check=False,
            **self.caller.switch,
        )
        assert (done.returncode, done.stderr) == (0, b""), done
        return done.stdout

    @property
    def environment(self) -> dict[str, str]:
        """What a caller has: nothing that tells where the daemon is."""
        return {"PATH": os.environ["PATH"], "HOME": str(self.home), "LANG": "C.UTF-8"}

    @property
    def own(self) -> str:
        """The caller's address."""
        return f"{pwd.getpwuid(self.caller.uid).pw_name}@{DOMAIN}"

    def arrived(self, recipient: str, count: int = 1) -> Arrival:
        """The last message for this recipient, once there are so many; without the daemon's Received line."""
        last = self.smarthost.wait_for(recipient, count)[-1]
        match = RECEIVED.match(last.data)
        assert match, last.data[:300]
        return Arrival(last.sender, last.recipients, last.data[match.end() :])

    def uid_of(self, recipient: str) -> int:
        """Who handed in the message for this recipient, as its Received line tells."""
        match = RECEIVED.match(self.smarthost.wait_for(recipient)[-1].data)
        assert match
        return int(match[1])


def ordinary() -> Account:
    """Whom the callers run as: never the daemon's own user where that can be had."""
    if account().uid == os.getuid():
        return account()
    entry = pwd.getpwnam(CALLER)
    return Account(entry.pw_uid, entry.pw_gid)


@pytest.fixture(scope="module")
def relay() -> Iterator[Relay]:
    """One for all callers: each uses recipients of its own, or looks at the newest for OPS."""
    with ExitStack() as ending:
        place = account().own(ending.enter_context(short_directory("mr-call")))
        caller = ordinary()
        smarthost = Recording(place / "smarthost")
        ending.callback(smarthost.stop)
        for folder in ("spool", "state", "home", "bin"):
            (place / folder).mkdir(mode=0o755)
        account().own(place / "spool")
        account().own(place / "state")
        os.chown(place / "home", caller.uid, caller.gid)
        daemon = Daemon(account().own(ending.enter_context(short_directory("mr-run"))), text(place, smarthost.port), {})
        ending.callback(lambda: daemon.running and daemon.kill9())
        sendmail = place / "bin" / "sendmail"
        program = shlex.join([sys.executable, "-m", "mailrelayd", "--config", str(daemon.configuration), "sendmail"])
        sendmail.write_text(f'#!/bin/sh\nexec {program} "$@"\n')
        sendmail.chmod(0o755)
        daemon.start().wait_ready()
        yield Relay(daemon, smarthost, place / "home", sendmail, place / "spool/pickup", caller)
        assert daemon.stop() == 0


def text(place: Path, port: int) -> str:
    """The daemon's configuration."""
    return f"""\
[node]
name = "scenario"
[spool]
directory = "{place / "spool"}"
settle = "300ms"
envelope = "pickup"
[state]
directory = "{place / "state"}"
[submit]
default_domain = "{DOMAIN}"
local_recipient = "{OPS}"
[outbound.smarthost]
host = "127.0.0.1"
port = {port}
security = "none"
allow_plaintext = true
from_address = "relay@{DOMAIN}"
rewrite_from = "never"
"""


def fields(arrival: Arrival, *but: bytes) -> list[bytes]:
    """The header's lines, without those that the relay had to add."""
    lines = re.split(rb"\r\n(?![ \t])", arrival.header.removesuffix(b"\r\n"))
    return [line for line in lines if not line.lower().startswith(but)]


ADDED = (b"message-id:", b"date:")


def test_cron(relay: Relay) -> None:
    """cron's own command line: output with lone dots and umlauts reaches who reads the mail of local users."""
    relay.call(relay.sendmail, "-FCronDaemon", "-i", "-B8BITMIME", "-oem", "root", given=CRON + OUTPUT)
    before = len(relay.smarthost.wait_for(OPS))
    arrival = relay.arrived(OPS, before)

    assert (arrival.sender, arrival.recipients) == (relay.own, (OPS,))
    assert arrival.body == with_crlf(OUTPUT)
    assert fields(arrival, *ADDED) == [
        line.replace(b"From: root (", b"From: root@site.test (").replace(b"To: root", b"To: root@site.test")
        for line in CRON.splitlines()[:-1]
    ]
    assert relay.uid_of(OPS) == relay.caller.uid


LOCAL = {
    "anacron": ("-FAnacron -odi root", b"From: Anacron <root>\nTo: root\nSubject: Anacron job 'cron.daily'\n\n"),
    "at": ("-i root", b"Subject: Output from your job       17\nTo: root\n\n"),
    "mdadm": ("-t", b"From: mdadm monitoring <root>\nTo: root\nSubject: DegradedArray event on /dev/md0:relay1\n\n"),
    "logwatch": (
        "-t",
        b"To: root\nFrom: Logwatch <root>\nSubject: Logwatch for relay1 (Linux)\nAuto-Submitted: auto-generated\n"
        b"Precedence: bulk\nMIME-Version: 1.0\nContent-Transfer-Encoding: 8bit\n"
        b'Content-Type: text/plain; charset="UTF-8"\n\n',
    ),
    "unattended-upgrades": (
        "-oi -t",
        b"Subject: unattended-upgrades result for relay1: SUCCESS\nTo: root\nFrom: root\n"
        b"Auto-Submitted: auto-generated\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\n",
    ),
    "smartd": ("-i -t", b"To: root\nSubject: SMART error (CurrentPendingSector) detected on host: relay1\n\n"),
    "sudo": ("-t", b"To: root\nFrom: www-data\nAuto-Submitted: auto-generated\nSubject: *** SECURITY ***\n\n"),
    "bare text": ("root", b""),
}


@pytest.mark.parametrize("who", LOCAL)
def test_callers_that_write_to_root(relay: Relay, who: str) -> None:
    """Each one's arguments and header: the mail goes to the person who reads root's mail, text and subject unharmed."""
    arguments, header = LOCAL[who]
    before = len(relay.smarthost.arrivals(OPS))
    body = f"this is {who}\nGrüße\nlast line\n".encode()
    relay.call(relay.sendmail, *arguments.split(), given=header + body)
    arrival = relay.arrived(OPS, before + 1)

    assert (arrival.sender, arrival.recipients) == (relay.own, (OPS,))
    assert arrival.body == with_crlf(body)
    names = (b"from:", b"to:", *ADDED)
    assert fields(arrival, *names) == [
        line for line in header.splitlines() if line and not line.lower().startswith(names)
    ]
    (sender,) = [line for line in fields(arrival) if line.lower().startswith(b"from:")]
    assert sender.removesuffix(b">").endswith(b"@site.test")


def test_fail2ban(relay: Relay) -> None:
    """A shell pipeline with -f, sender and recipient as arguments."""
    script = (
        'printf %b "Subject: [Fail2Ban] sshd: banned 192.0.2.9 from relay1\\n'
        "Date: Sat, 21 Nov 2026 08:00:00 +0000\\nFrom: Fail2Ban <fail2ban@site.test>\\nTo: admin@dest.test\\n\\n"
        'Hi,\\nThe IP 192.0.2.9 has just been banned.\\n" | "$0" -f "fail2ban@site.test" "admin@dest.test"'
    )
    relay.call("/bin/sh", "-c", script, relay.sendmail)
    arrival = relay.arrived("admin@dest.test")

    assert (arrival.sender, arrival.recipients) == ("fail2ban@site.test", ("admin@dest.test",))
    assert fields(arrival, b"message-id:") == [
        b"Subject: [Fail2Ban] sshd: banned 192.0.2.9 from relay1",
        b"Date: Sat, 21 Nov 2026 08:00:00 +0000",
        b"From: Fail2Ban <fail2ban@site.test>",
        b"To: admin@dest.test",
    ]
    assert arrival.body == b"Hi,\r\nThe IP 192.0.2.9 has just been banned.\r\n"


def test_php(relay: Relay, required: Callable[[str], None]) -> None:
    """PHP's mail(): -t -i from php.ini, -f from its fifth argument, a Bcc that nobody sees."""
    required("php")
    code = (
        "exit(mail('php@dest.test', 'Bestellung', \"Zeile 1\\n.\\nGrüße\\n\","
        ' "From: shop@site.test\\r\\nBcc: boss@dest.test\\r\\nContent-Type: text/plain; charset=utf-8",'
        " '-fbounces@site.test') ? 0 : 1);"
    )
    relay.call("php", "-d", f"sendmail_path={relay.sendmail} -t -i", "-r", code)
    arrival = relay.arrived("php@dest.test")

    assert (arrival.sender, arrival.recipients) == ("bounces@site.test", ("php@dest.test", "boss@dest.test"))
    assert arrival.body.rstrip(b"\r\n") == with_crlf("Zeile 1\n.\nGrüße\n".encode()).rstrip(b"\r\n")
    assert b"Subject: Bestellung" in fields(arrival) and b"From: shop@site.test" in fields(arrival)
    assert b"bcc" not in arrival.header.lower()


def test_git_send_email(relay: Relay, required: Callable[[str], None]) -> None:
    """git send-email with --smtp-server=PATH: a patch arrives as git format-patch wrote it, for To and Cc."""
    required("/usr/lib/git-core/git-send-email")
    required("/usr/share/perl5/Mail/Address.pm")
    who = {"GIT_AUTHOR_NAME": "Jürgen Dev", "GIT_AUTHOR_EMAIL": "dev@site.test", "GIT_CONFIG_NOSYSTEM": "1"}
    who |= {"GIT_COMMITTER_NAME": "Jürgen Dev", "GIT_COMMITTER_EMAIL": "dev@site.test"}
    relay.call("git", "init", "--quiet", "--initial-branch=main", "patches", environment=who)
    repository = relay.home / "patches"
    git = ("git", "-C", repository)
    relay.call(*git, "commit", "--quiet", "--allow-empty", "--message=Begin", environment=who)
    relay.call("/bin/sh", "-c", 'printf "Grüße\\n.\\n" >"$0"', repository / "text")
    relay.call(*git, "add", "text", environment=who)
    relay.call(*git, "commit", "--quiet", "--message=text: Say Grüße", environment=who)
    (name,) = relay.call(*git, "format-patch", "-1", environment=who).split()
    patch = (repository / os.fsdecode(name)).read_bytes()
    relay.call(
        *git,
        "send-email",
        f"--smtp-server={relay.sendmail}",
        "--confirm=never",
        "--quiet",
        "--suppress-cc=all",
        "--envelope-sender=dev@site.test",
        "--to=list@dest.test",
        "--cc=second@dest.test",
        repository / os.fsdecode(name),
        environment=who,
    )
    arrival = relay.arrived("list@dest.test")

    assert (arrival.sender, arrival.recipients) == ("dev@site.test", ("list@dest.test", "second@dest.test"))
    assert arrival.body == with_crlf(patch.partition(b"\n\n")[2])
    assert b"+.\r\n" in arrival.body
    assert b"To: list@dest.test" in fields(arrival) and b"Cc: second@dest.test" in fields(arrival)


def test_the_mail_command(relay: Relay, required: Callable[[str], None]) -> None:
    """bsd-mailx with its `sendmail` variable: as whoever calls it, and with -r, which becomes sendmail's -f."""
    required("bsd-mailx")
    settings = relay.home / ".mailrc"
    settings.write_text(f"set sendmail={relay.sendmail}\nset sendwait\n")
    body = b"disk is full\n.\nreally\n"
    relay.call("bsd-mailx", "-s", "a subject", "-c", "copy@dest.test", "mail@dest.test", given=body)
    relay.call("bsd-mailx", "-s", "another", "-r", "robot@site.test", "mail@dest.test", given=body)
    first, second = relay.smarthost.wait_for("mail@dest.test", 2)

    assert sorted(first.recipients) == ["copy@dest.test", "mail@dest.test"]
    assert (first.sender, second.sender) == (relay.own, "robot@site.test")
    assert first.body == second.body == with_crlf(body)
    assert b"Subject: a subject" in fields(first) and b"Cc: copy@dest.test" in [
        line.replace(b"<", b"").replace(b">", b"") for line in fields(first)
    ]


def test_perl(relay: Relay, required: Callable[[str], None]) -> None:
    """A pipe opened by a CGI script of 1998, which ends with a lone dot and something behind it."""
    required("perl")
    code = (
        'open(MAIL, "|$ARGV[0] -t") or die; print MAIL "To: perl\\@dest.test\\nFrom: form\\@site.test\\n'
        'Subject: form\\n\\nline\\n.\\nbehind the end\\n"; close(MAIL) or die "status $?";'
    )
    relay.call("perl", "-e", code, relay.sendmail)
    arrival = relay.arrived("perl@dest.test")

    assert arrival.body == b"line\r\n"  # without -i a dot ends the message, as sendmail(1) always did
    assert fields(arrival, *ADDED) == [b"To: perl@dest.test", b"From: form@site.test", b"Subject: form"]


@pytest.mark.parametrize("policy", [email.policy.default, email.policy.SMTP])
def test_pythons_subprocess(relay: Relay, policy: email.policy.EmailPolicy) -> None:
    """A message of Python's email package with an attachment, written to sendmail -t -oi: every byte arrives."""
    message = email.message.EmailMessage(policy)
    to = f"python-{len(policy.linesep)}@dest.test"
    message["From"], message["To"], message["Subject"] = "Jörg <app@site.test>", to, "Rechnung für Größe"
    message["Message-ID"], message["Date"] = f"<{to}>", "Sat, 21 Nov 2026 08:00:00 +0000"
    message.set_content("Grüße\n.\n", cte="8bit")
    message.add_attachment(bytes(range(256)) * 50, maintype="application", subtype="octet-stream", filename="a.bin")
    data = message.as_bytes()
    relay.call(relay.sendmail, "-t", "-oi", given=data)
    arrival = relay.arrived(to)

    assert arrival.data == with_crlf(data)
    assert (arrival.sender, arrival.recipients) == (relay.own, (to,))


def test_symfony(relay: Relay) -> None:
    """A dialogue over standard input and output (-bs), as Symfony and Laravel hold it: answers are waited for."""
    message = b"From: app@site.test\r\nTo: symfony@dest.test\r\nSubject: s\r\n\r\n..dots\r\nGr\xc3\xbc\xc3\x9fe\r\n"
    with subprocess.Popen(
        [relay.sendmail, "-bs"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=relay.home,
        env=relay.environment,
        **relay.caller.switch,
    ) as process:
        assert process.stdin and process.stdout
        said: IO[bytes] = process.stdin
        heard: IO[bytes] = process.stdout

        def expect(code: bytes, command: bytes = b"") -> bytes:
            if command:
                said.write(command + b"\r\n")
                said.flush()
            lines = [heard.readline()]
            while lines[-1][3:4] == b"-":
                lines.append(heard.readline())
            assert all(line.startswith(code) and line.endswith(b"\r\n") for line in lines), lines
            return b"".join(lines)

        expect(b"220")
        expect(b"250", b"EHLO [127.0.0.1]")
        for recipient in (b"symfony@dest.test", b"bcc@dest.test"):
            expect(b"250", b"MAIL FROM:<app@site.test>")
            expect(b"250", b"RCPT TO:<%s>" % recipient)
            expect(b"354", b"DATA")
            stuffed = message.replace(b"\r\n.", b"\r\n..")
            expect(b"250", stuffed + b".")
        expect(b"250", b"MAIL FROM:<app@site.test>")
        expect(b"250", b"RSET")
        expect(b"221", b"QUIT")
        said.close()
        assert process.wait(20) == 0

    for to in ("symfony@dest.test", "bcc@dest.test"):
        arrival = relay.arrived(to)
        assert (arrival.sender, arrival.recipients) == ("app@site.test", (to,))
        assert arrival.body == b"..dots\r\nGr\xc3\xbc\xc3\x9fe\r\n"


def test_submit(relay: Relay, tmp_path: Path) -> None:
    """mailrelayd submit takes a file like a dropped one, without any right in the pickup folder."""
    data = (
        b"From: app@site.test\nTo: submit@dest.test\nMessage-ID: <1@a>\nDate: Sat, 21 Nov 2026 08:00:00 +0000\n\n.\nx"
    )
    file = relay.home / "mail.eml"
    file.write_bytes(data)
    program: list[str | Path] = [sys.executable, "-m", "mailrelayd", "--config", relay.daemon.configuration]
    relay.call(*program, "submit", file)
    arrival = relay.arrived("submit@dest.test")

    assert (arrival.sender, arrival.recipients) == ("app@site.test", ("submit@dest.test",))
    assert arrival.data == with_crlf(data)


def test_dotnet_on_linux(relay: Relay) -> None:
    """SmtpClient with a pickup directory: written in place under a shared lock, the envelope in its first lines."""
    envelope = b"X-Sender: app@site.test\r\nX-Receiver: dotnet@dest.test\r\nX-Receiver: hidden@dest.test\r\n"
    message = (
        b"MIME-Version: 1.0\r\nFrom: app@site.test\r\nTo: dotnet@dest.test\r\nDate: 21 Nov 2026 08:00:00 +0000\r\n"
    )
    message += b"Subject: s\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n" + b"a line\r\n" * 20_000
    data = envelope + message
    path = relay.pickup / "0f8fad5b-d9cb-469f-a165-70867728950e.eml"
    with path.open("wb", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        account().own(path)
        for start in range(0, len(data), 16384):
            file.write(data[start : start + 16384])
    arrival = relay.arrived("dotnet@dest.test")

    assert (arrival.sender, arrival.recipients) == ("app@site.test", ("dotnet@dest.test", "hidden@dest.test"))
    assert arrival.body == message.partition(b"\r\n\r\n")[2]
    assert fields(arrival, b"message-id:") == message.partition(b"\r\n\r\n")[0].split(b"\r\n")


def test_everything_was_taken_once(relay: Relay) -> None:
    """Behind all of them: nothing waits, nothing failed, and who handed it in is told truly."""
    relay.daemon.wait_for_events("message.sent", len(relay.daemon.events("message.queued")))
    assert relay.daemon.events("message.failed") == relay.daemon.events("pickup.refused") == []
    queued: list[dict[str, Any]] = relay.daemon.events("message.queued")
    assert {event["uid"] for event in queued if event.get("producer") == "submit"} <= {relay.caller.uid}
    assert len({event["queue_id"] for event in queued}) == len(queued)
    assert socket.gethostname() not in {event["from"].rpartition("@")[2] for event in queued}
