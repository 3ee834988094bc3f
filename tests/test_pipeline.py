"""The SMTP pipeline without a socket: what it says, what it believes, and what it refuses to believe."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrelayd.outbound.answers import MAX_LINE, MAX_LINES, MAX_TEXT, AnswerReader, Desync, response
from mailrelayd.outbound.pipeline import AHEAD, WRITE, Pipeline
from mailrelayd.outbound.values import Answers, Extensions, Stage, Transaction
from mailrelayd.outbound.wire import Encoder, Scanner

PIPELINING = Extensions(pipelining=True, size=0, eight_bit_mime=True, smtputf8=True)
LOCK_STEP = Extensions()


@dataclass
class Text:
    """A body: whole, or to be streamed."""

    whole: bytes | None = None
    size: int = 6
    eight_bit: bool = False
    pure: bool = True
    copyable: None = None
    same: bool = True

    def chunks(self) -> AsyncIterator[bytes]:
        raise NotImplementedError

    def unchanged(self) -> bool:
        return self.same


def transaction(name: str = "a", recipients: int = 1) -> Transaction:
    return Transaction(f"id-{name}", f"{name}@example.com", tuple(f"{name}{i}@example.org" for i in range(recipients)))


def offered(pipeline: Pipeline, *transactions: Transaction) -> Pipeline:
    for one in transactions:
        pipeline.offer(one, Text())
    return pipeline


def answer(pipeline: Pipeline, *lines: str) -> None:
    pipeline.receive("".join(f"{line}\r\n" for line in lines).encode())


def body(pipeline: Pipeline) -> bytes:
    """Send the wanted body; what went into its last write, after it."""
    assert pipeline.body_wanted is not None
    pipeline.begin_body()
    return pipeline.end_body()


def rest(pipeline: Pipeline) -> list[Answers]:
    found = list(pipeline.take())
    pipeline.settle()
    return found


def codes(answers: Answers) -> tuple[int, list[int], int, int]:
    """Codes of MAIL, RCPTs, DATA and body, 0 where there is none."""
    said = [one.code if one else 0 for one in (answers.mail, *answers.recipients, answers.data, answers.body)]
    return said[0], said[1:-2], said[-2], said[-1]


# What is written, and when


def test_a_group_is_one_write_with_rset_in_front() -> None:
    pipeline = offered(Pipeline(PIPELINING), transaction("a", 2))
    assert pipeline.output() == (
        b"RSET\r\nMAIL FROM:<a@example.com> SIZE=6\r\nRCPT TO:<a0@example.org>\r\nRCPT TO:<a1@example.org>\r\nDATA\r\n"
    )
    assert pipeline.output() == b""


def test_the_next_group_travels_with_the_end_of_the_body() -> None:
    pipeline = offered(Pipeline(PIPELINING), transaction("a"), transaction("b"))
    assert pipeline.output().startswith(b"RSET\r\nMAIL FROM:<a@")
    answer(pipeline, "250 ok", "250 ok", "250 ok", "354 go")
    assert pipeline.output() == b""
    assert body(pipeline).startswith(b"RSET\r\nMAIL FROM:<b@")
    assert not pipeline.room


def test_a_group_that_comes_late_follows_the_undecided_body() -> None:
    pipeline = offered(Pipeline(PIPELINING), transaction("a"))
    pipeline.output()
    answer(pipeline, "250 ok", "250 ok", "250 ok", "354 go")
    assert body(pipeline) == b""
    offered(pipeline, transaction("b"))
    assert pipeline.output().startswith(b"RSET\r\nMAIL FROM:<b@")


def test_the_next_body_waits_until_the_one_before_is_settled() -> None:
    pipeline = offered(Pipeline(PIPELINING), transaction("a"), transaction("b"))
    pipeline.output()
    answer(pipeline, "250 ok", "250 ok", "250 ok", "354 go")
    body(pipeline)
    assert pipeline.body_wanted is None
    answer(pipeline, "250 taken", "250 ok", "250 ok", "250 ok", "354 go")
    assert pipeline.body_wanted is None
    (first,) = pipeline.take()
    assert codes(first) == (250, [250], 354, 250)
    assert pipeline.body_wanted is None
    pipeline.settle()
    assert pipeline.body_wanted == transaction("b")


def test_without_pipelining_each_command_waits_for_the_answer_before_it() -> None:
    pipeline = offered(Pipeline(LOCK_STEP), transaction("a", 2), transaction("b"))
    said = []
    for reply in ("250 ok", "550 no", "250 ok", "354 go"):
        said.append(pipeline.output().split()[0])
        assert pipeline.output() == b""
        answer(pipeline, reply)
    assert said == [b"MAIL", b"RCPT", b"RCPT", b"DATA"]
    assert pipeline.output() == b""
    assert body(pipeline) == b""
    assert pipeline.output() == b""
    answer(pipeline, "250 taken")
    assert pipeline.output().startswith(b"MAIL FROM:<b@")


def test_without_pipelining_a_refused_sender_ends_the_transaction() -> None:
    pipeline = offered(Pipeline(LOCK_STEP), transaction("a", 2), transaction("b"))
    pipeline.output()
    answer(pipeline, "550 5.7.1 no")
    assert [codes(one) for one in rest(pipeline)] == [(550, [0, 0], 0, 0)]
    assert pipeline.output() == b"RSET\r\n"


def test_without_pipelining_data_is_never_sent_without_a_recipient() -> None:
    pipeline = offered(Pipeline(LOCK_STEP), transaction("a", 2))
    for reply in ("250 ok", "550 no", "450 later"):
        pipeline.output()
        answer(pipeline, reply)
    assert [codes(one) for one in rest(pipeline)] == [(250, [550, 450], 0, 0)]
    assert pipeline.idle


@pytest.mark.parametrize(
    ("extensions", "eight_bit", "sender", "expected"),
    [
        (Extensions(), True, "a@x.org", b"MAIL FROM:<a@x.org>\r\n"),
        (Extensions(size=None, eight_bit_mime=True), False, "a@x.org", b"MAIL FROM:<a@x.org>\r\n"),
        (PIPELINING, True, "", b"MAIL FROM:<> SIZE=9 BODY=8BITMIME\r\n"),
        (PIPELINING, False, "ä@x.org", "MAIL FROM:<ä@x.org> SIZE=9 SMTPUTF8\r\n".encode()),
    ],
)
def test_mail_parameters(extensions: Extensions, eight_bit: bool, sender: str, expected: bytes) -> None:
    pipeline = Pipeline(extensions)
    pipeline.offer(Transaction("id", sender, ("b@x.org",)), Text(size=9, eight_bit=eight_bit))
    assert expected in pipeline.output()


BAD_ADDRESSES = [
    "a\r\nDATA@x",
    "a\n@x",
    "a\0@x",
    "a b@x",
    "a>@x",
    "<a@x",
    "a\x7f@x",
    "a\u2028@x",
    "\ud800@x",
    "x" * 600,
]


@pytest.mark.parametrize("address", BAD_ADDRESSES)
def test_an_address_that_could_break_out_of_its_command_is_refused(address: str) -> None:
    for one in (Transaction("id", address, ("b@x.org",)), Transaction("id", "a@x.org", ("b@x.org", address))):
        pipeline = Pipeline(PIPELINING)
        with pytest.raises(ValueError, match="address"):
            pipeline.offer(one, Text(size=1))
        assert pipeline.output() == b""
        assert pipeline.idle


@pytest.mark.parametrize("recipients", [("",), (), ("ä@x.org",)])
def test_what_cannot_be_asked_is_refused(recipients: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"address|recipient"):
        Pipeline(LOCK_STEP).offer(Transaction("id", "a@x.org", recipients), Text(size=1))


# A window

WINDOW = Extensions(pipelining=True, size=0, eight_bit_mime=True, smtputf8=True, chunking=True)
SMALL = b".small\r\n"


def windowed(window: int, *names: str) -> Pipeline:
    pipeline = Pipeline(WINDOW, window)
    for name in names:
        pipeline.offer(transaction(name), Text(SMALL, len(SMALL)))
    return pipeline


def taken_well(count: int) -> list[str]:
    return ["250 ok", "250 ok", "250 ok", "250 2.0.0 taken"] * count


def test_whole_transactions_go_out_at_once_until_the_window_is_full() -> None:
    """A message that is answered keeps its place until it is settled."""
    pipeline = windowed(2, "a", "b", "c", "d")
    said: list[bytes] = []
    assert pipeline.output(said).count(b" LAST\r\n" + SMALL + b"RSET") == 1
    assert b"small" not in b"".join(said)
    assert not pipeline.room
    answer(pipeline, *taken_well(2))
    assert pipeline.output() == b""
    assert [one.transaction.queue_id for one in pipeline.take()] == ["id-a", "id-b"]
    assert pipeline.output() == b""
    pipeline.settle()
    assert pipeline.output().count(SMALL) == 2


def test_an_answer_too_many_in_a_window_makes_all_of_them_doubtful() -> None:
    """Without a 354 in between nothing shows where question and answer parted."""
    pipeline = windowed(3, "a", "b")
    pipeline.output()
    answer(pipeline, "250 stray", *taken_well(2))
    first, second = rest(pipeline)
    assert (first.body, second.body, pipeline.settled) == (None, None, 0)
    assert first.last_byte_sent
    assert second.last_byte_sent
    assert pipeline.distrust


@pytest.mark.parametrize("nonsense", ["250 2.1.5 recipient ok", "354 go", "junk", "250-a\r\n550 b"])
def test_an_answer_to_a_message_that_cannot_be_one_ends_the_trust_in_chunks(nonsense: str) -> None:
    pipeline = windowed(3, "a", "b")
    pipeline.output()
    answer(pipeline, "250 ok", "250 ok", "250 ok", nonsense)
    first, second = rest(pipeline)
    assert first.body is None
    assert second.untried
    assert second.last_byte_sent
    assert pipeline.distrust


def test_a_message_taken_for_nobody_is_out_of_step() -> None:
    pipeline = windowed(3, "a")
    pipeline.output()
    answer(pipeline, "250 ok", "250 ok", "550 5.1.1 no", "250 2.0.0 taken")
    assert pipeline.distrust
    assert pipeline.ended


def test_a_chunk_that_is_taken_for_commands_all_the_same_ends_the_trust_in_chunks() -> None:
    """Its first line is answered where RSET's answer is due; what follows is believed no more."""
    pipeline = windowed(3, "a", "b")
    pipeline.output()
    answer(pipeline, "250 ok", "250 ok", "550 5.1.1 no", "503 5.5.1 no recipients", "500 5.5.2 what?", "250 ok")
    refused, untried = rest(pipeline)
    assert codes(refused) == (250, [550], 0, 0)
    assert (untried.untried, untried.last_byte_sent) == (True, True)
    assert pipeline.distrust


