"""Bytes in, parts and fields out: the structure that clients see, and a note wherever they might not agree."""

from __future__ import annotations

import base64
import email
import email.policy
from datetime import UTC, datetime, timedelta
from email.message import Message

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs7
from hypothesis import given, settings
from hypothesis import strategies as st

from mailrelayd.approvals.bodies import bodies
from mailrelayd.approvals.cms import signed_content
from mailrelayd.approvals.mime import MAX_FIELDS, MAX_HEADER, Mail, Unreadable, parse


def mail(data: bytes) -> Mail:
    parsed = parse(data)
    assert isinstance(parsed, Mail), parsed
    return parsed


def tree(data: bytes) -> list[str]:
    return [part.media for part in mail(data).parts()]


def contents(data: bytes) -> list[bytes]:
    parsed = mail(data)
    return [parsed.data[part.start : part.end] for part in parsed.parts() if not part.children]


def test_fields_are_unfolded_and_decoded() -> None:
    """RFC 2047 words, folding, 8-bit headers; names in lower case, order as in the mail."""
    subject = b"SUBJECT: =?iso-8859-1?Q?Gr=FC=DFe?=\r\n =?utf-8?q?_an_alle?=\r\n"
    data = b"From: =?utf-8?B?SsO8cmdlbg==?= <j@example.com>\r\n" + subject + b"X: \xc3\xbc\r\n\r\n"
    parsed = mail(data)
    assert parsed.first("from") == "Jürgen <j@example.com>"
    assert parsed.first("subject") == "Grüße an alle"
    assert parsed.first("x") == "ü"
    assert [field.name for field in parsed.fields] == ["from", "subject", "x"]
    assert parsed.first("nothing") == ""
    assert mail(b"To: a\nTo: b\n\n").values("to", "cc") == ["a", "b"]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_parts_are_found_whatever_ends_the_lines(line_end: bytes) -> None:
    """And their contents hold neither the boundary nor the line end before it."""
    data = b"""From: a@b
Content-Type: multipart/mixed; boundary="o u t"

preamble
--o u t
Content-Type: multipart/alternative; boundary=in

--in

plain
--in
Content-Type: text/html

<p>
--in--
epilogue
--o u t
Content-Type: image/png

x
--o u t--
after
"""
    assert tree(data.replace(b"\n", line_end)) == [
        "multipart/mixed",
        "multipart/alternative",
        "text/plain",
        "text/html",
        "image/png",
    ]
    assert contents(data.replace(b"\n", line_end)) == [b"plain", b"<p>", b"x"]
    assert mail(data).doubts == ()


def test_parameters_are_read_as_the_rfcs_write_them() -> None:
    """Quoted, escaped, commented, continued (RFC 2231), without a semicolon."""
    for value, expected in {
        'text/plain; charset="utf-8"': {"charset": "utf-8"},
        "TEXT/Plain;CHARSET=UTF-8 ; Format=Flowed": {"charset": "UTF-8", "format": "Flowed"},
        "text/plain (comment; charset=x); charset=utf-8 (Plain)": {"charset": "utf-8"},
        r'text/plain; name="a\"b;c"': {"name": 'a"b;c'},
        "text/plain; name*0=ab; name*1=cd": {"name": "abcd"},
        "text/plain; charset*=us-ascii'en'utf-8": {"charset": "utf-8"},
        "text/plain charset=utf-8": {"charset": "utf-8"},
        "text/plain;;; charset = utf-8": {"charset": "utf-8"},
        'text/plain; name="never ends': {"name": "never ends"},
    }.items():
        root = mail(f"Content-Type: {value}\n\n".encode()).root
        assert (root.media, root.parameters) == ("text/plain", expected), value


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Type: multipart/mixed\n\n--b\n\nx\n--b--\n",
        b'Content-Type: multipart/mixed; boundary=""\n\n--\n\nx\n----\n',
        b"Content-Type: multipart/mixed; boundary=b\n\n--c\n\nx\n--c--\n",
        b"Content-Type: multipart/mixed; boundary=b; boundary=c\n\n--b\n\nx\n--b--\n",
        b"Content-Type: text/plain\nContent-Type: text/html\n\nx",
        b"Content-Type: /\n\nx",
        b"Content-Transfer-Encoding: 7bit\nContent-Transfer-Encoding: base64\n\nx",
        b"no field\n\nx",
        b"Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: multipart/x; boundary=b\n\n--b\n\nx\n--b--\n",
        b"Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: multipart/x; boundary=c\n\n--c\n\nx\n--b--\n",
        b"Content-Type: multipart/mixed; boundary=b\n\n--b\nno field\nSubject: x\n--b--\n",
    ],
)
def test_what_could_be_read_in_two_ways_is_noted(head: bytes) -> None:
    """Such a mail is read somehow, and approves nothing."""
    assert mail(b"From: a@b\n" + head).doubts


