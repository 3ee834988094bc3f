"""`mailrelayd approvals`: what people have been asked, and what they said."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

EXAMPLES = """\
examples:
  mailrelayd approvals              who was asked, who has answered
  mailrelayd approvals list --all   those that are over, too
  mailrelayd approvals show PO-42   one request, by its own id or its queue id
  mailrelayd approvals cancel PO-42 nobody's answer counts; the sinks are told
  mailrelayd approvals new-secret   a key for [approvals] secret

Reading works with the daemon stopped; to cancel, it must run.
"""
SECRET_BYTES = 48


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Add the command and its verbs."""
    kept = argparse.SUPPRESS  # what was said before the verb counts as well
    approvals = commands.add_parser(
        "approvals",
        parents=[common],
        help="what people have been asked, and what they said",
        description="Shows the requests that went out. Without a verb: list.",
        epilog=EXAMPLES,
    )
    approvals.add_argument("--all", action="store_true", help="also requests that are over")
    approvals.add_argument("--json", action="store_true", help="one JSON object per request")
    approvals.set_defaults(run=list_requests)
    verbs = approvals.add_subparsers(title="verbs", metavar="VERB")
    what = "open requests, oldest first (the default)"
    listing = _verb(verbs, common, "list", what, f"Shows {what}.", "approvals list --all --json")
    listing.add_argument("--all", action="store_true", default=kept, help="also requests that are over")
    listing.add_argument("--json", action="store_true", default=kept, help="one JSON object per request")
    listing.set_defaults(run=list_requests)
    what = "one request: everybody who was asked"
    show = _verb(verbs, common, "show", what, f"Shows {what}.", "approvals show PO-42")
    show.add_argument("id", metavar="ID", help="the request's own id, or the queue id of the message that asked")
    show.add_argument("--json", action="store_true", default=kept, help="as JSON objects")
    show.set_defaults(run=show_request)
    cancel = _verb(
        verbs,
        common,
        "cancel",
        "let nobody's answer count any more",
        "Closes an open request. The sinks are told for everybody who has not answered, and who answers later is "
        "recorded as `cancelled`. The mails themselves cannot be called back.",
        "approvals cancel PO-42",
    )
    cancel.add_argument("id", metavar="ID", help="the request's own id, or the queue id of the message that asked")
    cancel.set_defaults(run=cancel_request)
    secret = _verb(
        verbs,
        common,
        "new-secret",
        "print a new key for [approvals] secret",
        "Prints a random key. To change a key in use, put the new one first in the list and keep the old one behind it "
        "until the last request made with it has expired.",
        "approvals new-secret | install -m 600 /dev/stdin \\\n      /etc/mailrelayd/credentials/approvals.secret",
    )
    secret.set_defaults(run=new_secret)


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    common: argparse.ArgumentParser,
    name: str,
    what: str,
    description: str,
    example: str,
) -> argparse.ArgumentParser:
    return verbs.add_parser(
        name, parents=[common], help=what, description=description, epilog=f"example:\n  mailrelayd {example}"
    )


def list_requests(arguments: argparse.Namespace) -> int:
    """Print every open request, or all."""
    from mailrelayd.cli.daemonside import CommandError

    try:
        count = 0
        for request in _requests(arguments):
            if arguments.all or request["state"] == "open":
                count += 1
                print(json.dumps(request) if arguments.json else "\n".join(as_text(request)))
    except CommandError as error:
        return error.report()
    if not arguments.json:
        print(f"{count} {'in all' if arguments.all else 'open'}" if count else "nobody is asked anything")
    return os.EX_OK


def show_request(arguments: argparse.Namespace) -> int:
    """Print the requests of one id."""
    from mailrelayd.cli.daemonside import CommandError

    try:
        found = [one for one in _requests(arguments) if arguments.id in (one["request_id"], one["queue_id"])]
        if not found:
            raise CommandError(os.EX_DATAERR, f"{arguments.id}: no such request", "mailrelayd approvals list --all")
    except CommandError as error:
        return error.report()
    for request in found:
        print(json.dumps(request) if arguments.json else "\n".join(as_text(request)))
    return os.EX_OK


def cancel_request(arguments: argparse.Namespace) -> int:
    """Ask the daemon to close a request."""
    from mailrelayd.cli import failure
    from mailrelayd.cli.daemonside import CommandError, ask
    from mailrelayd.operate.control import NoDaemonError

    try:
        for request in ask(arguments, {"command": "approvals.cancel", "id": arguments.id}):
            print(f"{request['request_id']} is cancelled")
    except NoDaemonError:
        return failure(os.EX_UNAVAILABLE, "no daemon is running", "only it can tell the sinks: start it")
    except CommandError as error:
        return error.report()
    return os.EX_OK


def new_secret(arguments: argparse.Namespace) -> int:
    """Print a key."""
    import secrets

    print(secrets.token_urlsafe(SECRET_BYTES))
    return os.EX_OK


def _requests(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """From the daemon; where none runs, from the files. Raises CommandError."""
    from mailrelayd.cli.daemonside import CommandError, ask, settings_of
    from mailrelayd.operate.control import NoDaemonError

    try:
        yield from ask(arguments, {"command": "approvals"})
    except NoDaemonError:
        from mailrelayd.approvals.listing import shown_request
        from mailrelayd.approvals.registry import stored_requests
        from mailrelayd.clock import SystemClock

        directory = settings_of(arguments).state.directory
        try:
            for request in stored_requests(directory):
                yield shown_request(request, SystemClock().now())
        except PermissionError as error:
            hint = "run this as root or as the daemon's user"
            raise CommandError(os.EX_NOPERM, f"{error.filename}: {error.strerror}", hint) from error
        except FileNotFoundError:
            return


def as_text(request: dict[str, Any]) -> Iterator[str]:
    """A request for people."""
    from mailrelayd.operate.log import escape

    line = f"{request['request_id']}  {request['state']}  from {request['requested_by']}, {when(request['opened_at'])}"
    if request["state"] == "open":
        line += f", until {when(request['expires_at'])}"
    yield escape(f"{line}  ({request['queue_id']})")
    if request["subject"]:
        yield escape(f"    {request['subject']}")
    for one in request["approvers"]:
        if one["outcome"]:
            said = f"{one['outcome']} {when(one['at'])}"
        else:
            said = f"asked {when(one['sent_at'])}" if one["sent_at"] else "not sent yet"
        yield escape(f"    {one['address']}: {said}")


def when(seconds: float) -> str:
    """A point in time, for people."""
    return f"{datetime.fromtimestamp(seconds, UTC).astimezone():%Y-%m-%d %H:%M}"
