"""The session with a mailbox, against a real Dovecot."""

from __future__ import annotations

import asyncio
import datetime
import imaplib
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mailrelayd.clock import SystemClock
from mailrelayd.inbound import imap
from mailrelayd.inbound.connect import connect
from mailrelayd.inbound.imap import Session
from mailrelayd.inbound.values import ImapError, MailMissing, NoSuchFolder, Refused, Stage
from tests.accounts import Account, Tls
from tests.conftest import require
from tests.servers.certificates import Certificates
from tests.servers.mailbox import IMAP_PROGRAM, MailboxServer, User, token
from tests.servers.process import short_directory
from tests.test_imap import FIELDS, described, mail, read

pytestmark = pytest.mark.real

HINT = 20.0  # seconds in which a push has to come


@pytest.fixture
def ca(certificates: Certificates) -> Tls:
    """Trust in the server's certificate."""
    return Tls(ca_file=str(certificates.ca))


@pytest.fixture
def user(mailbox: MailboxServer) -> User:
    """Somebody whose mailbox is empty."""
    return mailbox.add_user()


@asynccontextmanager
async def inbox(mailbox: MailboxServer, user: User, ca: Tls) -> AsyncIterator[Session]:
    account = Account(mailbox.tls_port, security="tls", auth="password", tls=ca)
    async with await connect(account, user=user.name, secret=user.password) as session:
        await session.select("INBOX")
        yield session


async def idling(session: Session) -> None:
    """Wait until the server has agreed to push."""
    agreed = asyncio.Event()
    session.traced(lambda direction, said: agreed.set() if direction == "<" and said.startswith(b"+ ") else None)
    async with asyncio.timeout(HINT):
        await agreed.wait()


def selected(client: imaplib.IMAP4, folder: str = "INBOX") -> int:
    """Open a folder; the number of its mails."""
    kind, data = client.select(folder)
    assert kind == "OK"
    return int(data[0] or b"")


