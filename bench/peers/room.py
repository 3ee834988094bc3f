"""A private view of the machine, in which an unpacked program finds itself installed (enter.sh)."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from bench.peers import Place, UnavailableError

ENTER = Path(__file__).parents[1] / "enter.sh"


class Room:
    """One room; its files are written before, what it shares with the disk is a folder below the place."""

    def __init__(self, place: Place, package: str, files: dict[str, str], disk: dict[str, Path]) -> None:
        """`files`: path -> text; `disk`: a path in the room -> the folder it really is. Raises UnavailableError."""
        self._group = place.group
        unpacked = place.installed / package
        if not (unpacked / "unpacked").exists():
            raise UnavailableError(f"bench/install.sh has not unpacked {package}")
        own = place.directory / "files"
        for name, text in files.items():
            path = own / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        own.mkdir(exist_ok=True)
        shared = [str(part) for target, source in disk.items() for part in (source, target)]
        command = ["unshare", "--mount", "/bin/sh", str(ENTER), str(unpacked), str(own), str(place.directory / "room")]
        self._process = subprocess.Popen(
            [*command, *shared], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert self._process.stdout is not None
        lines = []
        while (line := self._process.stdout.readline()) != b"ready\n":
            lines.append(line.decode())
            if not line:
                self._process.wait()
                raise UnavailableError(f"no room can be made here: {''.join(lines).strip()}")

    def _inside(self, command: tuple[str, ...]) -> list[str]:
        pid = self._process.pid
        enter = ["nsenter", f"--mount=/proc/{pid}/ns/mnt", f"--root=/proc/{pid}/root"]
        return [*enter, "/bin/sh", "-c", 'cd / && exec "$@"', "sh", *command]

    def run(self, *command: str, stdin: bytes = b"") -> str:
        """Run a command in it, not measured; its output. Raises CalledProcessError."""
        done = subprocess.run(
            self._inside(command), input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{command}: exit status {done.returncode}: {done.stdout.decode(errors='replace')}")
        return done.stdout.decode(errors="replace")

    def spawn(self, *command: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a program in it that is measured."""
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return self._group.spawn(self._inside(command), **{**streams, **options})

    def close(self) -> None:
        """The namespace ends with its last process."""
        self._process.kill()
        self._process.communicate()
