"""A small mailbox behind an IMAP server that misbehaves once (or as often as told), at one stage, in one way.

What it keeps is real: mails with UIDs and flags, and every command has its effect on them unless the fault is that it
has none. So an honest conversation follows each fault, and what is left in the mailbox can be judged.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

ANSWERED = (
    *("no", "bad", "bye", "close", "rst", "half", "silence", "drip", "junk", "tag", "twice", "giant", "endless"),
    *("short", "huge", "preauth", "stray"),
)
CHANGING = ("after", "uidvalidity", "expunged")
CELLS: dict[str, tuple[str, ...]] = {
    "greeting": ("no", "bad", "bye", "close", "rst", "half", "silence", "drip", "junk", "giant", "endless", "preauth"),
    "capability": (*ANSWERED, "empty", "nocaps"),
    "starttls": ("no", "bad", "bye", "close", "rst", "silence", "junk", "tag", "preauth", "inject"),
    "login": (
        "no",
        "bad",
        "bye",
        "close",
        "rst",
        "half",
        "silence",
        "drip",
        "junk",
        "tag",
        "twice",
        "giant",
        "preauth",
    ),
    "select": (*ANSWERED, *CHANGING, "lie"),
    "search": (*ANSWERED, *CHANGING, "lie"),
    "fetch": (*ANSWERED, *CHANGING, "lie"),
    "literal": (*ANSWERED, *CHANGING, "lie"),
    "store": (*ANSWERED, *CHANGING, "lie"),
    "expunge": (*ANSWERED, *CHANGING, "lie"),
    "move": (*ANSWERED, *CHANGING),
    "idle": (*ANSWERED, *CHANGING),
    "idling": ("bye", "close", "rst", "silence", "junk", "giant", "endless", "uidvalidity", "expunged", "tag", "huge"),
    "done": ("no", "bad", "bye", "close", "rst", "silence", "junk", "tag", "twice"),
}
"""Every stage and the faults that make sense there.

