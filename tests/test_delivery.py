"""What an answer means, and what happens next: the rules, and random histories that try to break them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailrelayd.outbound import delivery
from mailrelayd.outbound.delivery import Fail, Policy, Release, Remove, Retry, Suspicion, WallClockWatch
from mailrelayd.outbound.values import (
    Answers,
    Attempt,
    Envelope,
    Extensions,
    Outcome,
    Progress,
    QueuedMessage,
    RecipientRecord,
    Response,
    Stage,
    Status,
    Transaction,
)

OWN = "noreply@example.com"
NOW = 1_795_262_400.0
POLICY = Policy()
EVERYTHING = Extensions(pipelining=True, size=1000, eight_bit_mime=True, smtputf8=True)
LOST = Response(Stage.BODY, 0, "", "the connection was lost")


def said(stage: Stage, text: str) -> Response:
    """A response as it stands in a log: code, enhanced code, words; no code at all is a lost connection."""
    code, _, rest = text.partition(" ")
    first, _, words = rest.partition(" ")
    return Response(stage, int(code), first, words) if first.count(".") == 2 else Response(stage, int(code), "", rest)


def conversation(
    *rcpt: str | None,
    mail: str | None = "250",
    data: str | None = "354",
    body: str | None = "250 2.0.0 ok",
    cut: Response | None = None,
    sender: str = "erp@example.com",
    queue_id: str = "a",
    changed: bool = False,
) -> Answers:
    """One transaction's answers, one recipient r0, r1, ... for each answer to RCPT."""
    transaction = Transaction(queue_id, sender, tuple(f"r{n}@example.org" for n in range(len(rcpt))))
    begun = data is not None and data.startswith("354")
    return Answers(
        transaction,
        said(Stage.MAIL, mail) if mail else None,
        tuple(said(Stage.RCPT, answer) if answer else None for answer in rcpt),
        said(Stage.DATA, data) if data else None,
        said(Stage.BODY, body) if body and begun else None,
        last_byte_sent=begun and (body is not None or cut is LOST),
        cut=cut,
        changed=changed,
    )


def meaning(attempt: Attempt) -> str:
    """One letter per recipient: s(ent), d(eferred), f(ailed), - as before; then what else the attempt says."""
    by_recipient = {outcome.recipient: outcome.status.value[0] for outcome in attempt.outcomes}
    letters = "".join(by_recipient.get(recipient, "-") for recipient in attempt.transaction.recipients)
    flags = [
        name
        for name, there in [
            ("route", attempt.route),
            ("cut", attempt.cut),
            ("ambiguous", attempt.ambiguous),
            ("changed", attempt.changed),
        ]
        if there
    ]
    return " ".join([letters, *flags])


def cut_at(stage: Stage) -> Response:
    return Response(stage, 0, "", "the connection was lost")


CLOSING = Response(Stage.RCPT, 421, "4.3.2", "shutting down")

