"""Which messages a command means: ids, standard input, all, or filters."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from mailrelayd.cli.daemonside import CommandError

if TYPE_CHECKING:
    from mailrelayd.outbound.listing import Filter

ALL = "ALL"  # postsuper's word
STANDARD_INPUT = "-"
_HELP = "mailrelayd queue --help"
# What `--all` and filters choose from without a further word: the other messages have nothing to change.
_APPLIES = {
    "hold": frozenset({"active", "deferred"}),
    "release": frozenset({"hold"}),
    "retry": frozenset({"active", "deferred"}),
    "fail": frozenset(),
    "delete": frozenset(),
}
_OF_FAILED = ("retry", "delete")


def filter_of(arguments: argparse.Namespace) -> Filter:
    """The filter that was written; everything that waits where none was. Raises CommandError."""
    from mailrelayd.outbound.listing import Filter
    from mailrelayd.outbound.queue import Place

    said = vars(arguments)
    places = frozenset(Place(word) for word in ("deferred", "hold") if said.get(word))
    if said.get("failed") and places:
        reason = "--failed means what was given up, --deferred and --hold what still waits"
        raise CommandError(os.EX_USAGE, reason, "leave one of them out")
    return Filter(
        bool(said.get("failed")),
        places,
        said.get("sender", ""),
        said.get("recipient", ""),
        said.get("reason", ""),
        said.get("older_than", 0.0),
    )


def meant(arguments: argparse.Namespace) -> list[str] | Filter:
    """What a verb is to be carried out on: the ids that were named, or a filter. Raises CommandError."""
    from mailrelayd.outbound.listing import Filter

    verb, words = arguments.verb, arguments.ids
    wanted = filter_of(arguments)
    everything = arguments.all or words == [ALL]
    named = [] if words == [ALL] else words
    if named and (everything or wanted != Filter()):
        reason = "either the ids of messages, or --all and filters: not both"
        raise CommandError(os.EX_USAGE, reason, f"mailrelayd queue {verb} ID ...")
    if named:
        return list(_ids(named))
    if not everything and wanted == Filter():
        reason = f"{verb} what? Name ids, - (ids from standard input), --all, or filters"
        raise CommandError(os.EX_USAGE, reason, f"mailrelayd queue {verb} --help")
    return _applying(verb, wanted)


def _applying(verb: str, wanted: Filter) -> Filter:
    """The filter without what the verb would not change."""
    from dataclasses import replace

    from mailrelayd.outbound.queue import Place

    if wanted.failed:
        if verb not in _OF_FAILED:
            raise CommandError(os.EX_USAGE, f"{verb} does not apply to what has failed", "retry and delete do")
        return wanted
    applies = frozenset(map(Place, _APPLIES[verb]))
    if not applies or not wanted.places:
        return replace(wanted, places=applies or wanted.places)
    if not applies & wanted.places:
        raise CommandError(
            os.EX_USAGE,
            f"{verb} does not apply to messages that are {' or '.join(sorted(wanted.places))}",
            "mailrelayd queue release --hold" if Place.HOLD in wanted.places else _HELP,
        )
    return replace(wanted, places=applies & wanted.places)


def _ids(words: Iterable[str]) -> Iterator[str]:
    """Each id once, in order."""
    seen: set[str] = set()
    for word in words:
        for queue_id in _read(sys.stdin) if word == STANDARD_INPUT else [word]:
            if queue_id not in seen:
                seen.add(queue_id)
                yield queue_id


def _read(lines: Iterable[str]) -> Iterator[str]:
    """The ids in these lines: one per line, or JSON objects with "queue_id". Raises CommandError."""
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text.startswith("{"):
            if text:
                yield text
            continue
        try:
            queue_id = json.loads(text)["queue_id"]
        except (ValueError, KeyError, RecursionError):
            queue_id = None
        if not isinstance(queue_id, str):
            reason = f"standard input, line {number}: neither an id nor a JSON object with queue_id"
            raise CommandError(os.EX_DATAERR, reason, "mailrelayd queue list --json writes such lines")
        yield queue_id
