"""The control socket: what one client can do to the daemon, and what the daemon's end looks like to a client."""

from __future__ import annotations

import asyncio
import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from mailrelayd import __main__
from mailrelayd.cli import status
from mailrelayd.operate import control
from tests.servers.process import short_directory

SECONDS = 10.0  # far more than anything here takes
LARGE = 2 << 20  # more than the kernel keeps for a reader who does not read
END = b'{"end": true, "status": 0}\n'


@pytest.fixture
def path() -> Iterator[Path]:
    """Where a socket may stand."""
    with short_directory("mr-control") as folder:
        yield folder / "control.sock"


async def echo(request: dict[str, Any], _: str) -> AsyncIterator[dict[str, Any]]:
    """As many lines as are asked for, each as long as is asked for."""
    for number in range(request["lines"]):
        yield {"number": number, "text": "x" * int(request.get("size", 0))}


@asynccontextmanager
async def serving(path: Path, respond: control.Respond = echo, **limits: float) -> AsyncIterator[control.Server]:
    """A server, closed at the end."""
    server = control.Server(path, respond, **limits)
    await server.start()
    try:
        yield server
    finally:
        async with asyncio.timeout(SECONDS):
            await server.close()


@contextmanager
def connected(path: Path, request: object = None) -> Iterator[socket.socket]:
    """A client that says one thing, or nothing, and does not read."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(str(path))
        if request is not None:
            connection.sendall(json.dumps(request).encode() + b"\n")
        yield connection


async def ended(connection: socket.socket) -> bool:
    """Whether the other side closes the connection before long; nothing is read."""
    poll = select.poll()
    poll.register(connection, 0)
    return bool(await asyncio.to_thread(poll.poll, SECONDS * 1000))


def answers(path: Path, request: dict[str, Any]) -> list[dict[str, Any]]:
    return list(control.ask(path, request, timeout=SECONDS))


# -- the daemon's side -----------------------------------------------------------------------------------------


async def test_an_answer_arrives_whole(path: Path) -> None:
    """Every line, also those that are longer than what the kernel keeps."""
    async with serving(path):
        found = await asyncio.to_thread(answers, path, {"lines": 3, "size": LARGE})
    assert [(line["number"], len(line["text"])) for line in found] == [(0, LARGE), (1, LARGE), (2, LARGE)]


async def test_a_client_that_does_not_read_does_not_hold_up_the_end(path: Path) -> None:
    """SIGTERM ends the daemon although somebody looks at the first page of a long list."""
    asked = asyncio.Event()

    async def respond(request: dict[str, Any], by: str) -> AsyncIterator[dict[str, Any]]:
        asked.set()
        async for line in echo(request, by):
            yield line

    async with serving(path, respond) as server:
        with connected(path, {"lines": 2, "size": LARGE}) as connection:
            await asyncio.wait_for(asked.wait(), SECONDS)
            await asyncio.wait_for(server.close(), SECONDS)
            assert await ended(connection)
    with pytest.raises(control.NoDaemonError):
        answers(path, {})


async def test_a_client_that_stops_reading_is_let_go(path: Path) -> None:
    """Its connection ends when the patience does, not when it reads again."""
    async with serving(path, patience=0.05):
        with connected(path, {"lines": 2, "size": LARGE}) as connection:
            assert await ended(connection)


async def test_a_client_that_asks_nothing_is_let_go(path: Path) -> None:
    """A connection without a request ends soon."""
    async with serving(path, request_within=0.05):
        with connected(path) as connection:
            assert await ended(connection)
    assert control.REQUEST < control.PATIENCE


async def test_connections_are_limited(path: Path) -> None:
    """One too many is told so and closed at once; when another has ended there is room again."""
    async with serving(path, request_within=60):
        others = [connected(path) for _ in range(control.MOST)]
        sockets = [other.__enter__() for other in others]
        try:
            with pytest.raises(control.RefusedError, match=r"32 others") as refused:
                await asyncio.to_thread(answers, path, {"lines": 1})
            assert refused.value.status == os.EX_TEMPFAIL
            with connected(path) as silent:
                assert await ended(silent)
            sockets[0].shutdown(socket.SHUT_WR)
            assert await ended(sockets[0])
            assert len(await asyncio.to_thread(answers, path, {"lines": 1})) == 1
        finally:
            for other in others:
                other.__exit__(None, None, None)


# -- the client's side -----------------------------------------------------------------------------------------


@contextmanager
def scripted(path: Path, play: Callable[[socket.socket], object]) -> Iterator[None]:
    """A daemon that does this with its first connection and then closes it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()

        def once() -> None:
            connection, _ = listener.accept()
            with connection:
                play(connection)

        thread = threading.Thread(target=once)
        thread.start()
        try:
            yield
        finally:
            thread.join(SECONDS)


@pytest.mark.parametrize("size", [0, LARGE])
def test_a_daemon_that_closes_before_it_answers_is_none(path: Path, size: int) -> None:
    """Whether the request could be sent or not: the caller may do without the daemon."""
    with scripted(path, lambda _: None), pytest.raises(control.NoDaemonError):
        answers(path, {"text": "x" * size})


def test_nobody_listens(path: Path) -> None:
    """Neither a missing socket nor one left behind is a daemon."""
    with pytest.raises(control.NoDaemonError):
        answers(path, {})
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left_behind:
        left_behind.bind(str(path))
    with pytest.raises(control.NoDaemonError):
        answers(path, {})


def test_a_refusal_counts_although_the_request_was_not_taken(path: Path) -> None:
    """A daemon that refuses the connection does not read first."""
    refusal = b'{"end": true, "status": 75, "reason": "full"}\n'
    with (
        scripted(path, lambda connection: connection.sendall(refusal)),
        pytest.raises(control.RefusedError, match="full"),
    ):
        answers(path, {"text": "x" * LARGE})


@pytest.mark.parametrize(
    ("said", "whole"), [(b"{}\n", 1), (b'{}\n{}\n{"end": tr', 2), (b'{"en', 0), (END.removesuffix(b"\n"), 0)]
)
@pytest.mark.parametrize("size", [0, LARGE])
def test_an_answer_cut_short_is_not_an_absent_daemon(path: Path, said: bytes, whole: int, size: int) -> None:
    """What has been done must not be begun again without the daemon."""
    found = []
    with scripted(path, lambda connection: connection.sendall(said)):
        asking = control.ask(path, {"text": "x" * size}, timeout=SECONDS)
        with pytest.raises(control.RefusedError, match="in the middle of its answer") as refused:
            for line in asking:
                found.append(line)  # noqa: PERF402 - those before the error count
    assert refused.value.status == os.EX_TEMPFAIL
    assert len(found) == whole


def test_a_reader_who_leaves_early_is_no_error(path: Path) -> None:
    """`mailrelayd status | head -0`: however little there was to say."""
    configuration = path.parent / "mailrelayd.toml"
    configuration.write_text(f'[spool]\ndirectory = "{path.parent}"\n[state]\ndirectory = "{path.parent}"\n')
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command = [sys.executable, "-m", "mailrelayd", "--config", str(configuration), "status"]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, env=environment, timeout=60)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (os.EX_OK, b"")


def test_another_broken_pipe_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only standard output may break without consequence: nothing else says that the work was done."""

    def broken(_: object) -> int:
        raise BrokenPipeError

    monkeypatch.setattr(status, "print_status", broken)
    with pytest.raises(BrokenPipeError), Path(os.devnull).open("w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        __main__.main(["status"])
