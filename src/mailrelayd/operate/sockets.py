"""Where the daemon's sockets are, and a name by which both sides reach them."""

from __future__ import annotations

import os
from pathlib import Path

from mailrelayd.config.light import DEFAULT_STATE

RUNTIME = Path("/run/mailrelayd")


def control_socket(state: Path) -> Path:
    """For operators. Both sides derive it from [state] directory, so several daemons never meet."""
    return (RUNTIME if state == DEFAULT_STATE else state / "run") / "control.sock"


def submit_socket(state: Path) -> Path:
    """For everybody on this machine."""
    return control_socket(state).with_name("submit.sock")


def reachable(path: Path) -> tuple[str, int]:
    """A name short enough for a socket address (108 bytes), however deep the folder lies, and its descriptor."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return f"/proc/self/fd/{folder}/{path.name}", folder
