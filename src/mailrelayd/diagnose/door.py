"""One port of one server: what is said there first, and TLS handshakes of every kind; never a login.

The program's own clients hide what an examination needs: the bytes in front of a failed handshake, the certificates
behind it. So the handshake is made in memory here, between a plain connection and OpenSSL.
"""

from __future__ import annotations

import asyncio
import ssl
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, Final

from mailrelayd.diagnose.facts import Door, Handshake
from mailrelayd.dial import Address, connected
from mailrelayd.outbound.answers import AnswerReader, Desync, printable, shown

VERSIONS: Final = {
    "1.0": ssl.TLSVersion.TLSv1,
    "1.1": ssl.TLSVersion.TLSv1_1,
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}
KEPT: Final = 2048  # of the first bytes
REST: Final = 5.0  # seconds for the rest of a line that has begun
_PIECE: Final = 64 * 1024
_LIMIT: Final = 64 * 1024  # octets of an answer before TLS
_RECORD: Final = (0x15, 0x16)  # first octet of what a TLS server may say first (RFC 8446 section 5.1)


class SpeaksPlain(Exception):  # noqa: N818 - what is the case
    """The server answered the handshake in plain text: `heard`."""

    def __init__(self, heard: bytes) -> None:
        super().__init__(f"the server answered in plain text: {shown(heard)}")
        self.heard = heard


class NoStartTls(Exception):  # noqa: N818 - what is the case
    """The conversation in front of STARTTLS did not lead there."""

    def __init__(self, text: str, *, missing: bool = False) -> None:
        super().__init__(text)
        self.missing = missing  # the server is fine, and has no STARTTLS


class NotOffered(Exception):  # noqa: N818 - what is the case
    """Our own OpenSSL cannot make such a handshake."""


async def first_words(door: Door, address: Address, seconds: float) -> tuple[bytes, bool]:
    """What the server says without being asked within `seconds`, and whether it closed the connection instead.

    Raises OSError, TimeoutError where it cannot be connected to.
    """
    async with _connection(door, address) as (reader, _):
        try:
            async with asyncio.timeout(seconds):
                first = await reader.read(KEPT)
        except TimeoutError:
            return b"", False
        except OSError:
            return b"", True
        return await _line(first, lambda: reader.read(KEPT)), not first


async def _line(begun: bytes, more: Callable[[], Awaitable[bytes]]) -> bytes:
    """A line that has `begun`, up to KEPT octets of it, as far as it comes: a greeting may arrive in pieces."""
    heard = begun
    with suppress(OSError):  # TimeoutError is one
        async with asyncio.timeout(REST):
            while begun and b"\n" not in heard and len(heard) < KEPT and (data := await more()):
                heard += data
    return heard[:KEPT]


async def handshake(door: Door, address: Address, context: ssl.SSLContext, *, listen: bool = False) -> Handshake:
    """Make one, in the way of the door's level. `listen`: wait for the server's first words behind it.

    Raises ssl.SSLError, SpeaksPlain, NoStartTls, NotOffered, OSError, TimeoutError.
    """
    async with _connection(door, address) as (reader, writer), asyncio.timeout(door.answering):
        if door.level == "starttls":
            await (_smtp_starttls if door.protocol == "smtp" else _imap_starttls)(door, reader, writer)
        line = _Secure(reader, writer, context, door.server_name)
        await line.secure()
        made = line.made()
        if listen:
            try:
                return replace(made, heard=await _line(await line.read(), line.read))
            except ssl.SSLError:  # such as an alert that asks for our certificate
                return made
            except TimeoutError:
                raise
            except OSError:
                return replace(made, closed=True)
        return made


