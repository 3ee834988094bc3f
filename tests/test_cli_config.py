"""`mailrelayd check` and `mailrelayd config show`, as a user sees them."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mailrelayd.__main__ import main
from mailrelayd.cli import check, config

ACCOUNT = '[outbound.smarthost]\nhost = "smtp.example.com"\n'
TOKENS = ACCOUNT + 'user = "u"\noauth.tenant_id = "t"\noauth.client_id = "c"\n'
SINK = (
    '[[decisions]]\nname = "a"\nmatch = "*"\nproducers = ["a"]\napprovers = ["@b.c"]\nwebhook = "https://a.example/"\n'
)
LITERAL = "hunter2swordfish"
WEBHOOK = "whsec_aHVudGVyMnN3b3JkZmlzaGh1bnRlcjI="  # hunter2swordfishhunter2


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine's own environment says does not count here."""
    for variable in list(os.environ):
        if variable.upper().startswith("MAILRELAYD__") or variable == "CREDENTIALS_DIRECTORY":
            monkeypatch.delenv(variable)


def call(*argv: str) -> int:
    """Run one of the two commands; its exit status."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", type=Path, default=argparse.SUPPRESS)
    top = argparse.ArgumentParser(parents=[common])
    commands = top.add_subparsers()
    check.register(commands, common)
    config.register(commands, common)
    arguments = top.parse_args(argv)
    return int(arguments.run(arguments))


def written(folder: Path, text: str) -> str:
    """The name of a configuration file nobody else may read."""
    path = folder / "mailrelayd.toml"
    path.write_text(text)
    path.chmod(0o640)
    return str(path)


def secret_file(folder: Path) -> Path:
    """A password's file as it should be."""
    path = folder / "password"
    path.write_text("hunter2swordfish\n")
    path.chmod(0o600)
    return path


def test_check_prints_one_line_per_account_and_ok(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The line says where to, how, as whom."""
    text = (
        f'{ACCOUNT}user = "relay@example.com"\npassword = "file:{secret_file(tmp_path)}"\n'
        'from_address = "a@example.com"\n'
        '[outbound.old]\nenabled = false\nhost = "2001:db8::1"\nsecurity = "auto"\n'
    )
    assert call("check", "--config", written(tmp_path, text)) == os.EX_OK
    out, err = capsys.readouterr()
    assert out == (
        "outbound.smarthost: smtp.example.com:587, starttls, login as relay@example.com, from a@example.com\n"
        "outbound.old: [2001:db8::1]:465/587/25, auto, no login, disabled\n"
        "ok\n"
    )
    assert err == ""


def test_check_tells_every_problem_and_one_hint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each on a line of its own on stderr; the status is EX_CONFIG."""
    path = written(tmp_path, "[spool]\nsetle = '1s'\n[outbound.x]\nport = 0\n")
    assert call("check", "--config", path) == os.EX_CONFIG
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(": ")[0:3] for line in err.splitlines()[:-1]] == [
        ["error", f"{path}:2", "spool.setle"],
        ["error", f"{path}:3", "outbound.x.host"],
        ["error", f"{path}:4", "outbound.x.port"],
    ]
    assert err.splitlines()[-1].startswith("hint: ")


