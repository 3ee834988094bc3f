"""Whether an account's OAuth works from end to end: a token, what is in it, and a login to each server it is for."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from mailrelayd import causes
from mailrelayd.clock import Clock
from mailrelayd.config.answering import InboundAccount
from mailrelayd.config.relaying import OutboundAccount
from mailrelayd.config.secrets import Secret, SecretError, resolve
from mailrelayd.config.settings import Settings
from mailrelayd.diagnose import imap, smtp, way
from mailrelayd.diagnose import token as judging
from mailrelayd.diagnose.network import Account
from mailrelayd.diagnose.steps import CONFIGURATION, REFUSED, TEMPORARY, Outcome, Step
from mailrelayd.oauth import providers
from mailrelayd.oauth.administration import Wanted
from mailrelayd.oauth.claims import decode
from mailrelayd.oauth.providers import Terms
from mailrelayd.oauth.tokens import Tokens, TokenSource, label
from mailrelayd.oauth.values import OAuthError

LIMIT = 64 * 1024  # octets of a service account's file
_KEY = re.compile(r"((?:in|out)bound\.\S+): ")
_STATUS = {"configuration": CONFIGURATION, "refused": REFUSED, "consent": REFUSED, "temporary": TEMPORARY}


def sharing(account: Account, settings: Settings, tokens: Tokens) -> list[Account]:
    """The account, and every enabled one that uses the same token."""
    source = tokens.of(account)
    everybody: list[Account] = [*settings.outbound.values(), *settings.inbound.values()]
    others = [one for one in everybody if one.enabled and one.auth == "oauth2" and one is not account]
    return [account, *(one for one in others if tokens.of(one) is source)]


def wanted(served: Sequence[Account], source: TokenSource) -> Wanted:
    """What the configuration says of accounts that share a token, for the tasks at the provider."""
    oauth, where = source.oauth, label(served[0])
    return Wanted(
        account=where,
        provider=oauth.provider,
        flow=oauth.flow,
        user=_known(served[0].user, f"{where}.user"),
        sender=next((one.from_address for one in served if isinstance(one, OutboundAccount)), ""),
        protocols=protocols(served),
        tenant=oauth.tenant_id,
        client_id=_known(oauth.client_id, f"{where}.oauth.client_id"),
        authority_host=urlsplit(oauth.authority).hostname or "",
        certificate=oauth.client_certificate,
        service_account=_service_account(oauth.service_account_file),
        scopes=oauth.scopes,
        token_command=oauth.token_command,
    )


def protocols(served: Sequence[Account]) -> frozenset[str]:
    """What the token has to open."""
    return frozenset("imap" if isinstance(one, InboundAccount) else "smtp" for one in served)


def refused(account: Account, error: OAuthError, name: str = "token") -> Step:
    """The step that ends without a token, with its cause."""
    where = label(account)
    assert account.oauth is not None
    known = causes.explain("oauth", name, error.code, error.text, provider=account.oauth.provider, account=where)
    named = _KEY.match(error.text)  # as errors of secrets begin
    setting = named[1] if named else known.setting if known is not None else ""
    return Step(
        where,
        name,
        Outcome.FAILED,
        error.text,
        cause=known.text if known is not None else "",
        cure=known.cure if known is not None else "",
        setting=setting,
        status=_STATUS[error.kind],
        data={"code": error.code, "kind": error.kind},
    )


async def prove(
    served: Sequence[Account], settings: Settings, tokens: Tokens, clock: Clock, *, renewed: bool
) -> AsyncIterator[Step]:
    """From a new token to a login for each of these accounts, which share it. Nothing is sent or changed.

    `renewed`: somebody has just logged in; that the token can be renewed without them is proven as well.
    """
    account, source = served[0], tokens.of(served[0])
    try:
        text = await source.token(anew=True)
    except OAuthError as error:
        yield refused(account, error, "renewal" if renewed else "token")
        return
    if renewed:
        yield Step(label(account), "renewal", Outcome.OK, "the token was renewed without anybody's help")
    assert account.oauth is not None
    for step in judging.examine(
        label(account),
        _terms(served, source),
        account.oauth.tenant_id,
        _held(source, text),
        protocols(served),
        clock.now(),
    ):
        yield step
    for one in served:
        if isinstance(one, InboundAccount):
            async for step in imap.examine(one, settings, tokens, clock):
                yield step
        else:
            async for step in smtp.examine(one, settings, way.hello(settings), tokens, smtp.rehearsal(one)):
                yield step


def _held(source: TokenSource, text: str) -> judging.Held:
    """The token with what was said beside it."""
    try:
        stored = source.status().token
    except (OSError, ValueError):
        stored = None
    if stored is None or stored.access_token != text:
        claims = decode(text)
        return judging.Held(text, "", claims.expires_at if claims is not None else None)
    return judging.Held(text, stored.scope, stored.expires_at)


def _terms(served: Sequence[Account], source: TokenSource) -> Terms:
    """As far as the configuration knows them: nobody is asked."""
    where = label(served[0])
    client_id = _known(source.oauth.client_id, f"{where}.oauth.client_id")
    user = _known(served[0].user, f"{where}.user")
    return providers.terms(source.oauth, client_id=client_id, user=user, protocols=protocols(served))


def _known(reference: Secret | str, key: str) -> str:
    """The text behind a reference that is no secret; "" where it cannot be had, as the token's error then says."""
    try:
        return resolve(reference, key=key)
    except SecretError:
        return ""


def _service_account(path: str) -> str:
    """The number by which the administrator knows a service account; "" where its file cannot be read."""
    try:
        found = json.loads(Path(path).read_bytes()[:LIMIT]) if path else {}
    except (OSError, ValueError, RecursionError):
        return ""
    number = found.get("client_id") if isinstance(found, dict) else ""
    return number if isinstance(number, str) and number.isdecimal() else ""
