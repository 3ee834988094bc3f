"""The whole configuration: frozen models whose attributes are named like the keys.

Durations are float seconds, sizes are int bytes, a text that is not set is "". What a single key may hold stands in
its type and in `checks`; what several keys must agree on stands in functions that return `Rule`s, so that all of them
are told at once. No message repeats a value: a secret may have been written under the wrong key.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from mailrelayd.config import checks
from mailrelayd.config.answering import LONGEST_REPLY_NAME, Approvals, Decisions, InboundAccount, InboundDefaults
from mailrelayd.config.relaying import Guard, Node, OutboundAccount, PickupFolder, Retry, Spool, State, Submit
from mailrelayd.config.section import AccountName, Address, ProducerName, Rule, Section, raise_broken


def root_rules(enabled: list[str]) -> list[Rule]:
    """What accounts must agree on; `enabled` names the enabled ones in the order they are written."""
    if len(enabled) < 2:
        return []
    names = " and ".join(f'"{name}"' for name in enabled)
    return [Rule("outbound", f"{names} are both enabled: set enabled = false in all but one")]


def loop_rules(settings: Settings) -> list[Rule]:
    """What the sections of the approval loop must agree on."""
    rules = []
    asking = settings.asking
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
        if not mailbox.enabled or mailbox.auth == "oauth2":  # which has rules of its own
            continue
        if not mailbox.user:
            text = f'"{name}" has no user, and no enabled outbound account has one: write user and password'
            rules.append(Rule("inbound", text, "outbound"))
        elif not mailbox.password:
            text = f'"{name}" has no password, and no enabled outbound account has one: write it'
            rules.append(Rule("inbound", text, "outbound"))
    names = [sink.name for sink in settings.decisions]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        rules.append(Rule("decisions", f'has two tables with the name "{twice}": each needs its own'))
    return rules


class Log(Section):
    """[log]: what the daemon prints."""

    format: Literal["auto", "text", "json", "logfmt"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"
    syslog: Annotated[str, BeforeValidator(checks.syslog)] = ""  # the socket's path; "": none
    protocol_debug: bool = False


class Alerts(Section):
    """[alerts]: who hears of it when something needs a person."""

    to: Annotated[Address, AfterValidator(checks.plain)] = ""
    ping_url: Annotated[str, AfterValidator(checks.ping)] = ""


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
    alerts: Alerts = Alerts()

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
    def accounts(self) -> tuple[OutboundAccount | InboundAccount, ...]:
        """Every enabled account, the outbound one first: it is the one that others inherit from."""
        return self.mailboxes if self.account is None else (self.account, *self.mailboxes)

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
        raise_broken(root_rules([name for name, account in self.outbound.items() if account.enabled]))
        raise_broken(loop_rules(self))
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
