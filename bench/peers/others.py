"""The relays that a Debian package exists of, each in a room of its own and set up as its manual says."""

from __future__ import annotations

import json
import os
import pwd
import subprocess

from tests.servers.process import free_port, greets, wait_until

from bench.messages import SENDER, Batch, sync_folder, write_durably
from bench.peers import Peer, Place, count, starting
from bench.peers.filling import fill
from bench.peers.room import Room

EXIM = """\
primary_hostname = exim.test
spool_directory = /var/spool/exim4
log_file_path = /var/spool/exim4/log/%slog
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
queue_only
smtp_accept_max = 0
smtp_accept_max_per_connection = 0
smtp_accept_queue_per_connection = 0
message_size_limit = 100M
rfc1413_query_timeout = 0s
host_lookup =
tls_advertise_hosts =
acl_smtp_rcpt = anybody
begin acl
anybody:
  accept
begin routers
smarthost:
  driver = manualroute
  route_list = * 127.0.0.1 byname
  self = send
  transport = out
begin transports
out:
  driver = smtp
  port = {sink}
  allow_localhost
  hosts_avoid_tls = *
begin retry
* * F,2h,1m
"""
OPENSMTPD = """\
listen on 127.0.0.1 port {port}
action "out" relay host smtp://127.0.0.1:{sink}
match from any for any action "out"
"""
NULLMAILER_REMOTE = "127.0.0.1 smtp --port={sink}\n"
DMA = "SMARTHOST 127.0.0.1\nPORT {sink}\nMAILNAME dma.test\n"
MSMTP = """\
cd {folder} || exit 1
for file in *.eml; do
    msmtp --file=/etc/msmtprc --from={sender} -- {addresses} <"$file" && rm "$file"
done
"""
MSMTPRC = "account default\nhost 127.0.0.1\nport {sink}\nauth off\ntls off\n"


class _Roomer(Peer):
    """What all of them share: a room, and a spool on the real disk."""

    root = True
    package = ""
    spool = ""  # where the program has it

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._disk = place.directory / "spool"
        self._disk.mkdir()
        self._port = free_port()
        self._lay_out()
        self._room = Room(place, self.package, self._files(), {self.spool: self._disk})

    def _files(self) -> dict[str, str]:
        return {}

    def _lay_out(self) -> None:
        """Folders and owners of the spool."""

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        """A daemon that takes messages by SMTP, once it does."""
        log = self.place.directory / "log"
        with log.open("wb") as stream:
            daemon = self._room.spawn(*command, stdout=stream, stderr=stream)
        wait_until(lambda: greets(self._port) or daemon.poll() is not None, 30, lambda: log.read_text("latin-1"))
        if daemon.poll() is not None:
            raise RuntimeError(f"{command[0]} does not start:\n{log.read_text('latin-1')}")
        return daemon

    def clock(self, command: list[str], text: bytes, times: int) -> list[float]:
        found = json.loads(self._room.run(*starting(command, times), stdin=text).splitlines()[-1])
        return [float(each) for each in found]

    def close(self) -> None:
        self._room.close()


class Exim(_Roomer):
    """Messages come in by SMTP with queue_only; it begins with one queue run."""

    package = "exim4-daemon-light"
    spool = "/var/spool/exim4"

    def _files(self) -> dict[str, str]:
        text = EXIM.format(port=self._port, sink=self.place.port)
        return {"/etc/exim4/exim4.conf": text}

    def _lay_out(self) -> None:
        passwd = (self.place.installed / self.package / "etc/passwd").read_text() if self._unpacked() else ""
        for line in passwd.splitlines():
            if line.startswith("Debian-exim:"):
                uid, gid = line.split(":")[2:4]
                os.chown(self._disk, int(uid), int(gid))

    def _unpacked(self) -> bool:
        return (self.place.installed / self.package / "unpacked").exists()

    def prepare(self, batch: Batch) -> None:
        daemon = self._start("/usr/sbin/exim4", "-bdf")
        fill(self._port, batch)
        daemon.terminate()
        daemon.wait(20)
        wait_until(lambda: not self.place.group.pids(), 20, lambda: "exim does not end")

    def begin(self) -> None:
        self._room.spawn("/usr/sbin/exim4", "-q")

    def waiting(self) -> int:
        return count([self._disk / "input"], "-H")

    def retry(self) -> None:
        self._room.spawn("/usr/sbin/exim4", "-qff")


class OpenSmtpd(_Roomer):
    """Messages come in by SMTP while `smtpctl pause mta` holds; it begins with `smtpctl resume mta`."""

    package = "opensmtpd"
    spool = "/var/spool/smtpd"

    def _files(self) -> dict[str, str]:
        return {
            "/etc/smtpd.conf": OPENSMTPD.format(port=self._port, sink=self.place.port),
            "/etc/mailname": "opensmtpd.test\n",
            "/var/lib/opensmtpd/empty/.keep": "",
        }

    def _lay_out(self) -> None:
        self._disk.chmod(0o711)

    def prepare(self, batch: Batch) -> None:
        self._start("/usr/sbin/smtpd", "-d", "-F")
        self._room.run("/usr/sbin/smtpctl", "pause", "mta")
        fill(self._port, batch)

    def begin(self) -> None:
        self._room.run("/usr/sbin/smtpctl", "resume", "mta")

    def waiting(self) -> int:
        return count([self._disk / "queue"]) // 2  # envelopes beside a message: exact for one recipient

    def retry(self) -> None:
        self._room.run("/usr/sbin/smtpctl", "schedule", "all")


