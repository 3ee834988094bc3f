"""Header bytes in, envelope and wire header out: what holds for every producer, and for any bytes at all."""

from __future__ import annotations

import email
import email.policy
import email.utils
import json
from email.message import EmailMessage, Message
from pathlib import Path
from typing import Any

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from mailrelayd.outbound.addresses import AddressError, canonical, read_list, read_path, same_mailbox, valid_address
from mailrelayd.outbound.envelope import Derived, Producer, Sidecar, parse_sidecar, read_envelope, rewrite
from mailrelayd.outbound.headers import Header, RewriteFrom, Unreadable, edit, removed, split_header
from mailrelayd.outbound.values import Envelope

PRODUCERS = sorted((Path(__file__).parent / "producers").glob("*.eml"))


def header_of(data: bytes) -> Header:
    header = split_header(data)
    assert isinstance(header, Header), header
    return header


def derive(data: bytes, **options: Any) -> Derived:
    derived = read_envelope(header_of(data), options.pop("rule", "headers"), **options)
    assert isinstance(derived, Derived), derived
    return derived


def refusal(data: bytes, **options: Any) -> str:
    derived = read_envelope(header_of(data), options.pop("rule", "headers"), **options)
    assert isinstance(derived, Unreadable), derived
    return derived.reason


def wire(data: bytes, **options: Any) -> bytes:
    arguments: dict[str, Any] = {
        "queue_id": "abcdefghijkl",
        "node": "relay1",
        "arrived_at": 1767600900.75,
        "uid": 1000,
        "pickup": False,
        "from_address": "",
        "rewrite_from": "envelope",
        "sender": "a@example.com",
    }
    return edit(header_of(data), **{**arguments, **options})


# Producers


@pytest.mark.parametrize("path", PRODUCERS, ids=lambda path: path.stem)
def test_every_producers_file_gives_the_envelope_that_its_producer_meant(path: Path) -> None:
    expected = json.loads(path.with_suffix(".expected.json").read_text())
    derived = derive(path.read_bytes(), rule=expected["folder"])
    assert derived.envelope == Envelope(expected["sender"], tuple(expected["recipients"]))
    assert (derived.rule, list(derived.stripped)) == (expected["rule"], expected["stripped"])


@pytest.mark.parametrize("path", PRODUCERS, ids=lambda path: path.stem)
def test_on_the_wire_every_kept_field_of_a_producers_file_is_as_it_was(path: Path) -> None:
    pickup = json.loads(path.with_suffix(".expected.json").read_text())["folder"] == "pickup"
    before = header_of(path.read_bytes())
    after = header_of(wire(path.read_bytes(), pickup=pickup))
    gone = removed(before, pickup=pickup)
    kept = [field.raw.splitlines() for field in before.fields if field.name not in gone]
    assert after.fields[0].name == "Received"
    assert [field.raw.splitlines() for field in after.fields[1 : 1 + len(kept)]] == kept
    assert {field.key for field in after.fields[1 + len(kept) :]} <= {"message-id", "date"}
    assert len(after.named("message-id")) == len(after.named("date")) == 1
    assert not after.named("bcc", "resent-bcc", "return-path", "content-length")


@pytest.mark.parametrize(
    "policy",
    [email.policy.default, email.policy.SMTP, email.policy.SMTPUTF8, email.policy.HTTP, email.policy.compat32],
    ids=["default", "SMTP", "SMTPUTF8", "HTTP", "compat32"],
)
def test_what_pythons_email_package_writes_is_read_under_every_policy(policy: Any) -> None:
    message: Message = Message(policy) if policy is email.policy.compat32 else EmailMessage(policy)
    message["From"] = '"Doe, Jane" <jane@example.com>'
    message["To"] = ", ".join(f"A rather long name {n} <user{n}@example.org>" for n in range(12))
    message["Bcc"] = "hidden@example.org"
    message["Subject"] = "Grüße " * 20
    message.set_payload("Text\n")
    derived = derive(message.as_bytes())
    assert derived.envelope.sender == "jane@example.com"
    assert derived.envelope.recipients == (*(f"user{n}@example.org" for n in range(12)), "hidden@example.org")


# Whom a producer may write as

FENCED = Producer("erp", allowed_senders=("@example.com", "robot@partner.example"))


@pytest.mark.parametrize(
    "data",
    [
        b"From: a@example.com\nTo: t@x\n\n",
        b"From: A. User <A@EXAMPLE.COM>\nTo: t@x\n\n",
        b"From: a@example.com, b@example.com\nSender: Robot@Partner.example\nTo: t@x\n\n",
        b"Return-Path: <>\nFrom: a@example.com\nTo: t@x\n\n",
        b"From: =?utf-8?q?boss=40evil.example?= <a@example.com>\nTo: t@x\n\n",
        b"Resent-From: a@example.com\nResent-To: r@x\nFrom: a@example.com\n\n",
        b"Reply-To: anybody@evil.example\nFrom: a@example.com\nTo: boss@evil.example\n\n",
    ],
)
def test_a_producer_writes_as_whom_it_may(data: bytes) -> None:
    """Every address that names a sender matches; who receives, and where answers go, is another matter."""
    assert derive(data, producer=FENCED).envelope.recipients


