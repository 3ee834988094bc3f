"""The one place where an approval can come into being, and the document that tells of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mailrelayd.approvals
from mailrelayd.approvals import token
from mailrelayd.approvals.document import Mail, decision_id, document, event_id, outcome_of
from mailrelayd.approvals.judge import TOLD, Found, Judgement, Outcome, Sender, judge, single_address
from mailrelayd.approvals.request import Copy, Decided, Request
from mailrelayd.approvals.token import Token
from mailrelayd.approvals.values import Decision, Kind, Reading

SECRET = bytes(range(32))
REQUEST = Request(
    queue_id="2gk4zzzzzzaaaaaa",
    request_id="PO-42",
    requested_by="erp",
    sinks=("erp",),
    node="relay1",
    opened_at=600.0,
    expires_at=1200.0,
    subject="Buy?",
    message_id="<1@example.com>",
    sha256="0" * 64,
    copies=(Copy("boss@example.com", 1), Copy("cfo@example.com", 2)),
    sent={"boss@example.com": 700.0},
)
OTHER = replace(REQUEST, queue_id="2gk4zzzzzzbbbbbb", request_id="PO-43", copies=(Copy("boss@example.com", 9),))
YES = Reading(Kind.REPLY, Decision.APPROVED, "first-line-keyword", "ok for me", "Approved\nok for me")
NO = Reading(Kind.REPLY, Decision.REJECTED, "first-line-keyword", "too dear", "Rejected\ntoo dear")
BOSS = Sender(
    "boss@example.com", True, "dmarc=pass", "authentication-results", "mx.example.com", "pass", "pass", "pass"
)


def issued(number: int, request: Request = REQUEST) -> Token:
    copy = request.copy(number)
    assert copy is not None
    return token.issue(SECRET, node="relay1", copy=number, approver=copy.approver, expires_at=request.expires_at)


def found(number: int = 1, request: Request = REQUEST) -> Found:
    return Found(issued(number, request), request, genuine=True)


def judged(
    reading: Reading = YES,
    tokens: tuple[Found, ...] | None = None,
    sender: Sender = BOSS,
    at: float = 1000.0,
    **more: object,
) -> Judgement:
    delegates = {"boss@example.com": ("Deputy@example.com",)}
    tokens = (found(),) if tokens is None else tokens
    return judge(reading, tokens, sender, at, delegates=delegates, **more)  # type: ignore[arg-type]


def told(judgement: Judgement) -> tuple[str, str]:
    return judgement.outcome.value, judgement.reason


def test_all_of_it_together_is_a_decision() -> None:
    """Token, approver, authentication, an open request and the word: approved or rejected, with the comment."""
    yes = judged()
    assert told(yes) == ("approved", "first-line-keyword")
    assert (yes.decided_by, yes.on_behalf_of, yes.comment) == ("boss@example.com", "", "ok for me")
    assert told(judged(NO)) == ("rejected", "first-line-keyword")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"tokens": ()}, ("unmatched", "no-token")),
        ({"tokens": (Found(issued(1)),)}, ("foreign", "no-token-of-ours")),
        ({"tokens": (Found(issued(1), REQUEST),)}, ("foreign", "no-token-of-ours")),
        ({"tokens": (found(), found(9, OTHER))}, ("unclear", "several-requests")),
        ({"sender": replace(BOSS, address="")}, ("untrusted", "no-single-sender")),
        ({"sender": replace(BOSS, address="mallory@example.com")}, ("untrusted", "wrong-person")),
        ({"sender": replace(BOSS, address="boss@example.com.evil.example")}, ("untrusted", "wrong-person")),
        ({"tokens": (found(2),)}, ("untrusted", "wrong-person")),
        ({"sender": replace(BOSS, authentic=False)}, ("untrusted", "sender-not-authenticated")),
        ({"at": 1200.0}, ("expired", "too-late")),
        ({"tokens": (found(1, replace(REQUEST, superseded_by="x")),)}, ("expired", "superseded")),
        ({"tokens": (found(1, replace(REQUEST, cancelled_at=900.0)),)}, ("cancelled", "request-cancelled")),
        ({"reading": replace(YES, decision=Decision.UNCLEAR, reason="doubt")}, ("unclear", "doubt")),
        ({"reading": Reading(Kind.UNREADABLE, None, "too-deep")}, ("unreadable", "too-deep")),
        ({"reading": Reading(Kind.AUTO_REPLY, None, "auto-submitted")}, ("auto-reply", "auto-submitted")),
        ({"reading": Reading(Kind.CALENDAR, None, "calendar")}, ("calendar", "calendar")),
        ({"reading": Reading(Kind.LIST, None, "list-id")}, ("list", "list-id")),
        ({"reading": Reading(Kind.BOUNCE, None, "report"), "tokens": ()}, ("bounce", "no-token")),
    ],
)
def test_each_missing_part_takes_the_approval_away(changed: dict[str, object], expected: tuple[str, str]) -> None:
    """Every row differs from a good approval in one thing."""
    assert told(judged(**changed)) == expected  # type: ignore[arg-type]


def test_reply_all_brings_several_tokens_and_the_senders_counts() -> None:
    """Whatever the order."""
    both = judged(tokens=(found(2), found(1)))
    assert (both.outcome, both.copy) == (Outcome.APPROVED, REQUEST.copy(1))


def test_a_delegate_answers_on_behalf_of_the_approver() -> None:
    """Only the one who was named, only for whom they were named; the delegate is the one who is authenticated."""
    deputy = judged(sender=replace(BOSS, address="deputy@example.com"))
    assert (deputy.outcome, deputy.decided_by) == (Outcome.APPROVED, "deputy@example.com")
    assert deputy.on_behalf_of == "boss@example.com"
    assert judged(tokens=(found(2),), sender=replace(BOSS, address="deputy@example.com")).reason == "wrong-person"
    assert judged(sender=replace(BOSS, address="deputy@example.com", authentic=False)).outcome is Outcome.UNTRUSTED


def test_the_first_decision_counts() -> None:
    """The same again is a duplicate, the opposite conflicting; what was no decision uses nothing up."""
    approved = replace(REQUEST, decided={"boss@example.com": Decided("approved", "x", 900.0)})
    assert told(judged(tokens=(found(1, approved),)))[0] == "duplicate"
    assert told(judged(NO, tokens=(found(1, approved),)))[0] == "conflicting"
    assert told(judged(replace(YES, decision=Decision.UNCLEAR), tokens=(found(1, approved),)))[0] == "unclear"
    bounced = replace(REQUEST, decided={"boss@example.com": Decided("undeliverable", "x", 900.0)})
    assert told(judged(tokens=(found(1, bounced),)))[0] == "approved"


def test_a_distribution_list_may_carry_answers_where_that_is_wanted() -> None:
    """[approvals] via_list; what the list's mail says counts then."""
    reading = Reading(Kind.LIST, Decision.APPROVED, "first-line-keyword")
    assert judged(reading).outcome is Outcome.LIST
    assert judged(reading, via_list=True).outcome is Outcome.APPROVED


