"""The session with a mailbox, against a server that behaves as each test says."""

from __future__ import annotations

import asyncio
import datetime
import gc
import hashlib
import logging
import re
import ssl
import time
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from mailrelayd.clock import SystemClock
from mailrelayd.inbound import imap
from mailrelayd.inbound.connect import Remembered, connect, longest_opening
from mailrelayd.inbound.idle import RENEW
from mailrelayd.inbound.imap import Session
from mailrelayd.inbound.values import ImapError, Mailbox, MailMissing, NoSuchFolder, Refused, Stage, Summary
from tests import scripted_imap
from tests.accounts import Account, Tls
from tests.manual_clock import ManualClock
from tests.scripted_imap import Conversation, Fault, Script, Server, last_words, says, serving
from tests.servers.certificates import Certificates, KeyPair

SHORT = 0.3  # seconds; only where silence is the test
LONG = 5.0
FIELDS = ("From", "Message-ID")


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def patience(fault: str | Fault) -> float:
    """A deadline that is short only for the server that never gives a reason to go on."""
    endless = (scripted_imap.silence, scripted_imap.drip, scripted_imap.short_literal)
    return SHORT if fault in endless else LONG


@pytest.fixture(autouse=True)
async def _nothing_is_swallowed() -> AsyncIterator[None]:
    """Fails the test in which an error reaches nobody: asyncio would only log it."""
    lost: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: lost.append(context))
    yield
    gc.collect()
    assert lost == []


@asynccontextmanager
async def connected(script: Script, *, seconds: float = LONG) -> AsyncIterator[tuple[Session, Server]]:
    """A session without TLS and login: PREAUTH."""
    script.preauth = True
    async with serving(script) as server:
        session = await connect(Account(server.port, command_timeout=seconds))
        try:
            yield session, server
        finally:
            session.abort()
            await session.close()


@asynccontextmanager
async def opened(script: Script, *, seconds: float = LONG) -> AsyncIterator[tuple[Session, Server]]:
    """The same, with INBOX open."""
    async with connected(script, seconds=seconds) as (session, server):
        await session.select("INBOX")
        yield session, server


