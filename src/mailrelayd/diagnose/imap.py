"""The mailbox's side: capabilities, login, the folder and what is in it. Nothing is changed, no mail gets \\Seen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from mailrelayd import login
from mailrelayd.clock import Clock, SystemClock
from mailrelayd.config import secrets
from mailrelayd.config.answering import InboundAccount
from mailrelayd.config.settings import Settings
from mailrelayd.diagnose import mailbox as meaning
from mailrelayd.diagnose import prospect, refusals
from mailrelayd.diagnose.steps import CONFIGURATION, REFUSED, TEMPORARY, UNAVAILABLE, Outcome, Step
from mailrelayd.inbound import connect, seen
from mailrelayd.inbound.imap import Session
from mailrelayd.inbound.login import choose
from mailrelayd.inbound.reader import FIELDS
from mailrelayd.inbound.values import ImapError, Mailbox, NoSuchFolder, Stage, Summary
from mailrelayd.operate import log
from mailrelayd.outbound.answers import printable

if TYPE_CHECKING:
    from mailrelayd.oauth.tokens import Tokens

DESCRIBED: Final = 1000  # of the newest mails are looked at
_SHOWN: Final = 10  # folders in a line
_NOT_NOW: Final = ("UNAVAILABLE", "INUSE", "LIMIT", "SERVERBUG")  # RFC 5530
_STEPS: Final = {
    Stage.CONNECT: ("tcp", UNAVAILABLE),
    Stage.TLS: ("tls", UNAVAILABLE),
    Stage.STARTTLS: ("tls", UNAVAILABLE),
    Stage.GREETING: ("greeting", UNAVAILABLE),
    Stage.CAPABILITY: ("capabilities", UNAVAILABLE),
    Stage.LOGIN: ("login", REFUSED),
}


async def examine(
    mailbox: InboundAccount,
    settings: Settings,
    tokens: Tokens,
    clock: Clock | None = None,
    *,
    linked: bool = False,
) -> AsyncIterator[Step]:
    """From the capabilities to what the next poll would read; one login. Ends with the first step that failed.

    `linked`: that answers reach this folder is proven elsewhere in the same run.
    """
    where = f"inbound.{mailbox.name}"
    try:
        offer = await connect.look(mailbox)
        yield _offered(where, offer)
        try:
            mechanism = choose(mailbox.auth, offer.capabilities)
        except ImapError as error:
            yield refusals.no_mechanism(mailbox, _mechanisms(offer), error.text)
            return
        session = await login.open_imap(mailbox, settings, tokens)
    except ImapError as error:
        yield failed(mailbox, error)
        return
    try:
        async with session:
            able = session.capabilities
            user = await user_of(mailbox)
            text = f"as {user} by {mechanism}" if user else f"by {mechanism}"
            yield Step(where, "login", Outcome.OK, text, data={"user": user, "mechanism": mechanism})
            async for step in _of_folder(mailbox, settings, session, clock or SystemClock()):
                yield step
                if step.outcome is Outcome.FAILED:
                    return
            yield meaning.removal(mailbox, able)
            yield meaning.news(mailbox, able)
    except ImapError as error:
        yield failed(mailbox, error)
        return
    if settings.approvals is not None and settings.reply_address and user:
        yield meaning.belonging(mailbox, settings.reply_address, user, linked=linked)


def failed(mailbox: InboundAccount, error: ImapError, name: str = "") -> Step:
    """The step that an error ends, with its cause; `name` where it is not that of the error's stage."""
    where = f"inbound.{mailbox.name}"
    stage_name, status = _STEPS.get(error.stage, ("folder", TEMPORARY))
    if isinstance(error, NoSuchFolder):
        return _no_folder(mailbox, error, name or "folder")
    status = TEMPORARY if error.code in _NOT_NOW else refusals.status_of(error, status)
    known = login.cause(mailbox, error) or refusals.by_stage(where, error.stage, error)
    said = log.masked(printable(f"[{error.code}] {error.text}" if error.code else error.text))
    data = {"stage": str(error.stage), "code": error.code}
    return Step(
        where, name or stage_name, Outcome.FAILED, said, known.text, known.cure, known.setting, status, data=data
    )


def _no_folder(mailbox: InboundAccount, error: NoSuchFolder, name: str) -> Step:
    where = f"inbound.{mailbox.name}"
    there = ", ".join(error.folders[:_SHOWN]) + (", ..." if len(error.folders) > _SHOWN else "")
    if mailbox.create_folder:
        text = f"there is no folder {mailbox.folder} yet; the daemon makes it (create_folder)"
        return Step(where, name, Outcome.OK, text, data={"folders": list(error.folders)})
    return Step(
        where,
        name,
        Outcome.FAILED,
        printable(f"there is no folder {mailbox.folder!r}, but {there or 'none at all'}"),
        f"The folder {mailbox.folder!r} does not exist in this mailbox.",
        "Write the name of one that exists, or create_folder = true.",
        f"{where}.folder",
        CONFIGURATION,
        data={"folders": list(error.folders)},
    )


