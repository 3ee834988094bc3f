"""What a single value may be: each check returns the value, or raises ValueError with the cure, not the value."""

from __future__ import annotations

import ipaddress
import re
from datetime import date, datetime
from pathlib import Path

from mailrelayd.config import secrets
from mailrelayd.config.secrets import Secret
from mailrelayd.outbound.addresses import valid_pattern

_ACCOUNT_NAME = re.compile(r"[A-Za-z0-9]+(?:[_-][A-Za-z0-9]+)*", re.ASCII)  # no "__": it separates in the environment
_NODE_NAME = re.compile(r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*", re.ASCII)
_HOST_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)
# RFC 5322 section 3.4.1, dot-atom form, with RFC 6532's non-ASCII letters; quoted local parts are not for a sender.
_ATOM = r"[^\s\x00-\x20\x7f-\x9f()<>@,;:\\\"\[\].]+"
_ADDRESS = re.compile(rf"(?P<local>{_ATOM}(?:\.{_ATOM})*)@(?P<domain>.+)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def one_line(text: str) -> str:
    """A text without control characters or line breaks."""
    if _CONTROL.search(text):
        raise ValueError("holds a control character or a line break; remove it")
    return text


def account_name(name: str) -> str:
    """The NAME of an [outbound.NAME] section."""
    if len(name) > 64 or not _ACCOUNT_NAME.fullmatch(name):
        raise ValueError(
            "is no usable name: write up to 64 letters and digits, with a single dash or underscore between them"
        )
    return name


def node_name(name: str) -> str | None:
    """A host name, or None for the empty text."""
    if name and not (len(name) <= 63 and _NODE_NAME.fullmatch(name) and is_domain(name)):
        raise ValueError("must be a host name of at most 63 letters, digits, dots and dashes")
    return name or None


def is_domain(text: str) -> bool:
    """Whether a text has the form of a domain name; underscores are met in practice."""
    labels = text.removesuffix(".").split(".")
    return len(text) <= 253 and all(_HOST_LABEL.fullmatch(label) for label in labels)


def is_ip(text: str) -> bool:
    """Whether a text is an IPv4 or IPv6 address, for link-local ones with a zone (fe80::1%eth0)."""
    bare, percent, zone = text.partition("%")
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        return False
    return not percent or bool(_HOST_LABEL.fullmatch(zone))  # ipaddress itself takes any zone, line breaks too


def is_this_machine(host: str) -> bool:
    """Whether a host is reached without leaving this machine."""
    return host == "localhost" or (is_ip(host) and ipaddress.ip_address(host.partition("%")[0]).is_loopback)


def host(text: str) -> str:
    """A host name or an IP address, or nothing."""
    if not text or is_ip(text):
        return text
    if "://" in text or "/" in text:
        raise ValueError('must be a name only, without "smtp://" or a path, such as "smtp.example.com"')
    if text.startswith("["):
        raise ValueError("an IPv6 address is written without brackets")
    if ":" in text:
        raise ValueError("must be a name only: the port is the key port")
    if not text.isascii():
        raise ValueError('must be written in ASCII: international names in their "xn--" form')
    if not is_domain(text):
        raise ValueError('must be a host name or an IP address, such as "smtp.example.com" or "192.0.2.1"')
    if text.replace(".", "").isdigit():
        raise ValueError("looks like an IP address and is none: four numbers up to 255")
    return text


def address(text: str) -> str:
    """One bare address (RFC 5322 addr-spec in its dot-atom form), or nothing."""
    if not text:
        return text
    found = _ADDRESS.fullmatch(one_line(text))
    if found is None:
        raise ValueError('must be one bare address, such as "noreply@example.com", without a display name or <>')
    domain = found["domain"]
    try:
        ascii_domain = domain if domain.isascii() else domain.encode("idna").decode("ascii")
    except UnicodeError:
        ascii_domain = ""
    if len(found["local"].encode()) > 64:  # RFC 5321 section 4.5.3.1.1
        raise ValueError("has more than 64 bytes in front of the @")
    if not is_domain(ascii_domain) or ascii_domain.endswith("."):
        raise ValueError('needs a domain behind the @, such as "noreply@example.com"')
    return text


def plain(address: str) -> str:
    """An address that every server takes."""
    if not address.isascii():
        raise ValueError("must be written in ASCII: not every server takes other addresses, and who would say so?")
    return address


def domain(text: str) -> str:
    """A domain name, or nothing."""
    if text and not (is_domain(text) and not text.endswith(".")):
        raise ValueError('must be a domain, such as "example.com"')
    return text


def pattern(text: str) -> str:
    """One address, or all of a domain."""
    if valid_pattern(text):
        raise ValueError('holds what is none of "a@example.com", "@example.com", "@*.example.com" (subdomains) and "*"')
    return text


def producer_name(name: str) -> str:
    """The NAME of a [pickup.NAME] section, and of its folder."""
    if name in ("tmp", "new", "cur", "submit"):
        raise ValueError("cannot be the name of a producer: it has a meaning of its own")
    return account_name(name)


def group(name: str) -> str:
    """The name of a group, or nothing."""
    if name and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}\$?", name, re.ASCII):
        raise ValueError('must be the name of a group, such as "erp"')
    return name


def syslog(written: object) -> object:
    """false, true (/dev/log), or the path of a socket: "" for none."""
    if isinstance(written, bool):
        return "/dev/log" if written else ""
    if isinstance(written, str):
        return absolute(written)
    raise ValueError('must be true, false, or the path of a socket such as "/dev/log"')


def path(written: object) -> Path:
    """An absolute path."""
    if isinstance(written, Path):
        return written
    if not isinstance(written, str) or not written:
        raise ValueError('must be a path in quotes, such as "/var/spool/mailrelayd"')
    return Path(absolute(written))


