"""What `mailrelayd test` does, in order: the smarthost up to a mail, the mailboxes, or one round the whole way."""

from __future__ import annotations

import asyncio
import secrets as random
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mailrelayd.clock import Clock
from mailrelayd.config import secrets
from mailrelayd.config.answering import InboundAccount
from mailrelayd.config.load import Loaded
from mailrelayd.config.relaying import OutboundAccount
from mailrelayd.config.settings import Settings
from mailrelayd.diagnose import imap, loop, mail, smtp, way
from mailrelayd.diagnose import mailbox as meaning
from mailrelayd.diagnose.mail import Occasion
from mailrelayd.diagnose.steps import CONFIGURATION, Outcome, Step
from mailrelayd.outbound.answers import printable

if TYPE_CHECKING:
    from mailrelayd.oauth.tokens import Tokens

PURPOSE: Final = "This is a test mail: the configuration named below can send it. Nobody needs to answer."


@dataclass(frozen=True, slots=True)
class Asked:
    """The command line. Neither smtp nor imap nor loop: smtp and imap."""

    to: str = ""  # "": test_to
    smtp: bool = False
    imap: bool = False
    loop: bool = False


class Trial:
    """One run, over one configuration, live or not."""

    def __init__(self, loaded: Loaded, tokens: Tokens, clock: Clock, who: str) -> None:
        """`who` runs it, for whoever gets the mail."""
        self._loaded = loaded
        self._settings = loaded.settings
        self._tokens = tokens
        self._clock = clock
        self._node = way.hello(loaded.settings)
        self._occasion = Occasion(who, socket.gethostname(), self._node, loaded.sha256, clock.now())

    async def steps(self, asked: Asked, *, send: bool, patience: float) -> AsyncIterator[Step]:
        """Everything that is asked for. `patience`: seconds for the probe of the loop."""
        files = ", ".join(map(str, self._loaded.files))
        yield Step(
            "configuration", "file", Outcome.OK, printable(f"{files} holds"), data={"sha256": self._loaded.sha256}
        )
        reading = way.LONGEST * max(len(self._settings.mailboxes), 1)
        parts: list[AsyncIterator[Step]] = []
        if asked.loop:
            whole = way.LONGEST + reading + patience
            parts.append(way.within(whole, "approvals", self._whole_way(patience)))
        if not asked.loop and (asked.smtp or not asked.imap):
            parts.append(way.within(way.LONGEST, "outbound", self._smarthost(asked.to, send=send)))
        if not asked.loop and (asked.imap or not asked.smtp):
            parts.append(way.within(reading, "inbound", self._mailboxes(asked=asked.imap)))
        for part in parts:
            async with aclosing(part):  # type: ignore[type-var]
                async for step in part:
                    yield step

    async def _smarthost(self, to: str, *, send: bool) -> AsyncIterator[Step]:
        """The rehearsal, then the mail."""
        account = self._settings.account
        if account is None:
            yield _no_account()
            return
        where = f"outbound.{account.name}"
        wanted = to or account.test_to
        recipient = self._settings.guard.redirect_to or wanted
        user = await _user(account)
        sender = mail.sender_of(account, user)
        if send:
            missing = _nobody(where) if not recipient else _no_sender(where) if not sender else None
            held = mail.held_back(self._settings, wanted, "--to" if to else f"{where}.test_to") if wanted else None
            if step := missing or held:
                yield step
                return
        fixed = await way.fixed(way.hurried(account), self._settings, self._clock)
        if isinstance(fixed, Step):
            yield fixed
            return
        if sender:
            yield meaning.sending(account, sender, user)
        conversation = smtp.rehearsal(account, sender, recipient)
        if send:
            fields = (f"Message-ID: <test.{random.token_hex(12)}@{self._node}>",)
            letter = mail.letter(self._occasion, sender, recipient, PURPOSE, fields)
            conversation = mail.sending(account, letter, sender, recipient)
        failed = False
        examination = smtp.examine(fixed, self._settings, self._node, self._tokens, conversation)
        explained = way.explained(fixed, self._settings, examination, self._clock)
        async with aclosing(explained) as steps:  # type: ignore[type-var]
            async for step in steps:
                failed |= step.outcome is Outcome.FAILED
                yield step
        if not send and not failed:
            text = "no mail was sent (--no-send): unproven is that the server takes one with this From, and delivers it"
            yield Step(where, "send", Outcome.SKIPPED, text)

    async def _mailboxes(self, *, asked: bool) -> AsyncIterator[Step]:
        """What stands in the folders, and what the next poll would do."""
        if not self._settings.mailboxes:
            yield _no_mailbox(asked=asked)
            return
        for mailbox in self._settings.mailboxes:
            async with aclosing(self._mailbox(mailbox, linked=False)) as steps:  # type: ignore[type-var]
                async for step, _ in steps:
                    yield step
        if self._settings.asking is None:
            cause = "Approvals are not enabled, so the daemon reads no mailbox."
            cure = "Write an [approvals] section, or enabled = true in it."
            yield Step("approvals", "enabled", Outcome.WARNING, "nothing is read", cause, cure, "approvals.enabled")

    async def _mailbox(self, mailbox: InboundAccount, *, linked: bool) -> AsyncIterator[tuple[Step, InboundAccount]]:
        """The steps, each with the account as it was used."""
        fixed = await way.fixed(way.hurried(mailbox), self._settings, self._clock)
        if isinstance(fixed, Step):
            yield fixed, mailbox
            return
        examination = imap.examine(fixed, self._settings, self._tokens, self._clock, linked=linked)
        async with aclosing(way.explained(fixed, self._settings, examination, self._clock)) as steps:  # type: ignore[type-var]
            async for step in steps:
                yield step, fixed

    async def _whole_way(self, patience: float) -> AsyncIterator[Step]:
        """The mailboxes, then a probe from the smarthost into one of them."""
        settings, account = self._settings, self._settings.account
        if account is None or not settings.mailboxes:
            yield _no_account() if account is None else _no_mailbox(asked=True)
            return
        user = await _user(account)
        sender = mail.sender_of(account, user)
        if step := _no_way_round(settings, f"outbound.{account.name}", sender):
            yield step
            return
        yield meaning.sending(account, sender, user)
        failed, mailboxes = False, {}
        for mailbox in settings.mailboxes:
            async with aclosing(self._mailbox(mailbox, linked=True)) as steps:  # type: ignore[type-var]
                async for step, mailboxes[mailbox.name] in steps:
                    failed |= step.outcome is Outcome.FAILED
                    yield step
        if failed:
            yield Step("approvals", "arrival", Outcome.SKIPPED, "no probe was sent: nobody could see it come back")
            return
        fixed = await way.fixed(way.hurried(account), self._settings, self._clock)
        if isinstance(fixed, Step):
            yield fixed
            return
        sent = loop.probe(settings, self._occasion, sender)
        watched = list(mailboxes.values())
        going = loop.go_round(
            fixed, watched, settings, self._tokens, sent, node=self._node, clock=self._clock, patience=patience
        )
        async with aclosing(way.explained(fixed, self._settings, going, self._clock)) as steps:  # type: ignore[type-var]
            async for step in steps:
                yield step


