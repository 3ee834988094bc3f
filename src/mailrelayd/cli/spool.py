"""`mailrelayd spool explain`: what the pickup would make of a file, without taking it."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Add the command."""
    spool = commands.add_parser("spool", parents=[common], help="questions about files for the pickup folder")
    verbs = spool.add_subparsers(title="verbs", metavar="VERB", required=True)
    explain = verbs.add_parser(
        "explain",
        parents=[common],
        help="what the pickup would make of a file: which rule, which envelope, what is stripped",
        description="Says what would happen to FILE in the pickup folder. Nothing is taken, changed or sent. "
        "Exit status 65 where the file would be refused.",
    )
    explain.add_argument("file", metavar="FILE", type=Path)
    explain.add_argument("--json", action="store_true", help="as a JSON object")
    explain.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the verdict."""
    from mailrelayd import durable
    from mailrelayd.cli import failure
    from mailrelayd.cli.daemonside import CommandError, settings_of
    from mailrelayd.clock import SystemClock
    from mailrelayd.daemon import rules_of
    from mailrelayd.outbound.examine import Examiner, is_candidate

    try:
        settings = settings_of(arguments)
    except CommandError as error:
        return error.report()
    file: Path = arguments.file
    try:
        folder = durable.Folder(file.parent)
    except OSError as error:
        return failure(os.EX_NOINPUT, f"{file.parent}: {error.strerror}")
    try:
        maildir = file.parent.name == "new"
        verdict = Examiner(rules_of(settings), SystemClock()).look(folder, file.name, renamed=True)
        if verdict is None:
            return failure(os.EX_NOINPUT, f"{file}: no such file")
        told = _told(verdict, settings.account)
        if not is_candidate(file.name, maildir=maildir):
            told["note"] = "this name is never taken: it must end in .eml and not begin with . or ~ (or stand in new/)"
    except OSError as error:
        return failure(os.EX_NOINPUT, f"{file}: {error.strerror}")
    finally:
        folder.close()
    if arguments.json:
        print(json.dumps({"file": str(file), **told}))
    else:
        print("\n".join(_as_text(file, told)))
    return os.EX_OK if told["verdict"] in ("taken", "waits") else os.EX_DATAERR


def _told(verdict: object, account: Any) -> dict[str, Any]:
    from mailrelayd.outbound.envelope import rewrite
    from mailrelayd.outbound.examine import Later, Ready, Refused, Unusable

    match verdict:
        case Ready(derived=derived, sidecar=sidecar):
            sender = derived.envelope.sender
            wire = rewrite(sender, account.from_address, account.rewrite_from) if account else sender
            return {
                "verdict": "taken",
                "rule": derived.rule,
                "sender": sender,
                "sender_from": derived.sender_from,
                "sender_on_the_wire": wire,
                "recipients": list(derived.envelope.recipients),
                "stripped": list(derived.stripped),
                "not_before": sidecar.not_before if sidecar and sidecar.not_before else None,
            }
        case Later(why=why):
            return {"verdict": "waits", "reason": why}
        case Refused(reason=reason, hint=hint):
            return {"verdict": "refused", "reason": reason, "hint": hint}
        case Unusable(detail=detail):
            return {"verdict": "failed", "reason": detail}
    raise AssertionError(verdict)


def _as_text(file: Path, told: dict[str, Any]) -> list[str]:
    from mailrelayd.operate.log import escape

    lines = [f"{file}: {_VERDICTS[told['verdict']]}"]
    if told["verdict"] == "taken":
        lines.append(f"  rule        {told['rule']}: {_RULES[told['rule']]}")
        lines.append(f"  sender      <{told['sender']}> (from {told['sender_from']})")
        if told["sender_on_the_wire"] != told["sender"]:
            lines.append(f"              <{told['sender_on_the_wire']}> on the wire (from_address, rewrite_from)")
        lines.extend(f"  recipient   <{recipient}>" for recipient in told["recipients"])
        lines.append(f"  stripped    {', '.join(told['stripped']) or 'nothing'}")
    else:
        lines.append(f"  reason      {told['reason']}")
        if told.get("hint"):
            lines.append(f"  fix         {told['hint']}")
    if told.get("note"):
        lines.append(f"  note        {told['note']}")
    return [escape(line) for line in lines]


_VERDICTS = {
    "taken": "would be taken",
    "waits": "would wait",
    "refused": "would be refused and left where it is",
    "failed": "would be put into failed/",
}
_RULES = {
    "sidecar": "the .env.json beside it names sender and recipients",
    "pickup": "the X-Sender/X-Receiver lines at the top name sender and recipients",
    "resent": "the topmost Resent- fields name the recipients",
    "headers": "To, Cc and Bcc name the recipients",
}
