"""The whole way once round: a probe to a reply address with a token, out by the smarthost and back into the folder.

The token is well-formed and nobody's: of another time (its expiry is 1970), with a random signature. The daemon that
reads the folder takes it for another machine's (`foreign`) and leaves it, whatever else is configured, because it
stands in References as well as in the address. Removed is that one mail alone, and only once it was looked at.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from mailrelayd import login
from mailrelayd.approvals import bounces, dkim, kinds, mime, token
from mailrelayd.approvals.judge import Sender
from mailrelayd.approvals.sender import SenderCheck
from mailrelayd.approvals.values import Kind
from mailrelayd.clock import Clock
from mailrelayd.config.answering import Approvals, InboundAccount
from mailrelayd.config.relaying import OutboundAccount
from mailrelayd.config.settings import Settings
from mailrelayd.diagnose import imap, mail, returned, smtp
from mailrelayd.diagnose.mail import Letter, Occasion
from mailrelayd.diagnose.returned import Returned
from mailrelayd.diagnose.steps import Outcome, Step
from mailrelayd.inbound.imap import Session
from mailrelayd.inbound.reader import FIELDS
from mailrelayd.inbound.values import ImapError, Refused, Summary
from mailrelayd.outbound.answers import printable
from mailrelayd.outbound.asking import Asking

if TYPE_CHECKING:
    from mailrelayd.oauth.tokens import Tokens

POLL: Final = 2.0  # seconds between two looks, for servers that tell nothing by themselves
LARGEST: Final = 1 << 18  # octets of a mail that are looked at
FOLDERS: Final = 30  # that are searched for a probe that was filed elsewhere
_MESSAGE_ID: Final = re.compile(r"(?im)^message-id:\s*<[a-z2-7]+\.probe@")
_ANSWERS: Final = re.compile(r"(?im)^in-reply-to:")
_LOOKED_FOR: Final = (*FIELDS, "Message-ID")
PURPOSE: Final = """\
This is a probe that mailrelayd sent to itself: it shows whether an answer to a request finds its way back.
It is removed as soon as it has arrived. Wherever else you find it, delete it: nobody waits for it."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A mail to ourselves and what it is known by."""

    token: str
    sender: str
    address: str
    letter: Letter


@dataclass(slots=True)
class _Post:
    """A folder that is watched. `first`: the smallest UID that may be the probe's."""

    mailbox: InboundAccount
    session: Session
    uidvalidity: int
    first: int
    looked_at: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Found:
    """A mail with the token: the probe, or a bounce that repeats it."""

    post: _Post
    folder: str
    uid: int
    data: bytes
    received_at: float
    bounce: bool = False


def probe(settings: Settings, occasion: Occasion, sender: str) -> Probe:
    """A new one, to the reply address of a token that is nobody's."""
    made = str(token.Token(copy=secrets.randbelow(token.MAX_COPY + 1), minute=0, mac=secrets.token_bytes(16)))
    approvals = approvals_of(settings)
    asking = Asking(
        occasion.node, settings.reply_address, approvals.subaddress_separator, subaddressing=approvals.subaddressing
    )
    address = asking.reply_to(made)
    fields = (f"Message-ID: <{made}.probe@{occasion.node}>", f"References: <{made}@{occasion.node}>")
    return Probe(made, sender, address, mail.letter(occasion, sender, address, PURPOSE, fields))


async def go_round(
    account: OutboundAccount,
    mailboxes: Sequence[InboundAccount],
    settings: Settings,
    tokens: Tokens,
    sent: Probe,
    *,
    node: str,
    clock: Clock,
    patience: float,
) -> AsyncIterator[Step]:
    """Send the probe, wait for it at most `patience` seconds, look at it, and remove it."""
    async with AsyncExitStack() as open_sessions:
        posts: list[_Post] = []
        for mailbox in mailboxes:
            try:
                posts.append(await _stand(mailbox, settings, tokens, open_sessions))
            except ImapError as trouble:
                yield imap.failed(mailbox, trouble)
        if not posts:
            return
        handed_over = False
        sending = mail.sending(account, sent.letter, sent.sender, sent.address)
        async with aclosing(
            smtp.examine(account, settings, node, tokens, sending)  # type: ignore[type-var]
        ) as steps:
            async for step in steps:
                handed_over = step.name == "send" and step.outcome is Outcome.OK
                failed = step.outcome is Outcome.FAILED
                yield returned.refused(step, approvals_of(settings), sent.address) if failed else step
        if not handed_over:
            return
        async with aclosing(_back(posts, settings, sent, clock, patience)) as steps:  # type: ignore[type-var]
            async for step in steps:
                yield step


