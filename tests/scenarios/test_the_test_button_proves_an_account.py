"""`mailrelayd test`: a mail goes out by Postfix and comes in by LMTP; a probe goes the whole way, and is removed."""

from __future__ import annotations

import json
import os
import pwd
import re
import socket
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path

import pytest

from tests.asking import token
from tests.scenarios.button import RESULTS, UNSET, Button, step, tried
from tests.scenarios.delivering import LMTP_PROGRAM, PLAIN, Delivering, Mailboxes
from tests.scenarios.tokens import TokenSite
from tests.servers.certificates import Certificates
from tests.servers.daemon import StartDaemon, account
from tests.servers.dovecot import DovecotAuth
from tests.servers.process import short_directory, wait_until

pytestmark = pytest.mark.real

TOKEN = token(1)


@pytest.fixture(scope="module")
def servers(
    request: pytest.FixtureRequest, certificates: Certificates, dovecot_auth: DovecotAuth
) -> Iterator[tuple[Delivering, Mailboxes]]:
    """Both, running."""
    request.getfixturevalue("_postfix")  # where Postfix or Dovecot cannot run, these skip
    request.getfixturevalue("mailbox")
    if not Path(LMTP_PROGRAM).exists():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("needs dovecot-lmtpd")
    with short_directory("mr-loop") as mails, short_directory("mr-mx") as mta:
        imap = Mailboxes(mails, certificates)
        smtp = Delivering(mta, certificates, dovecot_auth, imap)
        try:
            imap.start()
            smtp.start()
            yield smtp, imap
        finally:
            smtp.stop()
            imap.stop()


@pytest.fixture
def button(
    servers: tuple[Delivering, Mailboxes],
    certificates: Certificates,
    daemon: StartDaemon,
    short_tmp: Path,
) -> Button:
    """Nothing has arrived yet."""
    servers[0].clear()
    return Button(*servers, certificates, daemon, short_tmp)


def test_the_probe_comes_back_and_it_alone_is_removed(button: Button) -> None:
    """It is found by its token, tells what stands on it, and everything else in the folder stays as it was."""
    user = button.imap.owner("good")
    button.imap.append(user, b"Subject: lunch\r\n\r\nat one\r\n", flags="(\\Flagged)")
    button.imap.append(user, b"Subject: dinner\r\n\r\nat eight\r\n")
    before = button.imap.mails(user)
    status, steps = button.run(button.configuration(user), "--loop")
    assert (status, step(steps, "arrival")["outcome"]) == (0, "ok")
    address = step(steps, "address")["data"]
    assert address == {"fields": ["Delivered-To", "To", "Message-ID", "References"], "survived": True}
    order = step(steps, "authentication")["data"]["order"]
    assert order[1:] == ["Authentication-Results of smarthost.test (dmarc=pass)", "Received by smarthost.test"]
    removal = [one for one in steps if one["name"] == "removal"][-1]
    assert (removal["outcome"], removal["data"]["uid"]) == ("ok", 3)
    assert button.imap.mails(user) == before
    assert all(b"Seen" not in flags for flags, _ in before)
    assert not list(button.directory.iterdir()), "a test leaves no state"


PROPOSED = {"sender_check": "authentication-results", "authserv_id": ["smarthost.test"]}


@pytest.mark.parametrize(
    ("name", "approvals", "outcome", "proposal"),
    [
        ("good", UNSET, "warning", PROPOSED),
        ("good", RESULTS.format("smarthost.test"), "ok", {}),
        ("good", RESULTS.format("another.test"), "warning", PROPOSED),
        ("good", 'sender_check = "token-only"', "warning", PROPOSED),
        ("failing", UNSET, "warning", PROPOSED),
        ("below", UNSET, "warning", {}),
        ("below", RESULTS.format("smarthost.test"), "warning", {}),
        ("none", RESULTS.format("smarthost.test"), "warning", {}),
        ("none", 'sender_check = "dkim"', "warning", {}),
    ],
)
def test_what_is_proposed_is_never_weaker(
    button: Button, name: str, approvals: str, outcome: str, proposal: dict[str, object]
) -> None:
    """A server's word is proposed only where it stands above the Received line of our MX; token-only never is."""
    user = button.imap.owner(name)
    status, steps = button.run(button.configuration(user, approvals), "--loop")
    found = step(steps, "sender_check")
    assert (status, found["outcome"], found["data"]["proposal"]) == (0, outcome, proposal)
    if name == "below":
        assert "stands below the Received line of smarthost.test" in found["text"]
    assert button.imap.mails(user) == []