# The stages and answers of section 3 of the delivery rules, and what each of them means.
RULES: list[tuple[str, Answers, str]] = [
    ("all is well", conversation("250", "250"), "ss"),
    ("251 will forward", conversation("251"), "s"),
    # recipient
    ("one unknown user", conversation("250", "550 5.1.1 unknown"), "sf"),
    ("one greylisted", conversation("450 4.7.1 greylisted", "250"), "ds"),
    ("all unknown", conversation("550", "550", data=None), "ff"),
    ("all deferred, DATA is echo", conversation("450", "450", data="554 5.5.1 no valid recipients"), "dd"),
    ("all deferred, an empty body is echo", conversation("450", "550", data="354", body=None), "df"),
    ("a mixture, then a refused body", conversation("250", "550", "450", body="451 4.3.0 later"), "dfd"),
    # message
    ("MAIL 4xx", conversation(None, None, mail="451 4.3.0", data=None), "dd"),
    ("MAIL 5xx against somebody's address", conversation(None, mail="550 5.1.8 who?", data=None), "f"),
    ("MAIL refused, RCPT 503 is echo", conversation("503", mail="451", data="503"), "d"),
    ("DATA 4xx", conversation("250", "250", data="451 4.3.0 later"), "dd"),
    ("DATA 5xx", conversation("250", "550", data="554 5.6.0 no"), "ff"),
    ("last byte 4xx", conversation("250", body="452 4.3.1 disk full"), "d"),
    ("last byte 5xx", conversation("250", "250", body="554 5.7.1 spam"), "ff"),
    ("an odd code at the last byte", conversation("250", body="354"), "d"),
    # too many recipients
    ("too many, after an acceptance", conversation("250", "452 4.5.3 too many", "452 4.5.3 too many"), "s--"),
    ("too many, as RFC 821 said it", conversation("250", "552 too many recipients"), "s-"),
    ("too many, as RFC 5321 has it without an enhanced code", conversation("250", "452 too many"), "s-"),
    ("too many, 5.5.3", conversation("250", "552 5.5.3 too many"), "s-"),
    ("too many from the first on", conversation("452 4.5.3 too many", "452 4.5.3 too many", data=None), "dd"),
    ("a full mailbox is not too many", conversation("250", "452 4.2.2 mailbox full"), "sd"),
    ("too many, and then the body is refused", conversation("250", "452 4.5.3", body="554 no"), "f-"),
    # 421 and lost connections
    ("nothing answered", conversation(None, mail=None, data=None, cut=cut_at(Stage.RSET)), "-"),
    ("421 to MAIL", conversation(None, mail="421 4.3.2", data=None, cut=CLOSING), "-"),
    ("421 to the second RCPT", conversation("250", "421 4.3.2", None, data=None, cut=CLOSING), "ddd cut"),
    ("a refusal before the cut counts", conversation("550", None, data=None, cut=cut_at(Stage.RCPT)), "fd cut"),
    ("421 to DATA", conversation("250", data="421 4.3.2", cut=CLOSING), "d cut"),
    ("421 to the last byte", conversation("250", "550", body="421 4.7.28 slow down", cut=CLOSING), "df cut"),
    ("cut after MAIL", conversation(None, data=None, cut=cut_at(Stage.RCPT)), "d cut"),
    ("cut at DATA", conversation("250", data=None, cut=cut_at(Stage.DATA)), "d cut"),
    ("cut in the body", conversation("250", body=None, cut=cut_at(Stage.BODY)), "d cut"),
    ("cut after the last byte", conversation("250", "550", body=None, cut=LOST), "df cut ambiguous"),
    ("the file could not be read", conversation("250", body=None, cut=Response(Stage.LOCAL, 0, "", "EIO")), "d"),
    ("the file was changed", conversation("250", body=None, cut=LOST, changed=True), "- changed"),
    # route: the login
    ("530 at MAIL", conversation(None, mail="530 5.7.0 log in", data=None), "- route"),
    ("530 at RCPT", conversation("250", "530 5.7.0 log in", data=None, body=None), "-- route"),
    ("534 at DATA", conversation("250", "550", data="534 5.7.9"), "-f route"),
    ("535 at the last byte", conversation("250", body="535 5.7.8"), "- route"),
    ("538 at RCPT", conversation("538 5.7.11", data=None), "- route"),
    # route: our own address
    ("MAIL 5xx against us", conversation(None, mail="550 5.7.1 no", data=None, sender=OWN), "- route"),
    ("MAIL 4xx against us", conversation(None, mail="450 4.7.1 no", data=None, sender=OWN), "d"),
    ("MAIL 552 is about the size", conversation(None, mail="552 too big", data=None, sender=OWN), "f"),
    ("MAIL 5.3.4 is about the size", conversation(None, mail="554 5.3.4 too big", data=None, sender=OWN), "f"),
    ("MAIL 5.6.7 is about the text", conversation(None, mail="553 5.6.7 no UTF-8", data=None, sender=OWN), "f"),
    ("MAIL 555 is about a parameter", conversation(None, mail="555 5.5.4 what?", data=None, sender=OWN), "f"),
    ("RCPT 5xx is about the recipient", conversation("550 5.1.1 unknown", data=None, sender=OWN), "f"),
    ("last byte 5xx is about the text", conversation("250", body="554 5.7.1 spam", sender=OWN), "f"),
    (
        "Postfix says at RCPT whom it does not trust",
        conversation(f"553 5.7.1 <{OWN}>: Sender address rejected: not owned by user", data=None, sender=OWN),
        "- route",
    ),
    (
        "Postfix rejects a sender of somebody's",
        conversation("553 5.7.1 <erp@example.com>: Sender address rejected: not owned", data=None),
        "f",
    ),
    ("5.1.8 at RCPT speaks of the sender", conversation("550 5.1.8 bad", data=None, sender=OWN), "- route"),
    ("5.1.7 at the last byte, too", conversation("250", body="550 5.1.7 bad", sender=OWN), "- route"),
    (
        "Exchange denies our own address",
        conversation(
            "250", body=f"554 5.2.252 SendAsDenied; relay@x.com not allowed to send as {OWN}; STOREDRV", sender=OWN
        ),
        "- route",
    ),
    (
        "Exchange denies what stands in one message's From field",
        conversation("250", body=f"554 5.2.252 SendAsDenied; {OWN} not allowed to send as ceo@x.com; ST", sender=OWN),
        "f",
    ),
    (
        "Exchange denies an address that begins like ours",
        conversation("250", body=f"554 5.2.252 SendAsDenied; a@x.com not allowed to send as {OWN}.au;", sender=OWN),
        "f",
    ),
]


@pytest.mark.parametrize(("answers", "expected"), [pytest.param(a, e, id=name) for name, a, e in RULES])
def test_an_answer_means_what_its_stage_and_scope_say(answers: Answers, expected: str) -> None:
    """Stage and answer decide whose fault it is: the recipient's, the message's or the route's."""
    assert meaning(delivery.judge(answers, OWN)) == expected


@pytest.mark.parametrize("stage", [Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.BODY])
@pytest.mark.parametrize("code", [530, 534, 535, 538])
def test_a_lost_login_blames_the_route_at_every_stage(stage: Stage, code: int) -> None:
    """A server that forgets our login never fails a message, wherever it says so."""
    text = f"{code} 5.7.0 log in"
    answers = {
        Stage.MAIL: conversation(None, mail=text, data=None),
        Stage.RCPT: conversation(text, data=None),
        Stage.DATA: conversation("250", data=text),
        Stage.BODY: conversation("250", body=text),
    }[stage]
    assert meaning(delivery.judge(answers, "")) == "- route"


def test_without_an_own_address_a_refused_sender_is_the_messages_fault() -> None:
    """Where every producer brings its own sender, a refusal of one is no judgement on the others."""
    assert meaning(delivery.judge(conversation(None, mail="550 5.1.8", data=None, sender=OWN), "")) == "f"


