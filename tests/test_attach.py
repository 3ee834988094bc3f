"""Attachments: they are added, and not a byte of what was there is written anew."""

from __future__ import annotations

import email
import email.policy
import io
import zipfile
from email.message import EmailMessage, Message
from pathlib import Path

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from mailrelayd.outbound.attach import LONGEST_NAME, Attachment, attached, logs, safe
from mailrelayd.outbound.handin import Split, split
from mailrelayd.outbound.headers import Unreadable

LOG = Attachment("build.log", b"first\nsecond\n", "text/plain; charset=utf-8")
BINARY = Attachment("core", bytes(range(256)) * 10)
PRODUCERS = sorted((Path(__file__).parent / "producers").glob("*.eml"))
MIXED = (
    b"From: a@x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=BB\r\n\r\n"
    b"preamble\r\n--BB\r\n\r\ntext\r\n--BB\r\nContent-Type: image/png\r\n\r\n\x89PNG\r\n--BB--\r\nepilogue\r\n"
)


def with_parts(message: bytes, *attachments: Attachment) -> bytes:
    """The message with them; it must be possible."""
    found = attached(message, attachments or (LOG,))
    assert isinstance(found, bytes), found
    return found


def parsed(message: bytes) -> Message:
    """As a reader sees it who shares nothing with us."""
    found = email.message_from_bytes(message, policy=email.policy.default)
    assert not found.defects
    return found


def contents(message: bytes) -> list[tuple[str | None, bytes | None]]:
    """Name and content of every attachment."""
    return [
        (part.get_filename(), part.get_payload(decode=True))  # type: ignore[misc]
        for part in parsed(message).walk()
        if part.get_content_disposition() == "attachment"
    ]


# -- where they go -----------------------------------------------------------------------------------------------


def test_a_mixed_message_gets_one_more_part() -> None:
    """Before its closing boundary; the rest is untouched, preamble and epilogue included."""
    result = with_parts(MIXED)
    before, after = MIXED.split(b"--BB--")
    assert result.startswith(before)
    assert result.endswith(b"--BB--" + after)
    parts = list(parsed(result).iter_parts())  # type: ignore[attr-defined]
    assert [part.get_content_type() for part in parts] == ["text/plain", "image/png", "text/plain"]
    assert contents(result) == [("build.log", LOG.content)]


@pytest.mark.parametrize(
    "field",
    [
        b'Content-Type: multipart/mixed; boundary="BB"',
        b"content-type: MULTIPART/Mixed; BOUNDARY = BB",
        b'Content-Type: multipart/mixed; charset="x"; boundary="B\\B"; more=1',
        b"Content-Type: multipart/mixed;\r\n boundary=BB",
        b"Content-Transfer-Encoding: 8bit\r\nContent-Type: multipart/mixed; boundary=BB",
    ],
)
def test_its_boundary_is_found_however_it_is_written(field: bytes) -> None:
    """Quoted, folded, in any case, among other parameters."""
    message = MIXED.replace(b"Content-Type: multipart/mixed; boundary=BB", field, 1)
    assert with_parts(message).count(b"--BB\r\n") == 3


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"boundary=BB", b"boundary=CC"),  # its closing boundary is missing
        (b"boundary=BB", b""),
        (b"boundary=BB", b"boundary*=us-ascii''BB"),
        (b"boundary=BB", b"boundary=BB; boundary=CC"),
        (b"multipart/mixed", b"multipart/alternative"),
        (b"multipart/mixed", b"multipart/signed"),
        (b"multipart/mixed", b"multipart/mixed-replace"),
        (b"--BB--\r\n", b""),
        (b"--BB--\r\n", b"--BB--x\r\n"),
        (b"MIME-Version: 1.0\r\n", b"MIME-Version: 1.0\r\nContent-Transfer-Encoding: base64\r\n"),
        (b"MIME-Version: 1.0\r\n", b"MIME-Version: 1.0\r\nContent-Type: text/plain\r\n"),
    ],
)
def test_anything_else_becomes_the_first_part(old: bytes, new: bytes) -> None:
    """Where the boundary cannot be told for sure, nothing is put between the parts."""
    message = MIXED.replace(old, new, 1)
    parts = split(message, complete=True)
    assert isinstance(parts, Split)
    result = with_parts(message)
    assert message[parts.body :] in result
    assert contents(result)[-1] == ("build.log", LOG.content)
    assert parsed_or_broken(result).get_content_type() == "multipart/mixed"


def parsed_or_broken(message: bytes) -> Message:
    return email.message_from_bytes(message, policy=email.policy.default)


