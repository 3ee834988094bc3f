"""The kernel's events about folders: what is told, and what happens where it cannot tell everything."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailrelayd import durable
from mailrelayd.outbound.watch import News, Watch

LIMIT = Path("/proc/sys/fs/inotify/max_queued_events")


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[list[durable.Folder]]:
    paths = [tmp_path / "one", tmp_path / "two"]
    for path in paths:
        path.mkdir()
    made = [durable.Folder(path) for path in paths]
    yield made
    for folder in made:
        folder.close()


@pytest.fixture
def watch(folders: list[durable.Folder]) -> Iterator[Watch]:
    made = Watch(folders)
    yield made
    made.close()


def test_names_are_told_with_their_folder_and_how_they_came(watch: Watch, folders: list[durable.Folder]) -> None:
    """A rename makes a whole file; a file that is made, or finished, in place may not be one. In order, in one go."""
    one, two = folders
    (one.path / "a").write_bytes(b"x")
    (one.path / "a").rename(two.path / "b")
    news = watch.wait()
    assert news.names == [(one.fd, "a", False), (one.fd, "a", False), (two.fd, "b", True)]
    assert (news.lost, news.poked) == (False, False)


def test_any_bytes_may_be_a_name(watch: Watch, folders: list[durable.Folder]) -> None:
    """Also the longest one, and what is no UTF-8: it comes as the file system's other calls give it."""
    names = [b"a\xff\n.eml", b"n" * 255]
    for name in names:
        os.close(os.open(os.fsencode(folders[0].path) + b"/" + name, os.O_CREAT | os.O_RDONLY))
    assert {os.fsencode(name) for _, name, _ in watch.wait().names} == set(names)


def test_a_poke_ends_the_waiting(watch: Watch) -> None:
    """From another thread, or before: it is not lost, and counts once."""
    threading.Timer(0.01, watch.poke).start()
    assert watch.wait().poked
    watch.poke()
    watch.poke()
    assert watch.wait().poked
    threading.Timer(0.01, watch.poke).start()
    assert watch.wait() == News(poked=True)


def test_a_folder_that_nobody_holds_any_more_means_a_look(tmp_path: Path) -> None:
    """The kernel has forgotten it: what is there instead only a look can tell."""
    (tmp_path / "gone").mkdir()
    folder = durable.Folder(tmp_path / "gone")
    watch = Watch([folder])
    folder.close()
    (tmp_path / "gone").rmdir()
    assert watch.wait().lost
    watch.close()


@pytest.mark.skipif(int(LIMIT.read_text()) > 20_000, reason="the kernel keeps too many events here")
def test_what_the_kernel_could_not_keep_is_told_as_lost(watch: Watch, folders: list[durable.Folder]) -> None:
    """So many events that nobody read, and then one that says so; after it everything is as before."""
    path = folders[0].path
    for number in range(int(LIMIT.read_text()) // 2 + 100):
        (path / str(number)).touch()
    read = 0
    while not (news := watch.wait()).lost:
        read += len(news.names)
    assert 15_000 < read + len(news.names) <= int(LIMIT.read_text())
    (path / "after").touch()
    assert {name for _, name, _ in watch.wait().names} == {"after"}


def test_a_folder_that_is_not_there_leaves_nothing_open(folders: list[durable.Folder]) -> None:
    """Whoever wanted to listen hears why not."""
    before = os.listdir("/proc/self/fd")
    folders[1].path.rmdir()
    with pytest.raises(FileNotFoundError):
        Watch(folders)
    folders[1].path.touch()
    with pytest.raises(NotADirectoryError):
        Watch(folders)
    assert os.listdir("/proc/self/fd") == before
