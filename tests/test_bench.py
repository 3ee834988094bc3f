"""The benchmark's own instruments: what the sink records, what counts as lost, what a ratio is made of."""

from __future__ import annotations

import os
import shutil
import smtplib
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from bench import plots, report, targets, usage
from bench.cases import SCALES, cases
from bench.measure import Outcome, Run
from bench.messages import SENDER, Batch
from bench.sink import SOURCE, Offers, Record, Sink, build, verify
from bench.waiting import Refuser

from tests.servers.process import free_port, wait_until

COMPILED = pytest.param(
    "compiled", marks=pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler (apt-get install gcc)")
)


@pytest.fixture(params=[COMPILED, "python"])
def command(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """Each of the two sinks."""
    if request.param == "compiled":
        return build(tmp_path)
    return [sys.executable, str(SOURCE.with_name("slowsink.py"))]


@pytest.fixture
def served(command: list[str], tmp_path: Path) -> Iterator[tuple[Sink, int]]:
    """A running sink and its port."""
    port = free_port()
    sink = Sink(command, tmp_path, port, Offers())
    yield sink, port
    sink.kill()


def taken(sink: Sink, count: int) -> list[Record]:
    wait_until(lambda: sink.accepted >= count, 10, lambda: f"{sink.accepted} of {count}")
    return list(sink.records())


def talk(port: int, text: bytes, *, half_close: bool = False) -> bytes:
    """Everything that is answered to these bytes until the end."""
    heard = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(text)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(65536):
            heard += piece
    return heard


def test_what_is_sent_is_recorded_with_number_size_and_recipients(served: tuple[Sink, int]) -> None:
    """Dots are unstuffed, and the body counts from behind the blank line."""
    sink, port = served
    batch = Batch(3, size=1000, recipients=2, first=40)
    with smtplib.SMTP("127.0.0.1", port, timeout=10) as client:
        for _, text in batch:
            client.sendmail(SENDER, batch.addresses, text)
    found = taken(sink, 3)
    assert [(one.number, one.body, one.recipients) for one in found] == [(40, 1000, 2), (41, 1000, 2), (42, 1000, 2)]
    assert verify(batch, found) == {"lost": 0, "doubled": 0, "damaged": 0, "foreign": 0}
    assert sink.stop()["messages"] == 3


def test_chunks_and_pipelined_groups_are_taken_as_well(served: tuple[Sink, int]) -> None:
    """Two chunks are one message, a chunk without recipients is swallowed, and a half-closed client hears the end."""
    sink, port = served
    text = next(iter(Batch(1, size=1000)))[1]
    envelope = b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n"
    chunks = b"BDAT 100\r\n" + text[:100] + b"BDAT %d LAST\r\n" % (len(text) - 100) + text[100:]
    heard = talk(port, b"BDAT 6 LAST\r\nRSET\r\n" + envelope + chunks + b"QUIT\r\n", half_close=True)
    assert [line[:3] for line in heard.splitlines()] == [b"220", b"503", b"250", b"250", b"250", b"250", b"221"]
    assert [(one.number, one.body) for one in taken(sink, 1)] == [(0, 1000)]


def test_a_chunk_has_the_size_that_was_said(served: tuple[Sink, int]) -> None:
    """A byte too many is taken for a command, one too few eats of the next, and what is no size ends it all."""
    _, port = served
    envelope = b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n"
    for size, said in (
        (b"2 LAST", [b"250", b"502"]),
        (b"4 LAST", [b"250", b"502"]),
        (b"x LAST", [b"501"]),
        (b"3 L", [b"501"]),
    ):
        heard = talk(port, envelope + b"BDAT " + size + b"\r\nabcNOOP\r\nQUIT\r\n", half_close=True)
        ended = [] if said == [b"501"] else [b"221"]
        assert [line[:3] for line in heard.splitlines()] == [b"220", b"250", b"250", *said, *ended]


def test_what_arrives_together_is_delayed_once(command: list[str], tmp_path: Path) -> None:
    """Three commands in one packet, and then three one by one: one round trip, and three."""
    port, rtt = free_port(), 0.2
    sink = Sink(command, tmp_path, port, Offers(rtt=rtt * 1000))
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as connection,
            connection.makefile("rb") as answers,
        ):
            answers.readline()
            took = []
            for groups in ([b"NOOP\r\n" * 3], [b"NOOP\r\n"] * 3):
                begun = time.monotonic()
                for group in groups:
                    connection.sendall(group)
                    for _ in range(len(group) // 6):
                        answers.readline()
                took.append(time.monotonic() - begun)
    finally:
        sink.kill()
    assert rtt <= took[0] < 2 * rtt
    assert 3 * rtt <= took[1]


def test_what_is_withheld_is_not_offered(command: list[str], tmp_path: Path) -> None:
    """PIPELINING and CHUNKING go, SIZE is the one asked for and is kept to, a connection too many hears 421."""
    port = free_port()
    sink = Sink(command, tmp_path, port, Offers(pipelining=False, chunking=False, size=500, connections=1, rtt=1.0))
    try:
        with smtplib.SMTP("127.0.0.1", port, timeout=10) as client:
            client.ehlo()
            assert not client.has_extn("pipelining")
            assert not client.has_extn("chunking")
            assert client.esmtp_features["size"] == "500"
            assert client.mail(SENDER, ["SIZE=501"])[0] == 552
            assert talk(port, b"").startswith(b"421")
    finally:
        sink.kill()


def test_lost_doubled_and_damaged_are_told_apart() -> None:
    """By message and recipient."""
    batch = Batch(4, size=1000, recipients=2)

    def record(number: int, body: int = 1000, recipients: int = 2) -> Record:
        return Record(0, number, body, recipients, 1)

    found = [record(0), record(0), record(1, body=999), record(2, recipients=1), record(99)]
    assert verify(batch, found) == {"lost": 3, "doubled": 2, "damaged": 1, "foreign": 1}


@pytest.mark.parametrize("size", [200, 4096, 4097, 4170, 4171])
def test_a_body_has_exactly_its_size(size: int) -> None:
    """And ends its last line."""
    body = Batch(1, size).body()
    assert len(body) == size
    assert body.endswith(b"\r\n")
    assert body.startswith(b".")


@pytest.mark.parametrize("make", [usage.group, usage.TreeGroup])
def test_a_group_counts_what_its_processes_did_and_ends_them(make: Callable[[], usage.Group]) -> None:
    """Also of one that has ended, and of a child that outlives it."""
    group = make()
    try:
        busy = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
        assert group.spawn([sys.executable, "-c", busy]).wait() == 0
        assert 0.2 <= group.cpu() < 2
        sleeper = group.spawn(["/bin/sh", "-c", "sleep 100 & sleep 100"])
        wait_until(lambda: len(group.pids()) >= 2, 10, lambda: str(group.pids()))
        assert usage.pss(group.pids()) > 0
    finally:
        group.close()
    assert sleeper.wait() == -9
    assert group.pids() == []
    assert not list(usage.ROOTS[0].glob(f"mailrelayd-bench-{os.getpid()}-*"))


def rows() -> list[report.Row]:
    """Two rounds: Postfix at 100 and 200 a second, we at 150 and 100."""
    batch = Batch(100)
    speeds = {("postfix", 20): (100.0, 200.0), ("mailrelayd", 1): (150.0, 100.0)}
    return [
        {"title": "drain", **Outcome(Run("near", peer, connections, batch, round=number), clean=speed, cpu=1).as_json()}
        for (peer, connections), rates in speeds.items()
        for number, speed in enumerate(rates)
    ]


def test_a_ratio_is_taken_within_a_round() -> None:
    """150 / 100 and 100 / 200, not the ratio of the medians."""
    assert report.ratios(rows(), "mailrelayd x1", report.clean) == [1.5, 0.5]
    assert "1.00 [0.50..1.50]" in report.tables(rows())


def test_a_target_says_by_how_much_it_is_missed() -> None:
    """A median of 1.0 where 1.5 is wanted; what nobody measured is not in the table."""
    text = targets.table(rows())
    assert "| >= 1.5 x Postfix | 1.00 [0.50..1.50] | **not met**, by a factor of 1.50 |" in text
    assert "20 ms" not in text
    assert targets.table([]) == ""


def test_every_target_has_a_case() -> None:
    """One that no run could ever meet, or miss, would look like one that is met."""
    found: list[report.Row] = []
    for case in cases(SCALES["smoke"]):
        for run in case.runs:
            details = dict.fromkeys(("ready", "waiting_pss", "disorder", "wakeups"), 1.0)
            outcome = Outcome(run, cpu=1, clean=1, pss=1, latencies=(1.0,), details=details)
            found.append({"title": case.title, **outcome.as_json()})
    samples = {"until the webhook's 200": [1.0], "a mail of tests/replies": [1.0], "a heavy mail": [2.0]}
    found += [{"replies": {"case": name, "samples": samples}} for name in ("idle", "reading")]
    for target in targets.TARGETS:
        assert target.figures(found), target.what


def test_a_refuser_counts_who_comes() -> None:
    """And says 421 to each."""
    port = free_port()
    with Refuser(port) as refuser:
        assert talk(port, b"").startswith(b"421")
        assert talk(port, b"").startswith(b"421")
        assert refuser.connections == 2
    with pytest.raises(ConnectionRefusedError):
        talk(port, b"")


def test_what_did_not_work_is_said_and_counts_as_broken() -> None:
    """A run with an error has no figures that could be taken for a result."""
    run = replace(cases(SCALES["smoke"])[0].runs[0], peer="mailrelayd")
    row = {"title": "drain", **Outcome(run, "it stands still").as_json()}
    assert report.broken(row)
    assert not any(report.broken(one) for one in rows())
    assert "it stands still" in report.tables([row])


def test_a_plot_has_a_line_for_each_program() -> None:
    """And there is none where there are no figures."""
    drawn = plots.draw(rows())
    assert sorted(drawn) == ["throughput.svg"]
    assert drawn["throughput.svg"].count("<polyline") == 2
