"""What an answer means, and what happens next. Pure: time and policy are arguments.

The rule that everything here serves: *whose fault is it?* The same code means different things at different
stages, and a wrong password must not fail ten thousand messages. So there are three scopes:

- **route**: the way to the smarthost. Nothing fails; the route is held and probed. Everything up to AUTH is
  route trouble before it ever reaches this module; within a transaction it is 530, 534, 535 and 538, a 5xx
  against our own sender address, and the same 5.7.x refusal (or a lost connection) of three messages in a row.
- **message**: MAIL, DATA, the last byte, a connection lost after MAIL.
- **recipient**: RCPT.

Within a transaction the first refusal decides; what the server says after it is echo (with every recipient
refused 450, DATA is answered 554).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from mailrelayd.outbound import copies
from mailrelayd.outbound.values import (
    Answers,
    Attempt,
    Extensions,
    Outcome,
    Past,
    Progress,
    QueuedMessage,
    RecipientRecord,
    Response,
    Stage,
    Status,
    Transaction,
    remembered,
)
from mailrelayd.value import value

_SEND_AS_DENIED = "sendasdenied"
ROUTE_CODES = frozenset({530, 534, 535, 538})  # RFC 4954 section 6: authentication required, too weak, failed
SUPPRESSED = "suppressed"  # the reason of a recipient that [guard] leaves out
MOST_LINES = 5  # of history, from one attempt
IN_A_ROW = 3  # this many different messages in a row make a refusal or a lost connection the route's fault
CHANGES = 3  # a file found changed this often while it was sent is given up
TOO_MANY = frozenset({(452, "4.5.3"), (452, ""), (552, "5.5.3"), (552, "")})  # RFC 5321 section 4.5.3.1.10


@dataclass(frozen=True, slots=True)
class Policy:
    """[retry] in seconds. `settle` is how long a file that changed is left alone."""

    schedule: tuple[float, ...] = (30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
    expire: float = 5 * 86400.0
    settle: float = 2.0
    minimum_tries: int = 3

    def delay(self, attempts: int) -> float:
        """Seconds until the next try after this many."""
        return self.schedule[min(max(attempts, 1), len(self.schedule)) - 1]


@dataclass(frozen=True, slots=True)
class Remove:
    """Every recipient was sent to."""


@dataclass(frozen=True, slots=True)
class Release:
    """Nothing of it was tried: as if it had not been touched."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Write down what happened; due again at this time (seconds since the epoch; may be now)."""

    at: float


@dataclass(frozen=True, slots=True)
class Fail:
    """Nobody is owed a try any more, and at least one recipient was not sent to."""

    reason: str


Step = Remove | Release | Retry | Fail


# -- before: what to ask for ---------------------------------------------------------------------------------


def owed(message: QueuedMessage, now: float, limit: int) -> tuple[str, ...]:
    """The recipients whose turn it is, at most `limit` of them, in the order of the envelope.

    An approver is asked for alone: nobody else may see that copy, and who must not be asked any more is left out.
    Where the queue thinks the message is due and the wall clock does not (it was set back), the earliest are.
    """
    records = message.progress.recipients
    if not records and not message.copies:
        return tuple(dict.fromkeys(message.envelope.recipients))[:limit]
    turns = {
        recipient: record.next_attempt if record else 0.0
        for recipient in message.envelope.recipients
        if (record := records.get(recipient)) is None or record.status is Status.DEFERRED
    }
    for recipient in copies.expired(message, now):
        turns.pop(recipient, None)
    until = max(now, min(turns.values(), default=now))
    due = tuple(recipient for recipient, turn in turns.items() if turn <= until)
    return copies.together(message, due)[:limit]


def stands_for(transaction: Transaction) -> tuple[str, ...]:
    """Whom a transaction is about: where it is redirected, not the address that the server is asked for."""
    return transaction.redirected or transaction.recipients


