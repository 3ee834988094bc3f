"""Whatever is wrong with an account, `doctor` says in one sentence what, in one how to mend it, and names the key."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.steps import Site, message, message_ids, no_secret, site_for, wait_until_drained
from tests.servers.certificates import Certificates
from tests.servers.daemon import Daemon, StartDaemon
from tests.servers.mailbox import MailboxServer, User
from tests.servers.postfix import Postfix
from tests.servers.process import wait_until

OUTBOUND, INBOUND = "outbound.smarthost", "inbound.answers"
CONFIGURATION, UNAVAILABLE, REFUSED = 78, 69, 77


@dataclass
class Patient:
    """A smarthost and a mailbox as somebody has configured them."""

    site: Site
    mailbox: MailboxServer
    user: User
    port: int
    tls_port: int  # the smarthost's
    security: str = "tls"
    password: str = ""
    folder: str = "INBOX"
    more: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The configuration as TOML."""
        inbound = [
            'host = "localhost"',
            f"port = {self.port}",
            f'security = "{self.security}"',
            f'user = "{self.user.name}"',
            f'password = "text:{self.password or self.user.password}"',
            f'folder = "{self.folder}"',
            'poll_interval = "1s"',
            'connect_timeout = "3s"',
            'command_timeout = "10s"',
            f'tls.ca_file = "{self.site.ca}"',
            *self.more,
        ]
        return self.site.text + "[inbound.answers]\n" + "\n".join(inbound) + "\n"


@pytest.fixture
def patient(
    postfix: Postfix, mailbox: MailboxServer, certificates: Certificates, spool_dir: Path, state_dir: Path
) -> Patient:
    site = site_for(postfix, certificates, spool_dir, state_dir)
    site.more["outbound.smarthost"] = ['test_to = "ops@dest.test"', 'command_timeout = "10s"']
    return Patient(site, mailbox, mailbox.add_user(), mailbox.tls_port, postfix.tls_port)


