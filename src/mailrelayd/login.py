"""Logging in: secrets and tokens are fetched, and become a session with the smarthost or with a mailbox.

The daemon and the commands come through here. Secrets are resolved anew each time. A token that is refused although it
should still be valid (revoked, other permissions, a clock) is replaced once, and tried once more; what a fresh one
does not mend is trouble.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from mailrelayd import causes
from mailrelayd.causes import Cause
from mailrelayd.config import secrets
from mailrelayd.config.answering import InboundAccount
from mailrelayd.config.relaying import OutboundAccount
from mailrelayd.config.settings import Settings
from mailrelayd.diagnose import token as judging
from mailrelayd.diagnose.steps import Outcome
from mailrelayd.inbound import connect, imap
from mailrelayd.inbound.reader import SLOWEST
from mailrelayd.inbound.values import ImapError, Refused
from mailrelayd.inbound.values import Stage as ImapStage
from mailrelayd.oauth import tokens as sources
from mailrelayd.oauth.tokens import Account, Tokens, TokenSource, label
from mailrelayd.oauth.values import OAuthError
from mailrelayd.operate import events, log
from mailrelayd.outbound import copies, smtp
from mailrelayd.outbound.answers import printable
from mailrelayd.outbound.opened import Opened
from mailrelayd.outbound.smtp import RouteTrouble
from mailrelayd.outbound.values import Response, Stage
from mailrelayd.tlsmemory import TlsMemory

RESOLVING: Final = 60.0  # seconds that fetching user and password may take at most (each command: has 10 s)
IMAP_OPENING: Final = SLOWEST - sources.FINISH - 60.0  # seconds that `open_imap` may try; a poller promises SLOWEST
IN_DOUBT: Final = 3600.0  # seconds until a server that did not bear it is tried again for whether it swallows chunks
# RFC 5530: refusals that another token would not change.
_NOT_THE_TOKEN: Final = frozenset({"UNAVAILABLE", "LIMIT", "INUSE", "SERVERBUG", "CONTACTADMIN", "PRIVACYREQUIRED"})
_CUT: Final = re.compile(r"\S{20,}…\Z")

Opening = TypeVar("Opening")


@dataclass(frozen=True, slots=True)
class _Login:
    user: str
    secret: str = field(repr=False)


async def open_smtp(
    account: OutboundAccount, settings: Settings, node: str, tokens: Tokens, *, window: int = 1
) -> Opened:
    """A session with the smarthost; `node` is our name in EHLO. Raises RouteTrouble.

    Where a secret or a token cannot be had, its cause is the SecretError or OAuthError.
    """
    remembered = TlsMemory(settings.state.directory, account.host) if account.security == "auto" else None

    async def attempt(who: _Login) -> Opened:
        return await smtp.connect(
            account, user=who.user, password=who.secret, hello=node, remembered=remembered, window=window
        )

    try:
        session = await _logged_in(account, tokens, attempt)
    except (secrets.SecretError, OAuthError) as error:
        raise RouteTrouble(Response(Stage.AUTH, 0, "", printable(log.masked(str(error))))) from error
    except RouteTrouble as trouble:
        # Some servers repeat what they did not understand, and this answer is shown in many places.
        raise RouteTrouble(replace(trouble.response, text=_masked(trouble.response.text))) from trouble
    if settings.log.protocol_debug:
        session.trace = lambda direction, said: trace(session.relay, direction, said)
    return session


async def open_imap(mailbox: InboundAccount, settings: Settings, tokens: Tokens) -> imap.Session:
    """A session with a mailbox's server; no folder is open yet. Raises ImapError; of causes the same holds.

    It ends in time for a poller's promise, however long the configured timeouts of two logins are together.
    """
    remembered = None
    if mailbox.security == "auto":
        remembered = TlsMemory(settings.state.directory, f"imap:{mailbox.host}")

    async def attempt(who: _Login) -> imap.Session:
        return await connect.connect(mailbox, user=who.user, secret=who.secret, remembered=remembered)

    try:
        async with asyncio.timeout(IMAP_OPENING):
            session = await _logged_in(mailbox, tokens, attempt)
    except TimeoutError as error:
        text = f"no login was ready within {IMAP_OPENING:g} s, all tries together"
        raise ImapError(ImapStage.CONNECT, text) from error
    except (secrets.SecretError, OAuthError) as error:
        raise ImapError(ImapStage.LOGIN, printable(log.masked(str(error)))) from error
    except ImapError as error:
        error.text = _masked(error.text)
        raise
    if settings.log.protocol_debug:
        session.traced(lambda direction, said: trace(session.peer, direction, said))
    return session


def opener(account: OutboundAccount, settings: Settings, node: str, tokens: Tokens) -> Callable[[], Awaitable[Opened]]:
    """How a route opens a connection: its trouble says what is behind it, in one sentence."""
    in_doubt_until = 0.0  # on the loop's clock

    async def opened() -> Opened:
        nonlocal in_doubt_until
        now = asyncio.get_running_loop().time()
        window = account.window if now >= in_doubt_until else 1
        try:
            session = await open_smtp(account, settings, node, tokens, window=window)
        except RouteTrouble as trouble:
            text = causes.behind(trouble.response.text, cause(account, trouble))
            raise RouteTrouble(replace(trouble.response, text=printable(text))) from trouble
        if session.doubtful:  # each try costs such a server a connection
            in_doubt_until = now + IN_DOUBT
        return session

    return opened


def connector(mailbox: InboundAccount, settings: Settings, tokens: Tokens) -> Callable[[], Awaitable[imap.Session]]:
    """How a poller gets its session: the same for a mailbox."""

    async def opened() -> imap.Session:
        try:
            return await open_imap(mailbox, settings, tokens)
        except ImapError as error:
            error.text = printable(causes.behind(error.text, cause(mailbox, error)))
            raise

    return opened


def cause(account: Account, trouble: RouteTrouble | ImapError) -> Cause | None:
    """What is behind a login's trouble, as far as it is known."""
    where = label(account)
    provider = account.oauth.provider if account.auth == "oauth2" and account.oauth is not None else ""
    behind = trouble.__cause__
    if isinstance(behind, (RouteTrouble, ImapError)):  # it was told anew, without secrets
        behind = behind.__cause__
    if isinstance(behind, _LackingError):
        return behind.cause
    if isinstance(behind, OAuthError):
        return causes.explain("oauth", "token", behind.code, behind.text, provider=provider, account=where)
    if isinstance(behind, secrets.SecretError):
        return None  # says all itself
    if isinstance(trouble, ImapError):
        return causes.explain("imap", trouble.stage, trouble.code, trouble.text, provider=provider, account=where)
    said = trouble.response
    code = f"{said.code or ''} {said.enhanced}".strip()
    return causes.explain("smtp", said.stage, code, said.text, provider=provider, account=where)


