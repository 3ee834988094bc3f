"""What a mail that came back tells of the servers before the mailbox, and which settings follow from it. Pure.

Only what cannot weaken a configuration is proposed: a server's word counts where it stands above the Received line of
our MX, since everything below that line came with the mail, and could have been written by whoever sent it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mailrelayd.approvals import authres
from mailrelayd.outbound.answers import printable

Fields = Sequence[tuple[str, str]]  # name and raw content of every header field, top to bottom

EXCHANGE_ONLINE = (  # where mailboxes of Microsoft 365 are read, the national clouds among them
    "outlook.office365.com",
    "outlook.office365.us",
    "outlook-dod.office365.us",
    "partner.outlook.cn",
)
ADDRESSED = ("to", "cc", "delivered-to", "x-original-to", "envelope-to")
ANSWERED = ("in-reply-to", "references", "message-id")
_COMMENT = re.compile(r"\([^()]*\)")
_BY = re.compile(
    r"(?:^|\s)by\s+(?P<host>[A-Za-z0-9._-]+|\[[^\]\s]+\])(?P<lmtp>\s+with\s+LMTPS?A?(?=\s))?", re.IGNORECASE
)
_AUTH_AS = "x-ms-exchange-organization-authas"


@dataclass(frozen=True, slots=True)
class InForce:
    """[approvals] as it is configured, and what it makes of this mail."""

    sender_check: str = ""
    authserv_id: tuple[str, ...] = ()
    trusted: bool = False
    reason: str = ""  # a sentence


@dataclass(frozen=True, slots=True)
class Proposal:
    """What to write under [approvals] (nothing: what is written is right, or nothing better is known), and why."""

    settings: Mapping[str, object] = field(default_factory=dict)
    reason: str = ""  # a sentence
    sound: bool = False  # with this, mail from inside counts as authentic


def carriers(fields: Fields, token: str) -> tuple[str, ...]:
    """The names of the fields in which the token stands, as they are written there."""
    wanted = (*ADDRESSED, *ANSWERED)
    return tuple(
        dict.fromkeys(name for name, value in fields if name.lower() in wanted and token in _joined(value).lower())
    )


def order(fields: Fields) -> tuple[str, ...]:
    """Authentication-Results, Received and what Exchange says, as they stand on the mail, top to bottom."""
    return tuple(shown for name, value in fields if (shown := _shown(name.lower(), value)))


def _shown(name: str, value: str) -> str:
    if name == "received":
        return f"Received by {_host(value) or 'somebody who does not say'}"
    if name == _AUTH_AS:
        return printable(f"X-MS-Exchange-Organization-AuthAs: {value.strip()}")
    if name != "authentication-results":
        return ""
    read = authres.parse(value)
    if read is None:
        return "Authentication-Results that cannot be read"
    said = " ".join(f"{one.method}={one.result}" for one in read.results) or "none"
    return printable(f"Authentication-Results of {read.authserv_id or 'a server without a name'} ({said})")


def propose(fields: Fields, domain: str, host: str, in_force: InForce, signed: tuple[bool, str]) -> Proposal:
    """What follows for [approvals] from a mail of ours that came back.

    `domain`: of its From; `host`: the mailbox's server; `signed`: whether its signature was verified here, and why not.
    """
    if in_force.trusted and in_force.sender_check != "token-only":
        reason = f'with sender_check = "{in_force.sender_check}" a mail from {domain} counts: {in_force.reason}'
        return Proposal({}, reason, sound=True)
    found = _by_results(fields, domain)
    if found is not None and found.sound:
        return found
    if host.lower().rstrip(".") in EXCHANGE_ONLINE and authres.judge_microsoft_365(fields, domain).trusted:
        return Proposal(
            {"sender_check": "microsoft-365"}, authres.judge_microsoft_365(fields, domain).reason, sound=True
        )
    if signed[0]:
        return Proposal({"sender_check": "dkim"}, f"its signature holds: {signed[1]}", sound=True)
    if found is not None and in_force.sender_check in ("", "authentication-results"):
        return found
    return Proposal({}, f"{_why_not(fields, domain)}; and no signature of {domain} holds: {signed[1]}")


def _by_results(fields: Fields, domain: str) -> Proposal | None:
    """The servers whose results stand where only our own could have put them; None: there is none."""
    border = _border(fields)
    candidates = [name for at, name in _named(fields) if border is not None and at < border]
    verdicts = {name: authres.judge(fields, domain, [name]) for name in dict.fromkeys(candidates)}
    # The check itself must find it there, too.
    usable = {name: verdict for name, verdict in verdicts.items() if verdict.authserv_id == name}
    for name, verdict in sorted(usable.items(), key=lambda one: not one[1].trusted):
        settings = {"sender_check": "authentication-results", "authserv_id": [name]}
        if verdict.trusted:
            return Proposal(settings, f"{name} says {verdict.reason}, above the Received line of our MX", sound=True)
        doubt = f"{name} is the server to believe, but a mail from {domain} gets no pass from it: {verdict.reason}"
        return Proposal(settings, doubt)
    return None


def _why_not(fields: Fields, domain: str) -> str:
    """Why no Authentication-Results can be believed."""
    border, named = _border(fields), _named(fields)
    results = [value for name, value in fields if name.lower() == "authentication-results"]
    if not results:
        return "no Authentication-Results stands on it: the server checks no mail from inside, or does not say so"
    if border is None:
        return "no Received line stands on it, so nobody can tell who wrote its Authentication-Results"
    if below := [name for at, name in named if at > border]:
        by = _host(fields[border][1]) or "our MX"
        where = f"the Authentication-Results of {below[0]} stands below the Received line of {by}"
        if authres.judge(fields, domain, below[:1]).authserv_id != below[0]:
            return f"{where}: whoever sent the mail could have written it"
        return (
            f"{where}: whoever sent the mail could have written it, unless {by} takes mail from {below[0]} alone and "
            f"that server removes such lines from what comes in; only if you know that, name it in authserv_id yourself"
        )
    if len(named) < len(results):
        return "its Authentication-Results names no server, or cannot be read"
    return "its Authentication-Results is not where the check looks for it"


def _named(fields: Fields) -> list[tuple[int, str]]:
    """Where results with an authserv-id stand, and what it is."""
    found = []
    for at, (name, value) in enumerate(fields):
        if name.lower() == "authentication-results":
            read = authres.parse(value)
            if read is not None and read.authserv_id:
                found.append((at, read.authserv_id))
    return found


def _border(fields: Fields) -> int | None:
    """Where the Received line of our MX stands: the topmost that is not of the delivery itself (LMTP, RFC 3848)."""
    received = [at for at, (name, _) in enumerate(fields) if name.lower() == "received"]
    for at in received:
        if not _by(fields[at][1])["lmtp"]:
            return at
    return received[0] if received else None


def _host(received: str) -> str:
    return _by(received)["host"]


def _by(received: str) -> dict[str, str]:
    found = _BY.search(_without_comments(received))
    return (
        {key: (value or "").lower() for key, value in found.groupdict().items()} if found else {"host": "", "lmtp": ""}
    )


def _without_comments(text: str) -> str:
    for _ in range(authres.DEEPEST):
        shorter = _COMMENT.sub(" ", text[: authres.LONGEST])
        if shorter == text:
            break
        text = shorter
    return text


def _joined(value: str) -> str:
    """A folded field as one line."""
    return re.sub(r"\r?\n(?=[ \t])", "", value)
