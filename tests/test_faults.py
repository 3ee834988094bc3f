"""Campaigns against the daemon itself: kills, misbehaving servers, two at once, crashes at chosen calls.

    MAILRELAYD_TEST_CAMPAIGN=full MAILRELAYD_TEST_SEED=2 make test ARGS="-k faults -s"

runs them at full size with another seed, and prints every verdict. tests/faults/README.md says how to read one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.driver import Campaign
from tests.faults.journal import read_deaths
from tests.faults.script import CELLS, Rule
from tests.faults.verdict import Verdict

FULL = os.environ.get("MAILRELAYD_TEST_CAMPAIGN") == "full"
SEED = int(os.environ.get("MAILRELAYD_TEST_SEED", "1"))
FATES = ("ok", "ok", "ok", "reject", "ok", "tempfail-2", "ok")

# A stray 250 behind the first bytes of a body that came in one piece is, for any client, the answer to its last byte.
UNJUDGEABLE = ("body", "stray")


def chaos(probability: float) -> list[Rule]:
    """Every fault that can be judged, each stage misbehaving this often."""
    return [
        Rule(stage, fault, probability=probability / len(faults))
        for stage, faults in CELLS.items()
        for fault in faults
        if (stage, fault) != UNJUDGEABLE
    ]


async def run(directory: Path, **options: Any) -> Verdict:
    """One campaign; the verdict is clean and nothing is left waiting."""
    campaign = Campaign(directory, **{"seed": SEED, "deadline": 300 if FULL else 60, **options})
    verdict = await campaign.run()
    print(f"\nseed {campaign.seed}\n{verdict}")
    assert verdict.ok, verdict
    assert verdict.drained, verdict
    assert verdict.sent + verdict.failed == verdict.dropped
    return verdict


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where a campaign keeps its evidence."""
    return tmp_path


@pytest.mark.timeout(900)
async def test_no_kill_and_no_fault_loses_doubles_or_damages_anything(directory: Path) -> None:
    """SIGKILLs at random moments and a server that fails in every way at every stage: all is sent or kept, once."""
    size: dict[str, Any] = {"messages": 500, "kills": 50} if FULL else {"messages": 150, "kills": 15}
    verdict = await run(directory, **size, recipients=3, addresses=FATES, rules=chaos(0.05 if FULL else 0.03))
    assert verdict.kills == size["kills"]
    assert verdict.faults


@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", ["maildir", "sidecar", "slow"])
async def test_kills_while_producers_write(directory: Path, way: str) -> None:
    """The Maildir way, sidecars and files that grow where they stand survive kills in the middle of a claim."""
    kills = 30 if FULL else 4
    await run(directory, way=way, messages=10 * kills, kills=kills, recipients=3, addresses=FATES, between=(0.4, 0.9))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", ["submit", "sendmail"])
async def test_kills_on_both_sides_of_handing_in(directory: Path, way: str) -> None:
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
    assert verdict.kills == kills
    assert verdict.untaken > 0
    assert '"producer": "submit"' in (directory / "daemon.log").read_text()


@pytest.mark.timeout(300)
async def test_two_daemons_at_once(directory: Path) -> None:
    """One of two works and the other ends with 75, again and again; nothing is sent by both."""
    verdict = await run(directory, daemons=2, messages=100, recipients=2, pace=0.02)
    assert (verdict.sent, verdict.dup_race + verdict.dup_window) == (200, 0)
    assert all(death.meant for death in read_deaths(directory / "deaths.jsonl"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("call", ["unlinkat", "renameat", "fsync", "write"] if FULL else ["unlinkat", "fsync"])
async def test_killed_at_the_nth_call(directory: Path, required: Callable[[str], None], call: str) -> None:
    """SIGKILL at the first call of a thread, then at the second, and so on: every place to crash is a good one."""
    required("strace")
    lives = 30 if FULL else 6
    verdict = await run(
        directory,
        inject=f"{call}:signal=KILL:when={{life}}",
        lives_injected=lives,
        messages=4 * lives,
        recipients=2,
        addresses=("ok", "reject", "ok", "tempfail-1"),
        pace=0.2,
    )
    assert verdict.kills


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("call", "error"), [("fsync", "EIO"), ("renameat", "ENOSPC")])
async def test_disk_errors(directory: Path, required: Callable[[str], None], call: str, error: str) -> None:
    """After the start every fifth call fails as on a bad or a full disk: it is waited for, nothing gets lost."""
    required("strace")
    await run(
        directory,
        inject=f"{call}:error={error}:when=20+5",
        messages=60 if FULL else 10,
        recipients=2,
        addresses=("ok", "reject", "ok", "tempfail-1"),
        pace=0.1,
    )
