"""A message as commands and the control socket show it: postqueue -j's names, and ours behind them. Pure."""

from __future__ import annotations

from typing import Any

from mailrelayd.outbound.queue import Entry
from mailrelayd.outbound.values import Progress


def shown(entry: Entry) -> dict[str, Any]:
    """A message in postqueue -j's names, and ours behind them. Times in seconds since the epoch."""
    message, progress = entry.message, entry.message.progress
    return {
        "queue_name": entry.place.value,
        "queue_id": message.queue_id,
        "arrival_time": int(progress.arrived_at),
        "message_size": message.size,
        "forced_expire": False,
        "sender": message.envelope.sender or "MAILER-DAEMON",
        "recipients": [_recipient(progress, recipient, entry.reason) for recipient in message.envelope.recipients],
        "next_attempt": entry.next_attempt or None,
        "rule": message.rule,
        "reason": entry.reason,
        "file": message.file,
        "in_flight": entry.in_flight,
    }


def _recipient(progress: Progress, recipient: str, reason: str) -> dict[str, Any]:
    record = progress.recipients.get(recipient)
    if record is None:
        return {"address": recipient, **({"delay_reason": reason} if reason else {}), "status": "queued", "attempts": 0}
    return {
        "address": recipient,
        "delay_reason": str(record.response),
        "status": record.status.value,
        "attempts": record.attempts,
        "next_attempt": record.next_attempt or None,
        "reason": record.reason,
    }
