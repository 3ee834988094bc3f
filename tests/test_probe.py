"""`mailrelayd test`: what is asked for, what is missing for it, and what a smarthost's answers to one mail mean."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mailrelayd.__main__ import main
from mailrelayd.clock import SystemClock
from mailrelayd.config.load import load
from mailrelayd.config.settings import Settings
from mailrelayd.diagnose import mail, smtp
from mailrelayd.diagnose.mail import Letter, Occasion, letter
from mailrelayd.diagnose.steps import Outcome, Step
from mailrelayd.oauth.tokens import Tokens
from tests import scripted_smtp
from tests.scripted_smtp import Script, serving

OCCASION = Occasion("ops\nBcc: x@example.com", "host.example.com", "relay1", "ab" * 32, 1_795_255_200.0)
OUTBOUND = """\
[outbound.smarthost]
host = "127.0.0.1"
port = {port}
security = "none"
allow_plaintext = true
from_address = "noreply@example.com"
command_timeout = "2s"
data_timeout = "2s"
{more}
"""
INBOUND = """\
[inbound.approvals]
host = "127.0.0.1"
port = {port}
security = "none"
user = "approvals"
password = "text:p"
"""


def written(directory: Path, *sections: str) -> Path:
    path = directory / "candidate.toml"
    path.write_text(
        f'[spool]\ndirectory = "{directory}/spool"\n[state]\ndirectory = "{directory}/state"\n' + "\n".join(sections)
    )
    return path


def tried(capsys: pytest.CaptureFixture[str], path: Path, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    status = main(["--config", str(path), "test", "--json", *arguments])
    document = json.loads(capsys.readouterr().out)
    assert document["status"] == status
    return status, document["steps"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--to", "nobody"],
        ["--to", "a@example.com\r\nRCPT TO:<b@example.com>"],
        ["--loop", "--no-send"],
        ["--loop", "--imap"],
        ["--loop", "--to", "a@example.com"],
        ["--imap", "--to", "a@example.com"],
        ["--imap", "--no-send"],
    ],
)
def test_what_does_not_go_together_is_refused(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is read or asked."""
    assert main(["--config", str(tmp_path / "missing.toml"), "test", *arguments]) == os.EX_USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: --")


def test_a_duration_without_a_unit_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """With the accepted forms."""
    with pytest.raises(SystemExit) as ended:
        main(["test", "--loop", "--timeout", "120"])
    assert ended.value.code == os.EX_USAGE
    assert 'such as "200ms"' in capsys.readouterr().err


def test_a_configuration_that_does_not_hold_is_said_as_a_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """78, and the line."""
    path = written(tmp_path, "[outbond.x]\n")
    status, steps = tried(capsys, path)
    assert (status, len(steps)) == (78, 1)
    assert f"{path}:5" in steps[0]["text"]


