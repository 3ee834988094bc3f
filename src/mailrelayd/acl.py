"""Lets a group walk through a folder that is not its own, without any other right in it (POSIX ACL, acl(5)).

pickup/ is closed to everybody but mailspool, and pickup/erp lies inside: group erp needs to pass, and only that. The
format of the attribute is the kernel's (include/uapi/linux/posix_acl_xattr.h).
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

_ATTRIBUTE = "system.posix_acl_access"
_VERSION = struct.pack("<I", 2)
_ENTRY = struct.Struct("<HHI")  # tag, rights, id
_OWNER, _OWNING_GROUP, _GROUP, _MASK, _OTHERS = 0x01, 0x04, 0x08, 0x10, 0x20
_NOBODY = 0xFFFFFFFF  # the id of entries that need none
_PASS = 1  # x: rights are those of a mode


def let_through(folder: Path, groups: Iterable[int]) -> None:
    """Add the right to pass for each group that lacks it. Raises OSError; ENOTSUP: this file system knows no ACL."""
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & _PASS:
        return  # everybody may
    entries = _read(folder) or {
        (_OWNER, _NOBODY): mode >> 6 & 7,
        (_OWNING_GROUP, _NOBODY): mode >> 3 & 7,
        (_OTHERS, _NOBODY): mode & 7,
    }
    wanted = {(_GROUP, group): _PASS for group in groups if not entries.get((_GROUP, group), 0) & _PASS}
    if not wanted:
        return
    for key in wanted:
        wanted[key] |= entries.get(key, 0)
    # What a mode shows as the group's rights is the mask: with it the mode stays as it was.
    entries = {**entries, **wanted, (_MASK, _NOBODY): entries.get((_MASK, _NOBODY), mode >> 3 & 7) | _PASS}
    packed = (_ENTRY.pack(tag, rights, who) for (tag, who), rights in sorted(entries.items()))
    os.setxattr(folder, _ATTRIBUTE, _VERSION + b"".join(packed))


def _read(folder: Path) -> dict[tuple[int, int], int]:
    """The entries there are, by tag and id; empty: only the mode speaks."""
    try:
        data = os.getxattr(folder, _ATTRIBUTE)
    except OSError as error:
        if error.errno == errno.ENODATA:
            return {}
        raise
    return {(tag, who): rights for tag, rights, who in _ENTRY.iter_unpack(data[len(_VERSION) :])}
