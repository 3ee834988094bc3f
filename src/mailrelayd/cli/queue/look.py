"""list, show, cat, explain: what the queue holds, for people and for programs."""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from mailrelayd.cli.daemonside import CommandError, ask
from mailrelayd.cli.queue import words
from mailrelayd.cli.queue.answering import answers
from mailrelayd.cli.queue.choice import filter_of
from mailrelayd.clock import SystemClock
from mailrelayd.outbound.listing import Filter


def list_messages(arguments: argparse.Namespace) -> int:
    """Print the messages that the filters mean, or with --shape how many there are."""
    said = vars(arguments)
    as_json, shape = bool(said.get("json")), bool(said.get("shape"))
    try:
        wanted = filter_of(arguments)
        request = {"command": "shape" if shape else "list", "filter": wanted.as_request()}
        found = answers(arguments, request)
        if as_json:
            for entry in found:
                print(json.dumps(entry))
        elif shape:
            print("\n".join(words.table(list(found))))
        else:
            count, now = 0, SystemClock().now()
            for entry in found:
                count += 1
                print("\n".join(words.message(entry, now)))
            print("\n".join(_summary(arguments, count, wanted)))
    except CommandError as error:
        return error.report()
    return os.EX_OK


def _summary(arguments: argparse.Namespace, count: int, wanted: Filter) -> Iterator[str]:
    """How many, and, where they wait for the route, why."""
    from mailrelayd.cli.status import outbound_line
    from mailrelayd.operate.control import NoDaemonError

    if wanted.failed:
        yield f"{count} failed" if count else "nothing has failed"
        return
    if wanted != Filter():
        yield f"{count} of those that wait" if count else "nothing of what waits is meant by that"
    else:
        yield f"{count} waiting" if count else "nothing is waiting"
    try:
        status = next(ask(arguments, {"command": "status"}))
    except NoDaemonError:
        yield "no daemon is running" if count else "(no daemon is running)"
        return
    if count and status["outbound"]["state"] != "up":
        yield outbound_line(status["outbound"])


def show_message(arguments: argparse.Namespace) -> int:
    """Print one message in full."""
    try:
        entry = next(answers(arguments, {"command": "show", "id": arguments.id}))
    except CommandError as error:
        return error.report()
    if vars(arguments).get("json"):
        print(json.dumps(entry))
    else:
        print("\n".join(words.message(entry, SystemClock().now(), full=True)))
    return os.EX_OK


def cat_message(arguments: argparse.Namespace) -> int:
    """Write the stored message to standard output."""
    from mailrelayd.operate.log import escape

    request = {"command": "cat", "id": arguments.id, "header": arguments.header}
    terminal = sys.stdout.isatty()
    try:
        for answer in answers(arguments, request):
            piece = base64.b64decode(answer["data"])
            if terminal:  # what strangers wrote must not speak to it
                text = piece.decode("utf-8", "surrogateescape").replace("\r\n", "\n")
                print("\n".join(map(escape, text.split("\n"))), end="")
            else:
                sys.stdout.buffer.write(piece)
    except CommandError as error:
        return error.report()
    return os.EX_OK


def explain_message(arguments: argparse.Namespace) -> int:
    """Print the life of one message; 65 where there is none of this id, with what the id itself says."""
    try:
        facts: dict[str, Any] = next(answers(arguments, {"command": "explain", "id": arguments.id}))
    except CommandError as error:
        return error.report()
    if vars(arguments).get("json"):
        print(json.dumps(facts))
    else:
        print("\n".join(words.life(facts, SystemClock().now())))
    return os.EX_OK if facts["queue_name"] else os.EX_DATAERR
