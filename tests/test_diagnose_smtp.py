"""The smarthost's side of a diagnosis: what it offers, one login, a rehearsal that sends nothing."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mailrelayd.clock import SystemClock
from mailrelayd.config.settings import Settings
from mailrelayd.diagnose import accounts, mail, smtp, way
from mailrelayd.diagnose.steps import (
    CONFIGURATION,
    REFUSED,
    TEMPORARY,
    UNAVAILABLE,
    Outcome,
    Step,
    as_json,
    exit_status,
    lines,
)
from mailrelayd.oauth.tokens import Tokens
from mailrelayd.outbound import smtp as client
from mailrelayd.outbound.values import Stage
from tests.accounts import Account
from tests.scripted_smtp import Conversation, Fault, Script, Server, hang_up, serving, silence
from tests.servers.certificates import Certificates

SENDER, RECIPIENT = "noreply@example.com", "ops@example.com"


def settings_for(server: Server, certificates: Certificates, state: Path, **keys: Any) -> Settings:
    """A configuration with this server as smarthost, by STARTTLS and with a password."""
    table = {
        "host": "localhost",
        "port": server.port,
        "user": "relay",
        "password": "text:pony",
        "from_address": SENDER,
        "test_to": RECIPIENT,
        "connect_timeout": "2s",
        "command_timeout": "1s",
        "tls": {"ca_file": str(certificates.ca)},
    }
    written: Any = {"outbound": {"x": table | keys}, "state": {"directory": str(state)}, "node": {"name": "me"}}
    return Settings(**written)


async def examined(
    script: Script, certificates: Certificates, state: Path, *, thorough: bool = False, **keys: Any
) -> tuple[list[Step], Server]:
    """The steps, and the server with what it was told."""
    async with serving(script) as server:
        settings = settings_for(server, certificates, state, **keys)
        account, tokens = settings.account, Tokens(settings, SystemClock())
        assert account is not None
        if thorough:
            steps = [step async for step in accounts.thorough(account, settings, tokens)]
        else:
            examination = smtp.examine(account, settings, "me", tokens, smtp.rehearsal(account))
            steps = [step async for step in examination]
        await asyncio.sleep(0.05)
    return steps, server


@pytest.fixture
def context(certificates: Certificates) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(certificates.good.certificate, certificates.good.key)
    return made


def outcomes(steps: list[Step]) -> list[tuple[str, str]]:
    return [(step.name, str(step.outcome)) for step in steps]


async def test_everything_up_to_rcpt(context: ssl.SSLContext, certificates: Certificates, tmp_path: Path) -> None:
    """One login, MAIL, RCPT, RSET: never DATA; what the server said stands in the steps."""
    steps, server = await examined(Script(starttls=context), certificates, tmp_path)
    assert outcomes(steps) == [
        ("greeting", "ok"),
        ("capabilities", "warning"),  # its SIZE is below spool.max_message_size
        ("login", "ok"),
        ("sender", "ok"),
        ("recipient", "ok"),
    ]
    assert steps[1].setting == "spool.max_message_size"
    assert steps[1].data["mechanisms"] == ["PLAIN", "LOGIN", "CRAM-MD5"]
    assert steps[2].text == "as relay by PLAIN"
    assert "nothing was sent" in steps[4].text
    verbs = [line.partition(" ")[0] for line in server.lines]
    assert verbs == ["EHLO", "STARTTLS", "EHLO", "AUTH", "MAIL", "RCPT", "RSET"]
    assert f"MAIL FROM:<{SENDER}>" in server.lines
    assert f"RCPT TO:<{RECIPIENT}>" in server.lines


async def test_a_mail_goes_by_the_login_that_was_looked_at(
    context: ssl.SSLContext, certificates: Certificates, tmp_path: Path
) -> None:
    """One connection, one login; sender and recipient are told as in the rehearsal."""
    async with serving(Script(starttls=context)) as server:
        settings = settings_for(server, certificates, tmp_path)
        assert settings.account is not None
        conversation = mail.sending(settings.account, mail.Letter(b"Subject: t\r\n\r\n"), SENDER, RECIPIENT)
        tokens = Tokens(settings, SystemClock())
        steps = [step async for step in smtp.examine(settings.account, settings, "me", tokens, conversation)]
        await asyncio.sleep(0.05)
    assert [step.name for step in steps] == ["greeting", "capabilities", "login", "sender", "recipient", "send"]
    assert {step.outcome for step in steps[2:]} == {Outcome.OK}
    verbs = [line.partition(" ")[0] for line in server.lines]
    assert [verb for verb in verbs if verb != "RSET"] == [
        *("EHLO", "STARTTLS", "EHLO", "AUTH", "MAIL", "RCPT", "DATA", "QUIT")
    ]


@pytest.mark.parametrize(
    ("extensions", "outcome", "text", "cause"),
    [
        (("PIPELINING", "CHUNKING"), "ok", "8 messages may be on their way at once", ""),
        (("PIPELINING",), "warning", "one message at a time", "it does not offer both PIPELINING and CHUNKING"),
    ],
)
async def test_a_window_is_tried_where_one_is_wanted(
    context: ssl.SSLContext,
    certificates: Certificates,
    tmp_path: Path,
    extensions: tuple[str, ...],
    outcome: str,
    text: str,
    cause: str,
) -> None:
    """What the daemon would only log is seen beforehand, and the rehearsal goes on."""
    script = Script(starttls=context, extensions=extensions)
    steps, _ = await examined(script, certificates, tmp_path, window=8)
    assert outcomes(steps)[2:] == [("login", "ok"), ("window", outcome), ("sender", "ok"), ("recipient", "ok")]
    assert steps[3].text == text
    assert cause in steps[3].cause
    assert (steps[3].setting == "outbound.x.window") == bool(cause)


async def test_without_addresses(context: ssl.SSLContext, certificates: Certificates, tmp_path: Path) -> None:
    """What cannot be rehearsed is said, with the key that would allow it."""
    steps, server = await examined(Script(starttls=context), certificates, tmp_path, test_to="")
    assert steps[-1].outcome is Outcome.SKIPPED
    assert "outbound.x.test_to" in steps[-1].cure
    assert not any(line.startswith("RCPT") for line in server.lines)
    steps, server = await examined(Script(starttls=context), certificates, tmp_path, from_address="")
    assert "outbound.x.from_address" in steps[-1].cure
    assert not any(line.startswith("MAIL") for line in server.lines)


@pytest.mark.parametrize(
    ("answers", "name", "status", "setting"),
    [
        ({"MAIL": ["553 5.7.1 not yours"]}, "sender", REFUSED, "from_address"),
        ({"MAIL": ["450 4.1.8 try later"]}, "sender", TEMPORARY, None),
        (
            {"RCPT": [f"553 5.7.1 <{SENDER}>: Sender address rejected: not owned by user relay"]},
            "sender",
            REFUSED,
            "from_address",
        ),
        ({"RCPT": ["550 5.1.1 No such mailbox"]}, "recipient", REFUSED, None),
        ({"RCPT": ["450 4.7.1 greylisted"]}, "recipient", TEMPORARY, None),
    ],
)
async def test_refusals_after_the_login(
    context: ssl.SSLContext,
    certificates: Certificates,
    tmp_path: Path,
    answers: dict[str, list[str | Fault]],
    name: str,
    status: int,
    setting: str | None,
) -> None:
    """The login is fine and mail would be refused all the same: whose fault it is depends on whom the answer names."""
    steps, _ = await examined(Script(starttls=context, answers=answers), certificates, tmp_path)
    failed = steps[-1]
    assert ("login", "ok") in outcomes(steps)
    assert (failed.name, failed.outcome, exit_status(steps)) == (name, Outcome.FAILED, status), steps
    assert failed.cause
    assert failed.cure
    if setting is not None:
        assert failed.setting == f"outbound.x.{setting}", failed


@pytest.mark.parametrize(
    ("offered", "auth", "words"),
    [
        ((), "password", "offers no login"),
        (("AUTH XOAUTH2",), "password", "only OAuth2 tokens"),
        (("AUTH NTLM GSSAPI",), "password", "no way to log in in common"),
    ],
)
async def test_no_way_to_log_in(
    context: ssl.SSLContext,
    certificates: Certificates,
    tmp_path: Path,
    offered: tuple[str, ...],
    auth: str,
    words: str,
) -> None:
    """What the server offers instead stands in the cause."""
    steps, server = await examined(Script(starttls=context, after_tls=offered), certificates, tmp_path)
    failed = steps[-1]
    assert (failed.name, failed.status, failed.setting) == ("login", REFUSED, "outbound.x.auth")
    assert words in failed.cause
    assert not any(line.startswith("AUTH") for line in server.lines)


@pytest.mark.parametrize(
    ("answer", "status"), [("535 5.7.8 wrong", REFUSED), ("454 4.7.0 not now", TEMPORARY), ("534 5.7.9 x", REFUSED)]
)
async def test_a_refused_login(
    context: ssl.SSLContext, certificates: Certificates, tmp_path: Path, answer: str, status: int
) -> None:
    """It is tried once, what was seen before is shown, and a temporary refusal is a temporary failure."""
    script = Script(starttls=context, answers={"AUTH": [answer]})
    steps, server = await examined(script, certificates, tmp_path, thorough=True)
    failed = steps[-1]
    assert outcomes(steps)[-3:] == [("greeting", "ok"), ("capabilities", "warning"), ("login", "failed")]
    assert failed.status == exit_status(steps) == status
    assert answer[:3] in failed.text
    assert sum(line.startswith("AUTH") for line in server.lines) == 1
    assert "pony" not in "".join(map(str, steps))


async def test_a_secret_that_cannot_be_had(context: ssl.SSLContext, certificates: Certificates, tmp_path: Path) -> None:
    """It is a fault of the configuration; the network is looked at all the same, and nobody logs in."""
    password = f"file:{tmp_path}/none"
    script = Script(starttls=context)
    steps, server = await examined(script, certificates, tmp_path, thorough=True, password=password)
    first = next(step for step in steps if step.outcome is Outcome.FAILED)
    assert (first.name, first.status, first.setting) == ("secret", CONFIGURATION, "outbound.x.password")
    assert outcomes(steps)[-2:] == [("certificate", "ok"), ("login", "skipped")]
    assert not any(line.startswith("AUTH") for line in server.lines)
    steps, _ = await examined(script, certificates, tmp_path, password=password)
    assert steps[-1].status == CONFIGURATION


@pytest.mark.parametrize(
    ("answers", "name", "status"),
    [
        ({"GREETING": ["554 5.7.1 blocked"]}, "greeting", UNAVAILABLE),
        ({"GREETING": ["421 4.3.2 busy"]}, "greeting", TEMPORARY),
        ({"EHLO": ["550 5.7.1 your name is wrong"]}, "capabilities", UNAVAILABLE),
    ],
)
async def test_refusals_before_the_login(
    context: ssl.SSLContext,
    certificates: Certificates,
    tmp_path: Path,
    answers: dict[str, list[str | Fault]],
    name: str,
    status: int,
) -> None:
    """The step is the one where the server said no."""
    steps, _ = await examined(Script(starttls=context, answers=answers), certificates, tmp_path)
    assert (steps[-1].name, steps[-1].status) == (name, status), steps


async def test_auto_leaves_no_trace(context: ssl.SSLContext, certificates: Certificates, tmp_path: Path) -> None:
    """A diagnosis may run as somebody else than the daemon: it writes no file for it, and tries no second login."""
    script = Script(starttls=context)
    steps, server = await examined(script, certificates, tmp_path, thorough=True, security="auto")
    assert exit_status(steps) == 0, steps
    assert os.listdir(tmp_path) == []
    assert sum(line.startswith("AUTH") for line in server.lines) == 1


async def test_a_brief_look(context: ssl.SSLContext, certificates: Certificates, tmp_path: Path) -> None:
    """It ends with the login, also with "auto", and what fails before that is explained by what the port speaks."""

    async def looked(script: Script, security: str) -> tuple[list[Step], Server]:
        async with serving(script) as server:
            settings = settings_for(server, certificates, tmp_path, security=security)
            assert settings.account is not None
            tokens = Tokens(settings, SystemClock())
            steps = [step async for step in accounts.brief(settings.account, settings, tokens)]
            await asyncio.sleep(0.05)
        return steps, server

    for security in ("starttls", "auto"):
        steps, server = await looked(Script(starttls=context), security)
        assert outcomes(steps) == [("greeting", "ok"), ("capabilities", "warning"), ("login", "ok")]
        assert not any(line.startswith("MAIL") for line in server.lines)
    steps, _ = await looked(Script(starttls=context), "tls")
    assert [(step.name, step.setting) for step in steps] == [("port", "outbound.x.security")]
    steps, _ = await looked(Script(), "auto")
    assert [(step.name, step.setting) for step in steps] == [("tls", "outbound.x.security")]
    assert os.listdir(tmp_path) == []


EVIL = b"\x1b[2J\x1b]0;title\x07\rfailed  outbound.x login: forged\x9b31m\xe2\x80\xae\x00 \xc2\x85"


def _says(answer: bytes) -> Fault:
    async def act(conversation: Conversation) -> None:
        await conversation.say(answer + EVIL + b"\r\n")

    return act


@pytest.mark.parametrize(
    ("answers", "name"),
    [
        ({"GREETING": [_says(b"220 ")]}, ""),
        ({"GREETING": [_says(b"554 ")]}, "greeting"),
        ({"EHLO": [_says(b"250-x\r\n250 AUTH PLAIN ")]}, ""),
        ({"EHLO": [_says(b"550 ")]}, "capabilities"),
        ({"MAIL": [_says(b"550 ")]}, "sender"),
        ({"RCPT": [_says(b"250 ")]}, ""),
        ({"RCPT": [_says(b"550 ")]}, "recipient"),
    ],
)
async def test_nothing_of_the_server_reaches_the_terminal_as_it_is(
    certificates: Certificates, tmp_path: Path, answers: dict[str, list[str | Fault]], name: str
) -> None:
    """Escape sequences and line ends in its words clear no screen and forge no line, in text and in the document."""
    keys = {"security": "none", "auth": "none", "user": "", "password": "", "allow_plaintext": True, "tls": {}}
    steps, _ = await examined(Script(answers=answers), certificates, tmp_path, thorough=True, **keys)
    assert next((step.name for step in steps if step.outcome is Outcome.FAILED), "") == name, steps
    printed = [line for step in steps for line in lines(step)]
    assert any("forged" in line for line in printed)
    assert all(line.isprintable() for line in printed)
    assert not any(line.startswith("failed  outbound.x login") for line in printed)
    assert json.dumps(as_json(steps), ensure_ascii=False, indent=None).isprintable()


@pytest.mark.parametrize(
    ("verb", "name", "words"),
    [
        ("AUTH", "login", "broke off during the login"),
        ("MAIL", "sender", "no answer came"),
        ("RCPT", "recipient", "no answer came"),
    ],
)
@pytest.mark.parametrize("fault", [silence, hang_up])
async def test_silence_is_nobodys_fault_here(
    context: ssl.SSLContext, certificates: Certificates, tmp_path: Path, verb: str, name: str, words: str, fault: Fault
) -> None:
    """A connection that is lost, or an answer that does not come, blames neither password nor address."""
    script = Script(starttls=context, answers={verb: [fault]})
    steps, server = await examined(script, certificates, tmp_path)
    failed = steps[-1]
    assert (failed.name, failed.status, failed.setting) == (name, TEMPORARY, ""), failed
    assert words in failed.cause
    assert sum(line.startswith("AUTH") for line in server.lines) == 1


async def test_a_recipient_that_is_put_off_is_not_to_be_changed(
    context: ssl.SSLContext, certificates: Certificates, tmp_path: Path
) -> None:
    """Greylisting is over by itself."""
    script = Script(starttls=context, answers={"RCPT": ["450 4.7.1 greylisted"]})
    steps, _ = await examined(script, certificates, tmp_path)
    assert (steps[-1].name, steps[-1].setting) == ("recipient", "")
    assert "as the daemon does by itself" in steps[-1].cure


# How long it may take


def test_nobody_is_kept_waiting_as_the_daemon_waits() -> None:
    """Shorter times stay, longer ones are cut: a person waits for the outcome."""
    written: Any = {"x": {"host": "localhost", "connect_timeout": "2s", "command_timeout": "5m"}}
    account = Settings(outbound=written).account
    assert account is not None
    hurried = way.hurried(account)
    assert (hurried.connect_timeout, hurried.command_timeout) == (2.0, 30.0)


async def test_an_examination_ends_in_any_case() -> None:
    """Also where every single answer comes in time; what was seen before stays."""
    ended = False

    async def slow() -> AsyncIterator[Step]:
        nonlocal ended
        try:
            yield Step("outbound.x", "dns", Outcome.OK, "there")
            await asyncio.Event().wait()
        finally:
            ended = True

    steps = [step async for step in way.within(0.05, "outbound.x", slow())]
    assert [(step.name, step.status) for step in steps] == [("dns", 0), ("time", UNAVAILABLE)]
    assert ended


# The rehearsal itself


async def _close(conversation: Conversation) -> None:
    await conversation.close()


@pytest.mark.parametrize(
    ("answers", "sender", "recipient", "extensions", "codes"),
    [
        ({}, SENDER, RECIPIENT, (), [250, 250, 250]),
        ({}, SENDER, "", (), [250, 250]),
        ({"MAIL": ["550 no"]}, SENDER, RECIPIENT, (), [550, 250]),
        ({"RCPT": [_close]}, SENDER, RECIPIENT, (), [250, 0]),
        ({"MAIL": ["nonsense"]}, SENDER, RECIPIENT, (), [0]),
        ({}, SENDER, "ä@example.com", ("SMTPUTF8",), [250, 250, 250]),
    ],
)
async def test_rehearsal(
    answers: dict[str, list[str | Fault]], sender: str, recipient: str, extensions: tuple[str, ...], codes: list[int]
) -> None:
    """An answer for each command, up to the first that did not come; nothing unspeakable is said, and never DATA."""
    async with serving(Script(answers=answers, extensions=extensions)) as server:
        session = await client.connect(Account(server.port, command_timeout=1.0), hello="me")
        try:
            heard = await session.rehearse(sender, recipient)
        finally:
            session.abort()
        await asyncio.sleep(0.05)
        assert [response.code for response in heard] == codes
        assert not any(line.startswith(("DATA", "BDAT")) for line in server.lines)
        if codes[-1] == 250:
            assert heard[-1].stage is Stage.RSET
        if extensions:
            assert f"MAIL FROM:<{sender}> SMTPUTF8" in server.lines or sender == SENDER


@pytest.mark.parametrize(
    ("sender", "recipient", "extensions"),
    [
        ("a b@example.com", RECIPIENT, ()),
        (SENDER, "a@example.com>\r\nDATA", ()),
        ("ä@example.com", RECIPIENT, ()),
        ("\udcff@example.com", RECIPIENT, ("SMTPUTF8",)),
    ],
)
async def test_what_cannot_be_said_is_not_rehearsed(sender: str, recipient: str, extensions: tuple[str, ...]) -> None:
    """Before the server hears anything of it."""
    async with serving(Script(extensions=extensions)) as server:
        session = await client.connect(Account(server.port, command_timeout=1.0), hello="me")
        with pytest.raises(ValueError, match=r"cannot be said|ASCII addresses only"):
            await session.rehearse(sender, recipient)
        session.abort()
        await asyncio.sleep(0.05)
        assert server.lines == ["EHLO me"]


async def test_a_rehearsal_waits_for_a_while_only() -> None:
    """A server that keeps silent is not waited for longer than command_timeout."""

    async def silent(conversation: Conversation) -> None:
        await conversation.line()

    async with serving(Script(answers={"MAIL": [silent]})) as server:
        session = await client.connect(Account(server.port, command_timeout=0.2), hello="me")
        try:
            heard = await session.rehearse(SENDER)
        finally:
            session.abort()
        await asyncio.sleep(0.05)
    assert [str(response) for response in heard] == ["no answer to MAIL within 0.2 s"]