# -- before anything is asked ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transaction", "offered", "nul", "expected"),
    [
        (Transaction("a", OWN, ("b@c.de",), 1000), EVERYTHING, False, ""),
        (Transaction("a", OWN, ("b@c.de",), 1001), EVERYTHING, False, "5.3.4"),
        (Transaction("a", OWN, ("b@c.de",), 1001), replace(EVERYTHING, size=0), False, ""),
        (Transaction("a", OWN, ("b@c.de",), 1001), replace(EVERYTHING, size=None), False, ""),
        (Transaction("a", OWN, ("b@c.de",), 1, eight_bit=True), EVERYTHING, False, ""),
        (Transaction("a", OWN, ("b@c.de",), 1, eight_bit=True), Extensions(), False, "5.6.3"),
        (Transaction("a", "ö@c.de", ("b@c.de",)), EVERYTHING, False, ""),
        (Transaction("a", "ö@c.de", ("b@c.de",)), Extensions(), False, "5.6.7"),
        (Transaction("a", OWN, ("b@c.de",)), EVERYTHING, True, "5.6.0"),
    ],
)
def test_what_the_server_is_known_not_to_take_is_refused_here(
    transaction: Transaction, offered: Extensions, nul: bool, expected: str
) -> None:
    """SIZE, 8BITMIME, SMTPUTF8 and NUL fail the message at once, with the code a server would give."""
    refusals = delivery.unsupported(transaction, offered, has_nul=nul)
    assert [answer.enhanced for answer in refusals.values()] == ([expected] if expected else [])
    assert all(answer.stage is Stage.LOCAL and answer.text for answer in refusals.values())
    attempt = delivery.refused_here(transaction, refusals)
    assert all(outcome.status is Status.FAILED for outcome in attempt.outcomes)


def test_only_the_recipient_that_is_not_ascii_is_refused_without_smtputf8() -> None:
    """One address that the server cannot be told does not keep the others from their mail."""
    mixed = Transaction("a", OWN, ("ö@c.de", "b@c.de"))
    assert list(delivery.unsupported(mixed, Extensions())) == ["ö@c.de"]


def message(*recipients: str, progress: Progress | None = None, arrived_at: float = NOW) -> QueuedMessage:
    return QueuedMessage("a", Envelope("erp@example.com", recipients), progress or Progress(arrived_at))


def record(status: Status, next_attempt: float = 0.0, attempts: int = 1, reason: str = "") -> RecipientRecord:
    return RecipientRecord(status, said(Stage.RCPT, "450"), attempts, NOW, next_attempt, reason)


def test_asked_for_are_those_still_owed_in_envelope_order() -> None:
    """Whoever got it or was given up is never asked for again, and whose turn has not come waits."""
    known = {
        "sent@x": record(Status.SENT),
        "failed@x": record(Status.FAILED),
        "later@x": record(Status.DEFERRED, NOW + 30),
        "due@x": record(Status.DEFERRED, NOW),
    }
    there = message("new@x", "sent@x", "later@x", "due@x", "failed@x", progress=Progress(NOW, known))
    assert delivery.owed(there, NOW, 100) == ("new@x", "due@x")
    assert delivery.owed(there, NOW + 30, 100) == ("new@x", "later@x", "due@x")
    assert delivery.owed(there, NOW + 30, 2) == ("new@x", "later@x")


def test_a_wall_clock_that_was_set_back_leaves_nobody_out() -> None:
    """The queue's clock says due; then the earliest are asked for, whatever the wall clock says."""
    known = {"a@x": record(Status.DEFERRED, NOW), "b@x": record(Status.DEFERRED, NOW + 5)}
    there = message("a@x", "b@x", progress=Progress(NOW, known))
    assert delivery.owed(there, NOW - 86400, 100) == ("a@x",)
    assert delivery.owed(message(), NOW, 100) == ()


# -- what is remembered, and the next step -------------------------------------------------------------------------


def attempt_of(*statuses: Status | None, stage: Stage = Stage.RCPT, text: str = "450") -> Attempt:
    recipients = tuple(f"r{n}@example.org" for n in range(len(statuses)))
    outcomes = tuple(Outcome(r, s, said(stage, text)) for r, s in zip(recipients, statuses, strict=True) if s)
    return Attempt(Transaction("a", "", recipients), outcomes)


def test_the_retry_schedule_is_30_seconds_to_hourly() -> None:
    """30 s, 1, 2, 5, 10, 30 minutes, then hourly for ever."""
    assert [POLICY.delay(n) for n in range(1, 10)] == [30, 60, 120, 300, 600, 1800, 3600, 3600, 3600]
    assert POLICY.delay(0) == 30
    progress, at, waits = Progress(NOW), NOW, []
    for _ in range(8):
        progress = delivery.advance(progress, attempt_of(Status.DEFERRED), POLICY, at)
        waits.append(progress.recipients["r0@example.org"].next_attempt - at)
        at = progress.recipients["r0@example.org"].next_attempt
    assert waits == [30, 60, 120, 300, 600, 1800, 3600, 3600]


