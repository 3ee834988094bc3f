"""What each property in the manner of JavaMail says about the account it belongs to. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from mailrelayd.config import units

Path = tuple[str, ...]
"""Keys below the account: `("tls", "minimum")`."""

PROTOCOLS = {"outbound": "smtp", "inbound": "imap"}
KNOWN = {
    "PROTOCOL": "the value of ${{PROTOCOL}}; imaps and smtps mean TLS from the first byte",
    "host": "host",
    "port": "port",
    "user": "user",
    "from": "from_address",
    "auth": "true: there is a login; false: auth = none",
    "auth.mechanisms": "XOAUTH2 or OAUTHBEARER: auth = oauth2; PLAIN, LOGIN: a password",
    "ssl.enable": "security = tls",
    "ssl.protocols": "tls.minimum and tls.maximum",
    "ssl.checkserveridentity": "true: as it always is here",
    "ssl.trust": "refused: a server proves itself by tls.ca_file or tls.fingerprint",
    "starttls.enable": "true: security = starttls; false: something else",
    "starttls.required": "security = starttls",
    "connectiontimeout": "connect_timeout, in milliseconds",
    "timeout": "command_timeout, in milliseconds",
    "socketFactory.class": "javax.net.ssl.SSLSocketFactory: security = tls",
    "socketFactory.port": "port",
    "socketFactory.fallback": "false: as it always is here",
    "store.protocol": "imap or imaps, which means TLS from the first byte",
    "transport.protocol": "smtp or smtps, which means TLS from the first byte",
}
_ELSEWHERE = {  # what people write beside the known ones
    "password": "is a key of the account, not a property: write password = above",
    "debug": "is not a property: write protocol_debug = true in [log]",
    "writetimeout": 'is not a property: write data_timeout = "10m" in the account',
    "localhost": "is not a property: [node] name says who we are",
}
_TLS_VERSIONS = {"TLSv1": "1.0", "TLSv1.0": "1.0", "TLSv1.1": "1.1", "TLSv1.2": "1.2", "TLSv1.3": "1.3"}
_ORDER = ("1.0", "1.1", "1.2", "1.3")
_NAME = re.compile(r"(?:mail\.)?(?:(smtps?|imaps?|pop3s?)\.)?(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Claim:
    """A key of the account must be one of these values; the only one, where there is one."""

    key: Path
    values: tuple[object, ...]


class MalformedError(ValueError):
    """A value that means nothing to this property, in Java or here."""


def claims(direction: str, name: str, value: str) -> Iterator[Claim]:
    """What one property says about its account. Raises ValueError: what is wrong, and how to fix it."""
    protocol, bare = parts(name)
    if protocol.startswith("pop3"):
        raise ValueError("is about POP3, which has no safe removal: mailboxes are read by IMAP")
    if protocol and protocol.removesuffix("s") != PROTOCOLS[direction]:
        other = next(name for name in PROTOCOLS if name != direction)
        raise ValueError(f"is about the other direction: write it in [{other}.NAME.properties]")
    if bare not in KNOWN:
        raise ValueError(unknown(bare))
    if protocol.endswith("s"):
        yield Claim(("security",), ("tls",))
    yield from _claims(direction, bare, value.strip())


def parts(name: str) -> tuple[str, str]:
    """The protocol a property is about, if it says so, and its name without the prefix."""
    found = _NAME.fullmatch(name)
    assert found is not None  # the pattern matches any text
    return found[1] or "", found[2]


def unknown(bare: str) -> str:
    """For a property that is none of KNOWN, without its prefix: what it might be."""
    if bare in _ELSEWHERE:
        return _ELSEWHERE[bare]
    names = {known.lower(): known for known in KNOWN}
    near = difflib.get_close_matches(bare.lower(), names, n=1, cutoff=0.6)
    hint = f'did you mean "{names[near[0]]}"?' if near else f"known are: {', '.join(KNOWN)}"
    return f"unknown property; {hint}"


def _claims(direction: str, bare: str, value: str) -> Iterator[Claim]:
    match bare:
        case "host":
            yield Claim(("host",), (value,))
        case "port" | "socketFactory.port":
            yield Claim(("port",), (_port(value),))
        case "user":
            yield Claim(("user",), (value,))
        case "from" if direction == "inbound":
            raise ValueError("has no meaning for a mailbox: write from_address in [outbound.NAME]")
        case "from":
            yield Claim(("from_address",), (value,))
        case "connectiontimeout":
            yield Claim(("connect_timeout",), (_duration(value),))
        case "timeout":
            yield Claim(("command_timeout",), (_duration(value),))
        case "auth" | "auth.mechanisms":
            yield Claim(("auth",), _auth(direction, bare, value))
        case "ssl.protocols":
            lowest, highest = _tls_versions(value)
            yield Claim(("tls", "minimum"), (lowest,))
            yield Claim(("tls", "maximum"), (highest,))
        case "ssl.trust":
            raise ValueError("would trust a server without proof: write ca_file or fingerprint in the account's tls")
        case "ssl.checkserveridentity":
            if not _yes(value):
                raise ValueError("is false, and a name is always checked: write server_name in the account's tls")
        case "socketFactory.fallback":
            if _yes(value):
                raise ValueError("is true, and nothing ever falls back to plain text here: set it to false")
        case _:
            if security := _security(direction, bare, value):
                yield Claim(("security",), security)


def _security(direction: str, bare: str, value: str) -> tuple[str, ...]:
    """What a property leaves possible for `security`; nothing: anything."""
    match bare:
        case "ssl.enable":
            return ("tls",) if _yes(value) else ("starttls", "auto", "none")
        case "starttls.enable":
            return ("starttls",) if _yes(value) else ("tls", "auto", "none")
        case "starttls.required":
            return ("starttls",) if _yes(value) else ()
        case "socketFactory.class":
            simple = value.rpartition(".")[2]
            if simple not in ("SSLSocketFactory", "SocketFactory", "DefaultSocketFactory"):
                raise ValueError("is a class of Java that has no meaning here: remove it; ssl.enable means TLS")
            return ("tls",) if simple == "SSLSocketFactory" else ()
        case _:  # PROTOCOL, store.protocol, transport.protocol
            protocol = PROTOCOLS[direction]
            if value not in (protocol, f"{protocol}s"):
                raise MalformedError(f'must be "{protocol}" or "{protocol}s" in [{direction}.NAME]')
            return ("tls",) if value.endswith("s") else ()


def _auth(direction: str, bare: str, value: str) -> tuple[str, ...]:
    if bare == "auth":
        if _yes(value):
            return ("password", "oauth2")
        if direction == "inbound":
            raise ValueError("is false, and no mailbox can be read without a login: remove it")
        return ("none",)
    mechanisms = set(value.upper().replace(",", " ").split())
    if mechanisms and mechanisms <= {"XOAUTH2", "OAUTHBEARER"}:
        return ("oauth2",)
    if mechanisms and mechanisms <= {"PLAIN", "LOGIN", "CRAM-MD5"}:
        return ("password",)
    if mechanisms and mechanisms <= {"XOAUTH2", "OAUTHBEARER", "PLAIN", "LOGIN", "CRAM-MD5"}:
        return ("password", "oauth2")
    raise ValueError("must name XOAUTH2, or PLAIN and LOGIN: other mechanisms are not offered")


def _yes(value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise MalformedError("must be true or false")
    return value.lower() == "true"


def _port(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", value) or not 1 <= int(value) <= 65535:
        raise MalformedError("must be a port, a number from 1 to 65535")
    return int(value)


def _duration(value: str) -> str:
    if not re.fullmatch(r"[0-9]{1,12}", value) or int(value) == 0:
        raise MalformedError("must be a number of milliseconds above 0, such as 5000: no wait is endless here")
    return units.write_duration(int(value) / 1000)


def _tls_versions(value: str) -> tuple[str, str]:
    """The lowest and the highest of the versions in a list."""
    names = value.replace(",", " ").split()
    if any(name.upper().startswith("SSL") for name in names):
        raise ValueError("names a version of SSL, all of which are broken: name TLSv1.2, TLSv1.3 or both")
    versions = sorted({_TLS_VERSIONS.get(name, "") for name in names})
    if not versions or "" in versions:
        raise MalformedError('must be a list of "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3", with blanks between')
    lowest, highest = versions[0], versions[-1]
    if len(versions) != _ORDER.index(highest) - _ORDER.index(lowest) + 1:
        raise ValueError("leaves out a version between the lowest and the highest: name it too")
    return lowest, highest
