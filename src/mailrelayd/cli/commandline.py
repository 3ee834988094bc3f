"""The command line as argparse sees it: every command, or only the one that is asked for."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from mailrelayd import __version__
from mailrelayd.config.light import DEFAULT_CONFIG

# The modules of `cli` in the order of --help, and the commands of each.
COMMANDS = {
    "run": ("run",),
    "check": ("check",),
    "doctor": ("doctor",),
    "probe": ("test",),
    "authorize": ("authorize",),
    "config": ("config",),
    "submit": ("submit",),
    "sendmail": ("sendmail",),
    "queue": ("queue",),
    "approvals": ("approvals",),
    "decisions": ("decisions",),
    "reply": ("reply",),
    "spool": ("spool",),
    "status": ("status", "reload"),
    "completion": ("completion",),
    "demo": ("demo",),
}
EXIT_STATUS = """\
exit status (sysexits.h):
  0 done                              70 bug
  64 usage                            73 our files cannot be used
  65 no such message, or refused      75 try again, or a second daemon
  66 no such file                     77 not allowed, or a login refused
  69 no daemon, no way to a server    78 configuration

The configuration's reference is the commented file config/mailrelayd.toml; `mailrelayd config show` prints
what is in force and where each value comes from.
"""


class Layout(argparse.HelpFormatter):
    """Paragraphs are as wide as the terminal; one that holds an indented line stays as it was written."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(
            paragraph
            if any(line.startswith(" ") for line in paragraph.splitlines())
            else textwrap.fill(paragraph, width, break_long_words=False, break_on_hyphens=False)
            for paragraph in text.strip("\n").split("\n\n")
        )


class Parser(argparse.ArgumentParser):
    """argparse with this program's manners: `error:` and `hint:` on stderr, EX_USAGE."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": Layout, **options})

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}\nhint: {self.prog} --help", file=sys.stderr)
        raise SystemExit(os.EX_USAGE)


def parser(command: str = "") -> argparse.ArgumentParser:
    """The whole command line, or as much of it as this command needs: each module is imported only for its own."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        default=argparse.SUPPRESS,
        help=f"configuration (default {DEFAULT_CONFIG})",
    )
    top = Parser(
        prog="mailrelayd",
        description="Relays the mails dropped into a folder to a smarthost, and keeps them until it has.",
        epilog=EXIT_STATUS,
        parents=[common],
    )
    top.add_argument("--version", action="version", version=f"mailrelayd {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    only = [module for module, names in COMMANDS.items() if command in names]
    for module in only or COMMANDS:
        import_module(f"mailrelayd.cli.{module}").register(commands, common)
    return top
