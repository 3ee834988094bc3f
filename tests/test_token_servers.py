"""The servers that give out tokens refuse what they should, and mail servers take exactly the tokens that are good."""

from __future__ import annotations

import base64
import imaplib
import json
import smtplib
import ssl
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.servers import oidc
from tests.servers.assertions import PADDINGS, Assertion, BadAssertionError, challenge, packed, thumbprints
from tests.servers.certificates import Certificates
from tests.servers.dovecot import MECHANISMS, TOKEN_MECHANISMS
from tests.servers.entra import ASSERTION_TYPE, DEVICE
from tests.servers.googleaccounts import ASSERTION, MAIL, TIMES
from tests.servers.mailbox import IMAP_PROGRAM, MailboxServer
from tests.servers.oidc import Browser, OpenIdProvider
from tests.servers.postfix import Postfix
from tests.servers.process import short_directory
from tests.servers.rsacertificate import make_certificate
from tests.servers.tokenserver import TokenServer

APP_SCOPE = "https://outlook.office365.com/.default"
USER_SCOPE = "https://outlook.office.com/SMTP.Send https://outlook.office.com/IMAP.AccessAsUser.All offline_access"
VERIFIER = "a-verifier-of-at-least-forty-three-characters-0123456789"
REDIRECT = "http://127.0.0.1:8976/redirect"

Answered = tuple[int, dict[str, Any]]
StartProvider = Callable[..., OpenIdProvider]


def post(url: str, /, **form: str) -> Answered:
    """One token request: status and document."""
    return sent(urllib.request.Request(url, urlencode(form).encode()))


def sent(request: urllib.request.Request | str) -> Answered:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def entra_token_url(server: TokenServer) -> str:
    return f"{server.url}/{server.entra.tenant}/oauth2/v2.0/token"


def app_token(server: TokenServer, mailbox: str, **properties: Any) -> str:
    """A token by client credentials, for an application registered for it."""
    server.entra.register("app", secret="right", mailbox=mailbox, **properties)
    status, document = post(
        entra_token_url(server),
        grant_type="client_credentials",
        client_id="app",
        client_secret="right",
        scope=APP_SCOPE,
    )
    assert status == 200
    return str(document["access_token"])


def code_of(answer: Answered) -> tuple[int, str, int]:
    """Status, error and AADSTS number of a refusal; the number stands in the text as well."""
    status, document = answer
    (number,) = document["error_codes"]
    assert document["error_description"].startswith(f"AADSTS{number}: ")
    return status, document["error"], number


# -- mail servers --------------------------------------------------------------------------------------------------


def first_message(mechanism: str, user: str, token: str) -> bytes:
    if mechanism == "XOAUTH2":
        return f"user={user}\x01auth=Bearer {token}\x01\x01".encode()
    return f"n,a={user},\x01auth=Bearer {token}\x01\x01".encode()


def smtp_login(postfix: Postfix, certificates: Certificates, mechanism: str, user: str, token: str) -> int:
    """The code that ends the exchange."""
    context = ssl.create_default_context(cafile=str(certificates.ca))
    with smtplib.SMTP_SSL("localhost", postfix.tls_port, timeout=30, context=context) as client:
        client.ehlo()
        code, _ = client.docmd("AUTH", mechanism)
        assert code == 334
        code, _ = client.docmd(base64.b64encode(first_message(mechanism, user, token)).decode())
        if code == 334:  # the reason, in JSON; any answer to it brings the refusal
            code, _ = client.docmd("AQ==" if mechanism == "OAUTHBEARER" else "")
        return code


def imap_login(mailbox: MailboxServer, certificates: Certificates, mechanism: str, user: str, token: str) -> bool:
    context = ssl.create_default_context(cafile=str(certificates.ca))
    with imaplib.IMAP4_SSL("localhost", mailbox.tls_port, ssl_context=context, timeout=30) as client:
        given = iter([first_message(mechanism, user, token), b"" if mechanism == "XOAUTH2" else b"\x01"])
        try:
            client.authenticate(mechanism, lambda _: next(given))
        except imaplib.IMAP4.error:
            return False
        return client.select("INBOX")[0] == "OK"


