"""What `check` has to say besides errors: secrets that cannot be had, and what was perhaps not meant."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from mailrelayd.clock import SystemClock
from mailrelayd.config import secrets
from mailrelayd.config.answering import InboundAccount
from mailrelayd.config.load import Loaded
from mailrelayd.config.relaying import OutboundAccount
from mailrelayd.config.secrets import Secret
from mailrelayd.config.settings import Settings
from mailrelayd.oauth import expiry, tokens

SHORTEST_KEY = 32  # bytes, as approvals.token asks
Account = OutboundAccount | InboundAccount


def _references(settings: Settings) -> Iterator[tuple[str, Secret | str]]:
    """Every secret, and what is like one, that the daemon will fetch."""
    if settings.account is not None:
        yield from _of_login(f"outbound.{settings.account.name}", settings.account)
    for mailbox in settings.mailboxes if settings.asking is not None else ():
        yield from _of_login(f"inbound.{mailbox.name}", mailbox)
    if settings.asking is not None:
        yield from (("approvals.secret", reference) for reference in settings.asking.secret)
        for position, sink in enumerate(settings.decisions, 1):
            if sink.secret:
                yield f"decisions[{position}].secret", sink.secret


def _of_login(at: str, account: Account) -> Iterator[tuple[str, Secret | str]]:
    references: dict[str, Secret | str] = {"user": account.user}
    if account.auth == "password":
        references["password"] = account.password
    elif account.auth == "oauth2" and account.oauth is not None:
        references |= {"oauth.client_id": account.oauth.client_id, "oauth.client_secret": account.oauth.client_secret}
    if account.auth != "none":
        yield from ((f"{at}.{key}", reference) for key, reference in references.items() if reference)


def unavailable(loaded: Loaded, errors: list[str], notes: list[str]) -> None:
    """Fetch the secrets as the daemon would; commands are looked for, not run."""
    settings = loaded.settings
    errors += [
        f"{loaded.origins[f'{tokens.label(account)}.auth']}: {tokens.label(account)}.auth: "
        f"a library for OAuth2 is not installed: {tokens.INSTALL}"
        for account in settings.accounts
        if account.auth == "oauth2" and account.oauth and not account.oauth.token_command and not tokens.installed()
    ]
    for key, reference in _references(settings):
        if loaded.origins[key].endswith(")"):  # inherited, and told where it is written
            continue
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


def warn(loaded: Loaded, warnings: list[str], notes: list[str]) -> None:
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
    for mailbox in loaded.settings.mailboxes:
        _about_mailbox(mailbox, loaded, warnings)
    for key, secret in _secrets(loaded.settings):
        _about_secret(key, secret, loaded, warnings)
    for one in loaded.settings.accounts:
        _about_expiry(one, loaded, warnings)
    guard = loaded.settings.guard
    if guard.dry_run:
        notes.append("guard.dry_run: is true: nothing is sent, and every message ends as suppressed under failed/")
    elif guard.redirect_to:
        notes.append(f"guard.redirect_to: every mail goes to {guard.redirect_to}, and to nobody else")
    if account is None:
        notes.append("no outbound account is enabled: files wait in the spool")
        return
    at = f"outbound.{account.name}"
    if account.auth == "none" and (account.user or account.password):
        warnings.append(f'{at}.auth: is "none", so user and password are not used; remove them, or the line auth')
    _about_senders(account, at, loaded.settings, warnings)
    _about_tls(account, at, warnings)
    _about_port(account, at, {465: "tls", 587: "starttls", 25: "starttls"}, warnings)


def _about_mailbox(mailbox: InboundAccount, loaded: Loaded, warnings: list[str]) -> None:
    at = f"inbound.{mailbox.name}"
    theirs, ours = _domain(_plain(mailbox.user)), _domain(loaded.settings.reply_address)
    if theirs and ours and theirs != ours:
        warnings.append(
            f"{at}.user: its domain {theirs} is not {ours}, where answers go; "
            "`mailrelayd test --loop` proves that they arrive in this mailbox"
        )
    _about_trust(mailbox, at, warnings)
    _about_port(mailbox, at, {993: "tls", 143: "starttls"}, warnings)


def _about_port(account: Account, at: str, usual: dict[int, str], warnings: list[str]) -> None:
    level = usual.get(account.port or 0, "")
    if level and account.security in ("tls", "starttls") and account.security != level:
        warnings.append(f'{at}.port: {account.port} is usually security = "{level}", not "{account.security}"')


def _about_senders(account: OutboundAccount, at: str, settings: Settings, warnings: list[str]) -> None:
    """The domains of From, from_address and user: where they differ, servers refuse mail or receivers distrust it."""
    theirs, ours = _domain(_plain(account.user)), _domain(account.from_address)
    if theirs and ours and theirs != ours:
        warnings.append(
            f"{at}.from_address: its domain {ours} is not the user's {theirs}; "
            "many servers refuse that, or the mail fails SPF and DMARC"
        )
    if not ours or account.rewrite_from == "always":
        return
    for name, folder in settings.pickup.items():
        if others := sorted({_domain(pattern) for pattern in folder.allowed_senders} - {ours, "", "*"}):
            warnings.append(
                f"pickup.{name}.allowed_senders: {', '.join(others)} in From is not from_address's {ours}; "
                'many servers refuse that, or the mail fails DMARC: rewrite_from = "always" writes from_address there'
            )


def _plain(user: str) -> str:
    """The user's name, where it stands in the configuration itself."""
    kind, name = secrets.split(user)
    return name if kind == "text" else ""


