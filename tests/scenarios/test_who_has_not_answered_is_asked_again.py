"""A daemon that reminds people and tells them what it could not understand, through a real smarthost."""

from __future__ import annotations

from email import message_from_bytes

import pytest

from tests.scenarios.test_people_answer_by_mail_and_systems_hear_of_it import BOSS, CFO, REQUEST, Loop, loop
from tests.servers.process import wait_until

__all__ = ["loop"]  # the fixture

pytestmark = pytest.mark.real


@pytest.mark.timeout(180)
def test_a_reminder_and_an_explanation_arrive_and_can_be_answered(loop: Loop) -> None:
    """Once each; the reminder carries the same reply address, the explanation leads back to the request."""
    loop.daemon.stop()
    loop.site.more["approvals"] += ['receipts = "unclear"', 'remind = ["3s"]']
    loop.daemon.configure(loop.site.text)
    loop.daemon.start()
    loop.daemon.wait_ready()
    loop.site.drop("po42.eml", REQUEST.encode())
    copies = {who: loop.copy_for(who) for who in (BOSS, CFO)}
    loop.answer("Hm, later.\n", copies[BOSS], sender=BOSS)
    assert [one["data"]["decision"] for one in loop.decisions(1)] == ["unclear"]
    wait_until(
        lambda: len(loop.postfix.messages(BOSS)) == 3 and len(loop.postfix.messages(CFO)) == 2, 60, loop.daemon.log
    )
    mails = {str(mail["Subject"]): mail for mail in map(message_from_bytes, loop.postfix.messages(BOSS))}
    receipt, reminder = mails["Re: Order PO-42: one boat"], mails["Reminder: Order PO-42: one boat"]
    assert receipt["In-Reply-To"] == "<answer1@dest.test>"
    assert receipt["Auto-Submitted"] == "auto-replied"
    assert receipt["Return-Path"] == "<>"
    assert reminder["Reply-To"] == receipt["Reply-To"] == copies[BOSS]["Reply-To"]
    assert reminder["Message-ID"] != copies[BOSS]["Message-ID"]
    assert reminder.get_payload() == copies[BOSS].get_payload()
    assert reminder["X-Approval-Request"] is None
    again = message_from_bytes(loop.postfix.messages(CFO)[1])
    assert again["Reply-To"] == copies[CFO]["Reply-To"]
    loop.answer("Approved\n", again, sender=CFO, number=2)
    loop.answer("Rejected\n\nno\n", receipt, sender=BOSS, number=3)
    told = [(one["data"]["decision"], one["data"]["decided_by"]["address"]) for one in loop.decisions(3)]
    assert sorted(told) == [("approved", CFO), ("rejected", BOSS), ("unclear", BOSS)]
    assert loop.daemon.stop() == 0
    assert not list((loop.site.state / "approvals").glob("*.eml"))
