"""An IMAP server that does exactly what a test says, and remembers what it was told."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Fault = Callable[["Conversation"], Awaitable[None]]

BEFORE_LOGIN = "IMAP4rev1 SASL-IR AUTH=PLAIN AUTH=XOAUTH2 AUTH=OAUTHBEARER"
AFTER_LOGIN = "IMAP4rev1 UIDPLUS MOVE IDLE"
DATE = "17-Jul-1996 02:44:25 -0700"
LONGEST = 1 << 20  # octets in a line of a client


@dataclass
class Script:
    """How the server behaves.

    `answers` maps a verb ("SELECT", "UID FETCH", or "GREETING", "DONE") to what it says, in turn, the last for ever;
    <tag> stands for the command's tag, and a callable takes over the conversation. `mails` are what SELECT, UID SEARCH
    and UID FETCH tell of where `answers` says nothing.
    """

    answers: Mapping[str, list[str | Fault]] = field(default_factory=dict)
    mails: dict[int, bytes] = field(default_factory=dict)
    capability: str = BEFORE_LOGIN
    after_login: str = AFTER_LOGIN
    preauth: bool = False
    starttls: ssl.SSLContext | None = None
    implicit: ssl.SSLContext | None = None


DEFAULTS: dict[str, str] = {
    "LOGIN": "<tag> OK welcome",
    "LIST": '* LIST (\\HasNoChildren) "/" INBOX\r\n<tag> OK listed',
    "CREATE": "<tag> OK made",
    "NOOP": "<tag> OK nothing",
    "UID STORE": "<tag> OK stored",
    "UID EXPUNGE": "<tag> OK gone",
    "UID MOVE": "<tag> OK moved",
    "UID COPY": "<tag> OK copied",
    "IDLE": "+ idling",
    "DONE": "<tag> OK idle no more",
    "LOGOUT": "* BYE then\r\n<tag> OK bye",
}


class Gone(Exception):  # noqa: N818 - no error: the conversation is over
    """The client has closed the connection, or the script wants it closed."""


class Conversation:
    """One connection: what was read, in order and without tags, and the means to answer."""

    def __init__(self, server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server = server
        self.script = server.script
        self.reader = reader
        self.writer = writer
        self.lines: list[str] = []
        self.tag = ""
        self.tls = server.script.implicit is not None
        self.logged_in = server.script.preauth

    async def line(self) -> bytes:
        """A line of the client, with its literals (RFC 3501 section 4.3) inside and without the last CRLF."""
        whole = b""
        while True:
            try:
                part = await self.reader.readuntil(b"\r\n")
            except asyncio.IncompleteReadError as error:
                raise Gone from error
            whole += part[:-2]
            found = re.search(rb"\{(\d+)\}\Z", part[:-2])
            if found is None:
                return whole
            await self.say("+ go on")
            whole += b"\r\n" + await self.reader.readexactly(int(found[1]))

    async def say(self, text: str | bytes) -> None:
        """Say bytes as they are, or a text with <tag> filled in and CRLF behind it."""
        self.writer.write(text.replace("<tag>", self.tag).encode() + b"\r\n" if isinstance(text, str) else text)
        await self.writer.drain()
        await asyncio.sleep(0)  # drain itself gives nobody else a turn as long as there is room
        if self.writer.transport.is_closing():
            raise Gone

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        self.writer.transport.abort()

    # The conversation

    async def run(self) -> None:
        await self.answer("GREETING", f"* {'PREAUTH' if self.script.preauth else 'OK'} scripted IMAP4rev1")
        while True:
            tag, _, rest = (await self.line()).decode("utf-8", "surrogateescape").partition(" ")
            self.lines.append(rest)
            self.tag = tag
            words = rest.split(" ")
            verb = " ".join(words[: 2 if words[0] == "UID" else 1])
            await self._do(verb, words)
            if verb == "LOGOUT":
                raise Gone

    async def _do(self, verb: str, words: list[str]) -> None:
        match verb:
            case "CAPABILITY":
                offers = self.script.after_login if self.logged_in else self.script.capability
                if self.script.starttls is not None and not self.tls:
                    offers += " STARTTLS LOGINDISABLED"
                await self.answer(verb, f"* CAPABILITY {offers}\r\n<tag> OK that is all")
            case "STARTTLS" if "STARTTLS" not in self.script.answers:
                assert self.script.starttls is not None
                await self.say("<tag> OK begin")
                await self.writer.start_tls(self.script.starttls)
                self.tls = True
            case "AUTHENTICATE":
                if len(words) == 2 and verb not in self.script.answers:
                    await self.say("+ ")
                    self.lines.append((await self.line()).decode())
                await self.answer(verb, "<tag> OK welcome")
                self.logged_in = True
            case "LOGIN":
                await self.answer(verb)
                self.logged_in = True
            case "IDLE":
                if "<tag>" not in await self.answer(verb):
                    self.lines.append((await self.line()).decode())
                    await self.answer("DONE")
            case "SELECT" | "EXAMINE":
                count = len(self.script.mails)
                opened = f"* {count} EXISTS\r\n* OK [UIDVALIDITY 7] valid\r\n* OK [UIDNEXT 1000] next"
                mode = "READ-WRITE" if verb == "SELECT" else "READ-ONLY"
                await self.answer(verb, f"{opened}\r\n<tag> OK [{mode}] open")
            case "UID SEARCH":
                found = " ".join(str(uid) for uid in self.script.mails)
                await self.answer(verb, f"* SEARCH {found}\r\n<tag> OK found")
            case "UID FETCH" if verb not in self.script.answers:
                await self.fetch([int(uid) for uid in words[2].split(",")], " ".join(words[3:]))
            case _:
                await self.answer(verb)

    async def fetch(self, uids: list[int], items: str) -> None:
        """Answer a UID FETCH from `mails`."""
        part = re.search(r"BODY\.PEEK\[([^\]]*)\]<(\d+)\.(\d+)>", items)
        assert part is not None
        begin, count = int(part[2]), int(part[3])
        for index, (uid, mail) in enumerate(self.script.mails.items()):
            if uid not in uids:
                continue
            octets = (mail.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if part[1] else mail)[begin : begin + count]
            described = f' RFC822.SIZE {len(mail)} INTERNALDATE "{DATE}" FLAGS (\\Seen)' if part[1] else ""
            head = f"* {index + 1} FETCH (UID {uid}{described} BODY[{part[1]}]<{begin}> {{{len(octets)}}}\r\n"
            await self.say(head.encode() + octets + b")\r\n")
        await self.say("<tag> OK fetched")

    async def answer(self, verb: str, usual: str = "") -> str:
        """Give the next scripted answer to `verb`, or the usual one; returns it where it is a text."""
        scripted = self.script.answers.get(verb) or [usual or DEFAULTS.get(verb, "<tag> BAD unknown")]
        chosen = scripted[min(self.server.turn(verb), len(scripted) - 1)]
        if not isinstance(chosen, str):
            await chosen(self)
            return ""
        await self.say(chosen)
        return chosen


class Server:
    """Listens on a free port of 127.0.0.1; one `Conversation` per connection, in `conversations`."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.port = 0
        self.conversations: list[Conversation] = []
        self._turns: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def turn(self, verb: str) -> int:
        """How often `verb` was answered before, over all connections."""
        self._turns[verb] = self._turns.get(verb, -1) + 1
        return self._turns[verb]

    @property
    def open(self) -> int:
        """How many connections there are right now."""
        return len(self._tasks)

    @property
    def lines(self) -> list[str]:
        return [line for conversation in self.conversations for line in conversation.lines]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        conversation = Conversation(self, reader, writer)
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
async def serving(script: Script) -> AsyncIterator[Server]:
    """Run a server as long as the block lasts."""
    server = Server(script)
    listener = await asyncio.start_server(
        server.serve,
        "127.0.0.1",
        0,
        limit=LONGEST,
        ssl=script.implicit,
        ssl_handshake_timeout=5 if script.implicit else None,
    )
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        await server.end()


