"""The campaign of the pickup folder: every hostile kind of entry, and a local user who means harm, among good mail.

    MAILRELAYD_TEST_CAMPAIGN=full sudo make test ARGS="-k faults_pickup -s"

runs it longer, several times. Three users are needed, so that only root can run it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import require
from tests.faults.hostile import SECRET, Campaign
from tests.faults.hostile_user import besieged, body_hash, message
from tests.faults.journal import sha256, split
from tests.faults.runs import FULL, SEED, Record
from tests.servers.daemon import account


@pytest.fixture
def three_users() -> None:
    """Skips without root, and where the daemon would have to be root itself."""
    require("/bin/sh", root=True)
    if account().uid == 0:
        pytest.skip(account().reason)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(SEED, SEED + (3 if FULL else 1)))
def test_good_mail_passes_between_hostile_entries(
    seed: int, short_tmp: Path, three_users: None, record_property: Record
) -> None:
    """All of it arrives, once and whole; nothing is followed, changed or waited for, no line of the log is forged."""
    report = Campaign(short_tmp, messages=100, seconds=20.0 if FULL else 5.0, seed=seed).run()
    print(f"\nseed {seed}\n{report}")
    assert not report.problems, report
    assert report.delivered == report.good == 100
    assert report.theirs > 0
    done = {"good": report.good, "delivered": report.delivered, "hostile": report.entries, "theirs": report.theirs}
    record_property("figures", {**done, "wrong": len(report.problems)})


def test_the_unfriendly_user_tells_what_it_wrote() -> None:
    """Its hash of a body is the one that the mail server takes of what arrives."""
    data = message("own-1", 1)
    assert body_hash(data) == sha256(split(data.replace(b"\n", b"\r\n"))[1])
    assert body_hash(data[:-1]) == body_hash(data)
    assert body_hash(data[:-2]) != body_hash(data)
    assert sum(besieged(number) for number in range(100)) == 10
    assert SECRET not in data
