"""What holds for every mail, attacked with random ones: it is read, in linear time, and not approved by accident."""

from __future__ import annotations

import re
import sys
from types import FrameType

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailrelayd.approvals.htmltext import render
from mailrelayd.approvals.memory import Memory
from mailrelayd.approvals.mime import MAX_DEPTH, MAX_PARTS
from mailrelayd.approvals.reading import read
from mailrelayd.approvals.values import Decision, Kind, Options, Reading

PLAIN = b"From: boss@example.com\nSubject: Re: PO-42\nContent-Type: text/plain; charset=utf-8\n\n"

NESTED = b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n"

# Pieces from which mails are made that nearly are one.
STRUCTURE = [
    b"From: a@b\n", b"Subject: Re: x\n", b"Content-Type: text/plain\n", b"Content-Type: text/html\n", b"\n", b"\r\n",
    b"\n\n",
    b'Content-Type: multipart/alternative; boundary="b"\n', b"Content-Type: multipart/mixed; boundary=c\n", b"--b\n",
    b"--b--\n",
    b"--c\n", b"--c--\n", b"Content-Type: message/rfc822\n", b"Content-Transfer-Encoding: base64\n", b"QXBwcm92ZWQ=\n",
    b"Content-Transfer-Encoding: quoted-printable\n", b"=41pproved=\n", b"Approved\n", b"Rejected\n",
    b"> Approved\n", b"<p>Approved</p>",
    b"<div style='display:none'>", b"<!--", b"-->", b"<blockquote>", b"</div>", b"&#", b"9999999999;", b"\0",
    b"\xff\xfe", b"=?utf-8?q?",
    b"?=", b"charset=utf-7\n", b"; charset*0=utf", b"; format=flowed\n", b"On 2026-11-21 10:00, a@b wrote:\n",
    b"-- \n", b"\x1b$B",
    b"-----BEGIN PGP SIGNED MESSAGE-----\n", b"Auto-Submitted: no\n", b"(" * 50, b'"' * 9, b"\xe2\x80\xae",
    b"\xf0\x9f\x91\x8d",
]  # fmt: skip


@given(st.one_of(st.binary(max_size=2_000), st.lists(st.sampled_from(STRUCTURE), max_size=40).map(b"".join)))
@settings(max_examples=400, deadline=None)
@example(b"")
@example(b"\n")
@example(b"Content-Type: multipart/mixed; boundary=\n\n--\n")
def test_any_bytes_give_a_reading(data: bytes) -> None:
    """Nothing that arrives raises, and only a reply carries a decision."""
    reading = read(data)
    assert isinstance(reading, Reading)
    assert (reading.kind is Kind.REPLY) == (reading.decision is not None)
    if reading.decision in (Decision.APPROVED, Decision.REJECTED):
        assert reading.new_text.strip()


