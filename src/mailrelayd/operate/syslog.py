"""The local syslog socket: datagrams as syslog(3) writes them (RFC 3164), each of them one line of `maillog`.

Nobody waits for it: lines go through a bounded queue to a thread, and only the thread meets a reader that is slow,
missing or just being restarted. What does not fit into the queue meanwhile is lost, and counted.
"""

from __future__ import annotations

import atexit
import os
import socket
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import ParamSpec

from mailrelayd.clock import SystemClock
from mailrelayd.operate.maillog import Line

BACKLOG = 10_000  # lines; some minutes of a busy relay, and at most 10 MB
PATIENCE = 0.5  # seconds between two looks for a reader
PACKET = 1024  # octets, RFC 3164 section 4.1
IDENT = "mailrelayd"  # pflogsumm --syslog-name=mailrelayd

P = ParamSpec("P")

_MAIL = 2 << 3  # the facility
_SEVERITY = {"info": 6, "warning": 4}

Tell = Callable[[str, str, int], None]
"""(path, reason, lost): lines cannot be written, or (reason "") they can again, `lost` of them being gone."""


def setup(path: str, tell: Tell) -> None:
    """Write to the socket at `path` from now on; "" is nowhere. May be called again, after a reload."""
    global _writer
    if _writer is not None:
        if _writer.path == path:
            return
        _writer.end()
        _writer = None
    if path:
        _writer = _Writer(path, tell)


def write(word: Callable[P, Line], *args: P.args, **kwargs: P.kwargs) -> None:
    """Send the line that `word` makes of the rest, if [log] syslog says so: else it is not even made.

    Returns at once, and never raises what `word` does not.
    """
    if _writer is not None:
        _writer.put(framed(word(*args, **kwargs), time.localtime(_clock.now()), os.getpid()))


def framed(line: Line, moment: time.struct_time, pid: int) -> bytes:
    """One datagram: priority, local time and tag as syslog(3) puts them, no more octets than a packet may have."""
    priority = _MAIL | _SEVERITY[line.severity]
    text = f"<{priority}>{time.strftime('%b %e %T', moment)} {IDENT}/{line.service}[{pid}]: {line.text}"
    data = text.encode("utf-8", "backslashreplace")
    return data if len(data) <= PACKET else data[:PACKET].decode("utf-8", "ignore").encode()


class _Writer:
    """A thread with a queue in front."""

    def __init__(self, path: str, tell: Tell) -> None:
        self.path = path
        self._tell = tell
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        self._closing = threading.Event()
        self._counting = threading.Lock()
        self._lost = 0
        self._reason = ""
        self._channel: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name="syslog", daemon=True)
        self._thread.start()

    def put(self, data: bytes) -> None:
        """Hand one datagram to the thread."""
        if self._lines.qsize() < BACKLOG:
            self._lines.put(data)
            return
        with self._counting:
            self._lost += 1

    def end(self) -> None:
        """Let the thread end; what it can still write at once is written."""
        self._closing.set()
        self._lines.put(None)

    def close(self) -> None:
        """The same, and wait for it, but not for a reader."""
        self.end()
        self._thread.join(2 * PATIENCE)

    def _run(self) -> None:
        try:
            while (data := self._lines.get()) is not None:
                while not self._sent(data):
                    if self._closing.wait(PATIENCE):
                        return
        finally:
            self._hang_up()

    def _sent(self, data: bytes) -> bool:
        """Whether somebody took it. The socket of a reader that was restarted is another one under the same name."""
        try:
            if self._channel is None:
                self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._channel.settimeout(PATIENCE)
                self._channel.connect(self.path)
            self._channel.send(data)
        except OSError as error:
            self._hang_up()
            if not self._reason:
                self._reason = error.strerror or "nobody reads"
                self._tell(self.path, self._reason, 0)
            return False
        if self._reason or (self._lost and self._lines.empty()):
            self._reason = ""
            with self._counting:
                lost, self._lost = self._lost, 0
            self._tell(self.path, "", lost)
        return True

    def _hang_up(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None


_clock = SystemClock()
_writer: _Writer | None = None


@atexit.register
def _close() -> None:
    if _writer is not None:
        _writer.close()
