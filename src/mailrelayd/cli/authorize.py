"""`mailrelayd authorize`: set OAuth up for an account, and prove that it works."""

from __future__ import annotations

import argparse
import errno
import json
import os
import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mailrelayd.cli.consent import Person
    from mailrelayd.clock import Clock
    from mailrelayd.config.answering import InboundAccount
    from mailrelayd.config.relaying import OutboundAccount
    from mailrelayd.config.settings import Settings
    from mailrelayd.diagnose.steps import Step
    from mailrelayd.oauth.administration import Task, Wanted
    from mailrelayd.oauth.tokens import Tokens

    Account = OutboundAccount | InboundAccount

EXAMPLES = """\
examples:
  mailrelayd authorize --steps microsoft
      before anything is configured: what to do there, and what to write here
  mailrelayd authorize smarthost
      the same filled in; then a token, and a login to each server with it
  mailrelayd authorize smarthost --paste
      the browser is on another machine
  mailrelayd authorize --status
      how the tokens stand

Nothing is sent, and no mail is touched. A running daemon takes the new token up by itself.

Run it as root or as the daemon's user; as root where a secret is "credential:NAME".

exit status: 0 everything works, else by the first step that failed: 78 configuration, 69 DNS, TCP or TLS, 77 refused,
75 temporary.
"""


