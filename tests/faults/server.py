"""A recording SMTP server that misbehaves on request.

    python -m tests.faults.server --port 0 --journal DIR --chaos 0.3 --fault rcpt:450,nth=2

prints its port as the first line. SIGUSR1 stops listening and cuts what is open, SIGUSR2 listens again on the same
port. In a test:

    async with Recorder(directory, rules=[Rule.parse("dot:close,nth=3")]) as server:
        ...connect to server.port...
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import binascii
import contextlib
import hmac
import os
import re
import secrets
import signal
import ssl
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.faults.journal import TEST_ID, Journal, header_value, sha256, split
from tests.faults.script import Rule, Script, fate
from tests.faults.wire import Ended, Mark, Wire

EXTENSIONS = ("PIPELINING", "8BITMIME", "SMTPUTF8", "CHUNKING")
"""What is offered unless told otherwise; STARTTLS and AUTH follow from a certificate and a password."""

_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_LONG = re.compile(rb"[^\n]{1000}")  # 998 and CRLF are allowed (RFC 5321 section 4.5.3.1.6)
_STRAY = b"250 2.0.0 stray answer\r\n"
_JUNK = bytes(range(0x80, 0xC0)) + b"\x00\x16\x03\x01\r\n"


@dataclass
class Terms:
    """How the server presents itself; every field may be changed while it runs, new connections see it."""

    extensions: Sequence[str] = EXTENSIONS
    size: int | None = 50 * 2**20  # announced and enforced; None: SIZE is not offered
    tls: ssl.SSLContext | None = None  # offers STARTTLS
    bad_tls: ssl.SSLContext | None = None  # for the fault `badcert`
    implicit_tls: bool = False
    require_tls: bool = False  # the client was configured to insist on TLS: anything in clear is a LEAK
    user: str = "relay"
    password: str | None = None  # None: AUTH is not offered
    mechanisms: Sequence[str] = ("PLAIN", "LOGIN", "CRAM-MD5")
    require_auth: bool = False  # 530 before AUTH
    delay: float = 0.0  # seconds every answer takes on its way: a round trip
    drip: float = 1.0  # seconds per byte of a dripped answer
    patience: float = 60.0  # seconds after which silent and endless faults end by closing
    idle_after: float = 0.05  # seconds of quiet before an `idle` fault strikes
    giant: int = 2**20  # bytes of a giant line
    window: int = 1  # bodies that the client may have on their way or not on disk


class Recorder:
    """The listening server, its journal and its script."""

    def __init__(
        self,
        directory: Path,
        *,
        rules: Iterable[Rule] = (),
        chaos: float = 0.0,
        seed: int = 0,
        terms: Terms | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        raw: bool = False,
        sync: bool = True,
    ) -> None:
        self.directory = directory
        self.script = Script(list(rules), chaos, seed)
        self.terms = terms or Terms()
        self.host = host
        self.port = port  # the real one, once it listens
        self.raw = raw  # keep every message as raw/ID.eml
        self.journal = Journal(directory / "journal.jsonl", sync=sync)
        self.accepted = 0
        self.connections = 0  # ever made
        self.tries: dict[str, int] = {}  # of tempfail-N addresses
        self._open: dict[asyncio.Task[None], Wire] = {}
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        """Listen."""
        await self.resume()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop; the journal is complete afterwards."""
        await self.pause()
        self.journal.close()

    async def resume(self) -> None:
        """Listen, again on the same port after an outage."""
        if self._server is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(self._wire, self.host, self.port, backlog=1024)
            self.port = self._server.sockets[0].getsockname()[1]

    async def pause(self, *, cut: bool = True) -> None:
        """Refuse connections from now on; `cut` also ends those that are open."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if cut:
            for wire in self._open.values():
                wire.close("server")
            tasks = list(self._open)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def open_connections(self) -> int:
        """How many there are now."""
        return len(self._open)

    def _wire(self) -> Wire:
        return Wire(self._opened, lambda: self.terms.delay)

    def _opened(self, wire: Wire) -> None:
        wire.transport.pause_reading()  # until it is known whether this is TLS
        self.connections += 1
        task = asyncio.get_running_loop().create_task(Session(self, wire, self.connections).run())
        self._open[task] = wire
        task.add_done_callback(lambda done: self._open.pop(done, None))


@dataclass
class Session:
    """The conversation on one connection."""

    recorder: Recorder
    wire: Wire
    number: int
    tls: bool = False
    authenticated: bool = False
    offered: tuple[str, ...] = ()
    sender: str | None = None  # of the transaction; None: there is none
    recipients: list[str] = field(default_factory=list)
    eight_bit: bool = False
    tainted: bool = False  # we have said something out of turn: what the client does now is its own good right
    unread: list[tuple[int, Mark]] = field(default_factory=list)  # messages whose 250 may not have been read
    last: Mark = field(default_factory=Mark)  # of the latest answer
    idle_fault: str | None = None
    chunks: bytearray = field(default_factory=bytearray)  # of BDAT

    # The conversation

    async def run(self) -> None:
        """From the first byte to the last; never raises."""
        how = "server"
        try:
            await self.open()
            while True:
                await self.command()
        except Ended as ended:
            how = ended.how
        except (OSError, ssl.SSLError) as error:
            how = "reset"
            self.note("trouble", error=str(error))
        finally:
            self.wire.close(how)
            self.recorder.journal.note("end", connection=self.number, how=how, at=time.time())

    async def open(self) -> None:
        """Everything before the first command."""
        if fault := self.pick("connect"):
            await self.misbehave(fault, b"")
        if self.terms.implicit_tls:
            await self.handshake()
        else:
            self.wire.transport.resume_reading()
        if self.wire.buffer:
            self.violation("speaks-first")
        await self.respond("greeting", "220 witness.test ESMTP")

    async def command(self) -> None:
        """Read one command and answer it."""
        offset = self.wire.position
        line = await self.read_command()
        if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
            self.violation("bare-line-end", "in a command")
        if not line.isascii() and "SMTPUTF8" not in self.offered:
            self.violation("unoffered-parameter", "non-ASCII command")
        text = line.decode("utf-8", "replace").strip()
        verb, _, rest = text.partition(" ")
        verb = verb.upper()
        if self.wire.buffer and verb not in ("DATA", "BDAT") and "PIPELINING" not in self.offered:
            self.violation("unoffered-pipelining", f"after {verb}")
        if self.terms.require_tls and not self.tls and verb in ("AUTH", "MAIL", "RCPT", "DATA", "BDAT"):
            self.violation("LEAK", verb)
        if verb == "QUIT" or (verb != "DATA" and self.terms.window == 1):  # in a window commands prove nothing
            self.prove("quit" if verb == "QUIT" else "group", offset)
        match verb:
            case "EHLO" | "HELO":
                await self.ehlo(verb)
            case "STARTTLS" if "STARTTLS" in self.offered and not self.tls:
                await self.starttls()
            case "AUTH":
                await self.auth(rest)
            case "MAIL":
                await self.mail(rest)
            case "RCPT":
                await self.rcpt(rest)
            case "DATA":
                await self.data(offset)
            case "BDAT":
                await self.bdat(rest, offset)
            case "RSET":
                self.forget()
                await self.respond("rset", "250 2.0.0 ok")
            case "NOOP":
                self.say("250 2.0.0 ok")
            case "QUIT":
                await self.respond("quit", "221 2.0.0 bye")
                await self.wire.sent()
                raise Ended("quit")
            case _:
                self.violation("unknown-command", text[:40])
                self.say("500 5.5.2 what?")

    async def read_command(self) -> bytes:
        """The next line; between two messages an armed `idle` fault may strike first."""
        if self.idle_fault is None:
            return await self.wire.line()
        try:
            async with asyncio.timeout(self.terms.idle_after):
                return await self.wire.line()
        except TimeoutError:
            fault, self.idle_fault = self.idle_fault, None
            self.note_fault("idle", fault)
            self.tainted = True
            await self.misbehave(fault, b"")
            return await self.wire.line()

    async def ehlo(self, verb: str) -> None:
        self.forget()
        fault = self.pick("ehlo")
        offers = [*self.terms.extensions, "ENHANCEDSTATUSCODES"]
        if self.terms.size is not None:
            offers.append(f"SIZE {self.terms.size}")
        if self.terms.tls is not None and not self.tls and fault != "strip":
            offers.append("STARTTLS")
        if self.terms.password is not None and (self.tls or self.terms.tls is None):
            offers.append(f"AUTH {' '.join(self.terms.mechanisms)}")
        if fault == "caps" and self.tls:
            offers = [offer for offer in offers if offer.startswith("AUTH")]
        if fault in ("strip", "caps"):
            fault = None
        if verb == "HELO":
            offers = []
        lines = ["witness.test", *offers]
        answer = "".join(f"250-{line}\r\n" for line in lines[:-1]) + f"250 {lines[-1]}\r\n"
        if fault is None:
            self.write(answer.encode())
        elif not await self.misbehave(fault, answer.encode()):
            return
        self.offered = tuple(offer.split()[0] for offer in offers)

    async def starttls(self) -> None:
        if self.wire.buffer:
            self.violation("plain-before-tls", "a command behind STARTTLS")
            self.wire.buffer.clear()
        fault = self.pick("starttls")
        self.wire.transport.pause_reading()  # the handshake belongs to the TLS layer
        answer = b"220 2.0.0 go\r\n"
        if fault == "inject":
            self.tainted = True
            answer += b"250-witness.test\r\n250 AUTH PLAIN\r\n"
        elif fault is not None and not await self.misbehave(fault, answer):
            self.wire.transport.resume_reading()
            return
        if fault in (None, "inject"):
            self.write(answer)
        await self.wire.sent()
        await self.handshake()

    async def handshake(self) -> None:
        """TLS, in place of what was before: RFC 3207 section 4.2 forgets everything said in clear."""
        fault = self.pick("tls")
        context = self.terms.tls
        if fault == "badcert":
            context = self.terms.bad_tls
        elif fault is not None:
            self.wire.transport.resume_reading()
            await self.misbehave(fault, b"")
            raise Ended("fault")
        if context is None:
            raise Ended("server")
        await self.wire.start_tls(context)
        self.tls, self.authenticated, self.offered = True, False, ()
        self.forget()

    async def auth(self, rest: str) -> None:
        mechanism, _, initial = rest.partition(" ")
        if self.terms.password is None or mechanism.upper() not in self.terms.mechanisms:
            self.say("504 5.5.4 no such mechanism")
            return
        try:
            good = await self.credentials(mechanism.upper(), initial)
        except (binascii.Error, ValueError):
            self.say("501 5.5.2 cannot decode")
            return
        if await self.respond("auth", "235 2.7.0 welcome" if good else "535 5.7.8 wrong user or password"):
            self.authenticated = good

    async def credentials(self, mechanism: str, initial: str) -> bool:
        user, password = self.terms.user.encode(), (self.terms.password or "").encode()
        match mechanism:
            case "PLAIN":
                answer = base64.b64decode(initial) if initial else await self.challenge(b"")
                return answer.split(b"\0")[1:] == [user, password]
            case "LOGIN":
                name = base64.b64decode(initial) if initial else await self.challenge(b"Username:")
                return [name, await self.challenge(b"Password:")] == [user, password]
            case _:
                nonce = f"<{secrets.token_hex(8)}@witness.test>".encode()
                digest = hmac.new(password, nonce, "md5").hexdigest().encode()
                return await self.challenge(nonce) == user + b" " + digest

    async def challenge(self, text: bytes) -> bytes:
        self.write(b"334 " + base64.b64encode(text) + b"\r\n")
        return base64.b64decode((await self.wire.line()).strip(), validate=True)

    async def mail(self, rest: str) -> None:
        match = re.match(r"FROM: ?<([^>]*)>(.*)", rest, re.IGNORECASE)
        if self.terms.require_auth and not self.authenticated:
            self.say("530 5.7.0 log in first")
        elif self.sender is not None:
            self.violation("nested-mail")
            self.say("503 5.5.1 nested MAIL")
        elif match is None:
            self.violation("syntax", f"MAIL {rest[:60]}")
            self.say("501 5.5.4 syntax")
        else:
            parameters = {name.upper(): value for name, _, value in (p.partition("=") for p in match[2].split())}
            extension = {"BODY": "8BITMIME", "SIZE": "SIZE", "SMTPUTF8": "SMTPUTF8"}
            for name in parameters:
                if extension.get(name) not in self.offered:
                    self.violation("unoffered-parameter", name)
            if self.terms.size and int(parameters.get("SIZE") or 0) > self.terms.size:
                self.say("552 5.3.4 too large")
            elif await self.respond("mail", "250 2.1.0 ok", to=match[1]):
                self.sender = match[1]
                self.eight_bit = parameters.get("BODY", "").upper() == "8BITMIME"

    async def rcpt(self, rest: str) -> None:
        match = re.match(r"TO: ?<([^>]+)>", rest, re.IGNORECASE)
        if self.sender is None:
            self.say("503 5.5.1 MAIL first")
        elif match is None:
            self.violation("syntax", f"RCPT {rest[:60]}")
            self.say("501 5.5.4 syntax")
        elif refusal := fate(match[1], self.recorder.tries):
            self.say(refusal)
        elif await self.respond("rcpt", "250 2.1.5 ok", to=match[1]):
            self.recipients.append(match[1])

    async def data(self, offset: int) -> None:
        if self.chunks:
            self.violation("syntax", "DATA after BDAT")
        if self.sender is None or not self.recipients:
            known = self.last.before(offset) and (
                "PIPELINING" not in self.offered or self.wire.arrived - self.last.at > 0.05
            )
            if known:  # the refusals had been there to read; in one pipelined group it would be right
                self.violation("data-without-recipient")
            self.say("554 5.5.1 no valid recipients")
            return
        early = bool(self.wire.buffer)
        if not await self.respond("data", "354 go"):
            return
        begun = self.wire.position
        asked = self.last
        if early:
            self.violation("body-before-354")
        struck = False
        end = searched = 0
        while True:
            if self.wire.buffer:
                if not early and asked.before(begun):
                    self.prove("body", begun, asked.at)
                if not struck:
                    struck = True
                    if fault := self.pick("body"):
                        self.tainted = True
                        if fault == "silence":  # not even reading: the client's writes come to a stand
                            self.wire.transport.pause_reading()
                        await self.misbehave(fault, b"")
                if self.wire.buffer.startswith(b".\r\n"):
                    break
                end = self.wire.buffer.find(b"\r\n.\r\n", searched) + 2
                if end >= 2:
                    break
                searched = max(0, len(self.wire.buffer) - 4)
            await self.wire.more()
        stuffed = self.wire.take(end + 3)[:-3]
        await self.finish(stuffed.replace(b"\r\n.", b"\r\n")[1 if stuffed.startswith(b".") else 0 :])

    async def bdat(self, rest: str, offset: int) -> None:
        """RFC 3030. The chunk is swallowed whatever the answer."""
        match = re.fullmatch(r"([0-9]+)( LAST)?", rest, re.IGNORECASE)
        if match is None:
            self.violation("syntax", f"BDAT {rest[:40]}")
            raise Ended("server")
        if not self.chunks:
            self.begin_body(offset)
        if "CHUNKING" not in self.offered:
            self.violation("unoffered-parameter", "BDAT")
        chunk = await self.wire.exactly(int(match[1]))
        if self.sender is None or not self.recipients:
            self.say("503 5.5.1 no valid recipients")
            return
        self.chunks += chunk
        if match[2]:
            await self.finish(bytes(self.chunks))
        else:
            self.say("250 2.0.0 chunk")

    def begin_body(self, offset: int) -> None:
        """A body begins, so of those before it no more than the window holds is undecided; who has more, cheats."""
        ahead = self.terms.window - 1
        undecided = sum(mark.behind(offset) for _, mark in self.unread)
        if undecided > ahead:
            self.violation("window", f"{undecided} bodies are not even answered")
        elif len(self.unread) > ahead:
            read = [number for number, _ in self.unread[: len(self.unread) - ahead]]
            self.unread = self.unread[len(read) :]
            self.recorder.journal.note("acked", ids=read, by="body", at=time.time(), connection=self.number)

    async def finish(self, message: bytes) -> None:
        """The last byte is here: refuse, or record and only then say 250."""
        if _BARE.search(message):
            self.violation("bare-line-end", "in a message")
        if _LONG.search(message):
            self.note("note", what="long-line")
        if not message.isascii() and not self.eight_bit:
            self.violation("undeclared-8bit")
        header, body = split(message)
        test_id = header_value(header, TEST_ID)
        sender, recipients = self.sender or "", list(self.recipients)
        self.forget()
        if self.terms.size and len(message) > self.terms.size:
            self.say("552 5.3.4 too large")
            return
        accepted = b"250 2.0.0 recorded\r\n"
        if fault := self.pick("dot", to=" ".join(recipients), test_id=test_id):
            await self.misbehave(fault, accepted)
            return
        fault = self.pick("recorded", to=" ".join(recipients), test_id=test_id)
        self.recorder.accepted += 1
        number = self.recorder.accepted
        if self.recorder.raw:
            self.keep(number, message)
        await self.recorder.journal.commit(
            "accept",
            id=number,
            connection=self.number,
            at=time.time(),
            came=self.wire.came(),
            sender=sender,
            recipients=recipients,
            test_id=test_id,
            message_id=header_value(header, "Message-ID"),
            size=len(message),
            sha256=sha256(message),
            header=header.decode("latin-1"),
            body_sha256=sha256(body),
            answer=fault or ("tainted" if self.tainted else "250"),
        )
        if fault is None:
            self.write(accepted)
            self.unread.append((number, self.last))
        else:
            await self.misbehave(fault, accepted)
        # It waits for a moment of quiet, through other messages if need be.
        self.idle_fault = self.recorder.script.pick("idle", to=" ".join(recipients), test_id=test_id) or self.idle_fault

    def keep(self, number: int, message: bytes) -> None:
        path = self.recorder.directory / "raw" / f"{number}.eml"
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            file.write(message)
            file.flush()
            os.fsync(file.fileno())

    # What the client has read

    def prove(self, by: str, offset: int, asked_at: float = float("inf")) -> None:
        """Note which 250s the client has read, now that it said what it says at `offset`.

        `body`   a body begun after the 354 we wrote behind those 250s: certain, whatever the network does, for
                 nobody may send a body before reading the 354 (early bodies are a violation and prove nothing). With
                 BDAT, one begun when the window would be full without having read them (see `begin_body`).
        `quit`   QUIT that reached this machine after the 250 had left.
        `group`  any other command that did; a group written apart from the last dot, but not after reading the
                 answer to it, can look like this, so the verdict trusts it only while the connection lives on, and
                 not at all where the window is larger than 1.
        Bytes that lay in our buffers when the 250 left, the kernel's included, prove nothing.
        """
        read = [n for n, mark in self.unread if mark.before(offset) and mark.at <= asked_at]
        if read:
            self.unread = [entry for entry in self.unread if entry[0] not in read]
            self.recorder.journal.note("acked", ids=read, by=by, at=time.time(), connection=self.number)

    # Answers, right and wrong

    @property
    def terms(self) -> Terms:
        return self.recorder.terms

    def write(self, data: bytes) -> None:
        self.last = self.wire.write(data)

    def say(self, text: str) -> None:
        self.write(text.encode() + b"\r\n")

    async def respond(self, stage: str, text: str, *, to: str = "") -> bool:
        """Give the right answer, unless the script has another; False: the command has no effect."""
        fault = self.pick(stage, to=to)
        if fault is None:
            self.say(text)
            return True
        return await self.misbehave(fault, text.encode() + b"\r\n")

    async def misbehave(self, fault: str, right: bytes) -> bool:
        """Carry out a fault in place of the `right` answer; whether the command has its effect nevertheless."""
        if fault.isdigit():
            self.write(f"{fault} {fault[0]}.3.0 as the script says\r\n".encode())
            if fault == "421":
                await self.hang_up()
            return False
        self.tainted = True
        match fault:
            case "close":
                await self.hang_up()
            case "rst":
                await self.wire.sent()
                self.wire.reset("fault")
                raise Ended("fault")
            case "silence":
                await self.endure(b"")
            case "drip":
                for byte in right:
                    self.write(bytes([byte]))
                    await asyncio.sleep(self.terms.drip)
                    if self.wire.lost:
                        break
                return True
            case "junk":
                self.write(_JUNK)
            case "giant":
                self.write((right[:3] or b"250") + b" " + b"x" * self.terms.giant)
                await self.hang_up()
            case "endless":
                await self.endure(((right[:3] or b"250") + b"-and so on\r\n") * 100)
            case "stray":
                self.write(right + _STRAY)
                return True
            case "double":
                self.write(right + right)
                return True
            case "mixed":
                self.write(right[:3] + b"-first\r\n550 5.0.0 second\r\n")
            case _:
                return True
        return False

    async def hang_up(self) -> None:
        await self.wire.sent()
        self.wire.close("fault")
        raise Ended("fault")

    async def endure(self, babble: bytes) -> None:
        """Say nothing, or nothing but `babble`, until the client leaves or patience ends."""
        end = time.monotonic() + self.terms.patience
        while not self.wire.lost and not self.wire.transport.is_closing() and time.monotonic() < end:
            if babble and self.wire.transport.get_write_buffer_size() < 2**18:
                self.write(babble)
            self.wire.buffer.clear()
            await asyncio.sleep(0.01)
        await self.hang_up()

    def pick(self, stage: str, to: str = "", test_id: str = "") -> str | None:
        fault = self.recorder.script.pick(stage, to=to, test_id=test_id)
        if fault is not None:
            self.note_fault(stage, fault)
        return fault

    def note_fault(self, stage: str, fault: str) -> None:
        self.note("fault", stage=stage, fault=fault)

    def violation(self, rule: str, detail: str = "") -> None:
        """What no client may do; the verdict is not clean with one of these, unless we were out of turn first."""
        self.note("violation", rule=rule, detail=detail, tainted=self.tainted)

    def note(self, event: str, **fields: object) -> None:
        self.recorder.journal.note(event, connection=self.number, at=time.time(), **fields)

    def forget(self) -> None:
        """No transaction any more."""
        self.sender = None
        self.recipients.clear()
        self.eight_bit = False
        self.chunks.clear()


def context(certificate: Path, key: Path | None = None) -> ssl.SSLContext:
    """A server's TLS context from PEM files."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(certificate, key)
    return made


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.server", description="a recording, faulty SMTP server"
    )
    parser.add_argument("--journal", type=Path, required=True, metavar="DIR", help="where journal.jsonl is written")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--port-file", type=Path)
    parser.add_argument("--fault", type=Rule.parse, action="append", default=[], metavar="STAGE:FAULT[,nth=N]...")
    parser.add_argument("--chaos", type=float, default=0.0, metavar="P", help="the chance of any fault at any stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--extensions", default=" ".join(EXTENSIONS))
    parser.add_argument("--size", type=int, default=50 * 2**20)
    parser.add_argument("--delay", type=float, default=0.0, metavar="SECONDS", help="every answer comes so much later")
    parser.add_argument("--drip", type=float, default=1.0, metavar="SECONDS", help="per byte of a dripped answer")
    parser.add_argument("--patience", type=float, default=60.0, metavar="SECONDS", help="how long silence lasts")
    parser.add_argument("--cert", type=Path, help="offers STARTTLS")
    parser.add_argument("--key", type=Path)
    parser.add_argument("--bad-cert", type=Path, help="what the fault `badcert` shows")
    parser.add_argument("--bad-key", type=Path)
    parser.add_argument("--implicit-tls", action="store_true")
    parser.add_argument("--require-tls", action="store_true", help="the client must insist on TLS; else it is a LEAK")
    parser.add_argument("--user", default="relay")
    parser.add_argument("--password", help="offers AUTH, and demands it")
    parser.add_argument("--raw", action="store_true", help="keep raw/ID.eml")
    parser.add_argument("--no-sync", action="store_true", help="faster, not proof against a crash of this machine")
    return parser.parse_args(argv)


