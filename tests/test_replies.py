"""Mails as they arrive, each with what has to be read from it: tests/replies/FOLDER/NAME.eml, FOLDER/expected.json."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mailrelayd.approvals.memory import Memory
from mailrelayd.approvals.mime import JUDGED
from mailrelayd.approvals.reading import read
from mailrelayd.approvals.values import Decision, Kind, Options, Reading

REPLIES = Path(__file__).parent / "replies"
EXPECTED: dict[str, dict[str, Any]] = {
    f"{table.parent.name}/{name}": expected
    for table in sorted(REPLIES.glob("*/expected.json"))
    for name, expected in json.loads(table.read_text(encoding="utf-8")).items()
}
HEADER = b"From: boss@example.com\nSubject: Re: PO-42\nContent-Type: text/plain; charset=utf-8\n"


def said(text: str, options: Options | None = None, memory: Memory | None = None) -> Reading:
    return read(HEADER + b"\n" + text.encode(), options, memory)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_mail_is_read_as_its_author_meant_it(name: str) -> None:
    """Kind and decision are right, and where the table says so the new text and the comment."""
    reading = read((REPLIES / f"{name}.eml").read_bytes())
    got = {"kind": reading.kind, "decision": reading.decision, "new_text": reading.new_text, "comment": reading.comment}
    assert {key: got[key] for key in EXPECTED[name]} == EXPECTED[name], reading.rules


def test_every_mail_has_an_expectation_and_every_expectation_a_mail() -> None:
    """Nothing in the folder is left untested."""
    mails = {f"{path.parent.name}/{path.stem}" for path in REPLIES.glob("*/*.eml")}
    assert mails == EXPECTED.keys()
    assert len(mails) > 450


def test_only_a_reply_carries_a_decision() -> None:
    """Every other kind has none, whatever stands in the mail."""
    for name, expected in EXPECTED.items():
        assert (expected["kind"] == "reply") == (expected["decision"] is not None), name


def test_every_reading_names_a_stable_reason_and_the_rules_that_fired() -> None:
    """Reasons are codes for programs, rules are sentences for people."""
    for name in EXPECTED:
        reading = read((REPLIES / f"{name}.eml").read_bytes())
        assert re.fullmatch(r"[a-z0-9-]+", reading.reason), name
        assert reading.rules, name
        assert all(rule and rule.isprintable() for rule in reading.rules), name


def test_a_mail_cut_anywhere_is_still_read() -> None:
    """Every beginning of a mail gives a reading; without a text there is no decision in it."""
    for name in EXPECTED:
        data = (REPLIES / f"{name}.eml").read_bytes()
        for size in range(0, len(data), max(1, len(data) // 7)):
            reading = read(data[:size])
            assert reading.decision in (None, Decision.UNCLEAR) or reading.new_text, name


# Options


def test_configured_words_decide_as_the_built_in_ones_do() -> None:
    """`ok` and `+1` are no decisions until somebody says so."""
    options = Options(approve=("OK", "+1", "👍"), reject=("nope, sorry",))
    for text in ("ok", "Ok, thanks!", "+1", "👍"):
        assert said(text).decision is Decision.UNCLEAR
        assert said(text, options).decision is Decision.APPROVED
    assert said("Nope, sorry. Too late.", options).decision is Decision.REJECTED
    assert said("ok?", options).decision is Decision.UNCLEAR


def test_a_comment_on_the_same_line_is_taken_only_where_it_is_allowed() -> None:
    """FlexDeploy 5.7 wrote the comment behind the word."""
    allowed = Options(same_line_comment=True)
    assert said("Approve looks good to me").decision is Decision.UNCLEAR
    reading = said("Approve looks good to me\nand more", allowed)
    assert (reading.decision, reading.comment) == (Decision.APPROVED, "looks good to me\nand more")
    reading = said("Approve This is a comment", allowed)
    assert (reading.decision, reading.comment) == (Decision.APPROVED, "This is a comment")
    for text in (
        "Approve if legal agrees",
        "Approved-ish, fine",
        "Approve or reject",
        "Approve this one?",
        "Approval done",
    ):
        assert said(text, allowed).decision is Decision.UNCLEAR, text


def test_a_bare_approval_is_required_where_the_configuration_says_so() -> None:
    """Then even a friendly comment makes it unclear."""
    bare = Options(require_bare_approval=True)
    assert said("Approved, thanks!", bare).decision is Decision.APPROVED
    assert said("Approved\nGood work.", bare).reason == "not-bare"
    assert said("Rejected\nToo late.", bare).decision is Decision.REJECTED


def test_boilerplate_of_gateways_is_removed_and_named() -> None:
    """Line breaks and spaces in it do not matter; a text that is merely similar stays."""
    options = Options(boilerplate=("CAUTION: external mail. Do not click.",))
    reading = said("CAUTION:  external\nmail. Do not click.\n\nApproved", options)
    assert reading.decision is Decision.APPROVED
    assert "removed boilerplate" in reading.rules[0]
    assert said("CAUTION: external mail. Do not pay.\n\nApproved", options).decision is Decision.UNCLEAR


def test_over_a_distribution_list_its_marks_are_no_evidence() -> None:
    """With via_list a list's copy is a reply; an automatic answer stays one."""
    marks = b"List-Id: <a.example.com>\nPrecedence: list\n"
    assert read(marks + HEADER + b"\nApproved").kind is Kind.LIST
    assert read(marks + HEADER + b"\nApproved", Options(via_list=True)).decision is Decision.APPROVED
    assert (
        read(b"Auto-Submitted: auto-replied\n" + marks + HEADER + b"\nx", Options(via_list=True)).kind
        is Kind.AUTO_REPLY
    )


