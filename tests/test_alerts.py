"""[alerts]: what is told, when, how often, and never about itself."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest

from mailrelayd.alerts import bell, letter, remembered
from mailrelayd.alerts.bell import Bell, Terms
from mailrelayd.alerts.ping import ping
from mailrelayd.alerts.tally import EVERY, EXAMPLES, GATHERING, KINDS, LASTING, LONGEST, OVER, Tally
from mailrelayd.operate import approval_events, events, log
from mailrelayd.outbound.values import Envelope, Response, Stage
from tests.manual_clock import ManualClock
from tests.servers.process import wait_until
from tests.servers.recording import Recording

NOW = 1_800_000_000.0


class Queue:
    """What is queued, and whose rule what has."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, Envelope, str]] = []
        self.rules: dict[str, str] = {}

    async def add(self, data: bytes, envelope: Envelope, *, rule: str) -> str:
        self.sent.append((data, envelope, rule))
        return f"alert{len(self.sent)}"

    async def rule_of(self, queue_id: str) -> str:
        return self.rules.get(queue_id, "headers")


class World:
    """A bell on a clock that only moves by hand."""

    def __init__(self, state: Path = Path("/nonexistent"), **terms: Any) -> None:
        self.clock = ManualClock()
        self.queue = Queue()
        self.wrong = ""
        made = Terms(**{"node": "relay1", "to": "ops@example.com", "from_address": "relay@example.com", **terms})
        self.bell = Bell(self.clock, self.queue.add, self.queue.rule_of, lambda: self.wrong, made, state)

    async def after(self, seconds: float) -> int:
        """Let time pass, look, and say how many digests there are by now."""
        self.clock.advance(seconds)
        await self.bell.look()
        return len(self.queue.sent)

    @property
    def text(self) -> str:
        """Of the latest digest."""
        return str(message_from_bytes(self.queue.sent[-1][0]).get_payload())

    @property
    def subject(self) -> str:
        return str(message_from_bytes(self.queue.sent[-1][0])["Subject"])


@pytest.fixture(autouse=True)
def _nobody_listens() -> Iterator[None]:
    yield
    log.listen(None)


def refused(file: str = "a.eml") -> None:
    events.pickup_refused(file=file, owner="erp", reason="empty", hint="write it again")


def down(account: str = "smarthost", text: str = "refused") -> None:
    events.route_down(account=account, response=Response(Stage.CONNECT, 0, "", text), attempt=1, next_attempt=NOW)


async def test_a_burst_is_one_mail_and_the_next_comes_an_hour_later() -> None:
    """The first trouble waits a minute for company; then nothing for an hour, then all that came meanwhile."""
    world = World()
    refused("a.eml")
    assert await world.after(GATHERING - 1) == 0
    refused("b\nForged: x.eml")
    assert await world.after(1) == 1
    assert world.subject == "mailrelayd on relay1: 2 files not taken"
    assert "file=a.eml" in world.text
    assert "\\nForged" in world.text
    assert "\nForged" not in world.text
    refused("c.eml")
    assert await world.after(EVERY - 1) == 1
    assert await world.after(1) == 2
    assert "c.eml" in world.text
    assert "a.eml" not in world.text
    assert await world.after(10 * EVERY) == 2


async def test_a_digest_is_a_mail_that_nobodys_program_answers() -> None:
    """From the account's own address, to the one in the configuration, ASCII, marked as automatic."""
    world = World()
    refused("über" + "x" * 2000 + ".eml")
    await world.after(GATHERING)
    data, envelope, rule = world.queue.sent[0]
    mail = message_from_bytes(data)
    assert (envelope, rule) == (Envelope("relay@example.com", ("ops@example.com",)), "alert")
    assert (mail["Auto-Submitted"], mail["X-Auto-Response-Suppress"]) == ("auto-generated", "All")
    assert data.isascii()
    assert max(map(len, data.split(b"\r\n"))) <= 998
    assert b"\n" not in data.replace(b"\r\n", b"")


async def test_what_failed_of_an_alert_is_no_alert() -> None:
    """Else each digest that cannot be delivered would be followed by the next."""
    world = World()
    world.queue.rules["q1"] = letter.RULE
    response = Response(Stage.RCPT, 550, "5.1.1", "no such user")
    for queue_id in ("q1", "q2"):
        events.message_failed(
            queue_id=queue_id,
            sender="relay@example.com",
            recipient="ops@example.com",
            relay="mx[192.0.2.1]:25",
            delay=1.0,
            delays="",
            attempt=1,
            reason="rejected",
            response=response,
        )
        assert await world.after(2 * EVERY) == (0 if queue_id == "q1" else 1)
    assert "queue_id=q2" in world.text
    assert world.subject.endswith(": 1 delivery given up")


