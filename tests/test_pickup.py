"""The pickup folder: when a file is ready, what is never touched, and that one bad entry stops nothing."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from mailrelayd import durable
from mailrelayd.config.units import Rate
from mailrelayd.operate import events
from mailrelayd.outbound import gather, oldest
from mailrelayd.outbound import pickup as pickup_module
from mailrelayd.outbound.envelope import Producer
from mailrelayd.outbound.examine import LINKED, Examiner, Later, Ready, Refused, Rules, Unusable, owner_name
from mailrelayd.outbound.inlets import ORPHANED, STRAY, Inlet, is_candidate
from mailrelayd.outbound.pace import Paces
from mailrelayd.outbound.pickup import SWEEP, Pickup
from mailrelayd.outbound.queue import Verb
from mailrelayd.outbound.results import Results
from mailrelayd.outbound.stored import Reading
from mailrelayd.outbound.watch import News, Watch
from tests.manual_clock import ManualClock
from tests.queue_contract import claimed, entries, until
from tests.servers.daemon import account
from tests.test_spool import SpoolBench

MAIL = b"From: sender@example.com\nTo: rcpt@example.org\n\nhello\n"
SIDECAR = b'{"mail_from": "bounce@example.com", "rcpt_to": ["side@example.org"]}'
ROOT = os.getuid() == 0
Event = dict[str, Any]


# -- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "top", "maildir"),
    [
        ("a.eml", True, True),
        ("a.EML", True, True),
        ("a b.Eml", True, True),
        ("1700000000.M1P1.host", False, True),
        ("a.eml.txt", False, True),
        ("eml", False, True),
        (".a.eml", False, False),
        ("~a.eml", False, False),
        ("a.eml.tmp", False, False),
        ("a.eml.part", False, False),
        ("a.eml.PARTIAL", False, False),
        ("a.eml.filepart", False, False),
        (".a.eml.swp", False, False),
        ("a.eml.swp", False, False),
        ("a.eml.crdownload", False, False),
        ("a.env.json", False, False),
        ("a.eml.ENV.JSON", False, False),
    ],
)
def test_which_names_may_be_a_message(name: str, top: bool, maildir: bool) -> None:
    """`*.eml` at the top, any final name in new/, and never what is still being written."""
    assert is_candidate(name, maildir=False) == top
    assert is_candidate(name, maildir=True) == maildir


# -- when a file is ready ----------------------------------------------------------------------------------------


@dataclass
class Desk:
    """An examiner over one folder, on a clock that begins now: files are made by the real one."""

    path: Path
    rules: Rules = field(default_factory=Rules)

    def __post_init__(self) -> None:
        self.clock = ManualClock(time.time())
        self.examiner = Examiner(self.rules, self.clock)
        self.inlet = Inlet(durable.Folder(self.path), Producer())
        self.file = self.path / "a.eml"

    def look(self, *, renamed: bool = False) -> Ready | Later | Refused | Unusable | None:
        return self.examiner.look(self.inlet, "a.eml", renamed=renamed)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    made = Desk(tmp_path)
    made.file.write_bytes(MAIL)
    return made


def test_a_fresh_file_has_to_settle(desk: Desk) -> None:
    """A file written in place is taken once it has been still for `settle` seconds."""
    assert isinstance(answer := desk.look(), Later)
    assert answer.seconds == 2.0
    desk.clock.boot += 1.9
    assert isinstance(answer := desk.look(), Later)
    assert answer.seconds == pytest.approx(0.1)
    desk.clock.boot += 0.1
    assert isinstance(desk.look(), Ready)


def test_a_growing_file_begins_anew(desk: Desk) -> None:
    """Every change starts the wait again, however slowly the file grows."""
    for _ in range(5):
        assert isinstance(answer := desk.look(), Later)
        assert answer.seconds == 2.0
        desk.clock.boot += 1.9
        with desk.file.open("ab") as producer:
            producer.write(b"more\n")
    assert isinstance(desk.look(), Later)
    desk.clock.boot += 2.0
    assert isinstance(desk.look(), Ready)


@pytest.mark.parametrize("mtime", [0.0, -3600.0, 3600.0, 10 * 365 * 86400.0])
def test_the_mtime_alone_says_nothing(desk: Desk, mtime: float) -> None:
    """A time set back (cp -p) or in the future makes a fresh file neither old nor wait for ever."""
    os.utime(desk.file, (time.time() + mtime, time.time() + mtime))
    assert isinstance(desk.look(), Later)
    desk.clock.boot += 2.0
    assert isinstance(desk.look(), Ready)


def test_an_old_file_is_taken_at_once(desk: Desk) -> None:
    """What stands there since before `settle` (the daemon was stopped) is not made to wait again."""
    desk.clock.wall += 10
    assert isinstance(desk.look(), Ready)


def test_a_renamed_file_is_taken_at_once(desk: Desk) -> None:
    """A name that came in one step is complete."""
    answer = desk.look(renamed=True)
    assert isinstance(answer, Ready)
    assert answer.derived.envelope.recipients == ("rcpt@example.org",)
    assert answer.stamp is None


def test_the_wall_clock_does_not_matter_to_a_wait(desk: Desk) -> None:
    """A clock set back by a year delays nobody for more than `settle`."""
    desk.clock.wall -= 365 * 86400
    assert isinstance(desk.look(), Later)
    desk.clock.boot += 2.0
    assert isinstance(desk.look(), Ready)


@pytest.mark.parametrize("kind", [fcntl.LOCK_SH, fcntl.LOCK_EX])
def test_a_locked_file_is_still_being_written(desk: Desk, kind: int) -> None:
    """Whoever holds a lock is writing, even if nothing changes; and our own question leaves no lock behind."""
    desk.clock.wall += 10
    with desk.file.open("rb") as producer:
        fcntl.flock(producer, kind)
        assert isinstance(answer := desk.look(), Later)
        assert "lock" in answer.why
    assert isinstance(desk.look(), Ready)
    with desk.file.open("rb") as producer:
        fcntl.flock(producer, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_second_name_may_last_a_minute(desk: Desk) -> None:
    """Some uploads link the final name and then unlink the first; after a minute it is somebody else's file."""
    desk.clock.wall += 10
    os.link(desk.file, desk.path / "upload")
    assert isinstance(desk.look(), Later)
    desk.clock.boot += LINKED - 1
    assert isinstance(desk.look(), Later)
    desk.clock.boot += 1
    assert isinstance(answer := desk.look(), Refused)
    assert "2 names" in answer.reason
    (desk.path / "upload").unlink()
    desk.clock.wall += 10
    assert isinstance(desk.look(), Ready)


def test_three_names_are_refused_at_once(desk: Desk) -> None:
    """No upload makes three names."""
    os.link(desk.file, desk.path / "one")
    os.link(desk.file, desk.path / "two")
    assert isinstance(desk.look(renamed=True), Refused)


