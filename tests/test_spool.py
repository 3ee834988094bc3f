"""The directory behind the queue: the contract, every crash, a failing disk, and a hundred thousand messages."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from mailrelayd import durable, terms
from mailrelayd.config import relaying
from mailrelayd.config.settings import Settings
from mailrelayd.outbound import arrivals, completions, idset, keys, queueid
from mailrelayd.outbound.headers import Header
from mailrelayd.outbound.incoming import DuplicateError
from mailrelayd.outbound.queue import Figures, Place, Verb
from mailrelayd.outbound.record import Claim, Record
from mailrelayd.outbound.results import FOLDER_MODE, Results
from mailrelayd.outbound.spool import Spool
from mailrelayd.outbound.stored import Head, Reader, Reading, head_of, stamp_of
from mailrelayd.outbound.values import Envelope, Past, Progress, QueuedMessage, Status, remembered
from tests.manual_clock import ManualClock
from tests.queue_contract import (
    QueueContract,
    QueueMachine,
    claim,
    claim_all,
    claimed,
    complete,
    defer,
    entries,
    fail,
    outcome,
    until,
)

NODE = "relay1"
KEY = keys.digest(1000, "", "PO-42")


class Crash(BaseException):
    """The process is dead: from here on it does nothing to the disk."""


class Disk:
    """Stands in for the module `os` inside `durable`: counts what changes the disk, and fails where it is told.

    What is not synced is not lost here: a process that dies leaves everything to the kernel.
    """

    def __init__(self) -> None:
        self.disarm()

    def disarm(self) -> None:
        self.steps: list[str] = []
        self._at, self._times = 0, 0
        self._error: Callable[[], BaseException] = Crash
        self.hits = 0

    def arm(self, at: int, error: Callable[[], BaseException] = Crash, *, times: int = 1) -> None:
        """Fail at the `at`-th step from now, and at `times` of them in a row; a crash is for ever."""
        self.disarm()
        self._at, self._error, self._times = at, error, times

    def _step(self, name: str) -> None:
        self.steps.append(name)
        if self._at and len(self.steps) >= self._at and (self._error is Crash or self.hits < self._times):
            self.hits += 1
            raise self._error()

    def open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_CREAT:
            self._step("create")
        return os.open(path, flags, mode, dir_fd=dir_fd)

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in ("write", "pwrite", "rename", "unlink", "fsync", "fdatasync"):
            return real

        def step(*arguments: Any, **keys: Any) -> Any:
            self._step(name)
            if name in ("fsync", "fdatasync"):  # the slow part is left out; a closed descriptor is found all the same
                os.fstat(*arguments)
                return None
            return real(*arguments, **keys)

        return step


@pytest.fixture(autouse=True)
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk()
    monkeypatch.setattr(durable, "os", made)
    monkeypatch.setattr(completions, "LINGER", 0.0)
    monkeypatch.setattr(completions, "PAUSE", 0.0)
    return made


@dataclass
class Reports:
    """What the spool said that nobody asked for."""

    troubles: list[tuple[str, str]] = field(default_factory=list)
    lost: list[tuple[str, str]] = field(default_factory=list)

    def trouble(self, doing: str, error: OSError) -> None:
        self.troubles.append((doing, error.strerror or str(error)))

    def unreadable(self, queue_id: str, reason: str) -> None:
        self.lost.append((queue_id, reason))


class SpoolBench:
    """A spool in a directory, with a pickup folder beside it as the daemon has it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = ManualClock()
        self.report = Reports()
        self.queue: Spool
        self._opened = False
        for name in ("pickup", "pickup/new"):
            (directory / name).mkdir(exist_ok=True)
        self.pickup = durable.Folder(directory / "pickup")
        self._number = 0

    async def reopen(self) -> None:
        await self.end()
        self.queue = Spool(self.directory, node=NODE, clock=self.clock, report=self.report)
        self._opened = True
        await self.queue.open_up()

    async def end(self) -> None:
        """The process is gone: what it has not done by now remains undone."""
        if self._opened:
            self._opened = False
            self.queue._completions._broken = Crash()
            self.queue.close()

    async def removed(self) -> None:
        """Until what was recorded as sent is gone for good. Raises what keeps that from happening."""
        there = self.queue._completions
        await until(lambda: not there._recorded or there._broken)
        if there._broken is not None:
            raise there._broken

    async def close(self) -> None:
        await self.end()
        self.pickup.close()

    async def pausing(self, task: asyncio.Task[None], times: int = 1) -> None:
        """Until the task has ended or waits for the disk, for the `times`-th time."""
        await until(lambda: task.done() or (self.clock.waiting and len(self.clock.pauses) >= times))

    def wake(self) -> None:
        self.queue.wake()

    def strict_order(self) -> None:
        self.queue.strict_order = True

    def drop(self, name: str = "a", body: bytes = b"") -> str:
        """A message in the pickup folder; its name there."""
        self._number += 1
        file = f"{self._number}-{name}.eml"
        text = f"From: sender@example.com\nTo: {name}@example.org\n\n{name}\n".encode()
        (self.directory / "pickup" / file).write_bytes(text + body)
        return file

    def drop_sidecar(self, file: str) -> Claim:
        """A sidecar for it; as the pickup would name it."""
        path = self.directory / "pickup" / (file.removesuffix(".eml") + ".env.json")
        path.write_text('{"mail_from": "", "rcpt_to": ["secret@example.org"]}')
        figures = path.stat()
        return Claim("", path.name, figures.st_ino, figures.st_ctime_ns)

    def take(self, file: str, *, sidecar: Claim | None = None, not_before: float = 0.0, key: str = "") -> str:
        """Claim it as the pickup does; its queue id."""
        name = file.removesuffix(".eml").split("-")[-1]
        recipient = "secret@example.org" if sidecar else f"{name}@example.org"
        queue_id = self.queue.new_id()
        progress = Progress(queueid.arrived_at(queue_id), not_before=not_before)
        size = (self.directory / "pickup" / file).stat().st_size
        rule = "sidecar" if sidecar else "headers"
        message = QueuedMessage(queue_id, Envelope("sender@example.com", (recipient,)), progress, size, rule, key=key)
        self.queue.arrived(message, self.queue.take(self.pickup, file, message, sidecar=sidecar))
        return queue_id

    async def hand_in(self, name: str = "a", *, key: str = "") -> str:
        """Hand it in piece by piece as the socket does; the queue id that is answered."""
        queue_id = self.queue.new_id()
        incoming = self.queue.begin()
        try:
            incoming.write(b"From: sender@example.com\n")
            incoming.write(f"To: somebody else <x@example.org>\n\n{name}\n".encode())
        except OSError:
            incoming.discard()
            raise
        envelope = Envelope("sender@example.com", (f"{name}@example.org",))
        progress = Progress(self.clock.now())
        message = QueuedMessage(queue_id, envelope, progress, 64, "submit", producer="submit", uid=4711, key=key)
        return await self.queue.hand_in(incoming, message)

    async def put(self, name: str = "a", *, not_before: float = 0.0) -> str:
        return self.take(self.drop(name), not_before=not_before)

    def tree(self) -> set[str]:
        """Every file, except the lock and the journal."""
        paths = (path for path in self.directory.rglob("*") if not path.is_dir() or path.is_symlink())
        return {str(path.relative_to(self.directory)) for path in paths} - {"lock", "journal"}


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[SpoolBench]:
    made = SpoolBench(tmp_path)
    await made.reopen()
    yield made
    await made.close()


class TestQueue(QueueContract):
    """The contract, on disk."""


class SpoolMachine(QueueMachine):
    """Random histories, on disk."""

    def make(self) -> SpoolBench:
        self._directory = Path(tempfile.mkdtemp(prefix="mr-queue-"))
        return SpoolBench(self._directory)

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            if hasattr(self, "_directory"):
                shutil.rmtree(self._directory)


TestHistories = SpoolMachine.TestCase
TestHistories.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)

# -- every crash -------------------------------------------------------------------------------------------------


async def nothing(bench: SpoolBench) -> None:
    return None


async def drop(bench: SpoolBench) -> None:
    bench.drop()


async def drop_with_sidecar(bench: SpoolBench) -> None:
    bench.drop_sidecar(bench.drop())


async def put(bench: SpoolBench) -> None:
    await bench.put()


async def put_deferred(bench: SpoolBench) -> None:
    await bench.put()
    await defer(bench.queue, await claimed(bench.queue), bench.clock.now())


async def put_failed(bench: SpoolBench) -> None:
    await bench.put()
    await fail(bench.queue, await claimed(bench.queue))


async def put_with_sidecar(bench: SpoolBench) -> None:
    await take_with_sidecar_after(bench, drop_with_sidecar)


