"""What the reader of the demonstration sees."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap

NARROW, WIDE = 60, 100  # columns


class UntrueError(Exception):
    """Something did not happen, or not as it was told."""


class Page:
    """What the reader sees: sentences, and behind a bar what programs say."""

    def __init__(self, *, colour: bool) -> None:
        self._dim, self._bold, self._plain = ("\x1b[2m", "\x1b[1m", "\x1b[0m") if colour else ("", "", "")
        self._steps = 0
        columns = shutil.get_terminal_size((WIDE, 1)).columns if sys.stdout.isatty() else WIDE
        self._width = max(NARROW, min(columns, WIDE))
        if hasattr(sys.stdout, "reconfigure"):  # a terminal that knows ASCII only, a file name that is no text
            sys.stdout.reconfigure(errors="backslashreplace")

    def say(self, text: str = "", *, indent: int = 0) -> None:
        """A paragraph."""
        for line in self._wrapped(text, " " * indent, " " * indent):
            self._print(line)

    def step(self, text: str) -> None:
        """The next thing that is done."""
        self._steps += 1
        self._print()
        for line in self._wrapped(text, f"{self._steps}. ", "   "):
            self._print(f"{self._bold}{line}{self._plain}")

    def result(self, text: str) -> None:
        """What came of it."""
        for line in self._wrapped(text, "=> ", "   "):
            self._print(line)

    def title(self, text: str) -> None:
        """What the next lines are about."""
        self._print(f"\n{self._bold}{text}{self._plain}")

    def row(self, text: str, *, hanging: int) -> None:
        """A line of a table, continued below its last column."""
        for line in self._wrapped(text, "   ", " " * (hanging + 3)):
            self._print(line)

    def verbatim(self, text: str) -> None:
        """A line to copy: never broken."""
        self._print(f"   {text}")

    def quote(self, text: str) -> None:
        """What a program wrote."""
        for line in self._wrapped(text, "   | ", "   |     "):
            self._print(f"{self._dim}{line}{self._plain}")

    def _print(self, line: str = "") -> None:
        try:
            print(line, flush=True)
        except BrokenPipeError:  # `mailrelayd demo | head`: nobody looks any more, but the daemon must be ended
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def _wrapped(self, text: str, first: str, following: str) -> list[str]:
        return textwrap.wrap(
            text,
            self._width,
            initial_indent=first,
            subsequent_indent=following,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [first.rstrip()]