def _domain(address: str) -> str:
    return address.rpartition("@")[2].lower() if "@" in address else ""


def _secrets(settings: Settings) -> Iterator[tuple[str, Secret]]:
    """Every key that holds a secret, also of mailboxes that are not read yet."""
    for account in settings.accounts:
        yield f"{tokens.label(account)}.password", account.password
        if account.oauth is not None:
            yield f"{tokens.label(account)}.oauth.client_secret", account.oauth.client_secret
    if settings.asking is not None:
        yield from (("approvals.secret", secret) for secret in settings.asking.secret)
    yield from ((f"decisions[{position}].secret", sink.secret) for position, sink in enumerate(settings.decisions, 1))


def _about_secret(key: str, secret: Secret, loaded: Loaded, warnings: list[str]) -> None:
    if not secret or secrets.split(secret)[0] != "text":
        return
    place = loaded.origins[key]
    if place.endswith(")"):  # inherited, and told where it is written
        return
    path = Path(place.rpartition(":")[0])
    if not place.startswith("environment ") and path.stat().st_mode & 0o004:
        cure = f"every user may read: chgrp it to the daemon's group and chmod 640 {path}"
        warnings.append(f"{key}: the secret itself is in {path}, which {cure}")
    else:
        shown = place if place.startswith("environment ") else path
        warnings.append(f'{key}: the secret itself is in {shown}; write "file:PATH" or "credential:NAME"')


def _about_expiry(account: Account, loaded: Loaded, warnings: list[str]) -> None:
    key = f"{tokens.label(account)}.oauth.client_secret_expires"
    expires = account.oauth.client_secret_expires if account.auth == "oauth2" and account.oauth else None
    today = datetime.fromtimestamp(SystemClock().now(), UTC).date()
    if expires is None or expiry.due(expires, today) is None or loaded.origins[key].endswith(")"):
        return
    left = expiry.days_left(expires, today)
    when = (
        f"ends on {expires}, in {left} days" if left > 0 else "ends today" if not left else f"has expired on {expires}"
    )
    warnings.append(f"{key}: the client secret {when}; make a new one, and correct the day")


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
    _about_trust(account, at, warnings)


def _about_trust(account: Account, at: str, warnings: list[str]) -> None:
    if not account.tls.verify and not account.tls.fingerprint:
        warnings.append(
            f"{at}.tls.verify: is false: any server may pose as this one; set fingerprint or ca_file instead"
        )
    if account.tls.minimum in ("1.0", "1.1"):
        warnings.append(
            f'{at}.tls.minimum: TLS {account.tls.minimum} is broken (RFC 8996); write "1.2" if the server can'
        )