def test_a_refused_chunk_is_no_reason_for_distrust() -> None:
    """The commit behind it is on its way by then, and RFC 3030 has it answered 503: echo."""
    pipeline = Pipeline(WINDOW)
    pipeline.offer(transaction(), Text())
    pipeline.output()
    answer(pipeline, "250 ok", "250 ok", "250 ok")
    assert body(pipeline) == b"BDAT 0 LAST\r\n"
    answer(pipeline, "552 5.3.4 too large", "503 5.5.1 no transaction")
    (refused,) = rest(pipeline)
    assert codes(refused) == (250, [250], 552, 0)
    assert not refused.last_byte_sent
    assert (pipeline.distrust, pipeline.ended) == ("", False)


@pytest.mark.parametrize("next_one", [True, False])
def test_a_refused_chunk_that_is_taken_for_commands_ends_the_trust_in_chunks(next_one: bool) -> None:
    """Also where messages go one by one: else the text would be obeyed again with every try."""
    pipeline = Pipeline(WINDOW)
    pipeline.offer(transaction(), Text())
    pipeline.output()
    answer(pipeline, "250 ok", "250 ok", "250 ok")
    if next_one:
        pipeline.offer(transaction("b"), Text(SMALL, len(SMALL)))
    body(pipeline)
    answer(pipeline, "552 5.3.4 too large", "500 5.5.2 what?", "500 5.5.2 what?")
    assert rest(pipeline)[0].body is None
    assert pipeline.distrust


