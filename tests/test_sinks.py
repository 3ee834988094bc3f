"""The ways out: a folder, a webhook as Standard Webhooks' own library checks it, a program; and the outbox."""

from __future__ import annotations

import asyncio
import base64
import grp
import json
import os
import stat
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from mailrelayd.approvals import outbox, sinks, webhook
from mailrelayd.approvals.outbox import SCHEDULE, Outbox
from mailrelayd.approvals.sinks import Again, Answer, CommandSink, DirectorySink, Hopeless, Taken
from mailrelayd.approvals.webhook import WebhookSink
from mailrelayd.clock import SystemClock
from mailrelayd.durable import Folder
from tests.manual_clock import ManualClock

ID = "0b6e0000-0000-5000-8000-000000000001"
DOCUMENT = b'{"specversion": "1.0", "id": "%s"}\n' % ID.encode()
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


class Receiver:
    """An HTTP server that answers what it is told to, and remembers what it got."""

    def __init__(self, answers: list[bytes]) -> None:
        self.answers = answers
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            line, *fields = head.split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in fields if one)}
            body = await reader.readexactly(int(headers["content-length"]))
            self.got.append((line, headers, body))
            writer.write(self.answers[min(len(self.got), len(self.answers)) - 1])
            await writer.drain()
        finally:
            writer.close()


@asynccontextmanager
async def receiver(*answers: str) -> AsyncIterator[Receiver]:
    """Each answer is a status line's end and further header lines."""
    wire = [f"HTTP/1.1 {one}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode() for one in answers]
    play = Receiver(wire)
    server = await asyncio.start_server(play.serve, "127.0.0.1", 0)
    play.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hooks?tenant=1"
    try:
        yield play
    finally:
        server.close()
        await server.wait_closed()


async def called(url: str, secret: str = SECRET) -> Answer:
    """What one offer to a webhook comes to."""
    sink = WebhookSink(url, lambda: secret, SystemClock())
    try:
        return await sink.offer(ID, DOCUMENT)
    finally:
        await sink.rest()


async def test_a_webhook_is_called_as_the_standard_says() -> None:
    """The reference library accepts the signature over id, time and the very bytes of the document."""
    async with receiver("204 No Content") as play:
        assert await called(play.url) == Taken()
    ((line, headers, body),) = play.got
    assert line == "POST /hooks?tenant=1 HTTP/1.1"
    assert headers["content-type"] == "application/cloudevents+json"
    assert headers["webhook-id"] == ID
    assert Webhook(SECRET).verify(body, headers) == json.loads(DOCUMENT)
    assert body == DOCUMENT


async def test_a_plain_secret_is_its_own_bytes() -> None:
    """whsec_ is a spelling, not a duty."""
    async with receiver("200 OK") as play:
        await called(play.url, "a plain secret of thirty-two bytes")
    ((_, headers, body),) = play.got
    assert Webhook(base64.b64encode(b"a plain secret of thirty-two bytes").decode()).verify(body, headers)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("410 Gone", Hopeless("410 Gone: its receiver wants no more")),
        ("500 Oops", Again("HTTP status 500")),
        ("404 Not Found", Again("HTTP status 404")),
        (
            "302 Found\r\nlocation: http://127.0.0.1:1/",
            Again("302: it redirects, which is not followed; correct webhook"),
        ),
        ("429 Slow\r\nretry-after: 120", Again("HTTP status 429", 120.0)),
        ("503 Later\r\nretry-after: 99999999", Again("HTTP status 503", 86_400.0)),
        ("503 Later\r\nretry-after: soon", Again("HTTP status 503")),
        ("500 Oops\r\nretry-after: 120", Again("HTTP status 500")),
        ("503 Later\r\nretry-after: Thu, 01 Jan 1970 00:00:00 GMT", Again("HTTP status 503", 0.0)),
    ],
)
async def test_what_a_receiver_answers_has_a_meaning(answer: str, expected: Answer) -> None:
    """2xx is taken, 410 hopeless, the rest comes again, when it said so where it may say so."""
    async with receiver(answer) as play:
        assert await called(play.url) == expected
    assert len(play.got) == 1


