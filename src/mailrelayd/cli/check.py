"""`mailrelayd check`: is the configuration one the daemon can start with?"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailrelayd.config.load import Loaded
    from mailrelayd.config.relaying import OutboundAccount
    from mailrelayd.config.secrets import Secret
    from mailrelayd.config.settings import Settings

SHORTEST_KEY = 32  # bytes, as approvals.token asks
HINT = "correct these lines, then run mailrelayd check again; config/mailrelayd.toml explains every key"


def register(commands: argparse._SubParsersAction[Any], common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "check",
        parents=[common],
        help="validate the configuration",
        description="Validates the configuration, its certificates and its secrets; says everything that is wrong.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """EX_OK, or EX_CONFIG with every problem on stderr."""
    from mailrelayd.config.load import ConfigError, load

    errors: list[str] = []
    warnings: list[str] = []
    notes: list[str] = []
    loaded = None
    try:
        loaded = load(arguments.config)
    except ConfigError as problem:
        errors += problem.problems
    if loaded is not None:
        _secrets(loaded, errors, notes)
        _warnings(loaded, warnings, notes)
    accounts = list(loaded.settings.outbound.values()) if loaded is not None else []
    if arguments.json:
        verdict = {
            "ok": not errors,
            "errors": errors,
            "warnings": warnings,
            "notes": notes,
            "accounts": [_shown(account) for account in accounts],
            "files": [str(path) for path in loaded.files] if loaded is not None else [],
            "sha256": loaded.sha256 if loaded is not None else None,
        }
        print(json.dumps(verdict, indent=2))
    else:
        for account in accounts:
            print(_line(account))
        for word, texts in (("warning", warnings), ("note", notes)):
            for text in texts:
                print(f"{word}: {text}", file=sys.stderr)
        if not errors:
            print("ok")
    if errors:
        report(errors)
        return os.EX_CONFIG
    return os.EX_OK


def report(problems: list[str]) -> None:
    """Print the problems of a configuration on stderr, and what to do next."""
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    print(f"hint: {HINT}", file=sys.stderr)


def _shown(account: OutboundAccount) -> dict[str, object]:
    from mailrelayd.config.secrets import describe_public

    return {
        "name": account.name,
        "enabled": account.enabled,
        "description": account.description,
        "host": account.host,
        "ports": list(account.ports),
        "security": account.security,
        "auth": account.auth,
        "user": describe_public(account.user),
        "from_address": account.from_address,
    }


def _line(account: OutboundAccount) -> str:
    from mailrelayd.config.secrets import describe_public

    ports = "/".join(str(port) for port in account.ports)
    host = f"[{account.host}]" if ":" in account.host else account.host
    parts = [f"{host}:{ports}", account.security]
    parts.append(f"login as {describe_public(account.user)}" if account.auth == "password" else "no login")
    if account.from_address:
        parts.append(f"from {account.from_address}")
    if not account.enabled:
        parts.append("disabled")
    return f"outbound.{account.name}: {', '.join(parts)}"


def _references(settings: Settings) -> Iterator[tuple[str, Secret | str]]:
    """Every secret, and what is like one, that the daemon will fetch."""
    account = settings.account
    if account is not None and account.auth == "password":
        yield f"outbound.{account.name}.user", account.user
        yield f"outbound.{account.name}.password", account.password
    for mailbox in settings.mailboxes if settings.asking is not None else ():
        if mailbox.user:  # else the login is the outbound account's
            yield f"inbound.{mailbox.name}.user", mailbox.user
        if mailbox.password:
            yield f"inbound.{mailbox.name}.password", mailbox.password
    if settings.asking is not None:
        yield from (("approvals.secret", reference) for reference in settings.asking.secret)
        for position, sink in enumerate(settings.decisions, 1):
            if sink.secret:
                yield f"decisions[{position}].secret", sink.secret


def _secrets(loaded: Loaded, errors: list[str], notes: list[str]) -> None:
    """Fetch the secrets as the daemon would; commands are looked for, not run."""
    from mailrelayd.config import secrets

    for key, reference in _references(loaded.settings):
        place = f"{loaded.origins[key]}: "
        if place.startswith("environment "):
            place = place.replace("environment ", "environment: ", 1)
        kind, _ = secrets.split(reference)
        if kind == "credential" and not os.environ.get("CREDENTIALS_DIRECTORY"):
            notes.append(f"{key}: {secrets.describe(reference)} is known only under systemd; not looked at")
        elif kind == "command":
            program = secrets.program_missing(reference)
            if program:
                errors.append(f"{place}{key}: the program {program} cannot be found or executed; correct its path")
            else:
                notes.append(f"{key}: {secrets.describe(reference)} is not run here; the daemon runs it at each login")
        else:
            try:
                found = secrets.resolve(reference, key=key)
            except secrets.SecretError as problem:
                errors.append(f"{place}{problem}")
            else:
                if key == "approvals.secret" and len(found.encode()) < SHORTEST_KEY:
                    cure = "`mailrelayd approvals new-secret` makes one"
                    errors.append(f"{place}{key}: has fewer than {SHORTEST_KEY} bytes; {cure}")


def _warnings(loaded: Loaded, warnings: list[str], notes: list[str]) -> None:
    """What the daemon would accept and its operator perhaps did not mean."""
    asking = loaded.settings.asking
    if asking is not None and not loaded.settings.decisions:
        warnings.append("approvals: there is no [[decisions]], so every request is refused")
    account = loaded.settings.account
    if asking is not None and account is not None and account.rewrite_from in ("never", "if-missing"):
        warnings.append(
            f'outbound.{account.name}.rewrite_from: with "{account.rewrite_from}" bounces of requests go to whoever '
            'asked, token and all, and nobody here learns of them; write "envelope"'
        )
    if asking is not None and asking.sender_check == "token-only":
        notes.append("approvals.sender_check: with token-only, whoever gets hold of a copy may decide")
    if asking is None and loaded.settings.mailboxes:
        warnings.append("inbound: nothing is read there, because approvals are not enabled")
    guard = loaded.settings.guard
    if guard.dry_run:
        notes.append("guard.dry_run: is true: nothing is sent, and every message ends as suppressed under failed/")
    elif guard.redirect_to:
        notes.append(f"guard.redirect_to: every mail goes to {guard.redirect_to}, and to nobody else")
    if account is None:
        notes.append("no outbound account is enabled: files wait in the spool")
        return
    at = f"outbound.{account.name}"
    _about_login(account, at, loaded, warnings)
    _about_tls(account, at, warnings)
    usual = {465: "tls", 587: "starttls", 25: "starttls"}.get(account.port or 0)
    if usual and account.security in ("tls", "starttls") and account.security != usual:
        warnings.append(f'{at}.port: {account.port} is usually security = "{usual}", not "{account.security}"')


def _about_login(account: OutboundAccount, at: str, loaded: Loaded, warnings: list[str]) -> None:
    from mailrelayd.config import secrets

    if account.auth == "none" and (account.user or account.password):
        warnings.append(f'{at}.auth: is "none", so user and password are not used; remove them, or the line auth')
    user = account.user
    if secrets.split(user)[0] == "text":
        user = secrets.split(user)[1]
        _, _, theirs = user.rpartition("@")
        _, _, ours = account.from_address.rpartition("@")
        if "@" in user and ours and theirs.lower() != ours.lower():
            warnings.append(
                f"{at}.from_address: its domain {ours} is not the user's {theirs}; "
                "many servers refuse that, or the mail fails SPF and DMARC"
            )
    if account.password and secrets.split(account.password)[0] == "text":
        place = loaded.origins[f"{at}.password"]
        if place.startswith("environment "):
            warnings.append(f'{at}.password: the secret itself is in {place}; write "file:PATH" or "credential:NAME"')
            return
        path = Path(place.rpartition(":")[0])
        if path.stat().st_mode & 0o004:
            warnings.append(
                f"{at}.password: the secret itself is in {path}, which every user may read: chmod 640 {path}"
            )
        else:
            warnings.append(f'{at}.password: the secret itself is in {path}; write "file:PATH" or "credential:NAME"')


def _about_tls(account: OutboundAccount, at: str, warnings: list[str]) -> None:
    if account.security == "none":
        warnings.append(
            f'{at}.security: is "none": mail travels in clear, and anybody on the way may read and change it'
        )
        if account.tls.model_fields_set:
            warnings.append(f'{at}.tls: is not used with security = "none"; remove the section, or change security')
        return
    if account.allow_plaintext and account.security != "auto":
        warnings.append(f'{at}.allow_plaintext: has no effect with security = "{account.security}"; remove it')
    if account.allow_plaintext and account.security == "auto":
        warnings.append(f"{at}.allow_plaintext: mail travels in clear where the server offers no TLS")
    if not account.tls.verify and not account.tls.fingerprint:
        warnings.append(
            f"{at}.tls.verify: is false: any server may pose as this one; set fingerprint or ca_file instead"
        )
    if account.tls.minimum in ("1.0", "1.1"):
        warnings.append(
            f'{at}.tls.minimum: TLS {account.tls.minimum} is broken (RFC 8996); write "1.2" if the server can'
        )
