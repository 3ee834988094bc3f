"""The way to the smarthost: opened, held, probed, recovered, under a clock by hand."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from mailrelayd.operate import events
from mailrelayd.outbound.route import NARROW, Route
from mailrelayd.outbound.session import Deadlines, Session
from mailrelayd.outbound.smtp import RouteTrouble
from mailrelayd.outbound.values import Extensions, Response, Stage
from tests.manual_clock import ManualClock
from tests.scripted_smtp import Script, Server, serving

REFUSED = Response(Stage.CONNECT, 0, "", "Connection refused")
PASSWORD = Response(Stage.AUTH, 535, "5.7.8", "wrong user or password")
SENDER = Response(Stage.MAIL, 553, "5.1.8", "sender not allowed")


@dataclass
class Way:
    """A route over real connections; `fails` are answers given instead of one, in turn; `hang` delays it."""

    server: Server
    clock: ManualClock = field(default_factory=ManualClock)
    fails: deque[Response] = field(default_factory=deque)
    hang: asyncio.Event = field(default_factory=asyncio.Event)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    attempts: int = 0
    beats: list[float] = field(default_factory=list)
    at_a_time: list[tuple[int, int]] = field(default_factory=list)  # connections on their way, and open
    connecting: int = 0
    passes: int = 0  # of the loop, that each takes longer
    window: int = 1
    host: str = "relay"
    sessions: list[Session] = field(default_factory=list)
    route: Route = field(init=False)

    def __post_init__(self) -> None:
        self.hang.set()
        self.route = Route("way", self.connect, probe=30.0, clock=self.clock)

    async def connect(self) -> Session:
        self.attempts += 1
        self.connecting += 1
        self.at_a_time.append((self.connecting, len(self.sessions)))
        try:
            await self.hang.wait()
            for _ in range(self.passes):
                await asyncio.sleep(0)
            if self.fails:
                raise RouteTrouble(self.fails.popleft())
            transport, _ = await asyncio.get_running_loop().create_connection(
                asyncio.Protocol, "127.0.0.1", self.server.port
            )
        finally:
            self.connecting -= 1
        offered = Extensions(pipelining=True, chunking=True)
        relay = f"{self.host}[192.0.2.{self.attempts}]:25"
        session = Session(transport, offered, Deadlines(5, 5, 5), relay=relay, window=self.window)
        self.sessions.append(session)
        return session

    def open(self) -> asyncio.Task[Session | None]:
        return asyncio.create_task(self.route.open(self.stop, self.beats.append))


@pytest.fixture
async def way() -> AsyncIterator[Way]:
    async with serving(Script()) as server:
        made = Way(server)
        yield made
        for session in made.sessions:
            session.abort()
        events.route_up(account="way", relay="", outage=None)  # forgets what was said before


async def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it never came true"
        await asyncio.sleep(0.001)


async def until_equal(value: Callable[[], int], expected: int) -> None:
    with suppress(AssertionError):
        await until(lambda: value() == expected)
    assert value() == expected


async def quiet() -> None:
    for _ in range(20):
        await asyncio.sleep(0.0005)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[dict[str, Any]]]:
    """What the log said about routes so far, one dict per line."""
    caplog.set_level(logging.INFO, "mailrelayd")

    def lines() -> list[dict[str, Any]]:
        records = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
        return [line for line in records if str(line["event"]).startswith("route.")]

    return lines


async def test_the_first_connection_is_said_once_and_the_next_are_not_news(
    way: Way, said: Callable[[], list[dict[str, Any]]]
) -> None:
    """`route.up` without an outage at the first login; reconnecting later is normal life."""
    for _ in range(3):
        assert await way.open() is not None
        way.route.closed()
    assert [(line["event"], line.get("outage")) for line in said()] == [("route.up", None)]
    assert way.route.relay == "relay[192.0.2.3]:25"
    assert way.route.last_contact == way.clock.now()


async def test_an_outage_is_told_once_with_attempts_counted_and_its_length_at_the_end(
    way: Way, said: Callable[[], list[dict[str, Any]]]
) -> None:
    """In full at first, then "same as last" with the attempt's number, in full again when the reason changes, and
    the recovery says for how long it was down; the next outage is news again."""
    way.fails.extend([REFUSED, REFUSED, REFUSED, PASSWORD])
    opening = way.open()
    for attempt in range(1, 5):
        await until_equal(lambda: way.attempts, attempt)
        await until(lambda: way.clock.waiting)
        assert way.route.held is not None
        assert way.route.held_for == (attempt - 1) * 30
        way.clock.advance(29)
        await quiet()
        assert way.attempts == attempt, "not before the probe interval is over"
        way.clock.advance(1)
    assert await opening is not None
    assert way.route.held is None
    assert way.route.held_for == 0
    lines = said()
    assert [(line["event"], line.get("attempt"), line.get("reason")) for line in lines] == [
        ("route.down", 1, "connect"),
        ("route.down", 2, events.SAME_AS_LAST),
        ("route.down", 3, events.SAME_AS_LAST),
        ("route.down", 4, "auth"),
        ("route.up", None, None),
    ]
    assert [line["severity"] for line in lines] == ["warning", "info", "info", "warning", "notice"]
    assert lines[0]["response"] == "Connection refused"
    assert "response" not in lines[1] or lines[1]["response"] is None
    assert lines[-1]["outage"] == 120
    way.route.closed()
    way.fails.append(REFUSED)
    opening = way.open()
    await until(lambda: way.route.held)
    assert (said()[-1]["attempt"], said()[-1]["reason"]) == (1, "connect")
    way.clock.advance(30)
    assert await opening is not None


async def test_every_wait_tells_until_when_the_loop_shows_up_again(way: Way) -> None:
    """A held route must not look like a hanging loop: every attempt, and every wait for another's, is a promise."""
    way.fails.extend([REFUSED] * 4)
    opening, another = way.open(), way.open()
    for attempt in range(1, 4):
        await until_equal(lambda: way.attempts, attempt)
        await quiet()
        way.beats.clear()
        way.clock.advance(30)
        await until(lambda: way.beats)
    way.clock.advance(30)
    assert await opening is not None
    assert await another is None
    assert all(within > 30 for within in way.beats)


