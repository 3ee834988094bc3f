"""A server on loopback that gives out tokens as Microsoft and Google do, and refuses what they refuse.

It checks what their documentation asks for, more strictly than they do where they are said to be lenient. The second
port is for mail servers, which ask there whether a token is good: it answers also while the first one is away.
"""

from __future__ import annotations

import base64
import json
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

from tests.servers.entra import Entra
from tests.servers.googleaccounts import GoogleAccounts
from tests.servers.issued import Issued
from tests.servers.process import free_port
from tests.servers.tokenanswers import Answer, Asked, Refusal

RESOURCE_SERVER = ("mail-server", "introspects")  # who may ask for what a token is worth
FORM = "application/x-www-form-urlencoded"
HUGE = 8 * 1024 * 1024  # bytes; no answer of a token server is as long
LONGEST = 60.0  # seconds of a slow answer


@dataclass
class Trouble:
    """What is wrong with the server, for as long as it is set."""

    mode: str = ""  # slow | garbage | huge | unavailable | throttled | redirect | cut
    queued: list[Answer] = field(default_factory=list)  # said to the next requests, one each
    delay: float = 0.0  # seconds before each answer

    def answer(self) -> Answer | None:
        """What is said instead of the right thing."""
        if self.queued:
            return self.queued.pop(0)
        answers = {
            "garbage": Answer(200, b"<html>Sign in to the hotel's network</html>", {"Content-Type": "text/html"}),
            "huge": Answer(200, b'{"access_token": "' + b"x" * HUGE + b'", "expires_in": 3600}'),
            "unavailable": Answer(503, b"Service Unavailable", {"Content-Type": "text/plain"}),
            "throttled": Answer(429, {"error": "temporarily_unavailable"}, {"Retry-After": "2"}),
            "redirect": Answer(302, b"", {"Location": "http://127.0.0.1:1/elsewhere"}),
        }
        return answers.get(self.mode)


class TokenServer:
    """Both ports, while the context lasts. `entra` and `google` are the two providers; they share what is issued."""

    def __init__(self) -> None:
        """Nothing listens yet."""
        self.port = free_port()
        self.introspection_port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.reset()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._doors: dict[int, tuple[ThreadingHTTPServer, threading.Thread]] = {}

    def reset(self) -> None:
        """As new: nobody is known, nothing was asked or issued."""
        self.skew = 0.0  # seconds that its clock is ahead of ours
        self.life = 3600.0  # seconds of an access token
        self.trouble = Trouble()
        self.requests: list[Asked] = []  # to the first port, in order, refused ones too
        self.introspected: list[tuple[str, bool]] = []  # protocol, whether the token was active
        self.others: Callable[[str], str] | None = None  # where a mail server's question about foreign tokens goes
        self.before_introspection: Callable[[str, str], None] | None = None  # told protocol and token before the answer
        self.issued = Issued()
        self.entra = Entra(self.url, self.issued, self.now, lambda: self.life)
        self.google = GoogleAccounts(self.url, self.issued, self.now, lambda: self.life)

    def now(self) -> float:
        """The time, as it believes (seconds since 1970)."""
        return time.time() + self.skew

    def __enter__(self) -> Self:
        """Listen on both ports."""
        self._ended.clear()
        self._open(self.port, self._provide)
        self._open(self.introspection_port, self._introspect)
        return self

    def __exit__(self, *_: object) -> None:
        """Close what is open; answers under way are cut."""
        self._ended.set()
        for port in list(self._doors):
            self._close(port)

    @contextmanager
    def away(self) -> Iterator[None]:
        """The first port refuses connections meanwhile."""
        self._close(self.port)
        try:
            yield
        finally:
            self._open(self.port, self._provide)

    @contextmanager
    def troubled(self, mode: str) -> Iterator[None]:
        """Every request to the first port meets this trouble meanwhile."""
        self.trouble.mode = mode
        try:
            yield
        finally:
            self.trouble.mode = ""

    def refuse_once(self, status: int, document: dict[str, Any]) -> None:
        """The next request is answered so, whatever it asks."""
        self.trouble.queued.append(Answer(status, document))

    def introspection_url(self, protocol: str) -> str:
        """Where the mail server for `protocol` (smtp, imap) asks; with its name and password."""
        name, password = RESOURCE_SERVER
        return f"http://{name}:{password}@127.0.0.1:{self.introspection_port}/introspect/{protocol}"

    def issued_has_ended(self) -> bool:
        """Whether no access token is good any more, by age."""
        return all(self.now() >= until for _, until in self.issued.access.values())

    def asked(self, grant_type: str) -> list[Asked]:
        """The token requests of this kind so far."""
        return [one for one in self.requests if one.form.get("grant_type") == grant_type]

    def _open(self, port: int, respond: Any) -> None:
        server = _Server(("127.0.0.1", port), _Connection)
        server.respond, server.ended = respond, self._ended
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        self._doors[port] = (server, thread)

    def _close(self, port: int) -> None:
        server, thread = self._doors.pop(port)
        server.shutdown()
        server.server_close()
        thread.join(5)

    def _provide(self, asked: Asked) -> Answer | None:
        with self._lock:
            self.requests.append(asked)
            wrong = self.trouble.answer()
        self._ended.wait(LONGEST if self.trouble.mode == "slow" else self.trouble.delay)
        if self.trouble.mode in ("cut", "slow"):
            return None
        if wrong is not None:
            return wrong
        with self._lock:
            try:
                return self.google.answer(asked) or self.entra.answer(asked) or Answer(404, {"error": "not_found"})
            except Refusal as refusal:
                return refusal.answer

    def _introspect(self, asked: Asked) -> Answer:
        expected = "Basic " + base64.b64encode(":".join(RESOURCE_SERVER).encode()).decode()
        if asked.headers.get("authorization") != expected:
            return Answer(401, {"error": "invalid_client"})
        protocol = asked.path.removeprefix("/introspect/")
        token, others = asked.form.get("token", ""), self.others
        if self.before_introspection is not None:
            self.before_introspection(protocol, token)
        with self._lock:
            found = self.issued.introspect(token, protocol, self.now())
        if others is not None and not found["active"]:
            found = introspect(others(protocol), token)
        with self._lock:
            self.introspected.append((protocol, found["active"]))
        return Answer(200, found)


def introspect(url: str, token: str) -> dict[str, Any]:
    """Ask as a mail server does (RFC 7662); name and password stand in the URL."""
    parts = urlsplit(url)
    login = base64.b64encode(f"{parts.username}:{parts.password}".encode()).decode()
    address = f"http://{parts.hostname}:{parts.port}{parts.path}"
    request = urllib.request.Request(address, urlencode({"token": token}).encode(), {"Authorization": f"Basic {login}"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    respond: Any
    ended: threading.Event

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # of a client that was killed
            super().handle_error(request, client_address)


class _Connection(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 30
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        kind = self.headers.get_content_type()
        pairs = parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=bool(body))
        if kind != FORM or len({name for name, _ in pairs}) != len(pairs):
            # RFC 6749 section 3.2: parameters go in a form, none of them twice
            return self._say(Answer(400, {"error": "invalid_request", "error_description": "a form, nothing twice"}))
        return self._answer(dict(pairs))

    def _answer(self, form: dict[str, str]) -> None:
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.respond(Asked(self.command, url.path, query, form, headers))
        if answer is None or self.server.ended.is_set():
            self.close_connection = True
            return
        self._say(answer)

    def _say(self, answer: Answer) -> None:
        body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", "Cache-Control": "no-store", **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        with suppress(OSError):  # of whom does not want to read that much
            self.wfile.write(body)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass
