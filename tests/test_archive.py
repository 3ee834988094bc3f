"""The archive and the registry: what is on disk when, and what the next start makes of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mailrelayd import durable
from mailrelayd.approvals.archive import Archive
from mailrelayd.approvals.registry import Registry
from mailrelayd.approvals.request import Copy, Decided, Request, State

NOW = 1_795_219_200.0  # 2026-11-21T00:00:00Z
DAY = 86_400.0
REQUEST = Request(
    queue_id="2gk4zzzzzzaaaaaa",
    request_id="PO-42",
    requested_by="erp",
    sinks=("erp",),
    node="relay1",
    opened_at=NOW,
    expires_at=NOW + DAY,
    subject="Buy?",
    message_id="<1@example.com>",
    sha256="0" * 64,
    copies=(Copy("boss@example.com", 1), Copy("cfo@example.com", 2)),
)


class Heard:
    def __init__(self) -> None:
        self.doing: list[str] = []

    def trouble(self, doing: str, error: OSError) -> None:
        self.doing.append(f"{doing}: {error.strerror}")


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    archive = Archive(tmp_path)
    yield archive
    archive.close()


def keep(archive: Archive, name: str, *, now: float = NOW, mail: bytes = b"Subject: x\n\nApproved\n") -> str:
    draft = archive.draft(name)
    draft.write(mail[:5])
    draft.write(mail[5:])
    assert draft.sha256 == hashlib.sha256(mail).hexdigest()
    assert draft.size == len(mail)
    place = archive.place(name, now)
    archive.keep(place, b'{"id": "%s"}\n' % name.encode(), draft)
    return place


def test_a_mail_and_its_document_lie_in_a_folder_of_their_day(archive: Archive, tmp_path: Path) -> None:
    """As it came, and what was made of it; found again by its id, whatever day it is then."""
    place = keep(archive, "one")
    assert place == "in/20261121/one"
    folder = tmp_path / "archive" / place
    assert (folder / "message.eml").read_bytes() == b"Subject: x\n\nApproved\n"
    assert archive.find("one") == (folder / "decision.json").read_bytes() == b'{"id": "one"}\n'
    assert archive.find("two") is None
    assert archive.place("one", NOW + 5 * DAY) == place
    assert {path.name for path in (tmp_path / "archive" / "in").iterdir()} == {"20261121"}


def test_the_next_start_knows_what_is_there(archive: Archive, tmp_path: Path) -> None:
    """And drops what was not finished."""
    keep(archive, "one")
    keep(archive, "two", now=NOW + DAY)
    archive.draft("half").write(b"Subject")
    again = Archive(tmp_path)
    try:
        assert list(again.documents()) == [b'{"id": "one"}\n', b'{"id": "two"}\n']
        assert list(again.documents(days=1)) == [b'{"id": "two"}\n']
        assert again.find("two") == b'{"id": "two"}\n'
        assert not list(tmp_path.rglob(".tmp-*"))
    finally:
        again.close()


def test_the_document_is_the_commit_point(archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails between mail and document leaves nothing decided, and the mail is kept the second time."""
    real = durable.Folder.write

    def full(self: durable.Folder, name: str, data: bytes, *, mode: int = 0o600) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable.Folder, "write", full)
    with pytest.raises(OSError, match="No space"):
        keep(archive, "one")
    assert archive.find("one") is None
    monkeypatch.setattr(durable.Folder, "write", real)
    again = Archive(tmp_path)
    try:
        assert again.find("one") is None
        keep(again, "one")
        assert again.find("one") is not None
    finally:
        again.close()


