"""What the composition adds: how a connection is opened, and what must not get out by it."""

from __future__ import annotations

import base64
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mailrelayd import daemon
from mailrelayd.config.load import load
from mailrelayd.outbound import smtp
from mailrelayd.outbound.smtp import RouteTrouble
from mailrelayd.outbound.values import Response, Stage
from tests.servers.process import wait_until

PASSWORD = "hunter22-secret"


async def test_a_password_that_a_server_repeats_is_masked_wherever_the_answer_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some servers quote the line they did not understand; status and STATUS= show it without the log's masking."""
    file = tmp_path / "mailrelayd.toml"
    file.write_text(
        f'[state]\ndirectory = "{tmp_path}"\n[outbound.test]\nhost = "localhost"\n'
        f'user = "relay"\npassword = "text:{PASSWORD}"\n'
    )
    settings = load(file, {}).settings
    assert settings.account is not None
    encoded = base64.b64encode(PASSWORD.encode()).decode()

    async def refuse(*_: Any, **__: Any) -> None:
        text = f'Command unrecognized: "{encoded}" ({PASSWORD})'
        raise RouteTrouble(Response(Stage.AUTH, 500, "5.5.1", text))

    monkeypatch.setattr(smtp, "connect", refuse)
    with pytest.raises(RouteTrouble) as caught:
        await daemon.opener(settings.account, settings, "relay1")()
    shown = str(caught.value.response)
    assert PASSWORD not in shown
    assert encoded[:-3] not in shown
    assert shown.startswith("500 5.5.1 Command unrecognized")


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
