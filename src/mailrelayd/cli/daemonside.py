"""What the commands about the queue have in common: ask the daemon, or, where none runs, look at the spool."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from typing import Any

from mailrelayd.cli import failure
from mailrelayd.config.load import ConfigError, load, state_directory
from mailrelayd.config.settings import Settings
from mailrelayd.operate import control, sockets


class CommandError(Exception):
    """A command cannot be carried out; carries what `failure` needs."""

    def __init__(self, status: int, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.status, self.reason, self.hint = status, reason, hint

    def report(self) -> int:
        """Say it; the exit status."""
        return failure(self.status, self.reason, self.hint)


def settings_of(arguments: argparse.Namespace) -> Settings:
    """The configuration in the file. Raises CommandError."""
    try:
        return load(arguments.config, check_files=False).settings
    except ConfigError as error:
        raise CommandError(os.EX_CONFIG, str(error), "mailrelayd check") from error


def ask(arguments: argparse.Namespace, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The daemon's answer, even if its configuration has been broken since it started.

    Raises control.NoDaemonError where none runs, CommandError.
    """
    path = sockets.control_socket(state_directory(arguments.config))
    try:
        yield from control.ask(path, request)
    except control.RefusedError as refused:
        raise CommandError(refused.status, refused.reason, refused.hint) from refused
    except PermissionError as error:
        hint = "run this as root, or as a member of the daemon's group"
        raise CommandError(os.EX_NOPERM, f"{path}: not allowed to talk to the daemon", hint) from error
    except TimeoutError as error:
        raise CommandError(os.EX_TEMPFAIL, f"{path}: the daemon does not answer", "mailrelayd status") from error
