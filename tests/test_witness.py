"""The witness sees: a correct toy relay is acquitted, and each seeded bug is caught."""

from __future__ import annotations

import asyncio
import contextlib
import random
import smtplib
import socket
import ssl
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.faults.driver import Campaign, compose, waiting
from tests.faults.journal import Death, Dropped, Evidence, Recorded, read_evidence
from tests.faults.script import CELLS, Rule, cells
from tests.faults.server import Recorder, Terms, context
from tests.faults.soak import Sample, flatness
from tests.faults.verdict import TORN, Verdict, classify, compare, difference, status

MESSAGE = b"Subject: x\r\nX-Test-Id: t1\r\nMessage-ID: <1@t>\r\n\r\nbody\r\n..two\r\n"


def toy(variant: str) -> tuple[str, ...]:
    return (
        sys.executable, "-m", "tests.faults.toy", "--spool", "{spool}", "--port", "{port}", "--variant", variant
    )  # fmt: skip


async def run(directory: Path, variant: str, **options: Any) -> Verdict:
    verdict = await Campaign(directory, toy(variant), **{"deadline": 15, **options}).run()
    print(verdict)
    return verdict


# The calibration


async def test_a_correct_relay_is_acquitted_under_kills_and_faults(tmp_path: Path) -> None:
    rules = [  # smtplib itself falls for answers out of turn
        Rule(stage, fault, probability=0.003) for stage, fault in cells() if fault not in ("stray", "double")
    ]
    verdict = await run(tmp_path, "correct", messages=60, recipients=3, kills=5, rules=rules, between=(0.2, 0.5))
    assert verdict.ok, verdict
    assert verdict.drained
    assert (verdict.dropped, verdict.sent + verdict.failed) == (180, 180)
    assert verdict.dup_window == 0
    assert verdict.kills == 5
    assert verdict.faults


async def test_a_correct_relay_settles_every_recipient_by_its_own_fate(tmp_path: Path) -> None:
    verdict = await run(tmp_path, "correct", messages=10, recipients=3, addresses=("ok", "reject", "tempfail-2"))
    assert verdict.ok, verdict
    assert (verdict.sent, verdict.failed, verdict.queued) == (20, 10, 0)
    assert verdict.dup_race == 0


async def test_a_correct_relay_counts_nobody_as_served_that_was_never_asked_about(tmp_path: Path) -> None:
    """A 421 to the second of three recipients ends the transaction; smtplib names only those it got to."""
    verdict = await run(tmp_path, "correct", messages=5, recipients=3, rules=[Rule("rcpt", "421", nth=2, times=2)])
    assert verdict.ok, verdict
    assert verdict.drained


async def test_forgetting_a_message_before_it_is_sent_is_seen_as_a_loss(tmp_path: Path) -> None:
    verdict = await run(tmp_path, "unlink-first", messages=20, rules=[Rule("dot", "close", times=3)], deadline=3)
    assert verdict.lost >= 3, verdict  # one more if it was on its way when the relay was stopped
    assert not verdict.ok


async def test_two_relays_on_one_spool_are_seen_as_calm_duplicates(tmp_path: Path) -> None:
    verdict = await run(tmp_path, "no-lock", messages=40, daemons=2, terms=Terms(delay=0.002), deadline=2)
    assert verdict.dup_calm > 0, verdict
    assert not verdict.ok


async def test_a_locked_spool_sends_two_relays_into_order(tmp_path: Path) -> None:
    verdict = await run(tmp_path, "correct", messages=30, daemons=2, terms=Terms(delay=0.002))
    assert verdict.ok, verdict
    assert verdict.dup_race == 0


async def test_reading_an_unfinished_file_is_seen_as_corruption(tmp_path: Path) -> None:
    verdict = await run(tmp_path, "in-place", messages=10, way="slow", size=4000)
    assert verdict.corrupt + verdict.foreign > 0, verdict
    assert not verdict.ok


async def test_recording_late_is_seen_in_the_window(tmp_path: Path) -> None:
    verdict = await run(tmp_path, "late-record", messages=30, kills=6, between=(0.3, 0.6))
    assert verdict.dup_window > 0, verdict
    assert verdict.lost == verdict.dup_calm == 0


HAND_IN = """
import os, sys, time
variant, spool = sys.argv[1:]
final = f"{spool}/pickup/{os.getpid()}.eml"
name = final if variant == "torn" else f"{spool}/pickup/tmp/{os.getpid()}"
if variant == "liar":
    sys.exit(bool(sys.stdin.buffer.read()) - 1)
with open(name, "wb", buffering=0) as file:
    while data := sys.stdin.buffer.read1(100):
        file.write(data)
        time.sleep(0.02)
    os.fsync(file.fileno())
os.rename(name, final)
"""


