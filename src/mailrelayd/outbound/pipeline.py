"""The client's side of SMTP mail transactions as a machine without a socket: bytes in, bytes and answers out. Pure.

Three ways to talk, one machine:

- Without PIPELINING (RFC 2920) each command waits for the answer before it.
- With it a **group** (RSET, MAIL, every RCPT, DATA) is one write, and the group of the next message travels in the same
  write as the end of the body before it: one round trip a message.
- With a **window** above 1, where CHUNKING (RFC 3030) is offered and chunks of no transaction were seen to be
  swallowed, a small message goes out as a whole, RSET .. BDAT n LAST and its bytes, before anything is answered: as
  many as the window holds. A large one waits until it is alone, and stops the others until its last byte.

What keeps a message from being called sent by mistake:

- RSET stands in front of every group. Where all recipients were refused a server may keep the sender, and the next
  message would go out under it.
- Answers are paired with commands by order alone, so the first sign that the pairing is off ends the connection: a byte
  when no answer is due, 2xx to DATA, 3xx to anything but DATA, two codes in one answer, anything that is not an answer.
- At most `window` bodies are undecided: another one begins when one before it is answered *and* the owner said
  `settle`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

from mailrelayd.outbound.answers import AnswerReader, Desync, printable, response, shown
from mailrelayd.outbound.exchange import Exchange, Way, group, nonsense, positive
from mailrelayd.outbound.values import Answers, Body, Extensions, Response, Stage, Transaction
from mailrelayd.outbound.wire import stuffed

AHEAD = 1 << 20
"""Octets of small messages that wait for their turn; with more of them no other is taken."""
WRITE = 1 << 18
"""Octets after which `output` takes a breath."""

_CLOSING = 421  # RFC 5321 section 3.8: the server closes the channel, whatever was asked
_NO_SUCH_COMMAND = range(500, 505)  # RFC 5321 section 4.2.2: about the command, so never about a message


@dataclass(slots=True)
class Pipeline:
    """The transactions of one connection, after AUTH.

    The owner calls `offer` while there is `room`; writes what `output` returns; sends the body of `body_wanted`
    between `begin_body` and `end_body`; gives every byte it reads to `receive` and the end of the connection to `lost`;
    gets one `Answers` per offer, in the same order, from `take`, and says `settle` when they are on disk.
    """

    extensions: Extensions
    window: int = 1  # bodies on their way or not settled; above 1 only where chunks are known to be swallowed
    settled: int = 0  # transactions answered to their end
    answers_read: int = 0
    trouble: Response | None = None
    ended: bool = False
    distrust: str = ""  # why this server should be sent no chunks any more
    _reader: AnswerReader = field(default_factory=AnswerReader)
    _open: deque[Exchange] = field(default_factory=deque)  # in order; the first is the one under way
    _written: int = 0  # how many of them are wholly on the wire
    _ahead: int = 0  # octets of small messages for a window that have not left
    _due: deque[tuple[Exchange | None, Stage, int]] = field(default_factory=deque)
    _done: list[Answers] = field(default_factory=list)
    _unsettled: int = 0
    _stopping: bool = False
    _clean: bool = True  # no transaction is open at the server
    _chunks: bool = False  # some were said
    _out_of_turn: bool = False  # the server spoke while no answer was due

    # What goes out

    @property
    def room(self) -> bool:
        """Whether another transaction may be offered: a window under way, as much ahead of it."""
        if self.ended or self._stopping or len(self._open) >= 2 * self.window:
            return False
        return self._ahead < AHEAD

    @property
    def unwritten(self) -> int:
        """Transactions of which something is still to be said."""
        return len(self._open) - self._written

    @property
    def idle(self) -> bool:
        """Whether no transaction is under way and no answer due: the state in which QUIT is polite."""
        return not self.ended and not self._open and not self._due

    @property
    def news(self) -> bool:
        """Whether there is something to `take`."""
        return bool(self._done)

    def offer(self, transaction: Transaction, body: Body) -> None:
        """Take a transaction.

        Raises ValueError where an address could not be said safely or not to this server; nothing is taken then.
        """
        way = Way.DATA
        if self.extensions.chunking and self.extensions.pipelining:
            if body.whole is None:
                way = Way.CHUNKS
            elif self.window > 1:
                way = Way.AT_ONCE
        commands = list(group(transaction, self.extensions, body, way))
        count = len(transaction.recipients)
        self._open.append(Exchange(transaction, body, way, commands, [None] * count, count))
        if way is Way.AT_ONCE:
            self._ahead += body.size

    def output(self, said: list[bytes] | None = None) -> bytes:
        """What is to be written now, counted as written; empty while there is nothing or a body is streamed.

        It is bounded, so there may be more at once. `said` collects the same without the bodies.
        """
        parts: list[bytes] = []
        said = [] if said is None else said
        size = 0
        while size < WRITE and not self.ended and not self._stopping and self._written < len(self._open):
            exchange = self._open[self._written]
            if exchange.way is Way.AT_ONCE:
                if self._written + len(self._done) + self._unsettled >= self.window:
                    break
                if exchange.body is not None and not exchange.body.unchanged():
                    self._pass_over(exchange)
                    continue
            piece = self._next_output(exchange, said)
            if not piece:
                break
            parts.append(piece)
            size += len(piece)
        return b"".join(parts)

    def _next_output(self, exchange: Exchange, said: list[bytes]) -> bytes:
        first = self._written == 0
        if not exchange.commands:
            return self._body_output(exchange, said) if first else b""
        if self.extensions.pipelining:
            said.append(self._say(exchange, len(exchange.commands)))
            if exchange.way is not Way.AT_ONCE:
                return said[-1]
            text = (exchange.body and exchange.body.whole) or b""
            self._ahead -= len(text)
            exchange.begun, exchange.body = True, None
            self._chunks = True
            self._last_byte(exchange)
            return said[-1] + text
        if not first or self._due:
            return b""
        if exchange.commands[0][0] is Stage.RSET and self._clean:
            # Behind the login, and behind a message that was taken, no transaction is open (RFC 5321 section 4.1.4).
            # As all answers are in here, that is known, and RSET would cost a round trip.
            del exchange.commands[0]
        self._clean = False
        said.append(self._say(exchange, 1))
        return said[-1]

    def _body_output(self, head: Exchange, said: list[bytes]) -> bytes:
        """A lone dot, or a small body and its dot."""
        if head.way is not Way.DATA or not head.wants_body:
            return b""
        text = b""
        if head.accepted:  # RFC 2920 section 3.1: else 354 is answered with an empty body
            if head.body is None or head.body.whole is None or not self._may_begin(head):
                return b""
            if not head.body.unchanged():
                self.abandon("the message was changed while it was being sent", changed=True)
                return b""
            text = stuffed(head.body.whole)
            head.begun, head.body = True, None
        self._last_byte(head)
        said.append(b".\r\n")
        return text or b".\r\n"

    def _pass_over(self, exchange: Exchange) -> None:
        """Its file has changed, and nothing of it was said yet."""
        exchange.commands.clear()
        exchange.changed = True
        self._ahead -= exchange.body.size if exchange.body is not None else 0
        self._written += 1
        self._hand_out_the_changed()

    @property
    def body_wanted(self) -> Transaction | None:
        """The transaction whose body may be streamed now: it is the first, accepted, and all before it is settled."""
        if self.ended or self._stopping or not self._open:
            return None
        head = self._open[0]
        streamed = head.body is not None and head.body.whole is None
        return head.transaction if streamed and head.wants_body and head.accepted and self._may_begin(head) else None

    def _may_begin(self, head: Exchange) -> bool:
        return not head.begun and not self._unsettled and not self._done

    def begin_body(self) -> tuple[Body, bytes]:
        """From now on this transaction is under way even if the owner wants to stop.

        Its body, and the command in front of it: with one, exactly `body.size` octets without dots belong behind it.
        """
        head = self._open[0]
        assert head.body is not None
        head.begun = head.streaming = True
        if head.way is Way.DATA:
            return head.body, b""
        self._chunks = True
        self._due.append((head, Stage.DATA, 0))
        head.due += 1
        return head.body, b"BDAT %d\r\n" % head.body.size

    def end_body(self) -> bytes:
        """The last byte goes out now: what belongs behind it in the same write (a commit, the next group)."""
        head = self._open[0]
        head.streaming = False
        if head.complete:  # refused meanwhile: there is nothing to commit
            self._complete()
            return self.output()
        self._last_byte(head)
        return (b"BDAT 0 LAST\r\n" if head.way is Way.CHUNKS else b"") + self.output()

    def quit(self) -> bytes:
        """The polite end (RFC 5321 section 4.1.1.10); only while `idle`."""
        self._due.append((None, Stage.QUIT, 0))
        return b"QUIT\r\n"

    def _say(self, exchange: Exchange, count: int) -> bytes:
        lines = exchange.commands[:count]
        del exchange.commands[:count]
        self._due.extend([(exchange, stage, index) for stage, index, _ in lines if stage is not Stage.BODY])
        exchange.due += len(lines) - (lines[-1][0] is Stage.BODY)  # that one is counted with the last byte
        return b"".join([line for _, _, line in lines])

    def _last_byte(self, exchange: Exchange) -> None:
        exchange.last_byte_sent = True
        exchange.due += 1
        self._due.append((exchange, Stage.BODY, 0))
        self._written += 1

    # What comes in

    @property
    def due(self) -> Stage | None:
        """What the next answer belongs to, to a chunk as to a last byte; None: none is due."""
        if not self._due:
            return None
        exchange, stage, _ = self._due[0]
        return Stage.BODY if exchange is not None and exchange.is_chunk(stage) else stage

    def receive(self, data: bytes) -> None:
        """Bytes from the server, as they come. Never raises: the end of the connection is a state."""
        if self.ended:
            return
        done = len(self._done)
        self._reader.feed(data)
        self._read()
        if self._out_of_turn:
            self._doubt(done)

    def _doubt(self, first: int) -> None:
        """Which answer was the one too many? It cannot be known, so what they say was taken was not "sent"."""
        for position in range(first, len(self._done)):
            if self._done[position].body is not None:
                self._done[position] = replace(self._done[position], body=None, cut=self.trouble)
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
                self._out_of_step(Response(self._stage(), 0, "", printable(str(error))))
                return
            if answer is None:
                return
            self._hear(*answer)

    def _hear(self, code: int, lines: list[str]) -> None:
        exchange, stage, index = self._due.popleft()
        self.answers_read += 1
        if exchange is None:  # QUIT: whatever it says, that was the last
            self.ended = True
            return
        exchange.due -= 1
        if stage is Stage.RSET and code == 250:
            return
        answer = response(stage, code, lines)
        if code in _NO_SUCH_COMMAND and exchange.is_chunk(stage) and exchange.accepted and not exchange.refused:
            self.distrust = f"it offers CHUNKING and answers BDAT with {answer}"
            self._end(Response(Stage.LOCAL, 0, "", f"the server says {answer} to BDAT, and offers CHUNKING"))
            return
        if code != _CLOSING and (why := nonsense(stage, answer, exchange)):
            self._out_of_step(Response(stage, 0, "", why))
            return
        exchange.hear(stage, index, answer)
        # Without the RSET nothing is known about what the next MAIL would be added to.
        if code == _CLOSING or (stage is Stage.RSET and not positive(answer)):
            if self._chunks and code in _NO_SUCH_COMMAND:
                self.distrust = f"it answers RSET with {answer}, as if the chunk before it had been commands"
            self._end(answer)
            return
        if not self.extensions.pipelining:
            exchange.skip_what_is_pointless()
        if exchange.complete:
            self._complete()

    def _complete(self) -> None:
        head = self._open.popleft()
        self._written = max(self._written - 1, 0)  # a refused one may not have come to its body
        self._clean = positive(head.taken)
        self._done.append(head.answers())
        self.settled += 1
        self._hand_out_the_changed()
        self._stop_if_nothing_is_begun()

    def _hand_out_the_changed(self) -> None:
        """What was passed over, as far as its turn has come."""
        while self._open and self._open[0].changed:
            self._done.append(self._open.popleft().answers())
            self._written -= 1

    def _hear_out_of_turn(self) -> None:
        """No answer is due, yet the server speaks: it closes (421), or question and answer are out of step."""
        rest = self._reader.rest
        if rest.startswith(b"421"):
            first = rest.partition(b"\n")[0][4:]
            self._end(response(self._stage(), _CLOSING, [first.decode("utf-8", "backslashreplace")]))
        else:
            self._out_of_turn = True
            self._out_of_step(Response(self._stage(), 0, "", printable(f"the server spoke out of turn: {shown(rest)}")))

    # How it ends

    def _out_of_step(self, why: Response) -> None:
        """Question and answer do not belong together (any more)."""
        if self.due is Stage.QUIT:  # nothing is at stake any more
            self._forget()
            return
        self.trouble = why
        if self._chunks:  # one of them may have been taken for commands
            self.distrust = self.distrust or why.text
        if self.window > 1:  # without a 354 in between, the two may have parted anywhere before
            self._doubt(0)
        self._end(why)

    def lost(self, why: str) -> None:
        """The connection is gone or given up; `why` for people. What is open becomes `cut`, or untried."""
        if self.due is Stage.QUIT:
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
        self._written = 0

    def _stage(self) -> Stage:
        """Where in the conversation we are."""
        if self._due:
            return self._due[0][1]
        return Stage.BODY if self._open and self._open[0].wants_body else Stage.IDLE

    # What the owner takes

    def take(self) -> tuple[Answers, ...]:
        """What has been answered to its end, in order. All of it has to be settled before it leaves the window."""
        taken = tuple(self._done)
        self._done.clear()
        self._unsettled += len(taken)
        return taken

    def settle(self) -> bool:
        """What was taken is on disk; whether anything was."""
        anything, self._unsettled = self._unsettled > 0, 0
        return anything
