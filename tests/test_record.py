"""ID.json: what is written can be read again, and what cannot be read says why."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailrelayd.outbound import record
from mailrelayd.outbound.record import FORMAT, Claim, Record, RecordError
from mailrelayd.outbound.values import (
    FIRST_KEPT,
    LAST_KEPT,
    ApprovalCopy,
    Envelope,
    Past,
    Progress,
    QueuedMessage,
    RecipientRecord,
    Response,
    Stage,
    Status,
    remembered,
)

MOMENTS = st.one_of(st.just(0.0), st.integers(1, 250_000_000_000).map(float))
TEXTS = st.text(st.characters(codec=None), max_size=20)  # surrogates too: bytes of names that are not UTF-8
OUTCOMES = st.builds(
    RecipientRecord,
    status=st.sampled_from(Status),
    response=st.builds(Response, st.sampled_from(Stage), st.integers(0, 599), TEXTS, TEXTS),
    attempts=st.integers(0, 10_000),
    at=MOMENTS,
    next_attempt=MOMENTS,
    reason=TEXTS,
)
LINES = st.one_of(
    st.builds(Past, MOMENTS, TEXTS, TEXTS),
    st.builds(Past, MOMENTS, TEXTS, TEXTS, times=st.integers(2, 10_000), since=MOMENTS),
)
RECORDS = st.builds(
    Record,
    queue_id=TEXTS,
    revision=st.integers(1, 10_000),
    rule=TEXTS,
    envelope=st.none() | st.builds(Envelope, TEXTS, st.lists(TEXTS, max_size=4).map(tuple)),
    progress=st.builds(
        Progress,
        arrived_at=MOMENTS,
        recipients=st.dictionaries(TEXTS, OUTCOMES, max_size=4),
        not_before=MOMENTS,
        changed=st.integers(0, 3),
        excused_at=MOMENTS,
        history=st.lists(LINES, max_size=4).map(tuple),
    ),
    hold=st.booleans(),
    reason=TEXTS,
    detail=TEXTS,
    file=TEXTS,
    claim=st.none() | st.builds(Claim, TEXTS, TEXTS, st.integers(0, 1 << 64), st.integers(0, 1 << 63)),
    producer=TEXTS,
    uid=st.none() | st.integers(0, 1 << 32),
    key=TEXTS,
    copies=st.lists(st.builds(ApprovalCopy, TEXTS, TEXTS.filter(bool), MOMENTS), max_size=3).map(tuple),
)
RECORD = Record(
    "a" * 16,
    3,
    "sidecar",
    Envelope("a@example.com", ("b@example.org",)),
    Progress(
        1_800_000_000.0,
        {"b@example.org": RecipientRecord(Status.DEFERRED, Response(Stage.RCPT, 450, "4.2.0", "later"), 1, 1.0, 2.0)},
    ),
    claim=Claim("", "x.env.json", 4711, 1_800_000_000_000_000_001),
)


@settings(deadline=None)
@given(RECORDS)
def test_what_is_written_is_read_again(entry: Record) -> None:
    """Every record survives the way through its file, whatever bytes its names and addresses hold."""
    data = record.encode(entry)
    assert record.decode(data) == entry
    assert data.isascii()


@pytest.mark.parametrize("moment", [-1e18, -62_135_700_000.0, 253_402_300_799.9999999, 253_402_343_999.0, 1e18])
def test_a_moment_beyond_the_calendar_is_its_end(moment: float) -> None:
    """A time that no date can say (a sidecar may ask for it) is written as one that can, and never raises."""
    entry = replace(RECORD, progress=Progress(1_800_000_000.0, not_before=moment))
    read = record.decode(record.encode(entry)).progress.not_before
    assert abs(read) <= 253_402_300_800.0
    assert (read > 0) == (moment > 0)


def changed(**keys: Any) -> bytes:
    """RECORD's document with these keys; a key given as `...` is left out."""
    document = {**json.loads(record.encode(RECORD)), **keys}
    return json.dumps({key: value for key, value in document.items() if value is not ...}).encode()


OUTCOME = json.loads(record.encode(RECORD))["outcomes"]["b@example.org"]

