"""Requests for approval on their way into the queue: nothing of one is due before its answers would be known."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mailrelayd import durable
from mailrelayd.operate import events
from mailrelayd.outbound import copies as rules
from mailrelayd.outbound import queueid, record
from mailrelayd.outbound.queue import Verb
from mailrelayd.outbound.spool import LONGEST_PAUSE, Spool
from mailrelayd.outbound.submission import Options
from mailrelayd.outbound.values import Admitted, ApprovalCopy, Envelope, Progress, QueuedMessage
from tests.asking import EXPIRES, REQUEST, Book, copies, token
from tests.queue_contract import claim, claim_all, claimed, defer, entries, fail
from tests.test_intake import TERMS, serving
from tests.test_pickup import SIDECAR
from tests.test_pickup import Bench as PickupBench
from tests.test_spool import Crash, Disk, SpoolBench


class RequestBench(SpoolBench):
    """A spool whose requests are written into a book, from before its start."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.book = Book(directory / "book")
        self.requests: Book | None = self.book

    async def reopen(self) -> None:
        await self.end()
        self.queue = Spool(self.directory, node="relay1", clock=self.clock, report=self.report)
        self.queue.requests = self.requests
        self._opened = True
        await self.queue.open_up()

    def message(self, rule: str = "headers") -> QueuedMessage:
        return request(self.queue.new_id(), rule)

    async def take_request(self) -> None:
        (self.directory / "pickup" / "a.eml").write_bytes(REQUEST)
        message = self.message()
        self.queue.arrived(message, self.queue.take(self.pickup, "a.eml", message))

    async def hand_in_request(self) -> None:
        incoming = self.queue.begin()
        try:
            incoming.write(REQUEST)
        except OSError:
            incoming.discard()
            raise
        await self.queue.hand_in(incoming, replace(self.message("submit"), producer="submit"))


def request(queue_id: str, rule: str = "headers") -> QueuedMessage:
    to = ("a@example.org", "boss@example.org", "b@example.org")
    there = QueuedMessage(queue_id, Envelope("erp@example.com", to), Progress(queueid.arrived_at(queue_id)), 1, rule)
    return replace(there, copies=copies("a@example.org", "boss@example.org"), uid=7)


@pytest.fixture(autouse=True)
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk()
    monkeypatch.setattr(durable, "os", made)
    return made


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[RequestBench]:
    made = RequestBench(tmp_path)
    await made.reopen()
    yield made
    await made.close()


