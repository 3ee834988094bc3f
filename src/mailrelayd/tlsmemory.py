"""STATE/tls.json: the safest way that ever led to each server, for `security = "auto"`.

Without it "safest first" could be talked down by whoever makes the safe ports fail (STRIPTLS).
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from mailrelayd import durable

NAME = "tls.json"
LIMIT = 1 << 20
FORMAT = 1
LEVELS = ("none", "starttls", "tls")


class TlsMemory:
    """What is remembered of one server: `smtp.Remembered`."""

    def __init__(self, state: Path, host: str) -> None:
        self._state = state
        self._host = host.lower()

    def best(self) -> tuple[str, int] | None:
        """Level and port; None: nothing seen yet. Raises OSError, ValueError where the file cannot be understood."""
        found = self._read().get(self._host)
        return (found["level"], found["port"]) if found else None

    def saw(self, level: str, port: int) -> None:
        """Remember. Raises OSError, ValueError as `best` does."""
        self._write({**self._read(), self._host: {"level": level, "port": port}})

    def forget(self) -> bool:
        """Whether there was anything to forget. Raises OSError, ValueError as `best` does."""
        servers = self._read()
        if self._host not in servers:
            return False
        del servers[self._host]
        self._write(servers)
        return True

    def _write(self, servers: dict[str, dict[str, Any]]) -> None:
        folder = durable.Folder(self._state)
        try:
            document = {"format": FORMAT, "servers": servers}
            folder.write(NAME, json.dumps(document, indent=1, sort_keys=True).encode() + b"\n")
        finally:
            folder.close()

    def _read(self) -> dict[str, dict[str, Any]]:
        with suppress(FileNotFoundError):
            folder = durable.Folder(self._state)
            try:
                content = folder.read(NAME, limit=LIMIT + 1)
            finally:
                folder.close()
            try:
                return _servers(content)
            except (ValueError, RecursionError) as error:
                cure = "restore the file, or remove it: the safest way to each server is then learnt anew"
                raise ValueError(f"{self._state / NAME}: {error}; {cure}") from error
        return {}


def _servers(content: bytes) -> dict[str, dict[str, Any]]:
    """Host -> level and port. Raises ValueError, RecursionError for anything that `saw` would not have written."""
    if len(content) > LIMIT:
        raise ValueError(f"is damaged, larger than {LIMIT} bytes")
    try:
        document = json.loads(content)
    except ValueError as error:
        raise ValueError(f"is damaged, no JSON: {error}") from error
    if not isinstance(document, dict):
        raise ValueError("is damaged, no JSON object")  # noqa: TRY004 - the content is wrong, not the caller
    version = document.get("format")
    if type(version) is not int:
        raise ValueError("is damaged, without a format")
    if version != FORMAT:
        raise ValueError(f"format {version} is not known here")
    servers = document.get("servers")
    if not isinstance(servers, dict) or not all(map(_sound, servers.values())):
        raise ValueError("is damaged, its servers are not as they were written")
    return servers


def _sound(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and entry.get("level") in LEVELS
        and type(entry.get("port")) is int
        and 0 < entry["port"] <= 65535
    )
