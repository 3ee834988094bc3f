"""sendmail(1) as programs call it: their flags, their exit statuses, and never a mail lost without a word."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from mailrelayd.cli.commandline import parser
from mailrelayd.cli.sendmail import Flags, UsageError, parse, run
from mailrelayd.cli.smtponstdin import Conversation
from mailrelayd.outbound.envelope import Sidecar, parse_sidecar
from mailrelayd.outbound.submission import Options
from mailrelayd.outbound.values import Envelope
from tests.queue_contract import entries, until
from tests.servers.daemon import account
from tests.servers.process import short_directory
from tests.test_intake import TERMS, Bench, serving

CRON = b"From: root (Cron Daemon)\nTo: root\nSubject: Cron <root@web1> test\nContent-Type: text/plain\n\noutput\n"
PRODUCERS_GROUP = 54321
HEAVY = ("pydantic", "asyncio", "structlog", "email", "argparse", "http", "ssl", "logging")
Sending = Callable[..., "subprocess.CompletedProcess[bytes]"]


# -- flags ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-FCronDaemon -i -B8BITMIME -oem root", Flags(full_name="CronDaemon", ignore_dots=True, recipients=("root",))),
        ("-FAnacron -odi root", Flags(full_name="Anacron", recipients=("root",))),
        ("-i at@x", Flags(ignore_dots=True, recipients=("at@x",))),
        ("-t", Flags(read_header=True)),
        ("-oi -t", Flags(ignore_dots=True, read_header=True)),
        ("-t -i", Flags(ignore_dots=True, read_header=True)),
        ("-ti", Flags(ignore_dots=True, read_header=True)),
        ("-it -fwww@x", Flags(ignore_dots=True, read_header=True, sender="www@x")),
        ("-f s@x d@x", Flags(sender="s@x", recipients=("d@x",))),
        ("-i -f s@x a@x b@x", Flags(ignore_dots=True, sender="s@x", recipients=("a@x", "b@x"))),
        ("-r s@x -v -m a@x", Flags(sender="s@x", recipients=("a@x",))),
        ("-froot -- -odd@x", Flags(sender="root", recipients=("-odd@x",))),
        ("-oi -oem -oMr x a@x", Flags(ignore_dots=True, recipients=("x", "a@x"))),
        ("-o i a@x", Flags(ignore_dots=True, recipients=("a@x",))),
        ("-N never -R hdrs -V id a@x", Flags(recipients=("a@x",))),
        ("-Nsuccess,failure -Rfull -Vid a@x", Flags(recipients=("a@x",))),
        ("-B 7BIT -C /etc/x -h 5 -L tag -O a=b -X /tmp/log -p proto -A c a@x", Flags(recipients=("a@x",))),
        ("-Am -Ac -G -U -n -d9.9 -em a@x", Flags(recipients=("a@x",))),
        ("-Zunknown -Y --read-envelope-from a@x", Flags(recipients=("a@x",))),
        ("a@x -t b@x", Flags(read_header=True, recipients=("a@x", "b@x"))),
        ("-bm a@x", Flags(recipients=("a@x",))),
        ("-bs", Flags(mode="s")),
        ("-bs -oi", Flags(mode="s", ignore_dots=True)),
        ("-bp -v", Flags(mode="p")),
        ("-bi", Flags(mode="i")),
        ("-I", Flags(mode="i")),
        ("-q", Flags(mode="q")),
        ("-q30m", Flags(mode="q")),
        ("-qf", Flags(mode="q")),
        ("-bd -q30m", Flags(mode="d")),
        ("", Flags()),
    ],
)
def test_the_flags_of_real_callers_are_understood(line: str, expected: Flags) -> None:
    """Glued or apart, several in a word, unknown ones without a word; cron, mailx, PHP, git, logwatch, ..."""
    assert parse(line.split()) == expected


def test_the_null_sender_and_names_with_blanks_arrive() -> None:
    """As an empty argument."""
    assert parse(["-f", "", "a@x"]) == Flags(sender="", recipients=("a@x",))
    assert parse(["-f<>", "a@x"]) == Flags(sender="<>", recipients=("a@x",))
    assert parse(["-F", "The Boss", "a@x"]) == Flags(full_name="The Boss", recipients=("a@x",))


def test_a_flag_without_its_value_is_refused() -> None:
    """A recipient must not be guessed to be one, nor the other way round."""
    with pytest.raises(UsageError, match="-f needs a value"):
        parse(["a@x", "-f"])


# -- as a program --------------------------------------------------------------------------------------------------


@dataclass
class Site:
    """A configuration, and a way to call sendmail with it."""

    directory: Path
    more: str = ""

    @property
    def configuration(self) -> Path:
        return self.directory / "mailrelayd.toml"

    @property
    def new(self) -> Path:
        return self.directory / "spool" / "pickup" / "new"

    def write(self) -> Site:
        text = f'[spool]\ndirectory = "{self.directory}/spool"\n[state]\ndirectory = "{self.directory}/state"\n'
        self.configuration.write_text(text + self.more)
        return self

    def make_pickup(self, group: int = -1) -> Site:
        for path in (self.new.parent, self.new, self.new.parent / "tmp"):
            path.mkdir(parents=True)
            if group >= 0:
                os.chown(path, -1, group)
            path.chmod(0o3730 if group >= 0 else 0o755)
        return self

    def command(self, *arguments: str, program: str = "sendmail") -> list[str]:
        return [sys.executable, "-m", "mailrelayd", "--config", str(self.configuration), program, *arguments]

    def call(self, *arguments: str, message: bytes = CRON, **options: Any) -> subprocess.CompletedProcess[bytes]:
        """Run it to its end."""
        return subprocess.run(
            self.command(*arguments), check=False, input=message, capture_output=True, timeout=30, cwd="/", **options
        )

    def dropped(self) -> tuple[bytes, Sidecar]:
        """The one message in the pickup folder, and what its sidecar says."""
        (sidecar,) = self.new.glob("*.env.json")
        (message,) = set(self.new.iterdir()) - {sidecar}
        assert sidecar.name == f"{message.name}.env.json"
        found = parse_sidecar(sidecar.read_bytes())
        assert isinstance(found, Sidecar)
        assert not list((self.new.parent / "tmp").iterdir())
        return message.read_bytes(), found


@pytest.fixture
def site() -> Iterator[Site]:
    """A site without a daemon and without folders."""
    with short_directory("mr-sendmail") as directory:
        yield Site(directory, '[submit]\ndefault_domain = "corp.test"\nlocal_recipient = "admin@example.com"\n').write()


async def sent(bench: Bench, *arguments: str, message: bytes = CRON) -> tuple[int, str]:
    """Call sendmail while the daemon's half runs here; its status and what it said."""
    site = Site(bench.state.parent).write()
    done = await bench.beside(lambda: site.call(*arguments, message=message))
    return done.returncode, done.stderr.decode()


