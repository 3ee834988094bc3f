"""Each way to a token, asked of servers that check what the providers' documentation asks for."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mailrelayd.oauth import flows, proof, providers
from mailrelayd.oauth.flows import Proof
from mailrelayd.oauth.providers import Terms
from mailrelayd.oauth.values import OAuthError
from tests.servers.oidc import Browser, OpenIdProvider
from tests.servers.rsacertificate import make_certificate
from tests.servers.tokenanswers import Answer
from tests.servers.tokenserver import TokenServer
from tests.token_accounts import APP, SECRET, USER, section

BOTH = ("smtp", "imap")
REDIRECT = "http://127.0.0.1:8976/"


def entra(server: TokenServer, **keys: object) -> Terms:
    """Terms of an application of the tenant."""
    made = section(authority=server.url, tenant_id=server.entra.tenant, client_id=APP, **keys)
    return providers.terms(made, client_id=APP, user=USER, protocols=BOTH)


def google(server: TokenServer, **keys: object) -> Terms:
    """Terms at the local Google."""
    made = section(provider="google", authority=server.url, client_id=APP, **keys)
    return providers.terms(made, client_id=APP, user=USER, protocols=BOTH)


async def refused(asking: Any) -> OAuthError:
    """How it fails."""
    with pytest.raises(OAuthError) as caught:
        await asking
    return caught.value


def opened(server: TokenServer, url: str) -> str:
    """Open the login's address as a browser does whose user agrees: the address it is sent to."""
    assert url.startswith(server.url)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request("GET", url.removeprefix(server.url))
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 302
        return str(answer.headers["Location"])
    finally:
        connection.close()


async def test_client_credentials_with_a_secret(token_server: TokenServer) -> None:
    """The secret arrives as it was written, whatever characters it has; the life counts from our own clock."""
    token_server.entra.register(APP, secret=SECRET, mailbox=USER)
    token_server.skew, token_server.life = 86_400.0, 1800.0
    token = await flows.fetch(entra(token_server, client_secret=SECRET), Proof(SECRET), 1000.0)
    assert (token.obtained_at, token.expires_at, token.refresh_token) == (1000.0, 2800.0, "")
    form = token_server.requests[-1].form
    assert form["scope"] == "https://outlook.office365.com/.default"
    assert set(form) == {"grant_type", "client_id", "client_secret", "scope"}


async def test_client_credentials_with_a_certificate(token_server: TokenServer, tmp_path: Path) -> None:
    """PS256, the certificate's thumbprint, and an assertion of its own for each request."""
    certificate = make_certificate(tmp_path / "app.pem")
    token_server.entra.register(APP, certificate=certificate, mailbox=USER)
    terms = entra(token_server, client_certificate=str(certificate))
    for _ in range(2):
        token = await flows.fetch(terms, Proof(certificate=str(certificate)), time.time())
        assert token.access_token
    form = token_server.requests[-1].form
    assert set(form) == {"grant_type", "client_id", "client_assertion", "client_assertion_type", "scope"}


@pytest.mark.parametrize(
    ("ours", "told"), [(900.0, "900 s ahead of"), (-1200.0, "1200 s behind")], ids=["ahead", "behind"]
)
async def test_an_assertion_of_a_wrong_clock_says_so(
    token_server: TokenServer, tmp_path: Path, ours: float, told: str
) -> None:
    """Whose clock it is and by how much it is off stands in the error."""
    certificate = make_certificate(tmp_path / "app.pem")
    token_server.entra.register(APP, certificate=certificate, mailbox=USER)
    terms = entra(token_server, client_certificate=str(certificate))
    error = await refused(flows.fetch(terms, Proof(certificate=str(certificate)), time.time() + ours))
    assert (error.kind, error.code) == ("refused", "AADSTS700024")
    assert told in error.text.replace("1199", "1200").replace("899", "900").replace("901", "900").replace(
        "1201", "1200"
    )


