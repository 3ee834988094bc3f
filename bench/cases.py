"""What is measured: sizes, distances, and who takes part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from bench import measure
from bench.measure import Outcome, Run, Tools
from bench.messages import Batch
from bench.sink import Offers

FAR = 20.0  # ms of round trip
OTHERS = (5.0, 50.0)  # the same, for those whose curve is drawn
LARGE = 20 * 1024 * 1024
ANCHOR = ("postfix", 20)
ALL = (
    ("mailrelayd", 1),
    ("mailrelayd", 20),
    ANCHOR,
    ("postfix", 1),
    ("smtplib", 1),
    ("aiosmtplib", 20),
    ("dma", 1),
    ("exim", 1),
    ("opensmtpd", 1),
    ("nullmailer", 1),
    ("msmtp", 1),
)
SLOW = {"exim": 4, "opensmtpd": 20, "nullmailer": 20, "msmtp": 20}  # so many times fewer: a rate needs no more
TWO = (("mailrelayd", 1), ANCHOR)
FOUR = (*TWO, ("mailrelayd", 20), ("postfix", 1))
LEAST = 50  # messages that a slow program gets all the same


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything."""

    drain: int
    far: int
    large: int
    pickup: int
    backlog: tuple[int, ...]
    window: float  # seconds in which the cost of waiting is measured
    grow: tuple[int, ...]
    spread: int  # messages to 1, 10 and 100 recipients


SCALES = {
    "smoke": Scale(100, 60, 2, 20, (100,), 3.0, (100,), 20),
    "small": Scale(1000, 400, 5, 100, (1000, 5000), 20.0, (1000, 3000), 100),
    "full": Scale(10_000, 2000, 20, 200, (1000, 10_000, 100_000), 60.0, (1000, 10_000, 100_000), 1000),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One question, and the runs of one round that answer it."""

    name: str
    title: str
    runs: tuple[Run, ...]
    how: Callable[[Run, Tools], Outcome] = measure.drain


def _runs(
    case: str, contenders: tuple[tuple[str, int], ...], batch: Batch, offers: Offers | None = None
) -> Iterator[Run]:
    for name, connections in contenders:
        count = max(batch.count // SLOW.get(name, 1), min(LEAST, batch.count))
        yield Run(case, name, connections, replace(batch, count=count), offers or Offers())


def cases(scale: Scale) -> list[Case]:
    """All of them."""
    far = Offers(rtt=FAR)
    plain = Offers(rtt=FAR, pipelining=False, chunking=False)
    patient = tuple(one for one in ALL if one[0] not in ("smtplib", "aiosmtplib", "msmtp", "dma"))
    found = [
        Case("near", "drain, 4 kB, no round trip", tuple(_runs("near", ALL, Batch(scale.drain)))),
        Case("far", f"drain, 4 kB, round trip {FAR:g} ms", tuple(_runs("far", ALL, Batch(scale.far), far))),
        Case(
            "plain",
            f"drain, 4 kB, round trip {FAR:g} ms, neither PIPELINING nor CHUNKING",
            tuple(_runs("plain", FOUR, Batch(scale.far), plain)),
        ),
        Case("large", "20 MB messages", tuple(_runs("large", ALL, Batch(scale.large, LARGE)))),
        Case(
            "pickup",
            "from the producer's first byte to the smarthost's 250, one message each 50 ms",
            tuple(
                replace(run, batch=Batch(scale.pickup))
                for run in _runs("pickup", (*TWO, ("nullmailer", 1)), Batch(scale.pickup))
            ),
            measure.pickup,
        ),
    ]
    for rtt in OTHERS:
        name = f"rtt-{rtt:g}"
        runs = tuple(_runs(name, FOUR, Batch(scale.far), Offers(rtt=rtt)))
        found.append(Case(name, f"drain, 4 kB, round trip {rtt:g} ms", runs))
    for count in scale.grow:
        batch = Batch(count)
        found.append(Case(f"grow-{count}", f"{count:,} messages of 4 kB", tuple(_runs(f"grow-{count}", TWO, batch))))
    for recipients in (1, 10, 100):
        name = f"recipients-{recipients}"
        batch = Batch(scale.spread, recipients=recipients)
        found.append(Case(name, f"{scale.spread:,} messages to {recipients} each", tuple(_runs(name, TWO, batch))))
    for count in scale.backlog:
        contenders = patient if count == min(scale.backlog) else TWO
        runs = tuple(
            run
            for run in _runs(f"backlog-{count}", contenders, Batch(count))
            if run.connections != 1 or run.peer != "postfix"
        )
        how = partial(measure.backlog, window=scale.window)
        found.append(Case(f"backlog-{count}", f"{count:,} wait while nobody listens", runs, how))
    return found
