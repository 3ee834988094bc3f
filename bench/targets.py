"""What mailrelayd has to reach, and whether it did: the first table of a report."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from bench.report import (
    ANCHOR,
    SINGLE,
    Row,
    clean,
    cost,
    detail,
    growth,
    markdown,
    percentile,
    ratios,
    settled,
    spread,
    who,
)

OURS, WINDOWED, CROWD = "mailrelayd x1", "mailrelayd x1 w16", "mailrelayd x20"
Figures = Callable[[Sequence[Row]], list[float]]


@dataclass(frozen=True, slots=True)
class Target:
    """`figures` of all rows, one each round, whose median is to be at least, or at most, `bound`."""

    what: str
    bound: float
    figures: Figures
    least: bool = False
    unit: str = ""  # "": times what Postfix needs or does

    def met(self, value: float) -> bool:
        """Whether this reaches it."""
        return value >= self.bound if self.least else value <= self.bound


def table(found: Sequence[Row]) -> str:
    """Every target that there are figures for; "" where there are none."""
    body = list(_lines(found))
    head = ["target", "wanted", "measured: median [least..most]", ""]
    return "### Targets\n\n" + markdown(head, body) if body else ""


def _lines(found: Sequence[Row]) -> Iterator[list[str]]:
    for target in TARGETS:
        values = target.figures(found)
        if not values:
            continue
        middle = statistics.median(values)
        form = "{:,.2f}" if target.bound < 10 else "{:,.1f}"
        unit = f" {target.unit}" if target.unit else ""
        wanted = f"{'>=' if target.least else '<='} {target.bound:g}{unit or ' x Postfix'}"
        yield [
            target.what,
            wanted,
            spread(values, form) + unit,
            "met" if target.met(middle) else _missed(target, middle),
        ]


def _missed(target: Target, value: float) -> str:
    low, high = sorted((value, target.bound))
    return f"**not met**, by {f'a factor of {high / low:.2f}' if low > 0 else f'{high - low:g}'}"


def _of(rows: Sequence[Row], case: str) -> list[Row]:
    """Without errors; of a kind (backlog), those of the most messages."""
    kind = [row for row in rows if "run" in row and row["run"]["case"].partition("-")[0] == case.partition("-")[0]]
    exact = [row for row in kind if row["run"]["case"] == case]
    largest = max((row["run"]["batch"]["count"] for row in kind), default=0)
    return [row for row in exact or kind if not row["error"] and (exact or row["run"]["batch"]["count"] == largest)]


def _by(case: str, mine: str, figure: Callable[[Row], float], anchor: str = ANCHOR) -> Figures:
    return lambda rows: ratios(_of(rows, case), mine, figure, anchor)


def _own(case: str, mine: str, figure: Callable[[Row], float]) -> Figures:
    return lambda rows: [figure(row) for row in _of(rows, case) if who(row) == mine]


def _part(part: float) -> Callable[[Row], float]:
    return lambda row: percentile(row["latencies"], part)


def _at_full_speed(rows: Sequence[Row]) -> list[float]:
    """The rate after the smarthost is back, by that of a drain that nothing preceded."""
    usual = [clean(row) for row in _of(rows, "near") if who(row) == OURS]
    after = [clean(row) for row in _of(rows, "backlog") if who(row) == OURS]
    return [value / statistics.median(usual) for value in after] if usual else []


def _replies(case: str, name: str, figure: Callable[[Sequence[float]], float]) -> Figures:
    """Of the samples whose name begins so, as bench/replies.py writes them."""

    def figures(rows: Sequence[Row]) -> list[float]:
        own = [row["replies"]["samples"] for row in rows if "replies" in row and row["replies"]["case"] == case]
        mine = [[each for key, values in one.items() if key.startswith(name) for each in values] for one in own]
        return [figure(values) for values in mine if values]

    return figures


def _targets() -> Iterator[Target]:
    for mine, what in ((OURS, ""), (WINDOWED, ", window 16")):
        yield Target(f"drain, no round trip{what}: clean, by Postfix x20", 1.5, _by("near", mine, clean), least=True)
        yield Target(f"drain, no round trip{what}: CPU, by Postfix x20", 0.35, _by("near", mine, cost))
        yield Target(f"drain, no round trip{what}: settled, by Postfix x20", 5, _by("near", mine, settled), least=True)
    for mine, bound, what in ((OURS, 2.7, ""), (WINDOWED, 20, ", window 16")):
        figures = _by("far", mine, clean, SINGLE)
        yield Target(f"drain, 20 ms, 1 connection{what}: clean, by Postfix x1", bound, figures, least=True)
    figures = _by("far", CROWD, clean)
    yield Target("drain, 20 ms, 20 connections: clean, by Postfix x20", 2.2, figures, least=True)
    yield Target("pickup, p50, by Postfix", 0.7, _by("pickup", OURS, _part(0.5)))
    yield Target("pickup, p99, by Postfix", 0.5, _by("pickup", OURS, _part(0.99)))
    for case, bound, what in (
        ("large", 1.0, "CRLF, CHUNKING"),
        ("large-lf", 1.2, "LF, CHUNKING"),
        ("large-data", 1.2, "CRLF, no CHUNKING"),
        ("large-both", 1.2, "LF, no CHUNKING"),
    ):
        yield Target(f"20 MB, {what}: CPU, by Postfix x20", bound, _by(case, OURS, cost))
        yield Target(f"20 MB, {what}: memory growth", 16, _own(case, OURS, growth), unit="MB")
    for case, what in (("crlf", "CRLF, CHUNKING"), ("lf", "LF, CHUNKING"), ("data", "LF, no CHUNKING")):
        # An answer, and what the thread that asks needs itself, comes on top of it: this is an upper bound.
        yield Target(f"20 MB, {what}: longest answer", 50, _own(f"asked-{case}", OURS, _part(1.0)), unit="ms")
    for mine, what in ((OURS, ""), (WINDOWED, ", window 16")):
        figures = _own("near", mine, lambda row: float(row["pss"]))
        yield Target(f"memory while draining{what}", 45, figures, unit="MB")
    for name, bound, what, unit in (
        ("ready", 10, "ready after a restart", "s"),
        ("connections_a_minute", 2, "connections a minute", "a minute"),
        ("waiting_cpu_a_minute", 0.5, "CPU", "s a minute"),
        ("asked", 0, "somebody had to ask for it", "times"),
    ):
        yield Target(f"smarthost down: {what}", bound, _own("backlog", OURS, partial(detail, name)), unit=unit)
    yield Target("smarthost down: PSS, by Postfix", 1.3, _by("backlog", OURS, partial(detail, "waiting_pss")))
    figures = _own("backlog", OURS, lambda row: float(row["first"]))
    yield Target("smarthost back: first message", 30.5, figures, unit="s")
    yield Target("smarthost back: clean, by near", 0.8, _at_full_speed, least=True, unit="x near")
    for mine, what in ((OURS, ""), (WINDOWED, ", window 16")):
        figures = _own("million", mine, partial(detail, "disorder"))
        yield Target(f"a million wait{what}: messages out of order", 0, figures, unit="messages")
    yield Target("idle: wake-ups", 1, _own("idle", OURS, partial(detail, "wakeups")), unit="a second")
    for command in ("sendmail", "submit"):
        yield Target(f"start of {command}: p50", 100, _own("start", f"mailrelayd {command}", _part(0.5)), unit="ms")
    figures = _replies("idle", "until the webhook", statistics.median)
    yield Target("reply to decision, IDLE: p50", 300, figures, unit="ms")
    figures = _replies("reading", "a mail of tests/replies", statistics.median)
    yield Target("reading a reply: p50", 2, figures, unit="ms")
    yield Target("reading a reply: worst", 250, _replies("reading", "a ", max), unit="ms")


TARGETS = tuple(_targets())
