"""Command line: argv -> command -> exit code. Each command imports its heavy parts only when it runs."""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from mailrelayd import __version__
from mailrelayd.cli import check, config, demo, queue, run, spool, status

DEFAULT_CONFIG = Path("/etc/mailrelayd/mailrelayd.toml")
EXIT_STATUS = """\
exit status (sysexits.h):
  0 done    64 usage    65 no such message, or a file that would be refused    66 no such file    69 no daemon
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


def parser() -> argparse.ArgumentParser:
    """The whole command line, every command registered."""
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
    for command in (run, check, config, queue, spool, status, demo):
        command.register(commands, common)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the process's exit status (sysexits.h)."""
    arguments = parser().parse_args(argv)
    if not hasattr(arguments, "run"):
        parser().print_help()
        return os.EX_USAGE
    arguments.config = getattr(arguments, "config", DEFAULT_CONFIG)
    status = os.EX_OK
    try:
        status = int(arguments.run(arguments))
        sys.stdout.flush()
    except BrokenPipeError:  # `mailrelayd queue list | head`
        if not _reader_left():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _reader_left() -> bool:
    """Whether it is standard output that broke: any other pipe that did is no reason to end well."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return bool(poll.poll(0))


if __name__ == "__main__":
    sys.exit(main())
