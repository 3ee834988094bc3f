"""A decision as the rest of the world sees it: one CloudEvents 1.0 document (structured mode, JSON). Pure.

The same bytes lie in the archive, in a sink's folder and in a webhook's body. `decision.schema.json` describes them.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from mailrelayd.approvals.judge import TOLD, Judgement, Outcome, Sender
from mailrelayd.approvals.request import Copy, Request

MEDIA_TYPE = "application/cloudevents+json"
LONGEST_COMMENT = 16_000  # characters; CloudEvents asks that 64 KiB pass everywhere
LONGEST_HEADER = 2_000  # characters of one header field that is handed on
_NAMESPACE = uuid.UUID("2c0b1a53-7c6e-5d0a-9a55-3f1f0c7f8f4e")  # of ids of decisions; made once, never to change


@dataclass(frozen=True, slots=True)
class Mail:
    """The mail that carried a decision, as far as the document names it."""

    mailbox: str  # account/folder
    uidvalidity: int
    uid: int
    message_id: str  # "" where it has none
    sha256: str
    received_at: float  # INTERNALDATE, seconds since the epoch
    headers: Mapping[str, str] = field(default_factory=dict)  # what [[decisions]] headers ask for


def decision_id(token: str, message_id: str, sha256: str, new_text_sha256: str) -> str:
    """The id of what one mail says, the same whenever and wherever that mail is read again."""
    return str(uuid.uuid5(_NAMESPACE, "\n".join((token, message_id or sha256, new_text_sha256))))


def event_id(request: Request, copy: Copy, outcome: str) -> str:
    """The id of an outcome that no mail carried: it expired, was cancelled, could not be delivered."""
    return str(uuid.uuid5(_NAMESPACE, "\n".join((request.node, request.queue_id, str(copy.number), outcome))))


def document(
    judgement: Judgement, *, id: str, node: str, at: float, sender: Sender | None, mail: Mail | None, archive: str
) -> bytes:
    """The document about one mail, or about an outcome that none carried. `at`: now, seconds since the epoch."""
    request, copy = judgement.request, judgement.copy
    told_of = copy is not None and (mail is None or judgement.outcome is Outcome.UNDELIVERABLE)
    answered = judgement.decided_by or (copy.approver if copy is not None and told_of else "")
    data: dict[str, Any] = {
        "decision": judgement.outcome.value,
        "reason": judgement.reason,
        "request_id": request.request_id if request else None,
        "requested_by": request.requested_by if request else None,
        "comment": _cut(judgement.comment, LONGEST_COMMENT),
        "decided_by": {"address": answered or None, "on_behalf_of": judgement.on_behalf_of or None},
        "decided_at": _time(mail.received_at if mail else at),
        "received_at": _time(mail.received_at) if mail else None,
        "headers": {name: _cut(value, LONGEST_HEADER) for name, value in mail.headers.items()} if mail else {},
        "authentication": _authentication(sender, _standing(judgement)),
        "message": _message(mail, archive),
        "original": _original(request, copy),
    }
    event = {
        "specversion": "1.0",
        "id": id,
        "source": f"urn:mailrelayd:{node}:approvals",
        "type": f"org.mailrelayd.{'decision' if judgement.outcome in TOLD else 'mail'}.{judgement.outcome.value}",
        "subject": request.request_id if request else None,
        "time": _time(at),
        "datacontenttype": "application/json",
        "data": data,
    }
    if event["subject"] is None:  # CloudEvents section 3.1: an attribute is text, or absent
        del event["subject"]
    return json.dumps(event, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def outcome_of(document: bytes) -> tuple[Outcome, dict[str, Any]]:
    """What a stored document says. Raises ValueError for one that is damaged."""
    try:
        event = json.loads(document)
        return Outcome(event["data"]["decision"]), event
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"damaged document: {type(error).__name__}") from error


def recorded_at(document: bytes) -> float:
    """When a stored document was made, seconds since the epoch. Raises ValueError for one that is damaged."""
    try:
        return datetime.fromisoformat(json.loads(document)["time"]).timestamp()
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"damaged document: {type(error).__name__}") from error


def _standing(judgement: Judgement) -> str:
    """What the token of a mail is: valid, somebody else's, foreign, or absent."""
    if judgement.token is None:
        return "foreign" if judgement.outcome is Outcome.FOREIGN else "absent"
    return "other" if judgement.reason == "wrong-person" else "valid"


def _authentication(sender: Sender | None, token: str) -> dict[str, Any] | None:
    if sender is None:
        return None
    return {
        "trusted": sender.authentic,
        "method": sender.method or None,
        "authserv_id": sender.authserv_id or None,
        "dmarc": sender.dmarc or None,
        "dkim": sender.dkim or None,
        "spf": sender.spf or None,
        "token": token,
    }


def _message(mail: Mail | None, archive: str) -> dict[str, Any] | None:
    if mail is None:
        return None
    return {
        "message_id": mail.message_id or None,
        "mailbox": mail.mailbox,
        "uidvalidity": mail.uidvalidity,
        "uid": mail.uid,
        "sha256": mail.sha256,
        "archive": archive,
    }


def _original(request: Request | None, copy: Copy | None) -> dict[str, Any] | None:
    if request is None:
        return None
    sent_at = request.sent.get(copy.approver) if copy else None
    return {
        "queue_id": request.queue_id,
        "message_id": request.message_id,
        "sha256": request.sha256,
        "sent_at": _time(sent_at) if sent_at else None,
    }


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 3] + "..."


def _time(moment: float) -> str:
    """RFC 3339 in UTC, to the second."""
    return datetime.fromtimestamp(int(moment), UTC).isoformat().replace("+00:00", "Z")
