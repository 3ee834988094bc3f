"""Software that was written for IIS, Exchange, a Maildir or a plain folder drops its files, and the mail arrives."""

from __future__ import annotations

import fcntl
import json
import mailbox
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.scenarios.steps import SETTLE, Site, message, site_for, with_crlf, without_received
from tests.servers.certificates import Certificates
from tests.servers.daemon import Daemon, StartDaemon
from tests.servers.postfix import Postfix, as_sent

GUID = "6f2d9c52-1d3a-4f6e-9a54-0c7f3f1f2a10.eml"


@pytest.fixture
def site(postfix: Postfix, certificates: Certificates, spool_dir: Path, state_dir: Path) -> Site:
    made = site_for(postfix, certificates, spool_dir, state_dir)
    made.more["pickup.dotnet"] = ['envelope = "pickup"']
    made.more["pickup.exchange"] = ['envelope = "pickup"']
    return made


@pytest.fixture
def running(site: Site, daemon: StartDaemon) -> Daemon:
    return daemon(site.text).wait_ready()


def arrived(postfix: Postfix, recipient: str) -> bytes:
    """The one message of this recipient, as the daemon sent it, without its Received line."""
    (stored,) = postfix.wait_for_messages(recipient)
    return without_received(as_sent(stored))


def test_dotnet_writes_in_place_under_a_shared_lock(site: Site, running: Daemon, postfix: Postfix) -> None:
    """SmtpClient with SpecifiedPickupDirectory: FileMode.CreateNew, flock(LOCK_SH), X-Sender and X-Receiver on top.

    However long it pauses, the half of it is not taken; and its lock never meets ours.
    """
    block = b"X-Sender: app@example.com\r\nX-Receiver: to@dest.test\r\nX-Receiver: hidden@dest.test\r\n"
    mail = message("dotnet", to="to@dest.test", body=b".a line with a dot\r\nend\r\n")
    path = site.pickup / "dotnet" / GUID
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.write(descriptor, block + mail[:100])
        for number in range(3):  # each takes `settle`, begun after the half was written
            (site.pickup / "dotnet" / f"{number}.eml").write_bytes(message(f"other-{number}"))
            running.wait_for_events("message.sent", number + 1)
        assert path.exists()
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.write(descriptor, mail[100:])
    finally:
        os.close(descriptor)
    assert arrived(postfix, "to@dest.test") == mail
    assert arrived(postfix, "hidden@dest.test") == mail
    (queued,) = running.events("message.queued", file=GUID)
    assert (queued["producer"], queued["rule"], queued["from"]) == ("dotnet", "pickup", "<app@example.com>")


def test_exchange_replay_headers_stay_in_the_house(site: Site, running: Daemon, postfix: Postfix) -> None:
    """A replay file's envelope is its block, parameters and all; nothing of the block goes out, all the rest does."""
    block = (
        b"X-Sender: <replay@example.com> BODY=8BITMIME RET=HDRS ENVID=1234 auth=<>\r\n"
        b"X-Receiver: <to@dest.test> NOTIFY=SUCCESS,FAILURE ORcpt=rfc822;to@dest.test\r\n"
        b"X-CreatedBy: MSExchange15\r\nX-HeloDomain: hub.example.com\r\nX-Source: SMTP:Default HUB\r\n"
        b"X-SourceIPAddress: 192.0.2.7\r\n"
        b"X-ExtendedMessageProps: <e n='Microsoft.Exchange.Transport.MailRecipient.DisplayName'>a\r\n\tb</e>\r\n"
        b"X-EndOfInjectedXHeaders: 1410\r\n"
    )
    kept = message("replay", to="somebody-else@dest.test", more=b"X-Source-Of-Truth: kept\r\nX-Sender: lower@x\r\n")
    site.drop("exchange/replay.eml", block + kept)
    assert arrived(postfix, "to@dest.test") == kept
    assert running.events("message.queued")[0]["from"] == "<replay@example.com>"