def test_a_smarthost_that_takes_tokens_announces_it(oauth_postfix: Postfix, certificates: Certificates) -> None:
    """Besides passwords."""
    context = ssl.create_default_context(cafile=str(certificates.ca))
    with smtplib.SMTP_SSL("localhost", oauth_postfix.tls_port, timeout=30, context=context) as client:
        client.ehlo()
        assert set(client.esmtp_features["auth"].split()) == {*MECHANISMS, *TOKEN_MECHANISMS}


@pytest.mark.parametrize("mechanism", TOKEN_MECHANISMS)
def test_a_good_token_logs_in(
    oauth_postfix: Postfix,
    oauth_mailbox: MailboxServer,
    token_server: TokenServer,
    certificates: Certificates,
    mechanism: str,
) -> None:
    """By each mechanism on both servers, for its own mailbox only, until it is revoked; and no refusal delays."""
    token = app_token(token_server, "relay@dest.test")
    assert smtp_login(oauth_postfix, certificates, mechanism, "relay@dest.test", token) == 235
    assert imap_login(oauth_mailbox, certificates, mechanism, "relay@dest.test", token)
    began = time.monotonic()
    for user, wrong in (("other@dest.test", token), ("relay@dest.test", token + "x")):
        assert smtp_login(oauth_postfix, certificates, mechanism, user, wrong) == 535
        assert not imap_login(oauth_mailbox, certificates, mechanism, user, wrong)
    token_server.issued.revoke()
    assert smtp_login(oauth_postfix, certificates, mechanism, "relay@dest.test", token) == 535
    assert not imap_login(oauth_mailbox, certificates, mechanism, "relay@dest.test", token)
    assert time.monotonic() - began < 8


def test_an_expired_token_and_one_for_something_else_are_refused(
    oauth_postfix: Postfix, oauth_mailbox: MailboxServer, token_server: TokenServer, certificates: Certificates
) -> None:
    """The token server's clock counts; and a token for one protocol does not open the other."""
    token = app_token(token_server, "relay@dest.test", roles=("SMTP.SendAsApp",))
    assert smtp_login(oauth_postfix, certificates, "XOAUTH2", "relay@dest.test", token) == 235
    assert not imap_login(oauth_mailbox, certificates, "XOAUTH2", "relay@dest.test", token)
    token_server.skew = token_server.life + 1
    assert smtp_login(oauth_postfix, certificates, "XOAUTH2", "relay@dest.test", token) == 535
    assert token_server.introspected[-1] == ("smtp", False)


# -- Microsoft -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"grant_type": ""}, (400, "invalid_request", 900144)),
        ({"client_id": "unknown"}, (400, "unauthorized_client", 700016)),
        ({"client_secret": "wrong"}, (401, "invalid_client", 7000215)),
        ({"client_secret": ""}, (401, "invalid_client", 7000218)),
        ({"scope": ""}, (400, "invalid_scope", 1002012)),
        ({"scope": "https://outlook.office.com/SMTP.Send"}, (400, "invalid_scope", 1002012)),
        ({"grant_type": "password"}, (400, "unsupported_grant_type", 70003)),
    ],
)
def test_entra_refuses_with_its_numbers(
    token_server: TokenServer, wrong: dict[str, str], expected: tuple[int, str, int]
) -> None:
    """What is wrong in a request has Microsoft's error and number; the same request without it is granted."""
    token_server.entra.register("app", secret="right", mailbox="relay")
    right = {"grant_type": "client_credentials", "client_id": "app", "client_secret": "right", "scope": APP_SCOPE}
    assert code_of(post(entra_token_url(token_server), **{**right, **wrong})) == expected
    status, document = post(entra_token_url(token_server), **right)
    assert (status, document["token_type"], "refresh_token" in document) == (200, "Bearer", False)
    claims = Assertion.read(document["access_token"]).claims
    assert (claims["aud"], claims["roles"]) == ("https://outlook.office365.com", ["SMTP.SendAsApp", "IMAP.AccessAsApp"])


