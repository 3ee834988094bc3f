"""What every back end of the queue must do: `mailrelayd.outbound.queue.Queue` in executable form.

A back end's tests subclass `QueueContract` with one fixture, `bench`, and `QueueMachine` with one method.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Protocol

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mailrelayd.outbound.headers import Header
from mailrelayd.outbound.queue import Entry, Figures, Place, Queue, Verb
from mailrelayd.outbound.values import (
    ApprovalCopy,
    Envelope,
    Past,
    Progress,
    QueuedMessage,
    RecipientRecord,
    Response,
    Stage,
    Status,
    remembered,
)
from tests.manual_clock import ManualClock

UNKNOWN = "2" * 16  # a well-formed id of no message


class Bench(Protocol):
    """A queue to be tested, and what a test does to it from outside."""

    clock: ManualClock

    @property
    def queue(self) -> Queue:
        """The queue; another one after `reopen`."""

    async def put(self, name: str = "a", *, not_before: float = 0.0) -> str:
        """Hand in a message to NAME@example.org, whose body holds NAME; its queue id."""

    def wake(self) -> None:
        """What goes with setting a stop event."""

    def strict_order(self) -> None:
        """Let nothing overtake a deferred message."""

    async def reopen(self) -> None:
        """Die without a word, and start again."""

    async def close(self) -> None:
        """The end of the test."""


# -- what a relay does with a queue ------------------------------------------------------------------------------


async def claim(queue: Queue) -> QueuedMessage | None:
    """The next message that is due, claimed; None: there is none."""
    async with aclosing(queue.due(asyncio.Event())) as due:
        async for message in due:
            return message
    return None


async def claimed(queue: Queue) -> QueuedMessage:
    message = await claim(queue)
    assert message is not None, "nothing is due"
    return message


async def claim_all(queue: Queue) -> list[str]:
    return [message.queue_id async for message in queue.due(asyncio.Event())]


async def until(condition: Callable[[], object]) -> None:
    """Let other tasks and threads work until the condition holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 (a thread or a database cannot set an event of ours)
            await asyncio.sleep(0.001)


async def entries(queue: Queue, *, failed: bool = False) -> list[Entry]:
    return [entry async for entry in queue.entries(failed=failed)]


def outcome(message: QueuedMessage, status: Status, at: float = 0.0, reason: str = "") -> Progress:
    """The message's progress after one more try that ended so for everybody."""
    response = Response(Stage.BODY, {"sent": 250, "deferred": 451, "failed": 554}[status.value], "", "so it is")
    records = {
        recipient: RecipientRecord(status, response, attempts(message) + 1, 1_800_000_000.0, at, reason)
        for recipient in message.envelope.recipients
    }
    return replace(message.progress, recipients=records)


def told(message: QueuedMessage) -> Progress:
    """Its progress without the line that says how it came, which not every back end knows."""
    history = message.progress.history
    return replace(message.progress, history=tuple(past for past in history if past.event != "queued"))


def attempts(message: QueuedMessage) -> int:
    return max((one.attempts for one in message.progress.recipients.values()), default=0)


async def defer(queue: Queue, message: QueuedMessage, at: float) -> None:
    await queue.defer(message, outcome(message, Status.DEFERRED, at), at)


async def fail(queue: Queue, message: QueuedMessage) -> None:
    await queue.fail(message, outcome(message, Status.FAILED, reason="rejected"), "rejected")


async def complete(queue: Queue, message: QueuedMessage) -> None:
    await queue.complete([(message, outcome(message, Status.SENT))])


# What an operator's verb does to a message in each state: what is answered ("" or a part of why not), and where
# the message stands afterwards ("gone": nowhere).
ANSWERS: dict[tuple[str, Verb], tuple[str, str]] = {
    ("waiting", Verb.RETRY): ("", "active"),
    ("waiting", Verb.HOLD): ("", "hold"),
    ("waiting", Verb.RELEASE): ("", "active"),
    ("waiting", Verb.FAIL): ("", "failed"),
    ("waiting", Verb.DELETE): ("", "gone"),
    ("deferred", Verb.RETRY): ("", "active"),
    ("deferred", Verb.HOLD): ("", "hold"),
    ("deferred", Verb.RELEASE): ("", "deferred"),
    ("deferred", Verb.FAIL): ("", "failed"),
    ("deferred", Verb.DELETE): ("", "gone"),
    ("scheduled", Verb.RETRY): ("", "active"),
    ("scheduled", Verb.HOLD): ("", "hold"),
    ("scheduled", Verb.RELEASE): ("", "deferred"),
    ("scheduled", Verb.FAIL): ("", "failed"),
    ("scheduled", Verb.DELETE): ("", "gone"),
    ("held", Verb.RETRY): ("on hold", "hold"),
    ("held", Verb.HOLD): ("", "hold"),
    ("held", Verb.RELEASE): ("", "active"),
    ("held", Verb.FAIL): ("", "failed"),
    ("held", Verb.DELETE): ("", "gone"),
    ("held while deferred", Verb.RETRY): ("on hold", "hold"),
    ("held while deferred", Verb.HOLD): ("", "hold"),
    ("held while deferred", Verb.RELEASE): ("", "deferred"),
    ("held while deferred", Verb.FAIL): ("", "failed"),
    ("held while deferred", Verb.DELETE): ("", "gone"),
    ("failed", Verb.RETRY): ("", "active"),
    ("failed", Verb.HOLD): ("has failed", "failed"),
    ("failed", Verb.RELEASE): ("has failed", "failed"),
    ("failed", Verb.FAIL): ("has failed already", "failed"),
    ("failed", Verb.DELETE): ("", "gone"),
    ("in flight", Verb.RETRY): ("being sent", "active"),
    ("in flight", Verb.HOLD): ("being sent", "active"),
    ("in flight", Verb.RELEASE): ("being sent", "active"),
    ("in flight", Verb.FAIL): ("being sent", "active"),
    ("in flight", Verb.DELETE): ("being sent", "active"),
}


