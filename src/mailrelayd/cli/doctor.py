"""`mailrelayd doctor`: what is wrong with an account, and which setting to change."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailrelayd.config.load import Loaded
    from mailrelayd.diagnose.network import Account
    from mailrelayd.diagnose.steps import Step


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
    from mailrelayd.cli.screen import Screen, unfit
    from mailrelayd.clock import SystemClock
    from mailrelayd.config.load import ConfigError, load
    from mailrelayd.diagnose import accounts
    from mailrelayd.oauth.tokens import Tokens

    screen = Screen(as_json=arguments.json)
    try:
        loaded = load(arguments.config)
    except ConfigError as problem:
        screen.show(*unfit(problem.problems))
        return screen.finish()
    try:
        chosen = accounts.chosen(loaded.settings, arguments.accounts)
    except accounts.Unknown as unknown:
        return failure(os.EX_DATAERR, str(unknown), "mailrelayd check lists them")
    screen.show(_fit(loaded, chosen))
    if arguments.forget_tls:
        screen.show(*_forget(chosen, loaded))
    tokens = Tokens(loaded.settings, SystemClock())
    screen.watch((accounts.thorough(account, loaded.settings, tokens) for account in chosen), loaded)
    return screen.finish()


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
    from mailrelayd.diagnose import way
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
            known = way.memory_of(account, loaded.settings).forget()
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