@given(st.text(max_size=400), st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_text_gives_lines_and_a_verdict(text: str, same_line: bool) -> None:
    """As plain text, as HTML, and with a memory of itself."""
    encoded = text.encode("utf-8", "replace")
    options = Options(same_line_comment=same_line, boilerplate=(text[:20],))
    assert read(PLAIN + encoded, options, Memory(text.splitlines())).kind is Kind.REPLY
    assert read(PLAIN.replace(b"plain", b"html") + encoded, options).kind is Kind.REPLY
    assert all("\n" not in line for line in render(text).lines)


# No approval that nobody wrote. The oracle knows a handful of words and looks at the text as a person would; it
# shares nothing with the reader, and is narrower than it.

PIECES = st.lists(
    st.sampled_from(
        [
            *(
                "Approved",
                "approve",
                "APPROVED",
                "Approve",
                "Rejected",
                "reject",
                "not",
                "never",
                "n't",
                "if",
                "unless",
                "only",
            ),
            *(
                "?",
                "!",
                ".",
                ",",
                "/",
                ":",
                "-",
                " ",
                " ",
                " ",
                "\n",
                "\n",
                "\n\n",
                "> ",
                "On 2026-11-21 10:00, Ann wrote:\n",
            ),
            *(
                "thanks",
                "thank you",
                "Hi Ann,\n",
                "-- \n",
                "Sent from my iPhone\n",
                "From: Ann <a@b>\nSent: today\n",
                "because",
                "I",
            ),
            *(
                "Ann",
                "legal",
                "approver",
                "un",
                "dis",
                "\u200b",
                "\u202e",
                "\xa0",
                "*",
                '"',
                "yes",
                "ok",
                "tomorrow",
                "----",
                "(",
            ),
        ]
    ),
    min_size=1,
    max_size=14,
)
DEVICE = re.compile(r"[^\w]*Sent from my")
GREETING = re.compile(r"(?i)[^\w?]*hi ann,[^\w?]*")
WRITTEN = re.compile(
    r"(?i)[\s\u200b*.!,-]*(?:i[ \xa0\u200b]+)?approved?(?:[ \xa0\u200b]+i)?[\s\u200b*.!,-]*"
    r"(?:(?:thanks|thank[ \xa0]you|hi|all)[\s\u200b*.!,-]*)*"
)
AGAINST = re.compile(r"(?i)\b(?:not|never|if|unless|only|rejected|reject|approver)\b|n't\b|\?")


def _own_lines(text: str) -> list[str]:
    """The lines above anything that could be quoted, the narrow way."""
    lines = []
    for line in text.split("\n"):
        stripped = line.replace("\u200b", "").strip()
        if stripped.startswith((">", "On 2026", "From:", "Sent:", "--")) or "wrote:" in stripped:
            break
        if stripped and not DEVICE.match(stripped):
            lines.append(line)
    return lines


@given(PIECES.map("".join))
@settings(max_examples=1_500, deadline=None)
@example("Approved.\nRejected!")
@example("> Approve\nRejected")
@example("Hi Ann,\nApproved, thanks")
def test_nothing_is_approved_that_is_not_written_as_an_approval(text: str) -> None:
    """An approval's first own line is the bare word, and nothing above a quotation speaks against it."""
    if read(PLAIN + text.encode()).decision is not Decision.APPROVED:
        return
    lines = _own_lines(text)
    while lines and GREETING.fullmatch(lines[0].replace("\u200b", "")):
        lines.pop(0)
    if lines:
        assert WRITTEN.fullmatch(lines[0]), text
        assert not any(AGAINST.search(line.replace("\u200b", "")) for line in lines), text
    else:  # written below the quotation: then the word stands alone in a line of its own
        assert any(WRITTEN.fullmatch(line) for line in text.split("\n") if line.strip()), text
    assert "\u202e" not in "".join(lines), text


@given(st.sampled_from(["Approved", "Genehmigt", "承認します", "Aprobado"]), st.text(max_size=40))
@settings(max_examples=500, deadline=None)
def test_what_is_written_behind_the_word_is_never_overlooked(word: str, behind: str) -> None:
    """Letters behind the word, in whatever script, are a courtesy that is listed, or make the reply unclear."""
    letters = re.sub(r"[\W\d_]", "", behind)
    if letters and read(PLAIN + f"{word} {behind}xq".encode("utf-8", "replace")).decision is Decision.APPROVED:
        # Only a new line, or a quotation that begins on one, may hold what nobody listed.
        assert re.search(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]", behind), behind


# Linear time: the number of calls that Python makes, not the clock, which other programs disturb.


def _calls(data: bytes) -> int:
    count = 0

    def counting(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += 1

    before = sys.getprofile()
    sys.setprofile(counting)
    try:
        read(data)
    finally:
        sys.setprofile(before)
    return count


HTML = PLAIN.replace(b"plain", b"html")
GROWING = {
    "quoted lines": (PLAIN, b"> a b c\n"),
    "header lines": (PLAIN, b"From: a\n"),
    "attributions": (PLAIN, b"On 2026-11-21 10:00 a@b\n"),
    "rulers": (PLAIN, b"---- x ----\n"),
    "signatures": (PLAIN, b"x\n-- \n"),
    "greetings": (PLAIN, b"Hi Ann,\n"),
    "rejections": (PLAIN, b"Rejected\n"),
    "dashes": (PLAIN, b"--\n"),
    "elements": (HTML, b"<b>x"),
    "paragraphs": (HTML, b"</p>"),
    "comments": (HTML, b"<!--"),
    "open tags": (HTML, b'<a "'),
    "quotes in tags": (HTML, b'<a ">"'),
    "hidden": (HTML, b"<div style='display:none'>x"),
    "cells": (HTML, b"<td>x"),
    "references": (HTML, b"&#99999999999;"),
    "boundaries": (b"From: a@b\nContent-Type: multipart/mixed; boundary=b\n\n", b"--c\nx\n"),
    "fields": (b"From: a@b\n", b"X: y\n"),
    "folded fields": (b"From: a@b\nX: y\n", b" z\n"),
    "parameters": (b"From: a@b\nContent-Type: text/plain", b"; a=b"),
    "encoded words": (b"From: a@b\nSubject: x", b" =?utf-8?q?a?="),
}


@pytest.mark.parametrize("name", GROWING)
def test_twice_the_mail_is_at_most_twice_the_work(name: str) -> None:
    """Whatever is repeated, the work grows no faster than the mail, and a bound ends it."""
    head, piece = GROWING[name]
    small, large = (_calls(head + piece * times) for times in (200, 400))
    assert large <= 2.2 * small + 500
    assert _calls(head + piece * 20_000) < 2_000_000


HOSTILE = [
    "-" * 3_999 + "x\n",
    "-" * 45 + "x" + "-" * 3_900 + "y\n",
    "_ " * 1_999 + "x\n",
    "=" * 30 + "x:" * 900 + "\n",
    "From: a\nTo: " + "a" * 3_900 + "\n" + "b" * 3_900 + "\n",
    "On 2026 " + "@" * 390 + "\n",
    "x@" * 1_999 + "\n",
    "a." * 1_999 + "/\n",
    "http:" * 799 + "\n",
    "[cid:" * 799 + "\n",
    "no. " * 999 + "\n",
    "'a" * 1_999 + "\n",
    ": " * 1_999 + "\n",
    "wrote " * 60 + "2026:\n",
    "Sent from my " + "<" * 140 + "\n",
    "\u0300" * 3_999 + "\n",
]
HOSTILE_HTML = [
    "<p style='opacity:" + "0" * 1_900 + "1'>x",
    "<p style='" + "text-decoration:" * 120 + "'>x",
    "<p style='font-size:" + "0" * 1_900 + "x'>",
    "<p style='color:rgba(" + ", 0" * 600 + "'>x",
    "<p " + "a" * 7_900 + ">x",
    "<p " + "hidden" * 1_000 + ">x",
    "<p class='" + "x_" * 900 + "'>x",
    "<style>" + "/*" * 900 + "</style>",
    "<style>" + ".a," * 900 + "{display:none}</style>",
    "<style>" + "{" * 1_900 + "</style>",
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "data",
    [
        *(PLAIN + (line * 1_000)[:1_000_000].encode() for line in HOSTILE),
        *(HTML + (tag * 1_000)[:1_000_000].encode() for tag in HOSTILE_HTML),
        b"From: a@b\nContent-Transfer-Encoding: base64\n\nA" + b" " * 1_000_000 + b"!",
        b"From: a@b\nContent-Type: text/plain" + b" " * 60_000 + b"(" * 60_000 + b"\n\nx",
        b"From: a@b\nSubject: " + b"?= " * 20_000 + b"\n\nx",
        b"From: a@b\nSubject: " + b"=?a?q?" * 10_000 + b"\n\nx",
        b"From: " + b"<a" * 30_000 + b"\nSubject: " + b" " * 60_000 + b"\n\nx",
    ],
)
def test_no_repetition_runs_away(data: bytes) -> None:
    """Lines made against patterns that try again at every letter: with one such pattern this would take hours."""
    assert read(data).decision is not Decision.APPROVED


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"From: a@b\n" + b"".join(NESTED % (n, n) for n in range(3_000)), "too-deep"),
        (b"From: a@b\nContent-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\nx\n" * 30_000, "too-many-parts"),
        (b"From: a@b\nContent-Type: multipart/mixed; boundary=b\n\n" + b"--c\n" * 30_000, "too-many-lines"),
        (b"From: a@b\n" + b"X: y\n" * 3_000 + b"\n", "too-many-fields"),
        (b"From: a@b\nSubject: " + b"=?utf-8?q?a?= " * 40_000 + b"\n\n", "header-too-long"),
        (b"no mail at all", "no-header"),
    ],
)  # fmt: skip
def test_what_breaks_a_bound_is_unreadable(data: bytes, reason: str) -> None:
    """It is kept for a person to look at, and the reason is named."""
    reading = read(data)
    assert (reading.kind, reading.decision, reading.reason) == (Kind.UNREADABLE, None, reason)


def test_what_stays_within_the_bounds_is_read() -> None:
    """The deepest and the widest mail that are allowed."""
    deep = b"".join(NESTED % (n, n) for n in range(MAX_DEPTH))
    closing = b"".join(b"\n--b%d--" % n for n in reversed(range(MAX_DEPTH)))
    text = b"Content-Type: text/plain\n\nApproved\n"
    assert read(b"From: a@b\n" + deep + text + closing).decision is Decision.APPROVED
    wide = b"From: a@b\nContent-Type: multipart/mixed; boundary=b\n\n--b\n" + text
    wide += b"--b\nContent-Type: image/png\n\nx\n" * (MAX_PARTS - 2) + b"--b--\n"
    assert read(wide).decision is Decision.APPROVED