async def hand_in(directory: Path, variant: str) -> Verdict:
    """A campaign of a program that hands messages in, and of kills that meet it at any moment of that."""
    client = (sys.executable, "-c", HAND_IN, variant, "{spool}")
    return await run(directory, "correct", messages=30, client=client, client_kills=0.5, pace=0.0, size=2000)


async def test_a_program_that_is_killed_has_promised_nothing(tmp_path: Path) -> None:
    verdict = await hand_in(tmp_path, "correct")
    assert verdict.ok and verdict.drained, verdict
    assert verdict.untaken > 0
    assert verdict.sent == verdict.dropped == 30 - verdict.untaken


async def test_a_program_that_promises_too_much_is_seen_as_a_loss(tmp_path: Path) -> None:
    verdict = await hand_in(tmp_path, "liar")
    assert verdict.lost > 0, verdict
    assert verdict.lost == verdict.dropped


async def test_a_program_that_hands_in_halves_is_seen_as_corruption(tmp_path: Path) -> None:
    verdict = await hand_in(tmp_path, "torn")
    assert verdict.corrupt > 0, verdict


# The server


def send(port: int, recipients: list[str], message: bytes = MESSAGE) -> dict[str, tuple[int, bytes]]:
    with smtplib.SMTP("127.0.0.1", port, timeout=5) as client:
        return client.sendmail("a@t", recipients, message)


def converse(port: int, *steps: tuple[bytes, bytes]) -> list[bytes]:
    """Send each text, then read until its answer contains what is expected."""
    said = []
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        for text, expected in steps:
            client.sendall(text)
            answer = b""
            while expected not in answer:
                data = client.recv(65536)
                if not data:
                    raise ConnectionError(f"closed before {expected!r}: {answer!r}")
                answer += data
            said.append(answer)
    return said