async def serve(options: argparse.Namespace) -> None:
    """Run until SIGTERM or SIGINT."""
    terms = Terms(
        extensions=options.extensions.split(),
        size=options.size or None,
        tls=context(options.cert, options.key) if options.cert else None,
        bad_tls=context(options.bad_cert, options.bad_key) if options.bad_cert else None,
        implicit_tls=options.implicit_tls,
        require_tls=options.require_tls,
        user=options.user,
        password=options.password,
        require_auth=options.password is not None,
        delay=options.delay,
        drip=options.drip,
        patience=options.patience,
    )
    recorder = Recorder(
        options.journal,
        rules=options.fault,
        chaos=options.chaos,
        seed=options.seed,
        terms=terms,
        host=options.host,
        port=options.port,
        raw=options.raw,
        sync=not options.no_sync,
    )
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    orders: asyncio.Queue[bool] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGUSR1, orders.put_nowait, False)
    loop.add_signal_handler(signal.SIGUSR2, orders.put_nowait, True)

    async def obey() -> None:
        while True:
            await (recorder.resume() if await orders.get() else recorder.pause())

    async with recorder:
        print(recorder.port, flush=True)
        if options.port_file:
            temporary = options.port_file.with_suffix(".tmp")
            temporary.write_text(f"{recorder.port}\n")
            temporary.rename(options.port_file)
        obeying = asyncio.create_task(obey())
        await stop.wait()
        obeying.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await obeying


if __name__ == "__main__":
    asyncio.run(serve(arguments(sys.argv[1:])))
