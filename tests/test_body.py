"""Messages from a file to the wire: whole, with CRLF, whatever their size, their line ends and the way they go."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from mailrelayd import durable
from mailrelayd.outbound import smtp
from mailrelayd.outbound.body import CHUNK, MessageBody, prepare
from mailrelayd.outbound.stored import SMALL, FileSource, Reading
from mailrelayd.outbound.values import Envelope, Progress, QueuedMessage, Transaction
from tests.accounts import Account
from tests.scripted_smtp import Script, serving

HEADER = b"From: a@example.com\r\nMessage-ID: <1@example.com>\r\nDate: Sat, 21 Nov 2026 08:00:00 +0000\r\n\r\n"
MESSAGE = QueuedMessage("abcdefghijkl", Envelope("a@example.com", ("b@example.com",)), Progress(1767600900.0))
CHUNKED = ("PIPELINING", "8BITMIME", "CHUNKING")
BY_DATA = ("PIPELINING", "8BITMIME")


def filled(size: int, line: bytes = b"x" * 70 + b"\r\n") -> bytes:
    """A message of exactly `size` bytes."""
    missing = size - len(HEADER)
    return HEADER + (line * (missing // len(line) + 1))[: missing - 2] + b"\r\n"


def at(data: bytes, offset: int, piece: bytes) -> bytes:
    """`data` with `piece` at this place."""
    return data[:offset] + piece + data[offset + len(piece) :]


EDGE = len(HEADER) + CHUNK  # where the second piece of a large body begins
MESSAGES = {
    "small": filled(SMALL),
    "just large": filled(SMALL + 1),
    "just large, without an end": filled(SMALL + 1)[:-2] + b"xx",
    "lf": HEADER.replace(b"\r", b"") + (b"x" * 700 + b"\n.\n..\n") * 500,
    "cr at an edge": at(filled(3 * CHUNK), EDGE - 1, b"\r"),
    "crlf over an edge": at(filled(3 * CHUNK), EDGE - 1, b"\r\n"),
    "lf behind an edge": at(filled(3 * CHUNK), EDGE, b"\n"),
    "a dot behind an edge": at(filled(3 * CHUNK), EDGE - 2, b"\r\n.\r\n"),
    "a lone cr at the end": filled(3 * CHUNK) + b"\r",
    "8 bit": filled(3 * CHUNK, bytes(range(0x80, 0x100)) + b"\r\n"),
    "a header that is all": HEADER[:-2],
}


@pytest.mark.parametrize(("extensions", "window"), [(CHUNKED, 4), (CHUNKED, 1), (BY_DATA, 1)])
async def test_every_message_arrives_as_it_stands_but_for_its_line_ends(
    tmp_path: Path, extensions: tuple[str, ...], window: int
) -> None:
    """One behind the other on one connection, where an octet too many or too few is seen by the next."""
    async with serving(Script(extensions=extensions)) as server:
        session = await smtp.connect(Account(server.port), hello="client.example.com", window=window)
        for name, data in MESSAGES.items():
            (tmp_path / "file").write_bytes(data)
            with closing(durable.Folder(tmp_path)) as folder, closing(FileSource.of(folder, "file")) as source:
                body = await prepare(source, MESSAGE, node="relay1", reading=Reading(), progress=lambda: None)
                assert isinstance(body, MessageBody)
                assert (body.whole is not None) == (len(data) <= SMALL)
                transaction = Transaction("id", "a@example.com", ("b@example.com",), body.size, body.eight_bit)
                assert await session.send(transaction, body)
                (answers,) = await session.next_answers()
            assert answers.body is not None, name
            arrived = server.bodies[-1]
            if "CHUNKING" not in extensions or (body.whole is not None and window == 1):
                arrived = arrived.replace(b"\r\n..", b"\r\n.")
            received, _, rest = arrived.partition(b"From: ")
            assert received.startswith(b"Received: "), name
            wanted = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
            assert b"From: " + rest == (wanted if wanted.endswith(b"\n") else wanted + b"\r\n"), name
        await session.close()
