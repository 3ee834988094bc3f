"""What every part of the story works with: folder, page, daemon, servers, what was dropped, what was found true."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable
from pathlib import Path

from mailrelayd.demo.child import Daemon, Event
from mailrelayd.demo.filed import Filed
from mailrelayd.demo.mailbox import Mailbox
from mailrelayd.demo.mails import Mail
from mailrelayd.demo.page import Page, UntrueError
from mailrelayd.demo.server import REPLIES, Arrival, Server

PROBE = 1  # seconds; 30 by default


class Stage:
    """The daemon and the servers around it, and what happened there so far."""

    def __init__(self, folder: Path, page: Page, *, chaos: float, pause: float) -> None:
        self.folder = folder
        self.page = page
        self.chaos = chaos
        self.daemon = Daemon(folder, page)
        self.server = Server(folder, chaos, self._arrived)
        self.mailbox = Mailbox(self.server.tls, REPLIES, self.server.password, self._removed)
        self.server.mailbox = self.mailbox
        self.mails: list[Mail] = []
        self.facts: list[tuple[bool, str]] = []
        self.arrived: list[Arrival] = []  # nobody has looked at these
        self.removed: list[tuple[Filed, bytes | None]] = []  # a mail, and its decision as it was on disk at that moment
        self._pause = pause

    @property
    def pickup(self) -> Path:
        """Where files are dropped."""
        return self.folder / "spool" / "pickup"

    def _arrived(self, arrival: Arrival) -> None:
        self.arrived.append(arrival)
        self.daemon.wake()

    def _removed(self, mail: Filed) -> None:
        """The daemon has removed a mail: is what it makes of it on disk, with the mail itself?"""
        found = None
        for path in (self.folder / "state" / "archive" / "in").glob("*/*/message.eml"):
            decision = path.with_name("decision.json")
            if path.read_bytes() == mail.content and decision.exists():
                found = decision.read_bytes()
        self.removed.append((mail, found))
        self.daemon.wake()

    async def next(self, text: str) -> None:
        """The next step, once the reader had time for the last one."""
        if self._pause:
            await asyncio.sleep(self._pause)
        self.page.step(text)

    def fact(self, true: bool, text: str) -> None:
        """Something that was told, and whether it was true."""
        self.facts.append((bool(true), text))

    def drop(self, mail: Mail) -> None:
        """As a producer does it: write beside, fsync, rename."""
        descriptor = os.open(self.pickup / "tmp" / mail.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o640)
            file.write(mail.content)
            file.flush()
            os.fsync(descriptor)
        self.mails.append(mail)
        (self.pickup / "tmp" / mail.name).rename(self.pickup / mail.name)
        mail.at = time.monotonic()

    def know(self, mails: Iterable[Mail]) -> bool:
        """Take over what the log has told so far; whether each of these mails has a queue id."""
        by_name = {mail.name: mail for mail in self.mails}
        by_id = {mail.queue_id: mail for mail in self.mails if mail.queue_id}
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

    async def end_of(self, mails: list[Mail], what: str) -> None:
        """Wait until these have been sent or given up. Chaos may take longer than anybody watches."""
        try:
            await self.daemon.until(
                lambda: self.know(mails) and all(mail.ended for mail in mails), f"{what} was sent or given up"
            )
        except UntrueError:
            if not self.chaos or not self.know(mails):
                raise

    def told(self, mail: Mail, recipient: str) -> str:
        """What became of it, in words."""
        event = mail.outcomes.get(recipient, mail.outcomes.get(""))
        if event is None:
            return "still queued"
        tries = int(event.pairs.get("attempt", "0"))
        word, after = mail.status(recipient), span(event.at - mail.at)
        if word == "sent":
            return f"sent {after} after the rename" + (f", at try {tries}" if tries > 1 else "")
        if word == "queued":
            return f"still queued after {tries} {'try' if tries == 1 else 'tries'}: {reason(event)}"
        return f"{word}: {reason(event)}"


def reason(event: Event) -> str:
    """Why, as an event says it."""
    return event.pairs.get("response") or event.pairs.get("reason", "")


def span(seconds: float) -> str:
    """So much time, for people."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
