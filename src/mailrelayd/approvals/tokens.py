"""Where tokens stand in a mail, the place that counts most first. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable

from mailrelayd.approvals.bodies import bodies
from mailrelayd.approvals.mime import Mail
from mailrelayd.approvals.token import Token, find

_ADDRESSED = ("to", "cc", "delivered-to", "x-original-to", "envelope-to")
_ANSWERED = ("in-reply-to", "references")
# FlexDeploy's block; quoted, wrapped, and with the marks that clients put in front of quoted lines.
_REFERENCE = re.compile(r"(?im)^[ \t>|*]*reference[ \t]*:[ \t]*\**[ \t]*(?:\n[ \t>|*]*)?([a-z2-7 \t>|\n]{44,80})")
_LONGEST = 200_000  # characters of a body that are searched


def tokens_in(mail: Mail) -> tuple[Token, ...]:
    """The tokens of the first place that holds any: addresses, references, the Reference block, the subject."""
    return next((found for place in _PLACES if (found := place(mail))), ())


def all_tokens(mail: Mail) -> tuple[Token, ...]:
    """The tokens of all these places."""
    return tuple(dict.fromkeys(token for place in _PLACES for token in place(mail)))


def _in_text(mail: Mail) -> tuple[Token, ...]:
    found: dict[Token, None] = {}
    for body in bodies(mail).renditions:
        text = "\n".join(body.lines)[:_LONGEST]
        for match in _REFERENCE.finditer(text):
            # One token may be broken over two lines, each with its own quotation marks.
            found.update(dict.fromkeys(find(re.sub(r"[ \t>|\n]", "", match[1])[:44])))
    return tuple(found)


_PLACES: tuple[Callable[[Mail], tuple[Token, ...]], ...] = (
    lambda mail: find("\n".join(mail.values(*_ADDRESSED))),
    lambda mail: find("\n".join(mail.values(*_ANSWERED))),
    _in_text,
    lambda mail: find(mail.first("subject")),
)


def header_texts(mail: Mail) -> dict[str, str]:
    """The first content of each header field, by its name in lower case."""
    texts: dict[str, str] = {}
    for field in mail.fields:
        texts.setdefault(field.name, field.value)
    return texts