async def test_half_a_minute_without_a_server_is_not_worth_a_mail() -> None:
    """A route that comes back soon is everyday life; one that stays away is told once it is back, with its length."""
    world = World()
    down()
    assert await world.after(LASTING - 1) == 0
    events.route_up(account="smarthost", relay="mx", outage=30.0)
    assert await world.after(EVERY) == 0
    down()
    assert await world.after(LASTING) == 0  # no mail can go out
    events.route_up(account="smarthost", relay="mx", outage=LASTING)
    assert await world.after(0) == 1
    assert world.subject == "mailrelayd on relay1: route smarthost is held, now over"


async def test_a_mailbox_that_stays_away_is_told_while_it_lasts_and_when_it_is_over() -> None:
    """Once each."""
    world = World()
    approval_events.mailbox_down(account="answers", stage="login", response="no", attempt=1, next_attempt=NOW)
    assert await world.after(LASTING) == 1
    assert "mailbox answers cannot be read: since" in world.text
    assert "and it goes on" in world.text
    assert await world.after(3 * EVERY) == 1
    approval_events.mailbox_up(account="answers", folder="INBOX", outage=3 * EVERY)
    assert await world.after(0) == 2
    assert "now over" in world.text


async def test_an_account_that_is_no_longer_configured_is_forgotten() -> None:
    """Nobody would ever say that its outage is over."""
    world = World(places=("smarthost",))
    down()
    world.bell.set_terms(Terms("relay1", "ops@example.com", places=("other",)))
    refused()
    assert await world.after(LASTING) == 1
    assert world.subject.endswith(": 1 file not taken")


async def test_secrets_that_expire_are_told_thirty_seven_and_one_day_before() -> None:
    """And when they are over; each once, and the first look counts for all that is past."""
    world = World()
    today = datetime.fromtimestamp(world.clock.now(), UTC).date()
    last = date.fromordinal(today.toordinal() + 32)
    world.bell.set_terms(Terms("relay1", "ops@example.com", expiring=(("smarthost", last),)))
    told = []
    for day in range(35):
        before = len(world.queue.sent)
        await world.after(0)
        await world.after(EVERY)
        if len(world.queue.sent) > before:
            told.append(32 - day)
            assert f"account=smarthost expires={last.isoformat()} days={32 - day}" in world.text
        world.clock.advance(86_400 - EVERY)
    assert told == [30, 7, 1, 0]


async def test_a_flood_is_counted_not_quoted() -> None:
    """However much happens, a digest stays a page."""
    tally = Tally()
    for number in range(10_000):
        tally.note("error", f"event.{number % (2 * KINDS)}", {}, f"line {number}", now=NOW, ticks=0.0)
    digest = tally.take(0.0)
    assert len(digest.kinds) == KINDS
    assert all((kind.count, len(kind.lines)) == (100, EXAMPLES) for kind in digest.kinds)
    assert len(letter.letter(digest, node="n", sender="", to="o@example.com", number="1", now=NOW)) < 30_000


async def test_nothing_is_mailed_where_nobody_is_named() -> None:
    """alerts.to is empty by default."""
    world = World(to="")
    refused()
    assert await world.after(2 * EVERY) == 0


async def test_a_full_disk_does_not_keep_the_daemon_from_stopping() -> None:
    """Queuing waits for room; the end does not."""
    world = World()
    never: asyncio.Event = asyncio.Event()

    async def add(data: bytes, envelope: Envelope, *, rule: str) -> str:
        await never.wait()
        return ""

    world.bell._send = add
    stop = asyncio.Event()
    running = asyncio.create_task(world.bell.run(stop))
    await asyncio.sleep(0)
    refused()
    for _ in range(3):
        world.clock.advance(bell.EVERY)
        await asyncio.sleep(0.01)
    stop.set()
    await asyncio.wait_for(running, 5)


# -- the ping


class Receiver:
    """Counts calls, and answers as it is told."""

    def __init__(self, answer: bytes = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n") -> None:
        self.answer = answer
        self.calls = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.calls += 1
        writer.write(self.answer)
        writer.close()

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/uuid"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()


async def test_all_is_well_is_said_only_while_it_is() -> None:
    """A held route, a mailbox that cannot be read, a full disk: silence, which is the alarm."""
    receiver = Receiver()
    async with receiver as url:
        world = World(ping_url=url)
        await world.after(0)
        assert receiver.calls == 1
        world.wrong = "smarthost held"
        await world.after(60)
        assert receiver.calls == 1
        world.wrong = ""
        events.spool_full(free=1, min_free=2, full=True)
        await world.after(60)
        assert receiver.calls == 1
        events.spool_full(free=3, min_free=2, full=False)
        await world.after(60)
        assert receiver.calls == 2


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", ""),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "HTTP status 404"),
        (b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n", "HTTP status 302"),
        (b"nonsense\r\n\r\n", "RemoteProtocolError"),
    ],
)
async def test_a_ping_says_what_became_of_it(answer: bytes, said: str) -> None:
    """Redirects are not followed, and no answer is an error of ours."""
    async with Receiver(answer) as url:
        assert await ping(url) == said


