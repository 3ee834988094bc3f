"""What an approver's copy says on the wire: an answer leads back to it, and everything else is as it was."""

from __future__ import annotations

import email
from dataclasses import replace
from email.message import Message
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrelayd.approvals.token import find
from mailrelayd.outbound.asking import Asking, revise
from mailrelayd.outbound.body import MessageBody, prepare
from mailrelayd.outbound.headers import Header, split_header
from mailrelayd.outbound.stored import Reading
from mailrelayd.outbound.values import Envelope, Progress, QueuedMessage
from tests.asking import copies, token
from tests.memory_queue import Bytes

ASKING = Asking("relay1", "approvals@example.com")
TO = "boss@example.org"
TOKEN = token(1)
ID = "abcdefghijkl"
DATA = b"From: erp@x.test\r\nTo: boss@example.org\r\nSubject: Order 42\r\nX-Approval-Request: PO-42\r\n\r\nPlease.\r\n"


async def wire(data: bytes = DATA, asking: Asking = ASKING, reading: Reading | None = None, **more: Any) -> bytes:
    """The whole copy as it leaves."""
    there = QueuedMessage(ID, Envelope("erp@x.test", (TO,)), Progress(1767600900.0), copies=copies(TO))
    source = Bytes(data)
    body = await prepare(
        source,
        there,
        node="relay1",
        reading=reading or Reading(),
        progress=lambda: None,
        asking=asking,
        copy=there.copies[0],
        **more,
    )
    assert isinstance(body, MessageBody)
    sent = b"".join([chunk async for chunk in body.chunks()])
    assert body.size == len(sent.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")), "MAIL announces what is sent"
    return sent


async def read(data: bytes = DATA, asking: Asking = ASKING, **more: Any) -> Message:
    return email.message_from_bytes(await wire(data, asking, **more))


async def test_an_answer_leads_back_to_the_copy() -> None:
    """By its address, and by what a client makes of our Message-ID and References; the request's fields are gone."""
    sent = await read()
    assert sent.get_all("Reply-To") == [f"approvals+{TOKEN}@example.com"]
    assert sent.get_all("Message-ID") == [f"<{TOKEN}.{ID}@relay1>"]
    assert sent.get_all("References") == [f"<{TOKEN}@relay1>"]
    assert sent.get_all("Auto-Submitted") == ["auto-generated"]
    assert sent["Subject"] == "Order 42"
    assert "X-Approval-Request" not in sent
    for name in ("Reply-To", "Message-ID", "References"):
        (found,) = find(sent[name])
        assert str(found) == TOKEN, "the reader of answers finds it there"
    assert (await wire()).endswith(b"\r\n\r\nPlease.\r\n")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"separator": "-"}, f"approvals-{TOKEN}@example.com"),
        ({"subaddressing": False}, "approvals@example.com"),
        ({"reply_address": "a+b@x.test"}, f"a+b+{TOKEN}@x.test"),
    ],
)
async def test_the_reply_address_is_made_as_configured(change: dict[str, Any], expected: str) -> None:
    """With the separator that the mail server knows, or as it is where it knows none."""
    assert (await read(asking=replace(ASKING, **change)))["Reply-To"] == expected


