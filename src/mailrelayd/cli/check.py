"""`mailrelayd check`: is the configuration one the daemon can start with, and, with --connect, log in with?"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mailrelayd.cli.screen import Screen
    from mailrelayd.config.answering import Decisions
    from mailrelayd.config.load import Loaded
    from mailrelayd.diagnose.network import Account

HINT = "correct these lines, then run mailrelayd check again; config/mailrelayd.toml explains every key"


def register(commands: argparse._SubParsersAction[Any], common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "check",
        parents=[common],
        help="validate the configuration",
        description="Validates the configuration, its certificates and its secrets; says everything that is wrong.",
        epilog="examples:\n  mailrelayd check\n  mailrelayd check --connect\n"
        "  mailrelayd --config candidate.toml check --connect\n\n"
        "exit status: 0, or 78 where the configuration is wrong; with --connect also 69 DNS, TCP or TLS, "
        "77 login refused, 75 temporary.",
    )
    parser.add_argument(
        "--connect",
        action="store_true",
        help="then log in to the smarthost and to each mailbox; nothing is sent and no folder is changed",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """EX_OK; EX_CONFIG with every problem on stderr; or the status of the first step of --connect that failed."""
    from mailrelayd.cli import advice
    from mailrelayd.cli.screen import Screen
    from mailrelayd.config.load import ConfigError, load

    screen = Screen(as_json=arguments.json)
    errors: list[str] = []
    warnings: list[str] = []
    notes: list[str] = []
    loaded = None
    try:
        loaded = load(arguments.config)
    except ConfigError as problem:
        errors += problem.problems
    if loaded is not None:
        advice.unavailable(loaded, errors, notes)
        advice.warn(loaded, warnings, notes)
    if not arguments.json:
        screen.tell(_lines(loaded) if loaded is not None else ())
        for word, texts in (("warning", warnings), ("note", notes)):
            for text in texts:
                print(f"{word}: {text}", file=sys.stderr)
    if loaded is not None and not errors and arguments.connect:
        _connect(screen, loaded)
    status = os.EX_CONFIG if errors else screen.status()
    if arguments.json:
        document = _document(loaded, errors, warnings, notes) | _of_connect(arguments, screen, status)
        screen.tell([json.dumps(document, indent=2)])
    elif status == os.EX_OK:
        screen.tell(["ok"])
    if errors:
        report(errors)
    return status


def report(problems: list[str]) -> None:
    """Print the problems of a configuration on stderr, and what to do next."""
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    print(f"hint: {HINT}", file=sys.stderr)


def _connect(screen: Screen, loaded: Loaded) -> None:
    from mailrelayd.clock import SystemClock
    from mailrelayd.diagnose import accounts
    from mailrelayd.oauth.tokens import Tokens

    tokens, chosen = Tokens(loaded.settings, SystemClock()), accounts.chosen(loaded.settings, [])
    screen.watch((accounts.brief(account, loaded.settings, tokens) for account in chosen), loaded)


def _of_connect(arguments: argparse.Namespace, screen: Screen, status: int) -> dict[str, object]:
    if not arguments.connect:
        return {}
    from mailrelayd.diagnose.steps import as_json

    return {"ok": status == os.EX_OK, "status": status, "connect": as_json(screen.found)}


def _document(loaded: Loaded | None, errors: list[str], warnings: list[str], notes: list[str]) -> dict[str, object]:
    settings = loaded.settings if loaded is not None else None
    return {
        "ok": not errors,
        "errors": errors,
        "warnings": warnings,
        "notes": notes,
        "accounts": [_shown(account) for account in settings.outbound.values()] if settings else [],
        "inbound": [_shown(mailbox) for mailbox in settings.inbound.values()] if settings else [],
        "decisions": [_shown_sink(sink) for sink in settings.decisions] if settings else [],
        "files": [str(path) for path in loaded.files] if loaded is not None else [],
        "sha256": loaded.sha256 if loaded is not None else None,
    }


def _shown(account: Account) -> dict[str, object]:
    from mailrelayd.config.answering import InboundAccount
    from mailrelayd.config.secrets import describe_public

    shown: dict[str, object] = {
        "name": account.name,
        "enabled": account.enabled,
        "description": account.description,
        "host": account.host,
        "ports": list(account.ports),
        "security": account.security,
        "auth": account.auth,
        "user": describe_public(account.user),
    }
    if isinstance(account, InboundAccount):
        return shown | {"folder": account.folder, "after": account.after, "poll_interval": account.poll_interval}
    return shown | {"from_address": account.from_address}


def _shown_sink(sink: Decisions) -> dict[str, object]:
    return {
        "name": sink.name,
        "match": sink.match,
        "producers": list(sink.producers),
        "approvers": list(sink.approvers),
        "kind": _kind(sink),
        "required": sink.required,
    }


def _kind(sink: Decisions) -> str:
    return "webhook" if sink.webhook else "command" if sink.command else "directory"


def _lines(loaded: Loaded) -> list[str]:
    """One line for each account and each sink."""
    settings = loaded.settings
    accounts: list[Account] = [*settings.outbound.values(), *settings.inbound.values()]
    return [*map(_line, accounts), *map(_sink_line, settings.decisions)]


def _line(account: Account) -> str:
    from mailrelayd.config.answering import InboundAccount
    from mailrelayd.config.secrets import describe_public

    ports = "/".join(str(port) for port in account.ports)
    host = f"[{account.host}]" if ":" in account.host else account.host
    token = " with a token" if account.auth == "oauth2" else ""
    parts = [f"{host}:{ports}", account.security]
    parts.append(f"login as {describe_public(account.user)}{token}" if account.auth != "none" else "no login")
    if isinstance(account, InboundAccount):
        parts += [f"folder {account.folder}", f"then {account.after}"]
    elif account.from_address:
        parts.append(f"from {account.from_address}")
    if not account.enabled:
        parts.append("disabled")
    kind = "inbound" if isinstance(account, InboundAccount) else "outbound"
    return f"{kind}.{account.name}: {', '.join(parts)}"


def _sink_line(sink: Decisions) -> str:
    kind = _kind(sink)
    to = {
        "webhook": sink.webhook.partition("?")[0],
        "command": " ".join(sink.command[:1]),
        "directory": sink.directory or "below STATE",
    }
    asked = f"asked by {', '.join(sink.producers)}, of {', '.join(sink.approvers)}"
    rest = "" if sink.required else ", not required"
    return f"decisions.{sink.name}: {sink.match}, {kind} {to[kind]}, {asked}{rest}"
