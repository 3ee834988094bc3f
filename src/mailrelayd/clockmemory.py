"""STATE/clock.json: by how much the wall clock differed from the machine's uptime when it could last be trusted.

Without it a daemon that starts under a wrong date could not tell, and would give up whatever waits.
"""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

from mailrelayd import durable
from mailrelayd.outbound.delivery import ClockTrust

NAME = "clock.json"
LIMIT = 4096  # bytes
FORMAT = 1
WORTH_A_WRITE = 60.0  # seconds
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class ClockMemory:
    """What the daemon before knew of the two clocks. Uptimes of different boots cannot be compared."""

    def __init__(self, state: Path, boot_id: Path = BOOT_ID) -> None:
        """Nothing is read yet."""
        self._state = state
        self._boot_id = boot_id
        self._saved: float | None = None

    def begin(self, trust: ClockTrust) -> None:
        """Let `trust` go on from what is known: with doubt after a boot, and where the file says nothing. No file: a
        first start, and nothing is there that could expire. Raises OSError.
        """
        with closing(durable.Folder(self._state)) as folder:
            try:
                content = folder.read(NAME, limit=LIMIT)
            except FileNotFoundError:
                return
        boot, offset = _understood(content)
        if boot and boot == self._boot():
            self._saved = offset
            trust.go_on_from(offset)
        else:
            trust.doubt()

    def keep(self, offset: float) -> None:
        """Remember an offset that can be trusted; nothing is written for a small change. Raises OSError."""
        if self._saved is not None and abs(offset - self._saved) < WORTH_A_WRITE:
            return
        document = {"format": FORMAT, "boot": self._boot(), "offset": offset}
        with closing(durable.Folder(self._state)) as folder:
            folder.write(NAME, json.dumps(document).encode() + b"\n")
        self._saved = offset

    def _boot(self) -> str:
        try:
            return self._boot_id.read_text().strip()
        except OSError:
            return ""  # then every start is one after a boot


def _understood(content: bytes) -> tuple[str, float]:
    """The boot and the offset; "" where the file is not one of ours, which is as good as another boot."""
    try:
        document = json.loads(content)
        if document["format"] == FORMAT:
            return str(document["boot"]), float(document["offset"])
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    return "", 0.0