def test_check_reports_secrets_that_cannot_be_had(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing file is found now and not at the first login."""
    path = written(tmp_path, f'{ACCOUNT}user = "env:MAILRELAYD_TEST_UNSET"\npassword = "file:{tmp_path}/none"\n')
    assert call("check", "--config", path) == os.EX_CONFIG
    assert capsys.readouterr().err.splitlines()[:2] == [
        f"error: {path}:3: outbound.smarthost.user: env:MAILRELAYD_TEST_UNSET: the variable is not set; "
        "set it where the daemon is started",
        f"error: {path}:4: outbound.smarthost.password: file:{tmp_path}/none: there is no such file; "
        "create it, or correct the path",
    ]


def test_check_notes_what_it_cannot_look_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Credentials exist under systemd only, and commands are not run for a check."""
    text = f'{ACCOUNT}user = "command:echo relay"\npassword = "credential:smtp.password"\n'
    assert call("check", "--config", written(tmp_path, text)) == os.EX_OK
    assert capsys.readouterr().err.splitlines() == [
        "note: outbound.smarthost.user: command:echo ******** is not run here; the daemon runs it at each login",
        "note: outbound.smarthost.password: credential:smtp.password is known only under systemd; not looked at",
    ]


def test_check_looks_for_a_credential_where_there_are_some(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With $CREDENTIALS_DIRECTORY set, a missing one is an error; so is a command's missing program."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    text = f'{ACCOUNT}user = "command:/no/such/program x"\npassword = "credential:smtp.password"\n'
    assert call("check", "--config", written(tmp_path, text)) == os.EX_CONFIG
    err = capsys.readouterr().err
    assert "outbound.smarthost.user: the program /no/such/program cannot be found" in err
    assert "put it into /etc/mailrelayd/credentials/smtp.password" in err


@pytest.mark.parametrize(
    ("lines", "warning"),
    [
        (
            'user = "u@example.org"\nfrom_address = "a@example.com"\n',
            "its domain example.com is not the user's example.org",
        ),
        ("tls.verify = false\n", "outbound.smarthost.tls.verify: is false: any server may pose"),
        ('tls.minimum = "1.0"\n', "outbound.smarthost.tls.minimum: TLS 1.0 is broken (RFC 8996)"),
        ('security = "none"\n', "travels in clear"),
        ('security = "none"\ntls.minimum = "1.3"\n', "outbound.smarthost.tls: is not used"),
        ('security = "auto"\nallow_plaintext = true\n', "where the server offers no TLS"),
        ("allow_plaintext = true\n", "outbound.smarthost.allow_plaintext: has no effect"),
        ("port = 465\n", 'outbound.smarthost.port: 465 is usually security = "tls", not "starttls"'),
        ('auth = "none"\nuser = "u"\n', "user and password are not used"),
    ],
)
def test_check_warns_of_what_was_perhaps_not_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: str, warning: str
) -> None:
    """A warning changes nothing about the status."""
    if "user" in lines and "auth" not in lines:
        lines += f'password = "file:{secret_file(tmp_path)}"\n'
    assert call("check", "--config", written(tmp_path, ACCOUNT + lines)) == os.EX_OK
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert any(warning in line for line in warnings)


@pytest.mark.parametrize(
    ("mode", "cure"),
    [
        (0o644, "which every user may read: chgrp it to the daemon's group and chmod 640 "),
        (0o640, 'write "file:PATH"'),
    ],
)
@pytest.mark.parametrize(
    ("key", "lines"),
    [
        ("outbound.smarthost.password", f'{ACCOUNT}user = "u"\npassword = "{LITERAL}"\n'),
        ("outbound.smarthost.oauth.client_secret", f'{TOKENS}oauth.client_secret = "{LITERAL}"\n'),
        ("inbound.in.password", f'{ACCOUNT}[inbound.in]\nhost = "a"\nuser = "u"\npassword = "{LITERAL}"\n'),
        ("decisions[1].secret", f'{SINK}secret = "{WEBHOOK}"\n'),
    ],
)
def test_check_warns_of_a_secret_in_the_file_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: int, cure: str, key: str, lines: str
) -> None:
    """Above all where everybody may read the file; the secret is not in the warning, and it is told once."""
    path = written(tmp_path, lines)
    Path(path).chmod(mode)
    call("check", "--config", path)
    out, err = capsys.readouterr()
    (warning,) = [line for line in err.splitlines() if "the secret itself" in line]
    assert warning.startswith(f"warning: {key}: ")
    assert cure in warning
    assert LITERAL not in out + err
    assert WEBHOOK not in out + err


@pytest.mark.parametrize(("days", "said"), [(31, ""), (30, "in 30 days"), (0, "today"), (-2, "has expired")])
def test_check_warns_of_a_client_secret_that_expires(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], days: int, said: str
) -> None:
    """As the daemon does, for whoever looks before it says so; once, also where a mailbox inherits it."""
    day = datetime.now(UTC).date() + timedelta(days=days)
    secret = f'oauth.client_secret = "env:NONE"\noauth.client_secret_expires = {day}\n'
    call("check", "--config", written(tmp_path, f'{TOKENS}{secret}[inbound.in]\nhost = "a"\n'))
    told = [line for line in capsys.readouterr().err.splitlines() if "client_secret_expires" in line]
    assert len(told) == bool(said)
    assert all(line.startswith("warning: outbound.smarthost.oauth.") and said in line for line in told)


