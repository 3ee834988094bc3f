"""`mailrelayd queue` without a daemon: what it shows, whom its verbs mean, whose files there are afterwards."""

from __future__ import annotations

import io
import json
import os
import pty
import pwd
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mailrelayd.__main__ import main
from mailrelayd.cli.queue import words
from mailrelayd.outbound import queueid, record
from mailrelayd.outbound.record import Record
from mailrelayd.outbound.values import Envelope, Past, Progress, RecipientRecord, Response, Stage, Status
from tests.servers.process import short_directory

ARRIVED = 1_700_000_000.0
IDS = [queueid.encode(int(ARRIVED * 1e6) + number, 11) + queueid.node_part("test") for number in range(1000)]
QUEUE_ID = IDS[0]
MESSAGE = b"From: a@example.com\r\nTo: b@example.com\r\nSubject: test\r\n\r\ntest\r\n"
UNNAMED = 54321  # a user of another machine or container: no line in passwd
POSTQUEUE = Path(__file__).with_name("postqueue.jsonl")  # what Postfix 3.7's `postqueue -j` said of three messages

BUSY = Response(Stage.RCPT, 450, "4.2.1", "Mailbox busy")
UNKNOWN = Response(Stage.RCPT, 550, "5.1.1", "No such user")


@pytest.fixture
def site() -> Iterator[Path]:
    """A folder with a configuration; the spool and the state are not there yet."""
    with short_directory("mr-queue") as folder:
        text = f'[spool]\ndirectory = "{folder}/spool"\n[state]\ndirectory = "{folder}/state"\n'
        (folder / "mailrelayd.toml").write_text(text)
        yield folder


@pytest.fixture
def spool(site: Path) -> Path:
    """A queue that is ours, with nothing in it."""
    for name in ("", "queue", "failed", "sent"):
        (site / "spool" / name).mkdir(mode=0o700)
    return site / "spool"


def command(site: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "mailrelayd", "--config", str(site / "mailrelayd.toml"), "queue", *arguments]


