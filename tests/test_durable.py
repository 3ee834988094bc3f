"""Writing, moving and removing: all or nothing, and on disk when it returns. Opening: never what it must not."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mailrelayd import durable
from mailrelayd.durable import TEMPORARY, Folder, Lock, LockedError, NotRegularError


class Calls:
    """Stands in for `os` inside `durable`: what changes the disk, in order, and a failure where one is wanted."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.fail = ""  # "NAME KIND" of the call that fails

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in ("write", "rename", "unlink", "fsync", "fdatasync", "pwrite"):
            return real

        def call(*arguments: Any, **keys: Any) -> Any:
            kind = ""
            if name in ("write", "fsync", "fdatasync"):
                kind = " folder" if stat.S_ISDIR(os.fstat(arguments[0]).st_mode) else " file"
            if name == "fsync":
                kind += f" {os.path.basename(os.readlink(f'/proc/self/fd/{arguments[0]}'))}"
            self.made.append(name + kind)
            if self.fail and self.made[-1].startswith(self.fail):
                raise OSError(errno.EIO, "Input/output error")
            if name == "write" and self.fail == "short":
                return real(arguments[0], bytes(arguments[1])[:3])
            return real(*arguments, **keys)

        return call


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    made = Calls()
    monkeypatch.setattr(durable, "os", made)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    (tmp_path / "one").mkdir()
    made = Folder(tmp_path / "one")
    yield made
    made.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Folder]:
    (tmp_path / "two").mkdir()
    made = Folder(tmp_path / "two")
    yield made
    made.close()


# -- changing ----------------------------------------------------------------------------------------------------


def test_write_syncs_the_file_before_its_name_and_then_the_folder(folder: Folder, calls: Calls) -> None:
    """Content first, then the name, then the folder: no order of a power cut shows a torn file."""
    folder.write("a", b"content")
    assert calls.made == ["write file", f"fsync file {TEMPORARY}a", "rename", "fsync folder one"]
    assert (folder.path / "a").read_bytes() == b"content"
    assert stat.S_IMODE((folder.path / "a").stat().st_mode) == 0o600


def test_write_continues_where_the_kernel_took_less(folder: Folder, calls: Calls) -> None:
    """A short write is no end."""
    calls.fail = "short"
    folder.write("a", b"0123456789")
    assert (folder.path / "a").read_bytes() == b"0123456789"


@pytest.mark.parametrize("call", ["write", "fsync file", "rename"])
@pytest.mark.parametrize("old", [b"old", None])
def test_a_failed_write_leaves_what_was_there(folder: Folder, calls: Calls, call: str, old: bytes | None) -> None:
    """All or nothing: the old file stands, or none, and no leftover."""
    if old is not None:
        (folder.path / "a").write_bytes(old)
    calls.fail = call
    with pytest.raises(OSError, match="Input/output"):
        folder.write("a", b"new")
    assert {path.name: path.read_bytes() for path in folder.path.iterdir()} == ({"a": old} if old else {})


def test_a_folder_that_cannot_be_synced_is_an_error(folder: Folder, calls: Calls) -> None:
    """The name may be lost in a power cut, so nobody is told that it is on disk."""
    calls.fail = "fsync folder"
    for act in (lambda: folder.write("a", b"x"), lambda: folder.remove("a"), folder.sync):
        with pytest.raises(OSError, match="Input/output"):
            act()


def test_many_are_written_with_one_fsync_of_the_folder(folder: Folder, calls: Calls) -> None:
    """All content before the first fsync, each file's fsync before its name, and the folder once, last."""
    assert folder.write_many({"a": b"1", "b": b"2"}) == {}
    assert calls.made == [
        *("write file", "write file"),
        *(f"fsync file {TEMPORARY}a", "rename", f"fsync file {TEMPORARY}b", "rename"),
        "fsync folder one",
    ]
    assert {path.name: path.read_bytes() for path in folder.path.iterdir()} == {"a": b"1", "b": b"2"}
    calls.made.clear()
    assert folder.write_many({}) == {}
    assert calls.made == []


@pytest.mark.parametrize("name", ["b/c", "x" * 300])
def test_one_of_many_that_fails_stops_no_other(folder: Folder, name: str) -> None:
    """Which failed, and why, is the answer; the others stand, and nothing unfinished is left."""
    failed = folder.write_many({"a": b"1", name: b"2", "d": b"3"})
    assert list(failed) == [name]
    assert isinstance(failed[name], OSError)
    assert {path.name for path in folder.path.iterdir()} == {"a", "d"}


