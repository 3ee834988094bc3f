"""The way to the smarthost: open, or held and probed.

However many messages wait and however many connections are allowed, a held route sees one connection attempt per
[retry] probe. What holds it is never any message's fault, so no message is touched meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from math import inf

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_fixed

from mailrelayd import causes
from mailrelayd.clock import Clock
from mailrelayd.operate import events
from mailrelayd.outbound.session import Session
from mailrelayd.outbound.smtp import RouteTrouble
from mailrelayd.outbound.values import Response, Stage

# Trouble of these stages shows only when mail is sent, so a login alone does not prove that it is over.
WITHIN_TRANSACTIONS = frozenset({Stage.RSET, Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.BODY, Stage.IDLE})


NARROW = 300.0
"""Seconds that bodies go out one at a time after a connection was lost with several of them on their way."""


class Route:
    """Shared by all connections to one account."""

    def __init__(
        self,
        account: str,
        opener: Callable[[], Awaitable[Session]],
        *,
        probe: float,
        clock: Clock,
        opening: float = 120.0,
    ) -> None:
        """`opener` connects and logs in within `opening` seconds, or raises RouteTrouble; `probe` in seconds."""
        self.account = account
        self.relay = ""  # host[ip]:port of the last connection
        self.last_contact = 0.0  # seconds since the epoch; 0: none yet
        self._opener = opener
        self._probe = probe
        self._opening_takes = opening
        self._clock = clock
        self._opening = 0  # connections on their way
        self._open = 0  # connections given out
        self._enough_until = 0.0  # clock.monotonic(): a further connection was refused
        self._news = asyncio.Event()
        self._held: Response | None = None
        self._since = 0.0  # clock.monotonic() of the first trouble
        self._next = 0.0  # clock.monotonic() of the next probe
        self._attempts = 0
        self._distrust = ""  # why no chunks are sent any more
        self._narrow_until = 0.0  # clock.monotonic()
        self._said_narrow = ""

    def inherit(self, before: Route) -> None:
        """Go on where the route of the configuration before stood: an outage lasts, but is probed at once.

        A reload does not make a server fit for chunks either; another one does not suffer for it.
        """
        self.relay, self.last_contact = before.relay, before.last_contact
        self._held, self._since, self._attempts = before._held, before._since, before._attempts
        self._distrust, self._said_narrow = before._distrust, before._said_narrow
        self._narrow_until = before._narrow_until

    @property
    def held(self) -> Response | None:
        """Why the route is held; None: it is not."""
        return self._held

    @property
    def held_for(self) -> float:
        """Seconds since the trouble began; 0: there is none."""
        return self._clock.monotonic() - self._since if self._held else 0.0

    def hold(self, response: Response) -> None:
        """Nothing more is sent until a probe succeeds; the next one is a full interval away."""
        now = self._clock.monotonic()
        if response.stage in WITHIN_TRANSACTIONS:  # a login's trouble says it already
            code = f"{response.code or ''} {response.enhanced}".strip()
            cause = causes.explain("smtp", response.stage, code, response.text, account=f"outbound.{self.account}")
            response = replace(response, text=causes.behind(response.text, cause))
        if self._held is None:
            self._since, self._attempts = now, 0
        self._held = response
        self._attempts += 1
        self._next = now + self._probe
        events.route_down(
            account=self.account,
            response=response,
            attempt=self._attempts,
            next_attempt=self._clock.now() + self._probe,
        )

    def proven(self) -> None:
        """Mail went through, or was refused for its own sake: the way is fine."""
        if self._held is not None:
            self._up()

    async def open(self, stop: asyncio.Event, beat: Callable[[float], None]) -> Session | None:
        """A connection, logged in. None: `stop` came first, or others see to the work for now; look again.

        While the route is held there is only one. Else as many are opened at a time as are open: a server that has
        let some in is asked for as many more, and 20 are there after five steps.
        """
        beat(self._probe + self._opening_takes)
        enough = self._held is not None or self._clock.monotonic() < self._enough_until
        if self._opening >= max(self._open, 1) or (self._open and enough):
            await self._or_stop(stop, self._news.wait(), self._probe)
            return None
        self._opening += 1
        try:
            return await (self._open_another(stop) if self._open else self._open_first(stop, beat))
        finally:
            self._opening -= 1
            self._tell()

    async def _open_first(self, stop: asyncio.Event, beat: Callable[[float], None]) -> Session | None:
        async def attempt() -> Session | None:
            beat(self._probe + self._opening_takes)
            if await self._clock.wait(stop, self._next - self._clock.monotonic()) or stop.is_set():
                return None
            return await self._connect(stop)

        def failed(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            assert isinstance(error, RouteTrouble)
            self.hold(error.response)

        async def no_sleep(_: float) -> None:
            """The wait is in `attempt`, where `stop` ends it."""

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(RouteTrouble),
            wait=wait_fixed(self._probe),
            before_sleep=failed,
            sleep=no_sleep,
        )
        session: Session | None = await retrying(attempt)
        if session is not None:
            self._connected(session)
            if self._held is None or self._held.stage not in WITHIN_TRANSACTIONS:
                self._up()
        return session

    async def _open_another(self, stop: asyncio.Event) -> Session | None:
        """Many servers allow a few connections only: then those that are open have to do."""
        try:
            session = await self._connect(stop)
        except RouteTrouble:
            self._enough_until = self._clock.monotonic() + self._probe
            return None
        if session is not None:
            self._connected(session)
        return session

    async def _connect(self, stop: asyncio.Event) -> Session | None:
        """Connect, but drop it when `stop` comes first: nothing is under way yet that would be worth waiting for."""
        began = self._clock.monotonic()
        opening = asyncio.ensure_future(self._opener())
        session: Session | None = None
        try:
            if await self._or_stop(stop, asyncio.wait([opening])):
                session = opening.result()
                session.setup = self._clock.monotonic() - began
            return session
        finally:
            opening.cancel()
            await asyncio.wait([opening])
            if not opening.cancelled() and opening.exception() is None and session is None:
                opening.result().abort()  # it came while nobody wanted it any more

    async def _or_stop(self, stop: asyncio.Event, waiting: Awaitable[object], seconds: float = inf) -> bool:
        """Wait for something; False where `stop` or the time came first."""
        wanted = asyncio.ensure_future(waiting)
        ending = asyncio.ensure_future(stop.wait() if seconds == inf else self._clock.wait(stop, seconds))
        try:
            await asyncio.wait([wanted, ending], return_when=asyncio.FIRST_COMPLETED)
            return wanted.done()
        finally:
            wanted.cancel()
            ending.cancel()
            await asyncio.wait([wanted, ending])

    def _tell(self) -> None:
        """Whoever waits for another's connection looks again."""
        self._news.set()
        self._news = asyncio.Event()

    def _connected(self, session: Session) -> None:
        self._open += 1
        self._next = self._enough_until = 0.0
        if _host(session.relay) != _host(self.relay):
            self._distrust = self._said_narrow = ""
        self.relay = session.relay
        self.last_contact = self._clock.now()
        if self._distrust:
            session.narrow(chunks=False)
        elif self._clock.monotonic() < self._narrow_until:
            session.narrow(chunks=True)
        elif session.narrowed:
            self._say_narrow(session.narrowed)

    def distrust(self, why: str) -> None:
        """From now on no chunks are sent to this server, so bodies go out one at a time."""
        self._distrust = why
        self._say_narrow(why)

    def narrow(self, why: str) -> None:
        """For a while bodies go out one at a time: if one of them is what the connection breaks on, it is found."""
        self._narrow_until = self._clock.monotonic() + NARROW
        events.route_narrow(account=self.account, relay=self.relay, reason=why, seconds=NARROW)

    def _say_narrow(self, why: str) -> None:
        """Once, not on every connection."""
        if why != self._said_narrow:
            self._said_narrow = why
            events.route_narrow(account=self.account, relay=self.relay, reason=why)

    def closed(self) -> None:
        """A connection that `open` gave out has ended."""
        self._open -= 1
        self._tell()

    def _up(self) -> None:
        outage = self._clock.monotonic() - self._since if self._held is not None else None
        if self._held is not None or self._attempts == 0:
            events.route_up(account=self.account, relay=self.relay, outage=outage)
        self._held, self._attempts, self._next = None, 1, 0.0
        self._tell()


def _host(relay: str) -> str:
    """Its name as configured: behind one name there may be many machines of one kind."""
    return relay.partition("[")[0]
