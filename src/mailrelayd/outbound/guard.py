"""[guard]: who may be sent to from this machine, and how much in any stretch of time. Pure.

For staging machines and for brakes. What it holds back is decided anew at every hand-over, so it also holds for mail
that was queued before the setting, and there is no mail it does not see: our own reports pass it as well.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mailrelayd.config.units import Rate
from mailrelayd.outbound.addresses import matches, one_spelling
from mailrelayd.value import value

DRY_RUN, DENIED, NOT_ALLOWED = "dry-run", "denied", "not-allowed"
RULES = {
    DRY_RUN: "[guard] dry_run is true: nothing is sent from this machine",
    DENIED: "the address is among [guard] deny_recipients",
    NOT_ALLOWED: "the address is not among [guard] allow_recipients",
}


@value(frozen=True, slots=True)
class Verdict:
    """Whom to send to, and who is left out by which rule (a key of RULES). Both keep the order of what was asked."""

    send: tuple[str, ...]
    suppressed: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Guard:
    """[guard]; the patterns are those of `addresses.matches`. `redirect_to` is the operator's word: never judged."""

    redirect_to: str = ""
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    dry_run: bool = False

    def judge(self, recipients: Iterable[str]) -> Verdict:
        """What becomes of these recipients. The rules are for the real ones, also where all are redirected."""
        if not (self.dry_run or self.allow or self.deny):  # the common case, asked again for each of many transactions
            return Verdict(tuple(recipients), {})
        rules = {recipient: self._rule(recipient) for recipient in recipients}
        return Verdict(
            tuple(recipient for recipient, rule in rules.items() if not rule),
            {recipient: rule for recipient, rule in rules.items() if rule},
        )

    def _rule(self, recipient: str) -> str:
        if self.dry_run:
            return DRY_RUN
        if self.deny and matches(one_spelling(recipient), map(one_spelling, self.deny)):
            return DENIED
        return NOT_ALLOWED if self.allow and not matches(recipient, self.allow) else ""


class Brake:
    """[guard] rate: at most so many messages handed over in any stretch of so many seconds. Times cannot be set back.

    What is under way counts until its end, and from its end on: the smarthost sees a message somewhere between the
    two, so it never sees more than the rate, wherever it begins its own minute.
    """

    def __init__(self, rate: Rate | None) -> None:
        self.rate = rate
        self._under_way = 0
        self._ended: deque[float] = deque()

    def inherit(self, before: Brake) -> None:
        """Go on where the brake of the configuration before stood; nothing may be under way any more."""
        self._ended = before._ended.copy()

    def wait(self, now: float) -> float:
        """Seconds until the next message may begin, or until it is worth asking again; 0.0: it may now."""
        if self.rate is None:
            return 0.0
        while self._ended and self._ended[0] + self.rate.seconds <= now:
            self._ended.popleft()
        excess = self._under_way + len(self._ended) - self.rate.count
        if excess < 0:
            return 0.0
        # With everything under way, the first one's end is still to come: then it lasts as long again.
        last = self._ended[excess] if excess < len(self._ended) else now
        return last + self.rate.seconds - now

    def begin(self) -> None:
        """A message is handed over."""
        self._under_way += 1

    def cancel(self) -> None:
        """It was not handed over after all."""
        self._under_way -= 1

    def end(self, now: float) -> None:
        """It was answered, or its connection has gone."""
        self._under_way -= 1
        if self.rate is not None:
            self._ended.append(now)
