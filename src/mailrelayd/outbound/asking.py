"""How a copy of a request for approval differs from the message that its producer wrote. Pure, bytes only.

An answer must lead back to the copy whatever its author's mail client keeps: the token stands in the reply address, in
the Message-ID (which becomes the answer's In-Reply-To and References), and where it is wanted in Subject and text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mailrelayd.outbound.headers import Field

# Where a reply goes: some clients heed the last two before Reply-To.
_REPLY_FIELDS = frozenset({"reply-to", "mail-reply-to", "mail-followup-to"})
_FOLDS = re.compile(rb"[ \t]*(?:\r\n|\r|\n)[ \t]+")


@dataclass(frozen=True, slots=True)
class Asking:
    """[approvals] and [node], as far as the relay needs them."""

    node: str
    reply_address: str
    separator: str = "+"
    subaddressing: bool = True
    subject_tag: bool = False
    mark_body: bool = False

    def reply_to(self, token: str) -> str:
        """The address that an answer goes to."""
        local, _, domain = self.reply_address.rpartition("@")
        return f"{local}{self.separator}{token}@{domain}" if self.subaddressing else self.reply_address


def revise(fields: list[Field], asking: Asking, token: str, queue_id: str) -> list[Field]:
    """The fields of an approver's own copy. What is not replaced keeps its bytes and its place.

    The producer's Message-ID stays readable: it belongs to what the other recipients got.
    """
    references = [field for field in fields if field.key == "references"]
    own_id = f"<{token}@{asking.node}>".encode()
    revised: list[Field] = []
    for field in fields:
        if field.key in _REPLY_FIELDS or field.key == "auto-submitted":
            continue
        if field.key == "message-id":
            revised.append(_field("X-Original-Message-ID", _unfolded(field), field.offset))
        elif field.key == "references":
            if field is references[0]:  # RFC 5322 section 3.6.4: the whole thread, oldest first
                ids = [_unfolded(one) for one in references]
                revised.append(_field("References", b"\r\n ".join([*filter(None, ids), own_id]), field.offset))
        elif field.key == "subject" and asking.subject_tag:
            revised.append(_tagged(field, token))
        else:
            revised.append(field)
    present = {field.key for field in revised}
    if "references" not in present:
        revised.append(_field("References", own_id))
    if "subject" not in present and asking.subject_tag:
        revised.append(_field("Subject", _tag(token)))
    return [
        *revised,
        _field("Reply-To", asking.reply_to(token).encode()),
        _field("Message-ID", f"<{token}.{queue_id}@{asking.node}>".encode()),
        _field("Auto-Submitted", b"auto-generated"),  # RFC 3834 section 5
    ]


def _field(name: str, content: bytes, offset: int = 0) -> Field:
    return Field(name, name.encode() + b": " + content + b"\r\n", offset)


def _unfolded(field: Field) -> bytes:
    """The content with its ids a line each, so that none gets too long by what is added."""
    return _FOLDS.sub(b"\r\n ", field.content.strip(b" \t\r\n"))


def _tag(token: str) -> bytes:
    return b"[#" + token.encode() + b"]"


def _tagged(field: Field, token: str) -> Field:
    """On a line of its own (folded): neither a long line nor an encoded word is touched (RFC 2047 section 6.2)."""
    content = field.content.rstrip(b" \t\r\n")
    head = field.raw[: len(field.raw) - len(field.content)]
    between = b"\r\n " if content.strip(b" \t\r\n") else b" "
    return Field(field.name, head + content + between + _tag(token) + b"\r\n", field.offset)
