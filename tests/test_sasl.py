"""SCRAM-SHA-256 against the example of RFC 7677, and everything a server could try with it."""

from __future__ import annotations

from base64 import b64encode

import pytest

from mailrelayd.sasl import (
    PASSWORD_MECHANISMS,
    SaslError,
    ScramSha256,
    check_signature,
    choose,
    oauth_bearer,
    prepared,
)

RFC_7677 = ScramSha256("user", "pencil", "rOprNGfwEbeRWgbNEkqO")
CHALLENGE = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"


def test_the_example_of_rfc_7677() -> None:
    assert RFC_7677.first() == b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    challenge = RFC_7677.challenge(CHALLENGE)
    final, signature = RFC_7677.final(challenge, RFC_7677.salted_password(challenge))
    assert final == (
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    check_signature(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=", signature)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (b"v=" + b64encode(b"x" * 32), "does not know the password"),
        (b"e=invalid-proof", "invalid-proof"),
        (b"", "missing"),
        (b"v=???", "missing"),
        (b"\xff", "UTF-8"),
    ],
)
def test_a_server_that_cannot_prove_itself_is_refused(message: bytes, says: str) -> None:
    with pytest.raises(SaslError, match=says):
        check_signature(message, b"y" * 32)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (CHALLENGE.replace(b"i=4096", b"i=4095"), "iterations"),
        (CHALLENGE.replace(b"i=4096", b"i=1000001"), "iterations"),
        (CHALLENGE.replace(b"i=4096", b"i=many"), "malformed"),
        (CHALLENGE.replace(b"rOpr", b"xOpr"), "another exchange"),
        (b"r=rOprNGfwEbeRWgbNEkqO,s=W22Z,i=4096", "another exchange"),
        (b"m=tls," + CHALLENGE, "unknown extension"),
        (b"", "malformed"),
        (b"r=rOprNGfwEbeRWgbNEkqOx,s=W,i=4096", "malformed"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_a_bad_challenge_is_refused(message: bytes, says: str) -> None:
    with pytest.raises(SaslError, match=says):
        RFC_7677.challenge(message)


def test_a_user_name_cannot_add_fields() -> None:
    assert ScramSha256("a,b=c", "x", "nonce").first() == b"n,,n=a=2Cb=3Dc,r=nonce"
    assert oauth_bearer("a,b=c", "token") == b"n,a=a=2Cb=3Dc,\x01auth=Bearer token\x01\x01"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("I\u00adX", "IX"),
        ("a\u00a0b", "a b"),
        ("u\u0308", "ü"),
        ("\u2168", "IX"),
        ("ä\u0007", "ä\u0007"),
        ("plain", "plain"),
    ],
)
def test_saslprep(typed: str, meant: str) -> None:
    assert prepared(typed) == meant


def test_the_best_offered_mechanism_is_chosen_and_no_other() -> None:
    assert choose(["login", "plain", "scram-sha-256"], PASSWORD_MECHANISMS) == "SCRAM-SHA-256"
    assert choose(["cram-md5", "login"], PASSWORD_MECHANISMS) == "LOGIN"
    assert choose(["gssapi", "xoauth2"], PASSWORD_MECHANISMS) is None
