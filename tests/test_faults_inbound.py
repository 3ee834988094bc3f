"""The campaign against the reading of answers: kills at any moment, sinks that fail, mail that is nobody's business.

    MAILRELAYD_TEST_CAMPAIGN=full MAILRELAYD_TEST_SEED=2 make test ARGS="-k faults_inbound -s"

runs it at full size with another seed. tests/faults/README.md says how to read a verdict.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.inbound import Campaign
from tests.faults.inbound_verdict import Given, Reply, Stored, Verdict, judge
from tests.faults.journal import sha256
from tests.faults.runs import FULL, SEED, Record, tell_answers
from tests.servers.mailbox import IMAP_PROGRAM


def run(directory: Path, **options: object) -> Verdict:
    campaign = Campaign(directory, **{"seed": SEED, **options})  # type: ignore[arg-type]
    verdict = campaign.run()
    print(f"\nseed {campaign.seed}\n{verdict}")
    return verdict


@pytest.fixture
def directory(short_tmp: Path, required: Callable[[str], None]) -> Path:
    """Where a campaign keeps its evidence."""
    required(IMAP_PROGRAM)
    return short_tmp


@pytest.mark.real
@pytest.mark.timeout(900)
def test_no_kill_loses_or_doubles_a_decision(directory: Path, record_property: Record) -> None:
    """Each answer becomes one decision, told to every sink; mail goes only when that is so, and only ours."""
    verdict = run(directory, replies=300, kills=100) if FULL else run(directory, replies=20, kills=5)
    assert verdict.ok, verdict
    tell_answers(record_property, verdict)


@pytest.mark.real
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("bug", "word"),
    [
        ("remove-first", "lost"),
        *([("new-ids", "doubled"), ("forgetful", "untold")] if FULL else []),
        *([("plain-expunge", "touched"), ("reads-on", "touched")] if FULL else []),
    ],
)
def test_the_witness_sees_a_bug(bug: str, word: str, directory: Path) -> None:
    """The daemon with a bug of this kind does not pass."""
    verdict = run(directory, bug=bug, replies=15, kills=3, between=(0.05, 0.4), deadline=3.0)
    assert not verdict.ok
    assert getattr(verdict, word) > 0, verdict


@pytest.mark.real
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "inject",
    [
        "fsync:signal=KILL:when={life}",
        *(["renameat:signal=KILL:when={life}", "unlinkat:signal=KILL:when={life}"] if FULL else []),
        *(["fsync:error=ENOSPC:when=8+5", "renameat:error=EIO:when=8+5"] if FULL else []),
    ],
)
def test_a_crash_or_a_bad_disk_at_any_call(
    inject: str, directory: Path, required: Callable[[str], None], record_property: Record
) -> None:
    """Killed at the first call of a thread, then at the second, and so on; or every fifth call fails."""
    required("strace")
    killed = "KILL" in inject
    verdict = run(
        directory,
        inject=inject,
        replies=20 if FULL else 10,
        kills=20 if FULL and killed else 5,
        between=(0.05, 1.2) if killed else (2.0, 4.0),
    )
    assert verdict.ok, verdict
    tell_answers(record_property, verdict)


# The verdict by itself

ONE = Reply(b"From: a@dest.test\r\n\r\nApproved\r\n", "PO-1", "a@dest.test", "approved", "fine")
DOCUMENT = (
    '{"id": "id-1", "data": {"request_id": "PO-1", "decided_by": {"address": "a@dest.test"}, "decision": "approved", '
    f'"comment": "fine", "message": {{"sha256": "{sha256(ONE.data)}"}}}}}}'
).encode()
OTHER = Stored(b"lunch?", frozenset({r"\Deleted"}))
ARCHIVE: dict[str, tuple[bytes | None, bytes | None]] = {"id-1": (ONE.data, DOCUMENT)}
GOT = {"folder": {"id-1": [Given(DOCUMENT)]}, "webhook": {"id-1": [Given(DOCUMENT, taken=False), Given(DOCUMENT)]}}


def words(verdict: Verdict) -> set[str]:
    return {detail.partition(":")[0] for detail in verdict.details}


def test_a_clean_end_is_clean() -> None:
    """Archived, told and gone; an offer that was refused first is no repeat."""
    verdict = judge([ONE], [OTHER], ARCHIVE, GOT, [OTHER])
    assert verdict.ok, verdict
    assert (verdict.decided, verdict.repeats) == (1, 0)
    again = {**GOT, "folder": {"id-1": [Given(DOCUMENT)] * 3}}
    assert judge([ONE], [OTHER], ARCHIVE, again, [OTHER]).repeats == 2


def test_each_word_is_said_when_it_should_be() -> None:
    """Every kind of end that is not clean."""
    here = Stored(ONE.data, frozenset())
    nothing: dict[str, tuple[bytes | None, bytes | None]] = {}
    told_twice = {"folder": {"id-1": [Given(DOCUMENT), Given(DOCUMENT + b" ")]}}
    assert words(judge([ONE], [OTHER], nothing, {}, [OTHER])) == {"lost"}
    assert words(judge([ONE], [OTHER], nothing, {}, [OTHER, here])) == {"left"}
    assert not judge([ONE], [OTHER], nothing, {}, [OTHER, here]).ok
    assert words(judge([ONE], [], {**ARCHIVE, "id-2": (ONE.data, DOCUMENT)}, {}, [])) == {"doubled", "wrong"}
    assert words(judge([ONE], [], {**ARCHIVE, "id-2": (ONE.data[:9], DOCUMENT)}, {}, [])) == {"torn"}
    assert words(judge([ONE], [], {**ARCHIVE, "id-2": (ONE.data, None)}, {}, [])) == {"torn"}
    assert words(judge([replace(ONE, decision="rejected")], [], ARCHIVE, GOT, [])) == {"wrong"}
    assert words(judge([ONE], [], ARCHIVE, {"folder": {}}, [])) == {"untold"}
    assert words(judge([ONE], [], ARCHIVE, {"folder": {"id-1": [Given(DOCUMENT, taken=False)]}}, [])) == {"untold"}
    assert words(judge([ONE], [], ARCHIVE, told_twice, [])) == {"changed"}
    assert words(judge([ONE], [], ARCHIVE, {**GOT, "program": {"id-1": [Given(DOCUMENT)], "id-9": []}}, [])) == {
        "invented"
    }
    assert words(judge([ONE], [OTHER], ARCHIVE, GOT, [])) == {"touched"}
    assert words(judge([ONE], [OTHER], ARCHIVE, GOT, [replace(OTHER, flags=frozenset())])) == {"touched"}
