"""SPOOL/journal as bytes: what was written is read, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrelayd.outbound import journal, queueid
from mailrelayd.outbound.idset import Ids

numbers = st.integers(0, 2**54)
nodes = st.sampled_from(["22222", "dhipq", "zzzzz"])
ids = st.builds(lambda number, node: queueid.encode(number, 11) + node, numbers, nodes)


@given(st.dictionaries(ids, st.integers(0, 2**64 - 1), max_size=20))
def test_what_was_written_is_read(wanted: dict[str, int]) -> None:
    """Every message with its inode, whichever slots they lie in; the file always has the same size."""
    slots = enumerate((journal.encode(queue_id, inode) for queue_id, inode in wanted.items()), 7)
    data = journal.whole(slots)
    assert len(data) == journal.SIZE
    assert journal.decode(data) == wanted


@given(ids, st.integers(0, 2**64 - 1), st.data())
def test_a_damaged_slot_is_skipped(queue_id: str, inode: int, data: st.DataObject) -> None:
    """Whatever became of one byte, or of what was torn, it names no other message, and its neighbour is read."""
    slot = bytearray(journal.encode(queue_id, inode))
    at = data.draw(st.integers(0, len(slot.rstrip()) - 1))
    if data.draw(st.booleans()):
        slot[at] ^= data.draw(st.integers(1, 255))
    else:
        slot[at:] = journal.EMPTY[at:]
    other = "2" * 16
    found = journal.decode(journal.whole([(1, bytes(slot)), (2, journal.encode(other, 5))]))
    assert found == {other: 5}


@pytest.mark.parametrize(
    "data", [b"", b"\0" * journal.SIZE, b"x" * 100, journal.whole([])[:-1], b"\xff" * 64 + journal.EMPTY]
)
def test_what_is_no_journal_names_nothing(data: bytes) -> None:
    """An empty file, a torn one, a foreign one."""
    assert journal.decode(data) == {}


def test_a_newer_journal_is_refused() -> None:
    """What it says is not known; it would be sent again."""
    newer = b"%-63s\n" % b"mailrelayd journal 2" + journal.whole([])[64:]
    with pytest.raises(ValueError, match="is of format 2, and this program knows 1"):
        journal.decode(newer)


@given(st.lists(ids, unique=True), st.lists(ids, unique=True), st.sets(ids))
def test_many_ids_are_a_sorted_set(some: list[str], others: list[str], more: set[str]) -> None:
    """In the order of the queue, whatever the order in which they came and whose they are."""
    made, taken = Ids(some), Ids([*others, *some[:2]] if not set(some[:2]) & set(others) else others)
    assert list(made) == sorted(some)
    assert len(made) == len(some)
    assert all((queue_id in made) == (queue_id in some) for queue_id in [*some, *others])
    assert made.newest == max(map(queueid.microseconds, some), default=0)
    left = made.without(taken, more)
    assert list(left) == sorted(set(some) - set(taken) - more)
    rest = Ids(set(taken) - set(left))
    left.join(rest)
    assert list(left) == sorted({*left, *rest})
