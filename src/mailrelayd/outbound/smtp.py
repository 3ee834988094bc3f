"""The way to the smarthost: DNS, TCP, TLS, EHLO, AUTH, and then a `Session` for the mail transactions.

aiosmtplib does greeting, EHLO, STARTTLS and the classic AUTH mechanisms, through its public API and on its happy path
only: after any exception the connection is dropped, because the library may pair an answer with the wrong command then.
After AUTH its transport is given to our own pipeline.

Whatever goes wrong here is the route's fault and no message's: it is always a `RouteTrouble`.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, Protocol, cast

import aiosmtplib

from mailrelayd import sasl, tls
from mailrelayd.dial import DialError, dial
from mailrelayd.outbound.answers import printable, response
from mailrelayd.outbound.opened import InDoubtError, Opened, Seen
from mailrelayd.outbound.session import Deadlines
from mailrelayd.outbound.values import Extensions, Response, Stage

BODY_STALL = 180.0
"""Seconds without progress in a body before the connection is given up (RFC 5321 section 4.5.3.2.5)."""

_LEVELS: Final = ("none", "starttls", "tls")  # the later the safer
# How often each level may wait for command_timeout; a handshake after STARTTLS waits as long as a command.
_WAITS: Final = {
    "tls": ("greeting", "EHLO", "AUTH"),
    "starttls": ("greeting", "EHLO", "STARTTLS", "handshake", "EHLO", "AUTH"),
    "none": ("greeting", "EHLO", "HELO"),  # and never a password
}
_FILES: Final = 5.0  # seconds for certificates and tls.json, and for all that is between two waits
_COMMAND_LINE: Final = 512  # octets with CRLF; RFC 5321 section 4.5.3.1.4
_SIZE_DIGITS: Final = 20  # RFC 1870 section 3
_HELO_INSTEAD: Final = (500, 502)  # RFC 5321 section 3.2: a server without EHLO


class Account(Protocol):
    """The keys of an [outbound.NAME] table that matter here; times in seconds."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int | None: ...  # None: the usual ones for `security`
    @property
    def security(self) -> str: ...  # tls | starttls | auto | none
    @property
    def allow_plaintext(self) -> bool: ...
    @property
    def auth(self) -> str: ...  # none | password | oauth2
    @property
    def connect_timeout(self) -> float: ...
    @property
    def command_timeout(self) -> float: ...
    @property
    def data_timeout(self) -> float: ...
    @property
    def tls(self) -> tls.TlsSettings: ...


class Remembered(Protocol):
    """The safest way that ever led to this account's server: with security = "auto" nothing less is taken."""

    def best(self) -> tuple[str, int] | None:
        """Level (tls, starttls or none) and port; None: nothing seen yet."""

    def saw(self, level: str, port: int) -> None:
        """A connection came about this way, and it is not what `best` says."""


class RouteTrouble(Exception):  # noqa: N818 - it is a state of the route more than an error
    """The way to the smarthost is closed. `response` says at which stage and why, in words for people.

    `seen` is what was learnt of the server before; None: nothing.
    """

    seen: Seen | None = None

    def __init__(self, response: Response) -> None:
        super().__init__(f"{response.stage}: {response}")
        self.response = response


class _NoAddress(RouteTrouble):
    """No other port would help."""


@dataclass(frozen=True, slots=True)
class _Way:
    level: str
    port: int


async def connect(
    account: Account,
    *,
    user: str = "",
    password: str = "",
    hello: str,
    remembered: Remembered | None = None,
    window: int = 1,
) -> Opened:
    """Connect, secure, greet and log in. `hello` is our own name for EHLO.

    `password` is the access token where the account says auth = "oauth2". Above 1 the `window` is opened if the server
    is fit for it. Raises RouteTrouble for everything that can go wrong up to AUTH, at the latest after
    `longest_opening`; nothing is left open then.
    """
    if not hello.isascii() or not hello.isprintable() or not hello or " " in hello:
        raise _trouble(Stage.EHLO, f"our own host name {hello!r} cannot be said in EHLO")
    seconds = longest_opening(account, window)
    try:
        async with asyncio.timeout(seconds):
            context = None
            if account.security != "none":
                context = await asyncio.to_thread(tls.shared_context, account.tls)  # looks at the CA files
            opening = _Opening(account, user, password, hello, context, window)
            if account.security == "auto":
                return await _connect_auto(opening, remembered)
            return await opening.open(_ways(account)[0])
    except tls.TlsError as error:
        raise _trouble(Stage.TLS, str(error)) from error
    except TimeoutError as error:
        raise _trouble(
            Stage.CONNECT, f"no connection was ready for mail within {seconds:g} s, all tries together"
        ) from error


