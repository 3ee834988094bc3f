"""[guard]: on a staging machine mail goes to one place or nowhere, and a brake holds for the whole machine."""

from __future__ import annotations

import asyncio
import email
from pathlib import Path

from tests.faults.journal import read_evidence
from tests.faults.server import Recorder
from tests.scenarios.steps import Site, message, site_for, wait_until_drained
from tests.servers.certificates import Certificates
from tests.servers.daemon import Daemon, StartDaemon
from tests.servers.postfix import Postfix, as_sent
from tests.servers.process import wait_until

CUSTOMER, COLLEAGUE, TESTER = "boss@customer.test", "colleague@example.com", "tester@example.com"


def reload(site: Site, running: Daemon, *guard: str) -> None:
    """The same site with another [guard]."""
    site.more["guard"] = list(guard)
    running.configure(site.text)
    done = running.command("reload")
    assert done.returncode == 0, done.stderr


def test_everything_goes_to_the_tester_until_the_setting_is_gone(
    postfix: Postfix, certificates: Certificates, spool_dir: Path, state_dir: Path, daemon: StartDaemon
) -> None:
    """One copy that names the real recipients; nobody else is asked for, not by a report either."""
    site = site_for(postfix, certificates, spool_dir, state_dir)
    site.more["guard"] = [f'redirect_to = "{TESTER}"', 'deny_recipients = ["@denied.test"]']
    site.more["retry"] = ["dsn = true"]
    running = daemon(site.text).wait_ready()
    site.drop("a.eml", message(1, to=f"{CUSTOMER}, {COLLEAGUE}, x@denied.test"))
    (stored,) = postfix.wait_for_messages(TESTER)
    arrived = email.message_from_bytes(as_sent(stored))
    assert arrived["X-Original-Recipients"].split() == [f"{CUSTOMER},", COLLEAGUE]
    assert arrived["Message-ID"] == "<1@producer.test>"
    assert f"guard     all mail goes to {TESTER}" in running.command("status").stdout.decode()
    (suppressed,) = running.wait_for_events("message.suppressed", 1)
    assert (suppressed["to"], suppressed["reason"]) == ("<x@denied.test>", "denied")
    assert {event["to"] for event in running.wait_for_events("message.sent", 2)} == {f"<{CUSTOMER}>", f"<{COLLEAGUE}>"}
    reload(site, running)
    site.drop("b.eml", message(2, to=COLLEAGUE))
    (direct,) = postfix.wait_for_messages(COLLEAGUE)
    assert b"X-Original-Recipients" not in direct
    wait_until_drained(site, running)
    assert running.stop() == 0, running.log()[-5000:]
    assert postfix.messages(CUSTOMER) == []
    assert len(postfix.messages(TESTER)) == 1
    assert running.events("message.queued", rule="dsn") == []


def test_a_dry_run_needs_no_smarthost_and_turning_it_off_sends_nothing_by_itself(
    postfix: Postfix, certificates: Certificates, spool_dir: Path, state_dir: Path, daemon: StartDaemon
) -> None:
    """Suppressed and kept; what a person retries afterwards goes out, the rest stays."""
    site = site_for(postfix, certificates, spool_dir, state_dir)
    site.more["guard"] = ["dry_run = true"]
    postfix.stop()
    running = daemon(site.text).wait_ready()
    for number in range(3):
        site.drop(f"{number}.eml", message(number, to=CUSTOMER))
    suppressed = running.wait_for_events("message.suppressed", 3)
    wait_until(lambda: len(site.failed()) == 6, 20, running.log)
    assert running.events("route.down") == running.events("message.failed") == []
    postfix.start()
    reload(site, running)
    site.drop("new.eml", message("new", to=COLLEAGUE))
    postfix.wait_for_messages(COLLEAGUE)
    assert len(site.failed()) == 6
    assert b"guard" not in running.command("status").stdout
    retried = running.command("queue", "retry", suppressed[0]["queue_id"])
    assert retried.returncode == 0, retried.stderr
    (stored,) = postfix.wait_for_messages(CUSTOMER)
    assert b"<0@producer.test>" in stored
    wait_until_drained(site, running)
    assert running.stop() == 0, running.log()[-5000:]
    assert len(site.failed()) == 4


async def test_no_stretch_of_time_sees_more_mail_than_the_brake_lets_through(
    tmp_path: Path, spool_dir: Path, state_dir: Path, daemon: StartDaemon
) -> None:
    """Five a second over four connections, by the smarthost's own clock, a reload in the middle included."""
    rate, messages = 5, 24
    site = Site(spool_dir, state_dir, tmp_path, 0)
    site.make_folders()
    async with Recorder(tmp_path / "witness") as smarthost:
        text = "\n".join(
            [
                '[node]\nname = "scenario"',
                f'[spool]\ndirectory = "{spool_dir}"\nsettle = "100ms"',
                f'[state]\ndirectory = "{state_dir}"',
                f'[guard]\nrate = "{rate}/s"',
                f'[outbound.smarthost]\nhost = "127.0.0.1"\nport = {smarthost.port}',
                'security = "none"\nallow_plaintext = true\nconnections = 4',
            ]
        )
        running = daemon(text)
        await asyncio.to_thread(running.wait_ready)
        for number in range(messages):
            site.drop(f"{number:02}.eml", message(number))
        await asyncio.to_thread(running.wait_for_events, "message.sent", messages // 2)
        running.configure(text.replace("connections = 4", "connections = 3"))
        await asyncio.to_thread(running.command, "reload")
        await asyncio.to_thread(running.wait_for_events, "message.sent", messages)
        assert await asyncio.to_thread(running.stop) == 0, running.log()[-5000:]
    moments = sorted(one.at for one in read_evidence(tmp_path / "witness" / "journal.jsonl").messages)
    assert len(moments) == messages
    assert all(later - first >= 1.0 for first, later in zip(moments, moments[rate:], strict=False))
    assert moments[-1] - moments[0] < 2 * messages / rate
    assert running.events("guard.waiting")[0]["rate"] == f"{rate}/s"
