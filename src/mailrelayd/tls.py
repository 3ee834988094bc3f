"""TLS as configured: the context, the pin, and what went wrong in words.

A daemon connects again and again, from many threads: its connections share contexts, each made of its files once.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import ssl
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final, Protocol

SHARED: Final = 64
"""Contexts that are kept, the latest used: more settings than these no configuration has, but a reload brings new ones.

With the system's CAs each takes about a megabyte.
"""

_VERSIONS: Final = {
    "1.0": ssl.TLSVersion.TLSv1,
    "1.1": ssl.TLSVersion.TLSv1_1,
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}
# X509_V_ERR_* of OpenSSL's x509_vfy.h
_VERIFY_ERRORS: Final = {
    9: "the server's certificate is not valid yet: is the clock right?",
    10: "the server's certificate has expired",
    18: "the server's certificate is self-signed: give its CA in ca_file, or its fingerprint",
    19: "the server's certificate comes from a private CA: give it in ca_file, or the certificate's fingerprint",
    20: "the server's certificate comes from an unknown CA: give the CA in ca_file, or the certificate's fingerprint",
    21: "the server's certificate comes from an unknown CA: give the CA in ca_file, or the certificate's fingerprint",
    23: "the server's certificate has been revoked",
}

_OTHER_NAME: Final = (62, 64)  # of a host, of an address

# What OpenSSL, by version, calls an SMTP greeting where a TLS record should be.
_PLAIN_TEXT: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST")


class TlsSettings(Protocol):
    """The keys of an account's tls table; an empty string means not given."""

    @property
    def minimum(self) -> str: ...  # "1.2"
    @property
    def maximum(self) -> str: ...
    @property
    def ca_file(self) -> str: ...
    @property
    def certificate(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def server_name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def verify(self) -> bool: ...


class TlsError(Exception):
    """The settings cannot be used, or the server's certificate is not the one that was pinned."""


def context(settings: TlsSettings) -> ssl.SSLContext:
    """A client's context. Reads the files it names (blocking). Raises TlsError that says which one is wrong.

    With a ca_file nothing else is trusted. With a fingerprint no CA and no name is asked: whoever uses the context has
    to ask `check_pin`, before anything is said over the connection.
    """
    try:
        made = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=settings.ca_file or None)
    except OSError as error:  # ssl.SSLError is one
        what = f"ca_file {settings.ca_file!r}" if settings.ca_file else "the system's TLS setup"
        raise TlsError(f"{what} cannot be used: {error}") from error
    made.sslobject_class = _Watched
    if settings.minimum:
        made.minimum_version = _version("minimum", settings.minimum)
        if made.minimum_version < ssl.TLSVersion.TLSv1_2:
            made.set_ciphers("DEFAULT:@SECLEVEL=0")  # OpenSSL 3 makes no signature of these versions at level 1
    if settings.maximum:
        made.maximum_version = _version("maximum", settings.maximum)
    if settings.fingerprint or not settings.verify:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    try:
        if settings.certificate:
            # The empty password keeps OpenSSL from asking for one on the terminal.
            made.load_cert_chain(settings.certificate, settings.key or None, password="")
    except OSError as error:
        raise TlsError(f"certificate {settings.certificate!r} and its key cannot be used: {error}") from error
    return made


def shared_context(settings: TlsSettings) -> ssl.SSLContext:
    """The `context` of these settings, made anew only where a file that it was made of has changed since.

    Others use it at the same time, so nobody may change it. From any thread; blocks and raises as `context` does.
    """
    kept = _kept_for(settings)
    with kept.making:  # of those who come at once one reads the files; a disk that hangs holds up only these settings
        seen = _stamps(settings)
        if kept.made is None or kept.seen != seen:
            kept.made, kept.seen = context(settings), seen
        return kept.made


@contextmanager
def handshake_watched(secured: Callable[[], None]) -> Iterator[None]:
    """Have `secured` called when a handshake of a connection that is opened inside is done: asyncio tells nobody.

    Only of this task's own connections, whoever else uses the same context.
    """
    token = _secured.set(secured)
    try:
        yield
    finally:
        _secured.reset(token)


