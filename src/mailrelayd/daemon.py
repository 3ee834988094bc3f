"""Builds every object, top to bottom, and runs them until SIGTERM.

A *generation* is everything that depends on the configuration: the pickup, the route, its connections. A reload
ends one (transactions under way are finished) and begins the next; the spool with its lock, the control socket
and the watchdog live as long as the process. An unexpected exception in any loop ends the process with its
traceback: systemd starts it again, and the files say where it was.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mailrelayd import login, terms
from mailrelayd.alerts.bell import Bell
from mailrelayd.answers import Answers
from mailrelayd.clock import Clock, SystemClock
from mailrelayd.clockmemory import ClockMemory
from mailrelayd.config import load as config
from mailrelayd.config.changes import Change, changes
from mailrelayd.config.settings import Settings
from mailrelayd.folders import node_name, prepare_folders
from mailrelayd.oauth.tokens import Tokens
from mailrelayd.office import Office, Records, prepare_sinks
from mailrelayd.operate import control, events, log, notify, sockets, syslog
from mailrelayd.outbound.delivery import ClockTrust
from mailrelayd.outbound.intake import Intake
from mailrelayd.outbound.pace import Paces
from mailrelayd.outbound.pickup import Pickup
from mailrelayd.outbound.queue import Entry
from mailrelayd.outbound.relay import Relay
from mailrelayd.outbound.route import Route
from mailrelayd.outbound.spool import LONGEST_PAUSE, Spool, SpoolError

STATUS_EVERY = 10.0  # seconds between two STATUS= lines
SWEEP_FIRST = 600.0  # seconds after the start
SWEEP_EVERY = 3600.0  # seconds between two looks for what keep_sent and keep_failed let go


class Reports:
    """What the spool has to say that nobody asked for."""

    def __init__(self, watchdog: notify.Watchdog | None = None) -> None:
        self._watchdog = watchdog

    def trouble(self, doing: str, error: OSError) -> None:
        """A write failed and is being repeated, or a file cannot be read."""
        events.queue_trouble(doing=doing, reason=error.strerror or str(error))
        if self._watchdog is not None:
            # A full disk is waited for: killed meanwhile, we would forget what was sent, and send it again.
            self._watchdog.excuse(LONGEST_PAUSE)

    def unreadable(self, queue_id: str, reason: str) -> None:
        """A queued file could no longer be understood."""
        events.message_unreadable(queue_id=queue_id, detail=reason)


class Generation:
    """Everything that one configuration decides about."""

    def __init__(
        self,
        settings: Settings,
        node: str,
        spool: Spool,
        clock: Clock,
        watchdog: notify.Watchdog,
        may_expire: Callable[[], bool],
        paces: Paces,
        records: Records,
    ) -> None:
        """Raises OSError where a folder cannot be used."""
        self.stop = asyncio.Event()
        self._watchdog = watchdog
        self._spool = spool
        account = settings.account
        terms.apply_to(spool, settings)
        tokens = Tokens(settings, clock)
        self.office: Office | None = None
        if settings.asking is not None:
            self.office = Office(
                settings, settings.asking, node, records, clock, spool.add, may_expire, spool.is_queued, tokens
            )
        spool.requests = self.office.opening if self.office is not None else None
        rules = terms.rules_of(settings)
        self.pickup = Pickup(settings.spool.directory / "pickup", spool, rules, clock, paces)
        self.route: Route | None = None
        self.relay: Relay | None = None
        self.postmaster = terms.postmaster_of(settings, spool, node, clock)
        if account is not None:
            self.route = Route(
                account.name,
                login.opener(account, settings, node, tokens),
                probe=settings.retry.probe,
                clock=clock,
                opening=login.longest_opening(account),
            )
            ways = terms.relay_of(settings, account, node)
            desk = self.office.desk if self.office is not None else None
            self.relay = Relay(spool, self.route, ways, clock, may_expire, self.postmaster, desk, watchdog.excuse)
            self._connections = account.connections

    async def run(self) -> None:
        """Until `end`. Every loop finishes what it has under way."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._guard("pickup", self.pickup.run(self.stop, self._beat("pickup"))))
                if self.relay is not None:
                    for number in range(self._connections):
                        name = f"relay-{number}"
                        tasks.create_task(self._guard(name, self.relay.run(number, self.stop, self._beat(name))))
                for name, loop in self.office.loops() if self.office is not None else ():
                    tasks.create_task(self._guard(name, loop(self.stop, self._beat(name))))
        finally:
            with suppress(OSError):
                await self._spool.sync_claims()
            self.pickup.close()
            if self.office is not None:
                self.office.close()

    def end(self) -> None:
        """Let every loop stop at its next resting place."""
        self.stop.set()
        self._spool.wake()
        self.pickup.wake()
        if self.office is not None:
            self.office.wake()

    def _beat(self, name: str) -> Callable[[float], None]:
        return lambda within: self._watchdog.beat(name, within)

    async def _guard(self, name: str, loop: Any) -> None:
        try:
            await loop
        finally:
            self._watchdog.ended(name)