@pytest.mark.parametrize(
    ("data", "who"),
    [
        (b"From: a@evil.example\nTo: t@x\n\n", "From names 'a@evil.example'"),
        (b"From: a@sub.example.com\nTo: t@x\n\n", "From names 'a@sub.example.com'"),
        (b"From: robot2@partner.example\nTo: t@x\n\n", "From names 'robot2@partner.example'"),
        (b"From: a@example.com\nSender: a@evil.example\nTo: t@x\n\n", "Sender names 'a@evil.example'"),
        (b"From: a@evil.example\nSender: a@example.com\nTo: t@x\n\n", "From names 'a@evil.example'"),
        (b"Return-Path: <a@evil.example>\nFrom: a@example.com\nTo: t@x\n\n", "Return-Path names 'a@evil.example'"),
        (b"Return-Path: <>\nFrom: a@evil.example\nTo: t@x\n\n", "From names 'a@evil.example'"),
        (b"From: a@example.com, c@evil.example\nSender: a@example.com\nTo: t@x\n\n", "From names 'c@evil.example'"),
        (b"From: a@example.com\nFrom: c@evil.example\nSender: a@example.com\nTo: t@x\n\n", "'c@evil.example'"),
        (b"Sender: a@example.com\nFrom : c@evil.example\nTo: t@x\n\n", "From names 'c@evil.example'"),
        (b"Resent-From: r@evil.example\nResent-To: r@x\nFrom: a@example.com\n\n", "names 'r@evil.example'"),
        (
            b"Return-Path: <>\nResent-Sender: r@evil.example\nResent-To: r@x\nFrom: a@example.com\n\n",
            "Resent-Sender names 'r@evil.example'",
        ),
        (b"Return-Path: <>\nTo: t@x\n\n", "the null sender, and no From: [pickup.erp] allowed_senders"),
    ],
)
def test_a_producer_writes_as_nobody_else(data: bytes, who: str) -> None:
    """One forbidden address anywhere is enough, and the sentence names it, the folder and the key."""
    reason = refusal(data, producer=FENCED)
    assert who in reason
    assert "[pickup.erp] allowed_senders" in reason


def test_a_sidecar_and_a_block_are_fenced_in_like_the_header() -> None:
    """What the sidecar or the X block says is not believed more than the rest, and the rest is still looked at."""
    own, foreign = (Sidecar(Envelope(sender, ("t@x",))) for sender in ("a@example.com", "a@evil.example"))
    assert derive(b"From: a@example.com\n\n", sidecar=own, producer=FENCED).rule == "sidecar"
    assert derive(b"Subject: nobody\n\n", sidecar=own, producer=FENCED).rule == "sidecar"
    assert "the sidecar names" in refusal(b"From: a@example.com\n\n", sidecar=foreign, producer=FENCED)
    assert "From names" in refusal(b"From: a@evil.example\n\n", sidecar=own, producer=FENCED)
    assert "From: " in refusal(b"From: a@@example.com\n\n", sidecar=own, producer=FENCED)
    block = b"X-Sender: a@evil.example\nX-Receiver: t@x\nFrom: a@example.com\n\n"
    assert "X-Sender names" in refusal(block, rule="pickup", producer=FENCED)


def test_the_configured_sender_stands_in_for_nobody_elses() -> None:
    """A file that names no sender at all gets from_address, which the operator chose."""
    derived = derive(b"To: t@x\n\n", producer=FENCED, from_address="relay@other.example")
    assert derived.envelope.sender == "relay@other.example"


# The header


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"\r\nTo: a@x\r\n\r\n", "has no header"),
        (b"From root Mon Jan  5\n\nText", "has no header"),
        (b"Hello,\nhow are you: fine\n", "line 1 ('Hello,') is no header field"),
        (b" folded: first\n\n", "is no header field"),
        (b"To: a@x\nHello\n", "line 2 ('Hello') is no header field: an empty line must separate"),
        (b": nameless\n\n", "is no header field"),
        (b"T\x01o: a\n\n", r"'T\x01o: a'"),
        ("Tö: a\n\n".encode(), "is no header field"),
        (b"To: a@x\r\n folded\r\nSubject: a\0b\r\n\r\n", "line 3 of the header holds a NUL byte"),
        (b"\x7fELF\x02\0\0\0", "NUL byte: this is not a mail"),
        (b"\xef\xbb\xbfTo: a@x\n\n", "byte order mark"),
        ("To: a@x\n\n".encode("utf-16"), "UTF-16"),
        (b"a:\n" * 10_001 + b"\n", "more than 10000 fields"),
        (b"Subject: " + b"x" * 1024 * 1024, "longer than 1048576 bytes"),
    ],
)
def test_what_has_no_header_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    header = split_header(data)
    assert isinstance(header, Unreadable)
    assert reason in header.reason
    assert header.reason.isprintable()


