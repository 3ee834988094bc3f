"""The unit and what belongs to it: judged by systemd's own tools, without a running systemd."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import require

FILES = Path(__file__).parents[1] / "systemd"
UNIT = FILES / "mailrelayd.service"


def tool(name: str) -> str:
    """The path of one of systemd's tools, without which the test is skipped; in CI it has to be there."""
    require("systemd-analyze")  # the one that is always there with the others
    return str(shutil.which(name))


def settings() -> dict[str, list[str]]:
    """Every setting of the unit with its values, in order."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that exists here."""
    copy = tmp_path / "mailrelayd.service"
    copy.write_text(UNIT.read_text().replace("/usr/bin/mailrelayd", "/bin/true"))
    return copy


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=60)


def test_systemd_understands_every_line(unit: Path) -> None:
    """systemd-analyze verify has nothing to say, not even a warning."""
    result = run(tool("systemd-analyze"), "verify", "--man=no", f"./{unit.name}", cwd=unit.parent)

    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_exposure_is_at_most_one_and_a_half(unit: Path) -> None:
    """systemd-analyze security gives at most 1.5 of 10."""
    command = (tool("systemd-analyze"), "security", "--offline=true", "--threshold=15", "--no-pager", f"./{unit.name}")
    result = run(*command, cwd=unit.parent)

    assert result.returncode == 0, result.stdout[-300:]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Type", ["notify"]),  # notify-reload is unknown to systemd 252
        ("ExecStart", ["/usr/bin/mailrelayd run"]),
        ("ExecReload", ["/usr/bin/mailrelayd reload"]),
        ("Restart", ["always"]),
        ("RestartPreventExitStatus", ["64 78"]),
        ("StartLimitIntervalSec", ["0"]),
        ("ReadWritePaths", ["/var/spool/mailrelayd"]),  # two would be two mounts
        ("LimitCORE", ["0"]),
        ("UMask", ["0027"]),
        ("User", ["mailrelayd"]),
    ],
)
def test_what_the_daemon_relies_on(name: str, values: list[str]) -> None:
    """The settings that the daemon's promises rest on are there, once."""
    assert settings()[name] == values


@pytest.mark.parametrize("name", ["DynamicUser", "PrivateUsers", "SupplementaryGroups"])
def test_what_the_unit_must_not_say(name: str) -> None:
    """Settings that would close the pickup folder, hide its users, or be false without the group are absent."""
    assert name not in settings()


def test_folders_with_the_setgid_bit_can_be_made() -> None:
    """The daemon makes folders of mode 2770 and 3730 and gives them to a group, which two filters would forbid."""
    assert settings()["RestrictSUIDSGID"] == ["no"]
    assert settings()["SystemCallFilter"][-1] == "@chown"


def test_a_missing_credential_does_not_keep_the_unit_from_starting() -> None:
    """A missing source is excused by systemd only where a SetCredential= of the same name stands in."""
    (load,) = settings()["LoadCredential"]
    (stand_in,) = settings()["SetCredential"]

    name, _, folder = load.partition(":")
    assert stand_in.startswith(f"{name}:") and len(stand_in) > len(name) + 1
    assert f" {folder} " in (FILES / "mailrelayd.tmpfiles.conf").read_text()


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A root directory in which sysusers.d and tmpfiles.d were applied."""
    sysusers, tmpfiles = tool("systemd-sysusers"), tool("systemd-tmpfiles")
    if os.geteuid() != 0:
        pytest.skip("only root can give folders to others")
    (tmp_path / "etc").mkdir()
    for command, arguments, file in (
        (sysusers, (), "mailrelayd.sysusers.conf"),
        (tmpfiles, ("--create",), "mailrelayd.tmpfiles.conf"),
    ):
        result = run(command, f"--root={tmp_path}", *arguments, str(FILES / file), cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    return tmp_path


def test_the_daemon_is_a_member_of_the_pickup_group(installed: Path) -> None:
    """sysusers.d makes the user with its own group, without a shell, and puts it into mailspool."""
    users = [line.split(":") for line in (installed / "etc/passwd").read_text().splitlines()]
    groups = {line.split(":")[0]: line.split(":")[3] for line in (installed / "etc/group").read_text().splitlines()}

    (user,) = users
    assert (user[0], user[5], user[6]) == ("mailrelayd", "/var/lib/mailrelayd", "/usr/sbin/nologin")
    assert groups == {"mailspool": "mailrelayd", "mailrelayd": ""}


@pytest.mark.parametrize(
    ("folder", "mode", "owner", "group"),
    [
        ("/etc/mailrelayd", 0o755, "root", "root"),
        ("/etc/mailrelayd/conf.d", 0o755, "root", "root"),
        ("/etc/mailrelayd/credentials", 0o700, "root", "root"),
        ("/var/spool/mailrelayd", 0o755, "mailrelayd", "mailrelayd"),
        ("/var/spool/mailrelayd/pickup", 0o3730, "mailrelayd", "mailspool"),
        ("/var/spool/mailrelayd/pickup/tmp", 0o3730, "mailrelayd", "mailspool"),
        ("/var/spool/mailrelayd/pickup/new", 0o3730, "mailrelayd", "mailspool"),
        ("/var/spool/mailrelayd/queue", 0o700, "mailrelayd", "mailrelayd"),
        ("/var/spool/mailrelayd/failed", 0o700, "mailrelayd", "mailrelayd"),
        ("/var/spool/mailrelayd/sent", 0o700, "mailrelayd", "mailrelayd"),
        ("/var/lib/mailrelayd", 0o711, "mailrelayd", "mailrelayd"),
    ],
)
def test_folders_have_their_owners_and_modes(installed: Path, folder: str, mode: int, owner: str, group: str) -> None:
    """tmpfiles.d makes each folder as the daemon and the producers need it."""

    def number(file: str, name: str) -> int:
        lines = [line.split(":") for line in (installed / "etc" / file).read_text().splitlines()]
        return next((int(fields[2]) for fields in lines if fields[0] == name), 0)  # root is not listed there

    status = (installed / folder.lstrip("/")).stat()
    assert status.st_mode & 0o7777 == mode
    assert (status.st_uid, status.st_gid) == (number("passwd", owner), number("group", group))
