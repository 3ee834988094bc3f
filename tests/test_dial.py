"""Finding a host and connecting to it."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from mailrelayd.dial import DialError, dial

SHORT = 0.3  # seconds; only where silence is the test
LONG = 5.0
KIND = (socket.AF_INET, socket.SOCK_STREAM, 6, "")


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let every name have these addresses."""

    async def found(host: str, port: int, **_: object) -> list[object]:
        return [(*KIND, (address, port)) for address in addresses]

    monkeypatch.setattr("mailrelayd.dial.lookup", found)


async def test_every_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first that answers is taken, and named."""
    resolving(monkeypatch, "127.0.0.2", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        sock, peer = await dial("mail.example.com", port, LONG)
        with sock:
            assert peer == f"mail.example.com[127.0.0.1]:{port}"
            assert sock.getpeername() == ("127.0.0.1", port)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


async def test_nobody_there_names_every_address(monkeypatch: pytest.MonkeyPatch, free_port: Callable[[], int]) -> None:
    """Each with its reason; one that is listed twice is tried once."""
    resolving(monkeypatch, "127.0.0.2", "127.0.0.1", "127.0.0.2")
    port = free_port()
    with pytest.raises(DialError) as error:
        await dial("mail.example.com", port, LONG)
    text = f"mail.example.com[127.0.0.2]:{port}: connection refused; mail.example.com[127.0.0.1]:{port}: connection"
    assert str(error.value) == f"{text} refused"
    assert error.value.resolved


async def test_a_silent_address_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every address gets its share of what is left."""
    loop = asyncio.get_running_loop()
    connect = loop.sock_connect
    resolving(monkeypatch, "127.0.0.2", "127.0.0.1")

    async def silent(sock: socket.socket, address: Any) -> None:
        await (asyncio.sleep(LONG) if address[0] == "127.0.0.2" else connect(sock, address))

    monkeypatch.setattr(loop, "sock_connect", silent)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sock, peer = await dial("mail.example.com", listener.getsockname()[1], SHORT)
        sock.close()
    assert "[127.0.0.1]" in peer


async def test_silence_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of DNS, and of the only address."""
    loop = asyncio.get_running_loop()

    async def never(*_: object, **__: object) -> None:
        await asyncio.sleep(LONG)

    monkeypatch.setattr(loop, "sock_connect", never)
    begin = time.monotonic()
    with pytest.raises(DialError, match="no answer in time") as error:
        await dial("127.0.0.1", 25, SHORT)
    assert error.value.resolved
    monkeypatch.setattr("mailrelayd.dial.lookup", never)
    with pytest.raises(DialError, match=r"'mail\.example\.com' was not resolved within 0\.3 s") as error:
        await dial("mail.example.com", 25, SHORT)
    assert not error.value.resolved
    assert time.monotonic() - begin < LONG


@pytest.mark.parametrize("host", ["host.invalid", "a..b", "x" * 70])
async def test_a_name_that_leads_nowhere_is_told(host: str) -> None:
    """Another port would not help."""
    with pytest.raises(DialError, match="cannot be resolved") as error:
        await dial(host, 25, LONG)
    assert not error.value.resolved


async def test_a_cancelled_dial_leaves_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asked is gone, and so is the socket."""
    tried: list[socket.socket] = []
    trying = asyncio.Event()

    async def never(sock: socket.socket, _: Any) -> None:
        tried.append(sock)
        trying.set()
        await asyncio.sleep(LONG)

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", never)
    dialling = asyncio.create_task(dial("127.0.0.1", 25, LONG))
    await trying.wait()
    dialling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dialling
    assert tried[0].fileno() == -1


def test_a_name_server_that_keeps_silent_stops_nobody_from_stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    """The C library goes on asking; neither we nor the end of the loop wait for it."""
    silent = threading.Event()

    def ask(*_: object, **__: object) -> list[object]:
        silent.wait(LONG * 4)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", ask)
    began = time.monotonic()
    with pytest.raises(DialError, match="was not resolved within"):
        asyncio.run(dial("mail.example.com", 25, SHORT))
    assert time.monotonic() - began < LONG
    silent.set()
