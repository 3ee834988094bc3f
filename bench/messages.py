"""What is sent: messages whose number, size and recipients the sink can check."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SENDER = "bench@example.test"
_LINE = b"0123456789 abcdefghijklmnopqrstuvwxyz .. ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456\r\n"
_DOTTED = b".a line that begins with a dot, which has to be stuffed\r\n"


@dataclass(frozen=True, slots=True)
class Batch:
    """Messages with the numbers from `first` on."""

    count: int
    size: int = 4096  # bytes of a body, after its header
    recipients: int = 1
    first: int = 0
    bare: bool = False  # lines end with LF in the files of a producer; on the wire they never do

    @property
    def numbers(self) -> range:
        """Their numbers."""
        return range(self.first, self.first + self.count)

    @property
    def addresses(self) -> list[str]:
        """To whom each of them goes."""
        return [f"r{number}@sink.test" for number in range(self.recipients)]

    def body(self) -> bytes:
        """The same for all, CRLF, exactly `size` bytes."""
        full, left = divmod(self.size - len(_DOTTED), len(_LINE))
        if left < 2:
            full, left = full - 1, left + len(_LINE)
        if full < 0:
            raise ValueError(f"a body has at least {len(_DOTTED) + len(_LINE)} bytes")
        return _DOTTED + _LINE * full + b"x" * (left - 2) + b"\r\n"

    def header(self, number: int) -> bytes:
        """Of one of them, with the blank line."""
        to = ",\r\n ".join(self.addresses)
        return (
            f"From: {SENDER}\r\nTo: {to}\r\nSubject: message {number}\r\nDate: Sat, 21 Nov 2026 12:00:00 +0000\r\n"
            f"Message-ID: <{number}@bench.example.test>\r\nX-Bench-Id: {number}\r\n\r\n"
        ).encode()

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        body = self.body()
        return ((number, self.header(number) + body) for number in self.numbers)

    def files(self) -> Iterator[tuple[int, bytes]]:
        """The same as a producer writes them."""
        return ((number, text.replace(b"\r\n", b"\n") if self.bare else text) for number, text in self)


def write_durably(path: Path, *parts: bytes) -> None:
    """A producer's write, fsynced; the name is its folder's."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
    try:
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Make the names in it durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
