"""The sections about mail that goes out, from [node] and [spool] to [guard] and [outbound.NAME]."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, model_validator

from mailrelayd.config import checks
from mailrelayd.config.oauth import OAuth, token_rules
from mailrelayd.config.secrets import Secret
from mailrelayd.config.section import (
    Address,
    Directory,
    Duration,
    FileName,
    Host,
    Line,
    MaybeRate,
    Patterns,
    Port,
    Positive,
    PublicReference,
    Rule,
    SecretReference,
    Section,
    Size,
    raise_broken,
)

PORTS = {"none": 25, "starttls": 587, "tls": 465}  # RFC 5321 section 4.5.4.2, RFC 6409, RFC 8314
AUTO_PORTS = (465, 587, 25)  # tried in this order by security = "auto" where no port is set
MOST_ON_THEIR_WAY = 2000  # messages; each is an open file, and as many are read ahead (LimitNOFILE of the unit: 8192)
TLS_VERSIONS = ("1.0", "1.1", "1.2", "1.3")


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
    if account.auth == "oauth2":
        rules += token_rules("outbound", account.user, account.oauth)
    elif not account.user and (account.password or account.auth == "password"):
        because = "there is a password" if account.password else 'auth is "password"'
        rules.append(Rule("user", f"is missing: {because}; write both, or none of them", "password", "auth", "oauth"))
    if not account.password and (account.auth == "password"):
        because = "there is a user" if account.user else 'auth is "password"'
        rules.append(
            Rule(
                "password",
                f'is missing: {because}; write password = "file:PATH" or "credential:NAME", or set auth = "none"',
                "user",
                "auth",
                "oauth",
            )
        )
    if account.auth != "none" and account.security == "none":
        text = 'is "none", and a login is never sent in clear: write "starttls" or "tls", or auth = "none"'
        rules.append(Rule("security", text, "auth", "user"))
    if account.auth != "none" and account.allow_plaintext:
        text = 'is true, and a login is never sent in clear: set it to false, or auth = "none"'
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
    if account.connections * account.window > MOST_ON_THEIR_WAY:
        text = f"times connections is above {MOST_ON_THEIR_WAY} messages on their way at once: lower one of them"
        rules.append(Rule("window", text, "connections"))
    if account.rewrite_from in ("always", "if-missing") and not account.from_address:
        text = f'is missing: rewrite_from = "{account.rewrite_from}" needs the address to write'
        rules.append(Rule("from_address", text, "rewrite_from"))
    return rules


class Node(Section):
    """[node]: this machine among others."""

    name: Annotated[str, AfterValidator(checks.node_name)] | None = (
        None  # None: the name in STATE/node, else the host's
    )


class Spool(Section):
    """[spool]: where files come in and wait."""

    directory: Directory = Path("/var/spool/mailrelayd")
    backend: Annotated[Literal["disk"], BeforeValidator(checks.backend)] = "disk"
    envelope: Literal["headers", "pickup"] = "headers"
    settle: Duration = 2.0
    max_message_size: Annotated[Size, Field(gt=0)] = 50 * 2**20
    max_recipients: Annotated[int, Field(ge=1, le=100_000)] = 100
    keep_sent: Duration = 0.0
    keep_failed: Duration = 30 * 86_400.0
    results: bool = False
    min_free: Size = 100 * 2**20


class PickupFolder(Section):
    """[pickup.NAME]: a folder of its own for one producer, below pickup/."""

    group: Annotated[str, AfterValidator(checks.group)] = ""  # "": mailspool
    envelope: Literal["headers", "pickup"] = "headers"
    allowed_senders: Patterns = ()  # none: any


class Submit(Section):
    """[submit]: what `sendmail` and `submit` make of names without a domain."""

    default_domain: Annotated[str, AfterValidator(checks.domain)] = ""  # "": /etc/mailname, else the host's name
    local_recipient: Address = ""


class State(Section):
    """[state]: what is remembered besides the queue."""

    directory: Directory = Path("/var/lib/mailrelayd")
    keep_archive: Duration = 365 * 86_400.0
    keep_quarantine: Duration = 90 * 86_400.0
    keep_requests: Duration = 365 * 86_400.0


class Retry(Section):
    """[retry]: when a held route is probed, when a deferred message is tried again, when it is given up."""

    probe: Positive = 30.0
    message: Annotated[tuple[Positive, ...], Field(strict=False, min_length=1, max_length=100)] = (
        30.0,
        60.0,
        120.0,
        300.0,
        600.0,
        1800.0,
        3600.0,
    )  # seconds between tries; the last one repeats
    expire: Positive = 5 * 86_400.0
    dsn: bool = False


class Guard(Section):
    """[guard]: what keeps a staging machine from writing to customers, and a mad producer from writing to everybody."""

    redirect_to: Address = ""
    allow_recipients: Patterns = ()
    deny_recipients: Patterns = ()
    dry_run: bool = False
    rate: MaybeRate = None
    producer_rate: MaybeRate = None


class Tls(Section):
    """[outbound.NAME.tls]: what the server's side of a connection must prove."""

    minimum: Literal["1.0", "1.1", "1.2", "1.3"] = "1.2"
    maximum: Literal["", "1.0", "1.1", "1.2", "1.3"] = ""
    ca_file: FileName = ""
    certificate: FileName = ""
    key: FileName = ""
    server_name: Host = ""
    fingerprint: Annotated[str, AfterValidator(checks.fingerprint)] = ""  # lower-case hexadecimal digits, no colons
    verify: bool = True

    @model_validator(mode="after")
    def _agree(self) -> Self:
        raise_broken(tls_rules(self))
        return self


def usual_auth(keys: dict[str, Any]) -> Literal["none", "password", "oauth2"]:
    """How an account logs in that does not say it: as what is written for it."""
    if keys.get("oauth") and not keys.get("password"):
        return "oauth2"
    return "password" if keys.get("user") else "none"


class OutboundAccount(Section):
    """[outbound.NAME]: a smarthost and how to log in to it. `user` and `password` are references: see secrets."""

    enabled: bool = True
    protected: bool = False  # `config import` leaves it alone
    description: Line = ""
    security: Literal["tls", "starttls", "auto", "none"] = "starttls"
    host: Host = ""
    port: Port | None = Field(default_factory=lambda keys: PORTS.get(keys.get("security", "")))  # None: AUTO_PORTS
    allow_plaintext: bool = False
    user: PublicReference = ""
    password: SecretReference = Secret("")
    oauth: OAuth | None = None
    auth: Literal["none", "password", "oauth2"] = Field(default_factory=usual_auth)
    from_address: Address = ""
    rewrite_from: Literal["envelope", "always", "if-missing", "never"] = "envelope"
    connect_timeout: Positive = 10.0
    command_timeout: Positive = 60.0
    data_timeout: Positive = 600.0
    connections: Annotated[int, Field(ge=1, le=100)] = 1
    window: Annotated[int, Field(ge=1, le=100)] = 1
    strict_order: bool = False
    test_to: Address = ""
    tls: Tls = Tls()
    properties: dict[str, Any] = Field(default_factory=dict)  # spread over the keys above while the file is read

    _name: str = PrivateAttr(default="")

    @property
    def name(self) -> str:
        """The NAME of [outbound.NAME]."""
        return self._name

    @property
    def ports(self) -> tuple[int, ...]:
        """The ports to try, in this order."""
        return AUTO_PORTS if self.port is None else (self.port,)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        raise_broken(account_rules(self))
        return self
