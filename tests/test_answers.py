"""What the running daemon answers: filters, lives, contents, and verbs whose every effect is said and reported."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mailrelayd.answers import BATCH, Answers
from mailrelayd.clock import SystemClock
from mailrelayd.config.changes import Change
from mailrelayd.config.load import Loaded, load
from mailrelayd.operate import control, log
from mailrelayd.outbound import queueid
from mailrelayd.outbound.listing import Filter
from mailrelayd.outbound.queue import Entry, Place
from mailrelayd.outbound.route import Route
from mailrelayd.outbound.session import Session
from mailrelayd.outbound.spool import Spool
from mailrelayd.outbound.values import Response, Stage

MESSAGE = b"From: a@example.com\r\nTo: b@example.com\r\nSubject: test\r\n\r\n"
BODY = b"x" * 200_000
NODE = "relay1"
REFUSED = Response(Stage.CONNECT, 0, "", "connection refused")


class Quiet:
    """Nobody hears of trouble; there is none."""

    def trouble(self, doing: str, error: OSError) -> None:
        raise AssertionError(f"{doing}: {error}")

    def unreadable(self, queue_id: str, reason: str) -> None:
        raise AssertionError(f"{queue_id}: {reason}")


async def nobody() -> Session:
    raise AssertionError("nothing is sent here")


@dataclass
class Running:
    """A daemon as far as anybody asks it: its spool and its route are real ones."""

    path: Path
    loaded: Loaded
    spool: Spool
    route: Route | None
    node: str = NODE
    started: float = 0.0
    pickup: Any = field(default_factory=lambda: SimpleNamespace(refused=0))
    reported: list[Entry] = field(default_factory=list)
    office: Any = None  # approvals are not enabled
    records: Any = field(default_factory=lambda: SimpleNamespace(registry=()))

    async def reload(self, by: str) -> list[Change]:
        return [Change(by, "changed")]

    async def report_failure(self, entry: Entry) -> None:
        self.reported.append(entry)

    async def ask(self, **request: Any) -> list[dict[str, Any]]:
        """Every line of the answer, as the socket would carry it."""
        return [json.loads(json.dumps(line)) async for line in Answers(self)(request, "uid 7")]


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Running]:
    """One with 250 messages, whose smarthost is away."""
    configuration = tmp_path / "mailrelayd.toml"
    configuration.write_text(f'[spool]\ndirectory = "{tmp_path}/spool"\n[state]\ndirectory = "{tmp_path}/state"\n')
    spool = Spool(tmp_path / "spool", node=NODE, clock=SystemClock(), report=Quiet())
    for queue_id in IDS:
        (tmp_path / "spool" / "queue" / f"{queue_id}.eml").write_bytes(MESSAGE + BODY)
    await spool.open_up()
    route = Route("smarthost", nobody, probe=30.0, clock=SystemClock())
    route.hold(REFUSED)
    yield Running(configuration, load(configuration, {}), spool, route)
    spool.close()


SEQUENCE = queueid.Sequence(NODE, last=0)
IDS = [SEQUENCE.take(1_700_000_000.0 + number)[0] for number in range(2 * BATCH + 50)]
EVERYTHING = Filter().as_request()


async def test_a_filter_half_understood_chooses_nothing(daemon: Running) -> None:
    """A request of another version of the command is refused, not guessed: it may be about deleting."""
    for command in ("list", "ids", "shape"):
        for wanted in (None, {}, {**EVERYTHING, "size": 5}, {**EVERYTHING, "places": ["elsewhere"]}):
            with pytest.raises(control.RefusedError) as refused:
                await daemon.ask(command=command, filter=wanted)
            assert refused.value.status == os.EX_USAGE


@pytest.mark.parametrize(
    "request_",
    [{}, {"command": "delete"}, {"command": "cat", "id": 7}, {"command": "change", "verb": "eat", "ids": []}],
)
async def test_what_is_no_request(daemon: Running, request_: dict[str, Any]) -> None:
    """64, whatever is missing."""
    with pytest.raises(control.RefusedError) as refused:
        await daemon.ask(**request_)
    assert refused.value.status == os.EX_USAGE


async def test_ids_and_shape(daemon: Running) -> None:
    """What a filter means, as ids in order and as a table by reason; the route's where everything waits for it."""
    assert [queue_id for line in await daemon.ask(command="ids", filter=EVERYTHING) for queue_id in line["ids"]] == IDS
    total, row = await daemon.ask(command="shape", filter=EVERYTHING)
    assert (total["total"], row["reason"], row["ages"]["1d+"]) == (len(IDS), "connection refused", len(IDS))


