"""submit.sock: what is answered is on disk, what is torn is forgotten, and no user can harm the others."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import socket
import stat
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from mailrelayd.cli.handover import Handed, NotHandedError, hand_over
from mailrelayd.clock import SystemClock
from mailrelayd.config.light import Light
from mailrelayd.config.units import Rate
from mailrelayd.operate import events, sockets
from mailrelayd.outbound.caller import Limits
from mailrelayd.outbound.handin import Person, Site
from mailrelayd.outbound.incoming import Incoming
from mailrelayd.outbound.intake import Intake, Terms
from mailrelayd.outbound.spool import Spool
from mailrelayd.outbound.submission import CHUNK, END, LINE, Options, encode
from tests.queue_contract import entries, until
from tests.servers.process import short_directory
from tests.test_spool import Reports

T = TypeVar("T")

SITE = Site("corp.test", frozenset({"web1"}))
MAIL = b"From: a@example.com\nSubject: x\n\nhello\n"
OPTIONS = Options("sendmail", recipients=("to@example.org",))
SECONDS = 20.0  # far more than anything here takes
TERMS = Terms(SITE, max_message_size=1 << 20)


class Bench:
    """A spool, the socket before it, and what a user of this machine does with it."""

    def __init__(self, directory: Path, terms: Terms, limits: Limits) -> None:
        self.state = directory / "state"
        (self.state / "run").mkdir(parents=True)
        self.spool_directory = directory / "spool"
        self.spool_directory.mkdir()
        self.light = Light(spool=self.spool_directory, state=self.state)
        self.path = sockets.submit_socket(self.state)
        self.clock = SystemClock()
        self.threads = ThreadPoolExecutor(16)
        self.spool = Spool(self.spool_directory, node="test", clock=self.clock, report=Reports())
        self.intake = Intake(self.path, self.spool, self.clock, terms, limits)

    async def hand_over(self, options: Options = OPTIONS, message: bytes = MAIL) -> Handed:
        """As `submit` and `sendmail` do it."""
        return await self.beside(hand_over, options, message, self.light, lambda _: None)

    async def beside(self, work: Callable[..., T], *given: object) -> T:
        """In a thread that is none of the daemon's."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, work, *given)

    async def refused(self, options: Options = OPTIONS, message: bytes = MAIL) -> NotHandedError:
        """The refusal; it must be one."""
        with pytest.raises(NotHandedError) as caught:
            await self.hand_over(options, message)
        return caught.value

    @contextmanager
    def connected(self, said: bytes = b"") -> Iterator[socket.socket]:
        """Somebody who speaks the protocol as badly as he likes."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(SECONDS)
            connection.connect(str(self.path))
            if said:
                connection.sendall(said)
            yield connection

    async def said(self, said: bytes, *, end: bool = False) -> dict[str, Any] | None:
        """The answer to these bytes; None: the connection was closed without any. `end`: no more comes."""

        def talk() -> bytes:
            with self.connected() as connection:
                try:
                    connection.sendall(said)
                    if end:
                        connection.shutdown(socket.SHUT_WR)
                except ConnectionError:
                    pass  # it was refused before it was read
                return answer(connection)

        line = await self.beside(talk)
        return json.loads(line) if line else None

    def close(self) -> None:
        """The process is gone."""
        self.spool.close()
        self.threads.shutdown()

    def queued(self) -> list[str]:
        """What stands in queue/, unfinished things included."""
        return sorted(os.listdir(self.spool_directory / "queue"))

    async def clean(self) -> None:
        """Until nothing is left of what was not taken."""
        await until(lambda: not self.queued())


def answer(connection: socket.socket) -> bytes:
    """All that the daemon says."""
    said = b""
    try:
        while piece := connection.recv(1 << 16):
            said += piece
    except ConnectionError:
        pass
    return said


@asynccontextmanager
async def serving(terms: Terms = TERMS, **limits: Any) -> AsyncIterator[Bench]:
    """A bench whose socket listens."""
    with short_directory("mr-submit") as directory:
        bench = Bench(directory, terms, Limits(**limits))
        try:
            await bench.spool.open_up()
            await bench.intake.start()
            try:
                async with asyncio.timeout(60):
                    yield bench
            finally:
                await bench.intake.close()
        finally:
            bench.close()


def chunked(message: bytes, size: int = CHUNK) -> bytes:
    """A message as it goes over the socket, with its end."""
    pieces = [message[start : start + size] for start in range(0, len(message), size)]
    return b"".join([*(struct.pack(">I", len(piece)) + piece for piece in pieces), END])


# -- what is taken -----------------------------------------------------------------------------------------------


async def test_a_message_that_was_answered_is_queued() -> None:
    """Its bytes, its envelope, and whose it is: the record is there when the answer is."""
    async with serving() as bench:
        handed = await bench.hand_over(message=b"To: root\nFrom: a@x\n\nhello\r\n\xff.\n")
        assert bench.queued() == [f"{handed.queue_id}.eml", f"{handed.queue_id}.json"]
        stored = (bench.spool_directory / "queue" / f"{handed.queue_id}.eml").read_bytes()
        assert stored == b"To: root@corp.test\nFrom: a@x\n\nhello\r\n\xff.\n"
        (message,) = [entry.message for entry in await entries(bench.spool)]
        assert (message.queue_id, message.rule, message.producer) == (handed.queue_id, "submit", "submit")
        assert (message.uid, message.size) == (os.getuid(), len(stored))
        assert message.envelope.recipients == ("to@example.org",)
        assert message.envelope.sender.endswith("@corp.test")
        assert bench.spool.figures().due == 1


async def test_it_is_said_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, with who it was."""
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(events, "message_queued", lambda **event: told.append(event))
    async with serving() as bench:
        handed = await bench.hand_over()
    assert [(one["queue_id"], one["uid"], one["producer"]) for one in told] == [
        (handed.queue_id, os.getuid(), "submit")
    ]


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 600_000])
@pytest.mark.parametrize("piece", [1000, CHUNK])
async def test_a_message_of_any_size_arrives_whole(size: int, piece: int) -> None:
    """In whatever pieces it comes."""
    message = MAIL + bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    async with serving() as bench:
        said = await bench.said(encode(OPTIONS) + chunked(message, piece))
        assert said is not None
        assert said["status"] == 0
        assert (bench.spool_directory / "queue" / f"{said['queue_id']}.eml").read_bytes() == message


