"""Good mail, entries of every hostile kind, and an unfriendly user, all in one pickup folder.

    python -m tests.faults.hostile --messages 100 --seconds 10 --directory DIR       (as root)

The daemon is an ordinary user, the good producer a second, the unfriendly one a third; all are in the folder's group.
Every good message has to arrive once and whole, nothing else but what its owner wrote, and no entry may be followed,
changed or waited for. The machine's own protections of links (fs.protected_*) are part of the set-up.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import random
import socket
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.hostile_user import besieged
from tests.faults.journal import Dropped, Recorded, read_evidence
from tests.faults.memory import largest
from tests.faults.producers import ROOT, compose
from tests.faults.verdict import difference
from tests.servers.daemon import Daemon, account
from tests.servers.process import kill, short_directory
from tests.servers.recording import Recording

GOOD_USER, BAD_USER = "daemon", "games"
SECRET = b"the-secret-that-must-not-leave"
MOST = 1 << 20  # [spool] max_message_size
HEAP = 160_000  # KiB that the daemon may have held at its largest
_OPEN = {stat.S_IFREG: "file", stat.S_IFLNK: "link", stat.S_IFIFO: "fifo", stat.S_IFDIR: "folder"}
_BESIDE = ("thief", ("thief@r.test",))
_CONFIG = """\
[node]
name = "witness"
[spool]
directory = "{directory}/spool"
settle = "300ms"
max_message_size = {most}
[state]
directory = "{directory}/state"
[retry]
probe = "200ms"
message = ["200ms", "500ms"]
[outbound.test]
host = "127.0.0.1"
port = {port}
security = "none"
from_address = "relay@drop.test"
"""


def text(test_id: str, more: str = "") -> bytes:
    """A message that is fine as such."""
    return f"From: u@drop.test\nTo: own@r.test\nX-Test-Id: {test_id}\n{more}Subject: x\n\nhello\n".encode()


@dataclass
class Report:
    """What came of it. `problems` has a sentence for each thing that speaks against."""

    good: int = 0
    delivered: int = 0
    repeated: int = 0
    theirs: int = 0  # mails of the unfriendly user that arrived, as it wrote them
    entries: int = 0
    untouched: int = 0
    refused: int = 0  # named in the log, or kept in failed/ with a reason
    held: Counter[str] = field(default_factory=Counter)  # what stands in queue/ in the end, by its kind
    memory: int = 0  # KiB
    slowest: float = 0.0  # seconds from a good file to its arrival, where nobody stood in its way
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        rows = [
            ("good", f"dropped {self.good}  delivered {self.delivered}  repeated {self.repeated}"),
            ("entries", f"hostile {self.entries}  as they were {self.untouched}  refused with a reason {self.refused}"),
            ("theirs", f"arrived {self.theirs}"),
            ("in queue/", ", ".join(f"{count} x {kind}" for kind, count in self.held.items()) or "nothing"),
            ("daemon", f"{self.memory / 1024:.0f} MiB at most, {self.slowest:.2f} s for the slowest good message"),
            ("verdict", "NOT OK" if self.problems else "ok"),
        ]
        return "\n".join([*(f"{name:<12}{value}" for name, value in rows), *(f"  - {one}" for one in self.problems)])


@dataclass
class Entry:
    """A hostile thing in the folder. `stays`: it must be there in the end, as it was."""

    name: bytes
    stays: bool
    before: os.stat_result


@dataclass
class Campaign:
    """One run, as root. `directory` must be new or empty, and its path readable for everybody."""

    directory: Path
    messages: int = 100
    seconds: float = 10.0
    seed: int = 0
    deadline: float = 60.0
    report: Report = field(default_factory=Report)

    def run(self) -> Report:
        """Do all of it."""
        self._good, self._bad = pwd.getpwnam(GOOD_USER).pw_uid, pwd.getpwnam(BAD_USER).pw_uid
        self._group = account().gid
        self._chance = random.Random(self.seed)
        self._prepare()
        with ExitStack() as ending:
            smtp = Recording(self.directory / "smtp", "--no-sync")
            ending.callback(smtp.stop)
            config = _CONFIG.format(directory=self.directory, port=smtp.port, most=MOST)
            daemon = Daemon(account().own(self._folder("run")), config, {"PYTHONPATH": f"{ROOT / 'src'}"})
            ending.callback(lambda: daemon.running and daemon.kill9())
            entries = self._lay()
            daemon.start().wait_ready()
            user = self._unfriendly()
            ending.callback(kill, user)
            dropped = self._drop()
            said = user.communicate(timeout=self.seconds + 60)[0].decode()
            if user.returncode:
                self.report.problems.append(f"the unfriendly user ended with {user.returncode}")
            self._lift_siege()
            self._wait(smtp, dropped)
            self.report.memory = largest(daemon.pid)
            if self.report.memory > HEAP:
                self.report.problems.append(f"the daemon held {self.report.memory} KiB")
            if not daemon.running:
                self.report.problems.append("the daemon has ended")
            elif (code := daemon.stop(30)) != 0:
                self.report.problems.append(f"the daemon ended with {code}")
            self._judge(smtp, dropped, entries, said, daemon.log())
        return self.report

    # -- the table is laid ---------------------------------------------------------------------------------------

    def _folder(self, name: str, mode: int = 0o755) -> Path:
        path = self.directory / name
        path.mkdir(mode=mode)
        path.chmod(mode)
        return path

    def _prepare(self) -> None:
        for name in ("spool", "state"):
            account().own(self._folder(name))
        for name in ("spool/pickup", "spool/pickup/tmp", "spool/pickup/new"):
            account().own(self._folder(name)).chmod(0o3730)
        self.pickup = self.directory / "spool" / "pickup"
        self._secret = self._folder("secrets") / "message.eml"
        self._secret.write_bytes(text("secret", f"X-Secret: {SECRET.decode()}\n") + SECRET)
        account().own(self._secret).chmod(0o600)  # the daemon could read it

    def _put(self, name: str | bytes, data: bytes, uid: int, *, mode: int = 0o640, folder: str = "") -> Path:
        """A file of somebody, under its name in one step."""
        place = os.fsencode(self.pickup / folder)
        hidden, final = os.path.join(place, b".put"), os.path.join(place, os.fsencode(name))
        descriptor = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.write(descriptor, data)
        os.fchown(descriptor, uid, self._group)
        os.fchmod(descriptor, mode)
        os.close(descriptor)
        os.rename(hidden, final)
        return Path(os.fsdecode(final))

    def _lay(self) -> list[Entry]:
        """One of each kind. What is not one of our own files must be there in the end."""
        bad, pickup = self._bad, self.pickup
        (self.directory / "folder").mkdir()
        os.mkfifo(pickup / "fifo.eml", 0o660)
        (pickup / "to-secret.eml").symlink_to(self._secret)
        (pickup / "to-shadow.eml").symlink_to("/etc/shadow")
        (pickup / "to-zero.eml").symlink_to("/dev/zero")
        (pickup / "to-nothing.eml").symlink_to("nowhere")
        (pickup / "to-itself.eml").symlink_to("to-itself.eml")
        (pickup / "to-folder.eml").symlink_to(self.directory / "folder")
        os.mknod(pickup / "zero.eml", stat.S_IFCHR | 0o666, os.makedev(1, 5))
        os.mknod(pickup / "block.eml", stat.S_IFBLK | 0o666, os.makedev(7, 0))
        with socket.socket(socket.AF_UNIX) as unix, suppress(OSError):
            here = os.getcwd()
            os.chdir(pickup)
            unix.bind("socket.eml")
            os.chdir(here)
        (pickup / "folder.eml").mkdir()
        (pickup / "folder.eml" / "inner.eml").write_bytes(text("inner"))
        (pickup / "new" / "folder").mkdir()
        os.link(self._secret, pickup / "second-name.eml")
        first = self._put(".first", text("linked"), bad)
        for link in (".second", "third-name.eml"):
            os.link(first, pickup / link)
        with (self._put("sparse.eml", text("sparse"), bad)).open("r+b") as sparse:
            sparse.truncate(10 << 30)
        self._put("large.eml", text("large") + b"x" * MOST, bad)
        self._put("private.eml", text("private"), bad, mode=0o600)
        self._put("not-mine.eml", text("not-mine"), bad)
        self._put("not-mine.env.json", b'{"mail_from": "a@b.test", "rcpt_to": ["thief@r.test"]}', self._good)
        self._put("linked-sidecar.eml", text("linked-sidecar"), bad)
        (pickup / "linked-sidecar.env.json").symlink_to(self._secret)
        self._put("fifo-sidecar.eml", text("fifo-sidecar"), bad)
        os.mkfifo(pickup / "fifo-sidecar.env.json", 0o660)
        stay = [path for path in (*pickup.iterdir(), pickup / "new" / "folder") if path.name not in ("tmp", "new")]
        entries = [Entry(os.fsencode(path), True, path.lstat()) for path in stay]
        gone = [
            self._put("empty.eml", b"", bad),
            self._put("junk.eml", bytes(range(256)) * 40, bad),
            self._put("nobody.eml", b"From: u@drop.test\nSubject: x\n\nhello\n", bad),
            self._put("asks.eml", text("asks", "X-Approval-Request: PO-1\n"), bad),
            self._put("two-from.eml", text("two-from", "From: v@drop.test\n"), bad),
            self._put("bad-sidecar.eml", text("bad-sidecar"), bad),
            self._put("large-sidecar.eml", text("large-sidecar"), bad),
        ]
        self._put("bad-sidecar.env.json", b'{"mail_from": ', bad)
        self._put("large-sidecar.env.json", b'{"rcpt_to": ["' + b"x" * (6 << 20) + b'"]}', bad)
        entries += [Entry(os.fsencode(path), False, path.lstat()) for path in gone]
        # These are mail like any other, whatever they are called.
        names: Sequence[str | bytes] = ("new\nline.eml", "\x1b[31mred.eml", b"\xff\xfe.eml", "x" * 250 + ".EML")
        for number, odd in enumerate(names):
            self._put(odd, text(f"named-{number}"), bad)
        for hidden in (".hidden.eml", "~backup.eml", "half.eml.part", "alone.env.json"):
            self._put(hidden, text("never"), bad)
        self._put("left.eml", text("never"), bad, folder="tmp")
        self.report.entries = len(entries) + len(names) + 4
        return entries

    def _unfriendly(self) -> subprocess.Popen[bytes]:
        script = Path(__file__).with_name("hostile_user.py").read_text()  # our own folders may be closed to it
        command = [sys.executable, "-I", "-c", script, str(self.pickup), str(self._secret), str(self.seconds)]
        return subprocess.Popen(
            [*command, str(self.seed)],
            cwd="/",
            stdout=subprocess.PIPE,
            user=self._bad,
            group=self._group,
            extra_groups=[],
        )

    def _drop(self) -> list[Dropped]:
        """The good mail, in all three ways."""
        dropped = []
        self._at: dict[str, float] = {}
        for number in range(self.messages):
            name = f"good-{number:03}"
            recipients = (f"r{number}@good.test",)
            message = compose(name, recipients, self._chance)
            dropped.append(message.as_dropped())
            way = "top" if besieged(number) else ("top", "sidecar", "maildir")[number % 3]
            if way == "sidecar":
                envelope = {"mail_from": "beside@drop.test", "rcpt_to": list(recipients)}
                self._put(f"{name}.env.json", json.dumps(envelope).encode(), self._good)
            folder = "new" if way == "maildir" else ""
            self._put(f"{name}.eml", message.data, self._good, folder=folder)
            self._at[name] = time.time()
            time.sleep(self.seconds * 0.9 / self.messages)
        return dropped

    def _lift_siege(self) -> None:
        """Remove the sidecars that stand beside others' mail, and touch what waited."""
        for path in self.pickup.glob("good-*.env.json"):
            if path.lstat().st_uid == self._bad:
                path.unlink()
                with suppress(FileNotFoundError):  # closed after writing: it is looked at before the next sweep
                    (self.pickup / path.name.replace(".env.json", ".eml")).open("r+b").close()

    def _wait(self, smtp: Recording, dropped: Sequence[Dropped]) -> None:
        """Until everything good has arrived."""
        began = time.monotonic()
        wanted = {message.test_id for message in dropped}
        while time.monotonic() - began < self.deadline:
            if not wanted - {message.test_id for message in read_evidence(smtp.directory / "journal.jsonl").messages}:
                break
            time.sleep(0.2)

    # -- the judgement -------------------------------------------------------------------------------------------

    def _judge(
        self, smtp: Recording, dropped: Sequence[Dropped], entries: Sequence[Entry], said: str, log: str
    ) -> None:
        report = self.report
        lines = [line.partition(" ")[::2] for line in said.splitlines() if line]
        report.problems += [f"the unfriendly user could {rest}" for word, rest in lines if word == "could"]
        states = {rest for word, rest in lines if word == "state"}
        self._judge_mail(read_evidence(smtp.directory / "journal.jsonl").messages, dropped, states)
        for path in (smtp.directory / "raw").iterdir():
            if SECRET in path.read_bytes():
                report.problems.append(f"the secret was sent: {path}")
        if SECRET not in self._secret.read_bytes() or stat.S_IMODE(self._secret.stat().st_mode) != 0o600:
            report.problems.append("the secret's file was changed")
        told = self._judge_log(log)
        for entry in entries:
            self._judge_entry(entry, told)
        for path in (self.directory / "spool" / "queue").iterdir():
            report.held[_OPEN.get(stat.S_IFMT(path.lstat().st_mode), "something else")] += 1

    def _judge_mail(self, arrived: Sequence[Recorded], dropped: Sequence[Dropped], states: set[str]) -> None:
        report = self.report
        by_id = {message.test_id: message for message in dropped}
        times = Counter(message.test_id for message in arrived)
        report.good = len(dropped)
        report.delivered = sum(times[test_id] > 0 for test_id in by_id)
        report.repeated = sum(max(times[test_id] - 1, 0) for test_id in by_id)
        report.problems += [f"{test_id} did not arrive" for test_id in by_id if not times[test_id]]
        report.problems += [f"{test_id} arrived {times[test_id]} times" for test_id in by_id if times[test_id] > 1]
        for message in arrived:
            if original := by_id.get(message.test_id):
                if not besieged(int(message.test_id[-3:])):
                    report.slowest = max(report.slowest, message.at - self._at[message.test_id])
                if reason := difference(original, message):
                    report.problems.append(f"{message.test_id}: {reason}")
                if message.recipients != original.recipients:
                    report.problems.append(f"{message.test_id} went to {message.recipients}")
            elif message.test_id.startswith("own-") or message.test_id == "thief":
                report.theirs += 1
                # Where nothing stood yet, its own sidecar stands beside its own file: then it says who receives it.
                own = message.recipients == ("own@r.test",) or (message.test_id, message.recipients) == _BESIDE
                if message.body_sha256 not in states or not own:
                    report.problems.append(f"{message.test_id} arrived as nobody wrote it")
            elif not message.test_id.startswith("named-"):
                report.problems.append(f"{message.test_id!r} arrived for {message.recipients}")
        report.problems += [
            f"named-{number} arrived {times[f'named-{number}']} times"
            for number in range(4)
            if times[f"named-{number}"] != 1
        ]

    def _judge_log(self, log: str) -> str:
        """Every line is an event, whatever files are called; what was said about files."""
        told = []
        for line in log.splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                self.report.problems.append(f"a line that is none of the log's: {line[:80]!r}")
                continue
            if not line.isprintable():
                self.report.problems.append(f"not printable: {line[:80]!r}")
            if event["event"] in ("pickup.refused", "message.failed"):
                told.append(str(event.get("file")))
            elif event["event"] == "daemon.bug":
                self.report.problems.append(f"a bug: {line[:200]}")
        return "\n".join(told)

    def _judge_entry(self, entry: Entry, told: str) -> None:
        name = os.path.basename(entry.name).decode()
        if not name.startswith(".") and not name.endswith(".env.json") and name != "folder":
            if name in told:
                self.report.refused += 1
            elif name != "second-name.eml":  # a second name may last for a minute
                self.report.problems.append(f"nothing was said about {name}")
        try:
            now = os.lstat(entry.name)
        except FileNotFoundError:
            if entry.stays:
                self.report.problems.append(f"{name} is gone")
            return
        figures = ("st_ino", "st_mode", "st_uid", "st_gid", "st_nlink", "st_size", "st_mtime_ns", "st_ctime_ns")
        if entry.stays and all(getattr(now, one) == getattr(entry.before, one) for one in figures):
            self.report.untouched += 1
        else:
            self.report.problems.append(f"{name} was {'changed' if entry.stays else 'left'}")


def main(argv: Sequence[str]) -> int:
    """A campaign from the command line; 0 if the verdict is clean."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.hostile")
    parser.add_argument("--directory", type=Path, help="new or empty; default: a temporary one, removed afterwards")
    parser.add_argument("--messages", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=10.0, help="that the unfriendly user is at work")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    if os.getuid() != 0:
        parser.error("three users are needed: run it as root")
    with ExitStack() as ending:
        directory: Path = options.directory or ending.enter_context(short_directory("witness"))
        directory.mkdir(parents=True, exist_ok=True)
        report = Campaign(directory, options.messages, options.seconds, options.seed).run()
        print(f"{directory}\n{report}")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
