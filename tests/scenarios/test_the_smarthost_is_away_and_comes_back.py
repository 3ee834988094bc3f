"""Many messages wait for a smarthost that is away: nothing is touched, nothing burns, and all go out in order."""

from __future__ import annotations

import os
import time
from itertools import pairwise
from pathlib import Path

import pytest

from tests.scenarios.steps import cpu_seconds, door_that_closes, message, message_ids, no_secret, site_for
from tests.servers.certificates import Certificates
from tests.servers.daemon import StartDaemon
from tests.servers.postfix import Postfix
from tests.servers.process import wait_until

WAITING = int(os.environ.get("MAILRELAYD_TEST_BACKLOG", "2000"))  # 10000 is the full size: minutes
QUIET = 4.0  # seconds that are watched


def figures_of(folder: Path) -> dict[str, tuple[int, int, int, int]]:
    """What would change with any touch of any file in it."""
    found = {}
    for entry in os.scandir(folder):
        now = entry.stat()
        found[entry.name] = (now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
    return found


@pytest.mark.timeout(1200)
def test_a_backlog_waits_untouched_and_drains_in_order(
    postfix: Postfix, certificates: Certificates, spool_dir: Path, state_dir: Path, daemon: StartDaemon
) -> None:
    """One connection per probe however many wait, no file touched, no processor time; then all once and in order."""
    site = site_for(postfix, certificates, spool_dir, state_dir)
    site.probe = "1s"
    names = [f"{number:06}" for number in range(WAITING)]
    postfix.stop()
    with door_that_closes(postfix.port) as seen:
        running = daemon(site.text).wait_ready()
        for name in names:
            # No two in one tick of the file system's clock would take long; the name decides among those.
            site.drop(f"{name}.eml", message(name, to="backlog@dest.test"))
        wait_until(lambda: len(site.waiting()) == WAITING, WAITING / 100 + 20, lambda: f"{len(site.waiting())} queued")
        running.wait_for_event("route.down")
        before, used = figures_of(site.spool / "queue"), cpu_seconds(running.pid)
        began, attempts = time.monotonic(), len(seen)
        wait_until(lambda: time.monotonic() - began >= QUIET, QUIET + 1, str)
        used, attempts = cpu_seconds(running.pid) - used, len(seen) - attempts
        assert figures_of(site.spool / "queue") == before
        assert QUIET - 2 <= attempts <= QUIET + 1
        assert used < 0.05 * QUIET
    assert min(second - first for first, second in pairwise(seen)) > 0.9
    assert running.events("message.sent") == running.events("message.failed") == []
    assert no_secret(running.log())
    postfix.start()
    back = time.monotonic()
    running.wait_for_events("message.sent", WAITING, WAITING / 20 + 30)
    took = time.monotonic() - back
    print(f"{WAITING} messages in {took:.1f} s ({WAITING / took:.0f}/s), probe 1 s; {used:.3f} s CPU in {QUIET:.0f} s")
    assert running.events("route.up")[0]["outage"] >= QUIET
    assert running.stop() == 0, running.log()[-5000:]
    assert site.waiting() == site.failed() == []
    assert postfix.accepted() == message_ids(names)
    assert len(running.events("message.sent")) == WAITING
