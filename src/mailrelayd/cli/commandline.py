"""The command line as argparse sees it: every command, or only the one that is asked for."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from mailrelayd import __version__
from mailrelayd.config.light import DEFAULT_CONFIG

# The modules of `cli` in the order of --help, and the commands of each.
COMMANDS = {
    "run": ("run",),
    "check": ("check",),
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
  0 done    64 usage    65 no such message, or one that is refused    66 no such file    69 no daemon
  70 bug    73 the spool's files cannot be used    75 try again, or a second daemon    77 not allowed
  78 configuration

The configuration's reference is the commented file config/mailrelayd.toml; `mailrelayd config show` prints
what is in force and where each value comes from.
"""


class Parser(argparse.ArgumentParser):
    """argparse with this program's manners: `error:` and `hint:` on stderr, EX_USAGE."""

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
        description="Relays the .eml files dropped into a folder to a smarthost, and keeps them until it has.",
        epilog=EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common],
    )
    top.add_argument("--version", action="version", version=f"mailrelayd {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    only = [module for module, names in COMMANDS.items() if command in names]
    for module in only or COMMANDS:
        import_module(f"mailrelayd.cli.{module}").register(commands, common)
    return top
