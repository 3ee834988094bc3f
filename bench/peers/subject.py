"""mailrelayd, as its users run it: a process, a configuration file, files that are renamed into pickup/new."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.servers.process import wait_until

from bench.messages import Batch, sync_folder, write_durably
from bench.peers import Peer, Place, count

CONFIGURATION = """\
[node]
name = "bench"
[spool]
directory = "{directory}/spool"
[state]
directory = "{directory}/state"
[outbound.smarthost]
host = "127.0.0.1"
port = {port}
security = "none"
connections = {connections}
[log]
format = "json"
"""


class Mailrelayd(Peer):
    """The daemon runs and waits; its producer has written and fsynced every file in pickup/tmp, and renames them."""

    hands_in = True

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        directory = place.directory
        self._pickup = directory / "spool" / "pickup"
        self._queue = directory / "spool" / "queue"
        self._log = directory / "log"
        configuration = directory / "mailrelayd.toml"
        text = CONFIGURATION.format(directory=directory, port=place.port, connections=place.connections)
        configuration.write_text(text)
        self._command = [sys.executable, "-m", "mailrelayd", "--config", str(configuration), "run"]

    def prepare(self, batch: Batch) -> None:
        """Start the daemon, then write: interpreter and imports are not what is measured."""
        with self._log.open("wb") as log:
            self._process = self.place.group.spawn(
                self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log
            )
        wait_until(lambda: '"daemon.ready"' in self.log() or self._process.poll() is not None, 60, self.log)
        if self._process.poll() is not None:
            raise RuntimeError(f"mailrelayd does not start:\n{self.log()}")
        for number, text in batch:
            write_durably(self._pickup / "tmp" / f"{number:08}", text)
        sync_folder(self._pickup / "tmp")

    def begin(self) -> None:
        """Rename all of them."""
        for name in sorted(os.listdir(self._pickup / "tmp")):
            os.rename(self._pickup / "tmp" / name, self._pickup / "new" / name)

    def waiting(self) -> int:
        return count([self._pickup / "new"]) + count([self._queue], ".eml")

    def hand_in(self, number: int, text: bytes) -> None:
        """As docs/producers.md says: write, fsync, rename."""
        write_durably(self._pickup / "tmp" / f"{number:08}", text)
        os.rename(self._pickup / "tmp" / f"{number:08}", self._pickup / "new" / f"{number:08}")

    def log(self) -> str:
        """What it has said."""
        return self._log.read_text(errors="replace")