def test_a_421_in_a_window_is_no_reason_for_distrust() -> None:
    """What was answered before stays answered, and what was not is untried, its last byte sent."""
    pipeline = windowed(4, "a", "b", "c")
    pipeline.output()
    answer(pipeline, *taken_well(1), "421 4.7.0 enough")
    first, second, third = rest(pipeline)
    assert codes(first) == (250, [250], 0, 250)
    assert (second.untried, third.untried, third.last_byte_sent) == (True, True, True)
    assert not pipeline.distrust


def test_a_chunk_announces_exactly_what_it_holds() -> None:
    pipeline = windowed(4, "a")
    assert pipeline.output().endswith(b"BDAT %d LAST\r\n" % len(SMALL) + SMALL)


def test_small_messages_wait_in_bounds() -> None:
    """A window of the largest small messages does not fill the memory."""
    pipeline = Pipeline(WINDOW, 100)
    offers = 0
    while pipeline.room:
        pipeline.offer(transaction(str(offers)), Text(b"x" * (1 << 18), 1 << 18))
        offers += 1
    assert offers == AHEAD >> 18
    assert len(pipeline.output()) < 2 * WRITE


# What is believed


def test_every_answer_is_reported_with_its_enhanced_code() -> None:
    pipeline = offered(Pipeline(PIPELINING), transaction("a", 3))
    pipeline.output()
    answer(
        pipeline, "250 ok", "250 2.1.0 ok", "250 ok", "550-5.1.1 no such", "550 5.1.1 user", "450 5.2.1 odd", "354 go"
    )
    body(pipeline)
    answer(pipeline, "250 2.0.0 queued as 1")
    (one,) = rest(pipeline)
    assert codes(one) == (250, [250, 550, 450], 354, 250)
    assert one.cut is None
    assert one.last_byte_sent
    assert one.recipients[1] is not None
    assert str(one.recipients[1]) == "550 5.1.1 no such user"
    assert one.recipients[2] is not None
    assert (one.recipients[2].enhanced, one.recipients[2].text) == ("", "5.2.1 odd")
    assert pipeline.settled == 1