@pytest.mark.parametrize(
    ("field", "address"),
    [
        ("boss@example.com", "boss@example.com"),
        (" The Boss <boss@example.com>\r\n", "boss@example.com"),
        ('"Boss, The" <boss@example.com>', "boss@example.com"),
        ("=?utf-8?q?B=C3=B6ss?=\r\n <boss@example.com>", "boss@example.com"),
        ("B\u00f6ss <boss@example.com>", "boss@example.com"),
        ("boss@example.com (The Boss)", "boss@example.com"),
        ("", ""),
        ("boss", ""),
        ("boss@example.com, mallory@example.org", ""),
        ("Boss: boss@example.com;", ""),
        ("<@relay.example:boss@example.com>", ""),
        ("boss@example.com <mallory@example.org>", ""),
        ("<boss@example.com> <mallory@example.org>", ""),
        ("boss@corp]<evil@x.example>", ""),
        ("Boss <boss@example.com", ""),
        ('"boss@example.com" <mallory@example.org>', "mallory@example.org"),
        ("b\u043ess@example.com", ""),
        ("=?utf-8?q?boss=40example.com?=", ""),
        ("Boss <=?utf-8?q?boss?=@example.com>", ""),
        ("boss@example.com\r\nX: y", ""),
        ("a" * 3000 + " <boss@example.com>", ""),
    ],
)
def test_a_sender_is_one_address_that_reads_in_one_way(field: str, address: str) -> None:
    """Anything that two programs could read differently is no sender."""
    assert single_address([field]) == address


def test_two_from_fields_are_no_sender() -> None:
    """One of them is what a filter saw, the other what a person sees."""
    assert single_address(["boss@example.com", "boss@example.com"]) == ""
    assert single_address([]) == ""


@given(st.text(alphabet='<>@(),;:"\\ ab.=?\r\n\t', max_size=80))
def test_any_from_field_gives_an_address_or_nothing(field: str) -> None:
    """Never an exception; and what comes out stood there."""
    assert single_address([field]) in field


# -- the document --------------------------------------------------------------------------------------------

SCHEMA = json.loads((Path(mailrelayd.approvals.__file__).parent / "decision.schema.json").read_bytes())
MAIL = Mail("approvals/INBOX", 1, 7, "<r1@example.com>", "1" * 64, 1000.0, {"X-Ticket": "7"})


