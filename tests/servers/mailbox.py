"""A private Dovecot IMAP server with empty mailboxes, as an ordinary user. Versions 2.3 and 2.4."""

from __future__ import annotations

import base64
import grp
import hashlib
import hmac
import imaplib
import json
import os
import pwd
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers.certificates import Certificates
from tests.servers.daemon import ORDINARY_USER
from tests.servers.dovecot import INTROSPECTION_2_3, INTROSPECTION_2_4, PROGRAM, version
from tests.servers.process import end, free_port, greets, wait_until

IMAP_PROGRAM = "/usr/lib/dovecot/imap"  # what dovecot-imapd adds to dovecot-core
SIGNING_KEY = b"only for tests"

# One user for everything, so nothing can be jailed. Nothing is synced to disk: no test cuts the power.
COMMON = """\
base_dir = {directory}/run
log_path = {directory}/dovecot.log
protocols = imap
ssl = yes
listen = 127.0.0.1
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
auth_mechanisms = plain login xoauth2 oauthbearer
auth_failure_delay = 0
auth_cache_size = 0
auth_username_chars =
mail_fsync = never
first_valid_uid = 1
namespace inbox {{
  inbox = yes
  separator = /
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = {tls_port}
    ssl = yes
  }}
}}
service anvil {{
  chroot =
  # Without this socket there is no penalty: a refused login delays no later one, all being from one address.
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service stats {{
  chroot =
}}
"""
VERSION_2_3 = (
    COMMON
    + """\
disable_plaintext_auth = yes
ssl_cert = <{directory}/server.pem
ssl_key = <{directory}/server.key
mail_location = maildir:{directory}/mail/%u
passdb {{
  driver = passwd-file
  args = {directory}/users/%u
}}
passdb {{
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {directory}/oauth2.conf
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={directory}/home/%u allow_all_users=yes
}}
"""
)
# Whether a token is good: by its signature, see `token`, or by asking whoever issued it.
LOCAL_2_3 = """\
introspection_mode = local
local_validation_key_dict = fs:posix:prefix={directory}/keys/
username_attribute = sub
"""
# The versions name the dialect, must come first, and may be older than the program.
VERSION_2_4 = (
    """\
dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
"""
    + COMMON
    + """\
auth_allow_cleartext = no
ssl_server_cert_file = {directory}/server.pem
ssl_server_key_file = {directory}/server.key
mail_driver = maildir
mail_path = {directory}/mail/%{{user}}
passdb passwd-file {{
  passwd_file_path = {directory}/users/%{{user}}
}}
userdb static {{
  fields {{
    uid = {uid}
    gid = {gid}
    home = {directory}/home/%{{user}}
  }}
}}
"""
)
LOCAL_2_4 = """\
oauth2_introspection_mode = local
oauth2_username_attribute = sub
oauth2_local_validation {{
  dict fs {{
    fs posix {{
      prefix = {directory}/keys/
    }}
  }}
}}
"""


@dataclass(frozen=True)
class User:
    """Somebody with a mailbox."""

    name: str
    password: str


