"""The vocabulary made ready for comparing: which decision a line begins with, what in a text speaks against one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from mailrelayd.approvals.vocabulary import LANGUAGES
from mailrelayd.approvals.words import fold, plain, without_addresses, words

# What may stand around words without saying anything. Not "/" (a choice), ":" (a form), quotes, brackets or "~".
_PUNCTUATION = frozenset(".!¡,-*_#·•。、،۔।·★☆")
_COMMAS = ",、،"
_CHEERFUL = frozenset("👍✅✔☑🙂😊😀😃😄😁🙏👌🎉💪🚀🌞☀💐❤")
_SMILE = re.compile(r"[:=]-?\)|:-?[dD]\b|\(y\)")
_SCRIPTS = {
    "zh": re.compile("[\u4e00-\u9fff]"),
    "ja": re.compile("[\u3040-\u30ff]"),
    "ko": re.compile("[\uac00-\ud7af]"),
    "th": re.compile("[\u0e00-\u0e7f]"),
}
# "if" and "but" of other languages count at the start of a sentence where the decision itself is in English.
_OPENING = frozenset(("si", "ma", "mais", "men", "om", "als", "maar", "ale", "mas", "dar", "ak", "če", "kun"))
_SENTENCE_END = frozenset(".!?;:")
_HONORIFIC = re.compile(r"^[^\s,。]{1,12}(?:様|さま|さん|殿|御中|各位|先生|님|께)[,、.!:]?$")
_CHINESE_GREETING = re.compile(
    r"^(?:尊敬的|亲爱的|敬爱的)?[^\s,。]{1,8}(?:总|经理|先生|女士|小姐|老师|主任|您好|你好)[,:!。]?(?:您好|你好)?[,:!。]?$"
)
_NUMBERED = re.compile(r"(?<!\w)no[.:]{0,2}\s?(?=[a-z]{0,4}[-#+(]?\d)")  # "VAT No. DE 1234"
MAX_GREETING = 8  # words, the name included

_Phrases = dict[str, list[tuple[tuple[str, ...], frozenset[str]]]]


class VocabularyError(ValueError):
    """A configured word cannot be used; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Match:
    """A phrase at the start of a line: how many of its words, and the languages it is from ("" is configured)."""

    phrase: str
    length: int
    languages: frozenset[str]


