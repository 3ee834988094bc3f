"""Compares the replies that were filed with the archive, the sinks and the mailbox. Nothing is asked of the daemon."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.journal import sha256


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as it was filed, and what it says. Filed twice, it is still one answer."""

    data: bytes
    request_id: str
    approver: str
    decision: str
    comment: str


@dataclass(frozen=True, slots=True)
class Stored:
    """A mail in the mailbox."""

    data: bytes
    flags: frozenset[str]


@dataclass(frozen=True, slots=True)
class Given:
    """A document as a sink got it."""

    data: bytes
    taken: bool = True


@dataclass
class Verdict:
    """The count of everything. `details` has one sentence for each that speaks against."""

    replies: int = 0
    decided: int = 0
    lost: int = 0
    left: int = 0
    doubled: int = 0
    torn: int = 0
    wrong: int = 0
    untold: int = 0
    changed: int = 0
    invented: int = 0
    repeats: int = 0
    touched: int = 0
    kills: int = 0
    crashes: int = 0
    stuck: int = 0
    details: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every promise held."""
        mail = self.lost, self.left, self.touched
        decisions = self.doubled, self.torn, self.wrong
        told = self.untold, self.changed, self.invented
        return not any((*mail, *decisions, *told, self.crashes, self.stuck)) and self.decided == self.replies

    def against(self, word: str, text: str) -> None:
        """Count something that must not be."""
        setattr(self, word, getattr(self, word) + 1)
        self.details.append(f"{word}: {text}")

    def __str__(self) -> str:
        rows = [
            ("replies", f"filed {self.replies}  decided {self.decided}  left {self.left}"),
            ("lost", f"{self.lost}"),
            ("decisions", f"doubled {self.doubled}  torn {self.torn}  wrong {self.wrong}"),
            ("sinks", f"untold {self.untold}  changed {self.changed}  invented {self.invented}"),
            ("  repeats", f"{self.repeats}"),
            ("touched", f"{self.touched}"),
            ("daemon", f"killed {self.kills} times  crashed {self.crashes} times  stuck {self.stuck}"),
            ("verdict", "ok" if self.ok else "NOT OK"),
        ]
        lines = [f"{name:<12}{value}" for name, value in rows]
        lines += [f"  - {detail}" for detail in self.details[:20]]
        if len(self.details) > 20:
            lines.append(f"  - and {len(self.details) - 20} more")
        return "\n".join(lines)


def archived(archive: Path) -> dict[str, tuple[bytes | None, bytes | None]]:
    """ID -> (message.eml, decision.json) of every folder archive/in/YYYYMMDD/ID."""
    return {
        folder.name: (_bytes(folder / "message.eml"), _bytes(folder / "decision.json"))
        for folder in sorted(archive.glob("in/*/*"))
        if folder.is_dir()
    }


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def judge(
    replies: Sequence[Reply],
    others: Sequence[Stored],
    archive: Mapping[str, tuple[bytes | None, bytes | None]],
    got: Mapping[str, Mapping[str, Sequence[Given]]],
    mailbox: Sequence[Stored],
) -> Verdict:
    """The verdict on what is there in the end. `others`: mail that is nobody's business, as it must still lie there."""
    verdict = Verdict(replies=len(replies))
    kept: defaultdict[bytes, list[str]] = defaultdict(list)
    for decision_id, (mail, document) in archive.items():
        if mail is None or document is None:
            verdict.against("torn", f"{decision_id} has {'no decision.json' if mail else 'no message.eml'}")
        else:
            kept[mail].append(decision_id)
    known = {reply.data for reply in replies}
    for mail, ids in kept.items():
        if mail not in known:
            verdict.against("torn", f"{ids}: message.eml is no mail that was filed ({len(mail)} bytes)")
    there = Counter(one.data for one in mailbox)
    for reply in replies:
        ids = kept.get(reply.data, [])
        if there[reply.data]:
            verdict.against("left", f"{reply.approver} is still in the mailbox")
        if not ids:
            if not there[reply.data]:
                verdict.against("lost", f"{reply.approver}: neither archived nor in the mailbox")
            continue
        if len(ids) > 1:
            verdict.against("doubled", f"{reply.approver} was decided on as {', '.join(ids)}")
        for decision_id in ids:
            document = archive[decision_id][1] or b""
            if reason := difference(reply, decision_id, document):
                verdict.against("wrong", f"{decision_id}: {reason}")
            else:
                verdict.decided += 1
            _told(verdict, decision_id, document, got)
    for sink, given in got.items():
        for decision_id in given.keys() - archive.keys():
            verdict.against("invented", f"{sink} was given {decision_id}, which is not in the archive")
    now = Counter((one.data, one.flags) for one in mailbox)
    for other, count in Counter((one.data, one.flags) for one in others).items():
        if now[other] != count:
            flags = [sorted(one.flags) for one in mailbox if one.data == other[0]]
            verdict.against("touched", f"mail of others {sha256(other[0])[:8]} {sorted(other[1])} is now {flags}")
    return verdict


def _told(
    verdict: Verdict, decision_id: str, document: bytes, got: Mapping[str, Mapping[str, Sequence[Given]]]
) -> None:
    for sink, all_given in got.items():
        times = all_given.get(decision_id, [])
        taken = sum(given.taken for given in times)
        if not taken:
            verdict.against("untold", f"{sink} has not taken {decision_id}, offered {len(times)} times")
        verdict.repeats += max(taken - 1, 0)
        for one in times:
            if one.data != document:
                verdict.against("changed", f"{sink} got other bytes as {decision_id}")


def difference(reply: Reply, decision_id: str, document: bytes) -> str:
    """In what a document is not what the reply says; "" if in nothing."""
    try:
        event: dict[str, Any] = json.loads(document)
        data = event["data"]
        found = {
            "id": event["id"],
            "request": data["request_id"],
            "approver": data["decided_by"]["address"],
            "decision": data["decision"],
            "comment": data["comment"],
            "sha256": data["message"]["sha256"],
        }
    except (ValueError, KeyError, TypeError) as error:
        return f"no document: {error!r}"
    meant = {
        "id": decision_id,
        "request": reply.request_id,
        "approver": reply.approver,
        "decision": reply.decision,
        "comment": reply.comment,
        "sha256": sha256(reply.data),
    }
    return ", ".join(f"{key} {found[key]!r} instead of {meant[key]!r}" for key in meant if found[key] != meant[key])
