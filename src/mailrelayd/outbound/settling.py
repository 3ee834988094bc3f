"""What became of a message: its sender is told, it is put on disk, it is logged. In this order a crash loses nothing.

`delivery` decides; here it is carried out, for all connections to one smarthost together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from mailrelayd.clock import Clock
from mailrelayd.operate import events
from mailrelayd.outbound import copies, delivery, guard
from mailrelayd.outbound.delivery import Fail, Policy, Release, Remove, Retry, Step, Suspicion
from mailrelayd.outbound.postmaster import RULE, Postmaster
from mailrelayd.outbound.queue import Copies, Queue, Source
from mailrelayd.outbound.values import (
    Attempt,
    Past,
    Progress,
    QueuedMessage,
    RecipientRecord,
    Response,
    Stage,
    Status,
    remembered,
)
from mailrelayd.value import value

LONGEST_PAUSE = 30.0  # seconds between two tries to write what must be written
NOBODY_ASKED = "none"  # Postfix's word, where a relay is named
_CHANGED = Response(Stage.LOCAL, 554, "5.6.0", "the file was written to while it was being sent, three times")


@value(frozen=True, slots=True)
class Tried:
    """A claimed message, and what one attempt meant for it."""

    message: QueuedMessage
    attempt: Attempt
    delays: str  # Postfix's a/b/c/d


@value(frozen=True, slots=True)
class Settled:
    """What attempts meant to others than their messages."""

    held: Response | None  # the first answer that makes the route be held, if one does
    deferred: bool
    proven: bool  # the smarthost spoke about a message, so the way there is fine
    log: Callable[[], None]  # says what became of them; it is on disk already


@value(frozen=True, slots=True)
class _Plan:
    """What is to be done for one message."""

    tried: Tried
    progress: Progress
    step: Step
    route_fault: Response | None
    refused: tuple[str, ...]  # others, which were refused alike and are taken back now
    now: float

    @property
    def plain(self) -> bool:
        """Whether it only has to leave the queue: nobody has to be told, nothing has to be taken back."""
        return isinstance(self.step, Remove) and not self.tried.message.copies and self.route_fault is None


class Settler:
    """Settles claimed messages. A call that raises leaves the claim as it is: nobody knows what is on disk."""

    def __init__(
        self,
        queue: Queue,
        policy: Policy,
        clock: Clock,
        may_expire: Callable[[], bool],
        postmaster: Postmaster | None = None,
        desk: Copies | None = None,
        excuse: Callable[[float], None] | None = None,
    ) -> None:
        """`may_expire`: whether the wall clock can be trusted now. Without a `postmaster` no sender is told.

        `desk` hears what became of the copies of requests for approval. `excuse`: tells whoever watches the loops that
        for so many seconds one waits for the desk's disk.
        """
        self._queue = queue
        self._policy = policy
        self._clock = clock
        self._may_expire = may_expire
        self._postmaster = postmaster
        self._desk = desk
        self._excuse = excuse or (lambda seconds: None)
        self._suspicion = Suspicion()

    async def settle(self, tried: Sequence[Tried], *, relay: str) -> Settled:
        """Put on disk what attempts meant, in order. `relay` is whom they were made with.

        Messages in a row that were sent leave the queue together.
        """
        done: list[_Plan] = []
        sent: list[_Plan] = []

        def log() -> None:
            with events.together():
                for plan in done:
                    self._log(plan, relay)

        try:
            for one in tried:
                plan = self._judge(one)
                if plan.plain:
                    sent.append(plan)
                    continue
                await self._complete(sent, done)
                await self._settle_one(plan, relay)
                done.append(plan)
            await self._complete(sent, done)
        except BaseException:
            log()
            raise
        return Settled(
            held=next((held for plan in done if (held := plan.tried.attempt.route or plan.route_fault)), None),
            deferred=any(isinstance(plan.step, Retry) for plan in done),
            proven=any(_proves(plan) for plan in done),
            log=log,
        )

    def _judge(self, tried: Tried) -> _Plan:
        """Decide; nothing is waited for, as other connections add to the suspicion."""
        policy, now, message, attempt = self._policy, self._clock.now(), tried.message, tried.attempt
        self._suspicion, route_fault = delivery.suspect(
            self._suspicion, attempt, message.progress, now, report=message.rule == RULE
        )
        refused: tuple[str, ...] = ()
        excused = route_fault is not None and attempt.cut is None
        if route_fault is not None and excused:
            refused = self._suspicion.refused
            attempt = delivery.excuse(attempt, route_fault)
        # What is the route's fault gives nobody up, however old the message is.
        may_expire = self._may_expire() and route_fault is None
        progress = delivery.advance(message.progress, attempt, policy, now, may_expire=may_expire)
        if excused:
            progress = replace(progress, excused_at=now)
        step = delivery.next_step(message, attempt, progress, policy, now)
        if step == Fail("changed"):
            progress = _given_up(message, progress, "changed", _CHANGED, now)
        return _Plan(Tried(message, attempt, tried.delays), progress, step, route_fault, refused, now)

    async def _complete(self, sent: list[_Plan], done: list[_Plan]) -> None:
        if sent:
            await self._queue.complete([(plan.tried.message, plan.progress) for plan in sent])
            done += sent
            sent.clear()

    async def _settle_one(self, plan: _Plan, relay: str) -> None:
        message, attempt = plan.tried.message, plan.tried.attempt
        await self._tell(message, plan.progress, relay)
        await self._carry_out(plan.step, message, plan.progress)
        if attempt.changed and isinstance(plan.step, Retry):
            events.queue_trouble(
                doing="send", reason="its producer wrote to it while it was sent", queue_id=message.queue_id
            )
        if plan.route_fault is not None and plan.refused:
            await self._take_back(plan.refused, plan.route_fault, message.queue_id, plan.now)

    def _log(self, plan: _Plan, relay: str) -> None:
        message, now = plan.tried.message, self._clock.now()
        for recipient, record in plan.progress.recipients.items():
            if record is not message.progress.recipients.get(recipient):
                _log_outcome(message, recipient, record, plan.tried.attempt, relay, now, plan.tried.delays)
        self._say_removed(plan.step, message)

    async def give_up(self, message: QueuedMessage, reason: str, detail: str) -> None:
        """It can never be sent; `detail` is the sentence that says why."""
        response = Response(Stage.LOCAL, 554, "5.6.0", detail)
        await self._finish(
            Fail(reason), message, _given_up(message, message.progress, reason, response, self._clock.now())
        )

    async def suppress(self, message: QueuedMessage, rules: Mapping[str, str]) -> None:
        """Leave recipients out, each by a rule of the guard. Whoever is still owed is due at once."""
        now = self._clock.now()
        progress = delivery.suppress(message, {r: guard.RULES[rule] for r, rule in rules.items()}, now)
        step = delivery.rest(message, progress, now)
        await self._tell_desk(message, progress)
        await self._carry_out(step, message, progress)
        for recipient, rule in rules.items():
            events.message_suppressed(
                queue_id=message.queue_id, sender=message.envelope.sender, recipient=recipient, reason=rule
            )
        self._say_removed(step, message)

    async def expire_copies(self, message: QueuedMessage) -> bool:
        """Give up the copies that nobody may answer any more; False: there are none, and the message is as it was.

        Where the clock cannot be trusted they wait: sent too late, an answer to them would not count.
        """
        now, desk = self._clock.now(), self._desk
        over = copies.expired(message, now)
        if over and not self._may_expire():
            await self.step_aside(message, "its request has expired, if the clock can be trusted")
            return True
        if desk is not None:
            over = tuple(
                copy.recipient for copy in copies.unsent(message) if copy.recipient in over or desk.is_closed(copy)
            )
        if over:
            progress = delivery.expire(message, over, now)
            await self._finish(delivery.rest(message, progress, now), message, progress)
        return bool(over)

    async def is_as_asked(self, message: QueuedMessage, source: Source) -> bool:
        """Whether nobody has written to a request since it was opened. Raises OSError."""
        return self._desk is None or await asyncio.to_thread(self._desk.is_as_asked, message, source)

    async def put_off(self, message: QueuedMessage, error: OSError) -> None:
        """It cannot be read right now, and steps aside for a while."""
        await self.step_aside(message, f"its file cannot be read: {error.strerror or error}", doing="read")

    async def step_aside(self, message: QueuedMessage, reason: str, *, doing: str = "send") -> None:
        """It cannot be sent right now, which is nobody's answer."""
        events.queue_trouble(doing=doing, reason=reason, queue_id=message.queue_id)
        now = self._clock.now()
        progress = remembered(message.progress, Past(now, "deferred", reason))
        await self._queue.defer(message, progress, now + self._policy.delay(2))

    async def close(self, message: QueuedMessage) -> None:
        """Nobody is owed anything, according to a record that somebody edited or copied back."""
        step = delivery.rest(message, message.progress, self._clock.now())
        await self._carry_out(step, message, message.progress)
        self._say_removed(step, message)

    async def withdraw(self) -> None:
        """Nothing is claimed ahead any more: reports that are no longer true can be removed."""
        if self._postmaster is not None:
            await self._postmaster.withdraw()

    async def _finish(self, step: Step, message: QueuedMessage, progress: Progress) -> None:
        """Carry out what was decided without asking a server, and log it."""
        await self._tell(message, progress, NOBODY_ASKED)
        await self._carry_out(step, message, progress)
        for recipient, record in progress.recipients.items():
            if record is not message.progress.recipients.get(recipient):
                _log_outcome(message, recipient, record, None, NOBODY_ASKED, self._clock.now(), "0/0/0/0")
        self._say_removed(step, message)

    async def _tell(self, message: QueuedMessage, progress: Progress, relay: str) -> None:
        """Tell the sender who was given up, before it is settled: a crash repeats the report, and never loses it."""
        if self._postmaster is not None:
            failed = delivery.failed_since(message.progress, progress)
            await self._postmaster.report(message, failed, "" if relay == NOBODY_ASKED else relay)
        await self._tell_desk(message, progress)

    async def _tell_desk(self, message: QueuedMessage, progress: Progress) -> None:
        """What became of copies is known where answers are looked up before the queue forgets it."""
        settled = copies.newly_settled(message, progress)
        if self._desk is None or not settled:
            return
        message = replace(message, copies=settled)  # a thousand approvers are not looked up at each of them
        pause = 1.0
        while True:
            try:
                await self._desk.settled(message, progress)
            except OSError as error:
                events.queue_trouble(
                    doing="note what became of a request",
                    reason=error.strerror or str(error),
                    queue_id=message.queue_id,
                )
                self._excuse(LONGEST_PAUSE)
                await self._clock.wait(asyncio.Event(), pause)
                pause = min(pause * 2, LONGEST_PAUSE)
            else:
                return

    async def _carry_out(self, step: Step, message: QueuedMessage, progress: Progress) -> None:
        match step:
            case Remove():
                await self._queue.complete([(message, progress)])
            case Release():
                self._queue.release(message)
            case Retry(at):
                await self._queue.defer(message, progress, at)
            case Fail(reason):
                await self._queue.fail(message, progress, reason)

    @staticmethod
    def _say_removed(step: Step, message: QueuedMessage) -> None:
        if isinstance(step, Remove | Fail):
            events.message_removed(queue_id=message.queue_id)

    async def _take_back(self, refused: tuple[str, ...], refusal: Response, last: str, now: float) -> None:
        """The refusals before the third were the route's fault as well: their messages are queued again."""
        for queue_id in refused:
            if queue_id == last:
                continue
            entry = await self._queue.find(queue_id)
            if entry is not None and entry.reason == "rejected":
                progress = delivery.excuse_failed(entry.message.progress, refusal, self._policy, now)
                if await self._queue.bring_back(queue_id, progress):
                    events.queue_changed(verb="retry", queue_id=queue_id, by="route", reason="refused like all others")
                    if self._postmaster is not None:
                        await self._postmaster.take_back(queue_id, refusal)


def _proves(plan: _Plan) -> bool:
    """Whether the smarthost spoke about the message, and not about us."""
    attempt = plan.tried.attempt
    asked = any(outcome.response.stage is not Stage.LOCAL for outcome in attempt.outcomes)
    return asked and attempt.route is None and plan.route_fault is None and attempt.cut is None


def _given_up(message: QueuedMessage, progress: Progress, reason: str, response: Response, now: float) -> Progress:
    progress = delivery.give_up(replace(message, progress=progress), reason, response, now)
    return remembered(progress, Past(now, "failed", str(response)))


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
        "relay": NOBODY_ASKED if record.response.stage is Stage.LOCAL else relay,
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
