"""`mailrelayd config show`: what is in force, and where each value was written."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any


def register(commands: argparse._SubParsersAction[Any], common: argparse.ArgumentParser) -> None:
    """Add the command and its verbs."""
    parser = commands.add_parser("config", parents=[common], help="show what is in force, and where it was written")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    show = verbs.add_parser(
        "show",
        parents=[common],
        help="every key, its value and its origin",
        description="Prints every key in force as KEY = VALUE, with the place it was written; secrets are masked.",
    )
    show.add_argument("--json", action="store_true", help="print one JSON object: key -> value and origin")
    show.set_defaults(run=run_show)


def run_show(arguments: argparse.Namespace) -> int:
    """EX_OK, or EX_CONFIG with every problem on stderr."""
    from mailrelayd.cli.check import report
    from mailrelayd.config.load import ConfigError, load
    from mailrelayd.config.settings import flatten

    try:
        # Whoever may read the configuration may see it; the private key it names is the daemon's alone.
        loaded = load(arguments.config, check_files=False)
    except ConfigError as problem:
        report(problem.problems)
        return os.EX_CONFIG
    values = flatten(loaded.settings, written=True)
    if arguments.json:
        print(
            json.dumps(
                {key: {"value": value, "origin": loaded.origins[key]} for key, value in values.items()}, indent=2
            )
        )
        return os.EX_OK
    pairs = {
        key: f"{key} = {_written(value)}" if value is not None else f"# {key}: not set" for key, value in values.items()
    }
    width = max(len(pair) for pair in pairs.values() if len(pair) <= 72)
    for key, pair in pairs.items():
        print(f"{pair:{width}}    # {loaded.origins[key]}")
    return os.EX_OK


def _written(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, list):
        return f"[{', '.join(_written(each) for each in value)}]"
    return json.dumps(value, ensure_ascii=False)
