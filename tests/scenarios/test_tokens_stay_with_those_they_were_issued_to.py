"""Who holds a token is half-way to an approval: nobody but its approver gets to see it."""

from __future__ import annotations

import re
import stat

import pytest

from tests.scenarios.test_people_answer_by_mail_and_systems_hear_of_it import BOSS, CFO, REQUEST, Loop, loop
from tests.servers.process import wait_until

__all__ = ["loop"]  # the fixture

pytestmark = pytest.mark.real
TOKEN = re.compile(rb"(?<![A-Za-z0-9])[A-Za-z2-7]{44}(?![A-Za-z0-9])")


@pytest.mark.timeout(120)
def test_no_token_is_in_the_log_in_an_answer_or_in_a_file_that_others_may_read(loop: Loop) -> None:
    """Not of a copy that was sent, nor of one that was refused, nor of the answer; but the approver's copy has it."""
    producers = "dropped@dest.test"
    loop.site.drop(
        "po42.eml",
        REQUEST.replace(CFO, "refused@dest.test").replace("Date:", f"Cc: {producers}\nDate:", 1).encode(),
    )
    copy = loop.copy_for(BOSS)
    assert TOKEN.search(copy.as_bytes())
    loop.answer("Approved\n", copy, sender=BOSS)
    assert {one["data"]["decision"] for one in loop.decisions(2)} == {"undeliverable", "approved"}
    wait_until(lambda: loop.left() == 0, 20, loop.daemon.log)
    ids = [name.removesuffix(".eml") for name in loop.site.failed() if name.endswith(".eml")]
    said = {"log": loop.daemon.log().encode()}
    for arguments in (
        ["queue", "list", "--json"],
        ["queue", "list", "--failed", "--json"],
        *(["queue", verb, one] for verb in ("show", "explain", "cat") for one in ids),
        ["approvals", "list", "--all", "--json"],
        ["decisions", "list", "--json"],
        ["status", "--json"],
    ):
        done = loop.daemon.command(*arguments)
        said[" ".join(arguments)] = done.stdout + done.stderr
    for folder in (loop.site.spool, loop.site.state):
        for path in (path for path in folder.rglob("*") if path.is_file()):
            mode = stat.S_IMODE(path.stat().st_mode)
            closed = any(not stat.S_IMODE(one.stat().st_mode) & 0o077 for one in path.parents if folder in one.parents)
            if mode & 0o077 and not closed:
                said[str(path)] = path.read_bytes()
    assert [where for where, text in said.items() if TOKEN.search(text)] == []
    assert any("decisions" in where for where in said), "the documents are among the files that others may read"


@pytest.mark.timeout(120)
def test_what_a_program_hands_in_here_is_no_answer(loop: Loop) -> None:
    """The smarthost vouches for it, and it has the token of whoever answered to all: still nobody has approved."""
    loop.site.drop("po42.eml", REQUEST.encode())
    to = loop.copy_for(BOSS)["Reply-To"]
    forged = f"From: {BOSS}\nTo: {to}\nSubject: Re: PO-42\nMessage-ID: <f@dest.test>\n\nApproved\n"
    loop.site.drop("forged.eml", forged.encode())
    (stored,) = loop.postfix.wait_for_messages(to)
    said = b"Authentication-Results: smarthost.test; dmarc=pass header.from=dest.test\r\n"
    loop.mailbox.append(loop.user, said + stored.replace(b"\n", b"\r\n"))
    (told,) = loop.decisions(1)
    assert (told["data"]["decision"], told["data"]["reason"]) == ("untrusted", "sender-not-authenticated")