async def test_a_service_account(token_server: TokenServer, tmp_path: Path) -> None:
    """Nothing but grant and assertion is said; scope and mailbox stand in it."""
    token_server.google.users.add(USER)
    token_server.google.service_account(tmp_path / "robot.json")
    terms = google(token_server, service_account_file=str(tmp_path / "robot.json"))
    token = await flows.fetch(terms, Proof(service_account=str(tmp_path / "robot.json")), time.time())
    assert token.access_token.startswith("ya29.")
    assert token.expires_at - token.obtained_at == 3600.0
    # 30 s behind Google is still fine, since an assertion begins in the past.
    await flows.fetch(terms, Proof(service_account=str(tmp_path / "robot.json")), time.time() + 30)
    error = await refused(flows.fetch(terms, Proof(service_account=str(tmp_path / "robot.json")), time.time() + 600))
    assert error.code == "invalid_grant"
    assert "clock" in error.text


async def test_a_service_account_without_delegation(token_server: TokenServer, tmp_path: Path) -> None:
    """The provider's reason is told."""
    token_server.google.users.add(USER)
    token_server.google.service_account(tmp_path / "robot.json").delegated = ()
    terms = google(token_server, service_account_file=str(tmp_path / "robot.json"))
    error = await refused(flows.fetch(terms, Proof(service_account=str(tmp_path / "robot.json")), time.time()))
    assert (error.kind, error.code) == ("refused", "unauthorized_client")
    assert "Client is unauthorized to retrieve access tokens" in error.text


@pytest.mark.parametrize("secret", ["", SECRET], ids=["public", "with a secret"])
async def test_a_login_in_a_browser_with_pkce_and_its_renewal(token_server: TokenServer, secret: str) -> None:
    """Code, verifier and redirect belong together; the refresh token is another one each time."""
    token_server.entra.register(APP, secret=secret, public=not secret)
    token_server.entra.signed_in = USER
    terms, own = entra(token_server, flow="authorization-code"), Proof(secret)
    begun = flows.start_authorization(terms, REDIRECT)
    token = await flows.finish_authorization(terms, own, begun, opened(token_server, begun.url), 1000.0)
    assert token.scope == "https://outlook.office.com/SMTP.Send https://outlook.office.com/IMAP.AccessAsUser.All"
    following = await flows.refresh(terms, own, token.refresh_token, 2000.0)
    assert following.refresh_token not in ("", token.refresh_token)
    assert following.access_token != token.access_token
    error = await refused(flows.refresh(terms, own, token.refresh_token, 3000.0))
    assert (error.kind, error.code) == ("consent", "AADSTS50173")
    assert token.refresh_token not in error.text


async def test_google_s_browser_login_gives_a_refresh_token_that_stays(token_server: TokenServer) -> None:
    """access_type=offline and prompt=consent are asked for; an answer without a refresh token keeps the old one."""
    token_server.google.clients[APP] = SECRET
    token_server.google.signed_in = USER
    terms, own = google(token_server, flow="authorization-code"), Proof(SECRET)
    begun = flows.start_authorization(terms, REDIRECT)
    token = await flows.finish_authorization(terms, own, begun, opened(token_server, begun.url), 1000.0)
    following = await flows.refresh(terms, own, token.refresh_token, 2000.0)
    assert following.refresh_token == token.refresh_token != ""


async def test_what_comes_back_from_a_browser_must_answer_this_login(token_server: TokenServer) -> None:
    """Another state, no code, a refusal, another provider: no code is exchanged."""
    token_server.entra.register(APP, public=True)
    token_server.entra.signed_in = USER
    terms = entra(token_server, flow="authorization-code")
    begun = flows.start_authorization(terms, REDIRECT)
    answer = opened(token_server, begun.url)
    token_server.requests.clear()
    wrong = (answer.replace("state=", "state=x"), REDIRECT, "hello", "http://[", answer + "&state=y", "x" * 20_000)
    for text in wrong:
        assert (await refused(flows.finish_authorization(terms, Proof(), begun, text, 0.0))).code == ""
    token_server.entra.consent_refused = True
    error = await refused(flows.finish_authorization(terms, Proof(), begun, opened(token_server, begun.url), 0.0))
    assert (error.kind, error.code) == ("refused", "AADSTS65004")
    assert not token_server.asked("authorization_code")