def in_thread(function: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
    return asyncio.get_running_loop().run_in_executor(None, partial(function, *arguments))


HELLO = [(b"", b"220"), (b"EHLO t\r\n", b"250 ")]
GROUP = b"MAIL FROM:<a@t>\r\nRCPT TO:<ok@t>\r\nDATA\r\n"


def evidence(directory: Path) -> Evidence:
    return read_evidence(directory / "journal.jsonl")


async def test_an_accepted_message_is_on_record_with_its_dots_undone(tmp_path: Path) -> None:
    async with Recorder(tmp_path, raw=True) as server:
        refused = await in_thread(send, server.port, ["ok@t", "reject@t"])
    (message,) = evidence(tmp_path).messages
    assert list(refused) == ["reject@t"]
    assert (message.test_id, message.recipients, message.message_id) == ("t1", ("ok@t",), "<1@t>")
    assert (tmp_path / "raw" / "1.eml").read_bytes() == MESSAGE
    assert (message.acked_by, message.ended, message.answer) == ("quit", "quit", "250")


@pytest.mark.parametrize(
    ("after", "proof"),
    [
        ([], ""),  # never heard of again
        ([(b"RSET\r\n", b"250")], "group"),
        ([(b"RSET\r\n" + GROUP, b"354"), (b"x\r\n.\r\n", b"250")], "group"),
        ([(b"QUIT\r\n", b"221")], "quit"),
    ],
)
async def test_reading_the_250_is_proven_by_what_comes_after_it(
    tmp_path: Path, after: list[tuple[bytes, bytes]], proof: str
) -> None:
    async with Recorder(tmp_path) as server:
        await in_thread(converse, server.port, *HELLO, (GROUP, b"354"), (b"x\r\n.\r\n", b"recorded"), *after)
    assert evidence(tmp_path).messages[0].acked_by == proof


async def test_a_group_sent_along_with_the_last_dot_proves_nothing_and_the_next_body_does(tmp_path: Path) -> None:
    async with Recorder(tmp_path) as server:
        last = b"x\r\n.\r\nRSET\r\n" + GROUP
        await in_thread(converse, server.port, *HELLO, (GROUP, b"354"), (last, b"354"))
        await in_thread(converse, server.port, *HELLO, (GROUP, b"354"), (last, b"354"), (b"y\r\n.\r\n", b"250"))
    first, second, _ = evidence(tmp_path).messages
    assert (first.acked_by, first.ended) == ("", "eof")
    assert second.acked_by == "body"


async def test_what_a_client_may_not_do_is_noted(tmp_path: Path) -> None:
    async with Recorder(tmp_path, terms=Terms(extensions=(), require_tls=True)) as server:
        await in_thread(converse, server.port, *HELLO, (b"MAIL FROM:<a@t>\r\nMAIL FROM:<b@t>\r\n", b"503"))
        await in_thread(converse, server.port, *HELLO, (b"MAIL FROM:<a@t>\r\n", b"250"), (b"DATA\r\n", b"554"))
        one_by_one = [(line + b"\r\n", b"") for line in (b"MAIL FROM:<a@t>", b"RCPT TO:<ok@t>")]
        await in_thread(converse, server.port, *HELLO, *one_by_one, (b"DATA\r\n", b"354"), (b"a\nb\r\n.\r\n", b"250"))
    seen = {violation["rule"] for violation in evidence(tmp_path).violations}
    assert seen >= {"unoffered-pipelining", "nested-mail", "LEAK", "data-without-recipient", "bare-line-end"}


async def test_chunks_are_taken_and_swallowed_without_a_transaction(tmp_path: Path) -> None:
    async with Recorder(tmp_path) as server:
        canary = (b"BDAT 6 LAST\r\nNOOP\r\nRSET\r\n", b"250 2.0.0 ok")
        chunks = (b"MAIL FROM:<a@t>\r\nRCPT TO:<ok@t>\r\nBDAT 3\r\na\r\nBDAT 3 LAST\r\nb\r\n", b"recorded")
        answers = await in_thread(converse, server.port, *HELLO, canary, chunks)
    assert answers[2].count(b"\r\n") == 2
    assert evidence(tmp_path).messages[0].size == 6


async def test_in_a_window_only_what_no_longer_fits_was_read_and_who_sends_more_cheats(tmp_path: Path) -> None:
    """With a window of 2, the third body proves that the first was read, if that was answered by then."""
    whole = b"RSET\r\nMAIL FROM:<a@t>\r\nRCPT TO:<ok@t>\r\nBDAT 3 LAST\r\na\r\n"
    async with Recorder(tmp_path, terms=Terms(window=2)) as server:
        await in_thread(
            converse, server.port, *HELLO, (whole + whole, b"recorded"), (b"NOOP\r\n", b"250"), (whole, b"recorded")
        )
        assert not evidence(tmp_path).violations
        await in_thread(converse, server.port, *HELLO, (whole * 3, b"recorded"), (b"QUIT\r\n", b"221"))
    seen = evidence(tmp_path)
    assert [message.acked_by for message in seen.messages][:3] == ["body", "", ""]
    assert {violation["rule"] for violation in seen.violations} == {"window"}


@pytest.mark.parametrize("implicit", [False, True])
async def test_tls_and_a_login_work_and_a_stripped_offer_is_a_leak(tmp_path: Path, implicit: bool) -> None:
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "cert.pem"))
    trust = ssl.create_default_context()
    authority.configure_trust(trust)

    def login(port: int, secure: bool) -> None:
        kind = partial(smtplib.SMTP_SSL, context=trust) if implicit else smtplib.SMTP
        with kind("127.0.0.1", port, timeout=5) as client:
            if secure and not implicit:
                client.starttls(context=trust)
            if secure:
                client.login("relay", "secret")
            client.sendmail("a@t", ["ok@t"], MESSAGE)

    terms = Terms(tls=context(tmp_path / "cert.pem"), password="secret", require_tls=True, implicit_tls=implicit)
    async with Recorder(tmp_path, terms=terms) as server:
        await in_thread(login, server.port, True)
        assert not evidence(tmp_path).violations
        if not implicit:
            await in_thread(login, server.port, False)
    seen = evidence(tmp_path)
    assert seen.messages[0].acked_by == "quit"
    assert {violation["rule"] for violation in seen.violations} == (set() if implicit else {"LEAK"})


@pytest.mark.parametrize(("stage", "fault"), cells())
async def test_no_fault_hangs_the_server_or_spoils_the_next_message(tmp_path: Path, stage: str, fault: str) -> None:
    terms = Terms(patience=0.05, drip=0.0, giant=2**12, idle_after=0.001)

    def provoke(port: int) -> None:
        with smtplib.SMTP("127.0.0.1", port, timeout=0.3) as client:
            client.sendmail("a@t", ["ok@t"], MESSAGE)

    async with Recorder(tmp_path, rules=[Rule(stage, fault, nth=1)], terms=terms) as server:
        with contextlib.suppress(OSError, smtplib.SMTPException):
            await in_thread(provoke, server.port)
        server.script.rules.clear()
        await in_thread(send, server.port, ["ok@after"])
    assert ("ok@after",) in [message.recipients for message in evidence(tmp_path).messages]


