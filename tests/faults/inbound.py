"""Sends requests, files answers into a real mailbox, kills the daemon while it reads them, and asks for the verdict.

    python -m tests.faults.inbound --replies 300 --kills 100 --directory DIR

The mailbox is Dovecot's, two of three sinks fail at times, and among the answers lies mail that is nobody's business.
"""

from __future__ import annotations

import argparse
import base64
import email
import os
import pwd
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

from tests.faults.inbound_sinks import Sinks
from tests.faults.inbound_verdict import Reply, Stored, Verdict, archived, judge
from tests.servers import certificates as certificate_files
from tests.servers.daemon import Daemon, account
from tests.servers.mailbox import MailboxServer, User
from tests.servers.process import short_directory, wait_until
from tests.servers.recording import Recording

_ROOT = Path(__file__).parents[2]
_APPROVERS = 5  # of one request
SECRET = "a secret of the witness, more than thirty-two bytes long"
_KILLED = -9
SIZES = (0, 0, 0, 0, 40_000, 700_000)  # octets of attachments
DAEMON = ("-m", "mailrelayd")

_CONFIG = """\
[node]
name = "witness"
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
[inbound.answers]
host = "localhost"
port = {imap}
user = "{user.name}"
password = "text:{user.password}"
poll_interval = "1s"
{more}
[inbound.answers.tls]
ca_file = "{ca}"
[approvals]
reply_address = "approvals@dest.test"
secret = "text:{secret}"
sender_check = "authentication-results"
authserv_id = ["mx.dest.test"]
"""
_SINK = """\
[[decisions]]
name = "{name}"
match = "PO-*"
producers = ["{producer}"]
approvers = ["*@dest.test"]
{way}
"""


class Tested(Daemon):
    """The daemon, or one with a known bug, and perhaps with strace between it and the disk."""

    start_with: Sequence[str] = DAEMON
    inject = ""  # strace's expression; {life} in it becomes the number of the start

    def _popen(self, arguments: Sequence[str], **streams: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, *self.start_with, "--config", str(self.configuration), *arguments]
        if self.inject:
            inject = self.inject.replace("{life}", str(self._runs))
            trace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={inject.partition(':')[0]}"]
            command = [*trace, "-e", f"inject={inject}", *command]
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, **streams}
        options = {"cwd": "/", "env": self._environment, "start_new_session": True, **account().switch}
        return subprocess.Popen(command, **options, **streams)


