"""DNS, TCP, what a port speaks, TLS: against servers that behave as each test says. No test logs in."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mailrelayd.clock import SystemClock
from mailrelayd.config.settings import Settings
from mailrelayd.diagnose import door, network
from mailrelayd.diagnose.steps import UNAVAILABLE, Outcome, Step
from mailrelayd.dial import resolve
from tests.manual_clock import ManualClock
from tests.scripted_smtp import Conversation, Script, Server, serving, silence
from tests.servers.certificates import Certificates, KeyPair

DAY = 86_400.0


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "QUIET", 0.1)


def account(port: int | None, security: str = "starttls", **tls: Any) -> network.Account:
    """An outbound account for localhost."""
    table = {"host": "localhost", "security": security, "connect_timeout": "2s", "command_timeout": "1s"}
    written: Any = {"x": table | ({"port": port} if port else {}) | {"tls": tls}}
    found = Settings(outbound=written).account
    assert found is not None
    return found


def mailbox(port: int, security: str = "tls", **tls: Any) -> network.Account:
    """An inbound account for localhost."""
    table = {"host": "localhost", "security": security, "connect_timeout": "2s", "command_timeout": "1s", "port": port}
    login = {"user": "u", "password": "p"}
    written: Any = {"x": table | login | {"tls": tls}}
    return Settings(inbound=written).mailboxes[0]


def presenting(pair: KeyPair, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """A server's context."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    if version is not None:
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
    return context


async def examined(who: network.Account, **options: Any) -> list[Step]:
    """All steps."""
    steps = [step async for step in network.examine(who, **options)]
    await asyncio.sleep(0.05)  # a server that was only looked at finds out a moment later
    return steps


def only_failure(steps: list[Step]) -> Step:
    """The one step that failed, which is the last."""
    assert [step for step in steps if step.outcome is Outcome.FAILED] == steps[-1:], steps
    failed = steps[-1]
    assert failed.status == UNAVAILABLE
    assert failed.cause.endswith(".")
    assert failed.cure.endswith(".")
    return failed


@asynccontextmanager
async def talking(talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[int]:
    """A server of any protocol; its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except OSError:
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.sleep(0.05)


def no_login(server: Server) -> bool:
    """Whether nobody tried to log in or to send."""
    return not any(line.startswith(("AUTH", "MAIL")) for line in server.lines)


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_a_sound_server(certificates: Certificates, security: str) -> None:
    """Everything passes, in order, and what was seen stands in the data."""
    context = presenting(certificates.good)
    script = Script(starttls=context) if security == "starttls" else Script(implicit=context)
    async with serving(script) as server:
        steps = await examined(account(server.port, security, ca_file=str(certificates.ca)))
        assert no_login(server)
    assert [step.name for step in steps] == ["dns", "tcp", "port", "tls-versions", "tls", "certificate"]
    assert {step.outcome for step in steps} == {Outcome.OK}
    by_name = {step.name: step for step in steps}
    assert by_name["dns"].data["addresses"]
    assert by_name["tls-versions"].data["taken"] == ["1.2", "1.3"]
    assert by_name["tls"].data["version"] == "1.3"
    chain: Any = by_name["certificate"].data["chain"]
    assert "localhost" in chain[0]["names"]
    assert by_name["port"].command.startswith("openssl s_client -crlf -connect localhost:")
    assert by_name["port"].command.endswith("-starttls smtp") == (security == "starttls")


async def test_plain_text(certificates: Certificates) -> None:
    """With security = "none" there is no TLS to look at."""
    async with serving(Script()) as server:
        steps = await examined(account(server.port, "none"))
    assert [step.name for step in steps] == ["dns", "tcp", "port"]


async def test_an_imap_server_with_starttls(certificates: Certificates) -> None:
    """The conversation in front of STARTTLS is IMAP's for a mailbox."""
    context = presenting(certificates.good)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"* OK ready\r\n")
        while line := await reader.readline():
            tag, _, command = line.strip().partition(b" ")
            if command == b"CAPABILITY":
                writer.write(b"* CAPABILITY IMAP4rev1 STARTTLS\r\n")
            writer.write(tag + b" OK done\r\n")
            if command == b"STARTTLS":
                await writer.start_tls(context)
                return

    async with talking(talk) as port:
        steps = await examined(mailbox(port, "starttls", ca_file=str(certificates.ca)))
    assert {step.outcome for step in steps} == {Outcome.OK}, steps
    assert steps[-1].name == "certificate"
    assert any(step.command.endswith("-starttls imap") for step in steps)


