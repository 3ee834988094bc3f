"""A session that knows how it came about, tries whether a window is safe, and rehearses a mail."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from mailrelayd.outbound.answers import AnswerReader, Desync, response
from mailrelayd.outbound.session import Session
from mailrelayd.outbound.values import Response, Stage

FORBIDDEN = frozenset(map(chr, range(0x21))) | set("<>\x7f")
"""What would end an address, or the command that carries it."""


@dataclass(slots=True)
class Seen:
    """What became known of a server on the way to AUTH, as far as that went; all texts are printable."""

    level: str = ""  # tls | starttls | none
    port: int = 0
    relay: str = ""  # host[ip]:port
    greeting: str = ""  # behind its 220
    name: str = ""  # what the server calls itself in answer to EHLO
    extensions: tuple[str, ...] = ()  # the lines of the last EHLO, with their parameters
    mechanisms: tuple[str, ...] = ()  # for AUTH, in capitals
    tls: str = ""  # protocol version and cipher


CANARY = b"BDAT 6 LAST\r\nXCHK\r\nMAIL FROM:<>\r\nBDAT 6 LAST\r\nXCHK\r\nRSET\r\n"
"""A chunk of no transaction, and one of a transaction without recipients: some servers swallow only one of the two.

Whoever swallows both answers four times, and whoever takes one for a command once more.
"""
_SWALLOWED = 4  # answers


class InDoubtError(Exception):
    """What the canary met leaves open which answer belongs to what: this connection is no good any more."""


class Opened(Session):
    """As `smtp.connect` gives it out, which says what it has `seen`."""

    seen: Seen
    doubtful = False  # an earlier connection was lost by trying whether chunks are swallowed

    async def open_window(self, window: int) -> None:
        """Before any transaction: let `window` bodies be on their way at once, if this server is fit for it.

        RFC 3030 section 2 has the chunks of a refused transaction swallowed, but there are servers that take them for
        commands: the text of a mail would be obeyed. What they do to harmless ones is seen here. Raises InDoubtError;
        `narrowed` says why it is not fit.
        """
        if not (self.extensions.chunking and self.extensions.pipelining):
            self.narrowed = "it does not offer both PIPELINING and CHUNKING"
            return
        said = _Said()
        self._transport.set_protocol(said)
        self._transport.write(CANARY)
        if self.trace is not None:
            self.trace(">", CANARY)
        try:
            async with asyncio.timeout(self._deadlines.command):
                codes: list[int] = []
                while len(codes) < _SWALLOWED or (codes[-1] != 250 and len(codes) < _SWALLOWED + 2):
                    codes.append((await said.answer())[0])
        except TimeoutError:
            raise InDoubtError(f"no answer to BDAT within {self._deadlines.command:g} s") from None
        except (Desync, ConnectionError) as error:
            raise InDoubtError(f"{error}, when it was sent BDAT outside a transaction") from error
        heard = ", ".join(map(str, codes))
        if self.trace is not None:
            self.trace("<", heard.encode())
        self._transport.set_protocol(self._wire)
        if codes[0] < 500 or codes[-1] != 250 or said.rest or self._transport.is_closing():
            raise InDoubtError(f"BDAT outside a transaction was answered {heard}")
        if len(codes) > _SWALLOWED:
            self.narrowed = "it takes the chunks of a refused message for commands"
        elif codes[1] != 250 or codes[2] < 500:
            self.narrowed = f"what it does to the chunks of a refused message cannot be tried: it answered {heard}"
        else:
            self._pipeline.window = window

    async def rehearse(self, sender: str, recipient: str = "") -> list[Response]:
        """The answers to MAIL, to RCPT where there is a `recipient`, and to the RSET behind them: nothing is sent.

        Before any transaction, and instead of all: the connection is only good for `abort` then. An answer that does
        not come has code 0 and ends the list. Raises ValueError, before anything is said, where an address cannot be.
        """
        for address in (sender, recipient):
            if FORBIDDEN & set(address) or not address.isprintable():
                raise ValueError(f"the address {address!a} cannot be said in a command")
        utf8 = not (sender + recipient).isascii()
        if utf8 and not self.extensions.smtputf8:
            raise ValueError("the server takes ASCII addresses only (no SMTPUTF8)")
        said = _Said()
        self._transport.set_protocol(said)
        parameters = " SMTPUTF8" if utf8 else ""
        answers = [await self._asked(said, Stage.MAIL, f"MAIL FROM:<{sender}>{parameters}")]
        if recipient and 200 <= answers[-1].code < 300:
            answers.append(await self._asked(said, Stage.RCPT, f"RCPT TO:<{recipient}>"))
        if answers[-1].code:
            answers.append(await self._asked(said, Stage.RSET, "RSET"))
        return answers

    async def _asked(self, said: _Said, stage: Stage, command: str) -> Response:
        self._transport.write(command.encode() + b"\r\n")
        if self.trace is not None:
            self.trace(">", command.encode())
        try:
            async with asyncio.timeout(self._deadlines.command):
                code, lines = await said.answer()
        except TimeoutError:
            return Response(stage, 0, "", f"no answer to {stage.upper()} within {self._deadlines.command:g} s")
        except (Desync, ConnectionError) as error:
            return Response(stage, 0, "", str(error))
        if self.trace is not None:
            self.trace("<", b"%d " % code + " ".join(lines).encode())
        return response(stage, code, lines)


class _Said(asyncio.Protocol):
    """What the server says, answer by answer."""

    def __init__(self) -> None:
        self._reader = AnswerReader()
        self._news = asyncio.Event()
        self._gone = False

    @property
    def rest(self) -> bytes:
        """What came behind the last answer."""
        return self._reader.rest

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone = True
        self._news.set()

    async def answer(self) -> tuple[int, list[str]]:
        """The next one. Raises Desync, ConnectionError."""
        while (found := self._reader.next()) is None:
            if self._gone:
                raise ConnectionError("the server closed the connection")
            self._news.clear()
            await self._news.wait()
        return found
