"""What a person does: stop it in the middle, reload it, start it twice, start it wrong, look at the queue and act."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.steps import Site, message, message_ids, no_secret, site_for, wait_until_drained
from tests.servers.certificates import Certificates
from tests.servers.daemon import Daemon, StartDaemon
from tests.servers.postfix import Postfix
from tests.servers.process import wait_until

POSTQUEUE = {"queue_name", "queue_id", "arrival_time", "message_size", "forced_expire", "sender", "recipients"}


@pytest.fixture
def site(postfix: Postfix, certificates: Certificates, spool_dir: Path, state_dir: Path) -> Site:
    return site_for(postfix, certificates, spool_dir, state_dir)


def lines(daemon: Daemon, *arguments: str, status: int = 0) -> list[dict[str, Any]]:
    """A command's output, one JSON object per line."""
    done = daemon.command(*arguments, "--json")
    assert done.returncode == status, done
    assert b"Traceback" not in done.stderr, done
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_stop_in_the_middle_of_a_slow_answer(site: Site, daemon: StartDaemon, postfix: Postfix) -> None:
    """SIGTERM while the 250 is on its way: it is waited for and written down, the next body is not begun."""
    with postfix.configured(smtpd_end_of_data_restrictions="sleep 2"):
        running = daemon(site.text).wait_ready()
        for number in range(3):
            site.drop(f"{number}.eml", message(number, body=b"line\r\n" * 50_000))
        # Postfix logs the Message-ID while it reads a body of this size, so the answer is still two seconds away.
        wait_until(lambda: postfix.accepted() != [], 10, postfix.log)
        assert running.stop() == 0, running.log()[-3000:]
        assert [event["to"] for event in running.events("message.sent")] == ["<to-0@dest.test>"], running.log()
        assert running.events("daemon.stopping", reason="SIGTERM")
        assert len(site.waiting()) == 2
        assert postfix.accepted() == message_ids([0])
    running.start()
    wait_until_drained(site, running)
    assert running.stop() == 0, running.log()[-3000:]
    assert postfix.accepted() == message_ids([0, 1, 2])


def test_stop_while_the_route_is_held(site: Site, daemon: StartDaemon, postfix: Postfix) -> None:
    """A daemon that waits for its smarthost ends at once, and keeps what it has."""
    postfix.stop()
    running = daemon(site.text).wait_ready()
    site.drop("0.eml", message(0))
    running.wait_for_event("route.down")
    assert running.stop(5) == 0
    assert len(site.waiting()) == 1


def test_reload(site: Site, daemon: StartDaemon, postfix: Postfix) -> None:
    """A good configuration is applied under load, a bad one is refused with its lines, without a daemon it is 69."""
    running = daemon(site.text).wait_ready()
    for number in range(200):
        site.drop(f"{number:03}.eml", message(number))
        if number % 50 == 25:
            site.probe = f"{number}s"
            running.configure(site.text)
            (answer,) = lines(running, "reload")
            assert answer["changed"] == ["retry.probe"]
            assert (answer["changes"][0]["kind"], answer["changes"][0]["new"]) == ("changed", f'"{number}s"')
            assert lines(running, "reload") == [{"changed": [], "changes": []}]
    running.wait_for_events("message.sent", 200)
    assert postfix.accepted() == message_ids(range(200))
    pid = running.pid

    running.configure(site.text.replace("port =", "prot ="))
    refused = running.command("reload")
    assert refused.returncode == os.EX_CONFIG, refused
    assert b"mailrelayd.toml:" in refused.stderr
    assert b"did you mean" in refused.stderr
    assert "did you mean" in running.wait_for_event("config.rejected")["reason"]
    assert lines(running, "status")[0]["daemon"] == "running", "a broken file does not hide the daemon"
    running.signal(signal.SIGHUP)
    rejected = running.wait_for_event("config.rejected", by="SIGHUP")
    assert rejected["level"] == "error"
    assert "did you mean" in rejected["reason"]
    site.drop("bad.eml", message("still"))
    running.wait_for_event("message.sent", to="<to-still@dest.test>")

    site.more["outbound.smarthost"] = ['description = "new"']
    running.configure(site.text)
    running.signal(signal.SIGHUP)
    running.wait_for_event("config.loaded", changed=["outbound.smarthost.description"], by="SIGHUP")
    assert lines(running, "status")[0]["outbound"]["description"] == "new"

    running.configure(site.text.replace(str(site.spool), str(site.spool) + "2"))
    refused = running.command("reload")
    assert refused.returncode == os.EX_CONFIG, refused
    assert b"needs a restart" in refused.stderr
    running.configure(site.text)
    assert (running.running, running.pid) == (True, pid)
    assert running.stop() == 0, running.log()[-3000:]
    assert no_secret(running.log())
    gone = running.command("reload")
    assert gone.returncode == os.EX_UNAVAILABLE, gone
    assert gone.stderr.startswith(b"error: ")


