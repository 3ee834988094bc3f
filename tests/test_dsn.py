"""The report to a sender, read back with the standard library's parser: what people and programs find in it."""

from __future__ import annotations

import email
import email.policy
import re
from email.message import EmailMessage
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrelayd.outbound import dsn
from mailrelayd.outbound.headers import Header, split_header
from mailrelayd.outbound.values import Envelope, Progress, QueuedMessage, RecipientRecord, Response, Stage, Status

NOW = 1_795_262_400.0  # Sat, 21 Nov 2026 12:00:00 +0000
DATE = "Sat, 21 Nov 2026 12:00:00 +0000"
UNKNOWN = Response(Stage.RCPT, 550, "5.1.1", "<boss@example.org>: Recipient address rejected: User unknown")
ORIGINAL = b"""\
From: Erp <erp@example.com>
To: boss@example.org
Bcc: secret@example.org
Return-Path: <other@example.com>
X-Approval-Request: PO-42
Subject: =?utf-8?Q?Gr=C3=BC=C3=9Fe?=
 and more
Message-ID: <1@erp.example.com>

body
"""


def failure(response: Response = UNKNOWN, reason: str = "rejected", attempts: int = 1) -> RecipientRecord:
    return RecipientRecord(Status.FAILED, response, attempts, NOW - 5, reason=reason)


def message(sender: str = "erp@example.com", **more: Any) -> QueuedMessage:
    return QueuedMessage("abcdefghijkl", Envelope(sender, ("boss@example.org",)), Progress(NOW - 60), **more)


def header_of(data: bytes) -> Header:
    header = split_header(data)
    assert isinstance(header, Header)
    return header


def written(
    failed: dict[str, RecipientRecord] | None = None,
    original: bytes | None = ORIGINAL,
    about: QueuedMessage | None = None,
    **more: Any,
) -> bytes:
    options: dict[str, Any] = {"node": "relay1", "from_address": "noreply@example.com", "now": NOW, **more}
    header = None if original is None else header_of(original)
    return dsn.report(about or message(), failed or {"boss@example.org": failure()}, header, **options)


def read(data: bytes) -> EmailMessage:
    """The report as its receivers' programs read it; no line is too long or ends in anything but CRLF."""
    assert data.count(b"\n") == data.count(b"\r") == data.count(b"\r\n")
    assert max(len(line) for line in data.split(b"\r\n")) <= 998
    parsed = email.message_from_bytes(data, policy=email.policy.default)
    assert isinstance(parsed, EmailMessage)
    assert parsed.defects == []
    return parsed


def parts(data: bytes) -> tuple[str, list[Any], bytes]:
    """The text for people; the groups of fields for programs; the original's header."""
    report = read(data)
    pieces = list(report.iter_parts())
    people, programs = pieces[0], pieces[1]
    assert people.get_content_type() == "text/plain"
    assert programs.get_content_type() == "message/delivery-status"
    original = b""
    if len(pieces) == 3:
        assert pieces[2].get_content_type() == "text/rfc822-headers"
        decoded = pieces[2].get_payload(decode=True)
        assert isinstance(decoded, bytes)
        original = decoded
    groups = programs.get_payload()
    assert isinstance(groups, list)
    return people.get_content(), groups, original


def test_the_report_is_a_mail_that_no_program_answers() -> None:
    """RFC 3834 and RFC 6522: from our own address to the sender, auto-submitted, a reply to the original."""
    report = read(written())
    assert report["From"] == "Mail Delivery System <noreply@example.com>"
    assert report["To"] == "erp@example.com"
    assert report["Date"] == DATE
    assert report["Message-ID"] == "<abcdefghijkl.0.dsn@relay1>"
    assert report["In-Reply-To"] == report["References"] == "<1@erp.example.com>"
    assert report["Auto-Submitted"] == "auto-replied"
    assert report["Subject"] == "Undelivered mail: Grüße and more"
    assert report.get_content_type() == "multipart/report"
    assert report["Content-Type"].params["report-type"] == "delivery-status"
    assert len(list(report.iter_parts())) == 3


def test_programs_find_what_rfc_3464_says() -> None:
    """One group about the message, one for the recipient, each field in its form."""
    _, groups, _ = parts(written(relay="mx.example.net[192.0.2.1]:587"))
    about, recipient = groups
    assert about.items() == [
        ("Reporting-MTA", "dns; relay1"),
        ("X-Mailrelayd-Queue-ID", "abcdefghijkl"),
        ("Arrival-Date", "Sat, 21 Nov 2026 11:59:00 +0000"),
    ]
    assert {name: re.sub(r"\s+", " ", value) for name, value in recipient.items()} == {
        "Final-Recipient": "rfc822; boss@example.org",
        "Action": "failed",
        "Status": "5.1.1",
        "Remote-MTA": "dns; mx.example.net",
        "Diagnostic-Code": f"smtp; {UNKNOWN}",
        "Last-Attempt-Date": "Sat, 21 Nov 2026 11:59:55 +0000",
    }


