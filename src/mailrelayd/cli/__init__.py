"""One module per noun. Each imports its heavy parts only when it runs."""

from __future__ import annotations

import sys


def failure(status: int, reason: str, hint: str = "") -> int:
    """Say on stderr what is wrong and what to do; the exit status, for `return`."""
    for line in reason.splitlines():
        print(f"error: {line}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
    return status