def longest_opening(account: OutboundAccount) -> float:
    """Seconds after which `open_smtp` has ended in any case."""
    opening = smtp.longest_opening(account, account.window)
    if account.auth == "oauth2":
        return RESOLVING + 2 * (sources.LONGEST + opening)
    return RESOLVING + opening


def _masked(text: str) -> str:
    """What a server said, without secrets; of one that a long answer's end has cut in two, nothing is left either."""
    return _CUT.sub(f"{log.MASK}…", log.masked(text))


def trace(peer: str, direction: str, said: bytes) -> None:
    """[log] protocol_debug: one line per line of the conversation."""
    for line in said.decode("utf-8", "backslashreplace").splitlines():
        events.smtp_protocol(relay=peer, direction=direction, text=copies.masked(line))


async def _logged_in(
    account: Account,
    tokens: Tokens,
    attempt: Callable[[_Login], Awaitable[Opening]],
) -> Opening:
    """Raises SecretError, OAuthError, and what `attempt` raises."""
    where = label(account)
    if account.auth == "none":
        return await attempt(_Login("", ""))
    user = await asyncio.to_thread(secrets.resolve, account.user, key=f"{where}.user")
    if account.auth == "password":
        password = await asyncio.to_thread(secrets.resolve, account.password, key=f"{where}.password")
        log.conceal(password, of=f"{where}.password")
        return await attempt(_Login(user, password))
    source = tokens.of(account)
    before = source.fetched
    token = await source.token()
    try:
        return await attempt(_Login(user, token))
    except (RouteTrouble, ImapError) as trouble:
        if not _refuses_token(trouble):
            raise
        source.refused(token)
        if source.fetched != before:  # it was a new one
            raise trouble from await _lacking(account, source, token)
    token = await source.token()
    try:
        return await attempt(_Login(user, token))
    except (RouteTrouble, ImapError) as trouble:
        if not _refuses_token(trouble):
            raise
        source.refused(token)
        raise trouble from await _lacking(account, source, token)


class _LackingError(Exception):
    """A token that no server could take, and why: the server itself says only no."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause.line)
        self.cause = cause


async def _lacking(account: Account, source: TokenSource, token: str) -> _LackingError | None:
    """What a fresh token that was refused says of itself; None: nothing that would be wrong."""
    if source.provider != "microsoft":  # nobody else's says it
        return None
    protocol = "smtp" if isinstance(account, OutboundAccount) else "imap"
    assert account.oauth is not None
    try:
        terms = await source.terms()
    except OAuthError:
        return None
    held = judging.Held(token, "", None)
    for step in judging.examine(label(account), terms, account.oauth.tenant_id, held, {protocol}, 0.0):
        if step.outcome is Outcome.FAILED:
            line = f"{_clause(step.cause)}: {_clause(step.cure)}"
            return _LackingError(Cause(step.cause, step.cure, step.setting, line))
    return None


def _clause(sentence: str) -> str:
    """A sentence as a part of one."""
    return sentence[:1].lower() + sentence[1:].removesuffix(".")


def _refuses_token(trouble: Exception) -> bool:
    """Whether another token may be let in where this one was not."""
    if isinstance(trouble, RouteTrouble):
        return trouble.response.stage is Stage.AUTH and trouble.response.code >= 500
    refused = isinstance(trouble, Refused) and trouble.stage is ImapStage.LOGIN
    return refused and isinstance(trouble, ImapError) and trouble.code not in _NOT_THE_TOKEN
