"""The systems that wait for decisions, as the witness runs them: they fail at times, and remember all they were given.

A record is a file DIRECTORY/SINK/ID.NUMBER.taken, or .refused, with the bytes as they came. It is written before the
answer is given: also what was refused, or never answered, is known.
"""

from __future__ import annotations

import random
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.faults.inbound_verdict import Given

REFUSES, KEEPS_SILENT = 0.2, 0.03  # how often, of all calls, as long as a sink is ill
PAUSE = 0.1  # seconds between two looks into the folder
SILENCE = 25.0  # seconds, longer than anybody waits

_PROGRAM = """\
#!/bin/sh
# Keeps what it is given; exit status 75 for one in five as long as {directory}/ill stands there.
file=$(mktemp {directory}/program/.XXXXXXXX) && cat > "$file" || exit 75
if [ -e {directory}/ill ]; then
    case $(od -An -N1 -tu1 /dev/urandom) in
        *[05]) mv "$file" "{directory}/program/$DECISION_ID.$$.refused"; exit 75 ;;
    esac
fi
mv "$file" "{directory}/program/$DECISION_ID.$$.taken" || exit 75
"""


class Sinks:
    """A folder that is emptied, a webhook and a program. Ill until `heal`."""

    names = ("folder", "webhook", "program")

    def __init__(self, directory: Path, decisions: Path, seed: int) -> None:
        """`decisions` is where the daemon puts documents: its new/ is emptied."""
        self.directory = directory
        self.new = decisions / "new"
        self.program = directory / "on-decision"
        self._chance = random.Random(seed)
        self._healed = threading.Event()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._count = 0
        for name in self.names:
            (directory / name).mkdir(parents=True)
            (directory / name).chmod(0o777)  # the program runs as the daemon's user
        (directory / "ill").touch()
        self.program.write_text(_PROGRAM.format(directory=directory))
        self.program.chmod(0o755)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}/decisions"
        self._threads = [threading.Thread(target=work) for work in (self._server.serve_forever, self._consume)]

    def __enter__(self) -> Self:
        """Begin."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; everything is written down afterwards."""
        self._healed.set()
        self._over.set()
        self._server.shutdown()
        for thread in self._threads:
            thread.join()
        self._server.server_close()

    def heal(self) -> None:
        """Fail no more."""
        self._healed.set()
        (self.directory / "ill").unlink(missing_ok=True)

    def got(self) -> dict[str, dict[str, list[Given]]]:
        """Sink -> decision id -> what it was given, each time."""
        found: dict[str, dict[str, list[Given]]] = {name: {} for name in self.names}
        for name in self.names:
            for path in sorted((self.directory / name).iterdir()):
                if not path.name.startswith("."):
                    decision_id, _, word = path.name.split(".")
                    found[name].setdefault(decision_id, []).append(Given(path.read_bytes(), word == "taken"))
        return found

    def _record(self, sink: str, decision_id: str, data: bytes, *, taken: bool) -> None:
        with self._lock:
            self._count += 1
            number = self._count
        name = decision_id if re.fullmatch(r"[A-Za-z0-9-]+", decision_id) else "nonsense"
        (self.directory / sink / f"{name}.{number}.{'taken' if taken else 'refused'}").write_bytes(data)

    def _consume(self) -> None:
        """Take what lies in the folder, as its consumer does."""
        while not self._over.wait(PAUSE):
            self._empty()
        self._empty()

    def _empty(self) -> None:
        for path in sorted(self.new.glob("*.json")):
            self._record("folder", path.stem, path.read_bytes(), taken=True)
            path.unlink()

    def _mood(self) -> str:
        with self._lock:
            roll = self._chance.random()
        if self._healed.is_set() or roll > REFUSES + KEEPS_SILENT:
            return "takes"
        return "silent" if roll < KEEPS_SILENT else "refuses"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        sinks = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["content-length"]))
                mood = sinks._mood()
                if len(data) == int(self.headers["content-length"]):  # else the daemon has died while it spoke
                    sinks._record("webhook", self.headers["webhook-id"], data, taken=mood == "takes")
                if mood == "silent":
                    sinks._healed.wait(SILENCE)
                try:
                    self.send_response(204 if mood == "takes" else 500)
                    self.end_headers()
                except OSError:  # killed meanwhile
                    self.close_connection = True

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        return Handler
