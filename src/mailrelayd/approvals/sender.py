"""Who wrote a mail, and whether that is proven: the configured check, applied to one mail's header."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mailrelayd.approvals import authres
from mailrelayd.approvals.dkim import READ, Signed, signed_parts
from mailrelayd.approvals.judge import Sender, single_address
from mailrelayd.approvals.mime import Mail, parse
from mailrelayd.approvals.tokens import all_tokens
from mailrelayd.outbound.headers import Header, Unreadable, split_header

_HANDED_IN = re.compile(r"\s*by\s+\S+\s+\(mailrelayd\)\s")  # our own line, and that of other relays like us


@dataclass(frozen=True, slots=True)
class SenderCheck:
    """[approvals] sender_check and authserv_id. `dkim` verifies a signature (`dkim.verify`)."""

    method: str
    authserv_ids: Sequence[str] = ()
    dkim: Callable[[bytes, str, float], Signed] | None = None  # mail, From domain, when it came in; may raise OSError

    @property
    def reads(self) -> int:
        """How many bytes of a mail it wants to see; 0: its header."""
        return READ if self.method == "dkim" else 0

    def __call__(self, data: bytes, at: float, *, ask: bool = True, lasting: bool = False) -> Sender:
        """What is known of the sender of this mail, which came in at `at`.

        Blocks where it asks DNS for a key; without `ask` it does not. Raises OSError where DNS gives no answer now,
        unless the outcome has to last: then the sender is not authenticated.
        """
        header = split_header(data, complete=False)
        if isinstance(header, Unreadable):
            return Sender("", False, f"its header cannot be read: {header.reason}", self.method)
        address = single_address([field.text for field in header.named("from")])
        if not address:
            return Sender("", False, "there is no From field with exactly one address", self.method)
        domain = address.rpartition("@")[2]
        if self.method == "token-only":
            return Sender(address, True, "the token alone decides (sender_check)", self.method)
        if any(_HANDED_IN.match(one.text) for one in header.named("received")):
            # The smarthost vouches for whatever From we send it: any program here could answer in a person's name.
            return Sender(address, False, "a program handed it in to mailrelayd, which sent it on", self.method)
        if self.method == "dkim" and self.dkim is not None:
            if not ask:
                return Sender(address, False, "nothing depends on who wrote it", self.method)
            return self._signed(self.dkim, data, address, at, lasting)
        if self.method in ("authentication-results", "microsoft-365"):
            verdict = self._results(header, domain)
            tokens = _signed_tokens(data, header, domain) if verdict.signature_alone else None
            return Sender(
                address,
                verdict.trusted,
                verdict.reason,
                self.method,
                verdict.authserv_id,
                verdict.dmarc,
                verdict.dkim,
                verdict.spf,
                tokens,
            )
        return Sender(address, False, "no sender_check is configured", self.method)

    def _signed(
        self, verify: Callable[[bytes, str, float], Signed], data: bytes, address: str, at: float, lasting: bool
    ) -> Sender:
        try:
            verdict = verify(data, address.rpartition("@")[2], at)
        except OSError as error:
            if not lasting:
                raise
            return Sender(address, False, str(error.strerror or error), self.method, dkim="temperror")
        if not verdict.valid:
            return Sender(address, False, verdict.reason, self.method, dkim="fail")
        # Anybody may send a signed mail again with other fields around it: what is not signed says nothing.
        return Sender(address, True, verdict.reason, self.method, dkim="pass", tokens=_tokens(verdict.signed))

    def _results(self, header: Header, domain: str) -> authres.Verdict:
        fields = [(field.name, field.text) for field in header.fields]
        if self.method == "microsoft-365":
            return authres.judge_microsoft_365(fields, domain)
        return authres.judge(fields, domain, self.authserv_ids)


def _tokens(signed: bytes) -> frozenset[str]:
    mail = parse(signed)
    return frozenset(map(str, all_tokens(mail))) if isinstance(mail, Mail) else frozenset()


def _signed_tokens(data: bytes, header: Header, domain: str) -> frozenset[str] | None:
    """The tokens that every signature of the sender's domain covers, by their own word; None: there is none of it.

    Our server has found one of them good and does not say which: so each must cover them.
    """
    covered = [_tokens(part) for part in signed_parts(data, header, domain)]
    return frozenset.intersection(*covered) if covered else None
