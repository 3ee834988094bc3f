"""The files that the demonstration drops."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from mailrelayd.demo.child import Event
from mailrelayd.demo.people import BOSS, CAROL
from mailrelayd.demo.server import GREYLISTED, REFUSED


@dataclass(slots=True)
class Mail:
    """One file that was dropped, and what is to become of it without chaos."""

    name: str
    content: bytes
    expected: Mapping[str, str]  # recipient -> sent, failed
    asks: bool = False  # for approval: each recipient gets a copy of their own
    at: float = 0.0  # time.monotonic() of the rename
    queue_id: str = ""
    outcomes: dict[str, Event] = field(default_factory=dict)  # recipient -> the latest; "" for the whole file

    @property
    def ended(self) -> bool:
        """Whether everybody's outcome is final, or the file's as a whole."""
        return "" in self.outcomes or all(
            (event := self.outcomes.get(recipient)) is not None and event.name != "message.deferred"
            for recipient in self.expected
        )

    def status(self, recipient: str) -> str:
        """sent, failed, or queued."""
        event = self.outcomes.get(recipient, self.outcomes.get(""))
        return "queued" if event is None or event.name == "message.deferred" else event.name.removeprefix("message.")

    def equals(self, arrived: bytes) -> bool:
        """Whether these are the file's bytes, apart from what the daemon promises to add and to take away."""
        header, _, body = self.content.replace(b"\n", b"\r\n").partition(b"\r\n\r\n")
        got, _, rest = arrived.partition(b"\r\n\r\n")
        ours = re.fullmatch(rb"Received: [^\r]+\r\n\t[^\r]+\r\n(.*)", got, re.DOTALL)
        kept = b"\r\n".join(line for line in header.split(b"\r\n") if not line.startswith((b"Bcc:", b"X-Approval-")))
        if ours is None or rest != body or not ours[1].startswith(kept):
            return False
        added = rb""
        if self.asks:
            added = (
                rb"\r\nReferences: <(?P<token>[a-z2-7]{44})@demo>\r\nReply-To: approvals\+(?P=token)@example\.com"
                rb"\r\nMessage-ID: <(?P=token)\."
                + self.queue_id.encode()
                + rb"@demo>\r\nAuto-Submitted: auto-generated"
            )
        elif b"\nMessage-ID: " not in header:
            added = rb"\r\nMessage-ID: <" + self.queue_id.encode() + rb"@demo>"
        date = rb"" if b"\nDate: " in header else rb"\r\nDate: [^\r]+"
        return re.fullmatch(added + date, ours[1].removeprefix(kept)) is not None


HELLO = """\
From: shop@example.com
To: ops@example.com
Subject: Hello
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 8bit

Grüße! A relay must not change a single byte, so here are lines that tempt it:
.
..
From the first column on,   with blanks at the end  \x20
"""
ORDER = f"""\
From: shop@example.com
To: boss@example.com, {REFUSED}
Bcc: {GREYLISTED}
Subject: Order 42
Message-ID: <order-42@shop.example.com>
Date: Sat, 21 Nov 2026 09:00:00 +0000

Please confirm order 42.
"""
PURCHASE = f"""\
From: Purchasing <erp@example.com>
To: {BOSS}, {CAROL}
Subject: PO-42: 20 laptops
X-Approval-Request: PO-42

Purchase order PO-42: 20 laptops of ACME Ltd., 24,000 EUR.

Please answer with "Approved" or "Rejected" in the first line; what follows is your comment.
"""


def hello() -> Mail:
    """One recipient; without Message-ID and Date, and with a body that is easy to damage."""
    return Mail("hello.eml", HELLO.encode(), {"ops@example.com": "sent"})


def order() -> Mail:
    """Three recipients with three different fates."""
    expected = {"boss@example.com": "sent", REFUSED: "failed", GREYLISTED: "sent"}
    return Mail("order.eml", ORDER.encode(), expected)


def purchase() -> Mail:
    """A request for approval, to two people."""
    return Mail("purchase.eml", PURCHASE.encode(), {BOSS: "sent", CAROL: "sent"}, asks=True)


def alarm(number: int) -> Mail:
    """One of several whose order matters."""
    text = f"From: shop@example.com\nTo: night@example.com\nSubject: Alarm {number}\n\nHelp!\n"
    return Mail(f"alarm-{number}.eml", text.encode(), {"night@example.com": "sent"})
