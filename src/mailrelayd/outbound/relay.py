"""The loop: due messages -> smarthost -> step. One task per connection.

What is in flight is a Transaction, so a lost connection is a value: every transaction that was handed over comes
back as exactly one Answers, in order, and is settled on disk before the next body may begin.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from mailrelayd.clock import Clock
from mailrelayd.operate import events
from mailrelayd.outbound import delivery
from mailrelayd.outbound.body import prepare
from mailrelayd.outbound.delivery import Fail, Policy, Release, Remove, Retry, Suspicion
from mailrelayd.outbound.envelope import rewrite
from mailrelayd.outbound.headers import Unreadable
from mailrelayd.outbound.queue import Queue, Source
from mailrelayd.outbound.route import Route
from mailrelayd.outbound.session import Session
from mailrelayd.outbound.stored import Reading
from mailrelayd.outbound.values import (
    Attempt,
    Progress,
    QueuedMessage,
    RecipientRecord,
    Response,
    Stage,
    Status,
    Transaction,
)

IDLE = 5.0  # seconds that an open connection waits for another message
MORE = 10  # messages that must be due for each further connection
PATIENCE = 30.0  # seconds between two signs of life while nothing is due


@dataclass(frozen=True, slots=True)
class Terms:
    """How to send: [node], [spool], [retry] and the account, as far as the relay needs them."""

    node: str
    own_address: str = ""
    reading: Reading = field(default_factory=Reading)
    policy: Policy = field(default_factory=Policy)
    max_recipients: int = 100
    strict_order: bool = False
    slowest: float = 900.0  # seconds that one step of a transaction may take


@dataclass(slots=True)
class _Claimed:
    message: QueuedMessage
    source: Source
    taken_at: float  # clock.monotonic()


@dataclass(slots=True)
class _Link:
    """What the two halves of a connection share: the one that hands over and the one that settles."""

    session: Session
    setup: float  # seconds it took to open, until a message has been charged with them
    claimed: dict[str, _Claimed] = field(default_factory=dict)  # handed over, not settled yet
    aside: asyncio.Lock = field(default_factory=asyncio.Lock)  # held while a message that never left is settled


class Relay:
    """What the connections to one smarthost share, and the loop that each of them runs."""

    def __init__(
        self, queue: Queue, route: Route, terms: Terms, clock: Clock, may_expire: Callable[[], bool] | None = None
    ) -> None:
        """`may_expire`: whether the wall clock can be trusted; by default it is watched from now on."""
        self._queue = queue
        self._route = route
        self._terms = terms
        self._clock = clock
        self._suspicion = Suspicion()
        self._first = ("", 0)  # the message that new connections broke on, and how often in a row
        self._may_expire = may_expire or delivery.ClockTrust(clock.now, clock.monotonic).given

    async def run(self, number: int, stop: asyncio.Event, beat: Callable[[float], None]) -> None:
        """Connection `number` (0 is the first), until `stop`. `beat`: within how many seconds it is called again."""
        while not stop.is_set():
            beat(PATIENCE * 2)
            # No connection without work, and a further one only for a backlog.
            if not await self._queue.wait_due(stop, at_least=1 + number * MORE, patience=PATIENCE):
                continue
            session = await self._route.open(stop, beat)
            if session is None:
                continue
            try:
                trouble = await self._drain(session, stop, beat)
            finally:
                self._route.closed()
            if trouble is not None:
                self._route.hold(trouble)

    async def _drain(self, session: Session, stop: asyncio.Event, beat: Callable[[float], None]) -> Response | None:
        """Send what is due in order, settle in the same order, leave no claimed message behind.

        The answer is what makes the route to be held, if anything does.
        """
        link = _Link(session, session.setup)
        session.alive = lambda: beat(self._terms.slowest)
        feeder = asyncio.create_task(self._feed(link, stop, beat), name="feed")
        blamed: Response | None = None
        cut, first = False, True
        try:
            async for answers in session.attempts():
                beat(self._terms.slowest)
                attempt = delivery.judge(answers, self._terms.own_address)
                if first and session.trouble is not None and session.settled == 0:
                    attempt = self._doubt_first(attempt, session.trouble)
                first = False
                work = link.claimed.pop(attempt.transaction.queue_id)
                held = await self._settle(work, attempt, link)
                blamed, cut = blamed or held, cut or attempt.cut is not None
                if blamed is not None or stop.is_set():
                    session.finish(stopping=True)
            await session.close()
        finally:
            async with link.aside:  # half-settled, a message would be neither waiting nor gone until the next start
                feeder.cancel()
            await asyncio.wait([feeder])
            session.abort()
            for left in link.claimed.values():
                left.source.close()
                self._queue.release(left.message)
        if not feeder.cancelled():
            feeder.result()  # a bug there is a bug here
        if blamed is not None:
            return blamed
        # Lost or sent away before anything was settled is trouble; after it, it is normal life: reconnect at once.
        # A message that was cut has been deferred, so reconnecting for the next one cannot go on for ever either.
        # What we did ourselves (a file that changed or could not be read) says nothing about the route.
        lost = session.trouble
        return lost if lost and session.settled == 0 and not cut and lost.stage is not Stage.LOCAL else None

    def _doubt_first(self, attempt: Attempt, trouble: Response) -> Attempt:
        """The attempt, blamed on its message where a server hung up on its MAIL without a word, time after time.

        Once, that is the route's trouble. But the message comes first again after every probe: if it were the
        cause, it would stop all others for ever.
        """
        # In a group the connection may break before even the RSET is answered. A code says that the server has no
        # time for anybody.
        if trouble.stage not in (Stage.RSET, Stage.MAIL) or trouble.code or attempt != Attempt(attempt.transaction):
            return attempt
        queue_id = attempt.transaction.queue_id
        self._first = (queue_id, self._first[1] + 1 if self._first[0] == queue_id else 1)
        return delivery.step_aside(attempt, trouble) if self._first[1] >= delivery.IN_A_ROW else attempt

    # -- handing over ------------------------------------------------------------------------------------------

    async def _feed(self, link: _Link, stop: asyncio.Event, beat: Callable[[float], None]) -> None:
        try:
            async with aclosing(self._queue.due(stop, idle=IDLE)) as due:
                async for message in due:
                    if not await self._hand_over(link, message, stop, beat):
                        return
        finally:
            link.session.finish(stopping=stop.is_set())

    async def _hand_over(
        self, link: _Link, message: QueuedMessage, stop: asyncio.Event, beat: Callable[[float], None]
    ) -> bool:
        """Begin one message's transaction; False: this session takes no more. Never raises for one message."""
        terms, taken_at = self._terms, self._clock.monotonic()
        recipients = delivery.owed(message, self._clock.now(), terms.max_recipients)
        if not recipients:
            async with link.aside:
                await self._close_settled(message)
            return True
        try:
            source = self._queue.open(message)
        except OSError as error:
            async with link.aside:
                await self._put_off(message, error)
            return True
        try:
            body = await prepare(
                source, message, node=terms.node, reading=terms.reading, progress=lambda: beat(terms.slowest)
            )
        except OSError as error:
            source.close()
            async with link.aside:
                await self._put_off(message, error)
            return True
        except BaseException:
            source.close()
            self._queue.release(message)
            raise
        work = _Claimed(message, source, taken_at)
        sender = rewrite(message.envelope.sender, terms.reading.from_address, terms.reading.rewrite_from)
        transaction = Transaction(message.queue_id, sender, recipients)
        if self._is_being_written(work) or (isinstance(body, Unreadable) and not source.unchanged()):
            async with link.aside:
                await self._settle(work, Attempt(transaction, changed=True), link)
            return True
        if isinstance(body, Unreadable):
            source.close()
            async with link.aside:
                await self._give_up(message, "unreadable", body.reason)
            return True
        transaction = replace(transaction, size=body.size, eight_bit=body.eight_bit)
        if refusals := delivery.unsupported(transaction, link.session.extensions, has_nul=body.has_nul):
            async with link.aside:
                await self._settle(work, delivery.refused_here(transaction, refusals), link)
            return True
        link.claimed[message.queue_id] = work
        try:
            if not stop.is_set() and await link.session.send(transaction, body):
                return True
        except ValueError as error:
            del link.claimed[message.queue_id]
            source.close()
            async with link.aside:
                await self._give_up(message, "unsupported", str(error))
            return True
        return False  # still in `claimed`: released with everything else that is left

    def _is_being_written(self, work: _Claimed) -> bool:
        """Whether a file that was found changed has not been still since: between two writes it would go out torn."""
        young = self._clock.now() - work.source.changed_at < self._terms.policy.settle
        return work.message.progress.changed > 0 and young

    async def _close_settled(self, message: QueuedMessage) -> None:
        """Nobody is owed anything, according to a record that somebody edited or copied back."""
        if any(record.status is Status.FAILED for record in message.progress.recipients.values()):
            await self._queue.fail(message, message.progress, "rejected")
        else:
            await self._queue.complete(message, message.progress)

    async def _put_off(self, message: QueuedMessage, error: OSError) -> None:
        """A message that cannot be read right now steps aside for a while."""
        reason = f"its file cannot be read: {error.strerror or error}"
        events.queue_trouble(doing="read", reason=reason, queue_id=message.queue_id)
        await self._queue.defer(message, message.progress, self._clock.now() + self._terms.policy.delay(2))

    async def _give_up(self, message: QueuedMessage, reason: str, detail: str) -> None:
        response = Response(Stage.LOCAL, 554, "5.6.0", detail)
        progress = delivery.give_up(message, reason, response, self._clock.now())
        await self._queue.fail(message, progress, reason)
        self._log(message, message.progress, progress, None, 0.0, "0/0/0/0")

    # -- settling ----------------------------------------------------------------------------------------------

    async def _settle(self, work: _Claimed, attempt: Attempt, link: _Link) -> Response | None:
        """Put on disk what one attempt meant; the answer that makes the route be held, if it does."""
        message, policy, now = work.message, self._terms.policy, self._clock.now()
        work.source.close()
        # Kept before anything is waited for: other connections add to it.
        self._suspicion, route_fault = delivery.suspect(self._suspicion, attempt, message.progress, now)
        refused = self._suspicion.refused
        if route_fault is not None and attempt.cut is None:
            attempt = delivery.excuse(attempt, route_fault)
        # What is the route's fault gives nobody up, however old the message is.
        may_expire = self._may_expire() and route_fault is None
        progress = delivery.advance(message.progress, attempt, policy, now, may_expire=may_expire)
        if route_fault is not None and attempt.cut is None:
            progress = replace(progress, excused_at=now)
        step = delivery.next_step(message, attempt, progress, policy, now)
        match step:
            case Remove():
                await self._queue.complete(message, progress)
            case Release():
                self._queue.release(message)
            case Retry(at):
                await self._queue.defer(message, progress, at)
            case Fail(reason):
                if reason == "changed":
                    progress = delivery.give_up(message, reason, _CHANGED, now)
                await self._queue.fail(message, progress, reason)
        self._log(message, message.progress, progress, attempt, now, self._delays(work, link), link.session.relay)
        if attempt.changed and isinstance(step, Retry):
            events.queue_trouble(
                doing="send", reason="its producer wrote to it while it was sent", queue_id=message.queue_id
            )
        if route_fault is not None and attempt.cut is None:
            await self._take_back(refused, route_fault, message.queue_id, now)
        asked = any(outcome.response.stage is not Stage.LOCAL for outcome in attempt.outcomes)
        if asked and attempt.route is None and attempt.cut is None and route_fault is None:
            self._route.proven()
        if self._terms.strict_order and isinstance(step, Retry):
            link.session.finish(stopping=True)  # nothing may overtake a deferred message
        return attempt.route or route_fault

    async def _take_back(self, refused: tuple[str, ...], refusal: Response, last: str, now: float) -> None:
        """The refusals before the third were the route's fault as well: their messages are queued again."""
        for queue_id in refused:
            if queue_id == last:
                continue
            entry = await self._queue.find(queue_id)
            if entry is not None and entry.reason == "rejected":
                progress = delivery.excuse_failed(entry.message.progress, refusal, self._terms.policy, now)
                if await self._queue.bring_back(queue_id, progress):
                    events.queue_changed(verb="retry", queue_id=queue_id, by="route", reason="refused like all others")

    def _delays(self, work: _Claimed, link: _Link) -> str:
        """Postfix's delays=a/b/c/d: waiting, in our hands, connecting, sending; in seconds."""
        connecting, link.setup = link.setup, 0.0
        sending = self._clock.monotonic() - work.taken_at
        waiting = self._clock.now() - work.message.progress.arrived_at - sending - connecting
        return "/".join(f"{max(seconds, 0.0):.2g}" for seconds in (waiting, 0.0, connecting, sending))

    def _log(
        self,
        message: QueuedMessage,
        before: Progress,
        after: Progress,
        attempt: Attempt | None,
        now: float,
        delays: str,
        relay: str = "none",
    ) -> None:
        """One line per recipient for whom something changed."""
        for recipient, record in after.recipients.items():
            if record is not before.recipients.get(recipient):
                _log_outcome(message, recipient, record, attempt, relay, self._clock.now(), delays)


