"""What the composition adds: how a connection is opened, and what must not get out by it."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from mailrelayd import daemon
from mailrelayd.config.load import load
from mailrelayd.outbound import smtp
from mailrelayd.outbound.smtp import RouteTrouble
from mailrelayd.outbound.values import Response, Stage

PASSWORD = "hunter22-secret"


async def test_a_password_that_a_server_repeats_is_masked_wherever_the_answer_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some servers quote the line they did not understand; status and STATUS= show it without the log's masking."""
    file = tmp_path / "mailrelayd.toml"
    file.write_text(
        f'[state]\ndirectory = "{tmp_path}"\n[outbound.test]\nhost = "localhost"\n'
        f'user = "relay"\npassword = "text:{PASSWORD}"\n'
    )
    settings = load(file, {}).settings
    assert settings.account is not None
    encoded = base64.b64encode(PASSWORD.encode()).decode()

    async def refuse(*_: Any, **__: Any) -> None:
        text = f'Command unrecognized: "{encoded}" ({PASSWORD})'
        raise RouteTrouble(Response(Stage.AUTH, 500, "5.5.1", text))

    monkeypatch.setattr(smtp, "connect", refuse)
    with pytest.raises(RouteTrouble) as caught:
        await daemon.opener(settings.account, settings, "relay1")()
    shown = str(caught.value.response)
    assert PASSWORD not in shown
    assert encoded[:-3] not in shown
    assert shown.startswith("500 5.5.1 Command unrecognized")
