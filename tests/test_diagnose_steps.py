"""What steps come to: an exit status, a document, lines for people."""

from __future__ import annotations

import json

import pytest

from mailrelayd.diagnose.steps import REFUSED, UNAVAILABLE, Outcome, Step, as_json, exit_status, lines

OK = Step("outbound.a", "dns", Outcome.OK, "it is there")
WARNING = Step("outbound.a", "certificate", Outcome.WARNING, "ends soon", "It ends.", "Renew it.")
TCP = Step("outbound.a", "tcp", Outcome.FAILED, "refused", "Nobody listens.", "Correct port.", "outbound.a.port", 69)
LOGIN = Step("outbound.a", "login", Outcome.FAILED, "535", "Wrong.", "Correct it.", "outbound.a.password", REFUSED)
SKIPPED = Step("outbound.a", "login", Outcome.SKIPPED, "not tried", cause="nobody is told this")


@pytest.mark.parametrize(
    ("steps", "status"),
    [
        ([], 0),
        ([OK, WARNING, SKIPPED], 0),
        ([OK, TCP, LOGIN], UNAVAILABLE),
        ([LOGIN, TCP], REFUSED),
        ([Step("a", "b", Outcome.FAILED, "without a class")], 75),
    ],
)
def test_the_first_failure_decides(steps: list[Step], status: int) -> None:
    """The exit status is its class; warnings and what was skipped are no failures."""
    assert exit_status(steps) == status


def test_the_document_holds_everything() -> None:
    """It is JSON, counts the outcomes, and has every field of every step."""
    document = json.loads(json.dumps(as_json([OK, WARNING, TCP, SKIPPED])))
    assert (document["ok"], document["status"]) == (False, UNAVAILABLE)
    assert document["counts"] == {"ok": 1, "warning": 1, "failed": 1, "skipped": 1}
    assert document["steps"][2] == {
        "account": "outbound.a",
        "name": "tcp",
        "outcome": "failed",
        "text": "refused",
        "cause": "Nobody listens.",
        "cure": "Correct port.",
        "setting": "outbound.a.port",
        "status": 69,
        "command": "",
        "data": {},
    }
    assert as_json([OK])["ok"] is True


def test_lines_for_people() -> None:
    """The outcome first; below it, where something is wrong, cause, cure and setting."""
    assert list(lines(OK, 80)) == ["ok      outbound.a dns: it is there"]
    assert list(lines(SKIPPED, 80)) == ["skipped outbound.a login: not tried"]
    assert list(lines(TCP, 80)) == [
        "failed  outbound.a tcp: refused",
        "        cause: Nobody listens.",
        "        cure: Correct port.",
        "        setting: outbound.a.port",
    ]


def test_the_place_of_the_setting_stands_behind_it() -> None:
    """Whoever has to change it need not look for it."""
    step = Step("a", "b", Outcome.FAILED, "text", setting="a.port", data={"origin": "/etc/m.toml:12"})
    assert list(lines(step, 80))[-1] == "        setting: a.port (/etc/m.toml:12)"


def test_lines_fit_and_commands_stay_whole() -> None:
    """Text is wrapped at the width; a line to run by hand, and any one word, is never broken."""
    command = "openssl s_client -connect " + "x" * 100
    step = Step("outbound.a", "tls", Outcome.WARNING, "word " * 40, "cause " * 30, command=command)
    printed = list(lines(step, 60))
    assert f"        by hand: {command}" in printed
    assert all(len(line) <= 60 for line in printed if "openssl" not in line)
    assert all(line.startswith("        ") for line in printed[1:])
    assert " ".join(" ".join(printed).split()).count("word") == 40
