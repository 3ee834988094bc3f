"""The size of a message shows on the wire and on the disk, not in the daemon's memory."""

from __future__ import annotations

import random
from pathlib import Path

from tests.scenarios.steps import message, site_for, with_crlf, without_received
from tests.servers.certificates import Certificates
from tests.servers.daemon import StartDaemon
from tests.servers.postfix import Postfix, as_sent

SIZE = 50 * 1000 * 1000
GROWTH = 16 * 2**20  # bytes; a copy of the message would be three times that


def most_memory(pid: int) -> int:
    """The most memory the process has ever had resident, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def test_fifty_megabytes(
    postfix: Postfix, certificates: Certificates, spool_dir: Path, state_dir: Path, daemon: StartDaemon
) -> None:
    """50 MB arrive intact and cost the daemon less than 16 MB."""
    site = site_for(postfix, certificates, spool_dir, state_dir)
    site.port, site.security = postfix.tls_port, "tls"
    line = random.Random(1).randbytes(38).hex().encode() + b"\n"
    large = message("large", to="large@dest.test", body=line * (SIZE // len(line)))
    with postfix.configured(message_size_limit=str(2 * SIZE)):
        running = daemon(site.text).wait_ready()
        site.drop("small.eml", message("small"))
        running.wait_for_event("message.sent", to="<to-small@dest.test>")
        before = most_memory(running.pid)
        site.drop("large.eml", large)
        sent = running.wait_for_event("message.sent", 60, to="<large@dest.test>")
        grown = most_memory(running.pid) - before
        print(
            f"{len(large)} bytes in {sent['delay']} s, memory grew by {grown / 2**20:.1f} MiB from {before / 2**20:.0f}"
        )
        (stored,) = postfix.wait_for_messages("large@dest.test", seconds=60)
    assert grown <= GROWTH
    assert without_received(as_sent(stored)) == with_crlf(large)
