"""aioimaplib made safe: one command at a time, each with a deadline and a bounded answer.

The library keeps the tags, the states in which a command is legal, and the command under way. Reading is ours: its own
recurses, buffers whatever is announced, and leaves whoever waits alone when the connection is lost. After anything but
an answer the connection is dropped, because the library would pair the late answer with the next command.
"""

from __future__ import annotations

import asyncio
import binascii
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

import aioimaplib
from aioimaplib.aioimaplib import AUTH, CONNECTED, NONAUTH, SELECTED

from mailrelayd.inbound.answers import data, numbered
from mailrelayd.inbound.values import ImapError, Refused, Stage
from mailrelayd.inbound.wire import Limits, Nonsense, Response, ResponseReader, Status, status
from mailrelayd.outbound.answers import printable, shown

CLOSE_DEADLINE = 1.0  # seconds; nothing depends on it
ORDINARY = Limits()
TRACED = 1000  # octets of a line that a trace is told
_MASK = "***"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said to one command: its data in order, and its last word."""

    untagged: tuple[Response, ...]
    status: Status


class _Command(aioimaplib.Command):  # type: ignore[misc]
    """A command, what is still to be said after each "+", and what the server has said so far."""

    def __init__(
        self, name: str, tag: str, *args: str, prefix: str, answers: Iterable[bytes], going_on: asyncio.Event | None
    ) -> None:
        super().__init__(name, tag, *args, prefix=prefix)
        self.answers = deque(answers)
        self.going_on = going_on
        self.untagged: list[Response] = []
        self.challenge = ""  # the last "+", base64 where it is one of SASL
        self.status: Status | None = None

    def end(self, last_word: Status | None = None, reason: str = "") -> None:
        """Wake up who waits: with the server's last word, or with the reason why none will come."""
        self.status = last_word
        if last_word is None:
            self._exception = aioimaplib.Abort(reason)
        self._event.set()


