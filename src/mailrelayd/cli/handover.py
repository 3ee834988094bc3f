"""How `submit` and `sendmail` hand a message over: to the daemon, and where none answers into the pickup folder.

Both ways end on disk before they return, and both carry the same random key, so that a message whose answer was lost
may go the other way as well without being sent twice. Only the standard library is imported: see `config.light`.
"""

from __future__ import annotations

import json
import os
import pwd
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from mailrelayd.cli import failure
from mailrelayd.config.light import Light
from mailrelayd.operate import sockets
from mailrelayd.outbound import submission
from mailrelayd.outbound.submission import Options

SILENCE = 120.0  # seconds that the daemon may say nothing: it may make us wait for our turn, and for its disk
PATIENCE = 60.0  # seconds to try again while it has too much to do
PAUSE = 0.5  # seconds between two such tries, on average


@dataclass(frozen=True, slots=True)
class Handed:
    """The message is on disk. `queue_id` is "" where the daemon will read it from the pickup folder."""

    queue_id: str
    duplicate: bool = False


class NotHandedError(Exception):
    """Nothing was taken; `status` is the command's exit status (sysexits.h)."""

    def __init__(self, status: int, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.status, self.reason, self.hint = status, reason, hint

    def report(self) -> int:
        """Say it; the exit status."""
        return failure(self.status, self.reason, self.hint)


class _NoAnswerError(Exception):
    """The daemon did not say what became of the message; why."""


def hand_over(options: Options, message: bytes, light: Light, sleep: Callable[[float], None] = time.sleep) -> Handed:
    """Hand a whole message in, durably. Raises NotHandedError."""
    options = replace(options, key=os.urandom(16).hex())
    try:
        return _to_daemon(options, message, light, sleep)
    except _NoAnswerError as error:
        no_answer = str(error)
    try:
        return _to_folder(options, message, light)
    except OSError as error:
        reason = f"{no_answer}; and {light.pickup}: {error.strerror}"
        raise NotHandedError(os.EX_TEMPFAIL, "\n".join((reason, *light.trouble)), _advice()) from error


def _advice() -> str:
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = "USER"
    return (
        "start the daemon (systemctl start mailrelayd); or let this user hand in mail without it: "
        f"usermod --append --groups mailspool {user}"
    )


# -- the socket ----------------------------------------------------------------------------------------------------


def _to_daemon(options: Options, message: bytes, light: Light, sleep: Callable[[float], None]) -> Handed:
    path = sockets.submit_socket(light.state)
    tries = int(PATIENCE / PAUSE)
    while True:
        answer = _ask(path, options, message)
        match answer:
            case {"status": 0, "queue_id": str(queue_id)}:
                return Handed(queue_id, bool(answer.get("duplicate")))
            case {"status": int(status), "reason": str(reason), "again": bool(again)} if 0 < status < 256:
                if again and tries:
                    tries -= 1
                    sleep(PAUSE * os.urandom(1)[0] / 128)  # many must not come back at the same moment
                    continue
                if again or status == os.EX_PROTOCOL:
                    raise _NoAnswerError(f"{path}: {reason}")
                raise NotHandedError(status, reason, str(answer.get("hint", "")))
        raise _NoAnswerError(f"{path}: the daemon's answer cannot be understood")


def _ask(path: Any, options: Options, message: bytes) -> dict[str, Any]:
    """The daemon's answer. Raises _NoAnswerError."""
    try:
        name, folder = sockets.reachable(path)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(SILENCE)
                try:
                    connection.connect(name)
                except BlockingIOError:  # so many wait to be accepted that the kernel takes no more
                    return {"status": os.EX_TEMPFAIL, "reason": "too many connections wait", "again": True}
                with suppress(ConnectionError):  # it may have refused before it has read everything
                    _say(connection, options, message)
                line = _line(connection)
        finally:
            os.close(folder)
    except OSError as error:
        raise _NoAnswerError(f"{path}: no daemon answers ({error.strerror or 'it takes too long'})") from error
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise _NoAnswerError(f"{path}: the daemon ended before it answered")
    return answer


def _say(connection: socket.socket, options: Options, message: bytes) -> None:
    connection.sendall(submission.encode(options))
    view = memoryview(message)
    for start in range(0, len(view), submission.CHUNK):
        chunk = view[start : start + submission.CHUNK]
        connection.sendall(len(chunk).to_bytes(submission.LENGTH, "big"))
        connection.sendall(chunk)
    connection.sendall(submission.END)


def _line(connection: socket.socket) -> bytes:
    """What the daemon says, up to the end of its line or of the connection."""
    said = b""
    with suppress(ConnectionError):
        while not said.endswith(b"\n") and len(said) <= submission.LINE and (piece := connection.recv(1 << 16)):
            said += piece
    return said


# -- the folder ----------------------------------------------------------------------------------------------------


def _to_folder(options: Options, message: bytes, light: Light) -> Handed:
    """What the daemon would have done with the message, and then a file for it to find. Raises OSError."""
    from mailrelayd.outbound import handin, local
    from mailrelayd.outbound.drop import drop
    from mailrelayd.outbound.headers import Unreadable

    if len(message) > light.max_message_size:
        reason = f"the message is larger than {light.max_message_size} bytes ([spool] max_message_size)"
        raise NotHandedError(os.EX_DATAERR, reason, "send less")
    site = local.site(light.default_domain, light.local_recipient)
    edited = handin.edit(options, message, local.person(os.geteuid()), site, complete=True)
    assert edited is not None  # it is complete
    if isinstance(edited, Unreadable):
        raise NotHandedError(os.EX_DATAERR, edited.reason)
    drop(light.pickup, f"submit.{options.key}", edited.header + message[edited.body :], edited.envelope, options.key)
    return Handed("")
