"""Idempotency keys: whose they are, how long they count, and what a damaged or missing file means."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailrelayd import durable
from mailrelayd.outbound import queueid
from mailrelayd.outbound.keys import KEPT, Keys, digest

NOW = 1_800_000_000.0
ID = queueid.Sequence("relay1", last=0).take(NOW)[0]
KEY = digest(1000, "erp", "PO-42")


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Keys]:
    made = Keys(durable.Folder(tmp_path))
    yield made
    made.close()


def take(keys: Keys, key: str = KEY, queue_id: str = ID, now: float = NOW) -> None:
    keys.remember(key, queue_id, now)
    keys.write(key)


def test_a_key_is_one_producers_and_one_users() -> None:
    """Nobody uses up another's key, however the parts are put together; pickup/ and the socket are one producer."""
    parts = [(1, "", "a"), (1, "", "b"), (2, "", "a"), (1, "erp", "a"), (11, "", "1a"), (1, "1", "a"), (1, "a", "")]
    for one, other in itertools.combinations(parts, 2):
        assert digest(*one) != digest(*other)
    assert digest(1, "submit", "a") == digest(1, "", "a") == digest(1, "", "a")


@pytest.mark.parametrize("key", ["", "../../../etc/passwd", "\0", "x" * 5000, "\ud800", "Schlüssel"])
def test_any_key_becomes_a_harmless_name(keys: Keys, key: str) -> None:
    """What a producer calls its message never becomes part of a path."""
    name = digest(1000, "erp", key)
    assert len(name) == 64
    assert name.isalnum()
    assert keys.seen(key, NOW) is None
    take(keys, name)
    assert keys.seen(name, NOW) == ID


def test_a_key_counts_for_a_day(keys: Keys, tmp_path: Path) -> None:
    """Within 24 hours it names the message that took it; afterwards it is free, and swept."""
    take(keys)
    assert (tmp_path / KEY).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / KEY).read_text() == f"{ID} 1800000000\n"
    assert keys.seen(KEY, NOW + KEPT - 1) == ID
    keys.sweep(NOW + KEPT - 1)
    assert (tmp_path / KEY).exists()
    assert keys.seen(KEY, NOW + KEPT) is None
    keys.sweep(NOW + KEPT)
    assert not (tmp_path / KEY).exists()


def test_a_key_from_the_future_swallows_nothing(keys: Keys) -> None:
    """One taken under a wrong date does not stop its producer until that date has come."""
    take(keys, now=NOW + 365 * 86400)
    assert keys.seen(KEY, NOW) is None


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"rubbish", b"../../x 1800000000", ID.encode(), b"9" * 1000])
def test_a_damaged_key_is_none(keys: Keys, tmp_path: Path, content: bytes) -> None:
    """What cannot be read as a queue id and a time keeps nobody from sending, and is swept."""
    (tmp_path / KEY).write_bytes(content)
    assert keys.seen(KEY, NOW) is None
    keys.sweep(NOW)
    assert not (tmp_path / KEY).exists()


def test_foreign_files_stay(keys: Keys, tmp_path: Path) -> None:
    """The sweep removes keys and nothing else."""
    (tmp_path / "README").write_text("")
    keys.sweep(NOW)
    assert (tmp_path / "README").exists()


def test_a_key_that_cannot_be_written_counts_while_the_process_lives(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is told to whoever asked; the message that is already ours keeps its key in memory for a day."""

    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable.Folder, "write", full)
    keys.remember(KEY, ID, NOW)
    with pytest.raises(OSError, match="No space"):
        keys.write(KEY)
    assert keys.seen(KEY, NOW) == ID
    assert list(tmp_path.iterdir()) == []
    keys.sweep(NOW + KEPT)
    assert keys.seen(KEY, NOW) is None


def test_a_key_may_be_given_back(keys: Keys, tmp_path: Path) -> None:
    """Where the message was not taken after all, its key is free again."""
    take(keys)
    keys.give_back(KEY)
    assert keys.seen(KEY, NOW) is None
    assert list(tmp_path.iterdir()) == []