@pytest.mark.parametrize(
    ("name", "setting", "words"),
    [
        ("expired", "tls.fingerprint", "has expired on "),
        ("wrong_host", "tls.server_name", "is for elsewhere.test, not for localhost"),
        ("self_signed", "tls.ca_file", "is signed by itself"),
        ("stranger", "tls.ca_file", "which this machine does not know"),
    ],
)
async def test_bad_certificates(certificates: Certificates, name: str, setting: str, words: str) -> None:
    """Each is told by what stands in it."""
    async with serving(Script(implicit=presenting(getattr(certificates, name)))) as server:
        steps = await examined(account(server.port, "tls", ca_file=str(certificates.ca)))
    failed = only_failure(steps)
    assert (failed.name, failed.setting) == ("certificate", f"outbound.x.{setting}")
    assert words in failed.cause
    assert failed.data["chain"]


async def test_a_certificate_that_ends_soon(certificates: Certificates) -> None:
    """Below thirty days it is a warning that counts them."""
    context = presenting(certificates.self_signed)  # for thirty days, made today
    trusted = {"ca_file": str(certificates.self_signed.certificate)}
    async with serving(Script(implicit=context)) as server:
        now = SystemClock().now()
        soon = await examined(account(server.port, "tls", **trusted), clock=ManualClock(now + 10 * DAY))
        later = await examined(account(server.port, "tls", **trusted), clock=ManualClock(now - 5 * DAY))
    assert (soon[-1].name, soon[-1].outcome) == ("certificate", Outcome.WARNING)
    assert soon[-1].cause.startswith(("In 19 days", "In 20 days"))
    assert later[-1].outcome is Outcome.OK


async def test_pins_and_trust_in_anybody(certificates: Certificates) -> None:
    """The pinned certificate passes whatever it is; another one is told with its fingerprint; verify = false warns."""
    async with serving(Script(implicit=presenting(certificates.expired))) as server:
        unverified = (await examined(account(server.port, "tls", verify=False)))[-1]
        assert (unverified.outcome, unverified.setting) == (Outcome.WARNING, "outbound.x.tls.verify")
        chain: Any = unverified.data["chain"]
        pin = chain[0]["sha256"]
        assert pin in unverified.cure
        pinned = (await examined(account(server.port, "tls", fingerprint=pin)))[-1]
        assert "it is the pinned one" in pinned.text
        assert pinned.outcome is Outcome.WARNING  # it has ended, all the same
        other = only_failure(await examined(account(server.port, "tls", fingerprint="0" * 64)))
    assert other.setting == "outbound.x.tls.fingerprint"
    assert pin in other.cure


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_a_server_with_an_old_version(certificates: Certificates) -> None:
    """The version it takes is found although nobody should use it, and the key that lets it in is named; it works."""
    async with serving(Script(implicit=presenting(certificates.good, ssl.TLSVersion.TLSv1))) as server:
        failed = only_failure(await examined(account(server.port, "tls", ca_file=str(certificates.ca))))
        assert (failed.name, failed.setting) == ("tls", "outbound.x.tls.minimum")
        assert "takes TLS 1.0 only" in failed.cause
        assert 'tls.minimum = "1.0"' in failed.cure
        lenient = await examined(account(server.port, "tls", ca_file=str(certificates.ca), minimum="1.0"))
    assert lenient[-1].outcome is Outcome.OK, lenient


async def test_a_server_that_is_too_new(certificates: Certificates) -> None:
    """A maximum below what the server takes is the key to change."""
    async with serving(Script(implicit=presenting(certificates.good, ssl.TLSVersion.TLSv1_3))) as server:
        failed = only_failure(await examined(account(server.port, "tls", ca_file=str(certificates.ca), maximum="1.2")))
    assert failed.setting == "outbound.x.tls.maximum"