def test_mail_is_on_disk_before_its_document(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsync of the mail, then its name, then the document with file and folder."""
    steps: list[str] = []
    real_sync = durable.sync_file

    def sync(descriptor: int) -> None:
        steps.append("sync_file")
        real_sync(descriptor)

    monkeypatch.setattr(durable, "sync_file", sync)
    real_move, real_write = durable.Folder.move, durable.Folder.write

    def move(self: durable.Folder, *a: object, **k: object) -> None:
        steps.append("move")
        real_move(self, *a, **k)  # type: ignore[arg-type]

    def write(self: durable.Folder, *a: object, **k: object) -> None:
        steps.append("write")
        real_write(self, *a, **k)  # type: ignore[arg-type]

    monkeypatch.setattr(durable.Folder, "move", move)
    monkeypatch.setattr(durable.Folder, "write", write)
    keep(archive, "one")
    assert steps.index("sync_file") < steps.index("move") < steps.index("write")


def test_an_outcome_that_no_mail_carried_is_kept_too(archive: Archive, tmp_path: Path) -> None:
    """Expired, cancelled, undeliverable."""
    archive.keep(archive.place("x", NOW), b"{}\n", None)
    assert archive.find("x") == b"{}\n"
    assert os.listdir(tmp_path / "archive" / "in" / "20261121" / "x") == ["decision.json"]


def test_what_is_set_aside_lies_in_quarantine(archive: Archive, tmp_path: Path) -> None:
    """Whole, under its own name; a discarded draft leaves nothing."""
    draft = archive.draft("odd")
    draft.write(b"Subject: spam\n\n")
    archive.set_aside("odd", draft)
    assert (tmp_path / "quarantine" / "odd.eml").read_bytes() == b"Subject: spam\n\n"
    archive.draft("gone").discard()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["odd.eml"]


def test_only_what_is_old_enough_is_swept(archive: Archive, tmp_path: Path) -> None:
    """By day in the archive, by age in quarantine."""
    keep(archive, "old", now=NOW - 400 * DAY)
    keep(archive, "new")
    draft = archive.draft("odd")
    archive.set_aside("odd", draft)
    assert archive.sweep(NOW, 365 * DAY, 90 * DAY) == 1
    assert (archive.find("old"), archive.find("new")) == (None, b'{"id": "new"}\n')
    assert [path.name for path in (tmp_path / "archive" / "in").iterdir()] == ["20261121"]
    assert archive.sweep(NOW + 2000 * DAY, 365 * DAY, 90 * DAY) == 2
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# -- the registry --------------------------------------------------------------------------------------------


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = Registry(tmp_path, Heard())
    yield registry
    registry.close()


def test_a_request_is_found_by_all_its_names_and_after_a_restart(registry: Registry, tmp_path: Path) -> None:
    """By the message that asked, by its own id, by the number in a token."""
    registry.open(REQUEST, [["Buy a boat?", "Approve or reject"], ["<p>"]])
    again = Registry(tmp_path, Heard())
    try:
        for one in (registry, again):
            assert list(one) == [REQUEST]
            assert one.texts(REQUEST) == [["Buy a boat?", "Approve or reject"], ["<p>"]]
            assert one.get(REQUEST.queue_id) == one.of_copy(2) == REQUEST
            assert one.of_id("PO-42") == [REQUEST]
            assert one.of_copy(3) is None
    finally:
        again.close()
    assert (tmp_path / "approvals").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "approvals" / f"{REQUEST.queue_id}.json").stat().st_mode & 0o777 == 0o600


def test_a_second_request_under_the_same_id_supersedes_the_first(registry: Registry) -> None:
    """Unless the first is over anyway."""
    second = replace(REQUEST, queue_id="2gk4zzzzzzbbbbbb", copies=(Copy("boss@example.com", 3),))
    registry.open(REQUEST)
    assert [one.queue_id for one in registry.open(second)] == [REQUEST.queue_id]
    first = registry.get(REQUEST.queue_id)
    assert first is not None
    assert first.state(NOW) is State.SUPERSEDED
    assert first.superseded_by == second.queue_id
    third = replace(REQUEST, queue_id="2gk4zzzzzzcccccc", copies=(Copy("boss@example.com", 4),))
    registry.change(
        second.queue_id, lambda one: replace(one, decided={"boss@example.com": Decided("approved", "x", NOW)})
    )
    assert registry.open(third) == []


def test_what_changes_is_on_disk(registry: Registry, tmp_path: Path) -> None:
    """A new word replaces the old one, in memory and in the file."""
    registry.open(REQUEST)
    decided = replace(REQUEST, decided={"boss@example.com": Decided("approved", "x", NOW)})
    registry.change(decided.queue_id, lambda one: decided)
    again = Registry(tmp_path, Heard())
    try:
        assert again.of_copy(1) == registry.of_copy(1) == decided
    finally:
        again.close()


def test_a_damaged_entry_opens_nothing_and_is_kept(registry: Registry, tmp_path: Path) -> None:
    """It is said; the others work."""
    registry.open(REQUEST)
    (tmp_path / "approvals" / "2gk4zzzzzzdddddd.json").write_text('{"format": 1,')
    (tmp_path / "approvals" / "2gk4zzzzzzeeeeee.json").symlink_to("/etc/passwd")
    heard = Heard()
    again = Registry(tmp_path, heard)
    try:
        assert list(again) == [REQUEST]
        assert len(heard.doing) == 2
        assert "2gk4zzzzzzdddddd.json: damaged entry" in heard.doing[0]
        assert (tmp_path / "approvals" / "2gk4zzzzzzdddddd.json").exists()
    finally:
        again.close()


def test_requests_that_have_long_been_over_are_forgotten(registry: Registry, tmp_path: Path) -> None:
    """After [state] keep_requests, counted from their end."""
    registry.open(REQUEST)
    assert registry.sweep(NOW + 365 * DAY, 365 * DAY) == 0
    assert registry.sweep(NOW + 367 * DAY, 365 * DAY) == 1
    assert registry.of_copy(1) is None
    assert registry.of_id("PO-42") == []
    assert not list((tmp_path / "approvals").iterdir())
