"""How a message is handed over: the daemon's word counts, silence leads to the folder, and both are durable."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from mailrelayd.cli.handover import Handed, NotHandedError, hand_over
from mailrelayd.config.light import Light
from mailrelayd.operate import sockets
from mailrelayd.outbound.drop import drop
from mailrelayd.outbound.submission import END, Options
from mailrelayd.outbound.values import Envelope
from tests.servers.process import short_directory

MAIL = b"From: a@x\nTo: b@y\n\nhello\n"
OPTIONS = Options("sendmail", recipients=("b@y",))
BUSY = b'{"status": 75, "reason": "busy", "hint": "", "again": true}\n'


@pytest.fixture
def light() -> Iterator[Light]:
    """Folders and no daemon."""
    with short_directory("mr-over") as directory:
        found = Light(spool=directory / "spool", state=directory / "state")
        for folder in (found.pickup / "tmp", found.pickup / "new", found.state / "run"):
            folder.mkdir(parents=True)
        yield found


@contextmanager
def daemon(light: Light, *answers: bytes, read: bool = True) -> Iterator[list[bytes]]:
    """One that gives these answers, one per connection, the last one for ever; what it was told."""
    told: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(sockets.submit_socket(light.state)))
        listener.listen()

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        said = b""
                        while read and not said.endswith(END) and (piece := connection.recv(1 << 16)):
                            said += piece
                        told.append(said)
                        connection.sendall(answers[min(len(told), len(answers)) - 1])

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield told
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def dropped(light: Light) -> list[Path]:
    """The messages in the folder."""
    return [path for path in (light.pickup / "new").iterdir() if not path.name.endswith(".json")]


def test_the_daemons_word_is_enough(light: Light) -> None:
    """It says the queue id; nothing stands in the folder."""
    with daemon(light, b'{"status": 0, "queue_id": "abc", "duplicate": true}\n') as told:
        assert hand_over(OPTIONS, MAIL, light) == Handed("abc", duplicate=True)
    assert not dropped(light)
    (said,) = told
    line, _, rest = said.partition(b"\n")
    assert json.loads(line)["recipients"] == ["b@y"]
    assert rest == len(MAIL).to_bytes(4, "big") + MAIL + END


def test_a_refusal_is_final_and_its_words_are_kept(light: Light) -> None:
    """What the daemon does not want must not come in by the other door."""
    refusal = b'{"status": 65, "reason": "no recipient", "hint": "name one", "again": false}\n'
    for read in (True, False):  # also where it refuses before it has read anything
        with daemon(light, refusal, read=read), pytest.raises(NotHandedError, match="no recipient") as caught:
            hand_over(OPTIONS, MAIL + b"x" * 3_000_000, light)
        assert (caught.value.status, caught.value.hint) == (os.EX_DATAERR, "name one")
        sockets.submit_socket(light.state).unlink()
    assert not dropped(light)


def test_a_busy_daemon_is_asked_again(light: Light) -> None:
    """With pauses that differ from client to client, under the same key."""
    pauses: list[float] = []
    with daemon(light, BUSY, BUSY, BUSY, b'{"status": 0, "queue_id": "abc"}\n') as told:
        assert hand_over(OPTIONS, MAIL, light, pauses.append).queue_id == "abc"
    assert len(pauses) == 3
    assert all(0 <= pause < 1 for pause in pauses)
    assert len({json.loads(said.partition(b"\n")[0])["key"] for said in told}) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\n",
        b"{",
        b"[]\n",
        b"\xff\n",
        b'{"status": 0}\n',
        b'{"status": 0, "queue_id": 1}\n',
        b'{"status": 300, "reason": "x", "again": false}\n',
        b'{"status": 65}\n',
        b'{"status": 76, "reason": "another version", "hint": "", "again": false}\n',
        BUSY,
    ],
)
def test_where_nothing_was_said_the_folder_takes_it(light: Light, answer: bytes) -> None:
    """A daemon that died, that is of another version, or that stays busy; the key is the one it was told."""
    with daemon(light, answer) as told:
        assert hand_over(OPTIONS, MAIL, light, lambda _: None) == Handed("")
    (file,) = dropped(light)
    assert file.read_bytes() == MAIL
    sidecar = json.loads(file.with_name(f"{file.name}.env.json").read_text())
    assert sidecar["rcpt_to"] == ["b@y"]
    assert sidecar["idempotency_key"] == json.loads(told[0].partition(b"\n")[0])["key"]


def test_a_socket_left_behind_is_no_daemon(light: Light) -> None:
    """After SIGKILL the name is still there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left_behind:
        left_behind.bind(str(sockets.submit_socket(light.state)))
    assert hand_over(OPTIONS, MAIL, light) == Handed("")


