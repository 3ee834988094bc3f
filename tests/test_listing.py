"""Messages for commands: what is shown, which ones a filter means, how many wait for which reason."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrelayd.outbound import queueid
from mailrelayd.outbound.life import Situation, life, unknown
from mailrelayd.outbound.listing import AGES, Filter, Shape, alike, cause, chosen, shown
from mailrelayd.outbound.queue import Entry, Place
from mailrelayd.outbound.values import Envelope, Past, Progress, QueuedMessage, RecipientRecord, Response, Stage, Status

NOW = 1_790_000_000.0
HOUR = 3600.0
QUEUE_ID = queueid.Sequence("relay1", last=0).take(NOW - HOUR)[0]
BUSY = Response(Stage.RCPT, 450, "4.2.1", "<b@example.com>: Mailbox busy, try again in 300 seconds")
UNKNOWN = Response(Stage.RCPT, 550, "5.1.1", "No such user: b@example.com")
ROUTE = "connect to mail.example.com[192.0.2.1]:587: Connection refused"
HELD = Situation("held", "relay1", "smarthost", ROUTE, "connect", NOW - 60)


def record(status: Status, response: Response, *, at: float = NOW, reason: str = "") -> RecipientRecord:
    again = NOW + 60 if status is Status.DEFERRED else 0.0
    return RecipientRecord(status, response, 2, at, again, reason)


def entry(
    place: Place = Place.ACTIVE,
    records: dict[str, RecipientRecord] | None = None,
    *,
    sender: str = "a@example.com",
    recipients: tuple[str, ...] = ("b@example.com",),
    age: float = HOUR,
    **more: Any,
) -> Entry:
    """A message that came `age` seconds ago."""
    message = QueuedMessage(QUEUE_ID, Envelope(sender, recipients), Progress(NOW - age, records or {}), 1000)
    return Entry(place, message, **more)


DEFERRED = entry(Place.DEFERRED, {"b@example.com": record(Status.DEFERRED, BUSY)}, next_attempt=NOW + 60)
FAILED = entry(Place.FAILED, {"b@example.com": record(Status.FAILED, UNKNOWN, reason="rejected")}, reason="rejected")
HALF = entry(
    Place.DEFERRED,
    {"b@example.com": record(Status.SENT, Response(Stage.BODY, 250, "2.0.0", "Ok"))},
    recipients=("b@example.com", "c@example.org"),
)


def test_a_reason_for_a_delay_is_named_only_where_there_is_a_delay() -> None:
    """Recipes for postqueue -j count the recipients that have a delay_reason: not those that were sent to."""
    sent, waiting = shown(HALF)["recipients"]
    assert (sent["status"], sent["response"], "delay_reason" in sent) == ("sent", "250 2.0.0 Ok", False)
    assert (waiting["status"], "delay_reason" in waiting) == ("queued", False)
    assert shown(DEFERRED)["recipients"][0]["delay_reason"] == str(BUSY)
    assert shown(FAILED)["recipients"][0]["delay_reason"] == str(UNKNOWN)


def test_what_only_waits_for_the_route_shows_the_route() -> None:
    """A message without trouble of its own has the route's; one that has, one on hold, one in flight, has not."""
    assert shown(entry(), ROUTE)["reason"] == ROUTE
    assert shown(entry(), ROUTE)["recipients"][0]["delay_reason"] == ROUTE
    for other in (DEFERRED, FAILED, entry(Place.HOLD), entry(in_flight=True)):
        assert ROUTE not in json.dumps(shown(other, ROUTE))


