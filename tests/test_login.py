"""Logging in: what is said to a server, what is done about a token it does not take, and what must not get out."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mailrelayd import login
from mailrelayd.config.load import load
from mailrelayd.config.secrets import SecretError
from mailrelayd.config.settings import Settings
from mailrelayd.inbound.reader import SLOWEST
from mailrelayd.inbound.values import ImapError
from mailrelayd.oauth.tokens import FINISH, Tokens
from mailrelayd.oauth.values import OAuthError
from mailrelayd.outbound import smtp
from mailrelayd.outbound.opened import Opened
from mailrelayd.outbound.smtp import RouteTrouble
from mailrelayd.outbound.values import Response, Stage
from tests import scripted_imap, scripted_smtp
from tests.manual_clock import ManualClock
from tests.servers.certificates import Certificates
from tests.servers.mailbox import MailboxServer
from tests.servers.postfix import Postfix
from tests.servers.tokenserver import TokenServer
from tests.token_accounts import APP, SECRET, USER, microsoft

PASSWORD = "hunter22-secret"


@pytest.fixture
def context(certificates: Certificates) -> ssl.SSLContext:
    """A server's."""
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made.load_cert_chain(certificates.good.certificate, certificates.good.key)
    return made


@pytest.fixture
def accounts(tmp_path: Path, certificates: Certificates, token_server: TokenServer) -> Callable[..., Settings]:
    """An outbound account on one port, and a mailbox on another that inherits its login."""
    token_server.entra.register(APP, secret=SECRET, mailbox=USER)
    (tmp_path / "state").mkdir()

    def made(
        smtp_port: int, imap_port: int = 993, oauth: str = "", security: str = "tls", user: str = USER
    ) -> Settings:
        tls = f'[{{}}.tls]\nca_file = "{certificates.ca}"\n'
        file = tmp_path / "mailrelayd.toml"
        file.write_text(
            f'[spool]\ndirectory = "{tmp_path}/spool"\n[state]\ndirectory = "{tmp_path}/state"\n'
            f'[outbound.smarthost]\nhost = "localhost"\nport = {smtp_port}\nsecurity = "{security}"\nuser = "{user}"\n'
            f"[outbound.smarthost.oauth]\n{oauth or microsoft(token_server)}{tls.format('outbound.smarthost')}"
            f'[inbound.approvals]\nhost = "localhost"\nport = {imap_port}\n{tls.format("inbound.approvals")}'
        )
        return load(file, {}).settings

    return made


class Judge:
    """Takes what it is told to take; `tokens` are those it was shown."""

    def __init__(self, *verdicts: bool) -> None:
        self.verdicts = list(verdicts)
        self.tokens: list[str] = []

    async def __call__(self, conversation: scripted_smtp.Conversation, line: str) -> bool:
        (mechanism,) = line.split(" ")[1:]  # a token as long as Microsoft's does not fit behind it
        await conversation.say("334 ")
        packed = await conversation.line()
        user, auth, *end = base64.b64decode(packed).decode().split("\x01")
        assert (mechanism, user, end) == ("XOAUTH2", f"user={USER}", ["", ""])
        self.tokens.append(auth.removeprefix("auth=Bearer "))
        return self.verdicts.pop(0)


def smarthost(context: ssl.SSLContext, judge: Judge) -> scripted_smtp.Script:
    return scripted_smtp.Script(implicit=context, after_tls=("AUTH XOAUTH2 OAUTHBEARER",), login=judge)


async def opened(settings: Settings, tokens: Tokens) -> Opened:
    assert settings.account is not None
    return await login.open_smtp(settings.account, settings, "relay1", tokens)


async def test_a_refused_token_is_replaced_once(
    accounts: Callable[..., Settings], context: ssl.SSLContext, token_server: TokenServer
) -> None:
    """It was valid when it was fetched: revoked since, or with permissions that have changed."""
    judge = Judge(True, False, True)
    async with scripted_smtp.serving(smarthost(context, judge)) as server:
        settings = accounts(server.port)
        tokens = Tokens(settings, ManualClock())
        for _ in range(2):
            (await opened(settings, tokens)).abort()
    first, again, second = judge.tokens
    assert first == again != second
    assert len(token_server.requests) == 2


async def test_what_a_fresh_token_does_not_mend_is_tried_no_further(
    accounts: Callable[..., Settings], context: ssl.SSLContext, token_server: TokenServer
) -> None:
    """One login with it; the next opening fetches another, since permissions stand in the token."""
    judge = Judge(False, False, True)
    async with scripted_smtp.serving(smarthost(context, judge)) as server:
        settings = accounts(server.port)
        tokens = Tokens(settings, ManualClock())
        for tries in (1, 2):
            with pytest.raises(RouteTrouble, match="535"):
                await opened(settings, tokens)
            assert len(judge.tokens) == len(token_server.requests) == tries
        (await opened(settings, tokens)).abort()
    assert len(set(judge.tokens)) == 3


