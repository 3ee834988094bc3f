"""A request for approval on its way out: whose copy is whose, through crashes, and nothing once nobody may answer."""

from __future__ import annotations

import email
import json
import os
import pwd
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.steps import Site, wait_until_drained
from tests.servers.daemon import Daemon, StartDaemon
from tests.servers.process import free_port, wait_until
from tests.servers.recording import Recording

BOSS, CFO, CLERK = "boss@dest.test", "cfo@dest.test", "clerk@dest.test"
SECRET = "a secret of the tests, more than thirty-two bytes long"
TOKEN = re.compile(r"(?<![A-Za-z0-9])[a-z2-7]{44}(?![A-Za-z0-9])")


def request(number: int = 42, *, more: str = "") -> bytes:
    """A request to BOSS, who is a recipient, and CFO, who is none; CLERK only reads it."""
    return (
        f"From: ERP <erp@example.com>\r\nTo: {BOSS}\r\nCc: {CLERK}\r\nSubject: Order\r\n"
        f"Message-ID: <{number}@erp.test>\r\nX-Approval-Request: PO-{number}\r\n"
        f"X-Approval-Approvers: {BOSS}, {CFO}\r\n{more}\r\nPlease approve.\r\n"
    ).encode()


@dataclass
class Place:
    """A site with approvals, and a smarthost that may be away."""

    site: Site
    directory: Path
    port: int
    smarthost: Recording | None = None

    def open(self) -> Recording:
        """The smarthost is there (again)."""
        self.smarthost = Recording(self.directory / "witness", "--port", str(self.port))
        return self.smarthost

    def close(self) -> None:
        """It is away."""
        if self.smarthost is not None:
            self.smarthost.stop()
            self.smarthost = None

    @property
    def text(self) -> str:
        """The configuration."""
        owner = pwd.getpwuid(os.getuid()).pw_name
        return "\n".join(
            [
                '[node]\nname = "scenario"',
                f'[spool]\ndirectory = "{self.site.spool}"\nsettle = "100ms"',
                f'[state]\ndirectory = "{self.site.state}"',
                '[retry]\nprobe = "300ms"\nmessage = ["300ms"]',
                f'[outbound.smarthost]\nhost = "127.0.0.1"\nport = {self.port}',
                'security = "none"\nallow_plaintext = true',
                '[approvals]\nreply_address = "approvals@example.com"\nsender_check = "token-only"',
                f'secret = "text:{SECRET}"\nmark_body = true',
                # Nobody answers here, so there need be no mailbox.
                '[inbound.answers]\nhost = "127.0.0.1"\nport = 1\nuser = "x"\npassword = "text:x"',
                '[[decisions]]\nname = "erp"\nmatch = "PO-*"',
                f'producers = ["{owner}"]\napprovers = ["*@dest.test"]',
            ]
        )


@pytest.fixture
def place(tmp_path: Path, spool_dir: Path, state_dir: Path) -> Iterator[Place]:
    site = Site(spool_dir, state_dir, tmp_path, 0)
    site.make_folders()
    made = Place(site, tmp_path, free_port())
    yield made
    made.close()


def copies(smarthost: Recording, count: int = 3) -> dict[str, Message]:
    """What came, by recipient; each message for one of them alone."""
    wait_until(lambda: len(smarthost.arrivals()) >= count, 20, lambda: str(smarthost.arrivals()))
    found = smarthost.arrivals()
    assert len(found) == count, [one.recipients for one in found]
    assert all(len(one.recipients) == 1 for one in found)
    return {one.recipients[0]: email.message_from_bytes(one.data) for one in found}


def tokens(text: object) -> set[str]:
    return set(TOKEN.findall(str(text)))


def check(found: dict[str, Message]) -> dict[str, str]:
    """Everybody's own token, in their own copy and in no other; by recipient."""
    assert set(found) == {BOSS, CFO, CLERK}
    of = {who: tokens(message) for who, message in found.items()}
    assert of[CLERK] == set()
    assert len(of[BOSS]) == len(of[CFO]) == 1
    assert of[BOSS] != of[CFO]
    assert found[CLERK]["Message-ID"] == "<42@erp.test>"
    assert "Please do not modify" not in str(found[CLERK])
    for who in (BOSS, CFO):
        (token,) = of[who]
        assert found[who]["Reply-To"] == f"approvals+{token}@example.com"
        assert tokens(found[who]["References"]) == tokens(found[who]["Message-ID"]) == {token}
        assert f"Reference: {token}" in str(found[who].get_payload())
        assert found[who]["X-Original-Message-ID"] == "<42@erp.test>"
    assert not any(name.lower().startswith("x-approval") for message in found.values() for name in message)
    return {who: next(iter(of[who])) for who in (BOSS, CFO)}


def listed(running: Daemon) -> list[dict[str, Any]]:
    done = running.command("approvals", "list", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout) if done.stdout.lstrip().startswith(b"[") else None
    return said if said is not None else [json.loads(line) for line in done.stdout.splitlines()]


