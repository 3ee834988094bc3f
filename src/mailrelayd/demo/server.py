"""The SMTP server of the demonstration: aiosmtpd with STARTTLS, a login, and manners that can be told."""

from __future__ import annotations

import asyncio
import random
import re
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REFUSED, GREYLISTED = "nobody@example.com", "late@example.com"
FATES = ("451 rcpt", "550 rcpt", "451 data", "554 data", "drop")  # what --chaos does to a transaction


@dataclass(frozen=True, slots=True)
class Arrival:
    """One message as the server got it."""

    at: float  # time.monotonic()
    connection: int
    recipients: tuple[str, ...]
    content: bytes

    @property
    def queue_id(self) -> str:
        """From the Received field that the daemon added."""
        found = re.match(rb"Received: by demo \(mailrelayd\) with local id ([2-7a-z]+)", self.content)
        return found[1].decode() if found else ""


class Server:
    """The smarthost: takes mail over STARTTLS and with a login, refuses and puts off on cue, goes away, comes back."""

    def __init__(self, folder: Path, chaos: float, arrived: Callable[[Arrival], None]) -> None:
        import trustme

        self.arrivals: list[Arrival] = []
        self._arrived = arrived
        self._chaos = chaos
        self._fate = ""
        self._put_off: set[bytes] = set()
        self._connections: list[Any] = []
        self._listener: asyncio.Server | None = None
        self.password = "only-for-the-demonstration"  # noqa: S105 - of a server that lives for seconds
        self.ca_file = folder / "ca.pem"
        authority = trustme.CA(organization_name="mailrelayd demo")
        authority.cert_pem.write_to_path(self.ca_file)
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(self._tls)
        # Keeps the port while the server is away, and from being the daemon's own end of a connection to itself.
        self._port_holder = socket.socket()
        self._port_holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._port_holder.bind(("127.0.0.1", 0))
        self.port: int = self._port_holder.getsockname()[1]

    async def come(self) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._connection, "127.0.0.1", self.port, reuse_port=True)

    def go(self) -> None:
        """Stop listening, and cut every connection; the sockets are closed from the loop, a moment later."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for connection in self._connections:
            if connection.transport is not None:
                connection.transport.abort()

    def close(self) -> None:
        """Go for good."""
        self.go()
        self._port_holder.close()

    def _connection(self) -> Any:
        from aiosmtpd.smtp import SMTP

        connection = SMTP(
            self,
            hostname="demo.example.com",
            ident="ready",
            enable_SMTPUTF8=True,
            tls_context=self._tls,
            require_starttls=True,
            auth_required=True,
            authenticator=self._authenticate,
            loop=asyncio.get_running_loop(),
        )
        self._connections.append(connection)
        return connection

    def _authenticate(self, _server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> Any:
        from aiosmtpd.smtp import AuthResult

        return AuthResult(success=data.login == b"demo" and data.password == self.password.encode())

    # The names below are aiosmtpd's.

    async def handle_MAIL(self, _server: Any, _session: Any, envelope: Any, address: str, options: list[str]) -> str:  # noqa: N802
        """Decide, under chaos, what is to become of this transaction."""
        self._fate = random.choice(FATES) if random.random() < self._chaos else ""  # noqa: S311 - no secret
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 OK"

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _options: list[str]) -> str:  # noqa: N802
        """Refuse one mailbox, put one off the first time."""
        if address == REFUSED:
            return "550 5.1.1 No such mailbox here"
        sender = str(envelope.mail_from).encode()
        if address == GREYLISTED and sender not in self._put_off:
            self._put_off.add(sender)
            return "450 4.7.1 Greylisted, come back later"
        if self._fate == "451 rcpt":
            return "451 4.3.0 Chaos: try again later"
        if self._fate == "550 rcpt":
            return "550 5.2.1 Chaos: mailbox disabled"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        """Keep what arrived."""
        if self._fate == "451 data":
            return "451 4.3.0 Chaos: try again later"
        if self._fate == "554 data":
            return "554 5.6.0 Chaos: content refused"
        if self._fate == "drop":
            server.transport.abort()
            return "421 4.3.2 Chaos"
        connection = self._connections.index(server)
        arrival = Arrival(time.monotonic(), connection, tuple(envelope.rcpt_tos), bytes(envelope.original_content))
        self.arrivals.append(arrival)
        self._arrived(arrival)
        return "250 2.0.0 OK"