def test_the_first_empty_line_ends_the_header_whatever_the_line_ends_are() -> None:
    for end in (b"\n", b"\r", b"\r\n"):
        data = b"A: 1" + end + b" 2" + end + b"B: 3" + end + end + b"C: 4" + end
        header = header_of(data)
        assert [field.name for field in header.fields] == ["A", "B"]
        assert data[header.body :] == b"C: 4" + end
        assert [data[field.offset :][: len(field.raw)] for field in header.fields] == [f.raw for f in header.fields]


def test_a_line_of_blanks_continues_a_field() -> None:
    assert [field.name for field in header_of(b"A: 1\n \nB: 2\n\nC: 3").fields] == ["A", "B"]


def test_the_end_of_the_file_ends_the_header_only_if_it_is_the_end() -> None:
    assert isinstance(split_header(b"A: 1", complete=True), Header)
    assert isinstance(split_header(b"A: 1", complete=False), Unreadable)
    assert isinstance(split_header(b"A: 1\n\r", complete=False), Unreadable)  # may be half of CRLF
    assert isinstance(split_header(b"A: 1\n\nB", 6), Header)
    assert isinstance(split_header(b"A: 1\n\nB", 5), Unreadable)


def test_a_large_header_is_refused_by_its_limit() -> None:
    assert isinstance(split_header(b"A: 1\n" * 2_000_000, 1000), Unreadable)


# Addresses

LISTS = [
    ("", []),
    (" , ,", []),
    ("a@x", ["a@x"]),
    ("A <a@x>,b@y", ["a@x", "b@y"]),
    ('"x, y" <a@x>', ["a@x"]),
    ('"john"@x', ["john@x"]),
    ('"a@b,c;:"@x', ['"a@b,c;:"@x']),
    (r'"a\"b\\c"@x', [r'"a\"b\\c"@x']),
    ("a@[192.0.2.1], b@[IPv6:2001:db8::1]", ["a@[192.0.2.1]", "b@[IPv6:2001:db8::1]"]),
    ("=?utf-8?q?Doe,_John?= <a@x>", ["a@x"]),
    ("J. Q. Public <a@x>", ["a@x"]),
    ("b@y <a@x>", ["a@x"]),
    ("a (one (two) \\) three) @ (four) x . y", ["a@x.y"]),
    ("<@r1,@r2:a@x>", ["a@x"]),
    ("g:;", []),
    ("g: a@x, B <b@y>; , c@z", ["a@x", "b@y", "c@z"]),
    ("a@x,\r\n\tb@y", ["a@x", "b@y"]),
]


@pytest.mark.parametrize(("text", "expected"), LISTS)
def test_an_address_list_gives_its_addresses(text: str, expected: list[str]) -> None:
    assert read_list(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("root", "has no domain"),
        ("Doe, John <a@x>", "'Doe' has no domain"),
        ("John Doe", "'John Doe' has no domain"),
        ("a@x b@y", "a comma is missing"),
        ("<a@x> <b@y>", "a comma is missing"),
        ("A <a@x> B", "a comma is missing"),
        ("a@x; b@y", "separate addresses with commas"),
        ("g: a@x", "no ; at its end"),
        ("g: h: a@x;;", "a :"),
        ("g: a@x; b@y", "without a comma"),
        ("<a@x", "without a >"),
        ("a@x>", "without a <"),
        ("(a@x", "without its )"),
        ("a)@x", "without a ("),
        ('"a@x', "never closed"),
        ("a@[1", "never closed"),
        ("<>", "<> cannot stand here"),
        ("<@r:>", "without an address"),
        ("<@r>", "without its :"),
        ("a b@x", "no valid name"),
        ("a..b@x", "no valid name"),
        ("@x", "no valid name"),
        ("a@", "no valid domain"),
        ("a@x.", "no valid domain"),
        ("a@-x", "no valid domain"),
        ("a@x_y-", "no valid domain"),
        ("=?utf-8?q?a,b?=@x", "no valid name"),
        ('"a b"@x', "a blank"),
        ('"a>b"@x', "an angle bracket"),
        ("a\x1b@x", r"\x1b"),
        ("a\udcff@x", "not UTF-8"),
        ("l" * 65 + "@x", "64 octets"),
        ("a@" + "d" * 64, "between dots"),
        ("a@" + ".".join(["d" * 60] * 5), "255 octets"),
        ("l" * 64 + "@" + ".".join(["d" * 62] * 3) + ".d", "longer than 254 octets"),
        ("é" * 32 + "é@x", "64 octets"),
        ("a@[fe80::1]", "IP address"),
    ],
)
def test_an_address_that_is_unclear_or_cannot_be_used_is_named(text: str, reason: str) -> None:
    with pytest.raises(AddressError) as caught:
        read_list(text)
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "address", ["a@x", '"a@b"@x', "é@ü.example", "a.b+c@x-y.example", "a@[192.0.2.1]", "a" * 64 + "@x"]
)
def test_a_valid_address_has_no_reason_against_it(address: str) -> None:
    assert valid_address(address) is None
    assert canonical(address) == address


