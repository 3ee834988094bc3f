"""Durations, sizes and rates as the configuration writes them: "5m" is 300.0 seconds, "50MiB" is 52428800 bytes.

Pure. Every refusal is a `ValueError` whose text says the accepted forms and never repeats what was written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DURATION_FORMS = 'write a number and a unit in quotes, such as "200ms", "2s", "5m", "1h" or "5d"'
SIZE_FORMS = 'write "50MiB", "100kB" or a whole number of bytes'
RATE_FORMS = 'write a whole number per s, min, h or d in quotes, such as "30/min"'

LONGEST = 36_500 * 86_400.0  # seconds; a century, so that adding one to the present time stays a date
LARGEST = 2**63 - 1  # bytes; the largest file offset (off_t)

_MILLISECONDS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SECONDS = {"s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_BYTES = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_DURATION = re.compile(r"(\d{1,15})(?:\.(\d{1,3}))? ?(ms|s|m|h|d)", re.ASCII)
_RATE = re.compile(r"(\d{1,6}) ?/ ?(s|min|m|h|d)", re.ASCII)
_SIZE = re.compile(r"(\d{1,19}) ?([KMGT]i?B|kB|B|)", re.ASCII)


def duration(written: object) -> float:
    """Seconds meant by `"200ms"`, `"2s"`, `"1.5h"`, `"5d"`; ValueError where the unit is missing or unknown."""
    found = _DURATION.fullmatch(written) if isinstance(written, str) else None
    if found is None:
        raise ValueError(f"must be a duration: {DURATION_FORMS}")
    whole, thousandths, unit = found.groups()
    milli = int(whole) * 1_000 + int((thousandths or "").ljust(3, "0"))  # integers: 0.1 + 0.2 has no place here
    seconds = milli * _MILLISECONDS[unit] / 1_000_000
    if seconds > LONGEST:
        raise ValueError("must be a duration of at most a hundred years")
    return seconds


def size(written: object) -> int:
    """Bytes meant by `"50MiB"`, `"100kB"`, `1024` or `"1024"`; ValueError otherwise."""
    if isinstance(written, int) and not isinstance(written, bool):
        octets = written
    else:
        found = _SIZE.fullmatch(written) if isinstance(written, str) else None
        if found is None:
            raise ValueError(f"must be a size: {SIZE_FORMS}")
        octets = int(found[1]) * _BYTES[found[2].lower()]
    if not 0 <= octets <= LARGEST:
        raise ValueError("must be a size between 0 and 8 EiB")
    return octets


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` in any `seconds`."""

    count: int
    seconds: float


def rate(written: object) -> Rate | None:
    """What is meant by `"30/min"`; None for `""`, no limit. ValueError otherwise."""
    if isinstance(written, Rate):
        return written
    if written is None or written == "":
        return None
    found = _RATE.fullmatch(written) if isinstance(written, str) else None
    if found is None or int(found[1]) == 0:
        raise ValueError(f"must be a rate: {RATE_FORMS}")
    return Rate(int(found[1]), _SECONDS[found[2]])


def write_rate(rate: Rate | None) -> str:
    """As `rate()` reads it."""
    return f"{rate.count}/{next(unit for unit in _SECONDS if _SECONDS[unit] == rate.seconds)}" if rate else ""


def write_duration(seconds: float) -> str:
    """The shortest way to write a duration: `duration()` reads it back, to the millisecond."""
    milli = round(seconds * 1_000)
    for unit in ("d", "h", "m", "s"):
        if milli and milli % _MILLISECONDS[unit] == 0:
            return f"{milli // _MILLISECONDS[unit]}{unit}"
    return f"{milli}ms" if milli else "0s"


def write_size(octets: int) -> str:
    """The shortest way to write a size: `size()` reads the same number of bytes back."""
    for unit in ("TiB", "GiB", "MiB", "KiB", "TB", "GB", "MB", "kB"):
        if octets and octets % _BYTES[unit.lower()] == 0:
            return f"{octets // _BYTES[unit.lower()]}{unit}"
    return f"{octets}B"