class QueueContract:
    """Subclass it with a fixture `bench`; its tests are a back end's tests."""

    # -- order and claims ----------------------------------------------------------------------------------------

    async def test_messages_come_in_the_order_of_their_ids(self, bench: Bench) -> None:
        """First in, first out."""
        ids = [await bench.put(f"m{number}") for number in range(5)]
        assert ids == sorted(ids)
        assert await claim_all(bench.queue) == ids

    async def test_a_claim_is_exclusive(self, bench: Bench) -> None:
        """What is claimed is given to nobody else until it is settled or released."""
        first, second = await bench.put("a"), await bench.put("b")
        assert (await claimed(bench.queue)).queue_id == first
        assert (await claimed(bench.queue)).queue_id == second
        assert await claim(bench.queue) is None

    async def test_several_consumers_share_the_work(self, bench: Bench) -> None:
        """However many connections drain the queue, every message is given out once."""
        ids = [await bench.put(f"m{number}") for number in range(30)]
        seen: list[str] = []

        async def consume() -> None:
            async for message in bench.queue.due(asyncio.Event()):
                seen.append(message.queue_id)
                await asyncio.sleep(0)
                await complete(bench.queue, message)

        await asyncio.gather(*(consume() for _ in range(3)))
        assert sorted(seen) == ids
        assert await entries(bench.queue) == []

    async def test_a_released_message_is_due_at_once(self, bench: Bench) -> None:
        """A claim given back leaves no trace, and the message keeps its place in the order."""
        first, _ = await bench.put("a"), await bench.put("b")
        message = await claimed(bench.queue)
        bench.queue.release(message)
        assert await claimed(bench.queue) == message
        assert message.queue_id == first

    async def test_a_message_says_what_it_is(self, bench: Bench) -> None:
        """Envelope, size and a fresh progress come with the claim, the bytes with `open`."""
        queue_id = await bench.put("boss")
        message = await claimed(bench.queue)
        assert message.queue_id == queue_id
        assert message.envelope.recipients == ("boss@example.org",)
        assert message.progress.recipients == {}
        source = bench.queue.open(message)
        try:
            data = source.read(0, 1 << 20)
            assert b"boss" in data
            assert len(data) == source.size == message.size
            assert source.read(5, 3) == data[5:8]
            assert source.read(source.size, 10) == b""
            header, first = source.header()
            assert isinstance(header, Header)
            assert first == data
            assert [field.key for field in header.fields] == ["from", "to"]
            assert source.unchanged()
        finally:
            source.close()

    async def test_content_is_read_wherever_the_message_stands(self, bench: Bench) -> None:
        """Waiting, in flight or failed, and nothing for an id of no message or for what is none."""
        queue_id = await bench.put("boss")
        message: QueuedMessage | None = None
        for state in ("waiting", "in flight", "failed"):
            if state == "in flight":
                message = await claimed(bench.queue)
            elif message is not None:
                await fail(bench.queue, message)
            source = bench.queue.content(queue_id)
            assert source is not None, state
            assert b"boss" in source.read(0, 1000)
            source.close()
        assert bench.queue.content(UNKNOWN) is bench.queue.content("../../etc/passwd") is None

    async def test_dying_lets_go_of_claims_and_of_nothing_else(self, bench: Bench) -> None:
        """What was in flight is due again, unchanged; what was settled stays settled."""
        ids = [await bench.put(name) for name in "abcd"]
        message = await claimed(bench.queue)
        await complete(bench.queue, await claimed(bench.queue))
        await defer(bench.queue, await claimed(bench.queue), bench.clock.now() + 60)
        await fail(bench.queue, await claimed(bench.queue))
        await bench.reopen()
        assert await claim_all(bench.queue) == [ids[0]] == [message.queue_id]
        assert await bench.queue.find(ids[1]) is None
        deferred, failed = await bench.queue.find(ids[2]), await bench.queue.find(ids[3])
        assert deferred is not None
        assert deferred.place is Place.DEFERRED
        assert failed is not None
        assert failed.place is Place.FAILED

    async def test_the_daemon_adds_messages_of_its_own(self, bench: Bench) -> None:
        """What was added is due, with the envelope and the rule that were given, also after a crash right then."""
        envelope = Envelope("", ("sender@example.com",))
        queue_id = await bench.queue.add(b"From: x\n\nreport\n", envelope, rule="dsn")
        later = await bench.put()
        for _ in range(2):
            message = await claimed(bench.queue)
            assert (message.queue_id, message.envelope, message.rule) == (queue_id, envelope, "dsn")
            assert (message.producer, message.size) == ("", 16)
            source = bench.queue.open(message)
            assert source.read(0, 100) == b"From: x\n\nreport\n"
            source.close()
            await bench.reopen()
        await complete(bench.queue, await claimed(bench.queue))
        assert await claim_all(bench.queue) == [later]

    async def test_copies_stay_with_their_message(self, bench: Bench) -> None:
        """Whose copy is whose is known for as long as the message is here: put off, failed, retried, after a crash."""
        copies = (ApprovalCopy("boss@example.org", "t" * 44, 1_900_000_000.0), ApprovalCopy("b@x", "u" * 44, 1.5e9))
        envelope = Envelope("", ("boss@example.org", "b@x"))
        queue_id = await bench.queue.add(b"From: x\n\nonce more\n", envelope, rule="reminder", copies=copies)
        for step in ("release", "defer", "fail"):
            await bench.reopen()
            message = await claimed(bench.queue)
            assert (message.queue_id, message.copies) == (queue_id, copies)
            if step == "release":
                bench.queue.release(message)
            elif step == "defer":
                await defer(bench.queue, message, bench.clock.now())
            else:
                await fail(bench.queue, message)
        await bench.reopen()
        entry = await bench.queue.find(queue_id)
        assert entry is not None
        assert entry.message.copies == copies
        await bench.queue.change(Verb.RETRY, [queue_id])
        assert (await claimed(bench.queue)).copies == copies

    # -- settling ------------------------------------------------------------------------------------------------

    async def test_complete_removes_the_message(self, bench: Bench) -> None:
        """What was sent is nowhere any more."""
        queue_id = await bench.put()
        await complete(bench.queue, await claimed(bench.queue))
        for _ in range(2):
            assert await claim(bench.queue) is None
            assert await bench.queue.find(queue_id) is None
            assert await entries(bench.queue) == await entries(bench.queue, failed=True) == []
            assert bench.queue.figures() == Figures()
            await bench.reopen()

    async def test_several_are_completed_together(self, bench: Bench) -> None:
        """What is settled in one go is gone in one go, also after a crash right then; what is beside it is not."""
        ids = [await bench.put(name) for name in "abc"]
        taken = [await claimed(bench.queue) for _ in ids]
        await bench.queue.complete([(message, outcome(message, Status.SENT)) for message in taken[:2]])
        await bench.queue.complete([])
        assert bench.queue.figures().in_flight == 1
        for _ in range(2):
            assert [entry.message.queue_id for entry in await entries(bench.queue)] == ids[2:]
            await bench.reopen()

    @pytest.mark.parametrize("restart", [False, True])
    async def test_a_deferred_message_waits_for_its_time(self, bench: Bench, restart: bool) -> None:
        """It steps aside until its time has come, then comes with everything that happened so far."""
        first, second = await bench.put("a"), await bench.put("b")
        message = await claimed(bench.queue)
        at = bench.clock.now() + 60
        await defer(bench.queue, message, at)
        if restart:
            await bench.reopen()
        assert await claim_all(bench.queue) == [second]
        entry = await bench.queue.find(first)
        assert entry is not None
        assert (entry.place, entry.next_attempt) == (Place.DEFERRED, at)
        bench.clock.advance(59)
        assert await claim(bench.queue) is None
        bench.clock.advance(1)
        again = await claimed(bench.queue)
        assert again.queue_id == first
        assert told(again) == outcome(message, Status.DEFERRED, at)

    @pytest.mark.parametrize("seconds", [0.0, -5.0])
    async def test_deferred_until_now_is_due(self, bench: Bench, seconds: float) -> None:
        """A time that has already come makes the message due at once, and what happened is remembered."""
        await bench.put()
        await defer(bench.queue, await claimed(bench.queue), bench.clock.now() + seconds)
        assert attempts(await claimed(bench.queue)) == 1

    async def test_progress_adds_up(self, bench: Bench) -> None:
        """Every deferral is remembered on top of those before, over restarts."""
        await bench.put()
        for number in range(5):
            message = await claimed(bench.queue)
            assert attempts(message) == number
            await defer(bench.queue, message, bench.clock.now() + 10)
            if number % 2:
                await bench.reopen()
            bench.clock.advance(10)

    @pytest.mark.parametrize("restart", [False, True])
    async def test_not_before_is_kept(self, bench: Bench, restart: bool) -> None:
        """A message that its producer wants to leave later is not given out earlier."""
        queue_id = await bench.put(not_before=bench.clock.now() + 3600)
        if restart:
            await bench.reopen()
        bench.clock.advance(3599)
        assert await claim(bench.queue) is None
        bench.clock.advance(1)
        assert (await claimed(bench.queue)).queue_id == queue_id

    async def test_fail_keeps_the_message_with_its_reasons(self, bench: Bench) -> None:
        """It is not tried again, and a person finds it with every recipient's reason."""
        queue_id = await bench.put()
        message = await claimed(bench.queue)
        await fail(bench.queue, message)
        for _ in range(2):
            assert await claim(bench.queue) is None
            assert await entries(bench.queue) == []
            (entry,) = await entries(bench.queue, failed=True)
            assert entry == await bench.queue.find(queue_id)
            assert (entry.place, entry.reason, entry.in_flight) == (Place.FAILED, "rejected", False)
            assert told(entry.message) == outcome(message, Status.FAILED, reason="rejected")
            assert bench.queue.figures().waiting == 0
            await bench.reopen()

    @pytest.mark.parametrize("restart", [False, True])
    async def test_bring_back_undoes_fail(self, bench: Bench, restart: bool) -> None:
        """A failed message is queued again, with the progress that is given."""
        queue_id = await bench.put()
        message = await claimed(bench.queue)
        await fail(bench.queue, message)
        at = bench.clock.now() + 60
        assert await bench.queue.bring_back(queue_id, outcome(message, Status.DEFERRED, at))
        if restart:
            await bench.reopen()
        assert await entries(bench.queue, failed=True) == []
        assert await claim(bench.queue) is None
        bench.clock.advance(60)
        again = await claimed(bench.queue)
        assert told(again) == outcome(message, Status.DEFERRED, at)
        await fail(bench.queue, again)
        assert (await entries(bench.queue, failed=True))[0].message.queue_id == queue_id

    async def test_bring_back_of_what_has_not_failed_does_nothing(self, bench: Bench) -> None:
        """Unknown, waiting and in flight: the answer is False, and nothing is changed."""
        queue_id = await bench.put()
        progress = Progress(1.0)
        assert not await bench.queue.bring_back(UNKNOWN, progress)
        assert not await bench.queue.bring_back(queue_id, progress)
        message = await claimed(bench.queue)
        assert not await bench.queue.bring_back(queue_id, progress)
        bench.queue.release(message)
        assert await claim_all(bench.queue) == [queue_id]

    # -- operators -----------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(("state", "verb"), ANSWERS)
    async def test_what_a_verb_does(self, bench: Bench, state: str, verb: Verb) -> None:
        """Each verb in each state: its answer, and where the message stands, also after a restart."""
        later = bench.clock.now() + 60
        queue_id = await bench.put(not_before=later if state == "scheduled" else 0.0)
        if "deferred" in state:
            await defer(bench.queue, await claimed(bench.queue), later)
        if "held" in state:
            assert await bench.queue.change(Verb.HOLD, [queue_id]) == {queue_id: ""}
        if state == "failed":
            await fail(bench.queue, await claimed(bench.queue))
        message = await claimed(bench.queue) if state == "in flight" else None
        answer, place = ANSWERS[state, verb]
        said = (await bench.queue.change(verb, [queue_id]))[queue_id]
        assert (answer in said) if answer else said == ""
        for restart in (False, True):
            if restart:
                await bench.reopen()
            entry = await bench.queue.find(queue_id)
            assert (entry.place.value if entry else "gone") == place
        # Claims end with the process, so what was in flight is due after the restart.
        assert await claim_all(bench.queue) == ([queue_id] if place == "active" else [])
        assert message is None or message.queue_id == queue_id

    async def test_a_held_message_goes_on_where_it_stood(self, bench: Bench) -> None:
        """Hold keeps a message for as long as it lasts; release gives back its time and what happened to it."""
        queue_id = await bench.put()
        await defer(bench.queue, await claimed(bench.queue), bench.clock.now() + 60)
        await bench.queue.change(Verb.HOLD, [queue_id])
        bench.clock.advance(3600)
        await bench.reopen()
        assert await claim(bench.queue) is None
        assert bench.queue.figures().held == 1
        await bench.queue.change(Verb.RELEASE, [queue_id])
        assert attempts(await claimed(bench.queue)) == 1

    async def test_retry_of_a_failed_message_begins_anew(self, bench: Bench) -> None:
        """Whoever failed is due again with a fresh lifetime, and none of the tries before counts."""
        queue_id = await bench.put()
        await fail(bench.queue, await claimed(bench.queue))
        bench.clock.advance(86400)
        assert await bench.queue.change(Verb.RETRY, [queue_id]) == {queue_id: ""}
        message = await claimed(bench.queue)
        assert message.progress.arrived_at == bench.clock.now()
        (record,) = message.progress.recipients.values()
        assert (record.status, record.attempts, record.reason) == (Status.DEFERRED, 0, "")

    async def test_failed_by_hand(self, bench: Bench) -> None:
        """Everybody who is still owed the message has failed by hand; who got it got it, and what they said stays."""
        queue_id = await bench.put()
        message = await claimed(bench.queue)
        progress = outcome(message, Status.DEFERRED, bench.clock.now() + 60)
        sent = RecipientRecord(Status.SENT, Response(Stage.BODY, 250), 1, bench.clock.now())
        progress = replace(progress, recipients={**progress.recipients, "other@example.org": sent})
        await bench.queue.defer(message, progress, bench.clock.now() + 60)
        untried = await bench.put()
        assert await bench.queue.change(Verb.FAIL, [queue_id, untried], "boss") == {queue_id: "", untried: ""}
        for _ in range(2):
            entry, other = await entries(bench.queue, failed=True)
            assert (entry.place, entry.reason, other.reason) == (Place.FAILED, "by-hand", "by-hand")
            records = entry.message.progress.recipients
            assert records["other@example.org"] == sent
            mine = records[message.envelope.recipients[0]]
            assert (mine.status, mine.reason, mine.attempts) == (Status.FAILED, "by-hand", 1)
            assert (mine.response.code, mine.next_attempt) == (451, 0.0)
            (never,) = other.message.progress.recipients.values()
            assert (never.status, never.reason, never.attempts) == (Status.FAILED, "by-hand", 0)
            assert await claim(bench.queue) is None
            await bench.reopen()
        assert await bench.queue.change(Verb.RETRY, [queue_id]) == {queue_id: ""}
        again = (await claimed(bench.queue)).progress
        assert again.recipients["other@example.org"] == sent
        assert again.recipients[message.envelope.recipients[0]].status is Status.DEFERRED

    async def test_what_operators_did_is_remembered(self, bench: Bench) -> None:
        """Each change that was one is a line of the message's history, with who wanted it; so are the tries."""
        queue_id = await bench.put()
        message = await claimed(bench.queue)
        tried = remembered(
            outcome(message, Status.DEFERRED, bench.clock.now()), Past(1_800_000_000.0, "deferred", "no")
        )
        await bench.queue.defer(message, tried, bench.clock.now())
        verbs = [Verb.HOLD, Verb.HOLD, Verb.RELEASE, Verb.RELEASE, Verb.FAIL, Verb.FAIL, Verb.RETRY]
        for verb in verbs:
            await bench.queue.change(verb, [queue_id], by="boss")
            await bench.reopen()
        entry = await bench.queue.find(queue_id)
        assert entry is not None
        history = [(past.event, past.text) for past in entry.message.progress.history if past.text in ("no", "boss")]
        changes = [(verb, "boss") for verb in ("hold", "release", "fail", "retry")]
        assert history == [("deferred", "no"), *changes]
        assert {past.times for past in entry.message.progress.history} == {1}

    async def test_many_are_changed_at_once(self, bench: Bench) -> None:
        """However many ids: each has its answer, whatever state it is in, and all stand where they should."""
        ids = [await bench.put(f"m{number}") for number in range(250)]
        flying = await claimed(bench.queue)
        await fail(bench.queue, await claimed(bench.queue))
        answers = await bench.queue.change(Verb.HOLD, [UNKNOWN, *reversed(ids)])
        assert [i for i, answer in answers.items() if answer == ""] == list(reversed(ids[2:]))
        assert "being sent" in answers[ids[0]]
        assert "has failed" in answers[ids[1]]
        assert answers[UNKNOWN] == "no such message"
        await bench.reopen()
        assert bench.queue.figures().held == 248
        assert set((await bench.queue.change(Verb.RELEASE, ids[2:])).values()) == {""}
        assert await claim_all(bench.queue) == [flying.queue_id, *ids[2:]]

    async def test_what_is_being_changed_is_claimed_by_nobody(self, bench: Bench) -> None:
        """A change and a relay that works meanwhile: each message ends in one way, and the answer says which."""
        ids = [await bench.put(f"m{number}") for number in range(250)]
        sent: list[str] = []

        async def consume() -> None:
            while message := await claim(bench.queue):
                await asyncio.sleep(0)
                await complete(bench.queue, message)
                sent.append(message.queue_id)

        consumer = asyncio.create_task(consume())
        await asyncio.sleep(0)
        answers = await bench.queue.change(Verb.FAIL, reversed(ids))
        await consumer
        failed = [entry.message.queue_id for entry in await entries(bench.queue, failed=True)]
        assert sorted(sent + failed) == ids
        assert failed == sorted(queue_id for queue_id, answer in answers.items() if answer == "")
        assert bench.queue.figures() == Figures()

    async def test_two_changes_at_once(self, bench: Bench) -> None:
        """Of two operators who want different things, one or both have it for each message; none counts twice."""
        ids = [await bench.put(f"m{number}") for number in range(150)]
        one, other = await asyncio.gather(
            bench.queue.change(Verb.HOLD, ids), bench.queue.change(Verb.DELETE, reversed(ids))
        )
        assert all("" in (one[queue_id], other[queue_id]) for queue_id in ids)
        left = await entries(bench.queue)
        assert [entry.message.queue_id for entry in left] == [queue_id for queue_id in ids if other[queue_id]]
        assert bench.queue.figures().held == bench.queue.figures().waiting == len(left)

    async def test_who_comes_second_is_told_so(self, bench: Bench) -> None:
        """A message that somebody is changing right now is not said to be unknown."""
        ids = [await bench.put(f"m{number}") for number in range(3)]
        one, other = await asyncio.gather(*(bench.queue.change(verb, ids) for verb in (Verb.HOLD, Verb.RELEASE)))
        assert set(one.values()) == {""}
        assert set(other.values()) <= {"", "is being changed right now; try again in a moment"}

    @pytest.mark.parametrize("verb", [Verb.FAIL, Verb.RETRY])
    async def test_an_impatient_operator_leaves_the_queue_sound(self, bench: Bench, verb: Verb) -> None:
        """Whoever asks and goes away: the change is carried out or not, and every message is known afterwards."""
        ids = [await bench.put(f"m{number}") for number in range(150)]
        task = asyncio.create_task(bench.queue.change(verb, ids))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await bench.queue.change(Verb.RETRY, [UNKNOWN])
        failed = [entry.message.queue_id for entry in await entries(bench.queue, failed=True)]
        assert sorted(failed + await claim_all(bench.queue)) == ids

    async def test_every_id_gets_an_answer(self, bench: Bench) -> None:
        """Unknown ids and things that are none are named, and do not keep the others from being changed."""
        queue_id = await bench.put()
        strange = ["", "../../etc/passwd", UNKNOWN, "x" * 300, queue_id.upper(), queue_id + "\n"]
        answers = await bench.queue.change(Verb.HOLD, [*strange, queue_id])
        assert answers == {**dict.fromkeys(strange, "no such message"), queue_id: ""}
        for name in strange:
            assert await bench.queue.find(name) is None

    # -- waiting -------------------------------------------------------------------------------------------------

    async def test_wait_due_sees_an_arrival(self, bench: Bench) -> None:
        """Whoever waits is woken by a message that comes."""
        task = asyncio.create_task(bench.queue.wait_due(asyncio.Event()))
        await until(lambda: bench.clock.waiting)
        await bench.put()
        assert await task

    async def test_wait_due_sees_a_time_come(self, bench: Bench) -> None:
        """Whoever waits is woken when a deferred message's time has come."""
        await bench.put()
        await defer(bench.queue, await claimed(bench.queue), bench.clock.now() + 10)
        task = asyncio.create_task(bench.queue.wait_due(asyncio.Event(), patience=30))
        await until(lambda: bench.clock.waiting)
        bench.clock.advance(10)
        assert await task

    async def test_wait_due_has_patience_and_no_more(self, bench: Bench) -> None:
        """Without work the answer is False after `patience` seconds, however many deferred messages ripen not."""
        await bench.put()
        await defer(bench.queue, await claimed(bench.queue), bench.clock.now() + 3600)
        began = bench.clock.monotonic()
        task = asyncio.create_task(bench.queue.wait_due(asyncio.Event(), patience=30))
        while not task.done():
            await until(lambda: bench.clock.waiting or task.done())
            bench.clock.advance(1)
            await asyncio.sleep(0)
        assert not await task
        assert bench.clock.monotonic() - began == pytest.approx(30, abs=2)

    async def test_wait_due_ends_at_stop(self, bench: Bench) -> None:
        """A stop event ends the wait, and a set one begins none, even with work to do."""
        stop = asyncio.Event()
        task = asyncio.create_task(bench.queue.wait_due(stop))
        await until(lambda: bench.clock.waiting)
        stop.set()
        bench.wake()
        assert not await task
        await bench.put()
        assert not await bench.queue.wait_due(stop)

    async def test_wait_due_counts(self, bench: Bench) -> None:
        """`at_least` counts what is due: neither what is held, deferred, deleted or claimed, nor anything twice."""
        ids = [await bench.put(name) for name in "abcde"]
        assert await bench.queue.wait_due(asyncio.Event(), at_least=5, patience=0)
        await bench.queue.change(Verb.HOLD, ids[3:])
        assert not await bench.queue.wait_due(asyncio.Event(), at_least=4, patience=0)
        await bench.queue.change(Verb.RELEASE, ids[3:])
        await bench.queue.change(Verb.HOLD, ids[4:])
        assert await bench.queue.wait_due(asyncio.Event(), at_least=4, patience=0)
        assert not await bench.queue.wait_due(asyncio.Event(), at_least=5, patience=0)
        await bench.queue.change(Verb.DELETE, ids[4:])
        message = await claimed(bench.queue)
        assert not await bench.queue.wait_due(asyncio.Event(), at_least=4, patience=0)
        bench.queue.release(message)
        assert await bench.queue.wait_due(asyncio.Event(), at_least=4, patience=0)

    async def test_due_waits_for_more_while_idle(self, bench: Bench) -> None:
        """An open connection waits `idle` seconds for another message, counted from the last one, then ends."""
        got: list[str] = []

        async def consume() -> None:
            async for message in bench.queue.due(asyncio.Event(), idle=5):
                got.append(message.queue_id)
                await complete(bench.queue, message)

        task = asyncio.create_task(consume())
        ids = []
        for name in "ab":
            await until(lambda: bench.clock.waiting)
            bench.clock.advance(4)
            await asyncio.sleep(0)
            ids.append(await bench.put(name))
            await until(lambda: len(got) == len(ids))
        await until(lambda: bench.clock.waiting)
        assert not task.done()
        bench.clock.advance(5)
        await task
        assert got == ids

    async def test_due_ends_at_stop(self, bench: Bench) -> None:
        """Nothing more is claimed once `stop` is set, and a wait for more ends."""
        stop = asyncio.Event()
        await bench.put("a")
        await bench.put("b")
        got = []
        async for message in bench.queue.due(stop, idle=60):
            got.append(message)
            stop.set()
        assert len(got) == 1
        stop.clear()
        bench.queue.release(got[0])
        seen: list[str] = []

        async def consume() -> None:
            async for message in bench.queue.due(stop, idle=60):
                seen.append(message.queue_id)  # noqa: PERF401 (looked at meanwhile)

        task = asyncio.create_task(consume())
        await until(lambda: len(seen) == 2 and bench.clock.waiting)
        stop.set()
        bench.wake()
        await task

    # -- strict order --------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("restart", [False, True])
    async def test_strict_order_lets_nothing_overtake(self, bench: Bench, restart: bool) -> None:
        """With strict order, younger messages wait for a deferred one, and then follow it."""
        bench.strict_order()
        first, second = await bench.put("a"), await bench.put("b")
        await defer(bench.queue, await claimed(bench.queue), bench.clock.now() + 60)
        if restart:
            await bench.reopen()
            bench.strict_order()
        assert not await bench.queue.wait_due(asyncio.Event(), patience=0)
        assert await claim(bench.queue) is None
        bench.clock.advance(60)
        assert await bench.queue.wait_due(asyncio.Event(), patience=0)
        assert await claim_all(bench.queue) == [first, second]

    async def test_strict_order_is_about_refusals(self, bench: Bench) -> None:
        """A message that asked to wait (not_before) holds up nobody: else one producer could stop all mail."""
        bench.strict_order()
        await bench.put("a", not_before=bench.clock.now() + 300 * 86400)
        second = await bench.put("b")
        assert await claim_all(bench.queue) == [second]

    async def test_strict_order_holds_back_nothing_older(self, bench: Bench) -> None:
        """A deferred message keeps younger ones back, never older ones; a held one keeps nobody back."""
        bench.strict_order()
        ids = [await bench.put(name) for name in "abc"]
        oldest = await claimed(bench.queue)
        await defer(bench.queue, await claimed(bench.queue), bench.clock.now() + 60)
        bench.queue.release(oldest)
        assert await claim_all(bench.queue) == ids[:1]
        await bench.queue.change(Verb.HOLD, ids[1:2])
        assert await claim_all(bench.queue) == ids[2:]

    # -- looking -------------------------------------------------------------------------------------------------

    async def test_figures_and_entries_agree(self, bench: Bench) -> None:
        """The numbers are those of the list, and the oldest is the first of it."""
        ids = [await bench.put(name) for name in "abcdef"]
        await claimed(bench.queue)
        await defer(bench.queue, await claimed(bench.queue), bench.clock.now() + 60)
        await fail(bench.queue, await claimed(bench.queue))
        await bench.queue.change(Verb.HOLD, ids[3:4])
        figures = bench.queue.figures()
        assert (figures.in_flight, figures.deferred, figures.held, figures.due, figures.waiting) == (1, 1, 1, 2, 5)
        assert figures.oldest == pytest.approx(bench.clock.now(), abs=60)
        found = await entries(bench.queue)
        assert [entry.message.queue_id for entry in found] == [i for i in ids if i != ids[2]]
        places = Counter(entry.place for entry in found)
        assert places == {Place.ACTIVE: 3, Place.DEFERRED: 1, Place.HOLD: 1}
        assert [entry.in_flight for entry in found] == [True, False, False, False, False]
        for entry in found:
            assert await bench.queue.find(entry.message.queue_id) == entry

    async def test_whose_time_has_come_is_active(self, bench: Bench) -> None:
        """A deferred message that is due is shown as due, and so it is counted."""
        queue_id = await bench.put()
        await defer(bench.queue, await claimed(bench.queue), bench.clock.now() + 60)
        bench.clock.advance(60)
        entry = await bench.queue.find(queue_id)
        assert entry is not None
        assert (entry.place, entry.next_attempt) == (Place.ACTIVE, 0.0)
        assert bench.queue.figures().due == 1

    async def test_entries_are_in_order_however_many(self, bench: Bench) -> None:
        """The list is read piece by piece and comes in queue order."""
        ids = [await bench.put(f"m{number}") for number in range(250)]
        assert [entry.message.queue_id for entry in await entries(bench.queue)] == ids