@pytest.mark.parametrize(
    ("age", "tries", "trusted", "expired"),
    [(4.9, 10, True, False), (5.0, 2, True, False), (5.0, 3, True, True), (99, 2, True, False), (5.0, 3, False, False)],
)
def test_expiry_needs_age_and_three_tries_and_a_clock_to_trust(
    age: float, tries: int, trusted: bool, expired: bool
) -> None:
    """Neither an old message seldom tried, nor a young one tried often, nor one under a wrong date is given up."""
    known = {"r0@example.org": record(Status.DEFERRED, NOW, attempts=tries - 1)}
    old = Progress(NOW - age * 86400, known)
    after = delivery.advance(old, attempt_of(Status.DEFERRED), POLICY, NOW, may_expire=trusted)
    there = message("r0@example.org", progress=old)
    step = delivery.next_step(there, attempt_of(Status.DEFERRED), after, POLICY, NOW)
    assert (step == Fail("expired")) is expired
    assert (after.recipients["r0@example.org"].status is Status.FAILED) is expired


STEPS = [
    ("all sent", (Status.SENT, Status.SENT), Remove()),
    ("one failed", (Status.SENT, Status.FAILED), Fail("rejected")),
    ("one deferred", (Status.SENT, Status.DEFERRED), Retry(NOW + 30)),
    ("failed and deferred", (Status.FAILED, Status.DEFERRED), Retry(NOW + 30)),
    ("one not asked for", (Status.SENT, None), Retry(NOW)),
    ("nothing learnt", (None, None), Release()),
]


@pytest.mark.parametrize(("statuses", "expected"), [pytest.param(s, e, id=name) for name, s, e in STEPS])
def test_the_next_step_follows_from_everyone_together(
    statuses: Sequence[Status | None], expected: delivery.Step
) -> None:
    """A message leaves when all are sent, fails when nobody is owed, and waits for the earliest turn otherwise."""
    there = message("r0@example.org", "r1@example.org")
    attempt = attempt_of(*statuses)
    after = delivery.advance(there.progress, attempt, POLICY, NOW)
    assert delivery.next_step(there, attempt, after, POLICY, NOW) == expected


def test_a_failure_says_why_if_all_failed_for_one_reason() -> None:
    """`expired`, `unsupported` and `rejected` are told apart; of a mixture the servers' word is shown."""
    there = message("r0@example.org")
    here = delivery.refused_here(
        Transaction("a", "", ("r0@example.org",)), {"r0@example.org": Response(Stage.LOCAL, 554, "5.6.3", "8 bit")}
    )
    after = delivery.advance(there.progress, here, POLICY, NOW)
    assert delivery.next_step(there, here, after, POLICY, NOW) == Fail("unsupported")
    mixed = Progress(NOW, {**after.recipients, "r1@example.org": record(Status.FAILED, reason="rejected")})
    assert delivery.next_step(message("r0@example.org"), here, mixed, POLICY, NOW) == Fail("rejected")


def test_a_file_that_keeps_changing_is_given_up_the_third_time() -> None:
    """Twice it is left alone for [spool] settle; the third time everyone still owed fails, and the rest stays."""
    sent = {"r0@example.org": record(Status.SENT)}
    there = message("r0@example.org", "r1@example.org", progress=Progress(NOW, sent))
    attempt = replace(attempt_of(None, None), changed=True)
    for expected in (Retry(NOW + 2), Retry(NOW + 2), Fail("changed")):
        progress = delivery.advance(there.progress, attempt, POLICY, NOW)
        assert delivery.next_step(there, attempt, progress, POLICY, NOW) == expected
        there = replace(there, progress=progress)
    given_up = delivery.give_up(there, "changed", said(Stage.LOCAL, "554"), NOW).recipients
    assert {r: o.status for r, o in given_up.items()} == {
        "r0@example.org": Status.SENT,
        "r1@example.org": Status.FAILED,
    }


def test_an_operators_retry_gives_a_fresh_lifetime_but_never_asks_for_the_sent() -> None:
    """Failed and waiting recipients are due at once with their tries forgotten; who was sent to stays so."""
    known = {
        "sent@x": record(Status.SENT),
        "failed@x": record(Status.FAILED, attempts=9, reason="expired"),
        "later@x": record(Status.DEFERRED, NOW + 3600, attempts=8),
    }
    again = delivery.try_again(Progress(NOW - 9e6, known, changed=2), NOW)
    there = message("sent@x", "failed@x", "later@x", progress=again)
    assert delivery.owed(there, NOW, 10) == ("failed@x", "later@x")
    assert (again.arrived_at, again.changed, again.recipients["failed@x"].attempts) == (NOW, 0, 0)


def test_giving_up_keeps_the_last_word_of_those_who_had_one() -> None:
    """A deferred recipient's own answer is kept as the reason; one never tried gets the given one."""
    why = said(Stage.LOCAL, "554 5.6.0 cannot be read")
    there = message("tried@x", "new@x", progress=Progress(NOW, {"tried@x": record(Status.DEFERRED, NOW)}))
    after = delivery.give_up(there, "unreadable", why, NOW).recipients
    assert after["tried@x"].response.code == 450
    assert after["new@x"].response == why
    assert {o.reason for o in after.values()} == {"unreadable"}


# -- left out, and sent elsewhere ------------------------------------------------------------------------------------

STAND_IN = Transaction("a", "erp@example.com", ("test@x",), redirected=("a@c", "b@c", "ü@c"))


