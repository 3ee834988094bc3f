"""The lines for the system log: what Postfix's readers make of them, and that nobody waits until they are read."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrelayd.operate import events, log, maillog, secrecy, syslog
from mailrelayd.operate.maillog import Line
from mailrelayd.outbound.values import Response, Stage
from tests.servers.process import wait_until
from tests.servers.syslog import FRAME, Syslog, pflogsumm, totals

RELAY = "smtp.example.com[192.0.2.7]:587"
SENT = Response(Stage.BODY, 250, "2.0.0", "Ok: queued as 4Xy")
UNKNOWN = Response(Stage.RCPT, 550, "5.1.1", "User unknown")
LATER = Response(Stage.RCPT, 450, "4.7.1", "Greylisted")
NOON = time.struct_time((2026, 11, 1, 12, 0, 7, 6, 305, 0))

NASTY = st.sampled_from('\n\r\t\0\x1b\x7f\x85\u2028\udcff\ud800"\\<>=():;, ').map(str) | st.sampled_from(
    [
        "from=<a@b>, size=7",
        "to=<x@y>, relay=z, delay=0, status=sent (ok)",
        "status=sent",
        "NOQUEUE: reject: RCPT from x",
    ]
)
ANY_TEXT = st.lists(NASTY | st.text(st.characters(exclude_categories=()), max_size=4), max_size=8).map("".join)
# How pflogsumm finds what it counts: anywhere in the line, the first of these that fits.
ARRIVAL = re.compile(r"from=<([^>]*)>, size=(\d+)")
DELIVERY = re.compile(
    r"to=<([^>]*)>, relay=([^,]+), delay=([^,]+), (?:delays=[^,]+, )?(?:dsn=[^,]+, )?status=(\S+)(.*)$"
)


@pytest.fixture(autouse=True)
def _nowhere_else(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave the process as it was: no socket, no secrets."""
    monkeypatch.setattr(secrecy, "_secrets", {})
    monkeypatch.setattr(secrecy, "_secret_forms", None)
    yield
    syslog.setup("", ignore)


@pytest.fixture
def path(short_tmp: Path) -> Path:
    """Where /dev/log would be."""
    return short_tmp / "log"


def ignore(_path: str, _reason: str, _lost: int) -> None:
    """Somebody who does not want to know."""


def shown(line: Line) -> str:
    """What a datagram says, from the tag on."""
    match = FRAME.fullmatch(syslog.framed(line, NOON, 900))
    assert match, line
    return match[3].decode()


def delivery(
    status: maillog.Status = "sent", response: Response = SENT, recipient: str = "boss@example.com", relay: str = RELAY
) -> Line:
    return maillog.delivery(
        status,
        queue_id="2bq7k5hw3m4a",
        recipient=recipient,
        relay=relay,
        delay=0.314,
        delays="0.01/0/0.2/0.1",
        dsn=response.enhanced,
        response=response,
    )


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (maillog.received("2bq7", "erp@example.com", 33), "pickup[900]: 2bq7: uid=33 from=<erp@example.com>"),
        (maillog.received("2bq7", "", None), "pickup[900]: 2bq7: uid=unknown from=<>"),
        (maillog.reported("2bq8", "2bq7"), "bounce[900]: 2bq7: sender non-delivery notification: 2bq8"),
        (
            maillog.active("2bq7", "a@b.test", 339, 2),
            "qmgr[900]: 2bq7: from=<a@b.test>, size=339, nrcpt=2 (queue active)",
        ),
        (maillog.removed("2bq7"), "qmgr[900]: 2bq7: removed"),
        (
            delivery(),
            f"smtp[900]: 2bq7k5hw3m4a: to=<boss@example.com>, relay={RELAY}, delay=0.31, delays=0.01/0/0.2/0.1, "
            "dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as 4Xy)",
        ),
        (
            delivery("bounced", UNKNOWN),
            f"smtp[900]: 2bq7k5hw3m4a: to=<boss@example.com>, relay={RELAY}, delay=0.31, delays=0.01/0/0.2/0.1, "
            "dsn=5.1.1, status=bounced (host smtp.example.com[192.0.2.7] said: 550 5.1.1 User unknown "
            "(in reply to RCPT TO command))",
        ),
        (maillog.refused(33, "no recipient"), "smtpd[900]: NOQUEUE: reject: DATA from localhost[uid=33]: no recipient"),
        (
            maillog.suppressed("2bq7", "a@b.test", "c@d.test", "dry-run"),
            "smtpd[900]: 2bq7: discard: RCPT from localhost[127.0.0.1]: <c@d.test>: "
            "Recipient address suppressed: dry-run; from=<a@b.test> to=<c@d.test>",
        ),
        (
            maillog.not_taken("a b.eml", "symlink", "copy the file"),
            "pickup[900]: warning: a b.eml: symlink: copy the file",
        ),
    ],
)
def test_lines_as_postfix_words_them(line: Line, text: str) -> None:
    """Each kind of line in full: whoever reads Postfix's log reads ours."""
    assert shown(line) == f"mailrelayd/{text}"


