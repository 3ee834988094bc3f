"""The campaign of IMAP cells: every stage of the conversation fails in every way, and all is well afterwards.

    MAILRELAYD_TEST_CAMPAIGN=full make test ARGS="-k faults_imap -s"

runs all cells: at the first time that a stage is reached, at the second, and twice in a row. Else it is a share of
them, another one with another MAILRELAYD_TEST_SEED. tests/faults/README.md says how to read a verdict.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.faults.imap_cells import Campaign, Cell, cells
from tests.faults.imap_server import CELLS, Plan
from tests.faults.inbound_verdict import Verdict
from tests.faults.runs import FULL, SEED, Record, tell_answers

SHARE = 6  # one in so many
SURVIVED = {  # after these the same connection goes on, without that stage
    *(("select", fault) for fault in ("stray", "uidvalidity", "expunged")),
    *((stage, fault) for stage in ("idle", "done") for fault in ("no", "bad")),
}
ONCE = ("greeting", "starttls", "login", "select")  # on each connection, and after a fault elsewhere there is no other


async def run(directory: Path, chosen: list[Cell], **options: Any) -> Verdict:
    campaign = Campaign(directory, chosen, **{"seed": SEED, **options})
    verdict = await campaign.run()
    print(
        f"\nseed {SEED}, {len(chosen)} cells\n{verdict}\nslowest     {'; '.join(campaign.slow)}; {campaign.memory} KiB"
    )
    return verdict


@pytest.mark.timeout(600)
@pytest.mark.parametrize("when", [{}, {"nth": 2}, {"times": 2}] if FULL else [{}])
async def test_whatever_a_server_does_every_answer_is_decided_once(
    when: dict[str, int], short_tmp: Path, record_property: Record
) -> None:
    """A fault costs a connection at most: what it hid is read later, once, and mail of others stays as it is.

    So it is at the first time, in the middle of what went well before, and where the next try meets the fault again.
    """
    chosen = cells() if FULL else cells()[SEED % SHARE :: SHARE]
    if when:  # lies are not told twice
        chosen = [cell for cell in chosen if cell[1] not in ("nocaps", "lie")]
    if "nth" in when:
        chosen = [cell for cell in chosen if cell[0] not in ONCE]
    if "times" in when:
        chosen = [cell for cell in chosen if cell not in SURVIVED]
    verdict = await run(short_tmp, chosen, deadline=480.0, **when)
    assert verdict.ok, verdict
    tell_answers(record_property, verdict, cells=len(chosen))


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("bug", "word", "cell"),
    [
        ("plain-expunge", "touched", ("idle", "no")),
        *(
            [("reads-on", "touched", ("idle", "no")), ("new-ids", "doubled", ("expunge", "uidvalidity"))]
            if FULL
            else []
        ),
    ],
)
async def test_a_bug_is_seen(bug: str, word: str, cell: Cell, short_tmp: Path) -> None:
    """The daemon with a bug of this kind does not pass."""
    verdict = await run(short_tmp, [cell], bug=bug, deadline=20.0)
    assert not verdict.ok
    assert getattr(verdict, word) > 0, verdict


def test_a_plan_strikes_where_and_as_often_as_it_says() -> None:
    """From the nth time on, so many times; a cell that does not exist is refused."""
    plan = Plan("fetch", "bye", nth=2, times=2)
    assert [plan.pick(stage) for stage in ("fetch", "store", *["fetch"] * 4)] == [None, None, "bye", "bye", None, None]
    with pytest.raises(ValueError, match="no such cell"):
        Plan("fetch", "inject")
    assert len(cells()) == sum(map(len, CELLS.values()))
