"""`mailrelayd demo`: watch mail go out and decisions come back, without any server, root or network."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

PAUSE = 0.8  # seconds between two steps, where somebody reads along


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Add the command. It makes a configuration of its own, so it does not know --config."""
    parser = commands.add_parser(
        "demo",
        help="watch mail go out and decisions come back, without any server, root or network",
        description="Runs the daemon with a configuration of its own in a temporary folder, against an SMTP and an "
        "IMAP server of its own, and tells what happens to the files dropped, and to what people answer. Exit "
        "status 70 if anything told was not true.",
    )
    parser.add_argument("--once", action="store_true", help="end after the story instead of waiting for your files")
    parser.add_argument(
        "--chaos",
        metavar="P",
        type=_probability,
        default=0.0,
        help="the server refuses, puts off or drops each transaction with this probability, from 0 to 1",
    )
    parser.set_defaults(run=run)


def _probability(text: str) -> float:
    with suppress(ValueError):
        if 0 <= (value := float(text)) <= 1:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is no probability: write a number from 0 to 1, such as 0.3")


def run(arguments: argparse.Namespace) -> int:
    """EX_OK if all of it was true, else EX_SOFTWARE; 128 + the signal where one came first."""
    from mailrelayd.cli import failure

    try:
        import aiosmtpd.smtp
        import trustme
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        hint = f"{sys.executable} -m pip install 'aiosmtpd~=1.4.6' 'trustme~=1.2'"
        return failure(os.EX_UNAVAILABLE, f"the demonstration needs the package {package}", hint)
    from mailrelayd.demo.page import Page, UntrueError
    from mailrelayd.demo.story import Demo

    del aiosmtpd, trustme
    terminal = sys.stdout.isatty()
    once = arguments.once or not terminal or not sys.stdin.isatty() or bool(os.environ.get("CI"))
    page = Page(colour=terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb")
    try:
        folder = Path(tempfile.mkdtemp(prefix="mailrelayd-demo-")).resolve()
    except OSError as error:
        return failure(os.EX_CANTCREAT, str(error), "set TMPDIR to a folder you may write to")
    demo = Demo(folder, page, chaos=arguments.chaos, pause=PAUSE if terminal else 0.0)
    keep = True
    try:
        asyncio.run(demo.run(once=once))
        keep = False
    except UntrueError as error:
        page.say()
        log = "".join(f"\n  {line}" for line in demo.daemon.lines[-20:])
        return failure(
            os.EX_SOFTWARE, f"{error}; the end of its log:{log}" if log else str(error), f"look into {folder}"
        )
    except asyncio.CancelledError:
        keep = False
        return 128 + demo.signalled
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    return os.EX_OK
