"""What the new text of a reply decides.

    approved  the first line is an approve-word with nothing but punctuation and courtesies behind it; no reject-word,
              no question and no doubt stands anywhere in the text. The other lines are the comment.
    rejected  the first line begins with a reject-word that is not part of a question or a choice; the rest is the
              comment.
    unclear   everything else.

An approval cannot be taken back, and `unclear` costs one more mail: every rule here only ever removes approvals.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mailrelayd.approvals.lexicon import Lexicon, Match, line_words
from mailrelayd.approvals.values import Decision, Options, Verdict
from mailrelayd.approvals.words import asks, fold, overridden

_CHOICE = frozenset(
    ("/", "|", "\\", "or", "oder", "ou", "eller", "tai", "lub", "nebo", "vagy", "sau", "или", "ή", "veya")
)
_EITHER = frozenset((*_CHOICE, "o", "of", "and", "und", ",", "&", "+", "-", "."))
_PAUSE = re.compile(r"[.!,;:()\u3002\uff0c\u3001-]")
_LEADING = " \t*_#·•。、،۔-–—:.,;!¡✅✔☑👍"


def judge(lines: Sequence[str], lexicon: Lexicon, options: Options) -> Verdict:
    """The verdict on the lines of a new text. Total, linear."""
    written = [(at, line, fold(line)) for at, line in enumerate(lines) if line.strip()]
    spoken = [(line, folded) for _, line, folded in written]
    first = 0
    while first < len(spoken) - 1 and lexicon.greets(line_words(spoken[first][1]), spoken[first][1].strip()):
        first += 1
    if not spoken:
        return Verdict(Decision.UNCLEAR, "empty", rules=("there is no new text",))
    skipped = ("skipped the greeting",) if first else ()
    line, folded = spoken[first]
    if overridden("".join(lines)):
        return Verdict(Decision.UNCLEAR, "hidden-characters", _text(lines), ("the text is displayed in another order",))
    words = line_words(folded)
    rest = lines[written[first][0] + 1 :]
    if match := lexicon.rejects(words, folded):
        verdict = _rejection(match, words, folded, line, rest, lexicon)
    elif match := lexicon.approves(words):
        verdict = _approval(match, words, line, rest, spoken, lexicon, options)
    else:
        verdict = Verdict(
            Decision.UNCLEAR, "no-keyword", _text(lines), ("the first line begins with no decision word",)
        )
    return Verdict(verdict.decision, verdict.reason, verdict.comment, (*skipped, *verdict.rules))


def _rejection(
    match: Match, words: list[str], folded: str, line: str, rest: Sequence[str], lexicon: Lexicon
) -> Verdict:
    comment = _text([_behind(line, match), *rest])
    found = f"the first line begins with {match.phrase!r}"
    behind = words[match.length :]
    joint = next((at for at, word in enumerate(behind) if word not in _EITHER), len(behind))
    if (behind and behind[0] in _CHOICE) or lexicon.approves(behind[joint:]):
        return Verdict(Decision.UNCLEAR, "contradiction", comment, (found, "an approve-word follows it"))
    spoken = folded.partition(match.phrase)[2]
    if asks(_PAUSE.split(spoken, maxsplit=1)[0]) or (spoken.strip().startswith(("吗", "嗎", "か"))):
        return Verdict(Decision.UNCLEAR, "question", comment, (found, "but as a question"))
    return Verdict(Decision.REJECTED, "first-line-keyword", comment, (found,))


def _approval(
    match: Match,
    words: list[str],
    line: str,
    rest: Sequence[str],
    spoken: list[tuple[str, str]],
    lexicon: Lexicon,
    options: Options,
) -> Verdict:
    found = f"the first line begins with {match.phrase!r}"
    bare = lexicon.only_courtesies(words[match.length :])
    behind = "" if bare else _behind(line, match)
    comment = _text([behind, *rest])

    def unclear(reason: str, rule: str) -> Verdict:
        return Verdict(Decision.UNCLEAR, reason, comment, (found, rule))

    for one, folded in spoken:
        if word := lexicon.rejecting(folded):
            return unclear("contradiction", f"the reject-word {word!r} stands in the text")
        if asks(one):
            return unclear("question", "a question mark stands in the text")
        if word := lexicon.doubting(folded, match.languages):
            return unclear("doubt", f"{word!r} stands in the text")
    if not bare and not (options.same_line_comment and _apart(line, match)):
        return unclear("text-behind-keyword", "more than courtesies stands behind it")
    if options.require_bare_approval and comment:
        return unclear("not-bare", "more text follows, and require_bare_approval is set")
    rule = "the whole line is an approve-word and courtesies" if bare else "a comment follows on the same line"
    return Verdict(Decision.APPROVED, "first-line-keyword", comment, (found, rule))


def _apart(line: str, match: Match) -> bool:
    """Whether a space or punctuation with a space stands behind the decision word ("Approved-ish" has none)."""
    behind = _remainder(line, match)
    return behind[:1].isspace() or bool(re.match(r"[,.:;!–—-]\s", behind))


def _behind(line: str, match: Match) -> str:
    return _remainder(line, match).lstrip(_LEADING).rstrip()


def _remainder(line: str, match: Match) -> str:
    """What follows the decision word in the line as it was written."""
    target = match.phrase.replace(" ", "")
    lead = len(line) - len(line.lstrip(_LEADING))
    for end in range(lead + 1, min(len(line), lead + 4 * len(target) + 40) + 1):
        spelled = "".join(line_words(fold(line[lead:end])))
        if spelled == target and (end == len(line) or not line[end].isalnum() or not line[end - 1].isascii()):
            return line[end:]
    return line


def _text(lines: Sequence[str]) -> str:
    """The lines as they were written, without the empty ones around them."""
    return "\n".join(line.rstrip() for line in lines).strip()
