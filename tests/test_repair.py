"""The state table: each row at rest stays, each row that a crash left is brought to rest."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mailrelayd import durable
from mailrelayd.outbound import journal, queueid, record
from mailrelayd.outbound.keys import KEPT, Keys, digest
from mailrelayd.outbound.record import Claim, Record
from mailrelayd.outbound.repair import Found, repair
from mailrelayd.outbound.stored import Reader, Reading
from mailrelayd.outbound.values import Envelope, Progress

ID = queueid.Sequence("relay1", last=0).take(1_800_000_000.0)[0]
NOW = 1_800_000_100.0
KEY = digest(1000, "", "PO-42")
OTHER = queueid.Sequence("relay1", last=0).take(1_800_000_001.0)[0]
MAIL = b"From: a@example.com\nTo: b@example.org\n\n"
EML, JSON, ORPHAN = f"{ID}.eml", f"{ID}.json", f"{ID}.env.json"


def written(revision: int, claim: Claim | None = None, key: str = "") -> bytes:
    envelope = Envelope("a@example.com", ("b@example.org",))
    return record.encode(Record(ID, revision, "headers", envelope, Progress(1.0), claim=claim, key=key))


@dataclass
class Row:
    """Which files stand there, which after the repair, and what the queue learns: plain, record, kept or nothing."""

    before: dict[str, bytes]
    after: set[str]
    learns: str = ""
    same: set[str] = field(default_factory=set)  # whose bytes must not change, besides every message's


ONE, TWO, THREE = written(1), written(2), written(3)
NEWER, DAMAGED = b'{"format": 2}', b'{"format": 1, "revi'
KEYED = written(1, key=KEY)
Q, F, S, P, K = "queue/", "failed/", "sent/", "pickup/", "keys/"
TAKEN = f"{ID} 1800000000\n".encode()

ROWS = {
    # at rest
    "nothing": Row({}, set()),
    "not taken yet": Row({P + "a.eml": MAIL, P + "a.env.json": b"{}"}, {P + "a.eml", P + "a.env.json"}),
    "due": Row({Q + EML: MAIL}, {Q + EML}, "plain"),
    "deferred": Row({Q + EML: MAIL, Q + JSON: TWO}, {Q + EML, Q + JSON}, "record", {Q + JSON}),
    "failed": Row({F + EML: MAIL, F + JSON: ONE}, {F + EML, F + JSON}, "", {F + JSON}),
    "failed, record deleted by hand": Row({F + EML: MAIL}, {F + EML}),
    "orphaned sidecar put aside": Row({F + ORPHAN: b"{}", F + JSON: ONE}, {F + ORPHAN, F + JSON}),
    "sent and kept": Row({S + EML: MAIL}, {S + EML}),
    "sent and kept, with its record": Row({S + EML: MAIL, S + JSON: TWO}, {S + EML, S + JSON}, "", {S + JSON}),
    "taken by its key": Row(
        {Q + EML: MAIL, Q + JSON: KEYED, K + KEY: TAKEN}, {Q + EML, Q + JSON, K + KEY}, "record", {K + KEY}
    ),
    "gone, its key remembered": Row({K + KEY: TAKEN}, {K + KEY}, "", {K + KEY}),
    # handing in
    "hand in: some bytes written": Row({f"{Q}.tmp-4711": MAIL}, set()),
    "hand in: record written": Row({f"{Q}.tmp-4711": MAIL, Q + JSON: KEYED}, set()),
    "hand in: renamed, key not written": Row(
        {Q + EML: MAIL, Q + JSON: KEYED}, {Q + EML, Q + JSON, K + KEY}, "record", {Q + JSON}
    ),
    "hand in: key half written": Row(
        {Q + EML: MAIL, Q + JSON: KEYED, f"{K}.tmp-{KEY}": b""}, {Q + EML, Q + JSON, K + KEY}, "record", {Q + JSON}
    ),
    "key taken by an earlier one": Row(
        {Q + EML: MAIL, Q + JSON: KEYED, K + KEY: f"{OTHER} 1800000001\n".encode()},
        {Q + EML, Q + JSON, K + KEY},
        "record",
        {Q + JSON, K + KEY},
    ),
    # a claim
    "claim: record written": Row({P + "a.eml": MAIL, Q + JSON: ONE}, {P + "a.eml"}),
    "claim: renamed": Row({Q + EML: MAIL, Q + JSON: ONE}, {Q + EML, Q + JSON}, "record"),
    # complete, delete
    "complete: message removed": Row({Q + JSON: TWO}, set()),
    "complete: message kept in sent": Row({S + EML: MAIL, Q + JSON: TWO}, {S + EML}),
    "delete: failed message removed": Row({F + JSON: TWO}, set()),
    # refuse
    "refuse: record written": Row({P + "a.eml": MAIL, F + JSON: ONE}, {P + "a.eml"}),
    # fail
    "fail: record written": Row({Q + EML: MAIL, F + JSON: ONE}, {F + EML, F + JSON}, "", {F + JSON}),
    "fail: record written beside another": Row(
        {Q + EML: MAIL, Q + JSON: ONE, F + JSON: TWO}, {F + EML, F + JSON}, "", {F + JSON}
    ),
    "fail: moved": Row({Q + JSON: ONE, F + EML: MAIL, F + JSON: TWO}, {F + EML, F + JSON}, "", {F + JSON}),
    # bring back
    "retry: record written": Row(
        {Q + JSON: THREE, F + EML: MAIL, F + JSON: TWO}, {Q + EML, Q + JSON}, "record", {Q + JSON}
    ),
    "retry: moved": Row({Q + EML: MAIL, Q + JSON: THREE, F + JSON: TWO}, {Q + EML, Q + JSON}, "record", {Q + JSON}),
    "retry: moved, the sidecar still there": Row(
        {Q + EML: MAIL, Q + JSON: THREE, F + JSON: TWO, F + ORPHAN: b"{}"}, {Q + EML, Q + JSON}, "record", {Q + JSON}
    ),
    "records of the same revision": Row({Q + EML: MAIL, Q + JSON: TWO, F + JSON: TWO}, {F + EML, F + JSON}),
    # what cannot be used is kept
    "newer record": Row({Q + EML: MAIL, Q + JSON: NEWER}, {Q + EML, Q + JSON}, "kept", {Q + JSON}),
    "damaged record": Row({Q + EML: MAIL, Q + JSON: DAMAGED}, {Q + EML, Q + JSON}, "kept", {Q + JSON}),
    "failed with a newer record": Row({F + EML: MAIL, F + JSON: NEWER}, {F + EML, F + JSON}, "", {F + JSON}),
    "two records, one newer in queue": Row(
        {Q + EML: MAIL, Q + JSON: NEWER, F + JSON: TWO}, {Q + EML, Q + JSON, F + JSON}, "kept", {Q + JSON, F + JSON}
    ),
    "two records, one newer in failed": Row(
        {Q + EML: MAIL, Q + JSON: ONE, F + JSON: NEWER}, {Q + EML, Q + JSON, F + JSON}, "kept", {Q + JSON, F + JSON}
    ),
    "two records, one damaged, message failed": Row(
        {Q + JSON: DAMAGED, F + EML: MAIL, F + JSON: TWO}, {Q + JSON, F + EML, F + JSON}, "", {Q + JSON, F + JSON}
    ),
    # leftovers
    "unfinished writes": Row(
        {Q + EML: MAIL, f"{Q}.tmp-{JSON}": b"{", f"{F}.tmp-{JSON}": b"", f"{S}.tmp-x": b""}, {Q + EML}, "plain"
    ),
    "foreign files": Row(
        {Q + "README": b"", Q + "x.json": b"", f"{Q}{ID}.bak": b"", f"{F}{ID}.eml.orig": b"", F + "x.eml": MAIL},
        {Q + "README", Q + "x.json", f"{Q}{ID}.bak", f"{F}{ID}.eml.orig", F + "x.eml"},
    ),
}


@dataclass
class Place:
    """The spool's folders, and what a start makes of them."""

    path: Path

    def __post_init__(self) -> None:
        for name in ("queue", "failed", "sent", "pickup", "pickup/new", "pickup/erp", "pickup/erp/new"):
            (self.path / name).mkdir()
        self.reader = Reader(self.path, Reading())
        durable.make_folder(self.path / "keys", 0o700)
        self.keys = Keys(durable.Folder(self.path / "keys"))
        self.told: dict[str, Record | str] = {}

    def repair(self, now: float = NOW) -> Found:
        self.told.clear()
        return repair(self.reader, self.keys, self.path, now, self.told.__setitem__)

    def learned(self) -> str:
        if ID in self.repair().plain:
            return "plain"
        entry = self.told.get(ID)
        return "" if entry is None else "record" if isinstance(entry, Record) else "kept"

    def files(self) -> dict[str, bytes]:
        return {str(path.relative_to(self.path)): path.read_bytes() for path in self.path.rglob("*") if path.is_file()}

    def close(self) -> None:
        self.reader.close()
        self.keys.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


