"""Campaigns against the daemon itself: kills, misbehaving servers, several at once, crashes and errors at chosen calls.

    make faults                                                                    # all campaigns, and a table
    MAILRELAYD_TEST_CAMPAIGN=full MAILRELAYD_TEST_SEED=2 make test ARGS="-k faults -s"

runs them at full size with another seed, and prints every verdict. tests/faults/README.md says how to read one.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.driver import World, chaos
from tests.faults.journal import read_deaths
from tests.faults.powercut import may_mount
from tests.faults.runs import FATES, FULL, Record, clean, run, tell
from tests.faults.stopping import LOOPS

CALLS = {  # what the row says -> how the kernel calls it on this and on other machines
    "openat": "openat",
    "write": "write",
    "fsync": "fsync",
    "fdatasync": "fdatasync",
    "pwrite64": "pwrite64",
    "rename": "?rename,renameat,?renameat2",
    "link": "?link,linkat",  # the daemon makes none
    "unlink": "?unlink,unlinkat",
    "sendto": "sendto",
}
MIXED = ("ok", "reject", "ok", "tempfail-1")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where a campaign keeps its evidence."""
    return tmp_path


@pytest.mark.timeout(900)
@pytest.mark.parametrize("window", [1, 16])
async def test_no_kill_and_no_fault_loses_doubles_or_damages_anything(
    directory: Path, window: int, record_property: Record
) -> None:
    """SIGKILLs at random moments and a server that fails in every way at every stage: all is sent or kept, once."""
    size: dict[str, Any] = {"messages": 500, "kills": 100} if FULL else {"messages": 100, "kills": 12}
    rules = chaos(0.05 if FULL else 0.03)
    verdict = await run(directory, **size, recipients=3, addresses=FATES, rules=rules, window=window)
    tell(record_property, clean(verdict))
    assert verdict.kills == size["kills"]
    assert verdict.met >= verdict.kills // 3
    assert verdict.faults


@pytest.mark.timeout(300)
async def test_kills_in_the_middle_of_full_windows(directory: Path, record_property: Record) -> None:
    """A server that keeps the window open, and a backlog that fills it: no kill repeats more than it holds."""
    kills = 60 if FULL else 8
    size: dict[str, Any] = {"messages": 25 * kills, "kills": kills, "pace": 0.001, "between": (0.02, 0.5)}
    tell(record_property, clean(await run(directory, **size, recipients=2, addresses=FATES, window=16)))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", ["maildir", "sidecar", "slow"])
async def test_kills_while_producers_write(directory: Path, way: str, record_property: Record) -> None:
    """The Maildir way, sidecars and files that grow where they stand survive kills in the middle of a claim."""
    kills = 30 if FULL else 4
    size: dict[str, Any] = {"messages": 10 * kills, "kills": kills, "between": (0.4, 0.9)}
    tell(record_property, clean(await run(directory, **size, way=way, recipients=3, addresses=FATES)))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", ["submit", "sendmail"])
async def test_kills_on_both_sides_of_handing_in(directory: Path, way: str, record_property: Record) -> None:
    """submit and sendmail, killed at any moment as the daemon is: what ended with 0 arrives, and nothing torn does."""
    kills = 40 if FULL else 4
    verdict = await run(
        directory,
        way=way,
        messages=12 * kills,
        kills=kills,
        pace=0.05,
        recipients=2,
        addresses=FATES,
        size=200_000,
        between=(0.3, 0.9),  # of being ready
    )
    tell(record_property, clean(verdict))
    assert verdict.kills == kills
    assert verdict.untaken > 0
    assert '"producer": "submit"' in (directory / "daemon.log").read_text()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("call", CALLS if FULL else ["unlink", "fsync"])
