"""The way back, measured: `python -m bench.replies`. A real Dovecot, the real daemon, a webhook that says 200 at once.

    idle      one reply at a time: from Dovecot's OK to the APPEND until the webhook has answered. The daemon's own
              record of the conversation says when Dovecot told it of the mail: how much of that time is the server's.
              Dovecot waits 500 ms before it tells who idles, which no setting changes
    asleep    the same where Dovecot puts whoever idles to sleep (imap_hibernate_timeout): then it tells at once
    waiting   many replies lie in the folder when the daemon starts; then one more comes there, and one into another
              mailbox
    reading   what it costs to read one mail: all of tests/replies, and the heaviest mails that we know how to make
              (heavy.py)

A reply that is lost, told twice or told wrongly, or that stays in its mailbox, fails the run.
"""

from __future__ import annotations

import argparse
import imaplib
import json
import os
import pwd
import random
import signal
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.faults.inbound import SECRET, compose_reply, copy_for, request
from tests.faults.inbound_verdict import Reply
from tests.servers import certificates as certificate_files
from tests.servers.daemon import Daemon, account
from tests.servers.mailbox import MailboxServer
from tests.servers.process import short_directory, wait_until
from tests.servers.recording import Recording

from bench import heavy, usage
from bench.report import percentile

ROOT = Path(__file__).parents[1]
APPROVERS = 5  # of one request
CASES = ("idle", "asleep", "waiting", "reading")
PAUSE = (0.7, 1.4)  # seconds between two replies, at random: no two clocks may run in step
ASLEEP = (2.0, 3.0)  # the same where the server needs a while before it sleeps
PATIENCE = 120.0  # seconds for everything that was filed to be told

CONFIG = """\
[node]
name = "bench"
[spool]
directory = "{directory}/spool"
settle = "100ms"
[state]
directory = "{directory}/state"
[outbound.test]
host = "127.0.0.1"
port = {smtp}
security = "none"
from_address = "relay@dest.test"
{mailboxes}
[approvals]
reply_address = "approvals@dest.test"
secret = "text:{secret}"
sender_check = "authentication-results"
authserv_id = ["mx.dest.test"]
[[decisions]]
name = "hook"
match = "PO-*"
producers = ["{producer}"]
approvers = ["*@dest.test"]
webhook = "http://127.0.0.1:{hook}/decisions"
secret = "text:whatever is secret here"
"""
MAILBOX = """\
[inbound.{user.name}]
host = "localhost"
port = {port}
user = "{user.name}"
password = "text:{user.password}"
[inbound.{user.name}.tls]
ca_file = "{ca}"
"""
HIBERNATE = """\
imap_hibernate_timeout = 1s
service imap {{
  unix_listener imap-master {{
    user = {user}
    mode = 0600
  }}
}}
service imap-hibernate {{
  unix_listener imap-hibernate {{
    user = {user}
    mode = 0600
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Told:
    """One call of the webhook; `at`: when it was answered, on time.monotonic()."""

    at: float
    decision_id: str
    said: dict[str, Any]


class Hook:
    """The webhook. It keeps connections open, and everything that it was told."""

    def __init__(self) -> None:
        self.told: list[Told] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["content-length"]))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()
                self.wfile.flush()
                hook.told.append(Told(time.monotonic(), self.headers["webhook-id"], json.loads(data)["data"]))

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def about(self, reply: Reply) -> Told | None:
        """The first word about this reply; its approver is nobody else's."""
        return next((one for one in list(self.told) if one.said["decided_by"]["address"] == reply.approver), None)


