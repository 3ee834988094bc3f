"""Files in the order in which they were written, as far as anybody can tell: by (mtime, name), however many there are.

So many names are sorted at a time, and what does not fit in waits in a file without a name: memory stays bounded, each
name is touched twice, and a million files that stood there at the start are still taken in order.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, TypeAlias

from mailrelayd import durable

RUN = 20_000  # files sorted in memory at a time, some 4 MB
BLOCK = 250  # files of a run read back at a time

Entry: TypeAlias = tuple[int, str, int, bool]  # mtime in ns, name, its inlet's descriptor, whether it came by rename


def oldest_first(entries: Iterable[Entry], directory: Path) -> Iterator[Entry]:
    """All of them, sorted. `directory`: where there is room for very many; else only the oldest. Raises OSError."""
    left = iter(entries)
    run = sorted(islice(left, RUN))
    if len(run) < RUN:
        yield from run
        return
    with ExitStack() as opened:
        try:
            file = opened.enter_context(TemporaryFile(dir=directory, prefix=durable.TEMPORARY))
        except OSError:  # no inode left, say: taking some frees them, and the next look finds the others
            yield from heapq.nsmallest(RUN, chain(run, left))
            return
        runs = []
        while run:
            runs.append(list(_write(file, run)))
            run = sorted(islice(left, RUN))
        file.flush()
        yield from heapq.merge(*(_read(file, blocks) for blocks in runs))


def _write(file: BinaryIO, run: list[Entry]) -> Iterator[tuple[int, int]]:
    """Where each block of a run stands, and how long it is."""
    for start in range(0, len(run), BLOCK):
        block = json.dumps(run[start : start + BLOCK]).encode("ascii")
        yield file.tell(), file.write(block)


def _read(file: BinaryIO, blocks: list[tuple[int, int]]) -> Iterator[Entry]:
    for offset, size in blocks:
        yield from map(tuple, json.loads(durable.read_at(file.fileno(), offset, size)))
