"""What a token says of itself, and which mistakes show in it before any server has said no."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from typing import Any

import pytest

from mailrelayd.diagnose.steps import Outcome, Step
from mailrelayd.diagnose.token import Held, examine
from mailrelayd.oauth.providers import GOOGLE_MAIL, Terms

NOW = 1_800_000_000.0
TENANT = "11111111-2222-3333-4444-555555555555"
GOOD = {
    "aud": "https://outlook.office365.com",
    "appid": "app",
    "tid": TENANT,
    "roles": ["SMTP.SendAsApp", "IMAP.AccessAsApp"],
    "iat": NOW,
    "exp": NOW + 3600,
}


def terms(provider: str = "microsoft", flow: str = "client-credentials", **more: Any) -> Terms:
    return Terms(provider, flow, "app", "relay@example.com", "https://login.example.com/token", **more)


def jwt(**claims: Any) -> str:
    parts = ({"alg": "none"}, claims)
    return ".".join(urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + ".x"


def steps(
    claims: dict[str, Any] | None, asked: Terms | None = None, granted: str = "", tenant: str = TENANT
) -> dict[str, Step]:
    text = "opaque-token" if claims is None else jwt(**claims)
    held = Held(text, granted, NOW + 3600)
    found = examine("outbound.smarthost", asked or terms(), tenant, held, ("smtp", "imap"), NOW)
    return {step.name: step for step in found}


def test_a_good_token_of_an_application() -> None:
    """Every claim is a step that is ok; the token stands in none of them."""
    found = steps(GOOD)
    assert list(found) == ["token", "audience", "application", "tenant", "permissions"]
    assert {step.outcome for step in found.values()} == {Outcome.OK}
    assert "60 min from now" in found["token"].text
    assert jwt(**GOOD) not in repr(found)


@pytest.mark.parametrize(
    "audience",
    [
        "https://outlook.office.com",
        "https://outlook.office365.us",
        "https://partner.outlook.cn",
        "00000002-0000-0ff1-ce00-000000000000",
    ],
)
def test_exchange_has_several_names(audience: str) -> None:
    """By cloud, and by the id of its application."""
    assert steps({**GOOD, "aud": audience})["audience"].outcome is Outcome.OK


@pytest.mark.parametrize(
    ("audience", "whose"),
    [
        ("https://graph.microsoft.com", "Microsoft Graph"),
        ("00000003-0000-0000-c000-000000000000", "Microsoft Graph"),
        ("api://app", "another service"),
    ],
)
def test_a_token_for_another_service_fails(audience: str, whose: str) -> None:
    """The key to change is the scopes."""
    step = steps({**GOOD, "aud": audience})["audience"]
    assert (step.outcome, step.status) == (Outcome.FAILED, 78)
    assert whose in step.cause
    assert step.setting == "outbound.smarthost.oauth.scopes"


def test_an_application_without_roles_has_no_consent() -> None:
    """Microsoft leaves the claim out where nobody consented."""
    step = steps({name: value for name, value in GOOD.items() if name != "roles"})["permissions"]
    assert (step.outcome, step.status, step.text) == (Outcome.FAILED, 77, "none")
    assert "SMTP.SendAsApp and IMAP.AccessAsApp" in step.cause
    assert "Application permissions" in step.cure


def test_a_person_needs_other_permissions_than_an_application() -> None:
    """SMTP.SendAsApp does not help whoever signs in."""
    person = {**GOOD, "roles": [], "scp": "SMTP.Send offline_access", "upn": "relay@example.com"}
    found = steps(person, terms(flow="device"))
    assert "IMAP.AccessAsUser.All" in found["permissions"].cause
    assert "SMTP.Send " not in found["permissions"].cause
    assert found["user"].outcome is Outcome.OK
    assert steps({**person, "scp": "SMTP.Send IMAP.AccessAsUser.All"}, terms(flow="device"))["permissions"].cause == ""


def test_another_persons_token_is_a_warning() -> None:
    """A shared mailbox is read so; everybody else has made a mistake."""
    step = steps({**GOOD, "upn": "Boss@example.com"}, terms(flow="device"))["user"]
    assert step.outcome is Outcome.WARNING
    assert step.text == "authorised as Boss@example.com, but outbound.smarthost.user says relay@example.com"
    assert steps({**GOOD, "upn": "Relay@Example.com"}, terms(flow="device"))["user"].outcome is Outcome.OK


def test_another_application_or_tenant_is_a_warning() -> None:
    """A tenant that is written as a domain cannot be compared."""
    assert steps({**GOOD, "appid": "other"})["application"].setting == "outbound.smarthost.oauth.client_id"
    assert steps({**GOOD, "tid": TENANT.replace("1", "9")})["tenant"].outcome is Outcome.WARNING
    assert steps(GOOD, tenant="example.com")["tenant"].outcome is Outcome.OK


def test_an_opaque_token_tells_only_what_was_granted() -> None:
    """Google's: the scope beside it."""
    google = terms("google", "authorization-code")
    assert list(steps(None, google)) == ["token"]
    assert "opaque" in steps(None, google)["token"].text
    assert steps(None, google, granted=f"openid {GOOGLE_MAIL}")["permissions"].outcome is Outcome.OK
    missing = steps(None, google, granted="openid email")["permissions"]
    assert missing.outcome is Outcome.FAILED
    assert "every box" in missing.cure
    narrower = terms("google", "service-account", chosen=("https://www.googleapis.com/auth/gmail.imap_admin",))
    assert steps(None, narrower, granted="https://www.googleapis.com/auth/gmail.imap_admin")["permissions"].cause == ""


def test_clocks_that_differ_are_told() -> None:
    """By the provider's clock the token is from the future, or has ended already."""
    assert "clock" not in steps({**GOOD, "iat": NOW + 200})
    assert steps({**GOOD, "iat": NOW + 3600})["clock"].outcome is Outcome.WARNING
    assert steps({**GOOD, "iat": NOW - 7200, "exp": NOW - 3600})["clock"].outcome is Outcome.WARNING


def test_a_token_of_unknown_length() -> None:
    """Of a command that says nothing about it."""
    (step,) = examine("inbound.a", terms("custom"), "", Held("opaque", "", None), ("imap",), NOW)
    assert "unknown time" in step.text