def suppress(message: QueuedMessage, why: Mapping[str, str], now: float) -> Progress:
    """These recipients are left out, each for the reason given as a sentence: kept, never asked for."""
    records = dict(message.progress.recipients)
    for recipient, sentence in why.items():
        before = records.get(recipient)
        response = Response(Stage.LOCAL, 0, "", sentence)
        attempts = before.attempts if before else 0
        records[recipient] = RecipientRecord(Status.FAILED, response, attempts, now, reason=SUPPRESSED)
    progress = replace(message.progress, recipients=records)
    for sentence in dict.fromkeys(why.values()):
        left_out = [recipient for recipient in why if why[recipient] == sentence]
        progress = remembered(
            progress, Past(now, SUPPRESSED, _of(left_out, sentence, len(message.envelope.recipients)))
        )
    return progress


def expire(message: QueuedMessage, recipients: Sequence[str], now: float) -> Progress:
    """These approvers are not asked any more: their request is over."""
    records = dict(message.progress.recipients)
    for recipient in recipients:
        before = records.get(recipient)
        attempts = before.attempts if before else 0
        records[recipient] = RecipientRecord(Status.FAILED, copies.EXPIRED, attempts, now, reason="expired")
    progress = replace(message.progress, recipients=records)
    text = _of(recipients, str(copies.EXPIRED), len(message.envelope.recipients))
    return remembered(progress, Past(now, "expired", text))


def unsupported(transaction: Transaction, extensions: Extensions, *, has_nul: bool = False) -> dict[str, Response]:
    """Recipients that this server cannot be asked for, with the answer that stands in for its own.

    Asking for ever would not help, and leaving out the parameter would send what the next hop may destroy.
    """

    def local(code: int, enhanced: str, text: str) -> Response:
        return Response(Stage.LOCAL, code, enhanced, text)

    everyone: Response | None = None
    if has_nul:
        everyone = local(554, "5.6.0", "the message holds NUL octets, which SMTP cannot carry (RFC 5322 section 2.3)")
    elif extensions.size and transaction.size > extensions.size:
        everyone = local(
            552, "5.3.4", f"the message has {transaction.size} octets, the smarthost takes {extensions.size} (SIZE)"
        )
    elif transaction.eight_bit and not extensions.eight_bit_mime:
        everyone = local(554, "5.6.3", "the message holds 8-bit octets, the smarthost does not offer 8BITMIME")
    elif not transaction.sender.isascii() and not extensions.smtputf8:
        everyone = local(553, "5.6.7", "the sender's address is not ASCII, the smarthost does not offer SMTPUTF8")
    if everyone is None and transaction.redirected and transaction.smtputf8 and not extensions.smtputf8:
        everyone = local(553, "5.6.7", "[guard] redirect_to is not ASCII, the smarthost does not offer SMTPUTF8")
    if everyone is not None:
        return dict.fromkeys(stands_for(transaction), everyone)
    if extensions.smtputf8:
        return {}
    refusal = local(553, "5.6.7", "the recipient's address is not ASCII, the smarthost does not offer SMTPUTF8")
    return {recipient: refusal for recipient in transaction.recipients if not recipient.isascii()}


def refused_here(transaction: Transaction, refusals: Mapping[str, Response]) -> Attempt:
    """The attempt that stands for asking a server about what it is known not to take."""
    return Attempt(transaction, tuple(Outcome(r, Status.FAILED, answer) for r, answer in refusals.items()))


# -- after: what it meant --------------------------------------------------------------------------------------


def judge(answers: Answers, own_address: str) -> Attempt:
    """What the answers to one transaction mean. `own_address` is the configured from_address, or ""."""
    transaction = answers.transaction
    if answers.changed:
        return Attempt(transaction, changed=True)
    if answers.untried or answers.mail is None or answers.mail.code == 421:
        # 421 to MAIL closes the channel (RFC 5321 section 3.8): about the connection, not about this message.
        return Attempt(transaction)
    if (accepted := _accepted_for_all(answers)) is not None:
        return Attempt(transaction, tuple([Outcome(one, Status.SENT, accepted) for one in transaction.recipients]))
    outcomes: list[Outcome] = []
    route: Response | None = None
    for recipient, answer in zip(stands_for(transaction), _about_each(answers), strict=True):
        if answer is None:
            continue
        if _blames_route(answer, transaction, own_address):
            route = route or answer
            continue
        outcomes.append(Outcome(recipient, status_of(answer), answer))
    lost = answers.cut if answers.body is None or answers.body.code == 421 else None
    return Attempt(
        transaction,
        tuple(outcomes),
        route=route,
        cut=lost if lost is not None and lost.stage is not Stage.LOCAL else None,
        ambiguous=answers.last_byte_sent and answers.body is None,
    )


