"""The way to the smarthost: open, or held and probed.

However many messages wait and however many connections are allowed, a held route sees one connection attempt per
[retry] probe. What holds it is never any message's fault, so no message is touched meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_fixed

from mailrelayd.clock import Clock
from mailrelayd.operate import events
from mailrelayd.outbound.session import Session
from mailrelayd.outbound.smtp import RouteTrouble
from mailrelayd.outbound.values import Response, Stage

# Trouble of these stages shows only when mail is sent, so a login alone does not prove that it is over.
WITHIN_TRANSACTIONS = frozenset({Stage.RSET, Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.BODY})


class Route:
    """Shared by all connections to one account."""

    def __init__(self, account: str, opener: Callable[[], Awaitable[Session]], *, probe: float, clock: Clock) -> None:
        """`opener` connects and logs in, or raises RouteTrouble; `probe` in seconds."""
        self.account = account
        self.relay = ""  # host[ip]:port of the last connection
        self.last_contact = 0.0  # seconds since the epoch; 0: none yet
        self._opener = opener
        self._probe = probe
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self._open = 0
        self._held: Response | None = None
        self._since = 0.0  # clock.monotonic() of the first trouble
        self._next = 0.0  # clock.monotonic() of the next probe
        self._attempts = 0

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
        """A connection, logged in; None where `stop` came first, or this further connection is one too many."""
        async with self._one_at_a_time:
            if self._held is None and self._open:
                return await self._open_another(stop)
            return await self._open_first(stop, beat)

    async def _open_first(self, stop: asyncio.Event, beat: Callable[[float], None]) -> Session | None:
        async def attempt() -> Session | None:
            beat(self._probe + 120.0)
            if await self._clock.wait(stop, self._next - self._clock.monotonic()) or stop.is_set():
                return None
            return await self._unless(stop)

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
            session = await self._unless(stop)
        except RouteTrouble:
            await self._clock.wait(stop, self._probe)
            return None
        if session is not None:
            self._connected(session)
        return session

    async def _unless(self, stop: asyncio.Event) -> Session | None:
        """Connect, but drop it when `stop` comes first: nothing is under way yet that would be worth waiting for."""
        opening = asyncio.ensure_future(self._opener())
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait([opening, stopping], return_when=asyncio.FIRST_COMPLETED)
            return opening.result() if opening.done() else None
        finally:
            opening.cancel()
            stopping.cancel()
            await asyncio.wait([opening, stopping])

    def _connected(self, session: Session) -> None:
        self._open += 1
        self._next = 0.0
        self.relay = session.relay
        self.last_contact = self._clock.now()

    def closed(self) -> None:
        """A connection that `open` gave out has ended."""
        self._open -= 1

    def _up(self) -> None:
        outage = self._clock.monotonic() - self._since if self._held is not None else None
        if self._held is not None or self._attempts == 0:
            events.route_up(account=self.account, relay=self.relay, outage=outage)
        self._held, self._attempts = None, 1