async def test_files_that_cannot_be_used(tmp_path: Path, certificates: Certificates) -> None:
    """A ca_file without a certificate in it is a fault of the configuration."""
    (tmp_path / "ca.pem").write_text("nothing\n")
    async with serving(Script(implicit=presenting(certificates.good))) as server:
        failed = (await examined(account(server.port, "tls", ca_file=str(tmp_path / "ca.pem"))))[-1]
    assert (failed.status, failed.setting) == (78, "outbound.x.tls")


async def test_no_starttls() -> None:
    """A server without it, and one that somebody stripped of it, look the same."""
    async with serving(Script()) as server:
        failed = only_failure(await examined(account(server.port)))
    assert (failed.name, failed.setting) == ("tls", "outbound.x.security")


async def test_a_server_that_turns_us_away() -> None:
    """554 in the place of a greeting is an answer of SMTP."""
    async with serving(Script(answers={"GREETING": ["554 5.7.1 you are on a list"]})) as server:
        failed = only_failure(await examined(account(server.port)))
    assert failed.name == "greeting"
    assert "you are on a list" in failed.text


async def test_levels_that_do_not_fit_the_port(certificates: Certificates) -> None:
    """TLS where plain text is expected, and the other way round, lead to security."""
    async with serving(Script(implicit=presenting(certificates.good))) as server:
        for security in ("starttls", "none"):
            failed = only_failure(await examined(account(server.port, security)))
            assert (failed.name, failed.setting) == ("port", "outbound.x.security")
            assert failed.cause.startswith("This is a TLS port")
            assert 'security = "tls"' in failed.cure
    async with serving(Script(starttls=presenting(certificates.good))) as server:
        failed = only_failure(await examined(account(server.port, "tls")))
        assert (failed.name, failed.setting) == ("port", "outbound.x.security")
        assert 'security = "starttls"' in failed.cure


GREETINGS = {"IMAP": b"* OK ready\r\n", "POP3": b"+OK ready\r\n", "SSH": b"SSH-2.0-x\r\n", "FTP": b"220 ProFTPD\r\n"}


@pytest.mark.parametrize("protocol", GREETINGS)
@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_other_protocols(protocol: str, security: str) -> None:
    """Who answers there is named."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GREETINGS[protocol])
        await reader.read(1000)

    async with talking(talk) as port:
        failed = only_failure(await examined(account(port, security)))
    assert (failed.name, failed.setting) == ("port", "outbound.x.port")
    assert f"{protocol} server answers, not SMTP" in failed.cause


async def test_a_web_server() -> None:
    """It says nothing by itself, and answers a handshake in its own language."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with talking(talk) as port:
        for who in (account(port, "starttls"), account(port, "tls"), mailbox(port, "tls")):
            assert "an HTTP server answers" in only_failure(await examined(who)).cause


async def test_an_imap_server_behind_tls(certificates: Certificates) -> None:
    """The first words behind the handshake tell it."""
    script = Script(implicit=presenting(certificates.good), answers={"GREETING": ["* OK ready"]})
    async with serving(script) as server:
        failed = only_failure(await examined(account(server.port, "tls", ca_file=str(certificates.ca))))
        assert "an IMAP server answers" in failed.cause
        steps = await examined(mailbox(server.port, "tls", ca_file=str(certificates.ca)))
    assert {step.outcome for step in steps} == {Outcome.OK}


async def test_a_server_that_hangs_up_and_one_that_keeps_silent() -> None:
    """Both are told apart, and neither is waited for longer than command_timeout."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Close at once."""

    async with talking(hang_up) as port:
        for security in ("starttls", "tls"):
            failed = only_failure(await examined(account(port, security)))
            assert "closes every connection" in failed.text
    async with serving(Script(answers={"GREETING": [silence]})) as server:
        for security in ("starttls", "tls"):
            failed = only_failure(await examined(account(server.port, security)))
            assert "keeps silent" in failed.text


async def test_a_greeting_that_comes_late() -> None:
    """Some servers wait on purpose, to see who speaks first."""

    async def late(conversation: Conversation) -> None:
        await asyncio.sleep(0.4)
        await conversation.say("220 now")

    async with serving(Script(answers={"GREETING": [late]})) as server:
        steps = await examined(account(server.port, "none"))
    assert steps[-1].outcome is Outcome.OK
    assert "220 now" in steps[-1].text


