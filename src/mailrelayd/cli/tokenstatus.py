"""`mailrelayd authorize --status`: how the tokens stand, from what is on disk. Nobody is asked, no token is shown."""

from __future__ import annotations

import argparse
import errno
import json
import os
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from mailrelayd.cli import failure
from mailrelayd.clock import SystemClock
from mailrelayd.config.answering import InboundAccount
from mailrelayd.config.relaying import OutboundAccount
from mailrelayd.config.secrets import describe_public
from mailrelayd.config.settings import Settings
from mailrelayd.oauth.expiry import STEPS, days_left
from mailrelayd.oauth.tokens import Tokens, TokenSource, label
from mailrelayd.operate.log import escape, masked

Account = OutboundAccount | InboundAccount


def show(settings: Settings, only: Account | None, arguments: argparse.Namespace) -> int:
    """Print one paragraph, or one JSON object in a list, per token."""
    clock = SystemClock()
    tokens, now = Tokens(settings, clock), clock.now()
    everybody: list[Account] = [*settings.outbound.values(), *settings.inbound.values()]
    users: dict[str, list[str]] = {}
    sources: dict[str, TokenSource] = {}
    for account in everybody:
        if account.auth == "oauth2" and account.oauth is not None:
            source = tokens.of(account)
            sources[source.account] = source
            users.setdefault(source.account, []).append(label(account))
    if only is not None:
        kept = tokens.of(only).account
        sources = {kept: sources[kept]}
    told = [_told(source, users[name], settings.state.directory / "oauth", now) for name, source in sources.items()]
    if arguments.json:
        print(json.dumps(told, indent=2))
    else:
        for one in told:
            for line in _lines(one):
                print(escape(line))
        if not told:
            print('no account has auth = "oauth2"')
    unread = [one for one in told if one["error"]]
    if unread:
        paths = ", ".join(one["path"] for one in unread)
        reasons = "; ".join(
            one["error"] if one["path"] in one["error"] else ": ".join((one["path"], one["error"])) for one in unread
        )
        if any(one["error"] == os.strerror(errno.EACCES) for one in unread):
            return failure(os.EX_NOPERM, f"{paths}: could not be read", "run it as root or as the daemon's user")
        hint = f"mailrelayd authorize {unread[0]['account']} tries it, and writes a new one where it can"
        return failure(os.EX_DATAERR, reasons, hint)
    return os.EX_OK


def _told(source: TokenSource, users: list[str], folder: Path, now: float) -> dict[str, Any]:
    """What is known of one token."""
    oauth, error, status = source.oauth, "", None
    try:
        status = source.status()
    except OSError as problem:
        error = problem.strerror or str(problem)
    except ValueError as problem:
        error = str(problem)
    token = status.token if status is not None else None
    trouble = status.trouble if status is not None else None
    expires = oauth.client_secret_expires
    today = datetime.fromtimestamp(now, UTC).date()
    return {
        "account": source.account,
        "used_by": users,
        "provider": oauth.provider,
        "flow": "token_command" if oauth.token_command else oauth.flow,
        "path": str(folder / f"{source.account}.json") if not oauth.token_command else "",
        "error": error,
        "state": _state(source, status is not None and status.other_terms, token, now) if not error else "unknown",
        "token": None
        if token is None
        else {
            "obtained_at": token.obtained_at,
            "expires_at": token.expires_at,
            "scope": token.scope or " ".join(token.asked),
            "refreshable": bool(token.refresh_token) or oauth.flow in ("client-credentials", "service-account"),
        },
        "last_error": None
        if trouble is None
        else {"at": trouble.at, "kind": trouble.kind, "code": trouble.code, "text": masked(trouble.text)},
        "client_id": describe_public(oauth.client_id),
        "secret_expires": expires.isoformat() if expires is not None else None,
        "secret_days_left": _days(expires, today),
    }


def _days(expires: date | None, today: date) -> int | None:
    return None if expires is None else days_left(expires, today)


def _state(source: TokenSource, other_terms: bool, token: Any, now: float) -> str:
    if source.oauth.token_command:
        return "asked for at each login"
    if other_terms:
        return "of another configuration"
    if token is None:
        return "none yet"
    return "valid" if token.is_valid(now) else "expired"


def _lines(one: dict[str, Any]) -> Iterator[str]:
    """For people."""
    also = [name for name in one["used_by"] if name != one["account"]]
    yield f"{one['account']}: {one['provider']}, {one['flow']}" + (f"; also for {', '.join(also)}" if also else "")
    if one["error"]:
        yield f"    not readable: {one['error']}"
    token = one["token"]
    if token is None:
        yield f"    token: {one['state']}"
    else:
        renewed = "" if token["refreshable"] else "; it cannot be renewed"
        yield f"    token: {one['state']}, until {_when(token['expires_at'])}{renewed}"
        yield f"    obtained: {_when(token['obtained_at'])}"
        if token["scope"]:
            yield f"    scopes: {token['scope']}"
    if one["last_error"] is not None:
        yield f"    last error: {_when(one['last_error']['at'])}: {one['last_error']['text']}"
    days = one["secret_days_left"]
    if days is not None:
        mark = "" if days > STEPS[0] else "  <- make a new one"
        yield f"    client secret: until {one['secret_expires']}, {days} days left{mark}"


def _when(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
