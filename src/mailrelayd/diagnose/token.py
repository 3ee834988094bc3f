"""Whether an access token is one that the mail servers can take: for whom, for what, until when. Pure.

The servers say only no. A token of Microsoft's says the rest itself; Google's are opaque, and what was granted stands
beside them. Nothing here is a proof, as no signature is looked at: the logins that follow are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from mailrelayd.diagnose.steps import CONFIGURATION, REFUSED, Outcome, Step
from mailrelayd.oauth.claims import Claims, decode
from mailrelayd.oauth.providers import GOOGLE_MAIL, Terms

CLOCK: Final = 300.0  # seconds by which two clocks may differ before somebody is told
# Exchange Online by name in each cloud, and by the id of its application.
_EXCHANGE: Final = (
    *("outlook.office365.com", "outlook.office.com", "ps.outlook.com", "outlook.office365.us", "partner.outlook.cn"),
    "00000002-0000-0ff1-ce00-000000000000",
)
_GRAPH: Final = ("graph.microsoft.com", "graph.microsoft.us", "microsoftgraph.chinacloudapi.cn")
_GRAPH_ID: Final = "00000003-0000-0000-c000-000000000000"
_APPLICATION: Final = {"smtp": ("SMTP.SendAsApp",), "imap": ("IMAP.AccessAsApp",)}
_PERSON: Final = {"smtp": ("SMTP.Send",), "imap": ("IMAP.AccessAsUser.All",)}


@dataclass(frozen=True, slots=True)
class Held:
    """A token, what was granted with it ("": not told), and when it ends by our clock."""

    text: str
    granted: str
    expires_at: float | None  # seconds since the epoch; None: nobody tells


def examine(
    account: str, terms: Terms, tenant: str, held: Held, protocols: Collection[str], now: float
) -> Iterator[Step]:
    """The steps for a token of `account` ("outbound.smarthost"); `protocols`, of "smtp" and "imap", it has to open.

    `tenant` is the one configured.
    """
    claims = decode(held.text)
    until = "valid for an unknown time"
    if held.expires_at is not None:
        at = datetime.fromtimestamp(held.expires_at, UTC)
        until = f"valid until {at:%Y-%m-%d %H:%M:%S} UTC, {_span(held.expires_at - now)} from now"
    kind = "opaque: only the server knows what is in it" if claims is None else "a JWT"
    yield Step(account, "token", Outcome.OK, f"{terms.host} gave one, {until}; {kind}", data=_data(claims, held))
    if claims is not None:
        yield from _clock(account, claims, now)
        if claims.audience:
            yield _audience(account, claims, terms)
        yield from _asker(account, claims, terms, tenant)
    yield from _permissions(account, claims, held, terms, protocols)
    if claims is not None:
        yield from _person(account, claims, terms)


def _audience(account: str, claims: Claims, terms: Terms) -> Step:
    """aud: for which service the token is."""
    text = f"for {claims.audience}"
    if terms.provider != "microsoft" or any(name in claims.audience.lower() for name in _EXCHANGE):
        return Step(account, "audience", Outcome.OK, text)
    graph = claims.audience == _GRAPH_ID or any(name in claims.audience.lower() for name in _GRAPH)
    return Step(
        account,
        "audience",
        Outcome.FAILED,
        text,
        cause=f"The token is for {'Microsoft Graph' if graph else 'another service'}, and IMAP and SMTP take only "
        "tokens for Exchange Online.",
        cure="Leave oauth.scopes out, so that the right ones are asked for, then authorise again.",
        setting=f"{account}.oauth.scopes",
        status=CONFIGURATION,
    )


def _permissions(
    account: str, claims: Claims | None, held: Held, terms: Terms, protocols: Collection[str]
) -> Iterator[Step]:
    """roles of an application, scp of a person, or what was granted beside an opaque token."""
    has = tuple(held.granted.split())
    if claims is not None:
        has = (*claims.roles, *claims.scopes) or has
    if terms.provider == "microsoft":
        table = _APPLICATION if terms.flow == "client-credentials" else _PERSON
        wanted = [word for protocol, words in table.items() if protocol in protocols for word in words]
    else:
        wanted = [GOOGLE_MAIL] if terms.provider == "google" and not terms.chosen else []
    if not has and (not wanted or claims is None):
        return  # nobody tells
    there = {word.rpartition("/")[2] if "/" in word and not word.endswith("/") else word for word in has}
    missing = [word for word in wanted if word not in there]
    shown = ", ".join(has) or "none"
    if not missing:
        yield Step(account, "permissions", Outcome.OK, shown)
        return
    if terms.provider == "google":
        cure = f"Authorise again, and leave every box ticked: `mailrelayd authorize {account}`."
    else:
        kind = "Application" if terms.flow == "client-credentials" else "Delegated"
        cure = (
            f"Under API permissions add {' and '.join(missing)} ({kind} permissions) and press Grant admin consent; "
            "then authorise again."
        )
    yield Step(
        account,
        "permissions",
        Outcome.FAILED,
        shown,
        cause=f"The token lacks {' and '.join(missing)}, without which the server refuses it.",
        cure=cure,
        status=REFUSED,
    )


def _asker(account: str, claims: Claims, terms: Terms, tenant: str) -> Iterator[Step]:
    """appid and tid: who asked, and where."""
    if claims.application:
        same = not terms.client_id or claims.application.lower() == terms.client_id.lower()
        yield Step(
            account,
            "application",
            Outcome.OK if same else Outcome.WARNING,
            claims.application,
            cause="" if same else f"The token was made for another application than client_id {terms.client_id}.",
            cure="" if same else f"Authorise again: `mailrelayd authorize {account}`.",
            setting="" if same else f"{account}.oauth.client_id",
        )
    if claims.tenant:
        named = tenant.count("-") == 4  # an id, not a domain, which leads to the same
        same = not named or claims.tenant.lower() == tenant.lower()
        yield Step(
            account,
            "tenant",
            Outcome.OK if same else Outcome.WARNING,
            claims.tenant,
            cause="" if same else f"The token is of another tenant than {tenant}.",
            cure="" if same else "Write the Directory (tenant) ID of the mailbox's organisation.",
            setting="" if same else f"{account}.oauth.tenant_id",
        )


def _person(account: str, claims: Claims, terms: Terms) -> Iterator[Step]:
    """Who authorised. Another user than the mailbox's is right for a shared mailbox, and a mistake else."""
    if not claims.user:
        return
    if claims.user.lower() == terms.user.lower():
        yield Step(account, "user", Outcome.OK, f"authorised as {claims.user}")
        return
    yield Step(
        account,
        "user",
        Outcome.WARNING,
        f"authorised as {claims.user}, but {account}.user says {terms.user}",
        cause="The mailbox is another one than that of the person who signed in, which is right for a shared mailbox "
        "only.",
        cure=f"Sign in as {terms.user}, or write {claims.user} as user; a shared mailbox must be open to this person.",
        setting=f"{account}.user",
    )


def _clock(account: str, claims: Claims, now: float) -> Iterator[Step]:
    """iat and exp are the provider's clock."""
    if claims.issued_at is not None and claims.issued_at > now + CLOCK:
        off = _span(claims.issued_at - now)
    elif claims.expires_at is not None and claims.expires_at < now:
        off = _span(now - claims.expires_at)
    else:
        return
    yield Step(
        account,
        "clock",
        Outcome.WARNING,
        f"by the provider's clock the token is {off} away from now",
        cause="This machine's clock is wrong, or the provider's.",
        cure="Look at it with `timedatectl`.",
    )


def _data(claims: Claims | None, held: Held) -> dict[str, object]:
    """For programs: the claims that people ask for, never the token."""
    data: dict[str, object] = {"expires_at": held.expires_at, "granted": held.granted}
    if claims is None:
        return data
    return data | {
        "aud": claims.audience,
        "iss": claims.issuer,
        "tid": claims.tenant,
        "appid": claims.application,
        "user": claims.user,
        "roles": list(claims.roles),
        "scp": list(claims.scopes),
        "iat": claims.issued_at,
        "exp": claims.expires_at,
    }


def _span(seconds: float) -> str:
    minutes = round(abs(seconds) / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.0f} h"
