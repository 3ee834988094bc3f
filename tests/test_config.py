"""The configuration: what is read, who wins, what is refused, on which line and in which words."""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrelayd.config import lines, units
from mailrelayd.config.load import ConfigError, Loaded, diff, load, needs_restart
from mailrelayd.config.relaying import OutboundAccount
from mailrelayd.config.settings import Settings, flatten, known_keys
from mailrelayd.config.wording import name
from mailrelayd.outbound.addresses import matches, valid_pattern

SINK = "[[decisions]]\nname = 'x'\nmatch = '*'\nproducers = ['a']\napprovers = ['*']\n"
SECTIONS = "node, spool, pickup, submit, state, retry, guard, outbound, inbound_defaults, inbound, approvals, "
SECTIONS += "decisions, log, alerts"
SAMPLE = Path(__file__).parents[1] / "config" / "mailrelayd.toml"
ACCOUNT = '[outbound.smarthost]\nhost = "smtp.example.com"\n'
CREDENTIALS = 'user = "relay"\npassword = "file:/etc/mailrelayd/smtp.password"\n'
SECRET = "hunter2swordfish"


def loaded(folder: Path, text: str | bytes, environ: dict[str, str] | None = None, **more: str) -> Loaded:
    """The configuration of a folder: its main file, conf.d/NAME.toml for each further text, and variables."""
    file = folder / "mailrelayd.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    for part, content in more.items():
        (folder / "conf.d").mkdir(exist_ok=True)
        (folder / "conf.d" / f"{part}.toml").write_text(content)
    return load(file, environ or {})


def problems(folder: Path, text: str | bytes, environ: dict[str, str] | None = None, **more: str) -> list[str]:
    """What is wrong with a configuration, without the folder's name."""
    with pytest.raises(ConfigError) as caught:
        loaded(folder, text, environ, **more)
    return [problem.replace(f"{folder}/", "") for problem in caught.value.problems]


# -- durations and sizes


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("200ms", 0.2), ("2s", 2.0), ("5m", 300.0), ("1h", 3600.0), ("5d", 432000.0), ("1.5h", 5400.0), ("0s", 0.0)],
)
def test_durations_are_seconds(written: str, seconds: float) -> None:
    """Each unit means what people mean by it."""
    assert units.duration(written) == seconds


@pytest.mark.parametrize(
    "written", ["", "5", "5 minutes", "-1s", "s", "1e3s", "1w", "٣s", "99999999999d", 5, 2.0, None, True]
)
def test_what_is_no_duration_is_refused(written: object) -> None:
    """A number without a unit is no duration; the refusal shows the accepted forms or the limit."""
    with pytest.raises(ValueError, match=r"^must be a duration"):
        units.duration(written)


@pytest.mark.parametrize(
    ("written", "octets"),
    [("50MiB", 52428800), ("100kB", 100_000), ("1GB", 10**9), ("7", 7), (7, 7), ("7B", 7), ("0", 0)],
)
def test_sizes_are_bytes(written: object, octets: int) -> None:
    """kB counts in thousands, KiB in 1024s, a bare number in bytes."""
    assert units.size(written) == octets


@pytest.mark.parametrize("written", ["", "50 megs", "-1", -1, 1.5, True, None, "9999999TiB", "1_000"])
def test_what_is_no_size_is_refused(written: object) -> None:
    """Anything else is refused with the accepted forms or limits."""
    with pytest.raises(ValueError, match=r"^must be a size"):
        units.size(written)


@given(st.integers(0, 10**12))
def test_a_written_duration_reads_back(milliseconds: int) -> None:
    """Writing a duration and reading it gives the same duration, to the millisecond."""
    assert units.duration(units.write_duration(milliseconds / 1000)) == milliseconds / 1000


@given(st.integers(0, 2**63 - 1))
def test_a_written_size_reads_back(octets: int) -> None:
    """Writing a size and reading it gives the same size, to the byte."""
    assert units.size(units.write_size(octets)) == octets


# -- lines


