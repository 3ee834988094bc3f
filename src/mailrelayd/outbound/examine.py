"""One file in a pickup folder: is it ready, may it be taken, and who should receive it?

What stands there was put there by somebody else. So nothing is followed, nothing blocks, and nothing is changed: the
answer is a value, and the pickup's loop carries it out.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import lru_cache

from mailrelayd import durable
from mailrelayd.clock import Clock
from mailrelayd.outbound.envelope import MAX_SIDECAR, Derived, Sidecar, parse_sidecar, read_envelope
from mailrelayd.outbound.headers import Header, Unreadable, pickup_block
from mailrelayd.outbound.inlets import Inlet
from mailrelayd.outbound.record import Claim
from mailrelayd.outbound.stored import ORPHAN, Head, Reading, head_of, stamp_of

LINKED = 60.0  # seconds that a second link may last: some uploads link the final name, then unlink the first


@dataclass(frozen=True, slots=True)
class Ready:
    """A file that may be taken now."""

    uid: int  # whose file it is
    head: Head
    derived: Derived
    sidecar: Sidecar | None
    claim: Claim | None
    has_block: bool  # an X-Sender block stands at the top, whether or not it counts here
    stamp: tuple[int, int, int] | None  # where its producer may still hold it open

    @property
    def header(self) -> Header:
        """What it says of itself."""
        return self.head.header


@dataclass(frozen=True, slots=True)
class Later:
    """Not yet: look again after so many seconds. `why` is for people who ask."""

    seconds: float
    why: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Left where it is until somebody changes it; said once."""

    reason: str
    hint: str
    owner: str


@dataclass(frozen=True, slots=True)
class Unusable:
    """Can never be sent as it is: goes to failed/ with this sentence."""

    detail: str
    uid: int
    claim: Claim | None = None  # its sidecar, which goes with it


@dataclass(frozen=True, slots=True)
class Rules:
    """[spool] and what else decides about a file; times in seconds, sizes in bytes."""

    reading: Reading = field(default_factory=Reading)
    settle: float = 2.0
    max_message_size: int = 50 << 20
    min_free: int = 0
    approvals: bool = False  # [approvals]: files may ask for approval
    results: bool = False  # [spool] results: a file's own name has to be remembered until the end


