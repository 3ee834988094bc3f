"""`sender_check = "dkim"`: verify the signature of a mail here (RFC 6376), where no server before us says so.

What a pass proves: whoever holds a key of the From domain, or of one above it, has signed this From, this body, and
the fields in `Signed.signed`, and nothing else. It does not prove that the mail was sent to us, or sent once: anybody
may send a signed mail again, to anybody, with other fields around it. So the caller has to look for the token in
`Signed.signed` alone, and a field that says how the body is to be read must be signed, or must not matter.
Neither does it prove which person of the domain wrote it: that is the business of the domain's own servers.

dkimpy canonicalises, hashes and computes; whether a signature is good enough is decided here, before it is asked.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mailrelayd.outbound.headers import Field, Header, Unreadable, split_header

READ = 16 << 20  # bytes of a mail; a longer one cannot be verified
MOST_SIGNATURES = 5  # of one mail that are looked at
MOST_CLAIMED, MOST_NAMES = 20, 100  # signatures, and fields in each, of a mail that somebody else has verified
MAX_HEADER = 100 << 10  # bytes
MAX_SIGNATURE = 8 << 10  # bytes of one DKIM-Signature field
MAX_RECORD = 4 << 10  # bytes of a key record
SMALLEST_KEY, LARGEST_KEY = 1024, 8192  # bits of RSA; RFC 8301 section 3.2
LARGEST_EXPONENT = 1 << 32
SKEW = 3600.0  # seconds that clocks of signers may be ahead or behind
ONE_LOOKUP = 5.0  # seconds

_ALGORITHMS = {b"rsa-sha256": b"rsa", b"ed25519-sha256": b"ed25519"}  # RFC 8301 forbids rsa-sha1; RFC 8463
_DOMAIN = re.compile(rb"[a-z0-9_](?:[a-z0-9_-]{0,62})(?:\.[a-z0-9_](?:[a-z0-9_-]{0,62}))*")
_FIELD_NAME = re.compile(rb"[!-9;-~]+")
_TAG = re.compile(rb"(?:^|;)([a-z]+)=([^;]*)")
_NUMBER = re.compile(rb"\d{1,12}")
_BLANKS = re.compile(rb"[ \t]+")
_LONE_CR = re.compile(rb"\r(?!\n)")
_HOW_TO_READ = ("content-type", "content-transfer-encoding")
_BOUNDARY = re.compile(rb"""(?i)\bboundary[ \t]*=[ \t]*(?:"([^"\\]*)"|([^\s;"]+))""")


class KeyUnavailableError(OSError):
    """DNS does not answer now. The mail is neither good nor bad: it has to be asked again."""


@dataclass(frozen=True, slots=True)
class Signed:
    """Whether a mail is signed by its From domain, and why. `signed`: as much of the mail as the signature covers."""

    valid: bool
    reason: str  # a sentence without control characters
    signed: bytes = b""


class _RefusedError(Exception):
    """Why one signature does not count."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class _Signature:
    """What one DKIM-Signature field claims, checked as far as that goes without its key."""

    field: tuple[bytes, bytes]  # as dkimpy holds it
    tags: Mapping[bytes, bytes]
    domain: str
    names: tuple[bytes, ...]  # of h=, in lower case

    @property
    def key_name(self) -> bytes:
        """Where its key stands in DNS."""
        return self.tags[b"s"].lower() + b"._domainkey." + self.tags[b"d"].lower()


def key_record(name: bytes) -> bytes:
    """The one TXT record at this name that holds a key; b"" where there is none, or more than one.

    Raises OSError where no server can tell.
    """
    import dns.exception  # dnspython takes 0.1 s, and only this check needs it; dkimpy brings it, too
    import dns.name
    import dns.resolver

    try:
        answer = dns.resolver.resolve(dns.name.from_text(name.decode()), "TXT", lifetime=ONE_LOOKUP, search=False)
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer, dns.resolver.YXDOMAIN, dns.name.LabelTooLong):
        return b""
    except dns.exception.DNSException as error:
        raise OSError(0, f"{type(error).__name__} for {name.decode()}") from error
    keys = [text for text in (b"".join(record.strings) for record in answer) if b"p=" in text]
    return keys[0] if len(keys) == 1 else b""


