"""Accounts for tests that connect without a configuration file; times in seconds."""

from __future__ import annotations

from dataclasses import dataclass, field

PATIENCE = 5.0


@dataclass(frozen=True)
class Tls:
    """The keys of a `tls` table."""

    minimum: str = "1.2"
    maximum: str = ""
    ca_file: str = ""
    certificate: str = ""
    key: str = ""
    server_name: str = ""
    fingerprint: str = ""
    verify: bool = True


@dataclass(frozen=True)
class Account:
    """The keys of an [outbound.NAME] or [inbound.NAME] table; by default a plain server on this machine."""

    port: int | None
    host: str = "127.0.0.1"
    security: str = "none"
    allow_plaintext: bool = False
    auth: str = "none"
    connect_timeout: float = PATIENCE
    command_timeout: float = PATIENCE
    data_timeout: float = PATIENCE
    tls: Tls = field(default_factory=Tls)
