"""The campaign of power cuts: a file system that forgets what nobody has synced. tests/faults/powercut.py is it."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.driver import World
from tests.faults.powercut import ROOT, SECTOR, Disk, Machine, missing
from tests.faults.runs import FATES, FULL, SEED, Record, clean, run, seeded, tell
from tests.faults.verdict import Verdict


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A running one; its disk is the spool."""
    machine, package = missing()
    if package and os.environ.get("CI") == "true":
        pytest.fail(f"needs {package}, and FUSE is there")
    if machine or package:
        pytest.skip(f"needs {machine or package}")
    made = Machine(tmp_path / "spool", tmp_path / "image", SEED)
    made.boot()
    yield made
    made.off()


async def cut(
    machine: Machine, directory: Path, cuts: int, life: tuple[float, float] = (0.05, 0.6), **options: Any
) -> Verdict:
    """A campaign in which the power fails so often, after `life` seconds of being ready."""

    async def fail(world: World) -> None:
        before = 0
        (daemon,) = world.daemons
        for _ in range(cuts):
            await daemon.ready(before + 1)
            await asyncio.sleep(world.chance.uniform(*life))
            await daemon.kill()
            before = daemon.times_ready()
            machine.off()
            machine.boot()
            await daemon.start()

    size: dict[str, Any] = {"messages": 8 * cuts, "pace": 0.15, "recipients": 2, "addresses": FATES}
    return await run(directory, nemesis=fail, **{**size, **options})


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("window", "connections"), [(1, 1), (16, 4)])
async def test_a_power_cut_loses_nothing(
    tmp_path: Path, machine: Machine, window: int, connections: int, record_property: Record
) -> None:
    """What was promised was synced before; what was sent and not yet synced as removed is sent again, and only that."""
    cuts = 60 if FULL else 6
    size: dict[str, Any] = {} if window == 1 else {"messages": 40 * cuts, "pace": 0.03}
    over = f"[outbound.test]\nconnections = {connections}\n"
    options: dict[str, Any] = {"window": window, "connections": connections, "over": over, **size}
    verdict = clean(await cut(machine, tmp_path, cuts, **options))
    tell(record_property, verdict, cuts=machine.cuts)
    assert verdict.kills == machine.cuts
    assert verdict.met >= verdict.kills // 3


@pytest.mark.timeout(300)
async def test_a_daemon_that_does_not_sync_is_seen(tmp_path: Path, machine: Machine) -> None:
    """The same with the bug `no-fsync` sends twice without an excuse, loses mail, or tears its records.

    It lives long enough to have sent something half a second before the power fails: no excuse is left then.
    """
    verdict = await cut(machine, tmp_path, 2, (1.2, 1.6), command=seeded("no-fsync"), deadline=5)
    assert verdict.lost + verdict.dup_calm + verdict.corrupt > 0, verdict


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", ["no-journal-sync", "removes-first", "no-claim-sync", "frees-early"])
async def test_a_completion_that_is_not_on_disk_is_seen(tmp_path: Path, machine: Machine, bug: str) -> None:
    """Each step between an answer and the removal of its message has its place: without it mail is sent again.

    All of it is dropped at once: a producer that syncs the pickup folder makes claims durable, too.
    """
    options: dict[str, Any] = {"addresses": ("ok",), "recipients": 1, "pace": 0.0, "messages": 60}
    verdict = await cut(machine, tmp_path, 2, (1.2, 1.6), command=seeded(bug), deadline=5, **options)
    assert verdict.dup_calm > 0, verdict


# The file system by itself


def disk() -> tuple[Disk, int, int]:
    """One folder in the root, with one synced file "old" in it: the disk, and both numbers."""
    made = Disk()
    folder, file = made.new(0o40755, 0, 0), made.new(0o100644, 0, 0)
    made.change({(ROOT, "folder"): folder.number})
    made.change({(folder.number, "old"): file.number})
    file.data[:] = b"synced"
    made.sync_file(file.number)
    made.sync_folder(folder.number)
    made.sync_folder(ROOT)
    return made, folder.number, file.number


def test_what_was_synced_is_there_after_a_cut() -> None:
    """Content and name each need their own fsync."""
    made, folder, old = disk()
    new = made.new(0o100644, 0, 0)
    made.change({(folder, "new"): new.number})
    new.data[:] = b"not synced"
    made.nodes[old].data[:] = b"changed"
    made.sync_folder(folder)
    made.cut(None)
    assert made.nodes[folder].names == {"old": old, "new": new.number}
    assert (bytes(made.nodes[old].data), bytes(new.data)) == (b"synced", b"")


def test_a_name_that_was_not_synced_may_be_gone_and_never_half() -> None:
    """A rename takes both folders along; what was not synced did not happen, unless chance wants it."""
    made, folder, old = disk()
    made.change({(folder, "old"): None, (ROOT, "moved"): old})
    made.cut(None)
    assert made.nodes[folder].names == {"old": old}
    made.change({(folder, "old"): None, (ROOT, "moved"): old})
    made.sync_folder(ROOT)
    made.cut(None)
    assert (made.nodes[folder].names, made.nodes[ROOT].names) == ({}, {"folder": folder, "moved": old})


def test_a_synced_name_brings_along_what_it_builds_upon() -> None:
    """tmp -> final, then final -> elsewhere: syncing the last folder makes the whole way durable, and no other."""
    made, folder, old = disk()
    made.change({(folder, "old"): None, (folder, "final"): old})
    made.change({(folder, "other"): made.new(0o100644, 0, 0).number})
    made.change({(folder, "final"): None, (ROOT, "elsewhere"): old})
    made.sync_folder(ROOT)
    made.cut(None)
    assert (made.nodes[folder].names, made.nodes[ROOT].names) == ({}, {"folder": folder, "elsewhere": old})


def test_an_overwritten_file_is_old_and_new_by_sectors() -> None:
    """What is overwritten in place and not synced is on disk or not, sector by sector; once it is synced, all of it."""
    seen = set()
    for seed in range(20):
        made, _, old = disk()
        made.nodes[old].data[:] = b"a" * 3 * SECTOR
        made.sync_file(old)
        made.nodes[old].data[:] = b"b" * 3 * SECTOR
        made.cut(random.Random(seed))
        data = bytes(made.nodes[old].data)
        sectors = [data[at : at + SECTOR] for at in range(0, len(data), SECTOR)]
        assert all(len(set(sector)) == 1 for sector in sectors)
        seen.add(b"".join(sector[:1] for sector in sectors))
        made.nodes[old].data[:] = b"c" * 3 * SECTOR
        made.sync_file(old)
        made.cut(random.Random(seed))
        assert bytes(made.nodes[old].data) == b"c" * 3 * SECTOR
    assert {b"aaa", b"bbb"} < seen
