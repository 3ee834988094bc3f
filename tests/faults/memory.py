"""What a process has held."""

from __future__ import annotations

import re
from pathlib import Path


def largest(pid: int) -> int:
    """The most memory that it has had at a time, in KiB; 0 where it has ended."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except FileNotFoundError:
        return 0
    return int(found[1]) if found else 0
