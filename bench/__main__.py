"""`python -m bench`: measure, print the tables, write the runs, the tables and the plots."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.servers.process import free_port, short_directory

from bench import measure, plots, report, targets, usage
from bench.cases import SCALES, Case, cases
from bench.measure import Tools
from bench.peers import peers
from bench.sink import build, ceiling

ROOT = Path(__file__).parents[1]


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="mailrelayd beside its peers, interleaved.")
    parser.add_argument("--scale", choices=SCALES, default="small", help="how many messages (default: small)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="runs of each program (default: 3)")
    parser.add_argument("--quick", action="store_true", help="a rehearsal: everything once, at the scale smoke")
    parser.add_argument("--case", action="append", metavar="NAME", help="only this case, or those of this kind (grow)")
    parser.add_argument("--peer", action="append", choices=peers(), help="only this program, beside Postfix")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "bench", metavar="FOLDER")
    parser.add_argument("--installed", type=Path, default=ROOT / ".venv" / "bench-peers", metavar="FOLDER")
    parser.add_argument(
        "--work", type=Path, default=Path("/tmp"), metavar="FOLDER", help="on the disk that is measured"
    )
    parser.add_argument("--report", type=Path, nargs="+", metavar="RUNS", help="measure nothing: read these files")
    parser.add_argument("--list", action="store_true", help="print the cases")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    if options.quick:
        options.scale, options.rounds = "smoke", 1
    return options


def chosen(options: argparse.Namespace) -> list[Case]:
    """The cases and programs that were asked for; the anchor is always there."""
    wanted = options.case or []
    found = []
    for case in cases(SCALES[options.scale]):
        everything = not wanted and (options.quick or not case.asked)
        if everything or any(name in (case.name, case.name.partition("-")[0]) for name in wanted):
            kept = {*options.peer, "postfix"} if options.peer else None
            found.append(replace(case, runs=tuple(run for run in case.runs if kept is None or run.peer in kept)))
    return found


def machine() -> dict[str, Any]:
    """What the figures belong to."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "machine": model[0].partition(":")[2].strip() if model else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def file_system(path: Path) -> str:
    """The type of the one that holds this folder."""
    real = str(path.resolve())
    best = ("", "")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, point, kind, *_ = line.split()
        if (real == point or real.startswith(point.rstrip("/") + "/")) and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]


def outcomes(options: argparse.Namespace, tools: Tools) -> Iterator[dict[str, Any]]:
    """Round by round, so that what disturbs the machine for a while disturbs everybody."""
    for number in range(options.rounds):
        for case in chosen(options):
            shift = number % max(len(case.runs), 1)
            for run in (*case.runs[shift:], *case.runs[:shift]):  # nobody always comes first
                outcome = measure.attempt(case.how, replace(run, round=number), tools)
                print(report.line(outcome), file=sys.stderr, flush=True)
                yield {"title": case.title, **outcome.as_json()}


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure; every run is on disk as soon as it is over."""
    options.output.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    with short_directory("bench-sink") as directory, (options.output / "runs.jsonl").open("w") as file:
        command = build(directory)
        rates = {
            name: ceiling(command, directory / name, free_port(), chunks=name == "BDAT") for name in ("DATA", "BDAT")
        }
        about = {
            **machine(),
            "disk": file_system(options.work),
            "load": usage.load(),
            "ceiling": rates,
            "sink": Path(command[-1]).name,
        }
        print(report.heading(about), file=sys.stderr)
        if about["disk"] == "tmpfs":
            print(f"{options.work} is in memory, fsync costs nothing there: choose a folder by --work", file=sys.stderr)
        file.write(json.dumps({"about": about}) + "\n")
        for outcome in outcomes(options, Tools(command, options.installed, options.work)):
            found.append(outcome)
            file.write(json.dumps(outcome) + "\n")
            file.flush()
        if not (options.case or options.peer) or "replies" in (options.case or []):
            for outcome in replies(options):
                found.append(outcome)
                file.write(json.dumps(outcome) + "\n")
    return [{"about": about}, *found]


def replies(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The way back, which bench/replies.py measures by itself."""
    sizes = ("--samples", "5", "--waiting", "20", "--rounds", "1") if options.scale == "smoke" else ()
    command = [sys.executable, "-m", "bench.replies", "--output", str(options.output), *sizes]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
    path = options.output / "replies.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    found = [{"replies": json.loads(line)} for line in lines]
    if done.returncode and not any(report.broken(row) for row in found):
        print(f"bench.replies ended with status {done.returncode}", file=sys.stderr)
        nothing = {"case": "replies", "figures": {}, "samples": {}, "wrong": ["it did not come to its end"]}
        found.append({"replies": nothing})
    return found


def _end(number: int, frame: object) -> None:
    """Let everything that was started be ended: once, for timeout(1) says it twice."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def main() -> int:
    """0: nothing was lost, doubled or damaged by us."""
    options = arguments()
    signal.signal(signal.SIGTERM, _end)
    if options.list:
        for case in chosen(options):
            print(f"{case.name:16} {case.title}: {', '.join(report.named(run) for run in case.runs)}")
        return 0
    if options.report:
        found = [json.loads(text) for path in options.report for text in path.read_text().splitlines()]
    else:
        found = run(options)
    text = "\n\n".join(part for part in (report.about(found), targets.table(found), report.tables(found)) if part)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "table.md").write_text(text)
    for name, drawing in plots.draw(found).items():
        (options.output / name).write_text(drawing)
    print(text)
    print(f"runs, table and plots: {options.output}", file=sys.stderr)
    return int(any(report.broken(one) for one in found))


if __name__ == "__main__":
    sys.exit(main())
