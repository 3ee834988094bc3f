"""ID.json: what is remembered beside a message, as text that people can read. Pure.

Where a record stands in both `queue/` and `failed/`, the higher revision is the true one and says where the
message belongs (see the state table in `mailrelayd/__init__.py`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mailrelayd.outbound.values import Envelope, Progress, RecipientRecord, Response, Stage, Status

FORMAT = 1
_FIRST, _LAST = datetime(1, 1, 1, tzinfo=UTC).timestamp(), datetime(9999, 12, 31, tzinfo=UTC).timestamp()


class RecordError(Exception):
    """The record cannot be used: newer than this program, or damaged."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The sidecar that came with a message: removed once the message has been claimed."""

    folder: str  # "", "new": below pickup/
    name: str
    inode: int
    changed_ns: int  # its ctime: the next file of that name often gets the same inode


@dataclass(frozen=True, slots=True)
class Record:
    """Everything that is written down about one message."""

    queue_id: str
    revision: int
    rule: str
    envelope: Envelope | None  # None: nobody could tell (an unreadable file)
    progress: Progress
    hold: bool = False
    reason: str = ""  # why it failed
    detail: str = ""  # the same as a sentence, where no server said one
    file: str = ""
    claim: Claim | None = None


def encode(record: Record) -> bytes:
    """The record as JSON, one key per line."""
    document: dict[str, Any] = {
        "format": FORMAT,
        "revision": record.revision,
        "queue_id": record.queue_id,
        "arrived_at": _text(record.progress.arrived_at),
        "file": record.file,
        "rule": record.rule,
        "sender": record.envelope.sender if record.envelope else None,
        "recipients": list(record.envelope.recipients) if record.envelope else [],
        "hold": record.hold,
        "reason": record.reason,
        "detail": record.detail,
        "changed": record.progress.changed,
        "not_before": _text(record.progress.not_before),
        "excused_at": _text(record.progress.excused_at),
        "outcomes": {
            recipient: {
                "status": outcome.status.value,
                "reason": outcome.reason,
                "attempts": outcome.attempts,
                "at": _text(outcome.at),
                "next_attempt": _text(outcome.next_attempt),
                "response": {
                    "stage": outcome.response.stage.value,
                    "code": outcome.response.code,
                    "enhanced": outcome.response.enhanced,
                    "text": outcome.response.text,
                },
            }
            for recipient, outcome in record.progress.recipients.items()
        },
    }
    if record.claim:
        document["claim"] = {
            "folder": record.claim.folder,
            "name": record.claim.name,
            "inode": record.claim.inode,
            "changed_ns": record.claim.changed_ns,
        }
    # ASCII only: file names and addresses may hold surrogates, which UTF-8 cannot write.
    return json.dumps(document, indent=1).encode("ascii") + b"\n"


def decode(data: bytes) -> Record:
    """The record in these bytes. Raises RecordError."""
    try:
        document = json.loads(data)
        if not isinstance(document, dict):
            raise RecordError("damaged record: not a JSON object")
        version = document["format"]
        if version != FORMAT:
            raise RecordError(f"record format {version}, this version of mailrelayd knows {FORMAT}")
        claim = document.get("claim")
        sender = document["sender"]
        return Record(
            queue_id=str(document["queue_id"]),
            revision=int(document["revision"]),
            rule=str(document["rule"]),
            envelope=None if sender is None else _envelope(sender, document["recipients"]),
            progress=Progress(
                arrived_at=_seconds(document["arrived_at"]),
                recipients={
                    recipient: RecipientRecord(
                        status=Status(outcome["status"]),
                        response=Response(
                            Stage(outcome["response"]["stage"]),
                            int(outcome["response"]["code"]),
                            str(outcome["response"]["enhanced"]),
                            str(outcome["response"]["text"]),
                        ),
                        attempts=int(outcome["attempts"]),
                        at=_seconds(outcome["at"]),
                        next_attempt=_seconds(outcome["next_attempt"]),
                        reason=str(outcome["reason"]),
                    )
                    for recipient, outcome in document["outcomes"].items()
                },
                not_before=_seconds(document["not_before"]),
                changed=int(document["changed"]),
                excused_at=_seconds(document["excused_at"]),
            ),
            hold=bool(document["hold"]),
            reason=str(document["reason"]),
            detail=str(document["detail"]),
            file=str(document["file"]),
            claim=_claim(claim) if claim else None,
        )
    except RecordError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise RecordError(f"damaged record: {type(error).__name__}") from error


def _envelope(sender: object, recipients: object) -> Envelope:
    if not isinstance(sender, str) or not isinstance(recipients, list):
        raise RecordError("damaged record: no envelope")
    if not all(isinstance(recipient, str) for recipient in recipients):
        raise RecordError("damaged record: a recipient is no text")
    return Envelope(sender, tuple(recipients))


def _claim(claim: dict[str, Any]) -> Claim:
    return Claim(str(claim["folder"]), str(claim["name"]), int(claim["inode"]), int(claim["changed_ns"]))


def _text(seconds: float) -> str | None:
    """RFC 3339 in UTC; null for "never". What no date can say is the first or the last one that can."""
    return datetime.fromtimestamp(min(max(seconds, _FIRST), _LAST), UTC).isoformat() if seconds else None


def _seconds(text: str | None) -> float:
    return datetime.fromisoformat(text).timestamp() if text else 0.0
