"""The smarthost's side: greeting, extensions, login, and a rehearsal up to the recipient. Nothing is sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from mailrelayd import causes, login, sasl
from mailrelayd.causes import Cause
from mailrelayd.config import secrets
from mailrelayd.config.relaying import OutboundAccount
from mailrelayd.config.settings import Settings
from mailrelayd.diagnose import refusals
from mailrelayd.diagnose.steps import CONFIGURATION, REFUSED, TEMPORARY, UNAVAILABLE, Outcome, Step
from mailrelayd.operate import log
from mailrelayd.outbound import delivery
from mailrelayd.outbound.answers import printable
from mailrelayd.outbound.opened import Opened, Seen
from mailrelayd.outbound.smtp import RouteTrouble
from mailrelayd.outbound.values import Answers, Response, Stage, Transaction

if TYPE_CHECKING:
    from mailrelayd.oauth.tokens import Tokens

_STEPS: Final = {
    Stage.CONNECT: ("tcp", UNAVAILABLE),
    Stage.TLS: ("tls", UNAVAILABLE),
    Stage.STARTTLS: ("tls", UNAVAILABLE),
    Stage.GREETING: ("greeting", UNAVAILABLE),
    Stage.EHLO: ("capabilities", UNAVAILABLE),
    Stage.AUTH: ("login", REFUSED),
}
_TAKES: Final = {"password": sasl.PASSWORD_MECHANISMS, "oauth2": sasl.TOKEN_MECHANISMS, "none": ()}


Conversation = Callable[[Opened], AsyncIterator[Step]]
"""What is said over a session after its login."""


async def examine(
    account: OutboundAccount, settings: Settings, node: str, tokens: Tokens, conversation: Conversation | None = None
) -> AsyncIterator[Step]:
    """From the greeting to the login, and the `conversation` behind it: one connection with one login.

    Ends with the first step that failed. (Where `window` is tried on a server that does not bear it, it takes two.)
    """
    try:
        session = await login.open_smtp(account, settings, node, tokens, window=account.window)
    except RouteTrouble as trouble:
        seen = seen_by(trouble)
        if seen is not None:
            for step in _greeted(account, seen, settings.spool.max_message_size):
                yield step
        yield failed(account, trouble, seen)
        return
    try:
        for step in _greeted(account, session.seen, settings.spool.max_message_size):
            yield step
        yield _logged_in(account, session.seen)
        if account.window > 1:
            yield _window(account, session)
        if conversation is not None:
            async with aclosing(conversation(session)) as steps:  # type: ignore[type-var]
                async for step in steps:
                    yield step
    finally:
        session.abort()


def seen_by(trouble: BaseException) -> Seen | None:
    """What was learnt before the trouble, also where it was told anew on its way up."""
    below: BaseException | None = trouble
    while below is not None:
        if isinstance(below, RouteTrouble) and below.seen is not None:
            return below.seen
        below = below.__cause__
    return None


def failed(account: OutboundAccount, trouble: RouteTrouble, seen: Seen | None = None) -> Step:
    """The step that ends with this trouble, with its cause."""
    where, response = f"outbound.{account.name}", trouble.response
    name, status = _STEPS.get(response.stage, ("login", TEMPORARY))
    if seen is not None and not response.code and response.stage is Stage.AUTH and _mechanism(account, seen) is None:
        return refusals.no_mechanism(account, seen.mechanisms, str(response))
    status = TEMPORARY if 400 <= response.code < 500 else refusals.status_of(trouble, status)
    known = login.cause(account, trouble) or refusals.by_stage(where, response.stage, trouble)
    return _refused(where, name, response, status, known)


def _refused(where: str, name: str, response: Response, status: int, known: Cause) -> Step:
    data = {"stage": str(response.stage), "code": response.code, "enhanced": response.enhanced}
    said = log.masked(printable(str(response)))
    return Step(where, name, Outcome.FAILED, said, known.text, known.cure, known.setting, status, data=data)


# Greeting, extensions, login


def _greeted(account: OutboundAccount, seen: Seen, largest: int) -> Iterator[Step]:
    where = f"outbound.{account.name}"
    if seen.greeting:
        yield Step(where, "greeting", Outcome.OK, f"{seen.relay} says {seen.greeting!r}", data={"relay": seen.relay})
    if not seen.extensions:
        return
    offered, taken = seen.mechanisms, _mechanism(account, seen)
    logins = f"login by {', '.join(offered)}" if offered else "no login"
    ours = f" (taken: {taken})" if taken else ""
    over = f"over {seen.tls}" if seen.tls else "in plain text"
    text = f"{over}: {logins}{ours}; {', '.join(seen.extensions)}"
    data = {"tls": seen.tls, "extensions": list(seen.extensions), "mechanisms": list(offered), "mechanism": taken or ""}
    size = _size(seen.extensions)
    if not size or size >= largest:
        yield Step(where, "capabilities", Outcome.OK, printable(text), data=data)
        return
    yield Step(
        where,
        "capabilities",
        Outcome.WARNING,
        printable(text),
        f"The server takes messages of {_octets(size)} at most, and spool.max_message_size lets in {_octets(largest)}.",
        f'Write max_message_size = "{_octets(size)}" in [spool]: what is larger is then refused where it is handed in.',
        "spool.max_message_size",
        data=data,
    )


def _size(extensions: tuple[str, ...]) -> int:
    """The limit of RFC 1870 in octets; 0: none."""
    words = next((words for words in map(str.split, extensions) if words and words[0].upper() == "SIZE"), [])
    return int(words[1]) if len(words) > 1 and words[1].isdecimal() and len(words[1]) <= 20 else 0


def _octets(size: int) -> str:
    """As the configuration writes it."""
    for unit, factor in (("MiB", 2**20), ("KiB", 2**10), ("MB", 10**6), ("kB", 10**3)):
        if size % factor == 0:
            return f"{size // factor}{unit}"
    return f"{size}B"


def _mechanism(account: OutboundAccount, seen: Seen) -> str | None:
    return sasl.choose(seen.mechanisms, _TAKES[account.auth])


def _logged_in(account: OutboundAccount, seen: Seen) -> Step:
    where = f"outbound.{account.name}"
    if account.auth == "none":
        return Step(where, "login", Outcome.OK, 'none is wanted (auth = "none")', data={"mechanism": ""})
    mechanism = _mechanism(account, seen) or ""
    text = f"as {secrets.describe_public(account.user)} by {mechanism}"
    return Step(where, "login", Outcome.OK, printable(text), data={"mechanism": mechanism})


def _window(account: OutboundAccount, session: Opened) -> Step:
    """Whether the messages in flight may be as many as is wanted: what was tried behind the login."""
    where, data = f"outbound.{account.name}", {"window": session.window}
    if not session.narrowed:
        text = f"{session.window} messages may be on their way at once"
        return Step(where, "window", Outcome.OK, text, data=data)
    return Step(
        where,
        "window",
        Outcome.WARNING,
        "one message at a time",
        f"window is {account.window}, and this server is not fit for more than 1: {session.narrowed}.",
        f"Write {where}.window = 1, and connections = 2 or more if one message at a time is too slow.",
        f"{where}.window",
        data=data,
    )


# The rehearsal


def rehearsal(account: OutboundAccount, sender: str = "", recipient: str = "") -> Conversation:
    """What tells whether a mail would be taken, and sends none. By default from from_address to test_to."""

    async def rehearsed(session: Opened) -> AsyncIterator[Step]:
        for step in await _rehearsal(account, session, sender or account.from_address, recipient or account.test_to):
            yield step

    return rehearsed


async def _rehearsal(account: OutboundAccount, session: Opened, sender: str, recipient: str) -> list[Step]:
    where = f"outbound.{account.name}"
    if not sender:
        text = "not tried: without from_address each mail has a sender of its own"
        cure = f"Write {where}.from_address, the address this login may send as."
        return [Step(where, "sender", Outcome.SKIPPED, text, cure=cure)]
    try:
        mail, *more = await session.rehearse(sender, recipient)
    except ValueError as error:
        return [unsayable(where, "sender", str(error))]
    recipients = (recipient,) if recipient else ()
    answer = next((one for one in more if one.stage is Stage.RCPT), None)
    said = Answers(Transaction("", sender, recipients), mail=mail, recipients=(answer,) if recipient else ())
    steps = envelope_taken(account, said)
    if refused := next((one for one in (mail, answer) if one is not None and not _good(one)), None):
        return [*steps, refusal(account, said, refused)]
    if recipient:
        return [*steps[:-1], replace(steps[-1], text=f"{steps[-1].text}; nothing was sent")]
    text = "not tried: many servers look at the sender only when they are told a recipient"
    cure = f"Write {where}.test_to, an address that may get test mails."
    return [*steps, Step(where, "recipient", Outcome.SKIPPED, text, cure=cure)]


# What the answers to one mail mean, rehearsed or sent


def envelope_taken(account: OutboundAccount, answers: Answers) -> list[Step]:
    """A step for the sender and for the recipient, as far as the server takes them."""
    where, transaction, steps = f"outbound.{account.name}", answers.transaction, []
    if answers.mail is not None and _good(answers.mail) and not _of_sender(answers):
        text = f"{transaction.sender} is taken: {answers.mail}"
        steps.append(Step(where, "sender", Outcome.OK, printable(text)))
        for recipient, answer in zip(transaction.recipients, answers.recipients, strict=False):
            if answer is not None and _good(answer):
                text = printable(f"{recipient} is taken: {answer}")
                steps.append(Step(where, "recipient", Outcome.OK, text))
    return steps


def refusal(account: OutboundAccount, answers: Answers, said: Response) -> Step:
    """A mail that was not taken, after a login that worked: because of the sender, of the recipient, or of itself.

    `said`: the answer that refuses it; code 0: none came.
    """
    where, transaction = f"outbound.{account.name}", answers.transaction
    sender, recipient = transaction.sender, ", ".join(transaction.recipients)
    if said.stage is Stage.MAIL or (said.code and _of_sender(answers)):
        name = "sender"
        user = f"the user {secrets.describe_public(account.user)}" if account.auth != "none" else "this machine"
        cause = f"The login works, and the server does not let {user} send as {sender}."
        cure = "Write an address of that user as from_address, or have the server's operator allow this one."
        setting = f"{where}.from_address"
    elif said.stage is Stage.RCPT:
        name, setting = "recipient", f"{where}.test_to"
        cause = f"The server takes login and sender, and no mail for {recipient}."
        cure = "Test with a recipient that exists (test_to, or --to), or have the server relay for this user."
    else:
        name, setting = "send", f"{where}.from_address"
        cause = "The server takes login, sender and recipient, and refuses the mail itself."
        cure = "Look at its reason: mostly it is the From, which is from_address, or a filter for content."
    guess = Cause(cause, cure, setting)
    if not said.code:
        guess = Cause(
            "The connection was lost, or no answer came, after a login that worked.",
            "Try again; if it stays so, look at the server's log, and at what stands between.",
        )
    elif said.code < 500:
        whom = {"sender": f"mail from {sender}", "recipient": f"mail for {recipient}"}.get(name, "this mail")
        guess = Cause(
            f"The server puts {whom} off: it asks for another try later (greylisting), or has trouble itself.",
            "Try again in some minutes, as the daemon does by itself; nothing here needs a change.",
        )
    provider = account.oauth.provider if account.auth == "oauth2" and account.oauth is not None else ""
    code = f"{said.code or ''} {said.enhanced}".strip()
    known = causes.explain("smtp", said.stage, code, said.text, provider=provider, account=where)
    return _refused(where, name, said, REFUSED if said.code >= 500 else TEMPORARY, known or guess)


def unsayable(where: str, name: str, text: str) -> Step:
    """An address that cannot be told to the server."""
    cause = "An address of the mail cannot be said to this server."
    cure = "Write addresses in ASCII, or use a server that offers SMTPUTF8."
    return Step(where, name, Outcome.FAILED, printable(text), cause, cure, f"{where}.from_address", CONFIGURATION)


def _of_sender(answers: Answers) -> bool:
    """Many servers put off what they have against the sender until RCPT, or until the mail is there."""
    return delivery.judge(answers, answers.transaction.sender).route is not None


def _good(answer: Response) -> bool:
    return 200 <= answer.code < 300
