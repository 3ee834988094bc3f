"""The values that flow from a mail in the mailbox to what it says.

**Reply** is a person's mail. A **reading** is what was made of one mail: its kind and, for a reply, the decision.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum


class Kind(StrEnum):
    """What sort of mail it is. Only a reply can carry a decision."""

    REPLY = "reply"
    AUTO_REPLY = "auto-reply"  # vacation notices, read receipts, mail that says a machine wrote it (RFC 3834)
    BOUNCE = "bounce"  # delivery status reports (RFC 3464) and their older relatives
    LIST = "list"  # came over a mailing list (RFC 2919)
    CALENDAR = "calendar"  # an answer to an invitation (RFC 5546), whatever it "accepts"
    UNREADABLE = "unreadable"  # no mail, or beyond a bound


class Decision(StrEnum):
    """What a reply says."""

    APPROVED = "approved"
    REJECTED = "rejected"
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class Options:
    """How replies are read: the keys of the same names in [approvals]."""

    approve: tuple[str, ...] = ()  # words besides the built-in ones
    reject: tuple[str, ...] = ()
    same_line_comment: bool = False
    require_bare_approval: bool = False
    boilerplate: tuple[str, ...] = ()
    via_list: bool = False

    @classmethod
    def of(cls, section: object) -> Options:
        """What a configuration's [approvals] says: its attributes of the same names."""
        return cls(**{one.name: getattr(section, one.name) for one in fields(cls)})


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the new text of one rendition of a reply says. `reason` is a stable code."""

    decision: Decision
    reason: str
    comment: str = ""
    rules: tuple[str, ...] = ()  # the rules that fired, in words


@dataclass(frozen=True, slots=True)
class Reading:
    """What was made of one mail. `decision` is None exactly where `kind` is not a reply."""

    kind: Kind
    decision: Decision | None
    reason: str
    comment: str = ""
    new_text: str = ""
    rules: tuple[str, ...] = ()