async def test_a_login_on_another_device(token_server: TokenServer) -> None:
    """Code and address are shown; until somebody has logged in the answer is to wait."""
    token_server.entra.register(APP, public=True)
    terms = entra(token_server, flow="device")
    code = await flows.start_device(terms, Proof(), 0.0)
    assert (code.verification_uri, code.interval, code.life) == ("https://microsoft.com/devicelogin", 1.0, 900.0)
    assert (await refused(flows.ask_device(terms, Proof(), code, 0.0))).code == "authorization_pending"
    assert (await refused(flows.ask_device(terms, Proof(), code, 0.0))).code == "slow_down"
    token_server.entra.codes[code.device_code].interval = 0.0
    token_server.entra.approve(code.user_code, USER)
    assert (await flows.ask_device(terms, Proof(), code, 0.0)).refresh_token


async def test_the_addresses_of_any_provider_come_from_its_metadata(token_server: TokenServer) -> None:
    """Its issuer must be the authority that was asked; where it is not, nothing is said to it."""
    made = section(provider="custom", flow="authorization-code", authority=token_server.url, client_id=APP)
    terms = await flows.complete(providers.terms(made, client_id=APP, user=USER, protocols=BOTH))
    assert terms.token_url == f"{token_server.url}/token"
    assert terms.authorize_url == f"{token_server.url}/o/oauth2/v2/auth"
    assert terms.device_url == f"{token_server.url}/device/code"
    token_server.trouble.queued.append(_metadata("https://login.example.com"))
    error = await refused(flows.complete(providers.terms(made, client_id=APP, user=USER, protocols=BOTH)))
    assert (error.kind, "correct authority" in error.text) == ("configuration", True)


def _metadata(issuer: str) -> Any:
    return Answer(200, {"issuer": issuer, "token_endpoint": f"{issuer}/token"})


async def test_a_secret_goes_into_the_header_where_the_provider_is_any(token_server: TokenServer) -> None:
    """RFC 6749 section 2.3.1, with id and secret encoded as it says."""
    token_server.entra.register(APP, secret=SECRET, mailbox=USER)
    url = f"{token_server.url}/{token_server.entra.tenant}/oauth2/v2.0/token"
    scopes = ("https://outlook.office365.com/.default",)
    made = section(provider="custom", token_url=url, client_id=APP, client_secret=SECRET, scopes=scopes)
    terms = providers.terms(made, client_id=APP, user=USER, protocols=BOTH)
    assert (await flows.fetch(terms, Proof(SECRET), 0.0)).access_token
    assert token_server.requests[-1].headers["authorization"].startswith("Basic ")
    assert "client_secret" not in token_server.requests[-1].form


REFUSALS = {
    "wrong secret": ("refused", "AADSTS7000215"),
    "expired secret": ("refused", "AADSTS7000222"),
    "unknown application": ("refused", "AADSTS700016"),
    "unknown tenant": ("configuration", "AADSTS90002"),
    "wrong scope": ("configuration", "AADSTS1002012"),
}


@pytest.mark.parametrize("case", REFUSALS)
async def test_a_refusal_is_told_in_one_line_without_what_was_said(token_server: TokenServer, case: str) -> None:
    """The provider's code and words, and neither the secret nor its trace ids."""
    secret = "wrong-secret-value" if case == "wrong secret" else SECRET
    if case != "unknown application":
        token_server.entra.register(APP, secret=SECRET, mailbox=USER, secret_expired=case == "expired secret")
    keys: dict[str, object] = {"client_secret": secret}
    if case == "wrong scope":
        keys["scopes"] = ("SMTP.Send",)
    terms = entra(token_server, **keys)
    if case == "unknown tenant":
        token_server.entra.tenant = "another"
    error = await refused(flows.fetch(terms, Proof(secret), 0.0))
    kind, code = REFUSALS[case]
    assert (error.kind, error.code) == (kind, code)
    assert error.text.startswith("127.0.0.1 gives no token: ")
    assert code in error.text
    assert "Trace" not in error.text
    assert "\n" not in error.text
    assert secret not in error.text