async def test_everybody_may_connect() -> None:
    """The socket is for every user of the machine."""
    async with serving() as bench:
        assert stat.S_IMODE(bench.path.stat().st_mode) == 0o666
    assert not bench.path.exists()


async def test_the_same_key_is_taken_once() -> None:
    """Also when both come at the same time; the answer is the same."""
    async with serving() as bench:
        said = encode(replace(OPTIONS, key="k")) + chunked(MAIL)
        found = await asyncio.gather(*(bench.said(said) for _ in range(6)))
        ids = {one["queue_id"] for one in found if one}
        assert len(ids) == 1
        assert sorted(one["duplicate"] for one in found if one) == [False] + [True] * 5
        await until(lambda: len(bench.queued()) == 2)
        other = await bench.said(encode(replace(OPTIONS, key="l")) + chunked(MAIL))
        assert other is not None
        assert other["duplicate"] is False


async def test_a_reload_changes_the_terms() -> None:
    """From the next message on."""
    async with serving() as bench:
        await bench.hand_over()
        bench.intake.set_terms(replace(TERMS, max_message_size=10))
        assert "larger than 10 bytes" in str(await bench.refused())


async def test_it_runs_until_it_is_stopped() -> None:
    """`run` is what the daemon's task group wants."""
    with short_directory("mr-submit") as directory:
        bench = Bench(directory, TERMS, Limits())
        stop = asyncio.Event()
        try:
            await bench.spool.open_up()
            running = asyncio.create_task(bench.intake.run(stop))
            await until(bench.path.exists)
            assert (await bench.hand_over()).queue_id
            stop.set()
            await asyncio.wait_for(running, SECONDS)
            assert not bench.path.exists()
        finally:
            bench.close()