def verify(data: bytes, domain: str, at: float, lookup: Callable[[bytes], bytes] = key_record) -> Signed:
    """Whether this mail, which came in at `at` (seconds since the epoch), is signed by its From domain.

    `lookup`: a name -> the key record there, b"" where there is none; raises OSError where nobody can tell. Waits for
    DNS, at most MOST_SIGNATURES times ONE_LOOKUP. Raises KeyUnavailableError where the answer can only be told later.
    """
    header = split_header(data, MAX_HEADER, complete=len(data) <= MAX_HEADER)
    if (why := _unfit(data, header)) is not None or isinstance(header, Unreadable):
        return Signed(False, why or "its header cannot be read")
    fields = header.named("dkim-signature")
    if not fields:
        return Signed(False, "it carries no DKIM-Signature")
    reasons: list[str] = []
    unavailable: OSError | None = None
    for number in range(min(len(fields), MOST_SIGNATURES)):
        try:
            signature = _claimed(data[: header.body], number, domain.lower(), at)
            covered = _covered(header, signature.names)
            _read_one_way(data[header.body :], header, covered)
            _compute(data, signature, lookup)
        except _RefusedError as refused:
            reasons.append(refused.reason)
        except OSError as error:
            unavailable = error
        else:
            signed = b"".join(_with_end(field.raw) for field in covered) + b"\r\n" + data[header.body :]
            return Signed(True, f"a valid signature of {signature.domain}", signed)
    if unavailable is not None:
        raise KeyUnavailableError(0, f"its DKIM key cannot be asked for now: {unavailable.strerror or unavailable}")
    if len(fields) > MOST_SIGNATURES:
        reasons.append(f"only the first {MOST_SIGNATURES} signatures are looked at")
    return Signed(False, "; ".join(dict.fromkeys(reasons)))


def _compute(data: bytes, signature: _Signature, lookup: Callable[[bytes], bytes]) -> None:
    """Raises _RefusedError, or OSError where the key cannot be had."""
    import dkim

    record = lookup(signature.key_name)
    _check_key(record, signature)
    verifier = dkim.DKIM(data)
    if signature.tags.get(b"c", b"").endswith(b"/relaxed"):
        # dkimpy's own way is quadratic in a run of blanks; one blank for each run is the same when relaxed.
        verifier.body = _BLANKS.sub(b" ", verifier.body)
    try:
        good = verifier.verify_sig(
            dict(signature.tags), list(signature.names), signature.field, lambda _name, timeout: record
        )
    except dkim.NaClNotFoundError as error:
        raise _RefusedError("an ed25519 signature cannot be verified: PyNaCl is not installed") from error
    except dkim.ValidationError as error:
        if "body hash" in str(error):
            raise _RefusedError("its body is not what was signed") from error
        raise _RefusedError("its signature is malformed") from error
    except (dkim.DKIMException, ValueError, TypeError, LookupError, ArithmeticError, AssertionError) as error:
        raise _RefusedError("its signature or its key is malformed") from error
    if not good:
        raise _RefusedError("its signature does not fit the header, or the key")


def _unfit(data: bytes, header: Header | Unreadable) -> str | None:
    """Why no signature of this mail is looked at; None: nothing speaks against it."""
    if isinstance(header, Unreadable):
        return f"its header cannot be read: {header.reason}"
    if len(data) >= READ:
        return f"it is longer than {READ >> 20} MiB"
    if header.mbox_line or _LONE_CR.search(data, 0, header.body):
        # What dkimpy takes for one field would be two for us.
        return "its header holds a lone carriage return, or an mbox line"
    if len(header.named("from")) != 1:
        return "it has not exactly one From field"
    return None


