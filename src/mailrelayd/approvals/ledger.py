"""What was decided, written down in order: archive, outboxes, registry. Each call is on disk when it returns.

The archived document is the commit point. What the registry does not know of it the next start makes good, and tells
the sinks, too: whoever writes last is the first to be asked.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mailrelayd.approvals import document
from mailrelayd.approvals.archive import Archive, Draft
from mailrelayd.approvals.judge import FINAL, TOLD, Judgement, Outcome
from mailrelayd.approvals.outbox import Outbox
from mailrelayd.approvals.registry import Registry
from mailrelayd.approvals.request import Copy, Decided, Request, State, same
from mailrelayd.clock import Clock
from mailrelayd.operate import approval_events as events

Park = Callable[[str, str, bytes], None]  # sink, decision id, document


@dataclass(frozen=True, slots=True)
class Meaning:
    """What an outcome means for a request: an edit of its entry. Only some outcomes last; a person's lasts longest."""

    approver: str
    outcome: Outcome
    decision_id: str
    at: float

    def __call__(self, request: Request) -> Request:
        lasting = (Outcome.APPROVED, Outcome.REJECTED, Outcome.UNDELIVERABLE, Outcome.EXPIRED, Outcome.CANCELLED)
        known = next((copy.approver for copy in request.copies if same(copy.approver, self.approver)), None)
        before = request.decided.get(known or "")
        if known is None or self.outcome not in lasting:
            return request
        if before is not None and (before.outcome in FINAL or self.outcome not in FINAL):
            return request
        decided = {**request.decided, known: Decided(self.outcome.value, self.decision_id, self.at)}
        return replace(request, decided=decided)


class Ledger:
    """The archive, the registry and the outboxes of one daemon."""

    def __init__(
        self,
        node: str,
        registry: Registry,
        archive: Archive,
        outboxes: Sequence[Outbox],
        clock: Clock,
        park: Park | None,
    ) -> None:
        """`park` keeps what is for a sink that the configuration no longer has."""
        self.registry = registry
        self.archive = archive
        self._node = node
        self._outboxes = {outbox.name: outbox for outbox in outboxes}
        self._clock = clock
        self._park = park

    def missed(self) -> list[tuple[bytes, Request, Meaning]]:
        """Documents of which the registry does not know: each with its request, and what it means for that."""
        for one in self.registry:
            self.registry.supersede(one.request_id)
        missed = []
        for stored in self.archive.documents(days=2):
            outcome, request, decision = self.said(stored)
            if outcome in TOLD and request is not None and decision(request) != request:
                missed.append((stored, request, decision))
        return missed

    def said(self, stored: bytes) -> tuple[Outcome | None, Request | None, Meaning]:
        """What a stored document means, and for which request; (None, None, ...) for one that is damaged."""
        try:
            outcome, event = document.outcome_of(stored)
            data = event["data"]
            request = self.registry.get(data["original"]["queue_id"]) if data["original"] else None
            who = data["decided_by"]["on_behalf_of"] or data["decided_by"]["address"] or ""
            return outcome, request, Meaning(str(who), outcome, str(event["id"]), document.recorded_at(stored))
        except (ValueError, LookupError, TypeError, AttributeError):
            return None, None, Meaning("", Outcome.IGNORED, "", 0.0)

    async def keep(self, judgement: Judgement, decision_id: str, place: str, text: bytes, draft: Draft | None) -> None:
        """Commit: the mail, if one carried it, and the document, at this place of the archive. Raises OSError."""
        await asyncio.to_thread(self.archive.keep, place, text, draft)
        request, copy = judgement.request, judgement.copy
        if request is not None and copy is not None and judgement.outcome in TOLD:
            events.decision_recorded(
                decision_id=decision_id,
                request_id=request.request_id,
                status=judgement.outcome.value,
                reason=judgement.reason,
                by=judgement.decided_by or copy.approver,
            )

    def sinks_of(self, request: Request | None) -> list[str]:
        """The names of the sinks that hear of a request."""
        return [name for name in request.sinks if name in self._outboxes] if request is not None else []

    async def hand_on(self, stored: bytes, request: Request, decision: Meaning | None = None) -> None:
        """Owe a stored document to every sink of its request, then write down what it means. Raises OSError.

        After an error the mail comes again; what was owed by then is offered all the same.
        """
        outcome, event = document.outcome_of(stored)
        decision_id, owed = str(event["id"]), list[str]()
        try:
            changed = await asyncio.to_thread(
                self._write_on, stored, decision_id, request, decision, owed if outcome in TOLD else None
            )
        finally:
            for name in owed:
                self._outboxes[name].offer(decision_id, str(event.get("subject", "")))
        if changed is not None:
            before, after = (one.state(self._clock.now()) for one in (request, changed[1]))
            if after is State.DECIDED and before is not State.DECIDED:
                events.request_closed(queue_id=request.queue_id, request_id=request.request_id, status="decided")

    def _write_on(
        self, stored: bytes, decision_id: str, request: Request, decision: Meaning | None, owed: list[str] | None
    ) -> tuple[Request, Request] | None:
        """The outboxes, then the registry. `owed` is filled with the sinks that are to hear of it; None: none is."""
        for name in request.sinks:
            if owed is None:
                break
            if (outbox := self._outboxes.get(name)) is not None:
                outbox.put(decision_id, stored)
                owed.append(name)
            elif self._park is not None:
                self._park(name, decision_id, stored)
        return self.registry.change(request.queue_id, decision) if decision is not None else None

    def may_remove(self, decision_id: str) -> bool:
        """Whether every required sink has it, or it is parked where a person looks."""
        return all(outbox.settled(decision_id) for outbox in self._outboxes.values() if outbox.required)

    async def replay(self, decision_id: str) -> list[str]:
        """Offer a stored document to its sinks again; their names, none where there is no such. Raises OSError."""
        stored = await asyncio.to_thread(self.archive.find, decision_id)
        original = json.loads(stored)["data"]["original"] if stored is not None else None
        request = self.registry.get(original["queue_id"]) if original else None
        if stored is None or request is None:
            return []
        await self.hand_on(stored, request)
        return self.sinks_of(request)

    async def tell(self, request: Request, copy: Copy, outcome: Outcome, reason: str) -> None:
        """An outcome that no mail carried: archived, handed on, noted. Raises OSError."""
        now = self._clock.now()
        decision_id = document.event_id(request, copy, outcome.value)
        judgement = Judgement(outcome, reason, request, copy)
        stored = await asyncio.to_thread(self.archive.find, decision_id)
        if stored is None:
            stored = document.document(
                judgement, id=decision_id, node=self._node, at=now, sender=None, mail=None, archive=""
            )
            await self.keep(judgement, decision_id, self.archive.place(decision_id, now), stored, None)
        await self.hand_on(stored, request, Meaning(copy.approver, outcome, decision_id, now))