def test_entra_knows_tenants_and_expired_secrets(token_server: TokenServer) -> None:
    """Another tenant is not found, an expired secret is not a wrong one."""
    app = token_server.entra.register("app", secret="right", mailbox="relay")
    form = {"grant_type": "client_credentials", "client_id": "app", "client_secret": "right", "scope": APP_SCOPE}
    other = post(f"{token_server.url}/example.com/oauth2/v2.0/token", **form)
    assert code_of(other) == (400, "invalid_request", 90002)
    app.secret_expired = True
    assert code_of(post(entra_token_url(token_server), **form)) == (401, "invalid_client", 7000222)


@pytest.fixture(scope="module")
def application_key() -> Iterator[Path]:
    with short_directory("mr-app") as directory:
        yield make_certificate(directory / "app.pem")


def assertion(path: Path, audience: str, algorithm: str = "PS256", **wrong: Any) -> str:
    """A client assertion as Microsoft describes it; `wrong` replaces claims, or x5t and alg in the header."""
    pem = path.read_bytes()
    key = serialization.load_pem_private_key(pem, None)
    assert isinstance(key, rsa.RSAPrivateKey)
    prints = thumbprints(x509.load_pem_x509_certificate(pem))
    name = "x5t#S256" if algorithm == "PS256" else "x5t"
    head = {"typ": "JWT", "alg": wrong.pop("alg", algorithm), name: wrong.pop("x5t", prints[name])}
    now = int(time.time())
    claims = {"aud": audience, "iss": "app", "sub": "app", "nbf": now, "exp": now + 300, "jti": str(uuid.uuid4())}
    text = ".".join(packed(json.dumps(part).encode()) for part in (head, {**claims, **wrong}))
    return f"{text}.{packed(key.sign(text.encode(), PADDINGS[algorithm], hashes.SHA256()))}"


@pytest.mark.parametrize("algorithm", ["PS256", "RS256"])
def test_entra_takes_an_assertion_once(token_server: TokenServer, application_key: Path, algorithm: str) -> None:
    """Signed by the registered certificate, by either algorithm; not a second time."""
    token_server.entra.register("app", certificate=application_key, mailbox="relay")
    url = entra_token_url(token_server)
    form = {"grant_type": "client_credentials", "client_id": "app", "client_assertion_type": ASSERTION_TYPE}
    form |= {"client_assertion": assertion(application_key, url, algorithm), "scope": APP_SCOPE}
    assert post(url, **form)[0] == 200
    assert code_of(post(url, **form)) == (401, "invalid_client", 50027)


@pytest.mark.parametrize(
    ("wrong", "number"),
    [
        ({"alg": "none"}, 700027),
        ({"alg": "RS256"}, 700027),
        ({"x5t": "another"}, 700027),
        ({"aud": "https://elsewhere.example.com/token"}, 700023),
        ({"iss": "other"}, 700021),
        ({"sub": "other"}, 700021),
        ({"exp": 1_600_000_000, "nbf": 1_600_000_000 - 300}, 700024),
        ({"exp": 4_000_000_000, "nbf": 4_000_000_000 - 300}, 700024),
        ({"exp": int(time.time()) + 7200}, 700024),
        ({"jti": ""}, 50027),
        ({"exp": "soon"}, 50027),
    ],
)
def test_entra_refuses_a_wrong_assertion(
    token_server: TokenServer, application_key: Path, wrong: dict[str, Any], number: int
) -> None:
    """Each claim and header that Microsoft's page asks for is looked at."""
    token_server.entra.register("app", certificate=application_key, mailbox="relay")
    url = entra_token_url(token_server)
    form = {"grant_type": "client_credentials", "client_id": "app", "client_assertion_type": ASSERTION_TYPE}
    form |= {"client_assertion": assertion(application_key, url, **wrong), "scope": APP_SCOPE}
    assert code_of(post(url, **form)) == (401, "invalid_client", number)