async def take_with_sidecar_after(bench: SpoolBench, before: Callable[[SpoolBench], Coroutine[Any, Any, None]]) -> None:
    await before(bench)
    await take_with_sidecar(bench)


async def take(bench: SpoolBench) -> None:
    bench.take("1-a.eml")


async def take_later(bench: SpoolBench) -> None:
    bench.take("1-a.eml", not_before=bench.clock.now() + 60)


async def take_with_sidecar(bench: SpoolBench) -> None:
    figures = (bench.directory / "pickup" / "1-a.env.json").stat()
    bench.take("1-a.eml", sidecar=Claim("", "1-a.env.json", figures.st_ino, figures.st_ctime_ns))


async def take_with_key(bench: SpoolBench) -> None:
    bench.take("1-a.eml", key=KEY)


async def take_with_key_and_sidecar(bench: SpoolBench) -> None:
    figures = (bench.directory / "pickup" / "1-a.env.json").stat()
    bench.take("1-a.eml", sidecar=Claim("", "1-a.env.json", figures.st_ino, figures.st_ctime_ns), key=KEY)


async def hand_in(bench: SpoolBench) -> None:
    await bench.hand_in()


async def hand_in_with_key(bench: SpoolBench) -> None:
    await bench.hand_in(key=KEY)


async def add(bench: SpoolBench) -> None:
    await bench.queue.add(b"From: x\n\n", Envelope("", ("a@example.org",)), rule="dsn")


async def put_held(bench: SpoolBench) -> None:
    await put_deferred(bench)
    await verb(Verb.HOLD)(bench)


async def refuse(bench: SpoolBench) -> None:
    bench.queue.refuse(bench.pickup, "1-a.eml", detail="nobody can read it")


async def refuse_with_sidecar(bench: SpoolBench) -> None:
    figures = (bench.directory / "pickup" / "1-a.env.json").stat()
    claim = Claim("", "1-a.env.json", figures.st_ino, figures.st_ctime_ns)
    bench.queue.refuse(bench.pickup, "1-a.eml", detail="nobody can read it", sidecar=claim)


async def refuse_orphan(bench: SpoolBench) -> None:
    bench.queue.refuse(bench.pickup, "1-a.env.json", detail="alone", orphan=True)


async def do_complete(bench: SpoolBench) -> None:
    await complete(bench.queue, await claimed(bench.queue))
    await bench.removed()


async def do_complete_kept(bench: SpoolBench) -> None:
    bench.queue.keep_sent = 60
    await complete(bench.queue, await claimed(bench.queue))


async def do_defer(bench: SpoolBench) -> None:
    await defer(bench.queue, await claimed(bench.queue), bench.clock.now())


async def do_fail(bench: SpoolBench) -> None:
    await fail(bench.queue, await claimed(bench.queue))


async def do_bring_back(bench: SpoolBench) -> None:
    (entry,) = await entries(bench.queue, failed=True)
    assert await bench.queue.bring_back(entry.message.queue_id, outcome(entry.message, Status.DEFERRED, 1.0))


def verb(which: Verb, *, failed: bool = False) -> Callable[[SpoolBench], Coroutine[Any, Any, None]]:
    async def change(bench: SpoolBench) -> None:
        (entry,) = await entries(bench.queue, failed=failed)
        (answer,) = (await bench.queue.change(which, [entry.message.queue_id])).values()
        if answer:
            raise OSError(answer)

    return change


@dataclass(frozen=True)
class Operation:
    """What stands there before, what is done, and where the message is before and after: see `standing`."""

    before: Callable[[SpoolBench], Coroutine[Any, Any, None]]
    act: Callable[[SpoolBench], Coroutine[Any, Any, None]]
    was: str
    becomes: str
    settles: bool = False  # repeated until it works


OPERATIONS = {
    "claim": Operation(drop, take, "pickup", "queue a 0"),
    "claim for later": Operation(drop, take_later, "pickup", "queue a 0"),
    "claim with sidecar": Operation(drop_with_sidecar, take_with_sidecar, "pickup + sidecar", "queue secret 0"),
    "claim with key": Operation(drop, take_with_key, "pickup", "queue a 0"),
    "claim with key and sidecar": Operation(
        drop_with_sidecar, take_with_key_and_sidecar, "pickup + sidecar", "queue secret 0"
    ),
    "hand in": Operation(nothing, hand_in, "gone", "queue a 0"),
    "hand in with key": Operation(nothing, hand_in_with_key, "gone", "queue a 0"),
    "add": Operation(nothing, add, "gone", "queue a 0", settles=True),
    "refuse": Operation(drop, refuse, "pickup", "failed unreadable"),
    "refuse with sidecar": Operation(
        drop_with_sidecar, refuse_with_sidecar, "pickup + sidecar", "failed unreadable + sidecar"
    ),
    "refuse an orphan": Operation(drop_with_sidecar, refuse_orphan, "pickup + sidecar", "pickup + failed sidecar"),
    "complete": Operation(put, do_complete, "queue a 0", "gone", settles=True),
    "complete with record": Operation(put_deferred, do_complete, "queue a 1", "gone", settles=True),
    "complete with sidecar's record": Operation(put_with_sidecar, do_complete, "queue secret 0", "gone", settles=True),
    "complete and keep": Operation(put, do_complete_kept, "queue a 0", "sent", settles=True),
    "complete with record and keep": Operation(put_deferred, do_complete_kept, "queue a 1", "sent", settles=True),
    "defer": Operation(put, do_defer, "queue a 0", "queue a 1", settles=True),
    "defer again": Operation(put_deferred, do_defer, "queue a 1", "queue a 2", settles=True),
    "fail": Operation(put, do_fail, "queue a 0", "failed a 1", settles=True),
    "fail with record": Operation(put_deferred, do_fail, "queue a 1", "failed a 2", settles=True),
    "bring back": Operation(put_failed, do_bring_back, "failed a 1", "queue a 2", settles=True),
    "retry": Operation(put_failed, verb(Verb.RETRY, failed=True), "failed a 1", "queue a 0"),
    "retry a deferred one": Operation(put_deferred, verb(Verb.RETRY), "queue a 1", "queue a 1"),
    "release": Operation(put_held, verb(Verb.RELEASE), "hold a 1", "queue a 1"),
    "give up": Operation(put, verb(Verb.FAIL), "queue a 0", "failed a 0"),
    "give up a deferred one": Operation(put_deferred, verb(Verb.FAIL), "queue a 1", "failed a 1"),
    "give up one on hold": Operation(put_held, verb(Verb.FAIL), "hold a 1", "failed a 1"),
    "delete": Operation(put_deferred, verb(Verb.DELETE), "queue a 1", "gone"),
    "delete a failed one": Operation(put_failed, verb(Verb.DELETE, failed=True), "failed a 1", "gone"),
    "hold": Operation(put, verb(Verb.HOLD), "queue a 0", "hold a 0"),
    "hold a deferred one": Operation(put_deferred, verb(Verb.HOLD), "queue a 1", "hold a 1"),
}


async def standing(bench: SpoolBench) -> str:
    """Where the one message stands, for whom and after how many tries; fails where anything is lost or left over."""
    tree = bench.tree()
    messages = {path.split("/")[0] for path in tree if path.endswith(".eml")}
    keyed = [entry.message.queue_id for entry in await entries(bench.queue) if entry.message.key == KEY]
    assert bench.queue.seen(KEY) == (keyed[0] if keyed else None), "a key stands for a message that was taken"
    assert len([path for path in tree if path.endswith(".eml")]) <= 1, tree
    assert not [path for path in tree if durable.TEMPORARY in path], tree
    for path in tree:
        if path.endswith(".json") and not path.startswith("pickup") and not path.endswith(".env.json"):
            stem = path.removesuffix(".json")
            assert {f"{stem}.eml", f"{stem}.env.json"} & tree, tree
    sidecars = sorted(path.split("/")[0] for path in tree if path.endswith(".env.json"))
    if messages & {"queue", "failed"}:
        (entry,) = [*await entries(bench.queue), *await entries(bench.queue, failed=True)]
        tries = max((one.attempts for one in entry.message.progress.recipients.values()), default=0)
        if entry.reason == "nobody can read it":
            assert sidecars in ([], ["failed"])
            return "failed unreadable" + (" + sidecar" if sidecars else "")
        assert sidecars == []
        (recipient,) = entry.message.envelope.recipients
        place = {Place.FAILED: "failed", Place.HOLD: "hold"}.get(entry.place, "queue")
        return f"{place} {recipient.split('@')[0]} {tries}"
    where = messages.pop() if messages else "gone"
    return where + {"pickup": " + sidecar", "failed": " + failed sidecar", "": ""}["".join(sidecars)]


