"""What a provider's answer means: a token, or why there is none (RFC 6749 sections 5.1, 5.2, RFC 8628). Pure."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qs, urlsplit

from mailrelayd.oauth.claims import decode
from mailrelayd.oauth.providers import Terms
from mailrelayd.oauth.values import ASSUMED_LIFE, Kind, OAuthError, Token
from mailrelayd.outbound.answers import printable

WAITING: Final = ("authorization_pending", "slow_down")
"""Codes that tell a device to ask again."""

LONGEST_TOKEN: Final = 48 * 1024  # characters
LONGEST_ADDRESS: Final = 16 * 1024  # characters of what a browser brings back
LONGEST_LIFE: Final = 90 * 86_400.0  # seconds; a longer promise is not believed
LONGEST_TEXT: Final = 300  # characters of a provider's description
CLOCK: Final = 120.0  # seconds by which a clock may be wrong before it is worth a word

_TOKEN: Final = re.compile(r"[\x21-\x7e]+")  # RFC 6749 appendix A.12; no space: it stands in a header of its own
_AADSTS: Final = re.compile(r"AADSTS[0-9]{3,9}")
_KINDS: Final[dict[str, Kind]] = {
    "temporarily_unavailable": "temporary",
    "server_error": "temporary",
    "slow_down": "temporary",
    "authorization_pending": "temporary",
    "interaction_required": "consent",
    "consent_required": "consent",
    "login_required": "consent",
    "expired_token": "consent",
    "invalid_client": "refused",
    "unauthorized_client": "refused",
    "access_denied": "refused",
    "authorization_declined": "refused",
    "invalid_grant": "refused",
}


@dataclass(frozen=True, slots=True)
class DeviceCode:
    """What a person has to type where (RFC 8628 section 3.2)."""

    user_code: str
    verification_uri: str
    verification_uri_complete: str  # "": the provider has none
    device_code: str = field(repr=False)
    life: float = 900.0  # seconds
    interval: float = 5.0  # seconds between two questions


@dataclass(frozen=True, slots=True)
class Authorization:
    """A login that was begun in a browser: the address to open, and what proves its end to be ours (RFC 7636)."""

    url: str
    redirect_uri: str
    state: str = field(repr=False)
    verifier: str = field(repr=False)


def token(terms: Terms, answer: Mapping[str, object], *, asked_at: float, refresh_token: str = "") -> Token:
    """The token in an answer. `refresh_token` is the one it was asked with: it stays where no other came.

    Raises OAuthError where the answer is none.
    """
    access = answer.get("access_token")
    if not isinstance(access, str) or not is_token(access):
        raise OAuthError(f"{terms.host} answers without an access token that could be used", kind="temporary")
    if str(answer.get("token_type", "bearer")).lower() != "bearer":
        raise OAuthError(f"{terms.host} gives no bearer token, and mail servers take no other", kind="configuration")
    refresh, scope = answer.get("refresh_token"), answer.get("scope")
    return Token(
        access_token=access,
        obtained_at=asked_at,
        expires_at=asked_at + _life(access, answer.get("expires_in")),
        refresh_token=refresh if isinstance(refresh, str) and refresh else refresh_token,
        scope=printable(scope) if isinstance(scope, str) else "",
        asked=terms.scopes,
    )


def is_token(text: str) -> bool:
    """Whether a text can be an access token and fits into a line of SMTP or IMAP."""
    return len(text) <= LONGEST_TOKEN and _TOKEN.fullmatch(text) is not None


def _life(access: str, written: object) -> float:
    """Seconds. A difference of two of the provider's own times where it says nothing else: its clock may be wrong."""
    try:
        if not isinstance(written, int | float | str) or isinstance(written, bool):
            raise ValueError  # noqa: TRY004 - both ways to be unusable end the same
        life = float(written)
    except (ValueError, OverflowError):
        claims = decode(access)
        if claims is None or claims.expires_at is None or claims.issued_at is None:
            return ASSUMED_LIFE
        life = claims.expires_at - claims.issued_at
    return min(max(life, 0.0), LONGEST_LIFE) if life == life else ASSUMED_LIFE  # NaN is not itself


