"""Every error that people are known to meet has one cause and one cure, and names the key to change."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from mailrelayd.causes import behind, explain, google, microsoft, network, servers, tokens
from mailrelayd.causes.rules import Rule
from mailrelayd.config.answering import InboundAccount
from mailrelayd.config.oauth import OAuth
from mailrelayd.config.relaying import OutboundAccount, Tls

RULES = [*network.RULES, *microsoft.RULES, *google.RULES, *servers.RULES, *tokens.RULES]
ACCOUNTS = {"smtp": "outbound.smarthost", "imap": "inbound.approvals", "oauth": "outbound.smarthost"}


class Known(NamedTuple):
    """A line of causes.txt."""

    where: str
    code: str
    text: str
    provider: str
    word: str
    key: str


def known() -> list[Known]:
    lines = (Path(__file__).parent / "causes.txt").read_text().splitlines()
    cells = [[cell.strip() for cell in line.split("|")] for line in lines if line and not line.startswith("#")]
    return [Known(*row) for row in cells]


@pytest.mark.parametrize("case", known(), ids=lambda case: f"{case.where} {case.code} {case.text[:40]} {case.provider}")
def test_a_known_error_has_its_cause_and_names_the_key(case: Known) -> None:
    """The words that matter stand in the cause; the key is of this account."""
    protocol, stage = case.where.split()
    account = ACCOUNTS[protocol]
    cause = explain(protocol, stage, case.code, case.text, provider=case.provider, account=account)
    assert cause is not None
    assert case.word.lower() in cause.text.lower()
    assert cause.setting == (f"{account}.{case.key}" if case.key else "")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.pattern.pattern[:60])
def test_each_rule_is_a_sentence_and_a_sentence(rule: Rule) -> None:
    """They begin with a capital and end with one full stop; joined they make a line of a log."""
    cause = rule.cause("outbound.smarthost", tls="465", starttls="587")
    for sentence in (cause.text, cause.cure):
        assert re.fullmatch(r"[A-Z`][^\n{}]*[^.]\.", sentence), sentence
    assert not cause.line.endswith(".")
    assert len(cause.line) < 400


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.pattern.pattern[:60])
def test_each_rule_names_a_key_that_there_is(rule: Rule) -> None:
    """A cure that sends somebody to a key which does not exist is none."""
    group, _, key = rule.setting.partition(".")
    if not group:
        return
    accounts = [OutboundAccount.model_fields, InboundAccount.model_fields]
    if len(rule.protocols) == 1:
        accounts = [accounts["imap" in rule.protocols]]
    assert all(group in fields for fields in accounts), rule.setting
    if key:
        assert key in (OAuth if group == "oauth" else Tls).model_fields


def test_every_rule_is_reached_by_an_error() -> None:
    """A rule behind one that takes all of its errors would never be read."""
    reached = set()
    for case in known():
        protocol, stage = case.where.split()
        said = f"{case.code} {case.text}" if case.code not in ("", "0") else case.text
        reached.add(
            next(place for place, rule in enumerate(RULES) if rule.applies(protocol, stage, said, case.provider))
        )
    assert [RULES[place].pattern.pattern for place in range(len(RULES)) if place not in reached] == []


def test_the_same_code_means_another_thing_where_a_token_was_used() -> None:
    """Nobody is told to correct a password that there is not."""
    with_password = explain("smtp", "auth", "535 5.7.8", "authentication failed", account="outbound.smarthost")
    with_token = explain(
        "smtp", "auth", "535 5.7.8", "authentication failed", provider="custom", account="outbound.smarthost"
    )
    assert with_password is not None
    assert with_password.setting == "outbound.smarthost.password"
    assert with_token is not None
    assert "password" not in with_token.text
    assert "`mailrelayd authorize outbound.smarthost`" in with_token.cure


def test_the_usual_ports_are_those_of_the_protocol() -> None:
    """A cure for a mailbox does not send anybody to port 465."""
    smtp = explain("smtp", "connect", "", "x[192.0.2.1]:1: connection refused", account="outbound.a")
    imap = explain("imap", "connect", "", "x[192.0.2.1]:1: connection refused", account="inbound.a")
    assert smtp is not None
    assert imap is not None
    assert "465" in smtp.cure
    assert "993" in imap.cure
    assert "465" not in imap.cure


def test_an_unknown_error_is_not_guessed_at() -> None:
    """Nothing is better than a wrong cause."""
    assert explain("smtp", "data", "550 5.6.0", "the message holds a word we do not like") is None
    assert explain("imap", "fetch", "", "what is a fetch?") is None
    assert explain("oauth", "token", "teapot", "short and stout") is None


def test_without_an_account_the_key_stands_alone() -> None:
    """Who asks about no account in particular gets the key's name."""
    cause = explain("smtp", "auth", "535", "authentication failed")
    assert cause is not None
    assert cause.setting == "password"
    assert "NAME.password" in cause.cure


def test_a_line_of_the_log_says_error_cause_and_cure_in_one_sentence() -> None:
    """What our own words say already is not said twice."""
    cause = explain("smtp", "auth", "535 5.7.8", "authentication failed", account="outbound.smarthost")
    said = behind("5.7.8 authentication failed", cause)
    assert said.startswith("5.7.8 authentication failed (user or password is wrong: correct outbound.smarthost.user")
    own = 'server offers no STARTTLS; set security = "tls" if it has a port for TLS (465), or mend the server'
    assert behind(own, explain("smtp", "starttls", "", own, account="outbound.smarthost")) == own
    assert behind("what?", None) == "what?"


def test_what_a_server_says_at_great_length_takes_no_time() -> None:
    """Whoever writes an answer must not be able to stop the program that looks for its cause."""
    begun = time.process_time()
    for text in ("iat ", "220 SMTP", "exp nbf clock ", "cannot be resolved: "):
        explain("oauth", "token", "", text * 20_000, provider="google", account="outbound.smarthost")
    assert time.process_time() - begun < 2