def valid(judgement: Judgement, *, mail: Mail | None = MAIL, sender: Sender | None = BOSS) -> dict[str, object]:
    id_ = decision_id("t", "<r1@example.com>", "1" * 64, "2" * 64)
    text = document(judgement, id=id_, node="relay1", at=1001.5, sender=sender, mail=mail, archive=f"in/20261121/{id_}")
    event: dict[str, object] = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(event, SCHEMA, format_checker=jsonschema.FormatChecker())
    assert outcome_of(text) == (judgement.outcome, event)
    return event


def test_a_decision_is_one_cloudevent() -> None:
    """Every key has its place, and the schema that is shipped describes it."""
    event = valid(judged())
    assert event["type"] == "org.mailrelayd.decision.approved"
    assert (event["subject"], event["source"]) == ("PO-42", "urn:mailrelayd:relay1:approvals")
    assert event["time"] == "1970-01-01T00:16:41Z"
    assert event["data"] == {
        "decision": "approved",
        "reason": "first-line-keyword",
        "request_id": "PO-42",
        "requested_by": "erp",
        "comment": "ok for me",
        "decided_by": {"address": "boss@example.com", "on_behalf_of": None},
        "decided_at": "1970-01-01T00:16:40Z",
        "received_at": "1970-01-01T00:16:40Z",
        "headers": {"X-Ticket": "7"},
        "authentication": {
            "trusted": True,
            "method": "authentication-results",
            "authserv_id": "mx.example.com",
            "dmarc": "pass",
            "dkim": "pass",
            "spf": "pass",
            "token": "valid",
        },
        "message": {
            "message_id": "<r1@example.com>",
            "mailbox": "approvals/INBOX",
            "uidvalidity": 1,
            "uid": 7,
            "sha256": "1" * 64,
            "archive": f"in/20261121/{event['id']}",
        },
        "original": {
            "queue_id": REQUEST.queue_id,
            "message_id": "<1@example.com>",
            "sha256": "0" * 64,
            "sent_at": "1970-01-01T00:11:40Z",
        },
    }


@pytest.mark.parametrize("outcome", sorted(TOLD))
def test_every_outcome_that_sinks_hear_of_fits_the_schema(outcome: Outcome) -> None:
    """With a mail; and those that no mail carries, without."""
    valid(Judgement(outcome, "some-reason", REQUEST, REQUEST.copies[0], issued(1), "boss@example.com"))
    if outcome in (Outcome.EXPIRED, Outcome.CANCELLED, Outcome.UNDELIVERABLE):
        valid(Judgement(outcome, "some-reason", REQUEST, REQUEST.copies[0]), mail=None, sender=None)


def test_the_schema_knows_no_yes_without_authentication() -> None:
    """A document that says so would be a bug; consumers can check for it."""
    event = valid(judged())
    for key, wrong in (("trusted", False), ("token", "other")):
        forged = json.loads(json.dumps(event))
        forged["data"]["authentication"][key] = wrong
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(forged, SCHEMA)


def test_somebody_elses_token_is_told() -> None:
    """And mail that is no answer has a type of its own."""
    event = valid(judged(sender=replace(BOSS, address="mallory@example.com")))
    assert event["data"]["authentication"]["token"] == "other"  # type: ignore[index]
    text = document(judged(tokens=()), id="x", node="relay1", at=1.0, sender=BOSS, mail=MAIL, archive="in/20261121/x")
    assert json.loads(text)["type"] == "org.mailrelayd.mail.unmatched"
    assert "subject" not in json.loads(text)


def test_ids_are_the_same_whenever_a_mail_is_read() -> None:
    """They hang on the token, the mail and what is newly written in it, and on nothing else."""
    one = decision_id("t", "<m>", "s", "n")
    assert one == decision_id("t", "<m>", "other copy", "n")
    assert (
        len({one, decision_id("u", "<m>", "s", "n"), decision_id("t", "", "s", "n"), decision_id("t", "<m>", "s", "o")})
        == 4
    )
    assert event_id(REQUEST, REQUEST.copies[0], "expired") != event_id(REQUEST, REQUEST.copies[1], "expired")


@given(st.text())
def test_any_comment_is_told_and_the_document_stays_small(comment: str) -> None:
    """Lone surrogates and control characters included; CloudEvents asks for at most 64 KiB."""
    text = document(
        replace(judged(), comment=comment * 50),
        id="x",
        node="n",
        at=1.0,
        sender=BOSS,
        mail=MAIL,
        archive="in/20261121/x",
    )
    assert len(json.loads(text)["data"]["comment"]) <= 16_000
    assert text.count(b"\n") == 1
