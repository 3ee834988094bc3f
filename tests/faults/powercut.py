"""A file system in memory that forgets at a power cut what nobody has synced. It needs root, FUSE, libfuse and mfusepy.

    python -m tests.faults.powercut MOUNT IMAGE [--keep SEED]

serves IMAGE (a pickle; a new one is empty) under MOUNT until SIGTERM, which *is* the cut: what goes into IMAGE
is only what a disk would have to have by then, with `--keep` also a random part of what it might have.

- A file's content is there as of its last fsync or fdatasync. What was written since: nothing; with `--keep` all of it,
  its beginning, or nothing; of what was overwritten, in a file that has kept its size, any sectors.
- A change of names (create, rename, link, unlink) is there once a folder that it touches was synced, together with the
  changes before it that touch the same names. Of the others none; with `--keep` a random number of the oldest.
- A rename is there or not, never half, as on every file system with a journal. Folders are there when they are made.
- That a new file was synced says nothing about its name, unlike on ext4: POSIX does not promise it.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib.util
import itertools
import os
import pickle
import random
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from ctypes.util import find_library
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = 1
SECTOR = 512  # bytes
_SYS_ADMIN = 21  # CAP_SYS_ADMIN, see capabilities(7)
_HIDDEN = ".fuse_hidden"  # what libfuse calls a removed file that somebody holds open


@dataclass
class Node:
    """A file or a folder: as everybody sees it, and as the disk has it."""

    number: int
    mode: int
    uid: int = 0
    gid: int = 0
    times: list[int] = field(default_factory=lambda: [time.time_ns()] * 3)  # access, modification, change
    data: bytearray = field(default_factory=bytearray)
    names: dict[str, int] = field(default_factory=dict)
    kept_data: bytes = b""
    kept_names: dict[str, int] = field(default_factory=dict)

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.mode)


Change = dict[tuple[int, str], int | None]
"""(folder, name) -> what it leads to afterwards; None: nothing. It reaches the disk as a whole."""


@dataclass
class Disk:
    """The nodes, and the changes of names that are not on disk yet, oldest first."""

    nodes: dict[int, Node] = field(default_factory=lambda: {ROOT: Node(ROOT, stat.S_IFDIR | 0o755)})
    pending: list[Change] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(ROOT + 1))

    def new(self, mode: int, uid: int, gid: int) -> Node:
        """A node that has no name yet."""
        node = Node(next(self.numbers), mode, uid, gid)
        self.nodes[node.number] = node
        return node

    def change(self, change: Change) -> None:
        """Let everybody see it; the disk does not have it yet."""
        for (folder, name), target in change.items():
            _put(self.nodes[folder].names, name, target)
            self.nodes[folder].times[1:] = [time.time_ns()] * 2
        self.pending.append(change)

    def sync_file(self, number: int) -> None:
        """What is in the file is on disk; where it hangs is another matter."""
        node = self.nodes[number]
        node.kept_data = bytes(node.data)

    def sync_folder(self, number: int) -> None:
        """Every change of this folder is on disk, with what it builds upon."""
        wanted: set[tuple[int, str]] = set()
        kept: list[Change] = []
        for change in reversed(self.pending):
            if wanted & change.keys() or any(folder == number for folder, _ in change):
                wanted |= change.keys()
                kept.append(change)
        self.pending = [change for change in self.pending if not any(change is one for one in kept)]
        for change in reversed(kept):
            self._keep(change)

    def cut(self, chance: random.Random | None) -> None:
        """The power is gone, and back: everybody sees what the disk has. Without `chance` that is what it must have."""
        for change in self.pending[: chance.randint(0, len(self.pending)) if chance else 0]:
            self._keep(change)
        self.pending.clear()
        reached, left = {ROOT}, [ROOT]
        while left:
            node = self.nodes[left.pop()]
            if node.is_folder:
                node.kept_names = {n: t for n, t in node.kept_names.items() if not n.startswith(_HIDDEN)}
                node.names = dict(node.kept_names)
                fresh = set(node.names.values()) - reached
                reached |= fresh
                left += fresh
            elif node.data != node.kept_data:
                if chance:  # what the disk had time for
                    node.kept_data = _some(chance, node.kept_data, bytes(node.data))
                node.data = bytearray(node.kept_data)
        self.nodes = {number: node for number, node in self.nodes.items() if number in reached}

    def _keep(self, change: Change) -> None:
        for (folder, name), target in change.items():
            if folder in self.nodes:
                _put(self.nodes[folder].kept_names, name, target)


def _some(chance: random.Random, kept: bytes, written: bytes) -> bytes:
    """What a disk may have of a file by now: a sector is the old one or the new one, never torn."""
    if len(kept) == len(written):
        sectors = (chance.choice([kept, written])[at : at + SECTOR] for at in range(0, len(kept), SECTOR))
        return b"".join(sectors)
    length = chance.choice([0, chance.randint(0, len(written)), len(written)])
    return written[:length] if length else kept


def _put(names: dict[str, int], name: str, target: int | None) -> None:
    if target is None:
        names.pop(name, None)
    else:
        names[name] = target


class Operations:
    """The disk as libfuse wants it: paths in, OSError out. A handle is the node's number."""

    use_ns = True

    def __init__(self, disk: Disk, caller: Any) -> None:
        self.disk = disk
        self.caller = caller  # () -> (uid, gid, pid)

    def _find(self, path: str) -> Node:
        node = self.disk.nodes[ROOT]
        for name in path.strip("/").split("/"):
            if name:
                if not node.is_folder:
                    raise OSError(errno.ENOTDIR, path)
                if name not in node.names:
                    raise OSError(errno.ENOENT, path)
                node = self.disk.nodes[node.names[name]]
        return node

    def _place(self, path: str) -> tuple[Node, str]:
        folder, _, name = path.rpartition("/")
        return self._find(folder), name

    def _node(self, path: str, fh: int | None) -> Node:
        return self._find(path) if fh is None else self.disk.nodes[fh]

    # Names

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        folder, name = self._place(path)
        uid, gid, _ = self.caller()
        node = self.disk.new(stat.S_IFREG | stat.S_IMODE(mode), uid, folder.gid if folder.mode & stat.S_ISGID else gid)
        self.disk.change({(folder.number, name): node.number})
        return node.number

    def mkdir(self, path: str, mode: int) -> int:
        folder, name = self._place(path)
        uid, gid, _ = self.caller()
        node = self.disk.new(stat.S_IFDIR | stat.S_IMODE(mode), uid, gid)
        self.disk.change({(folder.number, name): node.number})
        self.disk.sync_folder(folder.number)
        return 0

    def unlink(self, path: str) -> int:
        folder, name = self._place(path)
        self.disk.change({(folder.number, name): None})
        return 0

    def rmdir(self, path: str) -> int:
        if self._find(path).names:
            raise OSError(errno.ENOTEMPTY, path)
        return self.unlink(path)

    def rename(self, old: str, new: str) -> int:
        node = self._find(old)
        (source, name), (target, new_name) = self._place(old), self._place(new)
        self.disk.change({(source.number, name): None, (target.number, new_name): node.number})
        return 0

    def link(self, target: str, source: str) -> int:
        folder, name = self._place(target)
        self.disk.change({(folder.number, name): self._find(source).number})
        return 0

    def readdir(self, path: str, fh: int) -> list[tuple[str, dict[str, int], int]]:
        names = {".": fh, "..": ROOT, **self._find(path).names}
        return [(name, {"st_ino": number}, 0) for name, number in names.items()]  # number 0 would hide it

    # Contents

    def open(self, path: str, flags: int) -> int:
        node = self._find(path)
        if flags & os.O_TRUNC:
            node.data.clear()
        return node.number

    def opendir(self, path: str) -> int:
        return self._find(path).number

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return bytes(self.disk.nodes[fh].data[offset : offset + size])

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        node = self.disk.nodes[fh]
        node.data.extend(bytes(max(0, offset - len(node.data))))
        node.data[offset : offset + len(data)] = data
        node.times[1:] = [time.time_ns()] * 2
        return len(data)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        node = self._node(path, fh)
        del node.data[length:]
        node.data.extend(bytes(length - len(node.data)))
        node.times[1:] = [time.time_ns()] * 2
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        self.disk.sync_file(fh)
        return 0

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        self.disk.sync_folder(fh)
        return 0

    # About them

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        node = self._node(path, fh)
        links = sum(target == node.number for one in self.disk.nodes.values() for target in one.names.values())
        attributes = {"st_ino": node.number, "st_mode": node.mode, "st_uid": node.uid, "st_gid": node.gid}
        attributes |= dict(zip(("st_atime", "st_mtime", "st_ctime"), node.times, strict=True))
        return attributes | {"st_size": len(node.data), "st_nlink": 2 if node.is_folder else links}

    def chmod(self, path: str, mode: int) -> int:
        node = self._find(path)
        node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(mode)
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        node = self._find(path)
        node.uid, node.gid = (node.uid if uid == -1 else uid), (node.gid if gid == -1 else gid)
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        now = time.time_ns()
        self._find(path).times = [*(times or (now, now)), now]
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        blocks = 2**30 // 4096
        return {"f_bsize": 4096, "f_frsize": 4096, "f_blocks": blocks, "f_bfree": blocks, "f_bavail": blocks}


