"""The mailbox of the demonstration, asked by Python's own IMAP client and by the daemon's session."""

from __future__ import annotations

import asyncio
import imaplib
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from mailrelayd.clock import SystemClock
from mailrelayd.demo.filed import Filed
from mailrelayd.demo.mailbox import Mailbox
from mailrelayd.inbound.connect import connect
from mailrelayd.inbound.values import ImapError, NoSuchFolder
from tests.accounts import Account, Tls
from tests.servers.certificates import Certificates

USER, PASSWORD = "approvals@example.com", 'p "a\\ss'
MAIL = b"From: a@example.com\r\nTo: b@example.com\r\n\tc@example.com\r\nSubject: Hi\r\n\r\nHello.\r\n.\r\n"


@pytest.fixture
async def mailbox(certificates: Certificates) -> AsyncIterator[Mailbox]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.good.certificate, certificates.good.key)
    box = Mailbox(context, USER, PASSWORD, lambda mail: None)
    await box.open()
    yield box
    await box.close()


def account(mailbox: Mailbox, certificates: Certificates) -> Account:
    return Account(
        mailbox.port, security="tls", auth="password", tls=Tls(ca_file=str(certificates.ca), server_name="localhost")
    )


async def with_imaplib(mailbox: Mailbox, talk: Callable[[imaplib.IMAP4_SSL], Any]) -> Any:
    """What a conversation of Python's own client comes to, in a thread."""

    def conversation() -> Any:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with imaplib.IMAP4_SSL("127.0.0.1", mailbox.port, ssl_context=context, timeout=10) as client:
            return talk(client)

    return await asyncio.to_thread(conversation)


async def test_pythons_client_reads_marks_and_removes(mailbox: Mailbox) -> None:
    """What a client that was not written here makes of its answers."""
    for _ in range(3):
        mailbox.file(MAIL)

    def talk(client: imaplib.IMAP4_SSL) -> None:
        client.login(USER, PASSWORD)
        assert client.select("INBOX") == ("OK", [b"3"])
        assert client.response("UIDVALIDITY") == ("UIDVALIDITY", [b"1"])
        assert client.uid("SEARCH", "ALL") == ("OK", [b"1 2 3"])
        assert client.uid("SEARCH", "UID", "2:*") == ("OK", [b"2 3"])
        assert client.uid("SEARCH", "SINCE", "1-Jan-2099") == ("OK", [b""])
        _, data = client.uid("FETCH", "2", "(RFC822.SIZE FLAGS BODY.PEEK[])")
        assert data[0][1] == MAIL
        assert f"RFC822.SIZE {len(MAIL)} FLAGS () BODY[]".encode() in data[0][0]
        _, data = client.uid("FETCH", "2", "(BODY.PEEK[HEADER.FIELDS (TO)]<0.100>)")
        assert data[0][1] == b"To: b@example.com\r\n\tc@example.com\r\n\r\n"
        _, data = client.uid("FETCH", "3", "(BODY.PEEK[]<6.13>)")
        assert data[0][1] == MAIL[6:19]
        assert imaplib.Internaldate2tuple(client.uid("FETCH", "3", "(INTERNALDATE)")[1][0]) is not None
        client.uid("STORE", "1", "+FLAGS.SILENT", r"(\Deleted)")
        client.uid("STORE", "3", "+FLAGS", r"(\Deleted)")
        assert client.uid("EXPUNGE", "3,2") == ("OK", [None])
        assert client.response("EXPUNGE") == ("EXPUNGE", [b"3"])
        assert client.uid("SEARCH", "ALL") == ("OK", [b"1 2"])

    await with_imaplib(mailbox, talk)
    assert {uid: mail.flags for uid, mail in mailbox.mails.items()} == {1: {r"\deleted"}, 2: set()}


@pytest.mark.parametrize(
    ("command", "arguments"),
    [("SEARCH", ["SUBJECT", "x"]), ("FETCH", ["1", "(ENVELOPE)"]), ("FETCH", ["x", "(UID)"]), ("COPY", ["1", "INBOX"])],
)
async def test_what_it_does_not_know_is_refused(mailbox: Mailbox, command: str, arguments: list[str]) -> None:
    """With BAD, and the conversation goes on."""

    def talk(client: imaplib.IMAP4_SSL) -> None:
        client.login(USER, PASSWORD)
        client.select("INBOX")
        with pytest.raises(imaplib.IMAP4.error, match="BAD"):
            client.uid(command, *arguments)
        assert client.noop()[0] == "OK"

    await with_imaplib(mailbox, talk)


async def test_nobody_gets_in_without_the_password(mailbox: Mailbox, certificates: Certificates) -> None:
    """Nor to a folder that is not there."""

    def talk(client: imaplib.IMAP4_SSL) -> None:
        with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
            client.login(USER, "other")

    await with_imaplib(mailbox, talk)
    with pytest.raises(ImapError, match="AUTHENTICATIONFAILED"):
        await connect(account(mailbox, certificates), user=USER, secret="other")
    async with await connect(account(mailbox, certificates), user=USER, secret=PASSWORD) as session:
        with pytest.raises(NoSuchFolder, match="INBOX"):
            await session.select("Archive")


async def test_the_daemons_session_sees_new_mail_reads_and_removes_it(
    mailbox: Mailbox, certificates: Certificates
) -> None:
    """IDLE wakes up; the mail comes in pieces; what is removed is gone."""
    gone: list[Filed] = []
    mailbox.removed = gone.append
    async with await connect(account(mailbox, certificates), user=USER, secret=PASSWORD) as session:
        folder = await session.select("INBOX")
        assert (folder.uidvalidity, folder.uidnext, folder.exists) == (1, 1, 0)
        waiting = asyncio.create_task(session.idle(SystemClock(), asyncio.Event(), 10))
        filed = mailbox.file(MAIL)
        assert await waiting
        assert await session.search() == [1]
        (summary,) = [one async for one in session.summaries([1], ["To"])]
        assert summary.size == len(MAIL)
        assert summary.internal_date == filed.arrived.replace(microsecond=0)
        assert summary.header == b"To: b@example.com\r\n\tc@example.com\r\n\r\n"
        assert b"".join([piece async for piece in session.message(1, size=summary.size, limit=1 << 20)]) == MAIL
        assert await session.delete([1]) == []
    assert gone == [filed]
    assert mailbox.mails == {}
