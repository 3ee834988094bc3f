"""`mailrelayd queue`: look at what waits and what failed, and act on it."""

from __future__ import annotations

import argparse
import json
import os
import pwd
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mailrelayd.config.settings import Settings

VERBS = {
    "retry": "try now; a failed message is queued again",
    "hold": "keep, but do not try",
    "release": "undo hold",
    "delete": "remove for ever; nobody is told",
}
EXAMPLES = """\
examples:
  mailrelayd queue                     what waits, oldest first, with the reason
  mailrelayd queue list --failed       what was given up
  mailrelayd queue list --json | jq -r 'select(.queue_name=="deferred").queue_id'
  mailrelayd queue show ID             one message: every recipient, every answer
  mailrelayd queue retry ID ...        now instead of at its next attempt

The names of --json are those of `postqueue -j`. Reading works with the daemon stopped; so do the verbs.
"""


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Add the command and its verbs."""
    queue = commands.add_parser(
        "queue",
        parents=[common],
        help="look at what waits and what failed, and act on it",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    queue.add_argument("--failed", action="store_true", help="what was given up instead of what waits")
    queue.add_argument("--json", action="store_true", help="one JSON object per line")
    queue.set_defaults(run=list_messages)
    verbs = queue.add_subparsers(title="verbs", metavar="VERB")
    listing = verbs.add_parser("list", parents=[common], help="every waiting message (the default)")
    kept = argparse.SUPPRESS  # what was said before the verb counts as well
    listing.add_argument("--failed", action="store_true", default=kept, help="what was given up instead of what waits")
    listing.add_argument("--json", action="store_true", default=kept, help="one JSON object per line")
    listing.set_defaults(run=list_messages)
    show = verbs.add_parser("show", parents=[common], help="one message: every recipient, every answer")
    show.add_argument("id", metavar="ID")
    show.add_argument("--json", action="store_true", default=kept, help="as a JSON object")
    show.set_defaults(run=show_message)
    for verb, what in VERBS.items():
        parser = verbs.add_parser(verb, parents=[common], help=what)
        parser.add_argument("ids", metavar="ID", nargs="+")
        parser.add_argument("--json", action="store_true", default=kept, help="one JSON object per message")
        parser.set_defaults(run=change, verb=verb)


def list_messages(arguments: argparse.Namespace) -> int:
    """Print every waiting message, or every failed one."""
    from mailrelayd.cli.daemonside import CommandError

    try:
        count = 0
        for entry in _entries(arguments, failed=arguments.failed):
            count += 1
            print(json.dumps(entry) if arguments.json else "\n".join(_as_text(entry)))
        if not arguments.json:
            print("\n".join(_summary(arguments, count)))
    except CommandError as error:
        return error.report()
    return os.EX_OK


def _summary(arguments: argparse.Namespace, count: int) -> Iterator[str]:
    """How many, and, where they wait for the route, why."""
    from mailrelayd.cli.daemonside import ask
    from mailrelayd.cli.status import outbound_line
    from mailrelayd.operate.control import NoDaemonError

    if arguments.failed:
        yield f"{count} failed" if count else "nothing has failed"
        return
    yield f"{count} waiting" if count else "nothing is waiting"
    try:
        status = next(ask(arguments, {"command": "status"}))
    except NoDaemonError:
        yield "no daemon is running" if count else "(no daemon is running)"
        return
    if count and status["outbound"]["state"] != "up":
        yield outbound_line(status["outbound"])


def show_message(arguments: argparse.Namespace) -> int:
    """Print one message in full."""
    from mailrelayd.cli.daemonside import CommandError

    try:
        entry = _find(arguments, arguments.id)
    except CommandError as error:
        return error.report()
    if arguments.json:
        print(json.dumps(entry))
        return os.EX_OK
    print("\n".join(_as_text(entry, full=True)))
    return os.EX_OK


def change(arguments: argparse.Namespace) -> int:
    """Carry out a verb on each id; the exit status of the worst."""
    from mailrelayd.cli import failure
    from mailrelayd.cli.daemonside import CommandError

    status = os.EX_OK
    done = {"retry": "will be tried now", "hold": "is on hold", "release": "was released", "delete": "was deleted"}
    try:
        for answer in _change(arguments, arguments.verb, arguments.ids):
            if arguments.json:
                print(json.dumps(answer))
            elif not answer["error"]:
                print(f"{answer['id']} {done[arguments.verb]}")
            if answer["error"]:
                status = failure(os.EX_DATAERR, f"{answer['id']}: {answer['error']}")
    except CommandError as error:
        return error.report()
    return status


# -- where the answers come from -------------------------------------------------------------------------------


def _entries(arguments: argparse.Namespace, *, failed: bool) -> Iterator[dict[str, Any]]:
    from mailrelayd.cli.daemonside import ask, settings_of
    from mailrelayd.operate.control import NoDaemonError

    try:
        yield from ask(arguments, {"command": "list", "failed": failed})
    except NoDaemonError:
        from mailrelayd.outbound.listing import shown

        with _offline(settings_of(arguments)) as reader:
            for queue_id in reader.ids(failed=failed):
                if (entry := reader.entry(queue_id, failed=failed)) is not None:
                    yield shown(entry)


def _find(arguments: argparse.Namespace, queue_id: str) -> dict[str, Any]:
    from mailrelayd.cli.daemonside import CommandError, ask, settings_of
    from mailrelayd.operate.control import NoDaemonError
    from mailrelayd.outbound import queueid

    try:
        return next(ask(arguments, {"command": "show", "id": queue_id}))
    except NoDaemonError:
        from mailrelayd.outbound.listing import shown

        with _offline(settings_of(arguments)) as reader:
            for failed in (False, True):
                if queueid.valid(queue_id) and (entry := reader.entry(queue_id, failed=failed)) is not None:
                    return shown(entry)
    raise CommandError(os.EX_DATAERR, f"{queue_id}: no such message", "mailrelayd queue list [--failed]")


def _change(arguments: argparse.Namespace, verb: str, ids: list[str]) -> Iterable[dict[str, Any]]:
    from mailrelayd.cli.daemonside import CommandError, ask, settings_of
    from mailrelayd.operate.control import NoDaemonError

    try:
        yield from ask(arguments, {"command": "change", "verb": verb, "ids": ids})
    except NoDaemonError:
        import asyncio

        from mailrelayd import durable
        from mailrelayd.outbound.spool import SpoolError

        try:
            yield from asyncio.run(_change_offline(settings_of(arguments), verb, ids))
        except durable.LockedError as error:
            reason = f"{error}: locked, but nobody answers"
            raise CommandError(os.EX_TEMPFAIL, reason, "the daemon is starting or stopping; try again") from error
        except (SpoolError, OSError) as error:
            raise CommandError(os.EX_NOPERM, str(error), "run this as root or as the daemon's user") from error


async def _change_offline(settings: Settings, verb: str, ids: list[str]) -> list[dict[str, Any]]:
    from mailrelayd.clock import SystemClock
    from mailrelayd.daemon import Reports, reading_of
    from mailrelayd.outbound.queue import Verb
    from mailrelayd.outbound.spool import Spool

    _become_owner(settings.spool.directory)  # after the imports: that user may not be able to read our modules
    # The node's name goes into new ids only, and no verb makes one: [state] directory is left alone.
    spool = Spool(settings.spool.directory, node="offline", clock=SystemClock(), report=Reports())
    try:
        spool.set_reading(reading_of(settings))
        await spool.open_up()
        return [{"id": i, "error": why} for i, why in (await spool.change(Verb(verb), ids)).items()]
    finally:
        spool.close()


def _become_owner(directory: Path) -> None:
    """Where root asks, go on for good as the user whose queue it is: what root writes, the daemon could not read.

    Raises CommandError where there is no queue yet: a spool made here would be the wrong user's. Raises OSError.
    """
    from mailrelayd.cli.daemonside import CommandError

    try:
        owner = (directory / "queue").stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        reason = f"{error.filename}: {error.strerror}"
        raise CommandError(os.EX_CANTCREAT, reason, "no daemon has run here yet; see [spool] directory") from error
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    try:
        user = pwd.getpwuid(owner.st_uid)
    except KeyError:  # of a container or another machine: the number is all there is
        os.setgroups([])
        os.setgid(owner.st_gid)
    else:
        os.initgroups(user.pw_name, user.pw_gid)
        os.setgid(user.pw_gid)
    os.setuid(owner.st_uid)


class _offline:  # noqa: N801 - used as `with _offline(...)`
    """The spool's folders, read-only, while no daemon runs."""

    def __init__(self, settings: Settings) -> None:
        from mailrelayd.cli.daemonside import CommandError
        from mailrelayd.daemon import reading_of
        from mailrelayd.outbound.stored import Reader

        try:
            self._reader = Reader(settings.spool.directory, reading_of(settings))
        except PermissionError as error:
            reason = f"{error.filename}: {error.strerror}"
            raise CommandError(os.EX_NOPERM, reason, "run this as root or as the daemon's user") from error
        except OSError as error:
            reason = f"{error.filename}: {error.strerror}"
            raise CommandError(os.EX_CANTCREAT, reason, "no daemon has run here yet; see [spool] directory") from error

    def __enter__(self) -> Any:
        return self._reader

    def __exit__(self, *_: object) -> None:
        self._reader.close()