def context_of(pair: KeyPair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    return context


def secured(server: Server, certificates: Certificates, security: str = "tls", auth: str = "password") -> Account:
    return Account(server.port, security=security, auth=auth, tls=Tls(ca_file=str(certificates.ca)))


async def described(session: Session, *uids: int, header: int = imap.HEADER) -> list[Summary]:
    return [summary async for summary in session.summaries(uids, FIELDS, header=header)]


async def read(session: Session, uid: int, *, size: int, limit: int = 1 << 20) -> bytes:
    return b"".join([piece async for piece in session.message(uid, size=size, limit=limit)])


def mail(number: int, size: int = 0) -> bytes:
    header = f"From: a{number}@example.com\r\nMessage-ID: <{number}@example.com>\r\n\r\n".encode()
    return header + b"x" * (size - len(header))


MAILS = {uid: mail(uid) for uid in (3, 5, 9)}


# Connecting


async def test_a_session_is_opened_used_and_ended(certificates: Certificates) -> None:
    """Over TLS: login, the folder, its mails, one of them whole, and LOGOUT."""
    script = Script(mails=dict(MAILS), implicit=context_of(certificates.good))
    async with serving(script) as server:
        async with await connect(secured(server, certificates), user="u", secret="p") as session:
            assert session.peer == f"127.0.0.1[127.0.0.1]:{server.port}"
            assert session.tls.startswith("TLSv1.3 ")
            assert (session.can_expunge, session.can_move) == (True, True)
            assert await session.select("INBOX") == Mailbox("INBOX", uidvalidity=7, uidnext=1000, exists=3)
            assert await session.search() == [3, 5, 9]
            summaries = await described(session, 3, 5)
            assert await read(session, 5, size=summaries[1].size) == MAILS[5]
        assert server.lines[-1] == "LOGOUT"
        assert session.trouble == "closed"
    moment = datetime.datetime(1996, 7, 17, 9, 44, 25, tzinfo=datetime.UTC)
    assert summaries == [Summary(uid, len(MAILS[uid]), moment, frozenset({"\\Seen"}), MAILS[uid]) for uid in (3, 5)]
    assert b64decode(server.lines[1].removeprefix("AUTHENTICATE PLAIN ")) == b"\0u\0p"


async def test_starttls_forgets_what_was_said_in_clear(certificates: Certificates) -> None:
    """The login is chosen by what the server offers over TLS, and the session by what it offers after the login."""
    script = Script(
        {"GREETING": ["* OK [CAPABILITY IMAP4rev1 STARTTLS AUTH=OAUTHBEARER] hello"]},
        capability="IMAP4rev1",
        starttls=context_of(certificates.good),
        after_login="IMAP4rev1",
    )
    async with serving(script) as server:
        account = secured(server, certificates, "starttls")
        async with await connect(account, user='a "b\\', secret="p") as session:
            assert not session.can_expunge
        assert server.lines == ["STARTTLS", "CAPABILITY", 'LOGIN "a \\"b\\\\" "p"', "CAPABILITY", "LOGOUT"]


async def test_capabilities_in_the_answer_to_the_login_are_not_asked_again(certificates: Certificates) -> None:
    """A server that tells by itself saves a round trip."""
    answers: dict[str, list[str | Fault]] = {"AUTHENTICATE": ["<tag> OK [CAPABILITY IMAP4rev1 UIDPLUS] in"]}
    script = Script(answers, implicit=context_of(certificates.good))
    async with serving(script) as server:
        async with await connect(secured(server, certificates), user="u", secret="p") as session:
            assert session.can_expunge
        assert [line.split(" ")[0] for line in server.lines] == ["CAPABILITY", "AUTHENTICATE", "LOGOUT"]


SECRETS = ["plain", 'quo"te\\d', " ", "umläut", "line\r\nend", "{5}", "*", "日本語 {3}\r\n", ""]


@pytest.mark.parametrize("secret", SECRETS)
async def test_any_password_arrives_by_login(secret: str, certificates: Certificates) -> None:
    """In quotes where that is allowed, else as a literal, octet by octet."""
    script = Script(capability="IMAP4rev1", implicit=context_of(certificates.good))
    async with serving(script) as server:
        await (await connect(secured(server, certificates), user="ü", secret=secret)).close()
    said = server.lines[1]
    assert said.startswith("LOGIN {2}\r\nü ")
    argument = said.removeprefix("LOGIN {2}\r\nü ")
    if argument.startswith("{"):
        length, _, octets = argument.partition("\r\n")
        assert (length, octets) == (f"{{{len(secret.encode())}}}", secret)
    else:
        assert argument[1:-1].replace('\\"', '"').replace("\\\\", "\\") == secret


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("extension", [" SASL-IR", ""])
async def test_any_password_arrives_by_plain(secret: str, extension: str, certificates: Certificates) -> None:
    """With or without the initial response in the command itself."""
    script = Script(capability=f"IMAP4rev1 AUTH=PLAIN LOGINDISABLED{extension}", implicit=context_of(certificates.good))
    async with serving(script) as server:
        await (await connect(secured(server, certificates), user="ü", secret=secret)).close()
    said = "\n".join(server.lines[1:3]).partition("PLAIN")[2][1:].partition("\n")[0]
    assert b64decode(said) == f"\0ü\0{secret}".encode()


@pytest.mark.parametrize(
    ("mechanism", "message", "last"),
    [
        ("XOAUTH2", b"user=u@x\x01auth=Bearer tok\x01\x01", ""),
        ("OAUTHBEARER", b"n,a=u@x,\x01auth=Bearer tok\x01\x01", "AQ=="),
    ],
)
@pytest.mark.parametrize("extension", [" SASL-IR", ""])
async def test_a_refused_token_is_explained(
    mechanism: str, message: bytes, last: str, extension: str, certificates: Certificates
) -> None:
    """The server's error challenge is answered, read, and part of the error; the token is not."""
    said: list[str] = []

    async def refuse(conversation: Conversation) -> None:
        if not extension:
            await conversation.say("+ ")
            said.append((await conversation.line()).decode())
        else:
            said.append(conversation.lines[-1].split(" ")[2])
        await conversation.say("+ " + b64encode(b'{"status":"401","for":"tok"}').decode())
        said.append((await conversation.line()).decode())
        await conversation.say("<tag> NO [AUTHENTICATIONFAILED] not you")

    script = Script(
        {"AUTHENTICATE": [refuse]},
        capability=f"IMAP4rev1 AUTH={mechanism}{extension}",
        implicit=context_of(certificates.good),
    )
    async with serving(script) as server:
        with pytest.raises(Refused) as refused:
            await connect(secured(server, certificates, auth="oauth2"), user="u@x", secret="tok")
    assert b64decode(said[0]) == message
    assert said[1] == last
    assert refused.value.code == "AUTHENTICATIONFAILED"
    assert refused.value.text == 'not you {"status":"401","for":"***"}'


async def test_a_wrong_password_is_tried_once_and_never_shown(certificates: Certificates) -> None:
    """Even a server that repeats it does not bring it into the error."""
    answers: dict[str, list[str | Fault]] = {"AUTHENTICATE": ["<tag> NO user u with hunter2\x1b[2J: go away"]}
    async with serving(Script(answers, implicit=context_of(certificates.good))) as server:
        with pytest.raises(Refused) as refused:
            await connect(secured(server, certificates), user="u", secret="hunter2")
    assert str(refused.value) == "login: user u with ***\\x1b[2J: go away"
    assert sum("AUTH" in line or "LOGIN" in line for line in server.lines) == 1


@pytest.mark.parametrize("before", [b"", b"> "])
async def test_a_server_that_only_echoes_gets_no_secret_into_the_error(
    before: bytes, certificates: Certificates
) -> None:
    """Not even the beginning of one that is too long to be shown."""
    token = "t0ken" * 40

    async def echo(conversation: Conversation) -> None:
        await conversation.say(before + f"{conversation.tag} {conversation.lines[-1]}\r\n".encode())
        await scripted_imap.silence(conversation)

    async with serving(Script({"AUTHENTICATE": [echo]}, implicit=context_of(certificates.good))) as server:
        with pytest.raises(ImapError, match=r"XOAUTH2 \*\*\*") as error:
            await connect(secured(server, certificates, auth="oauth2"), user="u", secret=token)
    packed = b64encode(f"user=u\1auth=Bearer {token}\1\1".encode()).decode()
    assert packed[:8] not in str(error.value)


@pytest.mark.parametrize(
    ("capability", "auth", "message"),
    [
        ("IMAP4rev1 LOGINDISABLED AUTH=GSSAPI", "password", "offers AUTH=GSSAPI for the login, we can PLAIN and LOGIN"),
        ("IMAP4rev1 AUTH=PLAIN", "oauth2", "offers AUTH=PLAIN for the login, we can XOAUTH2 and OAUTHBEARER"),
        ("IMAP4rev1", "oauth2", "offers no AUTH= at all"),
        ("IMAP4rev1", "none", "the server wants a login: set user and password"),
    ],
)
async def test_without_a_way_in_common_nothing_is_said(
    capability: str, auth: str, message: str, certificates: Certificates
) -> None:
    """The error names what the server offers and what we can."""
    async with serving(Script(capability=capability, implicit=context_of(certificates.good))) as server:
        with pytest.raises(ImapError, match=message) as error:
            await connect(secured(server, certificates, auth=auth), user="u", secret="p")
    assert error.value.stage is Stage.LOGIN
    assert all(line == "CAPABILITY" for line in server.lines)


UNSAYABLE = [("u\0", "p", "password"), ("u\x01", "t", "oauth2"), ("\ud800", "p", "password")]


@pytest.mark.parametrize(("user", "secret", "auth"), UNSAYABLE)
async def test_what_no_login_can_say_is_refused(user: str, secret: str, auth: str, certificates: Certificates) -> None:
    """Nothing that separates the fields comes from a user's name."""
    async with serving(Script(implicit=context_of(certificates.good))) as server:
        with pytest.raises(ImapError, match="login: user or password"):
            await connect(secured(server, certificates, auth=auth), user=user, secret=secret)


async def test_a_password_does_not_travel_in_clear() -> None:
    """Unless the configuration says so twice, and the server does not forbid it."""
    async with serving(Script()) as server:
        account = Account(server.port, auth="password")
        with pytest.raises(ImapError, match="login: a password would travel in clear"):
            await connect(account, user="u", secret="p")
        assert server.lines == []
        session = await connect(replace(account, allow_plaintext=True), user="u", secret="p")
        assert session.tls == ""
        await session.close()
    async with serving(Script(capability="IMAP4rev1 LOGINDISABLED")) as server:
        account = Account(server.port, auth="password", allow_plaintext=True)
        with pytest.raises(ImapError, match="login: the server offers no AUTH= at all"):
            await connect(account, user="u", secret="p")


@pytest.mark.parametrize(("security", "auth"), [("tls", "password"), ("starttls", "password"), ("starttls", "none")])
async def test_preauth_is_no_login(security: str, auth: str, certificates: Certificates) -> None:
    """Before STARTTLS it would prevent TLS; after TLS nobody knows whose mailbox it is."""
    context = context_of(certificates.good)
    script = Script(preauth=True, implicit=context if security == "tls" else None)
    async with serving(script) as server:
        with pytest.raises(ImapError, match=r"greeting: .*\(PREAUTH\)"):
            await connect(secured(server, certificates, security, auth), user="u", secret="p")
        await until(lambda: server.open == 0)
    assert server.lines == []


async def test_bytes_injected_behind_starttls_are_not_taken_for_the_servers(certificates: Certificates) -> None:
    """Whoever stands in between could put words into the server's mouth."""
    script = Script({"STARTTLS": [says("<tag> OK begin\r\n* CAPABILITY IMAP4rev1 AUTH=PLAIN")]})
    script.starttls = context_of(certificates.good)
    async with serving(script) as server:
        with pytest.raises(ImapError, match="starttls: the server sent something in clear after its OK to STARTTLS"):
            await connect(secured(server, certificates, "starttls"), user="u", secret="p")
    assert server.lines == ["CAPABILITY", "STARTTLS"]


async def test_no_starttls_no_login(certificates: Certificates) -> None:
    """A server that does not offer it is never asked for anything else."""
    async with serving(Script()) as server:
        with pytest.raises(ImapError, match="starttls: the server offers no STARTTLS"):
            await connect(secured(server, certificates, "starttls"), user="u", secret="p")
        await until(lambda: server.open == 0)
    assert server.lines == ["CAPABILITY"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("expired", "certificate has expired"),
        ("wrong_host", "not valid for '127.0.0.1'"),
        ("self_signed", "self-signed|unknown CA"),
        ("stranger", "unknown CA|private CA"),
    ],
)
@pytest.mark.parametrize("security", ["tls", "starttls"])
async def test_a_bad_certificate_gets_no_password(
    name: str, message: str, security: str, certificates: Certificates
) -> None:
    """Whichever way TLS came about."""
    context = context_of(getattr(certificates, name))
    script = Script(implicit=context) if security == "tls" else Script(starttls=context)
    async with serving(script) as server:
        with pytest.raises(ImapError, match=message) as error:
            await connect(secured(server, certificates, security), user="u", secret="p")
    assert error.value.stage is Stage.TLS
    assert not any("AUTHENTICATE" in line or "LOGIN" in line for line in server.lines)


