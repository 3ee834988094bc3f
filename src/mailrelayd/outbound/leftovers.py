"""Files in tmp/ that nobody has finished: spoken of, and never touched.

Nothing was promised about them, and whether one is whole only its producer can tell. But a rename that a power cut has
undone leaves the whole message there, and nobody else would ever look.
"""

from __future__ import annotations

import stat
from contextlib import closing, suppress
from dataclasses import dataclass

from mailrelayd import durable
from mailrelayd.outbound.examine import Refused, owner_name
from mailrelayd.outbound.inlets import ORPHANED, Inlet

LOOK = 3600.0  # seconds between two looks: a tmp/ may hold very many files


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What stands unfinished in one tmp/: how many files, and the oldest of them."""

    count: int
    name: str
    uid: int

    def refused(self) -> Refused:
        """The same for people."""
        others = f", like {self.count - 1} more there" if self.count > 1 else ""
        return Refused(
            f"has stood unfinished for more than {ORPHANED / 3600:g} hours{others}",
            "its producer ended before the rename: move it to new/ if it is a whole message, else remove it",
            owner_name(self.uid),
        )


def leftovers(inlet: Inlet, now: float) -> Leftovers | None:
    """What its tmp/ holds that is older than `ORPHANED`; None: nothing, or nobody can see. `now`: since the epoch."""
    count, oldest = 0, (now, "", 0)
    with suppress(OSError), closing(durable.Folder(inlet.folder.path / "tmp")) as folder:
        for name in folder.names():
            figures = folder.stat(name)
            # By the ctime, which nobody can set back: an upload may keep the mtime of a file from last year.
            if figures is not None and stat.S_ISREG(figures.st_mode) and now - figures.st_ctime >= ORPHANED:
                count += 1
                oldest = min(oldest, (figures.st_ctime, name, figures.st_uid))
    return Leftovers(count, oldest[1], oldest[2]) if count else None
