"""When a message is due, whatever happens to the wall clock."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mailrelayd.outbound import queueid
from mailrelayd.outbound.idset import Ids
from mailrelayd.outbound.values import Progress, RecipientRecord, Response, Stage, Status
from mailrelayd.outbound.waiting import HELD, LONGEST_WAIT, SLACK, Waiting, when_due

NOW, MONO = 1_000_000.0, 50.0
nodes = st.sampled_from(["22222", "zzzzz"])


def identity(number: int, node: str = "22222") -> str:
    """The `number`-th id of a node."""
    return queueid.encode(1_800_000_000_000_000 + number, 11) + node


def deferred(at: float, delay: float) -> Progress:
    """One recipient, refused at `at` and to be tried again so many seconds later."""
    answer = Response(Stage.RCPT, 450, "4.2.1", "later")
    record = RecipientRecord(Status.DEFERRED, answer, 1, at=at, next_attempt=at + delay)
    return Progress(at, recipients={"a@b.test": record})


@pytest.mark.parametrize(
    ("at", "delay", "due"),
    [
        (NOW - 10, 30.0, MONO + 20),  # as planned
        (NOW - 100, 30.0, 0.0),  # long over
        (NOW + 1, 30.0, MONO + 31),  # a clock that is corrected by a second is no reason for anything
        (NOW + 86400, 30.0, 0.0),  # planned by a clock that was a day ahead: tried now, planned anew
        (NOW, 3 * 86400.0, MONO + LONGEST_WAIT),
    ],
)
def test_a_plan_made_by_a_clock_that_was_ahead_is_void(at: float, delay: float, due: float) -> None:
    """What was refused in the future is due at once; all else when it was said."""
    assert when_due(deferred(at, delay), NOW, MONO) == due


@pytest.mark.parametrize("due", [0.0, MONO + 3600])
def test_what_is_changed_again_and_again_takes_no_more_room(due: float) -> None:
    """An operator's hold and release, or retry, every minute of an outage: the order stays, so does the size."""
    waiting = Waiting()
    ids = [identity(number) for number in range(10)]
    waiting.learn(Ids(), dict.fromkeys(ids, due), [])
    for _ in range(SLACK):
        for queue_id in ids:
            waiting.pop(queue_id)
            waiting.put(queue_id, HELD)
            waiting.pop(queue_id)
            waiting.put(queue_id, due)
    assert len(waiting._ready) + len(waiting._later) + len(waiting._oldest) <= SLACK + 3 * len(ids)
    assert len(waiting._lines.get("22222", [])) <= SLACK + len(ids)
    assert [waiting.claim(MONO + 3600) for _ in range(11)] == [*ids, ""]


def test_very_many_that_are_due_take_little_memory() -> None:
    """Those that came one behind the other take eight bytes each, whether they are given out or not, held or not."""
    waiting, count = Waiting(), 40_000
    tracemalloc.start()
    try:
        for number in range(count):
            waiting.put(identity(number), 0.0)
        for number in range(count // 2):
            assert waiting.claim(0.0) == identity(number)
        for number in range(count // 2 + 1, count):
            waiting.pop(identity(number))
        assert tracemalloc.get_traced_memory()[1] < 24 * count
    finally:
        tracemalloc.stop()
    assert waiting.counted(0.0) == (1, 0, 0)
    assert waiting.claim(0.0) == identity(count // 2)


class WaitingMachine(RuleBasedStateMachine):
    """Everything that may happen to what waits, against a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = Waiting()
        self.model: dict[str, float] = {}
        self.wishes: set[str] = set()
        self.mono = 0.0
        self.last = 100

    @initialize(ids=st.dictionaries(st.tuples(st.integers(0, 50), nodes), st.sampled_from([0.0, 5.0, HELD])))
    def learn(self, ids: dict[tuple[int, str], float]) -> None:
        self.model = {identity(*one): due for one, due in ids.items()}
        ready = Ids(queue_id for queue_id, due in self.model.items() if due == 0.0)
        self.waiting.learn(ready, {queue_id: due for queue_id, due in self.model.items() if due}, [])
        self.last = 100

    def due(self) -> list[str]:
        return sorted(queue_id for queue_id, due in self.model.items() if due <= self.mono)

    @rule(node=nodes, due=st.sampled_from([0.0, 0.0, 3.0, HELD]), wish=st.booleans())
    def arrive(self, node: str, due: float, wish: bool) -> None:
        self.last += 1
        self.put(identity(self.last, node), due and self.mono + due, wish and due > 0)

    @rule(number=st.integers(0, 60), node=nodes, due=st.sampled_from([0.0, 3.0, HELD]), wish=st.booleans())
    def come_back(self, number: int, node: str, due: float, wish: bool) -> None:
        queue_id = identity(number, node)
        if queue_id not in self.model:
            self.put(queue_id, due and self.mono + due, wish and due > 0)

    def put(self, queue_id: str, due: float, wish: bool) -> None:
        self.waiting.forget(queue_id)
        self.waiting.put(queue_id, due, wish=wish)
        self.model[queue_id] = due
        self.wishes = self.wishes - {queue_id} | {queue_id} if wish else self.wishes - {queue_id}

    @rule()
    def claim(self) -> None:
        found = self.waiting.claim(self.mono)
        assert found == next(iter(self.due()), "")
        self.model.pop(found, None)

    @rule(number=st.integers(0, 120), node=nodes)
    def pop(self, number: int, node: str) -> None:
        queue_id = identity(number, node)
        assert (queue_id in self.waiting) == (queue_id in self.model)
        if queue_id in self.model:
            due, expected = self.waiting.pop(queue_id), self.model.pop(queue_id)
            assert due == expected or max(due, expected) <= self.mono

    @rule(seconds=st.sampled_from([1.0, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.mono += seconds

    @invariant()
    def all_agree(self) -> None:
        due, held = self.due(), sum(one == HELD for one in self.model.values())
        assert self.waiting.first(self.mono) == next(iter(due), "")
        assert self.waiting.counted(self.mono, [0.0, HELD, self.mono + 1]) == (
            len(due) + 1,
            len(self.model) - len(due) - held + 1,
            held + 1,
        )
        assert self.waiting.are_due(len(due), self.mono)
        assert not self.waiting.are_due(len(due) + 1, self.mono)
        assert self.waiting.oldest() == min(self.model, default="")
        later = {queue_id: when for queue_id, when in self.model.items() if self.mono < when < HELD}
        turn = self.waiting.next_time()
        assert turn == min(later.values(), default=None)
        for queue_id in self.model:
            assert self.waiting.is_due(queue_id, self.mono) == (queue_id in due)
            before = any(one < queue_id and one not in self.wishes for one in later)
            assert self.waiting.deferred_before(queue_id) == before


TestWaiting = WaitingMachine.TestCase
TestWaiting.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
