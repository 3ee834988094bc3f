"""The whole life of one message as facts: where it came from, what happened, what it waits for, until when. Pure.

`mailrelayd queue explain` prints them as JSON, or makes sentences of them (`cli/queue/words.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from mailrelayd.outbound import queueid
from mailrelayd.outbound.listing import shown
from mailrelayd.outbound.queue import Entry, Place


@dataclass(frozen=True, slots=True)
class Situation:
    """How things stand around the message."""

    outbound: Literal["up", "held", "disabled", "stopped"]  # stopped: no daemon runs
    node: str = ""  # "": not known
    account: str = ""
    route: str = ""  # the answer that holds the route
    stage: str = ""  # where it was given
    held_since: float = 0.0  # seconds since the epoch
    probe: float = 30.0  # seconds between two probes
    expire: float = 5 * 86400.0  # seconds after the arrival
    keep_failed: float = 30 * 86400.0  # seconds
    keep_sent: float = 0.0
    dsn: bool = False  # senders are told of failures


def life(entry: Entry, situation: Situation, now: float) -> dict[str, Any]:
    """Everything there is to know about a message that is here. Times in seconds since the epoch."""
    progress = entry.message.progress
    waiting = entry.place in (Place.ACTIVE, Place.DEFERRED, Place.HOLD)
    return {
        **shown(entry, situation.route),
        "arrived_at": progress.arrived_at,
        "not_before": progress.not_before or None,
        "history": [
            {"at": past.at, "event": past.event, "text": past.text, "times": past.times, "since": past.since or past.at}
            for past in progress.history
        ],
        "waits_for": waits_for(entry, situation, now) if waiting else None,
        "expires_at": progress.arrived_at + situation.expire if waiting else None,
        "situation": _around(situation),
    }


def waits_for(entry: Entry, situation: Situation, now: float) -> str:
    """What has to happen before the next try: one word."""
    if entry.in_flight:
        return "answer"
    if entry.place is Place.HOLD:
        return "release"
    if situation.outbound != "up":
        return {"held": "route", "disabled": "outbound", "stopped": "daemon"}[situation.outbound]
    if entry.message.progress.not_before > now:
        return "not_before"
    return "next_attempt" if entry.place is Place.DEFERRED else "turn"


def unknown(queue_id: str, situation: Situation) -> dict[str, Any]:
    """What an id says by itself of a message that is not here (any more)."""
    valid = queueid.valid(queue_id)
    ours = valid and bool(situation.node) and queue_id.endswith(queueid.node_part(situation.node))
    return {
        "queue_id": queue_id,
        "queue_name": None,
        "valid": valid,
        "arrived_at": queueid.arrived_at(queue_id) if valid else None,
        "given_here": ours if valid and situation.node else None,
        "situation": _around(situation),
    }


def _around(situation: Situation) -> dict[str, Any]:
    return {
        "outbound": situation.outbound,
        "account": situation.account,
        "reason": situation.route,
        "stage": situation.stage,
        "held_since": situation.held_since or None,
        "probe": situation.probe,
        "keep_failed": situation.keep_failed,
        "keep_sent": situation.keep_sent,
        "dsn": situation.dsn,
    }
