"""Why a server does not do what is asked of it, where its answer is none of the known ones (causes): by the stage."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from mailrelayd import sasl
from mailrelayd.causes import Cause
from mailrelayd.config import secrets
from mailrelayd.config.answering import InboundAccount
from mailrelayd.diagnose.network import Account, key_of
from mailrelayd.diagnose.steps import CONFIGURATION, REFUSED, TEMPORARY, Outcome, Step
from mailrelayd.inbound.values import ImapError, Refused
from mailrelayd.oauth.values import OAuthError
from mailrelayd.outbound.answers import printable

LOGIN: Final = frozenset({"auth", "login"})  # SMTP's and IMAP's word for the stage
_KINDS: Final = {"configuration": CONFIGURATION, "temporary": TEMPORARY}


def by_stage(where: str, stage: str, trouble: BaseException) -> Cause:
    """What can be said without knowing the server's answer, or because there is none."""
    if isinstance(trouble.__cause__, secrets.SecretError):
        cure = "Correct the reference, or what it leads to."
        return Cause("User or password cannot be had.", cure, f"{where}.password")
    if stage in LOGIN and broken_off(trouble):
        cure = "Try again later; if it stays so, whoever runs the server finds the reason in its log."
        return Cause("The server broke off during the login, and has said neither yes nor no to it.", cure)
    match stage:
        case "connect":
            cure = "Correct host and port, or open the way."
            return Cause("No connection to the server comes about.", cure, f"{where}.host")
        case "tls" | "starttls":
            cure = "Correct security, port or tls."
            return Cause("TLS with this server does not come about.", cure, f"{where}.security")
        case "greeting":
            cure = "Ask whoever runs it whether it knows this machine's address, or correct host and port."
            return Cause("The server turns this machine away, or it is out of order.", cure, f"{where}.host")
        case "auth" | "login":
            return Cause("The server does not take this login.", "Correct user and password.", f"{where}.password")
    if broken_off(trouble):
        cure = "Try again; if it stays so, whoever runs the server finds the reason in its log."
        return Cause("The server stopped answering in the middle of the conversation.", cure)
    return Cause("The server does not do what was asked of it.", "Ask whoever runs it; its own log says more.")


def broken_off(trouble: BaseException) -> bool:
    """Whether the connection ended, or no answer came, where there should have been one."""
    if isinstance(trouble, ImapError):
        return not isinstance(trouble, Refused) and trouble.__cause__ is not None
    below: BaseException | None = trouble
    while below is not None:
        if isinstance(below, (TimeoutError, ConnectionError)):
            return True
        below = below.__cause__
    return False


def status_of(trouble: BaseException, otherwise: int) -> int:
    """The class of sysexits by what is behind a trouble: a secret, a token, a connection that broke in the login."""
    behind = trouble.__cause__
    if isinstance(behind, secrets.SecretError):
        return CONFIGURATION
    if isinstance(behind, OAuthError):
        return _KINDS.get(behind.kind, otherwise)
    return TEMPORARY if otherwise == REFUSED and broken_off(trouble) else otherwise


def no_mechanism(account: Account, offered: Collection[str], text: str) -> Step:
    """There is no way to log in that both sides know. `offered`: mechanisms of SASL, in capitals."""
    where, imap = key_of(account), isinstance(account, InboundAccount)
    passwords = ("PLAIN", "LOGIN") if imap else sasl.PASSWORD_MECHANISMS
    if not offered:
        cause = "The server offers no login on this port."
        cure = 'Write the port for submission (587 or 465), or auth = "none" where the server knows this machine.'
        if imap:
            cure = "Write the port for TLS (993), or have a login switched on at the server."
    elif account.auth == "password" and sasl.choose(offered, sasl.TOKEN_MECHANISMS):
        cause = "The server takes no password, only OAuth2 tokens."
        cure = f'Write auth = "oauth2" and an [{where}.oauth] section.'
    elif account.auth == "oauth2" and sasl.choose(offered, passwords):
        cause = "The server takes no OAuth2 token, only a password."
        cure = 'Write auth = "password", user and password.'
    else:
        cause = "The server and we have no way to log in in common."
        ours = sasl.TOKEN_MECHANISMS if account.auth == "oauth2" else passwords
        cure = f"Have one of {', '.join(ours)} switched on at the server."
    data = {"mechanisms": sorted(offered)}
    return Step(where, "login", Outcome.FAILED, printable(text), cause, cure, f"{where}.auth", REFUSED, data=data)