def in_place(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def by_filepart(path: Path, data: bytes) -> None:
    """WinSCP's upload: no event at all comes for the final name but IN_CREATE."""
    part = path.with_name(f"{path.name}.filepart")
    part.write_bytes(data)
    os.link(part, path)
    part.unlink()


def by_hidden_file(path: Path, data: bytes) -> None:
    """rsync's upload: .NAME.XXXXXX, then a rename."""
    part = path.with_name(f".{path.name}.a1B2c3")
    part.write_bytes(data)
    part.rename(path)


def appended(path: Path, data: bytes) -> None:
    """A copy in pieces, each of them opened anew (cp, SMB, SFTP without a part file)."""
    for start in range(0, len(data), 50):
        with path.open("ab") as file:
            file.write(data[start : start + 50])


def opened_up(path: Path, data: bytes) -> None:
    """mkstemp, as many safe-file libraries, with the one line that makes it readable."""
    descriptor, name = tempfile.mkstemp(dir=path.parent / "tmp")
    os.write(descriptor, data)
    os.fchmod(descriptor, 0o640 if os.getuid() else 0o644)  # root's files have no group that the daemon is in
    os.close(descriptor)
    Path(name).rename(path)


WAYS: dict[str, Callable[[Path, bytes], None]] = {
    "in-place": in_place,
    "winscp": by_filepart,
    "rsync": by_hidden_file,
    "pieces": appended,
    "mkstemp": opened_up,
}


def test_every_way_to_put_a_file_there(site: Site, running: Daemon, postfix: Postfix) -> None:
    """MailKit's recipe, uploads and copies need no change: each file is sent once and whole."""
    mails = {name: message(name, body=b"line\r\n" * 100) for name in WAYS}
    for name, put in WAYS.items():
        put(site.pickup / f"{name}.eml", mails[name])
    running.wait_for_events("message.sent", len(WAYS))
    for name, mail in mails.items():
        assert arrived(postfix, f"to-{name}@dest.test") == mail, name


def test_pythons_maildir_delivers_into_new(site: Site, running: Daemon, postfix: Postfix) -> None:
    """mailbox.Maildir on the pickup folder itself: tmp/, a link into new/, and no name that ends in .eml."""
    maildir = mailbox.Maildir(site.pickup, create=False)
    mail = message("maildir", to="maildir@dest.test").replace(b"\r\n", b"\n")
    maildir.add(mail)
    assert arrived(postfix, "maildir@dest.test") == with_crlf(mail)
    assert running.events("pickup.refused") == []


def test_a_file_closed_to_the_daemon_is_named_with_its_cure(site: Site, running: Daemon, postfix: Postfix) -> None:
    """mkstemp without fchmod: one sentence, nothing lost, and the mail goes once the mode is right."""
    if os.getuid() != 0:
        pytest.skip("as the daemon's own user no file is closed to it")
    descriptor, name = tempfile.mkstemp(dir=site.pickup / "tmp")
    os.write(descriptor, message("closed"))
    os.close(descriptor)
    path = Path(name).rename(site.pickup / "new" / "closed")
    refused = running.wait_for_event("pickup.refused")
    assert (refused["file"], refused["owner"]) == ("closed", "root")
    assert refused["reason"] == "cannot be read: mode 0600, owner root"
    assert refused["hint"] == (
        "the producer must make it readable for the group, e.g. os.fchmod(fd, 0o640) before the rename, "
        "or hand it in by `mailrelayd submit`"
    )
    path.chmod(0o644)
    path.rename(path.with_name("opened"))
    assert arrived(postfix, "to-closed@dest.test") == message("closed")
    assert len(running.events("pickup.refused")) == 1


SWIFT = b'O:13:"Swift_Message":1:{s:38:"\0Swift_Mime_SimpleMimeEntity\0_headers";N;}'
DJANGO = (
    b'Content-Type: text/plain; charset="utf-8"\nMIME-Version: 1.0\nContent-Transfer-Encoding: 7bit\n'
    b"Subject: one\nFrom: app@example.com\nTo: one@dest.test\nDate: Sat, 21 Nov 2026 08:00:00 -0000\n"
    b"Message-ID: <1@app>\n\nbody\n" + b"-" * 79 + b"\n"
)
NEVER = {  # what would go to the wrong people, or to nobody, if it were guessed at
    "django.eml": (
        DJANGO + DJANGO.replace(b"one@", b"two@"),
        "it ends with the 79 dashes of Django's file backend, which puts several mails into one file and leaves out "
        "Bcc: hand in one mail per file, or use another backend",
    ),
    "swift.eml": (SWIFT, "line 1 of the header holds a NUL byte: this is not a mail"),
    "nullmailer.eml": (
        b"app@example.com\none@dest.test\n\n" + message("nullmailer"),
        "line 1 ('app@example.com') is no header field: a mail begins with fields such as From: and To:",
    ),
}


def test_what_is_no_message_of_its_own_fails_with_a_sentence(site: Site, running: Daemon) -> None:
    """Django's and Swift's own spools renamed to .eml; under their own names they are not touched."""
    for name, (data, _) in NEVER.items():
        site.drop(name, data)
        site.drop(f"{name}.log", data)
    for name, (_, sentence) in NEVER.items():
        failed = running.wait_for_event("message.failed", file=name)
        assert failed["response"] == sentence
        told = running.command("spool", "explain", str(site.pickup / f"{name}.log"))
        assert sentence in told.stdout.decode()
        assert "this name is never taken" in told.stdout.decode()
        assert (site.pickup / f"{name}.log").exists()
    site.drop("good.eml", message("good"))
    (sent,) = running.wait_for_events("message.sent", 1)
    assert sent["to"] == "<to-good@dest.test>"


def test_a_reload_brings_and_takes_producers(site: Site, running: Daemon, postfix: Postfix) -> None:
    """A new [pickup.NAME] is read at once; what lies in the folder of a removed one stays, and that is said."""
    site.more["pickup.shop"] = ['allowed_senders = ["@example.com"]']
    del site.more["pickup.exchange"]
    site.drop("exchange/.kept", message("kept"))
    running.configure(site.text)
    assert running.command("reload").returncode == 0
    (site.pickup / "exchange/.kept").rename(site.pickup / "exchange/kept.eml")
    site.drop("shop/new/one", message("shop"))
    site.drop("shop/two.eml", message("forged").replace(b"producer@example.com", b"boss@dest.test"))
    assert arrived(postfix, "to-shop@dest.test") == message("shop")
    failed = running.wait_for_event("message.failed", file="shop/two.eml")
    assert failed["response"] == (
        "From names 'boss@dest.test' as sender, which [pickup.shop] allowed_senders does not allow in this folder"
    )
    site.more["spool"] = [f'settle = "{SETTLE * 2}s"']
    text = site.text.replace(f'settle = "{SETTLE}s"\n', "")
    running.configure(text)
    assert running.command("reload").returncode == 0
    refused = running.wait_for_event("pickup.refused", file="exchange/")
    assert refused["reason"] == "is not read, as the configuration has no [pickup.exchange]; files that wait there: 1"
    assert (site.pickup / "exchange/kept.eml").exists()
    told = running.command("spool", "explain", "--json", str(site.pickup / "exchange/kept.eml"))
    assert (told.returncode, b"the configuration has no [pickup.exchange]" in told.stderr) == (78, True)


def test_explain_knows_folders_keys_and_senders(site: Site, daemon: StartDaemon, short_tmp: Path) -> None:
    """Where a file stands decides, or `--producer`; a file is asked about before it is renamed, or as a copy."""
    site.more["pickup.shop"] = ['allowed_senders = ["@example.com"]']
    program = daemon(site.text, start=False)
    (site.pickup / "dotnet/tmp").mkdir(parents=True)
    block = b"X-Sender: app@example.com\r\nX-Receiver: to@dest.test\r\n" + message("x")
    (site.pickup / "dotnet/tmp/x").write_bytes(block)
    copy = short_tmp / "copy.eml"
    copy.write_bytes(block.replace(b"From: Producer <producer@", b"From: Boss <boss@other."))
    copy.with_name("copy.env.json").write_text(
        '{"mail_from": "app@example.com", "rcpt_to": ["a@dest.test"], "idempotency_key": "order 42",'
        ' "not_before": "2026-12-01T08:00:00Z"}'
    )
    in_place = program.command("spool", "explain", "--json", str(site.pickup / "dotnet/tmp/x"))
    told = json.loads(in_place.stdout)
    assert (told["verdict"], told["producer"], told["rule"], told["recipients"]) == (
        *("taken", "dotnet", "pickup"),
        ["to@dest.test"],
    )
    assert "note" not in told
    text = program.command("spool", "explain", str(copy)).stdout.decode()
    assert "key         order 42: used within 24 hours, it would be dropped" in text
    assert "not before  2026-12-01 08:00:00 UTC" in text
    shop = program.command("spool", "explain", "--producer", "shop", str(copy))
    assert shop.returncode == 65
    assert (
        "From names 'boss@other.example.com' as sender, which [pickup.shop] allowed_senders does not allow"
        in shop.stdout.decode()
    )
    nobody = program.command("spool", "explain", "--producer", "nobody", str(copy))
    assert (nobody.returncode, nobody.stderr.decode().splitlines()) == (
        78,
        [
            "error: the configuration has no [pickup.nobody]: the folder pickup/nobody is not read",
            "hint: names there are: dotnet, exchange, shop",
        ],
    )
