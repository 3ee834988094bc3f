"""The folders that producers meet: who made them, whose they are, and what each user can do in them, by trying."""

from __future__ import annotations

import grp
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mailrelayd.config.relaying import PickupFolder, Spool, State
from mailrelayd.config.settings import Settings
from mailrelayd.folders import prepare_folders
from mailrelayd.outbound.spool import SpoolError
from tests.servers.daemon import account
from tests.servers.process import short_directory

ROOT = os.getuid() == 0
as_root = pytest.mark.skipif(not ROOT, reason="needs root, to become several users")
MAILSPOOL = 50_001  # a number is enough; a group of the configuration has a name: see `erp_group`
DAEMON = 65534


def settings(directory: Path, *, results: bool = False, **pickup: PickupFolder) -> Settings:
    return Settings(
        spool=Spool(directory=directory / "spool", results=results),
        state=State(directory=directory / "state"),
        pickup=pickup,
    )


def erp_group() -> grp.struct_group:
    """Some group of this machine that has a name and no rights anywhere near."""
    return grp.getgrnam("games") if ROOT else grp.getgrgid(os.getgid())


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user may walk through."""
    with short_directory("mr-folders") as path:
        path.chmod(0o755)
        yield path


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_nobody_who_writes_there_can_stand_in_the_way(place: Path) -> None:
    """The trial file's name cannot be known before: a folder under it would keep the daemon from every reload."""
    prepare_folders(settings(place))
    pickup = place / "spool" / "pickup"
    guessed = {f".probe-{os.getpid()}", f".tmp-.probe-{os.getpid()}", ".tmp-probe", ".probe"}
    for name in guessed:
        (pickup / name).mkdir()
    prepare_folders(settings(place))
    assert {path.name for path in pickup.iterdir()} == guessed | {"tmp", "new"}
    assert list((place / "spool" / "queue").iterdir()) == []


@as_root
@pytest.mark.parametrize("name", ["new", "tmp"])
@pytest.mark.parametrize("made", ["folder", "link", "link to nothing"])
def test_a_folder_that_somebody_else_put_there_is_not_used(place: Path, name: str, made: str) -> None:
    """Where new/ is missing, a member of the group may make one: a link to sent/ would have all of that sent again."""
    prepare_folders(settings(place))
    path = place / "spool" / "pickup" / name
    path.rmdir()
    if made == "folder":
        path.mkdir()
    else:
        path.symlink_to(place / "spool" / "queue" if made == "link" else place / "nothing")
    os.chown(path, 4711, -1, follow_symlinks=False)
    with pytest.raises(
        SpoolError, match=rf"/pickup/{name} is not a folder of the daemon's user but something that 4711"
    ):
        prepare_folders(settings(place))


def test_a_producers_folders_are_made_and_kept_right(place: Path) -> None:
    """Mode 3730 and the configured group, at the first start and after somebody changed them."""
    group = erp_group()
    wanted = settings(place, erp=PickupFolder(group=group.gr_name), shop=PickupFolder())
    prepare_folders(wanted)
    pickup = place / "spool" / "pickup"
    top = pickup / "erp"
    for path in (top, top / "tmp", top / "new"):
        assert (mode(path), path.stat().st_gid) == (0o3730, group.gr_gid)
    for path in (pickup / "shop", pickup / "shop" / "new", pickup):
        assert (mode(path), path.stat().st_gid) == (0o3730, pickup.stat().st_gid)
    top.chmod(0o777)
    (top / "tmp").rmdir()
    prepare_folders(wanted)
    assert mode(top) == mode(top / "tmp") == 0o3730


def test_a_group_that_does_not_exist_is_named_with_its_key(place: Path) -> None:
    """Guessing another group would open the folder to the wrong people."""
    with pytest.raises(SpoolError, match=r"pickup\.erp\.group: this machine has no group nosuch-1: groupadd"):
        prepare_folders(settings(place, erp=PickupFolder(group="nosuch-1")))
    assert not (place / "spool/pickup/erp").exists()


@pytest.mark.parametrize("make", ["folder", "link", "file", "inner"])
@as_root
def test_what_somebody_else_put_there_is_not_taken_for_ours(place: Path, make: str) -> None:
    """A member of mailspool may make any name in pickup/ first; its owner could read and remove what comes."""
    prepare_folders(settings(place))
    top = place / "spool/pickup/erp"
    if make == "link":
        top.symlink_to("/tmp")
        os.chown(top, 7001, 7001, follow_symlinks=False)
    else:
        if make == "file":
            top.write_bytes(b"")
        else:
            top.mkdir()
        if make == "inner":
            top = top / "new"
            top.mkdir()
        os.chown(top, 7001, 7001)
    with pytest.raises(
        SpoolError, match=r"pickup\.erp: .*/pickup/erp.* is not a folder of the daemon's user"
    ) as caught:
        prepare_folders(settings(place, erp=PickupFolder()))
    assert "7001" in str(caught.value)


