"""The order in which mails are read, and what becomes of those that make trouble."""

from __future__ import annotations

from mailrelayd.inbound.backlog import LATER, TRIES, Backlog, Waiting


def backlog(ours: set[int], others: set[int]) -> Backlog:
    made = Backlog()
    for uid in sorted(ours | others, reverse=True):
        made.add(Waiting(uid, 100, float(uid), uid in ours))
    return made


def order(made: Backlog, now: float = 0.0) -> list[int]:
    return [mail.uid for mail in made.ready(now)]


def test_answers_go_first_and_the_old_before_the_new() -> None:
    """Each kind in the order of arrival."""
    assert order(backlog({4, 2}, {1, 3})) == [2, 4, 1, 3]


def test_what_has_failed_goes_behind_what_has_not() -> None:
    """But an answer still before all else."""
    made = backlog({1, 2}, {3})
    made.stumble(1, 0.0, 0.0)
    assert order(made) == [2, 1, 3]


def test_what_is_put_off_waits_for_its_time_and_counts_no_try() -> None:
    """As often as it takes."""
    made = backlog({1}, set())
    for turn in range(10):
        made.put_off(1, turn + 5.0)
        assert order(made, turn + 4.9) == []
        assert order(made, turn + 5.0) == [1]
    assert made.tries(1) == 0


def test_the_last_straw_is_told_once_and_the_mail_tried_again_much_later() -> None:
    """However often it fails after that."""
    made = backlog({1}, set())
    told = [made.stumble(1, 10.0 * turn, 10.0 * turn) for turn in range(TRIES + 3)]
    assert told == [False] * (TRIES - 1) + [True] + [False] * 3
    at = 10.0 * (TRIES + 2) + LATER
    assert (order(made, at - 1), order(made, at)) == ([], [1])


def test_everything_was_read_up_to_what_still_waits() -> None:
    """What was given up does not count; where something is unknown, nobody can tell."""
    made = backlog({5}, {3, 9})
    assert made.read_until(8.0) == 3.0
    made.finish(3)
    assert made.read_until(8.0) == 5.0
    made.stumble(5, 0.0, 0.0)
    assert made.read_until(8.0) == 5.0
    for _ in range(TRIES - 1):
        made.stumble(5, 0.0, 0.0)
    assert made.read_until(8.0) == 8.0
    made.suspect(7)
    assert made.read_until(8.0) is None


def test_what_others_removed_is_forgotten_but_not_what_was_not_listed() -> None:
    """Only UIDs from the first listed one on can be missing."""
    made = backlog({2, 6}, {8})
    made.suspect(7)
    made.forget_all_but({8}, 5)
    assert order(made) == [2, 8]
    assert not made.suspected(7)
    assert made.first() == 2
