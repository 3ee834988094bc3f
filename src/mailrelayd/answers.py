"""What the running daemon answers on the control socket: one branch per request of the command line."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol

from mailrelayd import __version__
from mailrelayd.config.load import Loaded
from mailrelayd.operate import control, events
from mailrelayd.outbound.listing import shown
from mailrelayd.outbound.pickup import Pickup
from mailrelayd.outbound.queue import Verb
from mailrelayd.outbound.route import Route
from mailrelayd.outbound.spool import Spool


class Running(Protocol):
    """The daemon, as far as anybody may ask about it."""

    path: Path  # of its configuration
    node: str
    started: float  # seconds since the epoch
    spool: Spool

    @property
    def loaded(self) -> Loaded:
        """The configuration in force."""

    @property
    def route(self) -> Route | None:
        """The way to the smarthost; None: outbound is disabled."""

    @property
    def pickup(self) -> Pickup:
        """The loop that takes files."""

    async def reload(self, by: str) -> list[str]:
        """All or nothing: the keys that changed. Raises control.RefusedError."""


class Answers:
    """Answers one request at a time; several may be under way."""

    def __init__(self, daemon: Running) -> None:
        self._daemon = daemon

    async def __call__(self, request: dict[str, Any], by: str) -> AsyncIterator[dict[str, Any]]:
        """The lines of the answer. `by`: who asks, by the kernel's word. Raises control.RefusedError."""
        spool = self._daemon.spool
        match request:
            case {"command": "status"}:
                yield await self._status()
            case {"command": "reload"}:
                yield {"changed": await self._daemon.reload(by)}
            case {"command": "list", "failed": bool(failed)}:
                async for entry in spool.entries(failed=failed):
                    yield shown(entry)
            case {"command": "show", "id": str(queue_id)}:
                found = await spool.find(queue_id)
                if found is None:
                    raise control.RefusedError(os.EX_DATAERR, f"{queue_id}: no such message")
                yield shown(found)
            case {"command": "change", "verb": str(verb), "ids": [*ids]} if verb in list(Verb):
                for queue_id in ids:
                    (why,) = (await spool.change(Verb(verb), [str(queue_id)])).values()
                    if not why:
                        events.queue_changed(verb=verb, queue_id=str(queue_id), by=by)
                    yield {"id": queue_id, "error": why}
            case _:
                raise control.RefusedError(os.EX_USAGE, "the daemon does not know this request")

    async def _status(self) -> dict[str, Any]:
        daemon = self._daemon
        figures, route, account = daemon.spool.figures(), daemon.route, daemon.loaded.settings.account
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