class Writer:
    """Writes a tree as TOML in one of many styles, and notes the line of each path."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.text = ""
        self.of: dict[lines.Path, int] = {}

    def choose(self, *choices: str) -> str:
        return str(self.draw(st.sampled_from(choices)))

    def line(self) -> int:
        return self.text.count("\n") + 1

    def key(self, part: str) -> str:
        if part.isascii() and part.isalnum() and self.draw(st.booleans()):
            return part
        return '"' + part.replace("\\", "\\\\").replace('"', '\\"') + '"'

    def value(self, value: Any, path: lines.Path) -> None:
        if isinstance(value, list):
            self.text += "["
            for position, inner in enumerate(value):
                self.text += self.choose("", " ", "\n", "  # [a note]\n\n")
                self.of[(*path, position)] = self.line()
                self.value(inner, (*path, position))
                self.text += self.choose(",", " , ", "\n,")
            self.text += "]"
        elif isinstance(value, dict):
            self.text += "{"
            for count, (part, inner) in enumerate(value.items()):
                self.text += ", " if count else " "
                self.of[(*path, part)] = self.line()
                self.text += f"{self.key(part)} = "
                self.value(inner, (*path, part))
            self.text += "}"
        elif isinstance(value, str):
            plain = '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
            long = '"""\n' + value.replace("\\", "\\\\").replace('"', '\\"') + '"" \\"""""'
            self.text += plain if self.draw(st.booleans()) else long
        else:
            self.text += str(value).lower() if isinstance(value, bool) else str(value)

    def table(self, tree: dict[str, Any], path: lines.Path, header: str) -> None:
        later = []
        for part, value in tree.items():
            style = self.choose("header", "dotted", "inline") if isinstance(value, dict) and value else "inline"
            if style == "header" or (isinstance(value, list) and value and all(isinstance(v, dict) for v in value)):
                later.append((part, value))
                continue
            self.text += self.choose("", "\n", "# key = [\"'''\n", "  \t")
            self.of[(*path, part)] = self.line()
            if style == "dotted":
                for count, (inner, leaf) in enumerate(value.items()):
                    self.text += "\n" if count else ""
                    self.of[(*path, part, inner)] = self.line()
                    self.text += f"{self.key(part)} . {self.key(inner)}="
                    self.value(leaf, (*path, part, inner))
            else:
                self.text += f"{self.key(part)} = "
                self.value(value, (*path, part))
            self.text += self.choose("\n", " # a note\n", "\r\n")
        for part, value in later:
            inner = f"{header}.{self.key(part)}" if header else self.key(part)
            for position, element in enumerate(value) if isinstance(value, list) else [(None, value)]:
                here = (*path, part) if position is None else (*path, part, position)
                self.of.setdefault((*path, part), self.line())
                self.of[here] = self.line()
                self.text += f"[{inner}]\n" if position is None else f"[[{inner}]] # a note\n"
                self.table(element, here, inner)


KEYS = st.sampled_from(["a", "b1", "c", "d.e", 'f"g', "ü", "#", "["])
LEAVES = st.one_of(
    st.integers(-9, 9), st.booleans(), st.sampled_from(["", "x", "a\nb", "'", '"', "\\", "# no", "]]", "= 1"])
)
TREES = st.dictionaries(
    KEYS,
    st.recursive(
        LEAVES, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3))
    ),
    max_size=4,
)


@given(st.data())
def test_every_key_is_found_on_its_line(data: st.DataObject) -> None:
    """Whatever the style, each key of a text has the line it was written on."""
    writer = Writer(data.draw)
    writer.table(data.draw(TREES), (), "")
    parsed = tomllib.loads(writer.text)
    scanned = lines.Lines(writer.text)
    assert scanned.complete
    assert not scanned.twice
    assert {path: scanned.of.get(path) for path in writer.of} == writer.of
    assert set(paths(parsed)) == set(scanned.of)


def paths(value: object, path: lines.Path = ()) -> Iterator[lines.Path]:
    """Every path in a tree."""
    for part, inner in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield (*path, part)
        yield from paths(inner, (*path, part))


@given(st.text("\"'\\[]{}=,.#ab \n\r\t1", max_size=40))
def test_the_scanner_ends_on_any_text(text: str) -> None:
    """A text that is not TOML ends the walk, and a text that is TOML is walked to its end."""
    scanned = lines.Lines(text)
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    assert scanned.complete


# -- sources and who wins


def test_an_empty_file_gives_the_defaults_and_no_account(tmp_path: Path) -> None:
    """Zero accounts are allowed: files wait."""
    result = loaded(tmp_path, "")
    assert result.settings == Settings()
    assert result.settings.account is None
    assert set(result.origins.values()) == {"default"}
    assert result.files == (tmp_path / "mailrelayd.toml",)
    assert result.sha256 == hashlib.sha256(b"").hexdigest()


def test_later_files_win_key_by_key_and_the_environment_wins_over_all(tmp_path: Path) -> None:
    """Tables are merged, everything else is replaced, and each key knows where it was written."""
    result = loaded(
        tmp_path,
        "[spool]\nsettle = '1s'\nmax_recipients = 7\n" + ACCOUNT + "port = 1\n",
        {"MAILRELAYD__OUTBOUND__SMARTHOST__PORT": "2525", "UNRELATED": "x"},
        b="spool.settle = '3s'\noutbound.smarthost.description = 'last'\n",
        a="spool.settle = '2s'\noutbound.smarthost.connections = 2\n",
    )
    account = result.settings.account
    assert account is not None
    assert (account.name, account.port, account.connections, account.description) == ("smarthost", 2525, 2, "last")
    assert (result.settings.spool.settle, result.settings.spool.max_recipients) == (3.0, 7)
    assert {
        key: origin.replace(f"{tmp_path}/", "") for key, origin in result.origins.items() if origin != "default"
    } == {
        "spool.settle": "conf.d/b.toml:1",
        "spool.max_recipients": "mailrelayd.toml:3",
        "outbound.smarthost.host": "mailrelayd.toml:5",
        "outbound.smarthost.port": "environment MAILRELAYD__OUTBOUND__SMARTHOST__PORT",
        "outbound.smarthost.connections": "conf.d/a.toml:2",
        "outbound.smarthost.description": "conf.d/b.toml:2",
    }
    assert [path.name for path in result.files] == ["mailrelayd.toml", "a.toml", "b.toml"]
    content = b"".join(path.read_bytes() for path in result.files)
    assert result.sha256 == hashlib.sha256(content).hexdigest()


def test_an_account_can_be_written_in_the_environment_alone(tmp_path: Path) -> None:
    """Variables are typed by their key, in any case of letters, and reach every section."""
    result = loaded(
        tmp_path,
        '[outbound.Old-One]\nenabled = false\nhost = "old"\n',
        {
            "MAILRELAYD__OUTBOUND__SMARTHOST__HOST": "smtp.example.com",
            "mailrelayd__outbound__smarthost__strict_order": "yes",
            "MAILRELAYD__OUTBOUND__SMARTHOST__TLS__VERIFY": "False",
            "MAILRELAYD__OUTBOUND__OLD_ONE__PORT": "26",
            "MAILRELAYD__RETRY__MESSAGE": '["1s", "2m"]',
            "MAILRELAYD__RETRY__EXPIRE": "1d",
            "MAILRELAYD__SPOOL__MAX_MESSAGE_SIZE": "10MiB",
            "MAILRELAYD__SPOOL__MIN_FREE": "1024",
            "MAILRELAYD__SPOOL__MAX_RECIPIENTS": "5",
            "MAILRELAYD__NODE__NAME": "relay1",
            "MAILRELAYD__STATE__DIRECTORY": "/srv/state",
        },
    )
    settings = result.settings
    assert settings.account is not None
    assert settings.account.name == "smarthost"
    assert settings.account.strict_order
    assert not settings.account.tls.verify
    assert settings.outbound["Old-One"].port == 26
    assert settings.retry.message == (1.0, 120.0)
    assert settings.retry.expire == 86400.0
    assert (settings.spool.max_message_size, settings.spool.min_free, settings.spool.max_recipients) == (
        10 * 2**20,
        1024,
        5,
    )
    assert (settings.node.name, settings.state.directory) == ("relay1", Path("/srv/state"))


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("MAILRELAYD__SPOOL__SETLE", "1s", "unknown variable; did you mean MAILRELAYD__SPOOL__SETTLE?"),
        ("MAILRELAYD__SPOL__SETTLE", "1s", "unknown variable; did you mean MAILRELAYD__SPOOL?"),
        ("MAILRELAYD__OUTBOUND__X__PROT", "1", "unknown variable; did you mean MAILRELAYD__OUTBOUND__X__PORT?"),
        (
            "MAILRELAYD__",
            "1",
            f"unknown variable; MAILRELAYD__ may go on with: {SECTIONS.upper()}",
        ),
        ("MAILRELAYD__SPOOL", "1", "names a section: set one of its keys, such as MAILRELAYD__SPOOL__DIRECTORY"),
        ("MAILRELAYD__OUTBOUND__X", "1", "names a section: set one of its keys, such as MAILRELAYD__OUTBOUND__X__HOST"),
        ("MAILRELAYD__SPOOL__SETTLE__S", "1", "has too many parts: spool.settle is a key, not a section"),
        ("MAILRELAYD__SPOOL__MAX_RECIPIENTS", SECRET, "must be a whole number"),
        ("MAILRELAYD__SPOOL__MAX_RECIPIENTS", "0", "must be at least 1"),
        ("MAILRELAYD__RETRY__MESSAGE", "30s, x", f"must be a duration: {units.DURATION_FORMS}"),
        ("MAILRELAYD__LOG__PROTOCOL_DEBUG", SECRET, "must be true or false"),
        ("MAILRELAYD__SPOOL__SETTLE", SECRET, f"must be a duration: {units.DURATION_FORMS}"),
    ],
)
def test_a_wrong_variable_is_an_error_that_names_it(tmp_path: Path, variable: str, value: str, problem: str) -> None:
    """Any variable with the prefix counts, and what is wrong with it is said under its own name."""
    assert problems(tmp_path, "", {variable: value}) == [f"environment: {variable}: {problem}"]


def test_one_key_by_two_variables_is_refused(tmp_path: Path) -> None:
    """Which of the two should win cannot be known."""
    found = problems(tmp_path, "", {"MAILRELAYD__LOG__LEVEL": "info", "mailrelayd__log__level": "debug"})
    assert found == ["environment: mailrelayd__log__level: means the same as MAILRELAYD__LOG__LEVEL: keep one"]


# -- files that cannot be read


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    """A daemon without its configuration does not run on defaults."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "none.toml", {})
    assert caught.value.problems == [
        f"{tmp_path}/none.toml: there is no such file; create it, or name another one by --config FILE"
    ]


