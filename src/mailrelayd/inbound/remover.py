"""Takes mails out of their folder: those only whose decision is on disk and with every required sink.

By UID, on a connection that has had the folder open with this UIDVALIDITY all along.
"""

from __future__ import annotations

from typing import Final

from mailrelayd.clock import Clock
from mailrelayd.inbound.imap import AT_A_TIME, Session
from mailrelayd.inbound.protocols import Desk, Terms
from mailrelayd.inbound.seen import Owed, Seen
from mailrelayd.inbound.values import Refused, Stage
from mailrelayd.operate import approval_events as events

AT_ONCE: Final = 500  # mails, between two signs of life
FLAGGED: Final = r"only marked \Deleted: the server cannot remove single mails (UIDPLUS), or does not"


class Remover:
    """Removes from one folder, over any number of connections."""

    def __init__(self, terms: Terms, desk: Desk, clock: Clock, seen: Seen) -> None:
        """`seen` is changed in place."""
        self._terms = terms
        self._desk = desk
        self._clock = clock
        self._seen = seen
        self._not_before = 0.0  # on clock.monotonic(), after a refusal
        self._told: set[str] = set()
        self.trouble = ""  # why mail stays that should go
        self.removed = 0  # mails, since the start

    def next_at(self) -> float:
        """When it is worth to try again, on clock.monotonic(). Sinks that have yet to take something say so then."""
        waits = [self._due(owed) for owed in self._seen.owed.values() if self._desk.may_remove(owed.decision_id)]
        if not waits or self._terms.after == "keep":
            return float("inf")
        now = self._clock.monotonic()
        return max(now + max(min(waits) - self._clock.now(), 0.0), self._not_before)

    def _due(self, owed: Owed) -> float:
        return owed.at + (self._terms.delete_after if self._terms.after == "delete" else 0.0)

    async def remove(self, session: Session) -> bool:
        """Remove what is due and served; whether there was something. Raises ImapError."""
        if self._terms.after == "keep" or self._clock.monotonic() < self._not_before:
            return False
        now = self._clock.now()
        due = [
            uid
            for uid, owed in sorted(self._seen.owed.items())
            if self._due(owed) <= now and self._desk.may_remove(owed.decision_id)
        ][:AT_ONCE]
        for begin in range(0, len(due), AT_A_TIME):
            some = due[begin : begin + AT_A_TIME]
            try:
                left = await self._carry_out(session, some)
            except Refused as refused:
                self._not_before = self._clock.monotonic() + self._terms.poll_interval
                self.trouble = f"mail cannot be removed: {refused}"
                self._tell(self.trouble, len(due) - begin)
                return True
            self._done(some, left)
        if due:
            self.trouble = ""
        return bool(due)

    def _done(self, uids: list[int], left: set[int]) -> None:
        folder = self._folder
        for uid in uids:
            owed = self._seen.owed.pop(uid)
            if uid not in left:
                self._seen.handled.discard(uid)
                self.removed += 1
                how = "deleted" if folder is None else f"moved to {folder}"
                events.mail_removed(account=self._terms.name, uid=uid, decision_id=owed.decision_id, how=how)
        if left:
            self._tell(FLAGGED, len(left))

    @property
    def _folder(self) -> str | None:
        """Where mails are moved to; None: they are deleted."""
        prefix, _, name = self._terms.after.partition(":")
        return name if prefix == "move" else None

    async def _carry_out(self, session: Session, uids: list[int]) -> set[int]:
        """Delete or move; those that are still there. Raises ImapError."""
        folder = self._folder
        if folder is None:
            return set(await session.delete(uids))
        try:
            await session.move(uids, folder)
        except Refused as refused:
            if refused.code != "TRYCREATE":
                raise
            if not self._terms.create_folder:
                there = ", ".join(await session.folders())
                raise Refused(Stage.MOVE, f"there is no folder {folder!r}, but {there}", refused.code) from refused
            await session.create(folder)
            await session.move(uids, folder)
        return set()

    def _tell(self, why: str, mails: int) -> None:
        """Once; the trouble of a server lasts."""
        if why not in self._told:
            self._told.add(why)
            events.mail_left(account=self._terms.name, uid=None, mails=mails, reason=why)
