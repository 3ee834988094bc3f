"""[approvals] sender_check = "dkim": what a signature proves, and everything that must not pass for one."""

from __future__ import annotations

import base64
import importlib.util
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import dkim as library
import dns.message
import dns.rcode
import dns.resolver
import dns.rrset
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from mailrelayd.approvals import dkim, token
from mailrelayd.approvals.dkim import KeyUnavailableError, Signed, aligned, verify
from mailrelayd.approvals.judge import Found, Outcome, judge
from mailrelayd.approvals.sender import SenderCheck
from mailrelayd.approvals.values import Decision, Kind, Reading
from tests.manual_clock import START
from tests.test_desk import REQUEST, World, issued

NOW = 1_800_000_000.0
TOKEN = issued()
WHERE = b"s1._domainkey.example.com"
MAIL = (
    b"Received: from a by b; Sat, 21 Nov 2026 08:00:00 +0000\r\n"
    b"From: The Boss <boss@example.com>\r\n"
    b"To: approvals+" + TOKEN.encode() + b"@relay.example.net\r\n"
    b"Subject: Re: Buy a boat?\r\nMessage-ID: <r1@example.com>\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\n\r\nApproved\r\n\r\nfine with me\r\n"
)
SIGNED = [b"from", b"to", b"subject", b"message-id", b"mime-version", b"content-type"]


@cache
def private_key(bits: int = 1024) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def record(key: rsa.RSAPrivateKey | None = None, more: bytes = b"") -> bytes:
    der = (key or private_key()).public_key()
    info = der.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return b"v=DKIM1; k=rsa; " + more + b"p=" + base64.b64encode(info)


class Signer(library.DKIM):  # type: ignore[misc]
    """dkimpy's own, with tags that it does not write by itself."""

    tags: dict[bytes, bytes | None]

    def gen_header(self, fields: Any, *others: Any, **more: Any) -> Any:
        kept = [(name, self.tags.get(name, value)) for name, value in fields if self.tags.get(name, value) is not None]
        known = {name for name, _ in kept}
        new = [(name, value) for name, value in self.tags.items() if name not in known and value is not None]
        return super().gen_header([*kept[:2], *new, *kept[2:]], *others, **more)


def sign(
    mail: bytes = MAIL,
    *,
    domain: bytes = b"example.com",
    names: list[bytes] | None = None,
    key: bytes | None = None,
    length: bool = False,
    algorithm: bytes = b"rsa-sha256",
    ways: tuple[bytes, bytes] = (b"relaxed", b"relaxed"),
    **tags: bytes | None,
) -> bytes:
    """The mail with a signature on top."""
    signer = Signer(mail)
    signer.tags = {b"t": b"%d" % NOW, **{name.encode(): value for name, value in tags.items()}}
    field = signer.sign(
        b"s1",
        domain,
        key or pem(private_key()),
        algorithm,
        canonicalize=ways,
        include_headers=names or SIGNED,
        length=length,
    )
    return bytes(field) + mail


def keys(text: bytes | None = None, where: bytes = WHERE) -> Callable[[bytes], bytes]:
    found = {where: record() if text is None else text}
    return lambda name: found.get(name, b"")


def verdict(mail: bytes, lookup: Callable[[bytes], bytes] | None = None, *, at: float = NOW) -> Signed:
    return verify(mail, "example.com", at, lookup or keys())


def refused(mail: bytes, lookup: Callable[[bytes], bytes] | None = None, *, at: float = NOW) -> str:
    said = verdict(mail, lookup, at=at)
    assert not said.valid
    assert said.signed == b""
    return said.reason


@pytest.mark.parametrize("ways", [(b"relaxed", b"relaxed"), (b"simple", b"simple"), (b"relaxed", b"simple")])
def test_a_good_signature_passes(ways: tuple[bytes, bytes]) -> None:
    """In every canonicalisation; what it covers is handed on, and nothing else."""
    said = verdict(sign(ways=ways))
    assert said.valid, said.reason
    assert said.signed == MAIL.partition(b"\r\n")[2]


def test_another_signature_may_be_the_good_one() -> None:
    """A mail carries several: of a provider, of a list; one aligned one that holds is enough."""
    other = sign(domain=b"provider.example.net")
    both = other.partition(b"Received:")[0] + sign()
    assert verdict(both).valid
    assert both.count(b"DKIM-Signature:") == 2