class Connection(aioimaplib.IMAP4ClientProtocol):  # type: ignore[misc]
    """One connection. `failure` says why it has ended; until then it is ""."""

    transport: asyncio.Transport | None

    def __init__(self, seconds: float) -> None:
        """`seconds` is the deadline of every answer."""
        super().__init__(asyncio.get_running_loop())
        self.failure = ""
        self.stirred = asyncio.Event()  # it failed, or there is new mail
        self.gone = asyncio.Event()  # the socket is closed
        self.capabilities: set[str] = set()
        self.uidvalidity: int | None = None  # of the selected folder
        self.exists = 0  # mails in it, as far as we were told
        self.more_mail = False  # since somebody last set it back
        self.secrets: tuple[str, ...] = ()  # never shown, wherever the server repeats them
        self.trace: Callable[[str, bytes], None] | None = None  # told what is said (">") and heard ("<")
        self.seconds = seconds
        self._reader = ResponseReader(ORDINARY)
        self._greeting: asyncio.Future[Status] = self.loop.create_future()
        self._one_at_a_time = asyncio.Lock()

    # What the library's protocol does in its own way

    def data_received(self, d: bytes) -> None:
        try:
            self._reader.feed(d)
            while not self.failure and (response := self._reader.next()) is not None:
                self._take(response)
        except Nonsense as nonsense:
            self.misunderstood(nonsense)

    def connection_lost(self, exc: Exception | None) -> None:
        reason = f": {exc.strerror.lower()}" if isinstance(exc, OSError) and exc.strerror else ""
        self.fail(f"the server closed the connection{reason}")
        self.gone.set()

    def send(self, line: str, scrub: str | None = None) -> None:
        """Nothing is logged: the library's debug lines hold passwords, tokens and mails."""
        self.write(line.encode() + aioimaplib.aioimaplib.CRLF)

    def write(self, data: bytes) -> None:
        """Say something as it is."""
        self._traced(">", data)
        if self.transport is not None:
            self.transport.write(data)

    # Commands

    async def greeting(self) -> Status:
        """The server's first words: OK or PREAUTH. Raises ImapError."""
        try:
            async with asyncio.timeout(self.seconds):
                return await self._greeting
        except TimeoutError as error:
            self.fail(f"no greeting within {self.seconds:g} s")
            raise self.error(Stage.GREETING) from error
        except aioimaplib.Abort as error:
            raise self.error(Stage.GREETING) from error
        except BaseException:
            self.fail("given up")
            raise

    async def call(
        self,
        stage: Stage,
        name: str,
        *args: str,
        prefix: str = "",
        answers: Iterable[bytes] = (),
        limits: Limits = ORDINARY,
        going_on: asyncio.Event | None = None,
    ) -> Answer:
        """Say a command and wait for the end of its answer; `answers` are said after each "+" that comes.

        `going_on` is set by a "+". Who gives it watches over the time, as there is no deadline then.

        Raises Refused for NO and BAD, ImapError for everything else: the connection has ended then, as it has when the
        caller is cancelled.
        """
        async with self._one_at_a_time:
            if self.failure:
                raise self.error(stage)
            try:
                command = _Command(name, self.new_tag(), *args, prefix=prefix, answers=answers, going_on=going_on)
                self._reader.allow(limits)
                async with asyncio.timeout(self.seconds if going_on is None else None):
                    await self.execute(command)
            except TimeoutError as error:
                self.fail(f"no answer to {prefix and prefix + ' '}{name} within {self.seconds:g} s")
                raise self.error(stage) from error
            except aioimaplib.AioImapException as error:
                self.fail(str(error))  # the failure itself, or a command that is illegal in this state
                raise self.error(stage) from error
            except BaseException:
                self.fail("given up")
                raise
        last_word = command.status
        assert last_word is not None
        if last_word.kind != "OK":
            text = last_word.text or f"the server said {last_word.kind}"
            if name == "AUTHENTICATE" and command.challenge:
                text = f"{text} {_decoded(command.challenge)}"
            raise Refused(stage, self.shown(text), self.shown(last_word.code))
        return Answer(tuple(command.untagged), last_word)

    async def capability(self) -> set[str]:
        """Ask anew what the server can do: what it said before TLS or before the login counts for nothing."""
        self.capabilities = set()
        await self.call(Stage.CAPABILITY, "CAPABILITY")
        if not self.capabilities:
            self.fail("the server does not say what it can do")
            raise self.error(Stage.CAPABILITY)
        return self.capabilities

    def secured(self, transport: asyncio.Transport) -> None:
        """Go on over TLS; what was said before it counts for nothing."""
        self.transport = transport
        self.capabilities = set()

    def logged_in(self) -> None:
        self.state = AUTH

    @property
    def is_logged_in(self) -> bool:
        return self.state in (AUTH, SELECTED)

    def selected(self, uidvalidity: int | None, exists: int) -> None:
        """A folder is open, or none (None)."""
        self.state = SELECTED if uidvalidity is not None else AUTH
        self.uidvalidity, self.exists, self.more_mail = uidvalidity, exists, False

    # The end

    def error(self, stage: Stage) -> ImapError:
        """Why the connection has ended."""
        return ImapError(stage, self.failure)

    def fail(self, reason: str) -> None:
        """End the connection at once; whoever waits hears why. Only the first reason counts."""
        if not self.failure:
            self.failure = self.shown(reason)
        command = self._command()
        if command is not None:
            command.end(reason=self.failure)
        if not self._greeting.done():
            self._greeting.set_exception(aioimaplib.Abort(self.failure))
            self._greeting.exception()  # somebody has seen it, should nobody wait
        self.stirred.set()
        if self.transport is not None:
            self.transport.abort()

    def misunderstood(self, nonsense: Nonsense) -> None:
        """End the connection because of what the server sent."""
        data = nonsense.data
        for secret in self.secrets:  # before the data is cut, which would leave a part of it
            data = data.replace(secret.encode(), _MASK.encode())
        self.fail(f"{nonsense.text}: {shown(data)}" if data else nonsense.text)

    async def close(self) -> None:
        """End the connection and wait until the socket is closed."""
        self.fail("closed")
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_DEADLINE):
                await self.gone.wait()

    def shown(self, text: str) -> str:
        """Text of the server for a line of a log."""
        for secret in self.secrets:
            text = text.replace(secret, _MASK)
        return printable(text)

    # What the server says

    def _command(self) -> _Command | None:
        """The command under way."""
        command: _Command | None = self.pending_sync_command
        return command or next(iter(self.pending_async_commands.values()), None)

    def _take(self, response: Response) -> None:
        self._traced("<", b"{...}".join(response.pieces[::2]) + b"\r\n", response.tag)
        if self.state == CONNECTED:
            self._greeted(response)
        elif response.tag == "*":
            self._untagged(response)
        elif response.tag == "+":
            self._continued(response)
        else:
            self._tagged(response)

    def _greeted(self, response: Response) -> None:
        said = status(response)
        if response.tag != "*" or said is None or said.kind not in ("OK", "PREAUTH", "BYE"):
            raise Nonsense("the server's first words are no greeting", response.text)
        if said.kind == "BYE":
            raise Nonsense(_goodbye(said))
        self.state = AUTH if said.kind == "PREAUTH" else NONAUTH
        self._learn(said)
        self._greeting.set_result(said)

    def _untagged(self, response: Response) -> None:
        command = self._command()
        said = status(response)
        if said is not None:
            if said.kind == "PREAUTH":
                raise Nonsense("the server says PREAUTH in the middle of the conversation")
            if said.kind == "BYE" and (command is None or command.name != "LOGOUT"):
                raise Nonsense(_goodbye(said))
            self._learn(said)
        elif (words := data(response, "CAPABILITY")) is not None:
            self._offered(words)
        elif (count := numbered(response)) is not None:
            self._counted(*count)
        if command is not None:
            command.untagged.append(response)

    def _continued(self, response: Response) -> None:
        command = self._command()
        if command is None or (command.going_on is None and not command.answers):
            raise Nonsense("the server asks for more when there is nothing more to say", response.text)
        command.challenge = response.text.decode("ascii", "backslashreplace")
        if command.going_on is not None:
            command.going_on.set()
        if command.answers and self.transport is not None:
            self.transport.write(command.answers.popleft() + aioimaplib.aioimaplib.CRLF)

    def _tagged(self, response: Response) -> None:
        command, said = self._command(), status(response)
        if command is None or response.tag != command.tag or said is None or said.kind not in ("OK", "NO", "BAD"):
            raise Nonsense("the server answered what was not asked", f"{response.tag} ".encode() + response.text)
        if command.name == "STARTTLS" and said.kind == "OK":
            if self._reader.rest:  # RFC 3501 section 6.2.1; whoever put it there wants it taken for the server's
                raise Nonsense("the server sent something in clear after its OK to STARTTLS")
            if self.transport is not None:
                self.transport.pause_reading()  # what comes now is TLS
        self._learn(said)
        self.pending_sync_command = None
        self.pending_async_commands.clear()
        command.end(said)

    def _learn(self, said: Status) -> None:
        """What response codes tell besides."""
        if said.code == "CAPABILITY":
            self._offered(said.arguments.encode())
        elif said.code == "UIDVALIDITY" and self.uidvalidity is not None and said.arguments != str(self.uidvalidity):
            command = self._command()
            if command is None or command.name not in ("SELECT", "EXAMINE"):
                raise Nonsense("the folder was given another UIDVALIDITY while it was open")

    def _offered(self, words: bytes) -> None:
        self.capabilities = {word.decode("ascii", "backslashreplace").upper() for word in words.split()}

    def _counted(self, number: int, word: str) -> None:
        if word == "EXPUNGE":
            self.exists -= 1
            return
        if number > self.exists and self.state == SELECTED:
            self.more_mail = True
            self.stirred.set()
        self.exists = number

    def _traced(self, direction: str, data: bytes, tag: str = "") -> None:
        if self.trace is not None:
            self.trace(direction, ((tag.encode() + b" " if tag else b"") + data)[:TRACED])


def _goodbye(said: Status) -> str:
    code = f"[{said.code}] " if said.code else ""
    return f"the server says goodbye: {code}{said.text}"


def _decoded(challenge: str) -> str:
    """The error inside the challenge (RFC 7628 section 3.2.2), for people."""
    try:
        return binascii.a2b_base64(challenge, strict_mode=True).decode("utf-8", "backslashreplace")
    except ValueError:
        return challenge
