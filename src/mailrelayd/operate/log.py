r"""How a log line looks and where it goes. What is worth a line, and its words: `events`.

Every line takes one path, the libraries' as well: structlog's filtering logger (a line below the level costs
about a microsecond), the standard library's logging, one formatter, one write to the file descriptor.

Three formats hold the same keys in the same order:

    text    message.sent queue_id=... from=<> to=<boss@example.com> status=sent response="250 2.0.0 Ok"
    logfmt  time=... level=info event=message.sent queue_id=... (the same pairs)
    json    {"time": "...", "level": "info", "event": "message.sent", "queue_id": "...", ...}

Values come from strangers: file names, addresses, what a server said. None of them can end a line, begin
another pair, hide text from a terminal or make the write fail: what is not printable is escaped (`\n`, `\x1b`,
`\u2028`; a byte that is no UTF-8 is `\xff`), and registered secrets read `********`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import structlog
from structlog.stdlib import ProcessorFormatter

Severity = Literal["debug", "info", "notice", "warning", "error"]
Value = str | int | float | bool | Sequence[str] | None
Listener = Callable[[Severity, str, Mapping[str, Value], str], None]

MASK = "********"
SHORTEST_SECRET = 4  # characters; masking "a" everywhere would hide the log and show the password's length

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_PRIORITY = {"error": 3, "warning": 4, "notice": 5, "info": 6, "debug": 7}  # sd-daemon(3), syslog's numbers
_COLOUR = {"error": "\x1b[1;31m", "warning": "\x1b[33m", "notice": "\x1b[32m", "info": "\x1b[36m", "debug": "\x1b[2m"}
_PLAIN = "\x1b[0m"

# Their debug lines hold passwords and mail, LOGIN and AUTH as sent and every literal received; or each request.
_TALKATIVE = ("aiosmtplib", "aioimaplib", "httpx2", "httpcore2")

# C0, DEL, C1, line and paragraph separators, everything that turns the direction of text, and surrogates
# (what is left of a byte that was no UTF-8, PEP 383).
_UNSAFE = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_UNSAFE_CHARACTER = re.compile(f"[{_UNSAFE}]")
_QUOTED_CHARACTER = re.compile(f'[{_UNSAFE}"\\\\]')
_SURROGATE = re.compile("[\ud800-\udfff]")
_NEEDS_QUOTES = re.compile(r'[\s"\\=]')
_NAMED = {"\n": r"\n", "\r": r"\r", "\t": r"\t", '"': r"\"", "\\": r"\\"}


def setup(format: str = "auto", level: str = "info", stream: TextIO | None = None) -> None:
    """Send every line from now on to `stream` (standard error if not given), and nothing below `level`.

    `format` is auto, text, json or logfmt; `level` is debug, info, warning or error (ValueError otherwise).
    auto: text in colour on a terminal, text under journald, else json. May be called again, after a reload.
    """
    if format not in ("auto", "text", "json", "logfmt") or level not in _LEVELS:
        raise ValueError(f"no such log format or level: {format!r}, {level!r}")
    stream = sys.stderr if stream is None else stream
    threshold = _LEVELS[level]
    journal = under_journald(stream, os.environ)
    terminal = not journal and stream.isatty()
    if format == "auto":
        format = "text" if journal or terminal else "json"
    colour = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    handler = _Stream(stream)
    handler.setFormatter(ProcessorFormatter(processors=[_Renderer(format, journal=journal, colour=colour)]))
    root = logging.getLogger()
    for earlier in [h for h in root.handlers if isinstance(h, _Stream)]:
        root.removeHandler(earlier)
    root.addHandler(handler)
    root.setLevel(threshold)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(threshold, logging.WARNING))
    logging.captureWarnings(True)
    global _logger
    _logger = _filtering_logger(threshold)


def emit(severity: Severity, event: str, pairs: Mapping[str, Value]) -> None:
    """Write one line. Only `events` calls this; a pair whose value is None is left out.

    A notice is an info line that journald shows one step higher; the level "warning" hides both.
    """
    write = getattr(_logger, "info" if severity == "notice" else severity)
    write(event, severity=severity, **pairs)
    _tell(severity, event, pairs)


def emit_error(event: str, pairs: Mapping[str, Value], error: BaseException) -> None:
    """Write one line at error level, with the traceback of `error` below it (text) or in `exception`."""
    _logger.error(event, severity="error", exc_info=error, **pairs)
    _tell("error", event, pairs)


def listen(listener: Listener | None, *, also: frozenset[str] = frozenset()) -> None:
    """Have one listener told of every event from notice on, whatever the level: severity, event, pairs and the line.

    `also`: events that it is told of whatever their severity.

    The line is what text shows behind the time: escaped, without secrets. None: nobody any more.
    """
    global _listener, _listened_for
    _listener, _listened_for = listener, also


def _tell(severity: Severity, event: str, pairs: Mapping[str, Value]) -> None:
    if _listener is None or (severity in ("debug", "info") and event not in _listened_for):
        return
    shown = {key: _concealed(value) for key, value in pairs.items() if value is not None}
    _listener(severity, event, pairs, " ".join([event, *(f"{key}={_quoted(value)}" for key, value in shown.items())]))


def conceal(secret: str, of: str = "") -> None:
    """Show `secret` as `********` in every value from now on: as it is, as Python and JSON quote it, and in base64.

    base64 is recognised at any offset (AUTH PLAIN sends user and password as one string). Secrets shorter
    than four characters are not masked.

    `of`: whose it is, for one that a command may give out anew each time. Of those the latest two are concealed, as
    connections that were opened with the one before may still be there; without `of` it is for good, until `forget`.
    """
    if len(secret) < SHORTEST_SECRET:
        return
    if secret not in _secrets:
        _secrets[secret] = _disguises(secret)
        _look_for_secrets()
    if not of:
        _for_good.add(secret)
        return
    latest = [*(one for one in _latest.get(of, ()) if one != secret), secret]
    _latest[of] = tuple(latest[-2:])
    for one in latest[:-2]:
        if one not in _for_good and not any(one in others for others in _latest.values()):
            forget(one)


def forget(secret: str) -> None:
    """Conceal `secret` no longer: each one makes every line slower, and tokens come anew every hour."""
    _for_good.discard(secret)
    if _secrets.pop(secret, None) is not None:
        _look_for_secrets()


def masked(text: str) -> str:
    """`text` without the secrets that were concealed, for whatever shows it elsewhere than in the log."""
    return _secret_forms.sub(MASK, text) if _secret_forms else text


def escape(text: str) -> str:
    r"""`text` on one line: what is not printable as `\n`, `\x1b`, `\u2028`; a stray byte 0xff as `\xff`."""
    return text if text.isprintable() else _UNSAFE_CHARACTER.sub(_escaped, text)


def under_journald(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether journald reads `stream`: systemd.exec(5), JOURNAL_STREAM is the device and inode it connected."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class Repeats:
    """Which trouble is news: remembers what was last said about each (event, key).

    Words with a digit in them are not compared: servers put connection ids, times and their own addresses
    into otherwise equal answers.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], str] = {}

    def again(self, event: str, key: str, reason: str) -> bool:
        """Whether the last `event` of `key` had the same reason; remembers this one."""
        reason = re.sub(r"\S*\d\S*", "#", reason)
        same = self._last.get((event, key)) == reason
        self._last[event, key] = reason
        return same

    def over(self, event: str, key: str) -> bool:
        """The trouble has ended: the next one is news, whatever it says. Whether there was any."""
        return self._last.pop((event, key), None) is not None