def test_people_find_who_why_what_to_do_and_where_it_is() -> None:
    """In plain words, with the server's own."""
    text, _, _ = parts(written(about=message(file="invoice 7.eml"), relay="mx.example.net[192.0.2.1]:587"))
    for wanted in (
        "boss@example.org",
        f"mx.example.net said: {UNKNOWN}",
        "spelling",
        "relay1",
        "mailrelayd queue retry abcdefghijkl",
        "'invoice 7.eml'",
    ):
        assert wanted in text


def test_the_originals_header_comes_along_without_what_must_not_leave() -> None:
    """As it was, but for blind copies, return paths and what was meant for us."""
    _, _, original = parts(written())
    kept = [line for line in ORIGINAL.splitlines()[:-2] if not line.startswith((b"Bcc", b"Return", b"X-Appr"))]
    assert original.splitlines() == kept


@pytest.mark.parametrize(("pickup", "there"), [(True, False), (False, True)])
def test_the_block_of_a_pickup_folder_is_not_the_originals(pickup: bool, there: bool) -> None:
    """X-Receiver lines name everybody who got it, blind copies too: where they were the envelope, they go."""
    _, _, original = parts(written(original=b"X-Sender: a@x.test\nX-Receiver: b@x.test\n" + ORIGINAL, pickup=pickup))
    assert (b"X-Receiver" in original) is there


def test_a_message_whose_file_is_gone_is_reported_without_its_header() -> None:
    """Two parts, and no reference that would be a guess."""
    report = read(written(original=None))
    assert len(list(report.iter_parts())) == 2
    assert report["In-Reply-To"] is None
    assert report["Subject"] == "Undelivered mail"


def test_a_message_without_message_id_is_referred_to_by_the_one_it_got_on_the_way() -> None:
    """Whoever received it elsewhere finds it again."""
    assert read(written(original=b"From: a@x.test\n\n"))["In-Reply-To"] == "<abcdefghijkl@relay1>"


@pytest.mark.parametrize("field", [b"Message-ID: <a b@x>", b"Message-ID: <1@x>\nMessage-ID: <2@x>", b"Message-ID: x"])
def test_a_message_id_that_could_not_stand_in_a_header_is_not_repeated(field: bytes) -> None:
    """Nothing that a producer wrote breaks the report's own header."""
    assert read(written(original=field + b"\n\n"))["References"] is None


@pytest.mark.parametrize(
    ("record", "status", "diagnostic", "text"),
    [
        (failure(Response(Stage.RCPT, 550, "", "no")), "5.0.0", "smtp; 550 no", "said: 550 no"),
        (
            failure(Response(Stage.RCPT, 450, "4.2.2", "full"), "expired", 7),
            "4.4.7",
            "smtp; 450 4.2.2 full",
            "given up after 7 tries. the server said: 450 4.2.2 full",
        ),
        (
            failure(Response(Stage.BODY, 0, "", "the connection was lost"), "expired", 3),
            "4.4.7",
            "X-mailrelayd; the connection was lost",
            "the connection was lost",
        ),
        (
            failure(Response(Stage.LOCAL, 552, "5.3.4", "too large"), "unsupported"),
            "5.3.4",
            "X-mailrelayd; too large",
            "smaller",
        ),
        (failure(Response(Stage.LOCAL, 0, "", "enough"), "by-hand", 2), "5.0.0", "X-mailrelayd; enough", "operator"),
        (failure(Response(Stage.LOCAL, 0), "by-hand", 0), "5.0.0", None, "given up by an operator"),
    ],
)
def test_every_kind_of_failure_has_its_status_and_its_words(
    record: RecipientRecord, status: str, diagnostic: str | None, text: str
) -> None:
    """A server's answer is told as one, what was decided here is not."""
    people, groups, _ = parts(written({"boss@example.org": record}))
    assert groups[1]["Status"] == status
    assert groups[1]["Diagnostic-Code"] == diagnostic
    assert text in people
    assert (groups[1]["Last-Attempt-Date"] is None) is (record.reason == "by-hand")


def test_without_from_address_the_mailer_daemon_of_the_node_writes() -> None:
    """The same where the address could only be said with SMTPUTF8."""
    assert read(written(from_address=""))["From"].endswith("<MAILER-DAEMON@relay1>")
    assert read(written(from_address="grüße@example.com"))["From"].endswith("<MAILER-DAEMON@relay1>")


