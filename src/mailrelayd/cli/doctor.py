"""`mailrelayd doctor`: what is wrong with an account, and which setting to change."""

from __future__ import annotations

import argparse
import os
import shutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from mailrelayd.config.load import Loaded
    from mailrelayd.diagnose.network import Account
    from mailrelayd.diagnose.steps import Step
    from mailrelayd.oauth.tokens import Tokens

WIDEST = 120  # columns; longer lines are harder to read


def register(commands: argparse._SubParsersAction[Any], common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "doctor",
        parents=[common],
        help="find out what is wrong with an account, and which setting to change",
        description="Looks at the enabled accounts, or at those named, step by step: secret, DNS, TCP, what the port "
        "speaks, TLS versions, certificate, greeting, login (once), sender and recipient, folder. Nothing is sent and "
        "no folder is changed; the daemon may run or not.",
        epilog="examples:\n  mailrelayd doctor\n  mailrelayd doctor smarthost\n"
        "  mailrelayd doctor inbound.approvals --json | jq '.steps[].cause'\n\n"
        "exit status: 0 nothing failed, else by the first step that did: 78 configuration, 69 DNS, TCP or TLS, "
        "77 login or sender refused, 75 temporary.",
    )
    parser.add_argument("accounts", metavar="ACCOUNT", nargs="*", help="NAME, outbound.NAME or inbound.NAME")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument(
        "--forget-tls",
        action="store_true",
        help='first forget how safely these servers could be reached so far (security = "auto")',
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The exit status of the first step that failed, else EX_OK."""
    from mailrelayd.cli import failure
    from mailrelayd.config.load import ConfigError, load
    from mailrelayd.diagnose import accounts

    try:
        loaded = load(arguments.config)
    except ConfigError as problem:
        return finish(list(map(_unfit, problem.problems)), as_json=arguments.json, printed=False)
    try:
        chosen = accounts.chosen(loaded.settings, arguments.accounts)
    except accounts.Unknown as unknown:
        return failure(os.EX_DATAERR, str(unknown), "mailrelayd check lists them")
    found = [_fit(loaded, chosen)]
    if not arguments.json:
        show(found[0])
    if arguments.forget_tls:
        for step in _forget(chosen, loaded):
            found.append(step)
            if not arguments.json:
                show(step)
    found += watch(loaded, chosen, accounts.thorough, as_json=arguments.json)
    return finish(found, as_json=arguments.json, printed=True)


def watch(
    loaded: Loaded,
    chosen: list[Account],
    examination: Callable[[Account, Any, Tokens], AsyncIterator[Step]],
    *,
    as_json: bool,
) -> list[Step]:
    """Go through the accounts; people see each step as it comes. The steps name where their settings are written."""
    import asyncio
    from contextlib import aclosing

    from mailrelayd.clock import SystemClock
    from mailrelayd.diagnose.accounts import placed
    from mailrelayd.oauth.tokens import Tokens

    found: list[Step] = []

    async def go() -> None:
        tokens = Tokens(loaded.settings, SystemClock())
        for account in chosen:
            async with aclosing(examination(account, loaded.settings, tokens)) as steps:  # type: ignore[type-var]
                async for step in steps:
                    found.append(placed(step, loaded.origins))
                    if not as_json:
                        show(found[-1])

    asyncio.run(go())
    return found


def show(step: Step) -> None:
    """Print a step for people."""
    from mailrelayd.diagnose.steps import lines

    for line in lines(step, min(shutil.get_terminal_size().columns, WIDEST)):
        print(line, flush=True)


def finish(found: list[Step], *, as_json: bool, printed: bool) -> int:
    """The exit status; print the document, or the last line."""
    import json

    from mailrelayd.diagnose import steps

    status = steps.exit_status(found)
    if as_json:
        print(json.dumps(steps.as_json(found), indent=2))
        return status
    for step in () if printed else found:
        show(step)
    failed = [step for step in found if step.outcome is steps.Outcome.FAILED]
    warned = sum(step.outcome is steps.Outcome.WARNING for step in found)
    warnings = f", {warned} warning{'s' if warned > 1 else ''}" if warned else ""
    print(f"{len(failed)} of {len(found)} steps failed{warnings}" if failed else f"nothing failed{warnings}")
    return status


def _unfit(problem: str) -> Step:
    from mailrelayd.diagnose.steps import CONFIGURATION, Outcome, Step

    cause = "The configuration does not hold, and the daemon would not start with it."
    return Step("configuration", "file", Outcome.FAILED, problem, cause, "Correct this line.", "", CONFIGURATION)


def _fit(loaded: Loaded, chosen: list[Account]) -> Step:
    from mailrelayd.diagnose.network import key_of
    from mailrelayd.diagnose.steps import Outcome, Step

    files = ", ".join(str(path) for path in loaded.files)
    if not chosen:
        text = f"{files} holds, and no account in it is enabled"
        cause = "Without an account nothing is sent and nothing is read: files wait."
        return Step("configuration", "file", Outcome.WARNING, text, cause, "Write an [outbound.NAME] section.")
    names = ", ".join(key_of(account) for account in chosen)
    return Step("configuration", "file", Outcome.OK, f"{files} holds; looked at: {names}")


def _forget(chosen: list[Account], loaded: Loaded) -> Iterator[Step]:
    """Only the daemon's user may: a file of somebody else's would stop the daemon."""
    from mailrelayd.diagnose import accounts
    from mailrelayd.diagnose.network import key_of
    from mailrelayd.diagnose.steps import CONFIGURATION, Outcome, Step
    from mailrelayd.outbound.answers import printable

    state = loaded.settings.state.directory
    for account in chosen:
        where = key_of(account)
        try:
            owner = state.stat().st_uid
            if owner != os.geteuid():
                raise PermissionError(f"{state} belongs to the user {_user(owner)}")
            known = accounts.memory_of(account, loaded.settings).forget()
        except FileNotFoundError:
            known = False
        except (OSError, ValueError) as error:
            cause = "What is remembered of this server's TLS cannot be changed by this user."
            cure = f"runuser -u {_user(state.stat().st_uid)} -- mailrelayd doctor --forget-tls"
            text = printable(str(error))
            yield Step(where, "memory", Outcome.FAILED, text, cause, cure, "", CONFIGURATION)
            continue
        text = "how safely this server could be reached is forgotten" if known else "nothing was remembered of it"
        yield Step(where, "memory", Outcome.OK, text)


def _user(number: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"#{number}"
