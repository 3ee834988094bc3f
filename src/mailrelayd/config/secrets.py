"""Secrets: what the configuration writes is a *reference*; the secret itself is fetched where it is used.

    credential:NAME   a file of that name in $CREDENTIALS_DIRECTORY (systemd's LoadCredential=)
    file:PATH         a file nobody but its owner and group may touch
    env:VAR           an environment variable
    command:ARGV      the first line a command prints; no shell, ten seconds
    text:LITERAL      the text behind the colon, for secrets that look like one of these
    anything else     the secret itself

Nothing in here puts a secret into an exception, a `repr`, a log line or a pickle.
"""

from __future__ import annotations

import hmac
import os
import re
import select
import shlex
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

LIMIT: Final = 64 * 1024  # bytes; an access token has a few kilobytes, a log file mistaken for one has more
COMMAND_SECONDS: Final = 10.0
MASK: Final = "********"

_CREDENTIAL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@-]{0,254}", re.ASCII)  # a file name: no "/", no leading dot
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}", re.ASCII)
_KINDS = ("credential", "file", "env", "command", "text")


class SecretError(Exception):
    """A secret that cannot be had; the text names the key and the cure, never the secret."""


class Secret:
    """A text that shows itself only when asked by `reveal()`: here, a reference or a literal secret."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself: hand it on, never print it."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        mine, theirs = (text.encode("utf-8", "surrogatepass") for text in (self._text, other._text))
        return hmac.compare_digest(mine, theirs)

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __repr__(self) -> str:
        return f"Secret({MASK!r})" if self._text else "Secret('')"

    def __str__(self) -> str:
        return MASK if self._text else ""

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Secret is not pickled: what is written down can be read")


def split(reference: Secret | str) -> tuple[str, str]:
    """The kind of a reference and what stands behind its colon; a secret written as it is has the kind `text`."""
    text = reference.reveal() if isinstance(reference, Secret) else reference
    kind, colon, rest = text.partition(":")
    return (kind, rest) if colon and kind in _KINDS else ("text", text)


def describe(reference: Secret | str) -> str:
    """How a secret's reference is shown to people: where it comes from, or `********` where it is the secret.

    Of a command only the program is shown, since its arguments may be secret themselves.
    """
    kind, rest = split(reference)
    if kind == "text":
        return MASK if rest else ""
    if kind == "command":
        try:
            program, *arguments = shlex.split(rest)
        except ValueError:
            return f"command:{MASK}"
        return f"command:{program} {MASK}" if arguments else f"command:{program}"
    return f"{kind}:{rest}"


def describe_public(reference: str) -> str:
    """How a reference to something that is no secret is shown, such as a user's name: a literal as it is."""
    return reference if split(reference)[0] == "text" else describe(reference)


def malformed(reference: Secret | str) -> str | None:
    """What is wrong with the way a reference is written (and how to fix it), or None; nothing is fetched."""
    kind, rest = split(reference)
    if kind == "credential" and not _CREDENTIAL.fullmatch(rest):
        return "credential:NAME needs a plain file name: letters, digits, dots, dashes and underscores"
    if kind == "file" and (not Path(rest).is_absolute() or _has_control(rest)):
        return "file:PATH needs an absolute path, such as file:/etc/mailrelayd/smtp.password"
    if kind == "env" and not _VARIABLE.fullmatch(rest):
        return "env:VAR needs the name of an environment variable: letters, digits and underscores"
    if kind == "command":
        try:
            arguments = shlex.split(rest)
        except ValueError:
            return "command:ARGV has a quote or a backslash without its end"
        if not arguments or _has_control(rest):
            return "command:ARGV needs a program and its arguments, on one line"
    if kind == "text" and _has_control(rest):
        return _CONTROL
    return None


def resolve(reference: Secret | str, *, key: str, environ: Mapping[str, str] = os.environ) -> str:
    """The secret a reference stands for, fetched anew at every call.

    `key` is the configuration key the reference was written under: errors begin with it. An empty reference is a
    key that is not set, and gives "". Reads files and may run a command for up to ten seconds: in a coroutine, call
    it by `asyncio.to_thread`. Raises SecretError.
    """
    if not reference:
        return ""
    try:
        return _resolve(reference, environ)
    except _UnavailableError as problem:
        raise SecretError(f"{key}: {problem}") from None  # no chain: a decoding error carries the bytes it met


def program_missing(reference: Secret | str) -> str | None:
    """For `command:`: the program that cannot be found or executed, or None; nothing is run."""
    kind, rest = split(reference)
    if kind != "command" or malformed(reference):
        return None
    program = shlex.split(rest)[0]
    return None if shutil.which(program) else program


class _UnavailableError(Exception):
    """Why a secret cannot be had, without the key it belongs to."""


_CONTROL = "a line break or a NUL inside a secret is refused: it would end the command that carries it"


def _has_control(text: str) -> bool:
    return any(character in text for character in "\r\n\0")


