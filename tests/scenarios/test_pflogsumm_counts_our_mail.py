"""With [log] syslog the tools that count Postfix's mail count ours: a whole run through Debian's pflogsumm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.scenarios.steps import Site, message
from tests.servers.daemon import Daemon, StartDaemon, account
from tests.servers.process import short_directory
from tests.servers.recording import Recording
from tests.servers.syslog import Syslog, pflogsumm, totals

MESSAGES = {
    "two": b"To: ok@one.test, ok@two.test",
    "later": b"To: tempfail-2@one.test",
    "mixed": b"To: ok@three.test, reject@one.test",
    "never": b"To: reject@two.test",
    "odd": b'To: "to=,relay=none,status=bounced"@one.test',
    "denied": b"To: ok@denied.test",
}


@pytest.fixture
def smarthost() -> Iterator[Recording]:
    """The other side."""
    with short_directory("mr-rec") as place:
        recording = Recording(place)
        yield recording
        recording.stop()


@pytest.fixture
def system_log(short_tmp: Path) -> Iterator[Syslog]:
    """Where /dev/log would be."""
    with Syslog(short_tmp / "log") as reader:
        yield reader


def running(
    daemon: StartDaemon, spool: Path, state: Path, smarthost: Recording, system_log: Syslog
) -> tuple[Daemon, Site]:
    """A daemon that tells the system log, and its folders."""
    site = Site(spool, state, Path(), smarthost.port)
    site.make_folders()
    text = f"""\
[spool]
directory = "{spool}"
settle = "300ms"
[state]
directory = "{state}"
[retry]
message = ["200ms"]
[guard]
deny_recipients = ["@denied.test"]
[outbound.smarthost]
host = "127.0.0.1"
port = {smarthost.port}
security = "none"
[log]
format = "json"
syslog = "{system_log.path}"
"""
    return daemon(text).wait_ready(), site


def test_a_whole_run(
    daemon: StartDaemon,
    spool_dir: Path,
    state_dir: Path,
    smarthost: Recording,
    system_log: Syslog,
    required: Callable[[str], None],
) -> None:
    """Received, delivered, deferred, bounced, rejected and discarded are what they were, bytes and recipients too."""
    required("pflogsumm")
    relay, site = running(daemon, spool_dir, state_dir, smarthost, system_log)
    size = 0
    for name, to in MESSAGES.items():
        data = message(name).replace(f"To: to-{name}@dest.test".encode(), to)
        size += len(data)
        site.drop(f"{name}.eml", data)
    site.drop("empty.eml", b"")
    (site.pickup / "link.eml").symlink_to("empty")
    handed_in = b"From: me@example.com\nTo: ok@one.test\nSubject: s\n\nthe last of two\n"
    for _ in range(2):  # these lines must come in order, too: the relay is faster than whoever answers the caller
        done = relay.command("sendmail", "-i", "-f", "me@example.com", "ok@one.test", stdin=handed_in)
        assert done.returncode == 0, done
        size += len(handed_in)
    refused = relay.command("submit", stdin=b"From: a@example.com\n\nno recipient\n")
    assert refused.returncode == 65, refused
    relay.wait_for_events("message.sent", 7)
    relay.wait_for_events("message.failed", 3)
    relay.wait_for_event("message.suppressed")
    relay.wait_for_event("pickup.refused")
    relay.wait_for_event("submit.refused")
    removed = len(MESSAGES) + 2
    assert relay.stop() == 0
    lines = system_log.lines()
    log = system_log.mail_log()
    report = pflogsumm(log)
    found = totals(log)

    assert {
        name: found[name] for name in ("received", "delivered", "deferred", "bounced", "rejected", "discarded")
    } == {
        "received": len(MESSAGES) + 2,
        "delivered": 7,
        "deferred": 1,
        "bounced": 2,
        "rejected": 2,
        "discarded": 1,
    }, report
    assert "(2  deferrals)" in report
    assert found["bytes received"] == size
    assert found["recipients"] == 5
    for words in ("450 4.2.1 not yet, by its name", "550 5.1.1 rejected by its name", "the file is empty", "denied"):
        assert words in report, report
    assert sum(line.endswith(": removed") for line in lines) == removed
    for queue_id in {line.split(": ")[1] for line in lines if ": uid=" in line}:
        first, second, *_, last = [line for line in lines if f": {queue_id}: " in line]
        assert ": uid=" in first and "(queue active)" in second and last.endswith(": removed"), (first, second, last)
    pid = relay.pid
    assert all(line.split(": ")[0].endswith(f"[{pid}]") for line in lines)


def test_a_system_log_that_is_away(
    daemon: StartDaemon, spool_dir: Path, state_dir: Path, smarthost: Recording, short_tmp: Path
) -> None:
    """Mail goes on while nobody reads; a reader that comes back is told all of it, and a reload may end it."""
    reader = Syslog(short_tmp / "log")
    relay, site = running(daemon, spool_dir, state_dir, smarthost, reader)
    site.drop("1.eml", message(1))
    relay.wait_for_event("message.sent")
    relay.wait_for_event("syslog.down", path=str(reader.path))
    with reader:
        reader.wait_for("status=sent")
        relay.wait_for_event("syslog.up", lost=0)
    site.drop("2.eml", message(2))
    with reader:
        reader.wait_for("to=<to-2@dest.test>")
        relay.configure(relay.configuration.read_text().replace(f'syslog = "{reader.path}"', "syslog = false"))
        reloaded = relay.command("reload")
        assert (reloaded.returncode, b"log.syslog" in reloaded.stdout) == (0, True), reloaded
        site.drop("3.eml", message(3))
        relay.wait_for_events("message.sent", 3)
    assert not any("to=<to-3@dest.test>" in line for line in reader.lines())
    assert account().uid == reader.path.parent.stat().st_uid
    assert relay.stop() == 0
