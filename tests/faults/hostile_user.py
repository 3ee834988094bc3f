"""An unfriendly member of the pickup's group, as a process of its own: PICKUP SECRET SECONDS SEED.

It swaps what stands under names of its own, writes into what it has handed in, keeps locks and leases, puts sidecars
beside the mails of others, and tries to get hold of these. It prints, as lines, "could" with what it should not have
been able to do, and "state" with the hash of each body that ever stood in a file of its own: nothing else of it may
arrive.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

LINES, MANY = 400, 10_000  # of a message, and of one that is rewritten
RACES, TORN, BESIEGED = 6, 4, 10
STROKES = 6  # into one message, at most
PAUSE = 0.001  # seconds between two deeds


def message(test_id: str, version: int, count: int = LINES) -> bytes:
    """A message each line of which tells its version, so that a mixture of two can be seen."""
    head = f"From: u@drop.test\nTo: own@r.test\nX-Test-Id: {test_id}\nSubject: {version}\n\n"
    lines = "".join(f"version {version} line {number}\n" for number in range(count))
    return (head + lines + f"end of version {version}\n").encode()


def body_hash(data: bytes | bytearray) -> str:
    """Of the body as it goes over the wire."""
    body = re.sub(rb"\r\n|\r|\n", b"\r\n", data.partition(b"\n\n")[2])
    return hashlib.sha256(body if body.endswith(b"\r\n") or not body else body + b"\r\n").hexdigest()


def besieged(number: int) -> bool:
    """Whether a sidecar is put beside this mail of somebody else."""
    return number % BESIEGED == 7


class Unfriendly:
    """Everything happens in the pickup folder, which is the working directory."""

    def __init__(self, secret: str, seed: int) -> None:
        self.secret = secret
        self.chance = random.Random(seed)
        self.count = 0
        self.could: set[str] = set()
        self.grown = bytearray()
        self.kept: list[int] = []  # descriptors with locks and leases
        self.states: set[str] = set()

    def write(self, name: str, data: bytes | bytearray) -> int:
        """A new file; its descriptor."""
        self.states.add(body_hash(data))
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o640)
        os.fchmod(descriptor, 0o640)
        os.write(descriptor, data)
        return descriptor

    def swap(self) -> None:
        """Another thing under the same name."""
        name = f"race-{self.chance.randrange(RACES)}.eml"
        self.count += 1
        with suppress(OSError):
            os.rmdir(name)
        match self.chance.randrange(6):
            case 0:
                os.mkfifo(".next", 0o660)
            case 1:
                os.symlink(self.secret, ".next")
            case 2:
                os.close(self.write(".twice", message(f"own-{self.count}", self.count)))
                os.link(".twice", ".next")
            case 3:
                with suppress(FileNotFoundError):
                    os.unlink(name)
                os.mkdir(name)
                return
            case _:
                os.close(self.write(".next", message(f"own-{self.count}", self.count)))
        os.rename(".next", name)

    def tear(self) -> None:
        """Hand a message in and write into it at once: all of it anew, the end cut off, or one byte in the middle."""
        self.count += 1
        content = bytearray(message(f"own-{self.count}", self.count, MANY))
        descriptor = self.write(".torn", content)
        os.rename(".torn", f"torn-{self.count % TORN}.eml")
        for _ in range(self.chance.randrange(STROKES)):
            self.count += 1
            deed: Callable[[], object]
            match self.chance.randrange(3):
                case 0:
                    size = self.chance.randrange(500, 250_000)
                    content[size:] = bytes(max(0, size - len(content)))
                    deed = partial(os.ftruncate, descriptor, size)
                case 1:
                    data = message(f"own-{self.count}", self.count, MANY)
                    content[: len(data)] = data
                    deed = partial(os.pwrite, descriptor, data, 0)
                case _:
                    at = self.chance.randrange(100, 200_000)
                    content += bytes(max(0, at - len(content)))
                    content[at : at + 1] = b"#"
                    deed = partial(os.pwrite, descriptor, b"#", at)
            self.states.add(body_hash(content))
            deed()
        os.close(descriptor)

    def besiege(self) -> None:
        """A sidecar beside the mail of somebody else."""
        name = f"good-{self.chance.randrange(100):03}.env.json"
        if besieged(int(name[5:8])):
            os.close(self.write(name, b'{"mail_from": "u@drop.test", "rcpt_to": ["thief@r.test"]}'))

    def meddle(self) -> None:
        """Try to get hold of the mail of somebody else."""
        name = f"{self.chance.choice(['', 'new/'])}good-{self.chance.randrange(100):03}.eml"
        tries: dict[str, Callable[[], object]] = {
            "remove": lambda: os.unlink(name),
            "rename": lambda: os.rename(name, ".mine"),
            "replace": lambda: os.rename(".mine", name),
            "write to": lambda: os.close(os.open(name, os.O_WRONLY)),
            "link": lambda: os.link(name, ".linked"),
            "change the mode of": lambda: os.chmod(name, 0o666),
            "list": lambda: os.listdir("."),
            "look into queue/ beside": lambda: os.listdir("../queue"),
        }
        deed = self.chance.choice(list(tries))
        if deed == "replace":
            os.close(self.write(".mine", message("thief", 1)))
        try:
            tries[deed]()
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOENT, errno.EEXIST):
                raise
        else:
            if deed != "replace":  # where nothing stood, it has handed in a file of its own
                self.could.add(f"{deed} {name}")

    def keep(self) -> None:
        """A lock on one file, a lease on another, and a third that grows for ever."""
        locked = self.write("locked.eml", message("own-locked", 0))
        fcntl.flock(locked, fcntl.LOCK_EX)
        leased = self.write(".leased", message("own-leased", 0))
        os.close(leased)
        leased = os.open(".leased", os.O_WRONLY)
        with suppress(OSError):
            fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        os.rename(".leased", "leased.eml")
        self.grown = bytearray(message("own-grows", 0))
        self.kept += [locked, leased, self.write("grows.eml", self.grown)]

    def run(self, seconds: float) -> None:
        """Everything, again and again."""
        signal.signal(signal.SIGIO, signal.SIG_IGN)  # the kernel asks for the lease
        self.keep()
        until = time.monotonic() + seconds
        deeds = [*[self.swap] * 12, self.tear, self.besiege, self.meddle, self.meddle]
        while time.monotonic() < until:
            with suppress(FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError):
                self.chance.choice(deeds)()
            self.grown += b"more\n"
            self.states.add(body_hash(self.grown))
            os.write(self.kept[-1], b"more\n")
            time.sleep(PAUSE)


def main(pickup: str, secret: str, seconds: str, seed: str) -> None:
    """Do it, and tell what should not have been possible."""
    os.chdir(pickup)
    user = Unfriendly(secret, int(seed))
    user.run(float(seconds))
    print("\n".join([*(f"could {deed}" for deed in sorted(user.could)), *(f"state {one}" for one in user.states)]))


if __name__ == "__main__":
    assert Path(sys.argv[1]).is_dir()
    main(*sys.argv[1:])
