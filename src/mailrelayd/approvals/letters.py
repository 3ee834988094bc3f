"""Mails of our own about requests: receipts to who has answered, reminders to who has not. Sent by the queue."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from mailrelayd.approvals import receipts, reminders
from mailrelayd.approvals.judge import Judgement, Sender
from mailrelayd.approvals.registry import Registry
from mailrelayd.approvals.request import Request, State
from mailrelayd.clock import Clock
from mailrelayd.operate import approval_events as events
from mailrelayd.operate.events import message_queued
from mailrelayd.outbound.asking import Asking
from mailrelayd.outbound.values import ApprovalCopy, Envelope

MOST_OWED = 1000  # receipts that wait to be sent


class Send(Protocol):
    """`Queue.add`: who sends mails of our own."""

    async def __call__(
        self, data: bytes, envelope: Envelope, *, rule: str, copies: tuple[ApprovalCopy, ...] = ()
    ) -> str:
        """On disk when this returns; the queue id. Raises OSError."""


@dataclass(frozen=True, slots=True)
class Owed:
    """A receipt that is to be sent."""

    judgement: Judgement
    sender: Sender
    decision_id: str
    message_id: str  # of the answer


class Terms(Protocol):
    """[approvals] and [node], as far as letters are concerned."""

    @property
    def node(self) -> str: ...
    @property
    def reply_address(self) -> str: ...
    @property
    def separator(self) -> str: ...
    @property
    def subaddressing(self) -> bool: ...
    @property
    def subject_tag(self) -> bool: ...
    @property
    def remind(self) -> tuple[float, ...]: ...  # seconds since the request was opened
    @property
    def secrets(self) -> Callable[[], tuple[bytes, ...]]: ...  # raises OSError as long as they cannot be had


class Letters:
    """What is to be sent, and when."""

    def __init__(self, send: Send | None, registry: Registry, clock: Clock, terms: Callable[[], Terms]) -> None:
        """`send` None: nothing is."""
        self._send = send
        self._registry = registry
        self._clock = clock
        self._terms = terms
        self._owed: deque[Owed] = deque(maxlen=MOST_OWED)

    def owe(self, owed: Owed) -> None:
        """A receipt is to be sent, when there is time."""
        if self._send is not None:
            self._owed.append(owed)

    async def write(self) -> None:
        """Send what is due. Raises OSError; the rest is tried again."""
        # Not where answers are read: a spool without room must not keep anybody from reading on.
        while self._owed:
            await self._send_receipt(self._owed.popleft())
        for request in list(self._registry):
            await self._remind(request)
        for queue_id in self._registry.originals():
            kept, now = self._registry.get(queue_id), self._clock.now()
            if kept is None or kept.state(now) is not State.OPEN or kept.reminded >= len(self._terms().remind):
                await asyncio.to_thread(self._registry.drop_original, queue_id)

    async def _send_receipt(self, owed: Owed) -> None:
        """Tell somebody what became of their answer, at most once a day. Raises OSError.

        First written down, then sent: a crash or a fault in between costs the receipt, and nothing makes two of it.
        """
        now, request = self._clock.now(), owed.judgement.request
        if request is None or self._send is None:
            return
        current = self._registry.get(request.queue_id)
        told = receipts.noted(current, owed.sender.address, now) if current is not None else None
        if told is None:
            return
        receipts_sent = dict(told)
        await asyncio.to_thread(
            self._registry.change, request.queue_id, lambda one: replace(one, receipts=receipts_sent)
        )
        data = receipts.receipt(
            owed.judgement, owed.sender, _asking(self._terms()), id=owed.decision_id, answered=owed.message_id, now=now
        )
        await self._queue(data, Envelope("", (owed.sender.address,)), receipts.RULE, request)

    async def _remind(self, request: Request) -> None:
        """Ask again who has not answered, if it is time. Raises OSError.

        First sent, then written down: a crash in between may ask twice, and nothing can forget to ask.
        """
        count = reminders.due(request, self._terms().remind, self._clock.now())
        if count == request.reminded or self._send is None:
            return
        original = await asyncio.to_thread(self._registry.original, request.queue_id)
        data = reminders.reminder(original) if original is not None else None
        copies: tuple[ApprovalCopy, ...] = ()
        if data is not None:
            secret = self._terms().secrets()[0]
            copies = tuple(reminders.again(request, copy, secret) for copy in reminders.owed(request))
            envelope = Envelope(request.sender, tuple(copy.recipient for copy in copies))
            await self._queue(data, envelope, reminders.RULE, request, copies)
        events.request_reminded(queue_id=request.queue_id, request_id=request.request_id, copies=len(copies))
        await asyncio.to_thread(self._registry.change, request.queue_id, lambda one: replace(one, reminded=count))

    async def _queue(
        self, data: bytes, envelope: Envelope, rule: str, about: Request, copies: tuple[ApprovalCopy, ...] = ()
    ) -> None:
        """Send a mail of our own, by the queue. Raises OSError."""
        assert self._send is not None
        queue_id = await self._send(data, envelope, rule=rule, copies=copies)
        message_queued(
            queue_id=queue_id,
            sender=envelope.sender,
            nrcpt=len(envelope.recipients),
            size=len(data),
            file="",
            uid=None,
            rule=rule,
            about=about.queue_id,
        )


def _asking(terms: Terms) -> Asking:
    return Asking(terms.node, terms.reply_address, terms.separator, terms.subaddressing, terms.subject_tag)
