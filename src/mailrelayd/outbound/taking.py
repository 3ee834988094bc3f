"""One file of an inlet, from the first look to what became of it: claimed, dropped, failed, or left where it is.

Everything here runs in the pickup's thread; what it answers is told to the log and to the queue by the loop.
"""

from __future__ import annotations

import errno
from collections.abc import Collection
from dataclasses import dataclass

from mailrelayd.clock import Clock
from mailrelayd.operate import events
from mailrelayd.outbound import copies, keys, queueid
from mailrelayd.outbound.examine import Examiner, Later, Ready, Refused, Rules, Unusable
from mailrelayd.outbound.headers import Unreadable
from mailrelayd.outbound.incoming import DuplicateError
from mailrelayd.outbound.inlets import Inlet
from mailrelayd.outbound.openings import admit
from mailrelayd.outbound.pace import Paces
from mailrelayd.outbound.record import Claim
from mailrelayd.outbound.spool import Spool
from mailrelayd.outbound.stored import Head
from mailrelayd.outbound.values import Progress, QueuedMessage

_ALONE = "a sidecar whose message never came"


@dataclass(frozen=True, slots=True)
class Taken:
    """It is in the queue. `stamp`: what it looks like now, where its producer may still hold it open."""

    message: QueuedMessage
    uid: int
    stamp: tuple[int, int, int] | None
    head: Head  # what was read of it


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Its idempotency key was used within 24 hours: it is gone."""

    queue_id: str  # of the message that came first
    uid: int


@dataclass(frozen=True, slots=True)
class Failed:
    """It can never be sent, and lies in failed/."""

    queue_id: str
    detail: str


@dataclass(frozen=True, slots=True)
class Slowed:
    """[guard] producer_rate: its owner has handed in enough for now."""

    uid: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Trouble:
    """It could not be taken, though nothing is wrong with it."""

    error: OSError


Result = Taken | Duplicate | Failed | Slowed | Trouble | Later | Refused


class Taker:
    """Takes one file at a time."""

    def __init__(self, spool: Spool, rules: Rules, clock: Clock, paces: Paces) -> None:
        """`paces`: what each user has handed in lately, with [guard] producer_rate."""
        self._spool = spool
        self._rules = rules
        self._clock = clock
        self._paces = paces
        self._examiner = Examiner(rules, clock)

    @property
    def remembered(self) -> set[tuple[int, str]]:
        """Files that stay, of which something is known: an inlet's descriptor and a name."""
        return self._examiner.remembered

    def forget_all_but(self, there: Collection[tuple[int, str]]) -> None:
        """Files that are not `there` (an inlet's descriptor and a name) are gone."""
        self._examiner.forget_all_but(there)

    def take(self, inlet: Inlet, name: str, *, renamed: bool) -> Result | None:
        """Take it if it is ready; None: there is nothing (any more). `renamed`: it arrived in one step."""
        try:
            return self._take(inlet, name, renamed=renamed or inlet.maildir)
        except OSError as error:
            # Its producer may have taken it away in between.
            return Trouble(error) if inlet.folder.stat(name) else None
        except Exception as error:  # noqa: BLE001 - one file that meets a bug must not stop all the others
            events.daemon_bug(where="pickup", error=error, file=inlet.shown(name))
            return Trouble(OSError(errno.EINVAL, f"unexpected {type(error).__name__}"))

    def put_aside(self, inlet: Inlet, name: str) -> Failed | Trouble:
        """Move a sidecar whose message never came to failed/."""
        try:
            return Failed(self._refuse(inlet, name, _ALONE, orphan=True), _ALONE)
        except OSError as error:
            return Trouble(error)

    def _take(self, inlet: Inlet, name: str, *, renamed: bool) -> Result | None:
        figures = inlet.folder.stat(name)
        if figures is None:
            self._examiner.forget(inlet, name)
            return None
        # Before a file is looked into, so that nobody's flood costs more than its names.
        if wait := self._paces.wait(figures.st_uid, self._clock.monotonic()):
            return Slowed(figures.st_uid, wait)
        found = self._examiner.judge(inlet, name, figures, renamed=renamed)
        if found is None or isinstance(found, Later | Refused):
            return found
        if isinstance(found, Unusable):
            queue_id = self._refuse(inlet, name, found.detail, uid=found.uid, sidecar=found.claim)
            result: Result = Failed(queue_id, found.detail)
        else:
            result = self._claim(inlet, name, found)
        self._paces.take(found.uid, self._clock.monotonic())
        self._examiner.forget(inlet, name)
        return result

    def _refuse(
        self,
        inlet: Inlet,
        name: str,
        detail: str,
        *,
        uid: int | None = None,
        sidecar: Claim | None = None,
        orphan: bool = False,
    ) -> str:
        producer = inlet.producer.name
        return self._spool.refuse(
            inlet.folder, name, detail=detail, sidecar=sidecar, orphan=orphan, producer=producer, uid=uid
        )

    def _claim(self, inlet: Inlet, name: str, found: Ready) -> Taken | Duplicate | Failed:
        producer, wishes = inlet.producer.name, found.sidecar
        key = keys.digest(found.uid, producer, wishes.key) if wishes and wishes.key else ""
        if key and (first := self._spool.seen(key)) is not None:
            return self._drop(inlet, name, found, first)
        admitted = admit(self._spool, found.header, found.derived.envelope, found.uid)
        if isinstance(admitted, Unreadable):
            queue_id = self._refuse(inlet, name, admitted.reason, uid=found.uid, sidecar=found.claim)
            return Failed(queue_id, admitted.reason)
        queue_id = self._spool.new_id()
        arrived_at = min(queueid.arrived_at(queue_id), self._clock.now())  # ids may be ahead after a wrong date
        message = QueuedMessage(
            queue_id,
            found.derived.envelope,
            Progress(arrived_at, not_before=wishes.not_before if wishes else 0.0),
            found.head.size,
            found.derived.rule,
            file=name,
            producer=producer,
            uid=found.uid,
            key=key,
        )
        if admitted is not None:
            message = copies.asking(message, admitted)
        try:
            stamp = self._spool.take(
                inlet.folder,
                name,
                message,
                sidecar=found.claim,
                # A block that does not count here must not start to count when [spool] envelope changes; and neither
                # whose folder it was nor what the file was called could be told by its header.
                write_down=found.has_block or bool(producer) or self._rules.results,
                stamp=found.stamp,
            )
        except DuplicateError as earlier:  # through submit.sock, since we asked
            return self._drop(inlet, name, found, earlier.queue_id)
        return Taken(message, found.uid, stamp, found.head)

    def _drop(self, inlet: Inlet, name: str, found: Ready, first: str) -> Duplicate:
        producer = inlet.producer.name
        self._spool.drop(
            inlet.folder, name, found.claim, inode=found.head.inode, queue_id=first, producer=producer, uid=found.uid
        )
        return Duplicate(first, found.uid)
