"""What the relay's tests share: a queue, a route and its loops under a clock by hand, against a scripted server."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest

from mailrelayd.outbound import smtp
from mailrelayd.outbound.postmaster import Postmaster
from mailrelayd.outbound.relay import Relay, Terms
from mailrelayd.outbound.route import Route
from mailrelayd.outbound.session import Session
from tests.accounts import Account
from tests.manual_clock import ManualClock
from tests.memory_queue import Bytes, MemoryQueue
from tests.scripted_smtp import Conversation, Script, Server, serving

OWN = "noreply@example.com"
LOCK_STEP = ("SIZE 10000000", "8BITMIME", "SMTPUTF8")
PIPELINED = ("PIPELINING", *LOCK_STEP)
CHUNKED = ("CHUNKING", *PIPELINED)
"""With these a bench has a window of WINDOW."""
WINDOW = 4
PATIENCE = 10.0  # real seconds a condition may take to come true


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Wait, in real time, for something that needs no clock to move."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, what or "it never came true"
        await asyncio.sleep(0.001)


async def until_equal(value: Callable[[], int], expected: int) -> None:
    """The same for a number, which says what it was instead."""
    with suppress(AssertionError):
        await until(lambda: value() == expected)
    assert value() == expected


def said(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    """The log lines of this event so far."""
    return [r.msg for r in caplog.records if isinstance(r.msg, dict) and r.msg["event"] == event]


class Shelf(MemoryQueue):
    """The queue in memory, where what has failed can still be read."""

    def content(self, queue_id: str) -> Bytes | None:
        for place in (self.waiting, self.flying, self.failed):
            if queue_id in place:
                item = place[queue_id]
                if item.error is not None:
                    raise item.error
                return item.source
        return None


class Bench:
    """A queue, a route and its connections under a clock by hand; `attempts` counts connection attempts."""

    def __init__(
        self, account: Account, *, connections: int = 1, terms: Terms | None = None, dsn: bool = False
    ) -> None:
        self.clock = ManualClock()
        self.account = account
        self.password = "right"
        self.attempts = 0
        self.connecting = 0
        self.stop = asyncio.Event()
        self.terms = terms or Terms("relay.test", OWN)
        self.queue = Shelf(self.clock, self.terms.strict_order)
        self.route = Route("bench", self._connect, probe=30.0, clock=self.clock)
        self.dsn = dsn
        self.employ()
        self.promised: dict[int, float] = {}  # by connection: clock.monotonic() of the next sign of life
        self.tasks: list[asyncio.Task[None]] = []
        self.connections = connections
        self.window = 1

    def employ(self) -> None:
        """Give the queue that there is now to a relay and a postmaster."""
        self.postmaster = Postmaster(self.queue, self.clock, enabled=self.dsn, node="relay.test", from_address=OWN)
        self.relay = Relay(self.queue, self.route, self.terms, self.clock, postmaster=self.postmaster)

    async def _connect(self) -> Session:
        self.attempts += 1
        self.connecting += 1
        try:
            return await smtp.connect(
                self.account, user="relay", password=self.password, hello="relay.test", window=self.window
            )
        finally:
            self.connecting -= 1

    def put(self, *subjects: str, to: tuple[str, ...] = ("boss@example.org",), sender: str = OWN) -> list[str]:
        return [self.queue.put(text(subject), to, sender) for subject in subjects]

    def begin(self) -> None:
        for number in range(self.connections):
            self.tasks.append(asyncio.create_task(self.relay.run(number, self.stop, self._beat(number))))

    def _beat(self, number: int) -> Callable[[float], None]:
        return lambda within: self.promised.update({number: self.clock.boot + within})

    async def quiet(self) -> None:
        """Let everything happen that needs no time: until nothing has changed for a while."""
        seen: object = None
        same = 0
        while same < 10:
            now = (len(self.queue.history), self.attempts, self.clock.waiting, self.route.held)
            same = same + 1 if now == seen and not self.connecting else 0
            seen = now
            await asyncio.sleep(0.001)

    async def pass_time(self, seconds: float, step: float = 5.0) -> None:
        """Let time pass in steps; every loop keeps its promise to show up."""
        for _ in range(round(seconds / step)):
            self.clock.advance(step)
            await self.quiet()
            silent = {n: self.clock.boot - due for n, due in self.promised.items() if due < self.clock.boot}
            assert not silent, f"connections that broke their promise, by seconds: {silent}"

    async def over(self) -> None:
        """Let time pass, some hours at most, until nothing waits."""
        await self.quiet()
        for _ in range(500):
            if not self.queue.waiting and not self.queue.flying:
                return
            await self.pass_time(30, 30)
        raise AssertionError(f"still waiting: {self.queue.figures()}, route: {self.route.held}")

    async def end(self) -> None:
        self.stop.set()
        self.queue.wake()
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*self.tasks)
        assert not self.queue.flying, "claimed messages are always released"

    def status(self, queue_id: str) -> dict[str, str]:
        places = (self.queue.failed, self.queue.waiting, self.queue.flying)
        item = next(place[queue_id] for place in places if queue_id in place)
        return {r: record.status.value for r, record in item.message.progress.recipients.items()}


@asynccontextmanager
async def relaying(
    script: Script,
    *,
    connections: int = 1,
    terms: Terms | None = None,
    account: Account | None = None,
    dsn: bool = False,
    kind: type[Conversation] = Conversation,
) -> AsyncIterator[tuple[Bench, Server]]:
    """A scripted server and a bench that knows it; the loops run from `bench.begin()` to the end of the block."""
    async with serving(script, kind) as server:
        bench = Bench(
            replace(account or Account(None), port=server.port), connections=connections, terms=terms, dsn=dsn
        )
        bench.window = WINDOW if script.extensions == CHUNKED else 1
        try:
            yield bench, server
            if not all(task.done() for task in bench.tasks):
                await bench.end()
        finally:
            for task in bench.tasks:
                task.cancel()
            await asyncio.gather(*bench.tasks, return_exceptions=True)


def text(subject: str, body: str = "Hello.\r\n") -> bytes:
    return f"From: {OWN}\r\nTo: boss@example.org\r\nSubject: {subject}\r\n\r\n{body}".encode()


def subjects(server: Server) -> list[str]:
    """Of the bodies that came to their last byte, in order."""
    return [found[1].decode() for body in server.bodies if (found := re.search(rb"^Subject: (\S+)", body, re.M))]


def count(server: Server, verb: str) -> int:
    return sum(line.upper().startswith(verb) for line in server.lines)


NAMES = [f"m{number:03}" for number in range(20)]
