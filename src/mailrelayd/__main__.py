"""argv -> command -> exit code. Each command imports its heavy parts only when it runs."""

from __future__ import annotations

import os
import resource
import select
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from mailrelayd.config.light import DEFAULT_CONFIG

CREDENTIALS = Path("/etc/mailrelayd/credentials")  # as in the unit's LoadCredential=
MAILERS = ("sendmail", "mailq", "newaliases")  # names under which this program is sendmail(1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the process's exit status (sysexits.h)."""
    called = Path(sys.argv[0]).name
    if argv is None and called in MAILERS:
        return _sendmail(called, DEFAULT_CONFIG, sys.argv[1:])
    argv = sys.argv[1:] if argv is None else list(argv)
    file, command, rest = _first_words(argv)
    if command == "sendmail":
        return _sendmail(command, file, rest)
    from mailrelayd.cli.commandline import parser

    _leave_no_core()
    _find_credentials()
    top = parser(command)
    arguments = top.parse_args(argv)
    if not hasattr(arguments, "run"):
        top.print_help()
        return os.EX_USAGE
    arguments.config = getattr(arguments, "config", DEFAULT_CONFIG)
    arguments.top = top
    status = os.EX_OK
    try:
        status = int(arguments.run(arguments))
        unwritten = _unwritten()
    except BrokenPipeError:  # `mailrelayd queue list | head`
        if not _reader_left():
            raise
        _write_nowhere()
        return status
    except KeyboardInterrupt:
        from mailrelayd.cli import failure

        return failure(128 + signal.SIGINT, "interrupted")
    if unwritten is not None and status == os.EX_OK and command != "submit":  # there the message is taken all the same
        from mailrelayd.cli import failure

        return failure(os.EX_IOERR, f"standard output: {unwritten.strerror}")
    return status


def _leave_no_core() -> None:
    """An image of this process's memory would hold passwords and tokens."""
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))


def _find_credentials() -> None:
    """What systemd hands to the daemon, root may read where it comes from: check, test and doctor see the same."""
    if os.geteuid() == 0 and "CREDENTIALS_DIRECTORY" not in os.environ and CREDENTIALS.is_dir():
        os.environ["CREDENTIALS_DIRECTORY"] = str(CREDENTIALS)


def _unwritten() -> OSError | None:
    """Why what was printed did not all get out; None: it did, or nobody wanted it. Raises BrokenPipeError."""
    try:
        if sys.stdout is not None:  # closed from the start: `mailrelayd submit >&-`
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _write_nowhere()
        return error
    return None


def _write_nowhere() -> None:
    """At its end the interpreter tries once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _first_words(argv: Sequence[str]) -> tuple[Path, str, list[str]]:
    """The configuration, the command and the words behind it; no command where anything else comes first."""
    match argv:
        case ["--config", file, command, *rest]:
            return Path(file), command, rest
        case [first, command, *rest] if first.startswith("--config="):
            return Path(first.removeprefix("--config=")), command, rest
        case [command, *rest]:
            return DEFAULT_CONFIG, command, rest
    return DEFAULT_CONFIG, "", []


def _sendmail(called: str, file: Path, arguments: list[str]) -> int:
    """Its flags are not argparse's, and it starts for each mail anew: nothing else is imported."""
    from mailrelayd.cli import sendmail

    return sendmail.run(called, arguments, file, main)


def _reader_left() -> bool:
    """Whether it is standard output that broke: any other pipe that did is no reason to end well."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return bool(poll.poll(0))


if __name__ == "__main__":
    sys.exit(main())
