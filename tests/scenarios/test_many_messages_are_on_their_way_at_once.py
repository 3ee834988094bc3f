"""window = 16 against a real Postfix: messages that were not answered yet are many, and none is lost or repeated."""

from __future__ import annotations

import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.scenarios.steps import Site, message, message_ids, site_for, with_crlf, without_received
from tests.servers.certificates import Certificates
from tests.servers.daemon import StartDaemon
from tests.servers.postfix import Postfix, as_sent
from tests.servers.process import wait_until

NUMBER = 300
LARGE = b"x" * 70 + b"\n"
HOSTILE = b"QUIT\n.\nRSET\nBDAT 1 LAST\n"  # obeyed, it would be seen


@pytest.fixture
def site(postfix: Postfix, certificates: Certificates, spool_dir: Path, state_dir: Path) -> Site:
    made = site_for(postfix, certificates, spool_dir, state_dir)
    made.more = {"outbound.smarthost": ["window = 16"], "spool": ['keep_sent = "1h"', "results = true"]}
    return made


def recipient(number: int) -> str:
    """Some are refused; what is on its way behind them must not notice."""
    return f"{'refused' if number % 7 == 3 else 'to'}-{number}@dest.test"


def mail(number: int) -> bytes:
    """Every fiftieth is too large for a window."""
    body = HOSTILE + (LARGE * 15_000 if number % 50 == 49 else LARGE * number)
    return message(number, to=recipient(number), body=body)


def test_stops_and_reloads_in_the_middle(site: Site, daemon: StartDaemon, postfix: Postfix) -> None:
    """SIGTERM finishes what has left and logs it; SIGHUP is not noticed: all arrive once, each with one line."""
    for number in range(NUMBER):
        site.drop(f"{number:03}.eml", mail(number))
    running = daemon(site.text, start=False)
    told: Counter[str] = Counter()
    for turn in range(8):
        running.start().wait_ready()
        wait_until(lambda: len(running.events("message.sent")) > 20 or not site.waiting(), 20, running.log)
        for _ in range(turn % 3):
            running.signal(signal.SIGHUP)
            time.sleep(0.02)
        if turn == 7:
            wait_until(lambda: not site.waiting(), 60, running.log)
        assert running.stop() == 0
        assert not running.events("queue.trouble")
        assert not running.events("message.deferred")
        told.update(event["to"] for name in ("message.sent", "message.failed") for event in running.events(name))
    assert told == Counter(f"<{recipient(number)}>" for number in range(NUMBER))
    good = [number for number in range(NUMBER) if "refused" not in recipient(number)]
    assert Counter(postfix.accepted()) == Counter(message_ids(good))
    assert len(site.failed()) == 2 * (NUMBER - len(good))
    assert len(list((site.spool / "sent").glob("*.eml"))) == len(good)
    for number in (*good[:5], 49, 99):
        (stored,) = postfix.wait_for_messages(recipient(number))
        assert without_received(as_sent(stored)) == with_crlf(mail(number))


def test_the_rate_is_kept(site: Site, daemon: StartDaemon, postfix: Postfix) -> None:
    """[guard] rate counts what has begun, not what is answered."""
    site.more["guard"] = ['rate = "10/min"', 'redirect_to = "staging@dest.test"']
    for number in range(30):
        site.drop(f"{number:03}.eml", message(number))
    running = daemon(site.text).wait_ready()
    running.wait_for_event("guard.waiting")
    time.sleep(1)
    assert running.stop() == 0
    sent = running.events("message.sent")
    assert len(postfix.accepted()) == len(sent)
    assert 10 <= len(sent) <= 11
    assert {event["to"] for event in sent} <= {f"<to-{number}@dest.test>" for number in range(30)}


def test_a_refusal_of_the_body_alone(site: Site, daemon: StartDaemon, postfix: Postfix) -> None:
    """Postfix answers the first chunk with it: small and large, the message fails, and the window stays open."""
    restrictions = "check_recipient_access inline:{to-0@dest.test=REJECT, to-49@dest.test=REJECT}"
    with postfix.configured(smtpd_data_restrictions=restrictions):
        for number in (0, 1, 49, 2, 99):
            site.drop(f"{number:03}.eml", mail(number))
        running = daemon(site.text).wait_ready()
        running.wait_for_events("message.sent", 3)
        running.wait_for_events("message.failed", 2)
        assert not running.events("route.narrow")
        assert not running.events("message.deferred")
        assert running.stop() == 0
    assert sorted(postfix.accepted()) == sorted(message_ids((1, 2, 99)))