def longest_opening(account: Account, window: int = 1) -> float:
    """Seconds after which `connect` has ended in any case, whatever the server, DNS and the network do."""
    ways = sum(account.connect_timeout + account.command_timeout * len(_WAITS[way.level]) for way in _ways(account))
    return _FILES + (ways if window == 1 else 2 * ways + account.command_timeout)


async def _connect_auto(opening: _Opening, remembered: Remembered | None) -> Opened:
    """Try the ways from the safest on; the first server that answers in SMTP has the last word."""
    try:
        seen = remembered.best() if remembered is not None else None
    except (OSError, ValueError) as error:  # without it, whoever makes the safe ports fail could talk us down
        raise _trouble(Stage.TLS, f"the safest way to this server, in tls.json, cannot be read: {error}") from error
    failures: list[tuple[_Way, RouteTrouble]] = []
    for way in _ways(opening.account, seen):
        try:
            session = await opening.open(way)
        except RouteTrouble as trouble:
            if isinstance(trouble, _NoAddress) or trouble.response.code or trouble.response.stage is Stage.AUTH:
                raise
            failures.append((way, trouble))
            continue
        if remembered is not None and seen != (way.level, way.port):
            try:
                remembered.saw(way.level, way.port)
            except (OSError, ValueError) as error:
                known = _LEVELS.index(seen[0]) if seen is not None else 0
                if known < _LEVELS.index(way.level):  # else nothing is lost but the port to begin with
                    session.abort()
                    text = f"that this server offers {way.level} cannot be remembered in tls.json: {error}"
                    raise _trouble(Stage.TLS, text) from error
        return session
    text = "; ".join(f"{way.level} on port {way.port}: {trouble.response.text}" for way, trouble in failures)
    if seen is not None and seen[0] != "none":
        text += f"; less than {seen[0]} is refused, this server has offered it before"
    raise _trouble(failures[0][1].response.stage, text)


def _ways(account: Account, seen: tuple[str, int] | None = None) -> list[_Way]:
    """Which level on which port, in order. With "auto" nothing below the level `seen`, and that way first."""
    usual = {"tls": (465,), "starttls": (587, 25), "none": (25, 587)}
    if account.security != "auto":
        return [_Way(account.security, account.port or usual[account.security][0])]
    levels = ["tls", "starttls"]
    if account.allow_plaintext and account.auth == "none":
        levels.append("none")
    ways = [_Way(level, port) for level in levels for port in ((account.port,) if account.port else usual[level])]
    if seen is None:
        return ways
    least = _LEVELS.index(seen[0])
    return sorted(
        (way for way in ways if _LEVELS.index(way.level) >= least), key=lambda way: (way.level, way.port) != seen
    )