def to_the_stand_in(rcpt: str | None, body: str | None = "250 2.0.0 ok", cut: Response | None = None) -> Answers:
    """What was said about a redirected message."""
    return replace(conversation(rcpt, body=body, cut=cut), transaction=STAND_IN)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (to_the_stand_in("250"), "sss"),
        (to_the_stand_in("450 4.2.0 later"), "ddd"),
        (to_the_stand_in("550 5.1.1 no"), "fff"),
        (to_the_stand_in("250", body="554 5.7.1 spam"), "fff"),
        (to_the_stand_in("250", body=None, cut=LOST), "ddd cut ambiguous"),
    ],
)
def test_what_is_said_of_the_stand_in_is_meant_for_everybody_in_whose_place_it_stands(
    answers: Answers, expected: str
) -> None:
    """One outcome per real recipient, which says that it was redirected."""
    attempt = delivery.judge(answers, OWN)
    real = replace(attempt, transaction=replace(STAND_IN, recipients=STAND_IN.redirected))
    assert meaning(real) == expected
    assert all(outcome.response.text.endswith("(redirected to <test@x>)") for outcome in attempt.outcomes)


def test_a_redirection_is_known_by_its_text_only() -> None:
    """Code, enhanced code and stage are the server's: what is refused alike is alike, redirected or not."""
    (outcome, *_) = delivery.judge(to_the_stand_in("550 5.7.1 denied"), OWN).outcomes
    assert delivery.alike(outcome.response, said(Stage.RCPT, "550 5.7.1 denied"))


def test_who_steps_aside_are_the_real_recipients() -> None:
    """Also where a connection broke before anything was said."""
    attempt = delivery.step_aside(Attempt(STAND_IN), LOST)
    assert [outcome.recipient for outcome in attempt.outcomes] == list(STAND_IN.redirected)


def test_what_cannot_be_asked_for_is_said_of_the_real_recipients() -> None:
    """Their own addresses need no SMTPUTF8 where another is asked for; the stand-in's may."""
    assert delivery.unsupported(STAND_IN, Extensions()) == {}
    assert set(delivery.unsupported(replace(STAND_IN, size=2000), EVERYTHING)) == set(STAND_IN.redirected)
    refusals = delivery.unsupported(replace(STAND_IN, recipients=("ü@x",)), Extensions())
    assert set(refusals) == set(STAND_IN.redirected)
    assert delivery.refused_here(STAND_IN, refusals).outcomes[0].status is Status.FAILED


def test_the_suppressed_are_failed_for_a_reason_of_their_own() -> None:
    """They are owed nothing, the others everything; alone they make the message's reason, with others they do not."""
    there = message("a@x", "b@x", "c@x", progress=Progress(NOW, {"a@x": record(Status.DEFERRED, NOW, attempts=2)}))
    some = delivery.suppress(there, {"a@x": "not now", "b@x": "not now"}, NOW)
    assert delivery.owed(replace(there, progress=some), NOW, 10) == ("c@x",)
    assert delivery.rest(there, some, NOW) == Retry(NOW)
    assert (some.recipients["a@x"].attempts, some.recipients["a@x"].response.stage) == (2, Stage.LOCAL)
    assert delivery.failed_since(there.progress, some) == {}
    everybody = delivery.suppress(replace(there, progress=some), {"c@x": "never"}, NOW)
    assert delivery.rest(there, everybody, NOW) == Fail("suppressed")
    refused = replace(some, recipients={**some.recipients, "c@x": record(Status.FAILED, reason="rejected")})
    assert delivery.rest(there, refused, NOW) == Fail("rejected")
    assert list(delivery.failed_since(some, refused)) == ["c@x"]
    assert [past.text for past in everybody.history] == ["2 recipients: not now", "c@x: never"]


def test_a_retry_of_the_suppressed_asks_again_and_keeps_the_history() -> None:
    """Whoever brings the message back sees what happened before; the guard judges anew."""
    there = message("a@x")
    known = delivery.suppress(there, {"a@x": "not now"}, NOW)
    again = delivery.try_again(known, NOW + 5)
    assert delivery.owed(replace(there, progress=again), NOW + 5, 10) == ("a@x",)
    assert again.history == known.history


# -- what is remembered ----------------------------------------------------------------------------------------------


def lives(*attempts: Answers) -> list[tuple[str, str, int]]:
    """A message's history after these, a minute apart: event, text, times."""
    progress = Progress(NOW)
    for number, answers in enumerate(attempts):
        progress = delivery.advance(progress, delivery.judge(answers, OWN), POLICY, NOW + 60 * number)
    return [(past.event, past.text, past.times) for past in progress.history]


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        ([conversation("250", "250")], [("sent", "250 2.0.0 ok", 1)]),
        (
            [conversation("250", "550 5.1.1 no")],
            [("sent", "r0@example.org: 250 2.0.0 ok", 1), ("failed", "r1@example.org: 550 5.1.1 no", 1)],
        ),
        (
            [conversation("450 later", "450 later", "550 no")],
            [("deferred", "2 recipients: 450 later", 1), ("failed", "r2@example.org: 550 no", 1)],
        ),
        ([conversation("450 later")] * 3, [("deferred", "450 later", 3)]),
        ([conversation(None, mail=None, data=None, cut=cut_at(Stage.RSET))], []),
        ([conversation(None, mail="535 5.7.8 who are you?", data=None)], []),
        (
            [conversation("250", changed=True)] * 2,
            [("changed", "its producer wrote to it while it was sent", 2)],
        ),
    ],
)
def test_history_tells_what_was_said_and_to_whom(attempts: list[Answers], expected: list[tuple[str, str, int]]) -> None:
    """A line per answer, repetitions counted; nothing of what was the route's trouble."""
    assert lives(*attempts) == expected