async def test_every_other_way_to_answer_is_replaced() -> None:
    """Nobody's client must send the answer elsewhere; the producer's own Message-ID stays readable."""
    data = (
        b"Reply-To: erp@x.test,\r\n other@x.test\r\nreply-to: again@x.test\r\nMail-Followup-To: list@x.test\r\n"
        b"Message-Id:\r\n <own@x.test>\r\nAuto-Submitted: auto-replied\r\n" + DATA
    )
    for reading in (Reading(), Reading("headers", "noreply@x.test", "always")):
        sent = await read(data, reading=reading)
        assert sent.get_all("Reply-To") == [f"approvals+{TOKEN}@example.com"]
        assert sent.get_all("Message-ID") == [f"<{TOKEN}.{ID}@relay1>"]
        assert sent.get_all("Auto-Submitted") == ["auto-generated"]
        assert sent["Mail-Followup-To"] is None
        assert sent["X-Original-Message-ID"].strip() == "<own@x.test>"


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
async def test_the_thread_goes_on(end: bytes) -> None:
    """Our id is the last of the references, wherever they stood and however they were folded."""
    fields = end.join([b"References: <1@x>", b"\t<2@x>  <3@x>", b"In-Reply-To: <3@x>", b"References: <4@x>", b""])
    sent = await read(fields + DATA)
    (references,) = sent.get_all("References", [])
    assert references.split() == ["<1@x>", "<2@x>", "<3@x>", "<4@x>", f"<{TOKEN}@relay1>"]
    assert sent["In-Reply-To"] == "<3@x>"
    (references,) = (await read(b"References:" + end + DATA)).get_all("References", [])
    assert references == f"<{TOKEN}@relay1>"


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        (b"Subject: Order 42\r\n", b"Subject: Order 42\r\n [#%s]\r\n"),
        (b"SUBJECT:Order\n 42  \n", b"SUBJECT:Order\r\n 42\r\n [#%s]\r\n"),
        (b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n", b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n [#%s]\r\n"),
        (b"Subject: \xff\xfe" + b"x" * 2000 + b"\r\n", b"Subject: \xff\xfe" + b"x" * 2000 + b"\r\n [#%s]\r\n"),
        (b"Subject:\r\n", b"Subject: [#%s]\r\n"),
        (b"Subject:   \r\n \t\r\n", b"Subject: [#%s]\r\n"),
        (b"", b"Subject: [#%s]\r\n"),
    ],
)
async def test_a_subject_tag_stands_on_its_own_line(subject: bytes, expected: bytes) -> None:
    """What the author wrote keeps its bytes."""
    data = DATA.replace(b"Subject: Order 42\r\n", subject)
    sent = await wire(data, replace(ASKING, subject_tag=True))
    assert expected % TOKEN.encode() in sent
    assert sent.lower().count(b"\r\nsubject:") == 1


async def test_a_file_that_ends_within_a_field_is_edited_too() -> None:
    """Its last field may have no line end."""
    sent = await wire(b"From: a@x\nSubject:", replace(ASKING, subject_tag=True, mark_body=True))
    assert b"\r\nSubject: [#" + TOKEN.encode() + b"]\r\nReferences: " in sent
    assert b"Please do not modify" not in sent


NAMES = st.sampled_from([b"Subject", b"References", b"Message-ID", b"Reply-To", b"auto-submitted", b"X-Other", b"From"])
CONTENTS = st.lists(
    st.sampled_from(
        [b" ", b"\t", b"\r\n ", b"\n\t", b"\r ", b"<1@x>", b"\xc3\xbc", b"\xff", b"a", b":", b"=?utf-8?q?x?="]
    ),
    max_size=12,
).map(b"".join)


@given(st.lists(st.tuples(NAMES, CONTENTS), min_size=1, max_size=8), st.sampled_from([b"\r\n", b"\n", b"\r"]))
def test_any_header_stays_one(fields: list[tuple[bytes, bytes]], end: bytes) -> None:
    """Whatever stands in it: one answer address, one id, our id last in the thread; nothing else is lost or torn."""
    header = split_header(b"".join(name + b":" + content + end for name, content in fields) + end)
    assert isinstance(header, Header)
    revised = revise(list(header.fields), replace(ASKING, subject_tag=True), TOKEN, ID)
    again = split_header(b"".join(field.raw for field in revised) + b"\r\n")
    assert isinstance(again, Header)
    assert [field.key for field in again.fields] == [field.key for field in revised]
    for key, last in (
        ("reply-to", f"approvals+{TOKEN}@example.com"),
        ("message-id", f"<{TOKEN}.{ID}@relay1>"),
        ("references", f"<{TOKEN}@relay1>"),
        ("auto-submitted", "auto-generated"),
    ):
        (field,) = again.named(key)
        assert field.text.split()[-1] == last
    assert all(field.text.endswith(f"[#{TOKEN}]") for field in again.named("subject"))
    for key in ("from", "x-other"):
        assert [field.raw for field in again.named(key)] == [field.raw for field in header.named(key)]


async def test_what_is_sent_is_the_same_at_every_try() -> None:
    """The same arguments give the same bytes."""
    assert await wire() == await wire()


async def test_a_redirected_copy_names_its_approver() -> None:
    """[guard] redirect_to: whoever gets it instead sees whose it was."""
    assert (await read(redirected=(TO,)))["X-Original-Recipients"] == TO


async def test_without_terms_no_copy_is_made() -> None:
    """Nobody would read the answer."""
    there = QueuedMessage(ID, Envelope("erp@x.test", (TO,)), Progress(0.0), copies=copies(TO))
    with pytest.raises(ValueError, match="nobody may answer"):
        await prepare(
            Bytes(DATA), there, node="n", reading=Reading(), progress=lambda: None, copy=there.copies[0], asking=None
        )