def doctor(daemon: Daemon, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit status and the steps."""
    done = daemon.command("doctor", "--json", *arguments, seconds=60)
    assert done.stderr == b"", done
    assert no_secret(done.stdout.decode())
    steps: list[dict[str, Any]] = json.loads(done.stdout)["steps"]
    return done.returncode, steps


def first_failed(steps: list[dict[str, Any]]) -> dict[str, Any]:
    """The step that explains the exit status."""
    return next(step for step in steps if step["outcome"] == "failed")


def is_sentence(text: str) -> bool:
    """Whether it is something one says to people: one line, begun and ended as such."""
    return text[:1].isupper() and text.endswith((".", "?")) and "\n" not in text


def test_nothing_is_wrong(patient: Patient, daemon: StartDaemon, postfix: Postfix) -> None:
    """A sound set-up passes every step, and nothing has been sent or changed."""
    patient.mailbox.append(patient.user, b"Subject: a mail\r\n\r\nunread\r\n")
    status, steps = doctor(daemon(patient.text, start=False))
    assert status == 0, steps
    assert [step for step in steps if step["outcome"] == "failed"] == []
    by_account = {
        account: [step["name"] for step in steps if step["account"] == account] for account in (OUTBOUND, INBOUND)
    }
    before_login = ["secret", "secret", "dns", "tcp", "port", "tls-versions", "tls", "certificate"]
    for names in by_account.values():
        assert [name for name in names if name in before_login] == before_login, names
    assert by_account[OUTBOUND][-5:] == ["greeting", "capabilities", "login", "sender", "recipient"]
    assert {"capabilities", "login", "folder"} <= set(by_account[INBOUND])
    certificate = next(step for step in steps if step["name"] == "certificate")
    assert certificate["data"]["chain"][0]["names"] == ["localhost", "127.0.0.1", "::1"]
    commands = {step["account"]: step["command"] for step in steps if step["name"] == "port"}
    assert commands[OUTBOUND].split()[:2] == ["openssl", "s_client"]
    assert commands[OUTBOUND].endswith("-starttls smtp")
    assert "-starttls" not in commands[INBOUND]
    assert postfix.accepted() == []
    with patient.mailbox.client(patient.user) as client:
        client.select("INBOX", readonly=True)
        assert client.search(None, "UNSEEN")[1] == [b"1"]


def test_people_read_it(patient: Patient, daemon: StartDaemon) -> None:
    """The text has the outcome first, cause, cure and setting below, with the place where it is written."""
    patient.site.port = 1
    made = daemon(patient.text, start=False)
    done = made.command("doctor", "smarthost")
    assert done.returncode == UNAVAILABLE
    lines = done.stdout.decode().splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("failed  outbound.smarthost tcp: "))
    told = " ".join(" ".join(lines[at:]).split())
    assert "cause: Nothing listens on port 1 of localhost" in told
    assert f"setting: outbound.smarthost.port ({made.configuration}:" in told
    assert "        by hand: openssl s_client -crlf -connect localhost:1 -servername localhost -starttls smtp" in lines
    assert lines[-1].startswith("1 of "), lines


# What is spoilt, what the first failed step then is, the class of the exit status, the key, words of cause and cure.


def _wrong_password(patient: Patient) -> None:
    patient.site.password = "text:wrong pony"


def _closed_port(patient: Patient) -> None:
    patient.site.port = 1


def _unknown_name(patient: Patient) -> None:
    patient.site.host = "no-such-host.invalid"


def _imap_server(patient: Patient) -> None:
    patient.site.port, patient.site.security = patient.mailbox.port, "starttls"


def _imap_server_with_tls(patient: Patient) -> None:
    patient.site.port, patient.site.security = patient.mailbox.tls_port, "tls"


def _tls_on_plain_port(patient: Patient) -> None:
    patient.site.security = "tls"


def _versions(patient: Patient) -> None:
    patient.site.more["outbound.smarthost.tls"] = ['maximum = "1.2"']


def _other_name(patient: Patient) -> None:
    patient.site.more["outbound.smarthost.tls"] = ['server_name = "elsewhere.test"']


def _starttls_on_tls_port_smtp(patient: Patient) -> None:
    patient.site.port = patient.tls_port


def _sender(patient: Patient) -> None:
    patient.site.from_address = "other@example.com"


def _recipient(patient: Patient) -> None:
    patient.site.more["outbound.smarthost"] = ['test_to = "refused@dest.test"']


def _authentication_off(_: Patient) -> None:
    """The server's part."""


def _missing_secret(patient: Patient) -> None:
    patient.site.password = f"file:{patient.site.state}/none"


def _other_ca(patient: Patient) -> None:
    patient.site.ca = patient.site.ca.with_name("self-signed.pem")


def _over_tls(patient: Patient) -> None:
    patient.site.port, patient.site.security = patient.tls_port, "tls"


Case = tuple[Callable[[Patient], None], str, int, str, str]

SMTP: dict[str, Case] = {
    "wrong password": (_wrong_password, "login", REFUSED, "password", "password"),
    "closed port": (_closed_port, "tcp", UNAVAILABLE, "port", "nothing listens"),
    "name unknown": (_unknown_name, "dns", UNAVAILABLE, "host", "no-such-host.invalid"),
    "TLS on a plain port": (_tls_on_plain_port, "port", UNAVAILABLE, "security", 'security = "starttls"'),
    "STARTTLS on a TLS port": (_starttls_on_tls_port_smtp, "port", UNAVAILABLE, "security", 'security = "tls"'),
    "IMAP server": (_imap_server, "port", UNAVAILABLE, "port", "an IMAP server"),
    "IMAP server in TLS": (_imap_server_with_tls, "port", UNAVAILABLE, "port", "an IMAP server"),
    "other name": (_other_name, "certificate", UNAVAILABLE, "tls.server_name", "not for elsewhere.test"),
    "unknown CA": (_other_ca, "certificate", UNAVAILABLE, "tls.ca_file", "which this machine does not know"),
    "no secret": (_missing_secret, "secret", CONFIGURATION, "password", "cannot be had"),
    "recipient refused": (_recipient, "recipient", REFUSED, "test_to", ""),
}
WITHOUT_LOGIN = ("dns", "tcp", "port", "tls", "certificate", "secret")


def judged(daemon: Daemon, account: str, case: Case) -> list[dict[str, Any]]:
    """The steps, once the first that failed is the one of the case: step, class, key, words, two sentences."""
    _, name, status, setting, words = case
    got, steps = doctor(daemon, account)
    failed = first_failed(steps)
    assert (failed["account"], failed["name"], got, failed["status"]) == (account, name, status, status), steps
    assert failed["setting"] == f"{account}.{setting}", failed
    assert is_sentence(failed["cause"]), failed
    assert is_sentence(failed["cure"]), failed
    assert words.lower() in f"{failed['text']} {failed['cause']} {failed['cure']}".lower(), failed
    return steps


@pytest.mark.parametrize("what", SMTP)
def test_smarthost(patient: Patient, daemon: StartDaemon, postfix: Postfix, what: str) -> None:
    """Each fault of the outgoing side leads to its own setting."""
    case = SMTP[what]
    case[0](patient)
    steps = judged(daemon(patient.text, start=False), OUTBOUND, case)
    if case[1] in WITHOUT_LOGIN:
        assert steps[-1]["outcome"] == "skipped"  # no login where it could not succeed
        assert "authentication failed" not in postfix.log()
    assert postfix.accepted() == []


# The same for faults on the server's side: its parameters, and what is then found, with the account spoilt or not.
SERVERS: list[tuple[dict[str, str], list[Case]]] = [
    (
        {"smtpd_tls_protocols": ">=TLSv1.3", "smtpd_sender_restrictions": "reject_sender_login_mismatch"},
        [
            (_sender, "sender", REFUSED, "from_address", "other@example.com"),
            (_versions, "tls", UNAVAILABLE, "tls.maximum", "TLS 1.3 only"),
        ],
    ),
    (
        {"smtpd_tls_security_level": "none", "smtpd_tls_auth_only": "no", "smtpd_sasl_auth_enable": "no"},
        [
            (_authentication_off, "tls", UNAVAILABLE, "security", "no TLS on this port"),
            (_over_tls, "login", REFUSED, "auth", "no login"),
        ],
    ),
]


@pytest.mark.parametrize(("parameters", "cases"), SERVERS, ids=["refuses", "offers too little"])
def test_server(
    patient: Patient, daemon: StartDaemon, postfix: Postfix, parameters: dict[str, str], cases: list[Case]
) -> None:
    """What the server does not offer or does not like leads to the setting that can meet it."""
    with postfix.configured(**parameters):
        for case in cases:
            case[0](patient)
            judged(daemon(patient.text, start=False), OUTBOUND, case)
    assert postfix.accepted() == []


def test_wrong_password_is_tried_once(patient: Patient, daemon: StartDaemon, postfix: Postfix) -> None:
    """A second try with a wrong password could lock the account."""
    _wrong_password(patient)
    doctor(daemon(patient.text, start=False), OUTBOUND)
    wait_until(lambda: "authentication failed" in postfix.log(), 10, postfix.log)
    assert postfix.log().count("authentication failed") == 1


# FlexDeploy's list of what to look at when an IMAP connection does not work.


def _starttls_on_tls_port(patient: Patient) -> None:
    """Are you using TLS? Make sure STARTTLS is disabled."""
    patient.security = "starttls"


def _plain_on_tls_port(patient: Patient) -> None:
    """Are you using a SSL port?"""
    patient.security = "none"


def _tls_on_imap_plain_port(patient: Patient) -> None:
    """The other way round."""
    patient.port = patient.mailbox.port


def _other_version(patient: Patient) -> None:
    """Match the TLS version used on your IMAP server."""
    patient.more = ['tls.minimum = "1.0"', 'tls.maximum = "1.1"']


def _imap_closed(patient: Patient) -> None:
    """Can you connect to the IMAP server outside of FlexDeploy?"""
    patient.port = 1


def _imap_login(patient: Patient) -> None:
    """Can you log in to the IMAP server?"""
    patient.password = "wrong pony"


def _folder(patient: Patient) -> None:
    """The Email Reply Folder."""
    patient.folder = "Approvals"


IMAP: dict[str, Case] = {
    "TLS port with STARTTLS": (_starttls_on_tls_port, "port", UNAVAILABLE, "security", 'security = "tls"'),
    "TLS port in plain text": (_plain_on_tls_port, "port", UNAVAILABLE, "security", 'security = "tls"'),
    "plain port with TLS": (_tls_on_imap_plain_port, "port", UNAVAILABLE, "security", 'security = "starttls"'),
    "version of TLS": (_other_version, "tls", UNAVAILABLE, "tls.maximum", "TLS 1.2 and 1.3 only"),
    "no connection": (_imap_closed, "tcp", UNAVAILABLE, "port", "nothing listens"),
    "login": (_imap_login, "login", REFUSED, "password", "password"),
    "folder": (_folder, "folder", CONFIGURATION, "folder", "does not exist"),
}


@pytest.mark.parametrize("what", IMAP)
def test_mailbox(patient: Patient, daemon: StartDaemon, what: str) -> None:
    """Each line of FlexDeploy's troubleshooting list leads to its own setting."""
    case = IMAP[what]
    case[0](patient)
    judged(daemon(patient.text, start=False), INBOUND, case)


# The same through the daemon: it says so in one line, keeps everything, and goes on once it is mended.


def one_line(text: str, *words: str) -> bool:
    """Whether a log line says all of this to people."""
    return "\n" not in text and all(word.lower() in text.lower() for word in words)


def held_and_drained(
    patient: Patient, daemon: Daemon, postfix: Postfix, words: tuple[str, ...], mend: Callable[[], None]
) -> None:
    """Mail waits under a line that says cause and cure; mended, all of it arrives once and in order."""
    numbers = range(3)
    for number in numbers:
        patient.site.drop(f"{number}.eml", message(number))
    down = daemon.wait_for_event("route.down")
    assert one_line(down["response"], *words), down
    wait_until(lambda: len(patient.site.waiting()) == len(numbers), 10, daemon.log)
    daemon.wait_for_event("route.down", attempt=2)
    assert patient.site.failed() == []
    assert daemon.events("message.failed") == daemon.events("message.deferred") == []
    mend()
    wait_until_drained(patient.site, daemon)
    assert postfix.accepted() == message_ids(numbers)
    assert patient.site.failed() == []
    assert no_secret(daemon.log())
    assert daemon.stop() == 0


ROUTE: dict[str, tuple[Callable[[Patient], None], tuple[str, ...]]] = {
    "wrong password": (_wrong_password, ("535", "outbound.smarthost.password")),
    "closed port": (_closed_port, ("refused", "correct host and port")),
    "TLS on a plain port": (_tls_on_plain_port, ("plain text", 'security = "starttls"')),
    "STARTTLS on a TLS port": (_starttls_on_tls_port_smtp, ("TLS from the first byte", 'security = "tls"')),
    "other name": (_other_name, ("elsewhere.test", "server_name")),
    "unknown CA": (_other_ca, ("CA", "ca_file")),
}


@pytest.mark.parametrize("what", ROUTE)
def test_daemon_holds_the_route(patient: Patient, daemon: StartDaemon, postfix: Postfix, what: str) -> None:
    """A configuration that is wrong holds the queue, and a reload with the right one sends it."""
    spoil, words = ROUTE[what]
    sound = patient.text
    spoil(patient)
    patient.site.more["outbound.smarthost"] = ['command_timeout = "1s"']  # a TLS port keeps silent as long
    running = daemon(patient.text).wait_ready()

    def mend() -> None:
        running.configure(sound)
        assert running.command("reload").returncode == 0

    held_and_drained(patient, running, postfix, words, mend)


def test_expired_certificate(
    patient: Patient, daemon: StartDaemon, postfix: Postfix, certificates: Certificates
) -> None:
    """`doctor` names the day; the daemon holds the queue until the server has a new certificate."""
    files = certificates.expired
    with ExitStack() as stack:
        changed = {"smtpd_tls_cert_file": str(files.certificate), "smtpd_tls_key_file": str(files.key)}
        stack.enter_context(postfix.configured(**changed))
        running = daemon(patient.text).wait_ready()
        status, steps = doctor(running, OUTBOUND)
        failed = first_failed(steps)
        assert (failed["name"], status, failed["setting"]) == (
            "certificate",
            UNAVAILABLE,
            f"{OUTBOUND}.tls.fingerprint",
        )
        assert "has expired on " in failed["cause"], failed
        held_and_drained(patient, running, postfix, ("has expired", "renewed"), stack.close)


APPROVALS = """
[approvals]
reply_address = "answers@dest.test"
secret = "text:a secret of the tests, more than thirty-two bytes long"
sender_check = "token-only"
[[decisions]]
name = "erp"
match = "PO-*"
producers = ["nobody"]
approvers = ["*@dest.test"]
"""
MAILBOXES: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "password": ({"password": '"text:wrong pony"'}, ("AUTHENTICATIONFAILED", "inbound.password.password")),
    "port": ({"port": "1"}, ("refused", "correct host and port")),
    "plain": ({"port": "{plain}"}, ("plain text", 'security = "starttls"')),
    "starttls": ({"security": '"starttls"'}, ("TLS from the first byte", 'security = "tls"')),
    "name": ({"tls.server_name": '"elsewhere.test"'}, ("elsewhere.test", "server_name")),
    "ca": ({"tls.ca_file": '"{other_ca}"'}, ("CA", "ca_file")),
    "folder": ({"folder": '"Approvals"'}, ("INBOX", "create_folder")),
}


