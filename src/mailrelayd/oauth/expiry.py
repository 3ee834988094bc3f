"""When the end of a client secret is worth a word. Pure.

Secrets end after at most 24 months at Microsoft, and the provider tells nobody.
"""

from __future__ import annotations

import datetime
from typing import Final

STEPS: Final = (30, 7, 1, 0)
"""Days before the end at which somebody is told; 0: it is over."""


def days_left(expires: datetime.date, today: datetime.date) -> int:
    """Whole days until the day on which the secret is no longer valid; negative: that many ago."""
    return (expires - today).days


def due(expires: datetime.date | None, today: datetime.date, last_told: int | None = None) -> int | None:
    """The step that has been reached and was not told yet, or None. `last_told` is the step told last, of STEPS.

    A new date in the configuration begins anew: forget `last_told` with the old one.
    """
    if expires is None:
        return None
    left = days_left(expires, today)
    reached = min((step for step in STEPS if left <= step), default=None)
    return reached if reached is not None and (last_told is None or reached < last_told) else None
