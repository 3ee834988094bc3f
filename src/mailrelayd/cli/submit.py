"""`mailrelayd submit`: hands one message in, durably, with logs attached if that is wanted."""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import suppress
from pathlib import Path

EXAMPLES = """\
examples:
  mailrelayd submit mail.eml
  printf 'To: ops@example.com\\nSubject: Hi\\n\\nHello.\\n' | mailrelayd submit
  mailrelayd submit mail.eml --instance nightly \\
      --attach-logs on-failure --status failed \\
      --attach-log build.log --attach-log deploy.log --failed-log deploy.log

The envelope is what the header says: recipients in To, Cc and Bcc, sender in Return-Path, Sender or From. A From that
is missing is added. One log is attached as INSTANCE_NAME, several as INSTANCE_logs.zip with their own names inside.

The message goes to the running daemon, and where none answers into its pickup folder, which members of its group may
write to. Exit status 0: it is on disk; 64 the arguments, 65 the message, 66 a file that cannot be read, 75 nothing
could be stored: keep it and try again.
"""


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "submit",
        parents=[common],
        help="hand one message in, durably, with logs attached if that is wanted",
        description="Hands in one message, made whole where a From or a domain is missing, and says its queue id.",
        epilog=EXAMPLES,
    )
    parser.add_argument("file", metavar="FILE", nargs="?", default="-", help="the message; standard input if not given")
    logs = parser.add_argument_group("logs, attached the way FlexDeploy does it")
    logs.add_argument(
        "--attach-log", metavar="F", action="append", default=[], help="a log; as often as there are logs"
    )
    logs.add_argument(
        "--failed-log", metavar="F", action="append", default=[], help="a log in which the failure occurred"
    )
    logs.add_argument(
        "--attach-logs",
        choices=("never", "always", "on-failure"),
        default="never",
        help="never (the default); always all of them; on-failure those of --failed-log, with --status failed",
    )
    logs.add_argument("--status", choices=("completed", "failed"), help="what became of what is reported")
    logs.add_argument("--instance", metavar="NAME", default="", help="put before the names of attached files")
    parser.add_argument("--json", action="store_true", help='{"queue_id": ..., "duplicate": ...} instead of a sentence')
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Hand the message in; the exit status."""
    from mailrelayd.cli import failure
    from mailrelayd.cli.handover import NotHandedError, hand_over
    from mailrelayd.config.light import read
    from mailrelayd.outbound.submission import Options

    if arguments.attach_logs == "on-failure" and arguments.status is None:
        hint = "--status completed, or --status failed"
        return failure(os.EX_USAGE, "--attach-logs on-failure has to know what became of it", hint)
    wanted = wanted_logs(arguments)
    try:
        message = _content(arguments.file)
        files = [(Path(log).name, _content(log)) for log in wanted]
    except OSError as error:
        name = error.filename or "standard input"
        return failure(os.EX_NOINPUT, f"{name}: {error.strerror}: nothing was handed in")
    if not wanted and arguments.attach_logs == "never" and (arguments.attach_log or arguments.failed_log):
        print("note: no log is attached: --attach-logs is never, the default", file=sys.stderr)
    if files:
        from mailrelayd.outbound.attach import attached, logs  # zipfile and more, which few have a use for
        from mailrelayd.outbound.headers import Unreadable

        whole = attached(message, logs(arguments.instance, files))
        if isinstance(whole, Unreadable):
            return failure(os.EX_DATAERR, whole.reason)
        message = whole
    try:
        handed = hand_over(Options("submit", read_header=True), message, read(arguments.config))
    except NotHandedError as error:
        return error.report()
    with suppress(OSError):  # it is taken, whoever hears of it
        if arguments.json:
            print(json.dumps({"queue_id": handed.queue_id or None, "duplicate": handed.duplicate}))
        else:
            print(f"queued as {handed.queue_id}" if handed.queue_id else "no daemon answers: in its pickup folder")
    return os.EX_OK


def wanted_logs(arguments: argparse.Namespace) -> list[str]:
    """The logs to attach, each once: all of them, those of the failure, or none."""
    match arguments.attach_logs, arguments.status:
        case "always", _:
            named = [*arguments.attach_log, *arguments.failed_log]
        case "on-failure", "failed":
            named = arguments.failed_log
        case _:
            named = []
    return list(dict.fromkeys(named))


def _content(name: str) -> bytes:
    """Raises OSError, with the file's name."""
    if name == "-":
        with open(0, "rb", closefd=False) as stream:  # sys.stdin may be None
            return stream.read()
    try:
        return Path(name).read_bytes()
    except OSError as error:
        error.filename = name
        raise
