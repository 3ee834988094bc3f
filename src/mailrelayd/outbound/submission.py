"""What `submit` and `sendmail` say to the daemon over submit.sock, and what it answers. Pure.

One message per connection::

    client  {"version": 1, "program": "sendmail", "sender": null, "recipients": ["root"], ...}\\n    at most LINE bytes
            4 bytes n, n bytes of the message                as often as needed, 0 < n <= CHUNK, most significant first;
                                                             on average n >= SMALL, but for SMALL_CHUNKS of them
            4 bytes of zeros                                 the end: without it nothing is taken
    daemon  {"status": 0, "queue_id": "...", "duplicate": false}\\n     on disk: from here on it is the daemon's
        or  {"status": 65, "reason": "...", "hint": "...", "again": false}\\n     nothing was taken; sysexits.h

A client that dies half-way has not said the end, so no torn message can ever be handed in. The daemon may refuse at
any moment and close. `again`: it only has too much to do, ask again; status 76 (EX_PROTOCOL): it is of another version.
Who asks is the kernel's word (SO_PEERCRED). Where the end was said and no answer came, the same `key` may be offered
again, here or in the pickup folder, without being sent twice.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

VERSION = 1
LINE = 1 << 20  # bytes
CHUNK = 1 << 16  # bytes
SMALL = 512  # bytes
SMALL_CHUNKS = 64
LENGTH = 4  # bytes
END = bytes(LENGTH)
MAX_RECIPIENTS = 10_000  # of one message: more is an accident
MAX_KEY = 200  # characters

_NO_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")

Program = Literal["submit", "sendmail"]


class OptionsError(ValueError):
    """The first line is none; the text says why, and repeats nothing of it."""


@dataclass(frozen=True, slots=True)
class Options:
    """What goes with a message. Addresses are as they were written: what they mean is the daemon's to say."""

    program: Program
    sender: str | None = None  # -f; "" and "<>" are the null sender; None: whoever asks
    recipients: tuple[str, ...] = ()
    read_header: bool = False  # those in the header as well; for "submit" the sender, too
    full_name: str = ""  # for a From that has to be added
    key: str = ""  # idempotency key


def encode(options: Options) -> bytes:
    """The first line. ASCII only: arguments may hold bytes that are no UTF-8."""
    return json.dumps({"version": VERSION, **asdict(options)}).encode("ascii") + b"\n"


def decode(line: bytes) -> Options:
    """The options in the first line. Raises OptionsError."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        raise OptionsError("the first line is not a JSON object") from None
    if not isinstance(document, dict) or document.pop("version", None) != VERSION:
        raise OptionsError(f"the first line is not of version {VERSION}: restart the daemon after an update")
    if wrong := sorted(key for key in _SHAPES if key not in document or not _SHAPES[key](document[key])):
        raise OptionsError(f"the first line has no proper {', '.join(wrong)}")
    if len(document) > len(_SHAPES):
        raise OptionsError("the first line has a key that is not known")
    return Options(**{**document, "recipients": tuple(document["recipients"])})


def _is_text(value: Any) -> bool:
    """Whether it is text that an argument can hold: of lone surrogates only those that stand for a byte."""
    return isinstance(value, str) and not _NO_BYTE.search(value)


_SHAPES: dict[str, Callable[[Any], bool]] = {
    "program": lambda value: value in ("submit", "sendmail"),
    "sender": lambda value: value is None or _is_text(value),
    "recipients": lambda value: isinstance(value, list) and all(map(_is_text, value)),
    "read_header": lambda value: isinstance(value, bool),
    "full_name": _is_text,
    "key": lambda value: _is_text(value) and value.isprintable() and len(value) <= MAX_KEY,
}
