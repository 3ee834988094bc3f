"""The folders that producers write into: pickup/ and pickup/new, and the same below pickup/NAME for [pickup.NAME].

Only read here. Whatever else stands in them (other names, other folders) is theirs, and at most spoken of.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from mailrelayd import durable
from mailrelayd.outbound.envelope import Producer
from mailrelayd.outbound.stored import ORPHAN

ORPHANED = 36 * 3600.0  # seconds after which a sidecar without message is put aside
STRAY = 3600.0  # seconds after which a name that is never taken is spoken of
NOT_FINAL = (".tmp", ".part", ".partial", ".filepart", ".swp", ".crdownload", ORPHAN)
OUR_OWN = frozenset({"tmp", "new"})
SOME = 1000  # sidecars put aside after one look; the next finds the others
_ENDINGS = tuple("." + "".join(letters) for letters in product("eE", "mM", "lL"))


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


class Survey:
    """One look through an inlet: gives out the names that may be messages, and remembers what else it met."""

    def __init__(self, inlet: Inlet, now: float) -> None:
        """`now`: seconds since the epoch."""
        self._inlet = inlet
        self._now = now
        self.orphans: list[str] = []  # sidecars whose message did not come within ORPHANED, at most SOME of them
        self.removed = False  # the folder itself: what stands under its name by now is another
        self.strays = 0  # files that nobody will ever take under their name
        self.stray = ""  # the first of them

    def __iter__(self) -> Iterator[str]:
        """In no order, and once only. Raises OSError."""
        self.removed = _is_another(self._inlet.folder)
        for name in self._inlet.folder.names():
            if self._inlet.is_candidate(name):
                yield name
            elif name.endswith(ORPHAN):
                if len(self.orphans) < SOME and self._is_old(name, ORPHANED) and self._is_alone(name):
                    self.orphans.append(name)
            elif _is_final(name) and self._is_old(name, STRAY):
                self.strays += 1
                self.stray = min(self.stray or name, name)

    def _is_old(self, name: str, seconds: float) -> bool:
        figures = self._inlet.folder.stat(name)
        return figures is not None and stat.S_ISREG(figures.st_mode) and self._now - figures.st_ctime >= seconds

    def _is_alone(self, name: str) -> bool:
        """Asked name by name, as whoever has very many files may have as many sidecars."""
        stem = name[: -len(ORPHAN)]
        messages = (one for one in (stem, *(stem + ending for ending in _ENDINGS)) if _is_final(one))
        return all(self._inlet.folder.stat(one) is None for one in messages)


def _is_another(folder: durable.Folder) -> bool:
    """Whether another folder stands under its name by now, or none: it was removed, moved away or mounted over."""
    try:
        now = folder.path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # that cannot be told from here, and what is open can still be read
        return False
    before = folder.stat(".")
    return before is None or (before.st_dev, before.st_ino) != (now.st_dev, now.st_ino)


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
