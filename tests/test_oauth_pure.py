"""What decides about tokens without asking anybody: claims, the end of a secret, terms, answers."""

from __future__ import annotations

import datetime
import json
import shlex
import tomllib
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrelayd.oauth import asking, claims, expiry, grants, providers
from mailrelayd.oauth.providers import Terms
from mailrelayd.oauth.values import ASSUMED_LIFE, OAuthError, Token
from tests.token_accounts import section

TODAY = datetime.date(2026, 11, 21)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=10), children, max_size=3),
    max_leaves=5,
)


def jwt(payload: object) -> str:
    """Unsigned: nobody here looks at the signature."""
    packed = [urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({"alg": "none"}, payload)]
    return ".".join([*packed, "x"])


def terms(**keys: Any) -> Terms:
    """Terms of user u at client c for both protocols."""
    made = section(**{"client_id": "c", "client_secret": "s", "tenant_id": "t", **keys})
    return providers.terms(made, client_id="c", user="u@example.com", protocols=("smtp", "imap"))


def test_claims_of_microsoft_s_tokens_are_read_under_common_names() -> None:
    """For an application roles, for a user scopes and a name."""
    found = claims.decode(jwt({"aud": "https://outlook.office365.com", "roles": ["A", "B"], "appid": "i", "tid": "t"}))
    assert found is not None
    assert (found.audience, found.roles, found.application) == ("https://outlook.office365.com", ("A", "B"), "i")
    assert (found.tenant, found.user, found.scopes, found.expires_at) == ("t", "", (), None)
    found = claims.decode(jwt({"aud": ["a", "b"], "scp": "SMTP.Send IMAP", "upn": "u@e", "exp": 2, "iat": 1}))
    assert found is not None
    assert (found.audience, found.scopes, found.user) == ("a b", ("SMTP.Send", "IMAP"), "u@e")
    assert (found.issued_at, found.expires_at) == (1.0, 2.0)


@pytest.mark.parametrize("text", ["", "ya29.opaque", "a.b", "a.b.c", "a.!.c", jwt([]), jwt(None), "." * 99, "é.é.é"])
def test_what_is_no_jwt_has_no_claims(text: str) -> None:
    """An opaque token is nothing wrong."""
    assert claims.decode(text) is None


@given(JSON, st.sampled_from(["aud", "iss", "upn", "appid", "tid", "roles", "scp", "scope", "iat", "exp"]))
def test_claims_are_safe_to_show_whatever_they_are(value: object, name: str) -> None:
    """No control character, no wrong type."""
    found = claims.decode(jwt({name: value}))
    assert found is not None
    words = (found.audience, found.issuer, found.user, found.application, found.tenant, *found.roles, *found.scopes)
    assert all(isinstance(word, str) and word.isprintable() for word in words)
    assert all(time is None or 0 <= time < 1e12 for time in (found.issued_at, found.expires_at))


@given(st.text(max_size=200))
def test_any_text_can_be_asked_for_its_claims(text: str) -> None:
    """Nothing is raised."""
    claims.decode(text)
    claims.decode(f"a.{text}.b")


@pytest.mark.parametrize(
    ("days", "told", "due"),
    [
        (31, None, None),
        (30, None, 30),
        (29, 30, None),
        (8, 30, None),
        (7, 30, 7),
        (7, None, 7),
        (1, 7, 1),
        (1, 1, None),
        (0, 1, 0),
        (-5, 0, None),
        (-5, None, 0),
    ],
)
def test_the_end_of_a_secret_is_told_at_each_step_once(days: int, told: int | None, due: int | None) -> None:
    """30, 7 and 1 days before, and when it is over; a step that was slept through is not made up for."""
    expires = TODAY + datetime.timedelta(days)
    assert expiry.due(expires, TODAY, told) == due
    assert expiry.days_left(expires, TODAY) == days


def test_a_secret_without_an_end_is_never_told_of() -> None:
    """Nothing is known about it."""
    assert expiry.due(None, TODAY) is None


@pytest.mark.parametrize(
    ("authority", "application", "person"),
    [
        ("", "https://outlook.office365.com", "https://outlook.office.com"),
        ("https://login.microsoftonline.us", "https://outlook.office365.us", "https://outlook.office365.us"),
        ("https://login.partner.microsoftonline.cn", "https://partner.outlook.cn", "https://partner.outlook.cn"),
    ],
)
def test_national_clouds_have_their_own_scopes(authority: str, application: str, person: str) -> None:
    """By the authority alone."""
    robot = terms(authority=authority)
    base = authority or "https://login.microsoftonline.com"
    assert (robot.token_url, robot.scopes) == (f"{base}/t/oauth2/v2.0/token", (f"{application}/.default",))
    user = terms(authority=authority, flow="device", client_secret="")
    assert user.scopes == (f"{person}/SMTP.Send", f"{person}/IMAP.AccessAsUser.All", "offline_access")
    assert user.device_url == f"{base}/t/oauth2/v2.0/devicecode"
    assert user.authorize_url == f"{base}/t/oauth2/v2.0/authorize"


def test_google_has_one_scope_for_mail() -> None:
    """And asks for consent each time, since else there is no refresh token."""
    user = terms(provider="google", flow="authorization-code", tenant_id="")
    assert (user.token_url, user.scopes) == ("https://oauth2.googleapis.com/token", ("https://mail.google.com/",))
    assert user.authorize_url == "https://accounts.google.com/o/oauth2/v2/auth"
    assert providers.authorization_extras(user) == {
        "login_hint": "u@example.com",
        "access_type": "offline",
        "prompt": "consent",
    }