# -- random histories --------------------------------------------------------------------------------------------


@dataclass
class _Model:
    """What should be known of one message."""

    due: float = 0.0  # seconds since the epoch
    not_before: float = 0.0
    held: bool = False
    failed: bool = False
    in_flight: QueuedMessage | None = None
    attempts: int = 0


class QueueMachine(RuleBasedStateMachine):
    """Random operations and restarts against a dictionary. Subclass it with `make`."""

    def make(self) -> Bench:
        """A bench with an empty queue."""
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._model: dict[str, _Model] = {}

    def _run(self, work: Any) -> Any:
        return self._runner.run(work)

    @initialize()
    def begin(self) -> None:
        async def make() -> Bench:
            bench = self.make()
            await bench.reopen()
            return bench

        self.bench: Bench = self._run(make())

    def teardown(self) -> None:
        try:
            if hasattr(self, "bench"):
                try:
                    self.same_lists()
                finally:
                    self._run(self.bench.close())
        finally:
            self._runner.close()

    def _now(self) -> float:
        return self.bench.clock.now()

    def _some(self, data: st.DataObject, **wanted: bool) -> tuple[str, _Model] | None:
        """A message in flight, failed or waiting, as wanted."""
        ids = [
            queue_id
            for queue_id, one in self._model.items()
            if (one.in_flight is not None) == wanted.get("in_flight", False)
            and one.failed == wanted.get("failed", False)
        ]
        if not ids:
            return None
        chosen = data.draw(st.sampled_from(sorted(ids)))
        return chosen, self._model[chosen]

    @rule(wait=st.sampled_from([0, 0, 0, 5, 50]))
    def put(self, wait: int) -> None:
        not_before = self._now() + wait if wait else 0.0
        queue_id = self._run(self.bench.put(not_before=not_before))
        assert queue_id not in self._model
        self._model[queue_id] = _Model(not_before, not_before)

    @rule()
    def take(self) -> None:
        message = self._run(claim(self.bench.queue))
        due = [
            i
            for i, one in self._model.items()
            if not (one.held or one.failed or one.in_flight) and one.due <= self._now()
        ]
        assert (message.queue_id if message else None) == min(due, default=None)
        if message is not None:
            one = self._model[message.queue_id]
            assert attempts(message) == one.attempts
            one.in_flight = message

    @rule(data=st.data(), how=st.sampled_from(["release", "complete", "defer", "fail"]), wait=st.integers(-1, 60))
    def settle(self, data: st.DataObject, how: str, wait: int) -> None:
        found = self._some(data, in_flight=True)
        if found is None:
            return
        queue_id, one = found
        message, one.in_flight = one.in_flight, None
        assert message is not None
        if how == "release":
            self.bench.queue.release(message)
            return
        one.attempts += 1
        if how == "complete":
            self._run(complete(self.bench.queue, message))
            del self._model[queue_id]
        elif how == "defer":
            one.due = self._now() + wait
            self._run(defer(self.bench.queue, message, one.due))
        else:
            self._run(fail(self.bench.queue, message))
            one.failed = True

    @rule(data=st.data(), wait=st.integers(0, 60))
    def bring_back(self, data: st.DataObject, wait: int) -> None:
        found = self._some(data, failed=True)
        if found is None:
            return
        queue_id, one = found
        due = self._now() + wait
        one.failed, one.due, one.attempts = False, max(due, one.not_before), one.attempts + 1
        entry = self._run(self.bench.queue.find(queue_id))
        assert self._run(self.bench.queue.bring_back(queue_id, outcome(entry.message, Status.DEFERRED, due)))

    @rule(data=st.data(), verb=st.sampled_from(Verb), failed=st.booleans())
    def change(self, data: st.DataObject, verb: Verb, failed: bool) -> None:
        found = self._some(data, failed=failed)
        if found is None:
            return
        queue_id, one = found
        answer = self._run(self.bench.queue.change(verb, [queue_id]))[queue_id]
        applies = verb in (Verb.RETRY, Verb.DELETE) if failed else not (one.held and verb is Verb.RETRY)
        by_hand = verb is Verb.FAIL and not failed
        assert (answer == "") == applies
        if verb is Verb.DELETE:
            del self._model[queue_id]
        elif by_hand:
            one.failed, one.held = True, False
        elif failed and verb is Verb.RETRY:
            one.failed, one.due, one.attempts = False, one.not_before, 0
        elif not failed and verb is Verb.RETRY and not one.held:
            one.due = one.not_before = 0.0
        elif not failed and verb in (Verb.HOLD, Verb.RELEASE):
            one.held = verb is Verb.HOLD

    @precondition(lambda self: any(one.in_flight for one in self._model.values()))
    @rule(data=st.data(), verb=st.sampled_from(Verb))
    def change_in_flight(self, data: st.DataObject, verb: Verb) -> None:
        found = self._some(data, in_flight=True)
        assert found is not None
        assert "being sent" in self._run(self.bench.queue.change(verb, [found[0]]))[found[0]]

    @rule(seconds=st.integers(1, 60))
    def time_passes(self, seconds: int) -> None:
        self.bench.clock.advance(seconds)

    @rule()
    def crash_and_reopen(self) -> None:
        self._run(self.bench.reopen())
        for one in self._model.values():
            one.in_flight = None
        self.same_lists()

    @rule()
    def same_lists(self) -> None:
        """The lists hold every message once, in the right place."""
        waiting, failed = self._run(entries(self.bench.queue)), self._run(entries(self.bench.queue, failed=True))
        assert [e.message.queue_id for e in waiting] == sorted(i for i, one in self._model.items() if not one.failed)
        assert [e.message.queue_id for e in failed] == sorted(i for i, one in self._model.items() if one.failed)
        for entry in waiting:
            one = self._model[entry.message.queue_id]
            assert attempts(entry.message) == one.attempts
            if one.in_flight or (one.due <= self._now() and not one.held):
                assert entry.place is Place.ACTIVE
            else:
                assert entry.place is (Place.HOLD if one.held else Place.DEFERRED)

    @invariant()
    def same_figures(self) -> None:
        """The numbers are those of the model."""
        if not hasattr(self, "bench"):
            return
        now = self._now()
        waiting = [one for one in self._model.values() if not one.failed]
        figures = self.bench.queue.figures()
        free = [one for one in waiting if not one.in_flight and not one.held]
        assert figures.in_flight == sum(1 for one in waiting if one.in_flight)
        assert figures.held == sum(1 for one in waiting if one.held and not one.in_flight)
        assert figures.due == sum(1 for one in free if one.due <= now)
        assert figures.deferred == sum(1 for one in free if one.due > now)
