"""What an IMAP server says and what may be said to it, as bytes: names, responses, values."""

from __future__ import annotations

import datetime
import itertools
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrelayd.inbound import answers, names, wire
from mailrelayd.inbound.wire import Limits, Nonsense, Response, ResponseReader, Status

SMALL = Limits(line=100, literal=50, total=400, responses=10)


def responses(data: bytes, limits: Limits = SMALL, *, pieces: int = 0) -> list[Response]:
    """What a reader makes of the bytes, given at once or in pieces of this size."""
    reader = ResponseReader(limits)
    found = []
    for begin in range(0, len(data), pieces or max(len(data), 1)):
        reader.feed(data[begin : begin + (pieces or len(data))])
        while (response := reader.next()) is not None:
            found.append(response)
    return found


def untagged(data: bytes) -> Response:
    (response,) = responses(b"* " + data + b"\r\n", Limits())
    return response


# Names


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("INBOX", "INBOX"),
        ("Genehmigungen ä", "Genehmigungen &AOQ-"),
        ("a&b", "a&-b"),
        ("&", "&-"),
        ("~peter/mail/台北/日本語", "~peter/mail/&U,BTFw-/&ZeVnLIqe-"),  # RFC 3501 section 5.1.3
        ("😀", "&2D3eAA-"),
        ("\r\n", "&AA0ACg-"),
    ],
)
def test_folder_names_in_modified_utf_7(name: str, wanted: str) -> None:
    """There and back again."""
    assert names.encoded(name) == wanted
    assert names.decoded(wanted.encode()) == name


@given(st.text())
def test_every_name_comes_back(name: str) -> None:
    """And is printable ASCII on its way, so that it can stand in quotes."""
    try:
        said = names.encoded(name)
    except UnicodeEncodeError:
        assert any("\ud800" <= c <= "\udfff" for c in name)
        return
    assert said.isascii()
    assert said.isprintable() or not said
    assert names.decoded(said.encode()) == name


@pytest.mark.parametrize("name", [b"&", b"&AOQ", b"&AO!-", b"a\xffb", b"&2D0-", b"&A-", "ä".encode(), b"a\x07b"])
def test_a_name_that_is_not_modified_utf_7_is_shown_as_it_came(name: bytes) -> None:
    """A list of folders never fails for one of them."""
    assert names.decoded(name) == name.decode("utf-8", "backslashreplace")


@given(st.binary())
def test_no_name_of_a_server_fails(name: bytes) -> None:
    """Any bytes give a text."""
    assert isinstance(names.decoded(name), str)


@given(st.text())
def test_what_stands_in_quotes_stays_there(text: str) -> None:
    """No line end, no octet above 127 and no quote gets out; else it is refused."""
    try:
        said = names.quoted(text)
    except ValueError:
        assert not text.isascii() or set(text) & set("\0\r\n")
        return
    assert wire.values([said.encode()]) == [text.encode()]


def test_arguments_are_exact() -> None:
    """UIDs one by one, days in English, field names in capitals."""
    assert names.uid_set([1, 2, 3, 2**32 - 1]) == "1,2,3,4294967295"
    assert names.date(datetime.date(2026, 1, 2)) == "2-Jan-2026"
    assert names.field_names(["From", "x-a"]) == "(FROM X-A)"
    assert names.folder("a") == '"a"'
    for wrong in ([], [0], [2**32]):
        with pytest.raises(ValueError, match="UIDs are numbers"):
            names.uid_set(wrong)
    for field in ([], [""], ["a b"], ["a:"], ["ä"], ["x" * 77]):
        with pytest.raises(ValueError, match="no header field names"):
            names.field_names(field)


# Responses

TALK = (
    b"* OK [CAPABILITY IMAP4rev1] ready {5}\r\n"
    b"* 1 FETCH (UID 5 BODY[] {7}\r\n)\r\n* OK X {3}\r\nab\r)\r\n"
    b"* LIST () NIL {0}\r\n\r\n"
    b"+ \r\n+\r\n"
    b"A1 NO [ALERT] no {9}\r\n"
)
HEARD = [
    Response("*", (b"OK [CAPABILITY IMAP4rev1] ready {5}",)),
    Response("*", (b"1 FETCH (UID 5 BODY[] ", b")\r\n* OK", b" X ", b"ab\r", b")")),
    Response("*", (b"LIST () NIL ", b"", b"")),
    Response("+", (b"",)),
    Response("+", (b"",)),
    Response("A1", (b"NO [ALERT] no {9}",)),
]


