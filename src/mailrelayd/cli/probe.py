"""`mailrelayd test`: the test button. Sends a mail, looks into the mailbox, or sends one round the whole way."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mailrelayd.diagnose.steps import Step

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
    import asyncio
    import signal
    from contextlib import aclosing

    from mailrelayd.cli import failure
    from mailrelayd.cli.doctor import finish, show
    from mailrelayd.clock import SystemClock
    from mailrelayd.config.load import ConfigError, load
    from mailrelayd.diagnose.accounts import placed
    from mailrelayd.diagnose.trial import Asked, Trial
    from mailrelayd.oauth.tokens import Tokens
    from mailrelayd.outbound.local import person

    if wrong := _misused(arguments):
        return failure(os.EX_USAGE, wrong, "mailrelayd test --help")
    try:
        loaded = load(arguments.config)
    except ConfigError as problem:
        return finish(list(map(_unfit, problem.problems)), as_json=arguments.json, printed=False)
    found: list[Step] = []

    async def go() -> None:
        clock = SystemClock()
        asked = Asked(arguments.to, smtp=arguments.smtp, imap=arguments.imap, loop=arguments.loop)
        test = Trial(loaded, Tokens(loaded.settings, clock), clock, person(os.getuid()).login)
        steps = test.steps(asked, send=not arguments.no_send, patience=arguments.timeout)
        async with aclosing(steps):  # type: ignore[type-var]
            async for step in steps:
                found.append(placed(step, loaded.origins))
                if not arguments.json:
                    show(found[-1])

    try:
        asyncio.run(go())
    except KeyboardInterrupt:
        hint = "a probe of --loop that is under way may stay in the folder: the daemon leaves it alone, delete it"
        return failure(128 + signal.SIGINT, "interrupted", hint if arguments.loop else "")
    return finish(found, as_json=arguments.json, printed=True)


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


def _unfit(problem: str) -> Step:
    from mailrelayd.diagnose.steps import CONFIGURATION, Outcome, Step

    cause = "The configuration does not hold, and the daemon would not start with it."
    return Step("configuration", "file", Outcome.FAILED, problem, cause, "Correct this line.", "", CONFIGURATION)
