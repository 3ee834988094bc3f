"""A private Postfix as the smarthost: STARTTLS, AUTH by Dovecot, what it takes ends in a Maildir. Needs root."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.certificates import Certificates
from tests.servers.dovecot import DovecotAuth
from tests.servers.process import end, free_port, greets, refuses, wait_until

PROGRAM = "postfix"
MAILBOX_OWNER = "nobody"  # virtual(8) never writes as root

# What is refused here and how, by the recipient's local part; everybody else, of any domain, has a mailbox.
RECIPIENTS = """\
/^refused/   550 5.1.1 No such mailbox
/^deferred/  450 4.2.1 Mailbox busy, try again later
/./          OK
"""

# Who may use which sender address, once `smtpd_sender_restrictions = reject_sender_login_mismatch` is configured.
SENDERS = """\
noreply@example.com relay
other@example.com other
"""

# Nothing in here may change a message: no header is added for local clients, none is dropped, no address is completed.
MAIN = """\
compatibility_level = 3.6
queue_directory = {directory}/queue
data_directory = {directory}/data
maillog_file = {directory}/postfix.log
maillog_file_prefixes = {directory}
myhostname = smarthost.test
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
alias_database =
smtputf8_enable = yes
local_header_rewrite_clients =
message_drop_headers =
append_dot_mydomain = no
append_at_myorigin = no
message_size_limit = 20971520
mailbox_size_limit = 0
virtual_mailbox_limit = 0
virtual_mailbox_domains = static:all
virtual_mailbox_maps = static:inbox/
virtual_mailbox_base = {directory}/mail
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
smtpd_tls_cert_file = {certificate}
smtpd_tls_key_file = {key}
smtpd_tls_CAfile = {ca}
smtpd_tls_ask_ccert = yes
smtpd_tls_security_level = may
smtpd_tls_auth_only = yes
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = inet:127.0.0.1:{sasl_port}
smtpd_relay_restrictions = permit_sasl_authenticated, reject
smtpd_recipient_restrictions = check_recipient_access regexp:{directory}/recipients
smtpd_sender_login_maps = texthash:{directory}/senders
smtpd_error_sleep_time = 0
smtpd_client_connection_count_limit = 0
"""

# No service is jailed: a jail below /tmp would lack the libraries and sockets it needs.
MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
127.0.0.1:{tls_port} inet n - n - - smtpd
  -o smtpd_tls_wrappermode=yes
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
virtual unix - n n - - virtual
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
showq unix n - n - - showq
postlog unix-dgram n - n - 1 postlogd
"""

PREPENDED = (b"Return-Path:", b"X-Original-To:", b"Delivered-To:", b"Received:")


