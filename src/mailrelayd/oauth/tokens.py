"""A valid token whenever one is asked for: from memory, from STATE/oauth, from the provider, in this order.

A token is renewed before it ends, by one asker at a time, in this process and among processes. As long as it is valid,
a provider that is down changes nothing. What a mail server refused is not used again, however long it would be valid.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from mailrelayd.clock import Clock
from mailrelayd.config.answering import InboundAccount
from mailrelayd.config.relaying import OutboundAccount
from mailrelayd.config.settings import Settings
from mailrelayd.oauth.asking import INSTALL, Asking, installed, require_library
from mailrelayd.oauth.grants import Authorization, DeviceCode
from mailrelayd.oauth.providers import Terms
from mailrelayd.oauth.store import NewerFormatError, Record, Store, Trouble
from mailrelayd.oauth.values import OAuthError, Token
from mailrelayd.operate import log

__all__ = ["INSTALL", "LONGEST", "Account", "Status", "TokenSource", "Tokens", "installed", "label"]

LONGEST: Final = 180.0  # seconds that `token` may take, whoever else asks meanwhile
FINISH: Final = 60.0  # of these, for what must not be left half done: two requests, a secret by a command, the disk
PAUSE: Final = 30.0  # seconds between two tries to renew a token that is still valid
ROOM: Final = 64 * 1024  # bytes of the disk for a token's record

T = TypeVar("T")
Account = OutboundAccount | InboundAccount


class Tokens:
    """All token sources of one configuration."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        """Nothing is read yet."""
        self._settings = settings
        self._clock = clock
        self._sources: dict[str, TokenSource] = {}

    def of(self, account: Account) -> TokenSource:
        """Where the account's tokens come from: the same for all that name the same user and the same terms."""
        assert account.oauth is not None
        same = [one for one in self._known(account) if (one.user, one.oauth) == (account.user, account.oauth)]
        name = label(same[0])
        if name not in self._sources:
            protocols = {"smtp" if isinstance(one, OutboundAccount) else "imap" for one in same}
            asking = Asking(name, account.oauth, account.user, protocols, self._clock)
            self._sources[name] = TokenSource(name, asking, Store(self._settings.state.directory, name), self._clock)
        return self._sources[name]

    def _known(self, account: Account) -> list[Account]:
        """Those with a token, and this one, which need not be enabled."""
        enabled = [one for one in self._settings.accounts if one.auth == "oauth2" and one.oauth is not None]
        return enabled if any(label(one) == label(account) for one in enabled) else [*enabled, account]


def label(account: Account) -> str:
    """The account's table in the configuration: "outbound.smarthost"."""
    return f"{'outbound' if isinstance(account, OutboundAccount) else 'inbound'}.{account.name}"


@dataclass(frozen=True, slots=True)
class Status:
    """What is known of an account's token without asking anybody."""

    account: str
    path: str  # "": it is kept nowhere
    token: Token | None
    trouble: Trouble | None
    other_terms: bool  # the token on disk belongs to another configuration


