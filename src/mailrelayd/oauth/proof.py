"""Who asks: a certificate's key or a service account's, and the assertions that they sign (RFC 7523).

Times in an assertion are our clock's, and begin a little in the past: providers refuse what is from their future.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from authlib.oauth2.rfc7523 import private_key_jwt_sign
from authlib.oauth2.rfc7523.assertion import sign_jwt_bearer_assertion
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from mailrelayd.oauth.values import OAuthError

LIMIT: Final = 256 * 1024  # bytes of a file with a key
BACKDATED: Final = 60.0  # seconds
LIFE: Final = 600.0  # seconds of a client assertion; Microsoft advises five to ten minutes
SERVICE_LIFE: Final = 3600.0  # seconds; Google takes no more, and less only narrows what a slow clock may lose


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a client proves itself with in place of a secret."""

    key: Any = field(repr=False)  # joserfc's
    thumbprint: str  # of the certificate, SHA-256 in base64url
    algorithm: str


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """A key of a Google service account."""

    email: str
    key_id: str
    key: Any = field(repr=False)
    token_uri: str  # as its file says; "": it does not


def read_certificate(path: str, *, microsoft: bool) -> Certificate:
    """The PEM file of `client_certificate`: certificate and private key, in any order. Raises OAuthError."""
    content = _read(path, "client_certificate")
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except TypeError as error:
        raise _unusable(
            "client_certificate", path, "its private key is encrypted; store it without a passphrase"
        ) from error
    except ValueError as error:
        text = "it holds no private key; put certificate and key into one PEM file"
        raise _unusable("client_certificate", path, text) from error
    try:
        certificate = next(one for one in x509.load_pem_x509_certificates(content) if _public(one) == _public(key))
    except (ValueError, StopIteration) as error:
        text = "it holds no certificate that belongs to its private key; put both into one PEM file"
        raise _unusable("client_certificate", path, text) from error
    thumbprint = base64.urlsafe_b64encode(certificate.fingerprint(hashes.SHA256())).decode().rstrip("=")
    if isinstance(key, rsa.RSAPrivateKey):
        return Certificate(RSAKey.import_key(content), thumbprint, "PS256" if microsoft else "RS256")
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1) and not microsoft:
        return Certificate(ECKey.import_key(content), thumbprint, "ES256")
    wanted = "RSA" if microsoft else "RSA or P-256"
    raise _unusable("client_certificate", path, f"its key is no {wanted} key; make a certificate with one")


def client_assertion(certificate: Certificate, client_id: str, audience: str, now: float) -> str:
    """Proof of being `client_id`, for one request to `audience`, the token endpoint."""
    begin = int(now - BACKDATED)
    claims = {"iat": begin, "nbf": begin, "exp": int(now + LIFE - BACKDATED), "jti": str(uuid4())}
    header = {"typ": "JWT", "x5t#S256": certificate.thumbprint}
    signed: str = private_key_jwt_sign(
        certificate.key, client_id, audience, alg=certificate.algorithm, claims=claims, header=header
    )
    return signed


def read_service_account(path: str) -> ServiceAccount:
    """The JSON file of `service_account_file`. Raises OAuthError."""
    name = "service_account_file"
    try:
        document = json.loads(_read(path, name))
    except (ValueError, RecursionError) as error:
        raise _unusable(name, path, "it is no JSON; download the service account's key again") from error
    found = document if isinstance(document, dict) else {}
    if found.get("type") != "service_account":
        text = 'it is no service account\'s key ("type": "service_account"); create one of that kind'
        raise _unusable(name, path, text)
    values = {part: found.get(part, "") for part in ("client_email", "private_key", "private_key_id", "token_uri")}
    if not all(isinstance(value, str) for value in values.values()) or not values["client_email"]:
        raise _unusable(name, path, "it is incomplete; download the service account's key again")
    try:
        key = RSAKey.import_key(values["private_key"])
        if not key.is_private:
            raise ValueError("a public key")
    except (ValueError, TypeError, JoseError) as error:
        raise _unusable(name, path, "its private_key cannot be read; download the key again") from error
    return ServiceAccount(values["client_email"], values["private_key_id"], key, values["token_uri"])


def service_assertion(account: ServiceAccount, user: str, scopes: tuple[str, ...], audience: str, now: float) -> str:
    """What is exchanged for a token that opens `user`'s mailbox (domain-wide delegation)."""
    begin = int(now - BACKDATED)
    header = {"typ": "JWT"} | ({"kid": account.key_id} if account.key_id else {})
    signed: str = sign_jwt_bearer_assertion(
        account.key,
        account.email,
        audience,
        subject=user,
        issued_at=begin,
        expires_at=int(begin + SERVICE_LIFE),
        claims={"scope": " ".join(scopes)},
        header=header,
        alg="RS256",
    )
    return signed


def _public(owner: Any) -> bytes:
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    found: bytes = owner.public_key().public_bytes(encoding, form)
    return found


def _read(path: str, name: str) -> bytes:
    try:
        with Path(path).open("rb") as stream:
            content = stream.read(LIMIT + 1)
    except OSError as error:
        raise _unusable(name, path, f"{error.strerror}; correct the path, its owner or its mode") from error
    if len(content) > LIMIT:
        raise _unusable(name, path, "it is too large for a key; correct the path")
    return content


def _unusable(name: str, path: str, why: str) -> OAuthError:
    return OAuthError(f"{name} {path}: {why}", kind="configuration")
