"""`mailrelayd reply explain`, as a user calls it."""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from mailrelayd.cli import reply
from mailrelayd.config.light import DEFAULT_CONFIG

APPROVED = b"From: a@b\nSubject: Re: x\n\nApproved, thanks!\n\nOn 2026-11-21 10:00, Ann wrote:\n> Approve or Reject\n"


def explain(*words: str, config: Path = DEFAULT_CONFIG) -> int:
    parser = argparse.ArgumentParser()
    common = argparse.ArgumentParser(add_help=False)
    reply.register(parser.add_subparsers(), common)
    arguments = parser.parse_args(["reply", "explain", *words])
    arguments.config = config
    return int(arguments.run(arguments))


def told(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_one_json_line_per_mail_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With exactly the keys that are documented, without configuration or daemon."""
    (tmp_path / "a.eml").write_bytes(APPROVED)
    (tmp_path / "b.eml").write_bytes(b"From: a@b\nAuto-Submitted: auto-replied\n\nApproved")
    (tmp_path / "c.eml").write_bytes(b"\0\xff")
    names = [str(tmp_path / name) for name in ("a.eml", "b.eml", "c.eml")]
    assert explain(*names) == 0
    first, second, third = told(capsys)
    assert set(first) == {"file", "kind", "decision", "comment", "reason", "new_text", "rules"}
    assert [one["file"] for one in (first, second, third)] == names
    assert (first["kind"], first["decision"], first["new_text"]) == ("reply", "approved", "Approved, thanks!")
    assert (second["kind"], second["decision"]) == ("auto-reply", None)
    assert (third["kind"], third["decision"]) == ("unreadable", None)
    assert all(isinstance(rule, str) for one in (first, second, third) for rule in one["rules"])


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`-`, as in a pipe."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(APPROVED)))
    assert explain("-") == 0
    assert told(capsys)[0]["file"] == "-"


def test_a_file_that_cannot_be_read_does_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is named on stderr, and the exit status says so."""
    (tmp_path / "a.eml").write_bytes(APPROVED)
    assert explain(str(tmp_path / "missing.eml"), str(tmp_path), str(tmp_path / "a.eml")) == 66
    output = capsys.readouterr()
    assert json.loads(output.out)["decision"] == "approved"
    assert "missing.eml: No such file or directory" in output.err
    assert "Is a directory" in output.err


def test_a_configuration_that_is_named_but_missing_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the default one may be absent."""
    assert explain("-", config=tmp_path / "missing.toml") == 78
    assert "missing.toml" in capsys.readouterr().err


def test_words_of_the_configuration_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """[approvals] approve and the other options of reading."""
    config = tmp_path / "mailrelayd.toml"
    config.write_text(
        '[approvals]\nenabled = false\nsender_check = "token-only"\nreply_address = "approvals@example.com"\n'
        'approve = ["ok"]\nrequire_bare_approval = true\n'
    )
    (tmp_path / "a.eml").write_bytes(b"From: a@b\n\nOK, thanks\n")
    (tmp_path / "b.eml").write_bytes(b"From: a@b\n\nApproved\nGood work.\n")
    assert explain(str(tmp_path / "a.eml"), str(tmp_path / "b.eml"), config=config) == 0
    assert [one["decision"] for one in told(capsys)] == ["approved", "unclear"]
