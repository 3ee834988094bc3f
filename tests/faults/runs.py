"""What the tests of all campaigns share: how large, with which seed, on which event loop, and how a run is told.

`MAILRELAYD_TEST_CAMPAIGN=full` runs them at full size, `MAILRELAYD_TEST_SEED` with another seed, and with
`MAILRELAYD_TEST_LOOP=uvloop` the daemon works on that loop.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults import inbound_verdict
from tests.faults.driver import DAEMON, Campaign
from tests.faults.producers import PROGRAM
from tests.faults.stopping import LOOPS
from tests.faults.verdict import Verdict
from tests.servers.process import LOOP

FULL = os.environ.get("MAILRELAYD_TEST_CAMPAIGN") == "full"
SEED = int(os.environ.get("MAILRELAYD_TEST_SEED", "1"))
COMMAND = LOOPS if os.environ.get("MAILRELAYD_TEST_LOOP") else DAEMON
FATES = ("ok", "ok", "ok", "reject", "ok", "tempfail-2", "ok")

Record = Callable[[str, object], None]
"""pytest's `record_property`: what it is told ends up in the table of `python -m tests.faults`."""


def seeded(bug: str) -> tuple[str, ...]:
    """The command of the daemon with this bug."""
    return (sys.executable, "-m", "tests.faults.seeded", bug, *PROGRAM[3:], "run", "--loop", LOOP)


async def run(directory: Path, **options: Any) -> Verdict:
    """One campaign, judged and printed; whoever asked for it says what is clean."""
    chosen = {"command": COMMAND, "seed": SEED, "deadline": 300 if FULL else 60, **options}
    verdict = await Campaign(directory, **chosen).run()
    print(f"\nseed {chosen['seed']}\n{verdict}")
    return verdict


def clean(verdict: Verdict) -> Verdict:
    """Nothing speaks against it, nothing is left waiting, and every recipient was sent to or failed."""
    assert verdict.ok, verdict
    assert verdict.drained, verdict
    assert verdict.sent + verdict.failed == verdict.dropped, verdict
    return verdict


def tell(record: Record, verdict: Verdict, **more: int) -> None:
    """Let the table know, which adds up what several tests say of one row."""
    wrong = verdict.corrupt + verdict.foreign + verdict.unstable_ids + verdict.violations + verdict.denied
    done = {"recipients": verdict.dropped, "kills": verdict.kills, "at work": verdict.met, "faults": verdict.faults}
    excused = {"race": verdict.dup_race, "window": verdict.dup_window}
    record("figures", {**done, **more, **excused, "lost": verdict.lost, "doubled": verdict.dup_calm, "wrong": wrong})


def tell_answers(record: Record, verdict: inbound_verdict.Verdict, **more: int) -> None:
    """The same of answers."""
    decisions = verdict.torn + verdict.wrong + verdict.untold + verdict.changed + verdict.invented
    done = {**more, "answers": verdict.replies, "decided": verdict.decided, "kills": verdict.kills}
    against = {"lost": verdict.lost + verdict.left, "doubled": verdict.doubled, "touched": verdict.touched}
    record("figures", {**done, **against, "wrong": decisions})