async def test_a_temporary_refusal_is_not_the_token_s_fault(
    accounts: Callable[..., Settings], context: ssl.SSLContext, token_server: TokenServer
) -> None:
    """454 says nothing about it: it is kept."""
    script = scripted_smtp.Script(
        implicit=context, after_tls=("AUTH XOAUTH2",), answers={"AUTH": ["454 4.7.0 later", "235 2.7.0 fine"]}
    )
    async with scripted_smtp.serving(script) as server:
        settings = accounts(server.port)
        tokens = Tokens(settings, ManualClock())
        with pytest.raises(RouteTrouble, match="454"):
            await opened(settings, tokens)
        (await opened(settings, tokens)).abort()
    assert len(token_server.requests) == 1


@pytest.mark.parametrize(
    ("answer", "requests"),
    [("NO [AUTHENTICATIONFAILED] no", 2), ("NO AUTHENTICATE failed.", 2), ("NO [UNAVAILABLE] later", 1)],
)
async def test_a_mailbox_shares_the_token_and_refuses_it_for_both(
    accounts: Callable[..., Settings],
    context: ssl.SSLContext,
    token_server: TokenServer,
    answer: str,
    requests: int,
) -> None:
    """What IMAP does not take SMTP is not offered either."""
    script = scripted_imap.Script(implicit=context, answers={"AUTHENTICATE": [f"<tag> {answer}", "<tag> OK fine"]})
    judge = Judge(True)
    async with scripted_smtp.serving(smarthost(context, judge)) as smarthost_, scripted_imap.serving(script) as server:
        settings = accounts(smarthost_.port, server.port)
        tokens = Tokens(settings, ManualClock())
        (await opened(settings, tokens)).abort()
        if requests == 1:
            with pytest.raises(ImapError, match="UNAVAILABLE"):
                await login.open_imap(settings.mailboxes[0], settings, tokens)
        else:
            await (await login.open_imap(settings.mailboxes[0], settings, tokens)).close()
    assert len(token_server.requests) == requests


async def test_without_a_token_nobody_is_called(accounts: Callable[..., Settings], token_server: TokenServer) -> None:
    """The trouble is the route's, at AUTH, with the provider's reason and what is behind it."""
    token_server.entra.apps[APP].secret_expired = True
    settings = accounts(1)
    tokens = Tokens(settings, ManualClock())
    assert settings.account is not None
    with pytest.raises(RouteTrouble) as caught:
        await opened(settings, tokens)
    response = caught.value.response
    assert (response.stage, response.code) == (Stage.AUTH, 0)
    assert "AADSTS7000222" in response.text
    assert isinstance(caught.value.__cause__, OAuthError)
    with pytest.raises(RouteTrouble) as told:
        await login.opener(settings.account, settings, "relay1", tokens)()
    assert len(told.value.response.text) > len(response.text)
    assert told.value.response.text.startswith(response.text)
    with pytest.raises(ImapError) as mailbox:
        await login.connector(settings.mailboxes[0], settings, tokens)()
    assert "AADSTS7000222" in mailbox.value.text


