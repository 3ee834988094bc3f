"""`mailrelayd demo`, as a newcomer has it: a process, its output, its exit status, and nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from mailrelayd.demo.mails import hello, purchase
from tests.servers.daemon import account
from tests.servers.process import end, wait_until

DEMO = ("-m", "mailrelayd", "demo")


def started(folder: Path, arguments: Sequence[str], output: Path) -> subprocess.Popen[bytes]:
    """The interpreter with these arguments, as an ordinary user, with `folder` for temporary files."""
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(folder), "HOME": "/nonexistent"}
    with output.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=environment,
            start_new_session=True,
            **account().switch,
        )


def ended(folder: Path, arguments: Sequence[str], output: Path) -> tuple[int, str]:
    """The exit status and everything printed, once it has ended by itself."""
    process = started(folder, arguments, output)
    try:
        status = process.wait(60)
    finally:
        end(process)
    return status, output.read_text(encoding="utf-8")


def processes_in(folder: Path) -> list[str]:
    """The command lines that name this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:  # it has just ended
            continue
        if str(folder) in line:
            found.append(line)
    return found


def test_the_whole_story_is_told_and_true(short_tmp: Path, tmp_path: Path) -> None:
    """Eleven steps, a summary, the checks; nothing of it remains."""
    status, text = ended(short_tmp, [*DEMO, "--once"], tmp_path / "output")
    assert status == os.EX_OK, text
    steps = re.findall(r"^(\d+)\. (.*)", text, re.MULTILINE)
    assert [int(number) for number, _ in steps] == list(range(1, 12))
    told = " ".join(text.split())
    for piece in (
        "1. The daemon starts",
        "| password = ",
        "daemon.ready outbound=demo waiting=0",
        "2. A program writes hello.eml",
        "=> It was sent ",
        "3. order.eml has three recipients",
        "=> nobody@example.com: failed: 550 5.1.1 No such mailbox here.",
        "late@example.com: sent ",
        ", at try 2.",
        "4. empty.eml",
        "with the reason: the file is empty.",
        "5. purchase.eml is an ordinary mail with one more line in its header, X-Approval-Request: PO-42.",
        '| authserv_id = ["mx.example.com"]',
        "request.opened",
        "=> carol@example.com got a copy with Reply-To: approvals+",
        "6. Two answers arrive",
        "=> The notice is auto-reply",
        "=> The forgery is untrusted, sender-not-authenticated: its token is valid, but mx.example.com found",
        "7. Boss answers from Outlook",
        '| "type": "org.mailrelayd.decision.approved"',
        '"decided_by": {"address": "boss@example.com", "on_behalf_of": null}',
        "=> approved.",
        "is offered again to erp",
        "8. Carol answers from her iPhone",
        "=> rejected, comment: zu teuer.",
        "PO-42 decided from",
        "=> Everybody has answered. The mailbox is empty: 4 mails were removed",
        "9. The server goes away",
        "| 5 waiting",
        "held for",
        'reason="same as last"',
        "10. The server comes back.",
        "over one connection, in the order they were dropped.",
        "11. SIGTERM",
        "It ended with status 0",
        "What was dropped, and what became of it hello.eml ops@example.com sent ",
        "nothing is waiting",
        "12 outcomes: 10 sent, 2 failed, 0 queued; what was sent arrived exactly once",
        "byte for byte",
        "ok the consumer got 3 documents (untrusted, approved, rejected)",
    ):
        assert piece in told, piece
    checked = text[text.index("\nChecked\n") :].splitlines()[2:]
    assert all(line.startswith(("   ok ", "    ")) for line in checked), checked
    assert "\x1b" not in text
    assert max(len(line) for line in text.splitlines()) <= 100
    assert list(short_tmp.iterdir()) == []


LOSES_A_BYTE = """
import sys
from mailrelayd.__main__ import main
from mailrelayd.demo.server import Server
from mailrelayd.demo.story import Demo
right = Server.handle_DATA
async def handle_DATA(self, server, session, envelope):
    if session.auth_data == "demo":
        envelope.original_content = envelope.original_content[:-3] + envelope.original_content[-2:]
    return await right(self, server, session, envelope)
async def nothing(self):
    pass
Server.handle_DATA = handle_DATA
Demo._outage = nothing
sys.exit(main(["demo", "--once"]))
"""


def test_a_story_that_is_not_true_fails(short_tmp: Path, tmp_path: Path) -> None:
    """With a byte of each mail lost on the way, it says so, keeps its folder and ends with EX_SOFTWARE."""
    status, text = ended(short_tmp, ["-c", LOSES_A_BYTE], tmp_path / "output")
    assert status == os.EX_SOFTWARE
    (untrue,) = re.findall(r"^   UNTRUE (.*)", text, re.MULTILINE)
    assert "byte for byte" in untrue
    (folder,) = short_tmp.iterdir()
    assert f"hint: look into {folder}" in text
    assert (folder / "daemon.log").exists()
    assert processes_in(short_tmp) == []