@pytest.mark.parametrize("security", ["tls", "starttls"])
async def test_the_certificate_may_be_for_another_name_if_we_say_so(security: str, certificates: Certificates) -> None:
    """server_name, for a server that is known by an address only."""
    context = context_of(certificates.wrong_host)
    script = Script(implicit=context) if security == "tls" else Script(starttls=context)
    async with serving(script) as server:
        account = secured(server, certificates, security)
        named = replace(account, tls=replace(account.tls, server_name="elsewhere.test"))
        await (await connect(named, user="u", secret="p")).close()


@pytest.mark.parametrize("security", ["tls", "starttls"])
async def test_a_pin_decides_alone(security: str, certificates: Certificates) -> None:
    """The right one lets a self-signed certificate pass, a wrong one nothing, and it says which it saw."""
    der = ssl.PEM_cert_to_DER_cert(certificates.self_signed.certificate.read_text())
    right = hashlib.sha256(der).hexdigest()
    context = context_of(certificates.self_signed)
    script = Script(implicit=context) if security == "tls" else Script(starttls=context)
    async with serving(script) as server:
        account = Account(server.port, security=security, auth="password")
        with pytest.raises(ImapError, match=f"tls: .*not the pinned one; its fingerprint is {right}"):
            await connect(replace(account, tls=Tls(fingerprint="0" * 64)), user="u", secret="p")
        await (await connect(replace(account, tls=Tls(fingerprint=right)), user="u", secret="p")).close()


async def test_the_wrong_port_is_named(certificates: Certificates) -> None:
    """TLS where plain text is spoken, and the other way round: the error says which key to change."""
    async with serving(Script()) as server:
        with pytest.raises(ImapError, match='tls: this port speaks plain text: set security = "starttls"'):
            await connect(secured(server, certificates, "tls"), user="u", secret="p")
    async with serving(Script(implicit=context_of(certificates.good))) as server:
        account = replace(secured(server, certificates, "starttls"), command_timeout=SHORT)
        with pytest.raises(ImapError, match=r'greeting: no greeting within .* security = "tls"'):
            await connect(account, user="u", secret="p")


async def test_a_tls_handshake_has_a_deadline(certificates: Certificates) -> None:
    """A port that accepts and keeps silent is given up in time, before and after STARTTLS."""
    async with serving(Script({"GREETING": [scripted_imap.silence]})) as server:
        account = replace(secured(server, certificates), connect_timeout=SHORT)
        with pytest.raises(ImapError, match="tls: no TLS handshake within"):
            await connect(account, user="u", secret="p")
    script = Script({"STARTTLS": [says("<tag> OK begin")]}, starttls=context_of(certificates.good))
    async with serving(script) as server:
        account = replace(secured(server, certificates, "starttls"), command_timeout=SHORT)
        with pytest.raises(ImapError, match=r"tls: no TLS handshake within .* after STARTTLS"):
            await connect(account, user="u", secret="p")


async def test_who_cannot_be_reached_is_named(free_port: Callable[[], int]) -> None:
    """Nobody listens, there is no such host, or the ca_file is missing: each is said at its stage."""
    with pytest.raises(ImapError, match=r"connect: 127\.0\.0\.1\[127\.0\.0\.1\]:\d+: connection refused"):
        await connect(Account(free_port()))
    with pytest.raises(ImapError, match=r"connect: host name 'x\.invalid' cannot be resolved"):
        await connect(Account(143, host="x.invalid"))
    with pytest.raises(ImapError, match="tls: ca_file '/nowhere' cannot be used"):
        await connect(Account(143, security="tls", tls=Tls(ca_file="/nowhere")))


GREETINGS: dict[str, tuple[str | Fault, str]] = {
    "BYE": ("* BYE [UNAVAILABLE] too many of you\x07", r"goodbye: \[UNAVAILABLE\] too many of you\\x07"),
    "NO": ("* NO what", "no greeting"),
    "tagged": ("A1 OK hello", "no greeting"),
    "other protocol": ("220 smtp.example.com ESMTP", "no greeting|no answer"),
    "close": (scripted_imap.hang_up, "the server closed the connection"),
    "reset": (scripted_imap.reset, "the server closed the connection|reset"),
    "silence": (scripted_imap.silence, "no greeting within"),
    "drip": (scripted_imap.drip, "no greeting within"),
    "endless line": (scripted_imap.endless_line, "a line of more than"),
    "junk": (scripted_imap.junk, r"no answer: '\\x00\\xff\\x1b"),
}


@pytest.mark.parametrize(("fault", "message"), GREETINGS.values(), ids=GREETINGS.keys())
async def test_a_greeting_that_is_none_ends_at_once(fault: str | Fault, message: str) -> None:
    """Each with its reason, none with a task, a socket or a waiter left."""
    begin = time.monotonic()
    async with serving(Script({"GREETING": [fault]})) as server:
        with pytest.raises(ImapError, match=message) as error:
            await connect(Account(server.port, command_timeout=patience(fault)))
    assert error.value.stage is Stage.GREETING
    assert time.monotonic() - begin < LONG - 1


@pytest.mark.parametrize("security", ["tls", "starttls"])
@pytest.mark.parametrize("verb", ["GREETING", "CAPABILITY", "STARTTLS", "AUTHENTICATE"])
async def test_a_cancelled_opening_leaves_nothing_open(verb: str, security: str, certificates: Certificates) -> None:
    """At whichever step: the server sees the connection end."""
    reached, ended = asyncio.Event(), asyncio.Event()

    async def wait(conversation: Conversation) -> None:
        if verb == "STARTTLS":
            await conversation.say("<tag> OK begin")  # and then no handshake
        reached.set()
        try:
            await scripted_imap.silence(conversation)
        finally:
            ended.set()

    context = context_of(certificates.good)
    script = Script({verb: [wait]}, implicit=context) if security == "tls" else Script({verb: [wait]}, starttls=context)
    if (verb, security) == ("STARTTLS", "tls"):  # here it is the handshake at once that does not come
        script = Script({"GREETING": [wait]})
    async with serving(script) as server:
        opening = asyncio.create_task(connect(secured(server, certificates, security), user="u", secret="p"))
        await reached.wait()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        async with asyncio.timeout(LONG):
            await ended.wait()


async def test_every_opening_ends() -> None:
    """Its longest time counts every wait of every way."""
    account = Account(None, security="auto", auth="password", connect_timeout=1, command_timeout=2)
    assert longest_opening(account) == 5 + (1 + 4 * 2) + (1 + 7 * 2)
    assert longest_opening(replace(account, security="tls")) == 5 + (1 + 4 * 2)


class Memory:
    """`Remembered`, in memory."""

    def __init__(self, best: tuple[str, int] | None = None) -> None:
        self.known = best

    def best(self) -> tuple[str, int] | None:
        return self.known

    def saw(self, level: str, port: int) -> None:
        self.known = level, port