@pytest.mark.parametrize(
    ("sections", "arguments", "setting"),
    [
        ([], ["--smtp"], "outbound"),
        ([], ["--loop"], "outbound"),
        ([], ["--imap"], "inbound"),
        ([OUTBOUND.format(port=1, more="")], ["--imap"], "inbound"),
        ([OUTBOUND.format(port=1, more="")], ["--loop"], "inbound"),
        ([OUTBOUND.format(port=1, more="")], ["--smtp"], "outbound.smarthost.test_to"),
        (
            [OUTBOUND.format(port=1, more="").replace("from_address", "#")],
            ["--to", "a@example.com"],
            "outbound.smarthost.from_address",
        ),
        ([OUTBOUND.format(port=1, more=""), "[guard]\ndry_run = true"], ["--to", "a@example.com"], "guard.dry_run"),
        (
            [OUTBOUND.format(port=1, more=""), '[guard]\ndeny_recipients = ["*@example.com"]'],
            ["--to", "a@example.com"],
            "guard.deny_recipients",
        ),
        (
            [OUTBOUND.format(port=1, more=""), '[guard]\nallow_recipients = ["*@example.org"]'],
            ["--to", "a@example.com"],
            "guard.allow_recipients",
        ),
        (
            [OUTBOUND.format(port=1, more=""), INBOUND.format(port=1), '[guard]\nredirect_to = "qa@example.org"'],
            ["--loop"],
            "guard.redirect_to",
        ),
    ],
)
def test_what_is_missing_is_named_by_its_key(
    sections: list[str], arguments: list[str], setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """78 each time; no server is asked for anything, and nothing of the state is written."""
    status, steps = tried(capsys, written(tmp_path, *sections), *arguments)
    failed = next(step for step in steps if step["outcome"] == "failed")
    assert (status, failed["setting"]) == (78, setting)
    assert failed["cause"]
    assert failed["cure"]
    assert [path.name for path in tmp_path.iterdir()] == ["candidate.toml"]


def test_a_closed_port_is_looked_into(tmp_path: Path, capsys: pytest.CaptureFixture[str], free_port: Any) -> None:
    """69, as `doctor` says it; the mailboxes are not configured, and that is no failure where nobody asked."""
    path = written(tmp_path, OUTBOUND.format(port=free_port(), more='test_to = "ops@example.com"'))
    status, steps = tried(capsys, path)
    assert (status, steps[-1]["outcome"]) == (69, "skipped")
    assert [step["name"] for step in steps if step["outcome"] == "failed"] == ["tcp"]


def test_the_mail_has_one_header_whoever_writes_it() -> None:
    """Names of users and machines forge no field; the mail is ASCII but for addresses."""
    written = letter(OCCASION, "noreply@example.com", "ops@example.com", "A test.", ("Message-ID: <1@relay1>",))
    header, _, body = written.content.partition(b"\r\n\r\n")
    assert header.split(b"\r\n") == [
        b"Date: Sat, 21 Nov 2026 10:00:00 +0000",
        b"From: noreply@example.com",
        b"To: ops@example.com",
        b"Subject: mailrelayd test from relay1",
        b"Message-ID: <1@relay1>",
        b"Auto-Submitted: auto-generated",
        b"MIME-Version: 1.0",
        b"Content-Type: text/plain; charset=us-ascii",
    ]
    assert b"ops\\nBcc: x@example.com on host.example.com\r\n" in body
    assert b"SHA-256 " + b"ab" * 32 in body
    assert b"\n" not in body.replace(b"\r\n", b"")


async def sent(settings: Settings, sender: str = "noreply@example.com", recipient: str = "ops@example.com") -> Step:
    """The last step."""
    assert settings.account is not None
    tokens = Tokens(settings, SystemClock())
    conversation = mail.sending(settings.account, Letter(b"Subject: test\r\n\r\n.dot\r\n"), sender, recipient)
    *_, last = [step async for step in smtp.examine(settings.account, settings, "relay1", tokens, conversation)]
    return last


@pytest.mark.parametrize(
    ("answers", "name", "status", "key"),
    [
        ({"MAIL": ["550 5.7.1 go away"]}, "sender", 77, "from_address"),
        ({"MAIL": ["451 4.3.0 later"]}, "sender", 75, ""),
        ({"RCPT": ["550 5.1.1 who?"]}, "recipient", 77, "test_to"),
        ({"RCPT": ["450 4.2.0 greylisted"]}, "recipient", 75, ""),
        ({"BODY": ["554 5.6.0 rubbish"]}, "send", 77, "from_address"),
        ({"BODY": ["452 4.3.1 disk full"]}, "send", 75, ""),
        ({"BODY": [scripted_smtp.hang_up]}, "send", 75, ""),
        ({"GREETING": ["554 5.7.1 not you"]}, "greeting", 69, "host"),
    ],
)
async def test_every_refusal_has_its_step_its_status_and_its_key(
    tmp_path: Path, answers: dict[str, list[str | scripted_smtp.Fault]], name: str, status: int, key: str
) -> None:
    """The answer itself is in the text."""
    async with serving(Script(answers)) as server:
        step = await sent(load(written(tmp_path, OUTBOUND.format(port=server.port, more=""))).settings)
    assert (step.name, step.outcome, step.status) == (name, Outcome.FAILED, status)
    assert step.setting == (f"outbound.smarthost.{key}" if key else "")
    (said,) = next(iter(answers.values()))
    assert not isinstance(said, str) or said in step.text
    assert step.cause
    assert step.cure


async def test_a_mail_that_is_taken_shows_the_servers_words(tmp_path: Path) -> None:
    """One transaction, dots stuffed, and QUIT."""
    async with serving(Script({"BODY": ["250 2.0.0 queued as 42"]})) as server:
        step = await sent(load(written(tmp_path, OUTBOUND.format(port=server.port, more=""))).settings)
        lines = server.lines
        bodies = server.bodies
    assert (step.name, step.outcome, step.data["response"]) == ("send", Outcome.OK, "250 2.0.0 queued as 42")
    assert [line for line in lines if line.startswith(("MAIL", "RCPT"))] == [
        "MAIL FROM:<noreply@example.com> SIZE=23",
        "RCPT TO:<ops@example.com>",
    ]
    assert lines[-1] == "QUIT"
    assert bodies == [b"Subject: test\r\n\r\n..dot\r\n"]


async def test_an_address_that_cannot_be_said_is_the_configurations_fault(tmp_path: Path) -> None:
    """The server offers no SMTPUTF8."""
    async with serving(Script(extensions=("8BITMIME",))) as server:
        settings = load(written(tmp_path, OUTBOUND.format(port=server.port, more=""))).settings
        step = await sent(settings, recipient="öps@example.com")
    assert (step.outcome, step.status) == (Outcome.FAILED, 78)
    assert "SMTPUTF8" in step.text
