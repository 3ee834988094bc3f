"""Connecting and sending, against a server that behaves as each test says."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import hmac
import os
import socket
import ssl
import time
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import aiosmtplib
import pytest
import trustme

from mailrelayd.dial import lookup
from mailrelayd.outbound import session as session_module
from mailrelayd.outbound import smtp
from mailrelayd.outbound.opened import CANARY, Opened
from mailrelayd.outbound.session import Session
from mailrelayd.outbound.smtp import RouteTrouble
from mailrelayd.outbound.values import Answers, Copyable, Response, Stage, Transaction
from mailrelayd.sasl import PASSWORD_MECHANISMS
from tests import scripted_smtp
from tests.accounts import Account, Tls
from tests.scripted_smtp import Conversation, Fault, Script, Server, last_words, serving

SHORT = 0.3  # seconds; only where silence is the test
LONG = 5.0
LOCK_STEP = ("SIZE", "8BITMIME")


def patience(fault: str | Fault) -> float:
    """A deadline that is short only for the server that never gives a reason to go on."""
    return SHORT if fault in (scripted_smtp.silence, scripted_smtp.drip) else LONG


@dataclass
class Text:
    """A message in memory, in pieces as given."""

    pieces: list[bytes]
    still_the_same: bool = True
    claimed: int | None = None
    read: int = 0
    closed: bool = False
    goal: int = 0
    at_goal: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def whole(self) -> bytes | None:
        return self.pieces[0] if len(self.pieces) == 1 and self.claimed is None else None

    @property
    def pure(self) -> bool:
        return False

    @property
    def copyable(self) -> None:
        return None

    @property
    def size(self) -> int:
        return sum(map(len, self.pieces)) if self.claimed is None else self.claimed

    @property
    def eight_bit(self) -> bool:
        return not all(piece.isascii() for piece in self.pieces)

    async def reached(self, count: int) -> None:
        """Wait until this many pieces were read."""
        self.goal = count
        await self.at_goal.wait()

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            for piece in self.pieces:
                self.read += 1
                if self.read == self.goal:
                    self.at_goal.set()
                yield piece
        finally:
            self.closed = True

    def unchanged(self) -> bool:
        return self.still_the_same


def text(name: str = "hello") -> Text:
    return Text([f"Subject: {name}\r\n\r\n.{name}\r\n".encode()])


def wire(name: str) -> bytes:
    return f"Subject: {name}\r\n\r\n..{name}\r\n".encode()


def message(name: str, recipients: int = 1) -> Transaction:
    return Transaction(name, f"{name}@example.com", tuple(f"r{i}@example.org" for i in range(recipients)))


@asynccontextmanager
async def connected(
    server: Server, *, command_timeout: float = LONG, data_timeout: float = LONG, window: int = 1
) -> AsyncIterator[Opened]:
    account = Account(server.port, command_timeout=command_timeout, data_timeout=data_timeout)
    session = await smtp.connect(account, hello="client.example.com", window=window)
    try:
        yield session
    finally:
        session.abort()
        await session._wire.gone.wait()


class OneByOne:
    """Every `Answers` by itself; what comes together is settled when the last of it was asked for."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._answers: list[Answers] = []

    def __aiter__(self) -> OneByOne:
        return self

    async def __anext__(self) -> Answers:
        if not self._answers:
            self._answers = list(await self._session.next_answers())
        if not self._answers:
            raise StopAsyncIteration
        return self._answers.pop(0)


def one_by_one(session: Session) -> OneByOne:
    return OneByOne(session)


async def sent(session: Session, *names: str, recipients: int = 1, stopping: bool = False) -> list[Answers]:
    """Send one small message for each name and collect what came of them."""

    async def feed() -> None:
        for name in names:
            if not await session.send(message(name, recipients), text(name)):
                return
        session.finish(stopping=stopping)

    feeder = asyncio.create_task(feed())
    got = [answers async for answers in one_by_one(session)]
    await feeder
    return got


def code(answer: Response | None) -> int:
    return answer.code if answer is not None else 0


async def trouble(account: Account, *, user: str = "", password: str = "") -> Response:
    """What RouteTrouble says when this account cannot be used."""
    with pytest.raises(RouteTrouble) as caught:
        (await smtp.connect(account, user=user, password=password, hello="client.example.com")).abort()
    return caught.value.response


@pytest.fixture(autouse=True)
async def no_task_is_left() -> AsyncIterator[None]:
    yield
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not left


# Transactions


@pytest.mark.parametrize("extensions", [("PIPELINING",), LOCK_STEP])
async def test_messages_arrive_in_order_and_as_they_were(extensions: tuple[str, ...]) -> None:
    names = [f"m{i}" for i in range(5)]
    async with serving(Script(extensions=extensions)) as server, connected(server) as session:
        got = await sent(session, *names, recipients=2)
        await session.close()
    assert [answers.transaction.queue_id for answers in got] == names
    assert all(code(answers.body) == 250 and answers.cut is None for answers in got)
    assert server.bodies == [wire(name) for name in names]
    assert session.settled == 5
    assert session.trouble is None
    group = [*(["RSET"] if "PIPELINING" in extensions else []), "MAIL", "RCPT", "RCPT", "DATA"]
    assert [line.split()[0] for line in server.lines] == ["EHLO", *group * 5, "QUIT"]


async def test_a_body_and_the_next_group_leave_in_one_write() -> None:
    async with serving(Script()) as server, connected(server) as session:
        await sent(session, "a", "b", "c")
    segments = server.conversations[0].segments
    assert segments[1].startswith(b"RSET\r\nMAIL FROM:<a@")
    assert segments[2].startswith(wire("a") + b".\r\nRSET\r\nMAIL FROM:<b@")
    assert segments[2].endswith(b"DATA\r\n")
    assert segments[3].startswith(wire("b") + b".\r\nRSET\r\nMAIL FROM:<c@")
    assert segments[4] == wire("c") + b".\r\n"


async def test_the_next_body_waits_for_the_owner() -> None:
    async with serving(Script()) as server, connected(server) as session:
        attempts = one_by_one(session)
        assert await session.send(message("a"), text("a"))
        assert await session.send(message("b"), text("b"))
        assert (await anext(attempts)).transaction.queue_id == "a"
        for _ in range(50):
            await asyncio.sleep(0)
        assert server.bodies == [wire("a")]
        assert (await anext(attempts)).transaction.queue_id == "b"
        assert server.bodies == [wire("a"), wire("b")]


async def test_only_one_message_is_taken_ahead() -> None:
    async with serving(Script()) as server, connected(server) as session:
        assert await session.send(message("a"), text("a"))
        assert await session.send(message("b"), text("b"))
        third = asyncio.create_task(session.send(message("c"), text("c")))
        await asyncio.sleep(0)
        assert not third.done()
        attempts = one_by_one(session)
        assert code((await anext(attempts)).body) == 250
        assert await third
        session.finish()
        assert [answers.transaction.queue_id async for answers in attempts] == ["b", "c"]


async def test_a_refused_message_does_not_stop_the_next() -> None:
    script = Script(answers={"MAIL": ["550 5.7.1 no", "250 ok"], "DATA": ["503 5.5.1 no sender", "354 go"]})
    async with serving(script) as server, connected(server) as session:
        refused, fine = await sent(session, "a", "b")
    assert code(refused.mail) == 550
    assert refused.cut is None
    assert code(fine.body) == 250
    assert server.bodies == [wire("b")]


async def test_a_refused_sender_with_a_go_ahead_is_never_given_a_body() -> None:
    async with serving(Script(answers={"MAIL": ["550 no"]})) as server, connected(server) as session:
        first, second = await sent(session, "a", "b")
    assert server.bodies == []
    assert first.cut is not None
    assert first.cut.code == 0
    assert second.untried


async def test_all_recipients_refused_with_a_go_ahead_gets_a_lone_dot() -> None:
    script = Script(answers={"RCPT": ["550 no", "250 ok"], "BODY": ["554 no valid recipients", "250 ok"]})
    async with serving(script) as server, connected(server) as session:
        refused, fine = await sent(session, "a", "b")
    assert code(refused.recipients[0]) == 550
    assert refused.body is None
    assert not refused.last_byte_sent
    assert code(fine.body) == 250
    assert server.bodies == [b"", wire("b")]


FAULTS: dict[str, str | Fault] = {
    "4xx": "451 4.3.0 later",
    "5xx": "554 5.3.0 never",
    "421": last_words(b"421 4.3.2 shutting down\r\n"),
    "421 and open": "421 4.3.2 shutting down",
    "close": scripted_smtp.hang_up,
    "reset": scripted_smtp.reset,
    "half an answer": last_words(b"250-ok\r\n250 "),
    "silence": scripted_smtp.silence,
    "drip": scripted_smtp.drip,
    "junk": scripted_smtp.junk,
    "giant line": scripted_smtp.giant_line,
    "endless lines": scripted_smtp.endless_lines,
    "two codes": "250-fine\r\n550 not fine",
    "two answers": "250 fine\r\n250 really",
    "no text": last_words(b"250\r\n\x1b[31m"),
}


