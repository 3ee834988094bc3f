"""What systemd is told, and whether the daemon is still worth its watchdog.

sd_notify(3) is a datagram of `NAME=value` lines to a socket; a library for that would be longer than this.
Without NOTIFY_SOCKET (containers, a terminal, tests) nothing happens. Nothing here ever raises: the daemon's
work does not depend on who watches it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Mapping

from mailrelayd.clock import Clock
from mailrelayd.operate import events, log

UNWATCHED_INTERVAL = 30.0  # seconds between two looks at the promises where no watchdog sets the pace
_PATIENCE = 1.0  # seconds; the manager's queue may be full for a moment, and READY=1 must not get lost


def ready(status: str = "") -> bool:
    """Start, or reload, is over. True: somebody was told."""
    return _send("READY=1", _status(status))


def status(text: str) -> bool:
    """The line that `systemctl status` shows."""
    return _send(_status(text))


def reloading() -> bool:
    """A reload begins; `ready()` ends it. The stamp belongs to it: with Type=notify-reload it is awaited."""
    return _send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def stopping(status: str = "") -> bool:
    """The daemon is on its way out."""
    return _send("STOPPING=1", _status(status))


def alive() -> bool:
    """One beat for the watchdog; only `Watchdog` sends it."""
    return _send("WATCHDOG=1")


def watchdog_interval(environ: Mapping[str, str], pid: int) -> float | None:
    """Seconds between two beats: half of what systemd allows (sd_watchdog_enabled(3)); None: nobody watches us."""
    limit = environ.get("WATCHDOG_USEC", "")
    watched = environ.get("WATCHDOG_PID", str(pid))
    if not limit.isdecimal() or int(limit) == 0 or watched != str(pid):
        return None
    return int(limit) / 2 / 1_000_000


class Watchdog:
    """Keeps the promises of the loops; systemd hears from us only while every one of them is kept.

    A loop that waits on something dead still answers timers, so being alive proves nothing. Having done work
    lately does: each loop says when it did, and until when it will show up again.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due: dict[str, float] = {}
        self._reported: set[str] = set()

    def beat(self, name: str, within: float) -> None:
        """Loop `name` did its work now, and promises to be here again within that many seconds."""
        self._due[name] = self._clock.monotonic() + within
        self._reported.discard(name)

    def ended(self, name: str) -> None:
        """Loop `name` is over, as it should be: nothing more is expected of it."""
        self._due.pop(name, None)
        self._reported.discard(name)

    def silent(self, now: float) -> dict[str, float]:
        """The loops that broke their promise by `now` (clock.monotonic()), and by how many seconds."""
        return {name: now - due for name, due in self._due.items() if now > due}

    def excuse(self, seconds: float) -> None:
        """Move every promise: for that long nobody in this process could run (suspended, or stopped)."""
        self._due = {name: due + seconds for name, due in self._due.items()}

    def check(self, now: float) -> bool:
        """Tell systemd that all is well, if it is. Each silent loop is logged once. False: one is silent."""
        silent = self.silent(now)
        for name, overdue in silent.items():
            if name not in self._reported:
                self._reported.add(name)
                events.daemon_silent(loop=name, overdue=overdue)
        if not silent:
            alive()
        return not silent

    async def run(self, stop: asyncio.Event) -> None:
        """Look at the promises twice per watchdog period until `stop` is set.

        Set `stop` only when the last loop has ended: systemd's patience holds while we shut down as well.
        """
        interval = watchdog_interval(os.environ, os.getpid()) or UNWATCHED_INTERVAL
        while True:
            looked = self._clock.monotonic()
            self.check(looked)
            if await self._clock.wait(stop, interval):
                return
            late = self._clock.monotonic() - looked - interval
            if late > interval:
                self.excuse(late)


def _status(text: str) -> str:
    # Escaped: a line end would begin the next assignment.
    return f"STATUS={log.escape(text)}" if text else ""


def _send(*assignments: str) -> bool:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):  # vsock is for virtual machines
        return False
    if address.startswith("@"):  # the abstract namespace of unix(7)
        address = "\0" + address[1:]
    data = "\n".join(filter(None, assignments)).encode("utf-8", "backslashreplace")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notification:
            notification.settimeout(_PATIENCE)
            notification.sendto(data, address)
    except (OSError, ValueError):  # gone, full, a path too long, a NUL in it
        return False
    return True
