"""A connected TCP socket, within a time that DNS and all of the host's addresses share."""

from __future__ import annotations

import asyncio
import os
import socket
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
    addresses = await _resolve(host, port, seconds)
    failures = []
    for left, (family, kind, protocol, _, address) in zip(range(len(addresses), 0, -1), addresses, strict=True):
        peer = f"{host}[{address[0]}]:{port}"
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            async with asyncio.timeout((deadline - loop.time()) / left):
                await loop.sock_connect(sock, address)
        except TimeoutError:
            failures.append(f"{peer}: no answer in time")
        except OSError as error:
            failures.append(f"{peer}: {os_text(error)}")
        except BaseException:
            sock.close()
            raise
        else:
            return sock, peer
        sock.close()
    raise DialError("; ".join(failures), resolved=True)


async def _resolve(host: str, port: int, seconds: float) -> list[tuple[int, int, int, str, Any]]:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(seconds):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError as error:
        raise DialError(f"host name {host!r} was not resolved within {seconds:g} s", resolved=False) from error
    except (OSError, UnicodeError) as error:
        reason = os_text(error) if isinstance(error, OSError) else str(error)
        raise DialError(f"host name {host!r} cannot be resolved: {reason}", resolved=False) from error
    return list(dict.fromkeys(found))  # a name may be listed twice in /etc/hosts


def os_text(error: OSError) -> str:
    """Without asyncio's "Connect call failed ('...', 25)", which hides the reason."""
    if error.errno is not None and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno).lower()
    return (error.strerror or str(error) or type(error).__name__).lower()
