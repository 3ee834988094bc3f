"""Where decisions go: a folder or a program, and `webhook`. Each offer ends as taken, as "again", or as hopeless."""

from __future__ import annotations

import asyncio
import grp
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from mailrelayd import durable

COMMAND_TIMEOUT = 60.0  # seconds
_LONGEST_REASON = 300  # characters


@dataclass(frozen=True, slots=True)
class Taken:
    """It has the document."""


@dataclass(frozen=True, slots=True)
class Again:
    """Not now. `after`: how many seconds it asked for; None: it did not say."""

    reason: str
    after: float | None = None


@dataclass(frozen=True, slots=True)
class Hopeless:
    """Never: a person must look."""

    reason: str


Answer = Taken | Again | Hopeless


class Sink(Protocol):
    """One [[decisions]] table's way out."""

    @property
    def at_once(self) -> int:
        """How many offers may be under way."""

    async def offer(self, decision_id: str, document: bytes) -> Answer:
        """Offer a document. Never raises for what the other side does."""

    async def rest(self) -> None:
        """Nothing waits: let go of what serves several offers in a row."""


class DirectorySink:
    """new/ID.json appears whole, readable for the group; its consumer removes it."""

    at_once = 1

    def __init__(self, directory: Path, group: str) -> None:
        """Make the folders. Raises OSError; KeyError for a group that does not exist."""
        number = grp.getgrnam(group).gr_gid if group else None
        durable.make_folder(directory, 0o750)
        # setgid on both: a document is written in tmp/, and keeps the group that it gets there.
        for name, mode in (("tmp", 0o2700), ("new", 0o2770)):
            durable.make_folder(directory / name, mode)
        if number is not None:
            for path, mode in ((directory, 0o750), (directory / "tmp", 0o2700), (directory / "new", 0o2770)):
                folder = durable.Folder(path)
                try:
                    folder.give_to(number, mode)
                finally:
                    folder.close()
        self._new = directory / "new"
        self._tmp = directory / "tmp"

    async def offer(self, decision_id: str, document: bytes) -> Answer:
        """Put it there; on disk when it is taken."""
        try:
            await asyncio.to_thread(self._put, f"{decision_id}.json", document)
        except OSError as error:
            return Again(f"{error.filename or self._new}: {error.strerror}")
        return Taken()

    async def rest(self) -> None:
        """It holds nothing."""

    def _put(self, name: str, document: bytes) -> None:
        here, there = durable.Folder(self._tmp), durable.Folder(self._new)
        try:
            here.write(name, document, mode=0o640)
            here.move(name, there, name)
        finally:
            here.close()
            there.close()


class CommandSink:
    """A program that gets the document on standard input. 0: taken, 75 (EX_TEMPFAIL): again, all else: hopeless."""

    at_once = 1  # it may well count on being alone

    def __init__(self, command: Sequence[str]) -> None:
        self._command = tuple(command)

    async def offer(self, decision_id: str, document: bytes) -> Answer:
        """Run it; killed, with what it started, after a minute."""
        # Files in memory, not pipes: it may read nothing, and what it starts in the background may keep them open.
        with (
            os.fdopen(os.memfd_create("decision"), "wb+") as given,
            os.fdopen(os.memfd_create("errors"), "wb+") as said,
        ):
            given.write(document)
            given.seek(0)
            try:
                status = await self._run(decision_id, given, said)
            except TimeoutError:
                return Again(f"{self._command[0]}: did not end within {COMMAND_TIMEOUT:.0f} s")
            except OSError as error:
                return Again(f"{self._command[0]}: {error.strerror}")
            said.seek(0)
            complaint = said.read(_LONGEST_REASON).decode("utf-8", "replace").partition("\n")[0]
        if status == os.EX_OK:
            return Taken()
        text = short(f"{self._command[0]}: exit status {status}{': ' if complaint else ''}{complaint}")
        return Again(text) if status == os.EX_TEMPFAIL else Hopeless(text)

    async def rest(self) -> None:
        """It holds nothing."""

    async def _run(self, decision_id: str, given: BinaryIO, said: BinaryIO) -> int:
        """Its exit status, negative for a signal. Raises TimeoutError, and OSError where it cannot be started."""
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=given,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=said,
            env={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "DECISION_ID": decision_id},
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT):
                return await process.wait()
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()


def short(text: str) -> str:
    """What a sink said, as far as a log line and a list have room for it."""
    return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + "..."
