"""The values that flow from a mailbox to whoever reads it. Pure."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from enum import StrEnum


class Stage(StrEnum):
    """Where in the conversation with the mailbox's server something was said or happened."""

    CONNECT = "connect"  # DNS and TCP
    TLS = "tls"  # handshake and certificate, implicit or after STARTTLS
    GREETING = "greeting"
    CAPABILITY = "capability"
    STARTTLS = "starttls"
    LOGIN = "login"  # LOGIN or AUTHENTICATE
    SELECT = "select"
    LIST = "list"
    CREATE = "create"
    SEARCH = "search"
    FETCH = "fetch"
    STORE = "store"
    EXPUNGE = "expunge"
    MOVE = "move"
    IDLE = "idle"
    NOOP = "noop"
    LOGOUT = "logout"


class ImapError(Exception):
    """The connection has ended, for the reason in `text` (no control characters, no secrets), and is not used again.

    `code` is the server's response code in capitals (RFC 5530: AUTHENTICATIONFAILED, UNAVAILABLE, ...) or "".
    """

    def __init__(self, stage: Stage, text: str, code: str = "") -> None:
        super().__init__(stage, text, code)
        self.stage = stage
        self.text = text
        self.code = code

    def __str__(self) -> str:
        return f"{self.stage}: {f'[{self.code}] ' if self.code else ''}{self.text}"


class Refused(ImapError):  # noqa: N818 - it is what is the case, more than an error
    """The server said NO or BAD to one command. Between two commands of a session the connection lives on."""


class NoSuchFolder(Refused):
    """The folder does not exist; `folders` are those that do."""

    def __init__(self, stage: Stage, text: str, code: str, folders: tuple[str, ...]) -> None:
        super().__init__(stage, text, code)
        self.folders = folders


class MailMissing(Refused):
    """The server has no text for this mail: somebody has removed it, or the mailbox is damaged. Never an empty mail."""


@dataclass(frozen=True, slots=True)
class UniqueId:
    """What names a mail in a folder for ever: always the pair (RFC 3501 section 2.3.1.1)."""

    uidvalidity: int
    uid: int


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A folder as SELECT or EXAMINE found it. Other UIDVALIDITY than before: every uid known of it is void."""

    name: str
    uidvalidity: int
    uidnext: int | None  # None: the server does not tell
    exists: int  # mails in it
    read_only: bool = False  # as asked, or because the server allows no more


@dataclass(frozen=True, slots=True)
class Summary:
    """What can be known of a mail without reading it.

    `size` is the server's word, in octets, and may be wrong by some (Exchange estimates). `internal_date` is when the
    mail arrived, in UTC. `header` holds the lines that were asked for, possibly cut.
    """

    uid: int
    size: int
    internal_date: datetime.datetime
    flags: frozenset[str]
    header: bytes
