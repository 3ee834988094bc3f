"""SASL: which mechanism, and SCRAM-SHA-256 (RFC 5802, RFC 7677) and OAUTHBEARER (RFC 7628) as pure functions."""

from __future__ import annotations

import hashlib
import hmac
import stringprep
import unicodedata
from base64 import b64decode, b64encode
from collections.abc import Collection
from dataclasses import dataclass

PASSWORD_MECHANISMS = ("SCRAM-SHA-256", "PLAIN", "LOGIN", "CRAM-MD5")
"""Best first. CRAM-MD5 is last: it makes the server keep the password readable, and TLS protects PLAIN anyway."""
TOKEN_MECHANISMS = ("XOAUTH2", "OAUTHBEARER")
"""XOAUTH2 first: Exchange Online has no other, and where both are, they take the same time and token."""

MIN_ITERATIONS = 4096  # RFC 7677 section 4
MAX_ITERATIONS = 1_000_000  # some seconds of CPU; more is a server that wants us busy


class SaslError(Exception):
    """The server's side of the exchange is wrong, or proves that it does not know the password."""


def choose(offered: Collection[str], wanted: tuple[str, ...]) -> str | None:
    """The first of `wanted` that the server offers, or None."""
    upper = {mechanism.upper() for mechanism in offered}
    return next((mechanism for mechanism in wanted if mechanism in upper), None)


def xoauth2(user: str, token: str) -> bytes:
    """The one message of XOAUTH2 (Google's and Microsoft's page of that name), not yet in base64."""
    return f"user={user}\x01auth=Bearer {token}\x01\x01".encode()


def oauth_bearer(user: str, token: str) -> bytes:
    """The one message of OAUTHBEARER, not yet in base64."""
    return f"n,a={_escaped(user)},\x01auth=Bearer {token}\x01\x01".encode()


@dataclass(frozen=True, slots=True)
class ServerFirst:
    """What the server answers to the first message: the joint nonce, the salt, the number of iterations."""

    text: str
    nonce: str
    salt: bytes
    iterations: int


@dataclass(frozen=True, slots=True)
class ScramSha256:
    """One exchange without channel binding. `nonce` must be fresh random text without commas."""

    user: str
    password: str
    nonce: str

    @property
    def _bare(self) -> str:
        return f"n={_escaped(prepared(self.user))},r={self.nonce}"

    def first(self) -> bytes:
        """The first message."""
        return f"n,,{self._bare}".encode()

    def challenge(self, message: bytes) -> ServerFirst:
        """Read the answer to `first`. Raises SaslError."""
        fields = _fields(message)
        try:
            nonce, salt, iterations = fields["r"], b64decode(fields["s"], validate=True), int(fields["i"])
        except (KeyError, ValueError) as error:
            raise SaslError("the server's SCRAM challenge is malformed") from error
        if "m" in fields:  # RFC 5802 section 5.1: a mandatory extension, of which none exists
            raise SaslError("the server's SCRAM challenge asks for an unknown extension")
        if not nonce.startswith(self.nonce) or nonce == self.nonce:
            raise SaslError("the server's SCRAM challenge belongs to another exchange")
        if not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
            raise SaslError(
                f"the server asks for {iterations} SCRAM iterations, not {MIN_ITERATIONS}..{MAX_ITERATIONS}"
            )
        return ServerFirst(message.decode(), nonce, salt, iterations)

    def salted_password(self, challenge: ServerFirst) -> bytes:
        """PBKDF2: the slow part, up to seconds; call it where it blocks nobody."""
        secret = prepared(self.password).encode()
        return hashlib.pbkdf2_hmac("sha256", secret, challenge.salt, challenge.iterations)

    def final(self, challenge: ServerFirst, salted: bytes) -> tuple[bytes, bytes]:
        """The last message, and the signature that the server has to answer it with."""
        without_proof = f"c={b64encode(b'n,,').decode()},r={challenge.nonce}"
        signed = ",".join((self._bare, challenge.text, without_proof)).encode()
        client_key = _hmac(salted, b"Client Key")
        signature = _hmac(hashlib.sha256(client_key).digest(), signed)
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        return f"{without_proof},p={b64encode(proof).decode()}".encode(), _hmac(_hmac(salted, b"Server Key"), signed)


def check_signature(message: bytes, expected: bytes) -> None:
    """Raises SaslError unless `message` carries the signature that only who knows the password can make."""
    fields = _fields(message)
    if "e" in fields:
        raise SaslError(f"the server refused the SCRAM proof: {fields['e']}")
    try:
        signature = b64decode(fields["v"], validate=True)
    except (KeyError, ValueError) as error:
        raise SaslError("the server's SCRAM signature is missing") from error
    if not hmac.compare_digest(signature, expected):
        raise SaslError("the server's SCRAM signature is wrong: it does not know the password")


def prepared(text: str) -> str:
    """SASLprep (RFC 4013): the same name or password, however it was typed.

    Text that SASLprep forbids is used as it is: the server that accepted it did no better.
    """
    if text.isascii():
        return text
    mapped = (" " if stringprep.in_table_c12(c) else c for c in text if not stringprep.in_table_b1(c))
    normal = unicodedata.normalize("NFKC", "".join(mapped))
    return text if any(_prohibited(c) for c in normal) else normal


def _prohibited(character: str) -> bool:
    tables = (
        stringprep.in_table_c12,
        stringprep.in_table_c21_c22,
        stringprep.in_table_c3,
        stringprep.in_table_c4,
        stringprep.in_table_c5,
        stringprep.in_table_c6,
        stringprep.in_table_c7,
        stringprep.in_table_c8,
        stringprep.in_table_c9,
    )
    return any(table(character) for table in tables)


def _escaped(name: str) -> str:
    return name.replace("=", "=3D").replace(",", "=2C")  # RFC 5802 section 5.1, saslname


def _fields(message: bytes) -> dict[str, str]:
    try:
        pairs = [part.partition("=") for part in message.decode().split(",")]
    except UnicodeDecodeError as error:
        raise SaslError("the server's SCRAM message is not UTF-8") from error
    return {name: value for name, _, value in pairs}


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, hashlib.sha256).digest()