def test_a_dropped_plus_address_is_said(button: Button) -> None:
    """The probe is known by its References then, and the setting that helps is named."""
    user = button.imap.owner("dropped")
    status, steps = button.run(button.configuration(user), "--loop")
    found = step(steps, "address")
    assert (status, found["outcome"], found["setting"]) == (0, "warning", "approvals.subject_tag")
    assert (found["data"]["fields"], found["data"]["survived"]) == (["Message-ID", "References"], False)
    assert button.imap.mails(user) == []


def test_the_account_may_be_a_member_of_the_group_that_answers_go_to(button: Button) -> None:
    """User and reply address differ, and the probe proves that they belong together."""
    user = button.imap.owner("member")
    configuration = button.configuration(user, reply_to="group")
    status, steps = button.run(configuration, "--loop")
    assert (status, step(steps, "addresses", "inbound.approvals")["outcome"]) == (0, "ok")
    assert step(steps, "address")["data"]["fields"] == ["To", "Message-ID", "References"]
    _, steps = button.run(configuration, "--imap")
    found = step(steps, "addresses")
    assert (found["outcome"], found["setting"]) == ("warning", "approvals.reply_address")


@pytest.mark.parametrize(
    ("name", "values", "said", "setting"),
    [
        ("strict", {}, "550 5.1.1", "approvals.subaddressing"),  # refused at once
        ("lost", {"sender": "lost@dest.test"}, "no such user here", "approvals.subaddressing"),  # bounced
        ("good", {"folder": "Answers"}, "was filed in INBOX, and not in Answers", "inbound.approvals.folder"),
    ],
)
def test_why_a_probe_does_not_arrive_is_said(
    button: Button, name: str, values: dict[str, str], said: str, setting: str
) -> None:
    """Refused, bounced, or filed elsewhere: each names the setting to change."""
    user = button.imap.owner(name)
    with button.imap.client(user) as client:
        client.create("Answers")
    status, steps = button.run(button.configuration(user, **values), "--loop", "--timeout", "2s")
    (failed,) = [one for one in steps if one["outcome"] == "failed"]
    assert (status, failed["setting"]) == (78, setting)
    assert said in failed["text"]
    assert not any(b"probe that mailrelayd sent" in text for _, text in button.imap.mails(user) if name == "good")


def test_a_probe_that_goes_to_another_mailbox_is_waited_for_no_longer_than_asked(button: Button) -> None:
    """75: it may still come."""
    user = button.imap.owner("good")
    status, steps = button.run(button.configuration(user, reply_to="somebody"), "--loop", "--timeout", "500ms")
    assert (status, step(steps, "arrival")["setting"]) == (75, "approvals.reply_address")


def test_where_single_mails_cannot_be_removed_the_probe_stays_marked(button: Button) -> None:
    """Without UIDPLUS an EXPUNGE would take along what others have marked."""
    user = button.imap.owner("good")
    button.imap.append(user, b"Subject: lunch\r\n\r\nat one\r\n", flags="(\\Deleted)")
    status, steps = button.run(button.configuration(user, host=PLAIN), "--loop")
    assert (status, [one for one in steps if one["name"] == "removal"][-1]["outcome"]) == (0, "warning")
    (_, lunch), (flags, probe) = button.imap.mails(user)
    assert b"lunch" in lunch
    assert b"\\Deleted" in flags
    assert b"probe" in probe


