"""What clients write above a quoted mail, recognised in the lines of a reply.

Nothing is taken for a client's line that begins with a reject-word or holds a doubt: cutting there could hide a
rejection. Every pattern is linear; a line is compared up to a bounded length.
"""

from __future__ import annotations

import re
from enum import Enum

from mailrelayd.approvals import clients
from mailrelayd.approvals.htmltext import CUT
from mailrelayd.approvals.lexicon import Lexicon, line_words
from mailrelayd.approvals.words import fold, without_addresses

ATTRIBUTION = 400  # characters
NAME = 6  # words
LAWYERLY = 160  # characters of a paragraph that nobody writes about a decision

_DATE = re.compile(
    r"(?<!\d)\d{4}(?!\d)|\d{1,2}[./-]\s?\d{1,2}[./-]\s?\d{2,4}|(?<!\d)\d{1,2}[:.h]\d{2}(?!\d)|\d\s?[年년]|[\u0660-\u0669]{4}"
)
_DAY = re.compile(r"(?<!\d)\d{1,2}(?!\d)")
_ADDRESS = re.compile(r"(?<![^\s<>@\"])[^\s<>@\"]++@[^\s<>@\"]++")
_ANGLE = re.compile(r"\S\s<[^\s<>@]++@[^\s<>@]++>\s*$")  # "From "Name" <address>" without a colon
_POSTSCRIPT = re.compile(r"p\.? ?(?:p\.? ?)?s(?:\.| ?[:-])")
_COLON = re.compile(r":[\s\"*_>-]*$")
QUOTE = re.compile(r"^\s{0,3}[>＞》»]")
RULE = re.compile(r"^(?=.*?[_=*#~-]{5})[\s_=*#~.·•-]++$")
_DASHES = "-‐‑‒–—―−_=*#~>"  # fold() leaves one kind of them
_DASH = re.escape(_DASHES)
_FENCED = re.compile(f"^(?=\\s*+[{_DASH}]{{2}})[{_DASH}\\s]*+([^{_DASH}\\s].{{1,60}}?)[:{_DASH}\\s]*+$")
# "Name---20.11.2026 10:05:11---the beginning of the mail", above the header lines of Notes
_NOTES = re.compile(r"^[^-]{1,80}-{2,3}\s?\d{1,4}[./-]\d{1,2}[./-]\d{2,4}[^-]{1,20}-{2,3}")
_HEADER = re.compile(r"^[\s*_|>\"]*([^\s:：*][^:：]{0,30}?)[\s*_]*[:：][\s*_]*(.*)$")
_LINK = re.compile(r"<[^<>]*>|https?:\S*")


def _alternatives(table: str) -> re.Pattern[str]:
    """Matches an entry anywhere: whole words, where the script has words."""
    spaced: list[str] = []
    together: list[str] = []
    for one in sorted({fold(entry).strip() for entry in clients.entries(table)} - {""}, key=len, reverse=True):
        (together if ord(one[0]) > 0x2E80 else spaced).append(re.escape(one))
    return re.compile(f"(?<![^\\W_])(?:{'|'.join(spaced)})(?![^\\W_])" + (f"|{'|'.join(together)}" if together else ""))


_WROTE = _alternatives(clients.WROTE)
_OPENERS = frozenset(fold(one).strip() for one in clients.entries(clients.OPENERS))
_FROM = frozenset(fold(one) for one in clients.entries(clients.FROM))
_SENT = frozenset(fold(one) for one in clients.entries(clients.SENT))
_OTHER = frozenset(fold(one) for table in (clients.TO, clients.CC, clients.SUBJECT) for one in clients.entries(table))
_SEPARATORS = frozenset(fold(one) for one in clients.entries(clients.SEPARATORS))
_FORWARDED = frozenset(fold(one) for one in clients.entries(clients.FORWARDED))
_SENT_FROM = tuple(
    (fold(first), fold(last)) for first, _, last in (one.partition("…") for one in clients.entries(clients.SENT_FROM))
)
_SENT_FROM_OPENERS = tuple({first for first, _ in _SENT_FROM})
_DISCLAIMER = tuple(fold(one) for one in clients.entries(clients.DISCLAIMER_OPENERS))
_SECRECY = tuple(fold(one) for one in clients.entries(clients.SECRECY))
_RECIPIENTS = tuple(fold(one) for one in clients.entries(clients.RECIPIENTS))


class Separator(Enum):
    """What a line between two mails says about the one below."""

    OLDER = "older"
    FORWARDED = "forwarded"


