"""The requests that went out, and who may answer them: STATE/approvals/QUEUEID.json, one file each.

Beside it QUEUEID.lines holds the text that was sent: what a reply repeats of it is quotation, however it is marked;
and QUEUEID.eml, as long as reminders may be due, the message itself.

What a person decided stands in the archive; the registry's word about it is derived from there and may lag by one
crash, which the next start makes good (`Desk`). A damaged or newer entry is kept, said, and opens nothing.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from mailrelayd import durable
from mailrelayd.approvals import request as requests
from mailrelayd.approvals.request import Request, RequestError, State

LARGEST_ORIGINAL = 32 << 20  # bytes of a message that is kept for reminders
LARGEST = 16 << 20  # bytes of one entry: some 100,000 lines of memory, 1,000 approvers


class Report(Protocol):
    """Who is told about what nobody asked for."""

    def trouble(self, doing: str, error: OSError) -> None:
        """An entry cannot be used."""


class Registry:
    """All requests in memory, each change on disk before it counts. Calls that write belong into a thread.

    Several threads may call at once: the pickup opens requests while answers are written down.
    """

    def __init__(self, state: Path, report: Report) -> None:
        """Read what is there. Raises OSError where the folder itself cannot be used."""
        durable.make_folder(state / "approvals", 0o700)
        self._folder = durable.Folder(state / "approvals")
        self._folder.sweep()
        self._lock = threading.RLock()
        self._by_queue_id: dict[str, Request] = {}
        self._by_copy: dict[int, str] = {}
        self._by_request_id: dict[str, list[str]] = {}
        self._unsaved: set[str] = set()  # queue ids of which memory knows more than the disk
        self._originals: set[str] = set()  # queue ids of which there is an .eml
        for name in sorted(self._folder.names()):
            if name.endswith(".eml"):
                self._originals.add(name.removesuffix(".eml"))
            if name.endswith(".json"):
                try:
                    self._learn(requests.decode(self._read(name)))
                except (RequestError, OSError) as error:
                    report.trouble(
                        f"read approvals/{name}", error if isinstance(error, OSError) else OSError(0, str(error))
                    )

    def close(self) -> None:
        """Give the descriptor back."""
        self._folder.close()

    def __iter__(self) -> Iterator[Request]:
        """Every request, oldest first."""
        with self._lock:
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
        with self._lock:
            return [self._by_queue_id[queue_id] for queue_id in sorted(self._by_request_id.get(request_id, []))]

    def open(
        self, request: Request, texts: Iterable[Iterable[str]] = (), original: bytes | None = None
    ) -> list[Request]:
        """Remember a new request and the lines of its text; the ones it supersedes. On disk then. Raises OSError.

        `original`: the message, where it is to be sent again as a reminder.

        First the new one, then those before it: a crash in between leaves two open ones, and the next start closes
        the older (`Desk`).
        """
        lines = json.dumps([list(text) for text in texts]).encode()
        with self._lock:
            self._folder.write(f"{request.queue_id}.lines", lines)
            if original is not None:
                self._folder.write(f"{request.queue_id}.eml", original)
                self._originals.add(request.queue_id)
            self._write(request)
            return self.supersede(request.request_id)

    def texts(self, request: Request) -> list[list[str]]:
        """The lines that were sent; nothing where they cannot be read: then less is known to be quotation."""
        try:
            return [[str(line) for line in text] for text in json.loads(self._read(f"{request.queue_id}.lines"))]
        except (OSError, ValueError, TypeError):
            return []

    def original(self, queue_id: str) -> bytes | None:
        """The message that asked; None where it was not kept. Raises OSError."""
        return self._folder.read(f"{queue_id}.eml", limit=LARGEST_ORIGINAL) if queue_id in self._originals else None

    def originals(self) -> list[str]:
        """The queue ids of the messages that are kept."""
        with self._lock:
            return sorted(self._originals)

    def drop_original(self, queue_id: str) -> None:
        """No reminder is going to need it any more. Raises OSError."""
        with self._lock:
            self._folder.remove(f"{queue_id}.eml", sync=False)
            self._originals.discard(queue_id)

    def supersede(self, request_id: str) -> list[Request]:
        """Close all but the newest under this id; those that were still open. Raises OSError."""
        closed = []
        with self._lock:
            *older, newest = self.of_id(request_id)
            for one in older:
                if one.state(one.opened_at) is State.OPEN:
                    self._write(replace(one, superseded_by=newest.queue_id))
                    closed.append(one)
        return closed

    def change(self, queue_id: str, edit: Callable[[Request], Request]) -> tuple[Request, Request] | None:
        """Edit what is remembered of a request, as it is now: before and after; None: it is not known.

        The only way to change one: the pickup may supersede it at any moment. What `edit` gives counts from here on,
        and is on disk when this returns. Raises OSError; then it counts, and the next change writes it again.
        """
        with self._lock:
            changed = self.note(queue_id, edit)
            if changed is not None and queue_id in self._unsaved:
                self._write(changed[1])
            return changed

    def note(self, queue_id: str, edit: Callable[[Request], Request]) -> tuple[Request, Request] | None:
        """The same, in memory only: for what the archive says, until a `change` writes it down."""
        with self._lock:
            before = self._by_queue_id.get(queue_id)
            if before is None:
                return None
            after = edit(before)
            if after != before:
                self._learn(after)
                self._unsaved.add(queue_id)
            return before, after

    def sweep(self, now: float, keep: float) -> int:
        """Forget requests that have been over for so many seconds; how many. Raises OSError."""
        old = [one for one in self if max(one.expires_at, one.opened_at) < now - keep]
        for one in old:
            self._folder.remove(f"{one.queue_id}.json", sync=False)
            self._folder.remove(f"{one.queue_id}.lines", sync=False)
            self.drop_original(one.queue_id)
            with self._lock:
                self._forget(self._by_queue_id[one.queue_id])
        return len(old)

    def _read(self, name: str) -> bytes:
        return self._folder.read(name, limit=LARGEST)

    def _write(self, request: Request) -> None:
        self._folder.write(f"{request.queue_id}.json", requests.encode(request))
        self._learn(request)
        self._unsaved.discard(request.queue_id)

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
        self._unsaved.discard(request.queue_id)


def stored_requests(state: Path) -> Iterator[Request]:
    """Every request on disk that can be read, oldest first, without changing anything. Raises OSError."""
    folder = durable.Folder(state / "approvals")
    try:
        for name in sorted(name for name in folder.names() if name.endswith(".json")):
            with suppress(RequestError, FileNotFoundError):
                yield requests.decode(folder.read(name, limit=LARGEST))
    finally:
        folder.close()
