"""Microsoft's side of a token: the endpoints below /TENANT/oauth2/v2.0/, with the errors of its documentation.

What is asked for and refused follows Microsoft's pages "OAuth 2.0 client credentials flow", "certificate
credentials", "device authorization grant", "authorization code flow" and "authentication and authorization error
codes". That a refresh token is good for one use only is stricter than Microsoft is.
"""

from __future__ import annotations

import re
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.servers.assertions import Assertion, BadAssertionError, challenge, signed, thumbprints
from tests.servers.issued import Grant, Issued
from tests.servers.tokenanswers import Answer, Asked, Refusal

OUTLOOK_APP = "https://outlook.office365.com"
OUTLOOK_USER = "https://outlook.office.com"
APP_ROLES = {"SMTP.SendAsApp": "smtp", "IMAP.AccessAsApp": "imap"}
USER_SCOPES = {"SMTP.Send": "smtp", "IMAP.AccessAsUser.All": "imap"}
OPENID_SCOPES = {"offline_access", "openid", "profile", "email"}
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
TOLERANCE = 300  # seconds that clocks may differ
LONGEST_ASSERTION = 600  # seconds from nbf to exp: "5-10 minutes at most"


@dataclass
class App:
    """A registered application. `mailbox` is what an administrator gave its service principal access to."""

    client_id: str
    secret: str = ""
    secret_expired: bool = False
    certificate: x509.Certificate | None = None
    mailbox: str = ""
    roles: tuple[str, ...] = tuple(APP_ROLES)
    public: bool = False  # "allow public client flows": asks for users' tokens without a secret


@dataclass
class _Code:
    """A device's or an authorization's code until it is exchanged."""

    client_id: str
    scope: str
    until: float
    user: str = ""
    declined: bool = False
    interval: float = 0.0
    last_asked: float = 0.0
    redirect_uri: str = ""
    challenge: str = ""