no, bad         that answer; the command has no effect
bye             untagged BYE, then the connection ends
close, rst      the connection ends in order, or by a reset, before the command has its effect
after           it ends after the effect, in place of the answer
half            half of the answer, then the end
silence         nothing, until the client gives up
drip            an untagged line, a byte at a time, without end
junk            binary nonsense
tag             the right answer, to another tag
twice           the right answer twice
giant, endless  a line, or lines, without end
short, huge     a literal with fewer octets than announced, or some hundred gigabytes announced
preauth         PREAUTH where it does not belong
stray           the text of another mail, unasked, in front of the right answer
uidvalidity     all mails have other UIDs from now on, those of one mail now another's, and the server says so
expunged        another client removes a mail at this moment, and the server says so
lie             OK, and nothing was done or told
nocaps, empty   neither UIDPLUS nor MOVE are offered; nothing is
inject          plain text behind the OK of STARTTLS
"""

_HUGE = 2**17
_DATE = '"21-Nov-2026 09:00:00 +0000"'
_JUNK = bytes(range(0x80, 0xC0)) + b"\x00\x16\x03\x01\r\n"
_FULL = "IMAP4rev1 SASL-IR AUTH=PLAIN UIDPLUS MOVE IDLE"


@dataclass(slots=True)
class Letter:
    """A mail in the mailbox."""

    uid: int
    data: bytes
    flags: set[str]


@dataclass
class Box:
    """The mailbox: INBOX, and the folder that mails are moved to."""

    letters: list[Letter] = field(default_factory=list)
    moved: list[Letter] = field(default_factory=list)
    uidvalidity: int = 7
    uidnext: int = 1
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def file(self, data: bytes, flags: Iterable[str] = ()) -> None:
        """A mail arrives."""
        self.letters.append(Letter(self.uidnext, data, set(flags)))
        self.uidnext += 1
        self.changed.set()

    def renumber(self) -> None:
        """The mailbox was made anew: the last mail is the first now, and each UID belongs to another."""
        self.letters.reverse()
        for number, letter in enumerate(self.letters, 1):
            letter.uid = number
        self.uidnext = len(self.letters) + 1
        self.uidvalidity += 1

    def number(self, uid: int) -> int:
        """The place of a mail, from 1."""
        return [letter.uid for letter in self.letters].index(uid) + 1

    def chosen(self, uids: str) -> list[Letter]:
        """What a set such as 3,5:9 or 7:* names."""
        last = max((letter.uid for letter in self.letters), default=0)
        found: set[int] = set()
        for part in uids.split(","):
            first, _, until = part.partition(":")
            ends = [last if end == "*" else int(end) for end in (first, until or first)]
            found |= set(range(min(ends), max(ends) + 1))
        return [letter for letter in self.letters if letter.uid in found]

    def remove(self, letters: Iterable[Letter]) -> bytes:
        """Take mails away; what a server says of it."""
        said = b""
        for letter in letters:
            said += b"* %d EXPUNGE\r\n" % self.number(letter.uid)
            self.letters.remove(letter)
        return said


@dataclass
class Plan:
    """One cell: which fault strikes where, from the `nth` time on, how often. `struck` counts."""

    stage: str
    fault: str
    nth: int = 1
    times: int = 1
    seen: int = 0
    struck: int = 0

    def __post_init__(self) -> None:
        """Refuse what could never happen."""
        if self.fault not in CELLS.get(self.stage, ()):
            raise ValueError(f"no such cell: {self.stage}:{self.fault}")

    def pick(self, stage: str) -> str | None:
        """The fault for this moment, if any."""
        if stage != self.stage:
            return None
        self.seen += 1
        if self.seen < self.nth or self.struck >= self.times:
            return None
        self.struck += 1
        return self.fault


class _Over(Exception):  # noqa: N818 - an event, not an error
    """The connection has ended."""


class Server:
    """Listens for one account. `sacrifice` is the mail that another client removes in the fault `expunged`."""

    def __init__(self, plan: Plan, *, starttls: ssl.SSLContext | None = None) -> None:
        self.plan = plan
        self.box = Box()
        self.starttls = starttls
        self.sacrifice = b""
        self.port = 0
        self.connections = 0
        self.plain_expunges = 0  # which would take along what others have marked
        self.in_clear: list[str] = []  # of what should have waited for TLS
        self._listener: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen on a free port of 127.0.0.1."""
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=2**20)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """End everything."""
        assert self._listener is not None
        self._listener.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self.connections += 1
        try:
            await _Conversation(self, reader, writer).run()
        except (_Over, OSError, EOFError, asyncio.LimitOverrunError, asyncio.CancelledError, ssl.SSLError):
            pass
        finally:
            self._open.discard(task)
            writer.transport.abort() if self.starttls else writer.close()


