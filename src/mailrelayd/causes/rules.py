"""A line of the tables of causes: which errors it explains, and how. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cause:
    """What is wrong, in one sentence, what to do about it, in another, and the key to change ("" for none of ours).

    `line` is both in one, for the end of a line of the log. `said`: the error's own words, which are ours then, hold
    both already.
    """

    text: str
    cure: str
    setting: str = ""
    line: str = ""
    said: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """An error is explained where everything that is given here fits; a `token` rule needs a login with a token."""

    pattern: re.Pattern[str]  # searched in "CODE TEXT"
    text: str  # a sentence without its capital and its full stop
    cure: str  # another
    setting: str = ""  # below the account: "password", "oauth.client_secret"
    protocols: frozenset[str] = frozenset()  # empty: all
    stages: frozenset[str] = frozenset()  # empty: all
    provider: str = ""  # "": all, and accounts with a password
    token: bool | None = None  # None: whatever the login is
    said: bool = False

    def applies(self, protocol: str, stage: str, said: str, provider: str) -> bool:
        """Whether this is the line for an error."""
        return (
            (not self.protocols or protocol in self.protocols)
            and (not self.stages or stage in self.stages)
            and (not self.provider or provider == self.provider)
            and (self.token is None or self.token == bool(provider))
            and self.pattern.search(said) is not None
        )

    def cause(self, account: str, *, tls: str, starttls: str) -> Cause:
        """What it says about this account."""
        words = {"account": account or "NAME", "tls": tls, "starttls": starttls}
        setting = f"{account}.{self.setting}" if account and self.setting else self.setting
        text, cure = self.text.format(**words), self.cure.format(**words)
        return Cause(_sentence(text), _sentence(cure), setting, f"{text}: {cure}", self.said)


def rule(
    pattern: str,
    text: str,
    cure: str,
    setting: str = "",
    *,
    on: str = "",
    at: Iterable[str] = (),
    provider: str = "",
    token: bool | None = None,
    said: bool = False,
) -> Rule:
    """A line of a table. `on`: the protocols, separated by blanks; the pattern is searched in any case."""
    compiled = re.compile(pattern, re.IGNORECASE)
    return Rule(compiled, text, cure, setting, frozenset(on.split()), frozenset(at), provider, token, said)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
