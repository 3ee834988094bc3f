"""`mailrelayd doctor` without any server: its arguments, its documents, what it forgets, what `check` prints."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mailrelayd.__main__ import main
from mailrelayd.tlsmemory import NAME, TlsMemory

ACCOUNT = """\
[state]
directory = "{state}"
[outbound.smarthost]
host = "127.0.0.1"
port = 1
security = "{security}"
from_address = "a@example.com"
connect_timeout = "1s"
"""
MAILBOX = """\
[inbound.answers]
host = "127.0.0.1"
port = 1
user = "u@example.org"
password = "env:MAILRELAYD_TEST_PASSWORD"
connect_timeout = "1s"
[inbound.old]
enabled = false
host = "imap.example.com"
user = "u"
password = "env:MAILRELAYD_TEST_PASSWORD"
[approvals]
secret = "text:a secret of the tests, more than thirty-two bytes long"
sender_check = "token-only"
[[decisions]]
name = "erp"
match = "PO-*"
producers = ["erp"]
approvers = ["*@example.com"]
[[decisions]]
name = "hook"
match = "*"
producers = ["erp"]
approvers = ["*@example.com"]
webhook = "https://erp.example.com/hooks?key=hidden"
secret = "text:another secret"
required = false
"""


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in list(os.environ):
        if variable.upper().startswith("MAILRELAYD__") or variable == "CREDENTIALS_DIRECTORY":
            monkeypatch.delenv(variable)
    monkeypatch.setenv("MAILRELAYD_TEST_PASSWORD", "hunter2swordfish")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    path.mkdir()
    return path


def written(folder: Path, text: str, security: str = "none") -> str:
    """The name of a configuration file."""
    path = folder / "mailrelayd.toml"
    path.write_text(text.format(state=folder / "state", security=security))
    path.chmod(0o640)
    return str(path)


def steps(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    out, err = capsys.readouterr()
    assert err == ""
    found: list[dict[str, Any]] = json.loads(out)["steps"]
    return found


def test_a_configuration_that_does_not_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each problem is a failed step, and nobody is connected to."""
    path = written(tmp_path, ACCOUNT + "colour = 1\nconections = 2\n")
    assert main(["--config", path, "doctor", "--json"]) == os.EX_CONFIG
    found = steps(capsys)
    assert [(step["account"], step["outcome"], step["status"]) for step in found] == [
        ("configuration", "failed", os.EX_CONFIG)
    ] * 2
    assert found[0]["text"].startswith(f"{path}:9: ")
    assert main(["--config", path, "doctor"]) == os.EX_CONFIG
    assert capsys.readouterr().out.splitlines()[-1] == "2 of 2 steps failed"


