"""Runs -> SVG, without a library: throughput by round trip, latency distribution, memory by backlog, cost by size."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from bench.report import who

Row = dict[str, Any]
Points = list[tuple[float, float]]
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 70, 190, 40, 50
COLOURS = (
    "#0b6e4f",
    "#c8553d",
    "#3d5a98",
    "#9a6fb0",
    "#b8860b",
    "#4f9da6",
    "#777777",
    "#d17ba0",
    "#5b8c3a",
    "#222222",
    "#e07b39",
)


def draw(found: Sequence[Row]) -> dict[str, str]:
    """File name -> SVG, for every plot that there are figures for."""
    rows = [row for row in found if "run" in row and not row["error"]]
    drawings = {
        "throughput.svg": _chart(
            "Drain by round trip, 4 kB", "ms of round trip", "clean messages/s (log)", _by_distance(rows), up=True
        ),
        "latency.svg": _chart(
            "From the producer's first byte to the 250",
            "ms (log)",
            "part of the messages",
            _latencies(rows),
            across=True,
        ),
        "memory.svg": _chart(
            "Memory by backlog, the smarthost refuses",
            "messages that wait (log)",
            "PSS MB",
            _by_backlog(rows),
            across=True,
        ),
        "cost.svg": _chart(
            "CPU by backlog, drained at once", "messages (log)", "CPU us a message", _by_count(rows), across=True
        ),
    }
    return {name: drawing for name, drawing in drawings.items() if drawing}


def _lines(rows: Sequence[Row], x: Callable[[Row], float], y: Callable[[Row], float]) -> dict[str, Points]:
    gathered: dict[str, dict[float, list[float]]] = {}
    for row in rows:
        gathered.setdefault(who(row), {}).setdefault(x(row), []).append(y(row))
    return {
        name: sorted((at, statistics.median(values)) for at, values in points.items())
        for name, points in gathered.items()
    }


def _by_distance(rows: Sequence[Row]) -> dict[str, Points]:
    kept = [row for row in rows if row["run"]["case"].partition("-")[0] in ("near", "far", "rtt") and row["clean"]]
    return _lines(kept, lambda row: row["run"]["offers"]["rtt"], lambda row: row["clean"])


def _by_backlog(rows: Sequence[Row]) -> dict[str, Points]:
    kept = [row for row in rows if row["run"]["case"].startswith("backlog") and row["details"]]
    return _lines(kept, lambda row: row["run"]["batch"]["count"], lambda row: row["details"]["waiting_pss"])


def _by_count(rows: Sequence[Row]) -> dict[str, Points]:
    kept = [row for row in rows if row["run"]["case"].startswith("grow")]
    return _lines(
        kept, lambda row: row["run"]["batch"]["count"], lambda row: row["cpu"] / row["run"]["batch"]["count"] * 1e6
    )


def _latencies(rows: Sequence[Row]) -> dict[str, Points]:
    found: dict[str, list[float]] = {}
    for row in (row for row in rows if row["run"]["case"] == "pickup"):
        found.setdefault(who(row), []).extend(row["latencies"])
    return {
        name: [(value, (position + 1) / len(values)) for position, value in enumerate(sorted(values))]
        for name, values in found.items()
        if values
    }


def _ticks(low: float, high: float, *, logarithmic: bool) -> list[float]:
    if logarithmic:
        return [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    step = 10 ** math.floor(math.log10(high or 1))
    step = step / 5 if high / step < 2 else step / 2 if high / step < 5 else step
    return [step * number for number in range(math.ceil(high / step) + 1)]


def _chart(
    title: str, across_name: str, up_name: str, lines: dict[str, Points], *, across: bool = False, up: bool = False
) -> str:
    """A line per program; `across`, `up`: that axis is logarithmic. "" where there is nothing to draw."""
    points = [point for line in lines.values() for point in line]
    if not points or max(y for _, y in points) <= 0:
        return ""
    x_ticks = _ticks(min(x for x, _ in points), max(x for x, _ in points), logarithmic=across)
    y_ticks = _ticks(min(y for _, y in points), max(y for _, y in points), logarithmic=up)

    def place(value: float, ticks: list[float], length: int, *, logarithmic: bool) -> float:
        low, high, at = (math.log10(v) if logarithmic else v for v in (ticks[0], ticks[-1], value))
        return (at - low) / (high - low or 1) * length

    def x_of(value: float) -> float:
        return LEFT + place(value, x_ticks, WIDTH - LEFT - RIGHT, logarithmic=across)

    def y_of(value: float) -> float:
        return HEIGHT - BOTTOM - place(value, y_ticks, HEIGHT - TOP - BOTTOM, logarithmic=up)

    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="22" font-size="15">{escape(title)}</text>',
        f'<text x="{right}" y="{HEIGHT - 10}" text-anchor="end">{escape(across_name)}</text>',
        f'<text x="{LEFT - 60}" y="{TOP - 4}">{escape(up_name)}</text>',
    ]
    for tick in x_ticks:
        at = x_of(tick)
        parts.append(f'<line x1="{at:.1f}" y1="{TOP}" x2="{at:.1f}" y2="{bottom}" stroke="#dddddd"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:,g}</text>')
    for tick in y_ticks:
        at = y_of(tick)
        parts.append(f'<line x1="{LEFT}" y1="{at:.1f}" x2="{right}" y2="{at:.1f}" stroke="#dddddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{tick:,g}</text>')
    for number, (name, line) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if len(line) < 20:
            parts += [f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="3" fill="{colour}"/>' for x, y in line]
        parts.append(f'<text x="{right + 12}" y="{TOP + 12 + number * 18}" fill="{colour}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
