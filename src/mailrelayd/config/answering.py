"""The sections about mail that comes in: [inbound.NAME], [approvals], [[decisions]]."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, model_validator

from mailrelayd.config import checks
from mailrelayd.config.oauth import OAuth, token_rules
from mailrelayd.config.relaying import Tls
from mailrelayd.config.secrets import Secret
from mailrelayd.config.section import (
    Address,
    Addresses,
    Duration,
    FileName,
    Host,
    Line,
    Moment,
    Patterns,
    Port,
    Positive,
    PublicReference,
    Rule,
    SecretReference,
    SecretReferences,
    Section,
    Size,
    Words,
    raise_broken,
)

INBOUND_PORTS = {"tls": 993, "starttls": 143, "none": 143}  # RFC 8314, RFC 9051 section 2
INBOUND_AUTO_PORTS = (993, 143)  # tried in this order by security = "auto" where no port is set
LONGEST_REPLY_NAME = 64 - 1 - 44  # octets: a local part (RFC 5321 section 4.5.3.1.1) less separator and token


def inbound_rules(account: InboundAccount) -> list[Rule]:
    """What the keys of an inbound account must agree on, and which of them cannot be left out."""
    rules = []
    if not account.host:
        rules.append(Rule("host", 'is missing: write the server\'s name, such as host = "imap.example.com"'))
    if account.security == "none" and not account.allow_plaintext:
        text = 'is "none", and a password is sent at every login: write "tls" or "starttls"'
        rules.append(Rule("security", text, "allow_plaintext"))
    if account.enabled and account.auth == "oauth2":
        rules += token_rules("inbound", account.user, account.oauth)
    if account.delete_after and account.after != "delete":
        rules.append(Rule("delete_after", 'has a meaning only with after = "delete": leave one of them out', "after"))
    target = account.after.removeprefix("move:")
    if target != account.after and (target == account.folder or target.upper() == account.folder.upper() == "INBOX"):
        rules.append(Rule("after", "moves mail into the folder that is read: name another one", "folder"))
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
            ("approvers", 'say who may be asked, such as approvers = ["@example.com"]'),
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
    """[inbound.NAME]: a mailbox that answers come to. How to log in is the outbound account's where it is left out."""

    enabled: bool = True
    protected: bool = False  # `config import` leaves it alone
    description: Line = ""
    protocol: Annotated[Literal["imap"], BeforeValidator(checks.protocol)] = "imap"
    security: Literal["tls", "starttls", "auto", "none"] = "tls"
    host: Host = ""
    port: Port | None = Field(default_factory=lambda keys: INBOUND_PORTS.get(keys.get("security", "")))
    allow_plaintext: bool = Field(default_factory=lambda keys: checks.is_this_machine(keys.get("host", "")))
    user: PublicReference = ""
    password: SecretReference = Secret("")
    oauth: OAuth | None = None
    auth: Literal["password", "oauth2"] = "password"  # what is inherited is filled in while the file is read
    folder: Annotated[Line, Field(min_length=1)] = "INBOX"
    tls: Tls = Tls()
    properties: dict[str, Any] = Field(default_factory=dict)  # spread over the keys above while the file is read

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
        raise_broken(inbound_rules(self))
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
    delegates: dict[Address, Addresses] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        raise_broken(approvals_rules(self))
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
        raise_broken(decision_rules(self))
        return self