def _claimed(header: bytes, number: int, domain: str, at: float) -> _Signature:
    """The signature with this number, top to bottom. Raises _RefusedError where no key could make it count."""
    import dkim
    from dkim.util import InvalidTagValueList, parse_tag_value

    try:
        fields = [field for field in dkim.rfc822_parse(header)[0] if field[0].lower() == b"dkim-signature"]
        name, value = fields[number]
    except (dkim.DKIMException, LookupError) as error:
        raise _RefusedError("its header cannot be read") from error
    if len(value) > MAX_SIGNATURE:
        raise _RefusedError(f"a signature is longer than {MAX_SIGNATURE} bytes")
    try:
        tags = parse_tag_value(value)
        # Without the times: they are compared with when the mail came, below.
        dkim.validate_signature_fields({tag: text for tag, text in tags.items() if tag not in (b"t", b"x")})
    except (dkim.DKIMException, InvalidTagValueList, LookupError) as error:
        raise _RefusedError("a signature is malformed") from error
    signer = tags[b"d"].lower()
    if tags[b"a"] not in _ALGORITHMS:
        raise _RefusedError("it is signed with an algorithm that is not safe any more")
    if (
        not _DOMAIN.fullmatch(signer)
        or not _DOMAIN.fullmatch(tags[b"s"].lower())
        or len(signer) + len(tags[b"s"]) > 200
    ):
        raise _RefusedError("a signature is malformed")
    if not aligned(signer.decode(), domain):
        raise _RefusedError(f"it is signed by {signer.decode()}, which is not {domain} or a domain above it")
    names = tuple(re.sub(rb"\s+", b"", one).lower() for one in tags[b"h"].split(b":"))
    if len(names) > 500 or not all(_FIELD_NAME.fullmatch(one) for one in names):
        raise _RefusedError("a signature is malformed")
    if b"from" not in names:
        raise _RefusedError("its From is not signed")
    if b"l" in tags:
        raise _RefusedError("only a part of its body is signed (l=)")
    _in_time(tags, at)
    return _Signature((name, value), tags, signer.decode(), names)


def aligned(signer: str, domain: str) -> bool:
    """Whether the signer is the From domain or one above it. Without a list of public suffixes no sibling counts."""
    return domain == signer or ("." in signer and domain.endswith("." + signer))


def signed_parts(data: bytes, header: Header, domain: str) -> list[bytes]:
    """What each signature in the name of this domain, of one above or below, claims to cover. Nothing is verified."""
    fields = header.named("dkim-signature")
    if len(fields) > MOST_CLAIMED:
        return [b""]
    parts = []
    for field in fields:
        tags = dict(_TAG.findall(re.sub(rb"\s+", b"", field.content)))
        signer = tags.get(b"d", b"").decode("ascii", "replace").lower()
        if aligned(signer, domain) or aligned(domain, signer):
            names = tuple(tags.get(b"h", b"").lower().split(b":")[:MOST_NAMES])
            body = b"" if b"l" in tags else data[header.body :]
            parts.append(b"".join(_with_end(one.raw) for one in _covered(header, names)) + b"\r\n" + body)
    return parts


def _in_time(tags: Mapping[bytes, bytes], at: float) -> None:
    for tag in (b"t", b"x"):
        if tag in tags and not _NUMBER.fullmatch(tags[tag]):
            raise _RefusedError("a signature is malformed")
    if b"t" in tags and int(tags[b"t"]) > at + SKEW:
        raise _RefusedError("its signature was made after the mail came in: a clock is wrong")
    if b"x" in tags and int(tags[b"x"]) < at - SKEW:
        raise _RefusedError("its signature had expired when the mail came in")


def _covered(header: Header, names: tuple[bytes, ...]) -> list[Field]:
    """The fields that are signed, in the order of the mail: of each name the lowest first (RFC 6376 section 5.4.2)."""
    left: dict[str, list[int]] = {}
    for at, field in enumerate(header.fields):
        left.setdefault(field.key, []).append(at)
    found = [there.pop() for name in names if (there := left.get(name.decode("ascii", "replace")))]
    return [header.fields[at] for at in sorted(found)]