class Lexicon:
    """All languages' words, and the configured ones."""

    def __init__(self, approve: Iterable[str] = (), reject: Iterable[str] = ()) -> None:
        rows = [(row.code, row.approve, row.reject) for row in LANGUAGES]
        self._approve = _phrases((code, _split(one)) for code, one, _ in rows)
        self._reject = _phrases((code, _split(one, skip="=")) for code, _, one in rows)
        self._reject_whole = _phrases((code, _only_marked(one)) for code, _, one in rows)
        self._subject = _phrases((row.code, _split(row.subject)) for row in LANGUAGES)
        self._object = _phrases((row.code, _split(row.object)) for row in LANGUAGES)
        self._courtesy = _phrases((row.code, _split(row.courtesy)) for row in LANGUAGES)
        self._thanked = _phrases((row.code, _split(row.thanked)) for row in LANGUAGES)
        self._greeting = _phrases((row.code, _split(row.greeting)) for row in LANGUAGES)
        self._together_reject = tuple(
            fold(one) for row in LANGUAGES if row.together for one in _split(row.reject, skip="=")
        )
        self._together_approve = tuple(fold(one) for row in LANGUAGES if row.together for one in _split(row.approve))
        self._substrings = {
            row.code: (
                tuple(sorted(map(fold, _split(row.harmless)), key=len, reverse=True)),
                tuple(map(fold, _split(row.doubt))),
            )
            for row in LANGUAGES
            if row.together
        }
        apart = [row for row in LANGUAGES if not row.together]
        doubts = {_joined(one) for row in apart for one in _split(row.doubt)}
        doubts |= {plain(one) for one in doubts if len(one) > 4}
        self._doubts = frozenset(one for one in doubts if " " not in one)
        self._doubt_phrases = tuple(sorted(f" {one} " for one in doubts if " " in one))
        self._own = {row.code: frozenset(_joined(one) for one in _split(row.own)) for row in apart if row.own}
        harmless = {f" {_joined(one)} " for row in apart for one in _split(row.harmless)}
        self._harmless = tuple(sorted(harmless, key=lambda one: (-len(one), one)))
        self._add(approve, reject)
        overlap = sorted(_listed(self._approve) & (_listed(self._reject) | _listed(self._reject_whole)))
        if overlap:
            raise VocabularyError(f"{overlap[0]!r} is both an approve-word and a reject-word: remove it from one list")
        self._reject_words = frozenset(one[0] for one in _all(self._reject) if len(one) == 1)
        self._reject_phrases = tuple(f" {' '.join(one)} " for one in _all(self._reject) if len(one) > 1)

    def _add(self, approve: Iterable[str], reject: Iterable[str]) -> None:
        for table, extra in ((self._approve, approve), (self._reject, reject)):
            for word in extra:
                phrase = tuple(words(fold(word)))
                if not phrase:
                    raise VocabularyError(f"{word!r} holds no word")
                entry = (phrase, frozenset({""}))
                row = table.setdefault(phrase[0], [])
                row[:] = sorted([entry, *(one for one in row if one[0] != phrase)], key=lambda one: -len(one[0]))

    # Lines

    def approves(self, line: Sequence[str]) -> Match | None:
        """The approve-word that a line of words begins with, marks of emphasis and lists aside.

        What is approved may stand before it ("the order is approved") or behind it ("I approve this order").
        """
        start = _emphasis(line, self._approve)
        match = _at(self._approve, line, start) or self._behind_subject(self._approve, line, start)
        thing = _at(self._object, line, match.length) if match else None
        # "Approve this is a comment": where more follows, the object belongs to that.
        if match and thing and thing.languages & match.languages and self.only_courtesies(line[thing.length :]):
            return Match(f"{match.phrase} {thing.phrase}", thing.length, match.languages)
        return match

    def _behind_subject(self, table: _Phrases, line: Sequence[str], start: int) -> Match | None:
        subject = _at(self._subject, line, start)
        if subject is None:
            return None
        comma = subject.length < len(line) and line[subject.length] in _COMMAS
        match = _at(table, line, subject.length + comma)
        if match is None or not match.languages & subject.languages:
            return None
        return Match(" ".join(line[start : match.length]), match.length, match.languages)

    def rejects(self, line: Sequence[str], folded: str) -> Match | None:
        """The reject-word that a line of words begins with."""
        start = _emphasis(line, self._reject)
        if match := _at(self._reject, line, start) or self._behind_subject(self._reject, line, start):
            return match
        if (match := _at(self._reject_whole, line, start)) and self.only_courtesies(line[match.length :]):
            return match
        head = folded.lstrip("".join(_PUNCTUATION) + " 　")
        for word in self._together_reject:
            if head.startswith(word) and not head[len(word) :].startswith(
                ("しません", "しない", "できません", "하지 않", "하지않")
            ):
                spelled = _consumed(line, start, word)
                return Match(word, spelled, frozenset({"zh", "ja", "ko", "th"}))
        return None

    def only_courtesies(self, rest: Sequence[str]) -> bool:
        """Whether there is nothing but punctuation, smiles and courtesies in these words."""
        position, thanked = 0, False
        while position < len(rest):
            word = rest[position]
            if word in _PUNCTUATION or word in _CHEERFUL:
                position += 1
                continue
            match = _at(self._courtesy, rest, position) or (_at(self._thanked, rest, position) if thanked else None)
            if match is None:
                return False
            position, thanked = match.length, True
        return True

    def greets(self, line: Sequence[str], folded: str) -> bool:
        """Whether a line is a greeting, with a name perhaps, and nothing else."""
        spoken = [word for word in line if word not in _PUNCTUATION and word not in ":👋"]
        if not spoken or len(spoken) > MAX_GREETING or "?" in line:
            return False
        if self.speaks_against(folded) or any(self.decides(spoken, at) for at in range(len(spoken))):
            return False
        if any(one in folded for one in self._together_approve):
            return False
        if _HONORIFIC.match(folded) or _CHINESE_GREETING.match(folded):
            return True
        match = _at(self._greeting, spoken, 0)
        if match is None and len(spoken) <= 4:
            match = _at(self._greeting, spoken, len(spoken) - 1)
        return match is not None and not self.doubting(folded, match.languages)

    def decides(self, line: Sequence[str], position: int) -> bool:
        """Whether a decision word stands at this position."""
        return any(_at(table, line, position) for table in (self._approve, self._reject, self._reject_whole))

    def only_words(self, line: Sequence[str]) -> bool:
        """Whether no decision word and no question stands among these words."""
        if "?" in line or any(self.decides(line, at) for at in range(len(line))):
            return False
        return not any(one in "".join(line) for one in self._together_approve)

    # Texts

    def rejecting(self, folded: str) -> str:
        """A reject-word anywhere in a line, or ""."""
        line = words(without_addresses(folded))
        for word in line:
            if word in self._reject_words:
                return word
        joined = f" {' '.join(line)} "
        return next((one.strip() for one in self._reject_phrases if one in joined), "")

    def speaks_against(self, folded: str) -> str:
        """A reject-word or doubt of any language in a line, or ""."""
        return self.rejecting(folded) or self.doubting(folded, frozenset())

    def doubting(self, folded: str, languages: frozenset[str]) -> str:
        """A word of doubt in a line whose decision is in these languages, or ""."""
        folded = _NUMBERED.sub(" ", without_addresses(folded))
        line = words(folded)
        joined = f" {' '.join(line)} "
        for one in self._harmless:
            if one in joined:
                joined = joined.replace(one, " . ")
                line = joined.split()
        for word in line:
            if word in self._doubts or word.endswith("n't"):
                return word
        for one in self._doubt_phrases:
            if one in joined:
                return one.strip()
        if own := self._own_doubt(line, joined, languages):
            return own
        return "" if folded.isascii() else self._within(folded, languages)

    def _own_doubt(self, line: list[str], joined: str, languages: frozenset[str]) -> str:
        english = languages <= {"en", ""} and bool(languages)
        for code, own in self._own.items():
            found = own.intersection(line)
            if code in languages:
                found |= {one for one in own if " " in one and f" {one} " in joined}
                if found:
                    return min(found)
            elif english and found:
                if len(found) > 1 or self._approve_word(line, code):
                    return min(found)
                word = next(iter(found))
                starts = [at for at, one in enumerate(line) if one == word]
                if (
                    word in _OPENING
                    and len(line) > 2
                    and any(at == 0 or line[at - 1] in _SENTENCE_END for at in starts)
                ):
                    return word
        return ""

    def _approve_word(self, line: Sequence[str], code: str) -> bool:
        matches = (_at(self._approve, line, position) for position in range(len(line)))
        return any(match and code in match.languages for match in matches)

    def _within(self, folded: str, languages: frozenset[str]) -> str:
        for code, (harmless, doubts) in self._substrings.items():
            written = _SCRIPTS[code].search(folded) and not (code == "zh" and _SCRIPTS["ja"].search(folded))
            if not written and code not in languages:
                continue
            text = folded
            for one in harmless:
                text = text.replace(one, " ")
            for one in doubts:
                if one in text:
                    return one
        return ""