class Nullmailer(_Roomer):
    """Files are written into its queue, in its format, and fsynced; it begins when it is started."""

    package = "nullmailer"
    spool = "/var/spool/nullmailer"

    def _files(self) -> dict[str, str]:
        remote = NULLMAILER_REMOTE.format(sink=self.place.port)
        return {"/etc/nullmailer/remotes": remote, "/etc/nullmailer/me": "nullmailer.test\n"}

    def _lay_out(self) -> None:
        owner = pwd.getpwnam("mail")
        for name in ("queue", "tmp", "failed"):
            (self._disk / name).mkdir()
            os.chown(self._disk / name, owner.pw_uid, owner.pw_gid)
        os.mkfifo(self._disk / "trigger")
        for path in (self._disk, self._disk / "trigger"):
            os.chown(path, owner.pw_uid, owner.pw_gid)

    def prepare(self, batch: Batch) -> None:
        owner = pwd.getpwnam("mail")
        envelope = "".join(f"{line}\n" for line in (SENDER, *batch.addresses, "")).encode()
        for number, text in batch:
            path = self._disk / "queue" / f"1700000000.{number:08}"
            write_durably(path, envelope, text.replace(b"\r\n", b"\n"))
            os.chown(path, owner.pw_uid, owner.pw_gid)
        sync_folder(self._disk / "queue")

    def begin(self) -> None:
        user = ("--reuid=mail", "--regid=mail", "--clear-groups")
        self._room.spawn("/usr/bin/setpriv", *user, "/usr/sbin/nullmailer-send")

    def waiting(self) -> int:
        return count([self._disk / "queue"])

    def hand_in(self, number: int, text: bytes) -> None:
        """Rename and trigger, as nullmailer-queue does."""
        owner = pwd.getpwnam("mail")
        path = self._disk / "tmp" / f"1700000000.{number:08}"
        write_durably(path, f"{SENDER}\nr0@sink.test\n\n".encode(), text.replace(b"\r\n", b"\n"))
        os.chown(path, owner.pw_uid, owner.pw_gid)
        path.rename(self._disk / "queue" / path.name)
        trigger = os.open(self._disk / "trigger", os.O_RDWR | os.O_NONBLOCK)
        try:
            os.write(trigger, b"\0")
        finally:
            os.close(trigger)

    hands_in = True

    def sendmail(self, command: str) -> list[str]:
        return ["/usr/sbin/sendmail", "-f", SENDER, "r0@sink.test"]


class Msmtp(_Roomer):
    """One process per file, as its own msmtp-runqueue.sh does: it has no queue by itself."""

    package = "msmtp"
    spool = "/var/spool/msmtp"

    def _files(self) -> dict[str, str]:
        return {"/etc/msmtprc": MSMTPRC.format(sink=self.place.port)}

    def prepare(self, batch: Batch) -> None:
        for number, text in batch:
            write_durably(self._disk / f"{number:08}.eml", text.replace(b"\r\n", b"\n"))
        sync_folder(self._disk)
        self._script = MSMTP.format(folder=self.spool, sender=SENDER, addresses=" ".join(batch.addresses))

    def begin(self) -> None:
        self._room.spawn("/bin/sh", "-c", self._script)

    def waiting(self) -> int:
        return count([self._disk])

    def sendmail(self, command: str) -> list[str]:
        """It has sent it when it ends."""
        return ["/usr/bin/msmtp", "--file=/etc/msmtprc", f"--from={SENDER}", "--", "r0@sink.test"]


class Dma(_Roomer):
    """Messages are queued with DEFER; it begins with `dma -q`: one process and one connection per message, no limit."""

    package = "dma"
    spool = "/var/spool/dma"

    def _files(self) -> dict[str, str]:
        text = DMA.format(sink=self.place.port)
        return {
            "/etc/dma/dma.conf": text,
            "/etc/dma/deferring/dma.conf": text + "DEFER\n",
            "/etc/mailname": "dma.test\n",
        }

    def _lay_out(self) -> None:
        owner = pwd.getpwnam("mail")
        os.chown(self._disk, 0, owner.pw_gid)
        self._disk.chmod(0o2775)

    def prepare(self, batch: Batch) -> None:
        texts = self.place.directory / "texts"
        texts.mkdir()
        for number, text in batch:
            (texts / f"{number:08}").write_bytes(text.replace(b"\r\n", b"\n"))
        addresses = " ".join(batch.addresses)
        queue = f"for file in {texts}/*; do dma -f {SENDER} {addresses} <$file || exit 1; done"
        self._room.run(
            "/bin/sh", "-c", "mv /etc/dma/dma.conf /etc/dma/sending && cp /etc/dma/deferring/dma.conf /etc/dma"
        )
        self._room.run("/bin/sh", "-c", queue)
        self._room.run("/bin/sh", "-c", "mv /etc/dma/sending /etc/dma/dma.conf")

    def begin(self) -> None:
        self._room.spawn("/usr/sbin/dma", "-q")

    def waiting(self) -> int:
        return count([self._disk], "") // 2  # M and Q files

    def retry(self) -> None:
        self.begin()