def may_mount() -> bool:
    """Whether we are root, and not in a container that takes away what makes root."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (capabilities,) = (int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:"))
    return os.getuid() == 0 and bool(capabilities >> _SYS_ADMIN & 1)


def missing() -> tuple[str, str]:
    """What this machine does not allow, and what is merely not installed; both empty: a power cut can be had."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"/dev/fuse ({error.strerror})", ""
    if not may_mount():
        return "root with CAP_SYS_ADMIN", ""
    if importlib.util.find_spec("mfusepy") is None:
        return "", "mfusepy"
    return "", "" if find_library("fuse3") else "fuse3"


def serve(mount: Path, image: Path, keep: int | None) -> None:
    """Until SIGTERM; then the power is cut."""
    import mfusepy  # type: ignore[import-untyped, import-not-found, unused-ignore]

    disk = pickle.loads(image.read_bytes()) if image.exists() else Disk()
    # What libfuse cannot find is not implemented; what it finds must not carry another class's marks.
    made = type("Volatile", (Operations, mfusepy.Operations), {})(disk, mfusepy.fuse_get_context)
    options = {"use_ino": True, "attr_timeout": 0, "entry_timeout": 0, "negative_timeout": 0, "allow_other": True}
    with contextlib.suppress(RuntimeError):  # how libfuse calls being asked to end
        mfusepy.FUSE(made, str(mount), foreground=True, nothreads=True, default_permissions=True, **options)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    disk.cut(None if keep is None else random.Random(keep))
    temporary = image.with_suffix(".new")
    temporary.write_bytes(pickle.dumps(disk))
    temporary.rename(image)


