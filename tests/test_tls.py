"""TLS contexts: shared, made anew when their files change, and nobody's handshake is told to somebody else."""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import trustme
import uvloop

from mailrelayd import tls
from mailrelayd.inbound import connect
from mailrelayd.inbound.values import ImapError
from mailrelayd.outbound import smtp
from tests.accounts import Account, Tls
from tests.scripted_smtp import Script, serving

PATIENCE = 10.0


@pytest.fixture(autouse=True)
def _nothing_is_shared_yet() -> Iterator[None]:
    tls._shared.clear()
    yield
    tls._shared.clear()


@pytest.fixture
def cas(tmp_path: Path) -> Path:
    """A file with one CA."""
    path = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return path


def subjects(context: ssl.SSLContext) -> set[str]:
    """The serial numbers of what a context trusts."""
    return {str(ca["serialNumber"]) for ca in context.get_ca_certs()}


# -- shared ------------------------------------------------------------------------------------------------------


def test_the_same_settings_share_a_context(cas: Path) -> None:
    """Also those of another account; what only matters to a connection makes no other context."""
    first = tls.shared_context(Tls(ca_file=str(cas)))
    assert tls.shared_context(Tls(ca_file=str(cas), server_name="mail.example.com")) is first
    assert first.verify_mode is ssl.CERT_REQUIRED and first.check_hostname


@pytest.mark.parametrize(
    "other", [{"verify": False}, {"fingerprint": "00" * 32}, {"minimum": "1.3"}, {"maximum": "1.2"}, {"ca_file": ""}]
)
def test_other_settings_have_another_context(cas: Path, other: dict[str, object]) -> None:
    """Above all, nobody who is to be verified gets the context of somebody who is not."""
    verified = tls.shared_context(Tls(ca_file=str(cas)))
    different = tls.shared_context(Tls(**{"ca_file": str(cas), **other}))  # type: ignore[arg-type]
    assert different is not verified
    assert verified.verify_mode is ssl.CERT_REQUIRED


def test_a_context_of_ones_own_may_be_changed(cas: Path) -> None:
    """`context` gives a new one each time."""
    shared, own = tls.shared_context(Tls(ca_file=str(cas))), tls.context(Tls(ca_file=str(cas)))
    own.check_hostname = False
    assert own is not shared and shared.check_hostname


def test_another_ca_file_is_read(cas: Path) -> None:
    """Renamed into place or written over: from the next connection on, its CA is the one that is trusted."""
    settings = Tls(ca_file=str(cas))
    before = subjects(tls.shared_context(settings))
    for change in (lambda path: path.replace(cas), lambda path: cas.write_bytes(path.read_bytes())):
        new = cas.with_name("new.pem")
        trustme.CA().cert_pem.write_to_path(str(new))
        change(new)
        after = subjects(tls.shared_context(settings))
        assert len(after) == 1 and not after & before
        before = after


def test_a_client_certificate_that_was_renewed_is_read(tmp_path: Path) -> None:
    """With its key, which may stand in a file of its own."""
    certificate, key = tmp_path / "client.pem", tmp_path / "client.key"

    def issue() -> None:
        leaf = trustme.CA().issue_cert("client.example.com")
        leaf.cert_chain_pems[0].write_to_path(str(certificate))
        leaf.private_key_pem.write_to_path(str(key))

    issue()
    settings = Tls(certificate=str(certificate), key=str(key))
    before = tls.shared_context(settings)
    assert tls.shared_context(settings) is before
    issue()
    renewed = tls.shared_context(settings)
    assert renewed is not before
    key.touch()
    assert tls.shared_context(settings) is not renewed


@pytest.mark.parametrize("where", ["file", "folder"])
def test_the_systems_own_cas_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """A CA that is added to OpenSSL's file, or to a folder of many, counts from the next connection on."""
    file, empty, folder = tmp_path / "system.pem", tmp_path / "empty", tmp_path / "certs"
    empty.mkdir()
    folder.mkdir()
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    monkeypatch.setenv("SSL_CERT_DIR", f"{empty}{os.pathsep}{folder}")
    before = tls.shared_context(Tls())
    assert tls.shared_context(Tls()) is before
    trustme.CA().cert_pem.write_to_path(str(file if where == "file" else folder / "new.pem"))
    after = tls.shared_context(Tls())
    assert after is not before
    assert len(subjects(after)) == (1 if where == "file" else 0)  # folders are searched when a server is verified


