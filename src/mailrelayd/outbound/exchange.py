"""One transaction on its way: what is to be said for it, what was heard, and what cannot be an answer. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from mailrelayd.outbound.values import Answers, Body, Extensions, Response, Stage, Transaction

MAX_ADDRESS = 500
"""Octets of an address: a command line of 512 is what every server takes (RFC 5321 section 4.5.3.1.4)."""

_GO_AHEAD = 354
_FORBIDDEN_IN_ADDRESS = re.compile(r"[\x00-\x20<>\x7f]")


class Way(Enum):
    """How a body is handed over."""

    DATA = "DATA"  # after 354, dots stuffed
    CHUNKS = "BDAT n, BDAT 0 LAST"  # after the answers to all RCPT; the empty chunk commits it (RFC 3030 section 2)
    AT_ONCE = "BDAT n LAST"  # in one piece with the group


@dataclass(slots=True, eq=False)
class Exchange:
    """One transaction on its way: what is still to be said, what is still to be heard, what was heard."""

    transaction: Transaction
    body: Body | None  # until it has left
    way: Way
    commands: list[tuple[Stage, int, bytes]]  # not written yet: stage, index of the recipient, line
    recipients: list[Response | None]
    unheard: int  # recipients without an answer
    welcome: int = 0  # recipients that were accepted
    mail: Response | None = None
    data: Response | None = None  # of chunks: only a refusal
    taken: Response | None = None  # the answer to the last byte
    due: int = 0  # answers
    begun: bool = False
    last_byte_sent: bool = False
    streaming: bool = False
    changed: bool = False

    @property
    def accepted(self) -> bool:
        """Whether there is anyone to send a body to."""
        return self.welcome > 0 and positive(self.mail)

    @property
    def refused(self) -> bool:
        """Whether it is certain that it is not taken by anyone."""
        if self.mail is not None and not positive(self.mail):
            return True
        if self.way is Way.CHUNKS and self.data is not None:
            return True
        return self.unheard == self.welcome == 0

    @property
    def wants_body(self) -> bool:
        if self.last_byte_sent or self.commands:
            return False
        if self.way is Way.DATA:
            return self.data is not None and self.data.code == _GO_AHEAD
        return self.way is Way.CHUNKS and not self.due and self.data is None and self.accepted

    @property
    def complete(self) -> bool:
        return not (self.commands or self.due or self.streaming or self.wants_body)

    def is_chunk(self, stage: Stage) -> bool:
        """Whether at `stage` BDAT was said."""
        return self.way is not Way.DATA and stage in (Stage.DATA, Stage.BODY)

    def hear(self, stage: Stage, index: int, answer: Response) -> None:
        """Keep an answer. What came to the last byte after "no recipients" is echo and kept nowhere."""
        match stage:
            case Stage.RCPT:
                self.recipients[index] = answer
                self.unheard -= 1
                self.welcome += positive(answer)
            case Stage.MAIL:
                self.mail = answer
            case Stage.DATA if self.way is Way.DATA or not positive(answer):
                self.data = answer
            case Stage.BODY if self.accepted and not self.refused:
                self.taken = answer
            case _:
                pass

    def skip_what_is_pointless(self) -> None:
        """Between two commands: a refused sender ends it, and DATA never goes out without a recipient."""
        heard = not any(stage is Stage.RCPT for stage, _, _ in self.commands)
        if (self.mail is not None and not positive(self.mail)) or (heard and not self.accepted):
            self.commands.clear()

    def answers(self, cut: Response | None = None, *, changed: bool = False) -> Answers:
        return Answers(
            transaction=self.transaction,
            mail=self.mail,
            recipients=tuple(self.recipients),
            data=self.data,
            body=self.taken,
            last_byte_sent=self.last_byte_sent and not self.refused,
            cut=cut,
            changed=changed or self.changed,
        )

    def untouched(self) -> Answers:
        """As if it had never been begun; but it is told where its last byte went out unanswered."""
        nothing = (None,) * len(self.recipients)
        return Answers(self.transaction, recipients=nothing, last_byte_sent=self.last_byte_sent, changed=self.changed)


def positive(answer: Response | None) -> bool:
    return answer is not None and 200 <= answer.code < 300


def nonsense(stage: Stage, answer: Response, exchange: Exchange) -> str:
    """Why this cannot be the answer to what was asked at `stage`; empty where it can."""
    code, way = answer.code, exchange.way
    if stage is Stage.DATA and way is Way.DATA:
        if 200 <= code < 300:
            return f"the server answered DATA with {code}: out of step"
        if code == _GO_AHEAD and not positive(exchange.mail):
            return "the server wants the body of a message whose sender it refused"
        if code == _GO_AHEAD:
            return ""
    if 300 <= code < 400:
        return f"the server answered {stage.value} with {code}: out of step"
    if way is not Way.AT_ONCE or stage is not Stage.BODY:
        return ""
    # In a window no 354 shows that question and answer are in step. These do: nobody's message cannot be taken, and
    # RFC 3463 section 3.2 keeps X.1.X for addresses.
    if 200 <= code < 300 and (not exchange.accepted or answer.enhanced.startswith("2.1.")):
        return f"the server answered a message with {answer}: out of step"
    return ""


def group(transaction: Transaction, extensions: Extensions, body: Body, way: Way) -> Iterator[tuple[Stage, int, bytes]]:
    """The commands of one transaction: stage, index of the recipient, line with CRLF."""
    utf8 = transaction.smtputf8
    if utf8 and not extensions.smtputf8:
        raise ValueError("an address is not ASCII and the server does not offer SMTPUTF8")
    if not transaction.recipients:
        raise ValueError("a transaction needs a recipient")
    sender = _path(transaction.sender) if transaction.sender else b"<>"
    recipients = [_path(recipient) for recipient in transaction.recipients]
    parameters = _mail_parameters(extensions, body.size, body.eight_bit, utf8)
    yield Stage.RSET, 0, b"RSET\r\n"
    yield Stage.MAIL, 0, b"MAIL FROM:" + sender + parameters + b"\r\n"
    for index, recipient in enumerate(recipients):
        yield Stage.RCPT, index, b"RCPT TO:" + recipient + b"\r\n"
    if way is Way.DATA:
        yield Stage.DATA, 0, b"DATA\r\n"
    elif way is Way.AT_ONCE and body.whole is not None:
        yield Stage.BODY, 0, b"BDAT %d LAST\r\n" % len(body.whole)


def _mail_parameters(extensions: Extensions, size: int, eight_bit: bool, utf8: bool) -> bytes:
    parameters = b""
    if extensions.size is not None:
        parameters += b" SIZE=%d" % size  # RFC 1870 section 6
    if eight_bit and extensions.eight_bit_mime:
        parameters += b" BODY=8BITMIME"  # RFC 6152 section 2
    if utf8:
        parameters += b" SMTPUTF8"  # RFC 6531 section 3.4
    return parameters


def _path(address: str) -> bytes:
    """`<address>`; raises ValueError for what could end the path or the command, or hide in a log line."""
    if not address or _FORBIDDEN_IN_ADDRESS.search(address) or not address.isprintable():
        raise ValueError(f"address cannot be said in a command: {ascii(address)[:100]}")
    encoded = address.encode("utf-8")
    if len(encoded) > MAX_ADDRESS:
        raise ValueError(f"address is longer than {MAX_ADDRESS} octets: {ascii(address)[:100]}")
    return b"<" + encoded + b">"
