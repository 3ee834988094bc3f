"""What sort of mail it is. Whole mails stand in tests/replies/kinds; here is what decides, and what must not."""

from __future__ import annotations

import pytest

from mailrelayd.approvals.clients import AUTOMATIC_SUBJECTS, BOUNCE_SUBJECTS, entries
from mailrelayd.approvals.kinds import kind_of
from mailrelayd.approvals.mime import Mail, parse
from mailrelayd.approvals.values import Kind


def kind(*fields: str, via_list: bool = False) -> Kind:
    mail = parse("\n".join([*fields, "To: approvals@example.com", "", "Approved"]).encode())
    assert isinstance(mail, Mail)
    return kind_of(mail, via_list=via_list)[0]


@pytest.mark.parametrize("phrase", entries(AUTOMATIC_SUBJECTS))
def test_subjects_of_automatic_answers_count_at_their_start_only(phrase: str) -> None:
    """A person's answer to such a subject begins with "Re:", and others only speak of it."""
    assert kind("From: a@b", f"Subject: {phrase}: PO-42") is Kind.AUTO_REPLY
    assert kind("From: a@b", f"Subject: {phrase.upper()}") is Kind.AUTO_REPLY
    for subject in (
        f"Re: {phrase}",
        f"Re: {phrase}: PO-42",
        f"{phrase} settings of the new server",
        f"About {phrase}: yes",
    ):
        assert kind("From: a@b", f"Subject: {subject}") is Kind.REPLY, subject


def test_subjects_that_tell_of_an_absence_count_as_a_whole_only() -> None:
    """Somebody may ask about it, or answer."""
    for subject in (
        "Pat Boss is out of the office",
        "Pat Boss is currently out of the office (returning 24.11.2026).",
        "Pat Boss ist außer Haus.",
        "Pat Boss est absente du bureau",
        "Re: PO-42 [Auto-Reply]",
        "PO-42 (Automatic reply)",
        "Out of Office Re: PO-42",
    ):
        assert kind("From: a@b", f"Subject: {subject}") is Kind.AUTO_REPLY, subject
    for subject in (
        "Re: Pat Boss is out of the office",
        "RE: Pat Boss ist außer Haus.",
        "Who approves while Pat is out of the office?",
        "The copier is out of the office: PO-42",
        "Re: PO-42 [Auto-Reply] settings",
        "Out of office recruiting: PO-42",
    ):
        assert kind("From: a@b", f"Subject: {subject}") is Kind.REPLY, subject


@pytest.mark.parametrize("phrase", entries(BOUNCE_SUBJECTS))
def test_subjects_of_delivery_reports_count_at_their_start_only(phrase: str) -> None:
    """A person may well answer a report."""
    assert kind("From: a@b", f"Subject: {phrase}: PO-42") is Kind.BOUNCE
    assert kind("From: a@b", f"Subject: {phrase}") is Kind.BOUNCE
    assert kind("From: a@b", f"Subject: Re: {phrase}: PO-42") is Kind.REPLY


@pytest.mark.parametrize(
    "sender",
    [
        *(
            "MAILER-DAEMON",
            "MAILER-DAEMON@example.com (Mail Delivery System)",
            "Mail Delivery Subsystem <mailer-daemon@example.com>",
        ),
        *("<postmaster@example.com>", "Mail Delivery System <noreply@example.com>", "<>", '"Mailer-Daemon" <>'),
        "Microsoft Outlook <MicrosoftExchange329e71ec88ae4615bbc36ab6ce41109e@example.com>",
    ],
)
def test_mail_systems_send_bounces(sender: str) -> None:
    """By address, by name, or by having none."""
    assert kind(f"From: {sender}", "Subject: x") is Kind.BOUNCE


@pytest.mark.parametrize(
    "field",
    [
        *(
            "Auto-Submitted: no",
            "Auto-Submitted: No; comment",
            "X-Auto-Response-Suppress: All",
            "List-Unsubscribe: <mailto:a@b>",
        ),
        *(
            "X-Loop: a@example.com",
            "Sender: robot@example.com",
            "X-Autoreply: no",
            "Precedence: normal",
            "X-Priority: 1",
        ),
        *(
            "Delivered-To: approvals@example.com",
            "Return-Path: <boss@example.com>",
            "Reply-To: <>",
            "X-Mailer: autoresponder",
        ),
        *(
            "Subject: Automatic approvals: PO-42",
            "Subject: AW: Urlaub",
            "Subject: Urlaub: Antrag",
            "Subject: Auto mieten",
        ),
    ],
)
def test_what_genuine_replies_carry_is_no_evidence(field: str) -> None:
    """Each of these was seen in a person's mail."""
    assert kind("From: Pat <boss@example.com>", field) is Kind.REPLY


def test_the_strongest_evidence_decides() -> None:
    """A report with a null sender is a bounce, a vacation notice with one is not; nor is either a list's mail."""
    null = "Return-Path: <>"
    assert kind(null, "From: a@b", "Auto-Submitted: auto-replied") is Kind.AUTO_REPLY
    assert kind(null, "From: a@b", "Auto-Submitted: auto-replied", "X-Failed-Recipients: c@d") is Kind.BOUNCE
    assert kind(null, "From: a@b") is Kind.BOUNCE
    assert kind("From: a@b", "List-Id: <x>", "Auto-Submitted: auto-generated") is Kind.AUTO_REPLY
    assert kind("From: a@b", "List-Id: <x>", "Precedence: bulk") is Kind.LIST
    assert kind("From: a@b", "Precedence: bulk") is Kind.AUTO_REPLY
    assert kind("From: a@b", "List-Id: <x>", "Precedence: list", via_list=True) is Kind.REPLY
