"""The story: seven steps, and a check that all of it was true."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shlex
import signal
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from mailrelayd.demo.child import PATIENCE, Daemon, Event
from mailrelayd.demo.mails import Mail, alarm, hello, order
from mailrelayd.demo.page import Page, UntrueError
from mailrelayd.demo.server import GREYLISTED, REFUSED, Arrival, Server

PROBE = 2  # seconds; 30 by default

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
        self.daemon = Daemon(folder, page)
        self.signalled = 0
        self._folder = folder
        self._pickup = folder / "spool" / "pickup"
        self._page = page
        self._chaos = chaos
        self._pause = pause
        self._server = Server(folder, chaos, self._arrived)
        self._mails: list[Mail] = []
        self._facts: list[tuple[bool, str]] = []
        self._visitors = False  # files that are not ours may arrive
        self._over = False

    async def run(self, *, once: bool) -> None:
        """Tell the story. Raises UntrueError; CancelledError where a signal came first."""
        task = asyncio.current_task()
        assert task is not None

        def stop(number: int) -> None:
            if self.signalled:  # once is enough: the daemon is being ended
                return
            self.signalled = number
            if self._visitors and number == signal.SIGINT:
                self._over = True
                self.daemon.wake()
            else:
                task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, stop, number)
        _silence()
        try:
            await self._server.come()
            await self._begin()
            await self._one_file()
            await self._three_recipients()
            await self._an_empty_file()
            await self._outage()
            if not once:
                await self._visit()
            await self._shutdown()
            await self._summary()
        finally:
            await self.daemon.close()
            self._server.close()
            await asyncio.sleep(0)  # the connections' ends are called from the loop

    async def _begin(self) -> None:
        folder, page = self._folder, self._page
        configuration = CONFIGURATION.format(
            spool=_quoted(folder / "spool"),
            state=_quoted(folder / "state"),
            probe=PROBE,
            port=self._server.port,
            password=_quoted(f"file:{folder / 'password'}"),
            ca_file=_quoted(self._server.ca_file),
        )
        (folder / "password").touch(mode=0o600)
        (folder / "password").write_text(self._server.password + "\n", encoding="ascii")
        (folder / "mailrelayd.toml").write_text(configuration, encoding="utf-8")
        page.say(
            "The program you see at work is mailrelayd itself, with real files; only the SMTP server, on 127.0.0.1 "
            "with STARTTLS and a login, belongs to the demonstration. Lines behind a bar are the daemon's log as it "
            "comes (without some keys) and what its commands print. Everything is in this folder, which is removed at "
            "the end:"
        )
        page.verbatim(str(folder))
        if self._chaos:
            page.say(f"Chaos: with probability {self._chaos:g} the server refuses, puts off or drops a transaction.")
        page.step(
            f"The daemon starts with this configuration. {PROBE} s stand in for the usual 30 s between two tries."
        )
        for line in configuration.splitlines():
            page.quote(line)
        await self.daemon.start()
        await self.daemon.until(lambda: bool(self.daemon.found("daemon.ready")), "it said daemon.ready")
        page.result("It is ready. Whatever is renamed into spool/pickup/ is mail from now on.")

    async def _one_file(self) -> None:
        await self._next(
            "A program writes hello.eml into pickup/tmp/ and renames it into pickup/. That is all it has to do: from "
            "here on the mail is the daemon's."
        )
        mail = hello()
        self._drop(mail)
        await self._end_of([mail], mail.name)
        self._page.result(f"It was {self._told(mail, 'ops@example.com')}.")

    async def _three_recipients(self) -> None:
        await self._next(
            "order.eml has three recipients: the server takes it for boss, has no mailbox nobody, and asks to come "
            "back later for late (greylisting)."
        )
        mail = order()
        self._drop(mail)
        await self._end_of([mail], mail.name)
        for recipient in mail.expected:
            self._page.result(f"{recipient}: {self._told(mail, recipient)}.")

    async def _an_empty_file(self) -> None:
        await self._next("empty.eml holds nothing: that cannot be sent, and must not get lost without a word either.")
        mail = Mail("empty.eml", b"", {"": "failed"})
        self._drop(mail)
        await self._end_of([mail], mail.name)
        self._page.result(f"It is kept in spool/failed/, with the reason: {_reason(mail.outcomes[''])}.")

    async def _outage(self) -> None:
        await self._next("The server goes away, and five more files are dropped.")
        self._server.go()
        await asyncio.sleep(0.1)  # the daemon hears of it before there is something to send
        mails = [alarm(number) for number in range(1, 6)]
        began = time.monotonic()
        for mail in mails:
            self._drop(mail)
        await self.daemon.until(lambda: self._know(mails), "five files were taken over")

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
        self._fact(not failed, "no mail failed because the server was away")
        self._fact(probes <= 2 + seconds / PROBE, f"{probes} connections were tried in {seconds:.0f} s of outage")
        await self._next("The server comes back.")
        back = time.monotonic()
        await self._server.come()
        await self._end_of(mails, "the five mails")
        await self.daemon.until(lambda: bool(self.daemon.found("route.up", back)), "route.up")
        arrived = [a for a in self._server.arrivals if a.at >= back]
        if self._chaos:
            self._page.result("What waited was sent as far as chaos allowed.")
            return
        ids = [arrival.queue_id for arrival in arrived]
        self._fact(ids == [mail.queue_id for mail in mails], "what waited was sent in the order it was dropped")
        self._fact(len({a.connection for a in arrived}) == 1, "all of it went over one connection")
        took = arrived[-1].at - arrived[0].at
        self._page.result(
            f"The next probe came {arrived[0].at - back:.1f} s later, and all five were sent in {took * 1000:.0f} ms, "
            "over one connection, in the order they were dropped."
        )

    async def _visit(self) -> None:
        await self._next("Your turn: the daemon stays up until you press Ctrl-C. In another terminal:")
        self._page.verbatim(f"cd {shlex.quote(str(self._pickup))}")
        self._page.verbatim(
            r"printf 'From: me@example.com\nTo: you@example.com\nSubject: hi\n\nhello\n' >tmp/hi && mv tmp/hi hi.eml"
        )
        self._page.verbatim(shlex.join([*self.daemon.command, "status"]))
        self._page.say(f"{REFUSED} is refused, {GREYLISTED} is put off.", indent=3)
        self._visitors = True
        await self.daemon.until(lambda: self._over, "Ctrl-C", patience=None)
        self._visitors = False
        self.signalled = 0
        self._page.say()

    async def _shutdown(self) -> None:
        await self._next("SIGTERM: the daemon finishes what is under way, and ends.")
        began = time.monotonic()
        try:
            status = await self.daemon.end()
        except TimeoutError:
            raise UntrueError(f"the daemon did not end within {PATIENCE:.0f} s after SIGTERM") from None
        self._page.result(f"It ended with status {status} after {_span(time.monotonic() - began)}.")
        self._fact(status == 0, "the daemon ended with status 0")

    # -- telling -----------------------------------------------------------------------------------------------

    async def _next(self, text: str) -> None:
        if self._pause:
            await asyncio.sleep(self._pause)
        self._page.step(text)

    def _drop(self, mail: Mail) -> None:
        """As a producer does it: write beside, fsync, rename."""
        descriptor = os.open(self._pickup / "tmp" / mail.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o640)
            file.write(mail.content)
            file.flush()
            os.fsync(descriptor)
        self._mails.append(mail)
        (self._pickup / "tmp" / mail.name).rename(self._pickup / mail.name)
        mail.at = time.monotonic()

    def _know(self, mails: Iterable[Mail]) -> bool:
        """Take over what the log has told so far; whether each of these mails has a queue id."""
        by_name = {mail.name: mail for mail in self._mails}
        by_id = {mail.queue_id: mail for mail in self._mails if mail.queue_id}
        for event in self.daemon.events:
            queue_id = event.pairs.get("queue_id", "")
            mail = by_name.get(event.pairs.get("file", "")) or by_id.get(queue_id)
            if mail is None or not event.name.startswith("message."):
                continue
            if not mail.queue_id:
                mail.queue_id, by_id[queue_id] = queue_id, mail
            elif mail.queue_id != queue_id:
                continue  # a visitor's file of the same name
            if event.name != "message.queued":
                mail.outcomes[event.pairs.get("to", "<>")[1:-1]] = event
        return all(mail.queue_id for mail in mails)

    async def _end_of(self, mails: list[Mail], what: str) -> None:
        """Wait until these have been sent or given up. Chaos may take longer than anybody watches."""
        try:
            await self.daemon.until(
                lambda: self._know(mails) and all(mail.ended for mail in mails), f"{what} was sent or given up"
            )
        except UntrueError:
            if not self._chaos or not self._know(mails):
                raise

    def _told(self, mail: Mail, recipient: str) -> str:
        """What became of it, in words."""
        event = mail.outcomes.get(recipient)
        if event is None:
            return "still queued"
        tries = int(event.pairs.get("attempt", "0"))
        word, after = mail.status(recipient), _span(event.at - mail.at)
        if word == "sent":
            return f"sent {after} after the rename" + (f", at try {tries}" if tries > 1 else "")
        if word == "queued":
            return f"still queued after {tries} {'try' if tries == 1 else 'tries'}: {_reason(event)}"
        return f"{word}: {_reason(event)}"

    def _arrived(self, arrival: Arrival) -> None:
        if self._visitors:
            subject = re.search(rb"^Subject: *(.*?)\r$", arrival.content, re.MULTILINE)
            what = f"subject {subject[1].decode('utf-8', 'replace')!a}" if subject else "without subject"
            self._page.result(
                f"At the server: {len(arrival.content)} bytes for {', '.join(arrival.recipients)}, {what}."
            )

    # -- checking ----------------------------------------------------------------------------------------------

    def _fact(self, true: bool, text: str) -> None:
        self._facts.append((bool(true), text))

    async def _summary(self) -> None:
        self._know(self._mails)
        page, folder = self._page, self._folder
        page.title("What was dropped, and what became of it")
        for mail in self._mails:
            name = mail.name
            for recipient in mail.expected:
                page.row(f"{name:13} {recipient or '-':19} {self._told(mail, recipient)}", hanging=34)
                name = ""
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
            ("spool/failed/", f"what was given up, as ID.eml and ID.json: {_count(folder / 'spool/failed', '*.eml')}"),
        ):
            page.row(f"{path:18}{what}", hanging=18)
        self._check()
        page.title("Checked")
        for true, text in self._facts:
            page.row(f"{'ok' if true else 'UNTRUE':7}{text}", hanging=7)
        if not all(true for true, _ in self._facts):
            raise UntrueError("not all of this was true")

    def _record(self) -> list[str]:
        """The part of order.eml's record that a person would look for."""
        for mail in self._mails:
            path = self._folder / "spool" / "failed" / f"{mail.queue_id}.json"
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
        pairs = [(mail, recipient) for mail in self._mails for recipient in mail.expected]
        told = [mail.status(recipient) for mail, recipient in pairs]
        got = Counter(
            (arrival.queue_id, recipient) for arrival in self._server.arrivals for recipient in arrival.recipients
        )
        sent = {(mail.queue_id, recipient) for mail, recipient in pairs if mail.status(recipient) == "sent"}
        ours = {mail.queue_id: mail for mail in self._mails}
        theirs = [arrival for arrival in self._server.arrivals if arrival.queue_id in ours]
        spool = self._folder / "spool"
        queued = {path.stem for path in (spool / "queue").glob("*.eml")} & ours.keys()
        failed = {path.stem for path in (spool / "failed").glob("*.eml")} & ours.keys()
        counts = ", ".join(f"{told.count(word)} {word}" for word in ("sent", "failed", "queued"))
        self._fact(
            {pair: count for pair, count in got.items() if pair[0] in ours} == dict.fromkeys(sent, 1),
            f"{len(self._mails)} files, {len(pairs)} outcomes: {counts}; what was sent arrived exactly once",
        )
        self._fact(
            all(ours[arrival.queue_id].equals(arrival.content) for arrival in theirs),
            "what arrived is what was dropped, byte for byte, apart from Received, Message-ID and Date added and Bcc "
            "removed",
        )
        self._fact(
            queued == {mail.queue_id for mail in self._mails if not mail.ended}
            and failed == {mail.queue_id for mail, to in pairs if mail.ended and mail.status(to) == "failed"}
            and not any((self._pickup / mail.name).exists() for mail in self._mails),
            "spool/queue/ holds exactly what still waits, spool/failed/ what was given up, spool/pickup/ nothing of it",
        )
        if not self._chaos:
            self._fact(all(mail.status(to) == mail.expected[to] for mail, to in pairs), "everything ended as announced")
        serious = [event.name for event in self.daemon.events if event.severity == "error"]
        self._fact(not serious, "the daemon met nothing unexpected")


def _reason(event: Event) -> str:
    return event.pairs.get("response") or event.pairs.get("reason", "")


def _span(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _count(folder: Path, pattern: str) -> str:
    count = sum(1 for _ in folder.glob(pattern))
    return "empty" if not count else f"{count} message{'s' if count > 1 else ''}"


def _quoted(value: object) -> str:
    """A TOML string; JSON's escapes are TOML's."""
    return json.dumps(str(value), ensure_ascii=False)


def _silence() -> None:
    """What aiosmtpd and asyncio have to say about connections that we cut on purpose."""
    for name in ("mail", "asyncio"):
        logging.getLogger(name).addHandler(logging.NullHandler())
        logging.getLogger(name).propagate = False
