"""`mailrelayd reply explain`: what would be read from mails, without touching any mailbox or request."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mailrelayd.approvals.values import Options


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Add the command."""
    reply = commands.add_parser("reply", parents=[common], help="questions about answers to approval requests")
    verbs = reply.add_subparsers(title="verbs", metavar="VERB", required=True)
    explain = verbs.add_parser(
        "explain",
        parents=[common],
        help="what would be read from mails: their kind, the decision, and the rules that led there",
        description="Prints one JSON object per mail. Sender and token are not looked at: the text is judged alone, "
        "with the words of [approvals] where the configuration can be read. Exit status 66 where a file cannot.",
        epilog="example:\n  mailrelayd reply explain *.eml | jq -r '[.file, .decision, .reason] | @tsv'",
    )
    explain.add_argument("files", metavar="FILE", nargs="+", help="a mail as it arrived (.eml); - is standard input")
    explain.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the readings."""
    from mailrelayd.approvals.lexicon import VocabularyError
    from mailrelayd.approvals.mime import JUDGED
    from mailrelayd.approvals.reading import read
    from mailrelayd.cli import failure
    from mailrelayd.cli.daemonside import CommandError

    try:
        options = _options(arguments.config)
    except CommandError as error:
        return error.report()
    status = os.EX_OK
    for name in arguments.files:
        try:
            if name == "-":
                data = sys.stdin.buffer.read(JUDGED + 1)
            else:
                with Path(name).open("rb") as file:
                    data = file.read(JUDGED + 1)
            reading = read(data, options)
        except OSError as error:
            status = failure(os.EX_NOINPUT, f"{name}: {error.strerror}")
            continue
        except VocabularyError as error:
            return failure(os.EX_CONFIG, f"{arguments.config}: approvals: {error}")
        told = {
            "file": name,
            "kind": reading.kind,
            "decision": reading.decision,
            "comment": reading.comment,
            "reason": reading.reason,
            "new_text": reading.new_text,
            "rules": reading.rules,
        }
        print(json.dumps(told))
    return status


def _options(config: Path) -> Options:
    """How [approvals] says that replies are read; the built-in rules where there is no configuration to be read."""
    from mailrelayd.approvals.values import Options
    from mailrelayd.cli.daemonside import settings_of
    from mailrelayd.config.light import DEFAULT_CONFIG

    if config == DEFAULT_CONFIG and not os.access(config, os.R_OK):
        return Options()
    approvals = settings_of(argparse.Namespace(config=config)).approvals
    return Options() if approvals is None else Options.of(approvals)
