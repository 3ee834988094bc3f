"""`mailrelayd decisions`: what was decided, and whether everybody who must know has heard of it."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from typing import Any

EXAMPLES = """\
examples:
  mailrelayd decisions              every decision in the archive, oldest first
  mailrelayd decisions --waiting    those that some sink has not taken
  mailrelayd decisions show ID      the document, as the sinks get it
  mailrelayd decisions replay ID    offer it to its sinks again, same id
  mailrelayd decisions schema       the JSON Schema of the documents

Reading works with the daemon stopped; to replay, it must run.
"""


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Add the command and its verbs."""
    kept = argparse.SUPPRESS  # what was said before the verb counts as well
    decisions = commands.add_parser(
        "decisions",
        parents=[common],
        help="what was decided, and whether every sink has heard of it",
        description="Shows decisions. Without a verb: list.",
        epilog=EXAMPLES,
    )
    _choice(decisions, False)
    decisions.set_defaults(run=list_decisions)
    verbs = decisions.add_subparsers(title="verbs", metavar="VERB")
    what = "every decision in the archive, oldest first (the default)"
    example = "example:\n  mailrelayd decisions list --waiting --json"
    listing = verbs.add_parser("list", parents=[common], help=what, description=f"Shows {what}.", epilog=example)
    _choice(listing, kept)
    listing.set_defaults(run=list_decisions)
    what = "one document, as the sinks get it"
    example = "example:\n  mailrelayd decisions show ID | jq .data.comment"
    show = verbs.add_parser("show", parents=[common], help=what, description=f"Shows {what}.", epilog=example)
    show.add_argument("id", metavar="ID")
    show.set_defaults(run=show_decision)
    replay = verbs.add_parser(
        "replay",
        parents=[common],
        help="offer it to its sinks again",
        description="Offers a stored decision to every sink of its request again: the same bytes with the same id, so "
        "that whoever has it already can tell. Also takes it out of a sink's parked/.",
        epilog="example:\n  mailrelayd decisions replay ID",
    )
    replay.add_argument("ids", metavar="ID", nargs="+")
    replay.set_defaults(run=replay_decisions)
    what = "the JSON Schema of the documents"
    example = "example:\n  mailrelayd decisions schema >decision.schema.json"
    schema = verbs.add_parser("schema", parents=[common], help=what, description=f"Prints {what}.", epilog=example)
    schema.set_defaults(run=print_schema)


def _choice(parser: argparse.ArgumentParser, default: Any) -> None:
    parser.add_argument("--all", action="store_true", default=default, help="also mail that decided nothing")
    parser.add_argument("--waiting", action="store_true", default=default, help="only what some sink has not taken")
    parser.add_argument("--json", action="store_true", default=default, help="one JSON object per decision")


def list_decisions(arguments: argparse.Namespace) -> int:
    """Print the decisions in the archive."""
    from mailrelayd.cli.daemonside import CommandError

    count = 0
    try:
        for one in _decisions(arguments):
            if (one["is_decision"] or arguments.all) and (one["waiting_for"] or not arguments.waiting):
                count += 1
                print(json.dumps(one) if arguments.json else _as_text(one))
    except CommandError as error:
        return error.report()
    if not arguments.json:
        print(f"{count} {'waiting' if arguments.waiting else 'in all'}" if count else "none")
    return os.EX_OK


def show_decision(arguments: argparse.Namespace) -> int:
    """Print one document."""
    from mailrelayd.cli.daemonside import CommandError, ask, settings_of
    from mailrelayd.operate.control import NoDaemonError

    try:
        try:
            (answer,) = ask(arguments, {"command": "decisions.show", "id": arguments.id})
            print(answer["document"])
        except NoDaemonError:
            from mailrelayd.approvals.archive import stored_document

            try:
                stored = stored_document(settings_of(arguments).state.directory, arguments.id)
            except PermissionError as error:
                raise CommandError(os.EX_NOPERM, str(error), "run this as root or as the daemon's user") from error
            if stored is None:
                hint = "mailrelayd decisions list --all"
                raise CommandError(os.EX_DATAERR, f"{arguments.id}: no such decision", hint) from None
            print(stored.decode().rstrip("\n"))
    except CommandError as error:
        return error.report()
    return os.EX_OK


def replay_decisions(arguments: argparse.Namespace) -> int:
    """Have the daemon offer decisions again; the exit status of the worst."""
    from mailrelayd.cli import failure
    from mailrelayd.cli.daemonside import CommandError, ask
    from mailrelayd.operate.control import NoDaemonError

    status = os.EX_OK
    try:
        for answer in ask(arguments, {"command": "decisions.replay", "ids": arguments.ids}):
            if answer["error"]:
                status = failure(os.EX_DATAERR, f"{answer['id']}: {answer['error']}")
            else:
                print(f"{answer['id']} is offered again to {', '.join(answer['sinks'])}")
    except NoDaemonError:
        return failure(os.EX_UNAVAILABLE, "no daemon is running", "only it can talk to the sinks: start it")
    except CommandError as error:
        return error.report()
    return status


def print_schema(arguments: argparse.Namespace) -> int:
    """Print the schema that is shipped."""
    from importlib.resources import files

    print(files("mailrelayd.approvals").joinpath("decision.schema.json").read_text(), end="")
    return os.EX_OK


def _decisions(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """From the daemon; where none runs, from the archive. Raises CommandError."""
    from mailrelayd.cli.daemonside import CommandError, ask, settings_of
    from mailrelayd.operate.control import NoDaemonError

    try:
        yield from ask(arguments, {"command": "decisions"})
    except NoDaemonError:
        from mailrelayd.approvals.archive import stored_documents
        from mailrelayd.approvals.listing import shown_decision
        from mailrelayd.approvals.outbox import stored_waiting

        state = settings_of(arguments).state.directory
        try:
            waiting = stored_waiting(state)
            for document in stored_documents(state):
                yield shown_decision(document, waiting)
        except PermissionError as error:
            hint = "run this as root or as the daemon's user"
            raise CommandError(os.EX_NOPERM, f"{error.filename}: {error.strerror}", hint) from error
        except ValueError as error:
            raise CommandError(os.EX_DATAERR, str(error)) from error


def _as_text(one: dict[str, Any]) -> str:
    from mailrelayd.operate.log import escape

    who = one["by"] or "nobody"
    if one["on_behalf_of"]:
        who += f" for {one['on_behalf_of']}"
    text = f"{one['time']}  {one['decision']:13}  {one['request_id'] or '-'}  {who}  ({one['reason']})  {one['id']}"
    if one["waiting_for"]:
        text += f"  waiting for {', '.join(one['waiting_for'])}"
    return escape(text)