def refusal(
    terms: Terms, error: str, description: str, *, status: int = 400, clock_error: float | None = None
) -> OAuthError:
    """Why the provider gives none. `clock_error`: how many seconds our clock is before its own, if that is known."""
    # Microsoft's further lines hold a trace id and the time: never twice the same.
    told = printable(re.split(r"[\r\n]|\s+Trace ID:", description.strip(), maxsplit=1)[0])[:LONGEST_TEXT].rstrip(" .")
    found = _AADSTS.search(description)
    error = printable(error)[:100]
    code = found[0] if found and error not in WAITING else error
    kind: Kind = "temporary" if status >= 500 or status == 429 else _KINDS.get(error, "configuration")
    if terms.interactive and error == "invalid_grant":
        kind = "consent"  # revoked, expired, or the person's password was changed
    words = [f"{terms.host} gives no token", error, told]
    text = ": ".join(word for word in words if word)
    about_time = re.search(r"\biat\b|reasonable timeframe|AADSTS700024", description)
    if clock_error is not None and abs(clock_error) > CLOCK and kind in ("refused", "configuration"):
        late = "ahead of" if clock_error > 0 else "behind"
        text += f"; this machine's clock is {abs(clock_error):.0f} s {late} the provider's: set it right"
    elif about_time:
        text += "; is this machine's clock right?"
    return OAuthError(text, kind=kind, code=code)


def device_code(terms: Terms, answer: Mapping[str, object]) -> DeviceCode:
    """Raises OAuthError where the answer holds none that can be shown."""
    code, device = answer.get("user_code"), answer.get("device_code")
    uri = answer.get("verification_uri") or answer.get("verification_url")  # the draft's name, which Google kept
    complete = answer.get("verification_uri_complete", "")
    texts = (code, device, uri, complete)
    if not all(isinstance(text, str) and text.isprintable() and len(text) <= 4096 for text in texts) or not (
        code and device and _web(uri)
    ):
        raise OAuthError(f"{terms.host} answers without a device code that could be used", kind="temporary")
    return DeviceCode(
        user_code=str(code),
        verification_uri=str(uri),
        verification_uri_complete=str(complete) if _web(complete) else "",
        device_code=str(device),
        life=_seconds(answer.get("expires_in"), 900.0, 3600.0),
        interval=_seconds(answer.get("interval"), 5.0, 60.0),
    )


def _web(uri: object) -> bool:
    return isinstance(uri, str) and uri.startswith(("https://", "http://127.0.0.1", "http://localhost", "http://[::1]"))


def _seconds(value: object, usual: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        return usual
    return float(value)


def code_from(terms: Terms, begun: Authorization, answer: str) -> str:
    """The code in the address that the browser was sent to. Raises OAuthError: without a code of its own it is ours."""
    query: dict[str, list[str]] = {}
    if len(answer) <= LONGEST_ADDRESS:
        with suppress(ValueError):
            query = parse_qs(urlsplit(answer.strip()).query, max_num_fields=100)
    one = {name: values[0] for name, values in query.items() if len(values) == 1}
    if not ({"code", "error"} & one.keys()):
        text = f"this is no address that a login ends at: it begins with {begun.redirect_uri} and holds a code"
        raise OAuthError(text, kind="consent")
    if not hmac.compare_digest(one.get("state", "").encode(), begun.state.encode()):
        raise OAuthError("this answers another login than the one begun here: begin again", kind="consent")
    if terms.issuer and one.get("iss", terms.issuer) != terms.issuer:  # RFC 9207: a mix-up of providers
        raise OAuthError("this answer comes from another provider than the one asked: begin again", kind="refused")
    if "error" in one:
        raise refusal(terms, one["error"], one.get("error_description", ""))
    return one["code"]
