"""ID.json: what is remembered beside a message, as text that people can read. Pure.

Where a record stands in both `queue/` and `failed/`, the higher revision is the true one and says where the
message belongs (see the state table in `mailrelayd/__init__.py`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mailrelayd.outbound.answers import printable
from mailrelayd.outbound.values import (
    ApprovalCopy,
    Envelope,
    Past,
    Progress,
    QueuedMessage,
    RecipientRecord,
    Response,
    Stage,
    Status,
)

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
    producer: str = ""
    uid: int | None = None
    key: str = ""
    copies: tuple[ApprovalCopy, ...] = ()


def of(message: QueuedMessage, progress: Progress, *, hold: bool = False, reason: str = "") -> Record:
    """What is written down next about a message."""
    return Record(
        message.queue_id,
        message.revision + 1,
        message.rule,
        message.envelope,
        begun(message, progress),
        hold,
        reason,
        file=message.file,
        producer=message.producer,
        uid=message.uid,
        key=message.key,
        copies=message.copies,
    )


def begun(message: QueuedMessage, progress: Progress) -> Progress:
    """The progress with how it began in the first line of its history."""
    if progress.history and progress.history[0].event == "queued":
        return progress
    where = "/".join([part for part in (message.producer, message.file) if part])
    uid = "" if message.uid is None else f"uid {message.uid}"
    text = ", ".join([part for part in (printable(where), uid, f"envelope: {message.rule}") if part])
    history = (Past(progress.arrived_at, "queued", text), *progress.history)
    return Progress(
        progress.arrived_at,
        progress.recipients,
        progress.not_before,
        progress.changed,
        progress.excused_at,
        history,
    )


def encode(record: Record) -> bytes:
    """The record as JSON, one key, recipient or event per line."""
    document: dict[str, Any] = {
        "format": FORMAT,
        "revision": record.revision,
        "queue_id": record.queue_id,
        "arrived_at": _text(record.progress.arrived_at),
        "file": record.file,
        "producer": record.producer,
        "uid": record.uid,
        "key": record.key,
        "rule": record.rule,
        "sender": record.envelope.sender if record.envelope else None,
        "recipients": list(record.envelope.recipients) if record.envelope else [],
        "hold": record.hold,
        "reason": record.reason,
        "detail": record.detail,
        "changed": record.progress.changed,
        "not_before": _text(record.progress.not_before),
        "excused_at": _text(record.progress.excused_at),
        "history": [_told(past) for past in record.progress.history],
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
    if record.copies:
        document["copies"] = [
            {"recipient": copy.recipient, "token": copy.token, "expires_at": _text(copy.expires_at)}
            for copy in record.copies
        ]
    # ASCII only: file names and addresses may hold surrogates, which UTF-8 cannot write.
    lines = ",\n".join(f" {json.dumps(key)}: {_spread(value)}" for key, value in document.items())
    return f"{{\n{lines}\n}}\n".encode("ascii")


def _spread(value: object) -> str:
    """JSON, one line per recipient and per event: compact within a line, as that is what json is fast at."""
    if isinstance(value, dict) and value:
        return "{\n  " + ",\n  ".join(f"{json.dumps(key)}: {json.dumps(one)}" for key, one in value.items()) + "\n }"
    if isinstance(value, list) and value:
        return "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]"
    return json.dumps(value)


def _told(past: Past) -> dict[str, Any]:
    again = {"times": past.times, "since": _text(past.since)} if past.times > 1 else {}
    return {"at": _text(past.at), "event": past.event, "text": past.text, **again}


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
        sender, uid = document["sender"], document.get("uid")
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
                history=tuple(_past(one) for one in document.get("history", ())),
            ),
            hold=bool(document["hold"]),
            reason=str(document["reason"]),
            detail=str(document["detail"]),
            file=str(document["file"]),
            claim=_claim(claim) if claim else None,
            producer=str(document.get("producer", "")),
            uid=None if uid is None else int(uid),
            key=str(document.get("key", "")),
            copies=tuple(_copy(one) for one in document.get("copies", ())),
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


def _copy(copy: dict[str, Any]) -> ApprovalCopy:
    recipient, token = copy["recipient"], copy["token"]
    if not isinstance(recipient, str) or not isinstance(token, str) or not token:
        raise RecordError("damaged record: a copy without recipient or token")
    return ApprovalCopy(recipient, token, _seconds(copy["expires_at"]))


def _past(line: dict[str, Any]) -> Past:
    times, since = int(line.get("times", 1)), _seconds(line.get("since"))
    return Past(_seconds(line["at"]), str(line["event"]), str(line["text"]), times, since)


def _text(seconds: float) -> str | None:
    """RFC 3339 in UTC; null for "never". What no date can say is the first or the last one that can."""
    return datetime.fromtimestamp(min(max(seconds, _FIRST), _LAST), UTC).isoformat() if seconds else None


def _seconds(text: str | None) -> float:
    return datetime.fromisoformat(text).timestamp() if text else 0.0
