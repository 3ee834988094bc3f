"""STATE/tls.json: what is remembered of each server, and what a damaged file does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mailrelayd.tlsmemory import LIMIT, NAME, TlsMemory


def test_nothing_is_remembered_at_first(tmp_path: Path) -> None:
    """Neither a missing file nor a missing folder is an error."""
    assert TlsMemory(tmp_path, "smtp.example.com").best() is None
    assert TlsMemory(tmp_path / "missing", "smtp.example.com").best() is None


def test_each_server_is_remembered_for_itself(tmp_path: Path) -> None:
    """What is said of one host, in any case, leaves the others as they were."""
    TlsMemory(tmp_path, "a.example.com").saw("tls", 465)
    TlsMemory(tmp_path, "b.example.com").saw("none", 25)
    TlsMemory(tmp_path, "B.Example.com").saw("starttls", 587)
    assert TlsMemory(tmp_path, "A.example.COM").best() == ("tls", 465)
    assert TlsMemory(tmp_path, "b.example.com").best() == ("starttls", 587)
    assert TlsMemory(tmp_path, "c.example.com").best() is None


def entry(level: object = "tls", port: object = 465, **more: object) -> bytes:
    """The file with this one entry."""
    return json.dumps({"format": 1, "servers": {"other.example.com": {"level": level, "port": port}}} | more).encode()


DAMAGED = {
    "empty": b"",
    "half": entry()[:-9],
    "no text": b"\xff\xfe\x00",
    "too deep": b"[" * 100_000,
    "long number": b"9" * 5000,
    "too long": entry().ljust(LIMIT) + b"x" + entry(),
    "list": b"[]",
    "null": b"null",
    "no format": b"{}",
    "another format": entry(format=2),
    "format in words": entry(format="1"),
    "format true": entry(format=True),
    "no servers": b'{"format": 1}',
    "servers null": entry(servers=None),
    "servers list": entry(servers=[["a", "tls", 465]]),
    "entry null": entry(servers={"a": None}),
    "entry list": entry(servers={"a": ["tls", 465]}),
    "entry empty": entry(servers={"a": {}}),
    "no port": entry(servers={"a": {"level": "tls"}}),
    "unknown level": entry(level="TLS"),
    "level list": entry(level=["tls"]),
    "level null": entry(level=None),
    "port in words": entry(port="465"),
    "port true": entry(port=True),
    "port fraction": entry(port=465.0),
    "port zero": entry(port=0),
    "port too large": entry(port=65536),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_file_is_named_with_the_cure_and_left_alone(tmp_path: Path, content: bytes) -> None:
    """Whatever is wrong, it is a ValueError for people, and nothing is written over it."""
    file = tmp_path / NAME
    file.write_bytes(content)
    memory = TlsMemory(tmp_path, "smtp.example.com")
    for act in (memory.best, lambda: memory.saw("tls", 465)):
        with pytest.raises(ValueError, match="remove it") as caught:
            act()
        assert str(caught.value).startswith(f"{file}: ")
    assert file.read_bytes() == content