async def test_auto_takes_the_safest_way_and_remembers_it(certificates: Certificates) -> None:
    """TLS where it is, STARTTLS where it is not, and never less than was seen before."""
    memory: Remembered = Memory()
    async with serving(Script(starttls=context_of(certificates.good))) as server:
        account = secured(server, certificates, "auto")
        session = await connect(account, user="u", secret="p", remembered=memory)
        assert session.tls
        await session.close()
        assert memory.best() == ("starttls", server.port)
        with pytest.raises(ImapError, match="less than tls is refused"):
            await connect(account, user="u", secret="p", remembered=Memory(("tls", server.port)))
    async with serving(Script(implicit=context_of(certificates.good))) as server:
        account = secured(server, certificates, "auto")
        await (await connect(account, user="u", secret="p", remembered=memory)).close()
        assert memory.best() == ("tls", server.port)


async def test_auto_never_does_without_tls_and_tries_no_password_twice(certificates: Certificates) -> None:
    """A server that refuses the login has the last word."""
    async with serving(Script()) as server:
        with pytest.raises(ImapError, match=r"tls on port .*; starttls on port .*offers no STARTTLS"):
            await connect(secured(server, certificates, "auto"), user="u", secret="p")
    for fault in ("<tag> NO no", "* BYE go", scripted_imap.hang_up):
        script = Script({"AUTHENTICATE": [fault]}, implicit=context_of(certificates.good))
        async with serving(script) as server:
            with pytest.raises(ImapError) as error:
                await connect(secured(server, certificates, "auto"), user="u", secret="p")
            assert error.value.stage is Stage.LOGIN
            assert "starttls on port" not in error.value.text


# Whatever goes wrong at whichever command

STEPS: dict[str, Callable[[Session], Awaitable[object]]] = {
    "SELECT": lambda session: session.select("INBOX"),
    "EXAMINE": lambda session: session.select("INBOX", read_only=True),
    "LIST": lambda session: session.folders(),
    "CREATE": lambda session: session.create("New"),
    "UID SEARCH": lambda session: session.search(),
    "UID FETCH": lambda session: read(session, 5, size=70),
    "UID STORE": lambda session: session.delete([5]),
    "UID EXPUNGE": lambda session: session.delete([5]),
    "UID MOVE": lambda session: session.move([5], "Done"),
    "NOOP": lambda session: session.noop(),
    "IDLE": lambda session: session.idle(SystemClock(), asyncio.Event(), LONG),
}
OTHER = "other UIDVALIDITY"  # in the answer to SELECT it is none
FAULTS: dict[str, tuple[str | Fault, str]] = {
    "BYE": (last_words("* BYE [UNAVAILABLE] maintenance"), r"goodbye: \[UNAVAILABLE\] maintenance"),
    "BYE and open": (says("* BYE leaving"), "goodbye: leaving"),
    "close": (scripted_imap.hang_up, "the server closed the connection"),
    "reset": (scripted_imap.reset, "the server closed the connection"),
    "half an answer": (last_words(b"* 1 FET"), "the server closed the connection"),
    "cut literal": (last_words(b"* 1 FETCH (UID 5 BODY[]<0> {50}\r\nabc"), "closed the connection"),
    "silence": (scripted_imap.silence, "no answer to .* within"),
    "drip": (scripted_imap.drip, "no answer to .* within"),
    "junk": (scripted_imap.junk, r"no answer: '\\x00\\xff\\x1b"),
    "wrong tag": (says("ZZZ9 OK done"), "answered what was not asked: 'ZZZ9"),
    "no status": (says("<tag> MAYBE done"), "answered what was not asked"),
    "empty line": (says(""), "what is no answer"),
    "PREAUTH": (says("* PREAUTH you are somebody else"), "PREAUTH in the middle"),
    "endless line": (scripted_imap.endless_line, "a line of more than"),
    "endless lines": (scripted_imap.endless_lines, "answered with more than"),
    "huge literal": (scripted_imap.huge_literal, "announced 99999999999 octets"),
    "short literal": (scripted_imap.short_literal, "no answer to .* within|announced|parenthes"),
    OTHER: (says("* OK [UIDVALIDITY 8] surprise"), "another UIDVALIDITY while it was open"),
}


MISHAPS = [
    (verb, name) for verb in STEPS for name in FAULTS if (verb, name) not in {("SELECT", OTHER), ("EXAMINE", OTHER)}
]


@pytest.mark.parametrize(("verb", "name"), MISHAPS)
async def test_whatever_goes_wrong_ends_the_connection_with_its_reason(verb: str, name: str) -> None:
    """One ImapError, at once or at the deadline, and nothing is said over this connection ever after."""
    fault, message = FAULTS[name]
    script = Script({verb: ["<tag> OK fine", fault] if verb == "SELECT" else [fault]}, mails=dict(MAILS))
    if verb == "SELECT":
        script.answers = {verb: ["* OK [UIDVALIDITY 7] x\r\n<tag> OK [READ-WRITE] fine", fault]}
    begin = time.monotonic()
    async with opened(script, seconds=patience(fault)) as (session, server):
        with pytest.raises(ImapError, match=message) as error:
            await STEPS[verb](session)
        assert not isinstance(error.value, Refused)
        assert session.trouble
        said = len(server.lines)
        with pytest.raises(ImapError, match=message):
            await session.noop()
        await session.close()
        assert len(server.lines) == said
    assert time.monotonic() - begin < LONG - 1


OPENING = {"CAPABILITY": "tls", "STARTTLS": "starttls", "AUTHENTICATE": "tls", "LOGIN": "tls"}


@pytest.mark.parametrize("name", [*(name for name in FAULTS if name != OTHER), "NO", "BAD"])
@pytest.mark.parametrize("verb", OPENING)
async def test_whatever_goes_wrong_before_the_session_leaves_nothing(
    verb: str, name: str, certificates: Certificates
) -> None:
    """The same on the way there, and the password is said at most once."""
    fault, message = FAULTS.get(name, (f"<tag> {name} [X] never", r"\[X\] never"))
    context = context_of(certificates.good)
    capability = "IMAP4rev1" if verb == "LOGIN" else scripted_imap.BEFORE_LOGIN
    script = Script({verb: [fault]}, capability=capability)
    script.implicit, script.starttls = (None, context) if OPENING[verb] == "starttls" else (context, None)
    begin = time.monotonic()
    async with serving(script) as server:
        account = replace(secured(server, certificates, OPENING[verb]), command_timeout=patience(fault))
        with pytest.raises(ImapError, match=message) as error:
            await connect(account, user="u", secret="password")
        assert isinstance(error.value, Refused) == (name in ("NO", "BAD"))
        assert error.value.stage is (Stage.LOGIN if verb in ("AUTHENTICATE", "LOGIN") else Stage(verb.lower()))
        await until(lambda: server.open == 0)
        assert sum("LOGIN" in line or "AUTH" in line for line in server.lines) == (verb in ("AUTHENTICATE", "LOGIN"))
    assert time.monotonic() - begin < LONG - 1


