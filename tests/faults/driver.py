"""Drops messages, runs the daemon, kills it, waits until all is done, and asks for the verdict.

    python -m tests.faults.driver --messages 500 --recipients 3 --kills 100 --chaos 0.3 --directory DIR

The daemon is any command; `{config}`, `{spool}` and `{port}` in it are replaced.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.journal import TEST_ID, Death, Dropped, append_line, sha256, split
from tests.faults.script import Rule
from tests.faults.server import Recorder, Terms
from tests.faults.verdict import KILLED, Verdict, judge

_PROGRAM = (sys.executable, "-m", "mailrelayd", "--config", "{config}")
DAEMON = (*_PROGRAM, "run")
CLIENTS = {
    "submit": (*_PROGRAM, "submit"),
    "sendmail": (*_PROGRAM, "sendmail", "-oi", "-t", "-f", "producer@drop.test"),
}
"""Programs that hand in what they read on standard input, and end with 0 when it is safe."""
_ROOT = Path(__file__).parents[2]  # where `python -m tests.faults...` works
LIFE_OF_A_CLIENT = 0.4  # seconds, about, on a busy machine
_SECOND = 75  # the exit code of a daemon that finds the spool taken


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
        """Hand one message in; when this returns, the daemon answers for it."""
        append_line(self.log, message.as_dropped())
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
                *self.command, stdin=asyncio.subprocess.PIPE, stdout=log, stderr=log, cwd=_ROOT, start_new_session=True
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


@dataclass
class Daemon:
    """The process under test: started, killed, stopped, and started again whenever it ends by itself.

    `inject` is strace's expression, as in "unlink:signal=KILL:when=3" or "fsync:error=EIO:when=2+". It counts per
    thread, and each life begins anew; `{life}` in it is the life's number, from 1, and after `lives_injected` lives it
    is left alone. strace slows everything that is traced; --seccomp-bpf would help but silently
    ignores signal=KILL.
    """

    command: Sequence[str]
    directory: Path
    inject: str = ""
    lives_injected: int = 10**6
    environment: dict[str, str] = field(default_factory=dict)
    lives: int = 0
    _process: asyncio.subprocess.Process | None = None
    _living: asyncio.Task[None] | None = None
    _over: bool = False

    async def start(self) -> None:
        """Run it, life after life, until it is killed or stopped."""
        self._over = False
        self._living = asyncio.create_task(self._live())

    async def _live(self) -> None:
        while not self._over:
            self._process = process = await self._spawn()
            if self._over:  # asked for while it was being born
                self._signal(signal.SIGKILL)
            code = await process.wait()
            self._signal(signal.SIGKILL)  # what strace may have left behind
            injected = bool(self.inject) and code in KILLED
            if code != _SECOND:
                append_line(self.directory / "deaths.jsonl", Death(time.time(), code, self._over or injected))
            if not self._over:
                await asyncio.sleep(0.02 if injected else 0.2)

    async def _spawn(self) -> asyncio.subprocess.Process:
        command = list(self.command)
        if self.inject and self.lives < self.lives_injected:
            calls = self.inject.partition(":")[0]
            inject = self.inject.replace("{life}", str(self.lives + 1))
            trace = ["strace", "-f", "-qq", "-o", f"{self.directory}/strace.{self.lives}"]
            command = [*trace, "-e", f"trace={calls}", "-e", f"inject={inject}", *command]
        self.lives += 1
        with (self.directory / "daemon.log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=_ROOT,
                env=os.environ | self.environment,
                start_new_session=True,
            )

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    async def _end(self, number: signal.Signals, patience: float) -> bool:
        if self._living is None:
            return True
        self._over = True
        self._signal(number)
        done, _ = await asyncio.wait([self._living], timeout=patience)
        return bool(done)

    async def kill(self) -> None:
        """SIGKILL, to the whole process group; returns when it is gone."""
        await self._end(signal.SIGKILL, 30)

    async def stop(self, patience: float = 30) -> bool:
        """SIGTERM, then SIGKILL; whether the first was enough."""
        if await self._end(signal.SIGTERM, patience):
            return True
        await self.kill()
        return False


def write_config(path: Path, spool: Path, port: int, *, settle: str = "500ms", more: str = "") -> None:
    """The least configuration, with a retry schedule for the impatient. `more` is appended as it is."""
    text = f"""\
