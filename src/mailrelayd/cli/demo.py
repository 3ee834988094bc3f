"""`mailrelayd demo`: the daemon as a process of its own, an SMTP server that misbehaves on cue, and real files.

What is told is taken from the daemon's log, and at the end compared with what the server got and with what stands
in the folders: a demonstration that shows something untrue fails.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import re
import shlex
import shutil
import signal
import socket
import ssl
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WIDTH = 100
PROBE = 2  # seconds; 30 by default
PATIENCE = 30.0  # seconds for anything that should happen by itself
PAUSE = 1.2  # seconds between two steps, where somebody reads along
REFUSED, GREYLISTED = "nobody@example.com", "late@example.com"
FATES = ("451 rcpt", "550 rcpt", "451 data", "554 data", "drop")  # what --chaos does to a transaction

CONFIGURATION = """\
[node]
name = "demo"
[spool]
directory = {spool}
min_free = 0
[state]
directory = {state}
[retry]
probe = "{probe}s"
message = ["{probe}s"]
[outbound.demo]
host = "127.0.0.1"
port = {port}
security = "starttls"
user = "demo"
password = {password}
[outbound.demo.tls]
ca_file = {ca_file}
[log]
format = "text"
"""

LINE = re.compile(r"\S+T(?P<time>[\d:.]+)Z (?P<severity>\w+) (?P<event>\S+)(?P<pairs>.*)")
PAIR = re.compile(r' (\w+)=("(?:[^"\\]|\\.)*"|\S*)')
NOT_SHOWN = {"from", "relay", "delay", "delays", "dsn", "status", "uid", "size", "rule", "sha256", "spool", "account"}


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Add the command. It makes a configuration of its own, so it does not know --config."""
    parser = commands.add_parser(
        "demo",
        help="watch mail go through, without any server, root or network",
        description="Runs the daemon with a configuration of its own in a temporary folder, against an SMTP server "
        "of its own, and tells what happens to the files dropped. Exit status 70 if anything told was not true.",
    )
    parser.add_argument("--once", action="store_true", help="end after the story instead of waiting for your files")
    parser.add_argument(
        "--chaos",
        metavar="P",
        type=_probability,
        default=0.0,
        help="the server refuses, puts off or drops each transaction with this probability, from 0 to 1",
    )
    parser.set_defaults(run=run)


def _probability(text: str) -> float:
    with suppress(ValueError):
        if 0 <= (value := float(text)) <= 1:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is no probability: write a number from 0 to 1, such as 0.3")