def test_a_refused_data_is_the_end_of_the_transaction_only() -> None:
    pipeline = offered(Pipeline(PIPELINING), transaction("a"), transaction("b"))
    pipeline.output()
    answer(pipeline, "250 ok", "250 ok", "250 ok", "451 busy")
    assert [codes(one) for one in rest(pipeline)] == [(250, [250], 451, 0)]
    assert pipeline.output().startswith(b"RSET\r\nMAIL FROM:<b@")


def test_a_go_ahead_without_recipients_gets_a_lone_dot_whose_answer_is_echo() -> None:
    pipeline = offered(Pipeline(PIPELINING), transaction("a", 2), transaction("b"))
    pipeline.output()
    answer(pipeline, "250 ok", "250 ok", "550 no", "550 no", "354 go")
    assert pipeline.body_wanted is None
    assert pipeline.output().startswith(b".\r\nRSET\r\nMAIL FROM:<b@")
    answer(pipeline, "250 taken")
    (one,) = rest(pipeline)
    assert codes(one) == (250, [550, 550], 354, 0)
    assert not one.last_byte_sent


# What is not believed

DESYNCS = {
    "a body wanted after the sender was refused": ["250 ok", "550 no", "503 no", "354 go"],
    "2xx to DATA": ["250 ok", "250 ok", "250 ok", "250 ok"],
    "354 to RSET": ["354 go"],
    "354 to MAIL": ["250 ok", "354 go"],
    "354 to RCPT": ["250 ok", "250 ok", "354 go"],
    "another 3xx to DATA": ["250 ok", "250 ok", "250 ok", "334 go"],
    "two codes in one answer": ["250 ok", "250-a", "550 b"],
    "an answer too many": ["250 ok", "250 ok", "250 ok", "354 go", "250 ok"],
    "no code": ["250 ok", "hello"],
    "a code below 200": ["250 ok", "150 well"],
    "a code above 599": ["250 ok", "600 well"],
    "neither space nor hyphen": ["250 ok", "250_ok"],
    "an empty line": ["250 ok", ""],
    "a long line": ["250 ok", "250 " + "x" * MAX_LINE],
    "too many lines": ["250 ok", *["250-x"] * MAX_LINES, "250 x"],
    "too many octets": ["250 ok", *["250-" + "x" * 3000] * 12, "250 x"],
}


@pytest.mark.parametrize("lines", DESYNCS.values(), ids=DESYNCS.keys())
def test_desync_ends_the_connection_and_nothing_is_sent(lines: list[str]) -> None:
    pipeline = offered(Pipeline(PIPELINING), transaction("a"), transaction("b"))
    pipeline.output()
    answer(pipeline, *lines)
    assert pipeline.ended
    assert pipeline.trouble is not None
    assert pipeline.trouble.code == 0
    assert pipeline.body_wanted is None
    assert pipeline.output() == b""
    first, second = rest(pipeline)
    assert first.body is None
    assert first.untried or first.cut == pipeline.trouble
    assert second.untried
    assert second.cut is None