async def test_crons_command_line_reaches_the_queue() -> None:
    """With its From and To made whole, and the envelope of who runs it."""
    terms = replace(TERMS, site=replace(TERMS.site, local_recipient="admin@example.com"))
    async with serving(terms) as bench:
        assert await sent(bench, "-FCronDaemon", "-i", "-B8BITMIME", "-oem", "root") == (0, "")
        (entry,) = await entries(bench.spool)
        assert entry.message.envelope.recipients == ("admin@example.com",)
        (file,) = (bench.spool_directory / "queue").glob("*.eml")
        assert file.read_bytes() == CRON.replace(b"root (Cron", b"root@corp.test (Cron").replace(
            b"To: root", b"To: root@corp.test"
        )


@pytest.mark.parametrize(
    ("arguments", "message", "kept"),
    [
        (["a@x"], b"Subject: a\n\nb\n.\nc\n", b"b\n"),
        (["a@x"], b"Subject: a\n\nb\r\n.\r\nc\r\n", b"b\r\n"),
        (["a@x"], b"Subject: a\n\nb\n.", b"b\n"),
        (["a@x"], b"Subject: a\n\nb\n..\n .\n.c\n", b"b\n..\n .\n.c\n"),
        (["-i", "a@x"], b"Subject: a\n\nb\n.\nc\n", b"b\n.\nc\n"),
        (["-oi", "a@x"], b"Subject: a\n\nb\r\n.\r\nc", b"b\r\n.\r\nc"),
    ],
)
def test_a_lone_dot_ends_the_message_unless_told_otherwise(
    site: Site, arguments: list[str], message: bytes, kept: bytes
) -> None:
    """Only a line that is nothing else; what stands behind it is read and forgotten."""
    site.make_pickup()
    assert site.call(*arguments, message=message).returncode == 0
    assert site.dropped()[0].partition(b"\n\n")[2] == kept


