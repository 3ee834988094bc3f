"""A test mail that says what it is: written here, handed over on a connection of its own, the server's answer shown.

A login that works proves little: many servers refuse the sender's address only when the mail comes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mailrelayd import causes, login
from mailrelayd.config.relaying import OutboundAccount
from mailrelayd.config.settings import Settings
from mailrelayd.diagnose import smtp
from mailrelayd.diagnose.steps import CONFIGURATION, REFUSED, TEMPORARY, Outcome, Step
from mailrelayd.operate import log
from mailrelayd.outbound import delivery
from mailrelayd.outbound.answers import printable
from mailrelayd.outbound.guard import RULES, Guard
from mailrelayd.outbound.headers import date
from mailrelayd.outbound.smtp import RouteTrouble
from mailrelayd.outbound.values import Answers, Response, Stage, Transaction

if TYPE_CHECKING:
    from mailrelayd.oauth.tokens import Tokens


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

    content: bytes

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


async def send(
    account: OutboundAccount, settings: Settings, tokens: Tokens, node: str, mail: Letter, sender: str, recipient: str
) -> AsyncIterator[Step]:
    """Hand one mail over on a connection of its own; the step "send", or the one that failed."""
    try:
        session = await login.open_smtp(account, settings, node, tokens)
    except RouteTrouble as trouble:
        yield smtp.failed(account, trouble, smtp.seen_by(trouble))
        return
    try:
        try:
            await session.send(Transaction("test", sender, (recipient,), mail.size, mail.eight_bit), mail)
        except ValueError as error:
            yield _unsayable(_key(account), str(error))
            return
        session.finish()
        answers = await session.next_answers()
        yield _settled(account, sender, recipient, answers, session.trouble)
    finally:
        await session.close()


def _unsayable(where: str, text: str) -> Step:
    cause = "An address of the mail cannot be said to this server."
    cure = "Write addresses in ASCII, or use a server that offers SMTPUTF8."
    return Step(where, "send", Outcome.FAILED, printable(text), cause, cure, f"{where}.from_address", CONFIGURATION)


def _settled(
    account: OutboundAccount, sender: str, recipient: str, answers: Answers | None, trouble: Response | None
) -> Step:
    """What the server's answers to the one mail mean."""
    said = (answers.mail, *answers.recipients, answers.data, answers.body, answers.cut) if answers is not None else ()
    refused = next((one for one in said if one is not None and not 200 <= one.code < 400), trouble)
    if answers is None or answers.body is None or refused is not None:
        return refusal(account, sender, recipient, answers, refused or Response(Stage.BODY, 0, "", "no answer came"))
    text = log.masked(f"from {sender} to {recipient}: the server answered {answers.body}")
    return Step(_key(account), "send", Outcome.OK, printable(text), data={"response": log.masked(str(answers.body))})


def refusal(account: OutboundAccount, sender: str, recipient: str, answers: Answers | None, said: Response) -> Step:
    """A mail that was not taken, after a login that worked: because of the sender, of the recipient, or of itself."""
    where = _key(account)
    if said.stage is Stage.MAIL or (answers is not None and delivery.judge(answers, sender).route is not None):
        name, setting = "sender", f"{where}.from_address"
        cause = f"The login works, and the server does not take mail from {sender}."
        cure = "Write a from_address that this user may send as, or have the server allow it."
    elif said.stage is Stage.RCPT:
        name, setting = "recipient", f"{where}.test_to"
        cause = f"The server takes the sender, and no mail for {recipient}."
        cure = "Test with a recipient that exists (test_to, or --to), or have the server relay for this user."
    elif said.code:
        name, setting = "send", f"{where}.from_address"
        cause = "The server takes login, sender and recipient, and refuses the mail itself."
        cure = "Look at its reason: mostly it is the From, which is from_address, or a filter for content."
    else:
        name, setting = "send", ""
        cause = "The connection was lost before the server had answered for the mail."
        cure = "Try again; if it stays so, look at the server's log, and at what stands between."
    provider = account.oauth.provider if account.auth == "oauth2" and account.oauth is not None else ""
    code = f"{said.code or ''} {said.enhanced}".strip()
    known = causes.explain("smtp", str(said.stage), code, said.text, provider=provider, account=where)
    if known is not None:
        cause, cure, setting = known.text, known.cure, known.setting or setting
    return Step(
        where,
        name,
        Outcome.FAILED,
        printable(log.masked(f"{said.stage}: {said}")),
        cause,
        cure,
        setting,
        REFUSED if said.code >= 500 else TEMPORARY,
        data={"stage": str(said.stage), "code": said.code, "enhanced": said.enhanced},
    )


def _key(account: OutboundAccount) -> str:
    return f"outbound.{account.name}"


def _plain(text: str) -> str:
    """For a mail in ASCII, on one line."""
    return printable(text).encode("ascii", "backslashreplace").decode()
