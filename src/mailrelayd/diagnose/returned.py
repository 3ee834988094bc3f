"""What became of a probe, as steps: where it came, what stands on it, which settings follow, or why it did not come."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from mailrelayd.approvals.judge import Sender
from mailrelayd.config.answering import Approvals
from mailrelayd.diagnose import authserv
from mailrelayd.diagnose.authserv import Fields, InForce, Proposal
from mailrelayd.diagnose.steps import CONFIGURATION, REFUSED, TEMPORARY, Outcome, Step
from mailrelayd.outbound.answers import printable
from mailrelayd.outbound.headers import Unreadable, split_header

_WHY: Final = re.compile(r"(?im)^diagnostic-code[ \t]*:[ \t]*([^\n]+(?:\n[ \t][^\n]+)*)")  # RFC 3464 section 2.3.6


@dataclass(frozen=True, slots=True)
class Returned:
    """A probe that came back. `configured` and `signed`: what the check in force, and the signature, say of it."""

    token: str
    sender: str
    host: str  # the mailbox's server
    configured: Sender
    signed: Sender


def arrived(where: str, folder: str, uid: int, seconds: float) -> Step:
    """It stands in the folder that is read."""
    text = printable(f"the probe came into {folder} after {seconds:.1f} s, as the mail with UID {uid}")
    return Step(where, "arrival", Outcome.OK, text, data={"folder": folder, "uid": uid, "seconds": round(seconds, 3)})


def read(where: str, data: bytes, approvals: Approvals, probe: Returned) -> list[Step]:
    """What stands on it."""
    header = split_header(data, complete=False)
    if isinstance(header, Unreadable):
        return [Step(where, "address", Outcome.WARNING, printable(f"its header cannot be read: {header.reason}"))]
    fields = [(one.name, one.text) for one in header.fields]
    domain = probe.sender.rpartition("@")[2].lower()
    in_force = InForce(
        approvals.sender_check, tuple(approvals.authserv_id), probe.configured.authentic, probe.configured.reason
    )
    proposal = authserv.propose(fields, domain, probe.host, in_force, (probe.signed.authentic, probe.signed.reason))
    return [
        addressed(where, fields, approvals, probe.token),
        _standing(where, fields, domain),
        settled(proposal, in_force, domain),
    ]


def addressed(where: str, fields: Fields, approvals: Approvals, token: str) -> Step:
    """Whether the plus-address survived, and which fields carry it."""
    names = authserv.carriers(fields, token)
    addresses = [name for name in names if name.lower() in authserv.ADDRESSED]
    others = [name for name in names if name not in addresses]
    data = {"fields": list(names), "survived": bool(addresses)}
    elsewhere = ", ".join(others) or "no other field that is looked at"
    if not approvals.subaddressing:
        text = f"without subaddressing, the token stands in {elsewhere}"
        return Step(where, "address", Outcome.OK, printable(text), data=data)
    if addresses:
        text = f"the plus-address survived: it stands in {', '.join(addresses)}"
        return Step(where, "address", Outcome.OK, printable(text), data=data)
    return Step(
        where,
        "address",
        Outcome.WARNING,
        printable(f"the plus-address is gone; the token stands in {elsewhere}"),
        "A server on the way rewrites the recipient, so an answer is known by its References alone.",
        "Have the server keep the address, or write subject_tag = true, so that the subject carries the token as well.",
        "approvals.subject_tag",
        data=data,
    )


def _standing(where: str, fields: Fields, domain: str) -> Step:
    found = authserv.order(fields)
    text = printable(f"what a mail from {domain} gets, top to bottom: {'; '.join(found) or 'nothing'}")
    return Step(where, "authentication", Outcome.OK, text, data={"order": list(found)})


def settled(proposal: Proposal, in_force: InForce, domain: str) -> Step:
    """What follows for [approvals]."""
    data = {"proposal": dict(proposal.settings), "trusted": in_force.trusted}
    text = printable(proposal.reason)
    if not proposal.settings and proposal.sound:
        return Step("approvals", "sender_check", Outcome.OK, text, data=data)
    ids = proposal.settings.get("authserv_id", list(in_force.authserv_id))
    same = (in_force.sender_check, list(in_force.authserv_id)) == (proposal.settings.get("sender_check"), ids)
    if not proposal.settings or same:
        cause = f"An answer that comes as this mail came would be untrusted: nothing proves that it is from {domain}."
        cure = "Have your MX check mail from inside, too, and say so in Authentication-Results, or sign it (DKIM)."
        return Step(
            "approvals", "sender_check", Outcome.WARNING, text, cause, cure, "approvals.sender_check", data=data
        )
    lines = " and ".join(f"{key} = {json.dumps(value)}" for key, value in proposal.settings.items())
    cause = "It is not said how answers are authenticated."
    if in_force.sender_check == "token-only":
        cause = "With token-only, whoever gets hold of a copy may decide, and more can be had here."
    elif in_force.sender_check:
        cause = printable(f"As it is configured, an answer that comes like this would be untrusted: {in_force.reason}.")
    key = "authserv_id" if in_force.sender_check == proposal.settings["sender_check"] else "sender_check"
    return Step(
        "approvals",
        "sender_check",
        Outcome.WARNING,
        text,
        cause,
        f"Write {lines} in [approvals].",
        f"approvals.{key}",
        data=data,
    )


def refused(step: Step, approvals: Approvals, address: str) -> Step:
    """The failed step of the sending; the recipient was refused perhaps because it is an address with a token."""
    if step.name != "recipient" or step.status != REFUSED:
        return step
    if not approvals.subaddressing:
        cure = "Correct reply_address, or have the server take mail for it."
        return replace(
            step,
            cause=f"The server takes no mail for {address}.",
            cure=cure,
            setting="approvals.reply_address",
            status=CONFIGURATION,
        )
    return replace(
        step,
        cause=f"The server takes no mail for {address}: it knows no plus-addresses, or not this reply_address.",
        cure="Have it take them, or write subaddressing = false: the token then travels in References alone.",
        setting="approvals.subaddressing",
        status=CONFIGURATION,
    )


def bounced(where: str, approvals: Approvals, address: str, data: bytes, uid: int) -> Step:
    """It came back as undeliverable."""
    why = _WHY.search(data.decode("utf-8", "replace").replace("\r\n", "\n"))
    reason = " ".join(why[1].split()) if why else "it does not say why"
    cause = "The server behind the smarthost does not know this address."
    cure, key = "Correct reply_address, or have that server take mail for it.", "reply_address"
    if approvals.subaddressing:
        cure, key = "Have it take plus-addresses, or write subaddressing = false.", "subaddressing"
    text = printable(f"the probe to {address} came back as undeliverable: {reason}")
    return Step(
        where, "arrival", Outcome.FAILED, text, cause, cure, f"approvals.{key}", CONFIGURATION, data={"uid": uid}
    )


def filed(where: str, folder: str, wanted: str, uid: int) -> Step:
    """It stands in another folder than the one that is read."""
    return Step(
        where,
        "arrival",
        Outcome.FAILED,
        printable(f"the probe was filed in {folder}, and not in {wanted}"),
        "A rule or a filter files it where nobody here looks, or this is the server's own copy of what is sent.",
        "Change the rule, or write the name of that folder; where it is for sent mail, correct reply_address.",
        f"{where}.folder",
        CONFIGURATION,
        data={"folder": folder, "uid": uid},
    )


def missing(where: str, folders: Sequence[str], address: str, reply_address: str, patience: float) -> Step:
    """It came nowhere, within so many seconds."""
    return Step(
        where,
        "arrival",
        Outcome.FAILED,
        printable(f"the probe to {address} did not come into {', '.join(folders)} within {patience:g} s"),
        f"It is still on its way, or mail for {reply_address} goes into another mailbox.",
        "Wait longer (--timeout), look into the smarthost's log, or correct reply_address.",
        "approvals.reply_address",
        TEMPORARY,
    )