@pytest.mark.parametrize("pieces", [0, 1, 2, 3, 7])
def test_responses_are_the_same_however_they_arrive(pieces: int) -> None:
    """Literals hold anything; a number in braces at the end of a free text is no literal."""
    assert responses(TALK, pieces=pieces) == HEARD


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"* " + b"x" * 99, "a line of more than 100 octets"),
        (b"* " + b"x" * 99 + b"\r\n", "a line of more than 100 octets"),
        (b"* 1 FETCH {51}\r\n", "announced 51 octets, more than the 50 there can be"),
        (b"* 1 FETCH {99999999999999999999}\r\n", "announced 99999999999999999999 octets"),
        (b"* 1 FETCH (X {50}\r\n" + (b"x" * 50 + b" X {50}\r\n") * 8, "answered with more than 400 octets"),
        (b"* x\r\n" * 11, "answered with more than 10 lines"),
        (b"\r\n", "what is no answer"),
        (b" x\r\n", "what is no answer"),
        (b"*\r\n", "what is no answer"),
        (b"A1\r\n", "what is no answer"),
        (b"A-1 OK\r\n", "what is no answer"),
        (b"HTTP/1.1 400 Bad Request\r\n", "what is no answer"),
    ],
)
def test_what_passes_a_limit_is_no_answer(data: bytes, message: str) -> None:
    """As soon as it shows, and in however small pieces."""
    for pieces in (0, 1):
        with pytest.raises(Nonsense, match=message):
            responses(data, pieces=pieces)


def test_each_command_has_limits_of_its_own() -> None:
    """What was said before does not count against it."""
    reader = ResponseReader(SMALL)
    for _ in range(100):
        reader.feed(b"* " + b"x" * 90 + b"\r\n")
        assert reader.next() is not None
        reader.allow(SMALL)
    reader.feed(b"* half")
    assert (reader.next(), reader.rest) == (None, 6)


@given(st.lists(st.sampled_from([b"* ", b"A1 OK", b"{3}", b"\r\n", b"(", b'"', b"\x00", b"x" * 60]), max_size=30))
def test_any_bytes_are_read_in_bounds(parts: list[bytes]) -> None:
    """In one piece or in many: the same responses, or Nonsense."""
    data = b"".join(parts)

    def outcome(pieces: int) -> list[Response] | str:
        try:
            return responses(data, pieces=pieces)
        except Nonsense as nonsense:
            return str(nonsense)[:20]

    assert outcome(0) == outcome(1) or isinstance(outcome(0), str)


def test_reading_takes_time_in_proportion() -> None:
    """A megabyte without a line end, and 100,000 lines: each in an instant."""
    begin = time.monotonic()
    reader = ResponseReader(Limits(line=1 << 21, total=1 << 23, responses=1 << 20))
    for _ in range(1 << 10):
        reader.feed(b"x" * 1024)
        assert reader.next() is None
    reader = ResponseReader(Limits(total=1 << 23, responses=1 << 20))
    reader.feed(b"* 1 FETCH (FLAGS (\\Seen))\r\n" * 100_000)
    assert sum(1 for _ in iter(reader.next, None)) == 100_000
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (b"OK", Status("OK")),
        (b"ok done", Status("OK", "", "", "done")),
        (b"NO [AUTHENTICATIONFAILED] no", Status("NO", "AUTHENTICATIONFAILED", "", "no")),
        (b"OK [capability IMAP4rev1 IDLE]", Status("OK", "CAPABILITY", "IMAP4rev1 IDLE", "")),
        (b"OK [PERMANENTFLAGS (\\Answered \\*)] Flags.", Status("OK", "PERMANENTFLAGS", "(\\Answered \\*)", "Flags.")),
        (b"BYE [x", Status("BYE", "", "", "[x")),
        (b"OK \xff", Status("OK", "", "", "\\xff")),
        (b"OKAY then", None),
        (b"1 EXISTS", None),
    ],
)
def test_a_status_is_taken_apart(text: bytes, wanted: Status | None) -> None:
    """Kind and code in capitals, whatever the server writes."""
    assert wire.status(Response("*", (text,))) == wanted


# Values