class _Stream(logging.Handler):
    """Writes whole lines to a file descriptor, and outlives it.

    Not through the text stream where there is a descriptor: a line that a closed pipe or a full disk refused
    would stay in its buffer, be tried again with every later line, and spoil the exit code in the end.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._text = stream
        self._cut = False  # the last line ends in the middle
        self._descriptor: int | None = None
        with contextlib.suppress(OSError, ValueError):  # io.UnsupportedOperation is both
            self._descriptor = stream.fileno()

    def emit(self, record: logging.LogRecord) -> None:
        # There is nobody left to tell when the log itself fails; mail matters more.
        with contextlib.suppress(OSError, ValueError):
            self._write(self._formatted(record) + "\n")

    def _formatted(self, record: logging.LogRecord) -> str:
        try:
            return self.format(record)
        except Exception as error:  # noqa: BLE001 - a value whose str() fails, an argument too few: say so, go on
            trouble = f"a line could not be formatted: {type(error).__name__} at {record.pathname}:{record.lineno}"
            return self.format(logging.LogRecord(record.name, logging.ERROR, "", 0, trouble, None, None))

    def _write(self, text: str) -> None:
        if self._descriptor is None:
            self._text.write(text)
            self._text.flush()
            return
        data = memoryview((b"\n" if self._cut else b"") + text.encode("utf-8", "backslashreplace"))
        while data:
            data = data[os.write(self._descriptor, data) :]
            self._cut = bool(data)


class _Renderer:
    """The last processor: an event with its pairs, or a library's record, as text."""

    def __init__(self, format: str, *, journal: bool, colour: bool) -> None:
        self._render = {"text": self._text, "logfmt": self._logfmt, "json": self._json}[format]
        self._journal = journal
        self._colour = colour

    def __call__(self, _logger: Any, _method: str, fields: Any) -> str:
        record: logging.LogRecord = fields.pop("_record")
        severity = fields.pop("severity", None) or _severity(record.levelno)
        trace = _trace(fields.pop("exc_info", None))
        event = fields.pop("event")
        if not fields.pop("_from_structlog"):
            fields = {"logger": record.name, "message": event}
            event = "library.message"
        pairs = {key: _concealed(value) for key, value in fields.items() if value is not None}
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
        lines = self._render(time, severity, event, pairs, _concealed(trace))
        if self._journal:  # on every line: each is an entry of its own there
            prefix = f"<{_PRIORITY[severity]}>"
            return "\n".join(prefix + line for line in lines)
        return "\n".join(lines)

    def _text(self, time: str, severity: str, event: str, pairs: dict[str, Any], trace: str) -> list[str]:
        """For people. journald stamps and ranks the lines itself, so there the event comes first."""
        line = " ".join([escape(event), *(f"{key}={_quoted(value)}" for key, value in pairs.items())])
        if self._colour:
            name, space, rest = line.partition(" ")
            line = f"{_COLOUR['debug']}{time}{_PLAIN} {_COLOUR[severity]}{name}{_PLAIN}{space}{rest}"
        elif not self._journal:
            line = f"{time} {severity} {line}"
        # Indented, so that no line of an exception's message can pass for an event.
        return [line, *("    " + escape(below) for below in trace.rstrip("\n").split("\n") if below)]

    def _logfmt(self, time: str, severity: str, event: str, pairs: dict[str, Any], trace: str) -> list[str]:
        head = {"time": time, "level": severity, "event": event}
        tail = {"exception": trace} if trace else {}
        return [" ".join(f"{key}={_quoted(value)}" for key, value in (head | pairs | tail).items())]

    def _json(self, time: str, severity: str, event: str, pairs: dict[str, Any], trace: str) -> list[str]:
        head = {"time": time, "level": severity, "event": event}
        tail = {"exception": trace} if trace else {}
        document = {key: _for_json(value) for key, value in (head | pairs | tail).items()}
        return [json.dumps(document)]  # printable ASCII: JSON's own \uXXXX is the escape