@pytest.mark.parametrize(
    "address",
    ["", "a", "@", "a@", "@x", "b<a@x>", "<a@x>", "a@b@x", "a..b@x", "a@x,b@y", "a(c)@x", "a@[x]", '"a"b@x', '"a"b"@x',
     ".a@x", "a@.x", "a@x..y", "a b@x", "A <a@x>", "a@x ", "a@x\n", "a@x\r\nRCPT TO:<b@y>", '"a\r\nb"@x', "a\0@x",
     "l" * 65 + "@x", "a@" + "d." * 130],
)  # fmt: skip
def test_an_invalid_address_has_a_reason(address: str) -> None:
    reason = valid_address(address)
    assert reason
    assert reason.isprintable()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a@x", "a@x"),
        ("<a@x> BODY=7bit RET=HDRS auth=<>", "a@x"),
        ("a@x NOTIFY=NEVER ORcpt=rfc822;a@x", "a@x"),
        ('"F B" <a@x>', "a@x"),
        ('<"a,b"@x> SMTPUTF8', '"a,b"@x'),
        ("<>", ""),
        ("<> RET=FULL", ""),
    ],
)
def test_esmtp_parameters_behind_a_path_are_ignored(text: str, expected: str) -> None:
    assert read_path(text, null=True) == expected


@pytest.mark.parametrize("text", ["", "a@x, b@y", "<a@x> <b@y>", "a@x b@y", "<a@x> =", "root NOTIFY=NEVER"])
def test_a_path_that_is_not_one_address_is_refused(text: str) -> None:
    with pytest.raises(AddressError):
        read_path(text, null=True)


@pytest.mark.parametrize(
    "unit",
    [
        "(",
        "()",
        '"',
        '""',
        ",",
        "a",
        "a@",
        "a@x,",
        '"a"@x,',
        "<",
        "<@,",
        ":",
        "a:;,",
        "=?",
        "=?x?q?",
        "\\",
        "[",
        ".",
        "a-",
    ],
)
def test_hostile_repetition_takes_work_in_proportion_to_its_length(unit: str) -> None:
    try:
        read_list(unit * (300_000 // len(unit)))
    except AddressError as error:
        assert len(str(error)) < 600


# Rules


@pytest.mark.parametrize(
    ("fields", "sender", "where"),
    [
        (b"Return-Path: <r@x>\nSender: s@x\nFrom: f@x\n", "r@x", "Return-Path"),
        (b"Return-Path: <>\nFrom: f@x\n", "", "Return-Path"),
        (b"Return-Path: <r@x>\nReturn-Path: <q@x>\nFrom: f@x\n", "f@x", "From"),
        (b"Sender: s@x\nFrom: f@x, g@x\n", "s@x", "Sender"),
        (b"Sender:\nFrom: f@x\n", "f@x", "From"),
        (b"Resent-From: q@x\nResent-To: t@x\nSender: s@x\nFrom: f@x\n", "q@x", "Resent-From"),
        (b"Resent-From: q@x, p@x\nResent-Sender: r@x\nResent-To: t@x\nFrom: f@x\n", "r@x", "Resent-Sender"),
        (b"Resent-To: t@x\nFrom: f@x\n", "f@x", "From"),
    ],
)
def test_the_sender_is_the_first_that_the_header_names(fields: bytes, sender: str, where: str) -> None:
    derived = derive(fields + b"To: t@x\n\n")
    assert (derived.envelope.sender, derived.sender_from) == (sender, where)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"From: f@x\n\n", "no recipient: none of To, Cc, Bcc"),
        (b"From: f@x\nTo: undisclosed-recipients:;\n\n", "no recipient"),
        (b"From: f@x\nTo: t@x\nResent-From: q@x\n\n", "none of Resent-To, Resent-Cc, Resent-Bcc"),
        (b"From: f@x\nTo: root\n\n", "To: 'root' has no domain"),
        (b"From: f@x\nTo: t@x, <>\n\n", "To: the empty address"),
        (b"From: f@x, g@x\nTo: t@x\n\n", "From without Sender: 2 addresses"),
        (b"From: f@x\nFrom: g@x\nTo: t@x\n\n", "From without Sender: 2 addresses in 2 field(s)"),
        (b"From: f@x\nFrom: g:;\nTo: t@x\n\n", "From without Sender: 1 addresses in 2 field(s)"),
        (b"From: g:;\nTo: t@x\n\n", "From without Sender: no addresses"),
        (b"Sender: f@x, g@x\nFrom: f@x\nTo: t@x\n\n", "Sender: 2 addresses"),
        (b"Resent-From: f@x, g@x\nResent-To: t@x\n\n", "Resent-From without Resent-Sender"),
        (b"To: t@x\n\n", "no sender"),
        (b"From: f@x\nTo: t\x1b@x\n\n", r"\x1b"),
        (b"From: f@x\nTo: t\xff@x\n\n", "not UTF-8"),
        (b"From: f@x\nTo: t@x\nx-approval-request : PO-42\n\n", "approvals are not enabled"),
        (b"From: f@x\nTo: t@x\nX-Approval-Approvers: a@x\n\n", "approvals are not enabled"),
        (b"From: f@x\nTo: t@x\nX-Approval-Expires: 3d\n\n", "approvals are not enabled"),
    ],
)
def test_a_header_without_a_clear_envelope_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    said = refusal(data)
    assert reason in said
    assert said.isprintable()


