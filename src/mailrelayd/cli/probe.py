"""`mailrelayd test`: the test button. Sends a mail, looks into the mailbox, or sends one round the whole way."""

from __future__ import annotations

import argparse
import os
from typing import Any

PATIENCE = "2m"  # for the probe of --loop


def register(commands: argparse._SubParsersAction[Any], common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "test",
        parents=[common],
        help="send a test mail, look into the mailbox, step by step",
        description="Logs in to the smarthost, sends a small mail that says what it is, and looks into the mailboxes "
        "without changing anything there. It works with any configuration file, also one that is not live: no daemon "
        "is needed, and nothing of its state is changed, but for access tokens that were due.\n\n"
        "With --loop a probe goes to a reply address with a token, "
        "comes back into the folder, is looked at, and is then removed, and nothing else with it; it shows whether "
        "answers find their way, and which sender_check and authserv_id fit. A running daemon leaves the probe alone. "
        "To find these settings first, write enabled = false in [approvals] meanwhile.",
        epilog="examples:\n  mailrelayd test --to ops@example.com\n"
        "  mailrelayd --config candidate.toml test --no-send\n"
        "  mailrelayd test --imap\n  mailrelayd test --loop --timeout 5m\n\n"
        "exit status: 0 nothing failed, else by the first step that did: 78 configuration, 69 DNS, TCP or TLS, "
        "77 login or sender refused, 75 temporary.",
    )
    parser.add_argument(
        "--to", metavar="ADDR", default="", help="who gets the test mail (default: the account's test_to)"
    )
    parser.add_argument("--smtp", action="store_true", help="only the smarthost")
    parser.add_argument("--imap", action="store_true", help="only the mailboxes")
    parser.add_argument("--no-send", action="store_true", help="stop before the mail, and say what is unproven then")
    parser.add_argument("--loop", action="store_true", help="send a probe to ourselves and wait for it in the folder")
    parser.add_argument(
        "--timeout",
        metavar="TIME",
        type=_duration,
        default=PATIENCE,
        help=f"how long --loop waits (default {PATIENCE})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The exit status of the first step that failed, else EX_OK."""
    from mailrelayd.cli import failure
    from mailrelayd.cli.screen import Screen, unfit
    from mailrelayd.clock import SystemClock
    from mailrelayd.config.load import ConfigError, load
    from mailrelayd.diagnose.trial import Asked, Trial
    from mailrelayd.oauth.tokens import Tokens
    from mailrelayd.outbound.local import person

    if wrong := _misused(arguments):
        return failure(os.EX_USAGE, wrong, "mailrelayd test --help")
    screen = Screen(as_json=arguments.json)
    try:
        loaded = load(arguments.config)
    except ConfigError as problem:
        screen.show(*unfit(problem.problems))
        return screen.finish()
    clock = SystemClock()
    asked = Asked(arguments.to, smtp=arguments.smtp, imap=arguments.imap, loop=arguments.loop)
    test = Trial(loaded, Tokens(loaded.settings, clock), clock, person(os.getuid()).login)
    screen.watch([test.steps(asked, send=not arguments.no_send, patience=arguments.timeout)], loaded)
    hint = "a probe of --loop that is under way may stay in the folder: the daemon leaves it alone, delete it"
    return screen.finish(hint if arguments.loop else "")


def _duration(text: str) -> float:
    from mailrelayd.config.units import duration

    try:
        return duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _misused(arguments: argparse.Namespace) -> str:
    """What does not go together on the command line, or ""."""
    from mailrelayd.outbound.addresses import valid_address

    if arguments.to and (wrong := valid_address(arguments.to)):
        return f"--to: {wrong}"
    if arguments.loop and (arguments.no_send or arguments.smtp or arguments.imap):
        return "--loop goes the whole way: it leaves no room for --smtp, --imap and --no-send"
    if arguments.loop and arguments.to:
        return "--loop sends to the reply address: it leaves no room for --to"
    if arguments.imap and not arguments.smtp and (arguments.to or arguments.no_send):
        return "--imap sends nothing: it leaves no room for --to and --no-send"
    return ""
