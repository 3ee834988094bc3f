"""The mailbox's side of a diagnosis, against a server that behaves as each test says."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailrelayd.clock import SystemClock
from mailrelayd.config.load import load
from mailrelayd.config.settings import Settings
from mailrelayd.diagnose import imap
from mailrelayd.diagnose.steps import Outcome, Step
from mailrelayd.inbound.connect import look
from mailrelayd.inbound.values import ImapError, Stage
from mailrelayd.oauth.tokens import Tokens
from tests.accounts import Account
from tests.scripted_imap import Script, serving

MAILS = {3: b"Subject: a\r\n\r\nb\r\n", 5: b"Subject: c\r\n\r\nd\r\n"}


def settings_for(directory: Path, port: int, more: str = "", *, user: str = "approvals@example.com") -> Settings:
    path = directory / "mailrelayd.toml"
    path.write_text(
        f'[spool]\ndirectory = "{directory}/spool"\n[state]\ndirectory = "{directory}/state"\n'
        f'[inbound.approvals]\nhost = "127.0.0.1"\nport = {port}\nsecurity = "none"\nuser = "{user}"\n'
        f'password = "text:p"\ncommand_timeout = "2s"\n{more}\n'
        '[approvals]\nenabled = false\nreply_address = "approvals@example.com"\n'
    )
    return load(path, {}).settings


async def examined(settings: Settings) -> list[Step]:
    tokens = Tokens(settings, SystemClock())
    return [step async for step in imap.examine(settings.mailboxes[0], settings, tokens)]


def named(steps: list[Step], name: str) -> Step:
    (found,) = [step for step in steps if step.name == name]
    return found


async def test_nothing_is_changed_and_there_is_one_login(tmp_path: Path) -> None:
    """EXAMINE, SEARCH, and headers by PEEK: what could mark, move or remove a mail is never said."""
    async with serving(Script(mails=dict(MAILS))) as server:
        steps = await examined(settings_for(tmp_path, server.port, 'adopt = "all"'))
    assert [step.name for step in steps] == [
        *("capabilities", "login", "folders", "folder", "removal", "idle", "addresses")
    ]
    assert {step.outcome for step in steps} == {Outcome.OK}
    verbs = [" ".join(line.split(" ")[: 2 if line.startswith("UID ") else 1]) for line in server.lines]
    assert verbs.count("AUTHENTICATE") == 1
    assert set(verbs) == {"CAPABILITY", "LOGOUT", "AUTHENTICATE", "LIST", "EXAMINE", "UID SEARCH", "UID FETCH"}
    assert all("BODY.PEEK[" in line for line in server.lines if line.startswith("UID FETCH"))
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("answer", "status", "setting"),
    [
        ("<tag> NO [AUTHENTICATIONFAILED] Invalid credentials", 77, "inbound.approvals.password"),
        ("<tag> NO [UNAVAILABLE] Temporary trouble", 75, None),
    ],
)
async def test_a_refused_login_has_a_cause(tmp_path: Path, answer: str, status: int, setting: str | None) -> None:
    """Said with the server's words; trouble of the server is not the password's."""
    async with serving(Script({"AUTHENTICATE": [answer]})) as server:
        *_, last = await examined(settings_for(tmp_path, server.port))
        logins = sum(line.startswith("AUTHENTICATE") for line in server.lines)
    assert (last.name, last.outcome, last.status, logins) == ("login", Outcome.FAILED, status, 1)
    assert setting in (None, last.setting)
    assert last.cause
    assert last.cure


@pytest.mark.parametrize(
    ("offered", "says"),
    [
        ("IMAP4rev1 LOGINDISABLED AUTH=XOAUTH2", "only OAuth2 tokens"),
        ("IMAP4rev1 LOGINDISABLED AUTH=GSSAPI", "no way to log in in common"),
    ],
)
async def test_a_login_that_the_server_does_not_offer_is_not_tried(tmp_path: Path, offered: str, says: str) -> None:
    """The key is auth, and the password stays here."""
    async with serving(Script(capability=offered)) as server:
        *_, last = await examined(settings_for(tmp_path, server.port))
        assert not any(line.startswith(("AUTHENTICATE", "LOGIN ")) for line in server.lines)
    assert (last.name, last.status, last.setting) == ("login", 77, "inbound.approvals.auth")
    assert says in last.cause


async def test_a_secret_that_cannot_be_had_is_the_configurations_fault(tmp_path: Path) -> None:
    """78, and nobody is asked to let us in."""
    async with serving(Script()) as server:
        settings = settings_for(tmp_path, server.port)
        lost = settings.mailboxes[0].model_copy(update={"user": f"file:{tmp_path}/missing"})
        *_, last = await examined(settings.model_copy(update={"inbound": {"approvals": lost}}))
        assert not any(line.startswith("AUTHENTICATE") for line in server.lines)
    assert (last.name, last.status) == ("login", 78)
    assert "there is no such file" in last.text


async def test_a_missing_folder_is_answered_with_those_there_are(tmp_path: Path) -> None:
    """The key is named; with create_folder the daemon makes it, and nothing is wrong."""
    listed = '* LIST () "/" INBOX\r\n* LIST () "/" Answers\r\n<tag> OK listed'
    script = Script({"EXAMINE": ["<tag> NO [NONEXISTENT] no such mailbox"], "LIST": [listed]})
    async with serving(script) as server:
        *_, last = await examined(settings_for(tmp_path, server.port, 'folder = "Replies"'))
        assert (last.name, last.outcome, last.status) == ("folder", Outcome.FAILED, 78)
        assert (last.setting, last.data["folders"]) == ("inbound.approvals.folder", ["Answers", "INBOX"])
        steps = await examined(settings_for(tmp_path, server.port, 'folder = "Replies"\ncreate_folder = true'))
        assert named(steps, "folder").outcome is Outcome.OK
        *_, last = await examined(settings_for(tmp_path, server.port, 'after = "move:Done"'))
        assert (last.name, last.status, last.setting) == ("target", 78, "inbound.approvals.after")


@pytest.mark.parametrize(
    ("able", "after", "outcome"),
    [
        ("IMAP4rev1", "delete", Outcome.WARNING),
        ("IMAP4rev1 MOVE", "delete", Outcome.WARNING),
        ("IMAP4rev1 UIDPLUS", "delete", Outcome.OK),
        ("IMAP4rev1", "keep", Outcome.OK),
        ("IMAP4rev1", "move:INBOX", Outcome.WARNING),
        ("IMAP4rev1 MOVE", "move:INBOX", Outcome.OK),
        ("IMAP4rev1 UIDPLUS", "move:INBOX", Outcome.OK),
    ],
)
async def test_what_the_server_can_do_is_held_against_what_is_wanted(
    tmp_path: Path, able: str, after: str, outcome: Outcome
) -> None:
    """Mail that cannot be removed singly stays, and the account's owner hears of it before."""
    more = f'after = "{after}"\nfolder = "Answers"'
    async with serving(Script(after_login=able)) as server:
        steps = await examined(settings_for(tmp_path, server.port, more))
    assert named(steps, "removal").outcome is outcome
    assert ("no IDLE" in named(steps, "idle").text) == ("IDLE" not in able)


