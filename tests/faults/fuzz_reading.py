"""A coverage-guided attack on the reading of mails, by hand:

    pip install atheris          # into an environment of its own: the project does not need it
    nice python -m tests.faults.fuzz_reading --seconds 3600 --directory DIR [--pieces]

mutates the mails of tests/replies (with --pieces: texts put together from words that mean something) and keeps in DIR
what ought not to be: `crash-*`, an exception or an approval that nobody wrote; `slow-*`, more processor time than
LIMIT. The program under test is slower here than it is without instruments, so a slow one is measured again at the end,
by a plain interpreter (`--measure FILE...`), and only that counts.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.faults.fuzz_oracle import PIECES, broken, dressed, unwritten

LIMIT = 0.25  # seconds of processor time for one mail
_REPLIES = Path(__file__).parents[1] / "replies"
_LONGEST = 65536  # bytes of a mutated mail


def attack(data: bytes) -> None:
    """Read one mail of any bytes. Raises what the reader raises, and AssertionError for a reading that must not be."""
    from mailrelayd.approvals.reading import read

    assert not (fault := broken(data, read(data))), fault


def attack_pieces(data: bytes) -> None:
    """Read a text: the first byte tells how it is dressed, two bytes each name a piece."""
    from mailrelayd.approvals.reading import read

    numbers = [int.from_bytes(data[at : at + 2], "big") for at in range(1, len(data) - 1, 2)]
    text = "".join(PIECES[number % len(PIECES)] for number in numbers[:40])
    mail = dressed(text, data[0] if data else 0)
    reading = read(mail)
    assert not (fault := broken(mail, reading) or unwritten(text, reading)), f"{fault}: {text!r}"


def seconds(data: bytes, *, pieces: bool) -> float:
    """Processor time of one attack, by this thread: other programs do not count."""
    began = time.thread_time()
    (attack_pieces if pieces else attack)(data)
    return time.thread_time() - began


def fuzz(options: argparse.Namespace) -> None:
    """Mutate until the time is over; never returns (libFuzzer ends the process)."""
    import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]

    with atheris.instrument_imports(include=["mailrelayd"]):
        import mailrelayd.approvals.reading  # noqa: F401

    directory: Path = options.directory
    corpus = directory / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    if not options.pieces:
        for mail in _REPLIES.glob("*/*.eml"):
            data = mail.read_bytes()
            (corpus / hashlib.sha256(data).hexdigest()).write_bytes(data)

    said: set[str] = set()

    def one(data: bytes) -> None:
        try:
            kind = "slow" if seconds(data, pieces=options.pieces) > LIMIT else ""
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what we are looking for
            kind = "crash"
            if (sentence := f"{type(error).__name__}: {error}".partition("'")[0]) not in said:
                said.add(sentence)
                print(sentence, flush=True)
        if kind:
            (directory / f"{kind}-{hashlib.sha256(data).hexdigest()[:16]}").write_bytes(data)

    flags = [
        f"-max_total_time={options.seconds}",
        f"-max_len={_LONGEST}",
        f"-artifact_prefix={directory}/",
        "-timeout=30",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
        "-verbosity=1",
    ]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], one)
    atheris.Fuzz()


def measure(files: Sequence[Path], *, pieces: bool) -> int:
    """Measure files without instruments, the best of three; how many are over the limit."""
    over = 0
    for file in files:
        data = file.read_bytes()
        best = min(seconds(data, pieces=pieces) for _ in range(3))
        over += best > LIMIT
        print(f"{file}: {len(data)} bytes, {best * 1000:.0f} ms{' OVER' if best > LIMIT else ''}")
    return over


def main(argv: Sequence[str]) -> int:
    """0: nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.fuzz_reading")
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--directory", type=Path, default=Path("fuzz"))
    parser.add_argument("--pieces", action="store_true", help="texts put together from words instead of bytes")
    parser.add_argument("--measure", type=Path, nargs="*", help="measure these files and end")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.measure is not None:
        return 1 if measure(options.measure, pieces=options.pieces) else 0
    if options.child:
        fuzz(options)
    child = [sys.executable, "-m", "tests.faults.fuzz_reading", "--child", *argv]
    status = subprocess.run(child, check=False).returncode
    found = sorted(options.directory.glob("crash-*")) + sorted(options.directory.glob("timeout-*"))
    for file in found:
        print(f"found: {file}")
    over = measure(sorted(options.directory.glob("slow-*")), pieces=options.pieces)
    print(f"exit {status}, {len(found)} found, {over} over {LIMIT * 1000:.0f} ms")
    return 1 if status or found or over else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
