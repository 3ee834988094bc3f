"""The way to a mailbox: DNS, TCP, TLS, greeting, login, and then a `Session`.

No password and no token is said to a server that has not proven who it is, unless the configuration says so twice
(security = "none", allow_plaintext = true), and none is tried twice: that could lock the account.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import dataclass
from typing import Final, Protocol

from mailrelayd import tls
from mailrelayd.dial import DialError, dial
from mailrelayd.inbound.connection import Connection
from mailrelayd.inbound.imap import Session
from mailrelayd.inbound.login import log_in
from mailrelayd.inbound.values import ImapError, Refused, Stage
from mailrelayd.outbound.answers import printable

_LEVELS: Final = ("starttls", "tls")  # the later the safer; "auto" takes no other
_PORTS: Final = {"tls": 993, "starttls": 143, "none": 143}
# How often each level may wait for command_timeout; a handshake after STARTTLS waits as long as a command.
_WAITS: Final = {
    "tls": ("greeting", "CAPABILITY", "login", "CAPABILITY"),
    "starttls": ("greeting", "CAPABILITY", "STARTTLS", "handshake", "CAPABILITY", "login", "CAPABILITY"),
    "none": ("greeting", "CAPABILITY", "login", "CAPABILITY"),
}
_FILES: Final = 5.0  # seconds for certificates and tls.json, and for all that is between two waits


class Account(Protocol):
    """The keys of an [inbound.NAME] table that matter here; times in seconds."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int | None: ...  # None: the usual one for `security`
    @property
    def security(self) -> str: ...  # tls | starttls | auto | none
    @property
    def allow_plaintext(self) -> bool: ...  # only where security is none
    @property
    def auth(self) -> str: ...  # none | password | oauth2
    @property
    def connect_timeout(self) -> float: ...
    @property
    def command_timeout(self) -> float: ...
    @property
    def tls(self) -> tls.TlsSettings: ...


class Remembered(Protocol):
    """The safest way that ever led to this account's server: with security = "auto" nothing less is taken."""

    def best(self) -> tuple[str, int] | None:
        """Level (tls or starttls) and port; None: nothing seen yet."""

    def saw(self, level: str, port: int) -> None:
        """A connection came about this way, and it is not what `best` says."""


class _NoAddress(ImapError):  # noqa: N818 - what is the case, more than an error
    """No other port would help."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a server shows to everybody: as far as one comes without a login."""

    peer: str  # host[ip]:port
    tls: str  # protocol version and cipher; "" without TLS
    greeting: str
    capabilities: frozenset[str]  # those that count: over TLS where there is TLS


@dataclass(frozen=True, slots=True)
class _Way:
    level: str
    port: int


async def connect(
    account: Account, *, user: str = "", secret: str = "", remembered: Remembered | None = None
) -> Session:
    """Connect, secure and log in. `secret` is the password, or the access token where auth = "oauth2".

    Raises ImapError for everything that can go wrong, at the latest after `longest_opening`; nothing is left open then.
    """
    seconds = longest_opening(account)
    try:
        async with asyncio.timeout(seconds):
            opening = _Opening(account, user, secret, await _context(account))
            if account.security == "auto":
                return await _connect_auto(opening, remembered)
            return await opening.open(_ways(account)[0])
    except tls.TlsError as error:
        raise ImapError(Stage.TLS, printable(str(error))) from error
    except TimeoutError as error:
        text = f"no connection was ready within {seconds:g} s, all tries together"
        raise ImapError(Stage.CONNECT, text) from error


async def look(account: Account, *, remembered: Remembered | None = None) -> Offer:
    """What the server offers before a login; none is tried, nothing is remembered. Raises ImapError as `connect` does.

    With security = "auto" it is the first way that leads to a server.
    """
    seconds = longest_opening(account)
    failures: list[ImapError] = []
    try:
        async with asyncio.timeout(seconds):
            opening = _Opening(account, "", "", await _context(account))
            for way in _ways(account, remembered.best() if remembered is not None else None):
                try:
                    return await opening.look(way)
                except ImapError as error:
                    failures.append(error)
    except (tls.TlsError, ValueError) as error:
        raise ImapError(Stage.TLS, printable(str(error))) from error
    except TimeoutError as error:
        raise ImapError(Stage.CONNECT, f"no connection was ready within {seconds:g} s, all tries together") from error
    except OSError as error:
        raise ImapError(Stage.TLS, printable(f"what is remembered of this server cannot be read: {error}")) from error
    raise failures[0]


