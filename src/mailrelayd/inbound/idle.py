"""Waiting for new mail: IDLE (RFC 2177), or only the clock where the server cannot."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final

from mailrelayd.clock import Clock
from mailrelayd.inbound.connection import Connection
from mailrelayd.inbound.values import Refused, Stage

RENEW: Final = 540.0
"""Seconds of one IDLE. RFC 2177 asks for less than 29 minutes; many firewalls forget a silent connection sooner."""


class Waiting:
    """Waits on one connection on which a folder is open."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._may_idle = "IDLE" in connection.capabilities

    async def wait(self, clock: Clock, stop: asyncio.Event, seconds: float) -> bool:
        """Whether the server speaks of new mail, at the latest after `seconds` or with `stop`. Raises ImapError."""
        until = clock.monotonic() + seconds
        while not self._connection.more_mail and not stop.is_set():
            left = until - clock.monotonic()
            if left <= 0:
                break
            if self._may_idle:
                await self._idle(clock, stop, min(left, RENEW))
            else:
                await self._stirred(clock, stop, left)
        return self._connection.more_mail

    async def _idle(self, clock: Clock, stop: asyncio.Event, seconds: float) -> None:
        """One IDLE, ended by DONE; that the end is answered shows that the server is still there."""
        connection = self._connection
        going_on = asyncio.Event()
        idling = asyncio.ensure_future(connection.call(Stage.IDLE, "IDLE", going_on=going_on))
        try:
            await self._within(connection.seconds, "IDLE", _first(going_on.wait(), asyncio.wait([idling])))
            if not idling.done():
                await _first(self._stirred(clock, stop, seconds), asyncio.wait([idling]))
            if idling.done():
                self._may_idle = False  # offered, and yet not wanted; waiting without it will do
            else:
                connection.write(b"DONE\r\n")
                await self._within(connection.seconds, "DONE", asyncio.wait([idling]))
            await idling
        except Refused:
            self._may_idle = False
        finally:
            idling.cancel()
            await asyncio.gather(idling, return_exceptions=True)

    async def _within(self, seconds: float, said: str, awaitable: Awaitable[object]) -> None:
        try:
            async with asyncio.timeout(seconds):
                await awaitable
        except TimeoutError as error:
            self._connection.fail(f"no answer to {said} within {seconds:g} s")
            raise self._connection.error(Stage.IDLE) from error

    async def _stirred(self, clock: Clock, stop: asyncio.Event, seconds: float) -> None:
        """Wait for new mail, the loss of the connection, `stop` or the time."""
        connection = self._connection
        connection.stirred.clear()
        if not connection.failure and not connection.more_mail:
            await _first(connection.stirred.wait(), clock.wait(stop, seconds))
        if connection.failure:
            raise connection.error(Stage.IDLE)


async def _first(*awaitables: Awaitable[object]) -> None:
    """Wait for the first of them and drop the others; an exception of it is raised."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
