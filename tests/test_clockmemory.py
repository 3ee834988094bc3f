"""What a start knows of the clock: a wrong date must not give up what waits, and a right one must not keep it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailrelayd.clockmemory import NAME, ClockMemory
from mailrelayd.outbound.delivery import ClockTrust, WallClockWatch
from tests.manual_clock import ManualClock


class Machine:
    """A machine with a clock, a boot id and a state folder."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = ManualClock()
        self.boot("first")

    def boot(self, name: str) -> None:
        """As after a start of the machine: uptime begins anew."""
        (self.directory / "boot_id").write_text(f"{name}\n")
        self.clock.boot = 10.0

    def start(self) -> ClockTrust:
        """A daemon starts, and remembers what it trusts."""
        trust = ClockTrust(self.clock.now, self.clock.monotonic)
        memory = ClockMemory(self.directory, self.directory / "boot_id")
        memory.begin(trust)
        if trust.given():
            memory.keep(trust.offset)
        return trust


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_first_start_has_nothing_to_doubt(machine: Machine) -> None:
    """Nothing is there yet that could expire; and a restart an hour later knows that nobody set the clock."""
    assert machine.start().given()
    machine.clock.advance(3600)
    assert machine.start().given()


@pytest.mark.parametrize("days", [1, -1])
def test_a_clock_that_was_set_between_two_starts_has_to_last(machine: Machine, days: int) -> None:
    """Ten minutes from the start; a restart in between does not make it right, and put back it is right at once."""
    machine.start()
    machine.clock.wall += days * 86_400
    for _ in range(2):
        assert not machine.start().given()
        machine.clock.advance(60)
    trust = machine.start()
    assert not trust.given()
    machine.clock.advance(WallClockWatch.LASTING)
    assert trust.given()
    machine.clock.wall -= days * 86_400
    assert machine.start().given(), "what was remembered is the offset before"


def test_after_a_boot_the_clock_has_to_last(machine: Machine) -> None:
    """Uptimes of two boots cannot be compared, and a machine without a battery begins with a wrong date."""
    machine.start()
    machine.boot("second")
    trust = machine.start()
    assert not trust.given()
    machine.clock.advance(WallClockWatch.LASTING)
    assert trust.given()


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'{"format": 2, "boot": "first", "offset": 1}', b'{"format": 1}']
)
def test_a_file_that_says_nothing_is_doubt(machine: Machine, content: bytes) -> None:
    """It is written anew once the clock has lasted."""
    (machine.directory / NAME).write_bytes(content)
    assert not machine.start().given()


def test_small_changes_are_not_written(machine: Machine) -> None:
    """A clock that drifts, or is corrected by seconds, costs no write."""
    machine.start()
    before = (machine.directory / NAME).stat().st_ino
    machine.clock.wall += 30
    machine.start()
    assert (machine.directory / NAME).stat().st_ino == before
    machine.clock.wall += 60
    machine.start()
    assert (machine.directory / NAME).stat().st_ino != before