MEMBERSHIP = """
import sys
from pathlib import Path
from mailrelayd.config.relaying import PickupFolder, Spool, State
from mailrelayd.config.settings import Settings
from mailrelayd.folders import prepare_folders
from mailrelayd.outbound.spool import SpoolError
place = Path(sys.argv[1])
try:
    prepare_folders(Settings(
        spool=Spool(directory=place / "spool"), state=State(directory=place / "state"),
        pickup={"erp": PickupFolder(group=sys.argv[2])},
    ))
except SpoolError as error:
    print(error)
else:
    print(oct((place / "spool/pickup/erp/new").stat().st_mode), (place / "spool/pickup/erp/new").stat().st_gid)
"""


@as_root
@pytest.mark.parametrize("member", [False, True])
def test_the_daemon_must_be_a_member_of_the_group(place: Path, member: bool) -> None:
    """As an ordinary user it can give a folder only to groups of its own; else it says what to do."""
    if account().uid == 0:
        pytest.skip(account().reason)
    group = erp_group()
    account().own(place)
    command = [sys.executable, "-c", MEMBERSHIP, str(place), group.gr_name]
    switch = {**account().switch, "extra_groups": [group.gr_gid] if member else []}
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/", **switch)
    if member:
        assert done.stdout.split() == ["0o43730", str(group.gr_gid)]
    else:
        assert done.stdout.startswith("pickup.erp.group: the daemon's user nobody is no member of games: usermod")


# -- who can do what: docs/producers.md has this table ------------------------------------------------------------

ATTEMPTS = """
import json, os, sys
folder = sys.argv[1]
os.chdir("/")

def attempt(name, do):
    try:
        do()
    except OSError as error:
        said[name] = False
    else:
        said[name] = True

def create():
    os.close(os.open(f"{folder}/mine-{os.getuid()}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640))

said = {}
attempt("create", create)
attempt("rename own", lambda: os.rename(f"{folder}/mine-{os.getuid()}", f"{folder}/ours-{os.getuid()}"))
attempt("list", lambda: os.listdir(folder))
attempt("read 0640", lambda: open(f"{folder}/theirs-0640").read())
attempt("read 0600", lambda: open(f"{folder}/theirs-0600").read())
attempt("write", lambda: open(f"{folder}/theirs-0640", "r+"))
attempt("link", lambda: os.link(f"{folder}/theirs-0640", f"{folder}/link-{os.getuid()}"))
attempt("rename", lambda: os.rename(f"{folder}/theirs-0640", f"{folder}/stolen"))
attempt("replace", lambda: os.rename(f"{folder}/ours-{os.getuid()}", f"{folder}/theirs-0640"))
attempt("remove", lambda: os.unlink(f"{folder}/theirs-0640"))
attempt("make a folder", lambda: os.mkdir(f"{folder}/dir-{os.getuid()}"))
attempt("remove the folder", lambda: os.rename(f"{folder}/new", f"{folder}/away"))
print(json.dumps(said))
"""

MAY = {
    "create": True,
    "rename own": True,
    "list": False,
    "read 0640": True,  # whoever knows the name: it is the group that the daemon reads by
    "read 0600": False,
    "write": False,
    "link": False,
    "rename": False,
    "replace": False,
    "remove": False,
    "make a folder": True,
    "remove the folder": False,
}
NOTHING = dict.fromkeys(MAY, False)


@as_root
def test_what_each_user_can_do_in_each_folder(place: Path) -> None:
    """A member hands in and takes nothing from others; a producer is a member in its own folder only."""
    erp = erp_group()
    prepare_folders(settings(place))
    pickup = place / "spool" / "pickup"
    folders = [pickup, pickup / "tmp", pickup / "new"]
    for path in folders:
        os.chown(path, DAEMON, MAILSPOOL)
        path.chmod(0o3730)
    # As at a later start: the folders of the spool are the daemon's, and [pickup.erp] is new.
    for name in ("erp", "erp/tmp", "erp/new"):
        (pickup / name).mkdir()
        os.chown(pickup / name, DAEMON, -1)
    prepare_folders(settings(place, results=True, erp=PickupFolder(group=erp.gr_name)))
    own = [pickup / "erp", pickup / "erp/tmp", pickup / "erp/new"]
    for path in folders + own:
        for name in ("theirs-0640", "theirs-0600"):
            (path / name).write_bytes(b"a mail")
            os.chown(path / name, 7000, path.stat().st_gid)
            (path / name).chmod(int(name[-4:], 8))
    sysctl = Path("/proc/sys/fs/protected_hardlinks")
    linkable = not sysctl.exists() or sysctl.read_text().strip() == "0"

    def tried(path: Path, uid: int, *groups: int) -> dict[str, Any]:
        command = [sys.executable, "-c", ATTEMPTS, str(path)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, user=uid, group=uid, extra_groups=groups, cwd="/"
        )
        said: dict[str, Any] = json.loads(done.stdout)
        return said

    may = {**MAY, "link": linkable}
    for path in folders:
        assert tried(path, 7001, MAILSPOOL) == may, path
        assert tried(path, 7002, erp.gr_gid) == NOTHING, path
        assert tried(path, 7003) == NOTHING, path
    for path in own:
        assert tried(path, 7004, MAILSPOOL) == NOTHING, path
        assert tried(path, 7005, erp.gr_gid) == may, path
        assert tried(path, 7006) == NOTHING, path
    assert mode(pickup) == 0o3730