def _accepted_for_all(answers: Answers) -> Response | None:
    """The answer to the last byte where nobody was refused, which is nearly every time: there is nothing to weigh."""
    body, data, mail = answers.body, answers.data, answers.mail
    if body is None or mail is None or answers.transaction.redirected or (data is not None and data.code != 354):
        return None
    if not (200 <= body.code < 300 and 200 <= mail.code < 300):
        return None
    if len(answers.recipients) != len(answers.transaction.recipients):
        return None
    for answer in answers.recipients:
        if answer is None or not 200 <= answer.code < 300:
            return None
    return body


def step_aside(attempt: Attempt, trouble: Response) -> Attempt:
    """An attempt that met no answer, counted as one all the same: the message is deferred as if it had been cut."""
    outcomes = tuple(Outcome(recipient, Status.DEFERRED, trouble) for recipient in stands_for(attempt.transaction))
    return replace(attempt, outcomes=outcomes, cut=trouble)


def status_of(answer: Response) -> Status:
    """The reply code's first digit (RFC 5321 section 4.2.1); no answer at all is temporary."""
    if 200 <= answer.code < 300:
        return Status.SENT
    if 500 <= answer.code < 600:
        return Status.FAILED
    return Status.DEFERRED


def _about_each(answers: Answers) -> list[Response | None]:
    """What decides about each recipient. One address may have been asked for in the place of all of them."""
    deciding = _deciding(answers)
    transaction = answers.transaction
    if not transaction.redirected:
        return deciding
    (answer,) = deciding
    if answer is not None:
        # What is remembered and logged of a recipient must not read as if it had been asked for.
        answer = replace(answer, text=f"{answer.text} (redirected to <{transaction.recipients[0]}>)".lstrip())
    return [answer] * len(transaction.redirected)


def _deciding(answers: Answers) -> list[Response | None]:
    """For each recipient the first answer that refuses it, else the one to the last byte.

    None leaves the recipient owed, without an attempt counted.
    """
    everyone = answers.transaction.recipients
    if answers.mail is not None and status_of(answers.mail) is not Status.SENT:
        return [answers.mail] * len(everyone)
    said = list(answers.recipients) + [None] * (len(everyone) - len(answers.recipients))
    accepted = [answer is not None and status_of(answer) is Status.SENT for answer in said]
    for_accepted = answers.body
    if answers.data is not None and answers.data.code != 354:
        for_accepted = answers.data
    elif for_accepted is None:
        for_accepted = answers.cut
    decided: list[Response | None] = []
    for position, answer in enumerate(said):
        if accepted[position]:
            decided.append(for_accepted)
        elif answer is None:
            decided.append(answers.cut)
        elif (answer.code, answer.enhanced) in TOO_MANY and any(accepted[:position]):
            decided.append(None)  # not refused, only put off to the next transaction
        else:
            decided.append(answer)
    return decided


def _blames_route(answer: Response, transaction: Transaction, own_address: str) -> bool:
    """Whether an answer inside a transaction speaks of our login or our own address, not of the message."""
    if answer.code in ROUTE_CODES:
        return True
    if status_of(answer) is not Status.FAILED or not own_address or transaction.sender != own_address:
        return False
    if answer.stage is Stage.MAIL:
        # 552, 5.3.4 and 5.2.3 speak of the size, 5.6.x and 555 of the parameters: this message, not the sender.
        return answer.code not in (552, 555) and not answer.enhanced.startswith(("5.3.4", "5.2.3", "5.6."))
    # Servers that put off the sender's refusal to RCPT (Postfix: smtpd_delay_reject) or to the last byte
    # (Exchange) still name it: RFC 3463 section 3.2, X.1.7 and X.1.8 are about the sender's address.
    if answer.enhanced in ("5.1.7", "5.1.8"):
        return True
    # Exchange refuses a foreign From field in the same words, and names it: that is one message's fault.
    text, own = answer.text.casefold(), re.escape(own_address.casefold())
    if f"<{own_address.casefold()}>: sender address rejected" in text:
        return True
    return _SEND_AS_DENIED in text and re.search(rf"not allowed to send as <?{own}(?![\w.-]*\w)", text) is not None