def test_a_datagram_as_syslog_3_writes_it() -> None:
    """Priority of facility mail, the day padded by a space, program and process, no line end (RFC 3164 section 4.1)."""
    assert (
        syslog.framed(maillog.removed("2bq7"), NOON, 900) == b"<22>Nov  1 12:00:07 mailrelayd/qmgr[900]: 2bq7: removed"
    )
    assert syslog.framed(maillog.held("a", LATER), NOON, 900).startswith(b"<20>")


@pytest.mark.parametrize(("seconds", "text"), [(0.0, "0"), (0.314, "0.31"), (9.96, "10"), (432000.4, "432000")])
def test_a_delay_is_a_plain_number(seconds: float, text: str) -> None:
    """pflogsumm adds delays up; five days are no 4.3e+05."""
    line = maillog.delivery(
        "sent", queue_id="a", recipient="b", relay="c", delay=seconds, delays="0/0/0/0", dsn="2.0.0", response=SENT
    )

    assert f", delay={text}, " in shown(line)


@given(sender=ANY_TEXT, size=st.integers(0, 1 << 40))
def test_no_sender_forges_a_line(sender: str, size: int) -> None:
    """Whatever an address holds: one datagram, nothing unprintable, and the counted size is the true one."""
    found = ARRIVAL.search(shown(maillog.active("2bq7", sender, size, 1)))

    assert found and found[2] == str(size)


@given(recipient=ANY_TEXT, text=ANY_TEXT, status=st.sampled_from(["sent", "deferred", "bounced", "expired"]))
def test_no_answer_and_no_recipient_forges_a_line(recipient: str, text: str, status: maillog.Status) -> None:
    """Whatever a server says and an address holds: the line is counted once, as what it is."""
    line = shown(delivery(status, Response(Stage.BODY, 450, "4.0.0", text), recipient))
    found = DELIVERY.search(line)

    assert ARRIVAL.search(line) is None
    assert found and (found[2], found[4]) == (RELAY, status) and found[5].startswith(" (") and found[5].endswith(")")


@given(text=ANY_TEXT)
def test_nothing_that_is_refused_forges_a_line(text: str) -> None:
    """File names, reasons and hints stay in their place."""
    for line in (
        maillog.unreadable("2bq7", text, Response(Stage.LOCAL, 0, "", text)),
        maillog.suppressed("2bq7", text, text, text),
        maillog.refused(0, text),
        maillog.not_taken(text, text, text),
        maillog.held("a", Response(Stage.CONNECT, 0, "", text)),
    ):
        assert not DELIVERY.search(shown(line)) and not ARRIVAL.search(shown(line))


@pytest.mark.parametrize("character", ["x", "\n", "\u202e", "ü", "😀", "\udcff"])
def test_a_line_is_never_longer_than_a_packet(character: str) -> None:
    """At most 1024 octets, whole characters, and what pflogsumm looks for is still there."""
    endless = character * 5000
    line = delivery("bounced", Response(Stage.RCPT, 550, "5.0.0", endless), endless, endless)
    datagram = syslog.framed(line, NOON, 4194304)

    assert len(datagram) <= syslog.PACKET
    found = DELIVERY.search(datagram.decode())
    assert found and found[4] == "bounced" and found[5].endswith(")")
    assert len(syslog.framed(Line("smtp", endless), NOON, 1)) <= syslog.PACKET


