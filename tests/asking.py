"""A request for approval, and a book in which whoever knows of requests writes them down: on disk, all or nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mailrelayd import durable
from mailrelayd.approvals.token import issue
from mailrelayd.outbound.headers import Header, Unreadable
from mailrelayd.outbound.queue import Source
from mailrelayd.outbound.values import Admitted, ApprovalCopy, Envelope, QueuedMessage

REQUEST = b"From: erp@example.com\nTo: a@example.org\nX-Approval-Request: PO-42\n\nPlease.\n"
EXPIRES = 1_900_000_000.0


def token(number: int) -> str:
    """A well-formed one."""
    return str(issue(b"s" * 32, node="relay1", copy=number, approver="boss@example.org", expires_at=EXPIRES))


def copies(*recipients: str, expires_at: float = EXPIRES) -> tuple[ApprovalCopy, ...]:
    """A copy for each."""
    return tuple(ApprovalCopy(one, token(number), expires_at) for number, one in enumerate(recipients, 1))


@dataclass
class Book:
    """`outbound.queue.Requests`. Admits what asks for PO-..., for everybody and boss@example.org."""

    path: Path
    error: OSError | None = None  # what `opened` meets
    offered: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.path.mkdir(exist_ok=True)

    def admit(
        self, header: Header, envelope: Envelope, uid: int, new_id: Callable[[], str]
    ) -> Admitted | Unreadable | None:
        if not any(one.text.startswith("PO-") for one in header.named("x-approval-request")):
            return Unreadable("no [[decisions]] matches the request")
        everybody = (*envelope.recipients, "boss@example.org")
        return Admitted(everybody, copies(*everybody))

    def opened(self, message: QueuedMessage, source: Source) -> None:
        self.offered.append(message.queue_id)
        if self.error is not None:
            raise self.error
        said = {"copies": [one.token for one in message.copies], "size": len(source.read(0, 1 << 20))}
        folder = durable.Folder(self.path)
        try:
            folder.write(message.queue_id, json.dumps(said).encode())
        finally:
            folder.close()

    def entries(self) -> dict[str, dict[str, object]]:
        """By queue id."""
        return {one.name: json.loads(one.read_text()) for one in self.path.iterdir() if not one.name.startswith(".")}