def test_a_directory_and_a_fifo_are_errors(tmp_path: Path) -> None:
    """Neither is waited for."""
    os.mkfifo(tmp_path / "fifo")
    for path, kind in ((tmp_path, "a directory"), (tmp_path / "fifo", "not a regular file")):
        with pytest.raises(ConfigError) as caught:
            load(path, {})
        assert caught.value.problems == [f"{path}: is {kind}; name a file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file_is_an_error(tmp_path: Path) -> None:
    """The message says whose fault it is."""
    (tmp_path / "m.toml").touch(mode=0)
    with pytest.raises(ConfigError, match=r"may not be read by this user"):
        load(tmp_path / "m.toml", {})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"[spool]\n# \xff\n", "mailrelayd.toml:2: syntax: this is not UTF-8"),
        (b'[spool]\nsettle = "1s\n', "mailrelayd.toml:2: syntax: a text is not closed on its line"),
        (b"[log]\nlevel = hunter2swordfish\n", "mailrelayd.toml:2: syntax: the value is missing or not closed"),
        (b"[log]\nlevel = 'info' hunter2swordfish\n", "mailrelayd.toml:2: syntax: something is missing or too much"),
        (b"[log]\nhunter2swordfish\n", "mailrelayd.toml:2: syntax: something is missing or too much"),
        (b'a = """hunter2swordfish\n\n', "mailrelayd.toml:1: syntax: a text is not closed"),
        (b"a = [1,\n2\n", "mailrelayd.toml:2: syntax: "),
        (b"a = " + b"[" * 5000, "mailrelayd.toml:1: syntax: "),
        (b"a = " + b"1" * 5000, "mailrelayd.toml:1: syntax: "),
        (
            b'[log]\nlevel = "info"\n\nlevel = "debug"\n',
            "mailrelayd.toml:4: log.level: is written twice, first on line 2",
        ),
        (b"[log]\n[spool]\n[log]\n", "mailrelayd.toml:3: log: is written twice, first on line 1"),
        (b'a = {b = 1, b = "hunter2swordfish"}\n', "mailrelayd.toml:1: a.b: is written twice, first on line 1"),
        (
            b'[log]\nlevel = "hunter2swordfish\\q"\n',
            "mailrelayd.toml:2: syntax: a backslash in a text is written twice",
        ),
    ],
)
def test_what_is_not_toml_is_told_with_its_line_and_nothing_of_the_line(
    tmp_path: Path, text: bytes, problem: str
) -> None:
    """The line may hold a secret, so only its number is told."""
    (found,) = problems(tmp_path, text)
    assert found.startswith(problem)
    assert SECRET not in found


