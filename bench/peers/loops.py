"""What people write themselves: a loop over a folder with smtplib or aiosmtplib. Run as a program it is that loop."""

from __future__ import annotations

import asyncio
import os
import smtplib
import sys
from pathlib import Path

import aiosmtplib

from bench.messages import SENDER, Batch, sync_folder, write_durably
from bench.peers import Peer, Place, count

ROOT = Path(__file__).parents[2]


class _Loop(Peer):
    """Its files are removed one by one, each removal fsynced, as durable as what it is compared with."""

    kind = ""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._folder = place.directory / "queue"
        self._folder.mkdir()
        self._addresses: list[str] = []

    def prepare(self, batch: Batch) -> None:
        """Write the files."""
        self._addresses = batch.addresses
        for number, text in batch:
            write_durably(self._folder / f"{number:08}.eml", text)
        sync_folder(self._folder)

    def begin(self) -> None:
        """Run the loop."""
        arguments = [self.kind, str(self._folder), str(self.place.port), str(self.place.connections)]
        command = [sys.executable, "-m", "bench.peers.loops", *arguments, *self._addresses]
        self.place.group.spawn(command, cwd=ROOT)

    def waiting(self) -> int:
        return count([self._folder])


class SmtplibLoop(_Loop):
    """smtplib, one connection after the other."""

    kind = "smtplib"


class AiosmtplibLoop(_Loop):
    """aiosmtplib, `connections` of them at once."""

    kind = "aiosmtplib"


class Interpreter(Peer):
    """No mailer: what starting Python costs."""

    def prepare(self, batch: Batch) -> None:
        """Nothing."""

    def begin(self) -> None:
        """Nothing."""

    def waiting(self) -> int:
        return 0

    def sendmail(self, command: str) -> list[str]:
        return [sys.executable, "-c", "pass"]


def _with_smtplib(folder: Path, port: int, addresses: list[str]) -> None:
    with smtplib.SMTP("127.0.0.1", port, local_hostname="bench.test") as client:
        for name in sorted(os.listdir(folder)):
            path = folder / name
            client.sendmail(SENDER, addresses, path.read_bytes())
            path.unlink()
            sync_folder(folder)


async def _with_aiosmtplib(folder: Path, port: int, addresses: list[str], connections: int) -> None:
    names = iter(sorted(os.listdir(folder)))

    async def work() -> None:
        async with aiosmtplib.SMTP(
            hostname="127.0.0.1", port=port, local_hostname="bench.test", start_tls=False
        ) as client:
            for name in names:
                path = folder / name
                await client.sendmail(SENDER, addresses, path.read_bytes())
                path.unlink()
                sync_folder(folder)

    await asyncio.gather(*(work() for _ in range(connections)))


if __name__ == "__main__":
    _, _kind, _folder, _port, _connections, *_addresses = sys.argv
    if _kind == "smtplib":
        _with_smtplib(Path(_folder), int(_port), _addresses)
    else:
        asyncio.run(_with_aiosmtplib(Path(_folder), int(_port), _addresses, int(_connections)))