async def test_a_provider_that_repeats_what_it_was_told_gives_nothing_away(token_server: TokenServer) -> None:
    """Some do."""
    token_server.refuse_once(400, {"error": "invalid_client", "error_description": f"bad: {SECRET}\nx"})
    error = await refused(flows.fetch(entra(token_server, client_secret=SECRET), Proof(SECRET), 0.0))
    assert SECRET not in error.text
    assert "********" in error.text


TROUBLES = {
    "garbage": ("temporary", "garbage"),
    "huge": ("temporary", "unreachable"),
    "unavailable": ("temporary", "503"),
    "throttled": ("temporary", "temporarily_unavailable"),
    "redirect": ("configuration", "302"),
    "cut": ("temporary", "unreachable"),
    "slow": ("temporary", "timeout"),
}


@pytest.mark.parametrize("mode", TROUBLES)
async def test_a_provider_in_trouble(token_server: TokenServer, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """What may pass is temporary; a redirect is not followed; an endless answer is not read."""
    monkeypatch.setattr(flows, "SECONDS", 0.3 if mode == "slow" else 10.0)
    terms = entra(token_server, client_secret=SECRET)
    with token_server.troubled(mode):
        error = await refused(flows.fetch(terms, Proof(SECRET), 0.0))
    assert (error.kind, error.code) == TROUBLES[mode]


async def test_nobody_there(token_server: TokenServer) -> None:
    """A refused connection and a name that does not exist are temporary."""
    terms = entra(token_server, client_secret=SECRET)
    with token_server.away():
        assert (await refused(flows.fetch(terms, Proof(SECRET), 0.0))).kind == "temporary"
    lost = section(tenant_id="t", client_id=APP, client_secret="x", authority="https://login.invalid")
    terms = providers.terms(lost, client_id=APP, user=USER, protocols=BOTH)
    error = await refused(flows.fetch(terms, Proof("x"), 0.0))
    assert (error.kind, error.code) == ("temporary", "unreachable")
    assert "login.invalid" in error.text


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"access_token": ""},
        {"access_token": 7},
        {"access_token": "two words"},
        {"access_token": "line\r\nbreak"},
        {"access_token": "x" * 100_000},
        {"access_token": "t", "expires_in": [1], "token_type": "mac"},
        [],
        "text",
        {"access_token": "t", "token_type": "DPoP"},
    ],
    ids=repr,
)
async def test_an_answer_that_is_no_token(token_server: TokenServer, answer: Any) -> None:
    """Nothing but an OAuthError comes of it."""
    if isinstance(answer, dict):
        answer.setdefault("token_type", "Bearer")
    token_server.refuse_once(200, answer)
    terms = entra(token_server, client_secret=SECRET)
    await refused(flows.fetch(terms, Proof(SECRET), 0.0))


def key_file(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "file"
    path.write_bytes(content)
    return str(path)


def test_a_certificate_that_cannot_be_used_says_what_to_do(tmp_path: Path) -> None:
    """One sentence that names the file."""
    whole = make_certificate(tmp_path / "a.pem").read_bytes()
    other = make_certificate(tmp_path / "b.pem").read_bytes()
    at = whole.index(b"-----BEGIN CERTIFICATE")
    private = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )
    contents = {
        b"": "no private key",
        whole[:at]: "no certificate",
        whole[at:]: "no private key",
        whole[:at] + other[other.index(b"-----BEGIN CERTIFICATE") :]: "no certificate that belongs",
        private + whole[at:]: "encrypted",
        b"x" * 300_000: "too large",
    }
    for content, told in contents.items():
        with pytest.raises(OAuthError, match=told) as caught:
            proof.read_certificate(key_file(tmp_path, content), microsoft=True)
        assert caught.value.kind == "configuration"
        assert str(tmp_path) in caught.value.text
    with pytest.raises(OAuthError, match="No such file"):
        proof.read_certificate(str(tmp_path / "none"), microsoft=True)


