"""The way to a server up to where it would be spoken to: DNS, TCP, what the port speaks, TLS and the certificate."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from typing import Final

from mailrelayd import tls
from mailrelayd.clock import Clock, SystemClock
from mailrelayd.config.answering import InboundAccount
from mailrelayd.config.relaying import OutboundAccount
from mailrelayd.diagnose import findings, trust
from mailrelayd.diagnose.certificate import Certificate, parsed
from mailrelayd.diagnose.door import VERSIONS, NoStartTls, NotOffered, SpeaksPlain, context_for, first_words, handshake
from mailrelayd.diagnose.facts import Door, Handshake, Versions
from mailrelayd.diagnose.speech import recognised
from mailrelayd.diagnose.steps import Outcome, Step
from mailrelayd.dial import Address, DialError, connected, os_text, resolve

PATIENCE: Final = 30.0  # seconds for an answer, where the account allows more; some greet as late as that
QUIET: Final = 2.0  # seconds of silence after which the port is tried for TLS
QUIET_25: Final = 8.0  # between servers the greeting may come late on purpose, and who speaks before it is a spammer
_WAYS: Final = {
    "smtp": (("tls", 465), ("starttls", 587), ("starttls", 25)),
    "imap": (("tls", 993), ("starttls", 143)),
}  # security = "auto" without a port
_PLAIN: Final = (("none", 25), ("none", 587))  # with allow_plaintext, and never with a login
_LEVELS: Final = ("", "none", "starttls", "tls")  # the later the safer

Account = OutboundAccount | InboundAccount


def key_of(account: Account) -> str:
    """The account as a section of the configuration: "outbound.smarthost"."""
    return f"{'inbound' if isinstance(account, InboundAccount) else 'outbound'}.{account.name}"


def doors(account: Account, hello: str) -> list[Door]:
    """The ports that the account may mean, in the order in which they are tried."""
    protocol = "imap" if isinstance(account, InboundAccount) else "smtp"
    if account.security != "auto":
        ways: list[tuple[str, int]] = [(account.security, account.port or 0)]
    else:
        plain = isinstance(account, OutboundAccount) and account.allow_plaintext and account.auth == "none"
        ways = [*_WAYS[protocol], *(_PLAIN if plain else ())]
        if account.port is not None:
            ways = [(level, account.port) for level in dict(ways)]
    return [
        Door(
            account=key_of(account),
            protocol=protocol,
            level=level,
            host=account.host,
            port=port,
            server_name=account.tls.server_name or account.host,
            hello=hello,
            connecting=account.connect_timeout,
            answering=min(account.command_timeout, PATIENCE),
        )
        for level, port in ways
    ]


async def examine(
    account: Account, *, hello: str = "localhost", least: str = "", clock: Clock | None = None
) -> AsyncIterator[Step]:
    """From DNS to the certificate. Nobody logs in. Ends with the first step that failed.

    With security = "auto" a way that does not work is passed over where there is another one; below the level `least`
    none is taken.
    """
    clock = clock or SystemClock()
    first, *rest = doors(account, hello)
    try:
        addresses = await resolve(first.host, first.port, first.connecting)
    except DialError as error:
        yield findings.unresolved(first, str(error))
        return
    yield findings.resolved(first, [address.ip for address in addresses])
    for door in (first, *rest):
        last, failed = door is (first, *rest)[-1], []
        if account.security == "auto" and _LEVELS.index(door.level) < _LEVELS.index(least):
            yield findings.less_safe(door, least)
            return
        async for step in _way(door, account, addresses, clock):
            if step.outcome is Outcome.FAILED and not last:
                failed.append(step)
            else:
                yield step
        if not failed:
            return
        for step in failed:
            text = f'{step.text}; security = "auto" tries the next way'
            yield replace(step, outcome=Outcome.SKIPPED, text=text, cause="", cure="", setting="", status=0)


async def _way(door: Door, account: Account, addresses: Sequence[Address], clock: Clock) -> AsyncIterator[Step]:
    there = [replace(address, where=(address.ip, door.port, *address.where[2:])) for address in addresses]
    reached, steps = await _reach(door, there, clock)
    for step in steps:
        yield step
    if reached is None:
        return
    port = await _port(door, reached)
    yield port
    if port.outcome is Outcome.FAILED or door.level == "none":
        return
    async for step in _tls(door, account, reached, clock.now()):
        yield step


async def _reach(door: Door, addresses: Sequence[Address], clock: Clock) -> tuple[Address | None, list[Step]]:
    """The first address that answers, and a step for each."""
    results = await asyncio.gather(*(_timed(door, address, clock) for address in addresses))
    reached = next(
        (address for address, (took, _, _) in zip(addresses, results, strict=True) if took is not None), None
    )
    steps = [
        findings.answered(door, address.ip, took * 1000)
        if took is not None
        else findings.unanswered(door, address.ip, number, text, others=reached is not None)
        for address, (took, number, text) in zip(addresses, results, strict=True)
    ]
    return reached, steps


async def _timed(door: Door, address: Address, clock: Clock) -> tuple[float | None, int, str]:
    """Seconds that a connection took; or None, the errno (0: no answer in time) and the reason."""
    began = clock.monotonic()
    try:
        sock = await connected(address, door.connecting)
    except TimeoutError:
        return None, 0, f"no answer within {door.connecting:g} s"
    except OSError as error:
        return None, error.errno or -1, os_text(error)
    took = clock.monotonic() - began
    sock.close()
    return took, 0, ""


async def _port(door: Door, address: Address) -> Step:
    """What the port speaks, and whether that is what the account says."""
    try:
        if door.level == "tls":
            return await _expecting_tls(door, address)
        return await _expecting_text(door, address)
    except TimeoutError:
        return findings.silent_port(door)
    except OSError:
        return findings.closed_port(door)


async def _expecting_tls(door: Door, address: Address) -> Step:
    try:
        made = await handshake(door, address, _believing(), listen=True)
    except SpeaksPlain as plain:
        if recognised(plain.heard) == door.protocol:
            return findings.plain_port(door, plain.heard)
        return findings.other_protocol(door, recognised(plain.heard), plain.heard)
    except (ssl.SSLError, NotOffered):  # it speaks TLS; which, and why not with us, is looked at next
        return findings.right_port(door, b"")
    if made.closed:
        return findings.closed_port(door)
    if made.heard and recognised(made.heard) != door.protocol:
        return findings.other_protocol(door, recognised(made.heard), made.heard)
    return findings.right_port(door, made.heard)


async def _expecting_text(door: Door, address: Address) -> Step:
    heard, closed = await first_words(door, address, min(door.answering, QUIET_25 if door.port == 25 else QUIET))
    if not heard:
        try:
            await handshake(replace(door, level="tls"), address, _believing())
        except SpeaksPlain as plain:
            heard = plain.heard
        except (OSError, NotOffered, TimeoutError):
            pass
        else:
            return findings.tls_port(door)
    if not heard and not closed:  # some greet late on purpose, to tell servers from those who send spam
        heard, closed = await first_words(door, address, door.answering)
    if not heard:
        return findings.closed_port(door) if closed else findings.silent_port(door)
    if recognised(heard) != door.protocol:
        return findings.other_protocol(door, recognised(heard), heard)
    return findings.right_port(door, heard)


async def _tls(door: Door, account: Account, address: Address, now: float) -> AsyncIterator[Step]:
    try:
        context = await asyncio.to_thread(tls.context, account.tls)
    except tls.TlsError as error:
        yield trust.settings_unusable(door, str(error))
        return
    found = Versions()
    try:
        found = await _versions(door, address)
        yield trust.versions(door, found)
        made = await handshake(door, address, _not_verifying(account))
    except NoStartTls as error:
        yield findings.no_starttls(door) if error.missing else findings.no_welcome(door, str(error))
        return
    except (OSError, NotOffered, SpeaksPlain) as error:
        text = tls.explain(error, account.tls) if isinstance(error, OSError) else str(error)
        yield trust.no_tls(door, text, found, account.tls.minimum, account.tls.maximum)
        return
    yield trust.negotiated(door, made)
    yield await _certificate(door, account, address, made, context, now)


async def _versions(door: Door, address: Address) -> Versions:
    """One handshake for each version. Raises NoStartTls."""
    taken: list[str] = []
    refused: list[str] = []
    unknown: list[str] = []
    for version in VERSIONS:
        try:
            made = await handshake(door, address, context_for(version))
        except (NotOffered, TimeoutError):
            unknown.append(version)
        except (OSError, SpeaksPlain):  # ssl.SSLError is an OSError
            refused.append(version)
        else:
            (taken if made.version == version else refused).append(version)
    return Versions(tuple(taken), tuple(refused), tuple(unknown))


async def _certificate(
    door: Door, account: Account, address: Address, made: Handshake, context: ssl.SSLContext, now: float
) -> Step:
    """The account's own verdict on what the server shows."""
    chain = list(_readable(made.chain))
    if account.tls.fingerprint:
        try:
            tls.check_pin(account.tls.fingerprint, made.chain[0] if made.chain else None)
        except tls.TlsError:
            return trust.not_pinned(door, chain, now)
        return trust.trusted(door, chain, now, how="it is the pinned one")
    if not account.tls.verify:
        return trust.unverified(door, chain, now)
    try:
        await handshake(door, address, context)
    except ssl.SSLCertVerificationError as error:
        return trust.distrusted(door, error.verify_code, error.verify_message, chain, now)
    except (OSError, NoStartTls, NotOffered, SpeaksPlain) as error:
        return trust.distrusted(door, -1, str(error), chain, now)
    return trust.trusted(door, chain, now, how=f"it names {door.server_name}")


def _readable(chain: Sequence[bytes]) -> Iterator[Certificate]:
    for der in chain:
        if (one := parsed(der)) is not None:
            yield one


def _believing() -> ssl.SSLContext:
    """For finding out whether there is TLS at all, however old."""
    return context_for(*VERSIONS)


def _not_verifying(account: Account) -> ssl.SSLContext:
    """The account's own versions and ciphers; its certificate as well, but the server's is looked at later."""
    context = tls.context(account.tls)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