def _quoted(value: Any) -> str:
    """A value of text and logfmt: bare where nothing can be misread, else in quotes with backslash escapes."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(round(value, 3))
    text = value if isinstance(value, str) else ",".join(value) if isinstance(value, list) else str(value)
    if text and text.isprintable() and not _NEEDS_QUOTES.search(text):
        return text
    return f'"{_QUOTED_CHARACTER.sub(_escaped, text)}"'


def _for_json(value: Any) -> Any:
    if isinstance(value, str):  # lone surrogates are no Unicode: strict readers refuse the whole line
        return _SURROGATE.sub(_escaped, value)
    if isinstance(value, list):
        return [_for_json(item) for item in value]
    if isinstance(value, float):  # JSON knows no infinity
        return round(value, 3) if math.isfinite(value) else str(value)
    return value


def _escaped(match: re.Match[str]) -> str:
    character = match.group()
    code = ord(character)
    if character in _NAMED:
        return _NAMED[character]
    if 0xDC80 <= code <= 0xDCFF:  # PEP 383: the byte code - 0xDC00
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}"


def _look_for_secrets() -> None:
    forms = sorted({form for all_forms in _secrets.values() for form in all_forms}, key=len, reverse=True)
    global _secret_forms
    _secret_forms = re.compile("|".join(map(re.escape, forms))) if forms else None


def _concealed(value: Any) -> Any:
    """`value` without secrets, in one of the types the formats know: str, bool, int, float, list of str."""
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [_concealed(str(item)) for item in value]
    return _concealed(str(value))


def _disguises(secret: str) -> set[str]:
    """Every form of `secret` to look for. base64 packs three bytes into four characters: one form per offset."""
    data = secret.encode("utf-8", "surrogateescape")
    forms = {secret, repr(secret)[1:-1], json.dumps(secret)[1:-1]}
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + data).decode().rstrip("=")
        # Only the characters made of nothing but the secret's bits: the first one may hold bits of what
        # stands before, the last one of what follows.
        core = encoded[-(-offset * 8 // 6) : (offset + len(data)) * 8 // 6]
        forms |= {core, core.translate(str.maketrans("+/", "-_"))}
    return forms


def _trace(exc_info: Any) -> str:
    error = exc_info[1] if isinstance(exc_info, tuple) else exc_info
    return "".join(traceback.format_exception(error)) if isinstance(error, BaseException) else ""


def _severity(levelno: int) -> Severity:
    if levelno >= logging.ERROR:
        return "error"
    if levelno >= logging.WARNING:
        return "warning"
    return "info" if levelno >= logging.INFO else "debug"


def _filtering_logger(threshold: int) -> Any:
    """structlog's filtering logger, bound: the lazy one would be assembled anew for every line."""
    return structlog.wrap_logger(
        logging.getLogger("mailrelayd"),
        processors=[ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        context_class=dict,
    ).bind()


_logger = _filtering_logger(logging.INFO)
_listener: Listener | None = None
_listened_for: frozenset[str] = frozenset()
_secrets: dict[str, set[str]] = {}
_for_good: set[str] = set()
_latest: dict[str, tuple[str, ...]] = {}  # whose -> the one before, and the one now
_secret_forms: re.Pattern[str] | None = None
