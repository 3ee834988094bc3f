"""Runs -> medians and ratios to Postfix in the same round -> Markdown. Reads what runs.jsonl holds, nothing else."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bench.measure import Outcome

Row = dict[str, Any]  # one line of runs.jsonl
ANCHOR = "postfix"
CROWD = 20  # connections of the usual anchor


def line(outcome: Outcome) -> str:
    """One run, while it goes on."""
    run = outcome.run
    what = f"{run.round + 1}: {run.case:14} {run.peer} x{run.connections}"
    if outcome.error:
        return f"{what:42} {outcome.error.splitlines()[0]}"
    bad = f"lost {outcome.lost} doubled {outcome.doubled} damaged {outcome.damaged}"
    speed = f"clean {outcome.clean:8.1f}/s"
    if outcome.latencies:
        speed = f"p50 {percentile(outcome.latencies, 0.5):8.1f} ms"
    figures = f"{speed}  CPU {outcome.cpu:7.2f} s  PSS {outcome.pss:6.1f} MB  {bad}"
    return f"{what:42} {figures}  others {outcome.others:.1f} CPUs"


def heading(about: Row) -> str:
    """The machine in one sentence."""
    ceilings = ", ".join(f"{name} {rate:,.0f}/s" for name, rate in about["ceiling"].items())
    return (
        f"{about['machine']}, {about['cores']} cores, Linux {about['kernel']}, Python {about['python']}, "
        f"{about.get('disk', 'disk')}; "
        f"load {about['load']:.1f} at the start; {about['sink']} takes {ceilings} of 4 kB on one connection"
    )


def broken(row: Row) -> bool:
    """Whether mailrelayd lost, doubled or damaged anything, or did not finish."""
    ours = "run" in row and row["run"]["peer"] == "mailrelayd"
    return ours and bool(row["error"] or row["lost"] or row["doubled"] or row["damaged"])


def spread(values: Sequence[float], form: str = "{:,.0f}") -> str:
    """Median, and from where to where."""
    if not values:
        return "-"
    middle = form.format(statistics.median(values))
    if len(values) == 1:
        return middle
    return f"{middle} [{form.format(min(values))}..{form.format(max(values))}]"


def who(row: Row) -> tuple[str, int]:
    """The program and its connections."""
    return row["run"]["peer"], row["run"]["connections"]


def ratios(rows: Sequence[Row], mine: tuple[str, int], figure: Callable[[Row], float], *, crowd: int) -> list[float]:
    """My figure by Postfix's with so many connections, round by round."""
    anchor = {row["run"]["round"]: figure(row) for row in rows if who(row) == (ANCHOR, crowd) and not row["error"]}
    own = {row["run"]["round"]: figure(row) for row in rows if who(row) == mine and not row["error"]}
    return [value / anchor[number] for number, value in own.items() if anchor.get(number)]


def cost(row: Row) -> float:
    """CPU by message, in us."""
    return float(row["cpu"]) / int(row["run"]["batch"]["count"]) * 1e6


def clean(row: Row) -> float:
    return float(row["clean"])


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which this part of them lies."""
    ordered = sorted(values)
    return ordered[min(round(part * (len(ordered) - 1)), len(ordered) - 1)] if ordered else 0.0


def _wrong(rows: Iterable[Row]) -> str:
    return "/".join(str(sum(row[key] for row in rows)) for key in ("lost", "doubled", "damaged"))


def _markdown(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in body)])


def _drain(rows: Sequence[Row]) -> str:
    body = []
    for mine in dict.fromkeys(who(row) for row in rows):
        own = [row for row in rows if who(row) == mine]
        good = [row for row in own if not row["error"]]
        cells = [f"{mine[0]} x{mine[1]}", f"{own[0]['run']['batch']['count']:,}"]
        if not good:
            body.append([*cells, own[0]["error"].splitlines()[0][:80], *["-"] * 7])
            continue
        cells += [spread([row["clean"] for row in good])]
        cells += [spread(ratios(rows, mine, clean, crowd=crowd), "{:.2f}") for crowd in (CROWD, 1)]
        cells += [spread([cost(row) for row in good]), spread(ratios(rows, mine, cost, crowd=CROWD), "{:.2f}")]
        cells += [spread([row["pss"] for row in good]), str(max(row["peak"] for row in good))]
        body.append([*cells, _wrong(own)])
    head = ["program", "messages", "clean/s", "by Postfix x20", "by Postfix x1", "CPU us/message", "CPU by Postfix x20"]
    return _markdown([*head, "PSS MB", "connections", "lost/doubled/damaged"], body)


def _pickup(rows: Sequence[Row]) -> str:
    body = []
    for mine in dict.fromkeys(who(row) for row in rows):
        own = [row for row in rows if who(row) == mine]
        good = [row for row in own if not row["error"] and row["latencies"]]
        if not good:
            body.append([mine[0], own[0]["error"].splitlines()[0][:80], *["-"] * 5])
            continue
        cells = [mine[0]]
        for part in (0.5, 0.99):

            def figure(row: Row, part: float = part) -> float:
                return percentile(row["latencies"], part)

            cells += [spread([figure(row) for row in good], "{:.1f}")]
            cells += [spread(ratios(rows, mine, figure, crowd=CROWD), "{:.2f}")]
        body.append([*cells, spread([cost(row) for row in good]), _wrong(own)])
    head = ["program", "p50 ms", "by Postfix", "p99 ms", "by Postfix", "CPU us/message", "lost/doubled/damaged"]
    return _markdown(head, body)


def _backlog(rows: Sequence[Row]) -> str:
    body = []
    for mine in dict.fromkeys(who(row) for row in rows):
        own = [row for row in rows if who(row) == mine]
        good = [row for row in own if row["details"]]
        if not good:
            body.append([mine[0], own[0]["error"].splitlines()[0][:80], *["-"] * 6])
            continue

        def of(name: str, good: list[Row] = good) -> list[float]:
            return [row["details"][name] for row in good]

        asked = "asked to" if any(of("asked")) else "by itself"
        cells = [f"{mine[0]} x{mine[1]}", spread(of("settled"), "{:.1f}"), spread(of("first_pass_cpu"), "{:.1f}")]
        cells += [spread(of("waiting_cpu_a_minute"), "{:.2f}"), spread(of("waiting_pss"))]
        cells += [
            f"{spread([row['first'] for row in good], '{:.1f}')} s, {asked}",
            spread([row["clean"] for row in good]),
        ]
        body.append([*cells, own[0]["error"].splitlines()[0] if own[0]["error"] else _wrong(own)])
    head = ["program", "settled after s", "CPU s until then", "CPU s a minute, waiting", "PSS MB, waiting"]
    return _markdown([*head, "first one after", "then clean/s", "lost/doubled/damaged"], body)


def tables(found: Sequence[Row]) -> str:
    """The whole report."""
    parts = [heading(row["about"]) + "." for row in found if "about" in row][:1]
    rows = [row for row in found if "run" in row]
    for case in dict.fromkeys(row["run"]["case"] for row in rows):
        own = [row for row in rows if row["run"]["case"] == case]
        others = statistics.median([row["others"] for row in own if not row["error"]] or [0.0])
        rounds = len({row["run"]["round"] for row in own})
        parts.append(f"### {case}: {own[0]['title']}")
        parts.append(f"{rounds} round{'s' * (rounds > 1)}; {others:.1f} CPUs were busy with something else (median).")
        table = _pickup if case == "pickup" else _backlog if case.startswith("backlog") else _drain
        parts.append(table(own))
    return "\n\n".join(parts) + "\n"
