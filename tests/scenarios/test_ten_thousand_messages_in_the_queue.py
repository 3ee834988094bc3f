"""The smarthost is away and 10,000 messages wait: they are listed, chosen, held, released, given up and deleted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mailrelayd.outbound import queueid
from tests.servers.daemon import Daemon, StartDaemon, account

MANY = 10_000
SENDERS = 5
SHARE = MANY // SENDERS
SECONDS = 60.0  # that one command may take, on a machine that has other things to do
ARRIVED = 1_790_000_000.0


def message(number: int) -> bytes:
    """From one of five senders to one of ten recipients."""
    return (
        f"From: s{number % SENDERS}@example.com\r\nTo: r{number % 10}@dest{number % 2}.test\r\n"
        f"Message-ID: <{number}@producer.test>\r\nSubject: a subject\r\n\r\ntext\r\n"
    ).encode()


@pytest.fixture
def ids(spool_dir: Path) -> list[str]:
    """What a daemon of an ordinary user left in its queue."""
    queue = spool_dir / "queue"
    for folder in (queue, spool_dir / "failed", spool_dir / "sent"):
        folder.mkdir(mode=0o700)
        account().own(folder)
    sequence = queueid.Sequence("relay1", last=0)
    made = []
    for number in range(MANY):
        queue_id, _ = sequence.take(ARRIVED + number)
        made.append(queue_id)
        path = queue / f"{queue_id}.eml"
        path.write_bytes(message(number))
        account().own(path)
    return made


@pytest.fixture
def stopped(
    ids: list[str], daemon: StartDaemon, spool_dir: Path, state_dir: Path, free_port: Callable[[], int]
) -> Daemon:
    """A daemon whose smarthost is not there; it does not run yet."""
    for name in ("", "tmp", "new"):
        path = spool_dir / "pickup" / name
        path.mkdir()
        path.chmod(0o3730)
        account().own(path)
    return daemon(
        f'[node]\nname = "relay1"\n[spool]\ndirectory = "{spool_dir}"\n[state]\ndirectory = "{state_dir}"\n'
        f'[outbound.smarthost]\nhost = "127.0.0.1"\nport = {free_port()}\nsecurity = "none"\nallow_plaintext = true\n',
        start=False,
    )


def said(daemon: Daemon, *arguments: str, stdin: bytes = b"", status: int = 0) -> str:
    """What `mailrelayd queue` prints for people; what it says on standard error where that is not 0."""
    done = daemon.command("queue", *arguments, stdin=stdin, seconds=SECONDS)
    assert done.returncode == status, done
    assert b"Traceback" not in done.stderr, done
    return (done.stdout if status == 0 else done.stderr).decode()


def listed(daemon: Daemon, *arguments: str) -> list[dict[str, Any]]:
    """What it prints for programs."""
    return [json.loads(line) for line in said(daemon, *arguments, "--json").splitlines()]


def queue_ids(daemon: Daemon, *arguments: str) -> list[str]:
    return [entry["queue_id"] for entry in listed(daemon, "list", *arguments)]


@pytest.mark.timeout(400)
def test_with_the_daemon_running(stopped: Daemon, ids: list[str], spool_dir: Path) -> None:
    """Everything that a person or a script does with a long queue while the smarthost is away."""
    running = stopped.start().wait_ready()
    running.wait_for_event("route.down")
    look(running, ids, reason="connection refused")
    act(running, ids)
    assert len(running.events("message.failed", reason="by-hand")) == SHARE
    for verb in ("hold", "release", "fail", "retry", "delete"):
        assert len(running.events("queue.changed", verb=verb)) >= SHARE, verb
    assert running.stop() == 0, running.log()[-3000:]
    left = sorted(path.stem for path in (spool_dir / "queue").glob("*.eml"))
    assert left == sorted(set(ids) - set(ids[2::SENDERS]) - set(ids[3::SENDERS]))


@pytest.mark.timeout(400)
def test_with_the_daemon_stopped(stopped: Daemon, ids: list[str], spool_dir: Path) -> None:
    """The same from the files alone, as the daemon's user or as root, and the daemon finds what was left."""
    look(stopped, ids, reason="its turn has come")
    everything = f"{MANY} messages are on hold\n"
    if os.geteuid() == 0:
        command = [sys.executable, "-m", "mailrelayd", "--config", str(stopped.configuration), "queue", "hold", "ALL"]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=SECONDS)
        assert (done.returncode, done.stdout, done.stderr) == (0, everything, "")
        assert {path.stat().st_uid for path in (spool_dir / "queue").iterdir()} == {account().uid}
    else:
        assert said(stopped, "hold", "ALL") == everything
    assert f"{SHARE} messages were released" in said(stopped, "release", "--from", "s1@example.com")
    running = stopped.start().wait_ready()
    assert queue_ids(running, "--hold") == sorted(set(ids) - set(ids[1::SENDERS]))
    assert running.stop() == 0, running.log()[-3000:]


def look(daemon: Daemon, ids: list[str], *, reason: str) -> None:
    """list and its filters, --shape, cat, show and explain."""
    entries = listed(daemon, "list")
    assert [entry["queue_id"] for entry in entries] == ids
    assert (
        queue_ids(daemon, "--from", "S1@example.com", "--to", "@dest0.test", "--reason", reason.upper()) == ids[6::10]
    )
    assert queue_ids(daemon, "--older-than", "36500d") == []
    assert f"{MANY // 10} of those that wait" in said(daemon, "--reason", reason, "--to", "r1@dest1.test")
    total, row = listed(daemon, "--shape")
    assert (total["total"], row["total"]) == (MANY, MANY)
    assert reason in row["reason"]
    assert said(daemon, "cat", "--header", ids[7]) == message(7).decode().removesuffix("text\r\n")
    assert ids[7] in said(daemon, "explain", ids[7])
    assert listed(daemon, "show", ids[7]) == [entries[7]]


def act(daemon: Daemon, ids: list[str]) -> None:
    """Each verb on thousands of messages; in the end those of two senders are gone."""
    assert f"{SHARE} messages are on hold" in said(daemon, "hold", "--from", "s1@example.com")
    assert queue_ids(daemon, "--hold") == ids[1::SENDERS]
    assert f"{SHARE} messages were released" in said(daemon, "release", "--all")

    assert "--yes" in said(daemon, "delete", "--from", "s2@example.com", status=os.EX_USAGE)
    assert "--yes" in said(daemon, "fail", "--all", status=os.EX_USAGE)
    assert queue_ids(daemon) == ids
    assert f"{SHARE} messages were deleted" in said(daemon, "delete", "--from", "s2@example.com", "--yes")

    assert f"{SHARE} messages were given up" in said(daemon, "fail", "--from", "s3@example.com", "--yes")
    failed = listed(daemon, "list", "--failed", "--reason", "by-hand")
    assert [entry["queue_id"] for entry in failed] == ids[3::SENDERS]
    assert {recipient["reason"] for entry in failed for recipient in entry["recipients"]} == {"by-hand"}
    assert f"{SHARE} messages will be tried now" in said(daemon, "retry", "--failed", "--all")
    assert queue_ids(daemon, "--failed") == []

    lines = said(daemon, "list", "--json", "--from", "s3@example.com").encode()
    answers = [json.loads(line) for line in said(daemon, "delete", "--json", "-", stdin=lines).splitlines()]
    assert answers == [{"queue_id": queue_id, "error": ""} for queue_id in ids[3::SENDERS]]
    assert queue_ids(daemon, "--from", "s3@example.com") == []
