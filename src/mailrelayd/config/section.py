"""What one section of the configuration is made of: the types of its keys, and the rules that keys must agree on."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, PlainValidator

from mailrelayd.config import checks, secrets, units
from mailrelayd.config.secrets import Secret


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
Day = Annotated[
    date | None,
    BeforeValidator(checks.day),
    PlainSerializer(lambda day: day.isoformat() if day else "", return_type=str, when_used="json"),
]
Words = Annotated[tuple[Line, ...], Field(strict=False)]
Addresses = Annotated[tuple[Address, ...], Field(strict=False)]
Patterns = Annotated[tuple[Annotated[str, AfterValidator(checks.pattern)], ...], Field(strict=False)]


class Section(BaseModel):
    """One table of the file: no key besides those named, no conversion between types, no change afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)