def test_check_says_that_files_wait_without_an_account(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No account is no error."""
    assert call("check", "--config", written(tmp_path, "")) == os.EX_OK
    assert capsys.readouterr() == ("ok\n", "note: no outbound account is enabled: files wait in the spool\n")


@pytest.mark.parametrize(("text", "status"), [(ACCOUNT, os.EX_OK), (ACCOUNT + "port = 0\n", os.EX_CONFIG)])
def test_check_speaks_json(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, status: int) -> None:
    """One object with the verdict, also where it is no."""
    path = written(tmp_path, text)
    assert call("check", "--json", "--config", path) == status
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["ok"] is (status == os.EX_OK)
    assert bool(verdict["errors"]) is not verdict["ok"]
    if verdict["ok"]:
        assert verdict["files"] == [path]
        assert verdict["accounts"][0]["ports"] == [587]


def test_config_show_prints_every_key_with_its_origin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values as the file would write them, secrets masked, and the line, the variable or `default` behind each."""
    monkeypatch.setenv("MAILRELAYD__LOG__LEVEL", "debug")
    path = written(
        tmp_path, f'{ACCOUNT}user = "u"\npassword = "hunter2swordfish"\ntls.key = "/k"\ntls.certificate = "/c"\n'
    )
    assert call("config", "show", "--config", path) == os.EX_OK
    out = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert f'outbound.smarthost.host = "smtp.example.com" # {path}:2' in lines
    assert f'outbound.smarthost.password = "********" # {path}:4' in lines
    assert "outbound.smarthost.port = 587 # default" in lines
    assert 'log.level = "debug" # environment MAILRELAYD__LOG__LEVEL' in lines
    assert 'spool.settle = "2s" # default' in lines
    assert "log.protocol_debug = false # default" in lines
    assert 'retry.message = ["30s", "1m", "2m", "5m", "10m", "30m", "1h"] # default' in lines
    assert "hunter2swordfish" not in out


def test_what_config_show_prints_is_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its lines can be pasted into a file, and mean the same there."""
    text = (
        f'{ACCOUNT}user = "u"\npassword = "file:{secret_file(tmp_path)}"\nsecurity = "auto"\n[retry]\nprobe = "90s"\n'
    )
    assert call("config", "show", "--json", "--config", written(tmp_path, text)) == os.EX_OK
    first = {key: shown["value"] for key, shown in json.loads(capsys.readouterr().out).items()}
    assert call("config", "show", "--config", written(tmp_path, text)) == os.EX_OK
    again = written(tmp_path, capsys.readouterr().out)
    assert call("config", "show", "--json", "--config", again) == os.EX_OK
    assert {key: shown["value"] for key, shown in json.loads(capsys.readouterr().out).items()} == first


def test_config_show_refuses_what_check_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A configuration that does not hold is not in force anywhere."""
    assert call("config", "show", "--config", written(tmp_path, "x = 1\n")) == os.EX_CONFIG
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("argv", [["import mailrelayd.cli.check, mailrelayd.cli.config, mailrelayd.config.secrets"]])
def test_the_commands_are_registered_without_pydantic(argv: Sequence[str]) -> None:
    """It takes half a second to import, which no other command should pay."""
    program = f"{argv[0]}; import sys; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_check_looks_at_the_secrets_of_the_approval_loop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The mailbox's password, the key of the tokens, a webhook's secret: each with its line."""
    configuration = tmp_path / "mailrelayd.toml"
    configuration.write_text(
        "[inbound.answers]\nhost = 'i'\nuser = 'u'\npassword = 'file:/no/such'\n"
        "[approvals]\nreply_address = 'a@example.com'\nsender_check = 'token-only'\nsecret = 'text:short'\n"
        "[[decisions]]\nname = 'x'\nmatch = '*'\nproducers = ['a']\napprovers = ['*']\n"
        "webhook = 'https://h/x'\nsecret = 'env:NO_SUCH_VARIABLE'\n"
    )
    assert main(["--config", str(configuration), "check"]) == os.EX_CONFIG
    said = capsys.readouterr().err
    assert ":4: inbound.answers.password: " in said
    assert ":8: approvals.secret: has fewer than 32 bytes" in said
    assert ":15: decisions[1].secret: " in said
    assert "whoever gets hold of a copy may decide" in said


@pytest.mark.parametrize(
    ("guard", "said"),
    [
        ("dry_run = true", "note: guard.dry_run: is true: nothing is sent"),
        ("redirect_to = 'a@example.com'", "note: guard.redirect_to: every mail goes to a@example.com"),
        ("dry_run = false", ""),
    ],
)
def test_check_says_that_this_machine_sends_to_nobody_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], guard: str, said: str
) -> None:
    """A staging machine's [guard], copied to another one, is no silent accident."""
    configuration = tmp_path / "mailrelayd.toml"
    configuration.write_text(f"[guard]\n{guard}\n")
    assert main(["--config", str(configuration), "check"]) == os.EX_OK
    notes = [line for line in capsys.readouterr().err.splitlines() if "guard" in line]
    assert [note[: len(said)] for note in notes] == ([said] if said else [])


