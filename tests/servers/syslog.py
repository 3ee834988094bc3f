"""A syslog daemon for one test: reads a socket's datagrams, and writes the file that rsyslog would have written."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import threading
from pathlib import Path
from typing import Self

from tests.servers.process import wait_until

FRAME = re.compile(rb"<(\d{1,3})>([A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d) ([^\0-\x1f]+)")


class Syslog:
    """Listens at `path`, for everybody. May be closed and opened again, as a daemon that is restarted."""

    def __init__(self, path: Path) -> None:
        """Nothing listens yet."""
        self.path = path
        self.datagrams: list[bytes] = []
        self._socket: socket.socket | None = None
        self._thread = threading.Thread()

    def __enter__(self) -> Self:
        """Listen."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self.path.chmod(0o666)
        self._thread = threading.Thread(target=self._read, args=(self._socket,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop; the socket's name is gone as well."""
        assert self._socket is not None
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._socket.close()
        self.path.unlink()

    def _read(self, channel: socket.socket) -> None:
        while datagram := channel.recv(1 << 16):
            self.datagrams.append(datagram)

    def wait_for(self, text: str, seconds: float = 20) -> None:
        """Return once a line holds this text."""
        wait_until(lambda: any(text.encode() in line for line in self.datagrams), seconds, self.mail_log)

    def lines(self) -> list[str]:
        """What was said, from the tag on; an AssertionError if a datagram is not framed as RFC 3164 has it."""
        found = []
        for datagram in self.datagrams:
            match = FRAME.fullmatch(datagram)
            assert match, datagram
            found.append(match[3].decode())
        return found

    def mail_log(self) -> str:
        """The file, in the traditional format: no priority, and the host's name behind the time."""
        matches = [match for datagram in self.datagrams if (match := FRAME.fullmatch(datagram))]
        return "".join(f"{match[2].decode()} relay1 {match[3].decode()}\n" for match in matches)


def totals(mail_log: str) -> dict[str, int]:
    """pflogsumm's grand totals for such a file, as in {"received": 2, "delivered": 3, ...}; it must find no fault."""
    found = pflogsumm(mail_log)
    part = found.partition("Grand Totals")[2].partition("Per-Hour")[0]
    return {words: int(count) for count, words in re.findall(r"^ +(\d+) +([a-z ]+[a-z])", part, re.MULTILINE)}


def pflogsumm(mail_log: str) -> str:
    """Its whole report. Nothing on standard error: Perl warns there about a line it cannot take apart."""
    command = ["pflogsumm", "--syslog-name=mailrelayd", "--verbose-msg-detail"]
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(command, input=mail_log, capture_output=True, text=True, check=True, env=environment)
    assert done.stderr == ""
    return done.stdout
