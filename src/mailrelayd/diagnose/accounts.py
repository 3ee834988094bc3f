"""A whole account, step by step: thoroughly for `doctor`, briefly for `check --connect`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING

from mailrelayd.config import secrets
from mailrelayd.config.answering import InboundAccount
from mailrelayd.config.settings import Settings
from mailrelayd.diagnose import imap, smtp, way
from mailrelayd.diagnose.network import Account, key_of
from mailrelayd.diagnose.steps import CONFIGURATION, Outcome, Step
from mailrelayd.operate import log
from mailrelayd.outbound.answers import printable

if TYPE_CHECKING:
    from mailrelayd.oauth.tokens import Tokens


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


def thorough(account: Account, settings: Settings, tokens: Tokens) -> AsyncIterator[Step]:
    """Everything that can be seen without sending a mail or changing a folder; one login."""
    return way.within(way.LONGEST, key_of(account), _thorough(account, settings, tokens))


async def _thorough(account: Account, settings: Settings, tokens: Tokens) -> AsyncIterator[Step]:
    where = key_of(account)
    unknown = False
    for step in await asyncio.to_thread(lambda: list(_secrets(account))):
        yield step
        unknown |= step.outcome is Outcome.FAILED
    account, seen = way.hurried(account), []
    async with aclosing(way.looked_at(account, settings)) as steps:  # type: ignore[type-var]
        async for step in steps:
            yield step
            seen.append(step)
    unreached = any(step.outcome is Outcome.FAILED for step in seen)
    if unknown or unreached:
        reason = "the server cannot be reached as configured" if unreached else "user or secret cannot be had"
        yield Step(where, "login", Outcome.SKIPPED, f"not tried: {reason}")
        return
    async with aclosing(_spoken_to(way.taken(account, seen), settings, tokens, rehearsed=True)) as steps:  # type: ignore[type-var]
        async for step in steps:
            yield step


def brief(account: Account, settings: Settings, tokens: Tokens) -> AsyncIterator[Step]:
    """From the connection to the login, and whether the folder is there.

    What fails before the login is explained by a look at the network, where that knows more.
    """
    return way.within(way.LONGEST, key_of(account), _brief(account, settings, tokens))


async def _brief(account: Account, settings: Settings, tokens: Tokens) -> AsyncIterator[Step]:
    fixed = await way.fixed(way.hurried(account), settings)
    if isinstance(fixed, Step):
        yield fixed
        return
    spoken_to = _spoken_to(fixed, settings, tokens, rehearsed=False)
    async with aclosing(way.explained(fixed, settings, spoken_to)) as steps:  # type: ignore[type-var]
        async for step in steps:
            yield step


def _spoken_to(account: Account, settings: Settings, tokens: Tokens, *, rehearsed: bool) -> AsyncIterator[Step]:
    if isinstance(account, InboundAccount):
        return imap.examine(account, settings, tokens)
    conversation = smtp.rehearsal(account) if rehearsed else None
    return smtp.examine(account, settings, way.hello(settings), tokens, conversation)


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
