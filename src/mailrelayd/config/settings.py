"""What the configuration may say: frozen models whose attributes are named like the keys.

Durations are float seconds, sizes are int bytes, a text that is not set is "". What a single key may hold stands in
its type and in `checks`; what several keys must agree on stands in `rules`. No message repeats a value: a secret may
have been written under the wrong key.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import NoneType, UnionType
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

from mailrelayd.config import checks, rules, secrets, units
from mailrelayd.config.secrets import Secret

PORTS = {"none": 25, "starttls": 587, "tls": 465}  # RFC 5321 section 4.5.4.2, RFC 6409, RFC 8314
AUTO_PORTS = (465, 587, 25)  # tried in this order by security = "auto" where no port is set
INBOUND_PORTS = {"tls": 993, "starttls": 143, "none": 143}  # RFC 8314, RFC 9051 section 2
INBOUND_AUTO_PORTS = (993, 143)  # tried in this order by security = "auto" where no port is set


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
SecretReferences = Annotated[
    tuple[Secret, ...],
    PlainValidator(checks.secret_list),
    PlainSerializer(lambda all_: [secrets.describe(one) for one in all_], return_type=list[str], when_used="json"),
]
Moment = Annotated[
    datetime | None,
    BeforeValidator(checks.moment),
    PlainSerializer(lambda at: at.isoformat() if at else "", return_type=str, when_used="json"),
]
Words = Annotated[tuple[Line, ...], Field(strict=False)]
Addresses = Annotated[tuple[Address, ...], Field(strict=False)]
Patterns = Annotated[tuple[Annotated[str, AfterValidator(checks.pattern)], ...], Field(strict=False)]


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
        rules.raise_broken(rules.tls_rules(self))
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
        rules.raise_broken(rules.account_rules(self))
        return self


class InboundDefaults(Section):
    """[inbound_defaults], and what [inbound.NAME] may say again: how mailboxes are read."""

    create_folder: bool = False
    connect_timeout: Positive = 10.0
    command_timeout: Positive = 60.0
    poll_interval: Annotated[Duration, AfterValidator(checks.poll_interval)] = 300.0
    batch_size: Annotated[int, Field(ge=1, le=10_000)] = 30
    idle: bool = True
    process_after: Moment = None
    ignore_older_than: Duration = 0.0
    after: Annotated[str, AfterValidator(checks.after)] = "delete"
    delete_after: Duration = 0.0
    adopt: Literal["refuse", "new-only", "all"] = "refuse"
    unmatched: Literal["leave", "quarantine", "delete"] = "leave"
    max_message_size: Annotated[Size, Field(gt=0)] = 25 * 2**20


class InboundAccount(InboundDefaults):
    """[inbound.NAME]: a mailbox that answers come to. User and password left out are the outbound account's."""

    enabled: bool = True
    description: Line = ""
    protocol: Annotated[Literal["imap"], BeforeValidator(checks.protocol)] = "imap"
    security: Literal["tls", "starttls", "auto", "none"] = "tls"
    host: Host = ""
    port: Port | None = Field(default_factory=lambda keys: INBOUND_PORTS.get(keys.get("security", "")))
    allow_plaintext: bool = False
    auth: Annotated[Literal["password"], BeforeValidator(checks.auth)] = "password"
    user: PublicReference = ""
    password: SecretReference = Secret("")
    folder: Annotated[Line, Field(min_length=1)] = "INBOX"
    tls: Tls = Tls()

    _name: str = PrivateAttr(default="")

    @property
    def name(self) -> str:
        """The NAME of [inbound.NAME]."""
        return self._name

    @property
    def ports(self) -> tuple[int, ...]:
        """The ports to try, in this order."""
        return INBOUND_AUTO_PORTS if self.port is None else (self.port,)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        rules.raise_broken(rules.inbound_rules(self))
        return self


class Approvals(Section):
    """[approvals]: how requests are sent and answers are judged."""

    enabled: bool = True
    reply_address: Address = ""  # "": the outbound account's from_address
    subaddressing: bool = True
    subaddress_separator: Annotated[str, AfterValidator(checks.separator)] = "+"
    subject_tag: bool = False
    secret: SecretReferences = ()
    expire: Positive = 14 * 86_400.0
    sender_check: Literal["", "authentication-results", "dkim", "microsoft-365", "token-only"] = ""
    authserv_id: Annotated[tuple[Line, ...], Field(strict=False)] = ()
    via_list: bool = False
    approve: Words = ()
    reject: Words = ()
    same_line_comment: bool = False
    require_bare_approval: bool = False
    boilerplate: Annotated[tuple[str, ...], Field(strict=False)] = ()
    mark_body: bool = False
    receipts: Literal["none", "unclear", "all"] = "none"
    remind: Annotated[tuple[Positive, ...], Field(strict=False, max_length=20)] = ()
    delegates: dict[Address, Addresses] = {}

    @model_validator(mode="after")
    def _agree(self) -> Self:
        rules.raise_broken(rules.approvals_rules(self))
        return self


