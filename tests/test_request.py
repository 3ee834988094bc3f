"""What a producer asks for, who may ask whom, and what is remembered of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrelayd.approvals.request import (
    Asked,
    Copy,
    Decided,
    Request,
    RequestError,
    State,
    asked,
    decode,
    encode,
    entitled,
    everybody,
    expiry,
    same,
)
from mailrelayd.outbound.headers import Header, Unreadable, split_header


@dataclass(frozen=True)
class Table:
    name: str = "erp"
    match: str = "PO-*"
    producers: tuple[str, ...] = ("erp",)
    approvers: tuple[str, ...] = ("*@example.com",)


REQUEST = Request(
    queue_id="abc",
    request_id="PO-42",
    requested_by="erp",
    sinks=("erp",),
    node="relay1",
    opened_at=1000.0,
    expires_at=2000.0,
    subject="Buy?",
    message_id="<1@example.com>",
    sha256="00",
    copies=(Copy("a@example.com", 1), Copy("b@example.com", 2)),
)
YES = Decided("approved", "id", 1500.0)


def header(text: str) -> Header:
    found = split_header(text.encode() + b"\n\nbody\n")
    assert isinstance(found, Header)
    return found


def test_an_ordinary_message_asks_for_nothing() -> None:
    """Only the three fields make a request."""
    assert asked(header("From: a@example.com\nX-Approval: yes")) is None


def test_the_three_fields_say_who_is_asked_and_until_when() -> None:
    """Folded, in any case; without approvers the recipients are meant."""
    assert asked(header("x-approval-request: PO-42")) == Asked("PO-42")
    assert asked(
        header(
            "X-Approval-Request:\n PO\n 42\nX-Approval-Approvers: Boss <a@example.com>,\n b@example.com, A@EXAMPLE.com"
        )
    ) == Asked("PO 42", ("a@example.com", "b@example.com", "A@EXAMPLE.com"))
    assert asked(header("X-Approval-Request: 1\nX-Approval-Expires: 3d")) == Asked("1", lasting=3 * 86400.0)
    assert asked(header("X-Approval-Request: 1\nX-Approval-Expires: 2026-12-01T08:00:00Z")) == Asked(
        "1", until=1796112000.0
    )


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ("X-Approval-Request:", "missing or empty"),
        ("X-Approval-Approvers: a@example.com", "missing or empty"),
        ("X-Approval-Request: 1\nX-Approval-Request: 2", "twice"),
        ("X-Approval-Request: " + "x" * 201, "at most 200"),
        ("X-Approval-Request: a\x07b", "printable"),
        ("X-Approval-Request: 1\nX-Approval-Approvers: ,", "names nobody"),
        ("X-Approval-Request: 1\nX-Approval-Approvers: boss", "boss"),
        ("X-Approval-Request: 1\nX-Approval-Expires: soon", "neither"),
        ("X-Approval-Request: 1\nX-Approval-Expires: 2026-12-01T08:00:00", "neither"),
        ("X-Approval-Request: 1\nX-Approval-Expires: 2026-13-01T08:00:00Z", "neither"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_reason(fields: str, reason: str) -> None:
    """A request nobody can answer must not go out."""
    found = asked(header(fields))
    assert isinstance(found, Unreadable)
    assert reason in found.reason


def test_an_expiry_counts_from_the_claim() -> None:
    """A duration, a moment, or the default; never in the past, never far ahead."""
    assert expiry(Asked("1"), 1000.0, 60.0) == 1060.0
    assert expiry(Asked("1", lasting=5.0), 1000.0, 60.0) == 1005.0
    assert expiry(Asked("1", until=1001.0), 1000.0, 60.0) == 1001.0
    for wrong in (Asked("1", until=999.0), Asked("1", lasting=0.0), Asked("1", lasting=20 * 366 * 86400.0)):
        assert isinstance(expiry(wrong, 1000.0, 60.0), Unreadable)


def test_every_sink_that_matches_must_let_them_ask() -> None:
    """By user or group of the producer, and for each approver."""
    sinks = [Table(), Table("audit", "*", ("erp", "crm"))]
    assert entitled("PO-42", ["a@example.com"], {"erp", "users"}, sinks) == ("erp", "audit")
    assert entitled("X-1", ["a@example.com"], {"crm"}, sinks) == ("audit",)


@pytest.mark.parametrize(
    ("request_id", "approvers", "asking", "reason"),
    [
        ("QU-1", ["a@example.com"], {"erp"}, "no [[decisions]] matches"),
        ("po-42", ["a@example.com"], {"erp"}, "no [[decisions]] matches"),
        ("PO-42", ["a@example.com"], {"mallory"}, 'no name of that is in producers of [[decisions]] "erp"'),
        ("PO-42", ["a@example.com"], set(), "belongs to nobody"),
        ("PO-42", ["a@example.com", "mallory@example.org"], {"erp"}, "'mallory@example.org' may not be asked"),
    ],
)
def test_nobody_else_opens_a_request(request_id: str, approvers: list[str], asking: set[str], reason: str) -> None:
    """Else any program on this machine could have its own request approved."""
    found = entitled(request_id, approvers, asking, [Table()])
    assert isinstance(found, Unreadable)
    assert reason in found.reason


def test_an_approver_who_is_no_recipient_gets_a_copy() -> None:
    """Added behind the recipients, unless there already in another spelling."""
    assert everybody(["a@example.com"], ["A@Example.com", "b@example.com"]) == ("a@example.com", "b@example.com")
    assert same("Boss@Example.com", "boss@example.COM")
    assert not same("b\u00f6ss@example.com", "B\u00d6SS@example.com")


def test_a_request_is_open_until_everybody_answered_or_it_is_over() -> None:
    """What was decided before it was over stays decided."""
    both = {"a@example.com": YES, "b@example.com": YES}
    assert REQUEST.state(1999.9) is State.OPEN
    assert REQUEST.state(2000.0) is State.EXPIRED
    assert replace(REQUEST, decided={"a@example.com": YES}).state(1500.0) is State.OPEN
    assert replace(REQUEST, decided=both).state(5000.0) is State.DECIDED
    assert replace(REQUEST, superseded_by="x").state(1500.0) is State.SUPERSEDED
    assert replace(REQUEST, superseded_by="x", decided=both).state(1500.0) is State.DECIDED
    assert replace(REQUEST, cancelled_at=1.0, decided=both).state(1500.0) is State.CANCELLED
    assert replace(REQUEST, decided={"a@example.com": YES}).owed() == (Copy("b@example.com", 2),)


def test_what_is_written_down_is_read_back() -> None:
    """All of it."""
    full = replace(REQUEST, sent={"a@example.com": 1100.5}, decided={"a@example.com": YES})
    assert decode(encode(full)) == full


@given(st.binary(max_size=200))
def test_a_damaged_entry_is_never_guessed(data: bytes) -> None:
    """Any bytes give a request or a RequestError."""
    with pytest.raises(RequestError):
        decode(data)


@given(st.integers(0, len(encode(REQUEST)) - 3))
def test_a_torn_entry_is_noticed(length: int) -> None:
    """Half a file is none."""
    with pytest.raises(RequestError, match="damaged"):
        decode(encode(REQUEST)[:length])


def test_an_entry_of_a_newer_version_is_left_alone() -> None:
    """It may mean something else there."""
    with pytest.raises(RequestError, match="newer version"):
        decode(encode(REQUEST).replace(b'"format": 1', b'"format": 2'))