def longest_opening(account: Account) -> float:
    """Seconds after which `connect` has ended in any case, whatever the server, DNS and the network do."""
    return _FILES + sum(
        account.connect_timeout + account.command_timeout * len(_WAITS[way.level]) for way in _ways(account)
    )


async def _context(account: Account) -> ssl.SSLContext | None:
    """What secures the account's connections; None: nothing does. Raises TlsError."""
    if account.security == "none":
        return None
    return await asyncio.to_thread(tls.shared_context, account.tls)  # looks at the CA files


async def _connect_auto(opening: _Opening, remembered: Remembered | None) -> Session:
    """Try TLS, then STARTTLS; a server that refuses something, or our login, has the last word."""
    try:
        seen = remembered.best() if remembered is not None else None
    except (OSError, ValueError) as error:  # without it, whoever makes the safe port fail could talk us down
        text = f"the safest way to this server, in tls.json, cannot be read: {error}"
        raise ImapError(Stage.TLS, printable(text)) from error
    failures: list[tuple[_Way, ImapError]] = []
    for way in _ways(opening.account, seen):
        try:
            session = await opening.open(way)
        except ImapError as error:
            if isinstance(error, (_NoAddress, Refused)) or error.stage is Stage.LOGIN:
                raise
            failures.append((way, error))
            continue
        if remembered is not None and seen != (way.level, way.port):
            try:
                remembered.saw(way.level, way.port)
            except (OSError, ValueError) as error:
                if seen is None or seen[0] != way.level:  # else nothing is lost but the port to begin with
                    session.abort()
                    text = f"that this server offers {way.level} cannot be remembered in tls.json: {error}"
                    raise ImapError(Stage.TLS, printable(text)) from error
        return session
    text = "; ".join(f"{way.level} on port {way.port}: {error.text}" for way, error in failures)
    if seen is not None and seen[0] == "tls":
        text += "; less than tls is refused, this server has offered it before"
    raise ImapError(failures[0][1].stage, printable(text))


def _ways(account: Account, seen: tuple[str, int] | None = None) -> list[_Way]:
    """Which level on which port, in order. With "auto" nothing below the level `seen`, and that way first."""
    if account.security != "auto":
        return [_Way(account.security, account.port or _PORTS[account.security])]
    least = _LEVELS.index(seen[0]) if seen is not None else 0
    ways = [_Way(level, account.port or _PORTS[level]) for level in reversed(_LEVELS[least:])]
    return sorted(ways, key=lambda way: (way.level, way.port) != seen)


@dataclass(frozen=True, slots=True)
class _Reached:
    """A connection to a server that has proven who it is, before the login."""

    connection: Connection
    peer: str
    greeting: str

    def session(self) -> Session:
        transport = self.connection.transport
        cipher = transport.get_extra_info("cipher") if transport is not None else None
        return Session(self.connection, peer=self.peer, tls=f"{cipher[1]} {cipher[0]}" if cipher else "")


