"""[outbound.NAME.oauth]: what must be written, what may be left out, and what a mailbox takes from it."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from mailrelayd.config.load import ConfigError, Loaded, load
from mailrelayd.config.oauth import OAuth
from mailrelayd.config.settings import flatten
from mailrelayd.terms import alerts_of

SENDER = """\
[outbound.smarthost]
host = "smtp.example.com"
user = "relay@example.com"
"""
MICROSOFT = """\
[outbound.smarthost.oauth]
tenant_id = "example.com"
client_id = "abc"
client_secret = "hidden-words"
client_secret_expires = 2027-05-01
"""
READER = """\
[inbound.answers]
host = "imap.example.com"
"""


def loaded(directory: Path, text: str, environ: dict[str, str] | None = None) -> Loaded:
    path = directory / "mailrelayd.toml"
    path.write_text(text)
    return load(path, environ or {})


def problems(directory: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(directory, text)
    return [problem.removeprefix(f"{directory}/mailrelayd.toml") for problem in caught.value.problems]


def of(result: Loaded) -> tuple[Any, OAuth]:
    mailbox = result.settings.inbound["answers"]
    assert mailbox.oauth is not None
    return mailbox, mailbox.oauth


def test_an_oauth_section_makes_the_login_one_with_a_token(tmp_path: Path) -> None:
    """auth need not be written: what is there for it says how to log in, and a password wins over nothing."""
    account = loaded(tmp_path, SENDER + MICROSOFT).settings.account
    assert account is not None
    assert account.oauth is not None
    assert (account.auth, account.oauth.provider, account.oauth.flow) == ("oauth2", "microsoft", "client-credentials")
    assert account.oauth.client_secret_expires == date(2027, 5, 1)
    assert loaded(tmp_path, SENDER + "password = 'x'\n" + MICROSOFT).settings.outbound["smarthost"].auth == "password"


def test_a_secret_is_shown_nowhere(tmp_path: Path) -> None:
    """config show, repr and errors know where it comes from, never what it is."""
    settings = loaded(tmp_path, SENDER + MICROSOFT).settings
    assert flatten(settings, written=True)["outbound.smarthost.oauth.client_secret"] == "********"
    assert "hidden-words" not in repr(settings)
    wrong = problems(tmp_path, SENDER + MICROSOFT.replace("hidden-words", "hidden\\nwords"))
    assert wrong
    assert "hidden" not in "".join(wrong)


def test_a_mailbox_logs_in_as_the_smarthost_does(tmp_path: Path) -> None:
    """User, way of logging in and every key of oauth are taken over, and config show says from where."""
    result = loaded(tmp_path, SENDER + MICROSOFT + READER)
    mailbox, oauth = of(result)
    assert (mailbox.user, mailbox.auth) == ("relay@example.com", "oauth2")
    assert oauth == result.settings.outbound["smarthost"].oauth
    assert result.origins["inbound.answers.user"].endswith("mailrelayd.toml:3 (outbound.smarthost.user)")
    assert result.origins["inbound.answers.oauth.client_id"].endswith(".toml:6 (outbound.smarthost.oauth.client_id)")


def test_each_secret_that_ends_is_told_of_once(tmp_path: Path) -> None:
    """One that a mailbox takes over is the smarthost's; another one is not, although it ends on the same day."""
    one, day = loaded(tmp_path, SENDER + MICROSOFT + READER).settings, date(2027, 5, 1)
    assert alerts_of(one, "relay1").expiring == (("smarthost", day),)
    own = '[inbound.answers.oauth]\nclient_secret = "other-words"\nclient_secret_expires = 2027-05-01\n'
    two = loaded(tmp_path, SENDER + MICROSOFT + READER + own).settings
    assert sorted(alerts_of(two, "relay1").expiring) == [("answers", day), ("smarthost", day)]


