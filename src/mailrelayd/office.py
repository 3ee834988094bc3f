"""The approval loop, composed: what one configuration makes of requests, mailboxes and sinks.

The registry and the archive live as long as the process; the desk, its outboxes and the pollers as long as their
configuration. Secrets are fetched when they are needed, so that the unit starts without any credential: until the key
is there, requests and answers wait where they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from mailrelayd import durable, login
from mailrelayd.approvals import desk as desks
from mailrelayd.approvals import dkim, opening, token
from mailrelayd.approvals.archive import Archive
from mailrelayd.approvals.desk import Desk
from mailrelayd.approvals.letters import Send
from mailrelayd.approvals.opening import Opening
from mailrelayd.approvals.outbox import Outbox, park
from mailrelayd.approvals.registry import Registry, Report
from mailrelayd.approvals.sender import SenderCheck
from mailrelayd.approvals.sinks import CommandSink, DirectorySink, Sink
from mailrelayd.approvals.values import Options
from mailrelayd.clock import Clock, SystemClock
from mailrelayd.config import secrets
from mailrelayd.config.answering import Approvals, Decisions
from mailrelayd.config.settings import Settings
from mailrelayd.inbound.poller import Poller
from mailrelayd.inbound.seen import SeenStore
from mailrelayd.oauth.tokens import Tokens
from mailrelayd.operate import events, log
from mailrelayd.outbound.spool import SpoolError

Loop = Callable[[asyncio.Event, Callable[[float], None]], Coroutine[Any, Any, None]]


class Records:
    """What is on disk about approvals. Opened once: two registries of one folder would contradict each other."""

    def __init__(self, state: Path, report: Report) -> None:
        """Raises OSError."""
        self.registry = Registry(state, report)
        self.archive = Archive(state)

    def close(self) -> None:
        """Give the descriptors back."""
        self.registry.close()
        self.archive.close()


class Keys:
    """[approvals] secret, fetched when it is first needed, and again as long as it cannot be had."""

    def __init__(self, approvals: Approvals) -> None:
        self._references = approvals.secret
        self._found: tuple[bytes, ...] = ()

    def __call__(self) -> tuple[bytes, ...]:
        """The keys, the one that signs first. Raises OSError with what to do about it."""
        if not self._found:
            try:
                found = [
                    secrets.resolve(one, key=f"approvals.secret[{position}]")
                    for position, one in enumerate(self._references, 1)
                ]
            except secrets.SecretError as error:
                raise OSError(0, str(error)) from error
            for text in found:
                log.conceal(text)
                if len(text.encode()) < token.SMALLEST_SECRET:
                    hint = f"at least {token.SMALLEST_SECRET} bytes; `mailrelayd approvals new-secret` makes one"
                    raise OSError(0, f"approvals.secret is too short: {hint}")
            self._found = tuple(text.encode() for text in found)
        return self._found


class Office:
    """Everything about approvals that one configuration decides."""

    def __init__(
        self,
        settings: Settings,
        approvals: Approvals,
        node: str,
        records: Records,
        clock: Clock,
        send: Send,
        may_expire: Callable[[], bool],
        is_queued: Callable[[str], bool],
        tokens: Tokens,
    ) -> None:
        """`may_expire`: whether the wall clock can be trusted; `is_queued`: whether a message waits.

        Raises OSError where a sink's folder cannot be made.
        """
        self._clock = clock
        self._settings = settings
        state = settings.state.directory
        keys = Keys(approvals)
        self.outboxes = [
            Outbox(state, sink.name, sink_of(sink, state, clock), clock, required=sink.required)
            for sink in settings.decisions
        ]
        self.desk = Desk(
            desk_terms(settings, approvals, node, keys),
            records.registry,
            records.archive,
            self.outboxes,
            clock,
            send,
            may_expire,
            lambda name, decision_id, stored: park(state, name, decision_id, stored),
            is_queued,
        )
        self.opening = Opening(
            opening.Terms(node, lambda: keys()[0], settings.decisions, approvals.expire, bool(approvals.remind)),
            records.registry,
            clock,
        )
        self._stores = [SeenStore(state, mailbox.name) for mailbox in settings.mailboxes]
        self.pollers = [
            Poller(mailbox, login.connector(mailbox, settings, tokens), self.desk, store, clock)
            for mailbox, store in zip(settings.mailboxes, self._stores, strict=True)
        ]
        self.desk.on_served = self._served

    def loops(self) -> list[tuple[str, Loop]]:
        """Every loop and its name. Each runs until `stop` and finishes what it has under way."""
        return [
            *((f"sink-{outbox.name}", outbox.run) for outbox in self.outboxes),
            *((f"mailbox-{poller.account}", poller.run) for poller in self.pollers),
            ("approvals", self._keep_house),
        ]

    def close(self) -> None:
        """Give the descriptors back, once all loops have ended."""
        for store in self._stores:
            store.close()
        for outbox in self.outboxes:
            outbox.close()

    def wake(self) -> None:
        """`stop` was set."""
        for poller in self.pollers:
            poller.wake()
        for outbox in self.outboxes:
            outbox.wake()

    def _served(self, decision_id: str) -> None:
        for poller in self.pollers:
            poller.served(decision_id)

    async def _keep_house(self, stop: asyncio.Event, beat: Callable[[float], None]) -> None:
        accounts = [poller.account for poller in self.pollers]
        while not stop.is_set():
            beat(desks.HOUSE * 4)
            try:
                await self.desk.keep_house(accounts)
            except OSError as error:
                events.queue_trouble(doing="look after requests", reason=error.strerror or str(error))
            await self._clock.wait(stop, desks.HOUSE)

    def status(self) -> list[dict[str, Any]]:
        """One line per mailbox."""
        return [
            {
                "account": poller.account,
                "state": "down" if poller.trouble else "up" if poller.last_poll else "starting",
                "reason": poller.trouble,
                "last_poll": poller.last_poll or None,
                "read": poller.read,
                "removed": poller.removed,
            }
            for poller in self.pollers
        ]


def desk_terms(
    settings: Settings, approvals: Approvals, node: str, keys: Callable[[], tuple[bytes, ...]]
) -> desks.Terms:
    """How answers are judged."""
    return desks.Terms(
        node=node,
        secrets=keys,
        check=SenderCheck(approvals.sender_check, approvals.authserv_id, dkim.verify),
        options=Options.of(approvals),
        delegates=approvals.delegates,
        headers={sink.name: sink.headers for sink in settings.decisions},
        unmatched={mailbox.name: mailbox.unmatched for mailbox in settings.mailboxes},
        reply_address=settings.reply_address,
        subaddressing=approvals.subaddressing,
        separator=approvals.subaddress_separator,
        subject_tag=approvals.subject_tag,
        receipts=approvals.receipts,
        remind=approvals.remind,
        keep_archive=settings.state.keep_archive,
        keep_quarantine=settings.state.keep_quarantine,
        keep_requests=settings.state.keep_requests,
    )


def prepare_sinks(settings: Settings) -> None:
    """Make the folders of all sinks. Raises SpoolError where that cannot be done."""
    for sink in settings.decisions if settings.asking is not None else ():
        try:
            sink_of(sink, settings.state.directory, SystemClock())
        except OSError as error:
            raise SpoolError(
                f"{error.filename}: {error.strerror}" if error.filename else f"{error.strerror}"
            ) from error


def sink_of(sink: Decisions, state: Path, clock: Clock) -> Sink:
    """The way out that a [[decisions]] table describes; a folder is made. Raises OSError."""
    if sink.webhook:
        from mailrelayd.approvals.webhook import WebhookSink  # an HTTP client, which takes its time and its memory

        return WebhookSink(sink.webhook, lambda: _secret(sink), clock)
    if sink.command:
        return CommandSink(sink.command)
    if not sink.directory:
        durable.make_folder(state / "decisions", 0o711)  # its consumers walk through, and see only what is theirs
    try:
        return DirectorySink(Path(sink.directory) if sink.directory else state / "decisions" / sink.name, sink.group)
    except KeyError:
        hint = f"groupadd --system {sink.group}"
        raise OSError(0, f"decisions.{sink.name}.group: this machine has no group {sink.group}: {hint}") from None
    except PermissionError as error:
        if error.filename:
            raise
        hint = f"usermod --append --groups {sink.group} USER, then restart"
        raise OSError(
            0, f"decisions.{sink.name}.group: the daemon's user is no member of {sink.group}: {hint}"
        ) from error


def _secret(sink: Decisions) -> str:
    try:
        text = secrets.resolve(sink.secret, key=f"decisions.{sink.name}.secret")
    except secrets.SecretError as error:
        raise OSError(0, str(error)) from error
    log.conceal(text)
    return text
