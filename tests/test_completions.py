"""What was sent is recorded, then removed: together, in this order, whatever fails in between."""

from __future__ import annotations

import asyncio
import errno
import os
from collections import deque
from pathlib import Path

import pytest

from mailrelayd import durable
from mailrelayd.outbound import completions, journal
from mailrelayd.outbound.queue import Figures, Verb
from mailrelayd.outbound.spool import Spool, SpoolError
from mailrelayd.outbound.stored import Reader, Reading
from mailrelayd.outbound.values import QueuedMessage, Status
from tests.queue_contract import claim, claim_all, claimed, complete, defer, entries, outcome, until
from tests.test_spool import NODE, Crash, Disk, SpoolBench, bench, disk

__all__ = ["bench", "disk"]

RENEWED = ["create", "write", "fsync", "rename", "fsync"]


@pytest.fixture
def lingering(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is removed before sixty-four are there, or the end comes."""
    monkeypatch.setattr(completions, "LINGER", 3600.0)


def recorded(bench: SpoolBench) -> dict[str, int]:
    return journal.decode((bench.directory / "journal").read_bytes())


def eml(bench: SpoolBench, queue_id: str) -> Path:
    return bench.directory / "queue" / f"{queue_id}.eml"


async def deferred_once(bench: SpoolBench) -> QueuedMessage:
    """A claimed message with a record beside it."""
    await bench.put()
    await defer(bench.queue, await claimed(bench.queue), bench.clock.now())
    return await claimed(bench.queue)


@pytest.mark.usefixtures("lingering")
async def test_what_is_recorded_is_gone_for_everybody(bench: SpoolBench) -> None:
    """Though its file still stands there, nobody sees it any more: not the relay, not an operator, not a program."""
    message = await deferred_once(bench)
    inode = eml(bench, message.queue_id).stat().st_ino
    await complete(bench.queue, message)
    assert recorded(bench) == {message.queue_id: inode}
    assert eml(bench, message.queue_id).exists()
    assert await entries(bench.queue) == []
    assert await bench.queue.find(message.queue_id) is None
    assert bench.queue.content(message.queue_id) is None
    assert not bench.queue.is_queued(message.queue_id)
    assert bench.queue.figures() == Figures()
    assert await claim(bench.queue) is None
    for verb in Verb:
        assert await bench.queue.change(verb, [message.queue_id]) == {message.queue_id: "no such message"}


@pytest.mark.usefixtures("lingering")
async def test_after_a_crash_it_is_still_gone(bench: SpoolBench) -> None:
    """For commands without a daemon, which change nothing, and for the next start, which removes it."""
    message = await deferred_once(bench)
    await complete(bench.queue, message)
    waiting = await bench.put()
    await bench.end()
    reader = Reader(bench.directory, Reading())
    try:
        assert reader.ids() == [waiting]
        assert reader.find(message.queue_id) is None
        assert reader.content(message.queue_id) is None
    finally:
        reader.close()
    assert eml(bench, message.queue_id).exists()
    await bench.reopen()
    assert bench.tree() == {f"queue/{waiting}.eml"}
    assert recorded(bench) == {}
    assert await claim_all(bench.queue) == [waiting]


@pytest.mark.usefixtures("lingering")
async def test_another_file_of_its_name_stays(bench: SpoolBench) -> None:
    """What an operator has put in its place since the crash was not sent, and is."""
    queue_id = await bench.put()
    await complete(bench.queue, await claimed(bench.queue))
    await bench.end()
    copy = bench.directory / "copy"
    copy.write_bytes(eml(bench, queue_id).read_bytes())
    copy.rename(eml(bench, queue_id))
    await bench.reopen()
    assert await claim_all(bench.queue) == [queue_id]


@pytest.mark.usefixtures("lingering")
async def test_an_orderly_end_removes_everything(bench: SpoolBench) -> None:
    """Nothing is left to the next start: the journal is empty, so the spool can be copied elsewhere."""
    message = await deferred_once(bench)
    await complete(bench.queue, message)
    bench.queue.close()
    assert bench.tree() == set()
    assert recorded(bench) == {}
    assert len((bench.directory / "journal").read_bytes()) == journal.SIZE
    bench._opened = False


async def test_what_is_removed_is_in_the_journal_no_more(bench: SpoolBench) -> None:
    """An operator may put a message back that was sent, under its own name, and it is sent again."""
    queue_id = await bench.put()
    data = eml(bench, queue_id).read_bytes()
    await complete(bench.queue, await claimed(bench.queue))
    await until(lambda: not bench.tree() and recorded(bench) == {})
    eml(bench, queue_id).write_bytes(data)
    await bench.reopen()
    assert await claim_all(bench.queue) == [queue_id]


@pytest.mark.usefixtures("lingering")
async def test_the_claim_is_on_disk_before_the_record(bench: SpoolBench, disk: Disk) -> None:
    """Else a power cut brings the message back into the pickup folder; once for all that were claimed before."""
    for name in "abc":
        await bench.put(name)
    messages = [await claimed(bench.queue) for _ in range(3)]
    later = await bench.put("d")
    for message in messages:
        await complete(bench.queue, message)
    assert disk.steps[-7:] == ["fsync", *(["pwrite", "fdatasync"] * 3)]
    newest = await bench.put("e")
    disk.disarm()
    assert (await claimed(bench.queue)).queue_id == later
    message = await claimed(bench.queue)
    assert message.queue_id == newest
    await complete(bench.queue, message)
    assert disk.steps == ["fsync", "pwrite", "fdatasync"]


@pytest.mark.usefixtures("lingering")
async def test_many_at_once_share_a_sync(bench: SpoolBench, disk: Disk) -> None:
    """While one is written, all others wait for the next one together."""
    for number in range(30):
        await bench.put(f"m{number}")
    messages = [await claimed(bench.queue) for _ in range(30)]
    disk.disarm()
    there = bench.queue._completions
    with there._writing:
        tasks = [asyncio.create_task(complete(bench.queue, message)) for message in messages]
        await until(lambda: len(there._free) < journal.SLOTS - 1)
    await asyncio.gather(*tasks)
    assert disk.steps.count("fdatasync") <= 3
    assert len(recorded(bench)) == 30


@pytest.mark.usefixtures("lingering")
async def test_after_a_failed_sync_another_file_is_written(bench: SpoolBench, disk: Disk) -> None:
    """The kernel may call clean what it could not write: nothing of that file is believed, and all is said again."""
    first, second = await bench.put("a"), await bench.put("b")
    messages = [await claimed(bench.queue) for _ in range(2)]
    await complete(bench.queue, messages[0])
    before = (bench.directory / "journal").stat().st_ino
    disk.arm(2, lambda: OSError(errno.EIO, "Input/output error"))
    task = asyncio.create_task(complete(bench.queue, messages[1]))
    await bench.pausing(task)
    assert disk.steps == ["pwrite", "fdatasync"]
    assert bench.report.troubles == [("remove", "Input/output error")]
    assert bench.queue.figures().in_flight == 1
    bench.clock.advance(1)
    await task
    assert disk.steps == ["pwrite", "fdatasync", *RENEWED]
    assert (bench.directory / "journal").stat().st_ino != before
    assert recorded(bench).keys() == {first, second}


async def test_a_full_disk_lets_completions_go_on(bench: SpoolBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal has its room from the start, also after a restart while the disk is full."""

    def full(*arguments: object, **keys: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    await bench.put("a")
    await bench.put("b")
    monkeypatch.setattr(durable.Folder, "write", full)
    monkeypatch.setattr(durable.Folder, "create", full)
    for _ in range(2):
        await complete(bench.queue, await claimed(bench.queue))
        await bench.removed()
        await bench.reopen()
    assert bench.tree() == set()
    assert bench.report.troubles == []


async def test_a_full_disk_without_a_journal_is_emptied(bench: SpoolBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was sent is removed at once where it cannot be recorded first: the queue may be what fills the disk."""
    await deferred_once(bench)
    second = await bench.put("b")
    await bench.end()
    (bench.directory / "journal").unlink()

    def full(*arguments: object, **keys: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patches:
        patches.setattr(durable.Folder, "write", full)
        await bench.reopen()
        assert bench.report.troubles == [("begin the journal", "No space left on device")]
        await complete(bench.queue, await claimed(bench.queue))
        assert bench.tree() == {f"queue/{second}.eml"}
    await complete(bench.queue, await claimed(bench.queue))
    await bench.removed()
    assert bench.tree() == set()
    assert [doing for doing, _ in bench.report.troubles] == ["begin the journal", "record"]


async def test_without_a_record_the_removal_is_on_disk(
    bench: SpoolBench, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same when the disk has become full, and what cannot be removed either is tried until it can."""
    message = await deferred_once(bench)
    disk.arm(1, lambda: OSError(errno.ENOSPC, "No space left on device"), times=2)
    task = asyncio.create_task(complete(bench.queue, message))
    await bench.pausing(task)
    assert disk.steps == ["pwrite", "unlink"]
    assert bench.report.troubles == [(doing, "No space left on device") for doing in ("record", "remove")]
    assert bench.queue.figures().in_flight == 1
    disk.arm(1, lambda: OSError(errno.EDQUOT, "Disk quota exceeded"))
    bench.clock.advance(1)
    await task
    assert disk.steps == ["create", "unlink", "fsync", "unlink"]
    assert bench.tree() == set()
    assert bench.queue.figures() == Figures()


async def test_a_journal_that_cannot_be_made_is_made_later(bench: SpoolBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failing disk stops no start; what is sent meanwhile waits for its record, loudly."""
    await bench.put()
    await bench.end()
    (bench.directory / "journal").unlink()
    right, tries = durable.Folder.write, iter(range(3))

    def write(folder: durable.Folder, name: str, data: bytes) -> None:
        if next(tries, None) is not None:
            raise OSError(errno.EIO, "Input/output error")
        right(folder, name, data)

    monkeypatch.setattr(durable.Folder, "write", write)
    await bench.reopen()
    assert bench.report.troubles == [("begin the journal", "Input/output error")]
    task = asyncio.create_task(complete(bench.queue, await claimed(bench.queue)))
    for number in range(2):
        await bench.pausing(task, number + 1)
        bench.clock.advance(30)
    await task
    await bench.removed()
    assert bench.tree() == set()


@pytest.mark.parametrize("ending", [".eml", ".json"])
async def test_what_cannot_be_removed_stays_recorded(
    bench: SpoolBench, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """Its slot is not given to another message, others are removed meanwhile, and it is tried until it works."""
    stuck = await deferred_once(bench)
    inode = eml(bench, stuck.queue_id).stat().st_ino
    other = await bench.put("b")
    monkeypatch.setattr(completions, "PAUSE", 0.01)
    right, failing = durable.Folder.remove, True

    def remove(folder: durable.Folder, name: str, *, sync: bool = True) -> bool:
        if failing and name == stuck.queue_id + ending:
            raise OSError(errno.EPERM, "Operation not permitted")
        return right(folder, name, sync=sync)

    monkeypatch.setattr(durable.Folder, "remove", remove)
    await complete(bench.queue, stuck)
    await complete(bench.queue, await claimed(bench.queue))
    await until(lambda: len(bench.report.troubles) > 2 and other not in bench.queue._completions)
    assert set(bench.report.troubles) == {("remove", "Operation not permitted")}
    assert recorded(bench)[stuck.queue_id] == inode
    assert not eml(bench, other).exists()
    failing = False
    await bench.removed()
    assert bench.tree() == set()


@pytest.mark.usefixtures("lingering")
async def test_the_lag_is_bounded(bench: SpoolBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where removing cannot follow, recording waits for it, and goes on when there is room."""
    for number in range(7):
        await bench.put(f"m{number}")
    messages = [await claimed(bench.queue) for _ in range(7)]
    there = bench.queue._completions
    there._free = deque([1, 2, 3])
    right, failing = durable.Folder.remove, True

    def remove(folder: durable.Folder, name: str, *, sync: bool = True) -> bool:
        if failing:
            raise OSError(errno.EIO, "Input/output error")
        return right(folder, name, sync=sync)

    monkeypatch.setattr(durable.Folder, "remove", remove)
    task = asyncio.create_task(bench.queue.complete([(one, outcome(one, Status.SENT)) for one in messages]))
    await until(lambda: bench.report.troubles)
    assert len(recorded(bench)) == 3
    assert not task.done()
    failing = False
    await task
    assert await entries(bench.queue) == []
    bench.queue._completions.close()
    assert bench.tree() == set()


async def test_a_caller_that_is_cancelled_has_completed_all_the_same(bench: SpoolBench) -> None:
    """Whoever no longer waits for a record finds the message gone."""
    await bench.put()
    message = await claimed(bench.queue)
    with bench.queue._completions._writing:
        task = asyncio.create_task(complete(bench.queue, message))
        await until(lambda: bench.queue._completions._threads)
        task.cancel()
        await asyncio.wait([task])
    await until(lambda: bench.queue.figures() == Figures())
    await bench.removed()
    assert bench.tree() == set()


async def test_a_bug_in_a_thread_ends_the_process(bench: SpoolBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a record is told, at once or with the next one; nothing is touched from then on."""
    for name in "ab":
        await bench.put(name)
    messages = [await claimed(bench.queue) for _ in range(2)]
    monkeypatch.setattr(durable.Folder, "remove", lambda *_, **__: 1 // 0)
    await complete(bench.queue, messages[0])
    await until(lambda: bench.queue._completions._broken)
    with pytest.raises(ZeroDivisionError):
        await complete(bench.queue, messages[1])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"%-63s\n" % b"mailrelayd journal 7", "is of format 7, and this program knows 1"),
        (None, "not a regular file: remove it"),
    ],
)
async def test_a_journal_that_cannot_be_read_stops_the_start(bench: SpoolBench, data: bytes | None, said: str) -> None:
    """What it says would be sent again. Its file is named, and stays."""
    await bench.end()
    path = bench.directory / "journal"
    path.unlink()
    if data is None:
        path.symlink_to("/etc/passwd")
    else:
        path.write_bytes(data)
    with pytest.raises(SpoolError, match=f"{path}: .*{said}"):
        Spool(bench.directory, node=NODE, clock=bench.clock, report=bench.report)
    assert path.is_symlink() or path.read_bytes() == data


@pytest.mark.parametrize("room", [True, False])
async def test_what_cannot_be_removed_at_the_start_stops_nobody(
    bench: SpoolBench, monkeypatch: pytest.MonkeyPatch, room: bool
) -> None:
    """It stays recorded, also over the next start and on a full disk, is gone for everybody, and goes when it can."""
    monkeypatch.setattr(completions, "LINGER", 3600.0)
    stuck = await deferred_once(bench)
    inode = eml(bench, stuck.queue_id).stat().st_ino
    await complete(bench.queue, stuck)
    other = await bench.put("b")
    monkeypatch.setattr(completions, "LINGER", 0.0)
    monkeypatch.setattr(completions, "PAUSE", 0.01)
    right, right_write, failing = durable.Folder.remove, durable.Folder.write, True

    def remove(folder: durable.Folder, name: str, *, sync: bool = True) -> bool:
        if failing and name == f"{stuck.queue_id}.eml":
            raise OSError(errno.EPERM, "Operation not permitted", name)
        return right(folder, name, sync=sync)

    def write(folder: durable.Folder, name: str, data: bytes) -> None:
        if failing and not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        right_write(folder, name, data)

    monkeypatch.setattr(durable.Folder, "remove", remove)
    monkeypatch.setattr(durable.Folder, "write", write)
    for _ in range(2):
        await bench.reopen()
        assert recorded(bench) == {stuck.queue_id: inode}
        assert [one.message.queue_id for one in await entries(bench.queue)] == [other]
        assert await bench.queue.find(stuck.queue_id) is None
    said = (f"remove {stuck.queue_id}.eml", "Operation not permitted")
    await until(lambda: said in bench.report.troubles)
    await complete(bench.queue, await claimed(bench.queue))
    assert await claim(bench.queue) is None
    failing = False
    await bench.removed()
    assert bench.tree() == set()
    await bench.reopen()
    assert recorded(bench) == {}


@pytest.mark.usefixtures("lingering")
@pytest.mark.parametrize("rounds", [1, 2])
async def test_starts_that_are_cut_short_send_nothing_again(bench: SpoolBench, disk: Disk, rounds: int) -> None:
    """Killed at each step of a start, and again at each step of the next one, what was sent never waits again."""
    for number in range(3):
        await bench.put(f"m{number}")
        await defer(bench.queue, await claimed(bench.queue), bench.clock.now())
    done = [await claimed(bench.queue) for _ in range(2)]
    await bench.queue.complete([(one, outcome(one, Status.SENT)) for one in done])
    await bench.end()
    kept = {path.relative_to(bench.directory): path for path in bench.directory.rglob("*") if path.is_file()}
    store = bench.directory / "store"
    store.mkdir()
    for number, path in enumerate(kept.values()):
        os.link(path, store / str(number))  # inodes stay
    journalled = (bench.directory / "journal").read_bytes()
    left = {
        str(name) for name in kept if name.parent.name == "queue" and name.stem not in [one.queue_id for one in done]
    }
    step, crashed = 0, True
    while crashed:
        step += 1
        for number, name in enumerate(kept):
            (bench.directory / name).unlink(missing_ok=True)
            os.link(store / str(number), bench.directory / name)
        (bench.directory / "journal").write_bytes(journalled)
        crashed = False
        for _ in range(rounds):
            disk.arm(step)
            try:
                await bench.reopen()
            except Crash:
                crashed = True
        disk.disarm()
        await bench.reopen()
        assert len(await claim_all(bench.queue)) == 1
        assert {name for name in bench.tree() if name.startswith("queue/")} == left
        await bench.end()
    assert step > 5


async def test_what_is_kept_needs_no_journal(bench: SpoolBench) -> None:
    """With keep_sent the message moves to sent/ before anything else begins."""
    bench.queue.keep_sent = 60
    queue_id = await bench.put()
    await complete(bench.queue, await claimed(bench.queue))
    assert recorded(bench) == {}
    assert bench.tree() == {f"sent/{queue_id}.eml", f"sent/{queue_id}.json"}
