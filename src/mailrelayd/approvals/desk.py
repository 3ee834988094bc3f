"""Where requests, mails and decisions meet: it owns the registry, the archive and the outboxes.

The order of one answer, each step on disk before the next: the mail in the archive, its decision beside it (the commit
point), the registry's word, the outboxes. Whatever is interrupted is made good by reading the mail again: it is still
in its folder, its id is the same, and the archive answers for it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from mailrelayd.approvals import bounces, document, receipts, token
from mailrelayd.approvals.archive import Archive, Draft
from mailrelayd.approvals.bounces import Bounce
from mailrelayd.approvals.judge import Found, Judgement, Outcome, Sender, judge
from mailrelayd.approvals.kinds import kind_of
from mailrelayd.approvals.ledger import Ledger, Park
from mailrelayd.approvals.letters import Letters, Owed, Send
from mailrelayd.approvals.memory import Memory
from mailrelayd.approvals.mime import Unreadable, parse
from mailrelayd.approvals.outbox import Outbox
from mailrelayd.approvals.reading import read_mail
from mailrelayd.approvals.registry import Registry
from mailrelayd.approvals.request import Copy, Request, State, same
from mailrelayd.approvals.sender import SenderCheck
from mailrelayd.approvals.tokens import header_texts, tokens_in
from mailrelayd.approvals.values import Kind, Options, Reading
from mailrelayd.clock import Clock
from mailrelayd.inbound.protocols import Action, Arrived, Disposition, Whose
from mailrelayd.operate import approval_events as events
from mailrelayd.outbound.queue import Source
from mailrelayd.outbound.values import ApprovalCopy, Progress, QueuedMessage, Status

T = TypeVar("T")

JUDGED = 1 << 20  # bytes of a mail that are read; the rest is archived
PATIENCE = 86_400.0  # seconds for which a mail waits while nobody can tell who wrote it
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
        may_expire: Callable[[], bool] = lambda: True,
        park: Park | None = None,
        is_queued: Callable[[str], bool] | None = None,
    ) -> None:
        """`send`: for receipts and reminders; None: there are none. `may_expire`: whether the clock can be trusted.

        `park` (sink, decision id, document) keeps what is for a sink that the configuration no longer has.
        `is_queued`: whether the message of this id is still to be sent; it blocks for the disk, and may raise OSError.
        """
        self.terms = terms
        self.registry = registry
        self.ledger = Ledger(terms.node, registry, archive, outboxes, clock, park)
        self._letters = Letters(send, registry, clock, lambda: self.terms)
        self._archive = archive
        self._clock = clock
        self._one_by_one = asyncio.Lock()  # the first valid decision of an approver counts: only one at a time
        self._polled: dict[str, float] = {}  # account -> when the last whole poll began
        self._unread: dict[str, float] = {}  # account -> when a mail could last not be read, which will come again
        self._started = clock.now()
        self._may_expire = may_expire
        self._is_queued = is_queued
        self._drafts = 0
        self.on_served: Callable[[str], None] = lambda decision_id: None  # a sink is done with this decision
        for outbox in outboxes:
            outbox.on_taken = lambda decision_id: self.on_served(decision_id)

    # -- the start ---------------------------------------------------------------------------------------------

    async def open_up(self) -> None:
        """Derive the registry's word from the archive, as far as a crash kept them apart. Raises OSError.

        What the registry has not heard of the sinks may not have heard of either: no mail need bring it again.
        """
        for stored, request, meaning in await asyncio.to_thread(self.ledger.missed):
            await self.ledger.hand_on(stored, request, meaning)

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
        draft = self._archive.draft(f"{arrived.account}-{self._drafts}")
        try:
            head, last = bytearray(), b""
            looked_at = max(JUDGED + 1, self.terms.check.reads)  # one more: what is longer is known to be
            async for piece in pieces:
                if last:
                    await asyncio.to_thread(draft.write, last)
                last = piece
                head += piece[: looked_at - len(head)]
            read = await asyncio.to_thread(self._take, draft, last, bytes(head), arrived.received_at)
            async with self._one_by_one:
                return await self._settle(arrived, draft, read)
        except OSError:
            self._unread[arrived.account] = self._clock.now()
            raise
        finally:
            if draft.exists:
                await asyncio.to_thread(draft.discard)

    def _take(self, draft: Draft, last: bytes, data: bytes, received_at: float) -> _Read:
        """Write the last piece of a mail, and read its first ones. Raises OSError."""
        draft.write(last)
        return self._read(data, received_at)

    def _read(self, data: bytes, received_at: float) -> _Read:
        """Everything that can be told without knowing what others said. Takes CPU time: runs in a thread.

        Raises OSError where nobody can tell now who wrote it.
        """
        mail = parse(data)
        if isinstance(mail, Unreadable):
            reading = Reading(Kind.UNREADABLE, None, mail.reason, rules=(mail.detail,))
            return _Read(reading, [], Sender("", False, mail.detail, self.terms.check.method), "", {})
        kind, _ = kind_of(mail, via_list=self.terms.options.via_list)
        bounce = bounces.read(mail) if kind is Kind.BOUNCE else None
        found = self._found(tokens_in(mail) if bounce is None else bounce.tokens)
        requests = {one.request.queue_id: one.request for one in found if one.genuine and one.request}
        texts = self.registry.texts(next(iter(requests.values()))) if len(requests) == 1 else ()
        reading = read_mail(mail, self.terms.options, Memory(*texts) if texts else None)
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
        stored = await self._stored(decision_id)
        if stored is not None and judgement.outcome is not Outcome.UNTRUSTED and _is_of_another(stored, draft.sha256):
            # Who is not trusted must not silence who is, by a mail under the same Message-ID that came first.
            decision_id = document.decision_id(token_text, "", draft.sha256, new_text)
            stored = await self._stored(decision_id)
        new = stored is None
        if stored is None:
            stored = await self._keep(arrived, draft, judgement, decision_id, read)
        else:
            await asyncio.to_thread(self._archive.keep_also, decision_id, draft)
        # The registry's file last: what it does not know the next start tells the sinks. But nobody may decide twice
        # meanwhile, so memory knows it first. And the last time may have ended anywhere in between.
        _, request, meaning = self.ledger.said(stored)
        request = request or judgement.request
        self.registry.note(request.queue_id, meaning)
        await self.ledger.hand_on(stored, request, meaning)
        if new and receipts.wanted(self.terms.receipts, judgement, read.reading, read.sender):
            self._letters.owe(Owed(judgement, read.sender, decision_id, read.message_id))
        return Disposition(Action.REMOVE, decision_id, document.recorded_at(stored), new)

    async def _stored(self, decision_id: str) -> bytes | None:
        """What the archive has under this id. Raises OSError."""
        return await asyncio.to_thread(self._archive.find, decision_id) if decision_id in self._archive else None

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
            stored = await self._stored(decision_id)
            if stored is not None:
                await asyncio.to_thread(self._archive.keep_also, decision_id, draft)
                return Disposition(Action.REMOVE, decision_id, document.recorded_at(stored), new=False)
            await self._keep(arrived, draft, judgement, decision_id, read)
        return Disposition(Action.REMOVE, decision_id, now)

    async def _keep(self, arrived: Arrived, draft: Draft, judgement: Judgement, decision_id: str, read: _Read) -> bytes:
        """Commit: mail and decision in the archive, then the registry's word."""
        now = self._clock.now()
        place = self._archive.place(decision_id, now)
        wanted = {
            name.lower(): name
            for sink in self.ledger.sinks_of(judgement.request)
            for name in self.terms.headers.get(sink, ())
        }
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
        await self.ledger.keep(judgement, decision_id, place, text, draft)
        return text

    def may_remove(self, decision_id: str) -> bool:
        """Whether every required sink has it, or it is parked where a person looks."""
        return self.ledger.may_remove(decision_id)

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
            over = request.state(now) is State.EXPIRED and request.expires_at < read_until and self._may_expire()
            if request.cancelled_at and request.owed():  # a crash, or a full disk, came in between
                await self.cancel(request)
            elif (request.expired_at and request.owed()) or (over and not request.expired_at):
                await self.close(request, Outcome.EXPIRED, "no-answer")
        await self._miss()
        await self._letters.write()

    async def _miss(self) -> None:
        """Tell of copies that were not sent and never will be: their message was taken out of the queue."""
        is_queued, now = self._is_queued, self._clock.now()
        if is_queued is None:
            return
        unsent = [one for one in self.registry if one.state(now) is State.OPEN and _unsent(one)]
        for request in await asyncio.to_thread(lambda: [one for one in unsent if not is_queued(one.queue_id)]):
            async with self._one_by_one:  # what was sent was noted before it left the queue
                current = self.registry.get(request.queue_id) or request
                for copy in _unsent(current):
                    await self.ledger.tell(current, copy, Outcome.UNDELIVERABLE, "withdrawn")

    async def cancel(self, request: Request, by: str | None = None) -> None:
        """Close an open request; answers to it are `cancelled` from now on. Raises OSError."""
        await self.close(request, Outcome.CANCELLED, "cancelled-by-operator", by)

    async def close(self, request: Request, outcome: Outcome, reason: str, by: str | None = None) -> None:
        """Write the end down, then tell for everybody who has not answered what became of it. Raises OSError.

        From the first moment on no answer counts any more; what is not told yet, `keep_house` tells later.
        """
        now = self._clock.now()

        def end(one: Request) -> Request:
            if outcome is Outcome.CANCELLED:
                return replace(one, cancelled_at=one.cancelled_at or now)
            return replace(one, expired_at=one.expired_at or now)

        async with self._one_by_one:
            changed = await asyncio.to_thread(self.registry.change, request.queue_id, end)
            for copy in changed[1].owed() if changed is not None else ():
                await self.ledger.tell(request, copy, outcome, reason)
        events.request_closed(queue_id=request.queue_id, request_id=request.request_id, status=outcome.value, by=by)

    def is_closed(self, copy: ApprovalCopy) -> bool:
        """Whether its request was cancelled or superseded: an answer to it would not count."""
        made = token.parse(copy.token)
        request = self.registry.of_copy(made.copy) if made is not None else None
        return request is not None and bool(request.cancelled_at or request.superseded_by)

    def is_as_asked(self, message: QueuedMessage, source: Source) -> bool:
        """Whether these are the bytes that were asked about. Raises OSError."""
        request = self.registry.get(message.queue_id)
        if request is None:  # a reminder: it was made of what is kept here
            return True
        digest, offset = hashlib.sha256(), 0
        while piece := source.read(offset, JUDGED):
            digest.update(piece)
            offset += len(piece)
        return digest.hexdigest() == request.sha256

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
                    await asyncio.to_thread(self.registry.change, request.queue_id, _sent(copy.approver, record.at))
                # Its time was up before it could be sent: that is told with all others who did not answer.
                over = record.reason == "expired" and request.state(self._clock.now()) is not State.OPEN
                if record.status is Status.FAILED and copy.approver not in request.decided and not over:
                    await self.ledger.tell(request, copy, Outcome.UNDELIVERABLE, record.reason or "rejected")

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


def _is_of_another(stored: bytes, sha256: str) -> bool:
    """Whether a document says `untrusted`, and that of a mail with other bytes."""
    outcome, event = document.outcome_of(stored)
    message = event["data"]["message"]
    return outcome is Outcome.UNTRUSTED and message is not None and message["sha256"] != sha256


def _unsent(request: Request) -> list[Copy]:
    return [copy for copy in request.owed() if copy.approver not in request.sent]


def _sent(approver: str, at: float) -> Callable[[Request], Request]:
    return lambda request: replace(request, sent={**request.sent, approver: at})
