"""A valid token whenever one is asked for, whatever happens to the clock, the file, the provider and the process."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mailrelayd import durable
from mailrelayd.config.answering import InboundAccount
from mailrelayd.oauth import asking, flows, store, tokens
from mailrelayd.oauth.tokens import Tokens, TokenSource
from mailrelayd.oauth.values import OAuthError
from mailrelayd.operate import log
from tests.manual_clock import ManualClock
from tests.servers.mailbox import token as jwt
from tests.servers.tokenserver import TokenServer
from tests.test_oauth_flows import opened
from tests.token_accounts import APP, SECRET, USER, lines, microsoft, settings, source

REDIRECT = "http://localhost:8976"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def make(tmp_path: Path, token_server: TokenServer, clock: ManualClock) -> Callable[..., TokenSource]:
    """Each call is what another process would have: the same file, an empty memory."""
    token_server.entra.register(APP, secret=SECRET, mailbox=USER)
    token_server.life = 3600.0
    return lambda **more: source(tmp_path, microsoft(token_server, **more), clock)


@pytest.fixture
def login(make: Callable[..., TokenSource], token_server: TokenServer) -> Callable[..., TokenSource]:
    """The same with a login in a browser."""
    token_server.entra.register(APP, public=True)
    token_server.entra.signed_in = USER
    return lambda **more: make(**{"flow": "authorization-code", "client_secret": None, **more})


async def authorized(one: TokenSource, server: TokenServer) -> TokenSource:
    """Somebody has logged in."""
    begun = await one.start_authorization(REDIRECT)
    await one.finish_authorization(begun, await asyncio.to_thread(opened, server, begun.url))
    return one


async def refused(asking: Any) -> OAuthError:
    with pytest.raises(OAuthError) as caught:
        await asking
    return caught.value


def written(folder: Path, name: str = "outbound.smarthost") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "state" / "oauth" / f"{name}.json").read_text())
    return found


async def test_a_token_is_asked_for_once_and_renewed_before_it_ends(
    make: Callable[..., TokenSource], token_server: TokenServer, clock: ManualClock
) -> None:
    """Five minutes before, for a token of an hour."""
    one = make()
    first = await one.token()
    clock.advance(3299)
    assert await one.token() == first
    assert len(token_server.requests) == 1
    clock.advance(2)
    second = await one.token()
    assert second != first
    assert len(token_server.requests) == 2


async def test_a_short_life_leaves_nine_tenths_of_it(
    make: Callable[..., TokenSource], token_server: TokenServer, clock: ManualClock
) -> None:
    """The margin is never more than a tenth."""
    token_server.life = 10.0
    one = make()
    first = await one.token()
    clock.advance(8.9)
    assert await one.token() == first
    clock.advance(0.2)
    assert await one.token() != first


async def test_another_process_takes_the_token_from_the_file(
    make: Callable[..., TokenSource], token_server: TokenServer, tmp_path: Path
) -> None:
    """Nobody but its owner may read it."""
    first = await make().token()
    assert await make().token() == first
    assert len(token_server.requests) == 1
    folder = tmp_path / "state" / "oauth"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert written(tmp_path)["format"] == 1
    assert SECRET not in (folder / "outbound.smarthost.json").read_text()


async def test_however_many_ask_one_asks_the_provider(
    login: Callable[..., TokenSource], token_server: TokenServer, clock: ManualClock
) -> None:
    """In one process and in several: a refresh token that is used twice would be revoked."""
    await authorized(login(), token_server)
    clock.advance(4000)
    processes = [login() for _ in range(4)]
    found = await asyncio.gather(*(one.token() for one in processes for _ in range(5)))
    assert len(set(found)) == 1
    assert len(token_server.asked("refresh_token")) == 1
    assert token_server.entra.issued.reused == []


async def test_a_provider_that_is_down_changes_nothing_while_the_token_is_valid(
    make: Callable[..., TokenSource], token_server: TokenServer, clock: ManualClock
) -> None:
    """It is asked again every half minute; only when the token has ended there is none."""
    one = make()
    first = await one.token()
    clock.advance(3400)
    with token_server.troubled("unavailable"):
        assert [await one.token() for _ in range(5)] == [first] * 5
        assert len(token_server.requests) == 2
        clock.advance(31)
        assert await one.token() == first
        assert len(token_server.requests) == 3
        assert await make().token() == first  # of the file, by a process that has just begun
        clock.advance(300)
        assert (await refused(one.token())).kind == "temporary"
    assert await one.token() != first


@pytest.mark.parametrize("back", [600.0, 86_400.0])
async def test_a_clock_that_is_set_back_makes_no_token_last_longer(
    make: Callable[..., TokenSource], clock: ManualClock, back: float
) -> None:
    """What was asked for in the future cannot be trusted to be valid."""
    one = make()
    first = await one.token()
    clock.wall -= back
    assert await one.token() != first


async def test_a_token_that_a_server_refused_is_not_used_again(
    make: Callable[..., TokenSource], token_server: TokenServer
) -> None:
    """By nobody in this process, and not from the file."""
    one = make()
    first = await one.token()
    one.refused(first)
    second = await one.token()
    assert second != first
    assert await one.token() == await make().token() == second
    assert (one.fetched, len(token_server.requests)) == (2, 2)


async def test_a_token_can_be_asked_for_anew(make: Callable[..., TokenSource], token_server: TokenServer) -> None:
    """To prove that the provider gives one, a cached one proves nothing."""
    one = make()
    first = await one.token()
    assert await one.token(anew=True) != first
    with token_server.troubled("unavailable"):
        await refused(one.token(anew=True))
        assert await one.token()


async def test_without_a_login_there_is_no_token_and_the_command_is_named(login: Callable[..., TokenSource]) -> None:
    """Nobody is asked."""
    error = await refused(login().token())
    assert (error.kind, error.text) == (
        "consent",
        "nobody has logged in for it yet; run mailrelayd authorize outbound.smarthost",
    )


async def test_a_running_process_picks_a_login_up(
    login: Callable[..., TokenSource], token_server: TokenServer, tmp_path: Path
) -> None:
    """No restart, no reload."""
    daemon, command = login(), login()
    await refused(daemon.token())
    await authorized(command, token_server)
    first = await daemon.token()
    assert first == await command.token()
    token_server.entra.issued.revoke()
    daemon.refused(first)
    error = await refused(daemon.token())
    assert (error.kind, error.code) == ("consent", "AADSTS50173")
    status = login().status()
    assert status.trouble is not None
    assert status.trouble.code == "AADSTS50173"
    assert status.token is not None
    await authorized(command, token_server)
    assert await daemon.token() != first
    assert login().status().trouble is None
    assert status.path == str(tmp_path / "state" / "oauth" / "outbound.smarthost.json")


async def test_a_refresh_token_is_on_disk_before_its_token_is_used(
    login: Callable[..., TokenSource],
    token_server: TokenServer,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """While the disk is full it is kept and nothing is given out; then it is written first."""
    one = await authorized(login(), token_server)
    before = written(tmp_path)["token"]["refresh_token"]
    clock.advance(4000)
    write = durable.write_all

    def full(descriptor: int, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "write_all", full)
    for _ in range(2):
        error = await refused(one.token())
        assert (error.kind, error.code) == ("temporary", "store")
        assert "No space left on device" in error.text
    assert written(tmp_path)["token"]["refresh_token"] == before
    monkeypatch.setattr(durable, "write_all", write)
    token = await one.token()
    assert written(tmp_path)["token"]["access_token"] == token
    assert len(token_server.asked("refresh_token")) == 1
    clock.advance(4000)
    assert await login().token() != token  # with the refresh token of the file
    assert token_server.entra.issued.reused == []


async def test_a_disk_without_room_costs_no_refresh_token(
    login: Callable[..., TokenSource], token_server: TokenServer, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider is not asked before there is room for its answer, so a restart or a reload loses nothing."""
    one = await authorized(login(), token_server)
    first = await one.token()
    allocate = os.posix_fallocate

    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    clock.advance(3400)
    assert await one.token() == first
    assert await login().token() == first
    clock.advance(300)
    error = await refused(one.token())
    assert (error.kind, error.code, "No space left" in error.text) == ("temporary", "store", True)
    assert token_server.asked("refresh_token") == []
    monkeypatch.setattr(os, "posix_fallocate", allocate)
    assert await login().token() != first
    assert len(token_server.asked("refresh_token")) == 1


