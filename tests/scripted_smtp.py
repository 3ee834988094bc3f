"""An SMTP server that does exactly what a test says, and remembers what it was told."""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Fault = Callable[["Conversation"], Awaitable[None]]


@dataclass
class Script:
    """How the server behaves.

    `answers` maps a verb (or "GREETING", "BODY") to the answers it gives, in turn, the last one for ever; a callable in
    the place of an answer takes over the conversation.
    """

    answers: Mapping[str, list[str | Fault]] = field(default_factory=dict)
    extensions: tuple[str, ...] = ("PIPELINING", "SIZE 10000000", "8BITMIME", "SMTPUTF8")
    after_tls: tuple[str, ...] = ("AUTH PLAIN LOGIN CRAM-MD5",)
    starttls: ssl.SSLContext | None = None
    implicit: ssl.SSLContext | None = None
    login: Callable[[Conversation, str], Awaitable[bool]] | None = None
    receive_buffer: int | None = None
    obeys: tuple[bool, ...] = ()  # takes chunks for nobody for commands: False, outside of a transaction; True, inside


DEFAULTS: dict[str, str] = {
    "GREETING": "220 scripted ESMTP",
    "RSET": "250 2.0.0 flushed",
    "MAIL": "250 2.1.0 sender ok",
    "RCPT": "250 2.1.5 recipient ok",
    "DATA": "354 go ahead",
    "BODY": "250 2.0.0 taken",
    "BDAT": "250 2.0.0 chunk",
    "QUIT": "221 2.0.0 bye",
    "HELO": "250 scripted",
    "AUTH": "235 2.7.0 welcome",
}


class Gone(Exception):  # noqa: N818 - no error: the conversation is over
    """The client has closed the connection, or the script wants it closed."""


