"""Which address is asked for what: Microsoft and its national clouds, Google, and any other by its own metadata. Pure.

Microsoft: "Authenticate an IMAP, POP or SMTP connection using OAuth" and "National clouds" (learn.microsoft.com).
Google: "Using OAuth 2.0 for Server to Server Applications", "OAuth 2.0 for Mobile & Desktop Apps", "XOAUTH2"
(developers.google.com).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol
from urllib.parse import urlsplit

MICROSOFT: Final = "https://login.microsoftonline.com"
GOOGLE: Final = "https://accounts.google.com"
GOOGLE_MAIL: Final = "https://mail.google.com/"
# Host of the authority -> where an application's, and where a user's permissions stand.
_CLOUDS: Final = {
    "login.microsoftonline.us": ("https://outlook.office365.us", "https://outlook.office365.us"),
    "login.partner.microsoftonline.cn": ("https://partner.outlook.cn", "https://partner.outlook.cn"),
    "login.chinacloudapi.cn": ("https://partner.outlook.cn", "https://partner.outlook.cn"),
}
_WORLD: Final = ("https://outlook.office365.com", "https://outlook.office.com")
_MICROSOFT_USER: Final = {"smtp": "SMTP.Send", "imap": "IMAP.AccessAsUser.All"}

INTERACTIVE: Final = ("device", "authorization-code")
"""Flows in which somebody logs in once, by `mailrelayd authorize`; afterwards a refresh token does."""


class Section(Protocol):
    """The keys of an `oauth` table that matter here."""

    @property
    def provider(self) -> str: ...  # microsoft | google | custom
    @property
    def flow(self) -> str: ...  # client-credentials | device | authorization-code | service-account
    @property
    def authority(self) -> str: ...
    @property
    def tenant_id(self) -> str: ...
    @property
    def token_url(self) -> str: ...
    @property
    def scopes(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Terms:
    """What is asked of whom. An address is "" where it has to be discovered, or where the flow has no use for it."""

    provider: str
    flow: str
    client_id: str
    user: str  # the mailbox
    token_url: str
    device_url: str = ""
    authorize_url: str = ""
    discovery_url: str = ""  # the provider's metadata, where addresses are missing
    issuer: str = ""  # as the metadata say
    scopes: tuple[str, ...] = ()
    chosen: tuple[str, ...] = ()  # the scopes as configured; (): the provider's usual ones
    basic: bool = False  # the client secret goes into the Authorization header, not into the body

    @property
    def interactive(self) -> bool:
        """Whether somebody has to log in once."""
        return self.flow in INTERACTIVE

    @property
    def host(self) -> str:
        """The provider's name, for sentences."""
        return urlsplit(self.token_url or self.discovery_url).hostname or self.provider

    @property
    def fingerprint(self) -> str:
        """What a token belongs to: with another fingerprint it is a token for something else.

        The provider's usual scopes do not count: a mailbox more or less needs no new login, but other words at the
        next refresh.
        """
        told = (self.provider, self.flow, self.client_id, self.user.lower(), self.token_url, self.discovery_url)
        return hashlib.sha256(json.dumps([*told, *self.chosen]).encode()).hexdigest()


def terms(section: Section, *, client_id: str, user: str, protocols: Collection[str]) -> Terms:
    """The terms of an account; `protocols`, of "smtp" and "imap", is what its token has to open."""
    common = Terms(section.provider, section.flow, client_id, user, section.token_url, chosen=tuple(section.scopes))
    match section.provider:
        case "microsoft":
            made = _microsoft(common, section.authority or MICROSOFT, section.tenant_id, protocols)
        case "google":
            made = _google(common, section.authority)
        case _:
            made = _custom(common, section.authority)
    return replace(made, scopes=common.chosen or made.scopes)


def _microsoft(common: Terms, authority: str, tenant: str, protocols: Collection[str]) -> Terms:
    base = f"{authority}/{tenant}/oauth2/v2.0" if tenant else ""
    application, person = _CLOUDS.get(urlsplit(authority).hostname or "", _WORLD)
    if common.flow == "client-credentials":
        scopes = [f"{application}/.default"]  # one resource; which permissions, the administrator said
    else:
        scopes = [f"{person}/{word}" for protocol, word in _MICROSOFT_USER.items() if protocol in protocols]
        scopes.append("offline_access")  # else there is no refresh token
    return replace(
        common,
        token_url=common.token_url or f"{base}/token",
        device_url=f"{base}/devicecode" if base else "",
        authorize_url=f"{base}/authorize" if base else "",
        scopes=tuple(scopes),
    )


def _google(common: Terms, authority: str) -> Terms:
    return replace(
        common,
        token_url=common.token_url or (f"{authority}/token" if authority else "https://oauth2.googleapis.com/token"),
        authorize_url=f"{authority or GOOGLE}/o/oauth2/v2/auth",
        scopes=(GOOGLE_MAIL,),
    )


def _custom(common: Terms, authority: str) -> Terms:
    known = common.token_url and not common.interactive
    return replace(
        common,
        discovery_url=f"{authority}/.well-known/openid-configuration" if authority and not known else "",
        scopes=("openid", "offline_access") if common.interactive else (),
        basic=True,  # RFC 6749 section 2.3.1: the one way that every server has
    )


def discovered(terms: Terms, metadata: Mapping[str, object]) -> Terms:
    """The terms with the addresses that the provider's metadata name (RFC 8414). Raises ValueError in words."""
    base = terms.discovery_url.removesuffix("/.well-known/openid-configuration")
    issuer = metadata.get("issuer")
    if not isinstance(issuer, str) or issuer.rstrip("/") != base:
        # RFC 8414 section 3.3: else it is somebody else's, and would get our secret.
        raise ValueError(f"its issuer is not {base}: correct authority")
    methods = metadata.get("token_endpoint_auth_methods_supported")
    post_only = isinstance(methods, list) and "client_secret_post" in methods and "client_secret_basic" not in methods
    token_url = terms.token_url or _address(metadata, "token_endpoint")
    if not token_url:
        raise ValueError("it names no token_endpoint: write token_url")
    return replace(
        terms,
        token_url=token_url,
        device_url=_address(metadata, "device_authorization_endpoint"),
        authorize_url=_address(metadata, "authorization_endpoint"),
        issuer=issuer,
        basic=not post_only,
    )


def _address(metadata: Mapping[str, object], name: str) -> str:
    """An address out of the metadata: where they came over TLS, it leads to TLS as well."""
    found = metadata.get(name, "")
    if not isinstance(found, str):
        raise ValueError(f"its {name} is no text")  # noqa: TRY004 - the metadata are wrong, not the caller
    issuer = metadata.get("issuer")
    safe = found.startswith("https://") or (
        found.startswith("http://") and isinstance(issuer, str) and issuer.startswith("http://")
    )
    if found and not safe:
        raise ValueError(f"its {name} is no https address")
    return found


def authorization_extras(terms: Terms) -> dict[str, str]:
    """What else the address at which somebody logs in has to carry."""
    extras = {"login_hint": terms.user} if terms.user else {}
    if terms.provider == "google":
        extras |= {"access_type": "offline", "prompt": "consent"}  # else no refresh token, from the second time on
    elif terms.provider == "custom" and "offline_access" in terms.scopes:
        extras["prompt"] = "consent"  # OpenID Connect Core section 11
    return extras
