"""The webhook: POST to whoever waits for decisions. Loaded only where one is configured: its library is a large one."""

from __future__ import annotations

import asyncio
import base64
import binascii
import email.utils
import hashlib
import hmac
import ssl
from collections.abc import Callable
from contextlib import suppress

import httpx2

from mailrelayd import __version__
from mailrelayd.approvals.document import MEDIA_TYPE
from mailrelayd.approvals.sinks import Again, Answer, Hopeless, Taken, short
from mailrelayd.clock import Clock

TIMEOUT = 20.0  # seconds for all of one call
AT_ONCE = 4  # calls under way; more would find a receiver that serves one after the other no faster
ANSWER_TIMEOUT, LONGEST_ANSWER = 1.0, 64 << 10  # seconds and bytes of an answer's body, for the sake of its connection
LONGEST_WAIT = 86_400.0  # seconds that a receiver may ask us to wait


class WebhookSink:
    """POST, signed as Standard Webhooks 1.0 says. 2xx is taken, 410 hopeless, everything else again.

    Connections are kept from one call to the next, and closed by `rest`: what lies idle is what receivers and
    firewalls drop without a word.
    """

    at_once = AT_ONCE

    def __init__(self, url: str, secret: Callable[[], str], clock: Clock) -> None:
        """`secret` is asked in a thread at each call: whsec_BASE64, or any other text. It may raise OSError."""
        self._url = url
        self._secret = secret
        self._clock = clock
        self._trust: ssl.SSLContext | None = None
        self._client: httpx2.AsyncClient | None = None

    async def offer(self, decision_id: str, document: bytes) -> Answer:
        """Call it."""
        try:
            key = key_of(await asyncio.to_thread(self._secret))
        except (OSError, ValueError) as error:
            return Again(f"its secret cannot be used: {error}")
        timestamp = int(self._clock.now())
        headers = {
            "content-type": MEDIA_TYPE,
            "user-agent": f"mailrelayd/{__version__}",
            "webhook-id": decision_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(key, decision_id, timestamp, document),
        }
        status, wait = 0, None  # once there is an answer, it counts, whatever becomes of its connection
        try:
            client = await self._connections()
            async with (
                asyncio.timeout(TIMEOUT),
                client.stream("POST", self._url, content=document, headers=headers) as response,
            ):
                status, wait = response.status_code, _wait(response.headers.get("retry-after"), self._clock.now())
                await _read_through(response)
        except TimeoutError:
            if not status:
                return Again(f"no answer within {TIMEOUT:.0f} s")
        except (httpx2.HTTPError, OSError, ValueError) as error:
            if not status:
                return Again(short(f"{type(error).__name__}: {error}"))
        if 200 <= status < 300:
            return Taken()
        if status == 410:
            return Hopeless("410 Gone: its receiver wants no more")
        if 300 <= status < 400:
            return Again(f"{status}: it redirects, which is not followed; correct webhook")
        return Again(f"HTTP status {status}", wait if status in (429, 503) else None)

    async def rest(self) -> None:
        """Close the connections."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    async def _connections(self) -> httpx2.AsyncClient:
        if self._trust is None:  # reads all certificates of authorities, which takes 30 ms
            self._trust = await asyncio.to_thread(httpx2.create_ssl_context, trust_env=False)
        if self._client is None:
            limits = httpx2.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)
            self._client = httpx2.AsyncClient(
                timeout=TIMEOUT, follow_redirects=False, trust_env=False, verify=self._trust, limits=limits
            )
        return self._client


def signature(key: bytes, decision_id: str, timestamp: int, document: bytes) -> str:
    """Standard Webhooks: HMAC-SHA256 over id, time and body."""
    digest = hmac.digest(key, f"{decision_id}.{timestamp}.".encode() + document, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


def key_of(secret: str) -> bytes:
    """The key a secret stands for. Raises ValueError."""
    if not secret.startswith("whsec_"):
        if not secret:
            raise ValueError("it is empty")
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error as error:
        raise ValueError("behind whsec_ stands no base64") from error


async def _read_through(response: httpx2.Response) -> None:
    """Read an answer's body, which says nothing that counts, so that its connection can serve the next call.

    It may be endless, or never come: then the connection is closed instead.
    """
    size = 0
    with suppress(TimeoutError, httpx2.HTTPError):
        async with asyncio.timeout(ANSWER_TIMEOUT):
            async for piece in response.aiter_raw():
                size += len(piece)
                if size > LONGEST_ANSWER:
                    return


def _wait(text: str | None, now: float) -> float | None:
    """Retry-After (RFC 9110 section 10.2.3) in seconds; None where it says nothing that can be used."""
    if text is None:
        return None
    if text.strip().isascii() and text.strip().isdigit() and len(text) < 20:
        return min(float(text), LONGEST_WAIT)
    try:
        at = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
    return min(max(at - now, 0.0), LONGEST_WAIT)
