"""[spool] results: one file per file, where its producer may read it; and [guard] producer_rate from the outside."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.steps import Site, message, site_for
from tests.servers.certificates import Certificates
from tests.servers.daemon import Daemon, StartDaemon
from tests.servers.postfix import Postfix
from tests.servers.process import wait_until


@pytest.fixture
def site(postfix: Postfix, certificates: Certificates, spool_dir: Path, state_dir: Path) -> Site:
    made = site_for(postfix, certificates, spool_dir, state_dir)
    made.more["spool"] = ["results = true"]
    made.more["pickup.erp"] = ['allowed_senders = ["@example.com"]']
    return made


def result(site: Site, name: str, running: Daemon) -> dict[str, Any]:
    """What results/NAME says, once it is there."""
    path = site.spool / "results" / name
    wait_until(path.exists, 20, lambda: f"{name}\n{running.log()}")
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


def test_each_file_has_its_result(site: Site, daemon: StartDaemon, postfix: Postfix) -> None:
    """Sent, failed, unfit and handed in twice, in the folder and under the name that the producer knows."""
    running = daemon(site.text).wait_ready()
    site.drop("erp/both.eml", message("both", to="good@dest.test, refused@dest.test"))
    both = result(site, "erp/both.json", running)
    assert (both["file"], both["status"]) == ("both.eml", "failed")
    assert [(one["address"], one["status"], one["attempts"]) for one in both["recipients"]] == [
        ("good@dest.test", "sent", 1),
        ("refused@dest.test", "failed", 1),
    ]
    assert "550 5.1.1" in both["recipients"][1]["response"]
    site.drop("erp/forged.eml", message("forged").replace(b"producer@example.com", b"boss@dest.test"))
    forged = result(site, "erp/forged.json", running)
    assert (forged["status"], forged["recipients"]) == ("refused", [])
    assert "allowed_senders does not allow" in forged["detail"]
    sidecar = b'{"mail_from": "", "rcpt_to": ["keyed@dest.test"], "idempotency_key": "order-42"}'
    for name in ("first", "second"):
        site.drop(f"new/{name}.env.json", sidecar)
        site.drop(f"new/{name}", message(name))
        assert result(site, f"{name}.json", running)["status"] == ("sent" if name == "first" else "duplicate")
    (duplicate,) = running.events("message.duplicate")
    first = result(site, "first.json", running)
    assert duplicate["queue_id"] == result(site, "second.json", running)["queue_id"] == first["queue_id"]
    assert len(postfix.wait_for_messages("keyed@dest.test")) == 1


def test_a_name_is_remembered_over_a_restart(site: Site, daemon: StartDaemon, postfix: Postfix) -> None:
    """A plain message, too, has its result under its file's name, however often the daemon was killed before."""
    port, site.port = site.port, 1  # nobody is there
    running = daemon(site.text).wait_ready()
    site.drop("late.eml", message("late"))
    running.wait_for_event("message.queued")
    running.kill9()
    site.port = port
    running.configure(site.text)
    running.start().wait_ready()
    assert result(site, "late.json", running)["status"] == "sent"
    assert not (site.spool / "results/erp").exists() or not os.listdir(site.spool / "results/erp")


def test_a_flood_is_taken_at_its_rate(site: Site, daemon: StartDaemon) -> None:
    """No more than so many are claimed; the rest stands where it stood, and one line says why."""
    site.more["guard"] = ['producer_rate = "3/h"']
    running = daemon(site.text).wait_ready()
    for number in range(6):
        site.drop(f"{number}.eml", message(number))
    running.wait_for_events("message.sent", 3)
    refused = running.wait_for_event("pickup.refused")
    assert refused["reason"] == "waits: its owner hands in more than 3/h, [guard] producer_rate"
    assert len(list(site.pickup.glob("*.eml"))) == 3
    site.more["guard"] = ['producer_rate = "4/h"']
    running.configure(site.text)
    assert running.command("reload").returncode == 0
    running.wait_for_events("message.sent", 4)
    assert len(list(site.pickup.glob("*.eml"))) == 2
