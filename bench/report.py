"""Runs -> medians and ratios to Postfix in the same round -> Markdown. Reads what runs.jsonl holds, nothing else."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from bench.measure import Outcome, Run

Row = dict[str, Any]  # one line of runs.jsonl
ANCHOR = "postfix x20"  # Postfix as it is
SINGLE = "postfix x1"


def line(outcome: Outcome) -> str:
    """One run, while it goes on."""
    run = outcome.run
    what = f"{run.round + 1}: {run.case:14} {named(run)}"
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
    if "replies" in row:
        return bool(row["replies"]["wrong"])
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


def who(row: Row) -> str:
    """The program, and how it is set up."""
    run = row["run"]
    if run.get("command"):
        return f"{run['peer']} {run['command']}"
    window = f" w{run['window']}" if run.get("window", 1) > 1 else ""
    loop = f" {run['loop']}" if run.get("loop") else ""
    return f"{run['peer']} x{run['connections']}{window}{loop}"


def named(run: Run) -> str:
    """The same of a run that has not begun."""
    return who({"run": asdict(run)})


def ratios(rows: Sequence[Row], mine: str, figure: Callable[[Row], float], anchor_name: str = ANCHOR) -> list[float]:
    """My figure by that of a Postfix, round by round."""
    anchor = {row["run"]["round"]: figure(row) for row in rows if who(row) == anchor_name and not row["error"]}
    own = {row["run"]["round"]: figure(row) for row in rows if who(row) == mine and not row["error"]}
    return [value / anchor[number] for number, value in own.items() if anchor.get(number)]


def cost(row: Row) -> float:
    """CPU by message, in us."""
    return float(row["cpu"]) / int(row["run"]["batch"]["count"]) * 1e6


def clean(row: Row) -> float:
    """Messages a second."""
    return float(row["clean"])


def settled(row: Row) -> float:
    """Messages a second; where a program does not tell when that was, the same as clean."""
    return float(row.get("settled") or row["clean"])


def growth(row: Row) -> float:
    """MB of memory more than before it began."""
    return max(float(row["pss"]) - float(row.get("rest", 0.0)), 0.0)


def detail(name: str, row: Row) -> float:
    """What only some kinds of runs have."""
    return float(row["details"].get(name, 0.0))


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which this part of them lies."""
    ordered = sorted(values)
    return ordered[min(round(part * (len(ordered) - 1)), len(ordered) - 1)] if ordered else 0.0


def _wrong(rows: Iterable[Row]) -> str:
    return "/".join(str(sum(row[key] for row in rows)) for key in ("lost", "doubled", "damaged"))


def markdown(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in body)])


def _drain(rows: Sequence[Row]) -> str:
    body = []
    for mine in dict.fromkeys(who(row) for row in rows):
        own = [row for row in rows if who(row) == mine]
        good = [row for row in own if not row["error"]]
        cells = [mine, f"{own[0]['run']['batch']['count']:,}"]
        if not good:
            body.append([*cells, own[0]["error"].splitlines()[0][:80], *["-"] * 9])
            continue
        cells += [spread([clean(row) for row in good])]
        cells += [spread(ratios(rows, mine, clean, anchor), "{:.2f}") for anchor in (ANCHOR, SINGLE)]
        cells += [spread([settled(row) for row in good])]
        cells += [spread([cost(row) for row in good]), spread(ratios(rows, mine, cost), "{:.2f}")]
        cells += [spread([row["pss"] for row in good]), spread([growth(row) for row in good if row.get("rest")])]
        body.append([*cells, str(max(row["peak"] for row in good)), _wrong(own)])
    head = ["program", "messages", "clean/s", "by Postfix x20", "by Postfix x1", "settled/s"]
    head += ["CPU us/message", "CPU by Postfix x20", "PSS MB", "growth MB", "connections", "lost/doubled/damaged"]
    return markdown(head, body)


def _asked(rows: Sequence[Row]) -> str:
    body = []
    for mine in dict.fromkeys(who(row) for row in rows):
        own = [row for row in rows if who(row) == mine]
        good = [row for row in own if not row["error"] and row["latencies"]]
        cells = [mine, spread([statistics.median(row["latencies"]) for row in good], "{:.1f}")]
        cells += [spread([max(row["latencies"]) for row in good], "{:.1f}")]
        body.append([*cells, spread([growth(row) for row in good]), (own[0]["error"].splitlines() or [_wrong(own)])[0]])
    return markdown(["program", "answer p50 ms", "longest ms", "growth MB", "lost/doubled/damaged"], body)


def _start(rows: Sequence[Row]) -> str:
    body = []
    for mine in dict.fromkeys(who(row) for row in rows):
        own = [row for row in rows if who(row) == mine]
        good = [row["latencies"] for row in own if not row["error"]]
        cells = [mine.removesuffix(" x1").removesuffix(" x20")]
        cells += [spread([percentile(each, part) for each in good], "{:.0f}") for part in (0.0, 0.5, 1.0)]
        body.append([*cells, own[0]["error"].splitlines()[0][:80] if own[0]["error"] else ""])
    return markdown(["program", "least ms", "p50 ms", "most ms", ""], body)


