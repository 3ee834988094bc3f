"""What a local program writes becomes a message: names get their domain, From is added, nothing else is touched."""

from __future__ import annotations

import email
import email.policy
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrelayd.outbound.addresses import AddressError
from mailrelayd.outbound.barenames import qualified
from mailrelayd.outbound.handin import Edited, Person, Site, Split, edit, split, written_addresses
from mailrelayd.outbound.headers import MAX_HEADER, Unreadable
from mailrelayd.outbound.submission import MAX_RECIPIENTS, Options, OptionsError, Program, decode, encode

SITE = Site("corp.test", frozenset({"web1", "web1.corp.test"}))
ADMIN = Site("corp.test", frozenset({"web1", "web1.corp.test"}), "admin@example.com")
WWW = Person("www-data", "Web Server")


def edited(
    data: bytes,
    *recipients: str,
    program: Program = "sendmail",
    read_header: bool = False,
    sender: str | None = None,
    full_name: str = "",
    site: Site = SITE,
    person: Person = WWW,
) -> Edited:
    """What becomes of it; it must become something."""
    options = Options(program, sender, recipients, read_header, full_name)
    found = edit(options, data, person, site, complete=True)
    assert isinstance(found, Edited), found
    return found


def whole(data: bytes, *recipients: str, **more: object) -> bytes:
    """The message as it is queued."""
    found = edited(data, *recipients, **more)  # type: ignore[arg-type]
    return found.header + data[found.body :]


def refusal(data: bytes, *recipients: str, **more: object) -> str:
    """Why it is refused."""
    options = Options(**{"program": "sendmail", "recipients": recipients, **more})  # type: ignore[arg-type]
    found = edit(options, data, WWW, SITE, complete=True)
    assert isinstance(found, Unreadable), found
    assert found.reason.isprintable()
    return found.reason


# -- the message -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"hello\n", b"From: Web Server <www-data@corp.test>\n\nhello\n"),
        (b"\nhello\n", b"From: Web Server <www-data@corp.test>\n\nhello\n"),
        (b"Subject: a\nhello\n", b"Subject: a\nFrom: Web Server <www-data@corp.test>\n\nhello\n"),
        (b"Subject: a\r\n\r\nb", b"Subject: a\r\nFrom: Web Server <www-data@corp.test>\r\n\r\nb"),
        (b"Subject: a", b"Subject: a\nFrom: Web Server <www-data@corp.test>\n\n"),
        (b"Subject: a\n b\n\tc\n\nd\n", b"Subject: a\n b\n\tc\nFrom: Web Server <www-data@corp.test>\n\nd\n"),
        (b"From: a@x\n\n\nb\n", b"From: a@x\n\n\nb\n"),
        (b"From:\nTo: a@x\n\nb\n", b"To: a@x\nFrom: Web Server <www-data@corp.test>\n\nb\n"),
        (b"From root Mon Jan  5\nFrom: a@x\n\nb\n", b"From: a@x\n\nb\n"),
        (b"From here to there\n", b"From: Web Server <www-data@corp.test>\n\nFrom here to there\n"),
        (b"From: a@x\n\nTo: b\nX-Approval-Request: 1\n", b"From: a@x\n\nTo: b\nX-Approval-Request: 1\n"),
    ],
)
def test_a_message_without_header_or_from_becomes_one(data: bytes, expected: bytes) -> None:
    """Whatever its line ends are; the body, and every field that is there, stays as it is."""
    assert whole(data, "a@x") == expected


@given(st.binary(max_size=300), st.sampled_from([b"", b"To: root\n", b"Subject: x\r\n y\r\n", b"From a\n"]))
def test_any_bytes_give_a_message_or_a_reason(tail: bytes, head: bytes) -> None:
    """The body is never changed, and what is queued has a header that can be read."""
    data = head + tail
    found = edit(Options("sendmail", recipients=("a@x",)), data, WWW, SITE, complete=True)
    if isinstance(found, Edited):
        again = split(found.header + data[found.body :], complete=True)
        assert isinstance(again, Split)
        assert again.header.empty_line
        assert again.body == len(found.header)
        assert again.header.named("from")
    else:
        assert isinstance(found, Unreadable)


@given(st.text('aA: \r\n.<>,@;"(', max_size=80).map(str.encode), st.integers(0, 80))
def test_a_part_is_judged_as_the_whole_or_waited_for(data: bytes, cut: int) -> None:
    """However a message is cut into pieces, the same is made of it."""
    options = Options("sendmail", recipients=("a@x",))
    early = edit(options, data[:cut], WWW, SITE, complete=False)
    if isinstance(early, Edited):
        assert early == edit(options, data, WWW, SITE, complete=True)
    elif isinstance(early, Unreadable):
        assert isinstance(edit(options, data, WWW, SITE, complete=True), Unreadable)


