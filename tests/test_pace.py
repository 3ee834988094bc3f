"""Rates: never more than so many in any stretch of time, and never fewer than could be."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given, settings
from hypothesis import strategies as st

from mailrelayd.config.units import Rate
from mailrelayd.outbound.pace import Pace, Paces

RATES = st.builds(Rate, st.integers(1, 5), st.integers(1, 10).map(float))
STEPS = st.lists(st.integers(0, 40), max_size=60)


@settings(deadline=None)
@given(RATES, STEPS)
def test_no_window_ever_holds_more_and_no_wait_is_longer_than_needed(rate: Rate, steps: list[int]) -> None:
    """Against the definition, counted anew at every moment: wherever the window begins."""
    pace, now, passed = Pace(rate), 0.0, list[float]()
    for step in steps:
        now += step / 4
        within = [at for at in passed if at > now - rate.seconds]
        wait = pace.wait(now)
        assert (wait == 0.0) == (len(within) < rate.count)
        if wait:
            assert wait == within[-rate.count] + rate.seconds - now
            assert pace.wait(now + wait) == 0.0
        else:
            pace.take(now)
            passed.append(now)
    for at in passed:
        assert sum(1 for other in passed if at <= other < at + rate.seconds) <= rate.count


def test_without_a_rate_everything_passes() -> None:
    """No rate, no wait, nothing remembered."""
    pace = Pace(None)
    for _ in range(1000):
        pace.take(0.0)
    assert pace.wait(0.0) == 0.0
    assert pace.idle(0.0)


def test_a_new_rate_counts_what_has_passed() -> None:
    """A reload does not open the door for another burst; a longer rate begins with what is still known."""
    pace = Pace(Rate(3, 60.0))
    for now in (0.0, 1.0, 2.0):
        pace.take(now)
    pace.rate = Rate(2, 60.0)
    assert pace.wait(3.0) == 58.0
    pace.rate = Rate(3, 60.0)
    assert pace.wait(3.0) == 0.0
    pace.rate = None
    assert pace.wait(3.0) == 0.0


def test_each_has_a_pace_of_their_own_and_idle_ones_are_forgotten() -> None:
    """Who is quick holds up nobody else; the memory is that of those who were active lately."""
    paces = Paces(Rate(1, 60.0))
    paces.take(1000, 0.0)
    assert (paces.wait(1000, 10.0), paces.wait(1001, 10.0)) == (50.0, 0.0)
    for who in range(2000, 2100):
        paces.take(who, float(who))
    assert len(paces._each) <= 61
    paces.rate = Rate(2, 60.0)
    assert paces.wait(2099, 2099.0) == 0.0
    paces.rate = None
    assert paces.wait(2099, 2099.0) == 0.0


def test_folders_and_socket_may_ask_at_the_same_time() -> None:
    """From two threads: nothing is raised in the middle of taking a file."""
    paces = Paces(Rate(2, 1.0))

    def hand_in(first: int) -> None:
        for number in range(5000):
            paces.wait(first + number % 3, 3.0 * number)
            paces.take(first + number % 3, 3.0 * number)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(3) as pool:
            assert list(pool.map(hand_in, (0, 10, 20))) == [None, None, None]
    finally:
        sys.setswitchinterval(before)