class MailboxServer:
    """Dovecot on two loopback ports: `port` with STARTTLS, and nothing before it; `tls_port` with TLS at once."""

    def __init__(self, directory: Path, certificates: Certificates, *, introspection_url: str = "") -> None:
        """Write the configuration into `directory`, and make it the property of an ordinary user.

        Tokens are those of `token`, or those that are active by `introspection_url` (RFC 7662).
        """
        self.port, self.tls_port = free_port(), free_port()
        self._directory = directory
        self._ca = certificates.ca
        self._process: subprocess.Popen[bytes] | None = None
        self._users = 0
        self._account = pwd.getpwnam(ORDINARY_USER) if os.getuid() == 0 else pwd.getpwuid(os.getuid())
        values = {
            "directory": directory,
            "port": self.port,
            "tls_port": self.tls_port,
            "user": self._account.pw_name,
            "uid": self._account.pw_uid,
            "group": grp.getgrgid(self._account.pw_gid).gr_name,
            "gid": self._account.pw_gid,
            "introspection_url": introspection_url,
        }
        asking = bool(introspection_url)
        if version() >= (2, 4):
            main, tokens = VERSION_2_4 + (INTROSPECTION_2_4 if asking else LOCAL_2_4), ""
        else:
            main, tokens = VERSION_2_3, INTROSPECTION_2_3 if asking else LOCAL_2_3
        (directory / "dovecot.conf").write_text(main.format(**values))
        (directory / "oauth2.conf").write_text(tokens.format(**values))
        (directory / "users").mkdir()
        key = directory / "keys" / "default" / "HS256" / "default"
        key.parent.mkdir(parents=True)
        key.write_bytes(base64.b64encode(SIGNING_KEY))
        shutil.copy(certificates.good.certificate, directory / "server.pem")
        shutil.copy(certificates.good.key, directory / "server.key")
        if os.getuid() == 0:
            for path in (directory, *directory.rglob("*")):
                os.chown(path, self._account.pw_uid, self._account.pw_gid)

    def start(self) -> None:
        """Return once both ports answer."""
        command = [PROGRAM, "-F", "-c", str(self._directory / "dovecot.conf")]
        group = self._account.pw_gid
        switch = {"user": self._account.pw_uid, "group": group, "extra_groups": []} if os.getuid() == 0 else {}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            **switch,  # type: ignore[call-overload]
        )
        wait_until(lambda: greets(self.port) or not self.running, 20, self.log)
        if not self.running:
            raise RuntimeError(f"Dovecot does not start:\n{self.log()}")

    def stop(self) -> None:
        """End it and its helpers."""
        if self._process is not None:
            end(self._process)

    @property
    def running(self) -> bool:
        """Whether the master process lives."""
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """Everything logged so far."""
        path = self._directory / "dovecot.log"
        return path.read_text(errors="replace") if path.exists() else "(no log)"

    def add_user(self, password: str = "correct horse", name: str = "") -> User:
        """Somebody new with an empty INBOX."""
        self._users += 1
        user = User(name or f"user{self._users}", password)
        packed = base64.b64encode(password.encode()).decode()
        # A file for each: Dovecot looks at most once in a second whether one has changed.
        (self._directory / "users" / user.name).write_text(f"{user.name}:{{PLAIN.b64}}{packed}\n", encoding="utf-8")
        return user

    @contextmanager
    def client(self, user: User) -> Iterator[imaplib.IMAP4_SSL]:
        """Somebody else's session with the user's mailbox; name and password have to be ASCII."""
        context = ssl.create_default_context(cafile=str(self._ca))
        with imaplib.IMAP4_SSL("localhost", self.tls_port, ssl_context=context, timeout=30) as client:
            client.login(user.name, user.password)
            yield client

    def append(
        self, user: User, *messages: bytes, folder: str = "INBOX", date: str | None = None, flags: str = ""
    ) -> None:
        """Put mails into a folder; `date` is an INTERNALDATE in quotes."""
        with self.client(user) as client:
            for message in messages:
                kind, answer = client.append(folder, flags, date or "", message)
                if kind != "OK":
                    raise RuntimeError(f"APPEND was refused: {answer!r}")


def token(name: str, *, expires: int = 4_000_000_000, padding: int = 0) -> str:
    """An access token that the server takes for the user's: a JWT, signed with the server's key; longer by a claim."""

    def packed(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    header = packed(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
    claims = packed(json.dumps({"sub": name, "exp": expires, "iat": 1_600_000_000, "pad": "x" * padding}).encode())
    signature = hmac.new(SIGNING_KEY, f"{header}.{claims}".encode(), hashlib.sha256).digest()
    return f"{header}.{claims}.{packed(signature)}"
