"""What is written down during a campaign, one JSON object per line, and how it is read back.

`dropped.jsonl` (the driver): one `Dropped` per message. `deaths.jsonl` (the driver): one `Death` per ended process.
`journal.jsonl` (the server): events `accept`, `acked`, `end`, `fault`, `violation`; `accept` is on disk before its 250.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

TEST_ID = "X-Test-Id"


@dataclass(frozen=True, slots=True)
class Dropped:
    """One message as a producer meant it. `header` and `body` are its bytes read as Latin-1, line ends as dropped.

    `status` is what the program that handed it in ended with: unless it is 0, nobody has promised anything.
    """

    test_id: str
    recipients: tuple[str, ...]
    header: str
    body_sha256: str  # of the body as it must arrive: CRLF only
    status: int = 0  # negative: the signal


@dataclass(frozen=True, slots=True)
class Death:
    """A process of the daemon ended at `at` (wall time, seconds). `meant`: the campaign killed or stopped it."""

    at: float
    code: int  # negative: the signal
    meant: bool


@dataclass(slots=True)
class Recorded:
    """One message the server took, with what is known of its answer and of the end of its connection."""

    id: int
    connection: int
    at: float
    sender: str
    recipients: tuple[str, ...]
    test_id: str
    message_id: str
    size: int
    sha256: str
    header: str
    body_sha256: str
    answer: str  # "250", or the fault the client met instead; "tainted": an honest 250 after a dishonest answer
    came: float = math.inf  # when its last byte had certainly come: a slow server reads it much later
    acked_at: float | None = None
    acked_by: str = ""  # "body", "quit" or "group", see server.Session.prove
    ended_at: float | None = None
    ended: str = ""  # "quit", "eof", "reset", "fault", "server"


@dataclass(slots=True)
class Evidence:
    """Everything one journal says."""

    messages: list[Recorded] = field(default_factory=list)
    violations: list[dict[str, Any]] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)


def split(data: bytes) -> tuple[bytes, bytes]:
    """Header (with the line end of its last line) and body of a message; the blank line between is in neither."""
    match = re.search(rb"(?:\A|(?<=\n))\r?\n", data)
    return (data, b"") if match is None else (data[: match.start()], data[match.end() :])


def sha256(data: bytes) -> str:
    """The hexadecimal digest."""
    return hashlib.sha256(data).hexdigest()


def header_value(header: bytes, name: str) -> str:
    """The first field of that name, unfolded and stripped; "" if there is none."""
    match = re.search(rb"^" + name.encode() + rb":((?:.*\n?)(?:[ \t].*\n?)*)", header, re.IGNORECASE | re.MULTILINE)
    return " ".join(match[1].decode("latin-1").split()) if match else ""


def append_line(path: Path, record: Dropped | Death) -> None:
    """Add one record of the driver to its file."""
    with path.open("a", encoding="ascii") as file:
        file.write(json.dumps(asdict(record)) + "\n")


def read_dropped(path: Path) -> list[Dropped]:
    """What `append_line` wrote."""
    return [Dropped(**{**record, "recipients": tuple(record["recipients"])}) for record in _lines(path)]


def read_deaths(path: Path) -> list[Death]:
    """What `append_line` wrote."""
    return [Death(**record) for record in _lines(path)]


def read_evidence(path: Path) -> Evidence:
    """The server's journal, its later remarks joined to the messages they speak of."""
    evidence = Evidence()
    by_id: dict[int, Recorded] = {}
    by_connection: dict[int, list[Recorded]] = {}
    for record in _lines(path):
        match record.pop("event"):
            case "accept":
                message = Recorded(**{**record, "recipients": tuple(record["recipients"])})
                evidence.messages.append(message)
                by_id[message.id] = message
                by_connection.setdefault(message.connection, []).append(message)
            case "acked":
                for number in record["ids"]:
                    by_id[number].acked_at, by_id[number].acked_by = record["at"], record["by"]
            case "end":
                for message in by_connection.get(record["connection"], []):
                    message.ended_at, message.ended = record["at"], record["how"]
            case "fault":
                evidence.faults[f"{record['stage']}:{record['fault']}"] += 1
            case "violation":
                evidence.violations.append(record)
    return evidence


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with path.open(encoding="ascii") as file:
        return [json.loads(line) for line in file if line.endswith("\n")]


class Journal:
    """The append-only file behind the server. All that is ready in one turn of the loop shares one fdatasync."""

    def __init__(self, path: Path, *, sync: bool = True) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._sync = sync
        self._lines: list[str] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._scheduled = False

    def note(self, event: str, **fields: object) -> None:
        """Write a line soon; it may be lost with the machine, not with the client."""
        self._lines.append(json.dumps({"event": event, **fields}) + "\n")
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    async def commit(self, event: str, **fields: object) -> None:
        """Write a line; return when it is on disk."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self.note(event, **fields)
        await done

    def close(self) -> None:
        """Write what is left."""
        self._flush()
        os.close(self._descriptor)

    def _flush(self) -> None:
        self._scheduled = False
        data = "".join(self._lines).encode("ascii")
        self._lines.clear()
        while data:
            data = data[os.write(self._descriptor, data) :]
        waiting, self._waiting = self._waiting, []
        if waiting and self._sync:
            os.fdatasync(self._descriptor)
        for done in waiting:
            if not done.done():
                done.set_result(None)