DAMAGED = {
    "empty": b"",
    "cut": record.encode(RECORD)[:-20],
    "binary": bytes(range(256)),
    "zeros": bytes(4096),
    "a list": b"[]",
    "null": b"null",
    "a text": b'"format"',
    "brackets": b"[" * 200_000,
    "a number of many digits": b'{"format": 1' + b"0" * 5000 + b"}",
    "no format": changed(format=...),
    "no revision": changed(revision=...),
    "revision is infinite": changed(revision=float("inf")),
    "revision is no number": changed(revision=float("nan")),
    "revision is a text": changed(revision="three"),
    "sender is a number": changed(sender=5),
    "recipients are a text": changed(recipients="b@example.org"),
    "a recipient is a number": changed(recipients=[5]),
    "a time of no calendar": changed(arrived_at="2026-02-31T00:00:00+00:00"),
    "a time is a number": changed(arrived_at=5),
    "an outcome is a text": changed(outcomes={"b@example.org": "sent"}),
    "outcomes are a list": changed(outcomes=["sent"]),
    "a status nobody knows": changed(outcomes={"b@example.org": {**OUTCOME, "status": "lost"}}),
    "a stage nobody knows": changed(outcomes={"b@example.org": {**OUTCOME, "response": {"stage": "moon"}}}),
    "history is a number": changed(history=5),
    "history is a text": changed(history="queued"),
    "a line of history is a text": changed(history=["queued"]),
    "a line of history has no time": changed(history=[{"event": "queued", "text": ""}]),
    "a user is a text": changed(uid="root"),
    "a copy is a text": changed(copies=["boss@example.org"]),
    "a copy without a token": changed(copies=[{"recipient": "b@x", "token": "", "expires_at": None}]),
    "a copy's token is a number": changed(copies=[{"recipient": "b@x", "token": 5, "expires_at": None}]),
    "a copy's expiry is missing": changed(copies=[{"recipient": "b@x", "token": "t"}]),
    "copies are a number": changed(copies=5),
    "a claim is a text": changed(claim="x.env.json"),
    "a claim without inode": changed(claim={"folder": "", "name": "x.env.json"}),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_record_says_so(data: bytes) -> None:
    """Whatever is wrong with a record is a RecordError and nothing else."""
    with pytest.raises(RecordError, match=r"^damaged record|^record format"):
        record.decode(data)


@pytest.mark.parametrize("version", [0, 2, 99, "2", None])
def test_another_format_is_refused_by_name(version: object) -> None:
    """A record of another format is refused with both numbers, even where everything else would fit."""
    with pytest.raises(RecordError, match=rf"record format {version}, this version of mailrelayd knows {FORMAT}"):
        record.decode(changed(format=version))


def test_a_newer_record_may_look_entirely_different() -> None:
    """Only the format is looked at before a record is refused as newer."""
    with pytest.raises(RecordError, match="record format 2"):
        record.decode(b'{"format": 2, "everything": "else"}')


def test_a_record_from_before_there_was_history_is_read() -> None:
    """What was not written down then is not known now; everything else is."""
    old = changed(history=..., producer=..., uid=..., key=...)
    assert record.decode(old) == RECORD


def test_a_person_can_read_it() -> None:
    """One key, one recipient, one event per line."""
    progress = remembered(RECORD.progress, Past(1.0, "deferred", "450 later"))
    lines = record.encode(replace(RECORD, progress=progress)).decode().splitlines()
    assert '  {"at": "1970-01-01T00:00:01+00:00", "event": "deferred", "text": "450 later"}' in lines
    assert [line for line in lines if line.startswith('  "b@example.org": {"status": "deferred"')]
    assert ' "hold": false,' in lines


# -- history -----------------------------------------------------------------------------------------------------


def test_a_history_begins_with_how_the_message_came() -> None:
    """The first record says it, those after keep it, and nothing in it can forge a line of a log."""
    envelope = Envelope("", ("a@example.org",))
    message = QueuedMessage("a" * 16, envelope, Progress(5.0), file="a\nb\udcff.eml", producer="erp", uid=1000)
    first = record.of(message, remembered(Progress(5.0), Past(6.0, "deferred", "later")))
    assert [(past.event, past.at) for past in first.progress.history] == [("queued", 5.0), ("deferred", 6.0)]
    assert first.progress.history[0].text == "erp/a\\nb\\udcff.eml, uid 1000, envelope: headers"
    again = record.of(message, remembered(first.progress, Past(7.0, "sent")))
    assert again.progress.history == (*first.progress.history, Past(7.0, "sent"))


def test_the_same_again_is_counted() -> None:
    """A message that waits for days for the same reason has one line for it, with the first time and the last."""
    progress = Progress(1.0)
    for at in (10.0, 20.0, 30.0):
        progress = remembered(progress, Past(at, "deferred", "450 later"))
    assert progress.history == (Past(30.0, "deferred", "450 later", times=3, since=10.0),)
    progress = remembered(progress, Past(40.0, "deferred", "421 busy"))
    progress = remembered(progress, Past(50.0, "deferred", "450 later"))
    assert [(past.at, past.times) for past in progress.history] == [(30.0, 3), (40.0, 1), (50.0, 1)]


def test_a_long_history_keeps_its_beginning_and_its_end() -> None:
    """However much happens, a record stays small: the first ten lines and the last thirty."""
    progress = Progress(1.0)
    for number in range(1000):
        progress = remembered(progress, Past(float(number), "deferred", str(number)))
    kept = [int(past.text) for past in progress.history]
    assert kept == [*range(FIRST_KEPT), *range(1000 - LAST_KEPT, 1000)]


@settings(deadline=None)
@given(st.binary(max_size=60), st.integers(0, 2000))
def test_no_bytes_raise_anything_else(noise: bytes, at: int) -> None:
    """Bytes changed anywhere in a record give a record or a RecordError."""
    data = record.encode(RECORD)
    at = min(at, len(data))
    with suppress(RecordError):
        record.decode(data[:at] + noise + data[at + len(noise) :])
