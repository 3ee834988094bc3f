"""What the server is told to do wrong: where (a stage), how (a fault) and when (a rule).

A rule is written as `STAGE:FAULT[,nth=N][,times=N][,p=0.3][,to=TEXT][,id=TEXT]`:

    rcpt:450,to=bob,times=2    the first two RCPT whose address contains "bob" get 450
    dot:close,nth=3            the third message is cut off before it is recorded
    recorded:silence,p=0.1     one message in ten is kept, but the client never hears so

`nth` counts the times the stage was reached (and the text matched) over all connections, from 1.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

_ANSWERED = ("close", "rst", "silence", "drip", "junk", "giant", "endless", "stray", "double", "mixed")

CELLS: dict[str, tuple[str, ...]] = {
    "connect": ("close", "rst", "silence"),
    "greeting": ("421", "450", "554", *_ANSWERED),
    "ehlo": ("421", "450", "550", *_ANSWERED, "strip", "caps"),
    "starttls": ("421", "454", "554", *_ANSWERED, "inject"),
    "tls": ("close", "rst", "silence", "junk", "badcert"),
    "auth": ("421", "454", "535", *_ANSWERED),
    "rset": ("421", "451", "550", *_ANSWERED),
    "mail": ("421", "451", "550", *_ANSWERED),
    "rcpt": ("421", "450", "452", "550", *_ANSWERED),
    "data": ("421", "451", "554", *_ANSWERED),
    "body": ("421", "451", "554", "close", "rst", "silence", "junk", "giant", "endless", "stray"),
    "dot": ("421", "451", "452", "550", "554", "close", "rst", "silence", "junk", "giant", "endless", "mixed"),
    "recorded": ("421", "451", *_ANSWERED),
    "quit": ("421", "451", "550", *_ANSWERED),
    "idle": ("421", "451", "close", "rst", "junk", "giant", "endless", "stray"),
}
"""Every stage and the faults that make sense there. `dot` fails before the message is recorded, `recorded` after.

451   any code 400-599: that answer instead, and the command has no effect; 421 closes as well
close, rst      the connection ends in order, or by a reset
silence         no answer until the client gives up (or the server's patience ends)
drip            the right answer, one byte per interval
junk            binary nonsense instead of an answer
giant           a line that never ends; after some MiB the connection is closed
endless         continuation lines that never come to a last one
stray           the right answer and one more that nobody asked for; in `body` and `idle` only the latter
double          the right answer twice
mixed           two different codes in one multi-line answer; the command has no effect
strip           EHLO without STARTTLS and AUTH (before TLS)
caps            EHLO with other extensions than before (after TLS)
inject          plain text behind the 220 of STARTTLS, in one write
badcert         another certificate
"""


def cells() -> list[tuple[str, str]]:
    """Every single (stage, fault): the rows of the matrix campaign."""
    return [(stage, fault) for stage, faults in CELLS.items() for fault in faults]


@dataclass(slots=True)
class Rule:
    """One line of the script. `seen` and `fired` are its counters."""

    stage: str
    fault: str
    nth: int | None = None
    times: int | None = None
    probability: float = 1.0
    to: str = ""
    test_id: str = ""
    seen: int = 0
    fired: int = 0

    def __post_init__(self) -> None:
        """Refuse what could never happen."""
        if self.stage not in CELLS:
            raise ValueError(f"no stage {self.stage!r}: one of {', '.join(CELLS)}")
        if self.fault not in CELLS[self.stage] and not re.fullmatch("[45][0-9][0-9]", self.fault):
            raise ValueError(f"no fault {self.fault!r} at {self.stage}: one of {', '.join(CELLS[self.stage])}")

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Read the notation explained at the top of this module."""
        head, *options = text.split(",")
        stage, _, fault = head.partition(":")
        rule = cls(stage, fault)
        for option in options:
            name, _, value = option.partition("=")
            match name:
                case "nth":
                    rule.nth = int(value)
                case "times":
                    rule.times = int(value)
                case "p":
                    rule.probability = float(value)
                case "to":
                    rule.to = value
                case "id":
                    rule.test_id = value
                case _:
                    raise ValueError(f"{text}: no option {name!r}: nth, times, p, to or id")
        return rule


class Script:
    """Rules in order, the first that fires wins; then `chaos`, the chance of any fault at any stage."""

    def __init__(self, rules: list[Rule], chaos: float = 0.0, seed: int = 0) -> None:
        self.rules = rules
        self.chaos = chaos
        self.random = random.Random(seed)

    def pick(self, stage: str, to: str = "", test_id: str = "") -> str | None:
        """The fault for this moment, if any."""
        for rule in self.rules:
            if rule.stage != stage or rule.to not in to or rule.test_id not in test_id:
                continue
            rule.seen += 1
            if rule.nth not in (None, rule.seen) or (rule.times is not None and rule.fired >= rule.times):
                continue
            if rule.probability < 1 and self.random.random() >= rule.probability:
                continue
            rule.fired += 1
            return rule.fault
        if self.chaos and self.random.random() < self.chaos:
            return self.random.choice(CELLS[stage])
        return None


def fate(address: str, tries: dict[str, int]) -> str | None:
    """What a recipient's local part asks for: `reject...@` 550, `tempfail-N...@` 450 the first N times.

    `tries` counts per address and belongs to the caller. None: the address is welcome.
    """
    local = address.partition("@")[0]
    if local.startswith("reject"):
        return "550 5.1.1 rejected by its name"
    if match := re.match(r"tempfail-([0-9]+)", local):
        tries[address] = tries.get(address, 0) + 1
        if tries[address] <= int(match[1]):
            return "450 4.2.1 not yet, by its name"
    return None
