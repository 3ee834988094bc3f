"""`mailrelayd authorize` as a user sees it: against local Microsoft, Google and OpenID servers, Postfix and Dovecot."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mailrelayd.__main__ import main
from mailrelayd.causes import explain
from mailrelayd.config.load import load
from mailrelayd.oauth.administration import FLOWS, Wanted, skeleton, tasks
from tests.scenarios.tokens import SECRET, TokenSite, url_in
from tests.servers.daemon import account
from tests.servers.oidc import Browser, OpenIdProvider
from tests.servers.process import free_port

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine's own environment says does not count here."""
    for variable in list(os.environ):
        if variable.upper().startswith("MAILRELAYD__") or variable == "CREDENTIALS_DIRECTORY":
            monkeypatch.delenv(variable)


def authorize(folder: Path, text: str, *words: str) -> int:
    """Run the command on this configuration; its exit status."""
    path = folder / "mailrelayd.toml"
    path.write_text(text)
    path.chmod(0o600)
    return main(["--config", str(path), "authorize", *words])


def told(out: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The steps of a --json document by account and name, the last of each."""
    return {(step["account"], step["name"]): step for step in json.loads(out)["steps"]}


OUT, IN = "outbound.smarthost", "inbound.answers"


# -- app-only ----------------------------------------------------------------------------------------------------------


@pytest.mark.real
def test_an_application_is_proven_from_token_to_folder(token_site: TokenSite, tmp_path: Path, capsys: Output) -> None:
    """The claims, the sender, the recipient and the folder: each is a step, and nothing was sent."""
    token_site.microsoft()
    text = token_site.text.replace("from_address", 'test_to = "ops@dest.test"\nfrom_address')
    assert authorize(tmp_path, text, "smarthost", "--json") == 0
    out, err = capsys.readouterr()
    steps = told(out)
    assert {step["outcome"] for step in steps.values()} <= {"ok", "warning", "skipped"}
    for step in ("token", "audience", "permissions", "application", "tenant", "login", "sender", "recipient"):
        assert steps[OUT, step]["outcome"] == "ok", step
    for step in ("login", "folder"):
        assert steps[IN, step]["outcome"] == "ok", step
    assert steps[OUT, "token"]["data"]["roles"] == ["SMTP.SendAsApp", "IMAP.AccessAsApp"]
    assert steps[OUT, "token"]["data"]["tid"] == token_site.server.entra.tenant
    assert token_site.postfix.accepted() == []
    assert "New-ServicePrincipal -AppId 'app'" in err
    assert f"Add-MailboxPermission -Identity '{token_site.user.name}'" in err
    assert SECRET not in out + err
    assert [one for one in token_site.server.issued.access if one in out + err] == []


@pytest.mark.real
def test_the_token_belongs_to_the_daemon(token_site: TokenSite, tmp_path: Path, capsys: Output) -> None:
    """Run as root, it leaves files behind that the daemon's user owns and nobody else reads."""
    token_site.microsoft()
    assert authorize(tmp_path, token_site.text, OUT) == 0
    capsys.readouterr()
    folder = token_site.state / "oauth"
    for path in (folder, *folder.iterdir()):
        assert path.stat().st_uid == account().uid
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


@pytest.mark.real
def test_a_running_daemon_takes_the_new_token_up(token_site: TokenSite, start: Start) -> None:
    """The route is held for want of consent; after `authorize`, and no restart, everything drains."""
    token_site.microsoft(flow="authorization-code")
    token_site.reads = False
    token_site.server.entra.register("app", secret=SECRET, mailbox=token_site.user.name)
    token_site.server.entra.signed_in = token_site.user.name
    running = token_site.run()
    token_site.drop(1)
    token_site.held(running, "mailrelayd authorize outbound.smarthost", count=1)
    (status, out) = in_a_browser(token_site, start)
    assert status == 0, out
    token_site.arrived(running, 1)
    assert running.stop() == 0


@pytest.mark.real
def test_permissions_that_are_missing_are_named(token_site: TokenSite, tmp_path: Path, capsys: Output) -> None:
    """IMAP.AccessAsApp was forgotten: SMTP works, and the cure for IMAP says which permission to add."""
    token_site.microsoft()
    token_site.server.entra.register("app", secret=SECRET, mailbox=token_site.user.name, roles=("SMTP.SendAsApp",))
    assert authorize(tmp_path, token_site.text, "smarthost", "--json") == 77
    steps = told(capsys.readouterr().out)
    assert steps[OUT, "permissions"]["outcome"] == "failed"
    assert "IMAP.AccessAsApp" in steps[OUT, "permissions"]["cause"]
    assert "Grant admin consent" in steps[OUT, "permissions"]["cure"]
    assert steps[OUT, "login"]["outcome"] == "ok"
    assert steps[IN, "login"]["outcome"] == "failed"


@pytest.mark.real
def test_a_token_for_graph_is_recognised(token_site: TokenSite, tmp_path: Path, capsys: Output) -> None:
    """The usual mistake with scopes: the token is good, and no mail server takes it."""
    token_site.microsoft(scopes=["https://graph.microsoft.com/.default"])
    assert authorize(tmp_path, token_site.text, "smarthost", "--json") == 78
    steps = told(capsys.readouterr().out)
    assert "Microsoft Graph" in steps[OUT, "audience"]["cause"]
    assert steps[OUT, "audience"]["setting"] == "outbound.smarthost.oauth.scopes"


@pytest.mark.parametrize(
    ("keys", "status", "cause", "setting"),
    [
        ({"client_secret": "text:wrong"}, 77, "client secret is wrong", "oauth.client_secret"),
        ({"client_id": "nobody"}, 77, "no application of this id", "oauth.client_id"),
        ({"tenant_id": "elsewhere.example.com"}, 78, "no such tenant", "oauth.tenant_id"),
        ({"scopes": ["SMTP.Send"]}, 78, "scopes", "oauth.scopes"),
        ({"authority": "http://127.0.0.1:9"}, 75, "cannot be reached", "oauth.authority"),
    ],
)
def test_what_the_provider_refuses_has_a_cause_and_a_key(
    keys: dict[str, Any],
    status: int,
    cause: str,
    setting: str,
    token_server: Any,
    state_dir: Path,
    tmp_path: Path,
    capsys: Output,
) -> None:
    """Nobody has to look an error number up."""
    text = microsoft(token_server, state_dir, **keys)
    assert authorize(tmp_path, text, "smarthost", "--json") == status
    step = told(capsys.readouterr().out)[OUT, "token"]
    assert cause in step["cause"]
    assert step["setting"] == f"outbound.smarthost.{setting}"
    assert step["cure"]


def microsoft(server: Any, state: Path, **keys: Any) -> str:
    """A smarthost that nobody reaches, and an application of the local Entra."""
    server.entra.register("app", secret=SECRET, mailbox="relay@example.com")
    values = {
        "provider": "microsoft",
        "authority": server.url,
        "tenant_id": server.entra.tenant,
        "client_id": "app",
        "client_secret": f"text:{SECRET}",
        **keys,
    }
    lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
    return (
        f'[state]\ndirectory = "{state}"\n[outbound.smarthost]\nhost = "127.0.0.1"\nport = 9\n'
        f'user = "relay@example.com"\nauth = "oauth2"\n[outbound.smarthost.oauth]\n{lines}'
    )


# -- with a person -----------------------------------------------------------------------------------------------------


Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(text, *words)`: the command as a process of its own, whose output is read while it runs."""
    with ExitStack() as ending:

        def begin(text: str, *words: str, stdin: bool = False) -> subprocess.Popen[bytes]:
            path = tmp_path / "mailrelayd.toml"
            path.write_text(text)
            path.chmod(0o600)
            process = subprocess.Popen(
                [sys.executable, "-m", "mailrelayd", "--config", str(path), "authorize", *words],
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,  # or what was read ahead would be lost to `communicate`
            )
            ending.enter_context(process)
            ending.callback(process.kill)
            return process

        yield begin


def read_until(process: subprocess.Popen[bytes], wanted: str) -> str:
    """What it says up to a line with this in it."""
    assert process.stdout is not None
    said = ""
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    try:
        while line := process.stdout.readline().decode():
            said += line
            if re.search(wanted, line):
                return said
    finally:
        watchdog.cancel()
    raise AssertionError(f"{wanted!r} was never said:\n{said}")


def rest(process: subprocess.Popen[bytes], typed: str = "") -> tuple[int, str]:
    """Its exit status and what else it says."""
    try:
        out, _ = process.communicate(typed.encode() or None, timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out.decode()


def browse(url: str) -> str:
    """A browser that follows redirects to the end; the last page."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=20) as answer:
        return str(answer.read().decode())


def in_a_browser(site: TokenSite, start: Start) -> tuple[int, str]:
    """Log in at the local Entra in a browser on this machine."""
    process = start(site.text, "smarthost")
    said = read_until(process, r"^  http")
    page = browse(url_in(said.splitlines()[-1]))
    assert "You can close this window" in page
    status, out = rest(process)
    return status, said + out


@pytest.mark.real
def test_a_browser_on_this_machine(token_site: TokenSite, start: Start) -> None:
    """The address is opened, the browser comes back, the token is renewed once without anybody, both logins work."""
    token_site.microsoft(flow="authorization-code")
    token_site.server.entra.signed_in = token_site.user.name
    status, out = in_a_browser(token_site, start)
    assert status == 0, out
    assert re.search(r"ssh -L (\d+):localhost:\1 ", out)
    for said in ("ok      outbound.smarthost consent:", "ok      outbound.smarthost renewal:"):
        assert said in out
    assert "ok      inbound.answers folder:" in out
    assert f"authorised as {token_site.user.name}" in out
    token_site_says_no_secret(token_site, out)


def token_site_says_no_secret(site: TokenSite, *texts: str) -> None:
    """No token and no secret was shown."""
    hidden = {SECRET, *site.server.issued.access, *site.server.issued.refresh}
    assert [one for text in texts for one in hidden if one in text] == []


@pytest.mark.real
def test_a_browser_elsewhere_by_pasting(token_site: TokenSite, start: Start) -> None:
    """Nonsense is asked for again; the address at which the browser ended is taken."""
    token_site.microsoft(flow="authorization-code")
    token_site.server.entra.signed_in = token_site.user.name
    process = start(token_site.text, "smarthost", "--paste", stdin=True)
    said = read_until(process, r"^  http")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay())
    with pytest.raises(urllib.error.HTTPError) as stopped:
        opener.open(url_in(said.splitlines()[-1]), timeout=20)
    stopped.value.close()
    status, out = rest(process, f"what?\n{stopped.value.headers['Location']}\n")
    assert status == 0, said + out
    assert "no address that a login ends at" in out


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


@pytest.mark.real
def test_somebody_else_signs_in(token_site: TokenSite, start: Start) -> None:
    """The token is another's: it is said who authorised, and the logins fail."""
    token_site.microsoft(flow="authorization-code")
    token_site.server.entra.signed_in = "somebody@example.com"
    status, out = in_a_browser(token_site, start)
    assert status == 77, out
    told = f"authorised as somebody@example.com, but outbound.smarthost.user says {token_site.user.name}"
    assert told in " ".join(out.split())
    assert "failed  outbound.smarthost login:" in out


def test_who_says_no_in_the_browser_ends_it(token_server: Any, state_dir: Path, start: Start) -> None:
    """The page and the terminal both say so."""
    text = microsoft(token_server, state_dir, flow="authorization-code")
    token_server.entra.signed_in = "relay@example.com"
    token_server.entra.consent_refused = True
    process = start(text, "smarthost")
    said = read_until(process, r"^  http")
    assert "The provider said no" in browse(url_in(said.splitlines()[-1]))
    status, out = rest(process)
    assert status == 77, out
    assert "failed  outbound.smarthost consent:" in out
    assert "cause:" in out


@pytest.mark.real
def test_a_code_on_another_device(token_site: TokenSite, start: Start) -> None:
    """The code is shown, entered elsewhere, and the token comes by asking."""
    token_site.microsoft(flow="device")
    token_site.server.entra.register("app", public=True, mailbox=token_site.user.name)
    del token_site.oauth["client_secret"]
    process = start(token_site.text, "smarthost")
    said = read_until(process, "and enter:")
    code = said.split("and enter:")[1].split()[0]
    token_site.server.entra.approve(code, token_site.user.name)
    status, out = rest(process)
    assert status == 0, said + out
    assert "ok      outbound.smarthost login:" in out
    assert "ok      inbound.answers login:" in out


def test_a_declined_code_ends_it(token_server: Any, state_dir: Path, start: Start) -> None:
    """Somebody said no on the other device."""
    token_server.entra.register("public", public=True, mailbox="relay@example.com")
    text = microsoft(token_server, state_dir, flow="device", client_id="public").replace(
        f'client_secret = "text:{SECRET}"\n', ""
    )
    process = start(text, "smarthost")
    said = read_until(process, "and enter:")
    token_server.entra.decline(said.split("and enter:")[1].split()[0])
    status, out = rest(process)
    assert status == 77, out
    assert "failed  outbound.smarthost consent:" in out


@pytest.mark.real
def test_a_real_provider_by_browser(
    token_site: TokenSite, openid_provider: Callable[..., OpenIdProvider], start: Start
) -> None:
    """oidc-provider with its login and consent pages, PKCE, a rotating refresh token, and its name in the answer."""
    provider = openid_provider([{"client_id": "desk", "redirect_uris": ["http://127.0.0.1/"], "is_public": True}])
    token_site.oauth = {
        "provider": "custom",
        "flow": "authorization-code",
        "authority": provider.url,
        "client_id": "desk",
        "scopes": ["openid", "offline_access", "smtp", "imap"],
    }
    process = start(token_site.text, "smarthost", "--port", str(free_port()))
    said = read_until(process, r"^  http")
    browse(Browser(token_site.user.name).consent(url_in(said.splitlines()[-1])))
    status, out = rest(process)
    assert status == 0, said + out


@pytest.mark.parametrize("words", [(), ("--paste",)])
def test_who_gives_up_leaves_nothing_behind(
    words: tuple[str, ...], token_server: Any, state_dir: Path, start: Start
) -> None:
    """Ctrl-C, once, while the browser or the address is waited for."""
    text = microsoft(token_server, state_dir, flow="authorization-code")
    process = start(text, "smarthost", *words, stdin=True)
    if words:
        assert process.stdout is not None
        said = b""
        while b"Its whole address:" not in said:  # a prompt, at the end of no line
            said += (more := process.stdout.read(4096))
            assert more, said
    else:
        read_until(process, "Ctrl-C ends it")
    process.send_signal(signal.SIGINT)
    status, out = rest(process)
    assert status == 75, out
    assert "error: given up\n" in out
    assert not (state_dir / "oauth" / f"{OUT}.json").exists()


# -- status ------------------------------------------------------------------------------------------------------------


def test_status_before_and_after(token_server: Any, state_dir: Path, tmp_path: Path, capsys: Output) -> None:
    """Until when, from when, what went wrong last, how long the secret lasts: and never the token."""
    text = microsoft(token_server, state_dir, client_secret_expires="2027-05-01")
    assert authorize(tmp_path, text, "--status", "--json") == 0
    (before,) = json.loads(capsys.readouterr().out)
    assert (before["account"], before["state"], before["token"]) == (OUT, "none yet", None)
    assert before["secret_expires"] == "2027-05-01"
    assert authorize(tmp_path, text, "smarthost") == 69  # the token was had, the smarthost not
    capsys.readouterr()
    assert authorize(tmp_path, text, "--status") == 0
    out = capsys.readouterr().out
    assert "token: valid, until 20" in out
    assert "scopes: https://outlook.office365.com/.default" in out
    assert "client secret: until 2027-05-01" in out
    assert [one for one in token_server.issued.access if one in out] == []
    wrong = microsoft(token_server, state_dir, client_secret="text:wrong")
    assert authorize(tmp_path, wrong, "smarthost") == 77
    capsys.readouterr()
    assert authorize(tmp_path, wrong, "smarthost", "--status", "--json") == 0
    (after,) = json.loads(capsys.readouterr().out)
    assert after["last_error"]["code"] == "AADSTS7000215"
    assert authorize(tmp_path, microsoft(token_server, state_dir, client_id="other"), "--status") == 0
    assert "of another configuration" in capsys.readouterr().out


def test_status_of_what_cannot_be_read(token_server: Any, state_dir: Path, tmp_path: Path, capsys: Output) -> None:
    """A damaged file is named; the rest is told all the same."""
    text = microsoft(token_server, state_dir)
    (state_dir / "oauth").mkdir()
    (state_dir / "oauth" / f"{OUT}.json").write_text("{")
    assert authorize(tmp_path, text, "--status") == 65
    out, err = capsys.readouterr()
    assert out.startswith("outbound.smarthost: microsoft, client-credentials\n")
    assert f"{OUT}.json" in err


def test_status_without_tokens(tmp_path: Path, capsys: Output) -> None:
    """Passwords have no status."""
    assert authorize(tmp_path, '[outbound.x]\nhost = "mail.example.com"\n', "--status") == 0
    assert capsys.readouterr().out == 'no account has auth = "oauth2"\n'


# -- mistakes ----------------------------------------------------------------------------------------------------------

TWO = """\
[state]
directory = "{state}"
[outbound.mail]
host = "127.0.0.1"
user = "a@example.com"
[outbound.mail.oauth]
tenant_id = "t"
client_id = "c"
client_secret = "text:s"
[inbound.mail]
host = "127.0.0.1"
[inbound.archive]
host = "127.0.0.1"
auth = "password"
user = "b@example.com"
password = "text:x"
"""


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ((), 64, "outbound.mail, inbound.mail"),
        (("nobody",), 64, "there is outbound.mail, inbound.mail, inbound.archive"),
        (("mail",), 64, "outbound.mail or inbound.mail"),
        (("inbound.archive",), 78, 'auth = "password"'),
    ],
)
def test_the_account_must_be_one_with_a_token(
    words: tuple[str, ...], status: int, said: str, state_dir: Path, tmp_path: Path, capsys: Output
) -> None:
    """The names there are stand in the error."""
    assert authorize(tmp_path, TWO.format(state=state_dir), *words) == status
    assert said in capsys.readouterr().err


def test_a_state_folder_that_is_missing_is_not_made(tmp_path: Path, capsys: Output) -> None:
    """It would belong to the wrong user."""
    assert authorize(tmp_path, TWO.format(state=tmp_path / "state"), "outbound.mail") == 73
    assert "no such folder" in capsys.readouterr().err
    assert not (tmp_path / "state").exists()


def test_another_user_is_told_whose_command_it_is(
    state_dir: Path, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file of another owner is left among the tokens."""
    monkeypatch.setattr(os, "geteuid", lambda: state_dir.stat().st_uid + 1)
    assert authorize(tmp_path, TWO.format(state=state_dir), "outbound.mail") == 77
    assert "runuser -u " in capsys.readouterr().err
    assert not (state_dir / "oauth").exists()


def test_a_port_in_use_is_said(token_server: Any, state_dir: Path, tmp_path: Path, capsys: Output) -> None:
    """And that there is another way."""
    text = microsoft(token_server, state_dir, flow="authorization-code")
    assert authorize(tmp_path, text, "smarthost", "--port", str(token_server.port)) == 69
    assert "--paste" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        authorize(tmp_path, text, "smarthost", "--port", "0")
    assert ended.value.code == 64


# -- what to do at the provider ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("provider", "flow"), [(provider, flow) for provider in FLOWS for flow in FLOWS[provider]])
def test_steps_before_there_is_a_configuration(provider: str, flow: str, tmp_path: Path, capsys: Output) -> None:
    """What to do there, and a section that loads as it stands."""
    assert main(["authorize", "--steps", provider, "--flow", flow, "--json"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["tasks"]
    assert document["toml"].splitlines()[0] in err
    path = tmp_path / "mailrelayd.toml"
    path.write_text(document["toml"])
    found = load(path, {}, check_files=False).settings.account
    assert found is not None
    assert found.auth == "oauth2"
    assert found.oauth is not None
    assert (found.oauth.provider, found.oauth.flow) == (provider, flow)


def test_a_flow_that_a_provider_lacks(capsys: Output) -> None:
    """The ones it has are named."""
    assert main(["authorize", "--steps", "google", "--flow", "device"]) == 64
    assert "service-account, authorization-code" in capsys.readouterr().err


def test_commands_are_filled_in_and_quoted() -> None:
    """A name with a quote stays one word in PowerShell, and nothing in it is expanded."""
    wanted = Wanted(
        OUT, "microsoft", "client-credentials", "o'neil$x@example.com", "no@example.com", ("smtp",), "T", "C"
    )
    commands = [command for task in tasks(wanted) for command in task.commands]
    assert "New-ServicePrincipal -AppId 'C' -ObjectId $sp.Id -DisplayName mailrelayd" in commands
    assert "Connect-ExchangeOnline -Organization 'T'" in commands
    assert "Add-MailboxPermission -Identity 'o''neil$x@example.com' -User $sp.Id -AccessRights FullAccess" in commands
    assert "Add-RecipientPermission -Identity 'no@example.com' -Trustee $sp.Id -AccessRights SendAs" in commands
    assert any("-SmtpClientAuthenticationDisabled $false" in command for command in commands)
    assert not any("-ImapEnabled" in command for command in commands)


def test_each_cloud_has_its_own_admin_centre() -> None:
    """And its own name for Connect-ExchangeOnline."""
    government = Wanted(
        OUT, "microsoft", "client-credentials", "a@example.com", authority_host="login.microsoftonline.us"
    )
    texts = [text for task in tasks(government) for text in (task.text, *task.commands)]
    assert any("https://entra.microsoft.us" in text for text in texts)
    assert any("-ExchangeEnvironmentName O365USGovGCCHigh" in text for text in texts)


def test_a_token_command_needs_no_provider() -> None:
    """What it has to print is said."""
    wanted = Wanted(OUT, "microsoft", "client-credentials", "a@example.com", token_command=("oama", "access", "a b"))
    (task,) = tasks(wanted)
    assert task.commands == ("oama access 'a b'",)
    assert skeleton("microsoft", "device").count("client_secret") == 0


# -- docs/oauth.md -----------------------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[1] / "docs" / "oauth.md"
REST = '[outbound.smarthost]\nhost = "mail.example.com"\nuser = "relay@example.com"\nauth = "oauth2"\n'


@pytest.mark.parametrize("block", re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL))
def test_each_configuration_on_the_page_loads(block: str, tmp_path: Path) -> None:
    """As it stands there, or with the account that a section of it belongs to."""
    path = tmp_path / "mailrelayd.toml"
    path.write_text(block if "[outbound.smarthost]\n" in block else REST + block)
    settings = load(path, {}, check_files=False).settings
    assert settings.account is not None
    assert settings.account.auth == "oauth2"
    for mailbox in settings.inbound.values():
        assert (mailbox.auth, mailbox.user, mailbox.oauth) == ("oauth2", settings.account.user, settings.account.oauth)


def test_the_page_shows_the_commands_that_are_printed() -> None:
    """What is copied from the page is what `authorize` prints."""
    page = PAGE.read_text()
    microsoft = Wanted(
        OUT,
        *("microsoft", "client-credentials", "relay@example.com", "noreply@example.com", ("smtp", "imap")),
        *("TENANT_ID", "CLIENT_ID"),
    )
    google = Wanted(OUT, "google", "service-account", "relay@example.com")
    unfolded = page.replace(" \\\n     --iam", " --iam")
    for task in (*tasks(microsoft), *tasks(google)):
        for command in task.commands:
            assert command in unfolded, command


def test_errors_on_the_page_are_known() -> None:
    """Each line of its table of errors leads to a cause."""
    table = PAGE.read_text().partition("| the error |")[2].partition("\n\n")[0]
    said = [row.split("|")[1] for row in table.splitlines()[2:]]
    assert len(said) >= 14
    for cell in said:
        provider = "google" if "(Google)" in cell else "microsoft"
        for error in re.findall(r"`([^`]+)`", cell):
            protocol = "imap" if "IMAP" in cell else "smtp" if re.match(r"\d|Send|Username", error) else "oauth"
            stage = {"smtp": "auth", "imap": "select", "oauth": "token"}[protocol]
            with_token = "" if "password" in error.lower() else provider
            assert explain(protocol, stage, "", error, provider=with_token) is not None, error