async def test_explain(daemon: Running) -> None:
    """The route with its reason; after it is up again, the message's own turn; an id that is not there."""
    (facts,) = await daemon.ask(command="explain", id=IDS[0])
    assert (facts["waits_for"], facts["situation"]["account"]) == ("route", "smarthost")
    assert (facts["situation"]["reason"], facts["situation"]["stage"]) == ("connection refused", "connect")
    assert facts["situation"]["held_since"] == pytest.approx(SystemClock().now(), abs=60)
    assert daemon.route is not None
    daemon.route.proven()
    (facts,) = await daemon.ask(command="explain", id=IDS[0])
    assert facts["waits_for"] == "turn"
    daemon.route = None
    (facts,) = await daemon.ask(command="explain", id=IDS[0])
    assert facts["waits_for"] == "outbound"
    (facts,) = await daemon.ask(command="explain", id=IDS[0][:-1] + "z")
    assert (facts["queue_name"], facts["given_here"]) == (None, False)


async def test_cat_in_pieces(daemon: Running) -> None:
    """A message of any size goes through the socket in lines of bounded length."""
    lines = await daemon.ask(command="cat", id=IDS[0], header=False)
    assert b"".join(base64.b64decode(line["data"]) for line in lines) == MESSAGE + BODY
    assert max(len(line["data"]) for line in lines) < 100_000
    (header,) = await daemon.ask(command="cat", id=IDS[0], header=True)
    assert base64.b64decode(header["data"]) == MESSAGE
    for word in ("a" * 16, "../lock", ""):
        with pytest.raises(control.RefusedError, match="no such message"):
            await daemon.ask(command="cat", id=word, header=False)


async def test_who_asked_is_written_down(daemon: Running, capfd: pytest.CaptureFixture[str]) -> None:
    """A verb is answered per id, in order, each id once, said in the log, and stands in the message's history."""
    log.setup("json")
    asked = [IDS[1], "nonsense", *IDS, IDS[1]]
    answers = await daemon.ask(command="change", verb="hold", ids=asked)
    assert [answer["queue_id"] for answer in answers] == list(dict.fromkeys(asked))
    assert [answer["queue_id"] for answer in answers if answer["error"]] == ["nonsense"]
    said = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert {event["queue_id"] for event in said if event["event"] == "queue.changed"} == set(IDS)
    assert {event["by"] for event in said} == {"uid 7"}
    (facts,) = await daemon.ask(command="explain", id=IDS[0])
    assert [(past["event"], past["text"]) for past in facts["history"]][1:] == [("hold", "uid 7")]


async def test_what_is_given_up_is_said_and_reported(daemon: Running, capfd: pytest.CaptureFixture[str]) -> None:
    """message.failed for each recipient, and the sender is told, once; what had failed already is neither again."""
    log.setup("json")
    await daemon.ask(command="change", verb="fail", ids=IDS[:3])
    (answer, _) = await daemon.ask(command="change", verb="fail", ids=[IDS[0], IDS[3]])
    assert "already" in answer["error"]
    assert [(entry.message.queue_id, entry.place) for entry in daemon.reported] == [(i, Place.FAILED) for i in IDS[:4]]
    said = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    failed = [event for event in said if event["event"] == "message.failed"]
    assert [(event["queue_id"], event["to"], event["reason"]) for event in failed] == [
        (queue_id, "<b@example.com>", "by-hand") for queue_id in IDS[:4]
    ]
    await daemon.ask(command="change", verb="retry", ids=IDS[:4])
    assert len(daemon.reported) == 4


async def test_whoever_asked_may_go_away(daemon: Running) -> None:
    """A client that is killed in the middle leaves no message changed without its report: a batch is one thing."""
    answers = Answers(daemon)({"command": "change", "verb": "fail", "ids": IDS}, "uid 7")
    assert (await anext(answers))["error"] == ""
    await answers.aclose()  # type: ignore[attr-defined]
    given_up = {path.stem for path in (daemon.spool.directory / "failed").glob("*.eml")}
    assert given_up == {entry.message.queue_id for entry in daemon.reported} == set(IDS[:BATCH])
