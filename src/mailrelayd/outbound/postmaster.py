"""Tells senders that a message of theirs was given up, where [retry] dsn asks for it.

A report is a message like any other: queued before the failure it speaks of is settled, sent over the same route,
subject to the same guard. A crash in between repeats it and never loses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

from mailrelayd.clock import Clock
from mailrelayd.operate import events
from mailrelayd.outbound import delivery, dsn
from mailrelayd.outbound.body import has_block
from mailrelayd.outbound.headers import Header
from mailrelayd.outbound.queue import Entry, Place, Queue, Source, Verb
from mailrelayd.outbound.stored import Reading
from mailrelayd.outbound.values import Envelope, QueuedMessage, RecipientRecord, Response, Status

REMEMBERED = 100  # messages; only the last few refusals are ever taken back
RULE = "dsn"  # how a report's envelope was found: we made it


@dataclass(frozen=True, slots=True)
class _Told:
    report: str  # its queue id
    said: tuple[Response, ...]  # the answers that it tells of


class Store(Queue, Protocol):
    """A queue that can also show what it keeps."""

    def content(self, queue_id: str) -> Source | None:
        """The stored bytes of a message, waiting or failed; None: it is not here. Raises OSError."""


class Postmaster:
    """Writes the reports of one queue. Shared by all connections, and by what operators do."""

    def __init__(
        self,
        queue: Store,
        clock: Clock,
        *,
        enabled: bool,
        node: str,
        from_address: str = "",
        reading: Reading | None = None,
        blocks: frozenset[str] = frozenset(),
    ) -> None:
        """`enabled`: [retry] dsn; `from_address`: the account's, "" where there is none; `blocks`: see `has_block`."""
        self._queue = queue
        self._clock = clock
        self._enabled = enabled
        self._node = node
        self._from_address = from_address
        self._reading = reading or Reading()
        self._blocks = blocks
        self._told: dict[str, list[_Told]] = {}  # by queue id, the latest messages: their failure may be taken back
        self._untrue: list[str] = []  # reports that should not go out any more

    async def report(self, message: QueuedMessage, failed: Mapping[str, RecipientRecord], relay: str = "") -> None:
        """Queue a report on these recipients, durably, unless its sender must not or need not be told.

        `relay`: whom they were asked of, "host[ip]:port". Raises nothing; waits for a full disk like all settling.
        """
        sender = message.envelope.sender
        # RFC 3464 section 2: a report on a report, or on mail from the null sender, would go in circles.
        if not self._enabled or not failed or not sender or message.rule in (RULE, "alert"):
            return
        data = dsn.report(
            message,
            failed,
            self._header(message),
            node=self._node,
            from_address=self._from_address,
            now=self._clock.now(),
            relay=relay,
            pickup=has_block(message, self._reading, self._blocks),
        )
        queue_id = await self._queue.add(data, Envelope("", (sender,)), rule=RULE)
        told = self._told.setdefault(message.queue_id, [])
        told.append(_Told(queue_id, tuple(record.response for record in failed.values())))
        while len(self._told) > REMEMBERED:
            del self._told[next(iter(self._told))]
        events.message_queued(
            queue_id=queue_id,
            sender="",
            nrcpt=1,
            size=len(data),
            file="",
            uid=None,
            rule=RULE,
            about=message.queue_id,
        )

    async def report_failure(self, entry: Entry) -> None:
        """The same for a message that an operator has just given up by hand."""
        records = entry.message.progress.recipients
        given_up = {
            recipient: record
            for recipient, record in records.items()
            if record.status is Status.FAILED and record.reason == "by-hand"
        }
        await self.report(entry.message, given_up)

    def _header(self, message: QueuedMessage) -> Header | None:
        try:
            source = self._queue.content(message.queue_id)
            if source is None:
                return None
            with closing(source):
                header, _ = source.header()
        except OSError:
            return None  # the sender is told all the same
        return header if isinstance(header, Header) else None

    async def take_back(self, queue_id: str, refusal: Response) -> None:
        """This refusal turned out to be nobody's fault: what only speaks of it must not go out, if it has not yet."""
        told = self._told.pop(queue_id, [])
        self._untrue += [one.report for one in told if all(delivery.alike(said, refusal) for said in one.said)]
        await self.withdraw()

    async def withdraw(self) -> None:
        """Remove what was taken back. What is claimed right now stays in mind: call again once it is released."""
        for report in self._untrue.copy():
            (why,) = (await self._queue.change(Verb.DELETE, [report], "route")).values()
            if not why:
                events.queue_changed(verb="delete", queue_id=report, by="route", reason="its message is tried again")
                events.message_removed(queue_id=report)
            found = await self._queue.find(report) if why else None
            if (found is None or found.place is Place.SENT) and report in self._untrue:  # another connection asks, too
                self._untrue.remove(report)
