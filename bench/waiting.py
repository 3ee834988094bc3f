"""Runs in which nothing, or hardly anything, is sent: a smarthost that refuses, a long queue, idleness, a start."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Self

from tests.servers.process import free_port

from bench import usage
from bench.measure import (
    POLL,
    QUIET,
    STALL,
    Outcome,
    Run,
    Tools,
    Watch,
    outcome_of,
    started,
    until,
    until_taken,
)
from bench.messages import Batch
from bench.peers.subject import Mailrelayd
from bench.sink import Sink

PATIENCE = 45.0  # seconds in which a program may notice by itself that its smarthost is back
START = 600.0  # seconds in which the daemon has to be ready, however much waits
SETTLE = 5.0  # seconds after a start before idleness begins
LOOK = 0.02  # seconds between two looks whether anything woke up
WARM_UP = 3  # starts that do not count


class Refuser:
    """A smarthost that says 421 to everybody, and counts them."""

    def __init__(self, port: int) -> None:
        self.connections = 0
        self._over = False
        self._listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        self._thread = threading.Thread(target=self._refuse)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._thread.join()
        self._listener.close()

    def _refuse(self) -> None:
        while not self._over:
            with suppress(OSError):
                connection, _ = self._listener.accept()
                with connection:
                    self.connections += 1
                    connection.sendall(b"421 4.3.2 closed for today\r\n")


def backlog(run: Run, tools: Tools, window: float) -> Outcome:
    """The smarthost refuses everybody: what waiting costs, and what happens when it does so no longer."""
    port = free_port()
    with started(run, tools, port) as (peer, group, record):
        details: dict[str, float] = {}
        with Refuser(port) as refuser:
            peer.prepare(run.batch)
            load, watch, begun = usage.load(), Watch(group), time.monotonic()
            peer.begin()
            details["settled"] = until_idle(watch) - begun
            details["first_pass_cpu"] = watch.cpu
            if isinstance(peer, Mailrelayd):
                before = watch.cpu
                details["ready"] = peer.restart(START)
                until_idle(watch)
                details["start_cpu"] = watch.cpu - before
            details["waiting_pss"] = usage.pss(group.pids())
            cpu, seen = watch.cpu, refuser.connections
            time.sleep(window)
            details["waiting_cpu_a_minute"] = (watch.cpu - cpu) / window * 60
            details["connections_a_minute"] = (refuser.connections - seen) / window * 60
        sink = Sink(tools.sink, record, port, run.offers)
        try:
            back, details["asked"] = time.monotonic(), 0.0
            if until(lambda: sink.accepted > 0, PATIENCE, "not by itself"):
                details["asked"] = 1.0
                back = time.monotonic()
                peer.retry()
            error = until_taken(sink, run.batch, watch)
            if not error:
                error = until(lambda: peer.waiting() == 0, 30.0, "its spool does not become empty")
            emptied = time.monotonic()
            time.sleep(QUIET)
            outcome = outcome_of(run, error, watch, sink, load)
        finally:
            sink.kill()
        found = sink.records()
        first = found[0].at / 1e9 if found else emptied
        return replace(
            outcome, first=first - back, clean=len(found) / (emptied - first) if found else 0.0, details=details
        )


def until_idle(watch: Watch, longest: float = 300.0) -> float:
    """When it has done next to nothing for two seconds; the moment that began."""
    end = time.monotonic() + longest
    since, before = time.monotonic(), watch.cpu
    while time.monotonic() < end and time.monotonic() - since < 2.0:
        time.sleep(0.1)
        watch.look()
        if watch.cpu - before > 0.02:
            since, before = time.monotonic(), watch.cpu
    return since


def million(run: Run, tools: Tools, part: int) -> Outcome:
    """A very long queue that was there before the start; the first `part` messages have to be sent in their order."""
    port = free_port()
    with started(run, tools, port) as (peer, group, record):
        assert isinstance(peer, Mailrelayd)
        peer.fill(run.batch)
        load, watch = usage.load(), Watch(group)
        sink = Sink(tools.sink, record, port, run.offers)
        try:
            details = {"ready": peer.start(START)}
            begun, moved, before = time.monotonic(), time.monotonic(), 0
            error = ""
            while (taken := sink.accepted) < part and not error:
                if taken > before:
                    before, moved = taken, time.monotonic()
                elif time.monotonic() - moved > STALL:
                    error = f"nothing more after {taken} of {part}"
                watch.look()
                time.sleep(POLL)
            over = time.monotonic()
            watch.sample()
            outcome = outcome_of(replace(run, batch=replace(run.batch, count=0)), error, watch, sink, load)
        finally:
            sink.kill()
        found = sink.records()
        numbers = [one.number for one in found]
        details["taken"] = len(found)
        details["disorder"] = sum(1 for position, number in enumerate(numbers) if number != position)
        first = found[0].at / 1e9 if found else over
        return replace(
            outcome,
            run=run,
            first=first - begun,
            accepted=len(found) / (over - first) if over > first else 0.0,
            doubled=len(numbers) - len(set(numbers)),
            damaged=sum(one.body != run.batch.size for one in found),
            details=details,
        )


def idle(run: Run, tools: Tools, window: float) -> Outcome:
    """Nothing to do: how often anything wakes up all the same, and what that costs."""
    port = free_port()
    with started(run, tools, port) as (peer, group, record):
        peer.prepare(Batch(0))
        ready = peer.restart() if isinstance(peer, Mailrelayd) else 0.0  # the second time, as at every boot but one
        load = usage.load()
        sink = Sink(tools.sink, record, port, run.offers)
        try:
            peer.begin()
            time.sleep(SETTLE)
            watch, pids = Watch(group), group.pids()
            before = last = usage.switches(pids)
            bursts, calm, end = 0, True, time.monotonic() + window
            while time.monotonic() < end:
                time.sleep(LOOK)
                now = usage.switches(pids)
                bursts += calm and now > last
                calm, last = now == last, now
            cpu, seconds = watch.cpu, watch.seconds
            watch.sample()
            outcome = outcome_of(run, "", watch, sink, load)
        finally:
            sink.kill()
        details = {
            "ready": ready,
            "wakeups": bursts / seconds,
            "switches": (last - before) / seconds,
            "cpu_a_minute": cpu / seconds * 60,
            "waiting_pss": watch.pss,
        }
        return replace(outcome, details=details)


def start(run: Run, tools: Tools) -> Outcome:
    """What a program pays that hands in a mail: from the start of a process to its end."""
    port = free_port()
    with started(run, tools, port) as (peer, group, record):
        peer.prepare(Batch(0))
        load = usage.load()
        sink = Sink(tools.sink, record, port, run.offers)
        try:
            watch = Watch(group)
            peer.begin()
            text = next(iter(Batch(1)))[1].replace(b"\r\n", b"\n")
            took = peer.clock(peer.sendmail(run.command), text, run.batch.count + WARM_UP)
            nothing = replace(run, batch=replace(run.batch, count=0))
            outcome = outcome_of(nothing, "", watch, sink, load)
        finally:
            sink.kill()
        return replace(outcome, run=run, damaged=0, latencies=tuple(round(each, 3) for each in took[WARM_UP:]))
