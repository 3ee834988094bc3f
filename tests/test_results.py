"""results/: what became of a file, for its producer and nobody else, and never in the way of the mail."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mailrelayd.outbound.record import Record
from mailrelayd.outbound.results import KEPT, Results, status_of
from mailrelayd.outbound.values import Envelope, Progress, RecipientRecord, Response, Stage, Status

NOW = 1_800_000_000.0
OK = RecipientRecord(Status.SENT, Response(Stage.BODY, 250, "2.0.0", "queued as 4711"), 2, NOW)
NO = RecipientRecord(Status.FAILED, Response(Stage.RCPT, 550, "5.1.1", "no such user"), 1, NOW, reason="rejected")
RECORD = Record(
    "a" * 16,
    3,
    "headers",
    Envelope("erp@example.com", ("a@example.org", "b@example.org", "c@example.org")),
    Progress(NOW, {"a@example.org": OK, "b@example.org": NO}),
    reason="rejected",
    file="PO-42.eml",
    producer="erp",
)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    (tmp_path / "pickup/erp").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def results(spool: Path) -> Iterator[Results]:
    made = Results(spool)
    yield made
    made.close()


def test_a_result_says_what_became_of_every_recipient(results: Results, spool: Path) -> None:
    """File, queue id, status, time, and each address with the server's words."""
    results.write(RECORD, "failed", NOW)
    assert json.loads((spool / "results/erp/PO-42.json").read_text()) == {
        "file": "PO-42.eml",
        "queue_id": "a" * 16,
        "status": "failed",
        "at": "2027-01-15T08:00:00Z",
        "recipients": [
            {
                "address": "a@example.org",
                "status": "sent",
                "response": "250 2.0.0 queued as 4711",
                "attempts": 2,
                "reason": "",
            },
            {
                "address": "b@example.org",
                "status": "failed",
                "response": "550 5.1.1 no such user",
                "attempts": 1,
                "reason": "rejected",
            },
            {"address": "c@example.org", "status": "queued", "response": "", "attempts": 0, "reason": ""},
        ],
    }


@pytest.mark.parametrize(
    ("file", "producer", "name"),
    [
        ("a.eml", "", "results/a.json"),
        ("A.EML", "erp", "results/erp/A.json"),
        ("1699.M1P2.host", "erp", "results/erp/1699.M1P2.host.json"),
        ("a.eml.eml", "", "results/a.eml.json"),
        ("\udcff.eml", "", os.fsdecode(b"results/\xff.json")),
    ],
)
def test_the_name_is_the_files(results: Results, spool: Path, file: str, producer: str, name: str) -> None:
    """NAME.json for NAME.eml, in the folder of its producer, whatever bytes the name holds."""
    results.write(replace(RECORD, file=file, producer=producer), "sent", NOW)
    assert json.loads((spool / name).read_bytes())["file"] == file


def test_what_was_refused_says_why(results: Results, spool: Path) -> None:
    """A file without envelope has no recipients, but a sentence."""
    results.write(replace(RECORD, envelope=None, detail="no From field"), "refused", NOW)
    document = json.loads((spool / "results/erp/PO-42.json").read_text())
    assert (document["status"], document["detail"], document["recipients"]) == ("refused", "no From field", [])


def test_a_file_handed_in_again_keeps_the_result_of_its_first_time(results: Results, spool: Path) -> None:
    """Whoever asks by the same name learns what became of it; only of another message it is news to be a duplicate."""
    path = spool / "results/erp/PO-42.json"
    results.write(RECORD, "failed", NOW)
    before = path.read_bytes()
    results.write(replace(RECORD, envelope=None), "duplicate", NOW + 1)
    assert path.read_bytes() == before
    results.write(replace(RECORD, queue_id="b" * 16, envelope=None), "duplicate", NOW + 2)
    assert (json.loads(path.read_text())["status"], json.loads(path.read_text())["queue_id"]) == ("duplicate", "b" * 16)
    results.write(RECORD, "sent", NOW + 3)
    assert json.loads(path.read_text())["status"] == "sent"


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_producers_read_and_others_do_not(results: Results, spool: Path, mask: int) -> None:
    """Folders may be entered and not listed by the producer's group, files are read by it, whatever the umask."""
    before = os.umask(mask)
    try:
        results.write(RECORD, "sent", NOW)
    finally:
        os.umask(before)
    for folder in ("results", "results/erp"):
        assert (spool / folder).stat().st_mode & 0o7777 == 0o2710
    assert (spool / "results/erp/PO-42.json").stat().st_mode & 0o7777 == 0o640


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give a folder to any group")
def test_the_group_is_the_pickup_folders(results: Results, spool: Path) -> None:
    """Who may drop files there may read what became of them; a group that changes is followed at the next start."""
    os.chown(spool / "pickup", -1, 4711)
    os.chown(spool / "pickup/erp", -1, 4712)
    results.write(RECORD, "sent", NOW)
    groups = {name: (spool / name).stat().st_gid for name in ("results", "results/erp", "results/erp/PO-42.json")}
    assert groups == {"results": 4711, "results/erp": 4712, "results/erp/PO-42.json": 4712}
    os.chown(spool / "pickup/erp", -1, 4713)
    results.close()
    results.write(RECORD, "sent", NOW)
    assert (spool / "results/erp").stat().st_gid == 4713
    assert (spool / "results/erp").stat().st_mode & 0o7777 == 0o2710


@pytest.mark.parametrize("changed", [{"file": ""}, {"rule": "submit"}, {"rule": "dsn"}])
def test_what_was_no_file_has_no_result(results: Results, spool: Path, changed: dict[str, str]) -> None:
    """Nobody asks for what came through the socket, or from ourselves; nor can it be named without a name."""
    results.write(replace(RECORD, **changed), "sent", NOW)  # type: ignore[arg-type]
    assert not (spool / "results").exists()


def test_a_later_end_replaces_an_earlier_one(results: Results, spool: Path) -> None:
    """What failed and was brought back has one result: the last."""
    results.write(RECORD, "failed", NOW)
    results.write(RECORD, "sent", NOW)
    assert json.loads((spool / "results/erp/PO-42.json").read_text())["status"] == "sent"


def test_results_are_kept_for_a_week(results: Results, spool: Path) -> None:
    """Also those of producers that are no longer configured; what is not ours stays."""
    results.sweep(NOW)
    results.write(RECORD, "sent", NOW)
    results.write(replace(RECORD, producer=""), "sent", NOW)
    (spool / "results/erp/README").write_text("")
    now = (spool / "results/erp/PO-42.json").stat().st_ctime
    Results(spool).sweep(now + KEPT - 60)
    assert (spool / "results/erp/PO-42.json").exists()
    Results(spool).sweep(now + KEPT + 60)
    left = [str(path.relative_to(spool)) for path in (spool / "results").rglob("*") if path.is_file()]
    assert left == ["results/erp/README"]


def test_a_link_is_not_swept_through(results: Results, spool: Path, tmp_path: Path) -> None:
    """A folder that somebody linked in is not ours."""
    results.write(RECORD, "sent", NOW)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.json").write_text("")
    (spool / "results/linked").symlink_to(outside)
    results.sweep(NOW + 100 * KEPT)
    assert (outside / "a.json").exists()


@pytest.mark.parametrize(
    ("reason", "status"),
    [("rejected", "failed"), ("by-hand", "failed"), ("expired", "expired"), ("suppressed", "suppressed")],
)
def test_reasons_become_a_status(reason: str, status: str) -> None:
    """A producer is told apart what it may try again, and what a staging machine kept."""
    assert status_of(reason) == status
