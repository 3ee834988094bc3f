"""Configurations with accounts that log in with tokens of the local token server."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mailrelayd.config.load import load
from mailrelayd.config.oauth import OAuth
from mailrelayd.config.settings import Settings
from mailrelayd.oauth.tokens import Tokens, TokenSource
from tests.manual_clock import ManualClock
from tests.servers.tokenserver import TokenServer

USER: Final = "relay@example.com"
APP: Final = "app"
SECRET: Final = "right-secret/+%&="


def microsoft(server: TokenServer, **more: object) -> str:
    """The keys of an `oauth` table for the tenant of `server`; by default client credentials."""
    keys = {"authority": server.url, "tenant_id": server.entra.tenant, "client_id": APP, "client_secret": SECRET}
    return lines({**keys, **more})


def lines(keys: dict[str, object]) -> str:
    """TOML; what is None is left out."""
    written = {name: list(value) if isinstance(value, tuple) else value for name, value in keys.items()}
    return "".join(f"{name} = {toml(value)}\n" for name, value in written.items() if value is not None)


def toml(value: object) -> str:
    """A text, a path or a list of texts."""
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def settings(folder: Path, oauth: str, *, outbound: str = "", more: str = "", check_files: bool = True) -> Settings:
    """One outbound account "smarthost" with this `oauth` table."""
    (folder / "state").mkdir(exist_ok=True)
    file = folder / "mailrelayd.toml"
    file.write_text(
        f'[spool]\ndirectory = "{folder}/spool"\n[state]\ndirectory = "{folder}/state"\n'
        f'[outbound.smarthost]\nhost = "localhost"\nuser = "{USER}"\nauth = "oauth2"\n{outbound}'
        f"[outbound.smarthost.oauth]\n{oauth}{more}"
    )
    return load(file, {}, check_files=check_files).settings


def source(folder: Path, oauth: str, clock: ManualClock) -> TokenSource:
    """Where the tokens of such an account come from."""
    made = settings(folder, oauth)
    assert made.account is not None
    return Tokens(made, clock).of(made.account)


def section(**keys: object) -> OAuth:
    """An `oauth` table by itself."""
    return OAuth.model_validate(keys)
