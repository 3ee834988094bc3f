"""Messages as commands and the control socket show them: whole, chosen by a filter, counted by age and reason. Pure.

`route` is always the answer that holds the route, as text; "" while it is up. A message that only waits for the route
has no trouble of its own, so the route's is shown in its place.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Any

from mailrelayd.outbound import addresses
from mailrelayd.outbound.queue import Entry, Place
from mailrelayd.outbound.values import Progress, RecipientRecord, Status

NULL_SENDER = "MAILER-DAEMON"  # postqueue's way to write <>
_WAITING = (Place.ACTIVE, Place.DEFERRED, Place.HOLD)


def shown(entry: Entry, route: str = "") -> dict[str, Any]:
    """A message in postqueue -j's names, and ours behind them. Times in seconds since the epoch."""
    message, progress = entry.message, entry.message.progress
    reason = entry.reason or (route if entry.place is Place.ACTIVE and not entry.in_flight else "")
    return {
        "queue_name": entry.place.value,
        "queue_id": message.queue_id,
        "arrival_time": int(progress.arrived_at),
        "message_size": message.size,
        "forced_expire": False,
        "sender": message.envelope.sender or NULL_SENDER,
        "recipients": [_recipient(progress, recipient, reason) for recipient in message.envelope.recipients],
        "next_attempt": entry.next_attempt or None,
        "rule": message.rule,
        "reason": reason,
        "file": message.file,
        "producer": message.producer,
        "uid": message.uid,
        "in_flight": entry.in_flight,
    }


def _recipient(progress: Progress, recipient: str, reason: str) -> dict[str, Any]:
    record = progress.recipients.get(recipient)
    if record is None:
        return {"address": recipient, **({"delay_reason": reason} if reason else {}), "status": "queued", "attempts": 0}
    answer = str(record.response)
    return {
        "address": recipient,
        # postqueue knows this key only where there is a delay: recipes count the messages that have it.
        **({} if record.status is Status.SENT else {"delay_reason": answer}),
        "status": record.status.value,
        "attempts": record.attempts,
        "next_attempt": record.next_attempt or None,
        "reason": record.reason,
        "response": answer,
    }


# -- filters -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Filter:
    """Which messages are meant. What is said is combined by "and"; nothing said: everything that waits."""

    failed: bool = False  # of what was given up, instead of what waits
    places: frozenset[Place] = frozenset()  # of what waits; empty: anywhere
    sender: str = ""  # a pattern of `addresses.matches`, or "<>"
    recipient: str = ""  # likewise; only of those who have not got the message
    reason: str = ""  # part of why it waits or was given up, in any case
    older_than: float = 0.0  # seconds since it arrived

    def as_request(self) -> dict[str, Any]:
        """What the control socket carries: `of_request` reads it back."""
        return {
            "failed": self.failed,
            "places": sorted(self.places),
            "sender": self.sender,
            "recipient": self.recipient,
            "reason": self.reason,
            "older_than": self.older_than,
        }

    @classmethod
    def of_request(cls, request: object) -> Filter:
        """Raises ValueError where it is no such filter: a filter half understood would choose too many."""
        match request:
            case {
                "failed": bool(failed),
                "places": [*places],
                "sender": str(sender),
                "recipient": str(recipient),
                "reason": str(reason),
                "older_than": int() | float() as older_than,
                **others,
            } if not others:
                return cls(failed, frozenset(map(Place, places)), sender, recipient, reason, float(older_than))
        raise ValueError("not a filter that this version knows")


def chosen(entry: Entry, wanted: Filter, now: float, route: str = "") -> bool:
    """Whether the filter means this message; `now` in seconds since the epoch."""
    message = entry.message
    if (entry.place in _WAITING) == wanted.failed or (wanted.places and entry.place not in wanted.places):
        return False
    if now - message.progress.arrived_at < wanted.older_than:
        return False
    if wanted.sender and not _matches(message.envelope.sender, wanted.sender):
        return False
    if wanted.recipient and not any(_matches(owed, wanted.recipient) for owed in _owed(entry)):
        return False
    part = wanted.reason.casefold()
    return not part or any(part in text.casefold() for text in (cause(entry, now, route), *_reasons(entry, route)))


