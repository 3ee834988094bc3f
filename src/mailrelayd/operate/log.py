r"""How a log line looks and where it goes. What is worth a line, and its words: `events`.

Our lines go through structlog's filtering logger (below the level one costs a fraction of a microsecond), the
libraries' through the standard library's logging; one renderer and one write to the file descriptor serve both.
Until `setup` is called, ours go to the standard library as well, for whoever embeds us to listen to.

Three formats hold the same keys in the same order:

    text    message.sent queue_id=... from=<> to=<boss@example.com> status=sent response="250 2.0.0 Ok"
    logfmt  time=... level=info event=message.sent queue_id=... (the same pairs)
    json    {"time": "...", "level": "info", "event": "message.sent", "queue_id": "...", ...}

Values come from strangers: file names, addresses, what a server said. None of them can end a line, begin
another pair, hide text from a terminal or make the write fail: what is not printable is escaped (`\n`, `\x1b`,
`\u2028`; a byte that is no UTF-8 is `\xff`), and registered secrets read `********`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import structlog
from structlog.stdlib import ProcessorFormatter

from mailrelayd.clock import SystemClock
from mailrelayd.operate import spelling
from mailrelayd.operate.secrecy import MASK as MASK
from mailrelayd.operate.secrecy import conceal as conceal
from mailrelayd.operate.secrecy import concealed, may_show_one
from mailrelayd.operate.secrecy import forget as forget
from mailrelayd.operate.secrecy import masked as masked
from mailrelayd.operate.spelling import escape as escape

Severity = Literal["debug", "info", "notice", "warning", "error"]
Value = str | int | float | bool | Sequence[str] | None
Listener = Callable[[Severity, str, Mapping[str, Value], str], None]

MOST_HELD = 64  # lines of a loop that leave together

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_FOREIGN = "library.message"
_PRIORITY = {"error": 3, "warning": 4, "notice": 5, "info": 6, "debug": 7}  # sd-daemon(3), syslog's numbers
_COLOUR = {"error": "\x1b[1;31m", "warning": "\x1b[33m", "notice": "\x1b[32m", "info": "\x1b[36m", "debug": "\x1b[2m"}
_PLAIN = "\x1b[0m"

# Their debug lines hold passwords and mail, LOGIN and AUTH as sent and every literal received; or each request.
_TALKATIVE = ("aiosmtplib", "aioimaplib", "httpx2", "httpcore2")


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

    handler = _Stream(stream, _Renderer(format, journal=journal, colour=colour))
    root = logging.getLogger()
    for earlier in [h for h in root.handlers if isinstance(h, _Stream)]:
        root.removeHandler(earlier)
    root.addHandler(handler)
    root.setLevel(threshold)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(threshold, logging.WARNING))
    logging.captureWarnings(True)
    global _logger, _stream
    _logger, _stream = _filtering_logger(threshold, handler), handler


def is_wanted(severity: Severity, event: str) -> bool:
    """Whether a line of this kind would be seen by anybody: for events that happen often and are seldom shown."""
    level = _LEVELS["info" if severity == "notice" else severity]
    return _logger.is_enabled_for(level) or (_listener is not None and _is_told(severity, event))


def emit(severity: Severity, event: str, pairs: Mapping[str, Value]) -> None:
    """Write one line. Only `events` calls this; a pair whose value is None is left out.

    A notice is an info line that journald shows one step higher; the level "warning" hides both.
    """
    write = getattr(_logger, "info" if severity == "notice" else severity)
    write(event, severity=severity, pairs=pairs)
    if _listener is not None and _is_told(severity, event):
        _tell(_listener, severity, event, pairs)


def emit_error(event: str, pairs: Mapping[str, Value], error: BaseException) -> None:
    """Write one line at error level, with the traceback of `error` below it (text) or in `exception`."""
    _logger.error(event, severity="error", pairs=pairs, exc_info=error)
    if _listener is not None:
        _tell(_listener, "error", event, pairs)


def together() -> AbstractContextManager[None]:
    """The lines that are written inside leave in few writes instead of one each, the last of them at its end.

    For loops that log what has happened and wait for nothing: each write lets go of the interpreter, and another thread
    takes it.
    """
    return contextlib.nullcontext() if _stream is None else _stream.together()


def listen(listener: Listener | None, *, also: frozenset[str] = frozenset()) -> None:
    """Have one listener told of every event from notice on, whatever the level: severity, event, pairs and the line.

    `also`: events that it is told of whatever their severity.

    The line is what text shows behind the time: escaped, without secrets. None: nobody any more.
    """
    global _listener, _listened_for
    _listener, _listened_for = listener, also


def _is_told(severity: Severity, event: str) -> bool:
    return severity not in ("debug", "info") or event in _listened_for


def _tell(listener: Listener, severity: Severity, event: str, pairs: Mapping[str, Value]) -> None:
    shown = {key: concealed(value) for key, value in pairs.items() if value is not None}
    listener(
        severity, event, pairs, " ".join([event, *(f"{key}={spelling.quoted(value)}" for key, value in shown.items())])
    )


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

    For the standard library it is a handler, for structlog the logger that finished lines go to.
    Not through the text stream where there is a descriptor: a line that a closed pipe or a full disk refused
    would stay in its buffer, be tried again with every later line, and spoil the exit code in the end.
    """

    def __init__(self, stream: TextIO, renderer: _Renderer) -> None:
        super().__init__()
        self.renderer = renderer
        self._text = stream
        self._cut = False  # the last line ends in the middle
        self._loops = 0  # inside `together`, of any thread
        self._held: list[str] = []
        self._writing = False
        self._descriptor: int | None = None
        with contextlib.suppress(OSError, ValueError):  # io.UnsupportedOperation is both
            self._descriptor = stream.fileno()

    def emit(self, record: logging.LogRecord) -> None:
        self.write(self.renderer.foreign(record))

    def write(self, lines: str) -> None:
        """Append these lines, from any thread; never raises for what becomes of them."""
        self.acquire()
        try:
            self._held.append(lines)
            if not self._loops or len(self._held) >= MOST_HELD:
                self._write_held()
        finally:
            self.release()

    debug = info = warning = error = write

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """See the function of this name."""
        self._count_loop(1)
        try:
            yield
        finally:
            self._count_loop(-1)

    def _count_loop(self, more: int) -> None:
        self.acquire()
        try:
            self._loops += more
            if not self._loops and self._held:
                self._write_held()
        finally:
            self.release()

    def _write_held(self) -> None:
        if self._writing:  # a line of a destructor that ran in the middle of this: it comes next
            return
        self._writing = True
        try:
            while self._held:
                lines = self._held[:]
                del self._held[: len(lines)]
                self._write("\n".join(lines) + "\n")
        except (OSError, ValueError):
            return  # There is nobody left to tell when the log itself fails; mail matters more.
        finally:
            self._writing = False

    def _write(self, text: str) -> None:
        if self._descriptor is None:
            self._text.write(text)
            self._text.flush()
            return
        data = text.encode("utf-8", "backslashreplace")
        if self._cut:
            data = b"\n" + data
        while len(data) > (written := os.write(self._descriptor, data)):
            data = data[written:]
            self._cut = True
        self._cut = False