async def test_killed_at_the_nth_call(
    directory: Path, required: Callable[[str], None], call: str, record_property: Record
) -> None:
    """SIGKILL at the first such call of any thread, then at the second, up to the twelfth, and all over again."""
    required("strace")
    lives = 12 if FULL else 4
    verdict = await run(
        directory,
        inject=f"{CALLS[call]}:signal=KILL:when={{life}}",
        lives_injected=lives,
        cycle=12,
        attach=True,
        messages=4 * lives,
        recipients=2,
        addresses=MIXED,
        pace=0.25,
    )
    tell(record_property, clean(verdict))
    assert verdict.kills >= (0 if call == "link" else lives // 2), verdict


@pytest.mark.timeout(300)
@pytest.mark.parametrize("call", ["unlinkat", "renameat", "fsync", "write"] if FULL else ["fsync"])
async def test_killed_at_the_nth_call_since_its_birth(
    directory: Path, required: Callable[[str], None], call: str, record_property: Record
) -> None:
    """The same counted from the first breath, so that the mending after a crash is killed too."""
    required("strace")
    lives = 30 if FULL else 4
    inject = f"{call}:signal=KILL:when={{life}}"
    size: dict[str, Any] = {"messages": 4 * lives, "lives_injected": lives, "inject": inject}
    verdict = await run(directory, **size, recipients=2, addresses=MIXED, pace=0.2)
    tell(record_property, clean(verdict))
    assert verdict.kills


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("call", "error"),
    [(call, error) for call in CALLS for error in ("EIO", "ENOSPC", "EMFILE")]
    if FULL
    else [
        ("fsync", "EIO"),
        ("rename", "ENOSPC"),
        ("openat", "EMFILE"),
        ("fdatasync", "EIO"),
        ("pwrite64", "ENOSPC"),
        ("unlink", "EIO"),
    ],
)
async def test_errors_at_any_call(
    directory: Path, required: Callable[[str], None], call: str, error: str, record_property: Record
) -> None:
    """Once it is ready, every fifth of 60 such calls of a thread fails: nothing is lost, and nothing told wrong."""
    required("strace")
    verdict = await run(
        directory,
        command=LOOPS,
        environment={"MAILRELAYD_TEST_PAUSE": "1"},
        inject=f"{CALLS[call]}:error={error}:when=3..60+5",
        attach=True,
        messages=30 if FULL else 10,
        recipients=2,
        addresses=MIXED,
        pace=0.1,
    )
    tell(record_property, clean(verdict))


@pytest.fixture
def small_disk(directory: Path) -> Iterator[Path]:
    """The spool on a file system of three MiB."""
    if not may_mount():
        pytest.skip("needs root with CAP_SYS_ADMIN to mount a tmpfs")
    spool = directory / "spool"
    spool.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(spool)], check=True)
    yield spool
    subprocess.run(["umount", str(spool)], check=True)


@pytest.mark.timeout(300)
async def test_a_full_disk_that_is_freed_again(directory: Path, small_disk: Path, record_property: Record) -> None:
    """Full for a while, twice: producers hear of it, what was accepted stays accepted, and then all goes on."""

    async def fill(world: World) -> None:
        ballast = small_disk / "ballast"
        for _ in range(4 if FULL else 2):
            await asyncio.sleep(1.5)
            with ballast.open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(4096))
                except OSError:
                    pass
            await asyncio.sleep(6 if FULL else 2)
            ballast.unlink()

    verdict = await run(
        directory,
        nemesis=fill,
        messages=200 if FULL else 60,
        recipients=2,
        addresses=MIXED,
        pace=0.05,
        over='[spool]\nmin_free = "0B"\n',
    )
    tell(record_property, clean(verdict))
    assert "No space left" in (directory / "daemon.log").read_text()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("daemons", [2, 3] if FULL else [2])
async def test_several_daemons_at_once(directory: Path, daemons: int, record_property: Record) -> None:
    """One of them works and the others end with 75, again and again; nothing is sent by two."""
    verdict = clean(await run(directory, daemons=daemons, messages=200 if FULL else 80, recipients=2, pace=0.02))
    tell(record_property, verdict)
    assert verdict.dup_race + verdict.dup_window == 0
    assert all(death.meant for death in read_deaths(directory / "deaths.jsonl"))


@pytest.mark.timeout(300)
@pytest.mark.skipif(not FULL, reason="at full size only")
async def test_several_daemons_that_are_killed(directory: Path, record_property: Record) -> None:
    """Three take over from one another, kill after kill."""
    verdict = await run(directory, daemons=3, messages=200, recipients=2, kills=30, addresses=FATES)
    tell(record_property, clean(verdict))
