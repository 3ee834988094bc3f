"""`mailrelayd completion`: what a shell offers, asked of a real bash; and what --help says of every command."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest

from mailrelayd.cli.commandline import parser
from mailrelayd.cli.completion import SHELLS
from mailrelayd.outbound import queueid
from tests.servers.process import short_directory

QUEUE_ID = queueid.Sequence("test", last=0).take(1_700_000_000.0)[0]
OF_ITS_OWN = {"mailrelayd sendmail"}  # sendmail(1) is its manual: what its callers pass is not ours to explain
NO_EXAMPLES = {f"mailrelayd {name}" for name in ("run", "check", "config show", "spool explain", "reload", "demo")}


def mailrelayd(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mailrelayd", *arguments]
    return subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def script() -> str:
    """What `mailrelayd completion bash` prints."""
    done = mailrelayd("completion", "bash")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def offered(script: str, *words: str, environment: dict[str, str] | None = None) -> list[str]:
    """What bash offers for the last of these words, by the function that the script says is to be asked."""
    asked = f"""\
COMP_WORDS=({shlex.join(words)})
COMP_CWORD={len(words) - 1}
COMP_LINE={shlex.quote(shlex.join(words))}
COMP_POINT=${{#COMP_LINE}}
complete -p mailrelayd >/dev/null || exit 1
ask=$(complete -p mailrelayd | sed -n 's/.*-F \\([^ ]*\\).*/\\1/p')
$ask mailrelayd {shlex.quote(words[-1])} {shlex.quote(words[-2])}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    bash = ["bash", "--norc", "-c", f'source <(printf %s "$SCRIPT")\n{asked}']
    variables = {"PATH": os.environ["PATH"], "SCRIPT": script, **(environment or {})}
    done = subprocess.run(bash, cwd="/", env=variables, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["qu"], {"queue"}),
        (["queue", "re"], {"release", "retry"}),
        (["queue", "ex"], {"explain"}),
        (["queue", "delete", "--o"], {"--older-than"}),
        (["queue", "delete", "--older-than", "2h", "--fa"], {"--failed"}),
        (["status", "--j"], {"--json"}),
        (["--config", "/etc/passw"], {"/etc/passwd"}),
        (["completion", ""], {"bash", "zsh", "fish"}),
    ],
)
def test_bash_offers(script: str, words: list[str], expected: set[str]) -> None:
    """Commands, verbs, options, files, choices: at least what is expected, and only what fits."""
    found = set(offered(script, "mailrelayd", *words))
    assert expected <= found
    assert all(one.startswith(words[-1]) for one in found)


def test_bash_offers_the_ids_in_the_queue(script: str) -> None:
    """An id is asked of the queue at that moment; where nobody may read it, nothing is offered and nothing said."""
    with short_directory("mr-complete") as folder:
        for name in ("queue", "failed", "sent"):
            (folder / name).mkdir()
        (folder / "queue" / f"{QUEUE_ID}.eml").write_bytes(b"From: a@example.com\r\nTo: b@example.com\r\n\r\n")
        configuration = folder / "mailrelayd.toml"
        configuration.write_text(f'[spool]\ndirectory = "{folder}"\n[state]\ndirectory = "{folder}"\n')
        program = folder / "mailrelayd"
        command = shlex.join([sys.executable, "-m", "mailrelayd", "--config", str(configuration)])
        program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        program.chmod(0o755)
        environment = {"PATH": f"{folder}:{os.environ['PATH']}"}
        assert offered(script, "mailrelayd", "queue", "hold", "", environment=environment) == [QUEUE_ID]
        assert offered(script, "mailrelayd", "queue", "show", QUEUE_ID[:4], environment=environment) == [QUEUE_ID]
        configuration.unlink()
        assert offered(script, "mailrelayd", "queue", "show", "", environment=environment) == []


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_gets_a_script_that_knows_every_command(shell: str) -> None:
    """The scripts are made from the command line itself."""
    done = mailrelayd("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    names = {name for _, command in commands() for name in command.prog.split()[1:]}
    assert [name for name in names if name not in done.stdout] == []


def test_another_shell_is_a_usage_error() -> None:
    """With the ones that are known."""
    done = mailrelayd("completion", "cmd.exe")
    assert done.returncode == os.EX_USAGE
    assert "fish" in done.stderr


def commands(of: argparse.ArgumentParser | None = None) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """(its one line in the list, its parser) of every command and every verb."""
    for action in (of or parser())._actions:
        if isinstance(action, argparse._SubParsersAction):
            lines = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, command in action.choices.items():
                yield lines.get(name, ""), command
                yield from commands(command)


def test_every_command_says_what_it_does() -> None:
    """One line in the list, a description of its own, and help for each option; examples where they tell more."""
    found = list(commands())
    assert len(found) > 15
    assert [fault for line, command in found for fault in faults(line, command)] == []


def faults(line: str, command: argparse.ArgumentParser) -> Iterator[str]:
    """What a command leaves unsaid."""
    if not line:
        yield f"{command.prog}: no line in the list"
    if command.prog in OF_ITS_OWN or any(isinstance(action, argparse._SubParsersAction) for action in command._actions):
        return
    if not (command.description or command.epilog):
        yield f"{command.prog}: no description"
    if "mailrelayd " not in f"{command.epilog}" and command.prog not in NO_EXAMPLES:
        yield f"{command.prog}: no example"
    for action in command._actions:
        if not action.help and not (action.metavar in ("ID", "FILE") and not action.option_strings):
            yield f"{command.prog}: nothing about {action.dest}"


def test_help_is_what_somebody_from_postfix_looks_for() -> None:
    """The commands they know by heart stand in `queue --help`, each with ours beside it."""
    done = mailrelayd("queue", "--help")
    for theirs in ("postqueue -p", "postqueue -j", "postqueue -f", "postsuper -d", "postsuper -h", "postcat", "qshape"):
        assert theirs in done.stdout


def test_asking_for_help_imports_nothing_heavy() -> None:
    """What only some commands need is imported when they run: help answers at once."""
    code = "import sys; from mailrelayd.cli.commandline import parser; parser(); print(sorted(sys.modules))"
    modules = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, timeout=60).stdout
    assert "mailrelayd.cli.queue" in modules
    for heavy in ("pydantic", "structlog", "aiosmtplib", "shtab"):
        assert f"'{heavy}'" not in modules


def test_the_manual_page_of_each_command_fits_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """No line of any --help is wider than the narrowest terminal in use: 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    wide = [
        (command.prog, line)
        for _, command in commands()
        for line in command.format_help().splitlines()
        if len(line) > 80
    ]
    assert wide == []