def test_values_are_strings_nil_and_lists() -> None:
    """What looks like syntax inside of quotes and literals is text."""
    pieces = (b'(a NIL "q\\"u(o" BODY[HEADER.FIELDS (FROM TO)]<0> ', b"(lit", b' ([Gmail]/All () nil)) "" b', b"", b"")
    assert wire.values(pieces) == [
        [b"a", None, b'q"u(o', b"BODY[HEADER.FIELDS (FROM TO)]<0>", b"(lit", [b"[Gmail]/All", [], None]],
        b"",
        b"b",
        b"",
    ]


@pytest.mark.parametrize("text", [b"(", b")", b"(()", b'"a', b'"a\\"', b"a\x00b", b"(" * 50, b'a "b\rc"'])
def test_values_that_do_not_close_are_nonsense(text: bytes) -> None:
    """Neither guessed nor followed without end."""
    with pytest.raises(Nonsense):
        wire.values((text,))


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=5))
def test_any_bytes_are_values_or_nonsense(pieces: list[bytes]) -> None:
    """Nothing else is raised."""
    try:
        wire.values(pieces)
    except Nonsense:
        return


@pytest.mark.parametrize(
    "text", [b'"' + b"\\" * 50_000, b"(" * 50_000, b"[" * 50_000, b"BODY[" * 10_000, b'"a" ' * 12_000]
)
def test_values_take_time_in_proportion(text: bytes) -> None:
    """However long they are made not to end."""
    begin = time.monotonic()
    with suppress(Nonsense):
        wire.values((text,))
    assert time.monotonic() - begin < 2


def test_a_fetch_is_its_items() -> None:
    """By name in capitals; other responses are none."""
    assert answers.fetched(untagged(b"12 fetch (uid 5 Flags (\\Seen))")) == {"UID": b"5", "FLAGS": [b"\\Seen"]}
    assert answers.fetched(untagged(b"12 FETCHED (UID 5)")) is None
    assert answers.fetched(untagged(b"SEARCH 1")) is None


def test_numbers_are_digits_and_nothing_else() -> None:
    """No sign, no underscore, no other script's digits, none that is too large."""
    assert [answers.number(word, 10) for word in (b"0", b"10")] == [0, 10]
    others: list[wire.Value] = [b"11", b"-1", b"1_0", b"+1", b"", b" 1", "١".encode(), None, []]
    assert {answers.number(word, 10) for word in others} == {None}
    assert answers.number(b"9" * 5000) is None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (b"17-Jul-1996 02:44:25 -0700", (1996, 7, 17, 9, 44, 25)),
        (b" 1-jan-2026 00:00:00 +0100", (2025, 12, 31, 23, 0, 0)),
        (b"31-DEC-2016 23:59:60 +0000", (2016, 12, 31, 23, 59, 59)),
    ],
)
def test_an_internal_date_is_in_utc(text: bytes, wanted: tuple[int, ...]) -> None:
    """With its zone, in any case, and with a leap second."""
    moment = answers.moment(text)
    assert moment is not None
    assert moment.timetuple()[:6] == wanted
    assert moment.utcoffset() == datetime.timedelta()


@pytest.mark.parametrize(
    "text",
    [
        *(None, [], b"", b"1996-07-17", b"31-Feb-2026 00:00:00 +0000", b"1-Foo-2026 00:00:00 +0000"),
        *(b"1-Jan-2026 25:00:00 +0000", b"1-Jan-0001 00:00:00 +2300", b"1-Jan-2026 00:00:00 +9900"),
        *(b"17-Jul-1996 02:44:25 -0700x", "1-Jan-٢٠٢٦ 00:00:00 +0000".encode()),
    ],
)
def test_what_is_no_internal_date_is_none(text: wire.Value) -> None:
    """Neither guessed nor an error."""
    assert answers.moment(text) is None


@given(st.binary(max_size=60))
def test_whatever_a_server_says_is_understood_or_nonsense(text: bytes) -> None:
    """No other exception leaves the parsers."""
    for prefix, suffix in itertools.product((b"", b"1 FETCH (", b"SEARCH ", b"LIST ", b"OK ["), (b"", b")", b"]")):
        response = Response("*", (prefix + text + suffix,))
        try:
            wire.status(response)
            answers.numbered(response)
            answers.fetched(response)
            list(answers.searched([response]))
            list(answers.listed([response]))
        except Nonsense:
            continue