def test_a_line_without_end_is_given_up_before_it_fills_the_memory() -> None:
    reader = AnswerReader()
    reader.feed(b"250 " + b"x" * MAX_LINE)
    with pytest.raises(Desync, match="line of more than"):
        reader.next()


def test_an_answer_without_text_or_with_a_bare_lf_is_an_answer() -> None:
    reader = AnswerReader()
    reader.feed(b"250\r\n550-a\n550 b\n")
    assert reader.next() == (250, [""])
    assert reader.next() == (550, ["a", "b"])
    assert reader.next() is None


@pytest.mark.parametrize("nonsense", ["451 4.3.0 no", "550 5.0.0 no", "250 again", "junk"])
def test_two_answers_to_the_last_byte_are_not_sent(nonsense: str) -> None:
    """Which of the two it was cannot be known: ambiguous, so it is tried again rather than lost."""
    pipeline = offered(Pipeline(PIPELINING), transaction("a"))
    pipeline.output()
    answer(pipeline, "250 ok", "250 ok", "250 ok", "354 go")
    body(pipeline)
    pipeline.receive(f"250 taken\r\n{nonsense}\r\n".encode())
    (first,) = rest(pipeline)
    assert (first.body, first.last_byte_sent, first.cut) == (None, True, pipeline.trouble)
    assert pipeline.settled == 0


def test_trouble_with_the_next_message_takes_nothing_back() -> None:
    """The answers to the group ahead may come in one piece with the 250: it stays what it is."""
    pipeline = offered(Pipeline(PIPELINING), transaction("a"), transaction("b"))
    pipeline.output()
    answer(pipeline, "250 ok", "250 ok", "250 ok", "354 go")
    body(pipeline)
    pipeline.receive(b"250 taken\r\n250 ok\r\n550 no\r\n250 ok\r\njunk\r\n")
    first, _ = rest(pipeline)
    assert first.body is not None
    assert pipeline.settled == 1


def test_a_server_that_closes_right_after_taking_a_message_has_taken_it() -> None:
    """A 421 in the same packet as the 250 is a server that has had enough, not one that is out of step."""
    pipeline = offered(Pipeline(PIPELINING), transaction("a"))
    pipeline.output()
    answer(pipeline, "250 ok", "250 ok", "250 ok", "354 go")
    body(pipeline)
    pipeline.receive(b"250 taken\r\n421 4.7.0 enough\r\n")
    (first,) = rest(pipeline)
    assert first.body is not None
    assert (first.body.code, pipeline.settled) == (250, 1)


@pytest.mark.parametrize("extensions", [PIPELINING, LOCK_STEP])
def test_a_byte_while_idle_is_desync_but_421_is_the_server_closing(extensions: Extensions) -> None:
    stray, closing = Pipeline(extensions), Pipeline(extensions)
    stray.receive(b"2")
    closing.receive(b"421 4.4.2 idle too long\r\n")
    assert stray.ended
    assert stray.trouble is not None
    assert (stray.trouble.stage, stray.trouble.code) == (Stage.IDLE, 0)
    assert closing.ended
    assert closing.trouble is not None
    assert (closing.trouble.stage, str(closing.trouble)) == (Stage.IDLE, "421 4.4.2 idle too long")


def test_a_refused_rset_ends_the_connection_without_blame() -> None:
    pipeline = offered(Pipeline(PIPELINING), transaction())
    pipeline.output()
    answer(pipeline, "530 5.7.0 must issue STARTTLS")
    assert [one.untried for one in rest(pipeline)] == [True]
    assert pipeline.trouble is not None
    assert (pipeline.trouble.stage, pipeline.trouble.code) == (Stage.RSET, 530)


@pytest.mark.parametrize("position", range(1, 5))
def test_421_ends_the_connection_wherever_it_comes(position: int) -> None:
    pipeline = offered(Pipeline(PIPELINING), transaction("a"), transaction("b"))
    pipeline.output()
    replies = ["250 ok", "250 ok", "250 ok", "354 go", "250 taken"]
    answer(pipeline, *replies[: min(position, 4)])
    if position == 4:
        body(pipeline)
    answer(pipeline, "421 4.3.2 shutting down", *replies[position:])
    first, second = rest(pipeline)
    assert pipeline.ended
    assert first.cut is not None
    assert first.cut.code == 421
    assert first.body is None or first.body.code == 421
    assert second.untried