def test_what_a_mailbox_says_itself_counts(tmp_path: Path) -> None:
    """Key by key; an empty text says nothing."""
    own = 'user = ""\n[inbound.answers.oauth]\nclient_id = "mine"\nclient_secret = ""\n'
    mailbox, oauth = of(loaded(tmp_path, SENDER + MICROSOFT + READER + own))
    assert (mailbox.user, oauth.client_id, oauth.tenant_id) == ("relay@example.com", "mine", "example.com")
    assert oauth.client_secret.reveal() == "hidden-words"


def test_another_proof_or_another_provider_takes_nothing_that_contradicts_it(tmp_path: Path) -> None:
    """A certificate replaces the secret; Google's service account has no use for Microsoft's keys."""
    key = tmp_path / "key.pem"
    key.write_text("x")
    key.chmod(0o600)
    certificate = f'[inbound.answers.oauth]\nclient_certificate = "{key}"\n'
    _, oauth = of(loaded(tmp_path, SENDER + MICROSOFT + READER + certificate))
    assert (oauth.client_id, bool(oauth.client_secret), oauth.client_secret_expires) == ("abc", False, None)
    google = f'[inbound.answers.oauth]\nprovider = "google"\nservice_account_file = "{key}"\n'
    _, oauth = of(loaded(tmp_path, SENDER + MICROSOFT + READER + google))
    assert (oauth.flow, oauth.client_id, oauth.tenant_id) == ("service-account", "", "")


def test_a_mailbox_with_a_password_of_its_own_needs_no_token(tmp_path: Path) -> None:
    """A written password is how it logs in; only the user is taken over."""
    mailbox = loaded(tmp_path, SENDER + MICROSOFT + READER + "password = 'x'\n").settings.inbound["answers"]
    assert (mailbox.user, mailbox.auth, mailbox.oauth) == ("relay@example.com", "password", None)


def test_a_mailbox_may_use_a_token_where_the_smarthost_has_a_password(tmp_path: Path) -> None:
    """Both ways stand side by side."""
    text = SENDER + "password = 'x'\n" + READER + MICROSOFT.replace("outbound.smarthost", "inbound.answers")
    result = loaded(tmp_path, text)
    assert result.settings.outbound["smarthost"].auth == "password"
    assert result.settings.inbound["answers"].auth == "oauth2"


def test_a_fault_that_is_taken_over_is_told_once(tmp_path: Path) -> None:
    """At the line where it is written."""
    text = SENDER + MICROSOFT.replace('"example.com"', '"a b"') + READER
    assert problems(tmp_path, text) == [
        ":5: outbound.smarthost.oauth.tenant_id: must be an id or a domain: letters, digits, dots and dashes"
    ]
    assert len(problems(tmp_path, SENDER + MICROSOFT.replace('client_id = "abc"\n', "") + READER)) == 1