def test_the_last_try_of_an_expired_message_says_so() -> None:
    """What ended it is not one more deferral."""
    progress = Progress(NOW - 6 * 86400, {"r0@example.org": record(Status.DEFERRED, NOW, attempts=9)})
    progress = delivery.advance(progress, delivery.judge(conversation("450 later"), OWN), POLICY, NOW)
    assert [past.event for past in progress.history] == ["expired"]


# -- three in a row -------------------------------------------------------------------------------------------------


@dataclass
class Street:
    """Messages one after the other through `suspect`, as the relay does it."""

    suspicion: Suspicion = field(default_factory=Suspicion)
    now: float = NOW

    def meet(self, queue_id: str, attempt: Attempt, progress: Progress | None = None) -> bool:
        """Whether this attempt makes it the route's fault. An id that begins with R is a report of our own."""
        self.now += 1
        attempt = replace(attempt, transaction=replace(attempt.transaction, queue_id=queue_id))
        self.suspicion, fault = delivery.suspect(
            self.suspicion, attempt, progress or Progress(NOW), self.now, report=queue_id.startswith("R")
        )
        return fault is not None


POLICY_REFUSAL = attempt_of(Status.FAILED, Status.FAILED, text="550 5.7.1 relaying denied")
OTHER_POLICY = attempt_of(Status.FAILED, text="550 5.7.26 unauthenticated")
ACCEPTED = attempt_of(Status.SENT, text="250")
UNKNOWN = attempt_of(Status.FAILED, text="550 5.1.1 unknown")
GREYLISTED = attempt_of(Status.DEFERRED, text="450 4.7.1 greylisted")
CUT = replace(attempt_of(Status.DEFERRED, text="0 lost"), cut=LOST)
REFUSED_HERE = attempt_of(Status.FAILED, stage=Stage.LOCAL, text="552 5.3.4 too large")
NOTHING = attempt_of(None)
SEND_AS = attempt_of(Status.FAILED, stage=Stage.BODY, text="554 5.2.0 STOREDRV; SendAsDeniedException")

STREETS: list[tuple[str, list[tuple[str, Attempt]], bool]] = [
    ("three refused alike", [("a", POLICY_REFUSAL), ("b", POLICY_REFUSAL), ("c", POLICY_REFUSAL)], True),
    ("two are not enough", [("a", POLICY_REFUSAL), ("b", POLICY_REFUSAL)], False),
    ("the same message thrice", [("a", POLICY_REFUSAL), ("a", POLICY_REFUSAL), ("a", POLICY_REFUSAL)], False),
    ("another refusal", [("a", POLICY_REFUSAL), ("b", OTHER_POLICY), ("c", POLICY_REFUSAL)], False),
    (
        "one accepted between",
        [("a", POLICY_REFUSAL), ("b", POLICY_REFUSAL), ("x", ACCEPTED), ("c", POLICY_REFUSAL)],
        False,
    ),
    (
        "one refused for its own sake between",
        [("a", POLICY_REFUSAL), ("b", POLICY_REFUSAL), ("x", UNKNOWN), ("c", POLICY_REFUSAL)],
        False,
    ),
    (
        "one greylisted between",
        [("a", POLICY_REFUSAL), ("b", POLICY_REFUSAL), ("x", GREYLISTED), ("c", POLICY_REFUSAL)],
        True,
    ),
    (
        "one refused on this machine between",
        [("a", POLICY_REFUSAL), ("b", POLICY_REFUSAL), ("x", REFUSED_HERE), ("c", POLICY_REFUSAL)],
        True,
    ),
    ("reports alone", [("Ra", POLICY_REFUSAL), ("Rb", POLICY_REFUSAL), ("Rc", POLICY_REFUSAL)], False),
    ("a report first", [("Ra", POLICY_REFUSAL), ("b", POLICY_REFUSAL), ("Rb", POLICY_REFUSAL)], True),
    ("a report last", [("a", POLICY_REFUSAL), ("Ra", POLICY_REFUSAL), ("b", POLICY_REFUSAL)], True),
    (
        "reports after another refusal of an ordinary message",
        [("a", OTHER_POLICY), ("Ra", POLICY_REFUSAL), ("Rb", POLICY_REFUSAL), ("Rc", POLICY_REFUSAL)],
        False,
    ),
    ("nobody exists", [("a", UNKNOWN), ("b", UNKNOWN), ("c", UNKNOWN)], False),
    ("nobody may send as us", [("a", SEND_AS), ("b", SEND_AS), ("c", SEND_AS)], True),
    ("three cut", [("a", CUT), ("b", CUT), ("c", CUT)], True),
    ("the same cut thrice", [("a", CUT), ("a", CUT), ("a", CUT)], False),
    ("a cut, an answer, two cuts", [("a", CUT), ("x", GREYLISTED), ("b", CUT), ("c", CUT)], False),
    ("untried between the cuts", [("a", CUT), ("x", NOTHING), ("b", CUT), ("c", CUT)], True),
    ("refused here between the cuts", [("a", CUT), ("x", REFUSED_HERE), ("b", CUT), ("c", CUT)], True),
]


@pytest.mark.parametrize(("events", "blamed"), [pytest.param(e, b, id=name) for name, e, b in STREETS])
def test_three_different_messages_in_a_row_blame_the_route(events: list[tuple[str, Attempt]], blamed: bool) -> None:
    """The same refusal, or a lost connection, of three messages with nothing better between is about us."""
    street = Street()
    verdicts = [street.meet(queue_id, attempt) for queue_id, attempt in events]
    assert verdicts == [False] * (len(events) - 1) + [blamed]


