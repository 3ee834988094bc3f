"""`mailrelayd completion SHELL`: commands, options, files and queue ids at the press of a key."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator

SHELLS = ("bash", "zsh", "fish")
IDS = "ids"  # not a shell: what the scripts ask for
MOST = 500  # ids offered; nobody looks through more
EXAMPLES = """\
examples:
  source <(mailrelayd completion bash)                        in this shell
  mailrelayd completion bash > /etc/bash_completion.d/mailrelayd
  mailrelayd completion zsh > /usr/local/share/zsh/site-functions/_mailrelayd
  mailrelayd completion fish > ~/.config/fish/completions/mailrelayd.fish

Queue ids are asked for with `mailrelayd completion ids`, which is silent where the queue cannot be read.
"""


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Add the command."""
    completion = commands.add_parser(
        "completion",
        parents=[common],
        help="a script that lets a shell complete this program's commands",
        description="Prints a script for SHELL: bash, zsh or fish. It knows every command and option, "
        "and completes files and the ids of what stands in the queue.",
        epilog=EXAMPLES,
    )
    completion.add_argument("shell", metavar="SHELL", choices=(*SHELLS, IDS), help="bash, zsh or fish")
    completion.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the script, or the ids."""
    if arguments.shell == IDS:
        print("\n".join(_ids(arguments)))
        return os.EX_OK
    import shtab

    from mailrelayd.cli.commandline import parser

    top = parser()
    complete_ids = shtab.cmd(f"{top.prog} completion {IDS}")
    for action in _actions(top):
        if action.metavar in ("FILE", "PATH", "F"):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.metavar == "ID":
            action.complete = complete_ids  # type: ignore[attr-defined]
    print(shtab.complete(top, arguments.shell))
    return os.EX_OK


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Every option and argument of every command."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)


def _ids(arguments: argparse.Namespace) -> Iterator[str]:
    """The newest ids, waiting and failed; none where nobody may tell them: an error has no place in a prompt."""
    from mailrelayd.cli.daemonside import CommandError
    from mailrelayd.cli.queue.answering import answers
    from mailrelayd.outbound.listing import Filter

    for failed in (False, True):
        try:
            request = {"command": "ids", "filter": Filter(failed=failed).as_request()}
            found = [queue_id for answer in answers(arguments, request) for queue_id in answer["ids"]]
        except (CommandError, OSError):
            continue
        yield from found[-MOST:]
