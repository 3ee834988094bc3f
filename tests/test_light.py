"""The few keys of `submit` and `sendmail`: read as the daemon reads them, and never in anybody's way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mailrelayd.config.light import DEFAULT_STATE, Light, read
from mailrelayd.config.load import load
from mailrelayd.operate import sockets

CONFIGURATION = """
[spool]
directory = "/srv/spool"
max_message_size = "1MiB"
[state]
directory = "/srv/state"
[submit]
default_domain = "example.com"
local_recipient = "admin@example.com"
"""
READ = Light(Path("/srv/spool"), Path("/srv/state"), 1 << 20, "example.com", "admin@example.com")


def test_it_says_what_the_whole_configuration_says(tmp_path: Path) -> None:
    """The same files, the same order, the same variables."""
    file = tmp_path / "mailrelayd.toml"
    file.write_text(CONFIGURATION)
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "b.toml").write_text('[spool]\ndirectory = "/srv/b"\n')
    (tmp_path / "conf.d" / "a.toml").write_text('[spool]\ndirectory = "/srv/a"\n[state]\ndirectory = "/srv/a"\n')
    (tmp_path / "conf.d" / ".c.toml").write_text('[spool]\ndirectory = "/srv/c"\n')
    environ = {"MAILRELAYD__submit__DEFAULT_DOMAIN": "example.org", "mailrelayd__spool__max_message_size": "5MB"}
    light, settings = read(file, environ), load(file, environ).settings
    assert (light.spool, light.state) == (settings.spool.directory, settings.state.directory)
    assert light.max_message_size == settings.spool.max_message_size == 5_000_000
    assert light.default_domain == settings.submit.default_domain == "example.org"
    assert light.local_recipient == settings.submit.local_recipient == "admin@example.com"
    assert light.trouble == ()


def test_its_defaults_are_the_configurations_own(tmp_path: Path) -> None:
    """What is not written is the same for both."""
    file = tmp_path / "mailrelayd.toml"
    file.touch()
    settings = load(file, {}).settings
    spool, submit = settings.spool, settings.submit
    assert read(file, {}) == Light(
        spool.directory, settings.state.directory, spool.max_message_size, submit.default_domain, submit.local_recipient
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file or directory"),
        (b"[spool", "is no configuration"),
        (b"\xff", "is no configuration"),
        (b"a = " + b"[" * 10_000, "is no configuration"),
        (b"# " + b"x" * (1 << 20), "is no configuration"),
    ],
)
def test_what_cannot_be_read_counts_as_not_written(tmp_path: Path, content: bytes | None, said: str) -> None:
    """And is told, without a word of what stands in it."""
    file = tmp_path / "mailrelayd.toml"
    if content is not None:
        file.write_bytes(content)
    light = read(file, {"MAILRELAYD__STATE__DIRECTORY": "/srv/state"})
    assert light == Light(state=Path("/srv/state"), trouble=light.trouble)
    (trouble,) = light.trouble
    assert trouble.startswith(str(file))
    assert said in trouble


def test_a_fifo_holds_up_nobody(tmp_path: Path) -> None:
    """Nor does a directory."""
    os.mkfifo(tmp_path / "mailrelayd.toml")
    assert len(read(tmp_path / "mailrelayd.toml", {}).trouble) == 1
    assert len(read(tmp_path, {}).trouble) == 1


@pytest.mark.parametrize(
    "content",
    [
        "spool = 1",
        '[spool]\ndirectory = "relative"\nmax_message_size = "much"',
        "[spool]\ndirectory = 1",
        "[submit]\ndefault_domain = 1",
    ],
)
def test_a_wrong_value_counts_as_not_written(tmp_path: Path, content: str) -> None:
    """`mailrelayd check` tells it; a mail must not fail for it."""
    (tmp_path / "mailrelayd.toml").write_text(content)
    assert read(tmp_path / "mailrelayd.toml", {}) == Light()


def test_sockets_lie_below_the_state_directory_but_for_the_default_one(tmp_path: Path) -> None:
    """The daemon and its clients derive them, so several daemons never meet."""
    assert sockets.control_socket(DEFAULT_STATE) == Path("/run/mailrelayd/control.sock")
    assert sockets.submit_socket(DEFAULT_STATE) == Path("/run/mailrelayd/submit.sock")
    assert sockets.control_socket(tmp_path) == tmp_path / "run" / "control.sock"
    assert sockets.submit_socket(tmp_path) == tmp_path / "run" / "submit.sock"
