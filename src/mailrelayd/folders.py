"""The folders the daemon needs: made where they are missing, and tried before anything depends on them."""

from __future__ import annotations

import grp
import os
import pwd
import secrets
import socket
import stat
from contextlib import closing, suppress
from pathlib import Path

from mailrelayd import acl, durable
from mailrelayd.config.relaying import PickupFolder
from mailrelayd.config.settings import Settings
from mailrelayd.outbound.results import FOLDER_MODE
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
    pickup = directory / "pickup"
    try:
        durable.make_folder(settings.state.directory, 0o711)  # consumers and submit.sock are below it
        durable.make_folder(directory, 0o755)
        group = _group(PICKUP_GROUP)
        for path in (pickup, pickup / "tmp", pickup / "new"):
            missing = not os.path.lexists(path)
            if missing:
                durable.make_folder(path, PICKUP_MODE)
            if path != pickup:
                _check_ours(path, "[spool] directory", pickup)
            if missing and group is not None:
                with suppress(PermissionError):
                    os.chown(path, -1, group)
                    path.chmod(PICKUP_MODE)  # a change of group clears the setgid bit
        for name, section in settings.pickup.items():
            group = _group_of(section, f"pickup.{name}.group", pickup)
            _prepare_producer(pickup, name, group)
            if group != pickup.stat().st_gid:
                _let_through(pickup, group, f"pickup.{name}.group")
                if settings.spool.results:
                    # With its mode first: afterwards chmod would change what the list grants at most, not its group.
                    _open_to(directory / "results", pickup.stat().st_gid, FOLDER_MODE)
                    _let_through(directory / "results", group, f"pickup.{name}.group")
        durable.make_folder(directory / "queue", 0o700)
        for name in ("", *settings.pickup):
            _try_rename(pickup / name, directory / "queue")
            _try_rename(pickup / name / "new", directory / "queue")
    except OSError as error:
        where = error.filename or directory
        raise SpoolError(
            f"{where}: {error.strerror}: the daemon must own the folders below [spool] and [state] directory, "
            "and they must lie on one mount each"
        ) from error


def _prepare_producer(pickup: Path, name: str, group: int) -> None:
    """The folders of [pickup.NAME], open to its group at last: until they are ours, anybody could make them theirs."""
    top = pickup / name
    folders = (top, top / "tmp", top / "new")
    for path in folders:
        durable.make_folder(path, 0o700)
        _check_ours(path, f"pickup.{name}", pickup)
    for path in reversed(folders):
        _open_to(path, group, PICKUP_MODE)


def _check_ours(path: Path, key: str, pickup: Path) -> None:
    """In a folder that a group writes to, what is missing may have been made by anybody. Raises SpoolError."""
    figures = path.lstat()
    if not stat.S_ISDIR(figures.st_mode) or figures.st_uid != pickup.stat().st_uid:
        raise SpoolError(
            f"{key}: {path} is not a folder of the daemon's user but something that "
            f"{_user(figures.st_uid)} put there: move it away, and it is made anew"
        )


def _open_to(path: Path, group: int, mode: int) -> None:
    durable.make_folder(path, 0o700)
    with closing(durable.Folder(path)) as folder:
        folder.give_to(group, mode)


def _let_through(path: Path, group: int, key: str) -> None:
    """Members of a group that is not the folder's own reach the one of theirs in it, and nothing else."""
    try:
        acl.let_through(path, [group])
    except OSError as error:
        raise SpoolError(
            f"{key}: its members cannot get through {path}, which is closed to them, and no access list can be set "
            f"there ({error.strerror}): leave the key out and make them members of {PICKUP_GROUP}, or let everybody "
            f"pass: chmod o+x {path}"
        ) from error


def _group_of(section: PickupFolder, key: str, pickup: Path) -> int:
    """The number of a producer's group; that of pickup/ itself where none is named. Raises SpoolError."""
    if not section.group:
        return pickup.stat().st_gid
    group = _group(section.group)
    if group is None:
        raise SpoolError(f"{key}: this machine has no group {section.group}: groupadd --system {section.group}")
    if os.geteuid() != 0 and group not in (os.getegid(), *os.getgroups()):
        user = _user(os.geteuid())
        raise SpoolError(
            f"{key}: the daemon's user {user} is no member of {section.group}: "
            f"usermod --append --groups {section.group} {user}, then restart (a reload does not learn of it)"
        )
    return group


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def _try_rename(source: Path, target: Path) -> None:
    here, there = durable.Folder(source), durable.Folder(target)
    try:
        # Nobody can guess it and be there first; left behind in queue/ by a crash, it is swept.
        name = f"{durable.TEMPORARY}{secrets.token_hex(8)}"
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
