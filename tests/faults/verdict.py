"""Compares what was dropped with what arrived and what was kept, and says whether the daemon kept its promises."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.faults.journal import (
    TEST_ID,
    Death,
    Dropped,
    Evidence,
    Recorded,
    header_value,
    read_deaths,
    read_dropped,
    read_evidence,
    split,
)

STRIPPED = ("bcc", "resent-bcc", "return-path", "content-length")
"""Header fields the daemon documents to remove; it also removes the mbox From line and X-Approval- fields."""

WINDOW = 0.5
"""Seconds between the proof that a 250 was read and a kill, within which the record may not have reached the disk."""

UNABLE = (69, 75)
"""What a program that hands mail in may end with: no daemon, try again."""

KILLED = (-9, 128 + 9)
"""How a process ends that was killed, seen directly or through a shell."""

TORN = "torn"
"""Stands for a record that cannot be read."""

GROUP_GRACE = 0.1
"""Seconds a connection must live on for a proof `group` to count, see server.Session.prove."""


@dataclass
class Verdict:
    """The count of every kind of recipient and repeat. `details` has one sentence for each that speaks against."""

    dropped: int = 0  # recipients, over all messages
    sent: int = 0  # recorded by the server at least once
    failed: int = 0  # kept under failed/, with the recipient
    queued: int = 0  # still in pickup/ or queue/
    untaken: int = 0  # nothing came of them, as whoever handed them in was not told otherwise; not in `dropped`
    lost: int = 0  # none of these
    dup_race: int = 0  # repeated; the client cannot have known better
    dup_window: int = 0  # repeated; killed between reading the 250 and having it on disk
    dup_calm: int = 0  # repeated without an excuse
    denied: int = 0  # taken by the server, the 250 read, and yet kept as failed
    corrupt: int = 0  # arrived otherwise than dropped
    foreign: int = 0  # arrived, never dropped; or for a recipient nobody named
    unstable_ids: int = 0  # messages whose Message-ID is missing or changed between tries
    violations: int = 0
    crashes: int = 0  # ends of the daemon that nobody asked for
    stuck: int = 0  # daemons that had to be killed at the end, SIGTERM being not enough
    kills: int = 0
    met: int = 0  # kills of lives in which mail arrived
    faults: int = 0  # that the server committed
    window_allowed: int = 0
    details: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every promise held; messages that still wait break none (see `drained`)."""
        content = self.corrupt, self.foreign, self.unstable_ids
        behaviour = self.violations, self.crashes, self.stuck
        bad = any((self.lost, self.dup_calm, self.denied, *content, *behaviour))
        return not bad and self.dup_window <= self.window_allowed

    @property
    def drained(self) -> bool:
        """Whether nothing waits any more."""
        return self.queued == 0

    def __str__(self) -> str:
        rows = [
            ("recipients", f"dropped {self.dropped}  sent {self.sent}  failed {self.failed}  queued {self.queued}"),
            ("  untaken", f"{self.untaken}"),
            ("lost", f"{self.lost}"),
            ("duplicates", f"race {self.dup_race}  window {self.dup_window} (at most {self.window_allowed})"),
            ("  calm", f"{self.dup_calm}"),
            ("denied", f"{self.denied}"),
            ("content", f"corrupt {self.corrupt}  foreign {self.foreign}  unstable Message-ID {self.unstable_ids}"),
            ("violations", f"{self.violations}"),
            (
                "daemon",
                f"killed {self.kills} times ({self.met} at work)  crashed {self.crashes} times  stuck {self.stuck}",
            ),
            ("server", f"{self.faults} faults"),
            ("verdict", "ok" if self.ok else "NOT OK"),
        ]
        lines = [f"{name:<12}{value}" for name, value in rows]
        shown = self.details[:20]
        lines += [f"  - {detail}" for detail in shown]
        if len(self.details) > len(shown):
            lines.append(f"  - and {len(self.details) - len(shown)} more")
        return "\n".join(lines)


def judge(directory: Path, spool: Path, *, connections: int = 1, window: float = WINDOW) -> Verdict:
    """The verdict on a finished campaign: `directory` holds the three journals, `spool` is the daemon's.

    Call it when the daemon has stopped, else a file may move under the reader's eyes.
    `connections` is how many the daemon may have, by the window of each: so many messages may be repeated per kill.
    """
    dropped = read_dropped(directory / "dropped.jsonl")
    deaths = read_deaths(directory / "deaths.jsonl")
    evidence = read_evidence(directory / "journal.jsonl")
    failed = kept([spool / "failed"])
    queued = kept([spool / "pickup", spool / "queue"])
    return compare(dropped, evidence, deaths, failed, queued, connections=connections, window=window)


