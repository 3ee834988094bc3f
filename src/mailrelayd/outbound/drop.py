"""The producer's side of the pickup folder: how an ordinary user hands in a file so that it survives a power cut.

`durable.Folder` cannot do it: in a 3730 folder a member of the group may create and rename, not open the folder.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from mailrelayd.outbound.values import Envelope

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_THROUGH = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def drop(pickup: Path, name: str, message: bytes, envelope: Envelope, key: str) -> None:
    """Put a message and its sidecar into `pickup`, durably; `name` is new. Raises OSError: then nothing is there."""
    sidecar = {"mail_from": envelope.sender, "rcpt_to": list(envelope.recipients), "idempotency_key": key}
    tmp = os.open(pickup / "tmp", _THROUGH)
    try:
        new = os.open(pickup / "new", _THROUGH)
        try:
            beside = f"{name}.env.json"
            _put(tmp, new, beside, json.dumps(sidecar).encode("ascii"))
            try:
                _put(tmp, new, name, message)
            except OSError:
                with suppress(OSError):  # it means nothing alone; the daemon puts it aside one day
                    os.unlink(beside, dir_fd=new)
                raise
        finally:
            os.close(new)
    finally:
        os.close(tmp)


def _put(tmp: int, new: int, name: str, data: bytes) -> None:
    descriptor = os.open(name, _NEW_FILE, 0o640, dir_fd=tmp)
    try:
        try:
            os.fchmod(descriptor, 0o640)  # whatever the umask is: the daemon reads it as a member of the group
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
            os.rename(name, name, src_dir_fd=tmp, dst_dir_fd=new)
        except OSError:
            with suppress(OSError):
                os.unlink(name, dir_fd=tmp)
            raise
        try:
            # The new name, too, has to survive a power cut, and the folder cannot be opened to be synced. A rename
            # changes the file's ctime, so it belongs to the same journal transaction as the file (ext4, xfs) or is
            # logged with it (btrfs): syncing the file once more writes it out.
            os.fsync(descriptor)
            _sync_where_allowed(new)
        except OSError:
            try:
                os.unlink(name, dir_fd=new)
            except FileNotFoundError:
                return  # the daemon was faster: it is taken, and that is on disk before anything is sent
            raise
    finally:
        os.close(descriptor)


def _sync_where_allowed(folder: int) -> None:
    """What POSIX asks for: the folder's owner and root may."""
    try:
        descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