def test_a_second_daemon(site: Site, daemon: StartDaemon) -> None:
    """The second daemon on a spool ends with 75 and disturbs nothing, however the first one ends."""
    first = daemon(site.text).wait_ready()
    second = daemon(site.text)
    assert second.wait() == os.EX_TEMPFAIL
    assert "error: " in second.log()
    assert lines(first, "status")[0]["daemon"] == "running"
    site.drop("0.eml", message(0))
    first.wait_for_event("message.sent")
    first.kill9()
    second.start().wait_ready()
    assert lines(second, "status")[0]["pid"] == second.pid
    assert second.stop() == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("port =", "prot ="),
        ("[retry]", "[retry"),
        ('probe = "500ms"', 'probe = "soon"'),
        ("[node]", "[nodes]"),
        ('security = "starttls"', 'security = "ssl"'),
    ],
)
def test_a_broken_configuration(site: Site, daemon: StartDaemon, old: str, new: str) -> None:
    """A start with a wrong configuration ends with 78 and names file and line, once; so does `check`."""
    broken = daemon(site.text.replace(old, new))
    assert broken.wait() == os.EX_CONFIG
    for said in (broken.log(), broken.command("check").stderr.decode()):
        assert "mailrelayd.toml:" in said
        assert "error: " in said
        assert "Traceback" not in said
    absent = daemon(site.text, start=False)
    absent.configuration.unlink()
    assert absent.start().wait() == os.EX_CONFIG


def test_an_unusable_folder(site: Site, daemon: StartDaemon, short_tmp: Path) -> None:
    """A spool that is a file, or that cannot be written, ends with 73 and names it."""
    occupied = short_tmp / "file"
    occupied.write_text("")
    foreign = short_tmp / "foreign"
    foreign.mkdir(mode=0o755)
    os.chown(foreign, 0, 0)
    for path in (occupied, foreign):
        site.spool = path
        refused = daemon(site.text)
        assert refused.wait() == os.EX_CANTCREAT, refused.log()
        assert str(path) in refused.log()
        assert "Traceback" not in refused.log()


def test_a_folder_for_the_sockets_that_is_somebody_elses(site: Site, daemon: StartDaemon, state_dir: Path) -> None:
    """The socket that cannot be made is named, with the folder that is to be the daemon's."""
    (state_dir / "run").mkdir(mode=0o755)
    os.chown(state_dir / "run", 0, 0)
    refused = daemon(site.text)
    assert refused.wait() == os.EX_CANTCREAT, refused.log()
    assert f"error: {state_dir}/run/control.sock: Permission denied" in refused.log()
    assert "install -d -o mailrelayd" in refused.log()


def test_the_queue_while_it_runs_and_while_it_does_not(site: Site, daemon: StartDaemon, postfix: Postfix) -> None:
    """status and queue say and do the same with the daemon running and stopped."""
    site.more["retry"] = []
    running = daemon(site.text.replace('["300ms"]', '["1h"]')).wait_ready()
    site.drop("failed.eml", message("f", to="refused@dest.test"))
    site.drop("deferred.eml", message("d", to="deferred@dest.test, good@dest.test"))
    running.wait_for_event("message.failed")
    running.wait_for_event("message.deferred")
    for stopped in (False, True):
        if stopped:
            assert running.stop() == 0
        look_at_the_queue(running, stopped=stopped)
    act_on_the_queue(site, running)
    running.start().wait_ready()
    site.drop("deferred-2.eml", message("d2", to="deferred@dest.test"))
    running.wait_for_event("message.deferred", attempt=1)
    act_on_the_queue(site, running)
    assert running.stop() == 0, running.log()[-3000:]


