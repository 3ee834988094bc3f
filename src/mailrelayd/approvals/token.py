"""The token that ties an answer to one copy of one request, sent to one person.

44 characters of RFC 4648's base32 in lower case, 220 bits: version (4), id of the copy (60), expiry in minutes since
the epoch (26), HMAC-SHA256 over all of that and the node and the approver, cut to its first 128 bits; two zero bits
fill up. It fits behind a plus sign into a local part, and survives lower-casing and folding. What it says is no secret:
what counts is that nobody without the secret can make one.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass

from mailrelayd.outbound.addresses import folded

LENGTH = 44  # characters
VERSION = 1
SMALLEST_SECRET = 32  # bytes
MAX_COPY = 2**60 - 1
MAX_MINUTE = 2**26 - 1  # the year 2097

_MAC = 16  # bytes; 128 bits
_FILLING, _FILLED = "AAAA", 20  # bits: base32 comes in groups of eight characters
_CANDIDATE = re.compile(r"(?<![A-Za-z0-9])[A-Za-z2-7]{44}(?![A-Za-z0-9])", re.ASCII)


@dataclass(frozen=True, slots=True)
class Token:
    """A well-formed token. Whether it is genuine only `verify` tells."""

    copy: int  # leads to the registry entry
    minute: int  # of its expiry, since the epoch
    mac: bytes

    @property
    def expires_at(self) -> float:
        """Seconds since the epoch: from then on it opens nothing."""
        return self.minute * 60.0

    def __str__(self) -> str:
        return _text(self.copy, self.minute, self.mac)


def issue(secret: bytes, *, node: str, copy: int, approver: str, expires_at: float) -> Token:
    """A new token; `expires_at` is rounded up to a whole minute. Raises ValueError for what does not fit into it."""
    minute = -int(-expires_at // 60)
    if len(secret) < SMALLEST_SECRET:
        raise ValueError(f"a secret has at least {SMALLEST_SECRET} bytes")
    if not 0 <= copy <= MAX_COPY or not 0 <= minute <= MAX_MINUTE:
        raise ValueError("an id has at most 60 bits, an expiry at most 26")
    return Token(copy, minute, _mac(secret, node, copy, approver, minute))


def parse(text: str) -> Token | None:
    """The token that a text of 44 characters is; None where it is none, or of a version that is not known."""
    if len(text) != LENGTH or not text.isascii():
        return None
    try:
        number = int.from_bytes(base64.b32decode(text.upper() + _FILLING)) >> _FILLED
    except ValueError:
        return None
    if number & 3 or number >> 216 != VERSION:
        return None
    number >>= 2
    mac = (number & (1 << 128) - 1).to_bytes(_MAC)
    return Token(copy=number >> 154 & MAX_COPY, minute=number >> 128 & MAX_MINUTE, mac=mac)


def verify(token: Token, secrets: Iterable[bytes], *, node: str, approver: str) -> bool:
    """Whether one of our secrets issued it on this node to this approver; no word about its expiry.

    Every secret is tried, in constant time each, so that the time tells nothing about which one it was.
    """
    genuine = False
    for secret in secrets:
        mac = _mac(secret, node, token.copy, approver, token.minute)
        genuine |= hmac.compare_digest(mac, token.mac)
    return genuine


def find(text: str) -> tuple[Token, ...]:
    """Every different token in a text, in the order in which they stand there."""
    found = (parse(match[0]) for match in _CANDIDATE.finditer(text))
    return tuple(dict.fromkeys(token for token in found if token is not None))


def _mac(secret: bytes, node: str, copy: int, approver: str, minute: int) -> bytes:
    # Each part with its length in front: no two different sets of parts give the same bytes.
    names = (b"mailrelayd approval", bytes([VERSION]), node.encode(), folded(approver).encode())
    parts = (*names, copy.to_bytes(8), minute.to_bytes(4))
    data = b"".join(len(part).to_bytes(4) + part for part in parts)
    return hmac.digest(secret, data, hashlib.sha256)[:_MAC]


def _text(copy: int, minute: int, mac: bytes) -> str:
    number = (((VERSION << 60 | copy) << 26 | minute) << 128 | int.from_bytes(mac)) << 2
    return base64.b32encode((number << _FILLED).to_bytes(30)).decode().lower()[:LENGTH]
