"""What a local token server remembers: who may do what, by which tokens, and until when."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Grant:
    """What somebody allowed an application; access tokens and refresh tokens stand for it."""

    user: str
    client_id: str
    scope: str
    protocols: frozenset[str]  # "smtp" and "imap", as far as audience and scope are right for them
    audience: str = ""
    revoked: bool = False
    refresh_token: str = ""  # the one that is good now


@dataclass
class Issued:
    """All tokens of one server. A refresh token used twice revokes its grant, as RFC 9700 section 4.14 advises."""

    access: dict[str, tuple[Grant, float]] = field(default_factory=dict)  # token -> grant, when it ends
    refresh: dict[str, Grant] = field(default_factory=dict)  # used ones too
    reused: list[str] = field(default_factory=list)

    def remember(self, token: str, grant: Grant, until: float) -> str:
        """An access token from now on."""
        self.access[token] = (grant, until)
        return token

    def renewable(self, grant: Grant) -> str:
        """A fresh refresh token for it."""
        grant.refresh_token = f"refresh-{secrets.token_urlsafe(24)}"
        self.refresh[grant.refresh_token] = grant
        return grant.refresh_token

    def take(self, refresh_token: str) -> Grant | None:
        """Whose it is; None: nobody's, revoked, or used before."""
        grant = self.refresh.get(refresh_token)
        if grant is None or grant.revoked:
            return None
        if grant.refresh_token != refresh_token:
            self.reused.append(refresh_token)
            grant.revoked = True
            return None
        return grant

    def introspect(self, token: str, protocol: str, now: float) -> dict[str, Any]:
        """RFC 7662 section 2.2: active only for the service that it was issued for."""
        grant, until = self.access.get(token, (None, 0.0))
        if grant is None or grant.revoked or now >= until or protocol not in grant.protocols:
            return {"active": False}
        return {
            "active": True,
            "username": grant.user,
            "client_id": grant.client_id,
            "scope": grant.scope,
            "exp": int(until),
            "token_type": "Bearer",
        }

    def revoke(self) -> None:
        """Every token that is out is void: an administrator withdrew consent."""
        for grant in [*self.refresh.values(), *(grant for grant, _ in self.access.values())]:
            grant.revoked = True

    def expire(self) -> None:
        """Every access token that is out ends now; refresh tokens go on."""
        self.access.clear()