def test_mail_without_signature_is_not_authenticated() -> None:
    """Nor is one whose header nobody can read, or one that is too long."""
    assert "no DKIM-Signature" in refused(MAIL)
    assert "cannot be read" in refused(b"")
    assert "MiB" in refused(sign() + b"x" * dkim.READ)
    assert "longer" in refused(b"X-A: " + b"b" * dkim.MAX_HEADER + b"\r\n" + sign())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Approved", b"Rejected"),
        (b"The Boss <boss@", b"The Boss <ceo@"),
        (b"Re: Buy a boat?", b"Re: Buy a house?"),
        (b" b=", b" b=ABCD"),
    ],
)
def test_what_was_changed_after_signing_is_refused(old: bytes, new: bytes) -> None:
    """Body, sender, subject, and the signature itself."""
    assert old in sign()
    refused(sign().replace(old, new, 1))


def test_a_body_that_is_signed_in_part_is_refused() -> None:
    """l=: what is appended to it would be shown to us as its author's words."""
    assert "l=" in refused(sign(length=True) + b"and buy two\r\n")
    assert "l=" in refused(sign(length=True))


def test_a_signature_that_leaves_out_the_sender_is_refused() -> None:
    """h= without From signs nobody's word."""
    signed = sign()
    assert "From is not signed" in refused(signed.replace(b"h=from : ", b"h=", 1))


def test_two_senders_are_refused() -> None:
    """Above or below the signed one, in any case, with a blank before the colon."""
    signed = sign()
    for field in (b"From: ceo@example.com\r\n", b"FROM: ceo@example.com\r\n", b"From : ceo@example.com\r\n"):
        assert "exactly one From" in refused(field + signed)
        assert "exactly one From" in refused(signed.replace(b"To: ", field + b"To: ", 1))


def test_a_carriage_return_hides_no_field() -> None:
    """What one program takes for a field's end is the next character to another."""
    assert "carriage return" in refused(sign().replace(b"Received: from a", b"Received: x\rX-From: from a", 1))
    assert "mbox" in refused(b"From boss Sat Nov 21\r\n" + sign())


@pytest.mark.parametrize(
    ("signer", "good"),
    [
        ("example.com", True),
        ("com", False),
        ("ample.com", False),
        ("mail.example.com", False),
        ("example.com.evil.example", False),
        ("evil-example.com", False),
        ("example.org", False),
    ],
)
def test_only_the_domain_itself_or_one_above_it_may_sign(signer: str, good: bool) -> None:
    """Whoever signs for something else signs for nobody here."""
    domain = signer.encode()
    said = verdict(sign(domain=domain), keys(where=b"s1._domainkey." + domain))
    assert said.valid is good
    assert good or "not example.com or a domain above it" in said.reason


def test_a_parent_domain_may_sign() -> None:
    """From a@mail.example.com, d=example.com; but never a top-level domain."""
    mail = sign(MAIL.replace(b"boss@example.com", b"boss@mail.example.com"))
    assert verify(mail, "mail.example.com", NOW, keys()).valid
    assert verify(mail, "MAIL.example.com", NOW, keys()).valid
    assert aligned("example.com", "a.b.example.com")
    assert not aligned("com", "example.com")
    assert not aligned("", "example.com")


def test_sha1_is_refused() -> None:
    """RFC 8301 section 3.1."""
    assert "not safe" in refused(sign(algorithm=b"rsa-sha1"))


def test_small_and_monstrous_keys_are_refused() -> None:
    """Fewer than 1024 bits can be guessed; far too many, or a huge exponent, cost us hours."""
    assert "1023 bits" in refused(sign(), keys(public((1 << 1022) + 1, 65537)))
    assert "9001 bits" in refused(sign(), keys(public((1 << 9000) + 1, 65537)))
    assert "exponent" in refused(sign(), keys(public((1 << 2047) + 1, (1 << 2040) + 1)))


def public(modulus: int, exponent: int) -> bytes:
    """A key record of these numbers (RFC 8017 appendix A.1.1), whatever they are worth."""

    def der(tag: int, content: bytes) -> bytes:
        return bytes([tag, 0x82]) + len(content).to_bytes(2) + content

    numbers = (der(2, number.to_bytes(number.bit_length() // 8 + 1)) for number in (modulus, exponent))
    return b"p=" + base64.b64encode(der(0x30, b"".join(numbers)))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "there is no key"),
        (b"v=DKIM1; p=", "revoked"),
        (b"v=DKIM1; p=!!!!", "revoked"),
        (b"v=DKIM1; p=AAAA", "malformed"),
        (b"p=A", "malformed"),
        (b"nonsense", "malformed"),
        (b"p=" + b"A" * 5000, "too long"),
        (b"v=DKIM2; p=AAAA", "another kind"),
        (b"k=ed25519; p=AAAA", "another kind"),
    ],
)
def test_a_key_that_is_none_is_refused(text: bytes, reason: str) -> None:
    """Absent, revoked, damaged, of another kind."""
    assert reason in refused(sign(), keys(text))