def test_a_policy_refusal_of_some_recipients_only_is_about_them() -> None:
    """Where one recipient of the message was accepted or refused otherwise, it is not the route."""
    street = Street()
    mixed = Attempt(POLICY_REFUSAL.transaction, (POLICY_REFUSAL.outcomes[0], replace(UNKNOWN.outcomes[0])))
    assert not any(street.meet(queue_id, mixed) for queue_id in "abc")


def test_an_excused_refusal_waits_on_its_own_schedule_and_forgets_nothing_else() -> None:
    """Taken back is what the route did; a recipient refused earlier for its own sake stays failed."""
    excused = delivery.excuse(POLICY_REFUSAL, POLICY_REFUSAL.outcomes[0].response)
    assert {o.status for o in excused.outcomes} == {Status.DEFERRED}
    refusal = POLICY_REFUSAL.outcomes[0].response
    known = {
        "unknown@x": RecipientRecord(Status.FAILED, UNKNOWN.outcomes[0].response, 1, NOW, reason="rejected"),
        "policy@x": RecipientRecord(Status.FAILED, refusal, 2, NOW, reason="rejected"),
        "sent@x": record(Status.SENT),
    }
    after = delivery.excuse_failed(Progress(NOW, known), replace(refusal, text="relaying of b denied"), POLICY, NOW)
    assert {r: o.status.value for r, o in after.recipients.items()} == {
        "unknown@x": "failed",
        "policy@x": "deferred",
        "sent@x": "sent",
    }
    assert (after.recipients["policy@x"].next_attempt, after.excused_at) == (NOW + 60, NOW)


def test_an_excused_message_is_excused_again_only_while_nothing_was_accepted_since() -> None:
    """No ping-pong: once anything got through, the next refusal of an excused message is its own."""
    street = Street()
    assert [street.meet(queue_id, POLICY_REFUSAL) for queue_id in "abc"] == [False, False, True]
    excused = Progress(NOW, excused_at=street.now)
    assert street.meet("a", POLICY_REFUSAL, excused), "still nothing accepted: held again"
    street.meet("x", ACCEPTED)
    assert not any(street.meet(queue_id, POLICY_REFUSAL, excused) for queue_id in "abcabc")


# -- clocks ------------------------------------------------------------------------------------------------------


def test_a_jump_of_the_wall_clock_expires_nothing_until_it_has_lasted() -> None:
    """After more than an hour against the clock that nobody can set, ten minutes have to pass; drift is followed."""
    watch = WallClockWatch(offset=NOW)
    watch = watch.observe(NOW + 100 + 1800, 100)
    assert watch.trusts(100), "half an hour is drift"
    watch = watch.observe(NOW + 200 + 86400, 200)
    assert not watch.trusts(200)
    assert not watch.observe(NOW + 799 + 86400, 799).trusts(799)
    assert watch.observe(NOW + 800 + 86400, 800).trusts(800)
    back = watch.observe(NOW + 300, 300)
    assert not back.trusts(899)
    assert back.trusts(900)


@pytest.mark.parametrize(
    ("response", "word"),
    [
        (said(Stage.CONNECT, "0 refused"), "connect"),
        (said(Stage.BODY, "421 4.3.2 bye"), "connect"),
        (said(Stage.TLS, "0 expired"), "tls"),
        (said(Stage.LOCAL, "0 input/output error"), "local"),
        (said(Stage.AUTH, "454 4.7.0 later"), "auth"),
        (said(Stage.MAIL, "530 5.7.0 log in"), "auth"),
        (said(Stage.RCPT, "450 4.7.1 Greylisted"), "greylist"),
        (said(Stage.MAIL, "552 too big"), "size"),
        (said(Stage.BODY, "554 5.3.4 too big"), "size"),
        (said(Stage.RCPT, "552 5.2.2 full"), "mailbox_full"),
        (said(Stage.RCPT, "550 5.1.1 unknown"), "unknown_user"),
        (said(Stage.BODY, "550 5.7.1 spam"), "policy"),
        (said(Stage.DATA, "451 4.3.0 later"), "other"),
    ],
)
def test_a_refusal_has_one_short_word(response: Response, word: str) -> None:
    """Tables and searches need a stable word; the server's text is not one."""
    assert delivery.reason_of(response) == word


# -- random histories ----------------------------------------------------------------------------------------------

FAIR = ["250", "250", "450 4.2.0 later", "550 5.1.1 unknown", "452 4.5.3 too many", "550 5.7.1 denied"]
ROUTE_ONLY = ["mail:530 5.7.0", "rcpt:535 5.7.8", "body:530 5.7.0", "own", "untried", "mail:421 4.3.2"]


@st.composite
def transactions_of(draw: st.DrawFn, kinds: Sequence[str]) -> tuple[str, list[str], str]:
    """What the server does to one transaction: a kind, an answer per recipient, an answer to DATA or body."""
    return (
        draw(st.sampled_from(kinds)),
        draw(st.lists(st.sampled_from(FAIR), min_size=4, max_size=4)),
        draw(st.sampled_from(["250 2.0.0", "451 4.3.0", "554 5.7.1 spam", "421 4.3.2"])),
    )