def test_a_byte_order_mark_and_windows_line_ends_are_taken(tmp_path: Path) -> None:
    """Editors on Windows write both; lines are counted all the same."""
    result = loaded(tmp_path, b'\xef\xbb\xbf[log]\r\n\r\nlevel = "debug"\r\n')
    assert result.origins["log.level"] == f"{tmp_path}/mailrelayd.toml:3"


# -- keys


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            '[outbound.x]\nhost = "h"\nsecuirty = "tls"\n',
            ':3: outbound.x.secuirty: unknown key; did you mean "security"?',
        ),
        ("[outbund.x]\nhost = 1\n", ':1: outbund: unknown key; did you mean "outbound"?'),
        ("settle = '1s'\n", ":1: settle: unknown key here; it belongs in [spool]"),
        ("[log]\nfingerprint = ''\n", ":2: log.fingerprint: unknown key here; it belongs in [outbound.NAME.tls]"),
        ("[state]\nzzz.y = 1\n", ":2: state.zzz: unknown key; [state] may hold: directory"),
        (
            "_env_file = '/x'\n",
            f":1: _env_file: unknown key; the file may hold: {SECTIONS}",
        ),
        ("[inbounds.approvals]\nhost = 'h'\n", ':1: inbounds: unknown key; did you mean "inbound"?'),
        (
            '["a\\nb"]\n',
            f':1: "a\\nb": unknown key; the file may hold: {SECTIONS}',
        ),
        ("[[sinks]]\nname = 'x'\n", ":1: sinks: unknown key; the file may hold: node, spool, pickup"),
        (SINK + "webhok = ''\n", ':6: decisions[1].webhok: unknown key; did you mean "webhook"?'),
        (
            ACCOUNT + "tls = {verify = true,\tverfy = 1}\n",
            ':3: outbound.smarthost.tls.verfy: unknown key; did you mean "verify"',
        ),
        (ACCOUNT + "name = 'x'\n", ":3: outbound.smarthost.name: unknown key here; it belongs in [node]"),
        ("log = 3\n", ":1: log: must be a section: write [log]"),
        ("[[log]]\n", ":1: log: must be a section: write [log]"),
        ("outbound = []\n", ":1: outbound: must be a section: write [outbound.NAME]"),
        ("[outbound]\nhost = 'h'\n", ":2: outbound.host: must be a section: write [outbound.NAME]"),
        ("[outbound.'a b']\nhost = 'h'\n", ':1: outbound."a b": is no usable name'),
        ("[outbound.a__b]\nhost = 'h'\n", ":1: outbound.a__b: is no usable name"),
        ("[outbound.'']\nhost = 'h'\n", ':1: outbound."": is no usable name'),
        ("[spool]\nmax_recipients = '5'\n", ":2: spool.max_recipients: must be a whole number, without quotes"),
        ("[spool]\nmax_recipients = true\n", ":2: spool.max_recipients: must be a whole number, without quotes"),
        ("[spool]\nmax_message_size = 0\n", ":2: spool.max_message_size: must be more than 0"),
        ("[spool]\nsettle = 2\n", ":2: spool.settle: must be a duration: write a number and a unit in quotes"),
        ("[spool]\nsettle = 2.0\n", ":2: spool.settle: must be a duration"),
        ("[spool]\ndirectory = 'var/spool'\n", ":2: spool.directory: must be an absolute path"),
        ("[spool]\ndirectory = ''\n", ":2: spool.directory: must be a path in quotes"),
        ("[spool]\nbackend = 'postgres'\n", ":2: spool.backend: this version keeps its queue on disk only"),
        (
            "[spool]\nenvelope = 'pick'\n",
            ':2: spool.envelope: must be one of "headers", "pickup"; did you mean "pickup"?',
        ),
        ("[retry]\nmessage = []\n", ":2: retry.message: must hold at least one value"),
        ("[retry]\nmessage = '30s'\n", ':2: retry.message: must be a list in brackets, such as ["30s", "1m"]'),
        ("[retry]\nmessage = ['1s',\n'x']\n", ":3: retry.message[2]: must be a duration"),
        ("[retry]\nprobe = '0s'\n", ":2: retry.probe: must be longer than 0"),
        ("[node]\nname = 'a/b'\n", ":2: node.name: must be a host name"),
        ("[node]\nname = 'a..b'\n", ":2: node.name: must be a host name"),
        ("[log]\nlevel = 1\n", ':2: log.level: must be one of "debug", "info", "warning", "error"'),
        ("[log]\nprotocol_debug = 'true'\n", ":2: log.protocol_debug: must be true or false, without quotes"),
        (ACCOUNT + "description = 1\n", ":3: outbound.smarthost.description: must be text in quotes"),
        (ACCOUNT + "description = 'a\\u0007'\n", None),
        (ACCOUNT + 'description = "a\\u0007"\n', ":3: outbound.smarthost.description: holds a control character"),
        (ACCOUNT + "port = 65536\n", ":3: outbound.smarthost.port: must be at most 65535"),
        (ACCOUNT + "window = 100\n", None),
        (ACCOUNT + "window = 101\n", ":3: outbound.smarthost.window: must be at most 100"),
        (ACCOUNT + "window = 0\n", ":3: outbound.smarthost.window: must be at least 1"),
        (
            ACCOUNT + "user = 'a@example.com'\nauth = 'oauth2'\n",
            ':1: outbound.smarthost.oauth: is missing: auth is "oauth2"',
        ),
        (ACCOUNT + "password = 5\n", ":3: outbound.smarthost.password: must be text in quotes"),
        (
            ACCOUNT + "tls.minimum = '1'\n",
            ':3: outbound.smarthost.tls.minimum: must be one of "1.0", "1.1", "1.2", "1.3"',
        ),
        (ACCOUNT + "tls.fingerprint = 'AB:CD'\n", ":3: outbound.smarthost.tls.fingerprint: must be the SHA-256"),
        (ACCOUNT + "tls.ca_file = 'ca.pem'\n", ":3: outbound.smarthost.tls.ca_file: must be an absolute path"),
        (
            ACCOUNT + "tls.ca_file = '/no/ca.pem'\n",
            ":3: outbound.smarthost.tls.ca_file: names a file that does not exist",
        ),
    ],
)
def test_a_wrong_key_is_told_with_its_line_and_the_cure(tmp_path: Path, text: str, problem: str | None) -> None:
    """One fault gives one line: FILE:LINE: key: what is wrong, how to fix."""
    if problem is None:
        assert loaded(tmp_path, text)
        return
    (found,) = problems(tmp_path, text)
    assert found.startswith(f"mailrelayd.toml{problem}")


