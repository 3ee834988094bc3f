"""The only way to write, move or remove a file: relative to an open folder, and on disk when it returns.

POSIX promises nothing about a new, renamed or removed name until the *folder* has been fsynced, nor about
content until the file has. So the calls come as pairs that nobody can forget: `write` syncs file and folder,
`move` both folders, `remove` its folder. An error of fsync means the kernel may have dropped the pages and
marked them clean; asking again on the same descriptor would lie, so the error goes up and the new file is
thrown away.

Reading is here too, because opening a file that somebody else put there needs the same care: never through a
symlink, never blocking on a FIFO, always relative to the folder that was checked.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
SAFE_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
TEMPORARY = ".tmp-"  # prefix of a file that `write` has not finished; swept by `sweep`


class Folder:
    """An open folder. Names are relative to it and may hold any bytes (surrogateescape), never a slash."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, FOLDER_FLAGS)

    def close(self) -> None:
        """Give the descriptor back; nothing else may be called afterwards."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def give_to(self, group: int, mode: int) -> None:
        """Let the folder have this group and mode. Raises OSError: a group must be one of ours."""
        figures = os.fstat(self.fd)
        if figures.st_gid != group:
            os.fchown(self.fd, -1, group)
        if figures.st_gid != group or stat.S_IMODE(figures.st_mode) != mode:
            os.fchmod(self.fd, mode)  # last: a change of group clears the setgid bit

    def device(self) -> int:
        """The file system's number: two folders must agree for a rename to be possible."""
        return os.fstat(self.fd).st_dev

    # -- changing ------------------------------------------------------------------------------------------

    def write(self, name: str, data: bytes, *, mode: int = 0o600) -> None:
        """Put a file of this content under `name`, replacing what was there, all or nothing.

        Raises OSError (ENOSPC, EIO, ...): then the old file, if any, still stands; or, where nothing but the
        folder's fsync failed, the new one, which a power cut may undo.
        """
        failed = self.write_many({name: data}, mode=mode)
        if failed:
            raise failed[name]

    def write_many(self, files: Mapping[str, bytes], *, mode: int = 0o600) -> dict[str, OSError]:
        """`write` for many small files, with one fsync of the folder; those that could not be written, and why.

        Raises OSError where the folder's fsync failed: then each may stand or not.
        """
        failed: dict[str, OSError] = {}
        pending: dict[str, int] = {}
        try:
            for name, data in files.items():
                try:
                    pending[name] = self._begin(name, data, mode)
                except OSError as error:
                    failed[name] = error
            if len(pending) > 1:
                for descriptor in pending.values():
                    # Begins to write them out, so that the first fsync commits all of them: measured, half the time.
                    with contextlib.suppress(OSError):
                        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            for name in list(pending):
                descriptor = pending.pop(name)
                try:
                    self._finish(name, descriptor)
                except OSError as error:
                    failed[name] = error
        finally:
            for name, descriptor in pending.items():  # interrupted: none of them has its name yet
                os.close(descriptor)
                self._forget(name)
        if len(failed) < len(files):
            self.sync()
        return failed

    def _begin(self, name: str, data: bytes, mode: int) -> int:
        """The open temporary file with this content, not yet on disk."""
        descriptor = self.create(TEMPORARY + name, mode=mode)
        try:
            write_all(descriptor, data)
        except BaseException:
            os.close(descriptor)
            self._forget(name)
            raise
        return descriptor

    def _finish(self, name: str, descriptor: int) -> None:
        try:
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.rename(TEMPORARY + name, name, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        except BaseException:
            self._forget(name)
            raise

    def _forget(self, name: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(TEMPORARY + name, dir_fd=self.fd)

    def create(self, name: str, *, mode: int = 0o600) -> int:
        """A descriptor for writing a new file with exactly this mode, in place of what was there. Raises OSError.

        Nothing is on disk until its owner has synced the file and then the folder.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600, dir_fd=self.fd)
        try:
            if mode != 0o600:
                os.fchmod(descriptor, mode)  # whatever the umask says
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def move(self, name: str, target: Folder, new_name: str, *, sync: bool = True) -> None:
        """Rename into `target`, replacing what was there.

        `sync=False` leaves the folders to the caller, who moves many files and then syncs once; until then
        a power cut may undo the move, never tear it.
        """
        os.rename(name, new_name, src_dir_fd=self.fd, dst_dir_fd=target.fd)
        if sync:
            target.sync()
            if target is not self:
                self.sync()

    def remove(self, name: str, *, sync: bool = True) -> bool:
        """Remove a file; False where there was none. `sync=False` as for `move`."""
        try:
            os.unlink(name, dir_fd=self.fd)
        except FileNotFoundError:
            return False
        if sync:
            self.sync()
        return True

    def sync(self) -> None:
        """Make the names in this folder durable."""
        os.fsync(self.fd)

    def sweep(self) -> int:
        """Remove what an interrupted `write` left behind; how many there were."""
        leftovers = [name for name in self.names() if name.startswith(TEMPORARY)]
        for name in leftovers:
            self.remove(name, sync=False)
        return len(leftovers)

    # -- reading -------------------------------------------------------------------------------------------

    def stat(self, name: str) -> os.stat_result | None:
        """lstat relative to the folder; None where there is no such name."""
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENAMETOOLONG):  # no file can have a name that long
                return None
            raise

    def open(self, name: str) -> int:
        """A descriptor for reading a regular file. Never follows a link, never blocks, never a terminal.

        Raises OSError; NotRegularError where it is something else (a FIFO opens, a symlink does not).
        """
        return self.look_into(name)[0]

    def look_into(self, name: str) -> tuple[int, os.stat_result]:
        """`open`, and what the file looked like then."""
        try:
            descriptor = os.open(name, SAFE_READ, dir_fd=self.fd)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):  # a symlink; a socket or a device without a driver
                raise NotRegularError(error.errno, "not a regular file", name) from error
            raise
        figures = os.fstat(descriptor)
        if not stat.S_ISREG(figures.st_mode):
            os.close(descriptor)
            raise NotRegularError(errno.EINVAL, "not a regular file", name)
        return descriptor, figures

    def read(self, name: str, *, limit: int) -> bytes:
        """The first `limit` bytes of a regular file."""
        descriptor = self.open(name)
        try:
            return read_at(descriptor, 0, limit)
        finally:
            os.close(descriptor)

    def names(self) -> Iterator[str]:
        """Every name in the folder, in no order; bounded memory however many there are."""
        # A descriptor of its own: scandir closes or rewinds the one it is given, and two scans may run.
        descriptor = os.open(".", FOLDER_FLAGS, dir_fd=self.fd)
        try:
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    yield entry.name
        finally:
            os.close(descriptor)


class NotRegularError(OSError):
    """What stands under this name is no regular file: a link, a FIFO, a device, a folder, a socket."""


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of it, however little the kernel takes at a time. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_file(descriptor: int) -> None:
    """Make a file's content durable; its name is its folder's. Raises OSError: then the file must be thrown away."""
    os.fsync(descriptor)


def read_at(descriptor: int, offset: int, size: int) -> bytes:
    """`size` bytes from `offset`, fewer only at the end of the file."""
    pieces = []
    while size > 0:
        piece = os.pread(descriptor, size, offset)
        if not piece:
            break
        pieces.append(piece)
        offset += len(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def being_written(descriptor: int) -> bool:
    """Whether somebody holds a lock on the file (.NET on Linux does while it writes).

    Our own lock lasts for this one question only, so that no producer ever meets it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


class Lock:
    """The one lock of a spool: held for life, let go by the kernel whatever happens to the process.

    The file's content is the smallest queue id time (microseconds) that has never been given out: written
    ahead of use, so that an id is never reused, not even after the clock was set back.
    """

    def __init__(self, folder: Folder, name: str) -> None:
        """Raises LockedError where another process holds it."""
        self._fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder.fd)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._fd)
            raise LockedError(folder.path / name) from error

    def close(self) -> None:
        """Let go. The file stays: removing it would let two holders exist."""
        os.close(self._fd)

    def read(self) -> int:
        """The number last written; 0 in a new file."""
        text = os.pread(self._fd, 32, 0).strip()
        return int(text) if text.isdigit() else 0

    def write(self, number: int) -> None:
        """Replace the number in place: 32 bytes lie in one sector, so it is the old one or the new one."""
        os.pwrite(self._fd, b"%-31d\n" % number, 0)
        os.fdatasync(self._fd)


