"""Hours of ordinary work with a little chaos: does memory grow, do descriptors leak?

    python -m tests.faults.soak --hours 6 --rate 5 --chaos 0.05 --directory DIR

`chaos` is the chance that a message meets a misbehaving server at any of its stages. Every ten seconds a line is added
to DIR/samples.jsonl: memory (KiB), descriptors, threads, messages that wait. At the end, or
at Ctrl-C, all is drained and judged; `--read DIR` says what the samples of a run (also one that goes on) mean so far.
Exit 0: no growth, and the verdict is clean.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.faults.driver import Campaign, World, chaos, waiting
from tests.faults.verdict import Verdict

EVERY = 10.0  # seconds between two samples
WARM_UP = 0.25  # the share of the samples in which caches may still fill
STAGES = 8  # that a message passes; its chance of trouble is shared among them
GROWTH = 0.05  # of the memory at its begin, over the whole time after the warm-up


@dataclass(frozen=True, slots=True)
class Sample:
    """What the process holds at `at` (seconds since the start)."""

    at: float
    pid: int
    heap: int  # KiB of anonymous memory; PSS would grow whenever somebody else's Python ends
    rss: int  # KiB
    descriptors: int
    threads: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Flatness:
    """What the samples of one process say. Slopes are least squares over all but the warm-up."""

    samples: int
    hours: float
    heap: float  # KiB, at the begin of the line
    slope: float  # KiB per hour
    descriptors: tuple[int, int]  # the medians of the first and the last third
    most_waiting: int

    @property
    def growth(self) -> float:
        """The share by which memory grew along the line."""
        return self.slope * self.hours / self.heap if self.heap else 0.0

    @property
    def ok(self) -> bool:
        """Whether both are flat."""
        return self.growth <= GROWTH and self.descriptors[1] <= self.descriptors[0]

    def __str__(self) -> str:
        return (
            f"{self.samples} samples over {self.hours:.2f} h: memory {self.heap / 1024:.1f} MiB, "
            f"{self.slope:+.0f} KiB/h ({self.growth:+.1%}); descriptors {self.descriptors[0]} -> "
            f"{self.descriptors[1]}; at most {self.most_waiting} waiting: {'flat' if self.ok else 'NOT FLAT'}"
        )


def flatness(samples: Sequence[Sample]) -> Flatness:
    """The line through the samples; at least ten of one process are needed. Raises ValueError."""
    if len({sample.pid for sample in samples}) != 1:
        raise ValueError("samples of more than one process: the daemon was restarted, see daemon.log")
    steady = samples[int(len(samples) * WARM_UP) :]
    if len(steady) < 10:
        raise ValueError(f"{len(samples)} samples are too few to tell")
    hours = [sample.at / 3600 for sample in steady]
    line = statistics.linear_regression(hours, [float(sample.heap) for sample in steady])
    third = len(steady) // 3
    ends = steady[:third], steady[-third:]
    first, last = (int(statistics.median(sample.descriptors for sample in end)) for end in ends)
    begin = line.intercept + line.slope * hours[0]
    most = max(sample.waiting for sample in steady)
    return Flatness(len(steady), hours[-1] - hours[0], begin, line.slope, (first, last), most)


def look(pid: int, at: float, waits: int) -> Sample:
    """Sample one process. Raises OSError where it has gone."""
    process = Path(f"/proc/{pid}")
    memory = dict(line.split(":", 1) for line in (process / "smaps_rollup").read_text().splitlines()[1:] if ":" in line)
    return Sample(
        round(at, 1),
        pid,
        int(memory["Anonymous"].split()[0]),
        int(memory["Rss"].split()[0]),
        len(os.listdir(process / "fd")),
        len(os.listdir(process / "task")),
        waits,
    )


def read(directory: Path) -> list[Sample]:
    """The samples of a run, complete lines only."""
    with (directory / "samples.jsonl").open(encoding="ascii") as file:
        return [Sample(**json.loads(line)) for line in file if line.endswith("\n")]


async def watch(world: World) -> None:
    """The nemesis that only looks, until everything has been handed in."""
    began = time.monotonic()
    await world.daemons[0].ready(1)
    while not world.dropping.done():
        with contextlib.suppress(OSError), (world.directory / "samples.jsonl").open("a", encoding="ascii") as file:
            sample = look(world.daemons[0].pid, time.monotonic() - began, waiting(world.spool))
            file.write(json.dumps(asdict(sample)) + "\n")
        await asyncio.wait([world.dropping], timeout=EVERY)


async def soak(directory: Path, *, hours: float, rate: float, trouble: float, seed: int) -> Verdict:
    """Run it; SIGINT and SIGTERM only end the dropping."""

    async def until_told(world: World) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, campaign.enough.set)
        await watch(world)

    campaign = Campaign(
        directory,
        messages=max(1, int(hours * 3600 * rate)),
        recipients=2,
        addresses=("ok", "ok", "ok", "ok", "ok", "ok", "ok", "reject", "ok", "ok", "tempfail-1"),
        pace=1 / rate,
        rules=chaos(trouble / STAGES),
        nemesis=until_told,
        seed=seed,
        deadline=300.0,
    )
    return await campaign.run()


def main(argv: Sequence[str]) -> int:
    """From the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak")
    parser.add_argument("--hours", type=float, default=6.0)
    parser.add_argument("--rate", type=float, default=5.0, help="messages a second")
    parser.add_argument("--chaos", type=float, default=0.05, metavar="P", help="of a message to meet a fault")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path, help="new or empty; default: a temporary one")
    parser.add_argument("--read", type=Path, metavar="DIR", help="only say what a run has shown so far")
    options = parser.parse_args(argv)
    if options.read:
        flat = flatness(read(options.read))
        print(flat)
        return 0 if flat.ok else 1
    directory: Path = options.directory or Path(tempfile.mkdtemp(prefix="soak-"))
    directory.mkdir(parents=True, exist_ok=True)
    print(directory, flush=True)
    verdict = asyncio.run(
        soak(directory, hours=options.hours, rate=options.rate, trouble=options.chaos, seed=options.seed)
    )
    flat = flatness(read(directory))
    print(f"{verdict}\n{flat}")
    return 0 if verdict.ok and verdict.drained and flat.ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
