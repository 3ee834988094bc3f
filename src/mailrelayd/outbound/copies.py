"""Which copies a request for approval has, and whose turn it is: each approver's goes out alone. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from mailrelayd.outbound.addresses import person, same_mailbox
from mailrelayd.outbound.values import Admitted, ApprovalCopy, Attempt, Progress, QueuedMessage, Response, Stage, Status

_TOKEN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z2-7]{44}(?![A-Za-z0-9])", re.ASCII)
EXPIRED = Response(Stage.LOCAL, 0, "5.4.7", "the request is over: nobody may answer it any more")


def asking(message: QueuedMessage, admitted: Admitted) -> QueuedMessage:
    """The message with its copies, each for exactly one recipient in the spelling of the envelope.

    The same person may be written in two ways among recipients and approvers; nobody may get two tokens, or none.
    """
    recipients = dict.fromkeys(admitted.recipients)
    taken: set[str] = set()
    chosen: dict[int, str] = {}
    for spelling in (same_mailbox, person):
        known = {spelling(recipient): recipient for recipient in recipients if recipient not in taken}
        for number, copy in enumerate(admitted.copies):
            if number not in chosen and (recipient := known.pop(spelling(copy.recipient), None)) is not None:
                chosen[number] = recipient
                taken.add(recipient)
    copies = tuple(
        replace(copy, recipient=chosen.get(number, copy.recipient)) for number, copy in enumerate(admitted.copies)
    )
    recipients |= dict.fromkeys(copy.recipient for copy in copies)
    return replace(message, envelope=replace(message.envelope, recipients=tuple(recipients)), copies=copies)


def copy_for(message: QueuedMessage, recipients: Iterable[str]) -> ApprovalCopy | None:
    """The copy that goes out in a transaction for these recipients; None: what goes out is for everybody alike.

    Raises ValueError where somebody else would see it: such a transaction must never be made.
    """
    wanted = set(recipients)
    found = [copy for copy in message.copies if copy.recipient in wanted]
    if found and len(wanted) > 1:
        raise ValueError("an approver's copy would go to others as well")
    return found[0] if found else None


def together(message: QueuedMessage, due: tuple[str, ...]) -> tuple[str, ...]:
    """Of those whose turn it is, the ones that share a transaction: an approver alone, all others together."""
    approvers = {copy.recipient for copy in message.copies}
    if not due or not approvers:
        return due
    return due[:1] if due[0] in approvers else tuple(one for one in due if one not in approvers)


def expired(message: QueuedMessage, now: float) -> tuple[str, ...]:
    """The approvers who are still owed a copy that nobody may answer any more."""
    return tuple(copy.recipient for copy in unsent(message) if copy.expires_at <= now)


def unsent(message: QueuedMessage) -> tuple[ApprovalCopy, ...]:
    """The copies that are still owed."""
    if not message.copies:
        return ()
    records = message.progress.recipients
    return tuple(
        copy
        for copy in message.copies
        if (record := records.get(copy.recipient)) is None or record.status is Status.DEFERRED
    )


def newly_settled(message: QueuedMessage, progress: Progress) -> tuple[ApprovalCopy, ...]:
    """The copies that were sent or given up and were neither before."""
    before, after = message.progress.recipients, progress.recipients
    return tuple(
        copy
        for copy in message.copies
        if (record := after.get(copy.recipient)) is not None
        and record.status is not Status.DEFERRED
        and ((old := before.get(copy.recipient)) is None or old.status is not record.status)
    )


def masked(text: str) -> str:
    """The text with every token in it left out."""
    return _TOKEN.sub("[token]", text)


def without_tokens(attempt: Attempt) -> Attempt:
    """The attempt as it may be told: some servers repeat the Message-ID, and producers and logs hear what they say."""

    def told(response: Response) -> Response:
        return replace(response, text=masked(response.text))

    outcomes = tuple(replace(one, response=told(one.response)) for one in attempt.outcomes)
    route, cut = (one and told(one) for one in (attempt.route, attempt.cut))
    return replace(attempt, outcomes=outcomes, route=route, cut=cut)
