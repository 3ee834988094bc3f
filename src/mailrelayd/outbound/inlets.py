"""The folders that producers write into: pickup/ and pickup/new, and the same below pickup/NAME for [pickup.NAME].

Only read here. Whatever else stands in them (other names, other folders) is theirs, and at most spoken of.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path

from mailrelayd import durable
from mailrelayd.outbound.envelope import Producer
from mailrelayd.outbound.stored import ORPHAN

ORPHANED = 36 * 3600.0  # seconds after which a sidecar without message is put aside
STRAY = 3600.0  # seconds after which a name that is never taken is spoken of
NOT_FINAL = (".tmp", ".part", ".partial", ".filepart", ".swp", ".crdownload", ORPHAN)
OUR_OWN = frozenset({"tmp", "new"})


@dataclass(frozen=True, slots=True)
class Inlet:
    """One folder in which files are ready to be taken."""

    folder: durable.Folder
    producer: Producer
    maildir: bool = False  # new/: whatever stands there came by rename

    @property
    def below(self) -> str:
        """Where it is below pickup/: "", "new", "NAME" or "NAME/new"."""
        return "/".join(part for part in (self.producer.name, "new" if self.maildir else "") if part)

    def shown(self, name: str) -> str:
        """A file in it as the log names it."""
        return f"{self.producer.name}/{name}" if self.producer.name else name

    def is_candidate(self, name: str) -> bool:
        """Whether a name may be a message at all."""
        return is_candidate(name, maildir=self.maildir)


@dataclass(frozen=True, slots=True)
class Contents:
    """What stands in an inlet at one moment."""

    candidates: tuple[str, ...]
    orphans: tuple[str, ...]  # sidecars whose message did not come within ORPHANED
    strays: tuple[str, ...]  # files that nobody will ever take under this name


def is_candidate(name: str, *, maildir: bool) -> bool:
    """Whether a name may be a message at all: `*.eml` at the top, any final name in new/."""
    return _is_final(name) and (maildir or name.lower().endswith(".eml"))


def _is_final(name: str) -> bool:
    return not name.startswith((".", "~")) and not name.lower().endswith(NOT_FINAL)


def open_inlets(pickup: Path, producers: Iterable[Producer]) -> dict[int, Inlet]:
    """Every producer's two folders, by descriptor; the one without a name has pickup/ itself. Raises OSError."""
    with ExitStack() as opened:
        inlets = {}
        for producer in producers:
            for maildir in (False, True):
                path = pickup / producer.name / "new" if maildir else pickup / producer.name
                folder = opened.enter_context(closing(durable.Folder(path)))
                inlets[folder.fd] = Inlet(folder, producer, maildir)
        opened.pop_all()  # they stay open
        return inlets


def contents(inlet: Inlet, now: float) -> Contents:
    """Look through an inlet. `now`: seconds since the epoch. Raises OSError."""
    candidates: list[str] = []
    sidecars: list[str] = []
    others: list[str] = []
    for name in inlet.folder.names():
        if inlet.is_candidate(name):
            candidates.append(name)
        elif name.endswith(ORPHAN):
            sidecars.append(name)
        elif _is_final(name):
            others.append(name)

    def is_old(name: str, seconds: float) -> bool:
        figures = inlet.folder.stat(name)
        return figures is not None and stat.S_ISREG(figures.st_mode) and now - figures.st_ctime >= seconds

    stems = (name[:-4] for name in candidates if name.lower().endswith(".eml"))
    messages = {*candidates, *others, *stems} if sidecars else set[str]()
    alone = (name for name in sidecars if name[: -len(ORPHAN)] not in messages)
    return Contents(
        tuple(candidates),
        tuple(name for name in alone if is_old(name, ORPHANED)),
        tuple(name for name in others if is_old(name, STRAY)),
    )


def unread_folders(pickup: Path, producers: Iterable[Producer]) -> dict[str, int]:
    """Producers' folders that no [pickup.NAME] names any more, with how many files wait in each. Raises OSError.

    Only folders of pickup's own owner: members of the group may make folders there too, and those are their affair.
    """
    known = OUR_OWN | {producer.name for producer in producers}
    found = {}
    with closing(durable.Folder(pickup)) as top:
        owner = top.stat(".")
        for name in top.names():
            if name in known or is_candidate(name, maildir=False):
                continue
            figures = top.stat(name)
            if figures is None or owner is None or not stat.S_ISDIR(figures.st_mode):
                continue
            if figures.st_uid == owner.st_uid and (count := _waiting(pickup / name)):
                found[name] = count
    return found


def _waiting(path: Path) -> int:
    count = 0
    for maildir in (False, True):
        with suppress(OSError), closing(durable.Folder(path / "new" if maildir else path)) as folder:
            count += sum(1 for name in folder.names() if is_candidate(name, maildir=maildir))
    return count
