"""mailrelayd, as its users run it: a process, a configuration file, files that are renamed into pickup/new."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from tests.servers.process import wait_until

from bench.messages import SENDER, Batch, sync_folder, write_durably
from bench.peers import Peer, Place, count
from mailrelayd.operate import control, sockets
from mailrelayd.outbound import queueid

NODE = "bench"
PAUSE = 0.01  # seconds between two questions
CONFIGURATION = """\
[node]
name = "{node}"
[spool]
directory = "{place.directory}/spool"
[state]
directory = "{place.directory}/state"
[outbound.smarthost]
host = "127.0.0.1"
port = {place.port}
security = "none"
connections = {place.connections}
{window}[log]
format = "json"
"""


class Mailrelayd(Peer):
    """The daemon runs and waits; its producer has written and fsynced every file in pickup/tmp, and renames them."""

    hands_in = True

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        directory = place.directory
        self._spool = directory / "spool"
        self._pickup = self._spool / "pickup"
        self._queue = self._spool / "queue"
        self._log = directory / "log"
        self._configuration = directory / "mailrelayd.toml"
        window = f"window = {place.window}\n" if place.window > 1 else ""
        self._configuration.write_text(CONFIGURATION.format(place=place, node=NODE, window=window))
        self._program = [str(Path(sys.executable).with_name("mailrelayd")), "--config", str(self._configuration)]

    def start(self, seconds: float = 60) -> float:
        """Start the daemon; how long it took until it was ready."""
        begun = time.monotonic()
        with self._log.open("wb") as log:
            self._process = self.place.group.spawn(
                [*self._program, "run", "--loop", self.place.loop or "asyncio"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        wait_until(lambda: '"daemon.ready"' in self.log() or self._process.poll() is not None, seconds, self.log)
        if self._process.poll() is not None:
            raise RuntimeError(f"mailrelayd does not start:\n{self.log()}")
        return time.monotonic() - begun

    def restart(self, seconds: float = 60) -> float:
        """SIGTERM, and start it again; how long it took until it was ready, from the second start on."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(seconds)
        return self.start(seconds)

    def prepare(self, batch: Batch) -> None:
        """Start the daemon, then write: interpreter and imports are not what is measured."""
        self.start()
        for number, text in batch.files():
            write_durably(self._pickup / "tmp" / f"{number:08}", text)
        sync_folder(self._pickup / "tmp")

    def fill(self, batch: Batch) -> None:
        """Put the messages where the daemon would have put them long ago; it must not run."""
        self._queue.mkdir(parents=True, exist_ok=True, mode=0o700)
        ids = queueid.Sequence(NODE, int((time.time() - 86_400) * 1_000_000), reserved=sys.maxsize)
        for _, text in batch.files():
            path = self._queue / f"{ids.take(0)[0]}.eml"
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(descriptor, text)
            os.close(descriptor)
        subprocess.run(["sync", "--file-system", self._queue], check=True)

    def begin(self) -> None:
        """Rename all of them."""
        for name in sorted(os.listdir(self._pickup / "tmp")):
            os.rename(self._pickup / "tmp" / name, self._pickup / "new" / name)

    def waiting(self) -> int:
        return count([self._pickup / "new"]) + count([self._queue], ".eml")

    def settled(self) -> float | None:
        """A line "message.sent" is written once that is on disk; it tells the time in ms."""
        data = self._log.read_bytes()
        at = data.rfind(b'"message.sent"')
        if at < 0:
            return None
        line = json.loads(data[data.rfind(b"\n", 0, at) + 1 : data.index(b"\n", at)])
        return datetime.fromisoformat(line["time"]).timestamp() - time.time() + time.monotonic()

    def hand_in(self, number: int, text: bytes) -> None:
        """As docs/producers.md says: write, fsync, rename."""
        write_durably(self._pickup / "tmp" / f"{number:08}", text)
        os.rename(self._pickup / "tmp" / f"{number:08}", self._pickup / "new" / f"{number:08}")

    def sendmail(self, command: str) -> list[str]:
        """The daemon has it on disk when that ends."""
        more = ["-f", SENDER, "r0@sink.test"] if command == "sendmail" else []
        return [*self._program, command, *more]

    @contextmanager
    def asked(self, answers: list[float]) -> Iterator[None]:
        """In a thread, with a pause: an answer comes as late as the daemon's event loop does."""
        path = sockets.control_socket(self.place.directory / "state")
        over = threading.Event()

        def ask() -> None:
            while not over.wait(PAUSE):
                begun = time.perf_counter()
                list(control.ask(path, {"command": "status"}))
                answers.append((time.perf_counter() - begun) * 1000)

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def log(self) -> str:
        """What it has said."""
        return self._log.read_text(errors="replace")
