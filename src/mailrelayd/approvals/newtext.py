"""The lines of a reply that its author wrote, without what the client put around them.

Quotation is recognised by what clients write: our own marker line, ">" in front, an attribution ("On ..., ... wrote:"),
a block of header lines, a separator, a signature; in more than 30 languages. Cutting too early would hide a
"Rejected!" below an "Approved.", so nothing is taken for a client's line that begins with a reject-word or holds a
doubt; what remains by mistake can only make a reply unclear.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mailrelayd.approvals import clients
from mailrelayd.approvals.htmltext import CUT
from mailrelayd.approvals.lexicon import Lexicon
from mailrelayd.approvals.memory import Memory
from mailrelayd.approvals.quotation import ATTRIBUTION, QUOTE, RULE, Quotation, Separator
from mailrelayd.approvals.words import clean, fold

MAX_LINES = 4_000
MAX_OWN = 600  # lines that are not quoted
MAX_LINE = 4_000  # characters of one line that are compared
OVERFLOW = 60  # characters of a quoted line from which on the next one may be its wrapped end

_BAR = re.compile(r"^\s{0,3}[|┃│¦](?:\s|$)")
_BOX = re.compile(r"^\s{0,3}[|>][-=]{6,}[|>]?")
_SIGNATURE = re.compile(r"^(?:--|—|––|__)\s?$")
_GROUPWISE = re.compile(r"^>>>\s[^>\n]{1,120}(?:<[^<>\s]{1,120}>)?[^>\n]{0,40}?\d{1,2}[:.]\d{2}[^>\n]{0,20}>>>\s*$")
_PGP_BEGIN = re.compile(r"^-----BEGIN PGP SIGNED MESSAGE-----$")
_PGP_HEADER = re.compile(r"^(?:Hash|Charset|Version|Comment|NotDashEscaped):")
_PGP_END = re.compile(r"^-----BEGIN PGP SIGNATURE-----$")
_PGP_SECRET = re.compile(r"^-----BEGIN PGP MESSAGE-----$")
_MARKERS = tuple(fold(one) for one in clients.MARKERS)


@dataclass(frozen=True, slots=True)
class NewText:
    """What the author wrote. `below` stands unquoted under the quotation, where the new text stands above it."""

    lines: tuple[str, ...]
    rules: tuple[str, ...] = ()
    below: tuple[str, ...] = ()
    forwarded: bool = False
    encrypted: bool = False
    doubtful: bool = False  # it may begin with the wrapped end of a quoted line, or go on where nobody looked
    ended: bool = False  # the older mail was seen to begin


def new_text(lines: Sequence[str], lexicon: Lexicon, memory: Memory | None = None) -> NewText:
    """Cut a rendition of a reply down to its new lines."""
    scan = _Scan([clean(line[:MAX_LINE]) if line != CUT else CUT for line in lines[:MAX_LINES]], lexicon, memory)
    scan.too_long = frozenset(at for at, line in enumerate(lines[:MAX_LINES]) if len(line) > MAX_LINE)
    scan.run()
    return scan.result(longer=len(lines) > MAX_LINES)


class _Scan:
    """One pass from the top. Lines are put above or below the first quotation, or dropped."""

    def __init__(self, lines: list[str], lexicon: Lexicon, memory: Memory | None) -> None:
        self.lines = lines
        self.marks = Quotation(lines, lexicon)
        self.known = memory.quoted(lines) if memory else frozenset[int]()
        self.above: list[str] = []
        self.below: list[str] = []
        self.rules: dict[str, None] = {}
        self.forwarded = self.encrypted = self.doubtful = self.ended = False
        self.quotation = self.clipped = self.says_above = self.says_below = False
        self.too_long: frozenset[int] = frozenset()

    def run(self) -> None:
        position, own, lines = 0, 0, self.lines
        while position < len(lines):
            line = lines[position]
            own += bool(line.strip()) and not QUOTE.match(line)
            if own > MAX_OWN:
                self.clipped = True
                return
            if self._ends(position):
                self.ended = True
                return
            if step := self._dropped(position):
                position += step
                continue
            self.clipped |= position in self.too_long
            said = bool(line.strip())
            if self.quotation:
                if said and not self.says_below:
                    self.doubtful = self._overflow(position)
                self.says_below |= said
                self.below.append(line)
            else:
                self.says_above |= said
                self.above.append(line)
            position += 1

    def result(self, *, longer: bool) -> NewText:
        top = self.says_above
        lines = self.above if top else self.below
        below = self.below if top else []
        if not top and self.says_below:
            self.rules["the new text stands below the quotation"] = None
        return NewText(
            _trimmed(lines),
            tuple(self.rules),
            tuple(line for line in below if line.strip()),
            self.forwarded,
            self.encrypted,
            self.clipped or (self.doubtful and not top) or (longer and not (self.ended or (top and self.quotation))),
            self.ended or self.quotation,
        )

    # What ends the new text for good

    def _ends(self, position: int) -> bool:
        """Whether the older mail begins here, unmarked to its end."""
        line = self.lines[position]
        if line == CUT:
            following = self.marks.following(position + 1)
            if following is not None and (":" in fold(self.lines[following])[:60] or RULE.match(self.lines[following])):
                return self._rule("cut where the client says that the older mail begins")
            return False
        if len(line) > 2 * ATTRIBUTION or not line.strip():
            return False
        folded = self.marks.fold(position)
        if any(marker in folded for marker in _MARKERS):
            return self._rule("cut at the marker line of the request")
        if _GROUPWISE.match(line) and not self.marks.quote_follows(position + 1):
            return not self.marks.lexicon.speaks_against(folded) and self._rule("cut at the line of GroupWise")
        if QUOTE.match(line):
            return False
        if _PGP_END.match(line.strip()):
            return self._rule("cut at the PGP signature")
        if _PGP_SECRET.match(line.strip()):
            self.encrypted = True
            return self._rule("cut at an encrypted text")
        if _BOX.match(line) and self.marks.following(position + 1) is not None:
            return self._rule("cut at a box of quoted header lines")
        if separator := self.marks.separates(position):
            self.forwarded |= separator is Separator.FORWARDED
            return self._rule("cut at a line that separates the older mail")
        if self.marks.header_block(position):
            return self._rule("cut at a block of quoted header lines")
        size = self.marks.attributes(position)
        if size and not self.marks.quote_follows(position + size):
            self._drop_name(position)
            return self._rule("cut at the line that names the quoted author")
        return False

    # What is left out, while the new text may go on behind it

    def _dropped(self, position: int) -> int:
        """How many lines are no new text from here on, 0 where this one is."""
        line = self.lines[position]
        if line == CUT or position in self.known:
            if position in self.known:
                self._rule("left out lines that stand in the request")
            return 1
        if QUOTE.match(line):
            self.quotation = True
            self._rule("left out quoted lines")
            return 1
        if _BAR.match(line) and position + 1 < len(self.lines) and _BAR.match(self.lines[position + 1]):
            size = 1
            while position + size < len(self.lines) and _BAR.match(self.lines[position + size]):
                size += 1
            self.quotation = True
            self._rule("left out quoted lines")
            return size
        if not line.strip():
            return 0
        if _PGP_BEGIN.match(line.strip()):
            self._rule("read the text within the PGP signature")
            size = 1
            while position + size < len(self.lines) and _PGP_HEADER.match(self.lines[position + size]):
                size += 1
            return size
        if _SIGNATURE.match(line.strip()):
            return self._signature(position)
        if size := self.marks.attributes(position):
            self._drop_name(position)
            self._rule("left out the line that names the quoted author")
            return size
        if (self.says_above or self.says_below) and self.marks.disclaims(position):
            self._rule("left out a disclaimer")
            self.quotation = True  # what follows stands below the text
            size = 1
            while position + size < len(self.lines) and self.lines[position + size].strip():
                size += 1
            return size
        if self.marks.sent_from(position):
            self._rule("left out the device's signature")
            return 1
        if RULE.match(line):
            return 1
        return 0

    def _signature(self, position: int) -> int:
        """The lines from "-- " to the next quotation (RFC 3676 section 4.3)."""
        self._rule("left out the signature")
        size = 1
        while position + size < len(self.lines):
            here = position + size
            if (
                QUOTE.match(self.lines[here])
                or self.lines[here] == CUT
                or (self.lines[here].strip() and self.marks.attributes(here))
            ):
                break
            if self.marks.header_block(here) or self.marks.separates(here):
                break
            if self.marks.speaks_up(here):
                break
            size += 1
        return size

    def _drop_name(self, position: int) -> None:
        """Take back the quoted author's name, where an attribution was wrapped between it and the address."""
        kept = self.below if self.quotation else self.above
        if not self.lines[position].lstrip().startswith("<") or not kept or kept[-1] != self.lines[position - 1]:
            return
        if self.marks.names(position - 1) and (len(kept) < 2 or not kept[-2].strip()):
            kept.pop()

    def _overflow(self, position: int) -> bool:
        """Whether a line directly below a long quoted one may be that one's end, which a client wrapped."""
        above = self.lines[position - 1] if position else ""
        return bool(QUOTE.match(above)) and len(above) >= OVERFLOW

    def _rule(self, text: str) -> bool:
        self.rules[text] = None
        return True


def _trimmed(lines: Sequence[str]) -> tuple[str, ...]:
    kept = [line.rstrip() for line in lines]
    while kept and not kept[0].strip():
        kept.pop(0)
    while kept and not kept[-1].strip():
        kept.pop()
    return tuple(kept)
