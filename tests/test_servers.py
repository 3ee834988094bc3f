"""The servers the other tests rely on do what they are for."""

from __future__ import annotations

import asyncio
import base64
import os
import smtplib
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import leaked_tasks
from tests.servers import dovecot
from tests.servers.certificates import Certificates, KeyPair
from tests.servers.daemon import Daemon, account
from tests.servers.dovecot import DovecotAuth
from tests.servers.postfix import Postfix, as_sent
from tests.servers.process import wait_until

USER = "relay"
SENDER = "noreply@example.com"

# What could be spoilt: an own Received, Return-Path, Bcc, a folded header, a dot line, 8-bit, trailing blanks, no Date.
MESSAGE = (
    b"Received: from producer by relay1; Sat, 21 Nov 2026 07:43:48 +0000\r\n"
    b"Return-Path: <kept@example.com>\r\n"
    b"Message-ID: <whole@relay1>\r\n"
    b"Bcc: kept@example.com\r\n"
    b"Subject: folded\r\n\tsubject\r\n"
    b"From: boss\r\n"
    b"\r\n"
    b".starts with a dot\r\n.\r\n\xc3\xbc and \xff  \r\nFrom here\r\n" + b"long " * 1000 + b"\r\n\r\n"
)


def logged_in(postfix: Postfix, certificates: Certificates, user: str = USER) -> smtplib.SMTP:
    """A session after STARTTLS and AUTH."""
    client = smtplib.SMTP("localhost", postfix.port, timeout=30)
    client.starttls(context=ssl.create_default_context(cafile=str(certificates.ca)))
    client.login(user, dovecot.USERS[user])
    return client


def handshake(server: KeyPair, ca: Path, client: KeyPair | None = None) -> None:
    """TLS in memory between a server with this certificate and a strict client that wants localhost."""
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(ca))
    server_context.load_cert_chain(server.certificate, server.key)
    client_context = ssl.create_default_context(cafile=str(ca))
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    if client is not None:
        server_context.verify_mode = ssl.CERT_REQUIRED
        server_context.verify_flags |= ssl.VERIFY_X509_STRICT
        client_context.load_cert_chain(client.certificate, client.key)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client_context.wrap_bio(to_client, to_server, server_hostname="localhost"),
        server_context.wrap_bio(to_server, to_client, server_side=True),
    ]
    while ends:
        for end in list(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)


def test_good_certificate_is_strictly_valid(certificates: Certificates) -> None:
    """A strict client accepts the good certificate, and a server that demands one accepts the client's."""
    handshake(certificates.good, certificates.ca)
    handshake(certificates.good, certificates.ca, certificates.client)


@pytest.mark.parametrize(
    ("name", "code"),
    [("expired", 10), ("self_signed", 18), ("stranger", 20), ("wrong_host", 62)],
)
def test_bad_certificate_is_bad_in_one_way(certificates: Certificates, name: str, code: int) -> None:
    """Each bad certificate is refused for its own reason (X509_V_ERR_*), not for being badly made."""
    with pytest.raises(ssl.SSLCertVerificationError) as refusal:
        handshake(getattr(certificates, name), certificates.ca)
    assert refusal.value.verify_code == code


def test_self_signed_certificate_can_be_trusted_by_itself(certificates: Certificates) -> None:
    """The self-signed certificate is valid for a client that names it as its authority."""
    handshake(certificates.self_signed, certificates.self_signed.certificate)


def test_dovecot_offers_mechanisms(dovecot_auth: DovecotAuth) -> None:
    """The auth service offers exactly the mechanisms it promises."""
    offered = [line.split("\t")[1] for line in dovecot_auth.handshake() if line.startswith("MECH\t")]
    assert sorted(offered) == sorted(dovecot.MECHANISMS)


def test_dovecot_does_not_punish(dovecot_auth: DovecotAuth) -> None:
    """Wrong passwords are refused without the delay that doubles each time, and then everybody gets in."""

    def login(number: int, password: str, user: str = USER) -> str:
        credentials = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
        request = f"VERSION\t1\t1\nCPID\t{number}\nAUTH\t1\tPLAIN\tservice=smtp\trip=127.0.0.1\tresp={credentials}\n"
        with socket.create_connection(("127.0.0.1", dovecot_auth.port), timeout=5) as connection:
            connection.sendall(request.encode())
            with connection.makefile("r", encoding="utf-8") as answers:
                return next(line.split("\t")[0] for line in answers if line.startswith(("OK\t", "FAIL\t")))

    assert [login(number, "wrong") for number in range(10, 15)] == ["FAIL"] * 5
    assert [login(20 + number, password, user) for number, (user, password) in enumerate(dovecot.USERS.items())] == (
        ["OK"] * len(dovecot.USERS)
    )


