"""A pipeline against a server that keeps to the protocol, or nearly: what it took is what is called sent.

The server refuses what it likes, answers in pieces of any size, closes or is cut off anywhere, and may take the chunks
of refused messages for commands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from mailrelayd.outbound.pipeline import Pipeline
from mailrelayd.outbound.values import Answers, Extensions, Transaction

NEVER = 1 << 30
HOSTILE = b"QUIT\r\n\r\nRSET\r\nMAIL FROM:<evil>\r\nRCPT TO:<a>\r\nBDAT 3 LAST\r\nabc"
GOOD, LATER, NEVERMORE, NOBODY = 0, 1, 2, 3
"""What the server may say: to the last only MAIL objects, to the others only RCPT and the body."""


@dataclass
class Mail:
    """A message; a large one is streamed."""

    data: bytes
    large: bool
    same: bool
    eight_bit: bool = False
    pure: bool = True
    copyable: None = None

    @property
    def whole(self) -> bytes | None:
        return None if self.large else self.data

    @property
    def size(self) -> int:
        return len(self.data)

    def chunks(self) -> AsyncIterator[bytes]:
        raise NotImplementedError

    def unchanged(self) -> bool:
        return self.same


@dataclass
class Model:
    """A server with CHUNKING: `said` is what it answers to what it was `fed`, `taken` what it is responsible for."""

    moods: list[int]
    obeys: bool  # it takes the chunks for nobody for commands
    closes_after: int  # commands
    politely: bool
    said: bytes = b""
    taken: list[tuple[str, bytes]] = field(default_factory=list)
    closed: bool = False
    _inbox: bytes = b""
    _commands: int = 0
    _sender: str = ""
    _accepted: bool = False
    _chunks: bytes = b""
    _chunk: tuple[int, bool] | None = None  # size; whether it is the last
    _dots: bool = False  # behind a 354

    def feed(self, data: bytes) -> None:
        self._inbox += data
        while not self.closed and (self._body() if self._dots else self._octets() if self._chunk else self._command()):
            pass

    def _mood(self) -> int:
        return self.moods[self._commands % len(self.moods)]

    def _say(self, text: str) -> bool:
        self.said += text.encode() + b"\r\n"
        return True

    def _command(self) -> bool:
        line, end, rest = self._inbox.partition(b"\r\n")
        if not end:
            return False
        self._inbox = rest
        self._commands += 1
        if self._commands > self.closes_after:
            self.closed = True
            return self.politely and self._say("421 4.7.0 enough")
        match line.split(b" ")[0]:
            case b"RSET":
                self._reset()
                return self._say("250 2.0.0 ok")
            case b"MAIL" if self._sender or self._mood() == NOBODY:
                return self._say("503 5.5.1 nested" if self._sender else "550 5.7.1 not you")
            case b"MAIL":
                self._sender = line.partition(b"<")[2].partition(b">")[0].decode()
                return self._say("250 2.1.0 ok")
            case b"RCPT" if not self._sender or self._mood() in (LATER, NEVERMORE):
                return self._say("450 4.2.1 later" if self._mood() == LATER else "550 5.1.1 no")
            case b"RCPT":
                self._accepted = True
                return self._say("250 2.1.5 ok")
            case b"BDAT" if self._accepted or not self.obeys:
                self._chunk = int(line.split()[1]), line.endswith(b"LAST")
                return True
            case b"DATA" if self._accepted:
                self._dots = True
                return self._say("354 go ahead")
            case b"BDAT" | b"DATA":
                return self._say("503 5.5.1 no recipients")
            case _:
                return self._say("500 5.5.2 what?")

    def _octets(self) -> bool:
        assert self._chunk is not None
        size, last = self._chunk
        if len(self._inbox) < size:
            return False
        self._chunks, self._inbox, self._chunk = self._chunks + self._inbox[:size], self._inbox[size:], None
        if not self._accepted:
            return self._say("503 5.5.1 no recipients")
        return self._taken(self._chunks) if last or self._mood() else self._say("250 2.0.0 more")

    def _body(self) -> bool:
        text, end, rest = (b"\r\n" + self._inbox).partition(b"\r\n.\r\n")
        if not end:
            return False
        self._inbox, self._dots = rest, False
        return self._taken(text[2:].replace(b"\n..", b"\n.") + b"\r\n")

    def _taken(self, text: bytes) -> bool:
        mood = self._mood()
        if mood == GOOD:
            self.taken.append((self._sender, text))
        self._reset()
        return self._say("250 2.0.0 taken" if mood == GOOD else "452 4.3.1 full" if mood == LATER else "554 5.6.0 no")

    def _reset(self) -> None:
        self._sender, self._accepted, self._chunks = "", False, b""


@dataclass
class Line:
    """The connection: cut after so many octets in one direction or the other."""

    pipeline: Pipeline
    model: Model
    to_server: int
    to_us: int
    piece: int

    def write(self, data: bytes) -> bool:
        self.model.feed(data[: self.to_server])
        self.to_server = max(self.to_server - len(data), 0)
        return bool(data)

    def read(self) -> bool:
        """Hand on a piece of what was answered; False: there is none, and the connection may be over."""
        size = min(self.piece, self.to_us)
        data, self.model.said = self.model.said[:size], self.model.said[size:]
        self.to_us -= len(data)
        self.pipeline.receive(data)
        if not data and (self.model.closed or not self.to_server or not self.to_us):
            self.pipeline.lost("the connection is gone")
        return bool(data)


def stream(line: Line) -> bool:
    """Send the large message whose turn it is."""
    pipeline = line.pipeline
    if pipeline.body_wanted is None:
        return False
    body, command = pipeline.begin_body()
    assert isinstance(body, Mail)
    line.write(command + (body.data if command else body.data.replace(b"\n.", b"\n..")))
    if body.unchanged():
        line.write((b"" if command else b".\r\n") + pipeline.end_body())
    else:
        pipeline.abandon("changed", changed=True)
    return True


@settings(deadline=None)
@given(
    window=st.sampled_from([1, 2, 16]),
    mails=st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(1, 3)), min_size=1, max_size=20),
    moods=st.lists(st.sampled_from([GOOD, GOOD, GOOD, GOOD, LATER, NEVERMORE, NOBODY]), min_size=1, max_size=40),
    obeys=st.booleans(),
    closes=st.tuples(st.integers(0, 60) | st.just(NEVER), st.booleans()),
    cuts=st.tuples(st.integers(0, 4000) | st.just(NEVER), st.integers(0, 2000) | st.just(NEVER)),
    piece=st.sampled_from([1, 2, 7, 100, NEVER]),
    settled_every=st.integers(1, 6),
    stop_at=st.integers(0, 60) | st.just(NEVER),
)
def test_what_a_server_took_is_what_is_called_sent(
    window: int,
    mails: list[tuple[bool, bool, int]],
    moods: list[int],
    obeys: bool,
    closes: tuple[int, bool],
    cuts: tuple[int, int],
    piece: int,
    settled_every: int,
    stop_at: int,
) -> None:
    """Nothing is called sent that it did not take, whole; what it took and is not called sent had not been answered,
    and of these there are no more than the window holds."""
    model = Model(moods, obeys, *closes)
    pipeline = Pipeline(Extensions(pipelining=True, chunking=True), window)
    line = Line(pipeline, model, *cuts, piece)
    waiting: list[tuple[Transaction, Mail]] = []
    for number, (small, same, recipients) in enumerate(mails):
        text = b"Subject: %d\r\n\r\n" % number + (HOSTILE if number % 3 == 0 else b".") + b"\r\n"
        to = tuple(f"{number}-{i}" for i in range(recipients))
        waiting.append((Transaction(str(number), f"s{number}", to), Mail(text, not small, same or number % 4 > 0)))
    texts = {transaction.sender: mail.data for transaction, mail in waiting}
    given_in: list[Transaction] = []
    got: list[Answers] = []
    settled: set[str] = set()
    busy, turn = True, 0
    while busy and not pipeline.ended:
        turn += 1
        busy = False
        if turn == stop_at:
            pipeline.stop()
        while waiting and pipeline.room:
            given_in.append(waiting[0][0])
            pipeline.offer(*waiting.pop(0))
        busy = line.write(pipeline.output()) or busy
        busy = stream(line) or busy
        busy = line.read() or busy
        if turn % settled_every == 0 or not busy:
            got += pipeline.take()
            busy = pipeline.settle() or busy
            settled = {answers.transaction.sender for answers in got}
        assert len({sender for sender, _ in model.taken} - settled) <= window, (
            "too many would be repeated after a crash"
        )
    assert pipeline.ended or not (pipeline.unwritten or pipeline.due), "it waits for nothing"
    got += pipeline.take()

    assert [answers.transaction for answers in got] == given_in
    arrived = Counter(sender for sender, _ in model.taken)
    assert obeys or "evil" not in arrived
    assert obeys or not pipeline.distrust
    in_doubt = 0
    for answers in got:
        sender = answers.transaction.sender
        if answers.body is not None and answers.body.code < 300:
            assert [text for taken, text in model.taken if taken == sender] == [texts[sender]]
        elif arrived[sender]:
            in_doubt += 1
            assert arrived[sender] == 1
            assert answers.last_byte_sent
            assert answers.body is None
            assert answers.untried or answers.cut is not None
    assert in_doubt <= window