def test_names_make_files_of_texts() -> None:
    """A disposition or a file name: attached. A mail that is one text stays a text."""
    for field in (
        "Content-Disposition: attachment",
        "Content-Disposition: inline; filename=x",
        "Content-Type: text/plain; name=x",
    ):
        data = f"From: a@b\nContent-Type: multipart/mixed; boundary=b\n\n--b\n{field}\n\nApproved\n--b--\n"
        assert bodies(mail(data.encode())).renditions == (), field
    assert bodies(mail(b"From: a@b\nContent-Type: text/plain; name=x\n\nApproved")).renditions[0].lines == ("Approved",)


def test_a_mail_needs_a_header() -> None:
    """Anything else is unreadable; a mailbox's own first line is not part of it."""
    for data in (b"", b"\n", b"Approved", b"\x7fELF", b"hello there\nFrom: a@b\n\n", b" folded\nFrom: a@b\n\n"):
        assert isinstance(parse(data), Unreadable), data
    assert (
        mail(b"From boss@example.com Sat Nov 21 10:00:00 2026\nFrom: a@b\n>From x\nTo: c@d\n\nx").first("to") == "c@d"
    )
    assert mail(b"\xef\xbb\xbfFrom: a@b\n\nx").first("from") == "a@b"
    assert isinstance(parse(b"X: y\n" * (MAX_FIELDS + 1)), Unreadable)
    assert isinstance(parse(b"X: " + b"y" * MAX_HEADER + b"\n\n"), Unreadable)


def _leaves(message: Message) -> list[str]:
    return [part.get_content_type() for part in message.walk() if not part.is_multipart()]


@given(
    st.recursive(
        st.sampled_from(["text/plain", "text/html", "image/png"]),
        lambda children: st.tuples(
            st.sampled_from(["mixed", "alternative", "related"]), st.lists(children, min_size=1, max_size=3)
        ),
        max_leaves=8,
    )
)
@settings(max_examples=200, deadline=None)
def test_the_standard_library_sees_the_same_parts_in_a_well_formed_mail(shape: object) -> None:
    """Two independent readers agree on every tree that is written by the rules."""

    def written(node: object, name: str) -> str:
        if isinstance(node, str):
            return f"Content-Type: {node}\n\nx {name}\n"
        assert isinstance(node, tuple)
        kind, children = node
        parts = "".join(f"--{name}\n{written(child, f'{name}.{at}')}\n" for at, child in enumerate(children))
        return f'Content-Type: multipart/{kind}; boundary="{name}"\n\n{parts}--{name}--\n'

    data = ("From: a@b\n" + written(shape, "b")).encode()
    ours = [part.media for part in mail(data).parts() if not part.children]
    assert ours == _leaves(email.message_from_bytes(data, policy=email.policy.compat32))
    assert mail(data).doubts == ()


def _signed(content: bytes, *options: pkcs7.PKCS7Options) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "boss@example.com")])
    day = datetime(2026, 11, 21, tzinfo=UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(day).not_valid_after(day + timedelta(days=1))
    certificate = builder.sign(key, hashes.SHA256())
    signer = pkcs7.PKCS7SignatureBuilder().set_data(content).add_signer(certificate, key, hashes.SHA256())
    return signer.sign(serialization.Encoding.DER, list(options))


SMIME = b"From: a@b\nContent-Type: application/pkcs7-mime; smime-type=signed-data; name=smime.p7m\n"
SMIME += b"Content-Disposition: attachment; filename=smime.p7m\nContent-Transfer-Encoding: base64\n\n"


def test_the_text_inside_an_smime_signature_is_read() -> None:
    """RFC 8551 section 3.5.2: signed, and readable only with S/MIME; a detached or broken one holds no text."""
    inner = b"Content-Type: text/plain; charset=utf-8\r\n\r\nApproved\r\n"
    der = _signed(inner, pkcs7.PKCS7Options.Binary)
    assert signed_content(der) == inner
    assert bodies(mail(SMIME + base64.encodebytes(der))).renditions[0].lines == ("Approved",)
    for broken in (
        der[:60],
        der[1:],
        b"",
        _signed(inner, pkcs7.PKCS7Options.DetachedSignature),
        der.replace(b"\x07\x01", b"\x07\x03"),
    ):
        found = bodies(mail(SMIME + base64.encodebytes(broken)))
        assert (found.renditions, found.encrypted) == ((), True)


def test_indefinite_lengths_and_pieces_are_followed() -> None:
    """As programs write that sign while they send: X.690 section 8.1.3.6."""
    pieces = b"\x24\x80\x04\x03App\x04\x05roved\0\0"
    oid, data = bytes.fromhex("06092a864886f70d010702"), bytes.fromhex("06092a864886f70d010701")
    content = b"\x30\x80" + data + b"\xa0\x80" + pieces + b"\0\0\0\0"
    assert signed_content(b"\x30\x80" + oid + b"\xa0\x80\x30\x80\x02\x01\x01\x31\x00" + content) == b"Approved"


@given(st.binary(max_size=60), st.integers(0, 200))
def test_any_bytes_are_no_signature_or_one(noise: bytes, at: int) -> None:
    """Nothing raises, however a signature is damaged."""
    der = bytes.fromhex("308006092a864886f70d010702a08030800201013100308006092a864886f70d010701a080248004034170700000")
    signed_content(der[:at] + noise + der[at:])
    signed_content(noise)
