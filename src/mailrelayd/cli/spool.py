"""`mailrelayd spool explain`: what the pickup would make of a file, without taking it."""

from __future__ import annotations

import argparse
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mailrelayd.config.settings import Settings
    from mailrelayd.outbound.examine import Ready


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
        epilog="examples:\n  mailrelayd spool explain mail.eml\n  mailrelayd spool explain --producer erp mail.eml",
    )
    explain.add_argument("file", metavar="FILE", type=Path)
    explain.add_argument("--producer", metavar="NAME", help="as if it stood in the folder of [pickup.NAME]")
    explain.add_argument("--json", action="store_true", help="as a JSON object")
    explain.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the verdict."""
    from mailrelayd import durable
    from mailrelayd.cli import failure
    from mailrelayd.cli.daemonside import CommandError, settings_of
    from mailrelayd.clock import SystemClock
    from mailrelayd.outbound.examine import Examiner
    from mailrelayd.outbound.inlets import Inlet
    from mailrelayd.terms import rules_of

    try:
        settings = settings_of(arguments)
    except CommandError as error:
        return error.report()
    file: Path = arguments.file
    rules = rules_of(settings)
    name, maildir = _place(settings.spool.directory / "pickup", file.parent)
    name = name if arguments.producer is None else arguments.producer
    producer = next((one for one in rules.reading.producers if one.name == name), None)
    if producer is None:
        return failure(
            os.EX_CONFIG,
            f"the configuration has no [pickup.{name}]: the folder pickup/{name} is not read",
            "names there are: " + (", ".join(one.name for one in rules.reading.named) or "none"),
        )
    try:
        folder = durable.Folder(file.parent)
    except OSError as error:
        return failure(
            os.EX_NOINPUT, f"{file.parent}: {error.strerror}", _CLOSED if not os.access(file.parent, 4) else ""
        )
    try:
        inlet = Inlet(folder, producer, maildir)
        verdict = Examiner(rules, SystemClock()).look(inlet, file.name, renamed=True)
        if verdict is None:
            return failure(os.EX_NOINPUT, f"{file}: no such file")
        told = {"producer": producer.name, **_told(verdict, settings)}
        if not inlet.is_candidate(file.name):
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


def _place(pickup: Path, folder: Path) -> tuple[str, bool]:
    """Whose folder this is ("": pickup/ itself, or none of ours), and whether any name in it counts."""
    try:
        below = folder.resolve().relative_to(pickup.resolve()).parts
    except ValueError:
        return "", folder.name in ("new", "tmp")
    maildir = below[-1:] in (("new",), ("tmp",))  # in tmp/ a file is asked about before it is renamed
    return "/".join(below[: len(below) - maildir]), maildir


def _told(verdict: object, settings: Settings) -> dict[str, Any]:
    from mailrelayd.outbound.envelope import rewrite
    from mailrelayd.outbound.examine import Later, Ready, Refused, Unusable

    account = settings.account
    match verdict:
        case Ready(derived=derived, sidecar=sidecar):
            request = _request(verdict, settings)
            if isinstance(request, str):
                return {"verdict": "failed", "reason": request}
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
                "idempotency_key": sidecar.key if sidecar and sidecar.key else None,
                "request": request,
            }
        case Later(why=why):
            return {"verdict": "waits", "reason": why}
        case Refused(reason=reason, hint=hint):
            return {"verdict": "refused", "reason": reason, "hint": hint}
        case Unusable(detail=detail):
            return {"verdict": "failed", "reason": detail}
    raise AssertionError(verdict)


def _request(ready: Ready, settings: Settings) -> dict[str, Any] | str | None:
    """What it asks for, and why not, as far as its owner may ask; None: for nothing."""
    from mailrelayd.approvals import request as requests
    from mailrelayd.approvals.opening import names_of
    from mailrelayd.outbound.headers import Unreadable

    asked = requests.asked(ready.header)
    if asked is None:
        return None
    if isinstance(asked, Unreadable):
        return asked.reason
    approvers = asked.approvers or ready.derived.envelope.recipients
    sinks = requests.entitled(asked.request_id, approvers, names_of(ready.uid), settings.decisions)
    if isinstance(sinks, Unreadable):
        return sinks.reason
    return {"request_id": asked.request_id, "approvers": list(approvers), "decisions": list(sinks)}


def _as_text(file: Path, told: dict[str, Any]) -> list[str]:
    from mailrelayd.operate.log import escape

    lines = [f"{file}: {_VERDICTS[told['verdict']]}"]
    if told["producer"]:
        lines.append(f"  folder      pickup/{told['producer']}, [pickup.{told['producer']}]")
    if told["verdict"] == "taken":
        lines.append(f"  rule        {told['rule']}: {_RULES[told['rule']]}")
        lines.append(f"  sender      <{told['sender']}> (from {told['sender_from']})")
        if told["sender_on_the_wire"] != told["sender"]:
            lines.append(f"              <{told['sender_on_the_wire']}> on the wire (from_address, rewrite_from)")
        lines.extend(f"  recipient   <{recipient}>" for recipient in told["recipients"])
        lines.append(f"  stripped    {', '.join(told['stripped']) or 'nothing'}")
        if told["request"]:
            lines.append(
                f"  request     {told['request']['request_id']}, for {', '.join(told['request']['decisions'])}"
            )
            lines.extend(f"  approver    <{approver}>" for approver in told["request"]["approvers"])
        if told["not_before"]:
            at = datetime.fromtimestamp(min(max(told["not_before"], 0.0), 2**37), UTC)  # a wish may be beyond any date
            lines.append(f"  not before  {at:%Y-%m-%d %H:%M:%S} UTC")
        if told["idempotency_key"]:
            lines.append(f"  key         {told['idempotency_key']}: used within 24 hours, it would be dropped")
    else:
        lines.append(f"  reason      {told['reason']}")
        if told.get("hint"):
            lines.append(f"  fix         {told['hint']}")
    if told.get("note"):
        lines.append(f"  note        {told['note']}")
    return [escape(line) for line in lines]


_CLOSED = "producers cannot list the pickup folder: explain a copy of the file, or ask as the daemon's user"
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
