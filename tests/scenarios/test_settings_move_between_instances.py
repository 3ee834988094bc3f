"""What was tried on the test machine goes to production: accounts, JavaMail's properties; what is protected stays."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.scenarios.steps import Site, message, message_ids, site_for, wait_until_drained
from tests.servers.certificates import Certificates
from tests.servers.daemon import Daemon, StartDaemon
from tests.servers.postfix import Postfix

MINE = '# Only here.\n[inbound.mine]\nenabled = false\nprotected = true\nhost = "mine.example.com"\n'


@pytest.fixture
def site(postfix: Postfix, certificates: Certificates, spool_dir: Path, state_dir: Path) -> Site:
    return site_for(postfix, certificates, spool_dir, state_dir)


def operator(daemon: Daemon, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """A command by whom the configuration belongs to, who is not the daemon's user."""
    command = [sys.executable, "-m", "mailrelayd", "--config", str(daemon.configuration), *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=30)


def test_an_account_moves_into_a_running_daemon(
    site: Site, daemon: StartDaemon, postfix: Postfix, free_port: Callable[[], int], tmp_path: Path
) -> None:
    """The mail that waited for a wrong port goes out by the imported one, and what is protected stays."""
    right = site.text.replace(
        "[outbound.smarthost]\n", '[outbound.smarthost]\ndescription = "tried"\nprotected = true\n'
    )
    other = tmp_path / "other" / "mailrelayd.toml"
    other.parent.mkdir()
    other.write_text(right + '[inbound.answers]\nenabled = false\nhost = "imap.example.com"\n')

    site.port, wrong = free_port(), site.port
    running = daemon("# Production.\n" + site.text + MINE).wait_ready()
    site.port = wrong
    pid = running.pid
    site.drop("0.eml", message(0))
    running.wait_for_event("route.down")

    shown = operator(running, "config", "import", str(other), "--dry-run")
    assert shown.returncode == os.EX_OK, shown
    assert b"keep    inbound.mine: protected = true here" in shown.stdout
    assert b"change  outbound.smarthost.port" in shown.stdout
    before = running.configuration.read_text()
    taken = operator(running, "config", "import", str(other), "--yes")
    assert taken.returncode == os.EX_OK, taken
    after = running.configuration.read_text()
    assert (after.splitlines()[0], MINE in after) == ("# Production.", True)
    assert running.configuration.with_name(f"{running.configuration.name}.bak").read_text() == before

    reloaded = running.command("reload")
    assert reloaded.returncode == os.EX_OK, reloaded
    loaded = running.events("config.loaded")[-1]
    assert loaded["changed"] == ["inbound.answers", "outbound.smarthost.description", "outbound.smarthost.port"]
    running.wait_for_event("message.sent")
    wait_until_drained(site, running)
    assert (running.pid, postfix.accepted()) == (pid, message_ids([0]))
    assert running.stop() == 0, running.log()[-3000:]


def test_an_import_that_does_not_fit_changes_nothing(site: Site, daemon: StartDaemon, tmp_path: Path) -> None:
    """A second enabled account beside a protected one: refused with both names, and the daemon reloads as before."""
    running = daemon(
        site.text.replace("[outbound.smarthost]\n", "[outbound.smarthost]\nprotected = true\n")
    ).wait_ready()
    before = running.configuration.read_text()
    other = tmp_path / "other.toml"
    other.write_text('[outbound.other]\nhost = "smtp.example.net"\n')
    refused = operator(running, "config", "import", str(other), "--yes")
    assert refused.returncode == os.EX_CONFIG, refused
    assert b'"smarthost" and "other" are both enabled' in refused.stderr
    assert running.configuration.read_text() == before
    reloaded = running.command("reload", "--json")
    assert (reloaded.returncode, b'"changed": []' in reloaded.stdout) == (os.EX_OK, True), reloaded
    assert running.stop() == 0


def test_properties_of_java_become_an_account_that_sends(
    site: Site, daemon: StartDaemon, postfix: Postfix, tmp_path: Path
) -> None:
    """What JavaMail was told, printed as an account, put into conf.d, completed by hand: mail goes out by it."""
    properties = (
        f"mail.transport.protocol=smtp\nmail.smtp.host={site.host}\nmail.smtp.port={site.port}\nmail.smtp.auth=true\n"
        "mail.smtp.user=relay\nmail.smtp.starttls.enable=true\nmail.smtp.ssl.protocols=TLSv1.2\n"
        f"mail.smtp.timeout=5000\nmail.smtp.from={site.from_address}\n"
    )
    smarthost = site.text[site.text.index("[outbound.smarthost]") : site.text.index("[outbound.smarthost.tls]")]
    running = daemon(site.text.replace(smarthost, "").replace("smarthost.tls", "java.tls"), start=False)
    printed = operator(running, "config", "import-properties", "-", "--name", "java", stdin=properties.encode())
    assert printed.returncode == os.EX_OK, printed
    account = printed.stdout.decode()
    assert 'password = "credential:java.password"' in account
    more = running.configuration.parent / "conf.d"
    more.mkdir(exist_ok=True)
    (more / "java.toml").write_text(account.replace("credential:java.password", site.password))
    with postfix.configured(smtpd_tls_loglevel="1"):
        running.start().wait_ready()
        site.drop("0.eml", message(0))
        running.wait_for_event("message.sent")
    assert postfix.accepted() == message_ids([0])
    assert "TLSv1.2" in postfix.log()
    assert "TLSv1.3" not in postfix.log()
    assert running.stop() == 0, running.log()[-3000:]


def test_properties_in_the_file_itself_are_the_account(site: Site, daemon: StartDaemon, postfix: Postfix) -> None:
    """With variables; and what contradicts a key is refused before anything is sent."""
    lines = f'port = {site.port}\nsecurity = "starttls"\n'
    assert lines in site.text
    properties = (
        "[outbound.smarthost.properties]\n"
        f'"mail.${{{{PROTOCOL}}}}.port" = {site.port}\n"mail.${{{{PROTOCOL}}}}.starttls.enable" = "${{{{STARTTLS}}}}"\n'
    )
    running = daemon(site.text.replace(lines, "") + properties).wait_ready()
    site.drop("0.eml", message(0))
    running.wait_for_event("message.sent")
    assert postfix.accepted() == message_ids([0])
    running.configure(site.text.replace(lines, 'security = "tls"\n') + properties.replace('"${{STARTTLS}}"', "true"))
    refused = running.command("reload")
    assert refused.returncode == os.EX_CONFIG, refused
    assert b"contradicts security, which the account writes itself" in refused.stderr
    assert running.stop() == 0, running.log()[-3000:]