def test_a_service_account_file_that_cannot_be_used_says_what_to_do(tmp_path: Path, token_server: TokenServer) -> None:
    """Also where it is another kind of file from the same console."""
    token_server.google.service_account(tmp_path / "robot.json")
    right = json.loads((tmp_path / "robot.json").read_text())
    wrong: list[object] = [
        [],
        {"installed": {"client_id": "x"}},
        {**right, "client_email": ""},
        {**right, "private_key": "x"},
        {**right, "private_key": 7},
        {**right, "private_key_id": None},
    ]
    for content in [b"", b"[" * 100_000, *(json.dumps(one).encode() for one in wrong)]:
        with pytest.raises(OAuthError, match="service_account_file") as caught:
            proof.read_service_account(key_file(tmp_path, content))
        assert caught.value.kind == "configuration"


# -- with a real provider ----------------------------------------------------------------------------------------------


async def test_any_provider_by_its_metadata_alone(
    openid_provider: Callable[..., OpenIdProvider], tmp_path: Path
) -> None:
    """oidc-provider: secret and certificate, browser and device, rotation; a refresh token used twice is refused."""
    certificate = make_certificate(tmp_path / "app.pem")
    home = {"redirect_uris": [REDIRECT]}
    provider = openid_provider(
        [
            {"client_id": "secret", "client_secret": SECRET, "mailbox": USER, **home},
            {"client_id": "certificate", "certificate": certificate.read_text(), "mailbox": USER, **home},
            {"client_id": "public", "is_public": True, **home},
        ]
    )
    now = time.time()

    async def terms(client_id: str, flow: str, *scopes: str, **keys: object) -> Terms:
        made = section(provider="custom", authority=provider.url, flow=flow, client_id=client_id, scopes=scopes, **keys)
        return await flows.complete(providers.terms(made, client_id=client_id, user=USER, protocols=BOTH))

    robot = await terms("secret", "client-credentials", "smtp", "imap", client_secret=SECRET)
    assert (await flows.fetch(robot, Proof(SECRET), now)).access_token
    signed = await terms("certificate", "client-credentials", "smtp", client_certificate=str(certificate))
    assert (await flows.fetch(signed, Proof(certificate=str(certificate)), now)).access_token

    person = await terms("secret", "authorization-code", "openid", "offline_access", "smtp", client_secret=SECRET)
    begun = flows.start_authorization(person, REDIRECT)
    answer = await asyncio.to_thread(Browser(USER).consent, begun.url)
    token = await flows.finish_authorization(person, Proof(SECRET), begun, answer, now)
    following = await flows.refresh(person, Proof(SECRET), token.refresh_token, now)
    assert following.refresh_token not in ("", token.refresh_token)
    error = await refused(flows.refresh(person, Proof(SECRET), token.refresh_token, now))
    assert (error.kind, error.code) == ("consent", "invalid_grant")

    device = await terms("public", "device", "openid", "offline_access", "smtp")
    code = await flows.start_device(device, Proof(), now)
    assert (await refused(flows.ask_device(device, Proof(), code, now))).code == "authorization_pending"
    await asyncio.to_thread(Browser(USER).enter_code, code.verification_uri, code.user_code)
    assert (await flows.ask_device(device, Proof(), code, now)).refresh_token


@pytest.mark.parametrize("status", [302, 400, 403])
async def test_a_token_in_an_answer_that_is_no_success_is_none(token_server: TokenServer, status: int) -> None:
    """RFC 6749 section 5.1: whoever redirects or refuses gives nothing."""
    token_server.entra.register(APP, secret=SECRET, mailbox=USER)
    token_server.refuse_once(status, {"access_token": "token", "expires_in": 3600})
    error = await refused(flows.fetch(entra(token_server, client_secret=SECRET), Proof(SECRET), 1000.0))
    assert (error.kind, error.code) == ("configuration", str(status))


async def test_a_secret_that_a_provider_repeats_as_it_was_sent_is_hidden(token_server: TokenServer) -> None:
    """A form's values are encoded, in more than one way."""
    said = f"{SECRET} {quote(SECRET)} {quote(SECRET, safe='')} {quote_plus(SECRET)}"
    token_server.refuse_once(401, {"error": "invalid_client", "error_description": said})
    error = await refused(flows.fetch(entra(token_server, client_secret=SECRET), Proof(SECRET), 1000.0))
    assert error.text.endswith(" ".join(["********"] * 4))