def test_a_header_that_never_ends_is_refused_and_not_waited_for() -> None:
    """Neither many fields nor one long line is gathered for ever."""
    options = Options("sendmail", recipients=("a@x",))
    for data in (b"Subject: x\n" * 200_000, b"Subject: " + b"x" * (2 << 20), b"x" * (2 << 20)):
        found = edit(options, data, WWW, SITE, complete=False)
        assert isinstance(found, Unreadable)
        assert str(MAX_HEADER) in found.reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the message is empty"),
        (b"\xef\xbb\xbfTo: a@x\n\nb", "byte order mark"),
        ("To: a@x\n\nb".encode("utf-16"), "byte order mark"),
        (b"Subject: a\0b\n\nc", "NUL byte"),
        (b"a:\n" * 10_001 + b"\n", "more than 10000 fields"),
        (b"X-Approval-Request: PO-1\nTo: a@x\n\nb", "sendmail opens no approval request"),
        (b"x-approval-approvers: a@x\nTo: a@x\n\nb", "sendmail opens no approval request"),
    ],
)
def test_what_is_no_message_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    """A sentence for whoever called sendmail."""
    assert reason in refusal(data, "a@x")


# -- From --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sender", "full_name", "person", "expected"),
    [
        (None, "", WWW, "Web Server <www-data@corp.test>"),
        (None, "CronDaemon", WWW, "CronDaemon <www-data@corp.test>"),
        (None, "", Person("root"), "root@corp.test"),
        ("app@example.com", "", WWW, "app@example.com"),
        ("app@example.com", "The App", WWW, "The App <app@example.com>"),
        ("app", "", WWW, "app@corp.test"),
        ("", "", WWW, "www-data@corp.test"),
        ("<>", "Mailer", WWW, "Mailer <www-data@corp.test>"),
        (None, "a, b <c>", WWW, '"a, b <c>" <www-data@corp.test>'),
        (None, 'a "b" \\', WWW, '"a \\"b\\" \\\\" <www-data@corp.test>'),
        (None, "evil\r\nBcc: all@example.com", WWW, '"evilBcc: all@example.com" <www-data@corp.test>'),
        (None, "=?utf-8?q?a?=", WWW, '"=?utf-8?q?a?=" <www-data@corp.test>'),
        (None, "\udcff", WWW, "www-data@corp.test"),
    ],
)
def test_a_missing_from_names_the_user(sender: str | None, full_name: str, person: Person, expected: str) -> None:
    """-F, or for his own address the user database; nothing in it can begin another field."""
    header = edited(b"text\n", "a@x", sender=sender, full_name=full_name, person=person).header
    assert header == f"From: {expected}\n\n".encode()


@given(st.text(max_size=300))
def test_a_full_name_arrives_as_it_was(name: str) -> None:
    """Any name is one name to a reader that shares nothing with us."""
    header = edited(b"text\n", "a@x", full_name=name, person=Person("root")).header
    message = email.message_from_bytes(header, policy=email.policy.default)
    assert list(message) == ["From"]
    (found,) = message["From"].addresses
    shown = "".join(c for c in name if c.isprintable()).strip()[:200]
    # Without blanks: Python puts one between encoded words, against RFC 2047 section 6.2.
    assert "".join(found.display_name.split()) == "".join(shown.split())
    assert found.addr_spec == "root@corp.test"
    assert max(len(line) for line in header.splitlines()) < 998


# -- names without a domain ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("root", "root@d"),
        (" root ", " root@d "),
        ("a@x", "a@x"),
        ("root, a@x,b", "root@d, a@x,b@d"),
        ("<root>", "<root@d>"),
        ('"John Doe" <john>', '"John Doe" <john@d>'),
        ("John Doe <john.doe>", "John Doe <john.doe@d>"),
        ("root (the boss, of all)", "root@d (the boss, of all)"),
        ("root (a (nested) one), b", "root@d (a (nested) one), b@d"),
        ('"odd name"', '"odd name"@d'),
        ("group: a, b@x, C <c>;", "group: a@d, b@x, C <c@d>;"),
        ("undisclosed-recipients:;", "undisclosed-recipients:;"),
        ("a,\r\n\tb", "a@d,\r\n\tb@d"),
        ("John Doe", "John Doe"),
        ("=?utf-8?q?a?=", "=?utf-8?q?a?="),
        ("<>", "<>"),
        ("<@r:a@x>", "<@r:a@x>"),
        ("", ""),
        ("<root", "<root"),
        ("root>", "root>"),
        ('"never closed', '"never closed'),
        ("(never closed", "(never closed"),
        ("a <b> <c>", "a <b> <c>"),
        ("müller", "müller"),
        ("a.b.", "a.b."),
        ("a@", "a@"),
    ],
)
def test_only_a_bare_name_gets_the_domain(written: str, expected: str) -> None:
    """Where anything is unclear, the field stays as it was written."""
    assert qualified(written.encode(), "d").decode() == expected