class Postfix:
    """The smarthost: STARTTLS on `port`, TLS from the first byte on `tls_port`, users as in `dovecot.USERS`."""

    def __init__(self, directory: Path, certificates: Certificates, dovecot: DovecotAuth) -> None:
        """Write the configuration into `directory`; nothing runs yet."""
        self.port = free_port()
        self.tls_port = free_port()
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        owner = pwd.getpwnam(MAILBOX_OWNER)
        self._inbox = directory / "mail" / "inbox" / "new"
        for name in ("etc", "queue", "data", "mail"):
            (directory / name).mkdir()
        os.chown(directory / "data", pwd.getpwnam("postfix").pw_uid, -1)
        os.chown(directory / "mail", owner.pw_uid, owner.pw_gid)
        (directory / "recipients").write_text(RECIPIENTS)
        (directory / "senders").write_text(SENDERS)
        self._main = MAIN.format(
            directory=directory,
            uid=owner.pw_uid,
            gid=owner.pw_gid,
            certificate=certificates.good.certificate,
            key=certificates.good.key,
            ca=certificates.ca,
            sasl_port=dovecot.port,
        )
        (directory / "etc" / "main.cf").write_text(self._main)
        (directory / "etc" / "master.cf").write_text(MASTER.format(port=self.port, tls_port=self.tls_port))

    def start(self) -> None:
        """Return once it greets; on the same ports as before."""
        if self.running:
            return
        etc = self._directory / "etc"
        # `check` creates the queue's folders, which master takes for granted.
        check = subprocess.run([PROGRAM, "-c", etc, "check"], capture_output=True, text=True, check=False)
        if check.returncode != 0:
            raise RuntimeError(f"postfix check:\n{check.stderr}\n{self.log()}")
        # `postfix start` would detach it: as our own child its group can be killed, whatever state it is in.
        programs = subprocess.check_output(["postconf", "-c", etc, "-h", "daemon_directory"], text=True).strip()
        self._process = subprocess.Popen(
            [f"{programs}/master", "-d", "-c", etc],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(lambda: greets(self.port) or not self.running, 30, self.log)
        if not self.running:
            raise RuntimeError(f"Postfix does not start:\n{self.log()}")

    def stop(self) -> None:
        """End it at once, sessions too: from outside, the machine is there and the ports are closed."""
        if self._process is not None:
            end(self._process)
            self._process = None
            # Its children share the listening sockets, and are gone a moment after their master.
            wait_until(lambda: refuses(self.port) and refuses(self.tls_port), 30, self.log)

    def restart(self) -> None:
        """End every session; what has arrived, and the log, stay."""
        self.stop()
        self.start()

    @property
    def running(self) -> bool:
        """Whether the master process lives."""
        return self._process is not None and self._process.poll() is None

    @contextmanager
    def configured(self, **parameters: str) -> Iterator[None]:
        """Run with other values in main.cf, by a restart there and back: a reload reaches old processes late."""
        extra = "".join(f"{name} = {value}\n" for name, value in parameters.items())
        try:
            self._restart(self._main + extra)
            yield
        finally:
            self._restart(self._main)

    def _restart(self, main: str) -> None:
        self.stop()
        (self._directory / "etc" / "main.cf").write_text(main)
        self.start()

    def messages(self, recipient: str) -> list[bytes]:
        """What arrived for this recipient, as virtual(8) stored it (see `as_sent`), in order of delivery."""
        if not self._inbox.exists():
            return []
        wanted = b"Delivered-To: " + recipient.encode()
        entries = sorted((entry.stat().st_mtime_ns, entry.name, entry) for entry in self._inbox.iterdir())
        stored = [entry.read_bytes() for _, _, entry in entries]
        return [message for message in stored if wanted in message.split(b"\n", 4)[:4]]

    def wait_for_messages(self, recipient: str, count: int = 1, seconds: float = 20) -> list[bytes]:
        """`messages`, once there are at least `count`."""
        wait_until(lambda: len(self.messages(recipient)) >= count, seconds, self.log)
        return self.messages(recipient)

    def accepted(self) -> list[str]:
        """The Message-IDs of all messages taken since the last `clear`, in the order in which they came in."""
        return re.findall(r"/cleanup\[\d+\]: \w+: message-id=(\S+)", self.log())

    def clear(self) -> None:
        """Forget what has arrived and what was logged."""
        if self._inbox.exists():
            for entry in self._inbox.iterdir():
                entry.unlink()
        if (self._directory / "postfix.log").exists():
            os.truncate(self._directory / "postfix.log", 0)

    def log(self) -> str:
        """Everything logged since the last `clear`."""
        path = self._directory / "postfix.log"
        return path.read_text(errors="replace") if path.exists() else "(no log)"


def as_sent(stored: bytes) -> bytes:
    """A stored message as the client sent it: without the headers Postfix put in front, and with CRLF.

    virtual(8) writes Return-Path, X-Original-To and Delivered-To before smtpd's Received, and LF for every CRLF; what
    else the message had, a Received of its own too, stays. (A bare LF on the wire is a line end to Postfix as well.)
    """
    lines = stored.split(b"\n")
    for name in PREPENDED:
        if not lines[0].startswith(name):
            raise ValueError(f"{name.decode()} expected from Postfix, not {lines[0]!r}")
        del lines[0]
        while lines[0][:1] in (b" ", b"\t"):
            del lines[0]
    return b"\r\n".join(lines)
