"""What a group of processes costs: CPU seconds by cgroup v2, else by /proc and wait4; PSS by smaps_rollup."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

TICK = os.sysconf("SC_CLK_TCK")
ROOTS = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
_JOIN = 'echo $$ >"$0/cgroup.procs" && exec "$@"'  # from before the first instruction on, whatever it forks
_numbers = itertools.count()


class Group(Protocol):
    """The processes of one program under measurement."""

    how: str

    def spawn(self, command: Sequence[str | Path], **options: Any) -> subprocess.Popen[bytes]:
        """Start a program that counts, with all it starts itself."""
        ...

    def cpu(self) -> float:
        """CPU seconds of all of them until now, of those that have ended too."""
        ...

    def pids(self) -> list[int]:
        """Who lives."""
        ...

    def close(self) -> None:
        """End all of them."""
        ...


def group() -> Group:
    """A new group: a cgroup where we may make one."""
    for root in ROOTS:
        path = root / f"mailrelayd-bench-{os.getpid()}-{next(_numbers)}"
        if (root / "cgroup.procs").exists():
            with suppress(OSError):
                path.mkdir()
                return CgroupGroup(path)
    return TreeGroup()


class CgroupGroup:
    """Counted by the kernel, also what daemonised or became another user."""

    how = "cgroup"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._children: list[subprocess.Popen[bytes]] = []

    def spawn(self, command: Sequence[str | Path], **options: Any) -> subprocess.Popen[bytes]:
        """Start a program that counts, with all it starts itself."""
        child = subprocess.Popen(["/bin/sh", "-c", _JOIN, self._path, *command], **options)
        self._children.append(child)
        return child

    def cpu(self) -> float:
        """CPU seconds."""
        lines = (self._path / "cpu.stat").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("usage_usec")) / 1e6

    def pids(self) -> list[int]:
        """Who lives."""
        with suppress(OSError):
            return [int(pid) for pid in (self._path / "cgroup.procs").read_text().split()]
        return []

    def close(self) -> None:
        """End all of them and remove the cgroup."""
        _end(self)
        for child in self._children:
            child.wait()
        until = time.monotonic() + 5
        while self._path.exists() and time.monotonic() < until:
            with suppress(OSError):  # busy as long as the last of them has not quite gone
                self._path.rmdir()
            time.sleep(0.01)


class TreeGroup:
    """Descendants by /proc, in clock ticks; one that daemonises counts once it has ended, by wait4, or not at all."""

    how = "wait4"

    def __init__(self) -> None:
        self._children: list[subprocess.Popen[bytes]] = []
        self._before = _reaped()

    def spawn(self, command: Sequence[str | Path], **options: Any) -> subprocess.Popen[bytes]:
        """Start a program that counts, with all it starts itself."""
        child = subprocess.Popen(command, **options)
        self._children.append(child)
        return child

    def cpu(self) -> float:
        """CPU seconds."""
        for child in self._children:
            child.poll()
        return _reaped() - self._before + sum(_ticks(pid) for pid in self.pids()) / TICK

    def pids(self) -> list[int]:
        """Who lives."""
        living = [child.pid for child in self._children if child.poll() is None]
        return [pid for child in living for pid in (child, *descendants(child))]

    def close(self) -> None:
        """End all of them."""
        _end(self)
        for child in self._children:
            child.wait()


def _end(group: Group) -> None:
    until = time.monotonic() + 10
    while pids := group.pids():
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > until:
            raise TimeoutError(f"processes do not end: {pids}")
        time.sleep(0.01)


def _reaped() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _fields(pid: int) -> list[str]:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def _ticks(pid: int) -> int:
    """utime, stime and those of the children it has waited for: proc(5)."""
    return sum(int(field) for field in _fields(pid)[11:15])


def descendants(pid: int) -> Iterator[int]:
    """The living children of a process, theirs and so on."""
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield int(child)
            yield from descendants(int(child))


def pss(pids: Sequence[int]) -> float:
    """MB of memory, shared pages by parts."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1024


def switches(pids: Sequence[int]) -> int:
    """How often the threads of these processes have gone to sleep."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                lines = (task / "status").read_text().splitlines()
                total += next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches:"))
    return total


def busy() -> float:
    """CPU seconds that the whole machine has worked since it started."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / TICK  # without idle and iowait


def load() -> float:
    """The load average of the last minute."""
    return os.getloadavg()[0]