class Daemon:
    """One process, one spool."""

    def __init__(self, path: Path, loaded: config.Loaded, environ: Mapping[str, str], clock: Clock) -> None:
        """Take the spool's lock. Raises SpoolError, durable.LockedError, OSError."""
        self.path = path
        self._environ = environ
        self._clock = clock
        self.loaded = loaded
        settings = loaded.settings
        prepare_folders(settings)
        self.node = node_name(settings)
        self._watchdog = notify.Watchdog(clock)
        reports = Reports(self._watchdog)
        self.spool = Spool(settings.spool.directory, node=self.node, clock=clock, report=reports)
        self._trust = ClockTrust(clock.now, clock.monotonic)
        self._clocks = ClockMemory(settings.state.directory)
        self._clocks.begin(self._trust)
        self._paces = Paces(settings.guard.producer_rate)
        self.records = Records(settings.state.directory, reports)
        self._generation = self._generate(settings)
        state = settings.state.directory
        self._control = control.Server(sockets.control_socket(state), Answers(self))
        self._intake = Intake(
            sockets.submit_socket(state), self.spool, clock, terms.intake_of(settings), paces=self._paces
        )
        alerts = terms.alerts_of(settings, self.node)
        self._bell = Bell(clock, self.spool.add, self._rule_of, self._wrong, alerts, state)
        self._reloading = asyncio.Lock()
        self._stop = asyncio.Event()
        self._hung_up = asyncio.Event()
        self.started = clock.now()

    @property
    def route(self) -> Route | None:
        """The way to the smarthost; None: outbound is disabled."""
        return self._generation.route

    @property
    def office(self) -> Office | None:
        """The approval loop; None: approvals are not enabled."""
        return self._generation.office

    @property
    def pickup(self) -> Pickup:
        """The loop that takes files."""
        return self._generation.pickup

    async def run(self) -> None:
        """Until SIGTERM or SIGINT. Raises what a loop did not expect."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, signal.Signals(number).name)
        loop.add_signal_handler(signal.SIGHUP, self._hung_up.set)
        over = asyncio.Event()
        try:
            await self.spool.open_up()
            if self.office is not None:
                await self.office.desk.open_up()
            await self._control.start()
            await self._intake.start()
            events.config_loaded(file=str(self.path), sha256=self.loaded.sha256, by="start", changed=[])
            self._announce()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watchdog.run(over))
                tasks.create_task(self._listen_for_hangups())
                tasks.create_task(self._keep_house())
                tasks.create_task(self._bell.run(self._stop))
                await self._generations()
                over.set()
        finally:
            self._bell.close()
            await self._intake.close()
            await self._control.close()
            self.spool.close()
            self.records.close()

    def _generate(self, settings: Settings) -> Generation:
        return Generation(
            settings, self.node, self.spool, self._clock, self._watchdog, self._trust.given, self._paces, self.records
        )

    def _announce(self) -> None:
        account = self.loaded.settings.account
        waiting = self.spool.figures().waiting
        events.daemon_ready(
            waiting=waiting,
            outbound=account.name if account else "disabled",
            spool=str(self.spool.directory),
            loop=type(asyncio.get_running_loop()).__module__.partition(".")[0],
        )
        notify.ready(self._status_line())

    async def _generations(self) -> None:
        while True:
            await self._generation.run()
            if self._stop.is_set():
                return
            before, settings = self._generation, self.loaded.settings
            self._generation = self._generate(settings)
            if before.route is not None and self._generation.route is not None:
                self._generation.route.inherit(before.route)
            if before.relay is not None and self._generation.relay is not None:
                self._generation.relay.inherit(before.relay)
            notify.ready(self._status_line())

    def _end(self, reason: str) -> None:
        if not self._stop.is_set():
            events.daemon_stopping(reason=reason)
            notify.stopping()
            self._stop.set()
            self._hung_up.set()
            self._generation.end()

    # -- reload ------------------------------------------------------------------------------------------------

    async def _listen_for_hangups(self) -> None:
        while not self._stop.is_set():
            await self._hung_up.wait()
            self._hung_up.clear()
            if not self._stop.is_set():
                with suppress(control.RefusedError):
                    await self.reload("SIGHUP")

    async def report_failure(self, entry: Entry) -> None:
        """Tell the sender of a message that somebody gave up, where [retry] dsn says so."""
        await self._generation.postmaster.report_failure(entry)
        if entry.message.copies and self.office is not None:
            try:
                await self.office.desk.settled(entry.message, entry.message.progress)
            except OSError as error:  # it is no longer in the queue, which the desk finds out by itself
                reason = error.strerror or str(error)
                events.queue_trouble(doing="note what became of a request", reason=reason)

    async def reload(self, by: str) -> list[Change]:
        """All or nothing: what changed. Raises RefusedError; then everything stays as it was."""
        async with self._reloading:  # of two at a time the one that read the files first could win
            return await self._reload(by)

    async def _reload(self, by: str) -> list[Change]:
        try:
            loaded = await asyncio.to_thread(config.load, self.path, self._environ)
            if stuck := config.needs_restart(self.loaded.settings, loaded.settings):
                raise config.ConfigError([f"{', '.join(stuck)}: a change of this needs a restart, not a reload"])
            await asyncio.to_thread(prepare_folders, loaded.settings)  # of a new [pickup.NAME]
            await asyncio.to_thread(prepare_sinks, loaded.settings)
        except (config.ConfigError, SpoolError) as error:
            events.config_rejected(file=str(self.path), reason=str(error), by=by)
            raise control.RefusedError(os.EX_CONFIG, str(error), "the configuration before stays in force") from error
        made = changes(self.loaded.settings, loaded.settings)
        changed = [change.key for change in made]
        self.loaded = loaded
        notify.reloading()
        log.setup(loaded.settings.log.format, loaded.settings.log.level)
        syslog.setup(loaded.settings.log.syslog, events.syslog_trouble)
        self._intake.set_terms(terms.intake_of(loaded.settings))
        self._bell.set_terms(terms.alerts_of(loaded.settings, self.node))
        events.config_loaded(file=str(self.path), sha256=loaded.sha256, by=by, changed=changed)
        if set(changed) <= {"log.format", "log.level", "log.syslog", "alerts.to", "alerts.ping_url"}:
            notify.ready(self._status_line())  # nothing that any loop depends on
        else:
            self._generation.end()
        return made

    # -- house-keeping -----------------------------------------------------------------------------------------

    async def _keep_house(self) -> None:
        # Not at once: a machine without a battery-backed clock begins with a wrong date.
        sweep_at = self._clock.monotonic() + SWEEP_FIRST
        while not self._stop.is_set():
            if self._trust.given():
                with suppress(OSError):
                    await asyncio.to_thread(self._clocks.keep, self._trust.offset)
            if self._clock.monotonic() >= sweep_at and self._trust.given():
                sweep_at = self._clock.monotonic() + SWEEP_EVERY
                with suppress(OSError):
                    await self.spool.sweep(self.loaded.settings.spool.keep_failed)
                if self.office is not None:
                    with suppress(OSError):
                        await self.office.desk.sweep()
            notify.status(self._status_line())
            await self._clock.wait(self._stop, STATUS_EVERY)

    def _wrong(self) -> str:
        """What keeps mail from going out, or answers from being read, right now; "" for nothing."""
        route, office = self._generation.route, self._generation.office
        if route is None and self.spool.figures().waiting:
            return "outbound disabled"
        if route is not None and route.held is not None:
            return f"{route.account} held"
        return next((poller.account for poller in office.pollers if poller.trouble), "") if office is not None else ""

    async def _rule_of(self, queue_id: str) -> str:
        """How a message's envelope was found; "" where it is neither waiting nor kept."""
        entry = await self.spool.find(queue_id)
        return entry.message.rule if entry is not None else ""

    def _status_line(self) -> str:
        """One line for `systemctl status`."""
        figures, route = self.spool.figures(), self._generation.route
        if route is None:
            return f"outbound disabled, {figures.waiting} waiting"
        if route.held is not None:
            return f"{figures.waiting} waiting, {route.account} held for {route.held_for:.0f} s: {route.held}"
        return f"{figures.waiting} waiting ({figures.deferred} deferred, {figures.held} on hold), {route.account} ok"


async def serve(path: Path, loaded: config.Loaded, environ: Mapping[str, str]) -> None:
    """Run the daemon with the machine's clocks. Raises SpoolError, durable.LockedError, OSError."""
    daemon = Daemon(path, loaded, environ, SystemClock())
    await daemon.run()