def test_addresses_that_are_not_ascii_leave_the_report_7_bit() -> None:
    """RFC 6533 section 3: utf-8-addr-xtext for programs, quoted-printable for people."""
    data = written({"grüße+1@exämple.org": failure()})
    assert data.isascii()
    text, groups, _ = parts(data)
    assert groups[1]["Final-Recipient"] == r"utf-8; gr\x{FC}\x{DF}e\x{2B}1@ex\x{E4}mple.org"
    assert "grüße+1@exämple.org" in text


def test_a_sender_that_is_not_ascii_is_still_told() -> None:
    """The To field is the one place that needs SMTPUTF8, as the sender's address does anyway."""
    data = written(about=message("grüße@example.com"))
    assert "To: <grüße@example.com>\r\n".encode() in data
    assert re.sub(rb"\r\nTo: [^\r]*", b"", data).isascii()


def test_an_original_header_that_is_not_7_bit_arrives_all_the_same() -> None:
    """8-bit names and endless lines are quoted-printable, byte for byte."""
    raw = "From: Grüße <a@x.test>\nX-Long: ".encode() + b"x" * 3000 + b"\nX-Latin: \xfc\n\n"
    _, _, original = parts(written(original=raw))
    assert original.splitlines() == raw.splitlines()[:-1]


def test_of_a_giant_header_the_fields_that_fit_come_along() -> None:
    """A To of thousands does not cost the Subject; the report stays small."""
    giant = b"To: " + b",\n ".join(b"r%d@example.org" % number for number in range(5000)) + b"\n"
    data = written(original=giant + ORIGINAL)
    assert len(data) < 10_000
    _, _, original = parts(data)
    assert b"Subject:" in original
    assert b"r77@" not in original


def test_of_very_many_recipients_people_read_some_and_programs_most() -> None:
    """The size of a report has a bound."""
    failed = {f"r{number}@example.org": failure() for number in range(3000)}
    text, groups, _ = parts(written(failed))
    assert "these 3000 recipients" in text
    assert f"and {3000 - dsn.MAX_NAMED} more" in text
    assert len(groups) == 1 + dsn.MAX_REPORTED


def test_the_same_failure_gives_the_same_message_id_and_another_does_not() -> None:
    """A report repeated after a crash can be recognised; a later one of the same message is another."""
    ids = [read(written(about=message(revision=revision), now=NOW + revision))["Message-ID"] for revision in (1, 1, 2)]
    assert ids[0] == ids[1] != ids[2]


def test_a_boundary_that_the_producer_guessed_is_not_used() -> None:
    """Nobody smuggles a part of their own into the report."""
    guess = b"X-Evil: 1\n --abcdefghijkl.0\n Content-Type: text/html\n"
    report = read(written(original=guess + ORIGINAL))
    assert [part.get_content_type() for part in report.iter_parts()] == [
        "text/plain",
        "message/delivery-status",
        "text/rfc822-headers",
    ]
    assert report.get_boundary() == "abcdefghijkl.1"


words = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"]), max_size=2000)
names = st.from_regex(r"[a-z0-9!#$%&'*+/=?^_`{|}~ü-]{1,30}@[a-zä]{1,20}\.test", fullmatch=True)


@given(
    st.dictionaries(
        names,
        st.builds(
            RecipientRecord,
            status=st.just(Status.FAILED),
            response=st.builds(
                Response,
                st.sampled_from(Stage),
                st.sampled_from([0, 421, 450, 550, 554]),
                st.sampled_from(["", "4.2.1", "5.1.1", "5.7.1"]),
                words,
            ),
            attempts=st.integers(0, 100),
            at=st.floats(0, 4e9),
            reason=st.sampled_from(["rejected", "expired", "by-hand", "changed", "unsupported", "unreadable"]),
        ),
        min_size=1,
        max_size=5,
    ),
    st.one_of(st.none(), st.binary(max_size=300), st.just(ORIGINAL)),
    st.sampled_from(["", "mx.test[192.0.2.1]:25"]),
)
def test_whatever_failed_gives_a_report_that_programs_can_read(
    failed: dict[str, RecipientRecord], junk: bytes | None, relay: str
) -> None:
    """Any answer of a server, any header a producer wrote: 7-bit, three parts, a group for each recipient."""
    header = split_header(b"Subject: x\nX-Junk: " + junk) if junk is not None else None
    about = message()
    data = dsn.report(
        about, failed, header if isinstance(header, Header) else None, node="n", from_address="", now=NOW, relay=relay
    )
    assert data.isascii()
    text, groups, _ = parts(data)
    assert [group["Action"] for group in groups[1:]] == ["failed"] * len(failed)
    for recipient, group in zip(failed, groups[1:], strict=True):
        assert recipient in text
        assert re.fullmatch(r"[45]\.\d\.\d", group["Status"])
        assert group["Final-Recipient"] == dsn.typed(recipient)
