"""What is measured: sizes, distances, and who takes part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from bench import measure, waiting
from bench.measure import Outcome, Run, Tools
from bench.messages import Batch
from bench.sink import Offers

FAR = 20.0  # ms of round trip
OTHERS = (5.0, 50.0)  # the same, for those whose curve is drawn
LARGE = 20 * 1024 * 1024
TINY = 150  # bytes of a body: with its header 300
WINDOW = 16  # bodies without an answer, where mailrelayd may


@dataclass(frozen=True, slots=True)
class Contender:
    """A program, and how it is set up."""

    peer: str
    connections: int = 1
    window: int = 1
    loop: str = ""
    command: str = ""


OURS = Contender("mailrelayd")
CROWD = replace(OURS, connections=20)
WINDOWED = replace(OURS, window=WINDOW)
ON_UVLOOP = replace(OURS, loop="uvloop")
ANCHOR = Contender("postfix", 20)
SINGLE = replace(ANCHOR, connections=1)
SLOW = {"exim": 4, "opensmtpd": 20, "nullmailer": 20, "msmtp": 20}  # so many times fewer: a rate needs no more
REST = (
    Contender("smtplib"),
    Contender("aiosmtplib", 20),
    Contender("dma"),
    *(Contender(name) for name in SLOW),
)
PATIENT = (OURS, ANCHOR, Contender("exim"), Contender("opensmtpd"), Contender("nullmailer"))
LOOPS = (ON_UVLOOP, replace(WINDOWED, loop="uvloop"))
STARTS = (
    replace(OURS, command="sendmail"),
    replace(OURS, command="submit"),
    ANCHOR,
    Contender("nullmailer"),
    Contender("msmtp"),
    Contender("python"),
)
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
    idle: float  # seconds in which that of doing nothing is
    grow: tuple[int, ...]
    spread: int  # messages to 1, 10 and 100 recipients
    starts: int
    million: tuple[int, int]  # how many wait, how many of them are sent


SCALES = {
    "smoke": Scale(100, 60, 2, 20, (100,), 3.0, 3.0, (100,), 20, 5, (1000, 100)),
    "small": Scale(1000, 1000, 5, 100, (1000, 5000), 30.0, 30.0, (1000, 3000), 100, 20, (100_000, 5000)),
    "full": Scale(
        10_000, 2000, 20, 200, (1000, 10_000, 100_000), 60.0, 30.0, (1000, 10_000, 100_000), 1000, 20, (10**6, 20_000)
    ),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One question, and the runs of one round that answer it. `asked`: only where somebody asks for it by name."""

    name: str
    title: str
    runs: tuple[Run, ...]
    how: Callable[[Run, Tools], Outcome] = measure.drain
    asked: bool = False


