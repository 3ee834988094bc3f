"""When a message is due, whatever happens to the wall clock."""

from __future__ import annotations

import pytest

from mailrelayd.outbound.values import Progress, RecipientRecord, Response, Stage, Status
from mailrelayd.outbound.waiting import HELD, LONGEST_WAIT, SLACK, Waiting, when_due

NOW, MONO = 1_000_000.0, 50.0


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
    ids = [f"id{number}" for number in range(10)]
    waiting.learn(dict.fromkeys(ids, due), [])
    for _ in range(SLACK):
        for queue_id in ids:
            waiting.pop(queue_id)
            waiting.put(queue_id, HELD)
            waiting.pop(queue_id)
            waiting.put(queue_id, due)
    assert len(waiting._ready) + len(waiting._later) <= SLACK + 2 * len(ids)
    order = []
    while waiting.first(MONO + 3600):
        order.append(waiting.claim())
    assert order == ids
