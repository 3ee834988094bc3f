"""The steps of a diagnosis as they come: lines for people, or one document at the end. For doctor, test and check."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from mailrelayd.cli import failure
from mailrelayd.diagnose import steps
from mailrelayd.diagnose.steps import CONFIGURATION, Outcome, Step

if TYPE_CHECKING:
    from mailrelayd.config.load import Loaded

WIDEST: Final = 120  # columns; longer lines are harder to read
QUIET: Final = 5.0  # seconds without a step after which people on a terminal are told that it goes on
INTERRUPTED: Final = 128 + signal.SIGINT


class Screen:
    """Where steps go. What nobody reads any more stops no examination: a probe that is under way is still removed."""

    def __init__(self, *, as_json: bool) -> None:
        self.found: list[Step] = []
        self._as_json = as_json
        self._interrupted = False
        self._broken: OSError | None = None

    def show(self, *found: Step) -> None:
        """Take these steps; people see them at once."""
        for step in found:
            self.found.append(step)
            if not self._as_json:
                self.tell(steps.lines(step, min(shutil.get_terminal_size().columns, WIDEST)))

    def watch(self, examinations: Iterable[AsyncIterator[Step]], loaded: Loaded) -> None:
        """Show what comes of them, one after another, until the end or Ctrl-C."""
        try:
            asyncio.run(self._watch(examinations, loaded))
        except KeyboardInterrupt:
            self._interrupted = True

    async def _watch(self, examinations: Iterable[AsyncIterator[Step]], loaded: Loaded) -> None:
        for examination in examinations:
            async with aclosing(examination) as going:  # type: ignore[type-var]
                waiting = asyncio.create_task(self._say_that_it_goes_on())
                try:
                    async for step in going:
                        waiting.cancel()
                        self.show(steps.placed(step, loaded.origins))
                        waiting = asyncio.create_task(self._say_that_it_goes_on())
                finally:
                    waiting.cancel()

    async def _say_that_it_goes_on(self) -> None:
        waited = 0.0
        while not self._as_json and sys.stderr is not None and sys.stderr.isatty():
            await asyncio.sleep(QUIET)
            waited += QUIET
            print(f"        ... waiting for {waited:.0f} s", file=sys.stderr, flush=True)

    def finish(self, hint: str = "") -> int:
        """The exit status, after the last line or the document. `hint`: for whoever has interrupted it."""
        if self._as_json:
            document = steps.as_json(self.found)
            if self._interrupted:
                document |= {"ok": False, "status": INTERRUPTED}
            self.tell([json.dumps(document, indent=2)])
        elif not self._interrupted:
            self.tell([_summary(self.found)])
        return self.status(hint)

    def status(self, hint: str = "") -> int:
        """The class of the first step that failed; of an interruption, or of an output that failed, where none did."""
        if self._interrupted:
            return failure(INTERRUPTED, "interrupted", hint)
        status = steps.exit_status(self.found)
        if self._broken is None or isinstance(self._broken, BrokenPipeError) or status:
            return status
        return failure(os.EX_IOERR, f"standard output: {self._broken.strerror}")

    def tell(self, lines: Iterable[str]) -> None:
        """Print lines, as long as that works."""
        try:
            for line in lines if self._broken is None else ():
                print(line, flush=True)
        except OSError as error:
            self._broken = error
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is buffered goes there at the end


def unfit(problems: Iterable[str]) -> list[Step]:
    """A step for each problem of a configuration."""
    cause, cure = "The configuration does not hold, and the daemon would not start with it.", "Correct this line."
    return [
        Step("configuration", "file", Outcome.FAILED, problem, cause, cure, "", CONFIGURATION) for problem in problems
    ]


def _summary(found: list[Step]) -> str:
    failed = sum(step.outcome is Outcome.FAILED for step in found)
    warned = sum(step.outcome is Outcome.WARNING for step in found)
    warnings = f", {warned} warning{'s' if warned > 1 else ''}" if warned else ""
    return f"{failed} of {len(found)} steps failed{warnings}" if failed else f"nothing failed{warnings}"