@pytest.mark.parametrize("answer", ["NO", "BAD"])
@pytest.mark.parametrize("verb", STEPS)
async def test_a_refusal_leaves_the_connection_as_it_is(verb: str, answer: str) -> None:
    """The error has the server's words and code, and the next command works."""
    said = f"<tag> {answer} [CANNOT] not {{5}} today\x1b"
    usual = "* OK [UIDVALIDITY 7] x\r\n<tag> OK [READ-WRITE] fine"
    script = Script({verb: [usual, said] if verb == "SELECT" else [said, "<tag> OK"]}, mails=dict(MAILS))
    async with opened(script) as (session, _):
        if verb == "IDLE":
            assert not await session.idle(SystemClock(), asyncio.Event(), 0.01)
        else:
            with pytest.raises(Refused) as refused:
                await STEPS[verb](session)
            assert (refused.value.code, refused.value.text) == ("CANNOT", "not {5} today\\x1b")
        assert not await session.noop()


async def test_a_cancelled_command_ends_the_connection() -> None:
    """The late answer would be taken for the next command's."""
    async with opened(Script({"NOOP": [scripted_imap.silence]})) as (session, server):
        asking = asyncio.create_task(session.noop())
        while "NOOP" not in server.lines:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert session.trouble == "given up"


async def test_two_commands_at_once_wait_for_each_other() -> None:
    """The server never sees a second before it answered the first, and the answers are not confused."""
    script = Script({"NOOP": ["<tag> OK no"]}, mails=dict(MAILS))
    async with opened(script) as (session, server):
        found, nothing, again = await asyncio.gather(session.search(), session.noop(), session.search(first=6))
        assert (found, nothing, again) == ([3, 5, 9], False, [9])
        assert server.lines[-3:] == ["UID SEARCH UID 1:*", "NOOP", "UID SEARCH UID 6:*"]


async def test_a_block_left_by_an_exception_drops_the_connection() -> None:
    """No LOGOUT: who knows what was under way."""
    async with serving(Script(preauth=True)) as server:
        with pytest.raises(ZeroDivisionError):
            async with await connect(Account(server.port)):
                raise ZeroDivisionError
        assert server.lines == ["CAPABILITY"]


async def test_a_server_that_does_not_answer_logout_is_left() -> None:
    """The polite end is short, and raises nothing."""
    for fault in (scripted_imap.hang_up, last_words("* BYE and gone"), says("* 5 EXPUNGE\r\nnonsense\r\n")):
        async with opened(Script({"LOGOUT": [fault]})) as (session, _):
            await session.close()
            await session.close()


async def test_what_the_library_would_log_is_not_logged(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """Its debug lines hold tokens, passwords and mails."""
    caplog.set_level(logging.DEBUG)
    logging.getLogger("aioimaplib").setLevel(logging.DEBUG)
    script = Script(mails=dict(MAILS), implicit=context_of(certificates.good))
    async with serving(script) as server:
        session = await connect(secured(server, certificates), user="u", secret="hunter2")
        await session.select("INBOX")
        await read(session, 5, size=70)
        await session.close()
    assert [record.name for record in caplog.records if "aioimaplib" in record.name] == []


async def test_the_trace_holds_no_secret_and_no_mail(certificates: Certificates) -> None:
    """Only what comes after the login, and of literals only that they were there."""
    heard: list[tuple[str, bytes]] = []
    script = Script(mails=dict(MAILS), implicit=context_of(certificates.good))
    async with serving(script) as server:
        session = await connect(secured(server, certificates), user="u", secret="hunter2")
        session.traced(lambda direction, said: heard.append((direction, said)))
        await session.select("INBOX")
        await read(session, 5, size=70)
        await session.close()
    whole = b"".join(said for _, said in heard)
    assert b"UID FETCH 5 (UID BODY.PEEK[]<0.262144>)\r\n" in whole
    assert b"FETCH (UID 5 BODY[]<0> {...})\r\n" in whole
    assert b"example.com" not in whole
    assert b"hunter2" not in whole


# Folders


async def test_a_missing_folder_names_those_that_there_are() -> None:
    """In readable names, whatever the server calls them; those that cannot hold mail are left out."""
    listed = (
        '* LIST (\\HasNoChildren) "/" "Genehmigungen &AOQ-"\r\n* LIST () NIL inbox\r\n* LIST () "/" {6}\r\na"b\\c]'
        '\r\n* LIST (\\Noselect) "/" Public\r\n* list (\\noSelect) "/" Other\r\n* LIST () "/" "a\\"b"\r\n'
        "* 4 EXISTS\r\n<tag> OK done"
    )
    script = Script({"SELECT": ["<tag> NO Mailbox doesn't exist"], "LIST": [listed]})
    async with connected(script) as (session, server):
        with pytest.raises(NoSuchFolder) as error:
            await session.select("Erledigt ü")
        assert error.value.folders == ("Genehmigungen ä", 'a"b', 'a"b\\c]', "inbox")
        there = "there is no folder 'Erledigt ü', but Genehmigungen ä, a\"b, a\"b\\c], inbox"
        assert error.value.text == there
        assert server.lines[-2:] == ['SELECT "Erledigt &APw-"', 'LIST "" "*"']
        with pytest.raises(Refused) as refused:
            await session.select("INBOX")
        assert not isinstance(refused.value, NoSuchFolder)


async def test_after_a_refused_select_no_folder_is_open() -> None:
    """What comes then cannot reach the folder before."""
    usual = "* OK [UIDVALIDITY 7] x\r\n<tag> OK fine"
    async with opened(Script({"SELECT": [usual, "<tag> NO no"]})) as (session, server):
        with pytest.raises(Refused):
            await session.select("Other")
        with pytest.raises(ImapError, match="illegal in state"):
            await session.delete([1])
        assert not any("STORE" in line for line in server.lines)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("* 3 EXISTS\r\n<tag> OK open", "has no UIDVALIDITY"),
        ("* OK [UIDVALIDITY 0] x\r\n<tag> OK open", "has no UIDVALIDITY"),
        ("* OK [UIDVALIDITY 4294967296] x\r\n<tag> OK open", "has no UIDVALIDITY"),
        ("* OK [UIDVALIDITY seven] x\r\n<tag> OK open", "has no UIDVALIDITY"),
        ("* OK [UIDVALIDITY 7] x\r\n* NO [UIDNOTSTICKY] x\r\n<tag> OK open", "do not last"),
    ],
)
async def test_a_folder_without_lasting_uids_is_not_used(answer: str, message: str) -> None:
    """A decision could be recorded for another mail."""
    async with connected(Script({"SELECT": [answer]})) as (session, _):
        with pytest.raises(ImapError, match=message):
            await session.select("INBOX")


async def test_what_a_folder_says_of_itself() -> None:
    """UIDNEXT may be missing, and a folder may be readable only, as asked or not."""
    plain = "* OK [UIDVALIDITY 9] x\r\n* 5 EXISTS\r\n<tag> OK"
    script = Script({"SELECT": [plain, plain + " [READ-ONLY] open"]}, mails=dict(MAILS))
    async with connected(script) as (session, server):
        assert await session.select("A") == Mailbox("A", 9, None, 5, read_only=False)
        assert await session.select("A") == Mailbox("A", 9, None, 5, read_only=True)
        assert await session.select("A", read_only=True) == Mailbox("A", 7, 1000, 3, read_only=True)
        assert server.lines[-1] == 'EXAMINE "A"'


@pytest.mark.parametrize("name", ["", "\ud800"])
async def test_what_is_no_name_of_a_folder_is_not_sent(name: str) -> None:
    """A Refused, and the session goes on."""
    async with opened(Script()) as (session, server):
        for act in (session.select(name), session.create(name), session.move([1], name)):
            with pytest.raises(Refused, match="cannot be the name of a folder"):
                await act
        assert server.lines[1:] == ['SELECT "INBOX"']