# -- what to remember ------------------------------------------------------------------------------------------


def advance(progress: Progress, attempt: Attempt, policy: Policy, now: float, *, may_expire: bool = True) -> Progress:
    """Everything known after this attempt. The same object where the attempt taught nothing."""
    if attempt.changed:
        past = Past(now, "changed", "its producer wrote to it while it was sent")
        return remembered(replace(progress, changed=progress.changed + 1), past)
    if not attempt.outcomes:
        return progress
    records = dict(progress.recipients)
    for outcome in attempt.outcomes:
        before = records.get(outcome.recipient)
        status, attempts, next_attempt, reason = outcome.status, (before.attempts if before else 0) + 1, 0.0, ""
        if status is Status.DEFERRED:
            next_attempt = now + policy.delay(attempts)
            if may_expire and attempts >= policy.minimum_tries and now - progress.arrived_at >= policy.expire:
                status, next_attempt, reason = Status.FAILED, 0.0, "expired"
        elif status is Status.FAILED:
            reason = "unsupported" if outcome.response.stage is Stage.LOCAL else "rejected"
        records[outcome.recipient] = RecipientRecord(status, outcome.response, attempts, now, next_attempt, reason)
    return _with_history(progress, records, attempt.outcomes, now)


def _with_history(
    progress: Progress, records: dict[str, RecipientRecord], tried: Sequence[Outcome], now: float
) -> Progress:
    """The progress with these records, and one line for each thing that was said, and to whom."""
    alike: dict[tuple[str, str], list[str]] = {}
    said, text = None, ""
    for recipient in dict.fromkeys([outcome.recipient for outcome in tried]):
        record = records[recipient]
        if record.response is not said:
            said, text = record.response, str(record.response)
        event = "expired" if record.reason == "expired" else record.status.value
        alike.setdefault((event, text), []).append(recipient)
    lines = [Past(now, event, _of(who, text, len(records))) for (event, text), who in islice(alike.items(), MOST_LINES)]
    history = progress.history or (lines.pop(0),)
    after = Progress(progress.arrived_at, records, progress.not_before, progress.changed, progress.excused_at, history)
    for line in lines:
        after = remembered(after, line)
    return after


def _of(recipients: Sequence[str], response: str, everyone: int) -> str:
    """What was said, and to whom where that was not everybody."""
    if len(recipients) == everyone:
        return response
    who = recipients[0] if len(recipients) == 1 else f"{len(recipients)} recipients"
    return f"{who}: {response}"


def next_step(message: QueuedMessage, attempt: Attempt, progress: Progress, policy: Policy, now: float) -> Step:
    """What to do with the message: `progress` is what `advance` made of `attempt`."""
    if attempt.changed:
        return Fail("changed") if progress.changed >= CHANGES else Retry(now + policy.settle)
    return Release() if progress is message.progress else rest(message, progress, now)


def rest(message: QueuedMessage, progress: Progress, now: float) -> Step:
    """What is left to do for a message of which this is known, and has not been written down yet."""
    waiting = [
        record.next_attempt if record else now
        for recipient in message.envelope.recipients
        if (record := progress.recipients.get(recipient)) is None or record.status is Status.DEFERRED
    ]
    if waiting:
        return Retry(max(now, min(waiting)))
    reason = failure(progress)
    return Fail(reason) if reason else Remove()


def failure(progress: Progress) -> str:
    """Why a message failed to which nobody is owed a try any more; "" where it was sent to everybody."""
    reasons = {record.reason for record in progress.recipients.values() if record.status is Status.FAILED}
    return reasons.pop() if len(reasons) == 1 else "rejected" if reasons else ""


def failed_since(before: Progress, after: Progress) -> dict[str, RecipientRecord]:
    """The recipients given up between the two, who are their sender's business: the suppressed are not."""
    return {
        recipient: record
        for recipient, record in after.recipients.items()
        if record.status is Status.FAILED and record.reason != SUPPRESSED and record != before.recipients.get(recipient)
    }