@pytest.mark.parametrize("extensions", [("PIPELINING",), LOCK_STEP], ids=["pipelining", "lock-step"])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
@pytest.mark.parametrize("verb", ["RSET", "MAIL", "RCPT", "DATA", "BODY"])
async def test_whatever_goes_wrong_every_message_is_accounted_for(
    verb: str, fault: str | Fault, extensions: tuple[str, ...]
) -> None:
    """The second of three transactions meets the fault: nothing hangs, nothing unanswered is called sent."""
    script = Script(answers={verb: [scripted_smtp.DEFAULTS[verb], fault]}, extensions=extensions)
    begin = time.monotonic()
    wait = patience(fault)
    async with serving(script) as server, connected(server, command_timeout=wait, data_timeout=wait) as session:
        got = await sent(session, "a", "b", "c")
        await session.close()
    assert time.monotonic() - begin < LONG - 1
    assert [answers.transaction.queue_id for answers in got] == ["a", "b", "c"][: len(got)]
    first, second, *_ = got
    assert code(first.body) == 250
    stored = set(server.bodies)
    for answers in got:
        if code(answers.body) == 250:
            assert wire(answers.transaction.queue_id) in stored
    if fault in ("451 4.3.0 later", "554 5.3.0 never") and verb != "RSET":
        assert second.cut is None or (verb == "MAIL" and "PIPELINING" in extensions)
    elif verb in ("RSET", "MAIL"):
        assert second.untried or second.cut is not None or code(second.body) == 250
    elif fault not in ("250-fine\r\n550 not fine", "250 fine\r\n250 really"):
        assert second.cut is not None or code(second.body) == 250


async def test_silence_after_the_last_byte_is_told_apart() -> None:
    script = Script(answers={"BODY": [scripted_smtp.silence]})
    async with serving(script) as server, connected(server, data_timeout=SHORT) as session:
        (only,) = await sent(session, "a")
    assert only.last_byte_sent
    assert only.body is None
    assert only.cut is not None
    assert (only.cut.stage, only.cut.text) == (Stage.BODY, f"no answer to the message within {SHORT:g} s")


async def test_an_answer_before_the_last_byte_is_not_taken_for_the_one_after_it() -> None:
    """A success that came too early would hide the refusal that follows."""

    async def early(conversation: Conversation) -> None:
        await conversation.say("354 go\r\n250 2.0.0 taken already")
        await conversation.body()
        await conversation.say("554 5.6.0 refused")

    for extensions in (("PIPELINING",), LOCK_STEP):
        async with serving(Script({"DATA": [early]}, extensions)) as server, connected(server) as session:
            (only,) = await sent(session, "a")
        assert only.body is None
        assert only.cut is not None


async def test_an_answer_that_came_before_the_body_and_is_not_read_yet_is_not_taken_for_its_answer() -> None:
    """A body leaves at once when the one before it is settled, but not past what the server has said meanwhile."""
    async with serving(Script()) as server, connected(server) as session:
        for name in "ab":
            assert await session.send(message(name), text(name))
        session.finish()
        await session.next_answers()
        async with asyncio.timeout(LONG):
            while session._pipeline.due is not None:  # noqa: ASYNC110 - the second one's group
                await asyncio.sleep(0)
        server.conversations[0].writer.write(b"250 2.0.0 taken already\r\n")
        session.on_disk()
        (second,) = await session.next_answers()
    assert (second.body, second.last_byte_sent) == (None, False)
    assert second.untried or second.cut is not None
    assert server.bodies == [wire("a")]


async def test_what_an_idle_server_says_is_read_before_anything_is_said_to_it() -> None:
    """A message that comes in leaves at once, but not past that."""
    async with serving(Script()) as server, connected(server) as session:
        server.conversations[0].writer.write(b"250 2.0.0 hello again\r\n")
        assert await session.send(message("a"), text("a"))
        (only,) = await session.next_answers()
        assert session.trouble is not None
        assert "out of turn" in session.trouble.text
    assert only.untried
    assert server.lines == ["EHLO client.example.com"]


async def test_an_answer_is_read_even_if_the_connection_is_dead_behind_it() -> None:
    """250, then RST: the write of the next group fails, and must not take the 250 with it."""

    async def answer_and_reset(conversation: Conversation) -> None:
        await conversation.say("250 2.0.0 taken")
        linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
        conversation.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        conversation.writer.close()
        raise scripted_smtp.Gone

    for names in (("a",), ("a", "b")):
        async with serving(Script({"BODY": [answer_and_reset]})) as server, connected(server) as session:
            first, *others = await sent(session, *names)
        assert code(first.body) == 250
        assert first.cut is None
        assert all(answers.untried for answers in others)


async def test_an_answer_is_read_before_a_late_group_is_written() -> None:
    """The server answers and resets in the very moment in which the next message comes: a write first would fail."""
    loop = asyncio.get_running_loop()

    async def until_the_body_is_in(server: socket.socket) -> None:
        for says, waits_for in (
            (b"220 hi\r\n", b"\n"),
            (b"250-hi\r\n250 PIPELINING\r\n", b"DATA\r\n"),
            (_GROUP, b"\n.\r\n"),
        ):
            await loop.sock_sendall(server, says)
            while not (await loop.sock_recv(server, 65536)).endswith(waits_for):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        opening = asyncio.create_task(smtp.connect(Account(listener.getsockname()[1]), hello="client.example.com"))
        server, _ = await loop.sock_accept(listener)
        server.setblocking(False)
        talking = asyncio.create_task(until_the_body_is_in(server))
        session = await opening
        assert await session.send(message("a"), text("a"))
        attempts = one_by_one(session)
        driver = asyncio.ensure_future(anext(attempts))
        await talking
        server.send(b"250 2.0.0 taken\r\n")
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # RST, not FIN
        server.close()
        assert await session.send(message("b"), text("b"))
        first = await driver
        assert code(first.body) == 250
        assert first.cut is None
        assert [answers.untried async for answers in attempts] == [True]
        await session._wire.gone.wait()


_GROUP = b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n"


@pytest.mark.parametrize("words", ["552 5.3.4 too big", "421 4.3.2 bye", "250 2.0.0 enough"])
async def test_a_server_that_speaks_in_the_middle_of_a_body_and_stops_reading_is_left_at_once(words: str) -> None:
    async def interrupt(conversation: Conversation) -> None:
        conversation.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await conversation.say("354 go")
        while session._wire.writable.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await conversation.say(words)
        await asyncio.sleep(30)

    begin = time.monotonic()
    async with serving(Script({"DATA": [interrupt]})) as server, connected(server) as session:
        await session.send(message("a"), Text([b"x" * 998 + b"\r\n"] * 50_000))
        (only,) = [answers async for answers in one_by_one(session)]
    assert time.monotonic() - begin < LONG - 1
    assert only.cut is not None
    assert only.cut.code == (421 if words.startswith("421") else 0)
    assert not only.last_byte_sent
    assert only.body is None


@pytest.mark.parametrize("fault", [scripted_smtp.hang_up, last_words(b"421 4.4.2 idle\r\n"), last_words(b"hello?\r\n")])
async def test_a_connection_that_ends_while_idle_ends_the_attempts(fault: Fault) -> None:
    proceed = asyncio.Event()

    async def later(conversation: Conversation) -> None:
        await conversation.say("250 2.0.0 taken")
        await proceed.wait()
        await fault(conversation)

    async with serving(Script({"BODY": [later]})) as server, connected(server) as session:
        assert await session.send(message("a"), text("a"))
        attempts = one_by_one(session)
        assert code((await anext(attempts)).body) == 250
        asyncio.get_running_loop().call_later(0.01, proceed.set)
        assert [answers async for answers in attempts] == []
        assert session.trouble is not None
        assert session.trouble.stage is Stage.IDLE
        assert not await session.send(message("b"), text("b"))


async def test_stopping_finishes_the_body_under_way_and_gives_back_the_rest() -> None:
    async with serving(Script()) as server, connected(server) as session:
        attempts = one_by_one(session)
        big = Text([b"x" * 998 + b"\r\n"] * 2000)
        await session.send(message("a"), big)
        await session.send(message("b"), text("b"))
        first = asyncio.ensure_future(anext(attempts))
        await big.reached(1)
        session.finish(stopping=True)
        assert code((await first).body) == 250
        assert [answers.untried async for answers in attempts] == [True]
        assert session.trouble is None
    assert len(server.bodies) == 1


async def test_stopping_before_anything_began_gives_everything_back() -> None:
    async with serving(Script()) as server, connected(server) as session:
        await session.send(message("a"), text("a"))
        session.finish(stopping=True)
        assert [answers.untried async for answers in one_by_one(session)] == [True]
        assert not await session.send(message("b"), text("b"))
    assert server.bodies == []


