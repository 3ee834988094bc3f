"""[approvals] mark_body: what is added to which text, what is left alone, and that answers to it are read rightly."""

from __future__ import annotations

import base64
import email
import email.policy
import quopri
import re
import time
from email.message import EmailMessage
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrelayd.approvals.mime import Mail, parse
from mailrelayd.approvals.reading import read_mail
from mailrelayd.approvals.tokens import tokens_in
from mailrelayd.approvals.values import Options
from mailrelayd.outbound import marking
from mailrelayd.outbound.asking import Asking
from mailrelayd.outbound.headers import Header, kept, split_header
from mailrelayd.outbound.marking import MARKER, block, mark
from tests.asking import token
from tests.test_asking import wire

ASKING = Asking("relay1", "approvals@example.com", mark_body=True)
TOKEN = token(1)


def marked(data: bytes, asking: Asking = ASKING) -> bytes | None:
    """The whole message with its body marked; None: left alone."""
    header = split_header(data)
    assert isinstance(header, Header)
    fields = kept(header, pickup=False)
    body = mark(fields, data[header.body :], block(asking, TOKEN, fields))
    return None if body is None else data[: header.body] + body


def texts(data: bytes) -> dict[str, str]:
    """The text of each part by its kind, as a client decodes it."""
    message = email.message_from_bytes(data, policy=email.policy.default)
    parts = [part for part in message.walk() if part.get_content_maintype() == "text"]
    return {part.get_content_type(): part.get_content() for part in parts}


def simple(kind: str, text: bytes, encoding: str = "8bit") -> bytes:
    head = f"Subject: x\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    return head.encode() + text


TEXT = "Bitte Auftrag 42 prüfen.\r\nDanke = gut\r\n"
ENCODED = {
    "8bit": TEXT.encode(),
    "quoted-printable": quopri.encodestring(TEXT.encode()),
    "base64": base64.encodebytes(TEXT.encode()),
}


@pytest.mark.parametrize("encoding", ENCODED)
def test_the_block_stands_on_top_of_a_text(encoding: str) -> None:
    """Marker, reference and both links, then the text as it was, whatever its encoding."""
    found = marked(simple("text/plain", ENCODED[encoding], encoding))
    assert found is not None
    text = texts(found)["text/plain"].replace("\r\n", "\n")
    first, second, third, fourth, empty, rest = text.split("\n", 5)
    assert (first, second, empty) == (MARKER, f"Reference: {TOKEN}", "")
    assert third.startswith("Approve: <mailto:")
    assert fourth.startswith("Reject: <mailto:")
    assert rest == TEXT.replace("\r\n", "\n")
    assert all(len(line) <= 998 for line in found.split(b"\r\n"))


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<p>hello</p>", "§<p>hello</p>"),
        ("<html><body class='a>b'><p>x</body></html>", "<html><body class='a>b'>§<p>x</body></html>"),
        ("<!-- <body> --><BODY\n><p>x", "<!-- <body> --><BODY\n>§<p>x"),
        (
            "<head><style>/*<body>*/</style><title><body></title></head><body>x",
            "<head><style>/*<body>*/</style><title><body></title></head><body>§x",
        ),
        ("<!DOCTYPE html>\n<html lang=de><p>x", "<!DOCTYPE html>\n<html lang=de>§<p>x"),
        ("<bodyguard>x", "§<bodyguard>x"),
        ("<!-- never ends <body>x", None),
        ("<script>never ends <body>x", None),
        ("<body class='never ends>x", None),
        ("<html><head><title>x</title><p>no body", None),
    ],
)
@pytest.mark.parametrize("encoding", ["8bit", "base64", "quoted-printable"])
def test_in_html_it_stands_where_the_text_begins(html: str, expected: str | None, encoding: str) -> None:
    """Within the body, never in what a browser hides; where that cannot be told, nowhere."""
    data = {"8bit": html.encode(), "base64": base64.encodebytes(html.encode())}.get(
        encoding, quopri.encodestring(html.encode())
    )
    found = marked(simple("text/html", data, encoding))
    if expected is None:
        assert found is None
        return
    assert found is not None
    shown = texts(found)["text/html"].replace("\r\n", "\n")
    before, after = expected.split("§")
    assert shown.startswith(f"{before}<div>{MARKER}<br>\nReference: {TOKEN}<br>\n<a href=")
    assert shown.removesuffix("\n").endswith(f"</div>\n<hr>\n{after}")


def both() -> EmailMessage:
    message = EmailMessage()
    message["Subject"] = "Größe & Preis"
    message.set_content("Bitte prüfen.\n")
    message.add_alternative("<html><body><p>Bitte prüfen.</p></body></html>", subtype="html")
    return message