def look_at_the_queue(daemon: Daemon, *, stopped: bool) -> None:
    (status,) = lines(daemon, "status")
    assert status["daemon"] == ("stopped" if stopped else "running")
    assert (status["queue"]["waiting"], status["queue"]["failed"]) == (1, 1)
    (deferred,) = lines(daemon, "queue", "list")
    (failed,) = lines(daemon, "queue", "list", "--failed")
    assert set(deferred) >= POSTQUEUE
    assert (deferred["queue_name"], failed["queue_name"]) == ("deferred", "failed")
    assert deferred["sender"] == "producer@example.com"
    by_address = {recipient["address"]: recipient for recipient in deferred["recipients"]}
    assert by_address["deferred@dest.test"]["status"] == "deferred"
    assert "450 4.2.1" in by_address["deferred@dest.test"]["delay_reason"]
    assert by_address["good@dest.test"]["status"] == "sent"
    assert "550 5.1.1" in failed["recipients"][0]["delay_reason"]
    for entry in (deferred, failed):
        assert lines(daemon, "queue", "show", entry["queue_id"]) == [entry]
        text = daemon.command("queue", "show", entry["queue_id"])
        assert entry["queue_id"].encode() in text.stdout
    for arguments in (("queue",), ("status",)):
        done = daemon.command(*arguments)
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"waiting" in done.stdout
    unknown = daemon.command("queue", "show", "aaaaaaaaaaaaaaaa")
    assert unknown.returncode == os.EX_DATAERR, unknown


def act_on_the_queue(site: Site, daemon: Daemon) -> None:
    """hold, release, retry and delete the one deferred message; an unknown id is 65."""
    (before,) = lines(daemon, "queue", "list")
    queue_id = before["queue_id"]
    for verb, name in (("hold", "hold"), ("release", "deferred")):
        assert lines(daemon, "queue", verb, queue_id) == [{"queue_id": queue_id, "error": ""}]
        assert lines(daemon, "queue", "list")[0]["queue_name"] == name
    for verb in ("hold", "delete"):
        (answer,) = lines(daemon, "queue", verb, "aaaaaaaaaaaaaaaa", status=os.EX_DATAERR)
        assert answer["error"] == "no such message"
    running = daemon.running
    tries = len(daemon.events("message.deferred", queue_id=queue_id)) if running else 0
    assert daemon.command("queue", "retry", queue_id).returncode == 0
    if running:
        daemon.wait_for_events("message.deferred", tries + 1, queue_id=queue_id)
        wait_until(lambda: not lines(daemon, "queue", "list")[0]["in_flight"], 10, daemon.log)
    assert daemon.command("queue", "delete", queue_id).returncode == 0
    assert lines(daemon, "queue", "list") == []
    assert site.waiting() == []


def test_a_failed_message_is_brought_back(site: Site, daemon: StartDaemon, postfix: Postfix) -> None:
    """Once the mailbox exists, `queue retry` sends what had failed, to those who have not got it, and only them."""
    access = "smtpd_recipient_restrictions"
    with postfix.configured(**{access: "check_recipient_access inline:{later@dest.test=REJECT}"}):
        running = daemon(site.text).wait_ready()
        site.drop("0.eml", message(0, to="now@dest.test, later@dest.test"))
        queue_id = running.wait_for_event("message.failed", to="<later@dest.test>")["queue_id"]
        running.wait_for_event("message.sent", to="<now@dest.test>")
    assert running.command("queue", "retry", queue_id).returncode == 0
    running.wait_for_event("message.sent", to="<later@dest.test>")
    wait_until_drained(site, running)
    assert site.failed() == []
    assert len(postfix.wait_for_messages("later@dest.test")) == 1
    assert len(postfix.messages("now@dest.test")) == 1
