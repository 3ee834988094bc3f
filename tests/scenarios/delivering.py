"""A smarthost whose mail really ends in mailboxes: Postfix hands it to Dovecot by LMTP, as an MX of one's own does.

What is special about an address is said by its local part, so that one pair of servers serves all tests.
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.servers.certificates import Certificates
from tests.servers.dovecot import DovecotAuth
from tests.servers.mailbox import MailboxServer, User
from tests.servers.postfix import Postfix
from tests.servers.process import free_port

LMTP_PROGRAM = "/usr/lib/dovecot/lmtp"  # what dovecot-lmtpd adds to dovecot-core
# `by smarthost.test` is written by Postfix itself: what is prepended there stands above our MX's line.
HEADERS = r"""/^Received: .*by smarthost\.test .*for <good(\+|@)/
    PREPEND Authentication-Results: smarthost.test; dmarc=pass header.from=example.com
/^Received: .*by smarthost\.test .*for <failing(\+|@)/
    PREPEND Authentication-Results: smarthost.test; dmarc=fail header.from=example.com
/^From: unwanted@/
    REJECT this From is not welcome here
/^To: below(\+|@)/
    PREPEND Authentication-Results: smarthost.test; dmarc=pass header.from=example.com
"""
RECIPIENTS = "/^strict\\+/ 550 5.1.1 No such user\n/./ OK\n"
SENDERS = "/^forbidden@/ 553 5.7.1 Sender address rejected: not owned by user relay\n"
ALIASES = "/^group(\\+.*)?@dest\\.test$/ member@dest.test\n/^lost\\+.*@dest\\.test$/ nobody@nowhere.test\n"
CANONICAL = "/^dropped\\+.*@dest\\.test$/ dropped@dest.test\n"
TRANSPORTS = "/@nowhere\\.test$/ error:5.1.1 no such user here\n"

MAIN = """\
virtual_transport = lmtp:inet:127.0.0.1:{lmtp}
recipient_delimiter = +
smtpd_sender_restrictions = check_sender_access regexp:{directory}/sender_access
header_checks = regexp:{directory}/headers
virtual_alias_maps = regexp:{directory}/aliases
virtual_alias_domains =
recipient_canonical_maps = regexp:{directory}/canonical
transport_maps = regexp:{directory}/transports
"""
MASTER = "lmtp unix - - n - - lmtp\n"
PLAIN = "127.0.0.2"  # where Dovecot can do no more than RFC 3501
DOVECOT = """
listen = 127.0.0.1, {plain}
local {plain} {{
  protocol imap {{
    imap_capability = IMAP4rev1 SASL-IR
  }}
}}
protocols = imap lmtp
recipient_delimiter = +
service lmtp {{
  inet_listener lmtp {{
    port = {lmtp}
  }}
}}
protocol lmtp {{
  postmaster_address = postmaster@dest.test
}}
"""


class Mailboxes(MailboxServer):
    """Dovecot that also takes mail, for any address: its mailbox comes into being with the first."""

    def __init__(self, directory: Path, certificates: Certificates) -> None:
        """`lmtp` is the port that takes mail."""
        super().__init__(directory, certificates)
        self.lmtp = free_port()
        with (directory / "dovecot.conf").open("a") as file:
            file.write(DOVECOT.format(lmtp=self.lmtp, plain=PLAIN))

    def owner(self, name: str, password: str = "correct horse") -> User:
        """The mailbox of NAME@dest.test, empty."""
        user = self.add_user(password, f"{name}@dest.test")
        with self.client(user) as client:
            _, (there,) = client.select("INBOX")
            if there != b"0":
                client.store("1:*", "+FLAGS.SILENT", r"(\Deleted)")
            client.expunge()
        return user

    def mails(self, user: User, folder: str = "INBOX") -> list[tuple[bytes, bytes]]:
        """Flags but for \\Recent, and text, of what stands there."""
        with self.client(user) as client:
            client.select(folder, readonly=True)
            _, (found,) = client.uid("SEARCH", "ALL")
            answers = [client.uid("FETCH", uid.decode(), "(FLAGS BODY.PEEK[])")[1] for uid in (found or b"").split()]
        told = [answer[0] for answer in answers if isinstance(answer[0], tuple)]
        return [(re.sub(rb".*FLAGS \(([^)]*?) ?(?:\\Recent)?\).*", rb"\1", head), bytes(text)) for head, text in told]


class Delivering(Postfix):
    """The smarthost in front of `mailboxes`."""

    def __init__(self, directory: Path, certificates: Certificates, dovecot: DovecotAuth, mailboxes: Mailboxes) -> None:
        """Write the tables besides."""
        super().__init__(directory, certificates, dovecot)
        tables = {"headers": HEADERS, "aliases": ALIASES, "canonical": CANONICAL, "transports": TRANSPORTS}
        for name, content in {**tables, "recipients": RECIPIENTS, "sender_access": SENDERS}.items():
            (directory / name).write_text(content)
        plain, rewriting = "local_header_rewrite_clients =\n", "local_header_rewrite_clients = permit_mynetworks\n"
        assert plain in self._main
        self._main = self._main.replace(plain, rewriting) + MAIN.format(directory=directory, lmtp=mailboxes.lmtp)
        (directory / "etc" / "main.cf").write_text(self._main)
        with (directory / "etc" / "master.cf").open("a") as file:
            file.write(MASTER)