def test_text_and_html_are_both_marked_and_attachments_are_not() -> None:
    """Every other byte of the message is as it was."""
    message = both()
    message.add_attachment("attached text", filename="a.txt")
    message.add_attachment(b"\0\1", maintype="application", subtype="octet-stream", filename="b")
    data = message.as_bytes(policy=email.policy.SMTP)
    found = marked(data)
    assert found is not None
    again = email.message_from_bytes(found, policy=email.policy.default)
    parts = [part for part in again.walk() if not part.is_multipart()]
    assert [MARKER in part.get_content() for part in parts[:3]] == [True, True, False]
    assert parts[2].get_content().strip() == "attached text"
    assert parts[3].get_content() == b"\0\1"
    position = data.index(b"Content-Disposition")
    assert found.endswith(data[position:])


def test_of_several_texts_only_the_first_is_marked() -> None:
    """What a list or a producer appends to a mixed message is no second mail."""
    data = (
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\npreamble\r\n--b\r\n\r\nfirst\r\n--b\r\n"
        b"Content-Type: text/plain\r\n\r\nsecond\r\n--b--\r\nepilogue\r\n"
    )
    found = marked(data)
    assert found is not None
    assert found.count(MARKER.encode()) == 1
    assert re.sub(rb"-- Please do not(?s:.*?)\r\n\r\nfirst", b"first", found) == data


def message_of(kind: str, body: bytes = b"text\r\n") -> bytes:
    return f"Content-Type: {kind}\r\n\r\n".encode() + body


NESTED = (
    b"--b\r\nContent-Type: text/plain\r\n\r\ntext\r\n--b\r\nContent-Type: %s\r\n\r\n--c\r\n\r\nx\r\n--c--\r\n--b--\r\n"
)


@pytest.mark.parametrize(
    "data",
    [
        message_of("multipart/signed; boundary=b; protocol=x", b"--b\r\n\r\ntext\r\n--b--\r\n"),
        message_of("multipart/encrypted; boundary=b", b"--b\r\n\r\ntext\r\n--b--\r\n"),
        message_of("multipart/mixed; boundary=b", NESTED % b"multipart/signed; boundary=c"),
        message_of("application/pkcs7-mime; smime-type=signed-data", b"AAAA\r\n"),
        message_of("application/x-pkcs7-mime", b"AAAA\r\n"),
        message_of("text/plain", b"-----BEGIN PGP SIGNED MESSAGE-----\r\n"),
        simple("text/plain", base64.encodebytes(b"-----BEGIN PGP MESSAGE-----\r\n"), "base64"),
        simple("text/plain", b"!!!!", "base64"),
        simple("text/plain", b"x", "uuencode"),
        message_of("text/plain; charset=utf-16", b"x"),
        message_of("text/plain; charset=utf-7", b"x"),
        message_of("text/plain; charset=x-unknown", b"x"),
        message_of("text/plain; charset=cp500", b"x"),
        message_of("text/plain; charset=base64", b"x"),
        message_of("text/plain; charset=a; charset=b"),
        message_of("text/plain; charset=utf-8 (comment)"),
        message_of("text"),
        message_of("text/plain\r\nContent-Type: text/html"),
        message_of("text/plain\r\nContent-Disposition: attachment"),
        message_of("text/plain; name=a.txt"),
        message_of("text/calendar"),
        message_of("image/png"),
        message_of("multipart/mixed", b"--b\r\n\r\ntext\r\n--b--\r\n"),
        message_of("multipart/mixed; boundary=b", b"--b\r\n\r\ntext\r\n"),
        message_of("multipart/mixed; boundary=b", b"--b\r\n\r\ntext\r\n--b\r\n"),
        message_of("multipart/mixed; boundary=b", b"--b\r\nno field\r\n\r\ntext\r\n--b--\r\n"),
        message_of("multipart/mixed; boundary=b", b"--bb\r\n\r\ntext\r\n--bb--\r\n"),
        message_of("multipart/mixed; boundary=b\r\nContent-Transfer-Encoding: base64", b"--b\r\n\r\nt\r\n--b--\r\n"),
        message_of("text/plain", b"x" * (marking.MAX_MARKED + 1)),
    ],
)
def test_what_cannot_be_touched_safely_is_left_alone(data: bytes) -> None:
    """Signed, encrypted, attached, torn, of a charset in which ASCII means something else, or too large."""
    assert marked(data) is None


def links(text: str) -> dict[str, str]:
    return {word: re.search(rf"{word}: <(mailto:[^>]*)>", text)[1] for word in ("Approve", "Reject")}  # type: ignore[index]


@pytest.mark.parametrize("subaddressing", [True, False])
@pytest.mark.parametrize("subject", ["Order 42", "=?utf-8?q?Gr=C3=B6=C3=9Fe_&_Preis?=", "ü" * 900, "=?x?q?=FF?="])
def test_a_link_opens_an_answer_that_is_read_rightly(subject: str, subaddressing: bool) -> None:
    """With the token where it can be found, and the decision as the only new line."""
    asking = Asking("relay1", "approvals@example.com", subaddressing=subaddressing)
    found = marked(f"Subject: {subject}\r\n\r\nPlease.\r\n".encode(), asking)
    assert found is not None
    for word, link in links(found.decode()).items():
        there = urlsplit(link)
        assert unquote(there.path) == asking.reply_to(TOKEN)
        asked = parse_qs(there.query)
        (title,), (body,) = asked["subject"], asked["body"]
        assert title.startswith("Re:")
        answer = EmailMessage()
        answer["From"], answer["To"] = "boss@example.org", unquote(there.path)
        answer["Subject"] = title
        answer.set_content(body.replace("\r\n", "\n"))
        mail = parse(answer.as_bytes(policy=email.policy.SMTP))
        assert isinstance(mail, Mail)
        assert [str(one) for one in tokens_in(mail)] == [TOKEN]
        reading = read_mail(mail, Options(require_bare_approval=True))
        assert reading.decision is not None
        assert str(reading.decision) == {"Approve": "approved", "Reject": "rejected"}[word]
        assert reading.comment == ""