def test_a_request_has_the_envelope_of_any_other_message() -> None:
    """Where somebody sees to approvals; its fields do not leave the house."""
    data = b"From: f@x\nTo: t@x\nX-Approval-Request: PO-42\n\n"
    derived = read_envelope(header_of(data), "headers", may_ask=True)
    assert isinstance(derived, Derived)
    assert derived.envelope == Envelope("f@x", ("t@x",))
    assert derived.stripped == ("X-Approval-Request",)


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (b"X-Sender: s@x\n", "no X-Receiver"),
        (b"X-Receiver: r@x\n", "no X-Sender"),
        (b"X-Sender: s@x\nX-Sender: s@x\nX-Receiver: r@x\n", "2 X-Sender"),
        (b"X-Sender: s@x\nSubject: x\nX-Receiver: r@x\n", "no X-Receiver"),
        (b"X-Sender: s@x\nX-Receiver: r@x, q@x\n", "2 addresses"),
        (b"X-Sender: s@x\nX-Receiver: <>\n", "X-Receiver: the empty address"),
        (b"X-Sender:\nX-Receiver: r@x\n", "X-Sender: '' holds no addresses"),
    ],
)
def test_a_broken_block_is_refused_and_not_replaced_by_the_header(block: bytes, reason: str) -> None:
    assert reason in refusal(block + b"From: f@x\nTo: t@x\n\n", rule="pickup")


def test_a_pickup_folder_reads_a_file_without_block_by_its_header() -> None:
    assert derive(b"From: f@x\nTo: t@x\n\n", rule="pickup").rule == "headers"


def test_resent_fields_below_a_received_belong_to_an_earlier_resending() -> None:
    data = b"Resent-From: q@x\nX-Other: 1\nResent-To: t@x\nReceived: by a\nResent-Cc: old@x\nTo: u@x\n\n"
    assert derive(data).envelope == Envelope("q@x", ("t@x",))


@pytest.mark.parametrize("rewrite_from", ["envelope", "always", "if-missing"])
def test_from_address_stands_in_where_the_file_names_no_sender(rewrite_from: RewriteFrom) -> None:
    derived = derive(b"To: t@x\n\n", from_address="own@x", rewrite_from=rewrite_from)
    assert (derived.envelope.sender, derived.sender_from) == ("own@x", "from_address")


def test_with_never_a_file_without_sender_is_refused() -> None:
    assert "no sender" in refusal(b"To: t@x\n\n", from_address="own@x", rewrite_from="never")


@pytest.mark.parametrize(
    ("sender", "from_address", "rewrite_from", "expected"),
    [
        ("a@x", "own@x", "envelope", "own@x"),
        ("a@x", "own@x", "always", "own@x"),
        ("a@x", "own@x", "if-missing", "a@x"),
        ("a@x", "own@x", "never", "a@x"),
        ("a@x", "", "always", "a@x"),
        ("", "own@x", "always", ""),
        ("", "own@x", "envelope", ""),
    ],
)
def test_the_null_sender_is_never_rewritten(
    sender: str, from_address: str, rewrite_from: RewriteFrom, expected: str
) -> None:
    assert rewrite(sender, from_address, rewrite_from) == expected


# Sidecar


def test_a_sidecar_wins_over_block_and_header() -> None:
    sidecar = parse_sidecar(b'{"mail_from": "<>", "rcpt_to": ["a@x", "\\"b\\"@x", "a@X"]}')
    assert sidecar == Sidecar(Envelope("", ("a@x", "b@x")), 0.0)
    derived = derive(b"X-Sender: s@x\nX-Receiver: r@x\nTo: t@x\n\n", rule="pickup", sidecar=sidecar)
    assert derived.envelope == Envelope("", ("a@x", "b@x"))
    assert (derived.rule, derived.stripped) == ("sidecar", ("X-Sender", "X-Receiver"))


