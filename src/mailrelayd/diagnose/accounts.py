"""A whole account, step by step: thoroughly for `doctor`, briefly for `check --connect`."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from mailrelayd.config import secrets
from mailrelayd.config.answering import InboundAccount
from mailrelayd.config.settings import Settings
from mailrelayd.diagnose import imap, network, smtp
from mailrelayd.diagnose.network import Account, key_of
from mailrelayd.diagnose.steps import CONFIGURATION, Outcome, Step
from mailrelayd.operate import log
from mailrelayd.outbound.answers import printable
from mailrelayd.tlsmemory import TlsMemory

if TYPE_CHECKING:
    from mailrelayd.oauth.tokens import Tokens

# Failures of these steps have their roots in the network: `network.examine` knows more about them than a login does.
_OF_THE_NETWORK: Final = frozenset({"dns", "tcp", "tls", "greeting", "capabilities"})


class Unknown(Exception):  # noqa: N818 - what is the case
    """No such account."""


def chosen(settings: Settings, names: list[str]) -> list[Account]:
    """The accounts of these names ("smarthost" or "outbound.smarthost"); none named: all that are enabled.

    Raises Unknown with the names there are.
    """
    everything: dict[str, Account] = {f"outbound.{name}": account for name, account in settings.outbound.items()}
    everything |= {f"inbound.{name}": account for name, account in settings.inbound.items()}
    if not names:
        return [account for account in everything.values() if account.enabled]
    found: list[Account] = []
    for name in names:
        meant = [account for key, account in everything.items() if name in (key, key.partition(".")[2])]
        if not meant:
            raise Unknown(f"there is no account {name!a}: there is {', '.join(everything) or 'none at all'}")
        found += [account for account in meant if account not in found]
    return found


def hello(settings: Settings) -> str:
    """Our own name, as the daemon says it; nothing is written where it has not run yet."""
    if settings.node.name:
        return settings.node.name
    with suppress(OSError):
        if name := (settings.state.directory / "node").read_text("ascii", "ignore").strip():
            return name
    letters = (c if c.isascii() and (c.isalnum() or c in ".-") else "-" for c in socket.gethostname())
    return "".join(letters).strip(".-")[:63] or "localhost"


async def thorough(account: Account, settings: Settings, tokens: Tokens) -> AsyncIterator[Step]:
    """Everything that can be seen without sending a mail or changing a folder; one login."""
    where = key_of(account)
    unknown = unreached = False
    for step in await asyncio.to_thread(lambda: list(_secrets(account))):
        yield step
        unknown |= step.outcome is Outcome.FAILED
    way: Mapping[str, object] = {}
    async with aclosing(_network(account, settings)) as steps:  # type: ignore[type-var]
        async for step in steps:
            yield step
            unreached |= step.outcome is Outcome.FAILED
            way = step.data if _is_way(step) else way
    if unknown or unreached:
        reason = "the server cannot be reached as configured" if unreached else "user or secret cannot be had"
        yield Step(where, "login", Outcome.SKIPPED, f"not tried: {reason}")
        return
    async for step in _spoken_to(_fixed(account, way), settings, tokens, rehearsed=True):
        yield step


async def brief(account: Account, settings: Settings, tokens: Tokens) -> AsyncIterator[Step]:
    """From the connection to the login, and whether the folder is there.

    What fails before the login is explained by a look at the network, where that knows more.
    """
    if account.security == "auto":
        looked = [step async for step in _network(account, settings)]
        if wrong := [step for step in looked if step.outcome is Outcome.FAILED]:
            yield wrong[0]
            return
        account = _fixed(account, next((step.data for step in reversed(looked) if _is_way(step)), {}))
    async for step in _spoken_to(account, settings, tokens, rehearsed=False):
        if step.outcome is not Outcome.FAILED or step.name not in _OF_THE_NETWORK:
            yield step
            continue
        looked = [seen async for seen in _network(account, settings)]
        yield next((seen for seen in looked if seen.outcome is Outcome.FAILED), step)


async def _network(account: Account, settings: Settings) -> AsyncIterator[Step]:
    """As `network.examine`, and with security = "auto" nothing below what has been seen before."""
    least = ""
    if account.security == "auto":
        try:
            best = await asyncio.to_thread(memory_of(account, settings).best)
        except (OSError, ValueError) as error:
            yield _no_memory(account, error)
            return
        least = best[0] if best is not None else ""
    async for step in network.examine(account, hello=hello(settings), least=least):
        yield step


def memory_of(account: Account, settings: Settings) -> TlsMemory:
    """What STATE/tls.json says of the account's server."""
    prefix = "imap:" if isinstance(account, InboundAccount) else ""
    return TlsMemory(settings.state.directory, prefix + account.host)


