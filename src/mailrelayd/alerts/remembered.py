"""What has been told, over restarts: STATE/alerts.json.

A daemon that is started anew each minute must not send its digest each minute. Forgetting does no more harm than one
mail too many, so a file that is missing, damaged or of a later version counts as nothing told.
"""

from __future__ import annotations

import json
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Final

from mailrelayd import durable

NAME: Final = "alerts.json"
VERSION: Final = 1
LIMIT: Final = 64 * 1024  # bytes


@dataclass(slots=True)
class Told:
    """`at`: when the last digest was queued, seconds since the epoch, 0 for never; `secrets`: of which was warned."""

    at: float = 0.0
    secrets: dict[tuple[str, date], int] = field(default_factory=dict)  # account and last day -> the days left


def read(state: Path) -> Told:
    """What the file in `state` says. Raises nothing."""
    with suppress(OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        with closing(durable.Folder(state)) as folder:
            found = json.loads(folder.read(NAME, limit=LIMIT))
        if found["version"] == VERSION:
            warned = {(str(one), date.fromisoformat(day)): int(days) for one, day, days in found["secrets"]}
            return Told(float(found["at"]), warned)
    return Told()


def write(state: Path, told: Told) -> None:
    """Put it on disk. Raises OSError."""
    warned = [[account, day.isoformat(), days] for (account, day), days in told.secrets.items()]
    content = json.dumps({"version": VERSION, "at": round(told.at, 3), "secrets": warned}) + "\n"
    with closing(durable.Folder(state)) as folder:
        folder.write(NAME, content.encode())