def test_what_a_key_says_about_itself_counts() -> None:
    """Tests only (t=y), no subdomains (t=s), another service, another hash (RFC 6376 section 3.6.1)."""
    assert "t=y" in refused(sign(), keys(record(more=b"t=y; ")))
    assert "t=s" in refused(sign(i=b"@mail.example.com"), keys(record(more=b"t=s; ")))
    assert verdict(sign(), keys(record(more=b"t=s; "))).valid
    assert "not for mail" in refused(sign(), keys(record(more=b"s=tlsrpt; ")))
    assert "not for mail" in refused(sign(), keys(record(more=b"h=sha1; ")))
    assert verdict(sign(), keys(record(more=b"h=sha1:sha256; s=*; "))).valid


def test_another_key_does_not_fit() -> None:
    """The signature was made with a different one."""
    assert "does not fit" in refused(sign(), keys(record(private_key(2048))))


def test_time_is_compared_with_when_the_mail_came_in() -> None:
    """Not with when it is read: a daemon that stood still for a week must not refuse what came in meanwhile."""
    signed = sign(x=b"%d" % (NOW + 86_400))
    assert verdict(signed).valid
    assert "expired" in refused(signed, at=NOW + 2 * 86_400)
    assert "after the mail came in" in refused(sign(), at=NOW - 2 * 86_400)
    assert "malformed" in refused(sign(x=b"soon"))
    assert verdict(sign(t=None)).valid


def test_an_unsigned_content_type_must_not_matter() -> None:
    """Gmail signs none. Somebody who sends the mail again could choose where its text begins."""
    without = [name for name in SIGNED if name != b"content-type"]
    assert verdict(sign(names=without)).valid
    html = MAIL.replace(b"text/plain", b"text/html")
    assert "Content-Type is not signed" in refused(sign(html, names=without))
    encoded = MAIL.replace(b"MIME-Version", b"Content-Transfer-Encoding: base64\r\nMIME-Version")
    assert "Encoding is not signed" in refused(sign(encoded, names=without))
    twice = sign(names=without)
    assert "twice" in refused(twice.replace(b"MIME-V", b"Content-Type: text/plain\r\nMIME-V", 1))
    added = b"Content-Type: text/plain\r\n" + sign()
    assert "twice" in refused(added)
    body = b"--b\r\nContent-Type: text/plain\r\n\r\nApproved\r\n--b\r\n\r\nx\r\n--b--\r\n"
    head = MAIL.partition(b"\r\n\r\n")[0].replace(b"text/plain; charset=utf-8", b'multipart/mixed; boundary="b"')
    assert verdict(sign(head + b"\r\n\r\n" + body, names=without)).valid
    chosen = body.replace(b"Approved", b"No.\r\n--q\r\n\r\nApproved\r\n--q--")
    moved = sign(head + b"\r\n\r\n" + chosen, names=without).replace(b'boundary="b"', b"boundary=q")
    assert "does not enclose" in refused(moved)


def test_fields_signed_more_often_than_they_are_there_cannot_be_added() -> None:
    """Gmail's way of signing; without it, an added field is simply not covered."""
    once = [name for name in SIGNED if name != b"content-type"]
    signed = sign(names=[*once, b"from", b"to", b"cc", b"subject", b"reply-to"])
    assert verdict(signed).valid
    for field in (b"To: other@example.net", b"Cc: other@example.net", b"Subject: Approved"):
        assert "does not fit" in refused(field + b"\r\n" + signed)
        assert field not in verdict(field + b"\r\n" + sign(names=once)).signed


def test_ed25519_is_verified_where_the_library_for_it_is_there() -> None:
    """RFC 8463; where it is not, the reason says so."""
    if importlib.util.find_spec("nacl") is None:
        field = sign().replace(b"a=rsa-sha256", b"a=ed25519-sha256", 1)
        text = b"v=DKIM1; k=ed25519; p=" + base64.b64encode(bytes(range(32)))
        assert "PyNaCl is not installed" in refused(field, keys(text))
        return
    signing = importlib.import_module("nacl.signing").SigningKey(bytes(range(32)))
    signed = sign(key=base64.b64encode(bytes(signing)), algorithm=b"ed25519-sha256")
    text = b"v=DKIM1; k=ed25519; p=" + base64.b64encode(bytes(signing.verify_key))
    assert verdict(signed, keys(text)).valid
    assert "does not fit" in refused(signed.replace(b"Re: Buy", b"Re: Sell"), keys(text))