def test_an_approval_request_with_a_sidecar_is_refused_as_well() -> None:
    sidecar = Sidecar(Envelope("a@x", ("b@x",)))
    assert "approvals" in refusal(b"X-Approval-Request: PO-1\n\n", sidecar=sidecar)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:10Z", 10.0),
        ("1970-01-01T01:00:00.5+01:00", 0.5),
        ("1970-01-01t00:00:00.123456789z", 0.123456789),
        ("1970-01-01 00:00:01-00:00", 1.0),
    ],
)
def test_not_before_is_an_rfc_3339_time(text: str, seconds: float) -> None:
    sidecar = parse_sidecar(json.dumps({"mail_from": "", "rcpt_to": ["a@x"], "not_before": text}).encode())
    assert isinstance(sidecar, Sidecar)
    assert sidecar.not_before == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON: line 1"),
        (b"\xff", "not UTF-8"),
        (b"[" * 500_000, "sane size"),
        (b"9" * 10_000, "sane size"),
        (b" " * 2_000_000, "larger than"),
        (b"[]", "must be an object"),
        (b'{"rcpt_to": ["a@x"]}', "mail_from is missing"),
        (b'{"mail_from": "a@x"}', "rcpt_to is missing"),
        (b'{"mail_from": 1, "rcpt_to": ["a@x"]}', "mail_from must be"),
        (b'{"mail_from": null, "rcpt_to": ["a@x"]}', "mail_from must be"),
        (b'{"mail_from": "", "rcpt_to": "a@x"}', "rcpt_to must be"),
        (b'{"mail_from": "", "rcpt_to": []}', "rcpt_to must be"),
        (b'{"mail_from": "", "rcpt_to": [1]}', "rcpt_to must be"),
        (b'{"mail_from": "", "rcpt_to": ["<>"]}', "rcpt_to: "),
        (b'{"mail_from": "", "rcpt_to": ["A <a@x>"]}', "rcpt_to: "),
        (b'{"mail_from": "", "rcpt_to": ["a@x\\r\\nDATA"]}', "rcpt_to: "),
        (b'{"mail_from": "\\ud800@x", "rcpt_to": ["a@x"]}', "mail_from: "),
        (b'{"mail_from": "", "rcpt_to": ["a@x"], "idempotency_key": ""}', "a text of 1 to 200 printable characters"),
        (b'{"mail_from": "", "rcpt_to": ["a@x"], "idempotency_key": 7}', "a text of 1 to 200 printable characters"),
        (b'{"mail_from": "", "rcpt_to": ["a@x"], "idempotency_key": null}', "a text of 1 to 200"),
        (b'{"mail_from": "", "rcpt_to": ["a@x"], "idempotency_key": "a\\u0000"}', "a text of 1 to 200 printable"),
        (b'{"mail_from": "", "rcpt_to": ["a@x"], "idempotency_key": "\\ud800"}', "a text of 1 to 200 printable"),
        (b'{"mail_from": "", "rcpt_to": ["a@x"], "idempotency_key": "%s"}' % (b"k" * 201), "a text of 1 to 200"),
        (b'{"mail_from": "", "rcpt_to": ["a@x"], "bcc": 1}', "unknown key 'bcc'"),
        (b'{"mail_from": "", "mail_from": "a@x", "rcpt_to": ["a@x"]}', "twice"),
        (b'{"mail_from": "", "rcpt_to": ["a@x"], "not_before": 1}', "RFC 3339"),
        (b'{"mail_from": "", "rcpt_to": ["a@x"], "not_before": "2026-01-01"}', "RFC 3339"),
        (b'{"mail_from": "", "rcpt_to": ["a@x"], "not_before": "2026-01-01T00:00:00"}', "RFC 3339"),
        (b'{"mail_from": "", "rcpt_to": ["a@x"], "not_before": "2026-13-01T00:00:00Z"}', "no point in time"),
        (b'{"mail_from": "", "rcpt_to": ["a@x"], "not_before": "2026-01-01T00:00:00+99:99"}', "no point in time"),
    ],
)
def test_a_wrong_sidecar_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    sidecar = parse_sidecar(data)
    assert isinstance(sidecar, Unreadable)
    assert reason in sidecar.reason
    assert sidecar.reason.isprintable()


# The wire


def test_the_wire_header_has_one_received_and_what_was_missing() -> None:
    assert wire(b"From: a@x\nBcc: b@x\nSubject: a\r  b\n\nText") == (
        b"Received: by relay1 (mailrelayd) with local id abcdefghijkl (uid 1000);\r\n"
        b"\tMon, 05 Jan 2026 08:15:00 +0000\r\n"
        b"From: a@x\r\nSubject: a\r\n  b\r\n"
        b"Message-ID: <abcdefghijkl@relay1>\r\nDate: Mon, 05 Jan 2026 08:15:00 +0000\r\n\r\n"
    )