[node]
name = "witness"
[spool]
directory = "{spool}"
settle = "{settle}"
[state]
directory = "{path.parent / "state"}"
[retry]
probe = "200ms"
message = ["200ms", "200ms", "300ms", "500ms"]
[outbound.test]
host = "127.0.0.1"
port = {port}
security = "none"
from_address = "relay@drop.test"
connect_timeout = "2s"
command_timeout = "2s"
data_timeout = "3s"
[log]
format = "json"
{more}"""
    path.write_text(text)


def waiting(spool: Path) -> int:
    """How many files the daemon still has to deal with; a sidecar whose producer was killed may stay alone."""
    folders = [spool / "pickup", spool / "queue"]
    return sum(
        path.is_file() and not path.name.startswith(".") and path.parent.name != "tmp" and ".env." not in path.name
        for folder in folders
        for path in folder.rglob("*")
    )


async def answering(log: Path, lives: int, deadline: float) -> None:
    """Wait until the daemon has been ready in so many of its lives."""
    while time.monotonic() < deadline:
        if _count(log, b'"daemon.ready"') >= lives:
            return
        await asyncio.sleep(0.02)


async def arrival(spool: Path, deadline: float) -> None:
    """Wait for the next message in queue/: it is taken, and whoever handed it in may not know that yet."""
    before = set((spool / "queue").iterdir())
    while time.monotonic() < deadline:
        if set((spool / "queue").glob("*.eml")) - before:
            return
        await asyncio.sleep(0.0005)


def _count(path: Path, text: bytes) -> int:
    return path.read_bytes().count(text) if path.exists() else 0


async def drained(spool: Path, deadline: float) -> bool:
    """Wait until nothing waits, at most until `deadline` (monotonic); whether that came about."""
    while time.monotonic() < deadline:
        if waiting(spool) == 0:
            return True
        await asyncio.sleep(0.05)
    return False


@dataclass
class Campaign:
    """One run: what is dropped, what is killed, how the server behaves. `directory` must be empty or new."""

    directory: Path
    command: Sequence[str] = DAEMON
    messages: int = 100
    recipients: int = 1
    addresses: Sequence[str] = ()  # local parts to take turns; see script.fate for those with a meaning
    size: int | None = None
    way: str = "rename"
    client: Sequence[str] = ()  # another program in place of CLIENTS[way]
    clients: int = 4  # that hand mail in at the same time, where `way` is one of CLIENTS
    client_kills: float = 0.3  # the share of them that is killed
    pace: float | None = None  # seconds between two drops; None: spread over all kills
    kills: int = 0
    between: tuple[float, float] = (0.05, 0.9)  # seconds a life lasts before it is killed
    daemons: int = 1
    inject: str = ""
    lives_injected: int = 10**6
    seed: int = 0
    deadline: float = 60.0  # seconds for the queue to drain after the last kill
    rules: Sequence[Rule] = ()
    chaos: float = 0.0
    terms: Terms | None = None
    config: str = ""  # more TOML
    connections: int = 1  # the daemon may have, see verdict.judge

    @property
    def spool(self) -> Path:
        """The daemon's spool."""
        return self.directory / "spool"

    async def run(self) -> Verdict:
        """Do all of it."""
        chance = random.Random(self.seed)
        self._prepare()
        terms = self.terms or Terms(patience=1.0, drip=0.05)
        recorder = Recorder(
            self.directory, rules=self.rules, chaos=self.chaos, seed=self.seed, terms=terms, sync=self.inject == ""
        )
        async with recorder:
            config = self.directory / "mailrelayd.toml"
            write_config(config, self.spool, recorder.port, more=self.config)
            places = {"{config}": str(config), "{spool}": str(self.spool), "{port}": str(recorder.port)}
            command = [_fill(word, places) for word in self.command]
            daemons = [Daemon(command, self.directory, self.inject, self.lives_injected) for _ in range(self.daemons)]
            for daemon in daemons:
                await daemon.start()
            dropping = asyncio.create_task(self._drop(chance, places))
            try:
                for life in range(1, self.kills + 1):
                    if self.way in CLIENTS:
                        await answering(self.directory / "daemon.log", life, time.monotonic() + 10)
                    await asyncio.sleep(chance.uniform(*self.between))
                    if self.way in CLIENTS:
                        await arrival(self.spool, time.monotonic() + 1)
                    daemon = chance.choice(daemons)
                    await daemon.kill()
                    await daemon.start()
                await dropping
                await drained(self.spool, time.monotonic() + self.deadline)
            finally:
                dropping.cancel()
                stopped = [await daemon.stop() for daemon in daemons]
        verdict = judge(self.directory, self.spool, connections=self.connections)
        verdict.stuck = stopped.count(False)
        return verdict

    def _prepare(self) -> None:
        for folder in ("pickup/tmp", "pickup/new", "queue", "failed"):
            (self.spool / folder).mkdir(parents=True, exist_ok=True)

    async def _drop(self, chance: random.Random, places: dict[str, str]) -> None:
        dropper: Dropper | Caller = Dropper(self.spool, self.directory, self.way)
        at_once = 1
        if command := self.client or CLIENTS.get(self.way):
            filled = [_fill(word, places) for word in command]
            dropper = Caller(filled, self.directory, self.client_kills, random.Random(self.seed))
            at_once = self.clients
        room = asyncio.Semaphore(at_once)

        async def hand_in(message: Message) -> None:
            async with room:
                await dropper.drop(message)

        async with asyncio.TaskGroup() as tasks:
            for message, pause in self._messages(chance):
                tasks.create_task(hand_in(message))
                await asyncio.sleep(pause)

    def _messages(self, chance: random.Random) -> Iterator[tuple[Message, float]]:
        """What is dropped, and the seconds until the next one."""
        pace = self.pace if self.pace is not None else self.kills * sum(self.between) / 2 / max(1, self.messages)
        for number in range(self.messages):
            kinds = self.addresses or ("ok",)
            recipients = [
                f"{kinds[(number * self.recipients + turn) % len(kinds)]}@r{turn}.m{number}.test"
                for turn in range(self.recipients)
            ]
            message = compose(f"m{self.seed}-{number:06}", recipients, chance, self.size)
            if self.way == "sidecar":  # the header would have it go elsewhere
                message.data = re.sub(rb"\A(From: [^\r\n]*\r?\n)To: ", rb"\1To: header@elsewhere.test, ", message.data)
            yield message, pace


