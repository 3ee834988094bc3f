"""The same request again, to who has not answered: when it is due, and the bytes of it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from mailrelayd.approvals import token
from mailrelayd.approvals.request import Copy, Request, State
from mailrelayd.outbound.headers import APPROVAL_FIELDS, Header, pickup_block, split_header
from mailrelayd.outbound.values import ApprovalCopy

RULE = "reminder"  # how its envelope was found: we made it
PREFIX = b"Reminder: "

# The relay gives it a date and an id of its own; what others have said about the first one is not true of this one.
_REMOVED = APPROVAL_FIELDS | {"date", "message-id", "dkim-signature", "received", "bcc", "resent-bcc"}


def owed(request: Request) -> tuple[Copy, ...]:
    """The copies that were sent and not answered."""
    return tuple(copy for copy in request.owed() if copy.approver in request.sent)


def due(request: Request, remind: Sequence[float], now: float) -> int:
    """How many reminders this request should have had by now; its own count where none is due.

    `remind`: seconds since the request was opened, or since the first copy that is still unanswered was sent, if that
    was later. What was missed while nobody was here is made up for by one reminder, not by several.
    """
    copies = owed(request)
    if request.state(now) is not State.OPEN or not copies:
        return request.reminded
    since = max(request.opened_at, min(request.sent[copy.approver] for copy in copies))
    return max(request.reminded, sum(1 for one in remind if now >= since + one))


def again(request: Request, copy: Copy, secret: bytes) -> ApprovalCopy:
    """The copy with its token made once more: the same person, number and end."""
    made = token.issue(
        secret, node=request.node, copy=copy.number, approver=copy.approver, expires_at=request.expires_at
    )
    return ApprovalCopy(copy.approver, str(made), request.expires_at)


def reminder(original: bytes) -> bytes | None:
    """The message to send again; its body and its other fields as they were. None: its header cannot be read."""
    header = split_header(original)
    if not isinstance(header, Header):
        return None
    block = pickup_block(header)  # it names hidden recipients, and only where files are picked up is it known as such
    pieces = []
    for field in header.fields:
        if field.key in _REMOVED or field in block:
            continue
        raw = field.raw
        if field.key == "subject":
            text = field.content.lstrip(b" \t\r\n")
            raw = raw[: raw.index(b":") + 1] + b" " + (PREFIX + text if text else PREFIX.strip())
        pieces.append(raw)
    if not any(field.key == "subject" for field in header.fields):
        pieces.append(b"Subject: " + PREFIX.strip() + b"\r\n")
    return b"".join(piece if piece.endswith((b"\r", b"\n")) else piece + b"\r\n" for piece in pieces) + (
        (b"\r\n" if header.empty_line else b"") + original[header.body :]
    )