WAYS: dict[str, Callable[[RequestBench], Coroutine[Any, Any, None]]] = {
    "claim": RequestBench.take_request,
    "hand in": RequestBench.hand_in_request,
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_crash_at_any_step_leaves_no_request_that_nobody_knows(
    tmp_path: Path,
    disk: Disk,
    way: str,
) -> None:
    """Killed at each step, and again at each step of the start: what is due has its copies and stands in the book."""
    seen = set()
    step, done = 0, False
    while not done:
        step += 1
        again, repaired = 0, False
        while not repaired:
            directory = tmp_path / f"{step}-{again}"
            directory.mkdir()
            disk.disarm()
            bench = RequestBench(directory)
            await bench.reopen()
            disk.arm(step)
            done = True
            try:
                await WAYS[way](bench)
            except Crash:
                done = False
            disk.arm(again)
            try:
                await bench.reopen()
            except Crash:
                disk.disarm()
                await bench.reopen()
            else:
                repaired = again > 0 or not disk.steps
            again += 1
            disk.disarm()
            queued = [entry.message for entry in await entries(bench.queue)]
            for message in queued:
                assert [one.token for one in message.copies] == bench.book.entries()[message.queue_id]["copies"]
                assert bench.book.entries()[message.queue_id]["size"] == len(REQUEST)
            assert await claim_all(bench.queue) == [message.queue_id for message in queued]
            assert set(bench.book.entries()) == {message.queue_id for message in queued}
            file = bench.directory / "pickup" / "a.eml"
            assert way != "claim" or file.exists() != bool(queued)
            seen.add(len(queued))
            await bench.close()
    assert seen == {0, 1}


@pytest.mark.parametrize("hold", [False, True])
async def test_a_request_that_was_not_opened_is_opened_at_the_start(bench: RequestBench, hold: bool) -> None:
    """The row A1 of the state table: whether or not anything of it is due."""
    await bench.end()
    queue_id = queueid.Sequence("relay1", last=0).take(bench.clock.now())[0]
    message = request(queue_id)
    (bench.directory / "queue" / f"{queue_id}.eml").write_bytes(REQUEST)
    entry = record.of(message, message.progress, hold=hold)
    (bench.directory / "queue" / f"{queue_id}.json").write_bytes(record.encode(entry))
    await bench.reopen()
    assert set(bench.book.entries()) == {queue_id}
    await bench.reopen()
    assert await claim_all(bench.queue) == ([] if hold else [queue_id])
    assert bench.book.offered == [queue_id] * 2, "once at each start"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("restart", [False, True])
async def test_what_cannot_be_written_down_waits(bench: RequestBench, way: str, restart: bool) -> None:
    """It is queued and not due, that is said once; tried again and again; and due as soon as it works."""
    bench.book.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    await WAYS[way](bench)
    if restart:
        bench.report.troubles.clear()
        await bench.reopen()
    for _ in range(3):
        assert await claim(bench.queue) is None
        assert bench.queue.figures().deferred == 1
        bench.clock.advance(LONGEST_PAUSE)
    ((doing, why),) = bench.report.troubles
    assert doing.startswith("open the request of ")
    assert why == os.strerror(errno.ENOSPC)
    tried = len(bench.book.offered)
    assert tried > 3
    bench.book.error = None
    message = await claimed(bench.queue)
    assert set(bench.book.entries()) == {message.queue_id}
    await defer(bench.queue, message, bench.clock.now())
    await claimed(bench.queue)
    assert len(bench.book.offered) == tried + 1, "what is open is not offered again"


async def test_a_bug_in_opening_stops_only_its_request(bench: RequestBench) -> None:
    """Others are due all the same."""
    bench.book.opened = None  # type: ignore[method-assign,assignment]
    await bench.take_request()
    other = await bench.put()
    assert await claim_all(bench.queue) == [other]


async def test_where_approvals_were_turned_off_requests_wait(bench: RequestBench) -> None:
    """Sent now, they would ask for answers that nobody reads; turned on again, they go out."""
    bench.requests = None
    bench.book.error = OSError(0, "not now")
    await bench.take_request()
    await bench.reopen()
    assert await claim(bench.queue) is None
    assert "approvals are not enabled" in bench.report.troubles[-1][1]
    bench.clock.advance(LONGEST_PAUSE)
    bench.book.error = None
    bench.queue.requests = bench.book
    assert (await claimed(bench.queue)).copies == copies("a@example.org", "boss@example.org")


async def test_a_failed_request_is_offered_again_when_it_comes_back(bench: RequestBench) -> None:
    """Who knows what was swept meanwhile."""
    await bench.take_request()
    message = await claimed(bench.queue)
    await fail(bench.queue, message)
    assert await bench.queue.change(Verb.RETRY, [message.queue_id]) == {message.queue_id: ""}
    assert (await claimed(bench.queue)).copies == message.copies
    assert bench.book.offered == [message.queue_id] * 2


@pytest.mark.parametrize("restart", [False, True])
async def test_our_own_reminders_open_nothing(bench: RequestBench, restart: bool) -> None:
    """They carry copies of a request that is open already."""
    asked = copies("boss@example.org")
    await bench.queue.add(REQUEST, Envelope("", ("boss@example.org",)), rule="reminder", copies=asked)
    if restart:
        await bench.reopen()
    assert (await claimed(bench.queue)).copies == asked
    assert bench.book.offered == []


# -- the pickup folder -------------------------------------------------------------------------------------------


@pytest.fixture
async def asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PickupBench]:
    """A pickup loop that takes requests."""
    made = PickupBench(tmp_path)
    made.rules = replace(made.rules, approvals=True)
    monkeypatch.setattr(
        events, "message_queued", lambda **said: made.said.setdefault("message_queued", []).append(said)
    )
    await made.reopen()
    made.queue.requests = Book(tmp_path / "book")
    yield made
    await made.close()


async def test_a_request_is_claimed_with_its_copies(asking: PickupBench) -> None:
    """The approver who is no recipient becomes one; all of it stands in the record."""
    (asking.top / "a.eml").write_bytes(REQUEST)
    await asking.start()
    message = await claimed(asking.queue)
    assert message.envelope.recipients == ("a@example.org", "boss@example.org")
    assert message.copies == copies("a@example.org", "boss@example.org")
    assert message.uid == os.getuid()
    assert asking.said["message_queued"][0]["nrcpt"] == 2
    book = asking.queue.requests
    assert isinstance(book, Book)
    assert set(book.entries()) == {message.queue_id}


