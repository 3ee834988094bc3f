"""One account's way to its provider: references become secrets, and these a request. Nothing is remembered here.

Secrets are fetched anew each time. The module with the requests is imported when the first of them is made.
"""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Collection
from importlib.util import find_spec
from typing import Any, Final

from mailrelayd.clock import Clock
from mailrelayd.config import secrets
from mailrelayd.config.oauth import OAuth
from mailrelayd.config.secrets import Secret
from mailrelayd.oauth import grants, providers
from mailrelayd.oauth.claims import decode
from mailrelayd.oauth.grants import Authorization, DeviceCode
from mailrelayd.oauth.providers import Terms
from mailrelayd.oauth.values import Kind, OAuthError, Token
from mailrelayd.operate import log

COMMAND_CACHE: Final = 300.0  # seconds for which a token of token_command is used that does not say when it ends
# The extra `oauth` of pyproject.toml, which tests compare.
INSTALL: Final = f"{shlex.quote(sys.executable)} -m pip install 'authlib~=1.9' 'cryptography>=42' 'joserfc~=1.8'"


class Asking:
    """Every method raises OAuthError."""

    def __init__(self, account: str, oauth: OAuth, user: str, protocols: Collection[str], clock: Clock) -> None:
        """`account` names the keys in errors, `user` is a reference, `protocols` what the token has to open."""
        self.oauth = oauth
        self._account = account
        self._user = user
        self._protocols = frozenset(protocols)
        self._clock = clock

    def terms(self) -> Terms:
        """What is asked of whom, some addresses perhaps not known yet. Reads files, may run commands."""
        client_id = self._resolved(self.oauth.client_id, "oauth.client_id")
        user = self._resolved(self._user, "user")
        return providers.terms(self.oauth, client_id=client_id, user=user, protocols=self._protocols)

    async def complete(self, terms: Terms) -> Terms:
        """The same with every address."""
        known: Terms = await (await _flows()).complete(terms)
        return known

    async def token(self, terms: Terms, refresh_token: str) -> Token:
        """A token from the provider."""
        flows, own, complete = await _flows(), await self._proof(), await self.complete(terms)
        found: Token
        if terms.interactive:
            found = await flows.refresh(complete, own, refresh_token, self._clock.now())
        else:
            found = await flows.fetch(complete, own, self._clock.now())
        return found

    async def command(self) -> Token:
        """A token from token_command: the first line that it prints."""
        key, now = f"{self._account}.oauth.token_command", self._clock.now()
        reference = Secret(f"command:{shlex.join(self.oauth.token_command)}")
        try:
            text = await asyncio.to_thread(secrets.resolve, reference, key=key)
        except secrets.SecretError as error:
            kind: Kind = "configuration" if secrets.program_missing(reference) else "temporary"
            raise OAuthError(str(error), kind=kind) from error
        if not grants.is_token(text):
            raise OAuthError(f"{key}: its first line is no access token", kind="configuration")
        claims = decode(text)
        end = claims.expires_at if claims is not None else None
        return Token(text, now, now + COMMAND_CACHE if end is None else end)

    async def start_device(self, terms: Terms) -> DeviceCode:
        """Begin a login on another device."""
        code: DeviceCode = await (await _flows()).start_device(terms, await self._proof(), self._clock.now())
        return code

    async def finish_device(self, terms: Terms, code: DeviceCode) -> Token:
        """Wait until somebody has logged in there."""
        flows, own = await _flows(), await self._proof()
        end, interval = self._clock.monotonic() + code.life, code.interval
        never = asyncio.Event()
        while self._clock.monotonic() < end:
            await self._clock.wait(never, interval)
            try:
                found: Token = await flows.ask_device(terms, own, code, self._clock.now())
            except OAuthError as error:
                if error.kind != "temporary":
                    raise
                if error.code == "slow_down":
                    interval += 5.0  # RFC 8628 section 3.5
                elif error.code == "timeout":
                    interval *= 2.0
            else:
                return found
        text = "nobody has logged in before the code ended: begin again"
        raise OAuthError(text, kind="consent", code="expired_token")

    async def start_authorization(self, terms: Terms, redirect_uri: str) -> Authorization:
        """Begin a login in a browser."""
        begun: Authorization = (await _flows()).start_authorization(terms, redirect_uri)
        return begun

    async def finish_authorization(self, terms: Terms, begun: Authorization, answer: str) -> Token:
        """Exchange what it brought back."""
        flows, own = await _flows(), await self._proof()
        found: Token = await flows.finish_authorization(terms, own, begun, answer, self._clock.now())
        return found

    async def _proof(self) -> Any:
        flows = await _flows()
        secret = await asyncio.to_thread(self._resolved, self.oauth.client_secret, "oauth.client_secret")
        log.conceal(secret, of=f"{self._account}.oauth.client_secret")
        return flows.Proof(secret, self.oauth.client_certificate, self.oauth.service_account_file)

    def _resolved(self, reference: Secret | str, key: str) -> str:
        try:
            return secrets.resolve(reference, key=f"{self._account}.{key}")
        except secrets.SecretError as error:
            raise OAuthError(str(error), kind="configuration") from error


def installed() -> bool:
    """Whether the library for tokens is there; nothing of it is imported."""
    return find_spec("authlib") is not None


async def require_library() -> None:
    """Raises OAuthError where the library for tokens is not installed."""
    await _flows()


async def _flows() -> Any:
    """The module `flows`, imported in a thread the first time: it takes some tenths of a second."""
    return await asyncio.to_thread(_imported)


def _imported() -> Any:
    try:
        from mailrelayd.oauth import flows
    except ImportError as error:
        text = f"logging in with a token needs a library that is not installed: {INSTALL}"
        raise OAuthError(text, kind="configuration", code="not-installed") from error
    return flows
