"""What a bounce says: which copies of ours it is about, and whether delivery has failed for good. Pure.

A bounce comes to whoever sent the mail, so no token of ours need stand in its own header; it stands in what the
bounce repeats of our mail, however that is attached, quoted or encoded (RFC 3464, RFC 3462, and the programs that
knew neither). Nobody signs a bounce: who has seen a copy could forge one. So it never decides anything; it only tells
that an answer may not come, and a later genuine answer counts all the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from itertools import takewhile

from mailrelayd.approvals.bodies import bodies
from mailrelayd.approvals.charsets import decode_transfer
from mailrelayd.approvals.mime import Mail, Part
from mailrelayd.approvals.token import Token, find
from mailrelayd.approvals.tokens import all_tokens
from mailrelayd.approvals.words import fold, plain

MAX_SEARCHED = 200_000  # bytes of a mail, and of what its parts decode to, in which tokens are looked for
MAX_STATUS = 50_000  # bytes of a delivery status
MAX_RECIPIENTS = 1000
MAX_TEXT = 8_000  # characters of the text that are read for what happened

_STATUS = ("message/delivery-status", "message/global-delivery-status")
# Only where a word begins: else every one of its letters is a new beginning, and long words take for ever.
_ADDRESS = re.compile(r"(?<![^\s<>;,()\"])[^\s<>;,()\"@]++@[^\s<>;,()\"]++")
_FOLD = re.compile(r"\n[ \t]+")
_ACTION = re.compile(r"(?im)^action[ \t]*:[ \t]*([a-z]+)")
_CLASS = re.compile(r"(?im)^status[ \t]*:[ \t]*([245])\.\d{1,3}\.\d{1,3}")
_RECIPIENT = re.compile(r"(?im)^(?:final|original)-recipient[ \t]*:[ \t]*(?:[a-z0-9-]+[ \t]*;)?[ \t]*(.+)$")
_REPEATED = re.compile(r"(?i)[ \t>]*(?:received|return-path|message-id|mime-version|dkim-signature)[ \t]*:")

# In the subject or the text of programs that write no delivery status, or besides it; in lower case, without accents.
_STILL_TRYING = re.compile(
    r"\bdelayed\b|\bdelivery delay|\(delay\)|\bdelivery is delayed|still being retried|still trying|keep(?:s)? trying"
    r"|will (?:be )?(?:retry|retried|continue|try again|keep)|has not yet been delivered|not yet been delivered"
    r"|do(?:es)? not need to resend|no action is required|warning: (?:could not send|message)|temporar(?:y|ily)"
    r"|verzogert|wird weiterhin versucht|noch nicht zugestellt|retarde|aplazad|ritardat|vertraagd"
)
_GIVEN_UP = re.compile(
    r"undeliver|not be delivered|n't be delivered|not been delivered|wasn't delivered|delivery (?:has )?failed"
    r"|delivery (?:status notification \(failure\)|failure)|delivery to .{0,200} failed|failure notice"
    r"|failed permanently|failed recipient|returned mail|return(?:ed|ing) (?:message )?to sender"
    r"|permanent (?:fatal )?(?:error|failure)"
    r"|giving up|given up|i'm not going to try|could not deliver|unable to deliver|couldn't deliver|user unknown"
    r"|unknown user|no such user|mailbox (?:is )?(?:full|unavailable)|does not exist|address rejected"
    r"|unzustellbar|nicht zugestellt|nicht ausgeliefert|non remis|pas pu etre (?:remis|distribue)|echec de la remise"
    r"|no se (?:ha )?(?:pudo|podido) entregar|non recapitat|impossibile recapitare|niet (?:worden )?bezorgd"
    r"|nao (?:foi )?entregue|nie dostarczon|не доставлен|不达|退信"
)
_CODE = re.compile(
    r"(?<![\d.])5[0-5]\d[ -](?:#?5\.\d{1,3}\.\d{1,3}\b|[^\n]{0,200}(?:user|mailbox|recipient|address|relay))"
)


class Fate(StrEnum):
    """What a bounce says about its mail."""

    FAILED = "failed"  # it will not be delivered
    DELAYED = "delayed"  # it is still being tried
    DELIVERED = "delivered"  # it arrived, or went where nothing more is heard of it
    UNKNOWN = "unknown"  # the bounce does not say


@dataclass(frozen=True, slots=True)
class Bounce:
    """What one bounce says. `recipients`: those whom it names as failed, as they are written there."""

    fate: Fate
    tokens: tuple[Token, ...]
    recipients: tuple[str, ...] = ()


def read(mail: Mail) -> Bounce:
    """Any mail gives a Bounce; whether it is one, `kinds` says."""
    fate, recipients = _fate(mail)
    return Bounce(fate, _tokens(mail), recipients)


def _tokens(mail: Mail) -> tuple[Token, ...]:
    """Every token in it, those in its own header first; then raw, then in what its parts decode to."""
    found = dict.fromkeys(all_tokens(mail))
    found.update(dict.fromkeys(find(_ascii(mail.data[:MAX_SEARCHED]))))
    left = MAX_SEARCHED
    for part in mail.parts():
        if part.children or left <= 0:
            continue
        for text in _texts(mail, part, left):
            left -= len(text)
            found.update(dict.fromkeys(find(text)))
    return tuple(found)


def _texts(mail: Mail, part: Part, limit: int) -> list[str]:
    """A part as it decodes; and decoded once more, where a mail in it says that it is encoded in its turn.

    A copy of ours that is repeated in base64 holds its own body, in base64 again; but its header, which is what
    counts, stands in the clear after the first step. Soft line breaks of quoted-printable cut a token in two.
    """
    raw = mail.data[part.start : part.end][: 2 * limit]
    once, _ = decode_transfer(raw, part.encoding)
    texts = [_ascii(once[:limit])]
    if b"=\n" in once or b"=\r\n" in once or b"=2B" in once or b"=2b" in once or b"=3C" in once:
        texts.append(_ascii(decode_transfer(once[:limit], "quoted-printable")[0]))
    return texts


def _fate(mail: Mail) -> tuple[Fate, tuple[str, ...]]:
    """What the part for programs says; where there is none, what the words say."""
    actions: list[Fate] = []
    recipients: list[str] = []
    for part in mail.parts():
        if part.media in _STATUS:
            raw, _ = decode_transfer(mail.data[part.start : part.end][:MAX_STATUS], part.encoding)
            text = _FOLD.sub(" ", raw.decode("utf-8", "replace").replace("\r\n", "\n"))
            for block in re.split(r"\n[ \t]*\n", text)[: MAX_RECIPIENTS + 1]:
                if (fate := _of_recipient(block)) is not None:
                    actions.append(fate)
                    if fate is Fate.FAILED:
                        recipients += [one[1].strip().strip("<>") for one in _RECIPIENT.finditer(block)]
    failed = _ADDRESS.findall(" ".join(mail.values("x-failed-recipients"))[:MAX_STATUS])  # Exim's, and Gmail's
    if failed and not actions:
        return Fate.FAILED, tuple(failed[:MAX_RECIPIENTS])
    for fate in (Fate.FAILED, Fate.DELAYED, Fate.DELIVERED):
        if fate in actions:
            return fate, tuple(dict.fromkeys(recipients))
    return _by_words(mail), ()


def _of_recipient(block: str) -> Fate | None:
    """RFC 3464 section 2.3.3: the action counts; the status only where there is none. None: not about a recipient."""
    action, status = _ACTION.search(block), _CLASS.search(block)
    if action is not None:
        return {
            "failed": Fate.FAILED,
            "delayed": Fate.DELAYED,
            "delivered": Fate.DELIVERED,
            "relayed": Fate.DELIVERED,
            "expanded": Fate.DELIVERED,
        }.get(action[1].lower(), Fate.UNKNOWN)
    if status is not None:
        return {"5": Fate.FAILED, "4": Fate.DELAYED, "2": Fate.DELIVERED}[status[1]]
    return None


def _by_words(mail: Mail) -> Fate:
    """qmail, Exim, sendmail of old, Exchange: a text for people, and the mail it is about below it."""
    lines = [line for body in bodies(mail).renditions[:1] for line in body.lines]
    own = takewhile(lambda line: not _REPEATED.match(line), lines)  # what follows is our mail's, not the program's
    for said in (mail.first("subject")[:500], "\n".join(own)[:MAX_TEXT]):
        text = plain(fold(said))
        if _STILL_TRYING.search(text) and not re.search(r"permanent|giving up|given up|not going to try", text):
            return Fate.DELAYED
        if _GIVEN_UP.search(text) or _CODE.search(text):
            return Fate.FAILED
    if any(field.name == "x-ms-exchange-message-is-ndr" for field in mail.fields):
        return Fate.FAILED
    return Fate.UNKNOWN


def _ascii(data: bytes) -> str:
    return data.decode("ascii", "replace")