def test_only_so_many_signatures_are_looked_at() -> None:
    """Each may cost a question to DNS."""
    asked = []

    def lookup(name: bytes) -> bytes:
        asked.append(name)
        return b""

    one = sign().partition(b"Received:")[0]
    assert "first 5" in refused(one * 7 + sign(), lookup)
    assert len(asked) == dkim.MOST_SIGNATURES
    asked.clear()
    assert "no DKIM" not in refused(sign(domain=b"provider.example.net"), lookup)
    assert asked == []  # nobody is asked about a signature that cannot count


def test_without_dns_nobody_is_judged() -> None:
    """Neither authentic nor not: the caller has to ask again. A second signature whose key is there is enough."""

    def broken(name: bytes) -> bytes:
        if name == WHERE:
            raise OSError(0, "SERVFAIL")
        return record()

    with pytest.raises(KeyUnavailableError, match="SERVFAIL"):
        verdict(sign(), broken)
    second = sign().partition(b"Received:")[0] + sign(s=b"s2")
    assert verdict(second, broken).valid


@pytest.fixture
def name_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A DNS server on the loopback, which answers by the first label of what it is asked."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))

    def serve() -> None:
        while (received := server.recvfrom(4096))[0] != b"over":
            query = dns.message.from_wire(received[0])
            name = query.question[0].name
            response = dns.message.make_response(query)
            kind = name.labels[0]
            if kind == b"silent":
                continue
            texts = {
                b"one": ['"v=spf1 -all"', '"v=DKIM1; p=AA" "AA"'],
                b"two": ['"p=AAAA"', '"p=BBBB"'],
                b"other": ['"v=spf1 -all"'],
            }.get(kind)
            if texts:
                response.answer.append(dns.rrset.from_text(name, 60, "IN", "TXT", *texts))
            elif kind == b"nobody":
                response.set_rcode(dns.rcode.NXDOMAIN)
            elif kind == b"broken":
                response.set_rcode(dns.rcode.SERVFAIL)
            server.sendto(response.to_wire(), received[1])

    thread = threading.Thread(target=serve)
    thread.start()
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = ["127.0.0.1"], server.getsockname()[1]
    monkeypatch.setattr(dns.resolver, "default_resolver", resolver)
    monkeypatch.setattr(dkim, "ONE_LOOKUP", 0.5)
    yield
    server.sendto(b"over", server.getsockname())
    thread.join()
    server.close()


def test_dns_says_yes_no_or_nothing(name_server: None) -> None:
    """Texts in pieces are joined; two keys are none; no such name is an answer; silence and SERVFAIL are none."""
    assert dkim.key_record(b"one._domainkey.example.com") == b"v=DKIM1; p=AAAA"
    for name in (b"two", b"other", b"nobody", b"empty"):
        assert dkim.key_record(name + b"._domainkey.example.com") == b"", name
    for name in (b"broken", b"silent"):
        with pytest.raises(OSError, match=f"for {name.decode()}._domainkey"):
            dkim.key_record(name + b"._domainkey.example.com")


def test_hostile_signatures_take_no_time() -> None:
    """Blanks by the thousand in header, signature and body."""
    begun = time.perf_counter()
    verdict(sign().replace(b"Approved", b"Approved" + b" \t" * 200_000 + b"x"))
    for filling in (b" \r\n" * 2_500, b" b" * 3_000, b" " * 7_000, b";" * 7_000, b" \t\r\n b" * 1_000):
        verdict(b"DKIM-Signature: v=1; a=rsa-sha256; d=example.com; s=s1; h=from; bh=A; b=" + filling + b"!\r\n" + MAIL)
    verdict(b"X: a\r\n" + b" \r\n" * 30_000 + sign())
    assert time.perf_counter() - begun < 10.0


@given(st.binary(max_size=300), st.integers(0, 3000))
def test_any_bytes_give_an_answer(junk: bytes, at: int) -> None:
    """Anywhere in a signed mail, and alone."""
    signed = sign()
    for mail in (junk, signed[:at] + junk + signed[at:], b"DKIM-Signature: " + junk + b"\r\n" + MAIL):
        assert isinstance(verdict(mail), Signed)


# -- what a signed mail may decide -----------------------------------------------------------------------------------


def sender_check(lookup: Callable[[bytes], bytes] | None = None) -> SenderCheck:
    return SenderCheck("dkim", dkim=partial(verify, lookup=lookup or keys()))


