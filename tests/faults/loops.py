"""The daemon, stopped at a chosen step of its event loop. Arguments: the daemon's own.

`MAILRELAYD_TEST_STEP=17:SIGTERM` sends the process that signal at
its 17th step from the moment it goes to connect: a step is what a task does between one await and the next, so counting
up meets every await of a transaction. Before SIGHUP the configuration changes, as nothing is reloaded otherwise.
`MAILRELAYD_TEST_CLOCK=FILE` makes the wall clock wrong by so many seconds, `MAILRELAYD_TEST_IDLE=0.05` says goodbye
to the smarthost after so many without a message, and `MAILRELAYD_TEST_PAUSE=2` tries again after so many what the disk
has refused (30 else).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

from mailrelayd.__main__ import main
from mailrelayd.cli import run
from mailrelayd.clock import SystemClock
from mailrelayd.outbound import pickup, relay, settling, spool
from mailrelayd.outbound.route import Route

PROBES = ('probe = "200ms"', 'probe = "210ms"')  # what a reload changes back and forth


class Steps:
    """Counts, once it has begun, and strikes once."""

    def __init__(self, step: int, strike: Callable[[], None]) -> None:
        self.left = step
        self.begun = False
        self._strike = strike

    def take(self) -> None:
        """One step."""
        if self.begun:
            self.left -= 1
            if self.left == 0:
                self._strike()


class Counted(Coroutine[Any, Any, Any]):
    """A coroutine whose every step is counted."""

    def __init__(self, inner: Coroutine[Any, Any, Any], steps: Steps) -> None:
        self._inner = inner
        self._steps = steps
        self.__name__ = getattr(inner, "__name__", "coroutine")
        self.__qualname__ = getattr(inner, "__qualname__", "coroutine")

    def send(self, value: Any) -> Any:
        self._steps.take()
        return self._inner.send(value)

    def throw(self, *error: Any) -> Any:
        self._steps.take()
        return self._inner.throw(*error)

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._inner.__await__()


def change(config: Path) -> None:
    """Make the next reload find something new."""
    text = config.read_text()
    before, after = PROBES if PROBES[0] in text else PROBES[::-1]
    temporary = config.with_suffix(".new")
    temporary.write_text(text.replace(before, after))
    temporary.rename(config)


def stumble(text: str) -> None:
    """Send the process a signal at the step that `text` names."""
    number, _, name = text.partition(":")
    wanted = signal.Signals[name]

    def strike() -> None:
        if wanted is signal.SIGHUP:
            change(Path(sys.argv[sys.argv.index("--config") + 1]))
        os.kill(os.getpid(), wanted)

    steps = Steps(int(number), strike)
    made, opened = run.new_event_loop, Route.open

    def new_event_loop(wanted: str) -> asyncio.AbstractEventLoop:
        loop = made(wanted)
        loop.set_task_factory(lambda loop, coro, **more: asyncio.Task(Counted(coro, steps), loop=loop, **more))
        return loop

    async def opening(route: Route, *about: Any) -> Any:
        steps.begun = True
        return await opened(route, *about)

    setattr(run, "new_event_loop", new_event_loop)  # noqa: B010
    setattr(Route, "open", opening)  # noqa: B010


def shift(file: Path) -> None:
    """Let the wall clock be wrong by the seconds that stand in the file; `clock` is the only module that tells time."""
    setattr(SystemClock, "now", lambda _: time.time() + float(file.read_text()))  # noqa: B010


def choose() -> None:
    """Install what the environment asks for."""
    if clock := os.environ.get("MAILRELAYD_TEST_CLOCK"):
        shift(Path(clock))
    relay.IDLE = float(os.environ.get("MAILRELAYD_TEST_IDLE", relay.IDLE))
    if pause := os.environ.get("MAILRELAYD_TEST_PAUSE"):
        pickup.SWEEP = spool.LONGEST_PAUSE = settling.LONGEST_PAUSE = float(pause)
    if step := os.environ.get("MAILRELAYD_TEST_STEP"):
        stumble(step)


if __name__ == "__main__":
    choose()
    sys.exit(main())
