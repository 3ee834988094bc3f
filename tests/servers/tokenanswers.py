"""What is asked of a local token server, and what it answers."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_plus


@dataclass(frozen=True)
class Asked:
    """One HTTP request; header names in lower case."""

    method: str
    path: str
    query: dict[str, str]
    form: dict[str, str]
    headers: dict[str, str]

    def client(self) -> tuple[str, str]:
        """Client id and secret, from the form or by HTTP Basic, never both (RFC 6749 section 2.3.1)."""
        given = self.headers.get("authorization", "")
        if not given:
            return self.form.get("client_id", ""), self.form.get("client_secret", "")
        try:
            name, _, secret = base64.b64decode(given.removeprefix("Basic "), validate=True).decode().partition(":")
        except (ValueError, binascii.Error):
            name = secret = ""
        if not given.startswith("Basic ") or "client_secret" in self.form:
            raise Refusal(400, {"error": "invalid_request", "error_description": "one way to authenticate, not two"})
        return unquote_plus(name), unquote_plus(secret)


@dataclass(frozen=True)
class Answer:
    """One HTTP response; a `body` that is not bytes goes out as JSON."""

    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)


class Refusal(Exception):  # noqa: N818 - what a server says, more than an error
    """An error document instead of a token."""

    def __init__(self, status: int, document: dict[str, Any]) -> None:
        """`document` has at least `error` (RFC 6749 section 5.2)."""
        super().__init__(document)
        self.answer = Answer(status, document)
