"""The few keys that handing in mail needs, read with the standard library alone.

`submit` and `sendmail` run for anybody, often for each mail anew: they have no time for the whole configuration
(pydantic takes half a second to import) and often may not read it. So nothing is judged here, and what cannot be read
counts as not written: `trouble` tells it, for when the defaults then turn out to be wrong.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailrelayd.config import units

DEFAULT_CONFIG = Path("/etc/mailrelayd/mailrelayd.toml")
DEFAULT_STATE = Path("/var/lib/mailrelayd")
DEFAULT_SPOOL = Path("/var/spool/mailrelayd")
LARGEST_MESSAGE = 50 << 20  # bytes; the default of [spool] max_message_size
LIMIT = 1 << 20  # bytes of one file
PREFIX = "MAILRELAYD__"

_KEYS = (
    ("spool", "directory"),
    ("spool", "max_message_size"),
    ("state", "directory"),
    ("submit", "default_domain"),
    ("submit", "local_recipient"),
)


@dataclass(frozen=True, slots=True)
class Light:
    """What the configuration says, as far as it could be read; `trouble`: why not all of it was, a line each."""

    spool: Path = DEFAULT_SPOOL
    state: Path = DEFAULT_STATE
    max_message_size: int = LARGEST_MESSAGE
    default_domain: str = ""
    local_recipient: str = ""
    trouble: tuple[str, ...] = ()

    @property
    def pickup(self) -> Path:
        """The folder for members of its group."""
        return self.spool / "pickup"


def read(path: Path, environ: Mapping[str, str] = os.environ) -> Light:
    """FILE, `conf.d/*.toml` beside it, then the environment; later ones win. Never fails."""
    found: dict[tuple[str, str], object] = {}
    trouble: list[str] = []
    for file in (path, *_more(path.parent / "conf.d", trouble)):
        data = _table(file, trouble)
        for section, key in _KEYS:
            table = data.get(section)
            if isinstance(table, dict) and key in table:
                found[section, key] = table[key]
    for variable, text in sorted(environ.items()):
        section, _, key = variable.upper().removeprefix(PREFIX).lower().partition("__")
        if variable.upper().startswith(PREFIX) and (section, key) in _KEYS:
            found[section, key] = text
    return Light(
        spool=_path(found.get(("spool", "directory")), DEFAULT_SPOOL),
        state=_path(found.get(("state", "directory")), DEFAULT_STATE),
        max_message_size=_size(found.get(("spool", "max_message_size"))),
        default_domain=_text(found.get(("submit", "default_domain"))),
        local_recipient=_text(found.get(("submit", "local_recipient"))),
        trouble=tuple(trouble),
    )


def _more(folder: Path, trouble: list[str]) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if entry.suffix == ".toml" and entry.name[0] != ".")
    except FileNotFoundError:
        return []
    except OSError as error:
        trouble.append(f"{folder}: {error.strerror}")
        return []


def _table(path: Path, trouble: list[str]) -> dict[str, Any]:
    try:
        # Not a FIFO nor a terminal: neither must hold up whoever sends a mail.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ValueError("not a regular file")
            content = file.read(LIMIT + 1)
        if len(content) > LIMIT:
            raise ValueError("more than 1 MiB")
        return tomllib.loads(content.decode("utf-8-sig"))
    except OSError as error:
        trouble.append(f"{path}: {error.strerror}")
    except (ValueError, RecursionError):  # a value of the file may be a secret: it is not repeated
        trouble.append(f"{path}: is no configuration; `mailrelayd check` says what is wrong")
    return {}


def _path(written: object, default: Path) -> Path:
    return Path(written) if isinstance(written, str) and written.startswith("/") else default


def _size(written: object) -> int:
    try:
        return LARGEST_MESSAGE if written is None else units.size(written)
    except ValueError:
        return LARGEST_MESSAGE


def _text(written: object) -> str:
    return written if isinstance(written, str) else ""