async def test_a_cancelled_owner_never_lets_half_a_message_become_a_whole_one() -> None:
    async with serving(Script()) as server, connected(server) as session:
        big = Text([b"x" * 998 + b"\r\n"] * 100_000)
        await session.send(message("a"), big)
        driver = asyncio.ensure_future(anext(one_by_one(session)))
        await big.reached(100)
        driver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await driver
        assert big.closed
    assert server.bodies == []


@pytest.mark.parametrize("body", [Text([b"a\r\n"], still_the_same=False), Text([b"a\r\n"], claimed=4)])
async def test_a_message_that_changed_is_not_sent(body: Text) -> None:
    async with serving(Script()) as server, connected(server) as session:
        await session.send(message("a"), body)
        session.finish()
        (only,) = [answers async for answers in one_by_one(session)]
    assert only.changed
    assert not only.last_byte_sent
    assert server.bodies == []


async def test_a_message_that_cannot_be_read_is_cut_with_the_reason() -> None:
    class Broken(Text):
        async def chunks(self) -> AsyncIterator[bytes]:
            yield b"a\r\n"
            raise OSError(5, "Input/output error")

        whole = None

    async with serving(Script()) as server, connected(server) as session:
        await session.send(message("a"), Broken([b"a\r\n"]))
        (only,) = [answers async for answers in one_by_one(session)]
    assert only.cut is not None
    assert str(only.cut) == "the message cannot be read: Input/output error"
    assert server.bodies == []


async def test_a_server_that_takes_no_body_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smtp, "BODY_STALL", SHORT)

    async def deaf(conversation: Conversation) -> None:
        conversation.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await conversation.say("354 go")
        await asyncio.sleep(30)

    script = Script({"DATA": [deaf]})
    async with serving(script) as server, connected(server, command_timeout=SHORT) as session:
        await session.send(message("a"), Text([b"x" * 998 + b"\r\n"] * 50_000))
        (only,) = [answers async for answers in one_by_one(session)]
    assert only.cut is not None
    assert "took nothing of the body" in only.cut.text


async def test_an_address_that_cannot_be_said_is_refused_and_nothing_is_taken() -> None:
    async with serving(Script()) as server, connected(server) as session:
        with pytest.raises(ValueError, match="address"):
            await session.send(Transaction("a", "a@example.com\r\nDATA", ("b@example.com",)), text())
        assert code((await sent(session, "b"))[0].body) == 250
    assert server.bodies == [wire("b")]


async def test_close_is_short_even_if_the_server_does_not_answer_quit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "QUIT_DEADLINE", SHORT)
    async with serving(Script(answers={"QUIT": [scripted_smtp.silence]})) as server, connected(server) as session:
        await sent(session, "a")
        begin = time.monotonic()
        await session.close()
        await session.close()
        assert time.monotonic() - begin < 1
        assert session.trouble is None


# The way there


def certificates(path: Path, ca: trustme.CA, name: str, leaf: trustme.LeafCert) -> str:
    file = path / f"{name}.pem"
    leaf.private_key_and_cert_chain_pem.write_to_path(file)
    return str(file)


@dataclass
class Pki:
    """Certificates of every kind, as server contexts and files."""

    ca: trustme.CA
    ca_file: str
    other_ca_file: str
    client_file: str
    pins: dict[str, str]  # of the same names as contexts, where they differ
    contexts: dict[str, ssl.SSLContext]


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pki]:
    path = tmp_path_factory.mktemp("pki")
    ca, other = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(path / "ca.pem")
    other.cert_pem.write_to_path(path / "other.pem")
    good = ca.issue_cert("127.0.0.1", "smtp.example.com")
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    leaves = {
        "good": good,
        "expired": ca.issue_cert("127.0.0.1", not_before=past - datetime.timedelta(days=9), not_after=past),
        "wrong host": ca.issue_cert("elsewhere.example.com"),
    }
    contexts = {}
    for name, leaf in leaves.items():
        contexts[name] = context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        leaf.configure_cert(context)
    contexts["old"] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    contexts["old"].maximum_version = ssl.TLSVersion.TLSv1_2
    good.configure_cert(contexts["old"])
    contexts["wants client"] = context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    good.configure_cert(context)
    context.verify_mode = ssl.CERT_REQUIRED
    ca.configure_trust(context)
    client = certificates(path, ca, "client", ca.issue_cert("client.example.com"))
    # Its own CA, and for nobody's host name: how appliances come.
    (path / "self-signed.pem").write_bytes(other.private_key_pem.bytes() + other.cert_pem.bytes())
    contexts["self-signed"] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    contexts["self-signed"].load_cert_chain(path / "self-signed.pem")
    pems = {name: leaf.cert_chain_pems[0] for name, leaf in leaves.items()} | {"self-signed": other.cert_pem}
    pins = {
        name: hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.bytes().decode())).hexdigest() for name, pem in pems.items()
    }
    yield Pki(ca, str(path / "ca.pem"), str(path / "other.pem"), client, pins, contexts)


def script(pki: Pki, security: str, name: str = "good", **more: object) -> Script:
    context = pki.contexts[name]
    made = Script(implicit=context) if security == "tls" else Script(starttls=context)
    for key, value in more.items():
        setattr(made, key, value)
    return made


both = pytest.mark.parametrize("security", ["tls", "starttls"])


@both
async def test_a_message_goes_over_tls(pki: Pki, security: str) -> None:
    async with serving(script(pki, security)) as server:
        account = Account(server.port, security=security, auth="password", tls=Tls(ca_file=pki.ca_file))
        session = await smtp.connect(account, user="relay", password="sécret €\x01", hello="client.example.com")
        assert session.tls.startswith("TLSv1.3 ")
        assert session.relay == f"127.0.0.1[127.0.0.1]:{server.port}"
        assert code((await sent(session, "a", "b"))[1].body) == 250
        await session.close()
    assert server.bodies == [wire("a"), wire("b")]
    logins = [line for line in server.lines if line.startswith("AUTH")]
    assert [scripted_smtp.plain_fields(line) for line in logins] == [["", "relay", "sécret €\x01"]]


@both
@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("expired", {}, "expired"),
        ("wrong host", {}, "not valid for '127.0.0.1'"),
        ("good", {"server_name": "other.example.com"}, "other.example.com"),
        ("good", {"ca_file": "other"}, "CA"),
        ("good", {"ca_file": ""}, "CA"),
        ("good", {"fingerprint": "00" * 32}, "not the pinned one"),
        ("good", {"fingerprint": "00" * 32, "verify": False}, "not the pinned one"),
        ("good", {"fingerprint": "abc"}, "64 hex digits"),
        ("self-signed", {}, "or its fingerprint"),
        ("self-signed", {"fingerprint": "00" * 32, "ca_file": ""}, "not the pinned one"),
        ("good", {"ca_file": "/nonexistent"}, "/nonexistent"),
        ("good", {"certificate": "/nonexistent"}, "/nonexistent"),
        ("good", {"minimum": "1.9"}, "1.9"),
        ("old", {"minimum": "1.3"}, "minimum 1.3"),
    ],
)
async def test_a_certificate_that_is_not_right_holds_the_route(
    pki: Pki, security: str, name: str, settings: dict[str, str], says: str
) -> None:
    chosen = {"ca_file": pki.ca_file, **settings}
    if chosen["ca_file"] == "other":
        chosen["ca_file"] = pki.other_ca_file
    async with serving(script(pki, security, name)) as server:
        account = Account(server.port, security=security, auth="password", tls=Tls(**chosen))  # type: ignore[arg-type]
        response = await trouble(account, user="relay", password="secret")
    assert response.stage is Stage.TLS
    assert response.code == 0
    assert says in response.text
    assert not any(line.startswith(("AUTH", "MAIL")) for line in server.lines)


@both
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("good", {"server_name": "smtp.example.com"}),
        ("good", {"fingerprint": "pin"}),
        ("good", {"fingerprint": "PIN"}),
        ("good", {"fingerprint": "pin", "verify": False, "ca_file": ""}),
        ("self-signed", {"fingerprint": "pin"}),
        ("self-signed", {"fingerprint": "PIN", "ca_file": ""}),
        ("wrong host", {"fingerprint": "pin"}),
        ("expired", {"fingerprint": "pin"}),
        ("wrong host", {"verify": False}),
        ("expired", {"verify": False}),
        ("good", {"maximum": "1.2"}),
        ("wants client", {"certificate": "client"}),
    ],
)
async def test_a_certificate_that_is_right_is_taken(
    pki: Pki, security: str, name: str, settings: dict[str, str]
) -> None:
    """With the settings that go with it, every kind of certificate carries mail."""
    pin = pki.pins.get(name, "")
    pins = {"pin": pin, "PIN": "sha256:" + ":".join(pin.upper()[i : i + 2] for i in range(0, 64, 2))}
    chosen = {"ca_file": pki.ca_file, **settings}
    if "fingerprint" in chosen:
        chosen["fingerprint"] = pins[chosen["fingerprint"]]
    if "certificate" in chosen:
        chosen["certificate"] = pki.client_file
    async with serving(script(pki, security, name)) as server:
        account = Account(server.port, security=security, tls=Tls(**chosen))  # type: ignore[arg-type]
        session = await smtp.connect(account, hello="client.example.com")
        assert session.tls.startswith("TLSv1.2 " if "maximum" in chosen else "TLSv1.3 ")
        assert code((await sent(session, "a"))[0].body) == 250
        await session.close()