async def _back(
    posts: Sequence[_Post], settings: Settings, sent: Probe, clock: Clock, patience: float
) -> AsyncIterator[Step]:
    """The way back of a probe that was handed over."""
    begun = clock.monotonic()
    found, troubles = await _wait(posts, sent, clock, patience)
    for mailbox, error in troubles:
        yield imap.failed(mailbox, error, "arrival")
    if found is None and len(troubles) < len(posts):
        found = await _elsewhere(posts, sent)
        if found is None:
            folders = [f"{post.mailbox.folder} of {_key(post.mailbox)}" for post in posts]
            yield returned.missing(_key(posts[0].mailbox), folders, sent.address, settings.reply_address, patience)
    if found is None:
        return
    where, wanted = _key(found.post.mailbox), found.post.mailbox.folder
    if found.bounce:  # which is no mail of ours to remove
        yield returned.bounced(where, approvals_of(settings), sent.address, found.data, found.uid)
        return
    if found.folder != wanted:
        yield returned.filed(where, found.folder, wanted, found.uid)
    else:
        yield returned.arrived(where, found.folder, found.uid, clock.monotonic() - begun)
        for step in await _look_at(found, settings, sent):
            yield step
    yield await _remove(found, sent)


def approvals_of(settings: Settings) -> Approvals:
    """[approvals], also where it is not written yet."""
    return settings.approvals or Approvals(enabled=False)


# Waiting for it


async def _stand(mailbox: InboundAccount, settings: Settings, tokens: Tokens, stack: AsyncExitStack) -> _Post:
    """Open the folder, for reading only. Raises ImapError."""
    session = await stack.enter_async_context(await login.open_imap(mailbox, settings, tokens))
    opened = await session.select(mailbox.folder, read_only=True)
    first = opened.uidnext or max(await session.search(), default=0) + 1
    return _Post(mailbox, session, opened.uidvalidity, first)


async def _wait(
    posts: Sequence[_Post], sent: Probe, clock: Clock, patience: float
) -> tuple[_Found | None, list[tuple[InboundAccount, ImapError]]]:
    """The probe, or its bounce, in whichever folder it comes to first; and the mailboxes that failed meanwhile."""
    stop, until = asyncio.Event(), clock.monotonic() + patience
    troubles: list[tuple[InboundAccount, ImapError]] = []

    async def watch(post: _Post) -> _Found | None:
        try:
            while not stop.is_set():
                if (found := await _among_new(post, sent)) is not None:
                    stop.set()
                    return found
                if (left := until - clock.monotonic()) <= 0:
                    return None
                await post.session.idle(clock, stop, min(left, POLL))
        except ImapError as error:
            troubles.append((post.mailbox, error))
        return None

    found = await asyncio.gather(*(watch(post) for post in posts))
    return next((one for one in found if one is not None), None), troubles


async def _among_new(post: _Post, sent: Probe) -> _Found | None:
    uids = [uid for uid in await post.session.search(first=post.first) if uid not in post.looked_at]
    bounce = None
    for summary in await _summaries(post.session, uids):
        post.looked_at.add(summary.uid)
        if is_probe(summary.header, sent.token):
            data = await _content(post.session, summary)
            if not _repeats(data, sent):
                return _found(post, post.mailbox.folder, summary, data)
        elif summary.size > LARGEST:
            continue
        else:
            data = await _content(post.session, summary)
        if _repeats(data, sent):
            bounce = _found(post, post.mailbox.folder, summary, data, bounce=True)
    return bounce


async def _summaries(session: Session, uids: Sequence[int]) -> list[Summary]:
    async with aclosing(session.summaries(uids, _LOOKED_FOR)) as summaries:  # type: ignore[type-var]
        return [one async for one in summaries]


