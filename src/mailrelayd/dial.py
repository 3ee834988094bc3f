"""A connected TCP socket, within a time that DNS and all of the host's addresses share."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any


class DialError(Exception):
    """Nobody answered, in words for people. `resolved` is False where the name led to no address: no port would."""

    def __init__(self, text: str, *, resolved: bool) -> None:
        super().__init__(text)
        self.resolved = resolved


async def dial(host: str, port: int, seconds: float) -> tuple[socket.socket, str]:
    """A connected socket and "host[ip]:port", within `seconds`. Raises DialError.

    Every address gets its share of the time that is left.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    addresses = await resolve(host, port, seconds)
    failures = []
    for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
        peer = f"{host}[{address.ip}]:{port}"
        try:
            return await connected(address, (deadline - loop.time()) / left), peer
        except TimeoutError:
            failures.append(f"{peer}: no answer in time")
        except OSError as error:
            failures.append(f"{peer}: {os_text(error)}")
    raise DialError("; ".join(failures), resolved=True)


@dataclass(frozen=True, slots=True)
class Address:
    """One of a host's addresses, with the port."""

    family: int
    kind: int
    protocol: int
    where: Any  # what socket.connect takes

    @property
    def ip(self) -> str:
        """As people write it."""
        return str(self.where[0])


async def connected(address: Address, seconds: float) -> socket.socket:
    """A socket connected to this address. Raises OSError; TimeoutError after `seconds`."""
    sock = socket.socket(address.family, address.kind, address.protocol)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().sock_connect(sock, address.where)
    except BaseException:
        sock.close()
        raise
    return sock


async def resolve(host: str, port: int, seconds: float) -> list[Address]:
    """The host's addresses in the order in which they are tried. Raises DialError."""
    try:
        async with asyncio.timeout(seconds):
            found = await lookup(host, port)
    except TimeoutError as error:
        raise DialError(f"host name {host!r} was not resolved within {seconds:g} s", resolved=False) from error
    except (OSError, ValueError) as error:
        reason = os_text(error) if isinstance(error, OSError) else str(error)
        raise DialError(f"host name {host!r} cannot be resolved: {reason}", resolved=False) from error
    # A name may be listed twice in /etc/hosts.
    return [Address(family, kind, protocol, where) for family, kind, protocol, _, where in dict.fromkeys(found)]


_Found = Sequence[tuple[int, int, int, str, Any]]


async def lookup(host: str, port: int) -> _Found:
    """As `socket.getaddrinfo`, in a thread that nobody waits for.

    The C library may keep trying for minutes after we have given up; the loop's own threads are waited for at its end,
    and would then be what stops this program from stopping.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[_Found] = loop.create_future()

    def told(found: _Found, error: Exception | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(found)

    def ask() -> None:
        found: _Found = []
        problem: Exception | None = None
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, ValueError) as error:  # UnicodeError is a ValueError
            problem = error
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(told, found, problem)

    threading.Thread(target=ask, name=f"getaddrinfo {host}", daemon=True).start()
    return await answer


def os_text(error: OSError) -> str:
    """Without asyncio's "Connect call failed ('...', 25)", which hides the reason."""
    if error.errno is not None and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno).lower()
    return (error.strerror or str(error) or type(error).__name__).lower()