def give_up(message: QueuedMessage, reason: str, response: Response, now: float) -> Progress:
    """Every recipient still owed is failed for this reason."""
    records = dict(message.progress.recipients)
    for recipient in message.envelope.recipients:
        record = records.get(recipient)
        if record is None:
            records[recipient] = RecipientRecord(Status.FAILED, response, 0, now, reason=reason)
        elif record.status is Status.DEFERRED:
            records[recipient] = replace(record, status=Status.FAILED, at=now, next_attempt=0.0, reason=reason)
    return replace(message.progress, recipients=records)


def try_again(progress: Progress, now: float) -> Progress:
    """What an operator's `queue retry` means: whoever failed or waits is due now, with a fresh lifetime."""
    records = {
        recipient: record
        if record.status is Status.SENT
        else replace(record, status=Status.DEFERRED, next_attempt=now, attempts=0, reason="")
        for recipient, record in progress.recipients.items()
    }
    return Progress(arrived_at=now, recipients=records, history=progress.history)


# -- three in a row ----------------------------------------------------------------------------------------------


@value(frozen=True, slots=True)
class Suspicion:
    """What recent attempts say about the route: refusals and lost connections in a row, the last success.

    A single 5.7.1 is about a message; the same to everybody is about us (a relay that no longer knows us).
    """

    refusal: Response | None = None
    refused: tuple[str, ...] = ()  # queue ids, each once
    ordinary: bool = False  # not all of those are reports of our own
    cut: tuple[str, ...] = ()
    accepted_at: float = 0.0


def suspect(
    suspicion: Suspicion, attempt: Attempt, progress: Progress, now: float, *, report: bool = False
) -> tuple[Suspicion, Response | None]:
    """The suspicion after this attempt, and the answer that makes it the route's fault from now on, if any.

    `progress` is the message's before the attempt: a refusal that was excused once counts as the message's own
    as soon as anything has been accepted since. `report`: the message is one of our own, from the null sender, which
    some servers refuse from everybody: reports alone blame nobody.
    """
    queue_id = attempt.transaction.queue_id
    for outcome in attempt.outcomes:
        if outcome.status is Status.SENT and outcome.response.stage is not Stage.LOCAL:
            return Suspicion(accepted_at=now), None
    outcomes = [outcome for outcome in attempt.outcomes if outcome.response.stage is not Stage.LOCAL]
    if attempt.cut is not None:
        cut = _once(suspicion.cut, queue_id)
        return replace(suspicion, cut=cut), attempt.cut if len(cut) >= IN_A_ROW else None
    if not outcomes:
        return suspicion, None  # what was decided on this machine says nothing about the route
    suspicion = replace(suspicion, cut=())
    refusal = _policy_refusal(outcomes)
    if refusal is None:
        if any(outcome.status is Status.FAILED for outcome in outcomes):
            suspicion = replace(suspicion, refusal=None, refused=())
        return suspicion, None
    if progress.excused_at and suspicion.accepted_at > progress.excused_at:
        return suspicion, None
    again = suspicion.refusal is not None and alike(refusal, suspicion.refusal)
    refused = _once(suspicion.refused, queue_id) if again else (queue_id,)
    ordinary = (again and suspicion.ordinary) or not report
    suspicion = replace(suspicion, refusal=refusal, refused=refused, ordinary=ordinary)
    return suspicion, refusal if len(refused) >= IN_A_ROW and ordinary else None


def _once(ids: tuple[str, ...], queue_id: str) -> tuple[str, ...]:
    return ids if queue_id in ids else (*ids, queue_id)[-64:]


def _policy_refusal(outcomes: Sequence[Outcome]) -> Response | None:
    """The one 5.7.x (RFC 3463 section 3.8: security or policy) that refused everybody alike, else None."""
    first = outcomes[0].response
    everybody = all(outcome.status is Status.FAILED and alike(outcome.response, first) for outcome in outcomes)
    policy = first.enhanced.startswith("5.7.") or _SEND_AS_DENIED in first.text.casefold()
    return first if everybody and policy else None


