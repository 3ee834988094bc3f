"""Every stage of an SMTP conversation x every fault against the daemon, several cells at a time, each with its own.

    python -m tests.faults.smtp_cells --directory DIR [--cells dot:close@2,tls:badcert=expired] [--at-a-time 6]

TLS and a login are required, so that there is something to betray. A few messages are dropped, the fault strikes once
at the given time that its stage is reached, all of them are waited for; then one more has to pass without trouble.
Behind `@` stands which time, 1 by default; behind `=` which of the bad certificates.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.faults.driver import DAEMON
from tests.faults.memory import largest
from tests.faults.process import Daemon
from tests.faults.producers import Dropper, compose
from tests.faults.script import CELLS, Rule
from tests.faults.server import Recorder, Terms, context
from tests.faults.verdict import Verdict, judge
from tests.servers import certificates as certificate_files
from tests.servers.certificates import Certificates
from tests.servers.process import short_directory

MESSAGES = 3  # of two recipients each; then one more
PATIENCE = 30.0  # seconds for one message or another to be gone; whoever takes longer hangs
HEAP = 160_000  # KiB that the daemon may have held at its largest; 60,000 is usual
BAD = ("expired", "wrong_host", "self_signed", "stranger")
_UNJUDGEABLE = ("body", "stray")  # see README.md
_BY_DATA = ("data", "body")  # nobody comes there with BDAT
_REPEATED = ("ehlo", "rset", "mail", "rcpt", "data", "body", "dot", "recorded")  # more than once on a connection
_FINAL = ("mail", "rcpt", "data", "dot")  # where a 5xx is the message's, or the recipient's, end

_CONFIG = """\
[node]
name = "witness"
[spool]
directory = "{directory}/spool"
settle = "100ms"
[state]
directory = "{directory}/state"
[retry]
probe = "200ms"
message = ["200ms", "200ms", "300ms", "500ms"]
[outbound.test]
host = "localhost"
port = {port}
security = "starttls"
user = "relay"
password = "text:a password"
from_address = "relay@drop.test"
connect_timeout = "2s"
command_timeout = "2s"
data_timeout = "3s"
window = {window}
[outbound.test.tls]
ca_file = "{ca}"
[log]
format = "json"
"""


@dataclass(frozen=True)
class Cell:
    """Which fault strikes, where, and the how manieth time that the stage is reached."""

    stage: str
    fault: str
    nth: int = 1
    certificate: str = ""

    @classmethod
    def parse(cls, text: str) -> Cell:
        """STAGE:FAULT, with =CERTIFICATE or @NTH behind it."""
        found = re.fullmatch(r"([a-z]+):([a-z0-9]+)(?:=([a-z_]+))?(?:@([0-9]+))?", text)
        if found is None:
            raise ValueError(f"{text} is no STAGE:FAULT[=CERTIFICATE][@NTH]")
        return cls(found[1], found[2], int(found[4] or 1), found[3] or "")

    def __str__(self) -> str:
        """As `parse` reads it."""
        certificate = f"={self.certificate}" if self.certificate else ""
        return f"{self.stage}:{self.fault}{certificate}{f'@{self.nth}' if self.nth > 1 else ''}"

    @property
    def final(self) -> bool:
        """Whether the server refuses for good what it is about."""
        return self.stage in _FINAL and self.fault.startswith("5")


def cells(window: int = 1) -> list[Cell]:
    """All of them: at the first time of a stage, and at a later one where a connection has several."""
    found = []
    for stage, faults in CELLS.items():
        for fault in faults:
            if (stage, fault) == _UNJUDGEABLE or (window > 1 and stage in _BY_DATA):
                continue
            if fault == "badcert":
                found += [Cell(stage, fault, certificate=name) for name in BAD]
            elif fault == "caps":  # only behind TLS: which offers are other than before
                found.append(Cell(stage, fault, 2))
            else:
                found += [Cell(stage, fault, nth) for nth in ((1, 2) if stage in _REPEATED else (1,))]
    return [cell for cell in found if cell != Cell("ehlo", "strip", 2)]  # there is nothing left to strip


@dataclass
class Outcome:
    """What became of one cell. `problems` has a sentence for each that speaks against."""

    cell: Cell
    verdict: Verdict
    seconds: float
    held: int  # KiB, the daemon at its largest
    problems: list[str] = field(default_factory=list)


@dataclass
class Campaign:
    """Many cells. `directory` must be new or empty."""

    directory: Path
    cells: Sequence[Cell]
    at_a_time: int = 4
    seed: int = 0
    window: int = 1
    outcomes: list[Outcome] = field(default_factory=list)

    async def run(self) -> str:
        """Do all of it; the report, whose last word is "ok" or "NOT OK"."""
        room = asyncio.Semaphore(self.at_a_time)

        async def one(cell: Cell) -> None:
            async with room:
                self.outcomes.append(await self._one(cell, certificates))

        with short_directory("mr-tls") as directory:
            certificates = certificate_files.make(directory)
            async with asyncio.TaskGroup() as tasks:
                for cell in self.cells:
                    tasks.create_task(one(cell))
        return self.report()

    @property
    def ok(self) -> bool:
        """Whether every cell is."""
        return not any(outcome.problems for outcome in self.outcomes)

    def report(self) -> str:
        """Figures over all cells, and every problem."""
        verdicts = [outcome.verdict for outcome in self.outcomes]
        sums = {
            word: sum(getattr(one, word) for one in verdicts)
            for word in Verdict.__dataclass_fields__
            if word != "details"
        }
        slowest = max(self.outcomes, key=lambda outcome: outcome.seconds)
        greediest = max(self.outcomes, key=lambda outcome: outcome.held)
        total = replace(Verdict(), **sums)
        total.details = [f"{outcome.cell}: {problem}" for outcome in self.outcomes for problem in outcome.problems]
        lines = [
            f"{len(self.outcomes)} cells, struck {sum(one.faults > 0 for one in verdicts)}",
            str(total),
            f"slowest     {slowest.cell} {slowest.seconds:.1f} s",
            f"largest     {greediest.cell} {greediest.held / 1024:.0f} MiB",
            "ok" if self.ok else "NOT OK",
        ]
        return "\n".join(lines)

    async def _one(self, cell: Cell, certificates: Certificates) -> Outcome:
        directory = self.directory / re.sub("[^a-z0-9_]", "-", str(cell))
        run = _Run(directory, cell, certificates, self.seed, self.window)
        outcome = await run.run()
        if not outcome.problems:
            await asyncio.to_thread(shutil.rmtree, directory)
        return outcome


class _Run:
    """One cell at work."""

    def __init__(self, directory: Path, cell: Cell, certificates: Certificates, seed: int, window: int) -> None:
        self.directory = directory
        self.cell = cell
        self.window = window
        self.spool = directory / "spool"
        for folder in ("pickup/tmp", "pickup/new", "queue", "failed"):
            (self.spool / folder).mkdir(parents=True)
        self._certificates = certificates
        self._chance = random.Random(f"{seed} {cell}")
        self._dropper = Dropper(self.spool, directory)
        self._dropped = 0
        bad = getattr(certificates, cell.certificate) if cell.certificate else None
        self._terms = Terms(
            tls=context(certificates.good.certificate, certificates.good.key),
            bad_tls=context(bad.certificate, bad.key) if bad else None,
            require_tls=True,
            password="a password",
            require_auth=True,
            drip=1.0 if cell.stage == "quit" else 0.05,
            patience=4.0,
            giant=16 * 2**20,
            window=window,
        )

    async def run(self) -> Outcome:
        began = time.monotonic()
        rule = Rule(self.cell.stage, self.cell.fault, nth=self.cell.nth)
        problems: list[str] = []
        async with Recorder(self.directory, rules=[rule], terms=self._terms, sync=False) as recorder:
            text = _CONFIG.format(
                directory=self.directory, port=recorder.port, ca=self._certificates.ca, window=self.window
            )
            (self.directory / "mailrelayd.toml").write_text(text)
            command = [word.replace("{config}", str(self.directory / "mailrelayd.toml")) for word in DAEMON]
            daemon = Daemon(command, self.directory)
            for _ in range(MESSAGES):
                await self._drop()
            await daemon.start()
            if not await self._gone(rule):
                problems.append(f"not over within {PATIENCE:g} s" if rule.fired else "the stage was never reached")
            stopped = True
            if self.cell.stage == "idle":  # armed, and strikes when nothing has been said for a while
                await asyncio.sleep(self._terms.idle_after * 5)
            if self.cell.stage == "quit":  # said at the end only
                stopped = await daemon.stop()
                await daemon.start()
            await self._drop()
            if not await self._gone(rule):
                problems.append("the honest pass behind it did not get through")
            held = largest(daemon.pid)
            stopped = await daemon.stop() and stopped
        verdict = judge(self.directory, self.spool, connections=self.window)
        verdict.stuck = not stopped
        problems += self._against(verdict, held)
        return Outcome(self.cell, verdict, time.monotonic() - began, held, problems)

    def _against(self, verdict: Verdict, held: int) -> list[str]:
        problems = [] if verdict.ok and verdict.drained else verdict.details[:] or [str(verdict)]
        if not verdict.faults:
            problems.append("the fault never struck")
        if verdict.failed and not self.cell.final:
            problems.append(f"{verdict.failed} recipients failed, although nobody refused them for good")
        if verdict.failed > 2:
            problems.append(f"{verdict.failed} recipients failed by one refusal")
        if held > HEAP:
            problems.append(f"the daemon held {held} KiB")
        return problems

    async def _drop(self) -> None:
        recipients = [f"ok@r{turn}.m{self._dropped}.test" for turn in range(2)]
        name = f"{re.sub('[^a-z0-9]', '-', str(self.cell))}-{self._dropped}"
        # Long enough for a body to come in pieces.
        await self._dropper.drop(compose(name, recipients, self._chance, 200_000))
        self._dropped += 1

    async def _gone(self, rule: Rule) -> bool:
        """Wait until the fault has struck (unless that is only at the end) and nothing waits any more."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            struck = rule.fired or self.cell.stage == "quit"
            if struck and not any(
                path.suffix == ".eml" for name in ("pickup", "queue") for path in (self.spool / name).iterdir()
            ):
                return True
            await asyncio.sleep(0.05)
        return False


def main(argv: Sequence[str]) -> int:
    """A campaign from the command line; 0 if every cell is clean."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.smtp_cells")
    parser.add_argument("--directory", type=Path, help="new or empty; default: a temporary one, removed afterwards")
    parser.add_argument("--cells", default="", help="STAGE:FAULT[=CERTIFICATE][@NTH],...; default: all")
    parser.add_argument("--at-a-time", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--window", type=int, default=1)
    options = parser.parse_args(argv)
    chosen = [Cell.parse(text) for text in options.cells.split(",") if text] or cells(options.window)
    with ExitStack() as ending:
        directory: Path = options.directory or ending.enter_context(short_directory("witness"))
        campaign = Campaign(directory, chosen, options.at_a_time, options.seed, options.window)
        began = time.monotonic()
        print(asyncio.run(campaign.run()))
        print(f"{directory}: {time.monotonic() - began:.1f} s")
    return 0 if campaign.ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