def test_each_approver_has_a_token_that_nobody_else_sees(place: Place, daemon: StartDaemon) -> None:
    """Not the other recipients, and not whoever reads the log."""
    smarthost = place.open()
    running = daemon(place.text).wait_ready()
    place.site.drop("a.eml", request())
    of = check(copies(smarthost))
    wait_until_drained(place.site, running)
    (opened,) = running.wait_for_events("request.opened", 1)
    assert opened["request_id"] == "PO-42"
    assert len(running.wait_for_events("message.sent", 3)) == 3
    (entry,) = listed(running)
    assert entry["request_id"] == "PO-42"
    assert {one["address"] for one in entry["approvers"] if one["sent_at"]} == {BOSS, CFO}
    assert running.stop() == 0, running.log()[-5000:]
    assert not any(token in running.log() for token in of.values())


def test_a_crash_changes_nobodys_copy(place: Place, daemon: StartDaemon) -> None:
    """Killed with the request in the queue, twice: each is asked once, with the token that was given at the claim."""
    running = daemon(place.text).wait_ready()
    place.site.drop("a.eml", request())
    (opened,) = running.wait_for_events("request.opened", 1)
    running.kill9()
    record = json.loads((place.site.spool / "queue" / f"{opened['queue_id']}.json").read_bytes())
    given = {one["recipient"]: one["token"] for one in record["copies"]}
    assert set(given) == {BOSS, CFO}
    shutil.rmtree(place.site.state / "approvals")  # as if it had come between the claim and the opening
    running.start().wait_ready()
    running.wait_for_events("request.opened", 1)
    running.kill9()
    smarthost = place.open()
    running.start().wait_ready()
    assert check(copies(smarthost)) == given
    wait_until_drained(place.site, running)
    assert running.stop() == 0, running.log()[-5000:]
    assert len(smarthost.arrivals()) == 3


def test_what_may_not_be_asked_is_not_sent_at_all(place: Place, daemon: StartDaemon) -> None:
    """An approver whom the sink does not know, a request that no sink is about, and `sendmail`."""
    smarthost = place.open()
    running = daemon(place.text).wait_ready()
    place.site.drop("a.eml", request().replace(CFO.encode(), b"cfo@elsewhere.test"))
    place.site.drop("b.eml", request().replace(b"PO-42", b"XX-1"))
    failed = running.wait_for_events("message.failed", 2)
    why = "\n".join(str(one) for one in failed)
    assert "may not be asked" in why
    assert "no [[decisions]] matches" in why
    done = running.command("sendmail", "-t", stdin=request())
    assert done.returncode == os.EX_DATAERR
    assert running.stop() == 0, running.log()[-5000:]
    assert smarthost.arrivals() == []


def test_explain_says_who_would_be_asked(place: Place, daemon: StartDaemon, short_tmp: Path) -> None:
    """Or why nobody: before anything is handed in."""
    program = daemon(place.text, start=False)
    file = short_tmp / "a.eml"
    file.write_bytes(request())
    told = json.loads(program.command("spool", "explain", "--json", str(file)).stdout)
    assert told["request"] == {"request_id": "PO-42", "approvers": [BOSS, CFO], "decisions": ["erp"]}
    assert f"approver    <{CFO}>" in program.command("spool", "explain", str(file)).stdout.decode()
    file.write_bytes(request(more="X-Approval-Expires: soon\r\n"))
    done = program.command("spool", "explain", str(file))
    assert (done.returncode, b"X-Approval-Expires" in done.stdout) == (os.EX_DATAERR, True)
    file.write_bytes(request().replace(CFO.encode(), b"cfo@elsewhere.test"))
    done = program.command("spool", "explain", str(file))
    assert (done.returncode, b"may not be asked" in done.stdout) == (os.EX_DATAERR, True)


def test_nobody_is_asked_once_the_request_is_over(place: Place, daemon: StartDaemon) -> None:
    """The smarthost was away for too long: who only reads it still gets it."""
    running = daemon(place.text).wait_ready()
    place.site.drop("a.eml", request(more="X-Approval-Expires: 2s\r\n"))
    running.wait_for_events("request.opened", 1)
    over = time.monotonic() + 2.0
    wait_until(lambda: time.monotonic() > over, 10, running.log)
    smarthost = place.open()
    expired = running.wait_for_events("message.expired", 2)
    assert {one["to"] for one in expired} == {f"<{BOSS}>", f"<{CFO}>"}
    assert set(copies(smarthost, 1)) == {CLERK}
    wait_until(lambda: len(place.site.failed()) == 2, 20, running.log)
    assert running.stop() == 0, running.log()[-5000:]
    assert len(smarthost.arrivals()) == 1


def test_a_program_may_ask_through_the_socket(place: Place, daemon: StartDaemon) -> None:
    """`submit` opens a request for the user who calls it: here the daemon's own, whom no sink knows as a producer."""
    smarthost = place.open()
    running = daemon(place.text).wait_ready()
    done = running.command("submit", stdin=request())
    if os.getuid() == 0:
        assert done.returncode == os.EX_DATAERR, done.stderr
        assert b"producers" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        check(copies(smarthost))
    assert running.stop() == 0, running.log()[-5000:]