def test_content_fields_move_and_all_others_stay() -> None:
    """In their order, folded as they were; Content-Length, which would be wrong, goes."""
    message = (
        b"From: a@x\nContent-Type: text/html;\n charset=utf-8\nSubject: x\n y\nContent-Length: 9\n"
        b"content-transfer-encoding: 8bit\nMime-Version: 1.0\n\n<b>\xc3\xbc</b>\n"
    )
    result = with_parts(message)
    header, _, rest = result.partition(b"\n\n")
    assert header.startswith(b"From: a@x\nSubject: x\n y\nMime-Version: 1.0\nContent-Type: multipart/mixed; boundary=")
    assert header.endswith(b"\nContent-Transfer-Encoding: 8bit")
    first = rest.split(b"\n", 1)[1]
    assert first.startswith(
        b"Content-Type: text/html;\n charset=utf-8\ncontent-transfer-encoding: 8bit\n\n<b>\xc3\xbc</b>\n\n--"
    )
    assert b"Content-Length" not in result


@pytest.mark.parametrize("path", PRODUCERS, ids=lambda path: path.stem)
def test_what_real_producers_write_is_found_again_inside(path: Path) -> None:
    """Every byte of the body, and every attachment that was there, in front of the new ones."""
    message = path.read_bytes()
    parts = split(message, complete=True)
    assert isinstance(parts, Split)
    result = with_parts(message, LOG, BINARY)
    body = message[parts.body :]
    assert body in result or body.replace(b"--" + _boundary(message) + b"--", b"") != body
    if path.stem != "obsolete-syntax":  # Python reads no field with a blank before its colon
        assert contents(result)[-2:] == [("build.log", LOG.content), ("core", BINARY.content)]
    again = split(result, complete=True)
    assert isinstance(again, Split)
    kept = [one.raw for one in parts.header.fields if not one.key.startswith("content-")]
    assert [one.raw for one in again.header.fields if one.raw in kept] == kept


def _boundary(message: bytes) -> bytes:
    return (parsed_or_broken(message).get_boundary() or "\0").encode()


def test_a_signed_body_can_still_be_verified() -> None:
    """What is wrapped keeps its body's hash: DKIM over body and Content fields is a check that is not ours."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    body = b'Content-Type: text/plain; charset="x"\r\n\r\n  odd \t\r\n\r\nlines\r\n'
    signature = dkim.sign(b"From: a@x\r\n" + body, b"s", b"x", pem, include_headers=[b"from", b"content-type"])
    result = with_parts(b"From: a@x\r\n" + body)
    boundary = parsed(result).get_boundary()
    assert boundary
    inner = result.split(b"--" + boundary.encode() + b"\r\n")[1].removesuffix(b"\r\n")
    assert inner == body
    again = dkim.sign(b"From: a@x\r\n" + inner, b"s", b"x", pem, include_headers=[b"from", b"content-type"])
    assert _body_hash(again) == _body_hash(signature)


def _body_hash(signature: bytes) -> bytes:
    text = b"".join(signature.split())
    return text[text.index(b"bh=") :].split(b";")[0]


@pytest.mark.parametrize("data", [b"just text\n", "nur Text: über\n".encode(), b"Subject: a", b"\nbody\n"])
def test_a_text_without_header_is_wrapped_as_well(data: bytes) -> None:
    """So that scripts may pipe whatever they have."""
    result = with_parts(data)
    message = parsed(result)
    assert message.get_content_type() == "multipart/mixed"
    assert contents(result) == [("build.log", LOG.content)]
    text = next(iter(message.iter_parts())).get_content()  # type: ignore[attr-defined]
    assert text.encode().strip() in data


@given(st.binary(max_size=200), st.booleans())
def test_any_message_can_be_read_again(body: bytes, mixed: bool) -> None:
    """The body stands in the result as it was, and the attachment arrives; or there is a reason."""
    head = b"From: a@x\nContent-Type: multipart/mixed; boundary=B\n\n" if mixed else b"From: a@x\n\n"
    result = attached(head + body, (BINARY,))
    if isinstance(result, Unreadable):
        return
    if not mixed:
        assert body in result
    assert BINARY.content in [content for _, content in map(_pair, parsed_or_broken(result).walk())]


def _pair(part: Message) -> tuple[str | None, object]:
    return part.get_filename(), None if part.is_multipart() else part.get_payload(decode=True)


def test_the_new_boundary_stands_nowhere_in_the_message() -> None:
    """Also where somebody put it there on purpose, as far as that can be done."""
    once = with_parts(b"Subject: a\n\nb\n")
    boundary = parsed(once).get_boundary()
    assert boundary
    twice = with_parts(b"Subject: a\n\n" + boundary.encode() + b"\nb\n")
    assert parsed(twice).get_boundary() != boundary
    assert with_parts(b"Subject: a\n\nb\n") == once


def test_without_attachments_nothing_changes() -> None:
    """Not a byte, whatever it is."""
    for message in (MIXED, b"", b"text", b"A: b"):
        assert attached(message, ()) == message


def test_what_is_no_mail_is_refused() -> None:
    """With the reason that its hand-in would have."""
    found = attached(b"A: \0\n\nb", (LOG,))
    assert isinstance(found, Unreadable)
    assert "NUL" in found.reason


# -- names and kinds -----------------------------------------------------------------------------------------------


def test_one_log_carries_the_instance_and_its_own_name() -> None:
    """As FlexDeploy names it; without an instance the file's name alone."""
    assert logs("nightly", [("deploy.log", b"ok\n")]) == [
        Attachment("nightly_deploy.log", b"ok\n", "text/plain; charset=utf-8")
    ]
    assert logs("", [("deploy.log", b"\xff\0")]) == [Attachment("deploy.log", b"\xff\0", "application/octet-stream")]
    assert logs("nightly", []) == []


