"""The daemon of the demonstration: a child process, known by its log alone."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mailrelayd.demo.page import Page, UntrueError

PATIENCE = 30.0  # seconds for anything that should happen by itself
LINE = re.compile(r"\S+T(?P<time>[\d:.]+)Z (?P<severity>\w+) (?P<event>\S+)(?P<pairs>.*)")
PAIR = re.compile(r' (\w+)=("(?:[^"\\]|\\.)*"|\S*)')
NOT_SHOWN = {"relay", "delay", "delays", "dsn", "uid", "size", "rule", "sha256", "spool", "account", "decision_id"}
NOT_SHOWN |= {"folder", "left", "removed", "requested_by"}
SAID_ALREADY = {"from", "status"}  # of a message: by its file, and by the name of the event


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the daemon's log."""

    at: float  # time.monotonic() when it was read
    name: str
    severity: str
    pairs: Mapping[str, str]


class Daemon:
    """`mailrelayd run` as a child, and the other commands with its configuration."""

    def __init__(self, folder: Path, page: Page) -> None:
        self.lines: list[str] = []
        self.events: list[Event] = []
        self._folder = folder
        self._page = page
        self._news = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        # Nothing of this shell may configure it, and its messages go nowhere but here.
        others = ("MAILRELAYD__", "NOTIFY_SOCKET", "WATCHDOG_", "JOURNAL_STREAM", "CREDENTIALS_DIRECTORY")
        self._environment = {k: v for k, v in os.environ.items() if not k.upper().startswith(others)}

    @property
    def command(self) -> tuple[str, ...]:
        """`mailrelayd` with its configuration, whatever stands in PATH."""
        return sys.executable, "-m", "mailrelayd", "--config", str(self._folder / "mailrelayd.toml")

    async def start(self) -> None:
        """Start it, and read its log from now on."""
        self._process = await asyncio.create_subprocess_exec(
            *self.command,
            "run",
            cwd=self._folder,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 20,
            start_new_session=True,  # Ctrl-C is ours: the daemon is ended in its turn
        )
        self._reader = asyncio.create_task(self._read(self._process.stderr))

    async def end(self) -> int:
        """SIGTERM; its exit status."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._process.terminate()
        async with asyncio.timeout(PATIENCE):
            status = await self._process.wait()
        if self._reader is not None:  # the end of its log
            await asyncio.wait([self._reader], timeout=PATIENCE)
        return status

    async def close(self) -> None:
        """Whatever happened, leave nothing running."""
        if self._process is not None:
            if self._process.returncode is None:
                with suppress(TimeoutError):
                    await self.end()
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        if self._reader is not None:
            await asyncio.wait([self._reader], timeout=1)
            self._reader.cancel()

    async def run(self, *arguments: str) -> None:
        """Run another command, and show what it prints."""
        self._page.quote(f"$ mailrelayd {' '.join(arguments)}")
        process = await asyncio.create_subprocess_exec(
            *self.command,
            *arguments,
            cwd=self._folder,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        for line in output.decode("utf-8", "backslashreplace").splitlines():
            self._page.quote(line)
        if process.returncode != os.EX_OK:
            raise UntrueError(f"mailrelayd {' '.join(arguments)} ended with status {process.returncode}")

    async def _read(self, stream: asyncio.StreamReader | None) -> None:
        assert stream is not None
        with (self._folder / "daemon.log").open("wb") as copy:
            async for data in stream:
                copy.write(data)
                self._line(data.decode("utf-8", "backslashreplace").rstrip("\n"))
                self._news.set()
        self._news.set()

    def _line(self, line: str) -> None:
        self.lines.append(line)
        found = LINE.fullmatch(line)
        if found is None:
            self._page.quote(line)
            return
        pairs = {key: _unquoted(value) for key, value in PAIR.findall(found["pairs"])}
        self.events.append(Event(time.monotonic(), found["event"], found["severity"], pairs))
        hidden = NOT_SHOWN | SAID_ALREADY if found["event"].startswith("message.") else NOT_SHOWN
        shown = "".join(
            f" {key}={value}"
            for key, value in PAIR.findall(found["pairs"])
            if key not in hidden and (key, value) != ("attempt", "1")
        )
        warning = "" if found["severity"] in ("info", "notice") else f"{found['severity']} "
        self._page.quote(f"{found['time'][:8]} {warning}{found['event']}{shown}")

    def wake(self) -> None:
        """Let `until` look again."""
        self._news.set()

    async def until(self, holds: Callable[[], bool], what: str, *, patience: float | None = PATIENCE) -> None:
        """Wait for something that the log will tell. Raises UntrueError where it does not."""
        try:
            async with asyncio.timeout(patience):
                while not holds():
                    if self._reader is None or self._reader.done():
                        raise UntrueError(f"the daemon ended before {what}")
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise UntrueError(f"not within {patience:.0f} s: {what}") from None

    def found(self, name: str, since: float = 0.0) -> list[Event]:
        """The events of this name, and not older than that."""
        return [event for event in self.events if event.name == name and event.at >= since]


def _unquoted(value: str) -> str:
    return re.sub(r'\\(["\\])', r"\1", value[1:-1]) if value.startswith('"') else value
