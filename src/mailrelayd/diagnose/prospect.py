"""What the next poll would make of the mails that stand in a folder, told without reading or touching one. Pure."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from mailrelayd.approvals import token
from mailrelayd.inbound.protocols import Terms
from mailrelayd.inbound.values import Mailbox, Summary


@dataclass(frozen=True, slots=True)
class Known:
    """What the daemon remembers of a folder."""

    folder: str
    uidvalidity: int
    boundary: int = 1  # smaller UIDs were there before it
    finished: Collection[int] = field(default_factory=frozenset)  # read, or left


@dataclass(frozen=True, slots=True)
class Prospect:
    """How many mails would meet which fate. `held`: nothing is read at all, the account is held."""

    read: int = 0
    answers: int = 0  # of these, mails with a token: they are read first
    finished: int = 0  # read before, or left for good
    there_before: int = 0  # before the first contact: of these only answers to our own requests are read
    ignored: int = 0  # older than process_after or ignore_older_than allow
    oversize: int = 0
    held: bool = False


def limit(terms: Terms, now: float) -> datetime.datetime | None:
    """Mail from before is not read. `now`: seconds since the epoch."""
    limits = [terms.process_after] if terms.process_after else []
    if terms.ignore_older_than:
        limits.append(datetime.datetime.fromtimestamp(now - min(terms.ignore_older_than, now), datetime.UTC))
    return max(limits, default=None)


def boundary(terms: Terms, mailbox: Mailbox, known: Known | None) -> int | None:
    """The first UID that is not "there before us"; None: the account would be held (adopt = "refuse")."""
    if known is not None and (known.folder, known.uidvalidity) == (mailbox.name, mailbox.uidvalidity):
        return known.boundary
    if not mailbox.exists or terms.adopt == "all":
        return 1
    return None if terms.adopt == "refuse" else mailbox.uidnext or 2**32


def prospect(terms: Terms, mailbox: Mailbox, known: Known | None, mails: Iterable[Summary], now: float) -> Prospect:
    """The fate of `mails`, all that stand in the folder."""
    first = boundary(terms, mailbox, known)
    if first is None:
        return Prospect(held=True)
    same = known is not None and known.uidvalidity == mailbox.uidvalidity and known.folder == mailbox.name
    finished = known.finished if known is not None and same else frozenset()
    since = limit(terms, now)
    fates = Counter(_fate(mail, terms, finished, since, first) for mail in mails)
    return Prospect(
        read=fates["read"] + fates["answer"],
        answers=fates["answer"],
        finished=fates["finished"],
        there_before=fates["there before"],
        ignored=fates["ignored"],
        oversize=fates["oversize"],
    )


def _fate(mail: Summary, terms: Terms, finished: Collection[int], since: datetime.datetime | None, first: int) -> str:
    if mail.uid in finished:
        return "finished"
    if since is not None and mail.internal_date < since:
        return "ignored"
    if mail.size > terms.max_message_size:
        return "oversize"
    if has_token(mail):
        return "answer"
    return "there before" if mail.uid < first else "read"


def has_token(mail: Summary) -> bool:
    """Whether a token stands in its header; whose it is cannot be told without the daemon's state."""
    return bool(token.find(mail.header.decode("ascii", "replace").replace("\r\n", "\n")))


def sentence(outlook: Prospect, batch_size: int) -> str:
    """The prospect in words, about the next poll."""
    if outlook.held:
        return "the next poll would read none of them: nobody has said what is to become of mail that is there already"
    read = f"the next poll would read {outlook.read}"
    if outlook.answers:
        read += f" ({outlook.answers} with a token, which go first)"
    if outlook.read - outlook.answers > batch_size:
        read += f", of those without a token {batch_size} at a time"
    others = [
        (outlook.finished, "read before or left"),
        (outlook.there_before, "there before the first contact"),
        (outlook.ignored, "older than process_after or ignore_older_than allow"),
        (outlook.oversize, "larger than max_message_size"),
    ]
    passed = ", ".join(f"{count} {why}" for count, why in others if count)
    return f"{read} and pass by {passed}" if passed else read
