"""What the scenarios share: a configuration against the smarthost, ways to drop a file, what must arrive."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers import dovecot
from tests.servers.certificates import Certificates
from tests.servers.daemon import Daemon, account
from tests.servers.postfix import Postfix
from tests.servers.process import wait_until

USER = "relay"
PASSWORD = dovecot.USERS[USER]
SENDER = "noreply@example.com"
SETTLE = 0.3

RECEIVED = re.compile(
    rb"Received: by scenario \(mailrelayd\) with local id [a-z2-7]+ \(uid \d+\);\r\n"
    rb"\t[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} \+0000\r\n"
)


@dataclass
class Site:
    """One daemon's folders and the settings of its configuration; change a field, then ask for `text` again."""

    spool: Path
    state: Path
    ca: Path
    port: int
    security: str = "starttls"
    host: str = "localhost"
    password: str = f"text:{PASSWORD}"
    from_address: str = SENDER
    envelope: str = "headers"
    probe: str = "500ms"
    more: dict[str, list[str]] = field(default_factory=dict)  # further lines, by table

    @property
    def pickup(self) -> Path:
        """Where producers write."""
        return self.spool / "pickup"

    @property
    def text(self) -> str:
        """The configuration as TOML."""
        tables = {
            "node": ['name = "scenario"'],
            "spool": [f'directory = "{self.spool}"', f'envelope = "{self.envelope}"', f'settle = "{SETTLE}s"'],
            "state": [f'directory = "{self.state}"'],
            "retry": [f'probe = "{self.probe}"', 'message = ["300ms"]'],
            "outbound.smarthost": [
                f'host = "{self.host}"',
                f"port = {self.port}",
                f'security = "{self.security}"',
                f'user = "{USER}"',
                f'password = "{self.password}"',
                f'from_address = "{self.from_address}"',
                'connect_timeout = "5s"',
            ],
            "outbound.smarthost.tls": [f'ca_file = "{self.ca}"'],
        }
        for table, lines in self.more.items():
            tables[table] = [*tables.get(table, []), *lines]
        return "".join(f"[{table}]\n" + "\n".join(lines) + "\n\n" for table, lines in tables.items())

    def drop(self, name: str | bytes, data: bytes) -> Path:
        """Hand a file in by rename."""
        shown = os.fsdecode(name)
        hidden = self.pickup / f".{abs(hash(shown))}"
        hidden.write_bytes(data)
        return hidden.rename(self.pickup / shown)

    def waiting(self) -> list[str]:
        """The names in queue/."""
        return sorted(entry.name for entry in (self.spool / "queue").iterdir())

    def failed(self) -> list[str]:
        """The names in failed/."""
        return sorted(entry.name for entry in (self.spool / "failed").iterdir())

    def make_folders(self) -> None:
        """The pickup folder before the daemon's first start."""
        for path in (self.pickup, self.pickup / "tmp", self.pickup / "new"):
            path.mkdir()
            path.chmod(0o3730)
            account().own(path)


def site_for(postfix: Postfix, certificates: Certificates, spool: Path, state: Path) -> Site:
    """A site whose smarthost is the real one, by STARTTLS and with AUTH; its pickup folder is there."""
    made = Site(spool, state, certificates.ca, postfix.port)
    made.make_folders()
    return made


def message(number: int | str, *, to: str = "", body: bytes = b"text\r\n", more: bytes = b"") -> bytes:
    """An ordinary message; its Message-ID is <NUMBER@producer.test>."""
    return (
        b"From: Producer <producer@example.com>\r\n"
        + b"To: %s\r\n" % (to or f"to-{number}@dest.test").encode()
        + b"Message-ID: <%s@producer.test>\r\n" % str(number).encode()
        + b"Date: Sat, 21 Nov 2026 08:00:00 +0000\r\nSubject: a subject\r\n"
        + more
        + b"\r\n"
        + body
    )


def message_ids(numbers: Iterable[int | str]) -> list[str]:
    """The Message-IDs of such messages."""
    return [f"<{number}@producer.test>" for number in numbers]


def with_crlf(data: bytes) -> bytes:
    """Every line end as it goes on the wire, and one at the end."""
    text = re.sub(rb"\r\n|\r|\n", b"\r\n", data)
    return text if text.endswith(b"\r\n") else text + b"\r\n"


def without_received(arrived: bytes) -> bytes:
    """What arrived, without the one Received line that the daemon puts on top."""
    match = RECEIVED.match(arrived)
    assert match, arrived[:300]
    return arrived[match.end() :]


def wait_until_drained(site: Site, daemon: Daemon, seconds: float = 30) -> None:
    """Return once nothing waits in queue/."""
    wait_until(lambda: not site.waiting(), seconds, lambda: f"waiting: {site.waiting()[:5]}\n{daemon.log()[-5000:]}")


def no_secret(text: str) -> bool:
    """Whether the password stands nowhere in it, neither plain nor in what AUTH PLAIN and LOGIN make of it."""
    import base64

    secrets = [PASSWORD.encode(), f"\0{USER}\0{PASSWORD}".encode()]
    return not any(form in text for secret in secrets for form in (secret.decode(), base64.b64encode(secret).decode()))


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def door_that_closes(port: int) -> Iterator[list[float]]:
    """Accept and close every connection to this port; yields the growing list of when (monotonic)."""
    seen: list[float] = []
    with socket.create_server(("127.0.0.1", port)) as door:

        def watch() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = door.accept()
                    seen.append(time.monotonic())
                    connection.close()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield seen
        finally:
            door.shutdown(socket.SHUT_RDWR)
            thread.join(5)
