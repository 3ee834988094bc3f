"""`mailrelayd run`: the daemon, in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from importlib.util import find_spec

from mailrelayd.cli import failure

FOLDERS = (
    "it must lie in a folder of the daemon's user; /run/mailrelayd is made by the unit, "
    "and without systemd by install -d -o mailrelayd -g mailrelayd /run/mailrelayd"
)


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "run", parents=[common], help="the daemon, in the foreground", description="Run until SIGTERM; SIGHUP reloads."
    )
    parser.add_argument(
        "--loop",
        choices=("auto", "asyncio", "uvloop"),
        default="auto",
        help="the event loop; auto, the default, is uvloop where it is installed (pip install 'mailrelayd[uvloop]')",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Exit status: 0 after SIGTERM, 75 second daemon on the spool, 78 configuration, 73 files, 70 bug."""
    from mailrelayd import daemon, durable
    from mailrelayd.config.load import ConfigError, load
    from mailrelayd.operate import events, log, syslog
    from mailrelayd.outbound.spool import SpoolError

    if arguments.loop == "uvloop" and not find_spec("uvloop"):
        return failure(os.EX_USAGE, "--loop uvloop: it is not installed", "pip install 'mailrelayd[uvloop]'")
    _fill_standard_streams()
    os.umask(0o027)
    try:
        loaded = load(arguments.config)
    except ConfigError as error:
        return failure(os.EX_CONFIG, str(error), "mailrelayd check --config FILE tells the same without a daemon")
    log.setup(loaded.settings.log.format, loaded.settings.log.level)
    syslog.setup(loaded.settings.log.syslog, events.syslog_trouble)
    try:
        with asyncio.Runner(loop_factory=lambda: new_event_loop(arguments.loop)) as runner:
            runner.run(daemon.serve(arguments.config, loaded, dict(os.environ)))
    except durable.LockedError as error:
        return failure(os.EX_TEMPFAIL, str(error), "one daemon per [spool] directory; stop the other one first")
    except SpoolError as error:
        return failure(os.EX_CANTCREAT, str(error), "systemd-tmpfiles --create makes the folders, with their owners")
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename else f"{error.strerror}"
        return failure(os.EX_CANTCREAT, reason, FOLDERS if isinstance(error, PermissionError) else "")
    except Exception as error:  # noqa: BLE001 - whatever it is, it has to be in the log, and the status has to say so
        events.daemon_bug(where="run", error=error)
        return os.EX_SOFTWARE
    return os.EX_OK


def new_event_loop(wanted: str) -> asyncio.AbstractEventLoop:
    """The one that --loop names."""
    if wanted == "uvloop" or (wanted == "auto" and find_spec("uvloop")):
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def _fill_standard_streams() -> None:
    """Where 0, 1 or 2 is closed, a file of the spool could get its number, and the log would be written into a mail."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    if sys.stderr is None:  # what the interpreter makes of it
        sys.stderr = os.fdopen(2, "w", closefd=False)