class Stage:
    """Everything that plays along: two mailboxes, a smarthost, the webhook, the daemon, and who was asked what."""

    def __init__(
        self, directory: Path, mailbox: MailboxServer, ca: Path, smtp: Recording, hook: Hook, logging: str
    ) -> None:
        """`logging`: lines of [log]."""
        self.mailbox, self.hook = mailbox, hook
        self.users = (mailbox.add_user(name="answers"), mailbox.add_user(name="others"))
        self._smtp = smtp
        self._directory = directory
        self._chance = random.Random(1)
        self._asked = 0
        for name in ("spool", "state", "run"):
            (directory / name).mkdir()
            account().own(directory / name)
        text = CONFIG.format(
            directory=directory,
            smtp=smtp.port,
            mailboxes="".join(MAILBOX.format(user=user, port=mailbox.tls_port, ca=ca) for user in self.users),
            secret=SECRET,
            producer=pwd.getpwuid(os.getuid()).pw_name,
            hook=hook.port,
        )
        text += f'[log]\nformat = "json"\n{logging}\n'
        self.daemon = Daemon(directory / "run", text, {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"})

    def begin(self) -> None:
        """Start the daemon and wait until it has met both mailboxes."""
        self.daemon.start().wait_ready()
        for user in self.users:
            self.daemon.wait_for_event("mailbox.up", account=user.name)

    def replies(self, count: int) -> list[Reply]:
        """Answers to copies that were just sent, not yet filed."""
        pickup = self._directory / "spool" / "pickup"
        requests = range(self._asked, self._asked + -(-count // APPROVERS))
        before = len(self._copies())
        for number in requests:
            request(pickup, number, [f"a{turn}.{number}@dest.test" for turn in range(APPROVERS)])
        self._asked = requests.stop
        wanted = before + len(requests) * APPROVERS
        wait_until(lambda: self._accepted() >= wanted, PATIENCE, self.daemon.log)
        copies = self._copies()[before:]
        return [compose_reply(request_id, copy, self._chance) for request_id, copy in copies][:count]

    def _accepted(self) -> int:
        journal = self._smtp.directory / "journal.jsonl"
        return journal.read_bytes().count(b'"event": "accept"') if journal.exists() else 0

    def _copies(self) -> list[tuple[str, Message]]:
        return [copy_for(arrival.recipients[0], arrival.data) for arrival in self._smtp.arrivals()]

    def told_by_server(self, since: float) -> float:
        """When the daemon heard of more mail for the first time since then (both: seconds since the epoch)."""
        times = (
            datetime.fromisoformat(event["time"]).timestamp()
            for event in self.daemon.events()
            if event["event"].endswith(".protocol") and event["text"].endswith("EXISTS")
        )
        return min(at for at in times if at >= since - 0.001)  # the log knows milliseconds

    def left(self) -> int:
        """Mails in both mailboxes."""
        left = 0
        for user in self.users:
            with self.mailbox.client(user) as client:
                left += int(client.select("INBOX", readonly=True)[1][0] or b"0")
        return left

    def cpu(self) -> float:
        """CPU seconds of the daemon until now."""
        fields = Path(f"/proc/{self.daemon.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / usage.TICK


def wrong(told: Sequence[Told], replies: Sequence[Reply]) -> list[str]:
    """What is lost, told twice, or not as it was answered, now that everything should have been told."""
    found = []
    by_approver: dict[str, list[Told]] = {}
    for one in told:
        by_approver.setdefault(one.said["decided_by"]["address"], []).append(one)
    for reply in replies:
        about = by_approver.pop(reply.approver, [])
        if len(about) != 1:
            found.append(f"{reply.approver}: told {len(about)} times")
        for one in about:
            said = (one.said["decision"], one.said["request_id"], one.said["comment"])
            if said != (reply.decision, reply.request_id, reply.comment):
                found.append(f"{reply.approver}: told as {said}")
    return found + [f"{approver}: never answered" for approver in by_approver]


def file(client: imaplib.IMAP4_SSL, reply: Reply) -> float:
    """Put a reply into the mailbox; when the server had said OK, on time.monotonic()."""
    kind, answer = client.append("INBOX", "", "", reply.data)
    now = time.monotonic()
    if kind != "OK":
        raise RuntimeError(f"APPEND was refused: {answer!r}")
    return now


@contextmanager
def stage(logging: str = "", *, hibernate: bool = False) -> Iterator[Stage]:
    """Everything started but the daemon, and ended."""
    with ExitStack() as ending:
        directory = ending.enter_context(short_directory("bench-replies"))
        certificates = certificate_files.make(ending.enter_context(short_directory("bench-tls")))
        imap = ending.enter_context(short_directory("bench-imap"))
        mailbox = MailboxServer(imap, certificates)
        if hibernate:
            with (imap / "dovecot.conf").open("a") as settings:
                settings.write(HIBERNATE.format(user=pwd.getpwuid((imap / "dovecot.conf").stat().st_uid).pw_name))
        ending.callback(mailbox.stop)
        mailbox.start()
        smtp = Recording(directory / "smtp")
        ending.callback(smtp.stop)
        hook = ending.enter_context(Hook())
        made = Stage(directory, mailbox, certificates.ca, smtp, hook, logging)
        ending.callback(lambda: made.daemon.running and made.daemon.kill9())
        yield made


@dataclass
class Outcome:
    """What a case found: figures by name, and what is wrong."""

    case: str
    figures: dict[str, float] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def idle(samples: int, *, asleep: bool = False) -> Outcome:
    """One reply after the other, each when nothing else is going on."""
    outcome = Outcome("asleep" if asleep else "idle")
    with stage("protocol_debug = true", hibernate=asleep) as made:
        made.begin()
        replies = made.replies(samples)
        whole, told = [], []
        chance = random.Random(2)
        with made.mailbox.client(made.users[0]) as client:
            for reply in replies:
                time.sleep(chance.uniform(*(ASLEEP if asleep else PAUSE)))
                begun_at = time.time()
                filed, filed_at = file(client, reply), time.time()
                whole.append(hook_told(made, reply) - filed)
                told.append(max(made.told_by_server(begun_at) - filed_at, 0.0))
        outcome.wrong = _ended(made, replies)
    own = [one - other for one, other in zip(whole, told, strict=True)]
    for name, values in (("until the webhook's 200", whole), ("until the server tells", told), ("our part", own)):
        outcome.samples[name] = [value * 1000 for value in values]
        outcome.figures[f"{name}, p50 ms"] = percentile(values, 0.5) * 1000
        outcome.figures[f"{name}, p99 ms"] = percentile(values, 0.99) * 1000
    return outcome


def hook_told(made: Stage, reply: Reply) -> float:
    """Wait until the webhook was told of a reply; when it had answered."""
    wait_until(lambda: made.hook.about(reply) is not None, 30, made.daemon.log)
    told = made.hook.about(reply)
    assert told is not None
    return told.at


def waiting(count: int) -> Outcome:
    """A full folder at the start, and what comes meanwhile."""
    outcome = Outcome("waiting")
    figures = outcome.figures
    with stage() as made:
        made.begin()
        *replies, late, elsewhere = made.replies(count + 2)
        if made.daemon.stop() != 0:
            outcome.wrong.append("the daemon did not end well")
        with made.mailbox.client(made.users[0]) as client, made.mailbox.client(made.users[1]) as other:
            for reply in replies:
                file(client, reply)
            made.daemon.start().wait_ready()
            ready, cpu, memory = time.monotonic(), made.cpu(), 0.0
            hook = made.hook
            wait_until(lambda: len(hook.told) >= count // 5, PATIENCE, made.daemon.log)
            before = len(hook.told)
            filed = {late.approver: file(client, late), elsewhere.approver: file(other, elsewhere)}
            until = time.monotonic() + PATIENCE
            while len({one.decision_id for one in hook.told}) < count + 2 and time.monotonic() < until:
                memory = max(memory, usage.pss([made.daemon.pid]))
                time.sleep(0.05)
        everything = [*replies, late, elsewhere]
        wait_until(lambda: made.left() == 0 or time.monotonic() > until, PATIENCE + 1, made.daemon.log)
        emptied = time.monotonic()
        figures["mails"] = count
        figures["first told after s"] = hook.told[0].at - ready if hook.told else 0.0
        figures["decisions/s"] = count / (max(one.at for one in hook.told) - ready) if hook.told else 0.0
        figures["removed/s"] = count / (emptied - ready)
        figures["CPU ms a reply"] = (made.cpu() - cpu) / count * 1000
        figures["PSS MB"] = memory
        order = {reply.approver: at for at, reply in enumerate(replies)}
        told = [order[who] for one in hook.told if (who := one.said["decided_by"]["address"]) in order]
        figures["out of order"] = sum(later < earlier for earlier, later in pairwise(told))
        for name, reply in (("the next reply, same mailbox", late), ("a reply, other mailbox", elsewhere)):
            about = hook.about(reply)
            figures[f"{name}, ms"] = (about.at - filed[reply.approver]) * 1000 if about else 0.0
        figures["told before these two came"] = before
        outcome.wrong += _ended(made, everything)
    return outcome


def _ended(made: Stage, replies: Sequence[Reply]) -> list[str]:
    """What is wrong once everything should be over."""
    with suppress(TimeoutError):
        wait_until(lambda: len({one.decision_id for one in made.hook.told}) >= len(replies), PATIENCE, made.daemon.log)
        wait_until(lambda: made.left() == 0, 10, made.daemon.log)
    found = wrong(made.hook.told, replies)
    if left := made.left():
        found.append(f"{left} mails stay in their mailbox")
    if made.daemon.stop() != 0:
        found.append("the daemon did not end well")
    return found


def reading(rounds: int) -> Outcome:
    """What judging one mail costs, without disk and network."""
    outcome = Outcome("reading")
    ordinary = {path.stem: path.read_bytes() for path in sorted((ROOT / "tests" / "replies").glob("*/*.eml"))}
    if not ordinary:
        outcome.wrong.append("there are no mails in tests/replies")
        return outcome
    heavy.hear(next(iter(ordinary.values())))  # tables are made when they are first needed
    for name, mails, asked in (
        ("a mail of tests/replies", ordinary, heavy.ASKED[:12]),
        ("a heavy mail", heavy.mails(), heavy.ASKED),
    ):
        spent = {one: min(_seconds(data, asked) for _ in range(rounds)) * 1000 for one, data in mails.items()}
        worst = max(spent, key=lambda one: spent[one])
        outcome.figures[f"{name}, number"] = len(spent)
        outcome.figures[f"{name}, p50 ms"] = statistics.median(spent.values())
        outcome.figures[f"{name}, worst ms ({worst})"] = spent[worst]
        outcome.samples[name] = list(spent.values())
    return outcome


def _seconds(data: bytes, asked: Sequence[str]) -> float:
    began = time.thread_time()  # other programs do not count
    heavy.hear(data, asked)
    return time.thread_time() - began


def table(outcomes: Sequence[Outcome]) -> str:
    """All figures, as Markdown."""
    lines = ["| case | what | |", "|---|---|---|"]
    for outcome in outcomes:
        for name, value in outcome.figures.items():
            lines.append(f"| {outcome.case} | {name} | {value:,.1f} |")
        lines.append(f"| {outcome.case} | lost, doubled, wrong, left | {len(outcome.wrong)} |")
    return "\n".join(lines)


def main() -> int:
    """0: nothing was lost, doubled, wrong or left."""
    parser = argparse.ArgumentParser(prog="python -m bench.replies", description="How fast answers come back.")
    parser.add_argument("--case", action="append", choices=CASES, help="only this one")
    parser.add_argument(
        "--samples", type=int, default=50, metavar="N", help="of the cases idle and asleep (default: 50)"
    )
    parser.add_argument("--waiting", type=int, default=1000, metavar="N", help="of the case waiting (default: 1000)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="readings of each mail (default: 3)")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "bench", metavar="FOLDER")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # what was started is ended
    options.output.mkdir(parents=True, exist_ok=True)
    wanted = options.case or CASES
    runs = {
        "idle": lambda: idle(options.samples),
        "asleep": lambda: idle(options.samples, asleep=True),
        "waiting": lambda: waiting(options.waiting),
        "reading": lambda: reading(options.rounds),
    }
    outcomes = []
    with (options.output / "replies.jsonl").open("w") as out:
        for name in wanted:
            outcome = runs[name]()
            outcomes.append(outcome)
            out.write(json.dumps({"load": usage.load(), **asdict(outcome)}) + "\n")
            out.flush()
            for fault in outcome.wrong[:20]:
                print(f"{name}: {fault}", file=sys.stderr)
    print(table(outcomes))
    return int(any(outcome.wrong for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
