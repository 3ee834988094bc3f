"""The campaign of stops and reloads: SIGTERM and SIGHUP at every stage of a transaction, and at every await."""

from __future__ import annotations

from pathlib import Path
from signal import SIGHUP, SIGTERM, Signals

import pytest
import trustme

from tests.faults.runs import FULL, SEED, Record, clean, seeded, tell
from tests.faults.server import Terms, context
from tests.faults.stopping import IN_TLS, STAGES, Stops
from tests.faults.verdict import Verdict

SIZES = (500, 300_000) if FULL else (2_000,)
SIGNALS = pytest.mark.parametrize("number", [SIGTERM, SIGHUP], ids=["stop", "reload"])


def check(stops: Stops, verdict: Verdict, record: Record) -> None:
    """Nothing was killed, so there is no excuse for a repeat either."""
    print(verdict)
    tell(record, clean(verdict), struck=stops.struck)
    assert not stops.missed
    assert verdict.dup_race + verdict.dup_window == 0, verdict
    assert stops.struck


@pytest.mark.timeout(600)
@SIGNALS
async def test_at_every_stage(tmp_path: Path, number: Signals, record_property: Record) -> None:
    """Before the answer and behind it: what was begun is brought to its end and on disk, and nothing else begins."""
    stops = Stops(tmp_path, number, seed=SEED)
    stages = STAGES if FULL else ("mail", "body", "recorded") if number is SIGTERM else ("data", "recorded", "quit")
    check(stops, await stops.at_stages(stages, SIZES), record_property)


@pytest.mark.timeout(600)
@SIGNALS
async def test_at_every_stage_with_a_window(tmp_path: Path, number: Signals, record_property: Record) -> None:
    """The same where whole messages leave at once: all that left is brought to its end."""
    stops = Stops(tmp_path, number, seed=SEED, window=16)
    stages = ("ehlo", "rset", "mail", "rcpt", "dot", "recorded", "quit") if FULL else ("mail", "recorded")
    check(stops, await stops.at_stages(stages, SIZES), record_property)


@pytest.mark.timeout(300)
@pytest.mark.skipif(not FULL, reason="at full size only")
@SIGNALS
async def test_on_the_way_to_a_login(tmp_path: Path, number: Signals, record_property: Record) -> None:
    """The same while TLS is negotiated and the password is said."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "cert.pem"))
    terms = Terms(
        tls=context(tmp_path / "cert.pem"), password="secret", require_tls=True, require_auth=True, delay=0.004
    )
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "tls.toml").write_text(
        '[outbound.test]\nsecurity = "starttls"\nuser = "relay"\npassword = "text:secret"\n'
        f'[outbound.test.tls]\nca_file = "{tmp_path}/ca.pem"\n'
    )
    stops = Stops(tmp_path, number, seed=SEED, terms=terms)
    check(stops, await stops.at_stages(("greeting", "ehlo", *IN_TLS, "dot"), (2_000,)), record_property)


@pytest.mark.timeout(900)
@pytest.mark.skipif(not FULL, reason="at full size only")
@SIGNALS
async def test_at_every_await(tmp_path: Path, number: Signals, record_property: Record) -> None:
    """At the first step of the daemon's tasks from the connecting on, at the second, and so on to the last."""
    stops = Stops(tmp_path, number, seed=SEED)
    check(stops, await stops.at_steps(400), record_property)
    assert stops.struck > 20


async def test_a_daemon_that_does_not_wait_for_the_answer_is_seen(tmp_path: Path) -> None:
    """The same with the bug `hasty-stop` sends again what was taken."""
    stops = Stops(tmp_path, SIGTERM, seeded("hasty-stop"), seed=SEED)
    verdict = await stops.at_stages(("dot", "recorded"), (2_000,))
    assert verdict.dup_race + verdict.dup_window + verdict.dup_calm > 0, verdict
