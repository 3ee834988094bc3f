"""The approval token."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrelayd.approvals import token
from mailrelayd.approvals.token import MAX_COPY, MAX_MINUTE, Token, find, issue, parse, verify

SECRET = bytes(range(32))
OTHER = bytes(range(1, 33))
WHO = {"node": "relay1", "approver": "boss@example.com"}


def one(copy: int = 1234567890123, expires_at: float = 1_800_000_000.0) -> Token:
    return issue(SECRET, copy=copy, expires_at=expires_at, **WHO)


@given(st.integers(0, MAX_COPY), st.integers(0, MAX_MINUTE), st.binary(min_size=16, max_size=16))
def test_what_is_written_is_read_back(copy: int, minute: int, mac: bytes) -> None:
    """44 lower-case characters, and all three parts come back, in upper case too."""
    written = str(Token(copy, minute, mac))
    assert len(written) == 44
    assert written.isascii()
    assert written == written.lower()
    assert parse(written) == parse(written.upper()) == Token(copy, minute, mac)


def test_the_form_stays_what_it_is() -> None:
    """Other machines, and mails under way, depend on every bit of it."""
    assert str(one()) == "caaach3r7mcmw4tq4apw6qsh447vetmwtsbqm2dyvxii"
    bits = int.from_bytes(base64.b32decode(str(one()).upper() + "AAAA")) >> 20
    assert bits >> 216 == 1
    assert bits >> 156 & MAX_COPY == 1234567890123
    assert bits >> 130 & MAX_MINUTE == 30_000_000


@given(st.text(max_size=60))
def test_any_text_is_a_token_or_none(text: str) -> None:
    """Never an exception, and what is accepted is spelled in one way only."""
    found = parse(text)
    assert found is None or str(found) == text.lower()


@given(st.integers(0, 43), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
def test_no_character_may_differ(position: int, character: str) -> None:
    """A token with one other character is malformed, or not genuine."""
    genuine = str(one())
    changed = parse(genuine[:position] + character + genuine[position + 1 :])
    assert genuine[position] == character or changed is None or not verify(changed, [SECRET], **WHO)


def test_a_genuine_token_is_bound_to_all_it_says() -> None:
    """Another node, another approver, another secret: not genuine; the approver's case does not matter."""
    assert verify(one(), [OTHER, SECRET], **WHO)
    assert verify(one(), [SECRET], node="relay1", approver="BOSS@Example.com")
    assert not verify(one(), [OTHER], **WHO)
    assert not verify(one(), [], **WHO)
    assert not verify(one(), [SECRET], node="relay2", approver="boss@example.com")
    assert not verify(one(), [SECRET], node="relay1", approver="other@example.com")
    assert not verify(Token(one().copy + 1, one().minute, one().mac), [SECRET], **WHO)
    assert not verify(Token(one().copy, one().minute + 1, one().mac), [SECRET], **WHO)


def test_parts_cannot_move_into_each_other() -> None:
    """relay1 + x@y and relay + 1x@y are different."""
    a = issue(SECRET, node="relay1", copy=1, approver="x@y", expires_at=60)
    assert not verify(a, [SECRET], node="relay", approver="1x@y")


def test_expiry_is_rounded_up_to_a_minute() -> None:
    """Never earlier than promised."""
    assert one(expires_at=60.0).expires_at == 60.0
    assert one(expires_at=60.1).expires_at == 120.0


@pytest.mark.parametrize(
    ("secret", "copy", "expires_at"),
    [(b"short", 1, 60.0), (SECRET, -1, 60.0), (SECRET, 2**60, 60.0), (SECRET, 1, 60.0 * 2**26), (SECRET, 1, -61.0)],
)
def test_what_does_not_fit_is_an_error(secret: bytes, copy: int, expires_at: float) -> None:
    """A short secret, an id or a time outside of its bits."""
    with pytest.raises(ValueError, match="at"):
        issue(secret, copy=copy, expires_at=expires_at, **WHO)


def test_tokens_are_found_in_addresses_ids_and_text() -> None:
    """Each once, in order, whatever stands around them; not inside of longer words."""
    a, b = one(1), one(2)
    text = f"To: approvals+{str(a).upper()}@example.com\nReferences: <{b}@relay1> <{a}@relay1>\nReference: {a}.x"
    assert find(text) == (a, b)
    assert find(f"x{a}") == find(f"{a}2") == find(f"{a}9") == ()
    assert len(str(a)) == token.LENGTH
