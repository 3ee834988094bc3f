"""What systemd is told, and when the watchdog is fed."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailrelayd.operate import events, notify


class FakeClock:
    """Time passes only in wait(): by what was asked for, plus a delay; stops after some rounds."""

    def __init__(self, rounds: int = 0, delay: float = 0.0) -> None:
        self.time = 1000.0
        self.waited: list[float] = []
        self._rounds = rounds
        self._delay = delay

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def wait(self, stop: asyncio.Event, seconds: float) -> bool:
        self.waited.append(seconds)
        self.time += seconds + self._delay
        if len(self.waited) == self._rounds:
            stop.set()
        return stop.is_set()


class Manager:
    """The service manager's end of the socket."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def heard(self) -> list[list[str]]:
        """Everything that was said since the last call, one list of assignments per datagram."""
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(4096).decode().split("\n"))
            except BlockingIOError:
                return messages


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    """A listening manager, on a path or in the abstract namespace."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@mailrelayd-test-{os.getpid()}"
    listening = Manager(address.replace("@", "\0"))
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    yield listening
    listening.socket.close()


@pytest.fixture
def silences(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """The loops that were reported as silent."""
    reported: list[tuple[str, float]] = []
    monkeypatch.setattr(events, "daemon_silent", lambda *, loop, overdue: reported.append((loop, overdue)))
    return reported


def test_the_life_of_a_daemon(manager: Manager) -> None:
    """Ready, a status, a reload and the end arrive as sd_notify(3) wants them."""
    assert notify.ready("3 waiting")
    assert notify.status("smarthost ok")
    assert notify.reloading()
    assert notify.ready()
    assert notify.stopping("SIGTERM")

    ready, status, reloading, again, stopping = manager.heard()
    assert ready == ["READY=1", "STATUS=3 waiting"]
    assert status == ["STATUS=smarthost ok"]
    assert reloading[0] == "RELOADING=1"
    name, _, stamp = reloading[1].partition("=")
    assert name == "MONOTONIC_USEC" and int(stamp) > 0
    assert again == ["READY=1"]
    assert stopping == ["STOPPING=1", "STATUS=SIGTERM"]


def test_a_status_cannot_say_more_than_a_status(manager: Manager) -> None:
    """A line end or a stray byte in the text is escaped and begins no assignment."""
    notify.status("a\nSTOPPING=1\udcff")

    assert manager.heard() == [[r"STATUS=a\nSTOPPING=1\xff"]]


@pytest.mark.parametrize("address", ["", "/nowhere/notify", "@nobody-listens", "vsock:2:1", "/" + "x" * 200, "/\0"])
def test_nobody_listens(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a manager, or with one that is gone, nothing happens and nothing is raised."""
    monkeypatch.setattr(os, "environ", {"NOTIFY_SOCKET": address})

    assert not notify.ready("x")


def test_without_a_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside systemd there is no NOTIFY_SOCKET and nobody is told."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)

    assert not notify.ready("x")


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "60000000"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_pace_of_the_watchdog(environ: dict[str, str], interval: float | None) -> None:
    """Half of what systemd allows, and only for the process it watches."""
    assert notify.watchdog_interval(environ, pid=7) == interval


def test_fed_while_every_promise_is_kept(manager: Manager, silences: list[tuple[str, float]]) -> None:
    """One silent loop is enough to leave the watchdog hungry; when it is back, all is well."""
    clock = FakeClock()
    watchdog = notify.Watchdog(clock)
    watchdog.beat("relay", within=40)
    watchdog.beat("pickup", within=100)

    assert watchdog.check(1040.0)
    assert not watchdog.check(1041.0)
    assert not watchdog.check(1042.0)
    clock.time = 1043.0
    watchdog.beat("relay", within=40)
    assert watchdog.check(1043.0)

    assert manager.heard() == [["WATCHDOG=1"], ["WATCHDOG=1"]]
    assert silences == [("relay", 1.0)]


def test_every_silence_is_reported_once(silences: list[tuple[str, float]]) -> None:
    """A loop that falls silent again after it was back is reported again."""
    clock = FakeClock()
    watchdog = notify.Watchdog(clock)
    watchdog.beat("relay", within=1)
    watchdog.check(1002.0)
    watchdog.beat("relay", within=1)
    watchdog.check(1003.0)

    assert silences == [("relay", 1.0), ("relay", 2.0)]


def test_an_ended_loop_owes_nothing(silences: list[tuple[str, float]]) -> None:
    """A loop that ended as it should, and one that never began, are not missed."""
    watchdog = notify.Watchdog(FakeClock())
    watchdog.beat("relay", within=1)
    watchdog.ended("relay")
    watchdog.ended("pickup")

    assert watchdog.check(9999.0)
    assert silences == []


async def test_the_loop_feeds_at_half_time(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    """While all goes well systemd hears from us twice per period, until we stop."""
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    clock = FakeClock(rounds=3)
    watchdog = notify.Watchdog(clock)
    watchdog.beat("relay", within=1000)
    await watchdog.run(asyncio.Event())

    assert clock.waited == [30.0] * 3
    assert manager.heard() == [["WATCHDOG=1"]] * 3


async def test_the_loop_looks_even_where_nobody_watches(
    monkeypatch: pytest.MonkeyPatch, silences: list[tuple[str, float]]
) -> None:
    """In a container a silent loop is logged, too."""
    for name in ("WATCHDOG_USEC", "NOTIFY_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    watchdog = notify.Watchdog(FakeClock(rounds=3))
    watchdog.beat("relay", within=45)
    await watchdog.run(asyncio.Event())

    assert silences == [("relay", 15.0)]


async def test_a_suspended_machine_breaks_no_promise(
    monkeypatch: pytest.MonkeyPatch, silences: list[tuple[str, float]]
) -> None:
    """Nobody could keep a promise while nothing ran: the time is added to each of them."""
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    watchdog = notify.Watchdog(FakeClock(rounds=2, delay=8 * 3600))
    watchdog.beat("relay", within=45)
    await watchdog.run(asyncio.Event())

    assert silences == []
