"""What a log line looks like, and what can never be made of one."""

from __future__ import annotations

import base64
import io
import json
import logging
import math
import os
import pty
import re
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailrelayd.operate import approval_events, events, log, secrecy
from mailrelayd.outbound.values import Response, Stage
from tests.manual_clock import ManualClock

SENT = Response(Stage.BODY, 250, "2.0.0", "Ok: queued as 4Xy")
REFUSED = Response(Stage.RCPT, 550, "5.1.1", "User unknown")
GREYLISTED = Response(Stage.RCPT, 450, "4.7.1", "Greylisted, come back later")
UNREACHABLE = Response(Stage.CONNECT, 0, "", "Connection refused")
DELIVERY: dict[str, Any] = {
    "queue_id": "2bq7k5hw3m4a",
    "sender": "erp@example.com",
    "recipient": "boss@example.com",
    "relay": "smtp.example.com[192.0.2.7]:587",
    "delay": 0.31,
    "delays": "0.01/0/0.2/0.1",
}
NOON = 1795262400.0  # 2026-11-21T12:00:00Z

# Every event there is, as docs/log.md shows it.
SAMPLES: dict[str, Callable[[], None]] = {
    "message.queued": lambda: events.message_queued(
        queue_id="2bq7k5hw3m4a",
        sender="erp@example.com",
        nrcpt=2,
        size=339,
        file="order 42.eml",
        uid=33,
        rule="headers",
        producer="erp",
    ),
    "message.duplicate": lambda: events.message_duplicate(
        queue_id="2bq7k5hw3m4a", file="order 42.eml", uid=33, producer="erp"
    ),
    "message.active": lambda: events.message_active(
        queue_id="2bq7k5hw3m4a", sender="erp@example.com", size=339, nrcpt=2
    ),
    "message.sent": lambda: events.message_sent(**DELIVERY, response=SENT, attempt=1),
    "message.deferred": lambda: events.message_deferred(
        **DELIVERY, response=GREYLISTED, attempt=1, next_attempt=NOON, reason="greylist"
    ),
    "message.failed": lambda: events.message_failed(**DELIVERY, response=REFUSED, attempt=1, reason="unknown_user"),
    "message.expired": lambda: events.message_expired(
        **(DELIVERY | {"delay": 432000.5}), response=GREYLISTED, attempt=126, reason="greylist"
    ),
    "message.suppressed": lambda: events.message_suppressed(
        queue_id="2bq7k5hw3m4a", sender="", recipient="boss@example.com", reason="dry_run"
    ),
    "message.removed": lambda: events.message_removed(queue_id="2bq7k5hw3m4a"),
    "pickup.refused": lambda: events.pickup_refused(
        file="report.eml", owner="erp", reason="unreadable", hint="chmod 0640 before the rename"
    ),
    "submit.refused": lambda: events.submit_refused(
        uid=33, reason="no recipient", hint="name one on the command line, or use -t"
    ),
    "guard.waiting": lambda: events.guard_waiting(rate="30/min", seconds=12.5),
    "route.down": lambda: events.route_down(account="smarthost", response=UNREACHABLE, attempt=1, next_attempt=NOON),
    "route.up": lambda: events.route_up(account="smarthost", relay="smtp.example.com[192.0.2.7]:587", outage=4210.2),
    "route.narrow": lambda: events.route_narrow(
        account="smarthost",
        relay="smtp.example.com[192.0.2.7]:587",
        reason="it does not offer both PIPELINING and CHUNKING",
    ),
    "queue.changed": lambda: events.queue_changed(verb="delete", queue_id="2bq7k5hw3m4a", by="root"),
    "queue.trouble": lambda: events.queue_trouble(doing="read", reason="Input/output error", queue_id="2bq7k5hw3m4a"),
    "spool.full": lambda: events.spool_full(free=52428800, min_free=104857600, full=True),
    "spool.room": lambda: events.spool_full(free=209715200, min_free=104857600, full=False),
    "request.opened": lambda: approval_events.request_opened(
        queue_id="2bq7k5hw3m4a",
        request_id="PO-42",
        requested_by="erp",
        approvers=2,
        expires_at=NOON,
        sinks=("erp",),
    ),
    "request.reminded": lambda: approval_events.request_reminded(queue_id="2bq7k5hw3m4a", request_id="PO-42", copies=1),
    "request.closed": lambda: approval_events.request_closed(
        queue_id="2bq7k5hw3m4a", request_id="PO-42", status="cancelled", by="uid 0"
    ),
    "reply.read": lambda: approval_events.reply_read(
        account="answers",
        uid=7,
        sender="boss@example.com",
        status="approved",
        reason="first-line-keyword",
        request_id="PO-42",
        decision_id="0b6e1f",
    ),
    "decision.recorded": lambda: approval_events.decision_recorded(
        decision_id="0b6e1f",
        request_id="PO-42",
        status="approved",
        reason="first-line-keyword",
        by="boss@example.com",
    ),
    "decision.delivered": lambda: approval_events.decision_delivered(decision_id="0b6e1f", sink="erp", attempt=1),
    "decision.waiting": lambda: approval_events.decision_waiting(
        decision_id="0b6e1f", sink="erp", attempt=1, next_attempt=NOON, reason="HTTP status 503"
    ),
    "decision.parked": lambda: approval_events.decision_parked(
        decision_id="0b6e1f", sink="erp", attempt=1, reason="410 Gone: its receiver wants no more"
    ),
    "mail.removed": lambda: approval_events.mail_removed(account="answers", uid=7, decision_id="0b6e1f", how="deleted"),
    "mail.left": lambda: approval_events.mail_left(
        account="answers", uid=8, reason="foreign: it carries a token that was not issued here"
    ),
    "mailbox.polled": lambda: approval_events.mailbox_polled(
        account="answers", folder="INBOX", found=3, read=2, left=1, removed=2
    ),
    "mailbox.down": lambda: approval_events.mailbox_down(
        account="answers", stage="login", response="login: [AUTHENTICATIONFAILED] no", attempt=1, next_attempt=NOON
    ),
    "mailbox.up": lambda: approval_events.mailbox_up(account="answers", folder="INBOX", outage=62.5),
    "mailbox.refused": lambda: approval_events.mailbox_refused(
        account="answers",
        folder="INBOX",
        mails=20_000,
        reason="the folder held mail before anything here knew it",
        hint='set adopt = "new-only" to leave what is there, or "all" to read it',
    ),
    "syslog.down": lambda: events.syslog_trouble("/dev/log", "No such file or directory", 0),
    "syslog.up": lambda: events.syslog_trouble("/dev/log", "", 17),
    "smtp.protocol": lambda: events.smtp_protocol(
        relay="smtp.example.com[192.0.2.7]:587", direction="<", text="250 2.1.0 Ok"
    ),
    "config.loaded": lambda: events.config_loaded(
        file="/etc/mailrelayd/mailrelayd.toml",
        sha256="9f86d081884c7d65",
        by="root",
        changed=["log.level", "outbound.smarthost.password"],
    ),
    "config.rejected": lambda: events.config_rejected(
        file="/etc/mailrelayd/mailrelayd.toml", reason="line 12: outbound.smarthost.port: 70000 is no port", by="root"
    ),
    "secret.expiring": lambda: events.secret_expiring(account="smarthost", expires="2027-05-01", days=7),
    "alerts.ping": lambda: events.alerts_ping(reason="HTTP status 404"),
    "daemon.ready": lambda: events.daemon_ready(
        waiting=3, outbound="smarthost", spool="/var/spool/mailrelayd", loop="asyncio"
    ),
    "daemon.stopping": lambda: events.daemon_stopping(reason="SIGTERM"),
    "daemon.silent": lambda: events.daemon_silent(loop="relay", overdue=31.5),
    "daemon.bug": lambda: events.daemon_bug(where="relay", error=KeyError("size"), queue_id="2bq7k5hw3m4a"),
    "library.message": lambda: logging.getLogger("aioimaplib.aioimaplib").warning("unexpected %s", "line"),
}