async def test_no_name_of_a_folder_is_a_command() -> None:
    """Line ends, quotes and braces stay inside the name."""
    async with opened(Script()) as (session, server):
        await session.create('a"\r\nX EXPUNGE\r\n{5} \\&')
        assert server.lines[-1] == 'CREATE "a\\"&AA0ACg-X EXPUNGE&AA0ACg-{5} \\\\&-"'


# Search


async def test_a_search_asks_by_uid_and_day() -> None:
    """n:* holds the last mail also where its UID is smaller: that one is left out."""
    async with opened(Script(mails=dict(MAILS))) as (session, server):
        days = {"since": datetime.date(2026, 1, 2), "before": datetime.date(2026, 12, 31)}
        assert await session.search(first=10, **days) == []
        assert server.lines[-1] == "UID SEARCH UID 10:* SINCE 2-Jan-2026 BEFORE 31-Dec-2026"
        assert await session.search(first=0) == [3, 5, 9]
        assert await session.search(first=2**32) == []
        assert server.lines[-1] == "UID SEARCH UID 1:*"


async def test_a_long_answer_neither_blocks_nor_recurses() -> None:
    """200,000 UIDs in several lines, out of order and twice, with news of other mails in between."""
    one = " ".join(str(uid) for uid in range(200_000, 0, -1))
    noise = "* 1 FETCH (FLAGS (\\Seen))\r\n* SEARCH\r\n" * 3000
    script = Script({"UID SEARCH": [f"* SEARCH {one}\r\n{noise}* SEARCH 7 7 200001\r\n<tag> OK done"]})
    async with opened(script) as (session, _):
        begin = time.monotonic()
        assert await session.search() == list(range(1, 200_002))
        assert time.monotonic() - begin < LONG


@pytest.mark.parametrize("word", ["0", "4294967296", "x", "-1", "1:5", "٣"])
async def test_what_is_no_uid_ends_the_search(word: str) -> None:
    """A wrong number could name another mail."""
    async with opened(Script({"UID SEARCH": [f"* SEARCH 1 {word}\r\n<tag> OK done"]})) as (session, _):
        with pytest.raises(ImapError, match="search: the server found what is no UID"):
            await session.search()
        assert session.trouble


# Fetch


async def test_a_thousand_summaries_come_in_portions() -> None:
    """In order, without a line that is too long for a server."""
    script = Script(mails={uid: mail(uid) for uid in range(1, 1001)})
    async with opened(script) as (session, server):
        assert [summary.uid for summary in await described(session, *range(1000, 0, -1), 5)] == list(range(1, 1001))
        fetches = [line for line in server.lines if "FETCH" in line]
        assert len(fetches) == 20
        assert max(map(len, fetches)) < 1000
        items = "(UID RFC822.SIZE INTERNALDATE FLAGS BODY.PEEK[HEADER.FIELDS (FROM MESSAGE-ID)]<0.16384>)"
        assert all(line.endswith(items) for line in fetches)


async def test_a_summary_is_put_together_from_whatever_comes() -> None:
    """In several responses, other order, other case, with other mails' news; text that looks like IMAP stays text."""
    section = "BODY[HEADER.FIELDS (FROM)]<0>"
    header = "Subject: ) (open * paren\r\n* 1 FETCH {99}\r\nA1 OK x\r\n\r\n"
    answer = (
        "* 1 FETCH (FLAGS (\\Seen))\r\n"
        f'* 2 fetch (FLAGS (\\Answered "odd flag") internaldate " 1-Feb-2026 00:00:00 +0100" UID 5)\r\n'
        f"* 2 FETCH (UID 5 {section} {{{len(header)}}}\r\n{header} RFC822.SIZE 12)\r\n"
        f"* 3 FETCH (UID 8 RFC822.SIZE 1)\r\n* 2 EXPUNGE\r\n* OK [ALERT] hi {{7}}\r\n<tag> OK done {{3}}"
    )
    async with opened(Script({"UID FETCH": [answer]})) as (session, _):
        moment = datetime.datetime(2026, 1, 31, 23, tzinfo=datetime.UTC)
        flags = frozenset({"\\Answered", "odd flag"})
        assert await described(session, 5, 6) == [Summary(5, 12, moment, flags, header.encode())]


@pytest.mark.parametrize(
    "items",
    [
        'UID 5 INTERNALDATE "1-Feb-2026 00:00:00 +0100" FLAGS () BODY[HEADER.FIELDS (FROM)]<0> "x"',
        'UID 5 RFC822.SIZE NIL INTERNALDATE "1-Feb-2026 00:00:00 +0100" FLAGS () BODY[HEADER.FIELDS (FROM)]<0> "x"',
        'UID 5 RFC822.SIZE 5 INTERNALDATE "31-Feb-2026 00:00:00 +0100" FLAGS () BODY[HEADER.FIELDS (FROM)]<0> "x"',
        'UID 5 RFC822.SIZE 5 INTERNALDATE "1-Feb-2026 00:00:00 +0100" FLAGS NIL BODY[HEADER.FIELDS (FROM)]<0> "x"',
        'UID 5 RFC822.SIZE 5 INTERNALDATE "1-Feb-2026 00:00:00 +0100" FLAGS () BODY[HEADER.FIELDS (FROM)]<0> NIL',
        'RFC822.SIZE 5 INTERNALDATE "1-Feb-2026 00:00:00 +0100" FLAGS () BODY[HEADER.FIELDS (FROM)]<0> "x"',
    ],
)
async def test_a_mail_that_is_not_described_completely_is_left_out(items: str) -> None:
    """It does not hide the others, and nothing about it is guessed."""
    whole = 'UID 6 RFC822.SIZE 5 INTERNALDATE "1-Feb-2026 00:00:00 +0100" FLAGS () BODY[HEADER.FIELDS (FROM)]<0> "x"'
    script = Script({"UID FETCH": [f"* 1 FETCH ({items})\r\n* 2 FETCH ({whole})\r\n<tag> OK done"]})
    async with opened(script) as (session, _):
        assert [summary.uid for summary in await described(session, 5, 6)] == [6]
        assert not session.trouble


async def test_a_mail_that_the_server_refuses_to_describe_does_not_hide_the_others() -> None:
    """They are asked for one by one then; where it refuses all of them, that is an error."""
    whole = 'RFC822.SIZE 5 INTERNALDATE "1-Feb-2026 00:00:00 +0100" FLAGS () BODY[HEADER.FIELDS (FROM)]<0> "x"'
    no = "<tag> NO [SERVERBUG] damaged"
    script = Script({"UID FETCH": [no, f"* 1 FETCH (UID 5 {whole})\r\n<tag> OK done", no]})
    async with opened(script) as (session, _):
        assert [summary.uid for summary in await described(session, 5, 6, 7)] == [5]
        with pytest.raises(Refused, match="SERVERBUG"):
            await described(session, 6, 7)


async def test_a_mail_that_makes_the_server_fail_can_be_singled_out() -> None:
    """One at a time, the first without a summary is the one."""

    async def fail(conversation: Conversation) -> None:
        if "6" in conversation.lines[-1].split(" ")[2].split(","):
            raise scripted_imap.Gone
        await conversation.fetch([5], conversation.lines[-1])

    async with opened(Script({"UID FETCH": [fail]}, mails=dict(MAILS))) as (session, _):
        with pytest.raises(ImapError):
            await anext(session.summaries([5, 6, 7], FIELDS))
    async with opened(Script({"UID FETCH": [fail]}, mails=dict(MAILS))) as (session, _):
        found = []
        with pytest.raises(ImapError):
            async for summary in session.summaries([5, 6, 7], FIELDS, at_a_time=1):
                found.append(summary.uid)  # noqa: PERF401 - what came before the error counts
        assert found == [5]


