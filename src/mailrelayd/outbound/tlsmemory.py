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


class TlsMemory:
    """What is remembered of one server: `smtp.Remembered`."""

    def __init__(self, state: Path, host: str) -> None:
        self._state = state
        self._host = host.lower()

    def best(self) -> tuple[str, int] | None:
        """Level and port; None: nothing seen yet. Raises OSError, ValueError where the file cannot be understood."""
        found = self._read().get(self._host)
        return (str(found["level"]), int(found["port"])) if found else None

    def saw(self, level: str, port: int) -> None:
        """Remember. Raises OSError."""
        folder = durable.Folder(self._state)
        try:
            servers = {**self._read(), self._host: {"level": level, "port": port}}
            document = {"format": FORMAT, "servers": servers}
            folder.write(NAME, json.dumps(document, indent=1, sort_keys=True).encode() + b"\n")
        finally:
            folder.close()

    def _read(self) -> dict[str, dict[str, Any]]:
        with suppress(FileNotFoundError):
            folder = durable.Folder(self._state)
            try:
                document = json.loads(folder.read(NAME, limit=LIMIT))
            finally:
                folder.close()
            if document.get("format") != FORMAT:
                raise ValueError(f"{self._state / NAME}: format {document.get('format')!r} is not known here")
            return dict(document["servers"])
        return {}