def test_postfix_announces(postfix: Postfix, certificates: Certificates) -> None:
    """After STARTTLS everything is announced that a relay may use, and AUTH not before."""
    with smtplib.SMTP("localhost", postfix.port, timeout=30) as client:
        client.ehlo()
        assert client.has_extn("starttls")
        assert not client.has_extn("auth")
        client.starttls(context=ssl.create_default_context(cafile=str(certificates.ca)))
        client.ehlo()
        for extension in ("pipelining", "chunking", "8bitmime", "smtputf8", "enhancedstatuscodes", "dsn"):
            assert client.has_extn(extension)
        assert client.esmtp_features["size"] == "20971520"
        assert set(client.esmtp_features["auth"].split()) == set(dovecot.MECHANISMS)


@pytest.mark.parametrize("mechanism", ["plain", "login", "cram_md5"])
@pytest.mark.parametrize("user", ["relay", "other"])
def test_postfix_authenticates(postfix: Postfix, certificates: Certificates, mechanism: str, user: str) -> None:
    """Each user can log in by each mechanism, and with a wrong password by none."""
    context = ssl.create_default_context(cafile=str(certificates.ca))
    with smtplib.SMTP_SSL("localhost", postfix.tls_port, timeout=30, context=context) as client:
        client.ehlo()
        authenticate = getattr(client, f"auth_{mechanism}")
        name = mechanism.upper().replace("_", "-")
        client.user, client.password = user, "wrong"
        with pytest.raises(smtplib.SMTPAuthenticationError) as refusal:
            client.auth(name, authenticate)
        assert refusal.value.smtp_code == 535
        client.password = dovecot.USERS[user]
        assert client.auth(name, authenticate)[0] == 235


def test_postfix_keeps_every_byte(postfix: Postfix, certificates: Certificates) -> None:
    """What was sent is in the mailbox, byte for byte, once Postfix's own headers are taken off; for each recipient."""
    recipients = ["whole@dest.test", "second@elsewhere.test"]
    with logged_in(postfix, certificates) as client:
        assert client.sendmail(SENDER, recipients, MESSAGE, mail_options=["body=8bitmime"]) == {}
    for recipient in recipients:
        assert [as_sent(stored) for stored in postfix.wait_for_messages(recipient)] == [MESSAGE]
    assert postfix.messages("nobody@dest.test") == []
    assert postfix.accepted() == ["<whole@relay1>"]


def test_postfix_refuses(postfix: Postfix, certificates: Certificates) -> None:
    """Strangers and the recipients made for it are refused, for good or for now."""
    with smtplib.SMTP("localhost", postfix.port, timeout=30) as client:
        with pytest.raises(smtplib.SMTPRecipientsRefused) as refusal:
            client.sendmail(SENDER, ["any@dest.test"], MESSAGE)
        assert refusal.value.recipients["any@dest.test"][0] == 554
    with logged_in(postfix, certificates) as client:
        refused = client.sendmail(SENDER, ["good@dest.test", "refused@dest.test", "deferred@dest.test"], MESSAGE)
    assert {recipient: code for recipient, (code, _) in refused.items()} == {
        "refused@dest.test": 550,
        "deferred@dest.test": 450,
    }
    assert len(postfix.wait_for_messages("good@dest.test")) == 1


def test_postfix_can_be_configured(postfix: Postfix, certificates: Certificates) -> None:
    """For a while senders must be the user's own and messages small; afterwards it is as before."""
    with (
        postfix.configured(smtpd_sender_restrictions="reject_sender_login_mismatch", message_size_limit="2000"),
        logged_in(postfix, certificates) as client,
    ):
        assert client.esmtp_features["size"] == "2000"
        assert client.sendmail(SENDER, ["own@dest.test"], b"Subject: own\r\n\r\n") == {}
        with pytest.raises(smtplib.SMTPRecipientsRefused) as refusal:
            client.sendmail("other@example.com", ["own@dest.test"], b"Subject: not own\r\n\r\n")
        assert refusal.value.recipients["own@dest.test"][0] == 553
        with pytest.raises(smtplib.SMTPSenderRefused) as too_big:
            client.sendmail(SENDER, ["own@dest.test"], MESSAGE)
        assert too_big.value.smtp_code == 552
    assert len(postfix.wait_for_messages("own@dest.test")) == 1
    with logged_in(postfix, certificates) as client:
        assert client.sendmail("other@example.com", ["own@dest.test"], MESSAGE) == {}
    assert len(postfix.wait_for_messages("own@dest.test", 2)) == 2


