"""A mail's bytes -> what it says: the one way through `mime`, `kinds`, `newtext` and `verdict`.

Both renditions of a reply, plain text and HTML, are judged; an approval needs them to agree, and a mail that can be
read one way only. Total: any bytes give a Reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mailrelayd.approvals import clients
from mailrelayd.approvals.bodies import Bodies, Body, bodies
from mailrelayd.approvals.kinds import kind_of
from mailrelayd.approvals.lexicon import Lexicon, lexicon, line_words
from mailrelayd.approvals.memory import Memory
from mailrelayd.approvals.mime import Mail, Unreadable, parse
from mailrelayd.approvals.newtext import NewText, new_text
from mailrelayd.approvals.values import Decision, Kind, Options, Reading, Verdict
from mailrelayd.approvals.verdict import judge
from mailrelayd.approvals.words import fold

_FORWARD = tuple(fold(one) for one in clients.entries(clients.FORWARD_PREFIXES))


def read(data: bytes, options: Options | None = None, memory: Memory | None = None) -> Reading:
    """What a mail says. Raises nothing but `lexicon.VocabularyError`, which is about the options."""
    mail = parse(data)
    if isinstance(mail, Unreadable):
        return Reading(Kind.UNREADABLE, None, mail.reason, rules=(mail.detail,))
    return read_mail(mail, options, memory)


def read_mail(mail: Mail, options: Options | None = None, memory: Memory | None = None) -> Reading:
    """As `read`, for a mail that has been parsed already."""
    options = options or Options()
    kind, rule = kind_of(mail, via_list=options.via_list)
    if kind is not Kind.REPLY:
        return Reading(kind, None, kind.value, rules=(rule,))
    return _reply(mail, options, memory)


@dataclass(frozen=True, slots=True)
class _Judged:
    text: NewText
    verdict: Verdict


def _reply(mail: Mail, options: Options, memory: Memory | None) -> Reading:
    words = lexicon(options.approve, options.reject)
    found = bodies(mail)
    judged = [_judged(body, words, options, memory) for body in found.renditions]
    if not judged:
        reason = "encrypted" if found.encrypted else "no-text"
        return Reading(Kind.REPLY, Decision.UNCLEAR, reason, rules=found.notes or ("there is no text to be read",))
    chosen = judged[0]
    verdict = chosen.verdict
    notes = list(found.notes)
    for other in judged[1:]:
        verdict = _agreed(verdict, other, notes)
    if verdict.decision is Decision.APPROVED:
        verdict = _safe(verdict, mail, judged, found, words)
    rules = (*notes, *chosen.text.rules, *verdict.rules)
    text = "\n".join(chosen.text.lines)
    return Reading(Kind.REPLY, verdict.decision, verdict.reason, verdict.comment, text, rules)


def _judged(body: Body, words: Lexicon, options: Options, memory: Memory | None) -> _Judged:
    lines, removed = _without_boilerplate(body.lines, options.boilerplate)
    text = new_text(lines, words, memory)
    text = replace(text, rules=(*removed, *text.rules), doubtful=text.doubtful or (body.cut and not text.ended))
    return _Judged(text, judge(text.lines, words, options))


def _agreed(verdict: Verdict, other: _Judged, notes: list[str]) -> Verdict:
    """One verdict from two renditions: both must approve; no rejection stands against an approval."""
    decisions = {verdict.decision, other.verdict.decision}
    if len(decisions) == 1:
        return verdict
    if decisions == {Decision.REJECTED, Decision.UNCLEAR} and verdict.decision is Decision.REJECTED:
        return verdict
    notes.append(f"plain text and HTML differ: {verdict.decision}, {other.verdict.decision}")
    return Verdict(Decision.UNCLEAR, "alternatives-differ", verdict.comment, (*verdict.rules, *other.verdict.rules))


def _safe(verdict: Verdict, mail: Mail, judged: Sequence[_Judged], found: Bodies, words: Lexicon) -> Verdict:
    """The approval, unless something outside of its words stands against it."""

    def unclear(reason: str, rule: str) -> Verdict:
        return Verdict(Decision.UNCLEAR, reason, verdict.comment, (*verdict.rules, rule))

    if mail.doubts:
        return unclear("damaged", f"not every program reads this mail the same way: {mail.doubts[0]}")
    if found.uncertain:
        first = found.uncertain[0]
        return unclear("guessed-charset" if "charset" in first else "damaged", first)
    if found.encrypted or any(one.text.encrypted for one in judged):
        return unclear("encrypted", "a part of the text is encrypted")
    if any(one.text.forwarded for one in judged) or _forwarded(mail, judged[0].text, words):
        return unclear("forwarded", "the mail was forwarded, not answered")
    if any(one.text.doubtful for one in judged):
        return unclear("ambiguous-quotation", "where the quotation ends cannot be told")
    for one in judged:
        for line in one.text.below:
            folded = fold(line)
            if words.rejects(line_words(folded), folded):
                return unclear("contradiction", "a line below the quotation begins with a reject-word")
    return verdict


def _forwarded(mail: Mail, text: NewText, words: Lexicon) -> bool:
    prefix, colon, _ = fold(mail.first("subject")[:200]).strip().partition(":")
    if not colon or prefix.strip() not in _FORWARD:
        return False
    match = words.approves(line_words(fold(text.lines[0]))) if text.lines else None
    return not (prefix.strip() == "vs" and match and "fi" in match.languages)  # Finnish for "Re:"


def _without_boilerplate(lines: Sequence[str], boilerplate: Sequence[str]) -> tuple[Sequence[str], tuple[str, ...]]:
    """The lines without the configured texts, white space folded, wherever each first begins at a line's start."""
    removed = []
    for text in boilerplate:
        wanted = text.split()
        if wanted and (span := _find(lines, wanted)):
            first, last, rest = span
            lines = [*lines[:first], *([rest] if rest else []), *lines[last + 1 :]]
            removed.append(f"removed boilerplate: {' '.join(wanted)[:60]}")
    return lines, tuple(removed)


def _find(lines: Sequence[str], wanted: list[str]) -> tuple[int, int, str] | None:
    """Where these words stand: first line, last line, and what is left of the last."""
    spoken = [line.split() for line in lines]
    starts = [at for at, words in enumerate(spoken) if words and words[0] == wanted[0]][:200]
    for first in starts:
        left, position = wanted, first
        while left and position < len(spoken):
            words = spoken[position]
            size = min(len(words), len(left))
            if words[:size] != left[:size]:
                break
            left = left[size:]
            if not left:
                return first, position, " ".join(words[size:])
            position += 1
    return None
