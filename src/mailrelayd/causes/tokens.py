"""What token endpoints of any make answer: RFC 6749 section 5.2, RFC 7521, RFC 7523, RFC 8628, and our own words."""

from __future__ import annotations

from typing import Final

from mailrelayd.causes.rules import Rule, rule

RULES: Final[tuple[Rule, ...]] = (
    rule(
        r"pip install",
        "what speaks OAuth is not installed",
        "install requirements-oauth.txt where mailrelayd runs",
        on="oauth",
        said=True,
    ),
    rule(
        r"\$CREDENTIALS_DIRECTORY is not set",
        "the secret is a credential of the systemd unit, and this was not started by it",
        "run this as root, which reads /etc/mailrelayd/credentials where systemd does",
        "oauth.client_secret",
        on="oauth",
    ),
    rule(
        r"^(in|out)bound\.\S+: ",
        "a value of the configuration is kept elsewhere, and cannot be had from there",
        "correct the reference that is named, or what it leads to",
        on="oauth",
    ),
    rule(
        r"\.json cannot be used",
        "the token cannot be kept, and a token of this kind must be",
        "let the folder oauth in [state] directory, and what is in it, belong to the daemon's user",
        on="oauth",
    ),
    rule(
        r"^invalid_client",
        "the provider does not accept who we say we are",
        "correct oauth.client_id, and oauth.client_secret or oauth.client_certificate; secrets expire",
        "oauth.client_secret",
        on="oauth",
    ),
    rule(
        r"(iat|exp|nbf).*(future|past|valid|range)|not yet valid|clock|reasonable timeframe|time range",
        "the provider finds our request too old or from the future",
        "set this machine's clock (timedatectl)",
        on="oauth",
    ),
    rule(
        r"^(invalid_grant|expired_refresh_token)",
        "the authorisation has expired or was withdrawn, or it is not for this user",
        "authorise anew: `mailrelayd authorize {account}`",
        "oauth",
        on="oauth",
    ),
    rule(
        r"^unauthorized_client",
        "this application may not ask for tokens this way",
        "allow the flow for it at the provider, or write another oauth.flow",
        "oauth.flow",
        on="oauth",
    ),
    rule(
        r"^invalid_scope",
        "the provider does not know a scope that we ask for, or does not give it to this application",
        "correct oauth.scopes, or grant it there",
        "oauth.scopes",
        on="oauth",
    ),
    rule(
        r"^(invalid_target|invalid_resource)",
        "the provider does not know what the token is to be for",
        "correct oauth.scopes",
        "oauth.scopes",
        on="oauth",
    ),
    rule(
        r"^(unsupported_grant_type|unsupported_response_type)",
        "the provider does not offer this flow",
        "write another oauth.flow, or allow it there",
        "oauth.flow",
        on="oauth",
    ),
    rule(
        r"^(access_denied|consent_required)",
        "whoever was asked did not agree, or must not agree alone",
        "run `mailrelayd authorize {account}` again as the mailbox's user, or have an administrator consent",
        on="oauth",
    ),
    rule(
        r"^expired_token|(device|user) ?code.*expired",
        "nobody entered the code in time",
        "run `mailrelayd authorize {account}` again",
        on="oauth",
    ),
    rule(
        r"^(interaction_required|login_required|account_selection_required)",
        "the provider wants to see a person again",
        "authorise anew: `mailrelayd authorize {account}`",
        on="oauth",
    ),
    rule(
        r"redirect_uri",
        "the provider does not know the address that the browser comes back to",
        "enter http://localhost (any port) there for a desktop application, or name the port by --port",
        "oauth.client_id",
        on="oauth",
    ),
    rule(
        r"^(temporarily_unavailable|server_error|slow_down)|^(429|5\d\d)\b|\b(429|50[0-4])\b",
        "the provider is busy or down",
        "nothing here needs a change: it is tried again, and a token that is still good goes on being used",
        on="oauth",
    ),
    rule(
        r"^invalid_request",
        "the provider misses something in the request, or does not understand it",
        "compare oauth.flow, oauth.scopes and oauth.authority with what it documents",
        "oauth",
        on="oauth",
    ),
    rule(
        r"^404\b|\b404\b|openid-configuration",
        "there is no token server at this address",
        "correct oauth.authority or oauth.token_url",
        "oauth.authority",
        on="oauth",
    ),
    rule(
        r"redirect",
        "the token server sends us elsewhere, and a secret never follows",
        "write the address that it names in oauth.authority or oauth.token_url",
        "oauth.token_url",
        on="oauth",
    ),
    rule(
        r"(?<!\.)\bJSON\b|<html|not understood",
        "what answers there is no token server, or something on the way answers for it",
        "correct oauth.authority or oauth.token_url, and look for a proxy that wants a login",
        "oauth.authority",
        on="oauth",
    ),
    rule(
        r"mailrelayd authorize",
        "nobody has authorised this account yet, or not for what it asks for now",
        "run `mailrelayd authorize {account}`",
        on="oauth",
        said=True,
    ),
)