class Quotation:
    """The lines of a reply, and what a client may have meant by each."""

    def __init__(self, lines: list[str], lexicon: Lexicon) -> None:
        self.lines, self.lexicon = lines, lexicon
        self._folded: dict[int, str] = {}

    def separates(self, position: int) -> Separator | None:
        """Whether a line separates the older mail from the text above it, and of which sort it is."""
        folded = self.fold(position)
        fenced = _FENCED.match(folded)
        text = fenced[1].strip() if fenced else folded.rstrip(" :*")
        if text in _FORWARDED or folded.rstrip(" :") in _FORWARDED:
            return Separator.FORWARDED
        following = self.following(position + 1)
        if _NOTES.match(folded) and following is not None and self._header_name(following):
            return None if self.lexicon.speaks_against(folded.partition("---")[0]) else Separator.OLDER
        if text in _SEPARATORS:
            older = fenced is not None or (following is not None and bool(self._header_name(following)))
            return Separator.OLDER if older else None
        if fenced is None:
            return None
        if (
            self.lexicon.speaks_against(text)
            or self.lexicon.approves(line_words(text))
            or not folded.rstrip(" :").endswith(tuple(_DASHES))
        ):
            return None
        if following is None or not (
            self._header_name(following) or self.attributes(following) or self._addressed(following)
        ):
            return None
        return Separator.OLDER

    def _addressed(self, position: int) -> bool:
        """Whether two lines name an author and a recipient in a language that is not listed, without colons."""
        if not _ANGLE.search(self.lines[position][:ATTRIBUTION]) or position + 1 >= len(self.lines):
            return False
        return bool(_ADDRESS.search(self.lines[position + 1][:ATTRIBUTION]))

    def _header_name(self, position: int) -> str:
        """What a line names as a header line would: "from", "sent", "other" or ""."""
        match = _HEADER.match(self.lines[position][:ATTRIBUTION])
        if match is None:
            return ""
        name = fold(match[1]).strip()
        if name in _FROM:
            return "from"
        if name in _SENT:
            return "sent"
        return "other" if name in _OTHER else ""

    def header_block(self, position: int) -> bool:
        """At least two header lines of a quoted mail, one of them naming an author or a time with a value."""
        first = self._header_name(position)
        if not first:
            return self._foreign_block(position)
        found = [first]
        here, blanks, folded_lines = position, 0, 0
        while len(found) < 3 and here + 1 < len(self.lines) and here - position < 12:
            here += 1
            if not self.lines[here].strip():
                blanks += 1
                if blanks > len(found):
                    break
                continue
            if name := self._header_name(here):
                found.append(name)
                continue
            folded_lines += 1  # a long list of recipients goes on in the next line
            if folded_lines > 3 or not (
                _ADDRESS.search(self.lines[here]) or self.lines[here - 1].rstrip().endswith((";", ","))
            ):
                break
        block = " ".join(self.lines[position : here + 1])
        if len(set(found)) < 2:
            return False
        if not (_ADDRESS.search(block) or _DATE.search(block) or len(found) > 2):
            return False
        return bool({"from", "sent"} & set(found)) and not self.lexicon.rejects(*self._spoken(position))

    def _foreign_block(self, position: int) -> bool:
        """Three lines or more of "Name: value" in a row, with an address and a time: a language that is not listed."""
        block = []
        for line in self.lines[position : position + 6]:
            match = _HEADER.match(line[:ATTRIBUTION])
            if match is None or len(match[1].split()) > 3:
                break
            block.append(line)
        if len(block) < 3:
            return False
        joined = " ".join(block)
        if not (_ADDRESS.search(joined) and _DATE.search(joined)):
            return False
        return not any(self.lexicon.speaks_against(fold(line.partition(":")[0])) for line in block)

    def disclaims(self, position: int) -> bool:
        """Whether a lawyers' paragraph begins here."""
        before = self.lines[position - 1].strip() if position else ""
        if before and before != CUT and not RULE.match(before):
            return False
        paragraph: list[str] = []
        for line in self.lines[position : position + 12]:
            if not line.strip():
                break
            paragraph.append(fold(line[:1_000]))
        joined = " ".join(paragraph)
        secrecy = any(one in joined for one in _SECRECY)
        recipients = any(one in joined for one in _RECIPIENTS)
        if secrecy and recipients and len(joined) > LAWYERLY:
            return not self.lexicon.rejects(*self._spoken(position))
        return (
            self.fold(position).lstrip("*_ -•").startswith(_DISCLAIMER) and len(joined) > 40 and (secrecy or recipients)
        )

    def attributes(self, position: int) -> int:
        """How many lines an attribution takes that begins here, 0 where none does."""
        first = self.lines[position]
        if not first.strip() or len(first) > ATTRIBUTION or QUOTE.match(first):
            return 0
        start = self.fold(position).strip(" *_-|\"'«»")
        opens = (
            bool(_DATE.search(without_addresses(start)))
            or start.partition(" ")[0].rstrip(",.") in _OPENERS
            or bool(_ADDRESS.search(start))
        )
        joined = ""
        for size in range(1, 5):
            if position + size > len(self.lines) or (size > 1 and not opens):
                break
            line = self.lines[position + size - 1]
            if not line.strip() or line == CUT or (size > 1 and QUOTE.match(line)):
                break
            if size > 1 and not start.endswith(",") and self._complete(line):
                break  # and so the lines above it are the author's
            joined = f"{joined} {self.fold(position + size - 1)}".strip()
            if len(joined) > ATTRIBUTION:
                break
            if self._is_attribution(joined, position + size) and not self._speaks(position, size, joined):
                return size
        return 0

    def _complete(self, line: str) -> bool:
        """Whether a line is an attribution that needs no line above it."""
        if len(line) > ATTRIBUTION:
            return False
        dated = _COLON.search(line) and _DATE.search(_ADDRESS.sub(" ", line))
        return bool(dated and (_ADDRESS.search(line) or _WROTE.search(fold(line))))

    def _is_attribution(self, text: str, following: int) -> bool:
        text = text.strip(" *_-|")
        if not (_COLON.search(text) or _WROTE.search(text[-40:])):
            return False
        date, address, wrote = _DATE.search(text), _ADDRESS.search(text), _WROTE.search(text)
        if _COLON.search(text):
            if (date and (address or wrote)) or (address and wrote):
                return True
        elif date and wrote and (address or self.quote_follows(following)):
            return True
        if not self.quote_follows(following):
            return False
        return bool(
            wrote or (date and _COLON.search(text)) or (_DAY.search(text) and _COLON.search(text) and len(text) > 20)
        )

    def quote_follows(self, position: int) -> bool:
        """Whether the next line that is not empty is a quoted one."""
        following = self.following(position)
        return following is not None and bool(QUOTE.match(self.lines[following]))

    def _speaks(self, position: int, size: int, joined: str) -> bool:
        """Whether somebody says something in what looks like an attribution."""
        words, folded = self._spoken(position)
        if self.lexicon.rejects(words, folded) or self.lexicon.approves(words):
            return True
        if size > 1 and folded.rstrip().endswith(("!", "?")):
            return True
        said = _ADDRESS.sub(" ", _WROTE.sub(" ", joined))
        return bool(self.lexicon.rejecting(said) or self.lexicon.doubting(said, frozenset()))

    def speaks_up(self, position: int) -> bool:
        """Whether a line in a signature is no part of it: a postscript, or a reject-word and courtesies."""
        words, folded = self._spoken(position)
        if _POSTSCRIPT.match(folded):
            return True
        match = self.lexicon.rejects(words, folded)
        return match is not None and self.lexicon.only_courtesies(words[match.length :])

    def names(self, position: int) -> bool:
        """Whether a line may be a name: a few words, none of which says anything."""
        words, folded = self._spoken(position)
        if not 0 < len(words) <= NAME or self.lexicon.speaks_against(folded):
            return False
        return self.lexicon.only_words(words)

    def _spoken(self, position: int) -> tuple[list[str], str]:
        folded = self.fold(position)
        return line_words(folded), folded

    def fold(self, position: int) -> str:
        """A line in the letters that are compared."""
        if position not in self._folded:
            self._folded[position] = fold(self.lines[position]).strip()
        return self._folded[position]

    def sent_from(self, position: int) -> bool:
        """Whether a line is a device's or a program's own signature."""
        folded = self.fold(position).strip(" *_<>()[]\"'-–.")
        if len(folded) > 160 or not folded.startswith(_SENT_FROM_OPENERS):
            return False
        for first, last in _SENT_FROM:
            if folded.startswith(first) and (not last or folded.endswith(last) or f"{last} " in folded):
                return not self.lexicon.speaks_against(_LINK.sub(" ", folded))
        return False

    def following(self, position: int) -> int | None:
        """The next line that is not empty."""
        for here in range(position, min(position + 4, len(self.lines))):
            if self.lines[here].strip() and self.lines[here] != CUT:
                return here
        return None