# How it ends


def test_a_lost_connection_cuts_what_was_begun_and_leaves_the_rest_untried() -> None:
    pipeline = offered(Pipeline(PIPELINING), transaction("a"), transaction("b"))
    pipeline.output()
    answer(pipeline, "250 ok", "250 ok", "250 ok", "354 go")
    body(pipeline)
    pipeline.lost("connection reset by peer")
    first, second = rest(pipeline)
    assert first.cut is not None
    assert (first.cut.stage, first.cut.code, first.cut.text) == (Stage.BODY, 0, "connection reset by peer")
    assert first.last_byte_sent
    assert first.body is None
    assert second.untried
    assert second.recipients == (None,)


def test_half_an_answer_is_no_answer() -> None:
    pipeline = offered(Pipeline(PIPELINING), transaction("a"))
    pipeline.output()
    answer(pipeline, "250 ok", "250 ok", "250 ok", "354 go")
    body(pipeline)
    pipeline.receive(b"250-taken\r\n250 ok")
    pipeline.lost("closed")
    (one,) = rest(pipeline)
    assert one.body is None


def test_stopping_gives_back_what_has_not_begun() -> None:
    pipeline = offered(Pipeline(PIPELINING), transaction("a"), transaction("b"))
    pipeline.output()
    answer(pipeline, "250 ok", "250 ok", "250 ok", "354 go")
    body(pipeline)
    pipeline.stop()
    assert not pipeline.ended
    answer(pipeline, "250 taken", "250 ok", "250 ok", "250 ok", "354 go")
    first, second = rest(pipeline)
    assert codes(first) == (250, [250], 354, 250)
    assert second.untried
    assert pipeline.ended
    assert pipeline.trouble is None


def test_stopping_before_a_body_ends_at_once() -> None:
    pipeline = offered(Pipeline(PIPELINING), transaction("a"))
    pipeline.output()
    answer(pipeline, "250 ok", "250 ok", "250 ok", "354 go")
    pipeline.stop()
    assert pipeline.ended
    assert [one.untried for one in rest(pipeline)] == [True]


def test_a_changed_message_says_so() -> None:
    pipeline = offered(Pipeline(PIPELINING), transaction("a"), transaction("b"))
    pipeline.output()
    answer(pipeline, "250 ok", "250 ok", "250 ok", "354 go")
    pipeline.begin_body()
    pipeline.abandon("changed", changed=True)
    first, second = rest(pipeline)
    assert first.changed
    assert not first.last_byte_sent
    assert second.untried
    assert not second.changed


def test_what_comes_at_quit_is_no_trouble() -> None:
    pipeline = Pipeline(PIPELINING)
    assert pipeline.quit() == b"QUIT\r\n"
    pipeline.receive(b"garbage\r\n")
    assert pipeline.ended
    assert pipeline.trouble is None


# Texts


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"250 caf\xc3\xa9", "café"),
        (b"250 caf\xe9", "caf\\xe9"),
        (b"250 a\x1b[2Jb\rc\td", "a\\x1b[2Jb\\rc\\td"),
        ("250 a\u202eb\u2028c".encode(), "a\\u202eb\\u2028c"),
        (b"250 " + b"x" * 2000, "x" * (MAX_TEXT - 1) + "…"),
    ],
)
def test_a_text_is_safe_to_log(raw: bytes, text: str) -> None:
    reader = AnswerReader()
    reader.feed(raw + b"\r\n")
    found = reader.next()
    assert found is not None
    assert response(Stage.MAIL, *found).text == text


# Any server at all

replies = st.lists(
    st.sampled_from(
        [
            "250 ok",
            "250-more",
            "354 go",
            "451 later",
            "550 no",
            "421 bye",
            "250 2.0.0 ok",
            "junk",
            "",
            "334 x",
            "251 fwd",
        ]
    ),
    max_size=14,
)


