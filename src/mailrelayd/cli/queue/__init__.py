"""`mailrelayd queue`: look at what waits and what failed, and act on it."""

from __future__ import annotations

import argparse
from typing import Any

VERBS = {  # verb -> (in one line, in full)
    "hold": ("keep, but do not try", "What is on hold stays until it is released, and never expires."),
    "release": ("undo hold", "Messages are tried again when their time has come, or at once if it has."),
    "retry": (
        "try now; a failed message is queued again",
        "Does not wait for the next attempt, nor for the producer's not_before. A failed message goes to those who "
        "have not got it yet, and to nobody else. What is on hold has to be released first.",
    ),
    "fail": (
        "give up now; kept under failed/",
        "The message goes to failed/ with the reason by-hand, and its sender is told where [retry] dsn is on. "
        "`retry` brings it back.",
    ),
    "delete": (
        "remove for ever; nobody is told",
        "The message is gone: its sender gets no report, and no verb undoes it.",
    ),
}
ASK_FIRST = ("fail", "delete")

EXAMPLES = """\
examples:
  mailrelayd queue                  what waits, oldest first, with the reason
  mailrelayd queue --shape          how many for which reason, and since when
  mailrelayd queue --failed         what was given up
  mailrelayd queue explain ID       its life, what it waits for, what to do
  mailrelayd queue retry ID ...     now instead of at its next attempt
  mailrelayd queue hold --from @example.com
  mailrelayd queue delete --failed --older-than 10d --reason 'user unknown'
  mailrelayd queue list --json |
    jq -r 'select(.queue_name=="deferred").queue_id' | mailrelayd queue retry -

coming from Postfix:
  postqueue -p, mailq       queue
  postqueue -j              queue list --json
  postqueue -f              queue retry ALL
  postqueue -i ID           queue retry ID
  postcat -q ID             queue cat ID
  postcat -hq ID            queue cat --header ID
  postsuper -h ID|ALL       queue hold ID|ALL
  postsuper -H ID|ALL       queue release ID|ALL
  postsuper -r ID           queue retry ID
  postsuper -e ID           queue fail ID
  postsuper -d ID|ALL       queue delete ID|ALL
  postsuper -d ALL deferred queue delete --deferred
  qshape deferred           queue --shape --deferred

words:
  active     due, or being sent right now
  deferred   refused for now (4xx), tried again later
  hold       kept until somebody releases it
  failed     given up, kept under failed/
  route      the way to the smarthost; while it is held, all waits, none expires

The names of --json are those of `postqueue -j`, and a few more. All of this works with the daemon stopped, too.
"""
PATTERNS = """\
PATTERN is ADDRESS, @DOMAIN, @*.DOMAIN (any subdomain) or * in quotes; --from '<>' is the null sender. Case does not
matter. --reason finds a part of anything that `queue list` or `queue --shape` shows as a reason. Several filters
mean: all of them apply.
"""
EXIT_STATUS = """\
Exit status 65: a message that was named is not there, or the verb does not apply to it. 75: one of those that --all or
a filter means cannot be changed right now. The others have been changed.
"""
_KEPT = argparse.SUPPRESS  # what was said before the verb counts as well

