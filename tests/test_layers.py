"""The architecture, read from the source: who may import whom, and who may touch the world."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import mailrelayd

ROOT = Path(mailrelayd.__file__).parent
_PURE = {  # package -> modules
    "": "causes sasl value",
    "alerts": "letter tally",
    "approvals": "authres bodies bounces charsets clients cms document htmlmarks htmltext judge kinds lexicon listing "
    "memory mime newtext quotation reading receipts reminders request token tokens values verdict vocabulary words",
    "causes": "google microsoft network rules servers tokens",
    "config": "claims editing javamail javatext lines literals properties units",
    "diagnose": "authserv certificate facts findings prospect speech steps token trust",
    "inbound": "answers backlog names protocols values wire",
    "oauth": "administration claims expiry grants providers values",
    "operate": "spelling",
    "outbound": "addresses answers asking attach barenames copies delivery dsn envelope exchange guard handin headers "
    "idset journal marking pace pipeline queueid record submission values waiting wire",
}
PURE = {f"{package}.{name}".strip(".") for package, names in _PURE.items() for name in names.split()}
WORLD = {"asyncio", "logging", "os", "pathlib", "random", "secrets", "socket", "subprocess", "threading", "time"}
LOOPS = {
    *(
        "answers",
        "office",
        "terms",
        "alerts.bell",
        "approvals.desk",
        "approvals.ledger",
        "approvals.outbox",
        "approvals.questions",
        "inbound.poller",
    ),
    *("outbound.pickup", "outbound.relay", "outbound.route"),
}
# Each level may import itself and the ones before it; what is not named does IO.
LEVELS = ("pure", "leaf", "io", "loop", "daemon", "cli")
# The demonstration plays a producer, a smarthost and a person, all in a folder of its own: programs that are not ours.
DEMO = {"cli.demo", *(f"demo.{path.stem}" for path in (ROOT / "demo").glob("*.py"))}
LIBRARIES = {  # each behind one module, so that its surprises are met in one place
    "aioimaplib": {"inbound.connection"},
    "aiosmtpd": DEMO,
    "aiosmtplib": {"outbound.smtp"},
    "authlib": {"oauth.flows", "oauth.proof"},
    "cryptography": {"oauth.proof"},
    "dkim": {"approvals.dkim"},
    "dns": {"approvals.dkim"},
    "httpx2": {"alerts.ping", "approvals.webhook", "oauth.flows"},
    "joserfc": {"oauth.proof"},
    "shtab": {"cli.completion"},
    "structlog": {"operate.log"},
    "tenacity": {"inbound.poller", "outbound.route"},
    "tomlkit": {"config.editing"},
}
TELL_TIME = {"time.time", "time.monotonic", "time.clock_gettime", "time.clock_gettime_ns", "time.monotonic_ns"}
TELL_TIME |= {"datetime.now", "datetime.utcnow", "date.today", "loop.time", "_loop.time"}
WRITE = {"write_text", "write_bytes", "rename", "renames", "unlink", "rmdir", "mkdir", "touch", "makedirs", "rmtree"}
WRITE |= {"O_CREAT", "mkstemp", "mkdtemp"}
EXCEPTIONS = {  # who does what only one module should do, and why
    ("clock", "time.time"): "the only module that tells time",
    ("clock", "time.clock_gettime"): "the only module that tells time",
    ("config.secrets", "time.monotonic"): "a deadline for a child process, before there is a clock",
    ("operate.notify", "time.clock_gettime_ns"): "systemd wants CLOCK_MONOTONIC of this very moment",
    ("approvals.archive", "rmdir"): "folders that are empty: of days long ago",
    ("dial", "loop.time"): "deadlines on a socket, which asyncio measures in its own time",
    ("inbound.connect", "loop.time"): "deadlines on a socket, which asyncio measures in its own time",
    ("outbound.session", "_loop.time"): "deadlines on a socket, which asyncio measures in its own time",
    ("outbound.smtp", "loop.time"): "deadlines on a socket, which asyncio measures in its own time",
    ("cli.status", "time.time"): "how long ago, for the person who asks",
    ("operate.control", "unlink"): "the socket, which is no file",
    ("outbound.intake", "unlink"): "the socket, which is no file",
    ("outbound.drop", "O_CREAT"): "the producer's side of a folder that its members cannot open",
    ("outbound.drop", "rename"): "the producer's side of a folder that its members cannot open",
    ("outbound.drop", "unlink"): "the producer's side of a folder that its members cannot open",
}


@cache
def modules() -> dict[str, ast.Module]:
    """Every module by its name below mailrelayd ("" is the package itself)."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = ast.parse(path.read_text())
    return found


