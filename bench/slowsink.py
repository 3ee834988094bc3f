"""sink.c in Python, for machines without a C compiler: the same record, and the same options but --quick-ack."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import resource
import signal
import struct
import time
from pathlib import Path
from typing import BinaryIO

_ID = re.compile(rb"^X-Bench-Id: (\d+)", re.M)
_CHUNK = re.compile(rb"BDAT (\d+)( LAST)?")
_RECORD = struct.Struct("=QQQII")


class Sink:
    """What all connections share."""

    def __init__(self, options: argparse.Namespace, record: BinaryIO) -> None:
        self.options = options
        self.record = record
        self.messages = self.opened = self.open = self.peak = self.commands = 0
        names = ["8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", f"SIZE {options.size}"]
        names += [] if options.no_pipelining else ["PIPELINING"]
        names += [] if options.no_chunking else ["CHUNKING"]
        lines = ["250-sink.test", *(f"250-{name}" for name in names[:-1]), f"250 {names[-1]}"]
        self.ehlo = "".join(f"{line}\r\n" for line in lines).encode()


class Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._answers = bytearray()
        self._text: list[bytes] = []
        self._chunk = -1  # bytes of a chunk that are still to come; -1: in no chunk
        self._last = self._in_data = self._mail = self._quitting = False
        self._recipients = 0
        self._searched = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        sink = self._sink
        sink.opened += 1
        sink.open += 1
        self._number = sink.opened
        sink.peak = max(sink.peak, sink.open)
        self._quitting = 0 < sink.options.connections < sink.open
        self._answers += b"421 4.7.0 too many connections\r\n" if self._quitting else b"220 sink.test ESMTP\r\n"
        self._flush(2 * sink.options.rtt)

    def connection_lost(self, exc: Exception | None) -> None:
        self._sink.open -= 1

    def eof_received(self) -> bool:
        self._loop.call_later(2 * self._sink.options.rtt / 1000, self._transport.close)
        return True  # half closed, as Exim does behind its QUIT: what is due is still said

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while not self._quitting and self._step():
            pass
        self._flush(self._sink.options.rtt)

    def _flush(self, milliseconds: float) -> None:
        answers, self._answers = bytes(self._answers), bytearray()
        if not answers:
            return
        if milliseconds:
            self._loop.call_later(milliseconds / 1000, self._send, answers, self._quitting)
        else:
            self._send(answers, self._quitting)

    def _send(self, answers: bytes, last: bool) -> None:
        self._transport.write(answers)
        if last:
            self._transport.close()

    def _step(self) -> bool:
        """Understand one thing more; False: more must arrive first."""
        if self._in_data:
            return self._read_data()
        if self._chunk >= 0:
            return self._read_chunk()
        end = self._buffer.find(b"\n")
        if end < 0:
            return False
        line = bytes(self._buffer[:end]).rstrip(b"\r")
        del self._buffer[: end + 1]
        self._obey(line)
        return True

    def _read_data(self) -> bool:
        if self._buffer.startswith(b".\r\n"):
            end, length = 0, 3
        else:
            end, length = self._buffer.find(b"\r\n.\r\n", max(self._searched - 4, 0)), 5
            if end < 0:
                self._searched = len(self._buffer)
                return False
        text = bytes(self._buffer[: end + length - 3])
        del self._buffer[: end + length]
        self._in_data = False
        self._accept((b"\r\n" + text).replace(b"\r\n.", b"\r\n")[2:])
        return True

    def _read_chunk(self) -> bool:
        if len(self._buffer) < self._chunk:
            return False
        self._text.append(bytes(self._buffer[: self._chunk]))
        del self._buffer[: self._chunk]
        self._chunk = -1
        if not self._recipients:  # swallowed all the same: RFC 3030 section 2
            self._text.clear()
            self._answers += b"503 5.5.1 RCPT first\r\n"
        elif self._last:
            self._accept(b"".join(self._text))
        else:
            self._answers += b"250 2.0.0 ok\r\n"
        return True

    def _accept(self, text: bytes) -> None:
        header, _, body = text.partition(b"\r\n\r\n")
        found = _ID.search(header)
        number = int(found[1]) if found else 2**64 - 1
        sink = self._sink
        sink.messages += 1
        sink.record.write(_RECORD.pack(time.monotonic_ns(), number, len(body), self._recipients, self._number))
        self._reset()
        self._answers += b"250 2.0.0 taken\r\n"

    def _reset(self) -> None:
        self._text.clear()
        self._mail, self._recipients = False, 0

    def _obey(self, line: bytes) -> None:
        self._sink.commands += 1
        verb = line.upper()
        if verb.startswith(b"EHLO"):
            answer = self._sink.ehlo
        elif verb.startswith(b"MAIL FROM:"):
            size = re.search(rb" SIZE=(\d+)", verb)
            if size and int(size[1]) > self._sink.options.size:
                answer = b"552 5.3.4 too large\r\n"
            else:
                answer = b"503 5.5.1 nested MAIL\r\n" if self._mail else b"250 2.1.0 ok\r\n"
                self._mail = True
        elif verb.startswith(b"RCPT TO:"):
            self._recipients += self._mail
            answer = b"250 2.1.5 ok\r\n" if self._mail else b"503 5.5.1 MAIL first\r\n"
        elif verb == b"DATA":
            self._in_data, self._searched = self._recipients > 0, 0
            answer = b"354 go ahead\r\n" if self._in_data else b"503 5.5.1 RCPT first\r\n"
        elif verb.startswith(b"BDAT ") and not self._sink.options.no_chunking:
            if size := _CHUNK.fullmatch(verb):
                self._chunk, self._last, answer = int(size[1]), bool(size[2]), b""
            else:  # where its bytes end nobody knows
                self._quitting, answer = True, b"501 5.5.4 BDAT size [LAST]\r\n"
        elif verb == b"QUIT":
            self._quitting, answer = True, b"221 2.0.0 bye\r\n"
        elif verb.startswith((b"HELO", b"NOOP", b"RSET")):
            if verb == b"RSET":
                self._reset()
            answer = b"250 2.0.0 ok\r\n"
        else:
            answer = b"502 5.5.2 unknown\r\n"
        self._answers += answer


async def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=2525)
    parser.add_argument("--record", type=Path, default=Path("/dev/null"))
    parser.add_argument("--rtt", type=float, default=0.0)
    parser.add_argument("--size", type=int, default=104857600)
    parser.add_argument("--connections", type=int, default=0)
    for flag in ("--no-pipelining", "--no-chunking"):
        parser.add_argument(flag, action="store_true")
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    options = parser.parse_args()
    with options.record.open("ab", buffering=0) as record:
        sink = Sink(options, record)
        server = await loop.create_server(lambda: Connection(sink), "127.0.0.1", options.port, backlog=4096)
        print("ready", flush=True)
        await stop.wait()
        server.close()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    counted = {"messages": sink.messages, "connections": sink.opened, "peak": sink.peak, "commands": sink.commands}
    print(json.dumps(counted | {"cpu": usage.ru_utime + usage.ru_stime}))


if __name__ == "__main__":
    asyncio.run(main())
