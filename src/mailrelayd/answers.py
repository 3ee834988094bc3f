"""What the running daemon answers on the control socket: one branch per request of the command line."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from mailrelayd import __version__
from mailrelayd.approvals import questions
from mailrelayd.approvals.request import State
from mailrelayd.clock import SystemClock
from mailrelayd.config.changes import Change
from mailrelayd.config.load import Loaded
from mailrelayd.office import Office, Records
from mailrelayd.operate import control, events
from mailrelayd.outbound.contents import contents
from mailrelayd.outbound.life import Situation, life, unknown
from mailrelayd.outbound.listing import Filter, Shape, chosen, shown
from mailrelayd.outbound.pickup import Pickup
from mailrelayd.outbound.queue import Entry, Place, Verb
from mailrelayd.outbound.route import Route
from mailrelayd.outbound.spool import Spool

BATCH = 100  # messages changed at a time: between two batches everybody else has a turn
IDS = 1000  # queue ids in one line of an answer


class Running(Protocol):
    """The daemon, as far as anybody may ask about it."""

    path: Path  # of its configuration
    node: str
    started: float  # seconds since the epoch
    spool: Spool
    records: Records

    @property
    def office(self) -> Office | None:
        """The approval loop; None: approvals are not enabled."""

    @property
    def loaded(self) -> Loaded:
        """The configuration in force."""

    @property
    def route(self) -> Route | None:
        """The way to the smarthost; None: outbound is disabled."""

    @property
    def pickup(self) -> Pickup:
        """The loop that takes files."""

    async def reload(self, by: str) -> list[Change]:
        """All or nothing: what changed. Raises control.RefusedError."""

    async def report_failure(self, entry: Entry) -> None:
        """Tell the sender of a message that somebody gave up, where [retry] dsn says so."""


class Answers:
    """Answers one request at a time; several may be under way."""

    def __init__(self, daemon: Running) -> None:
        self._daemon = daemon
        self._clock = SystemClock()

    async def __call__(self, request: dict[str, Any], by: str) -> AsyncIterator[dict[str, Any]]:
        """The lines of the answer. `by`: who asks, by the kernel's word. Raises control.RefusedError."""
        match request:
            case {"command": "status"}:
                yield await self._status()
            case {"command": "reload"}:
                changes = await self._daemon.reload(by)
                yield {"changed": [one.key for one in changes], "changes": [asdict(one) for one in changes]}
            case {"command": "list", "filter": wanted}:
                async for entry in self._chosen(wanted):
                    yield shown(entry, self._trouble)
            case {"command": "ids", "filter": wanted}:
                ids = [entry.message.queue_id async for entry in self._chosen(wanted)]
                for first in range(0, len(ids), IDS):
                    yield {"ids": ids[first : first + IDS]}
            case {"command": "shape", "filter": wanted}:
                shape = Shape()
                async for entry in self._chosen(wanted):
                    shape.add(entry, self._clock.now(), self._trouble)
                for row in shape.table():
                    yield row
            case {"command": "show", "id": str(queue_id)}:
                if (found := await self._daemon.spool.find(queue_id)) is None:
                    raise _no_such(queue_id)
                yield shown(found, self._trouble)
            case {"command": "explain", "id": str(queue_id)}:
                found = await self._daemon.spool.find(queue_id)
                situation = self._situation()
                yield life(found, situation, self._clock.now()) if found else unknown(queue_id, situation)
            case {"command": "cat", "id": str(queue_id), "header": bool(header)}:
                async for piece in self._contents(queue_id, header):
                    yield {"data": base64.b64encode(piece).decode()}
            case {"command": "change", "verb": str(verb), "ids": [*ids]} if verb in list(Verb):
                async for answer in self._change(Verb(verb), list(dict.fromkeys(map(str, ids))), by):
                    yield answer
            case {"command": str(command)} if command.partition(".")[0] in ("approvals", "decisions"):
                daemon, now = self._daemon, self._clock.now()
                desk = daemon.office.desk if daemon.office is not None else None
                state = daemon.loaded.settings.state.directory
                async for line in questions.answer(request, daemon.records.registry, desk, state, now, by):
                    yield line
            case _:
                raise control.RefusedError(os.EX_USAGE, "the daemon does not know this request")

    # -- looking -----------------------------------------------------------------------------------------------

    async def _chosen(self, request: object) -> AsyncIterator[Entry]:
        try:
            wanted = Filter.of_request(request)
        except ValueError as error:
            raise control.RefusedError(os.EX_USAGE, str(error)) from error
        now = self._clock.now()
        async for entry in self._daemon.spool.entries(failed=wanted.failed):
            if chosen(entry, wanted, now, self._trouble):
                yield entry

    @property
    def _trouble(self) -> str:
        """The answer that holds the route, or ""."""
        route = self._daemon.route
        return str(route.held) if route is not None and route.held is not None else ""

    def _situation(self) -> Situation:
        daemon = self._daemon
        settings, route = daemon.loaded.settings, daemon.route
        held = route.held if route is not None else None
        return Situation(
            "disabled" if route is None else "held" if held else "up",
            daemon.node,
            route.account if route is not None else "",
            self._trouble,
            held.stage.value if held else "",
            self._clock.now() - route.held_for if route is not None and held else 0.0,
            settings.retry.probe,
            settings.retry.expire,
            settings.spool.keep_failed,
            settings.spool.keep_sent,
            settings.retry.dsn,
        )

    async def _contents(self, queue_id: str, header: bool) -> AsyncIterator[bytes]:
        try:
            source = self._daemon.spool.content(queue_id)
            if source is None:
                raise _no_such(queue_id)
            pieces = contents(source, header=header)
            while piece := await asyncio.to_thread(next, pieces, b""):
                yield piece
        except OSError as error:
            raise control.RefusedError(os.EX_IOERR, f"{queue_id}: {error.strerror}") from error

    # -- acting ------------------------------------------------------------------------------------------------

    async def _change(self, verb: Verb, ids: list[str], by: str) -> AsyncIterator[dict[str, Any]]:
        for batch in _batches(ids):
            done = await self._daemon.spool.change(verb, batch, by)
            for queue_id in batch:  # all of them before any answer: whoever asked may go away
                if not done[queue_id]:
                    await self._say(verb, queue_id, by)
            for queue_id in batch:
                yield {"queue_id": queue_id, "error": done[queue_id]}

    async def _say(self, verb: Verb, queue_id: str, by: str) -> None:
        events.queue_changed(verb=verb, queue_id=queue_id, by=by)
        if verb is Verb.DELETE:
            events.message_removed(queue_id=queue_id)
        if verb is not Verb.FAIL:
            return
        entry = await self._daemon.spool.find(queue_id)
        if entry is None or entry.place is not Place.FAILED:
            return  # somebody has brought it back already
        message = entry.message
        for recipient, record in message.progress.recipients.items():
            if record.reason == "by-hand":
                events.message_failed(
                    queue_id=queue_id,
                    sender=message.envelope.sender,
                    recipient=recipient,
                    relay="none",
                    delay=max(self._clock.now() - message.progress.arrived_at, 0.0),
                    delays="0/0/0/0",
                    response=record.response,
                    attempt=record.attempts,
                    reason=record.reason,
                    file=message.file or None,
                )
        events.message_removed(queue_id=queue_id)
        await self._daemon.report_failure(entry)

    # -- the daemon itself -------------------------------------------------------------------------------------

    def _requests(self) -> dict[str, Any] | None:
        """How many requests are open, and what the sinks have not taken; None: approvals are not enabled."""
        office, now = self._daemon.office, self._clock.now()
        if office is None:
            return None
        return {
            "open": sum(1 for one in self._daemon.records.registry if one.state(now) is State.OPEN),
            "waiting": sum(len(outbox.waiting()) for outbox in office.outboxes),
            "parked": sum(len(outbox.parked()) for outbox in office.outboxes),
        }

    async def _status(self) -> dict[str, Any]:
        daemon = self._daemon
        figures, route, account = daemon.spool.figures(), daemon.route, daemon.loaded.settings.account
        guard = daemon.loaded.settings.guard
        outbound: dict[str, Any] = {"state": "disabled"}
        if route is not None and account is not None:
            outbound = {
                "account": account.name,
                "description": account.description,
                "host": account.host,
                "state": "held" if route.held else "up",
                "relay": route.relay,
                "last_contact": route.last_contact or None,
                "reason": str(route.held) if route.held else "",
                "stage": route.held.stage.value if route.held else "",
                "held_for": route.held_for,
            }
        failed = await asyncio.to_thread(lambda: sum(1 for _ in (daemon.spool.directory / "failed").glob("*.eml")))
        return {
            "version": __version__,
            "node": daemon.node,
            "pid": os.getpid(),
            "started": daemon.started,
            "config": {"file": str(daemon.path), "sha256": daemon.loaded.sha256},
            "outbound": outbound,
            "inbound": daemon.office.status() if daemon.office is not None else [],
            "approvals": self._requests(),
            "guard": {"dry_run": guard.dry_run, "redirect_to": guard.redirect_to},
            "queue": {
                "waiting": figures.waiting,
                "due": figures.due + figures.in_flight,
                "deferred": figures.deferred,
                "held": figures.held,
                "oldest": figures.oldest or None,
                "failed": failed,
            },
            "pickup": {"refused": daemon.pickup.refused},
        }


def _no_such(queue_id: str) -> control.RefusedError:
    return control.RefusedError(os.EX_DATAERR, f"{queue_id}: no such message", "mailrelayd queue explain ID")


def _batches(ids: list[str]) -> Iterator[list[str]]:
    for first in range(0, len(ids), BATCH):
        yield ids[first : first + BATCH]
