"""The second half of the story: a request for approval, the answers to it, and what a consumer gets to know."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import secrets
import smtplib
from collections import Counter
from collections.abc import Sequence
from email.message import EmailMessage
from typing import Any

from mailrelayd.demo.child import Event
from mailrelayd.demo.mails import purchase
from mailrelayd.demo.page import UntrueError
from mailrelayd.demo.people import BOSS, CAROL, Post, Request, forgery, iphone, out_of_office, outlook
from mailrelayd.demo.server import NAME, REPLIES, Arrival
from mailrelayd.demo.stage import Stage, reason

CONFIGURATION = """\
[inbound.demo]
host = "127.0.0.1"
port = {port}
user = "{replies}"
password = {password}
[inbound.demo.tls]
ca_file = {ca_file}
[approvals]
reply_address = "{replies}"
secret = {secret}
sender_check = "authentication-results"
authserv_id = ["{name}"]
[[decisions]]
name = "erp"
match = "PO-*"
producers = [{user}]
approvers = ["@example.com"]
"""
SHOWN = ("decision", "reason", "request_id", "requested_by", "comment", "decided_by", "decided_at", "authentication")
APPROVED = "Approved.\n\nThe silver ones, please.\n\nBest regards\nBarbara"
REJECTED = "Abgelehnt\nzu teuer"


class Approval:
    """Asks two people, and hears four answers."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._mail = purchase()
        self._post = Post(stage.server.port, stage.server.clients_tls)
        self._sending: set[asyncio.Task[None]] = set()
        self._configuration = ""
        self._sent = 0
        self._copies: dict[str, Request] = {}
        self._documents: dict[str, bytes] = {}  # decision id -> what the consumer took
        self._taken_times: Counter[str] = Counter()

    def configuration(self) -> str:
        """What the daemon has to know about approvals. Writes the key it names."""
        stage = self._stage
        key = stage.folder / "approvals.secret"
        key.touch(mode=0o600)
        key.write_text(secrets.token_urlsafe(48) + "\n", encoding="ascii")
        try:
            user = pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:
            user = str(os.geteuid())
        self._configuration = CONFIGURATION.format(
            port=stage.mailbox.port,
            replies=REPLIES,
            password=quoted(f"file:{stage.folder / 'password'}"),
            ca_file=quoted(stage.server.ca_file),
            secret=quoted(f"file:{key}"),
            name=NAME,
            user=quoted(user),
        )
        return self._configuration

    # -- the steps ---------------------------------------------------------------------------------------------

    async def ask(self) -> None:
        """The request goes out."""
        stage = self._stage
        await stage.next(
            "purchase.eml is an ordinary mail with one more line in its header, X-Approval-Request: PO-42. It asks "
            "boss and carol for a decision. The other half of the configuration is about this:"
        )
        for line in self._configuration.splitlines():
            stage.page.quote(line)
        stage.drop(self._mail)
        await stage.end_of([self._mail], self._mail.name)
        if "" in self._mail.outcomes:
            raise UntrueError(f"purchase.eml was not taken for a request: {reason(self._mail.outcomes[''])}")
        for arrival in stage.server.arrivals:
            if arrival.queue_id == self._mail.queue_id:
                self._copies[arrival.recipients[0]] = Request.read(arrival.content)
        for who, copy in self._copies.items():
            stage.page.result(f"{who} got a copy with Reply-To: {_short(copy.reply_to)}")
        for who in self._mail.expected.keys() - self._copies.keys():
            told = stage.told(self._mail, who)
            stage.page.result(f"{who}: {told}. Consumers hear that this approver cannot answer: undeliverable.")
        tokens = {copy.reply_to for copy in self._copies.values()}
        alone = all(len(a.recipients) == 1 for a in stage.server.arrivals if a.queue_id == self._mail.queue_id)
        stage.fact(alone and len(tokens) == len(self._copies), "each approver has a reply address that nobody else got")
        order = [event.name for event in stage.daemon.events if event.pairs.get("queue_id") == self._mail.queue_id]
        opened = "request.opened" in order[: order.index("message.sent")] if self._copies else True
        stage.fact(opened, "the request was on disk before the first copy went out")

    async def hear_what_decides_nothing(self) -> None:
        """An automatic answer, and a forged one."""
        stage, copy = self._stage, self._copies.get(CAROL)
        if copy is None:
            return
        await stage.next(
            'Two answers arrive that begin with "Approved", and must not count: Carol\'s out-of-office notice, and one '
            "of somebody who got hold of her mail and writes in her name, from outside."
        )
        notice = await self._answer(out_of_office(copy), CAROL)
        stage.page.result(
            f"The notice is {notice.pairs['status']}: it says itself that a machine wrote it (RFC 3834). It is kept, "
            "and decides nothing."
        )
        stage.fact(notice.pairs["status"] == "auto-reply", "the out-of-office notice decided nothing")
        forged = await self._answer(forgery(copy), "")
        document = await self._taken(forged)
        trust = document["data"]["authentication"]
        stage.page.result(
            f"The forgery is {forged.pairs['status']}, {forged.pairs['reason']}: its token is {trust['token']}, but "
            f"{trust['authserv_id']} found dmarc={trust['dmarc']}. The dmarc=pass that its author wrote stands below "
            "our server's Received line, and counts for nothing. The consumer hears of it, as "
            f"{document['type']}: nothing that could be taken for a yes."
        )
        stage.fact(
            forged.pairs["status"] == "untrusted" and document["type"] == "org.mailrelayd.decision.untrusted",
            "the forged approval was not taken for one",
        )

    async def hear_the_approvers(self) -> None:
        """The boss approves, Carol does not."""
        stage = self._stage
        boss, carol = self._copies.get(BOSS), self._copies.get(CAROL)
        if boss is not None:
            await stage.next(
                'Boss answers from Outlook (HTML and text, the request quoted below): "Approved.", and a comment. '
                "The IMAP server tells the daemon at once (IDLE); a consumer finds this in state/decisions/erp/new/:"
            )
            event = await self._answer(outlook(boss, APPROVED), BOSS)
            document = await self._taken(event)
            for line in _lines(document):
                stage.page.quote(line)
            stage.page.result(f"{document['data']['decision']}. Consumers may have lost it, so it can be told again:")
            first = self._documents.copy()
            await stage.daemon.run("decisions", "replay", event.pairs["decision_id"])
            await self._taken(event)
            stage.fact(first == self._documents, "what is told again has the same id, and is the same byte for byte")
            comment = document["data"]["comment"]
            stage.fact(
                event.pairs["status"] == "approved" and "silver ones" in comment and "laptops" not in comment,
                "the boss's approval was read as one; the comment holds nothing of the quoted request",
            )
        if carol is not None:
            await stage.next('Carol answers from her iPhone, in German: "Abgelehnt" (rejected), "zu teuer" (too dear).')
            event = await self._answer(iphone(carol, REJECTED), CAROL)
            document = await self._taken(event)
            stage.page.result(f"{document['data']['decision']}, comment: {document['data']['comment']}.")
            said = (event.pairs["status"], document["data"]["comment"])
            stage.fact(said == ("rejected", "zu teuer"), "Carol's rejection was read as one, in German")
        everybody = boss is not None and carol is not None
        if everybody:
            await stage.daemon.until(self._closed, "the request was closed")
        await stage.daemon.run("approvals", "list", "--all")
        if everybody:
            stage.page.result(
                f"Everybody has answered. The mailbox is empty: {len(stage.removed)} mails were removed, each after it "
                "and what was made of it stood in state/archive/."
            )
            self._check()

    def _closed(self) -> bool:
        return any(event.pairs["status"] == "decided" for event in self._stage.daemon.found("request.closed"))

    # -- the approvers' side, and the consumer's ---------------------------------------------------------------

    async def _answer(self, reply: EmailMessage, user: str) -> Event:
        """Send it, and wait until the daemon has read it; what it said about it."""
        before = len(self._stage.daemon.found("reply.read"))
        await self._hand_in(reply, user)
        self._sent += 1
        daemon = self._stage.daemon
        await daemon.until(lambda: len(daemon.found("reply.read")) > before, "the answer was read")
        event = daemon.found("reply.read")[before]
        await daemon.until(lambda: self._said("mail.removed", event), "the answer was removed from the mailbox")
        return event

    def _said(self, name: str, about: Event, times: int = 1) -> bool:
        told = [one.pairs["decision_id"] for one in self._stage.daemon.found(name)]
        return told.count(about.pairs["decision_id"]) >= times

    async def _hand_in(self, reply: EmailMessage, user: str) -> None:
        try:
            await asyncio.to_thread(self._post.send, reply, user)
        except (OSError, smtplib.SMTPException) as error:
            raise UntrueError(f"the server of the demonstration did not take an answer: {error}") from error

    async def _taken(self, event: Event) -> dict[str, Any]:
        """The document about this answer, as a consumer gets it: read, then removed."""
        decision_id = event.pairs["decision_id"]
        self._taken_times[decision_id] += 1
        await self._stage.daemon.until(
            lambda: self._said("decision.delivered", event, self._taken_times[decision_id]), "it was delivered"
        )
        path = self._stage.folder / "state" / "decisions" / "erp" / "new" / f"{decision_id}.json"
        self._documents[decision_id] = path.read_bytes()
        path.unlink()
        document: dict[str, Any] = json.loads(self._documents[decision_id])
        return document

    def visited(self, arrival: Arrival) -> None:
        """A visitor's own request: boss approves it after a moment, everybody else keeps silent."""
        copy = Request.read(arrival.content)
        if arrival.recipients == (BOSS,) and copy.reply_to.startswith(REPLIES.partition("@")[0] + "+"):
            task = asyncio.create_task(self._hand_in(outlook(copy, "Approved."), BOSS))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def close(self) -> None:
        """Nobody answers any more."""
        if self._sending:
            await asyncio.wait(self._sending)

    # -- the summary, and the check ----------------------------------------------------------------------------

    def rows(self) -> Sequence[tuple[str, str]]:
        """Each answer that was read, in order: who, and what became of it."""
        return [
            (
                event.pairs["from"][1:-1],
                event.pairs["status"]
                + ("" if event.pairs["status"] == event.pairs["reason"] else f" ({event.pairs['reason']})"),
            )
            for event in self._stage.daemon.found("reply.read")
            if event.pairs.get("request_id") == "PO-42"
        ]

    def _check(self) -> None:
        """Compare what was told with the mailbox, the archive and what the consumer took."""
        stage = self._stage
        stage.fact(not stage.mailbox.mails and len(stage.removed) == self._sent, "the mailbox is empty")
        stage.fact(
            all(decision is not None for _, decision in stage.removed),
            "when a mail was removed, it stood in state/archive/ byte for byte, with its decision.json",
        )
        stored = {json.loads(decision)["id"]: decision for _, decision in stage.removed if decision is not None}
        told = [json.loads(document)["data"]["decision"] for document in self._documents.values()]
        left = list((stage.folder / "state" / "decisions" / "erp" / "new").iterdir())
        stage.fact(
            told == ["untrusted", "approved", "rejected"]
            and not left
            and all(stored.get(one) == document for one, document in self._documents.items()),
            f"the consumer got {len(told)} documents ({', '.join(told)}), each the bytes in the archive, and no other",
        )


def quoted(value: object) -> str:
    """A TOML string; JSON's escapes are TOML's."""
    return json.dumps(str(value), ensure_ascii=False)


def _short(address: str) -> str:
    """An address with the middle of its token left out."""
    local, _, domain = address.partition("@")
    return f"{local[:20]}...{local[-4:]}@{domain}"


def _lines(document: dict[str, Any]) -> list[str]:
    """The part of a document that a person would look for."""
    lines = [f"{quoted(key)}: {json.dumps(document[key])}" for key in ("id", "type", "subject")]
    return lines + [f"  {quoted(key)}: {json.dumps(document['data'][key])}" for key in SHOWN]