async def test_a_receiver_that_is_away_or_silent_is_asked_again(
    free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused, nonsense, no answer at all: never an exception."""
    assert isinstance(await called(f"http://127.0.0.1:{free_port()}/"), Again)
    async with receiver("abc") as play:
        assert isinstance(await called(play.url), Again)
    monkeypatch.setattr(webhook, "TIMEOUT", 0.05)

    async def hush(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(hush, "127.0.0.1", 0)
    try:
        url = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}/"
        assert await called(url) == Again("no answer within 0 s")
    finally:
        silent.close()


@pytest.mark.parametrize("then", ["silence", "end", "reset", "endless"])
async def test_an_answer_counts_whatever_becomes_of_its_body(then: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """2xx is done: a body that never comes, breaks off or never ends is no reason to tell the document twice."""
    monkeypatch.setattr(webhook, "TIMEOUT", 0.5)
    monkeypatch.setattr(webhook, "ANSWER_TIMEOUT", 30.0)
    monkeypatch.setattr(webhook, "LONGEST_ANSWER", 1 << 40)
    calls: list[asyncio.Task[None] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append(asyncio.current_task())
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len(DOCUMENT))
        writer.write(b"HTTP/1.1 202 Accepted\r\ncontent-length: 99999999999\r\n\r\nhalf")
        await writer.drain()
        try:
            if then == "reset":
                writer.transport.abort()
            while then == "endless":
                writer.write(b"x" * 65_536)
                await writer.drain()
            if then == "silence":
                await reader.read()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        assert await called(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/") == Taken()
    (call,) = calls
    assert call is not None
    await asyncio.wait([call])


async def test_a_secret_that_cannot_be_had_is_no_reason_to_call_unsigned() -> None:
    """Nothing leaves without a signature."""

    def broken() -> str:
        raise OSError("no such file")

    async with receiver("200 OK") as play:
        for secret in (broken, lambda: "", lambda: "whsec_?"):
            answer = await WebhookSink(play.url, secret, SystemClock()).offer(ID, DOCUMENT)
            assert isinstance(answer, Again)
            assert answer.reason.startswith("its secret cannot be used: ")
    assert play.got == []


async def test_calls_in_a_row_share_a_connection_until_there_is_nothing_more_to_tell() -> None:
    """Whatever the answer's body is; an endless one costs the connection, and is no reason to ask again."""
    connections, ends = 0, 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections, ends
        connections += 1
        answers = [b"content-length: 0\r\n\r\n", b"content-length: 2\r\n\r\nok", b"content-length: 99999999\r\n\r\n"]
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
                answer = answers.pop(0)
                writer.write(b"HTTP/1.1 200 OK\r\n" + answer)
                while not answers:
                    writer.write(b"x" * 10_000)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            ends += 1
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    sink = WebhookSink(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", lambda: SECRET, SystemClock())
    try:
        for _ in range(3):
            assert await sink.offer(ID, DOCUMENT) == Taken()
        assert connections == 1
        await until(lambda: ends == 1)
        assert await sink.offer(ID, DOCUMENT) == Taken()
        assert connections == 2
        await sink.rest()
        await until(lambda: ends == 2)
    finally:
        server.close()


async def test_a_folder_gets_whole_files(tmp_path: Path) -> None:
    """new/ID.json, 0640, in a folder that keeps its group; nothing else is ever seen in new/."""
    group = grp.getgrgid(os.getgid()).gr_name
    sink = DirectorySink(tmp_path / "erp", group)
    assert await sink.offer(ID, DOCUMENT) == Taken()
    (file,) = (tmp_path / "erp" / "new").iterdir()
    assert (file.name, file.read_bytes()) == (f"{ID}.json", DOCUMENT)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "erp" / "new").stat().st_mode) == 0o2770
    assert not list((tmp_path / "erp" / "tmp").iterdir())


