"""What the running daemon answers about requests and decisions on the control socket."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from itertools import islice
from pathlib import Path
from typing import Any

from mailrelayd.approvals.archive import stored_document, stored_documents
from mailrelayd.approvals.desk import Desk
from mailrelayd.approvals.listing import shown_decision, shown_request
from mailrelayd.approvals.outbox import stored_waiting
from mailrelayd.approvals.registry import Registry
from mailrelayd.approvals.request import State
from mailrelayd.operate import control

PIECE = 200  # documents read at a time, in the background


async def answer(
    request: dict[str, Any], registry: Registry, desk: Desk | None, state: Path, now: float, by: str
) -> AsyncIterator[dict[str, Any]]:
    """The lines of the answer. `desk` is None where approvals are not enabled. Raises control.RefusedError."""
    match request:
        case {"command": "approvals"}:
            for one in registry:
                yield shown_request(one, now)
        case {"command": "approvals.cancel", "id": str(wanted)}:
            yield await _cancel(wanted, registry, _needed(desk), now, by)
        case {"command": "decisions"}:
            async for line in _decisions(state):
                yield line
        case {"command": "decisions.show", "id": str(wanted)}:
            stored = await asyncio.to_thread(stored_document, state, wanted)
            if stored is None:
                raise _no_such(wanted)
            yield {"document": stored.decode().rstrip("\n")}
        case {"command": "decisions.replay", "ids": [*wanted]}:
            for one in wanted:
                sinks = await _needed(desk).ledger.replay(str(one))
                why = "" if sinks else "no such decision, or none of its sinks is configured any more"
                yield {"id": str(one), "error": why, "sinks": sinks}
        case _:
            raise control.RefusedError(os.EX_USAGE, "the daemon does not know this request")


async def _cancel(wanted: str, registry: Registry, desk: Desk, now: float, by: str) -> dict[str, Any]:
    there = registry.of_id(wanted)
    found = registry.get(wanted) or (there[-1] if there else None)
    if found is None:
        raise control.RefusedError(os.EX_DATAERR, f"{wanted}: no such request", "mailrelayd approvals list --all")
    if (now_is := found.state(now)) is not State.OPEN:
        raise control.RefusedError(os.EX_DATAERR, f"{wanted}: is {now_is.value} already")
    await desk.cancel(found, by)
    return shown_request(registry.get(found.queue_id) or found, now)


async def _decisions(state: Path) -> AsyncIterator[dict[str, Any]]:
    waiting = await asyncio.to_thread(stored_waiting, state)
    documents = stored_documents(state)

    def some() -> list[dict[str, Any]]:
        return [shown_decision(one, waiting) for one in islice(documents, PIECE)]

    while lines := await asyncio.to_thread(some):
        for line in lines:
            yield line


def _needed(desk: Desk | None) -> Desk:
    if desk is None:
        raise control.RefusedError(os.EX_CONFIG, "approvals are not enabled", "see [approvals] in the configuration")
    return desk


def _no_such(wanted: str) -> control.RefusedError:
    return control.RefusedError(os.EX_DATAERR, f"{wanted}: no such decision", "mailrelayd decisions list --all")