@pytest.fixture(autouse=True)
def _own_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """No secrets, no repetitions and no journal to begin with."""
    monkeypatch.setattr(secrecy, "_secrets", {})
    monkeypatch.setattr(secrecy, "_secret_forms", None)
    monkeypatch.setattr(events, "_repeats", log.Repeats())
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)


def written(act: Callable[[], object], format: str = "text", level: str = "debug", *, journal: bool = False) -> str:
    """What `act` leaves in the log: decoded strictly, so it is UTF-8."""
    with tempfile.TemporaryFile("w+") as stream, pytest.MonkeyPatch.context() as patch:
        if journal:
            status = os.fstat(stream.fileno())
            patch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        log.setup(format, level, stream)
        act()
        return os.pread(stream.fileno(), 1 << 20, 0).decode("utf-8")


def document(act: Callable[[], object], level: str = "debug") -> dict[str, Any]:
    """The one JSON document that `act` logs."""
    text = written(act, "json", level)
    assert text.count("\n") == 1
    result: dict[str, Any] = json.loads(text)
    return result


PAIR = re.compile(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|[^\s"\\=]+)')
ESCAPE = re.compile(r"\\(x[0-9a-f]{2}|u[0-9a-f]{4}|.)")


def pairs(line: str) -> dict[str, str]:
    """A line of text or logfmt read back; fails where anything stands between the pairs."""
    found, rest = {}, line
    while rest:
        match = PAIR.match(rest)
        assert match, f"no pair: {rest!r}"
        assert match[1] not in found
        found[match[1]] = unquoted(match[2])
        rest = rest[match.end() :]
        assert not rest or rest.startswith(" ")
        rest = rest[1:]
    return found


def unquoted(text: str) -> str:
    def character(match: re.Match[str]) -> str:
        escape = match[1]
        if escape[0] == "x" and len(escape) > 1:
            code = int(escape[1:], 16)
            return chr(code if code < 0x80 else code + 0xDC00)
        if escape[0] == "u" and len(escape) > 1:
            return chr(int(escape[1:], 16))
        return {"n": "\n", "r": "\r", "t": "\t"}.get(escape, escape)

    return ESCAPE.sub(character, text[1:-1]) if text.startswith('"') else text


NASTY = st.sampled_from('\n\r\t\0\x1b\x7f\x85\x9b\u2028\u2029\u202e\u2066\u200f\u061c\udcff\udc80\ud800"\\= <>')
# Not st.text(): it would take both for one alphabet of a million characters and hardly ever draw a nasty one.
ANY_TEXT = st.lists(NASTY | st.text(st.characters(exclude_categories=()), max_size=4), max_size=8).map("".join)
HARMFUL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


@pytest.mark.parametrize("journal", [False, True])
@pytest.mark.parametrize("format", ["text", "logfmt"])
@given(file=ANY_TEXT, owner=ANY_TEXT)
def test_no_value_forges_a_line_or_a_pair(file: str, owner: str, format: str, journal: bool) -> None:
    """Whatever a value holds, it is read back as it was, from one line without a harmful character."""
    text = written(
        lambda: events.pickup_refused(file=file, owner=owner, reason="link", hint="copy it"), format, journal=journal
    )

    assert not HARMFUL.search(text)
    assert len(text.splitlines()) == 1 and text.endswith("\n")
    line = text.removesuffix("\n").removeprefix("<4>" if journal else "")
    found = pairs(line if format == "logfmt" else line.partition("pickup.refused ")[2])
    assert (found["file"], found["owner"], found["reason"]) == (file, owner, "link")


@given(file=ANY_TEXT)
def test_no_value_forges_json(file: str) -> None:
    """JSON is ASCII on one line and holds the value, stray bytes in their escaped form."""
    text = written(lambda: events.pickup_refused(file=file, owner="erp", reason="link", hint="copy it"), "json")

    assert text.isascii() and not HARMFUL.search(text) and text.count("\n") == 1
    surrogates = re.compile("[\ud800-\udfff]")
    assert json.loads(text)["file"] == surrogates.sub(lambda match: log.escape(match[0]), file)


@pytest.mark.parametrize("format", ["text", "logfmt", "json"])
@given(message=ANY_TEXT)
def test_no_library_message_forges_a_line(message: str, format: str) -> None:
    """What a library logs is a value like any other."""
    text = written(lambda: logging.getLogger("asyncio").error(message), format)

    assert not HARMFUL.search(text) and len(text.splitlines()) == 1


@given(message=ANY_TEXT)
def test_an_exceptions_message_cannot_pass_for_an_event(message: str) -> None:
    """Below an event, every line is indented; under journald every line also has its priority."""
    text = written(lambda: events.daemon_bug(where="relay", error=ValueError(message)), journal=True)

    first, *below = text.removesuffix("\n").split("\n")
    assert first.startswith("<3>daemon.bug where=relay ")
    assert below and all(line.startswith("<3>    ") for line in below)
    assert not HARMFUL.search(text)


def test_a_line_for_those_who_tail() -> None:
    """Under journald a line begins with its priority and its event, and carries no time."""
    text = written(SAMPLES["message.sent"], journal=True)

    assert text == (
        "<6>message.sent queue_id=2bq7k5hw3m4a from=<erp@example.com> to=<boss@example.com>"
        " relay=smtp.example.com[192.0.2.7]:587 delay=0.31 delays=0.01/0/0.2/0.1 dsn=2.0.0 status=sent attempt=1"
        ' response="250 2.0.0 Ok: queued as 4Xy"\n'
    )


GOLDEN = {
    "json": '{"time": "2026-11-21T12:00:00.250Z", "level": "notice", "event": "x.y",'
    ' "text": "a \\"b\\" \\\\ = \\u00fc",'
    ' "odd": "\\n\\u001b\\u2028\\\\xff\\\\ud800", "empty": "", "whole": 42, "yes": true,'
    ' "part": 0.313, "endless": "inf",'
    ' "list": ["a b", "\\\\xff", "3"], "none": [], "kind": "body", "other": "b\'x\'"}\n',
    "logfmt": 'time=2026-11-21T12:00:00.250Z level=notice event=x.y text="a \\"b\\" \\\\ = ü" '
    'odd="\\n\\x1b\\u2028\\xff\\ud800"'
    ' empty="" whole=42 yes=true part=0.313 endless=inf list="a b,\\xff,3" none="" kind=body other=b\'x\'\n',
    "text": '2026-11-21T12:00:00.250Z notice x.y text="a \\"b\\" \\\\ = ü" odd="\\n\\x1b\\u2028\\xff\\ud800" empty=""'
    ' whole=42 yes=true part=0.313 endless=inf list="a b,\\xff,3" none="" kind=body other=b\'x\'\n',
}


@pytest.mark.parametrize("format", GOLDEN)
def test_values_of_every_kind(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs read these lines: each kind of value keeps its form."""
    monkeypatch.setattr(log, "_clock", ManualClock(NOON + 0.25))
    values: dict[str, Any] = {
        "text": 'a "b" \\ = ü',
        "odd": "\n\x1b\u2028\udcff\ud800",
        "empty": "",
        "unknown": None,
        "whole": 42,
        "yes": True,
        "part": 0.31278,
        "endless": math.inf,
        "list": ["a b", "\udcff", 3],
        "none": (),
        "kind": Stage.BODY,
        "other": b"x",
    }

    assert written(lambda: log.emit("notice", "x.y", values), format) == GOLDEN[format]


SECRETS = ("hunter2 = x", "p\\ss'w\"rd ü", "tok\nen\u202e", "bin\udcff\udc80", 'q"q"', "😀😀😀😀")
SECRET = st.sampled_from([*SECRETS, *map(repr, SECRETS), *map(json.dumps, SECRETS)])
VALUE = ANY_TEXT | st.tuples(ANY_TEXT, SECRET, ANY_TEXT).map("".join) | st.lists(SECRET | ANY_TEXT, max_size=3)


@pytest.mark.parametrize("format", ["text", "logfmt", "json"])
@given(one=VALUE | st.floats(), other=VALUE | st.integers(), known=st.sets(st.sampled_from(SECRETS)))
def test_a_line_is_what_it_is_without_its_secrets(one: Any, other: Any, known: set[str], format: str) -> None:
    """Looking for secrets in the finished line finds what looking into each value by itself does."""
    for secret in SECRETS:
        log.forget(secret)
    for secret in known:
        log.conceal(secret)
    forms = sorted({form for secret in known for form in secrecy._disguises(secret)}, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, forms)))

    def without(value: Any) -> Any:
        if isinstance(value, list):
            return [without(item) for item in value]
        return pattern.sub(log.MASK, value) if forms and isinstance(value, str) else value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log, "_clock", ManualClock(NOON))
        line = written(lambda: log.emit("info", "x.y", {"one": one, "other": other}), format)
        for secret in SECRETS:
            log.forget(secret)
        assert line == written(lambda: log.emit("info", "x.y", {"one": without(one), "other": without(other)}), format)


@pytest.mark.parametrize("format", ["json", "logfmt", "text"])
@example(moments=[562949953.6949995, 1795262400.9999998])
@given(moments=st.lists(st.floats(0, 4e9) | st.integers(0, 3).map(lambda n: NOON + n / 2000), min_size=1, max_size=4))
def test_each_line_has_its_own_moment(moments: list[float], format: str) -> None:
    """What is kept of the second before is never shown for another."""
    clock = ManualClock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log, "_clock", clock)

        def act() -> None:
            for moment in moments:
                clock.wall = moment
                events.daemon_stopping(reason="x")

        lines = written(act, format).splitlines()
    for line, moment in zip(lines, moments, strict=True):
        expected = datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
        assert expected.replace("+00:00", "Z") in line


@pytest.mark.parametrize(
    ("format", "begin"),
    [
        ("text", r"TIME info daemon\.stopping reason=SIGTERM\n"),
        ("logfmt", r"time=TIME level=info event=daemon\.stopping reason=SIGTERM\n"),
        ("json", r'\{"time": "TIME", "level": "info", "event": "daemon\.stopping", "reason": "SIGTERM"\}\n'),
    ],
)
def test_lines_carry_their_time(format: str, begin: str) -> None:
    """Elsewhere than under journald a line has its UTC time in RFC 3339 with milliseconds, and its level."""
    text = written(SAMPLES["daemon.stopping"], format)

    assert re.fullmatch(begin.replace("TIME", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"), text)


@pytest.mark.parametrize(
    ("priority", "event"),
    [(3, "config.rejected"), (4, "message.failed"), (4, "route.down"), (5, "route.up"), (6, "message.queued")],
)
def test_priorities(priority: int, event: str) -> None:
    """journalctl -p finds errors at 3, warnings at 4, recoveries at 5 and the rest at 6."""
    assert written(SAMPLES[event], journal=True).startswith(f"<{priority}>{event} ")


def test_debug_has_priority_7() -> None:
    """A library's debug line is debug for journald, too."""
    assert written(lambda: logging.getLogger("asyncio").debug("x"), journal=True).startswith("<7>library.message ")


@pytest.mark.parametrize("format", ["json", "logfmt"])
def test_every_format_is_ranked_under_journald(format: str) -> None:
    """A format chosen by hand keeps the priority, which journald takes off the line."""
    assert written(SAMPLES["daemon.stopping"], format, journal=True).startswith("<6>")


def test_auto_is_json_in_a_file_or_pipe() -> None:
    """Where neither a person nor journald reads, a program does."""
    assert json.loads(written(SAMPLES["daemon.ready"], "auto"))["waiting"] == 3


def test_auto_is_text_under_journald() -> None:
    """journald is recognised by the device and inode in JOURNAL_STREAM."""
    assert written(SAMPLES["daemon.stopping"], "auto", journal=True) == "<6>daemon.stopping reason=SIGTERM\n"


def test_a_journal_that_reads_something_else_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """JOURNAL_STREAM of a stream that was redirected since is not ours."""
    monkeypatch.setenv("JOURNAL_STREAM", "1:1")

    assert not written(SAMPLES["daemon.stopping"]).startswith("<")


@pytest.mark.parametrize(("no_colour", "coloured"), [("", True), ("1", False)])
def test_auto_is_coloured_on_a_terminal(monkeypatch: pytest.MonkeyPatch, no_colour: str, coloured: bool) -> None:
    """A terminal shows text, in colour unless NO_COLOR is set; a value's escapes stay escaped."""
    monkeypatch.setenv("NO_COLOR", no_colour)
    monkeypatch.setenv("TERM", "xterm")
    reader, writer = pty.openpty()
    try:
        with open(writer, "w") as terminal:
            log.setup("auto", "info", terminal)
            events.daemon_stopping(reason="\x1b[2J")
            text = os.read(reader, 4096).decode()
    finally:
        os.close(reader)

    assert ("\x1b[36mdaemon.stopping\x1b[0m" in text) is coloured
    assert r"\x1b[2J" in text and "\x1b[2J" not in text


def test_text_of_all_kinds_is_shown_as_it_is() -> None:
    """What a person can read is not escaped."""
    assert "reason=größer…" in written(lambda: events.daemon_stopping(reason="größer…"))


def test_json_keeps_numbers_and_lists() -> None:
    """Numbers are numbers and lists are lists for programs; what is unknown is left out."""
    queued = document(SAMPLES["message.queued"])
    loaded = document(SAMPLES["config.loaded"])
    first = document(lambda: events.route_up(account="smarthost", relay="mx", outage=None))

    assert (queued["size"], queued["uid"], queued["nrcpt"]) == (339, 33, 2)
    assert loaded["changed"] == ["log.level", "outbound.smarthost.password"]
    assert "outage" not in first


def test_the_null_sender_is_shown() -> None:
    """A message without a sender says so."""
    assert document(SAMPLES["message.suppressed"])["from"] == "<>"


def test_a_file_that_nobody_could_read_has_no_recipient() -> None:
    """A failure of the message itself names the file instead, and no relay."""
    fields: dict[str, Any] = DELIVERY | {"sender": "", "recipient": None, "relay": "", "delays": ""}
    unreadable = Response(Stage.LOCAL, 0, "", "the file is empty")
    line = document(
        lambda: events.message_failed(**fields, response=unreadable, attempt=0, reason="empty", file="a\udcff.eml")
    )

    assert "to" not in line and "delays" not in line
    assert (line["relay"], line["file"], line["dsn"], line["response"]) == (
        "none",
        r"a\xff.eml",
        "5.0.0",
        "the file is empty",
    )


def test_doubt_is_said() -> None:
    """A message that may arrive twice is marked; others have no such key."""
    fields: dict[str, Any] = DELIVERY | {"response": GREYLISTED, "attempt": 1, "next_attempt": NOON, "reason": "cut"}

    assert document(lambda: events.message_deferred(**fields, ambiguous=True))["ambiguous"] is True
    assert "ambiguous" not in document(lambda: events.message_deferred(**fields))


@pytest.mark.parametrize("name", ["aiosmtplib", "aioimaplib", "aioimaplib.aioimaplib"])
def test_libraries_that_log_secrets_never_say_more_than_warnings(name: str) -> None:
    """Debug and info of the mail libraries hold passwords and mail, so not even level debug shows them."""

    def act() -> None:
        for level in (logging.DEBUG, logging.INFO, logging.WARNING):
            logging.getLogger(name).log(level, "LOGIN %s", "s3cret")

    line = document(act)

    assert (line["event"], line["logger"], line["level"]) == ("library.message", name, "warning")


def test_warnings_take_the_same_path() -> None:
    """A Python warning is a log line."""

    def act() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(False)
            logging.captureWarnings(True)  # what pytest put there is what catch_warnings() restores
            warnings.warn("old", DeprecationWarning, stacklevel=1)

    line = document(act)

    assert line["logger"] == "py.warnings" and "DeprecationWarning: old" in line["message"]


def test_a_librarys_traceback_is_kept() -> None:
    """An exception that asyncio reports is in the log with its traceback."""

    def act() -> None:
        try:
            raise ValueError("x")
        except ValueError:
            logging.getLogger("asyncio").exception("Task exception was never retrieved")

    line = document(act)

    assert line["exception"].startswith("Traceback") and line["exception"].endswith("ValueError: x\n")


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_nothing_below_the_level_is_written(level: str) -> None:
    """The level is a threshold for our own lines and the libraries'."""
    order = ["debug", "info", "warning", "error"]

    def act() -> None:
        for name in order:
            log.emit(name, "x", {})  # type: ignore[arg-type]
            getattr(logging.getLogger("asyncio"), name)("x")

    text = written(act, "json", level)

    assert [json.loads(line)["level"] for line in text.splitlines()] == [
        name for name in order[order.index(level) :] for _ in range(2)
    ]


def test_what_nobody_sees_is_not_even_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the lines that come with every message, the suppressed ones ask first; a listener who wants them counts."""
    told: list[str] = []
    monkeypatch.setattr(log, "_listener", lambda severity, event, pairs, line: told.append(event))
    monkeypatch.setattr(log, "_listened_for", frozenset({"message.removed"}))
    log.setup("json", "info", io.StringIO())

    for severity, event, wanted in (
        ("debug", "message.active", False),
        ("debug", "message.removed", True),
        ("info", "message.sent", True),
        ("notice", "route.up", True),
    ):
        assert log.is_wanted(severity, event) is wanted  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        patch.setattr(events, "_address", None)  # calling it would fail
        SAMPLES["message.active"]()
    SAMPLES["message.removed"]()
    assert told == ["message.removed"]
    log.setup("json", "debug", io.StringIO())
    assert log.is_wanted("debug", "message.active")
    log.setup("json", "error", io.StringIO())
    assert log.is_wanted("notice", "route.up") and not log.is_wanted("info", "message.sent")


def test_before_the_set_up_lines_go_to_the_standard_library(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever embeds this program gets its events as records."""
    with pytest.MonkeyPatch.context() as patch, caplog.at_level("INFO", "mailrelayd"):
        patch.setattr(log, "_logger", log._filtering_logger(logging.INFO))
        SAMPLES["daemon.stopping"]()
        SAMPLES["message.removed"]()

    assert [record.msg for record in caplog.records] == [
        {"severity": "info", "reason": "SIGTERM", "event": "daemon.stopping"}
    ]


def test_threads_do_not_mix_their_lines() -> None:
    """Lines of ours and of libraries', written at the same time from several threads, stay whole."""

    def ours() -> None:
        for _ in range(200):
            events.daemon_stopping(reason="x" * 200)

    def theirs() -> None:
        for _ in range(200):
            logging.getLogger("asyncio").warning("y" * 200)

    def act() -> None:
        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(one) for one in (ours, theirs, ours, theirs)]:
                done.result()

    lines = [json.loads(line) for line in written(act, "json").splitlines()]
    assert [line["reason"] for line in lines if "reason" in line] == ["x" * 200] * 400
    assert [line["message"] for line in lines if "message" in line] == ["y" * 200] * 400


def test_lines_of_a_loop_leave_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same lines in the same order, in fewer writes, at the latest at the end; whatever ends the loop."""
    writes: list[bytes] = []
    write = os.write

    def count(descriptor: int, data: bytes) -> int:
        writes.append(data)
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", count)
    names = [str(number) for number in range(2 * log.MOST_HELD + 3)]

    def act() -> None:
        with pytest.raises(KeyError), events.together():
            for name in names[:-2]:
                with events.together():
                    events.daemon_stopping(reason=name)
            assert len(writes) == 2
            logging.getLogger("asyncio").warning(names[-2])
            raise KeyError
        assert len(writes) == 3
        events.daemon_stopping(reason=names[-1])
        assert len(writes) == 4

    lines = [json.loads(line) for line in written(act, "json").splitlines()]
    assert [line.get("reason") or line["message"] for line in lines] == names


def test_a_line_in_the_middle_of_another_comes_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A destructor may log whatever its thread is doing, even writing a line: each is there once, and whole."""
    write = os.write
    left = ["second"]

    def interrupted(descriptor: int, data: bytes) -> int:
        if left:
            logging.getLogger("asyncio").warning(left.pop())
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", interrupted)
    lines = [json.loads(line) for line in written(lambda: events.daemon_stopping(reason="first"), "json").splitlines()]
    assert [line.get("reason") or line["message"] for line in lines] == ["first", "second"]


def test_before_the_set_up_nothing_is_held(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records are told at once."""
    monkeypatch.setattr(log, "_stream", None)
    monkeypatch.setattr(log, "_logger", log._filtering_logger(logging.INFO))
    with caplog.at_level("INFO", "mailrelayd"), events.together():
        SAMPLES["daemon.stopping"]()
        assert len(caplog.records) == 1


def test_setup_may_be_repeated() -> None:
    """A second set-up replaces the first: no line is written twice, and the new level counts."""
    first = io.StringIO()
    log.setup("json", "info", first)

    text = written(lambda: events.daemon_stopping(reason="x"), "json", "info")

    assert text.count("\n") == 1
    assert first.getvalue() == ""
    assert written(SAMPLES["daemon.stopping"], "json", "warning") == ""


@pytest.mark.parametrize(("format", "level"), [("xml", "info"), ("text", "loud")])
def test_unknown_words_are_refused(format: str, level: str) -> None:
    """A format or level that does not exist is a ValueError."""
    with pytest.raises(ValueError, match="no such log"):
        log.setup(format, level)


@pytest.mark.parametrize("format", ["text", "logfmt", "json"])
def test_secrets_are_masked(format: str) -> None:
    """A registered secret appears nowhere: not in a value, a list, an exception, or as Python quotes it."""
    secret = "p\\ss'w\"rd ü"
    log.conceal(secret)

    def act() -> None:
        events.daemon_stopping(reason=f"x{secret}y")
        events.config_loaded(file="f", sha256="s", by="b", changed=[secret])
        events.daemon_bug(where="w", error=ValueError({"password": secret}))
        logging.getLogger("asyncio").warning("login %r", secret)

    text = written(act, format)

    assert text.count(log.MASK) >= 4
    assert "w\\" not in text.replace(log.MASK, "") and "rd ü" not in text and "rd \\u" not in text


@given(secret=st.text(st.characters(codec="utf-8"), min_size=4), before=st.binary(max_size=7), after=st.binary())
def test_secrets_are_masked_in_base64(secret: str, before: bytes, after: bytes) -> None:
    """Wherever a secret stands in what was encoded, none of its own characters are left."""
    secrecy._secrets.clear()
    log.conceal(secret)
    encoded = base64.b64encode(before + secret.encode() + after).decode()

    line = document(lambda: events.daemon_stopping(reason=encoded))

    assert log.MASK in line["reason"]
    core = encoded[-(-len(before) * 8 // 6) : (len(before) + len(secret.encode())) * 8 // 6]
    assert core not in line["reason"]


def shown(*values: str) -> list[str]:
    """What the log makes of them."""
    changed: list[str] = document(lambda: events.config_loaded(file="f", sha256="s", by="b", changed=values))["changed"]
    return changed


def test_of_a_secret_that_changes_the_latest_two_are_masked() -> None:
    """A password that a command gives out anew at each login makes no line slower than the first one did."""
    one, other, both, fixed = (f"secret-{name}-" for name in ("one", "other", "both", "fixed"))
    log.conceal(fixed)
    log.conceal(both, of="outbound.b.password")
    before = len(secrecy._secrets)
    for number in range(100):
        log.conceal(one + "x" * number, of="outbound.a.password")
    assert len(secrecy._secrets) == before + 2
    assert shown(one + "x" * 99, one + "x" * 98, one) == [log.MASK, log.MASK, one]

    for again in (both, fixed, other, other + "2", other + "3"):  # what others have as well stays hidden
        log.conceal(again, of="outbound.a.password")
    assert shown(both, fixed, other, other + "2", other + "3")[:2] == [log.MASK, log.MASK]
    assert shown(other) == [other]
    log.conceal(both + "2", of="outbound.b.password")
    log.conceal(both + "3", of="outbound.b.password")
    assert shown(both) == [both]


def test_very_short_secrets_do_not_hide_the_log() -> None:
    """A password of one letter is not masked, and an empty one masks nothing."""
    log.conceal("")
    log.conceal("e")

    assert document(SAMPLES["daemon.stopping"])["reason"] == "SIGTERM"


def test_a_closed_pipe_does_not_matter() -> None:
    """When the reader of the log is gone, lines are lost and nothing else."""
    reader, writer = os.pipe()
    with open(writer, "w") as stream:
        log.setup("text", "info", stream)
        os.close(reader)
        SAMPLES["daemon.stopping"]()
        SAMPLES["daemon.stopping"]()


def test_a_full_disk_does_not_matter() -> None:
    """When there is no room for the log, lines are lost and nothing else."""
    with Path("/dev/full").open("w") as stream:
        log.setup("text", "info", stream)
        SAMPLES["daemon.bug"]()


def test_a_closed_stream_does_not_matter() -> None:
    """When the stream was closed behind our back, lines are lost and nothing else."""
    stream = io.StringIO()
    log.setup("text", "info", stream)
    stream.close()
    SAMPLES["daemon.stopping"]()


def test_a_stream_without_descriptor_is_written_to() -> None:
    """Anything that takes text will do."""
    stream = io.StringIO()
    log.setup("logfmt", "info", stream)
    SAMPLES["daemon.stopping"]()

    assert stream.getvalue().endswith(" event=daemon.stopping reason=SIGTERM\n")


def test_a_line_that_was_cut_stays_alone() -> None:
    """Where only a part of a line found room, the next one still begins on a line of its own."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    os.set_blocking(reader, False)
    with open(writer, "w") as stream, open(reader, "rb") as pipe:
        log.setup("json", "info", stream)
        for _ in range(20):
            events.daemon_stopping(reason="x" * 5000)
        before = pipe.read()
        events.daemon_stopping(reason="room again")
        *whole, cut, last = (before + pipe.read()).decode().splitlines()

    assert not cut.endswith("}") and all(json.loads(line)["reason"] == "x" * 5000 for line in whole)
    assert json.loads(last)["reason"] == "room again"


def test_a_line_that_cannot_be_formatted_says_so() -> None:
    """A value that fails to become text costs that line, not the caller; the log says where it was."""

    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no text")

        def __repr__(self) -> str:
            return "Broken()"

    line = document(lambda: log.emit("info", "x", {"a": Broken()}))  # type: ignore[dict-item]

    assert line["level"] == "error"
    assert line["message"].startswith("a line could not be formatted: RuntimeError at ")


def route_down(text: str, attempt: int, account: str = "smarthost") -> dict[str, Any]:
    response = Response(Stage.GREETING, 421, "4.3.2", text)
    return document(lambda: events.route_down(account=account, response=response, attempt=attempt, next_attempt=NOON))


def test_the_same_trouble_is_told_once() -> None:
    """A repeated failure is one short line at info; connection ids in the text do not make it another."""
    first = route_down("Too busy, id=a1b2", 1)
    second = route_down("Too busy, id=c3d4", 2)

    assert (first["level"], first["reason"]) == ("warning", "greeting")
    assert first["response"] == "421 4.3.2 Too busy, id=a1b2"
    assert (second["level"], second["reason"], second["attempt"]) == ("info", "same as last", 2)
    assert "response" not in second


def test_other_trouble_is_told_in_full() -> None:
    """Another reason, another account, or the same reason after a recovery is news."""
    route_down("Too busy", 1)

    assert route_down("Go away", 2)["level"] == "warning"
    assert route_down("Go away", 1, account="other")["level"] == "warning"
    assert document(SAMPLES["route.up"])["level"] == "notice"
    assert route_down("Go away", 1)["level"] == "warning"


def test_first_contact_is_no_recovery() -> None:
    """The route coming up at start is ordinary; only the end of an outage is a notice."""
    assert document(lambda: events.route_up(account="a", relay="r", outage=None))["level"] == "info"


def test_nothing_is_collapsed_across_events() -> None:
    """Repeats remembers each event and key apart."""
    repeats = log.Repeats()

    assert [repeats.again("a", "x", "r"), repeats.again("b", "x", "r"), repeats.again("a", "y", "r")] == [False] * 3
    assert repeats.again("a", "x", "r")


DOCS = (Path(__file__).parents[1] / "docs" / "log.md").read_text()


def test_the_line_for_jq_in_the_documentation(required: Callable[[str], None]) -> None:
    """docs/log.md's own filter finds the failures, and nothing else, in a log with every event there is."""
    required("jq")
    (wanted,) = re.findall(r"\| jq '([^']+)'", DOCS)

    def act() -> None:
        for sample in SAMPLES.values():
            sample()

    found = subprocess.run(["jq", "-c", wanted], input=written(act, "json"), capture_output=True, text=True, check=True)
    assert json.loads(found.stdout)["event"] == "message.failed"


@pytest.mark.parametrize("event", SAMPLES)
def test_every_event_is_documented(event: str) -> None:
    """docs/log.md shows each event as it is written, and names each of its keys."""
    section = re.search(rf"^### {re.escape(event)}\n(.*?)(?=^##|\Z)", DOCS, re.MULTILINE | re.DOTALL)
    assert section, f"{event} has no section"
    fields = document(SAMPLES[event])
    for key in set(fields) - {"time", "level", "event", "exception"}:
        assert f"`{key}`" in section[1]
    events._repeats.over("route.down", "smarthost")
    approval_events._repeats.over("mailbox.down", "answers")
    approval_events._repeats.over("decision.waiting", "erp")
    example = written(SAMPLES[event], journal=True).partition(">")[2].partition("\n")[0]
    assert example in section[1]
    assert f"`{fields['level']}`" in section[1]


def test_no_other_event_is_documented() -> None:
    """What docs/log.md promises exists."""
    assert re.findall(r"^### (\S+)$", DOCS, re.MULTILINE) == list(SAMPLES)