async def test_a_folder_that_is_away_is_tried_again(tmp_path: Path) -> None:
    """With the name of what is wrong; a group that does not exist is told at once."""
    sink = DirectorySink(tmp_path / "erp", "")
    (tmp_path / "erp" / "new").rmdir()
    answer = await sink.offer(ID, DOCUMENT)
    assert isinstance(answer, Again)
    assert "No such file" in answer.reason
    with pytest.raises(KeyError):
        DirectorySink(tmp_path / "crm", "no-such-group")


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("cat >$0.got", Taken()),
        ("exit 0", Taken()),
        ("echo busy >&2; exit 75", "exit status 75: busy"),
        ("echo broken >&2; echo more >&2; exit 1", Hopeless("exit status 1: broken")),
        ("sleep 60 & exit 0", Taken()),
    ],
)
async def test_a_program_gets_the_document_on_standard_input(
    tmp_path: Path, script: str, expected: Answer | str
) -> None:
    """Its exit status is its answer; a program that reads nothing, or leaves something running, is no error."""
    answer = await CommandSink(["/bin/sh", "-c", script, str(tmp_path / "run")]).offer(ID, DOCUMENT)
    if isinstance(expected, Taken):
        assert answer == expected
    elif isinstance(expected, Hopeless):
        assert answer == Hopeless(f"/bin/sh: {expected.reason}")
    else:
        assert answer == Again(f"/bin/sh: {expected}")
    if "got" in script:
        assert (tmp_path / "run.got").read_bytes() == DOCUMENT