@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_crash_at_any_step_leaves_the_message_in_one_place(tmp_path: Path, disk: Disk, name: str) -> None:
    """Killed at each step, and killed again at each step of the repair: before or after, never neither or both."""
    operation = OPERATIONS[name]
    seen: list[str] = []
    step, done = 0, False
    while not done:
        step += 1
        repair_step, repaired = 0, False
        while not repaired:
            directory = tmp_path / f"{step}-{repair_step}"
            directory.mkdir()
            disk.disarm()
            bench = SpoolBench(directory)
            await bench.reopen()
            await operation.before(bench)
            disk.arm(step)
            done = True
            try:
                await operation.act(bench)
            except Crash:
                done = False
            disk.arm(repair_step)
            try:
                await bench.reopen()
            except Crash:
                disk.disarm()
                await bench.reopen()
                repair_step += 1
            else:
                repaired = repair_step > 0 or not disk.steps
                repair_step += 1
                disk.disarm()
            seen.append(await standing(bench))
            await bench.close()
    assert seen[0] == operation.was
    assert seen[-1] == operation.becomes
    assert sorted(seen, key=[operation.was, operation.becomes].index) == seen, "from before to after, and never back"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("name", [name for name, operation in OPERATIONS.items() if operation.settles])
async def test_settling_is_repeated_until_it_is_on_disk(tmp_path: Path, disk: Disk, name: str, code: int) -> None:
    """A disk that fails at any step is waited for, loudly; then it is as if it never had, in memory and on disk."""
    operation = OPERATIONS[name]
    step, failed_once = 0, True
    while failed_once:
        step += 1
        directory = tmp_path / str(step)
        directory.mkdir()
        bench = SpoolBench(directory)
        await bench.reopen()
        await operation.before(bench)
        disk.arm(step, lambda: OSError(code, os.strerror(code)))
        task = asyncio.create_task(operation.act(bench))
        await bench.pausing(task)
        bench.clock.advance(1)
        await task
        failed_once = disk.hits > 0
        assert len(bench.report.troubles) == failed_once
        disk.disarm()
        due = operation.becomes.startswith("queue")
        assert bench.queue.figures().waiting == due
        assert bench.queue.figures().in_flight == 0
        assert await standing(bench) == operation.becomes
        await bench.reopen()
        assert await standing(bench) == operation.becomes
        assert bench.queue.figures().waiting == due
        await bench.close()


@pytest.mark.parametrize("name", [name for name, operation in OPERATIONS.items() if not operation.settles])
async def test_what_is_not_repeated_is_done_or_refused(tmp_path: Path, disk: Disk, name: str) -> None:
    """With an error at any step the message stands in one place, which memory knows, and nothing is left over."""
    operation = OPERATIONS[name]
    step, failed_once = 0, True
    while failed_once:
        step += 1
        directory = tmp_path / str(step)
        directory.mkdir()
        bench = SpoolBench(directory)
        await bench.reopen()
        await operation.before(bench)
        before, raised = bench.tree(), False
        disk.arm(step, lambda: OSError(errno.EIO, "Input/output error"))
        try:
            await operation.act(bench)
        except OSError:
            raised = True
        failed_once = disk.hits > 0
        disk.disarm()
        waiting = bench.queue.figures().waiting
        taken = name.startswith(("claim", "refuse", "hand in"))
        if taken and raised:
            assert bench.tree() == before
        await bench.reopen()
        state = await standing(bench)
        assert state in (
            [operation.was]
            if taken and raised
            else [operation.becomes]
            if taken
            else [operation.was, operation.becomes]
        )
        assert waiting == bench.queue.figures().waiting or "delete" in name
        await bench.close()


async def test_a_disk_that_stays_full_is_asked_ever_more_rarely(bench: SpoolBench, disk: Disk) -> None:
    """The pauses grow to half a minute, each try is reported, and nothing false is on disk meanwhile."""
    await bench.put()
    message = await claimed(bench.queue)
    disk.arm(1, lambda: OSError(errno.ENOSPC, "No space left on device"), times=8)
    task = asyncio.create_task(defer(bench.queue, message, bench.clock.now()))
    for number in range(8):
        await bench.pausing(task, number + 1)
        assert len(bench.report.troubles) == number + 1
        assert not [path for path in bench.tree() if path.endswith(".json")]
        assert bench.queue.figures().in_flight == 1
        bench.clock.advance(bench.clock.pauses[-1])
    await task
    assert bench.clock.pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    assert bench.report.troubles == [("defer", "No space left on device")] * 8


async def test_an_unsynced_removal_is_synced_by_the_next_try(bench: SpoolBench, disk: Disk) -> None:
    """Where the removal worked and its fsync did not, the fsync is asked for again before anyone believes it."""
    await bench.put()
    message = await claimed(bench.queue)
    disk.arm(5, lambda: OSError(errno.EIO, "Input/output error"))
    await complete(bench.queue, message)
    await bench.removed()
    assert disk.steps[:3] == ["fsync", "pwrite", "fdatasync"]
    assert disk.steps[3:7] == ["unlink", "fsync", "unlink", "fsync"]
    assert bench.report.troubles == [("remove", "Input/output error")]


async def test_a_claim_that_could_not_be_synced_is_not_forgotten(bench: SpoolBench, disk: Disk) -> None:
    """The pickup folder is synced before anything that depends on the claim, and again where that failed."""
    await bench.put()
    message = await claimed(bench.queue)
    disk.arm(1, lambda: OSError(errno.EIO, "Input/output error"), times=3)
    task = asyncio.create_task(complete(bench.queue, message))
    for number in range(3):
        await bench.pausing(task, number + 1)
        bench.clock.advance(30)
    await task
    assert disk.steps[:6] == ["fsync"] * 4 + ["pwrite", "fdatasync"]


@pytest.mark.parametrize("removed", [False, True])
async def test_a_reload_may_close_the_pickup_folder(bench: SpoolBench, removed: bool) -> None:
    """A claim is synced though the pickup that made it is gone, without trouble."""
    await bench.put()
    message = await claimed(bench.queue)
    bench.pickup.close()
    if removed:
        shutil.rmtree(bench.directory / "pickup")
    await complete(bench.queue, message)
    assert bench.report.troubles == []


async def test_a_cancelled_caller_does_not_stop_the_write(bench: SpoolBench) -> None:
    """Whoever no longer waits for a deferral finds it on disk all the same."""
    queue_id = await bench.put()
    task = asyncio.create_task(defer(bench.queue, await claimed(bench.queue), bench.clock.now() + 60))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    await bench.reopen()
    entry = await bench.queue.find(queue_id)
    assert entry is not None
    assert entry.place is Place.DEFERRED


async def test_a_cancelled_look_at_a_message_gives_it_back(bench: SpoolBench, disk: Disk) -> None:
    """A consumer that ends while an unreadable message waits for the full disk leaves it to the next one."""
    queue_id = await bench.put()
    (bench.directory / "queue" / f"{queue_id}.eml").write_bytes(b"\0")
    disk.arm(1, lambda: OSError(errno.ENOSPC, "No space left on device"))
    task = asyncio.create_task(claim(bench.queue))
    await until(lambda: bench.clock.waiting)
    task.cancel()
    await asyncio.wait([task])
    assert bench.queue.figures().due == 1
    assert await claim(bench.queue) is None
    assert [one for one, _ in bench.report.lost] == [queue_id]


def known(queue: Spool) -> set[str]:
    """Every queue id that memory holds."""
    parts = (
        queue,
        queue._waiting,
        queue._openings,
        queue._files,
        queue._files.arrivals,
        queue._moves,
        queue._completions,
    )
    held = [value for part in parts for value in vars(part).values() if isinstance(value, dict | set | list)]
    ids = {one for some in held for one in some if isinstance(one, str) and queueid.valid(one)}
    return ids | {idset.of(line.first(), node) for node, line in queue._waiting._lines.items() if len(line)}


@pytest.mark.parametrize("end", ["sent", "failed", "unreadable", "removed by hand"])
async def test_what_has_left_the_queue_is_forgotten(bench: SpoolBench, end: str) -> None:
    """Whatever became of it, memory holds nothing of a message that is gone: it may run for years."""
    queue_id = await bench.put(not_before=bench.clock.now() + 60)
    bench.queue._files.may_be_written_to(queue_id, (1, 2, 3))  # its producer may still hold it open
    assert known(bench.queue) == {queue_id}
    bench.clock.advance(60)
    path = bench.directory / "queue" / f"{queue_id}.eml"
    if end == "unreadable":
        (bench.directory / "queue" / f"{queue_id}.json").unlink()
        path.write_bytes(b"\0")
        assert await claim(bench.queue) is None
    elif end == "removed by hand":
        path.unlink()
        assert await claim(bench.queue) is None
    else:
        message = await claimed(bench.queue)
        await (complete(bench.queue, message) if end == "sent" else bench.queue.fail(message, message.progress, "x"))
        await bench.removed()
    bench.queue.figures()  # what is left behind on the way goes when it comes first
    assert known(bench.queue) == set()


