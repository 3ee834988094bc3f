"""Files that nobody finishes in tmp/: they are spoken of, and nothing else happens to them."""

from __future__ import annotations

import os
import pwd
import time

from mailrelayd.outbound.envelope import Producer
from mailrelayd.outbound.inlets import ORPHANED
from mailrelayd.outbound.leftovers import LOOK
from tests.test_pickup import MAIL, Bench, bench, producers

__all__ = ["bench"]


async def test_what_stays_in_tmp_is_spoken_of_once_and_left(bench: Bench) -> None:
    """After 36 hours one line names the oldest and its owner, again once the number has changed, and then no more."""
    tmp = bench.top / "tmp"
    tmp.mkdir(exist_ok=True)
    for name in ("a", "b.eml"):
        (tmp / name).write_bytes(MAIL)
    os.utime(tmp / "b.eml", (0, 0))  # as `cp -p` does: it says nothing of how long it has stood here
    (tmp / "folder").mkdir()
    bench.clock.wall = time.time() + ORPHANED - 60
    await bench.start()
    assert bench.refused == []
    await bench.passes(LOOK)
    (said,) = bench.said["pickup_refused"]
    assert (said["file"], said["owner"]) == ("tmp/a", pwd.getpwuid(os.getuid()).pw_name)
    assert said["reason"] == "has stood unfinished for more than 36 hours, like 1 more there"
    assert "move it to new/" in said["hint"]
    await bench.passes(LOOK)
    assert (bench.refused, bench.loop.refused) == (["tmp/a"], 1)
    (tmp / "a").unlink()
    await bench.passes(LOOK)
    assert bench.refused == ["tmp/a", "tmp/b.eml"]
    (tmp / "b.eml").rename(bench.new / "b.eml")
    await bench.passes(LOOK)
    assert (bench.loop.refused, bench.queued) == (0, ["b.eml"])
    assert (tmp / "folder").is_dir()


async def test_a_producers_tmp_is_its_own_and_none_is_no_trouble(bench: Bench) -> None:
    """It is named with the producer's folder; where there is no tmp/ at all nothing happens."""
    bench.rules = producers(Producer("erp"), Producer("crm"))
    (bench.top / "erp" / "tmp").mkdir(parents=True)
    bench.place("erp/tmp/x", MAIL)
    bench.clock.wall = time.time() + ORPHANED
    await bench.start()
    assert bench.refused == ["erp/tmp/x"]
    assert "queue_trouble" not in bench.said
