"""What a mailbox's server can do, and whose accounts these are, as far as requests and answers are concerned.

Decided without asking anybody: what was seen is an argument.
"""

from __future__ import annotations

from mailrelayd.config.answering import InboundAccount
from mailrelayd.config.relaying import OutboundAccount
from mailrelayd.diagnose.steps import Outcome, Step
from mailrelayd.outbound.addresses import person
from mailrelayd.outbound.answers import printable


def removal(mailbox: InboundAccount, able: frozenset[str]) -> Step:
    """Whether mails that were read leave the folder as `after` says."""
    where = f"inbound.{mailbox.name}"
    has = [word for word in ("UIDPLUS", "MOVE") if word in able]
    data: dict[str, object] = {"uidplus": "UIDPLUS" in able, "move": "MOVE" in able, "after": mailbox.after}
    offers = " and ".join(has) or "neither UIDPLUS nor MOVE"
    if mailbox.after == "keep":
        return Step(where, "removal", Outcome.OK, f'{offers}; nothing is removed (after = "keep")', data=data)
    if mailbox.after == "delete" and "UIDPLUS" in able:
        text = f"{offers}: mails that were read are removed one by one"
        return Step(where, "removal", Outcome.OK, text, data=data)
    if mailbox.after != "delete" and has:
        target = mailbox.after.partition(":")[2]
        return Step(
            where, "removal", Outcome.OK, printable(f"{offers}: mails that were read go to {target}"), data=data
        )
    cure = 'Write after = "keep", or "move:FOLDER" where the server can MOVE, or empty the folder by hand.'
    return Step(
        where,
        "removal",
        Outcome.WARNING,
        f"{offers}: mails that were read stay, only marked as deleted",
        "The server cannot remove single mails, and all that are marked would include what others have marked.",
        cure,
        f"{where}.after",
        data=data,
    )


def news(mailbox: InboundAccount, able: frozenset[str]) -> Step:
    """How soon new mail is noticed."""
    where = f"inbound.{mailbox.name}"
    data = {"idle": "IDLE" in able}
    every = f"every {mailbox.poll_interval:g} s"
    if not mailbox.idle:
        return Step(where, "idle", Outcome.OK, f"new mail is looked for {every} (idle = false)", data=data)
    if "IDLE" in able:
        return Step(where, "idle", Outcome.OK, f"IDLE: new mail is noticed at once, and looked for {every}", data=data)
    return Step(where, "idle", Outcome.OK, f"no IDLE: new mail is looked for {every}", data=data)


def belonging(mailbox: InboundAccount, reply_address: str, user: str, *, linked: bool) -> Step:
    """Whether the folder of this user is where answers go."""
    where = f"inbound.{mailbox.name}"
    local, _, domain = reply_address.rpartition("@")
    data = {"user": user, "reply_address": reply_address}
    if "@" not in user and user.casefold() == local.casefold():
        return Step(where, "addresses", Outcome.OK, f"answers go to {reply_address}, the user's own name", data=data)
    if person(user) == person(reply_address):
        return Step(where, "addresses", Outcome.OK, f"answers go to {reply_address}, which is the user's", data=data)
    text = f"answers go to {reply_address}, and the folder is that of {user}"
    if linked:
        return Step(where, "addresses", Outcome.OK, f"{text}; whether they meet is tried below", data=data)
    apart = user.rpartition("@")[2].casefold() not in (user.casefold(), domain.casefold())
    other = ", and the two are of different domains" if apart else ""
    return Step(
        where,
        "addresses",
        Outcome.WARNING,
        printable(text),
        f"Answers come in only where {reply_address} is another name of {user}, or a group that it belongs to{other}.",
        "Prove it by `mailrelayd test --loop`, or correct reply_address or user.",
        "approvals.reply_address",
        data=data,
    )


def sending(account: OutboundAccount, sender: str, user: str) -> Step:
    """Whether the user may be expected to send as this address; some servers refuse everybody but its owner."""
    where = f"outbound.{account.name}"
    data = {"user": user, "sender": sender}
    who = f"the user {user}" if user else "no user"
    text = printable(f"mail goes out from {sender}, by {who}")
    if "@" not in user or user.rpartition("@")[2].casefold() == sender.rpartition("@")[2].casefold():
        return Step(where, "addresses", Outcome.OK, text, data=data)
    return Step(
        where,
        "addresses",
        Outcome.WARNING,
        text,
        "The two are of different domains: many servers refuse that, or the mail fails SPF and DMARC where it arrives.",
        "Write an address of the user as from_address, or see by a test mail that it comes through.",
        f"{where}.from_address",
        data=data,
    )