class Decisions(Section):
    """[[decisions]]: where decisions about some requests go, and who may open and answer these."""

    name: Annotated[str, AfterValidator(checks.sink_name)] = ""
    match: Line = ""
    producers: Annotated[tuple[Line, ...], Field(strict=False)] = ()
    approvers: Patterns = ()
    directory: FileName = ""
    group: Annotated[str, AfterValidator(checks.group)] = ""
    webhook: Annotated[str, AfterValidator(checks.webhook)] = ""
    secret: SecretReference = Secret("")
    command: Annotated[tuple[str, ...], Field(strict=False), AfterValidator(checks.command)] = ()
    headers: Annotated[tuple[Annotated[str, AfterValidator(checks.field_name)], ...], Field(strict=False)] = ()
    required: bool = True

    @model_validator(mode="after")
    def _agree(self) -> Self:
        rules.raise_broken(rules.decision_rules(self))
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
    inbound_defaults: InboundDefaults = InboundDefaults()
    inbound: dict[AccountName, InboundAccount] = {}
    approvals: Approvals | None = None
    decisions: Annotated[tuple[Decisions, ...], Field(strict=False)] = ()
    log: Log = Log()

    @property
    def account(self) -> OutboundAccount | None:
        """The enabled outbound account; None: files wait."""
        return next((account for account in self.outbound.values() if account.enabled), None)

    @property
    def asking(self) -> Approvals | None:
        """[approvals], where they are enabled."""
        return self.approvals if self.approvals is not None and self.approvals.enabled else None

    @property
    def mailboxes(self) -> tuple[InboundAccount, ...]:
        """The enabled inbound accounts."""
        return tuple(account for account in self.inbound.values() if account.enabled)

    @property
    def reply_address(self) -> str:
        """Where answers go: [approvals] reply_address, else the outbound account's from_address."""
        written = self.approvals.reply_address if self.approvals is not None else ""
        return written or (self.account.from_address if self.account is not None else "")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        for name, account in self.outbound.items():
            account._name = name
        for name, mailbox in self.inbound.items():
            mailbox._name = name
        rules.raise_broken(rules.root_rules([name for name, account in self.outbound.items() if account.enabled]))
        rules.raise_broken(rules.loop_rules(self))
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
    """The model behind a field that is a section, one that may be missing too; else None."""
    if get_origin(annotation) is UnionType:
        annotation = next((one for one in get_args(annotation) if one is not NoneType), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def named_sections_of(annotation: object) -> type[BaseModel] | None:
    """The model behind a field that is a group of sections with free names ([outbound.NAME]), else None."""
    return section_of(get_args(annotation)[1]) if get_origin(annotation) is dict else None


def listed_section_of(annotation: object) -> type[BaseModel] | None:
    """The model behind a field that is a list of tables ([[decisions]]), else None."""
    return section_of(get_args(annotation)[0]) if get_origin(annotation) is tuple else None


def known_keys(model: type[BaseModel] = Settings, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every key there is, in the order of the file; a free name is `NAME`."""
    for name, field in model.model_fields.items():
        inner = section_of(field.annotation)
        if inner is not None:
            yield from known_keys(inner, (*prefix, name))
        elif (inner := named_sections_of(field.annotation)) is not None:
            yield from known_keys(inner, (*prefix, name, "NAME"))
        elif (inner := listed_section_of(field.annotation)) is not None:
            yield from known_keys(inner, (*prefix, name, "[1]"))
        else:
            yield (*prefix, name)


def flatten(settings: Settings, *, written: bool = False) -> dict[str, Any]:
    """Every key in force and its value, `outbound.smarthost.port` -> 587, in the order of the sections.

    `written`: as it would be written in the file, durations as "30s" and secrets as their masked reference.
    """
    flat: dict[str, Any] = {}

    def add(table: dict[str, Any], prefix: str) -> None:
        for part, value in table.items():
            name = part if part.replace("_", "").replace("-", "").isalnum() else f'"{part}"'
            if isinstance(value, dict):
                add(value, f"{prefix}{name}.")
            elif isinstance(value, (list, tuple)) and value and all(isinstance(one, dict) for one in value):
                for position, one in enumerate(value, 1):
                    add(one, f"{prefix}{name}[{position}].")
            elif prefix or value:  # [approvals] and [[decisions]] may be missing
                flat[prefix + name] = value

    add(settings.model_dump(mode="json" if written else "python"), "")
    return flat
