"""A token instead of a password, both ways: from each kind of provider, shared by both accounts, renewed in time."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.scenarios.tokens import SECRET, TokenSite
from tests.servers.daemon import Daemon, account
from tests.servers.oidc import OpenIdProvider
from tests.servers.process import wait_until
from tests.servers.rsacertificate import make_certificate

pytestmark = pytest.mark.real

StartProvider = Callable[..., OpenIdProvider]


def logins(site: TokenSite, protocol: str) -> list[bool]:
    """How the mail server's questions about tokens were answered so far."""
    return [active for asked, active in site.server.introspected if asked == protocol]


def wait_for_login(site: TokenSite, running: Daemon, protocol: str) -> None:
    """Return once the mail server has let a token in."""
    wait_until(lambda: True in logins(site, protocol), 20, running.log)


def test_a_decision_by_tokens_of_a_real_provider(token_site: TokenSite, openid_provider: StartProvider) -> None:
    """A request goes out, the answer is read, and the boss has decided, by one application's tokens."""
    application = {"client_id": "app", "client_secret": SECRET, "mailbox": token_site.user.name}
    provider = openid_provider([application])
    token_site.oauth = {
        "provider": "custom",
        "authority": provider.url,
        "client_id": "app",
        "client_secret": f"text:{SECRET}",
        "scopes": ["smtp", "imap"],
    }
    running = token_site.run()
    token_site.answer(token_site.ask(), "Approved")
    assert token_site.decision(running) == "approved"
    stored = token_site.token_file()
    token = json.loads(stored.read_text())["token"]["access_token"]
    assert stat.S_IMODE(stored.stat().st_mode) == 0o600
    assert stored.stat().st_uid == account().uid
    assert [path.name for path in stored.parent.glob("*.json")] == [stored.name]
    assert SECRET not in stored.read_text()
    assert token not in running.log()
    assert running.events("route.down") == running.events("mailbox.down") == []
    assert running.stop() == 0


def by_secret(site: TokenSite) -> str:
    site.microsoft()
    return "client_credentials"


def by_certificate(site: TokenSite) -> str:
    pem = account().own(make_certificate(site.state / "app.pem"))
    site.microsoft()
    site.server.entra.register("app", certificate=pem, mailbox=site.user.name)
    del site.oauth["client_secret"]
    site.oauth["client_certificate"] = str(pem)
    return "client_credentials"


def by_service_account(site: TokenSite) -> str:
    site.server.google.users.add(site.user.name)
    path = site.state / "robot.json"
    site.server.google.service_account(path)
    account().own(path)
    site.oauth = {"provider": "google", "authority": site.server.url, "service_account_file": str(path)}
    return "urn:ietf:params:oauth:grant-type:jwt-bearer"


@pytest.mark.parametrize("way", [by_secret, by_certificate, by_service_account])
def test_one_token_opens_both(token_site: TokenSite, way: Callable[[TokenSite], str]) -> None:
    """The mailbox names nothing but its host: all else, and the token itself, is the smarthost's."""
    kind = way(token_site)
    running = token_site.run()
    token_site.drop(1, 2)
    token_site.arrived(running, 1, 2)
    wait_for_login(token_site, running, "imap")
    assert len(token_site.server.requests) == len(token_site.server.asked(kind)) == 1
    assert False not in logins(token_site, "smtp") + logins(token_site, "imap")
    token_site.says_no_secret(running)
    shown = running.command("config", "show").stdout.decode()
    assert "outbound.smarthost" in shown
    token_site.says_no_secret(running, shown)
    assert running.stop() == 0


def test_what_the_mailbox_says_itself_is_not_inherited(token_site: TokenSite) -> None:
    """Another application for the mailbox, everything else as outbound: two tokens, each for its own."""
    token_site.microsoft()
    token_site.server.entra.register("reader", secret="another", mailbox=token_site.user.name)
    token_site.inbound_oauth = {"client_id": "reader", "client_secret": "text:another"}
    running = token_site.run()
    token_site.drop(1)
    token_site.arrived(running, 1)
    wait_for_login(token_site, running, "imap")
    assert {one.client()[0] for one in token_site.server.requests} == {"app", "reader"}
    assert running.stop() == 0


def test_a_token_that_ends_is_renewed_before(token_site: TokenSite) -> None:
    """Tokens of two seconds: mail goes on, no login is ever refused for one that has ended."""
    token_site.reads = False
    token_site.server.life = 2
    token_site.microsoft()
    running = token_site.run()
    for number in (1, 2):
        token_site.drop(number)
        token_site.arrived(running, *range(1, number + 1))
        token_site.postfix.restart()
        assert len(token_site.server.requests) == number
        wait_until(token_site.server.issued_has_ended, 5, running.log)
    assert False not in logins(token_site, "smtp")
    assert running.events("route.down") == []
    assert running.stop() == 0


def test_a_token_that_was_withdrawn_is_replaced_at_once(token_site: TokenSite) -> None:
    """The provider's answer to a new question decides: nobody notices but the two servers."""
    token_site.reads = False
    token_site.microsoft()
    running = token_site.run()
    token_site.drop(1)
    token_site.arrived(running, 1)
    token_site.server.issued.revoke()
    token_site.postfix.restart()
    token_site.drop(2)
    token_site.arrived(running, 1, 2)
    assert logins(token_site, "smtp") == [True, False, True]
    assert running.events("route.down") == []
    assert running.stop() == 0


def test_a_program_hands_the_token_in(token_site: TokenSite) -> None:
    """token_command: its first line is the token; refused, it is asked again."""
    token_site.reads = False
    entra = token_site.server.entra
    token_site.microsoft()
    given = token_site.secret_file("token", "stale-token\nsecond line\n")
    counted = token_site.secret_file("counted", "")
    program = "import sys; print(open(sys.argv[1]).read()); open(sys.argv[2], 'a').write('x')"
    token_site.oauth = {"client_id": "app", "tenant_id": entra.tenant}
    token_site.oauth["token_command"] = [sys.executable, "-c", program, str(given), str(counted)]
    running = token_site.run()
    token_site.drop(1)
    token_site.held(running, "535", count=1)
    wait_until(lambda: len(counted.read_text()) >= 2, 10, running.log)
    good = _token_of(token_site)
    given.write_text(f"{good}\n")
    token_site.arrived(running, 1)
    assert good not in running.log()
    assert not token_site.server.asked("refresh_token")
    assert running.stop() == 0


def _token_of(site: TokenSite) -> str:
    """A token as another program gets it."""
    from tests.servers.issued import Grant

    grant = Grant(site.user.name, "app", "any", frozenset({"smtp"}))
    return site.server.issued.remember("a-token-from-elsewhere", grant, site.server.now() + 3600)


def test_the_providers_clock_does_not_matter(token_site: TokenSite, tmp_path: Path) -> None:
    """An hour ahead or behind: how long a token lives is counted from our own clock."""
    token_site.reads = False
    token_site.microsoft()
    for skew in (3600, -3600):
        token_site.server.skew = skew
        token_site.server.issued.expire()
        running = token_site.run()
        number = 1 if skew > 0 else 2
        token_site.drop(number)
        token_site.arrived(running, *range(1, number + 1))
        assert running.events("route.down") == []
        assert running.stop() == 0