_Verbs = Any  # argparse's name for it is private


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Add the command and its verbs."""
    queue = commands.add_parser(
        "queue",
        parents=[common],
        help="look at what waits and what failed, and act on it",
        description="Shows the queue, and changes it. Without a verb: list.",
        epilog=EXAMPLES,
    )
    _listing(queue)
    queue.set_defaults(run=_list)
    verbs = queue.add_subparsers(title="verbs", metavar="VERB")
    listing = _verb(
        verbs,
        common,
        "list",
        "every waiting message (the default)",
        "Oldest first. --failed shows what was given up instead.",
        "  mailrelayd queue list --reason 'mailbox full'\n"
        "  mailrelayd queue list --older-than 2h --to @example.com\n"
        "  mailrelayd queue list --failed --json | jq -r .queue_id",
        PATTERNS,
    )
    _listing(listing)
    listing.set_defaults(run=_list)
    _one_message(verbs, common)
    for verb, (short, full) in VERBS.items():
        _changing(verbs, common, verb, short, full)


def _verb(
    verbs: _Verbs, common: argparse.ArgumentParser, name: str, short: str, full: str, examples: str, more: str = ""
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        parents=[common],
        help=short,
        description=f"{short[0].upper()}{short[1:]}. {full}",
        epilog=f"examples:\n{examples}\n{more and chr(10)}{more}",
    )
    return parser


def _listing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shape", action="store_true", default=_KEPT, help="how many for which reason, by age, instead of each one"
    )
    parser.add_argument("--json", action="store_true", default=_KEPT, help="one JSON object per line")
    _filters(parser)


def _filters(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("filters")
    add = group.add_argument
    add("--from", dest="sender", metavar="PATTERN", type=_pattern, default=_KEPT, help="whose envelope sender matches")
    add(
        "--to",
        dest="recipient",
        metavar="PATTERN",
        type=_pattern,
        default=_KEPT,
        help="that somebody waits for who matches",
    )
    add("--reason", metavar="TEXT", default=_KEPT, help="that wait, or failed, for a reason with TEXT in it")
    add("--older-than", metavar="TIME", type=_duration, default=_KEPT, help="that came longer ago: 30s, 10m, 2h, 5d")
    add("--deferred", action="store_true", default=_KEPT, help="that were refused for now and are tried again later")
    add("--hold", action="store_true", default=_KEPT, help="that are on hold")
    add("--failed", action="store_true", default=_KEPT, help="that were given up, instead of those that wait")


def _one_message(verbs: _Verbs, common: argparse.ArgumentParser) -> None:
    show = _verb(
        verbs,
        common,
        "show",
        "one message: every recipient, every answer",
        "Waiting, failed, or sent and kept.",
        "  mailrelayd queue show ID\n  mailrelayd queue show --json ID | jq '.recipients[].response'",
    )
    show.add_argument("id", metavar="ID")
    show.add_argument("--json", action="store_true", default=_KEPT, help="as a JSON object")
    show.set_defaults(run=_show)
    cat = _verb(
        verbs,
        common,
        "cat",
        "the stored message, byte for byte",
        "As its producer handed it in: waiting, failed, or sent and kept ([spool] keep_sent). On a terminal control "
        "characters are escaped.",
        "  mailrelayd queue cat ID > message.eml\n  mailrelayd queue cat --header ID",
    )
    cat.add_argument("id", metavar="ID")
    cat.add_argument("--header", action="store_true", help="only the header, with its empty line")
    cat.set_defaults(run=_cat)
    explain = _verb(
        verbs,
        common,
        "explain",
        "the life of one message, what it waits for and what to do",
        "Says where it came from, which rule told its envelope, every attempt, what it waits for, when it is tried "
        "next and when it is given up. Of an id that is not there: what the id itself says, and where to look. Exit "
        "status 65 then.",
        "  mailrelayd queue explain ID\n  mailrelayd queue explain --json ID | jq '.history[]'",
    )
    explain.add_argument("id", metavar="ID")
    explain.add_argument("--json", action="store_true", default=_KEPT, help="as a JSON object")
    explain.set_defaults(run=_explain)


def _changing(verbs: _Verbs, common: argparse.ArgumentParser, verb: str, short: str, full: str) -> None:
    asking = (
        "With --all or filters it asks first; where nobody can answer, --yes is needed.\n" if verb in ASK_FIRST else ""
    )
    yes = " --yes" if verb in ASK_FIRST else ""
    some = "--failed --older-than 10d" if verb == "delete" else "--from @example.com --older-than 1h"
    parser = _verb(
        verbs,
        common,
        verb,
        short,
        full,
        f"  mailrelayd queue {verb} ID ...\n  mailrelayd queue {verb} {some}{yes}\n"
        f"  mailrelayd queue list --json | jq -r .queue_id | mailrelayd queue {verb} -",
        f"{asking}{PATTERNS}\n{EXIT_STATUS}",
    )
    parser.add_argument(
        "ids", metavar="ID", nargs="*", help="queue ids; - reads them from standard input, one per line or JSON lines"
    )
    parser.add_argument(
        "--all", action="store_true", help="everything that waits, or with --failed that failed; or ALL"
    )
    if verb in ASK_FIRST:
        parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--json", action="store_true", default=_KEPT, help="one JSON object per message")
    _filters(parser)
    parser.set_defaults(run=_change, verb=verb)


# -- imported only when they run -----------------------------------------------------------------------------------


def _list(arguments: argparse.Namespace) -> int:
    from mailrelayd.cli.queue import look

    return look.list_messages(arguments)


def _show(arguments: argparse.Namespace) -> int:
    from mailrelayd.cli.queue import look

    return look.show_message(arguments)


def _cat(arguments: argparse.Namespace) -> int:
    from mailrelayd.cli.queue import look

    return look.cat_message(arguments)


def _explain(arguments: argparse.Namespace) -> int:
    from mailrelayd.cli.queue import look

    return look.explain_message(arguments)


def _change(arguments: argparse.Namespace) -> int:
    from mailrelayd.cli.queue import act

    return act.change(arguments)


def _duration(written: str) -> float:
    """--older-than in seconds."""
    from mailrelayd.config import units

    try:
        return units.duration(written)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _pattern(written: str) -> str:
    """--from and --to."""
    from mailrelayd.outbound.addresses import valid_pattern

    if written != "<>" and (why := valid_pattern(written)) is not None:
        raise argparse.ArgumentTypeError(why)
    return written