async def test_an_outage_ends_on_the_same_port(tmp_path: Path) -> None:
    async with Recorder(tmp_path) as server:
        await in_thread(send, server.port, ["ok@t"])
        await server.pause()
        with pytest.raises(ConnectionRefusedError):
            await in_thread(send, server.port, ["ok@t"])
        await server.resume()
        await in_thread(send, server.port, ["ok@t"])
    assert len(evidence(tmp_path).messages) == 2


async def test_the_server_runs_as_a_process(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.faults.server", "--journal", str(tmp_path), "--fault", "mail:451,nth=1",
        stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert process.stdout is not None
    port = int(await process.stdout.readline())
    with pytest.raises(smtplib.SMTPSenderRefused):
        await in_thread(send, port, ["ok@t"])
    await in_thread(send, port, ["ok@t"])
    process.terminate()
    assert await process.wait() == 0
    assert len(evidence(tmp_path).messages) == 1


def test_a_rule_that_could_never_fire_is_refused() -> None:
    assert Rule.parse("rcpt:450,to=bob,times=2") == Rule("rcpt", "450", to="bob", times=2)
    for text in ("nowhere:450", "dot:strip", "rcpt:250", "mail:451,when=2"):
        with pytest.raises(ValueError, match="no "):
            Rule.parse(text)
    assert len(cells()) == sum(map(len, CELLS.values()))


# The verdict


def recorded(**changes: Any) -> Recorded:
    fields: dict[str, Any] = {
        "id": 1, "connection": 1, "at": 10.0, "sender": "a@t", "recipients": ("ok@t",), "test_id": "t1",
        "message_id": "<1@t>", "size": 1, "sha256": "", "header": "", "body_sha256": "b", "answer": "250",
    }  # fmt: skip
    return Recorded(**{**fields, **changes})


@pytest.mark.parametrize(
    ("first", "killed_at", "kind"),
    [
        ({"ended_at": 10.1, "ended": "eof"}, None, "race"),  # cut off before the 250 was read
        ({"ended_at": 10.1, "ended": "quit"}, None, "calm"),
        ({}, None, "calm"),  # the connection still stands: someone else sent it again
        ({"answer": "silence"}, None, "race"),
        ({"acked_at": 10.1, "acked_by": "body", "ended_at": 10.2, "ended": "eof"}, 10.2, "window"),
        ({"acked_at": 10.1, "acked_by": "body", "ended_at": 10.2, "ended": "eof"}, None, "calm"),
        ({"acked_at": 10.1, "acked_by": "body", "ended_at": 19.0, "ended": "eof"}, 19.0, "calm"),  # long on disk
        ({"acked_at": 10.01, "acked_by": "group", "ended_at": 10.02, "ended": "reset"}, None, "race"),
        ({"acked_at": 10.01, "acked_by": "group", "ended_at": 12.0, "ended": "reset"}, None, "calm"),
    ],
)
def test_a_repeat_is_judged_by_what_the_client_knew(first: dict[str, Any], killed_at: float | None, kind: str) -> None:
    deaths = [Death(killed_at, -9, meant=True)] if killed_at else []
    assert classify(recorded(**first), recorded(id=2, at=20.0, connection=2), deaths, window=0.5) == kind


def test_a_try_that_was_given_up_and_read_late_is_a_race() -> None:
    """Only where it had come before the other was answered, and nobody read an answer to it: else it was sent twice."""
    first = recorded(acked_at=10.1, acked_by="body")
    given_up = {"id": 2, "at": 10.2, "connection": 2, "came": 9.9, "ended_at": 10.3, "ended": "reset"}
    for changes, kind in (
        ({}, "race"),
        ({"came": 10.05}, "calm"),
        ({"ended": "quit"}, "calm"),
        ({"ended_at": None, "ended": ""}, "calm"),
        ({"acked_at": 10.25, "acked_by": "body"}, "calm"),
    ):
        assert classify(first, recorded(**{**given_up, **changes}), [], window=0.5) == kind, changes


def test_the_documented_edits_are_no_corruption_and_any_other_is() -> None:
    dropped = Dropped("t1", ("ok@t",), "To: a,\n b\nBcc: c\nReceived: old\nReturn-Path: <x>\n", "b")
    good = "Received: by relay;\r\n\tnow\r\nTo: a,\r\n b\r\nReceived: old\r\nMessage-ID: <q@r>\r\nDate: now\r\n"
    assert difference(dropped, recorded(header=good)) == ""
    assert "another body" in difference(dropped, recorded(header=good, body_sha256="c"))
    assert "another header" in difference(dropped, recorded(header=good.replace(" b", " c")))
    assert "another header" in difference(dropped, recorded(header=good + "Bcc: c\r\n"))
    assert "added" in difference(dropped, recorded(header=good + "Date: again\r\n"))


def test_a_recipient_whose_record_says_sent_but_whom_the_server_never_saw_is_lost() -> None:
    dropped = [Dropped("t1", ("a@t", "b@t"), "", "b")]
    failed = {"t1": [{"recipients": {"a@t": {"status": "failed"}, "b@t": {"status": "sent"}}}]}
    verdict = compare(dropped, Evidence(), [], failed, {}, connections=1, window=0.5)
    assert (verdict.failed, verdict.lost) == (1, 1)
    assert "b@t" in str(verdict)
    assert [status(shape, "a@t") for shape in ({"a@t": "sent"}, [{"recipient": "a@t", "status": "x"}], 7)] == [
        "sent",
        "x",
        "",
    ]


def test_what_nobody_promised_may_arrive_or_not_but_only_whole() -> None:
    dropped = [Dropped("t1", ("ok@t",), "To: a\n", "b", status=-9), Dropped("t2", ("ok@t",), "To: a\n", "b", status=75)]
    arrived = Evidence([recorded(header="Received: by relay\r\nTo: a\r\n")])
    verdict = compare(dropped, arrived, [], {}, {}, connections=1, window=0.5)
    assert (verdict.ok, verdict.dropped, verdict.sent, verdict.untaken) == (True, 1, 1, 1)
    torn = Evidence([recorded(header="Received: by relay\r\nTo: a\r\n", body_sha256="c")])
    assert compare(dropped, torn, [], {}, {}, connections=1, window=0.5).corrupt == 1
    crashed = [Dropped("t1", ("ok@t",), "To: a\n", "b", status=1)]
    assert compare(crashed, arrived, [], {}, {}, connections=1, window=0.5).crashes == 1


def test_a_success_that_was_read_and_is_kept_as_failed_is_denied() -> None:
    dropped = [Dropped("t1", ("ok@t",), "", "b")]
    failed = {"t1": [{"outcomes": {"ok@t": {"status": "failed"}}}]}
    for proof, denied in (({"acked_at": 10.1, "acked_by": "quit"}, 1), ({}, 0)):
        evidence = Evidence([recorded(**proof)])
        assert compare(dropped, evidence, [], failed, {}, connections=1, window=0.5).denied == denied


def test_what_waits_is_told_from_what_is_being_written(tmp_path: Path) -> None:
    for name in ("pickup/tmp/a", "pickup/.b.eml", "pickup/new/c", "queue/d.eml", "failed/e.eml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert waiting(tmp_path) == 2


def test_composed_messages_are_the_same_for_the_same_seed() -> None:
    assert compose("t", ["a@t"], random.Random(1)).data == compose("t", ["a@t"], random.Random(1)).data


def test_a_record_that_cannot_be_read_is_corruption() -> None:
    dropped = [Dropped("t1", ("ok@t",), "To: ok@t\n", "b")]
    verdict = compare(dropped, Evidence(), [], {}, {"t1": [TORN]}, connections=1, window=0.5)
    assert (verdict.corrupt, verdict.queued, verdict.ok) == (1, 1, False)


# The soak


def samples(*, heap: float = 0.0, descriptors: float = 0.0) -> list[Sample]:
    """Two hours of one process, growing by so many KiB and descriptors per hour, after caches have filled."""
    hours = [minute / 60 for minute in range(120)]
    return [
        Sample(h * 3600, 1, int(40_000 + min(h, 0.2) * 50_000 + heap * h), 60_000, int(20 + descriptors * h), 4, 0)
        for h in hours
    ]


def test_a_soak_tells_a_leak_from_a_cache_that_fills() -> None:
    assert flatness(samples()).ok
    assert not flatness(samples(heap=4000)).ok
    assert not flatness(samples(descriptors=2)).ok
    with pytest.raises(ValueError, match="more than one process"):
        flatness([*samples(), Sample(7300, 2, 1, 1, 1, 1, 0)])