@pytest.mark.parametrize(
    ("user", "outcome"),
    [
        ("approvals", Outcome.OK),
        ("Approvals@EXAMPLE.com", Outcome.OK),
        ("somebody@example.com", Outcome.WARNING),
        ("approvals@example.org", Outcome.WARNING),
        ("svc-mail", Outcome.WARNING),
    ],
)
async def test_user_and_reply_address_must_belong_together(tmp_path: Path, user: str, outcome: Outcome) -> None:
    """Another name may be right, for an alias or a group: that is for `test --loop` to prove."""
    async with serving(Script()) as server:
        step = named(await examined(settings_for(tmp_path, server.port, user=user)), "addresses")
    assert step.outcome is outcome
    assert outcome is Outcome.OK or "--loop" in step.cure


async def test_a_look_tells_what_is_offered_without_a_login() -> None:
    """The greeting and the capabilities that count; and it says LOGOUT."""
    async with serving(Script()) as server:
        offer = await look(Account(server.port))
        assert (offer.greeting, offer.tls) == ("scripted IMAP4rev1", "")
        assert "AUTH=PLAIN" in offer.capabilities
        assert server.lines == ["CAPABILITY", "LOGOUT"]


async def test_a_look_at_a_port_that_nobody_serves_is_trouble_at_connect() -> None:
    """Nothing is left open."""
    async with serving(Script()) as server:
        port = server.port
    with pytest.raises(ImapError) as caught:
        await look(Account(port))
    assert caught.value.stage is Stage.CONNECT