def test_a_failed_fsync_of_one_of_many(folder: Folder, calls: Calls) -> None:
    """Its new content is thrown away and what was there still stands; the others have been written."""
    folder.write_many({"a": b"old", "b": b"old"})
    calls.fail = f"fsync file {TEMPORARY}b"
    assert list(folder.write_many({"a": b"new", "b": b"new", "c": b"new"})) == ["b"]
    found = {path.name: path.read_bytes() for path in folder.path.iterdir()}
    assert found == {"a": b"new", "b": b"old", "c": b"new"}


def test_an_interrupted_write_of_many_leaks_nothing(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ends it in the middle: no descriptor stays open, no unfinished file behind."""
    before = len(os.listdir("/proc/self/fd"))
    real, left = os.fsync, [None, KeyboardInterrupt()]

    def fsync(descriptor: int) -> None:
        if (error := left.pop(0)) is not None:
            raise error
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(KeyboardInterrupt):
        folder.write_many({"a": b"1", "b": b"2", "c": b"3"})
    assert len(os.listdir("/proc/self/fd")) == before
    assert {path.name for path in folder.path.iterdir()} == {"a"}


@pytest.mark.parametrize("mask", [0o000, 0o077])
@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_a_file_has_exactly_its_mode(folder: Folder, mask: int, mode: int) -> None:
    """Neither more nor less than what is asked for, whatever the umask."""
    before = os.umask(mask)
    try:
        folder.write("a", b"", mode=mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder.path / "a").stat().st_mode) == mode


def test_a_file_is_made_piece_by_piece(folder: Folder, calls: Calls) -> None:
    """A new file in the place of an old one, and never through a link."""
    (folder.path / "a").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic"):
        folder.create("a")
    (folder.path / "b").write_text("old and long")
    descriptor = folder.create("b")
    durable.write_all(descriptor, b"ne")
    durable.write_all(descriptor, b"w")
    durable.sync_file(descriptor)
    os.close(descriptor)
    assert (folder.path / "b").read_bytes() == b"new"
    assert calls.made == ["write file", "write file", "fsync file b"]


def test_a_folder_is_given_a_mode(folder: Folder) -> None:
    """What is given twice is the same; a group that is not ours is an error that changes nothing."""
    mine = os.stat(folder.path).st_gid
    for _ in range(2):
        folder.give_to(mine, 0o2710)
        assert stat.S_IMODE(os.stat(folder.path).st_mode) == 0o2710


def test_write_replaces_a_link_and_does_not_follow_it(folder: Folder, tmp_path: Path) -> None:
    """Neither the name nor its temporary file lead anywhere else."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (folder.path / "a").symlink_to(secret)
    folder.write("a", b"x")
    assert not (folder.path / "a").is_symlink()
    (folder.path / f"{TEMPORARY}b").symlink_to(secret)
    with pytest.raises(OSError, match="symbolic"):
        folder.write("b", b"x")
    assert secret.read_bytes() == b"secret"


def test_an_unfinished_write_is_written_over(folder: Folder) -> None:
    """What a crash left under the temporary name does no harm."""
    (folder.path / f"{TEMPORARY}a").write_bytes(b"x" * 1000)
    folder.write("a", b"y")
    assert (folder.path / "a").read_bytes() == b"y"


def test_move_syncs_the_target_first(folder: Folder, other: Folder, calls: Calls) -> None:
    """Both folders, the new name before the old one is gone; one folder once; none where the caller wants to."""
    folder.write("a", b"x")
    calls.made.clear()
    folder.move("a", other, "b")
    assert calls.made == ["rename", "fsync folder two", "fsync folder one"]
    calls.made.clear()
    other.move("b", other, "c")
    assert calls.made == ["rename", "fsync folder two"]
    calls.made.clear()
    other.move("c", folder, "d", sync=False)
    assert calls.made == ["rename"]
    assert (folder.path / "d").read_bytes() == b"x"


def test_remove_syncs_and_says_whether_there_was_one(folder: Folder, calls: Calls) -> None:
    """The folder is synced after a removal, unless the caller does it."""
    folder.write("a", b"x")
    folder.write("b", b"x")
    calls.made.clear()
    assert folder.remove("a")
    assert calls.made == ["unlink", "fsync folder one"]
    assert not folder.remove("a")
    calls.made.clear()
    assert folder.remove("b", sync=False)
    assert calls.made == ["unlink"]


def test_sweep_removes_unfinished_writes_only(folder: Folder) -> None:
    """Leftovers of `write` go, everything else stays, hidden or not."""
    for name in (f"{TEMPORARY}a", f"{TEMPORARY}b", "a", ".a", "a.tmp-b"):
        (folder.path / name).write_bytes(b"")
    assert folder.sweep() == 2
    assert sorted(folder.names()) == [".a", "a", "a.tmp-b"]


# -- reading -----------------------------------------------------------------------------------------------------


def bind(path: Path) -> None:
    directory = os.open(path.parent, os.O_DIRECTORY)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(f"/proc/self/fd/{directory}/{path.name}")
    os.close(directory)


NOT_FILES: dict[str, Callable[[Path], object]] = {
    "link": lambda path: path.symlink_to("/etc/passwd"),
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "FIFO": lambda path: os.mkfifo(path),
    "folder": lambda path: path.mkdir(),
    "socket": bind,
}
if os.getuid() == 0:
    NOT_FILES["character device"] = lambda path: os.mknod(path, 0o020666, os.makedev(1, 5))
    NOT_FILES["device without driver"] = lambda path: os.mknod(path, 0o020666, os.makedev(239, 250))


@pytest.mark.parametrize("kind", NOT_FILES)
def test_open_takes_regular_files_only(folder: Folder, kind: str) -> None:
    """Nothing is followed, nothing blocks, and no descriptor is left open."""
    NOT_FILES[kind](folder.path / "a")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(NotRegularError):
        folder.open("a")
    with pytest.raises(NotRegularError):
        folder.read("a", limit=10)
    assert os.listdir("/proc/self/fd") == before
    assert folder.stat("a") is not None


def test_read_is_bounded(folder: Folder) -> None:
    """No more than was asked for, whatever the file's size."""
    (folder.path / "a").write_bytes(b"0123456789")
    assert folder.read("a", limit=4) == b"0123"
    assert folder.read("a", limit=100) == b"0123456789"
    assert folder.read("a", limit=0) == b""
    with pytest.raises(FileNotFoundError):
        folder.read("b", limit=1)


def test_descriptors_do_not_survive_exec(folder: Folder) -> None:
    """No child inherits a message."""
    (folder.path / "a").write_bytes(b"")
    descriptor = folder.open("a")
    try:
        assert not os.get_inheritable(descriptor)
        assert not os.get_inheritable(folder.fd)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("name", ["nothing", "n" * 256, "n" * 5000])
def test_stat_of_nothing_is_none(folder: Folder, name: str) -> None:
    """A name that does not exist, or cannot, is no error."""
    assert folder.stat(name) is None


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a\nb", b"\x1b[0m", "\u202e".encode(), b"n" * 255])
def test_any_bytes_are_a_name(folder: Folder, other: Folder, name: bytes) -> None:
    """Names that are no UTF-8 can be listed, looked at, read, moved and removed."""
    with open(os.fsencode(folder.path) + b"/" + name, "wb") as file:
        file.write(b"x")
    (listed,) = folder.names()
    assert os.fsencode(listed) == name
    assert folder.stat(listed) is not None
    assert folder.read(listed, limit=1) == b"x"
    folder.move(listed, other, listed)
    assert other.remove(listed)


def test_two_scans_at_once(folder: Folder) -> None:
    """Listing a folder twice at the same time, or giving up early, disturbs nobody."""
    for number in range(100):
        (folder.path / str(number)).write_bytes(b"")
    first, second = folder.names(), folder.names()
    next(first)
    assert len(list(second)) == 100
    assert len(list(first)) == 99
    third = folder.names()
    next(third)
    del third
    assert len(list(folder.names())) == 100


def test_a_closed_folder_may_be_closed_again(folder: Folder) -> None:
    """Closing twice does not close somebody else's descriptor."""
    folder.close()
    with open(os.devnull, "rb") as file:
        folder.close()
        file.read()


# -- locks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "writing"), [(fcntl.LOCK_SH, True), (fcntl.LOCK_EX, True), (fcntl.LOCK_UN, False)])
def test_a_lock_means_that_somebody_writes(folder: Folder, kind: int, writing: bool) -> None:
    """Any lock counts, shared or not, and our question leaves none."""
    (folder.path / "a").write_bytes(b"")
    descriptor = folder.open("a")
    with (folder.path / "a").open("rb") as producer:
        fcntl.flock(producer, kind)
        assert durable.being_written(descriptor) == writing
        fcntl.flock(producer, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)


HOLD = """
import sys
from pathlib import Path
from mailrelayd.durable import Folder, Lock
lock = Lock(Folder(Path(sys.argv[1])), "lock")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_lock_ends_with_its_process(folder: Folder) -> None:
    """One process at a time; the kernel lets go of a killed one's lock, and the file stays."""
    command = [sys.executable, "-c", HOLD, str(folder.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(LockedError, match="lock"):
            Lock(folder, "lock")
        process.kill()
    lock = Lock(folder, "lock")
    lock.close()
    assert (folder.path / "lock").exists()


def test_the_number_in_the_lock(folder: Folder, calls: Calls) -> None:
    """It is synced when it is written, one sector at most, and a damaged one is none."""
    lock = Lock(folder, "lock")
    assert lock.read() == 0
    for number in (5, 1 << 60, 7):
        lock.write(number)
        assert lock.read() == number
    assert calls.made == ["pwrite", "fdatasync file"] * 3
    assert (folder.path / "lock").stat().st_size == 32
    (folder.path / "lock").write_bytes(b"rubbish")
    assert lock.read() == 0
    lock.close()


def test_a_link_is_no_lock(folder: Folder, tmp_path: Path) -> None:
    """A lock file that leads elsewhere is refused."""
    (folder.path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        Lock(folder, "lock")


# -- folders -----------------------------------------------------------------------------------------------------


def test_make_folder_has_exactly_the_mode(tmp_path: Path, calls: Calls) -> None:
    """The umask does not weaken it, one that exists is left alone, and the name is synced."""
    before = os.umask(0o077)
    try:
        durable.make_folder(tmp_path / "deep" / "a", 0o3730)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "deep" / "a").stat().st_mode) == 0o3730
    assert calls.made == ["fsync folder deep"]
    durable.make_folder(tmp_path / "deep" / "a", 0o700)
    assert stat.S_IMODE((tmp_path / "deep" / "a").stat().st_mode) == 0o3730


def test_sync_folder_closes_what_it_opens(tmp_path: Path, calls: Calls) -> None:
    """Also where the sync fails."""
    before = os.listdir("/proc/self/fd")
    durable.sync_folder(tmp_path)
    calls.fail = "fsync"
    with pytest.raises(OSError, match="Input/output"):
        durable.sync_folder(tmp_path)
    assert os.listdir("/proc/self/fd") == before


def test_free_space_is_what_a_user_may_write(folder: Folder) -> None:
    """Root's reserve does not count."""
    figures = os.statvfs(folder.path)
    assert 0 <= durable.free_space(folder) <= figures.f_bfree * figures.f_frsize
    assert folder.device() == folder.path.stat().st_dev


# -- a file that is overwritten ----------------------------------------------------------------------------------


def test_a_fixed_file_is_overwritten_in_place(folder: Folder, calls: Calls) -> None:
    """Where it is told, and nowhere else; its size stays, and one fdatasync makes it durable."""
    folder.write("fixed", b"." * 100)
    calls.made.clear()
    file = durable.FixedFile(folder, "fixed")
    try:
        assert file.size == 100
        file.write(10, b"abc")
        file.write(97, b"xyz")
        file.sync()
    finally:
        file.close()
    assert folder.read("fixed", limit=200) == b"." * 10 + b"abc" + b"." * 84 + b"xyz"
    assert calls.made == ["pwrite", "pwrite", "fdatasync file"]


def test_a_fixed_file_is_a_file(folder: Folder) -> None:
    """It has to be there, and to be no link."""
    with pytest.raises(FileNotFoundError):
        durable.FixedFile(folder, "fixed")
    os.symlink("/etc/passwd", folder.path / "fixed")
    with pytest.raises(OSError, match="symbolic links"):
        durable.FixedFile(folder, "fixed")
