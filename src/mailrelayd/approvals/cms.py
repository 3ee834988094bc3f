"""The text inside an S/MIME mail that is signed without being readable by itself (RFC 8551 section 3.5.2).

Only as much BER (X.690) as leads there is understood: SignedData (RFC 5652 section 5) with its content in one or more
octet strings, of definite or indefinite length. The signature is not checked: it is no reason to believe more than of
any other mail.
"""

from __future__ import annotations

_SEQUENCE, _SET, _INTEGER, _OID, _OCTETS, _OCTETS_IN_PIECES, _CONTENT = 0x30, 0x31, 0x02, 0x06, 0x04, 0x24, 0xA0
_SIGNED_DATA = bytes.fromhex("2a864886f70d010702")
_DATA = bytes.fromhex("2a864886f70d010701")
MAX_PIECES = 4_000


class _OtherError(Exception):
    """It is something else, or broken."""


def signed_content(data: bytes) -> bytes | None:
    """What was signed; None where that is not what this is."""
    try:
        at, _ = _header(data, 0, _SEQUENCE)
        at = _after(data, at, _OID, _SIGNED_DATA)
        at, _ = _header(data, at, _CONTENT)
        at, _ = _header(data, at, _SEQUENCE)
        at = _after(data, at, _INTEGER)
        at = _after(data, at, _SET)
        at, _ = _header(data, at, _SEQUENCE)
        at = _after(data, at, _OID, _DATA)
        at, _ = _header(data, at, _CONTENT)
        return _octets(data, at)
    except (_OtherError, IndexError):
        return None


def _header(data: bytes, at: int, tag: int) -> tuple[int, int]:
    """Where the content of an element begins, and its length; -1: indefinite."""
    if data[at] != tag:
        raise _OtherError
    length = data[at + 1]
    at += 2
    if length == 0x80:
        return at, -1
    if length > 0x80:
        size = length & 0x7F
        if size > 4:
            raise _OtherError
        length = int.from_bytes(data[at : at + size])
        at += size
    if at + length > len(data):
        raise _OtherError
    return at, length


def _after(data: bytes, at: int, tag: int, content: bytes | None = None) -> int:
    start, length = _header(data, at, tag)
    if length < 0 or (content is not None and data[start : start + length] != content):
        raise _OtherError
    return start + length


def _octets(data: bytes, at: int) -> bytes:
    if data[at] == _OCTETS:
        start, length = _header(data, at, _OCTETS)
        if length < 0:
            raise _OtherError
        return data[start : start + length]
    at, length = _header(data, at, _OCTETS_IN_PIECES)
    end = len(data) if length < 0 else at + length
    pieces: list[bytes] = []
    while at < end and data[at : at + 2] != b"\0\0":
        if len(pieces) == MAX_PIECES:
            raise _OtherError
        start, size = _header(data, at, _OCTETS)
        if size < 0:
            raise _OtherError
        pieces.append(data[start : start + size])
        at = start + size
    return b"".join(pieces)
