"""`mailrelayd submit`: one message in, durably, with the logs that FlexDeploy would attach."""

from __future__ import annotations

import email
import email.policy
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.message import EmailMessage

import pytest

from mailrelayd.cli.commandline import parser
from mailrelayd.cli.submit import wanted_logs
from mailrelayd.outbound.values import Envelope
from tests.queue_contract import entries
from tests.servers.process import short_directory
from tests.test_intake import Bench, serving
from tests.test_sendmail import HEAVY, Site

MAIL = b"From: deploy@example.com\nTo: ops@example.com, root\nSubject: Deployed\n\nSee the log.\n"


@pytest.fixture
def site() -> Iterator[Site]:
    """A site whose messages go into the pickup folder, and a folder for logs."""
    with short_directory("mr-submit") as directory:
        (directory / "build.log").write_bytes(b"built\n")
        (directory / "deploy.log").write_bytes(b"failed\n")
        yield Site(directory, '[submit]\ndefault_domain = "corp.test"\n').write().make_pickup()


def submit(site: Site, *arguments: str, message: bytes = MAIL) -> subprocess.CompletedProcess[bytes]:
    """Run it to its end, in the folder of the logs."""
    return subprocess.run(
        site.command(*arguments, program="submit"),
        check=False, input=message, capture_output=True, timeout=30, cwd=site.directory,
    )  # fmt: skip


def attachments(message: bytes) -> dict[str, bytes]:
    """Name and content of each."""
    parsed = email.message_from_bytes(message, policy=email.policy.default)
    assert isinstance(parsed, EmailMessage)
    return {str(part.get_filename()): part.get_payload(decode=True) for part in parsed.iter_attachments()}  # type: ignore[misc]


async def test_a_message_is_queued_by_the_daemon() -> None:
    """With the envelope that its header says; the queue id is the answer."""
    async with serving() as bench:
        found = await beside(bench)
        (entry,) = await entries(bench.spool)
        assert found.stdout.decode() == f"queued as {entry.message.queue_id}\n"
        assert entry.message.envelope == Envelope("deploy@example.com", ("ops@example.com", "root@corp.test"))
        found = await beside(bench, "--json")
        assert json.loads(found.stdout)["queue_id"] in [one.message.queue_id for one in await entries(bench.spool)]


@pytest.mark.parametrize("output", [">/dev/full", ">&-", ">&- 2>&-", ">/dev/full 2>&1"])
def test_a_message_that_was_taken_is_a_success_whoever_hears_of_it(site: Site, output: str) -> None:
    """Any other exit status would have it handed in again."""
    command = ["sh", "-c", f'exec "$@" {output}', "sh", *site.command(program="submit")]
    done = subprocess.run(command, check=False, input=MAIL, capture_output=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len([path for path in site.new.iterdir() if path.suffix != ".json"]) == 1


@pytest.mark.parametrize("output", [">/dev/full", "2>&1 >/dev/full"])
def test_what_was_asked_for_and_could_not_be_written_is_no_success(site: Site, output: str) -> None:
    """For a script the answer is what it wanted; it gets a sentence and no traceback."""
    command = ["sh", "-c", f'exec "$@" {output}', "sh", *site.command("ids", program="completion")]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, check=False, env=buffered, capture_output=True, timeout=30)
    assert (done.returncode, done.stderr or done.stdout) == (
        os.EX_IOERR,
        b"error: standard output: No space left on device\n",
    )


def test_a_closed_standard_input_is_named(site: Site) -> None:
    """There is no message, and the sentence says where."""
    command = ["sh", "-c", 'exec "$@" <&-', "sh", *site.command(program="submit")]
    done = subprocess.run(command, check=False, capture_output=True, timeout=30)
    assert done.returncode == os.EX_NOINPUT
    assert done.stderr == b"error: standard input: Bad file descriptor: nothing was handed in\n"