def test_a_ca_file_that_cannot_be_used_any_more_is_said_each_time(cas: Path) -> None:
    """What was read of it before does not count, and one that comes back does."""
    settings, away = Tls(ca_file=str(cas)), cas.with_name("away")
    tls.shared_context(settings)
    cas.rename(away)
    for _ in range(2):
        with pytest.raises(tls.TlsError, match="cannot be used"):
            tls.shared_context(settings)
    away.rename(cas)
    assert subjects(tls.shared_context(settings))


def test_who_comes_at_the_same_time_reads_the_files_once(cas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand connections after an outage are no thousand readings."""
    made: list[ssl.SSLContext] = []
    context, begin = tls.context, threading.Barrier(8)

    def counted(settings: tls.TlsSettings) -> ssl.SSLContext:
        made.append(context(settings))
        return made[-1]

    def come(_: int) -> ssl.SSLContext:
        begin.wait(PATIENCE)
        return tls.shared_context(Tls(ca_file=str(cas)))

    monkeypatch.setattr(tls, "context", counted)
    with ThreadPoolExecutor(8) as threads:
        got = list(threads.map(come, range(8)))
    assert len(made) == 1 and all(one is made[0] for one in got)


def test_a_file_that_hangs_holds_up_nobody_else(cas: Path, tmp_path: Path) -> None:
    """One account's ca_file on a disk that does not answer is that account's trouble."""
    pipe = tmp_path / "hangs.pem"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(2) as threads:
        stuck = threads.submit(tls.shared_context, Tls(ca_file=str(pipe)))
        try:
            free = threads.submit(tls.shared_context, Tls(ca_file=str(cas)))
            assert free.result(PATIENCE).check_hostname
            assert not stuck.done()
        finally:
            pipe.write_bytes(cas.read_bytes())
        stuck.result(PATIENCE)


def test_settings_of_long_ago_are_forgotten(cas: Path) -> None:
    """Each reload may bring new ones; those in use stay."""
    used = Tls(ca_file=str(cas))
    first = tls.shared_context(used)
    for number in range(tls.SHARED * 2):
        other = cas.with_name(f"{number}.pem")
        other.write_bytes(cas.read_bytes())
        tls.shared_context(Tls(ca_file=str(other)))
        assert tls.shared_context(used) is first
    assert len(tls._shared) == tls.SHARED


# -- without TLS, nothing of it ----------------------------------------------------------------------------------


def _none_wanted(settings: tls.TlsSettings) -> ssl.SSLContext:
    raise AssertionError("nobody needs it")


async def test_a_plain_connection_reads_no_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """With security = "none" no TLS context is made, in neither direction."""
    monkeypatch.setattr(tls, "context", _none_wanted)
    async with serving(Script()) as server:
        session = await smtp.connect(Account(server.port), hello="client.example.com")
        await session.close()
        with suppress(ImapError):  # it is no IMAP server: the way there is what counts
            await connect.connect(Account(server.port, command_timeout=0.1))
    assert len(server.conversations) == 2


# -- whose handshake ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("seen", [(True, True), (True, False), (False, True)])
def test_each_connection_hears_of_its_own_handshake(
    new_loop: Callable[[], asyncio.AbstractEventLoop], seen: tuple[bool, bool], cas: Path
) -> None:
    """Two at once with one context: who waits for a silent server is not told that the other one's has spoken."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(cas))
    leaf = ca.issue_cert("127.0.0.1")
    serves = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(serves)
    context = tls.shared_context(Tls(ca_file=str(cas)))
    told: list[list[str]] = [[], []]

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()

    async def one(number: int, speaks: asyncio.Server, mute: asyncio.Server, meet: asyncio.Barrier) -> None:
        server = speaks if seen[number] else mute
        host, port = server.sockets[0].getsockname()
        with tls.handshake_watched(lambda: told[number].append("secured")):
            opening = asyncio.ensure_future(
                asyncio.open_connection(host, port, ssl=context, server_hostname="127.0.0.1")
            )
            if seen[number]:
                _, writer = await opening
                await meet.wait()
                writer.transport.abort()
            else:
                await meet.wait()
                opening.cancel()
                await asyncio.wait([opening])

    async def both() -> None:
        meet = asyncio.Barrier(2)
        speaks = await asyncio.start_server(silent, "127.0.0.1", 0, ssl=serves)
        mute = await asyncio.start_server(silent, "127.0.0.1", 0)
        async with asyncio.timeout(PATIENCE), speaks, mute:
            await asyncio.gather(one(0, speaks, mute, meet), one(1, speaks, mute, meet))
            for _ in range(5):
                await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(both())
    assert told == [["secured"] if speaks else [] for speaks in seen]
