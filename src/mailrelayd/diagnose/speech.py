"""Which protocol the first bytes of a server belong to. Pure."""

from __future__ import annotations

import re
from typing import Final

_KNOWN: Final = (
    ("tls", re.compile(rb"[\x15\x16]\x03[\x00-\x04]")),  # RFC 8446 section 5.1: an alert or a handshake record
    ("imap", re.compile(rb"\* (OK|PREAUTH|BYE)\b", re.IGNORECASE)),
    ("pop3", re.compile(rb"(\+OK|-ERR)\b")),
    ("http", re.compile(rb"HTTP/|\s*<!doctype html|\s*<html", re.IGNORECASE)),
    ("ssh", re.compile(rb"SSH-")),
    ("ftp", re.compile(rb"220[ -](?!.*smtp).*(ftp|filezilla)", re.IGNORECASE)),
    ("nntp", re.compile(rb"20[01][ -].*\bnntp|20[01][ -].*\bnews", re.IGNORECASE)),
    ("managesieve", re.compile(rb'"IMPLEMENTATION"|"SIEVE"', re.IGNORECASE)),
    ("smtp", re.compile(rb"(220|421|55[0-9])[ -]|(220|421|55[0-9])\r?\n")),
)

NAMES: Final = {
    "tls": "TLS",
    "imap": "IMAP",
    "pop3": "POP3",
    "http": "HTTP",
    "ssh": "SSH",
    "ftp": "FTP",
    "nntp": "NNTP",
    "managesieve": "ManageSieve",
    "smtp": "SMTP",
    "": "an unknown protocol",
}


def recognised(heard: bytes) -> str:
    """A key of NAMES; "" for what is none of them."""
    return next((protocol for protocol, pattern in _KNOWN if pattern.match(heard)), "")
