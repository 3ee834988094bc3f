"""A test mail that says what it is: written here, handed over behind the login, the server's answer shown.

A login that works proves little: many servers refuse the sender's address only when the mail comes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from mailrelayd.config.relaying import OutboundAccount
from mailrelayd.config.settings import Settings
from mailrelayd.diagnose import smtp
from mailrelayd.diagnose.steps import CONFIGURATION, Outcome, Step
from mailrelayd.operate import log
from mailrelayd.outbound.answers import printable
from mailrelayd.outbound.guard import RULES, Guard
from mailrelayd.outbound.headers import date
from mailrelayd.outbound.opened import Opened
from mailrelayd.outbound.values import Answers, Response, Stage, Transaction


@dataclass(frozen=True, slots=True)
class Occasion:
    """Who tests what, and when."""

    who: str  # a user of this machine
    machine: str
    node: str  # an atom: part of Message-IDs
    sha256: str  # of the configuration, hexadecimal
    at: float  # seconds since the epoch


@dataclass(frozen=True, slots=True)
class Letter:
    """`values.Body` over a mail in memory."""

    content: bytes  # with CRLF line ends

    @property
    def whole(self) -> bytes:
        """All of it."""
        return self.content

    @property
    def pure(self) -> bool:
        """It was written here."""
        return True

    @property
    def copyable(self) -> None:
        """No file holds it."""
        return

    @property
    def size(self) -> int:
        """Octets on the wire, without dot stuffing."""
        return len(self.content)

    @property
    def eight_bit(self) -> bool:
        """Whether any octet is above 127."""
        return not self.content.isascii()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """All of it."""
        yield self.content

    def unchanged(self) -> bool:
        """Nobody else has it."""
        return True


def letter(occasion: Occasion, sender: str, recipient: str, purpose: str, fields: tuple[str, ...] = ()) -> Letter:
    """The test mail. `purpose`: a line or two for whoever finds it; `fields`: further lines of its header."""
    header = (
        f"Date: {date(occasion.at)}",
        f"From: {sender}",
        f"To: {recipient}",
        f"Subject: mailrelayd test from {_plain(occasion.node)}",
        *fields,
        "Auto-Submitted: auto-generated",  # RFC 3834 section 5: nobody's absence answers it
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=us-ascii",
    )
    text = (
        purpose,
        "",
        f"Tested by:      {_plain(occasion.who)} on {_plain(occasion.machine)}",
        f"Node:           {_plain(occasion.node)}",
        f"Configuration:  SHA-256 {occasion.sha256}",
        f"Time:           {date(occasion.at)} (UTC)",
        f"Sender:         {_plain(sender)}",
    )
    return Letter("".join(line.replace("\n", "\r\n") + "\r\n" for line in (*header, "", *text)).encode())


def sender_of(account: OutboundAccount, user: str) -> str:
    """Whose mail a test is: from_address, else the user where that is an address; "": nobody's."""
    return account.from_address or (user if "@" in user else "")


def held_back(settings: Settings, recipient: str, setting: str) -> Step | None:
    """Why [guard] lets nothing go to this recipient; None: it does. `setting`: where the recipient is written."""
    guard = settings.guard
    judge = Guard(guard.redirect_to, guard.allow_recipients, guard.deny_recipients, guard.dry_run)
    rule = judge.judge([recipient]).suppressed.get(recipient)
    if rule is None:
        return None
    key = {"dry-run": "dry_run", "denied": "deny_recipients", "not-allowed": "allow_recipients"}[rule]
    return Step(
        "guard",
        "recipient",
        Outcome.FAILED,
        f"nothing goes to {recipient}",
        f"{RULES[rule]}.",
        f"Test with another recipient, or change {setting} or the guard.",
        f"guard.{key}",
        CONFIGURATION,
    )


def sending(account: OutboundAccount, mail: Letter, sender: str, recipient: str) -> smtp.Conversation:
    """Hand one mail over: the steps "sender", "recipient" and "send", or the one that failed."""
    transaction = Transaction("test", sender, (recipient,), mail.size, mail.eight_bit)
    where = f"outbound.{account.name}"

    async def sent(session: Opened) -> AsyncIterator[Step]:
        try:
            await session.send(transaction, mail)
        except ValueError as error:
            yield smtp.unsayable(where, "send", str(error))
            return
        session.finish()
        answers = next(iter(await session.next_answers()), Answers(transaction, cut=session.trouble))
        for step in smtp.envelope_taken(account, answers):
            yield step
        yield _settled(account, answers)
        await session.close()

    return sent


def _settled(account: OutboundAccount, answers: Answers) -> Step:
    """What the server's answers to the one mail mean."""
    said = (answers.mail, *answers.recipients, answers.data, answers.body, answers.cut)
    refused = next((one for one in said if one is not None and not 200 <= one.code < 400), None)
    if answers.body is None or refused is not None:
        return smtp.refusal(account, answers, refused or Response(Stage.BODY, 0, "", "no answer came"))
    sent, response = answers.transaction, log.masked(str(answers.body))
    text = f"from {sent.sender} to {', '.join(sent.recipients)}: the server answered {response}"
    return Step(f"outbound.{account.name}", "send", Outcome.OK, printable(text), data={"response": response})


def _plain(text: str) -> str:
    """For a mail in ASCII, on one line."""
    return printable(text).encode("ascii", "backslashreplace").decode()