class FixedFile:
    """A file that keeps its size and is overwritten in place.

    Nothing is allocated any more: a full disk does not matter, and a sync writes these blocks and nothing else.
    """

    def __init__(self, folder: Folder, name: str) -> None:
        """Raises OSError, FileNotFoundError."""
        self._fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder.fd)

    @property
    def size(self) -> int:
        """Bytes."""
        return os.fstat(self._fd).st_size

    def close(self) -> None:
        """Give the descriptor back; nothing else may be called afterwards."""
        os.close(self._fd)

    def write(self, offset: int, data: bytes) -> None:
        """Overwrite; on disk after `sync`. Raises OSError."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, offset)
            view, offset = view[written:], offset + written

    def sync(self) -> None:
        """Raises OSError; then the kernel may call clean what it could not write, and no later answer tells."""
        os.fdatasync(self._fd)


class LockedError(Exception):
    """Another process works on this spool."""


def free_space(folder: Folder) -> int:
    """Bytes that an ordinary user may still write on the folder's file system."""
    figures = os.statvfs(folder.fd)
    return figures.f_bavail * figures.f_frsize


def make_folder(path: Path, mode: int) -> None:
    """Create a folder (and those above it) with exactly this mode; one that exists is left as it is."""
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        return
    path.chmod(mode)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable that is not open. Raises OSError."""
    descriptor = os.open(path, FOLDER_FLAGS)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