@pytest.mark.parametrize(
    "answer",
    [
        "* 1 FETCH (UID 5 FLAGS (\\Seen)",
        "* 1 FETCH (UID 5 FLAGS (\\Seen)))",
        "* 1 FETCH UID 5",
        "* 1 FETCH (UID)",
        '* 1 FETCH (UID 5 X "never closed)',
        f"* 1 FETCH {'(' * 50}UID 5{')' * 50}",
        "* 1 FETCH ((UID) 5)",
    ],
)
async def test_a_fetch_that_cannot_be_parsed_ends_the_connection(answer: str) -> None:
    """What it would have meant is not guessed."""
    async with opened(Script({"UID FETCH": [f"{answer}\r\n<tag> OK done"]})) as (session, _):
        with pytest.raises(ImapError, match="fetch: the server"):
            await described(session, 5)
        assert session.trouble


@pytest.mark.parametrize("size", [1, imap.CHUNK - 1, imap.CHUNK, imap.CHUNK + 1, 3 * imap.CHUNK + 5])
@pytest.mark.parametrize("error", [0, -200_000, 200_000])
async def test_a_mail_is_read_whole_whatever_its_size_was_said_to_be(size: int, error: int) -> None:
    """In bounded pieces; the server's RFC822.SIZE may be wrong either way (Exchange)."""
    whole = bytes(index % 251 for index in range(size))
    async with opened(Script(mails={5: whole})) as (session, server):
        pieces = [piece async for piece in session.message(5, size=max(size + error, 1), limit=1 << 30)]
        assert b"".join(pieces) == whole
        assert max(map(len, pieces)) <= imap.CHUNK
        assert all("PEEK" in line for line in server.lines if "FETCH" in line)


async def test_a_server_that_gives_less_than_asked_is_asked_again() -> None:
    """As long as the mail has not reached its size, a short piece is no end."""
    whole = bytes(index % 251 for index in range(5000))

    async def little(conversation: Conversation) -> None:
        await conversation.fetch([5], re.sub(r"(<\d+)\.\d+>", r"\1.1500>", conversation.lines[-1]))

    async with opened(Script({"UID FETCH": [little]}, mails={5: whole})) as (session, _):
        assert await read(session, 5, size=5000) == whole


async def test_no_more_of_a_mail_is_asked_for_than_wanted() -> None:
    """The limit holds for what travels, not only for what is kept."""
    async with opened(Script(mails={5: b"x" * (2 * imap.CHUNK)})) as (session, server):
        assert len(await read(session, 5, size=2 * imap.CHUNK, limit=imap.CHUNK + 10)) == imap.CHUNK + 10
        assert server.lines[-1] == f"UID FETCH 5 (UID BODY.PEEK[]<{imap.CHUNK}.10>)"
        assert await read(session, 5, size=2 * imap.CHUNK, limit=0) == b""


@pytest.mark.parametrize(
    "answer",
    [
        "<tag> OK nothing",
        "* 1 FETCH (UID 5 BODY[]<0> NIL)\r\n<tag> OK done",
        "* 1 FETCH (UID 6 BODY[]<0> {3}\r\nabc)\r\n<tag> OK done",
        "* 1 FETCH (BODY[]<0> {3}\r\nabc)\r\n<tag> OK done",
        "* 1 FETCH (UID 5 BODY[]<9> {3}\r\nabc)\r\n<tag> OK done",
        "* 1 FETCH (UID 5 BODY[TEXT]<0> {3}\r\nabc)\r\n<tag> OK done",
        '* 1 FETCH (UID 5 BODY[]<0> "")\r\n<tag> OK done',
    ],
)
async def test_a_mail_without_text_is_never_an_empty_mail(answer: str) -> None:
    """Removed by somebody, unreadable for the server, or another's: nothing is archived, so nothing is removed."""
    async with opened(Script({"UID FETCH": [answer]})) as (session, _):
        with pytest.raises(MailMissing, match="no text for the mail with UID 5"):
            await read(session, 5, size=3)
        assert not await session.noop()


async def test_a_mail_that_vanishes_in_the_middle_is_not_taken_for_a_short_one() -> None:
    """The second piece is missing: an error, not an end."""
    first = f"* 1 FETCH (UID 5 BODY[]<0> {{{imap.CHUNK}}}\r\n{'x' * imap.CHUNK})\r\n<tag> OK done"
    async with opened(Script({"UID FETCH": [first, "<tag> OK nothing"]})) as (session, _):
        with pytest.raises(MailMissing):
            await read(session, 5, size=2 * imap.CHUNK)


async def test_a_server_that_sends_more_than_asked_is_left() -> None:
    """A piece is what was asked for, or less."""
    answer = "* 1 FETCH (UID 5 BODY[]<0> {20}\r\n" + "x" * 20 + ")\r\n<tag> OK done"
    async with opened(Script({"UID FETCH": [answer]})) as (session, _):
        with pytest.raises(ImapError, match="20 octets of a mail, asked for 10"):
            await read(session, 5, size=100, limit=10)


async def test_headers_too_long_are_cut_by_the_server() -> None:
    """One mail with an endless header costs no more than others."""
    script = Script(mails={5: b"From: " + b"x" * 100_000 + b"\r\n\r\n"})
    async with opened(script) as (session, _):
        (summary,) = await described(session, 5, header=100)
        assert summary.header == script.mails[5][:100]


# Removing


async def test_mails_are_removed_by_uid_only() -> None:
    """UIDPLUS: marked and removed, these and no others; never a plain EXPUNGE. What is left is told."""
    searched: list[str | Fault] = ["* SEARCH\r\n<tag> OK found", "* SEARCH 3\r\n<tag> OK found"]
    async with opened(Script({"UID SEARCH": searched})) as (session, server):
        assert await session.delete([9, 3, 3]) == []
        removed = ["UID STORE 3,9 +FLAGS.SILENT (\\Deleted)", "UID EXPUNGE 3,9", "UID SEARCH UID 3,9"]
        assert server.lines[-3:] == removed
        assert await session.delete([9, 3]) == [3]


async def test_nothing_is_removed_from_a_folder_open_for_reading() -> None:
    """As asked, or because the server allows no more: some servers would say OK and do nothing."""
    script = Script({"SELECT": ["* OK [UIDVALIDITY 7] x\r\n<tag> OK [READ-ONLY] look"]}, mails=dict(MAILS))
    async with connected(script) as (session, server):
        for opening in (session.select("INBOX"), session.select("INBOX", read_only=True)):
            assert (await opening).read_only
            for act in (session.delete([3]), session.move([3], "Done")):
                with pytest.raises(Refused, match="open for reading only"):
                    await act
        assert not any("STORE" in line or "MOVE" in line for line in server.lines)


async def test_without_uidplus_mails_are_only_marked() -> None:
    """A plain EXPUNGE would take along what others have marked."""
    async with opened(Script(after_login="IMAP4rev1 MOVE")) as (session, server):
        assert await session.delete([4, 3]) == [3, 4]
        assert session.can_move
        assert server.lines[-1] == "UID STORE 3,4 +FLAGS.SILENT (\\Deleted)"
        assert not any("EXPUNGE" in line for line in server.lines)