@given(st.text('ab@.,;:<>()"\\ \r\n\t[]=?ü', max_size=60))
def test_a_list_that_could_be_read_means_the_same_afterwards(text: str) -> None:
    """Only "@d" is ever put in, and never into what has a domain already."""
    before = text.encode()
    after = qualified(before, "d")
    pieces = after.split(b"@d")
    assert len(after) == len(before) + 2 * (len(pieces) - 1 - before.count(b"@d"))
    assert after.replace(b"@d", b"") == before.replace(b"@d", b"")
    assert qualified(after, "d") == after


@pytest.mark.parametrize("unit", ["(", '"', "<", "a,", "a.", "()", "a:", "@", "[", "\\", " "])
def test_a_hostile_list_takes_time_in_proportion_to_its_length(unit: str) -> None:
    """Far more than any field holds, of anything."""
    began = time.process_time()
    qualified(unit.encode() * (300_000 // len(unit)), "d")
    assert time.process_time() - began < 30


def test_fields_with_addresses_are_qualified_and_no_others() -> None:
    """Names in Subject or a field of its own are none."""
    data = (
        b"From: cron\nSender: root\nReply-To: ops\nTo: root\nCc: a, b@x\nBcc: c\nResent-From: d\n"
        b"Subject: root\nX-To: root\nErrors-To: root\n\nroot\n"
    )
    assert whole(data, "a@x") == (
        b"From: cron@corp.test\nSender: root@corp.test\nReply-To: ops@corp.test\nTo: root@corp.test\n"
        b"Cc: a@corp.test, b@x\nBcc: c@corp.test\nResent-From: d@corp.test\n"
        b"Subject: root\nX-To: root\nErrors-To: root\n\nroot\n"
    )


# -- the envelope ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipient", "site", "expected"),
    [
        ("root", SITE, "root@corp.test"),
        ("root", ADMIN, "admin@example.com"),
        ("root@localhost", SITE, "root@corp.test"),
        ("root@LOCALHOST", ADMIN, "admin@example.com"),
        ("root@web1", SITE, "root@web1"),
        ("root@WEB1", ADMIN, "admin@example.com"),
        ("root@web1.corp.test", ADMIN, "admin@example.com"),
        ("boss@corp.test", ADMIN, "boss@corp.test"),
        ("Boss <boss@example.org>", ADMIN, "boss@example.org"),
        ("<a@x>", SITE, "a@x"),
    ],
)
def test_who_reads_the_mail_of_a_name(recipient: str, site: Site, expected: str) -> None:
    """This machine's users have one reader, if one is configured; nobody else is concerned."""
    assert edited(b"text\n", recipient, site=site).envelope.recipients == (expected,)


def test_each_recipient_gets_it_once() -> None:
    """Several in one argument, the same in several, all users at one reader."""
    assert edited(b"text\n", "a@x, b@y", "a@X", "c").envelope.recipients == ("a@x", "b@y", "c@corp.test")
    assert edited(b"text\n", "root", "www", "root@localhost", site=ADMIN).envelope.recipients == ("admin@example.com",)


@pytest.mark.parametrize(
    ("header", "arguments", "expected"),
    [
        ("To: a@x\nCc: b@y\nBcc: c@z, root\n", [], ("a@x", "b@y", "c@z", "root@corp.test")),
        ("To: a@x\n", ["d@x"], ("d@x", "a@x")),
        ("To: undisclosed-recipients:;\n", ["d@x"], ("d@x",)),
        ("To: a@x\nResent-To: b@y\nResent-Bcc: c@z\n", [], ("b@y", "c@z")),
    ],
)
def test_recipients_are_taken_from_the_header(header: str, arguments: list[str], expected: tuple[str, ...]) -> None:
    """-t: those of the latest resending if there is one, and those that are named besides."""
    assert edited(f"{header}\ntext".encode(), *arguments, read_header=True).envelope.recipients == expected


@pytest.mark.parametrize(
    ("sender", "expected"),
    [(None, "www-data@corp.test"), ("", ""), ("<>", ""), (" <> ", ""), ("root", "root@corp.test"), ("<a@x>", "a@x"),
     ("A B <a@x>", "a@x"), ("root@localhost", "root@corp.test")],
)  # fmt: skip
def test_the_sender_is_who_is_named_or_the_user(sender: str | None, expected: str) -> None:
    """The header's From has no say, as with any other sendmail."""
    assert edited(b"From: other@x\n\ntext", "a@x", sender=sender, site=ADMIN).envelope.sender == expected


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"read_header": True}, "no recipient: neither To, Cc nor Bcc holds an address"),
        ({}, "no recipient: none was named"),
        ({"recipients": ("a b@x",)}, "no valid name"),
        ({"recipients": ("a@x\r\nRCPT TO:<b@y>",)}, "'a@x"),
        ({"recipients": ("\udcff@x",)}, "not UTF-8"),
        ({"recipients": ("a@x",), "sender": "a@x, b@y"}, "is not one address"),
        ({"recipients": ("a@x",), "sender": "a@-"}, "no valid domain"),
        ({"recipients": tuple(f"{n}@x" for n in range(MAX_RECIPIENTS + 1))}, "more than 10000 recipients"),
    ],
)
def test_an_envelope_that_cannot_be_is_refused_with_a_reason(arguments: dict[str, object], reason: str) -> None:
    """Nobody's mail goes to a guess."""
    assert reason in refusal(b"Subject: x\n\ntext", **arguments)


