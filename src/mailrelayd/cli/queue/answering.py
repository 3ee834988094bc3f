"""Who answers: the running daemon, or, where none runs, the spool's own folders."""

from __future__ import annotations

import argparse
import base64
import os
import pwd
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mailrelayd.cli.daemonside import CommandError, ask, settings_of

if TYPE_CHECKING:
    from mailrelayd.config.settings import Settings
    from mailrelayd.outbound.life import Situation
    from mailrelayd.outbound.postmaster import Postmaster
    from mailrelayd.outbound.queue import Entry
    from mailrelayd.outbound.spool import Spool
    from mailrelayd.outbound.stored import Reader

BATCH = 100  # messages changed at a time
IDS = 100_000  # ids in one request: the daemon reads lines of up to 4 MiB


def answers(arguments: argparse.Namespace, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The lines that answer a request of the control socket, whether or not a daemon runs. Raises CommandError."""
    from mailrelayd.operate.control import NoDaemonError

    try:
        yield from ask(arguments, request)
    except NoDaemonError:
        settings = settings_of(arguments)
        try:
            yield from _of_spool(settings, request)
        except PermissionError as error:
            reason = f"{error.filename or settings.spool.directory}: {error.strerror}"
            raise CommandError(os.EX_NOPERM, reason, "run this as root or as the daemon's user") from error
        except OSError as error:
            raise CommandError(os.EX_IOERR, f"{settings.spool.directory}: {error.strerror}") from error


def changes(arguments: argparse.Namespace, verb: str, ids: list[str]) -> Iterator[dict[str, Any]]:
    """Carry out a verb; {"queue_id", "error"} for each id, as it goes. Raises CommandError."""
    for first in range(0, len(ids), IDS):
        yield from answers(arguments, {"command": "change", "verb": verb, "ids": ids[first : first + IDS]})


def _of_spool(settings: Settings, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The same as `mailrelayd.answers`, from what stands on disk. Raises CommandError, PermissionError."""
    from mailrelayd.clock import SystemClock
    from mailrelayd.outbound import queueid
    from mailrelayd.outbound.contents import contents
    from mailrelayd.outbound.life import life, unknown
    from mailrelayd.outbound.listing import Shape, shown

    if request["command"] == "change":
        yield from _change(settings, request["verb"], request["ids"])
        return
    now = SystemClock().now()
    with closing(_reader(settings)) as reader:
        match request:
            case {"command": "list"}:
                yield from map(shown, _chosen(reader, request, now))
            case {"command": "ids"}:
                yield {"ids": [entry.message.queue_id for entry in _chosen(reader, request, now)]}
            case {"command": "shape"}:
                shape = Shape()
                for entry in _chosen(reader, request, now):
                    shape.add(entry, now)
                yield from shape.table()
            case {"command": "show", "id": queue_id}:
                if (found := _find(reader, queue_id)) is None:
                    raise _no_such(queue_id)
                yield shown(found)
            case {"command": "explain", "id": queue_id}:
                found, situation = _find(reader, queue_id), _situation(settings)
                yield life(found, situation, now) if found else unknown(queue_id, situation)
            case {"command": "cat", "id": queue_id, "header": header}:
                if not queueid.valid(queue_id) or (source := reader.content(queue_id)) is None:
                    raise _no_such(queue_id)
                yield from ({"data": base64.b64encode(piece).decode()} for piece in contents(source, header=header))


def _no_such(queue_id: str) -> CommandError:
    """What is said about an id that nothing is known of."""
    return CommandError(os.EX_DATAERR, f"{queue_id}: no such message", "mailrelayd queue explain ID")


def _reader(settings: Settings) -> Reader:
    from mailrelayd.outbound.stored import Reader
    from mailrelayd.terms import reading_of

    try:
        return Reader(settings.spool.directory, reading_of(settings))
    except PermissionError:
        raise
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}"
        raise CommandError(os.EX_CANTCREAT, reason, "no daemon has run here yet; see [spool] directory") from error


