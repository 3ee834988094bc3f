"""One run of one program: fill, begin, watch, verify."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.servers.process import free_port

from bench import usage
from bench.messages import Batch
from bench.peers import Peer, Place, peers
from bench.sink import Offers, Sink, verify

POLL = 0.01  # seconds
SAMPLE = 0.25  # seconds between two looks at the memory
STALL = 60.0  # seconds without any message: given up
GONE = 3.0  # the same where no process is left
QUIET = 0.3  # seconds in which a doubled message may still come
BEAT = 0.05  # seconds between two messages that are handed in
WARM_UP = 5  # of these messages, which do not count


@dataclass(frozen=True, slots=True)
class Run:
    """What is measured, with whom."""

    case: str
    peer: str
    connections: int
    batch: Batch
    offers: Offers = field(default_factory=Offers)
    round: int = 0
    window: int = 1  # bodies without an answer, on one connection
    loop: str = ""  # which event loop, where there is a choice
    command: str = ""  # what is started, where that is measured


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out; seconds, MB, messages a second."""

    run: Run
    error: str = ""
    first: float = 0.0  # from begin to the first message taken
    accepted: float = 0.0  # rate between the first and the last message taken
    clean: float = 0.0  # rate from the first message taken until the spool is empty
    settled: float = 0.0  # rate from the first message taken until no crash could repeat any of them
    cpu: float = 0.0  # from begin until clean
    pss: float = 0.0  # the most
    rest: float = 0.0  # PSS before it begins
    processes: int = 0  # the most
    peak: int = 0  # connections at the same time
    lost: int = 0
    doubled: int = 0
    damaged: int = 0
    load: float = 0.0  # when it began
    others: float = 0.0  # CPUs that were busy with something else meanwhile
    counted: str = ""  # how CPU was
    latencies: tuple[float, ...] = ()  # ms
    details: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For a line of the result file."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Tools:
    """What all runs share."""

    sink: list[str]
    installed: Path
    work: Path  # where the spools are; short, for it becomes part of a Unix socket's path


class Watch:
    """The most memory and processes so far, sampled now and then; the machine's other work."""

    def __init__(self, group: usage.Group) -> None:
        self.pss = 0.0
        self.processes = 0
        self.how = group.how
        self._group = group
        self._next = 0.0
        self._begun = time.monotonic()
        self._cpu, self._busy = group.cpu(), usage.busy()
        self.rest = usage.pss(group.pids())

    def look(self) -> None:
        if time.monotonic() >= self._next:
            self.sample()
            self._next = time.monotonic() + SAMPLE

    def sample(self) -> None:
        pids = self._group.pids()
        self.pss = max(self.pss, usage.pss(pids))
        self.processes = max(self.processes, len(pids))

    @property
    def alive(self) -> bool:
        return bool(self._group.pids())

    @property
    def cpu(self) -> float:
        return self._group.cpu() - self._cpu

    @property
    def seconds(self) -> float:
        return max(time.monotonic() - self._begun, 1e-9)

    @property
    def others(self) -> float:
        """CPUs busy with anything but this group, the sink included."""
        return max(usage.busy() - self._busy - self.cpu, 0.0) / self.seconds


@contextmanager
def started(run: Run, tools: Tools, port: int) -> Iterator[tuple[Peer, usage.Group, Path]]:
    directory = Path(tempfile.mkdtemp(prefix="bench-", dir=tools.work))
    directory.chmod(0o755)  # some programs become other users
    work, record = directory / "peer", directory / "sink"
    group = usage.group()
    peer: Peer | None = None
    try:
        for path in (work, record):
            path.mkdir()
        place = Place(work, port, run.connections, group, tools.installed, run.window, run.loop)
        peer = peers()[run.peer](place)
        yield peer, group, record
    finally:
        group.close()
        if peer is not None:
            with suppress(OSError, EOFError):
                peer.close()
        shutil.rmtree(directory, ignore_errors=True)


