"""Bounces: which copy they are about, in whatever form they repeat it, and whether delivery has failed for good."""

from __future__ import annotations

import base64
import quopri
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrelayd.approvals import bounces
from mailrelayd.approvals.bounces import Bounce, Fate
from mailrelayd.approvals.kinds import kind_of
from mailrelayd.approvals.mime import Mail, parse
from mailrelayd.approvals.values import Kind
from tests.test_desk import BOSS, CFO, REQUEST, SENT, World, issued, reply

TOKEN, OTHER = issued(), issued(2, CFO)
COPY = (
    "Received: by relay1 (mailrelayd) with local id 2gk4zzzzzzaaaaaa;\n\tSat, 21 Nov 2026 08:00:00 +0000\n"
    f"From: erp@example.com\nTo: {BOSS}\nSubject: Buy a boat?\n"
    f"References: <{TOKEN}@relay1>\nReply-To: approvals+{TOKEN}@example.com\n"
    f"Message-ID: <{TOKEN}.2gk4zzzzzzaaaaaa@relay1>\nAuto-Submitted: auto-generated\n\n"
    "Please approve or reject this order. Delivery is not temporary.\n"
)
HEAD = "From: MAILER-DAEMON@mx.example.com (Mail Delivery System)\nTo: erp@example.com\nMessage-ID: <b1@mx>\n"
STATUS = f"Reporting-MTA: dns; mx\n\nFinal-Recipient: rfc822; {BOSS}\nAction: failed\nStatus: 5.1.1\n"


def report(
    status: str = STATUS,
    original: str = COPY,
    media: str = "message/rfc822",
    encoding: str = "",
    subject: str = "Undelivered Mail Returned to Sender",
    text: str = "I'm sorry to have to inform you that your message could not be delivered.",
) -> bytes:
    """RFC 3464, as Postfix writes it."""
    if encoding == "base64":
        original = base64.encodebytes(original.encode()).decode()
    elif encoding == "quoted-printable":
        original = (
            quopri.encodestring(original.replace("+", "=2B=\n").encode()).decode().replace("=3D2B=3D\n", "=2B=\n")
        )
    field = f"Content-Transfer-Encoding: {encoding}\n" if encoding else ""
    return (
        f"{HEAD}Subject: {subject}\nMIME-Version: 1.0\n"
        'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\n\n'
        f"--b\nContent-Type: text/plain\n\n{text}\n\n--b\nContent-Type: message/delivery-status\n\n{status}\n"
        f"--b\nContent-Type: {media}\n{field}\n{original}\n--b--\n"
    ).encode()


def old(subject: str, text: str, more: str = "") -> bytes:
    """A bounce as programs write it that know no RFC 3464."""
    return f"{HEAD}Subject: {subject}\n{more}\n{text}\n".encode()


QMAIL = (
    "Hi. This is the qmail-send program at mx.example.com.\nI'm afraid I wasn't able to deliver your message to the "
    "following addresses.\nThis is a permanent error; I've given up. Sorry it didn't work out.\n\n"
    f"<{BOSS}>:\nSorry, no mailbox here by that name. (#5.1.1)\n\n"
    f"--- Below this line is a copy of the message.\n\nReturn-Path: <erp@example.com>\n{COPY}"
)
EXIM = (
    "This message was created automatically by mail delivery software.\n\nA message that you sent could not be "
    "delivered to one or more of its\nrecipients. This is a permanent error. The following address(es) failed:"
    f"\n\n  {BOSS}\n"
    f"    Unrouteable address\n\n------ This is a copy of the message, including all the headers. ------\n\n{COPY}"
)
EXIM_WARNING = (
    "This message was created automatically by mail delivery software.\nA message that you have sent has not yet been "
    "delivered to one or more of its\nrecipients after more than 24 hours on the queue on mx.\n\n"
    f"No action is required on your part. Delivery attempts will continue for\nsome time.\n\n{COPY}"
)
SENDMAIL_WARNING = (
    "    **********************************************\n    **      THIS IS A WARNING MESSAGE ONLY      **\n"
    "    **  YOU DO NOT NEED TO RESEND YOUR MESSAGE  **\n    **********************************************\n"
    f"\nThe original message was received\n\n   ----- Transcript of session follows -----\n{COPY}"
)
EXCHANGE = (
    f"Your message did not reach some or all of the intended recipients.\n\n      Subject:  Buy a boat?\n\n"
    f"The following recipient(s) could not be reached:\n\n      {BOSS} on 11/21/2026\n            "
    f"550 5.1.1 User unknown\n            <mx #5.1.1>\n\n{COPY}"
)


