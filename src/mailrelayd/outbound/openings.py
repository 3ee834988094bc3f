"""Requests for approval in the queue: nothing of one may be sent before it is known where answers are looked up.

It is told there right after the claim, and again at each start, as a crash may have come in between. Where that does
not work, a full disk for example, the message waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from typing import Protocol

from mailrelayd import durable
from mailrelayd.operate import events
from mailrelayd.outbound.envelope import not_enabled
from mailrelayd.outbound.headers import APPROVAL_FIELDS, Header, Unreadable
from mailrelayd.outbound.moves import Report
from mailrelayd.outbound.queue import Requests
from mailrelayd.outbound.stored import FileSource
from mailrelayd.outbound.values import Admitted, Envelope, QueuedMessage

DISABLED = "a request for approval waits: approvals are not enabled (any more)"


class _Asked(Protocol):
    """Where messages come in."""

    @property
    def requests(self) -> Requests | None:
        """Who knows of requests for approval; None: they are not enabled."""

    @property
    def new_id(self) -> Callable[[], str]:
        """Gives queue ids."""


def admit(spool: _Asked, header: Header, envelope: Envelope, uid: int) -> Admitted | Unreadable | None:
    """Whether a message may ask for what its header asks for; None: it asks for nothing. Raises OSError."""
    fields = header.named(*APPROVAL_FIELDS)
    if not fields:
        return None
    refused = Unreadable(not_enabled(fields[0]))
    return refused if spool.requests is None else spool.requests.admit(header, envelope, uid, spool.new_id) or refused


class Openings:
    """Which requests of the queue have been opened since the start. Its calls block for the disk; from any thread."""

    def __init__(self, queue: durable.Folder, report: Report) -> None:
        self.requests: Requests | None = None  # None: approvals are not enabled
        self._queue = queue
        self._report = report
        self._lock = threading.Lock()
        self._opened: set[str] = set()
        self._said: set[str] = set()

    def is_open(self, message: QueuedMessage) -> bool:
        """Whether it may be sent, as far as it is known without asking."""
        return not message.opens_request or message.queue_id in self._opened

    def open(self, message: QueuedMessage) -> bool:
        """Tell of a message that is in the queue; False: it has to wait, and the reason was said."""
        if self.is_open(message):
            return True
        try:
            self._open(message)
        except OSError as error:
            if self._is_new(message):
                self._report.trouble(f"open the request of {message.queue_id}", error)
            return False
        except Exception as error:  # noqa: BLE001 - one request that meets a bug must not stop all mail
            if self._is_new(message):
                events.daemon_bug(where="approvals", error=error, file=message.queue_id)
            return False
        with self._lock:
            self._opened.add(message.queue_id)
            self._said.discard(message.queue_id)
        return True

    def _is_new(self, message: QueuedMessage) -> bool:
        """Whether it waits for the first time: it is tried again and again."""
        with self._lock:
            new = message.queue_id not in self._said
            self._said.add(message.queue_id)
            return new

    def forget(self, queue_id: str) -> None:
        """The message has left the queue."""
        with self._lock:
            self._opened.discard(queue_id)
            self._said.discard(queue_id)

    def _open(self, message: QueuedMessage) -> None:
        if self.requests is None:
            raise OSError(0, DISABLED)
        with closing(FileSource.of(self._queue, f"{message.queue_id}.eml")) as source:
            self.requests.opened(message, source)
