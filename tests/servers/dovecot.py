"""A private Dovecot that only authenticates: what Postfix asks whether a login is right. Versions 2.3 and 2.4."""

from __future__ import annotations

import grp
import os
import pwd
import re
import socket
import subprocess
from pathlib import Path

from tests.servers.process import end, free_port, wait_until

PROGRAM = "dovecot"
MECHANISMS = ("PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256")
TOKEN_MECHANISMS = ("XOAUTH2", "OAUTHBEARER")
USERS = {"relay": "correct horse", "other": "battery staple", "umlaut": "pässwörd"}

# Nothing is jailed: an ordinary user cannot jail its helpers, and root's need no jail here.
COMMON = """\
base_dir = {directory}/run
log_path = {directory}/dovecot.log
protocols =
ssl = no
listen = 127.0.0.1
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {login}
auth_mechanisms = {mechanisms}
auth_failure_delay = 0
auth_cache_size = 0
service auth {{
  inet_listener sasl {{
    port = {port}
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
disable_plaintext_auth = no
passdb {{
  driver = passwd-file
  args = {directory}/users
}}
"""
)
PASSDB_2_3 = """\
passdb {{
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {directory}/oauth2.conf
}}
"""
# A token is good if whoever issued it says so each time (RFC 7662), and tells the user's name.
INTROSPECTION_2_3 = """\
introspection_mode = post
introspection_url = {introspection_url}
force_introspection = yes
active_attribute = active
active_value = true
username_attribute = username
"""
INTROSPECTION_2_4 = """\
oauth2_introspection_mode = post
oauth2_introspection_url = {introspection_url}
oauth2_force_introspection = yes
oauth2_active_attribute = active
oauth2_active_value = true
oauth2_username_attribute = username
"""
# The versions name the dialect, must come first, and may be older than the program.
VERSION_2_4 = (
    """\
dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
"""
    + COMMON
    + """\
auth_allow_cleartext = yes
passdb passwd-file {{
  passwd_file_path = {directory}/users
}}
"""
)


class DovecotAuth:
    """Dovecot's auth service on a loopback port, with USERS as its users."""

    def __init__(self, directory: Path, *, introspection_url: str = "") -> None:
        """Write the configuration and the passwords into `directory`; nothing runs yet.

        With `introspection_url` it also takes the tokens that are active there (RFC 7662).
        """
        self.port = free_port()
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        users = "".join(f"{user}:{{PLAIN}}{password}\n" for user, password in USERS.items())
        (directory / "users").write_text(users, encoding="utf-8")
        if os.getuid() == 0:
            user, group, login = "dovecot", "dovecot", "dovenull"
        else:
            user = login = pwd.getpwuid(os.getuid()).pw_name
            group = grp.getgrgid(os.getgid()).gr_name
        newer, asking = version() >= (2, 4), bool(introspection_url)
        template = VERSION_2_4 if newer else VERSION_2_3
        if asking:
            template += INTROSPECTION_2_4 if newer else PASSDB_2_3
        mechanisms = (*MECHANISMS, *(TOKEN_MECHANISMS if asking else ()))
        values = {
            "directory": directory,
            "port": self.port,
            "user": user,
            "group": group,
            "login": login,
            "mechanisms": " ".join(mechanisms).lower(),
            "introspection_url": introspection_url,
        }
        (directory / "dovecot.conf").write_text(template.format(**values))
        (directory / "oauth2.conf").write_text(INTROSPECTION_2_3.format(**values))

    def start(self) -> None:
        """Return once the port answers."""
        command = [PROGRAM, "-F", "-c", str(self._directory / "dovecot.conf")]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(lambda: bool(self.handshake()) or not self.running, 20, self.log)
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

    def handshake(self) -> list[str]:
        """What the auth service says to a new client, a MECH line per mechanism among it; empty if nobody answers."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(b"VERSION\t1\t1\nCPID\t1\n")
                received = b""
                while not received.endswith(b"DONE\n"):
                    chunk = connection.recv(4096)
                    if not chunk:
                        return []
                    received += chunk
        except OSError:
            return []
        return received.decode().splitlines()

    def log(self) -> str:
        """Everything logged so far."""
        path = self._directory / "dovecot.log"
        return path.read_text(errors="replace") if path.exists() else "(no log)"


def version() -> tuple[int, int]:
    """Major and minor version of the installed Dovecot."""
    output = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.match(r"(\d+)\.(\d+)", output)
    if match is None:
        raise RuntimeError(f"Dovecot's version is not understood: {output!r}")
    return int(match[1]), int(match[2])
