"""`mailrelayd config`: what is in force and where it was written; settings that come from elsewhere."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mailrelayd.config.importing import Plan

NOWHERE = Path("/nonexistent/account.toml")  # no file and no conf.d: a draft is judged by itself
LARGEST = 1024 * 1024  # bytes of properties


def register(commands: argparse._SubParsersAction[Any], common: argparse.ArgumentParser) -> None:
    """Add the command and its verbs."""
    parser = commands.add_parser(
        "config", parents=[common], help="show what is in force, and where it was written; import settings"
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    show = verbs.add_parser(
        "show",
        parents=[common],
        help="every key, its value and its origin",
        description="Prints every key in force as KEY = VALUE, with the place it was written; secrets are masked.",
    )
    show.add_argument("--json", action="store_true", help="print one JSON object: key -> value and origin")
    show.set_defaults(run=run_show)
    bring = verbs.add_parser(
        "import",
        parents=[common],
        help="take over the accounts of another instance",
        description="Makes the [outbound.NAME] and [inbound.NAME] sections here those of FILE: shows what would "
        "change, asks, and then adds, changes and removes them where they are written. Comments and order stay; what "
        "a file held before is kept beside it as .bak. A section with protected = true here is left alone. "
        "Nothing is written where the outcome would not be a configuration that holds.",
        epilog="examples:\n  mailrelayd config import /mnt/test/etc/mailrelayd --dry-run\n"
        "  mailrelayd config import accounts.toml --keep && mailrelayd reload",
    )
    bring.add_argument("file", metavar="FILE", type=Path, help="its configuration, or the folder that holds it")
    bring.add_argument("--dry-run", action="store_true", help="show what would change, and change nothing")
    bring.add_argument("--yes", action="store_true", help="do not ask")
    bring.add_argument("--keep", action="store_true", help="remove no section: only add and change")
    bring.add_argument(
        "--all",
        action="store_true",
        help="every other section too, but for [node], [state] and the spool's directory",
    )
    bring.add_argument("--json", action="store_true", help="print one JSON object; with --dry-run or --yes")
    bring.set_defaults(run=run_import)
    convert = verbs.add_parser(
        "import-properties",
        parents=[common],
        help="make an account of JavaMail's properties",
        description="Reads properties as Java does, with FlexDeploy's variables, and prints the account they describe. "
        "What cannot be taken over, or must be completed by hand, stands in it as a comment.",
        epilog="examples:\n  mailrelayd config import-properties mail.properties --name answers\n"
        "  mailrelayd config import-properties - --set IMAP_HOST_NAME=imap.example.com",
    )
    convert.add_argument("file", metavar="FILE|-", help="the properties; - is standard input")
    convert.add_argument("--name", default="imported", help="the account's name (default imported)")
    convert.add_argument("--direction", choices=("in", "out"), help="where the properties do not say it")
    convert.add_argument(
        "--set", metavar="VARIABLE=VALUE", action="append", default=[], help="what ${{VARIABLE}} stands for"
    )
    convert.set_defaults(run=run_import_properties)


def run_show(arguments: argparse.Namespace) -> int:
    """EX_OK, or EX_CONFIG with every problem on stderr."""
    from mailrelayd.cli.check import report
    from mailrelayd.config.literals import literal
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
        key: f"{key} = {literal(value)}" if value is not None else f"# {key}: not set" for key, value in values.items()
    }
    width = max(len(pair) for pair in pairs.values() if len(pair) <= 72)
    for key, pair in pairs.items():
        print(f"{pair:{width}}    # {_origin(loaded.origins[key])}")
    return os.EX_OK


def _origin(origin: str) -> str:
    """Where a key comes from: of one that another key says, that key first."""
    found = re.fullmatch(r"(.*) \(([^()]+)\)", origin)
    return f"as {found[2]}, {found[1]}" if found else origin


def run_import(arguments: argparse.Namespace) -> int:
    """EX_OK; EX_CONFIG where this configuration or the outcome does not hold, EX_DATAERR where FILE cannot be read."""
    from mailrelayd.cli import failure
    from mailrelayd.cli.check import report
    from mailrelayd.config import importing
    from mailrelayd.config.editing import EditError
    from mailrelayd.config.load import ConfigError

    try:
        plan = importing.plan(
            arguments.config, arguments.file, os.environ, everything=arguments.all, keep=arguments.keep
        )
    except importing.SourceError as error:
        return failure(os.EX_DATAERR, str(error), "name another instance's mailrelayd.toml, or the folder it is in")
    except importing.OutcomeError as error:
        text = f"nothing was written, because the outcome would not hold:\n{error}"
        return failure(os.EX_CONFIG, text, "the lines are those of the files as they would be; correct FILE, or --keep")
    except ConfigError as error:
        report(error.problems)
        return os.EX_CONFIG
    except EditError as error:
        text = f"nothing was written: {error} is written in a way that only a person can change"
        return failure(os.EX_CONFIG, text, "give it a section of its own, then import again")
    print(json.dumps(_plan_as_json(plan), indent=2) if arguments.json else _plan_as_text(plan))
    if arguments.dry_run or not plan.changes:
        return os.EX_OK
    if not arguments.yes:
        if arguments.json or not sys.stdin.isatty():
            return failure(os.EX_USAGE, "nothing was written: there is nobody to ask", "--yes, or --dry-run")
        print("Write this? [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            print("nothing was written")
            return os.EX_OK
    try:
        importing.carry_out(plan)
    except importing.ChangedError as error:
        return failure(os.EX_TEMPFAIL, f"nothing was written: {error} has changed meanwhile", "import again")
    except PermissionError as error:
        hint = "run this as root, or as the owner of the files"
        return failure(os.EX_NOPERM, f"cannot write beside {error.filename or 'it'}: {error.strerror}", hint)
    except OSError as error:
        return failure(os.EX_CANTCREAT, f"cannot write: {error.strerror}")
    if not arguments.json:
        for path in plan.after:
            print(f"written: {path}; before: {path}{importing.BACKUP}")
        print("next: mailrelayd check, then mailrelayd reload")
    return os.EX_OK


def _plan_as_text(plan: Plan) -> str:
    from mailrelayd.config.importing import leaves, shown
    from mailrelayd.config.wording import name
    from mailrelayd.operate.log import escape

    lines = [f"keep    {name(key)}: protected = true here" for key in plan.kept]
    for change in plan.changes:
        where = f"({', '.join(map(str, change.files))})"
        whole = isinstance(change.old, dict) or isinstance(change.new, dict)
        if whole:
            word = "remove" if change.new is None else "add" if change.old is None else "change"
            lines.append(f"{word:7} [{name(change.key)}] {where}")
            lines += [
                f"          {name(key[len(change.key) :])} = {shown(key, v)}"
                for key, v in leaves(change.key, change.new)
            ]
            continue
        old, new = (shown(change.key, value) if value is not None else None for value in (change.old, change.new))
        if old is None:
            lines.append(f"add     {name(change.key)} = {new} {where}")
        elif new is None:
            lines.append(f"remove  {name(change.key)} = {old} {where}")
        else:
            lines.append(f"change  {name(change.key)} = {old} -> {new if new != old else 'another'} {where}")
    lines += [f"note    {key}: the secret itself would stand there" for key in plan.literal_secrets]
    lines += [f"note    {key}: names a program that the daemon would run" for key in plan.programs]
    return "\n".join(map(escape, lines or ["nothing would change"]))


def _plan_as_json(plan: Plan) -> dict[str, object]:
    from mailrelayd.config.importing import leaves, shown
    from mailrelayd.config.wording import name

    def told(key: tuple[str, ...], value: object) -> dict[str, str]:
        return {name(one): shown(one, inner) for one, inner in leaves(key, value)}

    return {
        "changes": [
            {
                "key": name(change.key),
                "old": told(change.key, change.old),
                "new": told(change.key, change.new),
                "files": [str(path) for path in change.files],
            }
            for change in plan.changes
        ],
        "kept": [name(key) for key in plan.kept],
        "literal_secrets": plan.literal_secrets,
        "programs": plan.programs,
    }


def run_import_properties(arguments: argparse.Namespace) -> int:
    """EX_OK with the account on stdout; EX_DATAERR with each wrong line on stderr, EX_NOINPUT without a file."""
    from mailrelayd.cli import failure
    from mailrelayd.config import checks, javamail, javatext
    from mailrelayd.config.load import ConfigError, load

    shown = "standard input" if arguments.file == "-" else arguments.file
    try:
        name = checks.account_name(arguments.name)
    except ValueError as problem:
        return failure(
            os.EX_USAGE, f"--name {arguments.name!r} {problem}", "mailrelayd config import-properties --help"
        )
    try:
        given = _variables(arguments.set)
    except ValueError as problem:
        return failure(os.EX_USAGE, str(problem), "mailrelayd config import-properties --help")
    try:
        with sys.stdin.buffer if arguments.file == "-" else Path(arguments.file).open("rb") as stream:
            content = stream.read(LARGEST + 1)
    except OSError as error:
        return failure(os.EX_NOINPUT, f"{shown}: {error.strerror}")
    if len(content) > LARGEST:
        return failure(os.EX_DATAERR, f"{shown}: has more than 1 MiB; these are no properties")
    direction = {"in": "inbound", "out": "outbound", None: ""}[arguments.direction]
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("iso-8859-1")  # what Java wrote before version 9
    try:
        draft = javamail.draft(javatext.parse(text), name, given, direction)
    except javatext.TextError as error:
        problems = "\n".join(f"{shown}:{line}: {problem}" for line, problem in error.problems)
        return failure(os.EX_DATAERR, problems, "mail.imap.host=imap.example.com is how such a line looks")
    try:
        load(NOWHERE, {}, check_files=False, instead={NOWHERE: draft.text.encode()})
    except ConfigError as error:
        return failure(os.EX_DATAERR, "\n".join(_at_its_line(one, draft, shown) for one in error.problems))
    print(draft.text, end="")
    return os.EX_OK


def _variables(settings: list[str]) -> dict[str, str]:
    """What --set says. Raises ValueError."""
    from mailrelayd.config import properties

    known = [*properties.variables_of({}, "inbound", "")]
    found = {}
    for setting in settings:
        variable, equals, value = setting.partition("=")
        if not equals or variable not in known:
            raise ValueError(f"--set takes VARIABLE=VALUE, with one of {', '.join(known)}")
        found[variable] = value
    return found


def _at_its_line(problem: str, draft: Any, shown: str) -> str:
    """What is wrong with a draft, told where the property stands that it was made of."""
    found = re.match(rf"{re.escape(str(NOWHERE))}:(\d+): (.*)", problem, re.DOTALL)
    source = draft.sources.get(int(found[1])) if found else None
    return f"{shown}:{source.line}: {found[2]}" if found and source else problem
