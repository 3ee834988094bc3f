"""Certificates as their bytes tell: the same as another reader finds, and nothing ever raises."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from mailrelayd.diagnose import trust
from mailrelayd.diagnose.certificate import Certificate, parsed
from mailrelayd.diagnose.facts import Door
from mailrelayd.diagnose.speech import NAMES, recognised
from mailrelayd.diagnose.steps import Outcome
from tests.servers.certificates import Certificates


def made(names: list[x509.GeneralName], *, subject: x509.Name, end: datetime.datetime) -> bytes:
    """A self-signed certificate, DER."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Ämter & Co")]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(1999, 12, 31, tzinfo=datetime.UTC))
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def der(path: Path) -> bytes:
    """The first certificate of a PEM file."""
    return x509.load_pem_x509_certificates(path.read_bytes())[0].public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize("name", ["good", "expired", "wrong_host", "self_signed", "stranger", "client"])
def test_it_is_read_as_others_read_it(certificates: Certificates, name: str) -> None:
    """Names, times, digest and who signed it are those that the cryptography library finds."""
    data = der(getattr(certificates, name).certificate)
    theirs, ours = x509.load_der_x509_certificate(data), parsed(data)
    assert ours is not None
    names = theirs.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    if name != "client":  # whose name is a person's
        assert list(ours.names) == [str(one.value) for one in names]
    assert (ours.not_before, ours.not_after) == (theirs.not_valid_before_utc, theirs.not_valid_after_utc)
    assert ours.sha256 == theirs.fingerprint(hashes.SHA256()).hex()
    assert ours.self_issued == (name == "self_signed")


def test_names_of_every_kind_and_years_of_both_forms() -> None:
    """Addresses of both families, a name in UTF-8, a year before 2000 and one after 2050."""
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "söme\x1bbody")])
    names: list[x509.GeneralName] = [
        x509.DNSName("*.example.com"),
        x509.RFC822Name("a@example.com"),
        x509.IPAddress(ipaddress.ip_address("192.0.2.1")),
        x509.IPAddress(ipaddress.ip_address("2001:db8::1")),
    ]
    one = parsed(made(names, subject=subject, end=datetime.datetime(2060, 1, 2, tzinfo=datetime.UTC)))
    assert isinstance(one, Certificate)
    assert one.names == ("*.example.com", "192.0.2.1", "2001:db8::1")
    assert (one.subject, one.issuer) == ("söme\\x1bbody", "Ämter & Co")
    assert (one.not_before.year, one.not_after.year) == (1999, 2060)
    assert one.days_left(one.not_after.timestamp() - 86_400 * 3 - 1) == 3
    assert one.days_left(one.not_after.timestamp() + 1) == -1
    bare = parsed(made([], subject=x509.Name([]), end=datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)))
    assert bare is not None
    assert (bare.subject, bare.names) == ("", ())


@given(st.binary(max_size=300))
def test_any_bytes_are_read(data: bytes) -> None:
    """What is no certificate is None, and no exception."""
    assert parsed(data) is None
    assert parsed(b"\x30\x82" + len(data).to_bytes(2, "big") + data) is None


@given(st.data())
def test_a_damaged_certificate_is_read(data: st.DataObject) -> None:
    """Wherever a byte is changed or the rest is cut off, something or None comes out."""
    at = data.draw(st.integers(0, len(SOUND) - 1))
    value = data.draw(st.integers(0, 255))
    parsed(SOUND[:at] + bytes([value]) + SOUND[at + 1 :])
    parsed(SOUND[:at])


SOUND = made(
    [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("::1"))],
    subject=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")]),
    end=datetime.datetime(2040, 1, 1, tzinfo=datetime.UTC),
)


@pytest.mark.parametrize(
    ("heard", "protocol"),
    [
        (b"220 mail.example.com ESMTP\r\n", "smtp"),
        (b"220-first\r\n220 second\r\n", "smtp"),
        (b"554 5.7.1 go away\r\n", "smtp"),
        (b"220\r\n", "smtp"),
        (b"* OK [CAPABILITY IMAP4rev1] ready\r\n", "imap"),
        (b"* BYE full\r\n", "imap"),
        (b"+OK POP3 ready\r\n", "pop3"),
        (b"HTTP/1.1 400 Bad Request\r\n", "http"),
        (b"<html><head>", "http"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "ssh"),
        (b"220 (vsFTPd 3.0.3)\r\n", "ftp"),
        (b'"IMPLEMENTATION" "Dovecot Pigeonhole"\r\n', "managesieve"),
        (b"\x15\x03\x03\x00\x02\x02\x46", "tls"),
        (b"", ""),
        (b"hello", ""),
        (b"2200 bottles", ""),
    ],
)
def test_protocols_are_recognised(heard: bytes, protocol: str) -> None:
    """By the first bytes their servers say."""
    assert recognised(heard) == protocol
    assert protocol in NAMES


def test_what_cannot_be_read_is_said() -> None:
    """A pinned certificate may be of any kind; each verdict can do without what stands in it."""
    door = Door("outbound.x", "smtp", "tls", "mx.example.com", 465, "mx.example.com", "me", 1.0, 1.0)
    pinned = trust.trusted(door, [], 0.0, how="it is the pinned one")
    assert (pinned.outcome, pinned.command) == (Outcome.WARNING, door.openssl)
    assert trust.not_pinned(door, [], 0.0).outcome is Outcome.FAILED
    assert trust.unverified(door, [], 0.0).outcome is Outcome.WARNING
    assert (
        trust.distrusted(door, 10, "certificate has expired", [], 0.0).cause == "The server's certificate has expired."
    )
