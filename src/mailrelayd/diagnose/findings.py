"""What was seen on the way to a server, as steps with cause and cure: DNS, TCP, what a port speaks. Pure."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final

from mailrelayd.diagnose.facts import Door
from mailrelayd.diagnose.speech import NAMES
from mailrelayd.diagnose.steps import UNAVAILABLE, Outcome, Step
from mailrelayd.outbound.answers import shown

_TLS_PORTS: Final = {"smtp": 465, "imap": 993}
_STARTTLS_PORTS: Final = {"smtp": 587, "imap": 143}


def failed(door: Door, name: str, text: str, cause: str, cure: str, setting: str) -> Step:
    """A step that ends an examination below the login; `setting` is a key of the account, or ""."""
    key = f"{door.account}.{setting}" if setting else ""
    return Step(door.account, name, Outcome.FAILED, text, cause, cure, key, UNAVAILABLE, door.openssl)


# DNS and TCP


def resolved(door: Door, addresses: Sequence[str]) -> Step:
    """The name leads somewhere."""
    text = (
        f"{door.host} is {', '.join(addresses)}" if tuple(addresses) != (door.host,) else f"{door.host} is an address"
    )
    return Step(door.account, "dns", Outcome.OK, text, data={"host": door.host, "addresses": list(addresses)})


def unresolved(door: Door, text: str) -> Step:
    """The name leads nowhere."""
    by_hand = f"getent ahosts {door.host}"
    if "temporary" in text or "within" in text:
        cause = f"This machine's name server gives no answer about {door.host}."
        cure = "Check the name servers in /etc/resolv.conf and the way to them."
    else:
        cause = f"The name {door.host} does not exist, or has no address."
        cure = "Correct host: the provider's documentation, or whoever runs the server, names it."
    return Step(door.account, "dns", Outcome.FAILED, text, cause, cure, f"{door.account}.host", UNAVAILABLE, by_hand)


def answered(door: Door, address: str, milliseconds: float) -> Step:
    """A TCP connection came about."""
    text = f"{address} port {door.port} answers ({milliseconds:.0f} ms)"
    data = {"address": address, "port": door.port, "milliseconds": round(milliseconds, 1)}
    return Step(door.account, "tcp", Outcome.OK, text, data=data)


def unanswered(door: Door, address: str, number: int, text: str, *, others: bool) -> Step:
    """A TCP connection did not come about; `number` is the errno, 0: no answer in time. `others`: one answers."""
    text = f"{address} port {door.port}: {text}"
    data = {"address": address, "port": door.port}
    usual = "587 with starttls, 465 with tls, 25 between servers" if door.protocol == "smtp" else "993 with tls"
    if number == errno.ECONNREFUSED:
        cause = f"Nothing listens on port {door.port} of {door.host}, or a firewall rejects the connection."
        cure = f"Correct port (usual: {usual}) and host, or start the server."
    elif number == 0:
        cause = f"A firewall drops the packets to port {door.port} of {door.host}, or the machine is down."
        cure = f"Have TCP port {door.port} opened for this machine, or take another port (usual: {usual})."
    else:
        cause = f"There is no way from this machine to {address}."
        cure = "Check this machine's network: its addresses, its default route, its VPN."
    if others:
        cause += " Another address of the same name answers."
        cure = "Nothing has to be done for mail to flow; have the address mended or taken out of DNS."
        return Step(door.account, "tcp", Outcome.WARNING, text, cause, cure, data=data)
    setting = f"{door.account}.port"
    return Step(door.account, "tcp", Outcome.FAILED, text, cause, cure, setting, UNAVAILABLE, door.openssl, data)


# What the port speaks


def less_safe(door: Door, level: str) -> Step:
    """security = "auto": this server has been reached more safely before."""
    return failed(
        door,
        "memory",
        f"this way is {door.level}, and {level} has led to this server before",
        "The safer way no longer leads there: it was given up, or somebody on the way suppresses it.",
        "If it was given up on purpose, mailrelayd doctor --forget-tls forgets it.",
        "security",
    )


def right_port(door: Door, heard: bytes) -> Step:
    """It is the protocol, and the way into it, that the account says."""
    way = {"tls": "in TLS from the first byte", "starttls": "in plain text before STARTTLS", "none": "in plain text"}
    said = f"speaks {NAMES[door.protocol]} {way[door.level]}: {shown(heard.rstrip())}" if heard else "speaks TLS"
    text = f"port {door.port} {said}"
    data = {"level": door.level, "port": door.port}
    return Step(door.account, "port", Outcome.OK, text, command=door.openssl, data=data)


def tls_port(door: Door) -> Step:
    """It expects TLS from the first byte, and the account says otherwise."""
    return failed(
        door,
        "port",
        f"port {door.port} keeps silent in plain text and makes a TLS handshake",
        f'This is a TLS port, and security is "{door.level}".',
        f'Write security = "tls", or the port for STARTTLS (usually {_STARTTLS_PORTS[door.protocol]}).',
        "security",
    )


def plain_port(door: Door, heard: bytes) -> Step:
    """It speaks plain text, and the account says TLS."""
    return failed(
        door,
        "port",
        f"port {door.port} answers a TLS handshake in plain text: {shown(heard.rstrip())}",
        'This port does not speak TLS from the first byte, and security is "tls".',
        f'Write security = "starttls", or the port for TLS (usually {_TLS_PORTS[door.protocol]}).',
        "security",
    )


def other_protocol(door: Door, protocol: str, heard: bytes) -> Step:
    """Somebody else lives there."""
    wanted, usual = NAMES[door.protocol], _TLS_PORTS if door.level == "tls" else _STARTTLS_PORTS
    article = "an" if NAMES[protocol][0] in "AEFHIMNS" else "a"
    who = f"{article} {NAMES[protocol]} server" if protocol else "a server of another protocol"
    return failed(
        door,
        "port",
        f"port {door.port} says {shown(heard.rstrip())}",
        f"On this port {who} answers, not {wanted}.",
        f"Correct port (usually {usual[door.protocol]} for {wanted}) or host.",
        "port",
    )


def closed_port(door: Door) -> Step:
    """Whoever listens there hangs up without a word."""
    return failed(
        door,
        "port",
        f"port {door.port} closes every connection without a word",
        "The server, or what stands in front of it, does not talk to this machine's address.",
        "Ask whoever runs it whether this machine is on an allow list or a block list, or correct port.",
        "port",
    )


def silent_port(door: Door) -> Step:
    """Neither plain text nor TLS."""
    return failed(
        door,
        "port",
        f"port {door.port} accepts connections and keeps silent for {door.answering:g} s, in plain text and in TLS",
        f"What listens on this port is no {NAMES[door.protocol]} server, or one that is overloaded or stuck.",
        "Correct port or host, or have the server looked at.",
        "port",
    )


def no_starttls(door: Door) -> Step:
    """The server has none, or somebody on the way takes it out."""
    return failed(
        door,
        "tls",
        "the server offers no STARTTLS",
        "The server, or a firewall that rewrites its answers, has no TLS on this port.",
        f'Write security = "tls" and the port for it (usually {_TLS_PORTS[door.protocol]}), or have the server mended.',
        "security",
    )


def no_welcome(door: Door, text: str) -> Step:
    """The server turned us away before STARTTLS."""
    return failed(
        door,
        "greeting",
        text,
        "The server turns this machine away before it has said who it is.",
        "Ask whoever runs it: this machine's address may be blocked, or the server has no room for the moment.",
        "",
    )
