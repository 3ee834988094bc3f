"""What the header says on the wire beyond `test_envelope`: redirections, who handed in, whose block it is."""

from __future__ import annotations

from typing import Any

import pytest

from mailrelayd.outbound import headers
from mailrelayd.outbound.body import MessageBody, has_block, prepare
from mailrelayd.outbound.envelope import Producer
from mailrelayd.outbound.headers import Header, Unreadable, split_header
from mailrelayd.outbound.stored import Reading
from mailrelayd.outbound.values import Envelope, Progress, QueuedMessage
from tests.memory_queue import Bytes

DATA = b"X-Sender: a@x.test\nX-Receiver: b@x.test\nFrom: a@x.test\nBcc: c@x.test\n\ntext\n"


def message(**more: Any) -> QueuedMessage:
    return QueuedMessage("abcdefghijkl", Envelope("a@x.test", ("b@x.test",)), Progress(1767600900.0), **more)


async def wire(there: QueuedMessage, reading: Reading | None = None, **more: Any) -> bytes:
    """The whole message as it leaves."""
    body = await prepare(
        Bytes(DATA, uid=7), there, node="relay1", reading=reading or Reading(), progress=lambda: None, **more
    )
    assert isinstance(body, MessageBody)
    sent = b"".join([chunk async for chunk in body.chunks()])
    assert body.size == len(sent.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")), "MAIL announces what is sent"
    return sent


async def test_a_redirected_message_names_the_real_recipients_below_its_received_line() -> None:
    """One address per line, in ASCII, which any reader of address lists takes; nothing else changes."""
    plain = await wire(message())
    sent = await wire(message(), redirected=("a@c.test", "grüße@c.test"))
    field = b"X-Original-Recipients: a@c.test,\r\n gr\\xfc\\xdfe@c.test\r\n"
    assert sent.count(field) == 1
    assert sent.replace(field, b"") == plain
    header = split_header(sent)
    assert isinstance(header, Header)
    assert [line.name for line in header.fields[:2]] == ["Received", "X-Original-Recipients"]


@pytest.mark.parametrize("field", ["From", "Sender", "Resent-From"])
async def test_a_sender_that_was_written_in_after_the_claim_does_not_go_out(field: str) -> None:
    """Its producer may have kept the file open; what is judged here are the very bytes that would leave."""
    reading = Reading(named=(Producer("erp", allowed_senders=("@x.test",)), Producer("shop")))
    forged = Bytes(f"{field}: ceo@evil.test\nTo: b@x.test\n\ntext\n".encode(), uid=7)

    async def outcome(there: QueuedMessage, source: Bytes) -> object:
        return await prepare(source, there, node="relay1", reading=reading, progress=lambda: None)

    refused = await outcome(message(producer="erp"), forged)
    assert isinstance(refused, Unreadable)
    assert "names 'ceo@evil.test' as sender, which [pickup.erp] allowed_senders does not allow" in refused.reason
    assert isinstance(await outcome(message(producer="erp"), Bytes(DATA, uid=7)), MessageBody)
    for other in ("shop", "", "submit", "gone"):
        assert isinstance(await outcome(message(producer=other), forged), MessageBody)


async def test_thousands_of_real_recipients_are_counted() -> None:
    """Header lines have limits on the way: the first are named."""
    sent = await wire(message(), redirected=tuple(f"r{number}@c.test" for number in range(5000)))
    assert b" r99@c.test\r\n (and 4900 more)\r\n" in sent
    assert b"r100@" not in sent


async def test_the_received_line_names_who_handed_in() -> None:
    """The file's owner, or who spoke to us over a socket; user 0 is somebody as well."""
    assert b"(uid 7)" in await wire(message())
    assert b"(uid 1234)" in await wire(message(uid=1234))
    assert b"(uid 0)" in await wire(message(uid=0))


@pytest.mark.parametrize(
    ("rule", "producer", "folder", "blocks", "ours"),
    [
        ("pickup", "", "pickup", (), True),
        ("pickup", "erp", "headers", (), True),
        ("headers", "", "pickup", (), False),
        ("sidecar", "", "pickup", (), True),
        ("sidecar", "", "headers", ("erp",), False),
        ("sidecar", "erp", "headers", ("erp",), True),
        ("sidecar", "erp", "pickup", (), False),
        ("submit", "submit", "pickup", (), False),
        ("dsn", "", "pickup", (), False),
    ],
)
async def test_a_block_leaves_only_where_it_was_not_for_us(
    rule: str, producer: str, folder: Any, blocks: tuple[str, ...], ours: bool
) -> None:
    """X-Receiver lines tell everybody who got it: where the folder takes them as envelope, they stay here."""
    there, reading = message(rule=rule, producer=producer), Reading(folder)
    assert has_block(there, reading, blocks) is ours
    assert (b"X-Receiver" not in await wire(there, reading, blocks=blocks)) is ours


def test_what_may_be_shown_is_what_leaves() -> None:
    """`kept` and `removed` divide the header between them."""
    header = split_header(DATA)
    assert isinstance(header, Header)
    for pickup in (True, False):
        kept = [field.name for field in headers.kept(header, pickup=pickup)]
        assert sorted([*kept, *headers.removed(header, pickup=pickup)]) == sorted(f.name for f in header.fields)
        assert "Bcc" not in kept