def register(commands: argparse._SubParsersAction[Any], common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "authorize",
        parents=[common],
        help="set up OAuth for an account, proven by a login",
        description="Prints what has to be done at the provider, gets a token (with the help of a person where the "
        "flow needs one), and proves it: what is in it, the SMTP login with the sender, the IMAP login with the "
        "folder.",
        epilog=EXAMPLES,
    )
    parser.add_argument("account", metavar="ACCOUNT", nargs="?", default="", help="NAME, outbound.NAME or inbound.NAME")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--status", action="store_true", help="say how the tokens stand; nobody is asked")
    what.add_argument(
        "--steps",
        metavar="PROVIDER",
        choices=("microsoft", "google", "custom"),
        help="microsoft, google or custom: what to do there and to write here, before an account is configured",
    )
    parser.add_argument("--flow", default="", help="with --steps: another flow than the provider's usual one")
    parser.add_argument("--json", action="store_true", help="print one JSON document, and all else on stderr")
    parser.add_argument(
        "--paste", "--no-browser", action="store_true", help="paste the address at which the browser ends"
    )
    parser.add_argument("--port", metavar="N", type=_port, default=0, help="where the browser comes back to")
    parser.set_defaults(run=run)


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 1 to 65535")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """The class of the first step that failed, or EX_OK."""
    import asyncio

    from mailrelayd.cli import failure
    from mailrelayd.cli.daemonside import CommandError

    try:
        if arguments.steps:
            return _print_steps(arguments)
        settings = _settings(arguments)
        if arguments.status:
            from mailrelayd.cli import tokenstatus

            return tokenstatus.show(
                settings, _chosen(settings, arguments.account) if arguments.account else None, arguments
            )
        if not arguments.account:
            raise CommandError(os.EX_USAGE, "which account?", f"name one of: {', '.join(_tokened(settings)) or 'none'}")
        account = _chosen(settings, arguments.account)
        _check_place(settings)
        return asyncio.run(_authorize(account, settings, arguments))
    except CommandError as error:
        return error.report()
    except KeyboardInterrupt:
        return failure(os.EX_TEMPFAIL, "given up", "mailrelayd authorize can be run again")
    except BrokenPipeError:
        raise
    except OSError as error:  # such as: no room for what is printed
        return failure(os.EX_IOERR, f"standard output: {error.strerror or error}")


# -- which account -----------------------------------------------------------------------------------------------------


def _settings(arguments: argparse.Namespace) -> Settings:
    from mailrelayd.cli.daemonside import CommandError
    from mailrelayd.config.load import ConfigError, load

    try:
        return load(arguments.config, check_files=False).settings
    except ConfigError as error:
        hint = "mailrelayd authorize --steps microsoft (or google, custom) says what to write"
        raise CommandError(os.EX_CONFIG, str(error), hint) from error


def _tokened(settings: Settings) -> list[str]:
    """The accounts that log in with a token."""
    from mailrelayd.oauth.tokens import label

    everybody: list[Account] = [*settings.outbound.values(), *settings.inbound.values()]
    return [label(account) for account in everybody if account.auth == "oauth2"]


def _chosen(settings: Settings, name: str) -> Account:
    """The account meant. Raises CommandError."""
    from mailrelayd.cli.daemonside import CommandError
    from mailrelayd.diagnose.accounts import Unknown, chosen
    from mailrelayd.oauth.tokens import label

    try:
        found = chosen(settings, [name])
    except Unknown as error:
        raise CommandError(os.EX_USAGE, str(error)) from error
    found = [account for account in found if account.auth == "oauth2"] or found
    if len(found) > 1:
        both = " or ".join(label(account) for account in found)
        raise CommandError(os.EX_USAGE, f"{name} may be {both}", "write one of the two in full")
    if found[0].auth != "oauth2" or found[0].oauth is None:
        where = label(found[0])
        hint = f'set auth = "oauth2" and a section [{where}.oauth]: mailrelayd authorize --steps microsoft prints one'
        raise CommandError(os.EX_CONFIG, f'{where} has auth = "{found[0].auth}", so there is no token', hint)
    return found[0]


def _check_place(settings: Settings) -> None:
    """Tokens are kept where the daemon finds them, or are not asked for at all. Raises CommandError."""
    import pwd

    from mailrelayd.cli.daemonside import CommandError

    state = settings.state.directory
    try:
        owner = state.stat().st_uid
    except FileNotFoundError as error:
        hint = "start the daemon once, or make it for the daemon's user"
        raise CommandError(os.EX_CANTCREAT, f"{state}: there is no such folder", hint) from error
    except PermissionError as error:
        raise CommandError(
            os.EX_NOPERM, f"{state}: not allowed to look there", _AS_DAEMON.format("mailrelayd")
        ) from error
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = str(owner)
    folder = state / "oauth"
    if os.geteuid() not in (0, owner) or not os.access(folder if folder.exists() else state, os.W_OK | os.X_OK):
        reason = f"{folder}: tokens belong to the user {name}, and this is another"
        raise CommandError(os.EX_NOPERM, reason, _AS_DAEMON.format(name))


_AS_DAEMON = "run it as the daemon's user: runuser -u {} -- mailrelayd authorize ..."


# -- doing it ------------------------------------------------------------------------------------------------------


async def _authorize(account: Account, settings: Settings, arguments: argparse.Namespace) -> int:
    from contextlib import aclosing

    from mailrelayd.cli.consent import terminal
    from mailrelayd.clock import SystemClock
    from mailrelayd.diagnose import authorization
    from mailrelayd.diagnose.steps import as_json, exit_status
    from mailrelayd.oauth.administration import tasks
    from mailrelayd.oauth.tokens import Tokens

    person, clock = terminal(json=arguments.json), SystemClock()
    tokens = Tokens(settings, clock)
    served = authorization.sharing(account, settings, tokens)
    wanted = authorization.wanted(served, tokens.of(account))
    todo = tasks(wanted)
    _tell_tasks(person, wanted, todo)
    steps: list[Step] = []
    async with aclosing(_steps(served, settings, tokens, clock, person, arguments)) as found:  # type: ignore[type-var]
        async for step in found:
            steps.append(step)
            _tell_step(person, step)
    if arguments.json:
        document = {
            "account": wanted.account,
            "provider": wanted.provider,
            "flow": wanted.flow,
            "tasks": [{"text": task.text, "commands": list(task.commands)} for task in todo],
            **as_json(steps),
        }
        print(json.dumps(document, indent=2))
    return exit_status(steps)


async def _steps(
    served: list[Account],
    settings: Settings,
    tokens: Tokens,
    clock: Clock,
    person: Person,
    arguments: argparse.Namespace,
) -> AsyncIterator[Step]:
    """First somebody logs in, where the flow needs it; then everything is tried."""
    from mailrelayd.cli.consent import agree
    from mailrelayd.cli.daemonside import CommandError
    from mailrelayd.diagnose import authorization
    from mailrelayd.diagnose.steps import Outcome, Step
    from mailrelayd.oauth.providers import INTERACTIVE
    from mailrelayd.oauth.values import OAuthError

    account, source = served[0], tokens.of(served[0])
    asks = source.oauth.flow in INTERACTIVE and not source.oauth.token_command
    if asks:
        try:
            await agree(source, person, paste=arguments.paste, port=arguments.port)
        except OAuthError as error:
            yield authorization.refused(account, error, "consent")
            return
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL):
                raise
            hint = "choose another one by --port, or use --paste"
            raise CommandError(os.EX_UNAVAILABLE, f"port {arguments.port}: {error.strerror}", hint) from error
        yield Step(source.account, "consent", Outcome.OK, "somebody has logged in, and the token is kept")
    async for step in authorization.prove(served, settings, tokens, clock, renewed=asks):
        yield step


# -- words ---------------------------------------------------------------------------------------------------------


def _tell_tasks(person: Person, wanted: Wanted, todo: tuple[Task, ...]) -> None:
    from mailrelayd.cli.consent import width

    columns = width()
    what = "token_command" if wanted.token_command else f"{wanted.provider}, {wanted.flow}"
    person.tell(f"{wanted.account}: {what}" + (f", for {wanted.user}" if wanted.user else ""))
    person.tell("")
    person.tell("To be done once, by whoever administers it:")
    for number, task in enumerate(todo, 1):
        first = f"{number:3}. "
        for line in textwrap.wrap(
            task.text,
            max(columns, 40),
            initial_indent=first,
            subsequent_indent=" " * len(first),
            break_long_words=False,
            break_on_hyphens=False,
        ):
            person.tell(line)
        for command in task.commands:
            person.tell(" " * (len(first) + 2) + command)
    person.tell("")


def _tell_step(person: Person, step: Step) -> None:
    from mailrelayd.cli.consent import width
    from mailrelayd.diagnose.steps import lines

    for line in lines(step, width()):
        person.tell(line)


def _print_steps(arguments: argparse.Namespace) -> int:
    """What to do where nothing is configured yet."""
    from mailrelayd.cli.consent import terminal
    from mailrelayd.cli.daemonside import CommandError
    from mailrelayd.oauth.administration import FLOWS, Wanted, skeleton, tasks

    provider = arguments.steps
    flow = arguments.flow or FLOWS[provider][0]
    if flow not in FLOWS[provider]:
        raise CommandError(os.EX_USAGE, f"{provider} has no flow {flow!a}", f"one of: {', '.join(FLOWS[provider])}")
    wanted = Wanted("outbound.smarthost", provider, flow, "", protocols=("smtp", "imap"))
    person, todo = terminal(json=arguments.json), tasks(wanted)
    _tell_tasks(person, wanted, todo)
    person.tell("And in the configuration (mailboxes that log in likewise need no more than their host):")
    person.tell("")
    for line in skeleton(provider, flow).splitlines():
        person.tell(f"  {line}" if line else "")
    if arguments.json:
        shown = [{"text": task.text, "commands": list(task.commands)} for task in todo]
        print(
            json.dumps({"provider": provider, "flow": flow, "tasks": shown, "toml": skeleton(provider, flow)}, indent=2)
        )
    return os.EX_OK