def test_what_is_gone_is_nothing(desk: Desk) -> None:
    """A file that its producer took away is no trouble."""
    desk.file.unlink()
    assert desk.look() is None


UNREADABLE = """
import sys
from pathlib import Path
from mailrelayd import durable
from mailrelayd.clock import SystemClock
from mailrelayd.outbound.envelope import Producer
from mailrelayd.outbound.examine import Examiner, Rules
from mailrelayd.outbound.inlets import Inlet
inlet = Inlet(durable.Folder(Path(sys.argv[1])), Producer())
print(Examiner(Rules(), SystemClock()).look(inlet, "a.eml", renamed=True))
"""


def test_a_file_closed_to_us_is_named_with_its_cure(short_tmp: Path) -> None:
    """Mode 0600 by another user (Python's mkstemp does it) stays, and the answer tells owner and fix."""
    if ROOT and account().uid == 0:
        pytest.skip(account().reason)
    path = short_tmp / "a.eml"
    path.write_bytes(MAIL)
    path.chmod(0o600 if ROOT else 0)
    command = [sys.executable, "-c", UNREADABLE, str(short_tmp)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/", **account().switch)
    assert done.stdout.startswith("Refused(reason='cannot be read: mode 0")
    assert "os.fchmod(fd, 0o640)" in done.stdout
    assert path.read_bytes() == MAIL if ROOT else path.exists()


# -- the loop ----------------------------------------------------------------------------------------------------


class Bench(SpoolBench):
    """The pickup's loop over a spool, its log, and a clock that begins now."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.clock.wall = time.time() + 10  # everything that is made now is old enough
        self.top = directory / "pickup"
        self.new = self.top / "new"
        self.rules = Rules()
        self.paces = Paces(None)
        self.said: dict[str, list[Event]] = {}
        self.stop = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.loop: Pickup

    def place(self, name: str, data: bytes, owner: int = -1) -> None:
        """Hand in a file below pickup/ as a producer should: whole, as soon as it has its name."""
        part = self.top / ".part"
        part.write_bytes(data)
        os.chown(part, owner, owner)
        part.rename(self.top / name)

    async def start(self) -> Bench:
        """Begin, and let the first sweep pass."""
        for producer in self.rules.reading.named:
            (self.top / producer.name / "new").mkdir(parents=True, exist_ok=True)
        self.loop = Pickup(self.top, self.queue, self.rules, self.clock, self.paces)
        self.task = asyncio.create_task(self.loop.run(self.stop, lambda seconds: None))
        await self._resting(0)
        return self

    async def _resting(self, after: int) -> None:
        assert self.task is not None
        await until(lambda: self.task.done() or (len(self.clock.pauses) > after and self.clock.waiting))  # type: ignore[union-attr]
        if self.task.done():
            self.task.result()

    async def passes(self, seconds: float = SWEEP) -> None:
        """Let time pass, and everything that becomes of it."""
        pauses = len(self.clock.pauses)
        if self.clock.advance(seconds):
            await self._resting(pauses)

    async def end(self) -> None:
        if self.task is not None:
            task, self.task = self.task, None
            self.stop.set()
            self.loop.wake()
            await task
            self.loop.close()
        await super().end()

    def names(self, event: str) -> list[str]:
        """The files that were spoken of, in order."""
        return [one["file"] for one in self.said.get(event, [])]

    @property
    def queued(self) -> list[str]:
        return self.names("message_queued")

    @property
    def refused(self) -> list[str]:
        return self.names("pickup_refused")

    @property
    def failed(self) -> list[str]:
        return self.names("message_failed")


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    for name in (
        *("message_queued", "message_failed", "message_duplicate", "pickup_refused"),
        *("spool_full", "queue_trouble"),
    ):

        def say(name: str = name, **keys: Any) -> None:
            made.said.setdefault(name, []).append(keys)

        monkeypatch.setattr(events, name, say)
    await made.reopen()
    yield made
    await made.close()


async def test_what_stands_there_at_the_start_is_taken_in_order(bench: Bench) -> None:
    """The first sweep claims everything, by (mtime, name), wherever it stands."""
    for name, mtime in (("c.eml", 30), ("a.eml", 20), ("new/z", 20), ("b.eml", 20), ("d.eml", 10)):
        bench.place(name, MAIL)
        os.utime(bench.top / name, (mtime, mtime))
    await bench.start()
    assert bench.queued == ["d.eml", "a.eml", "b.eml", "z", "c.eml"]
    found = [entry.message.queue_id for entry in await entries(bench.queue)]
    assert found == [one["queue_id"] for one in bench.said["message_queued"]]
    assert bench.tree() == {f"queue/{queue_id}.eml" for queue_id in found}


async def test_events_wake_the_loop(bench: Bench) -> None:
    """Files that come while it waits are taken without a sweep: renamed ones at once, others once they are still."""
    bench.clock.wall = time.time() - 1
    await bench.start()
    (bench.top / "tmp").mkdir()
    bench.place("tmp/m", MAIL)
    (bench.top / "tmp/m").rename(bench.new / "m")
    bench.place(".hidden", MAIL)
    (bench.top / ".hidden").rename(bench.top / "r.eml")
    await until(lambda: sorted(bench.queued) == ["m", "r.eml"])
    (bench.top / "w.eml").write_bytes(MAIL)
    key = (next(iter(bench.loop._inlets)), "w.eml")
    await until(lambda: key in bench.loop._again and bench.clock.waiting)
    assert "w.eml" not in bench.queued
    for _ in range(3):  # events of its making may still come in and be looked at
        await bench.passes(2)
    await until(lambda: "w.eml" in bench.queued)
    assert bench.clock.boot < 1000 + SWEEP


async def test_the_sweep_finds_what_no_event_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network file system gives no events: every 30 seconds everything is looked at."""
    monkeypatch.setattr(pickup_module, "Watch", Told)
    await bench.start()
    bench.place("a.eml", MAIL)
    await bench.passes(SWEEP - 1)
    assert bench.queued == []
    await bench.passes(1)
    assert bench.queued == ["a.eml"]


async def test_a_burst_is_taken_to_its_end_without_another_event(bench: Bench) -> None:
    """The loop is woken for a part of it at a time, and hears of the last one too."""
    await bench.start()
    for count in (1, 3, 48, 130):
        before = len(bench.queued)
        for number in range(count):
            (bench.top / f".{number}").write_bytes(MAIL)
        for number in range(count):
            (bench.top / f".{number}").rename(bench.new / f"{number:03}")
        await until(lambda: len(bench.queued) == before + count)  # noqa: B023
    assert bench.clock.boot == 1000


async def test_a_bug_where_it_is_told_ends_the_loop(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was taken and that nobody heard of must not lie there until the next start."""

    def boom(*given: Any) -> None:
        raise RuntimeError("boom")

    await bench.start()
    monkeypatch.setattr(bench.queue, "arrived", boom)
    bench.place("a.eml", MAIL)
    task, bench.task = bench.task, None
    assert task is not None
    with pytest.raises(RuntimeError, match="boom"):
        await task
    bench.loop.close()


async def test_very_many_are_taken_in_order(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """More names than are sorted at a time, in both folders: the oldest of all is the first."""
    monkeypatch.setattr(oldest, "RUN", 10)
    for number in range(101):
        path = (bench.new if number % 3 else bench.top) / f"{number:03}.eml"
        path.write_bytes(MAIL)
        os.utime(path, (1000 - number, 1000 - number))
    await bench.start()
    assert bench.queued == [f"{number:03}.eml" for number in reversed(range(101))]


async def test_of_very_many_that_wait_the_sweep_knows(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many next looks are planned: memory does not grow with what somebody leaves behind."""
    monkeypatch.setattr(pickup_module, "MANY", 3)
    for number in range(9):
        bench.place(f"{number}.eml", MAIL)
        os.link(bench.top / f"{number}.eml", bench.top / f"{number}")
    await bench.start()
    assert len(bench.loop._again) == 3
    for number in range(9):
        (bench.top / f"{number}").unlink()
    await bench.passes(1)
    assert len(bench.queued) == 3
    await bench.passes(SWEEP - 1)
    assert len(bench.queued) == 9


@pytest.mark.parametrize("how", ["removed", "moved", "link"])
async def test_a_folder_that_is_removed_or_replaced_is_spoken_of(bench: Bench, how: str) -> None:
    """Once: what its producers write now is seen by nobody until a reload, and the other folders go on."""
    await bench.start()
    if how == "removed":
        bench.new.rmdir()
    else:
        bench.new.rename(bench.top / "old")
    if how == "link":
        bench.new.symlink_to(bench.top / "tmp", target_is_directory=True)
        (bench.top / "tmp").mkdir()
    else:
        bench.new.mkdir()
    bench.place("new/unseen", MAIL)
    await bench.passes()
    await bench.passes()
    (said,) = bench.said["pickup_refused"]
    assert (said["file"], said["hint"]) == ("./", "make the folder anew where there is none, and reload")
    assert said["reason"] == f"was removed or replaced ({bench.new}): nothing is taken that comes under its name"
    bench.place("a.eml", MAIL)
    await until(lambda: bench.queued == ["a.eml"])


class Told(Watch):
    """Hears of nothing but what the test says."""

    last: Told
    watched: list[Path]

    def __init__(self, folders: Iterable[durable.Folder]) -> None:
        super().__init__(())
        Told.last, Told.watched = self, [folder.path for folder in folders]
        self.lost = False

    def close(self) -> None:
        super().close()
        Told.watched = []

    def overflow(self) -> None:
        self.lost = True
        self.poke()

    def wait(self) -> News:
        news = super().wait()
        news.lost, self.lost = self.lost, False
        return news


async def test_an_overflow_means_a_sweep(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the kernel could not keep all events, everything is looked at at once, even amid other work."""
    monkeypatch.setattr(pickup_module, "Watch", Told)
    await bench.start()
    bench.place("a.eml", MAIL)
    Told.last.overflow()
    await until(lambda: bench.queued == ["a.eml"])
    await until(lambda: bench.clock.waiting)
    taken = bench.queue.take

    def overflow_meanwhile(*arguments: Any, **keys: Any) -> Any:
        bench.place("c.eml", MAIL)
        Told.last.overflow()
        return taken(*arguments, **keys)

    monkeypatch.setattr(bench.queue, "take", overflow_meanwhile)
    bench.place("b.eml", MAIL)
    Told.last.overflow()
    await until(lambda: "c.eml" in bench.queued)


async def test_every_folder_is_watched_before_it_is_first_looked_through(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a file that came in between would wait for the second sweep."""
    before: list[list[Path]] = []
    right = Pickup._sweep

    async def sweep(self: Pickup, *given: Any) -> None:
        before.append(list(Told.watched))
        await right(self, *given)

    monkeypatch.setattr(pickup_module, "Watch", Told)
    monkeypatch.setattr(Pickup, "_sweep", sweep)
    bench.rules = producers(Producer("erp"))
    await bench.start()
    assert before == [[bench.top, bench.new, bench.top / "erp", bench.top / "erp" / "new"]]
    await bench.end()
    assert Told.watched == []


async def test_without_events_the_sweeps_have_to_do(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel gives each user only so many inotify instances: said once, and looked more often."""

    def none(folders: Iterable[durable.Folder]) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(pickup_module, "Watch", none)
    await bench.start()
    bench.place("a.eml", MAIL)
    await bench.passes(2)
    assert bench.queued == ["a.eml"]
    assert [one["doing"] for one in bench.said["queue_trouble"]] == ["watch the pickup folder"]


async def test_a_folder_that_cannot_be_read_for_a_while_ends_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many open files, a file system that is away: the next sweep finds what is there."""
    right, errors = durable.Folder.names, [OSError(errno.EMFILE, "Too many open files")]

    def names(self: durable.Folder) -> Any:
        if errors:
            raise errors.pop()
        return right(self)

    monkeypatch.setattr(durable.Folder, "names", names)
    bench.place("a.eml", MAIL)
    await bench.start()
    assert bench.queued == []
    await bench.passes()
    assert bench.queued == ["a.eml"]
    assert len(bench.said["queue_trouble"]) == 1


async def test_a_message_with_a_sidecar(bench: Bench) -> None:
    """The sidecar is the envelope, and is gone with the claim; in new/ as at the top, for NAME and NAME.eml."""
    for name, sidecar in (("a.eml", "a"), ("b.EML", "b"), ("c.eml", "c.eml"), ("new/d", "new/d")):
        bench.place(f"{sidecar}.env.json", SIDECAR)
        bench.place(name, MAIL)
    await bench.start()
    assert sorted(bench.queued) == ["a.eml", "b.EML", "c.eml", "d"]
    assert {one["rule"] for one in bench.said["message_queued"]} == {"sidecar"}
    assert not [path for path in bench.tree() if path.startswith("pickup")]
    await bench.reopen()
    message = await claimed(bench.queue)
    assert message.envelope.sender == "bounce@example.com"
    assert message.envelope.recipients == ("side@example.org",)


async def test_a_sidecar_closed_to_us_keeps_its_message_waiting(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whom the message is for stands in it: it waits, that is said once, and it goes once the sidecar can be read."""
    right = durable.Folder.read
    closed = True

    def read(folder: durable.Folder, name: str, *, limit: int) -> bytes:
        if closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return right(folder, name, limit=limit)

    monkeypatch.setattr(durable.Folder, "read", read)
    bench.place("a.env.json", SIDECAR)
    bench.place("a.eml", MAIL)
    await bench.start()
    await bench.passes()
    (said,) = bench.said["pickup_refused"]
    assert said["reason"] == "waits: its sidecar a.env.json cannot be read (Permission denied)"
    assert (said["owner"], said["hint"]) == (owner_name(os.getuid()), "chmod g+r")
    assert bench.queued == []
    closed = False
    await bench.passes()
    assert bench.queued == ["a.eml"]


async def test_a_refused_sidecar_goes_with_its_message_and_is_read_again(bench: Bench) -> None:
    """The header never speaks in its place: `retry` sends by the mended sidecar, or says what is missing."""
    for name in ("a", "b"):
        bench.place(f"{name}.env.json", SIDECAR.replace(b"}", b', "bcc": []}'))
        bench.place(f"{name}.eml", MAIL)
    await bench.start()
    assert bench.failed == ["a.eml", "b.eml"]
    assert not [path for path in bench.tree() if path.startswith("pickup")]
    first, second = [entry.message async for entry in bench.queue.entries(failed=True)]
    assert first.envelope.recipients == ()
    (answer,) = (await bench.queue.change(Verb.RETRY, [first.queue_id])).values()
    assert "still cannot be sent: the sidecar (.env.json) is refused" in answer
    (bench.directory / "failed" / f"{first.queue_id}.env.json").write_bytes(SIDECAR)
    (bench.directory / "failed" / f"{second.queue_id}.env.json").unlink()
    answers = await bench.queue.change(Verb.RETRY, [first.queue_id, second.queue_id])
    assert answers[first.queue_id] == ""
    assert "its sidecar b.env.json is gone: hand in both again" in answers[second.queue_id]
    message = await claimed(bench.queue)
    assert (message.rule, message.envelope.recipients) == ("sidecar", ("side@example.org",))
    assert sorted(path for path in bench.tree() if path.startswith("failed")) == [
        f"failed/{second.queue_id}.eml",
        f"failed/{second.queue_id}.json",
    ]


async def test_a_file_that_meets_a_bug_stays_and_the_others_go_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is wrong with our code, one file must not stop the rest, and is not touched."""
    right, bugs = Examiner.judge, []

    def judge(self: Examiner, inlet: Inlet, name: str, *given: Any, **keys: Any) -> Any:
        if name == "bug.eml":
            raise RuntimeError("boom")
        return right(self, inlet, name, *given, **keys)

    monkeypatch.setattr(Examiner, "judge", judge)
    monkeypatch.setattr(events, "daemon_bug", lambda **keys: bugs.append(keys["file"]))
    for name in ("a.eml", "bug.eml", "c.eml"):
        bench.place(name, MAIL)
    await bench.start()
    assert bench.queued == ["a.eml", "c.eml"]
    assert bugs == ["bug.eml"]
    assert (bench.top / "bug.eml").read_bytes() == MAIL


# -- hostile and strange entries ---------------------------------------------------------------------------------


def link_to(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


def socket_at(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        os.chdir(path.parent)  # a socket's path is short
        try:
            one.bind(path.name)
        finally:
            os.chdir("/")


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.write(MAIL)
        file.truncate(2 << 30)


def three_names(path: Path) -> None:
    path.with_name("one").write_bytes(MAIL)
    os.link(path.with_name("one"), path.with_name("two"))
    os.link(path.with_name("one"), path)


def beside(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def both(path: Path) -> None:
        make(path.with_suffix(".env.json"))
        path.write_bytes(MAIL)

    return both


def foreign(path: Path) -> None:
    path.write_bytes(SIDECAR)
    os.chown(path, 65534, 65534)


def linked_sidecar(path: Path) -> None:
    path.write_bytes(SIDECAR)
    os.link(path, path.with_name("another"))


def foreign_folder(path: Path) -> None:
    path.mkdir()
    (path / "inside.eml").write_bytes(MAIL)


STAYS: dict[str, tuple[Callable[[Path], object], str]] = {
    "link to a secret": (link_to("/etc/shadow"), "symbolic link"),
    "dangling link": (link_to("nowhere"), "symbolic link"),
    "link to itself": (link_to("x.eml"), "symbolic link"),
    "link to /dev/zero": (link_to("/dev/zero"), "symbolic link"),
    "FIFO": (lambda path: os.mkfifo(path), "FIFO"),
    "socket": (socket_at, "socket"),
    "folder": (foreign_folder, "folder"),
    "three names": (three_names, "3 names"),
    "2 GB of nothing": (sparse, "more than max_message_size"),
    "sidecar is a link": (beside(link_to("/etc/passwd")), "sidecar"),
    "sidecar is a folder": (beside(lambda path: path.mkdir()), "sidecar"),
    "sidecar is a FIFO": (beside(lambda path: os.mkfifo(path)), "sidecar"),
    "sidecar has two names": (beside(linked_sidecar), "sidecar"),
}
if ROOT:
    STAYS["device"] = (lambda path: os.mknod(path, 0o020666, os.makedev(1, 5)), "character device")
    STAYS["sidecar of another owner"] = (beside(foreign), "sidecar")


@pytest.mark.parametrize("kind", STAYS)
async def test_what_must_not_be_taken_stays(bench: Bench, kind: str) -> None:
    """It is neither followed, opened, moved nor deleted; that is said once and counted; the others are taken."""
    make, reason = STAYS[kind]
    make(bench.top / "x.eml")
    before = bench.tree()
    bench.place("good.eml", MAIL)
    await bench.start()
    for name in ("y.eml", "z.eml", "zz.eml"):
        bench.place(name, MAIL)
        await bench.passes()
    assert bench.queued == ["good.eml", "y.eml", "z.eml", "zz.eml"]
    (said,) = bench.said["pickup_refused"]
    assert said["file"] == "x.eml"
    assert reason in said["reason"]
    assert said["hint"]
    assert bench.loop.refused == 1
    assert before <= bench.tree()
    (bench.top / "x.eml").rename(bench.directory / "away")
    await bench.passes()
    assert bench.loop.refused == 0


def files(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


DASHES = b"-" * 79 + b"\n"
DJANGO = b'Content-Type: text/plain; charset="utf-8"\nMIME-Version: 1.0\n' + MAIL + DASHES
SWIFT = b'O:13:"Swift_Message":1:{s:38:"\0Swift_Mime_SimpleMimeEntity\0_headers";N;}'

FAILS: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (files(b""), "empty"),
    "binary": (files(bytes(range(256)) * 100), ""),
    "zeros": (files(bytes(100_000)), ""),
    "NUL in the header": (files(b"From: a@example.com\nTo: b\0@example.org\n\n"), "NUL"),
    "a header of 10 MB": (files(b"From: a@example.com\nTo: b@example.org\n" + b"X: y\n" * 2_000_000), "header"),
    "one line of 10 MB": (files(b"From: a@example.com\nX: " + b"y" * 10_000_000), "header"),
    "nobody to send to": (files(b"From: a@example.com\n\nhello\n"), ""),
    "UTF-16": (files(MAIL.decode().encode("utf-16")), "UTF-16"),
    "Django's file backend": (files(DJANGO), "79 dashes of Django's file backend"),
    "two mails of Django's": (files(DJANGO + DJANGO), "79 dashes of Django's file backend"),
    "Swift's file spool": (files(SWIFT), "line 1 of the header holds a NUL byte: this is not a mail"),
    "nullmailer's queue": (files(b"a@example.com\nb@example.org\n\n" + MAIL), "line 1 ('a@example.com') is no header"),
    "sidecar is no JSON": (beside(files(b"{mail_from}")), "sidecar"),
    "sidecar is empty": (beside(files(b"")), "sidecar"),
    "sidecar is huge": (beside(files(b" " * (2 << 20) + SIDECAR)), "sidecar"),
    "sidecar is brackets": (beside(files(b"[" * 100_000)), "sidecar"),
    "sidecar knows more": (beside(files(b'{"mail_from": "", "rcpt_to": ["a@example.org"], "bcc": []}')), "bcc"),
}


@pytest.mark.parametrize("kind", FAILS)
async def test_what_can_never_be_sent_fails(bench: Bench, kind: str) -> None:
    """It goes to failed/ with the reason, once, bytes unchanged; the others are taken."""
    make, reason = FAILS[kind]
    make(bench.top / "x.eml")
    data = (bench.top / "x.eml").read_bytes()
    bench.place("good.eml", MAIL)
    await bench.start()
    await bench.passes()
    assert bench.queued == ["good.eml"]
    (said,) = bench.said["message_failed"]
    assert (said["file"], said["reason"]) == ("x.eml", "unreadable")
    (entry,) = await entries(bench.queue, failed=True)
    assert entry.message.queue_id == said["queue_id"]
    assert reason in entry.reason == said["response"].text
    assert entry.message.file == "x.eml"
    assert (bench.directory / "failed" / f"{said['queue_id']}.eml").read_bytes() == data
    assert bench.refused == []


ACCEPTED: dict[str, tuple[bytes, bytes]] = {
    "a newline": (b"a\nmessage.queued.eml", MAIL),
    "no UTF-8": (b"a\xff\xfe.eml", MAIL),
    "ESC": (b"a\x1b[31m.eml", MAIL),
    "a blank": (b" .eml", MAIL),
    "the longest name": (b"n" * 251 + b".eml", MAIL),
    "right to left": ("a\u202elme.eml".encode(), MAIL),
    "a line of 100,000 characters": (b"line.eml", MAIL + b"x" * 100_000),
    "NUL in the body": (b"nul.eml", MAIL + b"\0\0"),
    "bare CR": (b"cr.eml", MAIL.replace(b"\n", b"\r")),
    "no final newline": (b"end.eml", MAIL[:-1]),
    "79 dashes that are not Django's": (b"dashes.eml", MAIL + DASHES),
    "80 dashes": (b"more-dashes.eml", DJANGO[: -len(DASHES)] + b"-" + DASHES),
}


@pytest.mark.parametrize("kind", ACCEPTED)
async def test_what_is_only_strange_is_taken(bench: Bench, kind: str) -> None:
    """Names and lines that nobody expects are taken like any other, by sweep and by event, and read again later."""
    name, data = ACCEPTED[kind]
    path = os.fsencode(bench.top) + b"/" + name
    for number in (1, 2):
        bench.place("part", data)
        os.rename(os.fsencode(bench.top / "part"), path)
        if number == 1:
            await bench.start()
        await until(lambda number=number: len(bench.queued) == number)  # type: ignore[misc]
    assert bench.queued == [os.fsdecode(name)] * 2
    assert bench.refused == bench.failed == []
    await bench.reopen()
    assert len(await entries(bench.queue)) == 2
    assert (await claimed(bench.queue)).size == len(data)


async def test_with_a_sidecar_dashes_at_the_end_are_nobodys(bench: Bench) -> None:
    """Who says who shall receive it means one message, whatever it ends with."""
    bench.place("a.env.json", SIDECAR)
    bench.place("a.eml", DJANGO)
    await bench.start()
    assert bench.queued == ["a.eml"]


BLOCK = b"X-Sender: block@example.com\nX-Receiver: block@example.org\n" + MAIL


@pytest.mark.parametrize(("rule", "recipient"), [("headers", "rcpt@example.org"), ("pickup", "block@example.org")])
async def test_the_block_counts_where_it_is_asked_for(bench: Bench, rule: Any, recipient: str) -> None:
    """X-Sender and X-Receiver are the envelope with `envelope = "pickup"` only, whatever the setting becomes later."""
    bench.rules = Rules(Reading(rule))
    bench.queue.set_reading(bench.rules.reading)
    bench.place("a.eml", BLOCK)
    await bench.start()
    await bench.reopen()
    bench.queue.set_reading(Reading("pickup" if rule == "headers" else "headers"))
    message = await claimed(bench.queue)
    assert message.envelope.recipients == (recipient,)
    assert message.rule == rule


@pytest.mark.parametrize(
    "when", ["9999-12-31T23:59:59.9999999Z", "9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+14:00"]
)
async def test_a_wish_beyond_the_calendar_stops_nothing(bench: Bench, when: str) -> None:
    """A sidecar's `not_before` at the very end of time, or before its beginning, is a message like any other."""
    bench.place("a.env.json", SIDECAR[:-1] + f', "not_before": "{when}"}}'.encode())
    bench.place("a.eml", MAIL)
    bench.place("b.eml", MAIL)
    await bench.start()
    assert bench.queued == ["a.eml", "b.eml"]
    await bench.reopen()
    assert bench.queue.figures().waiting == 2


async def test_a_refused_file_is_taken_once_it_is_put_right(bench: Bench) -> None:
    """Whoever mends what was complained about needs to do nothing else; another reason is said again."""
    os.mkfifo(bench.top / "a.eml")
    await bench.start()
    (bench.top / "a.eml").unlink()
    (bench.top / "a.eml").mkdir()
    await bench.passes()
    (bench.top / "a.eml").rmdir()
    bench.place("a.eml", MAIL)
    await bench.passes()
    assert [one["reason"].split(",")[0] for one in bench.said["pickup_refused"]] == ["is a FIFO", "is a folder"]
    assert bench.queued == ["a.eml"]
    assert bench.loop.refused == 0


async def test_a_file_that_vanishes_is_no_trouble(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its producer may take a file away at the last moment; nobody is warned."""
    taken = bench.queue.take

    def too_late(folder: durable.Folder, name: str, *arguments: Any, **keys: Any) -> Any:
        if name == "a.eml":
            (bench.top / name).unlink()
        return taken(folder, name, *arguments, **keys)

    monkeypatch.setattr(bench.queue, "take", too_late)
    for name in ("a.eml", "b.eml"):
        bench.place(name, MAIL)
    await bench.start()
    assert (bench.queued, bench.refused) == (["b.eml"], [])


@pytest.mark.parametrize("kind", ["fifo", "link", "socket"])
async def test_what_took_the_name_of_a_file_is_not_queued(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Swapped between the look and the rename: it is removed, as it holds nothing, and the next file is taken."""
    judge = Examiner.judge

    def swapped(examiner: Examiner, inlet: Inlet, name: str, *given: Any, **keys: Any) -> Any:
        found = judge(examiner, inlet, name, *given, **keys)
        if name == "a.eml" and isinstance(found, Ready):
            path = bench.top / name
            path.unlink()
            if kind == "fifo":
                os.mkfifo(path)
            elif kind == "link":
                path.symlink_to("/etc/passwd")
            else:
                os.mknod(path, stat.S_IFSOCK | 0o600)
        return found

    monkeypatch.setattr(Examiner, "judge", swapped)
    for name in ("a.eml", "b.eml"):
        bench.place(name, MAIL)
    await bench.start()
    assert bench.queued == ["b.eml"]
    assert not (bench.top / "a.eml").exists()
    kept = [path for path in (bench.top.parent / "queue").iterdir() if path.suffix == ".eml"]
    assert len(kept) == 1
    assert kept[0].is_file()


async def test_a_file_that_cannot_be_claimed_is_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the disk is said once, the others are taken, and the file as soon as it works."""
    taken, broken = bench.queue.take, True

    def failing(folder: durable.Folder, name: str, *arguments: Any, **keys: Any) -> Any:
        if name == "a.eml" and broken:
            raise OSError(errno.EIO, "Input/output error")
        return taken(folder, name, *arguments, **keys)

    monkeypatch.setattr(bench.queue, "take", failing)
    for name in ("a.eml", "b.eml"):
        bench.place(name, MAIL)
    await bench.start()
    await bench.passes()
    await bench.passes()
    assert (bench.queued, bench.refused) == (["b.eml"], ["a.eml"])
    broken = False
    await bench.passes()
    assert bench.queued == ["b.eml", "a.eml"]
    assert bench.loop.refused == 0


# -- a full disk -------------------------------------------------------------------------------------------------


async def test_below_min_free_nothing_is_written_either(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Very many files are sorted on the disk, but not on a full one: none of them could be taken."""
    monkeypatch.setattr(oldest, "RUN", 3)
    monkeypatch.setattr(oldest, "TemporaryFile", None)
    monkeypatch.setattr(durable, "free_space", lambda folder: 99)
    bench.rules = Rules(min_free=100)
    for number in range(9):
        bench.place(f"{number}.eml", MAIL)
    await bench.start()
    await bench.passes()
    assert bench.said == {"spool_full": [{"free": 99, "min_free": 100, "full": True}]}


async def test_what_was_taken_before_an_error_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue hears at once of files that were taken, whatever the file system says of the next one."""
    right, say, told = oldest.oldest_first, events.message_queued, threading.Event()

    def broken(entries: Iterable[oldest.Entry], directory: Path) -> Iterator[oldest.Entry]:
        ordered = right(entries, directory)
        yield from islice(ordered, 2)
        assert told.wait(10)
        yield next(ordered)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def heard(**keys: Any) -> None:
        say(**keys)
        if len(bench.queued) == 2:
            told.set()

    monkeypatch.setattr(gather, "oldest_first", broken)
    monkeypatch.setattr(events, "message_queued", heard)
    for number in range(7):
        bench.place(f"{number}.eml", MAIL)
    await bench.start()
    assert bench.queued == ["0.eml", "1.eml", "2.eml"]
    assert bench.said["queue_trouble"] == [{"doing": "look into the pickup folder", "reason": os.strerror(errno.EIO)}]


async def test_below_min_free_nothing_is_claimed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room everything stays, that is said once; with room it goes on, and that is said too."""
    free = 99
    monkeypatch.setattr(durable, "free_space", lambda folder: free)
    bench.rules = Rules(min_free=100)
    bench.place("a.eml", MAIL)
    await bench.start()
    await bench.passes()
    await bench.passes()
    assert bench.queued == []
    assert bench.said["spool_full"] == [{"free": 99, "min_free": 100, "full": True}]
    free = 100
    await bench.passes()
    assert bench.queued == ["a.eml"]
    assert bench.said["spool_full"][1:] == [{"free": 100, "min_free": 100, "full": False}]


# -- sidecars without a message ----------------------------------------------------------------------------------


async def test_a_sidecar_that_stays_alone_is_put_aside(bench: Bench) -> None:
    """After 36 hours, and some minutes more, it goes to failed/, where it is listed in the log; not earlier."""
    bench.place("a.env.json", SIDECAR)
    bench.place("new/b.env.json", SIDECAR)
    await bench.start()
    await bench.passes(ORPHANED - 60)
    await bench.passes(60)
    await bench.passes(gather.LASTING - SWEEP)
    assert bench.failed == []
    await bench.passes(SWEEP)
    assert sorted(bench.failed) == ["a.env.json", "b.env.json"]
    ids = [one["queue_id"] for one in bench.said["message_failed"]]
    kept = {f"failed/{queue_id}.{ending}" for queue_id in ids for ending in ("json", "env.json")}
    assert bench.tree() == kept
    await bench.reopen()
    assert bench.tree() == kept


async def test_a_jump_of_the_clock_parts_no_sidecar_from_its_message(bench: Bench) -> None:
    """The message that comes a moment after the jump goes to whom its sidecar names, and to nobody else."""
    await bench.start()
    bench.place("a.env.json", SIDECAR)
    bench.clock.wall += 50 * 365 * 86400.0
    await bench.passes()
    assert bench.failed == []
    bench.place("a.eml", MAIL)
    await until(lambda: bench.queued == ["a.eml"])
    assert (await claimed(bench.queue)).envelope.recipients == ("side@example.org",)


@pytest.mark.parametrize("name", ["a.eml", "a.EML", "a.Eml"])
async def test_a_sidecar_whose_message_waits_is_no_orphan(bench: Bench, name: str) -> None:
    """As long as its message stands there, refused for whatever reason, the sidecar stays: it is the envelope."""
    bench.place("a.env.json", SIDECAR)
    bench.place(name, MAIL)
    os.link(bench.top / name, bench.top / "one")
    os.link(bench.top / name, bench.top / "two")
    await bench.start()
    await bench.passes(2 * ORPHANED)
    await bench.passes(gather.LASTING)
    (bench.top / "one").unlink()
    (bench.top / "two").unlink()
    await bench.passes(2 * ORPHANED)
    assert bench.queued == [name]
    assert (await claimed(bench.queue)).envelope.recipients == ("side@example.org",)


async def test_a_refused_file_that_its_owner_removes_is_forgotten(bench: Bench) -> None:
    """Whoever makes and removes files all day does not fill memory with their names."""
    await bench.start()
    examiner = bench.loop._taker._examiner
    for number in range(3):
        path = bench.top / f"{number}.eml"
        three_names(path)
        await bench.passes()
        assert bench.refused[-1] == path.name
        assert {name for _, name in examiner._linked} == {path.name}
        for name in (path.name, "one", "two"):
            (bench.top / name).unlink()
    await bench.passes()
    assert not examiner._linked and not examiner._seen and not bench.loop.refused


async def test_an_orphan_that_cannot_be_moved_stops_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk keeps it where it is, which is said once, and the messages are taken all the same."""

    def full(*arguments: Any, **keys: Any) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    bench.place("a.env.json", SIDECAR)
    monkeypatch.setattr(bench.queue, "refuse", full)
    await bench.start()
    await bench.passes(ORPHANED)
    await bench.passes(gather.LASTING)
    bench.place("b.eml", MAIL)
    await bench.passes()
    assert (bench.queued, bench.refused) == (["b.eml"], ["a.env.json"])
    assert "pickup/a.env.json" in bench.tree()


def test_the_rules_are_what_is_configured(desk: Desk) -> None:
    """`settle` and `max_message_size` are taken from the rules."""
    desk.examiner.rules = replace(desk.examiner.rules, settle=0.0)
    assert isinstance(desk.look(), Ready)
    desk.examiner.rules = replace(desk.examiner.rules, max_message_size=len(MAIL) - 1)
    assert isinstance(desk.look(), Refused)


# -- folders of producers ----------------------------------------------------------------------------------------


def producers(*named: Producer, **keys: Any) -> Rules:
    return Rules(Reading(named=named), **keys)


async def test_each_producer_has_a_folder_with_rules_of_its_own(bench: Bench) -> None:
    """The block counts where [pickup.NAME] says so, the header elsewhere; both remember whose they are."""
    bench.rules = producers(Producer("erp", "pickup"), Producer("shop"))
    for name in ("erp", "erp/new", "shop", "."):
        (bench.top / name).mkdir(exist_ok=True, parents=True)
        bench.place(f"{name}/a.eml", BLOCK)
    bench.place("shop/plain.eml", MAIL)
    await bench.start()
    said = {(one["producer"], one["rule"]) for one in bench.said["message_queued"]}
    assert said == {("erp", "pickup"), ("shop", "headers"), (None, "headers")}
    bench.queue.set_reading(Reading("pickup"))
    await bench.reopen()
    found = [entry.message for entry in await entries(bench.queue)]
    recipients = {"erp": ("block@example.org",), "shop": ("rcpt@example.org",), "": ("rcpt@example.org",)}
    assert sorted((message.producer, message.file) for message in found) == [
        ("", "a.eml"),
        *[("erp", "a.eml")] * 2,
        ("shop", "a.eml"),
        ("shop", "plain.eml"),
    ]
    for message in found:
        assert message.envelope.recipients == recipients[message.producer]


async def test_events_wake_the_loop_in_every_folder(bench: Bench) -> None:
    """A file in a producer's folder needs no sweep either."""
    bench.clock.wall = time.time() - 1
    bench.rules = producers(Producer("erp"))
    await bench.start()
    bench.place("part", MAIL)
    (bench.top / "part").rename(bench.top / "erp" / "a.eml")
    bench.place("part", MAIL)
    (bench.top / "part").rename(bench.top / "erp" / "new" / "b")
    await until(lambda: sorted(bench.queued) == ["a.eml", "b"])


async def test_a_forbidden_sender_fails_and_the_others_go(bench: Bench) -> None:
    """allowed_senders fences in the folder that it stands for, and no other."""
    bench.rules = producers(Producer("erp", allowed_senders=("@example.org",)))
    await bench.start()
    for path in ("a.eml", "erp/a.eml"):
        bench.place(path, MAIL)
    bench.place("erp/b.eml", MAIL.replace(b"example.com", b"example.org"))
    await bench.passes()
    assert sorted(bench.queued) == ["a.eml", "b.eml"]
    (said,) = bench.said["message_failed"]
    assert said["file"] == "erp/a.eml"
    assert "[pickup.erp] allowed_senders does not allow" in said["response"].text


async def test_a_sidecar_in_a_producers_folder_is_claimed_there(bench: Bench) -> None:
    """Also where the next start has to finish the claim: its record says in which folder it stands."""
    bench.rules = producers(Producer("erp"))
    await bench.start()
    for folder in ("erp", "erp/new"):
        bench.place(f"{folder}/a.env.json", SIDECAR)
        bench.place(f"{folder}/a.eml", MAIL)
    await bench.passes()
    assert bench.queued == ["a.eml", "a.eml"]
    assert not [path for path in bench.tree() if path.startswith("pickup")]
    assert {one["rule"] for one in bench.said["message_queued"]} == {"sidecar"}


async def test_a_folder_that_is_no_longer_configured_is_named_once(bench: Bench) -> None:
    """Its files stay, and whoever took the section away learns it at the start; others' folders say nothing."""
    for name in ("old", "old/new", "empty", "tmp", "x.eml"):
        (bench.top / name).mkdir()
    for name in ("old/a.eml", "old/new/b", "old/note.txt", "tmp/c.eml"):
        bench.place(name, MAIL)
    if ROOT:
        (bench.top / "theirs").mkdir()
        bench.place("theirs/a.eml", MAIL)
        os.chown(bench.top / "theirs", 65534, 65534)
    await bench.start()
    await bench.passes()
    said = [one for one in bench.said["pickup_refused"] if one["file"] != "x.eml"]
    assert [(one["file"], one["reason"]) for one in said] == [
        ("old/", "is not read, as the configuration has no [pickup.old]; files that wait there: 2")
    ]
    assert bench.queued == []
    assert (bench.top / "old/a.eml").exists()


async def test_a_missing_folder_is_said_at_once_and_leaves_nothing_open(bench: Bench) -> None:
    """The loop does not begin with half of its folders."""
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError, match="erp"):
        Pickup(bench.top, bench.queue, producers(Producer("erp")), bench.clock)
    assert len(os.listdir("/proc/self/fd")) == before


# -- names that are never taken ------------------------------------------------------------------------------------


async def test_files_of_other_names_are_spoken_of_once(bench: Bench) -> None:
    """Django's *.log, Swift's *.message: after an hour one line says why nothing happens, and again for the next."""
    for name in ("20260101-120000-1234.log", "b.message", "c.filepart", ".d", "~e"):
        bench.place(name, MAIL)
    bench.clock.wall = time.time() + STRAY - 60
    await bench.start()
    assert bench.refused == []
    await bench.passes(60)
    bench.place("another.log", MAIL)
    await bench.passes(STRAY)
    (said,) = bench.said["pickup_refused"]
    assert said["file"] == "20260101-120000-1234.log"
    assert said["reason"] == "is never taken under this name, like 1 more here"
    assert bench.loop.refused == 1
    for path in bench.top.glob("*.[lm]*"):
        path.unlink()
    await bench.passes()
    assert bench.loop.refused == 0
    bench.place("again.log", MAIL)
    bench.clock.wall = time.time() + STRAY
    await bench.passes()
    assert bench.refused == ["20260101-120000-1234.log", "again.log"]


# -- [guard] producer_rate -----------------------------------------------------------------------------------------


@pytest.mark.skipif(not ROOT, reason="needs files of two owners")
async def test_who_hands_in_too_fast_waits_and_holds_up_nobody_else(bench: Bench) -> None:
    """So many in any minute are taken, in order; the rest stays and is said once; others' files pass by."""
    bench.paces = Paces(Rate(3, 60.0))
    for number in range(8):
        bench.place(f"{number}.eml", MAIL, owner=65534)
        os.utime(bench.top / f"{number}.eml", (number, number))
    bench.place("ours.eml", MAIL)
    await bench.start()
    assert bench.queued == ["0.eml", "1.eml", "2.eml", "ours.eml"]
    (said,) = bench.said["pickup_refused"]
    assert (said["file"], "more than 3/min" in said["reason"]) == ("3.eml", True)
    assert bench.loop.refused == 0
    await bench.passes(59)
    assert len(bench.queued) == 4
    await bench.passes(1)
    assert bench.queued[4:] == ["3.eml", "4.eml", "5.eml"]
    await bench.passes(30)
    await bench.passes(30)
    assert bench.queued[7:] == ["6.eml", "7.eml"]
    assert len(bench.said["pickup_refused"]) == 1
    for number in range(8):
        bench.place(f"b{number}.eml", MAIL, owner=65534)
    await bench.passes(600)
    assert len(bench.said["pickup_refused"]) == 2


async def test_bad_files_count_and_files_that_stay_do_not(bench: Bench) -> None:
    """Whatever leaves the folder has been handed in; what is refused in place uses nobody's rate up."""
    bench.paces = Paces(Rate(2, 60.0))
    os.mkfifo(bench.top / "a.eml")
    for number, data in enumerate((b"", MAIL, MAIL)):
        bench.place(f"{number}.eml", data)
        os.utime(bench.top / f"{number}.eml", (number, number))
    await bench.start()
    assert (bench.failed, bench.queued) == (["0.eml"], ["1.eml"])
    await bench.passes(60)
    assert bench.queued == ["1.eml", "2.eml"]


# -- idempotency keys and results ----------------------------------------------------------------------------------


def keyed(key: str = "order-42") -> bytes:
    return SIDECAR[:-1] + b', "idempotency_key": "%s"}' % key.encode()


async def test_the_same_key_again_is_dropped(bench: Bench) -> None:
    """Within 24 hours, whatever the file is called and also after a restart; both of its files are gone."""
    for name in ("a", "b"):
        bench.place(f"{name}.env.json", keyed())
        bench.place(f"{name}.eml", MAIL)
    await bench.start()
    first = bench.said["message_queued"][0]["queue_id"]
    assert bench.queued == ["a.eml"]
    await bench.end()
    await bench.reopen()
    bench.stop.clear()
    bench.place("new/c.env.json", keyed())
    bench.place("new/c", MAIL)
    await bench.start()
    assert bench.queued == ["a.eml"]
    said = bench.said["message_duplicate"]
    assert [(one["file"], one["queue_id"], one["uid"]) for one in said] == [
        ("b.eml", first, os.getuid()),
        ("c", first, os.getuid()),
    ]
    assert not [path for path in bench.tree() if path.startswith("pickup")]
    bench.clock.wall += 86_401
    bench.place("d.env.json", keyed())
    bench.place("d.eml", MAIL)
    await bench.passes()
    assert bench.queued == ["a.eml", "d.eml"]


async def test_a_key_is_its_owners_and_its_producers(bench: Bench) -> None:
    """Nobody uses up another's keys: the same text from another folder, or by another user, is another key."""
    bench.rules = producers(Producer("erp"))
    await bench.start()
    for name in ("a", "erp/a", *(["new/b"] if ROOT else [])):
        for path, data in ((f"{name}.env.json", keyed()), (f"{name}.eml", MAIL)):
            bench.place(path, data, owner=65534 if name == "new/b" else -1)
    await bench.passes()
    assert len(bench.queued) == 2 + ROOT
    assert "message_duplicate" not in bench.said


async def test_a_key_of_a_file_that_failed_is_not_used_up(bench: Bench) -> None:
    """What was never taken may be handed in again, mended, under the same key."""
    bench.place("a.env.json", keyed())
    bench.place("a.eml", b"")
    await bench.start()
    bench.place("a.env.json", keyed())
    bench.place("a.eml", MAIL)
    await bench.passes()
    assert (bench.failed, bench.queued) == (["a.eml"], ["a.eml"])


async def test_a_result_tells_whose_file_became_what(bench: Bench) -> None:
    """Failed at once and dropped as a duplicate; for what waits, the name is remembered until the end."""
    bench.rules = producers(Producer("erp"), results=True)
    bench.queue.results = Results(bench.directory)
    await bench.start()
    bench.place("erp/bad.eml", b"")
    bench.place("plain.eml", MAIL)
    for name in ("one", "two"):
        bench.place(f"erp/{name}.env.json", keyed())
        bench.place(f"erp/{name}.eml", MAIL)
    await bench.passes()
    results = {path.name: json.loads(path.read_bytes()) for path in (bench.directory / "results").rglob("*.json")}
    assert {name: one["status"] for name, one in results.items()} == {"bad.json": "refused", "two.json": "duplicate"}
    first = next(one["queue_id"] for one in bench.said["message_queued"] if one["file"] == "one.eml")
    assert results["two.json"]["queue_id"] == first
    bench.queue.results = None
    await bench.reopen()
    found = {entry.message.file: entry.message.producer for entry in await entries(bench.queue)}
    assert found == {"plain.eml": "", "one.eml": "erp"}


async def test_a_forbidden_sender_stays_forbidden_when_it_is_tried_again(bench: Bench) -> None:
    """`retry` reads the file anew, under the rules of its folder as they are by then, and never under pickup's."""
    bench.rules = producers(Producer("erp", "pickup", ("@example.org",)))
    bench.queue.set_reading(bench.rules.reading)
    await bench.start()
    bench.place("erp/a.eml", BLOCK)
    await bench.passes()
    (entry,) = await entries(bench.queue, failed=True)
    queue_id = entry.message.queue_id

    async def tried_again(*named: Producer) -> str:
        bench.queue.set_reading(Reading(named=named))
        answers = await bench.queue.change(Verb.RETRY, [queue_id])
        return answers[queue_id]

    erp = bench.rules.reading.named[0]
    assert "[pickup.erp] allowed_senders does not allow" in await tried_again(erp)
    assert "the configuration has no [pickup.erp] any more" in await tried_again()
    assert await tried_again(replace(erp, allowed_senders=("@example.org", "@example.com"))) == ""
    message = await claimed(bench.queue)
    assert (message.rule, message.envelope.recipients) == ("pickup", ("block@example.org",))
