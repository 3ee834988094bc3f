"""Very many queue ids in little memory: eight bytes each. Pure."""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator
from itertools import repeat

from mailrelayd.outbound import queueid

NODE = 5  # characters at the end of an id, which tell whose it is; those before are its microseconds
TIME = 11
CHUNK = 1 << 16  # ids sorted in one go: a sorted list of a million numbers takes five times their room


def of(number: int, node: str) -> str:
    """The id of these microseconds and this node's part."""
    return queueid.encode(number, TIME) + node


def holds(numbers: array[int], number: int, start: int = 0) -> bool:
    """Whether a sorted array has this number at `start` or behind it."""
    at = bisect_left(numbers, number, start)
    return at < len(numbers) and numbers[at] == number


class Ids:
    """A set of queue ids that is filled and sorted, then asked."""

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self.by_node: dict[str, array[int]] = {}  # microseconds
        for queue_id in ids:
            self.add(queue_id)
        self.sort()

    def add(self, queue_id: str) -> None:
        """One more, which is not there yet; nothing may be asked before `sort`."""
        self.by_node.setdefault(queue_id[-NODE:], array("q")).append(queueid.microseconds(queue_id))

    def sort(self) -> None:
        """All of them are there."""
        for node, numbers in self.by_node.items():
            chunks = (numbers[start : start + CHUNK] for start in range(0, len(numbers), CHUNK))
            self.by_node[node] = array("q", heapq.merge(*(array("q", sorted(chunk)) for chunk in chunks)))

    def __len__(self) -> int:
        return sum(map(len, self.by_node.values()))

    def __contains__(self, queue_id: str) -> bool:
        numbers = self.by_node.get(queue_id[-NODE:])
        return numbers is not None and holds(numbers, queueid.microseconds(queue_id))

    def __iter__(self) -> Iterator[str]:
        """In the order of the queue."""
        return heapq.merge(*(map(of, numbers, repeat(node)) for node, numbers in self.by_node.items()))

    @property
    def newest(self) -> int:
        """The microseconds of the youngest; 0: there is none."""
        return max((numbers[-1] for numbers in self.by_node.values()), default=0)

    def join(self, others: Ids) -> None:
        """Those of the others, too; none of them is here already."""
        for node, numbers in others.by_node.items():
            mine = self.by_node.get(node)
            self.by_node[node] = numbers if not mine else array("q", heapq.merge(mine, numbers))

    def without(self, others: Ids, more: Collection[str] = ()) -> Ids:
        """Those that are in neither."""
        left = Ids()
        for node, numbers in self.by_node.items():
            taken = others.by_node.get(node, array("q"))
            if taken or more:
                numbers = array("q", (n for n in numbers if not holds(taken, n) and not (more and of(n, node) in more)))
            if numbers:
                left.by_node[node] = numbers
        return left
