"""[alerts]: one digest an hour at most to `to`, and a call of `ping_url` every minute while all is well.

A digest is a message like any other: queued, and sent over the same route. So while the route is held none is made;
the one that follows says how long that was. That nothing can be sent is told by the ping that does not come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final, Protocol

from mailrelayd.alerts import letter, remembered, tally
from mailrelayd.alerts.ping import ping
from mailrelayd.alerts.tally import ENDS, Digest, Tally
from mailrelayd.clock import Clock
from mailrelayd.oauth import expiry
from mailrelayd.operate import events, log
from mailrelayd.outbound.values import Envelope

EVERY: Final = 60.0  # seconds between two looks, and two pings


class Send(Protocol):
    """`Queue.add`."""

    async def __call__(self, data: bytes, envelope: Envelope, *, rule: str) -> str:
        """On disk when this returns; the queue id."""


@dataclass(frozen=True, slots=True)
class Terms:
    """[alerts], and what else the configuration says that matters here."""

    node: str
    to: str = ""
    ping_url: str = ""
    from_address: str = ""
    places: tuple[str, ...] = ()  # accounts, and the system log's path: what else is down is nobody's any more
    expiring: tuple[tuple[str, date], ...] = ()  # account -> the last day its client secret is good for


class Bell:
    """One per process. It hears of every event that is logged, from its making on."""

    def __init__(
        self,
        clock: Clock,
        send: Send,
        rule_of: Callable[[str], Awaitable[str]],
        wrong: Callable[[], str],
        terms: Terms,
        state: Path,
    ) -> None:
        """`rule_of`: how a message's envelope was found, "" where nobody knows it any more; `wrong`: what is not
        well right now, "" for nothing; `state`: [state] directory."""
        self._clock = clock
        self._send = send
        self._rule_of = rule_of
        self._wrong = wrong
        self._tally = Tally()
        self._state = state
        self._told = remembered.read(state)
        if self._told.at:
            ago = min(max(clock.now() - self._told.at, 0.0), tally.EVERY)  # whoever has set the clock meanwhile
            self._tally.told(clock.monotonic() - ago)
        self._today: date | None = None
        self.set_terms(terms)
        log.listen(self._note, also=frozenset(ENDS))

    def set_terms(self, terms: Terms) -> None:
        """Go on under another configuration."""
        self._terms = terms
        self._today = None  # look again
        self._tally.keep(terms.places)
        if terms.ping_url:
            log.conceal(terms.ping_url)

    def close(self) -> None:
        """Hear of nothing more."""
        log.listen(None)

    async def run(self, stop: asyncio.Event) -> None:
        """Look, tell and call until `stop`."""
        while not await self._clock.wait(stop, EVERY):
            # Queuing waits for a full disk, and the end of the process must not.
            looking, stopping = asyncio.ensure_future(self.look()), asyncio.ensure_future(stop.wait())
            try:
                await asyncio.wait([looking, stopping], return_when=asyncio.FIRST_COMPLETED)
                if looking.done():
                    looking.result()
            finally:
                looking.cancel()
                stopping.cancel()
                await asyncio.wait([looking, stopping])

    async def look(self) -> None:
        """Tell what is due."""
        if self._warn_of_secrets() and not self._terms.to:
            await self._remember()
        wrong = self._wrong() or self._is_down("spool.full")
        if self._terms.to and self._tally.due(self._clock.monotonic()) and not self._is_down("route.down"):
            await self._tell(self._tally.take(self._clock.monotonic()))
        if self._terms.ping_url and not wrong:
            events.alerts_ping(reason=await ping(self._terms.ping_url))

    def _note(self, severity: str, event: str, pairs: Mapping[str, object], line: str) -> None:
        self._tally.note(severity, event, pairs, line, now=self._clock.now(), ticks=self._clock.monotonic())

    def _is_down(self, event: str) -> bool:
        return any(outage.event == event for outage in self._tally.down)

    async def _tell(self, digest: Digest) -> None:
        """Queue it, but for what is about earlier digests: else one that fails would be followed by the next."""
        terms, now = self._terms, self._clock.now()
        for kind in digest.kinds:
            shown = list(zip(kind.lines, kind.messages, strict=True))
            kept = [(line, one) for line, one in shown if not one or await self._rule_of(one) != letter.RULE]
            kind.count -= len(shown) - len(kept)
            kind.lines[:] = [line for line, _ in kept]
        digest = Digest(tuple(kind for kind in digest.kinds if kind.lines), digest.outages)
        if not digest:
            return
        text = letter.letter(
            digest, node=terms.node, sender=terms.from_address, to=terms.to, number=f"{now:.0f}", now=now
        )
        queue_id = await self._send(text, Envelope(terms.from_address, (terms.to,)), rule=letter.RULE)
        self._tally.told(self._clock.monotonic())
        self._told.at = now
        await self._remember()
        events.message_queued(
            queue_id=queue_id,
            sender=terms.from_address,
            nrcpt=1,
            size=len(text),
            file="",
            uid=None,
            rule=letter.RULE,
        )

    async def _remember(self) -> None:
        """Only once it is told for certain: a warning that was never mailed comes again after a restart."""
        with suppress(OSError):  # then it is told once too often
            await asyncio.to_thread(remembered.write, self._state, self._told)

    def _warn_of_secrets(self) -> bool:
        """Once a day look at the days on which client secrets expire; 30, 7 and 1 days before it is said."""
        today = datetime.fromtimestamp(self._clock.now(), UTC).date()
        if today == self._today:
            return False
        self._today = today
        self._told.secrets = {one: days for one, days in self._told.secrets.items() if one in self._terms.expiring}
        said = False
        for account, day in self._terms.expiring:
            threshold = expiry.due(day, today, self._told.secrets.get((account, day)))
            if threshold is not None:
                said = True
                self._told.secrets[account, day] = threshold
                events.secret_expiring(account=account, expires=day.isoformat(), days=(day - today).days)
        return said