@pytest.mark.parametrize("quote", ["> ", ""])
@pytest.mark.parametrize("said", ["Approve", "Reject: too dear", ""])
def test_an_answer_above_the_block_is_all_that_is_read(quote: str, said: str) -> None:
    """Whatever the client does with the rest: the marker ends what is new, and the reference leads to the copy."""
    found = marked(b"Subject: x\r\n\r\nPlease approve this:\r\nRejected orders cost money.\r\n")
    assert found is not None
    below = found.partition(b"\r\n\r\n")[2].decode().replace("\r\n", f"\r\n{quote}")
    answer = f"From: boss@example.org\r\nSubject: Re: x\r\n\r\n{said}\r\n\r\n{quote}{below}".encode()
    mail = parse(answer)
    assert isinstance(mail, Mail)
    assert [str(one) for one in tokens_in(mail)] == [TOKEN]
    reading = read_mail(mail, Options())
    expected = {"Approve": "approved", "Reject: too dear": "rejected", "": "unclear"}[said]
    assert str(reading.decision) in (expected, "None" if not said else expected)
    assert reading.new_text == said


@pytest.mark.parametrize("said", ["Approve", "Reject"])
def test_an_answer_in_html_is_read_above_the_block(said: str) -> None:
    """As Outlook writes it: the older mail below, within nothing that says so."""
    html = "<html><body><p>Rejected orders cost money.</p></body></html>"
    found = marked(simple("text/html", html.encode()))
    assert found is not None
    older = texts(found)["text/html"]
    answer = EmailMessage()
    answer["From"], answer["To"], answer["Subject"] = "boss@example.org", "approvals@example.com", "Re: x"
    answer.set_content(older.replace("<body>", f"<body><div>{said}</div><div><br></div>"), subtype="html")
    mail = parse(answer.as_bytes(policy=email.policy.SMTP))
    assert isinstance(mail, Mail)
    assert [str(one) for one in tokens_in(mail)] == [TOKEN]
    reading = read_mail(mail, Options())
    assert str(reading.decision) == {"Approve": "approved", "Reject": "rejected"}[said]
    assert reading.new_text == said


def test_what_was_quoted_printable_keeps_its_bytes() -> None:
    """However its author's client wraps lines."""
    body = b"a =\r\nlong l=69ne\r\n=E2=82=AC\r\n"
    found = marked(simple("text/plain", body, "quoted-printable"))
    assert found is not None
    assert found.endswith(b"\r\n\r\n" + body)


async def test_it_is_done_on_the_wire_where_it_is_asked_for() -> None:
    """The size that MAIL announces is that of the marked message; larger ones go as they are."""
    data = both().as_bytes(policy=email.policy.SMTP)
    assert MARKER.encode() in await wire(data, ASKING)
    assert MARKER.encode() not in await wire(data)
    large = b"Subject: x\r\n\r\n" + b"line\r\n" * 300_000
    assert MARKER.encode() not in await wire(large, ASKING)
    middle = b"Subject: x\r\n\r\n" + b"line\r\n" * 100_000
    assert (await wire(middle, ASKING)).endswith(b"\r\n\r\n" + b"line\r\n" * 100_000)
    assert MARKER.encode() in await wire(middle, ASKING)


@given(st.binary(max_size=300), st.sampled_from(["text/plain", "text/html", 'multipart/mixed; boundary="b"']))
def test_any_body_is_marked_or_left_alone(body: bytes, kind: str) -> None:
    """Total: and what was there is there still."""
    found = marked(message_of(kind, body))
    if found is not None and kind == "text/plain":
        assert found.endswith(body)


@pytest.mark.parametrize(
    "piece",
    [
        b"<!--",
        b"<script>",
        b"<body ",
        b'<body "',
        b"<body '\"",
        b"--b\r\n",
        b"--b",
        b"\r\n--b\r\n\r\n",
        b"<style></style>",
    ],
)
@pytest.mark.parametrize("kind", ["text/html", "multipart/mixed; boundary=b"])
def test_a_hostile_body_costs_little_time(piece: bytes, kind: str) -> None:
    """Linear in its size."""
    data = message_of(kind, piece * (marking.MAX_MARKED // len(piece)))
    began = time.process_time()
    marked(data)
    assert time.process_time() - began < 2
