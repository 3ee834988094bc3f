"""The way to an account's server as a diagnosis goes it: for how long at most, by which port, and why it does not lead.

Nothing is remembered of it: who looks may be another user than the daemon's.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from typing import Final, TypeVar

from mailrelayd.clock import Clock, SystemClock
from mailrelayd.config.answering import InboundAccount
from mailrelayd.config.relaying import OutboundAccount
from mailrelayd.config.settings import Settings
from mailrelayd.diagnose import network
from mailrelayd.diagnose.network import PATIENCE, key_of
from mailrelayd.diagnose.steps import CONFIGURATION, UNAVAILABLE, Outcome, Step
from mailrelayd.outbound.answers import printable
from mailrelayd.tlsmemory import TlsMemory

# Failures of these steps have their roots in the network: `network.examine` knows more about them than a login does.
_OF_THE_NETWORK: Final = frozenset({"dns", "tcp", "tls", "greeting", "capabilities"})

LONGEST: Final = 300.0
"""Seconds that an account may take, all its steps together."""

Account = TypeVar("Account", OutboundAccount, InboundAccount, OutboundAccount | InboundAccount)


def hello(settings: Settings) -> str:
    """Our own name, as the daemon says it; nothing is written where it has not run yet."""
    if settings.node.name:
        return settings.node.name
    with suppress(OSError):
        if name := (settings.state.directory / "node").read_text("ascii", "ignore").strip():
            return name
    letters = (c if c.isascii() and (c.isalnum() or c in ".-") else "-" for c in socket.gethostname())
    return "".join(letters).strip(".-")[:63] or "localhost"


def hurried(account: Account) -> Account:
    """The account as somebody uses it who waits for the outcome: no answer takes longer than PATIENCE."""
    times = {"connect_timeout": account.connect_timeout, "command_timeout": account.command_timeout}
    return account.model_copy(update={key: min(value, PATIENCE) for key, value in times.items()})


def memory_of(account: OutboundAccount | InboundAccount, settings: Settings) -> TlsMemory:
    """What STATE/tls.json says of the account's server."""
    prefix = "imap:" if isinstance(account, InboundAccount) else ""
    return TlsMemory(settings.state.directory, prefix + account.host)


async def within(seconds: float, where: str, examination: AsyncIterator[Step]) -> AsyncIterator[Step]:
    """The steps of an examination, which ends after so many seconds in any case."""
    clock = SystemClock()
    until = clock.monotonic() + seconds
    async with aclosing(examination) as steps:  # type: ignore[type-var]
        while True:
            try:
                async with asyncio.timeout(until - clock.monotonic()):
                    step = await anext(steps)
            except StopAsyncIteration:
                return
            except TimeoutError:
                text = f"not through within {seconds:g} s, and given up"
                cause = "Each answer comes in time, and all of them together take too long."
                cure = "Have whoever runs the server look at it; until then each connection takes as long."
                yield Step(where, "time", Outcome.FAILED, text, cause, cure, "", UNAVAILABLE)
                return
            yield step


async def looked_at(
    account: OutboundAccount | InboundAccount, settings: Settings, clock: Clock | None = None
) -> AsyncIterator[Step]:
    """As `network.examine`, and with security = "auto" nothing below what has been seen before."""
    least = ""
    if account.security == "auto":
        try:
            best = await asyncio.to_thread(memory_of(account, settings).best)
        except (OSError, ValueError) as error:
            yield _no_memory(key_of(account), str(error))
            return
        least = best[0] if best is not None else ""
    async for step in network.examine(account, hello=hello(settings), least=least, clock=clock):
        yield step


async def fixed(account: Account, settings: Settings, clock: Clock | None = None) -> Account | Step:
    """The account with what security = "auto" comes to here; or the step at which that fails."""
    if account.security != "auto":
        return account
    seen = [step async for step in looked_at(account, settings, clock)]
    return next((step for step in seen if step.outcome is Outcome.FAILED), None) or taken(account, seen)


def taken(account: Account, seen: list[Step]) -> Account:
    """The account by the port that was found: a login then neither tries other ways nor remembers this one."""
    found = next((one for one in reversed(seen) if one.name == "port" and one.outcome is Outcome.OK), None)
    if account.security != "auto" or found is None:
        return account
    return account.model_copy(update={"security": found.data["level"], "port": found.data["port"]})


async def explained(
    account: OutboundAccount | InboundAccount,
    settings: Settings,
    examination: AsyncIterator[Step],
    clock: Clock | None = None,
) -> AsyncIterator[Step]:
    """The steps of an examination; a failure below the login is looked into, where the network tells more."""
    async with aclosing(examination):  # type: ignore[type-var]
        async for step in examination:
            below = step.name in _OF_THE_NETWORK and step.account == key_of(account)
            if step.outcome is not Outcome.FAILED or not below:
                yield step
                continue
            seen = [one async for one in looked_at(account, settings, clock)]
            yield next((one for one in seen if one.outcome is Outcome.FAILED), step)


def _no_memory(where: str, error: str) -> Step:
    cause = "Which is the safest way to this server cannot be read, and without that no other is taken."
    cure = "Run this as the daemon's user, or do what the text says."
    text = printable(error)
    return Step(where, "memory", Outcome.FAILED, text, cause, cure, f"{where}.security", CONFIGURATION)
