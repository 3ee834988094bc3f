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
MOST = 5_000_000  # mails of a folder that are remembered


class NewerError(ValueError):
    """Written by a later version of the program."""


@dataclass(frozen=True, slots=True)
class Owed:
    """A mail that is to leave the folder once its decision is served. `at`: when that was recorded (epoch)."""

    decision_id: str
    at: float


@dataclass(slots=True)
class Seen:
    """One folder. UIDs mean something only together with its UIDVALIDITY."""

    folder: str
    uidvalidity: int
    boundary: int = 1  # smaller UIDs were there before us: only those with a token of ours are read
    handled: set[int] = field(default_factory=set)  # read, or left for good
    owed: dict[int, Owed] = field(default_factory=dict)  # of the handled ones
    # Left because of limits that may change: mail from before `since` (epoch), and of more than `most` octets.
    passed: set[int] = field(default_factory=set)
    since: float = 0.0
    most: int = 0


class SeenStore:
    """The file of one account. Calls block for the disk."""

    def __init__(self, state: Path, account: str) -> None:
        """Raises OSError."""
        durable.make_folder(state / "inbound", 0o700)
        self._folder = durable.Folder(state / "inbound")
        self._name = f"{account}.json"
        self._folder.remove(durable.TEMPORARY + self._name, sync=False)  # not what other accounts are writing

    def close(self) -> None:
        """Give the descriptor back."""
        self._folder.close()

    def load(self) -> Seen | None:
        """What was known last; None where there is nothing, or only damage.

        Raises OSError where that cannot be told now, or where a later version of the program has written it.
        """
        try:
            return decode(self._folder.read(self._name, limit=LARGEST))
        except NewerError as error:
            hint = "run that version, or move the file away: the folder is met as if for the first time then"
            raise OSError(0, f"inbound/{self._name}: {error}; {hint}") from error
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
        "boundary": seen.boundary,
        "handled": ranges(seen.handled),
        "owed": [[uid, owed.decision_id, owed.at] for uid, owed in sorted(seen.owed.items())],
        "passed": ranges(seen.passed),
        "since": seen.since,
        "most": seen.most,
    }
    return json.dumps(document).encode() + b"\n"


def decode(data: bytes) -> Seen:
    """Raises ValueError for what is damaged, NewerError for what is of a later version."""
    try:
        document = json.loads(data)
        if document["format"] > FORMAT:
            raise NewerError(f"a later version has written it (format {document['format']!r}, here {FORMAT})")
        seen = Seen(
            str(document["folder"]),
            int(document["uidvalidity"]),
            int(document["boundary"]),
            _numbers(document["handled"]),
            {int(uid): Owed(str(decision_id), float(at)) for uid, decision_id, at in document["owed"]},
            _numbers(document["passed"]),
            float(document["since"]),
            int(document["most"]),
        )
    except (KeyError, TypeError, RecursionError, OverflowError) as error:
        raise ValueError(f"damaged: {type(error).__name__}") from error
    seen.handled.update(seen.owed)
    return seen


def ranges(numbers: Iterable[int]) -> list[list[int]]:
    """[[1, 3], [7, 7]] for 1, 2, 3, 7."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found


def _numbers(pairs: list[list[int]]) -> set[int]:
    """The numbers of `ranges`. Raises ValueError, before memory is filled, for what cannot be a folder's."""
    found: set[int] = set()
    for low, high in pairs:
        if not 0 < low <= high < 1 << 32 or len(found) + high - low > MOST:
            raise ValueError("damaged: no UIDs")
        found.update(range(low, high + 1))
    return found
