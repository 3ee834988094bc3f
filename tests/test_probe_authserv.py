"""What a mail that came back says about its servers, and which settings are proposed from it."""

from __future__ import annotations

import pytest

from mailrelayd.diagnose.authserv import InForce, Proposal, carriers, order, propose

DOMAIN = "example.com"
UNSIGNED = (False, "it carries no DKIM-Signature")
RESULTS = ("Authentication-Results", "mx.example.com; dmarc=pass header.from=example.com")
LMTP = ("Received", "from mx.example.com by imap.example.com with LMTP id 1; Sat, 21 Nov 2026 09:00:00 +0000")
MX = (
    "Received",
    "from relay1 (relay1 [192.0.2.1])\r\n\tby mx.example.com (Postfix) with ESMTPS id 2; Sat, 21 Nov 2026",
)
EXCHANGE = ("Received", "from A.prod.outlook.com (2603:10a6::1) by B.prod.outlook.com with HTTPS; Sat, 21 Nov 2026")
INTERNAL = ("X-MS-Exchange-Organization-AuthAs", " Internal")
FROM = ("From", "noreply@example.com")
BY_RESULTS = {"sender_check": "authentication-results", "authserv_id": ["mx.example.com"]}


def proposed(*fields: tuple[str, str], host: str = "imap.example.com", check: InForce | None = None) -> Proposal:
    return propose([*fields, FROM], DOMAIN, host, check or InForce(), UNSIGNED)


@pytest.mark.parametrize("fields", [(RESULTS, MX), (LMTP, RESULTS, MX), (RESULTS, LMTP, MX)])
def test_a_server_is_proposed_that_stands_above_our_mx(fields: tuple[tuple[str, str], ...]) -> None:
    """Also below the line of the delivery itself, as long as that says it had the mail from our MX."""
    assert proposed(*fields) == Proposal(
        BY_RESULTS, "mx.example.com says dmarc=pass, above the Received line of our MX", sound=True
    )


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ((MX, RESULTS), "stands below the Received line of mx.example.com"),
        # Another server of ours is the topmost: what it had from mx.example.com may be anybody's.
        (
            (
                ("Received", "from mx.example.com (mx.example.com [192.0.2.9]) by inner.example.com with ESMTP"),
                RESULTS,
                MX,
            ),
            "stands below the Received line of inner.example.com",
        ),
        # The smarthost's word stands above its own line, and below our MX's: it came with the mail.
        (
            (
                ("Received", "from out.example.net (out.example.net [192.0.2.7]) by mx.example.com with ESMTPS"),
                ("Authentication-Results", "out.example.net; dmarc=pass header.from=example.com"),
                ("Received", "from relay1 by out.example.net with ESMTPSA"),
            ),
            "stands below the Received line of mx.example.com",
        ),
        # The delivery had it from another server than the one that speaks.
        (
            (LMTP, ("Authentication-Results", "evil.example; dmarc=pass header.from=example.com"), MX),
            "is not where the check looks for it",
        ),
        ((RESULTS,), "no Received line stands on it"),
        ((MX,), "no Authentication-Results stands on it"),
        ((("Authentication-Results", "spf=pass smtp.mailfrom=example.com"), MX), "names no server"),
        ((("Authentication-Results", "(mx.example.com; dmarc=pass"), MX), "names no server, or cannot be read"),
    ],
)
def test_what_anybody_could_have_written_is_not_proposed(fields: tuple[tuple[str, str], ...], why: str) -> None:
    """And it is said why; a weaker check is no way out."""
    found = proposed(*fields)
    assert (found.settings, found.sound) == ({}, False)
    assert why in found.reason


def test_a_server_that_gives_no_pass_is_named_with_its_verdict() -> None:
    """It is the right one, and a mail from inside would not count all the same."""
    found = proposed(("Authentication-Results", "mx.example.com; dmarc=none header.from=example.com"), MX)
    assert (dict(found.settings), found.sound) == (BY_RESULTS, False)
    assert "gets no pass" in found.reason


def test_of_two_servers_the_one_that_gives_a_pass_is_proposed() -> None:
    """Both stand where only our own could have written."""
    other = ("Authentication-Results", "spam.example.com; spf=softfail smtp.mailfrom=example.com")
    assert dict(proposed(other, RESULTS, MX).settings) == BY_RESULTS


def test_exchange_is_believed_only_where_the_mailbox_is_in_exchange_online() -> None:
    """Anywhere else anybody may write X-MS-Exchange-Organization-AuthAs."""
    there = proposed(INTERNAL, EXCHANGE, host="outlook.office365.com")
    assert (dict(there.settings), there.sound) == ({"sender_check": "microsoft-365"}, True)
    assert proposed(INTERNAL, EXCHANGE, host="imap.example.com").settings == {}
    assert proposed(
        ("X-MS-Exchange-Organization-AuthAs", "Anonymous"), EXCHANGE, host="outlook.office365.com"
    ) == Proposal({}, proposed(EXCHANGE).reason)


def test_a_signature_that_holds_is_proposed_where_no_server_speaks() -> None:
    """dkim is no weaker: it is verified here."""
    found = propose([MX, FROM], DOMAIN, "imap.example.com", InForce("token-only"), (True, "signed by example.com"))
    assert (dict(found.settings), found.sound) == ({"sender_check": "dkim"}, True)


@pytest.mark.parametrize(
    ("in_force", "settings"),
    [
        (InForce("authentication-results", ("mx.example.com",), trusted=True, reason="dmarc=pass"), {}),
        (InForce("dkim", (), trusted=True, reason="signed"), {}),
        (InForce("token-only", (), trusted=True, reason="the token alone decides"), BY_RESULTS),
        (InForce("authentication-results", ("old.example.com",)), BY_RESULTS),
    ],
)
def test_what_works_is_left_and_what_is_weak_is_not(in_force: InForce, settings: dict[str, object]) -> None:
    """token-only "works" for every mail, and is never a reason to leave it so."""
    assert dict(proposed(RESULTS, MX, check=in_force).settings) == settings


def test_a_check_by_signature_is_not_given_up_for_a_server_that_gives_no_pass() -> None:
    """Nothing would be won by it."""
    weak = ("Authentication-Results", "mx.example.com; dmarc=none header.from=example.com")
    assert proposed(weak, MX, check=InForce("dkim")).settings == {}


def test_the_token_is_found_in_folded_fields_and_in_capitals() -> None:
    """The names are given as they are written; what is not looked at when answers are read does not count."""
    token = "a" * 44
    fields = [
        ("Delivered-To", f"approvals+{token.upper()}@example.com"),
        ("TO", f'"Approvals"\r\n <approvals+{token}@example.com>'),
        ("X-Forwarded-To", f"approvals+{token}@example.com"),
        ("References", f"<{token}@relay1>"),
    ]
    assert carriers(fields, token) == ("Delivered-To", "TO", "References")


def test_the_order_is_told_in_one_line_each_whatever_stands_there() -> None:
    """Control characters of a mail forge no line."""
    fields = [INTERNAL, LMTP, RESULTS, ("Authentication-Results", '"mx\x1b[2J"; dkim=pass'), MX, FROM]
    assert order(fields) == (
        "X-MS-Exchange-Organization-AuthAs: Internal",
        "Received by imap.example.com",
        "Authentication-Results of mx.example.com (dmarc=pass)",
        r"Authentication-Results of mx\x1b[2j (dkim=pass)",
        "Received by mx.example.com",
    )