def excuse(attempt: Attempt, response: Response) -> Attempt:
    """The attempt with its refusals taken back: deferred, and the route to blame."""
    outcomes = tuple(
        replace(o, status=Status.DEFERRED) if o.status is Status.FAILED and alike(o.response, response) else o
        for o in attempt.outcomes
    )
    return replace(attempt, outcomes=outcomes, route=response)


def excuse_failed(progress: Progress, response: Response, policy: Policy, now: float) -> Progress:
    """A failed message's progress with this refusal taken back: due again on its own schedule.

    What it was refused for otherwise stays refused.
    """
    records = {
        recipient: replace(record, status=Status.DEFERRED, next_attempt=now + policy.delay(record.attempts), reason="")
        if record.status is Status.FAILED and record.reason == "rejected" and alike(record.response, response)
        else record
        for recipient, record in progress.recipients.items()
    }
    past = Past(now, "retry", "refused like all others: the route is held, and this is taken back")
    return remembered(replace(progress, recipients=records, excused_at=now), past)


def alike(one: Response, other: Response) -> bool:
    """The same refusal at the same place; its text may name the message."""
    return (one.stage, one.code, one.enhanced) == (other.stage, other.code, other.enhanced)


# -- clocks ----------------------------------------------------------------------------------------------------


@value(frozen=True, slots=True)
class WallClockWatch:
    """Whether the wall clock can be trusted to expire mail.

    It is compared with a clock that nobody can set: after a jump of more than an hour nothing expires until
    the new time has lasted ten minutes, so that a wrong date for a moment does not give up a whole queue.
    """

    offset: float
    trusted_from: float = 0.0  # on the clock that nobody can set

    JUMP = 3600.0
    LASTING = 600.0

    def observe(self, wall: float, monotonic: float) -> WallClockWatch:
        """The watch after a look at both clocks; slow drift is followed silently."""
        offset = wall - monotonic
        if abs(offset - self.offset) > self.JUMP:
            return WallClockWatch(offset, monotonic + self.LASTING)
        return WallClockWatch(offset, self.trusted_from)

    def trusts(self, monotonic: float) -> bool:
        """True where expiry may go by the wall clock."""
        return monotonic >= self.trusted_from


class ClockTrust:
    """A WallClockWatch that looks at two clocks each time it is asked."""

    def __init__(self, wall: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._watch = WallClockWatch(wall() - monotonic())

    @property
    def offset(self) -> float:
        """By how much the wall clock was ahead of the other one when they were last looked at, in seconds."""
        return self._watch.offset

    def go_on_from(self, offset: float) -> None:
        """This was the offset when the clocks could last be trusted: a jump since then counts as one from now on."""
        self._watch = WallClockWatch(offset)

    def doubt(self) -> None:
        """Whether the clock was set meanwhile, nobody can know: it has to last like after a jump."""
        self._watch = replace(self._watch, trusted_from=self._monotonic() + WallClockWatch.LASTING)

    def given(self) -> bool:
        """True where expiry may go by the wall clock now."""
        self._watch = self._watch.observe(self._wall(), self._monotonic())
        return self._watch.trusts(self._monotonic())


# -- words for people --------------------------------------------------------------------------------------------

_GREYLIST = re.compile(r"gr[ea]ylist", re.IGNORECASE)


def reason_of(response: Response) -> str:
    """A short stable word for a refusal, for log lines and tables."""
    subject = response.enhanced[2:] if response.enhanced else ""
    if response.stage in (Stage.TLS, Stage.STARTTLS):
        return "tls"
    if response.stage is Stage.AUTH or response.code in ROUTE_CODES:
        return "auth"
    if response.stage is Stage.LOCAL and response.code == 0:
        return "local"
    if response.stage in (Stage.CONNECT, Stage.GREETING, Stage.EHLO, Stage.IDLE) or response.code in (0, 421):
        return "connect"
    if _GREYLIST.search(response.text):
        return "greylist"
    if response.code in (552,) or subject in ("3.4", "2.3"):
        return "size" if subject != "2.2" else "mailbox_full"
    if subject == "2.2":
        return "mailbox_full"
    if subject in ("1.1", "1.0", "1.2", "1.3", "1.6"):
        return "unknown_user"
    if subject.startswith("7."):
        return "policy"
    return "other"