# -- ids ---------------------------------------------------------------------------------------------------------


async def test_an_id_is_not_used_before_its_reserve_is_on_disk(bench: SpoolBench, disk: Disk) -> None:
    """Where the reserve cannot be written no id is given out, however often it is asked for."""
    disk.arm(1, lambda: OSError(errno.EIO, "Input/output error"), times=3)
    for _ in range(3):
        with pytest.raises(OSError, match="Input/output"):
            bench.queue.new_id()
    assert queueid.valid(bench.queue.new_id())


@pytest.mark.parametrize("back", [0.0, 60.0, 1e6])
async def test_ids_go_on_after_a_restart_with_the_clock_set_back(bench: SpoolBench, back: float) -> None:
    """No id is ever given out twice, even though nothing of the messages before is left."""
    used = []
    for _ in range(3):
        bench.clock.advance(7)
        used.append(await bench.put())
        await complete(bench.queue, await claimed(bench.queue))
    bench.clock.wall -= back
    await bench.reopen()
    assert bench.queue.new_id() > max(used)


async def test_a_wrong_date_for_a_moment_does_not_last(bench: SpoolBench) -> None:
    """Ids never go back, so they stay ahead; when a message arrived is told by its claim, not by its id."""
    right = bench.clock.wall = time.time()
    bench.clock.wall = right + 10 * 365 * 86400
    ahead = await bench.put("a")
    bench.clock.wall = right
    behind = await bench.put("b")
    assert behind > ahead
    await claimed(bench.queue)
    message = await claimed(bench.queue)
    assert message.progress.arrived_at == pytest.approx(right, abs=60)
    assert bench.queue.figures().oldest == pytest.approx(right, abs=60)


