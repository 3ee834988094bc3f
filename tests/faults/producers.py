"""Who hands mail in: what they write, the ways they do it, and the programs that do it for them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import random
import re
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.journal import TEST_ID, Dropped, append_line, sha256, split

ROOT = Path(__file__).parents[2]  # where `python -m tests.faults...` works
PROGRAM = (sys.executable, "-m", "mailrelayd", "--config", "{config}")
CLIENTS = {
    "submit": (*PROGRAM, "submit"),
    "sendmail": (*PROGRAM, "sendmail", "-oi", "-t", "-f", "producer@drop.test"),
}
"""Programs that hand in what they read on standard input, and end with 0 when it is safe."""
LIFE_OF_A_CLIENT = 0.4  # seconds, about, on a busy machine


@dataclass
class Message:
    """A message about to be dropped."""

    test_id: str
    recipients: tuple[str, ...]
    data: bytes

    def as_dropped(self, status: int = 0) -> Dropped:
        """What the verdict needs to know of it; `status` is that of the program which handed it in."""
        header, body = split(self.data)
        body = re.sub(rb"\r\n|\r|\n", b"\r\n", body)
        if body and not body.endswith(b"\r\n"):
            body += b"\r\n"
        return Dropped(self.test_id, self.recipients, header.decode("latin-1"), sha256(body), status)


def compose(test_id: str, recipients: Sequence[str], chance: random.Random, size: int | None = None) -> Message:
    """A message with everything that is easily damaged: dots, folded fields, mixed line ends, a missing end.

    Half of them have no Message-ID and no Date; the last of several recipients stands in Bcc. `size` is that of
    the body in bytes, about.
    """
    end = chance.choice([b"\n", b"\r\n"])
    to, bcc = (recipients[:-1], recipients[-1:]) if len(recipients) > 1 else (recipients, ())
    header = [
        b"From: Producer <producer@drop.test>",
        b"To: " + (b"," + end + b"  ").join(address.encode() for address in to),
        f"{TEST_ID}: {test_id}".encode(),
        b"Subject: a subject" + end + b"\tfolded  with  care",
        *(b"Bcc: " + address.encode() for address in bcc),
    ]
    if chance.random() < 0.5:
        header += [f"Message-ID: <{test_id}@drop.test>".encode(), b"Date: Sat, 21 Nov 2026 08:00:00 +0000"]
    lines = [b".", b"..", b". dot", b"From here", b"", b"x" * chance.randrange(78)]
    wanted = size if size is not None else chance.randrange(2000)
    length = sum(map(len, lines))
    while length < wanted:
        lines.append(chance.choice([b".", b"", b"word " * chance.randrange(15), chance.randbytes(30).hex().encode()]))
        length += len(lines[-1])
    chance.shuffle(lines)
    body = end.join(lines) + end + f"last line of {test_id}".encode() + chance.choice([b"", end])
    return Message(test_id, tuple(recipients), end.join([*header, b"", body]))


class Dropper:
    """A producer.

    `way`: `rename` (.name -> name.eml), `maildir` (tmp/ -> new/), `sidecar` (name.env.json first, and a header that
    tells another envelope) or `slow` (writes in place).
    """

    def __init__(self, spool: Path, directory: Path, way: str = "rename", pause: float = 0.02) -> None:
        self.pickup = spool / "pickup"
        self.log = directory / "dropped.jsonl"
        self.way = way
        self.pause = pause  # seconds between the pieces of a slow writer

    async def drop(self, message: Message) -> None:
        """Hand one message in, again and again on a full disk; when this returns, the daemon answers for it."""
        append_line(self.log, message.as_dropped())
        while True:
            try:
                await self._drop(message)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                await asyncio.sleep(0.1)
            else:
                return

    async def _drop(self, message: Message) -> None:
        if self.way == "slow":
            await self._slow(message)
        elif self.way == "maildir":
            self._rename(message.data, self.pickup / "tmp" / message.test_id, self.pickup / "new" / message.test_id)
        else:
            if self.way == "sidecar":
                envelope = {"mail_from": "beside@drop.test", "rcpt_to": list(message.recipients)}
                sidecar = self.pickup / f"{message.test_id}.env.json"
                self._rename(json.dumps(envelope).encode(), self.pickup / f".{sidecar.name}", sidecar)
            name = f"{message.test_id}.eml"
            self._rename(message.data, self.pickup / f".{name}", self.pickup / name)

    def _rename(self, data: bytes, first: Path, final: Path) -> None:
        for folder in (first.parent, final.parent):
            folder.mkdir(parents=True, exist_ok=True)
        with first.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        first.rename(final)
        descriptor = os.open(final.parent, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(descriptor)
        os.close(descriptor)

    async def _slow(self, message: Message) -> None:
        self.pickup.mkdir(parents=True, exist_ok=True)
        piece = len(message.data) // 4 + 1
        with (self.pickup / f"{message.test_id}.eml").open("wb", buffering=0) as file:
            for start in range(0, len(message.data), piece):
                file.write(message.data[start : start + piece])
                await asyncio.sleep(self.pause)


class Caller:
    """A program that hands mail in through one of CLIENTS, and is killed together with it now and then."""

    def __init__(self, command: Sequence[str], directory: Path, deadly: float, chance: random.Random) -> None:
        self.command = command
        self.directory = directory
        self.deadly = deadly  # the chance of a SIGKILL
        self.chance = chance

    async def drop(self, message: Message) -> None:
        """Hand one message in; whether anybody answers for it is in the log afterwards."""
        patience = self.chance.uniform(0, LIFE_OF_A_CLIENT) if self.chance.random() < self.deadly else None
        with (self.directory / "clients.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *self.command, stdin=asyncio.subprocess.PIPE, stdout=log, stderr=log, cwd=ROOT, start_new_session=True
            )
        feeding = asyncio.create_task(self._feed(process, message.data))
        try:
            async with asyncio.timeout(patience):
                await process.wait()
        except TimeoutError:
            # Popen's own kill() polls first: that may take the exit status away from whoever waits for it.
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        status = await process.wait()
        await feeding
        append_line(self.directory / "dropped.jsonl", message.as_dropped(status))

    async def _feed(self, process: asyncio.subprocess.Process, data: bytes) -> None:
        """In two halves: a client that is killed between them has read a message that looks whole."""
        pipe = process.stdin
        assert pipe is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for half in (data[: len(data) // 2], data[len(data) // 2 :]):
                pipe.write(half)
                await pipe.drain()
                await asyncio.sleep(LIFE_OF_A_CLIENT / 10)
        pipe.close()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await pipe.wait_closed()
