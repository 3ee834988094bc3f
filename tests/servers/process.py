"""What every server process needs: a free port, a directory with a short path, an end."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOOP = os.environ.get("MAILRELAYD_TEST_LOOP") or "asyncio"  # on which the daemon works: what is installed by itself
BELOW_EPHEMERAL = range(15000, 32000)
POLL_INTERVAL = 0.02  # seconds; other processes are watched, not told


def free_port() -> int:
    """A loopback TCP port nobody used a moment ago, and which the kernel gives to no outgoing connection meanwhile."""
    for port in random.sample(BELOW_EPHEMERAL, 100):
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no loopback port is free")


@contextmanager
def short_directory(prefix: str, mode: int = 0o755) -> Iterator[Path]:
    """A temporary directory directly below /tmp: a Unix socket's path is limited to 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir="/tmp"))
    try:
        path.chmod(mode)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def wait_until(holds: Callable[[], bool], seconds: float, otherwise: Callable[[], str]) -> None:
    """Return once `holds()` is true; after `seconds`, TimeoutError with the text of `otherwise()`."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() >= deadline:
            raise TimeoutError(f"not within {seconds:g} s: {otherwise()}")
        time.sleep(POLL_INTERVAL)


def greets(port: int) -> bool:
    """Whether a server on this loopback port says something."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        return bool(connection.recv(1))
    return False


def refuses(port: int) -> bool:
    """Whether nobody listens on this loopback port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        pass  # reset: a listener in its last moment
    return False


def end(process: subprocess.Popen[bytes], seconds: float = 10) -> int:
    """SIGTERM to the process, SIGKILL to what is left of its group; the exit status."""
    if process.poll() is None:
        process.terminate()
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return kill(process)
    finally:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> int:
    """SIGKILL to the process's whole group (it was started as a session of its own); the exit status."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()