async def test_a_sidecar_says_who_is_asked(asking: PickupBench) -> None:
    """The recipients are the sidecar's."""
    (asking.top / "a.eml").write_bytes(REQUEST)
    (asking.top / "a.env.json").write_bytes(SIDECAR)
    await asking.start()
    assert (await claimed(asking.queue)).envelope.recipients == ("side@example.org", "boss@example.org")


@pytest.mark.parametrize("enabled", ["no", "rules only", "yes"])
async def test_what_may_not_be_asked_fails(asking: PickupBench, enabled: str) -> None:
    """With the reason; the next file is taken. What was refused is not sent by a retry either."""
    text = REQUEST.replace(b"PO-42", b"XX-1") if enabled == "yes" else REQUEST
    (asking.top / "a.eml").write_bytes(text)
    (asking.top / "b.eml").write_bytes(b"From: a@x\nTo: b@x\n\n")
    if enabled != "yes":
        asking.rules = replace(asking.rules, approvals=enabled == "rules only")
        asking.queue.requests = None
    await asking.start()
    (entry,) = await entries(asking.queue, failed=True)
    record = (asking.directory / "failed" / f"{entry.message.queue_id}.json").read_text()
    assert ("no [[decisions]] matches" if enabled == "yes" else "approvals are not enabled") in record
    assert asking.queued == ["b.eml"]
    (answer,) = (await asking.queue.change(Verb.RETRY, [entry.message.queue_id])).values()
    assert "hand the file in again" in answer


# -- submit.sock -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", ["submit", "sendmail"])
@pytest.mark.parametrize("enabled", [True, False])
async def test_submit_may_ask_and_sendmail_may_not(tmp_path: Path, program: Any, enabled: bool) -> None:
    """The request is the caller's; nothing is stored of what is refused."""
    options = Options(program, read_header=True)
    async with serving(TERMS) as bench:
        book = Book(tmp_path / "book")
        bench.spool.requests = book if enabled else None
        if program == "submit" and enabled:
            handed = await bench.hand_over(options, REQUEST)
            message = await claimed(bench.spool)
            assert message.queue_id == handed.queue_id
            assert message.copies == copies("a@example.org", "boss@example.org")
            assert message.envelope.recipients == ("a@example.org", "boss@example.org")
            assert message.uid == os.getuid()
            assert set(book.entries()) == {message.queue_id}
            refused = await bench.refused(options, REQUEST.replace(b"PO-42", b"XX-1"))
            assert "no [[decisions]] matches" in refused.reason
            assert len(bench.queued()) == 2
        else:
            refused = await bench.refused(options, REQUEST)
            assert refused.status == os.EX_DATAERR
            assert "X-Approval-Request" in refused.reason
            await bench.clean()
            assert book.offered == []


# -- whose copy is whose -----------------------------------------------------------------------------------------


def asked(recipients: tuple[str, ...], approvers: tuple[str, ...]) -> QueuedMessage:
    message = QueuedMessage("a" * 16, Envelope("erp@example.com", ("x@x",)), Progress(0.0))
    return rules.asking(message, Admitted(recipients, copies(*approvers)))


def test_each_copy_is_for_one_recipient_in_the_spelling_of_the_envelope() -> None:
    """Whatever spellings of one person meet, nobody gets two tokens or none."""
    message = asked(("Boss@Example.org", "x@y.z"), ("boss@EXAMPLE.org",))
    assert message.envelope.recipients == ("Boss@Example.org", "x@y.z")
    assert message.copies == (ApprovalCopy("Boss@Example.org", token(1), EXPIRES),)
    message = asked(("boss@example.org",), ("Boss@example.org", "boss@example.org"))
    assert message.envelope.recipients == ("boss@example.org", "Boss@example.org")
    assert [one.recipient for one in message.copies] == ["Boss@example.org", "boss@example.org"]
    message = asked(("BOSS@x.y", "boss@x.y"), ("boss@x.y",))
    assert [one.recipient for one in message.copies] == ["boss@x.y"]
    message = asked(("a@x.y",), ("nobody@x.y",))
    assert message.envelope.recipients == ("a@x.y", "nobody@x.y")


def test_a_transaction_never_mixes_an_approver_with_others() -> None:
    """Whoever would build such a one is stopped."""
    message = asked(("a@x.y", "b@x.y", "c@x.y"), ("b@x.y",))
    assert rules.copy_for(message, ("a@x.y", "c@x.y")) is None
    found = rules.copy_for(message, ("b@x.y",))
    assert found is not None
    assert found.token == token(1)
    for mixed in (("a@x.y", "b@x.y"), ("b@x.y", "c@x.y")):
        with pytest.raises(ValueError, match="others as well"):
            rules.copy_for(message, mixed)
