"""The recording smarthost of tests/faults as a process of its own, for tests that are not asynchronous."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.faults.journal import read_evidence
from tests.servers.process import end, wait_until

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Arrival:
    """A message as it came, with its envelope; `data` is what stood between DATA and the last dot, unstuffed."""

    sender: str
    recipients: tuple[str, ...]
    data: bytes

    @property
    def header(self) -> bytes:
        """Everything before the empty line, with the last line end."""
        return self.data.partition(b"\r\n\r\n")[0] + b"\r\n"

    @property
    def body(self) -> bytes:
        """Everything behind the empty line."""
        return self.data.partition(b"\r\n\r\n")[2]


class Recording:
    """One server; what it takes stays in `directory`."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        """Start it; `arguments` are those of tests.faults.server."""
        self.directory = directory
        command = [sys.executable, "-m", "tests.faults.server", "--port", "0", "--journal", str(directory), "--raw"]
        self._process = subprocess.Popen(
            [*command, *arguments], cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def stop(self) -> None:
        """End it."""
        end(self._process)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def arrivals(self, recipient: str = "") -> list[Arrival]:
        """What came for this recipient, or everything, in order."""
        return [
            Arrival(message.sender, message.recipients, (self.directory / "raw" / f"{message.id}.eml").read_bytes())
            for message in read_evidence(self.directory / "journal.jsonl").messages
            if not recipient or recipient in message.recipients
        ]

    def wait_for(self, recipient: str, count: int = 1, seconds: float = 20) -> list[Arrival]:
        """The same, once there are so many."""
        wait_until(
            lambda: len(self.arrivals(recipient)) >= count,
            seconds,
            lambda: f"{count} for {recipient}, but {[a.recipients for a in self.arrivals()]}",
        )
        return self.arrivals(recipient)