async def test_nobody_listens(free_port: Callable[[], int]) -> None:
    """A closed port, and a name without an address."""
    failed = only_failure(await examined(account(free_port())))
    assert (failed.name, failed.setting) == ("tcp", "outbound.x.port")
    assert "refused" in failed.text
    nowhere = account(25).model_copy(update={"host": "no-such-host.invalid"})
    failed = only_failure(await examined(nowhere))
    assert (failed.name, failed.setting, failed.command) == (
        "dns",
        "outbound.x.host",
        "getent ahosts no-such-host.invalid",
    )


async def test_one_of_two_addresses(monkeypatch: pytest.MonkeyPatch, certificates: Certificates) -> None:
    """An address that does not answer is a warning as long as another one does."""
    async with serving(Script()) as server:
        there = await resolve("127.0.0.1", server.port, 1)
        gone = await resolve("127.0.0.2", server.port, 1)

        async def both(*_: object) -> list[Any]:
            return [*gone, *there]

        monkeypatch.setattr(network, "resolve", both)
        steps = await examined(account(server.port, "none"))
    assert [(step.name, step.outcome) for step in steps] == [
        ("dns", Outcome.OK),
        ("tcp", Outcome.WARNING),
        ("tcp", Outcome.OK),
        ("port", Outcome.OK),
    ]


async def test_auto_takes_the_next_way(certificates: Certificates) -> None:
    """A way that fails is passed over where another follows; below what was seen before none is taken."""
    async with serving(Script(starttls=presenting(certificates.good))) as server:
        auto = account(server.port, "auto", ca_file=str(certificates.ca))
        steps = await examined(auto)
        assert [step.outcome for step in steps if step.name == "port"] == [Outcome.SKIPPED, Outcome.OK]
        assert not any(step.outcome is Outcome.FAILED for step in steps)
        assert steps[-1].name == "certificate"
        failed = only_failure(await examined(auto, least="tls"))
        assert "tls has led to this server before" in failed.text
        assert "--forget-tls" in failed.cure
        assert no_login(server)
    async with serving(Script()) as server:
        plain = account(server.port, "auto").model_copy(update={"allow_plaintext": True})
        steps = await examined(plain)
        assert [step.outcome for step in steps if step.name == "port"] == [Outcome.SKIPPED, Outcome.OK, Outcome.OK]
        assert not any(step.outcome is Outcome.FAILED for step in steps)
        assert "starttls has led to this server before" in only_failure(await examined(plain, least="starttls")).text
    assert [(door.level, door.port) for door in network.doors(account(None, "auto"), "me")] == [
        ("tls", 465),
        ("starttls", 587),
        ("starttls", 25),
    ]


async def test_a_greeting_in_pieces() -> None:
    """It is one greeting, however slowly it comes."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in (b"2", b"20 scr", b"ipted ESMTP\r\n"):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.05)
        await reader.read()

    async with talking(talk) as port:
        steps = await examined(account(port, "none"))
        over_tls = only_failure(await examined(account(port, "tls")))
    assert (steps[-1].name, steps[-1].outcome) == ("port", Outcome.OK), steps
    assert "220 scripted ESMTP" in steps[-1].text
    assert (over_tls.setting, "220 scripted ESMTP" in over_tls.text) == ("outbound.x.security", True)


async def test_a_line_without_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte at a time for ever, or all at once without a line end: what has come is shown."""
    monkeypatch.setattr(door, "REST", 0.2)

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            writer.write(b"2")
            await writer.drain()
            await asyncio.sleep(0.01)

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"2" * 10_000_000)
        await reader.read()

    for talk in (drip, flood):
        async with talking(talk) as port:
            failed = only_failure(await examined(account(port, "none")))
        assert (failed.name, failed.setting) == ("port", "outbound.x.port")
        assert len(failed.text) < 200


async def test_a_server_that_closes_behind_the_handshake(certificates: Certificates) -> None:
    """TLS comes about, and nobody greets: the port is not said to be right."""

    async def hang_up(conversation: Conversation) -> None:
        await conversation.close()

    script = Script(implicit=presenting(certificates.good), answers={"GREETING": [hang_up]})
    async with serving(script) as server:
        failed = only_failure(await examined(account(server.port, "tls", ca_file=str(certificates.ca))))
    assert (failed.name, failed.setting) == ("port", "outbound.x.port")
    assert "closes every connection" in failed.text