def _read_one_way(body: bytes, header: Header, covered: list[Field]) -> None:
    """Raises _RefusedError where somebody on the way could have changed how the signed body is read.

    Large providers do not sign Content-Type. That does no harm where the body itself says what it is: a multipart
    that begins with its first boundary and ends with its last one can be divided in one way only, and plain text
    that is no multipart has nothing to divide. Anything else could show another text than its author saw.
    """
    loose = [field for field in header.named(*_HOW_TO_READ) if field not in covered]
    if not loose:
        # Nor may one be added: where none is there, none is signed, and an added one is loose.
        return
    if len({field.key for field in loose}) < len(loose) or any(
        field.key == one.key for field in loose for one in covered
    ):
        raise _RefusedError("a Content-Type, or an encoding, is said twice")
    for field in loose:
        content = re.sub(rb"\s+", b" ", field.content).strip()
        media = content.partition(b";")[0].strip().lower()
        if field.key == "content-type" and media.startswith(b"multipart/"):
            boundaries = _BOUNDARY.findall(content)
            boundary = b"--" + (boundaries[0][0] or boundaries[0][1]) if len(boundaries) == 1 else b""
            text = body.strip(b"\r\n \t")
            first, last = text.partition(b"\n")[0].rstrip(), text.rpartition(b"\n")[2]
            if not boundary or (first, last) != (boundary, boundary + b"--"):
                raise _RefusedError("its Content-Type is not signed, and the boundary does not enclose its body")
        elif field.key == "content-type" and media != b"text/plain":
            raise _RefusedError("its Content-Type is not signed")
        elif field.key != "content-type" and media not in (b"7bit", b"8bit", b"quoted-printable"):
            raise _RefusedError("its Content-Transfer-Encoding is not signed")


def _check_key(record: bytes, signature: _Signature) -> None:
    """Raises _RefusedError where this key must not be used for this signature (RFC 6376 section 3.6.1)."""
    from dkim.crypto import UnparsableKeyError, parse_public_key
    from dkim.util import InvalidTagValueList, parse_tag_value

    where = signature.key_name.decode()
    if not record:
        raise _RefusedError(f"there is no key at {where}")
    try:
        if len(record) > MAX_RECORD:
            raise _RefusedError(f"the key at {where} is too long")
        tags = parse_tag_value(record)
        key = base64.b64decode(re.sub(rb"\s+", b"", tags.get(b"p", b"")))
    except (InvalidTagValueList, binascii.Error, ValueError) as error:
        raise _RefusedError(f"the key at {where} is malformed") from error
    flags = tags.get(b"t", b"").replace(b" ", b"").split(b":")
    services = tags.get(b"s", b"*").replace(b" ", b"").split(b":")
    hashes = tags.get(b"h", b"sha256").replace(b" ", b"").split(b":")
    identity = signature.tags.get(b"i", b"@" + signature.tags[b"d"]).rpartition(b"@")[2].lower()
    if tags.get(b"v", b"DKIM1") != b"DKIM1" or tags.get(b"k", b"rsa") != _ALGORITHMS[signature.tags[b"a"]]:
        raise _RefusedError(f"the key at {where} is of another kind than the signature")
    if not key:
        raise _RefusedError(f"the key at {where} is revoked")
    if b"y" in flags:
        raise _RefusedError(f"the key at {where} is for tests only (t=y)")
    if b"s" in flags and identity != signature.tags[b"d"].lower():
        raise _RefusedError(f"the key at {where} does not speak for subdomains (t=s)")
    if not {b"*", b"email"} & set(services) or b"sha256" not in hashes:
        raise _RefusedError(f"the key at {where} is not for mail signed with SHA-256")
    if tags.get(b"k", b"rsa") == b"rsa":
        try:
            numbers = parse_public_key(key)
            bits, exponent = numbers["modulus"].bit_length(), numbers["publicExponent"]
        except (UnparsableKeyError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise _RefusedError(f"the key at {where} is malformed") from error
        if not SMALLEST_KEY <= bits <= LARGEST_KEY:
            raise _RefusedError(f"the key at {where} has {bits} bits, not {SMALLEST_KEY} to {LARGEST_KEY}")
        if not 3 <= exponent <= LARGEST_EXPONENT:
            raise _RefusedError(f"the key at {where} has an exponent that nobody uses")


def _with_end(raw: bytes) -> bytes:
    return raw if raw.endswith((b"\r", b"\n")) else raw + b"\r\n"