def test_an_old_mail_sent_again_decides_nothing() -> None:
    """The signature of a mail about lunch holds for ever; the token beside it was added by somebody else."""
    lunch = sign(MAIL.replace(b"approvals+" + TOKEN.encode() + b"@relay.example.net", b"cook@example.com"))
    for added in (
        b"To: approvals+%b@relay.example.net\r\n",
        b"Delivered-To: a+%b@x\r\n",
        b"References: <%b@relay1>\r\n",
    ):
        again = added % TOKEN.encode() + lunch
        sender = sender_check()(again, NOW)
        assert sender.authentic
        assert sender.tokens == frozenset()
        reading = Reading(Kind.REPLY, Decision.APPROVED, "first-line-keyword")
        found = Found(token.find(TOKEN)[0], REQUEST, genuine=True)
        judged = judge(reading, [found], sender, START, delegates={})
        assert (judged.outcome, judged.reason) == (Outcome.UNTRUSTED, "token-not-signed")


@pytest.mark.parametrize(
    "mail",
    [
        MAIL,
        MAIL.replace(b"approvals+" + TOKEN.encode(), b"approvals").replace(
            b"Subject: Re:", b"Subject: Re: [#" + TOKEN.encode() + b"]"
        ),
        MAIL.replace(b"approvals+" + TOKEN.encode(), b"approvals")
        + b"\r\n> -- Please do not modify below this line --\r\n> Reference: "
        + TOKEN.encode()
        + b"\r\n",
    ],
)
def test_the_token_counts_wherever_it_is_signed(mail: bytes) -> None:
    """In the address, the subject, the text."""
    assert sender_check()(sign(mail), NOW).tokens == frozenset({TOKEN})


def test_nobody_is_asked_about_mail_that_decides_nothing() -> None:
    """A stranger's mail costs no question to DNS."""

    def never(name: bytes) -> bytes:
        raise AssertionError(name)

    sender = sender_check(never)(sign(), NOW, ask=False)
    assert (sender.address, sender.authentic) == ("boss@example.com", False)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    world.registry.open(REQUEST)
    yield world
    world.close()


async def test_an_answer_is_left_until_its_key_can_be_had(world: World) -> None:
    """Nothing is archived or told meanwhile, not even that time is up; after a day without DNS it is untrusted."""
    down = True

    def lookup(name: bytes) -> bytes:
        if down:
            raise OSError(0, "timed out")
        return record()

    world.desk.terms = replace(world.desk.terms, check=sender_check(lookup))
    mail = sign()
    world.registry.change(REQUEST.queue_id, lambda one: replace(one, expires_at=START + 3600.0))
    world.clock.advance(4000.0)
    with pytest.raises(OSError, match="timed out"):
        await world.read(mail)
    world.desk.polled("answers", world.clock.now() - 1.0)
    await world.desk.keep_house(["answers"])
    assert world.archived() == []
    down = False
    done = await world.read(mail, at=START)
    assert done.action == "remove"
    assert [event["data"]["decision"] for event in world.archived()] == ["approved"]
    down = True
    world.clock.advance(86_400.0)
    await world.read(mail.replace(b"\nMessage-ID: <r1", b"\nMessage-ID: <r2"), at=START, uid=8)
    said = {event["data"]["reason"]: event["data"]["authentication"]["dkim"] for event in world.archived()}
    assert said == {"first-line-keyword": "pass", "sender-not-authenticated": "temperror"}


async def test_mail_that_carries_no_token_is_read_without_dns(world: World) -> None:
    """Also where the names that it wants to be looked up lead nowhere."""

    def lookup(name: bytes) -> bytes:
        raise OSError(0, "timed out")

    world.desk.terms = replace(world.desk.terms, check=sender_check(lookup))
    stray = sign(MAIL.replace(TOKEN.encode(), b"x"))
    assert (await world.read(stray)).action == "leave"


async def test_a_long_answer_can_be_verified(world: World) -> None:
    """A picture beside the word makes it longer than what is read of it."""
    world.desk.terms = replace(world.desk.terms, check=sender_check())
    head = MAIL.partition(b"\r\n\r\n")[0].replace(b"text/plain; charset=utf-8", b"multipart/mixed; boundary=b")
    picture = b"--b\r\nContent-Type: image/png\r\n\r\n" + (b"A" * 76 + b"\r\n") * 20_000 + b"--b--\r\n"
    text = b"--b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nApproved\r\n"
    await world.read(sign(head + b"\r\n\r\n" + text + picture))
    assert [event["data"]["decision"] for event in world.archived()] == ["approved"]
