"""Requests and decisions as commands and the control socket show them. Pure; times in seconds since the epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mailrelayd.approvals.request import Request


def shown_request(request: Request, now: float) -> dict[str, Any]:
    """One request: who asked, who was asked, and what became of it."""
    return {
        "request_id": request.request_id,
        "queue_id": request.queue_id,
        "state": request.state(now).value,
        "requested_by": request.requested_by,
        "subject": request.subject,
        "opened_at": request.opened_at,
        "expires_at": request.expires_at,
        "sinks": list(request.sinks),
        "superseded_by": request.superseded_by or None,
        "approvers": [
            {
                "address": copy.approver,
                "sent_at": request.sent.get(copy.approver),
                "outcome": decided.outcome if (decided := request.decided.get(copy.approver)) else None,
                "decision_id": decided.decision_id if decided else None,
                "at": decided.at if decided else None,
            }
            for copy in request.copies
        ],
    }


def shown_decision(document: bytes, waiting: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """One stored document in a line's worth of keys. `waiting`: decision id -> "SINK" or "SINK (parked)".

    Raises ValueError for a damaged one.
    """
    try:
        event = json.loads(document)
        data = event["data"]
        return {
            "id": event["id"],
            "time": event["time"],
            "decision": data["decision"],
            "reason": data["reason"],
            "request_id": data["request_id"],
            "by": data["decided_by"]["address"],
            "on_behalf_of": data["decided_by"]["on_behalf_of"],
            "comment": data["comment"],
            "is_decision": str(event["type"]).startswith("org.mailrelayd.decision."),
            "waiting_for": list(waiting.get(event["id"], ())),
        }
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"damaged document: {type(error).__name__}") from error