def check_pin(pin: str, certificate: bytes | None) -> None:
    """Raises TlsError unless `certificate` (DER, the leaf) has the sha256 digest `pin`.

    `pin` is 64 hex digits, with or without colons, spaces and a "sha256:" in front.
    """
    wanted = re.sub(r"[:\s]", "", re.sub(r"^sha-?256[:=]", "", pin.strip().lower()))
    if not re.fullmatch(r"[0-9a-f]{64}", wanted):
        raise TlsError("fingerprint must be a sha256 digest: 64 hex digits")
    seen = hashlib.sha256(certificate or b"").hexdigest()
    if not hmac.compare_digest(wanted, seen):
        raise TlsError(f"the server's certificate is not the pinned one; its fingerprint is {seen}")


def explain(error: BaseException, settings: TlsSettings) -> str:
    """A failed handshake for people: what is wrong and which key mends it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        known = _VERIFY_ERRORS.get(error.verify_code)
        if error.verify_code in _OTHER_NAME:
            named = error.verify_message.partition("not valid for ")[2].rstrip(".") or "the host we ask for"
            return f"the server's certificate is not valid for {named}: set host to a name in it, or tls.server_name"
        return known or f"the server's certificate is not accepted: {error.verify_message}"
    limits = f"TLS versions we take: minimum {settings.minimum or 'default'}, maximum {settings.maximum or 'none'}"
    if not isinstance(error, ssl.SSLError) or isinstance(error, ssl.SSLEOFError):
        what = str(error).lower() or "the server closed the connection"
        return f"TLS handshake failed: {what} ({limits})"
    reason = (error.reason or "").upper()
    said = reason.lower().replace("_", " ") or str(error)
    if reason in _PLAIN_TEXT:
        return 'this port speaks plain text: set security = "starttls", or the port for TLS (465)'
    if "PROTOCOL" in reason or "VERSION" in reason or "HANDSHAKE_FAILURE" in reason:
        return f"no TLS version or cipher in common with the server: {said} ({limits})"
    if "CERTIFICATE" in reason:  # an alert: the server wants a client certificate, or another one
        return f"the server does not accept our certificate: {said}"
    return f"TLS handshake failed: {said}"


_secured: ContextVar[Callable[[], None] | None] = ContextVar("secured", default=None)


class _Watched(ssl.SSLObject):
    """Calls who watches; transports run in a copy of the context of the task that opened them."""

    def do_handshake(self) -> None:
        super().do_handshake()  # raises as long as it waits for the server
        if (secured := _secured.get()) is not None:
            secured()


@dataclass(slots=True)
class _Kept:
    """A shared context, and what its files looked like just before it was made of them."""

    making: threading.Lock = field(default_factory=threading.Lock)
    made: ssl.SSLContext | None = None
    seen: tuple[tuple[int, ...], ...] = ()


_shared: OrderedDict[tuple[str | bool, ...], _Kept] = OrderedDict()
_sharing = threading.Lock()


def _kept_for(settings: TlsSettings) -> _Kept:
    wanted = (settings.ca_file, settings.certificate, settings.key, settings.minimum, settings.maximum)
    key = (*wanted, bool(settings.fingerprint) or not settings.verify)
    with _sharing:
        kept = _shared.setdefault(key, _Kept())
        _shared.move_to_end(key)
        while len(_shared) > SHARED:
            _shared.popitem(last=False)
    return kept


def _stamps(settings: TlsSettings) -> tuple[tuple[int, ...], ...]:
    """What changes when a file does that a context is made of; of a folder of CAs, when one is added or removed."""
    cas = [settings.ca_file] if settings.ca_file else _system_cas()
    return tuple(_stamp(path) for path in (*cas, settings.certificate, settings.key) if path)


def _system_cas() -> list[str]:
    """Where OpenSSL looks for CAs by itself: a file and folders, whether they exist or not."""
    usual = ssl.get_default_verify_paths()
    file = os.environ.get(usual.openssl_cafile_env, usual.openssl_cafile)
    return [file, *os.environ.get(usual.openssl_capath_env, usual.openssl_capath).split(os.pathsep)]


def _stamp(path: str) -> tuple[int, ...]:
    try:
        found = os.stat(path)  # noqa: PTH116 - an empty or odd name from the environment is no Path
    except (OSError, ValueError):
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _version(key: str, text: str) -> ssl.TLSVersion:
    try:
        return _VERSIONS[text]
    except KeyError:
        raise TlsError(f"{key} = {text!r} is no TLS version: use one of {', '.join(_VERSIONS)}") from None