@pytest.mark.parametrize(
    ("host", "problem"),
    [
        ("smtp.example.com", ""),
        ("localhost", ""),
        ("192.0.2.1", ""),
        ("2001:db8::1", ""),
        ("xn--bcher-kva.example", ""),
        ("fe80::1%eth0", ""),
        ("fe80::1%a\\nb", "must be a name only"),
        ("smtp://smtp.example.com", "must be a name only"),
        ("smtp.example.com:587", "must be a name only: the port is the key port"),
        ("[2001:db8::1]", "an IPv6 address is written without brackets"),
        ("bücher.example", "must be written in ASCII"),
        ("a b", "must be a host name"),
        ("a..b", "must be a host name"),
        ("a\\nb", "must be a host name"),
        ("192.0.2.256", "looks like an IP address and is none"),
    ],
)
def test_a_host_is_a_name_or_an_address(tmp_path: Path, host: str, problem: str) -> None:
    """What people paste from other programs is told apart."""
    text = f'[outbound.x]\nhost = "{host}"\n'
    if problem:
        (found,) = problems(tmp_path, text)
        assert found.startswith(f"mailrelayd.toml:2: outbound.x.host: {problem}")
    else:
        assert loaded(tmp_path, text).settings.outbound["x"].host == host


@pytest.mark.parametrize(
    ("address", "good"),
    [
        ("noreply@example.com", True),
        ("a.b+c=d/e@localhost", True),
        ("jörg@bücher.example", True),
        ("Me <noreply@example.com>", False),
        ("a@b, c@d", False),
        ("a@b c@d", False),
        ("a@", False),
        ("@example.com", False),
        ("a..b@example.com", False),
        ("a@b@example.com", False),
        ("noreply", False),
        ("a@example.com\\r\\nRCPT TO:<x@y>", False),
        ("a@example.com.", False),
        ("a\\u0000@example.com", False),
        ("x" * 65 + "@example.com", False),
    ],
)
def test_from_address_is_one_bare_address(tmp_path: Path, address: str, good: bool) -> None:
    """It goes into MAIL FROM as it stands, so nothing else may stand in it."""
    text = ACCOUNT + f'from_address = "{address}"\n'
    if good:
        assert loaded(tmp_path, text).settings.outbound["smarthost"].from_address == address
    else:
        (found,) = problems(tmp_path, text)
        assert found.startswith("mailrelayd.toml:3: outbound.smarthost.from_address: ")


# -- accounts


@pytest.mark.parametrize(
    ("lines_", "port", "auth"),
    [
        ("", 587, "none"),
        ("security = 'none'\n", 25, "none"),
        ("security = 'tls'\n" + CREDENTIALS, 465, "password"),
        ("security = 'auto'\n", None, "none"),
        ("security = 'auto'\nport = 26\n", 26, "none"),
        (CREDENTIALS + "auth = 'none'\n", 587, "none"),
    ],
)
def test_port_follows_security_and_auth_follows_user(tmp_path: Path, lines_: str, port: int | None, auth: str) -> None:
    """Both defaults depend on another key."""
    account = loaded(tmp_path, ACCOUNT + lines_).settings.account
    assert account is not None
    assert (account.port, account.auth) == (port, auth)
    assert account.ports == ((465, 587, 25) if port is None else (port,))