def test_secrets_are_masked() -> None:
    """A server that repeats the password does not get it into the system log."""
    log.conceal("s3cret-password")

    assert "s3cret" not in shown(delivery("deferred", Response(Stage.MAIL, 450, "", "what is s3cret-password?")))


SAMPLES = [
    maillog.received("2bq7k5hw3m4a", "erp@example.com", 33),
    maillog.active("2bq7k5hw3m4a", "erp@example.com", 339, 4),
    delivery("sent", SENT, "a@one.test"),
    delivery("deferred", LATER, "b@one.test"),
    delivery("bounced", UNKNOWN, "c@two.test"),
    delivery("expired", LATER, "d@two.test"),
    maillog.removed("2bq7k5hw3m4a"),
    maillog.received("2bq7k5hw3m4b", "", None),
    maillog.active("2bq7k5hw3m4b", "", 1000, 1),
    maillog.suppressed("2bq7k5hw3m4b", "", "e@two.test", "dry-run"),
    maillog.reported("2bq7k5hw3m4c", "2bq7k5hw3m4a"),
    maillog.unreadable("2bq7k5hw3m4d", "order 42.eml", Response(Stage.LOCAL, 0, "", "the file is empty")),
    maillog.refused(33, "no recipient"),
    maillog.refused(None, "too large: 60 MB"),
    maillog.not_taken("a.eml", "symlink", "copy the file"),
    maillog.held("smarthost", Response(Stage.CONNECT, 0, "", "Connection refused")),
]


def test_pflogsumm_counts_every_kind(required: Callable[[str], None]) -> None:
    """Debian's pflogsumm takes each line for what it is, without a complaint."""
    required("pflogsumm")
    mail_log = "".join(f"Nov  1 12:00:07 relay1 {shown(line)}\n" for line in SAMPLES)

    found = totals(mail_log)
    assert (found["received"], found["delivered"], found["deferred"], found["bounced"]) == (2, 1, 1, 1)
    assert (found["rejected"], found["discarded"], found["held"], found["forwarded"]) == (3, 1, 0, 0)
    assert (found["bytes received"], found["bytes delivered"], found["senders"]) == (1339, 339, 2)
    report = pflogsumm(mail_log)
    for words in (
        "host smtp.example.com[192.0.2.7] said: 450 4.7.1 Greylisted",
        "said: 550 5.1.1 User unknown",
        "the file is empty",
        "no recipient",
        "Recipient address suppressed: dry-run",
        "a.eml: symlink: copy the file",
        "smarthost: connect: Connection refused",
    ):
        assert words in report


def test_lines_reach_the_socket_in_order(path: Path) -> None:
    """What events say about mail arrives as datagrams, one line each, in the order it was said."""
    with Syslog(path) as reader:
        syslog.setup(str(path), ignore)
        for number in range(300):
            events.message_removed(queue_id=f"id{number}")
        reader.wait_for("id299")

    assert [line.partition("]: ")[2] for line in reader.lines()] == [f"id{number}: removed" for number in range(300)]


def test_the_end_of_the_program_is_behind_its_last_line(path: Path) -> None:
    """What was said just before the process ends is written before it ends."""
    program = (
        "import sys; from mailrelayd.operate import events, syslog; syslog.setup(sys.argv[1], events.syslog_trouble)\n"
        "for number in range(300): events.message_removed(queue_id=f'id{number}')\n"
    )
    with Syslog(path) as reader:
        subprocess.run([sys.executable, "-c", program, str(path)], check=True)
        reader.wait_for("id299", seconds=1)
        assert len(reader.datagrams) == 300


