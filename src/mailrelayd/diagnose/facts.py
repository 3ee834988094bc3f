"""What an examination of a port goes by, and what it brings home. Pure."""

from __future__ import annotations

import shlex
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Door:
    """A port, and how it is to be entered. Times in seconds."""

    account: str  # "outbound.smarthost"
    protocol: str  # smtp | imap
    level: str  # tls | starttls | none
    host: str
    port: int
    server_name: str  # whom the certificate has to name
    hello: str  # our own name, for EHLO
    connecting: float
    answering: float

    @property
    def place(self) -> str:
        """Host and port as people write them."""
        return f"{_bracketed(self.host)}:{self.port}"

    @property
    def openssl(self) -> str:
        """The line that makes the same connection by hand."""
        words = ["openssl", "s_client", "-crlf", "-connect", self.place]
        if not self.server_name.replace(".", "").replace(":", "").isdecimal():
            words += ["-servername", self.server_name]
        if self.level == "starttls":
            words += ["-starttls", self.protocol]
        return shlex.join(words)


@dataclass(frozen=True, slots=True)
class Handshake:
    """A TLS handshake that came about."""

    version: str  # "1.3"
    cipher: str
    chain: tuple[bytes, ...]  # DER, the server's own first; what it sent, not what was verified
    heard: bytes = b""  # its first words behind the handshake, where somebody waited for them
    closed: bool = False  # it closed the connection instead


@dataclass(frozen=True, slots=True)
class Versions:
    """Which TLS versions ("1.0" to "1.3") a server takes."""

    taken: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()  # our own OpenSSL does not offer them, or no answer came


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