class _Renderer:
    """An event with its pairs, or a library's record, as text without a line end behind it."""

    def __init__(self, format: str, *, journal: bool, colour: bool) -> None:
        self._line = {"text": self._text, "logfmt": self._logfmt, "json": self._json}[format]
        self._in_text = format == "text"
        self._journal = journal
        self._colour = colour
        self._second = (-1, "")  # the latest one, and how it is written

    def __call__(self, _logger: Any, _method: str, fields: Any) -> str:
        """One of our own lines: the last of structlog's processors."""
        now = _clock.now()
        try:
            return self._rendered(now, fields["severity"], fields["event"], fields["pairs"], fields.get("exc_info"))
        except Exception as trouble:  # noqa: BLE001 - a value whose str() fails: say so, go on
            return self._failed(now, "mailrelayd", trouble, fields["event"])

    def foreign(self, record: logging.LogRecord) -> str:
        """A library's line."""
        try:
            pairs = {"logger": record.name, "message": record.getMessage()}
            error = record.exc_info[1] if isinstance(record.exc_info, tuple) else record.exc_info
            return self._rendered(record.created, _severity(record.levelno), _FOREIGN, pairs, error)
        except Exception as trouble:  # noqa: BLE001 - an argument too few: say so, go on
            return self._failed(record.created, record.name, trouble, f"{record.pathname}:{record.lineno}")

    def _failed(self, created: float, logger: str, trouble: Exception, where: str) -> str:
        message = f"a line could not be formatted: {type(trouble).__name__} at {where}"
        return self._rendered(created, "error", _FOREIGN, {"logger": logger, "message": message}, None)

    def _rendered(self, created: float, severity: Severity, event: str, pairs: Mapping[str, Any], error: Any) -> str:
        below: list[str] = []
        if isinstance(error, BaseException):
            trace = masked("".join(traceback.format_exception(error)))
            if self._in_text:
                # Indented, so that no line of an exception's message can pass for an event.
                below = ["    " + escape(line) for line in trace.rstrip("\n").split("\n") if line]
            else:
                pairs = {**pairs, "exception": trace}
        time = self._time(created)
        line = self._line(time, severity, event, pairs)
        if may_show_one(line):  # asked once, and not of each value
            line = self._line(time, severity, event, {key: concealed(value) for key, value in pairs.items()})
        if self._journal:  # on every line: each is an entry of its own there
            prefix = f"<{_PRIORITY[severity]}>"
            return "\n".join([prefix + one for one in (line, *below)])
        return "\n".join([line, *below]) if below else line

    def _time(self, created: float) -> str:
        """RFC 3339 in UTC with milliseconds. Only their digits are new in most lines."""
        second, microseconds = int(created), round(created % 1 * 1_000_000)
        if microseconds == 1_000_000:
            second, microseconds = second + 1, 0
        known, text = self._second
        if second != known:
            text = datetime.fromtimestamp(second, UTC).isoformat()[:-6]
            self._second = (second, text)
        return f"{text}.{microseconds // 1000:03}Z"

    def _text(self, time: str, severity: Severity, event: str, pairs: Mapping[str, Any]) -> str:
        """For people. journald stamps and ranks the lines itself, so there the event comes first."""
        name, rest = escape(event), spelling.spelled(pairs)
        if self._colour:
            return f"{_COLOUR['debug']}{time}{_PLAIN} {_COLOUR[severity]}{name}{_PLAIN}{rest}"
        return name + rest if self._journal else f"{time} {severity} {name}{rest}"

    def _logfmt(self, time: str, severity: Severity, event: str, pairs: Mapping[str, Any]) -> str:
        return f"time={time} level={severity} event={spelling.quoted(event)}{spelling.spelled(pairs)}"

    def _json(self, time: str, severity: Severity, event: str, pairs: Mapping[str, Any]) -> str:
        """Printable ASCII: JSON's own \\uXXXX is the escape."""
        head = f'"time": "{time}", "level": "{severity}", "event": {spelling.in_json(event)}'
        return f"{{{head}{spelling.members(pairs)}}}"


def _severity(levelno: int) -> Severity:
    if levelno >= logging.ERROR:
        return "error"
    if levelno >= logging.WARNING:
        return "warning"
    return "info" if levelno >= logging.INFO else "debug"


def _flat(_logger: Any, _method: str, fields: Any) -> Any:
    """An event as one dictionary."""
    return {**fields.pop("pairs"), **fields}


def _filtering_logger(threshold: int, stream: _Stream | None = None) -> Any:
    """structlog's filtering logger, bound: the lazy one would be assembled anew for every line.

    Its lines go to `stream`; without one to the standard library's logger "mailrelayd", as dictionaries.
    """
    return structlog.wrap_logger(
        logging.getLogger("mailrelayd") if stream is None else stream,
        processors=[_flat, ProcessorFormatter.wrap_for_formatter] if stream is None else [stream.renderer],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        context_class=dict,
    ).bind()


_clock = SystemClock()
_logger = _filtering_logger(logging.INFO)
_stream: _Stream | None = None
_listener: Listener | None = None
_listened_for: frozenset[str] = frozenset()
