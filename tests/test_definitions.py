"""What is on the path of every message takes short cuts. Here each is held against its definition, step by step."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailrelayd.outbound import addresses, delivery, headers, queueid, record
from mailrelayd.outbound.addresses import AddressError, read_list
from mailrelayd.outbound.answers import printable
from mailrelayd.outbound.delivery import MOST_LINES, Policy, Suspicion
from mailrelayd.outbound.headers import BLOCK_FIELDS, Field, Header, Unreadable, split_header
from mailrelayd.outbound.values import (
    Answers,
    Attempt,
    Envelope,
    Outcome,
    Past,
    Progress,
    QueuedMessage,
    RecipientRecord,
    Response,
    Stage,
    Status,
    Transaction,
    remembered,
)

# -- headers -----------------------------------------------------------------------------------------------------------

NAMES = b"From To Cc bcc X-Sender X-Receiver X-HeloDomain Return-Path Resent-To Resent-Bcc Date Message-ID X A!".split()
MARKS = b'a@x "a,b" <b@y> , : ; =?utf-8?Q?a=20b?= \xff \xc3\xa9 \x1b \x0b \x0c \x85'.split(b" ")
ENDS = st.sampled_from([b"\r\n", b"\n", b"\r"])
VALUE = st.lists(st.sampled_from([*MARKS, b" ", b"\n ", b"\r\n\t", b"\r "]), max_size=8).map(b"".join)
FIELD = st.tuples(st.sampled_from(NAMES), st.sampled_from([b":", b": ", b" \t: "]), VALUE, ENDS).map(b"".join)
PIECES = st.sampled_from([*NAMES, *MARKS, b": ", b"\r\n", b"\n", b"\r", b" ", b"\0", b"From root\n", b"\r\r", b"\n\n"])
FILE = (
    st.lists(PIECES, max_size=40).map(b"".join)
    | st.tuples(st.sampled_from([b"", b"From x\n"]), st.lists(FIELD, max_size=8).map(b"".join), ENDS, VALUE).map(
        b"".join
    )
    | st.binary(max_size=60)
)
LINE = re.compile(rb"([^\r\n]*)(\r\n|\r|\n|\Z)")


def lines_of(data: bytes) -> list[bytes]:
    """The lines with their ends, by the definition: CRLF, LF and CR end one."""
    return [match[0] for match in LINE.finditer(data) if match[0]]


def fields_of(data: bytes) -> tuple[bytes, list[tuple[str, bytes]], bytes | None]:
    """The mbox line, name and bytes of each field, and the line behind them: b"" at the end, None: it is no field."""
    lines = lines_of(data)
    mbox = b""
    if lines and lines[0].startswith(b"From ") and not re.match(rb"From[ \t]*:", lines[0]):
        mbox = lines.pop(0)
    fields: list[tuple[str, bytes]] = []
    for line in lines:
        if line in (b"\r\n", b"\n", b"\r"):
            return mbox, fields, line
        name = re.match(rb"([!-9;-~]+)[ \t]*:", line)
        if line[:1] in (b" ", b"\t") and fields:
            fields[-1] = (fields[-1][0], fields[-1][1] + line)
        elif name is None or b"\0" in line:
            return mbox, fields, None
        else:
            fields.append((name[1].decode(), line))
    return mbox, fields, b""


@given(FILE)
@example(b"A: 1\r\rB: 2\n\n")
@example(b"A: 1\r\n\r")
@example(b"From x\n\nA: 1\n")
def test_a_header_is_its_lines_up_to_the_first_empty_one(data: bytes) -> None:
    """Fields, their names and places, and where the body begins; and what is no header is refused."""
    header = split_header(data)
    mbox, expected, behind = fields_of(data)
    unusual = b"\0" in b"".join(raw for _, raw in expected) or data.startswith((b"\xff\xfe", b"\xfe\xff"))
    if behind is None or unusual or not expected:
        assert isinstance(header, Unreadable)
        return
    assert isinstance(header, Header)
    assert header.mbox_line == mbox
    assert [(one.name, one.raw) for one in header.fields] == expected
    assert [one.key for one in header.fields] == [name.lower() for name, _ in expected]
    assert all(data[one.offset : one.offset + len(one.raw)] == one.raw for one in header.fields)
    size = len(mbox) + sum(len(raw) for _, raw in expected)
    assert (header.body, header.empty_line) == (size + len(behind), behind != b"")
    assert header.keys == {one.key for one in header.fields}


@given(FILE, st.integers(1, 80))
def test_of_a_part_of_a_file_only_a_whole_header_counts(data: bytes, limit: int) -> None:
    """What the first bytes give is what the whole file gives; else it is refused."""
    part, whole = split_header(data, limit, complete=False), split_header(data)
    if isinstance(part, Header):
        assert isinstance(whole, Header) and part == whole and part.body <= limit


@given(FILE, st.sampled_from([(), ("to", "cc"), ("bcc",), ("x-sender", "date", "a!")]), st.booleans())
def test_fields_are_found_and_left_out_by_their_names(data: bytes, keys: tuple[str, ...], pickup: bool) -> None:
    """Whether the header is asked or every field is looked at makes no difference."""
    header = split_header(data)
    if isinstance(header, Unreadable):
        return
    fields = list(header.fields)
    assert header.named(*keys) == [one for one in fields if one.name.lower() in keys]
    block: list[Field] = []
    while len(block) < len(fields) and fields[len(block)].key in BLOCK_FIELDS:
        block.append(fields[len(block)])
    if not any(one.key in ("x-sender", "x-receiver") for one in block):
        block = []
    assert headers.pickup_block(header) == tuple(block)
    gone = [one for one in fields if (pickup and one in block) or one.key in headers._REMOVED]
    names = tuple(one.name for one in gone)
    assert headers.removed(header, pickup=pickup) == (("From ", *names) if header.mbox_line else names)
    assert headers.kept(header, pickup=pickup) == [one for one in fields if one not in gone]


@given(FILE, st.floats(0, 4e9), st.sampled_from([(), ("a@x", "ü@y")]))
def test_the_edited_header_is_its_lines_with_crlf(data: bytes, at: float, redirected: tuple[str, ...]) -> None:
    """Ours, those that stay, and those that were missing; each as it was but for its line ends."""
    header = split_header(data)
    if isinstance(header, Unreadable):
        return
    kept = headers.kept(header, pickup=False)
    date = datetime.fromtimestamp(int(at), UTC).strftime("%a, %d %b %Y %H:%M:%S +0000").encode()
    expected = [b"Received: by n (mailrelayd) with local id abc (uid 7);\n\t" + date]
    if redirected:
        expected.append(b"X-Original-Recipients: a@x,\n \\xfc@y")
    expected += [one.raw for one in kept]
    if not any(one.key == "message-id" for one in kept):
        expected.append(b"Message-ID: <abc@n>")
    if not any(one.key == "date" for one in kept):
        expected.append(b"Date: " + date)
    lines = [match[1] for one in expected for match in LINE.finditer(one) if match[0]]
    edited = headers.edit(
        header,
        queue_id="abc",
        node="n",
        arrived_at=at,
        uid=7,
        pickup=False,
        from_address="",
        rewrite_from="envelope",
        sender="a@x",
        redirected=redirected,
    )
    assert edited == b"".join(line + b"\r\n" for line in lines) + (b"\r\n" if header.empty_line else b"")


@pytest.mark.parametrize(
    "data",
    [
        b"a" * 1_000_000,
        b"a b\n" * 250_000,
        b"A: b\n" + b"bad " * 200_000,
        b"A:\n" * 300_000,
        b"A: x" + b"\n " * 400_000,
        b"A: x" + b"\r\n\t" * 300_000,
        b"\r \r " * 250_000,
        b"A: b\n" * 9_000 + b"bad\n" * 200_000,
    ],
    ids=lambda data: repr(data[:8]),
)
def test_a_hostile_header_costs_no_more_than_its_length(data: bytes) -> None:
    """A megabyte of anything is split or refused within moments."""
    began = time.process_time()
    split_header(data)
    assert time.process_time() - began < 2


# -- addresses ---------------------------------------------------------------------------------------------------------

NOTHING = re.compile(r"(?!)()()")
TEXTS = (
    *("a@x", "b.c@d.e", "<a@b.c>", "<>", "x@y-", "x@y.", "x.@y", "<@r:a@b>", "é@é.x", "a@[1.2.3.4]", "Bob", "grp:"),
    *("=?utf-8?Q?a=20b?=", "=?a?Q?<b@c.de>,?=", "=?", "?=", '"a,b"', '"x\\"', "(c)", "é", "\x1b", "\udcff"),
    *'<>,:;"\\()[]@.-_+',
)
ADDRESSES = (
    st.lists(st.sampled_from([*TEXTS, " ", "\r\n ", ", ", "a" * 70 + "@x.y"]), max_size=10).map("".join)
    | st.lists(st.sampled_from([*TEXTS, " ", ","]) | st.text(max_size=2), max_size=10).map(" ".join)
    | st.text(st.characters(exclude_categories=()), max_size=20)
)


def read(text: str, *, null: bool) -> list[str] | str:
    try:
        return read_list(text, null=null)
    except AddressError as error:
        return str(error)


@given(ADDRESSES, st.booleans())
@example("x.@y", False)
@example("x@y-, z@y", False)
@example("=?a?Q?<b@c.de>,?=", False)
@example("Bob <b@c.de>,", False)
def test_plain_addresses_are_read_as_token_by_token(text: str, null: bool) -> None:
    """What one expression takes at once is what the reader takes piece by piece, with the same complaints."""
    fast = read(text, null=null)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(addresses, "_PLAIN", NOTHING)
        assert fast == read(text, null=null)


@pytest.mark.parametrize(
    "text",
    [
        "a" * 200_000,
        "a " * 100_000,
        '"a" ' * 50_000,
        "=?a?b?c?= " * 20_000,
        "=?a?b?" * 30_000,
        "a<" * 50_000,
        '"' * 100_001,
        "a.b." * 50_000 + "@",
        "a@" + "b-" * 100_000,
        "a <b@c.d> (x), " * 10_000,
        "Bob <b@c.d>, " * 20_000,
    ],
    ids=lambda text: text[:12],
)
def test_a_hostile_list_costs_no_more_than_its_length(text: str) -> None:
    """Nothing is tried again and again at every position."""
    began = time.process_time()
    read(text, null=False)
    assert time.process_time() - began < 2


# -- what answers mean -------------------------------------------------------------------------------------------------

WHO = ("a@x", "b@x", "c@x")
NOW = 1_800_000_000.0
POLICY = Policy(expire=1000.0)


def response(stage: Stage) -> st.SearchStrategy[Response]:
    codes = st.sampled_from([(250, "2.1.5"), (251, ""), (354, ""), (450, "4.2.0"), (452, "4.5.3"), (550, "5.1.1")])
    blames = st.sampled_from([(421, ""), (530, "5.7.0"), (550, "5.7.1"), (550, "5.1.8"), (0, "")])
    return (codes | blames).map(lambda code: Response(stage, *code, "said"))


def answer(stage: Stage) -> st.SearchStrategy[Response | None]:
    return st.just(Response(stage, 250, "2.0.0", "fine")) | st.none() | response(stage)


@st.composite
def all_answers(draw: st.DrawFn) -> Answers:
    who = WHO[: draw(st.integers(1, 3))]
    redirected = draw(st.sampled_from([(), (), who]))
    asked = ("own@x",) if redirected else who
    said = [draw(answer(Stage.RCPT)) for _ in range(draw(st.integers(0, len(asked))))]
    return Answers(
        Transaction("abc", draw(st.sampled_from(["a@b", "own@b"])), asked, redirected=redirected),
        draw(answer(Stage.MAIL)),
        tuple(said),
        draw(st.none() | st.just(Response(Stage.DATA, 354, "", "go")) | response(Stage.DATA)),
        draw(answer(Stage.BODY)),
        draw(st.booleans()),
        draw(st.none() | response(Stage.BODY)),
    )


def slowly(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(delivery, name, lambda answers: None)


@given(all_answers())
def test_an_accepted_transaction_means_what_weighing_every_answer_says(answers: Answers) -> None:
    """Where nobody was refused there is nothing to weigh; where somebody was, everything is."""
    fast = delivery.judge(answers, "own@b")
    with pytest.MonkeyPatch.context() as patch:
        slowly(patch, "_accepted_for_all")
        assert fast == delivery.judge(answers, "own@b")


RECORD = st.builds(
    RecipientRecord,
    st.sampled_from(Status),
    response(Stage.RCPT),
    st.integers(0, 5),
    st.just(NOW - 10),
    st.sampled_from([0.0, NOW - 5, NOW + 5]),
    st.sampled_from(["", "rejected", "expired"]),
)
HISTORY = st.lists(
    st.sampled_from([Past(NOW - 9, "queued", "x"), Past(NOW - 8, "deferred", "a@x: 450 4.2.0 said")]), max_size=2
)
PROGRESS = st.builds(
    Progress,
    st.sampled_from([NOW - 2000, NOW - 1]),
    st.dictionaries(st.sampled_from(WHO), RECORD, max_size=3) | st.just({}),
    not_before=st.just(1.0),
    changed=st.integers(0, 2),
    excused_at=st.sampled_from([0.0, 3.0]),
    history=HISTORY.map(tuple),
)
ATTEMPT = st.lists(
    st.builds(Outcome, st.sampled_from(WHO), st.sampled_from(Status), response(Stage.RCPT) | response(Stage.LOCAL)),
    max_size=7,
).map(lambda outcomes: Attempt(Transaction("abc", "s@x", WHO), tuple(outcomes)))


def advanced(progress: Progress, attempt: Attempt, *, may_expire: bool) -> Progress:
    """`delivery.advance`, a step at a time."""
    records = dict(progress.recipients)
    tried = {}
    for outcome in attempt.outcomes:
        before = records.get(outcome.recipient)
        after = RecipientRecord(outcome.status, outcome.response, before.attempts + 1 if before else 1, NOW)
        if outcome.status is Status.DEFERRED:
            after = replace(after, next_attempt=NOW + POLICY.delay(after.attempts))
            if may_expire and after.attempts >= 3 and NOW - progress.arrived_at >= POLICY.expire:
                after = replace(after, status=Status.FAILED, reason="expired", next_attempt=0.0)
        elif outcome.status is Status.FAILED:
            after = replace(after, reason="unsupported" if outcome.response.stage is Stage.LOCAL else "rejected")
        records[outcome.recipient] = tried[outcome.recipient] = after
    progress = replace(progress, recipients=records)
    said: dict[tuple[str, str], list[str]] = {}
    for recipient in tried:
        last = records[recipient]
        event = "expired" if last.reason == "expired" else last.status.value
        said.setdefault((event, str(last.response)), []).append(recipient)
    for (event, text), who in list(said.items())[:MOST_LINES]:
        whom = "" if len(who) == len(records) else f"{who[0] if len(who) == 1 else f'{len(who)} recipients'}: "
        progress = remembered(progress, Past(NOW, event, whom + text))
    return progress


@given(PROGRESS, ATTEMPT, st.booleans())
def test_progress_is_what_its_steps_make_of_it(progress: Progress, attempt: Attempt, may_expire: bool) -> None:
    """The same records and the same history, whatever was known before."""
    after = delivery.advance(progress, attempt, POLICY, NOW, may_expire=may_expire)
    if not attempt.outcomes:
        assert after is progress
        return
    assert after == advanced(progress, attempt, may_expire=may_expire)


@given(PROGRESS, ATTEMPT)
def test_any_acceptance_ends_every_suspicion(progress: Progress, attempt: Attempt) -> None:
    """What the smarthost took clears it of all that was thought before; what was decided here does not count."""
    asked = [one for one in attempt.outcomes if one.response.stage is not Stage.LOCAL]
    before = Suspicion(refused=("x",), cut=("y",), accepted_at=7.0)
    after, blamed = delivery.suspect(before, attempt, progress, NOW)
    if any(one.status is Status.SENT for one in asked):
        assert (after, blamed) == (Suspicion(accepted_at=NOW), None)
    else:
        assert after.accepted_at == 7.0


@given(st.lists(st.sampled_from(WHO), min_size=1, max_size=4), PROGRESS, st.integers(1, 3))
def test_who_is_owed_a_try_is_who_has_none_or_is_due(recipients: list[str], progress: Progress, limit: int) -> None:
    """Nothing known of anybody is the same question with a simple answer."""
    message = QueuedMessage("abc", Envelope("s@x", tuple(recipients)), progress)
    turns = {}
    for one in recipients:
        known = progress.recipients.get(one)
        if known is None or known.status is Status.DEFERRED:
            turns[one] = known.next_attempt if known else 0.0
    latest = max(NOW, min(turns.values(), default=NOW))
    assert delivery.owed(message, NOW, limit) == tuple(one for one in turns if turns[one] <= latest)[:limit]


# -- records and ids ---------------------------------------------------------------------------------------------------


@given(
    PROGRESS, st.sampled_from(["", "erp", "e\nr"]), st.sampled_from(["", "a b.eml", "\udcff"]), st.none() | st.just(0)
)
def test_a_history_begins_with_where_the_message_came_from(
    progress: Progress, producer: str, file: str, uid: int | None
) -> None:
    """Whatever of producer, file and user is known, once."""
    message = QueuedMessage("abc", Envelope("s@x", WHO), progress, producer=producer, file=file, uid=uid)
    where = printable("/".join(filter(None, [producer, file])))
    words = [*filter(None, [where]), *([] if uid is None else [f"uid {uid}"]), "envelope: headers"]
    first = Past(progress.arrived_at, "queued", ", ".join(words))
    begun = record.begun(message, progress)
    if progress.history[:1] and progress.history[0].event == "queued":
        assert begun is progress
    else:
        assert begun == replace(progress, history=(first, *progress.history))


@given(st.integers(0, (1 << 55) - 1), st.integers(0, 12))
def test_an_encoded_number_is_its_digits_to_the_base_of_32(number: int, length: int) -> None:
    """The lowest `length` of them, most significant first."""
    digits: list[str] = []
    rest = number
    for _ in range(length):
        rest, digit = divmod(rest, 32)
        digits.insert(0, queueid.ALPHABET[digit])
    assert queueid.encode(number, length) == "".join(digits)


def test_a_field_is_a_value() -> None:
    """Equal where name, bytes and place are; it may stand in a set."""
    one, same, other = (Field("To", b"To: a\r\n", at) for at in (0, 0, 7))
    assert one == same and hash(one) == hash(same) and one != other
    assert {one, same, other} == {one, other}