def _is_way(step: Step) -> bool:
    return step.name == "port" and step.outcome is Outcome.OK


def _fixed(account: Account, way: Mapping[str, object]) -> Account:
    """The account with what "auto" came to: a login then neither tries other ways nor remembers this one."""
    if account.security != "auto" or not way:
        return account
    return account.model_copy(update={"security": way["level"], "port": way["port"]})


async def _spoken_to(account: Account, settings: Settings, tokens: Tokens, *, rehearsed: bool) -> AsyncIterator[Step]:
    if isinstance(account, InboundAccount):
        async for step in imap.examine(account, settings, tokens):
            yield step
    else:
        async for step in smtp.examine(account, settings, hello(settings), tokens, rehearsed=rehearsed):
            yield step


def _secrets(account: Account) -> Iterator[Step]:
    """Whether user and secret can be had; of a command, whether it can be run, which the login does."""
    where = key_of(account)
    references: dict[str, secrets.Secret | str] = {}
    if account.auth != "none":
        references["user"] = account.user
    if account.auth == "password":
        references["password"] = account.password
    elif account.auth == "oauth2" and account.oauth is not None:
        references |= {"oauth.client_id": account.oauth.client_id, "oauth.client_secret": account.oauth.client_secret}
    for key, reference in references.items():
        if not reference:
            continue
        shown = secrets.describe_public(reference) if isinstance(reference, str) else secrets.describe(reference)
        if secrets.split(reference)[0] == "command":
            if program := secrets.program_missing(reference):
                yield _no_secret(where, key, f"the program {program} cannot be found or executed")
            else:
                yield Step(where, "secret", Outcome.OK, printable(f"{key} is what {shown} prints"))
            continue
        try:
            found = secrets.resolve(reference, key=f"{where}.{key}")
        except secrets.SecretError as problem:
            yield _no_secret(where, key, str(problem).removeprefix(f"{where}.{key}: "))
        else:
            if key in ("password", "oauth.client_secret"):
                log.conceal(found)
            yield Step(where, "secret", Outcome.OK, printable(f"{key} is there ({shown})"))


def _no_secret(where: str, key: str, text: str) -> Step:
    cause = f"The account's {key} cannot be had, so nobody can log in."
    cure = "Correct the reference, or what it leads to."
    if "CREDENTIALS_DIRECTORY" in text:
        cure = "Run this as root, which reads /etc/mailrelayd/credentials where systemd does, or write file:PATH."
    return Step(where, "secret", Outcome.FAILED, printable(text), cause, cure, f"{where}.{key}", CONFIGURATION)


def placed(step: Step, origins: Mapping[str, str]) -> Step:
    """The step with the place where its setting is written, for whoever has to change it."""
    if not step.setting:
        return step
    place = origins.get(step.setting, "default")
    return replace(step, data={**step.data, "origin": place})


def _no_memory(account: Account, error: OSError | ValueError) -> Step:
    cause = "Which is the safest way to this server cannot be read, and without that no other is taken."
    cure = "Run this as the daemon's user, or do what the text says."
    text = printable(str(error))
    key = f"{key_of(account)}.security"
    return Step(key_of(account), "memory", Outcome.FAILED, text, cause, cure, key, CONFIGURATION)