def imports(name: str) -> Iterator[str]:
    """What a module imports, anywhere in it: ours as names below mailrelayd, others' by their first word."""
    for node in ast.walk(modules()[name]):
        match node:
            case ast.Import(names=names):
                whole = [alias.name for alias in names]
            case ast.ImportFrom(module=module, names=names):
                deeper = [f"{module}.{alias.name}" for alias in names]
                whole = [one if one.removeprefix("mailrelayd.") in modules() else str(module) for one in deeper]
            case _:
                continue
        for one in whole:
            first, _, rest = one.partition(".")
            yield rest if first == "mailrelayd" else first


def ours(name: str) -> set[str]:
    return {one for one in imports(name) if one in modules() and one}


def level(name: str) -> int:
    if name in PURE:
        word = "pure"
    elif name == "daemon" or name in LOOPS:
        word = "loop" if name in LOOPS else name
    elif name.startswith(("cli", "demo")) or name == "__main__":
        word = "cli"
    else:
        word = "leaf" if name.startswith(("config", "operate", "clock", "durable")) else "io"
    return LEVELS.index(word)


def named(wanted: set[str]) -> Iterator[tuple[str, str]]:
    """(module, name) of every use of one of these names, as `receiver.name` or as `name`."""
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                receiver = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
                yield from ((name, word) for word in (node.attr, f"{receiver}.{node.attr}") if word in wanted)


def test_pure_modules_touch_nothing_and_import_nothing_that_does() -> None:
    """What decides has no clock, no disk, no socket and no loop, directly or through anything it imports."""
    for name in PURE:
        assert not WORLD & set(imports(name)), name
        assert ours(name) <= PURE, name


def test_imports_point_one_way() -> None:
    """cli -> daemon -> loops -> IO -> leaves -> pure, and the relay knows the queue only by its protocol."""
    wrong = [(name, one) for name in modules() for one in ours(name) if level(one) > level(name)]
    assert wrong == []
    assert "outbound.spool" not in ours("outbound.relay") | ours("outbound.route")
    assert not any(one.startswith("operate") for name in modules() if name.startswith("config") for one in ours(name))


def test_there_are_no_import_cycles() -> None:
    """Every module can be understood after the ones it imports, and before those that import it."""
    rest = {name: ours(name) - {name} for name in modules()}
    while free := [name for name, needs in rest.items() if not needs & rest.keys()]:
        for name in free:
            del rest[name]
    assert rest == {}


def test_each_library_stays_behind_its_module() -> None:
    """One place knows what is wrong with a library."""
    for library, allowed in LIBRARIES.items():
        assert {name for name in modules() if library in imports(name)} <= allowed, library


def test_time_is_told_by_the_clock_only() -> None:
    """Everything else is given a clock, or says here why not."""
    assert {(name, word) for name, word in named(TELL_TIME) if name not in DEMO} - EXCEPTIONS.keys() == set()


def test_files_are_written_by_durable_only() -> None:
    """Whatever else changes the disk says here why a crash in the middle of it does no harm."""
    others = modules().keys() - DEMO - {"durable"}
    assert {(name, word) for name, word in named(WRITE) if name in others} - EXCEPTIONS.keys() == set()
    for name in others:
        for call in (node for node in ast.walk(modules()[name]) if isinstance(node, ast.Call)):
            if getattr(call.func, "id", getattr(call.func, "attr", "")) == "open":
                modes = {word.value for word in call.args if isinstance(word, ast.Constant)}
                assert not modes & {"w", "wb", "a", "ab", "x", "xb", "r+", "r+b"}, f"{name}:{call.lineno}"


def test_every_exception_is_still_needed() -> None:
    """The table of exceptions only shrinks by itself."""
    assert EXCEPTIONS.keys() - set(named(TELL_TIME)) - set(named(WRITE)) == set()
