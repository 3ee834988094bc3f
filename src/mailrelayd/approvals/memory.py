"""What was sent, remembered as far as a reply may repeat it: the only way to know quotation that no client marked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from mailrelayd.approvals.words import fold, without_addresses, words

GRAM = 4  # words in a row that nobody writes anew by chance
MAX_WORDS = 40_000


class Memory:
    """The lines of a request.

    A line of a reply is quoted if all its words stand in the request in the same order, in runs of at least GRAM
    that may reach into the lines next to it. A shorter line, such as a lone decision word, is quoted only if the line
    before or behind it in the reply stands before or behind it in the request, too.
    """

    def __init__(self, *texts: Iterable[str]) -> None:
        self._grams: set[tuple[str, ...]] = set()
        self._neighbours: set[tuple[tuple[str, ...], tuple[str, ...]]] = set()
        for text in texts:
            lines = [spoken for spoken in map(_spoken, text) if spoken]
            sent = [word for line in lines for word in line][:MAX_WORDS]
            self._grams.update(tuple(sent[at : at + GRAM]) for at in range(len(sent) - GRAM + 1))
            self._neighbours.update(pairwise(lines))

    def quoted(self, lines: Sequence[str]) -> frozenset[int]:
        """The positions of the lines that stand in the request."""
        spoken = [(position, words) for position, line in enumerate(lines) if (words := _spoken([line]))]
        return self._covered(spoken) | self._neighbouring(spoken)

    def _covered(self, spoken: list[tuple[int, tuple[str, ...]]]) -> frozenset[int]:
        sequence = [(word, position) for position, line in spoken for word in line]
        covered = [False] * len(sequence)
        for at in range(len(sequence) - GRAM + 1):
            if tuple(word for word, _ in sequence[at : at + GRAM]) in self._grams:
                covered[at : at + GRAM] = [True] * GRAM
        missing = {position for (_, position), seen in zip(sequence, covered, strict=True) if not seen}
        return frozenset(position for position, _ in spoken if position not in missing)

    def _neighbouring(self, spoken: list[tuple[int, tuple[str, ...]]]) -> frozenset[int]:
        found = set()
        for (position, line), (following, other) in pairwise(spoken):
            if (line, other) in self._neighbours:
                found |= {position, following}
        return frozenset(found)


def _spoken(line: Iterable[str] | str) -> tuple[str, ...]:
    text = line if isinstance(line, str) else " ".join(line)
    return tuple(word for word in words(fold(without_addresses(text))) if word[0].isalnum())
