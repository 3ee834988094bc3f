"""All campaigns at full size, and one table: `make faults`. Takes half an hour; `--row 7` runs one row only.

Exit 0: every row passed. What could not run here (no root, no strace) is named, and is no pass.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = {  # number -> what it is, and which tests run it
    1: ("SIGKILL at random", "test_faults.py"),
    2: ("SIGKILL at the n-th call", "test_faults.py"),
    3: ("errors of the disk, a full disk", "test_faults.py"),
    4: ("a smarthost that misbehaves", "test_faults_smtp.py"),
    5: ("a hostile pickup folder", "test_faults_pickup.py"),
    6: ("several daemons on one spool", "test_faults.py"),
    7: ("power cuts", "test_faults_power.py"),
    8: ("a mailbox that misbehaves", "test_faults_imap.py"),
    9: ("SIGKILL while answers are read", "test_faults_inbound.py"),
    10: ("replies at random", "test_faults_reading.py"),
    11: ("stops and reloads at every await", "test_faults_stop.py"),
    13: ("wrong clocks", "test_faults_clock.py"),
}
SEEDED = "test_faults_seeded.py"
NAMES = {  # of tests in a file that holds several rows
    "test_killed_at": 2,
    "test_errors_at": 3,
    "test_a_full_disk": 3,
    "test_several": 6,
}


@dataclass
class Row:
    """What became of the tests of one row."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    figures: Counter[str] = field(default_factory=Counter)

    @property
    def verdict(self) -> str:
        if self.failed:
            return f"FAILED ({self.failed})"
        if not self.passed:
            return "NOT RUN"
        return "ok" if not self.skipped else f"ok, {self.skipped} not run"


class Table:
    """A plugin of pytest that adds up; the verdicts are pytest's."""

    def __init__(self) -> None:
        self.rows = {number: Row() for number in ROWS}
        self.why: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called for set-up, call and tear-down of every test."""
        row = self.rows[row_of(report.nodeid)]
        row.seconds += report.duration
        if report.skipped:
            row.skipped += 1
            if isinstance(report.longrepr, tuple):
                self.why.add(f"{report.nodeid}: {report.longrepr[2].removeprefix('Skipped: ')}")
        row.failed += report.failed
        if report.when == "call" and report.passed:
            row.passed += 1
            figures = dict(report.user_properties).get("figures")
            if isinstance(figures, dict):
                row.figures.update({str(name): int(count) for name, count in figures.items()})

    def __str__(self) -> str:
        lines = [f"{'row':>3}  {'what':<34}{'tests':>5}  {'time':>6}  verdict"]
        for number, row in self.rows.items():
            if row.passed or row.failed or row.skipped:
                what, _ = ROWS[number]
                lines.append(f"{number:>3}  {what:<34}{row.passed:>5}  {row.seconds:>5.0f}s  {row.verdict}")
                if row.figures:
                    said = ", ".join(f"{name} {count}" for name, count in row.figures.items())
                    lines.append(f"     {said}")
        return "\n".join([*lines, *(f"not run: {reason}" for reason in sorted(self.why))])


def row_of(node: str) -> int:
    """The row that a test belongs to; seeded bugs count for the first."""
    file, _, test = node.rpartition("/")[2].partition("::")
    if file == "test_faults.py":
        return next((row for name, row in NAMES.items() if test.startswith(name)), 1)
    return next((number for number, (_, name) in ROWS.items() if name == file), 1)


def machine() -> str:
    """Where and when: a figure without both says nothing."""
    cores = len(os.sched_getaffinity(0))
    return (
        f"{time.strftime('%Y-%m-%d')}, {platform.system()} {platform.release()}, {platform.machine()}, {cores} cores, "
        f"Python {platform.python_version()}, {os.environ.get('MAILRELAYD_TEST_LOOP') or 'asyncio'}, "
        f"{'root' if os.getuid() == 0 else 'no root'}"
    )


def main(argv: Sequence[str]) -> int:
    """Run the rows asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--row", type=int, action="append", choices=list(ROWS), help="may be repeated")
    parser.add_argument("--seed", type=int, default=int(os.environ.get("MAILRELAYD_TEST_SEED", "1")))
    parser.add_argument("rest", nargs="*", help="handed on to pytest, behind --")
    options = parser.parse_args(argv)
    os.environ |= {"MAILRELAYD_TEST_CAMPAIGN": "full", "MAILRELAYD_TEST_SEED": str(options.seed)}
    os.chdir(ROOT)
    wanted = options.row or list(ROWS)
    files = list(dict.fromkeys(f"tests/{ROWS[number][1]}" for number in wanted))
    if options.row is None:
        files.append(f"tests/{SEEDED}")
    table = Table()

    class Choice:
        """Leaves out the tests of other rows in the same file."""

        def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
            items[:] = [item for item in items if row_of(item.nodeid) in wanted]

    there = [file for file in files if Path(file).exists()]
    code = pytest.main(["-q", "-p", "no:cacheprovider", "--no-header", *options.rest, *there], [table, Choice()])
    print(f"\n{machine()}, seed {options.seed}\n{table}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
