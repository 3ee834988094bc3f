"""What a reload says it changed: keys with their values, sections by their names, secrets never."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailrelayd.config.changes import changes
from mailrelayd.config.load import load
from mailrelayd.config.settings import Settings

SINK = "[[decisions]]\nname = '{}'\nmatch = '*'\nproducers = ['a']\napprovers = ['*']\n"
ACCOUNT = '[outbound.x]\nhost = "h"\nuser = "u"\npassword = "{}"\n'
OAUTH = '[outbound.x.oauth]\nclient_id = "c"\ntenant_id = "t"\nclient_secret = "{}"\n'
TOKEN = '[outbound.x]\nhost = "h"\nuser = "u"\n' + OAUTH
ASKING = "[approvals]\nenabled = false\nsubject_tag = true\n"
FROM = "[inbound_defaults]\nprocess_after = 2026-01-01T00:00:00Z\n"


def settings(folder: Path, text: str) -> Settings:
    path = folder / "mailrelayd.toml"
    path.write_text(text)
    return load(path, {}, check_files=False).settings


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("", "", []),
        ("", "[retry]\nprobe = '1m'\n", ['changed retry.probe: "30s" -> "1m"']),
        ("", "[spool]\nsettle = '2000ms'\n", []),
        ("[log]\nsyslog = true\n", "", ['changed log.syslog: "/dev/log" -> ""']),
        ("", "[guard]\ndry_run = true\n", ["changed guard.dry_run: false -> true"]),
        ("", ACCOUNT.format("file:/p"), ["added outbound.x"]),
        (ACCOUNT.format("file:/p"), "", ["removed outbound.x"]),
        (ACCOUNT.format("hunter2"), ACCOUNT.format("file:/p"), ["changed outbound.x.password"]),
        (ACCOUNT.format("p"), ACCOUNT.format("p") + "port = 25\n", ["changed outbound.x.port: 587 -> 25"]),
        (TOKEN.format("hunter2"), TOKEN.format("hunter3"), ["changed outbound.x.oauth.client_secret"]),
        (ACCOUNT.format("p"), ACCOUNT.format("p") + OAUTH.format("s"), ["added outbound.x.oauth"]),
        (ASKING + 'secret = ["hunter2"]\n', ASKING, ["changed approvals.secret"]),
        ("", "[pickup.erp]\n", ["added pickup.erp"]),
        (SINK.format("a"), SINK.format("a") + SINK.format("b"), ["added decisions[2]"]),
        (SINK.format("a"), SINK.format("b"), ['changed decisions[1].name: "a" -> "b"']),
        ("", SINK.format("a"), ["added decisions"]),
        (
            "[inbound_defaults]\nprocess_after = 2026-01-01T00:00:00Z\n",
            "",
            ["changed inbound_defaults.process_after: "],
        ),
    ],
)
def test_each_difference_is_told_once(tmp_path: Path, before: str, after: str, said: list[str]) -> None:
    """With both values as the file would write them."""
    found = [str(change) for change in changes(settings(tmp_path, before), settings(tmp_path, after))]
    assert [one[: len(start)] for one, start in zip(found, said, strict=False)] == said
    assert len(found) == len(said)
    assert "hunter" not in str(found)
    assert "***" not in str(found)
    back = [change.key for change in changes(settings(tmp_path, after), settings(tmp_path, before))]
    assert back == [change.key for change in changes(settings(tmp_path, before), settings(tmp_path, after))]


def test_a_command_that_fetches_tokens_is_not_shown(tmp_path: Path) -> None:
    """Its arguments may be a secret."""
    text = '[outbound.x]\nhost = "h"\nuser = "u"\n[outbound.x.oauth]\ntoken_command = ["/bin/x", "{}"]\n'
    (change,) = changes(settings(tmp_path, text.format("hunter2")), settings(tmp_path, text.format("hunter3")))
    assert str(change) == "changed outbound.x.oauth.token_command"


def test_an_address_that_is_a_secret_of_a_kind_is_not_shown(tmp_path: Path) -> None:
    """Whoever knows the ping's address can say that all is well."""
    path = tmp_path / "mailrelayd.toml"
    settings = []
    for word in ("first", "second"):
        path.write_text(f'[alerts]\nping_url = "https://hc.example.com/{word}"\n')
        settings.append(load(path, {}).settings)
    assert list(map(str, changes(*settings))) == ["changed alerts.ping_url"]