def answered(recipients: Sequence[str], kind: str, rcpt: Sequence[str], last: str) -> tuple[Answers, set[str]]:
    """The answers of one transaction, and to whom the server delivered."""
    n = len(recipients)
    said_to = list(rcpt[:n])
    if kind == "untried":
        made = conversation(*[None] * n, mail=None, data=None, cut=cut_at(Stage.MAIL))
    elif kind == "own":
        made = conversation(*[None] * n, mail="550 5.7.1 no", data=None, sender=OWN)
    elif kind.startswith("mail:"):
        made = conversation(*[None] * n, mail=kind[5:], data=None)
    elif kind.startswith("rcpt:"):
        made = conversation(*[kind[5:]] * n, data=None)
    elif kind == "cut-rcpt":
        made = conversation(*said_to[: n // 2], *[None] * (n - n // 2), data=None, cut=cut_at(Stage.RCPT))
    elif kind == "cut-body":
        made = conversation(*said_to, body=None, cut=cut_at(Stage.BODY))
    elif kind == "cut-dot":
        made = conversation(*said_to, body=None, cut=LOST)
    elif kind == "changed":
        made = conversation(*said_to, body=None, cut=LOST, changed=True)
    else:
        body = kind[5:] if kind.startswith("body:") else last
        said_to = ["250"] * n if kind.startswith("body:") else said_to
        made = conversation(*said_to, body=body, cut=CLOSING if body.startswith("421") else None)
    answers = replace(made, transaction=replace(made.transaction, recipients=tuple(recipients)))
    taken = answers.body is not None and answers.body.code == 250
    delivered = {r for r, a in zip(recipients, answers.recipients, strict=True) if taken and a and a.code == 250}
    return answers, delivered


@dataclass
class History:
    """One message under the rules, as the relay applies them, with an oracle beside it."""

    there: QueuedMessage
    limit: int
    now: float = NOW
    delivered: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    step: delivery.Step = field(default_factory=Release)
    suspicion: Suspicion = field(default_factory=Suspicion)

    @property
    def over(self) -> bool:
        return isinstance(self.step, Remove | Fail)

    def attempt(self, kind: str, rcpt: Sequence[str], last: str) -> None:
        """One transaction, whose meaning is checked against what the server did."""
        before = self.there.progress
        asked = delivery.owed(self.there, self.now, self.limit)
        assert asked, "a message in the queue is owed to somebody"
        assert not set(asked) & self.delivered, "whoever got it is never asked for again"
        assert not set(asked) & self.refused, "an earlier failure is never forgotten"
        if kind == "crash":  # between two attempts: only what is written down survives
            self.suspicion = Suspicion()
            return
        answers, delivered = answered(asked, kind, rcpt, last)
        attempt = delivery.judge(answers, OWN)
        self.delivered |= delivered
        after = delivery.advance(before, attempt, POLICY, self.now)
        self.step = delivery.next_step(self.there, attempt, after, POLICY, self.now)
        assert set(after.recipients) >= set(before.recipients)
        assert {r for r, o in after.recipients.items() if o.status is Status.SENT} == self.delivered
        self.refused = {r for r, o in after.recipients.items() if o.status is Status.FAILED}
        everyone = set(self.there.envelope.recipients)
        assert isinstance(self.step, Remove) == (self.delivered == everyone)
        if isinstance(self.step, Fail) and self.step.reason != "changed":
            assert self.delivered | self.refused == everyone
        if isinstance(self.step, Retry):
            assert self.step.at >= self.now
            self.now = self.step.at
        elif isinstance(self.step, Release):
            assert after is before
            self.now += 30
        self.there = replace(self.there, progress=after)


def begin(recipients: int, limit: int) -> History:
    return History(message(*(f"r{n}@example.org" for n in range(recipients))), limit)


KINDS = ["plain", "plain", "plain", "cut-rcpt", "cut-body", "cut-dot", "changed", "crash", *ROUTE_ONLY]


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.lists(transactions_of(KINDS), max_size=25))
def test_no_history_asks_twice_for_the_sent_or_forgets_a_failure(
    recipients: int, limit: int, events: list[tuple[str, list[str], str]]
) -> None:
    """Whatever the server does: sent is final, failed is final, Remove comes exactly when all are sent;
    and a server that is fair from some point on ends every message."""
    history = begin(recipients, limit)
    for event in events:
        if history.over:
            return
        history.attempt(*event)
    for _ in range(2 * recipients):
        if not history.over:
            history.attempt("plain", ["250"] * 4, "250 2.0.0")
    assert history.over


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.lists(st.sampled_from(["450 4.2.0", "452 4.5.3", "cut"]), min_size=1, max_size=4))
def test_what_is_never_accepted_expires(recipients: int, refusals: list[str]) -> None:
    """A server that only ever says "later", or cuts, cannot keep a message in the queue for ever."""
    history = begin(recipients, 4)
    for number in range(400):
        answer = refusals[number % len(refusals)]
        history.attempt(
            "cut-body" if answer == "cut" else "plain", ["450 4.2.0" if answer == "cut" else answer] * 4, ""
        )
        if history.over:
            break
    assert history.step == Fail("expired")
    assert history.now - NOW >= POLICY.expire


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.lists(transactions_of(ROUTE_ONLY), min_size=1, max_size=300))
def test_route_trouble_alone_fails_nothing_however_long(
    recipients: int, events: list[tuple[str, list[str], str]]
) -> None:
    """Days of lost logins and refused senders leave a message as it was: nobody failed, no try counted."""
    history = begin(recipients, 4)
    for event in events:
        history.attempt(*event)
        history.now += 86400
    assert history.step == Release()
    assert history.there.progress.recipients == {}
