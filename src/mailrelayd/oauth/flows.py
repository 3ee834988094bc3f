"""The requests: from a provider's terms and a proof of who asks to a token (RFC 6749, 7523, 7636, 8414, 8628).

Imported when a token is needed, not before: authlib is an extra of its own. Of an answer at most `LIMIT` bytes are
read, no redirect is followed, no proxy of the environment is used, and nothing that was sent stands in an error.
"""

from __future__ import annotations

import asyncio
import email.utils
import secrets
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, cast
from urllib.parse import quote, quote_plus

import httpx2
from authlib.integrations.base_client.errors import OAuthError as Refused
from authlib.integrations.httpx_client import AsyncOAuth2Client
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from mailrelayd import __version__
from mailrelayd.oauth import grants, proof
from mailrelayd.oauth.grants import Authorization, DeviceCode
from mailrelayd.oauth.providers import Terms, authorization_extras, discovered
from mailrelayd.oauth.values import OAuthError, Token
from mailrelayd.outbound.answers import printable

SECONDS: Final = 20.0  # for one request, from DNS to its end
LIMIT: Final = 256 * 1024  # bytes of one answer
DEVICE: Final = "urn:ietf:params:oauth:grant-type:device_code"
JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ASSERTION: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_SECRET: Final = ("assertion", "client_assertion", "code", "code_verifier", "device_code", "refresh_token")


@dataclass(frozen=True, slots=True)
class Proof:
    """What proves who asks: at most one of them; none for an application that keeps no secret."""

    secret: str = field(default="", repr=False)
    certificate: str = ""  # the file
    service_account: str = ""  # the file


async def complete(terms: Terms) -> Terms:
    """The terms with every address that their flow needs: where some are missing, the provider's metadata say them."""
    if not terms.discovery_url:
        return terms
    async with _conversation(terms, Proof()) as client:
        answer = await _get(client, terms)
    try:
        return discovered(terms, answer)
    except ValueError as error:
        raise OAuthError(f"{terms.discovery_url}: {printable(str(error))}", kind="configuration") from error


async def fetch(terms: Terms, own: Proof, now: float) -> Token:
    """A token that nobody has to log in for: client credentials, or a service account's assertion."""
    if terms.flow == "service-account":
        account = await asyncio.to_thread(proof.read_service_account, own.service_account)
        assertion = proof.service_assertion(account, terms.user, terms.scopes, terms.token_url, now)
        return await _ask(terms, Proof(), now, JWT_BEARER, "nothing", assertion=assertion)
    more = {"scope": " ".join(terms.scopes)} if terms.scopes else {}
    return await _ask(terms, own, now, "client_credentials", **more)


async def refresh(terms: Terms, own: Proof, refresh_token: str, now: float) -> Token:
    """The next token. It may hold another refresh token: then the one before is void."""
    # RFC 6749 section 6: without `scope` it is what was granted. Microsoft's tokens are for one set of permissions.
    more = {"scope": " ".join(terms.scopes)} if terms.provider == "microsoft" else {}
    return await _ask(terms, own, now, "refresh_token", refresh_token=refresh_token, **more)


async def start_device(terms: Terms, own: Proof, now: float) -> DeviceCode:
    """Begin a login on another device (RFC 8628)."""
    if not terms.device_url:
        raise OAuthError(f"{terms.host} has no device login: set flow", kind="configuration")
    form = {"scope": " ".join(terms.scopes), **await _assertion(terms, own, now)}
    async with _conversation(terms, own) as client:
        auth = client.client_auth(client.token_endpoint_auth_method)
        asking = client.post(terms.device_url, data=form, auth=auth)
        return grants.device_code(terms, await _sent(terms, own, client, asking))


async def ask_device(terms: Terms, own: Proof, code: DeviceCode, now: float) -> Token:
    """Ask whether somebody has logged in. Raises OAuthError with code authorization_pending or slow_down: not yet."""
    return await _ask(terms, own, now, DEVICE, device_code=code.device_code)


def start_authorization(terms: Terms, redirect_uri: str) -> Authorization:
    """Begin a login in a browser, with PKCE."""
    if not terms.authorize_url:
        raise OAuthError(f"{terms.host} has no login in a browser: set flow", kind="configuration")
    verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(24)
    url = prepare_grant_uri(
        terms.authorize_url,
        terms.client_id,
        "code",
        redirect_uri,
        " ".join(terms.scopes),
        state,
        code_challenge=create_s256_code_challenge(verifier),
        code_challenge_method="S256",
        **authorization_extras(terms),
    )
    return Authorization(url, redirect_uri, state, verifier)


