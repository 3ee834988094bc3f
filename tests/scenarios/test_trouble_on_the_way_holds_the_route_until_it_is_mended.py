"""Wrong password, bad certificates, no DNS, no STARTTLS, closed port, refused sender: mail waits, and says for what."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.scenarios.steps import PASSWORD, Site, message, message_ids, no_secret, site_for, wait_until_drained
from tests.servers.certificates import Certificates
from tests.servers.daemon import Daemon, StartDaemon, account
from tests.servers.postfix import Postfix
from tests.servers.process import wait_until

NUMBERS = range(4)
WRONG = "wrong pony"


@pytest.fixture
def site(postfix: Postfix, certificates: Certificates, spool_dir: Path, state_dir: Path) -> Site:
    return site_for(postfix, certificates, spool_dir, state_dir)


def held(site: Site, daemon: Daemon, stage: str, said: str) -> None:
    """Mail was dropped, nothing came of it but two `route.down` of this stage with these words in the response."""
    for number in NUMBERS:
        site.drop(f"{number}.eml", message(number))
    first = daemon.wait_for_event("route.down")
    assert first["reason"] == stage, first
    assert said.casefold() in first["response"].casefold(), first
    assert first["level"] == "warning"
    daemon.wait_for_event("route.down", attempt=2)
    again = daemon.events("route.down")[1]
    assert (again["level"], again["reason"]) == ("info", "same as last"), again
    status = daemon.command("status")
    assert b"held" in status.stdout, status
    assert said.encode().lower() in status.stdout.lower(), status
    wait_until(lambda: len(site.waiting()) >= len(NUMBERS), 10, daemon.log)
    assert [name for name in site.waiting() if not name.endswith(".eml")] == []
    assert site.failed() == []
    assert daemon.events("message.failed") == daemon.events("message.sent") == []
    for text in (daemon.log(), status.stdout.decode()):
        assert no_secret(text)
        assert WRONG not in text


def drained(site: Site, daemon: Daemon, postfix: Postfix, *, reloaded: bool = False) -> None:
    """After the cause is gone everything goes out, in order, once, at the next probe."""
    began = time.monotonic()
    wait_until_drained(site, daemon)
    assert time.monotonic() - began < 10
    daemon.wait_for_events("message.sent", len(NUMBERS))
    up = daemon.events("route.up")[-1]
    assert reloaded or up["outage"] > 0  # a reload begins a new route, which knows of no outage
    assert postfix.accepted() == message_ids(NUMBERS)
    assert site.failed() == []
    assert no_secret(daemon.log())
    assert daemon.stop() == 0


def reload(site: Site, daemon: Daemon) -> None:
    """Put the site's configuration, as it is now, into force."""
    daemon.configure(site.text)
    done = daemon.command("reload")
    assert done.returncode == 0, done


def write_secret(path: Path, secret: str) -> Path:
    """A password for the daemon's user and nobody else."""
    path.touch(mode=0o600)
    path.write_text(secret + "\n")
    return account().own(path)


def test_wrong_password(site: Site, daemon: StartDaemon, postfix: Postfix) -> None:
    """A refused login is read anew from its file at every probe: putting the right one there is enough."""
    secret = write_secret(site.state / "password", WRONG)
    site.password = f"file:{secret}"
    running = daemon(site.text).wait_ready()
    held(site, running, "auth", "535 5.7.8")
    write_secret(secret, PASSWORD)
    drained(site, running, postfix)


def test_missing_password_file(site: Site, daemon: StartDaemon, postfix: Postfix) -> None:
    """The file of the password may be gone for a while."""
    secret = write_secret(site.state / "password", PASSWORD)
    site.password = f"file:{secret}"
    running = daemon(site.text).wait_ready()
    secret.unlink()
    held(site, running, "auth", str(secret))
    write_secret(secret, PASSWORD)
    drained(site, running, postfix)


@pytest.mark.parametrize(
    ("name", "said"), [("expired", "expired"), ("wrong_host", "localhost"), ("self_signed", "self-signed")]
)
def test_bad_certificate(
    site: Site, daemon: StartDaemon, postfix: Postfix, certificates: Certificates, name: str, said: str
) -> None:
    """No login and no mail to a server that cannot prove who it is; a good certificate there is enough."""
    pair = getattr(certificates, name)
    with postfix.configured(smtpd_tls_cert_file=str(pair.certificate), smtpd_tls_key_file=str(pair.key)):
        running = daemon(site.text).wait_ready()
        held(site, running, "tls", said)
        assert "sasl_method" not in postfix.log()
    drained(site, running, postfix)


def test_starttls_not_offered(site: Site, daemon: StartDaemon, postfix: Postfix) -> None:
    """Where TLS is stripped nothing is said in clear, not even with AUTH offered."""
    with postfix.configured(smtpd_tls_security_level="none", smtpd_tls_auth_only="no"):
        running = daemon(site.text).wait_ready()
        held(site, running, "starttls", "STARTTLS")
        assert "sasl_method" not in postfix.log()
    drained(site, running, postfix)


def spoil_host(site: Site) -> Callable[[], None]:
    good, site.host = site.host, "no-such-host.invalid"
    return lambda: setattr(site, "host", good)


def spoil_port(site: Site) -> Callable[[], None]:
    good, site.port = site.port, 1
    return lambda: setattr(site, "port", good)


@pytest.mark.parametrize(("spoil", "said"), [(spoil_host, "no-such-host.invalid"), (spoil_port, "refused")])
def test_nobody_there(
    site: Site, daemon: StartDaemon, postfix: Postfix, spoil: Callable[[Site], Callable[[], None]], said: str
) -> None:
    """A name that does not resolve and a closed port are corrected in the configuration and by a reload."""
    mend = spoil(site)
    running = daemon(site.text).wait_ready()
    held(site, running, "connect", said)
    mend()
    reload(site, running)
    drained(site, running, postfix, reloaded=True)


def test_sender_not_ours(site: Site, daemon: StartDaemon, postfix: Postfix) -> None:
    """A server that refuses our from_address refuses the configuration, not the mail, though it says so at RCPT."""
    site.from_address = "other@example.com"
    with postfix.configured(smtpd_sender_restrictions="reject_sender_login_mismatch"):
        running = daemon(site.text).wait_ready()
        held(site, running, "rcpt", "Sender address rejected")
        site.from_address = "noreply@example.com"
        reload(site, running)
        drained(site, running, postfix, reloaded=True)
