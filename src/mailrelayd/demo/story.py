"""The story: eleven steps, and a check that all of it was true."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import shlex
import signal
import time
from collections import Counter
from pathlib import Path

from mailrelayd.demo.approval import Approval, quoted
from mailrelayd.demo.child import PATIENCE, Event
from mailrelayd.demo.mails import Mail, alarm, hello, order
from mailrelayd.demo.page import Page, UntrueError
from mailrelayd.demo.people import BOSS
from mailrelayd.demo.server import GREYLISTED, REFUSED, Arrival
from mailrelayd.demo.stage import PROBE, Stage, reason, span

CONFIGURATION = """\
[node]
name = "demo"
[spool]
directory = {spool}
min_free = 0
[state]
directory = {state}
[retry]
probe = "{probe}s"
message = ["{probe}s"]
[outbound.demo]
host = "127.0.0.1"
port = {port}
security = "starttls"
user = "demo"
password = {password}
[outbound.demo.tls]
ca_file = {ca_file}
[log]
format = "text"
"""


class Demo:
    """Drops the files, tells what happens, and checks it."""

    def __init__(self, folder: Path, page: Page, *, chaos: float, pause: float) -> None:
        self.signalled = 0
        self._stage = Stage(folder, page, chaos=chaos, pause=pause)
        self._approval = Approval(self._stage)
        self._page = page
        self.daemon = self._stage.daemon
        self._over = False

    async def run(self, *, once: bool) -> None:
        """Tell the story. Raises UntrueError; CancelledError where a signal came first."""
        task = asyncio.current_task()
        assert task is not None
        visiting = False

        def stop(number: int) -> None:
            if self.signalled:  # once is enough: the daemon is being ended
                return
            self.signalled = number
            if visiting and number == signal.SIGINT:
                self._over = True
                self.daemon.wake()
            else:
                task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, stop, number)
        _silence()
        try:
            await self._stage.server.come()
            await self._stage.mailbox.open()
            await self._begin()
            await self._one_file()
            await self._three_recipients()
            await self._an_empty_file()
            await self._approval.ask()
            await self._approval.hear_what_decides_nothing()
            await self._approval.hear_the_approvers()
            await self._outage()
            if not once:
                visiting = True
                await self._visit()
                visiting = False
            await self._shutdown()
            await self._summary()
        finally:
            await self._approval.close()
            await self.daemon.close()
            await self._stage.mailbox.close()
            self._stage.server.close()
            await asyncio.sleep(0)  # the connections' ends are called from the loop

    async def _begin(self) -> None:
        stage, folder, page = self._stage, self._stage.folder, self._page
        (folder / "password").touch(mode=0o600)
        (folder / "password").write_text(stage.server.password + "\n", encoding="ascii")
        configuration = CONFIGURATION.format(
            spool=quoted(folder / "spool"),
            state=quoted(folder / "state"),
            probe=PROBE,
            port=stage.server.port,
            password=quoted(f"file:{folder / 'password'}"),
            ca_file=quoted(stage.server.ca_file),
        )
        whole = configuration + self._approval.configuration()
        (folder / "mailrelayd.toml").write_text(whole, encoding="utf-8")
        page.say(
            "The program you see at work is mailrelayd itself, with real files; only the mail server, SMTP and IMAP on "
            "127.0.0.1 with TLS and logins, belongs to the demonstration. Lines behind a bar are the daemon's log as "
            "it comes (without some keys) and what its commands print. Everything is in this folder, which is removed "
            "at the end:"
        )
        page.verbatim(str(folder))
        if stage.chaos:
            page.say(f"Chaos: with probability {stage.chaos:g} the server refuses, puts off or drops a transaction.")
        page.step(
            f"The daemon starts with this configuration, the first half of it. {PROBE} s stands in for the usual 30 s "
            "between two tries."
        )
        for line in configuration.splitlines():
            page.quote(line)
        await self.daemon.start()
        await self.daemon.until(lambda: bool(self.daemon.found("daemon.ready")), "it said daemon.ready")
        await self.daemon.until(lambda: bool(self.daemon.found("mailbox.up")), "it said mailbox.up")
        page.result("It is ready. Whatever is renamed into spool/pickup/ is mail from now on.")

    async def _one_file(self) -> None:
        await self._stage.next(
            "A program writes hello.eml into pickup/tmp/ and renames it into pickup/. That is all it has to do: from "
            "here on the mail is the daemon's."
        )
        mail = hello()
        self._stage.drop(mail)
        await self._stage.end_of([mail], mail.name)
        self._page.result(f"It was {self._stage.told(mail, 'ops@example.com')}.")

    async def _three_recipients(self) -> None:
        await self._stage.next(
            "order.eml has three recipients: the server takes it for boss, has no mailbox nobody, and asks to come "
            "back later for late (greylisting)."
        )
        mail = order()
        self._stage.drop(mail)
        await self._stage.end_of([mail], mail.name)
        for recipient in mail.expected:
            self._page.result(f"{recipient}: {self._stage.told(mail, recipient)}.")

    async def _an_empty_file(self) -> None:
        await self._stage.next(
            "empty.eml holds nothing: that cannot be sent, and must not get lost without a word either."
        )
        mail = Mail("empty.eml", b"", {"": "failed"})
        self._stage.drop(mail)
        await self._stage.end_of([mail], mail.name)
        self._page.result(f"It is kept in spool/failed/, with the reason: {reason(mail.outcomes[''])}.")

    async def _outage(self) -> None:
        await self._stage.next("The server goes away, and five more files are dropped.")
        self._stage.server.go()
        await asyncio.sleep(0.1)  # the daemon hears of it before there is something to send
        mails = [alarm(number) for number in range(1, 6)]
        began = time.monotonic()
        for mail in mails:
            self._stage.drop(mail)
        await self.daemon.until(lambda: self._stage.know(mails), "five files were taken over")

        def down() -> list[Event]:
            return self.daemon.found("route.down", began)

        await self.daemon.until(lambda: len(down()) >= 2, "the second probe")
        self._page.result(
            f"They wait. However many there are, one connection is tried every {PROBE} s (by default 30 s), and none "
            "of them fails by it:"
        )
        await self.daemon.run("status")
        await self.daemon.run("queue", "list")
        await self.daemon.until(lambda: len(down()) >= 3, "the third probe")
        failed = [mail for mail in mails if any(mail.status(recipient) == "failed" for recipient in mail.expected)]
        probes, seconds = len(down()), time.monotonic() - began
        self._stage.fact(not failed, "no mail failed because the server was away")
        self._stage.fact(probes <= 2 + seconds / PROBE, f"{probes} connections were tried in {seconds:.0f} s of outage")
        await self._stage.next("The server comes back.")
        back = time.monotonic()
        await self._stage.server.come()
        await self._stage.end_of(mails, "the five mails")
        await self.daemon.until(lambda: bool(self.daemon.found("route.up", back)), "route.up")
        arrived = [a for a in self._stage.server.arrivals if a.at >= back]
        if self._stage.chaos:
            self._page.result("What waited was sent as far as chaos allowed.")
            return
        ids = [arrival.queue_id for arrival in arrived]
        self._stage.fact(ids == [mail.queue_id for mail in mails], "what waited was sent in the order it was dropped")
        self._stage.fact(len({a.connection for a in arrived}) == 1, "all of it went over one connection")
        took = arrived[-1].at - arrived[0].at
        self._page.result(
            f"The next probe came {arrived[0].at - back:.1f} s later, and all five were sent in {took * 1000:.0f} ms, "
            "over one connection, in the order they were dropped."
        )

    async def _visit(self) -> None:
        await self._stage.next("Your turn: the daemon stays up until you press Ctrl-C. In another terminal:")
        self._page.verbatim(f"cd {shlex.quote(str(self._stage.pickup))}")
        self._page.verbatim(
            r"printf 'From: me@example.com\nTo: you@example.com\nSubject: hi\n\nhello\n' >tmp/hi && mv tmp/hi hi.eml"
        )
        self._page.verbatim(
            r"printf 'From: me@example.com\nTo: boss@example.com\nX-Approval-Request: PO-43\n\nMay I?\n' >tmp/may && "
            "mv tmp/may may.eml"
        )
        self._page.verbatim(shlex.join([*self.daemon.command, "status"]))
        self._page.say(
            f"{REFUSED} is refused, {GREYLISTED} is put off, {BOSS} approves; decisions come to "
            "state/decisions/erp/new/.",
            indent=3,
        )
        self._stage.arrived.clear()

        def look() -> bool:
            while self._stage.arrived:
                self._welcome(self._stage.arrived.pop(0))
            return self._over

        await self.daemon.until(look, "Ctrl-C", patience=None)
        self.signalled = 0
        self._page.say()

    def _welcome(self, arrival: Arrival) -> None:
        subject = re.search(rb"^Subject: *(.*?)\r$", arrival.content, re.MULTILINE)
        what = f"subject {subject[1].decode('utf-8', 'replace')!a}" if subject else "without subject"
        self._page.result(f"At the server: {len(arrival.content)} bytes for {', '.join(arrival.recipients)}, {what}.")
        self._approval.visited(arrival)

    async def _shutdown(self) -> None:
        await self._stage.next("SIGTERM: the daemon finishes what is under way, and ends.")
        began = time.monotonic()
        try:
            status = await self.daemon.end()
        except TimeoutError:
            raise UntrueError(f"the daemon did not end within {PATIENCE:.0f} s after SIGTERM") from None
        self._page.result(f"It ended with status {status} after {span(time.monotonic() - began)}.")
        self._stage.fact(status == 0, "the daemon ended with status 0")

    # -- checking ----------------------------------------------------------------------------------------------

    async def _summary(self) -> None:
        self._stage.know(self._stage.mails)
        page, folder = self._page, self._stage.folder
        page.title("What was dropped, and what became of it")
        for mail in self._stage.mails:
            name = mail.name
            for recipient in mail.expected:
                page.row(f"{name:13} {recipient or '-':19} {self._stage.told(mail, recipient)}", hanging=34)
                name = ""
        if rows := self._approval.rows():
            page.title("What was answered to purchase.eml, and what became of it")
        for who, what in rows:
            page.row(f"{'':13} {who:19} {what}", hanging=34)
        page.title("What is kept of order.eml: spool/failed/ID.json, in short")
        for line in self._record():
            page.quote(line)
        page.title("What the commands say, with the daemon stopped")
        await self.daemon.run("queue", "list")
        await self.daemon.run("queue", "list", "--failed")
        page.title(f"Where it was: {folder}")
        for path, what in (
            ("mailrelayd.toml", "the configuration above"),
            ("daemon.log", f"the whole log, {len(self.daemon.lines)} lines"),
            ("spool/pickup/", f"where files are dropped: {_count(folder / 'spool/pickup', '*.eml')}"),
            ("spool/queue/", f"what waits: {_count(folder / 'spool/queue', '*.eml')}"),
            ("state/decisions/", "what was decided, until its consumer takes it"),
            ("state/archive/", f"every mail that was read: {_count(folder / 'state/archive/in', '*/*/message.eml')}"),
            ("spool/failed/", f"what was given up, as ID.eml and ID.json: {_count(folder / 'spool/failed', '*.eml')}"),
        ):
            page.row(f"{path:18}{what}", hanging=18)
        self._check()
        page.title("Checked")
        for true, text in self._stage.facts:
            page.row(f"{'ok' if true else 'UNTRUE':7}{text}", hanging=7)
        if not all(true for true, _ in self._stage.facts):
            raise UntrueError("not all of this was true")

    def _record(self) -> list[str]:
        """The part of order.eml's record that a person would look for."""
        for mail in self._stage.mails:
            path = self._stage.folder / "spool" / "failed" / f"{mail.queue_id}.json"
            if mail.name == "order.eml" and path.exists():
                record = json.loads(path.read_bytes())
                failed = {to: outcome for to, outcome in record["outcomes"].items() if outcome["status"] == "failed"}
                for to, outcome in failed.items():
                    failed[to] = {key: outcome[key] for key in ("status", "reason", "attempts", "response")}
                shown = {"queue_id": record["queue_id"], "reason": record["reason"], "outcomes": failed}
                return [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in shown.items()]
        return ["nothing: it has not been given up"]

    def _check(self) -> None:
        """Compare what was told with what the server got and with what stands in the folders."""
        pairs = [(mail, recipient) for mail in self._stage.mails for recipient in mail.expected]
        told = [mail.status(recipient) for mail, recipient in pairs]
        got = Counter(
            (arrival.queue_id, recipient) for arrival in self._stage.server.arrivals for recipient in arrival.recipients
        )
        sent = {(mail.queue_id, recipient) for mail, recipient in pairs if mail.status(recipient) == "sent"}
        ours = {mail.queue_id: mail for mail in self._stage.mails}
        theirs = [arrival for arrival in self._stage.server.arrivals if arrival.queue_id in ours]
        spool = self._stage.folder / "spool"
        queued = {path.stem for path in (spool / "queue").glob("*.eml")} & ours.keys()
        failed = {path.stem for path in (spool / "failed").glob("*.eml")} & ours.keys()
        counts = ", ".join(f"{told.count(word)} {word}" for word in ("sent", "failed", "queued"))
        self._stage.fact(
            {pair: count for pair, count in got.items() if pair[0] in ours} == dict.fromkeys(sent, 1),
            f"{len(self._stage.mails)} files, {len(pairs)} outcomes: {counts}; what was sent arrived exactly once",
        )
        self._stage.fact(
            all(ours[arrival.queue_id].equals(arrival.content) for arrival in theirs),
            "what arrived is what was dropped, byte for byte, apart from Received, Message-ID, Date and a request's "
            "reply address added and Bcc and X-Approval-Request removed",
        )
        self._stage.fact(
            queued == {mail.queue_id for mail in self._stage.mails if not mail.ended}
            and failed == {mail.queue_id for mail, to in pairs if mail.ended and mail.status(to) == "failed"}
            and not any((self._stage.pickup / mail.name).exists() for mail in self._stage.mails),
            "spool/queue/ holds exactly what still waits, spool/failed/ what was given up, spool/pickup/ nothing of it",
        )
        if not self._stage.chaos:
            self._stage.fact(
                all(mail.status(to) == mail.expected[to] for mail, to in pairs), "everything ended as announced"
            )
        serious = [event.name for event in self.daemon.events if event.severity == "error"]
        self._stage.fact(not serious, "the daemon met nothing unexpected")


def _count(folder: Path, pattern: str) -> str:
    count = sum(1 for _ in folder.glob(pattern))
    return "empty" if not count else f"{count} message{'s' if count > 1 else ''}"


def _silence() -> None:
    """What aiosmtpd and asyncio have to say about connections that we cut on purpose."""
    for name in ("mail", "asyncio"):
        logging.getLogger(name).addHandler(logging.NullHandler())
        logging.getLogger(name).propagate = False
