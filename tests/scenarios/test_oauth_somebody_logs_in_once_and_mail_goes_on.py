"""User flows: somebody logs in by `authorize` while the daemon runs; it outlives crashes, and its end is said."""

from __future__ import annotations

import re
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.scenarios.tokens import SECRET, TokenSite, url_in
from tests.servers.daemon import Daemon
from tests.servers.oidc import Browser, OpenIdProvider
from tests.servers.process import kill
from tests.servers.tokenserver import TokenServer

pytestmark = pytest.mark.real

StartProvider = Callable[..., OpenIdProvider]


@contextmanager
def authorizing(running: Daemon, *arguments: str) -> Iterator[Callable[[str], str]]:
    """`mailrelayd authorize smarthost`; yields a function that reads up to a line with these words. It must succeed."""
    told: list[str] = []
    process = running.begin("authorize", "smarthost", *arguments)
    assert process.stdout is not None
    stream = process.stdout

    def read_until(words: str) -> str:
        for line in iter(stream.readline, b""):
            told.append(line.decode())
            if words in told[-1]:
                return told[-1]
        raise AssertionError("".join(told))

    try:
        yield read_until
        assert process.stdin is not None
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, "".join(told) + output.decode()
    finally:
        if process.poll() is None:
            kill(process)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def by_device(site: TokenSite, running: Daemon) -> None:
    with authorizing(running) as read_until:
        code = read_until("enter:").rpartition("enter:")[2].strip()
        site.server.entra.approve(code, site.user.name)


def device(site: TokenSite) -> None:
    """Entra's device flow, for a public application."""
    site.server.entra.register("app", public=True)
    site.oauth = {
        "provider": "microsoft",
        "flow": "device",
        "authority": site.server.url,
        "tenant_id": site.server.entra.tenant,
        "client_id": "app",
    }


def test_a_device_login_serves_the_running_daemon(token_site: TokenSite) -> None:
    """Before it the route is held and says which command helps; after it mail goes, without a restart."""
    device(token_site)
    token_site.reads = False
    running = token_site.run()
    token_site.drop(1)
    token_site.held(running, "mailrelayd authorize", count=1)
    by_device(token_site, running)
    token_site.arrived(running, 1)
    token_site.says_no_secret(running)
    assert running.stop() == 0


def test_consent_that_was_withdrawn(token_site: TokenSite) -> None:
    """The route is held, nothing fails, and the next login of a person lets everything go."""
    device(token_site)
    token_site.reads = False
    running = token_site.run()
    by_device(token_site, running)
    token_site.drop(1)
    token_site.arrived(running, 1)
    token_site.server.issued.revoke()
    token_site.postfix.restart()
    token_site.drop(2, 3)
    token_site.held(running, "mailrelayd authorize", count=2)
    by_device(token_site, running)
    token_site.arrived(running, 1, 2, 3)
    token_site.says_no_secret(running)
    assert running.stop() == 0


def test_a_browser_comes_back_to_the_listener(token_site: TokenSite, openid_provider: StartProvider) -> None:
    """Authorization code with PKCE at a real provider; its refresh tokens rotate, and mail goes on past short lives."""
    application = {"client_id": "app", "client_secret": SECRET, "redirect_uris": ["http://127.0.0.1/"]}
    provider = openid_provider([application], life=3)
    token_site.reads = False
    token_site.oauth = {
        "provider": "custom",
        "flow": "authorization-code",
        "authority": provider.url,
        "client_id": "app",
        "client_secret": f"text:{SECRET}",
        "scopes": ["smtp", "imap", "offline_access"],
    }
    running = token_site.run()
    with authorizing(running) as read_until:
        back = Browser(token_site.user.name).consent(url_in(read_until(provider.url + "/auth")))
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(back, timeout=20) as page:
            assert page.status == 200
    first = token_site.refresh_token()
    token_site.drop(1)
    token_site.arrived(running, 1)
    provider.expire()
    token_site.postfix.restart()
    token_site.drop(2)
    token_site.arrived(running, 1, 2)
    assert token_site.refresh_token() != first
    assert running.events("route.down") == []
    assert running.stop() == 0


def test_a_pasted_address_serves_as_well(token_site: TokenSite) -> None:
    """Google's users, on a machine without a browser: the address that the browser ended at is pasted."""
    google = token_site.server.google
    google.clients["app"], google.signed_in = SECRET, token_site.user.name
    token_site.reads = False
    token_site.oauth = {
        "provider": "google",
        "flow": "authorization-code",
        "authority": token_site.server.url,
        "client_id": "app",
        "client_secret": f"text:{SECRET}",
    }
    running = token_site.run()
    process: subprocess.Popen[bytes] = running.begin("authorize", "smarthost", "--paste")
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        line = b""
        while b"/o/oauth2/v2/auth?" not in line:
            line = process.stdout.readline()
            assert line, "it ended without an address"
        pasted = Browser(token_site.user.name).consent(url_in(line.decode()))
        output, _ = process.communicate(f"{pasted}\n".encode(), 60)
        assert process.returncode == 0, output.decode()
    finally:
        if process.poll() is None:
            kill(process)
        process.stdin.close()
        process.stdout.close()
    token_site.drop(1)
    token_site.arrived(running, 1)
    assert running.stop() == 0


# -- a crash -------------------------------------------------------------------------------------------------------


def at_first_use(server: TokenServer, running: Daemon) -> None:
    """The daemon dies when the mail server asks about a token that is good, the first time that it is used."""

    def strike(protocol: str, token: str) -> None:
        if server.issued.introspect(token, protocol, server.now())["active"]:
            server.before_introspection = None
            running.kill9()

    server.before_introspection = strike


def test_a_rotated_refresh_token_survives_a_crash(token_site: TokenSite) -> None:
    """Killed again and again at the first use of a renewed token: what is on disk is always the one that is good."""
    device(token_site)
    token_site.reads = False
    running = token_site.run()
    by_device(token_site, running)
    seen = {token_site.refresh_token()}
    for number in (1, 2):
        token_site.server.issued.expire()
        token_site.postfix.restart()
        at_first_use(token_site.server, running)
        if not running.running:
            running.start()
        token_site.drop(number)
        assert running.wait(60) == -signal.SIGKILL, running.log()  # by us: it did not end for another reason
        assert token_site.refresh_token() not in seen
        seen.add(token_site.refresh_token())
    token_site.server.issued.expire()
    running.start().wait_ready()
    token_site.arrived(running, 1, 2)
    assert token_site.server.issued.reused == []
    used = [one.form["refresh_token"] for one in token_site.server.asked("refresh_token")]
    assert len(used) == len(set(used)) >= 3
    token_site.says_no_secret(running)
    assert running.stop() == 0


def test_two_processes_do_not_lose_each_others_token(token_site: TokenSite) -> None:
    """The daemon and three commands have to renew while the provider takes its time: one of them does, for all."""
    device(token_site)
    token_site.reads = False
    running = token_site.run()
    by_device(token_site, running)
    token_site.server.issued.expire()
    token_site.postfix.restart()
    token_site.server.trouble.delay = 1.5
    before = len(token_site.server.asked("refresh_token"))
    commands: list[Any] = [running.begin("doctor", "--json") for _ in range(3)]
    token_site.drop(1)
    for command in commands:
        output, _ = command.communicate(timeout=60)
        assert re.search(rb'"login"', output), output
    token_site.arrived(running, 1)
    assert token_site.server.issued.reused == []
    assert len(token_site.server.asked("refresh_token")) == before + 1
    assert running.events("route.down") == []
    assert running.stop() == 0
