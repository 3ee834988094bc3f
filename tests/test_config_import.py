"""`mailrelayd config import`: what another instance's accounts change here, and what they may not."""

from __future__ import annotations

import json
import os
import pty
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mailrelayd import durable
from mailrelayd.__main__ import main
from mailrelayd.config import importing
from mailrelayd.config.load import load
from mailrelayd.config.settings import flatten

HERE = """\
# The relay of production.
[node]
name = "prod"

[spool]
directory = "/srv/spool"

# The smarthost.
[outbound.smarthost]
host = "smtp.example.com"   # why
port = 587

# The old one.
[outbound.old]
enabled = false
host = "old.example.com"

# The mailbox.
[inbound.answers]
host = "imap.example.com"
user = "u"
password = "file:/p"
poll_interval = "5m" # often
"""
THERE = """\
[node]
name = "test"
[spool]
directory = "/other"
settle = "5s"
[outbound.smarthost]
host = "smtp.example.net"
port = 587
[outbound.smarthost.tls]
minimum = "1.3"
[inbound.answers]
host = "imap.example.com"
user = "u"
password = "file:/p"
poll_interval = "1m"
[inbound.more]
host = "more.example.com"
user = "u"
password = "hunter2"
[guard]
dry_run = true
"""
AFTER = """\
# The relay of production.
[node]
name = "prod"

[spool]
directory = "/srv/spool"

# The smarthost.
[outbound.smarthost]
host = "smtp.example.net"   # why
port = 587

[outbound.smarthost.tls]
minimum = "1.3"

# The mailbox.
[inbound.answers]
host = "imap.example.com"
user = "u"
password = "file:/p"
poll_interval = "1m" # often

[inbound.more]
host = "more.example.com"
user = "u"
password = "hunter2"
"""


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine's own environment says does not count here."""
    for variable in list(os.environ):
        if variable.upper().startswith("MAILRELAYD__"):
            monkeypatch.delenv(variable)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """This instance's configuration."""
    path = tmp_path / "here" / "mailrelayd.toml"
    path.parent.mkdir()
    path.write_text(HERE)
    path.chmod(0o640)
    return path


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The other instance's."""
    path = tmp_path / "there" / "mailrelayd.toml"
    path.parent.mkdir()
    path.write_text(THERE)
    return path


def bring(here: Path, there: Path, *more: str) -> int:
    """Run the command; its exit status."""
    return main(["--config", str(here), "config", "import", str(there), *more])


def test_accounts_are_changed_where_they_are_written(here: Path, there: Path) -> None:
    """Added, changed key by key, removed; every comment and all the rest stay; the file before is beside it."""
    assert bring(here, there, "--yes") == os.EX_OK
    assert here.read_text() == AFTER
    backup = here.with_name("mailrelayd.toml.bak")
    assert backup.read_text() == HERE
    assert {stat.S_IMODE(path.stat().st_mode) for path in (here, backup)} == {0o640}
    assert sorted(path.name for path in here.parent.iterdir()) == ["mailrelayd.toml", "mailrelayd.toml.bak"]
    assert bring(here, there, "--yes") == os.EX_OK, "and again: nothing to do"
    assert backup.read_text() == HERE


def test_a_folder_is_read_like_its_main_file(here: Path, there: Path) -> None:
    """With its conf.d, as the other instance itself reads it."""
    (there.parent / "conf.d").mkdir()
    (there.parent / "conf.d" / "1.toml").write_text("[outbound.smarthost]\nport = 2525\n")
    assert bring(here, there.parent, "--yes") == os.EX_OK
    assert load(here, {}).settings.outbound["smarthost"].port == 2525