@dataclass(frozen=True, slots=True)
class _Opening:
    """What every way needs."""

    account: Account
    user: str
    password: str
    hello: str
    context: ssl.SSLContext | None  # others use it, too; None: no way is to be secured
    window: int = 1

    async def open(self, way: _Way) -> Opened:
        """One connection from DNS to AUTH; a second one where opening the window was too much for the first."""
        session = await self._open(way)
        if self.window == 1:
            return session
        try:
            await session.open_window(self.window)
        except InDoubtError as doubt:
            session.abort()
            session = await self._open(way)
            session.narrowed, session.doubtful = printable(str(doubt)), True
        except BaseException:
            session.abort()
            raise
        return session

    async def _open(self, way: _Way) -> Opened:
        account, seen = self.account, Seen(level=way.level, port=way.port)
        deadline = asyncio.get_running_loop().time() + account.connect_timeout
        try:
            sock, relay = await dial(account.host, way.port, account.connect_timeout)
        except DialError as error:
            raise (_trouble if error.resolved else _no_address)(Stage.CONNECT, str(error)) from error
        seen.relay = relay
        smtp = aiosmtplib.SMTP(
            hostname=account.tls.server_name or account.host,
            local_hostname=self.hello,  # else the library asks DNS, outside every deadline
            sock=sock,
            use_tls=way.level == "tls",
            start_tls=False,
            tls_context=self.context,
            timeout=account.command_timeout,
        )
        try:
            await self._greet(smtp, deadline, seen)
            if way.level == "tls":
                self._check_pin(smtp)
            await self._ehlo(smtp, seen, helo=way.level == "none" and account.auth == "none")
            if way.level == "starttls":
                await self._starttls(smtp)
                await self._ehlo(smtp, seen)  # RFC 3207 section 4.2: what was said before TLS counts for nothing
            if account.auth != "none":
                await self._authenticate(smtp)
            return self._session(smtp, seen)
        except BaseException as error:
            _drop(smtp, sock)
            if isinstance(error, RouteTrouble):
                error.seen = seen
            raise

    def _session(self, smtp: aiosmtplib.SMTP, seen: Seen) -> Opened:
        account = self.account
        stall = max(BODY_STALL, account.command_timeout)
        deadlines = Deadlines(command=account.command_timeout, data=account.data_timeout, stall=stall)
        transport = cast("asyncio.Transport | None", smtp.transport)
        if transport is None or transport.is_closing():
            raise _trouble(Stage.IDLE, "the server closed the connection")
        session = Opened(transport, _extensions(smtp), deadlines, relay=seen.relay, tls=seen.tls)
        session.seen = seen
        return session

    async def _greet(self, smtp: aiosmtplib.SMTP, deadline: float, seen: Seen) -> None:
        """TLS where it is implicit, until `deadline`, and then the greeting: the library does both in one call."""
        account, loop = self.account, asyncio.get_running_loop()
        secure = False

        def secured() -> None:
            nonlocal secure
            secure = True
            with suppress(RuntimeError):  # the time is over already
                limit.reschedule(loop.time() + account.command_timeout)

        try:
            with self._at(Stage.GREETING), tls.handshake_watched(secured):
                end = deadline if smtp.use_tls else loop.time() + account.command_timeout
                async with asyncio.timeout_at(end) as limit:
                    # The library's own limit, one for both halves, only has to be no shorter than ours.
                    said = await smtp.connect(timeout=max(account.connect_timeout, account.command_timeout))
            seen.greeting = printable(said.message)
        except RouteTrouble as trouble:
            # Only the error below the library's own tells a failed handshake from a missing greeting.
            error = trouble.__cause__
            below = error.__cause__ if error is not None else None
            if smtp.use_tls and not secure and isinstance(error, TimeoutError):
                asked = f"no TLS handshake within {account.connect_timeout:g} s"
                hint = "a port that speaks plain text keeps silent like this"
                raise _trouble(Stage.TLS, f"{asked}; {hint}") from error
            if smtp.use_tls and isinstance(below, OSError) and not isinstance(below, aiosmtplib.SMTPException):
                raise _trouble(Stage.TLS, tls.explain(below, self.account.tls)) from below
            if not smtp.use_tls and isinstance(error, TimeoutError):
                hint = 'a port that expects TLS from the first byte keeps silent like this: security = "tls"?'
                raise _trouble(Stage.GREETING, f"{trouble.response.text}; {hint}") from error
            raise

    async def _ehlo(self, smtp: aiosmtplib.SMTP, seen: Seen, *, helo: bool = False) -> None:
        """EHLO; with `helo`, an old server may do without: it has neither TLS nor AUTH to offer then."""
        with self._at(Stage.EHLO):
            try:
                await smtp.ehlo()
            except aiosmtplib.SMTPHeloError as error:
                if not helo or error.code not in _HELO_INSTEAD:
                    raise
                await smtp.helo()
        said = smtp.last_ehlo_response
        seen.name, *extensions = said.message.split("\n") if said is not None else [""]
        seen.name, seen.extensions = printable(seen.name), tuple(printable(line.strip()) for line in extensions)
        seen.mechanisms = tuple(printable(mechanism.upper()) for mechanism in smtp.server_auth_methods)
        seen.tls = _tls_of(smtp)

    async def _starttls(self, smtp: aiosmtplib.SMTP) -> None:
        if not smtp.supports_extension("starttls"):
            raise _trouble(
                Stage.STARTTLS,
                'server offers no STARTTLS; set security = "tls" if it has a port for TLS (465), or mend the server',
            )
        try:
            with self._at(Stage.STARTTLS):
                await smtp.starttls()
        except RouteTrouble as trouble:
            error = trouble.__cause__
            if isinstance(error, aiosmtplib.SMTPTimeoutError) and not isinstance(
                error, aiosmtplib.SMTPReadTimeoutError
            ):
                text = f"no TLS handshake within {self.account.command_timeout:g} s after STARTTLS"
                raise _trouble(Stage.TLS, text) from error
            if isinstance(error, aiosmtplib.SMTPException):
                error = error.__cause__  # of its own errors, those from the handshake have one from below
            if isinstance(error, OSError) and not isinstance(error, asyncio.TimeoutError):
                raise _trouble(Stage.TLS, tls.explain(error, self.account.tls)) from error
            raise
        self._check_pin(smtp)

    def _check_pin(self, smtp: aiosmtplib.SMTP) -> None:
        pin = self.account.tls.fingerprint
        if not pin:
            return
        with self._at(Stage.TLS):
            ssl_object = smtp.get_transport_info("ssl_object")
        try:
            tls.check_pin(pin, ssl_object.getpeercert(binary_form=True))
        except tls.TlsError as error:
            raise _trouble(Stage.TLS, str(error)) from error

    async def _authenticate(self, smtp: aiosmtplib.SMTP) -> None:
        """Log in with exactly one mechanism: a second try with the same password could lock the account."""
        with self._at(Stage.AUTH):
            context = smtp.get_transport_info("sslcontext")
        if context is None:
            raise _trouble(Stage.AUTH, 'a password never travels in clear: set security = "starttls" or "tls"')
        wanted = sasl.TOKEN_MECHANISMS if self.account.auth == "oauth2" else sasl.PASSWORD_MECHANISMS
        mechanism = sasl.choose(smtp.server_auth_methods, wanted)
        if mechanism is None:
            offered = " ".join(smtp.server_auth_methods).upper() or "nothing"
            raise _trouble(Stage.AUTH, f"server offers {offered} for AUTH, we can {', '.join(wanted)}")
        with self._at(Stage.AUTH):
            async with asyncio.timeout(self.account.command_timeout):
                await self._log_in(smtp, mechanism)

    async def _log_in(self, smtp: aiosmtplib.SMTP, mechanism: str) -> None:
        try:
            f"{self.user}{self.password}".encode()
        except UnicodeEncodeError:
            raise sasl.SaslError("user or password cannot be written in UTF-8") from None
        match mechanism:
            case "SCRAM-SHA-256":
                await _scram(smtp, sasl.ScramSha256(self.user, self.password, secrets.token_urlsafe(24)))
            case "PLAIN":
                if "\0" in self.user + self.password:  # RFC 4616 section 2: NUL separates the fields
                    raise sasl.SaslError("user or password holds a NUL")
                await smtp.auth_plain(self.user, self.password)
            case "LOGIN":
                await smtp.auth_login(self.user, self.password)
            case "CRAM-MD5":
                await smtp.auth_crammd5(self.user, self.password)
            case _:
                await _by_token(smtp, mechanism, self.user, self.password)

    @contextmanager
    def _at(self, stage: Stage) -> Iterator[None]:
        """Every failure inside is a RouteTrouble of this stage, with the failure as its cause."""
        try:
            yield
        except aiosmtplib.SMTPResponseException as error:
            raise _refused(stage, error.code, error.message) from error
        except TimeoutError as error:
            asked = "no greeting" if stage is Stage.GREETING else f"no answer to {stage.upper()}"
            raise _trouble(stage, f"{asked} within {self.account.command_timeout:g} s") from error
        except aiosmtplib.SMTPServerDisconnected as error:
            raise _trouble(stage, "the server closed the connection") from error
        except (aiosmtplib.SMTPException, sasl.SaslError, OSError) as error:
            if isinstance(error.__cause__, aiosmtplib.SMTPServerDisconnected):
                raise _trouble(stage, "the server closed the connection") from error
            raise _trouble(stage, str(error) or type(error).__name__) from error


