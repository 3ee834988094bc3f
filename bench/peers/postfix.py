"""Postfix: the anchor. A private instance of the installed one, with its defaults and its log."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path

from tests.servers.process import free_port, greets, wait_until

from bench.messages import SENDER, Batch
from bench.peers import Peer, Place, count, program
from bench.peers.filling import Client, fill

MAIN = """\
compatibility_level = 3.6
queue_directory = {directory}/queue
data_directory = {directory}/data
maillog_file = {directory}/log
maillog_file_prefixes = {directory}
myhostname = postfix.test
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
alias_database =
relayhost = [127.0.0.1]:{sink}
smtp_dns_support_level = disabled
smtp_tls_security_level = none
smtp_destination_concurrency_limit = {connections}
message_size_limit = 104857600
mailbox_size_limit = 0
smtpd_client_connection_count_limit = 0
smtpd_relay_restrictions = permit_mynetworks, reject
in_flow_delay = 0
"""
MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
{qmgr}qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
flush unix n - n 1000? 0 flush
showq unix n - n - - showq
postlog unix-dgram n - n - 1 postlogd
"""


class Postfix(Peer):
    """Messages come in by SMTP while it has no queue manager; it begins when it is started again with one."""

    root = True
    hands_in = True

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._postfix = program("postfix")
        self._etc = place.directory / "etc"
        self._port = free_port()
        for name in ("etc", "queue", "data"):
            (place.directory / name).mkdir()
        os.chown(place.directory / "data", pwd.getpwnam("postfix").pw_uid, -1)
        text = MAIN.format(directory=place.directory, sink=place.port, connections=place.connections)
        (self._etc / "main.cf").write_text(text)
        self._write_master("#")
        output = subprocess.check_output([program("postconf"), "-c", self._etc, "-h", "daemon_directory"], text=True)
        self._master = Path(output.strip()) / "master"
        self._client: Client | None = None

    def _write_master(self, qmgr: str) -> None:
        (self._etc / "master.cf").write_text(MASTER.format(port=self._port, qmgr=qmgr))

    def _start(self) -> None:
        subprocess.run([self._postfix, "-c", self._etc, "check"], check=True, capture_output=True)
        self._process = self.place.group.spawn(
            [self._master, "-d", "-c", self._etc],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def prepare(self, batch: Batch) -> None:
        """Its smtpd fsyncs every message."""
        self._start()
        wait_until(lambda: greets(self._port), 30, self.log)
        fill(self._port, batch)
        self._process.terminate()
        self._process.wait(20)
        wait_until(lambda: not self.place.group.pids(), 20, self.log)
        self._write_master("")
        subprocess.run([self._postfix, "-c", self._etc, "check"], check=True, capture_output=True)

    def begin(self) -> None:
        """Start it with its queue manager."""
        self._start()

    def waiting(self) -> int:
        return count(self.place.directory / "queue" / name for name in ("incoming", "active", "deferred"))

    def hand_in(self, number: int, text: bytes) -> None:
        """By SMTP over a connection that stays."""
        if self._client is None:
            wait_until(lambda: greets(self._port), 30, self.log)
            self._client = Client(self._port)
        self._client.send(["r0@sink.test"], text)

    def sendmail(self, command: str) -> list[str]:
        """It is on disk, below maildrop, when that ends."""
        return [program("sendmail"), "-C", str(self._etc), "-f", SENDER, "r0@sink.test"]

    def retry(self) -> None:
        """What an administrator, or a cron job, does once the way is free again."""
        subprocess.run([program("postqueue"), "-c", self._etc, "-f"], check=True, capture_output=True)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def log(self) -> str:
        """What it has said."""
        path = self.place.directory / "log"
        return path.read_text(errors="replace") if path.exists() else "(no log)"