async def _user(account: OutboundAccount) -> str:
    """Who logs in; "" where that cannot be told, which the login then says."""
    try:
        return await asyncio.to_thread(secrets.resolve, account.user, key=f"outbound.{account.name}.user")
    except secrets.SecretError:
        return ""


def _no_account() -> Step:
    text, cause = "no outbound account is enabled", "Nothing can be sent without one: files wait in the spool."
    cure = "Write an [outbound.NAME] section, or enabled = true in one."
    return Step("outbound", "account", Outcome.FAILED, text, cause, cure, "outbound", CONFIGURATION)


def _no_mailbox(*, asked: bool) -> Step:
    text = "no [inbound.NAME] is configured, or none is enabled"
    if not asked:
        return Step("inbound", "account", Outcome.SKIPPED, f"not looked at: {text}")
    cause = "There is no mailbox to look into."
    cure = "Write an [inbound.NAME] section, or enabled = true in one."
    return Step("inbound", "account", Outcome.FAILED, text, cause, cure, "inbound", CONFIGURATION)


def _nobody(where: str) -> Step:
    text, cause = "no recipient is named", "Nobody is named whom the test mail goes to."
    cure = f"Write test_to in [{where}], or give --to ADDR."
    return Step(where, "recipient", Outcome.FAILED, text, cause, cure, f"{where}.test_to", CONFIGURATION)


def _no_sender(where: str) -> Step:
    text, cause = (
        "no sender is named",
        "The test mail has no sender: from_address is empty, and the user is no address.",
    )
    cure = f"Write from_address in [{where}], the address this login may send as."
    return Step(where, "sender", Outcome.FAILED, text, cause, cure, f"{where}.from_address", CONFIGURATION)


def _no_way_round(settings: Settings, where: str, sender: str) -> Step | None:
    """Why no probe can be sent; None: one can."""
    if not sender:
        return _no_sender(where)
    if not settings.reply_address:
        text, cause = "no reply_address", "Nobody has said where answers go."
        cure = f"Write reply_address in [approvals], or from_address in [{where}]."
        return Step("approvals", "address", Outcome.FAILED, text, cause, cure, "approvals.reply_address", CONFIGURATION)
    if settings.guard.redirect_to:
        text = f"every mail goes to {settings.guard.redirect_to}"
        cause = "A probe cannot come back here: the guard sends it elsewhere, and the requests for approval, too."
        cure = "Test on a machine without redirect_to."
        return Step("guard", "recipient", Outcome.FAILED, text, cause, cure, "guard.redirect_to", CONFIGURATION)
    return mail.held_back(settings, settings.reply_address, "approvals.reply_address")