def test_without_a_daemon_the_message_goes_into_the_folder(site: Site) -> None:
    """As the daemon would have queued it, readable for it whatever the umask, with a key of its own."""
    site.make_pickup()
    assert site.call("-t", "-f", "", umask=0o077, message=b"To: root\nBcc: b@x\n\ntext\n").returncode == 0
    message, sidecar = site.dropped()
    assert message.startswith(b"To: root@corp.test\nBcc: b@x\nFrom: ")
    assert message.endswith(b"\n\ntext\n")
    assert sidecar.envelope == Envelope("", ("admin@example.com", "b@x"))
    assert len(sidecar.key) == 32
    assert {stat.S_IMODE(path.stat().st_mode) for path in site.new.iterdir()} == {0o640}


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become a member of a group")
def test_a_member_of_the_group_may_drop_and_nobody_else(site: Site) -> None:
    """In folders of mode 3730, which he can neither list nor open; without the group he is told what to do."""
    site.make_pickup(PRODUCERS_GROUP)
    user: dict[str, Any] = {"user": account().uid, "group": account().gid}
    refused = site.call("a@x", **user, extra_groups=[])
    assert refused.returncode == os.EX_TEMPFAIL
    assert b"Permission denied" in refused.stderr
    assert b"usermod --append --groups mailspool" in refused.stderr
    assert site.call("a@x", **user, extra_groups=[PRODUCERS_GROUP]).returncode == 0
    assert site.dropped()[1].envelope.recipients == ("a@x",)
    assert {(path.stat().st_uid, path.stat().st_gid) for path in site.new.iterdir()} == {
        (account().uid, PRODUCERS_GROUP)
    }


def test_where_neither_way_works_the_caller_keeps_it_and_is_told_why(site: Site) -> None:
    """75, both reasons, and what to do; a configuration that could not be read is said now."""
    done = site.call("a@x")
    assert done.returncode == os.EX_TEMPFAIL
    error = done.stderr.decode()
    assert f"{site.directory}/state/run/submit.sock: no daemon answers" in error
    assert f"{site.directory}/spool/pickup: No such file or directory" in error
    assert "systemctl start mailrelayd" in error
    assert "usermod --append --groups mailspool" in error
    site.configuration.write_text("[spool")
    environ = {**os.environ, "MAILRELAYD__STATE__DIRECTORY": str(site.directory)}
    environ["MAILRELAYD__SPOOL__DIRECTORY"] = str(site.directory)
    assert "mailrelayd.toml: is no configuration" in site.call("a@x", env=environ).stderr.decode()


def test_a_full_disk_leaves_nothing_behind(site: Site) -> None:
    """Neither the message nor its sidecar, in none of the folders."""
    site.make_pickup()
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); from mailrelayd.__main__ import main;"
        f"raise SystemExit(main(['--config', '{site.configuration}', 'sendmail', '-i', 'a@x']))"
    )
    command = [sys.executable, "-B", "-c", code]
    done = subprocess.run(command, check=False, input=CRON + b"x" * 5000, capture_output=True, timeout=30)
    assert done.returncode == os.EX_TEMPFAIL, done.stderr
    assert b"File too large" in done.stderr
    assert not list(site.new.iterdir())
    assert not list((site.new.parent / "tmp").iterdir())


@pytest.mark.parametrize(
    ("arguments", "message", "status", "said"),
    [
        ([], CRON, os.EX_USAGE, "no recipients"),
        (["-bd"], CRON, os.EX_USAGE, "-bd is not supported"),
        (["-bv", "a@x"], CRON, os.EX_USAGE, "-bv is not supported"),
        (["-f"], CRON, os.EX_USAGE, "-f needs a value"),
        (["a b@x"], CRON, os.EX_DATAERR, "no valid name"),
        (["-t"], b"Subject: a\n\nb\n", os.EX_DATAERR, "no recipient: neither To, Cc nor Bcc"),
        (["-t"], b"X-Approval-Request: 1\nTo: a@x\n\nb\n", os.EX_DATAERR, "sendmail opens no approval request"),
        (["a@x"], b"", os.EX_DATAERR, "the message is empty"),
        (["a@x"], b"A: \0\n\nb", os.EX_DATAERR, "NUL byte"),
        (["a@x"], b"Subject: a\n\n" + b"x" * 2000, os.EX_DATAERR, "larger than 1000 bytes"),
    ],
)
@pytest.mark.parametrize("way", ["daemon", "folder"])
async def test_what_is_wrong_has_the_exit_status_of_sendmail(
    arguments: list[str], message: bytes, status: int, said: str, way: str
) -> None:
    """The same whether the daemon says it or nobody is there to ask; nothing is handed in."""
    if way == "daemon":
        async with serving(replace(TERMS, max_message_size=1000)) as bench:
            found = await sent(bench, *arguments, message=message)
            await bench.clean()
    else:
        with short_directory("mr-sendmail") as directory:
            site = Site(directory, "").write().make_pickup()
            site.configuration.write_text(
                site.configuration.read_text().replace("[state]", "max_message_size = 1000\n[state]")
            )
            done = await asyncio.to_thread(site.call, *arguments, message=message)
            found = done.returncode, done.stderr.decode()
            assert not list(site.new.iterdir())
    assert found[0] == status, found
    assert said in found[1]
    assert found[1].startswith("error: ")


