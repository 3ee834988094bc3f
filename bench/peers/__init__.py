"""The programs that are measured side by side, each behind the same five calls."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from bench.messages import Batch
from bench.usage import Group


class UnavailableError(Exception):
    """This program cannot be measured here; the text says why."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a program works for one run, and whom it sends to."""

    directory: Path
    port: int  # the sink's
    connections: int
    group: Group
    installed: Path  # what install.sh made
    window: int = 1  # bodies without an answer, on one connection
    loop: str = ""  # which event loop, where there is a choice


class Peer(ABC):
    """One program for one run. The messages are on disk, fsynced, before it may begin."""

    root = False  # whether it can only be run by root
    hands_in = False  # whether `hand_in` is there

    def __init__(self, place: Place) -> None:
        """Prepare the directory; nothing runs yet. Raises UnavailableError."""
        if self.root and os.getuid() != 0:
            raise UnavailableError("runs only as root")
        self.place = place

    @abstractmethod
    def prepare(self, batch: Batch) -> None:
        """Put the messages where it finds them as soon as it may begin."""

    @abstractmethod
    def begin(self) -> None:
        """Let it send."""

    @abstractmethod
    def waiting(self) -> int:
        """How many messages are in its spool."""

    def hand_in(self, number: int, text: bytes) -> None:
        """One message more, while it runs; returns when it is the program's, or on disk for it."""
        raise NotImplementedError

    def asked(self, answers: list[float]) -> AbstractContextManager[None]:
        """Somebody asks it all the time how it is; how long each answer took, in ms."""
        raise NotImplementedError

    def settled(self) -> float | None:
        """When its last message was told to be done, durably, on time.monotonic(); None: when its spool was empty."""
        return None

    def sendmail(self, command: str) -> list[str]:
        """What a program starts, with the message on standard input; `command` where there are several."""
        raise NotImplementedError

    def clock(self, command: list[str], text: bytes, times: int) -> list[float]:
        """How long that takes, so many times, in ms."""
        done = subprocess.run(starting(command, times), input=text, stdout=subprocess.PIPE, check=True)
        return [float(each) for each in json.loads(done.stdout)]

    def retry(self) -> None:  # noqa: B027 (most need nobody for that)
        """Ask it to try again at once what waits; nothing where it needs nobody for that."""

    def close(self) -> None:  # noqa: B027 (most have nothing else)
        """Whatever is not in the group."""


STARTING = """\
import json, subprocess, sys, time
times, command, text, found = int(sys.argv[1]), sys.argv[2:], sys.stdin.buffer.read(), []
for _ in range(times):
    begun = time.perf_counter()
    done = subprocess.run(command, input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    found.append((time.perf_counter() - begun) * 1000)
    if done.returncode:
        sys.exit(f"{command}: exit status {done.returncode}: {done.stdout}")
print(json.dumps(found))
"""


def starting(command: Sequence[str], times: int) -> list[str]:
    """The command that starts another so many times and prints how long each took."""
    return ["/usr/bin/python3", "-I", "-c", STARTING, str(times), *command]


def count(folders: Iterable[Path], suffix: str = "") -> int:
    """Files below these folders, however deep."""
    return sum(1 for folder in folders for _, _, names in os.walk(folder) for name in names if name.endswith(suffix))


def program(name: str) -> str:
    """Its path; raises UnavailableError."""
    path = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if path is None:
        raise UnavailableError(f"{name} is not installed")
    return path


def peers() -> dict[str, Callable[[Place], Peer]]:
    """Every program by the name it is asked for."""
    from bench.peers.loops import AiosmtplibLoop, Interpreter, SmtplibLoop
    from bench.peers.others import Dma, Exim, Msmtp, Nullmailer, OpenSmtpd
    from bench.peers.postfix import Postfix
    from bench.peers.subject import Mailrelayd

    return {
        "mailrelayd": Mailrelayd,
        "postfix": Postfix,
        "exim": Exim,
        "opensmtpd": OpenSmtpd,
        "nullmailer": Nullmailer,
        "msmtp": Msmtp,
        "dma": Dma,
        "smtplib": SmtplibLoop,
        "aiosmtplib": AiosmtplibLoop,
        "python": Interpreter,
    }
