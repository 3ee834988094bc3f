"""What is remembered of a folder: written whole, read back the same, and never guessed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrelayd.inbound.seen import NewerError, Owed, Seen, SeenStore, decode, encode, ranges

UIDS = st.sets(st.integers(1, 500), max_size=80)
EXAMPLE = Seen("INBOX", 7, 12, {1, 2, 3, 20}, {3: Owed("0b6e", 1_800_000_000.5)}, {30, 31}, 1_700_000_000.0, 1 << 20)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SeenStore]:
    opened = SeenStore(tmp_path, "answers")
    yield opened
    opened.close()


@given(UIDS, UIDS, st.dictionaries(st.integers(1, 500), st.floats(0, 2e9), max_size=20), st.text(min_size=1))
def test_everything_comes_back(handled: set[int], passed: set[int], owed: dict[int, float], folder: str) -> None:
    """Also folders with strange names."""
    waiting = {uid: Owed(f"id-{uid}", at) for uid, at in owed.items()}
    seen = Seen(folder, 7, 5, handled | owed.keys(), waiting, passed, 1.5, 99)
    assert decode(encode(seen)) == seen


@given(UIDS)
def test_ranges_are_as_few_as_can_be(numbers: set[int]) -> None:
    """In order, apart from each other, and nothing is lost."""
    found = ranges(numbers)
    assert {number for low, high in found for number in range(low, high + 1)} == numbers
    assert all(before[1] + 1 < after[0] for before, after in pairwise(found))


def test_twenty_thousand_mails_are_a_short_file() -> None:
    """What was there before us costs a range."""
    assert len(encode(Seen("INBOX", 7, handled=set(range(1, 20_001))))) < 200


def test_what_waits_for_removal_is_never_read_again() -> None:
    """Even where the file says so in one place only."""
    document = json.loads(encode(EXAMPLE)) | {"handled": []}
    assert decode(json.dumps(document).encode()).handled == {3}


DAMAGE = {
    "nothing": b"",
    "half": encode(EXAMPLE)[:40],
    "no object": b"[]",
    "no folder": json.dumps({k: v for k, v in json.loads(encode(EXAMPLE)).items() if k != "folder"}).encode(),
    "no ranges": json.dumps(json.loads(encode(EXAMPLE)) | {"handled": [7]}).encode(),
    "no UIDs": json.dumps(json.loads(encode(EXAMPLE)) | {"handled": [[0, 2]]}).encode(),
    "backwards": json.dumps(json.loads(encode(EXAMPLE)) | {"handled": [[9, 2]]}).encode(),
    "a bomb": json.dumps(json.loads(encode(EXAMPLE)) | {"handled": [[1, 4_000_000_000]]}).encode(),
    "a tower": b"[" * 100_000,
    "no text": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("data", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_as_good_as_nothing(data: bytes, store: SeenStore, tmp_path: Path) -> None:
    """It is met as a first contact; nothing is taken from a half."""
    (tmp_path / "inbound" / "answers.json").write_bytes(data)
    assert store.load() is None


def test_a_later_format_is_an_error_that_says_what_to_do(store: SeenStore, tmp_path: Path) -> None:
    """It is not overwritten by a first contact."""
    (tmp_path / "inbound" / "answers.json").write_bytes(json.dumps({"format": 2}).encode())
    with pytest.raises(NewerError):
        decode(b'{"format": 2}')
    with pytest.raises(OSError, match="later version") as raised:
        store.load()
    assert "move the file away" in str(raised.value)


def test_accounts_do_not_meddle_with_each_other(store: SeenStore, tmp_path: Path) -> None:
    """One that starts leaves alone what another is writing; its own unfinished file goes."""
    for name in ("answers", "other"):
        (tmp_path / "inbound" / f".tmp-{name}.json").write_bytes(b"half")
    SeenStore(tmp_path, "answers").close()
    assert [path.name for path in (tmp_path / "inbound").iterdir()] == [".tmp-other.json"]
    store.save(EXAMPLE)
    assert store.load() == EXAMPLE
    assert (tmp_path / "inbound" / "answers.json").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "inbound").stat().st_mode & 0o777 == 0o700
