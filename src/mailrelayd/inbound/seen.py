"""What is remembered of a folder between two starts: STATE/inbound/ACCOUNT.json.

A hint that spares reading mail twice, and the promise of `adopt`: what was there before is not ours. Losing it is first
contact again; no decision hangs on it, since the archive knows every mail that was judged.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mailrelayd import durable

FORMAT = 1
LARGEST = 64 << 20  # bytes


@dataclass(slots=True)
class Owed:
    """A mail that is to leave the folder: from `due` on (seconds since the epoch), once its decision is served."""

    decision_id: str
    due: float


@dataclass(slots=True)
class Seen:
    """One folder. UIDs mean something only together with its UIDVALIDITY."""

    folder: str
    uidvalidity: int
    first: int = 1  # smaller UIDs were there before us and are none of ours
    handled: set[int] = field(default_factory=set)  # read, or left for good
    owed: dict[int, Owed] = field(default_factory=dict)


class SeenStore:
    """The file of one account. Calls block for the disk."""

    def __init__(self, state: Path, account: str) -> None:
        """Raises OSError."""
        durable.make_folder(state / "inbound", 0o700)
        self._folder = durable.Folder(state / "inbound")
        self._name = f"{account}.json"
        self._folder.sweep()

    def close(self) -> None:
        """Give the descriptor back."""
        self._folder.close()

    def load(self) -> Seen | None:
        """What was known last; None where there is nothing that can be used. Raises OSError."""
        try:
            return decode(self._folder.read(self._name, limit=LARGEST))
        except (FileNotFoundError, ValueError):
            return None

    def save(self, seen: Seen) -> None:
        """On disk when it returns. Raises OSError."""
        self._folder.write(self._name, encode(seen))


def encode(seen: Seen) -> bytes:
    """As JSON; UIDs as ranges."""
    document: dict[str, Any] = {
        "format": FORMAT,
        "folder": seen.folder,
        "uidvalidity": seen.uidvalidity,
        "first": seen.first,
        "handled": ranges(seen.handled),
        "owed": [[uid, owed.decision_id, owed.due] for uid, owed in sorted(seen.owed.items())],
    }
    return json.dumps(document).encode() + b"\n"


def decode(data: bytes) -> Seen:
    """Raises ValueError for what is damaged or newer."""
    try:
        document = json.loads(data)
        if document["format"] != FORMAT:
            raise ValueError("another format")
        handled = {uid for low, high in document["handled"] for uid in range(int(low), int(high) + 1)}
        owed = {int(uid): Owed(str(decision_id), float(due)) for uid, decision_id, due in document["owed"]}
        return Seen(str(document["folder"]), int(document["uidvalidity"]), int(document["first"]), handled, owed)
    except (KeyError, TypeError, RecursionError, OverflowError) as error:
        raise ValueError(f"damaged: {type(error).__name__}") from error


def ranges(numbers: Iterable[int]) -> list[list[int]]:
    """[[1, 3], [7, 7]] for 1, 2, 3, 7."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found
