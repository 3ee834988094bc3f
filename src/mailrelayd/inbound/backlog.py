"""The mails of a folder that wait to be read, and in which order. Pure, and only in memory.

A mail that makes trouble steps aside for all others. After a few tries it is left in its folder and tried again at
long intervals: its server may have been at fault.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from mailrelayd.inbound.names import LAST_UID

TRIES: Final = 3  # before a mail is called unreadable
LATER: Final = 3600.0  # seconds until such a mail is tried again


@dataclass(frozen=True, slots=True)
class Waiting:
    """A mail to be read. `received_at` is INTERNALDATE, in seconds since the epoch."""

    uid: int
    size: int  # octets, as the server says
    received_at: float
    ours: bool  # its header holds a token of ours


@dataclass(slots=True)
class _Trial:
    count: int
    again_at: float  # on clock.monotonic()


class Backlog:
    """What waits in one folder. Times are those of clock.monotonic()."""

    def __init__(self) -> None:
        self._waiting: dict[int, Waiting] = {}
        self._trials: dict[int, _Trial] = {}  # also of mails of which nothing is known yet

    def __contains__(self, uid: int) -> bool:
        return uid in self._waiting

    def add(self, mail: Waiting) -> None:
        """It is to be read."""
        self._waiting[mail.uid] = mail
        self._trials.pop(mail.uid, None)

    def finish(self, uid: int) -> None:
        """It was read, or left for good."""
        self._waiting.pop(uid, None)
        self._trials.pop(uid, None)

    def forget_all_but(self, there: Collection[int], first: int) -> None:
        """Others have removed what is not `there`, of the UIDs from `first` on."""
        for uid in [uid for uid in {*self._waiting, *self._trials} if uid >= first and uid not in there]:
            self.finish(uid)

    def ready(self, now: float) -> list[Waiting]:
        """Those that may be read now: with a token of ours first, and of each kind the untried ones first."""
        may = [mail for mail in self._waiting.values() if self.may_try(mail.uid, now)]
        return sorted(may, key=lambda mail: (not mail.ours, self.tries(mail.uid), mail.uid))

    def may_try(self, uid: int, now: float) -> bool:
        """Whether it was not put off until later."""
        trial = self._trials.get(uid)
        return trial is None or trial.again_at <= now

    def tries(self, uid: int) -> int:
        """How often it has failed; 0 also for one that is only under suspicion."""
        trial = self._trials.get(uid)
        return trial.count if trial is not None else 0

    def suspected(self, uid: int) -> bool:
        """Whether it should be dealt with alone."""
        return uid in self._trials

    def suspect(self, uid: int) -> None:
        """Trouble came up where several were asked for, and it was one of them."""
        self._trials.setdefault(uid, _Trial(0, 0.0))

    def put_off(self, uid: int, again_at: float) -> None:
        """Not its fault: it is tried again then, as often as it takes."""
        self._trials[uid] = _Trial(self.tries(uid), again_at)

    def stumble(self, uid: int, now: float, again_at: float) -> bool:
        """It has failed; whether that was the last straw, so that people should hear of it."""
        count = self.tries(uid) + 1
        self._trials[uid] = _Trial(count, again_at if count < TRIES else now + LATER)
        return count == TRIES

    def read_until(self, begun_at: float) -> float | None:
        """Up to which time of arrival everything was read, if what is there was listed at `begun_at`.

        Given-up mails do not count. None: nobody can tell.
        """
        open_trials = {uid for uid, trial in self._trials.items() if trial.count < TRIES}
        if not open_trials <= self._waiting.keys():
            return None
        given_up = self._trials.keys() - open_trials
        return min([begun_at, *(mail.received_at for uid, mail in self._waiting.items() if uid not in given_up)])

    def first(self) -> int:
        """The smallest UID that is of interest."""
        return min(*self._waiting, *self._trials, LAST_UID, LAST_UID)
