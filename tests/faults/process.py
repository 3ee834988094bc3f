"""The daemon as a process: started, killed, stopped, told to reload, and made to stumble over chosen system calls."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.journal import Death, append_line
from tests.faults.producers import ROOT
from tests.faults.verdict import KILLED

SECOND = 75  # the exit code of a daemon that finds the spool taken
READY = b'"daemon.ready"'


@dataclass
class Daemon:
    """The process under test: started, killed, stopped, and started again whenever it ends by itself.

    `inject` is strace's expression, as in "unlink:signal=KILL:when=3" or "fsync:error=EIO:when=2+". It counts per
    thread, and each life begins anew; `{life}` in it is the life's number, from 1 to `cycle` and from 1 again, and
    after `lives_injected` lives it is left alone. With `attach` strace comes when the daemon is ready, so that the
    count begins with the work and not with the interpreter's own start. strace slows everything that is traced;
    --seccomp-bpf would help but silently ignores signal=KILL.
    """

    command: Sequence[str]
    directory: Path
    inject: str = ""
    lives_injected: int = 10**6
    cycle: int = 10**6
    attach: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    restart: bool = True  # False: it may end by itself, with 0, and stays dead
    lives: int = 0
    _process: asyncio.subprocess.Process | None = None
    _living: asyncio.Task[None] | None = None
    _over: bool = False

    @property
    def pid(self) -> int:
        """Of the life that is lived now; with strace around it, strace's."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Run it, life after life, until it is killed or stopped."""
        self._over = False
        self._living = asyncio.create_task(self._live())

    async def _live(self) -> None:
        while not self._over:
            ready = _count(self._log, READY)
            injected = bool(self.inject) and self.lives < self.lives_injected
            self._process = process = await self._spawn(traced=injected and not self.attach)
            if self._over:  # asked for while it was being born
                self.send(signal.SIGKILL)
            tracing = asyncio.create_task(self._trace(process.pid, ready)) if injected and self.attach else None
            code = await process.wait()
            self.send(signal.SIGKILL)  # what strace may have left behind
            if tracing is not None:
                tracing.cancel()
                await asyncio.wait([tracing])
            injected = injected and code in KILLED
            meant = self._over or injected or (code == 0 and not self.restart)
            if code != SECOND:
                append_line(self.directory / "deaths.jsonl", Death(time.time(), code, meant))
            if not self.restart:
                return
            if not self._over:
                await asyncio.sleep(0.02 if injected else 0.2)

    @property
    def _log(self) -> Path:
        return self.directory / "daemon.log"

    async def _spawn(self, *, traced: bool) -> asyncio.subprocess.Process:
        command = [*self._strace(), *self.command] if traced else list(self.command)
        self.lives += 1
        with self._log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=os.environ | self.environment,
                start_new_session=True,
            )

    def _strace(self) -> list[str]:
        calls = self.inject.partition(":")[0]
        life = self.lives - (1 if self.attach else 0)  # attached to one that has been counted already
        inject = self.inject.replace("{life}", str(life % self.cycle + 1))
        trace = ["strace", "-f", "-qq", "-o", f"{self.directory}/strace.{self.lives}"]
        return [*trace, "-e", f"trace={calls}", "-e", f"inject={inject}"]

    async def _trace(self, pid: int, ready: int) -> None:
        """Put strace on a daemon that has become ready, until the daemon ends."""
        if not await self.ready(ready + 1):
            return
        tracer = await asyncio.create_subprocess_exec(
            *self._strace(), "-p", str(pid), stdin=asyncio.subprocess.DEVNULL, start_new_session=True
        )
        try:
            await tracer.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(tracer.pid, signal.SIGKILL)
            await tracer.wait()

    def send(self, number: signal.Signals) -> None:
        """To the whole process group, if there is one."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    async def _end(self, number: signal.Signals, patience: float) -> bool:
        if self._living is None:
            return True
        self._over = True
        self.send(number)
        done, _ = await asyncio.wait([self._living], timeout=patience)
        return bool(done)

    async def kill(self) -> None:
        """SIGKILL, to the whole process group; returns when it is gone."""
        await self._end(signal.SIGKILL, 30)

    async def stop(self, patience: float = 30) -> bool:
        """SIGTERM, then SIGKILL; whether the first was enough."""
        if await self._end(signal.SIGTERM, patience):
            return True
        await self.kill()
        return False

    async def ready(self, times: int, patience: float = 10) -> bool:
        """Wait until the log says so often that a daemon is ready."""
        deadline = time.monotonic() + patience
        while _count(self._log, READY) < times:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.02)
        return True

    def times_ready(self) -> int:
        """How often the log says so by now."""
        return _count(self._log, READY)


def _count(path: Path, text: bytes) -> int:
    return path.read_bytes().count(text) if path.exists() else 0
