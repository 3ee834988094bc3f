"""What the composition adds: how the process begins, and what must not get out by it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from mailrelayd.cli import run
from tests.servers.daemon import StartDaemon
from tests.servers.process import wait_until


def test_closed_standard_streams_do_not_become_files_of_the_spool(tmp_path: Path) -> None:
    """The log's number would be a mail's: a daemon that is started with nothing open writes its log nowhere."""
    configuration = tmp_path / "mailrelayd.toml"
    configuration.write_text(f'[spool]\ndirectory = "{tmp_path}/spool"\n[state]\ndirectory = "{tmp_path}/state"\n')
    command = f'exec "{sys.executable}" -m mailrelayd --config "{configuration}" run <&- >&- 2>&-'
    with subprocess.Popen(["/bin/sh", "-c", command]) as process:
        try:
            wait_until(lambda: (tmp_path / "state" / "run" / "submit.sock").exists(), 20, str)
            pointed = [os.readlink(f"/proc/{process.pid}/fd/{number}") for number in range(3)]
        finally:
            process.terminate()
    assert process.returncode == 0
    assert pointed == [os.devnull] * 3


def test_a_crash_leaves_no_image_of_the_memory(tmp_path: Path) -> None:
    """A core file would hold every password and token; the limit is set, whatever the shell's was."""
    configuration = tmp_path / "mailrelayd.toml"
    configuration.write_text(f'[spool]\ndirectory = "{tmp_path}/spool"\n[state]\ndirectory = "{tmp_path}/state"\n')
    command = f'ulimit -S -c unlimited; exec "{sys.executable}" -m mailrelayd --config "{configuration}" run'
    with subprocess.Popen(["/bin/sh", "-c", command], cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: (tmp_path / "state" / "run" / "submit.sock").exists(), 20, str)
            limits = Path(f"/proc/{process.pid}/limits").read_text()
        finally:
            process.send_signal(signal.SIGABRT)
    assert re.search(r"^Max core file size +0 ", limits, re.MULTILINE)
    assert not list(tmp_path.glob("core*"))


@pytest.mark.parametrize(("wanted", "is_uvloop"), [("auto", True), ("uvloop", True), ("asyncio", False)])
def test_it_works_on_the_loop_that_is_wanted(
    daemon: StartDaemon, spool_dir: Path, state_dir: Path, wanted: str, is_uvloop: bool
) -> None:
    """Where uvloop is installed, as it is for the tests, that is what it takes by itself."""
    text = f'[spool]\ndirectory = "{spool_dir}"\n[state]\ndirectory = "{state_dir}"\n'
    started = daemon(text, start=False).start("run", "--loop", wanted).wait_ready()
    assert ("uvloop" in Path(f"/proc/{started.pid}/maps").read_text()) is is_uvloop
    assert started.stop() == 0


def test_without_uvloop_it_takes_the_other_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """But says so where uvloop was asked for by name."""
    monkeypatch.setattr(run, "find_spec", lambda name: None)
    loop = run.new_event_loop("auto")
    loop.close()
    assert type(loop).__module__.startswith("asyncio.")
    assert run.run(Namespace(loop="uvloop", config=Path("/nowhere"))) == os.EX_USAGE
    assert "pip install 'mailrelayd[uvloop]'" in capsys.readouterr().err
