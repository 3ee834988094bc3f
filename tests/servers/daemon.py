"""The daemon as its users have it: a process, a configuration file, a log, signals. Nothing of it is imported here."""

from __future__ import annotations

import functools
import json
import os
import pwd
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tests.servers.process import LOOP, end, kill, wait_until

ORDINARY_USER = "nobody"

Event = dict[str, Any]


@dataclass(frozen=True)
class Account:
    """Whom the daemon runs as, and why not as an ordinary user if it does not."""

    uid: int
    gid: int
    reason: str = ""

    @property
    def switch(self) -> dict[str, Any]:
        """What subprocess.Popen has to be told to become this user."""
        if self.uid == os.getuid():
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, path: Path) -> Path:
        """Make this user the owner of `path`."""
        if self.uid != os.getuid():
            os.chown(path, self.uid, self.gid)
        return path


@functools.cache
def account() -> Account:
    """An ordinary user where possible: root is refused by no file mode and has the disk's reserve."""
    ourselves = Account(os.getuid(), os.getgid())
    if ourselves.uid != 0:
        return ourselves
    entry = pwd.getpwnam(ORDINARY_USER)
    ordinary = Account(entry.pw_uid, entry.pw_gid)
    attempt = [sys.executable, "-c", "import mailrelayd"]
    try:
        subprocess.run(attempt, cwd="/", check=True, capture_output=True, text=True, **ordinary.switch)
    except (OSError, subprocess.CalledProcessError) as error:
        why = error.stderr.strip().splitlines()[-1] if isinstance(error, subprocess.CalledProcessError) else error
        return Account(0, 0, f"the daemon ran as root, {ORDINARY_USER} cannot start it: {why}")
    return ordinary


class StartDaemon(Protocol):
    """The `daemon` fixture: configuration (TOML) and environment variables -> a Daemon, started unless told not to."""

    def __call__(
        self, configuration: str, environment: Mapping[str, str] | None = None, *, start: bool = True
    ) -> Daemon: ...


class Daemon:
    """One `mailrelayd run`; may be started again after it ended, each run with a log of its own."""

    def __init__(self, directory: Path, configuration: str, environment: Mapping[str, str]) -> None:
        """Write the configuration, with the log as JSON, into `directory`; nothing runs yet."""
        self.directory = directory
        self.configuration = directory / "mailrelayd.toml"
        self.process: subprocess.Popen[bytes] | None = None
        self._environment = {"PATH": os.environ["PATH"], "HOME": str(directory), "LANG": "C.UTF-8", **environment}
        self._runs = 0
        self.configure(configuration)

    def configure(self, configuration: str) -> None:
        """Write another configuration; the running daemon is not told."""
        if "[log]" not in configuration:
            configuration += '\n[log]\nformat = "json"\n'
        self.configuration.write_text(configuration, encoding="utf-8")

    def start(self, *arguments: str) -> Daemon:
        """Start it; `arguments` instead of "run" if there are any. Does not wait: see `wait_ready`."""
        if self.running:
            raise RuntimeError("it runs already")
        self._runs += 1
        with self._log_path.open("wb") as log:
            self.process = self._popen(arguments or ("run", "--loop", LOOP), stderr=log)
        return self

    def command(self, *arguments: str, stdin: bytes = b"", seconds: float = 30) -> subprocess.CompletedProcess[bytes]:
        """Run another command of the program, with the same configuration, user and environment, to its end."""
        with self._popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                output, errors = process.communicate(stdin, seconds)
            except subprocess.TimeoutExpired:
                kill(process)
                raise
        return subprocess.CompletedProcess(arguments, process.returncode, output, errors)

    def begin(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start another command to talk with, through pipes; errors come along with the output."""
        return self._popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def _popen(self, arguments: Sequence[str], **streams: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "mailrelayd", "--config", str(self.configuration), *arguments]
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, **streams}
        options = {"cwd": "/", "env": self._environment, "start_new_session": True, **account().switch}
        return subprocess.Popen(command, **options, **streams)

    def wait_ready(self, seconds: float = 20) -> Daemon:
        """Return once it says so."""
        self.wait_for_event("daemon.ready", seconds)
        return self

    def stop(self, seconds: float = 20) -> int:
        """SIGTERM; the exit status (-9 if it had to be killed after `seconds`)."""
        return end(self._started(), seconds)

    def kill9(self) -> int:
        """SIGKILL, as a crash; the exit status."""
        return kill(self._started())

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._started().send_signal(number)

    def wait(self, seconds: float = 20) -> int:
        """The exit status, once it has ended by itself."""
        process = self._started()
        wait_until(lambda: process.poll() is not None, seconds, self.log)
        return process.wait()

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._started().pid

    def _started(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            raise RuntimeError("it was never started")
        return self.process

    @property
    def _log_path(self) -> Path:
        return self.directory / f"log-{self._runs}"

    def log(self) -> str:
        """Standard error of this run."""
        return self._log_path.read_text(encoding="utf-8", errors="backslashreplace")

    def events(self, name: str | None = None, /, **keys: object) -> list[Event]:
        """This run's events, of this name and with these values if given; only complete JSON lines are read."""
        found = []
        for line in self.log().splitlines(keepends=True):
            if line.startswith("{") and line.endswith("\n"):
                event: Event = json.loads(line)
                if name in (None, event.get("event")) and all(event.get(key) == value for key, value in keys.items()):
                    found.append(event)
        return found

    def wait_for_events(self, name: str, count: int, /, timeout: float = 20, **keys: object) -> list[Event]:
        """The matching events, once there are `count`; TimeoutError, or RuntimeError if it ends first, with the log."""
        wait_until(
            lambda: not self.running or len(self.events(name, **keys)) >= count,
            timeout,
            lambda: f"{count} x {name} {keys}\n{self.log()}",
        )
        found = self.events(name, **keys)
        if len(found) < count:
            status = self._started().wait()
            raise RuntimeError(f"ended with status {status} before {count} x {name} {keys}\n{self.log()}")
        return found

    def wait_for_event(self, name: str, /, timeout: float = 20, **keys: object) -> Event:
        """The first event of this name with these values."""
        return self.wait_for_events(name, 1, timeout, **keys)[0]