def _fill(word: str, places: dict[str, str]) -> str:
    for name, value in places.items():
        word = word.replace(name, value)
    return word


def main(argv: Sequence[str]) -> int:
    """A campaign from the command line; 0 if the verdict is clean and nothing waits."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.driver")
    parser.add_argument("--directory", type=Path, help="new or empty; default: a temporary one")
    parser.add_argument("--start", default=shlex.join(DAEMON), metavar="COMMAND")
    parser.add_argument("--messages", type=int, default=100)
    parser.add_argument("--recipients", type=int, default=1)
    parser.add_argument("--addresses", default="ok", help='local parts, as in "ok reject tempfail-2"')
    parser.add_argument("--size", type=int)
    ways = ("rename", "maildir", "sidecar", "slow", *CLIENTS)
    parser.add_argument("--producer", dest="way", choices=ways, default="rename")
    parser.add_argument("--client-kills", type=float, default=0.3, metavar="P", help="of --producer submit, sendmail")
    parser.add_argument("--pace", type=float, help="seconds between two drops; default: spread over all kills")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--between", type=float, nargs=2, default=(0.05, 0.9), metavar="SECONDS", help="of a life")
    parser.add_argument("--daemons", type=int, default=1)
    parser.add_argument("--inject", default="", help='for strace, as in "unlink:signal=KILL:when=3"')
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--deadline", type=float, default=60.0)
    parser.add_argument("--fault", type=Rule.parse, action="append", default=[])
    parser.add_argument("--chaos", type=float, default=0.0, metavar="P", help="the chance of any fault at any stage")
    parser.add_argument("--delay", type=float, default=0.0, metavar="SECONDS", help="every answer comes so much later")
    options = parser.parse_args(argv)
    directory: Path = options.directory or Path(tempfile.mkdtemp(prefix="witness-"))
    directory.mkdir(parents=True, exist_ok=True)
    campaign = Campaign(
        directory,
        shlex.split(options.start),
        options.messages,
        options.recipients,
        options.addresses.split(),
        options.size,
        options.way,
        pace=options.pace,
        kills=options.kills,
        between=tuple(options.between),
        daemons=options.daemons,
        inject=options.inject,
        client_kills=options.client_kills,
        seed=options.seed,
        deadline=options.deadline,
        rules=options.fault,
        chaos=options.chaos,
        terms=Terms(patience=1.0, drip=0.05, delay=options.delay),
    )
    began = time.monotonic()
    verdict = asyncio.run(campaign.run())
    print(f"{directory}: {time.monotonic() - began:.1f} s\n{verdict}")
    return 0 if verdict.ok and verdict.drained else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
