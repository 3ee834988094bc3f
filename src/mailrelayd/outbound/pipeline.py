"""The client's side of SMTP mail transactions as a machine without a socket: bytes in, bytes and answers out. Pure.

Two ways to talk, one machine. With PIPELINING (RFC 2920) a **group** (RSET, MAIL, every RCPT, DATA) is one write, and
the group of the next message travels in the same write as the end of the body before it: one round trip a message.
Without it each command waits for the answer before it.

What keeps a message from being called sent by mistake:

- RSET stands in front of every group. Where all recipients were refused a server may keep the sender, and the next
  message would go out under it.
- Answers are paired with commands by order alone, so the first sign that the pairing is off ends the connection: a byte
  when no answer is due, 2xx to DATA, 3xx to anything but DATA, two codes in one answer, anything that is not an answer.
- At most one body is undecided: the next one begins when the one before is answered *and* the owner said `settle`.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from mailrelayd.outbound.answers import AnswerReader, Desync, printable, response, shown
from mailrelayd.outbound.values import Answers, Extensions, Response, Stage, Transaction

MAX_ADDRESS = 500
"""Octets of an address: a command line of 512 is what every server takes (RFC 5321 section 4.5.3.1.4)."""

_CLOSING = 421  # RFC 5321 section 3.8: the server closes the channel, whatever was asked
_GO_AHEAD = 354
_FORBIDDEN_IN_ADDRESS = re.compile(r"[\x00-\x20<>\x7f]")


@dataclass(slots=True, eq=False)
class _Exchange:
    """One transaction on its way: what is still to be said, what is still to be heard, what was heard."""

    transaction: Transaction
    commands: deque[tuple[Stage, int, bytes]]  # not written yet: stage, index of the recipient, line
    recipients: list[Response | None]
    mail: Response | None = None
    data: Response | None = None
    body: Response | None = None
    due: int = 0  # answers
    begun: bool = False
    last_byte_sent: bool = False

    @property
    def accepted(self) -> bool:
        """Whether there is anyone to send a body to."""
        return _positive(self.mail) and any(_positive(answer) for answer in self.recipients)

    @property
    def wants_body(self) -> bool:
        return self.data is not None and self.data.code == _GO_AHEAD and not self.last_byte_sent

    @property
    def complete(self) -> bool:
        return not self.commands and not self.due and not self.wants_body

    def hear(self, stage: Stage, index: int, answer: Response) -> None:
        """Keep an answer. What came to the lone dot after "no recipients" is echo and kept nowhere."""
        match stage:
            case Stage.MAIL:
                self.mail = answer
            case Stage.RCPT:
                self.recipients[index] = answer
            case Stage.DATA:
                self.data = answer
            case Stage.BODY if self.accepted:
                self.body = answer
            case _:
                pass

    def skip_what_is_pointless(self) -> None:
        """Between two commands: a refused sender ends it, and DATA never goes out without a recipient."""
        heard = not any(stage is Stage.RCPT for stage, _, _ in self.commands)
        if (self.mail is not None and not _positive(self.mail)) or (heard and not self.accepted):
            self.commands.clear()

    def answers(self, cut: Response | None = None, *, changed: bool = False) -> Answers:
        return Answers(
            transaction=self.transaction,
            mail=self.mail,
            recipients=tuple(self.recipients),
            data=self.data,
            body=self.body,
            last_byte_sent=self.last_byte_sent and self.accepted,
            cut=cut,
            changed=changed,
        )

    def untouched(self) -> Answers:
        """As if it had never been begun."""
        return Answers(self.transaction, recipients=(None,) * len(self.recipients))


@dataclass(slots=True)
class Pipeline:
    """The transactions of one connection, after AUTH.

    The owner calls `offer` while there is `room`; writes what `commands` returns; sends the body of `body_wanted`
    between `begin_body` and `end_body`; gives every byte it reads to `receive` and the end of the connection to `lost`;
    takes one `Answers` per offer, in the same order, from `take`, and says `settle` when it is on disk.
    """

    extensions: Extensions
    settled: int = 0  # transactions answered to their end
    answers_read: int = 0
    trouble: Response | None = None
    ended: bool = False
    _reader: AnswerReader = field(default_factory=AnswerReader)
    _open: deque[_Exchange] = field(default_factory=deque)  # in order; the first is the one under way
    _due: deque[tuple[_Exchange | None, Stage, int]] = field(default_factory=deque)
    _done: deque[Answers] = field(default_factory=deque)
    _unsettled: bool = False
    _stopping: bool = False
    _out_of_turn: bool = False  # the server spoke while no answer was due

    # What goes out

    @property
    def room(self) -> bool:
        """Whether another transaction may be offered: one under way, one ahead of it."""
        return not self.ended and not self._stopping and len(self._open) < 2

    @property
    def idle(self) -> bool:
        """Whether no transaction is under way and no answer due: the state in which QUIT is polite."""
        return not self.ended and not self._open and not self._due

    def offer(self, transaction: Transaction, *, size: int, eight_bit: bool) -> None:
        """Take a transaction. `size` in octets as RFC 1870 counts them.

        Raises ValueError where an address could not be said safely or not to this server; nothing is taken then.
        """
        group = deque(_group(transaction, self.extensions, size, eight_bit))
        self._open.append(_Exchange(transaction, group, [None] * len(transaction.recipients)))

    def commands(self) -> bytes:
        """What is to be written now, counted as written; empty while there is nothing or a body is on its way."""
        if self.ended or self._stopping or not self._open:
            return b""
        head, *ahead = self._open
        if head.wants_body:
            return self._lone_dot(head) if not head.accepted else b""
        if not self.extensions.pipelining:
            return self._say(head, 1) if not self._due else b""
        if head.commands:
            return self._say(head, len(head.commands))
        # Behind the last byte of a body the next group may follow without its answer (RFC 2920 section 3.1).
        return b"".join(self._say(x, len(x.commands)) for x in ahead if head.last_byte_sent)

    @property
    def body_wanted(self) -> Transaction | None:
        """The transaction whose body may begin: it has its 354, and the one before it is settled."""
        if self.ended or self._stopping or self._unsettled or self._done or not self._open:
            return None
        head = self._open[0]
        return head.transaction if head.wants_body and head.accepted and not head.begun else None

    def begin_body(self) -> None:
        """From now on this transaction is under way even if the owner wants to stop."""
        self._open[0].begun = True

    def end_body(self) -> bytes:
        """The last byte goes out now: what belongs into the same write, after it (the next group, or nothing)."""
        self._last_byte(self._open[0])
        return self.commands()

    def quit(self) -> bytes:
        """The polite end (RFC 5321 section 4.1.1.10); only while `idle`."""
        self._due.append((None, Stage.QUIT, 0))
        return b"QUIT\r\n"

    def _say(self, exchange: _Exchange, count: int) -> bytes:
        lines = [exchange.commands.popleft() for _ in range(min(count, len(exchange.commands)))]
        self._due.extend((exchange, stage, index) for stage, index, _ in lines)
        exchange.due += len(lines)
        return b"".join(line for _, _, line in lines)

    def _lone_dot(self, head: _Exchange) -> bytes:
        """RFC 2920 section 3.1: 354 although every recipient was refused is answered with an empty body."""
        self._last_byte(head)
        return b".\r\n" + self.commands()

    def _last_byte(self, head: _Exchange) -> None:
        head.last_byte_sent = True
        head.due += 1
        self._due.append((head, Stage.BODY, 0))

    # What comes in

    @property
    def due(self) -> Stage | None:
        """What the next answer belongs to; None: none is due."""
        return self._due[0][1] if self._due else None

    def receive(self, data: bytes) -> None:
        """Bytes from the server, as they come. Never raises: the end of the connection is a state."""
        if self.ended:
            return
        done = len(self._done)
        self._reader.feed(data)
        self._read()
        if self._out_of_turn:
            self._take_back(done)

    def _take_back(self, done: int) -> None:
        """Two codes came in one piece where one was due: which of them is the answer to the last byte?

        It cannot be known, so the message was not "sent". Only where nothing else was due: behind the answers to
        the next group, trouble is about that.
        """
        if len(self._done) > done and (last := self._done[-1]).body is not None:
            self._done[-1] = replace(last, body=None, cut=self.trouble)
            self.settled -= 1

    def _read(self) -> None:
        while not self.ended:
            if not self._due:
                if self._reader.rest:
                    self._hear_out_of_turn()
                return
            try:
                answer = self._reader.next()
            except Desync as error:
                self.lost(str(error))
                return
            if answer is None:
                return
            self._hear(*answer)

    def _hear(self, code: int, lines: list[str]) -> None:
        exchange, stage, index = self._due.popleft()
        answer = response(stage, code, lines)
        self.answers_read += 1
        if exchange is None:  # QUIT: whatever it says, that was the last
            self.ended = True
            return
        if code != _CLOSING and (nonsense := _nonsense(stage, code, exchange)):
            self._end(Response(stage, 0, "", nonsense))
            return
        exchange.due -= 1
        exchange.hear(stage, index, answer)
        # Without the RSET nothing is known about what the next MAIL would be added to.
        if code == _CLOSING or (stage is Stage.RSET and not _positive(answer)):
            self._end(answer)
            return
        if not self.extensions.pipelining:
            exchange.skip_what_is_pointless()
        if exchange.complete:
            self._complete()

    def _complete(self) -> None:
        self._done.append(self._open.popleft().answers())
        self.settled += 1
        self._stop_if_nothing_is_begun()

    def _hear_out_of_turn(self) -> None:
        """No answer is due, yet the server speaks: it closes (421), or question and answer are out of step."""
        rest = self._reader.rest
        if rest.startswith(b"421"):
            first = rest.partition(b"\n")[0][4:]
            self._end(response(self._stage(), _CLOSING, [first.decode("utf-8", "backslashreplace")]))
        else:
            self._out_of_turn = True
            self.lost(f"the server spoke out of turn: {shown(rest)}")

    # How it ends

    def lost(self, why: str) -> None:
        """The connection is gone or given up; `why` for people. What is open becomes `cut`, or untried."""
        if self.due is Stage.QUIT:  # nothing is at stake any more
            self._forget()
        elif not self.ended:
            self._end(Response(self._stage(), 0, "", printable(why)))

    def abandon(self, why: str, *, changed: bool = False) -> None:
        """The body under way cannot be finished, through no fault of the server's."""
        if not self.ended:
            self._end(Response(Stage.LOCAL, 0, "", printable(why)), changed=changed)

    def give_up(self) -> None:
        """The owner drops the connection. That is trouble only where something was under way."""
        if self._open:
            self.abandon("we gave the connection up")
        self._forget()

    def stop(self) -> None:
        """Begin no further body. What has begun is finished; the rest is given back as if never tried."""
        self._stopping = True
        self._stop_if_nothing_is_begun()

    def _stop_if_nothing_is_begun(self) -> None:
        if self._stopping and self._open and not self.ended and not self._undecided():
            self._done.extend(exchange.untouched() for exchange in self._open)
            self._forget()

    def _undecided(self) -> bool:
        return self._open[0].begun or self._open[0].last_byte_sent

    def _end(self, why: Response, *, changed: bool = False) -> None:
        self.trouble = why
        for position, exchange in enumerate(self._open):
            if exchange.mail is None:
                self._done.append(exchange.untouched())
            else:
                self._done.append(exchange.answers(why, changed=changed and position == 0))
        self._forget()

    def _forget(self) -> None:
        self.ended = True
        self._open.clear()
        self._due.clear()

    def _stage(self) -> Stage:
        """Where in the conversation we are."""
        if self._due:
            return self._due[0][1]
        return Stage.BODY if self._open and self._open[0].wants_body else Stage.IDLE

    # What the owner takes

    def take(self) -> Answers | None:
        """The next transaction's answers, or None so far. Each one has to be settled before another body begins."""
        if not self._done:
            return None
        self._unsettled = True
        return self._done.popleft()

    def settle(self) -> None:
        """What was taken last is on disk."""
        self._unsettled = False