async def test_a_ping_that_nobody_answers_is_no_trouble() -> None:
    """It is told once, without the address."""
    async with Receiver() as url:
        pass
    assert await ping(url) == "ConnectError"


# -- with the daemon as it runs

SOON = """\
import sys
from mailrelayd.alerts import bell, tally
bell.EVERY = tally.EVERY = tally.GATHERING = 0.2
from mailrelayd.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def test_the_daemon_tells_what_it_could_not_deliver(tmp_path: Path) -> None:
    """A refused recipient becomes a digest for whoever looks after it, and nobody is told of the digest."""
    server = Recording(tmp_path / "mail")
    configuration = tmp_path / "mailrelayd.toml"
    configuration.write_text(
        f'[spool]\ndirectory = "{tmp_path}/spool"\n[state]\ndirectory = "{tmp_path}/state"\n'
        f'[outbound.test]\nhost = "127.0.0.1"\nport = {server.port}\nsecurity = "none"\n'
        'from_address = "relay@example.com"\n[alerts]\nto = "reject-ops@example.com"\n'
    )
    pickup = tmp_path / "spool" / "pickup"
    command = [sys.executable, "-c", SOON, "run", "--config", str(configuration)]
    try:
        with (tmp_path / "log").open("w") as log_file, subprocess.Popen(command, stderr=log_file) as process:
            try:
                wait_until((pickup / "new").exists, 20, str)
                mail = b"From: app@example.com\r\nTo: reject@example.com\r\nSubject: x\r\n\r\nx\r\n"
                (pickup / "tmp" / "a").write_bytes(mail)
                (pickup / "tmp" / "a").rename(pickup / "new" / "a")
                failed = tmp_path / "spool" / "failed"
                wait_until(lambda: len(list(failed.glob("*.eml"))) == 2, 20, (tmp_path / "log").read_text)
                time.sleep(1)  # five more looks
            finally:
                process.terminate()
    finally:
        server.stop()
    kept = [path.read_bytes() for path in (tmp_path / "spool" / "failed").glob("*.eml")]
    (digest,) = (content for content in kept if b"alert@" in content)
    assert len(kept) == 2
    assert b"1 delivery given up" in digest
    assert b"to=<reject@example.com>" in digest
    assert b"reject-ops" not in digest.partition(b"\r\n\r\n")[2]


async def test_a_daemon_that_is_started_anew_remembers_what_it_told(tmp_path: Path) -> None:
    """At most one digest in an hour, and each warning of a secret once, however often it starts."""
    first = World(tmp_path)
    day = date.fromordinal(datetime.fromtimestamp(first.clock.now(), UTC).date().toordinal() + 5)
    first.bell.set_terms(Terms("relay1", "ops@example.com", expiring=(("smarthost", day),)))
    await first.after(0)
    assert await first.after(GATHERING) == 1
    second = World(tmp_path)
    second.bell.set_terms(Terms("relay1", "ops@example.com", expiring=(("smarthost", day),)))
    assert await second.after(GATHERING) == 0
    refused()
    assert await second.after(GATHERING) == 0
    assert await second.after(EVERY) == 1
    assert second.subject.endswith(": 1 file not taken")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 2, "at": 9e99, "secrets": []}', "[" * 9999, "\0"])
def test_a_damaged_memory_is_none(tmp_path: Path, content: str) -> None:
    """One mail too many does no harm; a daemon that does not start would."""
    (tmp_path / remembered.NAME).write_text(content)
    assert remembered.read(tmp_path) == remembered.Told()


async def test_a_mailbox_that_a_reload_brought_back_is_not_told_as_down() -> None:
    """The new loop knows of no outage, and says so at a severity that nobody else listens to."""
    world = World()
    approval_events.mailbox_down(account="answers", stage="login", response="no", attempt=1, next_attempt=NOW)
    approval_events.mailbox_up(account="answers", folder="INBOX", outage=None)
    assert await world.after(2 * LASTING) == 0


async def test_a_system_log_that_is_no_longer_wanted_is_forgotten() -> None:
    """Nobody will say that it can be written to again."""
    world = World(places=("/dev/log",))
    events.syslog_trouble("/dev/log", "no such file", 0)
    world.bell.set_terms(Terms("relay1", "ops@example.com"))
    assert await world.after(2 * LASTING) == 0


def test_outages_that_nobody_is_told_of_are_not_kept_for_ever() -> None:
    """A year of flapping is a page."""
    tally = Tally()
    for number in range(1000):
        at = number * 2 * LASTING
        tally.note("warning", "route.down", {"account": "a"}, "x" * 100_000, now=at, ticks=at)
        tally.note("notice", "route.up", {"account": "a"}, "", now=at, ticks=at + LASTING)
    outages = tally.take(0.0).outages
    assert len(outages) == OVER
    assert len(outages[0].line) == LONGEST
