"""The mailbox of the demonstration: an IMAP server for one user and one folder, with TLS from the first byte.

IMAP4rev1 (RFC 3501) as far as somebody needs it who reads mail by UID and removes it, with SASL-IR (RFC 4959), UIDPLUS
(RFC 4315) and IDLE (RFC 2177). What it does not know it answers with BAD.
"""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
from collections.abc import Callable
from datetime import UTC, datetime

from mailrelayd.demo.filed import BadError, Filed, about, body, day_of, items, split, strings

CAPABILITY = "IMAP4rev1 SASL-IR AUTH=PLAIN UIDPLUS IDLE"
UIDVALIDITY = 1
LONGEST = 64 * 1024  # octets in a line of a client

_COMMAND = re.compile(r"(?P<tag>[^\s(){%*\"\\+]+) (?P<name>(?:UID )?[A-Z]+)(?: (?P<rest>.*))?", re.IGNORECASE)
_SET = re.compile(r"(\d+|\*)(?::(\d+|\*))?(?:,|$)")


class Mailbox:
    """The folder INBOX of one user. `removed` is told of a mail when it has just left the folder."""

    def __init__(self, tls: ssl.SSLContext, user: str, password: str, removed: Callable[[Filed], None]) -> None:
        self.mails: dict[int, Filed] = {}
        self.removed = removed
        self.port = 0
        self._login = (user, password)
        self._tls = tls
        self._next = 1
        self._listener: asyncio.Server | None = None
        self._sessions: dict[asyncio.Task[None], _Session] = {}

    async def open(self) -> None:
        """Listen."""
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls, limit=LONGEST)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Cut every connection, and wait for its end."""
        if self._listener is not None:
            self._listener.close()
        for session in self._sessions.values():
            session.cut()
        if self._sessions:
            await asyncio.wait(list(self._sessions))

    def file(self, content: bytes) -> Filed:
        """A new mail; whoever waits in IDLE is told."""
        mail = Filed(self._next, content, datetime.now(UTC))
        self.mails[mail.uid] = mail
        self._next += 1
        for session in self._sessions.values():
            session.news.set()
        return mail

    def remove(self, uids: list[int]) -> None:
        """What UID EXPUNGE does."""
        for uid in uids:
            mail = self.mails.pop(uid)
            self.removed(mail)
        for session in self._sessions.values():
            session.news.set()

    @property
    def next_uid(self) -> int:
        """What the next mail will be called."""
        return self._next

    def knows(self, user: str, password: str) -> bool:
        """Whether this is the login."""
        return (user, password) == self._login

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = _Session(self, reader, writer)
        task = asyncio.current_task()
        assert task is not None
        self._sessions[task] = session
        try:
            await session.run()
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass  # the client has gone, or is none
        finally:
            session.cut()
            del self._sessions[task]


class _NoError(Exception):
    """What the client wants is not possible."""


class _Session:
    """One connection. `known` are the UIDs of the mails that the client has been told of, in order."""

    def __init__(self, mailbox: Mailbox, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.news = asyncio.Event()
        self._mailbox = mailbox
        self._reader = reader
        self._writer = writer
        self._known: list[int] | None = None  # None: no folder is open
        self._read_only = False
        self._logged_in = False

    def cut(self) -> None:
        self._writer.transport.abort()

    async def run(self) -> None:
        self._say(f"* OK [CAPABILITY {CAPABILITY}] ready")
        while True:
            line = await self._line()
            found = _COMMAND.fullmatch(line)
            if found is None:
                self._say("* BAD a line must be: tag, space, command")
                continue
            tag, name, rest = found["tag"], found["name"].upper(), found["rest"] or ""
            try:
                said = await self._do(name, rest)
            except BadError as error:
                self._say(f"{tag} BAD {error}")
            except _NoError as error:
                self._say(f"{tag} NO {error}")
            else:
                if self._known is not None and name != "SELECT":
                    self._announce(self._known)
                self._say(f"{tag} OK {said}")
            await self._writer.drain()
            if name == "LOGOUT":
                return

    async def _line(self) -> str:
        return (await self._reader.readuntil(b"\r\n"))[:-2].decode("utf-8", "surrogateescape")

    def _say(self, *lines: str | bytes) -> None:
        for line in lines:
            self._writer.write((line.encode() if isinstance(line, str) else line) + b"\r\n")

    async def _do(self, name: str, rest: str) -> str:
        match name:
            case "CAPABILITY":
                self._say(f"* CAPABILITY {CAPABILITY}")
            case "NOOP":
                pass
            case "LOGOUT":
                self._say("* BYE until next time")
            case "LOGIN":
                user, password = strings(rest, 2)
                self._check(user, password)
            case "AUTHENTICATE":
                await self._authenticate(rest)
            case _ if not self._logged_in:
                raise _NoError("log in first")
            case "LIST":
                self._say('* LIST () "/" INBOX')
            case "SELECT" | "EXAMINE":
                return self._open(rest, read_only=name == "EXAMINE")
            case "IDLE" | "UID SEARCH" | "UID FETCH" | "UID STORE" | "UID EXPUNGE" if self._known is None:
                raise _NoError("select a folder first")
            case "IDLE":
                await self._idle()
            case "UID SEARCH":
                self._say(" ".join(["* SEARCH", *(str(uid) for uid in self._search(rest))]))
            case "UID FETCH":
                self._fetch(*split(rest))
            case "UID STORE":
                self._store(*split(rest))
            case "UID EXPUNGE":
                deleted = [uid for uid in self._uids(rest) if r"\deleted" in self._mailbox.mails[uid].flags]
                self._mailbox.remove([] if self._read_only else deleted)
            case _:
                raise BadError("this server does not know that command")
        return f"{name} done"

    # Login

    async def _authenticate(self, rest: str) -> None:
        mechanism, _, packed = rest.partition(" ")
        if mechanism.upper() != "PLAIN":
            raise _NoError("only AUTH=PLAIN")
        if not packed:
            self._say("+ ")
            await self._writer.drain()
            packed = await self._line()
        try:
            _, user, password = base64.b64decode(packed, validate=True).decode().split("\0")
        except ValueError:
            raise BadError("that is not what PLAIN says") from None
        self._check(user, password)

    def _check(self, user: str, password: str) -> None:
        if not self._mailbox.knows(user, password):
            raise _NoError("[AUTHENTICATIONFAILED] wrong user or password")
        self._logged_in = True

    # The folder

    def _open(self, rest: str, *, read_only: bool) -> str:
        self._known = None
        if strings(rest, 1)[0].upper() != "INBOX":
            raise _NoError("[NONEXISTENT] there is only INBOX")
        self._known, self._read_only = sorted(self._mailbox.mails), read_only
        self._say(
            f"* {len(self._known)} EXISTS",
            "* 0 RECENT",
            r"* FLAGS (\Answered \Flagged \Deleted \Seen \Draft)",
            f"* OK [UIDVALIDITY {UIDVALIDITY}] the names are valid",
            f"* OK [UIDNEXT {self._mailbox.next_uid}] the next name",
        )
        return f"[{'READ-ONLY' if read_only else 'READ-WRITE'}] open"

    def _announce(self, known: list[int]) -> None:
        """Tell what has gone and what is new since the client was told."""
        for uid in [uid for uid in known if uid not in self._mailbox.mails]:
            self._say(f"* {known.index(uid) + 1} EXPUNGE")
            known.remove(uid)
        if new := sorted(self._mailbox.mails.keys() - set(known)):
            known += new
            self._say(f"* {len(known)} EXISTS")

    async def _idle(self) -> None:
        assert self._known is not None
        self._say("+ idling")
        done = asyncio.ensure_future(self._line())
        try:
            while not done.done():
                self._announce(self._known)
                await self._writer.drain()
                self.news.clear()
                news = asyncio.ensure_future(self.news.wait())
                await asyncio.wait([done, news], return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
            if (await done).upper() != "DONE":
                raise BadError("DONE ends IDLE")
        finally:
            done.cancel()

    def _uids(self, text: str) -> list[int]:
        """The mails of a sequence set that are there and that the client knows of."""
        known, last, wanted, at = self._known or [], max(self._known or [0]), set(), 0
        while at < len(text):
            found = _SET.match(text, at)
            if found is None:
                raise BadError("that is no set of UIDs")
            first, second = (last if end == "*" else int(end) for end in (found[1], found[2] or found[1]))
            wanted |= {uid for uid in known if min(first, second) <= uid <= max(first, second)}
            at = found.end()
        return [uid for uid in sorted(wanted) if uid in self._mailbox.mails]

    def _search(self, rest: str) -> list[int]:
        found = self._uids("1:*")
        words = rest.split()
        while words:
            match words.pop(0).upper():
                case "ALL":
                    continue
                case "UID" if words:
                    found = [uid for uid in self._uids(words.pop(0)) if uid in found]
                case "SINCE" if words:
                    day = day_of(words.pop(0))
                    found = [uid for uid in found if self._mailbox.mails[uid].arrived.date() >= day]
                case "BEFORE" if words:
                    day = day_of(words.pop(0))
                    found = [uid for uid in found if self._mailbox.mails[uid].arrived.date() < day]
                case _:
                    raise BadError("this server searches for ALL, UID, SINCE and BEFORE")
        return found

    def _fetch(self, chosen: str, wanted: str) -> None:
        told = list(items(wanted))
        assert self._known is not None
        for uid in self._uids(chosen):
            mail = self._mailbox.mails[uid]
            said = [f"UID {uid}".encode()]
            for item in told:
                if item["body"]:
                    said.append(body(mail, item))
                    if not item["peek"] and not self._read_only:
                        mail.flags.add(r"\seen")
                elif (word := item["word"].upper()) != "UID":
                    said.append(f"{word} {about(mail, word)}".encode())
            self._say(f"* {self._known.index(uid) + 1} FETCH (".encode() + b" ".join(said) + b")")

    def _store(self, chosen: str, wanted: str) -> None:
        found = re.fullmatch(r"([+-]?)FLAGS(\.SILENT)? \(([^()]*)\)", wanted, re.IGNORECASE)
        if found is None:
            raise BadError("write +FLAGS (...), -FLAGS (...) or FLAGS (...)")
        if self._read_only:
            raise _NoError("the folder is open for reading only")
        flags = set(found[3].lower().split())
        assert self._known is not None
        for uid in self._uids(chosen):
            mail = self._mailbox.mails[uid]
            mail.flags = {"+": mail.flags | flags, "-": mail.flags - flags}.get(found[1], flags)
            if not found[2]:
                self._say(f"* {self._known.index(uid) + 1} FETCH (UID {uid} FLAGS {about(mail, 'FLAGS')})")