def test_the_differences_are_shown_first(here: Path, there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Key by key, with the file of each; a secret is not shown but pointed out; nothing is written."""
    assert bring(here, there, "--dry-run") == os.EX_OK
    assert capsys.readouterr().out.replace(f"{here.parent}/", "").splitlines() == [
        'change  outbound.smarthost.host = "smtp.example.com" -> "smtp.example.net" (mailrelayd.toml)',
        "add     [outbound.smarthost.tls] (mailrelayd.toml)",
        '          minimum = "1.3"',
        "remove  [outbound.old] (mailrelayd.toml)",
        'change  inbound.answers.poll_interval = "5m" -> "1m" (mailrelayd.toml)',
        "add     [inbound.more] (mailrelayd.toml)",
        '          host = "more.example.com"',
        '          user = "u"',
        '          password = "********"',
        "note    inbound.more.password: the secret itself would stand there",
    ]
    assert here.read_text() == HERE


def test_the_differences_are_shown_as_json(here: Path, there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One object, for programs."""
    here.write_text(HERE.replace('host = "imap', 'protected = true\nhost = "imap'))
    assert bring(here, there, "--dry-run", "--json") == os.EX_OK
    shown = json.loads(capsys.readouterr().out)
    assert shown["kept"] == ["inbound.answers"]
    assert shown["literal_secrets"] == ["inbound.more.password"]
    assert shown["changes"][0] == {
        "key": "outbound.smarthost.host",
        "old": {"outbound.smarthost.host": '"smtp.example.com"'},
        "new": {"outbound.smarthost.host": '"smtp.example.net"'},
        "files": [str(here)],
    }
    assert "hunter2" not in str(shown)


@pytest.mark.parametrize("place", ["file", "environment"])
def test_a_protected_account_is_neither_changed_nor_removed(
    here: Path, there: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Protected is who is protected here; what the other instance protects is its own matter."""
    if place == "file":
        here.write_text(HERE.replace("[outbound.old]\n", "[outbound.old]\nprotected = true\n"))
    else:
        monkeypatch.setenv("MAILRELAYD__OUTBOUND__OLD__PROTECTED", "true")
    there.write_text(THERE.replace("[outbound.smarthost]\n", "[outbound.smarthost]\nprotected = true\n"))
    assert bring(here, there, "--yes") == os.EX_OK
    assert "keep    outbound.old: protected = true here" in capsys.readouterr().out
    outbound = tomllib.loads(here.read_text())["outbound"]
    assert outbound["old"]["host"] == "old.example.com"
    assert "protected" not in outbound["smarthost"]
    assert outbound["smarthost"]["host"] == "smtp.example.net"


def test_an_account_keeps_its_own_protection_key(here: Path, there: Path) -> None:
    """protected = false that is written stays written."""
    here.write_text(HERE.replace("[outbound.smarthost]\n", "[outbound.smarthost]\nprotected = false\n"))
    there.write_text(THERE.replace("[outbound.smarthost]\n", "[outbound.smarthost]\nprotected = true\n"))
    assert bring(here, there, "--yes") == os.EX_OK
    assert tomllib.loads(here.read_text())["outbound"]["smarthost"]["protected"] is False


def test_programs_that_would_run_are_pointed_out(here: Path, there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever imports an account lets its commands run as the daemon."""
    there.write_text(THERE.replace('"hunter2"', '"command:/bin/cat /x"'))
    assert bring(here, there, "--dry-run") == os.EX_OK
    out = capsys.readouterr().out
    assert "note    inbound.more.password: names a program that the daemon would run" in out
    assert 'password = "command:/bin/cat ********"' in out


def test_keep_removes_no_account(here: Path, there: Path) -> None:
    """For a file that holds one account only."""
    there.write_text('[inbound.more]\nenabled = false\nhost = "more.example.com"\n')
    assert bring(here, there, "--yes", "--keep") == os.EX_OK
    assert here.read_text() == HERE + '\n[inbound.more]\nenabled = false\nhost = "more.example.com"\n'


def test_each_key_is_changed_in_the_file_that_decides(here: Path, there: Path) -> None:
    """In conf.d where it stands there; a removed account goes from every file."""
    folder = here.parent / "conf.d"
    folder.mkdir()
    one, two = folder / "1.toml", folder / "2.toml"
    one.write_text('# one\n[outbound.old]\nport = 26\n[inbound.answers]\npoll_interval = "9m"\n')
    two.write_text('# two\n[inbound.answers]\npoll_interval = "8m" # last\n')
    assert bring(here, there, "--yes") == os.EX_OK
    assert one.read_text() == '# one\n[inbound.answers]\npoll_interval = "9m"\n'
    assert two.read_text() == '# two\n[inbound.answers]\npoll_interval = "1m" # last\n'
    assert 'poll_interval = "5m" # often' in here.read_text()
    assert load(here, {}).settings.inbound["answers"].poll_interval == 60
    assert [path.name for path in load(here, {}).files] == ["mailrelayd.toml", "1.toml", "2.toml"], "no .bak is read"


def test_accounts_of_conf_d_get_their_new_neighbours_there(here: Path, there: Path) -> None:
    """A new account stands where the others of its kind do."""
    accounts = here.parent / "conf.d" / "accounts.toml"
    accounts.parent.mkdir()
    begin = HERE.index("# The smarthost.")
    here.write_text(HERE[:begin])
    accounts.write_text(HERE[begin:])
    assert bring(here, there, "--yes") == os.EX_OK
    assert here.read_text() == HERE[:begin]
    assert accounts.read_text() == AFTER[begin:]


def test_all_takes_the_rest_but_not_what_belongs_to_the_machine(here: Path, there: Path) -> None:
    """The node's name, the state and the spool's directory are nobody else's."""
    here.write_text(HERE + '[log]\nlevel = "debug"\n[state]\ndirectory = "/srv/state"\n[pickup.erp]\n')
    there.write_text(THERE + '[state]\ndirectory = "/elsewhere"\n[pickup.crm]\n')
    assert bring(here, there, "--yes", "--all") == os.EX_OK
    result = tomllib.loads(here.read_text())
    assert result["node"] == {"name": "prod"}
    assert result["state"] == {"directory": "/srv/state"}
    assert result["spool"] == {"directory": "/srv/spool", "settle": "5s"}
    assert result["guard"] == {"dry_run": True}
    assert result["pickup"] == {"crm": {}}
    assert result["log"] == {}, "its remarks may stay"


def test_a_commented_file_keeps_its_comments(here: Path, there: Path) -> None:
    """The sample as it is shipped, and then with everything that somebody else had in theirs."""
    sample = (Path(__file__).parents[1] / "config" / "mailrelayd.toml").read_text()
    here.write_text(sample)
    there.write_text(THERE + "[log]\n[retry]\n")
    assert bring(here, there, "--yes", "--all") == os.EX_OK
    after = here.read_text()
    assert after != sample
    assert [line for line in sample.splitlines() if line.startswith("#") and line not in after] == []
    assert len([line for line in after.splitlines() if line.startswith("[log]")]) == 1


def test_without_all_nothing_but_accounts_changes(here: Path, there: Path) -> None:
    """A staging machine's [guard] does not come along by accident."""
    assert bring(here, there, "--yes") == os.EX_OK
    result = tomllib.loads(here.read_text())
    assert result.keys() == {"node", "spool", "outbound", "inbound"}
    assert result["spool"] == {"directory": "/srv/spool"}


@pytest.mark.parametrize(
    ("there_says", "problem"),
    [
        (THERE + '[outbound.second]\nhost = "h"\n', '"smarthost" and "second" are both enabled'),
        (THERE.replace("port = 587", "prot = 587"), 'outbound.smarthost.prot: unknown key; did you mean "port"?'),
        (THERE.replace("port = 587", 'port = "587"'), "outbound.smarthost.port: "),
    ],
)
def test_an_outcome_that_does_not_hold_is_not_written(
    here: Path, there: Path, capsys: pytest.CaptureFixture[str], there_says: str, problem: str
) -> None:
    """It says what would be wrong, and every file is as it was."""
    there.write_text(there_says)
    assert bring(here, there, "--yes") == os.EX_CONFIG
    err = capsys.readouterr().err
    assert "nothing was written" in err
    assert problem in err
    assert here.read_text() == HERE
    assert "hunter2" not in err


def test_what_cannot_be_read_is_told_with_whose_it_is(
    here: Path, there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other file: 65. This one: 78, and first."""
    there.write_text("[node\n")
    assert bring(here, there) == os.EX_DATAERR
    assert f"{there}:1: syntax" in capsys.readouterr().err
    assert bring(here, there.parent / "none.toml") == os.EX_DATAERR
    there.write_text("outbound = 1\n" + THERE[THERE.index("[inbound") :])
    assert bring(here, there, "--yes") == os.EX_DATAERR
    assert "outbound: must be a section" in capsys.readouterr().err
    there.write_text('[project]\nname = "another file altogether"\n')
    assert bring(here, there, "--yes") == os.EX_DATAERR
    assert here.read_text() == HERE, "a wrong file removes no account"
    here.write_text("[node]\nnme = 'x'\n")
    assert bring(here, there) == os.EX_CONFIG
    assert "node.nme" in capsys.readouterr().err


def test_nobody_to_ask_is_no_yes(here: Path, there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a script, --yes is written out."""
    assert bring(here, there) == os.EX_USAGE
    assert "there is nobody to ask" in capsys.readouterr().err
    assert here.read_text() == HERE


@pytest.mark.parametrize(("answer", "after"), [("y\n", AFTER), ("n\n", HERE), ("\n", HERE)])
def test_on_a_terminal_it_asks(here: Path, there: Path, answer: str, after: str) -> None:
    """And only a yes is one."""
    control, terminal = pty.openpty()
    try:
        os.write(control, answer.encode())
        command = [sys.executable, "-m", "mailrelayd", "--config", str(here), "config", "import", str(there)]
        done = subprocess.run(command, stdin=terminal, capture_output=True, text=True, check=False)
    finally:
        os.close(control)
        os.close(terminal)
    assert done.returncode == os.EX_OK, done
    assert "Write this? [y/N] " in done.stdout
    assert here.read_text() == after


def test_a_file_that_changes_meanwhile_is_not_overwritten(here: Path, there: Path) -> None:
    """What somebody else wrote after the differences were shown is not lost."""
    planned = importing.plan(here, there, {}, everything=False, keep=False)
    here.write_text(HERE + "# more\n")
    with pytest.raises(importing.ChangedError):
        importing.carry_out(planned)
    assert here.read_text() == HERE + "# more\n"
    assert [path.name for path in here.parent.iterdir()] == ["mailrelayd.toml"]


def test_owner_mode_and_links_stay(here: Path, there: Path, tmp_path: Path) -> None:
    """A link stays a link, and the file behind it its owner's."""
    real = tmp_path / "real.toml"
    here.rename(real)
    here.symlink_to(real)
    real.chmod(0o604)
    if os.geteuid() == 0:
        os.chown(real, 65534, 65534)
    before = real.stat()
    assert bring(here, there, "--yes") == os.EX_OK
    assert here.is_symlink()
    for path in (real, tmp_path / "real.toml.bak"):
        figures = path.stat()
        assert (figures.st_uid, figures.st_gid, figures.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
    assert real.read_text() == AFTER


def test_a_full_disk_leaves_everything_as_it_was(
    here: Path, there: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is renamed before all of it is on disk."""

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "sync_file", full)
    assert bring(here, there, "--yes") == os.EX_CANTCREAT
    assert "No space left on device" in capsys.readouterr().err
    assert here.read_text() == HERE
    assert [path.name for path in here.parent.iterdir()] == ["mailrelayd.toml"]


def test_a_byte_order_mark_and_windows_line_ends_stay(here: Path, there: Path) -> None:
    """What an editor on Windows wrote is still its own afterwards."""
    here.write_bytes(b"\xef\xbb\xbf" + HERE.replace("\n", "\r\n").encode())
    assert bring(here, there, "--yes") == os.EX_OK
    assert here.read_bytes() == b"\xef\xbb\xbf" + AFTER.replace("\n", "\r\n").encode()


def test_every_secret_key_is_masked(tmp_path: Path) -> None:
    """Whatever is a secret to the settings is one here, by its name alone."""
    text = (
        '[outbound.x]\nhost = "h"\nuser = "u"\npassword = "hunter2"\n[approvals]\nsecret = ["hunter2"]\n'
        'sender_check = "token-only"\nenabled = false\n'
        "[[decisions]]\nname = 'x'\nmatch = '*'\nproducers = ['a']\napprovers = ['*']\nwebhook = 'https://h'\n"
        "secret = 'hunter2'\n"
    )
    path = tmp_path / "mailrelayd.toml"
    path.write_text(text)
    masked = {key for key, value in flatten(load(path, {}).settings, written=True).items() if "********" in str(value)}
    assert {key.rpartition(".")[2] for key in masked} == {"password", "secret"}
    assert {"password", "secret", "client_secret"} == importing.SECRETS
    assert "hunter2" not in importing.shown(("approvals", "secret"), ["hunter2"])
    assert importing.shown(("a", "token_command"), ["/bin/x", "hunter2"]) == '["/bin/x", "********"]'


def test_a_protected_account_takes_nothing_new_from_others(
    here: Path, there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mailbox that logs in as the outbound account would be another one: refused, with what to write."""
    here.write_text(
        '[outbound.a]\nhost = "h.example.com"\nuser = "u"\npassword = "file:/p"\n'
        '[inbound.b]\nprotected = true\nhost = "i.example.com"\n'
    )
    there.write_text('[outbound.a]\nhost = "h.example.com"\nuser = "other"\npassword = "hunter2"\n')
    before = here.read_bytes()
    assert bring(here, there, "--yes") == os.EX_CONFIG
    captured = capsys.readouterr()
    assert "inbound.b: is protected, and takes what would change from elsewhere: write its own user, password" in (
        captured.err
    )
    assert "hunter2" not in captured.out + captured.err
    assert here.read_bytes() == before


def test_a_program_that_a_property_names_is_pointed_out(
    here: Path, there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And its arguments are not shown, whatever the property is called."""
    there.write_text(
        '[outbound.smarthost]\nhost = "h.example.com"\npassword = "file:/p"\n'
        '[outbound.smarthost.properties]\n"mail.smtp.user" = "command:/bin/evil s3cret"\n'
    )
    assert bring(here, there, "--dry-run") == os.EX_OK
    shown = capsys.readouterr().out
    assert "names a program that the daemon would run" in shown
    assert "s3cret" not in shown


def test_an_access_list_stays(here: Path, there: Path) -> None:
    """What the mode shows as the group's rights is its mask: without the list the group would gain them."""
    if shutil.which("setfacl") is None:
        pytest.skip("apt-get install acl")
    if subprocess.run(["setfacl", "-m", "u:1:rw", str(here)], check=False, capture_output=True).returncode:
        pytest.skip("this file system knows no access lists")
    listed = os.getxattr(here, importing.ACL)
    assert bring(here, there, "--yes") == os.EX_OK
    assert os.getxattr(here, importing.ACL) == listed
    assert os.getxattr(f"{here}.bak", importing.ACL) == listed
