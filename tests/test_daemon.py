"""What the composition adds: how the process begins, and what must not get out by it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

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
