"""Text as it is compared: folded letters, words, questions.

Two texts that a reader would call the same are folded to the same letters: width and case (Unicode NFKC), invisible
characters, the Turkish dotless i, Arabic spelling variants. Accents are kept; `plain` is the form of a word in a
vocabulary that was typed without them.
"""

from __future__ import annotations

import re
import unicodedata

_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u0640\u064b-\u0652\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U0001f3fb-\U0001f3ff\U000e0000-\U000e0fff]"
)
_OVERRIDE = re.compile("[\u202d\u202e]")  # display order unlike the order of the letters
_CONTROL = re.compile("[\0-\x08\x0e-\x1f\x7f-\x9f]")
_VARIANTS = str.maketrans("ı’‘ʼ`´‐‑‒–—―−أإآىةیک", "i'''''-------ااايهيك")
# Honorifics of up to four words, here as they are abbreviated by hand: no other character grows tenfold.
_HONORIFICS = str.maketrans("\ufdfa\ufdfb", "\u0635\u062c")
_WORD = re.compile(r"(?:[^\W_]|[\u0591-\u05c7\u0610-\u061a\u0900-\u0963\u0966-\u0e7f])+(?:'[^\W_]+)*|[^\w\s]|_")
# A second colon ends the name behind "mailto:": else each of many would be read to the end of the line.
_ADDRESS = re.compile(r"(?:https?|ftp)://[^\s<>\"]*|mailto:[^\s<>\"@:]*@[^\s<>\"]*|www\.[^\s<>\"]*", re.IGNORECASE)
# "example.com/a?b", where only a question mark is looked for: "Rejected.See/x" has this form, too.
_BARE_ADDRESS = re.compile(r"(?<![\w.-])[\w-]{1,63}(?:\.[\w-]{1,63}){1,9}/[^\s<>\"]+")
_PLACEHOLDER = re.compile(r"\[(?:cid:|image:|image removed|bild:|imagen:|inline image)[^\]\n]{0,300}\]", re.IGNORECASE)
_GREEK = re.compile("[\u0370-\u03ff\u1f00-\u1fff]")
_QUESTION = re.compile("[?¿؟‽⸮❓❔՞፧]")
_MARKED = re.compile("[\u0300-\u036f]")


def clean(text: str) -> str:
    """A line without control characters, addresses of web pages and placeholders for pictures."""
    text = _CONTROL.sub("", text)
    if "[" in text:
        text = _PLACEHOLDER.sub("", text)
    return text


def fold(text: str) -> str:
    """The text in the letters that are compared."""
    if text.isascii():
        return text.lower().replace("`", "'")
    text = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text).translate(_HONORIFICS))
    text = _INVISIBLE.sub("", text.casefold())
    return text.replace("i\u0307", "i").translate(_VARIANTS)


def plain(word: str) -> str:
    """A folded word without accents, as it is typed on a foreign keyboard."""
    return unicodedata.normalize("NFC", _MARKED.sub("", unicodedata.normalize("NFD", word))).translate(_STROKES)


_STROKES = str.maketrans("łøđ", "lod")


def words(folded: str) -> list[str]:
    """The words of a folded text, and its other visible characters each by itself."""
    return _WORD.findall(folded)


def without_addresses(text: str) -> str:
    """The text without web addresses: what stands in them is not said by anybody."""
    return _ADDRESS.sub(" ", text) if ":" in text or "www." in text else text


def asks(line: str) -> bool:
    """Whether there is a question mark in a line, of whatever script."""
    line = _BARE_ADDRESS.sub(" ", without_addresses(line))
    if _QUESTION.search(line):
        return True
    if not line.isascii() and _QUESTION.search(unicodedata.normalize("NFKC", line.translate(_HONORIFICS))):
        return True
    return (";" in line or "\u037e" in line) and bool(_GREEK.search(line))  # the Greek one


def overridden(text: str) -> bool:
    """Whether the text is displayed in another order than it is read here."""
    return bool(_OVERRIDE.search(text))
