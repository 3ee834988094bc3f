"""`mailrelayd sendmail`, `mailq` and `newaliases`: the interface that programs on a Unix machine expect of a mailer.

Flags are read as by Postfix's and Sendmail's own, which argparse cannot do: glued or apart, several in one word,
unknown ones ignored.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mailrelayd.cli import failure

if TYPE_CHECKING:
    import argparse

    from mailrelayd.config.light import Light
    from mailrelayd.outbound.submission import Options

Command = Callable[[list[str]], int]  # another command of this program
HELP = """\
usage: mailrelayd [--config FILE] sendmail [FLAG]... [RECIPIENT]...
(also by the names sendmail, mailq and newaliases)

Hands in the message on standard input, as sendmail(1) does. Exit status 0: the
message is on disk, and is sent or kept from here on; 64 the arguments, 65 the
message, 75 nothing could be stored: keep the message and try again.

  -t             recipients are those in To, Cc and Bcc, and the arguments
  -i, -oi        a line with a single dot does not end the message
  -f A, -r A     the envelope's sender; '' or '<>' is the null sender (default:
                 this user)
  -F NAME        the full name, for a From that the message lacks (default: the
                 user database's)
  -bs            speak SMTP on standard input and output
  -bp            what waits in the queue; as mailq
  -bi            nothing: there are no aliases; as newaliases
  -q             try now what waits, where this user may ask for it
  -bm            the default; -B -N -R -V -v and every flag not named here are
                 accepted and ignored
  --             the rest are recipients

A name without a domain gets [submit] default_domain; as a recipient, [submit]
local_recipient reads its mail.
"""

WITH_VALUE = "ABCFLMNOQRVXefhopr"  # the rest of the word, or the next word
GLUED = "bdq"  # the rest of the word
KNOWN = WITH_VALUE + GLUED + "tiIvmncGUsx"


class UsageError(Exception):
    """The arguments mean nothing that could be done."""


@dataclass(slots=True)
class Flags:
    """What the arguments say."""

    mode: str = "m"  # of -b; q for -q
    read_header: bool = False  # -t
    ignore_dots: bool = False  # -i
    sender: str | None = None  # -f, -r
    full_name: str = ""  # -F
    recipients: tuple[str, ...] = ()


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Name the command in the overview; its arguments never get as far as argparse."""
    from argparse import RawDescriptionHelpFormatter

    commands.add_parser(
        "sendmail",
        help="sendmail(1) compatible: hand in the message on standard input",
        description=HELP,
        formatter_class=RawDescriptionHelpFormatter,
        add_help=False,
    )


def run(name: str, arguments: Sequence[str], config: Path, command: Command) -> int:
    """`name`: what the program was called; `command` runs another one. The exit status (sysexits.h)."""
    if arguments[:1] in (["--help"], ["--version"]):
        return _about(arguments[0])
    try:
        flags = parse(arguments)
        if name == "mailq":
            flags.mode = "p"
        elif name == "newaliases":
            flags.mode = "i"
        match flags.mode:
            case "m" | "a":
                return _hand_in(flags, config)
            case "s":
                return _serve(config)
            case "p":
                return command(["--config", str(config), "queue"])
            case "i":
                return os.EX_OK
            case "q":
                return _flush(config, command)
        raise UsageError(f"-b{flags.mode} is not supported: the daemon is `mailrelayd run`")
    except UsageError as error:
        return failure(os.EX_USAGE, str(error), "mailrelayd sendmail --help")


def parse(arguments: Sequence[str]) -> Flags:
    """Read the arguments. Raises UsageError where a value is missing."""
    flags = Flags()
    recipients: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            recipients += words
        elif word == "-" or not word.startswith("-"):
            recipients.append(word)
        elif not word.startswith("--"):  # a long option is some other mailer's
            _read(word[1:], words, flags)
    flags.recipients = tuple(recipients)
    return flags


def _read(letters: str, words: Iterator[str], flags: Flags) -> None:
    """One word of flags, without its dash."""
    while letters:
        letter, letters = letters[0], letters[1:]
        value = ""
        if letter in WITH_VALUE:
            found = letters or next(words, None)
            if found is None:
                raise UsageError(f"-{letter} needs a value")
            value, letters = found, ""
        elif letter in GLUED:
            value, letters = letters, ""
        match letter:
            case "t":
                flags.read_header = True
            case "i":
                flags.ignore_dots = True
            case "o" if value == "i":
                flags.ignore_dots = True
            case "f" | "r":
                flags.sender = value
            case "F":
                flags.full_name = value
            case "b":
                flags.mode = value or "m"
            case "q":
                flags.mode = "q" if flags.mode == "m" else flags.mode
            case "I":
                flags.mode = "i"
            case _ if letter not in KNOWN:
                return  # what follows may be its value


def _about(word: str) -> int:
    if word == "--help":
        print(HELP, end="")
    else:
        from mailrelayd import __version__

        print(f"mailrelayd {__version__}")
    return os.EX_OK


# -- a message on standard input -----------------------------------------------------------------------------------


def _hand_in(flags: Flags, config: Path) -> int:
    from mailrelayd.cli.handover import NotHandedError, hand_over
    from mailrelayd.outbound.submission import Options

    if not flags.recipients and not flags.read_header:
        raise UsageError("no recipients: name them, or let -t take them from the header")
    options = Options("sendmail", flags.sender, flags.recipients, flags.read_header, flags.full_name)
    light = _light(config)
    try:
        message = _message(light, dots=not flags.ignore_dots)
    except OSError as error:
        return failure(os.EX_TEMPFAIL, f"standard input: {error.strerror}: nothing was handed in")
    try:
        if message is None:
            raise NotHandedError(os.EX_DATAERR, f"the message is larger than {light.max_message_size} bytes")
        hand_over(options, message, light)
    except NotHandedError as error:
        return error.report()
    return os.EX_OK


def _light(config: Path) -> Light:
    from mailrelayd.config.light import read

    return read(config)


def _message(light: Light, *, dots: bool) -> bytes | None:
    """All of standard input, as its writer must never meet a closed pipe; None: too much. Raises OSError.

    `dots`: a line that is a single dot ends the message.
    """
    most = None if light.trouble else light.max_message_size  # the daemon knows better than a default
    pieces: list[bytes] = []
    size, ended = 0, False
    with open(0, "rb", closefd=False) as stream:  # sys.stdin may be None
        for piece in stream if dots else iter(lambda: stream.read(1 << 16), b""):
            ended = ended or (dots and piece in (b".\n", b".\r\n", b"."))
            if ended:
                continue
            size += len(piece)
            if most is None or size <= most:
                pieces.append(piece)
            else:
                pieces.clear()
    return None if most is not None and size > most else b"".join(pieces)


# -- SMTP on standard input and output -----------------------------------------------------------------------------


def _serve(config: Path) -> int:
    from mailrelayd.cli.handover import NotHandedError, hand_over
    from mailrelayd.cli.smtponstdin import Conversation

    light = _light(config)

    def take(options: Options, message: bytes) -> tuple[int, str]:
        try:
            handed = hand_over(options, message, light)
        except NotHandedError as error:
            error.report()
            return error.status, str(error)
        return os.EX_OK, handed.queue_id

    with open(0, "rb", closefd=False) as said, os.fdopen(1, "wb", closefd=False) as answers:
        return Conversation(said, answers, take, light.max_message_size).run()


# -- what the other commands do -------------------------------------------------------------------------------------


def _flush(config: Path, command: Command) -> int:
    """Everything is due now. Who may not ask for it need not: what waits is tried again anyway."""
    from contextlib import redirect_stderr, redirect_stdout
    from io import StringIO

    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        command(["--config", str(config), "queue", "retry", "--all"])
    return os.EX_OK
