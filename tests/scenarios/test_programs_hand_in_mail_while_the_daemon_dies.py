"""Programs hand in mail while the daemon is killed and started again: status 0 means kept, and once."""

from __future__ import annotations

import json
import os
import pwd
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.servers.daemon import Daemon, StartDaemon, account
from tests.servers.process import wait_until

CLIENTS = 24


def configuration(spool: Path, state: Path) -> str:
    """Nothing is sent: what was taken can be counted."""
    return (
        f'[node]\nname = "scenario"\n[spool]\ndirectory = "{spool}"\n[state]\ndirectory = "{state}"\n'
        '[submit]\ndefault_domain = "corp.test"\nlocal_recipient = "admin@example.com"\n'
    )


def waiting(daemon: Daemon) -> list[dict[str, object]]:
    """What the queue holds, as operators see it."""
    done = daemon.command("queue", "list", "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def subjects(spool: Path) -> Counter[bytes]:
    """Of every message in the queue and in the pickup folder."""
    found: Counter[bytes] = Counter()
    for folder in (spool / "queue", spool / "pickup" / "new"):
        for path in folder.iterdir():
            if not path.name.endswith(".json") and not path.name.startswith("."):
                found[path.read_bytes().partition(b"Subject: ")[2].partition(b"\n")[0]] += 1
    return found


def test_a_program_without_any_right_hands_in_mail(daemon: StartDaemon, spool_dir: Path, state_dir: Path) -> None:
    """Another user, in no group of ours, reaches the socket below [state] directory; the queue says who he was."""
    if os.getuid() != 0:
        pytest.skip("needs root to become another user")
    running = daemon(configuration(spool_dir, state_dir)).wait_ready()
    command = [sys.executable, "-m", "mailrelayd", "--config", str(running.configuration)]
    command += ["sendmail", "-FCronDaemon", "-i", "-B8BITMIME", "-oem", "root"]
    other = account().uid - 1
    done = subprocess.run(
        command, check=False, input=b"Subject: cron\n\nhello\n", capture_output=True, timeout=30, cwd="/",
        user=other, group=other, extra_groups=[],
    )  # fmt: skip
    assert (done.returncode, done.stderr.decode()) == (0, "")
    event = running.wait_for_event("message.queued")
    assert (event["uid"], event["producer"], event["rule"]) == (other, "submit", "submit")
    (entry,) = waiting(running)
    assert entry["queue_id"] == event["queue_id"]
    assert stat.S_IMODE((spool_dir / "queue").stat().st_mode) == 0o700


def test_every_message_that_was_accepted_is_kept_once(daemon: StartDaemon, spool_dir: Path, state_dir: Path) -> None:
    """SIGKILL to the daemon again and again while clients hand in; each finds the socket, or the folder, or says 75."""
    running = daemon(configuration(spool_dir, state_dir)).wait_ready()

    def hand_in(number: int) -> int:
        message = b"To: root\nSubject: %d\n\n" % number + b"x" * (number * 5000)
        return running.command("sendmail" if number % 2 else "submit", *(["-t"] if number % 2 else []), stdin=message,
                               seconds=60).returncode  # fmt: skip

    with ThreadPoolExecutor(6) as clients:
        handed = [clients.submit(hand_in, number) for number in range(CLIENTS)]
        for share in (4, 10, 16):
            _wait_for(handed, share)
            running.kill9()
            running.start().wait_ready()
        accepted = {str(number).encode() for number, one in enumerate(handed) if one.result() == 0}
    assert len(accepted) == CLIENTS  # the folder is there even while the daemon is not
    wait_until(
        lambda: not list((spool_dir / "pickup" / "new").iterdir()), 40, lambda: f"still there\n{running.log()[-3000:]}"
    )
    assert subjects(spool_dir) == Counter(accepted)
    assert {entry["sender"] for entry in waiting(running)} == {f"{pwd.getpwuid(account().uid).pw_name}@corp.test"}


def _wait_for(handed: Sequence[Future[int]], share: int) -> None:
    """Until so many clients have ended."""
    wait_until(lambda: sum(one.done() for one in handed) >= share, 60, lambda: "clients hang")
