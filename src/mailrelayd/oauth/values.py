"""A token, and why there is none. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

LONGEST_MARGIN: Final = 300.0  # seconds
ASSUMED_LIFE: Final = 3600.0  # seconds, where the provider does not tell

Kind = Literal["configuration", "refused", "consent", "temporary"]


class OAuthError(Exception):
    """No token can be had. `text` says why in words for people: one line, no secret.

    `kind`: "configuration": something here has to be corrected; "refused": the provider does not let this application
    in; "consent": somebody has to log in, by `mailrelayd authorize`; "temporary": the same may work later.
    `code` is the provider's own: AADSTS7000215, invalid_grant, ... or "".
    """

    def __init__(self, text: str, *, kind: Kind, code: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.kind: Kind = kind
        self.code = code


@dataclass(frozen=True, slots=True)
class Token:
    """What a provider gave. Times are seconds since the epoch by our own clock, never the provider's."""

    access_token: str = field(repr=False)
    obtained_at: float  # when it was asked for
    expires_at: float
    refresh_token: str = field(default="", repr=False)
    scope: str = ""  # as granted, in words separated by spaces; "": not told
    asked: tuple[str, ...] = ()  # the scopes it was asked with

    @property
    def margin(self) -> float:
        """Seconds before its end at which it is renewed."""
        return min(LONGEST_MARGIN, max(self.expires_at - self.obtained_at, 0.0) / 10)

    def is_valid(self, now: float) -> bool:
        """Whether it can still be used. A clock that was set back to before it was asked for makes it unknown: no."""
        return self.obtained_at - LONGEST_MARGIN <= now < self.expires_at

    def is_fresh(self, now: float) -> bool:
        """Whether it need not be renewed yet."""
        return self.is_valid(now) and now < self.expires_at - self.margin