@pytest.mark.parametrize(
    ("lines_", "found"),
    [
        ("user = 'u'\n", [":1: outbound.smarthost.password: is missing"]),
        ("password = 'p'\n", [":1: outbound.smarthost.user: is missing"]),
        (
            "auth = 'password'\n",
            [":1: outbound.smarthost.password: is missing", ":1: outbound.smarthost.user: is missing"],
        ),
        (CREDENTIALS + "security = 'none'\n", [':5: outbound.smarthost.security: is "none", and a login is never']),
        (
            CREDENTIALS + "allow_plaintext = true\n",
            [":5: outbound.smarthost.allow_plaintext: is true, and a login is"],
        ),
        (
            "security = 'auto'\nallow_plaintext = true\ntls.fingerprint = '" + "ab" * 32 + "'\n",
            [":4: outbound.smarthost.allow_plaintext: is true, and in plain text no server can show"],
        ),
        (
            "window = 100\nconnections = 21\n",
            [":3: outbound.smarthost.window: times connections is above 2000 messages"],
        ),
        (
            "strict_order = true\nconnections = 2\n",
            [":4: outbound.smarthost.connections: is above 1, and strict_order"],
        ),
        ("rewrite_from = 'always'\n", [":1: outbound.smarthost.from_address: is missing: rewrite_from"]),
        ("tls.certificate = '/c'\n", [":3: outbound.smarthost.tls.key: is missing"]),
        ("tls.key = '/k'\n", [":3: outbound.smarthost.tls.certificate: is missing"]),
        ("tls.minimum = '1.3'\ntls.maximum = '1.2'\n", [":4: outbound.smarthost.tls.maximum: is below minimum"]),
        ("enabled = false\nuser = 'u'\n", [":1: outbound.smarthost.password: is missing"]),
    ],
)
def test_a_half_configured_account_is_an_error(tmp_path: Path, lines_: str, found: list[str]) -> None:
    """What keys must agree on is told where the wrong or missing key belongs, also for a disabled account."""
    told = problems(tmp_path, ACCOUNT + lines_)
    assert len(told) == len(found)
    for actual, start in zip(told, found, strict=True):
        assert actual.startswith(f"mailrelayd.toml{start}")


def test_an_account_without_host_is_an_error_at_its_section(tmp_path: Path) -> None:
    """A section that was begun and not finished is not taken for a complete one."""
    (found,) = problems(tmp_path, "\n[outbound.x]\nport = 25\n")
    assert found.startswith("mailrelayd.toml:2: outbound.x.host: is missing: write the server's name")


def test_two_enabled_accounts_are_an_error_that_names_both_places(tmp_path: Path) -> None:
    """At most one sends; the others are written with enabled = false."""
    text = "[outbound.a]\nhost = 'a'\n[outbound.b]\nhost = 'b'\nenabled = true\n"
    text += "[outbound.c]\nhost = 'c'\nenabled = false\n"
    (found,) = problems(tmp_path, text)
    assert found == (
        'mailrelayd.toml:5: outbound.b.enabled: "a" and "b" are both enabled: set enabled = false in all but one '
        '("a" at mailrelayd.toml:1, "b" at mailrelayd.toml:3)'
    )


def test_everything_is_told_at_once_in_the_order_it_is_written(tmp_path: Path) -> None:
    """Types, unknown keys, what keys must agree on, other files and variables: one run shows all of it."""
    found = problems(
        tmp_path,
        "[spool]\nsettle = 1\nx = 1\n[outbound.a]\nuser = 'u'\nport = 0\n"
        "[outbound.b]\nhost = 'b'\ntls.key = '/k'\nconnections = 0\n",
        {"MAILRELAYD__LOG__LEVEL": "loud"},
        more="[log]\nformat = 'xml'\n",
    )
    assert [problem.split(": ")[:2] for problem in found] == [
        ["mailrelayd.toml:2", "spool.settle"],
        ["mailrelayd.toml:3", "spool.x"],
        ["mailrelayd.toml:4", "outbound.a.host"],
        ["mailrelayd.toml:4", "outbound.a.password"],
        ["mailrelayd.toml:6", "outbound.a.port"],
        ["mailrelayd.toml:7", "outbound.b.enabled"],
        ["mailrelayd.toml:9", "outbound.b.tls.certificate"],
        ["mailrelayd.toml:10", "outbound.b.connections"],
        ["conf.d/more.toml:2", "log.format"],
        ["environment", "MAILRELAYD__LOG__LEVEL"],
    ]


def test_a_fingerprint_is_kept_without_colons(tmp_path: Path) -> None:
    """Both ways openssl prints it are taken."""
    digest = hashlib.sha256(b"x").hexdigest()
    pairs = ":".join(digest[at : at + 2] for at in range(0, 64, 2)).upper()
    for written in (digest, pairs):
        settings = loaded(tmp_path, ACCOUNT + f"tls.fingerprint = '{written}'\n").settings
        assert settings.outbound["smarthost"].tls.fingerprint == digest


# -- secrets


@pytest.mark.parametrize("key", [".".join(key) for key in known_keys()])
def test_no_error_repeats_a_value(tmp_path: Path, key: str) -> None:
    """A secret under any wrong key, as any wrong type, is not told to the terminal or the journal."""
    key = key.replace("NAME", "smarthost")
    for value in (f'"{SECRET}\\u0000"', f'["{SECRET}"]', f'{{a = "{SECRET}"}}', f'"{SECRET}@{SECRET}:{SECRET}"'):
        found = problems(tmp_path, f"{key} = {value}\nbogus = 1\n")
        assert SECRET not in str(found)
    variable = "MAILRELAYD__" + key.replace(".", "__").upper()
    assert SECRET not in str(problems(tmp_path, "bogus = 1\n", {variable: f"{SECRET}\n"}))


def test_the_settings_do_not_show_the_password(tmp_path: Path) -> None:
    """Neither as text, nor in a traceback's repr, nor as written by `config show`."""
    result = loaded(tmp_path, ACCOUNT + f'user = "u"\npassword = "{SECRET}"\n')
    assert result.settings.account is not None
    assert result.settings.account.password.reveal() == SECRET
    for shown in (repr(result), str(result.settings), result.settings.model_dump_json(), str(flatten(result.settings))):
        assert SECRET not in shown
    assert flatten(result.settings, written=True)["outbound.smarthost.password"] == "********"


# -- reload


