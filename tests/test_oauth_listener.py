"""The server that the browser comes back to: one answer, by its state, on this machine alone."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

import pytest

from mailrelayd.oauth.listener import HEAD, Listener, redirect_uri


async def ask(port: int, request: str) -> str:
    """One request; all that is answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request.encode())
        await writer.drain()
        with suppress(ConnectionResetError):
            return (await reader.read()).decode()
        return ""
    finally:
        writer.close()


def get(target: str) -> str:
    return f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def test_the_answer_with_the_state_is_taken_whole() -> None:
    """The page says that it is done, is kept nowhere, and loads nothing."""
    async with Listener() as listener:
        listener.state = "s3cret"
        page = await ask(listener.port, get("/?code=c0de&state=s3cret&iss=https%3A%2F%2Fx"))
        assert await listener.answer() == "/?code=c0de&state=s3cret&iss=https%3A%2F%2Fx"
    assert page.startswith("HTTP/1.1 200 OK\r\n")
    assert "Cache-Control: no-store" in page
    assert "default-src 'none'" in page
    assert "close this window" in page
    assert "c0de" not in page


@pytest.mark.parametrize(
    "request_",
    [
        get("/favicon.ico"),
        get("/?code=evil"),
        get("/?code=evil&state="),
        get("/?code=evil&state=other"),
        get("/?code=evil&state=s3cret&state=other"),
        get("/?" + "&".join(f"a{n}=1" for n in range(200)) + "&state=s3cret"),
        "POST /?code=evil&state=s3cret HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
        "\x16\x03\x01 what?\r\n\r\n",
        "\r\n\r\n",
    ],
)
async def test_whatever_else_asks_changes_nothing(request_: str) -> None:
    """Another page in the same browser can neither end the waiting nor put in a code of its own."""
    async with Listener() as listener:
        listener.state = "s3cret"
        assert "404 Not Found" in await ask(listener.port, request_)
        await ask(listener.port, get("/?code=right&state=s3cret"))
        assert "right" in await listener.answer()


async def test_of_two_answers_the_first_counts() -> None:
    """A reloaded page is told the same and changes nothing."""
    async with Listener() as listener:
        listener.state = "s"
        await ask(listener.port, get("/?code=first&state=s"))
        assert "200 OK" in await ask(listener.port, get("/?code=second&state=s"))
        assert "first" in await listener.answer()


async def test_a_refusal_is_shown_as_one() -> None:
    """The reason is the terminal's to tell: nothing of the address stands in the page."""
    async with Listener() as listener:
        listener.state = "s"
        page = await ask(listener.port, get("/?error=access_denied&error_description=%3Cscript%3E&state=s"))
        assert "said no" in page
        assert "script" not in page
        assert "access_denied" in await listener.answer()


async def test_before_anything_is_asked_nothing_is_an_answer() -> None:
    """No state at all is not the same as the right one."""
    async with Listener() as listener:
        assert "404" in await ask(listener.port, get("/?code=c&state="))


async def test_a_request_too_long_is_dropped() -> None:
    """And the next one is served."""
    async with Listener() as listener:
        listener.state = "s"
        with suppress(ConnectionError):
            await ask(listener.port, get("/?" + "x" * (2 * HEAD)))
        await ask(listener.port, get("/?code=c&state=s"))
        assert "code=c" in await listener.answer()


async def test_a_connection_that_says_nothing_holds_nobody_up() -> None:
    """The block ends without waiting for it."""
    async with Listener() as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        await asyncio.sleep(0)
    assert await reader.read() == b""
    writer.close()


async def test_only_this_machine_can_reach_it() -> None:
    """It listens on 127.0.0.1, and not on another address of the loopback network."""
    async with Listener() as listener:
        with socket.socket() as other, pytest.raises(ConnectionRefusedError):
            other.connect(("127.0.0.2", listener.port))


def test_where_the_browser_comes_back_to() -> None:
    """Microsoft registers http://localhost, for any port of it; others the number, as RFC 8252 asks."""
    assert redirect_uri("microsoft", 80) == "http://localhost:80"
    assert redirect_uri("google", 80) == redirect_uri("custom", 80) == "http://127.0.0.1:80/"