async def test_a_program_that_hangs_is_killed_with_its_children(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And tried again; so is one that cannot be started."""
    monkeypatch.setattr(sinks, "COMMAND_TIMEOUT", 0.3)
    command = ["/bin/sh", "-c", "sleep 300 & echo $! >$0; wait", str(tmp_path / "pid")]
    assert isinstance(await CommandSink(command).offer(ID, DOCUMENT), Again)
    child = int((tmp_path / "pid").read_text())
    await until(lambda: not alive(child))
    assert await CommandSink(["/no/such/program"]).offer(ID, DOCUMENT) == Again(
        "/no/such/program: No such file or directory"
    )


def alive(pid: int) -> bool:
    """Whether a process still runs (and is not merely waited for by its parent)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# -- the outbox ----------------------------------------------------------------------------------------------


class Played:
    """A sink that answers by a list."""

    at_once = 1

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.got: list[tuple[str, bytes]] = []

    async def offer(self, decision_id: str, document: bytes) -> Answer:
        self.got.append((decision_id, document))
        return self.answers.pop(0) if self.answers else Taken()

    async def rest(self) -> None:
        """Nothing to let go of."""


@asynccontextmanager
async def running(box: Outbox) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(box.run(stop, lambda within: None))
    try:
        yield
    finally:
        stop.set()
        box.wake()
        await task
        box.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in threads, too
            await asyncio.sleep(0.001)


async def test_a_document_is_offered_until_it_is_taken(tmp_path: Path) -> None:
    """By the schedule, or later if the receiver asks for it; then its file is gone."""
    clock = ManualClock()
    sink = Played(Again("away"), Again("busy", 1000.0))
    box = Outbox(tmp_path, "erp", sink, clock, required=True)
    async with running(box):
        box.put(ID, DOCUMENT)
        assert (tmp_path / "outbox" / "erp" / f"{ID}.json").read_bytes() == DOCUMENT
        box.offer(ID)
        await until(lambda: len(sink.got) == 1)
        assert not box.settled(ID)
        await until(lambda: clock.waiting > 0)
        clock.advance(SCHEDULE[1] * 1.2)
        await until(lambda: len(sink.got) == 2)
        for _ in range(40):
            await until(lambda: clock.waiting > 0)
            clock.advance(30.0)
        await until(lambda: len(sink.got) == 3)
        await until(lambda: box.settled(ID))
    assert not list((tmp_path / "outbox" / "erp").glob("*.json"))


async def test_what_waits_survives_a_restart(tmp_path: Path) -> None:
    """It is offered again, the same bytes under the same id."""
    box = Outbox(tmp_path, "erp", Played(), ManualClock(), required=True)
    box.put(ID, DOCUMENT)
    box.close()
    sink = Played()
    box = Outbox(tmp_path, "erp", sink, ManualClock(), required=True)
    assert box.waiting() == [ID]
    async with running(box):
        await until(lambda: box.settled(ID))
    assert sink.got == [(ID, DOCUMENT)]


def test_what_waits_is_in_order_again_after_a_restart(tmp_path: Path) -> None:
    """However quickly the documents came: the kernel gives all files of some milliseconds the same time."""
    box = Outbox(tmp_path, "erp", Played(), SystemClock(), required=True)
    names = [f"{number:03}" for number in reversed(range(100))]
    for name in names:
        box.put(name, DOCUMENT)
    box.close()
    box = Outbox(tmp_path, "erp", Played(), SystemClock(), required=True)
    assert box.waiting() == names
    box.close()


async def test_what_can_never_be_taken_is_parked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once where the receiver says so, after the last try otherwise; a replay takes it out again."""
    monkeypatch.setattr(outbox, "SCHEDULE", (0.0, 5.0, 50.0))
    clock = ManualClock()
    sink = Played(Hopeless("410"))
    box = Outbox(tmp_path, "erp", sink, clock, required=True)
    async with running(box):
        box.put(ID, DOCUMENT)
        box.offer(ID)
        await until(lambda: box.settled(ID))
        assert box.parked() == [ID]
        sink.answers = [Again("away", 0.0)] * 3
        box.put(ID, DOCUMENT)
        assert box.parked() == []
        box.offer(ID)
        while box.parked() != [ID]:
            await until(lambda: clock.waiting > 0)
            clock.advance(30.0)
            await asyncio.sleep(0.001)
        assert len(sink.got) == 1 + 3
        await until(lambda: box.settled(ID))


async def test_one_document_that_waits_does_not_hold_up_the_next(tmp_path: Path) -> None:
    """Each has its own schedule."""
    sink = Played(Again("not this one"), Taken())
    box = Outbox(tmp_path, "erp", sink, ManualClock(), required=False)
    taken: list[str] = []
    box.on_taken = taken.append
    async with running(box):
        for one in ("a", "b"):
            box.put(one, DOCUMENT)
            box.offer(one)
        await until(lambda: taken == ["b"])
        assert box.waiting() == ["a"]


class Slow:
    """A sink that takes several at once, and none before it is told to."""

    at_once = 3

    def __init__(self) -> None:
        self.under_way: list[str] = []
        self.most = 0
        self.order: list[str] = []
        self.rests = 0
        self.go = asyncio.Event()

    async def offer(self, decision_id: str, document: bytes) -> Answer:
        self.under_way.append(decision_id)
        self.most = max(self.most, len(self.under_way))
        await self.go.wait()
        self.under_way.remove(decision_id)
        self.order.append(decision_id)
        return Taken()

    async def rest(self) -> None:
        self.rests += 1


@pytest.mark.parametrize("restarted", [False, True])
async def test_several_are_offered_at_once_but_one_request_is_told_in_order(tmp_path: Path, restarted: bool) -> None:
    """Also after a restart, when the folder alone tells what is about what, and which came first."""
    sink = Slow()
    box = Outbox(tmp_path, "erp", sink, SystemClock(), required=True)
    wanted = {"d": "PO-1", "c": "PO-1", "b": "PO-1", "a": "PO-2", "z": "PO-3", "y": "PO-4"}
    for age, (one, about) in enumerate(wanted.items()):
        box.put(one, json.dumps({"subject": about}).encode())
        os.utime(tmp_path / "outbox" / "erp" / f"{one}.json", (age, age))
        if not restarted:
            box.offer(one, about)
    if restarted:
        box.close()
        box = Outbox(tmp_path, "erp", sink, SystemClock(), required=True)
    async with running(box):
        await until(lambda: len(sink.under_way) == 3)
        first = sorted(sink.under_way)
        sink.go.set()
        await until(lambda: not box.waiting())
    assert first == ["a", "d", "z"]
    assert sink.most == 3
    assert [one for one in sink.order if wanted[one] == "PO-1"] == ["d", "c", "b"]
    assert sorted(sink.order) == sorted(wanted)


async def test_a_document_that_is_put_there_anew_while_it_is_offered_is_not_forgotten(tmp_path: Path) -> None:
    """What is refused then is offered again at once, for it was asked for."""
    sink = Played(Again("not now"))
    box = Outbox(tmp_path, "erp", sink, ManualClock(), required=True)
    offer, seen = sink.offer, 0

    async def again(decision_id: str, document: bytes) -> Answer:
        nonlocal seen
        seen += 1
        if seen == 1:
            box.put(ID, DOCUMENT)
            box.offer(ID)
        return await offer(decision_id, document)

    sink.offer = again  # type: ignore[method-assign]
    async with running(box):
        box.put(ID, DOCUMENT)
        box.offer(ID)
        await until(lambda: box.settled(ID))
    assert seen == 2


async def test_a_sink_rests_once_there_is_nothing_to_do(tmp_path: Path) -> None:
    """After a while, and only once; the next document is offered all the same."""
    sink, clock = Slow(), ManualClock()
    sink.go.set()
    box = Outbox(tmp_path, "erp", sink, clock, required=True)

    async def told(one: str) -> None:
        rests = sink.rests
        box.put(one, DOCUMENT)
        box.offer(one)
        await until(lambda: box.settled(one))
        assert sink.rests == rests
        while sink.rests == rests:
            await until(lambda: clock.waiting > 0)
            clock.advance(outbox.LINGER)
            await asyncio.sleep(0.001)
        for _ in range(3):
            await until(lambda: clock.waiting > 0)
            clock.advance(outbox.PATIENCE)

    async with running(box):
        await told("a")
        await told("b")
        assert sink.rests == 2
    assert sink.rests == 3


async def test_what_was_taken_is_gone_from_the_disk_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One fsync of the folder for many removals, and one for the last."""
    box = Outbox(tmp_path, "erp", Played(), ManualClock(), required=True)
    ids = [f"{number:03}" for number in range(2 * outbox.DROPPED + 10)]
    for one in ids:
        box.put(one, DOCUMENT)
        box.offer(one)
    left_at_sync: list[int] = []
    sync = Folder.sync

    def counted(folder: Folder) -> None:
        left_at_sync.append(sum(name.endswith(".json") for name in folder.names()))
        sync(folder)

    monkeypatch.setattr(Folder, "sync", counted)
    async with running(box):
        await until(lambda: not box.waiting())
    assert left_at_sync == [outbox.DROPPED + 10, 10, 0]


async def test_the_last_ones_are_gone_from_the_disk_although_they_end_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several that are taken at the same moment none is the last by itself."""
    sink = Slow()
    box = Outbox(tmp_path, "erp", sink, SystemClock(), required=True)
    for one in ("a", "b", "c"):
        box.put(one, DOCUMENT)
        box.offer(one)
    together, remove, sync = threading.Barrier(3), Folder.remove, Folder.sync
    left_at_sync: list[int] = []

    def removed(folder: Folder, name: str, *, sync: bool = True) -> bool:
        there = remove(folder, name, sync=sync)
        together.wait(10)
        return there

    def synced(folder: Folder) -> None:
        left_at_sync.append(sum(name.endswith(".json") for name in folder.names()))
        sync(folder)

    async with running(box):
        await until(lambda: len(sink.under_way) == 3)
        monkeypatch.setattr(Folder, "remove", removed)
        monkeypatch.setattr(Folder, "sync", synced)
        sink.go.set()
        await until(lambda: not box.waiting())
    assert left_at_sync[-1:] == [0]
