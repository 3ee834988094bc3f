"""What is behind an error: the cause and the cure, each in one sentence. Pure.

    rules.py        what a line of the tables says, and when it applies
    network.py      DNS, TCP, TLS, and ports that speak something else
    servers.py      what SMTP and IMAP servers of any make answer
    tokens.py       what token endpoints of any make answer
    microsoft.py    Exchange Online and Microsoft Entra
    google.py       Gmail and Google's token endpoint

The tables explain and never decide: whether a message is deferred or a route held follows from the codes of the RFCs
alone (outbound/delivery.py), because providers change their texts and number their errors anew.
"""

from __future__ import annotations

from typing import Final

from mailrelayd.causes import google, microsoft, network, servers, tokens
from mailrelayd.causes.rules import Cause, Rule

__all__ = ["Cause", "behind", "explain"]

# The first that applies counts: what one provider means by a code comes before what everybody means by it.
_TABLES: Final[tuple[tuple[Rule, ...], ...]] = (
    network.RULES,
    microsoft.RULES,
    google.RULES,
    servers.RULES,
    tokens.RULES,
)
LOOKED_AT: Final = 2000  # characters of an error: some patterns need the square of them
_PORTS: Final = {"smtp": ("465", "587"), "imap": ("993", "143")}  # TLS from the first byte, STARTTLS


def explain(protocol: str, stage: str, code: str, text: str, *, provider: str = "", account: str = "") -> Cause | None:
    """The cause of an error, or None where it is not known.

    `protocol` is smtp, imap or oauth; `stage` the value of a Stage of that protocol; `code` the reply code ("535"),
    IMAP's response code ("AUTHENTICATIONFAILED") or the error of RFC 6749 ("invalid_grant"), "" or "0" where nobody
    answered; `text` the server's words or ours. `provider` is the [oauth] provider of an account that logs in with a
    token, "" where it has a password. `account` ("outbound.smarthost") is what `setting` and the cure name.
    """
    said = (f"{code} {text}" if code not in ("", "0") else text)[:LOOKED_AT]
    for table in _TABLES:
        for rule in table:
            if rule.applies(protocol, stage, said, provider):
                tls, starttls = _PORTS.get(protocol, ("443", "443"))
                return rule.cause(account, tls=tls, starttls=starttls)
    return None


def behind(text: str, cause: Cause | None) -> str:
    """The error and what is behind it, as one sentence for a log line: nothing in it is said twice."""
    if cause is None or cause.said or _names_key(text, cause.setting):
        return text
    reason, _, cure = cause.line.partition(": ")
    return f"{text}: {cure}" if reason in text else f"{text} ({cause.line})"


def _names_key(text: str, setting: str) -> bool:
    """Whether the error already says which setting to change."""
    key = setting.rpartition(".")[2]
    return bool(key) and (f"{key} = " in text or ("_" in key and key in text))