def alone(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own: it may change its user."""
    return subprocess.run(command(site, *arguments), cwd="/", capture_output=True, text=True, timeout=60)


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it said."""

    returncode: int
    output: bytes
    stderr: str

    @property
    def stdout(self) -> str:
        return self.output.decode()


def queue(site: Path, *arguments: str, stdin: str = "") -> Done:
    """Run the command within this process: the queue is our own, so that it changes no user."""
    output, errors = io.TextIOWrapper(io.BytesIO(), "utf-8", newline="\n"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(errors):
        patch.setattr(sys, "stdin", io.StringIO(stdin))
        try:
            status = main(command(site, *arguments)[3:])
        except SystemExit as ended:
            status = int(ended.code or 0)
    output.flush()
    assert isinstance(output.buffer, io.BytesIO)
    return Done(status, output.buffer.getvalue(), errors.getvalue())


def entries(site: Path, *arguments: str) -> list[dict[str, Any]]:
    """What `queue list --json` prints."""
    done = queue(site, "list", "--json", *arguments)
    assert (done.returncode, done.stderr) == (os.EX_OK, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def put(
    spool: Path,
    queue_id: str,
    outcomes: Mapping[str, RecipientRecord] | None = None,
    *,
    place: str = "queue",
    sender: str = "a@example.com",
    recipients: tuple[str, ...] = ("b@example.com",),
    data: bytes = MESSAGE,
    history: tuple[Past, ...] = (),
    arrived_at: float = ARRIVED,
    **more: Any,
) -> None:
    """A message with its record."""
    progress = Progress(arrived_at, outcomes or {}, history=history)
    entry = Record(queue_id, 1, "sidecar", Envelope(sender, recipients), progress, **more)
    (spool / place / f"{queue_id}.json").write_bytes(record.encode(entry))
    (spool / place / f"{queue_id}.eml").write_bytes(data)


def deferred(response: Response = BUSY) -> RecipientRecord:
    return RecipientRecord(Status.DEFERRED, response, 2, ARRIVED + 60, 32_000_000_000.0)


def refused(reason: str = "rejected") -> RecipientRecord:
    return RecipientRecord(Status.FAILED, UNKNOWN, 1, ARRIVED + 60, reason=reason)


# -- as postqueue shows it -------------------------------------------------------------------------------------------


def put_what_postfix_had(spool: Path) -> None:
    """The three messages of the recording, in our queue."""
    trouble = deferred(Response(Stage.RCPT, 0, "", "deferred transport"))
    for queue_id, said in zip(IDS, map(json.loads, POSTQUEUE.read_text().splitlines()), strict=False):
        recipients = tuple(recipient["address"] for recipient in said["recipients"])
        sender = said["sender"].replace("MAILER-DAEMON", "")
        outcomes, hold = dict.fromkeys(recipients, trouble), said["queue_name"] == "hold"
        arrived_at = float(said["arrival_time"])
        put(spool, queue_id, outcomes, sender=sender, recipients=recipients, hold=hold, arrived_at=arrived_at)


def test_the_names_and_types_are_those_of_postqueue(site: Path, spool: Path) -> None:
    """Whatever a program reads from `postqueue -j` it finds in `queue list --json`, under the same name."""
    put_what_postfix_had(spool)
    theirs = [json.loads(line) for line in POSTQUEUE.read_text().splitlines()]
    for one, other in zip(theirs, entries(site), strict=True):
        assert {key: type(other[key]) for key in one} == {key: type(value) for key, value in one.items()}
        for key in ("queue_name", "arrival_time", "sender", "forced_expire"):
            assert one[key] == other[key]
        for recipient, ours in zip(one["recipients"], other["recipients"], strict=True):
            assert {key: ours[key] for key in recipient} == recipient


@pytest.mark.parametrize(
    "recipe",
    [
        'select(.queue_name == "deferred") | .queue_id',
        'select(.queue_name == "hold") | .queue_id',
        'select(.sender == "MAILER-DAEMON") | .queue_id',
        'select(.recipients[].address == "b@dest.test") | .queue_id',
        "select(.recipients | length > 1) | .queue_id",
        'select(.recipients[].delay_reason | test("transport")) | .queue_id',
        "select(.arrival_time < now - 3600) | .queue_id",
        ".recipients[].delay_reason",
        '[.sender, (.recipients | map(.address) | join(","))] | @tsv',
        "select(.message_size > 100000) | .queue_id",
    ],
)
def test_recipes_for_postqueue_work(site: Path, spool: Path, required: Callable[[str], None], recipe: str) -> None:
    """What people pipe `postqueue -j` through says the same of our queue."""
    required("jq")
    put_what_postfix_had(spool)

    def cooked(lines: str) -> str:
        return subprocess.run(["jq", "-r", recipe], input=lines, capture_output=True, text=True, check=True).stdout

    theirs = POSTQUEUE.read_text()
    translated = cooked(theirs)
    for queue_id, line in zip(IDS, theirs.splitlines(), strict=False):
        translated = translated.replace(json.loads(line)["queue_id"], queue_id)
    assert cooked(queue(site, "list", "--json").stdout) == translated


# -- whom a verb means -----------------------------------------------------------------------------------------------


@pytest.fixture
def mixed(spool: Path) -> Path:
    """One of each: due, deferred, on hold, failed."""
    put(spool, IDS[0])
    put(spool, IDS[1], {"b@example.com": deferred()})
    put(spool, IDS[2], hold=True)
    put(spool, IDS[3], {"b@example.com": refused()}, place="failed", reason="rejected")
    return spool


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        (["hold", "--all"], [0, 1]),
        (["hold", "ALL"], [0, 1]),
        (["hold", "--deferred"], [1]),
        (["hold", "--reason", "mailbox BUSY"], [1]),
        (["release", "--all"], [2]),
        (["release", "--older-than", "1h"], [2]),
        (["retry", "--all"], [0, 1]),
        (["retry", "--failed"], [3]),
        (["delete", "--all", "--yes"], [0, 1, 2]),
        (["delete", "--hold", "--yes"], [2]),
        (["delete", "--failed", "--all", "--yes"], [3]),
        (["fail", "--all", "--yes"], [0, 1, 2]),
        (["hold", "--to", "@example.org"], []),
    ],
)
def test_all_and_filters(site: Path, mixed: Path, arguments: list[str], changed: list[int]) -> None:
    """A verb goes to those that it can change: no message on hold is retried, and none that waits is released."""
    done = queue(site, *arguments, "--json")
    assert (done.returncode, done.stderr) == (os.EX_OK, "")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert answers == [{"queue_id": IDS[number], "error": ""} for number in changed]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["hold"], "Name ids"),
        (["hold", QUEUE_ID, "--all"], "not both"),
        (["hold", "-", "--from", "@example.com"], "not both"),
        (["hold", "--failed", "--all"], "does not apply"),
        (["retry", "--hold"], "queue release"),
        (["list", "--failed", "--hold"], "leave one of them out"),
        (["delete", "--all"], "--yes"),
        (["fail", "--deferred"], "--yes"),
        (["list", "--from", "nobody"], "@example.com"),
        (["list", "--older-than", "2"], "must be a duration"),
    ],
)
def test_what_cannot_be_meant(site: Path, mixed: Path, arguments: list[str], why: str) -> None:
    """Nothing is changed, 64, and the hint says what to write instead."""
    before = {path: path.read_bytes() for path in mixed.rglob("*") if path.is_file()}
    done = queue(site, *arguments)
    assert (done.returncode, done.stdout) == (os.EX_USAGE, "")
    assert why in done.stderr
    assert {path: path.read_bytes() for path in mixed.rglob("*") if path.is_file()} == before


