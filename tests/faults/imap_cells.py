"""Every stage of an IMAP conversation x every fault, all at once: one account of one daemon for each cell.

    python -m tests.faults.imap_cells --directory DIR [--cells search:rst,move:after] [--times 2] [--nth 2]

Each account's mailbox holds two answers and mail of others when the daemon meets it; a third answer comes when the
fault has struck, and a fourth once these are gone: the poll behind a fault must be as good as any. Judged by what the
servers hold, the archive and the documents; `inbound_verdict` has the words.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import pwd
import random
import ssl
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults import imap_server
from tests.faults.imap_server import Plan, Server
from tests.faults.inbound import SECRET, Tested, compose_reply, copy_for, others_mail, request
from tests.faults.inbound_verdict import Given, Reply, Stored, Verdict, archived, judge
from tests.faults.journal import read_evidence
from tests.faults.memory import largest
from tests.faults.server import Recorder
from tests.servers import certificates as certificate_files
from tests.servers.certificates import Certificates
from tests.servers.daemon import account
from tests.servers.process import short_directory, wait_until

Cell = tuple[str, str]
ANSWERS = 4  # of one cell
PATIENCE = 8.0  # seconds until the third answer comes at the earliest, where no fault has struck
HEAP, HEAP_OF_ONE = 160_000, 2_000  # KiB that the daemon may hold, and as much more for each account
LARGE = 300_000  # octets: more than one FETCH
_ROOT = Path(__file__).parents[2]
_KILLED = -9

# Where a server says OK and does nothing, or can remove no single mail, an answer stays, and that is said.
MAY_STAY = {("capability", "nocaps"), ("store", "lie"), ("expunge", "lie")}

_CONFIG = """\
[node]
name = "witness"
[spool]
directory = "{spool}"
settle = "100ms"
[state]
directory = "{state}"
[outbound.test]
host = "127.0.0.1"
port = {smtp}
security = "none"
from_address = "relay@dest.test"
[inbound_defaults]
adopt = "all"
poll_interval = "1s"
connect_timeout = "3s"
command_timeout = "3s"
[approvals]
reply_address = "approvals@dest.test"
secret = "text:{secret}"
sender_check = "authentication-results"
authserv_id = ["mx.dest.test"]
[[decisions]]
name = "folder"
match = "PO-*"
producers = ["{producer}"]
approvers = ["*@dest.test"]
[log]
format = "json"
"""
_ACCOUNT = """\
[inbound.{name}]
host = "localhost"
port = {port}
security = "{security}"
allow_plaintext = {plain}
user = "{name}"
password = "text:a password"
after = "{after}"
"""
_TLS = """\
[inbound.{name}.tls]
ca_file = "{ca}"
"""


def cells() -> list[Cell]:
    """All of them."""
    return [(stage, fault) for stage, faults in imap_server.CELLS.items() for fault in faults]


@dataclass
class Account:
    """A cell at work."""

    cell: Cell
    server: Server
    replies: list[Reply] = field(default_factory=list)
    others: list[Stored] = field(default_factory=list)
    filed: int = 0
    finished: float = 0.0  # seconds after the start

    @property
    def name(self) -> str:
        """Its NAME in [inbound.NAME], and its user."""
        return "-".join(self.cell)

    def file(self, count: int) -> None:
        """So many more of the answers arrive."""
        for reply in self.replies[self.filed : self.filed + count]:
            self.server.box.file(reply.data)
        self.filed += count

    def left(self) -> list[bytes]:
        """The answers that have come and are not gone, nor allowed to stay."""
        filed = {reply.data for reply in self.replies[: self.filed]}
        return [letter.data for letter in self.server.box.letters if letter.data in filed]

    def stored(self) -> list[Stored]:
        """What lies in the mailbox, without what may: for the judge."""
        may = {self.server.sacrifice}
        if self.cell in MAY_STAY:
            may |= {reply.data for reply in self.replies}
        return [Stored(mail.data, frozenset(mail.flags)) for mail in self.server.box.letters if mail.data not in may]

    def step(self, seconds: float, decided: set[bytes]) -> bool:
        """File what comes next; whether all is over. `decided`: the mails in the archive."""
        if self.finished:
            return True
        struck = self.server.plan.struck >= self.server.plan.times
        filed = {reply.data for reply in self.replies[: self.filed]}
        done = filed <= decided and (not self.left() or self.cell in MAY_STAY)
        if self.filed == 2 and (struck or (done and seconds > PATIENCE)):  # the next may meet the fault
            self.file(1)
            return False
        if done and self.filed == ANSWERS - 1 and struck:
            self.file(1)
        elif done and self.filed == ANSWERS:
            self.finished = seconds
        return bool(self.finished)


@dataclass
class Campaign:
    """One run. `directory` must be new or empty, and its path readable for everybody."""

    directory: Path
    cells: Sequence[Cell]
    nth: int = 1  # the fault strikes from this time on that its stage is reached
    times: int = 1
    seed: int = 0
    deadline: float = 90.0  # seconds for all of them; whoever is not through by then hangs
    bug: str = ""  # of inbound_seeded
    accounts: list[Account] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)  # what the slowest took
    memory: int = 0  # KiB that the daemon held at its largest, all its accounts together

    async def run(self) -> Verdict:
        """Do all of it."""
        chance = random.Random(self.seed)
        with ExitStack() as ending:
            certificates = certificate_files.make(ending.enter_context(short_directory("mr-tls")))
            for name in ("spool", "state", "run"):
                (self.directory / name).mkdir()
                account().own(self.directory / name)
            async with Recorder(self.directory / "smtp", raw=True, sync=False) as smtp:
                try:
                    for cell in self.cells:
                        self.accounts.append(await self._account(cell, certificates))
                    return await self._daemon(smtp, certificates, chance)
                finally:
                    await asyncio.gather(*(one.server.stop() for one in self.accounts))

    async def _account(self, cell: Cell, certificates: Certificates) -> Account:
        context = None
        if cell[0] == "starttls":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificates.good.certificate, certificates.good.key)
        server = Server(Plan(*cell, nth=self.nth, times=self.times), starttls=context)
        await server.start()
        return Account(cell, server)

    def _config(self, smtp: int, ca: Path, accounts: Sequence[Account]) -> str:
        producer = pwd.getpwuid(os.getuid()).pw_name
        places = {"spool": self.directory / "spool", "state": self.directory / "state"}
        text = _CONFIG.format(**places, smtp=smtp, secret=SECRET, producer=producer)
        for one in accounts:
            stage = one.cell[0]
            text += _ACCOUNT.format(
                name=one.name,
                port=one.server.port,
                security="starttls" if stage == "starttls" else "none",
                plain="false" if stage == "starttls" else "true",
                after="move:Done" if stage == "move" else "delete",
            )
            text += _TLS.format(name=one.name, ca=ca) if stage == "starttls" else ""
        return text

    async def _daemon(self, smtp: Recorder, certificates: Certificates, chance: random.Random) -> Verdict:
        quiet = await self._account(("idle", "no"), certificates)  # while requests go out, nobody else reads
        quiet.server.plan.times = 0
        environment = {"PYTHONPATH": f"{_ROOT}:{_ROOT / 'src'}"}
        daemon = Tested(self.directory / "run", self._config(smtp.port, certificates.ca, [quiet]), environment)
        if self.bug:
            daemon.start_with = ("-m", "tests.faults.inbound_seeded", self.bug)
        crashes = stuck = 0
        try:
            daemon.start()
            await asyncio.to_thread(daemon.wait_ready)
            await self._ask(smtp, chance)
            stuck += await asyncio.to_thread(daemon.stop, 30) == _KILLED
            await quiet.server.stop()
            daemon.configure(self._config(smtp.port, certificates.ca, self.accounts))
            daemon.start()
            await asyncio.to_thread(daemon.wait_ready)
            await self._watch()
            crashes += not daemon.running
            self.memory = largest(daemon.pid)
            stuck += await asyncio.to_thread(daemon.stop, 30) == _KILLED
        finally:
            if daemon.running:
                daemon.kill9()
        return self._judge(crashes, stuck)

    async def _ask(self, smtp: Recorder, chance: random.Random) -> None:
        """Have a request sent for every account, and prepare what will be answered."""
        pickup = self.directory / "spool" / "pickup"
        for number in range(len(self.accounts)):
            request(pickup, number, [f"a{turn}.{number}@dest.test" for turn in range(ANSWERS)])
        wanted = ANSWERS * len(self.accounts)
        await asyncio.to_thread(wait_until, lambda: smtp.accepted >= wanted, 60, lambda: f"{smtp.accepted} of {wanted}")
        arrived = read_evidence(smtp.directory / "journal.jsonl").messages
        for message in sorted(arrived, key=lambda message: message.id):
            data = (smtp.directory / "raw" / f"{message.id}.eml").read_bytes()
            approver = message.recipients[0]
            request_id, copy = copy_for(approver, data)
            one = self.accounts[int(request_id.removeprefix("PO-"))]
            size = LARGE if one.cell[0] == "literal" and len(one.replies) == 1 else 0
            one.replies.append(compose_reply(request_id, copy, chance, size))
            if not one.others:
                one.others = others_mail(copy, chance, 6)
        for one in self.accounts:
            for number, other in enumerate(one.others):
                one.server.box.file(other.data, other.flags)
                if number in (1, 3):
                    one.file(1)
            if one.cell[1] == "expunged":
                one.server.sacrifice = b"From: a@dest.test\r\nSubject: soon gone\r\n\r\nlunch\r\n"
                one.server.box.file(one.server.sacrifice)

    async def _watch(self) -> None:
        began = time.monotonic()
        mails: dict[Path, bytes] = {}
        while (seconds := time.monotonic() - began) < self.deadline:
            decided = set(await asyncio.to_thread(lambda: list(_decided(self.directory / "state" / "archive", mails))))
            over = [one.step(seconds, decided) for one in self.accounts]
            if all(over):
                return
            await asyncio.sleep(0.2)

    def _judge(self, crashes: int, stuck: int) -> Verdict:
        new = self.directory / "state" / "decisions" / "folder" / "new"
        got = {"folder": {path.stem: [Given(path.read_bytes())] for path in new.glob("*.json")}}
        there = [mail for one in self.accounts for mail in one.stored()]
        replies = [reply for one in self.accounts for reply in one.replies[: one.filed]]
        others = [other for one in self.accounts for other in one.others]
        verdict = judge(replies, others, archived(self.directory / "state" / "archive"), got, there)
        verdict.crashes, verdict.stuck = crashes, stuck
        for one in self.accounts:
            plan, server = one.server.plan, one.server
            if plan.struck < plan.times:
                verdict.against("stuck", f"{one.name} struck {plan.struck} of {plan.times} times: nothing is proven")
            if not one.finished:
                verdict.against(
                    "stuck", f"{one.name} was not through in time: {one.filed} filed, {len(one.left())} left"
                )
            if server.plain_expunges:
                verdict.against("touched", f"{one.name}: EXPUNGE without UIDs")
            if server.in_clear:
                verdict.against("touched", f"{one.name}: {server.in_clear} in clear")
            moved = [letter.data for letter in server.box.moved]
            if any(moved.count(other.data) for other in one.others):
                verdict.against("touched", f"{one.name}: mail of others was moved")
        slowest = sorted(self.accounts, key=lambda one: one.finished)[-5:]
        if self.memory > HEAP + HEAP_OF_ONE * len(self.accounts):
            verdict.against("stuck", f"the daemon held {self.memory} KiB")
        self.slow = [f"{one.name} {one.finished:.1f} s, {one.server.connections} connections" for one in slowest]
        return verdict


def _decided(archive: Path, known: dict[Path, bytes]) -> Iterator[bytes]:
    """The mails of all decisions that are committed."""
    for document in archive.glob("in/*/*/decision.json"):
        folder = document.parent
        if folder not in known:
            with suppress(FileNotFoundError):
                known[folder] = (folder / "message.eml").read_bytes()
    yield from known.values()


def main(argv: Sequence[str]) -> int:
    """A campaign from the command line; 0 if the verdict is clean."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.imap_cells")
    parser.add_argument("--directory", type=Path, help="new or empty; default: a temporary one, removed afterwards")
    parser.add_argument("--cells", default="", help="STAGE:FAULT,...; default: all")
    parser.add_argument("--nth", type=int, default=1, help="strike from this time on that the stage is reached")
    parser.add_argument("--times", type=int, default=1, help="strike so often in a row")
    parser.add_argument("--bug", default="", help="run the daemon with this bug, see inbound_seeded")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--deadline", type=float, default=Campaign.deadline)
    options = parser.parse_args(argv)
    chosen = [(stage, fault) for stage, _, fault in (cell.partition(":") for cell in options.cells.split(",") if cell)]
    with ExitStack() as ending:
        directory: Path = options.directory or ending.enter_context(short_directory("witness"))
        directory.mkdir(parents=True, exist_ok=True)
        campaign = Campaign(
            directory,
            chosen or cells(),
            options.nth,
            options.times,
            options.seed,
            options.deadline,
            options.bug,
        )
        began = time.monotonic()
        verdict = asyncio.run(campaign.run())
        print(f"{directory}: {len(campaign.cells)} cells, {time.monotonic() - began:.1f} s\n{verdict}")
        print(f"slowest     {'; '.join(campaign.slow)}\nlargest     {campaign.memory / 1024:.0f} MiB")
    return 0 if verdict.ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