PASSWORDS = ["correct horse", 'quo"te\\s', "pässwörd 日本", "{5}", "*", "~ ,;=\x7f"]


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("security", ["tls", "starttls"])
async def test_any_password_logs_in(
    password: str, mechanism: str, security: str, mailbox: MailboxServer, ca: Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By PLAIN and by LOGIN, after TLS and after STARTTLS, also with a name that is not ASCII."""
    user = mailbox.add_user(password, name=f"ü{time.monotonic_ns()}")
    if mechanism == "LOGIN":  # Dovecot offers both, and then the choice would be PLAIN
        monkeypatch.setattr("mailrelayd.inbound.login.choose", lambda auth, offered: "LOGIN")
    port = mailbox.tls_port if security == "tls" else mailbox.port
    account = Account(port, security=security, auth="password", tls=ca)
    async with await connect(account, user=user.name, secret=user.password) as session:
        assert session.can_expunge
        assert session.tls.startswith("TLSv1.")
        assert (await session.select("INBOX")).exists == 0


@pytest.mark.parametrize("auth", ["password", "oauth2"])
async def test_a_wrong_secret_is_refused(auth: str, mailbox: MailboxServer, user: User, ca: Tls) -> None:
    """With the code that tells it from a server in trouble."""
    account = Account(mailbox.tls_port, security="tls", auth=auth, tls=ca)
    with pytest.raises(Refused) as refused:
        await connect(account, user=user.name, secret="wrong")
    assert (refused.value.stage, refused.value.code) == (Stage.LOGIN, "AUTHENTICATIONFAILED")
    if auth == "oauth2":
        assert '"status":"401"' in refused.value.text


@pytest.mark.parametrize("mechanism", ["XOAUTH2", "OAUTHBEARER"])
async def test_a_token_logs_in(
    mechanism: str, mailbox: MailboxServer, user: User, ca: Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By either mechanism, also one that is too long for a command; one that has expired does not."""
    monkeypatch.setattr("mailrelayd.inbound.login.choose", lambda auth, offered: mechanism)
    account = Account(mailbox.tls_port, security="tls", auth="oauth2", tls=ca)
    for padding in (0, 3000):
        async with await connect(account, user=user.name, secret=token(user.name, padding=padding)) as session:
            assert (await session.select("INBOX")).exists == 0
    with pytest.raises(Refused):
        await connect(account, user=user.name, secret=token(user.name, expires=1_700_000_000))


async def test_no_password_before_tls(mailbox: MailboxServer, user: User) -> None:
    """Neither by us nor with a certificate nobody vouches for."""
    with pytest.raises(ImapError, match="would travel in clear"):
        await connect(Account(mailbox.port, auth="password"), user=user.name, secret=user.password)
    with pytest.raises(ImapError) as error:
        account = Account(mailbox.port, security="starttls", auth="password")
        await connect(account, user=user.name, secret=user.password)
    assert error.value.stage is Stage.TLS


async def test_a_thousand_mails_are_found_summarised_and_read(mailbox: MailboxServer, user: User, ca: Tls) -> None:
    """In order, with their sizes, days and headers, and without being marked as read."""
    mailbox.append(user, *(mail(number, 500) for number in range(1000)), date='"17-Jul-1996 02:44:25 -0700"')
    async with inbox(mailbox, user, ca) as session:
        uids = await session.search()
        summaries = await described(session, *uids)
        assert [summary.uid for summary in summaries] == uids == list(range(1, 1001))
        moment = datetime.datetime(1996, 7, 17, 9, 44, 25, tzinfo=datetime.UTC)
        assert {(one.internal_date, one.size) for one in summaries} == {(moment, 500)}
        assert all(one.header == mail(number)[: len(one.header)] for number, one in enumerate(summaries))
        assert await read(session, 500, size=500) == mail(499, 500)
        assert [one.flags for one in await described(session, 500)] == [frozenset({"\\Recent"})]
        assert await session.search(first=999) == [999, 1000]
        assert await session.search(first=2000) == []
        assert await session.search(since=datetime.date(1996, 7, 16), before=datetime.date(1996, 7, 19)) == uids
        assert await session.search(since=datetime.date(1996, 7, 19)) == []
        assert await session.search(before=datetime.date(1996, 7, 16)) == []
    with mailbox.client(user) as client:
        selected(client)
        assert len(client.search(None, "UNSEEN")[1][0].split()) == 1000


async def test_a_large_mail_is_read_in_pieces(mailbox: MailboxServer, user: User, ca: Tls) -> None:
    """Octet by octet what was put in, with any octets in it."""
    whole = mail(1) + bytes(range(1, 256)).replace(b"\r", b"").replace(b"\n", b"\r\n") * 6000
    mailbox.append(user, whole)
    async with inbox(mailbox, user, ca) as session:
        (summary,) = await described(session, 1)
        assert summary.size == len(whole)
        pieces = [piece async for piece in session.message(1, size=summary.size, limit=1 << 30)]
        assert b"".join(pieces) == whole
        assert max(map(len, pieces)) == imap.CHUNK
        assert await read(session, 1, size=summary.size, limit=1000) == whole[:1000]
        exact = await read(session, 1, size=summary.size, limit=summary.size)
        assert exact == whole


async def test_strange_headers_are_summarised(mailbox: MailboxServer, user: User, ca: Tls) -> None:
    """Parentheses, quotes, braces and octets beyond ASCII, none at all, and a header without an end."""
    strange = b'From: (open * paren "quote {5}\r\n folded\xff\xfe\r\nMESSAGE-id: <\xfc@x>\r\nSubject: no\r\n\r\nx\r\n'
    mailbox.append(user, strange, b"\r\nonly text\r\n", b"From: " + b"x" * 200_000 + b"\r\n\r\n")
    async with inbox(mailbox, user, ca) as session:
        first, second, third = await described(session, 1, 2, 3)
        assert first.header == strange.partition(b"Subject")[0] + b"\r\n"
        assert second.header == b"\r\n"
        assert third.header == (b"From: " + b"x" * 200_000)[: imap.HEADER]


async def test_only_our_mail_is_removed(mailbox: MailboxServer, user: User, ca: Tls) -> None:
    """Another's \\Deleted mail stays where it is."""
    mailbox.append(user, *(mail(number) for number in range(5)))
    with mailbox.client(user) as client:
        selected(client)
        client.uid("STORE", "2,4", "+FLAGS", r"(\Deleted)")
        async with inbox(mailbox, user, ca) as session:
            assert await session.delete([3, 5, 77]) == []
            assert await session.search() == [1, 2, 4]
            flags = {one.uid: "\\Deleted" in one.flags for one in await described(session, 1, 2, 3, 4)}
            assert flags == {1: False, 2: True, 4: True}


async def test_mails_are_moved_into_folders_with_any_name(mailbox: MailboxServer, user: User, ca: Tls) -> None:
    """Created, found again, and named to whoever asks for one that is missing."""
    name = 'Erledigt ü & "mehr" 日本'
    mailbox.append(user, *(mail(number) for number in range(3)))
    async with inbox(mailbox, user, ca) as session:
        with pytest.raises(Refused) as refused:
            await session.move([1], name)
        assert refused.value.code == "TRYCREATE"
        await session.create(name)
        await session.create("Ordner/darin")
        await session.move([1, 3], name)
        assert await session.search() == [2]
        with pytest.raises(NoSuchFolder) as missing:
            await session.select("Erledigtes")
        assert {"INBOX", name, "Ordner/darin"} <= set(missing.value.folders)
        mailbox_there = await session.select(name)
        assert (mailbox_there.exists, mailbox_there.uidnext) == (2, 3)
        assert await read(session, 1, size=10) == mail(0)


async def test_moving_by_three_steps_leaves_others_alone(mailbox: MailboxServer, user: User, ca: Tls) -> None:
    """As on a server without MOVE."""
    mailbox.append(user, *(mail(number) for number in range(3)))
    with mailbox.client(user) as client:
        selected(client)
        client.uid("STORE", "2", "+FLAGS", r"(\Deleted)")
    async with inbox(mailbox, user, ca) as session:
        session._connection.capabilities.discard("MOVE")
        await session.create("Done")
        await session.move([1], "Done")
        assert await session.search() == [2, 3]
        assert (await session.select("Done")).exists == 1


async def test_looking_only_changes_nothing(mailbox: MailboxServer, user: User, ca: Tls) -> None:
    """EXAMINE: nothing can be removed."""
    mailbox.append(user, mail(1))
    async with inbox(mailbox, user, ca) as session:
        assert (await session.select("INBOX", read_only=True)).read_only
        with pytest.raises(Refused):
            await session.delete([1])
        assert await session.search() == [1]


async def test_a_removed_mail_is_missing(mailbox: MailboxServer, user: User, ca: Tls) -> None:
    """Before we looked, and behind our back."""
    mailbox.append(user, *(mail(number) for number in range(3)))
    async with inbox(mailbox, user, ca) as session:
        with mailbox.client(user) as client:
            selected(client)
            client.uid("STORE", "2", "+FLAGS", r"(\Deleted)")
            client.expunge()
        assert [one.uid for one in await described(session, 1, 2, 3, 99)] == [1, 3]
        for uid in (2, 99):
            with pytest.raises(MailMissing):
                await read(session, uid, size=10)
        assert await read(session, 3, size=10) == mail(2)


async def test_a_folder_made_anew_has_another_uidvalidity(mailbox: MailboxServer, user: User, ca: Tls) -> None:
    """Under the same name; the same folder keeps its own."""
    async with inbox(mailbox, user, ca) as session:
        await session.create("Replies")
        first = await session.select("Replies")
        assert (await session.select("Replies")).uidvalidity == first.uidvalidity
        await session.select("INBOX")
        with mailbox.client(user) as client:
            client.delete("Replies")
        await session.create("Replies")
        assert (await session.select("Replies")).uidvalidity != first.uidvalidity


async def test_a_push_wakes_up(mailbox: MailboxServer, user: User, ca: Tls) -> None:
    """Long before the time is up; nothing new, and the time is waited for."""
    async with inbox(mailbox, user, ca) as session:
        stop = asyncio.Event()
        assert not await session.idle(SystemClock(), stop, 0.05)
        waiting = asyncio.create_task(session.idle(SystemClock(), stop, HINT))
        await idling(session)
        begin = time.monotonic()
        await asyncio.to_thread(mailbox.append, user, mail(1))
        assert await waiting
        assert time.monotonic() - begin < HINT / 2
        assert await session.search() == [1]
        await session.delete([1])
        assert not await session.noop()


async def test_mail_that_comes_between_search_and_idle_is_not_missed(
    mailbox: MailboxServer, user: User, ca: Tls
) -> None:
    """Wherever in between the server happens to tell."""
    async with inbox(mailbox, user, ca) as session:
        assert await session.search() == []
        await asyncio.to_thread(mailbox.append, user, mail(1))
        await described(session, 1)
        assert await session.idle(SystemClock(), asyncio.Event(), HINT)


async def test_a_server_that_ends_is_noticed_at_once(certificates: Certificates, ca: Tls) -> None:
    """While idle; and afterwards it cannot be reached."""
    require(IMAP_PROGRAM)
    with short_directory("mr-imap") as directory:
        server = MailboxServer(directory, certificates)
        server.start()
        try:
            user = server.add_user()
            async with inbox(server, user, ca) as session:
                waiting = asyncio.create_task(session.idle(SystemClock(), asyncio.Event(), 10 * HINT))
                await idling(session)
                await asyncio.to_thread(server.stop)
                begin = time.monotonic()
                with pytest.raises(ImapError, match=re.compile("idle: the server (says goodbye|closed)")):
                    await waiting
                assert time.monotonic() - begin < HINT
            with pytest.raises(ImapError, match="connection refused"):
                await connect(Account(server.tls_port, security="tls", auth="password", tls=ca), user="u", secret="p")
        finally:
            server.stop()


async def test_fields_are_asked_by_any_name(mailbox: MailboxServer, user: User, ca: Tls) -> None:
    """Those of a token and of a sender's authentication are usual; a field that is missing is only missing."""
    mailbox.append(user, b"Authentication-Results: mx; dmarc=pass\r\nTo: a+tok@x\r\nX-A: b\r\n\r\nhi\r\n")
    async with inbox(mailbox, user, ca) as session:
        fields = (*FIELDS, "Authentication-Results", "To", "In-Reply-To", "x-a")
        (summary,) = [one async for one in session.summaries([1], fields)]
        assert summary.header == b"Authentication-Results: mx; dmarc=pass\r\nTo: a+tok@x\r\nX-A: b\r\n\r\n"
