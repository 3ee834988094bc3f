"""Files of other software reach the mailbox as they were written, except for what is documented."""

from __future__ import annotations

import email.message
import email.mime.multipart
import email.mime.text
import email.policy
import email.utils
import re
from pathlib import Path

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.scenarios.steps import Site, message, site_for, with_crlf, without_received
from tests.servers.certificates import Certificates
from tests.servers.daemon import StartDaemon
from tests.servers.postfix import Postfix, as_sent

HEADER = (
    b"From: Producer <producer@example.com>\nTo: whole@dest.test\n"
    b"Message-ID: <1@producer.test>\nDate: Sat, 21 Nov 2026 08:00:00 +0000\n"
)
BODIES = {
    "lf": b"one\ntwo\n\n",
    "crlf": b"one\r\ntwo\r\n\r\n",
    "cr": b"one\rtwo\r\r",
    "mixed": b"one\r\ntwo\nthree\rfour\r\r\n\n\rfive\n\r\n",
    "dots": b".\n..\n.one\n\n.\n...",
    "no-end": b"last line without an end",
    "only-a-dot": b".",
    "no-body": b"",
    "blank-ends": b"one  \n\t\n  \n",
    "from-line": b"From here on\n>From there\n",
    "8-bit": "Grüße, 你好\n".encode() + bytes(range(0x80, 0x100)) + b"\n",
    "control": bytes(c for c in range(1, 32) if c not in b"\r\n") + b"\x7f\n",
    "long-lines": b"x" * 998 + b"\n" + b"y" * 999 + b"\n" + b"z" * 100_000 + b"\n",
    "many-lines": b"".join(b"line %d\n" % number for number in range(20_000)),
}
"""Bodies that are easily damaged; each is dropped as it stands."""


@pytest.fixture
def site(postfix: Postfix, certificates: Certificates, spool_dir: Path, state_dir: Path) -> Site:
    return site_for(postfix, certificates, spool_dir, state_dir)


def arrived(postfix: Postfix, recipient: str) -> bytes:
    """The one message of this recipient, as the daemon sent it, without its Received line."""
    (stored,) = postfix.wait_for_messages(recipient)
    return without_received(as_sent(stored))


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_bodies_of_every_kind(site: Site, daemon: StartDaemon, postfix: Postfix, security: str) -> None:
    """Every body arrives as it was but for its line ends, over STARTTLS and over TLS from the first byte."""
    site.security, site.port = security, postfix.port if security == "starttls" else postfix.tls_port
    running = daemon(site.text).wait_ready()
    dropped = {}
    for name, body in BODIES.items():
        dropped[name] = HEADER.replace(b"whole@", b"%s@" % name.encode()) + b"\n" + body
        site.drop(f"{name}.eml", dropped[name])
    running.wait_for_events("message.sent", len(BODIES))
    for name, data in dropped.items():
        assert arrived(postfix, f"{name}@dest.test") == with_crlf(data), name


def test_headers_with_every_line_end(site: Site, daemon: StartDaemon, postfix: Postfix) -> None:
    """A header ends its lines as it likes, folds as it likes, and keeps every other byte."""
    header = (
        b"To:\n\t<%s@dest.test>\nFrom: Producer  <producer@example.com> (comment)\n"
        b"Message-Id:<%s@producer.test>\nDATE:   Sat, 21 Nov 2026 08:00:00 +0000  \n"
        b"X-Empty:\nX-8-bit: \xfc\xc3\xbc\nSubject: folded\n  with\n\t care \n"
    )
    running = daemon(site.text).wait_ready()
    dropped = {}
    for name, end in (("lf", b"\n"), ("crlf", b"\r\n"), ("cr", b"\r")):
        dropped[name] = (header % (name.encode(), name.encode()) + b"\nbody\n").replace(b"\n", end)
        site.drop(f"{name}.eml", dropped[name])
    running.wait_for_events("message.sent", len(dropped))
    for name, data in dropped.items():
        assert arrived(postfix, f"{name}@dest.test") == with_crlf(data)


def test_what_is_stripped_and_added(site: Site, daemon: StartDaemon, postfix: Postfix) -> None:
    """Exactly the documented fields go, exactly Message-ID, Date and one Received come; the Bcc gets it too."""
    kept = (
        b"Received: from somewhere by producer; Sat, 21 Nov 2026 07:00:00 +0000\r\n"
        b"From: Producer <producer@example.com>\r\nTo: stripped@dest.test\r\nSubject: s\r\nX-Bcc: stays\r\n"
    )
    gone = b"Bcc: hidden@dest.test,\r\n more@dest.test\r\ncontent-length: 7\r\nReturn-Path: <bounce@example.com>\r\n"
    running = daemon(site.text).wait_ready()
    site.drop("stripped.eml", b"From producer Sat Nov 21 08:00:00 2026\r\n" + kept + gone + b"\r\nbody\r\n")
    sent = running.wait_for_events("message.sent", 3)
    assert {event["to"] for event in sent} == {f"<{n}@dest.test>" for n in ("stripped", "hidden", "more")}
    queue_id = sent[0]["queue_id"].encode()
    for name in ("stripped", "hidden", "more"):
        whole = arrived(postfix, f"{name}@dest.test")
        assert whole.startswith(kept + b"Message-ID: <%s@scenario>\r\nDate: " % queue_id)
        date, body = whole[len(kept) :].split(b"\r\n", 2)[1:]
        assert re.fullmatch(rb"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d \+0000", date)
        assert body == b"\r\nbody\r\n"