def test_several_logs_are_one_archive_with_their_own_names_inside() -> None:
    """Made unique where two have the same, whatever the case."""
    files = [
        ("a.log", b"1"),
        ("b.log", b"2" * 5000),
        ("A.log", b"3"),
        ("a.log", b"4"),
        ("noending", b""),
        ("noending", b"5"),
    ]
    (archive,) = logs("nightly", files)
    assert (archive.name, archive.type) == ("nightly_logs.zip", "application/zip")
    with zipfile.ZipFile(io.BytesIO(archive.content)) as opened:
        assert opened.testzip() is None
        names = opened.namelist()
        assert names == ["a.log", "b.log", "A_2.log", "a_3.log", "noending", "noending_2"]
        assert [opened.read(name) for name in names] == [content for _, content in files]
    assert logs("", files)[0].name == "logs.zip"


def test_the_archive_of_the_same_logs_is_the_same() -> None:
    """A message that is made again has the same bytes."""
    files = [("a.log", b"1" * 10_000), ("b.log", b"2")]
    assert logs("x", files) == logs("x", files)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.log", "a.log"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("a\r\nBcc: x@y.log", "a__Bcc_ x@y.log"),
        ('a"b.log', "a_b.log"),
        ("C:\\x\\a.log", "C__x_a.log"),
        ("con<>|?*.log", "con_____.log"),
        (".hidden", "hidden"),
        ("...", "log"),
        ("", "log"),
        ("a\u202egol.exe", "a_gol.exe"),
        ("\udcff.log", "_.log"),
        ("Größe 1.log", "Größe 1.log"),
    ],
)
def test_names_are_made_harmless(name: str, expected: str) -> None:
    """No path, no control characters, nothing that turns the reading direction."""
    assert safe(name) == expected


@given(st.text(max_size=400), st.text("ab/\\.", max_size=5))
def test_any_name_arrives_as_the_safe_one(start: str, end: str) -> None:
    """Through quotes or RFC 2231, whatever it holds, and no header line is too long for SMTP."""
    name = safe(start + end)
    assert len(name.encode()) <= LONGEST_NAME
    assert safe(name) == name
    result = with_parts(b"Subject: a\n\nb\n", Attachment(name, b"x"))
    assert max(len(line) for line in result.splitlines()) <= 998
    ((found, content),) = contents(result)
    assert content == b"x"
    assert found is not None
    assert found.split() == name.split()


def test_a_long_name_keeps_its_ending() -> None:
    """Receivers open files by it."""
    assert safe("ü" * 300 + ".log").endswith("ü.log")


def test_the_message_of_pythons_email_package_keeps_its_parts() -> None:
    """A message with text, HTML and a picture gets the log as its last part."""
    message = EmailMessage()
    message["From"], message["To"] = "a@x", "b@y"
    message.set_content("text")
    message.add_alternative("<p>text</p>", subtype="html")
    message.add_attachment(b"\x89PNG", "image", "png", filename="a.png")
    result = with_parts(message.as_bytes())
    assert [name for name, _ in contents(result)] == ["a.png", "build.log"]
    assert result.startswith(message.as_bytes().rpartition(b"--" + _boundary(message.as_bytes()) + b"--")[0])
