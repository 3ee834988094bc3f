"""One step of a diagnosis: what was looked at, what was seen, and, where it is wrong, cause and cure. Pure."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

CONFIGURATION: Final = 78  # EX_CONFIG
UNAVAILABLE: Final = 69  # EX_UNAVAILABLE: DNS, TCP, TLS
REFUSED: Final = 77  # EX_NOPERM: login or sender
TEMPORARY: Final = 75  # EX_TEMPFAIL

_MARK: Final = 8  # columns of the outcome
_LEAST: Final = 40  # a narrower terminal wraps by itself


class Outcome(StrEnum):
    """What a step came to."""

    OK = "ok"
    WARNING = "warning"  # works, and somebody should look
    FAILED = "failed"
    SKIPPED = "skipped"  # not looked at, for the reason in the text


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was looked at. No field holds a secret or a control character."""

    account: str  # "outbound.smarthost"
    name: str  # dns, tcp, tls, greeting, capabilities, login, sender, recipient, send, folder, arrival, ...
    outcome: Outcome
    text: str  # what was seen, in one line
    cause: str = ""  # one sentence
    cure: str = ""  # one sentence
    setting: str = ""  # the key to change, in full: "outbound.smarthost.password"
    status: int = 0  # where FAILED: the class of sysexits, one of the four above
    command: str = ""  # a line to run by hand for the same look
    data: Mapping[str, object] = field(default_factory=dict)  # for programs; what JSON can hold


def exit_status(steps: Iterable[Step]) -> int:
    """The class of the first failed step; 0 where none failed."""
    return next((step.status or TEMPORARY for step in steps if step.outcome is Outcome.FAILED), 0)


def placed(step: Step, origins: Mapping[str, str]) -> Step:
    """The step with the place where its setting is written, for whoever has to change it."""
    if not step.setting:
        return step
    place = origins.get(step.setting, "default")
    return replace(step, data={**step.data, "origin": place})


def as_json(steps: Sequence[Step]) -> dict[str, object]:
    """The document that --json prints."""
    counted = Counter(step.outcome for step in steps)
    return {
        "ok": not counted[Outcome.FAILED],
        "status": exit_status(steps),
        "counts": {outcome.value: counted[outcome] for outcome in Outcome},
        "steps": [_document(step) for step in steps],
    }


def lines(step: Step, width: int = 100) -> Iterator[str]:
    """The step for people, in at most `width` columns; what could be copied is never broken in two."""
    width = max(width, _LEAST)
    mark = f"{step.outcome.value:<{_MARK}}"
    yield from _wrapped(f"{step.account} {step.name}: {step.text}", mark, width)
    quiet = step.outcome in (Outcome.OK, Outcome.SKIPPED)
    place = step.data.get("origin")
    told = {
        "cause": "" if quiet else step.cause,
        "cure": step.cure,
        "setting": "" if quiet else f"{step.setting} ({place})" if place and step.setting else step.setting,
        "by hand": step.command,
    }
    for word, text in told.items():
        if text:
            yield from _wrapped(text, f"{'':<{_MARK}}{word}: ", width if word != "by hand" else 0)


def _wrapped(text: str, first: str, width: int) -> Iterator[str]:
    """`text` behind `first`, further lines below it; `width` 0: one line, however long."""
    if not width:
        yield first + text
        return
    yield from textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=" " * (_MARK + 4),
        break_long_words=False,
        break_on_hyphens=False,
    ) or [first.rstrip()]


def _document(step: Step) -> dict[str, object]:
    return {
        "account": step.account,
        "name": step.name,
        "outcome": step.outcome.value,
        "text": step.text,
        "cause": step.cause,
        "cure": step.cure,
        "setting": step.setting,
        "status": step.status,
        "command": step.command,
        "data": dict(step.data),
    }
