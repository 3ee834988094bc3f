"""What our own mail server says about the sender, and what others would like it to have said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrelayd.approvals.authres import Result, Results, judge, judge_microsoft_365, parse

OURS = ["mx.example.com"]
RECEIVED = ("Received", "from mail.example.org (mail.example.org [192.0.2.1]) by mx.example.com (Postfix) with ESMTPS")
PASS = ("Authentication-Results", "mx.example.com; dmarc=pass (p=reject) header.from=example.org")


def trusted(*fields: tuple[str, str], domain: str = "example.org", ids: list[str] = OURS) -> bool:
    return judge(fields, domain, ids).trusted


def results(text: str) -> tuple[str, str]:
    return "Authentication-Results", text


def test_a_header_is_read_by_its_grammar() -> None:
    """Comments vanish, quoted values are values, names fold (RFC 8601 section 2.2)."""
    assert parse(
        'mx.example.com 1; dkim=pass (2048-bit; "key) reason="all; good" header.d=Example.org'
        " header.i=@example.org;\r\n\tspf=FAIL smtp.mailfrom=a@b.example; iprev/1 = pass policy.iprev=192.0.2.1"
    ) == Results(
        "mx.example.com",
        (
            Result("dkim", "pass", {"reason": "all; good", "header.d": "Example.org", "header.i": "@example.org"}),
            Result("spf", "fail", {"smtp.mailfrom": "a@b.example"}),
            Result("iprev", "pass", {"policy.iprev": "192.0.2.1"}),
        ),
    )
    assert parse("mx.example.com; none") == Results("mx.example.com", ())
    assert parse("dmarc=pass action=none header.from=example.org") == Results(
        "", (Result("dmarc", "pass", {"action": "none", "header.from": "example.org"}),)
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        ";",
        "mx.example.com 2; dmarc=pass",
        "mx.example.com other; dmarc=pass",
        "mx.example.com; dmarc",
        "mx.example.com; dmarc=",
        "mx.example.com; =pass",
        "mx.example.com; dmarc=pass header.from",
        "mx.example.com; dmarc=pass (never closed",
        'mx.example.com; dmarc=pass reason="never closed',
        'mx.example.com; "dmarc"=pass',
        'mx.example.com; dmarc="pass"',
        'mx.example.com; dmarc "=" pass',
        "mx.example.com; dmarc/2=pass",
        "mx.example.com; dmarc=pass " + "(" * 30 + ")" * 30,
        "mx.example.com; dmarc=pass " + "x=y " * 10_000,
        "mx.example.com; dmarc=pass \\",
    ],
)
def test_what_breaks_the_grammar_says_nothing(text: str) -> None:
    """A guess would be a way in."""
    assert parse(text) is None
    assert not trusted(results(text), RECEIVED)


@given(st.text(alphabet='ab=;()"\\ \t.pass', max_size=200))
def test_any_text_is_read_or_not(text: str) -> None:
    """Never an exception."""
    parse(text)


def test_dmarc_or_an_aligned_signature_is_trusted() -> None:
    """dmarc=pass; without a dmarc result, or a useless one, dkim=pass of the domain or one above it."""
    assert trusted(PASS, RECEIVED)
    assert trusted(results("MX.example.com; dmarc=pass"), RECEIVED)
    assert trusted(results("mx.example.com; dkim=pass header.d=example.org"), RECEIVED)
    assert trusted(results("mx.example.com; dkim=pass header.i=@example.org"), RECEIVED)
    assert trusted(results("mx.example.com; dkim=pass header.d=example.org"), RECEIVED, domain="sub.Example.org")
    assert trusted(results("mx.example.com; dmarc=none; dkim=pass header.d=example.org"), RECEIVED)
    assert trusted(results("mx.example.com; dkim=fail header.d=list.example; dkim=pass header.d=example.org"), RECEIVED)


@pytest.mark.parametrize(
    "text",
    [
        "mx.example.com; none",
        "mx.example.com; dmarc=fail header.from=example.org",
        "mx.example.com; dmarc=fail; dkim=pass header.d=example.org",
        "mx.example.com; dmarc=pass header.from=evil.example",
        "mx.example.com; dmarc=pass; dmarc=fail",
        "mx.example.com; dmarc=fail; dmarc=pass",
        "mx.example.com; dmarc=pass header.from=example.org header.from=evil.example",
        "mx.example.com; dkim=pass header.d=evil.example",
        "mx.example.com; dkim=pass header.d=org",
        "mx.example.com; dkim=pass header.d=notexample.org",
        "mx.example.com; dkim=pass header.d=sub.example.org",
        "mx.example.com; dkim=pass header.d=example.org header.d=evil.example",
        "mx.example.com; dkim=pass",
        "mx.example.com; spf=pass smtp.mailfrom=boss@example.org",
        "mx.example.com; dmarc=fail (dmarc=pass)",
        'mx.example.com; spf=fail smtp.mailfrom="; dmarc=pass header.from=example.org"',
        "mx.example.com; spf=fail (\\); dmarc=pass) smtp.helo=x",
        "mx.example.org; dmarc=pass header.from=example.org",
        "xmx.example.com; dmarc=pass header.from=example.org",
        "dmarc=pass header.from=example.org",
    ],
)
def test_anything_less_is_not(text: str) -> None:
    """Other servers' words, other domains, contradictions, and what stands in comments and quotes."""
    verdict = judge([results(text), RECEIVED], "example.org", OURS)
    assert not verdict.trusted
    assert verdict.reason


