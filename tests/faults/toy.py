"""A relay of a hundred lines, right or wrong in a known way: what the witness is calibrated on.

    python -m tests.faults.toy --spool DIR --port N --variant late-record

Variants: `correct`; `unlink-first` (forgets a message before it is sent); `no-lock` (two may run on one spool);
`in-place` (takes what stands in the folder under any name, finished or not); `late-record` (writes down what was
accepted only after a while).
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import smtplib
import sys
import time
from pathlib import Path

from tests.faults.journal import header_value, split

VARIANTS = ("correct", "unlink-first", "no-lock", "in-place", "late-record")


def durably(path: Path, text: str) -> None:
    """Replace a file so that a crash leaves the old or the new one."""
    temporary = path.with_name(f".{path.name}")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def claim(spool: Path, variant: str) -> None:
    """Move what is finished from the pickup folder into the queue."""
    for path in sorted((spool / "pickup").iterdir()):
        name = path.name
        if variant == "in-place":
            name = name.lstrip(".").removesuffix(".eml") + ".eml"
        elif name.startswith(".") or not name.endswith(".eml"):
            continue
        if path.is_file():
            path.rename(spool / "queue" / name)


def wire_form(data: bytes, name: str) -> bytes:
    """The message as it is sent: without Bcc, with a Message-ID that every try shares."""
    header, body = split(data)
    lines = [line for line in header.splitlines() if not line.lower().startswith(b"bcc:")]
    if not header_value(header, "Message-ID"):
        lines.append(f"Message-ID: <{name}@toy.test>".encode())
    return re.sub(rb"\r\n|\r|\n", b"\r\n", b"\r\n".join([*lines, b"", body]))


def send(path: Path, port: int, variant: str) -> None:
    """One try for one message; its record is complete before it is removed."""
    data = path.read_bytes()
    header = split(data)[0]
    wanted = header_value(header, "To") + "," + header_value(header, "Bcc")
    note = path.with_suffix(".json")
    done: dict[str, str] = json.loads(note.read_text()) if note.exists() else {}
    owed = [address.strip() for address in wanted.split(",") if address.strip() and address.strip() not in done]
    if variant == "unlink-first":
        path.unlink()
    if owed:
        with smtplib.SMTP("127.0.0.1", port, timeout=5) as server:
            try:
                refused = server.sendmail("toy@toy.test", owed, wire_form(data, path.stem))
                accepted = {address: "sent" for address in owed if address not in refused}
            except smtplib.SMTPRecipientsRefused as error:  # after a 421 it names those only that were asked about
                refused, accepted = error.recipients, {}
            if variant == "late-record":
                server.quit()
                time.sleep(0.1)
            done |= accepted | {address: "failed" for address, (code, _) in refused.items() if code >= 500}
            durably(note, json.dumps(done))
    if not path.exists():
        note.unlink()
    if len(done) < len(wanted.strip(",").split(",")) or not path.exists():
        return
    if "failed" in done.values():
        durably(note.parent.parent / "failed" / note.name, json.dumps(done))
        path.rename(note.parent.parent / "failed" / path.name)
    path.unlink(missing_ok=True)
    note.unlink()


def main(argv: list[str]) -> None:
    """Relay until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--spool", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--variant", choices=VARIANTS, default="correct")
    options = parser.parse_args(argv)
    spool: Path = options.spool
    for folder in ("pickup", "queue", "failed"):
        (spool / folder).mkdir(parents=True, exist_ok=True)
    lock = os.open(spool / "lock", os.O_RDWR | os.O_CREAT)
    if options.variant != "no-lock":
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(75)
    print('"daemon.ready"', flush=True)
    while True:
        try:
            claim(spool, options.variant)
            for path in sorted((spool / "queue").glob("*.eml")):
                try:
                    send(path, options.port, options.variant)
                except smtplib.SMTPException:
                    continue
        except OSError:  # the server is away, or another relay took the file
            time.sleep(0.02)
        time.sleep(0.01)


if __name__ == "__main__":
    main(sys.argv[1:])
