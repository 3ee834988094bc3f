"""Secrets: where each kind of reference is fetched, what is refused, and that nothing shows one."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import time
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrelayd.config import secrets
from mailrelayd.config.secrets import Secret, SecretError, describe, malformed, resolve

KEY = "outbound.smarthost.password"
WORD = "hunter2swordfish"


def refusal(reference: str, environ: dict[str, str] | None = None) -> str:
    """Why a reference cannot be resolved; nothing of the secret stands in the whole traceback."""
    with pytest.raises(SecretError) as caught:
        resolve(reference, key=KEY, environ=environ or {"BYTES": WORD + "\udcff"})
    shown = "".join(traceback.format_exception(caught.value, chain=True))
    assert WORD not in str(caught.value)
    assert caught.value.__cause__ is None
    assert "UnicodeDecodeError" not in shown
    text = str(caught.value)
    assert text.startswith(f"{KEY}: ")
    return text.removeprefix(f"{KEY}: ")


def private(folder: Path, content: bytes, mode: int = 0o640) -> Path:
    """A file as `file:` wants it."""
    path = folder / "secret"
    path.write_bytes(content)
    path.chmod(mode)
    return path


# -- where a secret comes from


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        (WORD, WORD),
        ("", ""),
        (f"text:{WORD}", WORD),
        ("text:file:/etc/passwd", "file:/etc/passwd"),
        ("http://not-a-kind", "http://not-a-kind"),
        ("File:/x", "File:/x"),
        ("pass word ü", "pass word ü"),
        ("env:SMTP_PASSWORD", "from the environment"),
    ],
)
def test_a_text_is_itself_and_a_variable_is_looked_up(reference: str, found: str) -> None:
    """Only the five known kinds are references; `text:` hides anything that looks like one."""
    assert resolve(reference, key=KEY, environ={"SMTP_PASSWORD": "from the environment"}) == found
    assert resolve(Secret(reference), key=KEY, environ={"SMTP_PASSWORD": "from the environment"}) == found


@pytest.mark.parametrize(
    ("content", "found"),
    [(b"word", "word"), (b"word\n", "word"), (b"word\r\n", "word"), (b" word ", " word "), ("wörd\n".encode(), "wörd")],
)
def test_a_file_is_read_without_its_one_line_end(tmp_path: Path, content: bytes, found: str) -> None:
    """Editors add one line end; everything else belongs to the secret."""
    assert resolve(f"file:{private(tmp_path, content)}", key=KEY) == found


def test_a_file_is_read_anew_each_time_and_through_symlinks(tmp_path: Path) -> None:
    """A new password needs no restart; mounted secrets are symlinks."""
    path = private(tmp_path, b"one")
    link = tmp_path / "link"
    link.symlink_to(path)
    assert resolve(f"file:{link}", key=KEY) == "one"
    path.write_bytes(b"two")
    assert resolve(f"file:{link}", key=KEY) == "two"


def test_a_credential_is_a_file_in_systemds_directory(tmp_path: Path) -> None:
    """systemd made the directory and its modes; they are not judged."""
    (tmp_path / "smtp.password").write_text(WORD + "\n")
    assert resolve("credential:smtp.password", key=KEY, environ={"CREDENTIALS_DIRECTORY": str(tmp_path)}) == WORD


def test_a_command_gives_the_first_line_it_prints(tmp_path: Path) -> None:
    """Its arguments are split as a shell would, and no shell runs."""
    script = tmp_path / "print it"
    script.write_text('#!/bin/sh\necho "$1"\necho second line\necho noise >&2\n')
    script.chmod(0o755)
    assert resolve(f"command:'{script}' 'two words; $HOME'", key=KEY) == "two words; $HOME"


# -- what is refused


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        (
            "credential:smtp.password",
            "credential:smtp.password: $CREDENTIALS_DIRECTORY is not set: the systemd unit sets it",
        ),
        ("credential:../shadow", "credential:NAME needs a plain file name"),
        ("credential:", "credential:NAME needs a plain file name"),
        ("file:relative", "file:PATH needs an absolute path"),
        ("file:", "file:PATH needs an absolute path"),
        ("file:/no/such\0file", "file:PATH needs an absolute path"),
        ("file:/no/such/file", "file:/no/such/file: there is no such file; create it, or correct the path"),
        ("file:/dev/null", "file:/dev/null: it is not a regular file"),
        ("file:/", "file:/: it is not a regular file"),
        ("env:NOT_SET", "env:NOT_SET: the variable is not set"),
        (f"env:{WORD}-", "env:VAR needs the name of an environment variable"),
        ("command:", "command:ARGV needs a program"),
        ("command:'open", "command:ARGV has a quote or a backslash without its end"),
        ("command:/no/such/program", "command:/no/such/program: cannot be started: No such file"),
        (f"command:false --token {WORD}", "command:false ********: it ended with status 1; run it by hand"),
        ("command:true", "command:true: it is empty"),
        (f"{WORD}\nRCPT TO:<x>", "a line break or a NUL inside a secret is refused"),
        ("env:BYTES", "env:BYTES: it is not UTF-8"),
        (f"text:{WORD}\0", "a line break or a NUL inside a secret is refused"),
        ("text:", "text: it is empty"),
    ],
)
def test_what_cannot_be_had_is_told_with_its_key_and_the_cure(reference: str, problem: str) -> None:
    """Every refusal names the key and what to do, and nothing that may be secret."""
    assert refusal(reference).startswith(problem)


@pytest.mark.parametrize("mode", [0o644, 0o642, 0o641, 0o666])
def test_a_file_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    """A password that everybody reads is none; the cure is one line."""
    path = private(tmp_path, WORD.encode(), mode)
    assert refusal(f"file:{path}") == f"file:{path}: every user of this machine has access to it; chmod 640 {path}"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "it is empty"),
        (b"\n", "it is empty"),
        (WORD.encode() + b"\n\n", "a line break or a NUL"),
        (WORD.encode() + b"\rx", "a line break or a NUL"),
        (WORD.encode() + b"\0", "a line break or a NUL"),
        (WORD.encode() + b"\xff", "it is not UTF-8"),
        (b"x" * (secrets.LIMIT + 1), "it has more than 64 KiB"),
    ],
)
def test_a_file_that_holds_no_secret_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    """Neither an empty password nor a log file nor an injected command reaches the server."""
    path = private(tmp_path, content)
    assert refusal(f"file:{path}").startswith(f"file:{path}: {problem}")


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    """A login must not hang on a file that nobody writes."""
    os.mkfifo(tmp_path / "fifo")
    assert "it is not a regular file" in refusal(f"file:{tmp_path}/fifo")


def test_a_missing_credential_names_the_file_to_make(tmp_path: Path) -> None:
    """The unit may start without any credential file; the login says what is missing."""
    text = refusal("credential:smtp.password", {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert text == (
        "credential:smtp.password: there is no such file; put it into /etc/mailrelayd/credentials/smtp.password "
        "and restart (credentials are copied at start)"
    )


def test_a_credential_is_also_found_under_the_name_that_a_loaded_folder_gives_it(tmp_path: Path) -> None:
    """LoadCredential= of a folder puts its name in front of each file's."""
    (tmp_path / "mailrelayd_smtp.password").write_text("s3cret\n")
    assert resolve("credential:smtp.password", key="k", environ={"CREDENTIALS_DIRECTORY": str(tmp_path)}) == "s3cret"