def test_what_came_with_the_mail_is_not_believed() -> None:
    """Below the line that our server wrote, anybody could write anything."""
    assert not trusted(RECEIVED, PASS)
    assert not trusted(RECEIVED, PASS, RECEIVED)
    stranger = ("Received", "from a by mx1.provider.example with ESMTP")
    assert not trusted(stranger, PASS, RECEIVED)
    assert not trusted(stranger, PASS)
    assert not trusted(("Received", "from x by (by mx.example.com) elsewhere.example with SMTP"), PASS, RECEIVED)
    assert "stands below the Received line of mx.example.com" in judge([RECEIVED, PASS], "example.org", OURS).reason


def test_hosts_behind_our_server_may_add_their_lines() -> None:
    """A mail store writes above it, whatever its own name: over LMTP, or where it has looked up whom it talks to."""
    for store in (
        "from mx.example.com by store.example.com (Dovecot) with LMTP id 1",
        "from mx.example.com ([172.22.1.253])\r\n\tby 0a1b2c3d4e5f with LMTP\r\n\tid abc",
        "from mx.example.com by mx.example.com with LMTP id abc for <a@example.com>",
        "from [10.0.0.1] (mx.example.com [10.0.0.1]) by store.example.com (Postfix) with ESMTPS id 1",
    ):
        assert trusted(("Received", store), PASS, RECEIVED)
        assert not trusted(("Received", store), RECEIVED, PASS, ("Received", store))
    relays = [
        ("Received", "from relay2.example.com by store.example.com with LMTP id 1"),
        ("Received", "from relay (mx.example.com [192.0.2.9]) by relay2.example.com (Postfix) with ESMTP id 2"),
    ]
    assert trusted(*relays, PASS, RECEIVED)
    named = results("example.com; dmarc=pass")
    assert trusted(named, ("Received", "from x by mx1.example.com with ESMTP"), ids=["example.com"])
    lmtp = ("Received", "from mx1.example.com by mx1.example.com with LMTP id 1")
    assert trusted(lmtp, named, ("Received", "from x by mx1.example.com with ESMTP"), ids=["example.com"])
    assert not trusted(("Received", "from x by mx1.example.com with ESMTP"), named, RECEIVED, ids=["example.com"])
    assert trusted(PASS)


@pytest.mark.parametrize(
    "line",
    [
        "from mail.evil.example (unknown [198.51.100.7]) by mx2.example.com (Postfix) with ESMTP id 1",
        "from mx.example.com (unknown [198.51.100.7]) by mx2.example.com (Postfix) with ESMTP id 1",
        "from mx.example.com (host7.evil.example [198.51.100.7]) by mx2.example.com (Postfix) with ESMTP id 1",
        "from mx.example.com (198.51.100.7) by mx2.example.com with Microsoft SMTP Server id 15.1",
        "from [198.51.100.7] (helo=mx.example.com) by mx2.example.com with esmtp (Exim 4.96)",
        "from localhost (unknown [198.51.100.7]) by localhost (Postfix) with ESMTP id 1",
        "from mx.example.com by store.example.com (with LMTP) with ESMTP id 1",
        "from (x) with LMTP by mx.example.com with ESMTP",
        "by mx.example.com (Postfix, from userid 1001) id 1",
        "by store.example.com (Postfix, from userid 1001) id 1",
        "from mail.evil.example by store.example.com with LMTP id 1",
    ],
)
def test_who_comes_in_another_way_writes_none_of_our_lines(line: str) -> None:
    """A second MX, a store that anybody may talk to, a user of that machine: below their line everything is theirs."""
    assert not trusted(("Received", line), PASS, RECEIVED)
    assert not trusted(("Received", line), PASS, RECEIVED, ids=["mx.example.com", "example.com"])


def test_the_topmost_result_of_each_method_counts() -> None:
    """Servers write one header per method; the same method further down is older, or forged."""
    dkim = results("mx.example.com; dkim=pass header.d=example.org")
    fail = results("mx.example.com; dmarc=fail header.from=example.org")
    assert trusted(dkim, PASS, RECEIVED)
    assert not trusted(fail, PASS, RECEIVED)
    assert not trusted(dkim, fail, RECEIVED)
    verdict = judge([dkim, results("mx.example.com; spf=softfail"), PASS, RECEIVED], "example.org", OURS)
    assert (verdict.dmarc, verdict.dkim, verdict.spf) == ("pass", "pass", "softfail")


def test_the_reason_names_whose_results_there_are() -> None:
    """So that the setting can be put right."""
    reason = judge([results("mx2.example.com; dmarc=pass"), RECEIVED], "example.org", OURS).reason
    assert "mx2.example.com, which is not in authserv_id" in reason
    assert judge([RECEIVED], "example.org", OURS).reason == "no Authentication-Results"


def test_exchange_online_is_believed_by_its_own_rules() -> None:
    """The topmost header without a name above all Received lines, with dmarc=pass; or sent from inside."""
    good = results("spf=pass (sender IP is 192.0.2.1) smtp.mailfrom=example.org; dmarc=pass header.from=example.org")
    received = ("Received", "from a by b.prod.outlook.com")
    assert judge_microsoft_365([good, received], "example.org").trusted
    assert not judge_microsoft_365([received, good], "example.org").trusted
    assert not judge_microsoft_365([PASS, good, received], "example.org").trusted
    assert not judge_microsoft_365([good, received], "example.net").trusted
    assert not judge_microsoft_365([results("dkim=pass header.d=example.org"), received], "example.org").trusted
    assert not judge_microsoft_365([received], "example.org").trusted
    inside = ("X-MS-Exchange-Organization-AuthAs", " Internal")
    assert judge_microsoft_365([received, inside], "example.org").trusted
    assert not judge_microsoft_365([received, inside, inside], "example.org").trusted
    assert not judge_microsoft_365([received, (inside[0], "Anonymous")], "example.org").trusted
