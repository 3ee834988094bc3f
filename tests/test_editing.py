"""Changes in TOML: exactly what was meant changes, and what stands around it stays."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrelayd.config.editing import Edit, EditError, Put, Take, applied, edited, without_empty
from mailrelayd.config.literals import key, literal, quoted

FILE = """\
# The relay.
[node]
name = "a"

# The smarthost.
[outbound.smarthost]  # head
host = "smtp.example.com"   # why
  port = 587
tls.verify = true # dotted

# The old one, until March.
[outbound.old]
host = "old"
# port = 25

# ---- in ----

# The mailbox.
[inbound.answers]
host = "imap.example.com"
# The end.
"""


@pytest.mark.parametrize(
    ("edit", "old", "new"),
    [
        (Put(("outbound", "smarthost", "port"), 465), "port = 587\n", "port = 465\n"),
        (Put(("outbound", "smarthost", "host"), "h"), '"smtp.example.com"   # why', '"h"   # why'),
        (Put(("outbound", "smarthost", "tls", "verify"), False), "verify = true # dotted", "verify = false # dotted"),
        (Put(("outbound", "smarthost", "user"), "u"), "# dotted\n", '# dotted\nuser = "u"\n'),
        (Put(("inbound", "answers", "port"), 1), 'imap.example.com"\n', 'imap.example.com"\nport = 1\n'),
        (Take(("outbound", "smarthost", "port")), "  port = 587\n", ""),
        (Take(("outbound", "smarthost", "tls")), "tls.verify = true # dotted\n", ""),
        (
            Take(("outbound", "old")),
            '# The old one, until March.\n[outbound.old]\nhost = "old"\n# port = 25\n\n',
            "",
        ),
        (
            Take(("inbound", "answers")),
            '\n# The mailbox.\n[inbound.answers]\nhost = "imap.example.com"\n# The end.\n',
            "",
        ),
        (Take(("outbound", "smarthost")), FILE[FILE.index("# The smart") : FILE.index("# The old")], ""),
        (
            Put(("outbound", "new"), {"host": "n", "tls": {"verify": True}}),
            "# port = 25\n",
            '# port = 25\n\n[outbound.new]\nhost = "n"\n\n[outbound.new.tls]\nverify = true\n',
        ),
        (Put(("pickup", "erp"), {}), "# The end.\n", "# The end.\n\n[pickup.erp]\n"),
        (
            Put(("outbound", "old", "oauth"), {"tenant_id": "t"}),
            "# port = 25\n",
            '# port = 25\n\n[outbound.old.oauth]\ntenant_id = "t"\n',
        ),
    ],
)
def test_an_edit_changes_its_own_lines_only(edit: Edit, old: str, new: str) -> None:
    """Comments stay with what they are about; with Windows line ends too."""
    assert FILE.count(old) == 1
    assert edited(FILE, [edit]) == FILE.replace(old, new)
    assert edited(FILE.replace("\n", "\r\n"), [edit]) == FILE.replace(old, new).replace("\n", "\r\n")


@pytest.mark.parametrize(
    ("text", "edit", "new"),
    [
        ('outbound.a.host = "x"\n', Put(("outbound", "a", "host"), "y"), 'outbound.a.host = "y"\n'),
        (
            '[outbound]\na = {host = "x"} # c\n',
            Put(("outbound", "a", "host"), "y"),
            '[outbound]\na = {host = "y"} # c\n',
        ),
        ('[outbound.a]\nhost = "x"', Put(("outbound", "a", "port"), 1), '[outbound.a]\nhost = "x"\nport = 1\n'),
        ("", Put(("outbound", "a"), {"host": "x"}), '[outbound.a]\nhost = "x"\n'),
        (
            "[outbound.a.tls]\nverify = true\n[outbound.a]\nx = [\n  1, # one\n]\n[outbound.b]\n",
            Put(("outbound", "a", "port"), 1),
            "[outbound.a.tls]\nverify = true\n[outbound.a]\nx = [\n  1, # one\n]\nport = 1\n[outbound.b]\n",
        ),
        (
            "#[outbound.x]\n#host = 1\n[outbound.a]\nhost = 'x'\n#port = 1\n\n# Next.\n[log]\n",
            Take(("outbound", "a")),
            "#[outbound.x]\n#host = 1\n\n# Next.\n[log]\n",
        ),
        (
            "[node]\n#name = 'x'\n[outbound.a]\nhost = 'x'\n# Next.\n[log]\n",
            Take(("outbound", "a")),
            "[node]\n#name = 'x'\n# Next.\n[log]\n",
        ),
        ("[[decisions]]\nname = 'a'\n", Put(("decisions",), [{"name": "b"}]), '[[decisions]]\nname = "b"\n'),
    ],
)
def test_the_way_a_file_is_written_is_kept(text: str, edit: Edit, new: str) -> None:
    """Dotted keys and inline tables stay what they are; commented settings in front of a table are not its remarks."""
    assert edited(text, [edit]) == new


def test_windows_line_ends_stay_whichever_way_a_text_is_changed() -> None:
    """Also where the change is within a line."""
    text = 'outbound.a = {host = "x"}\r\nlog.level = "info"\r\n'
    result = edited(text, [Put(("outbound", "a", "host"), "y"), Put(("outbound", "b"), {"host": "z"})])
    assert "\n" not in result.replace("\r\n", "")


def test_what_cannot_be_done_is_refused() -> None:
    """A person must do it; the error names the key."""
    with pytest.raises(EditError, match=r"a\.b\.c"):
        edited("a = 1\n", [Put(("a", "b", "c"), 1)])


PARTS = st.sampled_from(["a", "b", "tls", 'q"x', "d.e", "ü"])
VALUES = st.one_of(
    st.integers(-9, 9),
    st.booleans(),
    st.text("ab\"'\\\n\x7f#[]=é", max_size=5),
    st.lists(st.integers(0, 3), max_size=3),
)
SECTIONS = st.dictionaries(PARTS, VALUES | st.dictionaries(PARTS, VALUES, min_size=1, max_size=2), max_size=3)
TREES = st.dictionaries(
    st.sampled_from(["outbound", "inbound"]), st.dictionaries(PARTS, SECTIONS, max_size=3), max_size=2
)


def laid_out(tree: dict[str, Any], data: st.DataObject) -> tuple[str, list[str]]:
    """A tree as somebody might write it, with remarks in between; and the remarks."""
    remarks: list[str] = []
    lines: list[str] = []

    def remark(group: str, name: str) -> None:
        if data.draw(st.booleans()):
            remarks.append(f"# {group}/{name}/{len(remarks)}")
            lines.append(remarks[-1])

    for group, sections in tree.items():
        for name, section in sections.items():
            if data.draw(st.booleans()):
                lines.append("")
            remark(group, name)
            lines.append(f"[{group}.{key(name)}]")
            tables = {}
            for part, value in section.items():
                if isinstance(value, dict) and data.draw(st.booleans()):
                    tables[part] = value
                elif isinstance(value, dict) and data.draw(st.booleans()):
                    lines += [f"{key(part)}.{key(inner)} = {literal(one)}" for inner, one in value.items()]
                else:
                    lines.append(f"{key(part)} = {literal(value)}")
            for part, value in tables.items():
                remark(group, name)
                lines.append(f"[{group}.{key(name)}.{key(part)}]")
                lines += [f"{key(inner)} = {literal(one)}" for inner, one in value.items()]
    return "\n".join(lines) + "\n", remarks


@given(TREES, SECTIONS, st.data())
def test_any_edit_gives_what_was_meant_and_loses_no_other_remark(
    tree: dict[str, Any], section: dict[str, Any], data: st.DataObject
) -> None:
    """Whatever the file looks like; a remark may go with the section it stands in, with no other."""
    text, remarks = laid_out(tree, data)
    assert without_empty(tomllib.loads(text)) == without_empty(tree)
    group, name, part = data.draw(st.sampled_from(["outbound", "inbound"])), data.draw(PARTS), data.draw(PARTS)
    edits: list[Edit] = [Put((group, name), section), Put((group, name, part), 7)]
    edit = data.draw(st.sampled_from([*edits, Take((group, name)), Take((group, name, part))]))
    if isinstance(edit, Put) and not isinstance(edit.value, int) and name in tree.get(group, {}):
        text, tree = edited(text, [Take((group, name))]), applied(tree, Take((group, name)))
    if isinstance(edit, Put) or tree.get(group, {}).get(name, {}).get(part) is not None or edit == Take((group, name)):
        if isinstance(edit, Take) and name not in tree.get(group, {}):
            return
        result = edited(text, [edit])
        assert without_empty(tomllib.loads(result)) == without_empty(applied(tree, edit))
        assert [one for one in remarks if one not in result and not one.startswith(f"# {group}/{name}/")] == []


@given(VALUES | SECTIONS)
def test_literals_are_read_back(value: object) -> None:
    """On one line, whatever the value."""
    text = f"x = {literal(value)}"
    assert "\n" not in text
    assert tomllib.loads(text) == {"x": value}
    assert quoted("\x7f") == '"\\u007f"'
