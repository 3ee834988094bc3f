"""The campaign of the reading: no mail raises, none takes long, and no approval that nobody wrote.

    MAILRELAYD_TEST_CAMPAIGN=full make test ARGS="-k faults_reading"

tries 20,000 texts and as many mutated mails. `tests/faults/fuzz_reading.py` goes on from there, guided by coverage.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mailrelayd.approvals.reading import read
from mailrelayd.approvals.values import Decision, Kind, Reading
from tests.faults.fuzz_oracle import PIECES, WORDS, broken, dressed, unwritten
from tests.faults.fuzz_reading import LIMIT, seconds
from tests.faults.runs import FULL, Record

EXAMPLES = 20_000 if FULL else 600
MAILS = [path.read_bytes() for path in sorted((Path(__file__).parent / "replies").glob("*/*.eml"))]
UNHURRIED = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@pytest.fixture(autouse=True)
def _tried(request: pytest.FixtureRequest, record_property: Record) -> None:
    if getattr(request.function, "is_hypothesis_test", False):
        record_property("figures", {"mails": EXAMPLES})


pieces = st.lists(st.sampled_from(PIECES), min_size=1, max_size=12).map("".join)
openings = st.sampled_from(("", "", "Approved", "Approved\n", "approve, ", "Genehmigt ", *WORDS[::20]))


@pytest.mark.timeout(1800)
@given(openings, pieces, st.integers(0, 5))
@UNHURRIED
@example("> Approved\n", "thanks", 0)
@example("Approved", "\nRejected", 3)
def test_no_approval_that_nobody_wrote(opening: str, rest: str, way: int) -> None:
    """Whatever words come together in whatever dress: an approval's own lines approve, and nothing in them objects."""
    text = opening + rest
    mail = dressed(text, way)
    reading = read(mail)
    assert not (broken(mail, reading) or unwritten(text, reading)), reading


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A real mail with parts of itself, or of another, cut out, doubled and put elsewhere."""
    data = draw(st.sampled_from(MAILS))
    for _ in range(draw(st.integers(1, 4))):
        other = draw(st.sampled_from((data, draw(st.sampled_from(MAILS)))))
        first, last = sorted((draw(st.integers(0, len(other))), draw(st.integers(0, len(other)))))
        at, until = sorted((draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))))
        data = data[:at] + other[first:last] + data[draw(st.sampled_from((at, until))) :]
    return data[:65_536]


@pytest.mark.timeout(1800)
@given(mutated())
@UNHURRIED
def test_a_mutated_mail_is_read_in_time_and_approves_only_in_words(mail: bytes) -> None:
    """Processor time is measured, which no other program disturbs; in three tries, as a collector may strike."""
    assert any(seconds(mail, pieces=False) <= LIMIT for _ in range(3))


def test_no_mail_of_the_collection_breaks_the_oracle() -> None:
    """It is narrower than the reader, so it must at least bear what the reader is known to read rightly."""
    for mail in MAILS:
        assert not broken(mail, read(mail)), mail


MULTIPART = b'From: a@b.test\nContent-Type: multipart/mixed;%sboundary="b"\n\n--b\n\nApproved\n--b--\n'
SHIFT_JIS = (
    b"From: a@b.test\nContent-Type: text/plain;%scharset=shift_jis\nContent-Transfer-Encoding: base64\n\nj7OURg==\n"
)


@pytest.mark.parametrize(
    ("mail", "damage"),
    [
        (SHIFT_JIS, b"\x1e\0\0 "),
        (MULTIPART, b"e "),
        (MULTIPART, b"\1 "),
        (b"From: a@b.test\nContent-Type: text/html\n\n&#65%s;pproved", b"\0\0"),
    ],
)
def test_what_was_found_stays_found(mail: bytes, damage: bytes) -> None:
    """By fuzz_reading: what hangs on how a damaged mail is taken is no approval; without the damage it is one."""
    assert read(mail % damage).decision is Decision.UNCLEAR
    assert read(mail % b"").decision is Decision.APPROVED


APPROVED = Reading(Kind.REPLY, Decision.APPROVED, "first-line-keyword", new_text="Approved")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Hello\n> Approved", "quotation"),
        ("On 2026-11-21 10:00, Ann wrote:\nfine", "nobody wrote it"),
        ("Approved\nbut not today", "'not'"),
        ("Approved?", "'?'"),
        ("Appr\u202eoved", "direction"),
    ],
)
def test_the_oracle_sees_an_approval_that_was_not_written(text: str, fault: str) -> None:
    """A reader that says so of these would be caught."""
    assert fault in unwritten(text, APPROVED)


def test_the_oracle_sees_what_no_mail_says() -> None:
    """Nor may an approval come from nowhere, nor a decision without a reply."""
    mail = dressed("Hello", 0)
    assert "in the mail" in broken(mail, APPROVED)
    assert "new text" in broken(mail, Reading(Kind.REPLY, Decision.APPROVED, "x", new_text="Hello"))
    assert "word" in broken(mail, Reading(Kind.REPLY, Decision.APPROVED, "x"))
    assert "question" in broken(mail, Reading(Kind.REPLY, Decision.APPROVED, "x", new_text="Approved?"))
    assert "only a reply" in broken(mail, Reading(Kind.BOUNCE, Decision.APPROVED, "x"))
    assert not broken(dressed("Approved", 2), APPROVED)