def test_entra_polls_a_device(token_server: TokenServer) -> None:
    """Pending, too fast, declined, granted: each has its answer; a code is good for one token."""
    entra, url = token_server.entra, entra_token_url(token_server)
    entra.register("app", public=True)
    device = f"{token_server.url}/{entra.tenant}/oauth2/v2.0/devicecode"
    entra.device_interval = 0.3
    status, begun = post(device, client_id="app", scope=USER_SCOPE)
    assert status == 200
    form = {"grant_type": DEVICE, "client_id": "app", "device_code": begun["device_code"]}
    assert code_of(post(url, **form)) == (400, "authorization_pending", 70016)
    assert post(url, **form)[1]["error"] == "slow_down"
    entra.approve(begun["user_code"], "boss@dest.test")
    assert post(url, **form)[1]["error"] == "slow_down"  # five seconds more, and five again
    entra.codes[begun["device_code"]].interval = 0
    status, document = post(url, **form)
    assert (status, "refresh_token" in document) == (200, True)
    assert Assertion.read(document["access_token"]).claims["scp"] == "SMTP.Send IMAP.AccessAsUser.All"
    assert post(url, **form)[1]["error"] == "bad_verification_code"
    _, begun = post(device, client_id="app", scope=USER_SCOPE)
    entra.decline(begun["user_code"])
    form["device_code"] = begun["device_code"]
    assert post(url, **form)[1]["error"] == "authorization_declined"


def authorized(authorize_url: str, **more: str) -> str:
    """The code that a browser brings back; the state must come with it."""
    query = {
        "client_id": "app",
        "response_type": "code",
        "redirect_uri": REDIRECT,
        "state": "state",
        "code_challenge": challenge(VERIFIER),
        "code_challenge_method": "S256",
        **more,
    }
    found = Browser("boss@dest.test").consent(f"{authorize_url}?{urlencode(query)}")
    assert found.startswith(REDIRECT)
    answer = parse_qs(urlsplit(found).query)
    assert answer["state"] == ["state"]
    return answer["code"][0]


def test_entra_rotates_refresh_tokens(token_server: TokenServer) -> None:
    """A code needs its verifier; a refresh token used twice takes the whole grant with it."""
    entra, url = token_server.entra, entra_token_url(token_server)
    entra.register("app", secret="right")
    entra.signed_in = "boss@dest.test"
    app = {"client_id": "app", "client_secret": "right"}
    exchange = {**app, "grant_type": "authorization_code", "redirect_uri": REDIRECT, "code_verifier": VERIFIER}
    page = url.replace("/token", "/authorize")
    wrong = post(url, **{**exchange, "code_verifier": "x" * 43}, code=authorized(page, scope=USER_SCOPE))
    assert code_of(wrong) == (400, "invalid_grant", 501481)
    status, first = post(url, **exchange, code=authorized(page, scope=USER_SCOPE))
    assert status == 200
    renew = {**app, "grant_type": "refresh_token"}
    status, second = post(url, **renew, refresh_token=first["refresh_token"])
    assert (status, second["refresh_token"] != first["refresh_token"]) == (200, True)
    assert code_of(post(url, **renew, refresh_token=first["refresh_token"])) == (400, "invalid_grant", 50173)
    assert code_of(post(url, **renew, refresh_token=second["refresh_token"])) == (400, "invalid_grant", 50173)
    assert token_server.issued.reused == [first["refresh_token"]]


# -- Google --------------------------------------------------------------------------------------------------------


def google_assertion(server: TokenServer, **wrong: Any) -> str:
    (robot,) = server.google.robots.values()
    now = int(time.time())
    claims: dict[str, Any] = {"iss": robot.email, "sub": "relay@dest.test", "scope": MAIL, "aud": f"{server.url}/token"}
    claims |= {"iat": now, "exp": now + 3600, **wrong}
    header = {"typ": "JWT", "alg": "RS256", "kid": robot.key_id}
    text = ".".join(packed(json.dumps(part).encode()) for part in (header, claims))
    return f"{text}.{packed(robot.key.sign(text.encode(), PADDINGS['RS256'], hashes.SHA256()))}"