async def test_moving_without_move_is_copying_and_removing() -> None:
    """In this order, so that a mail is twice rather than nowhere; with neither extension it is refused."""
    async with opened(Script(after_login="IMAP4rev1 UIDPLUS")) as (session, server):
        await session.move([3, 4], "Döne")
        copied = ['UID COPY 3,4 "D&APY-ne"', "UID STORE 3,4 +FLAGS.SILENT (\\Deleted)", "UID EXPUNGE 3,4"]
        assert server.lines[-4:-1] == copied
    async with opened(Script(after_login="IMAP4rev1")) as (session, server):
        with pytest.raises(Refused, match="can neither move"):
            await session.move([3], "Done")
        assert not session.can_move
        assert server.lines[-1] == 'SELECT "INBOX"'


async def test_a_copy_that_fails_removes_nothing() -> None:
    """The folder is missing, say."""
    script = Script({"UID COPY": ["<tag> NO [TRYCREATE] where?"]}, after_login="IMAP4rev1 UIDPLUS")
    async with opened(script) as (session, server):
        with pytest.raises(Refused) as refused:
            await session.move([3], "Done")
        assert refused.value.code == "TRYCREATE"
        assert server.lines[-1] == 'UID COPY 3 "Done"'


@pytest.mark.parametrize("uids", [[0], [-1], [2**32], [1, 0]])
async def test_only_uids_go_into_a_command(uids: list[int]) -> None:
    """Anything else is the caller's mistake, and nothing is sent."""
    async with opened(Script()) as (session, server):
        with pytest.raises(ValueError, match="UIDs are numbers"):
            await session.delete(uids)
        assert server.lines[-1] == 'SELECT "INBOX"'
    with pytest.raises(ValueError, match="no header field names"):
        await anext(session.summaries([1], ["From)] BODY["]))


# Waiting


async def test_new_mail_ends_the_idle() -> None:
    """The hint lasts until somebody searches."""

    async def news(conversation: Conversation) -> None:
        await conversation.say("+ idling\r\n* OK Still here\r\n* 2 FETCH (FLAGS ())\r\n* 3 EXISTS\r\n* 4 EXISTS")

    clock = ManualClock()
    async with opened(Script({"IDLE": [news]}, mails=dict(MAILS))) as (session, server):
        assert await session.idle(clock, asyncio.Event(), 300)
        assert server.lines[-2:] == ["IDLE", "DONE"]
        assert await session.idle(clock, asyncio.Event(), 300)
        assert await session.noop()
        assert server.lines[-1] == "NOOP"
        await session.search()
        assert not await session.noop()


async def test_mail_that_came_before_the_idle_ends_it_too() -> None:
    """The server has told it in another answer and will not tell it again."""
    script = Script({"UID STORE": ["* 4 EXISTS\r\n<tag> OK stored"]}, mails=dict(MAILS))
    async with opened(script) as (session, server):
        await session.search()
        await session.delete([3])
        assert await session.idle(ManualClock(), asyncio.Event(), 300)
        assert "IDLE" not in server.lines


async def test_mail_that_replaces_a_removed_one_is_new() -> None:
    """Three, one is removed, one comes: three again."""
    script = Script({"UID EXPUNGE": ["* 1 EXPUNGE\r\n* 3 EXISTS\r\n<tag> OK gone"]}, mails=dict(MAILS))
    async with opened(script) as (session, _):
        await session.delete([3])
        assert await session.noop()
    script = Script({"UID EXPUNGE": ["* 1 EXPUNGE\r\n* 2 EXISTS\r\n<tag> OK gone"]}, mails=dict(MAILS))
    async with opened(script) as (session, _):
        await session.delete([3])
        assert not await session.noop()


async def test_an_idle_is_renewed_in_time_and_ends_in_time() -> None:
    """Long before 29 minutes, by a clock that tests can move; each renewal shows that the server is there."""
    assert RENEW < 29 * 60
    clock = ManualClock()
    async with opened(Script()) as (session, server):
        waiting = asyncio.create_task(session.idle(clock, asyncio.Event(), RENEW + 60))
        for count, seconds in enumerate((RENEW, 60.0), 1):
            await until(lambda count=count: clock.waiting == 1 and server.lines.count("IDLE") == count)  # type: ignore[misc]
            assert clock.pauses[-1] == seconds
            clock.advance(seconds)
        assert not await waiting
        assert server.lines[-4:] == ["IDLE", "DONE", "IDLE", "DONE"]


async def test_stopping_ends_the_idle_politely() -> None:
    """The session can still be logged out."""
    stop = asyncio.Event()
    async with opened(Script()) as (session, server):
        waiting = asyncio.create_task(session.idle(ManualClock(), stop, 300))
        await until(lambda: "IDLE" in server.lines)
        stop.set()
        assert not await waiting
        await session.close()
        assert server.lines[-3:] == ["IDLE", "DONE", "LOGOUT"]


@pytest.mark.parametrize("fault", [scripted_imap.hang_up, scripted_imap.reset, last_words("* BYE idle too long")])
async def test_a_connection_lost_while_idle_is_noticed_at_once(fault: Fault) -> None:
    """Not when the time is up."""

    async def lose(conversation: Conversation) -> None:
        await conversation.say("+ idling")
        await fault(conversation)

    async with opened(Script({"IDLE": [lose]})) as (session, _):
        with pytest.raises(ImapError, match="idle: the server"):
            await session.idle(ManualClock(), asyncio.Event(), 300)


async def test_a_connection_lost_while_waiting_without_idle_is_noticed_at_once() -> None:
    """The same where the server cannot push."""
    clock = ManualClock()
    async with opened(Script(after_login="IMAP4rev1")) as (session, server):
        waiting = asyncio.create_task(session.idle(clock, asyncio.Event(), 300))
        await until(lambda: clock.waiting == 1)
        server.conversations[0].reset()
        with pytest.raises(ImapError, match="idle: the server closed the connection"):
            await waiting


async def test_a_server_that_does_not_answer_done_is_dead() -> None:
    """A half-open connection shows here, at the latest."""
    clock = ManualClock()
    async with opened(Script({"DONE": [scripted_imap.silence]}), seconds=SHORT) as (session, server):
        waiting = asyncio.create_task(session.idle(clock, asyncio.Event(), 300))
        await until(lambda: "IDLE" in server.lines and clock.waiting == 1)
        clock.advance(300)
        with pytest.raises(ImapError, match="no answer to DONE within"):
            await waiting


async def test_a_cancelled_idle_ends_the_connection() -> None:
    """And leaves no task behind."""
    async with opened(Script()) as (session, server):
        waiting = asyncio.create_task(session.idle(ManualClock(), asyncio.Event(), 300))
        await until(lambda: "IDLE" in server.lines)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert session.trouble == "given up"


async def test_without_idle_the_clock_alone_is_waited_for() -> None:
    """Not offered; or offered, and then refused or ended by the server itself, which is tried only once."""
    answers = ("<tag> NO not you", "<tag> OK not now", "+ idling\r\n<tag> OK enough")
    for script in (Script(after_login="IMAP4rev1"), *(Script({"IDLE": [answer]}) for answer in answers)):
        clock = ManualClock()
        async with opened(script) as (session, server):
            for _ in range(2):
                waiting = asyncio.create_task(session.idle(clock, asyncio.Event(), 300))
                await until(lambda clock=clock: clock.waiting == 1)  # type: ignore[misc]
                clock.advance(300)
                assert not await waiting
            assert server.lines.count("IDLE") == script.after_login.count("IDLE")
