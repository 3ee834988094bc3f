"""What the configuration may say: frozen models whose attributes are named like the keys.

Durations are float seconds, sizes are int bytes, a text that is not set is "". What a single key may hold stands in
its type and in `checks`; what several keys must agree on stands in functions that return `Rule`s, so that all of
them are told at once. No message repeats a value: a secret may have been written under the wrong key.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from mailrelayd.config import checks, secrets, units
from mailrelayd.config.secrets import Secret

PORTS = {"none": 25, "starttls": 587, "tls": 465}  # RFC 5321 section 4.5.4.2, RFC 6409, RFC 8314
AUTO_PORTS = (465, 587, 25)  # tried in this order by security = "auto" where no port is set
TLS_VERSIONS = ("1.0", "1.1", "1.2", "1.3")


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


Duration = Annotated[
    float, BeforeValidator(units.duration), PlainSerializer(units.write_duration, return_type=str, when_used="json")
]
Positive = Annotated[Duration, AfterValidator(checks.positive)]
MaybeRate = Annotated[
    units.Rate | None,
    BeforeValidator(units.rate),
    PlainSerializer(units.write_rate, return_type=str, when_used="json"),
]
Size = Annotated[int, BeforeValidator(units.size), PlainSerializer(units.write_size, return_type=str, when_used="json")]
Line = Annotated[str, AfterValidator(checks.one_line)]
Host = Annotated[str, AfterValidator(checks.host)]
Address = Annotated[str, AfterValidator(checks.address)]
Directory = Annotated[Path, BeforeValidator(checks.path)]
FileName = Annotated[str, AfterValidator(checks.absolute)]
Port = Annotated[int, Field(ge=1, le=65535)]
SecretReference = Annotated[
    Secret, PlainValidator(checks.secret), PlainSerializer(secrets.describe, return_type=str, when_used="json")
]
PublicReference = Annotated[
    Line, AfterValidator(checks.reference), PlainSerializer(secrets.describe_public, return_type=str, when_used="json")
]
AccountName = Annotated[str, AfterValidator(checks.account_name)]
ProducerName = Annotated[str, AfterValidator(checks.producer_name)]
Patterns = Annotated[tuple[Annotated[str, AfterValidator(checks.pattern)], ...], Field(strict=False)]


def _raise(rules: list[Rule]) -> None:
    if rules:
        raise RulesError(rules)


def root_rules(enabled: list[str]) -> list[Rule]:
    """What accounts must agree on; `enabled` names the enabled ones in the order they are written."""
    if len(enabled) < 2:
        return []
    names = " and ".join(f'"{name}"' for name in enabled)
    return [Rule("outbound", f"{names} are both enabled: set enabled = false in all but one")]


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


class Section(BaseModel):
    """One table of the file: no key besides those named, no conversion between types, no change afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


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
        _raise(tls_rules(self))
        return self


class OutboundAccount(Section):
    """[outbound.NAME]: a smarthost and how to log in to it. `user` and `password` are references: see secrets."""

    enabled: bool = True
    description: Line = ""
    security: Literal["tls", "starttls", "auto", "none"] = "starttls"
    host: Host = ""
    port: Port | None = Field(default_factory=lambda keys: PORTS.get(keys.get("security", "")))  # None: AUTO_PORTS
    allow_plaintext: bool = False
    user: PublicReference = ""
    password: SecretReference = Secret("")
    auth: Annotated[Literal["none", "password"], BeforeValidator(checks.auth)] = Field(
        default_factory=lambda keys: "password" if keys.get("user") else "none"
    )
    from_address: Address = ""
    rewrite_from: Literal["envelope", "always", "if-missing", "never"] = "envelope"
    connect_timeout: Positive = 10.0
    command_timeout: Positive = 60.0
    data_timeout: Positive = 600.0
    connections: Annotated[int, Field(ge=1, le=100)] = 1
    window: Annotated[int, Field(ge=1), AfterValidator(checks.window)] = 1
    strict_order: bool = False
    tls: Tls = Tls()

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
        _raise(account_rules(self))
        return self


class Log(Section):
    """[log]: what the daemon prints."""

    format: Literal["auto", "text", "json", "logfmt"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"
    syslog: Annotated[str, BeforeValidator(checks.syslog)] = ""  # the socket's path; "": none
    protocol_debug: bool = False


class Settings(BaseSettings):
    """The whole configuration. Built by `load()`: reading files and the environment is not this class's work."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, strict=True, hide_input_in_errors=True, validate_default=False
    )

    node: Node = Node()
    spool: Spool = Spool()
    pickup: dict[ProducerName, PickupFolder] = {}
    submit: Submit = Submit()
    state: State = State()
    retry: Retry = Retry()
    guard: Guard = Guard()
    outbound: dict[AccountName, OutboundAccount] = {}
    log: Log = Log()

    @property
    def account(self) -> OutboundAccount | None:
        """The enabled outbound account; None: files wait."""
        return next((account for account in self.outbound.values() if account.enabled), None)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        for name, account in self.outbound.items():
            account._name = name
        _raise(root_rules([name for name, account in self.outbound.items() if account.enabled]))
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # The environment is read by load(): pydantic-settings takes an unknown variable for none, and blames files.
        return (init_settings,)


def section_of(annotation: object) -> type[BaseModel] | None:
    """The model behind a field that is a section, else None."""
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def named_sections_of(annotation: object) -> type[BaseModel] | None:
    """The model behind a field that is a group of sections with free names ([outbound.NAME]), else None."""
    return section_of(get_args(annotation)[1]) if get_origin(annotation) is dict else None


def known_keys(model: type[BaseModel] = Settings, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every key there is, in the order of the file; a free name is `NAME`."""
    for name, field in model.model_fields.items():
        inner = section_of(field.annotation)
        if inner is not None:
            yield from known_keys(inner, (*prefix, name))
        elif (inner := named_sections_of(field.annotation)) is not None:
            yield from known_keys(inner, (*prefix, name, "NAME"))
        else:
            yield (*prefix, name)


def flatten(settings: Settings, *, written: bool = False) -> dict[str, Any]:
    """Every key in force and its value, `outbound.smarthost.port` -> 587, in the order of the sections.

    `written`: as it would be written in the file, durations as "30s" and secrets as their masked reference.
    """
    flat: dict[str, Any] = {}

    def add(table: dict[str, Any], prefix: str) -> None:
        for name, value in table.items():
            if isinstance(value, dict):
                add(value, f"{prefix}{name}.")
            else:
                flat[prefix + name] = value

    add(settings.model_dump(mode="json" if written else "python"), "")
    return flat
