"""The socket through which the command line talks to the running daemon: one JSON object per line, both ways.

A request is `{"command": NAME, ...}`; the answer is any number of lines and one last line with "end". Who may
connect is decided by the socket's mode (0660) and folder.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from mailrelayd import durable
from mailrelayd.operate import events, sockets

LIMIT = 4 << 20  # bytes of one line: some 200,000 queue ids
MOST = 32  # connections at a time: descriptors are what the daemon delivers with
REQUEST = 5.0  # seconds for a request to arrive whole: a client sends it at once
PATIENCE = 60.0  # seconds for the other side to take a line of the answer
CLOSING = 1.0  # seconds for connections to end: nobody on the other side may hold up the daemon's own end

Answer = AsyncIterator[dict[str, Any]]
Respond = Callable[[dict[str, Any], str], Answer]


class RefusedError(Exception):
    """The request cannot be carried out; `status` is the command's exit status."""

    def __init__(self, status: int, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.status, self.reason, self.hint = status, reason, hint


class NoDaemonError(Exception):
    """Nobody listens there."""


class Server:
    """Listens while the daemon runs."""

    def __init__(
        self, path: Path, respond: Respond, *, request_within: float = REQUEST, patience: float = PATIENCE
    ) -> None:
        self._path = path
        self._respond = respond
        self._request_within = request_within
        self._patience = patience
        self._closing = False
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Raises OSError. Whoever holds the spool's lock owns the socket, so an old one is replaced."""
        durable.make_folder(self._path.parent, 0o711)  # submit.sock lies there too, for everybody
        self._path.unlink(missing_ok=True)
        name, folder = sockets.reachable(self._path)
        try:
            self._server = await asyncio.start_unix_server(self._connected, name, limit=LIMIT)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error  # bind(2) names no file
        finally:
            os.close(folder)
        self._path.chmod(0o660)

    async def close(self) -> None:
        """Stop listening; answers under way are cut off, whether or not anybody reads them."""
        self._closing = True
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections, timeout=CLOSING)
        self._path.unlink(missing_ok=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        finished = False
        try:
            await self._serve(reader, writer)
            finished = True
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the other side went away, or we are stopping: nothing depends on the answer
        except Exception as error:  # noqa: BLE001 - one odd request must not end the daemon
            events.daemon_bug(where="control", error=error)
        finally:
            if finished:
                writer.close()
            else:
                writer.transport.abort()  # close() would wait for a reader who may never read again
            try:
                async with asyncio.timeout(CLOSING):
                    await writer.wait_closed()
            except (OSError, TimeoutError, asyncio.CancelledError):
                writer.transport.abort()
            self._connections.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Nothing stays in our own buffer once a line is said: an answer that has ended is the kernel's to keep.
        writer.transport.set_write_buffer_limits(high=0)

        async def say(line: dict[str, Any]) -> None:
            writer.write(json.dumps(line).encode() + b"\n")
            async with asyncio.timeout(self._patience):
                await writer.drain()

        if self._closing:
            return  # it was accepted in the last moment
        if len(self._connections) > MOST:
            await say(
                {
                    "end": True,
                    "status": os.EX_TEMPFAIL,
                    "reason": f"the daemon already talks to {MOST} others",
                    "hint": "try again; `ss -xp` shows who is connected",
                }
            )
            return
        try:
            async with asyncio.timeout(self._request_within):
                request = json.loads(await reader.readline())
            if not isinstance(request, dict):
                raise TypeError
        except (ValueError, TypeError, RecursionError):
            await say({"end": True, "status": os.EX_USAGE, "reason": "a request is one JSON object on one line"})
            return
        try:
            async for line in self._respond(request, _peer(writer)):
                await say(line)
            await say({"end": True, "status": os.EX_OK})
        except RefusedError as refused:
            await say({"end": True, "status": refused.status, "reason": refused.reason, "hint": refused.hint})


def _peer(writer: asyncio.StreamWriter) -> str:
    """Who asks: the kernel's word for it."""
    connection = writer.get_extra_info("socket")
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return f"uid {uid}"


def ask(path: Path, request: dict[str, Any], *, timeout: float = 300.0) -> Iterator[dict[str, Any]]:
    """Send a request and yield the answer's lines.

    Raises NoDaemonError, and that only while nothing has been answered, so that a caller may do without the daemon
    instead; RefusedError, PermissionError, TimeoutError.
    """
    answered = False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            name, folder = sockets.reachable(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NoDaemonError from error
        try:
            connection.connect(name)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NoDaemonError from error
        except BlockingIOError as error:  # so many wait to be accepted that the kernel takes no more
            raise TimeoutError from error
        finally:
            os.close(folder)
        for line in _exchange(connection, json.dumps(request).encode() + b"\n"):
            answered = True
            if not line.endswith(b"\n"):
                break
            answer: dict[str, Any] = json.loads(line)
            if not answer.pop("end", False):
                yield answer
                continue
            if answer["status"] != os.EX_OK:
                raise RefusedError(answer["status"], answer["reason"], answer.get("hint", ""))
            return
    if answered:
        reason = "the daemon ended in the middle of its answer"
        raise RefusedError(os.EX_TEMPFAIL, reason, f"or it was not read for {PATIENCE:.0f} s; look, then try again")
    raise NoDaemonError


def _exchange(connection: socket.socket, request: bytes) -> Iterator[bytes]:
    """The answer's lines up to where the connection ends, however it ends; a torn one without its line end.

    Raises TimeoutError.
    """
    with suppress(ConnectionError):  # even where the daemon took nothing, it may have said why
        connection.sendall(request)
    torn = b""
    with suppress(ConnectionError):  # not a buffered file: that one forgets what came before a reset
        while piece := connection.recv(1 << 16):
            *whole, torn = (torn + piece).split(b"\n")
            for line in whole:
                yield line + b"\n"
    if torn:
        yield torn