def test_nothing_is_added_that_is_there_and_nothing_for_bcc_only_mail() -> None:
    edited = wire(b"message-id: <1@x>\nDATE: today\nBcc: b@x\n\n", uid=None)
    assert edited.split(b"+0000\r\n", 1)[1] == b"message-id: <1@x>\r\nDATE: today\r\n\r\n"
    assert b"uid" not in edited


def test_a_removed_field_between_two_kinds_of_line_ends_does_not_swallow_the_empty_line() -> None:
    edited = wire(b"Date: 1\rMessage-ID: <1@x>\rBcc: b@x\r\n\nText")
    assert edited.endswith(b"Message-ID: <1@x>\r\n\r\n")


def test_a_file_that_ends_with_its_header_gets_no_body() -> None:
    edited = wire(b"From: a@x\nBcc: b@x\nTo: t@x")
    assert b"To: t@x\r\nMessage-ID:" in edited
    assert not edited.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("name", ["Bcc", "RESENT-BCC", "return-path", "Content-Length", "X-Approval-Request", "Bcc "])
def test_a_field_that_must_not_leave_is_gone_with_its_continuation(name: str) -> None:
    edited = wire(b"From: a@x\r\n" + name.encode() + b": secret\r\n more secret\r\nTo: t@x\r\n\r\n")
    assert b"secret" not in edited
    assert b"From: a@x\r\nTo: t@x\r\n" in edited


def test_the_block_goes_only_in_a_pickup_folder_and_only_at_the_top() -> None:
    data = b"X-Sender: s@x\nX-Receiver: r@x\nX-HeloDomain: h\nFrom: a@x\nX-Receiver: other@x\n\n"
    assert wire(data, pickup=True).count(b"X-") == 1
    assert wire(data, pickup=False).count(b"X-") == 4


@pytest.mark.parametrize(
    ("fields", "rewrite_from", "sender", "expected"),
    [
        (b"From: A\n <a@x>\nTo: t@x\n", "always", "a@x", b"From: own@x\r\nReply-To: A\r\n <a@x>\r\nTo: t@x\r\n"),
        (b"Reply-To: r@x\nFrom: a@x\n", "always", "a@x", b"Reply-To: r@x\r\nFrom: own@x\r\n"),
        (b"From: a@x\nFrom: b@x\n", "always", "a@x", b"From: own@x\r\nReply-To: a@x, b@x\r\n"),
        (b"From: Own <own@x>\n", "always", "a@x", b"From: Own <own@x>\r\n"),
        (b"From: )(\n", "always", "a@x", b"From: own@x\r\nReply-To: )(\r\n"),
        (b"To: t@x\n", "always", "own@x", b"To: t@x\r\nFrom: own@x\r\n"),
        (b"To: t@x\n", "if-missing", "own@x", b"To: t@x\r\nFrom: own@x\r\n"),
        (b"From: a@x\n", "if-missing", "a@x", b"From: a@x\r\n"),
        (b"From: a@x\n", "envelope", "a@x", b"From: a@x\r\n"),
        (b"From: a@x\n", "never", "a@x", b"From: a@x\r\n"),
        (b"From: a@x\n", "always", "", b"From: a@x\r\n"),
    ],
)
def test_from_address_reaches_the_header_as_rewrite_from_says(
    fields: bytes, rewrite_from: RewriteFrom, sender: str, expected: bytes
) -> None:
    edited = wire(
        fields + b"Date: 1\nMessage-ID: 1\n\n", from_address="own@x", rewrite_from=rewrite_from, sender=sender
    )
    own_part = edited.split(b"+0000\r\n", 1)[1]
    assert own_part.replace(b"Date: 1\r\nMessage-ID: 1\r\n", b"") == expected + b"\r\n"


def test_a_dkim_signature_holds_on_the_wire() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # small: only the arithmetic is tested
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    record = b"v=DKIM1; k=rsa; p=" + b"".join(public.splitlines()[1:-1])
    message = (
        b'From:  "J. Doe"   <a@example.com>\r\nTo: b@example.org,\r\n\t c@example.org  \r\n'
        b"SUBJECT:no blank\r\nDate: Mon, 05 Jan 2026 08:15:00 +0000\r\nMessage-ID: <1@example.com>\r\n\r\nText\r\n"
    )
    signature = dkim.sign(
        message, b"s", b"example.com", private, canonicalize=(b"simple", b"simple"),
        include_headers=[b"from", b"to", b"subject", b"date", b"message-id"],
    )  # fmt: skip
    data = b"Return-Path: <a@example.com>\r\n" + signature + b"Bcc: d@example.org\r\n" + message
    sent = wire(data) + data[header_of(data).body :]
    assert b"Bcc" not in sent
    assert dkim.verify(sent, dnsfunc=lambda *_args, **_options: record)
    assert not dkim.verify(sent.replace(b"no blank", b"no  blank"), dnsfunc=lambda *_args, **_options: record)


