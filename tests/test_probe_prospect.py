"""What the next poll would do with a folder, told from what the server says of its mails."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import pytest

from mailrelayd.diagnose.prospect import Known, Prospect, prospect, sentence
from mailrelayd.inbound.values import Mailbox, Summary
from tests.asking import token

NOW = datetime.datetime(2026, 11, 21, 12, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
BOX = Mailbox("INBOX", uidvalidity=7, uidnext=10, exists=4)
HERE = Known("INBOX", 7)


@dataclass(frozen=True)
class Terms:
    """The keys of [inbound.NAME] that matter here."""

    name: str = "approvals"
    folder: str = "INBOX"
    create_folder: bool = False
    poll_interval: float = 300.0
    batch_size: int = 30
    idle: bool = True
    process_after: datetime.datetime | None = None
    ignore_older_than: float = 0.0
    after: str = "delete"
    delete_after: float = 0.0
    adopt: str = "refuse"
    max_message_size: int = 1000


def mail(uid: int, *, size: int = 100, age: int = 0, header: bytes = b"") -> Summary:
    return Summary(uid, size, NOW - age * DAY, frozenset(), header)


ANSWER = b"To: approvals+" + token(1).encode() + b"@example.com\r\n\r\n"
MAILS = [mail(1), mail(2, header=ANSWER), mail(3, size=2000), mail(4, age=9)]


@pytest.mark.parametrize(
    ("terms", "known", "expected"),
    [
        (Terms(), None, Prospect(held=True)),
        (Terms(), Known("INBOX", 6), Prospect(held=True)),  # all mails have other names now
        (Terms(), Known("Other", 7), Prospect(held=True)),
        (Terms(adopt="all"), None, Prospect(read=3, answers=1, oversize=1)),
        (Terms(adopt="new-only"), None, Prospect(read=1, answers=1, there_before=2, oversize=1)),
        (Terms(), HERE, Prospect(read=3, answers=1, oversize=1)),
        (Terms(), Known("INBOX", 7, 2, {4}), Prospect(read=1, answers=1, finished=1, there_before=1, oversize=1)),
        (Terms(ignore_older_than=5 * 86_400.0), HERE, Prospect(read=2, answers=1, ignored=1, oversize=1)),
        (Terms(process_after=NOW - DAY), HERE, Prospect(read=2, answers=1, ignored=1, oversize=1)),
        (Terms(process_after=NOW + DAY), HERE, Prospect(ignored=4)),
    ],
)
def test_each_mail_meets_the_fate_that_the_daemon_would_give_it(
    terms: Terms, known: Known | None, expected: Prospect
) -> None:
    """adopt, process_after, ignore_older_than, max_message_size, and what was read before."""
    assert prospect(terms, BOX, known, MAILS, NOW.timestamp()) == expected


def test_an_empty_folder_is_nothing_to_refuse() -> None:
    """First contact without mail needs nobody's word."""
    assert prospect(Terms(), Mailbox("INBOX", 7, 1, 0), None, [], NOW.timestamp()) == Prospect()


def test_the_sentence_tells_what_is_passed_by() -> None:
    """Only what there is."""
    assert sentence(Prospect(held=True), 30).startswith("the next poll would read none")
    assert sentence(Prospect(read=2), 30) == "the next poll would read 2"
    told = sentence(Prospect(read=50, answers=1, finished=3, ignored=2, oversize=1, there_before=4), 30)
    assert told == (
        "the next poll would read 50 (1 with a token, which go first), of those without a token 30 at a time "
        "and pass by 3 read before or left, 4 there before the first contact, "
        "2 older than process_after or ignore_older_than allow, 1 larger than max_message_size"
    )
