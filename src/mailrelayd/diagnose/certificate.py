"""What a certificate says (RFC 5280), read from its DER encoding without believing any of it. Pure."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from mailrelayd.outbound.answers import printable

LIMIT: Final = 100 * 1024
"""Octets; a certificate with a hundred names has some four thousand."""
NAMES: Final = 1000

_SEQUENCE, _SET, _OID, _OCTETS, _UTC_TIME, _TIME = 0x30, 0x31, 0x06, 0x04, 0x17, 0x18
_VERSION, _EXTENSIONS = 0xA0, 0xA3
_DNS_NAME, _IP_ADDRESS = 0x82, 0x87
_COMMON_NAME, _ORGANIZATION = bytes.fromhex("550403"), bytes.fromhex("55040a")
_ALT_NAMES = bytes.fromhex("551d11")  # subjectAltName
_UTF16 = 0x1E  # BMPString


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate. Texts are printable."""

    subject: str  # common name, else organisation, else ""
    issuer: str
    names: tuple[str, ...]  # host names and addresses it is valid for
    not_before: datetime
    not_after: datetime
    self_issued: bool  # subject and issuer are the same: a root, or self-signed
    sha256: str  # hexadecimal, what tls.fingerprint takes

    def days_left(self, now: float) -> int:
        """Whole days until it ends; negative once it has. `now` in seconds since the epoch."""
        return int((self.not_after.timestamp() - now) // 86_400)


def parsed(der: bytes) -> Certificate | None:
    """The certificate; None where the bytes are not one."""
    try:
        return _parsed(der)
    except (ValueError, IndexError, OverflowError, StopIteration):
        return None


def _parsed(der: bytes) -> Certificate:
    if len(der) > LIMIT:
        raise ValueError("too large")
    outer = next(_elements(der))
    fields = list(_elements(_expect(next(_elements(_expect(outer, _SEQUENCE))), _SEQUENCE)))
    if fields[0][0] == _VERSION:
        del fields[0]
    _serial, _algorithm, issuer, validity, subject = fields[:5]
    begin, end = list(_elements(_expect(validity, _SEQUENCE)))[:2]
    extensions = next((content for tag, content in fields[5:] if tag == _EXTENSIONS), b"")
    return Certificate(
        subject=_name(_expect(subject, _SEQUENCE)),
        issuer=_name(_expect(issuer, _SEQUENCE)),
        names=tuple(_alt_names(extensions)),
        not_before=_moment(*begin),
        not_after=_moment(*end),
        self_issued=subject == issuer,
        sha256=hashlib.sha256(der).hexdigest(),
    )


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each element. Raises ValueError, IndexError."""
    at = 0
    while at < len(data):
        tag, length = data[at], data[at + 1]
        at += 2
        if length & 0x80:
            octets = length & 0x7F
            if not 0 < octets <= 4:
                raise ValueError("no definite length")
            length = int.from_bytes(data[at : at + octets], "big")
            at += octets
        if at + length > len(data):
            raise ValueError("cut off")
        yield tag, data[at : at + length]
        at += length


def _expect(element: tuple[int, bytes], tag: int) -> bytes:
    if element[0] != tag:
        raise ValueError("not what stands there in a certificate")
    return element[1]


def _name(content: bytes) -> str:
    """The common name, else the organisation."""
    found: dict[bytes, str] = {}
    for tag, group in _elements(content):
        for _, pair in _elements(group) if tag == _SET else ():
            (_, kind), (text_tag, text) = list(_elements(pair))[:2]
            found[kind] = printable(text.decode("utf-16-be" if text_tag == _UTF16 else "utf-8", "backslashreplace"))
    return found.get(_COMMON_NAME) or found.get(_ORGANIZATION, "")


def _moment(tag: int, content: bytes) -> datetime:
    text = content.decode("ascii")
    if tag == _UTC_TIME:  # RFC 5280 section 4.1.2.5.1: below 50 it is this century
        text = ("20" if int(text[:2]) < 50 else "19") + text
    elif tag != _TIME:
        raise ValueError("no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _alt_names(extensions: bytes) -> Iterator[str]:
    for _, listed in _elements(extensions):
        for _, extension in _elements(listed):
            parts = list(_elements(extension))
            if parts[0] == (_OID, _ALT_NAMES):
                general = next(_elements(_expect(parts[-1], _OCTETS)))
                yield from _general_names(_expect(general, _SEQUENCE))


def _general_names(content: bytes) -> Iterator[str]:
    for count, (tag, name) in enumerate(_elements(content)):
        if count == NAMES:
            return
        if tag == _DNS_NAME:
            yield printable(name.decode("ascii", "backslashreplace"))
        elif tag == _IP_ADDRESS and len(name) in (4, 16):
            yield str(ipaddress.ip_address(name))