async def test_a_passing_trouble_with_a_file_is_over_by_itself(
    bench: SpoolBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many open files, a disk that hiccups: the message is looked at again, without anybody's help."""
    queue_id = await bench.put("a")
    right, errors = Reader.record, [OSError(errno.EMFILE, "Too many open files")]

    def record(self: Reader, wanted: str, *, failed: bool = False) -> Record | None:
        if errors:
            raise errors.pop()
        return right(self, wanted, failed=failed)

    monkeypatch.setattr(Reader, "record", record)
    assert await claim(bench.queue) is None
    assert bench.queue.figures().held == 0
    bench.clock.advance(30)
    assert (await claimed(bench.queue)).queue_id == queue_id


async def test_ids_stay_above_those_that_are_there(bench: SpoolBench) -> None:
    """A lock file that was lost does not make ids come again that stand in the folders."""
    bench.clock.advance(1000)
    queue_id = await bench.put()
    await bench.end()
    (bench.directory / "lock").write_bytes(b"rubbish")
    bench.clock.wall -= 2000
    await bench.reopen()
    assert bench.queue.new_id() > queue_id


async def test_a_second_process_is_locked_out(bench: SpoolBench) -> None:
    """Two daemons on one spool would send everything twice."""
    with pytest.raises(durable.LockedError):
        Spool(bench.directory, node=NODE, clock=bench.clock, report=bench.report)


# -- records and files that are not as they should be ------------------------------------------------------------

UNUSABLE = {
    "newer": b'{"format": 2}',
    "damaged": b'{"format": 1, "rev',
    "empty": b"",
}


@pytest.mark.parametrize("data", UNUSABLE.values(), ids=UNUSABLE.keys())
@pytest.mark.parametrize("running", [False, True])
async def test_an_unusable_record_keeps_its_message_untried(bench: SpoolBench, data: bytes, running: bool) -> None:
    """It is kept, not tried and not guessed, that is said, and the others go on."""
    bad, good = await bench.put("a"), await bench.put("b")
    path = bench.directory / "queue" / f"{bad}.json"
    path.write_bytes(data)
    if not running:
        await bench.reopen()
    assert await claim_all(bench.queue) == [good]
    assert [doing for doing, _ in bench.report.troubles] == [f"read {bad}"]
    entry = await bench.queue.find(bad)
    assert entry is not None
    assert entry.place is Place.HOLD
    assert "record" in entry.reason
    assert "record" in (await bench.queue.change(Verb.RETRY, [bad]))[bad]
    assert path.read_bytes() == data
    path.unlink()
    assert await bench.queue.change(Verb.RETRY, [bad]) == {bad: ""}
    assert await claim_all(bench.queue) == [bad]


@pytest.mark.parametrize("ending", [".eml", ".json"])
@pytest.mark.parametrize("kind", ["folder", "link", "fifo"])
async def test_what_is_no_file_stops_nothing(bench: SpoolBench, ending: str, kind: str) -> None:
    """A folder, link or FIFO in the place of a queued file is kept and listed, and the others go on."""
    bad, good = await bench.put("a"), await bench.put("b")
    path = bench.directory / "queue" / f"{bad}{ending}"
    path.unlink(missing_ok=True)
    match kind:
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to("/etc/passwd")
        case _:
            os.mkfifo(path)
    await bench.reopen()
    assert await claim_all(bench.queue) == [good]
    found = {entry.message.queue_id: entry.place for entry in await entries(bench.queue)}
    assert found == {bad: Place.HOLD, good: Place.ACTIVE}


FOREIGN = ["README", "x.eml", "x.json", "lost+found", ".hidden", "core", "A" * 16 + ".eml"]


async def test_foreign_files_are_ignored(bench: SpoolBench) -> None:
    """What the daemon did not put into its folders is neither read nor touched, and not counted."""
    queue_id = await bench.put()
    foreign = [*FOREIGN, f"{queue_id}.bak", f"{queue_id}.eml~", f"{queue_id}.eml.orig", queue_id]
    for folder in ("queue", "failed", "sent"):
        for name in foreign:
            (bench.directory / folder / name).write_text("foreign")
    await bench.reopen()
    assert await claim_all(bench.queue) == [queue_id]
    assert await entries(bench.queue, failed=True) == []
    assert bench.queue.figures().waiting == 1
    for folder in ("queue", "failed", "sent"):
        assert {path.name for path in (bench.directory / folder).iterdir()} >= set(foreign)


async def test_a_queued_file_that_cannot_be_read_fails(bench: SpoolBench) -> None:
    """A message whose header no longer tells an envelope goes to failed/ with the reason, once."""
    queue_id = await bench.put()
    (bench.directory / "queue" / f"{queue_id}.eml").write_bytes(b"Subject: nobody\n\n")
    assert await claim(bench.queue) is None
    assert [one for one, _ in bench.report.lost] == [queue_id]
    (entry,) = await entries(bench.queue, failed=True)
    assert entry.reason == bench.report.lost[0][1] != ""
    answer = (await bench.queue.change(Verb.RETRY, [queue_id]))[queue_id]
    assert answer.startswith("still cannot be sent")


async def test_a_message_removed_by_hand_is_forgotten(bench: SpoolBench) -> None:
    """Whoever deletes a file from queue/ gets what they wanted, without trouble."""
    queue_id = await bench.put()
    (bench.directory / "queue" / f"{queue_id}.eml").unlink()
    assert await claim(bench.queue) is None
    assert bench.queue.figures().waiting == 0
    assert bench.report == Reports()


async def test_a_failed_message_without_record_is_not_stuck(bench: SpoolBench) -> None:
    """failed/ID.eml alone, its record deleted by hand, can be retried and deleted like any other."""
    ids = [await bench.put(name) for name in "ab"]
    for queue_id in ids:
        await fail(bench.queue, await claimed(bench.queue))
        (bench.directory / "failed" / f"{queue_id}.json").unlink()
    await bench.reopen()
    assert await bench.queue.change(Verb.RETRY, ids[:1]) == {ids[0]: ""}
    assert await bench.queue.change(Verb.DELETE, ids[1:]) == {ids[1]: ""}
    assert await claim_all(bench.queue) == ids[:1]
    assert await entries(bench.queue, failed=True) == []


async def test_an_operator_is_told_that_the_disk_is_full(bench: SpoolBench, disk: Disk) -> None:
    """A verb that cannot be carried out says why, for its id alone, and changes nothing."""
    waiting, failed = await bench.put("a"), await bench.put("b")
    message = await claimed(bench.queue)
    await fail(bench.queue, await claimed(bench.queue))
    bench.queue.release(message)
    for which, queue_id in ((Verb.HOLD, waiting), (Verb.RETRY, failed)):
        disk.arm(1, lambda: OSError(errno.ENOSPC, "No space left on device"))
        assert "No space left" in (await bench.queue.change(which, [queue_id]))[queue_id]
    disk.disarm()
    await bench.reopen()
    assert await claim_all(bench.queue) == [waiting]
    assert [entry.message.queue_id for entry in await entries(bench.queue, failed=True)] == [failed]


@pytest.mark.parametrize("which", [Verb.HOLD, Verb.FAIL])
async def test_trouble_with_one_of_many_stops_no_other(bench: SpoolBench, disk: Disk, which: Verb) -> None:
    """In one batch the id whose record cannot be written has the reason, and stays; the others are changed."""
    ids = [await bench.put(name) for name in "abc"]
    await bench.queue.sync_claims()
    disk.arm(3, lambda: OSError(errno.EIO, "Input/output error"))  # create, write; create
    answers = await bench.queue.change(which, ids)
    assert disk.steps[:4] == ["create", "write", "create", "create"]
    assert "Input/output" in answers.pop(ids[1])
    assert answers == {ids[0]: "", ids[2]: ""}
    assert await claim_all(bench.queue) == [ids[1]]
    await bench.reopen()
    assert await claim_all(bench.queue) == [ids[1]]


async def test_offline_a_verb_needs_no_running_loop(bench: SpoolBench) -> None:
    """The command line opens the spool, changes it in a loop of its own, and closes it."""
    queue_id = await bench.put()
    await bench.end()

    def offline() -> dict[str, str]:
        spool = Spool(bench.directory, node=NODE, clock=bench.clock, report=bench.report)
        try:
            asyncio.run(spool.open_up())
            return asyncio.run(spool.change(Verb.HOLD, [queue_id], "root"))
        finally:
            spool.close()

    assert await asyncio.to_thread(offline) == {queue_id: ""}
    await bench.reopen()
    entry = await bench.queue.find(queue_id)
    assert entry is not None
    assert entry.place is Place.HOLD
    assert entry.message.progress.history[-1].text == "root"


async def test_strict_order_waits_for_what_is_being_changed(bench: SpoolBench) -> None:
    """Nothing overtakes an older message that an operator's verb holds in its hands."""
    bench.strict_order()
    ids = [await bench.put(name) for name in "ab"]
    change = asyncio.create_task(bench.queue.change(Verb.HOLD, ids[:1]))
    await asyncio.sleep(0)
    assert await claim(bench.queue) is None
    assert bench.queue.figures().waiting == 2
    await change
    assert await claim_all(bench.queue) == ids[1:]


# -- handing in --------------------------------------------------------------------------------------------------


async def test_what_is_handed_in_is_due_with_its_own_envelope(bench: SpoolBench) -> None:
    """Who it is for was said, and is not read from the header; who handed it in is remembered."""
    queue_id = await bench.hand_in("boss")
    for _ in range(2):
        message = await claimed(bench.queue)
        assert (message.queue_id, message.rule, message.producer, message.uid) == (queue_id, "submit", "submit", 4711)
        assert message.envelope == Envelope("sender@example.com", ("boss@example.org",))
        (past,) = message.progress.history
        assert (past.event, past.text) == ("queued", "submit, uid 4711, envelope: submit")
        await bench.reopen()
    assert bench.tree() == {f"queue/{queue_id}.eml", f"queue/{queue_id}.json"}


@pytest.mark.parametrize("restart", [False, True])
async def test_the_same_key_is_the_same_message(bench: SpoolBench, restart: bool) -> None:
    """A second one with the key of the first is answered with the first's id and leaves nothing behind."""
    first = await bench.hand_in("a", key=KEY)
    if restart:
        await bench.reopen()
    assert await bench.hand_in("b", key=KEY) == first
    assert await bench.hand_in("c", key=keys.digest(1000, "", "PO-43")) != first
    file = bench.drop("d")
    with pytest.raises(DuplicateError) as caught:
        bench.take(file, key=KEY)
    assert caught.value.queue_id == first
    bench.queue.drop(bench.pickup, file, None, queue_id=first)
    assert len([path for path in bench.tree() if not path.startswith("keys/")]) == 4
    assert len(await claim_all(bench.queue)) == 2
    bench.clock.advance(86400)
    assert await bench.hand_in("e", key=KEY) != first


async def test_of_many_at_once_with_one_key_one_is_taken(bench: SpoolBench) -> None:
    """Nor is there a moment between the question and the taking, not even for the pickup's thread."""
    file = bench.drop("p")

    def pickup() -> str:
        queue_id = bench.queue.new_id()
        envelope = Envelope("", ("p@example.org",))
        message = QueuedMessage(queue_id, envelope, Progress(bench.clock.now()), key=KEY)
        try:
            bench.queue.take(bench.pickup, file, message)
        except DuplicateError as error:
            return error.queue_id
        return queue_id

    answers = await asyncio.gather(
        *(bench.hand_in(f"m{number}", key=KEY) for number in range(10)), asyncio.to_thread(pickup)
    )
    assert len(set(answers)) == 1
    assert len([path for path in bench.tree() if path.startswith("queue/") and path.endswith(".eml")]) == 1


WRITTEN = ["create", "write", "fsync", "rename", "fsync"]  # a small file, all or nothing, and its name


async def test_a_key_is_written_when_its_message_is_here_for_good(bench: SpoolBench, disk: Disk) -> None:
    """Earlier, a power cut would leave a key whose message is gone: handed in again, it would be lost."""
    file = bench.drop()
    bench.queue.new_id()
    disk.disarm()
    await bench.hand_in(key=KEY)
    assert disk.steps == ["create", "write", "write", "fsync", *WRITTEN, "rename", "fsync", *WRITTEN]
    disk.disarm()
    bench.take(file, key=keys.digest(1000, "", "PO-43"))
    assert disk.steps == [*WRITTEN, "rename", "fsync", "fsync", *WRITTEN]


@contextmanager
def disk_is_busy(bench: SpoolBench) -> Iterator[None]:
    """The disk's thread has something else to do."""
    gate = threading.Event()
    bench.queue._disk.submit(gate.wait)
    try:
        yield
    finally:
        gate.set()


async def lined_up(bench: SpoolBench, count: int) -> None:
    """Until so many wait to be placed."""
    await until(lambda: len(bench.queue._entrance._line) == count)


async def test_those_that_have_lined_up_share_the_syncs(bench: SpoolBench, disk: Disk) -> None:
    """However many there are, the folder is synced once for their records and once for them."""
    bench.queue.new_id()
    with disk_is_busy(bench):
        tasks = [asyncio.create_task(bench.hand_in(f"m{number}")) for number in range(10)]
        await lined_up(bench, len(tasks))
        disk.disarm()
    ids = await asyncio.gather(*tasks)
    assert disk.steps.count("fsync") == 10 + 2
    assert bench.tree() == {f"queue/{queue_id}{ending}" for queue_id in ids for ending in (".eml", ".json")}
    assert await claim_all(bench.queue) == sorted(ids)


async def test_of_those_that_have_lined_up_the_second_with_a_key_hears_of_the_first(
    bench: SpoolBench, disk: Disk
) -> None:
    """The id that it is told is one that was taken: had the first failed, it would have been the second's turn."""
    bench.queue.new_id()
    for failing in (False, True):
        key = keys.digest(1000, "", str(failing))
        with disk_is_busy(bench):
            tasks = [asyncio.create_task(bench.hand_in(name, key=key)) for name in "ab"]
            await lined_up(bench, len(tasks))
            disk.arm(1 if failing else 0, lambda: OSError(errno.EIO, "Input/output error"))
        first, second = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(first, OSError) if failing else first == second
        assert bench.queue.seen(key) == second
        assert await claim_all(bench.queue) == [second]
        assert not [path for path in bench.tree() if durable.TEMPORARY in path]


async def test_a_duplicate_changes_nothing_on_disk(bench: SpoolBench, disk: Disk) -> None:
    """But for its own bytes, which are thrown away."""
    first = await bench.hand_in(key=KEY)
    disk.disarm()
    assert await bench.hand_in(key=KEY) == first
    assert disk.steps == ["create", "write", "write", "fsync", "unlink"]


async def test_one_that_cannot_be_handed_in_stops_no_other(bench: SpoolBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that are placed together each has its own answer."""
    right = durable.Folder.move

    def move(folder: durable.Folder, name: str, target: durable.Folder, new_name: str, *, sync: bool = True) -> None:
        if new_name == bad:
            raise OSError(errno.EIO, "Input/output error")
        right(folder, name, target, new_name, sync=sync)

    monkeypatch.setattr(durable.Folder, "move", move)
    with disk_is_busy(bench):
        tasks = [asyncio.create_task(bench.hand_in(name)) for name in "abc"]
        await lined_up(bench, len(tasks))
        bad = bench.queue._entrance._line[1].message.queue_id + ".eml"
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(one, OSError) for one in answers) == 1
    taken = sorted(one for one in answers if isinstance(one, str))
    assert await claim_all(bench.queue) == taken
    assert bench.tree() == {f"queue/{queue_id}{ending}" for queue_id in taken for ending in (".eml", ".json")}


async def test_a_crash_while_several_are_placed_leaves_whole_messages(tmp_path: Path, disk: Disk) -> None:
    """Killed at each step: who was answered is there, and of the others there is a whole message or nothing."""
    step, crashed = 0, True
    while crashed:
        step += 1
        directory = tmp_path / str(step)
        directory.mkdir()
        disk.disarm()
        bench = SpoolBench(directory)
        await bench.reopen()
        bench.queue.new_id()
        with disk_is_busy(bench):
            tasks = [asyncio.create_task(bench.hand_in(name, key=keys.digest(1, "", name))) for name in "abc"]
            await lined_up(bench, len(tasks))
            disk.arm(step)
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        crashed = disk.hits > 0
        assert crashed or step > 15
        assert all(isinstance(one, str | Crash) for one in answers)
        disk.disarm()
        await bench.reopen()
        for entry in await entries(bench.queue):
            message = entry.message
            assert (message.rule, bench.queue.seen(message.key)) == ("submit", message.queue_id)
        queued = await claim_all(bench.queue)
        assert {one for one in answers if isinstance(one, str)} <= set(queued)
        assert {path for path in bench.tree() if path.startswith("queue/")} == {
            f"queue/{queue_id}{ending}" for queue_id in queued for ending in (".eml", ".json")
        }
        await bench.close()


async def test_an_interrupted_caller_has_handed_in_all_the_same(bench: SpoolBench) -> None:
    """The message is known at once, not only after the next start; the key tells whoever asks again."""
    task = asyncio.create_task(bench.hand_in(key=KEY))
    await until(lambda: any("eml" in path or "json" in path for path in bench.tree()))
    task.cancel()
    await asyncio.wait([task])
    await bench.queue.sync_claims()
    assert [bench.queue.seen(KEY)] == await claim_all(bench.queue)


async def test_what_is_not_handed_in_leaves_nothing(bench: SpoolBench) -> None:
    """Thrown away at once, or by the next start where nobody could; twice is once."""
    given_up, forgotten = bench.queue.begin(), bench.queue.begin()
    for incoming in (given_up, forgotten):
        incoming.write(b"From:")
    given_up.discard()
    given_up.discard()
    assert bench.tree() == {f"queue/{forgotten.name}"}
    await bench.reopen()
    assert bench.tree() == set()
    forgotten.close()
    assert bench.queue.figures().waiting == 0


async def test_a_claim_that_cannot_be_looked_at_stands(bench: SpoolBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is ours already: said otherwise, nobody would know of it before the next start."""

    def unseen(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    file = bench.drop()
    with monkeypatch.context() as patches:
        patches.setattr(durable.Folder, "stat", unseen)
        queue_id = bench.take(file)
    assert await claim_all(bench.queue) == [queue_id]


async def test_ids_may_be_asked_for_in_any_thread(bench: SpoolBench) -> None:
    """The pickup, the socket and the relay never get the same one."""
    answers = await asyncio.gather(
        *(asyncio.to_thread(lambda: [bench.queue.new_id() for _ in range(200)]) for _ in range(8))
    )
    ids = [queue_id for some in answers for queue_id in some]
    assert len(set(ids)) == len(ids)


# -- duplicates --------------------------------------------------------------------------------------------------


async def test_a_duplicate_goes_with_its_sidecar(bench: SpoolBench) -> None:
    """Both are gone for good; another file that took the name since stays, and so does another sidecar."""
    sidecar = bench.drop_sidecar(file := bench.drop())
    inode = (bench.directory / "pickup" / file).stat().st_ino
    bench.queue.drop(bench.pickup, file, sidecar, inode=inode + 1)
    assert len(bench.tree()) == 2
    bench.queue.drop(bench.pickup, file, sidecar, inode=inode)
    assert bench.tree() == set()
    bench.queue.drop(bench.pickup, file, sidecar, inode=inode)
    old = bench.drop_sidecar(file := bench.drop())
    (bench.directory / "pickup" / old.name).unlink()
    bench.drop_sidecar(file)
    bench.queue.drop(bench.pickup, file, old)
    assert bench.tree() == {f"pickup/{old.name}"}


@pytest.mark.parametrize("error", [Crash, lambda: OSError(errno.EIO, "Input/output error")])
async def test_a_duplicate_that_could_not_be_removed_is_not_sent(
    tmp_path: Path, disk: Disk, error: Callable[[], BaseException]
) -> None:
    """Cut short at any step, message and sidecar are in the pickup folder, or in failed/ with the reason, or gone."""
    step, hit = 0, True
    seen: list[set[str]] = []
    while hit:
        step += 1
        directory = tmp_path / str(step)
        directory.mkdir()
        bench = SpoolBench(directory)
        await bench.reopen()
        sidecar = bench.drop_sidecar(file := bench.drop())
        disk.arm(step, error)
        with suppress(Crash, OSError):
            bench.queue.drop(bench.pickup, file, sidecar, queue_id="a" * 16)
        hit = disk.hits > 0
        disk.disarm()
        await bench.reopen()
        tree = bench.tree()
        if tree and "pickup/1-a.eml" not in tree:
            assert {path.split(".", 1)[1] for path in tree} <= {"eml", "json", "env.json"}
            reasons = [entry.reason for entry in await entries(bench.queue, failed=True)]
            whole = any(path.endswith(".eml") for path in tree)
            assert reasons == ["the same message came as aaaaaaaaaaaaaaaa"] * whole
        seen.append({path.split("/")[0] for path in tree})
        assert tree & {"pickup/1-a.eml", "pickup/1-a.env.json"} in (set(), {"pickup/1-a.eml", "pickup/1-a.env.json"})
        assert await claim(bench.queue) is None
        await bench.close()
    assert {"pickup"} in seen
    assert seen[-1] == set()


# -- claims ------------------------------------------------------------------------------------------------------


async def test_a_plain_claim_is_one_rename(bench: SpoolBench, disk: Disk) -> None:
    """Nothing is written beside a message whose header tells everything; the folder is synced with what follows."""
    bench.queue.new_id()
    file = bench.drop()
    disk.disarm()
    bench.take(file)
    assert disk.steps == ["rename"]


@pytest.mark.parametrize("call", ["fsync", "rename"])
async def test_a_claim_that_fails_leaves_no_record(bench: SpoolBench, disk: Disk, call: str) -> None:
    """A file that cannot be taken over (another file system, no right) stays, however often it is tried."""
    sidecar = bench.drop_sidecar(file := bench.drop())
    bench.queue.new_id()
    for _ in range(3):
        disk.arm(5 + (call == "rename"), lambda: OSError(errno.EXDEV, "Invalid cross-device link"))
        with pytest.raises(OSError, match="cross-device"):
            bench.take(file, sidecar=sidecar)
        assert disk.steps[:6][-1 if call == "rename" else 4] == call
    assert bench.tree() == {"pickup/1-a.eml", "pickup/1-a.env.json"}


@pytest.mark.parametrize("how", ["append", "same size", "rename only"])
async def test_a_file_written_to_after_the_claim_is_noticed(bench: SpoolBench, how: str) -> None:
    """Whoever keeps the file open and writes is found out before the last byte; the claim itself is no change."""
    file = bench.drop()
    path = bench.directory / "pickup" / file
    with path.open("r+b") as producer:
        queue_id = bench.queue.new_id()
        message = QueuedMessage(queue_id, Envelope("", ("a@example.org",)), Progress(1.0), path.stat().st_size)
        bench.queue.arrived(message, bench.queue.take(bench.pickup, file, message, stamp=stamp_of(path.stat())))
        if how != "rename only":
            producer.seek(0, os.SEEK_END if how == "append" else os.SEEK_SET)
            producer.write(b"From")
            producer.flush()
            os.utime(producer.fileno(), ns=(0, 0))
    source = bench.queue.open(await claimed(bench.queue))
    try:
        assert source.unchanged() == (how == "rename only")
    finally:
        source.close()


async def arrive(bench: SpoolBench, name: str = "a", **options: Any) -> QueuedMessage:
    """Claim a file as the pickup does, which has read it."""
    file = bench.drop(name)
    path = bench.directory / "pickup" / file
    with path.open("rb") as opened:
        head = head_of(opened.fileno(), os.fstat(opened.fileno()))
    assert isinstance(head, Head)
    queue_id, progress = bench.queue.new_id(), Progress(bench.clock.now())
    envelope = Envelope("sender@example.com", (f"{name}@example.org",))
    message = QueuedMessage(queue_id, envelope, progress, head.size, "headers", file=file, uid=os.getuid())
    bench.queue.arrived(message, bench.queue.take(bench.pickup, file, message, **options), head)
    return message


async def test_what_was_read_at_the_pickup_is_not_read_again(
    bench: SpoolBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that is sent at once is opened once: neither is a record looked for, nor its header read."""
    message = await arrive(bench)
    with monkeypatch.context() as blind:
        for name in ("read", "names"):
            blind.setattr(durable.Folder, name, lambda *_, **__: pytest.fail("was read"))
        blind.setattr(durable, "read_at", lambda *_: pytest.fail("was read"))
        assert await claimed(bench.queue) == message
        source = bench.queue.open(message)
        header, data = source.header()
        source.close()
    assert isinstance(header, Header)
    assert data == (bench.directory / "queue" / f"{message.queue_id}.eml").read_bytes()
    bench.queue.release(message)
    again = await claimed(bench.queue)
    assert (again.envelope, again.size, again.uid) == (message.envelope, message.size, message.uid)


@pytest.mark.parametrize("how", ["written to", "replaced", "on hold", "with a record", "configured"])
async def test_what_has_changed_since_is_read_again(bench: SpoolBench, how: str) -> None:
    """By its producer, by an operator, by a reload; and a record beside it always counts."""
    message = await arrive(bench, write_down=how == "with a record")
    path = bench.directory / "queue" / f"{message.queue_id}.eml"
    data = b"From: sender@example.com\nTo: b@example.org\n\na\n"
    match how:
        case "written to":
            path.write_bytes(data[:-1])
        case "replaced":
            (bench.directory / "new").write_bytes(data)
            figures = path.stat()
            os.utime(bench.directory / "new", ns=(figures.st_atime_ns, figures.st_mtime_ns))
            (bench.directory / "new").rename(path)
        case "on hold":
            await bench.queue.change(Verb.HOLD, [message.queue_id])
            await bench.queue.change(Verb.RELEASE, [message.queue_id])
        case "configured":
            bench.queue.set_reading(Reading(from_address="other@example.com", rewrite_from="always"))
    found = await claimed(bench.queue)
    expected = {"written to": ("b@example.org",), "replaced": ("b@example.org",)}
    assert found.envelope.recipients == expected.get(how, ("a@example.org",))
    assert (found.revision > 0) == (how in ("on hold", "with a record"))
    assert bench.queue._files.arrivals._taken == 0


async def test_what_was_read_takes_bounded_memory(bench: SpoolBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is read again; those that came first are kept, and make room when they are sent."""
    monkeypatch.setattr(arrivals, "LIMIT", 10_000)
    messages = [await arrive(bench, f"m{number}") for number in range(20)]
    kept = list(bench.queue._files.arrivals._kept)
    assert 3 < len(kept) < 8
    assert kept == [message.queue_id for message in messages[: len(kept)]]
    assert await claim_all(bench.queue) == [message.queue_id for message in messages]
    assert bench.queue._files.arrivals._taken == 0


async def test_another_sidecar_of_the_same_name_survives_the_claim(bench: SpoolBench) -> None:
    """A sidecar that took the name since the claim was read is the next message's and stays."""
    claim_of_old = bench.drop_sidecar(file := bench.drop())
    path = bench.directory / "pickup" / claim_of_old.name
    (bench.directory / "pickup" / "next").write_text("{}")
    (bench.directory / "pickup" / "next").rename(path)
    bench.take(file, sidecar=claim_of_old)
    assert path.read_text() == "{}"


async def test_a_wall_clock_set_back_parks_nothing_for_long(bench: SpoolBench) -> None:
    """A deferral that lies years ahead by the clock of today was planned by a wrong one: it is tried at once."""
    await bench.put()
    await defer(bench.queue, await claimed(bench.queue), bench.clock.now() + 60)
    bench.clock.wall -= 10 * 365 * 86400
    await bench.reopen()
    assert await bench.queue.wait_due(asyncio.Event(), patience=0.0)


# -- kept after it was sent --------------------------------------------------------------------------------------


async def test_what_was_sent_is_kept_with_its_story(bench: SpoolBench) -> None:
    """With keep_sent, who took the message and what happened before can still be seen, and its bytes read."""
    bench.queue.keep_sent = 60
    queue_id = await bench.hand_in()
    message = await claimed(bench.queue)
    progress = remembered(outcome(message, Status.SENT), Past(bench.clock.now(), "sent", "to 1 of 1"))
    await bench.queue.complete([(message, progress)])
    for _ in range(2):
        entry = await bench.queue.find(queue_id)
        assert entry is not None
        assert (entry.place, entry.in_flight, entry.message.producer) == (Place.SENT, False, "submit")
        assert entry.message.progress.recipients == progress.recipients
        assert [past.event for past in entry.message.progress.history] == ["queued", "sent"]
        source = bench.queue.content(queue_id)
        assert source is not None
        assert source.read(0, 5) == b"From:"
        source.close()
        assert await bench.queue.change(Verb.RETRY, [queue_id]) == {queue_id: "was sent already"}
        assert await entries(bench.queue) == await entries(bench.queue, failed=True) == []
        await bench.reopen()


async def test_those_that_were_sent_together_are_kept_together(bench: SpoolBench, disk: Disk) -> None:
    """However many there are, the folders are synced once, and each record is."""
    for number in range(10):
        await bench.put(f"m{number}")
    bench.queue.keep_sent = 60
    messages = [await claimed(bench.queue) for _ in range(10)]
    await bench.queue.sync_claims()
    disk.disarm()
    await bench.queue.complete([(one, outcome(one, Status.SENT)) for one in messages])
    assert disk.steps.count("fsync") == 3 + 10
    ids = [one.queue_id for one in messages]
    assert bench.tree() == {f"sent/{queue_id}{ending}" for queue_id in ids for ending in (".eml", ".json")}
    assert bench.queue.figures() == Figures()


async def test_whoever_no_longer_waits_has_kept_it_all_the_same(bench: SpoolBench) -> None:
    """Cancelled while it is moved to sent/, a completion is done, and the message is in nobody's hands."""
    bench.queue.keep_sent = 60
    await bench.put()
    message = await claimed(bench.queue)
    with disk_is_busy(bench):
        task = asyncio.create_task(complete(bench.queue, message))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    await until(lambda: bench.queue.figures() == Figures())


@pytest.mark.parametrize("data", [b"", b'{"format": 2}'])
async def test_a_sent_message_without_its_story_is_a_sent_message(bench: SpoolBench, data: bytes) -> None:
    """Its record is a kindness: torn, of another version or missing, the message is shown without it."""
    bench.queue.keep_sent = 60
    queue_id = await bench.put()
    await complete(bench.queue, await claimed(bench.queue))
    path = bench.directory / "sent" / f"{queue_id}.json"
    path.write_bytes(data)
    entry = await bench.queue.find(queue_id)
    assert entry is not None
    assert (entry.place, entry.message.envelope.recipients) == (Place.SENT, ("a@example.org",))
    assert "record" in entry.reason
    path.unlink()
    entry = await bench.queue.find(queue_id)
    assert entry is not None
    assert (entry.place, entry.reason) == (Place.SENT, "")


# -- results -----------------------------------------------------------------------------------------------------


def result(bench: SpoolBench, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bench.directory / "results" / f"{name}.json").read_text())
    return found


def take_named(bench: SpoolBench, name: str) -> str:
    """Claim a file as the pickup does where results are wanted."""
    file = bench.drop(name)
    queue_id = bench.queue.new_id()
    envelope = Envelope("sender@example.com", (f"{name}@example.org",))
    message = QueuedMessage(queue_id, envelope, Progress(bench.clock.now()), file=file)
    bench.queue.arrived(message, bench.queue.take(bench.pickup, file, message, write_down=True))
    return queue_id


async def test_every_way_out_has_a_result(bench: SpoolBench) -> None:
    """Sent, failed, expired, suppressed, by hand, deleted, refused, duplicate: the file's producer can read which."""
    bench.queue.results = Results(bench.directory)
    ids = [take_named(bench, name) for name in ("sent", "rejected", "expired", "suppressed", "deleted", "by-hand")]
    await complete(bench.queue, await claimed(bench.queue))
    for reason in ("rejected", "expired", "suppressed"):
        message = await claimed(bench.queue)
        await bench.queue.fail(message, outcome(message, Status.FAILED, reason=reason), reason)
    assert await bench.queue.change(Verb.DELETE, ids[4:5]) == {ids[4]: ""}
    assert await bench.queue.change(Verb.FAIL, ids[5:]) == {ids[5]: ""}
    bench.queue.refuse(bench.pickup, bench.drop("refused"), detail="no From field")
    bench.queue.drop(bench.pickup, bench.drop("again"), None, queue_id=ids[0])
    names = ["1-sent", "2-rejected", "3-expired", "4-suppressed", "5-deleted", "6-by-hand", "7-refused", "8-again"]
    assert [result(bench, name)["status"] for name in names] == [
        *("sent", "failed", "expired", "suppressed", "deleted", "failed", "refused", "duplicate")
    ]
    assert result(bench, "1-sent")["queue_id"] == result(bench, "8-again")["queue_id"] == ids[0]
    (recipient,) = result(bench, "2-rejected")["recipients"]
    assert recipient["response"] == "554 so it is"
    assert result(bench, "7-refused")["detail"] == "no From field"
    assert bench.report.troubles == []


async def test_a_result_is_there_before_the_message_is_gone(bench: SpoolBench, disk: Disk) -> None:
    """Killed between the two, the message is sent again and its result is written again: never gone without a word."""
    bench.queue.results = Results(bench.directory)
    take_named(bench, "a")
    message = await claimed(bench.queue)
    await bench.queue.sync_claims()
    disk.disarm()
    await complete(bench.queue, message)
    assert disk.steps.index("rename") < disk.steps.index("pwrite")  # into the journal: what removes it comes behind


async def test_trouble_with_results_does_not_stop_the_mail(bench: SpoolBench) -> None:
    """It is said, and the message goes where it should."""
    bench.queue.results = Results(bench.directory)
    (bench.directory / "results").write_text("in the way")
    queue_id = take_named(bench, "a")
    await complete(bench.queue, await claimed(bench.queue))
    assert await bench.queue.find(queue_id) is None
    assert [doing for doing, _ in bench.report.troubles] == ["write a result"]


# -- sweeping ----------------------------------------------------------------------------------------------------


async def test_what_is_old_is_swept(bench: SpoolBench) -> None:
    """sent/ and failed/ are emptied of what is older than is wanted, and of nothing else."""
    bench.clock.wall = os.stat(bench.directory).st_ctime
    bench.queue.keep_sent = 60
    await bench.put("a")
    await bench.put("b")
    await complete(bench.queue, await claimed(bench.queue))
    await fail(bench.queue, await claimed(bench.queue))
    waiting = await bench.put("c")
    (bench.directory / "failed" / "README").write_text("foreign")
    assert await bench.queue.sweep(keep_failed=3600) == 0
    bench.clock.advance(120)
    assert await bench.queue.sweep(keep_failed=3600) == 1
    assert len(await entries(bench.queue, failed=True)) == 1
    bench.clock.advance(3600)
    assert await bench.queue.sweep(keep_failed=3600) == 1
    assert bench.tree() == {f"queue/{waiting}.eml", "failed/README"}


async def test_keys_and_results_are_swept_with_the_rest(bench: SpoolBench) -> None:
    """A key after a day, a result after a week; trouble with them is said and keeps nothing else from being swept."""
    bench.clock.wall = os.stat(bench.directory).st_ctime
    bench.queue.results = Results(bench.directory)
    await bench.hand_in(key=KEY)
    take_named(bench, "b")
    await fail(bench.queue, await claimed(bench.queue))
    await fail(bench.queue, await claimed(bench.queue))
    assert {f"keys/{KEY}", "results/1-b.json"} <= bench.tree()
    bench.clock.advance(8 * 86400)
    (bench.directory / "keys" / ("0" * 64)).mkdir()
    assert await bench.queue.sweep(keep_failed=3600) == 2
    assert [path for path in bench.tree() if not path.startswith("keys/")] == []
    assert [doing for doing, _ in bench.report.troubles] == ["sweep the idempotency keys"]
    (bench.directory / "keys" / ("0" * 64)).rmdir()
    await bench.queue.sweep(keep_failed=3600)
    assert bench.tree() == set()


async def test_results_may_be_turned_off_and_on(bench: SpoolBench) -> None:
    """A reload that changes [spool] results takes effect with the next message and leaks nothing."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        bench.queue.results = Results(bench.directory)
        take_named(bench, "a")
        await complete(bench.queue, await claimed(bench.queue))
    bench.queue.results = None
    take_named(bench, "b")
    await complete(bench.queue, await claimed(bench.queue))
    await bench.queue.sync_claims()
    assert len(os.listdir("/proc/self/fd")) == before
    assert {path.split("-")[1] for path in bench.tree()} == {"a.json"}


async def test_a_reload_makes_the_results_folder_follow_its_pickup_folder(bench: SpoolBench) -> None:
    """[pickup.NAME] group may be another one now; so may the mode that somebody gave it meanwhile."""
    wanted = Settings(spool=relaying.Spool(directory=bench.directory, results=True))
    for _ in range(2):
        terms.apply_to(bench.queue, wanted)
        take_named(bench, "a")
        await complete(bench.queue, await claimed(bench.queue))
        assert (bench.directory / "results").stat().st_mode & 0o7777 == FOLDER_MODE
        (bench.directory / "results").chmod(0o700)


# -- a hundred thousand ------------------------------------------------------------------------------------------

MANY = 100_000
MEASURE = """
import asyncio, json, os, resource, sys, time
from pathlib import Path
from mailrelayd.clock import SystemClock
from mailrelayd.outbound.examine import Rules
from mailrelayd.outbound.pickup import Pickup
from mailrelayd.outbound.spool import Spool
from mailrelayd.operate import events

directory, what = Path(sys.argv[1]), sys.argv[2]

class Reports:
    def trouble(self, doing, error): raise error
    def unreadable(self, queue_id, reason): raise AssertionError(reason)

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

async def main():
    clock = SystemClock()
    spool = Spool(directory, node="relay1", clock=clock, report=Reports())
    before, began = resident(), time.monotonic()
    await spool.open_up()
    seen = spool.figures().waiting
    if what == "pickup":
        events.message_queued = lambda **keys: None
        stop = asyncio.Event()
        pickup = Pickup(directory / "pickup", spool, Rules(), clock)
        run = asyncio.create_task(pickup.run(stop, lambda seconds: None))
        await spool.wait_due(stop, patience=60)
        first = time.monotonic() - began
        while spool.figures().waiting < int(sys.argv[3]):
            await asyncio.sleep(0.02)
        stop.set()
        pickup.wake()
        await run
        pickup.close()
        seen = spool.figures().waiting
    else:
        async for message in spool.due(asyncio.Event()):
            first = time.monotonic() - began
            break
    print(json.dumps({"seen": seen, "first": first, "seconds": time.monotonic() - began, "bytes": resident() - before}))
    spool.close()

asyncio.run(main())
"""


def measure(directory: Path, *arguments: str) -> dict[str, float]:
    command = [sys.executable, "-c", MEASURE, str(directory), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    result: dict[str, float] = json.loads(done.stdout)
    return result


@pytest.fixture
def crowd(tmp_path: Path) -> Iterator[Path]:
    """A spool with very many messages in queue/."""
    (tmp_path / "pickup").mkdir()
    (tmp_path / "pickup/new").mkdir()
    queue = tmp_path / "queue"
    queue.mkdir()
    folder = os.open(queue, os.O_DIRECTORY)
    sequence = queueid.Sequence(NODE, last=0)
    for number in range(MANY):
        name = sequence.take(1_700_000_000.0 + number)[0] + ".eml"
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=folder)
        os.write(descriptor, b"From: a@example.com\nTo: b@example.org\n\n")
        os.close(descriptor)
    os.close(folder)
    yield tmp_path
    shutil.rmtree(tmp_path)


def test_a_hundred_thousand_messages(crowd: Path, record_property: Callable[[str, object], None]) -> None:
    """With very many messages waiting the spool opens within seconds and the first is given out; so does the pickup."""
    figures = measure(crowd, "queue")
    assert figures["seen"] == MANY
    assert figures["seconds"] < 10
    assert figures["bytes"] < 16 << 20
    (crowd / "pickup/new").rmdir()
    (crowd / "queue").rename(crowd / "pickup/new")
    taken = measure(crowd, "pickup", "1000")
    assert taken["seen"] >= 1000
    assert taken["first"] < 10
    assert taken["bytes"] < 120 << 20
    for name, value in (("queue", figures), ("pickup", taken)):
        record_property(name, value)
        print(name, value)