@pytest.mark.parametrize("command", ["sleep 60", "sh -c 'sleep 60 & exit 0'", "sh -c 'exec >&-; sleep 60'"])
def test_a_command_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """Neither a program that waits nor one that leaves a child behind holds a login up."""
    monkeypatch.setattr(secrets, "COMMAND_SECONDS", 0.3)
    begin = time.monotonic()
    assert "no end after 0.3 seconds" in refusal(f"command:{command}")
    assert time.monotonic() - begin < 5


def test_a_command_that_prints_without_end_is_killed() -> None:
    """What is read is bounded."""
    assert "it printed more than 64 KiB" in refusal("command:yes")


# -- that nothing shows one


def test_a_secret_does_not_show_itself(caplog: pytest.LogCaptureFixture) -> None:
    """repr, str, format, logging, %-formatting and containers show a mask; pickling fails; reveal() tells."""
    secret = Secret(WORD)
    with caplog.at_level(logging.INFO):
        logging.getLogger("test").info("%s %r", secret, {"password": secret})
    shown = [repr(secret), str(secret), f"{secret} {secret!r:>30}", repr([secret]), caplog.text]
    assert all(WORD not in text for text in shown)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(secret, protocol)
    assert not hasattr(secret, "__dict__")
    assert copy.deepcopy(secret).reveal() == copy.copy(secret).reveal() == WORD


def test_secrets_are_compared_by_what_they_hold() -> None:
    """A reload can tell a changed password, and an empty one is false."""
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert hash(Secret("a")) == hash(Secret("a"))
    assert not Secret("")
    assert (str(Secret("")), repr(Secret(""))) == ("", "Secret('')")


@pytest.mark.parametrize(
    ("reference", "shown"),
    [
        (WORD, "********"),
        (f"text:{WORD}", "********"),
        ("", ""),
        ("credential:smtp.password", "credential:smtp.password"),
        ("file:/etc/mailrelayd/smtp.password", "file:/etc/mailrelayd/smtp.password"),
        ("env:SMTP_PASSWORD", "env:SMTP_PASSWORD"),
        ("command:pass", "command:pass"),
        (f"command:vault --token {WORD}", "command:vault ********"),
        (f"command:'{WORD}", "command:********"),
    ],
)
def test_a_reference_is_shown_and_a_secret_is_masked(reference: str, shown: str) -> None:
    """Of a command, the program is shown: its arguments may be secret."""
    assert describe(reference) == describe(Secret(reference)) == shown


@given(st.text())
def test_any_text_is_judged_without_an_exception(text: str) -> None:
    """What the configuration may hold is well-formed or not, and is never a crash."""
    for reference in (text, f"file:{text}", f"command:{text}", f"env:{text}", f"credential:{text}", f"text:{text}"):
        assert malformed(reference) is None or malformed(reference)
        assert isinstance(describe(reference), str)
