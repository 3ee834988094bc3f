"""The SMTP server of the demonstration: aiosmtpd with STARTTLS, a login, and manners that can be told.

It is the smarthost of the daemon, the server that the approvers hand their mail in to, and the one that is responsible
for the reply address: what comes for that is filed into the mailbox, with what was found out about its sender on top.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesHeaderParser
from email.utils import format_datetime, localtime, parseaddr
from pathlib import Path
from typing import Any

from mailrelayd.demo.mailbox import Mailbox
from mailrelayd.demo.people import PASSWORDS

REPLIES = "approvals@example.com"  # where answers go; approvals+anything@ as well
REFUSED, GREYLISTED = "nobody@example.com", "late@example.com"
DAEMON = "demo"  # its login
NAME = "mx.example.com"  # this server's, in Received and Authentication-Results
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
    """The mail server of example.com: refuses and puts off on cue, goes away, comes back."""

    def __init__(self, folder: Path, chaos: float, arrived: Callable[[Arrival], None]) -> None:
        import trustme

        self.mailbox: Mailbox | None = None
        self.arrivals: list[Arrival] = []
        self._arrived = arrived
        self._chaos = chaos
        self._put_off: set[bytes] = set()
        self._connections: list[Any] = []
        self._listener: asyncio.Server | None = None
        self.password = "only-for-the-demonstration"  # noqa: S105 - of a server that lives for seconds
        self.ca_file = folder / "ca.pem"
        authority = trustme.CA(organization_name="mailrelayd demo")
        authority.cert_pem.write_to_path(self.ca_file)
        self.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(self.tls)
        self.clients_tls = ssl.create_default_context()
        authority.configure_trust(self.clients_tls)
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
            hostname=NAME,
            ident="ready",
            enable_SMTPUTF8=True,
            tls_context=self.tls,
            require_starttls=True,
            authenticator=self._authenticate,
            loop=asyncio.get_running_loop(),
        )
        self._connections.append(connection)
        return connection

    def _authenticate(self, _server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> Any:
        from aiosmtpd.smtp import AuthResult

        user, password = data.login.decode("utf-8", "replace"), data.password.decode("utf-8", "replace")
        known = {**PASSWORDS, DAEMON: self.password}
        return AuthResult(success=known.get(user) == password, auth_data=user)

    # The names below are aiosmtpd's.

    async def handle_MAIL(self, _server: Any, session: Any, envelope: Any, address: str, options: list[str]) -> str:  # noqa: N802
        """Decide, under chaos, what is to become of this transaction."""
        chaotic = session.auth_data == DAEMON and random.random() < self._chaos  # noqa: S311 - no secret
        envelope.fate = random.choice(FATES) if chaotic else ""  # noqa: S311
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 OK"

    async def handle_RCPT(self, _server: Any, session: Any, envelope: Any, address: str, _options: list[str]) -> str:  # noqa: N802
        """Refuse one mailbox, put one off the first time; from outside take only what is for the reply address."""
        if not session.auth_data and not _is_reply(address):
            return "530 5.7.0 Authentication required"
        if address == REFUSED:
            return "550 5.1.1 No such mailbox here"
        sender = str(envelope.mail_from).encode()
        if address == GREYLISTED and sender not in self._put_off:
            self._put_off.add(sender)
            return "450 4.7.1 Greylisted, come back later"
        if envelope.fate == "451 rcpt":
            return "451 4.3.0 Chaos: try again later"
        if envelope.fate == "550 rcpt":
            return "550 5.2.1 Chaos: mailbox disabled"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        """Keep what arrived."""
        if envelope.fate == "451 data":
            return "451 4.3.0 Chaos: try again later"
        if envelope.fate == "554 data":
            return "554 5.6.0 Chaos: content refused"
        if envelope.fate == "drop":
            server.transport.abort()
            return "421 4.3.2 Chaos"
        if session.auth_data != DAEMON:
            return self._file(envelope, session)
        connection = self._connections.index(server)
        arrival = Arrival(time.monotonic(), connection, tuple(envelope.rcpt_tos), bytes(envelope.original_content))
        self.arrivals.append(arrival)
        self._arrived(arrival)
        return "250 2.0.0 OK"

    def _file(self, envelope: Any, session: Any) -> str:
        """Put an answer into the mailbox, as a mail server does: with Received and what it knows of the sender."""
        if self.mailbox is None:
            return "451 4.3.0 No mailbox yet"
        content = bytes(envelope.original_content)
        header: Message = BytesHeaderParser().parsebytes(content)
        author = parseaddr(str(header.get("From", "")))[1]
        user = str(session.auth_data or "")
        # Its own users it knows by their login; whoever else claims to be one of them is none.
        found = "pass" if user == author else "fail"
        login = f"auth=pass smtp.auth={user}; " if user else ""
        to = str(envelope.rcpt_tos[0])
        added = (
            f"Return-Path: <{envelope.mail_from}>\r\n"
            f"Delivered-To: {to}\r\n"
            f"Authentication-Results: {NAME}; {login}dmarc={found} header.from={author.rpartition('@')[2]}\r\n"
            f"Received: from {session.host_name} (localhost [127.0.0.1])\r\n\tby {NAME} with ESMTPS{'A' * bool(user)} "
            f"for <{to}>;\r\n\t{format_datetime(localtime())}\r\n"
        )
        self.mailbox.file(added.encode() + content)
        return "250 2.0.0 Delivered"


def _is_reply(address: str) -> bool:
    local, _, domain = REPLIES.partition("@")
    return re.fullmatch(rf"{local}(?:\+[^@]*)?@{re.escape(domain)}", address, re.IGNORECASE) is not None