def run(arguments: argparse.Namespace) -> int:
    """EX_OK if all of it was true, else EX_SOFTWARE; 128 + the signal where one came first."""
    from mailrelayd.cli import failure

    try:
        import aiosmtpd.smtp
        import trustme
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        hint = f"{sys.executable} -m pip install 'aiosmtpd~=1.4.6' 'trustme~=1.2'"
        return failure(os.EX_UNAVAILABLE, f"the demonstration needs the package {package}", hint)
    del aiosmtpd, trustme
    terminal = sys.stdout.isatty()
    once = arguments.once or not terminal or not sys.stdin.isatty() or bool(os.environ.get("CI"))
    page = Page(colour=terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb")
    try:
        folder = Path(tempfile.mkdtemp(prefix="mailrelayd-demo-")).resolve()
    except OSError as error:
        return failure(os.EX_CANTCREAT, str(error), "set TMPDIR to a folder you may write to")
    demo = Demo(folder, page, chaos=arguments.chaos, pause=PAUSE if terminal else 0.0)
    keep = True
    try:
        asyncio.run(demo.run(once=once))
        keep = False
    except UntrueError as error:
        page.say()
        log = "".join(f"\n  {line}" for line in demo.daemon.lines[-20:])
        return failure(
            os.EX_SOFTWARE, f"{error}; the end of its log:{log}" if log else str(error), f"look into {folder}"
        )
    except asyncio.CancelledError:
        keep = False
        return 128 + demo.signalled
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    return os.EX_OK


class UntrueError(Exception):
    """Something did not happen, or not as it was told."""


class Page:
    """What the reader sees: sentences, and behind a bar what programs say."""

    def __init__(self, *, colour: bool) -> None:
        self._dim, self._bold, self._plain = ("\x1b[2m", "\x1b[1m", "\x1b[0m") if colour else ("", "", "")
        self._steps = 0
        if hasattr(sys.stdout, "reconfigure"):  # a terminal that knows ASCII only, a file name that is no text
            sys.stdout.reconfigure(errors="backslashreplace")

    def say(self, text: str = "", *, indent: int = 0) -> None:
        """A paragraph."""
        for line in _wrapped(text, " " * indent, " " * indent):
            self._print(line)

    def step(self, text: str) -> None:
        """The next thing that is done."""
        self._steps += 1
        self._print()
        for line in _wrapped(text, f"{self._steps}. ", "   "):
            self._print(f"{self._bold}{line}{self._plain}")

    def result(self, text: str) -> None:
        """What came of it."""
        for line in _wrapped(text, "=> ", "   "):
            self._print(line)

    def title(self, text: str) -> None:
        """What the next lines are about."""
        self._print(f"\n{self._bold}{text}{self._plain}")

    def row(self, text: str, *, hanging: int) -> None:
        """A line of a table, continued below its last column."""
        for line in _wrapped(text, "   ", " " * (hanging + 3)):
            self._print(line)

    def verbatim(self, text: str) -> None:
        """A line to copy: never broken."""
        self._print(f"   {text}")

    def quote(self, text: str) -> None:
        """What a program wrote."""
        for line in _wrapped(text, "   | ", "   |     "):
            self._print(f"{self._dim}{line}{self._plain}")

    def _print(self, line: str = "") -> None:
        try:
            print(line, flush=True)
        except BrokenPipeError:  # `mailrelayd demo | head`: nobody looks any more, but the daemon must be ended
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _wrapped(text: str, first: str, following: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=following,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [first.rstrip()]


# -- the server ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Arrival:
    """One message as the server got it."""

    at: float  # time.monotonic()
    connection: int
    recipients: tuple[str, ...]
    content: bytes

    @property
    def queue_id(self) -> str:
        """From the Received field that the daemon added."""
        found = re.match(rb"Received: by demo \(mailrelayd\) with local id ([2-7a-z]+)", self.content)
        return found[1].decode() if found else ""


class Server:
    """The smarthost: takes mail over STARTTLS and with a login, refuses and puts off on cue, goes away, comes back."""

    def __init__(self, folder: Path, chaos: float, arrived: Callable[[Arrival], None]) -> None:
        import trustme

        self.arrivals: list[Arrival] = []
        self._arrived = arrived
        self._chaos = chaos
        self._fate = ""
        self._put_off: set[bytes] = set()
        self._connections: list[Any] = []
        self._listener: asyncio.Server | None = None
        self.password = "only-for-the-demonstration"  # noqa: S105 - of a server that lives for seconds
        self.ca_file = folder / "ca.pem"
        authority = trustme.CA(organization_name="mailrelayd demo")
        authority.cert_pem.write_to_path(self.ca_file)
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(self._tls)
        # Keeps the port while the server is away, and from being the daemon's own end of a connection to itself.
        self._port_holder = socket.socket()
        self._port_holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._port_holder.bind(("127.0.0.1", 0))
        self.port: int = self._port_holder.getsockname()[1]

    async def come(self) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._connection, "127.0.0.1", self.port, reuse_port=True)

    def go(self) -> None:
        """Stop listening, and cut every connection; the sockets are closed from the loop, a moment later."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for connection in self._connections:
            if connection.transport is not None:
                connection.transport.abort()

    def close(self) -> None:
        """Go for good."""
        self.go()
        self._port_holder.close()

    def _connection(self) -> Any:
        from aiosmtpd.smtp import SMTP

        connection = SMTP(
            self,
            hostname="demo.example.com",
            ident="ready",
            enable_SMTPUTF8=True,
            tls_context=self._tls,
            require_starttls=True,
            auth_required=True,
            authenticator=self._authenticate,
            loop=asyncio.get_running_loop(),
        )
        self._connections.append(connection)
        return connection

    def _authenticate(self, _server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> Any:
        from aiosmtpd.smtp import AuthResult

        return AuthResult(success=data.login == b"demo" and data.password == self.password.encode())

    # The names below are aiosmtpd's.

    async def handle_MAIL(self, _server: Any, _session: Any, envelope: Any, address: str, options: list[str]) -> str:  # noqa: N802
        """Decide, under chaos, what is to become of this transaction."""
        self._fate = random.choice(FATES) if random.random() < self._chaos else ""  # noqa: S311 - no secret
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 OK"

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _options: list[str]) -> str:  # noqa: N802
        """Refuse one mailbox, put one off the first time."""
        if address == REFUSED:
            return "550 5.1.1 No such mailbox here"
        sender = str(envelope.mail_from).encode()
        if address == GREYLISTED and sender not in self._put_off:
            self._put_off.add(sender)
            return "450 4.7.1 Greylisted, come back later"
        if self._fate == "451 rcpt":
            return "451 4.3.0 Chaos: try again later"
        if self._fate == "550 rcpt":
            return "550 5.2.1 Chaos: mailbox disabled"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        """Keep what arrived."""
        if self._fate == "451 data":
            return "451 4.3.0 Chaos: try again later"
        if self._fate == "554 data":
            return "554 5.6.0 Chaos: content refused"
        if self._fate == "drop":
            server.transport.abort()
            return "421 4.3.2 Chaos"
        connection = self._connections.index(server)
        arrival = Arrival(time.monotonic(), connection, tuple(envelope.rcpt_tos), bytes(envelope.original_content))
        self.arrivals.append(arrival)
        self._arrived(arrival)
        return "250 2.0.0 OK"


# -- the daemon ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the daemon's log."""

    at: float  # time.monotonic() when it was read
    name: str
    severity: str
    pairs: Mapping[str, str]


class Daemon:
    """`mailrelayd run` as a child, and the other commands with its configuration."""

    def __init__(self, folder: Path, page: Page) -> None:
        self.lines: list[str] = []
        self.events: list[Event] = []
        self._folder = folder
        self._page = page
        self._news = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        # Nothing of this shell may configure it, and its messages go nowhere but here.
        others = ("MAILRELAYD__", "NOTIFY_SOCKET", "WATCHDOG_", "JOURNAL_STREAM", "CREDENTIALS_DIRECTORY")
        self._environment = {k: v for k, v in os.environ.items() if not k.upper().startswith(others)}

    @property
    def command(self) -> tuple[str, ...]:
        """`mailrelayd` with its configuration, whatever stands in PATH."""
        return sys.executable, "-m", "mailrelayd", "--config", str(self._folder / "mailrelayd.toml")

    async def start(self) -> None:
        """Start it, and read its log from now on."""
        self._process = await asyncio.create_subprocess_exec(
            *self.command,
            "run",
            cwd=self._folder,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 20,
            start_new_session=True,  # Ctrl-C is ours: the daemon is ended in its turn
        )
        self._reader = asyncio.create_task(self._read(self._process.stderr))

    async def end(self) -> int:
        """SIGTERM; its exit status."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._process.terminate()
        async with asyncio.timeout(PATIENCE):
            status = await self._process.wait()
        if self._reader is not None:  # the end of its log
            await asyncio.wait([self._reader], timeout=PATIENCE)
        return status

    async def close(self) -> None:
        """Whatever happened, leave nothing running."""
        if self._process is not None:
            if self._process.returncode is None:
                with suppress(TimeoutError):
                    await self.end()
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        if self._reader is not None:
            await asyncio.wait([self._reader], timeout=1)
            self._reader.cancel()

    async def run(self, *arguments: str) -> None:
        """Run another command, and show what it prints."""
        self._page.quote(f"$ mailrelayd {' '.join(arguments)}")
        process = await asyncio.create_subprocess_exec(
            *self.command,
            *arguments,
            cwd=self._folder,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        for line in output.decode("utf-8", "backslashreplace").splitlines():
            self._page.quote(line)
        if process.returncode != os.EX_OK:
            raise UntrueError(f"mailrelayd {' '.join(arguments)} ended with status {process.returncode}")

    async def _read(self, stream: asyncio.StreamReader | None) -> None:
        assert stream is not None
        with (self._folder / "daemon.log").open("wb") as copy:
            async for data in stream:
                copy.write(data)
                self._line(data.decode("utf-8", "backslashreplace").rstrip("\n"))
                self._news.set()
        self._news.set()

    def _line(self, line: str) -> None:
        self.lines.append(line)
        found = LINE.fullmatch(line)
        if found is None:
            self._page.quote(line)
            return
        pairs = {key: _unquoted(value) for key, value in PAIR.findall(found["pairs"])}
        self.events.append(Event(time.monotonic(), found["event"], found["severity"], pairs))
        shown = "".join(
            f" {key}={value}"
            for key, value in PAIR.findall(found["pairs"])
            if key not in NOT_SHOWN and (key, value) != ("attempt", "1")
        )
        warning = "" if found["severity"] in ("info", "notice") else f"{found['severity']} "
        self._page.quote(f"{found['time'][:8]} {warning}{found['event']}{shown}")

    def wake(self) -> None:
        """Let `until` look again."""
        self._news.set()

    async def until(self, holds: Callable[[], bool], what: str, *, patience: float | None = PATIENCE) -> None:
        """Wait for something that the log will tell. Raises UntrueError where it does not."""
        try:
            async with asyncio.timeout(patience):
                while not holds():
                    if self._reader is None or self._reader.done():
                        raise UntrueError(f"the daemon ended before {what}")
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise UntrueError(f"not within {patience:.0f} s: {what}") from None

    def found(self, name: str, since: float = 0.0) -> list[Event]:
        """The events of this name, and not older than that."""
        return [event for event in self.events if event.name == name and event.at >= since]


def _unquoted(value: str) -> str:
    return re.sub(r'\\(["\\])', r"\1", value[1:-1]) if value.startswith('"') else value


# -- the files -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Mail:
    """One file that was dropped, and what is to become of it without chaos."""

    name: str
    content: bytes
    expected: Mapping[str, str]  # recipient -> sent, failed
    at: float = 0.0  # time.monotonic() of the rename
    queue_id: str = ""
    outcomes: dict[str, Event] = field(default_factory=dict)  # recipient -> the latest; "" for the whole file

    @property
    def ended(self) -> bool:
        """Whether everybody's outcome is final."""
        return all(
            (event := self.outcomes.get(recipient)) is not None and event.name != "message.deferred"
            for recipient in self.expected
        )

    def status(self, recipient: str) -> str:
        """sent, failed, or queued."""
        event = self.outcomes.get(recipient)
        return "queued" if event is None or event.name == "message.deferred" else event.name.removeprefix("message.")

    def equals(self, arrived: bytes) -> bool:
        """Whether these are the file's bytes, apart from what the daemon promises to add and to take away."""
        header, _, body = self.content.replace(b"\n", b"\r\n").partition(b"\r\n\r\n")
        got, _, rest = arrived.partition(b"\r\n\r\n")
        ours = re.fullmatch(rb"Received: [^\r]+\r\n\t[^\r]+\r\n(.*)", got, re.DOTALL)
        kept = b"\r\n".join(line for line in header.split(b"\r\n") if not line.startswith(b"Bcc:"))
        added = b"" if b"\nMessage-ID: " in header else f"\r\nMessage-ID: <{self.queue_id}@demo>".encode()
        if ours is None or rest != body or not ours[1].startswith(kept + added):
            return False
        date = ours[1].removeprefix(kept + added)
        return date == b"" if b"\nDate: " in header else re.fullmatch(rb"\r\nDate: [^\r]+", date) is not None


HELLO = """\
From: shop@example.com
To: ops@example.com
Subject: Hello
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 8bit

Grüße! A relay must not change a single byte, so here are lines that tempt it:
.
..
From the first column on,   with blanks at the end  \x20
"""
ORDER = f"""\
From: shop@example.com
To: boss@example.com, {REFUSED}
Bcc: {GREYLISTED}
Subject: Order 42
Message-ID: <order-42@shop.example.com>
Date: Sat, 21 Nov 2026 09:00:00 +0000

Please confirm order 42.
"""


def hello() -> Mail:
    """One recipient; without Message-ID and Date, and with a body that is easy to damage."""
    return Mail("hello.eml", HELLO.encode(), {"ops@example.com": "sent"})


def order() -> Mail:
    """Three recipients with three different fates."""
    expected = {"boss@example.com": "sent", REFUSED: "failed", GREYLISTED: "sent"}
    return Mail("order.eml", ORDER.encode(), expected)


def alarm(number: int) -> Mail:
    """One of several whose order matters."""
    text = f"From: shop@example.com\nTo: night@example.com\nSubject: Alarm {number}\n\nHelp!\n"
    return Mail(f"alarm-{number}.eml", text.encode(), {"night@example.com": "sent"})


# -- the story -------------------------------------------------------------------------------------------------


class Demo:
    """Drops the files, tells what happens, and checks it."""

    def __init__(self, folder: Path, page: Page, *, chaos: float, pause: float) -> None:
        self.daemon = Daemon(folder, page)
        self.signalled = 0
        self._folder = folder
        self._pickup = folder / "spool" / "pickup"
        self._page = page
        self._chaos = chaos
        self._pause = pause
        self._server = Server(folder, chaos, self._arrived)
        self._mails: list[Mail] = []
        self._facts: list[tuple[bool, str]] = []
        self._visitors = False  # files that are not ours may arrive
        self._over = False

    async def run(self, *, once: bool) -> None:
        """Tell the story. Raises UntrueError; CancelledError where a signal came first."""
        task = asyncio.current_task()
        assert task is not None

        def stop(number: int) -> None:
            if self.signalled:  # once is enough: the daemon is being ended
                return
            self.signalled = number
            if self._visitors and number == signal.SIGINT:
                self._over = True
                self.daemon.wake()
            else:
                task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, stop, number)
        _silence()
        try:
            await self._server.come()
            await self._begin()
            await self._one_file()
            await self._three_recipients()
            await self._an_empty_file()
            await self._outage()
            if not once:
                await self._visit()
            await self._shutdown()
            await self._summary()
        finally:
            await self.daemon.close()
            self._server.close()
            await asyncio.sleep(0)  # the connections' ends are called from the loop

    async def _begin(self) -> None:
        folder, page = self._folder, self._page
        configuration = CONFIGURATION.format(
            spool=_quoted(folder / "spool"),
            state=_quoted(folder / "state"),
            probe=PROBE,
            port=self._server.port,
            password=_quoted(f"file:{folder / 'password'}"),
            ca_file=_quoted(self._server.ca_file),
        )
        (folder / "password").touch(mode=0o600)
        (folder / "password").write_text(self._server.password + "\n", encoding="ascii")
        (folder / "mailrelayd.toml").write_text(configuration, encoding="utf-8")
        page.say(
            "The program you see at work is mailrelayd itself, with real files; only the SMTP server, on 127.0.0.1 "
            "with STARTTLS and a login, belongs to the demonstration. Lines behind a bar are the daemon's log as it "
            "comes (without some keys) and what its commands print. Everything is in this folder, which is removed at "
            "the end:"
        )
        page.verbatim(str(folder))
        if self._chaos:
            page.say(f"Chaos: with probability {self._chaos:g} the server refuses, puts off or drops a transaction.")
        page.step(
            f"The daemon starts with this configuration. {PROBE} s stand in for the usual 30 s between two tries."
        )
        for line in configuration.splitlines():
            page.quote(line)
        await self.daemon.start()
        await self.daemon.until(lambda: bool(self.daemon.found("daemon.ready")), "it said daemon.ready")
        page.result("It is ready. Whatever is renamed into spool/pickup/ is mail from now on.")

    async def _one_file(self) -> None:
        await self._next(
            "A program writes hello.eml into pickup/tmp/ and renames it into pickup/. That is all it has to do: from "
            "here on the mail is the daemon's."
        )
        mail = hello()
        self._drop(mail)
        await self._end_of([mail], mail.name)
        self._page.result(f"It was {self._told(mail, 'ops@example.com')}.")

    async def _three_recipients(self) -> None:
        await self._next(
            "order.eml has three recipients: the server takes it for boss, has no mailbox nobody, and asks to come "
            "back later for late (greylisting)."
        )
        mail = order()
        self._drop(mail)
        await self._end_of([mail], mail.name)
        for recipient in mail.expected:
            self._page.result(f"{recipient}: {self._told(mail, recipient)}.")

    async def _an_empty_file(self) -> None:
        await self._next("empty.eml holds nothing: that cannot be sent, and must not get lost without a word either.")
        mail = Mail("empty.eml", b"", {"": "failed"})
        self._drop(mail)
        await self._end_of([mail], mail.name)
        self._page.result(f"It is kept in spool/failed/, with the reason: {_reason(mail.outcomes[''])}.")

    async def _outage(self) -> None:
        await self._next("The server goes away, and five more files are dropped.")
        self._server.go()
        await asyncio.sleep(0.1)  # the daemon hears of it before there is something to send
        mails = [alarm(number) for number in range(1, 6)]
        began = time.monotonic()
        for mail in mails:
            self._drop(mail)
        await self.daemon.until(lambda: self._know(mails), "five files were taken over")

        def down() -> list[Event]:
            return self.daemon.found("route.down", began)

        await self.daemon.until(lambda: len(down()) >= 2, "the second probe")
        self._page.result(
            f"They wait. However many there are, one connection is tried every {PROBE} s (by default 30 s), and none "
            "of them fails by it:"
        )
        await self.daemon.run("status")
        await self.daemon.run("queue", "list")
        await self.daemon.until(lambda: len(down()) >= 3, "the third probe")
        failed = [mail for mail in mails if any(mail.status(recipient) == "failed" for recipient in mail.expected)]
        probes, seconds = len(down()), time.monotonic() - began
        self._fact(not failed, "no mail failed because the server was away")
        self._fact(probes <= 2 + seconds / PROBE, f"{probes} connections were tried in {seconds:.0f} s of outage")
        await self._next("The server comes back.")
        back = time.monotonic()
        await self._server.come()
        await self._end_of(mails, "the five mails")
        await self.daemon.until(lambda: bool(self.daemon.found("route.up", back)), "route.up")
        arrived = [a for a in self._server.arrivals if a.at >= back]
        if self._chaos:
            self._page.result("What waited was sent as far as chaos allowed.")
            return
        ids = [arrival.queue_id for arrival in arrived]
        self._fact(ids == [mail.queue_id for mail in mails], "what waited was sent in the order it was dropped")
        self._fact(len({a.connection for a in arrived}) == 1, "all of it went over one connection")
        took = arrived[-1].at - arrived[0].at
        self._page.result(
            f"The next probe came {arrived[0].at - back:.1f} s later, and all five were sent in {took * 1000:.0f} ms, "
            "over one connection, in the order they were dropped."
        )

    async def _visit(self) -> None:
        await self._next("Your turn: the daemon stays up until you press Ctrl-C. In another terminal:")
        self._page.verbatim(f"cd {shlex.quote(str(self._pickup))}")
        self._page.verbatim(
            r"printf 'From: me@example.com\nTo: you@example.com\nSubject: hi\n\nhello\n' >tmp/hi && mv tmp/hi hi.eml"
        )
        self._page.verbatim(shlex.join([*self.daemon.command, "status"]))
        self._page.say(f"{REFUSED} is refused, {GREYLISTED} is put off.", indent=3)
        self._visitors = True
        await self.daemon.until(lambda: self._over, "Ctrl-C", patience=None)
        self._visitors = False
        self.signalled = 0
        self._page.say()

    async def _shutdown(self) -> None:
        await self._next("SIGTERM: the daemon finishes what is under way, and ends.")
        began = time.monotonic()
        try:
            status = await self.daemon.end()
        except TimeoutError:
            raise UntrueError(f"the daemon did not end within {PATIENCE:.0f} s after SIGTERM") from None
        self._page.result(f"It ended with status {status} after {_span(time.monotonic() - began)}.")
        self._fact(status == 0, "the daemon ended with status 0")

    # -- telling -----------------------------------------------------------------------------------------------

    async def _next(self, text: str) -> None:
        if self._pause:
            await asyncio.sleep(self._pause)
        self._page.step(text)

    def _drop(self, mail: Mail) -> None:
        """As a producer does it: write beside, fsync, rename."""
        descriptor = os.open(self._pickup / "tmp" / mail.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o640)
            file.write(mail.content)
            file.flush()
            os.fsync(descriptor)
        self._mails.append(mail)
        (self._pickup / "tmp" / mail.name).rename(self._pickup / mail.name)
        mail.at = time.monotonic()

    def _know(self, mails: Iterable[Mail]) -> bool:
        """Take over what the log has told so far; whether each of these mails has a queue id."""
        by_name = {mail.name: mail for mail in self._mails}
        by_id = {mail.queue_id: mail for mail in self._mails if mail.queue_id}
        for event in self.daemon.events:
            queue_id = event.pairs.get("queue_id", "")
            mail = by_name.get(event.pairs.get("file", "")) or by_id.get(queue_id)
            if mail is None or not event.name.startswith("message."):
                continue
            if not mail.queue_id:
                mail.queue_id, by_id[queue_id] = queue_id, mail
            elif mail.queue_id != queue_id:
                continue  # a visitor's file of the same name
            if event.name != "message.queued":
                mail.outcomes[event.pairs.get("to", "<>")[1:-1]] = event
        return all(mail.queue_id for mail in mails)

    async def _end_of(self, mails: list[Mail], what: str) -> None:
        """Wait until these have been sent or given up. Chaos may take longer than anybody watches."""
        try:
            await self.daemon.until(
                lambda: self._know(mails) and all(mail.ended for mail in mails), f"{what} was sent or given up"
            )
        except UntrueError:
            if not self._chaos or not self._know(mails):
                raise

    def _told(self, mail: Mail, recipient: str) -> str:
        """What became of it, in words."""
        event = mail.outcomes.get(recipient)
        if event is None:
            return "still queued"
        tries = int(event.pairs.get("attempt", "0"))
        word, after = mail.status(recipient), _span(event.at - mail.at)
        if word == "sent":
            return f"sent {after} after the rename" + (f", at try {tries}" if tries > 1 else "")
        if word == "queued":
            return f"still queued after {tries} {'try' if tries == 1 else 'tries'}: {_reason(event)}"
        return f"{word}: {_reason(event)}"

    def _arrived(self, arrival: Arrival) -> None:
        if self._visitors:
            subject = re.search(rb"^Subject: *(.*?)\r$", arrival.content, re.MULTILINE)
            what = f"subject {subject[1].decode('utf-8', 'replace')!a}" if subject else "without subject"
            self._page.result(
                f"At the server: {len(arrival.content)} bytes for {', '.join(arrival.recipients)}, {what}."
            )

    # -- checking ----------------------------------------------------------------------------------------------

    def _fact(self, true: bool, text: str) -> None:
        self._facts.append((bool(true), text))

    async def _summary(self) -> None:
        self._know(self._mails)
        page, folder = self._page, self._folder
        page.title("What was dropped, and what became of it")
        for mail in self._mails:
            name = mail.name
            for recipient in mail.expected:
                page.row(f"{name:13} {recipient or '-':19} {self._told(mail, recipient)}", hanging=34)
                name = ""
        page.title("What is kept of order.eml: spool/failed/ID.json, in short")
        for line in self._record():
            page.quote(line)
        page.title("What the commands say, with the daemon stopped")
        await self.daemon.run("queue", "list")
        await self.daemon.run("queue", "list", "--failed")
        page.title(f"Where it was: {folder}")
        for path, what in (
            ("mailrelayd.toml", "the configuration above"),
            ("daemon.log", f"the whole log, {len(self.daemon.lines)} lines"),
            ("spool/pickup/", f"where files are dropped: {_count(folder / 'spool/pickup', '*.eml')}"),
            ("spool/queue/", f"what waits: {_count(folder / 'spool/queue', '*.eml')}"),
            ("spool/failed/", f"what was given up, as ID.eml and ID.json: {_count(folder / 'spool/failed', '*.eml')}"),
        ):
            page.row(f"{path:18}{what}", hanging=18)
        self._check()
        page.title("Checked")
        for true, text in self._facts:
            page.row(f"{'ok' if true else 'UNTRUE':7}{text}", hanging=7)
        if not all(true for true, _ in self._facts):
            raise UntrueError("not all of this was true")

    def _record(self) -> list[str]:
        """The part of order.eml's record that a person would look for."""
        for mail in self._mails:
            path = self._folder / "spool" / "failed" / f"{mail.queue_id}.json"
            if mail.name == "order.eml" and path.exists():
                record = json.loads(path.read_bytes())
                failed = {to: outcome for to, outcome in record["outcomes"].items() if outcome["status"] == "failed"}
                for to, outcome in failed.items():
                    failed[to] = {key: outcome[key] for key in ("status", "reason", "attempts", "response")}
                shown = {"queue_id": record["queue_id"], "reason": record["reason"], "outcomes": failed}
                return [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in shown.items()]
        return ["nothing: it has not been given up"]

    def _check(self) -> None:
        """Compare what was told with what the server got and with what stands in the folders."""
        pairs = [(mail, recipient) for mail in self._mails for recipient in mail.expected]
        told = [mail.status(recipient) for mail, recipient in pairs]
        got = Counter(
            (arrival.queue_id, recipient) for arrival in self._server.arrivals for recipient in arrival.recipients
        )
        sent = {(mail.queue_id, recipient) for mail, recipient in pairs if mail.status(recipient) == "sent"}
        ours = {mail.queue_id: mail for mail in self._mails}
        theirs = [arrival for arrival in self._server.arrivals if arrival.queue_id in ours]
        spool = self._folder / "spool"
        queued = {path.stem for path in (spool / "queue").glob("*.eml")} & ours.keys()
        failed = {path.stem for path in (spool / "failed").glob("*.eml")} & ours.keys()
        counts = ", ".join(f"{told.count(word)} {word}" for word in ("sent", "failed", "queued"))
        self._fact(
            {pair: count for pair, count in got.items() if pair[0] in ours} == dict.fromkeys(sent, 1),
            f"{len(self._mails)} files, {len(pairs)} outcomes: {counts}; what was sent arrived exactly once",
        )
        self._fact(
            all(ours[arrival.queue_id].equals(arrival.content) for arrival in theirs),
            "what arrived is what was dropped, byte for byte, apart from Received, Message-ID and Date added and Bcc "
            "removed",
        )
        self._fact(
            queued == {mail.queue_id for mail in self._mails if not mail.ended}
            and failed == {mail.queue_id for mail, to in pairs if mail.ended and mail.status(to) == "failed"}
            and not any((self._pickup / mail.name).exists() for mail in self._mails),
            "spool/queue/ holds exactly what still waits, spool/failed/ what was given up, spool/pickup/ nothing of it",
        )
        if not self._chaos:
            self._fact(all(mail.status(to) == mail.expected[to] for mail, to in pairs), "everything ended as announced")
        serious = [event.name for event in self.daemon.events if event.severity == "error"]
        self._fact(not serious, "the daemon met nothing unexpected")


def _reason(event: Event) -> str:
    return event.pairs.get("response") or event.pairs.get("reason", "")


def _span(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _count(folder: Path, pattern: str) -> str:
    count = sum(1 for _ in folder.glob(pattern))
    return "empty" if not count else f"{count} message{'s' if count > 1 else ''}"


def _quoted(value: object) -> str:
    """A TOML string; JSON's escapes are TOML's."""
    return json.dumps(str(value), ensure_ascii=False)


def _silence() -> None:
    """What aiosmtpd and asyncio have to say about connections that we cut on purpose."""
    for name in ("mail", "asyncio"):
        logging.getLogger(name).addHandler(logging.NullHandler())
        logging.getLogger(name).propagate = False
