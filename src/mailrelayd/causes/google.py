"""Gmail and Google's token endpoint.

Sources: support.google.com/a/answer/3726730 "Gmail SMTP errors and codes", developers.google.com "OAuth 2.0 Mechanism"
for Gmail's IMAP and SMTP, "Using OAuth 2.0 for Server to Server Applications" and "for Desktop Apps".
"""

from __future__ import annotations

from typing import Final

from mailrelayd.causes.rules import Rule, rule

_LOGIN: Final = ("auth", "login")
_DELEGATION: Final = (
    "in the Google Admin console, Security > Access and data control > API controls > Domain-wide delegation, enter "
    "the service account's client ID with the scope https://mail.google.com/"
)

RULES: Final[tuple[Rule, ...]] = (
    rule(
        r"application-specific password|\b5\.7\.9\b.*(gsmtp|google)|InvalidSecondFactor",
        "Google wants an application password here, not the account's own",
        'make one at myaccount.google.com/apppasswords, or log in with OAuth2 (auth = "oauth2")',
        "password",
        at=_LOGIN,
    ),
    rule(
        r"\b5\.7\.14\b|log ?in (with|via) your web browser|WebLoginRequired|WEBALERT",
        "Google does not trust this login and wants to see the user in a browser",
        "sign in as this user in a browser, or log in with OAuth2",
        "auth",
        at=_LOGIN,
    ),
    rule(
        r"not enabled for IMAP|IMAP access is disabled|imap.*disabled for your domain",
        "IMAP is switched off for this mailbox or domain",
        "switch it on in Gmail's settings and in the Admin console under Gmail > End User Access",
        "user",
        on="imap",
    ),
    rule(
        r"username and password not accepted|BadCredentials|\b5\.7\.8\b.*(gsmtp|google)",
        "Google accepts neither the account's own password nor a mistyped one",
        'use an application password (myaccount.google.com/apppasswords), or OAuth2 (auth = "oauth2")',
        "password",
        on="smtp",
        at=_LOGIN,
        token=False,
    ),
    rule(
        r"^535|\b5\.7\.8\b|invalid credentials|BadCredentials|\"status\": ?\"40[013]\"",
        "Google does not accept the token for this mailbox: it is another user's, expired, or without the scope "
        "https://mail.google.com/",
        "write the mailbox's address as {account}.user, and run `mailrelayd authorize {account}`",
        "user",
        at=_LOGIN,
        provider="google",
    ),
    rule(
        r"too many login attempts|\b4\.7\.0\b.*too many",
        "Google found too many logins in a short time",
        "wait, as it is tried again; fewer connections and a longer poll_interval keep it from coming back",
        at=_LOGIN,
    ),
    rule(
        r"invalid credentials for relay|\b5\.7\.1\b.*relay.*(gsmtp|google)|mail relay denied",
        "Google's SMTP relay does not know this machine",
        "in the Admin console, Gmail > Routing > SMTP relay service, enter this machine's address, or log in",
        "auth",
        on="smtp",
    ),
    rule(
        r"daily (user )?sending (quota|limit)|\b5\.4\.5\b",
        "this mailbox has sent as many mails as Google allows in a day",
        "wait a day, or send through Google's SMTP relay service",
        "host",
        on="smtp",
    ),
    rule(
        r"too many simultaneous connections",
        "Google allows 15 IMAP connections of one mailbox at a time",
        "end other programs that read it",
        on="imap",
    ),
    # -- the token endpoint
    rule(
        r"^unauthorized_client|client (is )?unauthorized to retrieve",
        "the service account may not act for this mailbox, or not with this scope",
        f"{_DELEGATION}; it may take a day to work",
        "oauth.scopes",
        on="oauth",
        provider="google",
    ),
    rule(
        r"invalid email or user id|account not found|not a valid email",
        "there is no such user in this Workspace, or no such service account",
        "write the mailbox's main address as {account}.user; an alias or a group will not do",
        "user",
        on="oauth",
        provider="google",
    ),
    rule(
        r"invalid JWT signature|invalid signature for token",
        "the service account's key was deleted or belongs to another account",
        "make a new JSON key and put it in place of oauth.service_account_file",
        "oauth.service_account_file",
        on="oauth",
        provider="google",
    ),
    rule(
        r"reasonable timeframe|short-lived token|check your iat and exp",
        "this machine's clock is wrong",
        "set it (timedatectl); more than a few minutes are refused",
        on="oauth",
    ),
    rule(
        r"rapt_required|invalid_rapt",
        "the Workspace wants users of this application to sign in again and again",
        "except it under Security > Google Cloud session control, or use a service account",
        "oauth.flow",
        on="oauth",
    ),
    rule(
        r"^invalid_grant.*(expired or revoked|token has been)",
        "the authorisation has expired or was withdrawn; of an application in the state Testing it ends after 7 days",
        "set the OAuth consent screen to Internal or In production, then: `mailrelayd authorize {account}`",
        on="oauth",
        provider="google",
    ),
    rule(
        r"admin_policy_enforced",
        "the Workspace's administrator does not let this application read mail",
        "in the Admin console, Security > API controls > App access control, trust its client ID",
        "oauth.client_id",
        on="oauth",
    ),
    rule(
        r"org_internal",
        "this application is for users of its own organisation only",
        "sign in as the mailbox's user, or make the consent screen External",
        on="oauth",
    ),
    rule(
        r"deleted_client|OAuth client was (not found|deleted)|disabled_client",
        "Google has no application of this id",
        "write the client ID that Google Cloud shows under APIs & Services > Credentials",
        "oauth.client_id",
        on="oauth",
    ),
    rule(
        r"redirect_uri_mismatch",
        "the application was not registered as one for the desktop",
        "make an OAuth client of the type Desktop app: it takes any port of this machine",
        "oauth.client_id",
        on="oauth",
        provider="google",
    ),
)