def absolute(text: str) -> str:
    """The text of an absolute path, or nothing."""
    if text and not Path(one_line(text)).is_absolute():
        raise ValueError('must be an absolute path, one that begins with "/"')
    return text


def fingerprint(text: str) -> str:
    """A SHA-256 as lower-case hexadecimal digits, or nothing."""
    digits = text.replace(":", "").lower()
    if digits and not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise ValueError(
            "must be the SHA-256 of the certificate, 64 hexadecimal digits with or without colons, "
            "as printed by: openssl x509 -noout -fingerprint -sha256"
        )
    return digits


def positive(seconds: float) -> float:
    """A duration longer than nothing; seconds."""
    if seconds <= 0:
        raise ValueError("must be longer than 0")
    return seconds


def reference(text: str) -> str:
    """A well-formed reference (see secrets), or a literal."""
    wrong = secrets.malformed(text)
    if wrong:
        raise ValueError(wrong)
    return text


def secret(written: object) -> Secret:
    """A well-formed reference or a literal, hidden."""
    if isinstance(written, str):
        written = Secret(written)
    if not isinstance(written, Secret):
        raise ValueError("must be text in quotes")  # noqa: TRY004 - a TypeError would leave pydantic as it is
    wrong = secrets.malformed(written)
    if wrong:
        raise ValueError(wrong)
    return written


def backend(written: object) -> object:
    """A queue back end this version has."""
    if written == "postgres":
        raise ValueError('this version keeps its queue on disk only; write "disk"')
    return written


def secret_list(written: object) -> tuple[Secret, ...]:
    """One reference, or a list of them: the first signs, all verify."""
    if isinstance(written, tuple):
        written = list(written)
    if not isinstance(written, list):
        written = [] if written == "" else [written]
    return tuple(secret(one) for one in written)


def moment(written: object) -> datetime | None:
    """A point in time: a TOML date-time with an offset, or the same as text; "" for none."""
    if written is None or written == "":
        return None
    if isinstance(written, str):
        try:
            written = datetime.fromisoformat(written)
        except ValueError:
            written = None
    if not isinstance(written, datetime) or written.tzinfo is None:
        raise ValueError("must be a date and time with its offset, such as 2026-01-01T00:00:00Z")
    return written


def poll_interval(seconds: float) -> float:
    """Seconds between two polls; a server asked more often than that sends the client away."""
    if seconds < 1:
        raise ValueError('must be at least "1s"')
    return seconds


def after(text: str) -> str:
    """What becomes of a mail that was read."""
    if text not in ("delete", "keep") and not (text.startswith("move:") and len(one_line(text)) > len("move:")):
        raise ValueError('must be "delete", "keep" or "move:FOLDER"')
    return text


def protocol(written: object) -> object:
    """The one protocol that lets one client remove exactly what it has read."""
    if written == "pop3":
        raise ValueError('cannot be "pop3": it has no folders, no flags and no safe removal; write "imap"')
    return written


def separator(text: str) -> str:
    """What stands between the reply address's name and a token."""
    if not re.fullmatch(r"[-+=_.]", text):
        raise ValueError('must be one of + - = _ .; most servers take "+"')
    return text


def sink_name(name: str) -> str:
    """The name of a sink, and of its folder."""
    return account_name(name) if name else name


def webhook(text: str) -> str:
    """An http or https address, or nothing."""
    if text and not re.fullmatch(r"https?://[^\s/?#@]+(?:/[^\s#]*)?", text):
        raise ValueError(
            'must be an address such as "https://erp.example.com/hooks/approvals", without user or fragment'
        )
    return text


def command(words: tuple[str, ...]) -> tuple[str, ...]:
    """A program by its absolute path, and its arguments: no shell reads it."""
    if words:
        absolute(words[0] or ".")
    return words


def field_name(name: str) -> str:
    """The name of a header field (RFC 5322 section 2.2)."""
    if not re.fullmatch(r"[!-9;-~]{1,76}", name):
        raise ValueError('must be the name of a header field, such as "X-Ticket"')
    return name


def token_server(text: str) -> str:
    """The address of a provider of tokens, or nothing: https, but on this very machine."""
    if not text:
        return text
    found = re.fullmatch(r"(https?)://(\[[0-9A-Fa-f:.]+\]|[^\s/?#@:\[\]]+)(?::[0-9]{1,5})?(?:/[^\s#?]*)?", text)
    if not found:
        raise ValueError('must be an address such as "https://login.example.com", without user, query or fragment')
    if found[1] == "http" and not is_this_machine(found[2].strip("[]")):
        raise ValueError("begins with http:, and a secret would travel in clear: write https:")
    return text.rstrip("/")


def path_segment(text: str) -> str:
    """What stands between two slashes of an address, such as a tenant's id or domain."""
    if text and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}", text, re.ASCII):
        raise ValueError("must be an id or a domain: letters, digits, dots and dashes")
    return text


def day(written: object) -> date | None:
    """A TOML date, or the same as text; "" for none."""
    if written is None or written == "":
        return None
    if isinstance(written, str):
        try:
            written = date.fromisoformat(written)
        except ValueError:
            written = None
    if not isinstance(written, date) or isinstance(written, datetime):
        raise ValueError("must be a date, such as 2027-05-01")  # noqa: TRY004 - see `secret`
    return written


def ping(text: str) -> str:
    """An address that is called while all is well, or nothing."""
    if text and not re.fullmatch(r"https?://[^\s/?#@]+(?:[/?][^\s#]*)?", text):
        raise ValueError('must be an address such as "https://hc.example.com/UUID", without user or fragment')
    return text
