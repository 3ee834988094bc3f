"""No token, a refused one, a provider that is away: mail waits, the cause is said, and once it is mended mail goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.scenarios.tokens import SECRET, TokenSite
from tests.servers.daemon import Daemon, account
from tests.servers.process import wait_until

pytestmark = pytest.mark.real

NUMBERS = (1, 2)
Mend = Callable[[], object]


def mended(site: TokenSite, running: Daemon, *numbers: int) -> None:
    """Everything goes out at the next probe, once and in order, and the route says that it is up again."""
    site.arrived(running, *numbers)
    wait_until(lambda: running.events("route.up")[-1].get("outage", 0) > 0, 10, running.log)
    site.says_no_secret(running)
    assert running.stop() == 0


def spoil_secret(site: TokenSite) -> tuple[Mend, str]:
    path = site.secret_file("secret", "a-wrong-client-secret")
    site.oauth["client_secret"] = f"file:{path}"
    return lambda: path.write_text(SECRET), "AADSTS7000215"


def spoil_expiry(site: TokenSite) -> tuple[Mend, str]:
    app = site.server.entra.apps["app"]
    app.secret_expired = True
    return lambda: setattr(app, "secret_expired", False), "AADSTS7000222"


def spoil_permission(site: TokenSite) -> tuple[Mend, str]:
    app = site.server.entra.apps["app"]
    app.roles = ("IMAP.AccessAsApp",)
    return lambda: setattr(app, "roles", ("IMAP.AccessAsApp", "SMTP.SendAsApp")), "lacks SMTP.SendAsApp"


def spoil_mailbox(site: TokenSite) -> tuple[Mend, str]:
    app = site.server.entra.apps["app"]
    app.mailbox = "somebody-else"
    return lambda: setattr(app, "mailbox", site.user.name), "mailrelayd authorize"


def spoil_answer(mode: str) -> Callable[[TokenSite], tuple[Mend, str]]:
    def spoil(site: TokenSite) -> tuple[Mend, str]:
        site.server.trouble.mode = mode
        return lambda: setattr(site.server.trouble, "mode", ""), "127.0.0.1"

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_secret,
        spoil_expiry,
        spoil_permission,
        spoil_mailbox,
        *(pytest.param(spoil_answer(mode), id=mode) for mode in ("garbage", "redirect", "unavailable")),
    ],
)
def test_no_good_token(token_site: TokenSite, spoil: Callable[[TokenSite], tuple[Mend, str]]) -> None:
    """Nothing fails, the reason is the provider's or the server's own, and no restart is needed afterwards."""
    token_site.reads = False
    token_site.microsoft()
    mend, said = spoil(token_site)
    running = token_site.run()
    token_site.drop(*NUMBERS)
    token_site.held(running, said, count=2)
    mend()
    mended(token_site, running, *NUMBERS)


def test_a_token_for_another_service(token_site: TokenSite) -> None:
    """One for Microsoft Graph is good for nothing here; with the right scope, after a reload, mail goes."""
    token_site.reads = False
    token_site.microsoft(scopes=["https://graph.microsoft.com/.default"])
    running = token_site.run()
    token_site.drop(*NUMBERS)
    token_site.held(running, "the token is for Microsoft Graph", count=2)
    del token_site.oauth["scopes"]
    running.configure(token_site.text)
    assert running.command("reload").returncode == 0
    token_site.arrived(running, *NUMBERS)
    assert running.stop() == 0


def test_a_mailbox_that_may_not_be_read(token_site: TokenSite) -> None:
    """The permission for IMAP alone is missing: mail goes out, the mailbox is down and says why, and comes back."""
    token_site.microsoft()
    app = token_site.server.entra.apps["app"]
    app.roles = ("SMTP.SendAsApp",)
    running = token_site.run()
    down = running.wait_for_event("mailbox.down")
    assert "the token lacks IMAP.AccessAsApp" in down["response"], down
    assert "press Grant admin consent" in down["response"]
    token_site.drop(1)
    token_site.arrived(running, 1)
    app.roles = ("SMTP.SendAsApp", "IMAP.AccessAsApp")
    running.wait_for_event("mailbox.up", timeout=30)
    assert running.events("route.down") == []
    token_site.says_no_secret(running)
    assert running.stop() == 0


def test_the_provider_is_away(token_site: TokenSite) -> None:
    """As long as the token lives nobody notices; then the route is held and probed, and drains when it is back."""
    token_site.reads = False
    token_site.microsoft()
    running = token_site.run()
    token_site.drop(1)
    token_site.arrived(running, 1)
    with token_site.server.away():
        token_site.postfix.restart()
        token_site.drop(2)
        token_site.arrived(running, 1, 2)
        assert running.events("route.down") == []
        token_site.server.issued.expire()
        token_site.postfix.restart()
        token_site.drop(3, 4)
        reason = token_site.held(running, "127.0.0.1", count=2)
        assert "refused" in reason.lower() or "connect" in reason.lower(), reason
        running.wait_for_event("route.down", attempt=2)
    mended(token_site, running, 1, 2, 3, 4)


def test_our_clock_is_ahead(token_site: TokenSite) -> None:
    """A service account's assertion from the provider's future: the clock is named; once it is right, mail goes."""
    token_site.reads = False
    path = token_site.state / "robot.json"
    token_site.server.google.users.add(token_site.user.name)
    token_site.server.google.service_account(path)
    account().own(path)
    token_site.oauth = {"provider": "google", "authority": token_site.server.url, "service_account_file": str(path)}
    token_site.server.skew = -600
    running = token_site.run()
    token_site.drop(*NUMBERS)
    token_site.held(running, "clock", count=2)
    token_site.server.skew = 0
    mended(token_site, running, *NUMBERS)


def test_a_file_that_is_not_there(token_site: TokenSite) -> None:
    """The service account's key file vanished: its name is said, and putting it back is enough."""
    token_site.reads = False
    path = token_site.state / "robot.json"
    token_site.server.google.users.add(token_site.user.name)
    token_site.server.google.service_account(path)
    account().own(path)
    token_site.oauth = {"provider": "google", "authority": token_site.server.url, "service_account_file": str(path)}
    running = token_site.run()
    hidden = path.rename(path.with_suffix(".away"))
    token_site.drop(*NUMBERS)
    token_site.held(running, str(path), count=2)
    hidden.rename(path)
    mended(token_site, running, *NUMBERS)


def test_status_stays_readable(token_site: TokenSite, tmp_path: Path) -> None:
    """`authorize --status` tells of the token and of the trouble, with the daemon running and stopped; no secret."""
    token_site.reads = False
    token_site.microsoft()
    app = token_site.server.entra.apps["app"]
    app.secret_expired = True
    running = token_site.run()
    token_site.drop(1)
    token_site.held(running, "AADSTS7000222", count=1)
    for _ in range(2):
        shown = running.command("authorize", "--status", "--json").stdout.decode()
        assert "7000222" in shown, shown
        token_site.says_no_secret(running, shown)
        if running.running:
            running.stop()
    wait_until(lambda: not running.running, 5, running.log)
