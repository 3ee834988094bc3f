"""Queue ids: their order is the order of arrival, and none is ever given out twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrelayd.outbound import queueid
from mailrelayd.outbound.queueid import RESERVE, Sequence

NOW = 1_800_000_000.0
MOMENTS = st.floats(min_value=0.0, max_value=4_000_000_000.0)


@given(st.lists(MOMENTS, min_size=2, max_size=50))
def test_ids_ascend_whatever_the_clock_does(moments: list[float]) -> None:
    """Every id is greater than the one before, even when the clock stands still or is set back."""
    sequence = Sequence("relay1", last=0)
    ids = [sequence.take(moment)[0] for moment in moments]
    assert ids == sorted(set(ids))
    assert all(queueid.valid(one) for one in ids)


@given(MOMENTS, MOMENTS)
def test_names_sort_by_time(one: float, other: float) -> None:
    """Sorting the names sorts by arrival, so that a folder's listing is the order of the queue."""
    first, second = (Sequence("relay1", last=0).take(moment)[0] for moment in (one, other))
    assert (first < second) == (queueid.microseconds(first) < queueid.microseconds(second))


@given(st.floats(min_value=1.0, max_value=4_000_000_000.0))
def test_an_id_tells_its_time(moment: float) -> None:
    """The time of arrival can be read back from the id."""
    queue_id, _ = Sequence("relay1", last=0).take(moment)
    assert queueid.arrived_at(queue_id) == pytest.approx(moment, abs=1e-5)
    assert queueid.microseconds(queue_id) == int(moment * 1_000_000)


def test_two_nodes_never_share_an_id() -> None:
    """The same microsecond on another machine is another id."""
    ids = {Sequence(f"relay{number}", last=0).take(NOW)[0] for number in range(200)}
    assert len(ids) == 200


def test_what_is_used_was_reserved() -> None:
    """A number to write down comes with the first id, and then only when the reserve is used up."""
    sequence = Sequence("relay1", last=0)
    queue_id, write = sequence.take(NOW)
    assert write is not None
    assert write > queueid.microseconds(queue_id)
    sequence.reserved = write
    assert sequence.take(NOW + 1)[1] is None
    later, again = sequence.take(NOW + RESERVE / 1_000_000 + 1)
    assert again is not None
    assert again > queueid.microseconds(later)


def test_a_reserve_that_could_not_be_written_is_asked_for_again() -> None:
    """Until somebody says that the number is on disk, every id asks for it."""
    sequence = Sequence("relay1", last=0)
    assert sequence.take(NOW)[1] is not None
    assert sequence.take(NOW)[1] is not None


@pytest.mark.parametrize("back", [0.0, 1.0, 3600.0, NOW])
def test_after_a_restart_no_id_comes_again(back: float) -> None:
    """With nothing known but the reserved number, ids go on above all that were used, clock set back or not."""
    before = Sequence("relay1", last=0)
    written, used = 0, []
    for step in range(100):
        queue_id, write = before.take(NOW + step)
        if write is not None:
            written = before.reserved = write
        used.append(queue_id)
    after = Sequence("relay1", last=written, reserved=written)
    queue_id, write = after.take(NOW - back)
    assert queue_id > max(used)
    assert write is not None


GOOD = Sequence("relay1", last=0).take(NOW)[0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        GOOD[:-1],
        GOOD + "2",
        GOOD + "\n",
        GOOD.upper(),
        GOOD[:-1] + "1",
        GOOD[:-1] + "8",
        GOOD[:-1] + "/",
        GOOD[:-1] + ".",
        GOOD[:-1] + "\0",
        GOOD[:-1] + "\u0663",
        "../../../etc/pas",
        " " * 16,
    ],
)
def test_nothing_else_is_valid(text: str) -> None:
    """What is not an id cannot become part of a path."""
    assert queueid.valid(GOOD)
    assert not queueid.valid(text)


@given(st.text(max_size=20))
def test_a_valid_id_is_harmless_in_a_path(text: str) -> None:
    """Whatever passes holds lower-case letters and digits only."""
    if queueid.valid(text):
        assert text.isascii()
        assert text.isalnum()
        assert text == text.lower()