def test_ids_from_standard_input(site: Path, mixed: Path) -> None:
    """One per line, or JSON objects that name one, our own answers too; each is changed once, in order."""
    lines = f'{IDS[1]}\n\n  {IDS[0]}  \n{{"queue_id": "{IDS[2]}", "error": ""}}\n{IDS[1]}\n'
    done = queue(site, "hold", "-", "--json", stdin=lines)
    assert [json.loads(line)["queue_id"] for line in done.stdout.splitlines()] == [IDS[1], IDS[0], IDS[2]]
    again = queue(site, "release", "-", stdin=done.stdout)
    assert (again.returncode, again.stdout.count("was released")) == (os.EX_OK, 3)


def test_what_is_on_hold_has_no_next_attempt(site: Path, mixed: Path) -> None:
    """The listing announces none before it is released."""

    def listed() -> str:
        return next(line for line in queue(site, "list").stdout.splitlines() if line.startswith(IDS[1]))

    assert "  next " in listed()
    queue(site, "hold", IDS[1])
    assert "  next " not in listed()
    queue(site, "release", IDS[1])
    assert "  next " in listed()


@pytest.mark.parametrize("line", ['{"queue": 1}', "{", '{"queue_id": 7}', "[" * 5000, '{"a":' * 5000])
def test_nonsense_on_standard_input(site: Path, mixed: Path, line: str) -> None:
    """The line is named, or is an id that does not exist; nothing is changed."""
    done = queue(site, "delete", "-", stdin=f"{line}\n")
    assert done.returncode == os.EX_DATAERR
    assert "Traceback" not in done.stderr
    assert "standard input, line 1" in done.stderr or "no such message" in done.stderr
    assert len(entries(site)) == 3


def test_an_id_that_is_not_there(site: Path, mixed: Path) -> None:
    """65, whatever was done to the others; the word is shown without what it could do to a terminal."""
    done = queue(site, "hold", IDS[0], "\x1b[2J", "../../etc/passwd", IDS[1])
    assert done.returncode == os.EX_DATAERR
    assert done.stderr.splitlines() == [r"error: \x1b[2J: no such message", "error: ../../etc/passwd: no such message"]
    assert [entry["queue_name"] for entry in entries(site)] == ["hold"] * 3