def test_daemon_holds_each_mailbox(
    patient: Patient, daemon: StartDaemon, certificates: Certificates, mailbox: MailboxServer
) -> None:
    """What is wrong with a mailbox stands in its line, with the cure; the others, and its mail, are untouched."""

    def configuration(*, sound: bool) -> str:
        text = patient.site.text + APPROVALS
        for name, (wrong, _) in {"sound": ({}, ()), **MAILBOXES}.items():
            keys = {
                "host": '"localhost"',
                "port": str(mailbox.tls_port),
                "user": f'"{patient.user.name}"',
                "password": f'"text:{patient.user.password}"',
                "tls.ca_file": f'"{certificates.ca}"',
                "poll_interval": '"1s"',
                "command_timeout": '"1s"',
                "adopt": '"new-only"',
            } | ({} if sound else wrong)
            values = {"plain": mailbox.port, "other_ca": certificates.self_signed.certificate}
            text += f"[inbound.{name}]\n" + "".join(
                f"{key} = {value.format(**values)}\n" for key, value in keys.items()
            )
        return text

    patient.mailbox.append(patient.user, b"From: p@dest.test\r\nSubject: Re\r\n\r\nApproved\r\n")
    running = daemon(configuration(sound=False)).wait_ready()
    running.wait_for_event("mailbox.up", account="sound")
    for name, (_, words) in MAILBOXES.items():
        down = running.wait_for_event("mailbox.down", account=name)
        assert one_line(down["response"], *words), down
    running.configure(configuration(sound=True))
    assert running.command("reload").returncode == 0
    for name in MAILBOXES:
        running.wait_for_event("mailbox.up", account=name)
    with mailbox.client(patient.user) as client:
        client.select("INBOX", readonly=True)
        assert client.search(None, "ALL")[1] == [b"1"]
    assert no_secret(running.log())
    assert running.stop() == 0


def test_check_connect(patient: Patient, daemon: StartDaemon, postfix: Postfix) -> None:
    """`check --connect` logs in to both, and where that fails it is explained as `doctor` does."""
    made = daemon(patient.text, start=False)
    done = made.command("check", "--connect")
    assert done.returncode == 0, done
    assert b"ok      outbound.smarthost login: as relay by " in done.stdout
    assert b"ok      inbound.answers login: as " in done.stdout
    assert done.stdout.endswith(b"ok\n")
    patient.site.security = "tls"
    made.configure(patient.text)
    done = made.command("check", "--connect", "--json")
    assert done.returncode == UNAVAILABLE, done
    document = json.loads(done.stdout)
    assert (document["ok"], document["status"]) == (False, UNAVAILABLE)
    failed = first_failed(document["connect"]["steps"])
    assert (failed["name"], failed["setting"]) == ("port", f"{OUTBOUND}.security")
    assert [line["name"] for line in document["inbound"]] == ["answers"]
    assert postfix.accepted() == []
