"""Where the browser comes back to: a server on this machine alone, for the one answer that is waited for (RFC 8252)."""

from __future__ import annotations

import asyncio
import hmac
from types import TracebackType
from typing import Final, Self
from urllib.parse import parse_qs, urlsplit

SECONDS: Final = 10.0  # for one request
LAST: Final = 1.0  # for requests under way when the block ends
HEAD: Final = 32 * 1024  # octets of a request

_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>mailrelayd</title></head>
<body><p>{text}</p></body></html>
"""
_HEAD: Final = (
    "HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {length}\r\n"
    "Cache-Control: no-store\r\nReferrer-Policy: no-referrer\r\nContent-Security-Policy: default-src 'none'\r\n"
    "X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
)
_DONE: Final = "mailrelayd has what it needs. You can close this window and go back to the terminal."
_REFUSED: Final = "The provider said no. The terminal says why; you can close this window."
_FOREIGN: Final = "This is not the answer that mailrelayd waits for."


def redirect_uri(provider: str, port: int) -> str:
    """What the provider is told to send the browser back to.

    Microsoft knows this machine by its name, whatever the port; everybody else by its number (RFC 8252 section 8.3).
    """
    return f"http://localhost:{port}" if provider == "microsoft" else f"http://127.0.0.1:{port}/"


class Listener:
    """Listens on 127.0.0.1 as long as its block lasts.

    Only a request that carries the state counts, and of those the first; whatever else asks, such as for an icon, is
    told so and changes nothing: another page in the same browser can neither end the waiting nor put in its own code.
    """

    def __init__(self, port: int = 0) -> None:
        """`port` 0: any free one."""
        self.state = ""  # what an answer must carry; "": nothing is asked yet
        self._port = port
        self._server: asyncio.Server | None = None
        self._answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The one it listens on."""
        return self._port

    async def __aenter__(self) -> Self:
        """Raises OSError where the port is not free."""
        self._server = await asyncio.start_server(self._take, "127.0.0.1", self._port, limit=HEAD)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        if self._serving:  # the page that says so is on its way; nobody else is waited for
            await asyncio.wait(self._serving, timeout=LAST)
        for serving in self._serving:
            serving.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._server.wait_closed()
        self._answer.cancel()

    async def answer(self) -> str:
        """The path and query that the browser came back with, once it has."""
        return await asyncio.shield(self._answer)

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(SECONDS):
                status, text = self._judge(await reader.readuntil(b"\r\n\r\n"))
                body = _PAGE.format(text=text).encode()
                writer.write(_HEAD.format(status=status, length=len(body)).encode() + body)
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a browser that opens a connection and says nothing on it
        finally:
            writer.close()

    def _judge(self, head: bytes) -> tuple[str, str]:
        """Status and text of the page."""
        method, _, rest = head.decode("latin-1").partition(" ")
        target = rest.partition(" ")[0]
        try:
            fields = parse_qs(urlsplit(target).query, max_num_fields=100) if method == "GET" else {}
        except ValueError:
            fields = {}
        state = " ".join(fields.get("state", ()))
        if not self.state or not hmac.compare_digest(state.encode(), self.state.encode()):
            return "404 Not Found", _FOREIGN
        if not self._answer.done():
            self._answer.set_result(target)
        return "200 OK", _REFUSED if "error" in fields else _DONE