def test_which_accounts(tmp_path: Path, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All that are enabled, or those that are named, also one that is not enabled; an unknown name lists the others."""
    path = written(tmp_path, ACCOUNT + MAILBOX)
    assert main(["--config", path, "doctor", "--json"]) == os.EX_UNAVAILABLE
    accounts = {step["account"] for step in steps(capsys)}
    assert accounts == {"configuration", "outbound.smarthost", "inbound.answers"}
    assert main(["--config", path, "doctor", "--json", "inbound.answers"]) == os.EX_UNAVAILABLE
    found = steps(capsys)
    assert {step["account"] for step in found} == {"configuration", "inbound.answers"}
    failed = next(step for step in found if step["outcome"] == "failed")
    assert failed["setting"] == "inbound.answers.port"
    assert failed["data"]["origin"] == f"{path}:11"
    assert "hunter2swordfish" not in json.dumps(found)
    assert main(["--config", path, "doctor", "nobody"]) == os.EX_DATAERR
    err = capsys.readouterr().err
    assert "outbound.smarthost, inbound.answers, inbound.old" in err


def test_no_account(tmp_path: Path, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing fails, and it is said that nothing happens either."""
    assert main(["--config", written(tmp_path, '[state]\ndirectory = "{state}"\n'), "doctor"]) == os.EX_OK
    out = capsys.readouterr().out
    assert "no account in it is enabled" in out
    assert out.splitlines()[-1] == "nothing failed, 1 warning"


def test_forget_tls(tmp_path: Path, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only what is remembered of the named accounts' servers goes."""
    mine, other = TlsMemory(state, "127.0.0.1"), TlsMemory(state, "other.example.com")
    mine.saw("tls", 465)
    other.saw("tls", 465)
    path = written(tmp_path, ACCOUNT, "auto")
    for remembered in ("is forgotten", "nothing was remembered"):
        assert main(["--config", path, "doctor", "--forget-tls", "--json"]) == os.EX_UNAVAILABLE
        assert remembered in next(step for step in steps(capsys) if step["name"] == "memory")["text"]
    assert mine.best() is None
    assert other.best() == ("tls", 465)


def test_forget_tls_is_the_daemons_users_business(
    tmp_path: Path, state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of somebody else's would stop the daemon: it is refused with the line that works."""
    TlsMemory(state, "127.0.0.1").saw("tls", 465)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert main(["--config", written(tmp_path, ACCOUNT, "auto"), "doctor", "--forget-tls", "--json"]) == os.EX_CONFIG
    failed = next(step for step in steps(capsys) if step["outcome"] == "failed")
    assert failed["cure"].startswith("runuser -u ")
    assert TlsMemory(state, "127.0.0.1").best() == ("tls", 465)


def test_what_was_safer_before(tmp_path: Path, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A damaged tls.json stops the login, as in the daemon; the file stays as it is."""
    (state / NAME).write_bytes(b"{")
    assert main(["--config", written(tmp_path, ACCOUNT, "auto"), "doctor", "--json"]) == os.EX_CONFIG
    failed = next(step for step in steps(capsys) if step["outcome"] == "failed")
    assert (failed["name"], failed["setting"]) == ("memory", "outbound.smarthost.security")
    assert (state / NAME).read_bytes() == b"{"


def test_check_prints_mailboxes_and_sinks(tmp_path: Path, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each account and each sink, disabled ones too, and no secret in any."""
    path = written(tmp_path, ACCOUNT + MAILBOX)
    assert main(["--config", path, "check"]) == os.EX_OK
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "outbound.smarthost: 127.0.0.1:1, none, no login, from a@example.com",
        "inbound.answers: 127.0.0.1:1, tls, login as u@example.org, folder INBOX, then delete",
        "inbound.old: imap.example.com:993, tls, login as u, folder INBOX, then delete, disabled",
        "decisions.erp: PO-*, directory below STATE, asked by erp, of *@example.com",
        "decisions.hook: *, webhook https://erp.example.com/hooks, asked by erp, of *@example.com, not required",
        "ok",
    ]
    assert "inbound.answers.user: its domain example.org is not example.com, where answers go" in err
    assert main(["--config", path, "check", "--json"]) == os.EX_OK
    document = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in document["inbound"]] == ["answers", "old"]
    assert [(one["name"], one["kind"]) for one in document["decisions"]] == [("erp", "directory"), ("hook", "webhook")]
    assert "connect" not in document
    assert "hidden" not in json.dumps(document)


def test_check_connect_needs_a_configuration_first(
    tmp_path: Path, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where something is wrong on paper, nobody is connected to; else the first failure is the exit status."""
    wrong = ACCOUNT.replace("[outbound", "[outbound.other]\nhost = 'x'\n[outbound")
    assert main(["--config", written(tmp_path, wrong), "check", "--connect"]) == os.EX_CONFIG
    assert "tcp" not in capsys.readouterr().out
    assert main(["--config", written(tmp_path, ACCOUNT), "check", "--connect"]) == os.EX_UNAVAILABLE
    out = capsys.readouterr().out
    assert "failed  outbound.smarthost tcp: 127.0.0.1 port 1: connection refused" in out
    assert not out.endswith("ok\n")


@pytest.mark.parametrize(("rewrite", "warned"), [("envelope", True), ("always", False)])
def test_check_warns_of_foreign_senders(
    tmp_path: Path, state: Path, capsys: pytest.CaptureFixture[str], rewrite: str, warned: bool
) -> None:
    """From of another domain than from_address is refused by many servers, unless it is written anew."""
    more = f'rewrite_from = "{rewrite}"\n[pickup.erp]\nallowed_senders = ["@other.test", "@example.com"]\n'
    assert main(["--config", written(tmp_path, ACCOUNT + more), "check"]) == os.EX_OK
    assert ("pickup.erp.allowed_senders: other.test in From" in capsys.readouterr().err) == warned


SILENT = """\
[spool]
directory = "{folder}/spool"
[state]
directory = "{folder}/state"
[outbound.smarthost]
host = "127.0.0.1"
port = {port}
security = "none"
from_address = "a@example.com"
test_to = "b@example.com"
"""
COMMANDS = (["doctor"], ["check", "--connect"], ["test", "--smtp"])


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_interrupted(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C ends it at once with one line; the document is whole, with what was seen so far."""
    ours = os.getpid()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def interrupt() -> None:
            with server.accept()[0]:
                os.kill(ours, signal.SIGINT)

        path = tmp_path / "silent.toml"
        path.write_text(SILENT.format(folder=tmp_path, port=server.getsockname()[1]))
        path.chmod(0o640)
        thread = threading.Thread(target=interrupt)
        thread.start()
        status = main(["--config", str(path), *command, "--json"])
        thread.join(10)
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert (status, document["ok"], document["status"]) == (130, False, 130)
    assert [line for line in err.splitlines() if line.startswith("error")] == ["error: interrupted"]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("output", ["closed", "gone", "full"])
def test_nobody_reads_it(command: list[str], output: str, tmp_path: Path, free_port: Callable[[], int]) -> None:
    """Whatever becomes of the output, the examination goes on to its end, and the exit status is true."""
    path = tmp_path / "candidate.toml"
    path.write_text(SILENT.format(folder=tmp_path, port=free_port()))
    path.chmod(0o640)
    shells = {"closed": '"$@" >&-', "gone": '{ "$@"; echo $? >&2; } | :', "full": '"$@" >/dev/full; echo $? >&2'}
    words = [sys.executable, "-m", "mailrelayd", "--config", str(path), *command]
    done = subprocess.run(["/bin/sh", "-c", shells[output], "sh", *words], capture_output=True, check=False, timeout=60)
    assert b"Traceback" not in done.stderr
    status = done.returncode if output == "closed" else int(done.stderr.splitlines()[-1])
    assert status == os.EX_UNAVAILABLE, done
