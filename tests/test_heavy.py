"""No mail within the bounds takes long to judge, whatever it is made of: the heaviest ones that we know."""

from __future__ import annotations

import time

import pytest
from bench import heavy

from mailrelayd.approvals.reading import read
from mailrelayd.approvals.values import Decision

LIMIT = 0.75  # seconds of processor time: three times what is promised, for a slow machine under load
MAILS = heavy.mails()


@pytest.mark.parametrize("name", MAILS)
def test_a_heavy_mail_is_judged_in_time(name: str) -> None:
    """The best of three."""
    spent = []
    for _ in range(3):
        began = time.thread_time()
        heavy.hear(MAILS[name])
        spent.append(time.thread_time() - began)
        if spent[-1] < LIMIT:
            return
    pytest.fail(f"{min(spent):.2f} s")


@pytest.mark.parametrize(
    ("media", "line"), [("text/plain", "> quoted\r\n"), ("text/html", "<blockquote>quoted</blockquote>")]
)
def test_what_is_not_read_for_its_length_may_say_the_opposite(media: str, line: str) -> None:
    """A short text behind a long one is read, behind several long ones no more: then nothing is approved."""

    def decided(longer: int) -> Decision | None:
        texts = ["Approved\r\n\r\n" + line * longer, "\r\n", line * longer, "thanks"]
        parts = "".join(f"--b\r\nContent-Type: {media}\r\n\r\n{text}\r\n" for text in texts)
        return read(
            f"From: a@b.c\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n{parts}--b--\r\n".encode()
        ).decision

    assert decided(10) is Decision.APPROVED
    assert decided(60_000 // len(line)) is (Decision.UNCLEAR if media == "text/plain" else Decision.APPROVED)
    assert decided(200_000 // len(line)) is Decision.UNCLEAR