@pytest.mark.parametrize(
    ("wrong", "status", "error", "said"),
    [
        ({}, 200, None, ""),
        ({"iss": "other@project.example.com"}, 400, "invalid_grant", "account not found"),
        ({"sub": "nobody@dest.test"}, 400, "invalid_grant", "Invalid email or User ID"),
        ({"scope": ""}, 400, "invalid_scope", "scope"),
        ({"scope": "https://www.googleapis.com/auth/drive"}, 401, "unauthorized_client", "not authorized for any"),
        ({"aud": "https://oauth2.googleapis.com/token"}, 400, "invalid_grant", "audience"),
        ({"exp": int(time.time()) + 36_000}, 400, "invalid_grant", TIMES),
        ({"iat": int(time.time()) + 3000}, 400, "invalid_grant", TIMES),
        ({"exp": 1_600_000_000, "iat": 1_600_000_000 - 60}, 400, "invalid_grant", TIMES),
        ({"iat": None}, 400, "invalid_grant", "iat"),
    ],
)
def test_google_checks_a_robots_assertion(
    token_server: TokenServer, tmp_path: Path, wrong: dict[str, Any], status: int, error: str | None, said: str
) -> None:
    """A good one is granted; each claim is looked at, and what is wrong is said as Google says it."""
    token_server.google.service_account(tmp_path / "robot.json")
    token_server.google.users.add("relay@dest.test")
    made = google_assertion(token_server, **wrong)
    answer = post(f"{token_server.url}/token", grant_type=ASSERTION, assertion=made)
    assert (answer[0], answer[1].get("error")) == (status, error)
    assert said in answer[1].get("error_description", "")
    assert json.loads((tmp_path / "robot.json").read_text())["token_uri"] == f"{token_server.url}/token"


def test_google_gives_a_refresh_token_only_for_offline_access(token_server: TokenServer) -> None:
    """And keeps it the same; revoked, it says so."""
    google, url = token_server.google, f"{token_server.url}/token"
    google.clients["app"], google.signed_in = "right", "boss@dest.test"
    app = {"client_id": "app", "client_secret": "right"}
    exchange = {**app, "grant_type": "authorization_code", "redirect_uri": REDIRECT, "code_verifier": VERIFIER}
    page = f"{token_server.url}/o/oauth2/v2/auth"
    assert "refresh_token" not in post(url, **exchange, code=authorized(page, scope=MAIL))[1]
    code = authorized(page, scope=MAIL, access_type="offline", prompt="consent")
    first = post(url, **exchange, code=code)[1]
    renew = {**app, "grant_type": "refresh_token", "refresh_token": first["refresh_token"]}
    assert [post(url, **renew)[0] for _ in range(2)] == [200, 200]
    assert "refresh_token" not in post(url, **renew)[1]
    token_server.issued.revoke()
    assert post(url, **renew)[1]["error_description"] == "Token has been expired or revoked."


# -- trouble -------------------------------------------------------------------------------------------------------


def test_a_token_server_in_trouble(token_server: TokenServer) -> None:
    """It can be away, cut, busy or talk nonsense; mail servers are answered meanwhile."""
    url = entra_token_url(token_server)
    token = app_token(token_server, "relay")
    with token_server.away(), pytest.raises(urllib.error.URLError, match="refused"):
        post(url)
    with token_server.troubled("cut"), pytest.raises(OSError, match="without response"):
        post(url)
    with token_server.troubled("garbage"), pytest.raises(json.JSONDecodeError):
        post(url)
    with token_server.troubled("throttled"):
        assert post(url)[0] == 429
    token_server.refuse_once(400, {"error": "invalid_grant"})
    assert post(url) == (400, {"error": "invalid_grant"})
    assert post(url)[1]["error"] == "invalid_request"
    assert token_server.issued.introspect(token, "smtp", token_server.now())["active"]
    assert [one.path for one in token_server.requests[:1]] == [urlsplit(url).path]


def test_a_slow_token_server_says_nothing(token_server: TokenServer) -> None:
    """A client has to have a deadline of its own."""
    request = urllib.request.Request(entra_token_url(token_server), b"grant_type=any")
    with token_server.troubled("slow"), pytest.raises(TimeoutError):
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=0.3)


def test_an_assertion_must_be_well_formed() -> None:
    """Three parts of base64url without padding, the first two JSON objects."""
    for text in ("", "a.b", "e30.e30.e30=", "e30.W10.e30", "e30.e3.e30", "é.e30.e30"):
        with pytest.raises(BadAssertionError):
            Assertion.read(text)
    assert Assertion.read("e30.e30.e30").claims == {}


# -- a real OpenID provider ----------------------------------------------------------------------------------------


