"""The campaign of SMTP cells: every stage of the conversation fails in every way, and everything arrives afterwards.

    MAILRELAYD_TEST_CAMPAIGN=full make test ARGS="-k faults_smtp -s"

runs all cells. Else it is a share of them, another one with another MAILRELAYD_TEST_SEED.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.runs import FULL, SEED, Record, tell
from tests.faults.script import CELLS, Rule
from tests.faults.smtp_cells import BAD, Campaign, Cell, cells

SHARE = 9  # one in so many


@pytest.mark.timeout(900)
@pytest.mark.parametrize("window", [1, 16])
async def test_whatever_a_server_does_every_message_arrives(
    tmp_path: Path, window: int, record_property: Record
) -> None:
    """Once, or again where nobody could know better; nothing goes in clear, nothing hangs, no memory is eaten up."""
    every = cells(window)
    campaign = Campaign(tmp_path, every if FULL else every[SEED % SHARE :: SHARE], 6, SEED, window)
    report = await campaign.run()
    print(f"\nseed {SEED}\n{report}")
    assert campaign.ok, report
    for outcome in campaign.outcomes:
        tell(record_property, outcome.verdict, cells=1)


def test_every_cell_has_a_name_and_makes_sense() -> None:
    """What is written is what is read; every fault of every stage is among them, and every bad certificate."""
    every = cells()
    assert [Cell.parse(str(cell)) for cell in every] == every
    assert len(set(every)) == len(every)
    assert {(cell.stage, cell.fault) for cell in every} == {
        (stage, fault) for stage, faults in CELLS.items() for fault in faults
    } - {("body", "stray")}
    assert {cell.certificate for cell in every if cell.fault == "badcert"} == set(BAD)
    assert all(Rule(cell.stage, cell.fault).fault for cell in every)
    with pytest.raises(ValueError, match="STAGE:FAULT"):
        Cell.parse("dot")