# -- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message", "status", "reason"),
    [
        (OPTIONS, b"", os.EX_DATAERR, "the message is empty"),
        (OPTIONS, b"A: \0\n\nb", os.EX_DATAERR, "NUL byte"),
        (OPTIONS, b"X-Approval-Request: 1\n\nb", os.EX_DATAERR, "sendmail opens no approval request"),
        (replace(OPTIONS, recipients=()), MAIL, os.EX_DATAERR, "no recipient"),
        (replace(OPTIONS, recipients=("a@x\r\nDATA",)), MAIL, os.EX_DATAERR, "'a@x"),
        (replace(OPTIONS, recipients=tuple(f"{n}@x" for n in range(10_001))), MAIL, os.EX_DATAERR, "more than 10000"),
        (replace(OPTIONS, recipients=("a" * LINE,)), MAIL, os.EX_DATAERR, "longer than 1 MiB"),
        (OPTIONS, MAIL + b"x" * (1 << 20), os.EX_DATAERR, "larger than 1048576 bytes"),
        (OPTIONS, b"Subject: " + b"x" * (1 << 20), os.EX_DATAERR, "1048576 bytes"),
    ],
)
async def test_what_can_never_be_sent_is_refused_at_once(
    options: Options, message: bytes, status: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To whoever asks and in the log; nothing of it stays."""
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(events, "submit_refused", lambda **event: told.append(event))
    async with serving() as bench:
        refused = await bench.refused(options, message)
        assert refused.status == status
        assert reason in str(refused)
        assert reason in told[0]["reason"]
        assert told[0]["uid"] == os.getuid()
        await bench.clean()


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"{}",
        encode(OPTIONS),
        encode(OPTIONS)[:-1],
        encode(OPTIONS) + b"\0\0",
        encode(OPTIONS) + chunked(MAIL)[: -len(END)],
        encode(OPTIONS) + chunked(MAIL)[:-1],
        encode(OPTIONS) + struct.pack(">I", 100) + MAIL,
        encode(OPTIONS) + chunked(MAIL + b"x" * 500_000)[:-1],
    ],
)
async def test_a_client_killed_at_any_moment_hands_in_nothing(said: bytes) -> None:
    """Whatever it had said: only the explicit end counts."""
    async with serving() as bench:
        assert await bench.said(said, end=True) is None
        await bench.clean()
        assert (await bench.hand_over()).queue_id


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", "not a JSON object"),
        (b"\n", "not a JSON object"),
        (b"\xff" * 100 + b"\n", "not a JSON object"),
        (b'{"version": 99}\n', "not of version 1"),
        (b"x" * (LINE + CHUNK + 2), "longer than 1 MiB"),
        (encode(OPTIONS) + struct.pack(">I", CHUNK + 1), "a chunk has at most"),
        (encode(OPTIONS) + b"\xff\xff\xff\xff", "a chunk has at most"),
        (encode(OPTIONS) + (struct.pack(">I", 1) + b"x") * 1000, "chunks are too small"),
        (encode(replace(OPTIONS, sender="\ud800")), "no proper sender"),
        (encode(replace(OPTIONS, recipients=("a@b.test", "\udfff@b.test"))), "no proper recipients"),
    ],
)
async def test_what_breaks_the_protocol_is_refused_and_closed(said: bytes, reason: str) -> None:
    """Wrong lengths, other protocols, a first line that does not end, text that is none."""
    async with serving() as bench:
        found = await bench.said(said)
        assert found is not None
        assert reason in found["reason"]
        assert found["status"] in (os.EX_PROTOCOL, os.EX_DATAERR)
        await bench.clean()


async def test_a_slow_client_is_let_go() -> None:
    """Before its options, in the middle of a chunk, and by dripping."""
    async with serving(options_within=0.05, chunk_within=0.05, message_within=0.3) as bench:
        for said in (b"", b"{", encode(OPTIONS), encode(OPTIONS) + struct.pack(">I", 10) + b"x"):
            found = await bench.said(said)
            assert found is not None
            assert "did not arrive in time" in found["reason"]

        async def drip() -> dict[str, Any]:
            reader, writer = await asyncio.open_unix_connection(str(bench.path))
            writer.write(encode(OPTIONS))
            answered = asyncio.create_task(reader.readline())
            while not answered.done():
                writer.write(struct.pack(">I", 1) + b"x")
                await asyncio.wait([answered], timeout=0.01)
            writer.transport.abort()
            return dict(json.loads(answered.result()))

        assert "did not arrive in time" in (await drip())["reason"]
        await bench.clean()


async def test_a_client_that_never_reads_its_answer_is_let_go() -> None:
    """Its message is taken all the same: the answer fits into the kernel's buffer."""
    async with serving() as bench:
        with bench.connected(encode(OPTIONS) + chunked(MAIL)):
            await until(lambda: len(bench.queued()) == 2)


async def test_nothing_is_taken_below_min_free() -> None:
    """The caller keeps it, and is told which key says so."""
    async with serving(replace(TERMS, min_free=1 << 60)) as bench:
        refused = await bench.refused()
        assert refused.status == os.EX_TEMPFAIL
        assert "min_free" in refused.hint
        await bench.clean()


@pytest.mark.parametrize("step", ["begin", "write", "sync", "place"])
async def test_a_full_disk_is_the_callers_to_know(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At whichever step: 75, nothing is left, and the next message is taken."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with serving() as bench:
        with monkeypatch.context() as patch:
            if step == "begin":
                patch.setattr(bench.spool, "begin", full)
            elif step == "place":
                patch.setattr("mailrelayd.durable.Folder.move", full)
            else:
                patch.setattr(Incoming, step, full)
            refused = await bench.refused()
        assert refused.status == os.EX_TEMPFAIL
        assert "No space left on device" in str(refused)
        await bench.clean()
        assert (await bench.hand_over()).queue_id


async def test_an_unexpected_error_ends_one_connection_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug is said, and the daemon goes on."""
    bugs: list[str] = []
    monkeypatch.setattr(events, "daemon_bug", lambda **event: bugs.append(event["where"]))
    async with serving() as bench:
        with monkeypatch.context() as patch:
            patch.setattr("mailrelayd.outbound.local.person", lambda _: 1 / 0)
            assert await bench.said(encode(OPTIONS) + chunked(MAIL)) is None
        assert bugs == ["submit"]
        await bench.clean()
        assert (await bench.hand_over()).queue_id


# -- one user against the others ---------------------------------------------------------------------------------


async def test_a_user_waits_behind_his_own_messages() -> None:
    """Who opens more connections than he has turns waits for his own, and then goes on."""
    async with serving(served_each=2, patience=SECONDS) as bench:
        with ExitStack() as hostile:
            silent = [hostile.enter_context(bench.connected(b"{")) for _ in range(2)]
            waiting = asyncio.create_task(bench.hand_over())
            await asyncio.wait([waiting], timeout=0.2)
            assert not waiting.done()
            silent[0].close()
            assert (await waiting).queue_id


async def test_a_user_has_one_header_read_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hostile one takes seconds of a processor, which everybody's mail needs."""
    now, most = 0, 0

    def slowly(uid: int) -> Person:
        nonlocal now, most
        now += 1
        most = max(most, now)
        time.sleep(0.02)
        now -= 1
        return Person("somebody")

    monkeypatch.setattr("mailrelayd.outbound.local.person", slowly)
    async with serving() as bench:
        await asyncio.gather(*(bench.hand_over() for _ in range(6)))
    assert most == 1


async def test_a_user_who_asks_for_too_much_is_told_to_come_back() -> None:
    """After `patience` behind his own, at once above `each`; `again` says that it is not the message's fault."""
    async with serving(served_each=1, patience=0.05) as bench, _silent(bench, 1):
        found = await bench.said(encode(OPTIONS) + chunked(MAIL))
        assert found is not None
        assert (found["status"], found["again"]) == (os.EX_TEMPFAIL, True)
    async with serving(served_each=1, each=2) as bench, _silent(bench, 2):
        found = await bench.said(encode(OPTIONS) + chunked(MAIL))
        assert found is not None
        assert (found["status"], found["again"]) == (os.EX_TEMPFAIL, True)


@asynccontextmanager
async def _silent(bench: Bench, count: int) -> AsyncIterator[None]:
    """So many connections that say nothing, all of them accepted."""
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(bench.connected(b"{"))
        await until(lambda: len(bench.intake._connections) == count)
        yield


async def test_connections_of_everybody_are_limited() -> None:
    """One too many is told so at once."""
    async with serving(connections=3) as bench, _silent(bench, 3):
        found = await bench.said(b"")
        assert found is not None
        assert found["again"] is True


async def test_a_thousand_connections_exhaust_nothing() -> None:
    """All are served or told; afterwards the next message is taken, and no descriptor is gone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 3000:
        pytest.skip("needs 3000 descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 3000), hard))
    try:
        async with serving(options_within=0.2) as bench:
            before = len(os.listdir("/proc/self/fd"))
            with ExitStack() as hostile:
                for _ in range(1000):
                    connection = hostile.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                    connection.settimeout(SECONDS)
                    await until(lambda one=connection: one.connect_ex(str(bench.path)) == 0)  # type: ignore[misc]
                await until(lambda: len(bench.intake._connections) <= 64)
            assert (await bench.hand_over()).queue_id
            await until(lambda: len(os.listdir("/proc/self/fd")) <= before + 2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_producers_rate_is_held_by_waiting() -> None:
    """A short wait is waited for, without telling anybody."""
    async with serving(replace(TERMS, producer_rate=Rate(2, 0.3))) as bench:
        began = bench.clock.monotonic()
        for _ in range(4):
            await bench.hand_over()
        assert bench.clock.monotonic() - began >= 0.3
        assert len(bench.queued()) == 8


async def test_a_producers_rate_that_means_a_long_wait_is_said() -> None:
    """75, with the key that says so and when to come back."""
    async with serving(replace(TERMS, producer_rate=Rate(1, 3600.0))) as bench:
        await bench.hand_over()
        refused = await bench.refused()
        assert refused.status == os.EX_TEMPFAIL
        assert "[guard] producer_rate" in str(refused)
        assert refused.hint.startswith("try again in 3")
        bench.intake.set_terms(TERMS)
        assert (await bench.hand_over()).queue_id


async def test_refusals_do_not_fill_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """One user's are said some times a minute, however often he asks."""
    told: list[object] = []
    monkeypatch.setattr(events, "submit_refused", lambda **event: told.append(event))
    async with serving() as bench:
        for _ in range(50):
            await bench.said(b"\n")
    assert len(told) == 30


# -- the end -----------------------------------------------------------------------------------------------------


async def test_the_end_waits_for_what_is_being_made_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    """And its sender is told; who is in the middle of a message has handed in nothing."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async with serving() as bench:
        really = bench.spool.hand_in

        async def slowly(*given: Any) -> str:
            begun.set()
            await go_on.wait()
            return await really(*given)

        monkeypatch.setattr(bench.spool, "hand_in", slowly)
        with bench.connected(encode(OPTIONS) + chunked(MAIL)[:-1]) as torn:
            whole = asyncio.create_task(bench.hand_over())
            await begun.wait()
            closing = asyncio.create_task(bench.intake.close())
            await until(lambda: len(bench.intake._connections) == 1)
            go_on.set()
            await closing
            handed = await whole
            assert answer(torn) == b""
        assert bench.queued() == [f"{handed.queue_id}.eml", f"{handed.queue_id}.json"]


async def test_a_client_finds_the_folder_when_the_daemon_ends_before_it_answers() -> None:
    """With the same key, so that it cannot be sent twice."""
    with short_directory("mr-submit") as directory, _listener(directory) as (light, accepted):
        handing = asyncio.to_thread(hand_over, OPTIONS, MAIL, light)
        result, key = await asyncio.gather(handing, asyncio.to_thread(accepted))
        assert result == Handed("")
        (sidecar,) = (light.pickup / "new").glob("*.env.json")
        assert json.loads(sidecar.read_text())["idempotency_key"] == key
        assert sidecar.with_name(sidecar.name.removesuffix(".env.json")).read_bytes() == MAIL


@contextmanager
def _listener(directory: Path) -> Iterator[tuple[Light, Any]]:
    """A daemon that takes the whole message and then dies; what it was told as key."""
    light = Light(spool=directory / "spool", state=directory / "state")
    for folder in ("tmp", "new"):
        (light.pickup / folder).mkdir(parents=True)
    path = sockets.submit_socket(light.state)
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        listening.listen()

        def accepted() -> str:
            connection, _ = listening.accept()
            with connection:
                said = b""
                while not said.endswith(END):
                    said += connection.recv(1 << 16)
            return str(json.loads(said.partition(b"\n")[0])["key"])

        yield light, accepted


def test_who_hands_in_is_found_in_the_user_database(tmp_path: Path) -> None:
    """A user it does not know is his number; the domain is the first that is said and can be one."""
    from mailrelayd.outbound import local

    assert local.person(0).login == "root"
    assert local.person(3_999_999_999) == Person("3999999999")
    mailname = tmp_path / "mailname"
    assert local.site("", "", mailname).domain in (socket.gethostname().lower(), "localhost")
    mailname.write_text("mail.example.com\n")
    assert local.site("", "", mailname).domain == "mail.example.com"
    assert local.site("example.org", "a@x", mailname) == Site("example.org", local.site("", "").hosts, "a@x")
    mailname.write_text("no domain at all\n")
    assert local.site("", "", mailname).domain in (socket.gethostname().lower(), "localhost")