@lru_cache(maxsize=8)
def lexicon(approve: tuple[str, ...] = (), reject: tuple[str, ...] = ()) -> Lexicon:
    """The lexicon with these configured words. Raises VocabularyError."""
    return Lexicon(approve, reject)


def line_words(folded: str) -> list[str]:
    """The words of one line, smiles as one character each."""
    return words(_SMILE.sub("🙂", folded))


def _split(table: str, skip: str = "") -> list[str]:
    return [one for one in table.split("|") if one and not (skip and one.startswith(skip))]


def _only_marked(table: str) -> list[str]:
    return [one[1:] for one in table.split("|") if one.startswith("=")]


def _joined(phrase: str) -> str:
    return " ".join(words(fold(phrase)))


def _phrases(rows: Iterable[tuple[str, list[str]]]) -> _Phrases:
    found: dict[tuple[str, ...], set[str]] = {}
    for code, phrases in rows:
        for phrase in phrases:
            folded = fold(phrase)
            for spelling in (folded, plain(folded)):
                found.setdefault(tuple(words(spelling)), set()).add(code)
    table: _Phrases = {}
    for spelled, codes in sorted(found.items(), key=lambda one: -len(one[0])):
        table.setdefault(spelled[0], []).append((spelled, frozenset(codes)))
    return table


def _all(table: _Phrases) -> Iterable[tuple[str, ...]]:
    return (phrase for row in table.values() for phrase, _ in row)


def _listed(table: _Phrases) -> set[str]:
    return {" ".join(phrase) for phrase in _all(table)}


def _at(table: _Phrases, line: Sequence[str], position: int) -> Match | None:
    """The longest phrase at a position; `length` counts from the start of the line."""
    if position >= len(line):
        return None
    for phrase, languages in table.get(line[position], ()):
        if tuple(line[position : position + len(phrase)]) == phrase:
            return Match(" ".join(phrase), position + len(phrase), languages)
    return None


def _emphasis(line: Sequence[str], table: _Phrases) -> int:
    start = 0
    while (
        start < len(line) and (line[start] in _PUNCTUATION or line[start] in _CHEERFUL) and not _at(table, line, start)
    ):
        start += 1
    return start


def _consumed(line: Sequence[str], start: int, word: str) -> int:
    left = word.replace(" ", "")
    position = start
    while left and position < len(line):
        left = left[len(line[position]) :] if left.startswith(line[position]) else ""
        position += 1
    return position
