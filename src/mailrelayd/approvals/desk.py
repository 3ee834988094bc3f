"""Where requests, mails and decisions meet: it owns the registry, the archive and the outboxes.

The order of one answer, each step on disk before the next: the mail in the archive, its decision beside it (the commit
point), the registry's word, the outboxes. Whatever is interrupted is made good by reading the mail again: it is still
in its folder, its id is the same, and the archive answers for it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from mailrelayd.approvals import bounces, document, receipts, reminders, token
from mailrelayd.approvals.archive import Archive, Draft
from mailrelayd.approvals.bounces import Bounce
from mailrelayd.approvals.judge import TOLD, Found, Judgement, Outcome, Sender, judge
from mailrelayd.approvals.memory import Memory
from mailrelayd.approvals.mime import Unreadable, parse
from mailrelayd.approvals.outbox import Outbox
from mailrelayd.approvals.reading import read_mail
from mailrelayd.approvals.registry import Registry
from mailrelayd.approvals.request import Copy, Decided, Request, State, same
from mailrelayd.approvals.sender import SenderCheck
from mailrelayd.approvals.tokens import header_texts, tokens_in
from mailrelayd.approvals.values import Kind, Options, Reading
from mailrelayd.clock import Clock
from mailrelayd.inbound.protocols import Action, Arrived, Disposition, Whose
from mailrelayd.operate import approval_events as events
from mailrelayd.operate.events import message_queued
from mailrelayd.outbound.asking import Asking
from mailrelayd.outbound.values import ApprovalCopy, Envelope, Progress, QueuedMessage, Status

T = TypeVar("T")

JUDGED = 1 << 20  # bytes of a mail that are read; the rest is archived
PATIENCE = 86_400.0  # seconds for which a mail waits while nobody can tell who wrote it
MOST_OWED = 1000  # receipts that wait to be sent
HOUSE = 30.0  # seconds between two looks for what is over


@dataclass(frozen=True, slots=True)
class Terms:
    """[approvals], [[decisions]] and [state], as far as answers are concerned."""

    node: str
    secrets: Callable[[], tuple[bytes, ...]]  # raises OSError as long as they cannot be had
    check: SenderCheck
    options: Options = field(default_factory=Options)
    delegates: Mapping[str, Sequence[str]] = field(default_factory=dict)
    headers: Mapping[str, Sequence[str]] = field(default_factory=dict)  # sink -> header fields to hand on
    unmatched: Mapping[str, str] = field(default_factory=dict)  # inbound account -> leave, quarantine, delete
    reply_address: str = ""
    subaddressing: bool = True
    separator: str = "+"
    subject_tag: bool = False
    receipts: str = "none"  # none, unclear, all
    remind: tuple[float, ...] = ()  # seconds since the request was opened
    keep_archive: float = 365 * 86_400.0
    keep_quarantine: float = 90 * 86_400.0
    keep_requests: float = 365 * 86_400.0


class Send(Protocol):
    """`Queue.add`: who sends mails of our own."""

    async def __call__(
        self, data: bytes, envelope: Envelope, *, rule: str, copies: tuple[ApprovalCopy, ...] = ()
    ) -> str:
        """On disk when this returns; the queue id. Raises OSError."""


class Desk:
    """One per daemon."""

    def __init__(
        self,
        terms: Terms,
        registry: Registry,
        archive: Archive,
        outboxes: Sequence[Outbox],
        clock: Clock,
        send: Send | None = None,
    ) -> None:
        """`send`: for receipts and reminders; None: there are none."""
        self.terms = terms
        self.registry = registry
        self._archive = archive
        self._outboxes = {outbox.name: outbox for outbox in outboxes}
        self._clock = clock
        self._one_by_one = asyncio.Lock()  # the first valid decision of an approver counts: only one at a time
        self._polled: dict[str, float] = {}  # account -> when the last whole poll began
        self._unread: dict[str, float] = {}  # account -> when a mail could last not be read, which will come again
        self._started = clock.now()
        self._send = send
        self._owed: deque[_Owed] = deque(maxlen=MOST_OWED)
        self._drafts = 0
        self.wake_pollers: Callable[[], None] = lambda: None
        for outbox in outboxes:
            outbox.on_taken = self._taken

    # -- the start ---------------------------------------------------------------------------------------------

    async def open_up(self) -> None:
        """Derive the registry's word from the archive, as far as a crash kept them apart. Raises OSError."""
        await asyncio.to_thread(self._derive)

    def _derive(self) -> None:
        for text in self._archive.documents(days=2):
            try:
                outcome, event = document.outcome_of(text)
                self._note(outcome, event)
            except ValueError:
                continue
        for request in self.registry:
            self.registry.supersede(request.request_id)

    def _note(self, outcome: Outcome, event: dict[str, Any]) -> None:
        data = event["data"]
        request = self.registry.get(data["original"]["queue_id"]) if data["original"] else None
        who = data["decided_by"]["on_behalf_of"] or data["decided_by"]["address"]
        if request is not None and who:
            self._decide(request, who, outcome, event["id"], self._clock.now())

    def _decide(self, request: Request, approver: str, outcome: Outcome, decision_id: str, at: float) -> Request:
        """Write down what counts for an approver from now on, if this outcome does."""
        lasting = (Outcome.APPROVED, Outcome.REJECTED, Outcome.UNDELIVERABLE, Outcome.EXPIRED, Outcome.CANCELLED)
        known = next((copy.approver for copy in request.copies if same(copy.approver, approver)), None)
        before = request.decided.get(known or "")
        person = before is not None and before.outcome in (Outcome.APPROVED, Outcome.REJECTED)
        if known is None or outcome not in lasting or person or (before and before.outcome == outcome):
            return request
        decided = {**request.decided, known: Decided(outcome.value, decision_id, at)}
        changed = replace(request, decided=decided)
        self.registry.update(changed)
        return changed

    # -- reading mail ------------------------------------------------------------------------------------------

    def whose(self, header: bytes) -> Whose:
        """By its header lines alone: whether a token of ours stands in them."""
        found = self._found(token.find(header.decode("ascii", "replace").replace("\r\n", "\n")))
        if any(one.genuine for one in found):
            return Whose.OURS
        return Whose.FOREIGN if found else Whose.NOBODY

    def _found(self, tokens: Sequence[token.Token]) -> list[Found]:
        found = []
        for one in tokens:
            request = self.registry.of_copy(one.copy)
            copy = request.copy(one.copy) if request is not None else None
            genuine = (
                request is not None
                and copy is not None
                and token.verify(one, self.terms.secrets(), node=self.terms.node, approver=copy.approver)
            )
            found.append(Found(one, request, genuine))
        return found

    async def receive(self, arrived: Arrived, pieces: AsyncIterator[bytes]) -> Disposition:
        """Read and archive one mail. Raises OSError; then nothing has happened to it."""
        self._drafts += 1
        draft = await asyncio.to_thread(self._archive.draft, f"{arrived.account}-{self._drafts}")
        try:
            head = bytearray()
            looked_at = max(JUDGED + 1, self.terms.check.reads)  # one more: what is longer is known to be
            async for piece in pieces:
                await asyncio.to_thread(draft.write, piece)
                head += piece[: looked_at - len(head)]
            read = await asyncio.to_thread(self._read, bytes(head), arrived.received_at)
            async with self._one_by_one:
                return await self._settle(arrived, draft, read)
        except OSError:
            self._unread[arrived.account] = self._clock.now()
            raise
        finally:
            await asyncio.to_thread(draft.discard)

    def _read(self, data: bytes, received_at: float) -> _Read:
        """Everything that can be told without knowing what others said. Takes CPU time: runs in a thread.

        Raises OSError where nobody can tell now who wrote it.
        """
        mail = parse(data)
        if isinstance(mail, Unreadable):
            reading = Reading(Kind.UNREADABLE, None, mail.reason, rules=(mail.detail,))
            return _Read(reading, [], Sender("", False, mail.detail, self.terms.check.method), "", {})
        reading = read_mail(mail, self.terms.options)
        bounce = bounces.read(mail) if reading.kind is Kind.BOUNCE else None
        found = self._found(tokens_in(mail) if bounce is None else bounce.tokens)
        requests = {one.request.queue_id: one.request for one in found if one.genuine and one.request}
        if len(requests) == 1:
            (request,) = requests.values()
            reading = read_mail(mail, self.terms.options, Memory(*self.registry.texts(request)))
        # Only for a mail that could decide is anybody else asked, and not for ever.
        sender = self.terms.check(
            data,
            received_at,
            ask=bool(requests) and reading.kind in (Kind.REPLY, Kind.LIST),
            lasting=self._clock.now() - max(received_at, self._started) > PATIENCE,
        )
        return _Read(reading, found, sender, mail.first("message-id").strip(), header_texts(mail), bounce)

    async def _settle(self, arrived: Arrived, draft: Draft, read: _Read) -> Disposition:
        # Again from the registry: while this mail was read another may have been decided on.
        found = self._found([one.token for one in read.found])
        judgement = judge(
            read.reading,
            found,
            read.sender,
            arrived.received_at,
            delegates=self.terms.delegates,
            via_list=self.terms.options.via_list,
            bounce=read.bounce,
        )
        new_text = hashlib.sha256(read.reading.new_text.encode("utf-8", "surrogatepass")).hexdigest()
        token_text = str(judgement.token) if judgement.token else ""
        decision_id = document.decision_id(token_text, read.message_id, draft.sha256, new_text)
        events.reply_read(
            account=arrived.account,
            uid=arrived.uid,
            sender=read.sender.address,
            status=judgement.outcome.value,
            reason=judgement.reason,
            request_id=judgement.request.request_id if judgement.request else None,
            decision_id=decision_id,
        )
        if judgement.request is None:
            return await self._unmatched(arrived, draft, judgement, decision_id, read)
        stored = await asyncio.to_thread(self._archive.find, decision_id)
        new = stored is None
        if stored is None:
            stored = await self._keep(arrived, draft, judgement, decision_id, read)
        else:  # the last time may have ended between the archive and the registry
            await asyncio.to_thread(self._note, *document.outcome_of(stored))
        await self._hand_on(stored, judgement.request)
        if new and self._send and receipts.wanted(self.terms.receipts, judgement, read.reading, read.sender):
            self._owed.append(_Owed(judgement, read.sender, decision_id, read.message_id))
        return Disposition(Action.REMOVE, decision_id, document.recorded_at(stored), new)

    async def _unmatched(
        self, arrived: Arrived, draft: Draft, judgement: Judgement, decision_id: str, read: _Read
    ) -> Disposition:
        """Mail that leads to no request of ours: [inbound.NAME] unmatched says what becomes of it."""
        wanted = self.terms.unmatched.get(arrived.account, "leave")
        now = self._clock.now()
        # What could not be read, or is another machine's, is never removed.
        if judgement.outcome in (Outcome.FOREIGN, Outcome.UNREADABLE) or wanted == "leave":
            return Disposition(Action.LEAVE, decision_id, now)
        if wanted == "quarantine":
            await asyncio.to_thread(self._archive.set_aside, decision_id, draft)
        else:
            stored = await asyncio.to_thread(self._archive.find, decision_id)
            if stored is not None:
                return Disposition(Action.REMOVE, decision_id, document.recorded_at(stored), new=False)
            await self._keep(arrived, draft, judgement, decision_id, read)
        return Disposition(Action.REMOVE, decision_id, now)

    async def _keep(self, arrived: Arrived, draft: Draft, judgement: Judgement, decision_id: str, read: _Read) -> bytes:
        """Commit: mail and decision in the archive, then the registry's word."""
        now = self._clock.now()
        place = self._archive.place(decision_id, now)
        wanted = {name.lower(): name for sink in self._sinks_of(judgement.request) for name in self._headers(sink)}
        mail = document.Mail(
            mailbox=f"{arrived.account}/{arrived.folder}",
            uidvalidity=arrived.uidvalidity,
            uid=arrived.uid,
            message_id=read.message_id,
            sha256=draft.sha256,
            received_at=arrived.received_at,
            headers={wanted[name]: value for name, value in read.headers.items() if name in wanted},
        )
        text = document.document(
            judgement, id=decision_id, node=self.terms.node, at=now, sender=read.sender, mail=mail, archive=place
        )
        await asyncio.to_thread(self._archive.keep, place, text, draft)
        await self._recorded(judgement, decision_id, now)
        return text

    async def _recorded(self, judgement: Judgement, decision_id: str, now: float) -> None:
        request, copy = judgement.request, judgement.copy
        if request is None or copy is None or judgement.outcome not in TOLD:
            return
        events.decision_recorded(
            decision_id=decision_id,
            request_id=request.request_id,
            status=judgement.outcome.value,
            reason=judgement.reason,
            by=judgement.decided_by or copy.approver,
        )
        before = self.registry.get(request.queue_id) or request
        changed = await asyncio.to_thread(self._decide, before, copy.approver, judgement.outcome, decision_id, now)
        if changed.state(now) is State.DECIDED and before.state(now) is not State.DECIDED:
            events.request_closed(queue_id=request.queue_id, request_id=request.request_id, status="decided")

    # -- handing on --------------------------------------------------------------------------------------------

    def _sinks_of(self, request: Request | None) -> list[str]:
        return [name for name in request.sinks if name in self._outboxes] if request is not None else []

    def _headers(self, sink: str) -> Sequence[str]:
        return self.terms.headers.get(sink, ())

    async def _hand_on(self, stored: bytes, request: Request) -> None:
        """Owe a stored document to every sink of its request. Raises OSError; then the mail comes again."""
        outcome, event = document.outcome_of(stored)
        if outcome not in TOLD:
            return
        decision_id = str(event["id"])
        for name in self._sinks_of(request):
            await asyncio.to_thread(self._outboxes[name].put, decision_id, stored)
            self._outboxes[name].offer(decision_id)

    def may_remove(self, decision_id: str) -> bool:
        """Whether every required sink has it, or it is parked where a person looks."""
        return all(outbox.settled(decision_id) for outbox in self._outboxes.values() if outbox.required)

    def _taken(self, decision_id: str) -> None:
        self.wake_pollers()

    async def replay(self, decision_id: str) -> list[str]:
        """Offer a stored document to its sinks again; their names, none where there is no such. Raises OSError."""
        stored = await asyncio.to_thread(self._archive.find, decision_id)
        original = json.loads(stored)["data"]["original"] if stored is not None else None
        request = self.registry.get(original["queue_id"]) if original else None
        if stored is None or request is None:
            return []
        await self._hand_on(stored, request)
        return self._sinks_of(request)

    # -- what nobody answered ----------------------------------------------------------------------------------

    def polled(self, account: str, begun_at: float) -> None:
        """A poll that began then has looked at everything there was; what it could not read may be an answer."""
        if self._unread.get(account, 0.0) < begun_at:
            self._polled[account] = begun_at

    async def keep_house(self, accounts: Sequence[str]) -> None:
        """Close what is over: only after every mailbox was read through since, so that no answer is cut off."""
        now = self._clock.now()
        read_until = min((self._polled.get(account, 0.0) for account in accounts), default=0.0)
        for request in list(self.registry):
            if request.state(now) is State.EXPIRED and not request.expired_at and request.expires_at < read_until:
                await self.close(request, Outcome.EXPIRED, "no-answer")
        # Not where answers are read: a spool without room must not keep anybody from reading on.
        while self._owed:
            await self._send_receipt(self._owed.popleft())
        for request in list(self.registry):
            await self._remind(request)
        for queue_id in self.registry.originals():
            kept = self.registry.get(queue_id)
            if kept is None or kept.state(now) is not State.OPEN or kept.reminded >= len(self.terms.remind):
                await asyncio.to_thread(self.registry.drop_original, queue_id)

    async def _send_receipt(self, owed: _Owed) -> None:
        """Tell somebody what became of their answer, at most once a day. Raises OSError.

        First written down, then sent: a crash or a fault in between costs the receipt, and nothing makes two of it.
        """
        now, request = self._clock.now(), owed.judgement.request
        if request is None or self._send is None:
            return
        async with self._one_by_one:
            current = self.registry.get(request.queue_id)
            told = receipts.noted(current, owed.sender.address, now) if current is not None else None
            if current is None or told is None:
                return
            await asyncio.to_thread(self.registry.update, replace(current, receipts=told))
        data = receipts.receipt(
            owed.judgement, owed.sender, self._asking, id=owed.decision_id, answered=owed.message_id, now=now
        )
        await self._queue(data, Envelope("", (owed.sender.address,)), receipts.RULE, request)

    async def _remind(self, request: Request) -> None:
        """Ask again who has not answered, if it is time. Raises OSError.

        First sent, then written down: a crash in between may ask twice, and nothing can forget to ask.
        """
        count = reminders.due(request, self.terms.remind, self._clock.now())
        if count == request.reminded or self._send is None:
            return
        original = await asyncio.to_thread(self.registry.original, request.queue_id)
        data = reminders.reminder(original) if original is not None else None
        copies: tuple[ApprovalCopy, ...] = ()
        if data is not None:
            secret = self.terms.secrets()[0]
            copies = tuple(reminders.again(request, copy, secret) for copy in reminders.owed(request))
            envelope = Envelope(request.sender, tuple(copy.recipient for copy in copies))
            await self._queue(data, envelope, reminders.RULE, request, copies)
        events.request_reminded(queue_id=request.queue_id, request_id=request.request_id, copies=len(copies))
        async with self._one_by_one:
            current = self.registry.get(request.queue_id) or request
            await asyncio.to_thread(self.registry.update, replace(current, reminded=count))

    async def _queue(
        self, data: bytes, envelope: Envelope, rule: str, about: Request, copies: tuple[ApprovalCopy, ...] = ()
    ) -> None:
        """Send a mail of our own, by the queue. Raises OSError."""
        assert self._send is not None
        queue_id = await self._send(data, envelope, rule=rule, copies=copies)
        message_queued(
            queue_id=queue_id,
            sender=envelope.sender,
            nrcpt=len(envelope.recipients),
            size=len(data),
            file="",
            uid=None,
            rule=rule,
            about=about.queue_id,
        )

    @property
    def _asking(self) -> Asking:
        terms = self.terms
        return Asking(terms.node, terms.reply_address, terms.separator, terms.subaddressing, terms.subject_tag)

    async def cancel(self, request: Request, by: str) -> None:
        """Close an open request; answers to it are `cancelled` from now on. Raises OSError."""
        await self.close(request, Outcome.CANCELLED, "cancelled-by-operator", by)

    async def close(self, request: Request, outcome: Outcome, reason: str, by: str | None = None) -> None:
        """Tell for everybody who has not answered what became of it, then write the end down. Raises OSError."""
        now = self._clock.now()
        async with self._one_by_one:
            for copy in (self.registry.get(request.queue_id) or request).owed():
                await self.tell(request, copy, outcome, reason)
            current = self.registry.get(request.queue_id) or request
            cancelled = outcome is Outcome.CANCELLED
            ended = replace(current, cancelled_at=now) if cancelled else replace(current, expired_at=now)
            await asyncio.to_thread(self.registry.update, ended)
        events.request_closed(queue_id=request.queue_id, request_id=request.request_id, status=outcome.value, by=by)

    async def tell(self, request: Request, copy: Copy, outcome: Outcome, reason: str) -> None:
        """An outcome that no mail carried: archived, noted, handed on. Raises OSError."""
        now = self._clock.now()
        decision_id = document.event_id(request, copy, outcome.value)
        judgement = Judgement(outcome, reason, request, copy)
        stored = await asyncio.to_thread(self._archive.find, decision_id)
        if stored is None:
            stored = document.document(
                judgement, id=decision_id, node=self.terms.node, at=now, sender=None, mail=None, archive=""
            )
            place = self._archive.place(decision_id, now)
            await asyncio.to_thread(self._archive.keep, place, stored, None)
        await self._recorded(judgement, decision_id, now)
        await self._hand_on(stored, request)

    async def settled(self, message: QueuedMessage, progress: Progress) -> None:
        """Some copies were sent or given up: note when, and tell that who did not get theirs cannot answer."""
        for made in message.copies:
            record = progress.recipients.get(made.recipient)
            async with self._one_by_one:  # and the registry's word is read within: others change it, too
                request = self.registry.get(message.queue_id)
                copies = request.copies if request is not None else ()
                copy = next((one for one in copies if same(one.approver, made.recipient)), None)
                if record is None or request is None or copy is None:
                    continue
                if record.status is Status.SENT and copy.approver not in request.sent:
                    sent = {**request.sent, copy.approver: record.at}
                    await asyncio.to_thread(self.registry.update, replace(request, sent=sent))
                # Its time was up before it could be sent: that is told with all others who did not answer.
                over = record.reason == "expired" and request.state(self._clock.now()) is State.EXPIRED
                if record.status is Status.FAILED and copy.approver not in request.decided and not over:
                    await self.tell(request, copy, Outcome.UNDELIVERABLE, record.reason or "rejected")

    async def sweep(self) -> None:
        """Remove what is old enough. Raises OSError."""
        now, terms = self._clock.now(), self.terms
        await asyncio.to_thread(self._archive.sweep, now, terms.keep_archive, terms.keep_quarantine)
        await asyncio.to_thread(self.registry.sweep, now, terms.keep_requests)


@dataclass(frozen=True, slots=True)
class _Read:
    """What one mail says, before anybody else's answer is taken into account."""

    reading: Reading
    found: list[Found]
    sender: Sender
    message_id: str
    headers: Mapping[str, str]  # name in lower case -> first content
    bounce: Bounce | None = None


@dataclass(frozen=True, slots=True)
class _Owed:
    """A receipt that is to be sent."""

    judgement: Judgement
    sender: Sender
    decision_id: str
    message_id: str  # of the answer