async def finish_authorization(terms: Terms, own: Proof, begun: Authorization, answer: str, now: float) -> Token:
    """Exchange what the browser brought back: `answer` is the whole address it was sent to."""
    code = grants.code_from(terms, begun, answer)
    return await _ask(
        terms,
        own,
        now,
        "authorization_code",
        code=code,
        redirect_uri=begun.redirect_uri,
        code_verifier=begun.verifier,
    )


# -- one request ---------------------------------------------------------------------------------------------------


class _Bounded(httpx2.AsyncBaseTransport):
    """The network, with a limit on each answer, and the last answer's status and time."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._inner = httpx2.AsyncHTTPTransport(verify=context, trust_env=False)
        self.status = 0
        self.clock = ""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        answer = await self._inner.handle_async_request(request)
        self.status, self.clock = answer.status_code, answer.headers.get("date", "")
        assert isinstance(answer.stream, httpx2.AsyncByteStream)
        if answer.headers.get("content-encoding", "identity") != "identity":
            await answer.stream.aclose()
            raise httpx2.RemoteProtocolError("the answer is compressed, which was not asked for")
        return httpx2.Response(answer.status_code, headers=answer.headers, stream=_Limited(answer.stream))

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Limited(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        # Closed here: else the event loop would close it some time later, in a task of its own.
        async with aclosing(cast("AsyncGenerator[bytes, None]", aiter(self._stream))) as pieces:
            async for piece in pieces:
                size += len(piece)
                if size > LIMIT:
                    raise httpx2.RemoteProtocolError(f"the answer has more than {LIMIT} bytes")
                yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


@asynccontextmanager
async def _conversation(terms: Terms, own: Proof) -> AsyncIterator[AsyncOAuth2Client]:
    context = await asyncio.to_thread(ssl.create_default_context)  # reads the CA files
    method = "none"
    if own.secret:
        method = "client_secret_basic" if terms.basic else "client_secret_post"
    client = AsyncOAuth2Client(
        terms.client_id,
        own.secret or None,
        token_endpoint_auth_method=method,
        transport=_Bounded(context),
        timeout=SECONDS,
        follow_redirects=False,
        trust_env=False,
        headers={"User-Agent": f"mailrelayd/{__version__}", "Accept-Encoding": "identity"},
    )
    client.register_client_auth_method(("nothing", _nothing))
    client.register_client_auth_method(("client_secret_basic", _basic))
    async with client:
        yield client


def _nothing(_client: Any, _method: str, uri: str, headers: Any, body: Any) -> tuple[str, Any, Any]:
    """An assertion says who asks; a client_id beside it would be one thing too many."""
    return uri, headers, body


def _basic(client: Any, _method: str, uri: str, headers: Any, body: Any) -> tuple[str, Any, Any]:
    """RFC 6749 section 2.3.1: both are encoded as in a form first, which the library leaves out."""
    pair = httpx2.BasicAuth(quote_plus(client.client_id), quote_plus(client.client_secret))
    request = next(pair.auth_flow(httpx2.Request("POST", uri)))
    headers["Authorization"] = request.headers["Authorization"]
    return uri, headers, body


async def _ask(terms: Terms, own: Proof, now: float, grant: str, method: str = "", **form: str) -> Token:
    """One request to the token endpoint. Raises OAuthError."""
    form |= await _assertion(terms, own, now)
    async with _conversation(terms, own) as client:
        auth = client.client_auth(method or client.token_endpoint_auth_method)
        asking = client.fetch_token(terms.token_url, grant_type=grant, auth=auth, **form)
        said = [text for name, text in form.items() if name in _SECRET]
        dated = now if {"assertion", "client_assertion"} & form.keys() else None  # else no clock matters
        answer = await _sent(terms, own, client, asking, said, dated)
    return grants.token(terms, answer, asked_at=now, refresh_token=form.get("refresh_token", ""))


async def _assertion(terms: Terms, own: Proof, now: float) -> dict[str, str]:
    """What a certificate adds to a form."""
    if not own.certificate:
        return {}
    microsoft = terms.provider == "microsoft"
    certificate = await asyncio.to_thread(proof.read_certificate, own.certificate, microsoft=microsoft)
    signed = proof.client_assertion(certificate, terms.client_id, terms.token_url, now)
    return {"client_assertion_type": ASSERTION, "client_assertion": signed}


async def _get(client: AsyncOAuth2Client, terms: Terms) -> dict[str, Any]:
    asking = client.get(terms.discovery_url, auth=None)
    return await _sent(terms, Proof(), client, asking, where=terms.discovery_url)


async def _sent(
    terms: Terms,
    own: Proof,
    client: AsyncOAuth2Client,
    asking: Any,
    said: Iterable[str] = (),
    now: float | None = None,
    *,
    where: str = "",
) -> dict[str, Any]:
    """The answer as an object. Raises OAuthError for everything else, without what was said."""
    transport: _Bounded = client._transport
    host = where or terms.host
    forms = ({text, quote(text), quote(text, safe=""), quote_plus(text)} for text in (own.secret, *said) if text)
    hidden = sorted(set().union(*forms), key=len, reverse=True)
    try:
        async with asyncio.timeout(SECONDS):
            answer = await asking
            if isinstance(answer, httpx2.Response):
                answer = _object(terms, answer)
            if not 200 <= transport.status < 300:  # RFC 6749 section 5.1: whatever stands in it
                raise _status(host, transport.status)
    except Refused as error:
        raise grants.refusal(
            terms,
            _without(str(error.error), hidden),
            _without(str(error.description or ""), hidden),
            status=transport.status,
            clock_error=_clock_error(transport.clock, now),
        ) from None
    except httpx2.HTTPStatusError as error:
        raise _status(host, error.response.status_code) from None
    except TimeoutError:
        raise OAuthError(f"{host} does not answer within {SECONDS:g} s", kind="temporary", code="timeout") from None
    except (httpx2.HTTPError, OSError) as error:
        raise _unreachable(host, error) from None
    except (ValueError, TypeError, OverflowError, RecursionError):
        text = f"{host} answers something that is no JSON object as a provider of tokens gives it"
        raise OAuthError(text, kind="temporary", code="garbage") from None
    return dict(answer)


def _object(terms: Terms, answer: httpx2.Response) -> dict[str, Any]:
    """The JSON object of an answer that authlib has not read."""
    if answer.status_code >= 500:
        answer.raise_for_status()
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        answer.raise_for_status()
        raise ValueError("no object")  # noqa: TRY004 - the answer is wrong, not the caller
    if "error" in found or answer.status_code >= 300:
        raise Refused(str(found.get("error", answer.status_code)), str(found.get("error_description", "")))
    return found


def _status(host: str, status: int) -> OAuthError:
    if status >= 500 or status == 429:
        return OAuthError(f"{host} answers with HTTP status {status}", kind="temporary", code=str(status))
    if 300 <= status < 400:
        text = f"{host} redirects (HTTP status {status}), which is not followed: correct authority or token_url"
        return OAuthError(text, kind="configuration", code=str(status))
    text = f"{host} answers with HTTP status {status}: is there a provider of tokens at authority or token_url?"
    return OAuthError(text, kind="configuration", code=str(status))


def _unreachable(host: str, error: BaseException) -> OAuthError:
    below: BaseException | None = error
    while below is not None and not isinstance(below, ssl.SSLCertVerificationError):
        below = below.__cause__ or below.__context__
    if below is not None:
        text = f"{host} cannot be trusted: its certificate was refused: {printable(below.verify_message)}"
        return OAuthError(text, kind="temporary", code="certificate")
    if isinstance(error, httpx2.TimeoutException):
        return OAuthError(f"{host} does not answer within {SECONDS:g} s", kind="temporary", code="timeout")
    text = f"{host} cannot be asked: {printable(str(error)) or type(error).__name__}"
    return OAuthError(text, kind="temporary", code="unreachable")


def _clock_error(date: str, now: float | None) -> float | None:
    """Seconds by which our clock is ahead of the provider's."""
    try:
        return None if now is None else now - email.utils.parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None


def _without(text: str, hidden: Iterable[str]) -> str:
    for one in hidden:
        text = text.replace(one, "********")
    return text