def drain(run: Run, tools: Tools, *, asked: bool = False) -> Outcome:
    """How fast it empties its spool, and at what cost; `asked`: while somebody asks it how it is, all the time."""
    port = free_port()
    with started(run, tools, port) as (peer, group, record):
        peer.prepare(run.batch)
        load = usage.load()
        sink = Sink(tools.sink, record, port, run.offers)
        answers: list[float] = []
        try:
            watch = Watch(group)
            begun = time.monotonic()
            with peer.asked(answers) if asked else nullcontext():
                peer.begin()
                error = until_taken(sink, run.batch, watch)
            if not error:
                error = until(lambda: peer.waiting() == 0, 30.0, "its spool does not become empty", POLL / 2)
            emptied, cpu = time.monotonic(), watch.cpu
            recorded = peer.settled() or emptied
            watch.sample()
            time.sleep(QUIET)
            outcome = outcome_of(run, error, watch, sink, load)
        finally:
            sink.kill()
        found = sink.records()
        if not found:
            return outcome
        first, last = found[0].at / 1e9, found[-1].at / 1e9
        messages = len({each.number for each in found})
        return replace(
            outcome,
            cpu=cpu,
            first=first - begun,
            accepted=(messages - 1) / (last - first) if last > first else 0.0,
            clean=messages / (emptied - first),
            settled=messages / (recorded - first) if recorded > first else 0.0,
            latencies=tuple(round(each, 3) for each in answers),
        )


def outcome_of(run: Run, error: str, watch: Watch, sink: Sink, load: float) -> Outcome:
    """What every kind of run has; the sink is over with it."""
    cpu, others = watch.cpu, watch.others
    counted = sink.stop()
    wrong = verify(run.batch, sink.records())
    return Outcome(
        run,
        error,
        cpu=cpu,
        pss=watch.pss,
        rest=watch.rest,
        processes=watch.processes,
        peak=int(counted["peak"]),
        lost=wrong["lost"],
        doubled=wrong["doubled"],
        damaged=wrong["damaged"] + wrong["foreign"],
        load=load,
        others=max(others - counted["cpu"] / watch.seconds, 0.0),
        counted=watch.how,
    )


def until_taken(sink: Sink, batch: Batch, watch: Watch) -> str:
    """Wait until every message was taken for every recipient; what is wrong if it does not come to that."""
    seen, moved, recipients = 0, time.monotonic(), 0
    while recipients < batch.count * batch.recipients:
        now = sink.accepted
        recipients += sum(one.recipients for one in sink.since(seen)[: now - seen])
        if now > seen:
            seen, moved = now, time.monotonic()
        elif time.monotonic() - moved > (STALL if watch.alive else GONE):
            why = "" if watch.alive else ": its processes have ended"
            return f"nothing more after {seen} of {batch.count}{why}"
        watch.look()
        time.sleep(POLL)
    return ""


def until(holds: Callable[[], bool], seconds: float, otherwise: str, poll: float = POLL) -> str:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return otherwise
        time.sleep(poll)
    return ""


def pickup(run: Run, tools: Tools) -> Outcome:
    """From the producer's first byte, its fsync included, to the smarthost's 250; one message at a time."""
    port = free_port()
    with started(run, tools, port) as (peer, group, record):
        peer.prepare(Batch(0))
        load = usage.load()
        sink = Sink(tools.sink, record, port, run.offers)
        try:
            watch = Watch(group)
            peer.begin()
            begun: dict[int, float] = {}
            for number, text in run.batch:
                due = time.monotonic() + BEAT
                begun[number] = time.monotonic_ns()
                peer.hand_in(number, text)
                if len(begun) == 1:  # from here on it runs
                    until(lambda: sink.accepted > 0, STALL, "")
                watch.look()
                time.sleep(max(due - time.monotonic(), 0.0))
            error = until_taken(sink, run.batch, watch)
            outcome = outcome_of(run, error, watch, sink, load)
        finally:
            sink.kill()
        late = [(each.at - begun[each.number]) / 1e6 for each in sink.records() if each.number in begun]
        return replace(outcome, latencies=tuple(round(each, 3) for each in late[WARM_UP:]))


def attempt(measure: Callable[[Run, Tools], Outcome], run: Run, tools: Tools) -> Outcome:
    """The outcome, whatever goes wrong: one program's trouble is a line in the table."""
    try:
        return measure(run, tools)
    except Exception as error:  # noqa: BLE001
        return Outcome(run, f"{type(error).__name__}: {error}"[:1000])