async def test_a_token_that_was_not_saved_gives_way_to_a_new_login(
    login: Callable[..., TokenSource], token_server: TokenServer, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody has logged in while the daemon could not write: what they brought stays."""
    daemon = await authorized(login(), token_server)
    clock.advance(4000)
    with monkeypatch.context() as broken:
        broken.setattr(durable, "sync_file", lambda _: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        assert (await refused(daemon.token())).code == "store"
    command = await authorized(login(), token_server)
    fresh = await command.token()
    assert await daemon.token() == fresh == await login().token()
    clock.advance(4000)
    assert await login().token() != fresh
    assert token_server.entra.issued.reused == []


async def test_who_waits_while_the_provider_fails_does_not_ask_it_as_well(
    make: Callable[..., TokenSource], token_server: TokenServer
) -> None:
    """Many mailboxes that share a token wait as long as one does, not one after the other; the next try asks again."""
    one = make()
    with token_server.troubled("unavailable"):
        errors = await asyncio.gather(*(refused(one.token()) for _ in range(10)))
        assert {(error.kind, error.code) for error in errors} == {("temporary", "503")}
        assert len(token_server.requests) == 1
        await refused(one.token())
    assert len(token_server.requests) == 2
    assert await one.token()


async def test_a_token_is_waited_for_so_long(
    make: Callable[..., TokenSource], token_server: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watchdog counts on it: `LONGEST`, `FINISH` of it for what is under way."""
    monkeypatch.setattr(tokens, "LONGEST", tokens.FINISH + 0.2)
    monkeypatch.setattr(flows, "SECONDS", 0.5)
    one = make()
    with token_server.troubled("slow"):
        error = await refused(one.token())
        assert (error.kind, error.code) == ("temporary", "timeout")
    token_server.trouble.mode = ""


@pytest.mark.parametrize("interactive", [False, True])
async def test_a_lock_that_nobody_lets_go(
    make: Callable[..., TokenSource],
    login: Callable[..., TokenSource],
    tmp_path: Path,
    token_server: TokenServer,
    monkeypatch: pytest.MonkeyPatch,
    interactive: bool,
) -> None:
    """A stopped process: what can be asked for as often as needed is; a refresh token must not be used by two."""
    monkeypatch.setattr(store, "PATIENCE", 0.2)
    folder = tmp_path / "state" / "oauth"
    folder.mkdir(parents=True)
    with (folder / ".lock-outbound.smarthost").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if interactive:
            error = await refused(login().token())
            assert (error.kind, "another process" in error.text) == ("temporary", True)
        else:
            token_server.entra.register(APP, secret=SECRET, mailbox=USER)
            one = make()
            assert await one.token() == await one.token()
            assert len(token_server.requests) == 1


async def test_what_the_provider_refuses_ends_no_token_that_is_valid(
    make: Callable[..., TokenSource], token_server: TokenServer, clock: ManualClock
) -> None:
    """A secret that has expired, or a sentence of a proxy's that looks like a refusal: the token is used to its end."""
    one = make()
    first = await one.token()
    clock.advance(3400)
    token_server.entra.apps[APP].secret_expired = True
    assert await one.token() == await make().token() == first
    clock.advance(200)
    assert (await refused(one.token())).code == "AADSTS7000222"


async def test_a_cancelled_renewal_loses_no_refresh_token(
    login: Callable[..., TokenSource], token_server: TokenServer, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop or a reload in the middle waits for the answer and its way to the disk."""
    one = await authorized(login(), token_server)
    clock.advance(4000)
    answered, refresh = asyncio.Event(), flows.refresh

    async def slow(*arguments: Any) -> Any:
        found = await refresh(*arguments)
        answered.set()
        await asyncio.sleep(0.05)
        return found

    monkeypatch.setattr(flows, "refresh", slow)
    asking = asyncio.create_task(one.token())
    await answered.wait()
    for _ in range(3):
        asking.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await login().token()
    assert len(token_server.asked("refresh_token")) == 1


async def test_a_login_on_another_device_is_waited_for(
    login: Callable[..., TokenSource], token_server: TokenServer, clock: ManualClock
) -> None:
    """At the provider's pace, and slower where it wants that."""
    one = login(flow="device")
    code = await one.start_device()
    waiting = asyncio.create_task(one.finish_device(code))
    server_code = token_server.entra.codes[code.device_code]
    while len(clock.pauses) < 3:
        clock.advance(1)
        await asyncio.sleep(0.01)
    server_code.interval = 0.0
    token_server.entra.approve(code.user_code, USER)
    while not waiting.done():
        clock.advance(10)
        await asyncio.sleep(0.01)
    await waiting
    assert clock.pauses[:3] == [1.0, 1.0, 6.0]
    assert await one.token()


async def test_a_login_on_another_device_ends(
    login: Callable[..., TokenSource], token_server: TokenServer, clock: ManualClock
) -> None:
    """Declined, or with the code's life."""
    one = login(flow="device")
    code = await one.start_device()
    waiting = asyncio.create_task(refused(one.finish_device(code)))
    while not waiting.done():
        clock.advance(100)
        await asyncio.sleep(0.01)
    assert (await waiting).code == "expired_token"
    code = await one.start_device()
    token_server.entra.decline(code.user_code)
    waiting = asyncio.create_task(refused(one.finish_device(code)))
    while not waiting.done():
        clock.advance(2)
        await asyncio.sleep(0.01)
    assert (await waiting).kind == "refused"


async def test_a_file_of_other_terms_is_no_token_for_these(
    login: Callable[..., TokenSource], token_server: TokenServer
) -> None:
    """Another application needs its own login; status says so."""
    await authorized(login(), token_server)
    token_server.entra.register("other", public=True)
    one = login(client_id="other")
    error = await refused(one.token())
    assert (error.kind, "another user, application" in error.text) == ("consent", True)
    assert one.status().other_terms
    assert not login().status().other_terms


DAMAGED = [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"format": 1}', b'{"format": "1"}', b'{"format": 0}']


@pytest.mark.parametrize("content", DAMAGED, ids=lambda content: repr(content[:20]))
async def test_a_damaged_file_is_replaced_where_nobody_has_to_log_in(
    make: Callable[..., TokenSource], login: Callable[..., TokenSource], tmp_path: Path, content: bytes
) -> None:
    """And named where somebody has to."""
    path = tmp_path / "state" / "oauth" / "outbound.smarthost.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    error = await refused(login().token())
    assert (error.kind, f"{path} is damaged" in error.text) == ("consent", True)
    assert path.read_bytes() == content
    with pytest.raises(ValueError, match="damaged"):
        login().status()


async def test_a_damaged_file_holds_nothing_that_is_needed(make: Callable[..., TokenSource], tmp_path: Path) -> None:
    """With client credentials a token is only a copy."""
    path = tmp_path / "state" / "oauth" / "outbound.smarthost.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"{")
    token = await make().token()
    assert written(tmp_path)["token"]["access_token"] == token


async def test_a_file_of_a_later_version_is_left_alone(make: Callable[..., TokenSource], tmp_path: Path) -> None:
    """Nothing in it is guessed."""
    path = tmp_path / "state" / "oauth" / "outbound.smarthost.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(b'{"format": 2}')
    error = await refused(make().token())
    assert (error.kind, "later version" in error.text) == ("configuration", True)
    assert path.read_bytes() == b'{"format": 2}'


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to give files away")
async def test_a_file_of_another_user_is_not_believed(
    make: Callable[..., TokenSource], login: Callable[..., TokenSource], tmp_path: Path, token_server: TokenServer
) -> None:
    """Whoever could put it there would choose whose mailbox is used."""
    token_server.entra.register(APP, secret=SECRET, mailbox=USER)
    first = await make().token()
    path = tmp_path / "state" / "oauth" / "outbound.smarthost.json"
    os.chown(path, 12345, 12345)
    with pytest.raises(ValueError, match="belongs to another user"):
        make().status()
    assert "belongs to another user" in (await refused(login().token())).text
    assert await make().token() != first
    assert path.stat().st_uid == 0


async def test_a_file_that_was_opened_to_all_is_closed_again(make: Callable[..., TokenSource], tmp_path: Path) -> None:
    """By the next who reads it."""
    first = await make().token()
    path = tmp_path / "state" / "oauth" / "outbound.smarthost.json"
    path.chmod(0o644)
    assert await make().token() == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "name", ["outbound.smarthost.json", ".lock-outbound.smarthost", ".tmp-outbound.smarthost.json"]
)
@pytest.mark.parametrize("kind", ["symlink", "hardlink", "fifo", "folder"])
async def test_what_is_no_file_of_its_own_is_left_alone(
    make: Callable[..., TokenSource], tmp_path: Path, name: str, kind: str
) -> None:
    """Nothing elsewhere is written or given away, nothing waits, and there is a token all the same."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("precious")
    path = tmp_path / "state" / "oauth" / name
    path.parent.mkdir(parents=True)
    match kind:
        case "symlink":
            path.symlink_to(elsewhere)
        case "hardlink":
            path.hardlink_to(elsewhere)
        case "fifo":
            os.mkfifo(path)
        case _:
            path.mkdir()
    async with asyncio.timeout(10):
        assert await make().token()
    assert elsewhere.read_text() == "precious"
    assert elsewhere.stat().st_uid == os.getuid()


async def test_without_a_folder_a_token_stands_in_memory_only(
    make: Callable[..., TokenSource], login: Callable[..., TokenSource], tmp_path: Path, token_server: TokenServer
) -> None:
    """As often as needed it can be asked for; a refresh token cannot, so that one needs its file."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "oauth").write_bytes(b"no folder")
    token_server.entra.register(APP, secret=SECRET, mailbox=USER)
    one = make()
    token = await one.token()
    assert await one.token() == token
    assert (await refused(login().token())).code == "store"


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to give files away")
async def test_what_root_writes_belongs_to_the_daemon(make: Callable[..., TokenSource], tmp_path: Path) -> None:
    """Else a command run as root would shut the daemon out."""
    (tmp_path / "state").mkdir()
    os.chown(tmp_path / "state", 12345, 12345)
    await make().token()
    folder = tmp_path / "state" / "oauth"
    assert {path.stat().st_uid for path in [folder, *folder.iterdir()]} == {12345}


async def test_only_the_last_two_tokens_are_looked_for_in_the_log(
    make: Callable[..., TokenSource], clock: ManualClock
) -> None:
    """In a year there are thousands, and each would make every line slower."""
    one, seen = make(), []
    for _ in range(4):
        seen.append(await one.token())
        clock.advance(3600)
    assert [log.masked(token) == log.MASK for token in seen] == [False, False, True, True]


# -- who shares a token ------------------------------------------------------------------------------------------------

MAILBOX = '[inbound.{name}]\nhost = "localhost"\n{keys}\n'


def sources(folder: Path, clock: ManualClock, oauth: str, *mailboxes: str) -> list[TokenSource]:
    """Of the outbound account and of each mailbox."""
    more = "".join(MAILBOX.format(name=f"m{number}", keys=keys) for number, keys in enumerate(mailboxes))
    made = settings(folder, oauth, more=more)
    assert made.account is not None
    all_ = Tokens(made, clock)
    return [all_.of(made.account), *(all_.of(mailbox) for mailbox in made.mailboxes)]


async def test_a_mailbox_that_inherits_its_login_shares_the_token(
    tmp_path: Path, token_server: TokenServer, clock: ManualClock
) -> None:
    """One source, whoever asks first, for both protocols."""
    token_server.entra.register(APP, secret=SECRET, mailbox=USER)
    sender, inherits, other = sources(tmp_path, clock, microsoft(token_server), "", 'user = "other@example.com"')
    assert sender is inherits is not other
    assert (sender.account, other.account) == ("outbound.smarthost", "inbound.m1")


async def test_a_mailbox_more_needs_wider_words_and_no_new_login(
    tmp_path: Path, token_server: TokenServer, clock: ManualClock
) -> None:
    """Where both were agreed to; else the provider says that somebody has to agree."""
    token_server.entra.register(APP, public=True)
    token_server.entra.signed_in = USER
    oauth = microsoft(token_server, flow="authorization-code", client_secret=None)
    both = await authorized(sources(tmp_path, clock, oauth, "")[0], token_server)
    wide = await both.token()
    assert await sources(tmp_path, clock, oauth)[0].token() == wide  # less is part of it
    narrow = await authorized(sources(tmp_path, clock, oauth)[0], token_server)
    await narrow.token()
    error = await refused(sources(tmp_path, clock, oauth, "")[1].token())
    assert (error.kind, error.code) == ("consent", "AADSTS65001")
    assert "mailrelayd authorize outbound.smarthost" in error.text


async def test_an_account_that_is_not_enabled_has_a_source_of_its_own(
    tmp_path: Path, token_server: TokenServer, clock: ManualClock
) -> None:
    """So that it can be set up before it is used."""
    made = settings(
        tmp_path,
        microsoft(token_server),
        more='[inbound.next]\nenabled = false\nhost = "localhost"\nuser = "next@example.com"\n',
    )
    mailbox = made.inbound["next"]
    assert isinstance(mailbox, InboundAccount)
    assert Tokens(made, clock).of(mailbox).account == "inbound.next"


# -- token_command -----------------------------------------------------------------------------------------------------


def program(folder: Path, line: str) -> str:
    """The key for a shell script of one line."""
    path = folder / "token"
    path.write_text(f"#!/bin/sh\necho x >> {folder}/called\n{line}\n")
    path.chmod(0o755)
    return lines({"token_command": [str(path), "an argument"]})


def called(folder: Path) -> int:
    return len((folder / "called").read_text().split())


async def test_a_command_gives_the_token_and_is_not_run_each_time(tmp_path: Path, clock: ManualClock) -> None:
    """After five minutes, or when its token was refused; its argument arrives whole."""
    one = source(tmp_path, program(tmp_path, 'echo "token-$(wc -l < ${0%/*}/called)-$#"; echo second line'), clock)
    assert set(await asyncio.gather(*(one.token() for _ in range(5)))) == {"token-1-1"}
    clock.advance(260)
    assert await one.token() == "token-1-1"
    clock.advance(40)
    assert await one.token() == "token-2-1"
    one.refused("token-2-1")
    assert await one.token() == "token-3-1"
    assert not (tmp_path / "state" / "oauth").exists()
    assert one.status().path == ""


async def test_a_command_s_jwt_says_itself_when_it_ends(tmp_path: Path, clock: ManualClock) -> None:
    """No sooner is the command run again."""
    text = jwt("relay", expires=int(clock.now()) + 7200)
    one = source(tmp_path, program(tmp_path, f"echo {text}"), clock)
    await one.token()
    clock.advance(6000)
    await one.token()
    assert called(tmp_path) == 1
    clock.advance(1200)
    await one.token()
    assert called(tmp_path) == 2


@pytest.mark.parametrize(
    ("line", "kind"),
    [("exit 3", "temporary"), ("echo two words", "configuration"), ("true", "temporary"), ("echo", "temporary")],
)
async def test_a_command_without_a_token(tmp_path: Path, clock: ManualClock, line: str, kind: str) -> None:
    """The key is named, and nothing that it printed."""
    error = await refused(source(tmp_path, program(tmp_path, line), clock).token())
    assert (error.kind, "outbound.smarthost.oauth.token_command" in error.text) == (kind, True)
    assert "two words" not in error.text


async def test_a_command_that_is_not_there(tmp_path: Path, clock: ManualClock) -> None:
    """Is something to correct here."""
    keys = lines({"token_command": [str(tmp_path / "none")]})
    assert (await refused(source(tmp_path, keys, clock).token())).kind == "configuration"


async def test_a_command_that_fails_while_its_last_token_is_valid(tmp_path: Path, clock: ManualClock) -> None:
    """The token is used to its end."""
    one = source(tmp_path, program(tmp_path, "echo token"), clock)
    await one.token()
    (tmp_path / "token").write_text("#!/bin/sh\nexit 1\n")
    clock.advance(280)
    assert await one.token() == "token"
    clock.advance(60)
    await refused(one.token())


# -- what is missing here ----------------------------------------------------------------------------------------------


async def test_without_the_library_the_cure_is_named(
    make: Callable[..., TokenSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of the program does without it."""
    monkeypatch.delitem(sys.modules, "mailrelayd.oauth.flows")
    monkeypatch.setattr(sys.modules["mailrelayd.oauth"], "flows", None)
    monkeypatch.delattr(sys.modules["mailrelayd.oauth"], "flows")
    for name in [name for name in sys.modules if name == "authlib" or name.startswith("authlib.")]:
        monkeypatch.setitem(sys.modules, name, None)
    error = await refused(make().token())
    assert (error.kind, error.code) == ("configuration", "not-installed")
    assert asking.INSTALL in error.text


def test_the_daemon_begins_without_the_library() -> None:
    """Whoever logs in with passwords needs none of it, and does not wait for its import either."""
    extra = {"authlib", "cryptography", "joserfc"}
    code = f"import sys, mailrelayd.daemon, mailrelayd.login; print(sorted({extra} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
    assert asking.installed()


async def test_a_secret_that_cannot_be_had_is_named(make: Callable[..., TokenSource], tmp_path: Path) -> None:
    """By its key; and it is fetched anew at each try."""
    one = make(client_secret=f"file:{tmp_path}/secret")
    error = await refused(one.token())
    assert error.kind == "configuration"
    assert error.text.startswith("outbound.smarthost.oauth.client_secret: ")
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "secret").chmod(0o600)
    assert await one.token()
