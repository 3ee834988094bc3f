"""The part of `authorize` that a person plays: a code on another device, or a login in a browser."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from mailrelayd.cli.screen import WIDEST
from mailrelayd.oauth import grants
from mailrelayd.oauth.listener import Listener, redirect_uri
from mailrelayd.oauth.values import OAuthError
from mailrelayd.operate.log import escape

if TYPE_CHECKING:
    from mailrelayd.oauth.tokens import TokenSource

PATIENCE = 900.0  # seconds for a login in a browser
TRIES = 3  # pasted addresses that are none
PASTED_PORT = 8925  # of the address that nobody listens at; any would do


@dataclass(frozen=True, slots=True)
class Person:
    """Whoever sits at the terminal."""

    out: TextIO

    def tell(self, text: str) -> None:
        """One line; what came from a provider may hold no control characters."""
        print(escape(text), file=self.out, flush=True)

    def ask(self, prompt: str) -> str:
        """A line from them, however long. Raises OAuthError where none comes."""
        with suppress(ImportError):
            import readline  # noqa: F401 - without it the terminal cuts a line at 4096 characters
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # asyncio's waits for the end of `input`
        try:
            print(prompt, end=" ", file=self.out, flush=True)
            return input()
        except (EOFError, RuntimeError):  # the latter where standard input or output is closed
            raise OAuthError("nothing was pasted", kind="consent") from None
        finally:
            signal.signal(signal.SIGINT, before)


async def agree(source: TokenSource, person: Person, *, paste: bool, port: int) -> None:
    """Have somebody log in; the token is on disk afterwards. Raises OAuthError, OSError where the port is taken."""
    if source.oauth.flow == "device":
        await _on_another_device(source, person)
    elif paste:
        await _pasted(source, person, port or PASTED_PORT)
    else:
        await _in_a_browser(source, person, port)


async def _on_another_device(source: TokenSource, person: Person) -> None:
    code = await source.start_device()
    person.tell(f"Open {code.verification_uri} on any device and enter: {code.user_code}")
    if code.verification_uri_complete:
        person.tell(f"or open {code.verification_uri_complete}")
    person.tell(f"Waiting for {code.life / 60:.0f} minutes; Ctrl-C ends it.")
    await source.finish_device(code)


async def _in_a_browser(source: TokenSource, person: Person, port: int) -> None:
    async with Listener(port) as listener:
        begun = await source.start_authorization(redirect_uri(source.provider, listener.port))
        listener.state = begun.state
        person.tell("Open this address in a browser on this machine, and log in as the mailbox's user:")
        person.tell(f"  {begun.url}")
        name = socket.gethostname()
        person.tell("If the browser is elsewhere, first run there, and leave it running:")
        person.tell(f"  ssh -L {listener.port}:localhost:{listener.port} {name}")
        person.tell(f"or use --paste. Waiting for {PATIENCE / 60:.0f} minutes; Ctrl-C ends it.")
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await listener.answer()
        except TimeoutError:
            raise OAuthError("nobody logged in within the time", kind="consent", code="expired_token") from None
    await source.finish_authorization(begun, answer)


async def _pasted(source: TokenSource, person: Person, port: int) -> None:
    begun = await source.start_authorization(redirect_uri(source.provider, port))
    terms = await source.terms()
    person.tell("Open this address in a browser anywhere, and log in as the mailbox's user:")
    person.tell(f"  {begun.url}")
    person.tell(f"At the end the browser cannot show a page of {begun.redirect_uri}. That is right: copy its address.")
    left = TRIES
    while True:
        answer = person.ask("Its whole address:")
        left -= 1
        try:
            grants.code_from(terms, begun, answer)
        except OAuthError as error:
            if error.code or not left:  # what the provider says is final
                raise
            person.tell(f"{error.text}.")
        else:
            break
    await source.finish_authorization(begun, answer)


def terminal(*, json: bool) -> Person:
    """With --json standard output is for the document alone."""
    return Person(sys.stderr if json else sys.stdout)


def width() -> int:
    """Columns for text, as far as the terminal has them."""
    return min(shutil.get_terminal_size().columns, WIDEST)
