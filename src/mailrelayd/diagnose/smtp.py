"""The smarthost's side: greeting, extensions, login, and a rehearsal up to the recipient. Nothing is sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Final

from mailrelayd import causes, login, sasl
from mailrelayd.causes import Cause
from mailrelayd.config import secrets
from mailrelayd.config.relaying import OutboundAccount
from mailrelayd.config.settings import Settings
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
BEFORE_LOGIN: Final = frozenset({Stage.CONNECT, Stage.TLS, Stage.STARTTLS, Stage.GREETING, Stage.EHLO})
_TAKES: Final = {"password": sasl.PASSWORD_MECHANISMS, "oauth2": sasl.TOKEN_MECHANISMS, "none": ()}


async def examine(
    account: OutboundAccount,
    settings: Settings,
    node: str,
    tokens: Tokens,
    *,
    recipient: str = "",
    rehearsed: bool = True,
) -> AsyncIterator[Step]:
    """From the greeting to RCPT, over one connection with one login. Ends with the first step that failed.

    `recipient`: instead of test_to. Without `rehearsed` it ends with the login.
    """
    where = f"outbound.{account.name}"
    try:
        session = await login.open_smtp(account, settings, node, tokens)
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
        if rehearsed:
            for step in await _rehearsal(where, account, session, recipient or account.test_to):
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
    if 400 <= response.code < 500:
        status = TEMPORARY
    below = trouble.__cause__
    if isinstance(below, secrets.SecretError) or getattr(below, "kind", "") == "configuration":
        status = CONFIGURATION
    elif getattr(below, "kind", "") == "temporary":  # of an OAuthError
        status = TEMPORARY
    if seen is not None and not response.code and response.stage is Stage.AUTH and _mechanism(account, seen) is None:
        return _no_mechanism(where, account, seen, str(response))
    return _explained(where, name, response, status, login.cause(account, trouble), _guess(where, response.stage))


def _explained(
    where: str, name: str, response: Response, status: int, known: Cause | None, otherwise: tuple[str, str, str]
) -> Step:
    """A failed step; cause, cure and setting are `otherwise` where the answer is none of the known ones."""
    cause, cure, setting = (known.text, known.cure, known.setting) if known is not None else otherwise
    data = {"code": response.code, "enhanced": response.enhanced}
    said = log.masked(printable(str(response)))
    return Step(where, name, Outcome.FAILED, said, cause, cure, setting, status, data=data)


def _guess(where: str, stage: Stage) -> tuple[str, str, str]:
    """Cause, cure and setting by the stage alone."""
    match stage:
        case Stage.CONNECT:
            return (
                "No connection to the server comes about.",
                "Correct host and port, or open the way.",
                f"{where}.host",
            )
        case Stage.TLS | Stage.STARTTLS:
            return "TLS with this server does not come about.", "Correct security, port or tls.", f"{where}.security"
        case Stage.AUTH:
            return "The server does not take this login.", "Correct user and password.", f"{where}.password"
    return "The server does not do what was asked of it.", "Ask whoever runs it; its own log says more.", ""


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


def _no_mechanism(where: str, account: OutboundAccount, seen: Seen, text: str) -> Step:
    """There is no way to log in that both sides know."""
    if not seen.mechanisms:
        cause = "The server offers no login on this port."
        cure = 'Write the port for submission (587 or 465), or auth = "none" where the server knows this machine.'
        setting = f"{where}.auth"
    elif account.auth == "password" and sasl.choose(seen.mechanisms, sasl.TOKEN_MECHANISMS):
        cause = "The server takes no password, only OAuth2 tokens."
        cure, setting = f'Write auth = "oauth2" and an [{where}.oauth] section.', f"{where}.auth"
    elif account.auth == "oauth2" and sasl.choose(seen.mechanisms, sasl.PASSWORD_MECHANISMS):
        cause = "The server takes no OAuth2 token, only a password."
        cure, setting = 'Write auth = "password", user and password.', f"{where}.auth"
    else:
        cause = "The server and we have no way to log in in common."
        cure = f"Have one of {', '.join(_TAKES[account.auth])} switched on at the server."
        setting = f"{where}.auth"
    data = {"mechanisms": list(seen.mechanisms)}
    return Step(where, "login", Outcome.FAILED, printable(text), cause, cure, setting, REFUSED, data=data)


# The rehearsal


async def _rehearsal(where: str, account: OutboundAccount, session: Opened, recipient: str) -> list[Step]:
    sender = account.from_address
    if not sender:
        text = "not tried: without from_address each mail has a sender of its own"
        cure = f"Write {where}.from_address, the address this login may send as."
        return [Step(where, "sender", Outcome.SKIPPED, text, cure=cure)]
    mail, *more = await session.rehearse(sender, recipient)
    recipients = (recipient,) if recipient else ()
    answer = next((one for one in more if one.stage is Stage.RCPT), None)
    if not _good(mail):
        return [_sender_refused(where, account, mail)]
    if answer is not None and not _good(answer):
        # Many servers put off what they have against the sender until RCPT.
        said = Answers(Transaction("", sender, recipients), mail=mail, recipients=(answer,))
        if delivery.judge(said, sender).route is not None:
            return [_sender_refused(where, account, answer)]
        return [Step(where, "sender", Outcome.OK, _taken(sender, mail)), _recipient_refused(where, account, answer)]
    steps = [Step(where, "sender", Outcome.OK, _taken(sender, mail))]
    if answer is not None:
        text = f"{_taken(recipient, answer)}; nothing was sent"
        return [*steps, Step(where, "recipient", Outcome.OK, text)]
    text = "not tried: many servers look at the sender only when they are told a recipient"
    cure = f"Write {where}.test_to, an address that may get test mails."
    return [*steps, Step(where, "recipient", Outcome.SKIPPED, text, cure=cure)]


def _taken(address: str, answer: Response) -> str:
    return printable(f"{address} is taken: {answer}")


def _good(answer: Response) -> bool:
    return 200 <= answer.code < 300


def _sender_refused(where: str, account: OutboundAccount, answer: Response) -> Step:
    """Imagicle's warning: the login works, and mail would be refused all the same."""
    user = f"the user {secrets.describe_public(account.user)}" if account.auth != "none" else "this machine"
    cause = f"The login works, and the server does not let {user} send as {account.from_address}."
    cure = "Write an address of that user as from_address, or have the server's operator allow this one."
    otherwise = (cause, cure, f"{where}.from_address")
    return _explained(where, "sender", answer, _status(answer), _known(where, account, answer), otherwise)


def _recipient_refused(where: str, account: OutboundAccount, answer: Response) -> Step:
    cause = "The server takes the login and the sender, and refuses this recipient."
    cure = "Write another address as test_to; if every recipient is refused, ask whoever runs the server for relaying."
    otherwise = (cause, cure, f"{where}.test_to")
    return _explained(where, "recipient", answer, _status(answer), _known(where, account, answer), otherwise)


def _known(where: str, account: OutboundAccount, answer: Response) -> Cause | None:
    provider = account.oauth.provider if account.auth == "oauth2" and account.oauth is not None else ""
    code = f"{answer.code or ''} {answer.enhanced}".strip()
    return causes.explain("smtp", answer.stage, code, answer.text, provider=provider, account=where)


def _status(answer: Response) -> int:
    return REFUSED if answer.code >= 500 else TEMPORARY
