"""Many bodies on their way to real servers at once: each is taken once, whole and in order, or refused alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from mailrelayd.outbound import smtp
from mailrelayd.outbound.opened import Opened
from mailrelayd.outbound.values import Answers, Response, Transaction
from tests.accounts import Account, Tls
from tests.servers import dovecot
from tests.servers.certificates import Certificates
from tests.servers.postfix import Postfix, as_sent

LARGE = 1_000_000
NUMBER = 60


@dataclass
class Mail:
    """A message in memory; a large one is streamed."""

    data: bytes
    pure: bool = True
    copyable: None = None
    eight_bit: bool = False

    @property
    def whole(self) -> bytes | None:
        return self.data if len(self.data) < LARGE else None

    @property
    def size(self) -> int:
        return len(self.data)

    async def chunks(self) -> AsyncIterator[bytes]:
        for at in range(0, len(self.data), 1 << 16):
            yield self.data[at : at + (1 << 16)]

    def unchanged(self) -> bool:
        return True


def mail(number: int, length: int = 0) -> bytes:
    """A text that would be obeyed if it were taken for commands, ends of messages and all."""
    header = f"Subject: {number}\r\nMessage-ID: <{number}@relay1>\r\nDate: Sat, 21 Nov 2026 07:43:48 +0000\r\n"
    hostile = "QUIT\r\n.\r\n..\r\nRSET\r\nBDAT 1 LAST\r\n"
    return (header + "From: a\r\n\r\n" + hostile + ("x" * 70 + "\r\n") * (length // 72)).encode()


def local_part(number: int) -> str:
    """Some are refused, some are put off, and what is behind them must not notice."""
    return {3: "refused", 7: "deferred"}.get(number % 10, "taken")


async def exchange(session: Opened) -> list[Answers]:
    """Send NUMBER messages of several sizes, one of them large."""

    async def feed() -> None:
        for number in range(NUMBER):
            data = mail(number, 3 * LARGE if number == 25 else number * 300)
            recipients = (f"{local_part(number)}@dest.test", "refused2@dest.test")
            transaction = Transaction(str(number), "noreply@example.com", recipients, len(data))
            assert await session.send(transaction, Mail(data))
        session.finish()

    feeder = asyncio.create_task(feed())
    got = [answers async for batch in session.attempts() for answers in batch]
    await feeder
    return got


def code(answer: Response | None) -> int:
    return answer.code if answer is not None else 0


async def test_a_real_postfix_takes_a_window_of_mail(postfix: Postfix, certificates: Certificates) -> None:
    """Over TLS, with refusals in between: Postfix swallows their chunks, and nothing is lost, doubled or altered."""
    account = Account(
        postfix.port, host="localhost", security="starttls", auth="password", tls=Tls(ca_file=str(certificates.ca))
    )
    session = await smtp.connect(
        account, user="relay", password=dovecot.USERS["relay"], hello="client.example.com", window=16
    )
    assert (session.window, session.narrowed) == (16, "")
    try:
        got = await exchange(session)
    finally:
        await session.close()
    assert [answers.transaction.queue_id for answers in got] == [str(number) for number in range(NUMBER)]
    assert session.trouble is None
    taken = [number for number in range(NUMBER) if local_part(number) == "taken"]
    for number, answers in enumerate(got):
        expected = {"taken": (250, 250), "refused": (550, 0), "deferred": (450, 0)}[local_part(number)]
        assert (code(answers.recipients[0]), code(answers.body)) == expected
    assert postfix.accepted() == [f"<{number}@relay1>" for number in taken]
    stored = {as_sent(one) for one in postfix.wait_for_messages("taken@dest.test", len(taken))}
    assert stored == {mail(number, 3 * LARGE if number == 25 else number * 300) for number in taken}