BELIEVES_ANYBODY = """
import re, sys
from mailrelayd.__main__ import main
from mailrelayd.demo.mailbox import Mailbox
from mailrelayd.demo.story import Demo
right = Mailbox.file
def file(self, content):
    return right(self, re.sub(rb"dmarc=fail", b"dmarc=pass", content))
async def nothing(self):
    pass
Mailbox.file = file
Demo._outage = nothing
sys.exit(main(["demo", "--once"]))
"""


def test_a_forgery_that_counts_fails_the_story(short_tmp: Path, tmp_path: Path) -> None:
    """With a mail server that vouches for anybody the forged approval is one, and the demonstration says so."""
    status, text = ended(short_tmp, ["-c", BELIEVES_ANYBODY], tmp_path / "output")
    assert status == os.EX_SOFTWARE
    untrue = re.findall(r"^   UNTRUE (.*)", text, re.MULTILINE)
    assert "the forged approval was not taken for one" in untrue
    assert "Carol's rejection was read as one, in German" in untrue
    assert processes_in(short_tmp) == []


def test_a_signal_ends_the_daemon_too_and_leaves_nothing(short_tmp: Path, tmp_path: Path) -> None:
    """In the middle of the story, as with Ctrl-C."""
    output = tmp_path / "output"
    process = started(short_tmp, [*DEMO, "--once"], output)
    try:
        wait_until(lambda: "message.deferred" in output.read_text(), 20, output.read_text)
        assert any(" run " in line for line in processes_in(short_tmp))
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 128 + signal.SIGINT
    finally:
        end(process)
    assert processes_in(short_tmp) == []
    assert list(short_tmp.iterdir()) == []
    assert "Traceback" not in output.read_text()


def test_without_its_packages_it_says_what_to_install(short_tmp: Path, tmp_path: Path) -> None:
    """The server it needs is no part of an installation for production."""
    code = 'import sys; sys.modules["aiosmtpd"] = None; from mailrelayd.__main__ import main; sys.exit(main(["demo"]))'
    status, text = ended(short_tmp, ["-c", code], tmp_path / "output")
    assert status == os.EX_UNAVAILABLE
    assert text == (
        "error: the demonstration needs the package aiosmtpd\n"
        f"hint: {sys.executable} -m pip install 'aiosmtpd~=1.4.6' 'trustme~=1.2'\n"
    )


@pytest.mark.parametrize("wrong", ["2", "-0.1", "nan", "often"])
def test_chaos_is_a_probability(short_tmp: Path, tmp_path: Path, wrong: str) -> None:
    """Anything else is a usage error."""
    status, text = ended(short_tmp, [*DEMO, f"--chaos={wrong}"], tmp_path / "output")
    assert status == os.EX_USAGE
    assert "is no probability" in text


def test_the_bytes_are_really_compared() -> None:
    """Only what the daemon promises to add and to take away may differ."""
    mail = hello()
    mail.queue_id = "3n2synukjkr7efp4"
    header, _, body = mail.content.replace(b"\n", b"\r\n").partition(b"\r\n\r\n")
    received = b"Received: by demo (mailrelayd) with local id 3n2synukjkr7efp4 (uid 0);\r\n\tSat, 21 Nov 2026\r\n"
    added = b"\r\nMessage-ID: <3n2synukjkr7efp4@demo>\r\nDate: Sat, 21 Nov 2026 10:00:00 +0000"
    right = received + header + added + b"\r\n\r\n" + body
    assert mail.equals(right)
    for wrong in (
        right + b"\r\n",
        right.replace(b"\r\n.\r\n", b"\r\n"),
        right.replace(b"   \r\n", b"\r\n"),
        right.replace("ü".encode(), b"ue"),
        right.removeprefix(received),
        right.replace(added, b""),
        right.replace(b"Subject: Hello", b"Subject: hello"),
        right.replace(b"\r\nDate:", b"\r\nBcc: x@example.com\r\nDate:"),
    ):
        assert not mail.equals(wrong)


def test_an_approvers_copy_differs_by_its_token_only() -> None:
    """The same token in all three places; the line that asks is gone."""
    mail = purchase()
    mail.queue_id = "3n2synukjkr7efp4"
    header, _, body = mail.content.replace(b"\n", b"\r\n").partition(b"\r\n\r\n")
    kept = header.replace(b"\r\nX-Approval-Request: PO-42", b"")
    token, other = b"a" * 44, b"b" * 44
    received = b"Received: by demo (mailrelayd) with local id 3n2synukjkr7efp4 (uid 0);\r\n\tSat, 21 Nov 2026\r\n"
    added = (
        b"\r\nReferences: <%b@demo>\r\nReply-To: approvals+%b@example.com\r\n"
        b"Message-ID: <%b.3n2synukjkr7efp4@demo>\r\nAuto-Submitted: auto-generated\r\n"
        b"Date: Sat, 21 Nov 2026 10:00:00 +0000"
    )
    right = received + kept + added % (token, token, token) + b"\r\n\r\n" + body
    assert mail.equals(right)
    assert not mail.equals(received + kept + added % (token, other, token) + b"\r\n\r\n" + body)
    assert not mail.equals(right.replace(kept, header))
    assert not mail.equals(received + kept + b"\r\n\r\n" + body)
