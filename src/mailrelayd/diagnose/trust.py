"""TLS as it was seen of a server, as steps with cause and cure: versions, the handshake, the certificate. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mailrelayd.diagnose.certificate import Certificate
from mailrelayd.diagnose.facts import Door, Handshake, Versions
from mailrelayd.diagnose.findings import failed
from mailrelayd.diagnose.steps import CONFIGURATION, UNAVAILABLE, Outcome, Step

EXPIRY_WARNING: Final = 30  # days
_NAMES_SHOWN: Final = 5
_ALL: Final = ("1.0", "1.1", "1.2", "1.3")


def versions(door: Door, found: Versions) -> Step:
    """Which TLS versions the server takes."""
    parts = [f"the server takes {_listed(found.taken)}" if found.taken else "the server takes no version of TLS"]
    parts += [f"not {_listed(found.refused)}"] if found.refused and found.taken else []
    parts += [f"not tried: {_listed(found.unknown)}"] if found.unknown else []
    data = {"taken": list(found.taken), "refused": list(found.refused), "unknown": list(found.unknown)}
    return Step(door.account, "tls-versions", Outcome.OK, "; ".join(parts), data=data)


def negotiated(door: Door, made: Handshake) -> Step:
    """What the server and we agree on."""
    data = {"version": made.version, "cipher": made.cipher}
    return Step(door.account, "tls", Outcome.OK, f"TLS {made.version}, {made.cipher}", data=data)


def no_tls(door: Door, text: str, found: Versions, minimum: str, maximum: str) -> Step:
    """No handshake within the versions that the account allows."""
    allowed = _ALL[_ALL.index(minimum) : _ALL.index(maximum or _ALL[-1]) + 1]
    if found.taken and not set(found.taken) & set(allowed):
        low = found.taken[-1] < minimum
        key, value = ("minimum", found.taken[-1]) if low else ("maximum", found.taken[0])
        return failed(
            door,
            "tls",
            text,
            f"The server takes {_listed(found.taken)} only, and the account allows {_listed(allowed)}.",
            f'Have the server brought up to TLS 1.2; where that cannot be, write tls.{key} = "{value}".'
            if low
            else f'Write tls.{key} = "{value}" or leave tls.{key} out.',
            f"tls.{key}",
        )
    return failed(
        door,
        "tls",
        text,
        "No TLS handshake comes about: there is no cipher in common, or the server's TLS is broken.",
        "Have the server's TLS set-up looked at; the line below shows the same handshake.",
        "security",
    )


def settings_unusable(door: Door, text: str) -> Step:
    """A file of the account's tls section cannot be used."""
    key = f"{door.account}.tls"
    cause = "The files of the account's tls section cannot be used."
    return Step(
        door.account, "tls", Outcome.FAILED, text, cause, "Correct ca_file, certificate or key.", key, CONFIGURATION
    )


def trusted(door: Door, chain: Sequence[Certificate], now: float, *, how: str) -> Step:
    """The certificate is the one we want; `how` says by what. Warns below EXPIRY_WARNING days."""
    if not chain:
        cause, cure = "Nobody is told here when it ends.", "Look at it with the line below."
        text = f"{how}; what stands in it cannot be read here"
        return Step(door.account, "certificate", Outcome.WARNING, text, cause, cure, command=door.openssl)
    own = chain[0]
    soonest = min(chain, key=lambda one: one.not_after)
    days = soonest.days_left(now)
    whose = "the certificate" if soonest is own else f"{soonest.subject}'s certificate, by which it is issued,"
    text = f"{described(chain)}; {how}"
    if days >= EXPIRY_WARNING:
        return Step(door.account, "certificate", Outcome.OK, f"{text}; {days} days left", data=_data(chain, now))
    return Step(
        door.account,
        "certificate",
        Outcome.WARNING,
        f"{text}; {days} days left",
        f"In {days} days {whose} ends, and mail waits from then on.",
        "Have it renewed by whoever runs the server.",
        command=door.openssl,
        data=_data(chain, now),
    )