class TokenSource:
    """The token of one user at one provider."""

    def __init__(self, account: str, asking: Asking, store: Store, clock: Clock) -> None:
        """`account` is whose file it is. Nothing is read yet."""
        self.account = account
        self.oauth = asking.oauth
        self.fetched = 0  # tokens that came from the provider, or from token_command
        self._asking = asking
        self._store = store
        self._clock = clock
        self._token: Token | None = None
        self._unsaved: tuple[Record, str] | None = None  # stands nowhere but here; and the refresh token it replaces
        self._refused = ""  # an access token that a mail server did not take
        self._concealed: list[str] = []
        self._next_try = 0.0  # clock.monotonic(): not before, while the token is valid
        self._one = asyncio.Lock()
        self._failures = 0
        self._failure: OAuthError | None = None  # the last one

    @property
    def provider(self) -> str:
        """microsoft, google or custom."""
        return self.oauth.provider

    async def token(self, *, anew: bool = False) -> str:
        """An access token; with `anew` one that comes from the provider now. Raises OAuthError, after `LONGEST`."""
        try:
            async with asyncio.timeout(LONGEST - FINISH):
                found = await self._in_turn(anew=anew)
        except TimeoutError:
            text = f"no token could be had within {LONGEST - FINISH:g} s: others have been asking for it all the time"
            raise OAuthError(text, kind="temporary", code="timeout") from None
        except OAuthError as error:
            if error.kind != "consent":
                raise
            raise self._told(error) from error
        self._conceal(found.access_token)
        return found.access_token

    async def _in_turn(self, *, anew: bool) -> Token:
        """One asker at a time; who waits while the provider fails another one does not ask it once more."""
        before = self._failures
        async with self._one:
            if self._failure is not None and self._failures != before and not anew:
                last = self._failure
                raise OAuthError(last.text, kind=last.kind, code=last.code)
            try:
                return await self._found(anew=anew)
            except OAuthError as error:
                self._failures += 1
                self._failure = OAuthError(error.text, kind=error.kind, code=error.code)
                raise

    def _conceal(self, token: str) -> None:
        """The one before as well: connections that were opened with it may still be there."""
        if token in self._concealed:
            return
        log.conceal(token)
        for ended in self._concealed[:-1]:
            log.forget(ended)
        self._concealed = [*self._concealed[-1:], token]

    def refused(self, token: str) -> None:
        """A mail server did not take this token: the next one that is asked for is another."""
        self._refused = token

    def status(self) -> Status:
        """What the file says. Raises OSError, ValueError in words."""
        if self.oauth.token_command:
            return Status(self.account, "", None, None, other_terms=False)
        record = self._store.read()
        try:
            other = bool(record.fingerprint) and record.fingerprint != self._asking.terms().fingerprint
        except OAuthError:  # client_id or user cannot be had: what does the token belong to?
            other = False
        return Status(self.account, str(self._store.path), record.token, record.trouble, other)

    # -- a login by a person; each raises OAuthError -------------------------------------------------------------

    async def terms(self) -> Terms:
        """What is asked of whom, every address known."""
        return await self._asking.complete(await asyncio.to_thread(self._asking.terms))

    async def start_device(self) -> DeviceCode:
        """Begin a login on another device: the code is to be shown, then waited for by `finish_device`."""
        return await self._asking.start_device(await self.terms())

    async def finish_device(self, code: DeviceCode) -> None:
        """Wait until somebody has logged in."""
        await self._adopt(await self._asking.finish_device(await self.terms(), code))

    async def start_authorization(self, redirect_uri: str) -> Authorization:
        """Begin a login in a browser that then is sent to `redirect_uri`."""
        return await self._asking.start_authorization(await self.terms(), redirect_uri)

    async def finish_authorization(self, begun: Authorization, answer: str) -> None:
        """Exchange what the browser brought back: the whole address it was sent to."""
        await self._adopt(await self._asking.finish_authorization(await self.terms(), begun, answer))

    async def _adopt(self, token: Token) -> None:
        if not token.refresh_token:
            text = "the provider gave no refresh token, so the login would end with this one: allow offline access, "
            text += f'and write "offline_access" into {self.account}.oauth.scopes if the provider knows that word'
            raise OAuthError(text, kind="refused")
        terms = await asyncio.to_thread(self._asking.terms)
        await self._whole(self._save(Record(terms.fingerprint, token), None))
        self._refused = ""
        self.fetched += 1

    # -- where a token comes from --------------------------------------------------------------------------------

    async def _found(self, *, anew: bool) -> Token:
        if self._unsaved is not None:
            await self._whole(self._save(*self._unsaved))
        mine = self._token if self._token is not None and self._is_good(self._token) and not anew else None
        if mine is not None and (mine.is_fresh(self._clock.now()) or self._clock.monotonic() < self._next_try):
            return mine
        try:
            self._token = await (self._by_command() if self.oauth.token_command else self._shared(anew=anew))
        except OAuthError:
            if mine is None:
                raise
            self._next_try = self._clock.monotonic() + PAUSE
            return mine  # to its end, whatever the provider says of the next one
        return self._token

    def _is_good(self, token: Token) -> bool:
        return token.is_valid(self._clock.now()) and token.access_token != self._refused

    async def _by_command(self) -> Token:
        found = await self._asking.command()
        self.fetched += 1
        return found

    async def _shared(self, *, anew: bool) -> Token:
        """The file's token if that will do, else the provider's."""
        await require_library()  # first of all: what is not installed is no question of files
        terms = await asyncio.to_thread(self._asking.terms)
        try:
            async with self._store.held():
                return await self._whole(self._renewed(terms, anew=anew))
        except OSError as error:  # or TimeoutError
            if terms.interactive:
                raise self._unusable(error) from error
        return await self._asked(terms, "")  # as often as needed, so it may stand in memory only

    async def _renewed(self, terms: Terms, *, anew: bool) -> Token:
        """The same, with the file locked."""
        stored, missing = await asyncio.to_thread(self._stored, terms)
        good = stored if stored is not None and self._is_good(stored) and {*terms.scopes} <= {*stored.asked} else None
        if good is not None and not anew and good.is_fresh(self._clock.now()):
            return good
        try:
            if not terms.interactive:
                found = await self._asked(terms, "")
            elif stored is None or not stored.refresh_token:
                raise OAuthError(missing or "its token cannot be renewed", kind="consent")
            else:
                return await self._exchanged(terms, stored.refresh_token)
        except OAuthError as error:
            await asyncio.to_thread(self._note, error)
            if good is None or anew:
                raise
            self._next_try = self._clock.monotonic() + PAUSE
            return good
        with suppress(OSError):  # only a copy, for others
            await asyncio.to_thread(self._store.write, Record(terms.fingerprint, found))
        return found

    async def _exchanged(self, terms: Terms, refresh_token: str) -> Token:
        """The next token, on disk before it is used: a provider that rotates refresh tokens has forgotten this one.

        Room for it is made before it is asked for, so that a full disk costs nothing.
        """
        with ExitStack() as stack:
            try:
                draft = await asyncio.to_thread(stack.enter_context, self._store.draft(ROOM))
            except OSError as error:
                raise self._unusable(error) from error
            found = await self._asked(terms, refresh_token)
            record = Record(terms.fingerprint, found)
            try:
                await asyncio.to_thread(draft.keep, record)
            except OSError as error:
                self._unsaved = record, refresh_token
                raise self._unusable(error) from error
        return found

    async def _asked(self, terms: Terms, refresh_token: str) -> Token:
        found = await self._asking.token(terms, refresh_token)
        self.fetched += 1
        return found

    # -- the file ------------------------------------------------------------------------------------------------

    def _stored(self, terms: Terms) -> tuple[Token | None, str]:
        """The file's token, or why there is none. Raises OAuthError, OSError."""
        try:
            record = self._store.read()
        except NewerFormatError as error:
            raise OAuthError(f"{self._store.path}: {error}", kind="configuration") from error
        except ValueError as error:
            return None, str(error)
        if record.token is None:
            return None, "nobody has logged in for it yet"
        if record.fingerprint != terms.fingerprint:
            return None, "its token was given for another user, application, provider or scope"
        return record.token, ""

    async def _save(self, record: Record, replaced: str | None) -> None:
        """A token that was not saved yet, and is the one to use, unless the file no longer holds what it replaced."""
        try:
            async with self._store.held():
                if replaced is None or await asyncio.to_thread(self._still_holds, replaced):
                    await asyncio.to_thread(self._store.write, record)
                    self._token = record.token
        except OSError as error:
            raise self._unusable(error) from error
        self._unsaved = None

    def _still_holds(self, refresh_token: str) -> bool:
        """Whether nobody has logged in anew since. Raises OAuthError, OSError."""
        try:
            token = self._store.read().token
        except NewerFormatError as error:
            raise OAuthError(f"{self._store.path}: {error}", kind="configuration") from error
        except ValueError:  # damaged: what we have is better
            return True
        return token is None or token.refresh_token == refresh_token

    def _note(self, error: OAuthError) -> None:
        """For `authorize --status`; the same again is no news."""
        with suppress(OSError, ValueError):
            record = self._store.read()
            if record.trouble is None or (record.trouble.code, record.trouble.text) != (error.code, error.text):
                trouble = Trouble(self._clock.now(), error.kind, error.code, error.text)
                self._store.write(replace(record, trouble=trouble))

    def _unusable(self, error: OSError) -> OAuthError:
        if isinstance(error, TimeoutError) and error.errno is None:
            text = f"another process has been asking for this account's token for too long ({self._store.path})"
            return OAuthError(text, kind="temporary")
        text = f"{self._store.path} cannot be used: {error.strerror or error}"
        if isinstance(error, PermissionError):
            text += "; run it as the daemon's user: runuser -u mailrelayd -- mailrelayd ..."
        return OAuthError(text, kind="temporary", code="store")

    def _told(self, error: OAuthError) -> OAuthError:
        """The error with the command that helps, where a person has to log in."""
        return OAuthError(f"{error.text}; run mailrelayd authorize {self.account}", kind="consent", code=error.code)

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        """Never half of it: who is cancelled between a provider's answer and the file would lose a refresh token."""
        task = asyncio.ensure_future(work)
        cancelled: asyncio.CancelledError | None = None
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            with suppress(OAuthError, OSError):
                task.result()
            raise cancelled
        return task.result()