def context_for(*versions: str) -> ssl.SSLContext:
    """For finding out whether a server takes one of these: it offers no other and believes every certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that they are broken is why we ask
        context.set_ciphers("ALL:!aNULL:@SECLEVEL=0")  # else OpenSSL 3 refuses 1.0 and 1.1 itself
        context.minimum_version, context.maximum_version = VERSIONS[versions[0]], VERSIONS[versions[-1]]
    return context


@asynccontextmanager
async def _connection(door: Door, address: Address) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    sock = await connected(address, door.connecting)
    reader, writer = await asyncio.open_connection(sock=sock)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)  # the socket is closed by the loop's next pass


class _Secure:
    """TLS in memory on a plain connection."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext, name: str
    ) -> None:
        self._reader, self._writer = reader, writer
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=name)
        self._first = b""

    async def secure(self) -> None:
        """The handshake. Raises as `handshake` does."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._feed()
            except ssl.SSLError as error:
                if not self._first and not self._out.pending:
                    raise NotOffered(error.reason or str(error)) from error
                with suppress(OSError):
                    await self._flush()  # the alert, for the server's log
                raise
            else:
                await self._flush()
                return

    async def read(self) -> bytes:
        """What comes next, decrypted; b"" at the end."""
        while True:
            try:
                return self._tls.read(KEPT)
            except ssl.SSLWantReadError:
                await self._flush()
                await self._feed()

    def made(self) -> Handshake:
        version, cipher = self._tls.version() or "", self._tls.cipher()
        return Handshake(_number(version), cipher[0] if cipher else "", tuple(_chain(self._tls)))

    async def _feed(self) -> None:
        data = await self._reader.read(_PIECE)
        if not data:
            raise ConnectionResetError("the server closed the connection")
        if not self._first and data[0] not in _RECORD:
            raise SpeaksPlain(await _line(data, lambda: self._reader.read(KEPT)))
        self._first = self._first or data
        self._in.write(data)

    async def _flush(self) -> None:
        if data := self._out.read():
            self._writer.write(data)
            await self._writer.drain()


def _number(version: str) -> str:
    return {"TLSv1": "1.0"}.get(version, version.removeprefix("TLSv"))


def _chain(tls: ssl.SSLObject) -> list[bytes]:
    """Every certificate the server sent; only its own where this Python does not tell the others."""
    told: Any = getattr(tls, "get_unverified_chain", None)  # public from 3.13 on
    if told is not None:
        return list(told() or ())
    inner: Any = getattr(getattr(tls, "_sslobj", None), "get_unverified_chain", None)
    if inner is not None:
        return [ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in inner() or ()]
    own = tls.getpeercert(binary_form=True)
    return [own] if own else []


async def _smtp_starttls(door: Door, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """RFC 3207. Raises NoStartTls, OSError."""
    answers = AnswerReader()

    async def heard(asked: str, good: int) -> list[str]:
        while True:
            try:
                answer = answers.next()
            except Desync as error:
                raise NoStartTls(str(error)) from error
            if answer is not None:
                break
            answers.feed(await _more(reader, asked))
        code, lines = answer
        if code != good:
            raise NoStartTls(printable(f"answer to {asked}: {code} {' '.join(lines)}"))
        return lines

    await heard("the connection", 220)
    writer.write(f"EHLO {door.hello}\r\n".encode())
    offered = await heard("EHLO", 250)
    if "STARTTLS" not in (line.strip().upper() for line in offered[1:]):
        raise NoStartTls("the server offers no STARTTLS", missing=True)
    writer.write(b"STARTTLS\r\n")
    await heard("STARTTLS", 220)


async def _imap_starttls(door: Door, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """RFC 9051 section 6.2.1. Raises NoStartTls, OSError."""
    rest = b""

    async def line(asked: str) -> bytes:
        nonlocal rest
        while b"\n" not in rest:
            rest += await _more(reader, asked)
            if len(rest) > _LIMIT:
                raise NoStartTls(f"answer to {asked} without end")
        found, _, rest = rest.partition(b"\n")
        return found.strip()

    greeting = await line("the connection")
    if not greeting.upper().startswith(b"* OK"):
        raise NoStartTls(f"answer to the connection: {shown(greeting)}")
    for tag, command in ((b"d1", b"CAPABILITY"), (b"d2", b"STARTTLS")):
        writer.write(tag + b" " + command + b"\r\n")
        offered = b""
        while not (answer := await line(command.decode())).startswith(tag + b" "):
            offered += b" " + answer
            if len(offered) > _LIMIT:
                raise NoStartTls(f"answer to {command.decode()} without end")
        if tag == b"d1" and b"STARTTLS" not in offered.upper().split():
            raise NoStartTls("the server offers no STARTTLS", missing=True)
        if not answer.upper().startswith(tag.upper() + b" OK"):
            raise NoStartTls(f"answer to {command.decode()}: {shown(answer)}")


async def _more(reader: asyncio.StreamReader, asked: str) -> bytes:
    data = await reader.read(_PIECE)
    if not data:
        raise NoStartTls(f"the server closed the connection instead of an answer to {asked}")
    return data