@given(
    pipelining=st.booleans(),
    window=st.sampled_from([1, 1, 2, 4]),
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=6),
    lines=replies,
    cuts=st.lists(st.integers(1, 9), max_size=8),
    stop_after=st.integers(0, 30),
    changed=st.integers(0, 6),
)
def test_no_server_makes_a_message_sent_that_it_did_not_answer(
    pipelining: bool, window: int, sizes: list[int], lines: list[str], cuts: list[int], stop_after: int, changed: int
) -> None:
    """The server's bytes in any pieces: one Answers per transaction, in order, a 250 only after a last byte, and never
    more bodies undecided than the window holds."""
    pipeline = Pipeline(Extensions(pipelining=pipelining or window > 1, chunking=window > 1), window)
    waiting = [transaction(f"t{i}", size) for i, size in enumerate(sizes)]
    taken: list[Transaction] = []
    got: list[Answers] = []
    last_bytes: dict[str, int] = {}  # bytes received when the last byte went out
    pieces = _pieces("".join(f"{line}\r\n" for line in lines).encode(), cuts)
    received = b""
    for step, piece in enumerate([b"", *pieces]):
        if step == stop_after:
            pipeline.stop()
        received += piece
        pipeline.receive(piece)
        for _ in range(8):
            if waiting and pipeline.room:
                taken.append(waiting.pop(0))
                text = b"text\r\n" if window > 1 and len(taken) != 3 else None
                pipeline.offer(taken[-1], Text(text, same=len(taken) - 1 != changed or text is None))
            said = pipeline.output()
            if (wanted := pipeline.body_wanted) is not None:
                pipeline.begin_body()
                said += pipeline.end_body()
                last_bytes[wanted.queue_id] = len(received)
            for begun in taken:
                if window > 1 and b"text" in said and f"MAIL FROM:<{begun.sender}>".encode() in said:
                    last_bytes.setdefault(begun.queue_id, len(received))
            assert len(last_bytes.keys() - {one.transaction.queue_id for one in got}) <= window
            got += pipeline.take()
            pipeline.settle()
    pipeline.lost("the end")
    got += rest(pipeline)

    assert [one.transaction for one in got] == taken
    for one in got:
        assert len(one.recipients) == len(one.transaction.recipients)
        if one.body is not None and one.body.code < 300:
            sent_at = last_bytes[one.transaction.queue_id]
            assert b"25" in received[sent_at:]
            assert one.mail is not None
            assert one.mail.code < 300
            assert any(answer is not None and answer.code < 300 for answer in one.recipients)
            assert one.cut is None
        if one.untried:
            assert one.recipients == (None,) * len(one.recipients)
            assert (one.data, one.body, one.cut) == (None, None, None)
            assert not one.last_byte_sent or one.transaction.queue_id in last_bytes


# Bytes on the wire


def reference_normal(message: bytes) -> bytes:
    normal = message.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    return normal + b"\r\n" if normal and not normal.endswith(b"\r\n") else normal


def reference_wire(message: bytes) -> bytes:
    lines = reference_normal(message).split(b"\r\n")
    return b"\r\n".join(b"." + line if line.startswith(b".") else line for line in lines) + b".\r\n"


def _pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    found, at = [], 0
    for length in cuts:
        found.append(data[at : at + length])
        at += length
    return [*found, data[at:]]


messages = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"a", b"\xe4", b"\0", b"line"]), max_size=20).map(
    b"".join
)


@given(messages, st.lists(st.integers(0, 5), max_size=12))
def test_the_encoder_does_what_the_reference_does_however_the_message_is_cut(message: bytes, cuts: list[int]) -> None:
    encoder = Encoder()
    wire = b"".join(encoder.feed(piece) for piece in _pieces(message, cuts)) + encoder.finish()
    assert wire == reference_wire(message)
    assert encoder.octets == len(reference_normal(message))
    assert wire.count(b"\r\n.\r\n") + wire.startswith(b".\r\n") == 1
    assert wire.count(b"\r") == wire.count(b"\n") == wire.count(b"\r\n")


@given(messages, st.lists(st.integers(0, 5), max_size=12))
def test_the_scanner_finds_what_the_reference_finds(message: bytes, cuts: list[int]) -> None:
    scanner = Scanner()
    for piece in _pieces(message, cuts):
        scanner.feed(piece)
    facts = scanner.finish()
    normal = reference_normal(message)
    assert facts.size == len(normal)
    assert facts.eight_bit == any(octet > 127 for octet in message)
    assert facts.has_nul == (b"\0" in message)
