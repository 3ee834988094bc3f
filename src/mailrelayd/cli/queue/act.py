"""hold, release, retry, fail, delete: a verb on the messages that were meant."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from mailrelayd.cli import failure
from mailrelayd.cli.daemonside import CommandError
from mailrelayd.cli.queue.answering import answers, changes
from mailrelayd.cli.queue.choice import meant

T = TypeVar("T")

DONE = {  # of one, of many
    "retry": ("will be tried now", "will be tried now"),
    "hold": ("is on hold", "are on hold"),
    "release": ("was released", "were released"),
    "fail": ("was given up and is kept", "were given up and are kept"),
    "delete": ("was deleted", "were deleted"),
}
QUESTIONS = {"fail": "give up {} now", "delete": "delete {} for ever"}
GONE = "no such message"  # of what a filter chose: it left the queue meanwhile
COMPLAINTS = 10  # errors said one by one; the rest is counted
LONG_WORK = 500  # messages from which on a bar is shown


def change(arguments: argparse.Namespace) -> int:
    """Carry out a verb on each message that is meant; the exit status of the worst."""
    verb = arguments.verb
    try:
        wanted = meant(arguments)
        if isinstance(wanted, list):
            return _carry_out(verb, wanted, changes(arguments, verb, wanted), named=True, as_json=_json(arguments))
        question = QUESTIONS.get(verb)
        asked = question is not None and not arguments.yes
        if asked and not (sys.stdin.isatty() and sys.stderr.isatty()):
            reason = f"{verb} with --all or filters asks first, and nobody can answer here"
            raise CommandError(
                os.EX_USAGE, reason, "--yes, once `mailrelayd queue list` with the same filters looks right"
            )
        request = {"command": "ids", "filter": wanted.as_request()}
        ids = [queue_id for answer in answers(arguments, request) for queue_id in answer["ids"]]
        if asked and ids and not _agreed(question.format(_messages(len(ids)))):  # type: ignore[union-attr]
            print("nothing was changed", file=sys.stderr)
            return os.EX_OK
        return _carry_out(verb, ids, changes(arguments, verb, ids), named=False, as_json=_json(arguments))
    except CommandError as error:
        return error.report()


def _json(arguments: argparse.Namespace) -> bool:
    return bool(getattr(arguments, "json", False))


def _carry_out(verb: str, ids: list[str], answered: Iterable[dict[str, Any]], *, named: bool, as_json: bool) -> int:
    from mailrelayd.operate.log import escape

    done = complaints = 0
    for answer in _with_bar(verb, answered, len(ids)):
        queue_id, why = answer["queue_id"], answer["error"]
        if why == GONE and not named:
            continue
        if as_json:
            print(json.dumps(answer))
        elif named and not why:
            print(f"{queue_id} {DONE[verb][0]}")
        if not why:
            done += 1
            continue
        complaints += 1
        if complaints <= COMPLAINTS:
            failure(os.EX_DATAERR, escape(f"{queue_id}: {why}"))
    if complaints > COMPLAINTS:
        failure(os.EX_DATAERR, f"and {complaints - COMPLAINTS} more")
    if not named and not as_json:
        print(f"{_messages(done)} {DONE[verb][done != 1]}" if ids else "no message is meant by that")
    if not complaints:
        return os.EX_OK
    return os.EX_DATAERR if named else os.EX_TEMPFAIL


def _messages(count: int) -> str:
    return "1 message" if count == 1 else f"{count} messages"


def _agreed(question: str) -> bool:
    print(f"{question}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _with_bar(verb: str, answered: Iterable[T], total: int) -> Iterator[T]:
    """The same answers; a bar on a terminal shows how far they are, and is gone at the end."""
    if total < LONG_WORK or not sys.stderr.isatty():
        yield from answered
        return
    width = 30
    try:
        for number, answer in enumerate(answered, 1):
            if number % 100 == 0:
                filled = "#" * (width * number // total)
                print(f"\r{verb} [{filled:{width}}] {number} of {total}", end="", file=sys.stderr, flush=True)
            yield answer
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