def read(mail: bytes) -> Bounce:
    parsed = parse(mail)
    assert isinstance(parsed, Mail)
    assert kind_of(parsed)[0] is Kind.BOUNCE
    return bounces.read(parsed)


@pytest.mark.parametrize(
    ("mail", "fate"),
    [
        (report(), Fate.FAILED),
        (report(original=COPY.partition("\n\n")[0] + "\n", media="text/rfc822-headers"), Fate.FAILED),
        (report(encoding="base64"), Fate.FAILED),
        (report(encoding="quoted-printable"), Fate.FAILED),
        (report(STATUS.replace("failed", "Failed (expired)").replace("5.1.1", "4.4.7")), Fate.FAILED),
        (report(STATUS.replace("Action: failed\n", "")), Fate.FAILED),
        (report(STATUS.replace("failed", "delayed").replace("5.1.1", "4.4.1")), Fate.DELAYED),
        (report(STATUS.replace("Action: failed\n", "").replace("5.1.1", "4.4.1")), Fate.DELAYED),
        (report(STATUS.replace("failed", "relayed").replace("5.1.1", "2.0.0")), Fate.DELIVERED),
        (report(STATUS.replace("failed", "delivered").replace("5.1.1", "2.0.0")), Fate.DELIVERED),
        (report("Reporting-MTA: dns; mx\n"), Fate.FAILED),
        (report("Reporting-MTA: dns; mx\n", subject="Delayed Mail (still being retried)"), Fate.DELAYED),
        (report("Reporting-MTA: dns; mx\n", subject="Report", text="Something happened."), Fate.UNKNOWN),
        (old("failure notice", QMAIL), Fate.FAILED),
        (old("Mail delivery failed: returning message to sender", EXIM), Fate.FAILED),
        (old("Mail", EXIM, f"X-Failed-Recipients: {BOSS}\n"), Fate.FAILED),
        (old("Warning: message 1abcDE-000001-2F delayed 24 hours", EXIM_WARNING), Fate.DELAYED),
        (old("Warning: could not send message for past 4 hours", SENDMAIL_WARNING), Fate.DELAYED),
        (old("Undeliverable: Buy a boat?", EXCHANGE), Fate.FAILED),
        (old("Zustellung verzögert: Buy a boat?", COPY), Fate.DELAYED),
        (old("Unzustellbar: Buy a boat?", COPY), Fate.FAILED),
        (old("Hm", f"I do not know.\n\n{COPY}"), Fate.UNKNOWN),
    ],
)
def test_every_form_leads_to_its_copy(mail: bytes, fate: Fate) -> None:
    """By the token in what is repeated; what is only late, or arrived, has not failed."""
    said = read(mail)
    assert [str(token) for token in said.tokens] == [TOKEN]
    assert said.fate is fate


def test_a_report_names_who_was_not_reached() -> None:
    """RFC 3464 per recipient: one failed, another is still tried; Exim's field without it."""
    mixed = f"{STATUS}\nFinal-Recipient: rfc822; {CFO}\nAction: delayed\nStatus: 4.2.2\n"
    assert read(report(mixed)).recipients == (BOSS,)
    assert read(report(mixed)).fate is Fate.FAILED
    said = read(old("Mail", EXIM, f"X-Failed-Recipients: {BOSS},\n  {CFO}\n"))
    assert said.recipients == (BOSS, CFO)