def test_diff_names_the_keys_that_changed_and_no_value(tmp_path: Path) -> None:
    """A section that comes or goes is named once, a changed secret by its key."""
    old = loaded(tmp_path, ACCOUNT + 'user = "u"\npassword = "one"\n').settings
    new = loaded(
        tmp_path, "spool.directory = '/srv'\nnode.name = 'n'\n" + ACCOUNT + 'user = "u"\npassword = "two"\n'
    ).settings
    assert diff(old, old) == []
    assert diff(old, new) == ["node.name", "outbound.smarthost.password", "spool.directory"]
    assert needs_restart(old, new) == ["node.name", "spool.directory"]
    assert diff(old, Settings()) == ["outbound.smarthost"]
    assert diff(Settings(), new) == ["node.name", "outbound.smarthost", "spool.directory"]


# -- the sample


def uncommented() -> str:
    """The sample with every default written out."""
    return re.sub(r"^#(?=\[|[a-z_\"@.]+ = )", "", SAMPLE.read_text(), flags=re.MULTILINE)


def test_the_sample_loads_as_it_is_shipped() -> None:
    """It changes nothing: every key in it is commented out."""
    assert load(SAMPLE, {}).settings == Settings()


def test_the_sample_names_every_key_with_its_default(tmp_path: Path) -> None:
    """Uncommented it is valid, complete, and equal to the defaults but for the three keys an account needs."""
    result = loaded(tmp_path, uncommented())
    written = {key for key, origin in result.origins.items() if origin != "default"}
    names = {"pickup": "erp", "outbound": "smarthost", "inbound": "approvals"}
    keys = {".".join(key).replace("NAME", names.get(key[0], "")).replace(".[", "[") for key in known_keys()}
    keys -= {key for key in keys if key.startswith("inbound_defaults.")}
    free = {"approvals.delegates", "outbound.smarthost.properties", "inbound.approvals.properties"}
    assert written == keys - free | {'approvals.delegates."boss@example.com"'}
    account = result.settings.account
    assert account is not None
    default = OutboundAccount(host=account.host, user=account.user, password=account.password, oauth=account.oauth)
    assert account.model_dump() == default.model_dump()
    assert (account.host, account.user) == ("smtp.example.com", "relay")
    sections = ["approvals", "decisions", "inbound.approvals", "outbound.smarthost", "pickup.erp"]
    assert diff(result.settings, Settings()) == sections


def test_a_key_is_written_the_way_the_file_writes_it() -> None:
    """Parts that are no bare keys stand in quotes, escaped; positions count from 1."""
    assert name(("retry", "message", 0)) == "retry.message[1]"
    assert name(("a b", "c\x1b")) == '"a b"."c\\u001b"'


def test_what_staging_machines_and_producers_need_is_read(tmp_path: Path) -> None:
    """Rates, patterns, producers' folders and the socket of syslog come out as what the program works with."""
    settings = loaded(
        tmp_path,
        "[pickup.erp]\ngroup = 'erp'\nenvelope = 'pickup'\nallowed_senders = ['@example.com']\n"
        "[guard]\nrate = '30/min'\nproducer_rate = '2/s'\ndeny_recipients = ['*@*.example.org', 'a@example.com']\n"
        "[log]\nsyslog = true\n",
    ).settings
    assert settings.pickup["erp"].allowed_senders == ("@example.com",)
    assert settings.guard.rate == units.Rate(30, 60.0)
    assert settings.guard.producer_rate == units.Rate(2, 1.0)
    assert settings.log.syslog == "/dev/log"
    written = flatten(settings, written=True)
    assert (written["guard.rate"], written["guard.producer_rate"]) == ("30/min", "2/s")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[guard]\nrate = '30'\n", ":2: guard.rate: must be a rate"),
        ("[guard]\nrate = '0/s'\n", ":2: guard.rate: must be a rate"),
        ("[guard]\nallow_recipients = ['example.com']\n", ":2: guard.allow_recipients[1]: holds what is none of"),
        ("[guard]\nallow_recipients = ['a*@example.com']\n", ":2: guard.allow_recipients[1]: holds what is none of"),
        ("[pickup.new]\n", ":1: pickup.new: cannot be the name of a producer"),
        ("[pickup.erp]\ngroup = 'a b'\n", ":2: pickup.erp.group: must be the name of a group"),
        ("[submit]\ndefault_domain = '@example.com'\n", ":2: submit.default_domain: must be a domain"),
        ("[log]\nsyslog = 'dev/log'\n", ":2: log.syslog: must be an absolute path"),
        ("[log]\nsyslog = 1\n", ":2: log.syslog: must be true, false, or the path"),
    ],
)
def test_what_cannot_be_meant_there_is_told(tmp_path: Path, text: str, complaint: str) -> None:
    """Each with its line and the cure."""
    with pytest.raises(ConfigError) as error:
        loaded(tmp_path, text)
    assert complaint in str(error.value)


@pytest.mark.parametrize(
    ("pattern", "address", "covered"),
    [
        ("a@example.com", "A@Example.COM", True),
        ("@example.com", "anybody@example.com", True),
        ("*@example.com", "anybody@sub.example.com", False),
        ("@*.example.com", "x@a.b.example.com", True),
        ("@*.example.com", "x@example.com", False),
        ("@*.example.com", "x@notexample.com", False),
        ("a@*.example.com", "b@x.example.com", False),
        ("*", "who@ever.example", True),
        ("@example.com", '"x@example.org"@example.com', True),
        ("@example.com", '"@example.com"@example.org', False),
        ("@b\u00fccher.example", "x@B\u00fccher.example", True),
    ],
)
def test_a_pattern_covers_an_address_or_a_domain(pattern: str, address: str, covered: bool) -> None:
    """Whole parts only, ASCII letters without case."""
    assert valid_pattern(pattern) is None
    assert matches(address, [pattern]) is covered