@pytest.mark.parametrize(
    ("wanted", "message", "meant"),
    [
        (Filter(), entry(), True),
        (Filter(), FAILED, False),
        (Filter(failed=True), FAILED, True),
        (Filter(failed=True), entry(), False),
        (Filter(places=frozenset({Place.HOLD})), entry(Place.HOLD), True),
        (Filter(places=frozenset({Place.HOLD})), DEFERRED, False),
        (Filter(sender="@example.com"), entry(), True),
        (Filter(sender="A@Example.com"), entry(), True),
        (Filter(sender="@example.org"), entry(), False),
        (Filter(sender="<>"), entry(), False),
        (Filter(sender="<>"), entry(sender=""), True),
        (Filter(sender="@*.example.com"), entry(sender="x@sub.example.com"), True),
        (Filter(recipient="@example.com"), entry(), True),
        (Filter(recipient="@example.org"), HALF, True),
        (Filter(recipient="b@example.com"), HALF, False),  # it has been sent to them
        (Filter(reason="MAILBOX busy"), DEFERRED, True),
        (Filter(reason="4.2.1"), DEFERRED, True),
        (Filter(failed=True, reason="no such user"), FAILED, True),
        (Filter(failed=True, reason="rejected"), FAILED, True),
        (Filter(reason="refused"), entry(), True),  # the route's
        (Filter(reason="refused"), DEFERRED, False),
        (Filter(reason="250"), HALF, False),
        (Filter(older_than=HOUR), entry(), True),
        (Filter(older_than=HOUR + 1), entry(), False),
        (Filter(older_than=HOUR, sender="@example.org"), entry(), False),
    ],
)
def test_a_filter(wanted: Filter, message: Entry, meant: bool) -> None:
    """Everything that is said must apply."""
    assert chosen(message, wanted, NOW, ROUTE) is meant


ENTRIES = [entry(), entry(Place.HOLD), entry(in_flight=True), entry(sender=""), DEFERRED, FAILED, HALF]


@pytest.mark.parametrize("route", ["", ROUTE])
def test_a_reason_in_the_table_finds_its_messages(route: str) -> None:
    """What `--shape` shows as a reason can be handed to --reason."""
    for one in ENTRIES:
        why = cause(one, NOW, route)
        assert why
        assert chosen(one, Filter(failed=one.place is Place.FAILED, reason=why), NOW, route), why


FILTERS = st.builds(
    Filter,
    failed=st.booleans(),
    places=st.frozensets(st.sampled_from(Place)),
    sender=st.text(),
    recipient=st.text(),
    reason=st.text(),
    older_than=st.floats(0, 1e9),
)


@given(FILTERS)
def test_a_filter_survives_the_control_socket(wanted: Filter) -> None:
    """The daemon understands what the command meant, to the last bit."""
    assert Filter.of_request(json.loads(json.dumps(wanted.as_request()))) == wanted


def test_what_is_no_filter_is_refused() -> None:
    """A key too many, one too few, a wrong type, an unknown place: never a filter that means more than was said."""
    good = Filter().as_request()
    wrong: list[Any] = [None, [], "all", {}, {**good, "size": 1}, {k: good[k] for k in list(good)[1:]}]
    wrong += [{**good, key: value} for key, value in (("failed", 1), ("sender", None), ("older_than", "2h"))]
    places: list[Any] = ["hold", [1], ["elsewhere"], [{}]]
    wrong += [{**good, "places": value} for value in places]
    for request in wrong:
        with pytest.raises(ValueError, match=r"filter|Place"):
            Filter.of_request(request)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("450 4.2.1 <a@example.com>: Mailbox busy", "450 4.2.1 <b@example.org>: Mailbox busy"),
        ("450 4.2.0 Greylisted for 297 seconds", "450 4.2.0 Greylisted for 12 seconds"),
        ("452 4.3.1 4F2A9C10BD: no room", "452 4.3.1 7C3B2D11AE: no room"),
        ("550 5.1.1 No such user a.b@example.com", "550 5.1.1 No such user c@example.com"),
    ],
)
def test_the_same_reason_in_other_words(one: str, other: str) -> None:
    """Addresses, ids and seconds do not make another reason of the same one."""
    assert one != other
    assert alike(one) == alike(other)


@pytest.mark.parametrize(
    "text",
    [
        "450 4.2.1 Mailbox busy",
        "connect to mail1.example.com[192.0.2.1]:587: Connection refused",
        "421 4.7.0 too many connections",
    ],
)
def test_what_tells_reasons_apart_stays(text: str) -> None:
    """Codes, hosts and IP addresses are kept."""
    codes = [word for word in text.split() if word[0].isdigit()]
    assert all(code in alike(text) for code in codes)
    assert ("[192.0.2.1]" in text) == ("[192.0.2.1]" in alike(text))
    assert ("mail1.example.com" in text) == ("mail1.example.com" in alike(text))


@given(st.text())
def test_any_words_give_a_short_reason(text: str) -> None:
    """Whatever a server says, in a time that depends on its length only."""
    assert len(alike(text)) <= 120


