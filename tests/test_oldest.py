"""Files in the order of their times, also where there are more than are sorted at a time."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailrelayd import durable
from mailrelayd.outbound import oldest
from mailrelayd.outbound.oldest import Entry, oldest_first


def entries(count: int) -> list[Entry]:
    """In no order, with times that several have and names that are no UTF-8."""
    chance = random.Random(count)
    made = [
        (chance.randrange(50) * 10**18 + 7, f"n{number}\udcff\n.eml", 5, number % 2 == 0) for number in range(count)
    ]
    chance.shuffle(made)
    return made


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 20, 999])
def test_they_come_by_time_and_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Every one of them once, whether they fit into memory or not, and no file is left behind."""
    monkeypatch.setattr(oldest, "RUN", 10)
    monkeypatch.setattr(oldest, "BLOCK", 3)
    assert list(oldest_first(entries(count), tmp_path)) == sorted(entries(count))
    assert list(tmp_path.iterdir()) == []


def test_no_more_than_a_run_is_held_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is sorted already, a block of each run is in memory: the rest is on disk, under no name."""
    monkeypatch.setattr(oldest, "RUN", 10)
    monkeypatch.setattr(oldest, "BLOCK", 2)
    read = 0
    right = durable.read_at

    def counted(descriptor: int, offset: int, size: int) -> bytes:
        nonlocal read
        read += 1
        return right(descriptor, offset, size)

    monkeypatch.setattr(durable, "read_at", counted)
    ordered = oldest_first(entries(100), tmp_path)
    assert next(ordered) == min(entries(100))
    assert read == 10  # the first block of each of ten runs
    ordered.close()  # type: ignore[attr-defined]


def test_one_piece_needs_no_disk() -> None:
    """What fits into memory is sorted there, whatever becomes of the disk."""
    assert list(oldest_first(entries(100), Path("/nowhere"))) == sorted(entries(100))


def test_where_no_file_can_be_made_the_oldest_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an inode left, files must be taken to free some; the next look finds the others. All were looked at."""
    monkeypatch.setattr(oldest, "RUN", 10)
    left = iter(entries(99))
    assert list(oldest_first(left, Path("/nowhere"))) == sorted(entries(99))[:10]
    assert next(left, None) is None


def test_a_folder_that_breaks_off_is_told(tmp_path: Path) -> None:
    """An error in the middle of reading is no end of the list."""

    def broken() -> Iterator[Entry]:
        yield 1, "a", 3, True
        raise OSError(5, os.strerror(5))

    with pytest.raises(OSError, match="Input/output"):
        list(oldest_first(broken(), tmp_path))