def test_every_message_has_a_key_of_its_own(light: Light) -> None:
    """Two equal messages are two messages."""
    hand_over(OPTIONS, MAIL, light)
    hand_over(OPTIONS, MAIL, light)
    assert len(dropped(light)) == 2


# -- durability ----------------------------------------------------------------------------------------------------


def recorded(monkeypatch: pytest.MonkeyPatch, fail_at: int = -1) -> list[str]:
    """What is asked of the disk, in order; the call of this number fails."""
    calls: list[str] = []
    names: dict[int, str] = {}
    really: dict[str, Callable[..., object]] = {name: getattr(os, name) for name in ("open", "fsync", "rename")}

    def counted(call: str) -> None:
        calls.append(call)
        if len(calls) - 1 == fail_at:
            raise OSError(28, "No space left on device")

    def opened(path: object, *given: object, **more: object) -> object:
        descriptor = really["open"](path, *given, **more)
        names[int(str(descriptor))] = "folder" if str(path) in (".",) else str(path)
        return descriptor

    def fsync(descriptor: int) -> None:
        counted(f"fsync {names[descriptor]}")
        really["fsync"](descriptor)

    def rename(old: str, new: str, **more: int) -> None:
        counted(f"rename {old}")
        really["rename"](old, new, **more)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    return calls


def test_the_sidecar_comes_first_and_both_survive_a_power_cut(light: Light, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content before the name, the name before the next file, and nothing is left to the kernel's leisure."""
    calls = recorded(monkeypatch)
    drop(light.pickup, "m", MAIL, Envelope("a@x", ("b@y",)), "k")
    assert calls == [
        "fsync m.env.json", "rename m.env.json", "fsync m.env.json", "fsync folder",
        "fsync m", "rename m", "fsync m", "fsync folder",
    ]  # fmt: skip


@pytest.mark.parametrize("fail_at", range(8))
def test_a_failure_leaves_nothing(light: Light, monkeypatch: pytest.MonkeyPatch, fail_at: int) -> None:
    """Neither file, in neither folder, at whichever step: the caller is told and keeps the message."""
    with monkeypatch.context() as patch:
        recorded(patch, fail_at)
        with pytest.raises(OSError, match="No space left"):
            drop(light.pickup, "m", MAIL, Envelope("a@x", ("b@y",)), "k")
    assert [path for folder in ("tmp", "new") for path in (light.pickup / folder).iterdir()] == []


def test_a_failure_after_the_daemon_took_it_is_none(light: Light, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told that it failed, the caller would hand in what is sent already."""
    with monkeypatch.context() as patch:
        calls = recorded(patch, 6)
        counted = os.fsync

        def taken(descriptor: int) -> None:
            if len(calls) == 6:
                for name in ("m", "m.env.json"):
                    (light.pickup / "new" / name).unlink()
            counted(descriptor)

        patch.setattr(os, "fsync", taken)
        drop(light.pickup, "m", MAIL, Envelope("a@x", ("b@y",)), "k")
    assert len(calls) == 7
