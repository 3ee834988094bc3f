"""Who may be sent to, and how fast: the rules, and random histories that try to get past them."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrelayd.config.units import Rate
from mailrelayd.outbound.guard import DENIED, DRY_RUN, NOT_ALLOWED, RULES, Brake, Guard

BOSS, SALES, MALLORY = "boss@example.org", "sales@eu.example.org", "mallory@evil.test"
EVERYBODY = (BOSS, SALES, MALLORY)


@pytest.mark.parametrize(
    ("guard", "send", "rules"),
    [
        (Guard(), EVERYBODY, []),
        (Guard(dry_run=True), (), [DRY_RUN] * 3),
        (Guard(dry_run=True, allow=("*",), redirect_to="test@x.test"), (), [DRY_RUN] * 3),
        (Guard(deny=("@evil.test",)), (BOSS, SALES), [DENIED]),
        (Guard(allow=("@example.org", "@*.example.org")), (BOSS, SALES), [NOT_ALLOWED]),
        (Guard(allow=("@example.org",)), (BOSS,), [NOT_ALLOWED] * 2),
        (Guard(allow=("*",), deny=("BOSS@Example.ORG",)), (SALES, MALLORY), [DENIED]),
        (Guard(deny=("*",), redirect_to="test@x.test"), (), [DENIED] * 3),
        (Guard(deny=("@evil.test",), redirect_to="test@x.test"), (BOSS, SALES), [DENIED]),
        # What stands in for everybody is the operator's word, whatever the lists say of it.
        (Guard(allow=("@example.org",), redirect_to="test@x.test"), (BOSS,), [NOT_ALLOWED] * 2),
    ],
)
def test_dry_run_comes_first_then_deny_then_allow(guard: Guard, send: tuple[str, ...], rules: list[str]) -> None:
    """Each recipient is judged for itself, in order; a redirection changes nothing about that."""
    verdict = guard.judge(EVERYBODY)
    assert verdict.send == send
    assert list(verdict.suppressed.values()) == rules
    assert tuple(recipient for recipient in EVERYBODY if recipient not in verdict.suppressed) == send


@pytest.mark.parametrize(
    "address",
    [
        "x@m\u00fcller.test",
        "x@M\u00dcLLER.test",
        "x@mu\u0308ller.test",
        "x@xn--mller-kva.test",
        "x@XN--Mller-kva.TEST",
        "x@m\u00fcller\u3002test",
        "x@m\u00fcller.\uff54est",
    ],
)
@pytest.mark.parametrize("pattern", ["@m\u00fcller.test", "@xn--mller-kva.test", "X@m\u00fcller.test"])
def test_a_denied_domain_is_denied_however_it_is_spelled(address: str, pattern: str) -> None:
    """A server takes each of these for the same domain (RFC 3490); none of them is more allowed than it was."""
    assert Guard(deny=(pattern,)).judge([address]).send == ()
    assert Guard(deny=("@*.test",)).judge([f"{address[:2]}a.{address[2:]}"]).send == ()
    assert Guard(allow=("@mueller.test", "@mu\u0308ller.example")).judge([address]).send == ()


def test_every_rule_has_a_sentence_that_names_its_key() -> None:
    """What is left out says which setting did it."""
    assert all("[guard]" in sentence for sentence in RULES.values())
    assert RULES.keys() == {DRY_RUN, DENIED, NOT_ALLOWED}


patterns = st.sampled_from(["*", BOSS, "@example.org", "@*.example.org", "@evil.test", "*@eu.example.org", "x@y.test"])


@given(
    st.builds(Guard, allow=st.tuples(patterns), deny=st.tuples(patterns), dry_run=st.booleans()),
    st.lists(st.sampled_from([*EVERYBODY, "x@y.test", "x@y.test.evil.test"]), unique=True),
)
def test_everybody_is_either_sent_to_or_left_out(guard: Guard, recipients: list[str]) -> None:
    """Nobody is forgotten, nobody stands on both sides, and judging what passed again changes nothing."""
    verdict = guard.judge(recipients)
    assert sorted([*verdict.send, *verdict.suppressed]) == sorted(recipients)
    assert guard.judge(verdict.send).send == verdict.send
    if guard.dry_run:
        assert verdict.send == ()


# -- the brake ---------------------------------------------------------------------------------------------------


def test_no_rate_holds_up_nobody() -> None:
    """Without [guard] rate nothing is even counted."""
    brake = Brake(None)
    for _ in range(1000):
        assert brake.wait(0.0) == 0.0
        brake.begin()
        brake.end(0.0)


def test_a_slot_is_free_again_when_its_message_has_been_over_for_the_whole_time() -> None:
    """Two per ten seconds: the third waits until ten seconds after the end of the first, not after its begin."""
    brake = Brake(Rate(2, 10.0))
    brake.begin()
    brake.end(103.0)
    brake.begin()
    brake.end(105.0)
    assert brake.wait(105.0) == pytest.approx(8.0)
    assert brake.wait(112.9) == pytest.approx(0.1)
    assert brake.wait(113.0) == 0.0
    brake.begin()
    assert brake.wait(113.0) == pytest.approx(2.0)
    assert brake.wait(115.0) == 0.0


def test_what_is_under_way_counts_and_what_was_not_handed_over_does_not() -> None:
    """One per second on two connections: the second waits for the end of the first; a cancelled one costs nothing."""
    brake = Brake(Rate(1, 1.0))
    brake.begin()
    assert brake.wait(50.0) == 1.0
    brake.cancel()
    assert brake.wait(50.0) == 0.0


def test_a_reload_forgets_nothing_and_may_change_the_rate() -> None:
    """What the configuration before let through counts, against the new number."""
    before = Brake(Rate(4, 10.0))
    for moment in (1.0, 2.0, 3.0, 4.0):
        before.begin()
        before.end(moment)
    after = Brake(Rate(2, 10.0))
    after.inherit(before)
    assert after.wait(5.0) == pytest.approx(8.0)
    assert after.wait(13.0) == 0.0
    looser = Brake(Rate(5, 10.0))
    looser.inherit(before)
    assert looser.wait(5.0) == 0.0


def seen_by_the_smarthost(rate: Rate, connections: int, chance: random.Random, messages: int) -> Iterator[float]:
    """When each message arrived there, somewhere between its begin and its end, with all connections in a hurry."""
    brake, now = Brake(rate), 0.0
    busy: list[float] = []  # when those under way will end
    for _ in range(messages):
        while len(busy) == connections or brake.wait(now) > 0:
            wait = brake.wait(now)
            ends = min(busy, default=float("inf"))
            assert wait > 0 or busy
            if busy and (len(busy) == connections or ends <= now + wait):
                now = max(now, ends)
                busy.remove(ends)
                brake.end(now)
            else:
                now += wait
        lasts = chance.choice([0.0, 0.01, 0.3, 5.0]) * rate.seconds
        brake.begin()
        busy.append(now + lasts)
        yield now + chance.random() * lasts


@given(st.integers(1, 7), st.sampled_from([1.0, 60.0]), st.integers(1, 4), st.integers(0, 2**32), st.integers(1, 60))
def test_no_stretch_of_time_sees_more_than_the_rate(
    count: int, seconds: float, connections: int, seed: int, messages: int
) -> None:
    """However long transactions last and wherever in them the smarthost looks at its clock."""
    arrivals = sorted(seen_by_the_smarthost(Rate(count, seconds), connections, random.Random(seed), messages))
    assert len(arrivals) == messages
    for first, beyond in zip(arrivals, arrivals[count:], strict=False):
        assert beyond - first >= seconds - 1e-6