# -- on a terminal -----------------------------------------------------------------------------------------------------


def on_terminal(site: Path, *arguments: str, typed: str = "") -> tuple[int, str]:
    """Run it as somebody at a terminal; the exit status, and everything that stood on the screen."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            command(site, *arguments), cwd="/", stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
    finally:
        os.close(theirs)
    screen = ""
    with os.fdopen(ours, "r+b", buffering=0) as terminal:
        terminal.write(typed.encode())
        while True:
            try:
                piece = terminal.read(4096)
            except OSError:  # Linux's way to say that nobody has it open any more
                break
            screen += piece.decode()
    return process.wait(60), screen


@pytest.mark.parametrize(("verb", "typed", "left"), [("delete", "y\n", 0), ("fail", "yes\n", 0), ("delete", "\n", 3)])
def test_somebody_at_a_terminal_is_asked(site: Path, mixed: Path, verb: str, typed: str, left: int) -> None:
    """Before everything is deleted or given up, with the number; only a yes is one."""
    status, screen = on_terminal(site, verb, "--all", typed=typed)
    assert status == os.EX_OK
    assert "3 messages" in screen
    assert "[y/N]" in screen
    assert ("nothing was changed" in screen) == bool(left)
    assert len(entries(site)) == left


def test_named_messages_are_not_asked_about(site: Path, mixed: Path) -> None:
    """Whoever writes an id means it."""
    status, screen = on_terminal(site, "delete", IDS[0])
    assert (status, "[y/N]" in screen) == (os.EX_OK, False)


def test_long_work_shows_how_far_it_is(site: Path, spool: Path) -> None:
    """A bar on the terminal, which is gone at the end."""
    for queue_id in IDS[:600]:
        (spool / "queue" / f"{queue_id}.eml").write_bytes(MESSAGE)
    status, screen = on_terminal(site, "hold", "--all")
    assert status == os.EX_OK
    assert "300 of 600" in screen
    assert screen.endswith("\r\x1b[K600 messages are on hold\r\n")


# -- the message itself ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["queue", "failed", "sent"])
def test_cat(site: Path, spool: Path, place: str) -> None:
    """The stored bytes, all of them and nothing else, wherever the message stands."""
    data = b"From: a@example.com\nTo: b@example.com\n\n" + bytes(range(256)) * 1000 + b"\r\nlast"
    put(spool, QUEUE_ID, place=place, data=data)
    assert queue(site, "cat", QUEUE_ID) == Done(os.EX_OK, data, "")
    assert queue(site, "cat", "--header", QUEUE_ID).output == b"From: a@example.com\nTo: b@example.com\n\n"


def test_cat_speaks_to_no_terminal(site: Path, spool: Path) -> None:
    """What a stranger wrote cannot clear the screen of who looks at it."""
    put(spool, QUEUE_ID, data=MESSAGE + b"\x1b[2J\x9b2J \xe2\x80\xae ok\r\n")
    status, screen = on_terminal(site, "cat", QUEUE_ID)
    assert status == os.EX_OK
    assert "\x1b" not in screen
    assert r"\x1b[2J" in screen
    assert "Subject: test\r\n\r\ntest" in screen


def test_what_is_not_there_cannot_be_shown(site: Path, spool: Path) -> None:
    """65, for ids of nothing and for what is no id."""
    for verb in ("cat", "show"):
        for word in (QUEUE_ID, "../failed/x", ""):
            done = queue(site, verb, word)
            assert (done.returncode, done.stdout) == (os.EX_DATAERR, "")
            assert "no such message" in done.stderr


# -- the life of a message ---------------------------------------------------------------------------------------------


def test_explain_a_deferred_message(site: Path, spool: Path) -> None:
    """Where it came from, which rule told its envelope, what happened how often, what it waits for, what to do."""
    history = (
        Past(ARRIVED, "queued", "erp/order.eml"),
        Past(ARRIVED + 3600, "deferred", str(BUSY), 3, ARRIVED + 10),
        Past(ARRIVED + 4000, "hold", "uid 0"),
        Past(ARRIVED + 4001, "release", "uid 0"),
    )
    outcomes = {"b@example.com": deferred()}
    put(spool, QUEUE_ID, outcomes, history=history, file="order.eml", producer="erp", uid=1000)
    done = queue(site, "explain", QUEUE_ID)
    assert (done.returncode, done.stderr) == (os.EX_OK, "")
    for expected in (
        "from <a@example.com>",
        "taken from pickup/erp/order.eml",
        "uid 1000",
        "sidecar",
        "deferred: 450 4.2.1 Mailbox busy (3 times since",
        "put on hold by uid 0",
        "released by uid 0",
        "<b@example.com>: 450 4.2.1 Mailbox busy (2 tries)",
        "none runs",
        "expires",
        "systemctl start mailrelayd",
    ):
        assert expected in done.stdout
    facts = json.loads(queue(site, "explain", "--json", QUEUE_ID).stdout)
    assert (facts["waits_for"], [past["event"] for past in facts["history"]][1:]) == (
        "daemon",
        ["deferred", "hold", "release"],
    )


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"hold": True}, ["is on hold", "queue release", "somebody to release it\n"]),
        ({"hold": True, "history": (Past(ARRIVED, "hold", "uid 7"),)}, ["release it; uid 7 put it on hold at 20"]),
        ({"place": "failed", "reason": "rejected", "outcomes": {"b@example.com": refused()}}, ["550 5.1.1", "30 d"]),
        ({"place": "failed", "reason": "suppressed"}, ["[guard]"]),
        ({"place": "sent"}, ["was sent and is kept", "keep_sent"]),
    ],
)
def test_explain_the_others(site: Path, spool: Path, message: dict[str, Any], expected: list[str]) -> None:
    """What is on hold, given up or sent says so, and what may be done."""
    put(spool, QUEUE_ID, **message)
    done = queue(site, "explain", QUEUE_ID)
    assert done.returncode == os.EX_OK
    assert [words for words in expected if words not in done.stdout] == []


@pytest.mark.parametrize(
    ("queue_id", "expected"),
    [
        (QUEUE_ID, ["was given at 20", f"journalctl --unit mailrelayd --grep {QUEUE_ID}"]),
        ("a" * 16, ["is no queue id", "future"]),
        ("4F2A9C10BD", ["is no queue id", "16 characters"]),
        ("\x1b[2J", [r"\x1b[2J is no queue id"]),
    ],
)
def test_explain_what_is_not_there(site: Path, spool: Path, queue_id: str, expected: list[str]) -> None:
    """What the id itself says, and where to look; 65."""
    done = queue(site, "explain", queue_id)
    assert (done.returncode, done.stderr) == (os.EX_DATAERR, "")
    assert [words for words in expected if words not in done.stdout] == []


WAITING = ("answer", "release", "route", "outbound", "daemon", "not_before", "next_attempt", "turn")


@pytest.mark.parametrize("waits_for", WAITING)
def test_every_kind_of_waiting_has_words(waits_for: str) -> None:
    """What it waits for and what to do, on lines that nobody else can write."""
    hostile = "\x1b[2J\nwhat to do  rm"
    around = {"outbound": "held", "account": "smarthost", "reason": hostile, "stage": "connect", "held_since": ARRIVED}
    facts = {
        "queue_id": QUEUE_ID,
        "queue_name": "active",
        "in_flight": False,
        "message_size": 1000,
        "sender": hostile,
        "recipients": [{"address": hostile, "status": "deferred", "response": hostile, "attempts": 1}],
        "rule": "headers",
        "reason": "",
        "file": hostile,
        "producer": "",
        "uid": None,
        "arrived_at": ARRIVED,
        "next_attempt": ARRIVED + 60,
        "expires_at": ARRIVED + 100,
        "history": [{"at": ARRIVED, "event": "deferred", "text": hostile, "times": 1, "since": ARRIVED}],
        "waits_for": waits_for,
        "situation": {**around, "probe": 30.0, "keep_failed": 1.0, "keep_sent": 0.0, "dsn": False},
    }
    lines = list(words.life(facts, ARRIVED + 10))
    assert all(line.isprintable() for line in lines)
    assert len([line for line in lines if line.startswith("what to do")]) == 1


# -- whose files there are ---------------------------------------------------------------------------------------------


def make_spool(site: Path, uid: int, gid: int) -> Path:
    """What a daemon of this user leaves behind: one message that waits."""
    spool = site / "spool"
    folders = [spool, *(spool / name for name in ("queue", "failed", "sent"))]
    for folder in folders:
        folder.mkdir(mode=0o700)
    (spool / "queue" / f"{QUEUE_ID}.eml").write_bytes(MESSAGE)
    for path in (*folders, spool / "queue" / f"{QUEUE_ID}.eml"):
        os.chown(path, uid, gid)
    return spool


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
@pytest.mark.parametrize("uid", [pwd.getpwnam("nobody").pw_uid, UNNAMED])
@pytest.mark.parametrize("arguments", [("hold", QUEUE_ID), ("hold", "--all"), ("fail", QUEUE_ID), ("delete", QUEUE_ID)])
def test_what_root_changes_stays_the_daemons(site: Path, uid: int, arguments: tuple[str, ...]) -> None:
    """A record written by root's command is its daemon's to read, and nothing else is left of root."""
    gid = pwd.getpwnam("nobody").pw_gid
    spool = make_spool(site, uid, gid)
    done = alone(site, "--json", *arguments)
    assert (done.returncode, done.stderr) == (os.EX_OK, "")
    assert json.loads(done.stdout) == {"queue_id": QUEUE_ID, "error": ""}
    assert {(path.stat().st_uid, path.stat().st_gid) for path in (spool, *spool.rglob("*"))} == {(uid, gid)}
    assert sorted(path.name for path in site.iterdir()) == ["mailrelayd.toml", "spool"]


def test_our_own_spool_is_changed_as_ourselves(site: Path) -> None:
    """Whoever owns the queue, root or not, needs to become nobody else."""
    make_spool(site, os.getuid(), os.getgid())
    assert queue(site, "hold", QUEUE_ID).returncode == os.EX_OK
    (entry,) = entries(site)
    assert entry["queue_name"] == "hold"


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("arguments", [("delete", QUEUE_ID), ("hold", "ALL"), ("list",), ("explain", QUEUE_ID)])
def test_without_a_queue_no_verb_makes_one(site: Path, there: bool, arguments: tuple[str, ...]) -> None:
    """Where no daemon has run there is nothing to change, and nothing is made that the wrong user would own."""
    if there:
        (site / "spool").mkdir()
    before = sorted(site.rglob("*"))
    done = queue(site, *arguments)
    assert done.returncode == os.EX_CANTCREAT
    assert "no daemon has run here yet" in done.stderr
    assert sorted(site.rglob("*")) == before


def test_a_sender_is_told_even_while_no_daemon_runs(site: Path, mixed: Path) -> None:
    """With [retry] dsn, `fail` leaves a report in the queue, which the daemon sends when it runs again."""
    configuration = site / "mailrelayd.toml"
    (site / "state").mkdir()
    configuration.write_text(configuration.read_text() + '[node]\nname = "relay1"\n[retry]\ndsn = true\n')
    assert queue(site, "fail", IDS[1]).returncode == os.EX_OK
    (report,) = [entry for entry in entries(site) if entry["rule"] == "dsn"]
    assert (report["sender"], report["recipients"][0]["address"]) == ("MAILER-DAEMON", "a@example.com")
    assert report["queue_id"].endswith(queueid.node_part("relay1"))
    assert "b@example.com" in queue(site, "cat", report["queue_id"]).stdout
