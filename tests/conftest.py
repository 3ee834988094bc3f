"""Fixtures: certificates, real servers, the daemon as a process; no async test may leave a task behind."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mailrelayd.operate import log
from tests.scenarios.tokens import TokenSite
from tests.servers import certificates as certificate_files
from tests.servers import oidc
from tests.servers.certificates import Certificates
from tests.servers.daemon import Daemon, StartDaemon, account
from tests.servers.dovecot import DovecotAuth
from tests.servers.mailbox import IMAP_PROGRAM, MailboxServer
from tests.servers.oidc import OpenIdProvider
from tests.servers.postfix import Postfix
from tests.servers.process import free_port as find_free_port
from tests.servers.process import short_directory
from tests.servers.tokenserver import TokenServer

# Program -> Debian's package. What is not there is skipped, named at the end, and on CI an error.
PACKAGES = {
    "postfix": "postfix",
    "dovecot": "dovecot-core",
    "/usr/lib/dovecot/imap": "dovecot-imapd",
    "/usr/lib/dovecot/lmtp": "dovecot-lmtpd",
    "systemd-analyze": "systemd",
    "strace": "strace",
    "fusermount3": "fuse3",
    "pflogsumm": "pflogsumm",
    "jq": "jq",
    "php": "php-cli",
    "bsd-mailx": "bsd-mailx",
    "/usr/lib/git-core/git-send-email": "git-email",
    "/usr/share/perl5/Mail/Address.pm": "libmailtools-perl",  # which git send-email loads
    "perl": "perl",
    "node": "nodejs",
    "npm": "npm",
}
REAL = {"dovecot_auth", "mailbox", "oauth_mailbox", "oauth_postfix", "openid_provider", "postfix"}
NEEDS = "needs "

os.environ["PATH"] += ":/usr/sbin:/sbin"  # where servers are; an ordinary user's PATH lacks them


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell leaves it for what it starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever asks for a real server is marked so: `-m "not real"` leaves them out."""
    for item in items:
        if REAL & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.real)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test logged may hold bytes that are no UTF-8; a report of it travels between processes."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was not tested, and the line that would change it."""
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if NEEDS in str(report.longrepr)]
    if skipped:
        missing = [package for program, package in PACKAGES.items() if not is_there(program)]
        terminalreporter.section("not tested: a real server or tool is missing")
        for report in skipped:
            terminalreporter.line(report.nodeid)
        if missing:
            line = f"apt-get install --yes --no-install-recommends {' '.join(missing)}"
            terminalreporter.line(f"to test it: sudo {line}")
        if not oidc.is_installed():
            terminalreporter.line("oidc-provider, by npm: sh tests/servers/install.sh")
        if os.getuid() != 0:
            terminalreporter.line("Postfix runs as root only: sudo make test")
    if account.cache_info().currsize and account().reason:
        terminalreporter.section("the daemon's user")
        terminalreporter.line(account().reason)


def is_there(program: str) -> bool:
    """Whether it is installed: by its name in PATH, or by its path."""
    return shutil.which(program) is not None or (program.startswith("/") and Path(program).exists())


def require(program: str, *, root: bool = False) -> None:
    """Skip the test where `program` is not installed, or root is needed and we are not; on CI that is a failure."""
    if not is_there(program):
        absent = f"{NEEDS}{PACKAGES[program]}"
    elif root and os.getuid() != 0:
        absent = f"{NEEDS}root for {program}"
    elif program == oidc.PROGRAM and not oidc.is_installed():
        absent = f"{NEEDS}oidc-provider, which tests/servers/install.sh puts into .venv"
    else:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"{absent}, and nothing is skipped on CI")
    pytest.skip(absent)


@pytest.fixture
def required() -> Callable[[str], None]:
    """For tests with a tool instead of a server: `required("strace")` skips, or fails on CI, without it."""
    return require


def leaked_tasks() -> set[asyncio.Task[object]]:
    """The running loop's tasks that have not ended, the caller's apart."""
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


@pytest.fixture
async def no_task_is_left() -> AsyncIterator[None]:
    """Fails the test whose tasks outlive it: in the daemon each would be work nobody waits for."""
    yield
    assert not leaked_tasks(), "tasks left running"


@pytest.fixture(autouse=True)
def _tasks_are_counted(request: pytest.FixtureRequest) -> None:
    # Asked for by name and first, so that it ends last, and so that a plain test gets no event loop.
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue(no_task_is_left.__name__)


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """The log writes to a descriptor: one that is left behind would be another file's by the next test."""
    root = logging.getLogger()
    handlers, level, logger = root.handlers[:], root.level, log._logger
    yield
    root.handlers[:], log._logger = handlers, logger
    root.setLevel(level)
    logging.captureWarnings(False)
    for name in log._TALKATIVE:
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A function that finds a free loopback port at each call."""
    return find_free_port


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A directory with a path short enough for Unix sockets, owned by the user the daemon runs as."""
    with short_directory("mr") as path:
        yield account().own(path)


@pytest.fixture
def spool_dir(short_tmp: Path) -> Path:
    """An empty directory of the daemon's user, for [spool] directory."""
    return _private(short_tmp / "spool")