class Conversation:
    """One connection: what was read, in order, and the means to answer."""

    def __init__(self, server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server = server
        self.script = server.script
        self.reader = reader
        self.writer = writer
        self.lines: list[str] = []
        self.bodies: list[bytes] = []
        self.tls = server.script.implicit is not None
        self.segments: list[bytes] = []
        self.sender = self.accepted = False  # of the transaction that is open
        self.chunks: bytes = b""
        self._buffer = b""

    async def line(self) -> str:
        text = (await self._until(b"\r\n"))[:-2].decode("utf-8", "replace")
        self.lines.append(text)
        return text

    async def body(self) -> bytes:
        """Up to the last dot, as it came, with the dots still stuffed."""
        data = b"\r\n"
        while not data.endswith(b"\r\n.\r\n"):
            data += await self._until(b"\r\n")
        return data[2:-3]

    async def say(self, text: str | bytes) -> None:
        self.writer.write(text.encode() + b"\r\n" if isinstance(text, str) else text)
        await self.writer.drain()

    async def close(self) -> None:
        raise Gone

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        self.writer.transport.abort()

    async def start_tls(self, context: ssl.SSLContext) -> None:
        await self.writer.start_tls(context)
        self.tls = True
        self._buffer = b""

    async def chunk(self, size: int) -> bytes:
        """So many octets."""
        while len(self._buffer) < size:
            await self._more()
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return found

    async def _more(self) -> None:
        data = await self.reader.read(65536)
        if not data:
            raise Gone
        self.segments.append(data)
        self._buffer += data

    async def _until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            await self._more()
        found, _, self._buffer = self._buffer.partition(end)
        return found + end

    # The conversation

    async def run(self) -> None:
        await self.answer("GREETING")
        while True:
            verb = (await self.line()).partition(" ")[0].upper()
            if verb == "EHLO":
                await self._ehlo()
            elif verb == "STARTTLS":
                await self._starttls()
            elif verb == "AUTH" and self.script.login is not None:
                accepted = await self.script.login(self, self.lines[-1])
                await self.say("235 2.7.0 welcome" if accepted else "535 5.7.8 wrong user or password")
            elif verb == "BDAT" and "CHUNKING" in self.script.extensions:
                await self._bdat()
            else:
                code = await self.answer(verb)
                if verb in ("RSET", "MAIL"):
                    self.sender, self.accepted, self.chunks = verb == "MAIL" and code[:1] == "2", False, b""
                elif verb == "RCPT":
                    self.accepted = self.accepted or (self.sender and code[:1] == "2")
                if code == "354":
                    self.bodies.append(await self.body())
                    await self.answer("BODY")
                if verb == "QUIT":
                    raise Gone

    async def _bdat(self) -> None:
        """RFC 3030: chunks are collected, and the last one is answered like a body."""
        _, size, *last = self.lines[-1].split()
        if self.accepted or self.sender not in self.script.obeys:
            self.chunks += await self.chunk(int(size))
        if not self.accepted:
            await self.say("554 5.5.1 no valid recipients")
        elif not last:
            self.accepted = (await self.answer("BDAT"))[:1] == "2"
        else:
            self.bodies.append(self.chunks)
            self.accepted, self.chunks = False, b""
            await self.answer("BODY")

    async def answer(self, verb: str) -> str:
        """Give the next scripted answer to `verb`; returns its code."""
        turn = self.server.turn(verb)
        scripted = self.script.answers.get(verb) or [DEFAULTS.get(verb, "502 5.5.1 unknown")]
        chosen = scripted[min(turn, len(scripted) - 1)]
        if not isinstance(chosen, str):
            await chosen(self)
            return ""
        await self.say(chosen)
        return chosen[:3]

    async def _ehlo(self) -> None:
        if "EHLO" in self.script.answers:
            await self.answer("EHLO")
            return
        offers = list(self.script.extensions)
        if self.tls:
            offers += self.script.after_tls
        elif self.script.starttls is not None:
            offers.append("STARTTLS")
        lines = ["scripted", *offers]
        await self.say("\r\n".join(f"250{'-' if i < len(lines) - 1 else ' '}{line}" for i, line in enumerate(lines)))

    async def _starttls(self) -> None:
        if "STARTTLS" in self.script.answers:
            await self.answer("STARTTLS")
            return
        assert self.script.starttls is not None
        await self.say("220 go ahead")
        await self.start_tls(self.script.starttls)


class Server:
    """Listens on a free port of 127.0.0.1; one `Conversation` per connection, in `conversations`."""

    def __init__(self, script: Script, kind: type[Conversation] = Conversation) -> None:
        self.script = script
        self._kind = kind
        self.port = 0
        self.conversations: list[Conversation] = []
        self._turns: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def turn(self, verb: str) -> int:
        """How often `verb` was answered before, over all connections."""
        self._turns[verb] = self._turns.get(verb, -1) + 1
        return self._turns[verb]

    @property
    def lines(self) -> list[str]:
        return [line for conversation in self.conversations for line in conversation.lines]

    @property
    def bodies(self) -> list[bytes]:
        return [body for conversation in self.conversations for body in conversation.bodies]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        conversation = self._kind(self, reader, writer)
        self.conversations.append(conversation)
        try:
            await conversation.run()
        except (Gone, OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            if conversation.tls:
                writer.transport.abort()
            writer.close()

    async def end(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for conversation in self.conversations:
            if not conversation.tls:
                conversation.writer.transport.abort()
        await asyncio.sleep(0)  # the transports take leave of their sockets in the next pass


@asynccontextmanager
async def serving(script: Script, kind: type[Conversation] = Conversation) -> AsyncIterator[Server]:
    """Run a server as long as the block lasts."""
    server = Server(script, kind)
    listener = await asyncio.start_server(
        server.serve, "127.0.0.1", 0, ssl=script.implicit, ssl_handshake_timeout=5 if script.implicit else None
    )
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        await server.end()


def plain_fields(line: str) -> list[str]:
    """What an AUTH PLAIN line says: authorisation identity, user, password."""
    return b64decode(line.split(" ")[2]).decode().split("\0")


# Faults: things a server does instead of answering.


def last_words(data: bytes) -> Fault:
    """Say this, then close."""

    async def act(conversation: Conversation) -> None:
        await conversation.say(data)
        raise Gone

    return act


async def hang_up(conversation: Conversation) -> None:
    raise Gone


async def reset(conversation: Conversation) -> None:
    conversation.reset()
    raise Gone


async def silence(conversation: Conversation) -> None:
    while True:  # reads on, so that only the client's deadline ends it
        if not await conversation.reader.read(65536):
            raise Gone


async def drip(conversation: Conversation) -> None:
    """An answer that never ends, a byte at a time."""
    while True:
        await conversation.say(b"2")
        await asyncio.sleep(0.02)


async def endless_lines(conversation: Conversation) -> None:
    while True:
        await conversation.say(b"250-and another line\r\n" * 200)


async def giant_line(conversation: Conversation) -> None:
    await conversation.say(b"250 " + b"x" * 100_000)
    await silence(conversation)


async def junk(conversation: Conversation) -> None:
    await conversation.say(b"\x00\xff\x1b[2J nonsense\r\n")
    await silence(conversation)
