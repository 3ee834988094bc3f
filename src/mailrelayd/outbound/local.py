"""Who hands in a message on this machine, and what a name without a domain means here."""

from __future__ import annotations

import pwd
import socket
from pathlib import Path

from mailrelayd.outbound.addresses import valid_address
from mailrelayd.outbound.handin import LOCALHOST, Person, Site

MAILNAME = Path("/etc/mailname")  # Debian policy, section 11.6


def person(uid: int) -> Person:
    """The user with this number; its number is its name where the user database does not know it."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return Person(str(uid))
    full_name = entry.pw_gecos.partition(",")[0].replace("&", entry.pw_name.capitalize())  # passwd(5)
    return Person(entry.pw_name, full_name)


def site(default_domain: str, local_recipient: str, mailname: Path = MAILNAME) -> Site:
    """[submit] default_domain, else what /etc/mailname says, else the host's name."""
    host = socket.gethostname().lower().rstrip(".")
    hosts = frozenset({host, host.partition(".")[0]} - {"", LOCALHOST})
    for domain in (default_domain, _first_line(mailname), host):
        if domain and valid_address(f"root@{domain}") is None:
            return Site(domain, hosts, local_recipient)
    return Site(LOCALHOST, hosts, local_recipient)


def _first_line(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.readline(1000).strip()
    except OSError:
        return ""