_CHANGED = Response(Stage.LOCAL, 554, "5.6.0", "the file was written to while it was being sent, three times")


def _log_outcome(
    message: QueuedMessage,
    recipient: str,
    record: RecipientRecord,
    attempt: Attempt | None,
    relay: str,
    now: float,
    delays: str,
) -> None:
    """The event for one recipient's record."""
    delay = max(now - message.progress.arrived_at, 0.0)
    common = {
        "queue_id": message.queue_id,
        "sender": message.envelope.sender,
        "recipient": recipient,
        "relay": "none" if record.response.stage is Stage.LOCAL else relay,
        "delay": delay,
        "delays": delays,
        "response": record.response,
        "attempt": record.attempts,
    }
    if record.status is Status.SENT:
        events.message_sent(**common)  # type: ignore[arg-type]
    elif record.status is Status.DEFERRED:
        events.message_deferred(
            **common,  # type: ignore[arg-type]
            next_attempt=record.next_attempt,
            reason=delivery.reason_of(record.response),
            # Not those whom the server refused before the body went out.
            ambiguous=attempt is not None and attempt.ambiguous and record.response.code == 0,
        )
    elif record.reason == "expired":
        events.message_expired(**common, reason=delivery.reason_of(record.response))  # type: ignore[arg-type]
    else:
        events.message_failed(**common, reason=record.reason)  # type: ignore[arg-type]