@both
async def test_a_wrong_pin_is_met_before_anything_is_said_over_tls(pki: Pki, security: str) -> None:
    """A server that is not the pinned one hears no EHLO inside TLS, and so no password."""
    async with serving(script(pki, security, "self-signed")) as server:
        account = Account(server.port, security=security, auth="password", tls=Tls(fingerprint=pki.pins["good"]))
        response = await trouble(account, user="relay", password="secret")
    assert response.stage is Stage.TLS
    before = ["EHLO client.example.com", "STARTTLS"] if security == "starttls" else []
    assert server.lines == before


@both
async def test_a_ca_file_is_trusted_instead_of_the_system(
    pki: Pki, security: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CA of the system, taken without a ca_file, is refused where a ca_file names another."""
    monkeypatch.setenv("SSL_CERT_FILE", pki.ca_file)
    async with serving(script(pki, security)) as server:
        session = await smtp.connect(Account(server.port, security=security), hello="client.example.com")
        await session.close()
        response = await trouble(Account(server.port, security=security, tls=Tls(ca_file=pki.other_ca_file)))
    assert response.stage is Stage.TLS
    assert "CA" in response.text


async def test_a_server_that_wants_a_certificate_we_have_not_holds_the_route(pki: Pki) -> None:
    async with serving(script(pki, "tls", "wants client")) as server:
        response = await trouble(Account(server.port, security="tls", tls=Tls(ca_file=pki.ca_file)))
    assert response.stage in (Stage.TLS, Stage.GREETING)


async def test_stripped_starttls_holds_the_route_and_leaks_nothing() -> None:
    async with serving(Script(extensions=("PIPELINING", "AUTH PLAIN"))) as server:
        account = Account(server.port, security="starttls", auth="password")
        response = await trouble(account, user="relay", password="secret")
    assert response.stage is Stage.STARTTLS
    assert "no STARTTLS" in response.text
    assert [line.split()[0] for line in server.lines] == ["EHLO"]


async def test_a_password_never_travels_in_clear() -> None:
    async with serving(Script(extensions=("AUTH PLAIN LOGIN CRAM-MD5 SCRAM-SHA-256",))) as server:
        account = Account(server.port, security="none", allow_plaintext=True, auth="password")
        response = await trouble(account, user="relay", password="secret")
    assert response.stage is Stage.AUTH
    assert "in clear" in response.text
    assert not any(line.startswith("AUTH") for line in server.lines)


async def test_what_was_said_before_tls_counts_for_nothing(pki: Pki) -> None:
    """Plain text behind the 220 of STARTTLS is an attack; so are offers that TLS does not repeat."""

    async def inject(conversation: Conversation) -> None:
        await conversation.say("220 go ahead\r\n250-injected\r\n250-AUTH PLAIN\r\n250 SMTPUTF8")
        await conversation.start_tls(pki.contexts["good"])

    async with serving(script(pki, "starttls", answers={"STARTTLS": [inject]}, extensions=())) as server:
        account = Account(server.port, security="starttls", tls=Tls(ca_file=pki.ca_file))
        try:
            session = await smtp.connect(account, hello="client.example.com")
        except RouteTrouble as caught:
            assert caught.response.stage in (Stage.TLS, Stage.EHLO, Stage.STARTTLS)
        else:
            assert not session.extensions.smtputf8
            session.abort()
            await session._wire.gone.wait()


SETUP_FAULTS: dict[str, tuple[str | Fault, int]] = {
    "4xx": ("451 4.3.0 later", 451),
    "5xx": ("554 5.3.0 never", 554),
    "421": (last_words(b"421 4.3.2 busy\r\n"), 421),
    "close": (scripted_smtp.hang_up, 0),
    "reset": (scripted_smtp.reset, 0),
    "silence": (scripted_smtp.silence, 0),
    "drip": (scripted_smtp.drip, 0),
    "junk": (scripted_smtp.junk, 0),
    "giant line": (scripted_smtp.giant_line, 0),
    "endless lines": (scripted_smtp.endless_lines, 0),
    "another 2xx": ("299 hm", 0),
}


@pytest.mark.parametrize("fault", SETUP_FAULTS.values(), ids=SETUP_FAULTS.keys())
@pytest.mark.parametrize("verb", ["GREETING", "EHLO", "STARTTLS", "AUTH"])
async def test_every_failure_on_the_way_is_route_trouble_of_its_stage(
    pki: Pki, verb: str, fault: tuple[str | Fault, int]
) -> None:
    behaviour, expected = fault
    security = "tls" if verb == "AUTH" else "starttls"
    begin = time.monotonic()
    async with serving(script(pki, security, answers={verb: [behaviour]})) as server:
        account = Account(
            server.port,
            security=security,
            auth="password",
            command_timeout=patience(behaviour),
            tls=Tls(ca_file=pki.ca_file),
        )
        response = await trouble(account, user="relay", password="secret")
    assert time.monotonic() - begin < LONG - 1
    assert (response.stage, response.code) == (Stage(verb.lower()), expected)
    assert response.text
    assert response.text.isprintable()
    assert "secret" not in response.text


async def test_a_port_that_speaks_plain_text_is_named(pki: Pki) -> None:
    async with serving(Script()) as server:
        response = await trouble(Account(server.port, security="tls"))
    assert response.stage is Stage.TLS
    assert "plain text" in response.text


async def test_a_port_that_expects_tls_is_guessed(pki: Pki) -> None:
    async with serving(script(pki, "tls")) as server:
        response = await trouble(Account(server.port, security="starttls", command_timeout=SHORT))
    assert response.stage is Stage.GREETING
    assert 'security = "tls"' in response.text


@asynccontextmanager
async def silent_port() -> AsyncIterator[int]:
    """A port that takes the connection and never says a word."""
    async with serving(Script({"GREETING": [scripted_smtp.silence]})) as server:
        yield server.port


async def test_a_silent_tls_port_is_given_up_after_connect_timeout() -> None:
    """It is named as a handshake that did not end, long before command_timeout."""
    begin = time.monotonic()
    async with silent_port() as port:
        response = await trouble(Account(port, security="tls", connect_timeout=SHORT, command_timeout=60.0))
    assert time.monotonic() - begin < LONG
    assert response.stage is Stage.TLS
    assert response.text == f"no TLS handshake within {SHORT:g} s; a port that speaks plain text keeps silent like this"


async def test_dns_tcp_and_tls_share_one_connect_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """What DNS has used up, the handshake no longer has."""
    loop = asyncio.get_running_loop()
    resolve, now, lost = lookup, loop.time, 0.0

    async def slow(*args: Any, **options: Any) -> Any:
        nonlocal lost
        found = await resolve(*args, **options)
        lost = 58.0
        return found

    monkeypatch.setattr(loop, "time", lambda: now() + lost)
    monkeypatch.setattr("mailrelayd.dial.lookup", slow)
    begin = time.monotonic()
    async with silent_port() as port:
        response = await trouble(Account(port, security="tls", connect_timeout=60.0, command_timeout=600.0))
    assert time.monotonic() - begin < LONG
    assert response.text.startswith("no TLS handshake within 60 s")


@pytest.mark.parametrize(("connect", "command"), [(LONG, SHORT), (1.0, 1.5)])
async def test_a_greeting_inside_tls_has_command_timeout(pki: Pki, connect: float, command: float) -> None:
    """Once TLS stands, connect_timeout neither shortens nor lengthens the wait for the greeting."""
    begin = time.monotonic()
    async with serving(script(pki, "tls", answers={"GREETING": [scripted_smtp.silence]})) as server:
        tls = Tls(ca_file=pki.ca_file)
        account = Account(server.port, security="tls", connect_timeout=connect, command_timeout=command, tls=tls)
        response = await trouble(account)
    assert command <= time.monotonic() - begin < LONG - 1
    assert (response.stage, response.text) == (Stage.GREETING, f"no greeting within {command:g} s")


async def test_a_handshake_that_hangs_after_starttls_is_named(pki: Pki) -> None:
    """A server that says 220 and then nothing has answered STARTTLS: it is TLS that is missing."""

    async def no_tls(conversation: Conversation) -> None:
        await conversation.say("220 go ahead")
        await scripted_smtp.silence(conversation)

    async with serving(script(pki, "starttls", answers={"STARTTLS": [no_tls]})) as server:
        response = await trouble(Account(server.port, security="starttls", command_timeout=SHORT))
    assert (response.stage, response.text) == (Stage.TLS, f"no TLS handshake within {SHORT:g} s after STARTTLS")


async def test_a_connection_that_is_gone_before_pin_or_login_is_route_trouble(pki: Pki) -> None:
    """Even between two commands the library's own errors stay inside."""
    account = Account(465, security="tls", auth="password", tls=Tls(fingerprint=pki.pins["good"]))
    opening = smtp._Opening(account, "relay", "x", "client.example.com", ssl.create_default_context())
    gone = aiosmtplib.SMTP()
    with pytest.raises(RouteTrouble, match="tls: the server closed the connection"):
        opening._check_pin(gone)
    with pytest.raises(RouteTrouble, match="auth: the server closed the connection"):
        await opening._authenticate(gone)


def test_the_longest_opening_counts_every_way_and_wait() -> None:
    """It follows from connect_timeout, command_timeout and the ways that may be tried."""

    def longest(port: int | None = None, **settings: Any) -> float:
        return smtp.longest_opening(Account(port, connect_timeout=10.0, command_timeout=60.0, **settings))

    files = longest(security="none") - (10 + 3 * 60)
    assert 0 < files < 10
    assert longest(security="tls") == files + 10 + 3 * 60
    assert longest(security="starttls") == files + 10 + 6 * 60
    assert longest(25, security="auto") == files + 2 * 10 + 9 * 60
    assert longest(security="auto") == files + 3 * 10 + 15 * 60
    assert longest(security="auto", allow_plaintext=True) == files + 5 * 10 + 21 * 60


@pytest.mark.parametrize("security", ["tls", "starttls", "auto", "none"])
async def test_opening_ends_after_the_longest_opening(security: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever waits inside, connect gives up in time and leaves nothing open."""
    monkeypatch.setattr(smtp, "longest_opening", lambda *_: SHORT)
    begin = time.monotonic()
    async with silent_port() as port:
        response = await trouble(Account(port, security=security, connect_timeout=60.0, command_timeout=60.0))
    assert time.monotonic() - begin < LONG
    assert response.stage is Stage.CONNECT
    assert response.text == f"no connection was ready for mail within {SHORT:g} s, all tries together"


@pytest.mark.parametrize(
    ("size", "limit"),
    [
        ("SIZE", 0),
        ("SIZE 1000", 1000),
        ("SIZE " + "9" * 20, 10**20 - 1),
        ("SIZE " + "9" * 21, 0),
        ("SIZE " + "9" * 5000, 0),
        ("SIZE many", 0),
        ("HELP", None),
    ],
)
async def test_a_size_that_makes_no_sense_is_no_limit(size: str, limit: int | None) -> None:
    """A server's SIZE is taken as it is meant, and ignored where it cannot be a size."""
    async with serving(Script(extensions=(size,))) as server, connected(server) as session:
        assert session.extensions.size == limit


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_refused_connection_is_told() -> None:
    response = await trouble(Account(free_port()))
    assert response.stage is Stage.CONNECT
    assert response.text.endswith(": connection refused")


async def test_a_name_that_does_not_exist_is_told() -> None:
    response = await trouble(Account(25, host="host.invalid"))
    assert response.stage is Stage.CONNECT
    assert "'host.invalid' cannot be resolved" in response.text


async def test_every_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(Script()) as server:

        async def two(host: str, port: int, **_: object) -> list[object]:
            kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
            return [(*kind, ("127.0.0.2", port)), (*kind, ("127.0.0.1", port))]

        monkeypatch.setattr("mailrelayd.dial.lookup", two)
        session = await smtp.connect(Account(server.port, host="smtp.example.com"), hello="client.example.com")
        assert session.relay == f"smtp.example.com[127.0.0.1]:{server.port}"
        session.abort()
        await session._wire.gone.wait()


async def test_dns_that_hangs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object, **__: object) -> None:
        await asyncio.sleep(30)

    monkeypatch.setattr("mailrelayd.dial.lookup", never)
    response = await trouble(Account(25, host="smtp.example.com", connect_timeout=SHORT))
    assert response.stage is Stage.CONNECT
    assert "was not resolved" in response.text


@pytest.mark.parametrize("hello", ["", "two words", "naïve.example.com", "a\r\nMAIL"])
async def test_a_name_that_cannot_be_said_in_ehlo_is_route_trouble(hello: str) -> None:
    with pytest.raises(RouteTrouble, match="EHLO"):
        await smtp.connect(Account(25), hello=hello)


async def test_a_server_without_ehlo_is_greeted_the_old_way() -> None:
    async with serving(Script({"EHLO": ["502 what?"]})) as server, connected(server) as session:
        assert not session.extensions.pipelining
        assert code((await sent(session, "a"))[0].body) == 250
    assert server.lines[:2] == ["EHLO client.example.com", "HELO client.example.com"]


# A window of bodies

CHUNKING = ("PIPELINING", "SIZE 10000000", "8BITMIME", "SMTPUTF8", "CHUNKING")


def plain(name: str) -> bytes:
    return f"Subject: {name}\r\n\r\n.{name}\r\n".encode()


async def test_whole_messages_leave_in_one_write_before_anything_is_answered() -> None:
    """Behind the canary everything that fits into the window goes out together, dots unstuffed."""
    async with serving(Script(extensions=CHUNKING)) as server, connected(server, window=4) as session:
        assert (session.window, session.narrowed) == (4, "")
        got = await sent(session, "a", "b", "c")
        await session.close()
    assert [code(answers.body) for answers in got] == [250] * 3
    assert server.bodies == [plain(name) for name in "abc"]
    hello, canary, together, leaving = server.conversations[0].segments
    assert (hello[:4], canary, leaving) == (b"EHLO", CANARY, b"QUIT\r\n")
    assert together.count(b"RSET") == together.count(b" LAST\r\nSubject: ") == 3


async def test_no_more_bodies_are_undecided_than_the_window_holds() -> None:
    """What is answered still counts until it is settled, and what is settled makes room at once."""
    async with serving(Script(extensions=CHUNKING)) as server, connected(server, window=2) as session:
        for name in "abcd":
            assert await session.send(message(name), text(name))
        late = asyncio.create_task(session.send(message("e"), text("e")))
        first: list[Answers] = []
        async with asyncio.timeout(LONG):
            while server.bodies != [plain("a"), plain("b")]:  # noqa: ASYNC110
                await asyncio.sleep(0)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(server.bodies) == 2
        first += await session.next_answers()
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(server.bodies) == 2
        session.on_disk()
        assert await late
        session.finish()
        rest = [answers.transaction.queue_id async for answers in one_by_one(session)]
    assert [answers.transaction.queue_id for answers in first] + rest == list("abcde")
    assert server.bodies == [plain(name) for name in "abcde"]


async def test_a_refused_message_in_a_window_is_refused_alone() -> None:
    """Its chunk is swallowed, and the answer to it is echo."""
    script = Script({"RCPT": ["250 ok", "550 5.1.1 no", "250 ok"]}, CHUNKING)
    async with serving(script) as server, connected(server, window=4) as session:
        first, refused, last = await sent(session, "a", "b", "c")
    assert [code(first.body), code(last.body)] == [250, 250]
    assert (code(refused.recipients[0]), refused.body, refused.last_byte_sent, refused.cut) == (550, None, False, None)
    assert server.bodies == [plain("a"), plain("c")]


@pytest.mark.parametrize("obeys", [(False, True), (False,), (True,)], ids=["all", "outside", "inside"])
async def test_a_server_that_obeys_the_text_of_mail_gets_no_window(obeys: tuple[bool, ...]) -> None:
    """It gives itself away by the canary, and the connection goes on without chunks ahead."""
    script = Script({"RCPT": ["550 5.1.1 no", "250 ok"]}, CHUNKING, obeys=obeys)
    async with serving(script) as server, connected(server, window=4) as session:
        assert (session.window, session.doubtful) == (1, False)
        assert "for commands" in session.narrowed
        refused, fine = await sent(session, "a", "b")
    assert code(refused.recipients[0]) == 550
    assert code(fine.body) == 250
    assert server.bodies == [b"", wire("b")] or server.bodies == [wire("b")]
    assert len(server.conversations) == 1


async def test_a_server_that_refuses_the_canary_s_sender_gets_no_window() -> None:
    """Whether it would swallow the chunk of a transaction is not known then, and nobody is asked to believe it."""
    script = Script({"MAIL": ["550 5.7.1 no bounces", "250 ok"]}, CHUNKING)
    async with serving(script) as server, connected(server, window=4) as session:
        assert (session.window, session.doubtful) == (1, False)
        assert "cannot be tried" in session.narrowed
        assert code((await sent(session, "a"))[0].body) == 250


@pytest.mark.parametrize(
    ("extensions", "reason"),
    [(LOCK_STEP, "does not offer"), (("PIPELINING",), "does not offer"), (("CHUNKING",), "not")],
)
async def test_without_the_extensions_there_is_no_window_and_no_canary(
    extensions: tuple[str, ...], reason: str
) -> None:
    async with serving(Script(extensions=extensions)) as server, connected(server, window=4) as session:
        assert (session.window, session.doubtful) == (1, False)
        assert reason in session.narrowed
        assert code((await sent(session, "a"))[0].body) == 250
    assert not any(line.startswith("BDAT") for line in server.lines)


CANARY_FAULTS: dict[str, str | Fault] = {
    "close": scripted_smtp.hang_up,
    "reset": scripted_smtp.reset,
    "silence": scripted_smtp.silence,
    "421": last_words(b"421 4.3.2 no\r\n"),
    "taken": "250 2.0.0 taken",
    "two codes": "503-no\r\n250 yes",
    "junk": scripted_smtp.junk,
    "an answer too many": "503 no\r\n250 ok\r\n250 ok\r\n250 ok",
}


@pytest.mark.parametrize("fault", CANARY_FAULTS.values(), ids=CANARY_FAULTS.keys())
async def test_a_canary_that_leaves_doubt_costs_the_connection_and_no_mail(fault: str | Fault) -> None:
    """Another one is opened without it."""

    class Odd(Conversation):
        async def _bdat(self) -> None:
            await self.chunk(6)
            await (self.say(fault) if isinstance(fault, str) else fault(self))

    async with serving(Script(extensions=CHUNKING), Odd) as server:
        account = Account(server.port, command_timeout=patience(fault))
        session = await smtp.connect(account, hello="client.example.com", window=4)
        assert (session.window, session.doubtful) == (1, True)
        assert "BDAT" in session.narrowed
        assert code((await sent(session, "a"))[0].body) == 250
        await session.close()
    assert server.bodies == [wire("a")]
    assert len(server.conversations) == 2


@pytest.mark.parametrize("answer", ["500 5.5.1 what?", "502 5.5.1 not here", "503 5.5.1 not now"])
async def test_a_server_that_offers_chunking_and_has_none_is_found_out(answer: str) -> None:
    """Its refusal of BDAT is no message's fault, small or large."""
    for window, size in ((4, 1), (1, 3)):
        script = Script({"BODY": [answer], "BDAT": [answer]}, CHUNKING)
        async with serving(script) as server, connected(server, window=window) as session:
            await session.send(message("a"), Text([b"x\r\n"] * size))
            session.finish()
            (only,) = [answers async for answers in one_by_one(session)]
            assert "BDAT" in session.distrust
        assert (only.body, only.data) == (None, None)
        assert only.cut is not None
        assert only.cut.stage is Stage.LOCAL


@pytest.mark.parametrize("verb", ["RSET", "MAIL", "RCPT", "BODY"])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_whatever_goes_wrong_in_a_window_every_message_is_accounted_for(verb: str, fault: str | Fault) -> None:
    """The second of four transactions meets the fault, with all of them on their way."""
    turn = 2 if verb in ("RSET", "MAIL") else 1  # behind the canary's
    script = Script({verb: [*[scripted_smtp.DEFAULTS[verb]] * turn, fault, scripted_smtp.DEFAULTS[verb]]}, CHUNKING)
    wait = patience(fault)
    async with (
        serving(script) as server,
        connected(server, command_timeout=wait, data_timeout=wait, window=4) as session,
    ):
        got = await sent(session, "a", "b", "c", "d")
        await session.close()
    assert [answers.transaction.queue_id for answers in got] == ["a", "b", "c", "d"][: len(got)]
    stored = set(server.bodies)
    for answers in got:
        if code(answers.body) == 250:
            assert plain(answers.transaction.queue_id) in stored
        elif session.trouble is not None and code(answers.body) == 0 and answers.mail is None:
            assert answers.last_byte_sent or plain(answers.transaction.queue_id) not in stored
    if fault in ("451 4.3.0 later", "554 5.3.0 never") and verb != "RSET":
        assert [code(answers.body) for answers in got if answers.transaction.queue_id != "b"] == [250] * 3
        assert code(got[1].body) != 250


async def test_a_lost_connection_leaves_all_that_was_on_its_way_in_doubt() -> None:
    """Behind the one whose answers had begun, each says that its last byte was sent."""
    script = Script({"BODY": ["250 ok", scripted_smtp.hang_up]}, CHUNKING)
    async with serving(script) as server, connected(server, window=3) as session:
        first, second, third, fourth = await sent(session, "a", "b", "c", "d")
    assert code(first.body) == 250
    assert second.cut is not None
    assert second.last_byte_sent
    assert (third.untried, third.last_byte_sent) == (True, True)
    assert (fourth.untried, fourth.last_byte_sent) == (True, False)


async def test_stopping_finishes_the_window_and_begins_nothing() -> None:
    """All that left is answered; what waited for room comes back untried."""
    async with serving(Script(extensions=CHUNKING)) as server, connected(server, window=2) as session:
        for name in "abcd":
            await session.send(message(name), text(name))
        for _ in range(3):
            await asyncio.sleep(0)
        session.finish(stopping=True)
        got = [answers async for answers in one_by_one(session)]
    assert [code(answers.body) for answers in got] == [250, 250, 0, 0]
    assert all(answers.untried and not answers.last_byte_sent for answers in got[2:])
    assert session.trouble is None
    assert len(server.bodies) == 2


async def test_a_changed_message_is_passed_over_and_the_window_goes_on() -> None:
    """Nothing of it was said, so nothing is lost by leaving it out."""
    async with serving(Script(extensions=CHUNKING)) as server, connected(server, window=4) as session:
        for name in "abc":
            body = text(name)
            body.still_the_same = name != "b"
            await session.send(message(name), body)
        session.finish()
        got = [answers async for answers in one_by_one(session)]
    assert [(answers.changed, code(answers.body)) for answers in got] == [(False, 250), (True, 0), (False, 250)]
    assert session.trouble is None
    assert server.bodies == [plain("a"), plain("c")]


async def test_a_large_message_is_alone_on_its_way_and_in_order() -> None:
    """It waits until what is before it is settled, and goes as a chunk and an empty last one."""
    async with serving(Script(extensions=CHUNKING)) as server, connected(server, window=4) as session:
        large = [b"x" * 70 + b"\r\n"] * 20_000

        async def feed() -> None:
            for name in "abcde":
                assert await session.send(message(name), Text(large) if name == "c" else text(name))
            session.finish()

        feeder = asyncio.create_task(feed())
        got = [answers async for answers in one_by_one(session)]
        await feeder
    assert [code(answers.body) for answers in got] == [250] * 5
    assert server.bodies == [plain("a"), plain("b"), b"".join(large), plain("d"), plain("e")]
    said = [line for line in server.lines if line.startswith("BDAT")]
    assert said[4:6] == [f"BDAT {len(large) * 72}", "BDAT 0 LAST"]


@pytest.mark.parametrize("answer", ["552 5.3.4 too big", "452 4.3.1 full"])
async def test_a_refused_chunk_is_the_message_s_fault_and_nothing_is_committed(answer: str) -> None:
    script = Script({"BDAT": [answer]}, CHUNKING)
    async with serving(script) as server, connected(server) as session:
        await session.send(message("a"), Text([b"x\r\n"] * 3))
        await session.send(message("b"), text("b"))
        session.finish()
        first, second = [answers async for answers in one_by_one(session)]
    assert (code(first.data), first.body, first.cut) == (int(answer[:3]), None, None)
    assert code(second.body) == 250
    assert server.bodies == [wire("b")]


@dataclass
class Stored(Text):
    """A message that stands in a file."""

    file: BinaryIO = field(default_factory=lambda: open(os.devnull, "rb"))  # noqa: SIM115
    pure = True

    @property
    def whole(self) -> None:
        return None

    @property
    def copyable(self) -> Copyable:  # type: ignore[override]
        return Copyable(self.pieces[0], self.file, 100, self.size - len(self.pieces[0]))


@asynccontextmanager
async def stored(path: Path, count: int = 30_000) -> AsyncIterator[Stored]:
    header, rest = b"Subject: large\r\n\r\n", b"." + b"x" * 69 + b"\r\n"
    path.write_bytes(b"?" * 100 + rest * count)  # noqa: ASYNC240
    with path.open("rb") as file:
        yield Stored([header, *[rest * 1000] * (count // 1000)], file=file)


@pytest.mark.parametrize("way", ["sendfile", "chunks", "tls", "data"])
async def test_a_large_file_arrives_whole_however_it_is_copied(
    way: str, pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the kernel where it can, by us where the loop cannot, over TLS, and by DATA; others before and behind."""
    made = script(pki, "tls") if way == "tls" else Script()
    made.extensions = ("PIPELINING",) if way == "data" else CHUNKING
    if way == "chunks":

        async def cannot(*_: object, **__: object) -> int:
            raise NotImplementedError

        monkeypatch.setattr(asyncio.get_running_loop(), "sendfile", cannot)
    async with serving(made) as server, stored(tmp_path / "large") as body:
        security = "tls" if way == "tls" else "none"
        account = Account(server.port, security=security, tls=Tls(ca_file=pki.ca_file))
        session = await smtp.connect(account, hello="client.example.com")
        for name, one in (("a", text("a")), ("b", body)):
            await session.send(message(name), one)
        session_over = asyncio.create_task(session.send(message("c"), text("c")))
        got: list[Answers] = []
        while len(got) < 3:
            got += await session.next_answers()
        assert await session_over
        await session.close()
    assert [code(answers.body) for answers in got] == [250] * 3
    expected = b"".join(body.pieces)
    assert server.bodies == [wire("a"), expected.replace(b"\n.", b"\n..") if way == "data" else expected, wire("c")]


async def test_the_kernel_copies_in_pieces_that_a_slow_line_can_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them has `stall` seconds, and nothing is heard meanwhile."""
    loop, counts = asyncio.get_running_loop(), []
    copy = loop.sendfile

    async def counted(transport: asyncio.Transport, file: BinaryIO, offset: int, count: int, *, fallback: bool) -> int:
        counts.append(count)
        return await copy(transport, file, offset, count, fallback=fallback)

    monkeypatch.setattr(loop, "sendfile", counted)
    async with (
        serving(Script(extensions=CHUNKING)) as server,
        connected(server) as session,
        stored(tmp_path / "large") as body,
    ):
        await session.send(message("a"), body)
        session.finish()
        (only,) = [answers async for answers in one_by_one(session)]
    assert code(only.body) == 250
    assert max(counts) <= 1 << 18


async def test_the_answer_to_a_chunk_may_take_as_long_as_one_to_a_message() -> None:
    """Megabytes of it may still be on their way when its last byte has left us."""

    class Slow(Conversation):
        async def chunk(self, size: int) -> bytes:
            if size:
                await asyncio.sleep(SHORT * 2)
            return await super().chunk(size)

    async with (
        serving(Script(extensions=CHUNKING), Slow) as server,
        connected(server, command_timeout=SHORT) as session,
    ):
        await session.send(message("a"), Text([b"x\r\n"] * 3))
        session.finish()
        (only,) = [answers async for answers in one_by_one(session)]
    assert code(only.body) == 250


async def test_each_answer_in_a_window_has_its_own_deadline() -> None:
    """The clock of each begins with the answer before it; bytes that drip do not stop it."""

    async def slowly(conversation: Conversation) -> None:
        await asyncio.sleep(SHORT * 0.7)
        await conversation.say("250 ok")

    script = Script({"RSET": ["250 ok", slowly], "BODY": [slowly], "RCPT": ["250 ok", scripted_smtp.drip]}, CHUNKING)
    async with (
        serving(script) as server,
        connected(server, command_timeout=SHORT, data_timeout=SHORT, window=4) as session,
    ):
        began = time.monotonic()
        first, cut, untried = await sent(session, "a", "b", "c")
        took = time.monotonic() - began
    assert code(first.body) == 250
    assert cut.cut is not None
    assert cut.cut.stage is Stage.RCPT
    assert f"no answer to RCPT within {SHORT:g} s" in cut.cut.text
    assert untried.untried
    assert 3 * SHORT <= took < 4.5 * SHORT


async def test_a_file_that_shrinks_while_it_is_copied_is_not_committed(tmp_path: Path) -> None:
    async with (
        serving(Script(extensions=CHUNKING)) as server,
        connected(server) as session,
        stored(tmp_path / "large") as body,
    ):
        os.truncate(tmp_path / "large", 1_500_000)
        await session.send(message("a"), body)
        session.finish()
        (only,) = [answers async for answers in one_by_one(session)]
    assert only.changed
    assert not only.last_byte_sent
    assert server.bodies == []


async def test_a_server_that_refuses_in_the_middle_of_a_copy_and_goes_is_heard(tmp_path: Path) -> None:
    async def interrupt(conversation: Conversation) -> None:
        await conversation.say("552 5.3.4 too big")
        raise scripted_smtp.Gone

    class Early(Conversation):
        async def chunk(self, size: int) -> bytes:
            if size > 1_000_000:
                await interrupt(self)
            return await super().chunk(size)

    async with serving(Script(extensions=CHUNKING), Early) as server, stored(tmp_path / "large", 60_000) as body:
        session = await smtp.connect(Account(server.port), hello="client.example.com")
        await session.send(message("a"), body)
        session.finish()
        (only,) = [answers async for answers in one_by_one(session)]
        session.abort()
        await session._wire.gone.wait()
    assert only.body is None
    assert not only.last_byte_sent
    assert server.bodies == []


@pytest.mark.parametrize("security", ["none", "tls"])
async def test_a_server_that_stops_reading_a_large_file_is_given_up(
    security: str, pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that has said why, and goes on holding the line."""

    class Full(Conversation):
        async def chunk(self, size: int) -> bytes:
            if size > 1_000_000:
                await self.say("452 4.3.1 full")
                await asyncio.sleep(10 * LONG)
            return await super().chunk(size)

    monkeypatch.setattr(smtp, "BODY_STALL", SHORT)
    made = script(pki, "tls") if security == "tls" else Script()
    made.extensions, made.receive_buffer = CHUNKING, 65536
    async with serving(made, Full) as server, stored(tmp_path / "large", 300_000) as body:
        account = Account(server.port, security=security, tls=Tls(ca_file=pki.ca_file), command_timeout=SHORT)
        session = await smtp.connect(account, hello="client.example.com")
        began = time.monotonic()
        await session.send(message("a"), body)
        await session.send(message("b"), text("b"))
        session.finish()
        first, second = [answers async for answers in one_by_one(session)]
        assert time.monotonic() - began < LONG
        session.abort()
        await session._wire.gone.wait()
    assert first.cut is not None
    assert not first.last_byte_sent
    assert (second.untried, second.last_byte_sent) == (True, False)
    assert code(first.data) == 452 or "took nothing" in first.cut.text
    assert server.bodies == []


async def test_a_file_that_grows_puts_nothing_behind_its_chunk() -> None:
    """More octets than were announced would be taken for commands."""
    async with serving(Script(extensions=CHUNKING)) as server, connected(server) as session:
        await session.send(message("a"), Text([b"x\r\n", b"QUIT\r\n"], claimed=5))
        session.finish()
        (only,) = [answers async for answers in one_by_one(session)]
    assert only.changed
    assert server.bodies == []
    assert "QUIT" not in server.lines


# AUTH

Login = Callable[[Conversation, str], Awaitable[bool]]


def decoded(line: str) -> bytes:
    return b64decode(line)


async def auth_plain(conversation: Conversation, line: str) -> bool:
    return scripted_smtp.plain_fields(line) == ["", "relay", "pässword"]


async def auth_login(conversation: Conversation, line: str) -> bool:
    await conversation.say("334 UGFzc3dvcmQ6")
    return decoded(line.split()[2]) == b"relay" and decoded(await conversation.line()) == "pässword".encode()


async def auth_cram_md5(conversation: Conversation, line: str) -> bool:
    await conversation.say("334 " + b64encode(b"<1.2@scripted>").decode())
    digest = hmac.new("pässword".encode(), b"<1.2@scripted>", "md5").hexdigest()
    return decoded(await conversation.line()).decode() == f"relay {digest}"


def auth_scram(*, knows_password: bool = True) -> Login:
    async def act(conversation: Conversation, line: str) -> bool:
        bare = decoded(line.split()[2]).decode().removeprefix("n,,")
        first = f"r={bare.partition('r=')[2]}server,s={b64encode(b'salt').decode()},i=4096"
        await conversation.say("334 " + b64encode(first.encode()).decode())
        final = decoded(await conversation.line()).decode()
        without_proof, _, proof = final.rpartition(",p=")
        signed = f"{bare},{first},{without_proof}".encode()
        salted = hashlib.pbkdf2_hmac("sha256", "pässword".encode(), b"salt", 4096)
        client_key = hmac.new(salted, b"Client Key", "sha256").digest()
        signature = hmac.new(hashlib.sha256(client_key).digest(), signed, "sha256").digest()
        if bytes(a ^ b for a, b in zip(client_key, signature, strict=True)) != decoded(proof):
            return False
        server_key = hmac.new(salted if knows_password else b"?", b"Server Key", "sha256").digest()
        answer = b"v=" + b64encode(hmac.new(server_key, signed, "sha256").digest())
        await conversation.say("334 " + b64encode(answer).decode())
        return await conversation.line() == ""

    return act


LOGINS: dict[str, Login] = {
    "SCRAM-SHA-256": auth_scram(),
    "PLAIN": auth_plain,
    "LOGIN": auth_login,
    "CRAM-MD5": auth_cram_md5,
}


@pytest.mark.parametrize("mechanism", PASSWORD_MECHANISMS)
@pytest.mark.parametrize("password", ["pässword", "wrong"])
async def test_each_mechanism_logs_in_once(pki: Pki, mechanism: str, password: str) -> None:
    """The best offered mechanism and no second try, whatever comes of it."""
    worse = PASSWORD_MECHANISMS[PASSWORD_MECHANISMS.index(mechanism) :]
    offers = ("AUTH " + " ".join(reversed(worse)),)
    async with serving(script(pki, "tls", login=LOGINS[mechanism], after_tls=offers)) as server:
        account = Account(server.port, security="tls", auth="password", tls=Tls(ca_file=pki.ca_file))
        if password == "wrong":
            response = await trouble(account, user="relay", password=password)
            assert str(response) == "535 5.7.8 wrong user or password"
        else:
            session = await smtp.connect(account, user="relay", password=password, hello="client.example.com")
            await session.close()
    assert [line.split()[1] for line in server.lines if line.startswith("AUTH")] == [mechanism]


async def test_a_server_that_does_not_know_the_password_is_not_trusted(pki: Pki) -> None:
    offers = ("AUTH SCRAM-SHA-256",)
    async with serving(script(pki, "tls", login=auth_scram(knows_password=False), after_tls=offers)) as server:
        account = Account(server.port, security="tls", auth="password", tls=Tls(ca_file=pki.ca_file))
        response = await trouble(account, user="relay", password="pässword")
    assert response.stage is Stage.AUTH
    assert "does not know the password" in response.text


@pytest.mark.parametrize("password", ["nul\0", "\udce4"])
async def test_a_password_that_no_mechanism_can_say_is_told(pki: Pki, password: str) -> None:
    async with serving(script(pki, "tls", after_tls=("AUTH PLAIN",))) as server:
        account = Account(server.port, security="tls", auth="password", tls=Tls(ca_file=pki.ca_file))
        response = await trouble(account, user="relay", password=password)
    assert response.stage is Stage.AUTH
    assert response.text.startswith("user or password")
    assert not any(line.startswith("AUTH") for line in server.lines)


@pytest.mark.parametrize("offers", [(), ("AUTH GSSAPI NTLM",)])
async def test_a_server_without_a_mechanism_of_ours_is_told(pki: Pki, offers: tuple[str, ...]) -> None:
    async with serving(script(pki, "tls", after_tls=offers)) as server:
        account = Account(server.port, security="tls", auth="password", tls=Tls(ca_file=pki.ca_file))
        response = await trouble(account, user="relay", password="x")
    assert response.stage is Stage.AUTH
    assert "for AUTH" in response.text


@pytest.mark.parametrize("mechanism", ["XOAUTH2", "OAUTHBEARER"])
@pytest.mark.parametrize("token", ["good", "stale", "good" * 500, "stale" * 2000])
async def test_an_access_token_logs_in(pki: Pki, mechanism: str, token: str) -> None:
    """Also one that is too long for a command, as Microsoft's are: it stands behind the server's challenge then."""

    async def login(conversation: Conversation, line: str) -> bool:
        assert len(line) <= 510
        words = line.split()
        if len(words) == 2:
            await conversation.say("334 ")
            words.append(await conversation.line())
        if b"auth=Bearer good" in decoded(words[2]):
            return True
        await conversation.say("334 " + b64encode(b'{"status":"invalid_token"}').decode())
        assert await conversation.line() in ("", "AQ==")
        return False

    async with serving(script(pki, "tls", login=login, after_tls=(f"AUTH {mechanism} PLAIN",))) as server:
        account = Account(server.port, security="tls", auth="oauth2", tls=Tls(ca_file=pki.ca_file))
        if token.startswith("good"):
            session = await smtp.connect(account, user="relay", password=token, hello="client.example.com")
            await session.close()
        else:
            response = await trouble(account, user="relay", password=token)
            assert (response.stage, response.code) == (Stage.AUTH, 535)


# security = "auto"


@dataclass
class Memory:
    seen: tuple[str, int] | None = None

    def best(self) -> tuple[str, int] | None:
        return self.seen

    def saw(self, level: str, port: int) -> None:
        self.seen = (level, port)


async def test_auto_takes_the_safest_there_is_and_remembers_it(pki: Pki) -> None:
    for security, context in (("tls", "tls"), ("starttls", "starttls")):
        memory = Memory()
        async with serving(script(pki, context)) as server:
            account = Account(server.port, security="auto", tls=Tls(ca_file=pki.ca_file))
            session = await smtp.connect(account, hello="client.example.com", remembered=memory)
            assert session.tls
            await session.close()
        assert memory.seen == (security, server.port)


@dataclass
class Broken(Memory):
    """A memory on a disk that fails."""

    error: Exception = field(default_factory=lambda: OSError(28, "No space left on device"))
    at: str = "saw"

    def best(self) -> tuple[str, int] | None:
        if self.at == "best":
            raise self.error
        return self.seen

    def saw(self, level: str, port: int) -> None:
        raise self.error


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), ValueError("/state/tls.json: is damaged")])
async def test_auto_without_its_memory_does_not_begin(error: Exception) -> None:
    """Who cannot know what the server offered before must not take less."""
    async with serving(Script()) as server:
        account = Account(server.port, security="auto", allow_plaintext=True)
        with pytest.raises(RouteTrouble, match=r"tls\.json") as caught:
            await smtp.connect(account, hello="c.example.com", remembered=Broken(error=error, at="best"))
    assert caught.value.response.stage is Stage.TLS
    assert str(error) in caught.value.response.text
    assert server.conversations == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("/state/tls.json: is damaged")])
@pytest.mark.parametrize("seen", [None, ("none", 25)])
async def test_auto_that_cannot_remember_more_safety_holds_the_route(
    pki: Pki, seen: tuple[str, int] | None, error: Exception
) -> None:
    """The connection is let go, and what is wrong with tls.json is told."""
    async with serving(script(pki, "starttls")) as server:
        account = Account(server.port, security="auto", tls=Tls(ca_file=pki.ca_file))
        with pytest.raises(RouteTrouble, match=r"tls\.json") as caught:
            await smtp.connect(account, hello="c.example.com", remembered=Broken(seen, error))
        await closed(server.conversations[-1])
    assert caught.value.response.stage is Stage.TLS
    assert str(error) in caught.value.response.text


async def closed(conversation: Conversation) -> None:
    """Wait until the client has hung up."""
    async with asyncio.timeout(LONG):
        while not conversation.reader.at_eof():
            if conversation.reader.exception() is not None:
                return
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(("security", "seen"), [("starttls", ("starttls", 1)), ("none", None), ("none", ("none", 1))])
async def test_auto_that_cannot_remember_another_port_goes_on(
    pki: Pki, security: str, seen: tuple[str, int] | None
) -> None:
    """A full disk stops no mail where it costs no safety."""
    async with serving(script(pki, "starttls") if security == "starttls" else Script()) as server:
        account = Account(server.port, security="auto", allow_plaintext=True, tls=Tls(ca_file=pki.ca_file))
        session = await smtp.connect(account, hello="c.example.com", remembered=Broken(seen))
        assert bool(session.tls) is (security == "starttls")
        await session.close()


async def test_auto_refuses_less_than_it_has_seen(pki: Pki) -> None:
    async with serving(Script()) as server:
        account = Account(server.port, security="auto", allow_plaintext=True)
        with pytest.raises(RouteTrouble, match="less than starttls is refused"):
            await smtp.connect(account, hello="c.example.com", remembered=Memory(("starttls", server.port)))
    assert not any(line.startswith("MAIL") for line in server.lines)


@pytest.mark.parametrize(
    ("allow", "auth", "plain"), [(True, "none", True), (False, "none", False), (True, "password", False)]
)
async def test_auto_is_plain_only_if_allowed_and_without_a_password(allow: bool, auth: str, plain: bool) -> None:
    async with serving(Script()) as server:
        account = Account(server.port, security="auto", allow_plaintext=allow, auth=auth)
        if plain:
            session = await smtp.connect(account, hello="c.example.com")
            assert session.tls == ""
            await session.close()
        else:
            assert "no STARTTLS" in (await trouble(account, user="relay", password="x")).text


@pytest.mark.parametrize("answer", ["535 5.7.8 no", scripted_smtp.hang_up])
async def test_auto_does_not_try_a_refused_password_again(pki: Pki, answer: str | Fault) -> None:
    async with serving(script(pki, "tls", answers={"AUTH": [answer]})) as server:
        account = Account(server.port, security="auto", auth="password", tls=Tls(ca_file=pki.ca_file))
        response = await trouble(account, user="relay", password="x")
    assert response.stage is Stage.AUTH
    assert "on port" not in response.text  # which lists the ways that were tried