async def _scram(smtp: aiosmtplib.SMTP, scram: sasl.ScramSha256) -> None:
    """RFC 5802 in the frame of RFC 4954: the server's last word comes as one more challenge."""
    challenge = scram.challenge(await _challenge(smtp, b"AUTH", b"SCRAM-SHA-256", b64encode(scram.first())))
    salted = await asyncio.to_thread(scram.salted_password, challenge)
    final, signature = scram.final(challenge, salted)
    sasl.check_signature(await _challenge(smtp, b64encode(final)), signature)
    await _accepted(smtp, b"")


async def _by_token(smtp: aiosmtplib.SMTP, mechanism: str, user: str, token: str) -> None:
    """XOAUTH2 or OAUTHBEARER (RFC 7628): the message, and after a challenge, which is the error, a dummy answer."""
    if "\0" in user + token or "\x01" in user + token:
        raise sasl.SaslError("user or token holds a control character")
    making, dummy = (sasl.xoauth2, b"") if mechanism == "XOAUTH2" else (sasl.oauth_bearer, b"AQ==")
    command, message = (b"AUTH", mechanism.encode()), b64encode(making(user, token))
    # RFC 4954 section 4: what would make the command too long is sent behind an empty challenge. Tokens of Microsoft
    # are that long, and Postfix calls a longer line "invalid base64 data".
    if len(b" ".join((*command, message))) + 2 <= _COMMAND_LINE:
        answer = await smtp.execute_command(*command, message)
    else:
        answer = await smtp.execute_command(*command)
        if answer.code == aiosmtplib.SMTPStatus.auth_continue:
            answer = await smtp.execute_command(message)
    if answer.code == aiosmtplib.SMTPStatus.auth_continue:
        answer = await smtp.execute_command(dummy)
    if answer.code != aiosmtplib.SMTPStatus.auth_successful:
        raise aiosmtplib.SMTPAuthenticationError(answer.code, answer.message)