async def beside(bench: Bench, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Submit while the daemon's half runs here."""
    found = await bench.beside(lambda: submit(Site(bench.state.parent).write(), *arguments))
    assert found.returncode == 0, found.stderr
    return found


def test_without_a_daemon_it_goes_into_the_folder(site: Site) -> None:
    """From a file or from standard input; what was handed in is what was written."""
    (site.directory / "mail.eml").write_bytes(MAIL)
    done = submit(site, "mail.eml", message=b"")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"pickup folder" in done.stdout
    message, sidecar = site.dropped()
    assert message == MAIL.replace(b"root", b"root@corp.test")
    assert sidecar.envelope == Envelope("deploy@example.com", ("ops@example.com", "root@corp.test"))
    done = submit(site, "-", "--json")
    assert json.loads(done.stdout) == {"queue_id": None, "duplicate": False}


def test_without_a_daemon_a_request_goes_into_the_folder_as_well(site: Site) -> None:
    """Whether its owner may ask is decided when it is taken."""
    done = submit(site, message=b"From: a@x\nTo: b@y\nX-Approval-Request: PO-1\n\ny")
    assert (done.returncode, done.stderr) == (0, b"")
    message, sidecar = site.dropped()
    assert b"\nX-Approval-Request: PO-1\n" in message
    assert sidecar.envelope == Envelope("a@x", ("b@y",))


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["missing.eml"], os.EX_NOINPUT, "missing.eml: No such file or directory: nothing was handed in"),
        (["--attach-logs", "always", "--attach-log", "missing.log"], os.EX_NOINPUT, "missing.log: No such file"),
        (["--attach-logs", "always", "--attach-log", "/"], os.EX_NOINPUT, "/: Is a directory"),
        (["--attach-logs", "on-failure", "--failed-log", "build.log"], os.EX_USAGE, "has to know what became of it"),
        (["--attach-logs", "sometimes"], os.EX_USAGE, "invalid choice"),
        (["--bogus"], os.EX_USAGE, "unrecognized arguments"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_handed_in(
    site: Site, arguments: list[str], status: int, said: str
) -> None:
    """A log that cannot be read must not be missing from the mail without a word."""
    done = submit(site, *arguments)
    assert done.returncode == status
    assert said in done.stderr.decode()
    assert not list(site.new.iterdir())


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (b"", "the message is empty"),
        (b"Subject: x\n\ny", "no recipient"),
        (b"From: a@x, b@y\nTo: c@z\n\ny", "From without Sender"),
    ],
)
def test_a_message_that_can_never_be_sent_is_refused(site: Site, message: bytes, said: str) -> None:
    """65, with the reason that a dropped file would have in failed/."""
    done = submit(site, message=message)
    assert done.returncode == os.EX_DATAERR
    assert said in done.stderr.decode()
    assert not list(site.new.iterdir())


@pytest.mark.parametrize(
    ("when", "status", "expected"),
    [
        ("never", None, []),
        ("never", "failed", []),
        ("always", None, ["a", "b", "c"]),
        ("always", "completed", ["a", "b", "c"]),
        ("always", "failed", ["a", "b", "c"]),
        ("on-failure", "completed", []),
        ("on-failure", "failed", ["b", "c"]),
    ],
)
def test_which_logs_are_attached(when: str, status: str | None, expected: list[str]) -> None:
    """All of them, only those where the failure occurred, or none; each once."""
    words = ["submit", "--attach-logs", when, "--attach-log", "a", "--attach-log", "b", "--failed-log", "b"]
    words += ["--failed-log", "c", *(["--status", status] if status else [])]
    assert wanted_logs(parser("submit").parse_args(words)) == expected


def test_one_log_is_attached_under_the_instances_name(site: Site) -> None:
    """Whatever folder it is in."""
    log = str(site.directory / "build.log")
    assert submit(site, "--instance", "nightly", "--attach-logs", "always", "--attach-log", log).returncode == 0
    assert attachments(site.dropped()[0]) == {"nightly_build.log": b"built\n"}


def test_several_logs_are_one_archive(site: Site) -> None:
    """As FlexDeploy names it, with their own names inside."""
    logs = ["--attach-log", "build.log", "--attach-log", "deploy.log"]
    assert submit(site, "--instance", "nightly", "--attach-logs", "always", *logs).returncode == 0
    ((name, content),) = attachments(site.dropped()[0]).items()
    assert name == "nightly_logs.zip"
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert {one: archive.read(one) for one in archive.namelist()} == {
            "build.log": b"built\n",
            "deploy.log": b"failed\n",
        }


def test_on_failure_only_the_failed_log_is_attached(site: Site) -> None:
    """And nothing where it was completed."""
    logs = ["--attach-logs", "on-failure", "--attach-log", "build.log", "--failed-log", "deploy.log"]
    assert submit(site, "--status", "failed", *logs).returncode == 0
    assert attachments(site.dropped()[0]) == {"deploy.log": b"failed\n"}


def test_logs_that_are_not_attached_are_mentioned(site: Site) -> None:
    """never is the default: who names a log without saying when is told."""
    done = submit(site, "--attach-log", "build.log")
    assert done.returncode == 0
    assert b"--attach-logs is never" in done.stderr
    assert site.dropped()[0] == MAIL.replace(b"root", b"root@corp.test")


def test_a_text_without_header_needs_a_recipient_only(site: Site) -> None:
    """Bare lines become a message with a log, in one step."""
    message = b"To: ops@example.com\nDone.\n"
    assert submit(site, "--attach-logs", "always", "--attach-log", "build.log", message=message).returncode == 0
    found, sidecar = site.dropped()
    assert sidecar.envelope.recipients == ("ops@example.com",)
    assert attachments(found) == {"build.log": b"built\n"}


def test_nothing_heavy_is_imported(site: Site) -> None:
    """Not the configuration's libraries, not the daemon's."""
    code = (
        "import sys; from mailrelayd.__main__ import main;"
        f"status = main(['--config', '{site.configuration}', 'submit']);"
        "print(*sys.modules); raise SystemExit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, input=MAIL, capture_output=True, timeout=30)
    assert not set(done.stdout.decode().split()) & (set(HEAVY) - {"argparse"})
