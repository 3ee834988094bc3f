"""Where decisions go: a folder, a webhook, or a program. Each offer ends as taken, as "again", or as hopeless."""

from __future__ import annotations

import asyncio
import base64
import binascii
import email.utils
import grp
import hashlib
import hmac
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import httpx2

from mailrelayd import __version__, durable
from mailrelayd.approvals.document import MEDIA_TYPE
from mailrelayd.clock import Clock

WEBHOOK_TIMEOUT = 20.0  # seconds for all of one call
COMMAND_TIMEOUT = 60.0  # seconds
LONGEST_WAIT = 86_400.0  # seconds that a receiver may ask us to wait
_LONGEST_REASON = 300  # characters


@dataclass(frozen=True, slots=True)
class Taken:
    """It has the document."""


@dataclass(frozen=True, slots=True)
class Again:
    """Not now. `after`: how many seconds it asked for; None: it did not say."""

    reason: str
    after: float | None = None


@dataclass(frozen=True, slots=True)
class Hopeless:
    """Never: a person must look."""

    reason: str


Answer = Taken | Again | Hopeless


class Sink(Protocol):
    """One [[decisions]] table's way out."""

    async def offer(self, decision_id: str, document: bytes) -> Answer:
        """Offer a document. Never raises for what the other side does."""


class DirectorySink:
    """new/ID.json appears whole, readable for the group; its consumer removes it."""

    def __init__(self, directory: Path, group: str) -> None:
        """Make the folders. Raises OSError; KeyError for a group that does not exist."""
        number = grp.getgrnam(group).gr_gid if group else None
        durable.make_folder(directory, 0o750)
        # setgid on both: a document is written in tmp/, and keeps the group that it gets there.
        for name, mode in (("tmp", 0o2700), ("new", 0o2770)):
            durable.make_folder(directory / name, mode)
        if number is not None:
            for path, mode in ((directory, 0o750), (directory / "tmp", 0o2700), (directory / "new", 0o2770)):
                folder = durable.Folder(path)
                try:
                    folder.give_to(number, mode)
                finally:
                    folder.close()
        self._new = directory / "new"
        self._tmp = directory / "tmp"

    async def offer(self, decision_id: str, document: bytes) -> Answer:
        """Put it there; on disk when it is taken."""
        try:
            await asyncio.to_thread(self._put, f"{decision_id}.json", document)
        except OSError as error:
            return Again(f"{error.filename or self._new}: {error.strerror}")
        return Taken()

    def _put(self, name: str, document: bytes) -> None:
        here, there = durable.Folder(self._tmp), durable.Folder(self._new)
        try:
            here.write(name, document, mode=0o640)
            here.move(name, there, name)
        finally:
            here.close()
            there.close()


class WebhookSink:
    """POST, signed as Standard Webhooks 1.0 says. 2xx is taken, 410 hopeless, everything else again."""

    def __init__(self, url: str, secret: Callable[[], str], clock: Clock) -> None:
        """`secret` is asked in a thread at each call: whsec_BASE64, or any other text. It may raise OSError."""
        self._url = url
        self._secret = secret
        self._clock = clock

    async def offer(self, decision_id: str, document: bytes) -> Answer:
        """Call it."""
        try:
            key = key_of(await asyncio.to_thread(self._secret))
        except (OSError, ValueError) as error:
            return Again(f"its secret cannot be used: {error}")
        timestamp = int(self._clock.now())
        headers = {
            "content-type": MEDIA_TYPE,
            "user-agent": f"mailrelayd/{__version__}",
            "webhook-id": decision_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(key, decision_id, timestamp, document),
        }
        try:
            async with (
                asyncio.timeout(WEBHOOK_TIMEOUT),
                httpx2.AsyncClient(timeout=WEBHOOK_TIMEOUT, follow_redirects=False, trust_env=False) as client,
                # The answer's body says nothing that counts, and may be endless: it is not read.
                client.stream("POST", self._url, content=document, headers=headers) as response,
            ):
                status, wait = response.status_code, _wait(response.headers.get("retry-after"), self._clock.now())
        except TimeoutError:
            return Again(f"no answer within {WEBHOOK_TIMEOUT:.0f} s")
        except (httpx2.HTTPError, OSError, ValueError) as error:
            return Again(_short(f"{type(error).__name__}: {error}"))
        if 200 <= status < 300:
            return Taken()
        if status == 410:
            return Hopeless("410 Gone: its receiver wants no more")
        if 300 <= status < 400:
            return Again(f"{status}: it redirects, which is not followed; correct webhook")
        return Again(f"HTTP status {status}", wait if status in (429, 503) else None)


class CommandSink:
    """A program that gets the document on standard input. 0: taken, 75 (EX_TEMPFAIL): again, all else: hopeless."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = tuple(command)

    async def offer(self, decision_id: str, document: bytes) -> Answer:
        """Run it; killed, with what it started, after a minute."""
        # Files in memory, not pipes: it may read nothing, and what it starts in the background may keep them open.
        with (
            os.fdopen(os.memfd_create("decision"), "wb+") as given,
            os.fdopen(os.memfd_create("errors"), "wb+") as said,
        ):
            given.write(document)
            given.seek(0)
            try:
                status = await self._run(decision_id, given, said)
            except TimeoutError:
                return Again(f"{self._command[0]}: did not end within {COMMAND_TIMEOUT:.0f} s")
            except OSError as error:
                return Again(f"{self._command[0]}: {error.strerror}")
            said.seek(0)
            complaint = said.read(_LONGEST_REASON).decode("utf-8", "replace").partition("\n")[0]
        if status == os.EX_OK:
            return Taken()
        text = _short(f"{self._command[0]}: exit status {status}{': ' if complaint else ''}{complaint}")
        return Again(text) if status == os.EX_TEMPFAIL else Hopeless(text)

    async def _run(self, decision_id: str, given: BinaryIO, said: BinaryIO) -> int:
        """Its exit status, negative for a signal. Raises TimeoutError, and OSError where it cannot be started."""
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=given,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=said,
            env={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "DECISION_ID": decision_id},
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT):
                return await process.wait()
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()


def signature(key: bytes, decision_id: str, timestamp: int, document: bytes) -> str:
    """Standard Webhooks: HMAC-SHA256 over id, time and body."""
    digest = hmac.digest(key, f"{decision_id}.{timestamp}.".encode() + document, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


def key_of(secret: str) -> bytes:
    """The key a secret stands for. Raises ValueError."""
    if not secret.startswith("whsec_"):
        if not secret:
            raise ValueError("it is empty")
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error as error:
        raise ValueError("behind whsec_ stands no base64") from error


def _wait(text: str | None, now: float) -> float | None:
    """Retry-After (RFC 9110 section 10.2.3) in seconds; None where it says nothing that can be used."""
    if text is None:
        return None
    if text.strip().isascii() and text.strip().isdigit() and len(text) < 20:
        return min(float(text), LONGEST_WAIT)
    try:
        at = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
    return min(max(at - now, 0.0), LONGEST_WAIT)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + "..."
