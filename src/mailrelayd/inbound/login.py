"""Saying who we are: AUTHENTICATE (PLAIN, XOAUTH2, OAUTHBEARER) or LOGIN, exactly one of them and only once."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Set as AbstractSet

from mailrelayd.inbound.connection import Connection
from mailrelayd.inbound.names import quoted
from mailrelayd.inbound.values import ImapError, Stage
from mailrelayd.outbound.answers import printable
from mailrelayd.sasl import oauth_bearer, xoauth2

_TOKEN = ("XOAUTH2", "OAUTHBEARER")
_INLINE = (
    2000  # octets of a message that may stand in the command; Dovecot closes at lines of some 4,000 before a login
)


async def log_in(connection: Connection, auth: str, user: str, secret: str) -> None:
    """Log in by `auth`: "password", or "oauth2" with an access token as `secret`. Raises ImapError."""
    if auth == "none":
        raise ImapError(Stage.LOGIN, "the server wants a login: set user and password")
    offered = connection.capabilities or await connection.capability()
    mechanism = choose(auth, offered)
    first = _first_message(mechanism, user, secret)
    packed = b64encode(first)
    secrets = {secret, packed.decode(), b64encode(secret.encode()).decode()} - {""}
    connection.secrets = tuple(sorted(secrets, key=len, reverse=True))
    connection.capabilities = set()  # RFC 3501 section 6.2.3: they change, and the answer may tell them
    if mechanism == "LOGIN":
        argument, *rest = _arguments(user, secret)
        await connection.call(Stage.LOGIN, "LOGIN", argument.decode(), answers=rest)
    else:
        inline = "SASL-IR" in offered and len(packed) <= _INLINE
        error_answer = {"XOAUTH2": [b""], "OAUTHBEARER": [b"AQ=="]}.get(mechanism, [])
        await connection.call(
            Stage.LOGIN,
            "AUTHENTICATE",
            *([mechanism, packed.decode()] if inline else [mechanism]),
            answers=[*([] if inline else [packed]), *error_answer],
        )
    connection.logged_in()


def _first_message(mechanism: str, user: str, secret: str) -> bytes:
    """Raises ImapError where user or secret cannot be said."""
    try:
        f"{user}{secret}".encode()
    except UnicodeEncodeError:
        raise ImapError(Stage.LOGIN, "user or password cannot be written in UTF-8") from None
    # What separates the fields (RFC 4616 section 2, RFC 7628 section 3.1); LOGIN cannot say a NUL either.
    if "\0" in user + secret or (mechanism in _TOKEN and "\x01" in user + secret):
        raise ImapError(Stage.LOGIN, "user or password holds a control character")
    match mechanism:
        case "XOAUTH2":
            return xoauth2(user, secret)
        case "OAUTHBEARER":
            return oauth_bearer(user, secret)
        case _:
            return f"\0{user}\0{secret}".encode()


def choose(auth: str, offered: AbstractSet[str]) -> str:
    """The mechanism to log in with ("LOGIN": the command). Raises ImapError where there is no way in common."""
    wanted = _TOKEN if auth == "oauth2" else ("PLAIN",)
    for mechanism in wanted:
        if f"AUTH={mechanism}" in offered:
            return mechanism
    if auth == "password" and "LOGINDISABLED" not in offered:
        return "LOGIN"
    there = " ".join(sorted(word for word in offered if word.startswith("AUTH="))) or "no AUTH= at all"
    here = " and ".join(wanted) + (" and LOGIN" if auth == "password" else "")
    raise ImapError(Stage.LOGIN, printable(f"the server offers {there} for the login, we can {here}"))


def _arguments(user: str, password: str) -> list[bytes]:
    """The two arguments of LOGIN: what is said at once, and what after each "+"."""
    said = [b""]
    for index, text in enumerate((user, password)):
        space = b" " if index else b""
        try:
            said[-1] += space + quoted(text).encode()
        except ValueError:  # RFC 3501 section 9: such octets fit in a literal only
            octets = text.encode()
            said[-1] += space + b"{%d}" % len(octets)
            said.append(octets)
    return said