def _runs(case: str, contenders: Sequence[Contender], batch: Batch, offers: Offers | None = None) -> tuple[Run, ...]:
    found = []
    for one in contenders:
        count = max(batch.count // SLOW.get(one.peer, 1), min(LEAST, batch.count))
        run = Run(case, one.peer, one.connections, replace(batch, count=count), offers or Offers())
        found.append(replace(run, window=one.window, loop=one.loop, command=one.command))
    return tuple(found)


def cases(scale: Scale) -> list[Case]:
    """All of them."""
    return [
        *_drains(scale),
        *_large(scale),
        *_grows(scale),
        *_waits(scale),
        Case(
            "pickup",
            "from the producer's first byte to the smarthost's 250, one message each 50 ms",
            tuple(
                replace(run, batch=Batch(scale.pickup))
                for run in _runs("pickup", (OURS, ON_UVLOOP, ANCHOR, Contender("nullmailer")), Batch(scale.pickup))
            ),
            measure.pickup,
        ),
        Case(
            "start",
            "from the start of a process to its end, a mail of 4 kB on standard input",
            tuple(replace(run, batch=Batch(scale.starts)) for run in _runs("start", STARTS, Batch(scale.starts))),
            waiting.start,
        ),
    ]


def _drains(scale: Scale) -> Iterator[Case]:
    """What lies in the spool, at once."""
    far = Offers(rtt=FAR)
    plain = Offers(rtt=FAR, pipelining=False, chunking=False)
    ours, anchors = (OURS, WINDOWED, *LOOPS, CROWD), (ANCHOR, SINGLE)
    everybody = (*ours, *anchors, *REST)
    yield Case("near", "drain, 4 kB, no round trip", _runs("near", everybody, Batch(scale.drain)))
    title = f"drain, 4 kB, round trip {FAR:g} ms"
    yield Case("far", title, _runs("far", (OURS, WINDOWED, CROWD, *anchors, *REST), Batch(scale.far), far))
    four = (OURS, CROWD, *anchors)
    title += ", neither PIPELINING nor CHUNKING"
    yield Case("plain", title, _runs("plain", four, Batch(scale.far), plain))
    for rtt in OTHERS:
        name = f"rtt-{rtt:g}"
        runs = _runs(name, (WINDOWED, *four), Batch(scale.far), Offers(rtt=rtt))
        yield Case(name, f"drain, 4 kB, round trip {rtt:g} ms", runs)


def _large(scale: Scale) -> Iterator[Case]:
    """Bodies that do not fit into a packet, nor into memory that anybody would give for them."""
    crlf, bare = Batch(scale.large, LARGE), Batch(scale.large, LARGE, bare=True)
    few = (OURS, ON_UVLOOP, ANCHOR, SINGLE)
    no_chunks = Offers(chunking=False)
    yield Case("large", "20 MB, files with CRLF, CHUNKING", _runs("large", (*few, CROWD, *REST), crlf))
    yield Case("large-lf", "20 MB, files with LF, CHUNKING", _runs("large-lf", few, bare))
    yield Case("large-data", "20 MB, files with CRLF, no CHUNKING", _runs("large-data", few, crlf, no_chunks))
    yield Case("large-both", "20 MB, files with LF, no CHUNKING", _runs("large-both", few, bare, no_chunks))
    asked = partial(measure.drain, asked=True)
    for name, batch, offers in (
        ("asked-crlf", crlf, Offers()),
        ("asked-lf", bare, Offers()),
        ("asked-data", bare, no_chunks),
    ):
        lines = "LF" if batch.bare else "CRLF"
        what = (
            f"20 MB, files with {lines}, {'' if offers.chunking else 'no '}CHUNKING, while it is asked for its status"
        )
        yield Case(name, what, _runs(name, (OURS, ON_UVLOOP), batch, offers), asked)


def _grows(scale: Scale) -> Iterator[Case]:
    """How the cost grows with messages, and with recipients."""
    two = (OURS, ANCHOR)
    for count in scale.grow:
        name = f"grow-{count}"
        yield Case(name, f"{count:,} messages of 4 kB", _runs(name, two, Batch(count)))
    for recipients in (1, 10, 100):
        name = f"recipients-{recipients}"
        batch = Batch(scale.spread, recipients=recipients)
        yield Case(name, f"{scale.spread:,} messages to {recipients} each", _runs(name, two, batch))


def _waits(scale: Scale) -> Iterator[Case]:
    """Nothing can be sent, or nothing has to be."""
    for count in scale.backlog:
        name = f"backlog-{count}"
        contenders = PATIENT if count == min(scale.backlog) else (OURS, ANCHOR)
        how = partial(waiting.backlog, window=scale.window)
        yield Case(name, f"{count:,} wait while the smarthost refuses", _runs(name, contenders, Batch(count)), how)
    count, part = scale.million
    title = f"{count:,} small ones in the queue at the start, {part:,} of them are sent"
    runs = _runs("million", (OURS, WINDOWED), Batch(count, TINY))
    yield Case("million", title, runs, partial(waiting.million, part=part), asked=True)
    how = partial(waiting.idle, window=scale.idle)
    yield Case("idle", "nothing to do", _runs("idle", (OURS, ON_UVLOOP, ANCHOR, Contender("opensmtpd")), Batch(0)), how)
