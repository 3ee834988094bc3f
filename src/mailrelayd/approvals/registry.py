"""The requests that went out, and who may answer them: STATE/approvals/QUEUEID.json, one file each.

What a person decided stands in the archive; the registry's word about it is derived from there and may lag by one
crash, which the next start makes good (`Desk`). A damaged or newer entry is kept, said, and opens nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from mailrelayd import durable
from mailrelayd.approvals import request as requests
from mailrelayd.approvals.request import Request, RequestError, State

LARGEST = 16 << 20  # bytes of one entry: some 100,000 lines of memory, 1,000 approvers


class Report(Protocol):
    """Who is told about what nobody asked for."""

    def trouble(self, doing: str, error: OSError) -> None:
        """An entry cannot be used."""


class Registry:
    """All requests in memory, each change on disk before it counts. Calls that write belong into a thread."""

    def __init__(self, state: Path, report: Report) -> None:
        """Read what is there. Raises OSError where the folder itself cannot be used."""
        durable.make_folder(state / "approvals", 0o700)
        self._folder = durable.Folder(state / "approvals")
        self._folder.sweep()
        self._by_queue_id: dict[str, Request] = {}
        self._by_copy: dict[int, str] = {}
        self._by_request_id: dict[str, list[str]] = {}
        for name in sorted(self._folder.names()):
            if name.endswith(".json"):
                try:
                    self._learn(requests.decode(self._folder.read(name, limit=LARGEST)))
                except (RequestError, OSError) as error:
                    report.trouble(
                        f"read approvals/{name}", error if isinstance(error, OSError) else OSError(0, str(error))
                    )

    def close(self) -> None:
        """Give the descriptor back."""
        self._folder.close()

    def __iter__(self) -> Iterator[Request]:
        """Every request, oldest first."""
        return iter([self._by_queue_id[queue_id] for queue_id in sorted(self._by_queue_id)])

    def get(self, queue_id: str) -> Request | None:
        """The request that this message asked."""
        return self._by_queue_id.get(queue_id)

    def of_copy(self, number: int) -> Request | None:
        """The request that a token leads to."""
        queue_id = self._by_copy.get(number)
        return self._by_queue_id.get(queue_id) if queue_id else None

    def of_id(self, request_id: str) -> list[Request]:
        """The requests asked under this id, oldest first; at most the last of them is open."""
        return [self._by_queue_id[queue_id] for queue_id in sorted(self._by_request_id.get(request_id, []))]

    def open(self, request: Request) -> list[Request]:
        """Remember a new request; the ones it supersedes. On disk when it returns. Raises OSError.

        First the new one, then those before it: a crash in between leaves two open ones, and the next start closes
        the older (`Desk`).
        """
        self._write(request)
        return self.supersede(request.request_id)

    def supersede(self, request_id: str) -> list[Request]:
        """Close all but the newest under this id; those that were still open. Raises OSError."""
        *older, newest = self.of_id(request_id)
        closed = []
        for one in older:
            if one.state(one.opened_at) is State.OPEN:
                one = replace(one, superseded_by=newest.queue_id)
                self._write(one)
                closed.append(one)
        return closed

    def update(self, request: Request) -> None:
        """Remember what changed about a request. On disk when it returns. Raises OSError."""
        self._write(request)

    def sweep(self, now: float, keep: float) -> int:
        """Forget requests that have been over for so many seconds; how many. Raises OSError."""
        old = [one for one in self if max(one.expires_at, one.opened_at) < now - keep]
        for one in old:
            self._folder.remove(f"{one.queue_id}.json", sync=False)
            self._forget(one)
        return len(old)

    def _write(self, request: Request) -> None:
        self._folder.write(f"{request.queue_id}.json", requests.encode(request))
        self._learn(request)

    def _learn(self, request: Request) -> None:
        if (before := self._by_queue_id.get(request.queue_id)) is not None:
            self._forget(before)
        self._by_queue_id[request.queue_id] = request
        self._by_request_id.setdefault(request.request_id, []).append(request.queue_id)
        for copy in request.copies:
            self._by_copy[copy.number] = request.queue_id

    def _forget(self, request: Request) -> None:
        del self._by_queue_id[request.queue_id]
        same = self._by_request_id[request.request_id]
        same.remove(request.queue_id)
        if not same:
            del self._by_request_id[request.request_id]
        for copy in request.copies:
            self._by_copy.pop(copy.number, None)