def test_config_show_says_whose_key_counts_where_one_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mailbox's login is the outbound account's: the key that says it, and its line."""
    path = written(tmp_path, f'{ACCOUNT}user = "u"\npassword = "file:/p"\n[inbound.answers]\nhost = "i"\n')
    assert call("config", "show", "--config", path) == os.EX_OK
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert f'inbound.answers.user = "u" # as outbound.smarthost.user, {path}:3' in lines


def test_config_show_names_the_line_of_a_property(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a property means is a key like any other."""
    path = written(tmp_path, f'{ACCOUNT}[outbound.smarthost.properties]\n"mail.smtp.ssl.enable" = "true"\n')
    assert call("config", "show", "--config", path) == os.EX_OK
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert f'outbound.smarthost.security = "tls" # {path}:4' in lines
    assert not any(".properties" in line for line in lines)


def test_import_properties_prints_an_account_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a file or standard input, under the name that is asked for, with the variables that are given."""
    text = tmp_path / "mail.properties"
    text.write_text(
        "PROTOCOL=imap\nmail.${{PROTOCOL}}.host=${{IMAP_HOST_NAME}}\nmail.${{PROTOCOL}}.ssl.enable=true\n"
        "mail.${{PROTOCOL}}.user=answers@example.com\n"
    )
    given = ("--name", "answers", "--set", "IMAP_HOST_NAME=imap.example.com")
    assert call("config", "import-properties", str(text), *given) == os.EX_OK
    out = capsys.readouterr().out
    assert out.startswith("[inbound.answers]\n")
    assert call("check", "--config", written(tmp_path, out)) == os.EX_OK
    assert "error" not in capsys.readouterr().err
    assert call("config", "show", "--json", "--config", written(tmp_path, out)) == os.EX_OK
    shown = json.loads(capsys.readouterr().out)
    assert shown["inbound.answers.host"]["value"] == "imap.example.com"
    assert shown["inbound.answers.password"]["value"] == "credential:answers.password"
    command = [sys.executable, "-m", "mailrelayd", "config", "import-properties", "-", *given]
    done = subprocess.run(command, input=text.read_bytes(), capture_output=True, check=True)
    assert done.stdout.decode() == out


@pytest.mark.parametrize(
    ("content", "arguments", "status", "said"),
    [
        (b"mail.smtp.port=x\n", (), os.EX_DATAERR, "p:1: mail.smtp.port: must be a port"),
        (b"\nmail.smtp.host=a b\n", (), os.EX_DATAERR, "p:2: outbound.imported.host: must be a host name"),
        (b"hello\n", (), os.EX_DATAERR, "p:1: nothing here begins with mail.smtp or mail.imap"),
        (b"\0" * (1 << 20 | 1), (), os.EX_DATAERR, "p: has more than 1 MiB"),
        (b"mail.smtp.user=caf\xe9\nmail.smtp.port=0\n", (), os.EX_DATAERR, "p:2: mail.smtp.port: "),
        (b"mail.host=h\n", ("--direction", "in"), os.EX_OK, ""),
        (
            b"mail.smtp.host=h\n",
            ("--set", "HOSTS=x"),
            os.EX_USAGE,
            "--set takes VARIABLE=VALUE, with one of P",
        ),
        (b"mail.smtp.host=h\n", ("--set", "HOST"), os.EX_USAGE, "--set takes VARIABLE=VALUE"),
        (b"mail.smtp.host=h\n", ("--name", "a b"), os.EX_USAGE, "--name 'a b' is no usable name"),
        (None, (), os.EX_NOINPUT, "p: No such file"),
    ],
)
def test_import_properties_says_what_is_wrong_and_where(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
    arguments: Sequence[str],
    status: int,
    said: str,
) -> None:
    """By line of the text, and nothing is printed that could be taken for a result."""
    path = tmp_path / "p"
    if content is not None:
        path.write_bytes(content)
    assert call("config", "import-properties", str(path), *arguments) == status
    out, err = capsys.readouterr()
    assert said in err.replace(f"{tmp_path}/", "")
    assert bool(out) is (status == os.EX_OK)
