"""Drops messages, runs the daemon, kills it, waits until all is done, and asks for the verdict.

    python -m tests.faults.driver --messages 500 --recipients 3 --kills 100 --chaos 0.3 --directory DIR

The daemon is any command; `{config}`, `{spool}` and `{port}` in it are replaced. It says "daemon.ready" when it is.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.process import Daemon
from tests.faults.producers import CLIENTS, PROGRAM, Caller, Dropper, Message
from tests.faults.producers import compose as compose
from tests.faults.script import CELLS, Rule
from tests.faults.server import Recorder, Terms
from tests.faults.verdict import Verdict, judge
from tests.servers.process import LOOP

DAEMON = (*PROGRAM, "run", "--loop", LOOP)

START = 0.5  # seconds, about, until a daemon is ready
# A stray 250 behind the first bytes of a body that came in one piece is, for any client, the answer to its last byte.
UNJUDGEABLE = ("body", "stray")


def chaos(probability: float) -> list[Rule]:
    """Every fault that can be judged, each stage misbehaving this often."""
    return [
        Rule(stage, fault, probability=probability / len(faults))
        for stage, faults in CELLS.items()
        for fault in faults
        if (stage, fault) != UNJUDGEABLE
    ]


def write_config(path: Path, spool: Path, port: int, *, settle: str = "500ms", window: int = 1, more: str = "") -> None:
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
window = {window}
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


async def arrival(spool: Path, deadline: float) -> None:
    """Wait for the next message in queue/: it is taken, and whoever handed it in may not know that yet."""
    before = set((spool / "queue").iterdir())
    while time.monotonic() < deadline:
        if set((spool / "queue").glob("*.eml")) - before:
            return
        await asyncio.sleep(0.0005)


async def drained(spool: Path, deadline: float) -> bool:
    """Wait until nothing waits, at most until `deadline` (monotonic); whether that came about."""
    while time.monotonic() < deadline:
        if waiting(spool) == 0:
            return True
        await asyncio.sleep(0.05)
    return False


@dataclass
class World:
    """What a nemesis may lay its hands on."""

    directory: Path
    spool: Path
    recorder: Recorder
    daemons: Sequence[Daemon]
    chance: random.Random
    dropping: asyncio.Task[None]  # done when everything has been handed in


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
    pause: float = 0.02  # seconds between the pieces of a slow writer
    client: Sequence[str] = ()  # another program in place of CLIENTS[way]
    clients: int = 4  # that hand mail in at the same time, where `way` is one of CLIENTS
    client_kills: float = 0.3  # the share of them that is killed
    pace: float | None = None  # seconds between two drops; None: spread over all kills
    kills: int = 0
    between: tuple[float, float] = (0.05, 0.9)  # seconds of work before it is killed
    daemons: int = 1
    inject: str = ""
    lives_injected: int = 10**6
    cycle: int = 10**6  # see process.Daemon
    attach: bool = False
    environment: dict[str, str] = field(default_factory=dict)  # of the daemon
    nemesis: Callable[[World], Awaitable[None]] | None = None  # does its worst in place of the kills
    seed: int = 0
    deadline: float = 60.0  # seconds for the queue to drain after the last kill
    rules: Sequence[Rule] = ()
    chaos: float = 0.0
    terms: Terms | None = None
    config: str = ""  # more TOML
    over: str = ""  # TOML that wins, in a file of its own
    settle: str = "500ms"
    enough: asyncio.Event = field(default_factory=asyncio.Event)  # set: nothing more is dropped
    connections: int = 1  # the daemon may have, see verdict.judge
    window: int = 1  # bodies that each of them may have on their way

    @property
    def spool(self) -> Path:
        """The daemon's spool."""
        return self.directory / "spool"

    async def run(self) -> Verdict:
        """Do all of it."""
        chance = random.Random(self.seed)
        self._prepare()
        terms = self.terms or Terms(patience=1.0, drip=0.05)
        terms.window = self.window
        recorder = Recorder(
            self.directory, rules=self.rules, chaos=self.chaos, seed=self.seed, terms=terms, sync=self.inject == ""
        )
        async with recorder:
            config = self.directory / "mailrelayd.toml"
            if self.over:
                (self.directory / "conf.d").mkdir()
                (self.directory / "conf.d" / "over.toml").write_text(self.over)
            write_config(config, self.spool, recorder.port, settle=self.settle, window=self.window, more=self.config)
            places = {"{config}": str(config), "{spool}": str(self.spool), "{port}": str(recorder.port)}
            command = [_fill(word, places) for word in self.command]
            daemons = [
                Daemon(
                    command,
                    self.directory,
                    inject=self.inject,
                    lives_injected=self.lives_injected,
                    cycle=self.cycle,
                    attach=self.attach,
                    environment=dict(self.environment),
                )
                for _ in range(self.daemons)
            ]
            for daemon in daemons:
                await daemon.start()
            dropping = asyncio.create_task(self._drop(chance, places))
            try:
                await (self.nemesis or self._kill)(
                    World(self.directory, self.spool, recorder, daemons, chance, dropping)
                )
                await dropping
                await drained(self.spool, time.monotonic() + self.deadline)
            finally:
                dropping.cancel()
                stopped = [await daemon.stop() for daemon in daemons]
        verdict = judge(self.directory, self.spool, connections=self.connections * self.window)
        verdict.stuck = stopped.count(False)
        return verdict

    async def _kill(self, world: World) -> None:
        """The usual nemesis: SIGKILL at random, while it works; one in four may come before that.

        Of several daemons only one becomes ready, so these are not waited for.
        """
        before = 0
        for _ in range(self.kills):
            daemon = world.chance.choice(world.daemons)
            if self.way in CLIENTS or (len(world.daemons) == 1 and world.chance.random() < 0.75):
                await daemon.ready(before + 1)
            await asyncio.sleep(world.chance.uniform(*self.between))
            if self.way in CLIENTS:
                await arrival(self.spool, time.monotonic() + 1)
            await daemon.kill()
            before = daemon.times_ready()
            await daemon.start()

    def _prepare(self) -> None:
        for folder in ("pickup/tmp", "pickup/new", "queue", "failed"):
            (self.spool / folder).mkdir(parents=True, exist_ok=True)

    async def _drop(self, chance: random.Random, places: dict[str, str]) -> None:
        dropper: Dropper | Caller = Dropper(self.spool, self.directory, self.way, self.pause)
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
                if self.enough.is_set():
                    return
                tasks.create_task(hand_in(message))
                await asyncio.sleep(pause)

    def _messages(self, chance: random.Random) -> Iterator[tuple[Message, float]]:
        """What is dropped, and the seconds until the next one."""
        spread = self.kills * (START + sum(self.between) / 2) / max(1, self.messages)
        pace = self.pace if self.pace is not None else spread
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