@pytest.mark.parametrize(
    "filling", ["x", " ", "\n ", "\n", "@", "delivery to ", "550 ", "Action:", "Final-Recipient: ", "=\n"]
)
def test_hostile_bounces_take_no_time(filling: str) -> None:
    """Half a megabyte of the same, wherever something is looked for."""
    much = filling * (500_000 // len(filling))
    begun = time.perf_counter()
    for mail in (
        report(text=much),
        report(STATUS + much),
        report(original=much, encoding="quoted-printable"),
        old(much[:500], much, f"X-Failed-Recipients: {much[:60_000].strip() or 'x'}\n"),
    ):
        parsed = parse(mail)
        if isinstance(parsed, Mail):
            bounces.read(parsed)
    assert time.perf_counter() - begun < 5.0


@given(st.binary(max_size=2000))
def test_any_bytes_are_read(junk: bytes) -> None:
    """As a mail, and within a report."""
    for data in (junk, report().replace(b"Action: failed", junk), report().replace(b"Received: by", junk)):
        mail = parse(data)
        if isinstance(mail, Mail):
            assert isinstance(bounces.read(mail), Bounce)


# -- at the desk -----------------------------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    world.registry.open(REQUEST, [SENT])
    yield world
    world.close()


def told(world: World) -> list[tuple[str, str]]:
    return [(event["data"]["decision"], event["data"]["reason"]) for event in world.archived()]


@pytest.mark.parametrize(
    ("mail", "expected"),
    [
        (report(), ("undeliverable", "bounced")),
        (report(encoding="base64"), ("undeliverable", "bounced")),
        (old("failure notice", QMAIL), ("undeliverable", "bounced")),
        (report(STATUS.replace("failed", "delayed")), ("bounce", "delayed")),
        (report("Reporting-MTA: dns; mx\n", subject="Report", text="Hm."), ("bounce", "unknown")),
    ],
)
async def test_only_a_failure_for_good_is_told(world: World, mail: bytes, expected: tuple[str, str]) -> None:
    """It came to the sender's address, without any token in its own header."""
    await world.read(mail)
    await world.deliver()
    assert told(world) == [expected]
    assert len(world.sinks["erp"].got) == (expected[0] == "undeliverable")
    request = world.registry.get(REQUEST.queue_id)
    assert request is not None
    assert (BOSS in request.decided) is (expected[0] == "undeliverable")


async def test_a_bounce_takes_no_decision_away_and_none_comes_of_it(world: World) -> None:
    """Whoever has seen a copy can forge one: what was decided stays, and a later answer counts."""
    forged = report().replace(b"I'm sorry", b"Approved\n\nI'm sorry")
    await world.read(forged)
    await world.read(report().replace(b"<b1@mx>", b"<b2@mx>"), uid=8)
    await world.read(reply(), uid=9)
    await world.read(report().replace(b"<b1@mx>", b"<b3@mx>"), uid=10)
    decisions = sorted(told(world))
    assert decisions == [
        ("approved", "first-line-keyword"),
        ("bounce", "already-closed"),
        ("bounce", "already-closed"),
        ("undeliverable", "bounced"),
    ]
    request = world.registry.get(REQUEST.queue_id)
    assert request is not None
    assert request.decided[BOSS].outcome == "approved"


async def test_a_bounce_that_repeats_several_copies_is_about_whom_it_names(world: World) -> None:
    """And about nobody where it names nobody."""
    both = COPY.replace("Please", f"{OTHER} Please")
    await world.read(report(original=both))
    request = world.registry.get(REQUEST.queue_id)
    assert request is not None
    assert list(request.decided) == [BOSS]
    nobody = STATUS.replace(BOSS, "postmaster@example.com")
    await world.read(report(nobody, original=both).replace(b"<b1@mx>", b"<b2@mx>"), uid=8)
    assert ("bounce", "several-copies") in told(world)


async def test_a_bounce_of_a_request_that_is_over_changes_nothing(world: World) -> None:
    """It came after its end."""
    await world.read(report(), at=REQUEST.expires_at)
    assert told(world) == [("bounce", "request-over")]


async def test_a_bounce_with_a_forged_token_is_not_ours(world: World) -> None:
    """It is left where it is."""
    strange = issued(secret=bytes(32))
    await world.read(report(original=COPY.replace(TOKEN, strange)))
    assert told(world) == []