def test_the_longest_words_take_no_time() -> None:
    """What a hostile server says to make the search slow does not: 4 million characters of each kind."""
    for unit in ("<", "@", "a@", "9", "9a", "<a", "a."):
        assert len(alike(unit * 2_000_000)) <= 120


def test_ages_by_reason() -> None:
    """TOTAL, then the reasons, most messages first; each column counts up to its age, from the one before."""
    shape = Shape()
    ages = (0.0, 60.0, 61.0, 300.0, 1800.0, 7200.0, 43200.0, 86400.0, 86401.0, 1e9, -5.0)
    for age in ages:
        shape.add(entry(age=age), NOW, ROUTE)
    shape.add(DEFERRED, NOW, ROUTE)
    total, first, second = shape.table()
    assert (total["reason"], total["total"]) == ("TOTAL", len(ages) + 1)
    assert first == {"reason": alike(ROUTE), "total": 11, "ages": dict(zip(AGES, (3, 2, 1, 1, 1, 1, 2), strict=True))}
    assert (second["reason"], second["total"], second["ages"]["2h"]) == (alike(str(BUSY)), 1, 1)
    assert list(total["ages"]) == list(AGES)


def test_the_shape_of_nothing() -> None:
    """An empty queue has a table, too."""
    assert Shape().table() == [{"reason": "TOTAL", "total": 0, "ages": dict.fromkeys(AGES, 0)}]


@pytest.mark.parametrize(
    ("message", "situation", "waits_for"),
    [
        (entry(in_flight=True), HELD, "answer"),
        (entry(Place.HOLD), HELD, "release"),
        (entry(), HELD, "route"),
        (DEFERRED, HELD, "route"),
        (entry(), Situation("disabled"), "outbound"),
        (entry(), Situation("stopped"), "daemon"),
        (entry(), Situation("up"), "turn"),
        (DEFERRED, Situation("up"), "next_attempt"),
        (FAILED, HELD, None),
    ],
)
def test_what_a_message_waits_for(message: Entry, situation: Situation, waits_for: str | None) -> None:
    """One word, and the time at which it expires only where it can."""
    facts = life(message, situation, NOW)
    assert facts["waits_for"] == waits_for
    assert (facts["expires_at"] is None) == (waits_for is None)


def test_a_wish_not_to_be_sent_yet() -> None:
    """not_before is what a message waits for until then, and not a moment longer."""
    wish = replace(entry(Place.DEFERRED), message=replace(entry().message, progress=Progress(NOW, not_before=NOW + 5)))
    assert life(wish, Situation("up"), NOW)["waits_for"] == "not_before"
    assert life(wish, Situation("up"), NOW + 5)["waits_for"] == "next_attempt"


def test_a_life_as_json() -> None:
    """Where it came from, what happened, how things stand: all of it can be written as JSON."""
    history = (Past(NOW - 50, "queued", "order.eml"), Past(NOW - 10, "deferred", str(BUSY), 3, NOW - 40))
    message = replace(DEFERRED.message, progress=replace(DEFERRED.message.progress, history=history), producer="erp")
    facts = json.loads(json.dumps(life(replace(DEFERRED, message=message), HELD, NOW)))
    assert facts["producer"] == "erp"
    assert facts["history"][0] == {
        "at": NOW - 50,
        "event": "queued",
        "text": "order.eml",
        "times": 1,
        "since": NOW - 50,
    }
    assert (facts["history"][1]["times"], facts["history"][1]["since"]) == (3, NOW - 40)
    assert facts["situation"]["reason"] == ROUTE
    assert facts["expires_at"] == NOW - HOUR + 5 * 86400


def test_an_id_that_is_not_here() -> None:
    """The id itself says when it was given, and whether by this node; other words say nothing."""
    facts = unknown(QUEUE_ID, HELD)
    assert (facts["queue_name"], facts["valid"], facts["given_here"]) == (None, True, True)
    assert facts["arrived_at"] == pytest.approx(NOW - HOUR, abs=1)
    assert unknown(QUEUE_ID, replace(HELD, node="relay2"))["given_here"] is False
    assert unknown(QUEUE_ID, replace(HELD, node=""))["given_here"] is None
    assert unknown("../../etc/passwd", HELD)["arrived_at"] is None