async def _content(session: Session, summary: Summary) -> bytes:
    """The beginning of a mail; b"" where it has just been removed by others."""
    try:
        async with aclosing(session.message(summary.uid, size=summary.size, limit=LARGEST)) as pieces:  # type: ignore[type-var]
            return b"".join([piece async for piece in pieces])
    except Refused:
        return b""


def is_probe(header: bytes, sent: str) -> bool:
    """Whether it is the header of the probe with the token `sent`.

    What answers the probe repeats the token, and is somebody else's mail.
    """
    text = header.decode("ascii", "replace").replace("\r\n", "\n")
    if not _MESSAGE_ID.search(text) and _ANSWERS.search(text):  # some servers give every mail a Message-ID of theirs
        return False
    return any(str(one) == sent for one in token.find(text))


def _repeats(data: bytes, sent: Probe) -> bool:
    """Whether it is a bounce of the probe."""
    read = mime.parse(data)
    if not isinstance(read, mime.Mail) or kinds.kind_of(read)[0] is not Kind.BOUNCE:
        return False
    return any(str(one) == sent.token for one in bounces.read(read).tokens)


def _found(post: _Post, folder: str, summary: Summary, data: bytes, *, bounce: bool = False) -> _Found:
    return _Found(post, folder, summary.uid, data, summary.internal_date.timestamp(), bounce)


async def _elsewhere(posts: Sequence[_Post], sent: Probe) -> _Found | None:
    """The probe in another folder: rules and filters file mail where nobody here looks."""
    for post in posts:
        try:
            for folder in (await post.session.folders())[:FOLDERS]:
                opened = await post.session.select(folder, read_only=True)
                for summary in await _summaries(post.session, (await post.session.search())[-imap.DESCRIBED // 10 :]):
                    if is_probe(summary.header, sent.token):
                        post.uidvalidity = opened.uidvalidity
                        return _found(post, folder, summary, await _content(post.session, summary))
        except ImapError:
            continue
    return None


async def _look_at(found: _Found, settings: Settings, sent: Probe) -> list[Step]:
    approvals = approvals_of(settings)

    def judged(method: str) -> Sender:
        check = SenderCheck(method, approvals.authserv_id, dkim.verify)
        return check(found.data, found.received_at, lasting=True)

    configured = await asyncio.to_thread(judged, approvals.sender_check)
    signed = await asyncio.to_thread(judged, "dkim")  # which asks DNS where there is a signature
    mailbox = found.post.mailbox
    return returned.read(
        _key(mailbox), found.data, approvals, Returned(sent.token, sent.sender, mailbox.host, configured, signed)
    )


# Taking it away


async def _remove(found: _Found, sent: Probe) -> Step:
    """Remove exactly this mail: by its UID, under the same UIDVALIDITY, if it is still the probe."""
    session, where = found.post.session, _key(found.post.mailbox)
    kind, _, target = found.post.mailbox.after.partition(":")
    try:
        opened = await session.select(found.folder)
        again = await _summaries(session, [found.uid]) if opened.uidvalidity == found.post.uidvalidity else []
        if not again or not is_probe(again[0].header, sent.token):
            return Step(where, "removal", Outcome.OK, "the probe is not there any more: somebody else has taken it")
        if session.can_expunge or kind != "move" or not session.can_move:
            left = await session.delete([found.uid])
            text = f"the probe, and nothing else, was removed from {found.folder}"
        else:
            await session.move([found.uid], target)
            left, text = [], f"the probe, and nothing else, was moved to {target}"
    except ImapError as error:
        step = imap.failed(found.post.mailbox, error, "removal")
        return Step(where, "removal", Outcome.WARNING, f"the probe is still there: {step.text}", step.cause, step.cure)
    if not left:
        return Step(where, "removal", Outcome.OK, printable(text), data={"uid": found.uid})
    return Step(
        where,
        "removal",
        Outcome.WARNING,
        rf"the probe (UID {found.uid}) is still there, only marked \Deleted",
        "The server cannot remove single mails (UIDPLUS), and all that are marked could include another's.",
        "Remove it by hand; the daemon leaves it alone.",
        data={"uid": found.uid},
    )


def _key(mailbox: InboundAccount) -> str:
    return f"inbound.{mailbox.name}"