@contextmanager
def mailbox_for(provider: OpenIdProvider, certificates: Certificates) -> Iterator[MailboxServer]:
    with short_directory("mr-imap") as directory:
        server = MailboxServer(directory, certificates, introspection_url=provider.introspection_url("imap"))
        try:
            server.start()
            yield server
        finally:
            server.stop()


def test_the_lock_file_names_hashes_and_no_registry() -> None:
    """Every package is pinned by its hash, from wherever it is fetched."""
    text = (oidc.SOURCE / "package-lock.json").read_text()
    packages = [one for name, one in json.loads(text)["packages"].items() if name]
    assert all(one["integrity"].startswith("sha512-") for one in packages)
    assert "resolved" not in text
    assert "registry" not in text


def test_a_real_provider_and_dovecot(
    openid_provider: StartProvider, certificates: Certificates, required: Callable[[str], None]
) -> None:
    """An application's token opens the mailbox it may use, and no other, until it is revoked; Dovecot itself asks."""
    required(IMAP_PROGRAM)
    application = {"client_id": "app", "client_secret": "right", "method": "client_secret_post"}
    provider = openid_provider([{**application, "mailbox": "relay@dest.test"}])
    form = {"grant_type": "client_credentials", "client_id": "app", "client_secret": "right"}
    token = post(f"{provider.url}/token", **form, scope="smtp imap")[1]["access_token"]
    smtp_only = post(f"{provider.url}/token", **form, scope="smtp")[1]["access_token"]
    with mailbox_for(provider, certificates) as mailbox:
        for mechanism in TOKEN_MECHANISMS:
            assert imap_login(mailbox, certificates, mechanism, "relay@dest.test", token)
            assert not imap_login(mailbox, certificates, mechanism, "other@dest.test", token)
            assert not imap_login(mailbox, certificates, mechanism, "relay@dest.test", smtp_only)
        provider.revoke()
        assert not imap_login(mailbox, certificates, "XOAUTH2", "relay@dest.test", token)


def test_a_real_provider_checks_a_certificate(openid_provider: StartProvider, application_key: Path) -> None:
    """private_key_jwt: the assertion's signature and audience count."""
    pem = application_key.read_text()
    provider = openid_provider([{"client_id": "app", "certificate": pem, "mailbox": "relay"}])
    url = f"{provider.url}/token"
    form = {"grant_type": "client_credentials", "client_id": "app", "client_assertion_type": ASSERTION_TYPE}
    assert post(url, **form, scope="smtp", client_assertion=assertion(application_key, url))[0] == 200
    wrong = assertion(application_key, "https://elsewhere.example.com")
    assert post(url, **form, scope="smtp", client_assertion=wrong)[1]["error"] == "invalid_client"


def test_a_real_providers_user_flows(openid_provider: StartProvider) -> None:
    """A device and a browser each get a token for who signed in; refresh tokens rotate, and lives can be short."""
    provider = openid_provider(
        [{"client_id": "app", "is_public": True, "redirect_uris": ["http://127.0.0.1/redirect"]}]
    )
    url, scope = f"{provider.url}/token", "smtp imap offline_access"
    begun = post(f"{provider.url}/device/auth", client_id="app", scope=scope)[1]
    form = {"grant_type": DEVICE, "client_id": "app", "device_code": begun["device_code"]}
    assert post(url, **form)[1]["error"] == "authorization_pending"
    assert "successful" in Browser("boss@dest.test").enter_code(begun["verification_uri"], begun["user_code"])
    by_device = post(url, **form)[1]
    code = authorized(f"{provider.url}/auth", scope=scope, prompt="consent")
    exchange = {"grant_type": "authorization_code", "client_id": "app", "redirect_uri": REDIRECT}
    by_browser = post(url, **exchange, code=code, code_verifier=VERIFIER)[1]
    renew = {"grant_type": "refresh_token", "client_id": "app"}
    provider.live(7)
    for first in (by_device, by_browser):
        second = post(url, **renew, refresh_token=first["refresh_token"])[1]
        assert second["expires_in"] == 7
        assert second["refresh_token"] != first["refresh_token"]
    assert post(url, **renew, refresh_token=by_device["refresh_token"])[1]["error"] == "invalid_grant"