def test_a_key_older_than_a_day_is_not_brought_back(place: Place) -> None:
    """A message that waits for long has no key any more: its producer may use it again."""
    (place.path / Q / EML).write_bytes(MAIL)
    (place.path / Q / JSON).write_bytes(KEYED)
    place.repair(NOW + KEPT)
    assert set(place.files()) == {Q + EML, Q + JSON}


def test_a_full_disk_stops_no_start(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that cannot be written down now is remembered for as long as the process lives."""
    (place.path / Q / EML).write_bytes(MAIL)
    (place.path / Q / JSON).write_bytes(KEYED)

    def full(*arguments: object, **keys: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable.Folder, "write", full)
    assert place.learned() == "record"
    assert place.keys.seen(KEY, NOW) == ID


@pytest.mark.parametrize("name", ROWS)
def test_every_row_comes_to_rest(place: Place, name: str) -> None:
    """After the start exactly the expected files are left, no message's bytes have changed, and again is the same."""
    row = ROWS[name]
    for path, data in {**row.before, f"queue/{OTHER}.eml": MAIL}.items():
        (place.path / path).write_bytes(data)
    for _ in range(2):
        learned = place.learned()
        files = place.files()
        assert set(files) == {*row.after, f"queue/{OTHER}.eml"}
        assert all(data == MAIL for path, data in files.items() if path.endswith(".eml"))
        assert all(files[path] == row.before[path] for path in row.same)
        assert learned == row.learns
        assert OTHER in place.repair().plain


def test_the_newest_id_counts_wherever_it_stands(place: Place) -> None:
    """Ids go on above every message's, queued or failed."""
    assert place.repair().newest == 0
    (place.path / "queue" / EML).write_bytes(MAIL)
    assert place.repair().newest == queueid.microseconds(ID)
    (place.path / "failed" / f"{OTHER}.eml").write_bytes(MAIL)
    assert place.repair().newest == queueid.microseconds(OTHER)


# -- what was sent -----------------------------------------------------------------------------------------------


@dataclass
class Recorded:
    """Which files stand there with ID in the journal, which after the repair, and what the queue learns."""

    before: dict[str, bytes]
    after: set[str]
    learns: str = ""
    inode: int = 0  # away from the file's own


RECORDED = {
    "sent": Recorded({Q + EML: MAIL}, set()),
    "sent, with its record": Recorded({Q + EML: MAIL, Q + JSON: TWO}, set()),
    "removed": Recorded({}, set()),
    "removed but for its record": Recorded({Q + JSON: TWO}, set()),
    "sent after a retry that was cut short": Recorded({Q + EML: MAIL, Q + JSON: THREE, F + JSON: TWO}, set()),
    "another file of this name": Recorded({Q + EML: MAIL}, {Q + EML}, "plain", inode=1),
    "another file of this name, with a record": Recorded(
        {Q + EML: MAIL, Q + JSON: TWO}, {Q + EML, Q + JSON}, "record", inode=1
    ),
    "put back into failed": Recorded({F + EML: MAIL, F + JSON: ONE}, {F + EML, F + JSON}),
    "not claimed": Recorded({P + "a.eml": MAIL}, {P + "a.eml"}),
}


@pytest.mark.parametrize("name", RECORDED)
def test_what_was_recorded_as_sent_goes_and_nothing_else(place: Place, name: str) -> None:
    """The message by its name and inode, then its record; as often as a start is repeated, the journal stays."""
    row = RECORDED[name]
    for path, data in {**row.before, f"queue/{OTHER}.eml": MAIL}.items():
        (place.path / path).write_bytes(data)
    eml = place.path / Q / EML
    inode = (eml.stat().st_ino if eml.exists() else 4711) + row.inode
    data = journal.whole([(5, journal.encode(ID, inode)), (9, journal.encode(ID, inode)[:40] + journal.EMPTY[40:])])
    (place.path / "journal").write_bytes(data)
    for _ in range(2):
        assert place.learned() == row.learns
        assert set(place.files()) == {*row.after, f"queue/{OTHER}.eml", "journal"}


# -- the sidecar of a claim that was cut short -------------------------------------------------------------------


def claim_of(path: Path, below: str = "") -> Claim:
    figures = path.stat()
    return Claim(below, path.name, figures.st_ino, figures.st_ctime_ns)


def untouched(path: Path) -> None:
    pass


def replaced(path: Path) -> None:
    (path.parent / "next").write_text("next")
    (path.parent / "next").rename(path)


def rewritten(path: Path) -> None:
    """The same inode with other content, as a file system makes it that gives the freed number out again."""
    path.write_text("next")
    os.utime(path, (0, 0))


@pytest.mark.parametrize("below", ["", "new", "erp", "erp/new"])
@pytest.mark.parametrize(("since", "stays"), [(untouched, False), (replaced, True), (rewritten, True)])
def test_only_the_claimed_sidecar_is_removed(
    place: Place, below: str, since: Callable[[Path], None], stays: bool
) -> None:
    """The claimed message's sidecar goes; one that took its name since is the next message's, even on its inode."""
    path = place.path / "pickup" / below / "a.env.json"
    path.write_text("{}")
    (place.path / "queue" / EML).write_bytes(MAIL)
    (place.path / "queue" / JSON).write_bytes(written(1, claim_of(path, below)))
    since(path)
    assert place.learned() == "record"
    assert path.exists() == stays


@pytest.mark.parametrize("below", ["", "new", "erp", "erp/new"])
@pytest.mark.parametrize(("since", "stays"), [(untouched, False), (replaced, True), (rewritten, True)])
def test_the_sidecar_of_a_refused_message_comes_along(
    place: Place, below: str, since: Callable[[Path], None], stays: bool
) -> None:
    """It goes to its message in failed/, in whichever producer's folder it stood; another of that name stays."""
    path = place.path / "pickup" / below / "a.env.json"
    path.write_text("{}")
    (place.path / "failed" / EML).write_bytes(MAIL)
    (place.path / "failed" / JSON).write_bytes(written(1, claim_of(path, below)))
    since(path)
    place.repair()
    assert path.exists() == stays
    assert (place.path / "failed" / ORPHAN).exists() != stays


def test_a_freed_inode_is_given_out_again(place: Place) -> None:
    """Whatever number the file system gives to the next sidecar of the same name, it is not taken for the old one."""
    path = place.path / "pickup" / "a.env.json"
    path.write_text("old")
    (place.path / "queue" / EML).write_bytes(MAIL)
    (place.path / "queue" / JSON).write_bytes(written(1, claim_of(path)))
    path.unlink()
    path.write_text("next")
    place.repair()
    assert path.read_text() == "next"


def test_a_claim_that_was_not_renamed_keeps_its_sidecar(place: Place) -> None:
    """The record goes, message and sidecar stay and are claimed again together."""
    path = place.path / "pickup" / "a.env.json"
    path.write_text("{}")
    (place.path / "pickup" / "a.eml").write_bytes(MAIL)
    (place.path / "queue" / JSON).write_bytes(written(1, claim_of(path)))
    place.repair()
    assert set(place.files()) == {"pickup/a.eml", "pickup/a.env.json"}


@pytest.mark.parametrize("name", ["../../queue/x", "a\0b", "", "n" * 300])
@pytest.mark.parametrize("folder", ["", "gone", "a\0b"])
def test_a_strange_claim_stops_nothing(place: Place, name: str, folder: str) -> None:
    """A record whose claim leads nowhere is a record like any other."""
    document = json.loads(written(1, Claim("", "x", 1, 1)))
    document["claim"].update(name=name, folder=folder)
    (place.path / "queue" / EML).write_bytes(MAIL)
    (place.path / "queue" / JSON).write_text(json.dumps(document))
    assert place.learned() == "record"


# -- what is no file ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["queue", "failed"])
def test_a_record_that_is_no_file_keeps_its_message(place: Place, where: str) -> None:
    """A link or a folder in a record's place is not followed; its message stays, and the start goes on."""
    (place.path / "queue" / EML).write_bytes(MAIL)
    (place.path / "queue" / JSON).write_bytes(ONE)
    (place.path / where / JSON).unlink(missing_ok=True)
    (place.path / where / JSON).symlink_to("/etc/passwd")
    assert place.learned() == "kept"
    assert (place.path / "queue" / EML).exists()
    assert (place.path / where / JSON).is_symlink()