# -- for people ------------------------------------------------------------------------------------------------


def _as_text(entry: dict[str, Any], *, full: bool = False) -> Iterator[str]:
    from mailrelayd.operate.log import escape

    sender = "<>" if entry["sender"] == "MAILER-DAEMON" else f"<{entry['sender']}>"
    place = "sending" if entry["in_flight"] else entry["queue_name"]
    arrived = datetime.fromtimestamp(entry["arrival_time"], UTC).astimezone()
    size = _bytes(entry["message_size"])
    line = f"{entry['queue_id']}  {place:8}  {size:>8}  {arrived:%Y-%m-%d %H:%M:%S}  from {sender}"
    if entry["next_attempt"]:
        line += f"  next {_in(entry['next_attempt'] - time.time())}"
    yield escape(line)
    if entry["reason"]:
        yield escape(f"    {entry['reason']}")
    recipients = entry["recipients"]
    for recipient in recipients if full else recipients[:5]:
        text = f"    {recipient['status']:8} <{recipient['address']}>"
        if recipient.get("delay_reason") and recipient["delay_reason"] != entry["reason"]:
            text += f": {recipient['delay_reason']}"
        if full and recipient["attempts"]:
            text += f" ({recipient['attempts']} tries)" if recipient["attempts"] > 1 else " (1 try)"
        yield escape(text)
    if not full and len(recipients) > 5:
        yield f"    and {len(recipients) - 5} more (mailrelayd queue show {entry['queue_id']})"


def _bytes(size: int) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000  # type: ignore[assignment]
    return f"{size:.1f} GB"


def _in(seconds: float) -> str:
    if seconds <= 0:
        return "now"
    for unit, length in (("s", 60), ("min", 60), ("h", 24)):
        if seconds < length:
            return f"in {seconds:.0f} {unit}"
        seconds /= length
    return f"in {seconds:.0f} d"
