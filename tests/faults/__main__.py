"""All campaigns at full size, row after row, and one table: `make faults`. `--row 7` runs one row only.

Exit 0: every row passed. 69: nothing failed, but not everything could run here (no root, no strace): that is named, and
is no pass. Anything else is pytest's.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = {  # number -> what it is, and which files hold its tests
    1: ("SIGKILL at random", ("test_faults.py", "test_faults_seeded.py")),
    2: ("SIGKILL at the n-th call", ("test_faults.py",)),
    3: ("errors of the disk, a full disk", ("test_faults.py",)),
    4: ("a smarthost that misbehaves", ("test_faults_smtp.py",)),
    5: ("a hostile pickup folder", ("test_faults_pickup.py",)),
    6: ("several daemons on one spool", ("test_faults.py", "test_faults_seeded.py")),
    7: ("power cuts", ("test_faults_power.py",)),
    8: ("a mailbox that misbehaves", ("test_faults_imap.py",)),
    9: ("SIGKILL while answers are read", ("test_faults_inbound.py",)),
    10: ("replies at random", ("test_faults_reading.py",)),
    11: ("stops and reloads at every await", ("test_faults_stop.py",)),
    13: ("wrong clocks", ("test_faults_clock.py",)),
}
NAMES = {  # of tests in a file that holds several rows; the others belong to the first
    "test_killed_at": 2,
    "test_errors_at": 3,
    "test_a_full_disk": 3,
    "test_several": 6,
    "test_working_without_a_lock": 6,
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
    def complete(self) -> bool:
        """Everything ran, and passed."""
        return bool(self.passed) and not (self.failed or self.skipped)

    @property
    def verdict(self) -> str:
        """In a word."""
        if self.failed:
            return f"FAILED ({self.failed})"
        if not self.passed:
            return "NOT RUN"
        return "ok" if not self.skipped else f"ok, {self.skipped} not run"


class Table:
    """A plugin of pytest that takes the tests of some rows, one row after another, and adds up; pytest judges."""

    def __init__(self, wanted: Collection[int]) -> None:
        self.rows = {number: Row() for number in sorted(wanted)}
        self.why: set[str] = set()

    @property
    def complete(self) -> bool:
        """No row that was asked for is missing."""
        return all(row.complete for row in self.rows.values())

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out the tests of other rows in the same files."""
        items[:] = sorted((item for item in items if row_of(item.nodeid) in self.rows), key=lambda i: row_of(i.nodeid))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, bool, bool]:
        """Say what came of a row as soon as it is over."""
        done = yield
        number = row_of(item.nodeid)
        if nextitem is None or row_of(nextitem.nodeid) != number:
            reporter = item.config.pluginmanager.get_plugin("terminalreporter")
            assert reporter is not None
            reporter.write_line("")
            for line in self.lines(number):
                reporter.write_line(line)
        return done

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
            told = [value for name, value in report.user_properties if name == "figures"]
            for figures in told:
                assert isinstance(figures, dict)
                row.figures.update({str(name): int(count) for name, count in figures.items()})

    def lines(self, number: int) -> list[str]:
        """One row of the table."""
        row, (what, _) = self.rows[number], ROWS[number]
        figures = ", ".join(f"{name} {count}" for name, count in row.figures.items())
        return [
            f"{number:>3}  {what:<34}{row.passed:>5}  {row.seconds:>5.0f}s  {row.verdict}",
            *([f"     {figures}"] if figures else []),
        ]

    def __str__(self) -> str:
        lines = [line for number in self.rows for line in self.lines(number)]
        seconds = sum(row.seconds for row in self.rows.values())
        return "\n".join(
            [
                f"{'row':>3}  {'what':<34}{'tests':>5}  {'time':>6}  verdict",
                *lines,
                f"{seconds / 60:.0f} minutes",
                *(f"not run: {reason}" for reason in sorted(self.why)),
            ]
        )


def row_of(node: str) -> int:
    """The row that a test belongs to."""
    path, _, test = node.partition("::")
    rows = [number for number, (_, files) in ROWS.items() if Path(path).name in files]
    return next((row for name, row in NAMES.items() if row in rows and test.startswith(name)), rows[0])


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
    table = Table(options.row or ROWS)
    files = dict.fromkeys(f"tests/{file}" for number in table.rows for file in ROWS[number][1])
    code = pytest.main(["-q", "-p", "no:cacheprovider", "--no-header", *options.rest, *files], [table])
    print(f"\n{machine()}, seed {options.seed}\n{table}")
    return int(code) or (os.EX_OK if table.complete else os.EX_UNAVAILABLE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
