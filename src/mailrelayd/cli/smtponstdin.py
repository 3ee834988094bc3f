"""`sendmail -bs`: SMTP (RFC 5321) on standard input and output, for programs that would rather speak it than pipe.

No network, one user, no queue of its own: every message is handed over before its answer is given.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from typing import BinaryIO

from mailrelayd.outbound.addresses import AddressError
from mailrelayd.outbound.handin import written_addresses
from mailrelayd.outbound.submission import MAX_RECIPIENTS, Options

LONGEST_COMMAND = 4096  # octets; RFC 5321 section 4.5.3.1.4 asks for 512, extensions for more
_PATH = re.compile(r'(?:FROM|TO):[ \t]*(<(?:[^<>"]|"(?:[^"\\]|\\.)*")*>|[^\s<>]+)(?:[ \t]+(.*))?', re.IGNORECASE)
_SIZE = re.compile(r"(?:^|[ \t])SIZE=(\d{1,20})(?:[ \t]|$)", re.IGNORECASE | re.ASCII)

Take = Callable[[Options, bytes], tuple[int, str]]  # the exit status and the queue id, or the reason


class Conversation:
    """One client, from the greeting to QUIT or the end of its input."""

    def __init__(self, said: BinaryIO, answers: BinaryIO, take: Take, max_message_size: int) -> None:
        self._said = said
        self._answers = answers
        self._take = take
        self._most = max_message_size
        self._host = socket.gethostname()
        self._forget()

    def _forget(self) -> None:
        self._sender: str | None = None
        self._recipients: list[str] = []

    def run(self) -> int:
        """The exit status: what became of the messages stands in the answers."""
        verbs: dict[str, Callable[[str], str]] = {
            "HELO": self._hello,
            "EHLO": self._hello_extended,
            "MAIL": self._mail,
            "RCPT": self._rcpt,
            "DATA": self._data,
            "RSET": self._reset,
            "NOOP": lambda _: "250 2.0.0 Ok",
            "VRFY": lambda _: "252 2.1.5 Send some mail, it will be tried",
            "HELP": lambda _: "214 2.0.0 EHLO HELO MAIL RCPT DATA RSET NOOP VRFY QUIT",
        }
        try:
            self._answer(f"220 {self._host} ESMTP mailrelayd")
            while (command := self._command()) is not None:
                verb, _, rest = command.partition(" ")
                if verb.upper() == "QUIT":
                    self._answer("221 2.0.0 Bye")
                    break
                known = verbs.get(verb.upper())
                self._answer(known(rest.strip()) if known else "500 5.5.2 Command not known")
        except BrokenPipeError:
            pass  # nobody listens any more; what was answered is on disk
        return os.EX_OK

    def _command(self) -> str | None:
        """The next line; None at the end of the input. One that is too long is no command."""
        line = self._said.readline(LONGEST_COMMAND)
        if not line.endswith(b"\n"):
            while (rest := self._said.readline(1 << 16)) and not rest.endswith(b"\n"):
                pass
            return "" if rest else None  # an end in the middle of a line is no command either
        return line.decode("utf-8", "surrogateescape").strip()

    def _answer(self, text: str) -> None:
        self._answers.write(text.encode("ascii", "backslashreplace") + b"\r\n")
        self._answers.flush()

    # -- commands, each with its answer --------------------------------------------------------------------------

    def _hello(self, _: str) -> str:
        self._forget()
        return f"250 {self._host}"

    def _hello_extended(self, _: str) -> str:
        self._forget()
        offered = ("PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES")
        return "\r\n".join((f"250-{self._host}", *(f"250-{word}" for word in offered), f"250 SIZE {self._most}"))

    def _reset(self, _: str) -> str:
        self._forget()
        return "250 2.0.0 Ok"

    def _mail(self, rest: str) -> str:
        path = _PATH.fullmatch(rest)
        if path is None or not rest.upper().startswith("FROM"):
            return "501 5.5.4 Syntax: MAIL FROM:<address>"
        if self._sender is not None:
            return "503 5.5.1 Nested MAIL command"
        if (size := _SIZE.search(path[2] or "")) and int(size[1]) > self._most:
            return f"552 5.3.4 More than {self._most} bytes"
        if path[1] != "<>" and (trouble := _trouble(path[1])):
            return f"501 5.1.7 {trouble}"
        self._sender = path[1]
        return "250 2.1.0 Ok"

    def _rcpt(self, rest: str) -> str:
        path = _PATH.fullmatch(rest)
        if path is None or not rest.upper().startswith("TO"):
            return "501 5.5.4 Syntax: RCPT TO:<address>"
        if self._sender is None:
            return "503 5.5.1 MAIL first"
        if trouble := _trouble(path[1]):
            return f"501 5.1.3 {trouble}"
        if len(self._recipients) >= MAX_RECIPIENTS:
            return "452 4.5.3 Too many recipients"
        self._recipients.append(path[1])
        return "250 2.1.5 Ok"

    def _data(self, _: str) -> str:
        if self._sender is None or not self._recipients:
            return "503 5.5.1 MAIL and RCPT first"
        self._answer("354 End with a line that is a single dot")
        message = self._message()
        if message is None:
            return "451 4.3.0 The input ended before the message did: nothing was taken"
        options = Options("sendmail", self._sender, tuple(self._recipients))
        self._forget()
        if len(message) > self._most:
            return f"552 5.3.4 More than {self._most} bytes"
        status, said = self._take(options, message)
        if status == os.EX_OK:
            return f"250 2.0.0 Ok: queued as {said}" if said else "250 2.0.0 Ok: queued"
        code = "554 5.6.0" if status == os.EX_DATAERR else "451 4.3.0"
        return f"{code} {' '.join(said.split())[:400]}"

    def _message(self) -> bytes | None:
        """Up to the dot, without the dots that were put before others (RFC 5321 section 4.5.2); None: it never came.

        What is too large is read to its end and cut.
        """
        lines: list[bytes] = []
        size = 0
        for line in self._said:
            if line in (b".\r\n", b".\n"):
                return b"".join(lines)
            if size <= self._most:
                lines.append(line.removeprefix(b"."))
                size += len(lines[-1])
        return None


def _trouble(path: str) -> str:
    """Why this is not one address; "" if it is."""
    try:
        return "" if len(written_addresses(path)) == 1 else "One address is needed"
    except AddressError as error:
        return str(error)