@lru_cache(maxsize=256)
def owner_name(uid: int) -> str:
    """The user's name, or its number where it has none (any more)."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


class Examiner:
    """Decides about one file at a time. Remembers only what "has not changed for a while" needs."""

    def __init__(self, rules: Rules, clock: Clock) -> None:
        self.rules = rules
        self._clock = clock
        self._seen: dict[tuple[int, str], tuple[tuple[int, ...], float]] = {}
        self._linked: dict[tuple[int, str], float] = {}

    @property
    def remembered(self) -> set[tuple[int, str]]:
        """Files that stay, of which something has to be known at the next look: an inlet's descriptor and a name."""
        return self._seen.keys() | self._linked.keys()

    def forget(self, inlet: Inlet, name: str) -> None:
        """The file has been taken, or is gone."""
        self._seen.pop((inlet.folder.fd, name), None)
        self._linked.pop((inlet.folder.fd, name), None)

    def forget_all_but(self, there: Collection[tuple[int, str]]) -> None:
        """Their owners have removed all others, also those that were refused."""
        self._seen = {key: seen for key, seen in self._seen.items() if key in there}
        self._linked = {key: first for key, first in self._linked.items() if key in there}

    def look(self, inlet: Inlet, name: str, *, renamed: bool) -> Ready | Later | Refused | Unusable | None:
        """What to do with this name; None: there is nothing (any more). `renamed`: it arrived in one step."""
        figures = inlet.folder.stat(name)
        return None if figures is None else self.judge(inlet, name, figures, renamed=renamed)

    def judge(
        self, inlet: Inlet, name: str, figures: os.stat_result, *, renamed: bool
    ) -> Ready | Later | Refused | Unusable | None:
        """The same, where it has just been looked at (lstat)."""
        folder = inlet.folder
        if not stat.S_ISREG(figures.st_mode):
            kind = _KINDS.get(stat.S_IFMT(figures.st_mode), "something else")
            owner = owner_name(figures.st_uid)
            return Refused(f"is {kind}, not a regular file", "write the message itself under this name", owner)
        if figures.st_nlink > 1 and (answer := self._hard_link(folder, name, figures)):
            return answer
        if figures.st_size > self.rules.max_message_size:
            reason = f"has {figures.st_size} bytes, more than max_message_size ({self.rules.max_message_size})"
            hint = "send less, or raise [spool] max_message_size and reload"
            return Refused(reason, hint, owner_name(figures.st_uid))
        at_once = renamed or self._is_old(figures)
        if not at_once and (wait := self._settling(folder, name, figures)) > 0:
            return Later(wait, "its producer may still be writing: it has to stay unchanged for [spool] settle")
        try:
            descriptor = folder.open(name)
        except FileNotFoundError:
            return None
        except PermissionError:
            mode, owner = stat.S_IMODE(figures.st_mode), owner_name(figures.st_uid)
            return Refused(
                f"cannot be read: mode {mode:04o}, owner {owner}",
                "the producer must make it readable for the group, e.g. os.fchmod(fd, 0o640) before the rename, "
                "or hand it in by `mailrelayd submit`",
                owner,
            )
        try:
            return self._open(inlet, name, descriptor, renamed=renamed)
        finally:
            os.close(descriptor)

    def _open(self, inlet: Inlet, name: str, descriptor: int, *, renamed: bool) -> Ready | Later | Refused | Unusable:
        if not renamed and durable.being_written(descriptor):
            return Later(max(self.rules.settle, 0.1), "its producer holds a lock on it")
        figures = os.fstat(descriptor)
        found = self._sidecar(inlet, name, figures)
        if isinstance(found, Refused | Unusable):
            return found
        sidecar, claim = found
        if figures.st_size == 0:
            return Unusable("the file is empty", figures.st_uid, claim)
        head = head_of(descriptor, figures)
        if isinstance(head, Unreadable):
            return Unusable(head.reason, figures.st_uid, claim)
        header = head.header
        reading = self.rules.reading
        derived = read_envelope(
            header,
            inlet.producer.envelope,
            sidecar=sidecar,
            from_address=reading.from_address,
            rewrite_from=reading.rewrite_from,
            producer=inlet.producer,
            may_ask=self.rules.approvals,
        )
        if isinstance(derived, Unreadable):
            return Unusable(derived.reason, figures.st_uid, claim)
        if sidecar is None and header.fields[0].key == "content-type" and _ends_as_djangos(descriptor, figures.st_size):
            return Unusable(_DJANGO, figures.st_uid, claim)
        stamp = None if renamed else stamp_of(figures)
        has_block = bool(pickup_block(header))
        return Ready(figures.st_uid, head, derived, sidecar, claim, has_block, stamp)

    def _is_old(self, figures: os.stat_result) -> bool:
        """Older than `settle` by both times: the mtime can be set back (cp -p), the ctime cannot."""
        return self._clock.now() - max(figures.st_mtime, figures.st_ctime) >= self.rules.settle

    def _settling(self, folder: durable.Folder, name: str, figures: os.stat_result) -> float:
        """Seconds until the file will have been still for long enough; 0: it has."""
        mono = self._clock.monotonic()
        look = (figures.st_ino, *stamp_of(figures))
        before, since = self._seen.get((folder.fd, name), (None, mono))
        if before != look:
            self._seen[folder.fd, name] = (look, mono)
            since = mono
        return max(since + self.rules.settle - mono, 0.0)

    def _hard_link(self, folder: durable.Folder, name: str, figures: os.stat_result) -> Later | Refused | None:
        mono = self._clock.monotonic()
        first = self._linked.setdefault((folder.fd, name), mono)
        if figures.st_nlink == 2 and mono - first < LINKED:
            return Later(1.0, "it has a second name (hard link), as some uploads have for a moment")
        return Refused(
            f"has {figures.st_nlink} names (hard links): it may be somebody else's file",
            "write a file of its own, or remove the other names",
            owner_name(figures.st_uid),
        )

    def _sidecar(
        self, inlet: Inlet, name: str, figures: os.stat_result
    ) -> tuple[Sidecar | None, Claim | None] | Refused | Unusable:
        """NAME.env.json beside NAME or NAME.eml. It speaks for the message only if the same user wrote it."""
        folder = inlet.folder
        stem = name[:-4] if name.lower().endswith(".eml") else name
        beside, there = stem + ORPHAN, folder.stat(stem + ORPHAN)
        if there is None and stem != name:
            beside, there = name + ORPHAN, folder.stat(name + ORPHAN)
        if there is None:
            return None, None
        if not stat.S_ISREG(there.st_mode) or there.st_nlink != 1 or there.st_uid != figures.st_uid:
            owner = owner_name(figures.st_uid)
            return Refused(
                f"waits: its sidecar {beside} is not a regular file with one name that belongs to {owner}",
                "the producer must write both, the sidecar first; or remove the sidecar",
                owner,
            )
        try:
            data = folder.read(beside, limit=MAX_SIDECAR + 1)
        except OSError as error:
            reason = f"waits: its sidecar {beside} cannot be read ({error.strerror})"
            return Refused(reason, "chmod g+r", owner_name(figures.st_uid))
        claim = Claim(inlet.below, beside, there.st_ino, there.st_ctime_ns)
        sidecar = parse_sidecar(data)
        if isinstance(sidecar, Unreadable):
            return Unusable(sidecar.reason, figures.st_uid, claim)
        return sidecar, claim


def _ends_as_djangos(descriptor: int, size: int) -> bool:
    return durable.read_at(descriptor, max(size - len(_DASHES), 0), len(_DASHES)) == _DASHES


# Django's "filebased" backend begins with what email.message writes first and ends each mail so. Sent as one mail, the
# second would go to the first one's recipients.
_DASHES = b"\n" + b"-" * 79 + b"\n"
_DJANGO = (
    "it ends with the 79 dashes of Django's file backend, which puts several mails into one file and leaves out Bcc: "
    "hand in one mail per file, or use another backend"
)
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFDIR: "a folder",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}
