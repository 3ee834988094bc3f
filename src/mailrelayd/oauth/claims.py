"""What a token says about itself, for people: a JWT is decoded, its signature is not looked at. Pure.

Nothing is decided by it but when to ask for the next token: whether a token is good, its server says.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from dataclasses import dataclass, field
from typing import Any, Final

LIMIT: Final = 64 * 1024  # characters of a token that is looked at
LATEST: Final = 253_402_300_800.0  # seconds since the epoch: the year 10000, for which there are no words
LONGEST: Final = 200  # characters of one value that are shown


@dataclass(frozen=True, slots=True)
class Claims:
    """A token's claims under the names that Microsoft, Google and OpenID Connect use; "" and (): not in it."""

    audience: str = ""  # aud: for which service it is
    issuer: str = ""
    user: str = ""  # whom it lets in: upn, preferred_username, email, unique_name; an application has none
    application: str = ""  # appid, azp, client_id: who asked for it
    tenant: str = ""
    roles: tuple[str, ...] = ()  # permissions of an application
    scopes: tuple[str, ...] = ()  # permissions on behalf of a user
    issued_at: float | None = None  # seconds since the epoch, by the provider's clock
    expires_at: float | None = None
    all: dict[str, Any] = field(default_factory=dict)


def decode(token: str) -> Claims | None:
    """The claims of a JWT; None where the token is none (an opaque one), or is damaged."""
    parts = token.split(".")
    if len(parts) != 3 or len(token) > LIMIT:
        return None
    try:
        payload = json.loads(urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):  # binascii.Error and UnicodeDecodeError are ValueErrors
        return None
    if not isinstance(payload, dict):
        return None
    return Claims(
        audience=" ".join(_words(payload.get("aud"))),
        issuer=_text(payload.get("iss")),
        user=next(
            (
                text
                for name in ("upn", "preferred_username", "email", "unique_name")
                if (text := _text(payload.get(name)))
            ),
            "",
        ),
        application=next((text for name in ("appid", "azp", "client_id") if (text := _text(payload.get(name)))), ""),
        tenant=_text(payload.get("tid")),
        roles=_words(payload.get("roles")),
        scopes=_words(payload.get("scp") or payload.get("scope")),
        issued_at=_time(payload.get("iat")),
        expires_at=_time(payload.get("exp")),
        all=payload,
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        return ""
    text = value if value.isprintable() else "".join(c if c.isprintable() else "?" for c in value)
    return text[:LONGEST]


def _words(value: object) -> tuple[str, ...]:
    """A list of words, or one text with spaces between them."""
    if isinstance(value, str):
        value = value.split()
    return tuple(text for one in value[:100] if (text := _text(one))) if isinstance(value, list) else ()


def _time(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < LATEST:
        return None
    return float(value)