async def _challenge(smtp: aiosmtplib.SMTP, *command: bytes) -> bytes:
    answer = await smtp.execute_command(*command)
    if answer.code == aiosmtplib.SMTPStatus.auth_successful:
        raise sasl.SaslError("the server let us in without proving that it knows the password")
    if answer.code != aiosmtplib.SMTPStatus.auth_continue:
        raise aiosmtplib.SMTPAuthenticationError(answer.code, answer.message)
    try:
        return b64decode(answer.message, validate=True)
    except ValueError as error:
        raise sasl.SaslError("the server's challenge is no base64") from error


async def _accepted(smtp: aiosmtplib.SMTP, *command: bytes) -> None:
    answer = await smtp.execute_command(*command)
    if answer.code != aiosmtplib.SMTPStatus.auth_successful:
        raise aiosmtplib.SMTPAuthenticationError(answer.code, answer.message)


def _drop(smtp: aiosmtplib.SMTP, sock: socket.socket) -> None:
    """Let go of a connection that is not to be used any more, without waiting for anything."""
    if smtp.transport is not None:
        cast("asyncio.Transport", smtp.transport).abort()
    # After an error the library has forgotten its transport, which may be saying goodbye to a server that does not
    # listen. Shut down, it has nobody to wait for. The socket stays the transport's to close.
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _tls_of(smtp: aiosmtplib.SMTP) -> str:
    """Protocol version and cipher of the connection as it is now; "" without TLS."""
    cipher = cast("asyncio.Transport", smtp.transport).get_extra_info("cipher") if smtp.transport is not None else None
    return f"{cipher[1]} {cipher[0]}" if cipher else ""


def _extensions(smtp: aiosmtplib.SMTP) -> Extensions:
    size = smtp.esmtp_extensions.get("size")
    if size is not None:
        size = size.strip()
        size = size if size.isdecimal() and len(size) <= _SIZE_DIGITS else "0"  # nonsense is no limit
    return Extensions(
        pipelining=smtp.supports_extension("pipelining"),
        size=None if size is None else int(size),
        eight_bit_mime=smtp.supports_extension("8bitmime"),
        smtputf8=smtp.supports_extension("smtputf8"),
        chunking=smtp.supports_extension("chunking"),
    )


def _refused(stage: Stage, code: int, message: str) -> RouteTrouble:
    """From the library's code and text: lines joined by LF, foreign bytes as surrogates, -1 for nonsense."""
    text = message.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if 400 <= code < 600:
        return RouteTrouble(response(stage, code, text.split("\n")))
    return _trouble(stage, f"unexpected answer {code}: {text}" if code > 0 else text)


def _trouble(stage: Stage, text: str) -> RouteTrouble:
    return RouteTrouble(Response(stage, 0, "", printable(text)))


def _no_address(stage: Stage, text: str) -> RouteTrouble:
    return _NoAddress(Response(stage, 0, "", printable(text)))