def test_postfix_goes_and_comes_back(postfix: Postfix, certificates: Certificates) -> None:
    """While it is stopped, sessions are cut and the port refuses; started again, it is the same server."""
    with logged_in(postfix, certificates) as client:
        postfix.stop()
        with pytest.raises(smtplib.SMTPServerDisconnected):
            client.noop()
    with pytest.raises(ConnectionRefusedError):
        smtplib.SMTP("localhost", postfix.port, timeout=30)
    postfix.start()
    with logged_in(postfix, certificates) as client:
        assert client.sendmail(SENDER, ["back@dest.test"], MESSAGE) == {}
    assert [as_sent(stored) for stored in postfix.wait_for_messages("back@dest.test")] == [MESSAGE]


async def test_leaked_task_is_found() -> None:
    """A task that outlives its test is counted, an ended one and the test's own are not."""
    assert leaked_tasks() == set()
    task = asyncio.create_task(asyncio.Event().wait())
    assert leaked_tasks() == {task}
    task.cancel()
    await asyncio.wait([task])
    assert leaked_tasks() == set()


def test_daemon_log_is_read(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events are found by name and values among other output, as the ordinary user, and only in the present run."""
    script = short_tmp / "script"
    script.write_text(
        "import os, sys, time\n"
        "print('not JSON', file=sys.stderr)\n"
        'print(\'{"event": "a", "uid": %d, "n": 1}\' % os.getuid(), file=sys.stderr)\n'
        'print(\'{"event": "a", "uid": %d, "n": 2}\' % os.getuid(), file=sys.stderr)\n'
        "if 'run' in sys.argv: time.sleep(600)\n"
        "print('{\"event\": \"torn', file=sys.stderr, end='')\n"
        "sys.exit(3)\n"
    )
    # Python takes `-m mailrelayd` from its own path first, and PYTHONPATH is part of it.
    script.rename(short_tmp / "mailrelayd.py")
    under_test = Daemon(short_tmp, "", {"PYTHONPATH": str(short_tmp)}).start()
    assert under_test.wait_for_event("a", n=2)["uid"] == account().uid
    assert len(under_test.wait_for_events("a", 2)) == 2
    assert under_test.stop() == -15
    under_test.start("other")
    assert under_test.wait() == 3
    assert [event["n"] for event in under_test.events()] == [1, 2]
    with pytest.raises(RuntimeError, match="ended with status 3"):
        under_test.wait_for_event("b")
    under_test.start()
    assert under_test.wait_for_event("a", n=1)
    assert under_test.kill9() == -9


def test_daemon_commands_share_its_surroundings(short_tmp: Path) -> None:
    """Another command runs as the daemon's user, with its configuration and with what it is given to read."""
    (short_tmp / "mailrelayd.py").write_text(
        "import os, sys\nsys.stdout.write(f'{os.getuid()} {sys.argv[1:]} {sys.stdin.read()}')\nsys.exit(7)\n"
    )
    under_test = Daemon(short_tmp, "", {"PYTHONPATH": str(short_tmp)})
    done = under_test.command("queue", "list", stdin=b"given")
    expected = f"{account().uid} {['--config', str(under_test.configuration), 'queue', 'list']} given"
    assert (done.returncode, done.stdout.decode()) == (7, expected)
    assert "json" in under_test.configuration.read_text()


def test_free_ports_are_free(free_port: Callable[[], int]) -> None:
    """Each port can be bound right away, and one call does not repeat the other."""
    with socket.create_server(("127.0.0.1", free_port())) as first:
        assert free_port() != first.getsockname()[1]


def test_directories_belong_to_the_daemon(spool_dir: Path, state_dir: Path) -> None:
    """The daemon's user can write where its configuration will point, and sockets there have short enough paths."""
    for directory in (spool_dir, state_dir):
        assert directory.stat().st_uid == account().uid
        assert len(os.fsencode(directory)) < 50


def test_waiting_has_a_deadline() -> None:
    """What never becomes true ends as an error that tells the state of things."""
    with pytest.raises(TimeoutError, match="still nothing"):
        wait_until(lambda: False, 0.05, lambda: "still nothing")