class _Conversation:
    """One connection."""

    def __init__(self, server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server = server
        self.box = server.box
        self.reader = reader
        self.writer = writer
        self.tag = ""
        self.tls = False
        self.logged_in = False

    async def run(self) -> None:
        await self.answer("greeting", greeting="* OK the witness's IMAP4rev1")
        while True:
            await self.command()

    async def command(self) -> None:
        line = (await self.reader.readuntil(b"\r\n"))[:-2].decode("utf-8", "surrogateescape")
        self.tag, _, rest = line.partition(" ")
        words = rest.split(" ")
        verb = " ".join(words[: 2 if words[0] == "UID" else 1]).upper()
        if self.server.starttls is not None and not self.tls and verb in ("LOGIN", "AUTHENTICATE", "SELECT"):
            self.server.in_clear.append(verb)
        match verb:
            case "CAPABILITY":
                await self.capability()
            case "STARTTLS":
                await self.start_tls()
            case "LOGIN" | "AUTHENTICATE":
                if verb == "AUTHENTICATE" and len(words) == 2:
                    await self.say(b"+ \r\n")
                    await self.reader.readuntil(b"\r\n")
                await self.answer("login", effect=self.enter)
            case "SELECT" | "EXAMINE":
                await self.answer("select", self.opened)
            case "LIST":
                await self.answer("list", lambda: b'* LIST () "/" INBOX\r\n* LIST () "/" Done\r\n')
            case "UID SEARCH":
                await self.answer("search", lambda: self.found(words[2:]))
            case "UID FETCH":
                items = " ".join(words[3:])
                stage = "fetch" if "HEADER" in items else "literal"
                await self.answer(stage, lambda: self.fetched(words[2], items))
            case "UID STORE":
                await self.answer("store", effect=lambda: self.mark(words[2], words[3:]))
            case "UID EXPUNGE":
                await self.answer("expunge", lambda: self.expunge(self.box.chosen(words[2])))
            case "EXPUNGE":
                self.server.plain_expunges += 1
                await self.answer("expunge", lambda: self.expunge(self.box.letters))
            case "UID MOVE" | "UID COPY":
                await self.answer("move", lambda: self.move(words[2], gone=verb == "UID MOVE"))
            case "IDLE":
                await self.idle()
            case "NOOP":
                await self.answer("noop", lambda: b"* %d EXISTS\r\n" % len(self.box.letters))
            case "LOGOUT":
                await self.say(b"* BYE then\r\n" + self.right())
                raise _Over
            case _:
                await self.say(f"{self.tag} BAD unknown\r\n".encode())

    # What the commands do

    async def capability(self) -> None:
        offers = _FULL
        if self.server.starttls is not None and not self.tls:
            offers = "IMAP4rev1 STARTTLS LOGINDISABLED"
        if self.logged_in and self.server.plan.stage == "capability" and self.server.plan.fault == "nocaps":
            self.server.plan.pick("capability")
            offers = "IMAP4rev1 IDLE"
            await self.say(f"* CAPABILITY {offers}\r\n".encode() + self.right())
            return
        await self.answer("capability", lambda: f"* CAPABILITY {offers}\r\n".encode())

    async def start_tls(self) -> None:
        context = self.server.starttls
        assert context is not None
        fault = self.server.plan.pick("starttls")
        if fault == "inject":
            await self.say(self.right() + b"* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n")
        elif fault is not None:
            await self.misbehave(fault, b"", self.right())
            return
        else:
            await self.say(self.right())
        await self.writer.start_tls(context, ssl_handshake_timeout=5)
        self.tls = True

    def enter(self) -> None:
        self.logged_in = True

    def opened(self) -> bytes:
        count, valid, following = len(self.box.letters), self.box.uidvalidity, self.box.uidnext
        text = f"* {count} EXISTS\r\n* OK [UIDVALIDITY {valid}] valid\r\n* OK [UIDNEXT {following}] next\r\n"
        return text.encode()

    def found(self, criteria: list[str]) -> bytes:
        uids = criteria[criteria.index("UID") + 1] if "UID" in criteria else criteria[0]
        found = " ".join(str(letter.uid) for letter in self.box.chosen(uids))
        return f"* SEARCH {found}\r\n".encode()

    def fetched(self, uids: str, items: str) -> bytes:
        return b"".join(self.described(letter, items) for letter in self.box.chosen(uids))

    def described(self, letter: Letter, items: str) -> bytes:
        part = re.search(r"BODY(?:\.PEEK)?\[([^\]]*)\]<(\d+)\.(\d+)>", items)
        assert part is not None, items
        if ".PEEK" not in items:
            letter.flags.add(r"\Seen")
        first, count = int(part[2]), int(part[3])
        header = letter.data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        octets = (header if part[1] else letter.data)[first : first + count]
        told = f" RFC822.SIZE {len(letter.data)} INTERNALDATE {_DATE} FLAGS ({' '.join(letter.flags)})"
        head = f"* {self.box.number(letter.uid)} FETCH (UID {letter.uid}{told if part[1] else ''} BODY[{part[1]}]"
        return f"{head}<{first}> {{{len(octets)}}}\r\n".encode() + octets + b")\r\n"

    def mark(self, uids: str, words: list[str]) -> None:
        flags = set(re.sub("[()]", "", " ".join(words[1:])).split())
        for letter in self.box.chosen(uids):
            letter.flags = letter.flags | flags if words[0].startswith("+") else letter.flags - flags

    def expunge(self, letters: list[Letter]) -> bytes:
        return self.box.remove([letter for letter in letters if r"\Deleted" in letter.flags])

    def move(self, uids: str, *, gone: bool) -> bytes:
        chosen = self.box.chosen(uids)
        self.box.moved += chosen
        return self.box.remove(chosen) if gone else b""

    async def idle(self) -> None:
        """RFC 2177: news until DONE."""
        self.box.changed.clear()
        if not await self.answer("idle", greeting="+ idling"):
            return
        done = asyncio.ensure_future(self.reader.readuntil(b"\r\n"))
        try:
            if fault := self.server.plan.pick("idling"):
                await asyncio.sleep(0.1)
                done.cancel()
                await asyncio.wait([done])
                await self.misbehave(fault, b"", b"")
                done = asyncio.ensure_future(self.reader.readuntil(b"\r\n"))
            while not done.done():
                news = asyncio.ensure_future(self.box.changed.wait())
                await asyncio.wait([done, news], return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
                if self.box.changed.is_set():
                    self.box.changed.clear()
                    await self.say(b"* %d EXISTS\r\n" % len(self.box.letters))
            await done
        finally:
            done.cancel()
            await asyncio.wait([done])
        await self.answer("done")

    # Answers, right and wrong

    def right(self) -> bytes:
        return f"{self.tag} OK done\r\n".encode()

    async def answer(
        self,
        stage: str,
        told: Callable[[], bytes] = bytes,
        *,
        effect: Callable[[], None] = lambda: None,
        greeting: str = "",
    ) -> bool:
        """The right answer, unless the plan has another; whether the command has had its effect."""
        fault = self.server.plan.pick(stage)
        last = f"{greeting}\r\n".encode() if greeting else self.right()
        if fault in (None, "after", "tag", "twice", "preauth", "stray", "half", "expunged"):
            text = told()
            effect()
            if fault is None:
                await self.say(text + last)
                return True
            return await self.misbehave(fault, text, last)
        return await self.misbehave(fault, b"", last)

    async def misbehave(self, fault: str, told: bytes, last: bytes) -> bool:
        """Carry out the fault; whether the conversation goes on as if nothing had been."""
        say = self.say
        match fault:
            case "no" | "bad":
                await say(f"{self.tag or '*'} {fault.upper()} as the script says\r\n".encode())
                return False
            case "bye":
                await say(b"* BYE as the script says\r\n")
                raise _Over
            case "close" | "after":
                raise _Over
            case "rst":
                self.writer.transport.abort()
                raise _Over
            case "half":
                whole = told + last
                await say(whole[: max(1, len(whole) // 2)])
                raise _Over
            case "drip":
                await say(b"* OK ")
                await self.repeat(b"x", 0.1)
            case "junk":
                await say(_JUNK)
            case "tag":
                await say(told + b"WRONG1 OK done\r\n")
            case "giant":
                await say(b"* OK ")
                await self.repeat(b"x" * _HUGE)
            case "endless":
                await self.repeat(b"* OK and so on\r\n" * 2000)
            case "short":
                await say(b"* 1 FETCH (UID 1 BODY[]<0> {1000}\r\ntoo little)\r\n" + last)
            case "huge":
                await say(b"* 1 FETCH (UID 1 BODY[]<0> {99999999999}\r\n")
                await self.repeat(b"x" * _HUGE)
            case "silence":
                pass
            case "twice":
                await say(told + last + last)
                return True
            case "preauth":
                await say(b"* PREAUTH come in\r\n" + (told + last if self.tag else b""))
                return True
            case "stray":
                letters = self.box.letters or [Letter(1, b"From: x@y.test\r\n\r\nApproved\r\n", set())]
                items = f"BODY.PEEK[]<0.{len(letters[0].data)}>"
                stray = self.described(letters[0], items) if self.box.letters else b""
                await say(stray + told + last)
                return True
            case "uidvalidity":
                self.box.renumber()
                await say(f"* OK [UIDVALIDITY {self.box.uidvalidity}] made anew\r\n".encode() + last)
                return True
            case "expunged":
                victims = [letter for letter in self.box.letters if letter.data == self.server.sacrifice]
                await say(self.box.remove(victims) + told + last)
                return True
            case "lie" | "empty":
                await say(last)
                return True
        await self.listen()
        return False

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()
        if self.writer.transport.is_closing():
            raise _Over

    async def repeat(self, data: bytes, pause: float = 0.0) -> None:
        """Until the client has gone."""
        while True:
            await self.say(data)
            await asyncio.sleep(pause)

    async def listen(self) -> None:
        """Hear nothing but the end."""
        with contextlib.suppress(asyncio.IncompleteReadError):
            while await self.reader.read(65536):
                pass
        raise _Over
