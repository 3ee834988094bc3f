"""What becomes of one mail: the one place where an approval can come into being. Pure.

Each step can only take an approval away. What is left at the end has a token that we issued, for a request that is
open, in a mail whose one From address is the approver's or a delegate's, which the configured check authenticated,
and whose newly written text begins with the decision.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from mailrelayd.approvals.bounces import Bounce, Fate
from mailrelayd.approvals.request import Copy, Request, State, same
from mailrelayd.approvals.token import Token
from mailrelayd.approvals.values import Decision, Kind, Reading
from mailrelayd.outbound.addresses import AddressError, read_list

_LONGEST_FROM = 2000  # characters
# RFC 5322 section 3.4 without what only makes room for doubt: groups, lists, source routes, comments inside.
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.\u0080-\U0010ffff-]++"
_MAILBOX = re.compile(
    rf"""\s*(?:(?P<name>(?:"(?:[^"\\\r\n]|\\.)*+"|{_ATOM}|\s++)*)<(?P<angle>[^<>\s"(),:;\\\[\]]+)>
            |(?P<bare>[^<>\s"(),:;\\\[\]]+))\s*(?:\([^()\\]*\))?\s*""",
    re.VERBOSE,
)


class Outcome(StrEnum):
    """What a mail turned out to be. The first nine become documents for the sinks."""

    APPROVED = "approved"
    REJECTED = "rejected"
    UNCLEAR = "unclear"
    UNTRUSTED = "untrusted"
    EXPIRED = "expired"
    DUPLICATE = "duplicate"
    CONFLICTING = "conflicting"
    UNDELIVERABLE = "undeliverable"
    CANCELLED = "cancelled"
    AUTO_REPLY = "auto-reply"
    BOUNCE = "bounce"
    LIST = "list"
    CALENDAR = "calendar"
    FOREIGN = "foreign"
    UNMATCHED = "unmatched"
    UNREADABLE = "unreadable"
    OVERSIZE = "oversize"
    IGNORED = "ignored"


TOLD = frozenset(list(Outcome)[:9])  # what sinks hear of
FINAL = frozenset({Outcome.APPROVED.value, Outcome.REJECTED.value})  # what a person decided


@dataclass(frozen=True, slots=True)
class Sender:
    """What is known of who wrote a mail. `address`: its one From address, "" where there is no such thing."""

    address: str
    authentic: bool
    reason: str  # of that, as a sentence
    method: str = ""  # authentication-results, dkim, microsoft-365, token-only
    authserv_id: str = ""
    dmarc: str = ""
    dkim: str = ""
    spf: str = ""
    tokens: frozenset[str] | None = None  # those that what authenticates the sender covers; None: all of the mail


@dataclass(frozen=True, slots=True)
class Found:
    """A token in a mail, and the request it leads to; `genuine`: we issued it to the approver of that copy."""

    token: Token
    request: Request | None = None
    genuine: bool = False

    @property
    def copy(self) -> Copy | None:
        """The copy it was issued for."""
        return self.request.copy(self.token.copy) if self.request is not None else None


@dataclass(frozen=True, slots=True)
class Judgement:
    """The outcome of one mail. `reason` is a stable code; `rules` says in words what led there."""

    outcome: Outcome
    reason: str
    request: Request | None = None
    copy: Copy | None = None
    token: Token | None = None
    decided_by: str = ""  # the address that answered
    on_behalf_of: str = ""  # the approver, where a delegate answered
    comment: str = ""
    rules: tuple[str, ...] = ()


def judge(
    reading: Reading,
    tokens: Sequence[Found],
    sender: Sender,
    arrived_at: float,
    *,
    delegates: Mapping[str, Sequence[str]],
    via_list: bool = False,
    bounce: Bounce | None = None,
) -> Judgement:
    """The outcome of a mail. `arrived_at`: the mailbox's word for when (INTERNALDATE), seconds since the epoch.

    `tokens`: every token found, those in the place that counts most first. `bounce`: what it says, if it is one.
    """
    genuine = [found for found in tokens if found.genuine]
    rules = reading.rules
    if reading.kind is Kind.UNREADABLE:
        return Judgement(Outcome.UNREADABLE, reading.reason, rules=rules)
    if not genuine:
        outcome = Outcome.FOREIGN if tokens else _OTHER.get(reading.kind, Outcome.UNMATCHED)
        return Judgement(outcome, "no-token-of-ours" if tokens else "no-token", rules=rules)
    requests = list(dict.fromkeys(found.request.queue_id for found in genuine if found.request))
    first = genuine[0]
    if reading.kind is Kind.BOUNCE and bounce is not None:
        return _bounced(genuine, bounce, arrived_at, rules)
    if reading.kind is not Kind.REPLY and not (reading.kind is Kind.LIST and via_list):
        outcome = _OTHER[reading.kind]
        return Judgement(outcome, reading.reason, first.request, first.copy, first.token, rules=rules)
    if len(requests) > 1:
        return Judgement(
            Outcome.UNCLEAR, "several-requests", first.request, first.copy, first.token, sender.address, rules=rules
        )
    return _person(reading, genuine, sender, arrived_at, delegates)


def _bounced(genuine: Sequence[Found], bounce: Bounce, arrived_at: float, rules: tuple[str, ...]) -> Judgement:
    """The outcome of a bounce. It may be forged by whoever has seen a copy, so it takes nobody's decision away."""
    about = {found.token.copy: found for found in genuine if found.request is not None and found.copy is not None}
    if len(about) > 1:  # several copies are repeated in it: it is about the ones whose approvers it names
        about = {
            number: found
            for number, found in about.items()
            if found.copy is not None and any(same(found.copy.approver, one) for one in bounce.recipients)
        }
    found = next(iter(about.values()), genuine[0])
    request, copy = found.request, found.copy
    assert request is not None
    assert copy is not None

    def outcome(what: Outcome, reason: str) -> Judgement:
        return Judgement(what, reason, request, copy, found.token, rules=rules)

    if len(about) != 1:
        return outcome(Outcome.BOUNCE, "several-copies")
    if bounce.fate is not Fate.FAILED:
        return outcome(Outcome.BOUNCE, bounce.fate.value)
    if copy.approver in request.decided:
        return outcome(Outcome.BOUNCE, "already-closed")
    if request.state(arrived_at) is not State.OPEN:
        return outcome(Outcome.BOUNCE, "request-over")
    return outcome(Outcome.UNDELIVERABLE, "bounced")


def _person(
    reading: Reading,
    genuine: Sequence[Found],
    sender: Sender,
    arrived_at: float,
    delegates: Mapping[str, Sequence[str]],
) -> Judgement:
    """The outcome of a reply with tokens of one request."""
    chosen, on_behalf_of = _whose(genuine, sender.address, delegates)
    request, copy, token = (chosen or genuine[0]).request, (chosen or genuine[0]).copy, (chosen or genuine[0]).token
    assert request is not None
    assert copy is not None

    def outcome(what: Outcome, reason: str, *, rule: str = "") -> Judgement:
        rules = (*reading.rules, rule) if rule else reading.rules
        return Judgement(
            what,
            reason,
            request,
            copy,
            token,
            sender.address,
            on_behalf_of,
            reading.comment,
            tuple(filter(None, rules)),
        )

    if not sender.address:
        return outcome(Outcome.UNTRUSTED, "no-single-sender", rule=sender.reason)
    if chosen is None:
        rule = f"the token was issued to {copy.approver}, not to {sender.address}"
        return outcome(Outcome.UNTRUSTED, "wrong-person", rule=rule)
    if not sender.authentic:
        return outcome(Outcome.UNTRUSTED, "sender-not-authenticated", rule=sender.reason)
    if sender.tokens is not None and str(token) not in sender.tokens:
        rule = "the token stands in no signed part of the mail (subject_tag or mark_body put it there)"
        return outcome(Outcome.UNTRUSTED, "token-not-signed", rule=rule)
    # A cancelled request's answers say so; what came after the end of it came too late, whoever reads it when.
    if request.cancelled_at:
        return outcome(Outcome.CANCELLED, "request-cancelled")
    if request.superseded_by:
        return outcome(Outcome.EXPIRED, "superseded")
    # Once the sinks were told that nobody answered, nobody has: whatever the date on a mail that turns up later.
    if request.expired_at or arrived_at >= min(request.expires_at, token.expires_at):
        return outcome(Outcome.EXPIRED, "too-late")
    if reading.decision not in (Decision.APPROVED, Decision.REJECTED):
        return outcome(Outcome.UNCLEAR, reading.reason)
    before = request.decided.get(copy.approver)
    if before is not None and before.outcome in FINAL:
        if before.outcome == reading.decision.value:
            return outcome(Outcome.DUPLICATE, "same-decision-again")
        return outcome(Outcome.CONFLICTING, "opposite-decision")
    return outcome(Outcome(reading.decision.value), reading.reason)


def _whose(genuine: Sequence[Found], address: str, delegates: Mapping[str, Sequence[str]]) -> tuple[Found | None, str]:
    """The token that was issued to the sender (reply-all brings several), or to whom they stand in for, and to whom."""
    if not address:
        return None, ""
    for found in genuine:
        if found.copy is not None and same(found.copy.approver, address):
            return found, ""
    for found in genuine:
        if found.copy is None:
            continue
        for boss, deputies in delegates.items():
            if same(boss, found.copy.approver) and any(same(one, address) for one in deputies):
                return found, found.copy.approver
    return None, ""


def single_address(fields: Sequence[str]) -> str:
    """The one address of the one From field, or "": what could be read in two ways is no sender.

    `fields`: the raw contents of every From field. No groups, lists, routes; encoded words only in the display name.
    """
    if len(fields) != 1 or len(fields[0]) > _LONGEST_FROM:
        return ""
    text = re.sub(r"\r?\n(?=[ \t])", "", fields[0])
    found = _MAILBOX.fullmatch(text.strip("\r\n"))
    if found is None:
        return ""
    address = found["angle"] or found["bare"]
    if not address.isascii() or "=?" in address:
        return ""
    try:
        return address if read_list(address) == [address] else ""
    except AddressError:
        return ""


_OTHER = {
    Kind.AUTO_REPLY: Outcome.AUTO_REPLY,
    Kind.BOUNCE: Outcome.BOUNCE,
    Kind.LIST: Outcome.LIST,
    Kind.CALENDAR: Outcome.CALENDAR,
}
