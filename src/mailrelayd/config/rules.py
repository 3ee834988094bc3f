"""What several keys of the configuration must agree on: functions that return every `Rule` a section breaks.

All of them are told at once, each under the key to change. No text repeats a value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mailrelayd.config.settings import (
        Approvals,
        Decisions,
        InboundAccount,
        OutboundAccount,
        Settings,
        Tls,
    )

TLS_VERSIONS = ("1.0", "1.1", "1.2", "1.3")
LONGEST_REPLY_NAME = 64 - 1 - 44  # octets: a local part (RFC 5321 section 4.5.3.1.1) less separator and token


class Rule:
    """One thing that keys of a section must agree on and do not. `key` and `reads` are names in that section."""

    __slots__ = ("key", "reads", "text")

    def __init__(self, key: str, text: str, *reads: str) -> None:
        self.key = key
        self.text = text
        self.reads = frozenset((key, *reads))


class RulesError(ValueError):
    """Every `Rule` a section breaks, at once."""

    def __init__(self, rules: list[Rule]) -> None:
        super().__init__("; ".join(f"{rule.key}: {rule.text}" for rule in rules))
        self.rules = rules


def raise_broken(rules: list[Rule]) -> None:
    """Raise RulesError if there are any."""
    if rules:
        raise RulesError(rules)


def root_rules(enabled: list[str]) -> list[Rule]:
    """What accounts must agree on; `enabled` names the enabled ones in the order they are written."""
    if len(enabled) < 2:
        return []
    names = " and ".join(f'"{name}"' for name in enabled)
    return [Rule("outbound", f"{names} are both enabled: set enabled = false in all but one")]


def loop_rules(settings: Settings) -> list[Rule]:
    """What the sections of the approval loop must agree on."""
    rules = []
    asking, account = settings.asking, settings.account
    if asking is not None and not settings.mailboxes:
        text = "are enabled, and nobody reads the answers: write an [inbound.NAME] section, or enabled = false"
        rules.append(Rule("approvals", text, "inbound"))
    if asking is not None and not settings.reply_address:
        text = "need an address that answers go to: write reply_address, or from_address in [outbound.NAME]"
        rules.append(Rule("approvals", text, "outbound"))
    if asking is not None and not asking.reply_address and asking.subaddressing:
        name = settings.reply_address.rpartition("@")[0]
        if len(name.encode()) > LONGEST_REPLY_NAME:
            text = (
                f"need a reply_address of at most {LONGEST_REPLY_NAME} bytes in front of the @: from_address has more"
            )
            rules.append(Rule("approvals", text, "outbound"))
    for name, mailbox in settings.inbound.items():
        login = mailbox if mailbox.user else account
        if mailbox.enabled and not (login and login.user):
            text = f'"{name}" has no user, and no enabled outbound account has one: write user and password'
            rules.append(Rule("inbound", text, "outbound"))
        elif mailbox.enabled and not (mailbox.password or (account and account.password)):
            text = f'"{name}" has no password, and no enabled outbound account has one: write it'
            rules.append(Rule("inbound", text, "outbound"))
    names = [sink.name for sink in settings.decisions]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        rules.append(Rule("decisions", f'has two tables with the name "{twice}": each needs its own'))
    return rules


def tls_rules(tls: Tls) -> list[Rule]:
    """What the keys of a `tls` section must agree on."""
    rules = []
    if tls.maximum and TLS_VERSIONS.index(tls.maximum) < TLS_VERSIONS.index(tls.minimum):
        rules.append(Rule("maximum", "is below minimum: raise it, or leave it out", "minimum"))
    if tls.certificate and not tls.key:
        rules.append(Rule("key", "is missing: a certificate needs key, the file of its private key", "certificate"))
    if tls.key and not tls.certificate:
        rules.append(Rule("certificate", "is missing: a key needs certificate, the file it belongs to", "key"))
    return rules


def account_rules(account: OutboundAccount) -> list[Rule]:
    """What the keys of an account must agree on, and which of them cannot be left out."""
    rules = []
    if not account.host:
        rules.append(Rule("host", 'is missing: write the server\'s name, such as host = "smtp.example.com"'))
    if not account.user and (account.password or account.auth == "password"):
        because = "there is a password" if account.password else 'auth is "password"'
        rules.append(Rule("user", f"is missing: {because}; write both, or none of them", "password", "auth"))
    if not account.password and (account.auth == "password"):
        because = "there is a user" if account.user else 'auth is "password"'
        rules.append(
            Rule(
                "password",
                f'is missing: {because}; write password = "file:PATH" or "credential:NAME", or set auth = "none"',
                "user",
                "auth",
            )
        )
    if account.auth == "password" and account.security == "none":
        text = 'is "none", and a password is never sent in clear: write "starttls" or "tls", or auth = "none"'
        rules.append(Rule("security", text, "auth", "user"))
    if account.auth == "password" and account.allow_plaintext:
        text = 'is true, and a password is never sent in clear: set it to false, or auth = "none"'
        rules.append(Rule("allow_plaintext", text, "auth", "user"))
    if account.allow_plaintext and account.tls.fingerprint:
        text = "is true, and in plain text no server can show the certificate of tls.fingerprint: leave one of them out"
        rules.append(Rule("allow_plaintext", text))
    if account.strict_order and account.connections > 1:
        text = "is above 1, and strict_order needs one connection: set it to 1, or strict_order to false"
        rules.append(Rule("connections", text, "strict_order"))
    if account.strict_order and account.window > 1:
        text = "is above 1, and strict_order needs one body at a time: set it to 1, or strict_order to false"
        rules.append(Rule("window", text, "strict_order"))
    if account.rewrite_from in ("always", "if-missing") and not account.from_address:
        text = f'is missing: rewrite_from = "{account.rewrite_from}" needs the address to write'
        rules.append(Rule("from_address", text, "rewrite_from"))
    return rules


def inbound_rules(account: InboundAccount) -> list[Rule]:
    """What the keys of an inbound account must agree on, and which of them cannot be left out."""
    rules = []
    if not account.host:
        rules.append(Rule("host", 'is missing: write the server\'s name, such as host = "imap.example.com"'))
    if account.security == "none" and not account.allow_plaintext:
        text = 'is "none", and a password is sent at every login: write "tls" or "starttls"'
        rules.append(Rule("security", text, "allow_plaintext"))
    if account.delete_after and account.after != "delete":
        rules.append(Rule("delete_after", 'has a meaning only with after = "delete": leave one of them out', "after"))
    return rules


def approvals_rules(approvals: Approvals) -> list[Rule]:
    """What the keys of [approvals] must agree on, and which of them cannot be left out."""
    rules = []
    if approvals.enabled and not approvals.sender_check:
        text = (
            'is missing, and there is no safe default: write "authentication-results" (with authserv_id), "dkim", '
            '"microsoft-365", or "token-only" if whoever holds a token may decide'
        )
        rules.append(Rule("sender_check", text))
    if approvals.enabled and not approvals.secret:
        text = (
            'is missing: write secret = "credential:NAME" or "file:PATH"; `mailrelayd approvals new-secret` makes one'
        )
        rules.append(Rule("secret", text))
    if approvals.sender_check == "authentication-results" and not approvals.authserv_id:
        text = "is missing: name the server whose Authentication-Results count, as they name it"
        rules.append(Rule("authserv_id", text, "sender_check"))
    if approvals.subaddressing and len(approvals.reply_address.rpartition("@")[0].encode()) > LONGEST_REPLY_NAME:
        text = f"has more than {LONGEST_REPLY_NAME} bytes in front of the @, and a token must fit behind them: "
        rules.append(Rule("reply_address", text + "write a shorter one, or subaddressing = false", "subaddressing"))
    if both := {word.casefold() for word in approvals.approve} & {word.casefold() for word in approvals.reject}:
        rules.append(Rule("reject", f"and approve share {len(both)} word(s): each may stand in one of them", "approve"))
    return rules


def decision_rules(sink: Decisions) -> list[Rule]:
    """What the keys of a [[decisions]] table must agree on, and which of them cannot be left out."""
    rules = [
        Rule(key, f"is missing: {what}")
        for key, what in (
            ("name", 'write name = "erp", say'),
            ("match", 'write match = "PO-*", say, for the request ids it is about'),
            ("producers", "name the users or groups whose files may open such requests"),
            ("approvers", 'say who may be asked, such as approvers = ["*@example.com"]'),
        )
        if not getattr(sink, key)
    ]
    if sum(map(bool, (sink.directory, sink.webhook, sink.command))) > 1:
        rules.append(Rule("name", "has more than one of directory, webhook and command: write one table for each"))
    if sink.webhook and not sink.secret:
        text = "is missing: a webhook's receiver must be able to tell who calls; openssl rand -base64 32 makes one"
        rules.append(Rule("secret", text, "webhook"))
    if sink.secret and not sink.webhook:
        rules.append(Rule("secret", "has a meaning only with webhook: remove it", "webhook"))
    if sink.group and (sink.webhook or sink.command):
        rules.append(Rule("group", "has a meaning only for a directory: remove it", "webhook", "command"))
    return rules