@dataclass
class Entra:
    """One tenant. `signed_in` is who sits at the browser that opens the authorize page."""

    url: str
    issued: Issued
    now: Callable[[], float]
    life: Callable[[], float]
    tenant: str = "11111111-2222-3333-4444-555555555555"
    signed_in: str = ""
    consent_refused: bool = False
    device_interval: float = 1.0
    apps: dict[str, App] = field(default_factory=dict)
    codes: dict[str, _Code] = field(default_factory=dict)  # device and authorization codes
    user_codes: dict[str, str] = field(default_factory=dict)  # user code -> device code
    assertions_seen: set[str] = field(default_factory=set)

    def register(self, client_id: str, *, certificate: Path | None = None, **properties: Any) -> App:
        """An application of the tenant; `certificate` is a PEM file."""
        loaded = x509.load_pem_x509_certificate(certificate.read_bytes()) if certificate else None
        self.apps[client_id] = App(client_id, certificate=loaded, **properties)
        return self.apps[client_id]

    def approve(self, user_code: str, user: str) -> None:
        """Somebody enters the code that the device showed, and signs in."""
        self.codes[self.user_codes[user_code]].user = user

    def decline(self, user_code: str) -> None:
        """Somebody enters the code, and says no."""
        self.codes[self.user_codes[user_code]].declined = True

    def answer(self, asked: Asked) -> Answer | None:
        """None: not one of its addresses. Raises Refusal."""
        match = re.fullmatch(
            r"/([^/]+)/(?:oauth2/v2\.0/(token|devicecode|authorize)|(v2\.0/\.well-known)/\S+)", asked.path
        )
        if not match:
            return None
        tenant, endpoint, well_known = match.groups()
        if tenant != self.tenant:
            raise self._refusal(400, "invalid_request", 90002, f"Tenant '{tenant}' not found.")
        if well_known:
            return Answer(200, self._metadata())
        if asked.method != ("GET" if endpoint == "authorize" else "POST"):
            raise self._refusal(400, "invalid_request", 900561, "The endpoint only accepts POST requests.")
        return {"token": self._token, "devicecode": self._device, "authorize": self._authorize}[endpoint](asked)

    def _metadata(self) -> dict[str, Any]:
        base = f"{self.url}/{self.tenant}"
        return {
            "issuer": f"{base}/v2.0",
            "token_endpoint": f"{base}/oauth2/v2.0/token",
            "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
            "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode",
        }

    def _refusal(self, status: int, error: str, code: int, text: str) -> Refusal:
        # The shape of Microsoft's error answers: numbers for people, `error` for programs.
        when = "2026-11-21 08:00:00Z"
        trace, correlation = "255d1aef-8c98-452f-ac51-23d051240864", "fb3d2015-bc17-4bb9-bb85-30c5cf1aaaa7"
        described = f"AADSTS{code}: {text} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {when}"
        document = {
            "error": error,
            "error_description": described,
            "error_codes": [code],
            "timestamp": when,
            "trace_id": trace,
            "correlation_id": correlation,
            "error_uri": f"{self.url}/error?code={code}",
        }
        return Refusal(status, document)

    def _token(self, asked: Asked) -> Answer:
        kinds = {
            "client_credentials": self._client_credentials,
            "refresh_token": self._refresh,
            "authorization_code": self._authorization_code,
            DEVICE: self._device_code,
        }
        kind = asked.form.get("grant_type")
        if not kind:
            text = "The request body must contain the following parameter: 'grant_type'."
            raise self._refusal(400, "invalid_request", 900144, text)
        if kind not in kinds:
            raise self._refusal(
                400, "unsupported_grant_type", 70003, f"The app requested an unsupported grant type '{kind}'."
            )
        client_id = asked.client()[0]
        app = self.apps.get(client_id)
        if app is None:
            text = f"Application with identifier '{client_id}' was not found in the directory '{self.tenant}'."
            raise self._refusal(400, "unauthorized_client", 700016, text)
        return kinds[kind](asked, app)

    def _proven(self, asked: Asked, app: App) -> None:
        """Whether the application proves that it is itself."""
        secret, assertion = asked.client()[1], asked.form.get("client_assertion", "")
        if assertion:
            if asked.form.get("client_assertion_type") != ASSERTION_TYPE or secret:
                raise self._refusal(400, "invalid_request", 900144, "'client_assertion_type' is missing or wrong.")
            self._asserted(assertion, app)
        elif not secret:
            text = "The request body must contain the following parameter: 'client_assertion' or 'client_secret'."
            raise self._refusal(401, "invalid_client", 7000218, text)
        elif not app.secret or secret != app.secret:
            text = (
                "Invalid client secret provided. Ensure the secret being sent in the request is the client secret "
                f"value, not the client secret ID, for a secret added to app '{app.client_id}'."
            )
            raise self._refusal(401, "invalid_client", 7000215, text)
        elif app.secret_expired:
            text = f"The provided client secret keys for app '{app.client_id}' are expired."
            raise self._refusal(401, "invalid_client", 7000222, text)

    def _asserted(self, text: str, app: App) -> None:
        try:
            assertion = Assertion.read(text)
            expires, not_before = assertion.number("exp"), assertion.number("nbf")
        except BadAssertionError as fault:
            raise self._refusal(401, "invalid_client", 50027, f"JWT token is invalid or malformed. {fault}") from fault
        self._signed(assertion, app)
        claims = assertion.claims
        base = f"{self.url}/{self.tenant}"
        if claims.get("aud") not in (f"{base}/oauth2/v2.0/token", f"{base}/v2.0"):
            text = f"Client assertion audience claim does not match Realm issuer. '{claims.get('aud')}'"
            raise self._refusal(401, "invalid_client", 700023, text)
        if claims.get("iss") != app.client_id or claims.get("sub") != app.client_id:
            text = "Client assertion application identifier doesn't match 'client_id' parameter."
            raise self._refusal(401, "invalid_client", 700021, text)
        now = self.now()
        if not (not_before - TOLERANCE <= now < expires + TOLERANCE) or expires - not_before > LONGEST_ASSERTION:
            text = (
                f"Client assertion is not within its valid time range. Current time: {now:.0f}, assertion valid from "
                f"{not_before}, expiry time of assertion {expires}."
            )
            raise self._refusal(401, "invalid_client", 700024, text)
        identifier = claims.get("jti")
        if not isinstance(identifier, str) or not identifier or identifier in self.assertions_seen:
            raise self._refusal(
                401, "invalid_client", 50027, "JWT token is invalid: 'jti' is missing or was seen before."
            )
        self.assertions_seen.add(identifier)

    def _signed(self, assertion: Assertion, app: App) -> None:
        try:
            if app.certificate is None:
                raise BadAssertionError("The key was not found.")
            prints = thumbprints(app.certificate)
            named = {name: value for name, value in assertion.header.items() if name in prints}
            if not named or any(prints[name] != value for name, value in named.items()):
                raise BadAssertionError(f"The key was not found., Thumbprint of key used by client: '{named}'")
            key = app.certificate.public_key()
            if assertion.header.get("typ") != "JWT" or not isinstance(key, rsa.RSAPublicKey):
                raise BadAssertionError("typ must be JWT, and the key RSA")
            assertion.verify(key, "PS256", "RS256")
        except BadAssertionError as fault:
            text = f"Client assertion contains an invalid signature. [Reason - {fault}]"
            raise self._refusal(401, "invalid_client", 700027, text) from fault

    def _client_credentials(self, asked: Asked, app: App) -> Answer:
        self._proven(asked, app)
        scope = asked.form.get("scope", "")
        resource = scope.removesuffix("/.default")
        if not re.fullmatch(r"(https|api)://\S+/\.default", scope):
            text = (
                f"The provided value for scope {scope} is not valid. Client credential flows must have a scope value "
                "with /.default suffixed to the resource identifier (application ID URI)."
            )
            raise self._refusal(400, "invalid_scope", 1002012, text)
        mine = resource in (OUTLOOK_APP, OUTLOOK_USER)
        protocols = frozenset(APP_ROLES[role] for role in app.roles) if mine else frozenset[str]()
        grant = Grant(app.mailbox, app.client_id, scope, protocols, audience=resource)
        return Answer(200, self._access(grant, {"roles": list(app.roles)}))

    def _access(self, grant: Grant, claims: dict[str, Any]) -> dict[str, Any]:
        now, life = self.now(), self.life()
        body = {
            "aud": grant.audience,
            "iss": f"https://sts.windows.net/{self.tenant}/",
            "iat": int(now),
            "nbf": int(now),
            "exp": int(now + life),
            "appid": grant.client_id,
            "tid": self.tenant,
            "uti": secrets.token_urlsafe(16),
            # So that it is too long for a command, as the real ones are.
            "wids": [str(uuid.uuid4()) for _ in range(12)],
            **claims,
        }
        token = self.issued.remember(signed(body, kid="tests"), grant, now + life)
        return {"token_type": "Bearer", "expires_in": int(life), "ext_expires_in": int(life), "access_token": token}

    def _delegated(self, grant: Grant) -> Answer:
        """What a user's grant is exchanged for: a refresh token only where offline_access was asked for."""
        short = " ".join(one.rpartition("/")[2] for one in grant.scope.split() if one not in OPENID_SCOPES)
        document = self._access(grant, {"scp": short, "upn": grant.user})
        document["scope"] = " ".join(one for one in grant.scope.split() if one not in OPENID_SCOPES)
        if "offline_access" in grant.scope.split():
            document["refresh_token"] = self.issued.renewable(grant)
        return Answer(200, document)

    def _grant(self, user: str, app: App, scope: str) -> Grant:
        audience, protocols = OUTLOOK_USER, set()
        for one in set(scope.split()) - OPENID_SCOPES:
            resource, _, name = one.rpartition("/")
            audience = resource or "https://graph.microsoft.com"  # a bare name is Graph's
            if resource in (OUTLOOK_USER, OUTLOOK_APP) and name in USER_SCOPES:
                protocols.add(USER_SCOPES[name])
        return Grant(user, app.client_id, scope, frozenset(protocols), audience)

    def _scope(self, asked: Asked | dict[str, str]) -> str:
        scope = (asked.form if isinstance(asked, Asked) else asked).get("scope", "")
        wanted = set(scope.split()) - OPENID_SCOPES
        known = all(one.startswith("https://") or one.isalnum() or "." in one for one in wanted)
        if not wanted or not known or len({one.rpartition("/")[0] for one in wanted}) > 1:
            text = f"The provided value for the input parameter 'scope' isn't valid. The scope {scope} isn't valid."
            raise self._refusal(400, "invalid_scope", 70011, text)
        return scope

    def _user_flow(self, asked: Asked, app: App) -> None:
        """A public application must not say a secret, another one has to."""
        if not app.public:
            self._proven(asked, app)
        elif asked.client()[1] or "client_assertion" in asked.form:
            text = "Client is public so neither 'client_assertion' nor 'client_secret' should be presented."
            raise self._refusal(401, "invalid_client", 700025, text)

    def _refresh(self, asked: Asked, app: App) -> Answer:
        self._user_flow(asked, app)
        grant = self.issued.take(asked.form.get("refresh_token", ""))
        if grant is None or grant.client_id != app.client_id:
            text = "The refresh token has expired or was revoked: it must be obtained anew by an interactive sign-in."
            raise self._refusal(400, "invalid_grant", 50173, text)
        if "scope" in asked.form and not set(asked.form["scope"].split()) <= set(grant.scope.split()):
            text = "The user or administrator has not consented to use the application."
            raise self._refusal(400, "invalid_grant", 65001, text)
        return self._delegated(grant)

    def _device(self, asked: Asked) -> Answer:
        app = self.apps.get(asked.form.get("client_id", ""))
        if app is None or not app.public:
            text = "The client application must be marked as 'mobile' (public client flows allowed)."
            raise self._refusal(401, "invalid_client", 7000218 if app else 700016, text)
        scope = self._scope(asked)
        device, user_code = secrets.token_urlsafe(32), secrets.token_hex(4).upper()
        self.codes[device] = _Code(app.client_id, scope, self.now() + 900, interval=self.device_interval)
        self.user_codes[user_code] = device
        page = "https://microsoft.com/devicelogin"
        return Answer(
            200,
            {
                "user_code": user_code,
                "device_code": device,
                "verification_uri": page,
                "expires_in": 900,
                "interval": int(self.device_interval),
                "message": f"To sign in, use a web browser to open the page {page} and enter the code {user_code}.",
            },
        )

    def _device_code(self, asked: Asked, app: App) -> Answer:
        code = self.codes.get(asked.form.get("device_code", ""))
        if code is None or code.client_id != app.client_id or code.redirect_uri:
            raise self._refusal(400, "bad_verification_code", 70000, "The device code is malformed or not known.")
        early, code.last_asked = self.now() - code.last_asked < code.interval - 0.1, self.now()
        if self.now() >= code.until:
            raise self._refusal(400, "expired_token", 70020, "The provided value for 'device_code' has expired.")
        if code.declined:
            raise self._refusal(400, "authorization_declined", 70017, "The user declined the authorization request.")
        if early:  # RFC 8628 section 3.5: and five seconds more from now on
            code.interval += 5
            raise self._refusal(400, "slow_down", 70021, "The client polls too often.")
        if not code.user:
            text = "The request has not yet been authorized by the user. The user must input their code."
            raise self._refusal(400, "authorization_pending", 70016, text)
        del self.codes[asked.form["device_code"]]
        return self._delegated(self._grant(code.user, app, code.scope))

    def _authorize(self, asked: Asked) -> Answer:
        query = asked.query
        app = self.apps.get(query.get("client_id", ""))
        redirect = query.get("redirect_uri", "")
        if app is None or not re.fullmatch(r"http://(localhost|127\.0\.0\.1)(:\d+)?(/\S*)?", redirect):
            text = f"The redirect URI '{redirect}' specified in the request does not match those of the application."
            raise self._refusal(400, "invalid_request", 50011, text)
        scope = self._scope(query)
        if query.get("response_type") != "code" or not query.get("state") or not pkce_is_right(query):
            text = "response_type=code, a state and a code_challenge with code_challenge_method=S256 are needed."
            raise self._refusal(400, "invalid_request", 900144, text)
        if self.consent_refused:
            told = {"error": "access_denied", "error_description": "AADSTS65004: The user declined to consent."}
        else:
            code = secrets.token_urlsafe(32)
            self.codes[code] = _Code(app.client_id, scope, self.now() + 600, self.signed_in, redirect_uri=redirect)
            self.codes[code].challenge = query["code_challenge"]
            told = {"code": code, "session_state": "tests"}
        return Answer(302, b"", {"Location": f"{redirect}?{urlencode({**told, 'state': query['state']})}"})

    def _authorization_code(self, asked: Asked, app: App) -> Answer:
        self._user_flow(asked, app)
        code = self.codes.pop(asked.form.get("code", ""), None)
        if code is None or code.client_id != app.client_id or self.now() >= code.until:
            text = "OAuth2 Authorization code was already redeemed or has expired, please retry with a new valid code."
            raise self._refusal(400, "invalid_grant", 54005, text)
        if code.redirect_uri != asked.form.get("redirect_uri"):
            text = "The reply URI specified in the request is not the one that the code was issued for."
            raise self._refusal(400, "invalid_grant", 500112, text)
        if challenge(asked.form.get("code_verifier", "")) != code.challenge:
            text = "The Code_Verifier does not match the code_challenge supplied in the authorization request."
            raise self._refusal(400, "invalid_grant", 501481, text)
        return self._delegated(self._grant(code.user, app, code.scope))


def pkce_is_right(query: dict[str, str]) -> bool:
    """Whether an authorization request has a challenge, and by S256 (RFC 7636 section 4.3)."""
    return query.get("code_challenge_method") == "S256" and len(query.get("code_challenge", "")) == 43