def distrusted(door: Door, code: int, message: str, chain: Sequence[Certificate], now: float) -> Step:
    """OpenSSL's verdict, by its X509_V_ERR_* number, with what the certificate itself says."""
    own = chain[0] if chain else None
    pin = f'tls.fingerprint = "{own.sha256}"' if own is not None else "tls.fingerprint"
    match code:
        case 9:
            cause = "The server's certificate is not valid yet."
            cure, setting = "Set this machine's clock; if it is right, have the certificate replaced.", ""
        case 10:
            when = f" on {own.not_after:%Y-%m-%d}" if own is not None and own.days_left(now) < 0 else ""
            cause = f"The server's certificate has expired{when}."
            cure = f"Have it renewed by whoever runs the server; until then {pin} accepts exactly this one."
            setting = "tls.fingerprint"
        case 18:
            cause = "The server's certificate is signed by itself, and nothing here vouches for it."
            cure = f"Write its file as tls.ca_file, or {pin} once you have compared it with the server's."
            setting = "tls.ca_file"
        case 19 | 20 | 21:
            issuer = f" {own.issuer!r}" if own is not None and own.issuer else ""
            cause = f"The server's certificate comes from{issuer or ' a CA'}, which this machine does not know."
            short = " If it is a public CA, the server does not send its intermediate certificates: have it mended."
            cure = "Write that CA's file as tls.ca_file." + (short if len(chain) == 1 else "")
            setting = "tls.ca_file"
        case 62 | 64:
            names = _names(own) if own is not None else ""
            cause = f"The server's certificate is for {names or 'no name at all'}, not for {door.server_name}."
            cure = "Write the right name as host, or as tls.server_name where the connection has to go by another."
            setting = "tls.server_name"
        case _:
            cause = f"OpenSSL does not accept the server's certificate: {message}."
            cure, setting = "Have it replaced by whoever runs the server.", "tls.ca_file"
    text = described(chain) if chain else message
    key = f"{door.account}.{setting}" if setting else ""
    data = _data(chain, now) | {"verify_code": code, "verify_message": message}
    return Step(door.account, "certificate", Outcome.FAILED, text, cause, cure, key, UNAVAILABLE, door.openssl, data)


def not_pinned(door: Door, chain: Sequence[Certificate], now: float) -> Step:
    """Another certificate than the account's fingerprint names."""
    own = chain[0].sha256 if chain else ""
    cause = "The server shows another certificate than the one that is pinned."
    cure = f"Find out why; if it was replaced on purpose, its fingerprint is now {own}."
    text = described(chain) if chain else "no certificate"
    key = f"{door.account}.tls.fingerprint"
    return Step(
        door.account,
        "certificate",
        Outcome.FAILED,
        text,
        cause,
        cure,
        key,
        UNAVAILABLE,
        door.openssl,
        _data(chain, now),
    )


def unverified(door: Door, chain: Sequence[Certificate], now: float) -> Step:
    """verify = false: whatever the server shows is taken."""
    text = described(chain) if chain else "no certificate"
    cause = "Anybody on the way may pose as this server, and would be told the password."
    cure = (
        f'Write tls.fingerprint = "{chain[0].sha256}" instead of verify = false.' if chain else "Remove verify = false."
    )
    key = f"{door.account}.tls.verify"
    return Step(door.account, "certificate", Outcome.WARNING, text, cause, cure, key, data=_data(chain, now))


def described(chain: Sequence[Certificate]) -> str:
    """A certificate in a line."""
    own = chain[0]
    signed = "signed by itself" if own.self_issued else f"issued by {own.issuer or 'nobody'}"
    more = f", {len(chain)} in the chain" if len(chain) > 1 else ""
    return f"for {_names(own) or own.subject or 'nobody'}, {signed}, until {own.not_after:%Y-%m-%d}{more}"


def _names(one: Certificate) -> str:
    more = ", ..." if len(one.names) > _NAMES_SHOWN else ""
    return ", ".join(one.names[:_NAMES_SHOWN]) + more


def _data(chain: Sequence[Certificate], now: float) -> dict[str, object]:
    return {
        "chain": [
            {
                "subject": one.subject,
                "issuer": one.issuer,
                "names": list(one.names),
                "not_before": one.not_before.isoformat(),
                "not_after": one.not_after.isoformat(),
                "days_left": one.days_left(now),
                "sha256": one.sha256,
            }
            for one in chain
        ]
    }


def _listed(versions: Sequence[str]) -> str:
    *first, last = versions
    return f"TLS {', '.join(first)} and {last}" if first else f"TLS {last}"