def test_without_a_socket_nothing_is_said() -> None:
    """[log] syslog is off unless somebody wants it."""
    syslog.setup("", ignore)
    syslog.write(maillog.removed, "a")


def test_a_reader_that_comes_later_misses_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines wait for a socket that is not there yet; the trouble is told once, and so is its end."""
    monkeypatch.setattr(syslog, "PATIENCE", 0.02)
    told: list[tuple[str, str, int]] = []
    syslog.setup(str(path), lambda *trouble: told.append(trouble))
    for number in range(3):
        events.message_removed(queue_id=f"id{number}")
    wait_until(lambda: bool(told), 5, lambda: "nothing told")
    with Syslog(path) as reader:
        reader.wait_for("id2")
        wait_until(lambda: len(told) == 2, 5, lambda: str(told))

    assert len(reader.lines()) == 3
    assert told == [(str(path), "No such file or directory", 0), (str(path), "", 0)]


def test_nothing_is_worded_for_nobody(path: Path) -> None:
    """Without [log] syslog a line is not even made."""
    made: list[str] = []

    def word(queue_id: str) -> Line:
        made.append(queue_id)
        return maillog.removed(queue_id)

    syslog.write(word, "a")
    with Syslog(path) as reader:
        syslog.setup(str(path), ignore)
        syslog.write(word, "b")
        reader.wait_for("b: removed")
    assert made == ["b"]


def test_a_reader_may_be_restarted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another socket under the same name is found, as after a restart of rsyslog; no line of that time is lost."""
    monkeypatch.setattr(syslog, "PATIENCE", 0.02)
    reader = Syslog(path)
    with reader:
        syslog.setup(str(path), ignore)
        events.message_removed(queue_id="before")
        reader.wait_for("before")
    events.message_removed(queue_id="between")
    with reader:
        events.message_removed(queue_id="after")
        reader.wait_for("after")

    assert [line.rpartition("]: ")[2] for line in reader.lines()] == [
        f"{n}: removed" for n in ("before", "between", "after")
    ]


def test_nobody_waits_for_a_reader_that_does_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its queue full the caller goes on at once; what is lost is counted and told when there is room again."""
    monkeypatch.setattr(syslog, "PATIENCE", 0.05)
    monkeypatch.setattr(syslog, "BACKLOG", 100)
    told: list[tuple[str, str, int]] = []
    lines = 10_000
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(path))
        syslog.setup(str(path), lambda *trouble: told.append(trouble))
        for _ in range(lines):
            syslog.write(maillog.removed, "a")
        wait_until(lambda: bool(told), 5, lambda: "nothing told")
        read = 0
        deaf.settimeout(0.5)
        while read + sum(lost for _, _, lost in told) < lines:
            deaf.recv(4096)
            read += 1
        wait_until(lambda: told[-1][1] == "", 5, lambda: str(told))

    assert (str(path), "nobody reads", 0) in told
    assert sum(lost for _, _, lost in told) >= lines // 2


def test_the_end_does_not_wait_for_a_reader(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing socket keeps nobody: neither a reload nor the daemon's end."""
    monkeypatch.setattr(syslog, "PATIENCE", 0.1)
    syslog.setup(str(path), ignore)
    for number in range(100):
        events.message_removed(queue_id=f"id{number}")
    writer = syslog._writer
    assert writer is not None
    began = time.monotonic()
    syslog.setup("", ignore)
    assert time.monotonic() - began < 0.1
    writer.close()

    assert time.monotonic() - began < 2
    assert not writer._thread.is_alive()


def test_a_reload_may_name_another_socket(path: Path) -> None:
    """The lines go to the new place, and the same place again changes nothing."""
    other = path.with_name("other")
    with Syslog(path) as first, Syslog(other) as second:
        syslog.setup(str(path), ignore)
        events.message_removed(queue_id="one")
        syslog.setup(str(path), ignore)
        events.message_removed(queue_id="two")
        syslog.setup(str(other), ignore)
        events.message_removed(queue_id="three")
        first.wait_for("two")
        second.wait_for("three")

    assert (len(first.lines()), len(second.lines())) == (2, 1)