@dataclass
class Campaign:
    """One run. `directory` must be new or empty, and its path readable for everybody."""

    directory: Path
    replies: int = 50
    kills: int = 10
    between: tuple[float, float] = (0.05, 1.2)  # seconds that a life lasts from being ready
    bug: str = ""  # of inbound_seeded
    seed: int = 0
    inject: str = ""  # for strace until the last kill, as in "fsync:signal=KILL:when={life}"
    deadline: float = 120.0  # seconds for everything to be told after the last kill
    more: str = ""  # lines of [inbound.answers]

    def run(self) -> Verdict:
        """Do all of it."""
        chance = random.Random(self.seed)
        with ExitStack() as ending:
            tls = ending.enter_context(short_directory("mr-tls"))
            imap = ending.enter_context(short_directory("mr-imap"))
            certificates = certificate_files.make(tls)
            mailbox = MailboxServer(imap, certificates)
            ending.callback(mailbox.stop)
            mailbox.start()
            user = mailbox.add_user()
            smtp = Recording(self.directory / "smtp")
            ending.callback(smtp.stop)
            for name in ("spool", "state", "run"):
                (self.directory / name).mkdir()
                account().own(self.directory / name)
            decisions = self.directory / "state" / "decisions" / "folder"
            sinks = ending.enter_context(Sinks(self.directory / "sinks", decisions, self.seed))
            config = self._config(smtp.port, mailbox.tls_port, user, certificates.ca, sinks)
            daemon = Tested(self.directory / "run", config, {"PYTHONPATH": f"{_ROOT}:{_ROOT / 'src'}"})
            if self.bug:
                daemon.start_with = ("-m", "tests.faults.inbound_seeded", self.bug)
            daemon.start().wait_ready()
            ending.callback(lambda: daemon.running and daemon.kill9())
            copies = self._ask(daemon, smtp)
            met = self.directory / "state" / "inbound" / "answers.json"
            wait_until(met.exists, 20, daemon.log)  # what lies there at first contact would not be read
            others = others_mail(copies[0][1], chance)
            replies = [compose_reply(request, copy, chance, chance.choice(SIZES)) for request, copy in copies]
            crashes = self._storm(daemon, mailbox, user, replies, others, chance)
            sinks.heal()
            stuck = int(daemon.stop(30) == _KILLED and not self.inject)
            daemon.inject = ""
            daemon.start().wait_ready()
            self._settle(mailbox, user, len(others))
            stuck += daemon.stop(30) == _KILLED
            left = _stored(mailbox, user)
        verdict = judge(replies, others, archived(self.directory / "state" / "archive"), sinks.got(), left)
        verdict.kills, verdict.crashes, verdict.stuck = self.kills, crashes, stuck
        return verdict

    def _config(self, smtp: int, imap: int, user: User, ca: Path, sinks: Sinks) -> str:
        ways = {"folder": "", "webhook": f'webhook = "{sinks.url}"\nsecret = "text:whatever is secret here"'}
        ways["program"] = f'command = ["{sinks.program}"]'
        producer = pwd.getpwuid(os.getuid()).pw_name
        text = _CONFIG.format(
            spool=self.directory / "spool",
            state=self.directory / "state",
            smtp=smtp,
            imap=imap,
            user=user,
            ca=ca,
            secret=SECRET,
            more=self.more,
        )
        return text + "".join(_SINK.format(name=name, way=ways[name], producer=producer) for name in sinks.names)

    def _ask(self, daemon: Daemon, smtp: Recording) -> list[tuple[str, Message]]:
        """Have requests sent; (request id, the copy as it arrived) of every approver."""
        pickup = self.directory / "spool" / "pickup"
        for number in range(-(-self.replies // _APPROVERS)):
            request(pickup, number, [f"a{turn}.{number}@dest.test" for turn in range(_APPROVERS)])
        wanted = -(-self.replies // _APPROVERS) * _APPROVERS
        journal = smtp.directory / "journal.jsonl"

        def over() -> bool:
            arrived = journal.read_bytes().count(b'"event": "accept"') if journal.exists() else 0
            return arrived >= wanted or not daemon.running

        wait_until(over, 60, daemon.log)
        return [copy_for(arrival.recipients[0], arrival.data) for arrival in smtp.arrivals()][: self.replies]

    def _storm(
        self,
        daemon: Tested,
        mailbox: MailboxServer,
        user: User,
        replies: Sequence[Reply],
        others: Sequence[Stored],
        chance: random.Random,
    ) -> int:
        """File everything while the daemon is killed again and again; how often it ended by itself."""
        mails = [Stored(reply.data, frozenset()) for reply in replies]
        mails += [mail for mail in mails if chance.random() < 0.05]  # a server that delivers twice
        mails += others
        chance.shuffle(mails)
        pace = self.kills * (sum(self.between) / 2 + 1.2) / len(mails)  # a life, and the start before it
        filing = threading.Thread(target=self._file, args=(mailbox, user, mails, pace))
        filing.start()
        crashes, config = 0, daemon.configuration.read_text()
        archive = self.directory / "state" / "archive" / "in"
        for _ in range(self.kills):
            if self._is_ready(daemon):
                time.sleep(chance.uniform(*self.between))
            if not self.inject and chance.random() < 0.3:  # everything is ended and begun anew without a new process
                interval = f'poll_interval = "{chance.randint(1000, 2000)}ms"'
                daemon.configure(re.sub("poll_interval = .*", interval, config))
                daemon.signal(signal.SIGHUP)
                time.sleep(chance.uniform(*self.between))
            if chance.random() < 0.6:  # in the middle of something, as far as can be seen from outside
                _change(archive, 1.0)
                time.sleep(chance.uniform(0.0, 0.03))
            crashes += not self._may_have_ended(daemon)
            daemon.kill9()
            daemon.inject = self.inject
            daemon.start()
        self._is_ready(daemon)
        filing.join()
        return crashes

    def _is_ready(self, daemon: Tested) -> bool:
        """Wait for it. Only where strace is at work it may end before."""
        try:
            daemon.wait_ready(30)
        except RuntimeError:
            if not self.inject:
                raise
        return daemon.running

    def _may_have_ended(self, daemon: Tested) -> bool:
        """Whether it runs, or was killed by strace, or found that the disk is bad."""
        assert daemon.process is not None
        code = daemon.process.poll()
        return code is None or (bool(self.inject) and code in (_KILLED, os.EX_CANTCREAT, os.EX_TEMPFAIL))

    def _file(self, mailbox: MailboxServer, user: User, mails: Sequence[Stored], pace: float) -> None:
        for mail in mails:
            mailbox.append(user, mail.data, flags=f"({' '.join(sorted(mail.flags))})")
            time.sleep(pace)

    def _settle(self, mailbox: MailboxServer, user: User, others: int) -> None:
        """Until nothing is owed to anybody, at most until the deadline."""
        outbox = self.directory / "state" / "outbox"
        deadline = time.monotonic() + self.deadline
        while time.monotonic() < deadline:
            with mailbox.client(user) as client:
                count = int(client.select("INBOX", readonly=True)[1][0] or b"0")
            if count <= others and not list(outbox.glob("*/*.json")):
                return
            time.sleep(0.3)


def request(pickup: Path, number: int, approvers: Sequence[str]) -> None:
    """Drop a request, as PO-NUMBER."""
    text = (
        f"From: ERP <erp@dest.test>\nTo: {', '.join(approvers)}\nSubject: Order PO-{number}\n"
        f"X-Approval-Request: PO-{number}\nContent-Type: text/plain; charset=utf-8\n\n"
        "Please answer with Approved or Rejected.\n\nOne boat, three oars.\n"
    )
    hidden = pickup / f".{number}"
    hidden.write_text(text)
    hidden.rename(pickup / f"{number}.eml")


def copy_for(approver: str, data: bytes) -> tuple[str, Message]:
    """(request id, the copy that an approver got)."""
    copy = email.message_from_bytes(data)
    copy["X-Copy-For"] = approver
    return str(copy["Subject"]).removeprefix("Order "), copy


def _change(folder: Path, seconds: float) -> None:
    """Wait for the next decision in the archive."""
    before = len(list(folder.glob("*/*")))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and len(list(folder.glob("*/*"))) <= before:
        time.sleep(0.001)


def compose_reply(request_id: str, copy: Message, chance: random.Random, size: int = 0) -> Reply:
    """An answer to one copy, as the MX files it; with `size` octets of an attachment."""
    approver = str(copy["X-Copy-For"])
    decision = chance.choice(["approved", "rejected"])
    comment = f"for reasons {chance.randbytes(8).hex()}"
    text = (
        f"{decision.title()}\r\n\r\n{comment}\r\n\r\nOn 21.11.2026 at 09:00, ERP wrote:\r\n> One boat, three oars.\r\n"
    )
    header = (
        "Authentication-Results: mx.dest.test; dmarc=pass header.from=dest.test\r\n"
        "Received: from client.dest.test by mx.dest.test with ESMTPS; Sat, 21 Nov 2026 09:00:00 +0000\r\n"
        f"From: Somebody <{approver}>\r\nTo: {copy['Reply-To']}\r\nSubject: Re: {copy['Subject']}\r\n"
        f"Message-ID: <{chance.randbytes(8).hex()}@dest.test>\r\nIn-Reply-To: {copy['Message-ID']}\r\n"
        "MIME-Version: 1.0\r\n"
    )
    if not size:
        return Reply(
            f"{header}Content-Type: text/plain; charset=utf-8\r\n\r\n{text}".encode(),
            request_id,
            approver,
            decision,
            comment,
        )
    attached = base64.encodebytes(chance.randbytes(size)).replace(b"\n", b"\r\n").decode()
    body = (
        'Content-Type: multipart/mixed; boundary="b"\r\n\r\n'
        f"--b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{text}\r\n"
        "--b\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n"
        f"Content-Disposition: attachment; filename=x.bin\r\n\r\n{attached}\r\n--b--\r\n"
    )
    return Reply((header + body).encode(), request_id, approver, decision, comment)


def others_mail(copy: Message, chance: random.Random, count: int = 12) -> list[Stored]:
    """Mail that must stay as it is: tokens of others, people's own, and what they have marked themselves."""
    found = re.search(r"\+([a-z2-7]{44})@", str(copy["Reply-To"]))
    assert found is not None
    foreign = found[1][:-12] + "".join(chance.choices("abcdefghijklmnopqrstuvwxyz234567", k=11)) + "a"
    mails = []
    for number in range(count):
        to = f"approvals+{foreign}@dest.test" if number % 3 == 0 else "approvals@dest.test"
        flags = (r"\Deleted",) if number % 4 == 1 else (r"\Flagged",) if number % 4 == 2 else ()
        text = f"From: p{number}@dest.test\r\nTo: {to}\r\nSubject: lunch {number}?\r\n\r\nApproved\r\n"
        mails.append(Stored(text.encode(), frozenset(flags)))
    return mails


def _stored(mailbox: MailboxServer, user: User) -> list[Stored]:
    """Everything in the mailbox."""
    with mailbox.client(user) as client:
        client.select("INBOX", readonly=True)
        found = client.uid("FETCH", "1:*", "(FLAGS BODY.PEEK[])")[1]
    mails = []
    for index, part in enumerate(found):
        if isinstance(part, tuple):
            behind = found[index + 1] if index + 1 < len(found) and isinstance(found[index + 1], bytes) else b""
            flags = re.search(rb"FLAGS \(([^)]*)\)", part[0] + behind)
            words = frozenset(flags[1].decode().split()) if flags else frozenset()
            mails.append(Stored(part[1], words - {r"\Recent"}))
    return mails


def main(argv: Sequence[str]) -> int:
    """A campaign from the command line; 0 if the verdict is clean."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.inbound")
    parser.add_argument("--directory", type=Path, help="new or empty; default: a temporary one, removed afterwards")
    parser.add_argument("--replies", type=int, default=50)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--between", type=float, nargs=2, default=Campaign.between, metavar="SECONDS", help="of a life")
    parser.add_argument("--bug", default="", help="run the daemon with this bug, see inbound_seeded")
    parser.add_argument("--inject", default="", help='for strace, as in "fsync:signal=KILL:when={life}"')
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--deadline", type=float, default=120.0)
    options = parser.parse_args(argv)
    with ExitStack() as ending:
        directory: Path = options.directory or ending.enter_context(short_directory("witness"))
        directory.mkdir(parents=True, exist_ok=True)
        campaign = Campaign(
            directory,
            options.replies,
            options.kills,
            tuple(options.between),
            options.bug,
            options.seed,
            options.inject,
            options.deadline,
        )
        began = time.monotonic()
        verdict = campaign.run()
        print(f"{directory}: {time.monotonic() - began:.1f} s\n{verdict}")
    return 0 if verdict.ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