def test_a_field_that_cannot_be_read_is_named() -> None:
    """With -t; otherwise nobody has to read it."""
    assert refusal(b"Cc: a b c\n\ntext", read_header=True).startswith("Cc: 'a b c' has no domain")
    assert edited(b"Cc: a b c\n\ntext", "a@x").envelope.recipients == ("a@x",)


def test_a_submitted_message_has_the_envelope_of_a_dropped_file() -> None:
    """Its header says all of it; bare names and a missing From are mended first."""
    data = b"From: app@example.com\nSender: bot\nTo: a@x, root\nBcc: b@y\n\ntext"
    found = edited(data, program="submit", read_header=True, site=ADMIN)
    assert found.envelope.sender == "bot@corp.test"
    assert found.envelope.recipients == ("a@x", "admin@example.com", "b@y")
    bare = edited(b"To: a@x\n\ntext", program="submit", read_header=True)
    assert bare.envelope.sender == "www-data@corp.test"
    returned = edited(b"Return-Path: <>\nTo: a@x\nFrom: b@x\n\ntext", program="submit", read_header=True)
    assert returned.envelope.sender == ""


def test_a_submitted_message_without_recipient_is_refused_as_a_dropped_file_is() -> None:
    """In the same words, but for the sidecar that it cannot have."""
    assert refusal(b"Subject: x\n\ntext", program="submit") == "no recipient: none of To, Cc, Bcc holds an address"


def test_an_odd_login_name_is_quoted_or_refused() -> None:
    """Directory services give names with backslashes and blanks."""
    assert edited(b"text", "a@x", person=Person("CORP\\bob")).envelope.sender == '"CORP\\\\bob"@corp.test'
    found = edit(Options("sendmail", recipients=("a@x",)), b"text", Person("a b"), SITE, complete=True)
    assert isinstance(found, Unreadable)
    assert "a blank" in found.reason


def test_addresses_in_an_argument_are_read_or_refused() -> None:
    """As many as there are."""
    assert written_addresses("a, B <b@x>") == ["a@localhost", "b@x"]
    with pytest.raises(AddressError):
        written_addresses("a@")


# -- what is said over the socket ------------------------------------------------------------------------------------


@given(
    st.builds(
        Options,
        st.sampled_from(["submit", "sendmail"]),
        st.none() | st.text(),
        st.lists(st.text()).map(tuple),
        st.booleans(),
        st.text(),
        st.text("abc012", max_size=200),
    )
)
def test_options_arrive_as_they_were(options: Options) -> None:
    """Whatever bytes the arguments hold, it is one line of ASCII."""
    line = encode(options)
    assert line.isascii()
    assert line.index(b"\n") == len(line) - 1
    assert decode(line) == options


def test_arguments_that_are_no_utf8_arrive_too() -> None:
    """As Python hands them to us."""
    options = Options("sendmail", "\udcff", ("\udc80",))
    assert decode(encode(options)) == options


GOOD = json.loads(encode(Options("sendmail")))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"{\n",
        b"[]\n",
        b"\xff\n",
        b"[" * 100_000,
        b"1" * 10_000,
        *(json.dumps(GOOD | wrong).encode() for wrong in (
            {"version": 2}, {"version": None}, {"program": "rm"}, {"program": ["submit"]}, {"sender": 1},
            {"recipients": "a@x"}, {"recipients": [1]}, {"recipients": None},
            {"read_header": 1}, {"full_name": None}, {"key": "a\nb"}, {"key": "k" * 201}, {"key": 1}, {"more": 1},
        )),
        *(json.dumps({key: value for key, value in GOOD.items() if key != absent}).encode() for absent in GOOD),
    ],
)  # fmt: skip
def test_a_first_line_of_another_shape_is_refused(line: bytes) -> None:
    """Without repeating it: it may be anything."""
    with pytest.raises(OptionsError) as caught:
        decode(line)
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()
