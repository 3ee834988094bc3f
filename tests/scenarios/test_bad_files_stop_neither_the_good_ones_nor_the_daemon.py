"""Everything that may stand in a pickup folder by accident or malice, all at once among a hundred good files."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.steps import (
    SETTLE,
    Site,
    message,
    message_ids,
    site_for,
    wait_until_drained,
    with_crlf,
    without_received,
)
from tests.servers.certificates import Certificates
from tests.servers.daemon import Daemon, StartDaemon, account
from tests.servers.postfix import Postfix, as_sent
from tests.servers.process import kill

GOOD = 100
MANY = 5000
SECRET = "root's own secret"
LONG = b"l" * 100_000
HALVES = 20

SLOW_WRITER = """\
import sys, time
with open(sys.argv[1], "wb", buffering=0) as file:
    file.write(b"From: a@example.com\\nTo: slow@dest.test\\nMessage-ID: <slow@producer.test>\\n\\n")
    for number in range(%d):
        time.sleep(%f)
        file.write(b"part %%d\\n" %% number)
"""

# File name -> content, and what the reason in failed/ID.json, in the log and of `spool explain` must hold.
FAILED: dict[str, tuple[bytes, str]] = {
    "empty.eml": (b"", "empty"),
    "binary.eml": (bytes(range(256)) * 64, "NUL"),
    "text.eml": (b"just a note\n", "no header field"),
    "no-recipient.eml": (b"From: a@example.com\n\nbody\n", "recipient"),
    "two-from.eml": (b"From: a@example.com\nFrom: b@example.com\nTo: c@dest.test\n\nbody\n", "From"),
    "two-authors.eml": (b"From: a@example.com, b@example.com\nTo: c@dest.test\n\nbody\n", "Sender"),
    "bad-address.eml": (b"From: a@example.com\nTo: <no body@@dest.test>\n\nbody\n", "To"),
    "nul-in-header.eml": (b"From: a@example.com\nTo: c@dest.test\nX: a\0b\n\nbody\n", "NUL"),
    "huge-header.eml": (message("huge", more=b"X-Long: " + b"h" * 10_000_000 + b"\r\n"), "header is longer"),
    "utf-16.eml": ("From: a@example.com\nTo: c@dest.test\n\nbody\n".encode("utf-16"), "UTF-16"),
    "smuggled.eml": (b'From: a@example.com\nTo: "x\r\nRCPT TO:<victim@dest.test>"@dest.test\n\nbody\n', "header"),
}

# What is odd but can be sent, and must arrive whole.
ODD: dict[bytes, bytes] = {
    "größe.eml".encode(): message("odd-name", to="odd-name@dest.test"),
    b"latin-\xfc\xff.eml": message("odd-bytes", to="odd-bytes@dest.test"),
    b"two\nlines event=message.sent.eml": message("odd-lines", to="odd-lines@dest.test"),
    b"\x1b[31mred.eml": message("odd-escape", to="odd-escape@dest.test"),
    b" blank .EML": message("odd-blank", to="odd-blank@dest.test"),
    b"bare-ends.eml": message("odd-ends", to="odd-ends@dest.test", body=b"a\rb\nc\r\n\n.\r.\n"),
    b"long-line.eml": message("odd-long", to="odd-long@dest.test", body=LONG),
    b"block.eml": b"X-Sender: a@example.com\r\nX-Receiver: victim@dest.test\r\n"
    + message("odd-block", to="odd-block@dest.test"),
}


@pytest.fixture
def site(postfix: Postfix, certificates: Certificates, spool_dir: Path, state_dir: Path) -> Site:
    return site_for(postfix, certificates, spool_dir, state_dir)


def place_what_is_refused(site: Site, outside: Path) -> dict[str, str]:
    """Entries that must stay where they are: name -> what the reason says."""
    pickup = site.pickup
    secret = outside / "secret.eml"
    secret.write_bytes(message("secret", to="victim@dest.test", body=SECRET.encode()))
    secret.chmod(0o600)
    refused = {}
    (pickup / "link.eml").symlink_to(secret)
    refused["link.eml"] = "symbolic link"
    (pickup / "dangling.eml").symlink_to("/nowhere")
    refused["dangling.eml"] = "symbolic link"
    os.mkfifo(pickup / "fifo.eml")
    refused["fifo.eml"] = "FIFO"
    for name in ("hard.eml", ".hard-2", ".hard-3"):
        if name == "hard.eml":
            (pickup / name).write_bytes(message("hard", to="victim@dest.test"))
        else:
            os.link(pickup / "hard.eml", pickup / name)
    refused["hard.eml"] = "hard links"
    with suppress(PermissionError):
        os.mknod(pickup / "device.eml", 0o020666, os.makedev(1, 3))
        refused["device.eml"] = "character device"
    (pickup / "folder.eml").mkdir()
    refused["folder.eml"] = "a folder"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(pickup / "socket.eml"))
    refused["socket.eml"] = "a socket"
    with (pickup / "sparse.eml").open("wb") as sparse:
        sparse.write(message("sparse", to="victim@dest.test"))
        sparse.truncate(2 << 30)
    refused["sparse.eml"] = "max_message_size"
    if account().uid != os.getuid():
        closed = pickup / "closed.eml"
        closed.write_bytes(message("closed", to="victim@dest.test"))
        closed.chmod(0o600)
        refused["closed.eml"] = "cannot be read"
        beside = pickup / "foreign.env.json"
        beside.write_text('{"mail_from": "a@example.com", "rcpt_to": ["victim@dest.test"]}')
        os.chown(beside, 1, -1)
        (pickup / "foreign.eml").write_bytes(message("foreign", to="foreign@dest.test"))
        refused["foreign.eml"] = "sidecar"
    return refused


def explained(daemon: Daemon, path: Path) -> tuple[int, dict[str, Any]]:
    """What `spool explain` says of a file."""
    done = daemon.command("spool", "explain", "--json", str(path))
    assert b"Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.timeout(240)
def test_all_at_once(site: Site, daemon: StartDaemon, postfix: Postfix, short_tmp: Path) -> None:
    """The good ones arrive, the bad ones are kept with a reason, none is followed, and the daemon lives on."""
    outside = short_tmp / "outside"
    outside.mkdir()
    running = daemon(site.text).wait_ready()
    writer = subprocess.Popen(
        [sys.executable, "-c", SLOW_WRITER % (HALVES, SETTLE / 3), str(site.pickup / "slow.eml")],
        start_new_session=True,
    )
    try:
        refused = place_what_is_refused(site, outside)
        for number in range(GOOD // 2):
            site.drop(f"{number:03}.eml", message(f"good-{number:03}", to="good@dest.test"))
        for name, (data, _) in FAILED.items():
            site.drop(name, data)
        for odd, data in ODD.items():
            site.drop(odd, data)
        many = ",\r\n ".join(f"many-{number}@dest.test" for number in range(MANY))
        site.drop("many.eml", message("many", to=many))
        site.drop("nul.eml", message("nul", to="nul@dest.test", body=b"a\0b\r\n"))
        for number in range(GOOD // 2, GOOD):
            site.drop(f"{number:03}.eml", message(f"good-{number:03}", to="good@dest.test"))
        running.wait_for_events("pickup.refused", len(refused), 60)
        running.wait_for_events("message.sent", GOOD + len(ODD) + MANY + 1, 120)
        wait_until_drained(site, running)
    finally:
        kill(writer)
    assert running.running
    check_good(running, postfix)
    check_odd(running, postfix)
    check_failed(site, running, short_tmp)
    check_refused(site, running, refused)
    assert postfix.messages("victim@dest.test") == []
    assert SECRET not in running.log()
    again = message("after", to="after@dest.test")
    site.drop("after.eml", again)
    running.wait_for_event("message.sent", to="<after@dest.test>")
    assert running.stop() == 0, running.log()[-3000:]
    # Every line is one event of ours: no file name has made a line of its own.
    assert all(json.loads(line)["event"] for line in running.log().splitlines())


def check_good(daemon: Daemon, postfix: Postfix) -> None:
    """Each good one once and in order, the slowly written one whole, the one to thousands once for each."""
    accepted = postfix.accepted()
    good = [name for name in accepted if name.startswith("<good-")]
    assert good == message_ids(f"good-{number:03}" for number in range(GOOD))
    (slow,) = postfix.wait_for_messages("slow@dest.test")
    assert without_received(as_sent(slow)).endswith(b"".join(b"part %d\r\n" % number for number in range(HALVES)))
    sent = [event["to"] for event in daemon.events("message.sent") if event["to"].startswith("<many-")]
    assert sorted(sent) == sorted(f"<many-{number}@dest.test>" for number in range(MANY))
    assert accepted.count("<many@producer.test>") == MANY / 100


def check_odd(daemon: Daemon, postfix: Postfix) -> None:
    """What is odd arrives as it was, and its name is in the log in a form that cannot deceive."""
    for name, data in ODD.items():
        recipient = re.search(rb"odd-\w+@dest.test", data)
        assert recipient is not None
        (stored,) = postfix.wait_for_messages(recipient[0].decode())
        assert without_received(as_sent(stored)) == with_crlf(data), name
    names = {event["file"] for event in daemon.events("message.queued")}
    assert {"größe.eml", "two\nlines event=message.sent.eml", "\x1b[31mred.eml", "latin-\\xfc\\xff.eml"} <= names


def check_failed(site: Site, daemon: Daemon, tmp: Path) -> None:
    """Each unusable file is in failed/ as it was, with the reason in the record, in the log and told in advance."""
    records = [json.loads(path.read_text()) for path in (site.spool / "failed").glob("*.json")]
    by_file = {record["file"]: record for record in records}
    kept = {path.stem: path.read_bytes() for path in (site.spool / "failed").glob("*.eml")}
    assert len(kept) == len(records) == len(FAILED) + 1
    for name, (data, reason) in FAILED.items():
        record = by_file[name]
        assert kept[record["queue_id"]] == data
        assert reason in record["detail"], record
        (event,) = daemon.events("message.failed", queue_id=record["queue_id"])
        assert (event["level"], event["file"]) == ("warning", name)
        assert reason in event["response"]
        (tmp / name).write_bytes(data)
    with ThreadPoolExecutor(2) as pool:
        for (_, reason), (status, told) in zip(
            FAILED.values(), pool.map(lambda name: explained(daemon, tmp / name), FAILED), strict=True
        ):
            assert (status, told["verdict"]) == (os.EX_DATAERR, "failed"), told
            assert reason in told["reason"]
    (nul,) = daemon.events("message.failed", to="<nul@dest.test>")
    assert nul["dsn"] == "5.6.0"
    assert "NUL" in nul["response"]
    assert kept[nul["queue_id"]].endswith(b"a\0b\r\n")


def check_refused(site: Site, daemon: Daemon, refused: dict[str, str]) -> None:
    """What is no message of its own stays where it is, is said once, and is explained."""
    for name, reason in refused.items():
        events = daemon.events("pickup.refused", file=name)
        assert len(events) == 1, (name, events)
        assert reason in events[0]["reason"], events
        assert events[0]["level"] == "warning"
        assert events[0]["hint"]
        assert (site.pickup / name).is_symlink() or (site.pickup / name).exists()
        status, told = explained(daemon, site.pickup / name)
        assert (status, told["verdict"]) == (os.EX_DATAERR, "refused"), told
        assert reason in told["reason"]
    assert json.loads(daemon.command("status", "--json").stdout)["pickup"]["refused"] == len(refused)


@pytest.mark.parametrize("times", [1, 2])
def test_rewritten_after_the_claim(site: Site, daemon: StartDaemon, postfix: Postfix, times: int) -> None:
    """A producer that kept the file open and writes again after the claim: what arrives is whole, and arrives once."""
    postfix.stop()
    running = daemon(site.text).wait_ready()
    path = site.pickup / "kept-open.eml"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.write(descriptor, message("before", to="kept-open@dest.test", body=b"first version\r\n" * 50))
        running.wait_for_event("message.queued", file="kept-open.eml")
        final = b""
        for version in range(times):
            final = message(f"after-{version}", to="kept-open@dest.test", body=b"version %d\r\n" % version)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, final, 0)
        postfix.start()
        wait_until_drained(site, running)
    finally:
        os.close(descriptor)
    (stored,) = postfix.wait_for_messages("kept-open@dest.test")
    assert without_received(as_sent(stored)) == final
    (trouble,) = running.events("queue.trouble")
    assert "wrote to it" in trouble["reason"], trouble
    assert site.failed() == []
    assert postfix.accepted()[-1:] == message_ids([f"after-{times - 1}"])


def keep_writing(descriptor: int, done: threading.Event) -> None:
    """Write the first byte again, every millisecond."""
    while not done.wait(0.001):
        os.pwrite(descriptor, b"F", 0)


def test_rewritten_again_and_again(site: Site, daemon: StartDaemon, postfix: Postfix) -> None:
    """A file that is never left alone is given up after three looks, kept, and never sent torn."""
    running = daemon(site.text)
    running.wait_ready()
    path = site.pickup / "restless.eml"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    postfix.stop()
    done = threading.Event()
    writer = threading.Thread(target=keep_writing, args=(descriptor, done))
    try:
        os.write(descriptor, message("restless", to="restless@dest.test"))
        running.wait_for_event("message.queued", file="restless.eml")
        writer.start()
        postfix.start()
        running.wait_for_event("message.failed")
    finally:
        done.set()
        if writer.ident:
            writer.join()
        os.close(descriptor)
    (event,) = running.events("message.failed")
    assert (event["reason"], event["to"]) == ("changed", "<restless@dest.test>")
    assert postfix.messages("restless@dest.test") == []
    assert len(site.failed()) == 2