LOGIN = "[outbound.smarthost]\nhost = 'h'\nuser = 'u'\npassword = 'p'\nfrom_address = 'noreply@example.com'\n"
MAILBOX = "[inbound.answers]\nhost = 'i'\n"
ASKING = "[approvals]\nsecret = 'file:/s'\nsender_check = 'token-only'\n"


def test_the_sections_of_the_approval_loop_are_read(tmp_path: Path) -> None:
    """A mailbox's login is the outbound account's, its defaults are [inbound_defaults]; sinks keep their order."""
    text = (
        "[inbound_defaults]\npoll_interval = '1m'\nbatch_size = 7\n" + MAILBOX + "batch_size = 8\n"
        "process_after = 2026-01-01T00:00:00Z\n" + LOGIN + ASKING + "remind = ['2d']\n"
        "[approvals.delegates]\n'boss@example.com' = ['deputy@example.com']\n" + SINK + SINK.replace("'x'", "'y'")
    )
    result = loaded(tmp_path, text)
    settings = result.settings
    (mailbox,) = settings.mailboxes
    assert (mailbox.name, mailbox.port, mailbox.poll_interval, mailbox.batch_size) == ("answers", 993, 60.0, 8)
    assert mailbox.process_after == datetime(2026, 1, 1, tzinfo=UTC)
    assert settings.asking is not None
    assert settings.asking.delegates == {"boss@example.com": ("deputy@example.com",)}
    assert settings.reply_address == "noreply@example.com"
    assert [sink.name for sink in settings.decisions] == ["x", "y"]
    assert result.origins["inbound.answers.poll_interval"] == (
        f"{result.origins['inbound_defaults.poll_interval']} (inbound_defaults.poll_interval)"
    )
    assert flatten(settings, written=True)["approvals.secret"] == ["file:/s"]
    assert flatten(settings, written=True)["decisions[2].name"] == "y"


@pytest.mark.parametrize(
    ("text", "complaints"),
    [
        (ASKING + LOGIN, [":1: approvals: are enabled, and nobody reads the answers"]),
        ("[approvals]\nenabled = false\n", []),
        (
            ASKING + LOGIN.replace("from_address = 'noreply@example.com'\n", "") + MAILBOX,
            [":1: approvals: need an address"],
        ),
        (
            "[approvals]\nreply_address = 'a@example.com'\n" + MAILBOX + LOGIN,
            [
                ":1: approvals.secret: is missing",
                ":1: approvals.sender_check: is missing, and there is no safe default",
            ],
        ),
        (ASKING.replace("token-only", "authentication-results") + MAILBOX + LOGIN, [":1: approvals.authserv_id: is"]),
        (
            ASKING + "reply_address = 'twenty.octets.are.too.many@example.com'\n" + MAILBOX + LOGIN,
            [":4: approvals.reply_address: has more than 19 bytes"],
        ),
        (ASKING + "approve = ['Jo']\nreject = ['jo']\n" + MAILBOX + LOGIN, [":5: approvals.reject: and approve share"]),
        (MAILBOX, [':1: inbound: "answers" has no user']),
        (MAILBOX + "user = 'u'\n", [':1: inbound: "answers" has no password']),
        (MAILBOX + "security = 'none'\n" + LOGIN, [':3: inbound.answers.security: is "none", and a password']),
        (MAILBOX + "protocol = 'pop3'\n" + LOGIN, [':3: inbound.answers.protocol: cannot be "pop3"']),
        (MAILBOX + "after = 'move:inbox'\n" + LOGIN, [":3: inbound.answers.after: moves mail into the folder that"]),
        (MAILBOX + "after = 'move:'\n" + LOGIN, [':3: inbound.answers.after: must be "delete"']),
        (
            MAILBOX + "after = 'keep'\ndelete_after = '1d'\n" + LOGIN,
            [":4: inbound.answers.delete_after: has a meaning"],
        ),
        (
            MAILBOX + "process_after = 2026-01-01T00:00:00\n" + LOGIN,
            [":3: inbound.answers.process_after: must be a date"],
        ),
        (
            "[inbound_defaults]\npoll_interval = '0s'\n" + MAILBOX + LOGIN,
            [":2: inbound_defaults.poll_interval: must be"],
        ),
        (
            "[[decisions]]\nname = 'x'\nmatch = '*'\n",
            [":1: decisions[1].approvers: is", ":1: decisions[1].producers: is"],
        ),
        (SINK + "webhook = 'https://h/x'\n", [":1: decisions[1].secret: is missing"]),
        (SINK + "webhook = 'ftp://h/x'\n", [":6: decisions[1].webhook: must be an address"]),
        (SINK + "command = ['on-decision']\n", [":6: decisions[1].command: must be an absolute path"]),
        (SINK + "command = ['/x']\ndirectory = '/y'\n", [":2: decisions[1].name: has more than one of"]),
        (SINK + SINK, ['decisions: has two tables with the name "x"']),
    ],
)
def test_an_approval_loop_that_cannot_work_is_told(tmp_path: Path, text: str, complaints: list[str]) -> None:
    """Before anything starts, each with its line."""
    found = problems(tmp_path, text) if complaints else []
    assert complaints or loaded(tmp_path, text)
    assert len(found) == len(complaints), found
    for complaint in complaints:
        assert any(complaint in one for one in found), found


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("outbound." + ".".join(["a"] * 5000) + " = 1\n", "too deep to be read"),
        ("[outbound.a]\n" + "".join(f"k{number} = 1\n" for number in range(10_001)), "has more than 10000 keys"),
    ],
)
def test_what_is_no_configuration_is_told_at_once(tmp_path: Path, text: str, told: str) -> None:
    """No depth ends the program, and no number of keys keeps it busy."""
    path = tmp_path / "mailrelayd.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told):
        load(path, {})