def test_the_environment_sets_its_keys_too(tmp_path: Path) -> None:
    """Also of a section that no file has."""
    environ = {
        "MAILRELAYD__OUTBOUND__SMARTHOST__OAUTH__TOKEN_COMMAND": "/usr/bin/oama access relay@example.com",
    }
    account = loaded(tmp_path, SENDER, environ).settings.account
    assert account is not None
    assert account.auth == "oauth2"


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ("client_id = 'a'\nclient_secret = 'b'\n", "tenant_id: is missing: write the directory (tenant) id"),
        ("tenant_id = 't'\nclient_secret = 'b'\n", "client_id: is missing: write the id of the application"),
        ("tenant_id = 't'\nclient_id = 'a'\n", "client_secret: is missing: write client_secret = "),
        ("provider = 'google'\n", "service_account_file: is missing: name the JSON file"),
        ("provider = 'google'\nflow = 'device'\nclient_id = 'a'\n", 'flow: is "device", which Google does not have'),
        ("provider = 'custom'\nclient_id = 'a'\nclient_secret = 'b'\n", "authority: is missing: write authority"),
        (
            "provider = 'custom'\nflow = 'device'\nclient_id = 'a'\ntoken_url = 'https://a.example/t'\n",
            'authority: is missing: flow = "device" needs',
        ),
        ("tenant_id = 'a/../b'\nclient_id = 'a'\nclient_secret = 'b'\n", "tenant_id: must be an id or a domain"),
        (
            "provider = 'custom'\nclient_id = 'a'\nclient_secret = 'b'\ntoken_url = 'http://a.example/t'\n",
            "token_url: begins with http:, and a secret would travel in clear",
        ),
        ("token_command = ['oama']\n", "token_command: must be an absolute path"),
        (
            "token_command = ['/usr/bin/oama']\nclient_secret = 'b'\n",
            "client_secret: has no meaning beside token_command",
        ),
        (
            "tenant_id = 't'\nclient_id = 'a'\nclient_secret = 'b'\nclient_secret_expires = 'soon'\n",
            "client_secret_expires: must be a date, such as 2027-05-01",
        ),
        (
            "tenant_id = 't'\nclient_id = 'a'\nclient_certificate = '/nowhere.pem'\n",
            "client_certificate: names a file that does not exist",
        ),
    ],
)
def test_what_is_missing_or_contradicts_is_told_with_the_cure(tmp_path: Path, keys: str, complaint: str) -> None:
    """One error each, at the section or at the key."""
    (found,) = problems(tmp_path, SENDER + "[outbound.smarthost.oauth]\n" + keys)
    assert f" outbound.smarthost.oauth.{complaint}" in found


def test_a_private_key_that_everybody_may_read_is_refused(tmp_path: Path) -> None:
    """As a password file is."""
    key = tmp_path / "key.json"
    key.write_text("{}")
    key.chmod(0o644)
    text = f"[outbound.smarthost.oauth]\nprovider = 'google'\nservice_account_file = '{key}'\n"
    (found,) = problems(tmp_path, SENDER + text)
    assert "every user of this machine has access to; chmod 640 it" in found


def test_only_this_machine_is_asked_without_tls(tmp_path: Path) -> None:
    """For a provider on the loopback interface."""
    keys = "provider = 'custom'\nclient_id = 'a'\nclient_secret = 'b'\ntoken_url = 'http://127.0.0.1:8080/token'\n"
    account = loaded(tmp_path, SENDER + "[outbound.smarthost.oauth]\n" + keys).settings.account
    assert account is not None
    assert account.oauth is not None
    assert account.oauth.token_url == "http://127.0.0.1:8080/token"


def test_a_proof_does_not_go_to_a_place_that_the_mailbox_names(tmp_path: Path) -> None:
    """The smarthost's secret is for its own provider only; the same place may be written again."""
    for key in ("authority", "token_url"):
        own = f'[inbound.answers.oauth]\n{key} = "https://other.example.com"\n'
        (problem,) = problems(tmp_path, SENDER + MICROSOFT + READER + own)
        assert "inbound.answers.oauth.client_secret: is missing" in problem
    _, oauth = of(loaded(tmp_path, SENDER + MICROSOFT + READER + '[inbound.answers.oauth]\nprovider = "microsoft"\n'))
    assert oauth.client_secret.reveal() == "hidden-words"


def test_an_empty_password_says_nothing_about_the_login(tmp_path: Path) -> None:
    """As the commented sample shows it, where the smarthost logs in with a token."""
    mailbox, _ = of(loaded(tmp_path, SENDER + MICROSOFT + READER + 'password = ""\n'))
    assert mailbox.auth == "oauth2"


def test_what_both_lack_is_told_once(tmp_path: Path) -> None:
    """A mailbox without a word about its login has no fault of its own."""
    found = problems(tmp_path, '[outbound.s]\nhost = "h.example.com"\nauth = "oauth2"\nuser = ""\n' + READER)
    assert len(found) == 2
    assert all("outbound.s." in one for one in found)
