"""The loop: due messages -> smarthost -> step. One task per connection.

What is in flight is a Transaction, so a lost connection is a value: every transaction that was handed over comes
back as exactly one Answers, in order, and is settled on disk before the next body may begin. [guard] stands between
the two: nothing is handed over that it has not let through just then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from mailrelayd.clock import Clock
from mailrelayd.config.units import Rate, write_rate
from mailrelayd.operate import events
from mailrelayd.outbound import copies, delivery
from mailrelayd.outbound.asking import Asking
from mailrelayd.outbound.body import prepare
from mailrelayd.outbound.delivery import Policy
from mailrelayd.outbound.envelope import rewrite
from mailrelayd.outbound.guard import Brake, Guard
from mailrelayd.outbound.headers import Unreadable
from mailrelayd.outbound.postmaster import Postmaster
from mailrelayd.outbound.queue import Copies, Queue, Source
from mailrelayd.outbound.route import Route
from mailrelayd.outbound.session import Session
from mailrelayd.outbound.settling import Settled, Settler, Tried
from mailrelayd.outbound.stored import Reading
from mailrelayd.outbound.streaming import let_the_loop_read
from mailrelayd.outbound.values import Answers, Attempt, QueuedMessage, Response, Stage, Transaction

IDLE = 5.0  # seconds that an open connection waits for another message
MORE = 5  # messages that must be due for each further connection
PATIENCE = 30.0  # seconds between two signs of life while nothing is due


@dataclass(frozen=True, slots=True)
class Terms:
    """How to send: [node], [spool], [retry], [guard] and the account, as far as the relay needs them."""

    node: str
    own_address: str = ""
    reading: Reading = field(default_factory=Reading)
    policy: Policy = field(default_factory=Policy)
    max_recipients: int = 100
    strict_order: bool = False
    slowest: float = 900.0  # seconds that one step of a transaction may take
    blocks: frozenset[str] = frozenset()  # the producers whose [pickup.NAME] has envelope = "pickup"
    guard: Guard = field(default_factory=Guard)
    rate: Rate | None = None  # [guard] rate
    asking: Asking | None = None  # [approvals]; None: not enabled, and copies wait


@dataclass(slots=True)
class _Claimed:
    message: QueuedMessage
    source: Source
    taken_at: float  # clock.monotonic()
    begun: bool = False  # it counts for the brake


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
        self,
        queue: Queue,
        route: Route,
        terms: Terms,
        clock: Clock,
        may_expire: Callable[[], bool] | None = None,
        postmaster: Postmaster | None = None,
        desk: Copies | None = None,
        excuse: Callable[[float], None] | None = None,
    ) -> None:
        """`may_expire`: whether the wall clock can be trusted; by default it is watched from now on.

        `postmaster` tells senders what was given up; by default nobody does. `desk` hears what became of the copies of
        requests for approval, and is waited for; `excuse`: for so many seconds that is why nothing happens.
        """
        self._queue = queue
        self._route = route
        self._terms = terms
        self._clock = clock
        self._first = ("", 0)  # the message that new connections broke on, and how often in a row
        may_expire = may_expire or delivery.ClockTrust(clock.now, clock.monotonic).given
        self._settler = Settler(queue, terms.policy, clock, may_expire, postmaster, desk, excuse)
        self._brake = Brake(terms.rate)
        self._said_waiting = False  # that the brake holds; said once, until nothing is left to wait

    def inherit(self, before: Relay) -> None:
        """Go on where the relay of the configuration before stood: a reload lets no more through."""
        self._brake.inherit(before._brake)

    async def run(self, number: int, stop: asyncio.Event, beat: Callable[[float], None]) -> None:
        """Connection `number` (0 is the first), until `stop`. `beat`: within how many seconds it is called again."""
        while not stop.is_set():
            beat(PATIENCE * 2)
            # No connection without work, and a further one only for a backlog.
            if not await self._queue.wait_due(stop, at_least=1 + number * MORE, patience=PATIENCE):
                self._said_waiting = self._said_waiting and number > 0
                continue
            if self._terms.guard.dry_run:
                await self._suppress_due(stop, beat)  # needs no smarthost, so none is asked
                continue
            if seconds := self._held_back():
                await self._clock.wait(stop, min(seconds, PATIENCE))
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
            async for batch in session.attempts():
                beat(self._terms.slowest)
                tried: list[tuple[_Claimed, Attempt]] = []
                for answers in batch:
                    attempt = delivery.judge(answers, self._terms.own_address)
                    if first and session.trouble is not None and session.settled == 0:
                        attempt = self._doubt_first(attempt, session.trouble)
                    first = False
                    work = link.claimed.pop(attempt.transaction.queue_id)
                    if work.message.copies:
                        attempt = copies.without_tokens(attempt)
                    self._let_go(work, handed_over=answers.last_byte_sent or not answers.untried)
                    cut = cut or attempt.cut is not None
                    tried.append((work, attempt))
                settled = await self._settle(tried, link)
                blamed = blamed or settled.held
                if blamed is not None or stop.is_set():
                    session.finish(stopping=True)
                session.on_disk()
                try:
                    if session.saying:  # the next body leaves first: the log can wait that long
                        await let_the_loop_read()
                finally:
                    settled.log()
                self._look_at_the_window(session, batch)
            await session.close()
        finally:
            async with link.aside:  # half-settled, a message would be neither waiting nor gone until the next start
                feeder.cancel()
            await asyncio.wait([feeder])
            session.abort()
            for left in link.claimed.values():
                self._let_go(left, handed_over=True)
                left.source.close()
                self._queue.release(left.message)
        if not feeder.cancelled():
            feeder.result()  # a bug there is a bug here
        await self._settler.withdraw()
        if blamed is not None:
            return blamed
        # Lost or sent away before anything was settled is trouble; after it, it is normal life: reconnect at once.
        # A message that was cut has been deferred, so reconnecting for the next one cannot go on for ever either.
        # What we did ourselves (a file that changed or could not be read) says nothing about the route.
        lost = session.trouble
        return lost if lost and session.settled == 0 and not cut and lost.stage is not Stage.LOCAL else None

    def _look_at_the_window(self, session: Session, batch: Sequence[Answers]) -> None:
        """Whether this server should be sent less ahead; and say which messages may arrive twice."""
        if session.distrust:
            self._route.distrust(session.distrust)
        trouble = session.trouble
        if trouble is None or (trouble.code and not session.distrust):  # closed with a word: it took none of the others
            return
        unanswered = [answers for answers in batch if answers.untried and answers.last_byte_sent]
        for answers in unanswered:
            events.queue_trouble(
                doing="send",
                reason="the connection was lost behind its last byte: it is sent again, and may arrive twice",
                queue_id=answers.transaction.queue_id,
            )
        if unanswered and not session.distrust:
            self._route.narrow(f"a connection was lost with {len(unanswered) + 1} messages on their way")

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
                while await self._may_claim(stop):
                    message = await anext(due, None)
                    if message is None:
                        self._said_waiting = False
                        return
                    try:
                        if not await self._hand_over(link, message, stop, beat):
                            return
                    except asyncio.CancelledError:
                        # It may have waited for its turn to settle (`aside`); half-settled it is never cancelled.
                        if message.queue_id not in link.claimed:
                            self._queue.release(message)
                        raise
        finally:
            link.session.finish(stopping=stop.is_set())

    def _held_back(self) -> float:
        """Seconds until [guard] rate lets another message through, or until it is worth asking again; said once."""
        seconds = self._brake.wait(self._clock.monotonic())
        if seconds and not self._said_waiting:
            self._said_waiting = True
            events.guard_waiting(rate=write_rate(self._brake.rate), seconds=seconds)
        return seconds

    async def _may_claim(self, stop: asyncio.Event) -> bool:
        """Wait for the brake, without a message in hand; False: at `stop`, or where an idle connection should end."""
        while not stop.is_set() and (seconds := self._held_back()):
            if seconds > IDLE:
                return False
            await self._clock.wait(stop, seconds)
        return not stop.is_set()

    def _let_go(self, work: _Claimed, *, handed_over: bool) -> None:
        """Tell the brake that a message is no longer under way."""
        if work.begun and handed_over:
            self._brake.end(self._clock.monotonic())
        elif work.begun:
            self._brake.cancel()
        work.begun = False

    async def _hand_over(
        self, link: _Link, message: QueuedMessage, stop: asyncio.Event, beat: Callable[[float], None]
    ) -> bool:
        """Begin one message's transaction; False: this session takes no more. Never raises for one message."""
        terms, taken_at = self._terms, self._clock.monotonic()
        _say_active(message)
        if message.copies:
            async with link.aside:
                if await self._settler.expire_copies(message):
                    return True
        owed = delivery.owed(message, self._clock.now(), len(message.envelope.recipients))
        if not owed:
            async with link.aside:
                await self._settler.close(message)
            return True
        copy = copies.copy_for(message, owed)
        if copy is not None and terms.asking is None:
            async with link.aside:
                await self._settler.step_aside(message, "approvals are not enabled (any more)")
            return True
        verdict = terms.guard.judge(owed)
        if verdict.suppressed:  # on disk before anything is sent: those who are left come back at once
            async with link.aside:
                await self._settler.suppress(message, verdict.suppressed)
            return True
        redirected = owed if terms.guard.redirect_to else ()
        recipients = (terms.guard.redirect_to,) if redirected else owed[: terms.max_recipients]
        try:
            source = self._queue.open(message)
        except OSError as error:
            async with link.aside:
                await self._settler.put_off(message, error)
            return True
        try:
            body = await prepare(
                source,
                message,
                node=terms.node,
                reading=terms.reading,
                progress=lambda: beat(terms.slowest),
                blocks=terms.blocks,
                redirected=redirected,
                asking=terms.asking,
                copy=copy,
            )
            as_asked = copy is None or await self._settler.is_as_asked(message, source)
        except OSError as error:
            source.close()
            async with link.aside:
                await self._settler.put_off(message, error)
            return True
        except BaseException:
            source.close()
            self._queue.release(message)
            raise
        work = _Claimed(message, source, taken_at)
        sender = rewrite(message.envelope.sender, terms.reading.from_address, terms.reading.rewrite_from)
        torn = isinstance(body, Unreadable) and not source.unchanged()
        if not as_asked or torn or self._is_being_written(work):
            transaction = Transaction(message.queue_id, sender, recipients, redirected=redirected)
            await self._settle_aside(work, Attempt(transaction, changed=True), link)
            return True
        if isinstance(body, Unreadable):
            source.close()
            async with link.aside:
                await self._settler.give_up(message, "unreadable", body.reason)
            return True
        transaction = Transaction(message.queue_id, sender, recipients, body.size, body.eight_bit, redirected)
        if refusals := delivery.unsupported(transaction, link.session.extensions, has_nul=body.has_nul):
            await self._settle_aside(work, delivery.refused_here(transaction, refusals), link)
            return True
        if self._held_back():  # another connection was faster
            source.close()
            self._queue.release(message)
            return True
        link.claimed[message.queue_id] = work
        self._brake.begin()
        work.begun = True
        try:
            if not stop.is_set() and await link.session.send(transaction, body):
                return True
            self._let_go(work, handed_over=False)
        except ValueError as error:
            del link.claimed[message.queue_id]
            self._let_go(work, handed_over=False)
            source.close()
            async with link.aside:
                await self._settler.give_up(message, "unsupported", str(error))
            return True
        return False  # still in `claimed`: released with everything else that is left

    def _is_being_written(self, work: _Claimed) -> bool:
        """Whether a file that was found changed has not been still since: between two writes it would go out torn."""
        young = self._clock.now() - work.source.changed_at < self._terms.policy.settle
        return work.message.progress.changed > 0 and young

    async def _suppress_due(self, stop: asyncio.Event, beat: Callable[[float], None]) -> None:
        """[guard] dry_run: all that is due is left out."""
        async with aclosing(self._queue.due(stop)) as due:
            async for message in due:
                beat(self._terms.slowest)
                _say_active(message)
                if await self._settler.expire_copies(message):
                    continue
                owed = delivery.owed(message, self._clock.now(), len(message.envelope.recipients))
                await self._settler.suppress(message, self._terms.guard.judge(owed).suppressed)

    # -- settling ----------------------------------------------------------------------------------------------

    async def _settle(self, tried: Sequence[tuple[_Claimed, Attempt]], link: _Link) -> Settled:
        """Put on disk what attempts meant."""
        for work, _ in tried:
            work.source.close()
        settled = await self._settler.settle(
            [Tried(work.message, attempt, self._delays(work, link)) for work, attempt in tried],
            relay=link.session.relay,
        )
        if settled.proven:
            self._route.proven()
        if settled.deferred and self._terms.strict_order:
            link.session.finish(stopping=True)  # nothing may overtake a deferred message
        return settled

    async def _settle_aside(self, work: _Claimed, attempt: Attempt, link: _Link) -> None:
        """Settle what never left."""
        work.source.close()
        async with link.aside:
            (await self._settle([(work, attempt)], link)).log()

    def _delays(self, work: _Claimed, link: _Link) -> str:
        """Postfix's delays=a/b/c/d: waiting, in our hands, connecting, sending; in seconds."""
        connecting, link.setup = link.setup, 0.0
        sending = self._clock.monotonic() - work.taken_at
        waiting = self._clock.now() - work.message.progress.arrived_at - sending - connecting
        return "/".join(_short(max(seconds, 0.0)) for seconds in (waiting, 0.0, connecting, sending))


def _say_active(message: QueuedMessage) -> None:
    """Where it is its first try."""
    if not message.progress.recipients:
        events.message_active(
            queue_id=message.queue_id,
            sender=message.envelope.sender,
            size=message.size,
            nrcpt=len(message.envelope.recipients),
        )


def _short(seconds: float) -> str:
    """Two digits that count, and no exponent."""
    return f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.2g}"