def test_its_input_is_always_read_to_the_end(site: Site) -> None:
    """Whoever writes to it never meets a closed pipe, not even when the message is refused for its size."""
    site.configuration.write_text(site.configuration.read_text().replace("[state]", "max_message_size = 1000\n[state]"))
    for arguments in (["-i", "a@x"], ["a@x"]):
        with subprocess.Popen(site.command(*arguments), stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdin is not None
            for _ in range(300):
                process.stdin.write(b"x" * 9999 + b"\n")
            process.stdin.close()
            assert process.wait(30) == os.EX_DATAERR


def test_without_standard_input_nothing_is_sent(site: Site) -> None:
    """A closed descriptor is not an empty message."""
    site.make_pickup()
    closed = ["sh", "-c", 'exec "$@" <&-', "sh", *site.command("a@x")]
    done = subprocess.run(closed, check=False, capture_output=True, timeout=30)
    assert done.returncode == os.EX_TEMPFAIL
    assert not list(site.new.iterdir())


async def test_a_client_killed_before_its_message_ended_hands_in_nothing() -> None:
    """SIGKILL while the caller still writes: half a message is none."""
    async with serving() as bench:
        site = Site(bench.state.parent).write()
        process = await asyncio.create_subprocess_exec(*site.command("a@x"), stdin=asyncio.subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(CRON * 1000)
        await process.stdin.drain()
        process.kill()
        assert await process.wait() == -signal.SIGKILL
        process.stdin.close()
        assert bench.queued() == []


def test_nothing_heavy_is_imported(site: Site) -> None:
    """It starts for every mail anew: not the configuration's libraries, not the other commands."""
    site.make_pickup()
    code = (
        "import sys; from mailrelayd.__main__ import main;"
        f"status = main(['--config', '{site.configuration}', 'sendmail', 'a@x']);"
        "print(*sys.modules); raise SystemExit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, input=CRON, capture_output=True, timeout=30)
    modules = set(done.stdout.decode().split())
    assert not modules & set(HEAVY)
    assert {name for name in modules if name.startswith("mailrelayd.cli.")} == {
        "mailrelayd.cli.handover",
        "mailrelayd.cli.sendmail",
    }


# -- by its other names --------------------------------------------------------------------------------------------


def by_name(site: Site, name: str, *arguments: str, message: bytes = CRON) -> subprocess.CompletedProcess[bytes]:
    """Called as the installed script is through a symbolic link of this name."""
    script = site.directory / "mailrelayd"
    script.write_text(
        f"#!{sys.executable}\nimport sys\nfrom mailrelayd.__main__ import main\nsys.exit(main())\n", encoding="utf-8"
    )
    link = site.directory / name
    link.symlink_to(script)
    environ = {
        "PATH": os.environ["PATH"],
        "MAILRELAYD__SPOOL__DIRECTORY": str(site.directory / "spool"),
        "MAILRELAYD__STATE__DIRECTORY": str(site.directory / "state"),
    }
    command = [sys.executable, str(link), *arguments]
    return subprocess.run(command, check=False, input=message, capture_output=True, timeout=30, env=environ)


def test_it_is_sendmail_by_that_name(site: Site) -> None:
    """/usr/sbin/sendmail may be a symbolic link to the program."""
    site.make_pickup()
    done = by_name(site, "sendmail", "-oi", "a@x")
    assert (done.returncode, done.stderr) == (0, b"")
    assert site.dropped()[1].envelope.recipients == ("a@x",)


def test_newaliases_has_nothing_to_do(site: Site) -> None:
    """There are no aliases, and packages call it all the same."""
    done = by_name(site, "newaliases")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


async def test_mailq_lists_what_waits() -> None:
    """As `mailrelayd queue` does; -q asks for a try and is content without one."""
    async with serving() as bench:
        handed = await bench.hand_over()
        site = Site(bench.state.parent).write()
        for arguments in (["-bp"], ["-bp", "-v"]):
            done = await bench.beside(lambda given=tuple(arguments): site.call(*given))
            assert done.returncode == 0, done.stderr
            assert handed.queue_id in done.stdout.decode()
        flushed = await bench.beside(lambda: site.call("-q"))
        assert (flushed.returncode, flushed.stdout, flushed.stderr) == (0, b"", b"")


@pytest.mark.parametrize(
    ("name", "flags", "expected"),
    [
        ("sendmail", ["-bp"], ["queue"]),
        ("mailq", [], ["queue"]),
        ("mailq", ["-v", "-Ac"], ["queue"]),
        ("sendmail", ["-q"], ["queue", "retry", "--all"]),
        ("sendmail", ["-q15m"], ["queue", "retry", "--all"]),
    ],
)
def test_the_queue_is_the_queue_commands_work(name: str, flags: list[str], expected: list[str]) -> None:
    """In words that it understands."""
    asked: list[list[str]] = []

    def command(words: list[str]) -> int:
        asked.append(words)
        return 0

    assert run(name, flags, Path("/etc/x.toml"), command) == 0
    assert asked == [["--config", "/etc/x.toml", *expected]]
    assert parser("queue").parse_args(asked[0]).config == Path("/etc/x.toml")


def test_it_explains_itself(site: Site) -> None:
    """--help names every flag that does something."""
    text = site.call("--help").stdout.decode()
    for flag in ("-t", "-i", "-oi", "-f", "-r", "-F", "-bs", "-bp", "-bi", "-q", "--"):
        assert f"  {flag}" in text or f", {flag}" in text
    assert site.call("--version").stdout.startswith(b"mailrelayd ")


# -- SMTP on standard input ------------------------------------------------------------------------------------------


def talk(said: bytes, *, most: int = 1000, status: int = 0) -> tuple[list[str], list[tuple[Options, bytes]]]:
    """The answers, and what was handed over."""
    taken: list[tuple[Options, bytes]] = []

    def take(options: Options, message: bytes) -> tuple[int, str]:
        taken.append((options, message))
        return (status, "ID" if status == 0 else "no\nroom")

    answers = io.BytesIO()
    assert Conversation(io.BytesIO(said), answers, take, most).run() == 0
    assert answers.getvalue().endswith(b"\r\n")
    return answers.getvalue().decode("ascii").split("\r\n")[:-1], taken


SYMFONY = (
    b"EHLO [127.0.0.1]\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nRCPT TO:<c@z>\r\nDATA\r\n"
    b"Subject: x\r\n\r\n..dot\r\ntext\r\n.\r\nQUIT\r\n"
)


def test_symfonys_dialogue_hands_in_the_message() -> None:
    """The envelope as it was said, the message without the dots of the wire."""
    answers, taken = talk(SYMFONY)
    assert [line[:4] for line in answers] == ["220 ", *["250-"] * 5, *["250 "] * 4, "354 ", "250 ", "221 "]
    assert answers[-4:] == [
        "250 2.1.5 Ok",
        "354 End with a line that is a single dot",
        "250 2.0.0 Ok: queued as ID",
        "221 2.0.0 Bye",
    ]
    assert taken == [(Options("sendmail", "<a@x>", ("<b@y>", "<c@z>")), b"Subject: x\r\n\r\n.dot\r\ntext\r\n")]


def test_what_it_offers_is_what_it_does() -> None:
    """No AUTH and no STARTTLS: it is a pipe."""
    answers, _ = talk(b"EHLO x\n")
    assert [line[4:] for line in answers[2:]] == [
        "PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "SIZE 1000"
    ]  # fmt: skip
    assert {line[:4] for line in answers[1:-1]} == {"250-"}


@pytest.mark.parametrize(
    ("commands", "expected"),
    [
        ("HELO x", "250"),
        ("NOOP", "250"),
        ("noop", "250"),
        ("VRFY root", "252"),
        ("HELP", "214"),
        ("RSET", "250"),
        ("MAIL FROM:<a@x>", "250"),
        ("MAIL FROM:<>", "250"),
        ("MAIL FROM:<root>", "250"),
        ("MAIL FROM: <a@x> BODY=8BITMIME SIZE=1000", "250"),
        ("mail from:a@x", "250"),
        ("MAIL FROM:<a@x> SIZE=1001", "552"),
        ("MAIL FROM:<a@>", "501"),
        ("MAIL FROM:<a@x, b@y>", "501"),
        ("MAIL TO:<a@x>", "501"),
        ("MAIL", "501"),
        ("MAIL FROM:<a@x>|MAIL FROM:<a@x>", "503"),
        ("RCPT TO:<a@x>", "503"),
        ("MAIL FROM:<>|RCPT TO:<root>", "250"),
        ("MAIL FROM:<>|RCPT TO:<>", "501"),
        ("MAIL FROM:<>|RCPT FROM:<a@x>", "501"),
        ("MAIL FROM:<>|RCPT TO:<a@\x01>", "501"),
        ("DATA", "503"),
        ("MAIL FROM:<>|DATA", "503"),
        ("MAIL FROM:<>|RSET|RCPT TO:<a@x>", "503"),
        ("MAIL FROM:<>|EHLO x|MAIL FROM:<a@x>", "250"),
        ("AUTH PLAIN", "500"),
        ("STARTTLS", "500"),
        ("", "500"),
        ("x" * 10_000, "500"),
        ("\xff\x00", "500"),
    ],
)
def test_commands_are_answered_as_rfc_5321_has_it(commands: str, expected: str) -> None:
    """Each with one answer, printable whatever was said, and nothing is handed in."""
    answers, taken = talk("".join(f"{one}\r\n" for one in commands.split("|")).encode("latin-1"))
    assert answers[-1][:3] == expected
    assert not taken


def test_two_messages_in_one_conversation_do_not_mix() -> None:
    """Bare line feeds do as well."""
    one = b"MAIL FROM:<a@x>\nRCPT TO:<b@y>\nDATA\nA: 1\n\nb\n.\n"
    answers, taken = talk(b"HELO x\n" + one + one.replace(b"b@y", b"c@z"))
    assert [options.recipients for options, _ in taken] == [("<b@y>",), ("<c@z>",)]
    assert answers[-1] == "250 2.0.0 Ok: queued as ID"


@pytest.mark.parametrize(
    ("status", "expected"),
    [(os.EX_DATAERR, "554 5.6.0 no room"), (os.EX_TEMPFAIL, "451 4.3.0 no room"), (os.EX_USAGE, "451 4.3.0 no room")],
)
def test_a_refused_message_is_refused_in_smtp(status: int, expected: str) -> None:
    """What can never work for good, everything else for now; on one line."""
    assert talk(SYMFONY, status=status)[0][-2] == expected


def test_a_message_that_is_too_large_is_read_and_refused() -> None:
    """The conversation goes on behind it."""
    said = SYMFONY.replace(b"text\r\n", b"text\r\n" * 1000)
    answers, taken = talk(said)
    assert answers[-2].startswith("552 5.3.4")
    assert answers[-1].startswith("221")
    assert not taken


def test_an_input_that_ends_within_a_message_hands_in_nothing() -> None:
    """Its writer was killed: half a message is none."""
    for length in range(SYMFONY.index(b"Subject"), SYMFONY.index(b"\r\n.\r\n") + 3):
        assert not talk(SYMFONY[:length])[1]


async def test_smtp_on_standard_input_reaches_the_queue() -> None:
    """The whole way, with the queue id in the answer."""
    async with serving() as bench:
        site = Site(bench.state.parent).write()
        done = await bench.beside(lambda: site.call("-bs", message=SYMFONY))
        assert done.returncode == 0, done.stderr
        await until(lambda: len(bench.queued()) == 2)
        (entry,) = await entries(bench.spool)
        assert f"250 2.0.0 Ok: queued as {entry.message.queue_id}\r\n".encode() in done.stdout
        assert entry.message.envelope == Envelope("a@x", ("b@y", "c@z"))


def test_json_is_only_used_between_ourselves(site: Site) -> None:
    """A sidecar holds whatever addresses are."""
    site.make_pickup()
    assert site.call("-f", "ü@x", 'odd"@x', '"od\\"d"@x').returncode == os.EX_DATAERR
    assert site.call("-f", "ü@x", '"od\\"d"@x').returncode == 0
    (sidecar,) = site.new.glob("*.env.json")
    assert json.loads(sidecar.read_text()) == {
        "mail_from": "ü@x",
        "rcpt_to": ['"od\\"d"@x'],
        "idempotency_key": sidecar.name.split(".")[1],
    }
