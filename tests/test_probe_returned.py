"""What became of a probe, in steps: the cases that a well-behaved server never shows."""

from __future__ import annotations

import pytest

from mailrelayd.approvals.judge import Sender
from mailrelayd.config.answering import Approvals
from mailrelayd.diagnose import returned
from mailrelayd.diagnose.authserv import InForce, Proposal
from mailrelayd.diagnose.returned import Returned
from mailrelayd.diagnose.steps import Outcome, Step
from tests.asking import token

WHERE, TOKEN, ADDRESS = "inbound.approvals", token(1), "approvals+token@example.com"
PLUS, PLAIN = Approvals(enabled=False), Approvals(enabled=False, subaddressing=False)
NOBODY = Sender("noreply@example.com", False, "it carries no DKIM-Signature")
PROBE = Returned(TOKEN, "noreply@example.com", "imap.example.com", NOBODY, NOBODY)


def refusal(name: str = "recipient", status: int = 77) -> Step:
    return Step("outbound.x", name, Outcome.FAILED, "550 5.1.1 who?", "c", "c", "outbound.x.test_to", status)


def test_a_refused_recipient_is_the_reply_addresses_fault() -> None:
    """With a plus-address it may be the plus; what is temporary, or about the sender, is left as it is."""
    assert returned.refused(refusal(), PLUS, ADDRESS).setting == "approvals.subaddressing"
    assert returned.refused(refusal(), PLAIN, ADDRESS).setting == "approvals.reply_address"
    assert {returned.refused(refusal(), one, ADDRESS).status for one in (PLUS, PLAIN)} == {78}
    for other in (refusal("sender"), refusal(status=75)):
        assert returned.refused(other, PLUS, ADDRESS) == other


def test_a_bounce_tells_its_reason_in_one_line() -> None:
    """Folded, and without control characters; where there is none, that is said."""
    report = b"Diagnostic-Code: smtp; 550 5.1.1\r\n  <a@example.com>:\x1b[2J unknown\r\nAction: failed\r\n"
    step = returned.bounced(WHERE, PLUS, ADDRESS, report, 7)
    assert r"smtp; 550 5.1.1 <a@example.com>:\x1b[2J unknown" in step.text
    assert (step.status, step.setting) == (78, "approvals.subaddressing")
    assert returned.bounced(WHERE, PLAIN, ADDRESS, b"", 7).setting == "approvals.reply_address"
    assert "does not say why" in returned.bounced(WHERE, PLAIN, ADDRESS, b"", 7).text


def test_without_subaddressing_no_plus_address_is_missed() -> None:
    """The token travels in References."""
    step = returned.addressed(WHERE, [("References", f"<{TOKEN}@relay1>")], PLAIN, TOKEN)
    assert (step.outcome, step.data["survived"]) == (Outcome.OK, False)


def test_a_header_that_cannot_be_read_proposes_nothing() -> None:
    """One warning, and no guess."""
    (step,) = returned.read(WHERE, b"no header at all\r\n", PLUS, PROBE)
    assert (step.outcome, step.name) == (Outcome.WARNING, "address")


@pytest.mark.parametrize(
    ("in_force", "proposal", "outcome", "setting"),
    [
        (InForce("dkim", (), True, "signed"), Proposal({}, "fine", sound=True), Outcome.OK, ""),
        (InForce("dkim"), Proposal({}, "nothing"), Outcome.WARNING, "approvals.sender_check"),
        (
            InForce("authentication-results", ("a",)),
            Proposal({"sender_check": "authentication-results", "authserv_id": ["a"]}, "no pass"),
            Outcome.WARNING,
            "approvals.sender_check",
        ),
        (
            InForce("authentication-results", ("a",)),
            Proposal({"sender_check": "authentication-results", "authserv_id": ["b"]}, "b", sound=True),
            Outcome.WARNING,
            "approvals.authserv_id",
        ),
        (InForce(), Proposal({"sender_check": "dkim"}, "x", sound=True), Outcome.WARNING, "approvals.sender_check"),
    ],
)
def test_what_follows_names_the_key_to_write(
    in_force: InForce, proposal: Proposal, outcome: Outcome, setting: str
) -> None:
    """And where nothing would help, who has to do something."""
    step = returned.settled(proposal, in_force, "example.com")
    assert (step.outcome, step.setting) == (outcome, setting)
    assert all(str(value) in step.cure for value in proposal.settings if "Write" in step.cure)