def test_scopes_and_token_url_can_be_chosen() -> None:
    """Whoever writes them knows better."""
    chosen = terms(scopes=("a", "b"), token_url="https://example.com/t")
    assert (chosen.scopes, chosen.token_url) == (("a", "b"), "https://example.com/t")


def test_a_token_belongs_to_user_application_provider_and_chosen_scopes() -> None:
    """Not to the secret, which may be renewed, and not to which protocols need it."""
    one = terms(flow="device")
    same = providers.terms(
        section(client_id="c", tenant_id="t", flow="device", client_secret="other"),
        client_id="c",
        user="U@example.com",
        protocols=("smtp",),
    )
    assert one.fingerprint == same.fingerprint
    others = [terms(flow="device", tenant_id="x"), terms(flow="device", scopes=("x",)), terms()]
    assert len({one.fingerprint, *(other.fingerprint for other in others)}) == 4


ISSUER = "https://id.example.com/realm"
METADATA: dict[str, object] = {
    "issuer": ISSUER,
    "token_endpoint": f"{ISSUER}/token",
    "authorization_endpoint": f"{ISSUER}/auth",
}


def test_metadata_name_the_addresses() -> None:
    """What they do not name stays empty; a provider that takes a secret in the body only gets it there."""
    custom = terms(provider="custom", authority=ISSUER, tenant_id="")
    assert custom.discovery_url == f"{ISSUER}/.well-known/openid-configuration"
    found = providers.discovered(custom, METADATA)
    assert (found.token_url, found.device_url, found.basic) == (f"{ISSUER}/token", "", True)
    methods: dict[str, object] = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
    assert not providers.discovered(custom, METADATA | methods).basic


@pytest.mark.parametrize(
    "wrong",
    [
        {"issuer": "https://evil.example.com"},
        {"issuer": None},
        {"token_endpoint": ""},
        {"token_endpoint": 7},
        {"token_endpoint": "http://id.example.com/token"},
        {"authorization_endpoint": "javascript:alert(1)"},
    ],
    ids=str,
)
def test_metadata_that_cannot_be_trusted_are_refused(wrong: dict[str, object]) -> None:
    """A secret goes nowhere else than where the authority says over TLS."""
    with pytest.raises(ValueError, match=r"its|it names"):
        providers.discovered(terms(provider="custom", authority=ISSUER, tenant_id=""), METADATA | wrong)


@pytest.mark.parametrize(
    ("written", "life"),
    [
        (3600, 3600.0),
        ("3600", 3600.0),
        (59.5, 59.5),
        (-5, 0.0),
        (1e300, grants.LONGEST_LIFE),
        (float("nan"), ASSUMED_LIFE),
        (None, ASSUMED_LIFE),
        ("soon", ASSUMED_LIFE),
        (True, ASSUMED_LIFE),
        (10**400, ASSUMED_LIFE),
    ],
)
def test_a_life_is_read_from_whatever_is_written(written: object, life: float) -> None:
    """Never longer than anybody gives, never negative."""
    token = grants.token(terms(), {"access_token": "t", "expires_in": written}, asked_at=100.0)
    assert token.expires_at - token.obtained_at == life


def test_a_jwt_without_a_life_tells_it_by_the_provider_s_own_times() -> None:
    """A difference of two of them, so its clock does not matter."""
    text = jwt({"iat": 5_000_000, "exp": 5_000_900})
    assert grants.token(terms(), {"access_token": text}, asked_at=100.0).expires_at == 1000.0


def test_a_token_shows_nothing_of_itself() -> None:
    """In a traceback or a log line."""
    shown = repr(Token("secret-access", 0.0, 1.0, "secret-refresh"))
    assert "secret" not in shown


@given(st.dictionaries(st.sampled_from(["access_token", "token_type", "expires_in", "refresh_token", "scope"]), JSON))
def test_any_answer_is_a_token_or_an_error(answer: dict[str, object]) -> None:
    """Of one kind."""
    try:
        token = grants.token(terms(), answer, asked_at=0.0)
    except OAuthError:
        return
    assert grants.is_token(token.access_token)
    assert token.scope.isprintable()


@given(JSON, JSON, JSON, JSON)
def test_any_answer_is_a_device_code_or_an_error(code: object, device: object, uri: object, time: object) -> None:
    """What is shown on a terminal is printable."""
    answer = {"user_code": code, "device_code": device, "verification_uri": uri, "expires_in": time, "interval": time}
    try:
        found = grants.device_code(terms(flow="device"), answer)
    except OAuthError:
        return
    assert (found.user_code + found.verification_uri).isprintable()


@given(st.text(max_size=60), st.text(max_size=300), st.integers(100, 599))
def test_any_refusal_is_one_line(error: str, description: str, status: int) -> None:
    """However it is worded."""
    found = grants.refusal(terms(), error, description, status=status)
    assert found.text.isprintable()
    assert len(found.text) < 600
    assert status < 500 or found.kind == "temporary"


@pytest.mark.parametrize("uri", ["javascript:alert(1)", "http://login.example.com", "https://x\x1b[2J", "", None])
def test_a_device_is_sent_to_no_strange_address(uri: object) -> None:
    """People open it."""
    with pytest.raises(OAuthError):
        grants.device_code(terms(flow="device"), {"user_code": "A", "device_code": "d", "verification_uri": uri})


def test_what_is_to_be_installed_is_the_extra() -> None:
    """The hint names the packages, as mailrelayd itself may come from a checkout."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    wanted = project["project"]["optional-dependencies"]["oauth"]
    assert shlex.split(asking.INSTALL)[4:] == wanted