@dataclass(frozen=True, slots=True)
class _Opening:
    """What every way needs."""

    account: Account
    user: str
    secret: str
    context: ssl.SSLContext | None  # others use it, too; None: no way is to be secured

    async def open(self, way: _Way) -> Session:
        """One connection from DNS to the login."""
        account, reached = self.account, await self.reach(way)
        connection = reached.connection
        try:
            if not connection.is_logged_in:
                if way.level == "none" and account.auth != "none" and not account.allow_plaintext:
                    hint = 'set security = "tls" or "starttls", or allow_plaintext = true'
                    raise ImapError(Stage.LOGIN, f"a password would travel in clear: {hint}")
                await log_in(connection, account.auth, self.user, self.secret)
            if not connection.capabilities:
                await connection.capability()
        except BaseException:
            connection.fail("given up")
            raise
        return reached.session()

    async def look(self, way: _Way) -> Offer:
        """One connection from DNS to where a login would begin, and back."""
        reached = await self.reach(way)
        session = reached.session()
        try:
            offered = reached.connection.capabilities or await reached.connection.capability()
            return Offer(session.peer, session.tls, reached.greeting, frozenset(offered))
        finally:
            await session.close()

    async def reach(self, way: _Way) -> _Reached:
        """One connection from DNS to where a login would begin."""
        account, loop = self.account, asyncio.get_running_loop()
        deadline = loop.time() + account.connect_timeout
        try:
            sock, peer = await dial(account.host, way.port, account.connect_timeout)
        except DialError as error:
            kind = ImapError if error.resolved else _NoAddress
            raise kind(Stage.CONNECT, printable(str(error))) from error
        connection = Connection(account.command_timeout)
        try:
            await self._attach(connection, sock, way, deadline)
            greeting = await self._greet(connection, way)
            if way.level == "starttls":
                await self._starttls(connection)
        except BaseException:
            connection.fail("given up")
            raise
        return _Reached(connection, peer, greeting)

    @property
    def _server_name(self) -> str:
        return self.account.tls.server_name or self.account.host

    async def _attach(self, connection: Connection, sock: socket.socket, way: _Way, deadline: float) -> None:
        """Give the socket to the event loop, with TLS where it is implicit."""
        loop = asyncio.get_running_loop()
        if way.level != "tls":
            await loop.create_connection(lambda: connection, sock=sock)
            return
        assert self.context is not None
        seconds = self.account.connect_timeout
        try:
            async with asyncio.timeout_at(deadline):
                await loop.create_connection(
                    lambda: connection,
                    sock=sock,
                    ssl=self.context,
                    server_hostname=self._server_name,
                    ssl_handshake_timeout=seconds + 60,  # ours comes first
                )
        except TimeoutError as error:
            text = f"no TLS handshake within {seconds:g} s; a port that speaks plain text keeps silent like this"
            raise ImapError(Stage.TLS, text) from error
        except (OSError, ValueError) as error:
            raise ImapError(Stage.TLS, self._explained(error)) from error
        self._check_pin(connection)

    async def _greet(self, connection: Connection, way: _Way) -> str:
        """The server's first words."""
        try:
            said = await connection.greeting()
        except ImapError as error:
            if way.level == "tls" or not isinstance(error.__cause__, TimeoutError):
                raise
            hint = 'a port that expects TLS from the first byte keeps silent like this: security = "tls"?'
            raise ImapError(Stage.GREETING, f"{error.text}; {hint}") from error
        if said.kind == "PREAUTH" and (way.level == "starttls" or self.account.auth != "none"):
            # RFC 3501 section 6.2.1: no STARTTLS after it. And whose mailbox it opens is not ours to guess.
            text = "the server has logged us in as somebody before we said who we are (PREAUTH)"
            raise ImapError(Stage.GREETING, text)
        return connection.shown(said.text)

    async def _starttls(self, connection: Connection) -> None:
        offered = connection.capabilities or await connection.capability()
        if "STARTTLS" not in offered:
            hint = 'set security = "tls" if it has a port for TLS (993), or mend the server'
            raise ImapError(Stage.STARTTLS, f"the server offers no STARTTLS; {hint}")
        await connection.call(Stage.STARTTLS, "STARTTLS")
        plain = connection.transport
        assert plain is not None and self.context is not None
        seconds = self.account.command_timeout
        try:
            async with asyncio.timeout(seconds):
                secure = await asyncio.get_running_loop().start_tls(
                    plain,
                    connection,
                    self.context,
                    server_hostname=self._server_name,
                    ssl_handshake_timeout=seconds + 60,  # ours comes first
                )
        except TimeoutError as error:
            raise ImapError(Stage.TLS, f"no TLS handshake within {seconds:g} s after STARTTLS") from error
        except (OSError, ValueError) as error:
            raise ImapError(Stage.TLS, self._explained(error)) from error
        assert secure is not None
        connection.secured(secure)
        self._check_pin(connection)

    def _explained(self, error: OSError | ValueError) -> str:
        text = tls.explain(error, self.account.tls)
        if "speaks plain text" in text:
            text = 'this port speaks plain text: set security = "starttls", or the port for TLS (993)'
        return printable(text)

    def _check_pin(self, connection: Connection) -> None:
        pin = self.account.tls.fingerprint
        if not pin:
            return
        assert connection.transport is not None
        ssl_object = connection.transport.get_extra_info("ssl_object")
        try:
            tls.check_pin(pin, ssl_object.getpeercert(binary_form=True) if ssl_object is not None else None)
        except tls.TlsError as error:
            raise ImapError(Stage.TLS, printable(str(error))) from error