def _offered(where: str, offer: connect.Offer) -> Step:
    mechanisms = _mechanisms(offer)
    text = f"login by {', '.join(mechanisms) or 'nothing'}; the server says {offer.greeting or 'nothing'!r}"
    data = {"peer": offer.peer, "tls": offer.tls, "greeting": offer.greeting, "mechanisms": mechanisms}
    return Step(
        where, "capabilities", Outcome.OK, printable(text), data=data | {"capabilities": sorted(offer.capabilities)}
    )


def _mechanisms(offer: connect.Offer) -> list[str]:
    """The ways to log in; "LOGIN" is the command."""
    offered = {word.removeprefix("AUTH=") for word in offer.capabilities if word.startswith("AUTH=")} - {"LOGIN"}
    return [*sorted(offered), *(["LOGIN"] if "LOGINDISABLED" not in offer.capabilities else [])]


async def user_of(mailbox: InboundAccount) -> str:
    """Who logs in, for people; "" where that cannot be told."""
    try:
        return await asyncio.to_thread(secrets.resolve, mailbox.user, key=f"inbound.{mailbox.name}.user")
    except secrets.SecretError:
        return ""


# The folder


async def _of_folder(
    mailbox: InboundAccount, settings: Settings, session: Session, clock: Clock
) -> AsyncIterator[Step]:
    where = f"inbound.{mailbox.name}"
    folders = await session.folders()
    more = ", ..." if len(folders) > _SHOWN else ""
    text = printable(", ".join(folders[:_SHOWN]) + more) or "none that can hold mail"
    yield Step(where, "folders", Outcome.OK, text, data={"folders": list(folders)})
    kind, _, target = mailbox.after.partition(":")
    if kind == "move" and target not in folders and not mailbox.create_folder:
        yield Step(
            where,
            "target",
            Outcome.FAILED,
            f"there is no folder {target!r}",
            f"Mails that were read are to be moved to {target!r}, which does not exist: they would stay.",
            "Make it, write the name of one that exists, or create_folder = true.",
            f"{where}.after",
            CONFIGURATION,
        )
        return
    try:
        opened = await session.select(mailbox.folder, read_only=True)
    except NoSuchFolder as error:
        yield failed(mailbox, error)
        return
    yield await _contents(mailbox, settings, session, opened, clock.now())


async def _contents(mailbox: InboundAccount, settings: Settings, session: Session, opened: Mailbox, now: float) -> Step:
    """What is in the folder, and what the next poll would do with it."""
    where = f"inbound.{mailbox.name}"
    uids = await session.search()
    looked_at = uids[-DESCRIBED:]
    mails: list[Summary] = []
    async with aclosing(session.summaries(looked_at, FIELDS)) as summaries:  # type: ignore[type-var]
        mails = [one async for one in summaries]
    known = await asyncio.to_thread(_known, settings, mailbox.name)
    outlook = prospect.prospect(mailbox, opened, known, mails, now)
    newest = max((mail.internal_date for mail in mails), default=None)
    data = {
        "folder": opened.name,
        "mails": opened.exists,
        "newest": newest.isoformat() if newest is not None else None,
        "looked_at": len(mails),
        "would_read": outlook.read,
        "with_token": outlook.answers,
        "read_before": outlook.finished,
        "there_before": outlook.there_before,
        "ignored": outlook.ignored,
        "oversize": outlook.oversize,
        "uidvalidity": opened.uidvalidity,
    }
    text = f"{opened.name} is empty"
    if opened.exists:
        arrived = f", the newest of {newest:%Y-%m-%d %H:%M:%S} UTC" if newest is not None else ""
        text = f"{opened.name} holds {opened.exists} mail(s){arrived}; {prospect.sentence(outlook, mailbox.batch_size)}"
    if len(uids) > len(looked_at):
        text += f"; only the newest {DESCRIBED} were looked at"
    if not outlook.held:
        return Step(where, "folder", Outcome.OK, printable(text), data=data)
    return Step(
        where,
        "folder",
        Outcome.WARNING,
        printable(text),
        "The folder holds mail that nothing here knows, and the daemon touches none of it before it is told to.",
        'Write adopt = "new-only" to leave what is there, or "all" to read it.',
        f"{where}.adopt",
        data=data,
    )


def _known(settings: Settings, account: str) -> prospect.Known | None:
    """What the daemon remembers; None: nothing, or it cannot be read by this user."""
    try:
        found = seen.decode((settings.state.directory / "inbound" / f"{account}.json").read_bytes())
    except (OSError, ValueError):
        return None
    finished = found.handled | found.passed
    return prospect.Known(found.folder, found.uidvalidity, found.boundary, finished)
