"""Certificates for every way TLS can go right or wrong, made afresh, strict enough for VERIFY_X509_STRICT."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

DAY = datetime.timedelta(days=1)
HOSTS = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class KeyPair:
    """A certificate with its chain, and its private key: two PEM files."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Certificates:
    """The files; `ca` is what a client has to trust for all but `self_signed` and `stranger`."""

    ca: Path
    good: KeyPair  # localhost, 127.0.0.1, ::1
    expired: KeyPair  # the same, ended yesterday
    wrong_host: KeyPair  # valid, but for elsewhere.test
    self_signed: KeyPair  # right host, vouched for by nobody
    stranger: KeyPair  # right host, issued by another authority
    client: KeyPair  # for a client that identifies itself


def make(directory: Path) -> Certificates:
    """Write all of them into `directory`."""
    authority = trustme.CA()
    ca = directory / "ca.pem"
    authority.cert_pem.write_to_path(ca)
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)  # trustme takes naive UTC

    def write(name: str, certificate: trustme.LeafCert) -> KeyPair:
        pair = KeyPair(directory / f"{name}.pem", directory / f"{name}.key")
        pair.certificate.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
        _write_key(pair.key, certificate.private_key_pem.bytes())
        return pair

    return Certificates(
        ca=ca,
        good=write("good", authority.issue_cert(*HOSTS)),
        expired=write("expired", authority.issue_cert(*HOSTS, not_before=now - 30 * DAY, not_after=now - DAY)),
        wrong_host=write("wrong-host", authority.issue_cert("elsewhere.test")),
        self_signed=_self_signed(directory),
        stranger=write("stranger", trustme.CA().issue_cert(*HOSTS)),
        client=write("client", authority.issue_cert("client@example.test")),
    )


def _self_signed(directory: Path) -> KeyPair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + 30 * DAY)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, **usage), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.DNSName("localhost"), *(x509.IPAddress(ipaddress.ip_address(host)) for host in HOSTS[1:])]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    pair = KeyPair(directory / "self-signed.pem", directory / "self-signed.key")
    pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    _write_key(
        pair.key,
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    return pair


def _write_key(path: Path, pem: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(pem)