class Machine:
    """A mounted file system whose power can be cut: first nothing is kept that was not synced, then some, and so on."""

    def __init__(self, mount: Path, image: Path, seed: int = 0) -> None:
        self.mount = mount
        self.image = image
        self.cuts = 0
        self._seed = seed
        self._process: subprocess.Popen[bytes] | None = None

    def boot(self) -> None:
        """Mount. Raises OSError where that does not work within ten seconds."""
        self.mount.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "tests.faults.powercut", str(self.mount), str(self.image)]
        if self.cuts % 2:
            command += ["--keep", str(self._seed * 1000 + self.cuts)]
        self._process = subprocess.Popen(command, cwd=Path(__file__).parents[2])
        deadline = time.monotonic() + 10
        while not os.path.ismount(self.mount):
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.off()
                raise OSError(errno.EIO, "could not be mounted", str(self.mount))
            time.sleep(0.01)

    def off(self) -> None:
        """Cut the power. Whoever works there must be dead. Raises OSError where nothing became of it in time.

        Unmounting is not enough: a copy of this namespace that somebody has made meanwhile keeps the file system alive.
        """
        process, self._process = self._process, None
        self.cuts += 1
        if process is None:
            return
        for _ in range(6):
            process.terminate()  # it unmounts
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
                return
        process.kill()
        process.wait()
        subprocess.run(["umount", "--lazy", str(self.mount)], check=False, capture_output=True)
        raise OSError(errno.EIO, "did not end, so that what was synced is not on the image", str(self.mount))


def main(argv: Sequence[str]) -> None:
    """Serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.powercut")
    parser.add_argument("mount", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--keep", type=int, metavar="SEED", help="a random part of what was not synced")
    options = parser.parse_args(argv)
    serve(options.mount, options.image, options.keep)


if __name__ == "__main__":
    main(sys.argv[1:])