def _chosen(reader: Reader, request: dict[str, Any], now: float) -> Iterator[Entry]:
    from mailrelayd.outbound.listing import Filter, chosen

    wanted = Filter.of_request(request["filter"])
    for queue_id in reader.ids(failed=wanted.failed):
        entry = reader.entry(queue_id, failed=wanted.failed)
        if entry is not None and chosen(entry, wanted, now):
            yield entry


def _find(reader: Reader, queue_id: str) -> Entry | None:
    from mailrelayd.outbound import queueid

    return reader.find(queue_id) if queueid.valid(queue_id) else None  # nothing else may become part of a path


def _situation(settings: Settings) -> Situation:
    from mailrelayd.outbound.life import Situation

    return Situation(
        "stopped",
        settings.node.name or "",
        settings.account.name if settings.account else "",
        probe=settings.retry.probe,
        expire=settings.retry.expire,
        keep_failed=settings.spool.keep_failed,
        keep_sent=settings.spool.keep_sent,
        dsn=settings.retry.dsn,
    )


# -- acting ------------------------------------------------------------------------------------------------------


def _change(settings: Settings, verb: str, ids: list[str]) -> Iterator[dict[str, Any]]:
    import asyncio

    from mailrelayd import durable
    from mailrelayd.clock import SystemClock
    from mailrelayd.daemon import Reports
    from mailrelayd.folders import node_name
    from mailrelayd.outbound.queue import Verb
    from mailrelayd.outbound.spool import Spool, SpoolError
    from mailrelayd.terms import apply_to, postmaster_of

    wish, by = Verb(verb), f"uid {os.getuid()}"
    _become_owner(settings.spool.directory)  # after the imports: that user may not be able to read our modules
    try:
        # The node's name goes into new ids only, and only a report gets one: else [state] directory is left alone.
        tell = wish is Verb.FAIL and settings.retry.dsn
        node = node_name(settings) if tell else "offline"
        spool = Spool(settings.spool.directory, node=node, clock=SystemClock(), report=Reports())
        with closing(spool), asyncio.Runner() as runner:
            apply_to(spool, settings)
            runner.run(spool.open_up())
            postmaster = postmaster_of(settings, spool, node, SystemClock()) if tell else None
            for first in range(0, len(ids), BATCH):
                batch = ids[first : first + BATCH]
                done = runner.run(spool.change(wish, batch, by))
                if postmaster is not None:
                    runner.run(_report(spool, postmaster, [queue_id for queue_id in batch if not done[queue_id]]))
                yield from ({"queue_id": queue_id, "error": done[queue_id]} for queue_id in batch)
    except durable.LockedError as error:
        reason = f"{error}: locked, but nobody answers"
        raise CommandError(os.EX_TEMPFAIL, reason, "the daemon is starting or stopping; try again") from error
    except (SpoolError, OSError) as error:
        raise CommandError(os.EX_NOPERM, str(error), "run this as root or as the daemon's user") from error


async def _report(spool: Spool, postmaster: Postmaster, given_up: list[str]) -> None:
    for queue_id in given_up:
        if (entry := await spool.find(queue_id)) is not None:
            await postmaster.report_failure(entry)


def _become_owner(directory: Path) -> None:
    """Where root asks, go on for good as the user whose queue it is: what root writes, the daemon could not read.

    Raises CommandError where there is no queue yet: a spool made here would be the wrong user's. Raises OSError.
    """
    try:
        owner = (directory / "queue").stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        reason = f"{error.filename}: {error.strerror}"
        raise CommandError(os.EX_CANTCREAT, reason, "no daemon has run here yet; see [spool] directory") from error
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    try:
        user = pwd.getpwuid(owner.st_uid)
    except KeyError:  # of a container or another machine: the number is all there is
        os.setgroups([])
        os.setgid(owner.st_gid)
    else:
        os.initgroups(user.pw_name, user.pw_gid)
        os.setgid(user.pw_gid)
    os.setuid(owner.st_uid)