def test_a_running_daemon_leaves_the_probe_alone(button: Button, spool_dir: Path, state_dir: Path) -> None:
    """Though it deletes what belongs to nobody: the probe looks like another machine's, and nothing is noted of it."""
    user = button.imap.owner("good")
    approvals = RESULTS.format("smarthost.test")
    configuration = button.configuration(user, approvals, spool=str(spool_dir), state=str(state_dir))
    running = button.start(configuration).wait_ready()
    running.wait_for_event("mailbox.up", account="approvals")
    button.imap.append(user, b"Subject: lunch\r\n\r\nat one\r\n")
    running.wait_for_event("mail.removed", account="approvals")  # as unmatched = "delete" says
    archived = sorted((state_dir / "archive").rglob("*"))
    # A server that cannot remove it shows the probe to the daemon long enough.
    elsewhere = button.configuration(user, approvals, host=PLAIN)
    status, steps = button.run(elsewhere, "--loop")
    assert (status, step(steps, "arrival")["outcome"]) == (0, "ok")
    running.wait_for_event(
        "mail.left", account="approvals", reason="foreign: it carries a token that was not issued here"
    )
    assert len(button.imap.mails(user)) == 1
    assert sorted((state_dir / "archive").rglob("*")) == archived
    assert not list((state_dir / "quarantine").glob("*.eml"))
    status, steps = tried(running, "--loop")
    assert (status, [one for one in steps if one["name"] == "removal"][-1]["outcome"]) == (0, "ok")
    assert len(button.imap.mails(user)) == 1, "the first one, and not the second"
    assert running.stop() == 0


def test_a_mail_says_what_it_is(button: Button) -> None:
    """Who, where, with which configuration, when; nobody's absence answers it; the server's answer is shown."""
    user = button.imap.owner("none")
    ops = button.imap.owner("ops")
    status, steps = button.run(button.configuration(user))
    assert status == 0
    assert re.fullmatch(
        r"from noreply@example.com to ops@dest.test: the server answered 250 .*", step(steps, "send")["text"]
    )
    wait_until(lambda: bool(button.imap.mails(ops)), 20, button.imap.log)
    ((_, stored),) = button.imap.mails(ops)
    mail = message_from_bytes(stored)
    assert (mail["From"], mail["To"]) == ("noreply@example.com", "ops@dest.test")
    assert (mail["Subject"], mail["Auto-Submitted"]) == ("mailrelayd test from relay1", "auto-generated")
    text = mail.get_payload()
    assert f"Tested by:      {pwd.getpwuid(account().uid).pw_name} on {socket.gethostname()}" in text
    assert f"SHA-256 {step(steps, 'file')['data']['sha256']}" in text
    assert str(mail["Date"]) in text
    assert not list(button.directory.iterdir()), "a test leaves no state"


def test_the_look_changes_nothing_and_says_what_the_next_poll_would_do(button: Button) -> None:
    """EXAMINE: no mail is read, marked or removed; old and large mails are counted apart."""
    user = button.imap.owner("none")
    button.imap.append(user, b"Subject: old\r\n\r\n1\r\n", date='"01-Jan-2020 00:00:00 +0000"')
    button.imap.append(user, b"Subject: new\r\n\r\n2\r\n", b"To: none+" + TOKEN.encode() + b"@dest.test\r\n\r\n3\r\n")
    before = button.imap.mails(user)
    limits = 'adopt = "all"\nprocess_after = 2026-01-01T00:00:00Z'
    status, steps = button.run(button.configuration(user).replace('adopt = "all"', limits), "--imap")
    assert status == 0
    data = step(steps, "folder")["data"]
    assert (data["mails"], data["would_read"], data["with_token"], data["ignored"]) == (3, 2, 1, 1)
    assert step(steps, "login")["data"] == {"user": "none@dest.test", "mechanism": "PLAIN"}
    assert button.imap.mails(user) == before
    assert all(b"Seen" not in flags for flags, _ in before)
    refusing = button.configuration(user).replace('adopt = "all"', 'adopt = "refuse"')
    _, steps = button.run(refusing, "--imap")
    assert (step(steps, "folder")["outcome"], step(steps, "folder")["setting"]) == (
        "warning",
        "inbound.approvals.adopt",
    )