# Faults: things a server does instead of answering.


def says(text: str) -> Fault:
    """Say this and wait for what the client does."""

    async def act(conversation: Conversation) -> None:
        await conversation.say(text)
        await silence(conversation)

    return act


def last_words(text: str | bytes) -> Fault:
    """Say this, then close."""

    async def act(conversation: Conversation) -> None:
        await conversation.say(text)
        raise Gone

    return act


async def hang_up(conversation: Conversation) -> None:
    raise Gone


async def reset(conversation: Conversation) -> None:
    conversation.reset()
    raise Gone


async def silence(conversation: Conversation) -> None:
    while True:  # reads on, so that only the client ends it
        if not await conversation.reader.read(65536):
            raise Gone


async def drip(conversation: Conversation) -> None:
    """An answer that never ends, a byte at a time."""
    while True:
        await conversation.say(b"x")
        await asyncio.sleep(0.02)


async def endless_line(conversation: Conversation) -> None:
    await conversation.say(b"* OK ")
    while True:
        await conversation.say(b"x" * 65536)


async def endless_lines(conversation: Conversation) -> None:
    while True:
        await conversation.say(b"* 1 FETCH (FLAGS (\\Seen))\r\n" * 2000)


async def huge_literal(conversation: Conversation) -> None:
    await conversation.say(b"* 1 FETCH (UID 1 BODY[]<0> {99999999999}\r\n")
    while True:
        await conversation.say(b"x" * 65536)


async def short_literal(conversation: Conversation) -> None:
    """Fewer octets than announced: what follows is swallowed, and the end never comes."""
    await conversation.say(b"* 1 FETCH (UID 1 BODY[]<0> {1000}\r\ntoo little)\r\n")
    await conversation.say("<tag> OK fetched")
    await silence(conversation)


async def junk(conversation: Conversation) -> None:
    await conversation.say(b"\x00\xff\x1b[2J nonsense\r\n")
    await silence(conversation)
