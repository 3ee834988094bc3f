"""The folders the daemon needs: made where they are missing, and tried before anything depends on them."""

from __future__ import annotations

import grp
import os
import socket
from contextlib import suppress
from pathlib import Path

from mailrelayd import durable
from mailrelayd.config.settings import Settings
from mailrelayd.outbound.spool import SpoolError

PICKUP_MODE = 0o3730  # setgid: the group stays; sticky: nobody removes another's file; no listing
PICKUP_GROUP = "mailspool"


def node_name(settings: Settings) -> str:
    """[node] name; else what STATE/node says; else the host's name, written there once. Raises OSError."""
    if settings.node.name:
        return settings.node.name
    folder = durable.Folder(settings.state.directory)
    try:
        with suppress(FileNotFoundError):
            if name := folder.read("node", limit=256).decode("ascii", "ignore").strip():
                return name
        letters = (c if c.isascii() and (c.isalnum() or c in ".-") else "-" for c in socket.gethostname())
        name = "".join(letters).strip(".-")[:63] or "localhost"
        folder.write("node", name.encode() + b"\n", mode=0o644)
        return name
    finally:
        folder.close()


def prepare_folders(settings: Settings) -> None:
    """Make what is missing of the folders, and prove that files can be renamed across them.

    Two ReadWritePaths of a unit are two mounts, and a rename between them fails though the device is the same.
    Raises SpoolError.
    """
    directory = settings.spool.directory
    try:
        durable.make_folder(settings.state.directory, 0o750)
        durable.make_folder(directory, 0o755)
        group = _group(PICKUP_GROUP)
        for path in (directory / "pickup", directory / "pickup" / "tmp", directory / "pickup" / "new"):
            if not path.is_dir():
                durable.make_folder(path, PICKUP_MODE)
                if group is not None:
                    with suppress(PermissionError):
                        os.chown(path, -1, group)
                        path.chmod(PICKUP_MODE)  # a change of group clears the setgid bit
        durable.make_folder(directory / "queue", 0o700)
        for path in (directory / "pickup", directory / "pickup" / "new"):
            _try_rename(path, directory / "queue")
    except OSError as error:
        where = error.filename or directory
        raise SpoolError(
            f"{where}: {error.strerror}: the daemon must own the folders below [spool] and [state] directory, "
            "and they must lie on one mount each"
        ) from error


def _group(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def _try_rename(source: Path, target: Path) -> None:
    here, there = durable.Folder(source), durable.Folder(target)
    try:
        name = f".probe-{os.getpid()}"
        here.write(name, b"")
        try:
            here.move(name, there, name, sync=False)
        except OSError:
            here.remove(name)
            raise
        there.remove(name)
    finally:
        here.close()
        there.close()