@pytest.mark.parametrize("policy", [email.policy.default, email.policy.SMTP, email.policy.SMTPUTF8, None])
def test_pythons_email_package(
    site: Site, daemon: StartDaemon, postfix: Postfix, policy: email.policy.EmailPolicy | None
) -> None:
    """What Python's email package writes, old and new, arrives whole: umlauts, an attachment, folded recipients."""
    people = [(f"Empfänger Nummer {number}", f"python-{number}@dest.test") for number in range(12)]
    data = of_old_python(people) if policy is None else of_new_python(people, policy)
    running = daemon(site.text).wait_ready()
    site.drop("python.eml", data)
    running.wait_for_events("message.sent", len(people))
    for number in (0, 11):
        assert arrived(postfix, f"python-{number}@dest.test") == with_crlf(data)


def of_new_python(people: list[tuple[str, str]], policy: email.policy.EmailPolicy) -> bytes:
    mail = email.message.EmailMessage()
    mail["From"] = "Jürgen Müller <producer@example.com>"
    mail["To"] = ", ".join(f"{name} <{address}>" for name, address in people)
    mail["Subject"] = "Überraschung " * 12
    mail["Message-ID"], mail["Date"] = "<py@producer.test>", "Sat, 21 Nov 2026 08:00:00 +0000"
    mail.set_content("Grüße\n.\n..\n", cte="8bit")
    mail.add_attachment(bytes(range(256)) * 40, maintype="application", subtype="octet-stream", filename="ä.bin")
    return mail.as_bytes(policy=policy)


def of_old_python(people: list[tuple[str, str]]) -> bytes:
    mail = email.mime.multipart.MIMEMultipart()
    mail["From"] = email.utils.formataddr(("Jürgen Müller", "producer@example.com"))
    mail["To"] = ", ".join(map(email.utils.formataddr, people))
    mail["Subject"] = "Überraschung " * 12
    mail["Message-ID"], mail["Date"] = "<py@producer.test>", email.utils.formatdate()
    mail.attach(email.mime.text.MIMEText("Grüße\n.\n..\n"))
    return mail.as_bytes()


def test_dotnet_style_pickup(site: Site, daemon: StartDaemon, postfix: Postfix) -> None:
    """Under envelope = "pickup" the X-Sender block names the envelope and is the only thing that is missing."""
    site.envelope, site.from_address = "pickup", ""
    rest = message("net", to="shown@dest.test")
    block = b"X-Sender: bounce@example.com\r\nX-Receiver: net-1@dest.test\r\nX-Receiver: net-2@dest.test\r\n"
    running = daemon(site.text).wait_ready()
    site.drop("0f8fad5b-d9cb-469f-a165-70867728950e.eml", block + rest)
    sent = running.wait_for_events("message.sent", 2)
    assert {event["from"] for event in sent} == {"<bounce@example.com>"}
    for recipient in ("net-1@dest.test", "net-2@dest.test"):
        assert arrived(postfix, recipient) == rest
    assert postfix.messages("shown@dest.test") == []


@pytest.mark.parametrize("end", [b"\r\n", b"\n"], ids=["crlf", "lf"])
def test_dkim_signature_survives(site: Site, daemon: StartDaemon, postfix: Postfix, end: bytes) -> None:
    """A DKIM signature made by the producer, in the strictest form, still verifies at the receiver."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    record = b"v=DKIM1; k=rsa; p=" + b"".join(public.splitlines()[1:-1])
    mail = message("dkim", to="dkim@dest.test", body="Grüße\r\n.\r\n\r\n..\r\n  \r\n".encode())
    signature = dkim.sign(
        mail,
        b"s1",
        b"example.com",
        private,
        canonicalize=(b"simple", b"simple"),
        include_headers=[b"from", b"to", b"subject", b"date", b"message-id"],
    )
    signed = signature + mail
    running = daemon(site.text).wait_ready()
    site.drop("dkim.eml", b"Bcc: dkim-bcc@dest.test" + end + signed.replace(b"\r\n", end))
    running.wait_for_events("message.sent", 2)
    for recipient in ("dkim@dest.test", "dkim-bcc@dest.test"):
        received = as_sent(postfix.wait_for_messages(recipient)[0])
        assert without_received(received) == signed
        assert dkim.verify(received, dnsfunc=lambda *_, **__: record)
        assert not dkim.verify(received.replace(b"..\r\n", b"...\r\n"), dnsfunc=lambda *_, **__: record)
