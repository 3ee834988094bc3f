"""Stops and reloads in the middle of a transaction: at every stage of the server, and at every await of the daemon.

Nothing is killed here, so nothing excuses a repeat: what the server took is on disk when the daemon ends.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.driver import drained, write_config
from tests.faults.loops import change
from tests.faults.process import Daemon
from tests.faults.producers import PROGRAM, Dropper, compose
from tests.faults.script import Script
from tests.faults.server import Recorder, Terms
from tests.faults.verdict import Verdict, judge
from tests.servers.process import LOOP

LOOPS = (sys.executable, "-m", "tests.faults.loops", *PROGRAM[3:], "run", "--loop", LOOP)
STAGES = ("greeting", "ehlo", "rset", "mail", "rcpt", "data", "body", "dot", "recorded", "quit")
IN_TLS = ("starttls", "tls", "auth")
FATES = ("ok", "ok", "ok", "reject", "ok", "tempfail-1", "ok")
_IDLE = {"MAILRELAYD_TEST_IDLE": "0.05"}  # so that QUIT comes while somebody looks
_PATIENCE = 20.0  # seconds until a message must be gone


class Alarm(Script):
    """The server's script with no faults: it tells when a stage is reached, that is, before its answer."""

    def __init__(self) -> None:
        super().__init__([])
        self.stage = ""
        self.reached = asyncio.Event()

    def arm(self, stage: str) -> None:
        """Wait for this stage."""
        self.stage = stage
        self.reached.clear()

    def pick(self, stage: str, to: str = "", test_id: str = "") -> str | None:
        if stage == self.stage:
            self.reached.set()
        return None


@dataclass
class Stops:
    """A campaign of stops (SIGTERM) or reloads (SIGHUP), one message each. `directory` must be empty or new."""

    directory: Path
    number: signal.Signals = signal.SIGTERM
    command: Sequence[str] = LOOPS
    seed: int = 0
    more: str = ""  # TOML
    window: int = 1
    terms: Terms = field(default_factory=lambda: Terms(patience=1.0, delay=0.004))
    struck: int = 0  # signals that met a transaction
    stuck: int = 0
    missed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Lay the table."""
        self.terms.window = self.window
        self.config = self.directory / "mailrelayd.toml"
        self.spool = self.directory / "spool"
        for folder in ("pickup/tmp", "pickup/new", "queue", "failed"):
            (self.spool / folder).mkdir(parents=True, exist_ok=True)
        self._dropper = Dropper(self.spool, self.directory)
        self._chance = random.Random(self.seed)
        self._turn = 0

    async def at_stages(self, stages: Sequence[str], sizes: Sequence[int]) -> Verdict:
        """Before the answer of each stage and behind it, with messages of each size."""
        async with Recorder(self.directory, terms=self.terms, sync=False) as recorder:
            recorder.script = alarm = Alarm()
            write_config(self.config, self.spool, recorder.port, window=self.window, more=self.more)
            for stage in stages:
                for size in sizes:
                    for behind in (False, True):
                        await self._one(alarm, stage, size, self.terms.delay * 2 if behind else 0.0)
            await self._finish()
        return self._judge()

    async def _one(self, alarm: Alarm, stage: str, size: int, behind: float) -> None:
        await self._drop(size)
        daemon = self._daemon()
        alarm.arm(stage)
        await daemon.start()
        try:
            async with asyncio.timeout(_PATIENCE):
                await alarm.reached.wait()
            await asyncio.sleep(behind)
            if self.number is signal.SIGHUP:
                change(self.config)
            daemon.send(self.number)
            self.struck += 1
            if self.number is signal.SIGHUP:
                await drained(self.spool, time.monotonic() + _PATIENCE)
        except TimeoutError:
            self.missed.append(f"{stage} was not reached")
        finally:
            await self._end(daemon)

    async def at_steps(self, most: int) -> Verdict:
        """At the first step of the daemon from its connecting on, at the second, until it takes none any more."""
        async with Recorder(self.directory, terms=self.terms, sync=False) as recorder:
            write_config(self.config, self.spool, recorder.port, window=self.window, more=self.more)
            for step in range(1, most + 1):
                await self._drop(None)
                daemon = self._daemon({"MAILRELAYD_TEST_STEP": f"{step}:{self.number.name}"})
                await daemon.start()
                try:
                    if not await self._met(daemon, recorder):
                        break
                    self.struck += 1
                finally:
                    await self._end(daemon)
            else:
                self.missed.append(f"a transaction has more than {most} steps")
            await self._finish()
        return self._judge()

    async def _met(self, daemon: Daemon, recorder: Recorder) -> bool:
        """Whether the signal came before the message was gone and the connection closed."""
        log, seen = self.directory / "daemon.log", 0
        word = b'"daemon.stopping"' if self.number is signal.SIGTERM else b'"by":"SIGHUP"'
        before = self._seen(log, word)
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            if self._seen(log, word) > before:
                if self.number is signal.SIGHUP:
                    await drained(self.spool, time.monotonic() + _PATIENCE)
                return True
            quiet = not any((self.spool / "queue").glob("*.eml")) and not recorder.open_connections
            seen = seen + 1 if quiet and recorder.connections and not any(self.spool.glob("pickup/*.eml")) else 0
            if seen > 20:
                return False
            await asyncio.sleep(0.02)
        self.missed.append("neither stopped nor done")
        return False

    @staticmethod
    def _seen(log: Path, word: bytes) -> int:
        return log.read_bytes().replace(b'": "', b'":"').count(word) if log.exists() else 0

    async def _drop(self, size: int | None) -> None:
        number, self._turn = self._turn, self._turn + 1
        recipients = [f"{FATES[(number + turn) % len(FATES)]}@r{turn}.m{number}.test" for turn in range(2)]
        await self._dropper.drop(compose(f"s{self.seed}-{number:06}", recipients, self._chance, size))

    def _daemon(self, environment: dict[str, str] | None = None) -> Daemon:
        places = {"{config}": str(self.config), "{spool}": str(self.spool)}
        command = [places.get(word, word) for word in self.command]
        return Daemon(command, self.directory, environment={**_IDLE, **(environment or {})}, restart=False)

    async def _end(self, daemon: Daemon) -> None:
        self.stuck += not await daemon.stop()

    async def _finish(self) -> None:
        """A last life for what was left, which is nobody's trouble."""
        daemon = self._daemon()
        await daemon.start()
        await drained(self.spool, time.monotonic() + _PATIENCE)
        await self._end(daemon)

    def _judge(self) -> Verdict:
        verdict = judge(self.directory, self.spool)
        verdict.stuck = self.stuck
        verdict.details += self.missed
        return verdict
