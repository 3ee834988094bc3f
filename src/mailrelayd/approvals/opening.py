"""A producer's file -> an open request: who is asked, with which tokens, and whether they may be asked at all.

The pickup asks twice: `admit` before it claims the file, `opened` after, and before anything of it may be sent. What
`opened` needs stands in the queue's own record, so that a crash in between is made good at the next start.
"""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from mailrelayd.approvals import request as requests
from mailrelayd.approvals import token
from mailrelayd.approvals.bodies import bodies
from mailrelayd.approvals.mime import Unreadable as NoMail
from mailrelayd.approvals.mime import parse
from mailrelayd.approvals.registry import LARGEST_ORIGINAL, Registry
from mailrelayd.approvals.request import Copy, Request, Sink
from mailrelayd.clock import Clock
from mailrelayd.operate import approval_events as events
from mailrelayd.outbound import queueid
from mailrelayd.outbound.headers import Header, Unreadable, message_id, split_header
from mailrelayd.outbound.queue import Source
from mailrelayd.outbound.values import Admitted, ApprovalCopy, Envelope, QueuedMessage

READ = 1 << 20  # bytes of a request that are remembered for recognising quotations
_CHUNK = 1 << 18  # bytes
_LONGEST_SUBJECT = 200  # characters


@dataclass(frozen=True, slots=True)
class Terms:
    """[approvals] and [[decisions]], as far as requests are concerned."""

    node: str
    secret: Callable[[], bytes]  # raises OSError as long as it cannot be had
    sinks: Sequence[Sink]
    expire: float  # seconds
    remind: bool = False  # keep the messages: they are going to be sent again


class Opening:
    """What the pickup knows of approvals (`outbound.queue.Requests`). Its calls block for the disk."""

    def __init__(self, terms: Terms, registry: Registry, clock: Clock) -> None:
        self.terms = terms
        self._registry = registry
        self._clock = clock

    def admit(
        self, header: Header, envelope: Envelope, uid: int, new_id: Callable[[], str]
    ) -> Admitted | Unreadable | None:
        """Who gets the copies; why the file cannot be a request; None: it asks for nothing. Raises OSError."""
        asking = requests.asked(header)
        if asking is None or isinstance(asking, Unreadable):
            return asking
        now = self._clock.now()
        expires_at = requests.expiry(asking, now, self.terms.expire)
        if isinstance(expires_at, Unreadable):
            return expires_at
        approvers = asking.approvers or envelope.recipients
        sinks = requests.entitled(asking.request_id, approvers, names_of(uid), self.terms.sinks)
        if isinstance(sinks, Unreadable):
            return sinks
        copies = tuple(self._copy(approver, queueid.microseconds(new_id()), expires_at) for approver in approvers)
        return Admitted(requests.everybody(envelope.recipients, approvers), copies)

    def _copy(self, approver: str, number: int, expires_at: float) -> ApprovalCopy:
        made = token.issue(
            self.terms.secret(), node=self.terms.node, copy=number, approver=approver, expires_at=expires_at
        )
        return ApprovalCopy(approver, str(made), expires_at)

    def opened(self, message: QueuedMessage, source: Source) -> None:
        """Write the request down: from now on its answers are known. Harmless if repeated. Raises OSError."""
        if self._registry.get(message.queue_id) is not None:
            return
        digest = hashlib.sha256()
        offset, head = 0, b""
        kept: list[bytes] | None = [] if self.terms.remind else None
        while piece := source.read(offset, _CHUNK):
            digest.update(piece)
            head += piece[: READ - len(head)]
            offset += len(piece)
            if kept is not None:
                kept.append(piece)
                kept = kept if offset <= LARGEST_ORIGINAL else None
        header = split_header(head, complete=len(head) == offset)
        asking = requests.asked(header) if isinstance(header, Header) else None
        if not isinstance(header, Header) or not isinstance(asking, requests.Asked):
            raise OSError(0, "the request can no longer be read in its own file")  # somebody edits the queue
        uid = source.uid if message.uid is None else message.uid
        copies = tuple(Copy(one.recipient, _number(one.token)) for one in message.copies)
        sinks = requests.entitled(asking.request_id, [one.approver for one in copies], names_of(uid), self.terms.sinks)
        if isinstance(sinks, Unreadable):  # its producer has written to it since, or the configuration was changed
            raise OSError(0, f"the request must not be asked (any more): {sinks.reason}")
        request = Request(
            queue_id=message.queue_id,
            request_id=asking.request_id,
            requested_by=user_name(uid),
            sinks=sinks,
            node=self.terms.node,
            opened_at=message.progress.arrived_at,
            expires_at=max((one.expires_at for one in message.copies), default=0.0),
            subject=_text(header, "subject"),
            message_id=_text(header, "message-id") or message_id(message.queue_id, self.terms.node),
            sha256=digest.hexdigest(),
            copies=copies,
            sender=message.envelope.sender,
        )
        mail = parse(head)
        texts = [] if isinstance(mail, NoMail) else [body.lines for body in bodies(mail).renditions]
        superseded = self._registry.open(request, texts, None if kept is None else b"".join(kept))
        events.request_opened(
            queue_id=request.queue_id,
            request_id=request.request_id,
            requested_by=request.requested_by,
            approvers=len(copies),
            expires_at=request.expires_at,
            sinks=request.sinks,
        )
        for one in superseded:
            events.request_closed(queue_id=one.queue_id, request_id=one.request_id, status="superseded")


def names_of(uid: int) -> frozenset[str]:
    """The user's name and the names of all its groups; the number where there is no such user."""
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return frozenset({str(uid)})
    names = {user.pw_name}
    for number in os.getgrouplist(user.pw_name, user.pw_gid):
        with suppress(KeyError):
            names.add(grp.getgrgid(number).gr_name)
    return frozenset(names)


def user_name(uid: int) -> str:
    """The user's name, or its number."""
    with suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return str(uid)


def _number(text: str) -> int:
    made = token.parse(text)
    if made is None:
        raise OSError(0, "the record of the request is damaged")
    return made.copy


def _text(header: Header, name: str) -> str:
    found = header.named(name)
    text = " ".join(found[0].text.encode("utf-8", "replace").decode().split()) if found else ""
    return text[:_LONGEST_SUBJECT]
