"""What a person is told about their own answer, where [approvals] receipts asks for it. Pure.

Written so that no two programs can talk to each other through it (RFC 3834, RFC 5230 section 4.5): only to somebody who
is proven to have written, at most once a day and request, from the null sender, marked as automatic. It repeats nothing
of what was written to us, and no line of it begins with a word that decides anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from mailrelayd.approvals.judge import Judgement, Outcome, Sender
from mailrelayd.approvals.request import Request, same
from mailrelayd.approvals.values import Kind, Reading
from mailrelayd.outbound import headers
from mailrelayd.outbound.asking import Asking

EVERY = 86_400.0  # seconds between two receipts for one person and request
REMEMBERED = 1000  # people per request of whom it is known when they were told
LONGEST_SUBJECT = 150  # characters
RULE = "receipt"  # how its envelope was found: we made it

_MESSAGE_ID = re.compile(r"<[!-;=?-~]{1,250}>")
_HOW = (
    "To answer, reply to this mail, or again to the request. In the very first line",
    'write only the word "Approved" or only the word "Rejected", and nothing else.',
    "A comment may follow in the lines below it.",
)
_UNCLEAR = {
    "no-keyword": "the first line is not a decision",
    "empty": "there is no newly written text in it",
    "no-text": "there is no text in it that can be read",
    "encrypted": "it is encrypted",
    "text-behind-keyword": "more than the decision stands in the first line",
    "not-bare": "an approval must not be followed by any other text here",
    "question": "it holds a question",
    "doubt": "it holds a word of doubt",
    "contradiction": "it says both yes and no",
    "forwarded": "it was forwarded, not answered",
    "alternatives-differ": "its plain text and its formatted text differ",
    "several-requests": "it answers several requests at once; each needs an answer of its own",
}
_OTHER = "it cannot be read in one way only; plain text without formatting helps"
_TOLD = {
    Outcome.APPROVED: "Your answer was recorded: the request is approved by you.",
    Outcome.REJECTED: "Your answer was recorded: the request is rejected by you.",
    Outcome.DUPLICATE: "Your answer was recorded before; nothing has changed.",
    Outcome.CONFLICTING: "You had answered the opposite before. The first answer counts, and nothing has changed.",
    Outcome.EXPIRED: "Your answer came when it could not count any more: the request is over.",
    Outcome.CANCELLED: "Your answer does not count: the request was cancelled.",
}


def wanted(mode: str, judgement: Judgement, reading: Reading, sender: Sender) -> bool:
    """Whether this person is to be told what became of their answer. `mode`: [approvals] receipts."""
    copy = judgement.copy
    if reading.kind is not Kind.REPLY or not sender.authentic or judgement.request is None or copy is None:
        return False
    if not same(copy.approver, sender.address) and not judgement.on_behalf_of:
        return False
    return (
        judgement.outcome is Outcome.UNCLEAR
        if mode == "unclear"
        else mode == "all" and (judgement.outcome is Outcome.UNCLEAR or judgement.outcome in _TOLD)
    )


def noted(request: Request, address: str, now: float) -> Mapping[str, float] | None:
    """Who was told about this request when, with this one; None: this one was told within a day, or too many were."""
    key = address.lower()
    recent = {who: at for who, at in request.receipts.items() if now - at < EVERY}
    if key in recent or len(recent) >= REMEMBERED:
        return None
    return {**recent, key: now}


def receipt(judgement: Judgement, sender: Sender, asking: Asking, *, id: str, answered: str, now: float) -> bytes:
    """The whole mail, CRLF throughout, ASCII only. `id`: the decision's; `answered`: the Message-ID of the answer.

    For a judgement that is `wanted`. The same decision gives the same Message-ID.
    """
    request = judgement.request
    assert request is not None
    token = str(judgement.token)
    about = [answered] if _MESSAGE_ID.fullmatch(answered) else []
    references = [*about, f"<{token}@{asking.node}>"]
    tag = f" [#{token}]" if asking.subject_tag or not asking.subaddressing else ""
    top = [
        f"From: <{asking.reply_address}>",
        f"To: <{sender.address}>",
        f"Subject: Re: {_subject(request)}{tag}",
        f"Date: {headers.date(now)}",
        f"Message-ID: <{id}.receipt@{asking.node}>",
        *(f"In-Reply-To: {one}" for one in about),
        "References: " + "\r\n ".join(references),
        f"Reply-To: {asking.reply_to(token)}",
        "Auto-Submitted: auto-replied",
        "X-Auto-Response-Suppress: All",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=us-ascii",
        "Content-Transfer-Encoding: 7bit",
    ]
    return "\r\n".join([*top, "", *_text(judgement, request)]).encode("ascii", "backslashreplace") + b"\r\n"


def _text(judgement: Judgement, request: Request) -> list[str]:
    about = ["Your answer to this request has been read:", "", f"  * {_subject(request)}", ""]
    if judgement.outcome is Outcome.UNCLEAR:
        why = _UNCLEAR.get(judgement.reason, _OTHER)
        return [*about, "It was not understood, and nothing has been decided:", f"{why}.", "", *_HOW]
    return [*about, _TOLD[judgement.outcome], "", "This mail needs no answer."]


def _subject(request: Request) -> str:
    """Of the request, as it was written: encoded words stay encoded, everything else becomes plain ASCII."""
    text = " ".join("".join(c if c.isprintable() else " " for c in request.subject).split())
    ascii_text = text.encode("ascii", "backslashreplace").decode() or request.request_id
    ascii_text = ascii_text.encode("ascii", "backslashreplace").decode()
    return ascii_text if len(ascii_text) <= LONGEST_SUBJECT else f"{ascii_text[:LONGEST_SUBJECT]}..."