# What was sent is remembered

REQUEST = """Purchase order PO-42 needs your decision.
Please answer with Approve or Reject in the first line of your mail.

Approve
Reject

This request expires in fourteen days unless somebody decides."""


def test_text_of_the_request_is_quoted_wherever_it_stands() -> None:
    """Clients that mark nothing, wrap lines anew or put their text below are understood."""
    memory = Memory(REQUEST.splitlines())
    wrapped = REQUEST.replace(" or Reject in", "\nor Reject in").replace("\n\n", "\n")
    for quoted in (REQUEST, wrapped, REQUEST.upper()):
        assert said(f"Approved\n\n{quoted}").decision is Decision.UNCLEAR
        assert said(f"Approved\n\n{quoted}", memory=memory).new_text.strip() == "Approved"
        assert said(f"Approved\n\n{quoted}", memory=memory).decision is Decision.APPROVED
        assert said(f"{quoted}\n\nRejected, too late", memory=memory).decision is Decision.REJECTED
        assert said(quoted, memory=memory).reason == "empty"


def test_a_lone_decision_word_is_not_quoted_because_the_request_holds_it() -> None:
    """Only with the line next to it, as in the request, is it a quotation."""
    memory = Memory(REQUEST.splitlines())
    assert said("Approve", memory=memory).decision is Decision.APPROVED
    assert said(f"Reject\n\n{REQUEST}", memory=memory).decision is Decision.REJECTED
    assert said("Approve\nReject", memory=memory).reason == "empty"
    assert said("Approve\nRejected", memory=memory).decision is Decision.UNCLEAR


# Bounds


def test_only_so_much_of_a_mail_is_judged() -> None:
    """An attachment may go on behind it; a text that does is not known to its end."""
    attached = b"From: a@b\nContent-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/plain\n\n%s\n--b\n"
    assert read(attached % b"Approved" + b"Content-Type: image/png\n\n" + b"x" * JUDGED).decision is Decision.APPROVED
    assert read(attached % (b"Approved\n" + b"fine\n" * JUDGED)).decision is Decision.UNCLEAR


@pytest.mark.parametrize("gap", [" ", "\n", "fine.\n", "fine. "])
def test_an_approval_says_nothing_where_its_text_goes_on_out_of_sight(gap: str) -> None:
    """Whatever stands between, a rejection far below is not overlooked, or its place is known to be unread."""
    assert said(f"Approved\n{gap * 30_000}\n\nRejected").decision is not Decision.APPROVED
    assert said(f"Approved{gap * 30_000}Rejected").decision is not Decision.APPROVED
