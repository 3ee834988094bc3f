"""Google's side of a token: service accounts with domain-wide delegation, and users by authorization code.

It follows Google's pages "Using OAuth 2.0 for Server to Server Applications" and "OAuth 2.0 for Mobile & Desktop
Apps", and RFC 7523. That an assertion from the future is refused to the second is stricter than Google is.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.servers.assertions import Assertion, BadAssertionError, challenge
from tests.servers.entra import pkce_is_right
from tests.servers.issued import Grant, Issued
from tests.servers.tokenanswers import Answer, Asked, Refusal

MAIL = "https://mail.google.com/"
ASSERTION = "urn:ietf:params:oauth:grant-type:jwt-bearer"
HOUR = 3600
TIMES = (
    "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. "
    "Check your iat and exp values in the JWT claim."
)


@dataclass
class ServiceAccount:
    """A robot; `delegated` are the scopes that the domain's administrator allows it for every user."""

    email: str
    key_id: str
    key: rsa.RSAPrivateKey
    delegated: tuple[str, ...] = (MAIL,)


@dataclass
class _Code:
    client_id: str
    scope: str
    user: str
    redirect_uri: str
    challenge: str
    offline: bool


@dataclass
class GoogleAccounts:
    """One domain with its users, robots and desktop applications."""

    url: str
    issued: Issued
    now: Callable[[], float]
    life: Callable[[], float]
    users: set[str] = field(default_factory=set)
    signed_in: str = ""
    clients: dict[str, str] = field(default_factory=dict)  # client id -> secret
    robots: dict[str, ServiceAccount] = field(default_factory=dict)
    codes: dict[str, _Code] = field(default_factory=dict)

    def service_account(self, path: Path, email: str = "relay@project.iam.gserviceaccount.com") -> ServiceAccount:
        """A robot; its key is written as the JSON file that Google's console hands out."""
        key = rsa.generate_private_key(65537, 2048)
        robot = ServiceAccount(email, secrets.token_hex(20), key)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        document = {
            "type": "service_account",
            "project_id": "project",
            "private_key_id": robot.key_id,
            "private_key": pem.decode(),
            "client_email": email,
            "client_id": "100000000000000000001",
            "auth_uri": f"{self.url}/o/oauth2/v2/auth",
            "token_uri": f"{self.url}/token",
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(document, indent=2))
        self.robots[email] = robot
        return robot

    def answer(self, asked: Asked) -> Answer | None:
        """None: not one of its addresses. Raises Refusal."""
        places = {
            ("POST", "/token"): self._token,
            ("GET", "/o/oauth2/v2/auth"): self._authorize,
            ("GET", "/.well-known/openid-configuration"): self._metadata,
        }
        found = places.get((asked.method, asked.path))
        return found(asked) if found else None

    def _metadata(self, asked: Asked) -> Answer:
        return Answer(
            200,
            {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/o/oauth2/v2/auth",
                "token_endpoint": f"{self.url}/token",
                "device_authorization_endpoint": f"{self.url}/device/code",
                "code_challenge_methods_supported": ["plain", "S256"],
            },
        )

    def _token(self, asked: Asked) -> Answer:
        kinds = {
            ASSERTION: self._assertion,
            "authorization_code": self._authorization_code,
            "refresh_token": self._refresh,
        }
        kind = asked.form.get("grant_type", "")
        if kind not in kinds:
            raise _refusal("unsupported_grant_type", f"Invalid grant_type: {kind}")
        return kinds[kind](asked)

    def _assertion(self, asked: Asked) -> Answer:
        if set(asked.form) != {"grant_type", "assertion"}:
            raise _refusal("invalid_request", f"Unexpected parameters: {sorted(asked.form)}")
        try:
            assertion = Assertion.read(asked.form["assertion"])
            issued_at, expires = assertion.number("iat"), assertion.number("exp")
        except BadAssertionError as fault:
            raise _refusal("invalid_grant", f"Invalid JWT: {fault}") from fault
        claims = assertion.claims
        robot = self.robots.get(str(claims.get("iss")))
        if robot is None:
            raise _refusal("invalid_grant", "Invalid grant: account not found")
        try:
            if assertion.header.get("kid", robot.key_id) != robot.key_id or assertion.header.get("typ") != "JWT":
                raise BadAssertionError("No valid verifier found for issuer")
            assertion.verify(robot.key.public_key(), "RS256")
        except BadAssertionError as fault:
            raise _refusal("invalid_grant", f"Invalid JWT Signature. {fault}") from fault
        if claims.get("aud") != f"{self.url}/token":
            raise _refusal("invalid_grant", "Invalid JWT: Failed audience check.")
        if not issued_at <= self.now() < expires or expires - issued_at > HOUR or expires <= issued_at:
            raise _refusal("invalid_grant", TIMES)
        scope = str(claims.get("scope", ""))
        if not scope:
            raise _refusal("invalid_scope", "Empty or missing scope not allowed.")
        user = claims.get("sub")
        if not set(scope.split()) <= set(robot.delegated):
            text = (
                "Client is unauthorized to retrieve access tokens using this method, "
                "or client not authorized for any of the scopes requested."
            )
            raise _refusal("unauthorized_client", text, 401)
        if user not in self.users:
            raise _refusal("invalid_grant", "Invalid email or User ID")
        return Answer(200, self._access(self._grant(str(user), robot.email, scope)))

    def _grant(self, user: str, client_id: str, scope: str) -> Grant:
        protocols = frozenset({"smtp", "imap"}) if MAIL in scope.split() else frozenset[str]()
        return Grant(user, client_id, scope, protocols)

    def _access(self, grant: Grant) -> dict[str, Any]:
        life = self.life()
        token = self.issued.remember(f"ya29.{secrets.token_urlsafe(90)}", grant, self.now() + life)
        return {"access_token": token, "expires_in": int(life), "token_type": "Bearer"}

    def _client(self, asked: Asked) -> str:
        client_id, secret = asked.client()
        if client_id not in self.clients:
            raise _refusal("invalid_client", "The OAuth client was not found.", 401)
        if secret != self.clients[client_id]:
            raise _refusal("invalid_client", "Unauthorized", 401)
        return client_id

    def _authorize(self, asked: Asked) -> Answer:
        query = asked.query
        redirect = query.get("redirect_uri", "")
        if query.get("client_id") not in self.clients:
            raise _refusal("invalid_client", "The OAuth client was not found.", 401)
        if not redirect.startswith(("http://127.0.0.1", "http://localhost")):
            raise _refusal("redirect_uri_mismatch", redirect)
        if query.get("response_type") != "code" or not query.get("state") or not pkce_is_right(query):
            raise _refusal("invalid_request", "response_type=code, state and a code_challenge by S256 are needed")
        offline = query.get("access_type") == "offline" and query.get("prompt") == "consent"
        code = f"4/{secrets.token_urlsafe(32)}"
        scope = query.get("scope", "")
        self.codes[code] = _Code(query["client_id"], scope, self.signed_in, redirect, query["code_challenge"], offline)
        told = {"code": code, "scope": scope, "state": query["state"]}
        return Answer(302, b"", {"Location": f"{redirect}?{urlencode(told)}"})

    def _authorization_code(self, asked: Asked) -> Answer:
        client_id = self._client(asked)
        code = self.codes.pop(asked.form.get("code", ""), None)
        if code is None or code.client_id != client_id:
            raise _refusal("invalid_grant", "Malformed auth code.")
        if code.redirect_uri != asked.form.get("redirect_uri"):
            raise _refusal("redirect_uri_mismatch", "Bad Request")
        if challenge(asked.form.get("code_verifier", "")) != code.challenge:
            raise _refusal("invalid_grant", "Invalid code verifier.")
        grant = self._grant(code.user, client_id, code.scope)
        document = {**self._access(grant), "scope": code.scope}
        if code.offline:
            document["refresh_token"] = self.issued.renewable(grant)
        return Answer(200, document)

    def _refresh(self, asked: Asked) -> Answer:
        client_id = self._client(asked)
        grant = self.issued.take(asked.form.get("refresh_token", ""))
        if grant is None or grant.client_id != client_id:
            raise _refusal("invalid_grant", "Token has been expired or revoked.")
        return Answer(200, {**self._access(grant), "scope": grant.scope})  # the refresh token stays what it was


def _refusal(error: str, text: str, status: int = 400) -> Refusal:
    return Refusal(status, {"error": error, "error_description": text})