def compare(
    dropped: Sequence[Dropped],
    evidence: Evidence,
    deaths: Sequence[Death],
    failed: dict[str, list[Any]],
    queued: dict[str, list[Any]],
    *,
    connections: int,
    window: float,
) -> Verdict:
    """The verdict, from values alone. `failed` and `queued` map a test id to the records beside its files."""
    verdict = Verdict(faults=evidence.faults.total())
    verdict.kills = sum(death.meant and death.code in KILLED for death in deaths)
    ends = [0.0, *(death.at for death in deaths)]
    verdict.met = sum(
        death.meant and death.code in KILLED and any(begun < message.at <= death.at for message in evidence.messages)
        for begun, death in zip(ends, deaths, strict=False)
    )
    verdict.crashes = sum(not death.meant for death in deaths)
    verdict.details += [f"crashed: exit {death.code} at {death.at:.3f}" for death in deaths if not death.meant]
    for original in dropped:
        if original.status not in (0, *UNABLE, *KILLED):
            verdict.crashes += 1
            verdict.details.append(f"crashed: the program that handed in {original.test_id}: exit {original.status}")
    verdict.window_allowed = (verdict.kills + verdict.crashes) * connections
    by_id = {message.test_id: message for message in dropped}
    arrivals: dict[tuple[str, str], list[Recorded]] = defaultdict(list)
    names: dict[str, set[str]] = defaultdict(set)
    for message in evidence.messages:
        meant = by_id.get(message.test_id)
        if meant is None:
            verdict.foreign += 1
            verdict.details.append(f"foreign: message {message.id} with test id {message.test_id!r}")
            continue
        names[message.test_id].add(message.message_id)
        if reason := difference(meant, message):
            verdict.corrupt += 1
            verdict.details.append(f"corrupt: {message.test_id}: {reason}")
        for recipient, times in Counter(message.recipients).items():
            arrivals[message.test_id, recipient].append(message)
            if recipient not in meant.recipients or times > 1:
                verdict.foreign += 1
                verdict.details.append(f"foreign: {message.test_id}: recipient {recipient} ({times} in one envelope)")
    for test_id, records in [*failed.items(), *queued.items()]:
        if TORN in records:
            verdict.corrupt += 1
            verdict.details.append(f"corrupt: the record beside {test_id} cannot be read")
    for original in dropped:
        for recipient in original.recipients:
            known = (
                arrivals.get((original.test_id, recipient))
                or _holds(failed, original.test_id, recipient)
                or _holds(queued, original.test_id, recipient)
            )
            if original.status and not known:
                verdict.untaken += 1
                continue
            verdict.dropped += 1
            if arrived := arrivals.get((original.test_id, recipient)):
                verdict.sent += 1
                for first, second in pairwise(arrived):
                    _repeat(verdict, recipient, first, second, deaths, window)
                if any(status(record, recipient) == "failed" for record in failed.get(original.test_id, [])) and any(
                    _known(message, deaths, window) for message in arrived
                ):
                    verdict.denied += 1
                    verdict.details.append(f"denied: {original.test_id} for {recipient}: sent, and kept as failed")
            elif _holds(failed, original.test_id, recipient):
                verdict.failed += 1
            elif _holds(queued, original.test_id, recipient):
                verdict.queued += 1
            else:
                verdict.lost += 1
                verdict.details.append(f"lost: {original.test_id} for {recipient}")
    for test_id, seen in names.items():
        if len(seen) > 1 or "" in seen:
            verdict.unstable_ids += 1
            verdict.details.append(f"Message-ID of {test_id}: {sorted(seen)}")
    for violation in evidence.violations:
        if violation["rule"] == "LEAK" or not violation["tainted"]:
            verdict.violations += 1
            verdict.details.append(
                f"violation: {violation['rule']} {violation['detail']} on connection {violation['connection']}"
            )
    return verdict


def _repeat(
    verdict: Verdict, recipient: str, first: Recorded, second: Recorded, deaths: Sequence[Death], window: float
) -> None:
    kind = classify(first, second, deaths, window)
    setattr(verdict, f"dup_{kind}", getattr(verdict, f"dup_{kind}") + 1)
    if kind != "race":
        verdict.details.append(
            f"{kind}: {first.test_id} for {recipient}: message {first.id} on connection {first.connection} "
            f"(answered {first.answer}, read: {first.acked_by or 'unproven'}), again as {second.id} "
            f"{second.at - first.at:.3f} s later on connection {second.connection}"
        )