def _matches(address: str, pattern: str) -> bool:
    return not address if pattern == "<>" else addresses.matches(address, (pattern,))


def _owed(entry: Entry) -> list[str]:
    records = entry.message.progress.recipients
    return [
        recipient
        for recipient in entry.message.envelope.recipients
        if (record := records.get(recipient)) is None or record.status is not Status.SENT
    ]


def _reasons(entry: Entry, route: str) -> list[str]:
    """Everything that a listing shows as a reason of this message."""
    records = [record for record in entry.message.progress.recipients.values() if record.status is not Status.SENT]
    said = [text for record in records for text in (record.reason, str(record.response))]
    return [entry.reason, *said, *([route] if entry.place is Place.ACTIVE and not entry.in_flight else [])]


# -- ages by reason ----------------------------------------------------------------------------------------------

AGES = ("<1m", "5m", "30m", "2h", "12h", "1d", "1d+")  # up to; the last one: and older
_LIMITS = (60.0, 300.0, 1800.0, 7200.0, 43200.0, 86400.0)  # seconds
_LONGEST = 120  # characters of a reason
_ADDRESS = re.compile(r"<[^<>\s]*+>|[^\s<>@:;,]++@[^\s<>@:;,]++")
_NUMBER = re.compile(r"(?<![\w.:])\d{2,}(?!\w|\.\d)")
_TOKEN = re.compile(r"\b(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[0-9A-Za-z]{8,}\b(?!\.\w)")
_CODES = re.compile(r"\d{3}(?: \d\.\d{1,3}\.\d{1,3})? ?")


def cause(entry: Entry, now: float, route: str = "") -> str:
    """Why a message is where it is, in words that it shares with the others that are there for the same reason."""
    progress = entry.message.progress
    if entry.place is Place.HOLD:
        return alike(entry.reason) or "on hold"
    if entry.place in (Place.FAILED, Place.SENT):
        given_up = _latest(progress, Status.FAILED)
        if given_up is None or given_up.reason in ("by-hand", "suppressed"):
            return alike(entry.reason) or (given_up.reason if given_up else "")
        return alike(str(given_up.response)) or given_up.reason
    if entry.in_flight:
        return "being sent"
    if route and entry.place is Place.ACTIVE:
        return alike(route)
    if (waiting := _latest(progress, Status.DEFERRED)) is not None:
        return alike(str(waiting.response))
    return "not before its time" if progress.not_before > now else "its turn has come"


def _latest(progress: Progress, status: Status) -> RecipientRecord | None:
    records = (record for record in progress.recipients.values() if record.status is status)
    return max(records, key=lambda record: record.at, default=None)


def alike(text: str) -> str:
    """A server's words without what differs from message to message: addresses, ids, numbers of seconds."""
    codes = match[0] if (match := _CODES.match(text)) else ""
    words = text[len(codes) : len(codes) + 4 * _LONGEST]
    for pattern, instead in ((_ADDRESS, "<...>"), (_TOKEN, "..."), (_NUMBER, "N")):
        words = pattern.sub(instead, words)
    return (codes + words)[:_LONGEST].strip()


@dataclass(slots=True)
class Shape:
    """How many messages wait for which reason, and since when."""

    rows: dict[str, list[int]] = field(default_factory=dict)

    def add(self, entry: Entry, now: float, route: str = "") -> None:
        """Count a message."""
        age = max(now - entry.message.progress.arrived_at, 0.0)
        row = self.rows.setdefault(cause(entry, now, route), [0] * len(AGES))
        row[bisect_left(_LIMITS, age)] += 1

    def table(self) -> list[dict[str, Any]]:
        """TOTAL, then one row per reason, most messages first."""
        total = [sum(column) for column in zip(*self.rows.values(), strict=True)] or [0] * len(AGES)
        rows = sorted(self.rows.items(), key=lambda item: (-sum(item[1]), item[0]))
        return [
            {"reason": reason, "total": sum(counts), "ages": dict(zip(AGES, counts, strict=True))}
            for reason, counts in [("TOTAL", total), *rows]
        ]
