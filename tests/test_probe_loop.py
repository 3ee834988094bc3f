"""Which mail is the probe of `mailrelayd test --loop`, as only that one is removed."""

from __future__ import annotations

import pytest

from mailrelayd.diagnose.loop import is_probe
from tests.asking import token

SENT, OTHER = token(1), token(2)
PROBE = f"To: approvals+{SENT}@example.com\r\nMessage-ID: <{SENT}.probe@relay1>\r\nReferences: <{SENT}@relay1>\r\n\r\n"


@pytest.mark.parametrize(
    ("header", "removed"),
    [
        (PROBE, True),
        (PROBE.replace(f"<{SENT}.probe@relay1>", "<0100@ses.example.com>"), True),  # a server gave it another one
        (PROBE.replace("Message-ID:", "Message-ID:\r\n"), True),
        (PROBE.replace(SENT, OTHER), False),  # of another run at the same time
        (
            f"To: noreply@example.com\r\nMessage-ID: <1@example.com>\r\nIn-Reply-To: <{SENT}.probe@relay1>\r\n"
            f"References: <{SENT}@relay1> <{SENT}.probe@relay1>\r\n\r\n",
            False,  # somebody is on holiday
        ),
        ("Subject: lunch\r\n\r\n", False),
    ],
)
def test_the_probe_and_no_answer_to_it(header: str, removed: bool) -> None:
    """The token alone does not make it the probe."""
    assert is_probe(header.encode(), SENT) == removed