# Any bytes

NAMES = (
    b"From To Cc Bcc Sender Return-Path Reply-To Resent-From Resent-To Resent-Bcc X-Sender X-Receiver Received".split()
)
MARKS = b'a@x b@y a.b@x.y < > , ; : " \\ ( ) [ ] @ . =?utf-8?q? ?= a \xff \xc3\xa9 \x1b \xe2\x80\xae'.split()
VALUE = st.lists(st.sampled_from([*MARKS, b" ", b"\n ", b"\r\n\t", b"\r "]), max_size=12).map(b"".join)
LINE_END = st.sampled_from([b"\r\n", b"\n", b"\r"])
FIELD = st.tuples(st.sampled_from(NAMES), st.sampled_from([b":", b": ", b" : "]), VALUE, LINE_END).map(b"".join)
PIECES = st.sampled_from([*NAMES, *MARKS, b": ", b"\r\n", b"\n", b"\r", b" ", b"\0", b"From root\n", b"\n\n"])
ANY_BYTES = (
    st.binary(max_size=200)
    | st.lists(PIECES, max_size=60).map(b"".join)
    | st.tuples(st.just(b"") | st.just(b"From x\n"), st.lists(FIELD, max_size=8).map(b"".join), LINE_END).map(b"".join)
)


@given(ANY_BYTES, st.sampled_from(["headers", "pickup"]), st.sampled_from(["", "own@x"]))
def test_any_bytes_give_a_value_and_a_safe_one(data: bytes, rule: Any, from_address: str) -> None:
    header = split_header(data)
    if isinstance(header, Unreadable):
        assert header.reason.isprintable()
        return
    found = header.mbox_line + b"".join(field.raw for field in header.fields)
    assert data[: header.body] in (found, found + b"\r", found + b"\n", found + b"\r\n")
    derived = read_envelope(header, rule, from_address=from_address)
    if isinstance(derived, Unreadable):
        assert derived.reason.isprintable()
    else:
        assert derived.envelope.recipients
        assert all(valid_address(address) is None for address in derived.envelope.recipients)
        assert not derived.envelope.sender or valid_address(derived.envelope.sender) is None
    options: dict[str, Any] = {"pickup": rule == "pickup", "from_address": from_address, "rewrite_from": "always"}
    edited = wire(data, **options)
    assert edited == wire(data, **options)
    assert edited.replace(b"\r\n", b"").count(b"\r") == edited.replace(b"\r\n", b"").count(b"\n") == 0
    again = header_of(edited)
    assert again.body == len(edited)  # nothing in the edited header ends it early
    assert again.empty_line == header.empty_line
    assert not again.named("bcc", "resent-bcc", "return-path", "content-length")


@given(ANY_BYTES)
def test_any_bytes_as_a_sidecar_give_a_value(data: bytes) -> None:
    sidecar = parse_sidecar(data)
    assert isinstance(sidecar, Sidecar) or sidecar.reason.isprintable()


@given(st.text(st.sampled_from('ab@x.<>()[]",;:\\ \té\u202e\x00\r\n') | st.characters(), max_size=60))
def test_any_text_gives_addresses_or_a_reason(text: str) -> None:
    try:
        found = read_list(text, null=True)
    except AddressError as error:
        assert str(error).isprintable()
    else:
        assert all(not address or canonical(address) == address for address in found)


ATOM = st.text("abcXYZ019!#$%&'*+-/=?^_`{|}~", min_size=1, max_size=8).filter(lambda text: "=?" not in text)
LABEL = st.from_regex(r"\A[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?\Z")
ADDRESS = st.builds(
    lambda local, domain: ".".join(local) + "@" + ".".join(domain),
    st.lists(ATOM, min_size=1, max_size=3),
    st.lists(LABEL, min_size=1, max_size=3),
)
NAME = st.text("abc ,.;:<>@()[]\"\\é'", max_size=12)


@given(st.lists(st.tuples(NAME, ADDRESS), max_size=6))
def test_well_formed_lists_are_read_as_pythons_email_package_reads_them(pairs: list[tuple[str, str]]) -> None:
    value = ", ".join(f'"{email.utils.quote(name)}" <{address}>' if name else address for name, address in pairs)
    assert read_list(value) == [address for _, address in pairs]
    if value:
        assert read_list(value) == [address for _, address in email.utils.getaddresses([value])]


@given(st.lists(ADDRESS, min_size=1, max_size=20))
def test_each_mailbox_receives_once(addresses: list[str]) -> None:
    data = ("From: f@x\nTo: " + ",\n ".join(addresses + [a.upper() for a in addresses]) + "\n\n").encode()
    recipients = derive(data).envelope.recipients
    assert len({same_mailbox(address) for address in recipients}) == len(recipients)
    assert {same_mailbox(address) for address in addresses} <= {same_mailbox(address) for address in recipients}