def classify(first: Recorded, second: Recorded, deaths: Sequence[Death], window: float) -> str:
    """Whose fault the second arrival is: `race`, `window` or `calm`. README.md gives the reasons."""
    ended = first.ended_at if first.ended_at is not None and first.ended_at <= second.at else None
    cut = ended is not None and first.ended != "quit"
    if first.answer != "250":  # it met a fault in place of an honest answer
        return "race"
    if second.came <= first.at and second.acked_at is None and second.ended not in ("", "quit"):
        return "race"  # given up unanswered, then sent as the first: a slow server read them in the other order
    if first.acked_at is None:
        return "race" if cut else "calm"
    if first.acked_by == "group" and cut and ended is not None and ended - first.at < GROUP_GRACE:
        return "race"
    if any(first.at <= death.at <= second.at and death.at - first.acked_at <= window for death in deaths):
        return "window"
    return "calm"


def _known(message: Recorded, deaths: Sequence[Death], window: float) -> bool:
    """Whether the client has read an honest 250 for it and had the time to write that down."""
    if message.answer != "250" or message.acked_at is None or message.acked_by == "group":
        return False
    return not any(message.at <= death.at <= message.acked_at + window for death in deaths)


def difference(original: Dropped, arrived: Recorded) -> str:
    """In what an arrived message differs from the dropped one beyond the documented edits; "" if in nothing."""
    if arrived.body_sha256 != original.body_sha256:
        return f"another body (message {arrived.id}, {arrived.size} bytes)"
    expected = [
        field for field in fields(original.header) if not _name(field).startswith(("x-approval-", "from ", *STRIPPED))
    ]
    got = fields(arrived.header)
    if got and _name(got[0]) == "received" and expected[:1] != got[:1]:
        del got[0]
    for name in ("message-id", "date"):
        if not any(_name(field) == name for field in expected):
            added = [field for field in got if _name(field) == name]
            if len(added) > 1:
                return f"{len(added)} fields {name} added"
            got = [field for field in got if _name(field) != name]
    if got == expected:
        return ""
    odd = [field for field in got if field not in expected] or [field for field in expected if field not in got]
    return f"another header (message {arrived.id}): {odd[0][:80] if odd else 'another order'!r}"


def fields(header: str) -> list[str]:
    """The header fields with their folding, line ends as CRLF and none at the end."""
    lines = re.sub(r"\r\n|\r|\n", "\n", header).removesuffix("\n")
    return re.split(r"\n(?![ \t])", lines) if lines else []


def _name(field: str) -> str:
    return field.partition(":")[0].strip().lower()


def kept(folders: Iterable[Path]) -> dict[str, list[Any]]:
    """Test id -> the JSON record beside each file that carries it (None without one), over whole folder trees."""
    found: dict[str, list[Any]] = defaultdict(list)
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if not path.is_file() or path.is_symlink() or path.suffix == ".json" or path.name.startswith("."):
                continue
            if path.parent.name == "tmp":  # not handed in; whoever wrote it may have been killed
                continue
            if test_id := header_value(split(path.read_bytes())[0], TEST_ID):
                found[test_id].append(_record(path.with_suffix(".json")))
    return found


def _record(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        return TORN


def _holds(files: dict[str, list[Any]], test_id: str, recipient: str) -> bool:
    """Whether a kept file still answers for the recipient: one whose record says "sent" does not."""
    return any(record is None or status(record, recipient) != "sent" for record in files.get(test_id, []))


def status(record: Any, recipient: str) -> str:
    """What a record says of a recipient: the status found under its address, or beside it; "" if nothing.

    Reads any shape that keeps the two together: {address: status}, {address: {"status": ...}},
    {"recipient": address, "status": ...}, [address, status, ...].
    """
    match record:
        case dict():
            value = record.get(recipient)
            if isinstance(value, str):
                return value
            if isinstance(value, dict) and isinstance(value.get("status"), str):
                return str(value["status"])
            if recipient in record.values() and isinstance(record.get("status"), str):
                return str(record["status"])
            inner: Iterable[Any] = record.values()
        case [str(address), str(said), *_] if address == recipient and "@" not in said:
            return said
        case list():
            inner = record
        case _:
            return ""
    return next((found for value in inner if (found := status(value, recipient))), "")