def _resolve(reference: Secret | str, environ: Mapping[str, str]) -> str:
    wrong = malformed(reference)
    if wrong:
        raise _UnavailableError(wrong)
    kind, rest = split(reference)
    name = describe(reference)
    match kind:
        case "credential":
            directory = environ.get("CREDENTIALS_DIRECTORY")
            if not directory:
                raise _UnavailableError(
                    f"{name}: $CREDENTIALS_DIRECTORY is not set: the systemd unit sets it, and root reads "
                    "/etc/mailrelayd/credentials; elsewhere write file:PATH"
                )
            # The unit loads a whole folder, whose files systemd prefixes with the credential's own name.
            path = Path(directory) / rest
            if not path.exists():
                path = Path(directory) / f"mailrelayd_{rest}"
            cure = f"put it into /etc/mailrelayd/credentials/{rest} and restart (credentials are copied at start)"
            found = _read(path, name, cure, private=False)
        case "file":
            found = _read(Path(rest), name, "create it, or correct the path", private=True)
        case "env":
            if rest not in environ:
                raise _UnavailableError(f"{name}: the variable is not set; set it where the daemon is started")
            found = environ[rest]
        case "command":
            found = _first_line(shlex.split(rest), name)
        case _:
            found = rest
    if not found:
        raise _UnavailableError(f"{name or 'text'}: it is empty; put the secret there, on the first line")
    if _has_control(found):
        raise _UnavailableError(f"{name}: {_CONTROL}")
    if any("\ud800" <= character <= "\udfff" for character in found):  # what Python makes of other bytes
        raise _UnavailableError(f"{name}: it is not UTF-8; write the secret as plain text")
    return found


def _decode(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise _UnavailableError(f"{name}: it is not UTF-8; write the secret as plain text") from None


def _read(path: Path, name: str, cure: str, *, private: bool) -> str:
    """The text of a file, without one line end behind it. `private`: others must have no permission on it."""
    try:
        # Symlinks are followed (Kubernetes mounts secrets that way); a FIFO must not make the daemon wait.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except FileNotFoundError:
        raise _UnavailableError(f"{name}: there is no such file; {cure}") from None
    except PermissionError:
        raise _UnavailableError(
            f"{name}: this user may not read it; chgrp it to the daemon's group and chmod 640 {path}"
        ) from None
    except OSError as error:
        raise _UnavailableError(f"{name}: cannot be opened: {error.strerror}; {cure}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _UnavailableError(f"{name}: it is not a regular file; {cure}")
        if private and status.st_mode & 0o007:
            raise _UnavailableError(f"{name}: every user of this machine has access to it; chmod 640 {path}")
        content = b""
        while len(content) <= LIMIT and (piece := os.read(descriptor, LIMIT + 1 - len(content))):
            content += piece
    except OSError as error:
        raise _UnavailableError(f"{name}: cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if len(content) > LIMIT:
        raise _UnavailableError(f"{name}: it has more than 64 KiB; that is no secret, correct the path")
    return _without_line_end(_decode(content, name))


def _without_line_end(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text


def _first_line(argv: list[str], name: str) -> str:
    """The first line a program prints. Its stderr is dropped: it may repeat what it was given."""
    deadline = time.monotonic() + COMMAND_SECONDS
    try:
        child = subprocess.Popen(  # noqa: S603 - the program is the configuration's choice; no shell reads it
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            # It may need what people set for it, and has no use for our own settings, which may hold secrets.
            env={name: text for name, text in os.environ.items() if not name.upper().startswith("MAILRELAYD__")},
        )
    except OSError as error:
        raise _UnavailableError(f"{name}: cannot be started: {error.strerror}; correct the program's path") from None
    assert child.stdout is not None
    content: bytes | None = None
    status = 0
    with child.stdout as pipe:
        try:
            content = _drain(pipe.fileno(), deadline)
            if content is not None and len(content) <= LIMIT:
                status = child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            content = None
        finally:
            if child.returncode is None:  # not reaped yet, so the number cannot belong to anybody else
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
    if content is None:
        raise _UnavailableError(f"{name}: no end after {COMMAND_SECONDS:g} seconds; run it by hand to see why")
    if len(content) > LIMIT:
        raise _UnavailableError(f"{name}: it printed more than 64 KiB; it must print the secret on its first line")
    if status:
        raise _UnavailableError(f"{name}: it ended with status {status}; run it by hand and see what it says")
    return _decode(content, name).partition("\n")[0].removesuffix("\r")


def _drain(descriptor: int, deadline: float) -> bytes | None:
    """What comes out of a pipe until its end or one byte past LIMIT; None where the deadline comes first."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    content = b""
    while len(content) <= LIMIT:
        remaining = deadline - time.monotonic()
        if remaining <= 0 or not poll.poll(remaining * 1000):
            return None
        piece = os.read(descriptor, LIMIT + 1 - len(content))
        if not piece:
            break
        content += piece
    return content