def _details(rows: Sequence[Row], columns: dict[str, Callable[[Row], float]], form: str = "{:,.2f}") -> str:
    body = []
    for mine in dict.fromkeys(who(row) for row in rows):
        own = [row for row in rows if who(row) == mine]
        good = [row for row in own if row["details"]]
        cells = [mine, *(spread([figure(row) for row in good], form) for figure in columns.values())]
        body.append([*cells, own[0]["error"].splitlines()[0][:80] if own[0]["error"] else _wrong(own)])
    return markdown(["program", *columns, "lost/doubled/damaged"], body)


def _idle(rows: Sequence[Row]) -> str:
    names = {
        "ready after s": "ready",
        "wake-ups/s": "wakeups",
        "sleeps of threads/s": "switches",
        "CPU s a minute": "cpu_a_minute",
    }
    return _details(rows, {head: partial(detail, name) for head, name in (names | {"PSS MB": "waiting_pss"}).items()})


def _million(rows: Sequence[Row]) -> str:
    columns: dict[str, Callable[[Row], float]] = {
        "ready after s": partial(detail, "ready"),
        "first one after s": lambda row: float(row["first"]),
        "then accepted/s": lambda row: float(row["accepted"]),
        "out of order": partial(detail, "disorder"),
        "PSS MB": lambda row: float(row["pss"]),
    }
    return _details(rows, columns, "{:,.1f}")


def _pickup(rows: Sequence[Row]) -> str:
    body = []
    for mine in dict.fromkeys(who(row) for row in rows):
        own = [row for row in rows if who(row) == mine]
        good = [row for row in own if not row["error"] and row["latencies"]]
        if not good:
            body.append([mine, own[0]["error"].splitlines()[0][:80], *["-"] * 5])
            continue
        cells = [mine]
        for part in (0.5, 0.99):

            def figure(row: Row, part: float = part) -> float:
                return percentile(row["latencies"], part)

            cells += [spread([figure(row) for row in good], "{:.1f}")]
            cells += [spread(ratios(rows, mine, figure), "{:.2f}")]
        body.append([*cells, spread([cost(row) for row in good]), _wrong(own)])
    head = ["program", "p50 ms", "by Postfix", "p99 ms", "by Postfix", "CPU us/message", "lost/doubled/damaged"]
    return markdown(head, body)


def _backlog(rows: Sequence[Row]) -> str:
    body = []
    for mine in dict.fromkeys(who(row) for row in rows):
        own = [row for row in rows if who(row) == mine]
        good = [row for row in own if row["details"]]
        if not good:
            body.append([mine, own[0]["error"].splitlines()[0][:80], *["-"] * 8])
            continue

        def of(name: str, good: list[Row] = good) -> list[float]:
            return [row["details"][name] for row in good if name in row["details"]]

        asked = "asked to" if any(of("asked")) else "by itself"
        cells = [mine, spread(of("settled"), "{:.1f}"), spread(of("first_pass_cpu"), "{:.1f}")]
        cells += [spread(of("ready"), "{:.1f}"), spread(of("connections_a_minute"), "{:.1f}")]
        cells += [spread(of("waiting_cpu_a_minute"), "{:.2f}"), spread(of("waiting_pss"))]
        cells += [
            f"{spread([row['first'] for row in good], '{:.1f}')} s, {asked}",
            spread([row["clean"] for row in good]),
        ]
        body.append([*cells, own[0]["error"].splitlines()[0] if own[0]["error"] else _wrong(own)])
    head = [
        "program",
        "settled after s",
        "CPU s until then",
        "ready after a restart s",
        "connections a minute, waiting",
    ]
    head += ["CPU s a minute, waiting", "PSS MB, waiting", "first one after", "then clean/s", "lost/doubled/damaged"]
    return markdown(head, body)


TABLES = {
    "pickup": _pickup,
    "backlog": _backlog,
    "asked": _asked,
    "idle": _idle,
    "million": _million,
    "start": _start,
}  # all other cases: _drain


def _replies(rows: Sequence[Row]) -> str:
    body = [[row["case"], name, f"{value:,.1f}"] for row in rows for name, value in row["figures"].items()]
    body += [[row["case"], "lost, doubled, wrong, left", f"{len(row['wrong'])}"] for row in rows]
    return "### replies: from a mailbox to a decision\n\n" + markdown(["case", "what", ""], body) if rows else ""


def about(found: Sequence[Row]) -> str:
    """What the figures belong to."""
    return "".join([heading(row["about"]) + "." for row in found if "about" in row][:1])


def tables(found: Sequence[Row]) -> str:
    """Every case."""
    parts: list[str] = []
    rows = [row for row in found if "run" in row]
    for case in dict.fromkeys(row["run"]["case"] for row in rows):
        own = [row for row in rows if row["run"]["case"] == case]
        others = statistics.median([row["others"] for row in own if not row["error"]] or [0.0])
        rounds = len({row["run"]["round"] for row in own})
        parts.append(f"### {case}: {own[0]['title']}")
        loads = f"load average {spread([row['load'] for row in own if not row['error']], '{:.1f}')}"
        parts.append(
            f"{rounds} round{'s' * (rounds > 1)}; {loads}, {others:.1f} CPUs were busy with something else (median)."
        )
        parts.append(TABLES.get(case.partition("-")[0], _drain)(own))
    parts += [_replies([row["replies"] for row in found if "replies" in row])]
    return "\n\n".join(part for part in parts if part) + "\n"
