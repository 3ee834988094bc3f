"""The secrets that no line may show, and what stands in their place."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from mailrelayd.operate import spelling

MASK = "********"
SHORTEST_SECRET = 4  # characters; masking "a" everywhere would hide the log and show the password's length


def conceal(secret: str, of: str = "") -> None:
    """Show `secret` as `********` in every value from now on: as it is, as Python and JSON quote it, and in base64.

    base64 is recognised at any offset (AUTH PLAIN sends user and password as one string). Secrets shorter
    than four characters are not masked.

    `of`: whose it is, for one that a command may give out anew each time. Of those the latest two are concealed, as
    connections that were opened with the one before may still be there; without `of` it is for good, until `forget`.
    """
    if len(secret) < SHORTEST_SECRET:
        return
    if secret not in _secrets:
        _secrets[secret] = _disguises(secret)
        _look_for_secrets()
    if not of:
        _for_good.add(secret)
        return
    latest = [*(one for one in _latest.get(of, ()) if one != secret), secret]
    _latest[of] = tuple(latest[-2:])
    for one in latest[:-2]:
        if one not in _for_good and not any(one in others for others in _latest.values()):
            forget(one)


def forget(secret: str) -> None:
    """Conceal `secret` no longer: each one makes every line slower, and tokens come anew every hour."""
    _for_good.discard(secret)
    if _secrets.pop(secret, None) is not None:
        _look_for_secrets()


def masked(text: str) -> str:
    """`text` without the secrets that were concealed, for whatever shows it elsewhere than in the log."""
    # Each by itself is found many times faster than by the one expression for all.
    if _secret_forms is None or not any(form in text for form in _forms):
        return text
    return _secret_forms.sub(MASK, text)


def may_show_one(line: str) -> bool:
    """Whether a secret stands in a line that was spelled from values: always True where one does."""
    return _secret_forms is not None and any(form in line for form in _spelled_forms)


def concealed(value: Any) -> Any:
    """`value` without secrets, in one of the types the formats know: str, bool, int, float, list of str, None."""
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return masked(value)
    if value is None:
        return None
    if isinstance(value, spelling.LISTS):
        return [masked(str(item)) for item in value]
    return masked(str(value))


def _look_for_secrets() -> None:
    forms = sorted({form for all_forms in _secrets.values() for form in all_forms}, key=len, reverse=True)
    global _secret_forms, _forms, _spelled_forms
    _secret_forms = re.compile("|".join(map(re.escape, forms))) if forms else None
    _forms = tuple(forms)
    _spelled_forms = tuple({spelled for form in forms for spelled in spelling.escaped_forms(form)})


def _disguises(secret: str) -> set[str]:
    """Every form of `secret` to look for. base64 packs three bytes into four characters: one form per offset."""
    data = secret.encode("utf-8", "surrogateescape")
    forms = {secret, repr(secret)[1:-1], json.dumps(secret)[1:-1]}
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + data).decode().rstrip("=")
        # Only the characters made of nothing but the secret's bits: the first one may hold bits of what
        # stands before, the last one of what follows.
        core = encoded[-(-offset * 8 // 6) : (offset + len(data)) * 8 // 6]
        forms |= {core, core.translate(str.maketrans("+/", "-_"))}
    return forms


_secrets: dict[str, set[str]] = {}
_for_good: set[str] = set()
_latest: dict[str, tuple[str, ...]] = {}  # whose -> the one before, and the one now
_secret_forms: re.Pattern[str] | None = None
_forms: tuple[str, ...] = ()  # what the pattern looks for
_spelled_forms: tuple[str, ...] = ()  # and what becomes of it in a line