def _positive(answer: Response | None) -> bool:
    return answer is not None and 200 <= answer.code < 300


def _nonsense(stage: Stage, code: int, exchange: _Exchange) -> str:
    """Why `code` cannot be the answer to what was asked at `stage`; empty where it can."""
    if stage is Stage.DATA and 200 <= code < 300:
        return f"the server answered DATA with {code}: out of step"
    if 300 <= code < 400 and not (stage is Stage.DATA and code == _GO_AHEAD):
        return f"the server answered {stage.value} with {code}: out of step"
    if stage is Stage.DATA and code == _GO_AHEAD and not _positive(exchange.mail):
        return "the server wants the body of a message whose sender it refused"
    return ""


def _group(
    transaction: Transaction, extensions: Extensions, size: int, eight_bit: bool
) -> Iterator[tuple[Stage, int, bytes]]:
    """The commands of one transaction: stage, index of the recipient, line with CRLF."""
    utf8 = transaction.smtputf8
    if utf8 and not extensions.smtputf8:
        raise ValueError("an address is not ASCII and the server does not offer SMTPUTF8")
    if not transaction.recipients:
        raise ValueError("a transaction needs a recipient")
    sender = _path(transaction.sender) if transaction.sender else b"<>"
    recipients = [_path(recipient) for recipient in transaction.recipients]
    yield Stage.RSET, 0, b"RSET\r\n"
    yield Stage.MAIL, 0, b"MAIL FROM:" + sender + _mail_parameters(extensions, size, eight_bit, utf8) + b"\r\n"
    for index, recipient in enumerate(recipients):
        yield Stage.RCPT, index, b"RCPT TO:" + recipient + b"\r\n"
    yield Stage.DATA, 0, b"DATA\r\n"


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
