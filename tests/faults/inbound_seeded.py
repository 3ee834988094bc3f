"""The daemon with a known bug: what the inbound witness is calibrated on. Arguments: BUG, then the daemon's own.

`remove-first` lets a mail go before it is archived; `plain-expunge` removes what others have marked along with it;
`new-ids` gives a mail another id each time it is read; `forgetful` drops what a sink does not take at once;
`reads-on` marks every mail it has looked at as seen.
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator, Collection
from typing import Any

from mailrelayd.__main__ import main
from mailrelayd.approvals import document
from mailrelayd.approvals.desk import Desk
from mailrelayd.approvals.outbox import Outbox
from mailrelayd.inbound import names
from mailrelayd.inbound.imap import Session
from mailrelayd.inbound.protocols import Action, Arrived, Disposition
from mailrelayd.inbound.values import Stage

_background: set[asyncio.Task[Disposition]] = set()


def remove_first() -> None:
    """Archive later what was removed at once."""
    receive = Desk.receive

    async def later(desk: Desk, arrived: Arrived, pieces: AsyncIterator[bytes]) -> Disposition:
        read = [piece async for piece in pieces]

        async def again() -> AsyncIterator[bytes]:
            await asyncio.sleep(2.0)
            for piece in read:
                yield piece

        task = asyncio.create_task(receive(desk, arrived, again()))
        _background.add(task)
        return Disposition(Action.REMOVE, "none", 0.0)

    setattr(Desk, "receive", later)  # noqa: B010


def plain_expunge() -> None:
    """EXPUNGE instead of UID EXPUNGE."""

    async def delete(session: Session, uids: Collection[int]) -> list[int]:
        call = session._connection.call
        await call(Stage.STORE, "STORE", names.uid_set(sorted(uids)), "+FLAGS.SILENT", r"(\Deleted)", prefix="UID")
        await call(Stage.EXPUNGE, "EXPUNGE")
        return []

    setattr(Session, "delete", delete)  # noqa: B010


def new_ids() -> None:
    """A random id."""

    def decision_id(*about: str) -> str:
        return str(uuid.uuid4())

    setattr(document, "decision_id", decision_id)  # noqa: B010


def forgetful() -> None:
    """What a sink does not take at once is dropped."""

    def put_off(outbox: Outbox, decision_id: str, *about: object) -> None:
        outbox._folder.remove(f"{decision_id}.json")
        outbox._settle(decision_id)

    setattr(Outbox, "_put_off", put_off)  # noqa: B010


def reads_on() -> None:
    """Without PEEK."""
    fetch = Session._fetch

    async def seeing(session: Session, uids: list[int], items: str, **more: Any) -> Any:
        return await fetch(session, uids, items.replace("BODY.PEEK", "BODY"), **more)

    setattr(Session, "_fetch", seeing)  # noqa: B010


BUGS = {
    "remove-first": remove_first,
    "plain-expunge": plain_expunge,
    "new-ids": new_ids,
    "forgetful": forgetful,
    "reads-on": reads_on,
}

if __name__ == "__main__":
    BUGS[sys.argv.pop(1)]()
    sys.exit(main())