async def test_trouble_within_a_transaction_is_not_over_with_a_login(
    way: Way, said: Callable[[], list[dict[str, Any]]]
) -> None:
    """A refused sender: the probe logs in and the route is still held until mail was answered for its own sake."""
    assert await way.open() is not None
    way.route.closed()
    way.route.hold(SENDER)
    opening = way.open()
    await quiet()
    assert way.attempts == 1
    way.clock.advance(30)
    assert await opening is not None
    held = way.route.held
    assert held is not None
    assert (held.stage, held.code) == (SENDER.stage, SENDER.code)
    assert held.text.startswith(SENDER.text)
    way.route.closed()
    way.route.hold(SENDER)
    way.clock.advance(30)
    assert await way.open() is not None
    way.route.proven()
    assert way.route.held is None
    way.route.proven()
    assert [line["event"] for line in said()] == ["route.up", "route.down", "route.down", "route.up"]
    assert said()[-1]["outage"] == 60


async def test_while_the_route_is_held_there_is_one_connection_only(way: Way) -> None:
    """A second loop waits for what the first one's probe brings, and is let in as soon as that was good."""
    assert await way.open() is not None
    way.route.closed()
    way.route.hold(SENDER)
    way.clock.advance(30)
    assert await way.open() is not None
    others = [way.open() for _ in range(3)]
    await quiet()
    assert way.attempts == 2
    assert not any(other.done() for other in others)
    way.route.proven()
    assert await asyncio.gather(*others) == [None, None, None], "look again: there may be no work any more"
    assert await way.open() is not None
    assert way.attempts == 3


async def test_only_one_connection_is_made_at_a_time(way: Way) -> None:
    """Four loops that begin together do not knock four times."""
    way.hang.clear()
    opening = [way.open() for _ in range(4)]
    await quiet()
    assert way.attempts == 1
    way.hang.set()
    done = await asyncio.gather(*opening)
    assert [session is not None for session in done] == [True, False, False, False]


async def test_as_many_connections_are_made_at_a_time_as_there_are(way: Way) -> None:
    """Twenty are there after five steps, and nobody is asked for more than they have shown to give."""

    way.passes = 50

    async def until_open() -> None:
        while await way.route.open(way.stop, way.beats.append) is None:
            pass

    async with asyncio.timeout(10):
        await asyncio.gather(*(until_open() for _ in range(20)))
    assert way.attempts == 20
    assert all(connecting <= max(opened, 1) for connecting, opened in way.at_a_time)
    assert max(connecting for connecting, _ in way.at_a_time) > 4


