"""How messages come into programs that take them by SMTP."""

from __future__ import annotations

import smtplib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from bench.messages import SENDER, Batch

THREADS = 8
RECIPIENTS = 100  # RFC 5321 section 4.5.3.1.8: what every server takes


class Client:
    """One connection."""

    def __init__(self, port: int) -> None:
        self._smtp = smtplib.SMTP("127.0.0.1", port, local_hostname="bench.test", timeout=120)
        self._smtp.ehlo()

    def send(self, recipients: Sequence[str], text: bytes) -> None:
        """One message; returns once the server has it on disk."""
        refused = self._smtp.sendmail(SENDER, recipients, text)
        if refused:
            raise RuntimeError(f"recipients were refused: {refused}")

    def close(self) -> None:
        """Say good-bye."""
        self._smtp.quit()


def fill(port: int, batch: Batch) -> None:
    """Send all of them over a few connections at once."""

    def share(first: int) -> None:
        client = Client(port)
        for position, (_, text) in enumerate(islice(batch, first, None, THREADS)):
            if position % 90 == 89:  # some servers end a session after 100 messages
                client.close()
                client = Client(port)
            client.send(batch.addresses, text)
        client.close()

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(share, range(min(THREADS, batch.count))))
