"""`mailrelayd status` and `mailrelayd reload`."""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Add the commands."""
    status = commands.add_parser(
        "status",
        parents=[common],
        help="how the daemon, the route and the queue are",
        description="One line each: the daemon, the way to the smarthost, the queue, the mailboxes,\n"
        "approvals, and what the pickup refused.",
        epilog="examples:\n  mailrelayd status\n  mailrelayd status --json | jq .queue.waiting\n\n"
        "Without a daemon: what stands in the spool. `mailrelayd queue` lists the messages themselves.",
    )
    status.add_argument("--json", action="store_true", help="as a JSON object")
    status.set_defaults(run=print_status)
    reload = commands.add_parser(
        "reload",
        parents=[common],
        help="let the daemon read its configuration again",
        description="The daemon validates the whole configuration and then applies it, or keeps the one before: "
        "this command waits for the verdict. What comes from credential: and env: is fixed at start.",
    )
    reload.add_argument("--json", action="store_true", help="as a JSON object")
    reload.set_defaults(run=reload_daemon)


def print_status(arguments: argparse.Namespace) -> int:
    """Print the daemon's own account, or what the spool shows while none runs."""
    from mailrelayd.cli.daemonside import CommandError, ask, settings_of
    from mailrelayd.operate.control import NoDaemonError

    try:
        try:
            found = next(ask(arguments, {"command": "status"}))
            found["daemon"] = "running"
        except NoDaemonError:
            found = _offline(settings_of(arguments).spool.directory)
    except CommandError as error:
        return error.report()
    if arguments.json:
        print(json.dumps(found))
        return os.EX_OK
    print("\n".join(_as_text(found)))
    return os.EX_OK


def _offline(directory: Any) -> dict[str, Any]:
    from mailrelayd.outbound import queueid
    from mailrelayd.outbound.stored import Reader, Reading

    try:
        reader = Reader(directory, Reading())
    except OSError as error:
        return {"daemon": "stopped", "queue": None, "reason": f"{error.filename}: {error.strerror}"}
    try:
        waiting, failed = reader.ids(), reader.ids(failed=True)
    finally:
        reader.close()
    oldest = queueid.arrived_at(waiting[0]) if waiting else None
    return {"daemon": "stopped", "queue": {"waiting": len(waiting), "failed": len(failed), "oldest": oldest}}


def reload_daemon(arguments: argparse.Namespace) -> int:
    """Ask for a reload and say what came of it: 78 where the new configuration is wrong, 69 without a daemon."""
    from mailrelayd.cli import failure
    from mailrelayd.cli.daemonside import CommandError, ask, settings_of
    from mailrelayd.config.changes import Change
    from mailrelayd.operate.control import NoDaemonError
    from mailrelayd.operate.log import escape

    try:
        try:
            answer = next(ask(arguments, {"command": "reload"}))
        except NoDaemonError:
            settings_of(arguments)  # where the file cannot even be read, that is why no daemon was found
            return failure(os.EX_UNAVAILABLE, "no daemon runs with this configuration", "systemctl start mailrelayd")
    except CommandError as error:
        return error.report()
    if arguments.json:
        print(json.dumps(answer))
        return os.EX_OK
    for change in answer["changes"]:
        print(escape(str(Change(**change))))
    if not answer["changes"]:
        print("nothing has changed")
    return os.EX_OK


def _as_text(found: dict[str, Any]) -> list[str]:
    from mailrelayd.cli.queue.words import span
    from mailrelayd.operate.log import escape

    queue = found["queue"]
    lines = []
    if found["daemon"] == "running":
        up = span(time.time() - found["started"])
        lines.append(
            f"daemon    running for {up}, pid {found['pid']}, node {found['node']}, version {found['version']}"
        )
        lines.append(f"outbound  {outbound_line(found['outbound'])}")
    else:
        lines.append("daemon    stopped" + (f" ({found['reason']})" if found.get("reason") else ""))
    if queue is not None:
        detail = (
            f" ({queue['due']} due, {queue['deferred']} deferred, {queue['held']} on hold)" if "due" in queue else ""
        )
        oldest = f", oldest {span(time.time() - queue['oldest'])}" if queue["oldest"] else ""
        lines.append(f"queue     {queue['waiting']} waiting{detail}{oldest}, {queue['failed']} failed")
    if (guard := found.get("guard")) and (guard["dry_run"] or guard["redirect_to"]):
        what = "nothing is sent (dry_run)" if guard["dry_run"] else f"all mail goes to {guard['redirect_to']}"
        lines.append(f"guard     {what}")
    for mailbox in found.get("inbound", ()):
        seen = f"read {span(time.time() - mailbox['last_poll'])} ago" if mailbox["last_poll"] else "not read yet"
        trouble = f", {mailbox['reason']}" if mailbox["reason"] else ""
        lines.append(f"mailbox   {mailbox['account']} {mailbox['state']}, {seen}{trouble}")
    if approvals := found.get("approvals"):
        parked = f", {approvals['parked']} parked (mailrelayd decisions --waiting)" if approvals["parked"] else ""
        lines.append(f"approvals {approvals['open']} open, {approvals['waiting']} decisions waiting for a sink{parked}")
    if found.get("pickup", {}).get("refused"):
        lines.append(f"pickup    {found['pickup']['refused']} files refused and left in place; the log says why")
    return [escape(line) for line in lines]


def outbound_line(outbound: dict[str, Any]) -> str:
    """How the route is, in one line."""
    from mailrelayd.cli.queue.words import span
    from mailrelayd.operate.log import escape

    if outbound["state"] == "disabled":
        return "disabled: no [outbound.NAME] is enabled, so files wait"
    described = f" ({outbound['description']})" if outbound["description"] else ""
    name = f"{outbound['account']}{described}, {outbound['host']}"
    if outbound["state"] == "held":
        return escape(f"{name}: held for {span(outbound['held_for'])} at {outbound['stage']}: {outbound['reason']}")
    contact = outbound["last_contact"]
    relay = f" by {outbound['relay']}" if outbound["relay"] else ""
    return escape(
        f"{name}: ok, last contact {span(time.time() - contact)} ago{relay}"
        if contact
        else f"{name}: ok, not needed yet"
    )