async def test_a_token_that_a_server_repeats_is_masked(
    accounts: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is, and in base64."""

    async def refuse(*_: Any, password: str, **__: Any) -> None:
        packed = base64.b64encode(f"user={USER}\x01auth=Bearer {password}\x01\x01".encode()).decode()
        raise RouteTrouble(Response(Stage.AUTH, 500, "5.5.1", f"Command unrecognized: {packed} {password}"))

    monkeypatch.setattr(smtp, "connect", refuse)
    settings = accounts(1)
    with pytest.raises(RouteTrouble) as caught:
        await opened(settings, Tokens(settings, ManualClock()))
    text = caught.value.response.text
    assert text.startswith("Command unrecognized: ")
    assert text.count("********") == 2
    assert len(text) < 150


async def test_a_token_that_a_server_repeats_is_masked_where_the_answer_was_cut(
    accounts: Callable[..., Settings], context: ssl.SSLContext, token_server: TokenServer
) -> None:
    """Long tokens do not fit into what is kept of an answer, and a part of one is one too many."""

    async def refuse(conversation: scripted_smtp.Conversation) -> None:
        await conversation.say("334 ")
        await conversation.say(f"535 5.7.8 not understood: {await conversation.line()}")

    script = scripted_smtp.Script(implicit=context, after_tls=("AUTH XOAUTH2",), answers={"AUTH": [refuse]})
    async with scripted_smtp.serving(script) as server:
        settings = accounts(server.port)
        with pytest.raises(RouteTrouble) as caught:
            await opened(settings, Tokens(settings, ManualClock()))
    assert caught.value.response.text == "not understood: ********…"
    assert len(token_server.requests) == 1


async def test_a_password_that_a_server_repeats_is_masked_wherever_the_answer_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some servers quote the line they did not understand; status and STATUS= show it without the log's masking."""
    settings = with_password(tmp_path, f"text:{PASSWORD}")
    encoded = base64.b64encode(PASSWORD.encode()).decode()

    async def refuse(*_: Any, **__: Any) -> None:
        text = f'Command unrecognized: "{encoded}" ({PASSWORD})'
        raise RouteTrouble(Response(Stage.AUTH, 500, "5.5.1", text))

    monkeypatch.setattr(smtp, "connect", refuse)
    with pytest.raises(RouteTrouble) as caught:
        await opened(settings, Tokens(settings, ManualClock()))
    shown = str(caught.value.response)
    assert PASSWORD not in shown
    assert encoded[:-3] not in shown
    assert shown.startswith("500 5.5.1 Command unrecognized")


async def test_a_mailbox_is_opened_in_time_or_not_at_all(
    accounts: Callable[..., Settings], context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two logins and two tokens may take longer together than the poller has promised its watchdog."""

    async def silent(conversation: scripted_imap.Conversation) -> None:
        await conversation.line()

    assert login.IMAP_OPENING + FINISH < SLOWEST
    monkeypatch.setattr(login, "IMAP_OPENING", 0.5)
    script = scripted_imap.Script(implicit=context, answers={"AUTHENTICATE": [silent]})
    async with scripted_imap.serving(script) as server:
        settings = accounts(1, server.port)
        async with asyncio.timeout(20):
            with pytest.raises(ImapError, match=r"within 0\.5 s, all tries together") as caught:
                await login.open_imap(settings.mailboxes[0], settings, Tokens(settings, ManualClock()))
    assert caught.value.stage == "connect"


async def test_a_secret_that_cannot_be_had_is_trouble_of_the_route(tmp_path: Path) -> None:
    """It names the key, and nobody is called."""
    settings = with_password(tmp_path, f"file:{tmp_path}/none")
    with pytest.raises(RouteTrouble, match=r"outbound\.test\.password: file:.*there is no such file") as caught:
        await opened(settings, Tokens(settings, ManualClock()))
    assert isinstance(caught.value.__cause__, SecretError)


def with_password(folder: Path, reference: str) -> Settings:
    file = folder / "mailrelayd.toml"
    file.write_text(
        f'[state]\ndirectory = "{folder}"\n[outbound.test]\nhost = "localhost"\n'
        f'user = "relay"\npassword = "{reference}"\n'
    )
    return load(file, {}).settings


async def test_real_servers_take_the_token_until_it_is_revoked(
    accounts: Callable[..., Settings], oauth_postfix: Postfix, oauth_mailbox: MailboxServer, token_server: TokenServer
) -> None:
    """Postfix and Dovecot, which ask the provider what a token is worth: revoked, it is replaced without a word."""
    token_server.entra.register(APP, secret=SECRET, mailbox="relay")
    settings = accounts(oauth_postfix.port, oauth_mailbox.tls_port, security="starttls", user="relay")
    tokens = Tokens(settings, ManualClock())
    for _ in range(2):
        (await opened(settings, tokens)).abort()
        await (await login.open_imap(settings.mailboxes[0], settings, tokens)).close()
        token_server.entra.issued.expire()
    assert len(token_server.requests) == 2
    token_server.entra.apps[APP].roles = ()
    with pytest.raises(RouteTrouble, match="535"):
        await opened(settings, tokens)


async def test_a_server_that_does_not_bear_the_canary_is_spared_it_for_an_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One connection is lost by trying; the next ones go without a window, and after an hour it is tried again."""

    class Shut(scripted_smtp.Conversation):
        async def _bdat(self) -> None:
            raise scripted_smtp.Gone

    loop = asyncio.get_running_loop()
    now, later = loop.time, 0.0
    monkeypatch.setattr(loop, "time", lambda: now() + later)
    script = scripted_smtp.Script(extensions=("PIPELINING", "CHUNKING"))
    async with scripted_smtp.serving(script, Shut) as server:
        (tmp_path / "mailrelayd.toml").write_text(
            f'[spool]\ndirectory = "{tmp_path}/spool"\n[state]\ndirectory = "{tmp_path}/state"\n[outbound.smarthost]\n'
            f'host = "127.0.0.1"\nport = {server.port}\nsecurity = "none"\nfrom_address = "a@example.com"\nwindow = 8\n'
        )
        settings = load(tmp_path / "mailrelayd.toml", {}).settings
        assert settings.account is not None
        opened = login.opener(settings.account, settings, "relay1", Tokens(settings, ManualClock()))
        tried = []
        for wait in (0.0, login.IN_DOUBT - 60, 120.0):
            later += wait
            session = await opened()
            tried.append((len(server.conversations), session.window, bool(session.narrowed)))
            await session.close()
    assert tried == [(2, 1, True), (3, 1, False), (5, 1, True)]
