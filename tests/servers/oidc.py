"""A real OpenID provider: oidc-provider on Node.js, with applications, users, mail servers and a browser for them."""

from __future__ import annotations

import http.cookiejar
import json
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urljoin, urlsplit

from tests.servers.process import end, free_port

PROGRAM: Final = "node"
SOURCE: Final = Path(__file__).parent / "oidc"
INSTALLED: Final = Path(__file__).parents[2] / ".venv" / "oidc-provider"  # by install.sh
MAIL_SERVERS: Final = {"smtp": "introspects-for-smtp", "imap": "introspects-for-imap"}  # protocol -> secret


def is_installed() -> bool:
    """Whether install.sh has put there exactly what the lock file says."""
    copy = INSTALLED / "package-lock.json"
    there = copy.exists() and (INSTALLED / "node_modules" / "oidc-provider").is_dir()
    return there and copy.read_bytes() == (SOURCE / "package-lock.json").read_bytes()


class OpenIdProvider:
    """One provider; applications are known from its start on (client_id, client_secret or certificate, mailbox ...)."""

    def __init__(self, clients: Sequence[dict[str, Any]], *, life: float = 3600) -> None:
        """`life`: seconds of an access token. Nothing runs yet."""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        servers = [
            {"client_id": f"{one}-server", "client_secret": key, "protocol": one} for one, key in MAIL_SERVERS.items()
        ]
        self._start = {"port": self.port, "life": life, "clients": [*clients, *servers]}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return once it listens."""
        self._process = subprocess.Popen(
            [PROGRAM, str(SOURCE / "provider.mjs"), str(INSTALLED / "node_modules")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        if self._say(self._start) != b"listening\n":
            raise RuntimeError(
                f"the OpenID provider does not start: status {self._process.wait(10)}, see standard error"
            )

    def stop(self) -> None:
        """End it; what it issued is forgotten."""
        process, self._process = self._process, None
        if process is not None and process.stdin is not None and process.stdout is not None:
            end(process)
            process.stdin.close()
            process.stdout.close()

    def introspection_url(self, protocol: str) -> str:
        """Where the mail server for `protocol` (smtp, imap) asks; with its name and password."""
        return f"http://{protocol}-server:{MAIL_SERVERS[protocol]}@127.0.0.1:{self.port}/token/introspection"

    def live(self, seconds: float) -> None:
        """From now on an access token is good for so long."""
        self._command(life=seconds)

    def revoke(self) -> None:
        """Whatever it issued is void, and users have to consent again."""
        self._command(revoke=True)

    def expire(self) -> None:
        """Every access token ends now; refresh tokens go on."""
        self._command(expire=True)

    def _command(self, **command: object) -> None:
        if self._say(command) != b"done\n":
            raise RuntimeError("the OpenID provider is gone")

    def _say(self, command: dict[str, Any]) -> bytes:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()


class Browser:
    """Somebody at a browser, with cookies, who follows links and fills in forms."""

    def __init__(self, user: str) -> None:
        """`user` is who they say they are; the provider of the tests takes any password."""
        self.user = user
        self.page = ""
        self.url = ""
        cookies = http.cookiejar.CookieJar()
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(cookies), _NoRedirect()
        )

    def consent(self, authorize_url: str) -> str:
        """Sign in, allow what is asked for, and stop at the first address elsewhere: the redirect, with the code."""
        home = urlsplit(authorize_url).netloc
        self._visit(authorize_url, home)
        while urlsplit(self.url).netloc == home:
            self._submit(home, login=self.user, password="any")
        return self.url

    def enter_code(self, verification_url: str, user_code: str) -> str:
        """Enter a device's code, confirm it, sign in and allow; what the last page says."""
        home = urlsplit(verification_url).netloc
        self._visit(verification_url, home)
        while "<form" in self.page:
            self._submit(home, user_code=user_code, login=self.user, password="any")
        return re.sub(r"<[^>]+>|\s+", " ", self.page.partition("<body")[2])

    def _submit(self, home: str, **known: str) -> None:
        """Send the page's form: hidden fields as they are, others from `known`."""
        form = re.search(r"<form[^>]*>.*?</form>", self.page, re.DOTALL)
        if form is None:
            raise RuntimeError(f"no form at {self.url}:\n{self.page}")
        action = re.search(r'action="([^"]*)"', form[0])
        fields = {}
        for field in re.findall(r"<input[^>]*>", form[0]):
            properties = dict(re.findall(r'([\w-]+)="([^"]*)"', field))
            if name := properties.get("name"):
                fields[name] = properties.get("value") or known.get(name, "")
        self._visit(urljoin(self.url, action[1] if action else ""), home, urlencode(fields).encode())

    def _visit(self, url: str, home: str, form: bytes | None = None) -> None:
        """Load a page, through redirects, but only as long as they stay there."""
        while urlsplit(url).netloc == home:
            try:
                with self._opener.open(urllib.request.Request(url, form), timeout=20) as answer:
                    self.page, self.url = answer.read().decode(), url
                    return
            except urllib.error.HTTPError as error:
                with error:
                    if error.code not in (302, 303):
                        raise RuntimeError(f"{error.code} at {url}:\n{error.read().decode()}") from error
                    url, form = urljoin(url, error.headers["Location"]), None
        self.page, self.url = "", url


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None
