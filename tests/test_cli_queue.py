"""`mailrelayd queue` without a daemon: whose files there are afterwards."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailrelayd.outbound import queueid
from tests.servers.process import short_directory

QUEUE_ID = queueid.Sequence("test", last=0, reserved=0).take(1_700_000_000.0)[0]
MESSAGE = b"From: a@example.com\r\nTo: b@example.com\r\nSubject: test\r\n\r\ntest\r\n"
UNNAMED = 54321  # a user of another machine or container: no line in passwd


@pytest.fixture
def site() -> Iterator[Path]:
    """A folder with a configuration; the spool and the state are not there yet."""
    with short_directory("mr-queue") as folder:
        text = f'[spool]\ndirectory = "{folder}/spool"\n[state]\ndirectory = "{folder}/state"\n'
        (folder / "mailrelayd.toml").write_text(text)
        yield folder


def queue(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as ourselves, in a process of its own: it may change its user."""
    command = [sys.executable, "-m", "mailrelayd", "--config", str(site / "mailrelayd.toml"), "queue", *arguments]
    return subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=60)


def make_spool(site: Path, uid: int, gid: int) -> Path:
    """What a daemon of this user leaves behind: one message that waits."""
    spool = site / "spool"
    folders = [spool, *(spool / name for name in ("queue", "failed", "sent"))]
    for folder in folders:
        folder.mkdir(mode=0o700)
    (spool / "queue" / f"{QUEUE_ID}.eml").write_bytes(MESSAGE)
    for path in (*folders, spool / "queue" / f"{QUEUE_ID}.eml"):
        os.chown(path, uid, gid)
    return spool


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
@pytest.mark.parametrize("uid", [pwd.getpwnam("nobody").pw_uid, UNNAMED])
def test_what_root_changes_stays_the_daemons(site: Path, uid: int) -> None:
    """A record written by root's command is its daemon's to read, and nothing else is left of root."""
    gid = pwd.getpwnam("nobody").pw_gid
    spool = make_spool(site, uid, gid)
    done = queue(site, "hold", "--json", QUEUE_ID)
    assert (done.returncode, done.stderr) == (os.EX_OK, "")
    assert json.loads(done.stdout) == {"id": QUEUE_ID, "error": ""}
    assert (spool / "queue" / f"{QUEUE_ID}.json").exists()
    assert {(path.stat().st_uid, path.stat().st_gid) for path in (spool, *spool.rglob("*"))} == {(uid, gid)}
    assert sorted(path.name for path in site.iterdir()) == ["mailrelayd.toml", "spool"]


def test_our_own_spool_is_changed_as_ourselves(site: Path) -> None:
    """Whoever owns the queue, root or not, needs to become nobody else."""
    make_spool(site, os.getuid(), os.getgid())
    assert queue(site, "hold", QUEUE_ID).returncode == os.EX_OK
    (entry,) = queue(site, "list", "--json").stdout.splitlines()
    assert json.loads(entry)["queue_name"] == "hold"


@pytest.mark.parametrize("there", [False, True])
def test_without_a_queue_no_verb_makes_one(site: Path, there: bool) -> None:
    """Where no daemon has run there is nothing to change, and nothing is made that the wrong user would own."""
    if there:
        (site / "spool").mkdir()
    before = sorted(site.rglob("*"))
    done = queue(site, "delete", QUEUE_ID)
    assert done.returncode == os.EX_CANTCREAT
    assert "no daemon has run here yet" in done.stderr
    assert sorted(site.rglob("*")) == before
