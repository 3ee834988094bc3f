"""JSON Web Tokens (RFC 7515, RFC 7519) as the local token servers make and check them. Nothing here is lenient."""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

PADDINGS = {
    "RS256": padding.PKCS1v15(),
    "PS256": padding.PSS(padding.MGF1(hashes.SHA256()), 32),  # RFC 7518 section 3.5: the salt is as long as the hash
}


class BadAssertionError(Exception):
    """The text is no such token, or its signature is another's."""


@dataclass(frozen=True)
class Assertion:
    """A signed statement, taken apart; the signature is not checked yet."""

    header: dict[str, Any]
    claims: dict[str, Any]
    signed: bytes
    signature: bytes

    @classmethod
    def read(cls, text: str) -> Assertion:
        """Raises BadAssertionError."""
        parts = text.split(".")
        if len(parts) != 3:
            raise BadAssertionError(f"three parts are needed, not {len(parts)}")
        try:
            header, claims = (json.loads(unpacked(part)) for part in parts[:2])
            signature = unpacked(parts[2])
        except (ValueError, binascii.Error) as error:
            raise BadAssertionError(str(error)) from error
        if not isinstance(header, dict) or not isinstance(claims, dict):
            raise BadAssertionError("header and claims are JSON objects")
        return cls(header, claims, f"{parts[0]}.{parts[1]}".encode(), signature)

    def verify(self, key: rsa.RSAPublicKey, *algorithms: str) -> None:
        """Raises BadAssertionError unless the owner of `key` signed it by one of `algorithms`."""
        algorithm = self.header.get("alg")
        if algorithm not in algorithms:
            raise BadAssertionError(f"alg is {algorithm!r}, not one of {algorithms}")
        try:
            key.verify(self.signature, self.signed, PADDINGS[algorithm], hashes.SHA256())
        except InvalidSignature as error:
            raise BadAssertionError("the signature does not belong to it") from error

    def number(self, name: str) -> int:
        """A claim that is a NumericDate; Raises BadAssertionError."""
        value = self.claims.get(name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadAssertionError(f"{name} must be a whole number of seconds, not {value!r}")
        return value


def packed(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unpacked(text: str) -> bytes:
    """The opposite; ValueError where padding or a foreign character is found (RFC 7515 section 2)."""
    if not text.isascii() or set(text) & set("=+/ \r\n\t"):
        raise ValueError("this is no base64url without padding")
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def thumbprints(certificate: x509.Certificate) -> dict[str, str]:
    """What `x5t` and `x5t#S256` have to say of this certificate (RFC 7515 section 4.1.7 and 4.1.8)."""
    der = certificate.public_bytes(serialization.Encoding.DER)
    return {"x5t": packed(hashlib.sha1(der).digest()), "x5t#S256": packed(hashlib.sha256(der).digest())}


def challenge(verifier: str) -> str:
    """PKCE's S256 (RFC 7636 section 4.2)."""
    return packed(hashlib.sha256(verifier.encode()).digest())


@functools.cache
def signing_key() -> rsa.RSAPrivateKey:
    """The key of the local token servers, made once per process."""
    return rsa.generate_private_key(65537, 2048)


def signed(claims: dict[str, Any], **header: str) -> str:
    """An access token as Microsoft's look: a JWT, signed by RS256."""
    head = packed(json.dumps({"typ": "JWT", "alg": "RS256", **header}).encode())
    body = packed(json.dumps(claims).encode())
    signature = signing_key().sign(f"{head}.{body}".encode(), PADDINGS["RS256"], hashes.SHA256())
    return f"{head}.{body}.{packed(signature)}"
