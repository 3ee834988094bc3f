"""The recording sink as a process: built from sink.c where there is a compiler, else slowsink.py."""

from __future__ import annotations

import json
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.messages import Batch

SOURCE = Path(__file__).with_name("sink.c")
RECORD = struct.Struct("=QQQII")
NO_ID = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Offers:
    """How far away the sink is, and what it can."""

    rtt: float = 0.0  # ms
    pipelining: bool = True
    chunking: bool = True
    size: int = 104857600
    connections: int = 0  # further ones hear 421; 0: any number
    quick_ack: bool = False  # answers the delayed-ACK half of Nagle's stall

    def arguments(self) -> list[str]:
        """As sink.c and slowsink.py take them."""
        found = ["--rtt", f"{self.rtt:g}", "--size", str(self.size)]
        found += ["--connections", str(self.connections)] if self.connections else []
        flags = {"--no-pipelining": not self.pipelining, "--no-chunking": not self.chunking}
        flags["--quick-ack"] = self.quick_ack
        return [*found, *(flag for flag, on in flags.items() if on)]


@dataclass(frozen=True, slots=True)
class Record:
    """One accepted message."""

    at: int  # CLOCK_MONOTONIC, ns
    number: int
    body: int
    recipients: int
    connection: int


def build(directory: Path) -> list[str]:
    """The command that runs a sink; says so where it is the slow one."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    program = directory / "sink"
    if compiler:
        command = [compiler, "-O2", "-o", str(program), str(SOURCE)]
        result = subprocess.run(command, check=False, capture_output=True, text=True)
        if result.returncode == 0:
            return [str(program)]
        print(result.stderr, file=sys.stderr)
    print("no C compiler that works: the sink runs in Python and may itself be the limit", file=sys.stderr)
    return [sys.executable, str(SOURCE.with_name("slowsink.py"))]


class Sink:
    """One life of the sink on a port; the record outlives it."""

    def __init__(self, command: list[str], directory: Path, port: int, offers: Offers) -> None:
        """Returns once it listens."""
        self._record = directory / "accepted"
        arguments = ["--port", str(port), "--record", str(self._record), *offers.arguments()]
        self._record.touch()
        self._process = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"the sink does not start: {[*command, *arguments]}")

    @property
    def accepted(self) -> int:
        """How many messages so far; cheap."""
        return self._record.stat().st_size // RECORD.size

    def records(self) -> list[Record]:
        """All of them, in order."""
        return self.since(0)

    def since(self, position: int) -> list[Record]:
        """The records from this position on."""
        with self._record.open("rb") as file:
            file.seek(position * RECORD.size)
            data = file.read()
        return [Record(*fields) for fields in RECORD.iter_unpack(data[: len(data) // RECORD.size * RECORD.size])]

    def stop(self) -> dict[str, float]:
        """What it counted."""
        if self._process.poll() is not None:
            raise RuntimeError("the sink ended by itself")
        self._process.terminate()
        output, _ = self._process.communicate(timeout=10)
        found: dict[str, float] = json.loads(output)
        return found

    def kill(self) -> None:
        """However things stand."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


def verify(batch: Batch, records: list[Record]) -> dict[str, int]:
    """Lost, doubled and damaged deliveries, each counted by message and recipient."""
    taken = dict.fromkeys(batch.numbers, 0)
    found = {"lost": 0, "doubled": 0, "damaged": 0, "foreign": 0}
    for record in records:
        if record.number not in taken:
            found["foreign"] += 1
            continue
        taken[record.number] += record.recipients
        found["damaged"] += record.body != batch.size
    for count in taken.values():
        found["lost"] += max(batch.recipients - count, 0)
        found["doubled"] += max(count - batch.recipients, 0)
    return found


def ceiling(command: list[str], directory: Path, port: int, *, chunks: bool, count: int = 20_000) -> float:
    """Messages of 4 kB that the sink takes in a second from a client that only sends bytes prepared before."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "accepted").unlink(missing_ok=True)
    batch = Batch(1)
    text = next(iter(batch))[1]
    envelope = b"MAIL FROM:<a@example.test>\r\nRCPT TO:<b@sink.test>\r\n"
    dotted = text.replace(b"\r\n.", b"\r\n..")
    one = envelope + (b"BDAT %d LAST\r\n" % len(text) + text if chunks else b"DATA\r\n" + dotted + b".\r\n")
    sink = Sink(command, directory, port, Offers())
    block = one * 100
    blocks = count // 100
    try:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.recv(1000)
            connection.sendall(b"EHLO bench\r\n")
            connection.recv(1000)
            reader = threading.Thread(target=_swallow, args=(connection,), daemon=True)
            reader.start()
            begun = time.monotonic()
            for _ in range(blocks):
                connection.sendall(block)
            while sink.accepted < blocks * 100:
                time.sleep(0.001)
            took = time.monotonic() - begun
            connection.shutdown(socket.SHUT_RDWR)
            reader.join()
        return blocks * 100 / took
    finally:
        sink.kill()


def _swallow(connection: Any) -> None:
    while connection.recv(1 << 20):
        pass
