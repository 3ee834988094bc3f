"""[outbound.NAME.oauth] and [inbound.NAME.oauth]: where an account's access token comes from."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from mailrelayd.config import checks
from mailrelayd.config.secrets import Secret
from mailrelayd.config.section import (
    Day,
    FileName,
    Line,
    PublicReference,
    Rule,
    SecretReference,
    Section,
    raise_broken,
)

Url = Annotated[str, AfterValidator(checks.token_server)]


class OAuth(Section):
    """How a token is asked for. Of an inbound account, each key left out is the outbound account's."""

    provider: Literal["microsoft", "google", "custom"] = "microsoft"
    flow: Literal["client-credentials", "device", "authorization-code", "service-account"] = Field(
        default_factory=lambda keys: "service-account" if keys.get("provider") == "google" else "client-credentials"
    )
    authority: Url = ""  # "": the provider's own
    tenant_id: Annotated[str, AfterValidator(checks.path_segment)] = ""
    client_id: PublicReference = ""
    client_secret: SecretReference = Secret("")
    client_secret_expires: Day = None
    client_certificate: FileName = ""  # PEM: the certificate and its private key
    service_account_file: FileName = ""
    token_command: Annotated[tuple[str, ...], Field(strict=False), AfterValidator(checks.command)] = ()
    token_url: Url = ""  # "": the provider's own, or the one the authority names
    scopes: Annotated[tuple[Line, ...], Field(strict=False)] = ()  # none: the provider's for mail

    @model_validator(mode="after")
    def _agree(self) -> Self:
        raise_broken(oauth_rules(self))
        return self


def oauth_rules(oauth: OAuth) -> list[Rule]:
    """What the keys must agree on, and which of them cannot be left out."""
    if oauth.token_command:
        return [
            Rule(key, "has no meaning beside token_command, which hands in the whole token: remove one of them", key)
            for key in ("client_secret", "client_certificate", "service_account_file", "token_url")
            if getattr(oauth, key)
        ]
    rules = [*_flow_rules(oauth), *_place_rules(oauth)]
    if oauth.client_secret and oauth.client_certificate:
        text = "is written, and client_secret too: one of them proves who asks, remove the other"
        rules.append(Rule("client_certificate", text, "client_secret"))
    if oauth.client_secret_expires and not oauth.client_secret:
        rules.append(Rule("client_secret_expires", "has a meaning only with client_secret: remove it", "client_secret"))
    return rules


def _flow_rules(oauth: OAuth) -> list[Rule]:
    """What the flow needs."""
    rules = []
    if oauth.provider == "google" and oauth.flow in ("client-credentials", "device"):
        text = (
            f'is "{oauth.flow}", which Google does not have for mail: write "service-account" or "authorization-code"'
        )
        rules.append(Rule("flow", text, "provider"))
    if oauth.flow == "service-account":
        if oauth.provider == "microsoft":
            text = 'is "service-account", which Microsoft does not have: write "client-credentials"'
            rules.append(Rule("flow", text, "provider"))
        elif not oauth.service_account_file:
            text = "is missing: name the JSON file with the service account's key that the provider gave you"
            rules.append(Rule("service_account_file", text, "flow", "provider", "token_command"))
        return rules
    if oauth.service_account_file:
        text = 'has a meaning only with flow = "service-account": remove one of them'
        rules.append(Rule("service_account_file", text, "flow"))
    if not oauth.client_id:
        text = "is missing: write the id of the application that you registered with the provider"
        rules.append(Rule("client_id", text, "flow", "provider", "token_command"))
    if oauth.flow == "client-credentials" and not (oauth.client_secret or oauth.client_certificate):
        text = 'is missing: write client_secret = "credential:NAME", or client_certificate = "PATH"'
        rules.append(Rule("client_secret", text, "client_certificate", "flow", "provider", "token_command"))
    return rules


def _place_rules(oauth: OAuth) -> list[Rule]:
    """Where the token comes from."""
    rules = []
    if oauth.provider == "microsoft" and not oauth.tenant_id and not oauth.token_url:
        text = "is missing: write the directory (tenant) id, or a domain of yours, as Microsoft's portal shows it"
        rules.append(Rule("tenant_id", text, "provider", "token_url", "token_command"))
    if oauth.provider == "custom" and not (oauth.token_url or oauth.authority):
        text = "is missing: write authority, whose /.well-known/openid-configuration says the rest, or token_url"
        rules.append(Rule("authority", text, "provider", "token_url", "token_command"))
    interactive = oauth.flow in ("device", "authorization-code")
    if oauth.provider == "custom" and interactive and not oauth.authority:
        text = f'is missing: flow = "{oauth.flow}" needs further addresses, which its openid-configuration names'
        rules.append(Rule("authority", text, "flow", "provider", "token_command"))
    return rules


def token_rules(kind: str, user: str, oauth: OAuth | None) -> list[Rule]:
    """What auth = "oauth2" needs in an account of [`kind`.NAME]."""
    rules = []
    if not user:
        rules.append(Rule("user", 'is missing: auth is "oauth2"; write the mailbox that the token is for', "auth"))
    if oauth is None:
        text = f'is missing: auth is "oauth2"; write a section [{kind}.NAME.oauth] with provider, client_id and so on'
        rules.append(Rule("oauth", text, "auth"))
    return rules