async def test_a_narrow_route_is_told_once_and_narrows_every_connection(
    way: Way, said: Callable[[], list[dict[str, Any]]]
) -> None:
    """For a while after a loss, for good after distrust."""
    way.window = 16
    assert (first := await way.open()) is not None
    assert first.window == 16
    way.route.narrow("a connection was lost")
    way.clock.advance(NARROW - 1)
    assert (second := await way.open()) is not None
    assert (second.window, second.extensions.chunking) == (1, True)
    way.clock.advance(1)
    assert (third := await way.open()) is not None
    assert third.window == 16
    for _ in range(2):
        way.route.distrust("it lies")
        assert (last := await way.open()) is not None
        assert (last.window, last.extensions.chunking) == (1, False)
    told = [(line["reason"], line["seconds"]) for line in said() if line["event"] == "route.narrow"]
    assert told == [("a connection was lost", NARROW), ("it lies", None)]


async def test_a_reload_trusts_nobody_again_but_another_server(way: Way) -> None:
    """Else it would obey the text of mail once more after each reload."""
    way.window = 16
    assert await way.open() is not None
    way.route.distrust("it lies")
    before, way.route = way.route, Route("way", way.connect, probe=30.0, clock=way.clock)
    way.route.inherit(before)
    assert (same := await way.open()) is not None
    assert (same.window, same.extensions.chunking) == (1, False)
    way.host = "other"
    assert (other := await way.open()) is not None
    assert (other.window, other.extensions.chunking) == (16, True)


async def test_a_refused_further_connection_holds_nothing(way: Way) -> None:
    """Those that are open have to do; another is tried after the probe interval."""
    assert await way.open() is not None
    way.fails.append(Response(Stage.GREETING, 421, "4.7.0", "too many connections"))
    assert await way.open() is None
    assert way.route.held is None
    waiting = way.open()
    await quiet()
    assert (waiting.done(), way.attempts) == (False, 2)
    way.clock.advance(30)
    assert await waiting is None
    assert await way.open() is not None


async def test_when_the_only_connection_ends_the_next_one_is_made_at_once(way: Way) -> None:
    """A further connection that was refused a moment ago does not delay the first one's successor."""
    assert await way.open() is not None
    way.fails.append(Response(Stage.GREETING, 421, "4.7.0", "too many connections"))
    assert await way.open() is None
    waiting = way.open()
    await quiet()
    way.route.closed()
    assert await waiting is None
    assert await way.open() is not None


async def test_stop_ends_the_wait_for_a_probe(way: Way) -> None:
    """A held route does not keep the daemon from ending, nor do those who wait for another's connection."""
    way.fails.append(REFUSED)
    opening = [way.open(), way.open()]
    await until(lambda: way.route.held)
    way.stop.set()
    assert await asyncio.gather(*opening) == [None, None]
    assert way.attempts == 1


async def test_stop_ends_a_connect_that_hangs(way: Way) -> None:
    """Nothing is under way yet that would be worth waiting for; the attempt is cancelled, not left behind."""
    way.hang.clear()
    opening = way.open()
    await until(lambda: way.attempts)
    way.stop.set()
    assert await opening is None
    assert way.sessions == []


async def test_cancelling_leaves_no_connection_behind(way: Way) -> None:
    """Whatever came of the attempt in the same moment is dropped."""
    for passes in range(12):
        opening = way.open()
        for _ in range(passes):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait([opening])
        if not opening.cancelled():
            way.route.closed()
    await until(lambda: len(way.server.conversations) >= len(way.sessions))
    for session in way.sessions:
        session.abort()
    assert await way.open() is not None, "and the next attempt is free to begin"


async def test_a_bug_while_connecting_is_no_route_trouble(way: Way) -> None:
    """Only what is known to be the route's fault is probed for ever; anything else ends the loop."""

    async def broken() -> Session:
        raise ZeroDivisionError("a bug")

    route = Route("way", broken, probe=30.0, clock=way.clock)
    with pytest.raises(ZeroDivisionError):
        await route.open(way.stop, way.beats.append)