@pytest.mark.parametrize(
    ("sender", "name", "said", "status"),
    [
        ("forbidden@example.com", "sender", "not owned by user relay", 77),
        ("unwanted@example.com", "send", "this From is not welcome here", 77),  # only once the mail is there
    ],
)
def test_a_login_that_works_is_no_proof(button: Button, sender: str, name: str, said: str, status: int) -> None:
    """The sender may be refused when the mail comes: that is shown, with the setting to change."""
    user = button.imap.owner("none")
    exit_status, steps = button.run(button.configuration(user, sender=sender), "--smtp")
    failed = step(steps, name)
    assert step(steps, "login")["outcome"] == "ok"
    assert (exit_status, failed["outcome"], failed["setting"]) == (status, "failed", "outbound.smarthost.from_address")
    assert said in failed["text"]
    assert failed["cause"]
    assert failed["cure"]


def test_without_sending_it_says_what_is_unproven(button: Button) -> None:
    """--no-send stops behind RCPT."""
    status, steps = button.run(button.configuration(button.imap.owner("none")), "--smtp", "--no-send")
    assert (status, step(steps, "recipient")["outcome"], step(steps, "send")["outcome"]) == (0, "ok", "skipped")
    assert "unproven" in step(steps, "send")["text"]
    assert button.smtp.accepted() == []


def test_a_wrong_password_is_tried_once(button: Button) -> None:
    """A second try could lock the account; the other half of the test goes on."""
    user = button.imap.owner("none")
    wrong = button.configuration(user).replace('text:correct horse"\nfolder', 'text:battery staple"\nfolder')
    before = button.imap.log().count("auth failed")
    status, steps = button.run(wrong)
    failed = step(steps, "login", "inbound.approvals")
    assert (status, failed["setting"]) == (77, "inbound.approvals.password")
    assert failed["data"]["origin"].endswith(".toml:21")
    assert "battery" not in json.dumps(steps)
    assert button.imap.log().count("auth failed") == before + 1
    assert step(steps, "send")["outcome"] == "ok"


@pytest.mark.parametrize("security", ["auto", "tls"])
def test_a_test_remembers_nothing_of_the_server(button: Button, security: str) -> None:
    """What "auto" comes to is found out, and written nowhere; what is wrong below the login is looked into."""
    user = button.imap.owner("none")
    configuration = button.configuration(user).replace(
        "[inbound.approvals]\n", f'[inbound.approvals]\nsecurity = "{security}"\n'
    )
    port = button.imap.tls_port if security == "auto" else button.imap.port
    status, steps = button.run(configuration.replace(f"port = {button.imap.tls_port}", f"port = {port}"), "--imap")
    assert not list(button.directory.iterdir())
    if security == "auto":
        assert (status, step(steps, "login")["outcome"]) == (0, "ok")
    else:
        (failed,) = [one for one in steps if one["outcome"] == "failed"]
        assert (status, failed["setting"]) == (69, "inbound.approvals.security")


def test_an_account_with_tokens_is_tried_the_same_way(token_site: TokenSite, daemon: StartDaemon) -> None:
    """Both logins by one token, which no output shows."""
    token_site.microsoft()
    status, steps = tried(daemon(token_site.text, start=False), "--to", "ops@dest.test")
    assert status == 0, steps
    logins = [one for one in steps if one["name"] == "login"]
    assert {one["data"]["mechanism"] for one in logins} <= {"XOAUTH2", "OAUTHBEARER"}
    assert [one["account"] for one in logins] == ["outbound.smarthost", "inbound.answers"]
    assert step(steps, "send")["outcome"] == "ok"
    token = json.loads(token_site.token_file().read_text())["token"]["access_token"]
    assert token not in json.dumps(steps)


def test_a_wrong_client_secret_fails_both_logins(token_site: TokenSite, daemon: StartDaemon) -> None:
    """With the setting to change, and without the secret."""
    token_site.microsoft(client_secret="text:battery staple")
    status, steps = tried(daemon(token_site.text, start=False), "--to", "ops@dest.test")
    failed = [one for one in steps if one["outcome"] == "failed"]
    assert (status, [one["name"] for one in failed]) == (failed[0]["status"], ["login", "login"])
    assert failed[0]["setting"] == "outbound.smarthost.oauth.client_secret"
    assert failed[1]["cause"]
    assert "battery" not in json.dumps(steps)