@pytest.fixture
def state_dir(short_tmp: Path) -> Path:
    """An empty directory of the daemon's user, for [state] directory."""
    return _private(short_tmp / "state")


def _private(path: Path) -> Path:
    path.mkdir(mode=0o755)
    return account().own(path)


@pytest.fixture(scope="session")
def certificates() -> Iterator[Certificates]:
    """The authority and its good and bad certificates; the client's key can be read by the daemon's user."""
    with short_directory("mr-tls") as directory:
        made = certificate_files.make(directory)
        account().own(made.client.key)
        yield made


@pytest.fixture(scope="session")
def dovecot_auth() -> Iterator[DovecotAuth]:
    """Dovecot's auth service."""
    require("dovecot")
    with short_directory("mr-auth") as directory:
        server = DovecotAuth(directory)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def mailbox(certificates: Certificates) -> Iterator[MailboxServer]:
    """Dovecot's IMAP server."""
    require(IMAP_PROGRAM)
    with short_directory("mr-imap") as directory:
        server = MailboxServer(directory, certificates)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def _postfix(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[Postfix]:
    require("postfix", root=True)
    dovecot: DovecotAuth = request.getfixturevalue("dovecot_auth")
    with short_directory("mr-mta") as directory:
        server = Postfix(directory, certificates, dovecot)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@pytest.fixture
def postfix(_postfix: Postfix) -> Postfix:
    """The smarthost, one for all tests: running, with nothing in its mailboxes and its log."""
    _postfix.start()
    _postfix.clear()
    return _postfix


@pytest.fixture(scope="session")
def _token_server() -> Iterator[TokenServer]:
    with TokenServer() as server:
        yield server


@pytest.fixture
def token_server(_token_server: TokenServer) -> TokenServer:
    """Microsoft's and Google's endpoints, one server for all tests: as it was new, nothing issued."""
    _token_server.reset()
    return _token_server


@pytest.fixture(scope="session")
def oauth_mailbox(certificates: Certificates, _token_server: TokenServer) -> Iterator[MailboxServer]:
    """Dovecot's IMAP server, which asks the token server whether a token is good."""
    require(IMAP_PROGRAM)
    with short_directory("mr-oimap") as directory:
        server = MailboxServer(directory, certificates, introspection_url=_token_server.introspection_url("imap"))
        try:
            server.start()
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def _oauth_postfix(certificates: Certificates, _token_server: TokenServer) -> Iterator[Postfix]:
    require("postfix", root=True)
    require("dovecot")
    with short_directory("mr-oauth") as auth, short_directory("mr-omta") as directory:
        dovecot = DovecotAuth(auth, introspection_url=_token_server.introspection_url("smtp"))
        server = Postfix(directory, certificates, dovecot)
        try:
            dovecot.start()
            server.start()
            yield server
        finally:
            server.stop()
            dovecot.stop()


@pytest.fixture
def oauth_postfix(_oauth_postfix: Postfix) -> Postfix:
    """A smarthost that also takes tokens, and asks the token server whether they are good; nothing has arrived."""
    _oauth_postfix.start()
    _oauth_postfix.clear()
    return _oauth_postfix


@pytest.fixture
def openid_provider(token_server: TokenServer) -> Iterator[Callable[..., OpenIdProvider]]:
    """`openid_provider(clients, life=...)` starts oidc-provider, and mail servers take its tokens, too."""
    require(oidc.PROGRAM)
    with ExitStack() as ending:

        def start(clients: Sequence[dict[str, Any]], *, life: float = 3600) -> OpenIdProvider:
            provider = OpenIdProvider(clients, life=life)
            ending.callback(provider.stop)
            provider.start()
            token_server.others = provider.introspection_url
            return provider

        yield start


@pytest.fixture
def daemon() -> Iterator[StartDaemon]:
    """`daemon(text).wait_ready()`: any number of them, each ended with the test at the latest.

    What the configuration names has to be the daemon's: see `short_tmp`, `spool_dir`, `state_dir`.
    """
    with ExitStack() as ending:

        def make(configuration: str, environment: Mapping[str, str] | None = None, *, start: bool = True) -> Daemon:
            directory = ending.enter_context(short_directory("mr-run"))
            made = Daemon(account().own(directory), configuration, environment or {})
            ending.callback(lambda: made.running and made.kill9())
            return made.start() if start else made

        yield make


@pytest.fixture
def token_site(
    oauth_postfix: Postfix,
    oauth_mailbox: MailboxServer,
    token_server: TokenServer,
    certificates: Certificates,
    spool_dir: Path,
    state_dir: Path,
    daemon: StartDaemon,
) -> TokenSite:
    """A daemon's site whose smarthost and mailbox take tokens; nobody has any yet."""
    for path in (spool_dir / "pickup", spool_dir / "pickup" / "tmp", spool_dir / "pickup" / "new"):
        path.mkdir()
        path.chmod(0o3730)
        account().own(path)
    user = oauth_mailbox.add_user()
    return TokenSite(spool_dir, state_dir, certificates, oauth_postfix, oauth_mailbox, token_server, user, daemon)
